"""How messages of DLMS/COSEM get to a meter and back: an HDLC link as a client keeps it (IEC
62056-46), the wrapper of TCP (IEC 62056-47), and the sign-on of optical ports that comes before
HDLC (IEC 62056-21 mode E). Bytes and times in, bytes and events out.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.hdlc import (
    POLL,
    Address,
    Control,
    Frame,
    HdlcReceiver,
    Parameters,
    decode_parameters,
)
from hal.index.reading import LineForm, Parity, Refused

ANSWER_MAX = 65_536  # bytes of one answer; those in blocks are bounded where they are joined
_LLC_SEND, _LLC_RECEIVE = bytes((0xE6, 0xE6, 0x00)), bytes((0xE6, 0xE7, 0x00))
_BITS_PER_BYTE = 10
_ANSWER_LONGEST_NS = 120 * NS_PER_S  # of one, however slowly it comes


@dataclass(frozen=True, slots=True)
class Up:
    """The link stands."""


@dataclass(frozen=True, slots=True)
class Down:
    """The link was taken down, as it was asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The meter's answer.

    Attributes:
        message: of the application.
        asked_ns: when the question was sent.
        came_ns: of the look that brought the answer's last byte.
    """

    message: bytes
    asked_ns: int
    came_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no link any more."""

    reason: Refused
    detail: str


Event = Up | Down | Answer | Lost


