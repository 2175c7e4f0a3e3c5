"""Channels of one program: each starts, fails and comes back alone; the exit code tells."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm
from firmware.board import Board
from firmware.channel import Channel
from firmware.device import Device
from firmware.device_key import initialise
from firmware.folder import find_configurations
from firmware.journal import Journal
from hal.drivers import Buses
from hal.files import DiskDirectory
from hal.program import EXIT_CONFIGURATION, EXIT_FAILED
from tests.bench.figures import process_cpu_s

NAMES = ("roof", "shed", "wind")
WAIT_S = 60.0


class Premises:
    """Boards' folders with simulated lines, and a program that is started on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "board.log"
        self.children: list[Child] = []
        for name in NAMES:
            initialise(folder / name, Algorithm.EDDSA)
            self.configure(name, name)

    def configure(self, name: str, state: str) -> None:
        source = '[source]\ndriver = "sim"\ninterval_machine_ms = 20\n'
        (self.folder / f"{name}.toml").write_text(f'state = "{state}"\n{source}')

    def start(self, *names: str) -> Child:
        """Starts the program on some channels, by default on the folder of all of them."""
        given = [self.folder / f"{name}.toml" for name in names] or [self.folder]
        child = Child("board", program(FIRMWARE, "run", "--config", *given), self.log)
        self.children.append(child)
        return child

    def wait(self, true: Callable[[str], bool]) -> None:
        until_s = time.monotonic() + WAIT_S
        while not true(self.log.read_text()):
            assert time.monotonic() < until_s, self.log.read_text()
            time.sleep(0.02)

    def register(self, name: str) -> int:
        return Journal(DiskDirectory(self.folder / name / "journal")).peek()


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    premises = Premises(tmp_path)
    yield premises
    for child in premises.children:
        child.end()


def test_a_channel_whose_files_fail_ends_alone_and_comes_back(premises: Premises) -> None:
    # The first write of a life makes a segment: here it cannot, whoever asks.
    obstacle = premises.folder / "shed" / "journal" / "journal-00000000.log"
    obstacle.parent.mkdir()
    obstacle.mkdir()
    board = premises.start()
    premises.wait(lambda said: said.count("shed: stopping: ") == 2)  # and when it began anew
    others = {name: premises.register(name) for name in ("roof", "wind")}
    obstacle.rmdir()
    premises.wait(lambda said: "shed: watching" in said)
    premises.wait(lambda _: premises.register("shed") > 0)
    assert all(premises.register(name) > before for name, before in others.items())
    assert board.end() == 0
    said = premises.log.read_text()
    assert "it starts anew in 2 s" in said
    for name in ("roof", "wind"):
        assert said.count(f"{name}: watching") == 1
        assert f"{name}: stopping" not in said
    assert all(f"{name}: ended: " in said for name in NAMES)


def test_a_channel_that_cannot_work_waits_for_a_person_and_the_exit_code_tells(
    premises: Premises,
) -> None:
    (premises.folder / "wind" / "device.key").unlink()
    board = premises.start()
    premises.wait(lambda said: said.count(": watching") == 2 and "wind: stopping: " in said)
    premises.wait(lambda _: premises.register("roof") > 0)
    assert board.exit_code() is None
    assert board.end(signal.SIGINT) == EXIT_CONFIGURATION
    said = premises.log.read_text()
    assert said.count("wind: stopping: there is no key in") == 1
    assert "it waits for a person" in said


def test_a_board_that_waits_costs_next_to_nothing(premises: Premises) -> None:
    board = premises.start()
    premises.wait(lambda said: said.count(": watching") == len(NAMES))
    before_s = process_cpu_s(board.pid)
    time.sleep(2)
    # 150 pulses/s here; a loop that did not wait would take all that it gets.
    assert process_cpu_s(board.pid) - before_s < 1
    assert board.end() == 0


def test_a_fault_in_one_channels_end_keeps_no_other_from_ending_in_order(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def log(text: str) -> None:
        said.append(text)
        if said.count(text) == 1 and sum(line.endswith(": watching") for line in said) == len(
            NAMES
        ):
            board.stop()

    end = Device.end

    def end_but_one(device: Device) -> None:
        if not any("stopping: " in line for line in said):
            raise RuntimeError("a fault of ours")
        end(device)

    monkeypatch.setattr(Device, "end", end_but_one)
    board = Board([premises.folder / f"{name}.toml" for name in NAMES], log)
    assert board.run() == EXIT_FAILED
    assert sum(": ended: " in line for line in said) == len(NAMES) - 1


def test_a_farewell_that_comes_late_leaves_the_next_life_alone(premises: Premises) -> None:
    said: list[str] = []
    channel = Channel(premises.folder / "roof.toml", said.append, Buses(), is_named=False)
    channel.live()
    channel.fail()
    device = channel.live()
    channel.leave()
    assert device.wake().line is not None
    channel.end()
    channel.release()


def test_one_folder_serves_one_channel(premises: Premises) -> None:
    premises.configure("again", "roof")
    board = premises.start("roof", "again")
    premises.wait(lambda said: "stopping: another program runs on" in said and "watching" in said)
    assert board.exit_code() is None
    assert board.end() == EXIT_CONFIGURATION


def test_the_last_channels_end_is_the_programs(premises: Premises) -> None:
    (premises.folder / "roof" / "device.key").unlink()
    assert premises.start("roof").wait() == EXIT_CONFIGURATION
    (premises.folder / "shed" / "journal").write_bytes(b"no folder")
    # What a start anew may cure decides.
    assert premises.start("roof", "shed").wait() == EXIT_FAILED
    assert "cryptometer-firmware: stopping: " in premises.log.read_text()


def test_a_folder_stands_for_the_configurations_in_it(premises: Premises, tmp_path: Path) -> None:
    found = find_configurations([premises.folder])
    assert found == [premises.folder / f"{name}.toml" for name in NAMES]
    assert find_configurations([found[1], found[0]]) == [found[1], found[0]]
    with pytest.raises(ConfigurationError, match="is named twice"):
        find_configurations([premises.folder, found[0]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"there is no \*\.toml in"):
        find_configurations([tmp_path / "empty"])
