"""Making and checking one block: propose (what would the block be), check_block (the same pure
function for maker, node and auditor, depending on nothing private), commit (the caller's).

The energy verdict is taken here, against the state after the previous block: counted, or
quarantined with a reason. It never stops a chain.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer import cose, records
from cryptometer.chain import follow
from cryptometer.distribution import continued, distribute, distributor
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.merkle import leaf_hash
from cryptometer.records import (
    Batch,
    ChainRecord,
    ClockReading,
    Distribution,
    Flow,
    Genesis,
    Header,
    Mark,
    Reading,
    Record,
    Role,
    StepClose,
    Use,
)
from cryptometer.settlement import Openings, Rule, Settlement, Waiting, opened
from cryptometer.state import Meter, State, act, govern
from cryptometer.steps import FUTURE_STEPS, MS_PER_S, step_start_ms


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
class Verdict:
    """The energy verdict on one leaf: `reason` is None where it counts, or where an authority
    record acts; otherwise it stands without effect. `rule`: of a distribution that counts, whether
    the agreement gives what it says, as far as the checker can know."""

    record: Record
    reason: Reason | None
    energy_uwh: int
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What leaves come to as the block of a step; a pure function of the first three.

    Attributes:
        before: the state after the block before.
        leaves: without the header.
        after: the state after them, its frontier not yet extended.
        flow: the fields of `Flow`.
        late: the field of `Header`.
        leaf_hashes: of the leaves, in the ledger's tree.
    """

    before: State
    step: int
    leaves: tuple[Record, ...]
    after: State
    verdicts: tuple[Verdict, ...]
    flow: tuple[int, ...]
    late: tuple[int, ...]
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
            flow=Flow(*self.flow),
            balance=self.after.balance,
            late=self.late,
            meters=(len(expected), heard),
            caught_up=slot.caught_up,
        )

    def is_of(self, before: State, step: int, leaves: Sequence[Record]) -> bool:
        """Whether it is what these very leaves come to, there."""
        return self.before is before and self.step == step and self.leaves == tuple(leaves)


@dataclass(frozen=True, slots=True)
class Checked:
    """A block that holds.

    Attributes:
        state: the community after it.
        verdicts: on each leaf before the header.
        leaf_hashes: of every leaf, header last.
    """

    state: State
    header: Record
    verdicts: tuple[Verdict, ...]
    leaf_hashes: tuple[bytes, ...]


def propose(state: State, leaves: Sequence[Record], slot: Slot) -> Header:
    """The header of the block that these leaves would make; the maker signs it.

    Raises:
        Rejected: a leaf can not be in this block.
    """
    return apply_leaves(state, slot.step, leaves).header(slot)


def apply_leaves(state: State, step: int, leaves: Iterable[Record]) -> Applied:
    """What these leaves come to as the block of `step`, no signature of a device looked at.

    Raises:
        Rejected: a leaf can not be in this block.
    """
    block = _Ordered(state, step)
    for record in leaves:
        block.add(record)
    return block.finish()


def check_block(
    state: State,
    leaves: Sequence[Record],
    *,
    verified: Container[bytes] = (),
    applied: Applied | None = None,
    openings: Openings | None = None,
) -> Checked:
    """Checks a whole block, its header last, against the state after the block before.

    Args:
        state: the community after the previous block.
        leaves: every leaf, in the ledger's order.
        verified: device records, as bytes, whose signature the caller has itself verified with the
            key they name. Whether that key may speak for the meter is looked at here in any case.
        applied: what `apply_leaves` made of these leaves in this state, if the caller has it; of
            any others it is not believed, and they are applied here.
        openings: as for `Proposal`; they change no verdict but that on a rule.

    Raises:
        Rejected: the first thing that is wrong, naming the leaf; the ledger must not go on so.
    """
    if not leaves or not isinstance(leaves[-1].body, Header):
        raise Rejected(Reason.WRONG_ORDER, "a block ends with its header")
    *content, last = leaves
    header = leaves[-1].body
    # All signatures in one go: between other work each takes longer, by the processor's cache.
    faults = _faults(state, content, verified)
    if applied is None or not applied.is_of(state, header.step, content):
        applied = _apply_faultless(state, header.step, content, faults, openings)
    elif faults:
        index, fault = min(faults.items())
        raise _of_leaf(state, index, fault)
    try:
        _check_header(applied, last, header)
    except Rejected as refused:
        raise Rejected(refused.reason, f"header of step {header.step}: {refused.detail}") from None
    hashes = (*applied.leaf_hashes, leaf_hash(last.raw))
    after = replace(applied.after, frontier=state.frontier.extended(hashes))
    return Checked(after, last, applied.verdicts, hashes)


