"""Readings of an index into records: which one tells a step, and what is told of it, as a whole."""

from dataclasses import replace

import pytest

from cryptometer.chain_records import Ending, Mark
from cryptometer.record_fields import ClockReading
from cryptometer.steps import ClockSource, ClockState
from firmware.drafts import CloseDraft, Draft, ReadingDraft, RunDraft
from firmware.latch import Latch
from firmware.lots import BLANK, Limits, LotState, Signed, Terms
from tests.core.community import FIRST_STEP, STEP_S

STEP_MS = STEP_S * 1_000
START_MS = FIRST_STEP * STEP_MS
LATCH_MS = 45_000
TERMS = Terms(STEP_S, 1, START_MS, 1, coarse=False, latch_ms=LATCH_MS)
CLOCK = ClockReading(ClockSource.SIMULATED, ClockState.SYNCHRONISED, 20)
ROUGH = replace(CLOCK, state=ClockState.INFORMATIVE, error_ms=8_000)
RUN = RunDraft(500, FIRST_STEP, CLOCK, (), START_MS + 10_000, "test", Ending.FIRST, None)


class Meter:
    """One meter's index, with times in ms since the first step began."""

    def __init__(
        self, state: LotState = BLANK, terms: Terms = TERMS, began_ms: int | None = 0
    ) -> None:
        self.latch = Latch(state, terms, Limits(1_000, 60_000))
        if began_ms is not None:
            self.begin(began_ms, Ending.FIRST)

    def begin(self, at_ms: int, ending: Ending = Ending.STOPPED) -> None:
        self.latch.begin_run(START_MS + at_ms, "test", ending, CLOCK)

    def read(self, register: int, at_ms: int, clock: ClockReading = CLOCK) -> list[Draft]:
        self.latch.read(register, START_MS + at_ms, clock)
        return self.take()

    def recall(self, register: int, at_ms: int, clock: ClockReading = CLOCK) -> list[Draft]:
        self.latch.recall(register, START_MS + at_ms, clock)
        return self.take()

    def watch(self, until_ms: int, clock: ClockReading = CLOCK) -> list[Draft]:
        self.latch.watch(START_MS + until_ms, clock)
        return self.take()

    def take(self) -> list[Draft]:
        drafts, self.latch.drafts = self.latch.drafts, []
        return drafts


def begun() -> Meter:
    """A meter whose chain began ten seconds into the first step, with the index 500."""
    meter = Meter()
    assert meter.read(500, 10_000) == [RUN]
    return meter


def told(before: int, after: int, step: int, at_ms: int, since: int | None = None) -> ReadingDraft:
    """A reading of a step, counted from the first one."""
    since_step = None if since is None else FIRST_STEP + since
    at = START_MS + at_ms
    return ReadingDraft(before, FIRST_STEP + step, CLOCK, (), after, at, since_step)


def closed(
    before: int, after: int, step: int, watched: tuple[int, ...] = (0, STEP_MS)
) -> CloseDraft:
    return CloseDraft(before, FIRST_STEP + step, CLOCK, (), after, watched)


# --- The beginning. ------------------------------------------------------------------------------


def test_a_chain_begins_with_the_first_index_that_is_known() -> None:
    meter = Meter()
    assert meter.take() == []
    assert meter.watch(5_000) == []
    held = meter.latch.state()
    assert (held.held_software, held.held_ending, held.run_ms) == ("test", Ending.FIRST, 0)
    assert meter.read(500, 10_000) == [RUN]
    state = meter.latch.state()
    assert (state.held_software, state.run_ms) == (None, START_MS + 10_000)
    assert (state.register, state.batch_from, state.closed_from) == (500, 500, 500)
    assert (state.read_ms, state.read_step, state.step) == (START_MS + 10_000, None, FIRST_STEP)


