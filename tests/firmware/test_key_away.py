"""A device whose key is away, or slow: what is given meanwhile is journalled, and signed later,
every pulse once. The real device, with the simulated community's gateway, disks and clocks."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from cryptometer.chain_records import LOTS_MAX, Mark
from cryptometer.keys import KeyLost, Signer
from cryptometer.steps import NS_PER_S
from firmware import journal as journalling
from firmware.config import BatchSettings
from firmware.device import Device
from firmware.signing import KEY_RETRY_FIRST_NS, KEY_RETRY_MAX_NS
from hal.patience import PatientKey
from tests.core.community import LOT_PULSES, STEP_S
from tests.firmware.test_device import TICK_S, re_anchor, read_ledger, registers_of, settle
from tests.firmware.test_tape import Deck, check_same, deck
from tests.simulation import world as simulation
from tests.simulation.world import Board, World

__all__ = ["deck"]  # a fixture
AWAY = "there is no token 'meter'"
HANGING_S = 30.0


class Token:
    """A key in a token that can be pulled out, is pulled out in mid-work, or takes its time."""

    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self.public = inner.public
        self.is_away = False
        self.left: int | None = None  # signatures until it is pulled out
        self.asked = 0
        self.signed = 0
        self.working: Callable[[], None] = lambda: None

    def sign(self, data: bytes) -> bytes:
        self.asked += 1
        if self.left is not None:
            self.is_away |= self.left == 0
            self.left = max(0, self.left - 1)
        if self.is_away:
            raise KeyLost(AWAY)
        self.working()
        self.signed += 1
        return self._inner.sign(data)


@pytest.fixture
def board(world: World) -> Board:
    [board] = world.boards
    board.key = Token(board.key)
    return board


def token(board: Board) -> Token:
    assert isinstance(board.key, Token)
    return board.key


def check_nothing_is_missing(world: World, board: Board) -> None:
    ledger = settle(world)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted > 0


def use_batches(monkeypatch: pytest.MonkeyPatch, lots: int) -> None:
    batch = BatchSettings(delay_community_ms=60_000, lots=lots)
    monkeypatch.setattr(simulation, "CONFIG", replace(simulation.CONFIG, batch=batch))


# --- Away. ---------------------------------------------------------------------------------------


def test_a_key_that_is_away_for_hours_costs_no_pulse_and_no_step(
    world: World, board: Board
) -> None:
    board.start()
    world.run(100, TICK_S)
    token(board).is_away = True
    signed = token(board).signed
    world.run(4 * STEP_S, TICK_S)
    assert token(board).signed == signed
    given, held = registers_of(board)
    assert given > held
    assert board.device is not None
    assert f"not signing: {AWAY}" in board.device.status
    token(board).is_away = False
    check_nothing_is_missing(world, board)
    assert "not signing" not in board.device.status
    closes = [close.step for close in read_ledger(world).closes]
    assert closes == list(range(closes[0], closes[0] + 6))
    assert set(read_ledger(world).marks) <= {Mark.STRADDLE}  # looks are five seconds apart
    assert [line for line in board.log if "sign" in line] == [
        f"cannot sign: {AWAY}; pulses are journalled, and signed later",
        "the key is back, and signs",
    ]


def test_a_key_that_is_away_is_asked_for_less_and_less_often(world: World, board: Board) -> None:
    board.start()
    token(board).is_away = True
    moments: list[int] = []
    for _ in range(600):
        before = token(board).asked
        world.run(1, 1)
        if token(board).asked > before:
            moments.append(board.clock.mono_ns)
    pauses = [after - at for at, after in pairwise(moments)]
    assert pauses[0] >= KEY_RETRY_FIRST_NS
    assert all(after >= before for before, after in pairwise(pauses))
    assert pauses[-1] == KEY_RETRY_MAX_NS
    assert len(moments) < 20


def test_a_device_without_its_key_sleeps_until_it_is_asked_for_again(
    world: World, board: Board
) -> None:
    board.start()
    token(board).is_away = True
    world.run(STEP_S + 300, TICK_S)
    assert board.device is not None
    assert board.device._signing.waiting
    assert board.device.wake().due_ns > board.clock.machine_ns()


def test_what_was_signed_before_the_token_was_pulled_out_stays_signed(
    world: World, board: Board
) -> None:
    board.start()
    world.run(STEP_S, TICK_S)
    token(board).is_away = True
    world.run(2 * STEP_S, TICK_S)
    assert board.device is not None
    waiting = board.device._signing.waiting
    assert waiting > 3
    token(board).is_away, token(board).left = False, 2
    world.run(120, TICK_S, pulses=0)
    assert board.device._signing.waiting == waiting - 2
    token(board).is_away, token(board).left = False, None
    check_nothing_is_missing(world, board)


@pytest.mark.parametrize("end", [Board.stop, Board.kill, Board.cut_power])
def test_a_board_that_ends_and_starts_without_its_key_counts_on(
    world: World, board: Board, end: Callable[[Board], None]
) -> None:
    board.start()
    world.run(200, TICK_S)
    token(board).is_away = True
    world.run(STEP_S, TICK_S)
    before, _ = registers_of(board)
    for _ in range(3):
        world.run(6, 1, pulses=0)  # a sync
        end(board)
        board.start()
        world.run(STEP_S // 2, TICK_S)
    given, signed = registers_of(board)
    assert given > before > signed
    token(board).is_away = False
    check_nothing_is_missing(world, board)


def test_the_journal_lets_go_of_nothing_that_is_not_signed(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalling, "SEGMENT_BYTES", 512)
    board.start()
    world.run(200, TICK_S)
    token(board).is_away = True
    world.run(100, TICK_S)
    [segment] = board.journal.names()
    world.run(2 * STEP_S, TICK_S)
    assert board.journal.names() == [segment]
    assert board.journal.size(segment) > 5 * 512
    token(board).is_away = False
    world.run(120, TICK_S)
    assert board.journal.names() != [segment]
    check_nothing_is_missing(world, board)


def test_after_days_without_a_key_few_signatures_are_enough(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalling, "SEGMENT_BYTES", 512)
    use_batches(monkeypatch, 1)
    board.start()
    world.run(100, TICK_S)
    token(board).is_away = True
    world.run(2 * STEP_S, TICK_S, pulses=4)
    board.kill()
    token(board).is_away = False
    before = token(board).signed
    board.start()
    assert 3 <= token(board).signed - before <= 10
    ledger = settle(world)
    assert ledger.pulses == board.emitted
    assert max(len(batch.pulses) for batch in ledger.batches) > 100


@pytest.mark.parametrize("seed", range(12))
def test_whatever_ends_the_program_and_pulls_the_token_every_pulse_counts_once(seed: int) -> None:
    world = World(seed, boards=1)
    [board] = world.boards
    board.key = Token(board.key)
    dice = random.Random(seed)
    board.start()
    for _ in range(40):
        world.run(dice.choice((3, 30, 200, 500)), TICK_S, pulses=dice.choice((0.1, 2)))
        match dice.randrange(6):
            case 0:
                token(board).is_away = not token(board).is_away
                token(board).left = None
            case 1:
                token(board).left = dice.randrange(4)
            case 2:
                board.stop()
                board.start()
            case 3:
                board.kill()
                board.start()
            case 4:
                world.run(6, 1, pulses=0)  # what is not durable is lost with the power
                board.cut_power(dice.randrange(200))
                board.start()
            case _:
                token(board).is_away, token(board).left = False, None
    token(board).is_away, token(board).left = False, None
    check_nothing_is_missing(world, board)
    world.close()


def test_a_re_anchor_waits_for_the_key(world: World, board: Board) -> None:
    """Nothing is acted on while something waits that belongs before it."""
    board.start()
    world.run(STEP_S, TICK_S)
    token(board).is_away = True
    world.run(300, TICK_S)
    assert board.device is not None
    re_anchor(world)
    world.run(2 * STEP_S, TICK_S)
    assert board.device is not None
    assert not any(line.startswith("re-anchored") for line in board.log)
    token(board).is_away = False
    check_nothing_is_missing(world, board)
    assert any(line.startswith("re-anchored") for line in board.log)


# --- Slow. ---------------------------------------------------------------------------------------

SIGNATURE_NS = NS_PER_S // 5
LOTS_A_SECOND = 14


@pytest.mark.parametrize("lots", [1, 5, 1_000])
def test_a_token_of_five_signatures_a_second_keeps_up_with_fourteen_lots(
    monkeypatch: pytest.MonkeyPatch, world: World, board: Board, lots: int
) -> None:
    use_batches(monkeypatch, lots)
    rate = LOTS_A_SECOND * LOT_PULSES
    began_ns = board.clock.mono_ns

    def pass_time(ns: int) -> None:
        for clock in (board.clock, world.clock):
            clock.advance(ns)
        due = (board.clock.mono_ns - began_ns) * rate // NS_PER_S
        board.give(due - board.emitted)

    token(board).working = lambda: pass_time(SIGNATURE_NS)
    board.start()
    device: Device | None = board.device
    assert device is not None
    behind = 0
    turn_ns = 0
    while board.clock.mono_ns - began_ns < 400 * NS_PER_S:
        pass_time(NS_PER_S // 20)
        before_ns = board.clock.mono_ns
        board.work()
        turn_ns = max(turn_ns, board.clock.mono_ns - before_ns)
        world.gateway_work()
        behind = max(behind, device._signing.waiting)
    assert turn_ns <= 2 * SIGNATURE_NS  # the line never waits longer
    assert behind <= 4 * LOTS_A_SECOND
    _, signed = registers_of(board)
    delay_s = 2 if lots == 1 else 62
    assert board.emitted - signed < delay_s * rate
    token(board).working = lambda: None
    check_nothing_is_missing(world, board)


def test_batches_are_small_again_once_signatures_have_caught_up(
    monkeypatch: pytest.MonkeyPatch, world: World, board: Board
) -> None:
    use_batches(monkeypatch, 1)
    board.start()
    world.run(60, 1, pulses=LOT_PULSES)
    token(board).is_away = True
    world.run(300, 1, pulses=LOT_PULSES)
    assert board.device is not None
    assert board.device._stretching.limits.lots == LOTS_MAX
    token(board).is_away = False
    world.run(200, 1, pulses=LOT_PULSES)
    assert board.device._stretching.limits.lots == 1
    sizes = [len(batch.pulses) for batch in settle(world).batches]
    assert max(sizes) > 100
    assert sizes[-5:] == [1] * 5


class Hanging:
    """A token that answers only once it is let to, or after a long time."""

    where = "token 'meter'"

    def __init__(self, inner: Token, answers: threading.Event) -> None:
        self._inner = inner
        self._answers = answers
        self.public = inner.public

    def sign(self, data: bytes) -> bytes:
        self._answers.wait(HANGING_S)
        return self._inner.sign(data)

    def trouble(self) -> str:
        return ""


def test_pulses_are_journalled_while_a_token_hangs_and_each_is_signed_once(
    world: World, board: Board
) -> None:
    """What the token brings too late is dropped: nobody has seen it."""
    inner, answers = token(board), threading.Event()
    board.key = PatientKey(Hanging(inner, answers), patience_s=0.02)
    answers.set()
    board.start()
    world.run(100, TICK_S)
    answers.clear()
    begun_s, signed = time.monotonic(), inner.signed
    world.run(3 * STEP_S, TICK_S)
    assert time.monotonic() - begun_s < HANGING_S / 2
    assert inner.signed == signed
    assert board.device is not None
    assert board.device._counter.register == board.emitted
    assert "has not answered yet" in board.device.status
    answers.set()
    check_nothing_is_missing(world, board)


# --- On a tape. ----------------------------------------------------------------------------------


def test_a_replay_signs_when_the_key_signed(deck: Deck) -> None:
    world = World(1, boards=1)
    [board] = world.boards
    board.key = Token(board.key)
    board.start()
    world.run(200, TICK_S)
    token(board).is_away = True
    world.run(STEP_S, TICK_S)
    board.kill()
    board.start()
    world.run(300, TICK_S)
    token(board).is_away, token(board).left = False, 1
    world.run(200, TICK_S)
    token(board).is_away, token(board).left = False, None
    world.run(STEP_S, TICK_S)
    board.stop()
    again = check_same(deck, board)
    assert any("cannot sign" in line for line in again.log)
    world.close()
