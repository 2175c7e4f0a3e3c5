"""The gateway's core: messages and time in, ordered effects out.

Store, then send: an acknowledgement leaves only after the commit that holds what it acknowledges,
a checkpoint only after the commit of its block. The shell performs effects in their order.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptometer import cbor, note, records
from cryptometer.block import Checked, Slot, check_block, due, propose
from cryptometer.chain import follow, open_record
from cryptometer.community import Community, trust
from cryptometer.cose import RECORD_MAX
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import Signer
from cryptometer.records import (
    NAME,
    Acknowledgement,
    AuthorityRecord,
    ChainRecord,
    ClockReading,
    Header,
    ReAnchor,
    Record,
    Registration,
    Revocation,
    Role,
    StepClose,
    Stop,
)
from cryptometer.state import Head, Meter, State, found, govern
from cryptometer.steps import NS_PER_MS, ClockState, Instant, step_of, step_start_ms
from gateway.ledger import Ledger
from gateway.store import BlockRow, Changes, Contact, NewBlock, Refusal, Store, Tally
from hal.ports import Message

# Records that wait for their block live in memory, decoded: some eight times their bytes.
PENDING_BYTES = 48 * 2**20  # of all meters together; each has an equal share, and none more
SHARE_MAX = 16 * 2**20
# What asks for patience, not for help: the device sends again, and goes on.
_PASSING = frozenset({Reason.GAP, Reason.TOO_MANY})


class Behind(Exception):  # noqa: N818 - a state of the world, not a fault in the code
    """There is a newer ledger than ours; going on would fork it. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the broker."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Confirm:
    """Tell the broker that a message is done with."""

    token: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A block was committed and its files are published; the shell calls `Node.published`.

    Attributes:
        since_ms: the later of the step's end and the last close received, UTC ms.
    """

    row: BlockRow
    since_ms: int


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the operator; said once for each cause."""

    text: str


Effect: TypeAlias = Publish | Confirm | Sealed | Say


@dataclass(frozen=True, slots=True)
class Policy:
    """What this gateway's operator decides.

    Attributes:
        name: this gateway's registered name; its acknowledgements stand under it.
        accept_unsynchronised: seal blocks without a synchronised clock; every header shows it.
        settle_ms: community time after connecting before the first block is sealed, so that what
            the broker kept for us has come.
    """

    name: str
    accept_unsynchronised: bool = False
    settle_ms: int = 1_000


class _Round:
    """What one call of `receive` gathers before its commit."""

    def __init__(self) -> None:
        self.accepted: list[Record] = []
        self.refusals: list[Refusal] = []
        self.contacts: dict[str, Contact] = {}
        self.answer: dict[str, Stop | None] = {}  # meters to acknowledge


