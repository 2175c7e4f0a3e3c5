"""From the monotonic clock to UTC, with a bound on the error. No clock is read here.

Pulses are ordered by monotonic time. UTC is that time plus an offset, adopted only from a
synchronised clock; between adoptions the bound grows as fast as a board's crystal may drift.
"""

from dataclasses import dataclass

from cryptometer.doubt import DRIFT_PPM, WITH_A_SOURCE
from cryptometer.record_fields import ClockReading
from cryptometer.steps import (
    DOUBTFUL_ERROR_MS,
    NS_PER_MS,
    SYNCHRONISED_ERROR_MS,
    ClockSource,
    ClockState,
    Instant,
    state_of,
)
from cryptometer.wire import Choice, Uint, wire

ADOPT_NS = 10 * NS_PER_MS  # a smaller correction is left to the next; lots are closed to 1 ms


@dataclass(frozen=True, slots=True)
class Dating:
    """How monotonic time of one boot maps to UTC, from `mono_ns` on.

    Attributes:
        utc_ns: UTC at `mono_ns`.
        error_ns: bound on its error at `mono_ns`; it grows by DRIFT_PPM from there.
        held: adopted earlier and carried on, because no synchronised clock confirms it now.
    """

    mono_ns: int = wire(0, Uint())
    utc_ns: int = wire(1, Uint())
    error_ns: int = wire(2, Uint())
    source: ClockSource = wire(3, Choice(ClockSource))
    held: int = wire(4, Uint(0, 1))

    def utc_ms(self, mono_ns: int) -> int:
        """UTC in ms since the Unix epoch at a monotonic time, before or after the adoption."""
        return (self.utc_ns + mono_ns - self.mono_ns) // NS_PER_MS

    def mono_at(self, utc_ms: int) -> int:
        """The monotonic time at which UTC reaches `utc_ms`."""
        return utc_ms * NS_PER_MS - self.utc_ns + self.mono_ns

    def error_ms(self, mono_ns: int) -> int:
        """Bound on the error of `utc_ms`, rounded up to whole milliseconds."""
        drift = abs(mono_ns - self.mono_ns) * DRIFT_PPM // 1_000_000
        return -(-(self.error_ns + drift) // NS_PER_MS)

    def reading(self, mono_ns: int) -> ClockReading:
        """What a record says of its clock."""
        error_ms = self.error_ms(mono_ns)
        state = ClockState.RELATIVE if self.held else state_of(error_ms)
        if self.held and error_ms <= SYNCHRONISED_ERROR_MS:
            state = ClockState.SYNCHRONISED  # the bound decides, not whether NTP answers now
        return ClockReading(self.source, state, error_ms)


def clock_of(source: ClockSource, error_ms: int) -> ClockReading:
    """What a record says of a time that another clock told, with this bound on its error."""
    return ClockReading(source, state_of(error_ms), error_ms)


def adopt(current: Dating | None, instant: Instant) -> Dating | None:
    """The dating to use from now on, or None when the current one stays.

    A wall-clock change is believed only from a synchronised state. Without one, the current
    dating is carried on and its bound grows.
    """
    if instant.state not in WITH_A_SOURCE:
        if current is None or current.held:
            return None
        return Dating(
            instant.mono_ns,
            current.utc_ns + instant.mono_ns - current.mono_ns,
            current.error_ms(instant.mono_ns) * NS_PER_MS,
            current.source,
            held=1,
        )
    fresh = Dating(instant.mono_ns, instant.utc_ns, instant.error_ns, instant.source, held=0)
    if current is None or current.held:
        return fresh
    carried_ns = current.utc_ns + instant.mono_ns - current.mono_ns
    carried_error_ms = current.error_ms(instant.mono_ns)
    error_ms = fresh.error_ms(instant.mono_ns)
    moved = abs(instant.utc_ns - carried_ns) > ADOPT_NS
    # Bounds are journalled when they matter: on crossing a limit, or when twice as tight or wide.
    crossed = any(
        (error_ms > limit) != (carried_error_ms > limit)
        for limit in (SYNCHRONISED_ERROR_MS, DOUBTFUL_ERROR_MS)
    )
    changed = carried_error_ms > 2 * error_ms + 1 or error_ms > 2 * carried_error_ms + 1
    return fresh if moved or crossed or changed else None
