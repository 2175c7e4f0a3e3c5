"""A device that is recorded and replayed: the same bytes, whatever happened to it and wherever it
was killed. In one process, with the simulated community's broker, gateway, disks and clocks."""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.records import Record
from cryptometer.steps import ClockState
from firmware.capture import life_of
from firmware.config import Config
from firmware.device import Device, Parts
from firmware.journal import Journal
from firmware.outbox import Outbox
from firmware.replay import Outcome, frames, interpret, replay
from firmware.segments import frame
from firmware.tape import Answer, Tape, TapedDevice, Work, decode_said, encode_said
from hal import faults
from hal.faults import Point
from hal.files import SimulatedDirectory
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused
from hal.ports import Taken
from hal.tpm_key import TpmCounter, create_tpm_counter
from tests.core.community import STEP_S
from tests.firmware.test_device import Crash, dying
from tests.keys import signer
from tests.simulation import world as simulation
from tests.simulation.world import Board, World
from tests.tpms import COUNTER, SoftTpm

TICK_S = 5
POINTS = [point for point in Point if point.startswith(("file.", "device."))]


class Deck:
    """Where a board's tape goes, and what comes of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._tape = Tape(self.data.extend)

    def make_device(self, parts: Parts, config: Config, software: str) -> Device:
        folders = (parts.journal_directory, parts.outbox_directory)
        life = life_of(
            config,
            parts.clock,
            parts.signer.public,
            parts.enrolment,
            folders,
            software=software,
            is_guarded=parts.guard is not None,
        )
        self._tape = Tape(self.data.extend)  # the one before died with its program
        self._tape.begin(life)
        return TapedDevice(parts, config, software, self._tape)


class Replayed:
    """What a tape's replay left."""

    def __init__(self, tape: bytes, *, key: int | None = 10) -> None:
        self.journal, self.outbox = SimulatedDirectory(), SimulatedDirectory()
        self.records: list[Record] = []
        self.log: list[str] = []
        self.outcome: Outcome = replay(
            frames(tape),
            (self.journal, self.outbox),
            None if key is None else signer(key),
            self.records.append,
            self.log.append,
        )


def content(folder: SimulatedDirectory) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.names()}


@pytest.fixture
def deck(monkeypatch: pytest.MonkeyPatch) -> Deck:
    one = Deck()
    monkeypatch.setattr(simulation, "Device", one.make_device)
    return one


@pytest.fixture
def board(deck: Deck) -> Iterator[Board]:
    world = World(1, boards=1)
    [one] = world.boards
    one.start()
    yield one
    world.close()


def check_same(deck: Deck, board: Board) -> Replayed:
    again = Replayed(bytes(deck.data))
    assert content(again.outbox) == content(board.outbox)
    assert content(again.journal) == content(board.journal)
    assert again.outcome.differing == 0
    assert again.outcome.written > 0
    return again


# --- The same bytes. -----------------------------------------------------------------------------


def test_a_quiet_life_is_replayed_to_the_same_files(deck: Deck, board: Board) -> None:
    board.world.run(2 * STEP_S + 100, TICK_S)
    board.stop()
    again = check_same(deck, board)
    assert not again.outcome.is_cut
    assert again.outcome.lives == 1
    sequences = [one.body.sequence for one in again.records]  # type: ignore[union-attr]
    assert sequences == list(range(len(sequences)))
    assert len(sequences) > 5


def test_a_guarded_life_is_replayed_to_the_same_files(
    deck: Deck, board: Board, tmp_path: Path
) -> None:
    """The count as the TPM gave it, while it was away, and at a second start."""
    board.stop()
    deck.data.clear()
    board.journal, board.outbox = SimulatedDirectory(), SimulatedDirectory()
    tpm = SoftTpm(tmp_path / "tpm")
    place = tpm.place_of(counter=COUNTER)
    assert create_tpm_counter(place)
    board.guard = TpmCounter(place, COUNTER)
    tpm.take_away()
    board.start()
    board.world.run(100, TICK_S)
    tpm.bring_back()
    board.world.run(STEP_S, TICK_S)
    board.stop()
    board.start()
    board.world.run(100, TICK_S)
    count = board.guard.read()
    board.stop()
    tpm.close()
    again = check_same(deck, board)
    assert again.outcome.lives == 2
    assert any("does not answer" in line for line in again.log)
    end = Outbox(again.outbox, limit_bytes=0, window=1).peek()
    assert end is not None
    assert end.guarded == count is not None
    assert end.sequence > 3


