"""Pulses on a modem line of a serial port (CTS, DSR, DCD or RI); driver name `modem`.

The kernel counts the changes of these lines in its interrupts (TIOCGICOUNT), so a look that comes
late has missed nothing: it takes the difference. What else the kernel counts there, characters and
their errors, is not read. Nothing waits in TIOCMIWAIT (docs/decisions/0026).
"""

import errno
import fcntl
import os
import struct
import termios
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.ports import LineLost, Taken
from hal.terminal import why_unopened

# Fifty looks a second take 0.4 % of a core; S0 gives a pulse every 60 ms at most.
WATCH_NS = 20 * NS_PER_MS
_LATENCY_NS = 20 * NS_PER_MS  # a USB adapter's latency timer (16 ms) and its transfer
# For so long a line may stand otherwise than counted: an adapter tells its state before its count.
DOUBT_NS = NS_PER_S
UNSEEN_MAX = 3  # changes that were seen and not counted, one after the other
STAND_TRIES = 10
_ICOUNT = struct.Struct("=20i")  # struct serial_icounter_struct (linux/serial.h)
_STATE = struct.Struct("=i")
_MODULUS = 2**32  # the counts are ints, and run over
_BACK = 2**31  # a difference from here on is a count that went back
_CFLAG, _OSPEED = 2, 5  # indexes of what termios.tcgetattr gives


class ModemSignal(StrEnum):
    """An input of a serial port beside its data."""

    CTS = "cts"
    DSR = "dsr"
    DCD = "dcd"
    RI = "ri"


class Edge(StrEnum):
    """Where a line goes: asserted (on) or not (off)."""

    ON = "on"
    OFF = "off"


_INDEX = {ModemSignal.CTS: 0, ModemSignal.DSR: 1, ModemSignal.RI: 2, ModemSignal.DCD: 3}
_BIT = {
    ModemSignal.CTS: termios.TIOCM_CTS,
    ModemSignal.DSR: termios.TIOCM_DSR,
    ModemSignal.RI: termios.TIOCM_RI,
    ModemSignal.DCD: termios.TIOCM_CD,
}
_EDGES, _PULSES = "edges", "pulses"


@dataclass(frozen=True, slots=True)
class ModemSettings:
    """The table `[source]` with `driver = "modem"`."""

    device: str = setting("the port, for example /dev/ttyUSB0, or a link under /dev/serial/by-id")
    line: ModemSignal = setting("cts, dsr, dcd or ri: where the pulses come in")
    edge: Edge = setting("the edge that counts: off ends the pulse of a contact", Edge.OFF)
    counts: str = setting("only with ri: what the port's driver counts, edges or pulses", "")


def pulses_in(changes: int, *, was_on: bool, edge: Edge) -> int:
    """How many of these changes went to `edge`, of a line that stood at `was_on` before them."""
    is_first_one = was_on == (edge is Edge.OFF)
    return (changes + is_first_one) // 2


