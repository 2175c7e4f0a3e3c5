"""Load curves: every step has a line, a gap has no value, days are as long as they are."""

import csv
from collections.abc import Callable
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from cryptometer.local_calendar import steps_of_day
from gateway.exports.load_curve import load_curve_local, load_curve_utc
from tests.gateway.exports.golden import QUARTER_S, SOURCE, is_golden

Make = Callable[..., str]
ZONE = ZoneInfo("Europe/Brussels")
NIGHTS = [(date(2026, 3, 29), 92), (date(2026, 6, 1), 96), (date(2026, 10, 25), 100)]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@pytest.mark.parametrize(("day", "quarters"), NIGHTS)
def test_a_curve_has_a_line_for_every_quarter_hour(day: date, quarters: int) -> None:
    steps = steps_of_day(day, QUARTER_S, ZONE)
    energy = {step: 250 * at for at, step in enumerate(steps) if at % 7}
    days = (day, day + timedelta(days=1))
    local = load_curve_local("meter m0", energy, days, ZONE, SOURCE)
    utc = load_curve_utc("meter m0", energy, days, ZONE, SOURCE)
    assert is_golden(f"load-curve-{day}-local.csv", local)
    assert is_golden(f"load-curve-{day}-utc.csv", utc)
    assert [row["position"] for row in rows_of(local)] == [str(n + 1) for n in range(quarters)]
    for text in (local, utc):
        rows = rows_of(text)
        assert [int(row["step"]) for row in rows] == list(steps)
        assert [row["energy_uwh"] for row in rows] == [str(energy.get(step, "")) for step in steps]
        assert all((row["energy_kwh"] == "") == (row["energy_uwh"] == "") for row in rows)


def test_a_reading_of_nothing_is_no_gap() -> None:
    day = NIGHTS[1][0]
    steps = steps_of_day(day, QUARTER_S, ZONE)
    days = (day, day + timedelta(days=1))
    rows = rows_of(load_curve_utc("meter m0", {steps[0]: 0}, days, ZONE, SOURCE))
    assert (rows[0]["energy_uwh"], rows[0]["energy_kwh"]) == ("0", "0.000000000")
    assert (rows[1]["energy_uwh"], rows[1]["energy_kwh"]) == ("", "")


@pytest.mark.parametrize("make", [load_curve_utc, load_curve_local])
def test_the_energy_of_several_steps_in_one_says_since_when(make: Make) -> None:
    day = NIGHTS[1][0]
    steps = steps_of_day(day, QUARTER_S, ZONE)
    days = (day, day + timedelta(days=1))
    energy, since = {steps[0]: 1, steps[4]: 9}, {steps[4]: steps[0]}
    rows = rows_of(make("meter m0", energy, days, ZONE, SOURCE, since))
    assert [row["since_step"] for row in rows[:5]] == ["", "", "", "", str(steps[0])]
    assert "since_step" not in rows_of(make("what ann was given", energy, days, ZONE, SOURCE))[0]
