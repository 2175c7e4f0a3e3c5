"""Rebuilds everything from a ledger's static files, against keys given from outside.

Believes nothing but the checkpoint's signature and the community's keys: every signature, chain,
energy, total and hash is computed anew from the leaves.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from cryptometer import records, tiles
from cryptometer.block import Checked, check_block
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES, leaf_hash
from cryptometer.records import AuthorityRecord, Batch, Checkpoint, Header, Record, StepClose
from cryptometer.state import State
from cryptometer.tiles import CHECKPOINT_PATH, TILE_WIDTH, Read, Tile

Watch = Callable[[Checked], None]


@dataclass(slots=True)
class Report:
    """What an audit found in a ledger that holds.

    Attributes:
        checkpoint: the tree head that was rebuilt.
        state: the community after the newest block.
        kinds: number of leaves by record kind.
        quarantined: number of records by the reason they were set aside.
        late: number of records that came after their step's block.
        caught_up: number of blocks made late after a restart.
        unsynchronised: number of blocks made without a synchronised clock.
        energy_uwh: where all energy is, summed leaf by leaf (promise F).
        findings: what is odd and yet no breach, one sentence each.
    """

    checkpoint: Checkpoint
    state: State
    blocks: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    late: int = 0
    caught_up: int = 0
    unsynchronised: int = 0
    energy_uwh: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def audit(
    read: Read,
    community: Community,
    *,
    since: Checkpoint | None = None,
    watch: Watch = lambda _: None,
) -> Report:
    """Audits a whole ledger.

    Args:
        read: gives the content of a ledger path, or None.
        community: whom to trust; never read from the ledger's own folder.
        since: a checkpoint seen earlier, which the ledger must extend.
        watch: called with every block that holds.

    Raises:
        Rejected: the first breach, naming the place.
    """
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        raise Rejected(Reason.BAD_CHECKPOINT, "the ledger has no checkpoint")
    try:
        checkpoint = community.open_checkpoint(signed)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{CHECKPOINT_PATH}: {refused.detail}") from None
    if since is not None and since.size > checkpoint.size:
        raise Rejected(
            Reason.BAD_CHECKPOINT,
            f"the ledger has {checkpoint.size} leaves and had {since.size} before",
        )
    report = Report(checkpoint, community.state)
    heads = {0: community.state.checkpoint.root}
    named = {
        one.body.sequence: one.identity
        for one in community.records
        if isinstance(one.body, AuthorityRecord)
    }
    block: list[Record] = []
    for index, raw in _leaves(checkpoint.size, read):
        try:
            record = records.decode(raw)
        except Rejected as refused:
            raise Rejected(refused.reason, f"leaf {index}: {refused.detail}") from None
        block.append(record)
        if isinstance(record.body, Header):
            checked = check_block(report.state, block)
            _compare(report.state.frontier.size, checked, named)
            _note_block(report, checked, record.body, heads)
            watch(checked)
            block = []
    if block:
        at = checkpoint.size - len(block)
        raise Rejected(Reason.WRONG_ORDER, f"leaf {at}: no header ends the newest block")
    if report.state.checkpoint != checkpoint:
        raise Rejected(Reason.BAD_CHECKPOINT, "the leaves do not give the checkpoint's root")
    if since is not None and heads.get(since.size) != since.root:
        raise Rejected(
            Reason.BAD_CHECKPOINT,
            f"the first {since.size} leaves are not those seen before",
        )
    _check_upper_tiles(checkpoint.size, read)
    unknown = [at for at in named if at >= report.state.authority.sequence]
    if unknown:
        report.findings.append(
            f"this ledger does not hold the authority's records {', '.join(map(str, unknown))},"
            " which community.pub has"
        )
    return report


def _compare(begin: int, checked: Checked, named: Mapping[int, bytes]) -> None:
    """The authority's records known from outside are those of the ledger: an authority that tells
    two stories is found by whoever has heard the other."""
    for index, verdict in enumerate(checked.verdicts, begin):
        record = verdict.record
        sequence = record.body.sequence if isinstance(record.body, AuthorityRecord) else 0
        if sequence and named.get(sequence, record.identity) != record.identity:
            raise Rejected(
                Reason.FORK, f"leaf {index}: community.pub has another authority record {sequence}"
            )


def _leaves(size: int, read: Read) -> Iterator[tuple[int, bytes]]:
    """Every leaf with its index, each compared with its hash in the level-0 tiles."""
    for tile in tiles.tiles_of(None, 0, size):
        entries = tiles.read_entries(tile, read)
        hashes = tiles.read_tile(Tile(0, tile.index, tile.width), read)
        for offset, raw in enumerate(entries):
            index = tile.index * TILE_WIDTH + offset
            expected = hashes[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
            if leaf_hash(raw) != expected:
                raise Rejected(Reason.BAD_PROOF, f"leaf {index} is not the one its tile holds")
            yield index, raw


def _check_upper_tiles(size: int, read: Read) -> None:
    """The level-0 tiles are proven by the root; those above must follow from them."""
    for level in tiles.levels_of(size)[1:]:
        for tile in tiles.tiles_of(level, 0, size):
            children = range(tile.index * TILE_WIDTH, tile.index * TILE_WIDTH + tile.width)
            below = [tiles.read_tile(Tile(level - 1, child), read) for child in children]
            expected = b"".join(tiles.parent_hash(child) for child in below)
            if tiles.read_tile(tile, read) != expected:
                raise Rejected(Reason.BAD_PROOF, f"{tile.path} does not follow from those below")


def _note_block(report: Report, checked: Checked, header: Header, heads: dict[int, bytes]) -> None:
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
        if isinstance(body, Batch):
            place = "quarantined" if verdict.reason else "untransferred"
            report.energy_uwh["registered"] += verdict.energy_uwh
            report.energy_uwh[place] += verdict.energy_uwh
        elif isinstance(body, StepClose):
            report.energy_uwh["untransferred"] -= verdict.energy_uwh
            report.energy_uwh["waiting"] += verdict.energy_uwh
        if isinstance(body, StepClose) and body.checkpoint is not None:
            seen = body.checkpoint
            if heads.get(seen.size) != seen.root:
                report.findings.append(
                    f"{body.meter} was shown a ledger of {seen.size} leaves that is not this one"
                    f" (step {body.step})"
                )
    _check_conservation(report, checked, header.step)
    head = checked.state.checkpoint
    heads[head.size] = head.root


def _check_conservation(report: Report, checked: Checked, step: int) -> None:
    """Promise F, from two sides: the leaves' sum against the balance, and the balance in itself."""
    stated = asdict(checked.state.balance)
    registered = stated.pop("registered")
    moved = {name: report.energy_uwh[name] for name in stated}
    if registered != report.energy_uwh["registered"] or stated != moved:
        raise Rejected(Reason.WRONG_TOTALS, f"the leaves do not give the balance of step {step}")
    if sum(moved.values()) != registered:
        raise Rejected(Reason.WRONG_TOTALS, f"energy is not conserved at step {step}")
