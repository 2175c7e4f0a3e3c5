"""Defects put into the product on purpose, to show that the simulation can fail. Each is a patch of
the product's own functions, and names the promises of which one must be seen broken.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from cryptometer import block, chain, cose, judging, sharing
from cryptometer import settlement as settlement_module
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.chain_records import Mark
from cryptometer.drafting import draft
from cryptometer.errors import Reason, Rejected
from cryptometer.meter import Head, Meter
from cryptometer.proposal import Applied, Proposal
from cryptometer.records import Record
from cryptometer.settlement import Settlement, Waiting
from cryptometer.sharing import Outcome
from cryptometer.sharing_records import Distribution, Output
from cryptometer.steps import NS_PER_MS, ClockState, Instant
from firmware import (
    believing,
    conversing,
    counter,
    device,
    drafts,
    journal,
    lots,
    outbox,
    segments,
    timekeeping,
)
from gateway import door, ledger, memory_store, node, vpp, waiting
from gateway.memory_store import MemoryStore
from gateway.store import Changes
from hal.ports import Message

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deliberate defect.

    Attributes:
        what: the defect, as a sentence without an end.
        promises: those it breaks; whichever is seen first depends on the days.
        patches: what is replaced, where, and by what.
        first: the seed from which on it is looked for. Another one may do after a change of
            what is drawn.
        steps, rate: of the days it is looked for in: few, and wild ones, unless they must be as
            they were once.
    """

    what: str
    promises: str
    patches: Callable[[], list[Patch]]
    first: int = 0
    steps: int = 30
    rate: float | None = 3.0

    @contextmanager
    def applied(self) -> Any:
        """The product has the defect while this lasts."""
        with ExitStack() as stack:
            for where, name, by in self.patches():
                stack.enter_context(_replaced(where, name, by))
            yield


def _replaced(where: Any, name: str, by: Any) -> AbstractContextManager[Any]:
    return patch.object(where, name, by)


# --- The board. ---


def journal_never_synced() -> list[Patch]:
    return [(journal.Journal, "sync", lambda self: None)]


def published_before_synced() -> list[Patch]:
    take_due = outbox.Outbox.take_due

    def hasty(self: Any, now_ns: int, below: int = 0) -> list[bytes]:
        if self.end is not None:
            self._durable = self.end.sequence
        return take_due(self, now_ns)

    return [
        (outbox.Outbox, "take_due", hasty),
        (outbox.Outbox, "sync", lambda self: None),
    ]


def tail_unchecked() -> list[Patch]:
    def believing(head: bytes, payload: bytes) -> bool:
        return len(payload) == segments.payload_size(head) and bool(payload)

    return [(segments, "is_whole", believing)]


def step_closed_twice() -> list[Patch]:
    close_step = lots.Lots._close_step

    def twice(self: Any, clock: Any) -> None:
        close_step(self, clock)
        if self.drafts and isinstance(self.drafts[-1], drafts.CloseDraft):
            last = self.drafts[-1]
            self.drafts.append(replace(last, register=last.register_after))

    return [(lots.Lots, "_close_step", twice)]


def snapshot_before_drafts() -> list[Patch]:
    sign = device.Device._sign

    def late(self: Any) -> None:
        if self._counter._lots is not None and self._counter._lots.drafts:
            self._logs.begin_segment(self._counter)
        sign(self)

    return [(device.Device, "_sign", late)]


def old_segments_first() -> list[Patch]:
    begin_segment = journal.Journal.begin_segment

    def careless(self: Any, snapshot: Any) -> None:
        for segment in self._log.segments:
            self._log.drop(segment)
        begin_segment(self, snapshot)

    return [(journal.Journal, "begin_segment", careless)]


def gap_forgotten() -> list[Patch]:
    begin_run = lots.Lots.begin_run

    def proud(self: Any, utc_ms: int, *rest: Any) -> None:
        self._seen_ms = max(utc_ms, self._seen_ms or 0)
        begin_run(self, utc_ms, *rest)

    return [(lots.Lots, "begin_run", proud)]


