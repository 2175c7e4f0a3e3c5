"""Simulated DLMS/COSEM meters: what one sends by itself, as the makers' lists look. Pure: values
in, bytes out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from hal.index.axdr import (
    WH,
    Datum,
    Tag,
    encode_clock,
    encode_data,
    encode_length,
)
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    GENERAL_GLO,
    Keys,
    encode_protected,
    seal_protected,
)
from hal.index.dlms_push import DATA_NOTIFICATION, Framing
from hal.index.hdlc import Address, Control, Frame
from hal.index.objects import CLOCK

_ID = bytes((0, 0, 96, 1, 0, 255))
_NAME = bytes((1, 1, 0, 2, 129, 255))
_POWERS = (bytes((1, 0, 1, 7, 0, 255)), bytes((1, 0, 2, 7, 0, 255)))
_TOTALS = (bytes((1, 0, 1, 8, 0, 255)), bytes((1, 0, 2, 8, 0, 255)))
_W, _CENTRAL_EUROPE_MIN = 27, -60


@dataclass(frozen=True, slots=True)
class Told:
    """What a meter knows at one moment.

    Attributes:
        imported_wh, exported_wh: its indexes.
        power_w: taken from the grid; given to it if negative.
        unix_s: its clock.
    """

    imported_wh: int
    exported_wh: int
    power_w: int
    unix_s: int


class Layout(StrEnum):
    """Of a list."""

    OBJECTS = "objects"  # a structure for each: code, value, scaler and unit (Aidon, Salzburg)
    PAIRS = "pairs"  # code, value, code, value (Landis+Gyr E450)
    TENS = "tens"  # the same, in tens of watt-hours (Kamstrup)
    ORDER = "order"  # values without codes (Kaifa)


@dataclass(frozen=True, slots=True)
class Style:
    """How a meter sends.

    Attributes:
        number: its own; of a meter with keys and a list without it, its system title counts.
        layout: of its lists.
        framing: of its line.
        keys: None: in clear.
        title: its system title.
        part: bytes in one frame; a longer message is segmented.
        block: bytes in a block of general block transfer; 0: none.
    """

    number: str = "7359992890941742"
    layout: Layout = Layout.OBJECTS
    framing: Framing = Framing.HDLC
    keys: Keys | None = None
    title: bytes = b"SIM\x00\x00\x00\x00\x07"
    part: int = 1_024
    block: int = 0


def telegram(told: Told, style: Style, counter: int) -> bytes:
    """One telegram, all frames of it.

    Args:
        told: what it says.
        style: how.
        counter: its invocation counter; each telegram of a meter has a greater one.
    """
    message = notification(told, style)
    if style.keys is not None:
        control = ENCRYPTED | (AUTHENTICATED if style.keys.authentication is not None else 0)
        sealed = seal_protected(message, control, counter, style.title, style.keys)
        message = encode_protected(sealed, GENERAL_GLO)
    return _FRAMINGS[style.framing](message, style)


def notification(told: Told, style: Style) -> bytes:
    """The message in clear: a data notification."""
    clock = encode_clock(told.unix_s, _CENTRAL_EUROPE_MIN)
    head = bytes([DATA_NOTIFICATION]) + bytes(4)
    if style.layout is Layout.ORDER:  # with the tag that Kaifa puts there
        return head + encode_data(Datum(Tag.OCTET_STRING, clock)) + encode_data(_list(told, style))
    return head + bytes([len(clock)]) + clock + encode_data(_list(told, style))


def _list(told: Told, style: Style) -> Datum:
    clock = Datum(Tag.OCTET_STRING, encode_clock(told.unix_s, _CENTRAL_EUROPE_MIN))
    number = Datum(Tag.VISIBLE_STRING, style.number)
    powers = [_count(max(0, told.power_w)), _count(max(0, -told.power_w))]
    totals = [_count(told.imported_wh), _count(told.exported_wh)]
    match style.layout:
        case Layout.OBJECTS:
            objects = [
                _structure(_code(_NAME), Datum(Tag.VISIBLE_STRING, "AIDON_V0001")),
                _structure(_code(_ID), number),
                *(_scaled(code, value, _W) for code, value in zip(_POWERS, powers, strict=True)),
                _structure(_code(CLOCK), clock),
                *(_scaled(code, value, WH) for code, value in zip(_TOTALS, totals, strict=True)),
            ]
            return Datum(Tag.ARRAY, tuple(objects))
        case Layout.PAIRS:
            pairs = zip((*_TOTALS, *_POWERS), (*totals, *powers), strict=True)
            return _structure(
                clock, *(one for code, value in pairs for one in (_code(code), value))
            )
        case Layout.TENS:
            tens = [_count(told.imported_wh // 10), _count(told.exported_wh // 10)]
            codes = [bytes([1, 1, *code[2:]]) for code in (*_POWERS, *_TOTALS)]
            pairs = zip(codes, (*powers, *tens), strict=True)
            return _structure(
                Datum(Tag.VISIBLE_STRING, "Kamstrup_V0001"),
                _code(bytes((1, 1, 0, 0, 5, 255))),
                number,
                *(one for code, value in pairs for one in (_code(code), value)),
            )
        case Layout.ORDER:
            nothing = _count(0)
            names = (b"KFM_001", style.number.encode(), b"MA304H3E")
            return _structure(
                *(Datum(Tag.OCTET_STRING, name) for name in names),
                *powers, nothing, nothing,
                *(_count(milliampere) for milliampere in (900, 1_200, 0)),
                *(_count(decivolt) for decivolt in (2_301, 2_310, 2_298)),
                clock, *totals, nothing, nothing,
            )  # fmt: skip


def _code(code: bytes) -> Datum:
    return Datum(Tag.OCTET_STRING, code)


def _count(value: int) -> Datum:
    return Datum(Tag.DOUBLE_LONG_UNSIGNED, value)


def _structure(*elements: Datum) -> Datum:
    return Datum(Tag.STRUCTURE, elements)


def _scaled(code: bytes, value: Datum, unit: int) -> Datum:
    scaler = _structure(Datum(Tag.INTEGER, 0), Datum(Tag.ENUM, unit))
    return _structure(_code(code), value, scaler)


# --- Framings. -----------------------------------------------------------------------------------

_HEADER = bytes((0xE6, 0xE7, 0x00))
_TO, _FROM = Address(32), Address(4, 65, 2)


def _cut(data: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """Parts, and whether it is the last one."""
    for start in range(0, len(data), size):
        yield data[start : start + size], start + size >= len(data)


def _in_hdlc(message: bytes, style: Style) -> bytes:
    if style.block:
        blocks = _blocks(message, style.block)
        frames = [
            Frame(_TO, _FROM, Control.UI, block if number else _HEADER + block)
            for number, block in enumerate(blocks)
        ]
    else:
        frames = [
            Frame(_TO, _FROM, Control.UI if last else Control.UI & ~0x10, part, not last)
            for part, last in _cut(_HEADER + message, style.part)
        ]
    return b"".join(frame.encode() for frame in frames)


def _blocks(message: bytes, size: int) -> list[bytes]:
    return [
        bytes((0xE0, 0xC0 if last else 0x40))
        + number.to_bytes(2, "big")
        + bytes(2)
        + encode_length(len(part))
        + part
        for number, (part, last) in enumerate(_cut(message, size), 1)
    ]


def _in_wrapper(message: bytes, style: Style) -> bytes:
    del style
    head = b"".join(field.to_bytes(2, "big") for field in (1, 1, 102, len(message)))
    return head + message


def _in_mbus(message: bytes, style: Style) -> bytes:
    frames = b""
    for number, (part, last) in enumerate(_cut(message, min(style.part, 245))):
        body = bytes((0x53, 0xFF, number & 0x0F | (0x10 if last else 0), 0x01, 0x67)) + part
        frames += bytes((0x68, len(body), len(body), 0x68)) + body
        frames += bytes((sum(body) % 256, 0x16))
    return frames


def _bare(message: bytes, style: Style) -> bytes:
    return b"".join(_blocks(message, style.block)) if style.block else message


_FRAMINGS: dict[Framing, Callable[[bytes, Style], bytes]] = {
    Framing.HDLC: _in_hdlc,
    Framing.WRAPPER: _in_wrapper,
    Framing.MBUS: _in_mbus,
    Framing.BARE: _bare,
}
