"""Which time a device believes. A synchronised clock may have been led wrong: a time that is much
later than known is not believed at once.
"""

from dataclasses import replace

from cryptometer.doubt import AHEAD_STEPS, BOOT_CONFIRM_NS, CONFIRM_NS, Claim, doubt
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState, Instant
from firmware.counter import Counter
from firmware.events import Dated, Event
from firmware.saying import Log
from firmware.timekeeping import adopt


class Believing:
    """Dates a counter's monotonic time."""

    def __init__(self, counter: Counter, step_ms: int, log: Log) -> None:
        """`step_ms`: length of a market step; 0 while nobody has said it."""
        self._counter = counter
        self._ahead_ms = AHEAD_STEPS * step_ms
        self._log = log
        self._claim: Claim | None = None  # a time far ahead that is not believed yet

    @property
    def is_doubting(self) -> bool:
        """Whether the clock is far ahead and not believed yet."""
        return self._claim is not None

    def date(self, now: Instant) -> list[Event]:
        """The dating that this moment gives, if it is another: to be journalled in this boot."""
        counter, before = self._counter, self._claim
        known_ms = counter.known_ms(now.mono_ns)
        confirm_ns = BOOT_CONFIRM_NS if counter.dating is None else CONFIRM_NS
        self._claim = doubt(known_ms, self._ahead_ms, confirm_ns, before, now)
        if self._claim is not None:
            if before is None:
                self._log(
                    "the clock says that it is much later than known; it is believed once it has"
                    f" said so for {confirm_ns // NS_PER_S // 60} minutes:"
                    f" utc_ms={now.utc_ns // NS_PER_MS} known_ms={known_ms}"
                )
            now = replace(now, state=ClockState.UNKNOWN)
        dating = adopt(counter.dating, now)
        return [] if dating is None else [Dated(dating)]
