"""An agreement in plain words: who claims what, what is taken first, what an example gives. Values
in, sentences out.
"""

from collections.abc import Iterator

from cryptometer.explaining import percent, rule_of
from cryptometer.metrology import UWH_PER_KWH, kwh
from cryptometer.sharing import Outcome, share
from cryptometer.sharing_records import Agreement, Claim, Method

EXAMPLE_UWH = 10 * UWH_PER_KWH
SHOWN = 20  # members named in a sentence; a block of a thousand would be read by nobody


def describe_terms(agreement: Agreement) -> Iterator[str]:
    """The agreement, one sentence or two a line."""
    yield rule_of(agreement)
    yield from _claims(agreement)
    if agreement.are_losses_stated:
        yield "Losses, as they are stated for each step, are taken first."
    elif agreement.losses is not None:
        yield f"Losses, {percent(agreement.losses)} of the energy, are taken first."
    if agreement.fee is not None:
        yield f"{agreement.fee_to} has a fee of {percent(agreement.fee)} of the energy."
    yield f"What no member gets is surplus, to {agreement.surplus_to}."
    if agreement.needs_consumption:
        yield (
            "It asks what each member consumed in the step: until that is known of all of them, the"
            " step's energy waits at the virtual power plant."
        )
    yield from _example(agreement)


def _claims(agreement: Agreement) -> Iterator[str]:
    """Who claims what, by producer and priority."""
    groups: dict[tuple[str, int], list[Claim]] = {}
    for claim in agreement.claims:
        groups.setdefault((claim.producer or "", claim.priority), []).append(claim)
    for (producer, priority), claims in sorted(groups.items()):
        whose = f"Of the energy of {producer}" if producer else "Of all energy"
        order = "" if len(groups) == 1 else f", priority {priority}"
        if agreement.method is Method.KEYS:
            whole = sum(claim.weight for claim in claims)
            names = [f"{one.member} {one.weight} of {whole}" for one in claims]
        else:
            names = [one.member for one in claims]
        yield f"{whose}{order}: {_listed(names)}."


def _example(agreement: Agreement) -> Iterator[str]:
    """What it gives of 10 kWh; nothing where that depends on weights from outside."""
    if agreement.method is Method.COEFFICIENTS:
        yield (
            "The weights of each step come from outside: until they are known, its energy waits at"
            " the virtual power plant."
        )
        return
    producers = sorted({claim.producer for claim in agreement.claims if claim.producer is not None})
    energy = dict.fromkeys(producers or [""], EXAMPLE_UWH)
    enough = len(energy) * EXAMPLE_UWH
    needs = dict.fromkeys(agreement.members, enough) if agreement.needs_consumption else None
    outcome = share(agreement, energy, needs, (), 0 if agreement.are_losses_stated else None)
    whose = f" of each of {_listed(list(producers))}" if producers else ""
    condition = ", if each of them can use all of it" if agreement.needs_consumption else ""
    if agreement.are_losses_stated:
        condition += ", without losses"
    yield f"For example, of {kwh(EXAMPLE_UWH)}{whose}{condition}: {_outcome(agreement, outcome)}."


def _outcome(agreement: Agreement, outcome: Outcome) -> str:
    given = zip(agreement.members, outcome.given, strict=True)
    parts = [_listed([f"{member} gets {kwh(energy)}" for member, energy in given])]
    for what, energy in (
        ("losses", outcome.losses_uwh),
        (f"fee to {agreement.fee_to}", outcome.fee_uwh),
        (f"surplus to {agreement.surplus_to}", outcome.surplus_uwh),
    ):
        if energy:
            parts.append(f"{what} {kwh(energy)}")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
