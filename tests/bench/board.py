"""Many meters on one board: sixteen lines in one process, each at the most an S0 output gives.

Pulses come over pseudo-terminals, records go through Mosquitto to a gateway; all are processes.
"""

import heapq
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from cryptometer.steps import NS_PER_S
from firmware.simulate import Terminal
from tests.bench.figures import MS_PER_S, Figure, process_cpu_s, process_memory_mb
from tests.bench.line import settles
from tests.system.plant import Plant

CHANNELS = 16
S0_MAX_HZ = 1 / 0.06  # IEC 62053-31: at least 30 ms closed and 30 ms open
SECONDS = 30.0
FEWER, FEW_SECONDS = (1, 4), 12.0
SETTLE_S = 3.0
LONE, LONE_REST_S = 21, 0.5  # longer than a line rests behind a pulse
METERS = tuple(SimulatedMeter(f"pv-{number}", "B", 3, 10_000, 0) for number in range(CHANNELS))


def figures() -> Iterator[Figure]:
    """The area's figures."""
    for channels in FEWER:
        yield from _lines(channels, FEW_SECONDS)
    yield from _lines(CHANNELS, SECONDS)


def _lines(channels: int, seconds: float) -> Iterator[Figure]:
    """So many of the lines, at the most an S0 output gives."""
    meters = METERS[:channels]
    name = f"board: {channels} {'line' if channels == 1 else 'lines'}"
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path, ExitStack() as stack:
        plant = stack.enter_context(Plant(Path(path), meters, speed=1))
        assert plant.broker is not None
        assert plant.broker.name == "mosquitto", "install mosquitto: the demo's broker is ours"
        plant.start_gateway()
        lines = [stack.enter_context(Terminal(plant.layout.line(meter), None)) for meter in meters]
        board = start_board(plant)
        before_s, threads_before_s = process_cpu_s(board.pid), _threads_cpu_s(board.pid)
        begin = time.perf_counter()
        emitted = emit_on_all(lines, S0_MAX_HZ, seconds)
        took_s = time.perf_counter() - begin
        share = (process_cpu_s(board.pid) - before_s) / took_s
        threads_share = (_threads_cpu_s(board.pid) - threads_before_s) / took_s
        for meter, pulses in zip(meters, emitted, strict=True):
            assert settles(plant.layout.device(meter) / "journal", pulses), meter.name
        yield Figure(
            f"{name} at {S0_MAX_HZ:.1f} pulses/s, share of a core",
            100 * share,
            "%",
            most=3,
        )
        yield Figure(f"{name}: memory", process_memory_mb(board.pid), "MB", most=64)
        if channels == CHANNELS:
            pulse_ms = share * took_s / sum(emitted) * MS_PER_S
            yield Figure(f"{name}: processor time of a pulse there", pulse_ms, "ms", most=0.2)
            yield Figure(
                f"{name}: of that share the threads of the connections",
                100 * threads_share,
                "%",
                most=1,
            )
        if channels == 1:
            waits_s = _waits(lines[0], plant.layout.device(meters[0]) / "journal")
            median_ms = statistics.median(waits_s) * MS_PER_S
            yield Figure(
                "a lone pulse on a pty, until it is in the journal", median_ms, "ms", most=50
            )
        assert board.end() == 0, board.last_lines()


def _waits(line: Terminal, journal: Path) -> list[float]:
    """Seconds from the writing of a pulse to its append, of some pulses with a rest between."""
    waits = []
    for _ in range(LONE):
        time.sleep(LONE_REST_S)
        before, begin = _extent(journal), time.perf_counter()
        assert line.write(b"\x55"), "nobody reads"
        while _extent(journal) == before:
            assert time.perf_counter() - begin < SETTLE_S
        waits.append(time.perf_counter() - begin)
    return waits


def _extent(journal: Path) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((one.name, one.stat().st_size) for one in os.scandir(journal)))


def start_board(plant: Plant) -> Child:
    """One process for all meters; returns once all lines are watched and rest."""
    paths = [plant.layout.device(meter) / "meter.toml" for meter in plant.meters]
    log = plant.folder / "board.log"
    board = plant._keep(Child("board", program(FIRMWARE, "run", "--config", *paths), log))
    for word in ("watching", "connected"):
        plant.wait(lambda word=word: log.read_text().count(word) == len(paths), word)  # type: ignore[misc]
    time.sleep(SETTLE_S)
    return board


def _threads_cpu_s(pid: int) -> float:
    """Processor seconds of all threads but the first (proc_pid_schedstat(5): ns on a processor)."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / NS_PER_S


def emit_on_all(lines: Sequence[Terminal], rate: float, seconds: float) -> list[int]:
    """Pulses at a steady rate on each line, the lines not in step; returns what each took."""
    draw = random.Random(1)
    due = [(draw.random() / rate, number) for number in range(len(lines))]
    heapq.heapify(due)
    emitted = [0] * len(lines)
    begin = time.perf_counter()
    while due[0][0] < seconds:
        at, number = heapq.heappop(due)
        ahead_s = begin + at - time.perf_counter()
        if ahead_s > 0:
            time.sleep(ahead_s)
        taken = lines[number].write(b"\x55")
        assert taken, "nobody reads"
        emitted[number] += taken
        heapq.heappush(due, (at + 1 / rate, number))
    return emitted
