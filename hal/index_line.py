"""A meter that speaks, on a serial line or a TCP connection.

The line does what a conversation (`hal.index.reading`) wants of it: is set, sends, hands over what
came with the time of the look. Nothing here knows a protocol, and nothing waits.

Seven bits with even parity are as long on the line as eight without. So such a line is run with
eight: the parity of what is sent is made here, that of what comes is left for the decoder to check.
It is the same for a port that has no parity (a Raspberry Pi's mini UART, a pseudo-terminal).
"""

import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS
from hal.index.reading import Conversation, LineForm, Parity, Remembering
from hal.ports import Heard, LineLost
from hal.terminal import read_waiting, why_unopened

SPEEDS = {
    300: termios.B300,
    600: termios.B600,
    1_200: termios.B1200,
    2_400: termios.B2400,
    4_800: termios.B4800,
    9_600: termios.B9600,
    19_200: termios.B19200,
    38_400: termios.B38400,
    57_600: termios.B57600,
    115_200: termios.B115200,
}
LOOK_MAX = 65_536  # bytes of one look: five seconds of the fastest line; more waits for the next
OUT_MAX = 16_384  # bytes that the line did not take yet: beyond it, it takes none
SEND_AGAIN_NS = 20 * NS_PER_MS
CONNECT_S = 5.0
# A server that lost its power says no goodbye, and a meter that is only listened to is never asked:
# so the connection is tested after this silence, and given up after so many tests in vain.
_KEEP_IDLE_S, _KEEP_INTERVAL_S, _KEEP_TESTS = 30, 10, 3
_SIZES = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}
_EVEN = bytes(value | (value.bit_count() & 1) << 7 for value in range(128)) + bytes(range(128, 256))
_TIOCSRS485 = 0x542F  # linux/serial.h
_RS485 = struct.Struct("=8I")  # struct serial_rs485
_RS485_ENABLED, _RS485_RTS_ON_SEND = 1, 2


class Port(Protocol):
    """A way for bytes to a meter and back. It never waits."""

    def fileno(self) -> int:
        """A descriptor that polls readable when `read` would bring something, or say that the
        line is gone."""
        ...

    def is_open(self) -> bool:
        """Whether bytes can go through; False while it is being opened.

        Raises:
            LineLost: it could not be opened.
        """
        ...

    def shape(self, form: LineForm) -> None:
        """Sets a line that can be set. What was sent before has left.

        Raises:
            LineLost: it is gone.
        """
        ...

    def read(self) -> bytes:
        """All that waits, at most LOOK_MAX bytes.

        Raises:
            LineLost: it is gone, and nothing waits any more.
        """
        ...

    def write(self, data: bytes) -> int:
        """How many of the bytes it took.

        Raises:
            LineLost: it is gone.
        """
        ...

    def close(self) -> None: ...


