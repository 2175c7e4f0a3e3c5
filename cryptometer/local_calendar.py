"""Local days, months and years of market steps: 92, 96 or 100 quarter hours where clocks change.

Steps are counted in UTC and know no zone; only what is shown or exported is local. The zone is an
argument: whoever calls has read it from the time-zone database.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

from cryptometer.errors import ConfigurationError

HOUR_S = 3_600
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class LocalStep:
    """Where a step lies in its zone.

    Attributes:
        day: the local day that holds it.
        position: its place in that day, counted from 1: up to 100 for quarter hours.
        begins: local time with its offset, which alone tells the two hours of an autumn night
            apart.
    """

    step: int
    day: date
    position: int
    begins: datetime


def day_start_s(day: date, zone: tzinfo) -> int:
    """Unix seconds at which a local day begins: its midnight, the first one where a clock shows it
    twice, and the moment of the change where no clock shows it."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def steps_of_day(day: date, step_s: int, zone: tzinfo) -> range:
    """The steps of a local day.

    Raises:
        ConfigurationError: steps of this length do not begin with the local day.
    """
    return _steps(day, day + _DAY, step_s, zone)


def steps_of_month(year: int, month: int, step_s: int, zone: tzinfo) -> range:
    """The steps of a local month, 1 to 12.

    Raises:
        ConfigurationError: as `steps_of_day`; or there is no such month.
    """
    return _steps(*month_days(year, month), step_s, zone)


def steps_of_year(year: int, step_s: int, zone: tzinfo) -> range:
    """The steps of a local year.

    Raises:
        ConfigurationError: as `steps_of_day`.
    """
    return _steps(_date(year, 1), _date(year + 1, 1), step_s, zone)


def month_days(year: int, month: int) -> tuple[date, date]:
    """The first day of a month, and that of the next.

    Raises:
        ConfigurationError: there is no such month.
    """
    first = _date(year, month)
    return first, _date(year + month // 12, month % 12 + 1)


def local_steps(first: date, end: date, step_s: int, zone: tzinfo) -> Iterator[LocalStep]:
    """Every step from the beginning of a local day to that of another, in order.

    Raises:
        ConfigurationError: as `steps_of_day`.
    """
    day = first
    while day < end:
        for place, step in enumerate(steps_of_day(day, step_s, zone), start=1):
            begins = datetime.fromtimestamp(step * step_s, UTC).astimezone(zone)
            yield LocalStep(step, day, place, begins)
        day += _DAY


def day_of(step: int, step_s: int, zone: tzinfo) -> date:
    """The local day that holds a step's beginning."""
    return datetime.fromtimestamp(step * step_s, UTC).astimezone(zone).date()


def hours_of_year(year: int, zone: tzinfo) -> int:
    """How many hours pass in a local year: 8760, or 8784 in a leap year, since what clocks lose in
    spring they gain in autumn; others only where a country changes its zone."""
    first, end = day_start_s(_date(year, 1), zone), day_start_s(_date(year + 1, 1), zone)
    return (end - first) // HOUR_S


def hours_of_month(year: int, month: int, zone: tzinfo) -> range:
    """The hours of a month, each by how many have passed since its local year began: no hour of a
    year has the number of another, and none is left out, whatever its clocks show.

    Raises:
        ConfigurationError: there is no such month, or it does not begin with an hour.
    """
    began_s = day_start_s(_date(year, 1), zone)
    first, end = (day_start_s(day, zone) - began_s for day in month_days(year, month))
    if first % HOUR_S or end % HOUR_S:
        raise ConfigurationError(f"{year}-{month:02d} does not begin and end with an hour there")
    return range(first // HOUR_S, end // HOUR_S)


def steps_of_hour(year: int, hour: int, step_s: int, zone: tzinfo) -> range:
    """The steps of an hour of a local year, counted from 0 as `hours_of_month` does.

    Raises:
        ConfigurationError: steps of this length do not make hours.
    """
    begins_s = day_start_s(_date(year, 1), zone) + hour * HOUR_S
    if HOUR_S % step_s or begins_s % step_s:
        raise ConfigurationError(f"steps of {step_s} s do not make hours there")
    return range(begins_s // step_s, (begins_s + HOUR_S) // step_s)


def _steps(first: date, end: date, step_s: int, zone: tzinfo) -> range:
    first_s, end_s = day_start_s(first, zone), day_start_s(end, zone)
    if first_s % step_s or end_s % step_s:
        raise ConfigurationError(f"steps of {step_s} s do not begin with the local day {first}")
    return range(first_s // step_s, end_s // step_s)


def _date(year: int, month: int) -> date:
    try:
        return date(year, month, 1)
    except ValueError:
        raise ConfigurationError(f"no calendar has the month {year}-{month:02d}") from None
