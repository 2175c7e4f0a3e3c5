"""A year of ten meters in simulated time: what grows, and what does not.

Real devices over real folders, a real node over its store in SQLite and its ledger's files; the
sun decides what the meters give. Each month memory, files and times to start are measured, in the
end the ledger is audited and compared with what the meters gave.

    python -m tests.simulation.year --days 365
"""

import argparse
import ctypes
import gc
import math
import os
import random
import shutil
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptometer import audit, records
from cryptometer.block import Checked
from cryptometer.chain_records import Batch
from cryptometer.community import trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, NS_PER_S, step_start_ms
from firmware.config import read_config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment, read_bundle
from firmware.journal import SEGMENT_BYTES as JOURNAL_SEGMENT_BYTES
from firmware.outbox import SEGMENT_BYTES as OUTBOX_SEGMENT_BYTES
from gateway.effects import Confirm, Effect, Publish, Sealed
from gateway.founding import found_store
from gateway.ledger import Ledger
from gateway.node import Node, Policy
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from hal.clock import SimulatedClock
from hal.files import DiskDirectory, DiskTree
from hal.sim_line import SimSettings, SimulatedLine
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority
from tests.keys import signer
from tests.simulation.post import Box, Post

METERS = 10
DAYS = 365
DAY_STEPS = 86_400 // STEP_S
LOOKS = 3  # at a line in a step by day: a batch is made of several looks
PEAK_PULSES = 600  # of a step at the best noon: 240 W at 10,000 imp/kWh
NOON = DAY_STEPS // 2
LIMIT_MB = 4  # the least `[journal] limit_mb`: within a year it is reached
CONFIG = read_config(
    {
        "source": {"driver": "sim"},
        "batch": {"delay_community_ms": STEP_S * 1_000},
        "journal": {"sync_machine_ms": 5_000, "watch_machine_ms": 30_000, "limit_mb": LIMIT_MB},
    }
)
_LIBC = ctypes.CDLL(None)
PAGE_BYTES = 4_096  # of SQLite's database
# A leaf in the ledger's files beside its own bytes: its length, and its hash (RFC 6962).
LEAF_BYTES = 2 + 32

