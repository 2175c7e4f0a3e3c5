"""Promise B: no lot above V, none across a step; and what is declared beside the counts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.chain_records import LOTS_MAX, WATCHED_MAX, Ending, Mark
from cryptometer.record_fields import ClockReading
from cryptometer.steps import FUTURE_STEPS, NS_PER_MS, ClockSource, ClockState
from cryptometer.wire import decode_map, encode_map
from firmware.drafts import BatchDraft, CloseDraft, Draft, RunDraft
from firmware.lots import BLANK, Limits, Lots, LotState, Signed, Terms
from tests.core.community import DETAILS, FIRST_STEP, LOT_PULSES, STEP_S
from tests.core.strategies import examples

STEP_MS = STEP_S * 1_000
START_MS = FIRST_STEP * STEP_MS
PULSE_MS = 8  # at I_max 65 A on three phases of 230 V, 10,000 pulses per kWh: 8.03 ms
TERMS = Terms(STEP_S, LOT_PULSES, START_MS, PULSE_MS * NS_PER_MS, coarse=False)
CLOCK = ClockReading(ClockSource.SIMULATED, ClockState.SYNCHRONISED, 20)


class Meter:
    """One meter's lots, with times in ms since the first step began."""

    def __init__(
        self,
        *,
        lots: int = 1_000,
        delay_ms: int = 60_000,
        state: LotState = BLANK,
        terms: Terms = TERMS,
        began_ms: int | None = 0,
    ) -> None:
        self.limits = Limits(lots, delay_ms)
        self.lots = Lots(state, terms, self.limits)
        self.register = self.lots.register
        if began_ms is not None:
            self.begin(began_ms, Ending.FIRST)

    def begin(self, at_ms: int, ending: Ending = Ending.UNKNOWN) -> None:
        self.lots.begin_run(START_MS + at_ms, "test", ending, CLOCK)

    def give(
        self, pulses: int, to_ms: int, from_ms: int | None = None, clock: ClockReading = CLOCK
    ) -> None:
        """Pulses since `from_ms`; slow enough for any meter when it is not given."""
        self.register += pulses
        since = to_ms - pulses * PULSE_MS if from_ms is None else from_ms
        self.lots.count(self.register, START_MS + since, START_MS + to_ms, clock)

    def watch(self, until_ms: int, clock: ClockReading = CLOCK) -> None:
        self.lots.watch(START_MS + until_ms, clock)

    def take(self) -> list[Draft]:
        drafts, self.lots.drafts = self.lots.drafts, []
        return drafts

    def batches(self) -> list[BatchDraft]:
        return [draft for draft in self.take() if isinstance(draft, BatchDraft)]


def marks_of(draft: Draft) -> dict[int, int]:
    assert {type(part) for part in draft.marks} <= {int}, "records hold plain integers"
    return dict(zip(draft.marks[::2], draft.marks[1::2], strict=True))


def only(drafts: list[Draft]) -> Draft:
    [draft] = drafts
    return draft


# --- Lots ----------------------------------------------------------------------------------------


def test_a_lot_is_closed_at_v_with_its_time_in_the_step() -> None:
    meter = Meter(lots=1)
    meter.take()
    meter.give(LOT_PULSES - 1, 5_000)
    assert meter.take() == []
    meter.give(1, 6_000)
    assert only(meter.take()) == BatchDraft(0, FIRST_STEP, CLOCK, (), (LOT_PULSES, 6_000))


def test_many_pulses_at_once_make_lots_of_v_and_leave_the_rest_open() -> None:
    meter = Meter(lots=2)
    meter.give(5 * LOT_PULSES + 3, 30_000)
    batches = meter.batches()
    assert [batch.lots for batch in batches] == [(8, 30_000) * 2] * 2
    meter.watch(STEP_MS)
    last = meter.batches()
    assert [batch.lots for batch in last] == [(8, 30_000, 3, STEP_MS)]
    assert [batch.register for batch in batches + last] == [0, 16, 32]


def test_a_batch_is_cut_at_its_number_of_lots() -> None:
    meter = Meter(lots=3)
    for second in range(1, 7):
        meter.give(LOT_PULSES, second * 1_000)
    first, second_batch = meter.batches()
    assert first.lots == (8, 1_000, 8, 2_000, 8, 3_000)
    assert second_batch.lots == (8, 4_000, 8, 5_000, 8, 6_000)
    after = meter.lots.state()
    assert (after.lots, after.batch_from, after.lot_from) == ((), 48, 48)


def test_a_record_states_the_widest_error_that_dated_anything_of_its_step() -> None:
    rough = replace(CLOCK, state=ClockState.INFORMATIVE, error_ms=8_000)
    meter = Meter(lots=2)
    meter.give(LOT_PULSES, 10_000, clock=rough)
    again = Meter(lots=2, state=meter.lots.state(), began_ms=None)  # told from a snapshot
    again.register = meter.register
    again.give(LOT_PULSES, 20_000)
    again.watch(STEP_MS)
    again.watch(2 * STEP_MS)
    batch, close, next_close = again.take()
    assert batch.clock == close.clock == rough
    assert marks_of(batch) == {int(Mark.CLOCK_DOUBTFUL): 8_000}
    assert next_close.clock == CLOCK


def test_one_lot_per_batch_gives_a_record_for_every_lot() -> None:
    meter = Meter(lots=1)
    meter.give(3 * LOT_PULSES, 1_000)
    assert [batch.lots for batch in meter.batches()] == [(8, 1_000)] * 3


