"""Load curves that a grid operator gives as CSV: bytes in, energy per market step out.

No file is opened and no clock is read; the time zone is an argument. A file is read whole, or
refused whole with the row that is wrong. Nothing is guessed, nothing is interpolated, and what is
missing is a gap, never zero.
"""

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import pairwise
from typing import Any

from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.metrology import SECONDS_PER_HOUR
from cryptometer.record_fields import NAME
from cryptometer.settings import read_settings, setting

INTERVALS_MINUTES = (15, 30, 60)
LINE_MAX = 65_536  # bytes; a longer line is no row of a curve
MEMBERS_MAX = 10_000
# A year of 28 members in quarters of an hour; 100 MB while it is read.
VALUES_MAX = 1_000_000
# No member takes a terawatt-hour in an hour: the unit is another one, or the column.
INTERVAL_UWH_MAX = 10**15
_PREAMBLE_MAX = 100  # lines before the one that names the columns
_TWICE_MAX = 100_000  # values in hours that come twice, which wait for the file's end
_SHOWN = 10  # names in a message
_YEARS = range(2000, 2100)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are counted from it, too
_BOM = b"\xef\xbb\xbf"
_DIGITS = r"([0-9]{0,15})(?:%s([0-9]{0,24}))?"
_POINT, _COMMA = re.compile(_DIGITS % r"\."), re.compile(_DIGITS % ",")


class Unit(StrEnum):
    """Of the values; of a power the mean over the interval."""

    W = "W"
    KW = "kW"
    WH = "Wh"
    KWH = "kWh"


class Stamp(StrEnum):
    """What a row's time says of its interval."""

    BEGIN = "begin"
    END = "end"


class Encoding(StrEnum):
    """Of the file's text."""

    UTF_8 = "utf-8"
    CP1252 = "cp1252"


_UWH = {Unit.W: 10**6, Unit.KW: 10**9, Unit.WH: 10**6, Unit.KWH: 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How one kind of file is to be read. Columns are named as in the file's own heading."""

    time: str = setting("column of the times, or of the dates beside `time_of_day`")
    zone: str = setting('"UTC", or the IANA name of local time, as "Europe/Paris"')
    stamp: Stamp = setting('what a time names of its interval: its "begin" or its "end"')
    interval_minutes: int = setting("15, 30 or 60")
    unit: Unit = setting('of the values: "W", "kW", "Wh" or "kWh"')
    value: str = setting("column of the values; without it each other column is a member's", "")
    member: str = setting("column that names the member; without it --member does", "")
    time_of_day: str = setting("column of the time of day, where it stands apart", "")
    time_format: str = setting("as %d/%m/%Y %H:%M; without it ISO 8601", "")
    first_suffix: str = setting("behind a time of the hour that comes twice: the first one", "")
    second_suffix: str = setting("the second one", "")
    separator: str = setting("between cells", ";")
    decimal_comma: bool = setting("values have a decimal comma", default=False)
    encoding: Encoding = setting('"utf-8" or "cp1252"', Encoding.UTF_8)
    members: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "the member for each column or cell; what is not listed is left out"},
    )
    only: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "column and the text it must hold; other rows are left out"},
    )

    @property
    def interval_s(self) -> int:
        return self.interval_minutes * 60


GENERIC = Template(
    time="time",
    zone="UTC",
    stamp=Stamp.BEGIN,
    interval_minutes=15,
    unit=Unit.KWH,
    separator=",",
)


@dataclass(frozen=True, slots=True)
class Series:
    """What a file says of one member.

    Attributes:
        energies_uwh: consumption by market step; a step that lacks is not known.
        first: first step that the file's rows speak of, with a value or without.
        last: the last one.
    """

    energies_uwh: Mapping[int, int]
    first: int
    last: int

    def of(self, step: int) -> int | None:
        """Consumption of a step in µWh; None where it is not known."""
        return self.energies_uwh.get(step)

    def gaps(self) -> list[tuple[int, int]]:
        """First and last step of each run of steps that have no value."""
        return gaps(self.energies_uwh, self.first, self.last)


