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
from cryptometer.records import Batch, ChainRecord
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.files import SimulatedDirectory
from tests.bench.figures import Figure
from tests.simulation.world import CONFIG, Board, World

CONSTANT = 10_000  # pulses per kWh
DAY_S = 86_400
PAGE_BYTES = 4_096  # what a file system writes at least, of each file, at each sync
ENTRY_HEAD_BYTES, HASH_BYTES = 2, 32  # of a leaf in the ledger's files beside its own bytes
LIVES, LIVES_OF_A_WORLD = 400, 40  # a long chain makes each start longer
LIFE_S = (1.0, 20.0)
SYNC_S = CONFIG.journal.sync_machine_ms / 1000


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
class Day:
    """What one day of one meter came to."""

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


def day(watts: int) -> Day:
    """A day at constant power, acknowledged as it goes; a pulse is a look of its own."""
    world = World(1, boards=1)
    board = world.boards[0]
    journal, outbox = CountingDirectory(), CountingDirectory()
    board.journal, board.outbox = journal, outbox
    board.start()
    beat = _Beat(world, board, pulse_ns(watts))
    while board.clock.mono_ns < DAY_S * NS_PER_S:
        beat.next()
    assert board.device_register == board.emitted == DAY_S * NS_PER_S // pulse_ns(watts)
    raws, lots = _leaves(world, board.name)
    world.close()
    return Day(
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
    """Pulses at a constant rate; the device works when its loop would wake."""

    def __init__(self, world: World, board: Board, every_ns: int) -> None:
        self._world, self._board, self._every_ns = world, board, every_ns
        self._pulse_ns = board.clock.mono_ns + every_ns
        self._gateway_ns = 0

    def next(self) -> None:
        """Lets time pass to the next thing that is due, and does it."""
        device, clock = self._board.device, self._board.clock
        assert device is not None
        due = [self._pulse_ns]
        if device._journal.is_dirty:
            due.append(device._synced_at_ns + CONFIG.journal.sync_machine_ms * NS_PER_MS)
        drafted_ns = device._counter.next_due_ns()
        if drafted_ns is not None:
            due.append(drafted_ns)
        ahead_ns = max(0, min(due) - clock.mono_ns)
        for each in (self._world.clock, clock):
            each.advance(ahead_ns)
        if clock.mono_ns >= self._pulse_ns:
            self._board.give(1)
            self._pulse_ns += self._every_ns
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
        self._days = {watts: pool.submit(day, watts) for watts in (3_000, 1_000)}
        self._losses = pool.submit(cut_losses, 3_000)

    def figures(self) -> Iterator[Figure]:
        for watts, written_mb, pages_mb, ledger_kb in (
            (1_000, 15, 150, 800),
            (3_000, 40, 180, 1_400),
        ):
            one = self._days[watts].result()
            at = f"at {watts // 1000} kW, 10,000 imp/kWh"
            written = (one.journal_bytes + one.outbox_bytes) / 1e6
            yield Figure(f"card: written a day {at}", written, "MB", most=written_mb)
            yield Figure(
                f"card: of it the journal {at}", one.journal_bytes / 1e6, "MB", most=written_mb
            )
            yield Figure(f"card: in pages of 4 KiB {at}", one.page_bytes / 1e6, "MB", most=pages_mb)
            yield Figure(f"card: fsyncs a day {at}", one.syncs, "", most=40_000)
            yield Figure(
                f"ledger: bytes of a meter a day {at}", one.ledger_bytes / 1e3, "kB", most=ledger_kb
            )
            yield Figure(f"ledger: records of a meter a day {at}", one.records, "", most=1_700)
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
