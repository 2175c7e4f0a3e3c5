"""Captures as users make them: the real program on a real pseudo-terminal, killed in the middle,
and its replay as a process of its own."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cryptometer.enrolment import Broker
from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm
from cryptometer.steps import step_start_ms
from firmware import capture, device_key, folder
from firmware.board import Board
from firmware.capture import TapeFile
from firmware.segments import frame
from hal.files import hold
from tests.brokers import free_ports, until
from tests.core.community import FIRST_STEP, STEP_S
from tests.firmware.kit import Office
from tests.firmware.test_folder import bundle_for

PROGRAM = [sys.executable, "-m", "firmware.main"]
SPEED = 450  # a step takes two seconds
LIMIT_S = 60.0


@dataclass
class Place:
    """A board's folder, and the far end of its line."""

    path: Path
    master: int

    @property
    def config(self) -> Path:
        return self.path / "meter.toml"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def tape(self) -> Path:
        return self.path / "meter.tape"

    @property
    def log(self) -> str:
        return (self.path / "run.log").read_text()

    def start(self) -> "subprocess.Popen[bytes]":
        """The firmware, once it watches."""
        before = self.log.count("watching")
        with (self.path / "run.log").open("ab") as log:
            process = subprocess.Popen(
                [*PROGRAM, "run", "--config", self.config, "--capture", self.tape], stderr=log
            )
        until(lambda: self.log.count("watching") > before, "the firmware to watch")
        return process

    def give(self, data: bytes, count: int, every_s: float) -> None:
        for _ in range(count):
            os.write(self.master, data)
            time.sleep(every_s)

    def replay(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*PROGRAM, "replay", self.tape, *words],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def files(self, place: Path) -> dict[str, bytes]:
        logs = [*(place / "journal").glob("*.log"), *(place / "outbox").glob("*.log")]
        return {one.name: one.read_bytes() for one in logs}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Place]:
    master, slave = pty.openpty()
    one = Place(tmp_path, master)
    (tmp_path / "run.log").touch()
    device_key.initialise(one.state, Algorithm.EDDSA)
    broker = Broker(f"mqtt://127.0.0.1:{free_ports()}")  # nobody is there
    folder.enrol(one.state, bundle_for(Office(), one.state, broker=broker))
    origin_ms = step_start_ms(FIRST_STEP + 1, STEP_S)
    one.config.write_text(
        f'state = "state"\n[source]\ndriver = "serial"\ndevice = "{os.ttyname(slave)}"\n'
        f'line = "s0"\n[clock]\ndriver = "scaled"\nspeed = {SPEED}\norigin_ms = {origin_ms}\n'
        f"anchor_ms = {time.monotonic_ns() // 1_000_000}\n[batch]\nlots = 4\n"
    )
    yield one
    os.close(master)
    os.close(slave)


def test_a_run_that_was_killed_is_replayed_to_the_same_bytes(board: Place) -> None:
    """Over steps' ends, with noise and a burst, killed once and ended once."""
    process = board.start()
    board.give(b"\x00", 40, 0.05)
    board.give(b"\x00\x15", 5, 0.05)
    process.kill()
    process.wait(LIMIT_S)
    board.give(b"\x00", 5, 0.01)
    process = board.start()
    board.give(b"\x00" * 300, 1, 0.2)
    board.give(b"\x00", 40, 0.05)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(LIMIT_S) == 0

    again = board.replay("--key", board.state / "device.key", "--out", board.path / "again")
    assert (again.returncode, again.stderr) == (0, "")
    assert board.files(board.path / "again") == board.files(board.state)
    *records, lives, verdict = again.stdout.splitlines()
    assert lives.startswith("lives 2, turns ")
    assert verdict.startswith("as recorded: ")
    signed = [line for line in records if line[0] != "#"]
    assert sum("step-close" in line for line in signed) >= 2
    assert any("noise=" in line for line in signed)
    assert any("burst=" in line for line in signed)
    assert b"PRIVATE" not in board.tape.read_bytes()

    unsigned = board.replay()
    assert unsigned.returncode == 0
    assert [line for line in unsigned.stdout.splitlines() if "identity=" in line] == signed

    with board.tape.open("r+b") as file:
        file.truncate(board.tape.stat().st_size - 100)
    torn = board.replay("--key", board.state / "device.key")
    assert (torn.returncode, torn.stderr) == (0, "")
    assert "the tape ends before the program did" in torn.stdout
    identities = [line for line in torn.stdout.splitlines() if "identity=" in line]
    assert identities == signed[: len(identities)]
    assert len(identities) > 3


