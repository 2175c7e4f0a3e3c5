"""When the next block is due, and what keeps it from being made. No clock is read here."""

from collections.abc import Callable

from cryptometer.authority_records import Genesis
from cryptometer.readable import utc
from cryptometer.steps import NS_PER_MS, ClockState, Instant, step_of, step_start_ms
from gateway.present import Present


class Due:
    """The moments that decide when a block is made, and from when on its punctuality counts."""

    def __init__(
        self,
        known_ms: int | None,
        genesis: Genesis,
        is_vouched: Callable[[range], bool],
        settle_ms: int,
        *,
        accept_unsynchronised: bool,
    ) -> None:
        """
        Args:
            known_ms: when the newest block was sealed, UTC; None while there is none.
            genesis: the community's, for its steps and its grace.
            is_vouched: whether meters, too, say that it is one of these steps.
            settle_ms: community time from the first moment at which a block could be made to that
                at which one is.
            accept_unsynchronised: make blocks without a synchronised clock.
        """
        self._present = Present(known_ms, genesis.step_s)
        self._genesis = genesis
        self._is_vouched = is_vouched
        self._settle_ms = settle_ms
        self._accept_unsynchronised = accept_unsynchronised
        self._listening = False
        self._may_seal_ms: int | None = None
        self._missed_step = 0
        self._last_close_ms = 0

    @property
    def is_in_doubt(self) -> bool:
        """Whether the clock is far ahead and not believed yet."""
        return self._present.is_doubted

    def listen(self) -> None:
        """The broker is heard from now on."""
        self._listening = True

    def why_not(self, now: Instant) -> str | None:
        """What keeps this gateway from sealing blocks at all, for people; None if nothing does.
        It stays the same for as long as the cause does."""
        if not self._listening:
            return "waiting for the broker before the first block"
        if now.state is not ClockState.SYNCHRONISED and not self._accept_unsynchronised:
            return (
                "the clock is not synchronised: no block is sealed. Start an NTP service (chrony,"
                " systemd-timesyncd), or set accept_unsynchronised, which every header then shows"
            )
        claim = self._present.doubts(now, self._is_vouched)
        if claim is not None:
            return (
                f"the clock says that it is much later than known ({utc(claim.utc_ns // NS_PER_MS)}"
                " when it began to): no block is sealed until half of the meters, their boards"
                " not off themselves meanwhile, date their records so too, or it has said so for"
                " an hour. If it is wrong, mend its time source; what came meanwhile is kept"
            )
        return None

    def at_ms(self, now: Instant, step: int, is_heard: Callable[[], bool]) -> int | None:
        """The UTC moment, ms, at which the block of a step is due; None while none can be made.

        Args:
            is_heard: whether every meter that is expected to has closed the step.
        """
        if self._may_seal_ms is None or self.why_not(now) is not None:
            return None
        end_ms = step_start_ms(step + 1, self._genesis.step_s)
        wait_ms = 0 if is_heard() else self._genesis.grace_ms
        return max(end_ms + wait_ms, self._may_seal_ms)

    def has_settled(self, now: Instant) -> bool:
        """Whether what the broker kept for us has come."""
        return self._may_seal_ms is not None and now.utc_ns // NS_PER_MS >= self._may_seal_ms

    def has_missed(self, step: int) -> bool:
        """Whether the step had ended before this gateway listened: it is caught up on."""
        return step <= self._missed_step

    def closed(self, at_ms: int) -> None:
        """A close of the step that the next block is of has come, at a UTC moment."""
        self._last_close_ms = at_ms

    def sealed(self, step: int) -> int:
        """The block of a step is made; returns the later of the step's end and the last close
        that came, UTC ms."""
        since_ms = max(step_start_ms(step + 1, self._genesis.step_s), self._last_close_ms)
        self._last_close_ms = 0
        return since_ms

    def look(self, now: Instant) -> None:
        """Takes a moment in."""
        was_doubted = self._present.is_doubted
        self._present.look(now, self._is_vouched)
        if was_doubted or self._present.is_doubted:
            # What was not sealed meanwhile is caught up on, and nothing is measured by that clock.
            self._may_seal_ms = None
            self._last_close_ms = 0
        self._begin_sealing(now)

    def _begin_sealing(self, now: Instant) -> None:
        """From the first moment at which we hear the broker and know the time."""
        if self._may_seal_ms is not None or self.why_not(now) is not None:
            return
        now_ms = now.utc_ns // NS_PER_MS
        self._may_seal_ms = now_ms + max(self._settle_ms, self._genesis.grace_ms)
        # Steps that ended before we listened are caught up on.
        self._missed_step = step_of(now_ms, self._genesis.step_s) - 1