def test_a_chain_begins_with_the_newest_index_before_its_registration() -> None:
    meter = Meter(began_ms=-100_000)
    assert meter.read(400, -90_000) == []
    assert meter.read(450, -60_000) == []
    assert meter.latch.state().read_ms == START_MS - 60_000
    assert meter.read(500, 10_000) == [replace(RUN, register=450, at_ms=START_MS)]
    state = meter.latch.state()
    assert (state.register, state.read_ms) == (500, START_MS + 10_000)


def test_a_registrations_first_moment_is_of_its_first_step() -> None:
    meter = Meter(began_ms=-100_000)
    meter.read(450, -60_000)
    assert meter.read(500, 0) == [replace(RUN, register=450, at_ms=START_MS)]
    meter = Meter(began_ms=-100_000)
    assert meter.read(500, 0) == [replace(RUN, at_ms=START_MS)]


def test_an_index_that_is_less_before_the_registration_is_not_taken() -> None:
    meter = Meter(began_ms=-100_000)
    meter.read(450, -60_000)
    meter.read(440, -50_000)
    assert meter.read(500, 10_000) == [replace(RUN, register=450, at_ms=START_MS)]


def test_a_line_that_is_watched_begins_a_chain_once_an_index_was_read_before_it() -> None:
    meter = Meter(began_ms=-100_000)
    meter.read(450, -60_000)
    assert meter.watch(-1) == []
    assert meter.watch(0) == [replace(RUN, register=450, at_ms=START_MS)]


def test_a_run_that_was_held_begins_once() -> None:
    meter = begun()
    assert meter.read(501, 11_000) == []


# --- Steps. --------------------------------------------------------------------------------------


def test_the_last_reading_before_a_steps_end_tells_it() -> None:
    meter = begun()
    assert meter.read(510, 20_000) == []
    assert meter.read(520, STEP_MS - 1_000) == []
    assert meter.read(530, STEP_MS + 1_000) == [
        told(500, 520, 0, STEP_MS - 1_000),
        closed(500, 520, 0, (10_000, STEP_MS)),
    ]
    assert meter.read(540, 2 * STEP_MS - 2_000) == []
    assert meter.watch(2 * STEP_MS) == [
        told(520, 540, 1, 2 * STEP_MS - 2_000),
        closed(520, 540, 1),
    ]
    state = meter.latch.state()
    assert (state.read_step, state.told_step, state.closed_from) == (
        FIRST_STEP + 1, FIRST_STEP + 1, 540,
    )  # fmt: skip
    assert (state.lot_from, state.batch_from, state.lots) == (540, 540, ())


def test_a_reading_at_the_end_of_a_step_is_of_the_next_one() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    assert meter.read(530, STEP_MS) == [
        told(500, 520, 0, STEP_MS - 1_000),
        closed(500, 520, 0, (10_000, STEP_MS)),
    ]


@pytest.mark.parametrize("over_ms", [0, 1])
def test_a_reading_is_too_old_once_its_age_and_the_clocks_error_exceed_the_latch(
    over_ms: int,
) -> None:
    meter = begun()
    at_ms = STEP_MS - LATCH_MS + CLOCK.error_ms - over_ms
    meter.read(520, at_ms)
    told_now = [told(500, 520, 0, at_ms), closed(500, 520, 0, (10_000, STEP_MS))]
    assert meter.watch(STEP_MS) == ([] if over_ms else told_now)


def test_terms_without_a_latch_tell_no_step_but_the_one_read_at_its_end() -> None:
    sure = replace(CLOCK, error_ms=0)
    meter = Meter(terms=replace(TERMS, latch_ms=None))
    meter.read(500, 10_000, sure)
    meter.read(501, STEP_MS - 1, sure)
    assert meter.watch(STEP_MS, sure) == []


def test_what_a_silent_meter_missed_comes_with_the_next_reading() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    meter.watch(STEP_MS + 1_000)
    meter.read(530, STEP_MS + 2_000)
    assert meter.watch(2 * STEP_MS) == []  # too old
    assert meter.latch.state().register == 520
    assert meter.latch.missed_steps == range(FIRST_STEP + 1, FIRST_STEP + 2)
    assert meter.watch(3 * STEP_MS) == []
    assert meter.latch.missed_steps == range(FIRST_STEP + 1, FIRST_STEP + 3)
    meter.read(550, 4 * STEP_MS - 1_000)
    assert meter.watch(4 * STEP_MS) == [
        told(520, 550, 3, 4 * STEP_MS - 1_000, since=0),
        closed(520, 550, 3),
    ]


