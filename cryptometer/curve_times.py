"""The times of a load curve's rows, in local time or with an offset, and what the rows' order says
of hours that come twice. The time zone is an argument; no clock is read."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import TypeAlias

from cryptometer.curve_rows import wrong
from cryptometer.curve_template import Template, Twice
from cryptometer.errors import ConfigurationError, Rejected

_YEARS = range(2000, 2100)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are counted from it, too
DAY_S = 86_400
MIDNIGHT = re.compile(r"24:00(:00)?$")  # the end of the day that is named

Whose: TypeAlias = tuple[
    str, str
]  # a member, and the register of his meter where there are several
Values: TypeAlias = list[tuple[Whose, int | None]]  # what a row says, in µWh


@dataclass(frozen=True, slots=True)
class Moment:
    """A row's time.

    Attributes:
        line: where it stands.
        local_s: as written, in seconds since 1970 began there.
        offsets_s: what local time is ahead of UTC; two where this time comes twice, none where it
            does not exist.
        until_s: when its interval ends, as the zone's clocks show it; None where that is not said.
    """

    line: int
    local_s: int
    offsets_s: tuple[int, ...]
    until_s: int | None = None


@dataclass(slots=True)
class Order:
    """In which order the rows of one series come, by their local times; and those of them that
    wait for that to be known, each with what it says of members."""

    last: Moment | None = None
    rises: bool = True
    falls: bool = True
    twice: list[tuple[Moment, Values]] = field(default_factory=list)

    def see(self, moment: Moment) -> None:
        """Takes the next row's time."""
        last, self.last = self.last, moment
        # Within the hours that come twice either direction has one step back.
        if last is None or len(last.offsets_s) == len(moment.offsets_s) == 2:
            return
        self.falls &= moment.local_s <= last.local_s
        self.rises &= moment.local_s >= last.local_s

    def told_apart(self, template: Template) -> Iterator[tuple[Moment, int, Values]]:
        """The rows that wait, each with its time in UTC, in seconds since 1970.

        Raises:
            Rejected: the rows do not tell which of the two hours each is of.
        """
        days: dict[int, list[tuple[Moment, Values]]] = {}
        for row in self.twice:
            days.setdefault(row[0].local_s // DAY_S, []).append(row)
        for rows in days.values():
            times = [moment.local_s for moment, _ in rows]
            seconds = self._second(times, template.twice)
            if seconds is None:
                raise wrong(
                    rows[0][0].line,
                    f"{time_text(times[0])} comes twice in {template.zone}, clocks were put back"
                    " there, and the rows do not tell which one it is: give both hours, in order of"
                    " time, or times with their offset (+01:00); or leave that day out",
                )
            for (moment, values), is_second in zip(rows, seconds, strict=True):
                yield moment, moment.local_s - moment.offsets_s[is_second], values

    def _second(self, times: Sequence[int], twice: Twice) -> list[bool] | None:
        """Which of a day's times are of the second hour; None where that is not known."""
        if self.rises == self.falls:
            return None
        if twice is Twice.PAIRS:
            ones, others = times[::2], times[1::2]
            if ones != others or len(set(ones)) != len(ones):
                return None
            return [(place % 2 == 1) == self.rises for place in range(len(times))]
        turns = [
            place
            for place, (one, other) in enumerate(pairwise(times), 1)
            if (other <= one if self.rises else other >= one)
        ]
        if len(turns) != 1:
            return None
        return [(place >= turns[0]) == self.rises for place in range(len(times))]


def read_moment(line: int, text: str, template: Template, zone: tzinfo, until: str = "") -> Moment:
    """A row's time, and the end of its interval where `until` says that.

    Raises:
        Rejected: it is none, or no interval begins or ends there.
    """
    text, fold = _without_suffix(text, template)
    at = read_time(line, text, template)
    offset, local = at.utcoffset(), at.replace(tzinfo=None)
    offsets: tuple[int, ...]
    if offset is not None:
        offsets = (offset // timedelta(seconds=1),)
    else:
        offsets = offsets_of(local, zone)
        if fold is not None and len(offsets) == 2:
            offsets = (offsets[fold],)
    since = local - EPOCH
    if since.microseconds or since.seconds % template.interval_s:
        raise off_grid(line, text, template)
    until_s = None
    if until:
        end = read_time(line, _without_suffix(until, template)[0], template)
        if end.tzinfo is not None:
            end = end.astimezone(zone)
        until_s = (end.replace(tzinfo=None) - EPOCH) // timedelta(seconds=1)
    return Moment(line, since // timedelta(seconds=1), offsets, until_s)


def check_until(moment: Moment, begin_s: int, template: Template, zone: tzinfo) -> None:
    """That an interval ends when the file says so, if it does.

    Args:
        begin_s: when it begins, UTC.

    Raises:
        Rejected: it does not.
    """
    if moment.until_s is None:
        return
    end = datetime.fromtimestamp(begin_s + template.interval_s, UTC).astimezone(zone)
    if end.replace(tzinfo=None) - EPOCH != timedelta(seconds=moment.until_s):
        raise wrong(
            moment.line,
            f"an interval of {template.interval_minutes} minutes from {time_text(begin_s)}Z ends"
            f" at {end:%Y-%m-%d %H:%M} in {template.zone}, and the file says"
            f" {time_text(moment.until_s)}: are `interval_minutes` and `twice` right?",
        )


def time_text(seconds: int) -> str:
    """A time for people; which zone it is in, they know from what stands beside it."""
    return (EPOCH + timedelta(seconds=seconds)).isoformat(" ", "minutes")


def _without_suffix(text: str, template: Template) -> tuple[str, int | None]:
    """A time without what stands behind it in the hours that come twice; and which one it is of."""
    for place, suffix in enumerate((template.first_suffix, template.second_suffix)):
        if suffix and text.endswith(suffix):
            return text.removesuffix(suffix).rstrip(), place
    return text, None


def off_grid(line: int, text: str, template: Template) -> Rejected:
    return wrong(
        line,
        f"no interval of {template.interval_minutes} minutes begins or ends at {text[:40]}: is"
        " `interval_minutes` right?",
    )


def read_time(line: int, text: str, template: Template) -> datetime:
    """A time as it is written; one that ends with 24:00 is the next day's midnight."""
    form = template.time_format
    plain, is_midnight = MIDNIGHT.subn(r"00:00\1", text)
    try:
        # Without a zone of its own a time is the template's.
        at = datetime.strptime(plain, form) if form else datetime.fromisoformat(plain)  # noqa: DTZ007
    except ValueError:
        wanted = form or "2026-03-29T01:00 (ISO 8601), or set `time_format`"
        raise wrong(line, f"{text[:40]!r} is no time; write it as {wanted}") from None
    if at.year not in _YEARS:
        raise wrong(line, f"{text[:40]} is of no likely year: is `time_format` right?")
    return at + timedelta(seconds=is_midnight * DAY_S)


def offsets_of(local: datetime, zone: tzinfo) -> tuple[int, ...]:
    """What a local time may be ahead of UTC, s: the earlier moment first (PEP 495)."""
    one, other = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    if one is None or other is None:
        raise ConfigurationError("the time zone does not know its offset from UTC")
    first_s, second_s = one // timedelta(seconds=1), other // timedelta(seconds=1)
    if first_s == second_s:
        return (first_s,)
    return (first_s, second_s) if first_s > second_s else ()
