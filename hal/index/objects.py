"""What a list of COSEM values says of a meter: who it is, its indexes, its clock.

Lists differ by maker: values with their OBIS code and with or without a scaler and unit, one after
the other or in structures of their own; values in the order of a list of objects that comes first;
values in an order that only a paper says, the maker's (Kaifa), the grid operator's (Vienna), or
another one that the configuration repeats. They are read by their shape.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hal.index.axdr import (
    CLOCK_SIZE,
    OBIS_SIZE,
    UNITS_NONE,
    WH,
    Datum,
    Malformed,
    MeterClock,
    ScalerUnit,
    Tag,
    decode_clock,
    obis_text,
    scaler_unit_of,
)
from hal.index.reading import UWH_EXPONENT, Caveat, Index, Reading, Register

CLOCK = bytes((0, 0, 1, 0, 0, 255))
# Where meters state their number, the best first: device ids of electricity and abstract objects,
# the GS1 number of Kamstrup and the number on its front, the logical device's name.
_IDENTITIES = (
    bytes((0, 0, 96, 1, 0, 255)),
    bytes((1, 0, 0, 0, 0, 255)),
    bytes((0, 0, 96, 1, 1, 255)),
    bytes((1, 1, 0, 0, 5, 255)),
    bytes((1, 1, 0, 0, 1, 255)),
    bytes((0, 0, 42, 0, 0, 255)),
)
_GROUPS = {1: Register.IMPORT, 2: Register.EXPORT}  # group C of an OBIS code
_FIELD_MAX = 64  # characters of a value that is shown
LIST_FIELD = "list"  # what a value is called whose code is not known


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a list; `code` is empty where the list does not say what it is."""

    code: bytes
    value: Datum
    scaler_unit: ScalerUnit | None = None

    @property
    def register(self) -> Register | None:
        return register_of(self.code)


def register_of(code: bytes) -> Register | None:
    """Which cumulative register an OBIS code is of, if any: 1-b:1.8.0 or 1-b:2.8.0, b 0 or 1. Some
    meters write 0 for the 1 of electricity."""
    match tuple(code):
        case (0 | 1, 0 | 1, 1 | 2 as group, 8, 0, 255):
            return _GROUPS[group]
    return None


@dataclass(frozen=True, slots=True)
class Said:
    """What a list says.

    Attributes:
        entries: everything, in its order.
        name: the name of the list's version; empty if it has none.
    """

    entries: tuple[Entry, ...]
    name: str = ""


def read_list(body: Datum, order: Sequence[bytes] = ()) -> Said:
    """The values of a list, whatever its shape.

    Args:
        body: the list.
        order: the codes of the values of a list without any, in their order; empty ones for what
            does not matter. A list of another shape is read as if there was no order.
    """
    items = body.elements
    entries = tuple(
        _ordered(items, order)
        or _kaifa(items)
        or _vienna(items)
        or _referred(items)
        or _numbered(tuple(_walk(items)))
    )
    first = next((one for one in entries if not one.code), None)
    named = {bytes((1, 1, 0, 2, 129, 255)), bytes((1, 0, 0, 2, 129, 255)), b""}
    version = next((one for one in entries if one.code in named and _name(one.value)), first)
    return Said(entries, "" if version is None else _name(version.value))


def _walk(items: Sequence[Datum]) -> Iterator[Entry]:
    """Codes, each followed by its value and perhaps its scaler and unit, at any depth."""
    at = 0
    while at < len(items):
        item = items[at]
        at += 1
        if _is_code(item) and at < len(items):
            value = items[at]
            at += 1
            scaled = scaler_unit_of(items[at]) if at < len(items) else None
            at += scaled is not None
            yield Entry(item.octets, value, scaled)
        elif item.elements:
            yield from _walk(item.elements)
        elif item.tag is not Tag.NULL:  # Kamstrup puts them between its values
            yield Entry(b"", item)


_NUMBER_DIGITS = range(8, 17)


