"""What the web side answers about blocks and records, as values that JSON holds. Reads only.

Energies are texts of decimal digits, in µWh: they may pass 2^53, where many readers of JSON lose
digits. All other numbers are numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from fractions import Fraction
from typing import TypeAlias

from cryptometer import cose, records
from cryptometer.accuracy import Comparison, Total, total
from cryptometer.block_header import Balance, Flow, Header
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.readable import describe_record, utc
from cryptometer.record_fields import Checkpoint
from cryptometer.steps import step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH, TILE_WIDTH, Read, Tile, read_entries
from gateway.prove import find_record
from gateway.report import comparisons_of
from gateway.shares_report import SharedReport, member_reports, newest_shared, waiting_steps
from gateway.store import BlockRow, Store

Json: TypeAlias = "str | int | bool | list[Json] | dict[str, Json] | None"

NEWEST = 96  # blocks listed unless asked otherwise: a day of quarter hours
NEWEST_MAX = 1_000
# A block's kinds are counted up to so many leaves and bytes: 1,000 meters with 20 records each are
# a third of a second's work.
COUNTED_LEAVES_MAX = 20_000
COUNTED_BYTES_MAX = 2**25
_PLACE_MAX = 63 + 1 + 19  # letters of a name, and of a sequence number


class Absent(Exception):  # noqa: N818 - an answer, not a failure
    """There is no such thing here; the message says what there is."""


class Waiting(Absent):
    """It is known, and not published yet."""


@dataclass(frozen=True, slots=True)
class Site:
    """What answers are made from: one moment of a store, and the ledger's files.

    Attributes:
        checkpoint: the published one, None before the first block.
    """

    store: Store
    read: Read
    community: Community
    checkpoint: Checkpoint | None

    @property
    def size(self) -> int:
        """The number of leaves whose files are there."""
        return 0 if self.checkpoint is None else self.checkpoint.size

    def leaf(self, index: int) -> bytes:
        """A published leaf.

        Raises:
            Rejected: the ledger's files are damaged.
        """
        tile = self._bundle(index // TILE_WIDTH)
        return read_entries(tile, self.read)[index % TILE_WIDTH]

    def leaves(self, begin: int, end: int) -> Iterator[bytes]:
        """Published leaves, one bundle at a time."""
        for index in range(begin // TILE_WIDTH, -(-end // TILE_WIDTH)):
            first = index * TILE_WIDTH
            entries = read_entries(self._bundle(index), self.read)
            yield from entries[max(0, begin - first) : end - first]

    def _bundle(self, index: int) -> Tile:
        return Tile(None, index, min(TILE_WIDTH, self.size - index * TILE_WIDTH))


Kinds: TypeAlias = dict[str, Json] | None
Count: TypeAlias = Callable[[Site, BlockRow], Kinds]


def open_site(store: Store, read: Read, community: Community) -> Site:
    """The site as it is at this moment.

    Raises:
        Rejected: the published checkpoint is not one.
    """
    signed = read(CHECKPOINT_PATH)
    # Whoever had signed it before his key was revoked: it is our own folder.
    checkpoint = None if signed is None else community.open_checkpoint(signed, revoked=True)
    return Site(store, read, community, checkpoint)


def blocks(site: Site, newest: int) -> Json:
    """The newest blocks, latest first, as the store lists them."""
    return {"blocks": [_row(row, site.community) for row in site.store.blocks(newest)]}


def sharing(site: Site) -> Json:
    """Where all energy is, what waits at the virtual power plant and for what, the newest step that
    was shared, and the members' accounts. All of it follows from the ledger: what members consumed
    is neither asked nor told.

    Raises:
        Absent: there is no block yet.
    """
    state = site.store.state()
    if state is None:
        raise Absent("there is no block yet")
    shared = newest_shared(state)
    return {
        "step": state.step,
        "balance_uwh": _energies(state.balance),
        "shared": None if shared is None else _with_texts(shared),
        "waiting": [
            {
                "step": one.step,
                "energy_uwh": str(one.energy_uwh),
                "asks": [lack.cause.value for lack in one.lacks],
            }
            for one in waiting_steps(state, None)
        ],
        "members": [
            {"name": one.name, "energy_uwh": str(one.energy_uwh), "revoked": one.revoked}
            for one in member_reports(state)
        ],
    }


def block(site: Site, step: int, count: Count | None = None) -> dict[str, Json]:
    """The block of a step: what its header says, and its records by kind.

    Args:
        count: counts the kinds in place of `kinds`: who has counted them before need not again.

    Raises:
        Absent: it has none, or it is not published yet.
        Rejected: the ledger's files are damaged.
    """
    row = site.store.block(step)
    if row is None:
        raise Absent(f"there is no block of step {step} here; /blocks lists those that there are")
    if row.size > site.size:
        raise Waiting(f"the block of step {step} is just being published; ask again")
    record = records.decode(site.leaf(row.size - 1))
    header = record.body
    if not isinstance(header, Header):
        raise Rejected(Reason.WRONG_ORDER, f"leaf {row.size - 1} is no header")
    return {
        **_row(row, site.community),
        "header": record.identity.hex(),
        "maker": record.key_id.hex(),
        "clock": _json(header.clock),
        "late_steps_max": header.late[1],
        "previous": {"size": header.previous.size, "root": header.previous.root.hex()},
        "flow_uwh": _energies(header.flow),
        "balance_uwh": _energies(header.balance),
        "tokens": header.flow.tokens,
        "kinds": (count or kinds)(site, row),
        "checkpoint": row.note or None,
    }


def comparisons(site: Site, meter: str, newest: int) -> Json:
    """What was counted of a meter against what its second source says, latest first.

    Raises:
        Absent: there is no such meter.
    """
    state = site.store.state()
    if state is None or meter not in state.meters:
        raise Absent("no meter has this name; the authority's registrations name those there are")
    found = comparisons_of(site.store, meter, newest)
    step_s = site.community.parameters.step_s
    return {
        "meter": meter,
        "total": None if not found else _total(total(found)),
        "comparisons": [_comparison(one, step_s) for one in reversed(found)],
    }


def _comparison(one: Comparison, step_s: int) -> dict[str, Json]:
    return {
        "step": one.step,
        "since_step": one.since_step,
        "ends": utc(step_start_ms(one.step + 1, step_s)),
        "since_ms": one.since_ms,
        "at_ms": one.at_ms,
        "source": one.source,
        "counted_uwh": str(one.counted_uwh),
        "index_uwh": str(one.index_uwh),
        "difference_uwh": str(one.difference_uwh),
        "difference_ppm": one.difference_ppm,
        "bound_uwh": str(one.bound_uwh),
        "mpe_ppm": one.mpe_ppm,
        "within": one.is_within,
    }


def _total(whole: Total) -> dict[str, Json]:
    return {
        "comparisons": whole.comparisons,
        "outside": whole.outside,
        "counted_uwh": str(whole.counted_uwh),
        "index_uwh": str(whole.index_uwh),
        "difference_uwh": str(whole.difference_uwh),
        "difference_ppm": whole.difference_ppm,
        "bound_uwh": str(whole.bound_uwh),
        "allowed_uwh": str(whole.allowed_uwh),
        "within": whole.is_within,
    }


def record_place(site: Site, what: str) -> tuple[str, int, int]:
    """Where a record stands: its meter, sequence number and leaf.

    Args:
        what: METER/SEQUENCE, or the record's identity as 64 hex digits.

    Raises:
        Absent: it is nowhere, or in no block yet.
        SearchTooLong: by its identity it was not found in time.
    """
    if len(what) > _PLACE_MAX:
        raise Absent("no meter has such a name, and no identity is so long")
    try:
        found = find_record(what, site.store)
    except ValueError as error:
        raise Absent(str(error)) from None
    if found is None:
        raise Absent(f"there is no record {what} here; a meter's next number stands in its status")
    meter, sequence, leaf = found
    if leaf is None or leaf >= site.size:
        raise Waiting(f"{what} waits for its block; ask again after the step's end")
    return meter, sequence, leaf


def record(site: Site, what: str) -> dict[str, Json]:
    """A meter's record in the ledger: what it says, its verdict, its block.

    Raises:
        Absent, SearchTooLong: as `record_place`.
        Rejected: the ledger's files are damaged.
    """
    meter, sequence, leaf = record_place(site, what)
    found = records.decode(site.leaf(leaf))
    step_s = site.community.parameters.step_s
    return {
        "meter": meter,
        "sequence": sequence,
        "identity": found.identity.hex(),
        "kind": found.body.KIND.value,
        "leaf": leaf,
        "block_step": _step_of(site, leaf),
        "verdict": _verdict(site.store, leaf),
        "signed_by": found.key_id.hex(),
        "bytes": len(found.raw),
        "says": _json(found.body),
        "readable": list(describe_record(found, step_s)),
    }


def record_bytes(site: Site, what: str) -> bytes:
    """A meter's record as it was signed; raises like `record`."""
    return site.leaf(record_place(site, what)[2])


