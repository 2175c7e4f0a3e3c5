"""The gateway: from a message to a block that anyone can check, on a real store and a real folder.

A thousand meters send fifteen records a step until the ledger has a hundred thousand leaves.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

from cryptometer import records
from cryptometer.block import Slot, check_block, due, propose
from cryptometer.commands.demo.broker import HOST, free_port, listens, start_broker
from cryptometer.commands.demo.processes import GATEWAY, Child, program
from cryptometer.proof import verify_proof
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, step_start_ms
from gateway.folder import read_community
from gateway.prove import prove
from gateway.service import MESSAGES_MAX
from gateway.store import Changes, Contact
from tests.bench.figures import (
    MS_PER_S,
    US_PER_S,
    Figure,
    Stopwatch,
    bare_verify_s,
    cpu_s,
    process_memory_mb,
)
from tests.core.community import CLOCK, LOT_PULSES, STEP_S
from tests.gateway.kit import GRACE_MS, Premises, Site

METERS = 1_000
BATCHES = 14  # and the close: fifteen records of a meter
LOTS = 20
LEAVES = 100_000
AUDIT_BLOCKS = 3
SINGLE = 200
COMMITS = 200
START_MAX_S = 60.0


def figures() -> Iterator[Figure]:
    """The area's figures."""
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        path = Path(folder)
        port = free_port()
        premises = Premises(path / "gateway", meters=METERS)
        premises.enrol(url=f"mqtt://{HOST}:{port}")
        with closing(premises.folder.open_store()) as store:
            site = premises.site(store)
            site.found()
            site.send(*(device.run_start(site.next_step) for device in site.devices))
            yield from _commits(site)
            yield from _ingest(site)
            yield from _block(site)
            for _ in range(AUDIT_BLOCKS - 2):
                _deliver(site, _in_turn(_step(site)))
                site.seal()
            yield from _audit(site)
            while site.node.state.frontier.size + METERS * (BATCHES + 1) < LEAVES:
                _deliver(site, _in_turn(_step(site)))
                site.seal()
            _deliver(site, _in_turn(_step(site)))
            with _broker(path / "broker", port):
                yield from _start(premises, site, "with 15,000 records waiting")
                site.seal()
                yield from _start(premises, site, "with none waiting")
            assert site.node.state.frontier.size >= LEAVES
            yield from _proof(premises, site)


def _step(site: Site) -> list[list[Record]]:
    """What each meter sends for the next step."""
    lots = [LOT_PULSES] * LOTS
    sent = []
    for device in site.devices:
        batches = [device.batch(site.next_step, *lots) for _ in range(BATCHES)]
        sent.append([*batches, device.close(site.next_step)])
    return sent


def _at_once(sent: Sequence[Sequence[Record]]) -> list[Record]:
    """The first record of each meter, then the second of each."""
    return list(chain.from_iterable(zip(*sent, strict=True)))


def _in_turn(sent: Sequence[Sequence[Record]]) -> list[Record]:
    """All of a meter, then all of the next: a backlog."""
    return list(chain.from_iterable(sent))


def _deliver(site: Site, sent: Sequence[Record], at_once: int = MESSAGES_MAX) -> Stopwatch:
    messages = [site.message(record) for record in sent]
    before = site.node.pending_count
    watch = Stopwatch()
    for begin in range(0, len(messages), at_once):
        site.receive(messages[begin : begin + at_once])
    assert site.node.pending_count == before + len(sent)
    return watch


def _commits(site: Site) -> Iterator[Figure]:
    """The least the store can do durably."""
    watch = Stopwatch()
    for number in range(COMMITS):
        site.store.commit(Changes(contacts=(Contact("m0", number, number, "S", 0),)))
    yield Figure("store: commits, each durable", COMMITS / watch.wall_s, "/s", least=10)


def _ingest(site: Site) -> Iterator[Figure]:
    sent = _at_once(_step(site))
    many = f"{MESSAGES_MAX:,} in a commit"
    for how, part, at_once, least, most in (
        ("one in a commit", sent[:SINGLE], 1, 10, 40),
        (many, sent[SINGLE:], MESSAGES_MAX, 200, 15),
    ):
        watch = _deliver(site, part, at_once)
        wall_s, ratio = watch.wall_s, watch.cpu_s / len(part) / bare_verify_s()
        yield Figure(f"ingest: records, {how}", len(part) / wall_s, "/s", least=least)
        yield Figure(f"ingest: a record, {how}, in bare verifications", ratio, "", most=most)