def killed_run_watches_on() -> list[Patch]:
    def pass_by(self: Any, utc_ms: int, clock: Any) -> None:
        self._advance(utc_ms, clock)
        self._cut_when_due(utc_ms, clock)

    return [(lots.Lots, "pass_by", pass_by)]


def sync_retried() -> list[Patch]:
    sync = segments.SegmentedLog.sync

    def stubborn(self: Any) -> None:
        try:
            sync(self)
        except OSError:
            sync(self)

    return [(segments.SegmentedLog, "sync", stubborn)]


def lots_above_v() -> list[Patch]:
    def generous(self: Any) -> bool:
        return bool(self._register - self._lot_from >= 2 * self._acting.lot_pulses)

    return [(lots.Lots, "_is_full", generous)]


def pulses_into_another_step() -> list[Patch]:
    count = lots.Lots.count

    def ahead(self: Any, register: int, from_ms: int, to_ms: int, *rest: Any, **more: Any) -> None:
        step_ms = self.terms.step_ms
        count(self, register, from_ms + step_ms, to_ms + step_ms, *rest, **more)

    return [(lots.Lots, "count", ahead)]


def any_clock_believed() -> list[Patch]:
    def trusting(current: Any, instant: Instant) -> Any:
        return timekeeping.adopt(current, replace(instant, state=ClockState.SYNCHRONISED))

    return [(believing, "adopt", trusting)]


def signed_again_after_a_crash() -> list[Patch]:
    return [
        (counter.Counter, "resume", lambda self, signed: None),
    ]


def counted_twice_at_a_start() -> list[Patch]:
    apply = counter.Counter.apply

    def adding(self: Any, event: Any) -> None:
        before = self.register
        apply(self, event)
        if type(event).__name__ == "Pulses" and event.register <= before:
            apply(self, replace(event, register=before + 1))

    return [(counter.Counter, "apply", adding)]


def losses_not_declared() -> list[Patch]:
    notice = counter.Counter._notice

    def silent(self: Any, mark: int, amount: int) -> None:
        if mark != Mark.LOST:
            notice(self, mark, amount)

    return [(counter.Counter, "_notice", silent)]


def unsigned_words_believed() -> list[Patch]:
    from cryptometer import records

    def gullible(raw: bytes, enrolment: Any) -> Acknowledgement:
        body = records.decode(raw).body
        if not isinstance(body, Acknowledgement):
            raise Rejected(Reason.UNKNOWN_KIND, "no word")
        return body

    return [(conversing, "open_acknowledgement", gullible)]


def older_words_believed() -> list[Patch]:
    acknowledge = outbox.Outbox.acknowledge

    def forgetful(self: Any, word: Acknowledgement, now_ns: int) -> None:
        if self.end is not None:
            word = replace(word, epoch=max(word.epoch, self.end.epoch + 1))
        acknowledge(self, word, now_ns)

    return [(outbox.Outbox, "acknowledge", forgetful)]


def broker_believed() -> list[Patch]:
    take_due = outbox.Outbox.take_due

    def careless(self: Any, *rest: Any) -> list[bytes]:
        due = take_due(self, *rest)
        if due and self.end is not None:
            self.end = replace(self.end, acknowledged=self._sent)
            while self._kept and self._kept[0].sequence < self._sent:
                self._kept.popleft()
        return due

    return [(outbox.Outbox, "take_due", careless)]


def dropped_and_not_signed_anew() -> list[Patch]:
    return [(outbox.Outbox, "take_back", lambda self, first: None)]


# --- The gateway. ---


def acknowledged_before_stored() -> list[Patch]:
    commit = node.Node._commit
    held: dict[int, Changes] = {}

    def late(self: Any, changes: Changes) -> None:
        earlier = held.pop(id(self), None)
        if earlier is not None:
            commit(self, earlier)
        if changes.accepted:
            held[id(self)] = changes
        else:
            commit(self, changes)

    return [(node.Node, "_commit", late)]


