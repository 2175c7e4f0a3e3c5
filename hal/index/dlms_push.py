"""Telegrams that DLMS/COSEM meters send by themselves (data notifications), from bytes to readings.

Layer by layer: how bytes are framed on the line, blocks of a general block transfer, protection,
the notification, its list of values. A telegram with a checksum or a checked tag counts at once;
one with neither (bare messages on a serial line) is marked as weakly checked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptometer.steps import NS_PER_S
from hal.index.arrivals import Arrivals
from hal.index.axdr import (
    CLOCK_SIZE,
    Bytes,
    Datum,
    Malformed,
    MeterClock,
    NotRead,
    Tag,
    Truncated,
    decode_clock,
    decode_data,
    decode_length,
    decode_miswritten,
    take,
)
from hal.index.ciphering import (
    GENERAL_GLO,
    TITLE_SIZE,
    Keys,
    NotAuthentic,
    OtherProtection,
    Protected,
    decode_protected,
    open_protected,
)
from hal.index.hdlc import SILENCE_NS, Address, Frame, HdlcReceiver, has_header
from hal.index.objects import read_list, reading_of
from hal.index.reading import Caveat, Reading, Refusal, Refused

MESSAGE_MAX = 8_192  # bytes of one message; the longest in the field have some 1,500
BARE_MAX = 2_048  # ... and of one without a frame, which every wrong beginning may claim
QUIET_NS = 10 * NS_PER_S  # parts of one message follow each other sooner

DATA_NOTIFICATION = 0x0F
_BLOCK = 0xE0  # general block transfer
# Service-specific tags, which carry no system title: global keys from event-notification to
# action-response. Those of dedicated keys belong to an association, not to a telegram.
_SPECIFIC_GLO = range(0xC8, 0xD0)
_KINDS = {  # of messages that are told, and not read (IEC 62056-5-3)
    0x18: ": an information report",
    0xC2: ": an event notification",
    0xDC: ": ciphered under a key of its association (general-ded-ciphering)",
    0xDD: ": ciphered under a key that it carries or names (general-ciphering)",
    0xDF: ": signed (general-signing)",
}
_COMMANDS = (bytes((0xE6, 0xE6, 0x00)), bytes((0xE6, 0xE7, 0x00)))  # LLC: to, from the server
_CONTROL_UI = (0x03, 0x13)


class Framing(StrEnum):
    """How messages are told apart on the line."""

    HDLC = "hdlc"
    WRAPPER = "wrapper"  # IEC 62056-47, over TCP
    MBUS = "mbus"  # EN 13757-2 long frames
    BARE = "bare"  # one message after the other


@dataclass(frozen=True, slots=True)
class PushSettings:
    """What is known of a meter that sends by itself.

    Attributes:
        framing: of its line.
        keys: None: it sends in clear.
        title: its system title, for messages that do not carry it; empty: of the first one that
            does and is authentic.
        counter: the greatest invocation counter of an earlier run: no message counts again.
        unitless_exponent: of ten, in Wh, where it states no unit; None: as its maker says.
        order: the OBIS codes of a list that states none, in its order; see `read_list`.
    """

    framing: Framing = Framing.HDLC
    keys: Keys | None = None
    title: bytes = b""
    counter: int = -1
    unitless_exponent: int | None = None
    order: tuple[bytes, ...] = ()


class _Refuse(Exception):  # noqa: N818 - a verdict, not a failure
    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class _Wait(Exception):  # noqa: N818 - a verdict, not a failure
    """A block that others follow."""


@dataclass(frozen=True, slots=True)
class _Message:
    """Bytes that a frame, or several, carried as one."""

    data: bytes
    began_ns: int
    ended_ns: int


class PushDecoder:
    """Reads a meter's telegrams; see `IndexDecoder`."""

    def __init__(self, settings: PushSettings) -> None:
        self._messages = _Messages(settings)
        match settings.framing:
            case Framing.HDLC:
                self._frames: _Framed = _HdlcFrames(self._messages)
            case Framing.MBUS:
                parts = _MbusParts(self._messages)
                self._frames = _Scanned(parts, _measure_mbus, _MBUS_START, _MBUS_MAX)
            case Framing.WRAPPER:
                self._frames = _Scanned(
                    self._messages, _measure_wrapped, _WRAPPER_START, MESSAGE_MAX
                )
            case Framing.BARE:
                starts = _PROTECTED_STARTS if settings.keys is not None else _CLEAR_STARTS
                self._frames = _Scanned(
                    self._messages, _measure_bare, starts, BARE_MAX, framed=False
                )

    @property
    def counter(self) -> int:
        """The greatest invocation counter that was accepted; -1: none. Whoever keeps it gives it to
        the next run, so that nothing recorded before counts again."""
        return self._messages.counter

    @property
    def title(self) -> bytes:
        """The system title that the counter belongs to; empty: none is known."""
        return self._messages.title

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        return self._frames.receive(data, at_ns)