@dataclass(frozen=True, slots=True)
class LoadCurve:
    """One file, read.

    Attributes:
        members: by name.
        is_spread: an interval of the file is longer than a step: its energy was divided evenly.
        left_out: columns or cells that `members` does not list, in order.
        rows_left_out: rows that `only` does not want.
    """

    members: Mapping[str, Series]
    is_spread: bool
    left_out: tuple[str, ...] = ()
    rows_left_out: int = 0


def gaps(steps: Iterable[int], first: int, last: int) -> list[tuple[int, int]]:
    """The runs from `first` to `last` that are not among `steps`: first and last of each."""
    known = [first - 1, *sorted(step for step in steps if first <= step <= last), last + 1]
    return [(one + 1, other - 1) for one, other in pairwise(known) if other > one + 1]


def spread(energy_uwh: int, parts: int) -> list[int]:
    """An energy in equal whole parts whose sum it is; the first ones take what is over."""
    share, rest = divmod(energy_uwh, parts)
    return [share + (place < rest) for place in range(parts)]


def read_template(table: Mapping[str, object], where: str) -> Template:
    """Reads a parsed template.

    Raises:
        ConfigurationError: naming the setting, and what to do.
    """
    template = read_settings(Template, table, where)
    if template.interval_minutes not in INTERVALS_MINUTES:
        raise ConfigurationError(
            f"{where} interval_minutes is 15, 30 or 60, not {template.interval_minutes}"
        )
    if len(template.separator) != 1 or template.separator in '"\r\n0123456789':
        raise ConfigurationError(f'{where} separator is one character, as ";" or "\\t"')
    if template.member and not template.value:
        raise ConfigurationError(f"{where} has a column of members: name that of the values, too")
    if bool(template.first_suffix) != bool(template.second_suffix) or (
        template.first_suffix and template.first_suffix == template.second_suffix
    ):
        raise ConfigurationError(f"{where} needs two suffixes that differ, or none")
    own = [one for one in (template.time, template.time_of_day, template.value) if one]
    own += [template.member] if template.member else []
    if not template.time or len(set(own)) != len(own):
        raise ConfigurationError(f"{where}: time, value and member are columns of their own")
    _check_format(template, where)
    _check_members(template, where)
    for column, wanted in template.only.items():
        if not isinstance(wanted, str):
            raise ConfigurationError(f"{where} only: what {column!r} must hold is a text")
    return template


def read_load_curve(
    chunks: Iterable[bytes], template: Template, zone: tzinfo, step_s: int, member: str = ""
) -> LoadCurve:
    """Reads a file of consumption. Memory is bounded, whatever the file's size.

    An interval longer than a step is divided over its steps, one that is shorter is summed up; a
    step of which an interval lacks has no value. What is finer than a µWh is rounded, half up.

    Local times without an offset that come twice at a change of clocks are told apart by the rows'
    order, which must then be that of time (or its reverse) for the whole member.

    Args:
        chunks: the file's bytes, in pieces of any size.
        template: how to read it.
        zone: the time zone that the template names.
        step_s: length of a market step.
        member: whose curve it is, where no column says so.

    Raises:
        Rejected: naming the line, and what to do.
        ConfigurationError: template, member and file do not fit one another.
    """
    interval_s = template.interval_s
    if interval_s % step_s and step_s % interval_s:
        raise ConfigurationError(
            f"intervals of {template.interval_minutes} minutes do not fit steps of {step_s} s"
        )
    _check_whose(template, member)
    rows = _rows(_lines(chunks), template)
    header = _header(rows, template)
    sheet = _Sheet(template, zone, step_s)
    if template.value:
        _read_long(rows, header, sheet, member)
    else:
        _read_wide(rows, header, sheet)
    return sheet.finish()


def _check_format(template: Template, where: str) -> None:
    if not template.time_format:
        return
    sample = datetime(2026, 11, 23, 21, 45, tzinfo=UTC)
    try:
        again = datetime.strptime(  # noqa: DTZ007 - a format may leave the zone to the template
            sample.strftime(template.time_format), template.time_format
        )
    except (ValueError, re.error) as error:  # the latter where a part is named twice
        raise ConfigurationError(f"{where} time_format cannot be used: {error}") from None
    if again.replace(tzinfo=UTC) != sample:
        raise ConfigurationError(
            f"{where} time_format does not say year, month, day, hour and minute: as %d/%m/%Y %H:%M"
        )


