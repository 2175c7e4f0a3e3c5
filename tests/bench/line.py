"""One firmware on one line: its start, its memory, and what pulses cost at every rate.

The pulses come over a real pseudo-terminal, each written when it is due.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from firmware import device_key, folder
from firmware.config import read_config
from firmware.device import Device, Parts
from firmware.journal import SEGMENT_BYTES, Journal
from firmware.simulate import Terminal
from hal.files import DiskDirectory
from hal.sim_line import SimSettings, SimulatedLine
from tests.bench.figures import MS_PER_S, Figure, Stopwatch, process_cpu_s, process_memory_mb
from tests.system.plant import Plant, kill

STARTS = 7
BARE = [sys.executable, "-c", "pass"]
HELP = program(FIRMWARE, "--help")
RUN = [
    sys.executable,
    "-c",
    "import firmware.main; firmware.main._parser();"
    "import firmware.board, hal.serial_line, hal.mqtt",
]

RATES = (100, 300, 1_000, 3_000, 10_000, 30_000)  # pulses a second
RATE_S = 2.0
SHARE_S = 8.0
MILLION, MILLION_HZ = 1_000_000, 25_000
SETTLE_MAX_S = 10.0
START_MAX_S = 60.0
SYNCS = 50
METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 0)


def figures() -> Iterator[Figure]:
    """The area's figures."""
    yield from _imports()
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path:
        yield from _syncs(Path(path))
        with Plant(Path(path) / "line", [METER], speed=1) as plant:
            plant.start_gateway()
            link = plant.layout.line(METER)
            with Terminal(link, None) as line:
                yield from _starts(plant, line)
                child = plant.start_device(METER)
                yield from _rates(plant, child, line)
                yield from _million(plant, child, line)
                assert child.end() == 0, child.last_lines()


# --- Its start. ---


def _imports() -> Iterator[Figure]:
    found: dict[str, list[float]] = {"bare": [], "help": [], "run": []}
    for _ in range(STARTS):
        for name, command in (("bare", BARE), ("help", HELP), ("run", RUN)):
            found[name].append(_process_s(command))
    bare = min(found["bare"])
    for name, what, most in (("help", "--help", 600), ("run", "run: its imports", 1_500)):
        over = (min(found[name]) - bare) * MS_PER_S
        yield Figure(
            f"cryptometer-firmware {what}, processor over a bare Python", over, "ms", most=most
        )


def _process_s(command: list[str]) -> float:
    """Processor seconds of a process from its start to its end."""
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime


def _syncs(path: Path) -> Iterator[Figure]:
    """What a group commit takes on this disk."""
    directory = DiskDirectory(path / "sync")
    took: list[float] = []
    for _ in range(SYNCS):
        directory.append("one", bytes(1_500))
        watch = Stopwatch()
        directory.sync(["one"])
        took.append(watch.wall_s * MS_PER_S)
    directory.close()
    yield Figure(
        "fdatasync of 1.5 kB on this disk, median", statistics.median(took), "ms", most=200
    )
    yield Figure(f"fdatasync of 1.5 kB on this disk, worst of {SYNCS}", max(took), "ms", most=2_000)


def _starts(plant: Plant, line: Terminal) -> Iterator[Figure]:
    state = plant.layout.device(METER)
    for what, is_full in (("", False), (f", {SEGMENT_BYTES // 1024} KiB of journal to read", True)):
        walls: list[float] = []
        processors: list[float] = []
        for _ in range(STARTS):
            if is_full:
                _fill(plant, state)
            child, wall_s, cpu_s = _start(plant, line)
            walls.append(wall_s)
            processors.append(cpu_s)
            kill(child)
        yield Figure(f"start to a counted pulse{what}, best of {STARTS}", min(walls), "s", most=0.5)
        yield Figure(f"the same{what}, processor time", min(processors), "s", most=0.5)


def _start(plant: Plant, line: Terminal) -> tuple[Child, float, float]:
    """Starts the firmware while a pulse waits; returns when that pulse is in the journal, how long
    it took, and what the process had of the processor."""
    journal = plant.layout.device(METER) / "journal"
    before, held = newest_segment(journal), register(journal)
    assert line.write(b"\x55") == 1
    watch = Stopwatch()
    child = plant.start_device(METER)
    # A run begins with a segment of its own; the one before is long to read.
    while newest_segment(journal) == before or register(journal) <= held:
        assert watch.wall_s < START_MAX_S, child.last_lines()
        time.sleep(0.002)
    return child, watch.wall_s, process_cpu_s(child.pid)


