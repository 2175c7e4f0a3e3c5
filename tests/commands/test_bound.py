"""`cryptometer bound`: what it prints and refuses; the main path as a real process."""

import subprocess
import sys
from fractions import Fraction

import pytest

from cryptometer.commands.bound import check_ratings, describe, step_seconds
from cryptometer.commands.main import main
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import Ratings, Side

# reference: MID MI-003 table 2, first row; P_min at power factor 1 and 15 minutes.
# class, phases, I_min, P_min W, bound Wh, pulses at 1000, at 10000, smallest constant
TABLE = [
    ("B", 3, "0.25", "172.5", "0.8625", 0, 8, 1160),
    ("B", 1, "0.25", "57.5", "0.2875", 0, 2, 3479),
    ("A", 3, "0.25", "172.5", "1.5094", 1, 15, 663),
    ("C", 3, "0.15", "103.5", "0.2588", 0, 2, 3865),
    ("C", 1, "0.15", "34.5", "0.0862", 0, 0, 11595),
]


def bound(*more: str, constant: str = "10000", **changes: str) -> list[str]:
    given = {"class": "B", "phases": "3", "voltage": "230", "i-min": "0.25"} | changes
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    return ["bound", *words, "--constant", constant, *more]


def test_the_command_prints_the_bound_and_the_pulses_of_a_lot() -> None:
    command = [sys.executable, "-m", "cryptometer.commands.main", *bound("--step", "15m")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "P_min           172.5 W\n"
        "MPE at I_min    2 %, of which lots use 1\n"
        "bound           0.8625 Wh in a step of 900 s\n"
        "pulse           0.1 Wh\n"
        "pulses per lot  8\n"
    )


def test_a_meter_that_is_too_coarse_exits_with_2_and_names_what_would_do() -> None:
    command = [sys.executable, "-m", "cryptometer.commands.main", *bound(constant="1000")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    for part in ("one pulse is 1 Wh", "below 0.8625 Wh", "1160 pulses/kWh", "accept_coarse"):
        assert part in done.stderr


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}ph")
def test_every_row_of_the_table(
    row: tuple[str, int, str, str, str, int, int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy, phases, i_min, p_min, limit, at_1000, at_10000, least = row
    changes = {"class": accuracy, "phases": str(phases), "i-min": i_min}
    for constant, pulses in (("1000", at_1000), ("10000", at_10000), (str(least), 1)):
        code = main(bound(constant=constant, **changes))
        said = capsys.readouterr()
        if pulses == 0:
            assert code == 2
            assert f"at least {least} pulses/kWh" in said.err
            assert f"P_min {p_min} W" in said.err
            continue
        assert code == 0
        lines = dict(line.split("  ", 1) for line in said.out.splitlines())
        assert lines["pulses per lot"].strip() == str(pulses)
        assert lines["bound"].strip() == f"{limit} Wh in a step of 900 s"
        assert lines["P_min"].strip() == f"{p_min} W"
    assert main(bound(constant=str(least - 1), **changes)) == 2


def test_a_pulse_exactly_at_the_bound_is_too_coarse(capsys: pytest.CaptureFixture[str]) -> None:
    # 0.8625 Wh are exactly one pulse at 1/0.0008625 = 80000/69 pulses per kWh.
    assert main(bound(constant="80000/69")) == 2
    assert main(bound(constant="80001/69")) == 0
    assert capsys.readouterr().out.endswith("pulses per lot  1\n")


def test_a_coarse_meter_can_be_accepted_and_is_called_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(bound("--accept-coarse", constant="1000")) == 0
    said = capsys.readouterr().out
    assert said.endswith("pulses per lot  1 (coarse: every record is marked)\n")
    assert main(bound("--accept-coarse")) == 0
    assert capsys.readouterr().out.endswith("pulses per lot  8\n")


@pytest.mark.parametrize(
    ("ratings_side", "constant_side", "pulses"),
    [("secondary", "primary", 86), ("primary", "secondary", 0), ("secondary", "secondary", 8)],
)
def test_the_ratio_applies_to_what_is_secondary(
    ratings_side: str, constant_side: str, pulses: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["--ratings-side", ratings_side, "--constant-side", constant_side, "--ratio", "10"]
    assert main(bound(*sides)) == (0 if pulses else 2)
    assert not pulses or f"pulses per lot  {pulses}\n" in capsys.readouterr().out


def test_the_guard_takes_its_part_of_the_permitted_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(bound("--guard", "0.5")) == 0
    said = capsys.readouterr().out
    assert "2 %, of which lots use 0.5" in said
    assert "pulses per lot  4\n" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--voltage", "0"), "above zero"),
        (("--i-min", "0"), "above zero"),
        (("--i-min", "-1"), "decimal number of amperes"),
        (("--i-min", "0.0001"), "at most three decimals of amperes"),
        (("--constant", "0"), "positive number"),
        (("--ratio", "0.5"), "at least 1, not 0.5"),
        (("--ratio", "50"), "has no effect"),
        (("--guard", "1.01"), "above 0 and at most 1"),
        (("--step", "15"), "a number with a unit"),
        (("--step", "59s"), "from 1m to 1d"),
        (("--step", "25h"), "from 1m to 1d"),
        (("--step", "60500ms"), "whole seconds"),
    ],
)
def test_what_no_name_plate_says_is_refused_by_name(
    more: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*bound(), *more]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


@pytest.mark.parametrize("more", [("--class", "D"), ("--phases", "4"), ("--ratings-side", "left")])
def test_what_the_parser_knows_to_be_wrong_exits_with_2_too(more: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main([*bound(), *more])
    assert exit_code.value.code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("15m", 900), ("1h", 3600), ("1d", 86400)]
)
def test_a_step_is_read_in_whole_seconds(text: str, seconds: int) -> None:
    assert step_seconds(text) == seconds


def test_ratings_at_their_limits_pass() -> None:
    for ratio, guard in ((Fraction(1), Fraction(1)), (Fraction(2), Fraction(1, 10**9))):
        check_ratings(
            Ratings("B", 3, 230_000, 250, Fraction(1), Side.SECONDARY, ratio=ratio, guard=guard)
        )
    with pytest.raises(ConfigurationError, match="above 0 and at most 1"):
        check_ratings(Ratings("B", 3, 230_000, 250, Fraction(1), guard=Fraction(0)))


def test_the_description_names_the_step_it_was_made_for() -> None:
    said = describe(Ratings("A", 1, 230_000, 250, Fraction(1000)), 3600, 1)
    assert "bound           2.0125 Wh in a step of 3600 s" in said
