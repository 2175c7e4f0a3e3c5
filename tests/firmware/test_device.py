"""The device's one order of work, in one process: whatever ends it, wherever, every pulse that was
given is in exactly one lot, and the time nobody watched is declared."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import ChainPlace, Revocation
from cryptometer.block import Checked
from cryptometer.chain import register_after
from cryptometer.chain_records import Batch, ChainRecord, Ending, Mark, RunStart, StepClose
from cryptometer.doubt import BOOT_CONFIRM_NS
from cryptometer.errors import Reason
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState, step_of, step_start_ms
from firmware import conversing
from firmware import journal as journalling
from firmware import outbox as keeping
from firmware.anchoring import Anchoring
from firmware.config import JournalSettings
from firmware.device import Wake
from firmware.journal import Journal
from firmware.outbox import RESEND_MAX_NS
from firmware.watching import ALERT_NS
from hal import faults
from hal.faults import Point
from hal.files import SimulatedDirectory
from hal.ports import Connected, Disconnected, Message, PulseSource
from tests.core.community import DETAILS, FIRST_STEP, LOT_PULSES, STEP_S
from tests.core.strategies import examples
from tests.simulation.world import CONFIG, START_NS, Board, Wire, World

START_MS = START_NS // NS_PER_MS
TICK_S = 5
BOOT_S = BOOT_CONFIRM_NS // NS_PER_S
STORY_TICK_S = 2  # shorter than the interval of syncs, so that a power cut finds something to tear
SYNC_MS = CONFIG.journal.sync_machine_ms
WATCH_MS = CONFIG.journal.watch_machine_ms

# The points that a device passes; the others belong to the gateway.
DEVICE_POINTS = [point for point in Point if point.startswith(("file.", "device."))]


class Crash(BaseException):
    """The program died here."""


@pytest.fixture
def board(world: World) -> Board:
    [board] = world.boards
    board.start()
    return board


@dataclass
class Ledger:
    """What the ledger's leaves say of the one meter."""

    records: list[ChainRecord] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[RunStart]:
        return [one for one in self.records if isinstance(one, RunStart)]

    @property
    def batches(self) -> list[Batch]:
        return [one for one in self.records if isinstance(one, Batch)]

    @property
    def closes(self) -> list[StepClose]:
        return [one for one in self.records if isinstance(one, StepClose)]

    @property
    def pulses(self) -> int:
        return sum(sum(batch.pulses) for batch in self.batches)

    @property
    def marks(self) -> dict[int, int]:
        total: dict[int, int] = {}
        for one in self.records:
            for mark, amount in zip(one.marks[::2], one.marks[1::2], strict=True):
                total[mark] = total.get(mark, 0) + amount
        return total

    @property
    def watched_ms(self) -> list[tuple[int, int]]:
        """Intervals said to be watched, UTC."""
        found = []
        for close in self.closes:
            start = step_start_ms(close.step, STEP_S)
            pairs = zip(close.watched[::2], close.watched[1::2], strict=True)
            found += [(start + begin, start + end) for begin, end in pairs]
        return found


def read_ledger(world: World) -> Ledger:
    """Audits the ledger's files, and reads the meter's records from them."""
    found = Ledger()

    def watch(checked: Checked) -> None:
        for verdict in checked.verdicts:
            body = verdict.record.body
            if isinstance(body, ChainRecord):
                found.records.append(body)
                if verdict.reason is not None:
                    found.quarantined.append(verdict.reason)

    world.audit(watch)
    return found


def settle(world: World) -> Ledger:
    """No more pulses: what is on its way arrives, and its steps get their blocks."""
    world.run(2 * STEP_S + 30, TICK_S, pulses=0)
    return read_ledger(world)


def now_ms(board: Board) -> int:
    return board.clock.now().utc_ns // NS_PER_MS


def registers_of(board: Board) -> tuple[int, int]:
    """What the board's disk says was given, and what it says was signed."""
    given_pulses = Journal(board.journal).peek()
    end = keeping.Outbox(board.outbox, limit_bytes=0, window=1).peek()
    return given_pulses, 0 if end is None else end.register


def is_stopped(board: Board) -> bool:
    """Whether the board's chain cannot go on."""
    assert board.device is not None
    return board.device._outbox.stop is not None


def check_whole(world: World, board: Board, ledger: Ledger) -> None:
    """Promises A and B of a board that is up and has been heard."""
    assert board.device is not None
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses == board.device._counter.register
    assert max(max(batch.pulses) for batch in ledger.batches) <= LOT_PULSES
    sequences = [one.sequence for one in ledger.records]
    assert sequences == list(range(len(sequences)))
    assert len({close.step for close in ledger.closes}) == len(ledger.closes)
    reasons = {refusal.reason for refusal in world.store.refusals()}
    assert reasons <= {"unknown-key", "gap"}  # before the first block; out of order


# --- A quiet life --------------------------------------------------------------------------------


