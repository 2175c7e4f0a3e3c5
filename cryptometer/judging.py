"""Whether a distribution may move what it says of a step's account: the same for the maker of a
block, whoever checks it, and who is shown one member's share.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from struct import pack

from cryptometer.errors import Reason, Rejected
from cryptometer.settlement import (
    Agreed,
    Settlement,
    Waiting,
    brought_with,
    moved_by_rule,
    outputs_of,
    with_tokens,
)
from cryptometer.sharing import deductions
from cryptometer.sharing_records import Agreement, Distribution, Input, Method, Output


class Rule(StrEnum):
    """What is known of a distribution whose sums are proven."""

    RECOMPUTED = "recomputed"  # the agreement gives just these outputs
    SUMS_ONLY = "sums-only"  # its rule asks what members consumed, which was not opened
    BROKEN = "broken"  # by what was opened, the agreement gives others


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
        moved = moved_by_rule(agreement, settlement, spent, needs, whole.coefficients, losses_uwh)
        by_rule = (moved.losses_uwh, moved.fee_uwh, moved.surplus_uwh, moved.from_surplus_uwh)
        outputs = outputs_of(agreement, moved, spent)
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
        outputs = with_tokens(whole.outputs, spent)
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
        brought=brought_with(agreement, before, spent),
        supplements=before.supplements + 1,
        packed=pack(f">{len(given)}Q", *given.values()),
        losses_uwh=before.losses_uwh + whole.losses_uwh,
        fee_uwh=before.fee_uwh + whole.fee_uwh,
        surplus_uwh=before.surplus_uwh + whole.surplus_uwh - whole.from_surplus_uwh,
    )
