"""A device whose key is in a TPM and whose chain its counter guards: the real device, swtpm and
gateway; and the program's commands as processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm
from cryptometer.steps import NS_PER_S
from firmware import device_key, guarding
from firmware.checkup import Verdict
from firmware.journal import Journal
from firmware.outbox import Outbox
from hal.faults import CRASH_VARIABLE, Point
from hal.files import DiskDirectory, SimulatedDirectory
from hal.ports import Guard
from hal.tpm_key import TpmCounter, create_tpm_key, load_tpm_key
from tests.core.community import FIRST_STEP, STEP_S
from tests.firmware.kit import Office
from tests.firmware.program import LIMIT_S, ROOT, call, finding, requested, write_bundle
from tests.firmware.test_device import TICK_S, re_anchor, settle
from tests.keys import signer
from tests.simulation import world as simulation
from tests.simulation.world import Board, World
from tests.tpms import AUTH, COUNTER, SoftTpm


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftTpm]:
    tpm = SoftTpm(tmp_path / "tpm")
    yield tpm
    tpm.close()


# --- A whole community. --------------------------------------------------------------------------


@pytest.fixture
def world(tpm: SoftTpm, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    place = tpm.place_of(counter=COUNTER)
    key = create_tpm_key(place)
    monkeypatch.setattr(simulation, "signer", lambda one: key if one == 10 else signer(one))
    world = World(1, boards=1)
    world.boards[0].guard = TpmCounter(place, COUNTER)
    yield world
    world.close()


@pytest.fixture
def board(world: World) -> Board:
    [board] = world.boards
    board.start()
    return board


def count_of(tpm: SoftTpm) -> int:
    count = TpmCounter(tpm.place, COUNTER).read()
    assert count is not None
    return count


def note_on(outbox: SimulatedDirectory) -> int | None:
    end = Outbox(outbox, limit_bytes=0, window=1).peek()
    return None if end is None else end.guarded


def test_what_a_tpm_signs_is_counted_and_nothing_is_lost_while_it_is_away(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    world.run(STEP_S + 60, TICK_S)
    assert world.in_blocks("m0") > 0
    tpm.take_away()
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert "not signing: the TPM at" in board.device.status
    assert len([line for line in board.log if line.startswith("cannot sign")]) == 1
    tpm.bring_back()
    world.run(120, TICK_S)
    assert "not signing" not in board.device.status
    # A start without it: of the key the public half is known, of the count nothing.
    board.stop()
    tpm.take_away()
    tpm.restart_program()
    board.key = load_tpm_key(tpm.place, board.key.public)
    board.start()
    world.run(STEP_S, TICK_S)
    assert "not signing" in board.device.status
    tpm.bring_back()
    ledger = settle(world)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted > 0


def test_a_wrong_value_costs_no_pulse(tpm: SoftTpm, world: World, board: Board) -> None:
    world.run(60, TICK_S)
    tpm.write_auth("0123456789abcdef")
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert "refuses the authorisation value" in board.device.status
    assert len([line for line in board.log if line.startswith("cannot sign")]) == 1
    tpm.write_auth(AUTH)
    ledger = settle(world)
    assert ledger.pulses == board.emitted > 0


# --- The guard. ----------------------------------------------------------------------------------


def test_the_count_grows_once_a_start_and_not_with_the_records(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    first = count_of(tpm)
    world.run(STEP_S, TICK_S)
    assert count_of(tpm) == first == note_on(board.outbox)
    for number in range(1, 4):
        (board.stop if number % 2 else board.kill)()
        board.start()
        world.run(60, TICK_S)
        assert count_of(tpm) == first + number == note_on(board.outbox)
    board.cut_power(torn_bytes=3)
    board.start()
    ledger = settle(world)
    assert count_of(tpm) == first + 4
    assert ledger.quarantined == []


def test_the_count_grows_daily_too(
    tpm: SoftTpm, world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "GUARD_NS", STEP_S * NS_PER_S)
    world.run(60, TICK_S)
    first = count_of(tpm)
    world.run(3 * STEP_S, TICK_S)
    assert first + 2 <= count_of(tpm) <= first + 3  # with the first signature that comes then
    assert count_of(tpm) == note_on(board.outbox)
    assert settle(world).pulses == board.emitted > 0


class _DeathError(Exception):
    """The program, at that point."""


class _Deadly:
    """A guard in whose `advance` the program dies, before or behind what it does."""

    def __init__(self, inner: Guard, *, is_counted: bool) -> None:
        self._inner = inner
        self._is_counted = is_counted
        self.read = inner.read

    def advance(self) -> None:
        if self._is_counted:
            self._inner.advance()
        raise _DeathError


def start_and_run(world: World, board: Board) -> None:
    board.start()
    world.run(STEP_S, TICK_S)


@pytest.mark.parametrize("is_counted", [False, True])
@pytest.mark.parametrize("deaths", [1, 4])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_death_between_note_and_count_does_not_lock_the_board_out(
    tpm: SoftTpm, world: World, is_counted: bool, deaths: int, is_first: bool
) -> None:
    [board] = world.boards
    guard = board.guard
    assert guard is not None
    if not is_first:
        board.start()
        world.run(STEP_S, TICK_S)
        board.stop()
    for _ in range(deaths):
        board.guard = _Deadly(guard, is_counted=is_counted)
        with pytest.raises(_DeathError):
            start_and_run(world, board)
        board.cut_power()
    board.guard = guard
    board.start()
    world.run(STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert ledger.pulses > 0
    assert count_of(tpm) == note_on(board.outbox)
    assert not any("cannot go on" in line for line in board.log)


def test_an_old_copy_signs_nothing_and_says_what_to_do(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    world.run(STEP_S + 60, TICK_S)
    board.stop()
    old = deepcopy(board.journal), deepcopy(board.outbox)
    board.start()
    world.run(STEP_S + 60, TICK_S)
    board.stop()
    newest = board.journal, board.outbox
    count, heard = count_of(tpm), dict(world.broker.retained)
    board.journal, board.outbox = deepcopy(old)
    before = {name: board.outbox.read(name) for name in board.outbox.names()}
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="are an older copy") as refused:
            board.start()
        assert "have the chain re-anchored" in str(refused.value)
        board.kill()
    assert {name: board.outbox.read(name) for name in board.outbox.names()} == before
    assert count_of(tpm) == count
    assert world.broker.retained == heard
    # The newest card is put back.
    board.journal, board.outbox = newest
    board.start()
    world.run(60, TICK_S)
    ledger = settle(world)
    assert ledger.pulses == board.emitted
    assert ledger.quarantined == []


def test_an_old_copy_is_noticed_before_the_first_signature_where_the_tpm_was_away(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    board.stop()
    old = deepcopy(board.journal), deepcopy(board.outbox)
    board.start()
    world.run(60, TICK_S)
    board.stop()
    board.journal, board.outbox = old
    tpm.take_away()
    board.start()
    world.run(60, TICK_S)
    signed = Outbox(board.outbox, limit_bytes=0, window=1).peek()
    tpm.bring_back()
    with pytest.raises(ConfigurationError, match="are an older copy"):
        world.run(120, TICK_S)
    assert Outbox(board.outbox, limit_bytes=0, window=1).peek() == signed


def test_a_copy_that_was_made_in_the_run_before_is_noticed(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    world.run(STEP_S, TICK_S)
    live = deepcopy(board.journal), deepcopy(board.outbox)
    board.kill()
    board.start()
    world.run(60, TICK_S)
    board.kill()
    board.journal, board.outbox = live
    with pytest.raises(ConfigurationError, match="are an older copy"):
        board.start()


def test_a_copy_of_before_there_was_a_counter_is_noticed(tpm: SoftTpm, world: World) -> None:
    [board] = world.boards
    guard, board.guard = board.guard, None
    board.start()
    world.run(STEP_S, TICK_S)
    board.stop()
    old = deepcopy(board.journal), deepcopy(board.outbox)
    board.guard = guard
    board.start()
    world.run(60, TICK_S)
    assert count_of(tpm) == note_on(board.outbox)
    board.stop()
    board.journal, board.outbox = old
    with pytest.raises(ConfigurationError, match="of a time without the TPM's counter"):
        board.start()


@pytest.mark.parametrize("which", ["journal", "outbox"])
def test_an_old_copy_of_one_log_repeats_no_pulse_and_is_no_old_copy(
    tpm: SoftTpm, world: World, board: Board, which: str
) -> None:
    """The other one knows where the chain stands: decision 0021."""
    world.run(STEP_S + 60, TICK_S, pulses=1)
    board.stop()
    old = deepcopy(getattr(board, which))
    board.start()
    world.run(STEP_S + 60, TICK_S, pulses=1)
    board.stop()
    setattr(board, which, old)
    board.start()
    world.run(STEP_S, TICK_S, pulses=1)
    ledger = settle(world)
    assert ledger.quarantined == []
    assert ledger.pulses <= board.emitted
    assert count_of(tpm) == note_on(board.outbox)


def test_an_empty_card_counts_and_signs_behind_a_re_anchor(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    """An old copy that was moved away, or a new card under the same key."""
    world.run(2 * STEP_S + 60, TICK_S)
    board.stop()
    unsigned = board.device_register - _signed(board)
    board.journal, board.outbox = SimulatedDirectory(), SimulatedDirectory()
    before = board.emitted
    board.start()
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert "not signing: this key has signed before" in board.device.status
    assert note_on(board.outbox) is None
    assert Outbox(board.outbox, limit_bytes=0, window=1).peek() is not None
    board.kill()  # what waits is in the journal
    board.start()
    world.run(60, TICK_S)
    counted = board.emitted - before
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S)
    ledger = settle(world)
    assert board.device is not None
    assert "not signing" not in board.device.status
    assert "stopped" not in board.device.status
    assert counted > 0
    assert ledger.pulses == board.emitted - unsigned
    assert ledger.quarantined == []
    assert count_of(tpm) == note_on(board.outbox)


def _signed(board: Board) -> int:
    end = Outbox(board.outbox, limit_bytes=0, window=1).peek()
    assert end is not None
    return end.register


def test_an_empty_card_waits_for_the_right_re_anchor(
    tpm: SoftTpm, world: World, board: Board
) -> None:
    """One that came too late for its place has no effect; the next one has."""
    world.run(2 * STEP_S + 60, TICK_S)
    board.stop()
    unsigned = board.device_register - _signed(board)
    board.journal, board.outbox = SimulatedDirectory(), SimulatedDirectory()
    board.start()
    early = world.authority.re_anchor("m0", 3, 20)
    assert world.node is not None
    assert world.node.take_authority([early.raw]) == 1
    world.run(2 * STEP_S, TICK_S)
    assert board.device is not None
    assert "not signing: this key has signed before" in board.device.status
    re_anchor(world)
    world.run(3 * STEP_S, TICK_S)
    ledger = settle(world)
    assert ledger.pulses == board.emitted - unsigned
    assert ledger.quarantined == []


# --- The program's commands. ---------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, tpm: SoftTpm) -> Path:
    return write_config(tmp_path, tpm.uri_of(counter=COUNTER))


def write_config(tmp_path: Path, store: str) -> Path:
    """A board that pulses by itself and knows the time."""
    now_ms, mono_ms = FIRST_STEP * STEP_S * 1_000 + 10_000, time.monotonic_ns() // 1_000_000
    path = tmp_path / "meter.toml"
    path.write_text(
        'state = "state"\n'
        '[source]\ndriver = "sim"\ninterval_machine_ms = 20\n'
        f'[clock]\ndriver = "scaled"\nspeed = 10\norigin_ms = {now_ms}\nanchor_ms = {mono_ms}\n'
        f'[batch]\nlots = 1\n[key]\nstore = "{store}"\n'
    )
    return path


def start(config: Path, crash: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "firmware.main", "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **({CRASH_VARIABLE: crash} if crash else {})},
    )


def end_of(running: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = running.communicate(timeout=LIMIT_S)
    return running.returncode, said


def sequence_in(state: Path) -> int:
    if not (state / "outbox").exists():
        return 0
    end = Outbox(DiskDirectory(state / "outbox"), limit_bytes=0, window=1).peek()
    return 0 if end is None else end.sequence


def register_in(state: Path) -> int:
    journal = state / "journal"
    return Journal(DiskDirectory(journal)).peek() if journal.exists() else 0


def run_until_signed(config: Path, more: int = 2) -> str:
    """Runs the program until it has signed some records, and ends it in order."""
    state = config.parent / "state"
    before = sequence_in(state)
    running = start(config)
    until_s = time.monotonic() + LIMIT_S
    while sequence_in(state) < before + more:
        assert running.poll() is None, end_of(running)
        assert time.monotonic() < until_s
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    code, said = end_of(running)
    assert code == 0, said
    return said


def enrol(config: Path, office: Office) -> None:
    made = call("init", "--config", config)
    assert made.returncode == 0, made.stderr
    state = config.parent / "state"
    assert requested(state).key.algorithm is Algorithm.ES256
    enrolled = call("enrol", write_bundle(office, state), "--config", config)
    assert enrolled.returncode == 0, enrolled.stderr


def test_a_device_with_a_tpm_is_made_enrolled_shown_and_run(
    tpm: SoftTpm, config: Path, tmp_path: Path
) -> None:
    enrol(config, Office())
    again = call("init", "--config", config)
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
    assert finding(config, "counter") == (Verdict.OK, "nothing was signed under it yet")
    run_until_signed(config)
    assert finding(config, "key")[0] is Verdict.OK
    verdict, said = finding(config, "counter")
    assert verdict is Verdict.OK
    assert said == f"stands at {count_of(tpm)}: journal and outbox are the newest"
    shown = call("status", "--config", config)
    assert "key store" not in shown.stdout
    tpm.take_away()
    assert finding(config, "key")[0] is Verdict.WRONG
    shown = call("status", "--config", config)
    assert re.search("key store    the TPM at .* does not answer", shown.stdout)
    tpm.bring_back()


def test_a_process_killed_between_note_and_count_goes_on(tpm: SoftTpm, config: Path) -> None:
    enrol(config, Office())
    run_until_signed(config)
    count = count_of(tpm)
    for _ in range(2):
        code, said = end_of(start(config, Point.GUARD_NOTED))
        assert code == -signal.SIGKILL, said
        assert count_of(tpm) == count
    run_until_signed(config)
    assert count_of(tpm) == count + 1


def test_a_folder_restored_from_an_old_copy_ends_the_program_with_words(
    tpm: SoftTpm, config: Path, tmp_path: Path
) -> None:
    enrol(config, Office())
    run_until_signed(config)
    state, kept = tmp_path / "state", tmp_path / "kept"
    shutil.copytree(state, kept)
    run_until_signed(config)
    shutil.rmtree(state)
    shutil.copytree(kept, state)
    signed = sequence_in(state)
    for _ in range(2):
        code, said = end_of(start(config))
        assert code == 2  # systemd does not start it again
        assert "journal and outbox are an older copy" in said
        assert "Traceback" not in said
    assert sequence_in(state) == signed
    verdict, said = finding(config, "counter")
    assert verdict is Verdict.WRONG
    assert "are an older copy" in said


def test_a_new_card_under_the_same_key_signs_nothing_by_itself(
    tpm: SoftTpm, config: Path, tmp_path: Path
) -> None:
    enrol(config, Office())
    run_until_signed(config)
    state, count = tmp_path / "state", count_of(tpm)
    known = device_key.load_device_key(state, tpm.settings).public
    shutil.rmtree(state)
    made = call("init", "--config", config)
    assert made.returncode == 0, made.stderr
    assert known.thumbprint.hex() in made.stdout
    enrolled = call("enrol", tmp_path / "m0.bundle", "--config", config)
    assert enrolled.returncode == 0, enrolled.stderr
    running = start(config)
    until_s = time.monotonic() + LIMIT_S
    while register_in(state) < 20:
        assert running.poll() is None, end_of(running)
        assert time.monotonic() < until_s
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    code, said = end_of(running)
    assert code == 0, said
    assert "cannot sign: this key has signed before" in said
    assert sequence_in(state) == 0
    assert count_of(tpm) == count
    assert finding(config, "counter")[0] is Verdict.WRONG


def test_a_board_that_has_signed_without_a_counter_gets_one_later(
    tpm: SoftTpm, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tpm.uri_of())
    enrol(config, Office())
    run_until_signed(config)
    config.write_text(config.read_text().replace(tpm.uri_of(), tpm.uri_of(counter=COUNTER)))
    assert finding(config, "counter")[0] is Verdict.WRONG
    made = call("init", "--config", config)
    assert made.returncode == 0, made.stderr
    assert "the counter is made" in made.stdout
    run_until_signed(config)
    assert finding(config, "counter")[0] is Verdict.OK


def test_init_without_its_tpm_says_so(tpm: SoftTpm, config: Path, tmp_path: Path) -> None:
    tpm.take_away()
    made = call("init", "--config", config)
    assert made.returncode == 2
    assert "does not answer" in made.stderr
    assert "Traceback" not in made.stderr
    assert not (tmp_path / "state" / "device.request").exists()
    tpm.bring_back()


def test_a_missing_package_is_named(
    tpm: SoftTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "hal.tpm_key")
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    asked: list[Callable[[], object]] = [
        lambda: device_key.load_device_key(tmp_path, tpm.settings),
        lambda: device_key.initialise(tmp_path, Algorithm.EDDSA, tpm.settings),
    ]
    for ask in asked:
        with pytest.raises(ConfigurationError, match=r"pip install 'cryptometer\[tpm2\]'"):
            ask()
