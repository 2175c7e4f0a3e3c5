"""An audit: every signature, chain, energy, total, hash and share of a month of ten meters and
twenty members.

`python -m tests.bench.audits 35040` measures a year (some ten minutes).
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cryptometer.audit import Report, audit
from cryptometer.block import check_block
from cryptometer.commands.sources import ledger_reader
from cryptometer.commands.verifiers import Verifiers
from cryptometer.proposal import Proposal, propose
from cryptometer.records import ChainRecord, Claim, Method, Record
from cryptometer.tiles import Read
from hal.files import DiskTree
from tests.bench.crowd import Took, timed
from tests.bench.figures import Figure, Stopwatch
from tests.core.community import LOT_PULSES, Village

METERS = 10
MEMBERS = 20
STEPS = 2_976  # quarter hours of 31 days
STEPS_A_DAY = 96
LOTS = 20
BARE = 10_000


def figures(steps: int = STEPS) -> Iterator[Figure]:
    """The area's figures."""
    village = _built(steps)
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        files = village.files()
        DiskTree(Path(folder)).put_all(files)
        size = sum(map(len, files.values()))
        del files
        read = ledger_reader(Path(folder))
        bare_s = _bare_s(village)
        report, alone = timed(lambda: audit(read, village.community()))
        bare_s = (bare_s + _bare_s(village)) / 2
        shared, first, wall_s = _on_two(village, read)
    assert report == shared
    assert report.state == village.state
    assert not report.quarantined
    assert report.rules == {"recomputed": steps}
    count = report.checkpoint.size
    name = f"audit of {METERS} meters x {steps:,} steps, {count:,} leaves"
    yield Figure(name, alone.cpu_s, "s", most=steps / 5)
    yield Figure(f"{name}, on the wall", alone.wall_s, "s", most=steps / 1.6)
    yield Figure("audit on one core: leaves", count / alone.cpu_s, "/s", least=200)
    yield Figure(
        "audit on one core, of the bare rate", 100 * bare_s * count / alone.cpu_s, "%", least=60
    )
    yield Figure("audit on two cores: leaves, on the wall", count / wall_s, "/s", least=200)
    yield Figure("audit on two cores: wall over that of one", wall_s / alone.wall_s, "", most=0.75)
    yield Figure("audit on two cores: left for the first", first.cpu_s / alone.cpu_s, "", most=0.6)
    days = steps / STEPS_A_DAY
    yield Figure(
        f"ledger: a meter and day, with its part of {MEMBERS} shares",
        size / METERS / days / 1e3,
        "kB",
        most=150,
    )


def _built(steps: int) -> Village:
    """The ledger; each block checked as its maker does, who has verified all of it."""
    village = Village(METERS)
    names = [f"member-{number}" for number in range(MEMBERS)]
    village.add_members(*names)
    village.block()
    village.agree(*(Claim(name, 1 + at, 0) for at, name in enumerate(names)), method=Method.KEYS)
    village.block()
    for _ in range(steps):
        step = village.next_step
        leaves: list[Record] = []
        proposal = Proposal(village.state, step)
        for device in village.devices:
            started = [device.run_start(step)] if device.sequence == 0 else []
            leaves += [*started, *device.step(step, *[LOT_PULSES] * LOTS)]
        for record in leaves:
            assert isinstance(record.body, ChainRecord)
            proposal.add(record, record.body)
        leaves += village.shares_of(proposal.settlements())
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


if __name__ == "__main__":
    for one in figures(int(sys.argv[1])):
        print(one.line(), flush=True)