def test_a_line_alone_is_captured_and_a_device_replays_it(board: Place) -> None:
    """What a user sends in: pulses that nobody counted, and what would have been made of them."""
    with subprocess.Popen(
        [*PROGRAM, "capture", "--config", board.config, "--out", board.tape, "--seconds", "2.5"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: board.tape.exists() and board.tape.stat().st_size > 500, "the capture")
        board.give(b"\x00", 20, 0.05)
        board.give(b"\x15", 2, 0.05)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert out.startswith("captured 20 pulses, 2 of noise, 0 dropped")
    assert not (board.state / "journal").exists()
    again = board.replay()
    assert again.returncode == 0
    assert "lives 1" in again.stdout
    assert "20 pulses," in again.stdout
    assert "batch" in again.stdout
    assert "the tape ends before" not in again.stdout


def test_the_firmware_s_line_is_not_taken_from_it(board: Place) -> None:
    with hold(board.state / "device.lock"), pytest.raises(ConfigurationError, match="stop it"):
        capture.capture(board.config, board.tape, 0.1)
    assert not board.tape.exists()


def test_a_line_that_cannot_be_opened_is_told(board: Place) -> None:
    text = board.config.read_text().replace("/dev/pts/", "/dev/none/")
    board.config.write_text(text)
    with pytest.raises(ConfigurationError, match="no such device"):
        capture.capture(board.config, board.tape, 0.1)


def test_each_of_several_meters_has_a_tape_of_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "meter.toml", tmp_path / "b" / "meter.toml"]
    tapes = tmp_path / "tapes"
    Board(paths, print, tapes)
    assert sorted(one.name for one in tapes.iterdir()) == ["0-meter.tape", "1-meter.tape"]


# --- The file. -----------------------------------------------------------------------------------


def test_a_file_that_is_no_capture_is_left_as_it_is(tmp_path: Path) -> None:
    for content in (b"a letter to somebody", frame(b"\x01"), frame(b"no cbor")):
        path = tmp_path / "letter"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="no capture"):
            TapeFile(path, print)
        assert path.read_bytes() == content


def test_a_torn_end_is_cut_before_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    whole = frame(b"\xa1\x00\x01")
    path.write_bytes(whole + frame(b"\x80")[:-1])
    tape = TapeFile(path, print)
    assert not tape.is_fresh
    tape.write(b"more")
    tape.close()
    assert path.read_bytes() == whole + b"more"


def test_two_programs_do_not_write_one_tape(tmp_path: Path) -> None:
    tape = TapeFile(tmp_path / "tape", print)
    assert tape.is_fresh
    with pytest.raises(ConfigurationError, match="another program"):
        TapeFile(tmp_path / "tape", print)
    tape.close()


def test_a_capture_that_cannot_go_on_says_so_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tape = TapeFile(tmp_path / "tape", said.append)
    monkeypatch.setattr(capture, "TAPE_BYTES_MAX", 10)
    tape.write(b"12345678")
    tape.write(b"12345678")
    tape.write(b"1")
    assert [one.rpartition(": ")[2] for one in said] == ["it is full"]
    assert (tmp_path / "tape").read_bytes() == b"12345678"
    other = TapeFile(tmp_path / "other", said.append)
    monkeypatch.setattr(capture, "ROOM_BYTES_MIN", 2**62)
    other.write(b"1")
    assert said[-1].endswith("the disk is nearly full")


def test_a_replay_goes_into_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    with pytest.raises(ConfigurationError, match="there is no file"):
        capture.replay_file(tape, None, None, print)
    tape.touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        capture.replay_file(tape, None, tmp_path, print)
