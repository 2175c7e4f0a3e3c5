"""An audit: every signature, chain, energy, total, hash and share of a month of ten meters and
twenty members; or of a year.

    python -m tests.bench audit
    make bench-year

The ledger is made by a process of its own, and each audit is one: what the one took, the others do
not have.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cryptometer import records
from cryptometer.audit import Report, audit
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.commands.sources import ledger_reader
from cryptometer.commands.verifiers import Verifiers
from cryptometer.community import Community
from cryptometer.state import State
from cryptometer.tiles import Entries
from hal.memory import collect_seldom
from tests.bench.crowd import Took, timed
from tests.bench.figures import MS_PER_S, Figure, Stopwatch, bare_sign_s, own_memory_mb
from tests.bench.long_ledger import MEMBERS, METERS, STEPS_A_DAY, make

STEPS = 2_976  # quarter hours of 31 days
BARE = 10_000

P = ParamSpec("P")
T = TypeVar("T")


def figures(steps: int = STEPS) -> Iterator[Figure]:
    """The area's figures."""
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path:
        folder = Path(path)
        made = _apart(make, folder, steps)
        bare_s = _apart(_bare_s, folder, made.state)
        alone = _apart(_audited, folder, made.community, 1)
        bare_s = (bare_s + _apart(_bare_s, folder, made.state)) / 2
        shared = _apart(_audited, folder, made.community, 2)
        kept = encode_report(alone.report)
        again = _apart(_gone_on, folder, made.community, kept)
    report = alone.report
    assert report == shared.report
    assert report.state == made.state
    assert not report.quarantined
    assert report.rules == {"recomputed": steps}
    count = report.checkpoint.size
    name = f"audit of {METERS} meters x {steps:,} steps, {count:,} leaves"
    cpu_s, wall_s = alone.took.cpu_s, alone.took.wall_s
    yield Figure(name, cpu_s, "s", most=steps / 5)
    yield Figure(f"{name}, on the wall", wall_s, "s", most=steps / 1.6)
    yield Figure("audit on one core: leaves", count / cpu_s, "/s", least=200)
    yield Figure("audit on one core, of the bare rate", 100 * bare_s * count / cpu_s, "%", least=60)
    yield Figure("audit on one core: memory at most", alone.memory_mb, "MB", most=200)
    took = shared.took
    yield Figure("audit on two cores: leaves, on the wall", count / took.wall_s, "/s", least=200)
    yield Figure("audit on two cores: wall over that of one", took.wall_s / wall_s, "", most=0.75)
    yield Figure("audit on two cores: left for the first", took.cpu_s / cpu_s, "", most=0.6)
    yield Figure("audit on two cores: memory of the first", shared.memory_mb, "MB", most=200)
    yield Figure("audit gone on with, nothing new", again.cpu_s * MS_PER_S, "ms", most=2_000)
    yield Figure("what the audit keeps for that", len(kept) / steps, "B/step", most=300)
    days = steps / STEPS_A_DAY
    yield Figure(
        f"ledger: a meter and day, with its part of {MEMBERS} shares",
        made.size / METERS / days / 1e3,
        "kB",
        most=150,
    )
    signed = made.cpu_s / count / bare_sign_s()
    yield Figure("that ledger made: a leaf, in bare signatures", signed, "", most=10)


@dataclass(frozen=True, slots=True)
class _Audited:
    """What an audit found and took; its memory is the most it had at any time."""

    report: Report
    took: Took
    memory_mb: float


def _audited(folder: Path, community: Community, jobs: int) -> _Audited:
    """An audit as the command does it, with so many processes that verify."""
    collect_seldom()
    read = ledger_reader(folder)
    with Verifiers(jobs) as verify:
        report, took = timed(lambda: audit(read, community, verify=verify))
    return _Audited(report, took, own_memory_mb())


def _gone_on(folder: Path, community: Community, kept: bytes) -> Took:
    """What the next audit takes of a ledger that has gained nothing."""
    collect_seldom()
    read = ledger_reader(folder)
    _, took = timed(lambda: audit(read, community, resume=decode_report(kept, community)))
    return took


def _bare_s(folder: Path, state: State) -> float:
    """Processor seconds of one bare verification of a meter's record: of the ledger's newest."""
    keys = {
        terms.key.thumbprint: Ed25519PublicKey.from_public_bytes(terms.key.coordinates)
        for meter in state.meters.values()
        for terms in meter.terms
    }
    size = state.frontier.size
    entries = Entries(size, ledger_reader(folder))
    newest = [records.decode(entries.raw(index)) for index in range(max(0, size - BARE), size)]
    work = [
        (keys[one.key_id].verify, one.envelope.signature, one.envelope.signed)
        for one in newest
        if one.key_id in keys
    ]
    watch = Stopwatch()
    for verify, signature, data in work:
        verify(signature, data)
    return watch.cpu_s / len(work)


def _apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What some work gives, done by a process that begins with nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(work, *args, **kwargs).result()


def main(steps: int) -> int:
    """Exit code 1: a limit is broken."""
    over = 0
    for one in figures(steps):
        print(one.line(), flush=True)
        over += not one.holds
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