def test_a_batch_is_cut_once_its_first_lot_has_waited_long_enough() -> None:
    meter = Meter(delay_ms=60_000)
    meter.give(LOT_PULSES, 10_000)
    meter.give(LOT_PULSES, 40_000)
    assert meter.lots.next_due_ms() == START_MS + 70_000
    meter.watch(69_999)
    assert meter.batches() == []
    meter.watch(70_000)
    assert [batch.lots for batch in meter.batches()] == [(8, 10_000, 8, 40_000)]
    assert meter.lots.next_due_ms() == START_MS + STEP_MS


def test_the_delay_is_not_counted_from_an_open_lot() -> None:
    meter = Meter(delay_ms=1_000)
    meter.give(LOT_PULSES - 1, 10_000)
    meter.watch(STEP_MS - 1)
    assert meter.batches() == []


def test_pulses_told_again_add_nothing() -> None:
    meter = Meter(lots=1)
    meter.give(LOT_PULSES, 1_000)
    meter.take()
    meter.lots.count(LOT_PULSES, START_MS, START_MS + 2_000, CLOCK)
    meter.lots.count(3, START_MS, START_MS + 3_000, CLOCK)
    assert meter.take() == []
    assert meter.lots.register == LOT_PULSES


def test_a_meter_whose_lot_is_one_pulse_gives_a_lot_for_each() -> None:
    meter = Meter(lots=10, terms=replace(TERMS, lot_pulses=1))
    meter.give(10, 5_000)
    assert [batch.lots for batch in meter.batches()] == [(1, 5_000) * 10]


# --- Steps ---------------------------------------------------------------------------------------


def test_a_step_is_closed_at_its_end_with_the_lot_that_was_open() -> None:
    meter = Meter(delay_ms=2**40)
    meter.take()
    meter.give(LOT_PULSES + 2, 1_000)
    meter.watch(STEP_MS - 1)
    assert meter.take() == []
    meter.watch(STEP_MS)
    batch, close = meter.take()
    assert batch == BatchDraft(0, FIRST_STEP, CLOCK, (), (8, 1_000, 2, STEP_MS))
    assert close == CloseDraft(0, FIRST_STEP, CLOCK, (), 10, (0, STEP_MS))


def test_a_watched_step_without_energy_is_closed_too() -> None:
    meter = Meter()
    meter.take()
    for step in range(1, 4):
        meter.watch(step * STEP_MS)
        close = CloseDraft(0, FIRST_STEP + step - 1, CLOCK, (), 0, (0, STEP_MS))
        assert only(meter.take()) == close


def test_steps_slept_through_get_no_close() -> None:
    meter = Meter()
    meter.watch(100_000)
    meter.take()
    meter.watch(4 * STEP_MS + 7)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert close.step == FIRST_STEP
    assert close.watched == (0, 100_000)  # nobody can say what was watched after the last look
    meter.watch(5 * STEP_MS)
    after = only(meter.take())
    assert isinstance(after, CloseDraft)
    assert (after.step, after.watched) == (FIRST_STEP + 4, (7, STEP_MS))


def test_a_look_within_the_next_step_proves_the_one_before_watched_to_its_end() -> None:
    meter = Meter()
    meter.watch(100_000)
    meter.take()
    meter.watch(2 * STEP_MS - 1)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, STEP_MS)


def test_a_look_two_steps_on_proves_nothing() -> None:
    meter = Meter()
    meter.watch(100_000)
    meter.take()
    meter.watch(2 * STEP_MS)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert (close.step, close.watched) == (FIRST_STEP, (0, 100_000))


def test_a_step_begun_in_the_middle_says_from_when_it_was_watched() -> None:
    meter = Meter(began_ms=300_000)
    meter.take()
    meter.watch(STEP_MS)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert close.watched == (300_000, STEP_MS)


def test_pulses_behind_a_boundary_belong_to_the_new_step_and_straddlers_are_marked() -> None:
    meter = Meter()
    meter.watch(STEP_MS - 10)
    meter.take()
    meter.give(3, STEP_MS + 90, from_ms=STEP_MS - 10)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert (close.step, close.register_after) == (FIRST_STEP, 0)
    meter.watch(2 * STEP_MS)
    batch, _ = meter.take()
    assert isinstance(batch, BatchDraft)
    assert (batch.step, batch.lots) == (FIRST_STEP + 1, (3, STEP_MS))
    assert marks_of(batch) == {Mark.STRADDLE: 3}


def test_pulses_just_after_a_boundary_do_not_straddle_it() -> None:
    meter = Meter()
    meter.give(3, STEP_MS + 90, from_ms=STEP_MS)
    meter.watch(2 * STEP_MS)
    assert [marks_of(draft) for draft in meter.take()] == [{}] * 4


