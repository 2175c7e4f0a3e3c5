"""A limit that is broken is seen, printed and told in the exit code."""

import sys

import pytest

from tests.bench import __main__ as bench
from tests.bench import signing
from tests.bench.figures import Figure, number


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure("bytes", 5, "B", most=5), True),
        (Figure("bytes", 5.01, "B", most=5), False),
        (Figure("records", 5, "/s", least=5), True),
        (Figure("records", 4.99, "/s", least=5), False),
        (Figure("losses", 1, "", most=0), False),
    ],
)
def test_a_figure_beyond_its_limit_is_over(figure: Figure, holds: bool) -> None:
    assert figure.holds is holds
    assert figure.line().endswith("  ok" if holds else "  OVER")


def test_a_figure_stands_beside_its_limit() -> None:
    words = Figure("card: written a day", 9.89, "MB", most=15).line().split()
    assert words == ["card:", "written", "a", "day", "9.89", "MB", "<=", "15", "ok"]


def test_what_another_program_does_has_no_limit() -> None:
    figure = Figure("script: pulses lost", 200, "")
    assert figure.holds
    assert figure.line().endswith("compare")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.054, "0.05"), (9.89, "9.89"), (21.42, "21.4"), (109.99, "110"), (20271, "20,271")],
)
def test_a_number_has_three_digits_or_all_before_the_point(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(("most", "code"), [(1, 1), (2, 0)])
def test_one_broken_limit_fails_the_run(
    most: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [Figure("first", 2, "B", most=most), Figure("last", 1, "B", most=1)]
    monkeypatch.setattr(signing, "figures", lambda: iter(measured))
    monkeypatch.setattr(sys, "argv", ["bench", "signing"])
    assert bench.main() == code
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:2]] == ["first", "last"]
    assert shown[2].endswith(f"limits broken: {code}")
