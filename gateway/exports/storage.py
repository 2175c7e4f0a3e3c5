"""Whose energy a storage holds, block by block: the ledger of paper A section II-B, made from the
distributions that gave it energy and the step closes by which it gave some back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from cryptometer.block import Checked
from cryptometer.chain_records import StepClose
from cryptometer.readable import utc
from cryptometer.settlement import Settlement
from cryptometer.sharing import entitlements
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.steps import step_start_ms
from cryptometer.storage import StorageLedger, charge, discharge, excesses
from gateway.exports.source import Source, to_csv

_HEADER = ["block", "step", "begin_utc", "what", "member", "energy_uwh", "balance_uwh"]


@dataclass(frozen=True, slots=True)
class Movement:
    """What one member has more, or less, in a storage.

    Attributes:
        block: step of the block that moved it.
        step: whose energy it is.
        energy_uwh: below 0 where the storage gave it.
        balance_uwh: what it holds of him then.
    """

    block: int
    step: int
    member: str
    energy_uwh: int
    balance_uwh: int


@dataclass(slots=True)
class StorageBook:
    """A storage's ledger while blocks come, in order.

    Attributes:
        member: as which it is given energy, when it charges.
        meter: by whose closes it gives some, when it discharges.
        efficiency: the part of what goes in that comes out; in ]0, 1].
    """

    member: str
    meter: str
    efficiency: Fraction
    ledger: StorageLedger = field(default_factory=StorageLedger)
    movements: list[Movement] = field(default_factory=list)
    _parts: list[Distribution] = field(default_factory=list)

    def take(self, checked: Checked) -> None:
        """Takes the next block."""
        for verdict in checked.verdicts:
            body = verdict.record.body
            if verdict.reason is not None:
                continue
            if isinstance(body, StepClose) and body.meter == self.meter and verdict.energy_uwh:
                self._give(checked.state.step, body.step, verdict.energy_uwh)
            elif isinstance(body, Distribution):
                self._parts.append(body)
                if body.part.number == body.part.parts:
                    self._charge(checked, self._parts)
                    self._parts = []

    def _charge(self, checked: Checked, parts: Sequence[Distribution]) -> None:
        step, state = parts[0].step, checked.state
        outputs = [output for part in parts for output in part.outputs]
        energy_uwh = sum(one.energy_uwh for one in outputs if one.member == self.member)
        agreed, settlement = state.agreed(step), state.settlements.get(step)
        if not energy_uwh or agreed is None or settlement is None:
            return
        weights = [weight for part in parts for weight in part.coefficients]
        excess = self._excess(agreed.agreement, settlement, weights)
        self.ledger, credited = charge(self.ledger, energy_uwh, excess, self.efficiency)
        self._note(state.step, step, credited)

    def _excess(
        self, agreement: Agreement, settlement: Settlement, weights: Sequence[int]
    ) -> dict[str, int]:
        """By what it belongs to the members. Who was given less than he is entitled to could not
        use more: where the rule asks what members consumed, what they were given stands for it."""
        keys: dict[str, int] = {}
        for claim in agreement.claims:
            keys[claim.member] = keys.get(claim.member, 0) + claim.weight
        given = dict(zip(agreement.members, settlement.given(agreement), strict=True))
        energy = {one.meter: one.energy_uwh for one in settlement.brought}
        losses = settlement.losses_uwh if agreement.are_losses_stated else None
        entitled = entitlements(agreement, energy, given, weights, losses)
        return excesses(entitled, given, keys, self.member)

    def _give(self, block: int, step: int, energy_uwh: int) -> None:
        self.ledger, debits = discharge(self.ledger, energy_uwh)
        self._note(block, step, {member: -debit for member, debit in debits.items()})

    def _note(self, block: int, step: int, moved: Mapping[str, int]) -> None:
        for member, energy_uwh in sorted(moved.items()):
            if energy_uwh:
                balance = self.ledger.balances[member]
                self.movements.append(Movement(block, step, member, energy_uwh, balance))


def storage_csv(book: StorageBook, source: Source) -> str:
    """A line for each movement, in their order; what is left in the end stands above."""
    ledger = book.ledger
    held = ", ".join(f"{name} {balance}" for name, balance in sorted(ledger.balances.items()))
    comments = source.comments(
        f"whose energy is in the storage {book.member}, which gives it by {book.meter}; efficiency"
        f" {book.efficiency}",
        f"charged {ledger.charged_uwh}, lost {ledger.lost_uwh}, discharged {ledger.discharged_uwh}"
        f" of which {ledger.uncovered_uwh} were nobody's, uWh",
        f"held of members, uWh: {held or 'nothing'}",
    )
    rows = [
        [
            str(one.block),
            str(one.step),
            utc(step_start_ms(one.step, source.step_s)),
            "charge" if one.energy_uwh > 0 else "discharge",
            one.member,
            str(one.energy_uwh),
            str(one.balance_uwh),
        ]
        for one in book.movements
    ]
    return to_csv(comments, _HEADER, rows)
