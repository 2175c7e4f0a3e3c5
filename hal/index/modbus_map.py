"""Where a family of Modbus meters keeps its index and its name: a map, read from a file. It makes
readings of registers, and registers of indexes. No bus, no clock.

A map is trusted as far as its vectors go: registers beside what they mean, which every test run
decodes through the functions here.
"""

import math
import struct
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

from cryptometer.errors import ConfigurationError
from cryptometer.metrology import UWH_PER_KWH
from cryptometer.settings import read_settings, setting
from hal.index.reading import UWH_EXPONENT, Index, Reading, Refusal, Refused

REGISTERS_MAX = 125  # in one answer (Modbus application protocol V1.1b3, 6.3)
ADDRESS_MAX = 0xFFFF
# No meter of a community comes near: a terawatt-hour. In micro-watt-hours it fits in 63 bits.
INDEX_MAX_WH = 10**12
EXPONENT_MIN, EXPONENT_MAX = UWH_EXPONENT, 9
TERMS_MAX = 16
_TEXT_MAX = 32  # registers of a name


class Status(StrEnum):
    """Whether what a map says stands on agreeing sources, or a capture."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


class Words(StrEnum):
    """Which 16-bit register of a number comes first."""

    HIGH_FIRST = "high-first"
    LOW_FIRST = "low-first"


class NumberType(StrEnum):
    """How a number is written."""

    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"


class NameType(StrEnum):
    """How a serial number or a model is written."""

    U16 = "u16"
    U32 = "u32"
    DIGITS = "digits"  # each half-byte is one
    TEXT = "text"  # ASCII; zero bytes anywhere say nothing


class Unit(StrEnum):
    """What an index register counts."""

    WH = "Wh"
    PULSES = "pulses"  # of a constant that whoever uses the map states


_STRUCTS = {
    NumberType.U16: ">H",
    NumberType.U32: ">I",
    NumberType.U64: ">Q",
    NumberType.I32: ">i",
    NumberType.I64: ">q",
    NumberType.F32: ">f",
    NumberType.F64: ">d",
}
_FLOATS = frozenset({NumberType.F32, NumberType.F64})
_NAME_REGISTERS = {NameType.U16: 1, NameType.U32: 2}


@dataclass(frozen=True, slots=True)
class Question:
    """One request for consecutive registers.

    Attributes:
        function: 3, holding registers, or 4, input registers.
        address: of the first one, as on the wire: from 0.
        count: how many.
    """

    function: int
    address: int
    count: int


@dataclass(frozen=True, slots=True)
class Number:
    """A cumulative register.

    Attributes:
        addresses: where it stands; several are added up, as those of tariffs.
        type: of each.
        words: their order.
        exponent: its unit is 10**`exponent` Wh, or pulses.
        resolution: a float is rounded to 10**`resolution` Wh; of an integer it is the exponent.
        sentinels: raw values that say "not available", as unsigned integers.
        resettable: somebody can set it back.
        optional: not every meter of the map has it: one that has not says "not available", or that
            there is no such register.
    """

    addresses: tuple[int, ...]
    type: NumberType
    words: Words
    exponent: int
    resolution: int
    sentinels: tuple[int, ...]
    resettable: bool
    optional: bool = False

    @property
    def width(self) -> int:
        """Registers of one term."""
        return struct.calcsize(_STRUCTS[self.type]) // 2


@dataclass(frozen=True, slots=True)
class Name:
    """Where a serial number or a model stands.

    Attributes:
        question: that asks for it.
        type: how it is written.
        expected: its first word is one of these; empty: any will do.
    """

    question: Question
    type: NameType
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vector:
    """Registers, and what they mean.

    Attributes:
        source: where this was found, or how it was made.
        index: the answers to the questions for the index, one after the other.
        constant: pulses per kWh, where the index is in pulses.
        imported_uwh: of the reading; None where there is none.
        exported_uwh: likewise.
        refused: why they give no reading; None where they do.
        serial: the answer to the question for the serial number; empty: not told.
        serial_text: what it means.
        model: likewise of the model.
        model_text: what it means.
    """

    source: str
    index: tuple[int, ...]
    constant: Fraction | None
    imported_uwh: int | None
    exported_uwh: int | None
    refused: Refused | None
    serial: tuple[int, ...]
    serial_text: str
    model: tuple[int, ...]
    model_text: str


@dataclass(frozen=True, slots=True)
class MeterMap:
    """One family of meters.

    Attributes:
        id: the map's own name, as in the configuration.
        name: the meters, for people.
        status: how far it is believed.
        note: what to know before it is used; may be empty.
        document: the source, with its revision.
        page: in it.
        unit: of its index registers.
        index: the questions for them: one, where the meter gives all at once; else one for each
            register, and none of the others has as many registers.
        imported: the register of energy taken from the grid; None: there is none.
        exported: the register of energy given to the grid; None: there is none.
        serial: the meter's own number; None where it tells none.
        model: which meter it is; None where it does not tell.
        vectors: what every test run decodes.
    """

    id: str
    name: str
    status: Status
    note: str
    document: str
    page: str
    unit: Unit
    index: tuple[Question, ...]
    imported: Number | None
    exported: Number | None
    serial: Name | None
    model: Name | None
    vectors: tuple[Vector, ...]

    @property
    def registers(self) -> int:
        """In all answers to the questions for the index together."""
        return sum(one.count for one in self.index)

    @property
    def resettable(self) -> str:
        """Which of its registers somebody can set back; empty: none."""
        named = (("import", self.imported), ("export", self.exported))
        return ", ".join(label for label, one in named if one is not None and one.resettable)

    def can_lack(self, question: Question) -> bool:
        """Whether a meter of this map may say that it has no such registers."""
        end = question.address + question.count
        asked = [
            one
            for one in (self.imported, self.exported)
            if one is not None and any(question.address <= at < end for at in one.addresses)
        ]
        return bool(asked) and all(one.optional for one in asked)

    @property
    def probes(self) -> tuple[Question, Question]:
        """Two questions whose answers can be taken for that of no other question of the map: they
        tell which of those a meter that answers in order can still answer late."""
        names = [one.question for one in (self.serial, self.model) if one is not None]
        taken = [(one.function, one.count) for one in (*self.index, *names)]
        alone = [one for one in names if taken.count((one.function, one.count)) == 1]
        first = self.index[0]
        short = [Question(first.function, first.address, count) for count in range(1, 7)]
        alone += [one for one in short if (one.function, one.count) not in taken]
        return alone[0], alone[1]


# --- What stands in the file. --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceTable:
    document: str = setting("title and number of the document")
    revision: str = setting("its revision or date")
    page: str = setting("where in it")


@dataclass(frozen=True, slots=True, kw_only=True)
class _NumberTable:
    addresses: list[int] = setting("wire addresses, from 0; several are added up")
    type: NumberType = setting("u16, u32, u64, i32, i64, f32 or f64")
    words: Words = setting("which register of a number comes first", Words.HIGH_FIRST)
    exponent: int = setting("of ten: the register's unit in Wh", 0)
    resolution: int | None = setting("of ten, in Wh: what a float is rounded to", None)
    sentinels: list[int] | None = setting("raw values that say: not available", None)
    resettable: bool = setting("whether somebody can set it back")
    optional: bool = setting("whether some of the meters do not have it", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _IndexTable:
    function: int = setting("3: holding registers; 4: input registers")
    unit: Unit = setting("what the registers count", Unit.WH)
    registers_max: int = setting("the most the meter gives in one answer", REGISTERS_MAX)
    imported: _NumberTable | None = setting("energy taken from the grid", None)
    exported: _NumberTable | None = setting("energy given to the grid", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NameTable:
    function: int = setting("3: holding registers; 4: input registers")
    address: int = setting("of the first register, from 0")
    type: NameType = setting("u16, u32, digits or text")
    registers: int | None = setting("of a text or of digits: how many", None)
    expected: list[str] | None = setting("first words that this map is for", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _VectorTable:
    source: str = setting("where these registers were found, or how they were made")
    index: str = setting("the answer to the question for the index: words of four hex digits")
    constant: str | None = setting("pulses per kWh, of an index in pulses", None)
    imported_wh: str | None = setting("what they mean", None)
    exported_wh: str | None = setting("what they mean", None)
    refused: Refused | None = setting("why they give no reading", None)
    serial: str = setting("the answer to the question for the serial number", "")
    serial_text: str = setting("what it means", "")
    model: str = setting("the answer to the question for the model", "")
    model_text: str = setting("what it means", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _MapTable:
    name: str = setting("the meters")
    status: Status = setting("verified or unverified")
    note: str = setting("what to know before it is used", "")
    source: _SourceTable = setting("the document this follows")
    index: _IndexTable = setting("where the index stands")
    serial: _NameTable | None = setting("where the meter's own number stands", None)
    model: _NameTable | None = setting("where it says which meter it is", None)
    vectors: list[Any] = setting("registers, and what they mean")


def read_map(text: str, id: str) -> MeterMap:  # noqa: A002 - the map's own word
    """Reads a map.

    Args:
        text: of the file.
        id: what the map is called.

    Raises:
        ConfigurationError: naming the setting, and the nearest known one.
    """
    where = f"map {id}"
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise ConfigurationError(f"{where} is no TOML: {error}") from None
    read = read_settings(_MapTable, table, where)
    imported = _number(read.index.imported, read.index.unit, f"{where} index imported")
    exported = _number(read.index.exported, read.index.unit, f"{where} index exported")
    index = _index_questions(read.index, imported, exported, f"{where} index")
    serial = _name(read.serial, f"{where} serial")
    model = _name(read.model, f"{where} model")
    if model is not None and not model.expected:
        raise ConfigurationError(f"{where} model needs 'expected': else it tells no meter apart")
    return MeterMap(
        id,
        read.name,
        read.status,
        read.note,
        f"{read.source.document}, {read.source.revision}",
        read.source.page,
        read.index.unit,
        index,
        imported,
        exported,
        serial,
        model,
        tuple(_vector(one, f"{where} vectors") for one in read.vectors),
    )


def _number(table: _NumberTable | None, unit: Unit, where: str) -> Number | None:
    if table is None:
        return None
    addresses = _integers(table.addresses, 0, ADDRESS_MAX, f"{where} addresses")
    if not 1 <= len(addresses) <= TERMS_MAX or len(set(addresses)) != len(addresses):
        raise ConfigurationError(f"{where} addresses are 1 to {TERMS_MAX} different ones")
    if not EXPONENT_MIN <= table.exponent <= EXPONENT_MAX:
        raise ConfigurationError(f"{where} exponent is from {EXPONENT_MIN} to {EXPONENT_MAX}")
    if unit is Unit.PULSES and (table.type in _FLOATS or table.exponent):
        raise ConfigurationError(f"{where}: pulses are whole ones, without an exponent")
    resolution = table.exponent if table.resolution is None else table.resolution
    if table.type in _FLOATS and table.resolution is None:
        raise ConfigurationError(f"{where} lacks 'resolution': what a float is rounded to")
    if table.type not in _FLOATS and table.resolution is not None:
        raise ConfigurationError(f"{where} resolution: of an integer it is its exponent")
    if not EXPONENT_MIN <= resolution <= EXPONENT_MAX:
        raise ConfigurationError(f"{where} resolution is from {EXPONENT_MIN} to {EXPONENT_MAX}")
    sentinels = _integers(table.sentinels or [], 0, 2**64 - 1, f"{where} sentinels")
    number = Number(
        addresses,
        table.type,
        table.words,
        table.exponent,
        resolution,
        sentinels,
        table.resettable,
        table.optional,
    )
    if max(addresses) + number.width > ADDRESS_MAX + 1:
        raise ConfigurationError(f"{where} addresses end at {ADDRESS_MAX}")
    return number


def _index_questions(
    table: _IndexTable, imported: Number | None, exported: Number | None, where: str
) -> tuple[Question, ...]:
    numbers = [one for one in (imported, exported) if one is not None]
    if not numbers:
        raise ConfigurationError(f"{where} needs 'imported' or 'exported'")
    if not 1 <= table.registers_max <= REGISTERS_MAX:
        raise ConfigurationError(f"{where} registers_max is from 1 to {REGISTERS_MAX}")
    function = _function(table.function, where)
    together = _span(function, numbers)
    if together.count <= table.registers_max:
        return (together,)
    apart = [_span(function, [one]) for one in numbers]
    if len(apart) > 1 and apart[0].count == apart[1].count:
        # An answer that comes twice, or late, must not be taken for the other register's.
        apart[1] = Question(function, apart[1].address, apart[1].count + 1)
    for one in apart:
        if one.count > table.registers_max or one.address + one.count > ADDRESS_MAX + 1:
            raise ConfigurationError(
                f"{where}: {one.count} registers from {one.address} are more than the meter gives"
                " in one answer"
            )
    return tuple(apart)


def _span(function: int, numbers: Sequence[Number]) -> Question:
    begin = min(min(one.addresses) for one in numbers)
    end = max(max(one.addresses) + one.width for one in numbers)
    return Question(function, begin, end - begin)


def _name(table: _NameTable | None, where: str) -> Name | None:
    if table is None:
        return None
    known = _NAME_REGISTERS.get(table.type)
    if (known is None) == (table.registers is None):
        raise ConfigurationError(f"{where} registers is for type text and digits, and needed there")
    count = known or table.registers or 0
    if not 1 <= count <= _TEXT_MAX:
        raise ConfigurationError(f"{where} registers is from 1 to {_TEXT_MAX}")
    if not 0 <= table.address <= ADDRESS_MAX + 1 - count:
        raise ConfigurationError(f"{where} address ends at {ADDRESS_MAX}")
    expected = table.expected or []
    if not all(isinstance(one, str) and one and not one.count(" ") for one in expected):
        raise ConfigurationError(f"{where} expected is a list of words")
    question = Question(_function(table.function, where), table.address, count)
    return Name(question, table.type, tuple(expected))


def _vector(table: object, where: str) -> Vector:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} are tables")
    read = read_settings(_VectorTable, table, where)
    constant = None if read.constant is None else read_constant(read.constant, f"{where} constant")
    return Vector(
        read.source,
        _registers(read.index, f"{where} index"),
        constant,
        _energy(read.imported_wh, f"{where} imported_wh"),
        _energy(read.exported_wh, f"{where} exported_wh"),
        read.refused,
        _registers(read.serial, f"{where} serial"),
        read.serial_text,
        _registers(read.model, f"{where} model"),
        read.model_text,
    )


def read_constant(text: str, where: str) -> Fraction:
    """Pulses per kWh, as a whole number, a decimal or a fraction.

    Raises:
        ConfigurationError: it is none, or not positive.
    """
    try:
        constant = Fraction(text) if len(text) <= 32 and "e" not in text.lower() else None
    except (ValueError, ZeroDivisionError):
        constant = None
    if constant is None or constant <= 0:
        raise ConfigurationError(f"{where} is a positive number of pulses per kWh, not {text!r}")
    return constant


def _function(value: int, where: str) -> int:
    if value not in (3, 4):
        raise ConfigurationError(f"{where} function is 3 (holding) or 4 (input registers)")
    return value


def _integers(values: list[Any], low: int, high: int, where: str) -> tuple[int, ...]:
    if not all(type(one) is int and low <= one <= high for one in values):
        raise ConfigurationError(f"{where} are integers from {low} to {high}")
    return tuple(values)


def _registers(text: str, where: str) -> tuple[int, ...]:
    words = text.split()
    try:
        values = tuple(int(word, 16) for word in words if len(word) == 4 and word.isalnum())
    except ValueError:
        values = ()
    if len(values) != len(words) or len(values) > REGISTERS_MAX:
        raise ConfigurationError(f"{where} is registers of four hex digits each")
    return values


def _energy(text: str | None, where: str) -> int | None:
    """Micro-watt-hours of a decimal number of Wh."""
    if text is None:
        return None
    whole, _, part = text.partition(".")
    if not (whole + part).isascii() or not (whole + part).isdigit() or len(text) > 32:
        raise ConfigurationError(f"{where} is a decimal number, not {text!r}")
    if len(part) > -UWH_EXPONENT:
        raise ConfigurationError(f"{where} is finer than a micro-watt-hour")
    return int(whole + part.ljust(-UWH_EXPONENT, "0"))


# --- From registers to values, and back. ---------------------------------------------------------


class _Unreadable(Exception):  # noqa: N818 - what a register says, told in its own word
    """A register that says no index."""


class _Missing(_Unreadable):
    """A register that says that there is none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """When an answer's question was sent, and when the answer was there: monotonic time."""

    began_ns: int
    ended_ns: int