def _apply_faultless(
    state: State,
    step: int,
    leaves: Sequence[Record],
    faults: Mapping[int, Rejected],
    openings: Openings | None,
) -> Applied:
    """As `apply_leaves`, for leaves of which some have a fault: the first thing that is wrong."""
    block = _Ordered(state, step, openings)
    for index, record in enumerate(leaves):
        try:
            if index in faults:
                raise faults[index]
            block.add(record)
        except Rejected as refused:
            raise _of_leaf(state, index, refused) from None
    return block.finish()


def _of_leaf(state: State, index: int, refused: Rejected) -> Rejected:
    at = state.frontier.size + index
    return Rejected(refused.reason, f"leaf {at}: {refused.detail}")


def _faults(
    state: State, leaves: Sequence[Record], verified: Container[bytes]
) -> dict[int, Rejected]:
    """What keeps records of devices from being their meters', whatever block they stand in; by
    their place."""
    faults: dict[int, Rejected] = {}
    header: cose.Header | None = None  # those of one meter stand together, and share them
    name = ""
    key: PublicKey | None = None
    for index, record in enumerate(leaves):
        body, envelope = record.body, record.envelope
        if isinstance(body, Distribution):
            try:
                party = distributor(state, record, body)
                if envelope.raw not in verified:
                    envelope.verify(party.key)
            except Rejected as refused:
                faults[index] = refused
        if not isinstance(body, ChainRecord):
            continue
        try:
            if key is None or envelope.header is not header or body.meter != name:
                key, header, name = None, envelope.header, body.meter
                key = _speaker(state, record.community, record.key_id, name)
            if envelope.raw not in verified:
                envelope.verify(key)
        except Rejected as refused:
            faults[index] = refused
    return faults


def _speaker(state: State, community: bytes, key_id: bytes, name: str) -> PublicKey:
    """The key with this id, if it may speak for the meter of this name."""
    if community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    meter = state.meter_of(key_id)
    if meter.name != name:
        raise Rejected(Reason.WRONG_ROLE, f"the key of {meter.name} does not speak for others")
    return meter.signed_by(key_id).key


