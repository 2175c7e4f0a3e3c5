"""What a day of pulses writes to a board's card, and what a power cut takes.

A real device with its gateway in simulated time. The disks count what they are given.
"""

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from cryptometer.block import Checked
from cryptometer.chain_records import Batch, ChainRecord
from cryptometer.steps import NS_PER_S
from hal.files import SimulatedDirectory
from tests.bench.figures import Figure
from tests.simulation.world import CONFIG, Board, World

CONSTANT = 10_000  # pulses per kWh
HOUR_S = 3_600
PAGE_BYTES = 4_096  # what a file system writes at least, of each file, at each sync
ENTRY_HEAD_BYTES, HASH_BYTES = 2, 32  # of a leaf in the ledger's files beside its own bytes
LIVES, LIVES_OF_A_WORLD = 400, 40  # a long chain makes each start longer
LIFE_S = (1.0, 20.0)
SYNC_S = CONFIG.journal.sync_machine_ms / 1000


@dataclass(frozen=True, slots=True)
class Load:
    """A constant power, for how many hours it is simulated, and the limits of what they come to.
    Every figure grows evenly: a day is told from some hours."""

    watts: int
    hours: int
    written_mb_max: float
    pages_mb_max: float
    ledger_kb_max: float
    records_max: float


LOADS = (
    Load(1_000, 12, 15, 150, 800, 1_700),
    Load(3_000, 6, 30, 180, 1_400, 1_700),
    Load(10_000, 4, 30, 200, 4_000, 1_700),
    Load(100_000, 2, 60, 250, 30_000, 4_600),
)


class CountingDirectory(SimulatedDirectory):
    """Counts bytes written, whole pages that they dirty between two syncs, and calls of fsync as
    `DiskDirectory` makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.written_bytes = self.page_bytes = self.syncs = 0
        self._synced: dict[str, int] = {}

    def append(self, name: str, data: bytes) -> None:
        super().append(name, data)
        self.written_bytes += len(data)

    def sync(self, names: Sequence[str]) -> None:
        super().sync(names)
        for name in names:
            self.syncs += 1 + (name not in self._synced)  # a new name: its folder, too
            before, size = self._synced.get(name, 0), self.size(name)
            self.page_bytes += (-(-size // PAGE_BYTES) - before // PAGE_BYTES) * PAGE_BYTES
            self._synced[name] = size

    def remove(self, name: str) -> None:
        super().remove(name)
        self.syncs += 1


@dataclass(frozen=True, slots=True)
class Worn:
    """What some hours of one meter came to."""

    pulses: int
    journal_bytes: int
    outbox_bytes: int
    page_bytes: int
    syncs: int
    records: int
    ledger_bytes: int
    lots_of_a_batch: float


def pulse_ns(watts: int) -> int:
    """Time between two pulses."""
    return 3_600 * 1_000 * NS_PER_S // (watts * CONSTANT)


def wear(load: Load) -> Worn:
    """Some hours at constant power, acknowledged as they go."""
    world = World(1, boards=1)
    board = world.boards[0]
    journal, outbox = CountingDirectory(), CountingDirectory()
    board.journal, board.outbox = journal, outbox
    board.start()
    beat = _Beat(world, board, pulse_ns(load.watts))
    while board.clock.mono_ns < load.hours * HOUR_S * NS_PER_S:
        beat.next()
    board.work()  # the line may rest yet
    assert board.device_register == board.emitted == board.clock.mono_ns // pulse_ns(load.watts)
    raws, lots = _leaves(world, board.name)
    world.close()
    return Worn(
        board.emitted,
        journal.written_bytes,
        outbox.written_bytes,
        journal.page_bytes + outbox.page_bytes,
        journal.syncs + outbox.syncs,
        len(raws),
        sum(len(raw) + ENTRY_HEAD_BYTES + HASH_BYTES for raw in raws),
        sum(lots) / len(lots),
    )


class _Beat:
    """Pulses at a constant rate; the device works when its loop would wake it."""

    def __init__(self, world: World, board: Board, every_ns: int) -> None:
        self._world, self._board, self._every_ns = world, board, every_ns
        self._pulse_ns = board.clock.mono_ns + every_ns
        self._gateway_ns = 0

    def next(self) -> None:
        """Lets time pass to the next thing that is due, and does it."""
        device, clock = self._board.device, self._board.clock
        assert device is not None
        wake = device.wake()
        # As the loop does it: the first pulse behind the line's rest wakes the device.
        ahead_ns = max(0, min(wake.due_ns, max(wake.line_ns, self._pulse_ns)) - clock.mono_ns)
        for each in (self._world.clock, clock):
            each.advance(ahead_ns)
        pulses = max(0, (clock.mono_ns - self._pulse_ns) // self._every_ns + 1)
        self._board.give(pulses)
        self._pulse_ns += pulses * self._every_ns
        self._board.work()
        wire = self._world.wire
        assert wire is not None
        if wire.inbox or clock.mono_ns >= self._gateway_ns:
            self._gateway_ns = clock.mono_ns + NS_PER_S
            self._world.gateway_work()


def _leaves(world: World, meter: str) -> tuple[list[bytes], list[int]]:
    """A meter's records in the ledger, and the lots of each batch."""
    raws: list[bytes] = []
    lots: list[int] = []

    def watch(checked: Checked) -> None:
        for verdict in checked.verdicts:
            body = verdict.record.body
            if isinstance(body, ChainRecord) and body.meter == meter:
                raws.append(verdict.record.raw)
                if isinstance(body, Batch):
                    lots.append(len(body.pulses))

    world.audit(watch)
    return raws, lots


