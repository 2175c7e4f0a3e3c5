"""Blocks of a thousand meters: proposed, checked, committed, published; and what a ledger of a
hundred thousand leaves makes of a gateway's start, of its memory and of a proof.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from cryptometer import note, records
from cryptometer.block import check_block
from cryptometer.chain import follow
from cryptometer.chain_records import ChainRecord
from cryptometer.commands.demo.broker import HOST
from cryptometer.proof import verify_proof
from cryptometer.proposal import Applied, Proposal, Slot
from cryptometer.records import Record
from cryptometer.state import State
from cryptometer.steps import NS_PER_MS, step_start_ms
from gateway.filing import file_block
from gateway.folder import read_community
from gateway.ledger import Ledger
from gateway.prove import prove
from gateway.store import Changes
from gateway.waiting import Waiting
from hal.memory import collect_seldom
from tests.bench.crowd import crowd, deliver, in_turn, mosquitto, served, timed, whole_step
from tests.bench.figures import (
    MS_PER_S,
    US_PER_S,
    Figure,
    Stopwatch,
    bare_verify_s,
    cpu_s,
    process_memory_mb,
)
from tests.core.community import CLOCK, STEP_S
from tests.gateway.kit import GRACE_MS, Premises, Site

METERS = 1_000
BATCHES = 14  # and the close: fifteen records of a meter
LOTS = 20
LEAVES = 100_000
ROUNDS = 3


def figures() -> Iterator[Figure]:
    """The area's figures."""
    collect_seldom()
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        path = Path(folder)
        with (
            mosquitto(path / "broker") as port,
            crowd(path / "gateway", METERS, f"mqtt://{HOST}:{port}") as (premises, site),
        ):
            yield from _anew(site)
            yield from _as_ingest_left_it(site)
            while site.node.state.frontier.size + METERS * (BATCHES + 1) < LEAVES:
                _send(site)
                site.seal()
            _send(site)
            yield from _start(premises, site, "with 15,000 records waiting")
            site.seal()
            yield from _start(premises, site, "with none waiting")
            assert site.node.state.frontier.size >= LEAVES
            yield from _proof(premises, site)


def _send(site: Site) -> None:
    deliver(site, in_turn(whole_step(site, BATCHES, LOTS)))


def _anew(site: Site) -> Iterator[Figure]:
    """As a node does that has seen none of the records before: every signature is verified in the
    check. Store and files are the gateway's own, and it is started anew on them in the end."""
    _send(site)
    step, state = site.next_step, site.node.state
    site.at(step + 1, GRACE_MS)
    pending = [records.decode(raw) for raw in site.store.pending()]
    slot = Slot(step, step_start_ms(step + 1, STEP_S) + GRACE_MS, CLOCK, caught_up=False)
    origin = site.community().origin
    whole = Stopwatch()
    applied, proposed = timed(lambda: _apply(state, pending, step))
    leaves = applied.leaves
    block = [*leaves, records.seal(applied.header(slot), state.community, site.key)]
    checked, judged = timed(lambda: check_block(state, block))
    head = note.sign_checkpoint(checked.state.checkpoint, origin, site.key)
    new = file_block(state, checked, block, head)
    _, committed = timed(lambda: site.store.commit(Changes(block=new)))
    raws = [record.raw for record in block]
    _, published = timed(lambda: Ledger(site.tree).publish(state.frontier.size, raws, head))
    cpu_s, wall_s = whole.cpu_s, whole.wall_s
    site.start()
    assert site.next_step == step + 1
    assert all(verdict.reason is None for verdict in checked.verdicts)
    for what, took in (
        ("put in order and proposed", proposed),
        ("checked, signatures included", judged),
        ("committed", committed),
        ("published", published),
    ):
        each_us = took.cpu_s / len(leaves) * US_PER_S
        yield Figure(f"block: {what}, a record", each_us, "us", most=1_000)
    ratio = judged.cpu_s / len(leaves) / bare_verify_s()
    yield Figure("block: a record checked, in bare verifications", ratio, "", most=4)
    name = f"block of {METERS:,} x {BATCHES + 1} records, every signature verified"
    yield Figure(name, cpu_s, "s", most=3)
    yield Figure(f"{name}, on the wall", wall_s, "s", most=60)


def _apply(state: State, pending: Sequence[Record], step: int) -> Applied:
    """Each of them followed in its chain and applied, as a gateway does when they come."""
    waiting, proposal = Waiting(), Proposal(state, step)
    for record in pending:
        body = record.body
        assert isinstance(body, ChainRecord)
        meter = state.meters[body.meter]
        waiting.add(record, body, follow(meter, waiting.head(meter), record, body))
    waiting.offer(proposal, step + 1)
    return proposal.finish()


def _as_ingest_left_it(site: Site) -> Iterator[Figure]:
    """As the gateway does itself, which has verified each signature at its door."""
    cpu_s, wall_s = [], []
    for _ in range(ROUNDS):
        _send(site)
        site.at(site.next_step + 1, GRACE_MS)
        _, took = timed(site.tick)
        cpu_s.append(took.cpu_s)
        wall_s.append(took.wall_s)
    name = f"block of {METERS:,} x {BATCHES + 1} records, verified at the door"
    yield Figure(name, statistics.median(cpu_s), "s", most=1)
    yield Figure(f"{name}, on the wall", statistics.median(wall_s), "s", most=60)


def _start(premises: Premises, site: Site, how: str) -> Iterator[Figure]:
    """The gateway as a process on this folder: from its start until it hears the broker."""
    at_ms = site.clock.utc_ns // NS_PER_MS
    step_ms = step_start_ms(site.next_step, STEP_S)
    # Community time stands where the step of what waits has just begun: no block is due.
    assert at_ms >= step_ms - GRACE_MS
    log = premises.path.parent / f"start-{site.node.pending_count}.log"
    size = site.node.state.frontier.size
    watch = Stopwatch()
    with served(premises, log, step_ms) as child:
        started_s = watch.wall_s
        memory_mb = process_memory_mb(child.pid)
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