def test_a_burst_is_marked_and_every_pulse_of_it_counts() -> None:
    meter = Meter(lots=1)
    meter.give(LOT_PULSES, 10_000, from_ms=10_000 - (LOT_PULSES - 1) * PULSE_MS // 2)
    assert marks_of(meter.batches()[0]) == {}
    meter.give(LOT_PULSES, 20_000, from_ms=20_000 - (LOT_PULSES - 1) * PULSE_MS // 2 + 1)
    batch = meter.batches()[0]
    assert batch.lots == (LOT_PULSES, 20_000)
    assert marks_of(batch) == {Mark.BURST: LOT_PULSES}


def test_one_pulse_alone_is_no_burst() -> None:
    meter = Meter(lots=1, terms=replace(TERMS, lot_pulses=1))
    meter.give(1, 10_000, from_ms=10_000)
    assert marks_of(meter.batches()[0]) == {}


def test_what_waited_in_the_line_before_the_run_is_declared() -> None:
    meter = Meter(lots=1)
    meter.lots.count(LOT_PULSES, START_MS, START_MS + 100_000, CLOCK, waited=True)
    assert marks_of(meter.batches()[0]) == {Mark.BURST: LOT_PULSES}


# --- Runs ----------------------------------------------------------------------------------------


def test_the_first_run_says_that_there_was_none_before() -> None:
    meter = Meter(began_ms=5_000)
    run = only(meter.take())
    assert run == RunDraft(
        0, FIRST_STEP, CLOCK, (), START_MS + 5_000, "test", Ending.FIRST, unwatched_ms=None
    )


def test_a_new_run_ends_the_open_lot_and_says_since_when_nobody_watched() -> None:
    meter = Meter()
    meter.give(3, 10_000)
    meter.watch(20_000)
    meter.take()
    meter.begin(50_000)
    batch, run = meter.take()
    assert batch == BatchDraft(0, FIRST_STEP, CLOCK, (), (3, 50_000))
    assert isinstance(run, RunDraft)
    assert (run.register, run.at_ms - START_MS, run.unwatched_ms) == (3, 50_000, START_MS + 20_000)
    meter.watch(STEP_MS)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, 20_000, 50_000, STEP_MS)


def test_a_run_that_begins_steps_later_closes_the_step_the_last_one_left_open() -> None:
    meter = Meter()
    meter.give(3, 10_000)
    meter.watch(20_000)
    meter.lots.end_run()
    meter.take()
    meter.begin(3 * STEP_MS + 5, Ending.STOPPED)
    batch, close, run = meter.take()
    assert isinstance(batch, BatchDraft)
    assert (batch.step, batch.lots) == (FIRST_STEP, (3, STEP_MS))
    assert isinstance(close, CloseDraft)
    assert (close.step, close.watched) == (FIRST_STEP, (0, 20_000))
    assert isinstance(run, RunDraft)
    assert (run.step, run.unwatched_ms) == (FIRST_STEP + 3, START_MS + 20_000)


def test_a_run_whose_clock_stands_before_the_last_look_is_put_behind_it_and_marked() -> None:
    meter = Meter()
    meter.watch(500_000)
    meter.take()
    meter.begin(100_000)
    run = only(meter.take())
    assert isinstance(run, RunDraft)
    assert run.at_ms == START_MS + 500_000
    # Its moment is as wrong as it was put off, and its record says so.
    off_ms = 400_000 + CLOCK.error_ms
    assert run.clock == replace(CLOCK, state=ClockState.INFORMATIVE, error_ms=off_ms)
    assert marks_of(run) == {Mark.CLOCK_STEPPED: 400_000, Mark.CLOCK_DOUBTFUL: off_ms}


@pytest.mark.parametrize(("back_ms", "marked"), [(1_000, {}), (1_001, {Mark.CLOCK_STEPPED: 1_001})])
def test_a_clock_that_is_back_by_a_second_was_slewed_and_not_stepped(
    back_ms: int, marked: dict[int, int]
) -> None:
    meter = Meter()
    meter.watch(500_000)
    meter.take()
    meter.begin(500_000 - back_ms)
    assert marks_of(only(meter.take())) == marked


@pytest.mark.parametrize(
    ("off_ms", "state"), [(980, ClockState.SYNCHRONISED), (981, ClockState.INFORMATIVE)]
)
def test_a_run_told_later_than_its_clock_says_is_synchronised_up_to_a_second_of_error(
    off_ms: int, state: ClockState
) -> None:
    meter = Meter()
    meter.watch(500_000)
    meter.take()
    meter.begin(500_000 - off_ms)
    expected = replace(CLOCK, state=state, error_ms=CLOCK.error_ms + off_ms)
    assert only(meter.take()).clock == expected


@pytest.mark.parametrize("at_ms", [STEP_MS, 2 * STEP_MS + 7])
def test_a_step_is_dated_by_the_clock_that_shows_its_beginning(at_ms: int) -> None:
    rough = replace(CLOCK, error_ms=300)
    looked, leapt = Meter(), Meter()
    looked.watch(at_ms, rough)
    leapt.lots.leap(START_MS + at_ms, rough)
    assert looked.lots.state().clock == leapt.lots.state().clock == rough


def test_a_run_that_saw_nothing_has_watched_until_it_began() -> None:
    meter = Meter()
    meter.take()
    meter.lots.end_run()
    meter.begin(50_000)
    run = only(meter.take())
    assert isinstance(run, RunDraft)
    assert run.unwatched_ms == START_MS


def test_a_run_whose_clock_stands_in_a_step_that_is_closed_begins_in_the_next() -> None:
    meter = Meter()
    meter.watch(10_000)
    meter.lots.pass_by(START_MS + STEP_MS + 5_000, CLOCK)
    meter.take()
    meter.begin(20_000)
    assert only(meter.take()).step == FIRST_STEP + 1


def test_a_run_in_an_earlier_step_than_one_closed_goes_on_in_the_later() -> None:
    meter = Meter()
    meter.watch(2 * STEP_MS + 10_000)  # steps 0 slept through? No: closed, and 2 is open
    meter.take()
    meter.begin(STEP_MS)
    meter.give(5, STEP_MS + 1_000)
    meter.watch(3 * STEP_MS)
    drafts = meter.take()
    assert {draft.step for draft in drafts} == {FIRST_STEP + 2}
    assert [draft.register_after for draft in drafts if isinstance(draft, CloseDraft)] == [5]


def test_after_a_backward_jump_the_open_step_stays_open() -> None:
    meter = Meter()
    meter.watch(STEP_MS + 50_000)
    meter.take()
    meter.give(2, STEP_MS - 100_000)
    meter.watch(STEP_MS - 1)
    assert meter.take() == []
    meter.give(1, STEP_MS + 60_000)
    meter.watch(2 * STEP_MS)
    batch, close = meter.take()
    assert (batch.step, close.step) == (FIRST_STEP + 1, FIRST_STEP + 1)
    assert isinstance(batch, BatchDraft)
    assert batch.lots == (3, STEP_MS)


def test_a_clock_set_forward_leaves_a_gap_in_what_was_watched() -> None:
    meter = Meter()
    meter.watch(200_000)
    meter.lots.leap(START_MS + 500_000, CLOCK)
    meter.watch(700_000)
    meter.lots.leap(START_MS + STEP_MS + 100_000, CLOCK)
    meter.watch(2 * STEP_MS + 1)
    closes = [draft for draft in meter.take() if isinstance(draft, CloseDraft)]
    assert [close.watched for close in closes] == [
        (0, 200_000, 500_000, 700_000),
        (100_000, STEP_MS),
    ]


def test_a_clock_set_forward_to_a_boundary_closes_the_step_before_it() -> None:
    meter = Meter()
    meter.watch(200_000)
    meter.take()
    meter.lots.leap(START_MS + STEP_MS, CLOCK)
    assert only(meter.take()) == CloseDraft(0, FIRST_STEP, CLOCK, (), 0, (0, 200_000))
    assert meter.lots.state().step == FIRST_STEP + 1


def test_after_a_run_has_ended_nothing_is_called_watched() -> None:
    meter = Meter()
    meter.watch(20_000)
    meter.lots.end_run()
    meter.watch(40_000)
    meter.lots.leap(START_MS + 500_000, CLOCK)
    meter.take()
    meter.begin(600_000)
    run = only(meter.take())
    assert isinstance(run, RunDraft)
    assert run.unwatched_ms == START_MS + 20_000
    meter.watch(STEP_MS)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, 20_000, 600_000, STEP_MS)