class _Messages:
    """From whole messages to readings."""

    def __init__(self, settings: PushSettings) -> None:
        self._settings = settings
        self.title = settings.title
        self.counter = settings.counter
        self._weak = settings.framing in (Framing.BARE, Framing.MBUS)  # no checksum, or eight bits
        self._blocks = bytearray()
        self._block_number = 0  # of the last one; 0: none
        self._block_began_ns = 0
        self._block_ended_ns = 0

    def forget(self) -> bool:
        """Lets go of blocks whose rest is lost; whether there were any."""
        were = self.waiting
        self._block_number = 0
        self._blocks.clear()
        return were

    def quiet(self, at_ns: int) -> list[Reading | Refusal]:
        """Nothing came: blocks do not wait for ever."""
        if self._block_number and at_ns - self._block_ended_ns >= QUIET_NS:
            self.forget()
            return [Refusal(Refused.INCOMPLETE, "the last blocks did not come", at_ns)]
        return []

    @property
    def waiting(self) -> bool:
        return self._block_number != 0

    def read(self, message: _Message) -> list[Reading | Refusal]:
        """What a message says; nothing as long as blocks are missing."""
        broken: list[Reading | Refusal] = []
        if self.waiting and not self._goes_on(message.data):
            self.forget()
            broken.append(Refusal(Refused.INCOMPLETE, "another message began", message.ended_ns))
        try:
            return [*broken, self._open(message)]
        except _Wait:
            return broken
        except _Refuse as refuse:
            found = refuse.reason, refuse.detail
        except NotAuthentic as bad:
            found = Refused.NOT_AUTHENTIC, str(bad)
        except (OtherProtection, NotRead) as bad:
            found = Refused.UNSUPPORTED, str(bad)
        except Truncated as bad:
            found = Refused.INCOMPLETE, str(bad)
        except Malformed as bad:
            found = Refused.FORM, str(bad)
        self.forget()
        return [*broken, Refusal(*found, message.ended_ns)]

    def _goes_on(self, data: bytes) -> bool:
        """Whether it is a block, and not the first one."""
        return data[:1] == bytes([_BLOCK]) and data[2:4] != b"\0\1"

    def _open(self, message: _Message, *, joined: bool = False) -> Reading:
        data = message.data
        tag = data[0] if data else None
        if tag == _BLOCK and not joined:
            return self._open(self._joined(message), joined=True)
        if tag == GENERAL_GLO or tag in _SPECIFIC_GLO:
            return self._unprotect(message)
        if tag != DATA_NOTIFICATION:
            shown = "an empty message" if tag is None else f"a message with the tag 0x{tag:02x}"
            raise _Refuse(Refused.UNSUPPORTED, shown + _KINDS.get(tag or 0, ""))
        if self._settings.keys is not None:
            raise NotAuthentic("a message in clear, from a meter whose keys are known")
        caveats = frozenset({Caveat.WEAK_CHECK}) if self._weak else frozenset()
        return self._notified(message, b"", caveats)

    def _joined(self, message: _Message) -> _Message:
        """The message that this block ends (IEC 62056-5-3, general block transfer)."""
        last, number, part = _block(message.data)
        if number == 1:
            self._block_began_ns = message.began_ns
        elif number != self._block_number + 1:
            raise _Refuse(Refused.INCOMPLETE, f"block {number} after {self._block_number}")
        self._blocks += part
        self._block_number = number
        self._block_ended_ns = message.ended_ns
        if len(self._blocks) > MESSAGE_MAX:
            raise _Refuse(Refused.TOO_LONG, f"blocks of more than {MESSAGE_MAX} bytes")
        if not last:
            raise _Wait
        whole = _Message(bytes(self._blocks), self._block_began_ns, message.ended_ns)
        self.forget()
        return whole

    def _unprotect(self, message: _Message) -> Reading:
        data, keys = message.data, self._settings.keys
        if keys is None:
            raise NotAuthentic("the message is encrypted, and no key is known")
        protected, end = decode_protected(data, 1, general=data[0] == GENERAL_GLO)
        if end != len(data):
            raise Malformed(f"{len(data) - end} bytes follow a protected message")
        title = protected.title or self.title
        clear = open_protected(protected, title, keys)
        checked = protected.authenticated and keys.authentication is not None
        if clear[:1] == b"/" and clear[1:4].isalpha() and b"\r\n" in clear:
            raise _Refuse(
                Refused.UNSUPPORTED, "the key opens a P1 telegram, which is not read here"
            )
        if not checked and clear[:1] != bytes([DATA_NOTIFICATION]):
            raise NotAuthentic("what the key gives is no notification: altered, or another key")
        if self.title and title != self.title:
            raise _Refuse(Refused.OTHER_METER, f"a message of the system title {title.hex()}")
        if protected.counter <= self.counter:
            detail = f"invocation counter {protected.counter} after {self.counter}: a repetition"
            raise NotAuthentic(detail)
        caveats = set()
        if not checked:
            caveats.add(Caveat.NOT_AUTHENTICATED)
            if self._weak:
                caveats.add(Caveat.WEAK_CHECK)
        try:
            reading = self._notified(
                _Message(clear, message.began_ns, message.ended_ns), title, frozenset(caveats)
            )
        except Malformed as bad:
            if checked:
                raise
            raise NotAuthentic(f"what the key gives is no list: {bad}") from None
        self._accept(protected, title)
        return reading

    def _accept(self, protected: Protected, title: bytes) -> None:
        # Only now: a damaged counter or title must not shut out every message after it.
        self.title, self.counter = title, protected.counter

    def _notified(self, message: _Message, title: bytes, caveats: frozenset[Caveat]) -> Reading:
        clock, body, end = _notification(message.data)
        if end != len(message.data):
            clock, body, end = _notification(message.data, decode_miswritten)
        if end != len(message.data):
            raise Malformed(f"{len(message.data) - end} bytes follow the values")
        return reading_of(
            read_list(body, self._settings.order),
            notified=clock,
            title=title,
            times_ns=(message.began_ns, message.ended_ns),
            caveats=caveats,
            unitless_exponent=self._settings.unitless_exponent,
        )


