"""A counter of the Linux kernel beside a line: it counts the same pulses while no program watches.

The driver `interrupt-cnt` counts interrupts of a GPIO line of its own in the kernel
(Documentation/ABI/testing/sysfs-bus-counter). It knows no times and debounces nothing; so the line
itself is counted from, and this one tells what came between two runs.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptometer.settings import setting
from hal.ports import BESIDE_MODULUS, LineLost, PulseSource, Resuming, Taken


@dataclass(frozen=True, slots=True)
class CompanionSettings:
    """What every table `[source]` may have besides."""

    counter: str = setting(
        "folder of a kernel counter on the same pulses, /sys/bus/counter/devices/counter0/count0",
        "",
    )


class Accompanied:
    """A line, and a counter beside it."""

    def __init__(self, line: PulseSource, folder: Path) -> None:
        self._line = line
        self._count = folder / "count"
        try:
            enable = folder / "enable"
            if enable.read_text().strip() != "1":
                enable.write_text("1")
            self._read()
        except (OSError, ValueError) as error:
            line.close()
            raise LineLost(f"cannot open the counter {folder}: {error}") from None
        self.latency_ns = line.latency_ns
        self.capacity = line.capacity
        self.fileno = line.fileno
        self.close = line.close

    def go_on_behind(self, counted_ns: int) -> None:
        line: object = self._line
        if isinstance(line, Resuming):
            line.go_on_behind(counted_ns)

    def take(self) -> Taken:
        # Before the line: what comes between the two is in the register, and not there, and is not
        # recovered a second time by a run after one that is killed now.
        beside: int | None = None
        with suppress(OSError, ValueError):  # one that is gone for now tells nothing
            beside = self._read()
        return replace(self._line.take(), beside=beside)

    def _read(self) -> int:
        return int(self._count.read_text()) % BESIDE_MODULUS  # an atomic_t of the driver