class Node:
    """One gateway. Time and messages are arguments; store and ledger are injected."""

    def __init__(self, store: Store, ledger: Ledger, signer: Signer, policy: Policy) -> None:
        """Recovers from whatever the last run left.

        Raises:
            Behind: the published ledger is newer than the store.
            Rejected: the store holds something it cannot have accepted: it is damaged.
        """
        state = store.state()
        if state is None:
            raise ValueError("a node begins with a genesis in its store")
        self._store = store
        self._ledger = ledger
        self._signer = signer
        self._policy = policy
        self._state = state
        self._authority = [records.decode(raw) for raw in store.authority()]
        self._community: Community = trust(
            self._authority[0].raw, [record.raw for record in self._authority[1:]]
        )
        self._verifier = note.Verifier(self._community.origin, signer.public)
        self._topic = f"cryptometer/1/{state.community.hex()}"
        self._pending: dict[str, list[Record]] = {}
        self._bytes: dict[str, int] = {}
        self._heads: dict[str, Head] = {}
        self._closes: dict[str, int] = {}  # newest step closed, by meter, pending ones included
        self._last_close_ms = 0
        self._stops: dict[str, Stop] = {}
        self._measured: list[tuple[int, int]] = []
        self._published: int | None = None
        self._said: set[tuple[str, Reason]] = set()
        self._listening = False
        self._may_seal_ms: int | None = None
        self._missed_step = 0
        self._told: dict[str, list[bytes]] = {}  # each meter's authority records that act
        self._tell_from(0)
        self._recover()

    @property
    def state(self) -> State:
        """The community after the newest block."""
        return self._state

    @property
    def pending_count(self) -> int:
        """Records accepted that no block holds yet."""
        return sum(map(len, self._pending.values()))

    # --- Recovery --------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._check_own_ledger()
        for raw in self._store.pending():
            # The disk may have changed what we stored: it is judged as if it came just now.
            record, body, meter = open_record(self._state, raw)
            head = self._head(meter)
            with contextlib.suppress(Rejected):  # revoked meanwhile: the next block drops it
                head = follow(meter, head, record, body)
            self._take_in(record, body, head)

    def _check_own_ledger(self) -> None:
        published = self._ledger.checkpoint()
        size = 0
        if published is not None:
            size = note.open_checkpoint(published, self._verifier).size
        if size > self._state.frontier.size:
            raise Behind(
                f"the ledger's files hold {size} leaves, the store {self._state.frontier.size}."
                " Restore a newer backup: cryptometer-gateway restore"
            )
        newest = self._store.blocks(1)
        if size < self._state.frontier.size and newest:
            staged = [raw for leaf, raw in self._store.staged() if leaf >= size]
            if size + len(staged) != self._state.frontier.size:
                raise Behind(
                    f"the ledger's files hold {size} leaves, the store has let go of those up to"
                    f" {self._state.frontier.size - len(staged)}. Restore the files from a backup"
                )
            self._ledger.publish(size, staged, newest[0].note)
        self._published = self._state.frontier.size

    # --- What comes in ---------------------------------------------------------------------------

    def connected(self, now: Instant) -> list[Effect]:
        """The broker accepted us: retained words are said anew, since it may have been wiped."""
        self._listening = True
        self._begin_sealing(now)
        effects: list[Effect] = []
        newest = self._store.blocks(1)
        if newest:
            effects.append(Publish(f"{self._topic}/checkpoint", newest[0].note.encode()))
        for meter in self._state.meters.values():
            effects.append(self._tell_registration(meter.name))
            effects.append(self._acknowledge(meter, self._stops.get(meter.name)))
        return effects

    def receive(self, messages: Sequence[Message], now: Instant) -> list[Effect]:
        """Judges messages, stores what is accepted, acknowledges; in this order.

        Raises:
            Behind: the broker keeps a checkpoint of ours that is newer than our store.
        """
        now_ms = now.utc_ns // NS_PER_MS
        gathered = _Round()
        for message in messages:
            self._judge(message, now_ms, gathered)
        self._commit(
            Changes(
                accepted=tuple(gathered.accepted),
                refusals=tuple(gathered.refusals),
                contacts=tuple(gathered.contacts.values()),
            )
        )
        # Stored before it is acknowledged: the word is the device's leave to forget.
        effects: list[Effect] = [
            self._acknowledge(self._state.meters[name], stop)
            for name, stop in gathered.answer.items()
        ]
        # Confirmed whatever the verdict: a bad message must not come again before a good one.
        effects += [Confirm(message.token) for message in messages]
        return effects + self._say_refusals(gathered.refusals)

    def take_authority(self, raws: Iterable[bytes]) -> int:
        """Takes in authority records, the whole chain or its newest part; returns how many are
        new. They stand in the next block and act from the one after.

        Raises:
            Rejected: they are not this authority's chain; nothing was changed.
        """
        known = {record.identity for record in self._authority}
        added: list[Record] = []
        state = self._state
        for record in self._authority[state.authority.sequence :]:
            state = govern(state, record)
        for raw in raws:
            record = records.decode(raw)
            if record.identity not in known:
                state = govern(state, record)
                added.append(record)
        self._commit(Changes(authority=tuple(added)))
        self._authority += added
        return len(added)

    def _judge(self, message: Message, now_ms: int, gathered: _Round) -> None:
        place = message.topic.removeprefix(f"{self._topic}/")
        if place == "checkpoint":
            self._check_retained(message.payload)
            return
        _, _, name = place.removesuffix("/record").rpartition("/")
        if place != f"meter/{name}/record":
            return
        meter = self._state.meters.get(name)
        known = "" if meter is None else name
        raw = message.payload
        try:
            record, body, meter = open_record(self._state, raw)
        except Rejected as refused:
            gathered.refusals.append(Refusal(known, refused.reason, refused.detail, now_ms))
            return
        if body.meter != name:
            detail = f"a record of {body.meter} under the topic of {known or 'no meter'}"
            gathered.refusals.append(Refusal(known, Reason.WRONG_ROLE, detail, now_ms))
            return
        # From here on a registered key has spoken: it gets an answer, and what it signed against
        # its own chain is kept as evidence.
        head = self._head(meter)
        try:
            head = follow(meter, head, record, body)
            self._check_room(meter, raw)
        except Rejected as refused:
            self._answer_refused(record, body, refused, now_ms, gathered)
            return
        self._take_in(record, body, head)
        self._stops.pop(name, None)
        gathered.accepted.append(record)
        gathered.answer[name] = None
        gathered.contacts[name] = Contact(
            name, now_ms, body.step, body.clock.state.value, body.clock.error_ms
        )
        if isinstance(body, StepClose) and body.step == self._state.step + 1:
            self._last_close_ms = now_ms

    def _answer_refused(
        self, record: Record, body: ChainRecord, refused: Rejected, now_ms: int, gathered: _Round
    ) -> None:
        name = body.meter
        gathered.answer.setdefault(name, None)
        if refused.reason is Reason.REPEAT:
            if self._identity_at(gathered, name, body.sequence) == record.identity:
                return  # stored already; the acknowledgement was lost on its way
            refused = Rejected(Reason.FORK, f"another record at sequence {body.sequence}")
        if refused.reason in _PASSING:
            gathered.refusals.append(Refusal(name, refused.reason, refused.detail, now_ms))
            return
        gathered.refusals.append(
            Refusal(name, refused.reason, refused.detail, now_ms, raw=record.raw)
        )
        self._stops[name] = gathered.answer[name] = Stop(body.sequence, refused.reason)

    def _say_refusals(self, refusals: list[Refusal]) -> list[Effect]:
        effects: list[Effect] = []
        for refusal in refusals:
            cause = (refusal.meter, refusal.reason)
            if cause not in self._said:
                self._said.add(cause)
                who = refusal.meter or "someone unregistered"
                effects.append(Say(f"refused from {who}: {refusal.reason}: {refusal.detail}"))
        return effects

    def _identity_at(self, gathered: _Round, name: str, sequence: int) -> bytes | None:
        for record in gathered.accepted:
            body = record.body
            if isinstance(body, ChainRecord) and (body.meter, body.sequence) == (name, sequence):
                return record.identity
        return self._store.identity_at(name, sequence)

    def _check_room(self, meter: Meter, raw: bytes) -> None:
        share = min(SHARE_MAX, max(PENDING_BYTES // len(self._state.meters), RECORD_MAX))
        if self._bytes.get(meter.name, 0) + len(raw) > share:
            raise Rejected(Reason.TOO_MANY, f"{share} bytes of {meter.name} wait for a block")

    def _check_retained(self, signed: bytes) -> None:
        try:
            checkpoint = note.open_checkpoint(signed, self._verifier)
        except Rejected:
            return  # the broker is trusted with nothing but delivery
        ours = self._state.checkpoint
        if checkpoint.size > ours.size or (checkpoint.size == ours.size and checkpoint != ours):
            raise Behind(
                f"the broker keeps our checkpoint of {checkpoint.size} leaves, and the store has"
                f" {ours.size}. Restore a newer backup: cryptometer-gateway restore"
            )

    def _take_in(self, record: Record, body: ChainRecord, head: Head) -> None:
        name = body.meter
        self._heads[name] = head
        self._pending.setdefault(name, []).append(record)
        self._bytes[name] = self._bytes.get(name, 0) + len(record.raw)
        if isinstance(body, StepClose):
            self._closes[name] = max(body.step, self._closes.get(name, 0))

    def _head(self, meter: Meter) -> Head:
        return self._heads.get(meter.name, meter.head)

    # --- Blocks ----------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """The UTC moment, ms, by which `tick` should be called again if nothing is heard."""
        if self._may_seal_ms is None:
            return None
        end_ms = step_start_ms(self._state.step + 2, self._state.genesis.step_s)
        wait_ms = 0 if self._is_heard() else self._state.genesis.grace_ms
        return max(end_ms + wait_ms, self._may_seal_ms)

    def why_not(self, now: Instant) -> str | None:
        """What keeps this gateway from sealing blocks at all, for people; None if nothing does."""
        if not self._listening:
            return "waiting for the broker before the first block"
        if now.state is not ClockState.SYNCHRONISED and not self._policy.accept_unsynchronised:
            return (
                "the clock is not synchronised: no block is sealed. Start an NTP service (chrony,"
                " systemd-timesyncd), or set accept_unsynchronised, which every header then shows"
            )
        return None

    def tick(self, now: Instant) -> list[Effect]:
        """Seals the next block if it is time for it; call again while it returns something."""
        if self.why_not(now) is not None:
            return []
        self._begin_sealing(now)
        due_ms = self.next_due_ms()
        now_ms = now.utc_ns // NS_PER_MS
        if due_ms is None or now_ms < due_ms:
            return []
        return self._seal(self._state.step + 1, now, now_ms)

    def published(self, sealed: Sealed, now: Instant) -> int | None:
        """The block's checkpoint is out: its punctuality in ms, None for one caught up on."""
        if sealed.row.caught_up:
            return None
        punctuality_ms = max(0, now.utc_ns // NS_PER_MS - sealed.since_ms)
        self._measured.append((sealed.row.step, punctuality_ms))
        return punctuality_ms

    def _begin_sealing(self, now: Instant) -> None:
        """From the first moment at which we hear the broker and know the time."""
        if self._may_seal_ms is not None or self.why_not(now) is not None:
            return
        now_ms = now.utc_ns // NS_PER_MS
        self._may_seal_ms = now_ms + max(self._policy.settle_ms, self._state.genesis.grace_ms)
        # Steps that ended before we listened are caught up on.
        self._missed_step = step_of(now_ms, self._state.genesis.step_s) - 1

    def _is_heard(self) -> bool:
        step = self._state.step + 1
        return all(
            self._closes.get(meter.name, 0) >= step
            for meter in self._state.meters.values()
            if meter.expected_at(step)
        )

    def _seal(self, step: int, now: Instant, now_ms: int) -> list[Effect]:
        state = self._state
        caught_up = step <= self._missed_step
        reading = ClockReading(now.source, now.state, -(-now.error_ns // NS_PER_MS))
        slot = Slot(step, now_ms, reading, caught_up)
        leaves, dropped = due(state, step, self._all_pending())
        header = records.seal(propose(state, leaves, slot), state.community, self._signer)
        block = [*leaves, header]
        verified = {record.identity for record in leaves}
        checked = check_block(state, block, verified=verified)
        checkpoint = checked.state.checkpoint
        signed = note.sign_checkpoint(checkpoint, self._community.origin, self._signer)
        row = block_row(state, checked, header.body, signed)
        after = checked.state.meters
        changed = frozenset(name for name in after if after[name] is not state.meters.get(name))
        gone = tuple(record for record, _ in dropped)
        refusals = tuple(
            Refusal(_meter_of(record), refused.reason, refused.detail, now_ms, record.raw)
            for record, refused in dropped
        )
        tallies = tally(checked, step)
        new = NewBlock(row, checked.state, changed, tuple(block), gone, tallies)
        self._commit(Changes(block=new, refusals=refusals))
        # Committed before published: a crash here is mended by `_check_own_ledger`.
        self._ledger.publish(state.frontier.size, [record.raw for record in block], signed)
        self._published = checkpoint.size
        since_ms = max(step_start_ms(step + 1, state.genesis.step_s), self._last_close_ms)
        self._last_close_ms = 0
        self._adopt(checked.state, block, gone)
        return [
            Publish(f"{self._topic}/checkpoint", signed.encode()),
            Sealed(row, since_ms),
            *self._tell_governed(self._tell_from(state.authority.sequence)),
        ]

    def _all_pending(self) -> Iterable[Record]:
        yield from self._authority[self._state.authority.sequence :]
        for pending in self._pending.values():
            yield from pending

    def _adopt(self, state: State, block: Iterable[Record], dropped: Iterable[Record]) -> None:
        self._state = state
        gone = {record.identity for record in block}
        gone |= {record.identity for record in dropped}
        for name, pending in list(self._pending.items()):
            rest = [record for record in pending if record.identity not in gone]
            self._pending[name] = rest
            self._bytes[name] = sum(len(record.raw) for record in rest)
            if not rest:
                del self._pending[name], self._bytes[name]

    def _tell_from(self, sequence: int) -> list[str]:
        """Notes the authority records that act now, from `sequence` on; the meters they concern."""
        acting = self._authority[sequence : self._state.authority.sequence]
        concerned: dict[str, None] = {}
        for record in acting:
            if isinstance(record.body, AuthorityRecord) and (name := _meter_of(record)):
                self._told.setdefault(name, []).append(record.raw)
                concerned[name] = None
        return list(concerned)

    def _tell_governed(self, names: list[str]) -> list[Effect]:
        """Once authority records act, chains may stand elsewhere, and their meters are told."""
        effects: list[Effect] = []
        for name in names:
            meter = self._state.meters.get(name)
            if meter is None:
                continue
            self._stops.pop(name, None)
            head = meter.head
            for record in self._pending.get(name, []):
                body = record.body
                try:
                    if isinstance(body, ChainRecord):
                        head = follow(meter, head, record, body)
                except Rejected:
                    break  # the next block drops it
            self._heads[name] = head
            effects.append(self._tell_registration(name))
            effects.append(self._acknowledge(meter, None))
        return effects

    def _tell_registration(self, name: str) -> Publish:
        topic = f"{self._topic}/meter/{name}/registration"
        return Publish(topic, cbor.encode(self._told.get(name, [])))

    def _acknowledge(self, meter: Meter, stop: Stop | None) -> Publish:
        head = self._head(meter)
        word = Acknowledgement(
            meter.name, self._store.epoch, head.sequence, head.previous, head.register or 0, stop
        )
        record = records.seal(word, self._state.community, self._signer)
        return Publish(f"{self._topic}/meter/{meter.name}/ack/{self._policy.name}", record.raw)

    def _commit(self, changes: Changes) -> None:
        """One durable step; what waited to be noted goes with it."""
        if changes.is_empty:
            return
        full = Changes(
            changes.accepted,
            changes.authority,
            changes.refusals,
            changes.contacts,
            changes.block,
            self._published,
            tuple(self._measured),
        )
        self._store.commit(full)
        self._published = None
        self._measured = []


def found_store(store: Store, raws: Sequence[bytes]) -> None:
    """Puts a community's founding records, its authority's whole chain so far, into an empty
    store.

    Raises:
        Rejected: they are not a whole chain.
    """
    founding = [records.decode(raw) for raw in raws]
    if not founding:
        raise Rejected(Reason.MALFORMED, "no authority records")
    state = found(founding[0])
    for record in founding:
        state = govern(state, record)
    store.commit(Changes(authority=tuple(founding)))


def gateway_name(community: Community, signer: Signer) -> str | None:
    """The name a gateway's key is registered under, None if it is not."""
    for record in community.records:
        match record.body:
            case Registration(role=Role.GATEWAY, key=key, name=name) if key == signer.public:
                return NAME.decode(name)
    return None


def tally(checked: Checked, step: int) -> tuple[Tally, ...]:
    """What the block of `step` holds of each meter."""
    found: dict[str, Tally] = {}
    for verdict in checked.verdicts:
        body = verdict.record.body
        if not isinstance(body, ChainRecord):
            continue
        before = found.get(body.meter, Tally(body.meter, 0, None, 0, 0))
        counted = verdict.reason is None
        closes = isinstance(body, StepClose) and counted
        first = body.step if closes and before.first_step is None else before.first_step
        found[body.meter] = Tally(
            body.meter,
            before.closes + closes,
            first,
            before.late + (body.step < step),
            before.quarantined + (not counted),
        )
    return tuple(found.values())


def _meter_of(record: Record) -> str:
    """The meter a record is of or about, "" if none."""
    match record.body:
        case Registration(role=Role.METER, name=name) | Revocation(role=Role.METER, name=name):
            return name
        case ReAnchor(meter=name) | ChainRecord(meter=name):
            return name
        case _:
            return ""


def block_row(state: State, checked: Checked, header: records.Body, signed: str) -> BlockRow:
    """What the store keeps of a block beside its leaves; `state` is that before it."""
    assert isinstance(header, Header)  # noqa: S101 - checked by `check_block`
    return BlockRow(
        step=header.step,
        first=state.frontier.size,
        size=checked.state.frontier.size,
        sealed_ms=header.sealed_ms,
        records=header.leaves,
        late=header.late[0],
        expected=header.meters[0],
        heard=header.meters[1],
        caught_up=header.caught_up,
        note=signed,
    )