def test_a_troubled_life_is_replayed_to_the_same_files(deck: Deck, board: Board) -> None:
    """Noise, drops, a burst, an unplugged line, a broker that forgets, clocks that jump and lose
    their source, an orderly restart, a power cut."""
    world = board.world
    world.run(300, TICK_S)
    board.noise, board.lost = 3, 2
    board.give(500)
    world.run(200, TICK_S)
    board.is_unplugged = True
    world.run(100, TICK_S)
    board.is_unplugged = False
    world.broker.wipe()
    world.run(600, TICK_S)
    world.broker.connect(board.wire)  # type: ignore[arg-type]
    board.clock.state = ClockState.UNKNOWN
    world.run(STEP_S, TICK_S)
    board.clock.state = ClockState.SYNCHRONISED
    board.clock.utc_ns += 7 * 10**9
    world.run(STEP_S, TICK_S)
    board.stop()
    world.run(60, TICK_S)
    board.start()
    world.run(400, TICK_S)
    board.cut_power(torn_bytes=11)
    board.start()
    world.run(STEP_S, TICK_S)
    again = check_same(deck, board)
    assert again.outcome.lives == 3
    assert again.outcome.is_cut  # the third was not ended


def test_what_a_counter_beside_the_line_told_is_replayed(deck: Deck, board: Board) -> None:
    board.beside = 40
    board.world.run(300, TICK_S)
    board.stop()
    board.is_unplugged = True
    board.give(6)
    board.is_unplugged = False
    board.start()
    board.world.run(STEP_S, TICK_S)
    board.stop()
    again = check_same(deck, board)
    assert Journal(again.journal).peek() == board.emitted


def test_what_the_authority_says_meanwhile_begins_another_life(deck: Deck, board: Board) -> None:
    world = board.world
    world.run(100, TICK_S)
    board.device._wants_restart = True  # type: ignore[union-attr]
    world.run(100, TICK_S)
    assert check_same(deck, board).outcome.lives == 2


@pytest.mark.parametrize("passage", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_lives_before_and_after_are_replayed(
    deck: Deck, board: Board, monkeypatch: pytest.MonkeyPatch, point: Point, passage: int
) -> None:
    world = board.world
    world.run(100, TICK_S)
    with dying(monkeypatch):
        faults.arm(f"{point}:{passage}")
        try:
            world.run(STEP_S, TICK_S)
            board.cut_power()
            board.start()
        except Crash:
            pass
    board.cut_power(torn_bytes=5)
    board.start()
    world.run(STEP_S, TICK_S)
    board.stop()
    check_same(deck, board)


# --- Other tapes. --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story() -> tuple[bytes, list[Record], int]:
    """A tape of two lives, its records, and its pulses."""
    one = Deck()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "Device", one.make_device)
        world = World(2, boards=1)
        [board] = world.boards
        board.start()
        world.run(STEP_S, TICK_S)
        board.kill()
        board.start()
        world.run(STEP_S, TICK_S)
        register = board.device_register
        board.stop()
        world.close()
    tape = bytes(one.data)
    return tape, Replayed(tape).records, register


@settings(max_examples=40)
@given(data=st.data())
def test_a_tape_that_is_cut_off_anywhere_gives_the_records_up_to_there(
    story: tuple[bytes, list[Record], int], data: st.DataObject
) -> None:
    tape, signed, _ = story
    cut = data.draw(st.integers(0, len(tape) - 1))
    try:
        again = Replayed(tape[:cut])
    except Rejected:
        assert next(frames(tape[:cut]), None) is None  # not even its beginning is whole
        return
    assert again.outcome.is_cut
    assert again.outcome.differing == 0
    assert again.records == signed[: len(again.records)]