def repeats_accepted() -> list[Patch]:
    def lenient(meter: Meter, head: Head, record: Record, body: Any) -> Head:
        try:
            return chain.follow(meter, head, record, body)
        except Rejected as refused:
            if refused.reason is Reason.REPEAT:
                return head
            raise

    return [(door, "follow", lenient)]


def signatures_unchecked() -> list[Patch]:
    return [(cose.Envelope, "verify", lambda self, key: None)]


def late_records_in_no_block() -> list[Patch]:
    offer = waiting.Waiting.offer

    def strict(self: Any, proposal: Proposal, *rest: Any, **more: Any) -> None:
        everything = self._records
        self._records = {
            name: [one for one in records if getattr(one.body, "step", 0) >= proposal.step]
            for name, records in everything.items()
        }
        offer(self, proposal, *rest, **more)
        self._records = everything

    return [(waiting.Waiting, "offer", strict)]


def block_skipped() -> list[Patch]:
    seal = node.Node._seal

    def hurried(self: Any, step: int, *rest: Any) -> Any:
        return seal(self, step + (step % 7 == 0), *rest)

    return [(node.Node, "_seal", hurried), (block, "_check_header", lambda *_: None)]


def checkpoint_before_tiles() -> list[Patch]:
    publishing = ledger.Ledger.publishing

    @contextmanager
    def hasty(self: Any, *given: Any) -> Iterator[Callable[[str], None]]:
        with publishing(self, *given) as publish:

            def turned(note: str) -> None:
                self._tree.put_all({"checkpoint": note.encode()})
                publish(note)

            yield turned

    return [(ledger.Ledger, "publishing", hasty)]


def published_before_committed() -> list[Patch]:
    commit = node.Node._commit

    def hasty(self: Any, changes: Changes) -> None:
        if changes.block is not None:
            row = changes.block.row
            raws = [record.raw for record in changes.block.leaves]
            self._ledger.publish(row.first, raws, row.note)
        commit(self, changes)

    return [(node.Node, "_commit", hasty)]


def energy_from_totals() -> list[Patch]:
    header = Applied.header

    def padded(self: Any, slot: Any) -> Any:
        stated = header(self, slot)
        balance = stated.balance
        more = replace(
            balance, registered=balance.registered + 1, untransferred=balance.untransferred + 1
        )
        return replace(stated, balance=more)

    return [(Applied, "header", padded)]


def pending_forgotten_at_a_start() -> list[Patch]:
    recover = node.Node._recover

    def forgetful(self: Any) -> None:
        with patch.object(self._store, "pending", list):
            recover(self)

    return [(node.Node, "_recover", forgetful)]


def dropped_in_the_old_epoch() -> list[Patch]:
    commit = MemoryStore.commit

    def silent(self: Any, changes: Changes) -> None:
        commit(self, changes)
        self.epoch -= bool(changes.dropped)

    return [(MemoryStore, "commit", silent)]


def chains_begin_from_the_newest_registration() -> list[Patch]:
    continues = chain._continues

    def strict(meter: Meter, head: Head, record: Record, body: Any) -> bool:
        return continues(meter, head, record, body) and body.previous == head.previous

    return [(chain, "_continues", strict)]


def refusals_uncounted() -> list[Patch]:
    judge = door.Door.judge

    def silent(self: Any, state: Any, messages: list[Message], now_ms: int) -> Any:
        verdicts = judge(self, state, messages, now_ms)
        verdicts.refusals.clear()
        return verdicts

    return [(door.Door, "judge", silent)]


def sealed_before_the_step_ends() -> list[Patch]:
    tick = node.Node.tick

    def early(self: Any, now: Instant) -> Any:
        ahead_ns = 2 * 900_000 * NS_PER_MS
        return tick(self, replace(now, utc_ns=now.utc_ns + ahead_ns))

    return [(node.Node, "tick", early)]


