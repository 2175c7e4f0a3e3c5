"""The data of DLMS/COSEM as bytes: A-XDR (IEC 61334-6) with the types of IEC 62056-62, and what
meters put into it: clocks, scalers and units. Strict: what is not written as the standard says is
refused, and so is what is deeper or longer than any meter needs.
"""

import calendar
import struct
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum

DEPTH_MAX = 8  # a load profile takes four
Bytes = bytes | bytearray

OBIS_SIZE = 6
ELEMENTS_MAX = 4_096  # of one message, all levels together: a profile of a day has some 700


class Tag(IntEnum):
    """Of a type."""

    NULL = 0
    ARRAY = 1
    STRUCTURE = 2
    BOOLEAN = 3
    BIT_STRING = 4
    DOUBLE_LONG = 5
    DOUBLE_LONG_UNSIGNED = 6
    OCTET_STRING = 9
    VISIBLE_STRING = 10
    UTF8_STRING = 12
    BCD = 13
    INTEGER = 15
    LONG = 16
    UNSIGNED = 17
    LONG_UNSIGNED = 18
    COMPACT_ARRAY = 19
    LONG64 = 20
    LONG64_UNSIGNED = 21
    ENUM = 22
    FLOAT32 = 23
    FLOAT64 = 24
    DATE_TIME = 25
    DATE = 26
    TIME = 27


class Malformed(ValueError):  # noqa: N818 - a verdict, told in its own word
    """Bytes that the standard does not write like this."""


class NotRead(Malformed):
    """A type of the standard that this program does not read."""


class Truncated(Malformed):
    """Bytes end too soon.

    Attributes:
        needs: how many there must be at least, from the beginning.
    """

    def __init__(self, needs: int) -> None:
        super().__init__(f"the data end before byte {needs}")
        self.needs = needs


Value = None | bool | int | float | str | bytes | tuple["Datum", ...]


@dataclass(frozen=True, slots=True)
class Datum:
    """One value and its type. Of an array or structure: its elements; of a date or time: its bytes;
    of a bit string: its bytes, the unused bits of the last one zero."""

    tag: Tag
    value: Value

    @property
    def elements(self) -> tuple["Datum", ...]:
        """Of an array or structure; empty for all else."""
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def octets(self) -> bytes:
        """Of an octet string, a date or a time; empty for all else."""
        return self.value if isinstance(self.value, bytes) else b""

    @property
    def whole(self) -> int | None:
        """Of an integer of any size; None for all else, a boolean too."""
        return self.value if isinstance(self.value, int) and self.tag in _INTEGERS else None


_INTEGERS = {  # bytes, signed
    Tag.DOUBLE_LONG: (4, True),
    Tag.DOUBLE_LONG_UNSIGNED: (4, False),
    Tag.BCD: (1, True),
    Tag.INTEGER: (1, True),
    Tag.LONG: (2, True),
    Tag.UNSIGNED: (1, False),
    Tag.LONG_UNSIGNED: (2, False),
    Tag.LONG64: (8, True),
    Tag.LONG64_UNSIGNED: (8, False),
    Tag.ENUM: (1, False),
}
_FLOATS = {Tag.FLOAT32: ">f", Tag.FLOAT64: ">d"}
_FIXED = {Tag.DATE_TIME: 12, Tag.DATE: 5, Tag.TIME: 4}
_STRINGS = {Tag.OCTET_STRING: "", Tag.VISIBLE_STRING: "ascii", Tag.UTF8_STRING: "utf-8"}
_TAGS = {int(tag): tag for tag in Tag}


def decode_data(data: Bytes, at: int = 0) -> tuple[Datum, int]:
    """The value that begins there, and where the next byte after it is.

    Raises:
        Truncated: it is right so far, and goes on.
        Malformed: it is not A-XDR, or beyond DEPTH_MAX or ELEMENTS_MAX.
    """
    return _Decoder(data, miswritten=False).datum(at, 0)