_Decode = Callable[[Bytes, int], tuple[Datum, int]]


def _notification(
    data: Bytes, decode: _Decode = decode_data
) -> tuple[MeterClock | None, Datum, int]:
    """Clock, values and end of a data notification (IEC 62056-5-3): the tag, an id of four bytes,
    a date and time or none, one value."""
    take(data, 0, 5)
    size, at = decode_length(data, 5)
    if size == Tag.OCTET_STRING:  # Kaifa writes it as a value, with its tag
        size, at = decode_length(data, at)
    if size not in (0, CLOCK_SIZE):
        raise Malformed(f"a date and time of {size} bytes")
    clock = decode_clock(take(data, at, size)) if size else None
    try:
        return clock, *decode(data, at + size)
    except Truncated:
        raise
    except Malformed as bad:
        try:
            return clock, *decode_miswritten(data, at + size)
        except Truncated:
            raise
        except Malformed:
            raise bad from None


_BLOCK_LAST = 0x80


def _block(data: bytes) -> tuple[bool, int, bytes]:
    """Whether a block is the last one, its number, and what it carries."""
    head = take(data, 1, 5)
    size, at = decode_length(data, 6)
    part = take(data, at, size)
    if at + size != len(data):
        raise Malformed(f"{len(data) - at - size} bytes follow a block")
    return bool(head[0] & _BLOCK_LAST), int.from_bytes(head[1:3], "big"), part


# --- Framings. -----------------------------------------------------------------------------------


class _Framed(Protocol):
    """Takes messages, or parts of them, out of a line's bytes and has them read."""

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]: ...


class _Reads(Protocol):
    """Reads messages, or parts of them."""

    @property
    def waiting(self) -> bool:
        """What was read last goes on."""
        ...

    def read(self, message: _Message) -> list[Reading | Refusal]: ...

    def quiet(self, at_ns: int) -> list[Reading | Refusal]:
        """Nothing came."""
        ...

    def forget(self) -> bool:
        """Something was damaged: it may have been what is waited for."""
        ...