class IndexLine:
    """An index source: a port, and the conversation that is held on it."""

    def __init__(
        self,
        port: Port,
        conversation: Conversation,
        *,
        memory: Remembering | None = None,
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            port: is closed with the source.
            conversation: with the meter.
            memory: the conversation, if it can ask for what the meter kept.
            let_go: called when the source is closed.

        Raises:
            LineLost: the port is gone already; it is closed then.
        """
        self._port, self._conversation = port, conversation
        self.memory = memory
        self._let_go = let_go
        self._is_open = False
        self._form: LineForm | None = None  # how the line is set
        self._out = b""  # what it did not take yet, ...
        self._sent_ns = 0  # ... and when it was tried last
        self._lost: LineLost | None = None  # found while there was still something to hand over
        try:
            self._is_open = port.is_open()
            if self._is_open:
                self._shape()
        except LineLost:
            port.close()
            raise

    def fileno(self) -> int:
        return self._port.fileno()

    @property
    def due_ns(self) -> int | None:
        if self._lost is not None:
            return 0
        if not self._is_open:  # the descriptor tells
            return None
        due_ns = self._conversation.due_ns
        if self._out:
            again_ns = self._sent_ns + SEND_AGAIN_NS
            return again_ns if due_ns is None else min(due_ns, again_ns)
        return due_ns

    def take(self) -> Heard:
        if self._lost is not None:
            raise self._lost
        self._is_open = self._port.is_open()
        if not self._is_open:
            return Heard(())
        data = self._port.read()
        # Behind the read: what came is not younger than this.
        now_ns = time.monotonic_ns()
        said = self._conversation.receive(data, now_ns)
        try:
            self._speak(now_ns)
        except LineLost as lost:
            if not said and not data:
                raise
            self._lost = lost
        return Heard(tuple(said), data)

    def close(self) -> None:
        self._port.close()
        self._let_go()

    def _speak(self, now_ns: int) -> None:
        self._shape()
        words = self._conversation.speak(now_ns)
        if words and _is_seven_even(self._conversation.form):
            words = words.translate(_EVEN)
        self._out += words
        if len(self._out) > OUT_MAX:
            raise LineLost("the line takes nothing of what is sent")
        if self._out:
            self._sent_ns = now_ns
            self._out = self._out[self._port.write(self._out) :]
        self._shape()  # it may have been the time to speak that changes it

    def _shape(self) -> None:
        form = self._conversation.form
        if _is_seven_even(form):
            form = LineForm(form.baud)
        if form != self._form and not self._out:
            self._port.shape(form)
            self._form = form


def _is_seven_even(form: LineForm) -> bool:
    return (form.bits, form.parity) == (7, Parity.EVEN)


# --- A serial port. ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a serial port's other lines do while it is open.

    Attributes:
        rts, dtr: on or off. Optical heads and level converters are often powered by them.
        rs485: RTS turns a transmitter on, and does so only while something is sent; `rts` does
            not count.
        sends: something ever is.
    """

    rts: bool = True
    dtr: bool = True
    rs485: bool = False
    sends: bool = False


class SerialPort:
    """A serial device or a pseudo-terminal."""

    def __init__(self, device: str, baud: int, wiring: Wiring) -> None:
        """Opens it, and drops what waited there: nobody knows how old it is.

        Raises:
            LineLost: it cannot be opened now.
            ConfigurationError: it cannot be wired so.
        """
        self._device = device
        try:
            self._port = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise LineLost(f"cannot open {device}: {why_unopened(error)}") from None
        try:
            # A second reader would take a part of the bytes.
            fcntl.flock(self._port, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._set(LineForm(baud))
            self._wire(wiring)
            termios.tcflush(self._port, termios.TCIFLUSH)
        except (OSError, termios.error) as error:
            self.close()
            raise LineLost(f"cannot open {device}: {why_unopened(error)}") from None
        except ConfigurationError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._port

    def is_open(self) -> bool:
        return True

    def shape(self, form: LineForm) -> None:
        try:
            self._set(form)
        except (OSError, termios.error) as error:
            raise LineLost(f"{self._device} is gone: {why_unopened(error)}") from None

    def read(self) -> bytes:
        return read_waiting(self._port, self._device, LOOK_MAX)

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._port, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LineLost(f"{self._device} is gone: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._port)

    def _set(self, form: LineForm) -> None:
        """Raw bytes, no flow control. No input flag is wanted: see `hal.serial_line`."""
        size = termios.CREAD | termios.CLOCAL | _SIZES[form.bits]
        parity = {
            Parity.NONE: 0,
            Parity.EVEN: termios.PARENB,
            Parity.ODD: termios.PARENB | termios.PARODD,
        }[form.parity]
        speed = SPEEDS[form.baud]
        control = termios.tcgetattr(self._port)[-1]
        # With VMIN 0 an empty read of an idle line looks like a hang-up; with 1 it is EAGAIN.
        control[termios.VMIN], control[termios.VTIME] = 1, 0
        attributes = [0, 0, size | parity, 0, speed, speed, control]
        try:
            termios.tcsetattr(self._port, termios.TCSANOW, attributes)
        except termios.error:
            # A port without this parity or size kept its own; the rest is set. One that is gone
            # says so here, too.
            termios.tcgetattr(self._port)

    def _wire(self, wiring: Wiring) -> None:
        if wiring.rs485 and wiring.sends:
            flags = _RS485_ENABLED | _RS485_RTS_ON_SEND
            try:
                fcntl.ioctl(self._port, _TIOCSRS485, _RS485.pack(flags, *[0] * 7))
            except OSError:
                raise ConfigurationError(
                    f"the driver of {self._device} does not switch RTS while it sends: take an"
                    " adapter that switches by itself, without rs485 = true"
                ) from None
        rts = wiring.rts and not wiring.rs485
        for line, is_on in ((termios.TIOCM_RTS, rts), (termios.TIOCM_DTR, wiring.dtr)):
            # ENOTTY or EINVAL: a line without such lines, as a pseudo-terminal.
            with suppress(OSError):
                request = termios.TIOCMBIS if is_on else termios.TIOCMBIC
                fcntl.ioctl(self._port, request, struct.pack("=i", line))


# --- A TCP connection. ---------------------------------------------------------------------------


class TcpPort:
    """A meter's own TCP port, or a server that passes a serial line on as it is. How that line is
    set is the server's affair.

    A name may take seconds to look up, and a connection to be made: a thread does both.
    """

    def __init__(self, host: str, port: int) -> None:
        self._place = f"{host}:{port}"
        self._socket: socket.socket | None = None
        # One descriptor for both: first of the thread's word, then of what comes.
        self._poll = select.epoll()
        self._attempt = _Attempt(host, port)
        self._poll.register(self._attempt.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def is_open(self) -> bool:
        if self._socket is not None:
            return True
        outcome = self._attempt.outcome()
        if outcome is None:
            return False
        if isinstance(outcome, OSError):
            why = "no answer" if isinstance(outcome, TimeoutError) else outcome.strerror or outcome
            raise LineLost(f"cannot reach {self._place}: {why}")
        self._socket = outcome
        self._poll.unregister(self._attempt.fileno())
        self._poll.register(outcome, select.EPOLLIN)
        return True

    def shape(self, form: LineForm) -> None:
        pass

    def read(self) -> bytes:
        assert self._socket is not None  # noqa: S101 - `is_open` comes first
        data = bytearray()
        while len(data) < LOOK_MAX:
            try:
                chunk = self._socket.recv(LOOK_MAX - len(data))
            except BlockingIOError:
                break
            except OSError as error:
                why = f"{self._place} is gone: {error.strerror}"
            else:
                if chunk:
                    data += chunk
                    continue
                why = f"{self._place} has closed the connection"
            if not data:
                raise LineLost(why)
            break  # as above
        return bytes(data)

    def write(self, data: bytes) -> int:
        assert self._socket is not None  # noqa: S101 - `is_open` comes first
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LineLost(f"{self._place} is gone: {error.strerror}") from None

    def close(self) -> None:
        self._poll.close()
        self._attempt.abandon()
        if self._socket is not None:
            self._socket.close()


class _Attempt:
    """One connection that is being made."""

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()  # around all that both threads touch
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outcome: socket.socket | OSError | None = None
        self._is_abandoned = False
        self._is_taken = False
        # It is never waited for: a look-up cannot be broken off.
        threading.Thread(
            target=self._connect, args=(host, port), daemon=True, name=f"{host}:{port}"
        ).start()

    def fileno(self) -> int:
        return self._wake

    def outcome(self) -> socket.socket | OSError | None:
        """The connection, which is the caller's from now on, or why there is none; None: not
        known yet."""
        with self._lock:
            self._is_taken = self._outcome is not None
            return self._outcome

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            os.close(self._wake)
            if isinstance(self._outcome, socket.socket) and not self._is_taken:
                self._outcome.close()

    def _connect(self, host: str, port: int) -> None:
        outcome: socket.socket | OSError
        try:
            outcome = socket.create_connection((host, port), CONNECT_S)
            _keep_alive(outcome)
        except (OSError, UnicodeError) as error:  # UnicodeError: of a name that can be none
            outcome = error if isinstance(error, OSError) else OSError(str(error))
        with self._lock:
            if not self._is_abandoned:
                self._outcome = outcome
                os.eventfd_write(self._wake, 1)
            elif isinstance(outcome, socket.socket):
                outcome.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _KEEP_IDLE_S),
        (socket.TCP_KEEPINTVL, _KEEP_INTERVAL_S),
        (socket.TCP_KEEPCNT, _KEEP_TESTS),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
