"""A measured figure and its limit; and how things are timed here.

Machines are shared. So work of the processor is told as a ratio to the bare Ed25519 verification
of the same run, both in processor time; what a user is promised in seconds or bytes is told so.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MS_PER_S = 1_000.0
US_PER_S = 1_000_000.0
MESSAGE_BYTES = 300  # what is signed of a batch with some 20 lots
_ROUNDS = 5
_TIMES = 200


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result. One of `most` and `least` is its limit; neither, where it is another
    program's and stands for comparison."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        if self.most is not None:
            return self.value <= self.most
        return self.least is None or self.value >= self.least

    def line(self) -> str:
        """name  value unit  limit  ok|OVER"""
        sign, limit = ("<=", self.most) if self.most is not None else (">=", self.least)
        verdict = ("ok" if self.holds else "OVER") if limit is not None else "compare"
        value, bound = number(self.value), "" if limit is None else f"{sign} {number(limit)}"
        return f"{self.name:<72} {value:>10} {self.unit:<10} {bound:>12}  {verdict}"


def number(value: float) -> str:
    """Three digits, or all that stand before the point."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def cpu_s(action: Callable[[], object], times: int = _TIMES, rounds: int = _ROUNDS) -> float:
    """Processor seconds of one call: the best of some rounds, since only noise adds to it."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(times):
            action()
        best = min(best, time.process_time() - begin)
    return best / times


@cache
def bare_sign_s() -> float:
    """Processor seconds of one bare Ed25519 signature."""
    key, message = Ed25519PrivateKey.from_private_bytes(bytes(32)), bytes(MESSAGE_BYTES)
    return cpu_s(lambda: key.sign(message))


@cache
def bare_verify_s() -> float:
    """Processor seconds of one bare Ed25519 verification."""
    key, message = Ed25519PrivateKey.from_private_bytes(bytes(32)), bytes(MESSAGE_BYTES)
    public, signature = key.public_key(), key.sign(message)
    return cpu_s(lambda: public.verify(signature, message))


class Stopwatch:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu


def process_cpu_s(pid: int) -> float:
    """Processor seconds that all threads of a process have had so far: utime + stime of proc(5),
    from the clock behind them (clock_getcpuclockid(3)), since their ticks are 10 ms long."""
    return time.clock_gettime((~pid << 3) | 2)


def process_memory_mb(pid: int) -> float:
    """Memory of a process that is in RAM now, MB (proc(5): VmRSS)."""
    return _status_mb(str(pid), "VmRSS")


def own_memory_mb() -> float:
    """The most memory that this process has had in RAM, MB (proc(5): VmHWM)."""
    return _status_mb("self", "VmHWM")


def _status_mb(process: str, field: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"process {process} has no memory")
