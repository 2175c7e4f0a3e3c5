"""Load curves that a grid operator gives as CSV: bytes in, energy per market step out.

No file is opened and no clock is read; the time zone is an argument. A file is read whole, or
refused whole with the row that is wrong. Nothing is guessed, nothing is interpolated, and what is
missing is a gap, never zero.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import pairwise

from cryptometer.curve_days import (
    numbered_columns,
    read_day,
    read_position,
    time_of_day,
    timed_columns,
)
from cryptometer.curve_rows import Columns, header_of, place_of, rows_of, some, wrong
from cryptometer.curve_sheet import MEMBERS_MAX, Sheet
from cryptometer.curve_template import Template, check_whose
from cryptometer.curve_times import Values, Whose, read_moment, time_text
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.record_fields import NAME

_GRID_S = 300  # what intervals and steps have in common is no less than this
_POINT = re.compile("[0-9]{9,}")
_FEW = 12  # distances; fewer that are equal tell nothing of how long intervals are


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
        is_spread: an interval of the file is no part of a step: its energy was divided evenly.
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


def read_load_curve(
    chunks: Iterable[bytes], template: Template, zone: tzinfo, step_s: int, member: str = ""
) -> LoadCurve:
    """Reads a file of consumption. Memory is bounded, whatever the file's size.

    An interval longer than a step is divided over its steps, one that is shorter is summed up, and
    one that is neither, as of ten minutes, is divided and then summed up; a step of which an
    interval lacks has no value. What is finer than a µWh is rounded, half up.

    Local times without an offset that come twice at a change of clocks are told apart by the rows'
    order, which must then be that of time (or its reverse) for the whole member, or what `twice`
    of the template says. Intervals that are numbered in their day must be all there on a day whose
    clocks change.

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
    grid_s = math.gcd(interval_s, step_s)
    if grid_s < min(interval_s, step_s, _GRID_S):
        raise ConfigurationError(
            f"intervals of {template.interval_minutes} minutes do not fit steps of {step_s} s"
        )
    check_whose(template, member)
    rows = rows_of(chunks, template)
    header = header_of(rows, template)
    sheet = Sheet(template, zone, grid_s)
    if template.across:
        _read_across(rows, header, sheet, member)
    elif template.value:
        _read_long(rows, header, sheet, member)
    else:
        _read_wide(rows, header, sheet)
    return LoadCurve(
        {name: _series(name, values, interval_s, step_s) for name, values in sheet.finish()},
        grid_s < interval_s,
        tuple(sorted(sheet.left_out)),
        sheet.rows_left_out,
    )