# --- The virtual power plant. ---


def _redraft(change: Callable[[Distribution, Settlement], Distribution | None]) -> list[Patch]:
    """The plant makes something else of each distribution that it drafts."""

    def wrong(agreed: Any, settlement: Settlement, **facts: Any) -> Distribution | None:
        whole = draft(agreed, settlement, **facts)
        return None if whole is None else change(whole, settlement)

    return [(vpp, "draft", wrong)]


def _unjudged(changed: list[Patch]) -> list[Patch]:
    """As well, and no block is judged by the rule: only an account of one's own shows it."""

    def lenient(*_: Any) -> None:
        pass

    return [*changed, (judging, "_check_rule", lenient)]


def _with_outputs(whole: Distribution, outputs: Iterable[Output]) -> Distribution:
    """What is left to others is surplus, so that the sums are right."""
    some = tuple(outputs)
    inflow = sum(one.energy_uwh for one in whole.inputs) + whole.from_surplus_uwh
    out = sum(one.energy_uwh for one in some) + whole.losses_uwh + whole.fee_uwh
    return replace(whole, outputs=some, surplus_uwh=max(0, inflow - out))


def input_given_twice() -> list[Patch]:
    def judged(settlement: Settlement, inputs: Any) -> list[Waiting]:
        known = {one.close: one for one in settlement.waiting}
        return [known[one.close] for one in inputs if one.close in known]

    def twice(whole: Distribution, _: Settlement) -> Distribution:
        doubled = [replace(one, energy_uwh=2 * one.energy_uwh) for one in whole.outputs]
        more = replace(whole, inputs=whole.inputs * 2)
        return _with_outputs(more, doubled) if doubled else more

    return [*_unjudged(_redraft(twice)), (judging, "_spent", judged)]


def given_outside_the_agreement() -> list[Patch]:
    def astray(whole: Distribution, _: Settlement) -> Distribution:
        return replace(whole, outputs=(*whole.outputs, Output("zoe", 1, 0)))

    return _redraft(astray)


def given_to_the_first_alone() -> list[Patch]:
    def greedy(whole: Distribution, _: Settlement) -> Distribution:
        total = sum(one.energy_uwh for one in whole.outputs)
        first = [replace(one, energy_uwh=total) for one in whole.outputs[:1]]
        return _with_outputs(whole, first)

    return _unjudged(_redraft(greedy))


def energy_kept_back() -> list[Patch]:
    def stingy(whole: Distribution, _: Settlement) -> Distribution:
        return _with_outputs(
            whole, [replace(one, energy_uwh=one.energy_uwh - 1) for one in whole.outputs]
        )

    return _unjudged(_redraft(stingy))


def some_steps_never_given() -> list[Patch]:
    def forgetful(whole: Distribution, settlement: Settlement) -> Distribution | None:
        return whole if settlement.step % 3 else None

    return _redraft(forgetful)


def taken_back_by_a_supplement() -> list[Patch]:
    def retroactive(before: Outcome, whole: Outcome, energy_uwh: int) -> Outcome:
        """All surplus of the step is taken back, though nobody lacks so much."""
        more = sharing.supplement(before, whole, energy_uwh)
        back = before.surplus_uwh - more.from_surplus_uwh
        first, *others = more.given
        return replace(
            more, given=(first + back, *others), from_surplus_uwh=more.from_surplus_uwh + back
        )

    return [(settlement_module, "supplement", retroactive)]


def distributions_left_out_of_their_block() -> list[Patch]:
    finish = Proposal.finish

    def leaky(self: Any, authority: Any = (), distributions: Any = ()) -> Any:
        applied = finish(self, authority, distributions)
        end = len(applied.leaves) - len(distributions)
        return replace(
            applied,
            leaves=applied.leaves[:end],
            verdicts=applied.verdicts[:end],
            leaf_hashes=applied.leaf_hashes[:end],
        )

    return [(Proposal, "finish", leaky)]


