"""Pulses as bytes on a serial line; driver name `serial`.

A received byte has no measured width, so on a `byte` line every byte and every break counts. An
`s0` line is a contact between RX and ground at 300 baud, where a character is its own width
measurement: `hal.uart` says why, and models it.
"""

import fcntl
import os
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import serial

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.ports import LineLost, Taken
from hal.terminal import read_waiting, why_unopened
from hal.uart import S0_BAUD, S0_BOUNCE_NS, s0_pulses

BAUD_MIN, BAUD_MAX = 300, 115_200
# A look ends here on a line that never falls silent. The kernel holds at most 640 KiB for a line
# (tty_buffer.c), so that what comes behind it came after the look began.
_LOOK_MAX = 2**20
_SETTLE_NS = 20 * NS_PER_MS  # a USB adapter's latency timer (16 ms), or a pty's work queue
_BITS_PER_CHARACTER = 10
# A UART may hold characters back until its FIFO is half full (PL011: 16 of 32) or the line was
# quiet for the time of 32 bits (PL011; 40 on a 16550, which gives up at 8 characters).
_FIFO_BITS = 16 * (_BITS_PER_CHARACTER + 32)
# Lines without such a FIFO, by device number (Linux admin-guide/devices): /dev/ttyACM*,
# /dev/ttyUSB*, and pseudo-terminals.
_UNHELD_MAJORS = frozenset({166, 188, *range(136, 144)})
_TIOCGICOUNT = 0x545D  # linux/serial.h
_ICOUNT = struct.Struct("=20i")  # struct serial_icounter_struct
_OVERRUN, _BUFFER_OVERRUN = 7, 10  # its indexes
_IFLAG, _CFLAG, _CC = 0, 2, 6  # indexes of what termios.tcgetattr gives


class LineKind(StrEnum):
    """What stands for a pulse on the line."""

    BYTE = "byte"
    S0 = "s0"


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """The table `[source]` with `driver = "serial"`."""

    device: str = setting("the line, for example /dev/ttyUSB0, or a link under /dev/serial/by-id")
    line: LineKind = setting(
        "byte: a received byte or break per pulse; s0: a contact on RX", LineKind.BYTE
    )
    baud: int = setting("300 to 115200; an s0 line is read at 300", 300)
    rs485: bool = setting(
        "true for an RS-485 adapter whose transmitter RTS turns on: it listens only", False
    )


class _Port(serial.Serial):
    """pyserial, but opening the port drops nothing that was given while nobody read."""

    def _reset_input_buffer(self) -> None:
        pass


class SerialLine:
    """A pulse source on a serial device or a pseudo-terminal."""

    capacity = 4_095  # characters (Linux n_tty.c, N_TTY_BUF_SIZE); behind it the driver has its own

    def __init__(self, settings: SerialSettings) -> None:
        if not BAUD_MIN <= settings.baud <= BAUD_MAX:
            raise ConfigurationError(f"baud is from {BAUD_MIN} to {BAUD_MAX}")
        if settings.line is LineKind.S0 and settings.baud != S0_BAUD:
            raise ConfigurationError("an s0 line is read at 300 baud: remove the baud setting")
        self._is_s0 = settings.line is LineKind.S0
        self._device = settings.device
        self._port = _Port()
        self._port.port = settings.device
        self._port.baudrate = settings.baud
        self._port.exclusive = True  # a second reader would take a part of the pulses
        if settings.rs485:
            # An open asserts RTS, and a transmitter that is on keeps all others off the bus.
            self._port.rts = False
        try:
            self._port.open()
            _set_terminal(self._port.fileno(), is_s0=self._is_s0)
        except (OSError, termios.error, ValueError) as error:  # SerialException is an OSError
            self._port.close()
            raise LineLost(f"cannot open {settings.device}: {why_unopened(error)}") from None
        bits = _BITS_PER_CHARACTER + _fifo_bits(self._port.fileno())
        bounce_ns = S0_BOUNCE_NS if self._is_s0 else 0
        self.latency_ns = _SETTLE_NS + bits * NS_PER_S // settings.baud + bounce_ns
        self._overruns = self._count_overruns()

    def fileno(self) -> int:
        return int(self._port.fileno())

    def take(self) -> Taken:
        data = read_waiting(self._port.fileno(), self._device, _LOOK_MAX)
        pulses = s0_pulses(data) if self._is_s0 else len(data)
        overruns = self._count_overruns()
        lost, self._overruns = max(0, overruns - self._overruns), overruns
        return Taken(pulses, noise=len(data) - pulses, lost=lost, raw=data)

    def close(self) -> None:
        self._port.close()

    def _count_overruns(self) -> int:
        """Characters the kernel says it dropped so far; 0 where the line does not count them."""
        buffer = bytearray(_ICOUNT.size)
        try:
            fcntl.ioctl(self._port.fileno(), _TIOCGICOUNT, buffer)
        except OSError:  # ENOTTY on a pseudo-terminal and on some USB adapters
            return 0
        counts = _ICOUNT.unpack(buffer)
        return int(counts[_OVERRUN] + counts[_BUFFER_OVERRUN])


def _set_terminal(descriptor: int, *, is_s0: bool) -> None:
    """What pyserial leaves as an earlier user set it. Drops nothing that waits.

    No input flag is wanted. BRKINT (set by `stty sane` and by getty) would turn a break into a
    signal and flush what waits; IGNBRK would drop it; IGNPAR would drop a character without a stop
    bit; INPCK would replace it by zero; PARMRK would put marks between the bytes. Without them a
    break is read as one zero byte, and a character without a stop bit as its data (Linux n_tty.c,
    8250_port.c, amba-pl011.c).
    """
    attributes = termios.tcgetattr(descriptor)
    attributes[_IFLAG] = 0
    # With VMIN 0 an empty read of an idle line looks like a hang-up; with 1 it is EAGAIN.
    attributes[_CC][termios.VMIN] = 1
    attributes[_CC][termios.VTIME] = 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    if is_s0:
        attributes[_CFLAG] = attributes[_CFLAG] & ~termios.CSIZE | termios.CS6
        # EINVAL says that the line kept another size: the same six bits of it decide.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _fifo_bits(descriptor: int) -> int:
    """For how many bits a pulse may be held back in a UART's FIFO."""
    major = os.major(os.fstat(descriptor).st_rdev)
    return 0 if major in _UNHELD_MAJORS else _FIFO_BITS