def test_without_the_key_identities_are_the_same_and_nothing_is_signed(
    story: tuple[bytes, list[Record], int],
) -> None:
    tape, signed, _ = story
    again = Replayed(tape, key=None)
    assert [one.identity for one in again.records] == [one.identity for one in signed]
    assert again.outcome.differing == 0
    with pytest.raises(Rejected):
        again.records[0].envelope.verify(signer(10).public)


def test_the_key_of_another_device_is_refused(story: tuple[bytes, list[Record], int]) -> None:
    with pytest.raises(ConfigurationError, match="this is another"):
        Replayed(story[0], key=11)


def test_a_difference_from_what_was_recorded_is_told(
    story: tuple[bytes, list[Record], int],
) -> None:
    tape = edited(story[0], lambda answer: [int(Answer.TAKEN), 1, 0, 0, []], Answer.TAKEN)
    outcome = Replayed(tape).outcome
    assert outcome.differing > 0
    assert outcome.first_difference is not None


def edited(tape: bytes, change: object, *kinds: Answer) -> bytes:
    """A tape with answers of some kinds changed, or left out where the change is None."""
    out = b""
    for payload in frames(tape):
        value = cbor.decode(payload)
        if isinstance(value, list):
            kept: list[cbor.Value] = []
            for answer in value:
                assert isinstance(answer, list)
                if answer[0] not in kinds:
                    kept.append(answer)
                elif callable(change):
                    kept.append(change(answer))
            out += frame(cbor.encode(kept)) if kept else b""
        else:
            out += frame(payload)
    return out


@pytest.mark.parametrize("kind", [Answer.MACHINE, Answer.ROOM, Answer.PUBLISHED, Answer.WROTE])
def test_a_version_that_asks_otherwise_counts_the_same_pulses(
    story: tuple[bytes, list[Record], int], kind: Answer
) -> None:
    """Where a tape lacks answers, clocks stand and the rest has defaults; no pulse is left out."""
    tape, _, register = story
    ended = edited(tape, None, kind)
    again = Replayed(ended)
    assert again.outcome.status.startswith(f"{register} pulses")


def test_answers_that_nobody_asks_for_are_passed_over(
    story: tuple[bytes, list[Record], int],
) -> None:
    tape, signed, _ = story
    doubled = b""
    for payload in frames(tape):
        value = cbor.decode(payload)
        more = [*value, [int(Answer.ROOM), 2**40]] if isinstance(value, list) else value
        doubled += frame(cbor.encode(more))
    assert [one.identity for one in Replayed(doubled).records] == [one.identity for one in signed]


@pytest.mark.parametrize(
    "answers",
    [
        [[99]],
        [[int(Answer.MARK), 17]],
        [[int(Answer.MARK)]],
        [["now"]],
        [[int(Answer.NOW), 1, 1, 1, "Z"]],
        [[int(Answer.NOW), 1, 1, 1, 5]],
        [[]],
        [5],
    ],
)
def test_what_is_no_tape_is_refused(
    story: tuple[bytes, list[Record], int], answers: list[cbor.Value]
) -> None:
    life = next(frames(story[0]))
    with pytest.raises(Rejected):
        Replayed(frame(life) + frame(cbor.encode([*answers, [int(Answer.MARK), int(Work.TURN)]])))


def spoilt(value: Any, draw: random.Random) -> Any:
    """Another value in the place of one."""
    if isinstance(value, int):
        return draw.choice([0, -1, 2**63, -(2**63), value + 1, -value, 1000 * value, "x"])
    if isinstance(value, bytes):
        return draw.choice([b"", value + b"\0", value[:-1], 5])
    return draw.choice(["", 5, [], f"{value}x"])


@pytest.mark.parametrize("seed", range(40))
def test_a_tape_that_was_tampered_with_is_refused_or_replayed(
    story: tuple[bytes, list[Record], int], seed: int
) -> None:
    draw = random.Random(seed)
    values = [cbor.decode(payload) for payload in frames(story[0])]
    for _ in range(1 + seed % 3):
        place = draw.choice(values)
        if isinstance(place, list):
            place = draw.choice(place)
        assert isinstance(place, list | dict)
        at = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[at] = spoilt(place[at], draw)
    with suppress(Rejected, ConfigurationError):
        Replayed(b"".join(frame(cbor.encode(value)) for value in values))


