"""The block of a step while its records come in: what it would be (`propose`), and what leaves come
to. The maker signs the header of it; `check_block` compares any header with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptometer.authority_records import AuthorityRecord, Genesis
from cryptometer.block_header import Flow, Header
from cryptometer.chain_records import ChainRecord
from cryptometer.distribution import continued, distribute
from cryptometer.energy_verdict import MeterAccount, Verdict
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import act, govern
from cryptometer.merkle import leaf_hash
from cryptometer.openings import Openings
from cryptometer.record_fields import ClockReading
from cryptometer.records import Record
from cryptometer.settlement import Settlement, Waiting, opened
from cryptometer.sharing_records import Distribution
from cryptometer.state import State

_NONE: Mapping[int, Rejected] = {}
_FIRST = (-1, "", 0)


@dataclass(frozen=True, slots=True)
class Slot:
    """When and under which clock a block is made.

    Attributes:
        step: the market step the block is for.
        sealed_ms: the maker's clock, ms since the Unix epoch.
        caught_up: made after a restart, later than its time.
    """

    step: int
    sealed_ms: int
    clock: ClockReading
    caught_up: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What leaves come to as the block of a step; a pure function of the first three.

    Attributes:
        before: the state after the block before.
        leaves: without the header.
        after: the state after them, its frontier not yet extended.
        flow, late, aside: as in `Header`.
        leaf_hashes: of the leaves, in the ledger's tree.
    """

    before: State
    step: int
    leaves: tuple[Record, ...]
    after: State
    verdicts: tuple[Verdict, ...]
    flow: Flow
    late: tuple[int, ...]
    aside: tuple[int, ...] | None
    leaf_hashes: tuple[bytes, ...]

    def header(self, slot: Slot) -> Header:
        """The header that states it; the maker signs it."""
        expected = [meter for meter in self.before.meters.values() if meter.expected_at(self.step)]
        heard = sum(
            1
            for meter in expected
            if (closed := self.after.meters[meter.name].closed_step) is not None
            and closed >= self.step
        )
        return Header(
            step=slot.step,
            previous=self.before.checkpoint,
            sealed_ms=slot.sealed_ms,
            clock=slot.clock,
            leaves=len(self.leaves),
            flow=self.flow,
            balance=self.after.balance,
            late=self.late,
            meters=(len(expected), heard),
            caught_up=slot.caught_up,
            aside=self.aside,
        )

    def is_of(self, before: State, step: int, leaves: Sequence[Record]) -> bool:
        """Whether it is what these very leaves come to, there."""
        return self.before is before and self.step == step and self.leaves == tuple(leaves)


class Proposal:
    """The block of a step while its leaves come in: each meter's are applied to a working copy of
    its account, in the order of its chain, whatever the other meters have sent by then. Used once,
    then thrown away."""

    def __init__(
        self,
        state: State,
        step: int,
        openings: Openings | None = None,
        *,
        is_private: bool = False,
    ) -> None:
        """
        Args:
            state: the community after the block before.
            step: the market step of the block.
            openings: of what members consumed, for whoever is given them.
            is_private: of the meters whose records stand in no ledger, instead of the others. What
                it comes to is no block, but their accounts after such a step.
        """
        self._is_private = is_private
        self._state = state
        self._openings = openings or {}
        self.step = step
        self._accounts: dict[str, MeterAccount] = {}

    def add(self, record: Record, body: ChainRecord) -> None:
        """Adds the next leaf of a meter.

        Raises:
            Rejected: it can not be in this block.
        """
        account = self._accounts.get(body.meter)
        if account is None:
            account = self._open(body.meter)
        account.add(record, body)

    def count(self, meter: str) -> int:
        """How many leaves it has of a meter."""
        account = self._accounts.get(meter)
        return 0 if account is None else len(account.verdicts)

    def settlements(self) -> dict[int, Settlement]:
        """The virtual power plant's accounts with all that closes have brought it so far, those
        left out of which nothing is expected any more."""
        # In order of steps. As one that has lost entries, dict() would copy it entry by entry.
        found = self._state.settlements.copy()
        newest = next(reversed(found), 0)
        brought: dict[int, list[Waiting]] = {}
        for name in sorted(self._accounts):
            for step, waiting in self._accounts[name].brought:
                brought.setdefault(step, []).append(waiting)
        is_ordered = all(step in found or step > newest for step in brought)
        for step, some in sorted(brought.items()):
            before = found.get(step) or opened(step)
            found[step] = replace(before, waiting=(*before.waiting, *some))
        if not is_ordered:
            found = dict(sorted(found.items()))
        self._forget(found)
        return found

    def _forget(self, settlements: dict[int, Settlement]) -> None:
        """Lets go of accounts of which nothing waits and nothing is expected any more."""
        oldest = self.step - self._state.genesis.late_steps
        over: list[int] = []
        for step, settlement in settlements.items():
            if step >= oldest:
                break
            if not settlement.waiting:
                over.append(step)
        for step in over:
            del settlements[step]

    def finish(
        self, authority: Sequence[Record] = (), distributions: Sequence[Record] = ()
    ) -> Applied:
        """What all of them come to, behind these records of the authority and before these of
        virtual power plants.

        Raises:
            Rejected: the authority's records are not the next of its chain, or a distribution not
                of its plant's.
        """
        accounts = [self._accounts[name] for name in sorted(self._accounts)]
        flow = _flow(accounts)
        before = self._state.balance
        settled = {name: account.settled() for name, account in self._accounts.items()}
        state = replace(
            self._state,
            step=self.step,
            meters={**self._state.meters, **settled},
            settlements=self.settlements(),
            balance=replace(
                before,
                registered=before.registered + flow.registered,
                untransferred=before.untransferred + flow.counted - flow.transferred,
                waiting=before.waiting + flow.transferred,
                quarantined=before.quarantined + flow.quarantined,
            ),
        )
        first = len(authority) + sum(map(self.count, self._accounts))
        for index, record in enumerate(distributions, first):
            try:
                state = continued(state, record)
            except Rejected as refused:
                raise _of_leaf(self._state, index, refused) from None
        state, judged = distribute(state, distributions, self._openings)
        verdicts: list[Verdict] = []
        hashes = [leaf_hash(record.raw) for record in authority]
        # Authority records act from the next block on, hence after everything else.
        for index, record in enumerate(authority):
            try:
                state = govern(state, record)
            except Rejected as refused:
                raise _of_leaf(self._state, index, refused) from None
            try:
                state = act(state, record)
            except Rejected as refused:
                verdicts.append(Verdict(record, refused.reason, 0))
            else:
                verdicts.append(Verdict(record, None, 0))
        for account in accounts:
            verdicts += account.verdicts
            hashes += account.leaf_hashes
        verdicts += [
            Verdict(record, one.reason, one.energy_uwh, one.rule)
            for record, one in zip(distributions, judged, strict=True)
        ]
        hashes += [leaf_hash(record.raw) for record in distributions]
        return Applied(
            self._state,
            self.step,
            tuple([verdict.record for verdict in verdicts]),
            state,
            tuple(verdicts),
            flow,
            (
                sum(one.late for one in accounts),
                max((one.late_steps for one in accounts), default=0),
            ),
            _runs(at for at, one in enumerate(judged, first) if one.reason is not None),
            tuple(hashes),
        )

    def _open(self, name: str) -> MeterAccount:
        meter = self._state.meters.get(name)
        if meter is None:
            raise Rejected(Reason.UNKNOWN_KEY, f"no meter {name} is registered")
        if meter.is_private is not self._is_private:
            raise Rejected(
                Reason.PRIVATE,
                f"a record of {name}, which is for {meter.terms[-1].use}: what members consume"
                " stands in no ledger, and in no account together with what does",
            )
        account = self._accounts[name] = MeterAccount(self._state, self.step, meter)
        return account


