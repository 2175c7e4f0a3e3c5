"""Writes a meter's chain: drafts become signed records. Registers of drafts are the counter's own;
those of records are the chain's, which differ once the authority has re-anchored it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cryptometer import records
from cryptometer.keys import Signer
from cryptometer.records import (
    Batch,
    ChainRecord,
    Checkpoint,
    ReAnchor,
    Record,
    RunStart,
    StepClose,
)
from firmware.lots import BatchDraft, CloseDraft, Draft, RunDraft, Signed
from firmware.outbox import End, chain_start, follow


@dataclass(frozen=True, slots=True)
class Chain:
    """Whose chain it is, and with which key and under which registrations it is signed.

    Attributes:
        registrations: from which step on each acts, and its identity; the newest last.
    """

    meter: str
    community: bytes
    registrations: tuple[tuple[int, bytes], ...]
    signer: Signer

    def sign(
        self, drafts: Iterable[Draft], end: End, checkpoint: Checkpoint | None
    ) -> list[Record]:
        """Signs drafts as the records that follow `end`.

        Args:
            drafts: in order of the chain.
            end: where the chain stands.
            checkpoint: the newest one this device has verified; closes name it.
        """
        signed: list[Record] = []
        for draft in drafts:
            body = self._body(draft, end, checkpoint)
            record = records.seal(body, self.community, self.signer)
            end = follow(end, record)
            signed.append(record)
        return signed

    def _acting_at(self, step: int) -> bytes:
        """The newest registration that covers a step: one that does not would not count there."""
        covering = [identity for first, identity in self.registrations if first <= step]
        return covering[-1] if covering else min(self.registrations)[1]

    def _body(
        self, draft: Draft, end: End, checkpoint: Checkpoint | None
    ) -> RunStart | Batch | StepClose:
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
    )


def anchored(
    end: End | None, unsigned_from: int, anchors: Sequence[Record], refused: list[Record]
) -> tuple[End, list[Draft]]:
    """Where the chain goes on after the newest re-anchor, and what must be signed anew for it.

    What the gateway refused was never counted by anyone, so its drafts are signed again, behind
    the re-anchor; nothing that was given is lost. What it took in without our hearing of it is
    not: where our chain stands at the re-anchor's place with the re-anchor's register, what lies
    before that place is the gateway's; so is what lies before a place at which damage cut our log,
    if the gateway went on behind it.

    Args:
        end: the end of the chain as signed here, None if there is none.
        unsigned_from: the counter's register from which on nothing is signed.
        anchors: all re-anchors of this meter, oldest first; at least one.
        refused: the records nobody has acknowledged, in order.
    """
    record = anchors[-1]
    assert isinstance(record.body, ReAnchor)  # noqa: S101 - the caller's condition
    start = end or chain_start(record.identity)
    drafts = [_draft(one, start.offset) for one in _beyond(record.body, start, refused)]
    first = _starts_from(drafts[0]) if drafts else unsigned_from
    offset = record.body.register - first
    fresh = replace(
        start,
        sequence=record.body.at,
        previous=record.identity,
        register=record.body.register,
        closed_from=record.body.register,
        shift=start.shift - start.offset + offset,
        acknowledged=record.body.at,
        anchors=len(anchors),
        anew=len(drafts) or None,
        torn=None,
    )
    return fresh, drafts


def aligned(end: End, drafts: Sequence[Draft]) -> End:
    """The end of a chain that another board began, for the first record of ours: pulses counted
    before the registration's first step are nobody's, and the chain goes on without them."""
    if end.run_ms or not end.anchors or not isinstance(drafts[0], RunDraft):
        return end
    return replace(end, shift=end.shift - end.offset + end.register - drafts[0].register)


def _beyond(anchor: ReAnchor, end: End, unheard: list[Record]) -> list[Record]:
    """Of the records nobody has acknowledged, those the gateway can not have."""
    if end.torn is not None and anchor.at >= end.torn:
        # It went on where damage cut our log, and its words may have been lost with the rest.
        unheard = [one for one in unheard if _sequence(one) >= end.torn]
    place = [one for one in unheard if _sequence(one) >= anchor.at]
    if place and _sequence(place[0]) == anchor.at:
        register = _starts_from(_draft(place[0], 0))
    elif anchor.at == end.sequence:
        register = end.register
    else:
        return unheard
    return place if register == anchor.register else unheard


def _sequence(record: Record) -> int:
    assert isinstance(record.body, ChainRecord)  # noqa: S101 - the outbox keeps nothing else
    return record.body.sequence


def _starts_from(draft: Draft) -> int:
    return draft.register_after if isinstance(draft, CloseDraft) else draft.register


def _draft(record: Record, offset: int) -> Draft:
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