def decode_index(
    meter_map: MeterMap,
    registers: Sequence[int | None],
    identity: str,
    asked: Asked,
    constant: Fraction | None = None,
) -> Reading | Refusal:
    """What the answer to the question for the index says.

    Args:
        meter_map: of the meter.
        registers: of the answers to the map's questions, one after the other; None for each that
            the meter says it does not have.
        identity: the meter's, as it was asked for before.
        asked: when.
        constant: pulses per kWh, of a map in pulses.
    """
    if len(registers) != meter_map.registers:
        detail = f"{len(registers)} registers came where {meter_map.registers} were asked for"
        return Refusal(Refused.FORM, detail, asked.ended_ns)
    values: list[Index | None] = []
    for label, number in (("import", meter_map.imported), ("export", meter_map.exported)):
        try:
            index = None
            if number is not None:
                index = _decode_number(meter_map, number, registers, constant)
            values.append(index)
        except _Missing as why:
            if number is None or not number.optional:
                return Refusal(Refused.FORM, f"the {label} register {why}", asked.ended_ns)
            values.append(None)
        except _Unreadable as why:
            return Refusal(Refused.FORM, f"the {label} register {why}", asked.ended_ns)
    if values == [None, None]:
        return Refusal(Refused.NO_INDEX, "the meter has neither register", asked.ended_ns)
    said = " ".join("----" if one is None else f"{one & 0xFFFF:04x}" for one in registers)
    fields = (("map", meter_map.id), ("registers", said))
    return Reading(identity, values[0], values[1], asked.began_ns, asked.ended_ns, fields=fields)


