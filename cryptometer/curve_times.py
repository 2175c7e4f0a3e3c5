"""The times of a load curve's rows, in local time or with an offset, and what the rows' order says
of hours that come twice. The time zone is an argument; no clock is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import TypeAlias

from cryptometer.curve_rows import wrong
from cryptometer.curve_template import Template
from cryptometer.errors import ConfigurationError

_YEARS = range(2000, 2100)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are counted from it, too

Values: TypeAlias = list[tuple[str, int | None]]  # what a row says of members, in µWh


@dataclass(frozen=True, slots=True)
class Moment:
    """A row's time.

    Attributes:
        line: where it stands.
        local_s: as written, in seconds since 1970 began there.
        offsets_s: what local time is ahead of UTC; two where this time comes twice, none where it
            does not exist.
    """

    line: int
    local_s: int
    offsets_s: tuple[int, ...]


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

    def told_apart(self, zone: str) -> Iterator[tuple[Moment, int, Values]]:
        """The rows that wait, each with its time in UTC, in seconds since 1970.

        Args:
            zone: name of the time zone, for messages.

        Raises:
            Rejected: the rows do not tell which of the two hours each is of.
        """
        days: dict[int, list[tuple[Moment, Values]]] = {}
        for row in self.twice:
            days.setdefault(row[0].local_s // 86_400, []).append(row)
        for rows in days.values():
            times = [moment.local_s for moment, _ in rows]
            turns = [
                place
                for place, (one, other) in enumerate(pairwise(times), 1)
                if (other <= one if self.rises else other >= one)
            ]
            if self.rises == self.falls or len(turns) != 1:
                raise wrong(
                    rows[0][0].line,
                    f"{time_text(times[0])} comes twice in {zone}, clocks were put back"
                    " there, and the rows do not tell which one it is: give both hours, in order of"
                    " time, or times with their offset (+01:00)",
                )
            for place, (moment, values) in enumerate(rows):
                is_second = (place >= turns[0]) == self.rises
                yield moment, moment.local_s - moment.offsets_s[is_second], values


def read_moment(line: int, text: str, template: Template, zone: tzinfo) -> Moment:
    """A row's time.

    Raises:
        Rejected: it is none, or no interval begins or ends there.
    """
    fold = None
    for place, suffix in enumerate((template.first_suffix, template.second_suffix)):
        if suffix and text.endswith(suffix):
            text, fold = text.removesuffix(suffix).rstrip(), place
    at = _parse(line, text, template.time_format)
    if at.year not in _YEARS:
        raise wrong(line, f"{text[:40]} is of no likely year: is `time_format` right?")
    offset, local = at.utcoffset(), at.replace(tzinfo=None)
    offsets: tuple[int, ...]
    if offset is not None:
        offsets = (offset // timedelta(seconds=1),)
    else:
        offsets = _offsets(local, zone)
        if fold is not None and len(offsets) == 2:
            offsets = (offsets[fold],)
    since = local - _EPOCH
    if since.microseconds or since.seconds % template.interval_s:
        raise wrong(
            line,
            f"no interval of {template.interval_minutes} minutes begins or ends at"
            f" {text[:40]}: is `interval_minutes` right?",
        )
    return Moment(line, since // timedelta(seconds=1), offsets)


def time_text(seconds: int) -> str:
    """A time for people; which zone it is in, they know from what stands beside it."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(" ", "minutes")


def _parse(line: int, text: str, form: str) -> datetime:
    try:
        # Without a zone of its own a time is the template's.
        return datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007
    except ValueError:
        wanted = form or "2026-03-29T01:00 (ISO 8601), or set `time_format`"
        raise wrong(line, f"{text[:40]!r} is no time; write it as {wanted}") from None


def _offsets(local: datetime, zone: tzinfo) -> tuple[int, ...]:
    """What a local time may be ahead of UTC, s: the earlier moment first (PEP 495)."""
    one, other = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    if one is None or other is None:
        raise ConfigurationError("the time zone does not know its offset from UTC")
    first_s, second_s = one // timedelta(seconds=1), other // timedelta(seconds=1)
    if first_s == second_s:
        return (first_s,)
    return (first_s, second_s) if first_s > second_s else ()
