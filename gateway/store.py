"""What a gateway keeps, behind one interface that states its guarantees.

One writer. `commit` takes a whole `Changes` value: after it returns all of it is durable, and
after a crash either all or none of it is there. A commit that fails ends the program: recovery
decides, nothing is tried again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptometer.accuracy import Pair, pair_of
from cryptometer.errors import Reason
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution
from cryptometer.state import State

# Records kept as evidence: enough to show a fork, too few to fill a disk; and of one meter, so that
# none crowds out what another has signed.
EVIDENCE_MAX = 1_000
EVIDENCE_OF_ONE_MAX = 20


class SearchTooLong(Exception):  # noqa: N818 - an answer, not a failure
    """A record was not found by its identity in the time allowed; it may be there."""


class StoreFailed(OSError):  # noqa: N818 - the machine failed; said as every failed write is
    """A commit failed: all of it or nothing is stored, and the next start will know. Stop."""


class StoreDamaged(StoreFailed):
    """What a file holds is not what was written there: starting again mends nothing."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that were refused: counted by meter and reason, the newest detail kept.

    Attributes:
        meter: from the topic, "" where that names no registered meter.
        raw: kept as evidence where a registered key has signed it, else None.
    """

    meter: str
    reason: Reason
    detail: str
    at_ms: int
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block as `status` shows it.

    Attributes:
        first: index of its first leaf.
        size: of the tree with it.
        note: the signed checkpoint.
        punctuality_ms: community time from the later of step end and last close received to the
            published checkpoint; None where it was not measured (caught up, or not yet published).
    """

    step: int
    first: int
    size: int
    sealed_ms: int
    records: int
    late: int
    expected: int
    heard: int
    caught_up: bool
    note: str
    punctuality_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What blocks held of one meter: one block's share when committed, the sum when read.

    Attributes:
        closes: steps closed that counted.
        first_step: the first of them; with `closes` and the newest it gives the gaps.
        late: records whose step had its block already.
        quarantined: records whose energy was set aside.
    """

    meter: str
    closes: int
    first_step: int | None
    late: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block to be committed.

    Attributes:
        tallies: of the meters that have records in it.
        state: the community after it.
        meters: names of the meters whose state it changed.
        settlements: steps whose settlement it changed, or let go.
        leaves: its records, header last, in the ledger's order. Those of meters leave the pending
            ones.
        made_here: every leaf of a meter is pending here, with just these bytes. A block brought
            forward from the ledger's files holds some that never waited.
        set_aside: the leaves that have no effect, each with the reason.
    """

    row: BlockRow
    state: State
    meters: frozenset[str]
    settlements: frozenset[int]
    leaves: tuple[Record, ...]
    tallies: tuple[Tally, ...]
    set_aside: tuple[tuple[int, Reason], ...] = ()
    made_here: bool = True


def compared_of(block: NewBlock) -> list[Pair]:
    """What second sources say in a block, where it is not set aside."""
    aside = {leaf for leaf, _ in block.set_aside}
    pairs = (
        pair_of(record)
        for leaf, record in enumerate(block.leaves, block.row.first)
        if leaf not in aside
    )
    return [one for one in pairs if one is not None]


def distributions_of(block: NewBlock) -> list[tuple[int, int]]:
    """The distributions in a block: the step of each, and its leaf."""
    return [
        (record.body.step, leaf)
        for leaf, record in enumerate(block.leaves, block.row.first)
        if isinstance(record.body, Distribution)
    ]


@dataclass(frozen=True, slots=True)
class Depths:
    """How much waits in a store.

    Attributes:
        pending: device records that no block holds yet.
        staged: leaves whose static files may not be durable yet.
        evidence: refused records that are kept.
    """

    pending: int
    staged: int
    evidence: int


