"""A DLMS/COSEM meter that is asked: over RS485, an optical port or TCP, in clear or with keys.

One reading after the other, each of: the registers, then the clock. Between them the association is
kept, or released when they are far apart. Whatever goes wrong ends it, is told, and the next try
begins with the link.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cryptometer.steps import NS_PER_S
from hal.index.axdr import (
    Datum,
    Malformed,
    MeterClock,
    NotRead,
    ScalerUnit,
    Tag,
    decode_clock,
    decode_data,
    encode_clock,
    encode_data,
    scaler_unit_of,
)
from hal.index.dlms_association import (
    Association,
    Attribute,
    Failed,
    Library,
    Terms,
)
from hal.index.dlms_link import (
    Answer,
    Down,
    Event,
    HdlcLink,
    Link,
    Lost,
    OpticalLink,
    Patience,
    Up,
    WrapperLink,
)
from hal.index.hdlc import Address
from hal.index.objects import CLOCK, Entry, Said, reading_of
from hal.index.reading import (
    Caveat,
    Index,
    LineForm,
    Past,
    Reading,
    Refusal,
    Refused,
    Register,
)

_DATA, _REGISTER, _PROFILE, _CLOCK_CLASS = 1, 3, 7, 8
_NUMBER = bytes((0, 0, 96, 1, 0, 255))
_NAME = bytes((0, 0, 42, 0, 0, 255))
_SCALER_UNIT, _BUFFER, _COLUMNS, _CAPTURE_PERIOD = 3, 2, 3, 4
_PUBLIC_CLIENT = 16
# What a meter answers for an object that it has not, or does not show to this client.
_NOT_THERE = (
    "read write denied",
    "object undefined",
    "object class inconsistent",
    "object unavailable",
    "scope of access violated",
)

VALUE_MAX = 65_536  # bytes of one value, all blocks together: a day of a wide profile has 20,000
PAST_QUESTIONS_MAX = 64
PAST_SPAN_S = 86_400  # of one question to a load profile: 96 rows
RETRY_NS = 5 * NS_PER_S
RETRY_MAX_NS = 300 * NS_PER_S


class Transport(StrEnum):
    """The way to a meter."""

    HDLC = "hdlc"
    OPTICAL = "optical"
    WRAPPER = "wrapper"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a meter is asked.

    Attributes:
        transport: the way to it.
        client: its address of the client: 16 is the public one.
        logical: address of the logical device in it.
        physical: its own address on the bus; None: it has none, and addresses have one byte.
        address_size: bytes of both together, 2 or 4.
        baud: of the line; at an optical port the greatest.
        terms: of the association.
        counter: the first invocation counter that was never used with the keys.
        counter_from: OBIS code of the meter's own record of it, which the public client reads
            first; empty: `counter` counts.
        imported, exported: OBIS codes of the registers; empty: is not read.
        number: OBIS code of the meter's number.
        profile: OBIS code of its load profile.
        period_ns: between two readings.
        release: the association is ended after each reading.
        unitless_exponent: of ten, in Wh, where the meter states no unit.
        information_max: bytes in an HDLC frame that are proposed.
        patience: with its answers.
    """

    transport: Transport = Transport.HDLC
    client: int = _PUBLIC_CLIENT
    logical: int = 1
    physical: int | None = None
    address_size: int = 2
    baud: int = 9_600
    terms: Terms = field(default_factory=Terms)
    counter: int = 0
    counter_from: bytes = b""
    imported: bytes = bytes((1, 0, 1, 8, 0, 255))
    exported: bytes = bytes((1, 0, 2, 8, 0, 255))
    number: bytes = _NUMBER
    profile: bytes = bytes((1, 0, 99, 1, 0, 255))
    period_ns: int = 10 * NS_PER_S
    release: bool = False
    unitless_exponent: int = 0
    information_max: int = 512
    patience: Patience = field(default_factory=Patience)


def link_to(settings: ClientSettings, client: int) -> Link:
    """The link of a client with this address."""
    if settings.transport is Transport.WRAPPER:
        return WrapperLink(client, settings.logical, settings.patience)
    server = Address(settings.logical)
    if settings.physical is not None:
        server = Address(settings.logical, settings.physical, settings.address_size)
    hdlc = HdlcLink(
        Address(client),
        server,
        LineForm(settings.baud),
        settings.patience,
        settings.information_max,
    )
    return OpticalLink(hdlc, settings.patience) if settings.transport is Transport.OPTICAL else hdlc


_Script = Generator[bytes, Answer, None]  # sends messages, takes their answers


