"""Rebuilds everything from a ledger's static files, against keys given from outside.

Believes nothing but the checkpoint's signature and the community's keys: every signature, chain,
energy, total and hash is computed anew from the leaves.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

from cryptometer import records, tiles
from cryptometer.authority_records import AuthorityRecord, Genesis, Registration
from cryptometer.block import Checked, check_block
from cryptometer.block_header import Balance, Header
from cryptometer.chain_records import Batch, ChainRecord, Reading, StepClose
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.judging import Rule
from cryptometer.keys import PublicKey
from cryptometer.merkle import HASH_BYTES, Frontier, leaf_hash
from cryptometer.openings import Openings
from cryptometer.proven_tiles import ProvenTiles
from cryptometer.readable import utc
from cryptometer.record_fields import Checkpoint
from cryptometer.records import Record
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH, TILE_WIDTH, Read, Tile

Watch = Callable[[Checked], None]

Verify: TypeAlias = Callable[
    [Iterator[tuple[Record, PublicKey | None]]], Iterator[tuple[Record, bool]]
]
"""Gives the records of a stream in their order, each with whether its signature has been verified
with the key beside it; it may read ahead. What the stream raises, it raises in its place."""

_PLACES = tuple(one.name for one in fields(Balance))


def verify_none(stream: Iterator[tuple[Record, PublicKey | None]]) -> Iterator[tuple[Record, bool]]:
    """Leaves every signature to `check_block`."""
    return ((record, False) for record, _ in stream)


@dataclass(slots=True)
class Report:
    """What an audit found in a ledger that holds, and all that it needs to go on from there.

    Attributes:
        checkpoint: the tree head that was rebuilt.
        state: the community after the newest block.
        kinds: number of leaves by record kind.
        quarantined: number of records by the reason they were set aside.
        late: number of records that came after their step's block.
        caught_up: number of blocks made late after a restart.
        unsynchronised: number of blocks made without a synchronised clock.
        rules: number of distributions by what is known of their rule: see `Rule`. The sums of all
            of them are proven.
        energy_uwh: where all energy is, summed leaf by leaf (promise F).
        shown: what devices were shown that is not this ledger, and agreements of steps that were
            over when they came into it; one sentence each.
        kept_back: sequence numbers of authority records known from outside that no block holds.
        heads: the root after each block, by the size of the tree.
        authority: identities of the authority's records in the ledger, by sequence number.
    """

    checkpoint: Checkpoint
    state: State
    blocks: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    late: int = 0
    caught_up: int = 0
    unsynchronised: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    energy_uwh: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    kept_back: list[int] = field(default_factory=list)
    heads: dict[int, bytes] = field(default_factory=dict)
    authority: list[bytes] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """What is odd and yet no breach, one sentence each."""
        found = list(self.shown)
        if self.kept_back:
            missing = ", ".join(map(str, self.kept_back))
            found.append(
                f"this ledger does not hold the authority's records {missing}, which community.pub"
                " has"
            )
        if broken := self.rules[Rule.BROKEN]:
            found.append(
                f"by what was opened, {broken} distributions give something else than the agreement"
            )
        return found


def audit(
    read: Read,
    community: Community,
    *,
    since: Checkpoint | None = None,
    resume: Report | None = None,
    watch: Watch = lambda _: None,
    verify: Verify = verify_none,
    openings: Openings | None = None,
) -> Report:
    """Audits a ledger: whole, or what it has gained since an earlier audit.

    Args:
        read: gives the content of a ledger path, or None.
        community: whom to trust; never read from the ledger's own folder.
        since: a checkpoint seen earlier, which the ledger must extend.
        resume: what an earlier audit of this community found. It is believed as far as it goes and
            not changed; the ledger must extend it. Tiles that were complete then are not read.
        watch: called with every block that holds, of those that are new.
        verify: verifies signatures ahead, as on other cores. It is given each record with the key
            that the record names, wherever that is known from; whose key it is, and whether it may
            speak there, is for `check_block`, which also verifies what `verify` has not.
        openings: of what members consumed: the rule of distributions that ask for it is recomputed
            as far as they go. They are believed where they fit the ledger's commitments.

    Raises:
        Rejected: the first breach, naming the place.
    """
    checkpoint = _newest(read, community)
    earlier = _copy(resume) if resume is not None else _begin(community)
    for seen in (since, earlier.checkpoint):
        if seen is not None:
            _check_sizes(seen, checkpoint)
    named = _named(community)
    _compare_known(earlier, named)
    report = replace(earlier, checkpoint=checkpoint)
    block: list[Record] = []
    verified: set[bytes] = set()
    leaves = _leaves(earlier.state.frontier, checkpoint, read)
    for record, is_verified in verify(_with_keys(earlier.state, leaves)):
        block.append(record)
        if is_verified:
            verified.add(record.raw)
        if isinstance(record.body, Header):
            checked = check_block(report.state, block, verified=verified, openings=openings)
            _note_authority(report, checked, named)
            _note_block(report, checked, record.body)
            watch(checked)
            block, verified = [], set()
    if block:
        at = checkpoint.size - len(block)
        raise Rejected(Reason.WRONG_ORDER, f"leaf {at}: no header ends the newest block")
    if since is not None and report.heads.get(since.size) != since.root:
        raise _not_seen_before(since.size)
    report.kept_back = [at for at in named if at >= report.state.authority.sequence]
    return report


def _with_keys(
    state: State, leaves: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[Record, PublicKey | None]]:
    """Each leaf decoded, and the key that a device's record or a distribution names if a
    registration is known, from `state` or from a leaf before it. Nothing is believed of that
    registration but the key, whose own hash is its name."""
    keys = {
        terms.key.thumbprint: terms.key for meter in state.meters.values() for terms in meter.terms
    }
    keys |= {party.key.thumbprint: party.key for party in state.parties.values()}
    for index, raw in leaves:
        try:
            record = records.decode(raw)
        except Rejected as refused:
            raise Rejected(refused.reason, f"leaf {index}: {refused.detail}") from None
        if isinstance(record.body, Registration):
            keys[record.body.key.thumbprint] = record.body.key
        is_signed_by_many = isinstance(record.body, ChainRecord | Distribution)
        key = keys.get(record.key_id) if is_signed_by_many else None
        # `Envelope.verify` would refuse it: the library is not asked.
        if key is not None and key.algorithm is not record.envelope.header.algorithm:
            key = None
        yield record, key


def _newest(read: Read, community: Community) -> Checkpoint:
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        raise Rejected(Reason.BAD_CHECKPOINT, "the ledger has no checkpoint")
    try:
        return community.open_checkpoint(signed)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{CHECKPOINT_PATH}: {refused.detail}") from None


def _check_sizes(seen: Checkpoint, checkpoint: Checkpoint) -> None:
    """What can be told before anything is read; the leaves tell the rest."""
    if seen.size > checkpoint.size:
        raise Rejected(
            Reason.BAD_CHECKPOINT,
            f"the ledger has {checkpoint.size} leaves and had {seen.size} before",
        )
    if seen.size == checkpoint.size and seen.root != checkpoint.root:
        raise _not_seen_before(seen.size)


def _begin(community: Community) -> Report:
    """Before the first block."""
    nothing = community.state.checkpoint
    return Report(nothing, community.state, heads={nothing.size: nothing.root})


def _copy(report: Report) -> Report:
    """What goes on changes its own sums only."""
    return replace(
        report,
        kinds=Counter(report.kinds),
        quarantined=Counter(report.quarantined),
        rules=Counter(report.rules),
        energy_uwh=Counter(report.energy_uwh),
        shown=list(report.shown),
        heads=dict(report.heads),
        authority=list(report.authority),
    )


def _named(community: Community) -> dict[int, bytes]:
    """The authority's records known from outside: identities by sequence number."""
    return {
        one.body.sequence: one.identity
        for one in community.records
        if isinstance(one.body, AuthorityRecord)
    }


