"""Gathers, out of the ledger, the file that proves a member's share of a step."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from cryptometer import cose, records
from cryptometer.authority_records import ReAnchor, Registration
from cryptometer.chain_records import Batch, ChainRecord, Reading, StepClose
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.openings import Opening
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.share_file import encode_share
from cryptometer.sharing_records import Agreement, Distribution, Input
from cryptometer.tiles import CHECKPOINT_PATH, Entries, Read, node_from_tiles
from gateway.store import BlockRow, Store

_STEP_CLOSE = StepClose.KIND.value.encode()


def make_share(
    member: str,
    step: int,
    store: Store,
    read: Read,
    community: Community,
    opens: Callable[[bytes], Opening | None] = lambda _: None,
) -> bytes:
    """The share file's bytes.

    Args:
        read: gives the content of a ledger path, or None.
        community: with all of the authority's records.
        opens: gives what opens the newest commitment to what the member consumed, if it is known.

    Raises:
        ConfigurationError: nothing was given to the member in that step, or not yet.
        Rejected: the ledger's files are damaged.
    """
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        raise ConfigurationError("the ledger has no block yet")
    entries = _Entries(community.open_checkpoint(signed, revoked=True).size, read)
    leaves: dict[int, bytes] = {}
    anchors = _anchors(community)
    bodies = []
    for leaf in store.distributions(step):
        if leaf >= entries.size or store.verdict(leaf) is not None:
            continue
        body = entries.record(leaf).body
        assert isinstance(body, Distribution)  # noqa: S101 - what the store calls so
        bodies.append(body)
        row = store.block_of(leaf)
        for at in (leaf, row.size - 1):
            leaves[at] = entries.raw(at)
        for index in _behind(body.inputs, step, row, store, entries, anchors):
            leaves[index] = entries.raw(index)
    if not bodies:
        raise ConfigurationError(_why_none(step, store))
    _check_member(member, bodies[0], community)
    authority = _authority(bodies, [records.decode(leaves[at]) for at in leaves], community)
    node = node_from_tiles(entries.size, read)
    digest = _committed(member, bodies)
    opening = None if digest is None else opens(digest)
    return encode_share(member, step, signed.decode(), authority, leaves, node, opening)


def _committed(member: str, bodies: Sequence[Distribution]) -> bytes | None:
    """The commitment to a member's consumption in the newest of a step's distributions."""
    newest = bodies[-1].supplement
    digests = [
        one.digest
        for body in bodies
        if body.supplement == newest
        for one in body.commitments
        if one.member == member
    ]
    return digests[0] if digests else None


class _Entries(Entries):
    """The ledger's entries, decoded if wanted."""

    def record(self, leaf: int) -> Record:
        return records.decode(self.raw(leaf))


def _anchors(community: Community) -> dict[str, list[int]]:
    """Where re-anchors have let each meter's chain go on: sequence numbers, ascending."""
    found: dict[str, list[int]] = {}
    for record in community.records:
        if isinstance(record.body, ReAnchor):
            found.setdefault(record.body.meter, []).append(record.body.at)
    return {meter: sorted(numbers) for meter, numbers in found.items()}


def _behind(
    inputs: Sequence[Input],
    step: int,
    spent_in: BlockRow,
    store: Store,
    entries: _Entries,
    anchors: Mapping[str, Sequence[int]],
) -> Iterator[int]:
    """The leaves of closes, and of the records behind each of them."""
    for leaf, close in _closes({one.close for one in inputs}, step, spent_in, store, entries):
        yield leaf
        yield from _counted(close, store, entries, anchors.get(close.meter, ()))


def _closes(
    wanted: set[bytes], step: int, spent_in: BlockRow, store: Store, entries: _Entries
) -> Iterator[tuple[int, StepClose]]:
    """The leaf of each close that is spent, with what it says."""
    for at in _blocks(step, spent_in.step):
        row = store.block(at)
        if row is None:
            continue
        for leaf in range(row.first, row.size - 1):
            # A look at the bytes spares thousands of records from being decoded.
            if _STEP_CLOSE not in entries.raw(leaf)[: cose.HEADER_MAX]:
                continue
            record = entries.record(leaf)
            if record.identity in wanted and isinstance(record.body, StepClose):
                wanted.discard(record.identity)
                yield leaf, record.body
        if not wanted:
            return


def _blocks(step: int, newest: int) -> Iterator[int]:
    """Where a step's closes are: most in its own block, what was late in a later one, the newest of
    all in the block that spends it."""
    yield step
    if newest > step:
        yield newest
        yield from range(step + 1, newest)


def _counted(
    close: StepClose, store: Store, entries: _Entries, anchors: Sequence[int]
) -> Iterator[int]:
    """The leaves of a chain's records behind a close, back to the one before that counted: what
    was not closed then came with this one."""
    sequence = close.sequence - 1
    while sequence >= 0:
        leaf = store.leaf_at(close.meter, sequence)
        if leaf is None:
            sequence = _passed_over(close.meter, sequence, store, anchors) - 1
            continue
        if isinstance(entries.record(leaf).body, StepClose) and store.verdict(leaf) is None:
            return
        yield leaf
        sequence -= 1


def _passed_over(meter: str, last: int, store: Store, anchors: Sequence[int]) -> int:
    """The first of the numbers up to `last` that no record of a chain has, since a re-anchor has
    passed them over: those of a stretch between two are there without a gap from its begin on."""
    begin = max((at for at in anchors if at <= last), default=0)
    stretch = range(begin, last + 1)
    return begin + bisect_left(stretch, True, key=lambda at: store.leaf_at(meter, at) is None)


def _authority(
    distributions: Sequence[Distribution], leaves: Sequence[Record], community: Community
) -> list[bytes]:
    """The agreement, and the registrations that the meters' records name or are signed under, and
    the re-anchors that they stand behind."""
    needed = {one.agreement for one in distributions}
    keys = set()
    before = set()
    for record in leaves:
        body = record.body
        if isinstance(body, Batch | Reading):
            needed.add(body.registration)
        if isinstance(body, ChainRecord):
            keys.add(record.key_id)
            before.add(body.previous)
    return [
        known.raw
        for known in community.records
        if known.identity in needed
        or _registers_meter(known, keys)
        or (isinstance(known.body, ReAnchor) and known.identity in before)
    ]


def _registers_meter(record: Record, keys: set[bytes]) -> bool:
    match record.body:
        case Registration(role=Role.METER, key=key):
            return key.thumbprint in keys
        case _:
            return False


def _check_member(member: str, body: Distribution, community: Community) -> None:
    for known in community.records:
        if known.identity == body.agreement and isinstance(known.body, Agreement):
            if member in known.body.members:
                return
            members = ", ".join(known.body.members)
            raise ConfigurationError(
                f"{member} has no claim in step {body.step}; those who have: {members:.400}"
            )
    raise Rejected(Reason.WRONG_AGREEMENT, "the store lacks the agreement that was applied")


def _why_none(step: int, store: Store) -> str:
    state = store.state()
    if store.block(step) is None:
        return f"step {step} has no block here"
    if state is not None and step in state.settlements and state.settlements[step].waiting:
        return f"what step {step} brought waits at the virtual power plant; `why` says what lacks"
    return f"nothing was distributed of step {step}: it brought no energy, or no agreement held"