def distributions_not_filed() -> list[Patch]:
    return [(memory_store, "distributions_of", lambda _: [])]


def settlements_forgotten_at_a_start() -> list[Patch]:
    state = MemoryStore.state

    def forgetful(self: Any) -> Any:
        known = state(self)
        return known if known is None else replace(known, settlements={})

    return [(MemoryStore, "state", forgetful)]


MUTATIONS = (
    Mutation("the journal is never synced", "C", journal_never_synced),
    Mutation("records are published before they are durable", "CD", published_before_synced),
    Mutation("the tail of a log is not checked", "ACDH", tail_unchecked),
    Mutation("a step is closed twice", "D", step_closed_twice),
    Mutation("a snapshot is made before the drafts are signed", "ABD", snapshot_before_drafts),
    Mutation("old segments go before the new one is durable", "CD", old_segments_first, 56),
    Mutation("the unwatched interval is forgotten", "C", gap_forgotten),
    Mutation("a killed run watches on while the line is gone", "C", killed_run_watches_on, 27),
    Mutation("a failed sync is tried again", "CD", sync_retried),
    Mutation("lots go above V", "B", lots_above_v),
    Mutation("pulses go into the next step", "BCD", pulses_into_another_step),
    Mutation("any clock is believed", "BCD", any_clock_believed),
    Mutation("what is signed is signed again after a crash", "ABCD", signed_again_after_a_crash),
    Mutation("a pulse is counted twice at a start", "AC", counted_twice_at_a_start),
    Mutation("what the kernel dropped is not declared", "A", losses_not_declared, 12),
    Mutation("an acknowledgement needs no signature", "H", unsigned_words_believed),
    Mutation("an older epoch's word counts", "DH", older_words_believed),
    Mutation("the broker's delivery counts as an acknowledgement", "D", broker_believed),
    Mutation(
        "what was dropped and the card still holds is not signed anew",
        "D",
        dropped_and_not_signed_anew,
        30_039,
        70,
        None,
    ),
    Mutation("records are acknowledged before they are stored", "DH", acknowledged_before_stored),
    Mutation("a repeat is accepted", "DH", repeats_accepted),
    Mutation("signatures are not checked", "DEH", signatures_unchecked),
    Mutation("late records get into no block", "ADH", late_records_in_no_block),
    Mutation("a step gets no block", "E", block_skipped),
    Mutation("the checkpoint is published before its tiles", "E", checkpoint_before_tiles, 2),
    Mutation("a block is published before it is committed", "E", published_before_committed),
    Mutation("energy is taken from the headers' totals", "F", energy_from_totals),
    Mutation("a gateway forgets at its start what waited", "DH", pending_forgotten_at_a_start),
    Mutation("what was acknowledged is dropped without a word", "AD", dropped_in_the_old_epoch, 18),
    Mutation(
        "a chain begins from the newest registration alone",
        "D",
        chains_begin_from_the_newest_registration,
    ),
    Mutation("refusals are not counted", "H", refusals_uncounted),
    Mutation("blocks are sealed before their step ends", "E", sealed_before_the_step_ends),
    Mutation("an input is given twice", "FH", input_given_twice),
    Mutation("somebody outside the agreement is given some", "F", given_outside_the_agreement),
    Mutation("one member is given all", "F", given_to_the_first_alone),
    Mutation("the plant keeps energy back", "F", energy_kept_back),
    Mutation("some steps are never given", "F", some_steps_never_given),
    Mutation("a supplement takes back the surplus", "F", taken_back_by_a_supplement),
    Mutation("a distribution counts and is dropped", "E", distributions_left_out_of_their_block),
    Mutation("distributions are not filed by their step", "G", distributions_not_filed),
    Mutation("what was settled is forgotten at a start", "EF", settlements_forgotten_at_a_start),
)