def test_a_step_that_follows_the_one_before_spans_nothing() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    meter.watch(STEP_MS)
    meter.read(530, 2 * STEP_MS - 1_000)
    [reading, _] = meter.watch(2 * STEP_MS)
    assert reading == told(520, 530, 1, 2 * STEP_MS - 1_000)


def test_an_index_never_goes_back() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 2_000)
    meter.read(510, STEP_MS - 1_000)
    assert meter.watch(STEP_MS)[0] == told(500, 520, 0, STEP_MS - 1_000)


def test_a_rough_clock_is_stated_and_marked_in_the_reading_and_in_the_close() -> None:
    terms = replace(TERMS, latch_ms=60_000, coarse=True)
    meter = Meter(terms=terms)
    meter.read(500, 10_000)
    meter.latch.notice(Mark.REFUSED, 3)
    meter.read(520, STEP_MS - 1_000, ROUGH)
    marks = (int(Mark.COARSE), 0, int(Mark.CLOCK_DOUBTFUL), 8_000)
    both = dict(zip(marks[::2], marks[1::2], strict=True))
    first = both | {int(Mark.REFUSED): 3}
    reading, close = meter.watch(STEP_MS)
    assert (reading.clock, close.clock) == (ROUGH, ROUGH)
    assert reading.marks == tuple(part for pair in sorted(first.items()) for part in pair)
    assert close.marks == tuple(part for pair in sorted(both.items()) for part in pair)


# --- Runs. ---------------------------------------------------------------------------------------


def test_what_a_run_has_read_counts_before_the_next_one_begins() -> None:
    meter = begun()
    meter.read(520, 20_000)
    meter.begin(30_000)
    at_ms = START_MS + 30_000
    run = RunDraft(520, FIRST_STEP, CLOCK, (), at_ms, "test", Ending.STOPPED, START_MS + 20_000)
    assert meter.take() == [told(500, 520, 0, 20_000), run]
    meter.begin(40_000)  # that has read nothing
    at_ms = START_MS + 40_000
    run = RunDraft(520, FIRST_STEP, CLOCK, (), at_ms, "test", Ending.STOPPED, START_MS + 30_000)
    assert meter.take() == [run]
    meter.read(530, STEP_MS - 1_000)
    watched = (10_000, 20_000, 30_000, 30_000, 40_000, STEP_MS)
    assert meter.watch(STEP_MS) == [
        told(520, 530, 0, STEP_MS - 1_000),
        closed(500, 530, 0, watched),
    ]


def test_a_snapshot_holds_all_that_is_known() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    meter.watch(STEP_MS)
    meter.read(530, 2 * STEP_MS - 1_000)
    state = meter.latch.state()
    again = Meter(state, began_ms=None)
    assert again.latch.state() == state
    assert (state.read_ms, state.read_step) == (START_MS + 2 * STEP_MS - 1_000, FIRST_STEP)
    assert again.watch(2 * STEP_MS) == meter.watch(2 * STEP_MS) != []


def signed(step: int, read_step: int | None, register: int = 540) -> Signed:
    return Signed(
        register, FIRST_STEP + step, register, START_MS + 10_000, FIRST_STEP + step, read_step
    )


def test_what_is_signed_already_is_not_told_again() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    state = meter.latch.state()
    again = Meter(state, began_ms=None)
    again.latch.resume(signed(1, FIRST_STEP + 1))
    assert again.latch.state().read_step == FIRST_STEP + 1
    assert again.read(530, STEP_MS + 1_000) == []  # met again while the journal is applied
    assert again.read(540, 2 * STEP_MS - 1_000) == []
    assert again.latch.state().read_ms == START_MS + STEP_MS - 1_000
    again.read(550, 3 * STEP_MS - 1_000)
    assert again.watch(3 * STEP_MS)[0] == told(540, 550, 2, 3 * STEP_MS - 1_000)