def test_the_newest_moment_watched_does_not_go_back_with_the_clock() -> None:
    meter = Meter()
    meter.watch(500_000)
    meter.watch(400_000)
    assert meter.lots.seen_ms == START_MS + 500_000


def test_a_step_of_which_nothing_is_signed_goes_back_with_the_clock() -> None:
    meter = Meter()
    meter.give(LOT_PULSES + 3, 100_000)
    far_ms = 9_000 * STEP_MS
    meter.lots.leap(START_MS + far_ms, CLOCK)
    meter.take()
    meter.give(LOT_PULSES + 1, far_ms + 5_000)
    restored = Meter(state=meter.lots.state(), began_ms=None)
    restored.register = meter.register
    for one in (meter, restored):
        one.lots.put_back(START_MS + STEP_MS + 200_000)
        one.give(2, STEP_MS + 230_000)
        one.watch(2 * STEP_MS)
        drafts = one.take()
        assert {draft.step for draft in drafts} == {FIRST_STEP + 1}
        [batch] = [draft for draft in drafts if isinstance(draft, BatchDraft)]
        assert batch.lots == (LOT_PULSES, 200_000, 3, STEP_MS)
        [close] = [draft for draft in drafts if isinstance(draft, CloseDraft)]
        assert close.watched == (200_000, STEP_MS)


def test_a_step_of_which_something_is_signed_stays_when_the_clock_goes_back() -> None:
    meter = Meter(lots=1)
    meter.give(2, 100_000)
    far_ms = 9_000 * STEP_MS
    meter.lots.leap(START_MS + far_ms, CLOCK)
    meter.give(LOT_PULSES, far_ms + 5_000)
    meter.take()
    meter.lots.put_back(START_MS + STEP_MS + 200_000)
    meter.give(LOT_PULSES, STEP_MS + 300_000)
    assert {draft.step for draft in meter.take()} == {FIRST_STEP + 9_000}
    # With the authority's word it comes back all the same.
    meter.lots.come_back(START_MS + STEP_MS + 400_000)
    meter.give(LOT_PULSES, STEP_MS + 500_000)
    assert {draft.step for draft in meter.take()} == {FIRST_STEP + 1}


def test_with_the_authoritys_word_a_chain_that_is_not_far_ahead_stays_where_it_is() -> None:
    meter = Meter(lots=1)
    meter.lots.leap(START_MS + 4 * STEP_MS, CLOCK)
    meter.give(LOT_PULSES, 4 * STEP_MS + 100)
    meter.take()
    meter.lots.come_back(START_MS)
    meter.give(LOT_PULSES, 1_000)
    assert {draft.step for draft in meter.take()} == {FIRST_STEP + 4}


def test_times_of_lots_never_go_back_within_a_batch() -> None:
    meter = Meter(lots=3)
    meter.give(LOT_PULSES, 400_000)
    meter.give(LOT_PULSES, 430_000)
    meter.give(LOT_PULSES, 420_000)
    assert meter.batches()[0].lots == (8, 400_000, 8, 430_000, 8, 430_000)


def test_more_restarts_than_a_close_can_hold_drop_the_shortest_interval() -> None:
    meter = Meter()
    begins = range(1_000, 1_000 * (WATCHED_MAX + 2), 1_000)
    for at_ms in begins:
        meter.begin(at_ms)
        meter.watch(at_ms + (1 if at_ms == 5_000 else 500))
    meter.take()
    meter.watch(STEP_MS)
    close = only(meter.take())
    assert isinstance(close, CloseDraft)
    intervals = list(zip(close.watched[::2], close.watched[1::2], strict=True))
    assert len(intervals) == WATCHED_MAX
    assert (5_000, 5_001) not in intervals  # nothing is claimed that was not watched
    assert intervals[-1][1] == STEP_MS


