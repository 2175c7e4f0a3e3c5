"""What a virtual power plant would distribute now of a step."""

from collections.abc import Mapping, Sequence

from cryptometer.settlement import Agreed, Settlement, moved_by_rule, outputs_of
from cryptometer.sharing_records import Commitment, Distribution, Part


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
    moved = moved_by_rule(
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
        outputs=outputs_of(agreement, moved, settlement.waiting),
        losses_uwh=moved.losses_uwh,
        fee_uwh=moved.fee_uwh,
        surplus_uwh=moved.surplus_uwh,
        from_surplus_uwh=moved.from_surplus_uwh,
        commitments=tuple(Commitment(*one) for one in sorted((commitments or {}).items())),
        coefficients=tuple(coefficients),
    )
