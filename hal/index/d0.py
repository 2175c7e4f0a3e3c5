"""IEC 62056-21 (D0) as it is heard: a meter's identification and its data lines, pushed (mode D,
mostly 2400 baud, 7E1) or as the answer of a meter that was asked (d0_asked.py).

No check of this protocol is strong. The block check is the XOR of all bytes: two flips of one bit,
or two bytes that changed places, pass it; pushed messages mostly have none. So every reading is of
a weak check, and waits for the one after it (plausible.py). What is checked besides: the parity of
each byte, where the line was read with it; the form of each line; and that a message is laid out
as the one before, down to the number of digits of an index. A meter that once sent a block check
must always.

A meter's identity is the first of these that it states, and that is not empty or zero: 0.0.9,
96.1.0, C.1.0, C.1, 96.1.255, 0.0.0, 0.0, 0.0.1, 96.1.1. The first ones come from its maker and
stay; the last ones may be set by others. Its clock, 0.9.1 and 0.9.2, is of local time and told in
`fields` only.

What meters do against the standard, and is read all the same: no end of the line before the end
mark (Pafal, Siemens); `*00` at the registers of now where no others are (Pafal); no unit, which is
kWh then, with a caveat; a slash within a value, as in `imp/kWh` (ZPA); a decimal comma (Kamstrup);
a space before the unit (Iskraemeco).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptometer.steps import NS_PER_S
from hal.index.arrivals import Arrivals
from hal.index.reading import (
    UWH_EXPONENT,
    Caveat,
    Index,
    LineForm,
    Reading,
    Refusal,
    Refused,
    Register,
)

FORM = LineForm(2_400)  # of mode D; some makers push at 9600. Parity is checked here
MESSAGE_MAX = 16_384  # bytes: long ones, with the values of a year of months, have five thousand
SILENCE_NS = 2 * NS_PER_S  # between two bytes there are at most 1.5 s

_STX, _ETX, _BLANK = b"\x02", b"\x03", b"\r\n\0 "
_BLANKS_MAX = 8  # behind an end mark, until it is clear that no block check follows
_SLASH, _END, _LINE_END = b"/", b"!", b"\r\n"
_REQUEST = b"/?"  # what a meter is asked with; an optical head may return it
# A slash is one of a value if a bracket closes first, and nothing if data begin in the same line.
_BEHIND_SLASH = re.compile(rb"[()\r\n!\x02]")
_LINE_MAX = 160  # bytes: no line before its first bracket, and no value with a slash, is longer

SEVEN_BITS = bytes(value & 0x7F for value in range(256))  # for bytes.translate
_EVEN = bytes(value for value in range(256) if value.bit_count() % 2 == 0)

IDENTIFICATION = re.compile(rb"/([A-Za-z]{3})([ -~])((?:\\[ -~])*)([ -.0-~]{0,32})")
# A value has 128 characters at most, but for the messages to a consumer of DSMR 2 and 3.
_SET = re.compile(r"([^()/!\x00-\x20\x7f]{0,24})((?:\([^()!\x00-\x1f\x7f]{0,2048}\))+)")
_ADDRESS = re.compile(r"(?:(?:0-0|1-[01]):)?([0-9A-Z]{1,3}(?:\.[0-9]{1,3}){1,2})(?:\*255)?")
_CODE = re.compile(r"([12])\.8\.([0-9]{1,2})")
_INDEX = re.compile(r"([0-9]{1,12})(?:[.,]([0-9]{1,9}))?(?:[* ](.*))?")
_EXPONENTS = {"kWh": 3, "Wh": 0, "MWh": 6, None: 3}
_IDENTITIES = ("0.0.9", "96.1.0", "C.1.0", "C.1", "96.1.255", "0.0.0", "0.0", "0.0.1", "96.1.1")
_REGISTERS = {"1": Register.IMPORT, "2": Register.EXPORT}


class _Bad(Exception):  # noqa: N818 - never outside of this module
    """A message that gives no reading."""

    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class _Message:
    """What a message says, line by line.

    Attributes:
        sets: each address, without the groups that all have and without `*255`, and its values.
        layout: how it is written: what must not change from one message to the next.
    """

    fields: tuple[tuple[str, str], ...]
    sets: tuple[tuple[str, list[str]], ...]
    layout: tuple[str, ...]


class D0Decoder:
    """From bytes to readings. It takes messages with and without an identification, and with and
    without a block check; bytes may carry their parity bit."""

    def __init__(self, called: str = "") -> None:
        """
        Args:
            called: what the meter was called by, and answered to: it names one that does not name
                itself.
        """
        self._called = called
        self._came = Arrivals()
        self._text = bytearray()  # the same, without parity bits
        self._is_open = False  # a message begins with the first byte
        self._is_astray = False  # what stands before the next message belongs to one refused
        self._has_check = False  # the meter is one that sends block checks
        self._layout: tuple[str, ...] = ()  # of the messages that are believed
        self._other_layout: tuple[str, ...] = ()  # of the newest one that had another

    @property
    def is_within(self) -> bool:
        """A message has begun."""
        return self._is_open

    def begin_anew(self) -> None:
        """Forgets what came, for the answer to another question."""
        self._drop(len(self._text))
        self._is_open, self._is_astray = False, True

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        if not data:
            self._fall_silent(at_ns, found)
        for begin in range(0, len(data), MESSAGE_MAX):
            part = data[begin : begin + MESSAGE_MAX]
            self._came.put(part, at_ns)
            self._text += part.translate(SEVEN_BITS)
            while self._advance(found):
                pass
        return found

    def _fall_silent(self, at_ns: int, found: list[Reading | Refusal]) -> None:
        if not self._text or at_ns - self._newest_ns() < SILENCE_NS:
            return
        while self._advance(found, is_over=True):
            pass
        if self._is_open:
            found.append(self._refuse(Refused.INCOMPLETE, "the line fell silent", len(self._text)))
        self._drop(len(self._text))
        self._is_open = False

    def _advance(self, found: list[Reading | Refusal], *, is_over: bool = False) -> bool:
        """Takes one step; whether another can be taken before more bytes come."""
        if not self._is_open:
            return self._begin(found, is_over=is_over)
        text = self._text
        end, cut = text.find(_END), self._next_start()
        if cut >= 0 and (end < 0 or cut < end):
            found.append(self._refuse(Refused.INCOMPLETE, "a message begins within one", cut))
            return True
        if end < 0:
            if len(text) <= MESSAGE_MAX:
                return False
            detail = f"{MESSAGE_MAX} bytes without an end"
            found.append(self._refuse(Refused.TOO_LONG, detail, 1))
            return True
        return self._close(end, found, is_over=is_over)

    def _begin(self, found: list[Reading | Refusal], *, is_over: bool) -> bool:
        """Finds where a message begins: with a slash or, without an identification, with STX."""
        text = self._text
        slash, is_start = self._slash(0)
        starts = [at for at in (slash, text.find(_STX)) if at >= 0]
        stray = min(starts, default=len(text))
        if text[:stray].strip(_BLANK) and not self._is_astray:
            found.append(self._refuse(Refused.INCOMPLETE, "bytes outside of a message", stray))
        else:
            self._drop(stray)
        if not text or (stray == slash and not is_start and not is_over):
            return False
        if text.startswith(_REQUEST):
            self._drop(len(_REQUEST))
            self._is_astray = True
            return True
        self._is_open = True
        return True

    def _slash(self, begin: int) -> tuple[int, bool]:
        """Where the next slash stands that is none of a value, -1 if nowhere yet; and whether that
        is known already."""
        text = self._text
        at = text.find(_SLASH, begin)
        while at >= 0:
            behind = _BEHIND_SLASH.search(text, at, at + _LINE_MAX)
            if behind is None:
                return at, len(text) >= at + _LINE_MAX
            if behind[0] not in b")\x02":
                return at, True
            at = text.find(_SLASH, at + 1)
        return -1, False

    def _next_start(self) -> int:
        """Where the next message begins; -1: nowhere yet."""
        text = self._text
        slash, is_start = self._slash(1)
        stx = text.find(_STX, 1)
        if stx >= 0 and not text.startswith(_STX):
            stx = text.find(_STX, stx + 1)  # the first one is its own
        return min((at for at in (slash if is_start else -1, stx) if at >= 0), default=-1)

    def _close(self, end: int, found: list[Reading | Refusal], *, is_over: bool) -> bool:
        """Judges what ends with the mark at `end`, once all of it is there."""
        text = self._text
        after = end + len(_END + _LINE_END)
        if len(text) < after:
            if not is_over or not _LINE_END.startswith(text[end + 1 :]):
                return False
            after = len(text)  # an end mark is all that an end needs
        elif text[end + 1 : after] != _LINE_END:
            found.append(self._refuse(Refused.FORM, "an end mark within a line", end + 1))
            return True
        check = None
        if _STX in text[:end]:
            behind = text[after : after + _BLANKS_MAX]
            rest = behind.lstrip(_BLANK)
            if not rest and not is_over and len(behind) < _BLANKS_MAX:
                return False
            if text.startswith(_ETX, after):
                if len(text) <= after + 1:
                    return False
                check, after = text[after + 1], after + 2
            elif rest and not rest.startswith((_STX, _SLASH)):
                found.append(self._refuse(Refused.FORM, "data behind the end mark", after))
                return True
        self._judge(end, after, check, found)
        return True

    def _judge(
        self, end: int, after: int, check: int | None, found: list[Reading | Refusal]
    ) -> None:
        began_ns, ended_ns = self._came.came_ns(0), self._came.came_ns(after - 1)
        # What is taken for the block check may be the first byte of the next message.
        over = end + 1
        try:
            self._verify(after, check)
            over = after
            message = _read(bytes(self._text[:end]))
            reading = _reading(message, self._called, began_ns, ended_ns)
            self._compare(message.layout)
        except _Bad as bad:
            found.append(self._refuse(bad.reason, bad.detail, over))
            return
        self._has_check = self._has_check or check is not None
        self._is_open = self._is_astray = False
        self._drop(after)
        found.append(reading)

    def _verify(self, after: int, check: int | None) -> None:
        """Parity and block check of the bytes before `after`."""
        raw = bytes(self._came.data[:after])
        if not raw.isascii() and raw.translate(None, _EVEN):
            raise _Bad(Refused.CHECKSUM, "bytes of odd parity")
        if check is None:
            if self._has_check:
                raise _Bad(Refused.INCOMPLETE, "the block check is missing")
            return
        stated = 0
        for byte in self._text[self._text.index(_STX) + 1 : after - 1]:
            stated ^= byte
        if stated != check:
            raise _Bad(Refused.CHECKSUM, f"the block check is {check:02x}, not {stated:02x}")

    def _compare(self, layout: tuple[str, ...]) -> None:
        """A message that is laid out otherwise is refused, until the next one is, too."""
        if not self._layout or layout in (self._layout, self._other_layout):
            self._layout, self._other_layout = layout, ()
            return
        self._other_layout = layout
        raise _Bad(Refused.FORM, "it is laid out otherwise than the messages before it")

    def _newest_ns(self) -> int:
        return self._came.came_ns(len(self._text) - 1)

    def _refuse(self, reason: Refused, detail: str, count: int) -> Refusal:
        """Lets go of the first bytes, and of the message that has begun."""
        refusal = Refusal(reason, detail, self._newest_ns())
        self._drop(count)
        self._is_open, self._is_astray = False, True
        return refusal

    def _drop(self, count: int) -> None:
        self._came.drop(count)
        del self._text[:count]


# --- From a message to a reading. ----------------------------------------------------------------


def _read(text: bytes) -> _Message:
    """A message up to its end mark.

    Raises:
        _Bad: it is not written as the standard says.
    """
    fields: list[tuple[str, str]] = []
    if text.startswith(_SLASH):
        line, _, text = text.partition(_LINE_END)
        if not IDENTIFICATION.fullmatch(line):
            raise _Bad(Refused.FORM, "an identification that is none")
        fields.append(("identification", line[1:].decode("ascii")))
        text = text.removeprefix(_LINE_END)
    lines = text.removeprefix(_STX).split(_LINE_END)
    sets = [one for line in lines for one in _sets(line.decode("ascii"))]
    fields += [(address, " ".join(values)) for address, values in sets]
    named = tuple((_code(address), values) for address, values in sets)
    layout = tuple(_shape(address, values) for address, values in sets)
    return _Message(tuple(fields), named, layout)


def _sets(line: str) -> list[tuple[str, list[str]]]:
    """A line's data sets: each address, and what stands in brackets behind it."""
    found, at = [], 0
    while at < len(line):
        one = _SET.match(line, at)
        if one is None:
            raise _Bad(Refused.FORM, f"a line that is no data: {line[:40]!r}")
        found.append((one[1], one[2][1:-1].split(")(")))
        at = one.end()
    return found