def _block(site: Site) -> Iterator[Figure]:
    """The first block with energy: each part of its making by itself, then as the gateway does."""
    step, state = site.next_step, site.node.state
    site.at(step + 1, GRACE_MS)
    pending = [records.decode(raw) for raw in site.store.pending()]
    watch = Stopwatch()
    leaves, refused = due(state, step, pending)
    slot = Slot(step, step_start_ms(step + 1, STEP_S) + GRACE_MS, CLOCK, caught_up=False)
    header = propose(state, leaves, slot)
    proposed_s = watch.cpu_s / len(leaves)
    assert not refused
    block = [records.decode(record.raw) for record in leaves]
    block.append(records.seal(header, state.community, site.key))
    watch = Stopwatch()
    checked = check_block(state, block)
    checked_s = watch.cpu_s / len(leaves)
    assert all(verdict.reason is None for verdict in checked.verdicts)
    name = f"block of {METERS:,} meters x {BATCHES + 1} records"
    for what, each_s, most in (("propose", proposed_s, 2), ("check_block", checked_s, 4)):
        yield Figure(f"{name}: {what}, a record", each_s * US_PER_S, "us", most=5_000)
        ratio = each_s / bare_verify_s()
        yield Figure(f"{name}: {what}, in bare verifications", ratio, "", most=most)
    watch = Stopwatch()
    site.seal()
    yield Figure(f"{name}: sealed, stored, published", watch.wall_s, "s", most=60)
    assert site.next_step == step + 1


def _audit(site: Site) -> Iterator[Figure]:
    watch = Stopwatch()
    report = site.audit()
    each_s = watch.cpu_s / report.checkpoint.size
    assert not report.quarantined
    size = f"of {report.checkpoint.size:,} leaves"
    yield Figure(f"audit {size}: leaves", 1 / each_s, "/s", least=200)
    yield Figure(
        f"audit {size}: a leaf, in bare verifications", each_s / bare_verify_s(), "", most=5
    )


@contextmanager
def _broker(folder: Path, port: int) -> Iterator[None]:
    broker = start_broker(folder, port)
    try:
        deadline = time.monotonic() + START_MAX_S
        while not listens(port):
            assert time.monotonic() < deadline, "the broker does not listen"
            time.sleep(0.01)
        yield
    finally:
        broker.end()


def _start(premises: Premises, site: Site, how: str) -> Iterator[Figure]:
    """The gateway as a process on this folder: from its start until it hears the broker."""
    at_ms = site.clock.utc_ns // NS_PER_MS
    step_ms = step_start_ms(site.next_step, STEP_S)
    # Community time stands where the step of what waits has just begun: no block is due.
    assert at_ms >= step_ms - GRACE_MS
    premises.folder.file.write_text(
        f'[clock]\ndriver = "scaled"\nspeed = 1\norigin_ms = {step_ms}\n'
        f"anchor_ms = {time.monotonic_ns() // NS_PER_MS}\n"
    )
    log = premises.path.parent / f"start-{site.node.pending_count}.log"
    size = site.node.state.frontier.size
    watch = Stopwatch()
    child = Child("gateway", program(GATEWAY, "run", "--config", premises.path), log)
    try:
        while "connected" not in log.read_text():
            child.check()
            assert watch.wall_s < START_MAX_S, log.read_text()
            time.sleep(0.005)
        started_s = watch.wall_s
        memory_mb = process_memory_mb(child.pid)
    finally:
        assert child.end() == 0, child.last_lines()
    assert "block step" not in log.read_text()
    yield Figure(f"gateway: start, {size:,} leaves {how}", started_s, "s", most=30)
    yield Figure(f"gateway: memory, {METERS:,} meters {how}", memory_mb, "MB", most=400)


def _proof(premises: Premises, site: Site) -> Iterator[Figure]:
    with closing(premises.folder.open_store(read_only=True)) as store:
        community = read_community(store)
        watch = Stopwatch()
        text = prove("m500/20", store, site.tree.read, community)
        made_s = watch.wall_s
    outsider = premises.community()
    checked_s = cpu_s(lambda: verify_proof(text, outsider), times=50)
    size = f"of {site.node.state.frontier.size:,} leaves"
    yield Figure(f"proof of a record {size}: size", len(text), "B", most=5_000)
    yield Figure("proof: made", made_s * MS_PER_S, "ms", most=1_000)
    yield Figure("proof: verified", checked_s * MS_PER_S, "ms", most=50)
    yield Figure("proof: verified, in bare verifications", checked_s / bare_verify_s(), "", most=15)
