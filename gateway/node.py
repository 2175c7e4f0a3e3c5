"""The gateway's core: messages and time in, ordered effects out.

Store, then send: an acknowledgement leaves only after the commit that holds what it acknowledges,
a checkpoint only after the commit of its block. The shell performs effects in their order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cryptometer import cbor, note, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import Registration, Revocation
from cryptometer.block import check_block
from cryptometer.chain import follow, open_record
from cryptometer.chain_records import StepClose
from cryptometer.community import Community, trust
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import found, govern
from cryptometer.keys import Signer
from cryptometer.meter import Meter
from cryptometer.proposal import Proposal, Slot
from cryptometer.readable import utc
from cryptometer.record_fields import NAME, Checkpoint, ClockReading, Role
from cryptometer.records import Record
from cryptometer.state import State
from cryptometer.steps import NS_PER_MS, ClockState, Instant, step_of, step_start_ms
from cryptometer.tiles import TILE_WIDTH
from gateway.door import Door, Verdicts, Verify, verify_each
from gateway.effects import Confirm, Effect, Publish, Say, Sealed
from gateway.filing import file_block, meter_of
from gateway.ledger import Ledger
from gateway.present import Present
from gateway.private_path import Chains, NoChains, PrivatePath, masked
from gateway.store import Changes, Refusal, Store, StoreDamaged
from gateway.vpp import Vpp
from gateway.waiting import Waiting
from hal.ports import Message

__all__ = [
    "Behind",
    "Confirm",
    "Effect",
    "Node",
    "Policy",
    "Publish",
    "Say",
    "Sealed",
    "found_store",
    "gateway_name",
]


class Behind(Exception):  # noqa: N818 - a state of the world, not a fault in the code
    """There is a newer ledger than ours; going on would fork it. The message says what to do."""


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


class Node:
    """One gateway. Time and messages are arguments; store and ledger are injected."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        signer: Signer,
        policy: Policy,
        successor: Signer | None = None,
        verify: Verify = verify_each,
        vpp: Vpp | None = None,
        chains: Chains | None = None,
    ) -> None:
        """Recovers from whatever the last run left.

        Args:
            signer: this gateway's key.
            successor: the key that takes its place from the block on after the one that holds its
                registration under the same name.
            verify: as for `Door`.
            vpp: the virtual power plant that works beside this gateway, if one does.
            chains: where the chains of meters for consumption are kept; without it nothing is
                taken from them.

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
        self._successor = successor
        self._policy = policy
        self._vpp = vpp
        self._state = state
        self._authority = [records.decode(raw) for raw in store.authority()]
        self._community: Community = trust(
            self._authority[0].raw, [record.raw for record in self._authority[1:]]
        )
        self._topic = f"cryptometer/1/{state.community.hex()}"
        self._waiting = Waiting()
        self._private = PrivatePath(chains or NoChains(), self._waiting, state)
        self._said_of_facts = ""
        self._noted_damage = store.is_private_damaged()
        self._door = Door(
            self._topic,
            self._identity_at,
            self._waiting,
            verify,
            is_private_kept=lambda: self._private.is_kept,
        )
        self._proposal = Proposal(state, state.step + 1)  # applied ahead, while records come in
        self._unanswered: dict[str, Stop | None] = {}
        self._unconfirmed: list[tuple[int, int]] = []
        self._spent: object = None  # what the newest block was made of, until it is answered
        self._last_close_ms = 0
        self._measured: list[tuple[int, int]] = []
        self._published: int | None = None
        self._said: set[tuple[str, Reason]] = set()
        self.mended: list[str] = []  # files of the ledger that this start has written anew
        self._listening = False
        self._owes_checkpoint = False
        self._may_seal_ms: int | None = None
        self._missed_step = 0
        newest = store.blocks(1)
        known_ms = newest[0].sealed_ms if newest else None
        self._present = Present(known_ms, state.genesis.step_s)
        self._told: dict[str, list[bytes]] = {}  # each meter's authority records that act
        self._told_all: list[bytes] = []  # those on gateways, whose words meters believe
        self._hand_over()
        self._note_acting(self._acting(0, state))
        self._recover()

    @property
    def state(self) -> State:
        """The community after the newest block."""
        return self._state

    @property
    def _everyone(self) -> State:
        return self._private.everyone

    def _identity_at(self, meter: str, sequence: int) -> bytes | None:
        if self._private.owns(meter):
            return self._private.identity_at(meter, sequence)
        return self._store.identity_at(meter, sequence)

    @property
    def private_damage(self) -> str | None:
        """What is wrong with the private store, if this run works without it or a part of it."""
        if self._private.why:
            return self._private.why
        failure = None if self._vpp is None else self._vpp.failure
        return str(failure) if isinstance(failure, StoreDamaged) else None

    @property
    def pending_count(self) -> int:
        """Records accepted that no block holds yet."""
        return self._waiting.count

    # --- Recovery --------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._check_own_ledger()
        outlived: list[tuple[Record, Rejected]] = []
        for raw in self._store.pending():
            # The disk may have changed what we stored: it is judged as if it came just now.
            record, body, meter = open_record(self._state, raw)
            try:
                head = follow(meter, self._waiting.head(meter), record, body)
            except Rejected as refused:
                # Blocks brought forward by a restore have revoked or re-anchored its chain.
                outlived.append((record, refused))
                continue
            self._waiting.add(record, body, head)
        private = self._private.recover(self._acting(0, self._state))
        newest = self._store.blocks(1)
        changes = _drop(outlived, newest[0].sealed_ms if newest else 0)
        # The new epoch comes first: who was told that it is durable hears that it is not.
        self._commit(replace(changes, takes_back=bool(private)))
        self._private.let_go(private)

    def _check_own_ledger(self) -> None:
        ours = self._state.checkpoint
        signed = self._ledger.checkpoint()
        published = Checkpoint(0, b"")
        if signed is not None:
            try:
                # Whoever had signed it before his key was revoked: it is our own folder.
                published = self._community.open_checkpoint(signed, revoked=True)
            except Rejected as refused:
                raise Rejected(
                    refused.reason, f"the ledger's checkpoint file: {refused.detail}"
                ) from None
        if published.size > ours.size:
            raise Behind(
                f"the ledger's files hold {published.size} leaves, the store {ours.size}."
                " Restore a newer backup: cryptometer-gateway restore, with these files as --ledger"
            )
        if published.size == ours.size and signed is not None and published != ours:
            raise Behind(
                f"the ledger's files hold {ours.size} leaves that are not those of the store."
                " Restore both from one backup: cryptometer-gateway restore"
            )
        newest = self._store.blocks(1)
        kept = dict(self._store.staged())
        try:
            if published.size < ours.size and newest:
                # From the bundle's begin, where the store still has it: no file is built upon.
                whole = published.size - published.size % TILE_WIDTH
                begin = whole if whole in kept else published.size
                staged = [kept[leaf] for leaf in range(begin, ours.size) if leaf in kept]
                if begin + len(staged) != ours.size:
                    raise Behind(
                        f"the ledger's files hold {published.size} leaves, the store has let go of"
                        f" those up to {ours.size - len(staged)}. Restore the files from a backup"
                    )
                self._ledger.publish(begin, staged, newest[0].note)
            self.mended = self._ledger.recover(self._state.frontier, kept)
        except Rejected as refused:
            raise Rejected(
                refused.reason,
                f"the ledger's files: {refused.detail}. Put back that file from a mirror or a"
                " backup, or restore: cryptometer-gateway restore",
            ) from None
        self._published = _full_bundles(ours.size)

    # --- What comes in ---------------------------------------------------------------------------

    def connected(self, now: Instant) -> list[Effect]:
        """The broker accepted us: retained words are said anew, since it may have been wiped."""
        self._listening = True
        self._owes_checkpoint = True
        self._look(now)
        effects = self._tell_checkpoint(now)
        for meter in self._everyone.meters.values():
            effects.append(self._tell_registration(meter.name))
            effects += self._acknowledge(meter, self._door.stops.get(meter.name))
        return effects

    def receive(self, messages: Sequence[Message], now: Instant) -> list[Effect]:
        """Judges messages and stores what is accepted. Only then may the devices hear of it:
        `answer`.

        Raises:
            Behind: the broker keeps a checkpoint of ours that is newer than our store.
        """
        now_ms = now.utc_ns // NS_PER_MS
        for message in messages:
            if message.topic == f"{self._topic}/checkpoint":
                self._check_retained(message.payload)
        verdicts = self._door.judge(self._everyone, messages, now_ms)
        public = [one for one in verdicts.accepted if not self._private.owns(meter_of(one))]
        refusals = self._keep_private(verdicts)
        self._commit(
            Changes(
                accepted=tuple(public),
                refusals=tuple(refusals),
                contacts=tuple(verdicts.contacts.values()),
            )
        )
        for record in public:
            if isinstance(record.body, StepClose) and record.body.step == self._state.step + 1:
                self._last_close_ms = now_ms
        self._look(now)  # what came may vouch for the clock
        self._waiting.offer(self._proposal, names={meter_of(record): None for record in public})
        self._unanswered |= verdicts.answers
        # Confirmed whatever the verdict: a bad message must not come again before a good one.
        self._unconfirmed += [message.token for message in messages]
        return self._say_refusals(refusals)

    def _keep_private(self, verdicts: Verdicts) -> list[Refusal]:
        """Keeps what is of meters for consumption where it belongs; returns the refusals as the
        store may hold them. Before the store's commit, and so before the answer: a run that ends
        between the two has it, and is sent it again."""
        owns = self._private.owns
        self._private.accept(
            [one for one in verdicts.accepted if owns(meter_of(one))],
            [one for one in verdicts.refusals if owns(one.meter)],
        )
        if not self._private.is_kept:
            # Nothing of it is durable, and nobody is told so; `_acknowledge` says nothing, too.
            verdicts.contacts = {
                name: one for name, one in verdicts.contacts.items() if not owns(name)
            }
        private = masked(one for one in verdicts.refusals if owns(one.meter))
        return [one for one in verdicts.refusals if not owns(one.meter)] + private

    def answer(self) -> list[Effect]:
        """Acknowledges what has been received, and lets the broker forget it. Both can wait for a
        block that is due: an answer is for one, the block's checkpoint for all."""
        # Stored before it is acknowledged: the word is the device's leave to forget.
        effects: list[Effect] = [
            word
            for name, stop in self._unanswered.items()
            for word in self._acknowledge(self._everyone.meters[name], stop)
        ]
        effects += map(Confirm, self._unconfirmed)
        self._unanswered, self._unconfirmed, self._spent = {}, [], None
        return effects

    def take_authority(self, raws: Iterable[bytes], successor: Signer | None = None) -> int:
        """Takes in authority records, the whole chain or its newest part; returns how many are
        new. They stand in the next block and act from the one after.

        Args:
            successor: as at the start, where it was made since.

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
        self._successor = successor or self._successor
        self._authority += added
        self._community = trust(
            self._authority[0].raw, [record.raw for record in self._authority[1:]]
        )
        return len(added)

    def _check_retained(self, signed: bytes) -> None:
        try:
            # Of every gateway, or of this one under an earlier key: whoever signed it, a newer
            # ledger is there. Not of a revoked key: its thief could stop us with it.
            checkpoint = self._community.open_checkpoint(signed)
        except Rejected:
            return  # the broker is trusted with nothing but delivery
        ours = self._state.checkpoint
        if checkpoint.size > ours.size or (checkpoint.size == ours.size and checkpoint != ours):
            raise Behind(
                f"the broker keeps a checkpoint of {checkpoint.size} leaves, and the store has"
                f" {ours.size}. Restore a newer backup: cryptometer-gateway restore, with"
                " the newest of the ledger's files as --ledger"
            )

    def _say_refusals(self, refusals: list[Refusal]) -> list[Effect]:
        effects: list[Effect] = []
        for refusal in refusals:
            cause = (refusal.meter, refusal.reason)
            if cause not in self._said:
                self._said.add(cause)
                who = refusal.meter or "someone unregistered"
                effects.append(Say(f"refused from {who}: {refusal.reason}: {refusal.detail}"))
        return effects

    # --- Blocks ----------------------------------------------------------------------------------

    def next_due_ms(self, now: Instant) -> int | None:
        """The UTC moment, ms, by which `tick` should be called again if nothing is heard; None
        while no block can be sealed."""
        if self._may_seal_ms is None or self.why_not(now) is not None:
            return None
        end_ms = step_start_ms(self._state.step + 2, self._state.genesis.step_s)
        wait_ms = 0 if self._is_heard() else self._state.genesis.grace_ms
        return max(end_ms + wait_ms, self._may_seal_ms)

    def why_not(self, now: Instant) -> str | None:
        """What keeps this gateway from sealing blocks at all, for people; None if nothing does.
        It stays the same for as long as the cause does."""
        if not self._listening:
            return "waiting for the broker before the first block"
        if now.state is not ClockState.SYNCHRONISED and not self._policy.accept_unsynchronised:
            return (
                "the clock is not synchronised: no block is sealed. Start an NTP service (chrony,"
                " systemd-timesyncd), or set accept_unsynchronised, which every header then shows"
            )
        claim = self._present.doubts(now, self._is_vouched)
        if claim is not None:
            return (
                f"the clock says that it is much later than known ({utc(claim.utc_ns // NS_PER_MS)}"
                " when it began to): no block is sealed until half of the meters, their boards"
                " not off themselves meanwhile, date their records so too, or it has said so for"
                " an hour. If it is wrong, mend its time source; what came meanwhile is kept"
            )
        return None

    def tick(self, now: Instant) -> list[Effect]:
        """Seals the next block if it is time for it, and says what is owed; call again while it
        returns something."""
        self._look(now)

        owed = self._tell_checkpoint(now)
        due_ms = self.next_due_ms(now)
        now_ms = now.utc_ns // NS_PER_MS
        if due_ms is None or now_ms < due_ms:
            return owed
        return owed + self._seal(self._state.step + 1, now, now_ms)

    def published(self, sealed: Sealed, now: Instant) -> int | None:
        """The block's checkpoint is out: its punctuality in ms, None for one caught up on."""
        if sealed.row.caught_up:
            return None
        punctuality_ms = max(0, now.utc_ns // NS_PER_MS - sealed.since_ms)
        self._measured.append((sealed.row.step, punctuality_ms))
        return punctuality_ms

    @property
    def is_in_doubt(self) -> bool:
        """Whether the clock is far ahead and not believed yet."""
        return self._present.is_doubted

    def _is_vouched(self, steps: range) -> bool:
        """Whether half of the meters date what came last by a clock that says the same, and that
        was as slow to be believed as ours: one that leapt may have been believed at a boot."""
        meters = [
            meter
            for meter in self._everyone.meters.values()
            if meter.terms[-1].valid_to is None and self._private.speaks_of(meter)
        ]
        vouching = sum(self._waiting.leads_to(meter, steps) for meter in meters)
        return 0 < len(meters) <= 2 * vouching

    def _look(self, now: Instant) -> None:
        was_doubted = self._present.is_doubted
        self._present.look(now, self._is_vouched)
        if was_doubted or self._present.is_doubted:
            # What was not sealed meanwhile is caught up on, and nothing is measured by that clock.
            self._may_seal_ms = None
            self._last_close_ms = 0
        self._begin_sealing(now)

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
            self._waiting.has_closed(meter.name, step)
            for meter in self._state.meters.values()
            if meter.expected_at(step)
        )

    def _seal(self, step: int, now: Instant, now_ms: int) -> list[Effect]:
        before = self._state
        reading = ClockReading(now.source, now.state, -(-now.error_ns // NS_PER_MS))
        slot = Slot(step, now_ms, reading, caught_up=step <= self._missed_step)
        present = step_of(now_ms, before.genesis.step_s)
        public = [name for name, meter in before.meters.items() if not meter.is_private]
        self._waiting.offer(self._proposal, present, public)
        # Consumption first: the plant asks for it. It is counted once, also if this run ends here.
        self._private.advance(present, now_ms)
        shared, said = self._share()
        applied = self._proposal.finish(self._authority[before.authority.sequence :], shared)
        header = records.seal(applied.header(slot), before.community, self._signer)
        block = [*applied.leaves, header]
        checked = check_block(before, block, verified=_ALL, applied=applied)
        signed = note.sign_checkpoint(
            checked.state.checkpoint, self._community.origin, self._signer
        )
        dropped: list[tuple[Record, Rejected]] = []
        acting = self._acting(before.authority.sequence, checked.state)
        names = dict.fromkeys(map(meter_of, acting))
        private = self._private.acting(checked.state, acting)
        governed = [
            one
            for name in names
            if (one := checked.state.meters.get(name)) is not None and not one.is_private
        ]
        # What a chain has no place for goes in the same commit, which begins a new epoch: devices
        # were told that it is durable, and the place may be taken anew.
        for meter in governed:
            dropped += self._waiting.outlived(meter, self._proposal)
        changes = _drop(dropped, now_ms)
        hidden = masked(_drop(private.dropped, now_ms).refusals)
        changes = replace(
            changes,
            refusals=(*changes.refusals, *hidden),
            takes_back=bool(private.dropped),
        )
        raws = [record.raw for record in block]
        with self._ledger.publishing(before.frontier.size, raws, checked.leaf_hashes) as publish:
            new = file_block(before, checked, block, signed)
            self._commit(replace(changes, block=new))
            # Committed before published: a crash here is mended by `_check_own_ledger`.
            publish(signed)
        # Behind the store's commit, which has begun a new epoch if this lets go of anything; the
        # next start does it if this run ends here.
        self._private.govern(private, checked.state)
        self._published = _full_bundles(checked.state.frontier.size)
        since_ms = max(step_start_ms(step + 1, before.genesis.step_s), self._last_close_ms)
        self._last_close_ms = 0
        self._state = checked.state
        dropped += private.dropped
        self._waiting.release(self._proposal, {record.identity for record, _ in dropped})
        self._proposal = Proposal(checked.state, step + 1)
        self._note_acting(acting)
        effects: list[Effect] = [Publish(f"{self._topic}/checkpoint", signed.encode())]
        effects.append(Sealed(new.row, since_ms))
        # To let go of thousands of records takes a while, and can wait, too.
        self._spent = (block, applied, checked)
        for meter in (*governed, *private.accounts.values()):
            effects += self._tell_governed(meter)
        if any(map(_is_on_gateway, acting)):
            self._hand_over()
            for meter in self._everyone.meters.values():
                stop = self._door.stops.get(meter.name)
                effects += [self._tell_registration(meter.name), *self._acknowledge(meter, stop)]
        return effects + self._say_refusals(list(changes.refusals)) + said

    def _share(self) -> tuple[list[Record], list[Effect]]:
        """The distributions that go into the next block. What keeps the plant from its facts keeps
        no block from being sealed: the energy waits."""
        if self._vpp is None:
            return [], []
        made = self._vpp.distribute(self._state, self._proposal.settlements())
        failure = "" if self._vpp.failure is None else str(self._vpp.failure)
        is_new = failure not in ("", self._said_of_facts)
        self._said_of_facts = failure
        what = "what asks for consumption, coefficients or losses is not distributed now"
        return made, [Say(f"{what}: {failure}")] if is_new else []

    # --- What is sent ----------------------------------------------------------------------------

    def _acting(self, begin: int, after: State) -> list[Record]:
        """The authority records that act in the state `after`, from sequence `begin` on."""
        return self._authority[begin : after.authority.sequence]

    def _note_acting(self, acting: Iterable[Record]) -> None:
        for record in acting:
            if name := meter_of(record):
                self._told.setdefault(name, []).append(record.raw)
            elif _is_on_gateway(record):
                self._told_all.append(record.raw)

    def _hand_over(self) -> None:
        """The successor signs once its registration acts; what the old key has signed stands."""
        ours = self._state.parties.get((Role.GATEWAY, self._policy.name))
        if self._successor is not None and ours and ours.key == self._successor.public:
            self._signer, self._successor = self._successor, None

    def _tell_governed(self, meter: Meter) -> list[Effect]:
        """Authority records act on a meter: its chain may stand elsewhere, and it is told."""
        self._door.stops.pop(meter.name, None)
        self._unanswered.pop(meter.name, None)  # said of the chain as it was; this word is newer
        self._waiting.stand(meter)
        return [self._tell_registration(meter.name), *self._acknowledge(meter, None)]

    def _tell_checkpoint(self, now: Instant) -> list[Effect]:
        # Not before what the broker keeps has come: a newer one there must stop us, and the next
        # start too; ours would have taken its place.
        if self._may_seal_ms is None or now.utc_ns // NS_PER_MS < self._may_seal_ms:
            return []
        newest = self._store.blocks(1) if self._owes_checkpoint else []
        self._owes_checkpoint = False
        return [Publish(f"{self._topic}/checkpoint", row.note.encode()) for row in newest]

    def _tell_registration(self, name: str) -> Publish:
        topic = f"{self._topic}/meter/{name}/registration"
        return Publish(topic, cbor.encode([*self._told_all, *self._told.get(name, [])]))

    def _acknowledge(self, meter: Meter, stop: Stop | None) -> list[Publish]:
        """What is said to a meter; nothing where what was kept of it cannot be asked: another word
        in the same epoch would contradict the last one."""
        if not self._private.speaks_of(meter):
            return []
        head = self._waiting.head(meter)
        word = Acknowledgement(
            meter.name, self._store.epoch, head.sequence, head.previous, head.register or 0, stop
        )
        raw = records.sign(word, self._state.community, self._signer)
        return [Publish(f"{self._topic}/meter/{meter.name}/ack/{self._policy.name}", raw)]

    def _commit(self, changes: Changes) -> None:
        """One durable step; what waited to be noted goes with it."""
        is_damaged = self.private_damage is not None
        if is_damaged is not self._noted_damage:
            changes = replace(changes, is_private_damaged=is_damaged)
            self._noted_damage = is_damaged
        if changes.is_empty:
            return
        self._store.commit(
            replace(changes, published=self._published, measured=tuple(self._measured))
        )
        self._published = None
        self._measured = []


def _full_bundles(size: int) -> int:
    """How many of the leaves stand in files that are never written again. The store keeps the
    others' bytes: a partial bundle that is damaged is written anew from them."""
    return size - size % TILE_WIDTH


class _All:
    """Whatever waits has been verified: at the door, or when this run began."""

    def __contains__(self, raw: object) -> bool:
        return True


_ALL = _All()


def _drop(outlived: Iterable[tuple[Record, Rejected]], at_ms: int) -> Changes:
    """Lets go of pending records that can no longer become leaves; they are kept as evidence."""
    return Changes(
        dropped=tuple(record for record, _ in outlived),
        refusals=tuple(
            Refusal(meter_of(record), refused.reason, refused.detail, at_ms, record.raw)
            for record, refused in outlived
        ),
    )


def _is_on_gateway(record: Record) -> bool:
    body = record.body
    return isinstance(body, Registration | Revocation) and body.role is Role.GATEWAY


def found_store(store: Store, raws: Sequence[bytes]) -> None:
    """Puts a community's founding records, its authority's whole chain so far, into an empty
    store.

    Raises:
        Rejected: they are not a whole chain.
    """
    store.commit(Changes(authority=tuple(whole_chain(raws))))


def whole_chain(raws: Sequence[bytes]) -> list[Record]:
    """An authority's chain, from its genesis on.

    Raises:
        Rejected: it is not one, or not whole.
    """
    chain = [records.decode(raw) for raw in raws]
    if not chain:
        raise Rejected(Reason.MALFORMED, "no authority records")
    state = found(chain[0])
    for record in chain:
        state = govern(state, record)
    return chain


def gateway_name(community: Community, signer: Signer) -> str | None:
    """The name a gateway's key is registered under, None if it is not."""
    for record in community.records:
        match record.body:
            case Registration(role=Role.GATEWAY, key=key, name=name) if key == signer.public:
                return NAME.decode(name)
    return None
