"""Where a signed chain ends: all that must be known of it to sign the next record. It stands in
outbox and journal, so that each of the two alone knows what was signed.
"""

from dataclasses import dataclass, replace

from cryptometer.chain_records import Batch, Reading, RunStart, StepClose
from cryptometer.record_fields import DIGEST, MS, STEP
from cryptometer.records import Record
from cryptometer.wire import Row, Uint, wire, wire_optional

OFFSET_ZERO = 2**62  # offsets are stored from here, since records hold no negative numbers


@dataclass(frozen=True, slots=True)
class Anew:
    """The records of an abandoned chain that a re-anchor has still to be followed by.

    Attributes:
        first: sequence, in that chain, of the next one to be signed anew.
        beyond: sequence at which that chain ended.
        shift: its offset + 2^62.
        unsigned: the counter's register at its end.
        segment: the first file of the chain that replaces it; what is signed anew stands before.
    """

    first: int = wire(0, Uint())
    beyond: int = wire(1, Uint())
    shift: int = wire(2, Uint())
    unsigned: int = wire(3, Uint())
    segment: int = wire(4, Uint())

    @property
    def offset(self) -> int:
        return self.shift - OFFSET_ZERO

    def after(self, first: int) -> "Anew | None":
        """What is left from `first` on."""
        return replace(self, first=first) if first < self.beyond else None


@dataclass(frozen=True, slots=True)
class End:
    """The end of the chain as signed here, and how far it is acknowledged.

    Attributes:
        sequence: of the next record.
        previous: what it must name as the one before.
        register: where it must start; chain registers are the counter's plus `offset`.
        closed_from: chain register at the newest close, or at the chain's start.
        run_ms: when the newest signed run began, 0 before the first.
        shift: `offset` + 2^62.
        epoch: of the newest acknowledgement.
        acknowledged: sequence number up to which, exclusively, the gateway has the chain.
        anchors: number of re-anchors that have acted on this chain.
        closed_step: the newest step closed.
        anew: what a re-anchor leaves to be signed anew.
        torn: the first record that may stand where another was signed before, because damage took
            both logs' word on it; a suspicion, void once the gateway has acknowledged it.
        forked: the first record that the gateway's signed word shows to be none of its own.
        step: of the newest record.
        read_step: of the newest reading that counts; no step before it is told behind it.
        begun: the place in the authority's chain of the registration that this chain began with.
        guarded: what the guard's count becomes before more is signed: `firmware.rollback`; None
            without a guard.
        compared_step: of the newest reading that is only compared.
    """

    sequence: int = wire(0, Uint())
    previous: bytes = wire(1, DIGEST)
    register: int = wire(2, Uint())
    closed_from: int = wire(3, Uint())
    run_ms: int = wire(4, MS)
    shift: int = wire(5, Uint())
    epoch: int = wire(6, Uint())
    acknowledged: int = wire(7, Uint())
    anchors: int = wire(8, Uint())
    closed_step: int | None = wire_optional(9, STEP)
    anew: Anew | None = wire_optional(10, Row(Anew))
    torn: int | None = wire_optional(11, Uint())
    forked: int | None = wire_optional(12, Uint())
    step: int | None = wire_optional(13, STEP)
    guarded: int | None = wire_optional(14, Uint())
    read_step: int | None = wire_optional(15, STEP)
    compared_step: int | None = wire_optional(16, STEP)
    begun: int | None = wire_optional(17, Uint())

    @property
    def offset(self) -> int:
        return self.shift - OFFSET_ZERO

    @property
    def suspect(self) -> int | None:
        """`torn`, as far as no acknowledgement has spoken since."""
        return self.torn if self.torn is not None and self.torn >= self.acknowledged else None

    def is_behind(self, other: "End") -> bool:
        """Whether `other` is a later end of this chain, or of one that replaced it."""
        return (self.anchors, self.sequence) < (other.anchors, other.sequence)


def chain_start(registration: bytes, begun: int | None = None) -> End:
    """The end of a chain that has no record yet."""
    return End(0, registration, 0, 0, 0, OFFSET_ZERO, 0, 0, 0, begun=begun)


def follow(end: End, record: Record) -> End:
    """The end of the chain with one more record of ours."""
    anew = None if end.anew is None else end.anew.after(end.anew.first + 1)
    run_ms, closed_from, closed_step = end.run_ms, end.closed_from, end.closed_step
    read_step, compared_step = end.read_step, end.compared_step
    match record.body:
        case RunStart() as body:
            register = body.register
            if run_ms == 0:
                closed_from = register
            run_ms = body.at_ms
            if closed_step is not None and closed_step >= body.step:
                # Of the far future: the chain has come back to the present.
                closed_step = compared_step = None
        case StepClose() as body:
            register = closed_from = body.register_after
            closed_step = body.step
        case Reading(counting=False) as body:
            register, compared_step = body.register_after, body.step
        case Reading() as body:
            register, read_step = body.register_after, body.step
        case Batch() as body:
            register = body.register_after
        case other:
            raise TypeError(f"no {other.KIND} stands in a meter's chain")
    return replace(
        end,
        sequence=end.sequence + 1,
        previous=record.identity,
        register=register,
        closed_from=closed_from,
        run_ms=run_ms,
        closed_step=closed_step,
        anew=anew,
        step=body.step,
        read_step=read_step,
        compared_step=compared_step,
    )


def acknowledged(end: End, epoch: int, sequence: int) -> End:
    """The end with a gateway's word that it has the chain up to `sequence`. What an earlier store
    held in place of ours, a restored one does not hold."""
    forked = end.forked if epoch == end.epoch else None
    return replace(end, epoch=epoch, acknowledged=sequence, forked=forked)


def starts_from(record: Record) -> int:
    """The chain's register before a record; a close adds nothing to it."""
    body = record.body
    if not isinstance(body, RunStart | Batch | Reading | StepClose):
        raise TypeError(f"no {body.KIND} stands in a meter's chain")
    return body.register_after if isinstance(body, StepClose) else body.register
