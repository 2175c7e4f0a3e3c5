"""A serial port whose modem lines a test moves, under the system calls that the driver makes: a
real pseudo-terminal, for which these two ioctls are answered as a UART's driver would."""

import errno
import fcntl
import os
import pty
import struct
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cryptometer.steps import NS_PER_S
from hal.modem_line import ModemSettings, ModemSignal

INDEX = {"cts": 0, "dsr": 1, "ri": 2, "dcd": 3}  # linux/serial.h, struct serial_icounter_struct
BIT = {"cts": 0x020, "dsr": 0x100, "ri": 0x080, "dcd": 0x040}  # asm-generic/termios.h


class ModemPort:
    """The port, and the meter at its line.

    Attributes:
        counts: as the kernel keeps them, ints of 32 bits.
        state: the bits of the modem lines that are on.
        refused: what the kernel answers instead, as when the adapter is gone.
        now_ns: the machine's monotonic time, as the driver reads it.
        during_state: changes of the line that come while its state is read.
    """

    def __init__(self, line: str = "dcd", count: int = 0, *, is_on: bool = False) -> None:
        self.line = line
        self.counts = [0] * 20
        self.counts[INDEX[line]] = count
        self.state = BIT[line] if is_on else 0
        self.refused: OSError | None = None
        self.now_ns = NS_PER_S
        self.during_state: list[int] = []
        self.master, self.far = pty.openpty()
        tty.setraw(self.far)
        self.device = os.ttyname(self.far)
        self._ioctl = fcntl.ioctl

    @property
    def is_on(self) -> bool:
        return bool(self.state & BIT[self.line])

    def settings(self, **given: str) -> ModemSettings:
        values = {"line": ModemSignal(self.line), **given}
        return ModemSettings(self.device, **values)  # type: ignore[arg-type]

    def change(self, times: int = 1, *, counted: int | None = None) -> None:
        """The line changes; the kernel counts each change, or as many as it is told."""
        if times % 2:
            self.state ^= BIT[self.line]
        self.counts[INDEX[self.line]] += times if counted is None else counted

    def pulse(self, pulses: int = 1) -> None:
        self.change(2 * pulses)

    def pass_time(self, ns: int) -> None:
        self.now_ns += ns

    def unplug(self, number: int = errno.EIO) -> None:
        self.refused = OSError(number, os.strerror(number))

    def ioctl(self, descriptor: int, request: int, buffer: bytearray) -> int:
        if request not in (termios.TIOCGICOUNT, termios.TIOCMGET):
            return int(self._ioctl(descriptor, request, buffer))
        os.fstat(descriptor)  # EBADF for one that was closed
        if self.refused is not None:
            raise self.refused
        if request == termios.TIOCMGET:
            struct.pack_into("=I", buffer, 0, self.state | 0x006)  # DTR and RTS are on
            if self.during_state:
                self.change(self.during_state.pop())
        else:
            signed = [(count + 2**31) % 2**32 - 2**31 for count in self.counts]
            struct.pack_into("=20i", buffer, 0, *signed)
        return 0

    def close(self) -> None:
        os.close(self.master)
        os.close(self.far)


@contextmanager
def plugged(line: str = "dcd", count: int = 0, *, is_on: bool = False) -> Iterator[ModemPort]:
    """A port, with its system calls and the driver's time in place."""
    port = ModemPort(line, count, is_on=is_on)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fcntl, "ioctl", port.ioctl)
        patched.setattr(time, "monotonic_ns", lambda: port.now_ns)
        yield port
    port.close()
