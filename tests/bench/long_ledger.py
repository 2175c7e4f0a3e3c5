"""A ledger of ten meters and twenty members over months, on a disk, made with the pieces of a
gateway; no block is held longer than until it is published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptometer import note
from cryptometer.block import Checked, check_block
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community
from cryptometer.proposal import Proposal
from cryptometer.records import Record
from cryptometer.sharing_records import Claim, Method
from cryptometer.state import State
from gateway.ledger import Ledger
from hal.files import DiskTree
from tests.bench.figures import Stopwatch
from tests.core.community import LOT_PULSES, Village

METERS = 10
MEMBERS = 20
LOTS = 20
STEPS_A_DAY = 96


@dataclass(frozen=True, slots=True)
class Made:
    """A ledger that was made.

    Attributes:
        community: whom to trust.
        state: after its newest block.
        size: bytes of its files.
        cpu_s: what it took the processor, signatures included.
    """

    community: Community
    state: State
    size: int
    cpu_s: float


def make(folder: Path, steps: int) -> Made:
    """Makes a ledger of so many steps, in which each meter sends a batch of 20 lots and a close,
    and its energy is shared by keys; published day by day."""
    watch = Stopwatch()
    village = Village(METERS)
    names = [f"member-{number}" for number in range(MEMBERS)]
    village.add_members(*names)
    village.block()
    village.agree(*(Claim(name, 1 + at, 0) for at, name in enumerate(names)), method=Method.KEYS)
    village.block()
    publisher = _Publisher(folder, village)
    for block, checked in zip(village.blocks, village.checked, strict=True):
        publisher.add(block, checked)
    for step in range(1, steps + 1):
        publisher.add(*_next_block(village))
        if step % STEPS_A_DAY == 0 or step == steps:
            publisher.publish()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Made(village.community(), village.state, size, watch.cpu_s)


class _Publisher:
    """What has been sealed and not been published yet."""

    def __init__(self, folder: Path, village: Village) -> None:
        self._ledger = Ledger(DiskTree(folder))
        self._village = village
        self._origin = village.community().origin
        self._size = 0
        self._leaves: list[bytes] = []
        self._hashes: list[bytes] = []

    def add(self, block: Sequence[Record], checked: Checked) -> None:
        self._leaves += [record.raw for record in block]
        self._hashes += checked.leaf_hashes

    def publish(self) -> None:
        head = self._village.state.checkpoint
        signed = note.sign_checkpoint(head, self._origin, self._village.gateway)
        self._ledger.publish(self._size, self._leaves, signed, self._hashes)
        self._size, self._leaves, self._hashes = head.size, [], []


def _next_block(village: Village) -> tuple[list[Record], Checked]:
    """The block of the village's next step: sealed, and checked as by a maker who has verified
    what devices sent as it came."""
    step = village.next_step
    proposal = Proposal(village.state, step)
    for device in village.devices:
        started = [device.run_start(step)] if device.sequence == 0 else []
        for record in [*started, *device.step(step, *[LOT_PULSES] * LOTS)]:
            assert isinstance(record.body, ChainRecord)
            proposal.add(record, record.body)
    waiting = {at: one for at, one in proposal.settlements().items() if one.waiting}
    applied = proposal.finish((), village.shares_of(waiting))
    block = village.seal(applied.leaves, applied.header(village.slot()))
    verified = {record.raw for record in applied.leaves}
    checked = check_block(village.state, block, verified=verified, applied=applied)
    village.state = checked.state
    return block, checked
