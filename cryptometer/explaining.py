"""Why a member got what he got in a step, in plain words, from what is known to whoever asks.

With everyone's consumption the rule is recomputed. A member knows only his own: then the sums are
proven, and what follows from them; the rest is said to be not proven.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from cryptometer.metrology import kwh, number
from cryptometer.share_file import Share
from cryptometer.sharing import Outcome, Round, entitlements, rounds, share
from cryptometer.sharing_records import Agreement, Method

_BY = {
    Method.EQUAL: "everyone of a priority has the same",
    Method.KEYS: "by the keys of the agreement",
    Method.PRO_RATA: "in proportion to what each consumed in the step, and no more than that",
    Method.COEFFICIENTS: "by coefficients given for this step",
}
_SEVERAL = (
    "Where a step is shared in several distributions, what one has given none takes back: compare"
    " each of them with the rule."
)


def explain(
    agreement: Agreement,
    member: str,
    given: Outcome,
    energy: Mapping[str, int],
    needs: Mapping[str, int] | None = None,
    coefficients: Sequence[int] = (),
    losses_uwh: int | None = None,
) -> list[str]:
    """The answer, one sentence or two a line.

    Args:
        member: who asks.
        given: what the step's distributions gave, added up.
        energy: of the inputs of those distributions, µWh by meter; under the name "" where nobody
            needs to know which meter's it is.
        needs: what members consumed, as far as it is known: everyone's, his own, or nobody's.
        coefficients, losses_uwh: as `share` has them.

    Raises:
        ValueError: the member has no claim, the energy is not what was given; or as `share` does.
    """
    if given.energy_uwh != sum(energy.values()):
        raise ValueError("what was given is not the energy of the step")
    if member not in agreement.members:
        raise ValueError(f"{member} has no claim under this agreement")
    got = given.given[agreement.members.index(member)]
    lines = [
        f"{member} got {kwh(got)}.",
        *_produced(energy),
        *_taken_first(agreement, given),
        rule_of(agreement),
        *_claims(agreement, member),
    ]
    known = needs or {}
    need = known.get(member)
    if agreement.needs_consumption and need is not None:
        lines.append(f"{member} consumed {kwh(need)}.")
    if agreement.needs_consumption and any(name not in known for name in agreement.members):
        least = 0
        if need is not None and agreement.method is not Method.PRO_RATA:
            entitled = entitlements(agreement, energy, None, coefficients, losses_uwh)[member]
            least = min(need, entitled - _rounding_uwh(agreement, energy))
        return lines + list(_partly(agreement, member, given, need, least))
    whole = share(agreement, energy, needs, coefficients, losses_uwh)
    found = rounds(agreement, energy, needs, coefficients, losses_uwh)
    rule = whole.given[agreement.members.index(member)]
    return lines + list(_recomputed(agreement, member, list(found), rule, got))


def explain_share(share: Share, needs: Mapping[str, int] | None) -> list[str]:
    """As `explain`, of a share that was verified."""
    agreement = share.agreement
    return explain(
        agreement,
        share.member,
        share.settlement.outcome(agreement),
        {one.meter: one.energy_uwh for one in share.settlement.brought},
        needs,
        share.given[-1].whole.coefficients,
        share.settlement.losses_uwh if agreement.are_losses_stated else None,
    )


def _produced(energy: Mapping[str, int]) -> Iterator[str]:
    parts = ", ".join(f"{name} {kwh(energy[name])}" for name in sorted(energy) if name)
    yield f"Produced in the step: {kwh(sum(energy.values()))}" + (f" ({parts})." if parts else ".")


def _taken_first(agreement: Agreement, given: Outcome) -> Iterator[str]:
    if agreement.are_losses_stated:
        yield f"Losses, as the plant states them: {kwh(given.losses_uwh)}."
    elif agreement.losses is not None:
        yield f"Losses, {percent(agreement.losses)} of it: {kwh(given.losses_uwh)}."
    if agreement.fee is not None:
        yield (
            f"Fee to {agreement.fee_to}, {percent(agreement.fee)} of what was produced:"
            f" {kwh(given.fee_uwh)}."
        )
    shared = given.energy_uwh - given.losses_uwh - given.fee_uwh
    yield (
        f"Shared: {kwh(shared)}. Members got {kwh(sum(given.given))} of it;"
        f" {kwh(given.surplus_uwh)} is surplus, to {agreement.surplus_to}."
    )


def percent(part: Fraction) -> str:
    """A part of a whole, as people write it."""
    return f"{number(100 * part)} %"


def rule_of(agreement: Agreement) -> str:
    """By what energy is shared, in a sentence."""
    text = f"The rule: {_BY[agreement.method]}"
    if agreement.asks_who_produced:
        text += "; each producer's energy for itself, among those who claim it"
    if agreement.capped and agreement.method is not Method.PRO_RATA:
        text += "; nobody gets more than he consumed"
        if agreement.rounds > 1:
            text += (
                f", and what one cannot use is shared anew among the others of his priority,"
                f" in up to {agreement.rounds} rounds"
            )
    return text + "."


def _claims(agreement: Agreement, member: str) -> Iterator[str]:
    for claim in sorted(
        (claim for claim in agreement.claims if claim.member == member),
        key=lambda claim: (claim.producer or "", claim.priority, claim.weight),
    ):
        key = f", with the key {claim.weight}" if agreement.method is Method.KEYS else ""
        whose = f"the energy of {claim.producer}" if claim.producer else "all energy"
        yield f"{member} claims {whose}, priority {claim.priority}{key}."


def _round(agreement: Agreement, member: str, each: Round) -> str:
    """One round that the member took part in."""
    place = each.members.index(member)
    weight, whole = each.weights[place], sum(each.weights)
    part, given = each.parts[place], each.given[place]
    whose = f"the energy of {each.producer}" if each.producer else "all energy"
    text = (
        f"Of {whose}, priority {each.priority}, round {each.number}: {kwh(each.energy_uwh)} was"
        f" left for {len(each.members)} of the members."
        f" {_weight(agreement, member, weight, whole)}, which makes {kwh(part)}"
    )
    if part * whole > each.energy_uwh * weight:
        text += ", rounded up to a whole µWh"
    elif part * whole < each.energy_uwh * weight:
        text += ", rounded down to a whole µWh"
    return text + (f"; {member} could use {kwh(given)} of it." if given < part else ".")


def _weight(agreement: Agreement, member: str, weight: int, whole: int) -> str:
    match agreement.method:
        case Method.EQUAL:
            return f"{member} is one of {whole}"
        case Method.KEYS:
            return f"The key of {member} is {weight} of {whole}"
        case Method.PRO_RATA:
            return (
                f"{member} could still use {kwh(weight)} of the {kwh(whole)} that all of them could"
            )
        case Method.COEFFICIENTS:
            return f"The coefficient of {member} is {weight} of {whole}"


def _recomputed(
    agreement: Agreement, member: str, found: Sequence[Round], rule: int, got: int
) -> Iterator[str]:
    """Each round that the member took part in, and what they make together."""
    own = [each for each in found if member in each.members]
    yield from (_round(agreement, member, each) for each in own)
    if not own:
        yield f"No energy was left that {member} claims and could use."
    if rule == got:
        yield f"Recomputed: the rule gives {member} {kwh(rule)}, and so did the plant."
    else:
        differs = f"{kwh(abs(got - rule))} {'more' if got > rule else 'less'}"
        yield (
            f"Recomputed: of all the energy at once the rule gives {member} {kwh(rule)}; the plant"
            f" gave {differs}. {_SEVERAL}"
        )


def _rounding_uwh(agreement: Agreement, energy: Mapping[str, int]) -> int:
    """What rounding may take at most from who is entitled to a part: 1 each time one is made."""
    return len(energy) if agreement.asks_who_produced else 1


def _partly(
    agreement: Agreement, member: str, given: Outcome, need: int | None, least: int
) -> Iterator[str]:
    """What is proven where the consumption of others is not known, and what is not."""
    got = given.given[agreement.members.index(member)]
    yield "Proven: the sums. What members, losses, fee and surplus got is what was produced."
    if need is not None:
        yield from _by_own(member, got, need)
        if agreement.method is Method.PRO_RATA and not agreement.asks_who_produced:
            yield from _by_surplus(member, given, got, need)
    if least > 0:
        yield f"Whatever others consumed, the rule gives {member} {kwh(least)} at least."
    if got < least:
        yield f"But the plant gave {kwh(least - got)} less than that. {_SEVERAL}"
    yield (
        f"Not proven: that it is exactly what the rule gives {member}. That depends on what others"
        " consumed, which the ledger does not show; whoever is given it can recompute the rule."
    )


def _by_own(member: str, got: int, need: int) -> Iterator[str]:
    """What the member's own consumption shows: it is a cap."""
    if got > need:
        yield (
            f"{member} got {kwh(got - need)} more than that. The rule never gives so much: either"
            " it was not followed, or the consumption was corrected later."
        )
    elif need:
        covered = number(Fraction(100 * got, need))
        yield f"Proven: {member} got no more than that; {covered} % of it is covered."


def _by_surplus(member: str, given: Outcome, got: int, need: int) -> Iterator[str]:
    """What a surplus shows where everyone may claim all energy: nobody needed it."""
    if given.surplus_uwh:
        yield "There was surplus, and the rule leaves none before everyone is covered whole."
        if got < need:
            yield f"But {member} was not: {kwh(need - got)} was missing. {_SEVERAL}"