# --- Clocks that jump ----------------------------------------------------------------------------


def test_after_a_backward_jump_lots_wait_no_longer_than_others() -> None:
    meter = Meter(delay_ms=60_000)
    meter.give(LOT_PULSES, 800_000)
    meter.take()
    meter.watch(100_000)  # the clock was put back by twelve minutes
    assert meter.batches() == []
    meter.watch(160_000)
    [batch] = meter.batches()
    assert batch.lots == (LOT_PULSES, 800_000)


# --- Newer terms ---------------------------------------------------------------------------------


def test_newer_terms_act_from_their_first_step_on() -> None:
    later = replace(TERMS, lot_pulses=3, first_ms=START_MS + STEP_MS, coarse=True)
    meter = Meter(terms=replace(TERMS, later=(TERMS, later)))
    meter.give(LOT_PULSES, 10_000)
    meter.watch(STEP_MS)
    before = meter.take()
    meter.give(LOT_PULSES, STEP_MS + 10_000)
    meter.watch(2 * STEP_MS)
    after = meter.take()
    assert [draft.lots[::2] for draft in before if isinstance(draft, BatchDraft)] == [(8,)]
    assert [draft.lots[::2] for draft in after if isinstance(draft, BatchDraft)] == [(3, 3, 2)]
    assert not any(Mark.COARSE in marks_of(draft) for draft in before)
    assert all(Mark.COARSE in marks_of(draft) for draft in after)


# --- The registration's first step ---------------------------------------------------------------


def test_before_the_first_step_nothing_is_signed_and_the_chain_begins_with_it() -> None:
    meter = Meter(began_ms=-100_000)
    meter.give(5, -50_000)
    meter.watch(-10)
    assert meter.take() == []
    meter.give(LOT_PULSES, 20_000)
    meter.watch(STEP_MS)
    run, batch, close = meter.take()
    assert isinstance(run, RunDraft)
    assert (run.register, run.at_ms, run.step) == (5, START_MS, FIRST_STEP)
    assert isinstance(batch, BatchDraft)
    assert (batch.register, batch.lots) == (5, (8, 20_000))
    assert close == CloseDraft(5, FIRST_STEP, CLOCK, (), 13, (0, STEP_MS))


def test_the_chain_begins_with_the_first_moment_of_the_first_step() -> None:
    meter = Meter(began_ms=-100_000)
    meter.watch(-1)
    assert meter.take() == []
    meter.watch(0)
    assert only(meter.take()) == RunDraft(
        0, FIRST_STEP, CLOCK, (), START_MS, "test", Ending.FIRST, unwatched_ms=None
    )


def test_a_run_restarted_across_the_first_step_begins_the_chain_once() -> None:
    meter = Meter(began_ms=-100_000)
    meter.give(5, -50_000)
    meter.begin(30_000, Ending.STOPPED)
    meter.give(LOT_PULSES, 40_000)
    meter.watch(STEP_MS)
    run, batch, close = meter.take()
    assert run == RunDraft(
        5, FIRST_STEP, CLOCK, (), START_MS + 30_000, "test", Ending.STOPPED, unwatched_ms=None
    )
    assert isinstance(batch, BatchDraft)
    assert (batch.register, batch.marks) == (5, ())
    assert isinstance(close, CloseDraft)
    assert close.watched == (30_000, STEP_MS)


def test_a_run_held_for_the_first_step_survives_a_snapshot() -> None:
    meter = Meter(began_ms=-100_000)
    meter.give(5, -50_000)
    kept = decode_map(LotState, cbor.decode(cbor.encode(encode_map(meter.lots.state()))))
    again = Meter(state=kept, began_ms=None)
    again.give(2, -20_000)
    again.give(1, 10_000)
    drafts = again.take()
    assert [type(draft) for draft in drafts] == [RunDraft]
    run = only(drafts)
    assert isinstance(run, RunDraft)
    assert (run.register, run.software, run.ending) == (7, "test", Ending.FIRST)


# --- Marks ---------------------------------------------------------------------------------------


def test_what_was_noticed_stands_in_the_next_record_once() -> None:
    meter = Meter(lots=1)
    meter.take()
    meter.lots.notice(Mark.NOISE, 3)
    meter.lots.notice(Mark.NOISE, 4)
    meter.lots.notice(Mark.LOST, 0)
    meter.give(2 * LOT_PULSES, 10_000)
    first, second = meter.batches()
    assert marks_of(first) == {Mark.NOISE: 7}
    assert marks_of(second) == {}


@pytest.mark.parametrize(
    ("error_ms", "marked"), [(5_000, {}), (5_001, {Mark.CLOCK_DOUBTFUL: 5_001})]
)
def test_above_five_seconds_of_error_pulses_are_counted_and_marked(
    error_ms: int, marked: dict[int, int]
) -> None:
    clock = ClockReading(ClockSource.SIMULATED, ClockState.RELATIVE, error_ms)
    meter = Meter(lots=1)
    meter.give(LOT_PULSES, 10_000, clock=clock)
    [batch] = meter.batches()
    assert (batch.lots, marks_of(batch), batch.clock) == ((8, 10_000), marked, clock)


def test_a_coarse_meter_marks_every_record() -> None:
    meter = Meter(lots=3, terms=replace(TERMS, lot_pulses=1, coarse=True))
    meter.give(3, 10_000)
    meter.watch(STEP_MS)
    run, batch, close = meter.take()
    assert marks_of(run) == marks_of(close) == {Mark.COARSE: 0}
    assert marks_of(batch) == {Mark.COARSE: 3}


