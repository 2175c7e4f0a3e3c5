"""Dated pulses into lots, batches and step closes: DESIGN's promise B lives here.

Everything is in UTC milliseconds and in the counter's own registers. No clock, no file, no key.
"""

from collections import Counter as Amounts
from dataclasses import dataclass, replace

from cryptometer.chain_records import LOTS_MAX, MARKS_MAX, WATCHED_MAX, Ending, Mark
from cryptometer.record_fields import LABEL, MS, REGISTER, STEP, ClockReading
from cryptometer.steps import (
    DOUBTFUL_ERROR_MS,
    FUTURE_STEPS,
    MS_PER_S,
    NS_PER_MS,
    SYNCHRONISED_ERROR_MS,
    ClockState,
    step_of,
    step_start_ms,
)
from cryptometer.wire import Choice, Flag, Flat, Many, Row, wire, wire_optional
from firmware.drafts import BatchDraft, CloseDraft, ComparedDraft, Comparison, Draft, RunDraft

COMPARED_KEPT = 2  # comparisons that wait: the newest of the open step, and of the next one
BURST_FACTOR = 2  # how much faster than at I_max pulses come before they are declared a burst


@dataclass(frozen=True, slots=True)
class Terms:
    """What a registration says about counting.

    Attributes:
        step_s: length of a market step, seconds.
        lot_pulses: V in pulses.
        first_ms: start of the first step the registration covers, ms since the Unix epoch.
        pulse_ns: least time between two pulses, at I_max.
        coarse: one pulse alone reaches the bound: every record is marked.
        latch_ms: where an index is read: how old a reading may be at a step's end, the clock's
            error included; None where pulses are counted.
        later: what registrations after it say, the newest last; each acts from its own first step
            on.
    """

    step_s: int
    lot_pulses: int
    first_ms: int
    pulse_ns: int
    coarse: bool
    latch_ms: int | None = None
    later: tuple["Terms", ...] = ()

    @property
    def step_ms(self) -> int:
        return self.step_s * MS_PER_S

    def at(self, step: int) -> "Terms":
        """What acts in a step: the newest that covers it."""
        start_ms = step_start_ms(step, self.step_s)
        return next((one for one in reversed(self.later) if one.first_ms <= start_ms), self)


@dataclass(slots=True)
class Limits:
    """When a batch is cut. Changed while running: in isolation batches stretch to a step.

    Attributes:
        lots: number of lots in a batch.
        delay_ms: community time after a batch's first lot was closed.
        oversize: the last resort of a full disk: no lot is closed before its step ends.
    """

    lots: int
    delay_ms: int
    oversize: bool = False


@dataclass(frozen=True, slots=True)
class LotState:
    """Where the counting of lots stands; part of a journal's snapshot.

    Attributes:
        register: pulses counted, those of the open lot included.
        lot_from: register at which the open lot began.
        batch_from: register at which the first lot not yet in a batch began.
        closed_from: register at the newest close.
        next_step: the earliest step that may still be opened: steps only advance.
        run_ms: when the newest run began; 0 before the chain's first.
        lots: flat pairs of pulses and closing time (ms since the step began), not yet in a batch.
        lots_ms: when the first of them was closed.
        watched: flat pairs, intervals of the open step, ms since it began.
        watching: whether a run is on.
        step: the open step.
        seen_ms: the newest moment up to which the line was watched.
        told_step: the step of the newest draft.
        back_step: the step in which the chain goes on after it was led into the far future, until
            a run start there says so.
        clock: the one with the greatest error that has dated anything in the open step.
        held_software, held_ending: of a run that began before the registration's first step: the
            chain begins with it once that step has come.
        read_ms: of an index, when it was read.
        read_step: of an index, the step of the newest reading that was drafted.
        compared: what another source said, not told yet, in order of time.
        compared_step: the newest step of which it was told.
    """

    register: int = wire(0, REGISTER)
    lot_from: int = wire(1, REGISTER)
    batch_from: int = wire(2, REGISTER)
    closed_from: int = wire(3, REGISTER)
    next_step: int = wire(4, STEP)
    run_ms: int = wire(5, MS)
    lots: tuple[int, ...] = wire(6, Flat(2, LOTS_MAX))
    lots_ms: int = wire(7, MS)
    watched: tuple[int, ...] = wire(8, Flat(2, WATCHED_MAX))
    watching: bool = wire(9, Flag())
    marks: tuple[int, ...] = wire(10, Flat(2, MARKS_MAX))
    step: int | None = wire_optional(11, STEP)
    seen_ms: int | None = wire_optional(12, MS)
    held_software: str | None = wire_optional(13, LABEL)
    held_ending: Ending | None = wire_optional(14, Choice(Ending))
    told_step: int | None = wire_optional(15, STEP)
    back_step: int | None = wire_optional(16, STEP)
    clock: ClockReading | None = wire_optional(17, Row(ClockReading))
    read_ms: int | None = wire_optional(18, MS)
    read_step: int | None = wire_optional(19, STEP)
    compared: tuple[Comparison, ...] | None = wire_optional(
        20, Many(Row(Comparison), 1, COMPARED_KEPT)
    )
    compared_step: int | None = wire_optional(21, STEP)