def _compare_known(earlier: Report, named: Mapping[int, bytes]) -> None:
    """What `community.pub` says may be newer than the audit that is gone on with."""
    for sequence, identity in enumerate(earlier.authority):
        if named.get(sequence, identity) != identity:
            raise Rejected(
                Reason.FORK,
                f"community.pub has another authority record {sequence} than the ledger had",
            )


def _note_authority(report: Report, checked: Checked, named: Mapping[int, bytes]) -> None:
    """The authority's records known from outside are those of the ledger: an authority that tells
    two stories is found by whoever has heard the other."""
    for index, verdict in enumerate(checked.verdicts, report.state.frontier.size):
        record = verdict.record
        if not isinstance(record.body, Genesis | AuthorityRecord):
            continue
        sequence = len(report.authority)  # `check_block` has seen that it is the chain's next
        if named.get(sequence, record.identity) != record.identity:
            raise Rejected(
                Reason.FORK, f"leaf {index}: community.pub has another authority record {sequence}"
            )
        report.authority.append(record.identity)


def _leaves(old: Frontier, checkpoint: Checkpoint, read: Read) -> Iterator[tuple[int, bytes]]:
    """Every leaf behind those of `old`, with its index, each proven by the checkpoint before
    anything else is looked at."""
    for hashes, content in ProvenTiles(old, checkpoint, read).contents(0):
        begin = hashes.index * TILE_WIDTH
        entries = tiles.read_entries(Tile(None, hashes.index, hashes.width), read)
        for offset, raw in enumerate(entries):
            index = begin + offset
            expected = content[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
            if leaf_hash(raw) != expected:
                raise Rejected(Reason.BAD_PROOF, f"leaf {index} is not the one its tile holds")
            if index >= old.size:
                yield index, raw


def _not_seen_before(size: int) -> Rejected:
    return Rejected(Reason.BAD_CHECKPOINT, f"the first {size} leaves are not those seen before")


def _note_block(report: Report, checked: Checked, header: Header) -> None:
    report.state = checked.state
    report.blocks += 1
    report.caught_up += header.caught_up
    report.unsynchronised += header.clock.state.value != "S"
    report.late += header.late[0]
    report.kinds[Header.KIND.value] += 1
    for verdict in checked.verdicts:
        body = verdict.record.body
        report.kinds[body.KIND.value] += 1
        if verdict.reason is not None:
            report.quarantined[verdict.reason.value] += 1
        if isinstance(body, Batch | Reading):
            place = "quarantined" if verdict.reason else "untransferred"
            report.energy_uwh["registered"] += verdict.energy_uwh
            report.energy_uwh[place] += verdict.energy_uwh
        elif isinstance(body, StepClose):
            report.energy_uwh["untransferred"] -= verdict.energy_uwh
            report.energy_uwh["waiting"] += verdict.energy_uwh
        elif isinstance(body, Distribution) and verdict.reason is None:
            _note_distribution(report, body, verdict.rule)
        elif isinstance(body, Agreement) and verdict.reason is None:
            _note_agreement(report, body, header)
        if isinstance(body, StepClose) and body.checkpoint is not None:
            seen = body.checkpoint
            if report.heads.get(seen.size) != seen.root:
                report.shown.append(
                    f"{body.meter} was shown a ledger of {seen.size} leaves that is not this one"
                    f" (step {body.step})"
                )
    _check_conservation(report, checked, header.step)
    head = checked.state.checkpoint
    report.heads[head.size] = head.root


def _note_agreement(report: Report, agreement: Agreement, header: Header) -> None:
    """By steps an agreement is of steps to come. But a gateway that had stopped makes its blocks
    later, and what the authority signed meanwhile stands in the first of them."""
    step = agreement.from_step
    if header.sealed_ms >= step_start_ms(step + 1, report.state.genesis.step_s):
        report.shown.append(
            f"the agreement from step {step} on came into the ledger when that step was over: the"
            f" block of step {header.step} was sealed {utc(header.sealed_ms)}"
        )


def _note_distribution(report: Report, part: Distribution, rule: Rule | None) -> None:
    report.energy_uwh["waiting"] -= sum(one.energy_uwh for one in part.inputs)
    report.energy_uwh["allocated"] += sum(one.energy_uwh for one in part.outputs)
    report.energy_uwh["losses"] += part.losses_uwh
    report.energy_uwh["fees"] += part.fee_uwh
    report.energy_uwh["surplus"] += part.surplus_uwh - part.from_surplus_uwh
    if rule is not None and part.part.number == part.part.parts:
        report.rules[rule.value] += 1


def _check_conservation(report: Report, checked: Checked, step: int) -> None:
    """Promise F, from two sides: the leaves' sum against the balance, and the balance in itself."""
    moved = {name: report.energy_uwh[name] for name in _PLACES}
    if Balance(**moved) != checked.state.balance:
        raise Rejected(Reason.WRONG_TOTALS, f"the leaves do not give the balance of step {step}")
    registered = moved.pop("registered")
    if sum(moved.values()) != registered:
        raise Rejected(Reason.WRONG_TOTALS, f"energy is not conserved at step {step}")