def _numbered(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """With the code of the meter's number at the end of a list of Lower Austria's: a clock without
    a code, registers with theirs, the number without (Netz NOE, customer interface)."""
    if len(entries) < 3:
        return entries
    first, *between, last = entries
    text = _name(last.value) if last.value.tag is Tag.OCTET_STRING else ""
    if (
        first.code
        or last.code
        or _clock_of(first.value) is None
        or not (text.isdigit() and len(text) in _NUMBER_DIGITS)
        or not all(one.code and one.code not in _IDENTITIES for one in between)
    ):
        return entries
    return first, *between, Entry(_IDENTITIES[0], last.value)


def _is_code(item: Datum) -> bool:
    return item.tag is Tag.OCTET_STRING and len(item.octets) == OBIS_SIZE


def _referred(items: Sequence[Datum]) -> list[Entry]:
    """Values after the list of objects that they are attributes of (IEC 62056-62 push setup)."""
    if not items or items[0].tag is not Tag.ARRAY or not items[0].elements:
        return []
    objects = [_object(one) for one in items[0].elements]
    codes = [one for one in objects if one is not None]
    # The list of objects may count itself as one of them.
    values = items if len(items) == len(objects) else items[1:]
    if len(codes) != len(objects) or len(values) != len(objects):
        return []
    return [Entry(code, value) for code, value in zip(codes, values, strict=True)]


def _object(item: Datum) -> bytes | None:
    """The OBIS code of a capture object: class, code, attribute, and what part of it."""
    match item.elements:
        case (
            Datum(Tag.LONG_UNSIGNED),
            Datum(Tag.OCTET_STRING, bytes() as code),
            Datum(Tag.INTEGER),
            Datum(Tag.LONG_UNSIGNED),
            *_,
        ) if len(code) == OBIS_SIZE:
            return code
    return None


# Kaifa's lists for the Norwegian HAN port, by their number of elements; `obis_list_information`
# of the maker. They carry no codes, no scalers and no units.
_KAIFA_POWERS = tuple(bytes((1, 0, group, 7, 0, 255)) for group in (1, 2, 3, 4))
_KAIFA_THREE = tuple(bytes((1, 0, group, 7, 0, 255)) for group in (31, 51, 71, 32, 52, 72))
_KAIFA_ONE = tuple(bytes((1, 0, group, 7, 0, 255)) for group in (31, 32))
_KAIFA_HEAD_CODES = (
    bytes((1, 1, 0, 2, 129, 255)),
    bytes((0, 0, 96, 1, 0, 255)),
    bytes((0, 0, 96, 1, 7, 255)),
)
_KAIFA_TOTALS = (CLOCK, *(bytes((1, 0, group, 8, 0, 255)) for group in (1, 2, 3, 4)))
_KAIFA_LISTS = {
    len(codes): codes
    for codes in (
        (*_KAIFA_HEAD_CODES, *_KAIFA_POWERS, *phases, *totals)
        for phases in (_KAIFA_ONE, _KAIFA_THREE)
        for totals in ((), _KAIFA_TOTALS)
    )
}
_KAIFA_UNITS = {  # of what is shown only: no register that counts is among them
    **dict.fromkeys((31, 51, 71), ScalerUnit(-3, 33)),
    **dict.fromkeys((32, 52, 72), ScalerUnit(-1, 35)),
}


def _kaifa(items: Sequence[Datum]) -> list[Entry]:
    codes = _KAIFA_LISTS.get(len(items))
    if codes is None or not _name(items[0]).startswith("KFM") or any(map(_is_code, items)):
        return []
    pairs = list(zip(codes, items, strict=True))
    if any((code == CLOCK) != (_clock_of(value) is not None) for code, value in pairs):
        return []
    return [Entry(code, value, _KAIFA_UNITS.get(code[2])) for code, value in pairs]


# The list of Vienna's and some other Austrian grid operators, on the infrared port of Iskraemeco's
# AM550 and Siemens' IM350 (Oesterreichs Energie, customer interface adapter, data model 1).
_VIENNA_HEAD = bytes((0, 6, 25, 9, 0, 255))  # the push setup's own code
_VIENNA_TOTALS = tuple(bytes((1, 0, group, 8, 0, 255)) for group in (1, 2, 3, 4))
_VIENNA_POWERS = tuple(bytes((1, 0, group, 7, 0, 255)) for group in (1, 2))
_VIENNA_CODES = (
    bytes((0, 0, 96, 1, 1, 255)),
    bytes((1, 0, 0, 9, 1, 255)),
    bytes((1, 0, 0, 9, 2, 255)),
    *_VIENNA_TOTALS,
    *_VIENNA_POWERS,
)
_VIENNA_SIZES = (None, 4, 5)  # of the number, the time and the date


def _vienna(items: Sequence[Datum]) -> list[Entry]:
    if len(items) != 1 + len(_VIENNA_CODES) or items[0].octets != _VIENNA_HEAD:
        return []
    strings, counts = items[1:4], items[4:]
    if any(one.tag is not Tag.DOUBLE_LONG_UNSIGNED for one in counts):
        return []
    for one, size in zip(strings, _VIENNA_SIZES, strict=True):
        if one.tag is not Tag.OCTET_STRING or len(one.octets) != (size or len(one.octets)):
            return []
    return [Entry(code, value) for code, value in zip(_VIENNA_CODES, items[1:], strict=True)]


_COUNTS = (Tag.DOUBLE_LONG_UNSIGNED, Tag.LONG64_UNSIGNED)


def _ordered(items: Sequence[Datum], order: Sequence[bytes]) -> list[Entry]:
    if not order or len(items) != len(order):
        return []
    entries = [Entry(code, value) for code, value in zip(order, items, strict=True)]
    for one in entries:
        if one.value.elements or (one.register is not None and one.value.tag not in _COUNTS):
            return []
        if (one.code == CLOCK) != (_clock_of(one.value) is not None) and one.code:
            return []
    return entries


def _name(datum: Datum) -> str:
    """A value as text; empty if it is none. Meters pad with zero bytes and spaces."""
    match datum:
        case Datum(Tag.VISIBLE_STRING | Tag.UTF8_STRING, str() as text):
            return text.strip("\0 ")
        case Datum(Tag.OCTET_STRING, bytes() as raw) if raw:
            text = raw.strip(b"\0 ").decode("ascii", "replace")
            return text if text.isascii() and text.isprintable() else ""
    return ""


def _clock_of(datum: Datum) -> MeterClock | None:
    if datum.tag not in (Tag.OCTET_STRING, Tag.DATE_TIME) or len(datum.octets) != CLOCK_SIZE:
        return None
    try:
        return decode_clock(datum.octets)
    except Malformed:  # a number of twelve characters
        return None


def reading_of(
    said: Said,
    *,
    notified: MeterClock | None,
    title: bytes,
    times_ns: tuple[int, int],
    caveats: frozenset[Caveat],
    unitless_exponent: int | None = None,
) -> Reading:
    """A list as a reading.

    Args:
        said: the list.
        notified: the clock that the message around it shows.
        title: the system title of whoever sent it, empty if not known: the identity of a meter
            that states none otherwise.
        times_ns: of the looks that brought the first and the last byte.
        caveats: of the message.
        unitless_exponent: of ten, in Wh, for a register without a unit; None: as the maker says.

    Raises:
        Malformed: a register that says two things, less than nothing, or no energy.
    """
    stated = {one.code: one for one in reversed(said.entries) if one.code}
    shown = _shown_clock(said) or notified
    found: dict[Register, Index] = {}
    lacks = set(caveats)
    for entry in said.entries:
        register = entry.register
        if register is None:
            continue
        if unitless_exponent is None:
            unitless_exponent = _unitless_exponent(said, entry)
        index, assumed = _index(entry, unitless_exponent)
        if found.setdefault(register, index) != index:
            raise Malformed(f"two values for {obis_text(entry.code)}")
        if assumed:
            lacks.add(Caveat.UNIT_ASSUMED)
    if shown is not None and shown.degraded:
        lacks.add(Caveat.CLOCK_DEGRADED)
    numbers = (_identity(stated[code].value) for code in _IDENTITIES if code in stated)
    identity = next((one for one in numbers if one), title_text(title))
    return Reading(
        identity,
        found.get(Register.IMPORT),
        found.get(Register.EXPORT),
        *times_ns,
        meter_time_s=None if shown is None else shown.unix_s,
        caveats=frozenset(lacks),
        fields=tuple(_fields(said, shown, title)),
    )


def title_text(title: bytes) -> str:
    """A system title as people write it: the maker's three letters, and ten hexadecimal digits."""
    maker = title[:3]
    if maker.isalpha() and maker.isascii():
        return maker.decode() + title[3:].hex().upper()
    return title.hex().upper()


def _shown_clock(said: Said) -> MeterClock | None:
    for entry in said.entries:
        if entry.code[2:5] == CLOCK[2:5] and len(entry.value.octets) == CLOCK_SIZE:
            return decode_clock(entry.value.octets)
        if not entry.code and (clock := _clock_of(entry.value)) is not None:
            return clock
    return None


def _identity(datum: Datum) -> str:
    whole = datum.whole
    if whole is not None:
        return str(whole) if whole else ""
    return _name(datum) or (datum.octets.hex().upper() if any(datum.octets) else "")


def _unitless_exponent(said: Said, entry: Entry) -> int:
    """Kamstrup's lists, with a 1 in group B, count 10 Wh (HAN-NVE interface of Omnipower); without
    a unit all others count Wh."""
    return 1 if said.name.startswith("Kamstrup") and entry.code[1] == 1 else 0


def _index(entry: Entry, unitless_exponent: int) -> tuple[Index, bool]:
    value, scaled = entry.value.whole, entry.scaler_unit
    if value is None or value < 0:
        raise Malformed(f"{obis_text(entry.code)} is no count")
    if scaled is None:
        return Index(value, unitless_exponent), True
    if scaled.unit != WH and scaled.unit not in UNITS_NONE:
        raise Malformed(f"{obis_text(entry.code)} has the unit {scaled.unit}, which is no energy")
    if scaled.scaler < UWH_EXPONENT:
        raise Malformed(f"{obis_text(entry.code)} is finer than a micro-watt-hour")
    return Index(value, scaled.scaler), scaled.unit != WH


def _fields(said: Said, clock: MeterClock | None, title: bytes) -> Iterator[tuple[str, str]]:
    if title:
        yield "system title", title_text(title)
    if clock is not None:
        yield "clock", clock.text
    for entry in said.entries:
        name = obis_text(entry.code) if entry.code else LIST_FIELD
        text = _text(entry)
        if text:
            yield name, text[:_FIELD_MAX]


def _text(entry: Entry) -> str:
    whole = entry.value.whole
    if whole is not None:
        return str(whole) if entry.scaler_unit is None else entry.scaler_unit.text_of(whole)
    if (clock := _clock_of(entry.value)) is not None:
        return clock.text
    return _name(entry.value) or entry.value.octets.hex()
