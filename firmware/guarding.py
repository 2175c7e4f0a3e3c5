"""Holds the card against a count that is kept apart from it, in an order that no death can break:
what the count becomes is noted durably before it does. What the numbers mean is in `rollback`.
"""

from collections.abc import Callable
from contextlib import suppress

from cryptometer.keys import KeyLost
from firmware.end import End
from firmware.events import Kept
from firmware.journal import Journal
from firmware.outbox import Outbox
from firmware.rollback import BEGUN, GUARD_NS, UNKNOWN, check_newest, is_unknown
from hal.faults import Point, passing
from hal.ports import Clock, Guard


class Guarding:
    """A device's guard, if it has one."""

    def __init__(
        self,
        guard: Guard | None,
        clock: Clock,
        journal: Journal,
        outbox: Outbox,
        on_kept: Callable[[End], None],
    ) -> None:
        """
        Args:
            on_kept: takes the end of the signed chain that the journal knows of durably.
        """
        self._guard = guard
        self._clock = clock
        self._journal = journal
        self._outbox = outbox
        self._on_kept = on_kept
        self._until_ns: int | None = None  # machine time; None before the first signature

    @property
    def waits_for_word(self) -> bool:
        """Whether a card without a note must not sign before the gateway has shown where."""
        return self._guard is not None and self._noted is None

    def look(self) -> None:
        """Before anything is written: whether the folders are an older copy.

        Raises:
            ConfigurationError: they are.
        """
        if self._guard is not None:
            with suppress(KeyLost):  # then before the first signature
                self._check_count(self._guard.read())

    def pass_by(self, stands_on_word: Callable[[], bool]) -> None:
        """Before the first signature, and then daily.

        Args:
            stands_on_word: whether the chain begins where the gateway's own goes on.

        Raises:
            ConfigurationError: the folders are an older copy.
            KeyLost: the guard is out of reach, or waits for a re-anchor.
        """
        guard = self._guard
        if guard is None:
            return
        now_ns = self._clock.machine_ns()
        if self._until_ns is not None and now_ns < self._until_ns:
            return
        count = guard.read()
        self._check_count(count)
        if is_unknown(self._noted, count) and not stands_on_word():
            raise KeyLost(UNKNOWN)
        if count is None:
            count = self._advance(guard, BEGUN)
        self._advance(guard, count + 1)
        self._until_ns = now_ns + GUARD_NS

    @property
    def _noted(self) -> int | None:
        return None if self._outbox.end is None else self._outbox.end.guarded

    def _check_count(self, count: int | None) -> None:
        end = self._outbox.end
        check_newest(self._noted, count, has_signed=end is not None and end.run_ms > 0)

    def _advance(self, guard: Guard, guarded: int) -> int:
        """Notes what the count becomes, then lets it; returns it. In the other order a death
        between the two would leave a card like an older copy."""
        self._journal.sync()  # as ever: what is signed must not outlive what it was made of
        self._outbox.note_guard(guarded)
        self._outbox.sync()
        end = self._outbox.durable
        if end is not None and self._journal.has_begun:
            self._journal.append([Kept(end)])
            self._journal.sync()
            self._on_kept(end)
        passing(Point.GUARD_NOTED)
        guard.advance()
        count = guard.read()
        if count is None:
            raise KeyLost("the TPM's counter does not count")
        return count
