"""Whose energy a storage holds. Integers and rationals only; knows no record.

A storage is a consumer when it charges and a producer when it discharges (paper A section II-A).
As a consumer it is a member of the agreement. What the agreement gives it belongs to those who were
entitled to more than they were given, since they could not use it, and its ledger says how much of
each member is still in it (paper A section II-B). Nothing of it asks what anybody consumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from cryptometer.sharing import apportion

# What several distributions of a step round away of a member's part is no excess of his.
ROUNDING_UWH = 3


@dataclass(frozen=True, slots=True)
class StorageLedger:
    """What a storage holds of each member, µWh: `charged` and `uncovered` are together what the
    balances, `lost` and `discharged` are.

    Attributes:
        balances: what the storage holds of each member who ever had some in it.
        charged_uwh: all that ever went in.
        lost_uwh: of it, what does not come out, by the registered efficiency.
        discharged_uwh: all that ever came out.
        uncovered_uwh: of it, what no balance covered: the storage is better than registered, or
            held energy when the ledger began.
        carried: what rounding has kept from the balances so far, below 1 µWh: it comes with a later
            charge, so that rounding never drifts.
    """

    balances: Mapping[str, int] = field(default_factory=dict)
    charged_uwh: int = 0
    lost_uwh: int = 0
    discharged_uwh: int = 0
    uncovered_uwh: int = 0
    carried: Fraction = Fraction(0)


def excesses(
    entitled: Mapping[str, int],
    given: Mapping[str, int],
    keys: Mapping[str, int],
    storage: str,
) -> dict[str, int]:
    """By what the energy that charges a storage belongs to the members, itself apart.

    It is what each was entitled to beyond what he was given; where nobody was, his key; where all
    keys are zero, everyone has the same.

    Args:
        entitled: see `sharing.entitlements`.
        given: what the step's distributions gave to each.
        keys: of each, by the agreement.
        storage: as the agreement names it.
    """
    members = sorted(set(entitled) - {storage})
    beyond = {
        member: excess if (excess := entitled[member] - given[member]) > ROUNDING_UWH else 0
        for member in members
    }
    by_keys = {member: keys.get(member, 0) for member in members}
    for weights in (beyond, by_keys):
        if any(weights.values()):
            return weights
    return dict.fromkeys(members, 1)


def charge(
    ledger: StorageLedger, energy_uwh: int, excess: Mapping[str, int], efficiency: Fraction
) -> tuple[StorageLedger, dict[str, int]]:
    """The agreement gave energy to the storage. Returns what each member is credited, too.

    Args:
        excess: see `excesses`.
        efficiency: the part of what goes in that comes out, as registered; in ]0, 1].

    Raises:
        ValueError: nobody has an excess.
    """
    if not any(excess.values()):
        raise ValueError("the energy in the storage would be nobody's")
    exact = energy_uwh * efficiency + ledger.carried
    kept = exact.numerator // exact.denominator
    credited = _apportioned(kept, excess)
    balances = {
        member: ledger.balances.get(member, 0) + credited.get(member, 0)
        for member in sorted({*ledger.balances, *credited})
    }
    after = StorageLedger(
        balances,
        ledger.charged_uwh + energy_uwh,
        ledger.lost_uwh + energy_uwh - kept,
        ledger.discharged_uwh,
        ledger.uncovered_uwh,
        exact - kept,
    )
    return after, credited


def discharge(ledger: StorageLedger, energy_uwh: int) -> tuple[StorageLedger, dict[str, int]]:
    """The storage gave energy. Returns what each member is debited, too: in proportion to his
    balance, and never more than that."""
    covered = min(energy_uwh, sum(ledger.balances.values()))
    debits = _apportioned(covered, ledger.balances)
    after = StorageLedger(
        {member: balance - debits[member] for member, balance in ledger.balances.items()},
        ledger.charged_uwh,
        ledger.lost_uwh,
        ledger.discharged_uwh + energy_uwh,
        ledger.uncovered_uwh + energy_uwh - covered,
        ledger.carried,
    )
    return after, debits


def _apportioned(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    names = sorted(weights)
    return dict(zip(names, apportion(total, [weights[name] for name in names]), strict=True))
