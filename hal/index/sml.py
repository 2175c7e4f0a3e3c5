"""SML push (Smart Message Language, version 1): what German meters send at their optical port,
mostly at 9600 baud, eight bits, no parity.

A file lies between escapes, under a sum of 16 bits; in it are messages, each under a sum of its
own; in those, typed values. Both sums are of one polynomial: damage that keeps a file's length and
passes one passes the other, so that the form of every value, the meter's number and the course of
the index decide with them. A sum of 16 bits is no weak check.

The meter's identity is its server id, in hexadecimal: every list must carry it, it is the same in
each of a meter's lists, and it holds the number on the plate (`fields` say it as printed there).
1-0:96.1.0 and 0-0:96.1.255 are missing from many meters.

What meters do against the standard, and is read all the same: sums of the Kermit kind (Holley); a
bare number in place of a time (Holley DTZ541); a sum whose leading zero byte is left out; a power
that is signed too short (DZG DVS74, see `_power`); four fill bytes where none are needed (DZG); a
file that is opened for a server of zeros (Logarex); no unit at a register of energy, which is Wh
then, with a caveat. What is not: version 2 of the transport, requests, profiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cryptometer.steps import NS_PER_S
from hal.index.arrivals import Arrivals
from hal.index.crc16 import kermit, x25
from hal.index.reading import Caveat, Index, LineForm, Reading, Refusal, Refused, Register

FORM = LineForm(9_600)
FILE_MAX = 8192  # bytes: nine seconds of a line of 9600 baud; files have 200 to 1,000
DEPTH_MAX = 10  # lists within lists: a local time in a list's entry is the seventh
SILENCE_NS = 2 * NS_PER_S  # a file is sent in one go
ENERGY_WH_MAX = 10**12  # what no meter counts

_ESCAPE = b"\x1b\x1b\x1b\x1b"
_BEGIN = b"\x01\x01\x01\x01"
_START = _ESCAPE + _BEGIN
_END = 0x1A
_END_BYTES = 8  # an escape, 1A, the number of fill bytes, the sum
_FILL_MAX = 4  # DZG meters write four where none are needed

_OPEN, _CLOSE, _LIST, _ATTENTION = 0x0101, 0x0201, 0x0701, 0xFF01
_WH = 30  # units are those of DLMS/COSEM
_UNITS = {
    8: "°", 27: "W", 28: "VA", 29: "var", _WH: "Wh", 31: "VAh", 32: "varh", 33: "A", 35: "V",
    44: "Hz",
}  # fmt: skip
_SEC_INDEX, _TIMESTAMP, _LOCAL = 1, 2, 3  # the choices of a time
_TIMES_S = range(10**9, 2**32)  # a clock that was never set says less


class Signed(NamedTuple):
    """A number that was sent as a signed one."""

    value: int
    width: int  # bytes


Item = bytes | int | bool | Signed | list["Item"] | None


class _BadForm(Exception):  # noqa: N818 - told in its own word, and never outside of this module
    """The bytes are not written as SML writes them."""

    reason = Refused.FORM


class _BadSum(_BadForm):
    """A message whose sum is another."""

    reason = Refused.CHECKSUM


class SmlDecoder:
    """From bytes to readings."""

    def __init__(self) -> None:
        self._came = Arrivals()
        self._at = 0  # where the next escape is looked for; 0: no file has begun
        self._is_astray = False  # what stands before the next file belongs to one refused already

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        if not data:
            self._fall_silent(at_ns, found)
        for begin in range(0, len(data), FILE_MAX):
            self._came.put(data[begin : begin + FILE_MAX], at_ns)
            while self._advance(found):
                pass
        return found

    def _fall_silent(self, at_ns: int, found: list[Reading | Refusal]) -> None:
        came = self._came
        if came.data and at_ns - came.came_ns(len(came.data) - 1) >= SILENCE_NS:
            if self._at:
                detail = "the line fell silent within a file"
                found.append(self._refuse(Refused.INCOMPLETE, detail, len(came.data)))
            came.drop(len(came.data))

    def _advance(self, found: list[Reading | Refusal]) -> bool:
        """Takes one step; whether another can be taken before more bytes come."""
        data = self._came.data
        if not self._at:
            return self._begin(found)
        at = data.find(_ESCAPE, self._at)
        if at >= 0 and len(data) >= at + _END_BYTES:
            return self._escape(at, found)
        self._at = at if at >= 0 else max(self._at, len(data) - len(_ESCAPE) + 1)
        if len(data) <= FILE_MAX:
            return False
        detail = f"{FILE_MAX} bytes without an end"
        found.append(self._refuse(Refused.TOO_LONG, detail, self._last_start(len(data))))
        return True

    def _begin(self, found: list[Reading | Refusal]) -> bool:
        data = self._came.data
        at = data.find(_START)
        stray = at if at >= 0 else max(0, len(data) - len(_START) + 1)
        if any(data[:stray]) and not self._is_astray:
            found.append(self._refuse(Refused.INCOMPLETE, "bytes outside of a file", stray))
        else:
            self._came.drop(stray)
        self._at = len(_START) if at >= 0 else 0
        return at >= 0

    def _escape(self, at: int, found: list[Reading | Refusal]) -> bool:
        data = self._came.data
        meaning = bytes(data[at + len(_ESCAPE) : at + _END_BYTES])
        if meaning == _ESCAPE:
            self._at = at + _END_BYTES
        elif meaning == _BEGIN:
            found.append(self._refuse(Refused.INCOMPLETE, "a file begins within a file", at))
        elif meaning[0] == _END:
            self._close(at + _END_BYTES, found)
        else:
            # Its first byte may be the last one of something else, and a start lie behind it.
            detail = f"an escape that means nothing: {meaning.hex()}"
            found.append(self._refuse(Refused.FORM, detail, at + 1))
        return True

    def _close(self, end: int, found: list[Reading | Refusal]) -> None:
        raw = bytes(self._came.data[:end])
        if not _is_sum(raw[:-2], int.from_bytes(raw[-2:], "big")):
            detail = "the sum of the file is another"
            found.append(self._refuse(Refused.CHECKSUM, detail, self._last_start(end)))
            return
        began_ns, ended_ns = self._came.came_ns(0), self._came.came_ns(end - 1)
        try:
            outcome = _outcome(raw, began_ns, ended_ns)
        except _BadForm as bad:
            found.append(self._refuse(bad.reason, str(bad), end))
            return
        self._came.drop(end)
        self._at, self._is_astray = 0, False
        found += outcome

    def _last_start(self, end: int) -> int:
        """Where, in bytes up to `end` that are refused, a whole file may begin: its start was taken
        for escaped bytes, or for the last ones of the end. Of several starts the last one is taken,
        so that no bytes are gone through more than twice."""
        at = self._came.data.rfind(_START, 1, end)
        return at if at > 0 else max(1, end - len(_START) + 1)

    def _refuse(self, reason: Refused, detail: str, count: int) -> Refusal:
        """Lets go of the first bytes, and of the file that has begun."""
        refusal = Refusal(reason, detail, self._came.came_ns(len(self._came.data) - 1))
        self._came.drop(count)
        self._at, self._is_astray = 0, True
        return refusal


def _is_sum(data: bytes, stated: int) -> bool:
    """Whether a sum is that of `data`, of one kind or the other, as each is sent."""
    low_first = x25(data)
    return stated in (low_first >> 8 | (low_first & 0xFF) << 8, kermit(data))


# --- From a file to its messages. ----------------------------------------------------------------


def _outcome(raw: bytes, began_ns: int, ended_ns: int) -> list[Reading | Refusal]:
    """What a file says whose sum is right.

    Raises:
        _BadForm: it is not written as SML.
    """
    fill = raw[-3]
    if fill > _FILL_MAX:
        raise _BadForm(f"{fill} fill bytes")
    inner = raw[len(_START) : -_END_BYTES].replace(_ESCAPE + _ESCAPE, _ESCAPE)
    bodies = list(_messages(inner[: len(inner) - fill]))
    server = next((_octets(one[3], "server id") for tag, one in bodies if tag == _OPEN), b"")
    server = server if any(server) else b""  # Logarex: zeros
    outcome: list[Reading | Refusal] = []
    for tag, body in bodies:
        if tag == _ATTENTION:
            detail = f"attention: {_text(body[1])[:40]}"
            outcome.append(Refusal(Refused.METER_ERROR, detail, ended_ns))
        elif tag == _LIST:
            outcome.append(_list_outcome(_read_list(body, server), began_ns, ended_ns))
    return outcome or [Refusal(Refused.NO_INDEX, "a file without a list", ended_ns)]


_LENGTHS = {_OPEN: 6, _CLOSE: 1, _LIST: 7, _ATTENTION: 4}


def _messages(inner: bytes) -> Iterator[tuple[int, list[Item]]]:
    """The messages of a file: what kind of body each has, and the body's elements."""
    at = 0
    while at < len(inner):
        if not any(inner[at:]) and len(inner) - at <= _FILL_MAX:
            return  # fill bytes that were not counted
        begin = at
        if inner[at] != _MESSAGE_TL:
            raise _BadForm(f"a message begins with {inner[at]:02x}")
        reader = _Reader(inner, at + 1)
        _octets(reader.item(1), "number of a message")
        _number(reader.item(1), "group of a message")
        _number(reader.item(1), "word on errors")
        body = reader.item(1)
        end = reader.at
        stated = _number(reader.item(1), "sum of a message")
        reader.end()
        at = reader.at
        if not _is_sum(inner[begin:end], stated):
            raise _BadSum("the sum of a message is another")
        yield _choice(body)