@dataclass(frozen=True, slots=True)
class _Column:
    """Of a load profile."""

    code: bytes
    attribute: int


class DlmsClient:
    """Asks one meter; see `Remembering` and `TakingTurns`."""

    def __init__(self, settings: ClientSettings, draw: Callable[[int], bytes]) -> None:
        """
        Args:
            settings: of the meter.
            draw: gives so many random bytes, for challenges.

        Raises:
            ImportError: dlms-cosem is not installed.
        """
        self._settings, self._draw = settings, draw
        self._library = Library()
        self._counter = settings.counter
        self._counter_known = not settings.counter_from
        self._link = link_to(settings, self._first_client)
        self._association: Association | None = None  # that stands
        self._associating: Association | None = None  # that is being made: it counts, too
        self._script: _Script | None = None
        self._bringing: Callable[[], _Script] | None = None  # what runs once the link stands
        self._keys_follow = False  # the public client is done, the one with keys follows
        self._leaving = False  # the association is being released
        self._was_absent = False  # it did not even answer the call
        self._next_ns: int | None = None  # of the next reading; None: at the first look
        self._failures = 0
        self._found: list[Reading | Refusal] = []
        self._questions: deque[tuple[int, int]] = deque()
        self._past: list[Past | Refusal] = []
        # What the meter said of itself, and will not say otherwise within the association.
        self._numbers: tuple[Entry, ...] = ()
        self._units: dict[bytes, ScalerUnit | None] = {}
        self._absent: set[bytes] = set()
        self._columns: tuple[_Column, ...] = ()
        self._capture_period_s = 0

    @property
    def _first_client(self) -> int:
        return self._settings.client if self._counter_known else _PUBLIC_CLIENT

    @property
    def form(self) -> LineForm:
        return self._link.form

    @property
    def due_ns(self) -> int | None:
        if self._busy or self._link.due_ns is not None:
            return self._link.due_ns
        return 0 if self._next_ns is None else self._next_ns

    @property
    def counter(self) -> int:
        """The next invocation counter that was not used. Whoever keeps it gives it to the next
        run: a counter must never be used twice."""
        standing = self._associating or self._association
        return self._counter if standing is None else max(self._counter, standing.counter)

    @property
    def is_busy(self) -> bool:
        """See `TakingTurns`."""
        return self._busy or self._link.due_ns is not None

    @property
    def _busy(self) -> bool:
        return self._script is not None or self._bringing is not None

    def ask_past(self, from_s: int, to_s: int) -> None:
        """See `Remembering`; both ends are included. Beyond PAST_QUESTIONS_MAX days nothing more is
        asked for."""
        while from_s <= to_s and len(self._questions) < PAST_QUESTIONS_MAX:
            until_s = min(to_s, from_s + PAST_SPAN_S)
            self._questions.append((from_s, until_s))
            from_s = until_s + 1

    def take_past(self) -> list[Past | Refusal]:
        past, self._past = self._past, []
        return past

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        was_busy = self.is_busy
        for event in self._link.receive(data, at_ns):
            self._take(event, at_ns)
        # What ends here ends the turn, too, however soon the next reading is due.
        if not was_busy and (self._next_ns is None or at_ns >= self._next_ns):
            self._begin(at_ns)
        found, self._found = self._found, []
        return found

    def speak(self, now_ns: int) -> bytes:
        return self._link.speak(now_ns)

    # --- From one reading to the next. -----------------------------------------------------------

    def _begin(self, at_ns: int) -> None:
        # The cadence is kept, whatever a reading takes; what was missed is not made up for.
        due_ns = at_ns if self._next_ns is None else self._next_ns
        missed = (at_ns - due_ns) // self._settings.period_ns
        self._next_ns = due_ns + (missed + 1) * self._settings.period_ns
        if self._association is not None:
            self._run(self._round(self._association), at_ns)
        elif self._counter_known:
            self._bring(self._settings.client, self._reading, at_ns)
        else:
            self._bring(_PUBLIC_CLIENT, self._counting, at_ns)

    def _bring(self, client: int, script: Callable[[], _Script], at_ns: int) -> None:
        settings = self._settings
        if self._was_absent:
            # It may still be away: others on its line do not wait for it three times.
            settings = replace(settings, patience=replace(settings.patience, calls=1))
        self._link = link_to(settings, client)
        self._bringing = script
        for event in self._link.bring_up():
            self._take(event, at_ns)

    def _take(self, event: Event, at_ns: int) -> None:
        match event:
            case Up() if self._bringing is not None:
                self._was_absent = False
                script, self._bringing = self._bringing, None
                self._run(script(), at_ns)
            case Answer() if self._script is not None:
                self._resume(event, at_ns)
            case Down():
                self._fell(at_ns)
            case Lost():
                self._was_absent = self._bringing is not None and event.reason is Refused.SILENT
                self._fail(event.reason, event.detail, at_ns)  # nothing is left to take down

    def _run(self, script: _Script, at_ns: int) -> None:
        self._script = script
        self._resume(None, at_ns)

    def _resume(self, answer: Answer | None, at_ns: int) -> None:
        script = self._script
        assert script is not None  # noqa: S101 - the callers see to it
        try:
            self._link.ask(next(script) if answer is None else script.send(answer))
        except StopIteration:
            self._script = None
            self._failures = 0
            if self._association is None:
                for event in self._link.take_down():
                    self._take(event, at_ns)
        except Failed as failed:
            self._give_up(failed.reason, failed.detail, at_ns)
        except Malformed as bad:
            reason = Refused.UNSUPPORTED if isinstance(bad, NotRead) else Refused.FORM
            self._give_up(reason, str(bad), at_ns)

    def _give_up(self, reason: Refused, detail: str, at_ns: int) -> None:
        """The link stands: an optical port would wait on it for minutes."""
        self._fail(reason, detail, at_ns)
        for event in self._link.take_down():
            self._take(event, at_ns)

    def _fell(self, at_ns: int) -> None:
        """The link was taken down: after the public client comes the other one."""
        if self._counter_known and not self._busy and self._keys_follow:
            self._keys_follow = False
            self._bring(self._settings.client, self._reading, at_ns)

    def _leave(self, at_ns: int) -> None:
        self._leaving, self._script, self._failures = False, None, 0
        for event in self._link.take_down():
            self._take(event, at_ns)

    def _fail(self, reason: Refused, detail: str, at_ns: int) -> None:
        if self._leaving:
            self._leave(at_ns)
            return
        if self._association is not None:
            self._counter = max(self._counter, self._association.counter)
        self._association = self._script = self._bringing = None
        self._counter_known = not self._settings.counter_from  # it may be what was wrong
        self._found.append(Refusal(reason, detail, at_ns))
        pause_ns = min(RETRY_NS << min(self._failures, 8), RETRY_MAX_NS)
        self._failures += 1
        self._next_ns = at_ns + pause_ns

    # --- What is asked. --------------------------------------------------------------------------

    def _counting(self) -> _Script:
        """The public client reads the invocation counter that the meter has seen last."""
        association = yield from self._associate(Terms())
        counted = yield from self._get(association, Attribute(_DATA, self._settings.counter_from))
        whole = None if counted is None else counted[0].whole
        if whole is None or whole < 0:
            raise Failed(Refused.METER_ERROR, "the meter does not say its invocation counter")
        self._counter = max(self._counter, whole + 1)
        self._counter_known = self._keys_follow = True
        yield from self._release(association)

    def _associate(self, terms: Terms) -> Generator[bytes, Answer, Association]:
        association = Association(self._library, terms, self._counter, self._draw)
        if terms.keys is not None:
            self._associating = association
        try:
            answer = yield association.request()
            reply = association.accept(answer.message)
            if reply is not None:
                answer = yield reply
                association.accept_reply(answer.message)
        finally:
            self._associating = None
            if terms.keys is not None:
                self._counter = max(self._counter, association.counter)
        return association

    def _reading(self) -> _Script:
        association = yield from self._associate(self._settings.terms)
        self._association = association
        yield from self._describe(association)
        yield from self._round(association)

    def _describe(self, association: Association) -> _Script:
        """What stays: the meter's number, scalers and units. Anew in every association: the meter
        may have been exchanged before it."""
        self._numbers, self._columns = (), ()
        self._units.clear()
        self._absent.clear()
        for code in dict.fromkeys((self._settings.number, _NAME)):
            found = yield from self._get(association, Attribute(_DATA, code))
            if found is not None:
                as_number = _NUMBER if code == self._settings.number else code
                self._numbers = (Entry(as_number, found[0]),)
                break
        for code in self._registers:
            found = yield from self._get(association, Attribute(_REGISTER, code, _SCALER_UNIT))
            self._units[code] = None if found is None else scaler_unit_of(found[0])

    @property
    def _registers(self) -> tuple[bytes, ...]:
        codes = (self._settings.imported, self._settings.exported)
        return tuple(code for code in codes if code and code not in self._absent)

    def _round(self, association: Association) -> _Script:
        """One reading, what of the past was asked for, and the release if it is asked for."""
        entries, times_ns = list(self._numbers), list[int]()
        for code in self._registers:
            found = yield from self._get(association, Attribute(_REGISTER, code), needed=True)
            if found is None:
                self._absent.add(code)
                continue
            datum, answer = found
            times_ns += [answer.asked_ns, answer.came_ns]
            entries.append(Entry(self._canonical(code), datum, self._units.get(code)))
        if not times_ns:
            raise Failed(Refused.NO_INDEX, "the meter has none of the registers")
        clock = yield from self._clock(association)
        self._found.append(
            reading_of(
                Said(tuple(entries)),
                notified=clock,
                title=association.title,
                times_ns=(times_ns[0], times_ns[-1]),
                caveats=frozenset(),
                unitless_exponent=self._settings.unitless_exponent,
            )
        )
        if self._questions:  # one a reading: weeks of it would keep others of the line waiting
            span = self._questions.popleft()
            try:
                rows = yield from self._past_of(association, span, clock)
            except (Failed, Malformed) as bad:
                reason = bad.reason if isinstance(bad, Failed) else Refused.FORM
                self._past.append(Refusal(reason, str(bad), times_ns[-1]))
                if isinstance(bad, Failed) and reason is not Refused.METER_ERROR:
                    raise
            else:
                self._past += rows
        if self._settings.release:
            yield from self._release(association)

    def _release(self, association: Association) -> _Script:
        """Not every meter answers to it, and none needs to: the link is taken down anyway."""
        self._leaving, self._association = True, None
        message = association.release()
        self._counter = max(self._counter, association.counter)
        yield message
        self._leaving = False

    def _canonical(self, code: bytes) -> bytes:
        """Where a reading looks for a register."""
        group = 1 if code == self._settings.imported else 2
        return bytes((1, 0, group, 8, 0, 255))

    def _clock(self, association: Association) -> Generator[bytes, Answer, MeterClock | None]:
        if CLOCK in self._absent:
            return None
        found = yield from self._get(association, Attribute(_CLOCK_CLASS, CLOCK))
        if found is None:
            self._absent.add(CLOCK)
            return None
        return decode_clock(found[0].octets)

    def _get(
        self,
        association: Association,
        attribute: Attribute,
        selection: bytes = b"",
        *,
        needed: bool = False,
    ) -> Generator[bytes, Answer, tuple[Datum, Answer] | None]:
        """The value of an attribute, and the answer that brought its last byte, with the time of
        the first question. None: the meter has none, or does not show it.

        Args:
            association: that stands.
            attribute: which.
            selection: of its rows.
            needed: an error that may pass is no absence.

        Raises:
            Failed: there is no answer to it.
            Malformed: the value is not A-XDR.
        """
        answer = yield association.get(attribute, selection)
        asked_ns, value, number = answer.asked_ns, bytearray(), 0
        while True:
            got = association.got(answer.message)
            if got.error and needed and got.error not in _NOT_THERE:
                raise Failed(Refused.METER_ERROR, f"the meter cannot: {got.error}")
            if got.error:
                return None
            if not got.last or number:
                if got.block != number + 1:
                    raise Failed(Refused.FORM, f"block {got.block} after {number}")
                number = got.block
            value += got.data
            if len(value) > VALUE_MAX:
                raise Failed(Refused.TOO_LONG, f"a value of more than {VALUE_MAX} bytes")
            if got.last:
                break
            answer = yield association.get_next(number)
        datum, end = decode_data(value)
        if end != len(value):
            raise Malformed(f"{len(value) - end} bytes follow a value")
        return datum, replace(answer, asked_ns=asked_ns)

    # --- The load profile. -----------------------------------------------------------------------

    def _past_of(
        self, association: Association, span: tuple[int, int], clock: MeterClock | None
    ) -> Generator[bytes, Answer, list[Past]]:
        """The rows of a load profile within a span, unix seconds, both ends included.

        Raises:
            Failed: the meter has no profile, or does not give it.
            Malformed: the rows are none.
        """
        profile = self._settings.profile
        if clock is None or clock.deviation_min is None:
            raise Failed(Refused.METER_ERROR, "the meter's clock does not say how far UTC is")
        if not self._columns:
            columns = yield from self._get(association, Attribute(_PROFILE, profile, _COLUMNS))
            period = yield from self._get(
                association, Attribute(_PROFILE, profile, _CAPTURE_PERIOD)
            )
            if columns is None:
                raise Failed(Refused.METER_ERROR, "the meter shows no load profile")
            self._columns = _columns(columns[0])
            self._capture_period_s = (None if period is None else period[0].whole) or 0
        selection = _range(span, clock.deviation_min)
        found = yield from self._get(association, Attribute(_PROFILE, profile, _BUFFER), selection)
        if found is None:
            raise Failed(Refused.METER_ERROR, "the meter does not give its load profile")
        rows = self._rows(found[0], self._identity(association))
        return [row for row in rows if span[0] <= row.at_s <= span[1]]

    def _identity(self, association: Association) -> str:
        said = Said(self._numbers)
        return reading_of(
            said, notified=None, title=association.title, times_ns=(0, 0), caveats=frozenset()
        ).identity

    def _rows(self, buffer: Datum, identity: str) -> list[Past]:
        """Rows in order of time. A null stands for what the row before says, of a clock one
        capture period later (IEC 62056-62 §4.3.6)."""
        rows: list[Past] = []
        before: list[Datum] = []
        at_s: int | None = None
        for element in buffer.elements:
            cells = list(element.elements)
            if len(cells) != len(self._columns):
                raise Malformed(f"a row of {len(cells)} values under {len(self._columns)} columns")
            indexes: dict[Register, Index] = {}
            caveats: set[Caveat] = set()
            for place, (column, cell) in enumerate(zip(self._columns, cells, strict=True)):
                if column.code == CLOCK:
                    at_s, doubtful = self._row_time(cell, at_s)
                    caveats |= {Caveat.CLOCK_DEGRADED} if doubtful else set()
                    continue
                if cell.tag is Tag.NULL:
                    if not before:
                        raise Malformed("the first row leaves a value out")
                    cells[place] = before[place]
                self._row_value(column, cells[place], indexes, caveats)
            before = cells
            if at_s is None:
                raise Malformed("a row without a time that can be placed in UTC")
            if rows and at_s <= rows[-1].at_s:
                raise Malformed("rows that go back in time")
            imported, exported = indexes.get(Register.IMPORT), indexes.get(Register.EXPORT)
            rows.append(Past(identity, imported, exported, at_s, frozenset(caveats)))
        return rows

    def _row_time(self, cell: Datum, before_s: int | None) -> tuple[int | None, bool]:
        if cell.tag is not Tag.NULL:
            clock = decode_clock(cell.octets)
            return clock.unix_s, clock.degraded
        if before_s is None or self._capture_period_s <= 0:
            raise Malformed("a row leaves its time out, and there is none to count from")
        return before_s + self._capture_period_s, False

    def _row_value(
        self,
        column: _Column,
        cell: Datum,
        indexes: dict[Register, Index],
        caveats: set[Caveat],
    ) -> None:
        codes = {self._settings.imported: Register.IMPORT, self._settings.exported: Register.EXPORT}
        register = codes.get(column.code)
        if register is None or column.attribute != 2:
            return
        entry = Entry(self._canonical(column.code), cell, self._units.get(column.code))
        reading = reading_of(
            Said((entry,)),
            notified=None,
            title=b"",
            times_ns=(0, 0),
            caveats=frozenset(),
            unitless_exponent=self._settings.unitless_exponent,
        )
        index = reading.index_of(register)
        if index is not None:
            indexes[register] = index
        caveats |= reading.caveats