@pytest.mark.parametrize(
    ("known", "read_step", "step"), [(5, 3, 5), (3, 5, 5), (None, 5, 5), (5, None, 5), (None, 0, 0)]
)
def test_the_newest_reading_is_the_newer_of_what_is_kept_and_what_is_signed(
    known: int | None, read_step: int | None, step: int
) -> None:
    meter = Meter(replace(BLANK, read_step=known), began_ms=None)
    meter.latch.resume(signed(0, read_step))
    assert meter.latch.state().read_step == step


# --- What the meter itself remembers. ------------------------------------------------------------


def absent() -> Meter:
    """A meter that nobody heard in the second, third and fourth step: 520 and then 580."""
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    assert len(meter.watch(STEP_MS)) == 2
    meter.watch(4 * STEP_MS + 1_000)
    assert meter.read(580, 4 * STEP_MS + 2_000) == []
    assert meter.latch.missed_steps == range(FIRST_STEP + 1, FIRST_STEP + 4)
    return meter


RECALLED = (int(Mark.RECALLED), 1)


def recalled(before: int, after: int, step: int, since: int | None = None) -> list[Draft]:
    end_ms = (step + 1) * STEP_MS
    return [
        replace(told(before, after, step, end_ms, since), marks=RECALLED),
        closed(before, after, step, ()),
    ]


def test_nothing_is_missed_before_a_step_is_open_or_a_reading_was_told() -> None:
    assert Meter().latch.missed_steps == range(0)
    assert begun().latch.missed_steps == range(0)
    state = replace(BLANK, read_step=FIRST_STEP)
    assert Meter(state, began_ms=None).latch.missed_steps == range(0)


def test_steps_that_nobody_read_are_told_from_a_load_profile_in_order() -> None:
    meter = absent()
    assert meter.recall(530, 2 * STEP_MS) == recalled(520, 530, 1)
    assert meter.recall(560, 4 * STEP_MS) == recalled(530, 560, 3, since=1)
    state = meter.latch.state()
    assert (state.batch_from, state.lot_from, state.closed_from) == (560, 560, 560)
    assert (state.read_step, state.told_step) == (FIRST_STEP + 3, FIRST_STEP + 3)
    assert meter.latch.missed_steps == range(FIRST_STEP + 4, FIRST_STEP + 4)
    meter.read(590, 5 * STEP_MS - 1_000)
    assert meter.watch(5 * STEP_MS)[0] == told(560, 590, 4, 5 * STEP_MS - 1_000)


def test_a_step_is_recalled_behind_a_later_record() -> None:
    meter = absent()
    meter.begin(4 * STEP_MS + 3_000)  # its reading and its start are told in the open step
    meter.take()
    assert meter.latch.missed_steps == range(0)
    meter = absent()
    meter.latch.resume(Signed(520, FIRST_STEP, 520, START_MS + 10_000, FIRST_STEP + 4, FIRST_STEP))
    assert meter.recall(530, 2 * STEP_MS) == recalled(520, 530, 1)
    assert meter.latch.state().told_step == FIRST_STEP + 4


@pytest.mark.parametrize(
    ("register", "at_ms", "clock"),
    [
        (530, 2 * STEP_MS + 1, CLOCK),  # no step ends there
        (530, 2 * STEP_MS - 1, CLOCK),
        (530, STEP_MS, CLOCK),  # that step is told
        (580, 5 * STEP_MS, CLOCK),  # that one is open
        (519, 2 * STEP_MS, CLOCK),  # less than what is told
        (581, 2 * STEP_MS, CLOCK),  # more than what is read
        (530, 2 * STEP_MS, replace(CLOCK, error_ms=LATCH_MS + 1)),
    ],
)
def test_what_does_not_fit_is_not_recalled(register: int, at_ms: int, clock: ClockReading) -> None:
    meter = absent()
    state = meter.latch.state()
    assert meter.recall(register, at_ms, clock) == []
    assert meter.latch.state() == state


