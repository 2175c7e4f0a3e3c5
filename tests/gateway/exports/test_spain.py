"""The Spanish coefficient file: every hour once, sums of one, right where clocks change."""

from collections import defaultdict
from decimal import Decimal
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import steps_of_month
from gateway.exports.source import sidecar
from gateway.exports.spain import CoefficientFile, Layout, check_cups, coefficients_es
from tests.gateway.exports.golden import QUARTER_S, SOURCE, is_golden

MADRID = ZoneInfo("Europe/Madrid")
LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def cups(number: int) -> str:
    """A made-up supply point's code with the letters that its digits want."""
    rest = number % 529
    return f"ES{number:016d}{LETTERS[rest // 23]}{LETTERS[rest % 23]}0F"


POINTS = {name: cups(31_000_000_000_000 + at) for at, name in enumerate(("ann", "max", "zoe"))}


def made_up(year: int, month: int, seed: int = 1) -> dict[int, dict[str, int]]:
    """Energy of three members, with nights in which there is none."""
    random = Random(seed)
    return {
        step: {name: 0 if step % 96 < 24 else random.randrange(10**9) for name in POINTS}
        for step in steps_of_month(year, month, QUARTER_S, MADRID)
    }


def parsed(text: str) -> dict[int, dict[str, Decimal]]:
    found: dict[int, dict[str, Decimal]] = defaultdict(dict)
    for line in text.splitlines():
        point, hour, coefficient = line.split(";")
        assert point not in found[int(hour)]
        found[int(hour)][point] = Decimal(coefficient.replace(",", "."))
    return found


def make(year: int, month: int, **options: object) -> CoefficientFile:
    totals = made_up(year, month)
    return coefficients_es(year, month, totals, POINTS, QUARTER_S, MADRID, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("year", [2024, 2026])
def test_the_months_of_a_year_hold_each_of_its_hours_once(year: int) -> None:
    hours: list[int] = []
    for month in range(1, 13):
        made = make(year, month)
        found = parsed(made.text)
        assert len(found) == made.hours
        for members in found.values():
            assert members.keys() == set(POINTS.values())
            assert sum(members.values()) == 1
        hours += found
    assert hours == list(range(1, (8784 if year == 2024 else 8760) + 1))


@pytest.mark.parametrize(("month", "hours"), [(3, 743), (10, 745), (2, 672), (6, 720)])
def test_a_month_has_as_many_hours_as_pass(month: int, hours: int) -> None:
    assert make(2026, month).hours == hours


def test_a_coefficient_is_the_members_part_of_its_hour() -> None:
    totals = {step: dict.fromkeys(POINTS, 0) for step in made_up(2026, 1)}
    noon = steps_of_month(2026, 1, QUARTER_S, MADRID)[12 * 4]
    totals[noon] = {"ann": 1, "max": 0, "zoe": 0}
    totals[noon + 3] = {"ann": 0, "max": 3, "zoe": 4}
    made = coefficients_es(2026, 1, totals, POINTS, QUARTER_S, MADRID)
    at_noon = parsed(made.text)[13]
    assert [str(at_noon[point]) for point in POINTS.values()] == [
        "0.125000",
        "0.375000",
        "0.500000",
    ]
    assert f"{POINTS['ann']};13;0,125000\n" in made.text
    assert len(made.idle) == 743
    assert 13 not in made.idle


def test_the_file_and_the_one_beside_it_are_the_golden_ones() -> None:
    made = make(2026, 2)
    assert is_golden("coefficients-es-2026-02.txt", made.text)
    beside = sidecar(SOURCE, "coefficients-es-2026-02.txt", hours=made.hours, idle=list(made.idle))
    assert is_golden("coefficients-es-2026-02.txt.source.json", beside)


def test_hours_in_which_nobody_got_anything_are_shared_by_the_weights_given() -> None:
    made = make(2026, 1, idle={"ann": 3, "max": 1})
    hour = made.idle[0]
    found = parsed(made.text)[hour]
    assert found[POINTS["ann"]] == Decimal("0.75")
    assert found[POINTS["zoe"]] == 0
    equal = parsed(make(2026, 1).text)[hour]
    assert sorted(map(str, equal.values())) == ["0.333333", "0.333333", "0.333334"]


def test_an_hour_that_is_not_distributed_yet_stops_the_file_unless_accepted() -> None:
    totals = made_up(2026, 1)
    del totals[min(totals) + 50]
    with pytest.raises(ConfigurationError, match="1 hours of 2026-01 are not distributed yet"):
        coefficients_es(2026, 1, totals, POINTS, QUARTER_S, MADRID)
    made = coefficients_es(2026, 1, totals, POINTS, QUARTER_S, MADRID, accept_missing=True)
    assert made.missing == (13,)
    assert sum(parsed(made.text)[13].values()) == 1


def test_hours_may_be_counted_from_zero_and_written_with_four_digits() -> None:
    first = make(2026, 1, layout=Layout(first_hour=0, hour_digits=4)).text.splitlines()[0]
    assert first.split(";")[1] == "0000"


def test_a_member_with_energy_and_without_a_cups_is_named() -> None:
    points = {name: one for name, one in POINTS.items() if name != "zoe"}
    with pytest.raises(ConfigurationError, match="zoe was given energy and has no CUPS"):
        coefficients_es(2026, 1, made_up(2026, 1), points, QUARTER_S, MADRID)


def test_two_members_with_one_cups_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the same CUPS"):
        coefficients_es(2026, 1, {}, POINTS | {"eve": POINTS["ann"]}, QUARTER_S, MADRID)


@given(st.integers(0, 10**16 - 1), st.data())
def test_a_mistyped_digit_of_a_cups_is_found(number: int, data: st.DataObject) -> None:
    right = cups(number)
    check_cups(right)
    check_cups(right[:20])
    at = data.draw(st.integers(2, 17))
    other = data.draw(st.sampled_from([one for one in "0123456789" if one != right[at]]))
    with pytest.raises(ConfigurationError, match="mistyped"):
        check_cups(right[:at] + other + right[at + 1 :])


@given(st.text(max_size=30))
def test_no_text_breaks_the_check_of_a_cups(text: str) -> None:
    try:
        check_cups(text)
    except ConfigurationError:
        return
    assert text.startswith("ES")
