"""An audit: every signature, chain, energy, total and hash of a month of ten meters."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cryptometer.audit import Report, audit
from cryptometer.block import check_block, propose
from cryptometer.commands.sources import ledger_reader
from cryptometer.commands.verifiers import Verifiers
from cryptometer.records import ChainRecord, Record
from cryptometer.tiles import Read
from hal.files import DiskTree
from tests.bench.crowd import Took, timed
from tests.bench.figures import Figure, Stopwatch
from tests.core.community import LOT_PULSES, Village

METERS = 10
STEPS = 2_976  # quarter hours of 31 days
LOTS = 20
BARE = 10_000


def figures() -> Iterator[Figure]:
    """The area's figures."""
    village = _month()
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        DiskTree(Path(folder)).put_all(village.files())
        read = ledger_reader(Path(folder))
        bare_s = _bare_s(village)
        report, alone = timed(lambda: audit(read, village.community()))
        bare_s = (bare_s + _bare_s(village)) / 2
        shared, first, wall_s = _on_two(village, read)
    assert report == shared
    assert report.state == village.state
    assert not report.quarantined
    count = report.checkpoint.size
    name = f"audit of {METERS} meters x {STEPS:,} steps, {count:,} leaves"
    yield Figure(name, alone.cpu_s, "s", most=600)
    yield Figure(f"{name}, on the wall", alone.wall_s, "s", most=1_800)
    yield Figure("audit on one core: leaves", count / alone.cpu_s, "/s", least=200)
    yield Figure(
        "audit on one core, of the bare rate", 100 * bare_s * count / alone.cpu_s, "%", least=60
    )
    yield Figure("audit on two cores: leaves, on the wall", count / wall_s, "/s", least=200)
    yield Figure("audit on two cores: wall over that of one", wall_s / alone.wall_s, "", most=0.75)
    yield Figure("audit on two cores: left for the first", first.cpu_s / alone.cpu_s, "", most=0.6)


def _month() -> Village:
    """The ledger; each block checked as its maker does, who has verified all of it."""
    village = Village(METERS)
    for _ in range(STEPS):
        step = village.next_step
        leaves: list[Record] = []
        for device in village.devices:
            started = [device.run_start(step)] if device.sequence == 0 else []
            leaves += [*started, *device.step(step, *[LOT_PULSES] * LOTS)]
        block = village.seal(leaves, propose(village.state, leaves, village.slot()))
        checked = check_block(village.state, block, verified={record.raw for record in leaves})
        village.blocks.append(block)
        village.state = checked.state
    return village


def _bare_s(village: Village) -> float:
    """Processor seconds of one bare verification of a record's own signature."""
    keys = {
        device.signer.public.thumbprint: Ed25519PublicKey.from_public_bytes(
            device.signer.public.coordinates
        )
        for device in village.devices
    }
    signed = [one for block in village.blocks for one in block if isinstance(one.body, ChainRecord)]
    work = [
        (keys[one.key_id].verify, one.envelope.signature, one.envelope.signed)
        for one in signed[-BARE:]
    ]
    watch = Stopwatch()
    for verify, signature, data in work:
        verify(signature, data)
    return watch.cpu_s / len(work)


def _on_two(village: Village, read: Read) -> tuple[Report, Took, float]:
    """The same audit with two processes that verify; what it took this process, and in all."""
    begin = perf_counter()
    with Verifiers(2) as verify:
        report, first = timed(lambda: audit(read, village.community(), verify=verify))
    return report, first, perf_counter() - begin
