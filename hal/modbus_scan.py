"""What is on a Modbus bus: which addresses answer, at which speed, and which meters they are.

On RTU an answer may come after its question was given up, and would be taken for that of the next
one: then others are asked first, until nothing else is left to come (`hal.index.modbus_owed`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cryptometer.errors import ConfigurationError
from hal.index.modbus_map import (
    Asked,
    MeterMap,
    Name,
    Question,
    Unit,
    decode_index,
    decode_name,
    is_expected,
)
from hal.index.modbus_owed import Owed
from hal.index.reading import Index, Parity, Reading, Refused
from hal.modbus_line import Answer, BusLine, Framing, ModbusLine

# As meters leave their makers, the commonest first: SDM230/630 and EM340; ABB and iEM; PRO380;
# SDM120; and what is chosen on long or busy lines.
LINE_FORMS = (
    (9_600, Parity.NONE),
    (19_200, Parity.EVEN),
    (9_600, Parity.EVEN),
    (2_400, Parity.NONE),
    (19_200, Parity.NONE),
    (38_400, Parity.NONE),
    (38_400, Parity.EVEN),
    (4_800, Parity.NONE),
    (57_600, Parity.NONE),
    (115_200, Parity.NONE),
)
BAUD_MIN, BAUD_MAX = 300, 115_200
# A meter answers at least one of them, be it that it has no such register.
_PRESENCE = (Question(3, 0, 1), Question(4, 0, 2))
_TRIES = 2  # of a question that tells which meter it is
_NOBODY = frozenset({Refused.SILENT})
_UNREADABLE = frozenset({Refused.CHECKSUM, Refused.INCOMPLETE})


@dataclass(frozen=True, slots=True)
class Found:
    """An address that answers.

    Attributes:
        line: the bus, as it must be set.
        address: on it.
        map: what fits; None: none does.
        is_certain: the meter named its model; else the map's registers merely look right.
        serial: its number; empty where it told none.
        model: likewise.
        reading: its index now; None where it could not be read.
        note: what stands against it; may be empty.
    """

    line: BusLine
    address: int
    map: MeterMap | None = None
    is_certain: bool = False
    serial: str = ""
    model: str = ""
    reading: Reading | None = None
    note: str = ""


def bus_lines(
    device: str, host: str, port: int, *, baud: int | None, parity: str | None, is_rtu: bool
) -> list[BusLine]:
    """The ways to set a bus that are worth a try.

    Args:
        device: the serial port; empty: TCP.
        host: of a TCP connection.
        port: likewise.
        baud: this speed only; None: the usual ones.
        parity: likewise.
        is_rtu: frames over TCP are as on a serial line.

    Raises:
        ConfigurationError: the speed or the port is out of range.
    """
    if not device:
        if not 1 <= port <= 65_535:
            raise ConfigurationError("--port is from 1 to 65535")
        return [BusLine(host=host, port=port, framing=Framing.RTU if is_rtu else Framing.TCP)]
    if baud is not None and not BAUD_MIN <= baud <= BAUD_MAX:
        raise ConfigurationError(f"--baud is from {BAUD_MIN} to {BAUD_MAX}")
    forms = [
        (speed, even)
        for speed, even in LINE_FORMS
        if baud in (None, speed) and parity in (None, even)
    ]
    if not forms:
        forms = [(baud or 9_600, Parity(parity or Parity.NONE))]
    return [BusLine(device, speed, even) for speed, even in forms]


def addresses_in(text: str, *, is_serial: bool) -> list[int]:
    """Addresses and ranges of them, as `1,5,17-20`.

    Raises:
        ConfigurationError: it is no such list, or out of range.
    """
    low, high = (1, 247) if is_serial else (0, 255)
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and len(part) <= 9):
            raise ConfigurationError(f"--addresses is a list as 1,5,17-20, not {text!r}")
        begin, end = int(first), int(last)
        if not low <= begin <= end <= high:
            raise ConfigurationError(f"--addresses are from {low} to {high}, and not {part}")
        found |= set(range(begin, end + 1))
    return sorted(found)


def scan(
    lines: Iterable[BusLine],
    addresses: Sequence[int],
    maps: Sequence[MeterMap],
    patience_s: float,
    tell: Callable[[str], None],
) -> list[Found]:
    """Asks every address of a bus.

    Args:
        lines: the ways to set it: the first one at which somebody answers is kept.
        addresses: to ask.
        maps: the meters that are known.
        patience_s: how long an answer may take.
        tell: is told how far it is.

    Raises:
        LineLost: the line cannot be opened, or is gone.
    """
    return asyncio.run(_scan(lines, addresses, maps, patience_s, tell))


async def _scan(
    lines: Iterable[BusLine],
    addresses: Sequence[int],
    maps: Sequence[MeterMap],
    patience_s: float,
    tell: Callable[[str], None],
) -> list[Found]:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    unclear: list[Found] = []
    for line in lines:
        tell(f"{_form(line)}: {len(addresses)} addresses")
        bus = ModbusLine(line)
        await bus.open()
        try:
            probes = probes_beside(maps)
            askers = [_Asker(bus, line, address, patience_s, probes) for address in addresses]
            found = [await _examine(one, maps) for one in askers if await _is_there(one, unclear)]
        finally:
            bus.close()
        if found:
            return found
    return unclear


def probes_beside(maps: Sequence[MeterMap]) -> tuple[Question, Question]:
    """Two questions, of either kind of register, whose answers can be taken for that of no other
    question of a scan."""
    taken = {(one.function, one.count) for one in _PRESENCE}
    for one in maps:
        names = [name.question for name in (one.serial, one.model) if name is not None]
        taken |= {(each.function, each.count) for each in (*one.index, *names)}
    first, second = (
        next(Question(kind, 0, count) for count in range(1, 126) if (kind, count) not in taken)
        for kind in (3, 4)
    )
    return first, second


@dataclass(slots=True)
class _Asker:
    """One address of an open bus, and what it has not surely answered."""

    bus: ModbusLine
    line: BusLine
    address: int
    patience_s: float
    probes: tuple[Question, Question]
    owed: Owed = Owed()  # noqa: RUF009 - it is frozen

    async def ask(self, question: Question) -> Answer:
        """Asks at once: only whether anything answers can be told from it."""
        self.owed = self.owed.with_asked(question)
        answer = await self.bus.ask(self.address, question, self.patience_s)
        is_error = answer.refusal is not None
        if answer.refusal is None or answer.refusal.reason is Refused.METER_ERROR:
            self.owed = self.owed.without_answered(is_error=is_error)
        if answer.is_unknown and self._may_owe:
            # It may be the probe that asked for what the meter does not have.
            return replace(answer, is_unknown=False)
        return answer

    async def ask_surely(self, question: Question) -> Answer:
        """Asks so that the answer is this question's own."""
        for _ in range(_TRIES):
            answer = await self._settle() or await self.ask(question)
            if answer.refusal is None:
                break
            if answer.refusal.reason is Refused.METER_ERROR and not self._may_owe:
                break
        return answer

    @property
    def _may_owe(self) -> bool:
        return self.line.is_rtu and bool(self.owed.questions)

    async def _settle(self) -> Answer | None:
        """Has the meter answer what it may still owe, but for probes; why not."""
        silent = 0
        # Each answer takes at least one question from what is owed, and adds none but probes.
        while self.line.is_rtu and not self.owed.is_at_most(self.probes):
            answer = await self.ask(self.owed.next_of(self.probes))
            if answer.refusal is not None and answer.refusal.reason is not Refused.METER_ERROR:
                # A meter may have no registers of the one kind, and be silent for those.
                silent += 1
                if silent >= len(self.probes):
                    return answer
        return None

    async def name(self, name: Name | None) -> str:
        """The number or model; empty: there is none."""
        if name is None:
            return ""
        answer = await self.ask_surely(name.question)
        return decode_name(name, answer.registers) or "" if answer.refusal is None else ""