@pytest.mark.parametrize("register", [520, 580])
def test_a_recalled_index_may_be_what_was_told_or_what_was_read(register: int) -> None:
    assert absent().recall(register, 2 * STEP_MS) == recalled(520, register, 1)


def test_a_recalled_step_needs_a_clock_within_the_latch_of_its_own_terms() -> None:
    rough = replace(CLOCK, error_ms=LATCH_MS)
    reading, close = absent().recall(530, 2 * STEP_MS, rough)
    doubtful = (int(Mark.CLOCK_DOUBTFUL), LATCH_MS)
    pairs = sorted([RECALLED, doubtful])
    assert reading.marks == tuple(part for pair in pairs for part in pair)
    assert (close.marks, close.clock, reading.clock) == (doubtful, rough, rough)


def test_terms_that_act_in_a_step_say_how_old_its_reading_may_be() -> None:
    later = replace(TERMS, first_ms=START_MS + STEP_MS, latch_ms=5_000)
    meter = Meter(terms=replace(TERMS, later=(later,)))
    meter.read(500, 10_000)
    meter.read(520, STEP_MS - 10_000)
    assert len(meter.watch(STEP_MS)) == 2
    meter.read(530, 2 * STEP_MS - 10_000)
    assert meter.watch(2 * STEP_MS) == []
    rough = replace(CLOCK, error_ms=6_000)
    assert meter.recall(525, 2 * STEP_MS, rough) == []


def test_a_recalled_step_of_a_coarse_meter_is_marked_in_both_records() -> None:
    meter = absent()
    again = Meter(meter.latch.state(), replace(TERMS, coarse=True), began_ms=None)
    coarse = (int(Mark.COARSE), 0)
    pairs = sorted([RECALLED, coarse])
    reading, close = again.recall(530, 2 * STEP_MS)
    assert (reading.marks, close.marks) == (
        tuple(part for pair in pairs for part in pair),
        coarse,
    )


def test_terms_without_a_latch_recall_only_by_a_sure_clock() -> None:
    state = absent().latch.state()
    terms = replace(TERMS, latch_ms=None)
    rough, sure = replace(CLOCK, error_ms=1), replace(CLOCK, error_ms=0)
    assert Meter(state, terms, began_ms=None).recall(530, 2 * STEP_MS, rough) == []
    assert len(Meter(state, terms, began_ms=None).recall(530, 2 * STEP_MS, sure)) == 2


def test_a_recalled_step_is_the_newest_where_nothing_else_was_told() -> None:
    state = replace(absent().latch.state(), told_step=None)
    meter = Meter(state, began_ms=None)
    assert meter.recall(530, 2 * STEP_MS) == recalled(520, 530, 1)
    assert meter.latch.state().told_step == FIRST_STEP + 1


def test_a_reading_that_spans_one_missed_step_says_so() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    meter.watch(STEP_MS)
    assert meter.watch(2 * STEP_MS) == []
    meter.read(550, 3 * STEP_MS - 1_000)
    assert meter.watch(3 * STEP_MS)[0] == told(520, 550, 2, 3 * STEP_MS - 1_000, since=0)


def test_after_a_run_its_last_step_leaves_nothing_watched() -> None:
    meter = begun()
    meter.read(520, STEP_MS - 1_000)
    meter.latch.end_run()
    meter.latch.pass_by(START_MS + STEP_MS, CLOCK)
    assert meter.take() == [
        told(500, 520, 0, STEP_MS - 1_000),
        closed(500, 520, 0, (10_000, STEP_MS - 1_000)),
    ]
    assert (meter.latch.state().watched, meter.latch.state().step) == ((), None)


def test_limits_are_kept_for_whoever_changes_them() -> None:
    limits = Limits(7, 8)
    assert Latch(BLANK, TERMS, limits).limits is limits
