"""What a ledger shows of how meters were counted: states of steps, sums, and what goes with them;
and that its numbers are those of the leaves, reckoned in another way."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.authority_records import Use
from cryptometer.chain_records import Batch, Mark, Reading, StepClose
from cryptometer.energy_verdict import Verdict
from cryptometer.record_fields import Role
from cryptometer.steps import ClockState
from gateway.exports.accuracy_words import is_good, sentences
from gateway.exports.measured import Aside, Measured, MeterReport, StepState, summarise
from tests.core.community import PULSE_UWH, Village
from tests.core.strategies import examples
from tests.gateway.exports.watched import (
    ABOVE,
    DOUBTFUL,
    LATE,
    LOST,
    MISSED,
    OFF,
    OPEN,
    SILENT,
    STALE,
    STEPS,
    UNIT_UWH,
    measure,
    watched,
)


@pytest.fixture(scope="module")
def village() -> tuple[Village, range]:
    return watched()


@pytest.fixture(scope="module")
def measured(village: tuple[Village, range]) -> Measured:
    return measure(*village)


def of(measured: Measured, name: str) -> MeterReport:
    [found] = [meter for meter in measured.meters if meter.name == name]
    return found


def states(meter: MeterReport) -> dict[int, StepState]:
    """What is not an ordinary close, by place."""
    first = meter.steps[0].step
    return {one.step - first: one.state for one in meter.steps if one.state is not StepState.CLOSED}


def test_every_step_that_was_expected_has_a_row_and_says_what_became_of_it(
    measured: Measured,
) -> None:
    assert [len(meter.steps) for meter in measured.meters] == [STEPS] * 3
    assert states(of(measured, "roof")) == {
        LATE: StepState.LATE,
        **dict.fromkeys(SILENT, StepState.NOT_HEARD),
    }
    assert states(of(measured, "shed")) == {OPEN: StepState.NOT_CLOSED}
    assert states(of(measured, "hall")) == {
        **dict.fromkeys(MISSED, StepState.NOT_HEARD),
        STALE: StepState.SET_ASIDE,
    }


def test_silence_has_no_energy_and_a_zero_is_one(measured: Measured) -> None:
    roof = of(measured, "roof").steps
    assert roof[0].energy_uwh == 0
    silent = roof[SILENT[0]]
    assert (silent.energy_uwh, silent.clock, silent.watched_ms, silent.block) == (None,) * 4


def test_lateness_is_from_the_steps_end_until_its_block_was_sealed(measured: Measured) -> None:
    roof = of(measured, "roof").steps
    late, next_ = roof[LATE], roof[LATE + 1]
    assert (late.late_steps, late.sealed_after_ms) == (1, 905_000)
    assert (next_.late_steps, next_.sealed_after_ms) == (0, 5_000)
    assert summarise([of(measured, "roof")]).latest_ms == 905_000


def test_what_was_set_aside_is_told_with_its_reason(measured: Measured) -> None:
    shed = of(measured, "shed").steps[ABOVE]
    assert shed.aside == (Aside("lot-above-v", 1, 9 * PULSE_UWH),)
    assert shed.state is StepState.CLOSED
    hall = of(measured, "hall").steps[STALE]
    assert hall.aside == (Aside("stale-reading", 1, 0),)
    assert hall.counted_uwh == 3 * 10**6
    assert measured.summary.aside_uwh == 9 * PULSE_UWH


def test_energy_of_several_steps_in_one_close_says_since_when(measured: Measured) -> None:
    steps = of(measured, "hall").steps
    several = steps[MISSED[-1] + 1]
    assert several.energy_uwh == 9 * 10**6
    assert several.since_step == steps[MISSED[0] - 1].step
    # Read in both, so that the device says nothing of it; but the first was not closed.
    assert steps[STALE + 1].energy_uwh == 6 * 10**6
    assert steps[STALE + 1].since_step == steps[STALE - 1].step
    assert measured.summary.several == 2


def test_marks_and_clocks_are_told_by_step_and_in_sum(measured: Measured) -> None:
    roof = of(measured, "roof")
    assert roof.steps[LOST].marks == (Mark.LOST, 2, Mark.RECOVERED, 5)
    summary = summarise([roof])
    assert summary.marks == ((Mark.LOST, 1, 2), (Mark.RECOVERED, 1, 5))
    assert summary.clocks == {
        ClockState.SYNCHRONISED: STEPS - 1 - len(SILENT),
        ClockState.INFORMATIVE: 1,
    }
    assert (summary.worst_ms, summary.worst_step) == (1_400, roof.steps[DOUBTFUL].step)


def test_the_step_in_which_the_second_source_went_wrong_is_outside(measured: Measured) -> None:
    roof = of(measured, "roof")
    wrong = [one.step - roof.steps[0].step for one in roof.steps if one.compared]
    assert wrong == [at for at in range(1, STEPS) if at not in SILENT]
    outside = [one for one in roof.compared if not one.is_within]
    assert [one.step for one in outside] == [roof.steps[OFF].step]
    assert 8 * UNIT_UWH <= outside[0].difference_uwh <= 10 * UNIT_UWH
    assert not of(measured, "shed").compared
    assert is_good(measured) is False
    assert next(sentences(measured)).startswith("1 of 45 compared steps of 1 meter is NOT within")


def test_a_comparison_begins_at_the_last_reading_before_the_period(
    village: tuple[Village, range],
) -> None:
    whole, steps = village
    part = measure(whole, range(steps.start + 5, steps.start + 9))
    assert [one.step for one in of(part, "roof").compared] == list(part.steps)
    assert of(part, "roof").compared[0].since_step == steps.start + 4
    good = list(sentences(part))
    assert good[0].startswith("All 4 compared steps of 1 meter are within the maximum permissible")
    assert is_good(part)
    assert "12 of 12 steps were closed in their own block." in good


def test_steps_without_a_block_are_no_silence(village: tuple[Village, range]) -> None:
    whole, steps = village
    later = measure(whole, range(steps.stop - 2, steps.stop + 5))
    assert later.without_block == 5
    assert [len(meter.steps) for meter in later.meters] == [2] * 3
    nothing = measure(whole, range(steps.stop + 50, steps.stop + 60))
    assert (nothing.meters, nothing.without_block) == ((), 10)
    assert next(sentences(nothing)).startswith("No step was compared")


def test_a_revoked_meter_is_not_waited_for() -> None:
    village = Village(meters=2)
    village.run([1], [2])
    village.govern(village.authority.revoke(Role.METER, "m1"))
    village.block()
    first = village.next_step
    village.send(*village.devices[0].step(first, 1))
    village.block()
    measured = measure(village, range(first, first + 1))
    assert [meter.name for meter in measured.meters] == ["m0"]


def test_a_meter_of_consumption_stands_in_no_ledger_and_has_no_row() -> None:
    village = Village(meters=1)
    village.add_meter("flat", use=Use.CONSUMPTION)
    village.block()
    first = village.next_step
    village.send(village.device.run_start(first), *village.device.step(first, 3))
    village.block()
    assert [one.name for one in measure(village, range(first, first + 1)).meters] == ["m0"]


# --- The same numbers, reckoned from the leaves in another way. ---

LOTS = st.lists(st.integers(0, 9), max_size=3)  # nine are above V
TURNS = st.lists(
    st.tuples(LOTS, st.booleans(), st.booleans(), st.integers(-30, 30)), min_size=1, max_size=7
)


def lived(plans: Sequence[Sequence[tuple[list[int], bool, bool, int]]]) -> tuple[Village, range]:
    """A village whose meters do this, step by step: lots, whether all waits for the next step's
    block, whether the step is closed, by how many watt-hours the second source jumps."""
    village = Village(meters=len(plans))
    first = village.next_step
    village.send(*(device.run_start(first) for device in village.devices))
    length = max(len(plan) for plan in plans)
    kept: list[list] = [[] for _ in plans]  # type: ignore[type-arg]
    off = [0] * len(plans)
    for at in range(length + 1):
        for number, (device, plan) in enumerate(zip(village.devices, plans, strict=True)):
            waits = False
            if at < len(plan):
                lots, waits, closes, jump = plan[at]
                off[number] += abs(jump)
                if lots:
                    kept[number].append(device.batch(first + at, *lots))
                index = 10_000 + device.register // 10 + off[number]
                said = {"counting": False, "unit_uwh": UNIT_UWH, "counted": device.register}
                kept[number].append(device.reading(first + at, index, **said))
                if closes:
                    kept[number].append(device.close(first + at))
            if not waits:
                village.send(*kept[number])
                kept[number] = []
        village.block()
    return village, range(first, first + length)


@given(st.lists(TURNS, min_size=1, max_size=3))
@examples(25)
def test_every_number_is_that_of_the_leaves(
    plans: list[list[tuple[list[int], bool, bool, int]]],
) -> None:
    village, steps = lived(plans)
    measured = measure(village, steps)
    verdicts = [one for checked in village.checked for one in checked.verdicts]
    for meter in measured.meters:
        own = [one for one in verdicts if getattr(one.record.body, "meter", None) == meter.name]
        state, summary = village.state.meters[meter.name], summarise([meter])
        assert summary.energy_uwh == state.transferred_uwh
        assert summary.aside_uwh == state.quarantined_uwh
        counted = sum(one.counted_uwh for one in meter.steps)
        assert counted == state.transferred_uwh + state.untransferred_uwh
        assert Counter(one.state for one in meter.steps) == expected_states(village, own, steps)
        assert_compared(meter, own)


def expected_states(village: Village, own: Sequence[Verdict], steps: range) -> Counter[StepState]:
    """What became of each step, from where its leaves stand."""
    blocks = {
        record.identity: checked.state.step
        for checked, block in zip(village.checked, village.blocks, strict=True)
        for record in block
    }
    found: Counter[StepState] = Counter()
    for step in steps:
        leaves = [one for one in own if getattr(one.record.body, "step", None) == step]
        closes = [one for one in leaves if isinstance(one.record.body, StepClose)]
        good = [blocks[one.record.identity] for one in closes if one.reason is None]
        if good:
            found[StepState.CLOSED if good == [step] else StepState.LATE] += 1
        elif closes:
            found[StepState.SET_ASIDE] += 1
        else:
            found[StepState.NOT_CLOSED if leaves else StepState.NOT_HEARD] += 1
    return found


def assert_compared(meter: MeterReport, own: Sequence[Verdict]) -> None:
    """Between two readings: the batches that stand between them, and what the index grew by."""
    readings: list[tuple[int, int]] = []
    pulses = 0
    for one in own:
        body = one.record.body
        if isinstance(body, Batch):
            pulses += sum(body.pulses)
        elif isinstance(body, Reading):
            readings.append((pulses * PULSE_UWH, body.index * UNIT_UWH))
    rows = meter.compared
    assert len(rows) == max(0, len(readings) - 1)
    for row, before, after in zip(rows, readings, readings[1:], strict=False):
        counted, index = after[0] - before[0], after[1] - before[1]
        assert (row.counted_uwh, row.index_uwh) == (counted, index)
        allowed = index * 2 // 100 + UNIT_UWH + PULSE_UWH
        assert row.is_within == (abs(counted - index) <= allowed)