def _row(row: BlockRow, community: Community) -> dict[str, Json]:
    step_s = community.parameters.step_s
    return {
        "step": row.step,
        "begins": utc(step_start_ms(row.step, step_s)),
        "ends": utc(step_start_ms(row.step + 1, step_s)),
        "first_leaf": row.first,
        "size": row.size,
        "sealed_ms": row.sealed_ms,
        "records": row.records,
        "late": row.late,
        "meters": {"expected": row.expected, "heard": row.heard},
        "caught_up": row.caught_up,
        "punctuality_ms": row.punctuality_ms,
    }


def kinds(site: Site, row: BlockRow) -> Kinds:
    """Leaves by kind; None where there are more of them than are counted."""
    if row.size - row.first > COUNTED_LEAVES_MAX:
        return None
    found: Counter[str] = Counter()
    room = COUNTED_BYTES_MAX
    for raw in site.leaves(row.first, row.size):
        room -= len(raw)
        if room < 0:
            return None
        found[cose.open_seal(raw).header.kind] += 1
    return dict(sorted(found.items()))


def _step_of(site: Site, leaf: int) -> int:
    """The step of the block that holds a leaf: there is one for each step."""
    low, high = site.community.parameters.first_step, site.store.blocks(1)[0].step
    while low < high:
        middle = (low + high) // 2
        row = site.store.block(middle)
        if row is not None and leaf < row.size:
            high = middle
        else:
            low = middle + 1
    return low