def _code(address: str) -> str:
    """The groups C.D.E of a current value of the meter itself; anything else as it is."""
    found = _ADDRESS.fullmatch(address)
    return address if found is None else found[1]


_ANY_DIGIT = str.maketrans("0123456789", "9" * 10)


def _shape(address: str, values: list[str]) -> str:
    """What of a data set stays: its address and, of an index, the number of digits and the unit."""
    if not _CODE.fullmatch(_code(address)):
        return address
    return f"{address} {values[0].translate(_ANY_DIGIT)}"


def _reading(message: _Message, called: str, began_ns: int, ended_ns: int) -> Reading:
    caveats = {Caveat.WEAK_CHECK}
    registers = _registers(message.sets, caveats)
    if not registers:
        now = [(_code(code.removesuffix("*00")), values) for code, values in message.sets]
        registers = _registers(now, caveats)
    if not registers:
        raise _Bad(Refused.NO_INDEX, "the message has no register of energy")
    identity = _identity(message) or called
    if not identity:
        raise _Bad(Refused.NO_IDENTITY, "the message does not say which meter it is of")
    return Reading(
        identity,
        registers.get(Register.IMPORT),
        registers.get(Register.EXPORT),
        began_ns,
        ended_ns,
        caveats=frozenset(caveats),
        fields=message.fields,
    )