def cut_losses(watts: int) -> list[int]:
    """Pulses lost at each of many power cuts, at random instants, with torn writes or without."""
    losses: list[int] = []
    for seed in range(LIVES // LIVES_OF_A_WORLD):
        draw = random.Random(seed)
        world = World(seed, boards=1)
        board = world.boards[0]
        board.start()
        for _ in range(LIVES_OF_A_WORLD):
            beat = _Beat(world, board, pulse_ns(watts))
            until_ns = board.clock.mono_ns + int(draw.uniform(*LIFE_S) * NS_PER_S)
            while board.clock.mono_ns < until_ns:
                beat.next()
            if draw.random() < 0.5:
                board.give(1)  # the line has it, and nobody has read it yet
            counted = board.device_register
            board.cut_power(draw.choice((0, draw.randint(1, 64))))
            counted += board.line.take().pulses  # what the kernel held is gone, too
            board.start()
            losses.append(counted - board.device_register)
        world.close()
    assert min(losses) >= 0, "a pulse was counted twice"
    return losses


def measure(pool: ProcessPoolExecutor) -> "Pending":
    """Starts what takes long in another process; `Pending.figures` waits for it."""
    return Pending(pool)


class Pending:
    """Days that are being simulated beside other work."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._days = [(load, pool.submit(wear, load)) for load in LOADS]
        self._losses = pool.submit(cut_losses, 3_000)

    def figures(self) -> Iterator[Figure]:
        for load, pending in self._days:
            worn, daily = pending.result(), 24 / load.hours
            at = f"at {load.watts // 1000} kW, 10,000 imp/kWh"
            journal_mb = worn.journal_bytes * daily / 1e6
            written_mb = journal_mb + worn.outbox_bytes * daily / 1e6
            pages_mb = worn.page_bytes * daily / 1e6
            ledger_kb = worn.ledger_bytes * daily / 1e3
            records = worn.records * daily
            yield Figure(f"card: written a day {at}", written_mb, "MB", most=load.written_mb_max)
            yield Figure(
                f"card: of it the journal {at}", journal_mb, "MB", most=load.written_mb_max
            )
            yield Figure(
                f"card: in pages of 4 KiB a day {at}", pages_mb, "MB", most=load.pages_mb_max
            )
            yield Figure(f"card: fsyncs an hour {at}", worn.syncs / load.hours, "", most=1_700)
            yield Figure(
                f"ledger: bytes of a meter a day {at}", ledger_kb, "kB", most=load.ledger_kb_max
            )
            yield Figure(
                f"ledger: records of a meter a day {at}", records, "", most=load.records_max
            )
        losses = self._losses.result()
        # The pulses of one sync interval, rounded up, and the one that nobody has read yet.
        bound = math.ceil(SYNC_S * NS_PER_S / pulse_ns(3_000)) + 1
        yield Figure(
            f"power cut at 3 kW: pulses lost, worst of {LIVES}", max(losses), "pulses", most=bound
        )
        yield Figure(
            "power cut at 3 kW: pulses lost, mean",
            statistics.mean(losses),
            "pulses",
            most=bound / 2 + 2,
        )