class _Joint:
    """Parts of one message, each in a frame of its own."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._began_ns: int | None = None  # None: no message has begun
        self._ended_ns = 0

    @property
    def waiting(self) -> bool:
        return self._began_ns is not None

    def forget(self) -> bool:
        were = self.waiting
        self._parts.clear()
        self._began_ns = None
        return were

    def add(
        self, part: bytes, times_ns: tuple[int, int], *, first: bool, last: bool
    ) -> tuple[_Message | None, Refusal | None]:
        """The message that this part ends, if it does, and what is refused for it."""
        refusal = None
        if first and self.forget():
            refusal = Refusal(Refused.INCOMPLETE, "another message began", times_ns[1])
        if not first and self._began_ns is None:
            return None, Refusal(Refused.INCOMPLETE, "the first part is missing", times_ns[1])
        if self._began_ns is None:
            self._began_ns = times_ns[0]
        self._parts += part
        self._ended_ns = times_ns[1]
        if len(self._parts) > MESSAGE_MAX:
            self.forget()
            detail = f"a message of more than {MESSAGE_MAX} bytes"
            return None, Refusal(Refused.TOO_LONG, detail, times_ns[1])
        if not last:
            return None, refusal
        whole = _Message(bytes(self._parts), self._began_ns, times_ns[1])
        self.forget()
        return whole, refusal

    def quiet(self, at_ns: int) -> Refusal | None:
        if self._began_ns is None or at_ns - self._ended_ns < QUIET_NS:
            return None
        self.forget()
        return Refusal(Refused.INCOMPLETE, "the last parts did not come", at_ns)


class _HdlcFrames:
    def __init__(self, to: _Messages) -> None:
        self._to = to
        self._receiver = HdlcReceiver()
        self._joint = _Joint()
        self._between: tuple[Address, Address] | None = None  # whom the last part was from, and for

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        for one in self._receiver.receive(data, at_ns):
            if isinstance(one, Refusal):
                # What was damaged may have been the part that is still missing.
                self._joint.forget()
                self._to.forget()
                found.append(one)
            else:
                found += self._take(one)
        if not data:
            late = self._joint.quiet(at_ns)
            found += self._to.quiet(at_ns) if late is None else [late]
        return found

    def _take(self, frame: Frame) -> list[Reading | Refusal]:
        if not frame.information or not (frame.numbered or frame.control in _CONTROL_UI):
            return []  # supervision of a link that somebody else has
        found: list[Reading | Refusal] = []
        between = frame.source, frame.destination
        if between != self._between and (self._joint.waiting or self._to.waiting):
            self._joint.forget()
            self._to.forget()
            found.append(Refusal(Refused.INCOMPLETE, "another meter began", frame.ended_ns))
        self._between = between
        part, times_ns = frame.information, (frame.began_ns, frame.ended_ns)
        headed = part[:3] in _COMMANDS
        block = part[:1] == bytes([_BLOCK])  # later blocks come without a header
        message, refusal = self._joint.add(
            part[3:] if headed else part,
            times_ns,
            first=headed or block,
            last=not frame.segmented,
        )
        found += [] if refusal is None else [refusal]
        return found if message is None else [*found, *self._to.read(message)]


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a message lies, and where what is around it ends."""

    begin: int
    end: int
    after: int


def framing_of(data: bytes) -> Framing | None:
    """How the messages of a recorded line are told apart; None: no message of DLMS is there, or
    none that is whole. Keys are not needed: what is looked for is what is around a message."""
    if has_header(data):  # be its frames damaged: no part of one is a message without a frame
        return Framing.HDLC
    for framing, start, measure in _TOLD_BY_THEIR_START:
        at = data.find(start)
        while at >= 0:
            try:
                measure(bytearray(data[at : at + MESSAGE_MAX]))
            except (Malformed, OtherProtection):
                at = data.find(start, at + 1)
            else:
                return framing
    return None


_Measure = Callable[[bytearray], _Span]


