"""The clocks: the system's, with the kernel's own error bound, and one that runs faster."""

import ctypes
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptometer.steps import (
    NS_PER_MS,
    NS_PER_S,
    ClockSource,
    ClockState,
    Instant,
    state_of,
)

_STA_UNSYNC, _STA_CLOCKERR = 0x0040, 0x1000  # linux/timex.h
_TIME_ERROR = 5
_NS_PER_US = 1000
NAP_NS = 10 * NS_PER_MS  # a suspension takes longer than to read one clock after the other
SCALED_ERROR_MS = 1  # machine milliseconds: two processes read one CLOCK_MONOTONIC


class _Timex(ctypes.Structure):
    """struct timex (adjtimex(2)), as far as it is read here, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),  # µs
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 512),
    )


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What the kernel says of its own clock (adjtimex(2)).

    Attributes:
        synchronised: neither STA_UNSYNC nor STA_CLOCKERR.
        error_ns: maxerror; the kernel lets it grow by 500 ppm between synchronisations, so that
            it tells of a lost time source hours before the flag does.
    """

    synchronised: bool
    error_ns: int


@cache
def _libc() -> ctypes.CDLL:
    """Opened once: a clock is read at every look."""
    return ctypes.CDLL(None, use_errno=True)


def kernel_clock() -> KernelClock:
    """Asks the kernel. NTP daemons (chrony, ntpd, systemd-timesyncd) keep what it answers."""
    timex = _Timex()
    code = _libc().adjtimex(ctypes.byref(timex))
    failed = code in (-1, _TIME_ERROR) or timex.status & (_STA_UNSYNC | _STA_CLOCKERR)
    return KernelClock(not failed, timex.maxerror * _NS_PER_US)


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: monotonic, and it goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """The machine's own clocks; driver name `system`.

    Its monotonic time is CLOCK_BOOTTIME, so that what was counted before a suspension is still
    dated rightly after it; the machine's own, for time-outs, is CLOCK_MONOTONIC.
    """

    def __init__(self) -> None:
        self.boot_id = read_boot_id()
        self._slept_ns = 0
        self.slept_ns()

    def now(self) -> Instant:
        kernel = kernel_clock()
        # The monotonic clock is read on both sides: a program held up between two reads must not
        # pair a time with another moment.
        before = boottime_ns()
        utc = time.time_ns()
        after = boottime_ns()
        error = kernel.error_ns + (after - before)
        state = state_of(error // NS_PER_MS) if kernel.synchronised else ClockState.UNKNOWN
        return Instant((before + after) // 2, utc, error, state, ClockSource.SYSTEM)

    def machine_ns(self) -> int:
        return time.monotonic_ns()

    def slept_ns(self) -> int:
        # In this order a program held up in between understates it, and takes no pause for a sleep.
        boot = boottime_ns()
        slept_ns = boot - time.monotonic_ns()
        if slept_ns > self._slept_ns + NAP_NS:
            self._slept_ns = slept_ns
        return self._slept_ns

    def community_ns(self, machine_ns: int) -> int:
        return machine_ns + self._slept_ns

    def machine_wait_s(self, community_ns: int) -> float:
        return community_ns / NS_PER_S


class ScaledClock:
    """Community time that runs `speed` times faster than the machine; driver name `scaled`.

    It stands at `origin_ms` (ms since the Unix epoch) when the machine's CLOCK_MONOTONIC stands at
    `anchor_ms`: programs with the same three numbers on one machine agree. For demos and tests.
    """

    def __init__(self, speed: int, origin_ms: int, anchor_ms: int) -> None:
        self.boot_id = read_boot_id()
        self._speed = speed
        self._origin_ns = origin_ms * NS_PER_MS
        self._anchor_ns = anchor_ms * NS_PER_MS

    def now(self) -> Instant:
        mono = self.community_ns(time.monotonic_ns())
        utc = self._origin_ns + mono - self._anchor_ns * self._speed
        error = SCALED_ERROR_MS * NS_PER_MS * self._speed
        return Instant(mono, utc, error, state_of(error // NS_PER_MS), ClockSource.SCALED)

    def machine_ns(self) -> int:
        return time.monotonic_ns()

    def slept_ns(self) -> int:
        return 0  # its time stands still with the machine, and the simulated meters with it

    def community_ns(self, machine_ns: int) -> int:
        return machine_ns * self._speed

    def machine_wait_s(self, community_ns: int) -> float:
        return community_ns / self._speed / NS_PER_S


class SimulatedClock:
    """A clock that stands until it is moved; the twin of the others, for simulation."""

    def __init__(self, utc_ns: int, boot_id: bytes = bytes(16)) -> None:
        self.boot_id = boot_id
        self.mono_ns = 0
        self.utc_ns = utc_ns
        self.asleep_ns = 0
        self.error_ns = NS_PER_MS
        self.state = ClockState.SYNCHRONISED

    def advance(self, ns: int) -> None:
        """Lets time pass, on both clocks."""
        self.mono_ns += ns
        self.utc_ns += ns

    def sleep(self, ns: int) -> None:
        """The machine is suspended for so long: nothing on it runs."""
        self.advance(ns)
        self.asleep_ns += ns

    def now(self) -> Instant:
        return Instant(self.mono_ns, self.utc_ns, self.error_ns, self.state, ClockSource.SIMULATED)

    def machine_ns(self) -> int:
        return self.mono_ns - self.asleep_ns

    def slept_ns(self) -> int:
        return self.asleep_ns

    def community_ns(self, machine_ns: int) -> int:
        return machine_ns + self.asleep_ns

    def machine_wait_s(self, community_ns: int) -> float:
        return community_ns / NS_PER_S


def read_boot_id() -> bytes:
    """The kernel's random id of this boot, 16 bytes."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return bytes.fromhex(text.replace("-", ""))
