"""Writes a meter's chain: drafts become signed records. Registers of drafts are the counter's own;
those of records are the chain's, which differ once the authority has re-anchored it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import ReAnchor
from cryptometer.chain_records import Batch, ChainRecord, Reading, RunStart, StepClose
from cryptometer.keys import Signer
from cryptometer.record_fields import Checkpoint
from cryptometer.records import Record
from firmware.drafts import (
    BatchDraft,
    CloseDraft,
    ComparedDraft,
    Comparison,
    Draft,
    ReadingDraft,
    RunDraft,
)
from firmware.end import Anew, End, chain_start, follow, starts_from
from firmware.lots import Signed


@dataclass(frozen=True, slots=True)
class Chain:
    """Whose chain it is, and with which key and under which registrations it is signed.

    Attributes:
        registrations: those by which the register has its present unit: from which step on each
            acts, and its identity; the newest last.
        source: of an index, the protocol.
        compared: of an index that is only compared, the protocol.
    """

    meter: str
    community: bytes
    registrations: tuple[tuple[int, bytes], ...]
    signer: Signer
    source: str = "pulses"
    compared: str = "index"

    def sign(
        self, drafts: Iterable[Draft], end: End, checkpoint: Checkpoint | None
    ) -> Iterator[Record]:
        """Signs drafts as the records that follow `end`, each when it is asked for.

        Args:
            drafts: in order of the chain.
            end: where the chain stands.
            checkpoint: the newest one this device has verified; closes name it.

        Raises:
            KeyLost: one of them cannot be signed now.
        """
        for draft in drafts:
            body = self._body(draft, end, checkpoint)
            record = records.seal(body, self.community, self.signer)
            end = follow(end, record)
            yield record

    def _acting_at(self, step: int) -> bytes:
        """The newest registration that covers a step: one that does not would not count there."""
        covering = [identity for first, identity in self.registrations if first <= step]
        return covering[-1] if covering else min(self.registrations)[1]

    def _named_by(self, draft: ReadingDraft) -> bytes:
        """A reading that was signed in another unit stays in it."""
        named = draft.registration
        known = {identity for _, identity in self.registrations}
        return self._acting_at(draft.step) if named is None or named in known else named

    def _body(
        self, draft: Draft, end: End, checkpoint: Checkpoint | None
    ) -> RunStart | Batch | Reading | StepClose:
        head = (self.meter, end.sequence, end.previous, draft.clock, draft.marks)
        match draft:
            case RunDraft():
                return RunStart(
                    *head,
                    register=draft.register + end.offset,
                    step=draft.step,
                    at_ms=draft.at_ms,
                    software=draft.software,
                    ending=draft.ending,
                    unwatched_ms=draft.unwatched_ms,
                )
            case BatchDraft():
                return Batch(
                    *head,
                    register=draft.register + end.offset,
                    step=draft.step,
                    registration=self._acting_at(draft.step),
                    lots=draft.lots,
                )
            case ReadingDraft():
                return Reading(
                    *head,
                    register=draft.register + end.offset,
                    step=draft.step,
                    registration=self._named_by(draft),
                    index=draft.index + end.offset,
                    at_ms=draft.at_ms,
                    source=self.source,
                    counting=True,
                    since_step=draft.since_step,
                )
            case ComparedDraft(compared=compared):
                counted = compared.counted + end.offset
                return Reading(
                    *head,
                    register=draft.register + end.offset,
                    step=draft.step,
                    registration=self._acting_at(draft.step),
                    index=compared.index,
                    at_ms=compared.at_ms,
                    source=self.compared,
                    counting=False,
                    unit_uwh=compared.unit_uwh,
                    # Behind a re-anchor it may lie before all that this chain counts.
                    counted=counted if counted >= 0 else None,
                )
            case CloseDraft():
                return StepClose(
                    *head,
                    register=end.closed_from,
                    step=draft.step,
                    register_after=draft.register_after + end.offset,
                    watched=draft.watched,
                    checkpoint=checkpoint,
                )


def signed_so_far(end: End) -> Signed:
    """What the counter must know of the signed chain, in the counter's registers."""
    return Signed(
        max(0, end.register - end.offset),
        end.closed_step,
        max(0, end.closed_from - end.offset),
        end.run_ms,
        end.step,
        end.read_step,
        end.compared_step,
    )


