"""Local days of market steps: every step of a year lies in one of them, in its place, over many
years and zones."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import (
    day_of,
    hours_of_month,
    hours_of_year,
    local_steps,
    month_days,
    steps_of_day,
    steps_of_hour,
    steps_of_month,
    steps_of_year,
)

QUARTER_S = 900
BRUSSELS = ZoneInfo("Europe/Brussels")
# All that a European community may lie in; a zone without summer time; and odd ones: half an hour
# of summer time, an offset of 45 minutes, a change at midnight, a day the other way round.
ZONES = [
    ZoneInfo(name)
    for name in (
        "Europe/Brussels",
        "Europe/Paris",
        "Europe/Madrid",
        "Atlantic/Canary",
        "Atlantic/Azores",
        "Europe/Lisbon",
        "Europe/Athens",
        "Europe/Dublin",
        "UTC",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "America/Havana",
        "Pacific/Auckland",
    )
]
EUROPEAN = ZONES[:8]
zones = st.sampled_from(ZONES)
years = st.integers(1996, 2037)
days = st.dates(date(1996, 1, 1), date(2037, 12, 30))


@pytest.mark.parametrize(
    ("day", "quarters", "first", "second_hour"),
    [
        (date(2026, 3, 28), 96, "2026-03-27T23:00", "2026-03-28T01:00:00+01:00"),
        (date(2026, 3, 29), 92, "2026-03-28T23:00", "2026-03-29T01:00:00+01:00"),
        (date(2026, 10, 25), 100, "2026-10-24T22:00", "2026-10-25T01:00:00+02:00"),
        (date(2024, 2, 29), 96, "2024-02-28T23:00", "2024-02-29T01:00:00+01:00"),
    ],
)
def test_a_day_has_as_many_quarter_hours_as_pass(
    day: date, quarters: int, first: str, second_hour: str
) -> None:
    steps = steps_of_day(day, QUARTER_S, BRUSSELS)
    assert len(steps) == quarters
    assert datetime.fromtimestamp(steps.start * QUARTER_S, UTC).isoformat()[:16] == first
    places = list(local_steps(day, day + timedelta(days=1), QUARTER_S, BRUSSELS))
    assert places[4].begins.isoformat() == second_hour
    assert places[-1].position == quarters


def test_the_night_of_the_change_shows_an_hour_twice_and_tells_them_apart() -> None:
    day = date(2026, 10, 25)
    begins = [
        place.begins.isoformat()
        for place in local_steps(day, day + timedelta(days=1), QUARTER_S, BRUSSELS)
    ]
    assert begins[8] == "2026-10-25T02:00:00+02:00"
    assert begins[12] == "2026-10-25T02:00:00+01:00"
    assert len(set(begins)) == 100


@given(days, zones)
def test_days_follow_one_another_without_gap_or_overlap(day: date, zone: ZoneInfo) -> None:
    here, next_one = (steps_of_day(day + timedelta(days=add), QUARTER_S, zone) for add in (0, 1))
    assert here.stop == next_one.start
    assert len(here) in {92, 94, 96, 98, 100}


@given(days, zones, st.sampled_from([300, 900]))
def test_every_step_is_of_the_day_that_its_beginning_shows(
    day: date, zone: ZoneInfo, step_s: int
) -> None:
    places = list(local_steps(day, day + timedelta(days=1), step_s, zone))
    assert [place.position for place in places] == list(range(1, len(places) + 1))
    for place in places:
        assert place.day == day == day_of(place.step, step_s, zone) == place.begins.date()
        assert place.begins.timestamp() == place.step * step_s
    assert all(one.begins.timestamp() < two.begins.timestamp() for one, two in pairwise(places))


@given(years, zones)
def test_the_months_of_a_year_make_its_steps(year: int, zone: ZoneInfo) -> None:
    months = [steps_of_month(year, month, QUARTER_S, zone) for month in range(1, 13)]
    whole = steps_of_year(year, QUARTER_S, zone)
    assert months[0].start == whole.start
    assert months[-1].stop == whole.stop
    assert all(one.stop == two.start for one, two in pairwise(months))


# Portugal's year 1996 began by another zone's time than it ended, and had an hour more.
@given(st.integers(1997, 2037), st.sampled_from(EUROPEAN))
@example(1996, ZoneInfo("Europe/Madrid"))
def test_a_year_has_8760_hours_and_a_leap_year_8784_each_once(year: int, zone: ZoneInfo) -> None:
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    hours = [hour for month in range(1, 13) for hour in hours_of_month(year, month, zone)]
    assert hours == list(range(8784 if is_leap else 8760))
    assert list(range(hours_of_year(year, zone))) == hours


@given(years, st.integers(1, 12), st.sampled_from(EUROPEAN))
def test_the_hours_of_a_month_hold_its_steps(year: int, month: int, zone: ZoneInfo) -> None:
    steps = [
        step
        for hour in hours_of_month(year, month, zone)
        for step in steps_of_hour(year, hour, QUARTER_S, zone)
    ]
    assert steps == list(steps_of_month(year, month, QUARTER_S, zone))


@pytest.mark.parametrize(("month", "hours"), [(2, 28 * 24), (3, 31 * 24 - 1), (10, 31 * 24 + 1)])
def test_march_lacks_an_hour_and_october_has_one_more(month: int, hours: int) -> None:
    assert len(hours_of_month(2026, month, BRUSSELS)) == hours
    assert len(steps_of_month(2026, month, QUARTER_S, BRUSSELS)) == 4 * hours


def test_steps_that_do_not_begin_with_a_day_or_an_hour_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="do not begin with the local day"):
        steps_of_day(date(2026, 1, 1), 7 * 3600, BRUSSELS)
    with pytest.raises(ConfigurationError, match="do not make hours"):
        steps_of_hour(2026, 0, 7_200, BRUSSELS)


def test_where_a_month_begins_between_two_hours_there_are_none() -> None:
    with pytest.raises(ConfigurationError, match="does not begin and end with an hour"):
        hours_of_month(2026, 5, ZoneInfo("Australia/Lord_Howe"))


def test_a_month_is_refused_if_either_end_lies_between_two_hours() -> None:
    """Summer time is half an hour there: April ends by another time than the year began with, and
    October begins by it."""
    zone = ZoneInfo("Australia/Lord_Howe")
    for month in (4, 10):
        with pytest.raises(ConfigurationError, match="does not begin and end with an hour"):
            hours_of_month(2026, month, zone)


def test_steps_make_hours_only_where_they_divide_one_and_hours_begin_with_one() -> None:
    with pytest.raises(ConfigurationError, match="do not make hours"):
        steps_of_hour(1970, 0, 700, ZoneInfo("UTC"))
    with pytest.raises(ConfigurationError, match="do not make hours"):
        steps_of_hour(2026, 0, 3_600, ZoneInfo("Asia/Kolkata"))


def test_a_day_that_only_begins_or_only_ends_with_a_step_is_refused() -> None:
    """Steps of two hours: in summer Brussels' midnight is one, in winter it is not."""
    for day in (date(2026, 3, 29), date(2026, 10, 25)):
        with pytest.raises(ConfigurationError, match="do not begin with the local day"):
            steps_of_day(day, 7_200, BRUSSELS)
    assert len(steps_of_day(date(2026, 7, 1), 7_200, BRUSSELS)) == 12


def test_the_first_day_of_a_month_is_its_first() -> None:
    assert month_days(2026, 12) == (date(2026, 12, 1), date(2027, 1, 1))
    assert month_days(2024, 2) == (date(2024, 2, 1), date(2024, 3, 1))


@pytest.mark.parametrize(("year", "month"), [(2026, 13), (2026, 0), (0, 1), (9_999, 12)])
def test_a_month_that_no_calendar_has_is_refused(year: int, month: int) -> None:
    with pytest.raises(ConfigurationError, match="no calendar has"):
        month_days(year, month)