async def _is_there(asker: _Asker, unclear: list[Found]) -> bool:
    """Whether an address answers; what is no answer, and yet something, goes to `unclear`."""
    reasons = []
    for question in _PRESENCE:
        answer = await asker.ask(question)
        if answer.refusal is None or answer.refusal.reason not in _NOBODY | _UNREADABLE:
            return True
        reasons.append(answer.refusal.reason)
    if any(one in _UNREADABLE for one in reasons):
        note = "something answers, and it cannot be read: two meters of one address, or a bad line"
        unclear.append(Found(asker.line, asker.address, note=note))
    return False


async def _examine(asker: _Asker, maps: Sequence[MeterMap]) -> Found:
    named: dict[tuple[Question, str], str] = {}
    for one in maps:
        if one.model is None:
            continue
        key = (one.model.question, one.model.type)
        if key not in named:
            named[key] = await asker.name(one.model)
        if named[key] and is_expected(one.model, named[key]):
            return await _read(asker, one, named[key])
    for one in maps:
        # Without a model, a number in its place and an index that can be one must do.
        if one.model is None and one.serial is not None:
            found = await _read(asker, one, "")
            if found.serial and found.reading is not None:
                return replace(found, note="no model says so: compare number and index with it")
    texts = ", ".join(sorted({text for text in named.values() if text}))
    note = "no map is for it" + (f"; it says {texts}" if texts else "")
    return Found(asker.line, asker.address, note=note)


