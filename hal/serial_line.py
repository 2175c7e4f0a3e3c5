"""Pulses as bytes on a serial line; driver name `serial`.

A received byte has no measured width, so on a `byte` line every byte and every break counts. An
`s0` line is a contact between RX and ground at 300 baud, where a character is its own width
measurement: it samples the line every 3.3 ms, a pulse of at least 30 ms pulls nearly all bits to
zero, and up to 5 ms of bounce touches at most the first and the last of them.
"""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from enum import StrEnum

import serial

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.ports import LineLost, Taken

BAUD_MIN, BAUD_MAX = 300, 115_200
_READ_MAX = 65_536  # bytes; the kernel's buffer of a line holds 4,095
_SETTLE_NS = 20 * NS_PER_MS  # from a UART's FIFO, or a pseudo-terminal's work queue, to `read`
_BITS_PER_CHARACTER = 10
_TIOCGICOUNT = 0x545D  # linux/serial.h
_ICOUNT = struct.Struct("=20i")  # struct serial_icounter_struct
_OVERRUN, _BUFFER_OVERRUN = 7, 10  # its indexes

# On an `s0` line: a byte with at least six of its eight samples low, hence a contact closed for
# 20 ms or more. What a bounce or a relay's spike starts has nearly all samples high.
_S0_LOW_MIN = 6
_IS_S0_PULSE = bytes(8 - value.bit_count() >= _S0_LOW_MIN for value in range(256))


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


class _Port(serial.Serial):
    """pyserial, but opening the port drops nothing that was given while nobody read."""

    def _reset_input_buffer(self) -> None:
        pass


class SerialLine:
    """A pulse source on a serial device or a pseudo-terminal."""

    def __init__(self, settings: SerialSettings) -> None:
        if not BAUD_MIN <= settings.baud <= BAUD_MAX:
            raise ConfigurationError(f"baud is from {BAUD_MIN} to {BAUD_MAX}")
        if settings.line is LineKind.S0 and settings.baud != BAUD_MIN:
            raise ConfigurationError("an s0 line is read at 300 baud: remove the baud setting")
        self._is_s0 = settings.line is LineKind.S0
        self._device = settings.device
        self._port = _Port()
        self._port.port = settings.device
        self._port.baudrate = settings.baud
        self._port.exclusive = True  # a second reader would take a part of the pulses
        try:
            self._port.open()
        except (serial.SerialException, OSError) as error:
            raise LineLost(f"cannot open {settings.device}: {_why(error)}") from None
        self.latency_ns = _SETTLE_NS + _BITS_PER_CHARACTER * NS_PER_S // settings.baud
        self._overruns = self._count_overruns()

    def fileno(self) -> int:
        return int(self._port.fileno())

    def take(self) -> Taken:
        try:
            data = os.read(self._port.fileno(), _READ_MAX)
        except BlockingIOError:
            return Taken(0)
        except OSError as error:
            raise LineLost(f"{self._device} is gone: {error.strerror}") from None
        if not data:
            raise LineLost(f"{self._device} has hung up")
        pulses = sum(data.translate(_IS_S0_PULSE)) if self._is_s0 else len(data)
        overruns = self._count_overruns()
        lost, self._overruns = overruns - self._overruns, overruns
        return Taken(pulses, noise=len(data) - pulses, lost=lost)

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


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; add the user to the group dialout"
    if number == errno.ENOENT:
        return "there is no such device; look under /dev/serial/by-id"
    if number in (errno.EAGAIN, errno.EWOULDBLOCK):
        return "another program reads it"
    return str(error)
