"""Load curves that name local days: intervals by their number in a day, or in columns of their own.

The time zone is an argument; no clock is read.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo

from cryptometer.curve_rows import wrong
from cryptometer.curve_template import LongerDay, Stamp, Template
from cryptometer.curve_times import (
    DAY_S,
    EPOCH,
    MIDNIGHT,
    Moment,
    Whose,
    off_grid,
    offsets_of,
    read_time,
)
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.local_calendar import day_start_s

_DAY_MINUTES = 1_440
_DAYS_KEPT = 500  # days whose intervals are kept in mind
_POSITION = re.compile(r"([0-9]{1,3})|([0-9]{1,2}):([0-5][0-9])(?::00)?", re.ASCII)
_NUMBERED = re.compile(r"[A-Za-z]{0,3}([0-9]{1,3})", re.ASCII)
_TIMED = re.compile(
    r"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::00)?(?: ?[-–] ?([0-9]{1,2}):([0-5][0-9])(?::00)?)?",
    re.ASCII,
)


class Days:
    """Local days whose intervals are numbered.

    On days whose clocks change all intervals must be there: numbers that count the hours a clock
    shows, and not those that pass, lack one there or have one too many. How a longer day is
    numbered is the template's word, since files differ.
    """

    def __init__(self, template: Template, zone: tzinfo) -> None:
        self._template = template
        self._zone = zone
        self._first = 0 if template.stamp is Stamp.BEGIN else 1  # the number of the first one
        self._begins: dict[datetime, Sequence[int]] = {}
        self._seen: dict[tuple[Whose, datetime], tuple[int, int, set[int]]] = {}

    def moment(self, line: int, day: datetime, number: int) -> Moment | None:
        """The time of an interval, as `stamp` has it; None where the day has no such interval.

        Raises:
            Rejected: a day of this length is not to be read.
        """
        begins_s = self._begins_of(line, day)
        if not 0 <= number - self._first < len(begins_s):
            return None
        late_s = self._template.interval_s * (self._template.stamp is Stamp.END)
        return Moment(line, begins_s[number - self._first] + late_s, (0,))

    def beyond(self, line: int, day: datetime, number: int) -> Rejected:
        """The refusal of an interval that the day does not have."""
        count = len(self._begins_of(line, day))
        return wrong(
            line,
            f"{day:%Y-%m-%d} has {count} intervals in {self._template.zone}, from {self._first} to"
            f" {self._first + count - 1}, and no {number}: are `stamp` and `zone` right, and do the"
            " numbers count the time that passes?",
        )

    def see(self, line: int, day: datetime, number: int, whose: Iterable[Whose]) -> None:
        """Takes note of an interval that was given."""
        count = len(self._begins_of(line, day))
        if count * self._template.interval_s != DAY_S:
            for one in whose:
                self._seen.setdefault((one, day), (line, count, set()))[2].add(number)

    def check(self) -> None:
        """That days whose clocks change are whole.

        Raises:
            Rejected: one is not.
        """
        for (_, day), (line, count, numbers) in self._seen.items():
            if len(numbers) != count:
                raise wrong(
                    line,
                    f"clocks change on {day:%Y-%m-%d}, which has {count} intervals in"
                    f" {self._template.zone}, and the file has {len(numbers)} of them: do its"
                    " numbers count the time that passes? Give that day whole, or leave it out",
                )

    def _begins_of(self, line: int, day: datetime) -> Sequence[int]:
        """When its intervals begin, in the order of their numbers, s UTC."""
        if day not in self._begins:
            if len(self._begins) >= _DAYS_KEPT:
                self._begins.clear()
            self._begins[day] = self._numbered(line, day)
        return self._begins[day]

    def _numbered(self, line: int, day: datetime) -> Sequence[int]:
        begins_s = day_start_s(day.date(), self._zone)
        ends_s = day_start_s(day.date() + timedelta(days=1), self._zone)
        interval_s = self._template.interval_s
        passed = range(begins_s, ends_s - (ends_s - begins_s) % interval_s, interval_s)
        longer_day = self._template.longer_day
        if ends_s - begins_s <= DAY_S or longer_day is LongerDay.PASSED:
            return passed
        if longer_day is LongerDay.LAST:
            # Sorting is stable: those of the second hour stay in order of time.
            return sorted(passed, key=lambda at_s: datetime.fromtimestamp(at_s, self._zone).fold)
        raise wrong(
            line,
            f"{day:%Y-%m-%d} has an hour twice in {self._template.zone}, and files number it in two"
            ' ways: set `longer_day` to "passed" where all hours are in order of time, or to "last"'
            " where the second one is behind all others; or leave that day out",
        )


def read_day(line: int, text: str, template: Template) -> datetime:
    """A local day, as its midnight.

    Raises:
        Rejected: it is none.
    """
    at = read_time(line, text, template)
    if (
        MIDNIGHT.search(text)
        or at.tzinfo is not None
        or (at.hour, at.minute, at.second, at.microsecond) != (0, 0, 0, 0)
    ):
        raise wrong(line, f"{text[:40]!r} is no day: a time stands in another column, or nowhere")
    return at


def read_position(line: int, text: str, template: Template) -> int:
    """The number of an interval in its day: of how many it is the last one, or before how many
    others it begins, as `stamp` has it.

    Raises:
        Rejected: it is no number, and no time that has passed.
    """
    found = _POSITION.fullmatch(text)
    if found is None:
        raise wrong(line, f"{text[:40]!r} is no number of an interval: as 1 to 25, or 01:00")
    if found[1]:
        return int(found[1])
    passed_minutes = int(found[2]) * 60 + int(found[3])
    if passed_minutes % template.interval_minutes:
        raise wrong(line, f"{text[:40]} is no whole number of {template.interval_minutes} minutes")
    return passed_minutes // template.interval_minutes


def time_of_day(line: int, day: datetime, minutes: int, template: Template, zone: tzinfo) -> Moment:
    """What the clocks show so many minutes into a local day; 0 ends a day where times are ends.

    Raises:
        Rejected: no interval begins or ends there.
    """
    if not minutes and template.stamp is Stamp.END:
        minutes = _DAY_MINUTES
    if minutes % template.interval_minutes:
        raise off_grid(line, f"{minutes // 60:02}:{minutes % 60:02}", template)
    local = day + timedelta(minutes=minutes)
    return Moment(line, (local - EPOCH) // timedelta(seconds=1), offsets_of(local, zone))


def numbered_columns(header: Sequence[str]) -> dict[int, int]:
    """The columns of a local day's intervals that are headed by numbers, as 1 or H01: each one's
    number by its place; none where one comes twice."""
    found = {
        place: int(number[1])
        for place, name in enumerate(header)
        if (number := _NUMBERED.fullmatch(name))
    }
    return found if len(set(found.values())) == len(found) else {}


def timed_columns(header: Sequence[str], template: Template) -> dict[int, int]:
    """The columns of a local day's intervals that are headed by times of day, as 00:15, or
    00:00-00:15: minutes since midnight by the column's place.

    Raises:
        ConfigurationError: an interval ends otherwise than the template has it.
    """
    columns: dict[int, int] = {}
    for place, name in enumerate(header):
        found = _TIMED.fullmatch(name)
        if not found:
            continue
        columns[place] = int(found[1]) * 60 + int(found[2])
        if found[3] is not None:
            length = (int(found[3]) * 60 + int(found[4]) - columns[place]) % _DAY_MINUTES
            if template.stamp is not Stamp.BEGIN or length != template.interval_minutes:
                raise ConfigurationError(
                    f"the load curve's column {name!r} lasts {length} minutes from its begin: set"
                    ' `interval_minutes`, and `stamp` to "begin"'
                )
    return columns