def _identity(message: _Message) -> str:
    stated = {code: values[0].strip() for code, values in message.sets if code in _IDENTITIES}
    return next(
        (stated[code] for code in _IDENTITIES if stated.get(code, "").strip("0")),
        "",
    )


def _registers(
    sets: Iterable[tuple[str, list[str]]], caveats: set[Caveat]
) -> dict[Register, Index]:
    """The totals; or, where one is missing, the sum of the tariffs if they are all there: from the
    first on, without a gap."""
    found: dict[Register, dict[int, Index]] = {}
    for code, values in sets:
        register = _CODE.fullmatch(code)
        if register is None:
            continue
        of = found.setdefault(_REGISTERS[register[1]], {})
        index = _index(code, values[0], caveats)
        if of.setdefault(int(register[2]), index) != index:
            raise _Bad(Refused.FORM, f"two values of {code}")
    totals = {register: of.get(0) or _sum(of) for register, of in found.items()}
    return {register: index for register, index in totals.items() if index is not None}


def _sum(tariffs: dict[int, Index]) -> Index | None:
    if set(tariffs) != set(range(1, len(tariffs) + 1)):
        return None
    exponent = min(one.exponent for one in tariffs.values())
    values = (one.value * 10 ** (one.exponent - exponent) for one in tariffs.values())
    return Index(sum(values), exponent)


def _index(code: str, value: str, caveats: set[Caveat]) -> Index:
    written = _INDEX.fullmatch(value)
    if written is None or written[3] not in _EXPONENTS:
        raise _Bad(Refused.FORM, f"{code} is no energy: {value[:40]!r}")
    whole, decimals, unit = written.groups()
    if unit is None:
        caveats.add(Caveat.UNIT_ASSUMED)
    exponent = _EXPONENTS[unit] - len(decimals or "")
    if exponent < UWH_EXPONENT:
        raise _Bad(Refused.FORM, f"{code} is finer than energy is counted: {value}")
    return Index(int(whole + (decimals or "")), exponent)