_MESSAGE_TL = 0x76  # a list of six


def _choice(body: Item) -> tuple[int, list[Item]]:
    tag, content = _list(body, 2, "body of a message")
    kind = _number(tag, "kind of a message")
    length = _LENGTHS.get(kind)
    if length is None:
        return kind, []
    return kind, _list(content, length, f"message {kind:04x}")


class _Reader:
    """Typed values, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def end(self) -> None:
        """The zero byte behind a message."""
        if self._data[self.at : self.at + 1] != b"\0":
            raise _BadForm("a message without its end")
        self.at += 1

    def item(self, depth: int) -> Item:
        """The next value.

        Raises:
            _BadForm: there is none, or one that the standard does not write.
        """
        kind, length, begin = self._head()
        if kind == 7:
            self.at = begin
            return self._items(length, depth)
        end = self.at + length
        content = self._data[begin:end]
        if end > len(self._data) or end < begin:
            raise _BadForm("a value longer than its message, or shorter than its head")
        self.at = end
        if kind == 0:
            return content or None
        if not 1 <= len(content) <= 8:
            raise _BadForm(f"a number of {len(content)} bytes")
        if kind == 6:
            return int.from_bytes(content, "big")
        if kind == 5:
            return Signed(int.from_bytes(content, "big", signed=True), len(content))
        if kind == 4 and len(content) == 1:
            return content != b"\0"
        raise _BadForm(f"a value of kind {kind}")

    def _head(self) -> tuple[int, int, int]:
        """Kind, length and where the content begins. A list's length counts its elements, another's
        the bytes from its head on."""
        data, at = self._data, self.at
        if at >= len(data):
            raise _BadForm("a value is missing")
        first = data[at]
        length, begin = first & 0x0F, at + 1
        more = first & 0x80
        while more:
            if begin >= len(data) or data[begin] & 0x70 or length > FILE_MAX:
                raise _BadForm("a length that no value has")
            more = data[begin] & 0x80
            length, begin = length << 4 | data[begin] & 0x0F, begin + 1
        return first >> 4 & 7, length, begin

    def _items(self, length: int, depth: int) -> list[Item]:
        if depth == DEPTH_MAX:
            raise _BadForm(f"more than {DEPTH_MAX} lists within lists")
        return [self.item(depth + 1) for _ in range(length)]


# --- What values must be. ------------------------------------------------------------------------


def _list(item: Item, length: int, what: str) -> list[Item]:
    if not isinstance(item, list) or len(item) != length:
        raise _BadForm(f"the {what} is no list of {length}")
    return item


def _octets(item: Item, what: str) -> bytes:
    """Absent ones are none."""
    if not isinstance(item, bytes | None):
        raise _BadForm(f"the {what} is no text")
    return item or b""


def _number(item: Item, what: str) -> int:
    if isinstance(item, bool) or not isinstance(item, int):
        raise _BadForm(f"the {what} is no number")
    return item


def _small(item: Item, what: str) -> int:
    """A number of either sign; 0 if it is absent."""
    if item is None:
        return 0
    return item.value if isinstance(item, Signed) else _number(item, what)


@dataclass(frozen=True, slots=True)
class _Time:
    """A time as a meter states it: `seconds` of its own life or, if `is_utc`, of unix time."""

    seconds: int
    is_utc: bool

    def __str__(self) -> str:
        return f"{self.seconds} {'unix' if self.is_utc else 's'}"


def _time(item: Item, what: str) -> _Time | None:
    if item is None:
        return None
    if isinstance(item, int):  # Holley DTZ541: the seconds of its life, bare
        return _Time(_number(item, what), is_utc=False)
    choice, value = _list(item, 2, what)
    kind = _number(choice, what)
    if isinstance(value, list):  # UTC, and what local time is ahead of it
        utc, _, _ = (_small(one, what) for one in _list(value, 3, what))
        return _Time(utc, is_utc=kind == _LOCAL)
    return _Time(_number(value, what), is_utc=kind == _TIMESTAMP)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value of a list."""

    code: bytes
    status: Item
    time: _Time | None
    unit: int
    scaler: int
    value: Item
    signature: bytes