def _flow(accounts: Iterable[MeterAccount]) -> Flow:
    """What moved in these accounts together."""
    counted = quarantined = transferred = tokens = 0
    for account in accounts:
        some = account.moved()
        counted += some[0]
        quarantined += some[1]
        transferred += some[2]
        tokens += some[3]
    return Flow(counted + quarantined, counted, quarantined, transferred, tokens)


def _late(accounts: Sequence[MeterAccount]) -> tuple[int, int]:
    """How many of their leaves are of earlier steps, and the most steps one of them is late."""
    most = max((account.late_steps for account in accounts), default=0)
    return sum(account.late for account in accounts), most


def propose(state: State, leaves: Sequence[Record], slot: Slot) -> Header:
    """The header of the block that these leaves would make; the maker signs it.

    Raises:
        Rejected: a leaf can not be in this block.
    """
    return apply_leaves(state, slot.step, leaves).header(slot)


def apply_leaves(
    state: State,
    step: int,
    leaves: Iterable[Record],
    *,
    openings: Openings | None = None,
    faults: Mapping[int, Rejected] = _NONE,
) -> Applied:
    """What these leaves come to as the block of `step`, no signature of a device looked at.

    Args:
        openings: as for `Proposal`.
        faults: what is known to be wrong with some of the leaves, by their place.

    Raises:
        Rejected: a leaf can not be in this block: the first that can not, by its place in the
            ledger.
    """
    block = Proposal(state, step, openings)
    authority: list[Record] = []
    distributions: list[Record] = []
    last = _FIRST
    for index, record in enumerate(leaves):
        try:
            if index in faults:
                raise faults[index]
            place = _place(record)
            if place <= last:
                raise Rejected(Reason.WRONG_ORDER, "the leaves are not in the block's order")
            last = place
            body = record.body
            if isinstance(body, ChainRecord):
                block.add(record, body)
            elif isinstance(body, Distribution):
                distributions.append(record)
            else:
                authority.append(record)
        except Rejected as refused:
            raise _of_leaf(state, index, refused) from None
    return block.finish(authority, distributions)


def _runs(places: Iterable[int]) -> tuple[int, ...] | None:
    """Ascending numbers as runs, flat: the first of each, and how many; None of none."""
    runs: list[int] = []
    for place in places:
        if runs and place == runs[-2] + runs[-1]:
            runs[-1] += 1
        else:
            runs += [place, 1]
    return tuple(runs) or None


def _of_leaf(state: State, index: int, refused: Rejected) -> Rejected:
    at = state.frontier.size + index
    return Rejected(refused.reason, f"leaf {at}: {refused.detail}")


def _place(record: Record) -> tuple[int, str, int]:
    """Where a leaf stands in a block: authority, then each meter's chain, then each virtual power
    plant's, the header last."""
    body = record.body
    match body:
        case ChainRecord():
            return (1, body.meter, body.sequence)
        case Distribution():
            return (2, body.vpp, body.sequence)
        case Genesis():
            return (0, "", 0)
        case AuthorityRecord():
            return (0, "", body.sequence)
        case _:
            raise Rejected(Reason.WRONG_ORDER, f"no {body.KIND} stands inside a block")
