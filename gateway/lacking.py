"""Why energy waits at the virtual power plant: what a step's agreement asks that is not known. The
plant decides by it, and `status` tells it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptometer.settlement import Settlement
from cryptometer.sharing import deductions
from cryptometer.sharing_records import Agreement, Method
from gateway.consumption import Consumption

NAMED_MAX = 10  # members in a sentence


class Facts(Consumption, Protocol):
    """What a rule may ask that no ledger holds. Whoever cannot say now raises OSError, and is asked
    again later."""

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:
        """Weights given from outside for a step, by producer ("" for any) and member."""
        ...

    def losses_uwh(self, step: int) -> int | None:
        """Losses of a step as measured, µWh; None while they are not known."""
        ...


class Cause(StrEnum):
    """Why the energy of a step waits."""

    NO_AGREEMENT = "no-agreement"
    CONSUMPTION = "consumption"
    COEFFICIENTS = "coefficients"
    LOSSES = "losses"
    LOSSES_TOO_HIGH = "losses-too-high"
    NEXT_BLOCK = "next-block"  # nothing lacks


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing; `members` are those of whom it is, where that can be said."""

    cause: Cause
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What an agreement asks of a step, as far as it is known: read once, since it may be erased in
    the next moment.

    Attributes:
        used: what members consumed, µWh.
        weights: coefficients by producer ("" for any) and member.
        losses_uwh: those of the step, None while they are not known.
        forgotten: members of whose consumption nothing is known any more.
    """

    used: Mapping[str, int]
    weights: Mapping[tuple[str, str], int]
    losses_uwh: int | None
    forgotten: frozenset[str] = frozenset()

    def needs(self, agreement: Agreement, settlement: Settlement) -> dict[str, int]:
        """What each member is taken to have consumed in the step, µWh. Who was erased is owed
        nothing more: he is taken to have consumed what he was given of it.

        Raises:
            KeyError: of one it is not known.
        """
        given = dict(zip(agreement.members, settlement.given(agreement), strict=True))
        known = {member: given[member] for member in self.forgotten} | dict(self.used)
        return {member: known[member] for member in agreement.members}

    def coefficients(self, agreement: Agreement) -> Sequence[int]:
        """One for each claim, as the agreement lists them; none where its rule asks for none.

        Raises:
            KeyError: one is not known.
        """
        if agreement.method is not Method.COEFFICIENTS:
            return ()
        return [self.weights[claim.producer or "", claim.member] for claim in agreement.claims]


def look_up(agreement: Agreement, step: int, facts: Facts) -> Known:
    """Asks for what the agreement needs, and for nothing else.

    Raises:
        OSError: the facts cannot be read now.
    """
    used = facts.of(step) if agreement.needs_consumption else {}
    unknown = [member for member in agreement.members if member not in used]
    return Known(
        used,
        facts.coefficients(step) if agreement.method is Method.COEFFICIENTS else {},
        facts.losses_uwh(step) if agreement.are_losses_stated else None,
        facts.forgotten(unknown, step) if agreement.needs_consumption and unknown else frozenset(),
    )


def lacks(agreement: Agreement, known: Known, settlement: Settlement) -> list[Lack]:
    """All that is missing for a distribution of the step; nothing, if there can be one."""
    found = []
    if agreement.needs_consumption:
        told = known.used.keys() | known.forgotten
        unknown = [member for member in agreement.members if member not in told]
        found += [Lack(Cause.CONSUMPTION, tuple(unknown))] if unknown else []
    if agreement.method is Method.COEFFICIENTS:
        missing = {
            claim.member
            for claim in agreement.claims
            if (claim.producer or "", claim.member) not in known.weights
        }
        found += [Lack(Cause.COEFFICIENTS, tuple(sorted(missing)))] if missing else []
    if agreement.are_losses_stated:
        if known.losses_uwh is None:
            found.append(Lack(Cause.LOSSES))
        elif not _can_lose(agreement, known.losses_uwh, settlement):
            found.append(Lack(Cause.LOSSES_TOO_HIGH))
    return found


def asked(agreement: Agreement) -> list[Lack]:
    """All that the agreement asks from outside: what may be missing, for who must not know."""
    found = []
    if agreement.needs_consumption:
        found.append(Lack(Cause.CONSUMPTION))
    if agreement.method is Method.COEFFICIENTS:
        found.append(Lack(Cause.COEFFICIENTS))
    if agreement.are_losses_stated:
        found.append(Lack(Cause.LOSSES))
    return found


def _can_lose(agreement: Agreement, losses_uwh: int, settlement: Settlement) -> bool:
    brought = sum(one.energy_uwh for one in settlement.brought)
    try:
        deductions(agreement, {"": brought + settlement.waiting_uwh}, losses_uwh)
    except ValueError:
        return False
    return True


def describe(lack: Lack) -> str:
    """In words, as the end of a sentence on what waits."""
    more = len(lack.members) - NAMED_MAX
    names = ", ".join(lack.members[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    whose = f" of {names}" if names else ""
    match lack.cause:
        case Cause.NO_AGREEMENT:
            return "no agreement holds in the step, and none can come to: it stays there"
        case Cause.CONSUMPTION:
            return f"what members consumed is not known{whose}"
        case Cause.COEFFICIENTS:
            return f"the coefficients of the step are not known{whose}"
        case Cause.LOSSES:
            return "the losses of the step are not known"
        case Cause.LOSSES_TOO_HIGH:
            return "the losses of the step, with the fee, are more than its energy"
        case Cause.NEXT_BLOCK:
            return "nothing lacks: the next block shares it"
