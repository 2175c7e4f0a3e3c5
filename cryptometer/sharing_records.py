"""What is agreed on sharing, in the authority's chain, and what a virtual power plant distributes
by it, in a chain of its own.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

from cryptometer.authority_records import AuthorityRecord
from cryptometer.record_fields import DIGEST, NAME, STEP, Kind
from cryptometer.wire import Choice, Flag, Flat, Many, Map, Rational, Row, Uint, wire, wire_optional

CLAIMS_MAX = 2_500  # keeps an agreement below RECORD_MAX, if names are not all of the longest
INPUTS_MAX = 1_500  # likewise of a part of a distribution
PARTS_MAX = 1_000


class Method(StrEnum):
    """By what the members of one priority share a producer's energy."""

    EQUAL = "equal"
    KEYS = "keys"  # the weights of the agreement
    PRO_RATA = "pro-rata"  # what each consumed in the step, and no more than that
    COEFFICIENTS = "coefficients"  # weights given from outside for the step


@dataclass(frozen=True, slots=True)
class Claim:
    """What one member may claim under an agreement.

    Attributes:
        weight: the member's key, relative to those of the others of the same priority.
        priority: 0 is served first; a higher number has what those before could not use.
        producer: the meter of whose energy alone this is a claim; absent: of every one's.
    """

    member: str = wire(0, NAME)
    weight: int = wire(1, Uint(0, 2**32))
    priority: int = wire(2, Uint(high=255))
    producer: str | None = wire_optional(3, NAME)


@dataclass(frozen=True, slots=False)  # a place for what is worked out once
class Agreement(AuthorityRecord):
    """How energy is shared from a step on, until the next agreement. Nothing is retroactive:
    `from_step` lies after the step of the block that holds it.

    Attributes:
        vpp: who distributes by it.
        capped: nobody gets more than he consumed in the step (always so by `Method.PRO_RATA`).
        rounds: how often what a member could not use is shared anew among the others of his
            priority; 1: never.
        surplus_to: whose account has what nobody gets.
        losses: part of the energy that is lost on its way; absent: none.
        fee: part of the energy that `fee_to` has; absent: none.
        are_losses_stated: each distribution states its losses, as measured, in place of `losses`.
    """

    KIND: ClassVar[Kind] = Kind.AGREEMENT

    vpp: str = wire(2, NAME)
    from_step: int = wire(3, STEP)
    method: Method = wire(4, Choice(Method))
    capped: bool = wire(5, Flag())
    rounds: int = wire(6, Uint(1, 64))
    claims: tuple[Claim, ...] = wire(7, Many(Map(Claim), 1, CLAIMS_MAX))
    surplus_to: str = wire(8, NAME)
    are_losses_stated: bool = wire(9, Flag())
    losses: Fraction | None = wire_optional(10, Rational())
    fee: Fraction | None = wire_optional(11, Rational())
    fee_to: str | None = wire_optional(12, NAME)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Everyone with a claim, once, in the order of names."""
        return tuple(sorted({claim.member for claim in self.claims}))

    @property
    def needs_consumption(self) -> bool:
        """Whether its rule asks what members consumed, which no ledger shows."""
        return self.capped or self.method is Method.PRO_RATA

    @cached_property
    def asks_who_produced(self) -> bool:
        """Whether energy of different meters is shared differently."""
        return any(claim.producer is not None for claim in self.claims)


@dataclass(frozen=True, slots=True)
class Input:
    """A step close whose energy a distribution spends: its identity, and what it transferred."""

    close: bytes = wire(0, DIGEST)
    energy_uwh: int = wire(1, Uint())
    tokens: int = wire(2, Uint())


@dataclass(frozen=True, slots=True)
class Output:
    """What a member gets: energy, and the voting tokens that go with it (paper A table IV)."""

    member: str = wire(0, NAME)
    energy_uwh: int = wire(1, Uint())
    tokens: int = wire(2, Uint())


@dataclass(frozen=True, slots=True)
class Commitment:
    """A salted hash of what a member consumed in the step: see `openings.commitment`."""

    member: str = wire(0, NAME)
    digest: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Part:
    """Which record of how many: a large distribution takes several, one behind another."""

    number: int = wire(0, Uint(1, PARTS_MAX))
    parts: int = wire(1, Uint(1, PARTS_MAX))


@dataclass(frozen=True, slots=True)
class Distribution:
    """Shares out energy that step closes brought to the virtual power plant: "transfer to
    participants" (paper A section IV-B2, transaction 5). Over all its parts, the inputs and
    `from_surplus_uwh` equal the outputs, losses, fee and surplus.

    Attributes:
        sequence: 0 for the plant's first record; without gaps.
        previous: identity of its record before; for the first, the community's id.
        step: whose energy this is; the block may be of a later one.
        supplement: 0 for the step's first distribution, one more for each later one.
        agreement: identity of the agreement in force in the step.
        inputs: closes of the step, each spent whole; in all the parts in the plant's order.
        outputs: in the order of names; who gets nothing is left out.
        losses_uwh, fee_uwh, surplus_uwh: in the last part; 0 in those before.
        from_surplus_uwh: what a correction takes back from the step's surplus; in the last part.
        commitments: of every member of the agreement, where its rule asks what they consumed.
        coefficients: one for each claim of the agreement, in its order, where its rule has them
            from outside.
    """

    KIND: ClassVar[Kind] = Kind.DISTRIBUTION

    vpp: str = wire(0, NAME)
    sequence: int = wire(1, Uint())
    previous: bytes = wire(2, DIGEST)
    step: int = wire(3, STEP)
    supplement: int = wire(4, Uint(high=2**32))
    part: Part = wire(5, Row(Part))
    agreement: bytes = wire(6, DIGEST)
    inputs: tuple[Input, ...] = wire(7, Many(Row(Input), 0, INPUTS_MAX))
    outputs: tuple[Output, ...] = wire(8, Many(Row(Output), 0, CLAIMS_MAX))
    losses_uwh: int = wire(9, Uint())
    fee_uwh: int = wire(10, Uint())
    surplus_uwh: int = wire(11, Uint())
    from_surplus_uwh: int = wire(12, Uint())
    commitments: tuple[Commitment, ...] = wire(13, Many(Row(Commitment), 0, CLAIMS_MAX))
    coefficients: tuple[int, ...] = wire(14, Flat(1, CLAIMS_MAX))