def test_every_pulse_is_in_a_block_and_every_step_is_closed(world: World, board: Board) -> None:
    world.run(4 * STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert [run.ending for run in ledger.runs] == [Ending.FIRST]
    assert [close.step for close in ledger.closes] == list(
        range(ledger.closes[0].step, ledger.closes[0].step + 6)
    )
    assert {close.watched for close in ledger.closes} == {(0, STEP_S * 1_000)}
    assert all(close.checkpoint is not None for close in ledger.closes[1:])


def test_an_orderly_end_loses_nothing_and_says_so(world: World, board: Board) -> None:
    world.run(500, TICK_S)
    stopped_ms = now_ms(board)
    board.stop()
    world.run(300, TICK_S, pulses=0)
    board.start()
    started_ms = now_ms(board)
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    second = ledger.runs[1]
    assert (second.ending, second.unwatched_ms, second.at_ms) == (
        Ending.STOPPED,
        stopped_ms,
        started_ms,
    )


def test_an_orderly_end_survives_a_power_cut_right_after_it(world: World, board: Board) -> None:
    world.run(503, 1)
    board.stop()
    board.cut_power()
    board.start()
    world.run(100, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted


def test_pulses_that_wait_in_the_line_at_the_start_are_counted_and_marked(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.kill()
    board.give(50)
    board.start()
    world.run(STEP_S, TICK_S, pulses=0)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.marks[Mark.BURST] == 50


def test_noise_and_what_the_kernel_dropped_are_declared(world: World, board: Board) -> None:
    world.run(60, TICK_S)
    board.noise, board.lost = 7, 3
    world.run(60, TICK_S)
    board.noise = 5
    world.run(60, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert (ledger.marks[Mark.NOISE], ledger.marks[Mark.LOST]) == (12, 3)


def test_an_unplugged_line_is_declared_and_watched_again_when_it_is_back(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.is_unplugged = True
    lost_ms = now_ms(board)
    world.run(200, TICK_S)
    board.is_unplugged = False
    world.run(500, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted - board.missed
    assert board.missed > 0
    again = ledger.runs[1]
    assert (again.ending, again.unwatched_ms) == (Ending.LINE_LOST, lost_ms)
    assert lost_ms + 200_000 <= again.at_ms <= lost_ms + 200_000 + 2 * TICK_S * 1_000


def test_while_the_line_is_gone_what_was_counted_gets_its_close_in_time(
    world: World, board: Board
) -> None:
    world.run(500, TICK_S)
    board.is_unplugged = True
    world.run(STEP_S - 500 + 60, TICK_S)
    ledger = read_ledger(world)
    [close] = ledger.closes
    assert close.watched == (0, 500_000)
    assert ledger.pulses == board.emitted - board.missed
    world.run(2 * STEP_S, TICK_S)
    assert len(read_ledger(world).closes) == 1
    board.is_unplugged = False
    world.run(STEP_S, TICK_S)
    check_whole(world, board, settle(world))


def test_a_killed_run_does_not_watch_on_where_the_clock_is_set_forward_without_its_line(
    world: World, board: Board
) -> None:
    world.run(300, TICK_S)
    board.kill()
    board.is_unplugged = True
    board.clock.utc_ns += STEP_S * NS_PER_S
    board.start()
    world.run(60, TICK_S, pulses=0)
    board.is_unplugged = False
    world.run(2 * STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    _, again = ledger.runs
    assert again.unwatched_ms is not None
    assert again.unwatched_ms <= START_MS + 300_000
    gone = (START_MS + 300_000, again.at_ms)
    assert all(end <= gone[0] or begin >= gone[1] for begin, end in ledger.watched_ms)


def test_a_boot_without_its_line_does_not_close_steps_by_the_clock_of_the_boot_before(
    world: World, board: Board
) -> None:
    world.run(300, TICK_S)
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    board.clock.mono_ns = 5_000 * NS_PER_S  # a long wait in the boot loader
    board.is_unplugged = True
    board.start()
    world.run(60, TICK_S, pulses=0)
    board.is_unplugged = False
    board.clock.state = ClockState.SYNCHRONISED
    world.run(300, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert {one.step for one in ledger.runs} == {START_MS // 1_000 // STEP_S}


def test_a_line_that_is_found_gone_at_the_end_does_not_upset_it(world: World, board: Board) -> None:
    world.run(100, TICK_S)
    board.is_unplugged = True
    board.stop()
    board.is_unplugged = False
    board.start()
    world.run(100, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.runs[1].ending is Ending.LINE_LOST


def test_a_line_that_is_missing_at_the_start_is_waited_for(world: World) -> None:
    [board] = world.boards
    board.is_unplugged = True
    board.start()
    world.run(60, TICK_S)
    assert board.device is not None
    assert ", no line: " in board.device.status
    board.is_unplugged = False
    world.run(600, TICK_S)
    assert "no line" not in board.device.status
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted - board.missed
    assert len(ledger.runs) == 1


def test_a_pulse_that_may_still_be_on_its_way_is_not_said_to_be_taken(
    world: World, board: Board
) -> None:
    board.stop()
    board.line.latency_ns = 3 * NS_PER_S
    board.start()
    world.run(60, TICK_S)
    board.noise = 1  # something to journal beside it: the mark is made when nothing else is
    world.run(WATCH_MS // 1_000 + TICK_S, TICK_S, pulses=0)
    looked_ms = now_ms(board)
    board.kill()
    board.start()
    ledger = settle(world)
    check_whole(world, board, ledger)
    unwatched_ms = ledger.runs[-1].unwatched_ms
    assert unwatched_ms is not None
    assert (looked_ms - unwatched_ms) % (TICK_S * 1_000) == 3_000


def test_a_close_leaves_at_once_and_does_not_wait_for_the_next_sync(world: World) -> None:
    [board] = world.boards
    world.run(7, 1)  # so that the end of the step falls between two syncs
    board.start()
    listener = Wire(world.broker, [f"{world.topic}/meter/+/record"])
    world.broker.connect(listener)
    world.run(STEP_S - 8, 1)
    heard: list[list[str]] = []
    for _ in range(2):
        messages = [one for one in listener.drain(1_000) if isinstance(one, Message)]
        heard.append([records.decode(one.payload).body.KIND.value for one in messages])
        world.run(1, 1)  # the first of them ends the step
    assert "step-close" not in heard[0]
    assert heard[1][-1] == "step-close"
    listener.close()


# --- Time ----------------------------------------------------------------------------------------


def test_a_board_that_boots_without_the_time_counts_and_is_dated_back(
    world: World, board: Board
) -> None:
    world.run(300, TICK_S)
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    wrong_ns = 10 * 365 * 86_400 * NS_PER_S
    board.clock.utc_ns -= wrong_ns  # no battery: the clock shows some other year
    board.start()
    started = board.emitted
    world.run(200, TICK_S)
    assert board.device is not None
    assert board.device._counter.dating is None
    assert board.device._counter.register >= board.emitted - started
    board.clock.utc_ns += wrong_ns
    board.clock.state = ClockState.SYNCHRONISED
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    second = ledger.runs[1]
    assert second.at_ms == START_MS + 300_000
    assert Mark.UNDATED not in ledger.marks
    assert Mark.CLOCK_STEPPED not in ledger.marks
    assert {close.step for close in ledger.closes} == set(
        range(START_MS // 1_000 // STEP_S, ledger.closes[-1].step + 1)
    )


def test_a_boot_that_never_knew_the_time_goes_to_the_first_known_step_and_is_marked(
    world: World, board: Board
) -> None:
    world.run(300, TICK_S)
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    before = board.emitted
    board.start()
    world.run(200, TICK_S)
    counted = board.emitted - before
    board.stop()
    board.cut_power()
    board.start()
    world.run(100, TICK_S)
    board.clock.state = ClockState.SYNCHRONISED
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.marks[Mark.UNDATED] == counted


def test_a_board_whose_line_comes_late_does_not_date_an_earlier_boot_with_its_own_clock(
    world: World, board: Board
) -> None:
    board.stop()
    board.clock.state = ClockState.UNKNOWN
    board.cut_power()
    board.start()
    before = board.emitted
    world.run(400, TICK_S)  # never dated
    counted = board.emitted - before
    board.stop()
    board.cut_power()
    board.clock.state = ClockState.SYNCHRONISED
    board.is_unplugged = True
    board.start()
    world.run(50, TICK_S)
    board.is_unplugged = False
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.marks[Mark.UNDATED] == counted


def test_a_clock_that_loses_its_source_is_carried_on_and_shown_as_such(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.clock.state = ClockState.UNKNOWN
    board.clock.utc_ns += 3_600 * NS_PER_S  # nobody vouches for this
    world.run(3 * STEP_S, TICK_S)
    board.clock.utc_ns -= 3_600 * NS_PER_S
    board.clock.state = ClockState.SYNCHRONISED
    world.run(100, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    states = [close.clock.state for close in ledger.closes]
    assert states[0] is ClockState.SYNCHRONISED
    assert ClockState.RELATIVE in states
    assert states[-1] is ClockState.SYNCHRONISED
    assert Mark.CLOCK_STEPPED not in ledger.marks


def test_after_a_backward_jump_the_open_step_stays_open_and_is_marked(
    world: World, board: Board
) -> None:
    world.run(STEP_S + 300, TICK_S)
    board.clock.utc_ns -= 600 * NS_PER_S
    world.run(600, TICK_S)
    board.clock.utc_ns += 600 * NS_PER_S
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.marks[Mark.CLOCK_STEPPED] == 1_200_000
    steps = [close.step for close in ledger.closes]
    assert steps == sorted(set(steps))


DAY_NS = 86_400 * NS_PER_S


@pytest.mark.parametrize("ahead_ns", [2 * 3_600 * NS_PER_S, 3 * DAY_NS, 10 * 365 * DAY_NS])
def test_a_synchronised_clock_that_was_wrong_for_a_while_moves_nothing(
    world: World, board: Board, ahead_ns: int
) -> None:
    world.run(STEP_S + 300, TICK_S)
    board.clock.utc_ns += ahead_ns
    world.run(STEP_S, TICK_S)
    board.kill()
    board.start()
    world.run(STEP_S, TICK_S)
    board.clock.utc_ns -= ahead_ns
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert Mark.CLOCK_STEPPED not in ledger.marks
    steps = [close.step for close in ledger.closes]
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    assert any("believed once it has said so" in line for line in board.log)


def test_a_boot_that_did_not_know_the_time_for_hours_need_not_wait_for_it_once_it_does(
    world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    board.stop()
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    board.start()
    world.run(3 * 3_600, 10 * TICK_S)
    board.clock.state = ClockState.SYNCHRONISED
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted


def test_after_weeks_without_power_a_clock_is_believed_in_the_end_and_nothing_is_lost(
    world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    board.stop()
    board.cut_power()
    world.clock.advance(20 * DAY_NS)
    board.clock.utc_ns += 20 * DAY_NS
    board.start()
    started_ms = now_ms(board)
    world.run(BOOT_S - TICK_S, TICK_S)
    assert board.device is not None
    assert board.device._counter.dating is None
    assert "not believed yet" in board.device.status
    assert any("once it has said so for 10 minutes" in line for line in board.log)
    world.run(2 * TICK_S, TICK_S)
    assert "not believed yet" not in board.device.status
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.runs[-1].at_ms == started_ms
    assert Mark.UNDATED not in ledger.marks


def boot_after_a_day_off(world: World, board: Board) -> None:
    world.run(STEP_S, TICK_S)
    board.stop()
    board.cut_power()
    world.clock.advance(DAY_NS)
    board.clock.utc_ns += DAY_NS
    board.start()


def test_a_wrong_clock_that_comes_right_within_ten_minutes_of_a_boot_has_moved_nothing(
    world: World, board: Board
) -> None:
    boot_after_a_day_off(world, board)
    started_ms = now_ms(board)
    board.clock.utc_ns += 40 * DAY_NS
    world.run(BOOT_S - 2 * TICK_S, TICK_S)
    board.clock.utc_ns -= 40 * DAY_NS
    # The right time is far ahead as well, and what was said before speaks for another one.
    world.run(BOOT_S - 2 * TICK_S, TICK_S)
    assert board.device is not None
    assert board.device._counter.dating is None
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.runs[-1].at_ms == started_ms


@pytest.mark.parametrize("is_started_over", [False, True])
def test_a_boot_that_has_believed_a_time_doubts_another_for_an_hour(
    world: World, board: Board, is_started_over: bool
) -> None:
    boot_after_a_day_off(world, board)
    world.run(BOOT_S + TICK_S, TICK_S)
    assert board.device is not None
    assert board.device._counter.dating is not None
    if is_started_over:  # a start of the program is no boot
        board.kill()
        board.start()
    board.clock.utc_ns += 40 * DAY_NS
    world.run(3_600 - TICK_S, TICK_S)
    assert "not believed yet" in board.device.status
    assert any("once it has said so for 60 minutes" in line for line in board.log)
    board.clock.utc_ns -= 40 * DAY_NS
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted


def test_a_site_that_was_without_power_leads_its_gateway_astray_no_sooner_than_in_an_hour(
    world: World, board: Board
) -> None:
    world.run(STEP_S + 60, TICK_S)
    world.stop_gateway()
    boot_after_a_day_off(world, board)
    for clock in (world.clock, board.clock):  # they ask one time source, and it is wrong
        clock.utc_ns += 40 * DAY_NS
    world.start_gateway()
    blocks = world.audit().blocks
    world.run(3_600 - 2 * TICK_S, TICK_S)
    assert board.device is not None
    assert board.device._counter.dating is not None  # the board has believed it, and said so
    assert world.node is not None
    assert world.node.pending_count > 0
    assert world.node.is_in_doubt
    assert world.audit().blocks == blocks


def lead_astray(world: World, board: Board) -> None:
    """The clock is three days ahead until the chain has followed it, and right again."""
    board.clock.utc_ns += 3 * DAY_NS
    world.run(3_600 + 60, TICK_S)
    world.run(STEP_S, TICK_S)
    board.clock.utc_ns -= 3 * DAY_NS
    world.run(STEP_S, TICK_S)


@pytest.mark.parametrize("dies_after_s", [None, 0, 100])
def test_a_chain_that_has_followed_a_wrong_clock_comes_back_behind_a_re_anchor(
    world: World, board: Board, dies_after_s: int | None
) -> None:
    world.run(STEP_S + 300, TICK_S)
    lead_astray(world, board)
    assert set(read_ledger(world).quarantined) == {"far-future"}
    board.stop()
    world.run(30, TICK_S, pulses=0)
    re_anchor(world)
    world.run(STEP_S, TICK_S, pulses=0)
    board.start()
    came_back_ms = now_ms(board)
    world.run(10, TICK_S)
    before = board.emitted
    assert "the chain goes on in the present" in board.log
    if dies_after_s is not None:
        world.run(dies_after_s, TICK_S)
        board.kill()
        board.start()
    world.run(3 * STEP_S, TICK_S)
    set_aside = len(read_ledger(world).quarantined)
    board.stop()
    board.start()
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    assert not is_stopped(board)
    assert len(ledger.quarantined) == set_aside
    assert set(ledger.quarantined) == {"far-future"}
    assert board.device is not None
    assert ledger.pulses == board.device._counter.register
    present = step_of(came_back_ms, STEP_S)
    counted = sum(sum(one.pulses) for one in ledger.batches if present <= one.step < present + 100)
    assert counted >= board.emitted - before
    closed = [close.step for close in ledger.closes if close.step < present + 100]
    assert closed[-5:] == list(range(closed[-5], closed[-5] + 5))


def re_anchor_far_ahead(world: World, board: Board) -> None:
    """A chain that has followed a wrong clock is re-anchored while its board is down."""
    world.run(STEP_S + 300, TICK_S)
    lead_astray(world, board)
    board.stop()
    world.run(30, TICK_S, pulses=0)
    re_anchor(world)
    world.run(STEP_S, TICK_S, pulses=0)


def check_present(world: World, board: Board) -> None:
    """What is counted from now on lies in steps of now."""
    present, before = step_of(now_ms(board), STEP_S), board.emitted
    world.run(2 * STEP_S, TICK_S)
    ledger = settle(world)
    assert not is_stopped(board)
    near = [one for one in ledger.batches if present <= one.step < present + 100]
    assert sum(sum(one.pulses) for one in near) >= board.emitted - before


def test_a_board_that_hears_of_its_re_anchor_before_it_knows_the_time_comes_back_too(
    world: World, board: Board
) -> None:
    re_anchor_far_ahead(world, board)
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    board.start()
    world.run(60, TICK_S)
    board.clock.state = ClockState.SYNCHRONISED
    world.run(60, TICK_S)
    check_present(world, board)


@pytest.mark.parametrize(
    ("point", "passage", "is_cut"),
    [
        (Point.FILE_APPENDED, 1, False),
        (Point.FILE_APPENDED, 3, True),
        (Point.FILE_SYNCED, 1, True),
        (Point.DEVICE_SNAPSHOT, 1, True),
    ],
)
def test_a_death_while_coming_back_does_not_leave_the_chain_in_the_far_future(
    world: World,
    board: Board,
    point: Point,
    passage: int,
    is_cut: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    re_anchor_far_ahead(world, board)
    board.start()
    act = Anchoring._re_anchor

    def act_and_die(anchoring: Anchoring) -> None:
        faults._armed[point] = passage
        act(anchoring)

    with dying(monkeypatch) as patch:
        patch.setattr(Anchoring, "_re_anchor", act_and_die)
        with pytest.raises(Crash):
            world.run(60, TICK_S)
    die(board, is_cut)
    board.start()
    check_present(world, board)


def test_a_line_hears_when_a_killed_run_counted_its_newest_pulse(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way may be that pulse still. One of another boot has ended."""
    heard: list[int] = []

    def open_line() -> PulseSource:
        line = Board.open_line(board)
        line.go_on_behind = heard.append  # type: ignore[attr-defined]
        return line

    monkeypatch.setattr(board, "open_line", open_line)
    world.run(100, TICK_S)
    board.give(1)
    board.work()
    counted_ns = board.clock.machine_ns()
    board.kill()
    board.start()
    assert heard == [counted_ns]
    board.cut_power(0)
    board.start()
    assert heard == [counted_ns]


def test_a_suspended_machine_says_that_nobody_watched(world: World, board: Board) -> None:
    world.run(100, TICK_S)
    slept_ms = now_ms(board)
    world.clock.advance(300 * NS_PER_S)
    board.clock.sleep(300 * NS_PER_S)
    board.give(4)  # in the line's buffer, before the sleep or after it
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    _, again = ledger.runs
    assert again.ending is Ending.UNKNOWN
    assert again.unwatched_ms == slept_ms
    assert slept_ms + 300_000 <= again.at_ms <= slept_ms + 300_000 + TICK_S * 1_000
    assert ledger.marks[Mark.BURST] >= 4
    assert Mark.CLOCK_STEPPED not in ledger.marks
    assert ledger.closes[0].watched == (0, 100_000, again.at_ms - START_MS, STEP_S * 1_000)


def test_a_machine_suspended_before_it_knew_the_time_is_dated_back_across_the_sleep(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.cut_power()
    board.clock.state = ClockState.UNKNOWN
    board.start()
    world.run(100, TICK_S)
    world.clock.advance(300 * NS_PER_S)
    board.clock.sleep(300 * NS_PER_S)
    world.run(50, TICK_S)
    board.clock.state = ClockState.SYNCHRONISED
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert [run.at_ms - START_MS for run in ledger.runs] == [0, 100_000, 505_000]
    assert ledger.closes[0].watched == (0, 100_000, 100_000, 200_000, 505_000, STEP_S * 1_000)


def test_a_clock_set_forward_within_a_step_leaves_a_gap_in_what_was_watched(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.clock.utc_ns += 300 * NS_PER_S
    world.run(STEP_S, TICK_S)
    board.clock.utc_ns -= 300 * NS_PER_S
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    watched = ledger.closes[0].watched
    assert watched[:2] == (0, 100_000)
    assert 400_000 <= watched[2] <= 410_000
    assert watched[3] == STEP_S * 1_000


def test_a_clock_set_forward_after_a_kill_while_the_line_is_gone_has_watched_nothing(
    world: World, board: Board
) -> None:
    world.run(100, TICK_S)
    board.kill()
    last_ms = now_ms(board)
    board.is_unplugged = True
    board.start()
    world.run(50, TICK_S, pulses=0)
    board.clock.utc_ns += 300 * NS_PER_S
    world.run(50, TICK_S, pulses=0)
    board.kill()  # what the journal is read as once more is no other
    board.start()
    world.run(50, TICK_S, pulses=0)
    board.is_unplugged = False
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.runs[1].unwatched_ms is not None
    assert ledger.runs[1].unwatched_ms <= last_ms
    begin, end = ledger.closes[0].watched[:2]
    assert begin == 0
    assert end <= 100_000
    assert all(at <= end or at >= 450_000 for at in ledger.closes[0].watched)


def test_a_doubtful_clock_is_marked_and_its_pulses_count(world: World, board: Board) -> None:
    world.run(100, TICK_S)
    board.clock.error_ns = 6_000 * NS_PER_MS
    board.clock.state = ClockState.INFORMATIVE
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert ledger.marks[Mark.CLOCK_DOUBTFUL] >= 6_000
    assert ledger.closes[-1].clock.state is ClockState.INFORMATIVE


# --- The disk ------------------------------------------------------------------------------------


def test_a_lost_journal_goes_on_from_the_newest_signed_record(world: World, board: Board) -> None:
    world.run(STEP_S + 100, TICK_S)
    board.stop()
    unsigned = board.device_register - registers_of(board)[1]
    board.journal = SimulatedDirectory()
    board.start()
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted - unsigned
    assert "the journal is lost; going on from the newest signed record" in board.log
    assert ledger.runs[1].ending is Ending.UNKNOWN


def test_damage_in_the_journal_is_declared_in_signed_data(world: World, board: Board) -> None:
    world.run(300, TICK_S)
    board.kill()
    [name] = board.journal.names()
    data = bytearray(board.journal.read(name))
    data[-20] ^= 1
    board.journal.put(name, bytes(data))
    board.start()
    world.run(STEP_S, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    [damaged] = [name for name in board.journal.names() if name.endswith(".damaged")]
    assert ledger.marks[Mark.CUT] == board.journal.size(damaged)


def test_a_full_disk_ends_the_program_and_with_room_again_it_goes_on(
    world: World, board: Board
) -> None:
    world.run(300, TICK_S)
    room = board.journal._room_bytes
    board.journal._room_bytes -= board.journal.free_bytes() - 100
    with pytest.raises(OSError, match="No space"):
        world.run(300, TICK_S)
    board.kill()
    given_pulses, _ = registers_of(board)
    board.journal._room_bytes = room
    board.start()
    assert board.device_register >= given_pulses
    world.run(300, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert board.emitted - ledger.pulses <= TICK_S * 2  # the one read in progress


def test_in_long_isolation_batches_stretch_to_a_step(world: World, board: Board) -> None:
    world.run(STEP_S, TICK_S, pulses=1)
    normal = len(read_ledger(world).batches)
    world.stop_gateway()
    world.run(6 * STEP_S, TICK_S, pulses=1)
    world.start_gateway()
    world.run(STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    per_step: dict[int, int] = {}
    for batch in ledger.batches:
        per_step[batch.step] = per_step.get(batch.step, 0) + 1
    first = START_MS // 1_000 // STEP_S
    assert [per_step[first + step] for step in (3, 4, 5)] == [1, 1, 1]
    assert per_step[first + 7] > 5
    assert normal == 0 or normal > 5


def test_the_last_resort_of_a_full_disk_is_marked(world: World, board: Board) -> None:
    world.run(STEP_S, TICK_S, pulses=1)
    world.stop_gateway()
    world.run(2 * STEP_S, TICK_S, pulses=1)
    taken = board.outbox._room_bytes - board.outbox.free_bytes()
    board.outbox._room_bytes = taken + 10 * 2**20
    world.run(3 * STEP_S, TICK_S, pulses=1)
    board.outbox._room_bytes = 2**30
    world.start_gateway()
    world.run(STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert ledger.pulses == board.emitted
    assert ledger.quarantined == []
    large = [batch for batch in ledger.batches if max(batch.pulses) > LOT_PULSES]
    assert large
    assert all(batch.declared(Mark.OVERSIZE) for batch in large)
    assert ledger.marks[Mark.OVERSIZE] == sum(
        pulses for batch in large for pulses in batch.pulses if pulses > LOT_PULSES
    )
    assert max(ledger.batches[-1].pulses) <= LOT_PULSES


def test_on_a_full_card_acknowledged_records_go_first(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 2_000)
    monkeypatch.setattr(keeping, "FREE_BYTES_MIN", 4_000)
    taken = board.outbox._room_bytes - board.outbox.free_bytes()
    board.outbox._room_bytes = taken + 20_000  # of the 256 MB that the settings allow
    world.run(8 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    assert Mark.OVERSIZE not in ledger.marks
    assert board.outbox.free_bytes() >= 4_000


def test_a_card_that_others_have_filled_lets_the_next_run_make_room(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 2_000)
    world.run(4 * STEP_S, TICK_S, pulses=1)
    board.kill()
    before = len(board.outbox.names())
    board.outbox._room_bytes -= board.outbox.free_bytes()
    board.start()
    assert len(board.outbox.names()) < before
    world.run(STEP_S, TICK_S, pulses=1)
    check_whole(world, board, settle(world))


def test_what_is_refused_is_counted_and_what_the_card_lost_is_said(
    world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    assert board.wire is not None
    assert board.device is not None
    topic = f"{world.topic}/meter/m0/ack/gw"
    for _ in range(3):
        board.wire.inbox.append(Message(topic, b"\0", False, (0, 0)))
    world.run(TICK_S, TICK_S)
    assert "3 messages refused" in board.device.status
    world.stop_gateway()
    world.run(STEP_S, TICK_S)
    [name] = board.outbox.names()
    newest = board.device._outbox._kept[0].position
    board.outbox._live[name][newest.offset + newest.size // 2] ^= 1
    world.broker.disconnect(board.wire)
    world.broker.connect(board.wire)
    world.run(TICK_S, TICK_S, pulses=0)
    assert "reason=malformed" in board.log[-1]
    assert "stopped: malformed" in board.device.status


# --- New registrations ---------------------------------------------------------------------------


def register_anew(world: World, lot_pulses: int, from_step: int) -> Record:
    """The authority registers the meter once more; the gateway takes it in."""
    details = replace(DETAILS, lot_pulses=lot_pulses)
    key = world.boards[0].key.public
    record = world.authority.register(Role.METER, "m0", key, details, from_step)
    assert world.node is not None
    assert world.node.take_authority([record.raw]) == 1
    return record


@pytest.mark.parametrize("into_step_s", [5, 450, STEP_S - 5])
@pytest.mark.parametrize("later", [0, 1, 4])
def test_a_new_registration_acts_from_its_first_step_on_and_no_pulse_is_lost(
    world: World, board: Board, later: int, into_step_s: int
) -> None:
    world.run(STEP_S + into_step_s, TICK_S, pulses=2)
    begins = step_of(now_ms(board), STEP_S) + later
    newer = register_anew(world, LOT_PULSES // 2, begins)
    world.run(6 * STEP_S, TICK_S, pulses=2)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted
    heard = next(run.step for run in ledger.runs[1:])
    for batch in ledger.batches:
        assert (batch.registration == newer.identity) == (batch.step >= max(begins, heard))
        if batch.step > max(begins, heard):
            assert max(batch.pulses) <= LOT_PULSES // 2


@pytest.fixture
def early_world() -> Iterator[World]:
    """Its meter is registered for later."""
    world = World(1, boards=1, meters_from=FIRST_STEP + 9)
    yield world
    world.close()


def test_a_registration_that_is_corrected_before_its_first_step_begins_the_chain(
    early_world: World,
) -> None:
    world = early_world
    [board] = world.boards
    board.start()
    world.run(STEP_S // 2, TICK_S)
    register_anew(world, LOT_PULSES // 2, FIRST_STEP + 3)
    world.run(2 * STEP_S, TICK_S)
    before = board.emitted
    world.run(4 * STEP_S, TICK_S)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses >= board.emitted - before
    assert ledger.batches[0].step == FIRST_STEP + 3
    assert max(max(batch.pulses) for batch in ledger.batches) <= LOT_PULSES // 2


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_board_registered_anew_before_its_first_record_has_arrived_goes_on(
    world: World, board: Board, is_restarted: bool
) -> None:
    world.stop_gateway()
    world.run(STEP_S, TICK_S, pulses=1)
    if is_restarted:
        board.kill()
        board.start()
    world.start_gateway()
    board.kill()  # until the registration acts
    register_anew(world, LOT_PULSES // 2, step_of(now_ms(board), STEP_S) + 2)
    world.run(60, TICK_S, pulses=1)
    board.start()
    world.run(4 * STEP_S, TICK_S, pulses=1)
    check_whole(world, board, settle(world))


def revoke(world: World, at: int) -> None:
    """The authority revokes the meter from record `at` on; the gateway takes it in."""
    last = world.store.identity_at("m0", at - 1)
    assert last is not None
    authority = world.authority
    body = Revocation(
        authority.next, authority.previous, Role.METER, "m0", "on leave", ChainPlace(at - 1, last)
    )
    assert world.node is not None
    assert world.node.take_authority([authority.sign(body).raw]) == 1


@pytest.mark.parametrize("away_steps", [0, 1, 3])
def test_what_a_revocation_took_back_comes_again_once_the_board_is_reinstated(
    world: World, board: Board, away_steps: int
) -> None:
    """The gateway had acknowledged it, and drops it before any block holds it."""
    world.run(2 * STEP_S + 60, TICK_S, pulses=1)
    world.clock.state = ClockState.UNKNOWN  # no block is made, and all that comes waits
    world.run(2 * STEP_S, TICK_S, pulses=1)
    assert world.node is not None
    at = world.node.state.meters["m0"].head.sequence
    revoke(world, at)
    world.clock.state = ClockState.SYNCHRONISED
    world.run((1 + away_steps) * STEP_S, TICK_S, pulses=1)
    register_anew(world, LOT_PULSES, step_of(now_ms(board), STEP_S))
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted
    assert [one.sequence for one in ledger.records] == list(range(len(ledger.records)))
    dropped = [one for one in world.store.evidence() if one.reason is Reason.REVOKED]
    assert dropped


def test_a_stop_that_was_lifted_unheard_ends_by_itself_on_a_connection_that_stands(
    world: World, board: Board
) -> None:
    world.run(2 * STEP_S + 60, TICK_S, pulses=1)
    assert board.wire is not None
    assert world.node is not None
    wire, acknowledged = board.wire, f"{world.topic}/meter/m0/ack/+"
    wire.filters = [acknowledged]  # of the registration, too, it hears nothing
    revoke(world, world.node.state.meters["m0"].head.sequence)
    world.run(2 * STEP_S, TICK_S, pulses=1)
    assert is_stopped(board)
    wire.filters = []
    register_anew(world, LOT_PULSES, step_of(now_ms(board), STEP_S))
    world.run(STEP_S, TICK_S, pulses=1)
    assert is_stopped(board)
    wire.filters = [acknowledged]
    refused = len(world.store.evidence())
    world.run(RESEND_MAX_NS // NS_PER_S + 60, TICK_S, pulses=1)
    assert board.wire is wire
    assert len(world.store.evidence()) == refused
    assert not is_stopped(board)
    ledger = settle(world)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted


# --- Re-anchors ----------------------------------------------------------------------------------


def re_anchor(world: World) -> None:
    """The authority lets the meter's chain go on from where the gateway has it."""
    retained = world.broker.retained[f"{world.topic}/meter/m0/ack/gw"]
    word = records.decode(retained).body
    assert isinstance(word, Acknowledgement)
    anchor = world.authority.re_anchor("m0", word.sequence, word.register)
    assert world.node is not None
    assert world.node.take_authority([anchor.raw]) == 1


def lose_card(board: Board) -> int:
    """The card forgets everything, acknowledged or not; returns how many pulses nobody signed."""
    board.stop()
    unsigned = board.device_register - registers_of(board)[1]
    board.journal, board.outbox = SimulatedDirectory(), SimulatedDirectory()
    board.start()
    return unsigned


def lose_outbox(board: Board) -> None:
    """The card forgets what was signed, and keeps the journal."""
    board.kill()
    board.outbox = SimulatedDirectory()
    board.start()


def rot(directory: SimulatedDirectory, part: float) -> None:
    """A bit changes in the newest file, so far into it."""
    name = [one for one in directory.names() if one.endswith(".log")][-1]
    content = directory._live[name]
    content[int(part * (len(content) - 1))] ^= 1


def test_a_board_that_lost_its_card_stops_and_goes_on_behind_a_re_anchor(
    world: World, board: Board
) -> None:
    world.run(2 * STEP_S + 60, TICK_S)
    unsigned = lose_card(board)
    world.run(STEP_S, TICK_S)
    assert is_stopped(board)
    assert any("the chain cannot go on" in line for line in board.log)
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.pulses == board.emitted - unsigned
    assert ledger.quarantined == []


def test_a_lost_outbox_whose_records_had_all_arrived_needs_no_authority(
    world: World, board: Board
) -> None:
    world.run(2 * STEP_S + 90, TICK_S, pulses=1)
    lose_outbox(board)
    assert any("what the journal knows to be signed" in line for line in board.log)
    world.run(STEP_S, TICK_S, pulses=1)
    check_whole(world, board, settle(world))


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9, 0.999])
def test_a_rotten_outbox_whose_records_had_all_arrived_needs_no_authority(
    world: World, board: Board, part: float
) -> None:
    world.run(4 * STEP_S + 60, TICK_S, pulses=1)
    board.kill()
    rot(board.outbox, part)
    board.start()
    world.run(STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.marks[Mark.CUT] > 0


def test_of_a_lost_outbox_only_what_nobody_else_had_is_missing(world: World, board: Board) -> None:
    world.run(2 * STEP_S, TICK_S, pulses=1)
    heard = world.broker.retained[f"{world.topic}/meter/m0/ack/gw"]
    word = records.decode(heard).body
    assert isinstance(word, Acknowledgement)
    world.stop_gateway()
    world.run(STEP_S, TICK_S, pulses=1)
    board.kill()
    _, signed = registers_of(board)
    board.outbox = SimulatedDirectory()
    world.start_gateway()
    board.start()
    world.run(STEP_S, TICK_S, pulses=1)
    assert is_stopped(board)
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert board.device is not None
    assert ledger.pulses == board.device._counter.register - (signed - word.register)


def test_a_damaged_card_twice_before_its_re_anchor_repeats_no_pulse(
    world: World, board: Board
) -> None:
    """Both logs lose their ends, more is signed, and both lose them again."""
    world.run(4 * STEP_S + 60, TICK_S, pulses=1)
    for _ in range(2):
        board.kill()
        rot(board.outbox, 0.6)
        rot(board.journal, 0.1)
        board.start()
        world.run(STEP_S, TICK_S, pulses=1)
        assert is_stopped(board)
    before = read_ledger(world).pulses
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert before < ledger.pulses <= board.emitted
    assert ledger.marks[Mark.CUT] > 0


def test_behind_a_card_rotten_in_both_logs_a_re_anchor_repeats_no_pulse(
    world: World, board: Board
) -> None:
    world.run(4 * STEP_S + 60, TICK_S, pulses=1)
    board.kill()
    rot(board.outbox, 0.5)
    board.journal = SimulatedDirectory()
    board.start()
    given_before = board.emitted
    world.run(STEP_S, TICK_S, pulses=1)
    assert is_stopped(board)
    board.kill()  # the place of the damage is known to later runs, too
    board.start()
    world.run(STEP_S, TICK_S, pulses=1)
    had = settle(world).pulses
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    # All that was given since is there, and nothing of what the gateway had is there twice.
    assert ledger.pulses == had + board.emitted - given_before


def test_a_re_anchor_that_came_too_late_for_its_place_repeats_no_pulse(
    world: World, board: Board
) -> None:
    """Its place is taken by then: it has no effect, and the gateway never says otherwise."""
    world.run(2 * STEP_S, TICK_S, pulses=1)
    assert world.node is not None
    early = world.authority.re_anchor("m0", 3, 20)
    assert world.node.take_authority([early.raw]) == 1
    world.run(2 * STEP_S, TICK_S, pulses=1)
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted


@pytest.mark.parametrize("is_told_late", [False, True])
def test_what_a_re_anchor_took_back_is_signed_anew(
    world: World, board: Board, is_told_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway had acknowledged it, and drops it before any block holds it."""
    world.run(2 * STEP_S + 60, TICK_S, pulses=1)
    world.clock.state = ClockState.UNKNOWN  # no block is made, and all that comes waits
    world.run(2 * STEP_S, TICK_S, pulses=1)
    assert world.node is not None
    # Where the chain stands after the block that will hold the re-anchor.
    last = [
        body
        for body in (records.decode(raw).body for raw in world.store.pending())
        if isinstance(body, ChainRecord) and body.step == world.node.state.step + 1
    ][-1]
    anchor = world.authority.re_anchor("m0", last.sequence + 1, register_after(last))
    assert world.node.take_authority([anchor.raw]) == 1
    world.clock.state = ClockState.SYNCHRONISED
    if is_told_late:  # it hears of the re-anchor, starts over, and hears then that it acts
        monkeypatch.setattr(conversing, "MESSAGES_MAX", 1)
        board.stop()
        world.run(60, TICK_S, pulses=0)
        board.start()
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert [one for one in world.store.evidence() if one.meter == "m0"]
    assert ledger.pulses == board.emitted


def is_on(card: SimulatedDirectory, record: Record) -> bool:
    return any(record.raw in card.read(name) for name in card.names())


def test_of_what_a_gateway_dropped_only_what_a_full_card_let_go_of_is_missing(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 1_000)
    world.run(2 * STEP_S + 60, TICK_S, pulses=1)
    world.clock.state = ClockState.UNKNOWN  # no block is made, and all that comes waits
    world.run(5 * STEP_S, TICK_S, pulses=1)
    assert world.node is not None
    revoke(world, world.node.state.meters["m0"].head.sequence)
    # Others fill the card: half of the files go, and with them what was not in a block yet.
    waiting = [records.decode(raw) for raw in world.store.pending()]
    sizes = [board.outbox.size(name) for name in board.outbox.names()]
    board.outbox._room_bytes = keeping.FREE_BYTES_MIN + sum(sizes[len(sizes) // 2 :])
    board.stop()
    board.start()
    held = [one for one in waiting if is_on(board.outbox, one)]
    board.outbox._room_bytes = 2**30
    world.clock.state = ClockState.SYNCHRONISED
    world.run(2 * STEP_S, TICK_S, pulses=1)
    assert is_stopped(board)
    re_anchor(world)
    register_anew(world, LOT_PULSES, step_of(now_ms(board), STEP_S))
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.quarantined == []
    gone = [one.body for one in waiting if one not in held and one.body not in ledger.records]
    missing = sum(sum(body.pulses) for body in gone if isinstance(body, Batch))
    assert held
    assert missing
    assert ledger.pulses == board.emitted - missing


def test_a_word_behind_a_re_anchor_not_read_yet_proves_nothing_of_what_was_sent(
    world: World, board: Board
) -> None:
    """The gateway has records whose acknowledgement was lost, and its chain goes on behind a
    re-anchor: its word names that, and not ours, as the one before."""
    world.run(STEP_S + 60, TICK_S, pulses=1)
    assert board.wire is not None
    board.wire.filters = []  # hears nothing more
    world.run(400, TICK_S, pulses=1)
    re_anchor(world)
    world.broker.disconnect(board.wire)
    world.run(2 * STEP_S, TICK_S, pulses=1)
    own = f"{world.topic}/meter/m0"
    word = world.broker.retained.pop(f"{own}/ack/gw")
    world.broker.retained[f"{own}/ack/gw"] = word  # behind the registration, as subscribed to
    board.wire.filters = [f"{own}/registration", f"{own}/ack/+"]
    world.broker.connect(board.wire)
    world.run(3 * STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.pulses == board.emitted


def test_a_board_that_hears_of_a_re_anchor_sends_nothing_more_of_the_old_chain(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(STEP_S, TICK_S)
    world.stop_gateway()
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert board.wire is not None
    end = board.device._outbox.end
    assert end is not None
    anchor = world.authority.re_anchor("m0", end.acknowledged, end.register)
    topic = f"{world.topic}/meter/m0/registration"
    board.wire.inbox.append(Disconnected("simulated"))
    board.wire.inbox.append(Connected())
    board.wire.inbox.append(Message(topic, cbor.encode([anchor.raw]), False, (0, 0)))
    said: list[str] = []

    def publish(topic: str, _payload: bytes, *, retain: bool = False) -> bool:
        said.append(topic)
        return True

    monkeypatch.setattr(board.wire, "publish", publish)
    board.device.work()
    assert board.device.wants_restart
    assert [topic.rpartition("/")[2] for topic in said] == ["status"]


def test_drafts_that_wait_for_what_is_signed_anew_outlive_a_death(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalling, "SEGMENT_BYTES", 200)  # a snapshot at every sync
    world.run(STEP_S + 60, TICK_S)
    unsigned = lose_card(board)
    before = board.emitted
    world.run(STEP_S // 2, TICK_S)
    re_anchor(world)
    assert board.device is not None
    waited = 0
    while not board.device._signing.is_signing_anew:
        waited += TICK_S
        assert waited < STEP_S
        world.run(TICK_S, TICK_S)
    world.run(STEP_S, STEP_S)  # its step ends in the turn in which the last portion is signed
    board.kill()
    board.start()
    world.run(2 * STEP_S, TICK_S)
    ledger = settle(world)
    assert not is_stopped(board)
    assert ledger.pulses == before - unsigned + board.device._counter.register


@pytest.mark.parametrize("is_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("passage", range(1, 7))
@pytest.mark.parametrize("point", [Point.DEVICE_SIGNED, Point.FILE_APPENDED])
def test_a_death_while_acting_on_a_re_anchor_neither_loses_nor_repeats_a_pulse(
    world: World,
    board: Board,
    point: Point,
    passage: int,
    is_cut: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.run(STEP_S + 60, TICK_S)
    unsigned = lose_card(board)
    before = board.emitted
    world.run(STEP_S // 2, TICK_S)
    re_anchor(world)
    board.kill()
    world.run(STEP_S, TICK_S, pulses=0)  # the re-anchor acts; the board hears of it once it is up
    with dying(monkeypatch):
        faults._armed[point] = passage
        try:
            board.start()
            world.run(60, TICK_S)
        except Crash:
            die(board, is_cut)
            board.start()
    world.run(2 * STEP_S, TICK_S)
    ledger = settle(world)
    assert board.device is not None
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses == before - unsigned + board.device._counter.register
    assert board.emitted - unsigned - ledger.pulses <= (
        TICK_S + 2 * SYNC_MS // 1_000 if is_cut else TICK_S
    )


# --- Deaths at every point -----------------------------------------------------------------------


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Where a real program would kill itself, this one raises."""

    def crash(_pid: int, _signal: int) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("os.kill", crash)
        try:
            yield patch
        finally:
            faults._armed.clear()


def die(board: Board, is_cut: bool, torn_bytes: int = 0) -> None:
    if is_cut:
        board.cut_power(torn_bytes)
    else:
        board.kill()


def set_small_files(patch: pytest.MonkeyPatch) -> None:
    """Files so small that snapshots are taken and files dropped all the time."""
    patch.setattr(journalling, "SEGMENT_BYTES", 1_500)
    patch.setattr(keeping, "SEGMENT_BYTES", 2_000)


class Story:
    """A fixed life with an orderly end, a torn power cut and a kill in it; and one death more."""

    def __init__(self, world: World, board: Board, is_cut: bool, torn_bytes: int = 0) -> None:
        self.world = world
        self.board = board
        self.is_cut = is_cut
        self.torn_bytes = torn_bytes
        self.deaths: list[tuple[int, int, int]] = []  # when; given before; found after

    def live(self) -> None:
        self.part(600)
        self.end(self.board.stop)
        self.part(100)
        self.end(lambda: die(self.board, is_cut=True, torn_bytes=21))
        self.part(400)
        self.end(self.board.kill)
        self.part(300)

    def part(self, seconds: int) -> None:
        """Lets the program run; if it dies, it is started again, and that may kill it again."""
        self.revive()
        for _ in range(0, seconds, STORY_TICK_S):
            self.guard(lambda: self.world.run(STORY_TICK_S, STORY_TICK_S, pulses=1))
            self.revive()

    def revive(self) -> None:
        while self.board.device is None:
            self.world.pass_time(STORY_TICK_S)
            self.guard(self.board.start)

    def end(self, how: Callable[[], None]) -> None:
        before = self.board.device_register
        deaths = len(self.deaths)
        self.guard(how)
        if len(self.deaths) == deaths:
            self.account(before)

    def guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Crash:
            before = max(registers_of(self.board))
            die(self.board, self.is_cut, self.torn_bytes)
            self.account(before)

    def account(self, before: int) -> None:
        """What was given before is found again, but for what a power cut may cost."""
        after = max(registers_of(self.board))
        self.deaths.append((now_ms(self.board), before, after))


@pytest.fixture(scope="module")
def passages() -> dict[Point, int]:
    """How often the story passes each point."""
    world = World(3, boards=1)
    with pytest.MonkeyPatch.context() as patch:
        set_small_files(patch)
        faults._armed.update(dict.fromkeys(DEVICE_POINTS, 10**9))
        Story(world, world.boards[0], is_cut=False).live()
        counts = {point: 10**9 - left for point, left in faults._armed.items()}
        faults._armed.clear()
    world.close()
    return counts


def test_the_story_passes_every_point_of_a_device(passages: dict[Point, int]) -> None:
    assert set(passages) == set(DEVICE_POINTS)
    assert min(passages.values()) > 0


@pytest.mark.parametrize("is_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("point", DEVICE_POINTS)
def test_a_death_at_any_point_loses_no_given_pulse_and_repeats_none(
    point: Point, is_cut: bool, passages: dict[Point, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_small_files(monkeypatch)
    count = passages[point]
    some = random.Random(point).sample(range(1, count + 1), min(count, 2))
    for passage in sorted({count, *some}):
        world = World(3, boards=1)
        [board] = world.boards
        story = Story(world, board, is_cut, torn_bytes=(0, 9, 101)[passage % 3])
        with dying(monkeypatch):
            faults._armed[point] = passage
            story.live()
        ledger = settle(world)
        check_whole(world, board, ledger)
        check_losses(story, board, ledger)
        check_watched(story, ledger)
        world.close()


@pytest.mark.parametrize("is_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("point", DEVICE_POINTS)
def test_a_death_while_a_lost_journal_is_begun_anew_stops_no_start(
    point: Point, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the outbox has records to sign anew behind a re-anchor: the first thing in a
    journal is its snapshot."""
    for passage in range(1, 6):
        world = World(1, boards=1)
        [board] = world.boards
        board.start()
        world.run(STEP_S + 60, TICK_S)
        lose_card(board)
        world.run(STEP_S // 2, TICK_S)
        re_anchor(world)
        board.kill()
        world.run(STEP_S, TICK_S, pulses=0)
        board.journal = SimulatedDirectory()
        with dying(monkeypatch):
            faults._armed[point] = passage
            try:
                board.start()
                world.run(10, TICK_S)
            except Crash:
                die(board, is_cut)
                board.start()
        world.run(STEP_S, TICK_S)
        ledger = settle(world)
        assert board.device is not None
        assert (is_stopped(board), ledger.quarantined) == (False, [])
        world.close()


@pytest.mark.parametrize("passage", range(1, 9))
def test_a_power_cut_while_a_run_begins_does_not_hide_that_run(
    world: World, passage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    [board] = world.boards
    with dying(monkeypatch):
        faults._armed[Point.FILE_SYNCED] = passage
        try:
            board.start()
            world.run(20, STORY_TICK_S)
        except Crash:
            board.cut_power()
    world.pass_time(STORY_TICK_S)
    if board.device is None:
        board.start()
    world.run(100, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    first, *later = ledger.runs
    assert first.unwatched_ms is None
    for start in later:
        assert start.ending is Ending.UNKNOWN
        assert start.unwatched_ms is not None
        assert first.at_ms <= start.unwatched_ms < start.at_ms


def test_what_a_killed_program_had_written_survives_a_power_cut_right_after_the_restart(
    world: World, board: Board
) -> None:
    def signs_ahead() -> bool:
        device = board.device
        assert device is not None
        assert device._outbox.end is not None
        return device._outbox.end.sequence > device._outbox._durable

    while not signs_ahead():
        assert board.emitted < 2_000
        world.run(1, 1, pulses=1)
    board.kill()
    board.start()
    board.cut_power()
    board.start()
    world.run(100, TICK_S)
    ledger = settle(world)
    check_whole(world, board, ledger)
    assert ledger.pulses == board.emitted


def check_losses(story: Story, board: Board, ledger: Ledger) -> None:
    """One pulse a second: a power cut costs at most the time between two syncs."""
    for _, before, after in story.deaths:
        assert after >= before - (SYNC_MS // 1_000 + 2 * TICK_S)
    lost = board.emitted - ledger.pulses
    allowed = sum(max(0, before - after) for _, before, after in story.deaths)
    # Beyond what the disk lost: the read that was in progress, once.
    assert 0 <= lost <= allowed + TICK_S


def check_watched(story: Story, ledger: Ledger) -> None:
    """No dead time is said to be watched, and little living time is not."""
    deaths = [died for died, _, _ in story.deaths]
    for begin, end in ledger.watched_ms:
        for died in deaths:
            assert end <= died or begin >= died + STORY_TICK_S * 1_000, "watched while dead"
    for start in ledger.runs[1:]:
        assert start.unwatched_ms is not None
        assert start.unwatched_ms <= start.at_ms
        assert start.at_ms - start.unwatched_ms <= WATCH_MS + SYNC_MS + 2 * TICK_S * 1_000


# --- Any order of things -------------------------------------------------------------------------

lives = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 600)),
        st.tuples(st.just("run"), st.integers(600, 2_500)),
        st.tuples(st.just("kill"), st.integers(0, 1_200)),
        st.tuples(st.just("stop"), st.integers(0, 1_200)),
        st.tuples(st.just("power"), st.integers(0, 200)),
        st.tuples(st.just("power, no time"), st.integers(0, 200)),
        st.tuples(st.just("time"), st.just(0)),
        st.tuples(st.just("no time"), st.just(0)),
        st.tuples(st.just("jump"), st.integers(-1_500, 1_500)),
        st.tuples(st.just("unplug"), st.integers(1, 300)),
        st.tuples(st.just("gateway"), st.integers(0, 2_000)),
        st.tuples(st.just("bad broker"), st.just(0)),
        st.tuples(st.just("wipe"), st.just(0)),
    ),
    max_size=14,
)


@examples(40)
@given(lives, st.integers(0, 2**16))
def test_whatever_happens_every_pulse_that_was_kept_is_in_exactly_one_lot(
    life: list[tuple[str, int]], seed: int
) -> None:
    world = World(seed, boards=1)
    [board] = world.boards
    board.start()
    shift_s = 0
    lost_at_most = 0
    for what, amount in life:
        match what:
            case "run":
                world.run(amount, TICK_S)
            case "kill" | "stop":
                (board.kill if what == "kill" else board.stop)()
                world.run(amount, TICK_S)
                board.start()
            case "power" | "power, no time":
                before = board.device_register
                board.cut_power(amount)
                lost_at_most += before - max(registers_of(board))
                if what == "power, no time":
                    board.clock.state = ClockState.UNKNOWN
                board.start()
            case "time":
                board.clock.state = ClockState.SYNCHRONISED
            case "no time":
                board.clock.state = ClockState.UNKNOWN
            case "jump":
                board.clock.utc_ns += amount * NS_PER_S
                shift_s += amount
            case "unplug":
                board.is_unplugged = True
                world.run(amount, TICK_S)
                board.is_unplugged = False
            case "gateway":
                world.stop_gateway()
                world.run(amount, TICK_S)
                world.start_gateway()
            case "bad broker":
                world.broker.lose, world.broker.repeat = 0.2, 0.2
            case "wipe":
                world.broker.wipe()
                for wire in world.broker.wires:
                    world.broker.connect(wire)
    world.broker.lose = world.broker.repeat = 0.0
    board.clock.utc_ns -= shift_s * NS_PER_S
    board.clock.state = ClockState.SYNCHRONISED
    world.run(600, TICK_S, pulses=0)
    # A clock that stood ahead may have opened a step that is yet to come.
    world.run(3 * STEP_S, TICK_S, pulses=0)
    ledger = settle(world)
    assert board.device is not None
    assert not is_stopped(board)
    assert ledger.quarantined == []
    assert ledger.pulses == board.device._counter.register
    assert all(max(batch.pulses) <= LOT_PULSES for batch in ledger.batches)
    lost = board.emitted - board.missed - ledger.pulses
    assert 0 <= lost <= lost_at_most
    world.close()


# --- When it wants to work again -----------------------------------------------------------------


GATHER_NS = JournalSettings().gather_machine_ms * NS_PER_MS


def look_at(board: Board, pulses: int, after_ns: int) -> Wake:
    """Lets time pass and pulses come, and the device work; when does it want to work again?"""
    board.clock.advance(after_ns)
    board.give(pulses)
    assert board.device is not None
    board.device.work()
    return board.device.wake()


def rest_ns(board: Board, wake: Wake) -> int:
    """For how long the line may wake nobody."""
    assert wake.line == board.line.fileno()
    return max(0, wake.line_ns - board.clock.machine_ns())


def test_behind_a_look_that_brought_pulses_the_line_rests(board: Board) -> None:
    wake = look_at(board, 1, 7 * NS_PER_S + 30 * NS_PER_MS)
    assert wake.line_ns % GATHER_NS == 0  # with the other lines of its board
    assert 0 < rest_ns(board, wake) <= GATHER_NS
    wake = look_at(board, 0, NS_PER_S)
    assert rest_ns(board, wake) == 0


def test_a_fast_line_rests_no_longer_than_fills_a_quarter_of_it(board: Board) -> None:
    board.stop()
    board.line.capacity = 4_000
    board.start()
    look_at(board, 0, 3 * NS_PER_S)
    wake = look_at(board, 3_000, 100 * NS_PER_MS)  # 30,000 pulses/s
    assert rest_ns(board, wake) == 1_000 * (100 * NS_PER_MS // 3_000)
    for rate_hz in (10, 100, 1_000, 10_000, 100_000):  # and at no rate does more than that come
        rest = rest_ns(board, look_at(board, rate_hz // 10, 100 * NS_PER_MS))
        assert rest * rate_hz <= 1_000 * NS_PER_S


def test_before_a_step_ends_the_line_does_not_rest(board: Board) -> None:
    board.work()
    into_ns = board.clock.utc_ns % (STEP_S * NS_PER_S)
    wake = look_at(board, 1, STEP_S * NS_PER_S - into_ns - ALERT_NS)
    assert rest_ns(board, wake) == 0
    wake = look_at(board, 1, ALERT_NS // 2)
    assert rest_ns(board, wake) == 0
    assert wake.due_ns <= board.clock.machine_ns() + ALERT_NS // 2


def test_what_waits_at_a_resting_line_is_in_the_next_sync(board: Board) -> None:
    wake = look_at(board, 1, 10_150 * NS_PER_MS)  # synced with it
    assert rest_ns(board, wake) > 0
    wake = look_at(board, 1, 4_900 * NS_PER_MS)
    board.give(3)  # while it rests, and before its rest is over a sync is due
    assert board.clock.machine_ns() < wake.due_ns < wake.line_ns
    board.clock.advance(wake.due_ns - board.clock.machine_ns())
    board.work()
    emitted = board.emitted
    board.cut_power()
    assert board.kept_register == emitted
    board.start()