def first_refused(end: End, anchor: ReAnchor, missed: int) -> int:
    """The first of our records that a gateway whose chain goes on behind this re-anchor provably
    does not have: those from its place on, and those from where the gateway's own words have shown
    that it holds others. Of the ones before nobody can say so: they are not signed again.

    Args:
        end: the end of the chain as signed here.
        anchor: the newest re-anchor.
        missed: how many re-anchors this chain has not acted on.
    """
    forked = end.forked
    # Behind an earlier re-anchor damage may have taken our word that we had acted on it.
    if forked is None or forked < end.acknowledged or missed > 1:
        return anchor.at
    return min(anchor.at, forked)


def may_take_back(end: End, missed: int) -> bool:
    """Whether records that were acknowledged from a re-anchor's place on may be signed anew. Where
    damage may have taken our word that we acted on an earlier one, they may have been already, and
    stand in blocks under other numbers.

    Args:
        end: the end of the chain as signed here.
        missed: how many re-anchors this chain has not acted on.
    """
    return missed == 1 or end.suspect is None


def anchored(
    end: End | None, unsigned_from: int, anchors: Sequence[Record], first: Record | None
) -> End:
    """Where the chain goes on after the newest re-anchor, and what must be signed anew for it.

    What the gateway refused was never counted by anyone, so it is signed again behind the
    re-anchor; nothing that was given is lost.

    Args:
        end: the end of the chain as signed here, None if there is none.
        unsigned_from: the counter's register from which on nothing is signed.
        anchors: all re-anchors of this meter, oldest first; at least one.
        first: the first record that was refused, if there is one.
    """
    record = anchors[-1]
    assert isinstance(record.body, ReAnchor)  # noqa: S101 - the caller's condition
    start = end or chain_start(record.identity)
    anew = None
    begins = unsigned_from
    if first is not None:
        assert isinstance(first.body, ChainRecord)  # noqa: S101 - the outbox keeps nothing else
        anew = Anew(first.body.sequence, start.sequence, start.shift, unsigned_from, 0)
        begins = starts_from(first) - start.offset
    offset = record.body.register - begins
    return replace(
        start,
        sequence=record.body.at,
        previous=record.identity,
        register=record.body.register,
        closed_from=record.body.register,
        shift=start.shift - start.offset + offset,
        acknowledged=record.body.at,
        anchors=len(anchors),
        anew=anew,
        # A chain begun on an empty card: whether another stood there before, nobody here knows.
        torn=record.body.at if end is None else None,
        forked=None,
    )


def is_acting(anchor: Record, word: Acknowledgement) -> bool:
    """Whether a gateway's signed word shows that its chain goes on right behind a re-anchor. Only
    then is what we sent before, and it did not take in, refused for good."""
    body = anchor.body
    return isinstance(body, ReAnchor) and (word.sequence, word.previous) == (
        body.at,
        anchor.identity,
    )


def aligned(end: End, drafts: Sequence[Draft]) -> End:
    """The end of a chain that another board began, for the first record of ours: pulses counted
    before the registration's first step are nobody's, and the chain goes on without them."""
    if end.run_ms or not end.anchors or not isinstance(drafts[0], RunDraft):
        return end
    return replace(end, shift=end.shift - end.offset + end.register - drafts[0].register)


def draft_of(record: Record, offset: int) -> Draft:
    """What a record was signed from, in the counter's registers."""
    match record.body:
        case RunStart() as body:
            return RunDraft(
                body.register - offset,
                body.step,
                body.clock,
                body.marks,
                body.at_ms,
                body.software,
                body.ending,
                body.unwatched_ms,
            )
        case Batch() as body:
            return BatchDraft(body.register - offset, body.step, body.clock, body.marks, body.lots)
        case Reading(counting=False) as body:
            counted = body.register if body.counted is None else body.counted
            compared = Comparison(body.index, body.unit_uwh or 1, counted - offset, body.at_ms)
            return ComparedDraft(
                body.register - offset, body.step, body.clock, body.marks, compared
            )
        case Reading() as body:
            return ReadingDraft(
                body.register - offset,
                body.step,
                body.clock,
                body.marks,
                body.index - offset,
                body.at_ms,
                body.since_step,
                body.registration,
            )
        case StepClose() as body:
            return CloseDraft(
                body.register - offset,
                body.step,
                body.clock,
                body.marks,
                body.register_after - offset,
                body.watched,
            )
        case other:
            raise TypeError(f"no {other.KIND} stands in a meter's chain")
