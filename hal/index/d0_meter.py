"""A simulated meter of IEC 62056-21: values in, bytes out. It shares nothing with the decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import xor

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.reading import LineForm, Parity

REACTION_NS = 200 * NS_PER_MS  # the standard's least, before every answer
PATIENCE_NS = 1500 * NS_PER_MS  # for the choice that follows an identification
_CHARACTER_BITS = 10  # start, seven bits, parity, stop
_BAUDS = (300, 600, 1200, 2400, 4800, 9600, 19200)


class Mode(StrEnum):
    """How a meter's identification lets its speed be chosen."""

    A = "A"  # it does not
    B = "B"  # by the meter alone
    C = "C"  # by both


def data_message(lines: Sequence[str], *, is_checked: bool = True) -> bytes:
    """Data lines between STX and their end, with a block check or without."""
    block = b"".join(line.encode("ascii") + b"\r\n" for line in lines) + b"!\r\n"
    if not is_checked:
        return b"\x02" + block
    return b"\x02" + block + b"\x03" + bytes((reduce(xor, block + b"\x03"),))


def pushed_message(identification: str, lines: Sequence[str]) -> bytes:
    """What a meter of mode D sends on its own."""
    block = b"".join(line.encode("ascii") + b"\r\n" for line in lines)
    return b"/" + identification.encode("ascii") + b"\r\n\r\n" + block + b"!\r\n"


def with_parity(data: bytes) -> bytes:
    """As a line of seven bits and even parity carries it, read with eight."""
    return bytes(value | (value.bit_count() & 1) << 7 for value in data)


@dataclass(frozen=True, slots=True)
class Plate:
    """What an asked meter is.

    Attributes:
        maker: three letters.
        name: behind the speed, for example `\\2` of mode E and a type.
        mode: how its speed is chosen.
        baud: of its data.
        address: what it may be called by; without one every request is its own.
    """

    maker: str
    name: str
    mode: Mode
    baud: int = 9600
    address: str = ""

    @property
    def speed(self) -> str:
        """The fifth character of its identification."""
        step = _BAUDS.index(self.baud)
        return {Mode.A: "-", Mode.B: "@ABCDEF"[step], Mode.C: str(step)}[self.mode]


class D0Meter:
    """A meter that is asked. The line has the form that it states, and is called when it is due."""

    def __init__(self, plate: Plate, lines: Callable[[int], Sequence[str]]) -> None:
        """
        Args:
            plate: what it is.
            lines: its data lines at a monotonic time.
        """
        self._plate, self._lines = plate, lines
        self.form = _form(300)
        self.due_ns: int | None = None
        self._act: Callable[[int], bytes] | None = None  # what it does when it is due
        self._heard = b""

    def receive(self, data: bytes, at_ns: int) -> None:
        self._heard = (self._heard + data)[-64:]
        if not self._heard.endswith(b"\r\n"):
            return
        heard, self._heard = self._heard, b""
        request = b"/?" + self._plate.address.encode("ascii") + b"!\r\n"
        if self.form.baud == 300 and heard.endswith((b"/?!\r\n", request)):
            self._after(at_ns + REACTION_NS, self._identify)
        elif self._plate.mode is Mode.C and self._act is not None and b"\x06" in heard:
            choice = heard[heard.index(b"\x06") + 1 :]
            is_taken = choice == b"0" + self._plate.speed.encode("ascii") + b"0\r\n"
            self.form = _form(self._plate.baud if is_taken else 300)
            self._after(at_ns + REACTION_NS, self._send_data)

    def speak(self, now_ns: int) -> bytes:
        if self._act is None or self.due_ns is None or now_ns < self.due_ns:
            return b""
        act, self._act, self.due_ns = self._act, None, None
        return act(now_ns)

    def _after(self, at_ns: int, act: Callable[[int], bytes]) -> None:
        self.due_ns, self._act = at_ns, act

    def _identify(self, now_ns: int) -> bytes:
        plate = self._plate
        said = f"/{plate.maker}{plate.speed}{plate.name}\r\n".encode("ascii")
        left_ns = now_ns + self._lasts_ns(said)
        if plate.mode is Mode.C:
            self._after(left_ns + PATIENCE_NS, self._send_data)  # at 300 baud, if nothing comes
        else:
            self._after(left_ns, self._turn)
        return said

    def _turn(self, now_ns: int) -> bytes:
        """Changes its speed, in mode B, and answers."""
        if self._plate.mode is Mode.B:
            self.form = _form(self._plate.baud)
        self._after(now_ns + REACTION_NS, self._send_data)
        return b""

    def _send_data(self, now_ns: int) -> bytes:
        said = data_message(self._lines(now_ns))
        self._after(now_ns + self._lasts_ns(said), self._rest)
        return said

    def _rest(self, _: int) -> bytes:
        self.form = _form(300)
        return b""

    def _lasts_ns(self, data: bytes) -> int:
        return len(data) * _CHARACTER_BITS * NS_PER_S // self.form.baud


def _form(baud: int) -> LineForm:
    return LineForm(baud, 7, Parity.EVEN)