# What is tolerated.
MEMORY_GROWTH = 0.05  # of the process, from the second reading to the last
# glibc gives back what is free at the heap's end once it is twice the largest block that it has
# ever given back (mallopt(3), M_TRIM_THRESHOLD): segments of 1 MiB are read here.
FREE_MAX = 8 * 2**20
JOURNAL_MAX = 2 * JOURNAL_SEGMENT_BYTES
OUTBOX_MAX = LIMIT_MB * 2**20 + OUTBOX_SEGMENT_BYTES  # whole files go, the newest grows
WAL_MAX = 8 * 2**20  # SQLite empties it every 1,000 pages, and keeps the file
STORE_SPREAD = 0.25  # of what the store gains between two readings, around the mean of a leaf
STORE_PAGES = 8  # that may be begun and hardly used
LEDGER_OVERHEAD = 0.02  # beside leaves, lengths and hashes: upper tiles, half-full ones
LEDGER_PARTIAL_BYTES = 4 * 2**20  # until a tile is full, each block leaves a partial one
START_GROWTH = 4.0  # of the time to start: files that are read at a start are bounded
START_NOISE_S = 0.5  # shorter times are not compared: machines are shared


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured at one moment.

    Attributes:
        day: at whose end.
        leaves: in the ledger.
        raw_bytes: of all leaves.
        memory_bytes: of this process in RAM: ten devices and the gateway's node; without what
            stands in `free_bytes`.
        free_bytes: what the C library's allocator kept of that to hand it out again.
        descriptors: open files of this process.
        journal_bytes, outbox_bytes: of the board that has most.
        store_bytes: of the gateway's database, with what only its write-ahead log holds yet.
        wal_bytes: of that log's file.
        ledger_bytes, ledger_files: what is published.
        board_start_s, gateway_start_s: processor time of a start on a copy, and beside the
            running one.
    """

    day: int
    leaves: int
    raw_bytes: int
    memory_bytes: int
    free_bytes: int
    descriptors: int
    journal_bytes: int
    outbox_bytes: int
    store_bytes: int
    wal_bytes: int
    ledger_bytes: int
    ledger_files: int
    board_start_s: float
    gateway_start_s: float


class Board:
    """A meter with its board, that runs the whole year.

    Attributes:
        given: pulses of the meter so far.
    """

    def __init__(self, year: "Year", name: str, key: int, registration: Record) -> None:
        self._year = year
        self._key = signer(key)
        self.name = name
        self.given = 0
        self.folder = year.folder / name
        self.box = Box(year.post, year.topic, name)
        self._line = SimulatedLine(SimSettings(0))
        body = Bundle(
            name,
            year.authority.genesis.raw,
            (year.gateway_registration.raw, registration.raw),
            Broker("mqtt://127.0.0.1:1883"),
        )
        raw = records.seal(body, year.id, year.authority.signer).raw
        self._enrolment: Enrolment = read_bundle(raw, None, self._key.public)
        self._directories = self._open(self.folder)
        self.device = self._make(self._directories)

    def begin(self) -> None:
        self.device.begin()
        self._year.post.connect(self.box)

    def give(self, pulses: int) -> None:
        self.given += pulses
        if pulses:
            self._line.put(pulses)

    def start_s(self) -> float:
        """Processor time of a start on a copy of what it has, until it could open its line."""
        copy = self.folder.with_name("copy")
        shutil.copytree(self.folder, copy)
        directories = self._open(copy)
        begin = time.process_time()
        self._make(directories)
        took_s = time.process_time() - begin
        for directory in directories:
            directory.close()
        shutil.rmtree(copy)
        return took_s

    def close(self) -> None:
        self.device.end()
        for directory in self._directories:
            directory.close()
        self.box.close()

    def _open(self, folder: Path) -> tuple[DiskDirectory, DiskDirectory]:
        return DiskDirectory(folder / "journal"), DiskDirectory(folder / "outbox")

    def _make(self, directories: tuple[DiskDirectory, DiskDirectory]) -> Device:
        parts = Parts(
            self._year.clock,
            lambda: self._line,
            *directories,
            self._key,
            self._enrolment,
            self.box,
            lambda _: False,
            lambda _: None,
        )
        return Device(parts, CONFIG, "simulated 1.0")


class CountedLedger(Ledger):
    """Counts what is published."""

    leaves = raw_bytes = 0

    @contextmanager
    def publishing(
        self, old: int, leaves: Sequence[bytes], hashes: Sequence[bytes] | None = None
    ) -> Iterator[Callable[[str], None]]:
        with super().publishing(old, leaves, hashes) as publish:
            yield publish
        self.leaves = old + len(leaves)
        self.raw_bytes += sum(map(len, leaves))


@dataclass
class Sun:
    """What a meter's generator gives in a step: by season, hour and weather."""

    random: random.Random
    _weather: dict[tuple[str, int], float] = field(default_factory=dict)

    def pulses(self, meter: str, day: int, quarter: int) -> int:
        season = math.sin(2 * math.pi * (day - 80) / DAYS)  # longest day: 171, the 20th of June
        light = NOON * (1 + 0.33 * season)  # steps of daylight
        since = quarter - (DAY_STEPS - light) / 2
        if not 0 < since < light:
            return 0
        if (meter, day) not in self._weather:
            self._weather = {one: value for one, value in self._weather.items() if one[1] == day}
            self._weather[meter, day] = self.random.uniform(0.1, 1)
        strength = (0.65 + 0.35 * season) * self._weather[meter, day]
        return round(PEAK_PULSES * strength * math.sin(math.pi * since / light))


