"""Pulses out of nothing; driver name `sim`. For a first try of the program without any meter."""

import os
import threading
from dataclasses import dataclass

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting
from hal.ports import Taken


@dataclass(frozen=True, slots=True)
class SimSettings:
    """The table `[source]` with `driver = "sim"`."""

    interval_machine_ms: int = setting("a pulse every so many milliseconds; 0 for none", 1_000)


class SimulatedLine:
    """A line whose pulses are put there by the program itself."""

    latency_ns = 0
    capacity = 2**32  # of an eventfd's 64 bits

    def __init__(self, settings: SimSettings) -> None:
        if settings.interval_machine_ms < 0:
            raise ConfigurationError("interval_machine_ms is not negative")
        # An eventfd is a counter that polls readable: what is read is what was put since.
        self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if settings.interval_machine_ms:
            self._thread = threading.Thread(
                target=self._emit, args=(settings.interval_machine_ms / 1000,), daemon=True
            )
            self._thread.start()

    def put(self, pulses: int) -> None:
        """Gives pulses to whoever reads."""
        os.eventfd_write(self._counter, pulses)

    def fileno(self) -> int:
        return self._counter

    def take(self) -> Taken:
        try:
            return Taken(os.eventfd_read(self._counter))
        except BlockingIOError:
            return Taken(0)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        os.close(self._counter)

    def _emit(self, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            self.put(1)