@dataclass(frozen=True, slots=True)
class _ValueList:
    """What a meter says at one moment."""

    server: bytes
    name: bytes
    time: _Time | None
    entries: list[_Entry]
    signature: bytes


def _read_list(body: list[Item], opened_for: bytes) -> _ValueList:
    """A list response, of the server for which its file was opened."""
    _, server, name, sensor_time, values, signature, gateway_time = body
    of = _octets(server, "server id") or opened_for
    if opened_for and of != opened_for:
        raise _BadForm("the list is of another server than the file")
    if not isinstance(values, list):
        raise _BadForm("the list has no values")
    _time(gateway_time, "gateway's time")
    return _ValueList(
        of,
        _octets(name, "name of the list"),
        _time(sensor_time, "sensor's time"),
        [_read_entry(one) for one in values],
        _octets(signature, "signature"),
    )


def _read_entry(item: Item) -> _Entry:
    code, status, time, unit, scaler, value, signature = _list(item, 7, "entry")
    name = _octets(code, "name of a value")
    if len(name) != 6:
        raise _BadForm("the name of a value is no OBIS code")
    return _Entry(
        name,
        status,
        _time(time, "time of a value"),
        _small(unit, "unit"),
        _small(scaler, "scaler"),
        value,
        _octets(signature, "signature"),
    )