async def _read(asker: _Asker, meter_map: MeterMap, model: str) -> Found:
    serial = await asker.name(meter_map.serial)
    found = Found(asker.line, asker.address, meter_map, bool(model), serial, model)
    registers: list[int | None] = []
    asked: list[Asked] = []
    for question in meter_map.index:
        answer = await asker.ask_surely(question)
        if answer.is_unknown and meter_map.can_lack(question):
            registers += [None] * question.count
        elif answer.refusal is not None:
            return replace(found, note=answer.refusal.detail)
        registers += answer.registers
        asked.append(answer.asked)
    if meter_map.unit is Unit.PULSES:
        return replace(found, note="it counts pulses: state their constant")
    when = Asked(asked[0].began_ns, asked[-1].ended_ns)
    reading = decode_index(meter_map, registers, serial, when)
    if isinstance(reading, Reading):
        return replace(found, reading=reading)
    return replace(found, note=reading.detail)


# --- For people. ---------------------------------------------------------------------------------


def _form(line: BusLine) -> str:
    if not line.device:
        return line.place
    return f"{line.device} at {line.baud} baud, parity {line.parity}"


def as_lines(found: Sequence[Found]) -> list[str]:
    """What was found, each with the table that configures it."""
    lines: list[str] = []
    for one in found:
        lines += [*_about(one), *(_table(one) if one.map is not None else []), ""]
    return lines


def _about(one: Found) -> list[str]:
    where = f"address {one.address} ({_form(one.line)})"
    if one.map is None:
        return [f"{where}: {one.note}"]
    sure = "" if one.is_certain else "perhaps "
    lines = [f"{where}: {sure}{one.map.name}"]
    told = [
        ("model", one.model),
        ("number", one.serial),
        ("map", f"{one.map.id}, {one.map.status}"),
    ]
    if one.reading is not None:
        told += [("import", _kwh(one.reading.imported)), ("export", _kwh(one.reading.exported))]
    told.append(("can be set back:", one.map.resettable))
    lines += [f"  {label} {text}" for label, text in told if text]
    lines += [f"  {text}" for text in (one.note, one.map.note) if text]
    return lines


def _kwh(index: Index | None) -> str:
    return "" if index is None else f"{index.uwh // 10**9}.{index.uwh // 10**6 % 1000:03} kWh"


def _table(one: Found) -> list[str]:
    assert one.map is not None  # noqa: S101 - asked for only then
    line = one.line
    lines = [
        "[source]",
        'driver = "modbus"',
        'register = "import" # "export": what is given to the grid',
        f'map = "{one.map.id}"',
        f"address = {one.address}",
    ]
    if line.device:
        lines += [f'device = "{line.device}"', f"baud = {line.baud}", f'parity = "{line.parity}"']
        if line.stop_bits != 1:
            lines.append(f"stop_bits = {line.stop_bits}")
    else:
        lines += [f'host = "{line.host}"', f"port = {line.port}", f'framing = "{line.framing}"']
    if one.map.unit is Unit.PULSES:
        lines.append('constant = "1000" # pulses per kWh: as the meter states it')
    return lines
