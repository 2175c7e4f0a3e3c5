"""The programs as processes: their start, memory, share of a core, highest pulse rate, punctuality.

The pulses come over a real pseudo-terminal; broker, firmware and gateway are real, too.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptometer.commands.demo.community import STEP_S, SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, Tail, program
from cryptometer.records import Header
from cryptometer.steps import step_start_ms
from firmware import folder
from firmware.config import read_config
from firmware.device import Device, Parts
from firmware.journal import SEGMENT_BYTES, Journal
from firmware.simulate import _Terminal
from hal.files import DiskDirectory
from hal.sim_line import SimSettings, SimulatedLine
from tests.bench.figures import MS_PER_S, Figure, Stopwatch, process_cpu_s, process_memory_mb
from tests.system.plant import Plant, kill

STARTS = 7
BARE = [sys.executable, "-c", "pass"]
HELP = program(FIRMWARE, "--help")
_RUN_IMPORTS = "import firmware.device, firmware.folder, hal.drivers, hal.mqtt, hal.notify"
RUN = [sys.executable, "-c", f"{_RUN_IMPORTS}, hal.serial_line"]

RATES = (100, 300, 1_000, 3_000, 10_000, 30_000)  # pulses a second
RATE_S = 2.0
SHARE_S = 8.0
SETTLE_MAX_S = 5.0
START_MAX_S = 60.0
SYNCS = 50

SPEED = 180  # a step of 15 minutes takes 5 seconds
STEPS = 8
METERS = tuple(SimulatedMeter(f"pv-{number}", "B", 3, 10_000, 40) for number in range(4))


def figures() -> Iterator[Figure]:
    """The area's figures."""
    yield from _starts()
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path:
        yield from _syncs(Path(path))
        yield from _line(Path(path) / "line")
        yield from _plant(Path(path) / "plant")


def _starts() -> Iterator[Figure]:
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


# --- One firmware on a line. ---


def _line(path: Path) -> Iterator[Figure]:
    meter = SimulatedMeter("pv-roof", "B", 3, 10_000, 0)
    with Plant(path, [meter], speed=1) as plant, _Terminal(plant.layout.line(meter), None) as line:
        state = plant.layout.device(meter)
        log = state / "run.log"
        journal = state / "journal"
        child, _ = _start(plant, meter, log)
        emitted, used_s = 0, process_cpu_s(child.pid)
        taken = _emit(line, 100, SHARE_S)
        share = (process_cpu_s(child.pid) - used_s) / SHARE_S
        emitted += taken
        assert _settles(journal, emitted)
        yield Figure("firmware: share of a core at 100 pulses/s", 100 * share, "%", most=25)
        highest = 0
        for rate in RATES:
            due = int(rate * RATE_S)
            taken = _emit(line, rate, RATE_S)
            emitted += taken
            if taken < due or not _settles(journal, emitted):
                break
            highest = rate
        yield Figure(
            f"firmware: pulses a second on a pty, none lost (of {RATES[-1]:,})",
            highest,
            "/s",
            least=1_000,
        )
        kill(child)
        held = _register(journal)
        pulses = _fill(plant, state)
        child, started_s = _start(plant, meter, log)
        assert _register(journal) >= held + pulses
        yield Figure(
            f"firmware: start to watching, a journal of {SEGMENT_BYTES // 1024} KiB to read",
            started_s,
            "s",
            most=10,
        )
        assert child.end() == 0, child.last_lines()


def _start(plant: Plant, meter: SimulatedMeter, log: Path) -> tuple[Child, float]:
    """Starts the firmware; returns when it watches the line, and how long that took."""
    tail = Tail(log)
    tail.lines()
    watch = Stopwatch()
    child = plant.start_device(meter)
    said: list[str] = []
    while "watching" not in said:
        child.check()
        assert watch.wall_s < START_MAX_S, child.last_lines()
        time.sleep(0.005)
        said += tail.lines()
    return child, watch.wall_s


def _emit(line: _Terminal, rate: int, seconds: float) -> int:
    """Pulses at a steady rate, each when it is due; returns how many the line took."""
    total, sent, taken = int(rate * seconds), 0, 0
    begin = time.perf_counter()
    while sent < total:
        due = min(total, int((time.perf_counter() - begin) * rate) + 1)
        if due > sent:
            taken += line.write(bytes(due - sent))
            sent = due
        ahead_s = begin + sent / rate - time.perf_counter()
        time.sleep(max(ahead_s, 0.0002))
    return taken


def _settles(journal: Path, pulses: int) -> bool:
    """Whether the firmware soon has journalled all of them, and no more."""
    deadline = time.monotonic() + SETTLE_MAX_S
    while (found := _register(journal)) < pulses and time.monotonic() < deadline:
        time.sleep(0.02)
    return found == pulses


def _register(journal: Path) -> int:
    directory = DiskDirectory(journal)
    while True:
        try:
            return Journal(directory).peek()
        except FileNotFoundError:
            continue  # a segment went while it was read: a newer one stands


def _fill(plant: Plant, state: Path) -> int:
    """The firmware's own device, in this process, until the journal's segment is full; then it is
    dropped as if killed. Returns the pulses it was given."""
    key = folder.load_device_key(state)
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
    device = Device(parts, read_config({"source": {"driver": "sim"}}), folder.SOFTWARE)
    device.begin()
    pulses = 0
    while not device._journal.wants_snapshot:
        line.put(1)
        pulses += 1
        device.look()  # the device's work but for its syncs, which begin the next segment
        device._sign()
    line.close()
    journal.close()
    outbox.close()
    return pulses


# --- A community. ---


def _plant(path: Path) -> Iterator[Figure]:
    with Plant(path, METERS, speed=SPEED) as plant:
        plant.start_all()
        first = plant.layout.first_step + 1  # the first whole step
        plant.wait_for_block(first + STEPS - 1)
        assert plant.gateway is not None
        firmware_mb = max(process_memory_mb(child.pid) for child in plant.devices.values())
        gateway_mb = process_memory_mb(plant.gateway.pid)
        headers = [one.body for one in plant.leaves() if isinstance(one.body, Header)]
        log = Tail(plant.layout.gateway / "run.log").lines()
    yield Figure("firmware: memory of a running process", firmware_mb, "MB", most=64)
    yield Figure("gateway: memory of a running process, 4 meters", gateway_mb, "MB", most=96)
    whole = [header for header in headers if header.step >= first and not header.caught_up]
    heard = sum(header.meters[1] for header in whole) / sum(header.meters[0] for header in whole)
    sealed_ms = [
        (header.sealed_ms - step_start_ms(header.step + 1, STEP_S)) / SPEED for header in whole
    ]
    published_ms = _punctuality_ms(log, first)
    yield from _two("punctuality: step end to sealed", sealed_ms, 1_100, 2_000)
    yield from _two("punctuality: last close to checkpoint", published_ms, 500, 2_000)
    yield Figure("punctuality: closes in their own block", 100 * heard, "%", least=75)


def _two(name: str, values: list[float], usual: float, worst: float) -> Iterator[Figure]:
    yield Figure(f"{name}, median of {len(values)}", statistics.median(values), "ms", most=usual)
    yield Figure(f"{name}, worst", max(values), "ms", most=worst)


def _punctuality_ms(log: list[str], first: int) -> list[float]:
    """What the gateway says of its blocks, in the machine's time."""
    found = []
    for line in log:
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if line.startswith("block ") and "punctuality_ms" in words and int(words["step"]) >= first:
            found.append(int(words["punctuality_ms"]) / SPEED)
    return found