# --- From a list to a reading. -------------------------------------------------------------------

_DEVICE = b"\x01\x00\x60\x01\x00\xff"
_POWER = b"\x01\x00\x10\x07\x00\xff"
_GROUP = {Register.IMPORT: 1, Register.EXPORT: 2}


def _list_outcome(one: _ValueList, began_ns: int, ended_ns: int) -> Reading | Refusal:
    if not one.server:
        return Refusal(Refused.NO_IDENTITY, "the list names no server", ended_ns)
    caveats: set[Caveat] = set()
    registers = {which: _register(one, group, caveats) for which, group in _GROUP.items()}
    if all(index is None for index in registers.values()):
        return Refusal(Refused.NO_INDEX, "the list has no register of energy", ended_ns)
    return Reading(
        one.server.hex().upper(),
        registers[Register.IMPORT],
        registers[Register.EXPORT],
        began_ns,
        ended_ns,
        _unix_s(one),
        frozenset(caveats),
        tuple(_fields(one)),
    )


def _register(one: _ValueList, group: int, caveats: set[Caveat]) -> Index | None:
    """The total; or, where the list has none, the sum of the tariffs if they are all there: from
    the first on, without a gap."""
    found: dict[int, Index] = {}
    for entry in one.entries:
        a, _, c, d, tariff, billing = entry.code
        if (a, c, d, billing) != (1, group, 8, 0xFF) or entry.value is None:
            continue
        index = _index(entry, caveats)
        if found.setdefault(tariff, index) != index:
            raise _BadForm(f"two values of {_obis(entry.code)}")
    if 0 in found:
        return found[0]
    if not found or set(found) != set(range(1, len(found) + 1)):
        return None
    exponent = min(one.exponent for one in found.values())
    values = (one.value * 10 ** (one.exponent - exponent) for one in found.values())
    return Index(sum(values), exponent)