class Year:
    """The community, from its first block on."""

    def __init__(self, folder: Path, seed: int = 1, meters: int = METERS) -> None:
        self.folder = folder
        self.authority = Authority(signer(1))
        self.id = self.authority.genesis.identity
        self.topic = f"cryptometer/1/{self.id.hex()}"
        self.key = signer(2)
        self.post = Post()
        self.sun = Sun(random.Random(seed))
        self.clock = SimulatedClock(step_start_ms(FIRST_STEP + 1, STEP_S) * NS_PER_MS)
        self.gateway_registration = self.authority.register(Role.GATEWAY, "gw", self.key.public)
        registered = [self.authority.genesis, self.gateway_registration]
        self.boards: list[Board] = []
        for number in range(meters):
            name, key = f"m{number}", 10 + number
            record = self.authority.register(Role.METER, name, signer(key).public, DETAILS)
            registered.append(record)
            self.boards.append(Board(self, name, key, record))
        create_store(self._store_path, epoch=1)
        self.store = SqliteStore(self._store_path)
        found_store(self.store, [record.raw for record in registered])
        self.ledger = CountedLedger(DiskTree(folder / "ledger"))
        self.node = Node(self.store, self.ledger, self.key, Policy("gw"))
        self._step_ns = self.clock.utc_ns  # where the running step began
        self._perform(self.node.connected(self.clock.now()))
        self._reach(10)
        self._gateway_works()  # the first block: it registers the meters
        for board in self.boards:
            board.begin()

    @property
    def _store_path(self) -> Path:
        return self.folder / "store.sqlite"

    def live(self, day: int) -> None:
        """One day."""
        for quarter in range(DAY_STEPS):
            self._step(day, quarter)
            if quarter == NOON:
                for board in self.boards:
                    self.post.connect(board.box)

    def rest(self) -> None:
        """One more step without pulses: what is owed arrives, and has its block."""
        self._step(0, 0)

    def measure(self, day: int) -> Reading:
        """Measures everything at the end of a day."""
        gc.collect()
        ledger_bytes, ledger_files = _extent(self.folder / "ledger")
        taken_bytes = _memory_bytes()
        _LIBC.malloc_trim(0)
        memory_bytes = _memory_bytes()
        return Reading(
            day,
            self.ledger.leaves,
            self.ledger.raw_bytes,
            memory_bytes,
            max(0, taken_bytes - memory_bytes),
            len(list(Path("/proc/self/fd").iterdir())),
            max(_extent(board.folder / "journal")[0] for board in self.boards),
            max(_extent(board.folder / "outbox")[0] for board in self.boards),
            self.store._connection.execute("PRAGMA page_count").fetchone()[0] * PAGE_BYTES,
            self._store_path.with_name("store.sqlite-wal").stat().st_size,
            ledger_bytes,
            ledger_files,
            max(_elsewhere(board.start_s) for board in self.boards),
            _elsewhere(self._gateway_start_s),
        )

    def audit(self) -> tuple[audit.Report, Counter[str]]:
        """Audits the ledger as an outsider would; and the pulses of each meter in it."""
        found: Counter[str] = Counter()

        def watch(checked: Checked) -> None:
            for verdict in checked.verdicts:
                assert verdict.reason is None, verdict
                body = verdict.record.body
                if isinstance(body, Batch):
                    found[body.meter] += sum(body.pulses)

        community = trust(self.authority.genesis.raw, [self.gateway_registration.raw])
        report = audit.audit(DiskTree(self.folder / "ledger").read, community, watch=watch)
        return report, found

    def close(self) -> None:
        for board in self.boards:
            board.close()
        self.store.close()

    def _step(self, day: int, quarter: int) -> None:
        pulses = {board.name: self.sun.pulses(board.name, day, quarter) for board in self.boards}
        looks = LOOKS if any(pulses.values()) else 1
        for look in range(looks):
            self._reach(STEP_S * (look + 1) // looks - 1)
            for board in self.boards:
                total = pulses[board.name]
                board.give(total * (look + 1) // looks - total * look // looks)
                board.device.work()
        self._step_ns += STEP_S * NS_PER_S
        self._reach(1)
        for board in self.boards:
            board.device.work()  # the step has passed: its close is signed and sent
        self._gateway_works()
        for board in self.boards:
            board.device.work()  # what was acknowledged is let go

    def _reach(self, seconds: int) -> None:
        """Lets time pass, up to so long after the running step's start."""
        self.clock.advance(self._step_ns + seconds * NS_PER_S - self.clock.utc_ns)

    def _gateway_works(self) -> None:
        sent, self.post.up = self.post.up, []
        if sent:
            self._perform(self.node.receive(sent, self.clock.now()))
        while effects := self.node.tick(self.clock.now()):
            self._perform(effects)
        self._perform(self.node.answer())

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic=topic, payload=payload, retain=retain):
                    self.post.publish(topic, payload, retain=retain)
                case Sealed():
                    self.node.published(effect, self.clock.now())
                case Confirm():
                    pass

    def _gateway_start_s(self) -> float:
        """Processor time of another start from the same store and files; it writes nothing."""
        with closing(SqliteStore(self._store_path, read_only=True)) as store:
            begin = time.process_time()
            Node(store, Ledger(DiskTree(self.folder / "ledger")), self.key, Policy("gw"))
            return time.process_time() - begin


def run(folder: Path, days: int, every: int, meters: int = METERS) -> list[Reading]:
    """Lives through some days and measures every so many; audits in the end.

    Raises:
        AssertionError: a pulse is missing, or there twice.
        Rejected: the audit found a breach.
    """
    year = Year(folder, meters=meters)
    readings = []
    print(HEAD, flush=True)
    try:
        for day in range(1, days + 1):
            year.live(day)
            if day % every == 0:
                readings.append(year.measure(day))
                print(row(readings[-1]), flush=True)
        year.rest()
        report, found = year.audit()
    finally:
        year.close()
    assert report.blocks == days * DAY_STEPS + 2, f"{report.blocks} blocks in {days} days"
    assert found == {board.name: board.given for board in year.boards}
    assert report.late == 0
    return readings


def breaches(readings: Sequence[Reading]) -> list[str]:
    """What grew that should not, or otherwise than it may; empty when all is as documented."""
    second, last = readings[1], readings[-1]
    found = []

    def limit(what: str, value: float, most: float) -> None:
        if value > most:
            found.append(f"{what}: {value:,.2f}, at most {most:,.2f}")

    limit("memory", last.memory_bytes, second.memory_bytes * (1 + MEMORY_GROWTH))
    limit("open files", last.descriptors, second.descriptors)
    limit("start of a board, s", last.board_start_s, START_GROWTH * _floor(second.board_start_s))
    limit(
        "start of the gateway, s",
        last.gateway_start_s,
        START_GROWTH * _floor(second.gateway_start_s),
    )
    for one in readings[1:]:  # the first may find what ran in this process before
        limit(f"memory kept free on day {one.day}", one.free_bytes, FREE_MAX)
    for one in readings:
        at = f"on day {one.day}"
        limit(f"journal {at}", one.journal_bytes, JOURNAL_MAX)
        limit(f"outbox {at}", one.outbox_bytes, OUTBOX_MAX)
        limit(f"write-ahead log {at}", one.wal_bytes, WAL_MAX)
        content = one.raw_bytes + LEAF_BYTES * one.leaves
        most = content * (1 + LEDGER_OVERHEAD) + LEDGER_PARTIAL_BYTES
        limit(f"ledger {at}", one.ledger_bytes, most)
        limit(f"less than the leaves in the ledger {at}", content, one.ledger_bytes)
    of_leaf = (last.store_bytes - second.store_bytes) / (last.leaves - second.leaves)
    for before, after in pairwise(readings[1:]):
        grown = after.store_bytes - before.store_bytes
        expected = of_leaf * (after.leaves - before.leaves)
        slack = expected * STORE_SPREAD + STORE_PAGES * PAGE_BYTES
        limit(f"store on day {after.day}, off the line", abs(grown - expected), slack)
    return found


HEAD = (
    "| day | leaves | memory MB | kept free MB | files open | journal kB | outbox kB | store MB"
    " | WAL MB | ledger MB | ledger files | board start s | gateway start s |\n" + "|---" * 13 + "|"
)


def row(one: Reading) -> str:
    """A line of the table."""
    return (
        f"| {one.day} | {one.leaves:,} | {one.memory_bytes / 1e6:.1f} | {one.free_bytes / 1e6:.1f}"
        f" | {one.descriptors} | {one.journal_bytes / 1e3:.0f} | {one.outbox_bytes / 1e3:,.0f}"
        f" | {one.store_bytes / 1e6:.1f} | {one.wal_bytes / 1e6:.1f}"
        f" | {one.ledger_bytes / 1e6:.1f} | {one.ledger_files:,}"
        f" | {one.board_start_s:.2f} | {one.gateway_start_s:.2f} |"
    )


def _elsewhere(measure: Callable[[], float]) -> float:
    """What a measurement gives in a process of its own: a start reads whole files, and what it
    takes for that is not this process's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, struct.pack("=d", measure()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
        [seconds] = struct.unpack("=d", pipe.read())
    os.waitpid(child, 0)
    return float(seconds)


def _floor(seconds: float) -> float:
    return max(seconds, START_NOISE_S)


def _memory_bytes() -> int:
    """Of this process in RAM (proc(5): statm, the second field, in pages)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _extent(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below a folder; a folder at a time, so that to count what was
    published takes no more memory the more there is."""
    size = count = 0
    for at, _, names in os.walk(folder):
        size += sum(os.stat(f"{at}/{name}").st_size for name in names)  # noqa: PTH116 - no Path each
        count += len(names)
    return size, count


def main() -> int:
    """Lives through the days asked for; says what broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.year")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--every", type=int, default=30, help="days between two measurements")
    arguments = parser.parse_args()
    begin, begin_cpu = time.monotonic(), time.process_time()
    with TemporaryDirectory() as folder:
        readings = run(Path(folder), arguments.days, arguments.every)
    found = breaches(readings)
    print("\n".join(found) or "as documented")
    print(f"{time.monotonic() - begin:.0f} s, {time.process_time() - begin_cpu:.0f} s of processor")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