def decode_miswritten(data: Bytes, at: int = 0) -> tuple[Datum, int]:
    """As `decode_data`, of a list whose structures may begin with an OBIS code in one of the two
    ways that some makers write it and the standard does not: a bare attribute (class, code and
    attribute number without tags: EG.D, Sagemcom), or tag and length in the wrong order
    (Landis+Gyr ZMF100). Only for what `decode_data` refuses.

    Raises:
        Truncated, Malformed: as there.
    """
    return _Decoder(data, miswritten=True).datum(at, 0)


def decode_length(data: Bytes, at: int) -> tuple[int, int]:
    """A length of at most two bytes, and where what it counts begins.

    Raises:
        Truncated, Malformed: it is no such length.
    """
    first = _byte(data, at)
    if first < 0x80:
        return first, at + 1
    size = first & 0x7F
    if not 1 <= size <= 2:
        raise Malformed(f"a length that itself takes {size} bytes")
    return int.from_bytes(take(data, at + 1, size), "big"), at + 1 + size


def take(data: Bytes, at: int, size: int) -> bytes:
    """So many bytes from there.

    Raises:
        Truncated: there are fewer.
    """
    if len(data) < at + size:
        raise Truncated(at + size)
    return bytes(data[at : at + size])


def _byte(data: Bytes, at: int) -> int:
    if len(data) <= at:
        raise Truncated(at + 1)
    return data[at]