def decode_name(name: Name, registers: Sequence[int]) -> str | None:
    """A serial number or a model as text; None if the registers hold none."""
    if len(registers) != name.question.count:
        return None
    raw = b"".join(one.to_bytes(2, "big") for one in registers)
    if not raw.strip(b"\x00") or not raw.strip(b"\xff"):
        return None
    if name.type is NameType.DIGITS:
        return raw.hex() if raw.hex().isdigit() else None
    if name.type is not NameType.TEXT:
        return str(int.from_bytes(raw, "big"))
    text = raw.replace(b"\x00", b"").decode("latin-1").strip()
    return text if text and text.isascii() and text.isprintable() else None


def is_expected(name: Name, text: str) -> bool:
    """Whether this model is one that the map is for."""
    return not name.expected or text.split(" ", 1)[0] in name.expected


def encode_index(
    meter_map: MeterMap, imported_wh: Fraction, exported_wh: Fraction, constant: Fraction | None
) -> list[int]:
    """The answers of a meter that has so much on its registers; the rest of them is zero. The
    inverse of `decode_index`, up to the registers' own unit."""
    block = [0] * meter_map.registers
    for number, wh in ((meter_map.imported, imported_wh), (meter_map.exported, exported_wh)):
        if number is None:
            continue
        if constant is not None and meter_map.unit is Unit.PULSES:
            value = wh * constant / 1000
        else:
            value = wh / Fraction(10) ** number.exponent
        # Of several terms the first one has it all: a meter that stays in its first tariff.
        for place, address in enumerate(number.addresses):
            words = _encode_value(number, value if place == 0 else Fraction(0))
            at = _place(meter_map, address)
            block[at : at + number.width] = words
    return block


