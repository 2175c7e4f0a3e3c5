"""Dated readings of a meter's own index into reading records and step closes.

Of a step the last reading before its end is kept, and drafted once the step is over: with a close
if it is young enough to tell the step's energy, else not at all; what it missed comes with the
next one. Nothing is interpolated. Everything is in UTC milliseconds and in units of the
registered constant. No clock, no file, no key.
"""

from dataclasses import replace

from cryptometer.chain_records import Ending, Mark
from cryptometer.record_fields import ClockReading
from cryptometer.steps import step_of, step_start_ms
from firmware.drafts import CloseDraft, ReadingDraft
from firmware.lots import Limits, Lots, LotState, Signed, Terms


class Latch(Lots):
    """Reads one meter, in steps as `Lots` has them; the register is the index."""

    def __init__(self, state: LotState, terms: Terms, limits: Limits) -> None:
        super().__init__(state, terms, limits)
        self._read_ms = state.read_ms
        self._read_step = state.read_step

    def state(self) -> LotState:
        """A snapshot; `drafts` must be empty, since it holds none."""
        return replace(super().state(), read_ms=self._read_ms, read_step=self._read_step)

    def resume(self, signed: Signed) -> None:
        """Drops what is signed already; before journalled events are applied again."""
        super().resume(signed)
        if signed.read_step is not None:
            self._read_step = max(self._read_step or 0, signed.read_step)

    def begin_run(self, utc_ms: int, software: str, ending: Ending, clock: ClockReading) -> None:
        """The program began to watch at `utc_ms`. A chain begins with the first index it knows."""
        if self._is_unwritten and self._read_ms is None:
            self._first_run = (software, ending)
            return
        super().begin_run(utc_ms, software, ending, clock)

    def settle(self, *, is_index: bool) -> None:
        if is_index:
            # What the index has grown by since is read again, in the other unit.
            self._register = self._batch_from
        super().settle(is_index=is_index)
        self._read_ms = None

    def read(self, register: int, at_ms: int, clock: ClockReading) -> None:
        """The meter's index was `register` at `at_ms`."""
        if self._first_run is not None and not self._begins_with(register, at_ms, clock):
            return
        self._advance(at_ms, clock)
        if not self._reach(at_ms, 0, clock):
            return
        self._register = max(self._register, register)
        self._read_ms = at_ms
        self._date(clock)
        self._see(at_ms, clock)

    @property
    def read_ms(self) -> int | None:
        """When the newest index was read, UTC; None before the first, and in another unit."""
        return self._read_ms

    @property
    def told_ms(self) -> int | None:
        """Not before this the index was read that stands in the register; only where it is read
        again in another unit."""
        if self._read_ms is not None or self._read_step is None:
            return None
        return step_start_ms(self._read_step, self.terms.step_s)

    @property
    def missed_steps(self) -> range:
        """Steps that nobody read, between the newest reading that was drafted and the open step."""
        if self._step is None or self._read_step is None:
            return range(0)
        return range(self._read_step + 1, self._step)

    def recall(self, register: int, at_ms: int, clock: ClockReading) -> None:
        """The meter's own load profile says that its index was `register` at `at_ms`, the end of a
        step that nobody read. In order; what is told already, or does not fit, is not told."""
        step = step_of(at_ms, self.terms.step_s) - 1
        is_end = at_ms == step_start_ms(step + 1, self.terms.step_s)
        latch_ms = self.terms.at(step).latch_ms or 0
        if not is_end or step not in self.missed_steps or clock.error_ms > latch_ms:
            return
        if not self._batch_from <= register <= self._register:
            return
        self.notice(Mark.RECALLED, 1)
        told, before = self._told_step, self._read_step
        since = before if before is not None and before < step - 1 else None
        marks = self._take_marks(clock, 0)
        self._tell(ReadingDraft(self._batch_from, step, clock, marks, register, at_ms, since))
        marks = self._take_marks(clock, 0)
        self._tell(CloseDraft(self._closed_from, step, clock, marks, register, ()))
        self._batch_from = self._lot_from = self._closed_from = register
        self._read_step = step
        self._told_step = step if told is None else max(told, step)

    def _begins_with(self, register: int, at_ms: int, clock: ClockReading) -> bool:
        """Begins the chain with this index, or with the newest before the registration's first
        step: what came before that is nobody's."""
        first_ms = self.terms.first_ms
        if at_ms < first_ms or self._read_ms is None:
            self._register, self._read_ms = max(self._register, register), at_ms
        return at_ms >= first_ms and self._begin_held(register, at_ms, clock)

    def _begin_held(self, register: int, utc_ms: int, clock: ClockReading) -> bool:  # noqa: ARG002
        assert self._first_run is not None  # noqa: S101 - the callers' condition
        if utc_ms < self.terms.first_ms or self._read_ms is None:
            return False
        software, ending = self._first_run
        self._first_run = None
        self.begin_run(max(self.terms.first_ms, self._read_ms), software, ending, clock)
        return True

    @property
    def _is_unwritten(self) -> bool:
        return self._run_ms == self._signed_run_ms == 0

    def _close_lot(self, utc_ms: int) -> None:
        """An index has no lots."""

    def _cut(self, clock: ClockReading) -> None:
        """A run ends within a step: what it has read counts before the next one begins."""
        if self._step is not None and self._register > self._batch_from:
            self._tell_reading(self._step, clock)

    def _close_step(self, clock: ClockReading) -> None:
        step = self._step
        if step is None:
            return
        clock = self._widest(clock)
        latch_ms = self._acting.latch_ms or 0
        end_ms = step_start_ms(step + 1, self.terms.step_s)
        read_ms = self._read_ms
        if read_ms is None or end_ms - read_ms + clock.error_ms > latch_ms:
            # Too old to tell this step: the index is read again, and then says it all.
            self._register = self._batch_from
        else:
            self._tell_reading(step, clock)
            self._tell_compared(step, clock)
            marks = self._take_marks(clock, 0)
            watched = tuple(self._watched)
            self._tell(CloseDraft(self._closed_from, step, clock, marks, self._register, watched))
            self._closed_from = self._register
        self._step = None
        self._watched = []

    def _tell_reading(self, step: int, clock: ClockReading) -> None:
        assert self._read_ms is not None  # noqa: S101 - the callers' condition
        clock = self._widest(clock)
        start_ms = step_start_ms(step, self.terms.step_s)
        at_ms = start_ms + self._offset(self._read_ms)
        before = self._read_step
        since = before if before is not None and before < step - 1 else None
        marks = self._take_marks(clock, 0)
        self._tell(ReadingDraft(self._batch_from, step, clock, marks, self._register, at_ms, since))
        self._batch_from = self._lot_from = self._register
        self._read_step = step