def test_on_a_full_disk_a_lot_takes_the_whole_step_and_is_marked() -> None:
    meter = Meter(lots=1)
    meter.take()
    meter.limits.oversize = True
    meter.give(5 * LOT_PULSES, 10_000)
    meter.give(5 * LOT_PULSES, 20_000)
    assert meter.take() == []
    meter.watch(STEP_MS)
    batch, close = meter.take()
    assert isinstance(batch, BatchDraft)
    assert batch.lots == (10 * LOT_PULSES, STEP_MS)
    assert marks_of(batch) == {Mark.OVERSIZE: 10 * LOT_PULSES}
    assert isinstance(close, CloseDraft)
    assert close.register_after == 10 * LOT_PULSES


def test_when_there_is_room_again_the_large_lot_is_closed_and_the_next_ones_are_small() -> None:
    meter = Meter(lots=1)
    meter.limits.oversize = True
    meter.give(3 * LOT_PULSES, 10_000)
    meter.limits.oversize = False
    meter.give(2 * LOT_PULSES, 20_000)
    large, small = meter.batches()
    assert large.lots == (3 * LOT_PULSES + 1, 20_000)
    assert marks_of(large) == {Mark.OVERSIZE: 3 * LOT_PULSES + 1}
    assert small.lots == (LOT_PULSES, 20_000)
    assert marks_of(small) == {}


# --- Resuming ------------------------------------------------------------------------------------


def test_what_is_signed_is_not_drafted_again_when_the_journal_is_applied_again() -> None:
    meter = Meter(lots=1)
    meter.take()
    before = meter.lots.state()
    meter.give(2 * LOT_PULSES + 3, 10_000)
    assert len(meter.take()) == 2
    again = Meter(lots=1, state=before, began_ms=None)
    again.lots.resume(Signed(LOT_PULSES, None, 0, START_MS))
    again.give(2 * LOT_PULSES + 3, 10_000)
    assert again.take() == [BatchDraft(8, FIRST_STEP, CLOCK, (), (8, 10_000))]


def test_lots_that_a_snapshot_holds_and_nobody_signed_are_kept() -> None:
    meter = Meter()
    meter.take()
    for second in (1_000, 2_000, 3_000):
        meter.give(LOT_PULSES, second)
    again = Meter(state=meter.lots.state(), began_ms=None)
    again.lots.resume(Signed(2 * LOT_PULSES, None, 0, START_MS))
    again.watch(STEP_MS)
    batch, _ = again.take()
    assert isinstance(batch, BatchDraft)
    assert (batch.register, batch.lots) == (16, (8, 3_000))


def test_a_signed_close_is_not_drafted_again() -> None:
    meter = Meter()
    meter.take()
    before = meter.lots.state()
    again = Meter(state=before, began_ms=None)
    again.lots.resume(Signed(3, FIRST_STEP, 3, START_MS))
    again.give(3, 10_000)
    again.watch(STEP_MS)
    assert again.take() == []
    again.watch(2 * STEP_MS)
    close = only(again.take())
    assert close == CloseDraft(3, FIRST_STEP + 1, CLOCK, (), 3, (0, STEP_MS))


def test_pulses_behind_those_signed_count_in_the_next_step_if_their_own_is_closed() -> None:
    meter = Meter()
    again = Meter(lots=1, state=meter.lots.state(), began_ms=None)
    again.lots.resume(Signed(3, FIRST_STEP, 3, START_MS))
    again.give(3 + LOT_PULSES, 10_000)
    batch = only(again.take())
    assert isinstance(batch, BatchDraft)
    assert (batch.register, batch.step, batch.lots) == (3, FIRST_STEP + 1, (LOT_PULSES, 0))
    assert marks_of(batch) == {Mark.STRADDLE: LOT_PULSES}


def test_a_run_whose_step_is_signed_as_closed_opens_no_later_step_when_met_again() -> None:
    again = Meter(state=BLANK, began_ms=None)
    again.lots.resume(Signed(5, FIRST_STEP + 1, 5, START_MS + 100_000))
    again.begin(100_000, Ending.FIRST)
    again.give(5, 200_000)
    again.watch(STEP_MS + 300_000)
    assert again.lots.state().watching
    again.watch(STEP_MS + 200_000)
    again.lots.end_run()
    again.begin(7 * STEP_MS)
    run = only(again.take())
    assert isinstance(run, RunDraft)
    assert (run.step, run.unwatched_ms) == (FIRST_STEP + 7, START_MS + STEP_MS + 300_000)


def test_a_run_met_again_that_began_right_behind_a_closed_step_opens_the_next() -> None:
    again = Meter(state=BLANK, began_ms=None)
    again.lots.resume(Signed(5, FIRST_STEP, 5, START_MS + STEP_MS))
    again.begin(STEP_MS, Ending.FIRST)
    assert again.take() == []
    assert again.lots.state().step == FIRST_STEP + 1


@pytest.mark.parametrize(
    ("seen_ms", "watched"),
    [(3 * STEP_MS, (0, 300_000)), (3 * STEP_MS - 1, (300_000, 300_000))],
)
def test_behind_a_close_met_again_a_step_was_watched_throughout_if_the_one_before_was_seen(
    seen_ms: int, watched: tuple[int, int]
) -> None:
    closed = {"step": None, "next_step": FIRST_STEP + 4, "watched": (), "lots": ()}
    lots = kept(**closed, seen_ms=START_MS + seen_ms, held_software=None, held_ending=None)
    lots.watch(START_MS + 4 * STEP_MS + 300_000, CLOCK)
    assert (lots.state().watched, lots.state().clock) == (watched, CLOCK)


