"""What the store keeps of a block beside its leaves; the same for a block made and for one brought
forward from the ledger's files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptometer.authority_records import ReAnchor, Registration, Revocation
from cryptometer.block import Checked
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord, StepClose
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.state import State
from gateway.store import BlockRow, NewBlock, Tally


def file_block(
    before: State, checked: Checked, block: Sequence[Record], signed: str, *, made_here: bool = True
) -> NewBlock:
    """A block as the store takes it.

    Args:
        before: the community before it.
        checked: what `check_block` made of it.
        block: its leaves, header last.
        signed: the checkpoint of the tree with it; "" where it is not known any more.
        made_here: of what waits in this very store.
    """
    after = checked.state.meters
    changed = frozenset(name for name in after if after[name] is not before.meters.get(name))
    settled, settlements = before.settlements, checked.state.settlements
    moved = frozenset(
        step
        for step in settled.keys() | settlements.keys()
        if settlements.get(step) is not settled.get(step)
    )
    row = _block_row(before, checked, signed)
    set_aside = tuple(
        (leaf, verdict.reason)
        for leaf, verdict in enumerate(checked.verdicts, row.first)
        if verdict.reason is not None
    )
    tallies = tally(checked, row.step)
    return NewBlock(row, checked.state, changed, moved, tuple(block), tallies, set_aside, made_here)


def tally(checked: Checked, step: int) -> tuple[Tally, ...]:
    """What the block of `step` holds of each meter."""
    found: dict[str, _Sums] = {}
    name, sums = "", _Sums()
    for verdict in checked.verdicts:
        body = verdict.record.body
        if not isinstance(body, ChainRecord):
            continue
        if body.meter != name:  # those of a meter stand together
            name = body.meter
            sums = found[name] = _Sums()
        sums.late += body.step < step
        if verdict.reason is not None:
            sums.quarantined += 1
        elif isinstance(body, StepClose):
            sums.closes += 1
            if sums.first_step is None:
                sums.first_step = body.step
    return tuple(
        Tally(name, sums.closes, sums.first_step, sums.late, sums.quarantined)
        for name, sums in found.items()
    )


@dataclass(slots=True)
class _Sums:
    """A `Tally` while it is counted."""

    closes: int = 0
    first_step: int | None = None
    late: int = 0
    quarantined: int = 0


def meter_of(record: Record) -> str:
    """The meter a record is of or about, "" if none."""
    match record.body:
        case Registration(role=Role.METER, name=name) | Revocation(role=Role.METER, name=name):
            return name
        case ReAnchor(meter=name) | ChainRecord(meter=name):
            return name
        case _:
            return ""


def _block_row(before: State, checked: Checked, signed: str) -> BlockRow:
    header = checked.header.body
    assert isinstance(header, Header)  # noqa: S101 - checked by `check_block`
    return BlockRow(
        step=header.step,
        first=before.frontier.size,
        size=checked.state.frontier.size,
        sealed_ms=header.sealed_ms,
        records=header.leaves,
        late=header.late[0],
        expected=header.meters[0],
        heard=header.meters[1],
        caught_up=header.caught_up,
        note=signed,
    )