BLANK = LotState(0, 0, 0, 0, 0, 0, (), 0, (), watching=False, marks=())


@dataclass(frozen=True, slots=True)
class Signed:
    """What the signed records say; it outweighs what would be drafted a second time.

    Attributes:
        register: at the end of the newest record.
        closed_step: the newest step closed, or None.
        closed_from: the register at that close, or at the chain's start.
        run_ms: when the newest signed run began.
        step: of the newest record, or None.
        read_step: of the newest reading of an index, or None.
        compared_step: of the newest that was only compared, or None.
    """

    register: int
    closed_step: int | None
    closed_from: int
    run_ms: int
    step: int | None = None
    read_step: int | None = None
    compared_step: int | None = None


class Lots:
    """Counts one meter. `drafts` fills in the order of the meter's chain; the caller empties it."""

    def __init__(self, state: LotState, terms: Terms, limits: Limits) -> None:
        self.terms = terms
        self.limits = limits
        self.drafts: list[Draft] = []
        self._register = state.register
        self._lot_from = state.lot_from
        self._batch_from = state.batch_from
        self._closed_from = state.closed_from
        self._next_step = state.next_step
        self._run_ms = state.run_ms
        self._lots = list(state.lots)
        self._lots_ms = state.lots_ms
        self._watched = list(state.watched)
        self._watching = state.watching
        self._marks: Amounts[int] = Amounts()
        for mark, amount in zip(state.marks[::2], state.marks[1::2], strict=True):
            self._marks[mark] += amount
        self._step = state.step
        self._seen_ms = state.seen_ms
        self._first_run: tuple[str, Ending] | None = None
        if state.held_software is not None and state.held_ending is not None:
            self._first_run = (state.held_software, state.held_ending)
        self._signed_run_ms = 0
        self._told_step = state.told_step
        self._back_step = state.back_step
        self._clock = state.clock
        self._compared = list(state.compared or ())
        self._compared_step = state.compared_step

    @property
    def seen_ms(self) -> int | None:
        """The newest moment up to which the line was watched."""
        return self._seen_ms

    @property
    def register(self) -> int:
        """Pulses counted, those of the open lot included."""
        return self._register

    @property
    def _acting(self) -> Terms:
        """The terms of the open step."""
        return self.terms.at(self._step or 0)

    def state(self) -> LotState:
        """A snapshot; `drafts` must be empty, since it holds none."""
        software, ending = self._first_run or (None, None)
        return LotState(
            self._register,
            self._lot_from,
            self._batch_from,
            self._closed_from,
            self._next_step,
            self._run_ms,
            tuple(self._lots),
            self._lots_ms,
            tuple(self._watched),
            self._watching,
            tuple(part for pair in sorted(self._marks.items()) for part in pair),
            self._step,
            self._seen_ms,
            software,
            ending,
            self._told_step,
            self._back_step,
            self._clock,
            compared=tuple(self._compared) or None,
            compared_step=self._compared_step,
        )

    def resume(self, signed: Signed) -> None:
        """Drops what is signed already; before journalled events are applied again."""
        while self._lots and self._batch_from < signed.register:
            self._batch_from += self._lots[0]
            del self._lots[:2]
        self._batch_from = max(self._batch_from, signed.register)
        self._lot_from = max(self._lot_from, signed.register)
        self._register = max(self._register, signed.register)
        self._closed_from = max(self._closed_from, signed.closed_from)
        back, step = self._back_step, signed.step
        if back is not None and step is not None and step > back + FUTURE_STEPS:
            return  # what is signed speaks of the far future still, and the chain has come back
        if signed.closed_step is not None:
            self._next_step = max(self._next_step, signed.closed_step + 1)
            if self._step is not None and self._step <= signed.closed_step:
                self._step = None
                self._watched = []
        self._signed_run_ms = signed.run_ms
        if signed.step is not None:
            self._told_step = signed.step
        if signed.compared_step is not None:
            self._compared_step = signed.compared_step

    def caught_up(self) -> None:
        """All journalled events were applied again: a run that begins now is a new one, even if
        the clock stands before the newest signed one."""
        self._run_ms = max(self._run_ms, self._signed_run_ms)

    def step_end_ms(self) -> int | None:
        """When the open step ends; None while none is open."""
        return None if self._step is None else step_start_ms(self._step + 1, self.terms.step_s)

    def next_due_ms(self) -> int | None:
        """When something must be drafted even if no pulse comes: a batch, or the step's close."""
        end_ms = self.step_end_ms()
        if end_ms is None or not self._lots:
            return end_ms
        return min(end_ms, self._lots_ms + self.limits.delay_ms)

    def notice(self, mark: Mark | int, amount: int) -> None:
        """Declares something in the next record."""
        if amount:
            self._marks[int(mark)] += amount

    def begin_run(self, utc_ms: int, software: str, ending: Ending, clock: ClockReading) -> None:
        """The program began to watch at `utc_ms`."""
        if self._run_ms == self._signed_run_ms == 0 and utc_ms < self.terms.first_ms:
            # Before the registration's first step nothing is signed; the chain begins with it.
            self._first_run = (software, ending)
            return
        self._first_run = None
        earliest = max(self._run_ms + 1, self._seen_ms or 0)
        if utc_ms < earliest - MS_PER_S:
            self.notice(Mark.CLOCK_STEPPED, earliest - utc_ms)
        at_ms = max(utc_ms, earliest)
        if self._run_ms == 0 and self._signed_run_ms == 0:
            self._batch_from = self._lot_from = self._closed_from = self._register
        self._watching = False
        self._advance(at_ms, clock)
        # The open lot ends here, so that the run start's register is the chain's.
        self._close_lot(at_ms)
        self._cut(clock)
        is_signed = at_ms <= self._signed_run_ms
        closed_ms = step_start_ms(self._next_step, self.terms.step_s)
        if is_signed and self._step is None and at_ms < closed_ms:
            # Met again after a crash, and its step is signed as closed: no later one begins here.
            self._run_ms = self._seen_ms = at_ms
            self._watching = True
            return
        step = self._open(at_ms)
        # After a crash the journal is applied again: what is signed is not signed twice.
        if not is_signed:
            told = _off_by(clock, at_ms - utc_ms)
            marks = self._take_marks(told, 0)
            unwatched = self._seen_ms
            self._tell(
                RunDraft(self._register, step, told, marks, at_ms, software, ending, unwatched)
            )
        self._run_ms = at_ms
        self._watching = True
        self._watch_from(at_ms, clock)

    def settle(self, *, is_index: bool) -> None:  # noqa: ARG002 - an index has a use for it
        """Another unit begins: what was counted in this one is told.

        Args:
            is_index: whether the next unit is another one of the meter's index.
        """
        if self._step is not None and self._clock is not None:
            self._close_lot(self._seen_ms or 0)
            self._cut(self._clock)
        self._watching = False

    def end_run(self) -> None:
        """The program stopped watching."""
        self._watching = False

    def count(
        self, register: int, from_ms: int, to_ms: int, clock: ClockReading, *, waited: bool = False
    ) -> None:
        """Counts pulses up to `register`, captured after `from_ms` and not after `to_ms`; they
        `waited` if that was before the run began."""
        if self._first_run is not None and not self._begin_held(register, to_ms, clock):
            return
        self._advance(to_ms, clock)
        pulses = max(0, register - self._register)
        if not self._reach(to_ms, pulses, clock):
            return
        self._date(clock)
        if pulses and from_ms < step_start_ms(self._step or 0, self.terms.step_s):
            self.notice(Mark.STRADDLE, pulses)
        shortest_ns = (pulses - 1) * self._acting.pulse_ns
        if pulses and (waited or shortest_ns > BURST_FACTOR * (to_ms - from_ms) * NS_PER_MS):
            self.notice(Mark.BURST, pulses)
        while self._register < register:
            room = register - self._register
            if not self.limits.oversize:
                room = min(room, self._acting.lot_pulses - (self._register - self._lot_from))
            self._register += max(room, 1)
            if self._is_full():
                self._close_lot(to_ms)
                if len(self._lots) // 2 >= self.limits.lots:
                    self._cut(clock)
        self._see(to_ms, clock)

    def read(self, register: int, at_ms: int, clock: ClockReading) -> None:
        """A journalled reading of an index, now that the meter's pulses are registered: it says
        nothing of those."""

    def compare(self, comparison: Comparison) -> None:
        """Another source said its index. It moves nothing: of each step the newest is told."""
        kept = self._compared
        step = step_of(comparison.at_ms, self.terms.step_s)
        while kept and step_of(kept[-1].at_ms, self.terms.step_s) >= step:
            del kept[-1]
        self._compared = [*kept, comparison][-COMPARED_KEPT:]

    def watch(self, until_ms: int, clock: ClockReading) -> None:
        """Every pulse given before `until_ms` has been counted."""
        if self._first_run is not None and not self._begin_held(self._register, until_ms, clock):
            return
        self._advance(until_ms, clock)
        if self._reach(until_ms, 0, clock):
            self._see(until_ms, clock)

    def pass_by(self, utc_ms: int, clock: ClockReading) -> None:
        """Time went on while nobody watched: what was counted before need not wait for the line."""
        # A killed run has said no word of its end, and the line may be gone at the next start.
        self._watching = False
        self._advance(utc_ms, clock)
        self._cut_when_due(utc_ms, clock)

    def leap(self, utc_ms: int, clock: ClockReading) -> None:
        """The clock was set forward to `utc_ms`: of the time between nobody can say that he
        watched."""
        if self._step is None or not self._watching:
            return
        if utc_ms >= step_start_ms(self._step + 1, self.terms.step_s):
            self._close_step(clock)
            self._open(utc_ms)
        self._watch_from(utc_ms, clock)

    def put_back(self, utc_ms: int) -> None:
        """The clock was set back to `utc_ms`: the open step goes with it as long as nothing of it
        is signed. What is signed stays: steps only advance."""
        if self._step is None or (self._told_step is not None and self._told_step >= self._step):
            return
        earliest = 0 if self._told_step is None else self._told_step + 1
        step = max(step_of(utc_ms, self.terms.step_s), earliest)
        if step < self._step:
            self._reopen(step, utc_ms)

    def is_far_ahead(self, utc_ms: int) -> bool:
        """Whether the chain can go on only in steps that a gateway sets aside at `utc_ms`."""
        open_step = self._next_step if self._step is None else self._step
        return open_step > step_of(utc_ms, self.terms.step_s) + FUTURE_STEPS

    def come_back(self, utc_ms: int) -> None:
        """The authority has the chain go on at `utc_ms`: where a wrong clock had led it so far
        ahead that nobody has counted those steps, they are begun anew from the present."""
        if not self.is_far_ahead(utc_ms):
            return
        self._told_step = self._compared_step = None
        self._signed_run_ms = 0
        self._run_ms = min(self._run_ms, utc_ms)
        self._back_step = step_of(utc_ms, self.terms.step_s)
        self._reopen(self._back_step, utc_ms)

    def _reopen(self, step: int, utc_ms: int) -> None:
        """Has the open step, with what is not signed of it, be another."""
        self._seen_ms = min(utc_ms, self._seen_ms or 0)
        if self._step is None:
            self._next_step = step
            return
        self._step, self._next_step = step, step + 1
        self._lots[1::2] = [self._offset(utc_ms)] * (len(self._lots) // 2)
        self._lots_ms = min(self._lots_ms, utc_ms)
        self._watched = []
        if self._watching:
            self._watch_from(utc_ms)

    def _reach(self, utc_ms: int, pulses: int, clock: ClockReading) -> bool:
        """Sees to it that a step is open; False for a moment whose step is signed as closed, met
        again while the journal is applied after a crash."""
        if self._step is not None:
            return True
        start_ms = step_start_ms(self._next_step, self.terms.step_s)
        if utc_ms < start_ms and not pulses:
            self._seen_ms = max(utc_ms, self._seen_ms or 0)
            return False
        begin_ms = step_start_ms(self._open(utc_ms), self.terms.step_s)
        watched_before = (self._seen_ms or 0) >= begin_ms - self.terms.step_ms
        self._watch_from(begin_ms if watched_before else utc_ms, clock)
        return True

    def _begin_held(self, register: int, utc_ms: int, clock: ClockReading) -> bool:
        """Begins the chain once the registration's first step has come."""
        assert self._first_run is not None  # noqa: S101 - the callers' condition
        if utc_ms < self.terms.first_ms:
            self._register = max(self._register, register)
            return False
        software, ending = self._first_run
        self._first_run = None
        self.begin_run(self.terms.first_ms, software, ending, clock)
        return True

    def _is_full(self) -> bool:
        pulses = self._register - self._lot_from
        return not self.limits.oversize and pulses >= self._acting.lot_pulses

    def _see(self, utc_ms: int, clock: ClockReading) -> None:
        if self._watching and utc_ms > (self._seen_ms or 0):
            self._seen_ms = utc_ms
            self._watched[-1] = max(self._watched[-1], self._offset(utc_ms))
            self._date(clock)
        self._cut_when_due(utc_ms, clock)

    def _cut_when_due(self, utc_ms: int, clock: ClockReading) -> None:
        # After a backward jump lots need not wait until the clock comes by again.
        self._lots_ms = min(self._lots_ms, utc_ms)
        if self._lots and utc_ms >= self._lots_ms + self.limits.delay_ms:
            self._cut(clock)

    def _advance(self, utc_ms: int, clock: ClockReading) -> None:
        """Closes the open step once `utc_ms` is past it."""
        if self._step is None:
            return
        end_ms = step_start_ms(self._step + 1, self.terms.step_s)
        if utc_ms < end_ms:
            return
        # Across one boundary the line was watched; when whole steps have passed in between (a
        # suspended board, a clock set forward), nobody can say so, and they get no close.
        throughout = self._watching and utc_ms - end_ms < self.terms.step_ms
        if throughout:
            self._watched[-1] = self.terms.step_ms
            self._seen_ms = max(end_ms, self._seen_ms or 0)
            self._date(clock)
        self._close_step(clock)
        if throughout:
            self._open(end_ms)
            self._watch_from(end_ms, clock)
        elif self._watching:
            self._open(utc_ms)
            self._watch_from(utc_ms, clock)

    def _open(self, utc_ms: int) -> int:
        """The open step; opens the one of `utc_ms`, or a later one: steps only advance."""
        if self._step is None:
            self._step = max(step_of(utc_ms, self.terms.step_s), self._next_step)
            self._next_step = self._step + 1
            self._watched = []
            self._clock = None
        return self._step

    def _date(self, clock: ClockReading) -> None:
        """Notes by which clock a time in the open step was told."""
        self._clock = self._widest(clock)

    def _widest(self, clock: ClockReading) -> ClockReading:
        """The clock whose error bounds all that is told of the open step."""
        known = self._clock
        return clock if known is None or known.error_ms <= clock.error_ms else known

    def _watch_from(self, utc_ms: int, clock: ClockReading | None = None) -> None:
        if clock is not None:
            self._date(clock)
        if len(self._watched) >= 2 * WATCHED_MAX:
            # Too many restarts in one step: the shortest interval is not claimed as watched.
            lengths = [
                (self._watched[at + 1] - self._watched[at], at)
                for at in range(0, len(self._watched), 2)
            ]
            shortest = min(lengths)[1]
            del self._watched[shortest : shortest + 2]
        offset = self._offset(utc_ms)
        self._watched += [offset, offset]
        self._seen_ms = max(utc_ms, self._seen_ms or 0)

    def _offset(self, utc_ms: int) -> int:
        """Milliseconds since the open step began; a clock that was set back can not leave it."""
        start_ms = step_start_ms(self._step or 0, self.terms.step_s)
        return min(max(utc_ms - start_ms, 0), self.terms.step_ms)

    def _close_lot(self, utc_ms: int) -> None:
        pulses = self._register - self._lot_from
        if not pulses:
            return
        if not self._lots:
            self._lots_ms = utc_ms
            self._batch_from = self._lot_from
        if pulses > self._acting.lot_pulses:
            self.notice(Mark.OVERSIZE, pulses)
        earlier = self._lots[-1] if self._lots else 0
        self._lots += [pulses, max(earlier, self._offset(utc_ms))]
        self._lot_from = self._register

    def _cut(self, clock: ClockReading) -> None:
        """Makes a batch of the closed lots."""
        if not self._lots or self._step is None:
            return
        lots = tuple(self._lots)
        clock = self._widest(clock)
        marks = self._take_marks(clock, sum(lots[::2]))
        self._tell(BatchDraft(self._batch_from, self._step, clock, marks, lots))
        self._lots = []
        self._batch_from = self._lot_from

    def _close_step(self, clock: ClockReading) -> None:
        if self._step is None:
            return
        self._close_lot(step_start_ms(self._step + 1, self.terms.step_s))
        self._cut(clock)
        clock = self._widest(clock)
        self._tell_compared(self._step, clock)
        self._tell(
            CloseDraft(
                self._closed_from,
                self._step,
                clock,
                self._take_marks(clock, 0),
                self._register,
                tuple(self._watched),
            )
        )
        self._closed_from = self._register
        self._step = None
        self._watched = []

    def _tell_compared(self, step: int, clock: ClockReading) -> None:
        """Tells what another source said last in a step, now that all of the step is told."""
        begin_ms = step_start_ms(step, self.terms.step_s)
        end_ms = begin_ms + self.terms.step_ms
        here = [one for one in self._compared if begin_ms <= one.at_ms < end_ms]
        self._compared = [one for one in self._compared if one.at_ms >= end_ms]
        is_told = self._compared_step is not None and step <= self._compared_step
        # A register that is not told yet would be of the next step.
        if here and not is_told and here[-1].counted <= self._register:
            self._compared_step = step
            self._tell(ComparedDraft(self._register, step, clock, (), here[-1]))

    def _tell(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self._told_step = draft.step
        if isinstance(draft, RunDraft):
            self._back_step = None

    def _take_marks(self, clock: ClockReading, pulses: int) -> tuple[int, ...]:
        if self._acting.coarse:
            self._marks[int(Mark.COARSE)] = pulses
        if clock.error_ms > DOUBTFUL_ERROR_MS:
            self._marks[int(Mark.CLOCK_DOUBTFUL)] = clock.error_ms
        flat = tuple(part for pair in sorted(self._marks.items()) for part in pair)
        self._marks.clear()
        return flat


def _off_by(clock: ClockReading, off_ms: int) -> ClockReading:
    """The reading for a moment that is told so much later than the clock says."""
    error_ms = clock.error_ms + off_ms
    is_wide = clock.state is ClockState.SYNCHRONISED and error_ms > SYNCHRONISED_ERROR_MS
    state = ClockState.INFORMATIVE if is_wide else clock.state
    return replace(clock, state=state, error_ms=error_ms)