def test_time_that_passes_after_a_killed_run_is_not_called_watched() -> None:
    meter = Meter()
    meter.give(3, 10_000)
    # The kill left no word of the run's end, and at the next start the line is gone.
    meter.lots.pass_by(START_MS + STEP_MS + 5_000, CLOCK)
    close = meter.take()[-1]
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, 10_000)
    after = meter.lots.state()
    assert (after.step, after.watched, after.watching) == (None, (), False)


def test_a_run_met_again_in_an_open_step_leaves_its_gap_unwatched() -> None:
    again = Meter(state=BLANK, began_ms=None)
    again.lots.resume(Signed(0, None, 0, START_MS + 100_000))
    again.begin(0, Ending.FIRST)
    again.watch(40_000)
    again.begin(100_000)
    assert again.take() == []
    again.watch(STEP_MS)
    close = only(again.take())
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, 40_000, 100_000, STEP_MS)


def test_a_signed_run_start_is_not_drafted_again_but_a_new_one_always_is() -> None:
    meter = Meter()
    before = BLANK
    again = Meter(state=before, began_ms=None)
    again.lots.resume(Signed(0, None, 0, START_MS))
    again.begin(0, Ending.FIRST)
    assert again.take() == []
    again.lots.caught_up()
    again.begin(60_000)
    assert isinstance(only(again.take()), RunDraft)
    assert len(meter.take()) == 1


def test_a_new_run_is_declared_even_if_the_clock_stands_before_the_newest_signed_one() -> None:
    # A power cut took the journal's word of that run, and the clock has gone back since.
    meter = Meter(began_ms=None)
    meter.lots.resume(Signed(0, None, 0, START_MS + 100_000))
    meter.lots.caught_up()
    meter.begin(40_000)
    run = only(meter.take())
    assert isinstance(run, RunDraft)
    assert run.at_ms == START_MS + 100_001
    doubtful_ms = 60_001 + CLOCK.error_ms
    assert marks_of(run) == {Mark.CLOCK_STEPPED: 60_001, Mark.CLOCK_DOUBTFUL: doubtful_ms}


# --- Any order of things -------------------------------------------------------------------------

