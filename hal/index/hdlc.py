"""HDLC frames of format type 3, as meters exchange them (IEC 62056-46, ISO/IEC 13239): written, and
found again in a stream of bytes.

A frame has no escapes: a flag byte may stand inside of it, and its length says where it ends. So
after damage every later flag is tried as a beginning, with the bytes that were held back. A frame
counts when its length leads to a closing flag and both check sequences agree.
"""

from dataclasses import dataclass
from enum import IntEnum

from cryptometer.steps import NS_PER_S
from hal.index.arrivals import Arrivals
from hal.index.crc16 import x25
from hal.index.reading import Refusal, Refused

FLAG = 0x7E
FRAME_MAX = 0x7FF  # the length field has eleven bits
SILENCE_NS = NS_PER_S  # inside a frame a meter pauses for less than 200 ms (IEC 62056-46 §6.4.4.3)

_FORMAT = 0xA0  # type 3
_SEGMENTED = 0x08
_ADDRESS_SIZES = (1, 2, 4)
_HEADER_MAX = 1 + 2 + 2 * max(_ADDRESS_SIZES) + 1 + 2  # flag, format, addresses, control, sum
_INFORMATION_MAX_DEFAULT = 128  # IEC 62056-46 §6.4.4.4.3.2: what holds if nothing is negotiated


class Control(IntEnum):
    """Control fields without their numbers; the poll/final bit set, as a client sends them."""

    SNRM = 0x93  # set normal response mode
    UA = 0x73  # unnumbered acknowledge
    DISC = 0x53
    DM = 0x1F  # disconnected mode
    FRMR = 0x97  # frame reject
    UI = 0x13  # unnumbered information
    RR = 0x11  # receive ready, with the number that is expected
    RNR = 0x15


POLL = 0x10