def _columns(datum: Datum) -> tuple[_Column, ...]:
    """Of a profile's list of capture objects.

    Raises:
        Malformed: it is none.
    """
    columns = []
    for element in datum.elements:
        match element.elements:
            case (
                Datum(Tag.LONG_UNSIGNED),
                Datum(Tag.OCTET_STRING, bytes() as code),
                Datum(Tag.INTEGER, int() as attribute),
                Datum(Tag.LONG_UNSIGNED),
                *_,
            ) if len(code) == len(CLOCK):
                columns.append(_Column(code, attribute))
            case _:
                raise Malformed("a column of a profile that is no object")
    if not any(column.code == CLOCK for column in columns):
        raise Malformed("a profile without a clock")
    return tuple(columns)


def _range(span: tuple[int, int], deviation_min: int) -> bytes:
    """A selection of rows by their clock, in the form of the meter's own (IEC 62056-62 §4.3.6)."""
    clock = Datum(
        Tag.STRUCTURE,
        (
            Datum(Tag.LONG_UNSIGNED, _CLOCK_CLASS),
            Datum(Tag.OCTET_STRING, CLOCK),
            Datum(Tag.INTEGER, 2),
            Datum(Tag.LONG_UNSIGNED, 0),
        ),
    )
    bounds = (Datum(Tag.OCTET_STRING, encode_clock(at_s, deviation_min)) for at_s in span)
    return b"\x01" + encode_data(Datum(Tag.STRUCTURE, (clock, *bounds, Datum(Tag.ARRAY, ()))))
