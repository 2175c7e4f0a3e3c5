"""Whether a clock that runs far ahead is believed. No clock is read here.

A synchronised clock may still be wrong, by years where its source has gone wrong, and neither a
chain nor a ledger that has followed it can come back by itself. So what runs far ahead of all that
is known is believed only once it has been said for a while.
"""

from dataclasses import dataclass

from cryptometer.steps import FUTURE_STEPS, NS_PER_MS, NS_PER_S, ClockState, Instant

DRIFT_PPM = 500  # the kernel's own assumption for maxerror; a Pi's crystal stays below 100
STEPPED_MS = 1_000  # a larger jump than any slew makes is declared
AHEAD_STEPS = FUTURE_STEPS  # so far ahead a record waits at the gateway, and counts in the end
CONFIRM_NS = 3600 * NS_PER_S  # a daemon with several sources outvotes a wrong one within minutes
# In a boot that has believed no time yet: there the right time, too, is far ahead, as long as the
# power was off. Nine times a daemon's first interval of 64 s between two questions.
BOOT_CONFIRM_NS = 600 * NS_PER_S
WITH_A_SOURCE = (ClockState.SYNCHRONISED, ClockState.INFORMATIVE)


@dataclass(frozen=True, slots=True)
class Claim:
    """A synchronised clock's word that it is much later than anybody knew; since when it says so.

    Attributes:
        mono_ns, utc_ns: the first such moment.
    """

    mono_ns: int
    utc_ns: int

    def is_confirmed_by(self, instant: Instant, confirm_ns: int) -> bool:
        """Whether the clock has said so for long enough."""
        return instant.mono_ns - self.mono_ns >= confirm_ns

    def is_repeated_by(self, instant: Instant) -> bool:
        """Whether the clock has gone on evenly since."""
        passed_ns, mono_ns = instant.utc_ns - self.utc_ns, instant.mono_ns - self.mono_ns
        drift_ns = mono_ns * DRIFT_PPM // 1_000_000
        return abs(passed_ns - mono_ns) <= STEPPED_MS * NS_PER_MS + drift_ns


def doubt(
    known_ms: int | None, ahead_ms: int, confirm_ns: int, claim: Claim | None, instant: Instant
) -> Claim | None:
    """The claim that an instant makes and that is not to be believed yet; None when there is none.

    Args:
        known_ms: the latest it can be by what is believed, UTC; None while nothing is known.
        ahead_ms: how far ahead of it a clock is believed at once.
        confirm_ns: for how long it must have said so to be believed farther ahead.
        claim: the one that stood at the moment before.
    """
    if instant.state not in WITH_A_SOURCE or known_ms is None:
        return None
    if instant.utc_ns // NS_PER_MS <= known_ms + ahead_ms:
        return None
    if claim is None or not claim.is_repeated_by(instant):
        claim = Claim(instant.mono_ns, instant.utc_ns)
    return None if claim.is_confirmed_by(instant, confirm_ns) else claim