@dataclass(frozen=True, slots=True)
class Address:
    """Of one end of a frame.

    Attributes:
        upper: of the logical device; of a client, the client itself.
        lower: of the physical device; None where the address has one byte.
        size: in bytes: 1, 2 or 4.
    """

    upper: int
    lower: int | None = None
    size: int = 1

    def encode(self) -> bytes:
        """Seven bits a byte, the last one marked by its lowest bit.

        Raises:
            ValueError: it does not fit its size.
        """
        if self.size not in _ADDRESS_SIZES or (self.lower is None) != (self.size == 1):
            raise ValueError(f"no address has this form: {self}")
        half = max(1, self.size // 2)
        parts = [self.upper] if self.lower is None else [self.upper, self.lower]
        if not all(0 <= part < 1 << 7 * half for part in parts):
            raise ValueError(f"{self} does not fit into {self.size} bytes")
        septets = [part >> 7 * place & 0x7F for part in parts for place in reversed(range(half))]
        return bytes(septet << 1 for septet in septets[:-1]) + bytes([septets[-1] << 1 | 1])


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        destination, source: who it is for, and from.
        control: the control field.
        information: what it carries; empty: nothing, and no header check sequence.
        segmented: the information goes on in the next frame.
        began_ns, ended_ns: monotonic time of the looks that brought its first and last byte.
    """

    destination: Address
    source: Address
    control: int
    information: bytes = b""
    segmented: bool = False
    began_ns: int = 0
    ended_ns: int = 0

    @property
    def numbered(self) -> bool:
        """Whether it is an information frame."""
        return not self.control & 1

    @property
    def sent(self) -> int:
        """The number of an information frame, modulo 8."""
        return self.control >> 1 & 7

    @property
    def expected(self) -> int:
        """The number that the sender waits for, modulo 8."""
        return self.control >> 5

    def encode(self) -> bytes:
        """With both flags.

        Raises:
            ValueError: it is too long, or an address has no form.
        """
        header = self.destination.encode() + self.source.encode() + bytes([self.control])
        length = 2 + len(header) + 2 + (len(self.information) + 2 if self.information else 0)
        if length > FRAME_MAX:
            raise ValueError(f"a frame of {length} bytes: {FRAME_MAX} are the most")
        first = _FORMAT | (_SEGMENTED if self.segmented else 0) | length >> 8
        body = bytes([first, length & 0xFF]) + header
        body += check_sequence(body)
        if self.information:
            body += self.information
            body += check_sequence(body)
        return bytes([FLAG]) + body + bytes([FLAG])


def check_sequence(data: bytes | bytearray) -> bytes:
    """The sum of a frame's bytes, or of its header's, as it is sent."""
    return x25(bytes(data)).to_bytes(2, "little")


class _Bad(Exception):  # noqa: N818 - a verdict, not a failure
    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class _Unfinished(Exception):  # noqa: N818 - a verdict, not a failure
    """More bytes decide."""


class HdlcReceiver:
    """Finds frames in a stream. One stretch of damage gives one refusal, when a good frame or a
    silence ends it. It holds no more than one frame of the greatest length."""

    def __init__(self) -> None:
        self._held = Arrivals()
        self._latest_ns = 0
        self._trouble: Refusal | None = None
        self._lost = 0

    def receive(self, data: bytes, at_ns: int) -> list[Frame | Refusal]:
        """What these bytes complete; see `IndexDecoder.receive`."""
        found: list[Frame | Refusal] = []
        for start in range(0, len(data), FRAME_MAX):
            self._held.put(data[start : start + FRAME_MAX], at_ns)
            self._scan(found, over=False)
        if data:
            self._latest_ns = at_ns
        elif at_ns - self._latest_ns >= SILENCE_NS:
            self._scan(found, over=True)
            self._tell(found)
        return found

    def _scan(self, found: list[Frame | Refusal], *, over: bool) -> None:
        """Takes every frame that is there. `over`: nothing follows."""
        held = self._held
        while held.data:
            outside = held.data.find(FLAG)
            if outside:
                lost = min(len(held.data) if outside < 0 else outside, FRAME_MAX + 1 - self._lost)
                self._lose(found, lost, Refused.INCOMPLETE, "bytes outside of any frame")
                continue
            if held.data[1:2] == bytes([FLAG]) or (over and len(held.data) == 1):
                held.drop(1)
                continue
            try:
                frame, size = _parse(held)
            except _Unfinished:
                if not over:
                    return
                self._lose(found, 1, Refused.INCOMPLETE, "a frame was broken off")
            except _Bad as bad:
                self._lose(found, 1, bad.reason, bad.detail)
            else:
                self._tell(found)
                found.append(frame)
                held.drop(size - 1)  # the closing flag may open the next frame

    def _lose(self, found: list[Frame | Refusal], count: int, reason: Refused, detail: str) -> None:
        at_ns = self._held.came_ns(count - 1)
        before = self._trouble
        if before is None:
            self._trouble = Refusal(reason, detail, at_ns)
        else:
            self._trouble = Refusal(before.reason, before.detail, at_ns)
        self._held.drop(count)
        self._lost += count
        if self._lost > FRAME_MAX:
            self._tell(found)

    def _tell(self, found: list[Frame | Refusal]) -> None:
        if self._trouble is not None:
            found.append(self._trouble)
        self._trouble, self._lost = None, 0


def _parse(held: Arrivals) -> tuple[Frame, int]:
    """The frame whose opening flag is the first byte, and its size with both flags.

    Raises:
        _Bad: there is none.
        _Unfinished: its bytes are not all there.
    """
    data = held.data
    length, header, destination, source = _header(data)
    empty = length == header + 2
    if len(data) < length + 2:
        raise _Unfinished
    if data[length + 1] != FLAG:
        raise _Bad(Refused.FORM, "no flag where a frame's length says it ends")
    if not empty and check_sequence(data[1 : length - 1]) != data[length - 1 : length + 1]:
        raise _Bad(Refused.CHECKSUM, "the check sequence of a frame is wrong")
    information = b"" if empty else bytes(data[header + 3 : length - 1])
    frame = Frame(
        destination,
        source,
        data[header],
        information,
        segmented=bool(data[1] & _SEGMENTED),
        began_ns=held.came_ns(0),
        ended_ns=held.came_ns(length + 1),
    )
    return frame, length + 2


def _header(data: bytearray) -> tuple[int, int, Address, Address]:
    """Of the frame whose opening flag is the first byte: its length, where its control field is,
    whom it is for, and from. Its check sequence is right.

    Raises:
        _Bad: there is none.
        _Unfinished: its bytes are not all there.
    """
    if len(data) < 3:
        raise _Unfinished
    if data[1] & 0xF0 != _FORMAT:
        raise _Bad(Refused.FORM, f"the frame has format 0x{data[1]:02x}, not type 3")
    length = (data[1] & 0x07) << 8 | data[2]
    destination, at = _address(data, 3)
    source, at = _address(data, at)
    header = at  # without the flag: the bytes up to and with the control field
    if length != header + 2 and length < header + 2 + 1 + 2:
        raise _Bad(Refused.FORM, f"a frame of {length} bytes cannot hold its own header")
    if len(data) < header + 3:
        raise _Unfinished
    if check_sequence(data[1 : header + 1]) != data[header + 1 : header + 3]:
        raise _Bad(Refused.CHECKSUM, "the check sequence of a frame's header is wrong")
    return length, header, destination, source


def has_header(data: bytes) -> bool:
    """Whether there is a frame's beginning whose check sequence is right, be the rest damaged or
    missing."""
    at = data.find(FLAG)
    while at >= 0:
        try:
            _header(bytearray(data[at : at + _HEADER_MAX]))
        except (_Bad, _Unfinished):
            at = data.find(FLAG, at + 1)
        else:
            return True
    return False


def _address(data: bytearray, at: int) -> tuple[Address, int]:
    for size in range(1, 5):
        if len(data) < at + size:
            raise _Unfinished
        if data[at + size - 1] & 1:
            break
    else:
        raise _Bad(Refused.FORM, "an address of more than four bytes")
    if size not in _ADDRESS_SIZES:
        raise _Bad(Refused.FORM, f"an address of {size} bytes")
    septets = [byte >> 1 for byte in data[at : at + size]]
    if size == 1:
        return Address(septets[0]), at + 1
    if size == 2:
        return Address(septets[0], septets[1], 2), at + 2
    return Address(septets[0] << 7 | septets[1], septets[2] << 7 | septets[3], 4), at + 4


# --- What a link agrees on when it is set up. ----------------------------------------------------

_PARAMETERS = bytes((0x81, 0x80))  # format identifier, group of parameters
_SEND, _RECEIVE, _SEND_WINDOW, _RECEIVE_WINDOW = 5, 6, 7, 8


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one end of a link proposes or grants (IEC 62056-46 §6.4.4.4.3.2).

    Attributes:
        send_max, receive_max: bytes of information in a frame.
        send_window, receive_window: frames that may be on the way without an acknowledgement.
    """

    send_max: int = _INFORMATION_MAX_DEFAULT
    receive_max: int = _INFORMATION_MAX_DEFAULT
    send_window: int = 1
    receive_window: int = 1

    def encode(self) -> bytes:
        """The information field of an SNRM or a UA."""
        fields = b"".join(
            bytes([name, size]) + value.to_bytes(size, "big")
            for name, size, value in (
                (_SEND, 1 if self.send_max < 256 else 2, self.send_max),
                (_RECEIVE, 1 if self.receive_max < 256 else 2, self.receive_max),
                (_SEND_WINDOW, 4, self.send_window),
                (_RECEIVE_WINDOW, 4, self.receive_window),
            )
        )
        return _PARAMETERS + bytes([len(fields)]) + fields


def decode_parameters(information: bytes) -> Parameters:
    """Of an SNRM or UA; what it does not name has its default.

    Raises:
        ValueError: it is not written as it must be.
    """
    if not information:
        return Parameters()
    if information[:2] != _PARAMETERS or [*information[2:3]] != [len(information) - 3]:
        raise ValueError("the parameters of a link are not written as IEC 62056-46 says")
    found: dict[int, int] = {}
    at = 3
    while at < len(information):
        name, size = information[at], information[at + 1] if at + 1 < len(information) else 0
        value = information[at + 2 : at + 2 + size]
        if not 1 <= size <= 4 or len(value) != size or name in found:
            raise ValueError(f"parameter {name} of a link has no value, or two")
        found[name] = int.from_bytes(value, "big")
        at += 2 + size
    parameters = Parameters(
        found.get(_SEND, _INFORMATION_MAX_DEFAULT),
        found.get(_RECEIVE, _INFORMATION_MAX_DEFAULT),
        found.get(_SEND_WINDOW, 1),
        found.get(_RECEIVE_WINDOW, 1),
    )
    sizes = (parameters.send_max, parameters.receive_max)
    windows = (parameters.send_window, parameters.receive_window)
    if not all(1 <= size <= FRAME_MAX for size in sizes) or not all(
        1 <= one <= 7 for one in windows
    ):
        raise ValueError(f"a link cannot have {parameters}")
    return parameters
