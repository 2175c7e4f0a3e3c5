"""A board with four pulse lines, five Modbus meters on one bus and a Linky, through an hour of
scaled time, in one process: nothing may be missing, and what it costs is said.

    python -m tests.system.hour [--minutes 60] [--speed 6]

Real broker, gateway, board, pseudo-terminals and meters at their real rates: community time is not
scaled further than a Linky's frames bear, of which one must come in the last 18 s of each step.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptometer.chain_records import ChainRecord, StepClose
from cryptometer.commands.demo.community import STEP_S, SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from hal.modbus_line import BusLine
from hal.modbus_maps import load_map
from hal.modbus_meter import SimulatedBus, WiredEnds
from hal.modbus_meter import SimulatedMeter as BusMeter
from tests.bench.figures import process_cpu_s, process_memory_mb
from tests.system.plant import Plant

PULSE_METERS, BUS_METERS = 4, 5
WATTS = 3_600
START_WH = 1_000_000


@dataclass(frozen=True, slots=True)
class Speaking(SimulatedMeter):
    """A meter that says its index.

    Attributes:
        resolution_wh: what the last digit of its index is worth.
        source: its table `[source]`; `{folder}` is that of its board.
    """

    resolution_wh: str = "1"
    source: str = ""

    @property
    def table(self) -> str:
        """As the authority lists it."""
        lines = SimulatedMeter(
            self.name, self.accuracy_class, self.phases, self.constant, self.watts
        ).table.splitlines()
        kept = [line for line in lines if not line.startswith("constant")]
        return "\n".join([*kept, 'source = "index"', f"resolution_wh = {self.resolution_wh}", ""])


LINKY = Speaking(
    "linky", "B", 3, 1_000, WATTS, "1",
    'driver = "linky"\nregister = "import"\ndevice = "{folder}/line"',
)  # fmt: skip
BUS = [
    Speaking(
        f"bus-{address}", "B", 3, 1_000, WATTS, "1",
        'driver = "modbus"\nregister = "import"\nmap = "eastron-sdm"\n'
        f'address = {address}\ndevice = "{{folder}}/../bus"',
    )
    for address in range(1, BUS_METERS + 1)
]  # fmt: skip
LINES = [
    SimulatedMeter(f"pulses-{number}", "B", 3, 10_000, WATTS)
    for number in range(1, PULSE_METERS + 1)
]


@dataclass(frozen=True, slots=True)
class Cost:
    """What the board's process has used.

    Attributes:
        core: share of a core.
        rss_mb: memory at the end.
    """

    core: float
    rss_mb: float


def _twin(address: int, speed: int, begun_ns: int) -> BusMeter:
    def index_wh(now_ns: int) -> tuple[Fraction, Fraction]:
        passed = Fraction((now_ns - begun_ns) * speed, 3_600 * 10**9)
        return START_WH + passed * WATTS, Fraction(0)

    return BusMeter(address, load_map("eastron-sdm"), f"1234567{address}", "112", index_wh)


@contextmanager
def standing(folder: Path, speed: int) -> Iterator[tuple[Plant, Child]]:
    """All meters, broker and gateway, and the board's one process, which has just been started."""
    meters = [*LINES, *BUS, LINKY]
    with ExitStack() as stack:
        plant = stack.enter_context(Plant(folder, meters, speed=speed, grace_machine_s=8))
        layout = plant.layout
        for meter in (*BUS, LINKY):
            toml = layout.device(meter) / "meter.toml"
            begin, rest = toml.read_text().split("[source]\n")
            table = meter.source.format(folder=layout.device(meter))
            toml.write_text(f"{begin}[source]\n{table}\n\n{rest.split(chr(10) * 2, 1)[1]}")
        ends = stack.enter_context(closing(WiredEnds(layout.device(BUS[0]).parent / "bus")))
        begun_ns = time.monotonic_ns()
        twins = [_twin(address, speed, begun_ns) for address in range(1, BUS_METERS + 1)]
        stack.enter_context(closing(SimulatedBus(BusLine(device=ends.far), twins)))
        for line in LINES:
            plant.start_simulator(line)
        _start_linky(plant, speed)
        plant.start_gateway()
        yield plant, _start_board(plant)


def live(folder: Path, minutes: int, speed: int) -> Cost:
    """Runs the board so long, community time; checks that nothing is missing.

    Raises:
        AssertionError: something is.
    """
    with standing(folder, speed) as (plant, board):
        first_step = plant.layout.first_step
        plant.wait_for_block(first_step)
        used_s, began_s = process_cpu_s(board.pid), time.monotonic()
        steps = max(1, minutes * 60 // STEP_S)
        plant.wait_for_block(first_step + steps)
        core = (process_cpu_s(board.pid) - used_s) / (time.monotonic() - began_s)
        rss_mb = process_memory_mb(board.pid)
        _end_pulses(plant)
        plant.wait_for_block(plant.step(), blocks_late=1)
        _check(plant, steps)
        return Cost(core, rss_mb)


def _start_linky(plant: Plant, speed: int) -> None:
    folder = plant.layout.device(LINKY)
    words = ("--meter", "linky", "--tty", folder / "line", "--watts", str(WATTS))
    command = program(FIRMWARE, "simulate", *words, "--speed", str(speed))
    plant._keep(Child("linky", command, folder / "simulate.log"))
    plant.wait((folder / "line").exists, "the Linky's line")


def _start_board(plant: Plant) -> Child:
    tomls = [plant.layout.device(meter) / "meter.toml" for meter in plant.meters]
    command = [sys.executable, "-m", FIRMWARE, "run", "--config", *map(str, tomls)]
    return plant._keep(Child("board", command, plant.folder / "board.log"))


def _end_pulses(plant: Plant) -> None:
    for meter in LINES:
        assert plant.simulators[meter.name].end() == 0


def _check(plant: Plant, steps: int) -> None:
    report = plant.audit()
    assert not report.quarantined, report.quarantined
    assert not report.findings, report.findings
    bodies = [record.body for record in plant.leaves()]
    first = plant.layout.first_step
    for meter in plant.meters:
        mine = [one for one in bodies if isinstance(one, ChainRecord) and one.meter == meter.name]
        closed = {one.step for one in mine if isinstance(one, StepClose)}
        missing = set(range(first + 1, first + steps)) - closed
        assert not missing, f"{meter.name} has no close of {sorted(missing)}"
        wh = report.state.meters[meter.name].transferred_uwh / 10**6
        # Its first step is a part of one; of a Linky a reading may be a second old.
        whole_wh = WATTS * STEP_S / 3_600
        least_wh, most_wh = whole_wh * (len(closed) - 1.2), whole_wh * (len(closed) + 0.1)
        assert least_wh <= wh <= most_wh, (meter.name, wh, len(closed))
    told = report.state.meters
    waiting = sum(told[meter.name].transferred_uwh for meter in plant.meters)
    assert report.state.balance.waiting == waiting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="of community time")
    parser.add_argument("--speed", type=int, default=6, help="how much faster it passes")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="cryptometer-hour-") as folder:
        cost = live(Path(folder), arguments.minutes, arguments.speed)
    print(
        f"{PULSE_METERS} pulse lines, {BUS_METERS} Modbus meters, a Linky: every step of"
        f" {arguments.minutes} minutes closed; {100 * cost.core:.2f} % of a core,"
        f" {cost.rss_mb:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
