"""The French coefficient file: columns as the template says, coefficients of what was produced."""

import tomllib
from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import steps_of_day
from gateway.exports.france import UNVERIFIED, Template, coefficients_fr, read_template
from tests.gateway.exports.golden import QUARTER_S, SOURCE, is_golden

PARIS = ZoneInfo("Europe/Paris")
DAYS = (date(2026, 10, 25), date(2026, 10, 26))
STEPS = steps_of_day(DAYS[0], QUARTER_S, PARIS)
POINTS = {"ann": "12345678901234", "max": "01234567890123"}
TOTALS = {step: {"ann": 1_000 * at, "max": 2_000 * at} for at, step in enumerate(STEPS[:99])}
PRODUCED = {step: 4_000 * at for at, step in enumerate(STEPS[:99])}


def test_the_default_file_is_the_golden_one_and_says_that_its_layout_is_not_verified() -> None:
    text = coefficients_fr(TOTALS, PRODUCED, POINTS, DAYS, PARIS, SOURCE, Template())
    assert is_golden("coefficients-fr-2026-10-25.csv", text)
    assert f"# {UNVERIFIED}" in text.splitlines()
    assert len(text.splitlines()) == 4 + 1 + 2 * 100 + 1


def test_members_and_what_nobody_got_make_one() -> None:
    table = tomllib.loads(
        'delimiter = ","\ndecimal_mark = "."\nheading = false\ncomments = false\n'
        '[columns]\na = "step"\nb = "point"\nc = "coefficient"\nd = "energy_kwh"\ne = "=V1"\n'
    )
    text = coefficients_fr(TOTALS, PRODUCED, POINTS, DAYS, PARIS, SOURCE, read_template(table))
    rows = [line.split(",") for line in text.splitlines()]
    assert len(rows) == 200
    tenth = [row for row in rows if row[0] == str(STEPS[10])]
    assert tenth == [
        [str(STEPS[10]), POINTS["max"], "0.500000", "0.000020000", "V1"],
        [str(STEPS[10]), POINTS["ann"], "0.250000", "0.000010000", "V1"],
    ]
    # Nothing was produced: there is no part of it. Nothing was distributed: nothing is known.
    assert [row[2:4] for row in rows[:2]] == [["", "0.000000000"]] * 2
    assert [row[2:4] for row in rows[-2:]] == [["", ""]] * 2
    sums = sum(Decimal(row[2]) for row in tenth)
    assert sums == Decimal("0.75")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[columns]\nA = "nothing"', "'A' is one of point"),
        ('delimeter = ";"', "did you mean 'delimiter'"),
        ('delimiter = ";;"', "delimiter is one character"),
        ('decimal_mark = "x"', "comma or a full stop"),
        ("decimals = 12", "from 1 to 9"),
        ("[columns]", "has none"),
    ],
)
def test_a_template_that_cannot_be_is_named(toml: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_template(tomllib.loads(toml))


def test_more_than_was_produced_is_refused() -> None:
    produced = PRODUCED | {STEPS[5]: 1}
    with pytest.raises(ConfigurationError, match="more than was produced"):
        coefficients_fr(TOTALS, produced, POINTS, DAYS, PARIS, SOURCE, Template())


def test_a_member_with_energy_and_without_a_number_is_named() -> None:
    with pytest.raises(ConfigurationError, match="max was given energy"):
        coefficients_fr(TOTALS, PRODUCED, {"ann": "1"}, DAYS, PARIS, SOURCE, Template())