def _check_members(template: Template, where: str) -> None:
    names: set[str] = set()
    for column, name in template.members.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{where} members: {column!r} is given a name, as a text")
        _check_name(name, f"{where} members")
        if name in names:
            raise ConfigurationError(f"{where} members: {name!r} is named twice")
        names.add(name)
    if template.value and not template.member and template.members:
        raise ConfigurationError(f"{where} members: name the column `member` that they stand in")


def _check_whose(template: Template, member: str) -> None:
    from_file = bool(template.member) or not template.value
    if from_file and member:
        raise ConfigurationError("the file names its members by itself: leave --member out")
    if not from_file and not member:
        raise ConfigurationError("the file names no member: say whose it is with --member NAME")
    if member:
        _check_name(member, "--member")


def _check_name(name: str, where: str) -> None:
    try:
        NAME.encode(name)
    except Rejected:
        raise ConfigurationError(
            f"{where}: {name!r} is no member's name; it has a to z, 0 to 9 and hyphens, as it was"
            " registered"
        ) from None


# --- From bytes to cells. ------------------------------------------------------------------------


def _wrong(line: int, said: str) -> Rejected:
    return Rejected(Reason.MALFORMED, f"line {line} of the load curve: {said}")


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines, each with its number and without its end; none longer than LINE_MAX."""
    number = 0
    rest = b""
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            number += 1
            yield _line(number, rest + piece)
            rest = b""
        rest += pieces[-1]
        _line(number + 1, rest)
    if rest:
        yield _line(number + 1, rest)


def _line(number: int, line: bytes) -> tuple[int, bytes]:
    if len(line) > LINE_MAX:
        raise _wrong(number, f"it is longer than {LINE_MAX} bytes: is it a CSV file?")
    return number, line.removeprefix(_BOM) if number == 1 else line


def _rows(
    lines: Iterable[tuple[int, bytes]], template: Template
) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with its line's number."""
    separator = template.separator
    for number, line in lines:
        try:
            text = line.decode(template.encoding).rstrip("\r")
        except UnicodeDecodeError:
            raise _wrong(
                number, f"it is no {template.encoding} text: set `encoding` in the template"
            ) from None
        if '"' in text:
            try:
                cells = next(csv.reader([text], delimiter=separator, strict=True))
            except csv.Error as error:
                raise _wrong(number, f"it is no CSV: {error}") from None
        else:
            cells = text.split(separator)
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield number, cells


def _header(rows: Iterator[tuple[int, list[str]]], template: Template) -> list[str]:
    """The row that names the columns; what stands before it is not the curve's."""
    seen: list[str] = []
    for count, (_, cells) in enumerate(rows):
        if template.time in cells:
            return cells
        seen = seen or cells
        if count >= _PREAMBLE_MAX:
            break
    raise ConfigurationError(
        f"the load curve has no column {template.time!r}: it begins with {_some(seen)}. Set `time`"
        " and `separator` in the template"
    )


def _some(names: Sequence[str]) -> str:
    """The first of some names, for messages."""
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "nothing"