class ModemLine:
    """A pulse source on one modem line."""

    latency_ns = _LATENCY_NS
    capacity = _BACK // 2  # a pulse is two changes

    def __init__(self, settings: ModemSettings) -> None:
        _check(settings)
        self._device, self._signal, self._edge = settings.device, settings.line, settings.edge
        self._counts_pulses = settings.counts == _PULSES
        self._port = _open(settings)
        try:
            self._count, self._is_on = self._stand()
        except OSError as error:
            os.close(self._port)
            raise LineLost(f"cannot open {self._device}: {_why_uncounted(error)}") from None
        self._has_moved = False  # since state and count last agreed
        self._odd_since_ns: int | None = None  # since when they do not
        self._unseen = 0
        # An eventfd polls readable; the port itself says nothing of its modem lines.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def fileno(self) -> int:
        return self._wake

    def take(self) -> Taken:
        # Before the count is read: a change that comes behind it wakes again.
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        try:
            # A buffer that is full of characters nobody reads would stop an adapter's reports.
            termios.tcflush(self._port, termios.TCIFLUSH)
            changes = (self._read_count() - self._count) % _MODULUS
            if not changes:
                return Taken(0, noise=0 if self._counts_pulses else self._compare())
        except (OSError, termios.error) as error:
            raise LineLost(f"{self._device} is gone: {os.strerror(error.args[0])}") from None
        if changes >= _BACK:
            raise LineLost(f"{self._device} counts anew: it was reset")
        return Taken(self._advance(changes))

    def close(self) -> None:
        # The watcher never blocks in the kernel: it ends within a look.
        self._closing.set()
        self._watcher.join()
        os.close(self._wake)
        os.close(self._port)

    def _stand(self) -> tuple[int, bool]:
        """The count, and the state that belongs to it."""
        for _ in range(STAND_TRIES):
            count, is_on = self._read_count(), self._read_state()
            if self._read_count() == count:
                break
        return count, is_on  # of a line that does not rest: `_compare` finds it out

    def _advance(self, changes: int) -> int:
        """Takes changes in; returns the pulses they are."""
        self._count = (self._count + changes) % _MODULUS
        if self._counts_pulses:
            return changes
        was_on, self._is_on = self._is_on, self._is_on ^ bool(changes % 2)
        self._has_moved, self._odd_since_ns, self._unseen = True, None, 0
        return pulses_in(changes, was_on=was_on, edge=self._edge)

    def _compare(self) -> int:
        """Holds the line's state against its count, when no change has come. Returns the noise:
        1 for a change to and fro that the kernel took for one, as a spike's."""
        is_on, now_ns = self._read_state(), time.monotonic_ns()
        if is_on == self._is_on:
            self._unseen += self._odd_since_ns is not None  # it went and came, and none was counted
            self._has_moved, self._odd_since_ns = False, None
        elif self._odd_since_ns is None:
            self._odd_since_ns = now_ns
        elif now_ns - self._odd_since_ns >= DOUBT_NS:
            if self._has_moved:
                self._is_on, self._has_moved, self._odd_since_ns = is_on, False, None
                return 1
            self._unseen = UNSEEN_MAX
        if self._unseen >= UNSEEN_MAX:
            raise LineLost(
                f"the driver of {self._device} shows {self._signal} change and does not count it:"
                " take another adapter, or RX with driver serial, line s0"
            )
        return 0

    def _watch(self) -> None:
        """In a thread: makes `fileno` readable when there is something to take."""
        while not self._closing.wait(WATCH_NS / NS_PER_S):
            try:
                is_due = self._read_count() != self._count
            except OSError:
                is_due = True
            if is_due:
                os.eventfd_write(self._wake, 1)

    def _read_count(self) -> int:
        buffer = bytearray(_ICOUNT.size)
        fcntl.ioctl(self._port, termios.TIOCGICOUNT, buffer)
        return int(_ICOUNT.unpack(buffer)[_INDEX[self._signal]]) % _MODULUS

    def _read_state(self) -> bool:
        buffer = bytearray(_STATE.size)
        fcntl.ioctl(self._port, termios.TIOCMGET, buffer)
        return bool(_STATE.unpack(buffer)[0] & _BIT[self._signal])


def _check(settings: ModemSettings) -> None:
    if settings.line is not ModemSignal.RI:
        if settings.counts:
            raise ConfigurationError(
                f"counts is for line ri: every driver counts both edges of {settings.line}"
            )
    elif settings.counts not in (_EDGES, _PULSES):
        raise ConfigurationError(
            'line ri needs counts: "pulses" where the port\'s driver counts the end of a ring'
            ' (ttyS*, 8250), "edges" where it counts both ends (FTDI, PL2303, CH341)'
        )
    elif settings.counts == _PULSES and settings.edge is not Edge.OFF:
        raise ConfigurationError('a driver that counts pulses of ri counts the edge "off"')


def _open(settings: ModemSettings) -> int:
    port = -1
    try:
        # Not blocking: an open may else wait for a carrier on DCD.
        port = os.open(settings.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as pyserial's `exclusive` does
        _set_terminal(port, settings.line)
    except (OSError, termios.error) as error:
        if port >= 0:
            os.close(port)
        raise LineLost(f"cannot open {settings.device}: {why_unopened(error)}") from None
    return port


def _set_terminal(port: int, line: ModemSignal) -> None:
    """Has the driver watch the modem lines: a UART's does with CRTSCTS or without CLOCAL only
    (linux/serial_core.h, UART_ENABLE_MS).

    Without CLOCAL the end of a pulse on DCD would hang up the port; with CRTSCTS a UART may take
    CTS for itself (16750), and tell nobody.
    """
    attributes = termios.tcgetattr(port)
    watched = 0 if line is ModemSignal.CTS else termios.CRTSCTS | termios.CLOCAL
    attributes[:_CFLAG] = [0, 0]  # c_iflag, c_oflag
    attributes[_CFLAG : _OSPEED + 1] = [
        termios.CS8 | termios.CREAD | watched,
        0,  # c_lflag: nothing is echoed
        termios.B9600,  # B0 would drop DTR and RTS
        termios.B9600,
    ]
    termios.tcsetattr(port, termios.TCSANOW, attributes)


def _why_uncounted(error: OSError) -> str:
    if error.errno in (errno.ENOTTY, errno.EINVAL):
        return (
            "it does not count its modem lines (TIOCGICOUNT), as pseudo-terminals and some adapters"
            " do not: take another adapter, or RX with driver serial, line s0"
        )
    return why_unopened(error)
