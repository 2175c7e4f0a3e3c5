"""The virtual power plant's account of each step: what step closes brought it and what it gave to
whom; and whether a distribution may move any of it. Drafting and judging share their functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from struct import pack, unpack
from typing import Any, TypeAlias

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.records import (
    CLAIMS_MAX,
    DIGEST,
    NAME,
    PARTS_MAX,
    STEP,
    Agreement,
    Commitment,
    Distribution,
    Input,
    Method,
    Output,
    Part,
)
from cryptometer.sharing import Outcome, apportion, deductions, share, supplement
from cryptometer.wire import Bytes, Many, Map, Row, Text, Uint, wire

SALT_BYTES = 32
_MOST = 2**24
_GIVEN_BYTES = 8  # of one member
# Of what a part lists; the rest of a record, its signature included, takes less than 1 KiB.
_PART_BYTES = 60_000
_INPUT_BYTES = 56
_NUMBERS_BYTES = 24  # of an output, beside its name
_DIGEST_BYTES = 40  # of a commitment, beside its name
_COEFFICIENT_BYTES = 9


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


def commitment(community: bytes, step: int, member: str, need_uwh: int, salt: bytes) -> bytes:
    """What a distribution shows of a member's consumption: a hash that fits one amount only, and
    tells nobody anything who is not given the salt (32 bytes, random, of this member and step)."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    said: list[cbor.Value] = ["cryptometer consumption", community, step, member, need_uwh, salt]
    return sha256(cbor.encode(said)).digest()