def newest_segment(journal: Path) -> str:
    """The name of the newest file; empty before the first run."""
    return max((path.name for path in journal.glob("journal-*.log")), default="")


def _fill(plant: Plant, state: Path) -> None:
    """The firmware's own device, in this process, until the journal's segment is full; then it is
    dropped as if killed."""
    key = device_key.load_device_key(state)
    line = SimulatedLine(SimSettings(0))
    journal, outbox = DiskDirectory(state / "journal"), DiskDirectory(state / "outbox")
    parts = Parts(
        plant.clock,
        lambda: line,
        journal,
        outbox,
        key,
        folder.read_enrolment(state, key.public),
        None,
        lambda _: False,
        lambda _: None,
    )
    device = Device(parts, read_config({"source": {"driver": "sim"}}), device_key.SOFTWARE)
    device.begin()
    while not device._journal.wants_snapshot:
        line.put(1)
        device.look()  # the device's work but for its syncs, which begin the next segment
        device._sign()
    line.close()
    journal.close()
    outbox.close()


# --- Its pulses. ---


def _rates(plant: Plant, child: Child, line: Terminal) -> Iterator[Figure]:
    journal = plant.layout.device(METER) / "journal"
    plant.wait(lambda: "watching" in child.last_lines(), "the firmware to watch")
    held = settled(journal)
    used_s = process_cpu_s(child.pid)
    held += emit(line, 100, SHARE_S)
    share = (process_cpu_s(child.pid) - used_s) / SHARE_S
    assert settles(journal, held)
    yield Figure("firmware: share of a core at 100 pulses/s", 100 * share, "%", most=25)
    highest = 0
    for rate in RATES:
        used_s = process_cpu_s(child.pid)
        taken = emit(line, rate, RATE_S)
        held += taken
        if taken < int(rate * RATE_S) or not settles(journal, held):
            break
        highest = rate
        if rate == 10_000:
            pulse_us = (process_cpu_s(child.pid) - used_s) / taken * 1e6
            yield Figure("firmware: processor time of a pulse at 10,000/s", pulse_us, "us", most=50)
    yield Figure(
        f"firmware: pulses a second on a pty, none lost (of {RATES[-1]:,})",
        highest,
        "/s",
        least=10_000,
    )


def _million(plant: Plant, child: Child, line: Terminal) -> Iterator[Figure]:
    journal = plant.layout.device(METER) / "journal"
    held = settled(journal) + emit(line, MILLION_HZ, MILLION / MILLION_HZ)
    assert settles(journal, held)
    yield Figure(
        "firmware: memory after a million pulses", process_memory_mb(child.pid), "MB", most=45
    )


def emit(line: Terminal, rate: float, seconds: float) -> int:
    """Pulses at a steady rate, each when it is due; returns how many the line took."""
    total, sent, taken = int(rate * seconds), 0, 0
    begin = time.perf_counter()
    while sent < total:
        due = min(total, int((time.perf_counter() - begin) * rate) + 1)
        if due > sent:
            taken += line.write(b"\x55" * (due - sent))
            sent = due
        ahead_s = begin + sent / rate - time.perf_counter()
        time.sleep(max(ahead_s, 0.0002))
    return taken


def settles(journal: Path, pulses: int) -> bool:
    """Whether the firmware soon has journalled all of them, and no more."""
    deadline = time.monotonic() + SETTLE_MAX_S
    while (found := register(journal)) < pulses and time.monotonic() < deadline:
        time.sleep(0.05)
    return found == pulses


def settled(journal: Path) -> int:
    """The register, once it stands still."""
    before, found = -1, register(journal)
    while before != found:
        time.sleep(1.0)
        before, found = found, register(journal)
    return found


def register(journal: Path) -> int:
    """The pulses in a running firmware's journal."""
    directory = DiskDirectory(journal)
    while True:
        try:
            return Journal(directory).peek()
        except FileNotFoundError:
            continue  # a segment went while it was read: a newer one stands
