"""The store's twin in memory: the same behaviour, as long as its process lives."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from cryptometer.accuracy import Pair
from cryptometer.authority_records import Genesis
from cryptometer.chain_records import ChainRecord
from cryptometer.errors import Reason
from cryptometer.governing import found
from cryptometer.records import Record
from cryptometer.state import State
from gateway.store import (
    EVIDENCE_MAX,
    EVIDENCE_OF_ONE_MAX,
    BlockRow,
    Changes,
    Contact,
    Depths,
    NewBlock,
    Refusal,
    RefusalCount,
    StoreFailed,
    Tally,
    compared_of,
    distributions_of,
)


class MemoryStore:
    """A `Store` that keeps nothing beyond its process."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._state: State | None = None
        self._authority: list[bytes] = []
        self._pending: dict[tuple[str, int], Record] = {}
        self._leaves: dict[tuple[str, int], tuple[bytes, int]] = {}
        self._staged: dict[int, bytes] = {}
        self._blocks: dict[int, BlockRow] = {}
        self._refusals: dict[tuple[str, str], RefusalCount] = {}
        self._evidence: list[Refusal] = []
        self._contacts: dict[str, Contact] = {}
        self._tallies: dict[str, Tally] = {}
        self._compared: dict[str, list[Pair]] = {}
        self._set_aside: dict[int, Reason] = {}
        self._distributions: dict[int, list[int]] = {}
        self._is_private_damaged = False

    def commit(self, changes: Changes) -> None:
        # All that can refuse it is asked before the first write: all or none, and no copy.
        founded = self._check(changes)
        self._state = founded or self._state
        self._write(changes)

    def _check(self, changes: Changes) -> State | None:
        """What the changes' genesis founds, None if they hold none.

        Raises:
            StoreFailed: a place is taken, in a chain or of a step.
            Rejected: the genesis is none.
        """
        freed = {_place(record) for record in changes.dropped}
        taken = set(self._pending.keys() & {_place(one) for one in changes.accepted}) - freed
        for record in changes.accepted:
            if _place(record) in taken:
                raise StoreFailed(f"the place {_place(record)} is taken")
            taken.add(_place(record))
        if changes.block is not None:
            self._check_block(changes.block)
        founded = None
        for record in changes.authority:
            if isinstance(record.body, Genesis):
                founded = found(record)
        return founded

    def _check_block(self, block: NewBlock) -> None:
        if block.row.step in self._blocks:
            raise StoreFailed(f"the step {block.row.step} has its block")
        filed: set[tuple[str, int]] = set()
        for record in block.leaves:
            if isinstance(record.body, ChainRecord):
                if _place(record) in self._leaves or _place(record) in filed:
                    raise StoreFailed(f"the place {_place(record)} is taken")
                filed.add(_place(record))
                waits = self._pending.get(_place(record))
                if block.made_here and (waits is None or waits.raw != record.raw):
                    raise StoreFailed(f"the record at {_place(record)} does not wait here")

    def _write(self, changes: Changes) -> None:
        self._authority += [record.raw for record in changes.authority]
        if changes.is_private_damaged is not None:
            self._is_private_damaged = changes.is_private_damaged
        self.epoch += changes.takes_back or bool(changes.dropped)
        for record in changes.dropped:
            self._pending.pop(_place(record), None)
        for record in changes.accepted:
            self._pending[_place(record)] = record
        for refusal in changes.refusals:
            self._refuse(refusal)
        for contact in changes.contacts:
            self._contacts[contact.meter] = contact
        if changes.block is not None:
            self._add_block(changes.block)
        if changes.published is not None:
            for leaf in [one for one in self._staged if one < changes.published]:
                del self._staged[leaf]
        for step, punctuality_ms in changes.measured:
            if step in self._blocks:
                self._blocks[step] = replace(self._blocks[step], punctuality_ms=punctuality_ms)

    def is_private_damaged(self) -> bool:
        return self._is_private_damaged

    def state(self) -> State | None:
        return self._state

    def authority(self) -> list[bytes]:
        return list(self._authority)

    def pending(self) -> Iterable[bytes]:
        return [record.raw for _, record in sorted(self._pending.items())]

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        pending = self._pending.get((meter, sequence))
        if pending is not None:
            return pending.identity
        return self._leaves.get((meter, sequence), (None, 0))[0]

    def leaf_at(self, meter: str, sequence: int) -> int | None:
        found_at = self._leaves.get((meter, sequence))
        return None if found_at is None else found_at[1]

    def find(self, identity: bytes) -> tuple[str, int, int | None] | None:
        for (meter, sequence), (known, leaf) in self._leaves.items():
            if known == identity:
                return meter, sequence, leaf
        for (meter, sequence), record in self._pending.items():
            if record.identity == identity:
                return meter, sequence, None
        return None

    def distributions(self, step: int) -> list[int]:
        return list(self._distributions.get(step, ()))

    def compared(self, meter: str, newest: int) -> list[Pair]:
        return self._compared.get(meter, [])[-newest:]

    def verdict(self, leaf: int) -> Reason | None:
        return self._set_aside.get(leaf)

    def set_aside(self) -> dict[str, int]:
        return dict(sorted(Counter(self._set_aside.values()).items()))

    def depths(self) -> Depths:
        return Depths(len(self._pending), len(self._staged), len(self._evidence))

    def staged(self) -> list[tuple[int, bytes]]:
        return sorted(self._staged.items())

    def blocks(self, newest: int) -> list[BlockRow]:
        return [self._blocks[step] for step in sorted(self._blocks, reverse=True)[:newest]]

    def block(self, step: int) -> BlockRow | None:
        return self._blocks.get(step)

    def block_of(self, leaf: int) -> BlockRow:
        for step in sorted(self._blocks):
            if leaf < self._blocks[step].size:
                return self._blocks[step]
        raise LookupError(f"no block holds leaf {leaf}")

    def refusals(self) -> list[RefusalCount]:
        return [self._refusals[key] for key in sorted(self._refusals)]

    def evidence(self) -> list[Refusal]:
        return list(self._evidence)

    def contacts(self) -> list[Contact]:
        return [self._contacts[name] for name in sorted(self._contacts)]

    def tallies(self) -> list[Tally]:
        return [self._tallies[name] for name in sorted(self._tallies)]

    def _refuse(self, refusal: Refusal) -> None:
        key = (refusal.meter, refusal.reason.value)
        before = self._refusals.get(key)
        count = 1 if before is None else before.count + 1
        self._refusals[key] = RefusalCount(*key, count, refusal.at_ms, refusal.detail)
        if refusal.raw is None or refusal.raw in [one.raw for one in self._evidence]:
            return
        of_one = sum(one.meter == refusal.meter for one in self._evidence)
        if of_one < EVIDENCE_OF_ONE_MAX and len(self._evidence) < EVIDENCE_MAX:
            self._evidence.append(refusal)

    def _add_block(self, block: NewBlock) -> None:
        for offset, record in enumerate(block.leaves):
            self._staged[block.row.first + offset] = record.raw
            if isinstance(record.body, ChainRecord):
                self._pending.pop(_place(record), None)
                self._leaves[_place(record)] = (record.identity, block.row.first + offset)
        for pair in compared_of(block):
            self._compared.setdefault(pair.meter, []).append(pair)
        for tally in block.tallies:
            before = self._tallies.get(tally.meter)
            self._tallies[tally.meter] = tally if before is None else _added(before, tally)
        for step, leaf in distributions_of(block):
            self._distributions.setdefault(step, []).append(leaf)
        self._set_aside.update(block.set_aside)
        self._state = block.state
        self._blocks[block.row.step] = block.row


def _added(before: Tally, tally: Tally) -> Tally:
    return Tally(
        tally.meter,
        before.closes + tally.closes,
        tally.first_step if before.first_step is None else before.first_step,
        before.late + tally.late,
        before.quarantined + tally.quarantined,
    )


def _place(record: Record) -> tuple[str, int]:
    body = record.body
    assert isinstance(body, ChainRecord)  # noqa: S101 - the gateway's own filing
    return body.meter, body.sequence