def _series(name: str, values: Mapping[int, int | None], interval_s: int, step_s: int) -> Series:
    """Energies of intervals, by their begins, as those of market steps."""
    _check_distances(name, sorted(values), interval_s)
    grid_s = math.gcd(interval_s, step_s)
    parts, wanted = interval_s // grid_s, step_s // grid_s
    pieces: dict[int, int] = {}
    for begin_s, energy_uwh in values.items():
        if energy_uwh is None:
            continue
        for place, share in enumerate(spread(energy_uwh, parts), begin_s // grid_s):
            if place in pieces:
                raise Rejected(
                    Reason.MALFORMED,
                    f"intervals of {name} overlap at {time_text(begin_s)}Z: are `zone` and"
                    " `interval_minutes` right?",
                )
            pieces[place] = share
    energies = pieces if wanted == 1 else _joined(pieces, wanted)
    return Series(energies, min(values) // step_s, (max(values) + interval_s - 1) // step_s)


def _joined(pieces: Mapping[int, int], wanted: int) -> dict[int, int]:
    """The sums of so many pieces each. A step that is known in part is not known."""
    found: Counter[int] = Counter()
    energies: Counter[int] = Counter()
    for place, energy_uwh in pieces.items():
        found[place // wanted] += 1
        energies[place // wanted] += energy_uwh
    return {step: energies[step] for step, count in found.items() if count == wanted}


def _check_distances(name: str, begins_s: Sequence[int], interval_s: int) -> None:
    """That rows are not, one after the other, further apart than intervals are long, as if these
    were longer there: a meter may have been set otherwise in between."""
    row = 0
    last_s = 0
    for one, other in pairwise(begins_s):
        row = row + 1 if other - one == last_s else 1
        last_s = other - one
        if row >= _FEW and last_s > interval_s:
            raise Rejected(
                Reason.MALFORMED,
                f"the rows of {name} are {last_s // 60} minutes apart before {time_text(other)}Z,"
                f" and intervals of {interval_s // 60} are wanted: is `interval_minutes` right?"
                " Divide a file whose intervals change",
            )


def _read_long(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: Sheet, member: str
) -> None:
    """Rows of one value each."""
    template = sheet.template
    columns = Columns(header, template)
    owners = _Owners(header, sheet, member)
    at = place_of(header, template.value)
    for line, cells in _wanted(rows, columns, sheet):
        whose = owners.of(line, cells)
        if whose is None:
            continue
        if template.position:
            day = read_day(line, columns.time(cells), template)
            number = read_position(line, columns.position(cells), template)
            sheet.add_numbered(line, day, number, [(whose, sheet.energy_uwh(line, cells[at]))])
            continue
        moment = read_moment(line, columns.time(cells), template, sheet.zone, columns.until(cells))
        sheet.add(whose, moment, [(whose, sheet.energy_uwh(line, cells[at]))])


def _read_wide(rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: Sheet) -> None:
    """Rows of one value for each member."""
    template = sheet.template
    columns = Columns(header, template)
    for wanted in template.members:
        place_of(header, wanted)
    named = [
        (place, _named(sheet, header[place]))
        for place in range(len(header))
        if place not in columns.known and header[place]
    ]
    members = [(place, (name, "")) for place, name in named if name]
    names = {name for _, (name, _) in members}
    if len(names) != len(members) or not members:
        raise ConfigurationError(
            f"the load curve needs a column for each member, of another name; it has"
            f" {some(header)}. Set `value`, or [members], in the template"
        )
    for line, cells in _wanted(rows, columns, sheet):
        values = [(whose, sheet.energy_uwh(line, cells[place])) for place, whose in members]
        if template.position:
            day = read_day(line, columns.time(cells), template)
            number = read_position(line, columns.position(cells), template)
            sheet.add_numbered(line, day, number, values)
            continue
        moment = read_moment(line, columns.time(cells), template, sheet.zone, columns.until(cells))
        sheet.add(("", ""), moment, values)


def _read_across(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: Sheet, member: str
) -> None:
    """Rows of one local day each."""
    template = sheet.template
    columns = Columns(header, template)
    owners = _Owners(header, sheet, member)
    timed = timed_columns(header, template)
    places = timed or numbered_columns(header)
    if not places:
        raise ConfigurationError(
            "the load curve needs columns headed by times of day, as 00:15 or 00:00-00:15, or by"
            " numbers, each once, as 1 or H01: leave `across` out of the template where it has none"
        )
    for line, cells in _wanted(rows, columns, sheet):
        whose = owners.of(line, cells)
        if whose is None:
            continue
        day = read_day(line, columns.time(cells), template)
        row: list[tuple[int, Values]] = [
            (at, [(whose, sheet.energy_uwh(line, cells[place]))]) for place, at in places.items()
        ]
        if timed:
            sheet.add_day(
                (time_of_day(line, day, at, template, sheet.zone), values) for at, values in row
            )
            continue
        for at, values in row:
            sheet.add_numbered(line, day, at, values)


def _wanted(
    rows: Iterable[tuple[int, list[str]]], columns: Columns, sheet: Sheet
) -> Iterator[tuple[int, list[str]]]:
    """The rows that `only` of the template does not leave out."""
    for line, row in rows:
        cells = columns.fit(line, row)
        if columns.is_wanted(line, cells):
            yield line, cells
        else:
            sheet.rows_left_out += 1


class _Owners:
    """Whose value a row has, and of which register."""

    def __init__(self, header: Sequence[str], sheet: Sheet, member: str) -> None:
        template = sheet.template
        self._sheet = sheet
        self._member = member
        self._at = place_of(header, template.member) if template.member else None
        self._register = place_of(header, template.register) if template.register else None
        self._names: dict[str, str] = {}

    def of(self, line: int, cells: Sequence[str]) -> Whose | None:
        """None where the member is left out.

        Raises:
            Rejected: they are too many.
        """
        name = self._member if self._at is None else self._name(line, cells[self._at])
        return (name, "" if self._register is None else cells[self._register]) if name else None

    def _name(self, line: int, cell: str) -> str:
        if cell not in self._names:
            if len(self._names) >= MEMBERS_MAX:
                raise wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
            self._names[cell] = _named(self._sheet, cell)
        return self._names[cell]


def _named(sheet: Sheet, text: str) -> str:
    """The member that a column or a cell stands for; empty where it is left out."""
    members = sheet.template.members
    if members:
        if text not in members:
            sheet.left_out.add(text[:63])
        return str(members.get(text, ""))
    try:
        name = NAME.decode(text)
    except Rejected:
        name = ""
    # The number of a delivery point could be a name, and is nobody's.
    if not name or _POINT.fullmatch(name):
        raise ConfigurationError(
            f"{text[:63]!r} is no member's name: say in [members] of the template who it is"
        )
    return name
