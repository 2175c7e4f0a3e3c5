"""Sharing: a block of a thousand generators and a thousand members, drafted, proposed and checked;
and the file that proves one member's share, made and verified.
"""

import statistics
from collections.abc import Iterator, Mapping
from functools import partial

from cryptometer.block import check_block
from cryptometer.chain_records import ChainRecord
from cryptometer.community import trust
from cryptometer.proposal import Proposal, propose
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Claim, Method
from gateway.share import make_share
from tests.bench.crowd import timed
from tests.bench.figures import MS_PER_S, Figure, Stopwatch
from tests.core.community import PULSE_UWH, Village
from tests.gateway.kit import Site
from tests.keys import signer

MANY = 1_000
METERS, MEMBERS = 10, 20
STEPS = 20


def figures() -> Iterator[Figure]:
    """The area's figures."""
    for method in (Method.KEYS, Method.PRO_RATA):
        yield from _block(method)
    yield from _share()


def _block(method: Method) -> Iterator[Figure]:
    """All signatures are verified in the check, as by a node that has seen none of it before."""
    village = Village(MANY)
    names = [f"member-{number:04}" for number in range(MANY)]
    village.add_members(*names)
    village.block()
    village.agree(*(Claim(name, 1 + at, 0) for at, name in enumerate(names)), method=method)
    village.block()
    step = village.next_step
    leaves: list[Record] = []
    for device in village.devices:
        leaves += [device.run_start(step), *device.step(step, 8, 8, 3)]
    needs = _needs(names, step) if method is Method.PRO_RATA else None
    watch = Stopwatch()
    proposal = Proposal(village.state, step)
    for record in sorted(leaves, key=_by_chain):
        assert isinstance(record.body, ChainRecord)
        proposal.add(record, record.body)
    shared, drafted = timed(lambda: village.shares_of(proposal.settlements(), needs))
    content = [*sorted(leaves, key=_by_chain), *shared]
    block = village.seal(content, propose(village.state, content, village.slot()))
    checked, judged = timed(lambda: check_block(village.state, block))
    whole_s = watch.cpu_s
    assert all(verdict.reason is None for verdict in checked.verdicts)
    assert checked.state.balance.waiting == 0
    name = f"block of {MANY:,} generators and {MANY:,} members, {method.value}"
    yield Figure(f"{name}: drafted and signed, in {len(shared)} parts", drafted.cpu_s, "s", most=1)
    yield Figure(f"{name}: checked, signatures included", judged.cpu_s, "s", most=2)
    yield Figure(f"{name}: in all", whole_s, "s", most=3)


def _by_chain(record: Record) -> tuple[str, int]:
    body = record.body
    assert isinstance(body, ChainRecord)
    return body.meter, body.sequence


def _needs(names: list[str], step: int) -> Mapping[int, Mapping[str, int]]:
    return {step: {name: (1 + at) * 40_000 for at, name in enumerate(names)}}


def _share() -> Iterator[Figure]:
    site = Site(METERS)
    site.found()
    names = [f"member-{number}" for number in range(MEMBERS)]
    members = [
        site.authority.register(Role.MEMBER, name, signer(100 + at).public)
        for at, name in enumerate(names)
    ]
    site.node.take_authority([record.raw for record in members])
    site.seal()
    claims = [Claim(name, 1 + at, 0) for at, name in enumerate(names)]
    agreement = site.authority.agree(site.next_step + 1, claims, method=Method.KEYS)
    site.node.take_authority([agreement.raw])
    first = site.next_step + 1
    site.run(*[[8] * 20] * (STEPS + 1))
    authority = site.store.authority()
    community, outsider = trust(authority[0], authority[1:]), site.community()
    made, verified = [], []
    data = b""
    for step in range(first, first + STEPS):
        make = partial(make_share, names[3], step, site.store, site.tree.read, community)
        data, took = timed(make)
        made.append(took.cpu_s)
        share, took = timed(partial(verify_share, data, outsider))
        verified.append(took.cpu_s)
        assert sum(share.settlement.given(share.agreement)) == METERS * 160 * PULSE_UWH
    name = f"share of one of {MEMBERS} members, {METERS} meters"
    yield Figure(f"{name}: size", len(data), "B", most=100_000)
    yield Figure(f"{name}: made", statistics.median(made) * MS_PER_S, "ms", most=1_000)
    yield Figure(f"{name}: verified", statistics.median(verified) * MS_PER_S, "ms", most=500)
