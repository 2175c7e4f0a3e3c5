"""A community as processes: their memory, and punctuality.

The pulses come over real pseudo-terminals; broker, firmware and gateway are real, too.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptometer.block_header import Header
from cryptometer.commands.demo.community import STEP_S, SimulatedMeter
from cryptometer.commands.demo.processes import Tail
from cryptometer.steps import step_start_ms
from tests.bench.figures import Figure, process_memory_mb
from tests.system.plant import Plant

SPEED = 180  # a step of 15 minutes takes 5 seconds
STEPS = 8
METERS = tuple(SimulatedMeter(f"pv-{number}", "B", 3, 10_000, 40) for number in range(4))


def figures() -> Iterator[Figure]:
    """The area's figures."""
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path:
        yield from _plant(Path(path) / "plant")


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
