"""The two programs as services: ended in order, watched by a manager, alone on their folder, on a
disk that is full, and without the time."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from cryptometer.block_header import Header
from cryptometer.chain_records import RunStart
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, GATEWAY, Child, program
from cryptometer.steps import NS_PER_MS, ClockSource, ClockState, state_of
from hal.clock import kernel_clock
from hal.program import EXIT_FAILED
from tests.system.plant import Plant, check_every_pulse

SPEED = 300  # a step in 3 s
METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 200)  # 167 pulses per second of the machine
END_MAX_S = 10.0
SLACK_MS = 100 * SPEED


def start(
    plant: Plant,
    module: str,
    config: Path,
    environment: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Child:
    """Starts a program of the plant; its log is its own."""
    log = config.parent / "run.log"
    command = [*wrapper, *program(module, "run", "--config", config)]
    return plant._keep(Child(module, command, log, environment))


def ends_soon(child: Child) -> str:
    """Asks a program to end; returns its last line."""
    begun = time.monotonic()
    assert child.end() == 0
    assert time.monotonic() - begun < END_MAX_S
    return child.log.read_text().splitlines()[-1]


def settle(plant: Plant) -> dict[str, int]:
    """Ends the pulses and waits for the last closes and their block."""
    emitted = plant.stop_simulators()
    plant.wait_for_block(plant.step(), blocks_late=1)
    report = plant.audit()
    assert not report.quarantined
    assert not report.findings
    return emitted


def check_all_arrived(plant: Plant) -> None:
    """Every pulse emitted stands in a block; on a busy machine a close may miss its own."""
    emitted = settle(plant)
    plant.wait(lambda: plant.registers() == emitted, "all pulses to stand in blocks")


# --- Ended in order. -----------------------------------------------------------------------------


def test_both_programs_end_within_seconds_when_told_and_say_so(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        assert plant.gateway is not None
        assert plant.broker is not None
        last = ends_soon(plant.gateway)
        assert last.startswith("ended: ")
        assert " leaves, step " in last
        said = ends_soon(plant.devices[METER.name])
        assert said.startswith("ended: ")
        # Again, and now without a broker to say farewell to.
        plant.start_gateway()
        plant.start_device(METER)
        plant.wait_for_block(plant.step())
        plant.broker.end()
        for child in (plant.gateway, plant.devices[METER.name]):
            text = child.log.read_text
            plant.wait(lambda text=text: "cannot reach" in text(), "the loss to be noticed")  # type: ignore[misc]
            assert ends_soon(child).startswith("ended: ")
        plant.start_broker()
        plant.start_gateway()
        plant.start_device(METER)
        plant.wait_for_block(plant.step())
        check_all_arrived(plant)
        runs = [body for body in plant.chain(METER) if isinstance(body, RunStart)]
        assert [run.ending.value for run in runs] == ["first", "stopped", "stopped"]


def test_an_interrupt_ends_them_as_a_request_does(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step - 1)
        assert plant.gateway is not None
        for child in (plant.gateway, plant.devices[METER.name]):
            assert child.end(signal.SIGINT) == 0
            assert "ended: " in child.last_lines()
            assert "Traceback" not in child.log.read_text()


# --- Watched by a service manager. ---------------------------------------------------------------


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The socket a service manager listens on; a path, or a name that begins with @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("\0" + address[1:] if address.startswith("@") else address)
        line.settimeout(30)
        yield line


def hear(line: socket.socket, word: str) -> str:
    """Waits for a message with this assignment; returns the whole of it."""
    while True:
        message = line.recv(4096).decode()
        if word in message.split("\n"):
            return message


@pytest.mark.parametrize(
    ("module", "status"),
    [(FIRMWARE, " pulses, "), (GATEWAY, " leaves, step ")],
    ids=["firmware", "gateway"],
)
def test_a_service_manager_hears_ready_alive_and_stopping(
    module: str, status: str, tmp_path: Path
) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        plant.start_simulator(METER)
        folder = plant.layout.gateway if module == GATEWAY else plant.layout.device(METER)
        config = folder / ("gateway.toml" if module == GATEWAY else "meter.toml")
        for address in (f"@cryptometer-{os.getpid()}-{plant.port}", "n"):
            here = os.path.relpath(tmp_path / address) if address == "n" else address
            with manager(here) as line:
                given = here if here.startswith("@") else str(tmp_path / address)
                if len(given) > 107:  # sun_path (unix(7))
                    pytest.fail(f"the test's folder has too long a name: {given}")
                watched = {"NOTIFY_SOCKET": given, "WATCHDOG_USEC": "600000"}
                child = start(plant, module, config, watched)
                ready = hear(line, "READY=1")
                assert status in ready
                times = []
                for _ in range(4):
                    assert status in hear(line, "WATCHDOG=1")
                    times.append(time.monotonic())
                # Within the time-out every time, though nothing else happens here.
                assert max(b - a for a, b in pairwise(times)) < 3
                assert child.end() == 0
                hear(line, "STOPPING=1")
                line.setblocking(False)
                with pytest.raises(BlockingIOError):
                    line.recv(4096)


def test_without_a_watchdog_only_ready_and_stopping_are_said(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        address = f"@cryptometer-{os.getpid()}-{plant.port}"
        with manager(address) as line:
            config = plant.layout.gateway / "gateway.toml"
            child = start(plant, GATEWAY, config, {"NOTIFY_SOCKET": address})
            assert line.recv(4096).decode().startswith("READY=1\n")
            plant.wait_for_block(plant.layout.first_step - 1)
            assert child.end() == 0
            assert line.recv(4096).decode() == "STOPPING=1"


# --- Alone on their folder. ----------------------------------------------------------------------


def test_a_second_program_on_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step - 1)
        for module, name, folder in (
            (FIRMWARE, "meter.toml", plant.layout.device(METER)),
            (GATEWAY, "gateway.toml", plant.layout.gateway),
        ):
            done = subprocess.run(
                program(module, "run", "--config", folder / name),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 2
            word = "firmware" if module == FIRMWARE else "gateway"
            assert done.stderr == f"cryptometer-{word}: another program runs on {folder}\n"
        # A look at it is no second program.
        for words in (
            program(FIRMWARE, "status", "--config", plant.layout.device(METER) / "meter.toml"),
            program(GATEWAY, "status", "--config", plant.layout.gateway),
        ):
            subprocess.run(words, capture_output=True, timeout=60, check=True)
        check_all_arrived(plant)
        assert plant.devices[METER.name].exit_code() is None
        # The lock is the kernel's: it goes with the one who held it, however he went.
        plant.devices[METER.name].end()
        plant.start_device(METER)
        plant.wait_for_step(plant.step() + 1)
        assert plant.devices[METER.name].exit_code() is None


# --- A full disk. --------------------------------------------------------------------------------

DISK_BYTES = 24 * 2**20
FILE_BYTES = 12_288


class Disk:
    """A disk of a few megabytes where the machine lets us mount one; elsewhere a limit on the
    size of the program's files, which ends its writes with another error at the same places."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        size = f"size={DISK_BYTES}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], capture_output=True, check=False
        )
        self.is_mounted = done.returncode == 0

    def wrapper(self) -> list[str]:
        """What a program on it is started with while it is full."""
        return [] if self.is_mounted else ["prlimit", f"--fsize={FILE_BYTES}"]

    def fill(self) -> None:
        """Takes all the room there is."""
        if not self.is_mounted:
            return
        with (self.path / "filler").open("wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        assert os.statvfs(self.path).f_bavail == 0

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    try:
        yield made
    finally:
        made.close()


def move(folder: Path, config: Path, disk: Disk) -> None:
    """Puts a program's state on the small disk."""
    subprocess.run(["cp", "-a", f"{folder}/.", disk.path], check=True)
    text = config.read_text().replace('state = "."\n', "")
    config.write_text(f'state = "{disk.path}"\n{text}')


def stopped_by_the_disk(plant: Plant, child: Child) -> str:
    """Waits until a program has stopped; returns its last line."""
    plant.wait(lambda: child.exit_code() is not None, "the program to stop")
    assert child.exit_code() == EXIT_FAILED, child.last_lines()
    text = child.log.read_text()
    assert "Traceback" not in text
    return text.splitlines()[-1]


def test_a_device_on_a_full_disk_stops_and_goes_on_once_there_is_room(
    tmp_path: Path, disk: Disk
) -> None:
    with Plant(tmp_path / "plant", [METER], speed=SPEED) as plant:
        config = plant.layout.device(METER) / "meter.toml"
        move(plant.layout.device(METER), config, disk)
        plant.start_simulator(METER)
        plant.start_gateway()
        child = start(plant, FIRMWARE, config, wrapper=disk.wrapper())
        if disk.is_mounted:
            plant.wait_for_block(plant.layout.first_step)
        disk.fill()
        said = stopped_by_the_disk(plant, child)
        assert said.startswith("cryptometer-firmware: stopping: [Errno ")
        # Started again without room, as a service manager does, it stops again and harms nothing.
        disk.fill()
        again = start(plant, FIRMWARE, config, wrapper=disk.wrapper())
        stopped_by_the_disk(plant, again)
        disk.make_room()
        start(plant, FIRMWARE, config)
        plant.wait_for_block(plant.step())
        emitted = settle(plant)
        final = plant.registers()[METER.name]
        # At most the reads in progress, and those in intervals declared as not watched.
        lost = check_every_pulse(plant.chain(METER), plant.emissions_ms(METER), final, SLACK_MS)
        assert lost == emitted[METER.name] - final
        assert lost <= 50


def test_a_gateway_on_a_full_disk_stops_and_goes_on_once_there_is_room(
    tmp_path: Path, disk: Disk
) -> None:
    with Plant(tmp_path / "plant", [METER], speed=SPEED) as plant:
        config = plant.layout.gateway / "gateway.toml"
        move(plant.layout.gateway, config, disk)
        (plant.layout.gateway / "ledger").symlink_to(disk.path / "ledger")
        config.write_text(f'ledger = "{disk.path / "ledger"}"\n' + config.read_text())
        plant.start_simulator(METER)
        plant.start_device(METER)
        child = start(plant, GATEWAY, config, wrapper=disk.wrapper())
        if disk.is_mounted:
            plant.wait_for_block(plant.layout.first_step)
        disk.fill()
        said = stopped_by_the_disk(plant, child)
        assert said.startswith("cryptometer-gateway: stopping: ")
        # What is there holds while it is full.
        if disk.is_mounted:
            assert plant.audit().blocks >= 2
        disk.make_room()
        child = start(plant, GATEWAY, config)
        plant.wait_for_block(plant.step())
        # Ended in order, and started again without room: the store cannot even be opened. That is
        # no fault of its configuration, which a service manager would not start again.
        assert child.end() == 0
        disk.fill()
        child = start(plant, GATEWAY, config, wrapper=disk.wrapper())
        assert stopped_by_the_disk(plant, child).startswith("cryptometer-gateway: stopping: ")
        disk.make_room()
        start(plant, GATEWAY, config)
        plant.wait_for_block(plant.step())
        check_all_arrived(plant)


# --- Without the time. ---------------------------------------------------------------------------


def headers(plant: Plant) -> list[Header]:
    return [one.body for one in plant.leaves() if isinstance(one.body, Header)]


def test_without_the_time_no_block_is_sealed_unless_it_is_accepted_and_shown(
    tmp_path: Path,
) -> None:
    """Above 1 s of error a clock is not synchronised: of a scaled one, 1 ms times its speed."""
    with Plant(tmp_path, [METER], speed=1_200) as plant:
        plant.start_simulator(METER)
        first = plant.start_gateway()
        text = first.log.read_text
        why = "the clock is not synchronised: no block is sealed"
        plant.wait(lambda: why in text(), "the gateway to say why")
        plant.wait_for_step(plant.layout.first_step + 3)
        assert plant.newest_block() == -1
        assert not (plant.layout.gateway / "ledger" / "checkpoint").exists()
        assert first.end() == 0
        toml = plant.layout.gateway / "gateway.toml"
        toml.write_text(f"accept_unsynchronised = true\n{toml.read_text()}")
        plant.start_gateway()
        plant.wait_for_block(plant.step())
        report = plant.audit()
        assert report.unsynchronised == report.blocks >= 4
        assert {header.clock.state for header in headers(plant)} == {ClockState.INFORMATIVE}


def test_the_system_s_clock_is_believed_as_far_as_the_kernel_believes_it(tmp_path: Path) -> None:
    """Whatever this machine's clock is: what is sealed, and what is said, follows from it."""
    with Plant(tmp_path, [METER], speed=1) as plant:
        toml = plant.layout.gateway / "gateway.toml"
        toml.write_text('[clock]\ndriver = "system"\n')
        kernel = kernel_clock()
        state = (
            state_of(kernel.error_ns // NS_PER_MS) if kernel.synchronised else ClockState.UNKNOWN
        )
        first = plant.start_gateway()
        if state is ClockState.SYNCHRONISED:
            plant.wait_for_block(plant.layout.first_step - 1)
        else:
            text = first.log.read_text
            why = "the clock is not synchronised: no block is sealed"
            plant.wait(lambda: why in text(), "the gateway to say why")
            assert plant.newest_block() == -1
        assert first.end() == 0
        toml.write_text(f"accept_unsynchronised = true\n{toml.read_text()}")
        plant.start_gateway()
        plant.wait_for_block(plant.layout.first_step - 1)
        newest = headers(plant)[-1]
        assert newest.clock.source is ClockSource.SYSTEM
        assert newest.clock.state is state
        assert plant.audit().unsynchronised == (state is not ClockState.SYNCHRONISED)