def encode_name(name: Name, text: str) -> list[int]:
    """The answer of a meter of this name. The inverse of `decode_name`."""
    size = 2 * name.question.count
    if name.type is NameType.DIGITS:
        raw = bytes.fromhex(text)
    elif name.type is NameType.TEXT:
        raw = text.encode("ascii").ljust(size, b"\x00")
    else:
        raw = int(text).to_bytes(size, "big")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, size, 2)]


def _decode_number(
    meter_map: MeterMap, number: Number, registers: Sequence[int | None], constant: Fraction | None
) -> Index:
    total = Fraction(0)
    for address in number.addresses:
        at = _place(meter_map, address)
        words = [one for one in registers[at : at + number.width] if one is not None]
        if len(words) < number.width:
            raise _Missing("is not there")
        total += _decode_value(number, words)
    if meter_map.unit is Unit.PULSES:
        if constant is None:
            raise _Unreadable("counts pulses, and nobody said how many are a kWh")
        # Rounded down as every register of pulses is: differences never drift.
        index = Index(math.floor(total * UWH_PER_KWH / constant), UWH_EXPONENT)
    else:
        wh = total * Fraction(10) ** number.exponent
        index = Index(round(wh / Fraction(10) ** number.resolution), number.resolution)
    if index.uwh > INDEX_MAX_WH * 10**-UWH_EXPONENT:
        raise _Unreadable("is beyond what any meter reaches")
    return index


