"""One board with four pulse lines, five Modbus meters on a bus and a Linky, for a minute: what its
process costs. `make hour` lives through an hour of the same, and looks at what arrives.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from firmware.journal import Journal
from hal.files import DiskDirectory
from tests.bench.figures import Figure, process_cpu_s, process_memory_mb
from tests.system.hour import BUS_METERS, PULSE_METERS, standing
from tests.system.plant import Plant

SPEED = 6  # of the clock, and of the pulses; meters that speak do so at their real rate
SECONDS, SETTLE_S = 60.0, 5.0


def figures() -> Iterator[Figure]:
    """The area's figures."""
    with (
        TemporaryDirectory(prefix="cryptometer-bench-") as folder,
        standing(Path(folder), SPEED) as (plant, board),
    ):
        log = plant.folder / "board.log"
        plant.wait(lambda: log.read_text().count("connected") >= len(plant.meters), "the board")
        plant.wait(lambda: all(_registers(plant)), "something of each meter")
        time.sleep(SETTLE_S)
        before = _registers(plant)
        used_s, began_s = process_cpu_s(board.pid), time.monotonic()
        time.sleep(SECONDS)
        share = (process_cpu_s(board.pid) - used_s) / (time.monotonic() - began_s)
        memory_mb = process_memory_mb(board.pid)
        grown = [after - was for was, after in zip(before, _registers(plant), strict=True)]
        assert all(grown), grown
        assert board.end() == 0, board.last_lines()
    name = f"board: {PULSE_METERS} pulse lines, {BUS_METERS} Modbus meters, a Linky"
    yield Figure(f"{name}, share of a core", 100 * share, "%", most=10)
    yield Figure(f"{name}: memory", memory_mb, "MB", most=64)


def _registers(plant: Plant) -> list[int]:
    """What the journal of each meter holds."""
    folders = [plant.layout.device(meter) / "journal" for meter in plant.meters]
    return [Journal(DiskDirectory(one)).peek() if one.exists() else 0 for one in folders]