moves = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(1, 40), st.integers(0, 400_000)),
        st.tuples(st.just("watch"), st.just(0), st.integers(0, 400_000)),
        st.tuples(st.just("sleep"), st.just(0), st.integers(STEP_MS, 4 * STEP_MS)),
        st.tuples(st.just("back"), st.just(0), st.integers(0, 2 * STEP_MS)),
        st.tuples(st.just("begin"), st.just(0), st.integers(0, 400_000)),
        st.tuples(st.just("snapshot"), st.just(0), st.just(0)),
        st.tuples(st.just("oversize"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@examples(150)
@given(moves, st.integers(1, 5), st.sampled_from([0, 1_000, 60_000, 2**40]))
def test_every_pulse_is_in_one_lot_of_one_step_whatever_happens(
    moves: list[tuple[str, int, int]], lots: int, delay_ms: int
) -> None:
    meter = Meter(lots=lots, delay_ms=delay_ms)
    drafts = meter.take()
    now = given = 0
    for kind, pulses, passed in moves:
        now = max(0, now - passed) if kind == "back" else now + passed
        match kind:
            case "give":
                meter.give(pulses, now)
                given += pulses
            case "begin":
                meter.begin(now)
            case "snapshot":
                drafts += meter.take()
                oversize = meter.limits.oversize
                meter = Meter(lots=lots, delay_ms=delay_ms, state=meter.lots.state(), began_ms=None)
                meter.limits.oversize = oversize
            case "oversize":
                meter.limits.oversize = not meter.limits.oversize
            case _:
                meter.watch(now)
        check_chain(drafts + meter.lots.drafts)
    drafts += meter.take()
    meter.watch(10**9)
    drafts += meter.take()
    assert check_chain(drafts) == given


def check_chain(drafts: list[Draft]) -> int:
    """The rules of a chain that no order of events may break; the register it reaches."""
    register = closed_from = 0
    step, closed_step = 0, -1
    for draft in drafts:
        assert draft.step >= step, "steps only advance"
        step = draft.step
        assert step > closed_step, "a closed step stays closed"
        match draft:
            case RunDraft():
                assert draft.register == register
            case BatchDraft():
                assert draft.register == register
                pulses, times = draft.lots[::2], draft.lots[1::2]
                assert 0 < len(pulses) <= LOTS_MAX
                assert min(pulses) > 0
                assert max(pulses) <= LOT_PULSES or Mark.OVERSIZE in draft.marks[::2]
                assert list(times) == sorted(times)
                assert times[-1] <= STEP_MS
                register += sum(pulses)
            case CloseDraft():
                assert draft.register == closed_from
                assert draft.register_after == register
                closed_from, closed_step = register, step
                assert all(0 <= at <= STEP_MS for at in draft.watched)
                assert all(
                    begin <= end
                    for begin, end in zip(draft.watched[::2], draft.watched[1::2], strict=True)
                )
    return register


def test_the_shortest_time_between_pulses_is_that_at_i_max() -> None:
    assert DETAILS.ratings.power_w(DETAILS.i_max_ma) == 44_850
    # 0.1 Wh per pulse at 44.85 kW: 8.03 ms
    assert pytest.approx(8.03, abs=0.005) == 0.1 / 44_850 * 3_600_000


# --- A snapshot, and what is signed behind it. ---------------------------------------------------

KEPT = replace(
    BLANK,
    register=70,
    lot_from=65,
    batch_from=60,
    closed_from=50,
    next_step=FIRST_STEP,
    run_ms=START_MS + 1,
    lots=(5, 2_000),
    lots_ms=START_MS + 2_000,
    watched=(0, 3_000),
    watching=True,
    marks=(5, 2, 8, 1),
    step=FIRST_STEP,
    seen_ms=START_MS + 3_000,
    held_software="test",
    held_ending=Ending.UNKNOWN,
    told_step=FIRST_STEP - 1,
    back_step=FIRST_STEP - 2,
)


def kept(**changes: object) -> Lots:
    return Lots(replace(KEPT, **changes), TERMS, Limits(1_000, 60_000))  # type: ignore[arg-type]


def test_a_snapshot_holds_all_that_it_was_made_from() -> None:
    assert kept().state() == KEPT


def test_the_step_of_what_is_signed_is_known_to_be_told() -> None:
    lots = kept(back_step=None)
    lots.resume(Signed(60, None, 50, START_MS, FIRST_STEP))
    assert lots.state().told_step == FIRST_STEP
    lots.resume(Signed(60, None, 50, START_MS, None))
    assert lots.state().told_step == FIRST_STEP


@pytest.mark.parametrize(("ahead", "told"), [(4, True), (5, False)])
def test_what_is_signed_of_the_far_future_is_not_believed_once_the_clock_came_back(
    ahead: int, told: bool
) -> None:
    lots = kept()
    step = FIRST_STEP - 2 + ahead
    lots.resume(Signed(60, FIRST_STEP + 1, 50, START_MS, step))
    after = lots.state()
    assert after.told_step == (step if told else KEPT.told_step)
    assert after.next_step == (FIRST_STEP + 2 if told else KEPT.next_step)
    assert (after.step is None) == told
    assert after.watched == (() if told else KEPT.watched)


FAR = FIRST_STEP + 9_000
LED_AWAY = replace(
    KEPT,
    step=FAR,
    next_step=FAR + 1,
    lots=(5, 2_000, 4, 3_000, 3, 4_000),
    run_ms=FAR * STEP_MS + 1,
    lots_ms=FAR * STEP_MS + 2_000,
    seen_ms=FAR * STEP_MS + 3_000,
    told_step=FAR,
)
BACK = replace(
    LED_AWAY,
    step=FIRST_STEP,
    next_step=FIRST_STEP + 1,
    lots=(5, 400_000, 4, 400_000, 3, 400_000),
    run_ms=START_MS + 400_000,
    lots_ms=START_MS + 400_000,
    watched=(400_000, 400_000),
    seen_ms=START_MS + 400_000,
    told_step=None,
    back_step=FIRST_STEP,
)


def led_away(**changes: object) -> Lots:
    return Lots(replace(LED_AWAY, **changes), TERMS, Limits(1_000, 60_000))  # type: ignore[arg-type]


def test_a_chain_that_comes_back_begins_the_present_step_with_what_is_not_signed() -> None:
    lots = led_away()
    lots.come_back(START_MS + 400_000)
    assert lots.state() == BACK


def test_a_chain_that_comes_back_while_nobody_watches_claims_nothing_watched() -> None:
    lots = led_away(watching=False)
    lots.come_back(START_MS + 400_000)
    assert lots.state() == replace(BACK, watching=False, watched=())
    lots = led_away(watching=False, seen_ms=START_MS + 7)  # before the clock went wrong
    lots.come_back(START_MS + 400_000)
    assert lots.state().seen_ms == START_MS + 7


def test_a_chain_without_an_open_step_comes_back_as_well() -> None:
    lots = led_away(step=None, lots=(), watched=(), watching=False)
    lots.come_back(START_MS + 400_000)
    after = lots.state()
    assert (after.step, after.next_step, after.told_step) == (None, FIRST_STEP, None)


def test_a_run_that_begins_once_the_chain_has_come_back_is_declared() -> None:
    """Whatever the newest signed one said of the far future."""
    lots = led_away()
    lots.resume(Signed(60, FAR - 1, 50, FAR * STEP_MS + 1, FAR))
    lots.come_back(START_MS + 400_000)
    lots.begin_run(START_MS + 500_000, "test", Ending.UNKNOWN, CLOCK)
    run = lots.drafts[-1]
    assert isinstance(run, RunDraft)
    assert (run.step, run.at_ms) == (FIRST_STEP, START_MS + 500_000)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_chain_is_far_ahead_where_a_gateway_sets_its_records_aside(is_open: bool) -> None:
    for ahead, is_far in ((FUTURE_STEPS, False), (FUTURE_STEPS + 1, True)):
        step = FIRST_STEP + ahead
        lots = led_away(step=step, next_step=0) if is_open else led_away(step=None, next_step=step)
        assert lots.is_far_ahead(START_MS + STEP_MS - 1) is is_far


@pytest.mark.parametrize(
    ("told", "step"),
    [(None, FIRST_STEP - 7), (FIRST_STEP - 20, FIRST_STEP - 7), (FIRST_STEP + 3, FIRST_STEP + 4)],
)
def test_a_step_that_goes_back_stays_behind_the_newest_one_told(
    told: int | None, step: int
) -> None:
    lots = led_away(told_step=told)
    lots.put_back(START_MS - 7 * STEP_MS)
    assert (lots.state().step, lots.state().next_step) == (step, step + 1)


def test_a_clock_put_back_within_the_open_step_changes_nothing() -> None:
    lots = kept()
    lots.put_back(START_MS + 500)
    assert lots.state() == KEPT
    lots = kept(step=None)
    lots.put_back(START_MS - STEP_MS)
    assert lots.state() == replace(KEPT, step=None)
    lots = kept(step=None, told_step=None)
    lots.put_back(START_MS - STEP_MS)
    assert lots.state() == replace(KEPT, step=None, told_step=None)