def test_a_life_of_another_form_is_refused(story: tuple[bytes, list[Record], int]) -> None:
    value = cbor.decode(next(frames(story[0])))
    assert isinstance(value, dict)
    with pytest.raises(Rejected, match="a tape of form 2"):
        Replayed(frame(cbor.encode({**value, 0: 2})))
    with pytest.raises(Rejected, match="empty, or no tape"):
        Replayed(b"")


def test_a_run_between_two_captured_ones_is_noticed(
    deck: Deck, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware.outbox.SEGMENT_BYTES", 200)
    monkeypatch.setattr("firmware.tape.WHOLE_BYTES_MAX", 0)
    world = board.world
    world.run(100, TICK_S)
    board.stop()
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "Device", Device)
        board.start()
        world.run(2 * STEP_S, TICK_S)
        board.stop()
    board.start()
    with pytest.raises(ConfigurationError, match="was not captured"):
        Replayed(bytes(deck.data))


def test_a_board_with_a_long_outbox_gives_its_newest_files_only(
    deck: Deck, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware.outbox.SEGMENT_BYTES", 200)
    monkeypatch.setattr("firmware.tape.WHOLE_BYTES_MAX", 0)
    world = board.world
    world.run(2 * STEP_S, TICK_S)
    board.stop()
    deck.data.clear()
    for _ in range(2):
        board.start()
        world.run(STEP_S, TICK_S)
        board.stop()
    again = Replayed(bytes(deck.data))
    there, was = content(again.outbox), content(board.outbox)
    assert 2 < len(there) < len(was)
    assert there == {name: was[name] for name in there}
    assert content(again.journal) == content(board.journal)
    assert again.outcome.differing == 0


def test_the_private_key_and_the_broker_s_credential_are_not_on_the_tape(
    story: tuple[bytes, list[Record], int],
) -> None:
    from tests.keys import seed

    assert seed(10) not in story[0]
    assert b"mqtt://" not in story[0]
    assert b"password" not in story[0]


def test_received_bytes_are_interpreted_by_the_driver_s_own_rule() -> None:
    raw = bytes([0x00, 0x80, 0x15])
    assert interpret(raw, 1, {"driver": "serial", "line": "s0"}) == Taken(
        2, noise=1, lost=1, raw=raw
    )
    assert interpret(raw, 0, {"driver": "serial"}) == Taken(3, raw=raw)
    with pytest.raises(Rejected):
        interpret(raw, 0, {"driver": "optical"})


def test_a_portion_is_written_before_it_grows_large() -> None:
    written = bytearray()
    tape = Tape(written.extend)
    tape.mark(Work.TURN)
    assert not written
    tape.put(Answer.RAW, bytes(70_000), 0)
    assert len(written) > 70_000


@pytest.mark.parametrize(
    "said",
    [
        Reading("7", Index(5, -1), None, 1, 2),
        Reading(
            "", None, Index(0), 1, 2, 3, frozenset({Caveat.WEAK_CHECK}), (("EAST", "5"), ("a", "b"))
        ),
        Refusal(Refused.CHECKSUM, "a group", 9),
    ],
)
def test_what_a_meter_said_is_read_as_it_was_taken_down(said: Reading | Refusal) -> None:
    assert decode_said(cbor.decode(cbor.encode(encode_said(said)))) == said


@pytest.mark.parametrize(
    "value",
    [
        None, [], ["x", "y", 1], ["7", [], [], [1], [], [], []], ["7", [1], [], [1, 2], [], [], []],
        ["7", [1, 99], [], [1, 2], [], [], []], ["7", [], [], [1, 2], [], ["?"], []],
        ["7", [], [], [1, 2], [], [], ["odd"]], ["7", [], [], [1, 2], [], [], [1, 2]],
    ],
)  # fmt: skip
def test_what_no_meter_can_have_said_is_refused(value: object) -> None:
    with pytest.raises(Rejected):
        decode_said(value)