@dataclass(frozen=True, slots=True)
class Contact:
    """When and in which clock state a meter was last heard."""

    meter: str
    at_ms: int
    step: int
    clock_state: str
    clock_error_ms: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit writes, all or none.

    Attributes:
        accepted: records that passed the chain verdict, in order of arrival.
        authority: authority records imported.
        dropped: pending records that can no longer become leaves; they are refusals, too. They were
            acknowledged, and a new epoch takes that word back.
        published: size of the tree whose static files are durable: older staged leaves may go.
        measured: punctuality of blocks, by step, in ms.
        takes_back: as for `dropped`, of records that wait in the private store.
        is_private_damaged: whether the gateway works without its private store; None where that
            is as before.
    """

    accepted: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    contacts: tuple[Contact, ...] = ()
    dropped: tuple[Record, ...] = ()
    block: NewBlock | None = None
    published: int | None = None
    measured: tuple[tuple[int, int], ...] = ()
    takes_back: bool = False
    is_private_damaged: bool | None = None

    @property
    def is_empty(self) -> bool:
        return self == Changes()


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How often a meter's bytes were refused for a reason."""

    meter: str
    reason: str
    count: int
    last_ms: int
    detail: str


class Store(Protocol):
    """The gateway's private state. Reads see everything committed."""

    @property
    def epoch(self) -> int:
        """Grows when the store was restored from a backup, and with what is dropped: devices may
        be told less than before, and send it again if the authority lets them."""
        ...

    def commit(self, changes: Changes) -> None:
        """Writes `changes`: durable and whole once it returns. `dropped` makes room before
        `accepted` is filed: a place in a chain is taken once.

        Raises:
            StoreFailed: the program stops; all of it or nothing is stored.
        """
        ...

    def is_private_damaged(self) -> bool:
        """Whether the gateway works without its private store, which is damaged."""
        ...

    def state(self) -> State | None:
        """The community after the newest block; before the first, as its genesis founds it."""
        ...

    def authority(self) -> list[bytes]:
        """Every authority record imported, in order, those in blocks included."""
        ...

    def pending(self) -> Iterable[bytes]:
        """Accepted device records that no block holds yet, by meter and sequence."""
        ...

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        """Identity of a meter's record, pending or in a block."""
        ...

    def leaf_at(self, meter: str, sequence: int) -> int | None:
        """The leaf that holds a meter's record, None while it is pending or unknown."""
        ...

    def find(self, identity: bytes) -> tuple[str, int, int | None] | None:
        """Meter, sequence and leaf of a record by its identity.

        Raises:
            SearchTooLong: not found in the time that this store was opened with.
        """
        ...

    def distributions(self, step: int) -> list[int]:
        """The leaves that hold distributions of a step's energy, those without effect included."""
        ...

    def compared(self, meter: str, newest: int) -> list[Pair]:
        """The newest so many words of a meter's second source in blocks, in order."""
        ...

    def verdict(self, leaf: int) -> Reason | None:
        """Why a leaf has no effect; None where it counts or acts.

        Raises:
            LookupError: its block was made before stores kept verdicts.
        """
        ...

    def set_aside(self) -> dict[str, int]:
        """The number of leaves without effect, by reason."""
        ...

    def depths(self) -> Depths:
        """How much waits."""
        ...

    def staged(self) -> list[tuple[int, bytes]]:
        """Leaves of committed blocks whose static files may not be durable yet, in order."""
        ...

    def blocks(self, newest: int) -> list[BlockRow]:
        """The newest blocks, latest first."""
        ...

    def block(self, step: int) -> BlockRow | None:
        """The block of a step."""
        ...

    def block_of(self, leaf: int) -> BlockRow:
        """The block that holds a leaf.

        Raises:
            LookupError: none does.
        """
        ...

    def refusals(self) -> list[RefusalCount]:
        """All refusals, by meter and reason."""
        ...

    def evidence(self) -> list[Refusal]:
        """Refused records that a registered key has signed, each once, oldest first: at most
        EVIDENCE_OF_ONE_MAX of a meter, at most EVIDENCE_MAX of all."""
        ...

    def contacts(self) -> list[Contact]:
        """The newest contact with each meter, by meter."""
        ...

    def tallies(self) -> list[Tally]:
        """What all blocks held of each meter, by meter."""
        ...
