"""Another counter of the same pulses, which goes on while nobody watches the line: what it counted
meanwhile is counted at the next look, once, and declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.chain_records import Ending, Mark
from firmware.watching import LINE_RETRY_NS
from hal.ports import BESIDE_MODULUS
from tests.core.strategies import examples
from tests.firmware.test_device import Ledger, settle
from tests.simulation.world import Board, World

TICK_S = 5
RETRY_S = LINE_RETRY_NS // 10**9 + 1


@pytest.fixture
def board(world: World) -> Board:
    return begun(world, beside=0)


def begun(world: World, beside: int) -> Board:
    """A board that has counted five pulses, with a counter beside its line."""
    [board] = world.boards
    board.beside = beside
    board.start()
    go_on(world, board, 5)
    return board


def go_on(world: World, board: Board, pulses: int) -> None:
    board.give(pulses)
    world.run(TICK_S, TICK_S, pulses=0)


def die_and_give(board: Board, pulses: int) -> None:
    """The program dies, and the line with it: a GPIO line holds nothing for who comes later."""
    board.kill()
    board.is_unplugged = True
    board.give(pulses)
    board.is_unplugged = False


def recovered(ledger: Ledger) -> int:
    return ledger.marks.get(Mark.RECOVERED, 0)


def test_pulses_that_came_while_the_program_was_down_are_counted_and_declared(
    world: World, board: Board
) -> None:
    die_and_give(board, 7)
    board.start()
    assert board.device_register == 12
    go_on(world, board, 3)
    ledger = settle(world)
    assert (ledger.pulses, recovered(ledger)) == (15, 7)
    assert ledger.marks[Mark.BURST] == 7  # as others that waited before the start
    assert [run.ending for run in ledger.runs] == [Ending.FIRST, Ending.UNKNOWN]
    assert ledger.quarantined == []


def test_so_are_those_of_a_line_that_was_gone(world: World, board: Board) -> None:
    board.is_unplugged = True
    go_on(world, board, 4)
    board.is_unplugged = False
    world.run(RETRY_S, 1, pulses=0)
    assert board.device_register == 9
    ledger = settle(world)
    assert (ledger.pulses, recovered(ledger)) == (9, 4)


def test_nothing_is_recovered_where_nothing_was_missed(world: World, board: Board) -> None:
    for _ in range(3):
        board.kill()
        board.start()
        go_on(world, board, 2)
    ledger = settle(world)
    assert (ledger.pulses, recovered(ledger)) == (11, 0)


def test_a_counter_that_begins_anew_with_the_boot_tells_nothing_of_the_one_before(
    world: World, board: Board
) -> None:
    board.cut_power()
    kept = board.kept_register
    board.beside = 3  # pulses since the power is back: which of them came in time nobody knows
    board.start()
    assert board.device_register == kept
    die_and_give(board, 2)
    board.start()
    assert board.device_register == kept + 2


def test_a_counter_that_was_set_back_is_begun_with_anew(world: World, board: Board) -> None:
    die_and_give(board, 2)
    board.beside = 1
    board.start()
    assert board.device_register == 5
    die_and_give(board, 2)
    board.start()
    assert board.device_register == 7


def test_a_counter_that_counts_bounce_too_is_ahead_of_the_register_and_no_more(
    world: World, board: Board
) -> None:
    for _ in range(4):
        assert board.beside is not None
        board.beside += 1
        go_on(world, board, 1)
    die_and_give(board, 3)
    board.start()
    ledger = settle(world)
    assert (ledger.pulses, recovered(ledger)) == (12, 3)


def test_a_pulse_that_was_under_way_at_a_kill_counts_once(world: World, board: Board) -> None:
    """The counter has a pulse's end, the line its beginning."""
    assert board.beside is not None
    for _ in range(3):
        board.give(1)
        board.beside -= 1
        world.run(0.3, 0.1, pulses=0)
        board.beside += 1
        die_and_give(board, 2)
        board.start()
        assert board.device_register == board.emitted
    ledger = settle(world)
    assert ledger.pulses == board.emitted


def test_a_counter_that_has_missed_pulses_recovers_all_once_the_line_has_rested(
    world: World, board: Board
) -> None:
    assert board.beside is not None
    board.beside -= 2
    go_on(world, board, 1)
    go_on(world, board, 0)
    die_and_give(board, 3)
    board.start()
    assert board.device_register == 9


def test_a_counter_that_is_gone_stops_nothing(world: World, board: Board) -> None:
    board.beside = None
    die_and_give(board, 3)
    board.start()
    go_on(world, board, 1)
    assert board.device_register == 6


def test_the_counter_may_run_over(world: World) -> None:
    board = begun(world, beside=BESIDE_MODULUS - 7)
    die_and_give(board, 4)
    assert board.beside == 2
    board.start()
    assert board.device_register == 9


STORY = st.lists(
    st.tuples(st.sampled_from(["give", "die", "restart", "unplug", "bounce"]), st.integers(0, 9)),
    max_size=12,
)


@examples(40)
@given(STORY)
def test_within_a_boot_no_pulse_is_missed_and_none_is_counted_twice(
    story: list[tuple[str, int]],
) -> None:
    world = World(1, boards=1)
    board = begun(world, beside=100)
    missed = 0
    for kind, pulses in story:
        match kind:
            case "give":
                go_on(world, board, pulses)
            case "die":
                die_and_give(board, pulses)
                missed += pulses
                board.start()
            case "restart":
                board.stop()
                board.start()
            case "unplug":
                board.is_unplugged = True
                go_on(world, board, pulses)
                missed += pulses
                board.is_unplugged = False
                world.run(RETRY_S, 1, pulses=0)
            case "bounce":
                assert board.beside is not None
                board.beside += pulses
                go_on(world, board, 0)
        assert board.device_register == board.emitted
    ledger = settle(world)
    world.close()
    assert ledger.pulses == board.emitted
    # What a killed run has declared, the next one may declare again.
    assert recovered(ledger) >= missed
    assert (recovered(ledger) == 0) == (missed == 0)