def _place(meter_map: MeterMap, address: int) -> int:
    """Where a register stands among those of all answers."""
    before = 0
    for question in meter_map.index:
        if question.address <= address < question.address + question.count:
            return before + address - question.address
        before += question.count
    raise AssertionError(f"no question brings register {address}")


def _decode_value(number: Number, words: Sequence[int]) -> Fraction:
    ordered = words if number.words is Words.HIGH_FIRST else words[::-1]
    raw = b"".join(word.to_bytes(2, "big") for word in ordered)
    if int.from_bytes(raw, "big") in number.sentinels:
        raise _Missing(f"says 'not available' ({raw.hex()})")
    [value] = struct.unpack(_STRUCTS[number.type], raw)
    if not math.isfinite(value):
        raise _Unreadable(f"is no number ({raw.hex()})")
    if value < 0:
        raise _Unreadable(f"is negative ({raw.hex()})")
    return Fraction(value)


def _encode_value(number: Number, value: Fraction) -> list[int]:
    kind = _STRUCTS[number.type]
    raw = struct.pack(kind, float(value) if number.type in _FLOATS else math.floor(value))
    words = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
    return words if number.words is Words.HIGH_FIRST else words[::-1]


def check_vector(meter_map: MeterMap, vector: Vector) -> str:
    """How a vector differs from what the map makes of it; empty if it does not."""
    found = decode_index(meter_map, vector.index, "", Asked(0, 0), vector.constant)
    if isinstance(found, Refusal):
        if found.reason is not vector.refused:
            return f"refused: {found.detail}"
    elif vector.refused is not None:
        return "is read, and should be refused"
    else:
        said = [one and one.uwh for one in (found.imported, found.exported)]
        if said != [vector.imported_uwh, vector.exported_uwh]:
            return f"gives {said[0]} and {said[1]} micro-watt-hours"
    names: Mapping[str, tuple[Name | None, tuple[int, ...], str]] = {
        "serial": (meter_map.serial, vector.serial, vector.serial_text),
        "model": (meter_map.model, vector.model, vector.model_text),
    }
    for label, (name, registers, text) in names.items():
        if registers and (name is None or decode_name(name, registers) != text):
            return f"its {label} is {name and decode_name(name, registers)!r}"
        if registers and name is not None and not is_expected(name, text):
            return f"its {label} {text!r} is none that the map is for"
    return ""