def _place(header: Sequence[str], column: str) -> int:
    found = header.count(column)
    if found != 1:
        near = difflib.get_close_matches(column, header, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {_some(header)}"
        said = "no" if not found else "more than one"
        raise ConfigurationError(f"the load curve has {said} column {column!r}; {hint}")
    return header.index(column)


# --- From cells to energies. ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moment:
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
class _Order:
    """In which order the rows of one series come, by their local times; and those of them that
    wait for that to be known, each with what it says of members."""

    last: _Moment | None = None
    rises: bool = True
    falls: bool = True
    twice: list[tuple[_Moment, list[tuple[str, int | None]]]] = field(default_factory=list)

    def see(self, moment: _Moment) -> None:
        last, self.last = self.last, moment
        # Within the hours that come twice either direction has one step back.
        if last is None or len(last.offsets_s) == len(moment.offsets_s) == 2:
            return
        self.falls &= moment.local_s <= last.local_s
        self.rises &= moment.local_s >= last.local_s


class _Sheet:
    """What was read so far."""

    def __init__(self, template: Template, zone: tzinfo, step_s: int) -> None:
        self.template = template
        self.left_out: set[str] = set()
        self.rows_left_out = 0
        self._zone = zone
        self._step_s = step_s
        self._grid_s = min(step_s, template.interval_s)
        self._number = _COMMA if template.decimal_comma else _POINT
        self._factor = _UWH[template.unit] * (
            template.interval_s if template.unit in {Unit.W, Unit.KW} else SECONDS_PER_HOUR
        )
        self._values: dict[str, dict[int, int]] = {}  # by member and the interval's begin
        self._spans: dict[str, tuple[int, int]] = {}
        self._count = 0
        self._orders: dict[str, _Order] = {}
        self._twice = 0

    def add(self, key: str, moment: _Moment, values: list[tuple[str, int | None]]) -> None:
        """Takes a row: what it says of members, in µWh. `key` says whose order it is in."""
        zoned = len(moment.offsets_s)
        if not zoned:
            if any(value is not None for _, value in values):
                raise _wrong(
                    moment.line,
                    f"{_text(moment.local_s)} does not exist in {self.template.zone}, clocks were"
                    " put forward there: are `zone` and `stamp` right in the template?",
                )
            return
        order = self._orders.setdefault(key, _Order())
        order.see(moment)
        if zoned == 1:
            self._put(moment.line, moment.local_s - moment.offsets_s[0], values)
            return
        self._twice += len(values)
        if self._twice > _TWICE_MAX:
            raise _wrong(
                moment.line,
                "too many values in hours that come twice: give times with their offset",
            )
        order.twice.append((moment, values))

    def energy_uwh(self, line: int, text: str) -> int | None:
        """A cell's energy in µWh; None where it is empty."""
        if not text:
            return None
        is_negative = text[0] in "-−"
        found = self._number.fullmatch(text[1:] if is_negative or text[0] == "+" else text)
        whole, part = ("", "") if found is None else (found[1], found[2] or "")
        if not (whole or part):
            comma = "comma" if self.template.decimal_comma else "point"
            raise _wrong(
                line,
                f"{text[:40]!r} is no value: write digits with a decimal {comma} (`decimal_comma`),"
                " or nothing where none was measured",
            )
        digits = int(whole + part)
        if is_negative and digits:
            raise _wrong(
                line,
                f"{text[:40]} is negative, and consumption is not: leave out what is given to the"
                " grid, or name the column of what is taken from it",
            )
        scale = SECONDS_PER_HOUR * 10 ** len(part)
        energy_uwh: int = (2 * digits * self._factor + scale) // (2 * scale)
        if energy_uwh > INTERVAL_UWH_MAX:
            raise _wrong(line, f"{text[:40]} {self.template.unit} is too much: is `unit` right?")
        return energy_uwh

    def moment(self, line: int, text: str) -> _Moment:
        """A row's time.

        Raises:
            Rejected: it is none, or no interval begins or ends there.
        """
        fold = None
        for place, suffix in enumerate((self.template.first_suffix, self.template.second_suffix)):
            if suffix and text.endswith(suffix):
                text, fold = text.removesuffix(suffix).rstrip(), place
        at = _parse(line, text, self.template.time_format)
        if at.year not in _YEARS:
            raise _wrong(line, f"{text[:40]} is of no likely year: is `time_format` right?")
        offset, local = at.utcoffset(), at.replace(tzinfo=None)
        offsets: tuple[int, ...]
        if offset is not None:
            offsets = (offset // timedelta(seconds=1),)
        else:
            offsets = _offsets(local, self._zone)
            if fold is not None and len(offsets) == 2:
                offsets = (offsets[fold],)
        since = local - _EPOCH
        if since.microseconds or since.seconds % self.template.interval_s:
            raise _wrong(
                line,
                f"no interval of {self.template.interval_minutes} minutes begins or ends at"
                f" {text[:40]}: is `interval_minutes` right?",
            )
        return _Moment(line, since // timedelta(seconds=1), offsets)

    def finish(self) -> LoadCurve:
        """All that was read.

        Raises:
            Rejected: what came twice cannot be told apart, or nothing was read.
        """
        for order in self._orders.values():
            self._tell_apart(order)
        if not self._spans:
            raise Rejected(
                Reason.MALFORMED,
                "the load curve has no row that counts"
                + (f"; left out were {_some(sorted(self.left_out))}" if self.left_out else ""),
            )
        return LoadCurve(
            {name: self._series(name) for name in sorted(self._spans)},
            self.template.interval_s > self._step_s,
            tuple(sorted(self.left_out)),
            self.rows_left_out,
        )

    def _tell_apart(self, order: _Order) -> None:
        """Finds out which of the hours that come twice each row that waits is of."""
        days: dict[int, list[tuple[_Moment, list[tuple[str, int | None]]]]] = {}
        for row in order.twice:
            days.setdefault(row[0].local_s // 86_400, []).append(row)
        for rows in days.values():
            times = [moment.local_s for moment, _ in rows]
            turns = [
                place
                for place, (one, other) in enumerate(pairwise(times), 1)
                if (other <= one if order.rises else other >= one)
            ]
            if order.rises == order.falls or len(turns) != 1:
                raise _wrong(
                    rows[0][0].line,
                    f"{_text(times[0])} comes twice in {self.template.zone}, clocks were put back"
                    " there, and the rows do not tell which one it is: give both hours, in order of"
                    " time, or times with their offset (+01:00)",
                )
            for place, (moment, values) in enumerate(rows):
                is_second = (place >= turns[0]) == order.rises
                self._put(moment.line, moment.local_s - moment.offsets_s[is_second], values)

    def _put(self, line: int, stamp_s: int, values: list[tuple[str, int | None]]) -> None:
        """Takes what a row says; `stamp_s` is its time in UTC."""
        begin_s = stamp_s - self.template.interval_s * (self.template.stamp is Stamp.END)
        if begin_s % self._grid_s:
            raise _wrong(line, "its interval does not begin with a market step: is `zone` right?")
        for name, energy_uwh in values:
            first_s, last_s = self._spans.get(name, (begin_s, begin_s))
            self._spans[name] = min(first_s, begin_s), max(last_s, begin_s)
            if len(self._spans) > MEMBERS_MAX:
                raise _wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
            if energy_uwh is None:
                continue
            known = self._values.setdefault(name, {})
            before = known.setdefault(begin_s, energy_uwh)
            if before != energy_uwh:
                raise _wrong(
                    line,
                    f"{_text(begin_s)}Z is given again for {name}, with another value: one of the"
                    " two rows must go",
                )
            self._count += 1
            if self._count > VALUES_MAX:
                raise _wrong(
                    line, f"more than {VALUES_MAX} values: divide the file by months or members"
                )

    def _series(self, name: str) -> Series:
        step_s, interval_s = self._step_s, self.template.interval_s
        first_s, last_s = self._spans[name]
        values = self._values.pop(name, {})
        energies: dict[int, int] = {}
        if interval_s >= step_s:
            parts = interval_s // step_s
            for begin_s, energy_uwh in values.items():
                for step, share in enumerate(spread(energy_uwh, parts), begin_s // step_s):
                    if step in energies:
                        raise Rejected(
                            Reason.MALFORMED,
                            f"intervals of {name} overlap at {_text(begin_s)}Z: are `zone` and"
                            " `interval_minutes` right?",
                        )
                    energies[step] = share
        else:
            found: dict[int, int] = {}
            for begin_s, energy_uwh in values.items():
                step = begin_s // step_s
                found[step] = found.get(step, 0) + 1
                energies[step] = energies.get(step, 0) + energy_uwh
            # A step that is known in part is not known.
            for step, count in found.items():
                if count < step_s // interval_s:
                    del energies[step]
        return Series(energies, first_s // step_s, (last_s + interval_s - 1) // step_s)


def _parse(line: int, text: str, form: str) -> datetime:
    try:
        # Without a zone of its own a time is the template's.
        return datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007
    except ValueError:
        wanted = form or "2026-03-29T01:00 (ISO 8601), or set `time_format`"
        raise _wrong(line, f"{text[:40]!r} is no time; write it as {wanted}") from None


def _offsets(local: datetime, zone: tzinfo) -> tuple[int, ...]:
    """What a local time may be ahead of UTC, s: the earlier moment first (PEP 495)."""
    one, other = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    if one is None or other is None:
        raise ConfigurationError("the time zone does not know its offset from UTC")
    first_s, second_s = one // timedelta(seconds=1), other // timedelta(seconds=1)
    if first_s == second_s:
        return (first_s,)
    return (first_s, second_s) if first_s > second_s else ()


def _text(seconds: int) -> str:
    """A time for people; which zone it is in, they know from what stands beside it."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(" ", "minutes")


class _Cells:
    """Finds the columns that every row needs."""

    def __init__(self, header: Sequence[str], template: Template) -> None:
        self._width = len(header)
        self._time = _place(header, template.time)
        self._time_of_day = _place(header, template.time_of_day) if template.time_of_day else None
        self._only = [(_place(header, name), str(text)) for name, text in template.only.items()]
        self.known = {self._time, self._time_of_day, *(place for place, _ in self._only)}

    def fit(self, line: int, cells: list[str]) -> list[str]:
        """The row with as many cells as there are columns."""
        if len(cells) < self._width or any(cells[self._width :]):
            raise _wrong(line, f"it has {len(cells)} cells, not {self._width}: complete it")
        return cells

    def is_wanted(self, cells: Sequence[str]) -> bool:
        return all(cells[place] == text for place, text in self._only)

    def time(self, cells: Sequence[str]) -> str:
        day = cells[self._time]
        return day if self._time_of_day is None else f"{day} {cells[self._time_of_day]}"


def _read_long(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: _Sheet, member: str
) -> None:
    """Rows of one value each."""
    template = sheet.template
    columns = _Cells(header, template)
    at = _place(header, template.value)
    whose = _place(header, template.member) if template.member else None
    names: dict[str, str] = {}
    for line, row in rows:
        cells = columns.fit(line, row)
        if not columns.is_wanted(cells):
            sheet.rows_left_out += 1
            continue
        name = member
        if whose is not None:
            cell = cells[whose]
            if cell not in names:
                if len(names) >= MEMBERS_MAX:
                    raise _wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
                names[cell] = _named(sheet, cell)
            name = names[cell]
            if not name:
                continue
        moment = sheet.moment(line, columns.time(cells))
        sheet.add(name, moment, [(name, sheet.energy_uwh(line, cells[at]))])


def _read_wide(rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: _Sheet) -> None:
    """Rows of one value for each member."""
    columns = _Cells(header, sheet.template)
    for wanted in sheet.template.members:
        _place(header, wanted)
    named = [
        (place, _named(sheet, header[place]))
        for place in range(len(header))
        if place not in columns.known and header[place]
    ]
    members = [(place, name) for place, name in named if name]
    names = {name for _, name in members}
    if len(names) != len(members) or not members:
        raise ConfigurationError(
            f"the load curve needs a column for each member, of another name; it has"
            f" {_some(header)}. Set `value`, or [members], in the template"
        )
    for line, row in rows:
        cells = columns.fit(line, row)
        if not columns.is_wanted(cells):
            sheet.rows_left_out += 1
            continue
        moment = sheet.moment(line, columns.time(cells))
        values = [(name, sheet.energy_uwh(line, cells[place])) for place, name in members]
        sheet.add("", moment, values)


def _named(sheet: _Sheet, text: str) -> str:
    """The member that a column or a cell stands for; empty where it is left out."""
    members = sheet.template.members
    if members:
        if text not in members:
            sheet.left_out.add(text[:63])
        return str(members.get(text, ""))
    try:
        return NAME.decode(text)
    except Rejected:
        raise ConfigurationError(
            f"{text[:63]!r} is no member's name: say in [members] of the template who it is"
        ) from None
