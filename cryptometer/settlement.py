"""The virtual power plant's account of each step: what step closes brought it and what it gave to
whom; and what a distribution moves of it by the agreement, for who drafts one and who judges it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import unpack

from cryptometer.record_fields import DIGEST, NAME, STEP
from cryptometer.sharing import Outcome, apportion, share, supplement
from cryptometer.sharing_records import CLAIMS_MAX, Agreement, Input, Output
from cryptometer.wire import Bytes, Many, Map, Row, Text, Uint, wire

_MOST = 2**24
_GIVEN_BYTES = 8  # of one member


@dataclass(frozen=True, slots=True)
class Waiting:
    """A close whose energy waits at the plant.

    Attributes:
        close: its identity.
        meter: whose it is.
        energy_uwh: what it transferred.
        tokens: what it minted.
    """

    close: bytes = wire(0, DIGEST)
    meter: str = wire(1, NAME)
    energy_uwh: int = wire(2, Uint())
    tokens: int = wire(3, Uint())

    @property
    def as_input(self) -> Input:
        return Input(self.close, self.energy_uwh, self.tokens)


@dataclass(frozen=True, slots=True)
class Brought:
    """Energy of a step that has been distributed; by meter where the agreement asks who produced
    it, else under no name."""

    meter: str = wire(0, Text(63))
    energy_uwh: int = wire(1, Uint())


@dataclass(frozen=True, slots=True)
class Settlement:
    """One step's account, after a block.

    Attributes:
        waiting: closes of the step that no distribution has spent, in the ledger's order.
        brought: the energy of those that were.
        supplements: how many distributions the step has had.
        packed: what each member has been given, in the order of `Agreement.members`: 8 bytes each.
        losses_uwh, fee_uwh, surplus_uwh: what went there.
    """

    step: int = wire(0, STEP)
    waiting: tuple[Waiting, ...] = wire(1, Many(Row(Waiting), 0, _MOST))
    brought: tuple[Brought, ...] = wire(2, Many(Row(Brought), 0, _MOST))
    supplements: int = wire(3, Uint())
    packed: bytes = wire(4, Bytes(0, _GIVEN_BYTES * CLAIMS_MAX))
    losses_uwh: int = wire(5, Uint())
    fee_uwh: int = wire(6, Uint())
    surplus_uwh: int = wire(7, Uint())

    @property
    def waiting_uwh(self) -> int:
        return sum(one.energy_uwh for one in self.waiting)

    @property
    def members(self) -> int:
        """How many members it has given to or might have; 0 before the first distribution, and -1
        where what is packed is no whole number of them."""
        members, rest = divmod(len(self.packed), _GIVEN_BYTES)
        return -1 if rest else members

    def given(self, agreement: Agreement) -> tuple[int, ...]:
        """What each member of the step's agreement has been given, in the order of its members."""
        if not self.packed:
            return (0,) * len(agreement.members)
        return unpack(f">{len(self.packed) // _GIVEN_BYTES}Q", self.packed)

    def outcome(self, agreement: Agreement) -> Outcome:
        """What the step's distributions have come to so far."""
        return Outcome(self.given(agreement), self.losses_uwh, self.fee_uwh, self.surplus_uwh)


@dataclass(frozen=True, slots=True)
class Agreed:
    """An agreement that acts, and the identity of the record that holds it."""

    identity: bytes = wire(0, DIGEST)
    agreement: Agreement = wire(1, Map(Agreement))


@dataclass(frozen=True, slots=True)
class Plant:
    """Where a virtual power plant's chain stands: the next sequence number, and the identity that
    record must name."""

    name: str = wire(0, NAME)
    sequence: int = wire(1, Uint())
    previous: bytes = wire(2, DIGEST)


def opened(step: int) -> Settlement:
    """The account of a step that nothing has come to yet."""
    return Settlement(step, (), (), 0, b"", 0, 0, 0)


def in_force(agreements: Sequence[Agreed], step: int) -> Agreed | None:
    """The agreement that holds in a step: the newest whose `from_step` is not after it."""
    for agreed in reversed(agreements):
        if agreed.agreement.from_step <= step:
            return agreed
    return None


def moved_by_rule(
    agreement: Agreement,
    settlement: Settlement,
    spent: Sequence[Waiting],
    needs: Mapping[str, int] | None,
    coefficients: Sequence[int],
    losses_uwh: int,
) -> Outcome:
    """What a distribution of these closes moves by the agreement: the whole step's outcome less
    what was given before.

    Args:
        spent: the closes it spends.
        needs: by member, what he consumed in the step, µWh; where the agreement asks for it.
        coefficients: one for each claim, where the agreement has them from outside.
        losses_uwh: of the whole step, where they are stated.

    Raises:
        ValueError: stated losses are, with the fee, more than there is.
    """
    energy = {one.meter: one.energy_uwh for one in brought_with(agreement, settlement, spent)}
    stated = losses_uwh if agreement.are_losses_stated else None
    whole = share(agreement, energy, needs, coefficients, stated)
    new_uwh = sum(one.energy_uwh for one in spent)
    return supplement(settlement.outcome(agreement), whole, new_uwh)


def brought_with(
    agreement: Agreement, settlement: Settlement, spent: Sequence[Waiting]
) -> tuple[Brought, ...]:
    """The energy of a step that has been distributed once these closes are spent, too."""
    energy = {one.meter: one.energy_uwh for one in settlement.brought}
    for one in spent:
        meter = one.meter if agreement.asks_who_produced else ""
        energy[meter] = energy.get(meter, 0) + one.energy_uwh
    return tuple(Brought(*one) for one in sorted(energy.items()))


def outputs_of(
    agreement: Agreement, moved: Outcome, spent: Sequence[Waiting]
) -> tuple[Output, ...]:
    """Who is given what, with the tokens of these closes, in the order of names."""
    given = zip(agreement.members, moved.given, strict=True)
    return with_tokens([Output(member, energy, 0) for member, energy in given if energy], spent)


def with_tokens(outputs: Sequence[Output], spent: Sequence[Waiting]) -> tuple[Output, ...]:
    """Tokens go with the energy (paper A table IV). Where nobody gets any, they lapse."""
    tokens = apportion(sum(one.tokens for one in spent), [one.energy_uwh for one in outputs])
    return tuple(
        Output(one.member, one.energy_uwh, number)
        for one, number in zip(outputs, tokens, strict=True)
    )