class Link(Protocol):
    """One way to a meter. One question at a time."""

    @property
    def form(self) -> LineForm: ...

    @property
    def due_ns(self) -> int | None:
        """When `receive` wants to be called though nothing came."""
        ...

    def bring_up(self) -> list[Event]: ...

    def take_down(self) -> list[Event]: ...

    def ask(self, message: bytes) -> None:
        """Only while it is up, and after the answer to the question before."""
        ...

    def receive(self, data: bytes, at_ns: int) -> list[Event]: ...

    def speak(self, now_ns: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a meter may take.

    Attributes:
        answer_ns: from the end of what was sent to the first byte of the answer.
        pause_ns: between two bytes of an answer.
        tries: how often a question is sent.
        calls: how often the meter is called before it has answered at all, at most `tries`; None:
            as often as that.
    """

    answer_ns: int = 3 * NS_PER_S
    pause_ns: int = NS_PER_S
    tries: int = 3
    calls: int | None = None


class _Waiting:
    """What was sent and is not answered yet."""

    def __init__(self, patience: Patience, baud: int | None) -> None:
        self._patience, self._baud = patience, baud
        self._out = b""
        self.asked_ns = 0
        self.tries = 0
        self.due_ns: int | None = None
        self._longest_ns = 0

    def put(self, data: bytes, *, again: bool = False) -> None:
        """To be sent, and answered."""
        self._out = data
        self.tries = self.tries + 1 if again else 1
        self.due_ns = None

    def take(self, now_ns: int) -> bytes:
        if self._out:
            self.asked_ns = now_ns
            takes_ns = 0
            if self._baud is not None:
                takes_ns = len(self._out) * _BITS_PER_BYTE * NS_PER_S // self._baud
            self.due_ns = now_ns + takes_ns + self._patience.answer_ns
            self._longest_ns = now_ns + takes_ns + _ANSWER_LONGEST_NS
        out, self._out = self._out, b""
        return out

    def came(self, at_ns: int) -> None:
        """A part of an answer came: the rest may take its time."""
        if self.due_ns is not None:
            later_ns = max(self.due_ns, at_ns + self._patience.pause_ns)
            self.due_ns = min(later_ns, self._longest_ns)

    def done(self) -> None:
        self._out, self.due_ns, self.tries = b"", None, 0

    def is_over(self, at_ns: int) -> bool:
        return self.due_ns is not None and at_ns >= self.due_ns

    @property
    def may_try_again(self) -> bool:
        return self.tries < self._patience.tries

    @property
    def may_call_again(self) -> bool:
        """Where the meter has not answered at all."""
        return self.may_try_again and (
            self._patience.calls is None or self.tries < self._patience.calls
        )


# --- HDLC. ---------------------------------------------------------------------------------------


class _State(Enum):
    DOWN = auto()
    RISING = auto()
    UP = auto()
    ASKING = auto()
    FALLING = auto()


class HdlcLink:
    """A link in normal response mode, windows of one frame; the client is the primary station."""

    def __init__(
        self,
        client: Address,
        server: Address,
        form: LineForm,
        patience: Patience,
        information_max: int,
    ) -> None:
        """
        Args:
            client, server: the addresses of both ends.
            form: of the line.
            patience: with the meter.
            information_max: bytes in a frame that are proposed for both directions.
        """
        self._client, self._server = client, server
        self._form = form
        self._proposed = Parameters(information_max, information_max)
        self._waiting = _Waiting(patience, form.baud)
        self._receiver = HdlcReceiver()
        self._state = _State.DOWN
        self._clear()

    def _clear(self) -> None:
        self._send_max = 128
        self._sent = self._received = 0  # the numbers that come next, modulo 8
        self._segments: list[bytes] = []  # still to be sent
        self._last = b""  # the information frame that was sent last
        self._question_ns = 0
        self._answer = bytearray()

    @property
    def form(self) -> LineForm:
        return self._form

    @property
    def due_ns(self) -> int | None:
        return self._waiting.due_ns

    def bring_up(self) -> list[Event]:
        self._clear()
        self._receiver = HdlcReceiver()
        self._state = _State.RISING
        self._waiting.put(self._frame(Control.SNRM, self._proposed.encode()))
        return []

    def take_down(self) -> list[Event]:
        if self._state is _State.DOWN:
            return [Down()]
        self._state = _State.FALLING
        self._waiting.put(self._frame(Control.DISC))
        return []

    def ask(self, message: bytes) -> None:
        data = _LLC_SEND + message
        self._segments = [
            data[at : at + self._send_max] for at in range(0, len(data), self._send_max)
        ]
        self._answer.clear()
        self._state = _State.ASKING
        self._question_ns = -1
        self._send_segment()

    def _send_segment(self) -> None:
        part = self._segments.pop(0)
        control = self._received << 5 | POLL | self._sent << 1
        self._sent = (self._sent + 1) % 8
        self._last = self._frame(control, part, segmented=bool(self._segments))
        self._waiting.put(self._last)

    def _frame(self, control: int, information: bytes = b"", *, segmented: bool = False) -> bytes:
        return Frame(self._server, self._client, control, information, segmented).encode()

    def speak(self, now_ns: int) -> bytes:
        out = self._waiting.take(now_ns)
        if out and self._question_ns < 0:
            self._question_ns = now_ns
        return out

    def receive(self, data: bytes, at_ns: int) -> list[Event]:
        events: list[Event] = []
        if data:
            self._waiting.came(at_ns)
        for one in self._receiver.receive(data, at_ns):
            if isinstance(one, Frame) and self._is_ours(one):
                events += self._take(one)
        if self._waiting.is_over(at_ns):
            events += self._remind()
        return events

    def _is_ours(self, frame: Frame) -> bool:
        return (frame.destination, frame.source) == (self._client, self._server)

    def _remind(self) -> list[Event]:
        """Nothing came in time."""
        if self._state is _State.FALLING:
            return self._fall()
        is_rising = self._state is _State.RISING
        if not (self._waiting.may_call_again if is_rising else self._waiting.may_try_again):
            detail = f"no answer to {self._waiting.tries} tries"
            return self._lose(Refused.SILENT, detail)
        if is_rising:
            self._waiting.put(self._frame(Control.SNRM, self._proposed.encode()), again=True)
        elif self._waiting.tries % 2:
            # What the meter expects next tells whether the question or the answer was lost.
            self._waiting.put(self._ready(), again=True)
        else:
            self._waiting.put(self._last, again=True)
        return []

    def _ready(self) -> bytes:
        return self._frame(Control.RR | self._received << 5)

    def _take(self, frame: Frame) -> list[Event]:
        kind = frame.control & ~POLL
        match self._state:
            case _State.RISING if kind == Control.UA & ~POLL:
                return self._rise(frame)
            case _State.RISING if kind == Control.DM & ~POLL:
                return self._lose(Refused.METER_ERROR, "the meter refuses the link")
            case _State.FALLING if kind in (Control.UA & ~POLL, Control.DM & ~POLL):
                return self._fall()
            case _State.ASKING if frame.numbered:
                return self._take_information(frame)
            case _State.ASKING if kind & 0x0F in (Control.RR & 0x0F, Control.RNR & 0x0F):
                return self._take_ready(frame)
            case _State.ASKING | _State.UP if kind in (Control.DM & ~POLL, Control.FRMR & ~POLL):
                return self._lose(Refused.METER_ERROR, "the meter gave up the link")
        return []

    def _rise(self, frame: Frame) -> list[Event]:
        try:
            granted = decode_parameters(frame.information)
        except ValueError as bad:
            return self._lose(Refused.FORM, str(bad))
        # What the meter sends and receives, seen from the meter.
        self._send_max = min(granted.receive_max, self._proposed.send_max)
        self._state = _State.UP
        self._waiting.done()
        return [Up()]

    def _take_information(self, frame: Frame) -> list[Event]:
        if frame.sent != self._received:  # it was here before, or one is missing
            if not self._waiting.may_try_again:
                return self._lose(Refused.FORM, "the meter sends one frame again and again")
            self._waiting.put(self._ready(), again=True)
            return []
        if self._segments or frame.expected != self._sent:
            return self._lose(Refused.FORM, "the meter answers before the question is complete")
        self._received = (self._received + 1) % 8
        self._answer += frame.information
        if len(self._answer) > ANSWER_MAX:
            return self._lose(Refused.TOO_LONG, f"an answer of more than {ANSWER_MAX} bytes")
        if frame.segmented:
            if frame.control & POLL:
                self._waiting.put(self._ready())
            return []
        self._state = _State.UP
        self._waiting.done()
        if self._answer[:3] != _LLC_RECEIVE:
            return self._lose(Refused.FORM, "an answer without the header of a server")
        return [Answer(bytes(self._answer[3:]), self._question_ns, frame.ended_ns)]

    def _take_ready(self, frame: Frame) -> list[Event]:
        if frame.expected != self._sent:
            if not self._waiting.may_try_again:
                return self._lose(Refused.FORM, "the meter does not take what it is sent")
            self._waiting.put(self._last, again=True)
        elif self._segments:
            self._send_segment()
        # Else it has the question, and works on the answer: the time-out asks again.
        return []

    def _fall(self) -> list[Event]:
        self._state = _State.DOWN
        self._waiting.done()
        return [Down()]

    def _lose(self, reason: Refused, detail: str) -> list[Event]:
        self._state = _State.DOWN
        self._waiting.done()
        return [Lost(reason, detail)]


# --- TCP. ----------------------------------------------------------------------------------------

_VERSION, _HEAD_SIZE = b"\x00\x01", 8


class WrapperLink:
    """The wrapper: version, the two ports, length. The connection itself is somebody else's."""

    def __init__(self, client: int, server: int, patience: Patience) -> None:
        """
        Args:
            client, server: ports of the wrapper: the client, and the logical device.
            patience: with the meter.
        """
        self._ports = b"".join(port.to_bytes(2, "big") for port in (client, server))
        self._back = b"".join(port.to_bytes(2, "big") for port in (server, client))
        self._waiting = _Waiting(patience, None)
        self._held = bytearray()

    @property
    def form(self) -> LineForm:
        return LineForm(9_600)

    @property
    def due_ns(self) -> int | None:
        return self._waiting.due_ns

    def bring_up(self) -> list[Event]:
        self._held.clear()
        return [Up()]

    def take_down(self) -> list[Event]:
        self._waiting.done()
        return [Down()]

    def ask(self, message: bytes) -> None:
        self._held.clear()
        self._waiting.put(_VERSION + self._ports + len(message).to_bytes(2, "big") + message)

    def speak(self, now_ns: int) -> bytes:
        return self._waiting.take(now_ns)

    def receive(self, data: bytes, at_ns: int) -> list[Event]:
        if self._waiting.due_ns is None:
            return []  # nothing was asked
        if data:
            self._waiting.came(at_ns)
        self._held += data[:ANSWER_MAX]
        if len(self._held) >= _HEAD_SIZE:
            if self._held[:2] != _VERSION or self._held[2:6] != self._back:
                return self._lose(Refused.FORM, "an answer in another wrapper")
            size = int.from_bytes(self._held[6:8], "big")
            if len(self._held) >= _HEAD_SIZE + size:
                message = bytes(self._held[_HEAD_SIZE : _HEAD_SIZE + size])
                self._held.clear()
                self._waiting.done()
                return [Answer(message, self._waiting.asked_ns, at_ns)]
        if self._waiting.is_over(at_ns):
            # TCP carries it or breaks: to ask again would only give two answers.
            return self._lose(Refused.SILENT, "no answer")
        return []

    def _lose(self, reason: Refused, detail: str) -> list[Event]:
        self._held.clear()
        self._waiting.done()
        return [Lost(reason, detail)]


# --- Optical ports. ------------------------------------------------------------------------------

_SIGN_ON_FORM = LineForm(300, 7, Parity.EVEN)
_BAUDS = (300, 600, 1_200, 2_400, 4_800, 9_600, 19_200)
_REQUEST = b"/?!\r\n"
_IDENTIFICATION = re.compile(rb"/[A-Za-z]{3}([0-6])([\x20-\x7e]{0,40})\r\n")
_MODE_E = b"\\2"
_SEVEN_BITS = bytes(value & 0x7F for value in range(256))  # where a line gives the parity bit, too
_CONFIRM_NS = 1_700 * NS_PER_MS  # reaction of 1,500 ms at most, and six characters
_SIGN_ON_MAX = 128


class OpticalLink:
    """Sign-on at 300 baud, the switch to HDLC that the meter offers, then an HDLC link."""

    def __init__(self, inner: HdlcLink, patience: Patience) -> None:
        """
        Args:
            inner: the link after it; its speed is the greatest that is chosen.
            patience: with the meter.
        """
        self._inner = inner
        self._baud = inner.form.baud
        self._waiting = _Waiting(patience, _SIGN_ON_FORM.baud)
        self._held = bytearray()
        self._acknowledged = b""  # what was agreed on, and is to be confirmed
        self._form = _SIGN_ON_FORM
        self._signing = False

    @property
    def form(self) -> LineForm:
        return self._form

    @property
    def due_ns(self) -> int | None:
        return self._waiting.due_ns if self._signing else self._inner.due_ns

    def bring_up(self) -> list[Event]:
        self._signing, self._form = True, _SIGN_ON_FORM
        self._held.clear()
        self._acknowledged = b""
        self._waiting.put(_REQUEST)
        return []

    def take_down(self) -> list[Event]:
        if self._signing:
            return self._rest([Down()])
        return self._rest(self._inner.take_down())

    def ask(self, message: bytes) -> None:
        self._inner.ask(message)

    def speak(self, now_ns: int) -> bytes:
        if not self._signing:
            return self._inner.speak(now_ns)
        out = self._waiting.take(now_ns)
        if out and self._acknowledged:
            takes_ns = len(out) * _BITS_PER_BYTE * NS_PER_S // _SIGN_ON_FORM.baud
            self._waiting.due_ns = now_ns + takes_ns + _CONFIRM_NS
        return out

    def receive(self, data: bytes, at_ns: int) -> list[Event]:
        if not self._signing:
            return self._rest(self._inner.receive(data, at_ns))
        self._held += data.translate(_SEVEN_BITS)[-_SIGN_ON_MAX:]
        del self._held[:-_SIGN_ON_MAX]
        if data:
            self._waiting.came(at_ns)
        if self._acknowledged:
            # Some meters confirm the switch at the old speed, some just switch.
            if self._acknowledged in self._held or self._waiting.is_over(at_ns):
                return self._switch()
            return []
        found = _IDENTIFICATION.search(self._held)
        if found is not None:
            return self._agree(int(found[1]), found[2])
        if self._waiting.is_over(at_ns):
            if not self._waiting.may_call_again:
                return self._lose(Refused.SILENT, "the meter does not identify itself")
            self._held.clear()
            self._waiting.put(_REQUEST, again=True)
        return []

    def _agree(self, offered: int, name: bytes) -> list[Event]:
        if _MODE_E not in name:
            return self._lose(Refused.UNSUPPORTED, "the optical port offers no mode E")
        speed = max(
            z for z, baud in enumerate(_BAUDS) if z == 0 or (z <= offered and baud <= self._baud)
        )
        self._acknowledged = b"\x062%d2\r\n" % speed
        self._form_after = LineForm(_BAUDS[speed])
        self._held.clear()
        self._waiting.put(self._acknowledged)
        return []

    def _switch(self) -> list[Event]:
        self._signing, self._form = False, self._form_after
        self._waiting.done()
        return self._inner.bring_up()

    def _lose(self, reason: Refused, detail: str) -> list[Event]:
        self._waiting.done()
        return self._rest([Lost(reason, detail)])

    def _rest(self, events: list[Event]) -> list[Event]:
        """Without a link the meter listens at 300 baud again."""
        if any(isinstance(event, Down | Lost) for event in events):
            self._signing, self._form = False, _SIGN_ON_FORM
        return events