class _Scanned:
    """Messages that say their own length, one after the other. After damage every byte that may
    begin one is tried, with what was held back."""

    def __init__(
        self, to: _Reads, measure: _Measure, starts: bytes, most: int, *, framed: bool = True
    ) -> None:
        """
        Args:
            to: reads them.
            measure: of what begins here: where the message in it lies, and where all of it ends;
                raises Truncated or Malformed.
            starts: the bytes that may begin one.
            most: bytes of one.
            framed: the frame around it vouches for the length, whatever the message says.
        """
        self._to, self._framed = to, framed
        self._measure, self._starts, self._most = measure, starts, most
        self._held = Arrivals()
        self._latest_ns = 0
        self._needs = 1
        self._trouble: Refusal | None = None
        self._lost = 0

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        for start in range(0, len(data), self._most):
            self._held.put(data[start : start + self._most], at_ns)
            self._scan(found, over=False)
        if data:
            self._latest_ns = at_ns
        elif at_ns - self._latest_ns >= SILENCE_NS:
            self._scan(found, over=True)
            self._tell(found)
            found += self._to.quiet(at_ns)
        return found

    def _scan(self, found: list[Reading | Refusal], *, over: bool) -> None:
        held = self._held
        while held.data:
            outside = next(
                (at for at, byte in enumerate(held.data) if byte in self._starts), len(held.data)
            )
            if outside:
                lost = min(outside, self._most + 1 - self._lost)
                self._lose(found, lost, Refused.INCOMPLETE, "bytes that begin no message")
                continue
            if len(held.data) < self._needs and not over:
                return
            try:
                span = self._measure(held.data)
            except Truncated as short:
                if short.needs > self._most:
                    self._lose(found, 1, Refused.TOO_LONG, f"a message of {short.needs} bytes")
                elif over:
                    self._lose(found, 1, Refused.INCOMPLETE, "a message was broken off")
                else:
                    self._needs = short.needs
                    return
            except (Malformed, OtherProtection) as bad:
                self._lose(found, 1, Refused.FORM, str(bad))
            else:
                self._take(found, span)

    def _take(self, found: list[Reading | Refusal], span: _Span) -> None:
        held = self._held
        message = _Message(
            bytes(held.data[span.begin : span.end]),
            held.came_ns(0),
            held.came_ns(span.after - 1),
        )
        if self._trouble is not None:
            self._to.forget()
        outcome = self._to.read(message)
        if not (self._framed or self._to.waiting) and isinstance(outcome[-1], Refusal):
            # Its length may be what was damaged: the next message may lie inside of it.
            self._lose(found, 1, outcome[-1].reason, outcome[-1].detail)
            return
        self._tell(found)
        found += outcome
        held.drop(span.after)
        self._needs = 1

    def _lose(
        self, found: list[Reading | Refusal], count: int, reason: Refused, detail: str
    ) -> None:
        at_ns, before = self._held.came_ns(count - 1), self._trouble
        if before is None:
            self._trouble = Refusal(reason, detail, at_ns)
        else:
            self._trouble = Refusal(before.reason, before.detail, at_ns)
        self._held.drop(count)
        self._needs = 1
        self._lost += count
        if self._lost > self._most:
            self._tell(found)

    def _tell(self, found: list[Reading | Refusal]) -> None:
        if self._trouble is not None:
            found.append(self._trouble)
        self._trouble, self._lost = None, 0


_WRAPPER_START = b"\x00"
_WRAPPER_VERSION = b"\x00\x01"
_WRAPPER_SIZE = 8


def _measure_wrapped(data: bytearray) -> _Span:
    """Version, two ports and a length, of two bytes each (IEC 62056-47 §5.3)."""
    if take(data, 0, 2) != _WRAPPER_VERSION:
        raise Malformed("a wrapper of another version")
    size = int.from_bytes(take(data, 6, 2), "big")
    if not size:
        raise Malformed("an empty wrapper")
    end = _WRAPPER_SIZE + size
    take(data, _WRAPPER_SIZE, size)
    return _Span(_WRAPPER_SIZE, end, end)


_CLEAR_STARTS = bytes((DATA_NOTIFICATION, _BLOCK))
_PROTECTED_STARTS = bytes((GENERAL_GLO, _BLOCK, *_SPECIFIC_GLO))


def _measure_bare(data: bytearray) -> _Span:
    tag = data[0]
    if tag == DATA_NOTIFICATION:
        end = _notification(data)[2]
    elif tag == _BLOCK:
        size, at = decode_length(data, 6)
        end = at + size
        take(data, at, size)
    else:
        end = decode_protected(data, 1, general=tag == GENERAL_GLO)[1]
    return _Span(0, end, end)


_MBUS_START, _MBUS_END = b"\x68", 0x16
_MBUS_HEAD, _MBUS_TAIL = 4, 2  # start, length twice, start; checksum and stop
_MBUS_USER_HEAD = 5  # control, address, control information, two service access points
_MBUS_OVER = 256  # what a length that does not fit into its byte has lost
_MBUS_MAX = _MBUS_HEAD + _MBUS_OVER + _MBUS_USER_HEAD + _MBUS_TAIL
_MBUS_LAST, _MBUS_NUMBER, _MBUS_OTHER = 0x10, 0x0F, 0xE0


