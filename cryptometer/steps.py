"""Market steps and moments. All time is UTC since the Unix epoch, in integers; no clock is read."""

from dataclasses import dataclass
from enum import StrEnum

MS_PER_S = 1000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

SYNCHRONISED_ERROR_MS = 1_000  # above it a clock is not "S": standards.md §7, both inside 9 s
FUTURE_STEPS = 4  # a clock an hour ahead may yet be mended; beyond it, a record need not be awaited
DOUBTFUL_ERROR_MS = 5_000  # above it what was timed is counted and marked


class ClockSource(StrEnum):
    """What told the time."""

    SYSTEM = "system"
    SCALED = "scaled"  # runs steps faster, for demos and tests
    SIMULATED = "simulated"


class ClockState(StrEnum):
    """How far the time can be relied on; letters as in OCMF."""

    UNKNOWN = "U"
    INFORMATIVE = "I"  # synchronised, but with an error bound above 1 s
    SYNCHRONISED = "S"
    RELATIVE = "R"  # carried on by the monotonic clock since an earlier synchronisation


@dataclass(frozen=True, slots=True)
class Instant:
    """One look at the clocks of a machine.

    Attributes:
        mono_ns: monotonic nanoseconds since an arbitrary start that lasts one boot; orders events.
        utc_ns: wall clock, nanoseconds since the Unix epoch, meaningful only as `state` says.
        error_ns: bound on the error of `utc_ns`.
        state: SYNCHRONISED or INFORMATIVE when a time source stands behind it, else UNKNOWN.
    """

    mono_ns: int
    utc_ns: int
    error_ns: int
    state: ClockState
    source: ClockSource


def step_of(utc_ms: int, step_s: int) -> int:
    """Index of the market step that holds `utc_ms`: floor(unix seconds / step length)."""
    return utc_ms // (step_s * MS_PER_S)


def step_start_ms(step: int, step_s: int) -> int:
    """When a step begins, in milliseconds since the Unix epoch. Its end is the next one's start."""
    return step * step_s * MS_PER_S


def state_of(error_ms: int) -> ClockState:
    """The state a synchronised clock with this error bound may claim."""
    return ClockState.SYNCHRONISED if error_ms <= SYNCHRONISED_ERROR_MS else ClockState.INFORMATIVE
