"""What the rows of a load curve say of each member: texts in, energies of intervals out."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo

from cryptometer.curve_days import Days
from cryptometer.curve_rows import some, wrong
from cryptometer.curve_template import Stamp, Template, Unit
from cryptometer.curve_times import Moment, Order, Values, Whose, check_until, time_text
from cryptometer.errors import Reason, Rejected
from cryptometer.metrology import SECONDS_PER_HOUR

MEMBERS_MAX = 10_000
# A year of 28 members in quarters of an hour; 100 MB while it is read.
VALUES_MAX = 1_000_000
# No member takes a terawatt-hour in an hour: the unit is another one, or the column.
INTERVAL_UWH_MAX = 10**15
_TWICE_MAX = 100_000  # values in hours that come twice, which wait for the file's end
_DIGITS = r"([0-9]{0,15})(?:%s([0-9]{0,24}))?"
_POINT, _COMMA = re.compile(_DIGITS % r"\."), re.compile(_DIGITS % ",")
_UWH = {Unit.W: 10**6, Unit.KW: 10**9, Unit.WH: 10**6, Unit.KWH: 10**9}


class Sheet:
    """What was read so far. Intervals begin with whole multiples of `grid_s`."""

    def __init__(self, template: Template, zone: tzinfo, grid_s: int) -> None:
        self.template = template
        self.zone = zone
        self.left_out: set[str] = set()
        self.rows_left_out = 0
        self._grid_s = grid_s
        self._number = _COMMA if template.decimal_comma else _POINT
        self._factor = _UWH[template.unit] * (
            template.interval_s if template.unit in {Unit.W, Unit.KW} else SECONDS_PER_HOUR
        )
        # By the interval's begin; None where a row has no value.
        self._values: dict[Whose, dict[int, int | None]] = {}
        self._count = 0
        self._orders: dict[Whose, Order] = {}
        self._days = Days(template, zone)
        self._twice = 0

    def add(self, key: Whose, moment: Moment, values: Values) -> None:
        """Takes a row: what it says, in µWh. `key` says whose order it is in."""
        self._add(self._orders.setdefault(key, Order()), moment, values)

    def add_day(self, row: Iterable[tuple[Moment, Values]]) -> None:
        """Takes a row of a whole day, whose times have an order of their own."""
        order = Order()
        for moment, values in row:
            self._add(order, moment, values)
        self._put_apart(order)

    def add_numbered(self, line: int, day: datetime, number: int, values: Values) -> None:
        """Takes what is said of an interval by its number in a local day. One that the day does not
        have must be empty."""
        moment = self._days.moment(line, day, number)
        if moment is not None:
            self._days.see(line, day, number, [whose for whose, _ in values])
            self._put(moment, moment.local_s, values)
        elif any(value is not None for _, value in values):
            raise self._days.beyond(line, day, number)

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

    def finish(self) -> Iterator[tuple[str, Mapping[int, int | None]]]:
        """All that was read, once: each member, and what he consumed in each interval, µWh, by its
        begin in UTC; None where a row has no value.

        Raises:
            Rejected: what came twice cannot be told apart, a day is not whole, or nothing was read.
        """
        for order in self._orders.values():
            self._put_apart(order)
        self._days.check()
        if not self._values:
            raise Rejected(
                Reason.MALFORMED,
                "the load curve has no row that counts"
                + (f"; left out were {some(sorted(self.left_out))}" if self.left_out else ""),
            )
        registers: dict[str, list[str]] = {}
        for name, register in self._values:
            registers.setdefault(name, []).append(register)
        # One by one: a member's values are let go before the next one's become steps.
        for name in sorted(registers):
            yield name, self._sums(name, registers[name])

    def _add(self, order: Order, moment: Moment, values: Values) -> None:
        zoned = len(moment.offsets_s)
        if not zoned:
            if any(value is not None for _, value in values):
                raise wrong(
                    moment.line,
                    f"{time_text(moment.local_s)} does not exist in {self.template.zone}, clocks"
                    " were put forward there: are `zone` and `stamp` right in the template?",
                )
            return
        order.see(moment)
        if zoned == 1:
            self._put(moment, moment.local_s - moment.offsets_s[0], values)
            return
        self._twice += len(values)
        if self._twice > _TWICE_MAX:
            raise wrong(
                moment.line,
                "too many values in hours that come twice: give times with their offset",
            )
        order.twice.append((moment, values))

    def _put_apart(self, order: Order) -> None:
        for moment, stamp_s, values in order.told_apart(self.template):
            self._put(moment, stamp_s, values)

    def _put(self, moment: Moment, stamp_s: int, values: Values) -> None:
        """Takes what a row says; `stamp_s` is its time in UTC."""
        line = moment.line
        begin_s = stamp_s - self.template.interval_s * (self.template.stamp is Stamp.END)
        if begin_s % self._grid_s:
            raise wrong(line, "its interval does not begin with a market step: is `zone` right?")
        check_until(moment, begin_s, self.template, self.zone)
        for whose, energy_uwh in values:
            known = self._values.setdefault(whose, {})
            if len(self._values) > MEMBERS_MAX:
                raise wrong(line, f"more than {MEMBERS_MAX} members: divide the file")
            self._count += begin_s not in known
            before = known.setdefault(begin_s, energy_uwh)
            if before is None:
                known[begin_s] = energy_uwh
            elif energy_uwh not in (None, before):
                raise wrong(
                    line,
                    f"{time_text(begin_s)}Z is given again for {whose[0]}, with another value: one"
                    " of the two rows must go, or `register` say what tells them apart",
                )
            if self._count > VALUES_MAX:
                raise wrong(
                    line, f"more than {VALUES_MAX} values: divide the file by months or members"
                )

    def _sums(self, name: str, registers: Sequence[str]) -> dict[int, int | None]:
        """What a member's registers say together: nothing of an interval where a row of one has no
        value."""
        sums = self._values.pop((name, registers[0]))
        for register in registers[1:]:
            for begin_s, energy_uwh in self._values.pop((name, register)).items():
                before = sums.get(begin_s, 0)
                if before is None or energy_uwh is None:
                    sums[begin_s] = None
                elif before + energy_uwh > INTERVAL_UWH_MAX:
                    raise Rejected(
                        Reason.MALFORMED,
                        f"the registers of {name} have too much at {time_text(begin_s)}Z: is `unit`"
                        " right?",
                    )
                else:
                    sums[begin_s] = before + energy_uwh
        return sums