def _index(entry: _Entry, caveats: set[Caveat]) -> Index:
    value, name = entry.value, _obis(entry.code)
    if isinstance(value, Signed):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _BadForm(f"{name} is no number")
    if entry.unit not in (_WH, 0):
        raise _BadForm(f"{name} is given in unit {entry.unit}, not in Wh")
    if not -6 <= entry.scaler <= 6 or not 0 <= value * 10 ** (entry.scaler + 6) < _ENERGY_MAX:
        raise _BadForm(f"{name} is {value} x 10**{entry.scaler} Wh")
    if not entry.unit:
        caveats.add(Caveat.UNIT_ASSUMED)
    return Index(value, entry.scaler)


_ENERGY_MAX = ENERGY_WH_MAX * 10**6


def _unix_s(one: _ValueList) -> int | None:
    """The time of the registers, or that of the list."""
    of_energy = [entry.time for entry in one.entries if entry.code[2:4] in (b"\1\x08", b"\2\x08")]
    for time in (*of_energy, one.time):
        if time is not None and time.is_utc and time.seconds in _TIMES_S:
            return time.seconds
    return None


def _fields(one: _ValueList) -> Iterator[tuple[str, str]]:
    if number := _printed_number(one.server):
        yield "number", number
    if one.name:
        yield "list", _obis(one.name) if len(one.name) == 6 else one.name.hex()
    if one.time is not None:
        yield "time", str(one.time)
    for entry in one.entries:
        yield from _entry_fields(entry, one)
    if one.signature:
        yield "signature", one.signature.hex()


def _entry_fields(entry: _Entry, one: _ValueList) -> Iterator[tuple[str, str]]:
    name = _obis(entry.code)
    if entry.value is not None:
        value = _power(entry, one) if entry.code == _POWER else entry.value
        unit = f" {_UNITS.get(entry.unit, f'unit {entry.unit}')}" if entry.unit else ""
        yield name, f"{_text(value, entry.scaler)}{unit}"
    if entry.status is not None:
        yield f"{name} status", _status(entry.status)
    if entry.time is not None:
        yield f"{name} time", str(entry.time)
    if entry.signature:
        yield f"{name} signature", entry.signature.hex()


# Numbers of DZG DVS74 meters that give a positive power as a signed number of as many bytes as an
# unsigned one needs, so that it looks negative (found by the authors of libsml).
_DZG_BEFORE = b"\x0a\x01DZG"
_DZG_SIGNED = (range(42_000_000, 49_000_000), range(55_000_000, 59_000_000))


def _power(entry: _Entry, one: _ValueList) -> Item:
    """The power, of either sign."""
    value = entry.value
    if not isinstance(value, Signed) or value.width > 3 or not one.server.startswith(_DZG_BEFORE):
        return value
    number = int.from_bytes(one.server[len(_DZG_BEFORE) :], "big")
    if any(number in numbers for numbers in _DZG_SIGNED):
        return value.value % (1 << 8 * value.width)
    return value


def _printed_number(server: bytes) -> str | None:
    """A server id as the plate has it (DIN 43863-5): medium, maker, batch, number."""
    if server.isascii() and server.isalnum():
        return server.decode("ascii")
    if len(server) != 10 or server[0] not in (0x09, 0x0A) or not server[2:5].isalpha():
        return None
    number = int.from_bytes(server[6:], "big")
    return f"{server[1]:X}{server[2:5].decode('ascii')}{server[5]:02X}{number:08d}"


def _obis(code: bytes) -> str:
    a, b, c, d, e, f = code
    return f"{a}-{b}:{c}.{d}.{e}*{f}"


def _status(item: Item) -> str:
    return f"{item:x}" if isinstance(item, int) else _text(item)


def _text(item: Item, scaler: int = 0) -> str:
    if isinstance(item, Signed):
        item = item.value
    if isinstance(item, bytes):
        text = item.decode("latin-1")
        return text if text.isascii() and text.isprintable() else item.hex()
    if isinstance(item, int) and not isinstance(item, bool):
        return _decimal(item, scaler)
    return str(item).lower() if isinstance(item, bool) else "a list"


def _decimal(value: int, scaler: int) -> str:
    if scaler >= 0 or scaler < -18:
        return f"{value}e{scaler}" if scaler else str(value)
    digits = f"{abs(value):0{1 - scaler}d}"
    return f"{'-' if value < 0 else ''}{digits[:scaler]}.{digits[scaler:]}"
