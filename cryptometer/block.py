"""Making and checking one block: propose (what would the block be), check_block (the same pure
function for maker, node and auditor, depending on nothing private), commit (the caller's).

The energy verdict is taken here, against the state after the previous block: counted, or
quarantined with a reason. It never stops a chain.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from cryptometer import records
from cryptometer.chain import follow
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import leaf_hash
from cryptometer.records import (
    Batch,
    ChainRecord,
    ClockReading,
    Flow,
    Genesis,
    Header,
    Mark,
    Record,
    Role,
    StepClose,
)
from cryptometer.state import Head, Meter, State, act, govern
from cryptometer.steps import MS_PER_S, step_start_ms

FUTURE_STEPS = 4  # a clock an hour ahead may yet be mended; beyond it, a record need not be awaited


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
    record acts; otherwise it stands without effect."""

    record: Record
    reason: Reason | None
    energy_uwh: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A block that holds: the state after it, and the verdict on each leaf before the header."""

    state: State
    header: Record
    verdicts: tuple[Verdict, ...]


def due(
    state: State, step: int, pending: Iterable[Record]
) -> tuple[list[Record], list[tuple[Record, Rejected]]]:
    """Which of the pending records go into the block of `step`, in its order; and which never can,
    because the authority has meanwhile revoked or re-anchored their chain.

    A chain waits as a whole behind its first record of the near future.
    """
    leaves: list[Record] = []
    refused: list[tuple[Record, Rejected]] = []
    heads: dict[str, Head] = {}
    waiting: set[str] = set()
    for record in sorted(pending, key=_place):
        body = record.body
        if isinstance(body, ChainRecord):
            if step < body.step <= step + FUTURE_STEPS:
                waiting.add(body.meter)
            if body.meter in waiting:
                continue
            meter = state.meters[body.meter]
            try:
                head = heads.get(body.meter, meter.head)
                heads[body.meter] = follow(meter, head, record, body)
            except Rejected as error:
                refused.append((record, error))
                continue
        leaves.append(record)
    return leaves, refused


def propose(state: State, leaves: Sequence[Record], slot: Slot) -> Header:
    """The header of the block that these leaves would make; the maker signs it.

    Raises:
        Rejected: a leaf can not be in this block.
    """
    block = _Block(state, slot.step)
    for record in leaves:
        block.add(record)
    return block.header(slot)


def check_block(
    state: State, leaves: Sequence[Record], *, verified: Container[bytes] = ()
) -> Checked:
    """Checks a whole block, its header last, against the state after the block before.

    Args:
        state: the community after the previous block.
        leaves: every leaf, in the ledger's order.
        verified: device records, as bytes, whose signature the caller has itself verified with the
            key they name. Whether that key may speak for the meter is looked at here in any case.

    Raises:
        Rejected: the first thing that is wrong, naming the leaf; the ledger must not go on so.
    """
    if not leaves or not isinstance(leaves[-1].body, Header):
        raise Rejected(Reason.WRONG_ORDER, "a block ends with its header")
    *content, last = leaves
    header = leaves[-1].body
    block = _Block(state, header.step)
    # All signatures in one go: between other work each takes longer, by the processor's cache.
    faults = [_fault(state, record, verified) for record in content]
    for index, (record, fault) in enumerate(zip(content, faults, strict=True)):
        try:
            if fault is not None:
                raise fault
            block.add(record)
        except Rejected as refused:
            at = state.frontier.size + index
            raise Rejected(refused.reason, f"leaf {at}: {refused.detail}") from None
    after = block.finish()
    try:
        _check_header(state, after, last, header, block)
    except Rejected as refused:
        raise Rejected(refused.reason, f"header of step {header.step}: {refused.detail}") from None
    frontier = state.frontier.extended([leaf_hash(record.raw) for record in leaves])
    return Checked(replace(after, frontier=frontier), last, tuple(block.verdicts))


def _fault(state: State, record: Record, verified: Container[bytes]) -> Rejected | None:
    """What keeps a device's record from being one of its meter's, whatever block it stands in."""
    try:
        if isinstance(record.body, ChainRecord):
            _verify(state, record, record.body, verified)
    except Rejected as refused:
        return refused
    return None


def _verify(state: State, record: Record, body: ChainRecord, verified: Container[bytes]) -> None:
    if record.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    meter = state.meter_of(record.key_id)
    if meter.name != body.meter:
        raise Rejected(Reason.WRONG_ROLE, f"the key of {meter.name} does not speak for others")
    key = meter.signed_by(record.key_id).key
    if record.raw not in verified:
        record.envelope.verify(key)


def _check_header(
    state: State, after: State, record: Record, header: Header, block: "_Block"
) -> None:
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
    expected = block.header(slot)
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


class _Block:
    """Applies leaves to a working copy of the state. Used once, then thrown away."""

    def __init__(self, state: State, step: int) -> None:
        self._state = state
        self._step = step
        self._accounts: dict[str, _Account] = {}
        self._authority: list[tuple[int, Record]] = []
        self._place: tuple[int, str, int] | None = None
        self._flow = [0, 0, 0, 0, 0]
        self._late = [0, 0]
        self.verdicts: list[Verdict] = []
        self._after: State | None = None

    def add(self, record: Record) -> None:
        """Adds the next leaf; Rejected when it can not stand there."""
        place = _place(record)
        if self._place is not None and place <= self._place:
            raise Rejected(Reason.WRONG_ORDER, "the leaves are not in the block's order")
        self._place = place
        body = record.body
        if isinstance(body, ChainRecord):
            self._add_chain(record, body)
        else:
            self._authority.append((len(self.verdicts), record))
            self.verdicts.append(Verdict(record, None, 0))

    def finish(self) -> State:
        """The state after the block, its frontier not yet extended."""
        if self._after is None:
            registered, counted, quarantined, transferred, _ = self._flow
            before = self._state.balance
            settled = {name: account.settled() for name, account in self._accounts.items()}
            state = replace(
                self._state,
                step=self._step,
                meters={**self._state.meters, **settled},
                balance=replace(
                    before,
                    registered=before.registered + registered,
                    untransferred=before.untransferred + counted - transferred,
                    waiting=before.waiting + transferred,
                    quarantined=before.quarantined + quarantined,
                ),
            )
            # Authority records act from the next block on, hence after everything else.
            for index, record in self._authority:
                try:
                    state = govern(state, record)
                except Rejected as refused:
                    at = self._state.frontier.size + index
                    raise Rejected(refused.reason, f"leaf {at}: {refused.detail}") from None
                try:
                    state = act(state, record)
                except Rejected as refused:
                    self.verdicts[index] = Verdict(record, refused.reason, 0)
            self._after = state
        return self._after

    def header(self, slot: Slot) -> Header:
        after = self.finish()
        expected = [meter for meter in self._state.meters.values() if meter.expected_at(self._step)]
        heard = sum(
            1
            for meter in expected
            if (closed := after.meters[meter.name].closed_step) is not None and closed >= self._step
        )
        return Header(
            step=slot.step,
            previous=self._state.checkpoint,
            sealed_ms=slot.sealed_ms,
            clock=slot.clock,
            leaves=len(self.verdicts),
            flow=Flow(*self._flow),
            balance=after.balance,
            late=tuple(self._late),
            meters=(len(expected), heard),
            caught_up=slot.caught_up,
        )

    def _add_chain(self, record: Record, body: ChainRecord) -> None:
        account = self._accounts.get(body.meter)
        if account is None:
            account = self._open(body.meter)
        if self._step < body.step <= self._step + FUTURE_STEPS:
            raise Rejected(Reason.NOT_YET, f"a record of step {body.step} must wait")
        before = account.head
        account.head = follow(account.meter, before, record, body)
        if body.step < self._step:
            self._late[0] += 1
            self._late[1] = max(self._late[1], self._step - body.step)
        reason: Reason | None = None
        energy = 0
        if isinstance(body, Batch):
            # What a batch registers, its chain may register no more: `follow` has worked it out.
            energy = before.allowance_uwh - account.head.allowance_uwh
            reason = self._count(account, body, energy)
        elif isinstance(body, StepClose):
            reason, energy = self._transfer(account, body)
        else:
            reason = Reason.FAR_FUTURE if body.step > self._step else None
            if before.register is None:
                account.closed_register = body.register
        self.verdicts.append(Verdict(record, reason, energy))

    def _open(self, name: str) -> "_Account":
        meter = self._state.meters.get(name)
        if meter is None:
            raise Rejected(Reason.UNKNOWN_KEY, f"no meter {name} is registered")
        account = self._accounts[name] = _Account(meter)
        return account

    def _count(self, account: "_Account", batch: Batch, energy: int) -> Reason | None:
        reason = self._judge_batch(account, batch)
        self._flow[0] += energy
        if reason is not None:
            self._flow[2] += energy
            account.quarantined_uwh += energy
            return reason
        self._flow[1] += energy
        same = batch.step == account.last_step
        account.last_step = batch.step
        account.open_uwh = (account.open_uwh if same else 0) + energy
        account.untransferred_uwh += energy
        return None

    def _judge_batch(self, account: "_Account", batch: Batch) -> Reason | None:
        meter = account.meter
        made_under = meter.made_under(batch.registration)
        if made_under is None:
            return Reason.UNKNOWN_REGISTRATION
        # Lots made under an older registration count while they satisfy the newest one in force.
        in_force = [one for one in meter.terms if one.from_step <= batch.step]
        if not in_force or batch.step < made_under.from_step:
            return Reason.NOT_VALID_AT_STEP
        limit = made_under.lot_limit(in_force[-1])
        if max(batch.pulses, default=0) > limit and batch.declared(Mark.OVERSIZE) is None:
            return Reason.LOT_ABOVE_V
        times = batch.closed_ms
        step_ms = self._state.genesis.step_s * MS_PER_S
        if list(times) != sorted(times) or (times and times[-1] > step_ms):
            return Reason.LOTS_OUT_OF_ORDER
        return self._judge_step(account, batch.step)

    def _transfer(self, account: "_Account", close: StepClose) -> tuple[Reason | None, int]:
        reason = self._judge_step(account, close.step)
        if reason is None and close.register != account.closed_register:
            reason = Reason.REGISTER_MISMATCH
        # The next close starts from this one, even if it is set aside: the device cannot know.
        account.closed_register = close.register_after
        if reason is not None:
            return reason, 0
        energy = account.open_uwh if close.step == account.last_step else 0
        before, token = account.transferred_uwh, self._state.genesis.token_uwh
        self._flow[3] += energy
        self._flow[4] += (before + energy) // token - before // token
        account.last_step = account.closed_step = close.step
        account.open_uwh = 0
        account.untransferred_uwh -= energy
        account.transferred_uwh = before + energy
        return None, energy

    def _judge_step(self, account: "_Account", step: int) -> Reason | None:
        if step > self._step:
            return Reason.FAR_FUTURE
        if step < self._step - self._state.genesis.late_steps:
            return Reason.TOO_LATE
        if account.closed_step is not None and step <= account.closed_step:
            return Reason.STEP_CLOSED
        if step < account.last_step:
            return Reason.STEP_WENT_BACK
        return None


class _Account:
    """What changes of a meter while the leaves of one block are applied; see `Meter`."""

    __slots__ = (
        "closed_register",
        "closed_step",
        "head",
        "last_step",
        "meter",
        "open_uwh",
        "quarantined_uwh",
        "transferred_uwh",
        "untransferred_uwh",
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
        )


def _place(record: Record) -> tuple[int, str, int]:
    """Where a leaf stands in a block: authority, then each meter's chain, the header last."""
    body = record.body
    match body:
        case ChainRecord():
            return (1, body.meter, body.sequence)
        case Genesis():
            return (0, "", 0)
        case records.AuthorityRecord():
            return (0, "", body.sequence)
        case _:
            raise Rejected(Reason.WRONG_ORDER, f"no {body.KIND} stands inside a block")
