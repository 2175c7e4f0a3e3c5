"""A simulated meter that pushes SML: values in, bytes out. Among its quirks are those that real
meters have. It shares nothing with the decoder but the sums, whose check values are published.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hal.index.crc16 import kermit, x25

_ESCAPE = b"\x1b\x1b\x1b\x1b"


class TimeForm(StrEnum):
    """How a meter states when its values are of."""

    ABSENT = "absent"
    SECONDS = "seconds"  # of its own life
    BARE = "bare"  # the same without the list around it (Holley DTZ541)
    UNIX = "unix"
    LOCAL = "local"  # UTC with what local time is ahead of it


@dataclass(frozen=True, slots=True)
class Value:
    """One entry of a list.

    Attributes:
        code: OBIS, six bytes.
        value: a whole number, text, or None for an entry without a value.
        unit: of DLMS/COSEM; None: not stated.
        scaler: the power of ten; None: not stated.
        width: bytes of the number; 0: as many as it needs.
        signed: sent as a signed number.
        status: a status word.
    """

    code: bytes
    value: int | bytes | None
    unit: int | None = None
    scaler: int | None = None
    width: int = 0
    signed: bool = False
    status: int | None = None


@dataclass(frozen=True, slots=True)
class SmlMeter:
    """What one meter always says, and how it writes.

    Attributes:
        server: its server id.
        is_kermit: it writes the other sum.
        time_form: of the list's time, and of the registers' time if `dates_values`.
        dates_values: each value of energy carries a time.
        list_name: OBIS, six bytes, or none.
        signature: behind the list.
        wide_tags: kinds of messages are numbers of four bytes.
        short_sums: a sum with a leading zero byte is sent without it.
        four_fills: four bytes fill a file that needs none (DZG).
        opens_for_zeros: its files are opened for a server of zeros, and it is the client (Logarex).
    """

    server: bytes
    is_kermit: bool = False
    time_form: TimeForm = TimeForm.SECONDS
    dates_values: bool = False
    list_name: bytes = b"\x01\x00\x62\x0a\xff\xff"
    signature: bytes = b""
    wide_tags: bool = False
    short_sums: bool = False
    four_fills: bool = False
    opens_for_zeros: bool = False
    public_key: bytes = field(default=b"", repr=False)

    def file(self, number: int, values: Sequence[Value], time_s: int = 0) -> bytes:
        """What it sends: its file `number`, with these values, at `time_s` of its clock."""
        time = self._time(time_s)
        who = [None, self.server] if not self.opens_for_zeros else [self.server, bytes(10)]
        opened = [None, who[0], number.to_bytes(4, "big"), who[1], None, None]
        entries: list[object] = [self._entry(one, time) for one in values]
        if self.public_key:
            code = b"\x81\x81\xc7\x82\x05\xff"
            entries.append([code, None, None, None, None, self.public_key, None])
        listed = [
            None, self.server, self.list_name or None, time, entries, self.signature or None, None,
        ]  # fmt: skip
        return self.transport(
            b"".join(
                self.message(number, place, kind, body)
                for place, (kind, body) in enumerate(
                    [(0x0101, opened), (0x0701, listed), (0x0201, [None])]
                )
            )
        )

    def _entry(self, one: Value, time: object) -> list[object]:
        value = one.value
        return [
            one.code,
            None if one.status is None else _Whole(one.status),
            time if self.dates_values and one.unit == 30 else None,
            None if one.unit is None else _Whole(one.unit),
            None if one.scaler is None else _Whole(one.scaler, signed=True),
            _Whole(value, one.width, signed=one.signed) if isinstance(value, int) else value,
            None,
        ]

    def _time(self, time_s: int) -> object:
        seconds = _Whole(time_s, 4)
        if self.time_form is TimeForm.LOCAL:
            offsets = [_Whole(60, 2, signed=True), _Whole(60, 2, signed=True)]
            return [_Whole(3), [seconds, *offsets]]
        return {
            TimeForm.ABSENT: None,
            TimeForm.BARE: seconds,
            TimeForm.SECONDS: [_Whole(1), seconds],
            TimeForm.UNIX: [_Whole(2), seconds],
        }[self.time_form]

    def message(self, number: int, place: int, kind: int, body: object) -> bytes:
        """One message of a file, under its sum."""
        head = [(number * 4 + place).to_bytes(4, "big"), _Whole(place), _Whole(0)]
        choice = [_Whole(kind, 4 if self.wide_tags else 2), body]
        inner = b"\x76" + b"".join(map(encode_item, [*head, choice]))
        stated = int.from_bytes(self._sum(inner), "big")
        width = 1 if self.short_sums and stated < 256 else 2
        return inner + encode_item(_Whole(stated, width)) + b"\0"

    def transport(self, messages: bytes) -> bytes:
        """Messages between escapes."""
        fill = -len(messages) % 4 or 4 * self.four_fills
        content = (messages + bytes(fill)).replace(_ESCAPE, _ESCAPE + _ESCAPE)
        file = _ESCAPE + b"\x01\x01\x01\x01" + content + _ESCAPE + bytes((0x1A, fill))
        return file + self._sum(file)

    def _sum(self, data: bytes) -> bytes:
        return (
            kermit(data).to_bytes(2, "big") if self.is_kermit else x25(data).to_bytes(2, "little")
        )


@dataclass(frozen=True, slots=True)
class _Whole:
    """A number, and in how many bytes it is sent; 0: as few as it needs."""

    value: int
    width: int = 0
    signed: bool = False


def encode_item(item: object) -> bytes:
    """Any value: None for an absent one, bytes, whole numbers, lists."""
    if isinstance(item, list):
        return _head(7, len(item), 0) + b"".join(map(encode_item, item))
    if isinstance(item, _Whole):
        width = item.width or max(1, (item.value.bit_length() + item.signed + 7) // 8)
        content = item.value.to_bytes(width, "big", signed=item.signed)
        return _head(5 if item.signed else 6, width, 1) + content
    content = item if isinstance(item, bytes) else b""
    return _head(0, len(content), 1) + content


def _head(kind: int, length: int, own: int) -> bytes:
    """The bytes before a value: four bits of its length in each. A list's length counts elements
    (`own` 0), another's these bytes too (`own` 1)."""
    if length + own < 16:
        return bytes((kind << 4 | length + own,))
    heads = 2
    while length + own * heads >= 16**heads:
        heads += 1
    length += own * heads
    more = [0x80 | length >> 4 * place & 0x0F for place in range(heads - 1, 0, -1)]
    more[0] |= kind << 4
    return bytes((*more, length & 0x0F))
