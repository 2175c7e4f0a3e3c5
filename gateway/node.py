"""The gateway's core: messages and time in, ordered effects out.

Store, then send: an acknowledgement leaves only after the commit that holds what it acknowledges,
a checkpoint only after the commit of its block. The shell performs effects in their order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cryptometer import note, records
from cryptometer.acknowledgement import Stop
from cryptometer.block import check_block
from cryptometer.chain import follow, open_record
from cryptometer.chain_records import StepClose
from cryptometer.community import Community, trust
from cryptometer.errors import Rejected
from cryptometer.governing import govern
from cryptometer.keys import Signer
from cryptometer.meter import Meter
from cryptometer.proposal import Proposal, Slot
from cryptometer.record_fields import ClockReading, Role
from cryptometer.records import Record
from cryptometer.state import State
from cryptometer.steps import NS_PER_MS, Instant, step_of
from gateway.behind import check_files, check_retained, full_bundles
from gateway.door import Door, Verdicts, Verify, verify_each
from gateway.due import Due
from gateway.effects import Confirm, Effect, Publish, Say, Sealed
from gateway.filing import file_block, meter_of
from gateway.ledger import Ledger
from gateway.private_path import Chains, NoChains, PrivatePath, masked
from gateway.store import Changes, Refusal, Store, StoreDamaged
from gateway.vpp import Vpp
from gateway.waiting import Waiting
from gateway.words import Words, is_on_gateway
from hal.ports import Message


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
        self._words = Words(state.community, policy.name)
        self._waiting = Waiting()
        self._private = PrivatePath(chains or NoChains(), self._waiting, state)
        self._said_of_facts = ""
        self._noted_damage = store.is_private_damaged()
        self._door = Door(
            self._words.topic,
            self._identity_at,
            self._waiting,
            verify,
            is_private_kept=lambda: self._private.is_kept,
        )
        self._proposal = Proposal(state, state.step + 1)  # applied ahead, while records come in
        self._unanswered: dict[str, Stop | None] = {}
        self._unconfirmed: list[tuple[int, int]] = []
        self._spent: object = None  # what the newest block was made of, until it is answered
        self._measured: list[tuple[int, int]] = []
        self._published: int | None = None
        self.mended: list[str] = []  # files of the ledger that this start has written anew
        self._owes_checkpoint = False
        newest = store.blocks(1)
        known_ms = newest[0].sealed_ms if newest else None
        self._due = Due(
            known_ms,
            state.genesis,
            self._is_vouched,
            policy.settle_ms,
            accept_unsynchronised=policy.accept_unsynchronised,
        )
        self._hand_over()
        self._words.note_acting(self._acting(0, state))
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
        self.mended = check_files(self._store, self._ledger, self._community, self._state)
        self._published = full_bundles(self._state.checkpoint.size)
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

    # --- What comes in ---------------------------------------------------------------------------

    def connected(self, now: Instant) -> list[Effect]:
        """The broker accepted us: retained words are said anew, since it may have been wiped."""
        self._due.listen()
        self._owes_checkpoint = True
        self._due.look(now)
        effects = self._tell_checkpoint(now)
        for meter in self._everyone.meters.values():
            effects.append(self._words.registration(meter.name))
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
            if message.topic == f"{self._words.topic}/checkpoint":
                check_retained(message.payload, self._community, self._state)
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
                self._due.closed(now_ms)
        self._due.look(now)  # what came may vouch for the clock
        self._waiting.offer(self._proposal, names={meter_of(record): None for record in public})
        self._unanswered |= verdicts.answers
        # Confirmed whatever the verdict: a bad message must not come again before a good one.
        self._unconfirmed += [message.token for message in messages]
        return self._words.of_refusals(refusals)

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

    # --- Blocks ----------------------------------------------------------------------------------

    def next_due_ms(self, now: Instant) -> int | None:
        """The UTC moment, ms, by which `tick` should be called again if nothing is heard; None
        while no block can be sealed."""
        return self._due.at_ms(now, self._state.step + 1, self._is_heard)

    def why_not(self, now: Instant) -> str | None:
        """What keeps this gateway from sealing blocks at all, for people; None if nothing does.
        It stays the same for as long as the cause does."""
        return self._due.why_not(now)

    def tick(self, now: Instant) -> list[Effect]:
        """Seals the next block if it is time for it, and says what is owed; call again while it
        returns something."""
        self._due.look(now)
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
        return self._due.is_in_doubt

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
        slot = Slot(step, now_ms, reading, caught_up=self._due.has_missed(step))
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
            # Committed before published: a crash here is mended by `check_files`.
            publish(signed)
        # Behind the store's commit, which has begun a new epoch if this lets go of anything; the
        # next start does it if this run ends here.
        self._private.govern(private, checked.state)
        self._published = full_bundles(checked.state.frontier.size)
        since_ms = self._due.sealed(step)
        self._state = checked.state
        dropped += private.dropped
        self._waiting.release(self._proposal, {record.identity for record, _ in dropped})
        self._proposal = Proposal(checked.state, step + 1)
        self._words.note_acting(acting)
        effects: list[Effect] = [self._words.checkpoint(signed)]
        effects.append(Sealed(new.row, since_ms))
        # To let go of thousands of records takes a while, and can wait, too.
        self._spent = (block, applied, checked)
        for meter in (*governed, *private.accounts.values()):
            effects += self._tell_governed(meter)
        if any(map(is_on_gateway, acting)):
            self._hand_over()
            for meter in self._everyone.meters.values():
                stop = self._door.stops.get(meter.name)
                effects += [self._words.registration(meter.name), *self._acknowledge(meter, stop)]
        return effects + self._words.of_refusals(list(changes.refusals)) + said

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
        return [self._words.registration(meter.name), *self._acknowledge(meter, None)]

    def _tell_checkpoint(self, now: Instant) -> list[Effect]:
        # Not before what the broker keeps has come: a newer one there must stop us, and the next
        # start too; ours would have taken its place.
        if not self._due.has_settled(now):
            return []
        newest = self._store.blocks(1) if self._owes_checkpoint else []
        self._owes_checkpoint = False
        return [self._words.checkpoint(row.note) for row in newest]

    def _acknowledge(self, meter: Meter, stop: Stop | None) -> list[Publish]:
        """What is said to a meter; nothing where what was kept of it cannot be asked: another word
        in the same epoch would contradict the last one."""
        if not self._private.speaks_of(meter):
            return []
        head = self._waiting.head(meter)
        epoch = self._store.epoch
        return [self._words.acknowledgement(meter, head, stop, epoch, self._signer)]

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
