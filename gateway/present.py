"""What a gateway takes for the present: a synchronised clock's word, unless it runs far ahead of
all that is known. No clock is read here.
"""

from collections.abc import Callable

from cryptometer.doubt import AHEAD_STEPS, CONFIRM_NS, WITH_A_SOURCE, Claim, doubt
from cryptometer.steps import MS_PER_S, NS_PER_MS, Instant, step_of

# A meter's newest record is its close of the step before, at the latest. Further apart, those of
# the present would vouch for a clock that is just too far ahead.
VOUCH_STEPS = 2


class Present:
    """The latest moment believed, carried on by the monotonic clock, and what is doubted."""

    def __init__(self, known_ms: int | None, step_s: int) -> None:
        """
        Args:
            known_ms: when the newest block was sealed, UTC; None while there is none.
        """
        # In nanoseconds: a gateway looks with each message, and a part of each would be lost.
        self._known_ns = None if known_ms is None else known_ms * NS_PER_MS
        self._mono_ns: int | None = None  # when it was `_known_ns`; None until the first look
        self._step_s = step_s
        self._claim: Claim | None = None

    @property
    def is_doubted(self) -> bool:
        """Whether the clock was not believed at the newest look."""
        return self._claim is not None

    def look(self, now: Instant, is_vouched: Callable[[range], bool]) -> None:
        """Takes a moment in; the arguments are those of `doubts`."""
        self._claim = self.doubts(now, is_vouched)
        known_ns = self._carried_ns(now)
        if self._claim is None and now.state in WITH_A_SOURCE:
            # A clock that is set back and comes right again is not doubted.
            known_ns = max(known_ns or 0, now.utc_ns)
        self._known_ns, self._mono_ns = known_ns, now.mono_ns

    def doubts(self, now: Instant, is_vouched: Callable[[range], bool]) -> Claim | None:
        """What the clock says and is not to be believed yet, None when there is nothing.

        Args:
            is_vouched: whether others, too, say that it is one of these steps.
        """
        ahead_ms = AHEAD_STEPS * self._step_s * MS_PER_S
        known_ns = self._carried_ns(now)
        known_ms = None if known_ns is None else known_ns // NS_PER_MS
        claim = doubt(known_ms, ahead_ms, CONFIRM_NS, self._claim, now)
        if claim is None:
            return None
        step = step_of(now.utc_ns // NS_PER_MS, self._step_s)
        return None if is_vouched(range(step - VOUCH_STEPS, step + VOUCH_STEPS + 1)) else claim

    def _carried_ns(self, now: Instant) -> int | None:
        if self._known_ns is None or self._mono_ns is None:
            return self._known_ns
        return self._known_ns + now.mono_ns - self._mono_ns