class Rule(StrEnum):
    """What is known of a distribution whose sums are proven."""

    RECOMPUTED = "recomputed"  # the agreement gives just these outputs
    SUMS_ONLY = "sums-only"  # its rule asks what members consumed, which was not opened
    BROKEN = "broken"  # by what was opened, the agreement gives others


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens the commitment to what a member consumed in a step."""

    need_uwh: int = wire(0, Uint())
    salt: bytes = wire(1, Bytes(SALT_BYTES, SALT_BYTES))


Openings: TypeAlias = Mapping[tuple[int, str], Opening]
"""Openings by step and member."""


def opened_needs(
    openings: Openings, community: bytes, whole: Distribution
) -> dict[str, int] | None:
    """What members consumed in a step, if an opening fits each commitment of its distribution."""
    needs: dict[str, int] = {}
    for one in whole.commitments:
        known = openings.get((whole.step, one.member))
        if known is None or one.digest != commitment(
            community, whole.step, one.member, known.need_uwh, known.salt
        ):
            return None
        needs[one.member] = known.need_uwh
    return needs


# --- Drafting. -----------------------------------------------------------------------------------


def draft(
    agreed: Agreed,
    settlement: Settlement,
    *,
    needs: Mapping[str, int] | None = None,
    commitments: Mapping[str, bytes] | None = None,
    coefficients: Sequence[int] = (),
    losses_uwh: int = 0,
) -> Distribution | None:
    """What the plant would distribute now of a step: all that waits, and what a corrected input
    takes back from the surplus. None where nothing would move.

    It bears no place in the plant's chain yet: `split` gives it one.

    Args:
        needs: by member, what he consumed in the step, µWh; where the agreement asks for it.
        commitments: by member, to `needs`.
        coefficients: one for each claim, where the agreement has them from outside.
        losses_uwh: those stated for what waits, where the agreement has them so.
    """
    agreement = agreed.agreement
    moved = _moved(
        agreement,
        settlement,
        settlement.waiting,
        needs,
        coefficients,
        settlement.losses_uwh + losses_uwh,
    )
    if not settlement.waiting and not moved.from_surplus_uwh:
        return None
    return Distribution(
        vpp=agreement.vpp,
        sequence=0,
        previous=bytes(32),
        step=settlement.step,
        supplement=settlement.supplements,
        part=Part(1, 1),
        agreement=agreed.identity,
        inputs=tuple(one.as_input for one in settlement.waiting),
        outputs=_outputs(agreement, moved, settlement.waiting),
        losses_uwh=moved.losses_uwh,
        fee_uwh=moved.fee_uwh,
        surplus_uwh=moved.surplus_uwh,
        from_surplus_uwh=moved.from_surplus_uwh,
        commitments=tuple(Commitment(*one) for one in sorted((commitments or {}).items())),
        coefficients=tuple(coefficients),
    )


def split(whole: Distribution, plant: Plant) -> list[Distribution]:
    """A distribution as the next records of the plant's chain, as many as it takes; all but the
    first still lack their `previous`, which is the identity of the one before."""
    pieces: list[_Piece] = [_Piece()]
    for name, item, size in _listed(whole):
        if pieces[-1].size + size > _PART_BYTES:
            pieces.append(_Piece())
        pieces[-1].add(name, item, size)
    if len(pieces) > PARTS_MAX:
        raise ValueError(f"a distribution of {len(pieces)} parts")
    parts = []
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        parts.append(
            replace(
                whole,
                sequence=plant.sequence + number - 1,
                previous=plant.previous,
                part=Part(number, len(pieces)),
                inputs=tuple(piece.lists["inputs"]),
                outputs=tuple(piece.lists["outputs"]),
                commitments=tuple(piece.lists["commitments"]),
                coefficients=tuple(piece.lists["coefficients"]),
                losses_uwh=whole.losses_uwh if is_last else 0,
                fee_uwh=whole.fee_uwh if is_last else 0,
                surplus_uwh=whole.surplus_uwh if is_last else 0,
                from_surplus_uwh=whole.from_surplus_uwh if is_last else 0,
            )
        )
    return parts


class _Piece:
    """What one part lists, while it is gathered."""

    def __init__(self) -> None:
        self.size = 0
        self.lists: dict[str, list[Any]] = {name: [] for name in _LISTS}

    def add(self, name: str, item: object, size: int) -> None:
        self.lists[name].append(item)
        self.size += size


_LISTS = ("inputs", "outputs", "commitments", "coefficients")


def _listed(whole: Distribution) -> list[tuple[str, object, int]]:
    """All that a distribution lists: of which list, and its size in bytes at most."""
    return [
        *(("inputs", one, _INPUT_BYTES) for one in whole.inputs),
        *(("outputs", one, len(one.member) + _NUMBERS_BYTES) for one in whole.outputs),
        *(("commitments", one, len(one.member) + _DIGEST_BYTES) for one in whole.commitments),
        *(("coefficients", one, _COEFFICIENT_BYTES) for one in whole.coefficients),
    ]


# --- Judging. ------------------------------------------------------------------------------------


def join(parts: Sequence[Distribution]) -> Distribution:
    """One distribution as a whole, from all its parts in the order of their numbers.

    Raises:
        Rejected: INCOMPLETE: they are not that.
    """
    first, last = parts[0], parts[-1]
    same = {(one.vpp, one.step, one.supplement, one.agreement, one.part.parts) for one in parts}
    numbers = [one.part.number for one in parts]
    if len(same) > 1 or numbers != list(range(1, first.part.parts + 1)):
        raise Rejected(Reason.INCOMPLETE, f"parts {numbers} of {first.part.parts}")
    for one in parts[:-1]:
        if one.losses_uwh or one.fee_uwh or one.surplus_uwh or one.from_surplus_uwh:
            raise Rejected(Reason.INCOMPLETE, "losses, fee and surplus stand in the last part")
    return replace(
        last,
        sequence=first.sequence,
        previous=first.previous,
        part=Part(1, 1),
        inputs=tuple(item for one in parts for item in one.inputs),
        outputs=tuple(item for one in parts for item in one.outputs),
        commitments=tuple(item for one in parts for item in one.commitments),
        coefficients=tuple(item for one in parts for item in one.coefficients),
    )


def judge(
    agreed: Agreed | None,
    settlement: Settlement | None,
    whole: Distribution,
    needs: Mapping[str, int] | None = None,
) -> Settlement:
    """The step's account once a distribution has moved what it says.

    Sums are proven in any case; that the outputs are what the agreement gives, only where nothing
    that its rule asks for is hidden: see `is_recomputed`.

    Args:
        agreed: what holds in the step.
        settlement: the step's account before.
        whole: the distribution, its parts joined.
        needs: what each member consumed, for whoever is given that: the rule is recomputed then.

    Raises:
        Rejected: it moves nothing, and why.
    """
    if agreed is None or whole.agreement != agreed.identity:
        raise Rejected(Reason.WRONG_AGREEMENT, f"not the agreement that holds in {whole.step}")
    agreement = agreed.agreement
    if whole.vpp != agreement.vpp:
        raise Rejected(Reason.WRONG_AGREEMENT, f"{whole.vpp} does not distribute by it")
    if settlement is None:
        raise Rejected(Reason.NO_SUCH_INPUT, f"nothing of step {whole.step} waits at the plant")
    if whole.supplement != settlement.supplements:
        known = settlement.supplements
        reason = Reason.REPEAT if whole.supplement < known else Reason.GAP
        raise Rejected(reason, f"step {whole.step} has had {known} distributions")
    spent = _spent(settlement, whole.inputs)
    _check_sums(settlement, whole)
    _check_form(agreement, whole)
    try:
        _check_rule(agreement, settlement, whole, spent, needs)
    except ValueError as error:  # stated losses that, with the fee, are more than there is
        raise Rejected(Reason.NOT_AS_AGREED, str(error)) from None
    return _moved_on(agreement, settlement, whole, spent)


def is_recomputed(agreement: Agreement, needs: Mapping[str, int] | None = None) -> bool:
    """Whether `judge` has recomputed the rule, and not the sums alone."""
    return needs is not None or not agreement.needs_consumption


def _spent(settlement: Settlement, inputs: Sequence[Input]) -> list[Waiting]:
    waiting = {one.close: one for one in settlement.waiting}
    spent = []
    for one in inputs:
        found = waiting.pop(one.close, None)
        if found is None:
            raise Rejected(
                Reason.NO_SUCH_INPUT,
                f"{one.close.hex()} is no close of step {settlement.step} that waits to be spent",
            )
        if found.as_input != one:
            raise Rejected(
                Reason.WRONG_SUMS,
                f"the close of {found.meter} brought {found.energy_uwh} µWh and {found.tokens}"
                f" tokens, and not {one.energy_uwh} and {one.tokens}",
            )
        spent.append(found)
    return spent


def _check_sums(settlement: Settlement, whole: Distribution) -> None:
    inflow = sum(one.energy_uwh for one in whole.inputs) + whole.from_surplus_uwh
    outflow = sum(one.energy_uwh for one in whole.outputs)
    outflow += whole.losses_uwh + whole.fee_uwh + whole.surplus_uwh
    if inflow != outflow:
        raise Rejected(Reason.WRONG_SUMS, f"{inflow} µWh go in and {outflow} µWh come out")
    if whole.from_surplus_uwh > settlement.surplus_uwh:
        raise Rejected(
            Reason.WRONG_SUMS,
            f"the surplus of the step is {settlement.surplus_uwh} µWh, less than what is taken",
        )
    if not whole.inputs and not whole.from_surplus_uwh:
        raise Rejected(Reason.WRONG_SUMS, "it moves nothing")


def _check_form(agreement: Agreement, whole: Distribution) -> None:
    members = agreement.members
    known = set(members)
    for one in whole.outputs:
        if one.member not in known:
            raise Rejected(Reason.NOT_AS_AGREED, f"{one.member} has no claim in step {whole.step}")
        if not one.energy_uwh and not one.tokens:
            raise Rejected(Reason.NOT_AS_AGREED, f"an output of nothing to {one.member}")
    if any(a.member >= b.member for a, b in pairwise(whole.outputs)):
        raise Rejected(Reason.NOT_AS_AGREED, "the outputs are not in the order of names")
    committed = tuple(one.member for one in whole.commitments)
    if committed != (members if agreement.needs_consumption else ()):
        raise Rejected(
            Reason.NOT_AS_AGREED, f"commitments to what {len(committed)} of the members consumed"
        )
    if whole.surplus_uwh and whole.from_surplus_uwh:
        raise Rejected(Reason.NOT_AS_AGREED, "it adds to the surplus, and takes from it")
    expected = len(agreement.claims) if agreement.method is Method.COEFFICIENTS else 0
    if len(whole.coefficients) != expected:
        raise Rejected(
            Reason.NOT_AS_AGREED, f"{len(whole.coefficients)} coefficients for {expected} claims"
        )


def _check_rule(
    agreement: Agreement,
    settlement: Settlement,
    whole: Distribution,
    spent: Sequence[Waiting],
    needs: Mapping[str, int] | None,
) -> None:
    losses_uwh = settlement.losses_uwh + whole.losses_uwh
    if is_recomputed(agreement, needs):
        moved = _moved(agreement, settlement, spent, needs, whole.coefficients, losses_uwh)
        by_rule = (moved.losses_uwh, moved.fee_uwh, moved.surplus_uwh, moved.from_surplus_uwh)
        outputs = _outputs(agreement, moved, spent)
    else:
        # Who gets how much is hidden; what is taken before that is not.
        new_uwh = sum(one.energy_uwh for one in spent)
        left_uwh = new_uwh + whole.from_surplus_uwh
        energy = {"": new_uwh + sum(one.energy_uwh for one in settlement.brought)}
        stated = losses_uwh if agreement.are_losses_stated else None
        whole_losses, whole_fee = deductions(agreement, energy, stated)
        lost = min(left_uwh, max(0, whole_losses - settlement.losses_uwh))
        fee = min(left_uwh - lost, max(0, whole_fee - settlement.fee_uwh))
        by_rule = (lost, fee, whole.surplus_uwh, whole.from_surplus_uwh)
        outputs = _with_tokens(whole.outputs, spent)
    said = (whole.losses_uwh, whole.fee_uwh, whole.surplus_uwh, whole.from_surplus_uwh)
    if said != by_rule:
        raise Rejected(
            Reason.NOT_AS_AGREED,
            f"losses, fee, surplus and what is taken from that are {said}, by rule {by_rule}",
        )
    if whole.outputs != outputs:
        theirs = {one.member: one for one in outputs}
        ours = {one.member: one for one in whole.outputs}
        wrong = min(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        raise Rejected(
            Reason.NOT_AS_AGREED,
            f"{wrong} is given {_amount(ours.get(wrong))}, by the agreement"
            f" {_amount(theirs.get(wrong))}",
        )


def _amount(output: Output | None) -> str:
    if output is None:
        return "nothing"
    return f"{output.energy_uwh} µWh and {output.tokens} tokens"


def _moved_on(
    agreement: Agreement, before: Settlement, whole: Distribution, spent: Sequence[Waiting]
) -> Settlement:
    gone = {one.close for one in spent}
    given = dict(zip(agreement.members, before.given(agreement), strict=True))
    for one in whole.outputs:
        given[one.member] += one.energy_uwh
    return Settlement(
        step=before.step,
        waiting=tuple(one for one in before.waiting if one.close not in gone),
        brought=_brought(agreement, before, spent),
        supplements=before.supplements + 1,
        packed=pack(f">{len(given)}Q", *given.values()),
        losses_uwh=before.losses_uwh + whole.losses_uwh,
        fee_uwh=before.fee_uwh + whole.fee_uwh,
        surplus_uwh=before.surplus_uwh + whole.surplus_uwh - whole.from_surplus_uwh,
    )


# --- What the rule moves. ------------------------------------------------------------------------


def _moved(
    agreement: Agreement,
    settlement: Settlement,
    spent: Sequence[Waiting],
    needs: Mapping[str, int] | None,
    coefficients: Sequence[int],
    losses_uwh: int,
) -> Outcome:
    """What a distribution of these closes moves by the agreement: the whole step's outcome less
    what was given before."""
    energy = {one.meter: one.energy_uwh for one in _brought(agreement, settlement, spent)}
    stated = losses_uwh if agreement.are_losses_stated else None
    whole = share(agreement, energy, needs, coefficients, stated)
    new_uwh = sum(one.energy_uwh for one in spent)
    return supplement(settlement.outcome(agreement), whole, new_uwh)


def _brought(
    agreement: Agreement, settlement: Settlement, spent: Sequence[Waiting]
) -> tuple[Brought, ...]:
    energy = {one.meter: one.energy_uwh for one in settlement.brought}
    for one in spent:
        meter = one.meter if agreement.asks_who_produced else ""
        energy[meter] = energy.get(meter, 0) + one.energy_uwh
    return tuple(Brought(*one) for one in sorted(energy.items()))


def _outputs(agreement: Agreement, moved: Outcome, spent: Sequence[Waiting]) -> tuple[Output, ...]:
    given = zip(agreement.members, moved.given, strict=True)
    return _with_tokens([Output(member, energy, 0) for member, energy in given if energy], spent)


def _with_tokens(outputs: Sequence[Output], spent: Sequence[Waiting]) -> tuple[Output, ...]:
    """Tokens go with the energy (paper A table IV). Where nobody gets any, they lapse."""
    tokens = apportion(sum(one.tokens for one in spent), [one.energy_uwh for one in outputs])
    return tuple(replace(one, tokens=number) for one, number in zip(outputs, tokens, strict=True))