def _check_header(applied: Applied, record: Record, header: Header) -> None:
    state, after = applied.before, applied.after
    if record.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a header of another community")
    # The first block's maker is registered by that block itself; later ones by an earlier block.
    makers = after if state.frontier.size == 0 else state
    maker = makers.party_of(record.key_id, Role.GATEWAY)
    record.envelope.verify(maker.key)
    if header.step != state.step + 1:
        raise Rejected(Reason.WRONG_STEP, f"the block before is of step {state.step}")
    if header.previous != state.checkpoint:
        raise Rejected(Reason.WRONG_PREVIOUS, "it names another tree as the one before")
    if header.sealed_ms < step_start_ms(header.step + 1, state.genesis.step_s):
        raise Rejected(Reason.WRONG_STEP, "sealed before its step had ended")
    slot = Slot(header.step, header.sealed_ms, header.clock, header.caught_up)
    expected = applied.header(slot)
    if header != expected:
        wrong = [
            name
            for name in ("leaves", "flow", "balance", "late", "meters")
            if getattr(header, name) != getattr(expected, name)
        ]
        raise Rejected(
            Reason.WRONG_TOTALS,
            f"{', '.join(wrong)}: "
            + "; ".join(
                f"{getattr(header, w)} recomputed as {getattr(expected, w)}" for w in wrong
            ),
        )


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
        self._step_ms = state.genesis.step_s * MS_PER_S
        self._accounts: dict[str, _Account] = {}
        self._flow = [0, 0, 0, 0, 0]
        self._late = [0, 0]

    def count(self, meter: str) -> int:
        """How many leaves it has of a meter."""
        account = self._accounts.get(meter)
        return 0 if account is None else len(account.verdicts)

    def settlements(self) -> dict[int, Settlement]:
        """The virtual power plant's accounts with all that closes have brought it so far, those
        left out of which nothing is expected any more."""
        found = dict(self._state.settlements)  # in order of steps
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
        registered, counted, quarantined, transferred, _ = self._flow
        before = self._state.balance
        settled = {name: account.settled() for name, account in self._accounts.items()}
        state = replace(
            self._state,
            step=self.step,
            meters={**self._state.meters, **settled},
            settlements=self.settlements(),
            balance=replace(
                before,
                registered=before.registered + registered,
                untransferred=before.untransferred + counted - transferred,
                waiting=before.waiting + transferred,
                quarantined=before.quarantined + quarantined,
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
        for name in sorted(self._accounts):
            verdicts += self._accounts[name].verdicts
            hashes += self._accounts[name].leaf_hashes
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
            tuple(self._flow),
            tuple(self._late),
            tuple(hashes),
        )

    def add(self, record: Record, body: ChainRecord) -> None:
        """Adds the next leaf of a meter.

        Raises:
            Rejected: it can not be in this block.
        """
        account = self._accounts.get(body.meter)
        if account is None:
            account = self._open(body.meter)
        if self.step < body.step <= self.step + FUTURE_STEPS:
            raise Rejected(Reason.NOT_YET, f"a record of step {body.step} must wait")
        before = account.head
        account.head = follow(account.meter, before, record, body)
        if body.step < self.step:
            self._late[0] += 1
            self._late[1] = max(self._late[1], self.step - body.step)
        reason: Reason | None
        energy = 0
        if isinstance(body, Batch) or (isinstance(body, Reading) and body.counting):
            # What it registers, its chain may register no more: `follow` has worked it out.
            energy = before.allowance_uwh - account.head.allowance_uwh
            reason = self._count(account, body, energy)
        elif isinstance(body, StepClose):
            reason, energy = self._transfer(account, record, body)
        else:
            reason = Reason.FAR_FUTURE if body.step > self.step else None
            if before.register is None:
                account.begin(body)
        account.verdicts.append(Verdict(record, reason, energy))
        account.leaf_hashes.append(leaf_hash(record.raw))

    def _open(self, name: str) -> "_Account":
        meter = self._state.meters.get(name)
        if meter is None:
            raise Rejected(Reason.UNKNOWN_KEY, f"no meter {name} is registered")
        if meter.is_private is not self._is_private:
            raise Rejected(
                Reason.PRIVATE,
                f"a record of {name}, which is for {meter.terms[-1].use}: what members consume"
                " stands in no ledger, and in no account together with what does",
            )
        account = self._accounts[name] = _Account(meter)
        return account

    def _count(self, account: "_Account", body: Batch | Reading, energy: int) -> Reason | None:
        reason = self._judge_counted(account, body)
        self._flow[0] += energy
        if reason is not None:
            self._flow[2] += energy
            account.quarantined_uwh += energy
            return reason
        self._flow[1] += energy
        same = body.step == account.last_step
        account.last_step = body.step
        if isinstance(body, Reading):
            # An index holds what the steps without a close have brought, too; but not what pulses
            # have: that is of their step.
            same = same or account.read_ms is not None
            account.read_ms = body.at_ms
        else:
            account.read_ms = None
        account.open_uwh = (account.open_uwh if same else 0) + energy
        account.untransferred_uwh += energy
        return None

    def _judge_counted(self, account: "_Account", body: Batch | Reading) -> Reason | None:
        meter = account.meter
        made_under = meter.made_under(body.registration)
        if made_under is None:
            return Reason.UNKNOWN_REGISTRATION
        # Lots made under an older registration count while they satisfy the newest one in force.
        newest = meter.in_force(body.step)
        if newest is None or body.step < made_under.from_step:
            return Reason.NOT_VALID_AT_STEP
        # By the newest as well: once the index counts, pulses of the same energy must not.
        if {made_under.is_index, newest.is_index} != {isinstance(body, Reading)}:
            return Reason.WRONG_SOURCE
        if newest.is_index and not made_under.is_worth(newest):
            return Reason.WRONG_UNIT
        if not meter.may_go_on(made_under, account.anchored):
            return Reason.NOT_ANCHORED
        if isinstance(body, Batch):
            reason = self._judge_lots(body, made_under.lot_limit(newest))
        else:
            into_ms = body.at_ms - step_start_ms(body.step, self._state.genesis.step_s)
            reason = None if 0 <= into_ms <= self._step_ms else Reason.WRONG_STEP
        return reason or self._judge_step(account, body.step)

    def _judge_lots(self, batch: Batch, limit: Fraction | int) -> Reason | None:
        if max(batch.pulses, default=0) > limit and batch.declared(Mark.OVERSIZE) is None:
            return Reason.LOT_ABOVE_V
        times = list(batch.closed_ms)
        if times != sorted(times) or (times and times[-1] > self._step_ms):
            return Reason.LOTS_OUT_OF_ORDER
        return None

    def _transfer(
        self, account: "_Account", record: Record, close: StepClose
    ) -> tuple[Reason | None, int]:
        reason = self._judge_step(account, close.step)
        if reason is None and close.register != account.closed_register:
            reason = Reason.REGISTER_MISMATCH
        if reason is None and self._is_stale(account, close):
            reason = Reason.STALE_READING
        # The next close starts from this one, even if it is set aside: the device cannot know.
        account.closed_register = close.register_after
        if reason is not None:
            return reason, 0
        energy = account.open_uwh if close.step == account.last_step else 0
        before, token = account.transferred_uwh, self._state.genesis.token_uwh
        tokens = (before + energy) // token - before // token
        self._flow[3] += energy
        self._flow[4] += tokens
        if energy and self._is_shared(account.meter, close.step):
            waiting = Waiting(record.identity, close.meter, energy, tokens)
            account.brought.append((close.step, waiting))
        account.last_step = account.closed_step = close.step
        account.open_uwh = 0
        account.untransferred_uwh -= energy
        account.transferred_uwh = before + energy
        return None, energy

    def _is_shared(self, meter: Meter, step: int) -> bool:
        """Whether an agreement says what becomes of a meter's energy; else it waits at the plant,
        and of no one's account."""
        terms = meter.in_force(step)
        is_produced = terms is not None and terms.use is not Use.CONSUMPTION
        return is_produced and self._state.agreed(step) is not None

    def _is_stale(self, account: "_Account", close: StepClose) -> bool:
        """Whether an index was read too long before the step's end to tell its energy."""
        terms = account.meter.in_force(close.step)
        if terms is None or terms.latch_ms is None:
            return False
        end_ms = step_start_ms(close.step + 1, self._state.genesis.step_s)
        read_ms = account.read_ms
        return read_ms is None or end_ms - read_ms + close.clock.error_ms > terms.latch_ms

    def _judge_step(self, account: "_Account", step: int) -> Reason | None:
        if step > self.step:
            return Reason.FAR_FUTURE
        if step < self.step - self._state.genesis.late_steps:
            return Reason.TOO_LATE
        if account.closed_step is not None and step <= account.closed_step:
            return Reason.STEP_CLOSED
        if step < account.last_step:
            return Reason.STEP_WENT_BACK
        return None


class _Ordered:
    """A proposal from leaves that must stand in the block's order."""

    def __init__(self, state: State, step: int, openings: Openings | None = None) -> None:
        self._proposal = Proposal(state, step, openings)
        self._authority: list[Record] = []
        self._distributions: list[Record] = []
        self._place: tuple[int, str, int] | None = None

    def add(self, record: Record) -> None:
        """Adds the next leaf; Rejected when it can not stand there."""
        place = _place(record)
        if self._place is not None and place <= self._place:
            raise Rejected(Reason.WRONG_ORDER, "the leaves are not in the block's order")
        self._place = place
        body = record.body
        if isinstance(body, ChainRecord):
            self._proposal.add(record, body)
        elif isinstance(body, Distribution):
            self._distributions.append(record)
        else:
            self._authority.append(record)

    def finish(self) -> Applied:
        """What all of them come to."""
        return self._proposal.finish(self._authority, self._distributions)


class _Account:
    """What changes of a meter while the leaves of one block are applied; see `Meter`."""

    __slots__ = (
        "anchored",
        "brought",
        "closed_register",
        "closed_step",
        "head",
        "last_step",
        "leaf_hashes",
        "meter",
        "open_uwh",
        "quarantined_uwh",
        "read_ms",
        "transferred_uwh",
        "untransferred_uwh",
        "verdicts",
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.head = meter.head
        self.last_step = meter.last_step
        self.closed_step = meter.closed_step
        self.closed_register = meter.closed_register
        self.open_uwh = meter.open_uwh
        self.untransferred_uwh = meter.untransferred_uwh
        self.transferred_uwh = meter.transferred_uwh
        self.quarantined_uwh = meter.quarantined_uwh
        self.read_ms = meter.read_ms
        self.anchored = meter.anchored
        self.brought: list[tuple[int, Waiting]] = []
        self.verdicts: list[Verdict] = []
        self.leaf_hashes: list[bytes] = []

    def begin(self, first: ChainRecord) -> None:
        """The chain begins with a record that names a registration as the one before."""
        self.closed_register = first.register
        began = self.meter.made_under(first.previous)
        assert began is not None  # noqa: S101 - `follow` has seen to it
        self.anchored = self.meter.terms.index(began) or None

    def settled(self) -> Meter:
        """The meter after the block."""
        return replace(
            self.meter,
            head=self.head,
            last_step=self.last_step,
            closed_step=self.closed_step,
            closed_register=self.closed_register,
            open_uwh=self.open_uwh,
            untransferred_uwh=self.untransferred_uwh,
            transferred_uwh=self.transferred_uwh,
            quarantined_uwh=self.quarantined_uwh,
            read_ms=self.read_ms,
            anchored=self.anchored,
        )


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
        case records.AuthorityRecord():
            return (0, "", body.sequence)
        case _:
            raise Rejected(Reason.WRONG_ORDER, f"no {body.KIND} stands inside a block")
