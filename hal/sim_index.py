"""An index out of nothing; driver name `sim-index`. For a first try of the program without any
meter that speaks.

The index follows from the machine's time alone: a program that starts anew finds it where it is.
"""

import os
import time
from dataclasses import dataclass

from cryptometer.errors import ConfigurationError
from cryptometer.metrology import SECONDS_PER_HOUR
from cryptometer.settings import setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.reading import UWH_EXPONENT, Index, Reading, Remembering
from hal.ports import Heard

_EXPONENT_MAX = 3
_UWH_PER_WH = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class SimIndexSettings:
    """The table `[source]` with `driver = "sim-index"`."""

    watts: int = setting("what flows, W; below 0 it is given to the grid", 1_000)
    start_wh: int = setting("what both registers stood at when the machine was started, Wh", 0)
    period_machine_ms: int = setting("how often the meter says its index", 1_000)
    number: str = setting("the meter's own", "SIM0001")
    exponent: int = setting("of ten, in Wh, of the index's last digit: -6 to 3", 0)


class SimulatedIndex:
    """A meter whose index grows with the machine's time."""

    memory: Remembering | None = None

    def __init__(self, settings: SimIndexSettings) -> None:
        """
        Raises:
            ConfigurationError: no meter is like that.
        """
        if settings.period_machine_ms < 1:
            raise ConfigurationError("[source] period_machine_ms is at least 1")
        if settings.start_wh < 0:
            raise ConfigurationError("[source] start_wh is not negative")
        if not UWH_EXPONENT <= settings.exponent <= _EXPONENT_MAX:
            raise ConfigurationError(
                f"[source] exponent is from {UWH_EXPONENT} to {_EXPONENT_MAX},"
                f" not {settings.exponent}"
            )
        self._settings = settings
        self._period_ns = settings.period_machine_ms * NS_PER_MS
        # It never polls readable: the time alone brings something.
        self._silent = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.due_ns: int | None = time.monotonic_ns()

    def fileno(self) -> int:
        return self._silent

    def take(self) -> Heard:
        now_ns = time.monotonic_ns()
        if self.due_ns is None or now_ns < self.due_ns:
            return Heard(())
        missed = (now_ns - self.due_ns) // self._period_ns
        self.due_ns += (missed + 1) * self._period_ns
        return Heard((self._say(now_ns),))

    def close(self) -> None:
        os.close(self._silent)

    def _say(self, now_ns: int) -> Reading:
        watts = self._settings.watts
        grown_uwh = abs(watts) * now_ns * _UWH_PER_WH // (NS_PER_S * SECONDS_PER_HOUR)
        imported, exported = (
            self._index(grown_uwh if flows else 0) for flows in (watts > 0, watts < 0)
        )
        return Reading(self._settings.number, imported, exported, now_ns, now_ns)

    def _index(self, grown_uwh: int) -> Index:
        unit = Index(1, self._settings.exponent)
        whole_uwh = self._settings.start_wh * _UWH_PER_WH + grown_uwh
        return Index(whole_uwh // unit.unit_uwh, unit.exponent)