def _measure_mbus(data: bytearray) -> _Span:
    """A long frame (EN 13757-2 §5.4): 68 L L 68, L bytes, their sum modulo 256, 16.

    A length that leaves no room for what is carried is that of a frame of Sagemcom's T210-D, which
    has 257 bytes and says 1.
    """
    take(data, 0, 2)
    if len(data) > 2 and data[2] != data[1]:
        raise Malformed("a frame whose two lengths differ")
    if take(data, 0, _MBUS_HEAD)[3] != data[0]:
        raise Malformed("no long frame")
    size = data[1]
    if size <= _MBUS_USER_HEAD:
        if _mbus_ends(data, _MBUS_HEAD + size):
            raise Malformed("a frame that carries nothing")
        size += _MBUS_OVER
    end = _MBUS_HEAD + size
    if not _mbus_ends(data, end):
        raise Malformed("the checksum or the end of a frame is wrong")
    return _Span(_MBUS_HEAD, end, end + _MBUS_TAIL)


def _mbus_ends(data: bytearray, end: int) -> bool:
    """Whether the bytes of a frame end there, by its checksum and its stop."""
    tail = take(data, end, _MBUS_TAIL)
    return sum(data[_MBUS_HEAD:end]) % 256 == tail[0] and tail[1] == _MBUS_END


class _MbusParts:
    """Long frames that carry DLMS (EN 13757-1, its transport layer): joined, then read."""

    def __init__(self, to: _Messages) -> None:
        self._to = to
        self._joint = _Joint()
        self._next = 0

    def read(self, message: _Message) -> list[Reading | Refusal]:
        information, part = message.data[2], message.data[_MBUS_USER_HEAD:]
        times_ns = message.began_ns, message.ended_ns
        if information & _MBUS_OTHER:
            detail = f"a frame with the control information 0x{information:02x}: no DLMS"
            return [Refusal(Refused.UNSUPPORTED, detail, message.ended_ns)]
        number = information & _MBUS_NUMBER
        if number and number != self._next:
            self.forget()
        self._next = number + 1
        whole, refusal = self._joint.add(
            part, times_ns, first=not number, last=bool(information & _MBUS_LAST)
        )
        found: list[Reading | Refusal] = [] if refusal is None else [refusal]
        return found if whole is None else [*found, *self._to.read(whole)]

    @property
    def waiting(self) -> bool:
        return self._joint.waiting or self._to.waiting

    def quiet(self, at_ns: int) -> list[Reading | Refusal]:
        late = self._joint.quiet(at_ns)
        return self._to.quiet(at_ns) if late is None else [late]

    def forget(self) -> bool:
        self._to.forget()
        return self._joint.forget()


def _measure_sure_wrapper(data: bytearray) -> _Span:
    """A wrapper around just one message: two zeros and a one are found in any list of registers."""
    span = _measure_wrapped(data)
    message = data[span.begin : span.end]
    if message[0] not in _CLEAR_STARTS + _PROTECTED_STARTS:
        raise Malformed("a wrapper around no message")
    if _measure_bare(message).end != len(message):
        raise Malformed("a wrapper of another length than its message")
    return span


def _measure_sure_bare(data: bytearray) -> _Span:
    """A bare message that no other protocol writes by chance: a list, a first block of a message,
    or a protected one under a system title."""
    tag = data[0]
    if tag == DATA_NOTIFICATION and len(_notification(data)[1].elements) < 2:
        raise Malformed("a notification of no list")
    if tag == GENERAL_GLO and data[1:2] != bytes([TITLE_SIZE]):
        raise Malformed("a protected message under no system title")
    if tag == _BLOCK:
        _, number, part = _block(bytes(data[: _measure_bare(data).end]))
        if number != 1 or part[:1] not in (bytes([DATA_NOTIFICATION]), bytes([GENERAL_GLO])):
            raise Malformed("a block that begins no message")
    return _measure_bare(data)


# The surest first: a bare message has nothing around it that could be wrong.
_TOLD_BY_THEIR_START: tuple[tuple[Framing, bytes, _Measure], ...] = (
    (Framing.MBUS, _MBUS_START, _measure_mbus),
    (Framing.WRAPPER, _WRAPPER_VERSION, _measure_sure_wrapper),
    *(
        (Framing.BARE, bytes([start]), _measure_sure_bare)
        for start in (GENERAL_GLO, DATA_NOTIFICATION, _BLOCK)
    ),
)
