"""Load curves that a grid operator gives as CSV: bytes in, energy per market step out.

No file is opened and no clock is read; the time zone is an argument. A file is read whole, or
refused whole with the row that is wrong. Nothing is guessed, nothing is interpolated, and what is
missing is a gap, never zero.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import pairwise

from cryptometer.curve_rows import Columns, header_of, place_of, rows_of, some, wrong
from cryptometer.curve_template import Stamp, Template, Unit, check_whose
from cryptometer.curve_times import Moment, Order, Values, read_moment, time_text
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.metrology import SECONDS_PER_HOUR
from cryptometer.record_fields import NAME

MEMBERS_MAX = 10_000
# A year of 28 members in quarters of an hour; 100 MB while it is read.
VALUES_MAX = 1_000_000
# No member takes a terawatt-hour in an hour: the unit is another one, or the column.
INTERVAL_UWH_MAX = 10**15
_TWICE_MAX = 100_000  # values in hours that come twice, which wait for the file's end
_DIGITS = r"([0-9]{0,15})(?:%s([0-9]{0,24}))?"
_POINT, _COMMA = re.compile(_DIGITS % r"\."), re.compile(_DIGITS % ",")
_UWH = {Unit.W: 10**6, Unit.KW: 10**9, Unit.WH: 10**6, Unit.KWH: 10**9}


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
    check_whose(template, member)
    rows = rows_of(chunks, template)
    header = header_of(rows, template)
    sheet = _Sheet(template, zone, step_s)
    if template.value:
        _read_long(rows, header, sheet, member)
    else:
        _read_wide(rows, header, sheet)
    return sheet.finish()


class _Sheet:
    """What was read so far."""

    def __init__(self, template: Template, zone: tzinfo, step_s: int) -> None:
        self.template = template
        self.zone = zone
        self.left_out: set[str] = set()
        self.rows_left_out = 0
        self._step_s = step_s
        self._grid_s = min(step_s, template.interval_s)
        self._number = _COMMA if template.decimal_comma else _POINT
        self._factor = _UWH[template.unit] * (
            template.interval_s if template.unit in {Unit.W, Unit.KW} else SECONDS_PER_HOUR
        )
        self._values: dict[str, dict[int, int]] = {}  # by member and the interval's begin
        self._spans: dict[str, tuple[int, int]] = {}
        self._count = 0
        self._orders: dict[str, Order] = {}
        self._twice = 0

    def add(self, key: str, moment: Moment, values: Values) -> None:
        """Takes a row: what it says of members, in µWh. `key` says whose order it is in."""
        zoned = len(moment.offsets_s)
        if not zoned:
            if any(value is not None for _, value in values):
                raise wrong(
                    moment.line,
                    f"{time_text(moment.local_s)} does not exist in {self.template.zone}, clocks"
                    " were put forward there: are `zone` and `stamp` right in the template?",
                )
            return
        order = self._orders.setdefault(key, Order())
        order.see(moment)
        if zoned == 1:
            self._put(moment.line, moment.local_s - moment.offsets_s[0], values)
            return
        self._twice += len(values)
        if self._twice > _TWICE_MAX:
            raise wrong(
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
            raise wrong(
                line,
                f"{text[:40]!r} is no value: write digits with a decimal {comma} (`decimal_comma`),"
                " or nothing where none was measured",
            )
        digits = int(whole + part)
        if is_negative and digits:
            raise wrong(
                line,
                f"{text[:40]} is negative, and consumption is not: leave out what is given to the"
                " grid, or name the column of what is taken from it",
            )
        scale = SECONDS_PER_HOUR * 10 ** len(part)
        energy_uwh: int = (2 * digits * self._factor + scale) // (2 * scale)
        if energy_uwh > INTERVAL_UWH_MAX:
            raise wrong(line, f"{text[:40]} {self.template.unit} is too much: is `unit` right?")
        return energy_uwh

    def finish(self) -> LoadCurve:
        """All that was read.

        Raises:
            Rejected: what came twice cannot be told apart, or nothing was read.
        """
        for order in self._orders.values():
            for moment, stamp_s, values in order.told_apart(self.template.zone):
                self._put(moment.line, stamp_s, values)
        if not self._spans:
            raise Rejected(
                Reason.MALFORMED,
                "the load curve has no row that counts"
                + (f"; left out were {some(sorted(self.left_out))}" if self.left_out else ""),
            )
        return LoadCurve(
            {name: self._series(name) for name in sorted(self._spans)},
            self.template.interval_s > self._step_s,
            tuple(sorted(self.left_out)),
            self.rows_left_out,
        )

    def _put(self, line: int, stamp_s: int, values: Values) -> None:
        """Takes what a row says; `stamp_s` is its time in UTC."""
        begin_s = stamp_s - self.template.interval_s * (self.template.stamp is Stamp.END)
        if begin_s % self._grid_s:
            raise wrong(line, "its interval does not begin with a market step: is `zone` right?")
        for name, energy_uwh in values:
            first_s, last_s = self._spans.get(name, (begin_s, begin_s))
            self._spans[name] = min(first_s, begin_s), max(last_s, begin_s)
            if len(self._spans) > MEMBERS_MAX:
                raise wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
            if energy_uwh is None:
                continue
            known = self._values.setdefault(name, {})
            before = known.setdefault(begin_s, energy_uwh)
            if before != energy_uwh:
                raise wrong(
                    line,
                    f"{time_text(begin_s)}Z is given again for {name}, with another value: one of"
                    " the two rows must go",
                )
            self._count += 1
            if self._count > VALUES_MAX:
                raise wrong(
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
                            f"intervals of {name} overlap at {time_text(begin_s)}Z: are `zone` and"
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


def _read_long(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: _Sheet, member: str
) -> None:
    """Rows of one value each."""
    template = sheet.template
    columns = Columns(header, template)
    at = place_of(header, template.value)
    whose = place_of(header, template.member) if template.member else None
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
                    raise wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
                names[cell] = _named(sheet, cell)
            name = names[cell]
            if not name:
                continue
        moment = read_moment(line, columns.time(cells), template, sheet.zone)
        sheet.add(name, moment, [(name, sheet.energy_uwh(line, cells[at]))])


def _read_wide(rows: Iterable[tuple[int, list[str]]], header: Sequence[str], sheet: _Sheet) -> None:
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
    members = [(place, name) for place, name in named if name]
    names = {name for _, name in members}
    if len(names) != len(members) or not members:
        raise ConfigurationError(
            f"the load curve needs a column for each member, of another name; it has"
            f" {some(header)}. Set `value`, or [members], in the template"
        )
    for line, row in rows:
        cells = columns.fit(line, row)
        if not columns.is_wanted(cells):
            sheet.rows_left_out += 1
            continue
        moment = read_moment(line, columns.time(cells), template, sheet.zone)
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