class _Decoder:
    def __init__(self, data: Bytes, *, miswritten: bool) -> None:
        self._data = data
        self._miswritten = miswritten
        self._elements = 0
        self._awaited = 0  # elements that are still to come: each takes a byte at least

    def datum(self, at: int, depth: int) -> tuple[Datum, int]:
        data = self._data
        if len(data) <= at:
            raise Truncated(at + 1 + self._awaited)
        tag = _TAGS.get(data[at])
        if tag is None:
            raise Malformed(f"no type has the tag {data[at]}")
        at += 1
        if tag in _INTEGERS:
            size, signed = _INTEGERS[tag]
            value = int.from_bytes(take(data, at, size), "big", signed=signed)
            return Datum(tag, value), at + size
        if tag in _STRINGS:
            size, at = decode_length(data, at)
            raw = take(data, at, size)
            return Datum(tag, _text(raw, _STRINGS[tag]) if _STRINGS[tag] else raw), at + size
        if tag in (Tag.ARRAY, Tag.STRUCTURE):
            return self._container(tag, at, depth)
        return self._rare(tag, at)

    def _container(self, tag: Tag, at: int, depth: int) -> tuple[Datum, int]:
        count, at = decode_length(self._data, at)
        self._elements += count
        if depth >= DEPTH_MAX or self._elements > ELEMENTS_MAX:
            raise Malformed("data deeper, or of more elements, than any meter needs")
        elements = []
        self._awaited += count
        if self._miswritten and tag is Tag.STRUCTURE and count in (2, 3):
            code, at = _miswritten_code(self._data, at)
            if code:
                elements.append(Datum(Tag.OCTET_STRING, code))
                self._awaited -= 1
                count -= 1
        for _ in range(count):
            self._awaited -= 1
            element, at = self.datum(at, depth + 1)
            elements.append(element)
        return Datum(tag, tuple(elements)), at

    def _rare(self, tag: Tag, at: int) -> tuple[Datum, int]:
        data = self._data
        if tag is Tag.NULL:
            return Datum(tag, None), at
        if tag is Tag.BOOLEAN:
            return Datum(tag, _byte(data, at) != 0), at + 1
        if tag in _FIXED:
            return Datum(tag, take(data, at, _FIXED[tag])), at + _FIXED[tag]
        if tag in _FLOATS:
            size = struct.calcsize(_FLOATS[tag])
            [value] = struct.unpack(_FLOATS[tag], take(data, at, size))
            return Datum(tag, value), at + size
        if tag is Tag.BIT_STRING:
            bits, at = decode_length(data, at)
            size = -(-bits // 8)
            raw = take(data, at, size)
            if bits % 8 and raw[-1] & 0xFF >> bits % 8:
                raise Malformed("a bit string with more bits than it says")
            return Datum(tag, raw), at + size
        raise NotRead("a compact array")


def _miswritten_code(data: Bytes, at: int) -> tuple[bytes, int]:
    """The OBIS code of an attribute without tags, or behind a tag that was swapped with the length;
    empty if there is none. And where the next byte is.

    Raises:
        Truncated: it may be one, and goes on.
    """
    head = take(data, at, 2)
    if head == bytes((OBIS_SIZE, Tag.OCTET_STRING)):
        size = OBIS_SIZE
    elif head[0] == 0 < head[1]:
        size = OBIS_SIZE + 1  # with the attribute's number behind it
    else:
        return b"", at
    code = take(data, at + 2, size)[:OBIS_SIZE]
    return (code, at + 2 + size) if code[5] == 0xFF else (b"", at)


def _text(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise Malformed(f"a text that is not {encoding}") from None


def encode_length(length: int) -> bytes:
    if length < 0x80:
        return bytes([length])
    size = 1 if length < 0x100 else 2
    return bytes([0x80 | size]) + length.to_bytes(size, "big")


def encode_data(datum: Datum) -> bytes:
    """As `decode_data` reads it; of a bit string, whole bytes only.

    Raises:
        ValueError, OverflowError: the value is not of its type.
    """
    tag, value, head = datum.tag, datum.value, bytes([datum.tag])
    if isinstance(value, tuple):
        return head + encode_length(len(value)) + b"".join(encode_data(one) for one in value)
    if value is None:
        return head
    if tag is Tag.BOOLEAN:
        return head + bytes([bool(value)])
    if isinstance(value, int):
        size, signed = _INTEGERS[tag]
        return head + value.to_bytes(size, "big", signed=signed)
    if isinstance(value, float):
        return head + struct.pack(_FLOATS[tag], value)
    if isinstance(value, str):
        raw = value.encode(_STRINGS[tag])
        return head + encode_length(len(raw)) + raw
    if tag in _FIXED:
        return head + value
    return head + encode_length(len(value) * (8 if tag is Tag.BIT_STRING else 1)) + value


# --- What meters put into it. --------------------------------------------------------------------

CLOCK_SIZE = 12
SCALER_MAX = 18  # beyond it no register of a meter makes sense

WH = 30
UNITS = {
    27: "W", 28: "VA", 29: "var", WH: "Wh", 31: "VAh", 32: "varh", 33: "A", 35: "V", 44: "Hz",
}  # fmt: skip
UNITS_NONE = (0, 255)


def obis_text(code: bytes) -> str:
    """Six bytes as people write them: 1.0.1.8.0.255."""
    return ".".join(map(str, code))


@dataclass(frozen=True, slots=True)
class ScalerUnit:
    """A value is to be multiplied by 10**`scaler`, and then has this unit (IEC 62056-62)."""

    scaler: int
    unit: int

    def text_of(self, value: int) -> str:
        """The value for people."""
        name = UNITS.get(self.unit, "")
        return f"{Decimal(value).scaleb(self.scaler):f} {name}".rstrip()


def scaler_unit_of(datum: Datum) -> ScalerUnit | None:
    """None if it is no scaler and unit."""
    match datum:
        case Datum(
            Tag.STRUCTURE,
            (Datum(Tag.INTEGER, int() as scaler), Datum(Tag.ENUM, int() as unit)),
        ) if abs(scaler) <= SCALER_MAX:
            return ScalerUnit(scaler, unit)
    return None


@dataclass(frozen=True, slots=True)
class MeterClock:
    """What a meter's clock says (IEC 62056-62 §4.1.6.1).

    Attributes:
        text: its local date and time, for people; what it leaves open is written as `?`.
        unix_s: UTC; None if it leaves something open, or does not say how far it is from UTC.
        degraded: it doubts itself: invalid, doubtful, or set from another base.
        summer: daylight saving is in force; None if it does not say.
        deviation_min: from its local time to UTC, minutes; None if it does not say.
    """

    text: str
    unix_s: int | None
    degraded: bool
    summer: bool | None
    deviation_min: int | None = None


_OPEN = 0xFF
_STATUS_DOUBT = 0x0F  # invalid value, doubtful value, different base, invalid status
_STATUS_SUMMER = 0x80
_DEVIATION_OPEN = -0x8000
_DEVIATION_MAX_MIN = 14 * 60
_YEAR_MIN, _YEAR_MAX = 1970, 2199


def decode_clock(raw: bytes) -> MeterClock:
    """Of the twelve bytes of a date and time.

    UTC is the local time plus the deviation: +60 minutes in the west, -60 in central Europe.

    Raises:
        Malformed: no date and time is written like this.
    """
    if len(raw) != CLOCK_SIZE:
        raise Malformed(f"a date and time of {len(raw)} bytes")
    year, month, day, weekday, hour, minute, second, hundredths, deviation, status = struct.unpack(
        ">HBBBBBBBhB", raw
    )
    rest_right = (
        (weekday == _OPEN or 0 <= weekday <= 7)  # some meters write no weekday as 0
        and (hundredths == _OPEN or hundredths <= 99)
        and (deviation == _DEVIATION_OPEN or abs(deviation) <= _DEVIATION_MAX_MIN)
    )
    day_open, time_open = (
        year == 0xFFFF or max(month, day) > 0xFC,
        max(hour, minute, second) == _OPEN,
    )
    date_right = day_open or (
        _YEAR_MIN <= year <= _YEAR_MAX
        and 1 <= month <= 12
        and 1 <= day <= calendar.monthrange(year, month)[1]
    )
    time_right = all(
        value <= most or value == _OPEN for value, most in ((hour, 23), (minute, 59), (second, 59))
    )
    if not (rest_right and date_right and time_right):
        raise Malformed(f"a clock that shows {raw.hex()}")
    unix_s = None
    if not (day_open or time_open or deviation == _DEVIATION_OPEN):
        local = calendar.timegm((year, month, day, hour, minute, second))
        unix_s = local + deviation * 60
    date = "-".join(
        (_shown(year, 4, 0xFFFF), _shown(month, 2, 0xFD, 0xFE), _shown(day, 2, 0xFD, 0xFE))
    )
    time = ":".join(_shown(value, 2) for value in (hour, minute, second))
    return MeterClock(
        f"{date} {time}",
        unix_s,
        degraded=status != _OPEN and bool(status & _STATUS_DOUBT),
        summer=None if status == _OPEN else bool(status & _STATUS_SUMMER),
        deviation_min=None if deviation == _DEVIATION_OPEN else deviation,
    )


def _shown(value: int, digits: int, *also_open: int) -> str:
    return "?" * digits if value in (_OPEN, *also_open) else f"{value:0{digits}}"


def encode_clock(unix_s: int, deviation_min: int, status: int = 0) -> bytes:
    """The twelve bytes of a date and time.

    Args:
        unix_s: UTC.
        deviation_min: from local time to UTC, minutes: -60 for winter in central Europe.
        status: of the clock.
    """
    days, seconds = divmod(unix_s - deviation_min * 60, 86_400)
    year, month, day = _civil(days)
    return struct.pack(
        ">HBBBBBBBhB", year, month, day, (days + 3) % 7 + 1,
        seconds // 3600, seconds // 60 % 60, seconds % 60, 0, deviation_min, status,
    )  # fmt: skip


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of so many days after 1970-01-01, which was a Thursday."""
    year = 1970
    while days >= 365 + calendar.isleap(year):
        days -= 365 + calendar.isleap(year)
        year += 1
    month = 1
    while days >= calendar.monthrange(year, month)[1]:
        days -= calendar.monthrange(year, month)[1]
        month += 1
    return year, month, days + 1