def _verdict(store: Store, leaf: int) -> dict[str, Json] | None:
    try:
        reason = store.verdict(leaf)
    except LookupError:
        return None
    if reason is None:
        return {"counted": True}
    return {"counted": False, "reason": reason.value}


def _energies(amounts: Flow | Balance) -> dict[str, Json]:
    return {name: str(value) for name, value in asdict(amounts).items() if name != "tokens"}


def _with_texts(shared: SharedReport) -> dict[str, Json]:
    return {
        name: str(value) if name.endswith("_uwh") else value
        for name, value in asdict(shared).items()
    }


def _json(value: object) -> Json:
    """A record's values as JSON: bytes in hex, fractions as a/b, a key by its thumbprint."""
    match value:
        case PublicKey():
            return value.thumbprint.hex()
        case bytes():
            return value.hex()
        case Enum():
            return str(value.value)
        case bool() | int() | str() | None:
            return value
        case Fraction():
            return f"{value.numerator}/{value.denominator}"
        case tuple() | list():
            return [_json(one) for one in value]
        case Mapping():
            return {str(name): _json(one) for name, one in value.items()}
        case _ if is_dataclass(value):
            return {
                part.name: _json(inner)
                for part in fields(value)
                if (inner := getattr(value, part.name)) is not None
            }
        case _:
            raise TypeError(f"{type(value).__name__} has no place in an answer")
