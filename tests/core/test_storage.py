"""The ledger of a storage: whose energy it holds, and that none appears or vanishes."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.sharing import entitlements, share
from cryptometer.sharing_records import Method
from cryptometer.storage import StorageLedger, charge, discharge, excesses
from tests.core.strategies import examples
from tests.core.test_sharing import KWH, agreement, claim

NAMES = ("ana", "bob", "cleo")
EXCESS = st.fixed_dictionaries({name: st.integers(0, 10 * KWH) for name in NAMES})
EFFICIENCIES = st.sampled_from([Fraction(1), Fraction(9, 10), Fraction(2, 3), Fraction(1, 97)])
MOVES = st.lists(
    st.one_of(st.tuples(st.integers(0, 5 * KWH), EXCESS, EFFICIENCIES), st.integers(0, 5 * KWH)),
    max_size=12,
)


def weighed(excess: dict[str, int]) -> dict[str, int]:
    return excesses(excess, dict.fromkeys(NAMES, 0), {}, "battery")


@given(MOVES)
@examples(300)
def test_what_went_in_is_held_lost_or_has_come_out(
    moves: list[tuple[int, dict[str, int], Fraction] | int],
) -> None:
    ledger, exact = StorageLedger(), Fraction(0)
    for move in moves:
        before = ledger
        if isinstance(move, int):
            ledger, moved = discharge(ledger, move)
            assert sum(moved.values()) == move - (ledger.uncovered_uwh - before.uncovered_uwh)
            assert ledger.uncovered_uwh == before.uncovered_uwh or not sum(ledger.balances.values())
        else:
            energy, excess, efficiency = move
            exact += energy * efficiency
            ledger, moved = charge(ledger, energy, weighed(excess), efficiency)
            assert sum(moved.values()) == energy - (ledger.lost_uwh - before.lost_uwh)
        assert min(moved.values(), default=0) >= 0
        assert min(ledger.balances.values(), default=0) >= 0
        assert ledger.lost_uwh >= before.lost_uwh
        assert ledger.charged_uwh + ledger.uncovered_uwh == (
            sum(ledger.balances.values()) + ledger.lost_uwh + ledger.discharged_uwh
        )
    assert ledger.charged_uwh - ledger.lost_uwh == int(exact)


def test_a_battery_that_has_what_others_cannot_use_holds_it_for_them() -> None:
    """Ana and Bob have a right to 2 kWh each and use 0.5 and 2; the battery takes the rest."""
    terms = agreement(
        Method.KEYS,
        claim("ana", 1),
        claim("bob", 1),
        claim("battery", 1, priority=1),
        capped=True,
    )
    needs = {"ana": KWH // 2, "bob": 2 * KWH, "battery": 5 * KWH}
    energy = {"roof": 4 * KWH}
    to_battery = share(terms, energy, needs).given[terms.members.index("battery")]
    assert to_battery == 3 * KWH // 2
    excess = excesses(entitlements(terms, energy), needs, {}, "battery")
    assert excess == {"ana": 3 * KWH // 2, "bob": 0}
    ledger, credited = charge(StorageLedger(), to_battery, excess, Fraction(9, 10))
    assert credited == {"ana": 1_350_000_000, "bob": 0}
    assert ledger.lost_uwh == 150_000_000


def test_energy_that_nobody_was_entitled_to_belongs_to_all_by_their_keys() -> None:
    entitled, needs = {"ana": 1, "bob": 2, "battery": 9}, {"ana": 5, "bob": 2, "battery": 0}
    assert excesses(entitled, needs, {"ana": 3, "bob": 1}, "battery") == {"ana": 3, "bob": 1}
    assert excesses(entitled, needs, {"battery": 7}, "battery") == {"ana": 1, "bob": 1}


def test_what_comes_out_is_taken_from_everyone_in_proportion_to_what_is_held_of_him() -> None:
    ledger, _ = charge(StorageLedger(), 9, {"ana": 2, "bob": 1}, Fraction(1))
    ledger, debits = discharge(ledger, 4)
    assert debits == {"ana": 3, "bob": 1}
    assert ledger.balances == {"ana": 3, "bob": 2}


def test_what_comes_out_beyond_all_balances_is_named() -> None:
    ledger, _ = charge(StorageLedger(), 10, {"ana": 1}, Fraction(1))
    ledger, debits = discharge(ledger, 12)
    assert (debits, ledger.balances, ledger.uncovered_uwh) == ({"ana": 10}, {"ana": 0}, 2)


def test_losses_do_not_drift_whatever_the_portions() -> None:
    ledger = StorageLedger()
    for _ in range(1_000):
        ledger, _ = charge(ledger, 1, {"ana": 1}, Fraction(9, 10))
    assert (ledger.balances, ledger.lost_uwh) == ({"ana": 900}, 100)


def test_what_is_held_of_a_member_who_left_stays_his() -> None:
    ledger, _ = charge(StorageLedger(), 8, {"ana": 1, "bob": 1}, Fraction(1))
    ledger, _ = charge(ledger, 8, {"bob": 1}, Fraction(1))
    assert ledger.balances == {"ana": 4, "bob": 12}


def test_a_storage_without_owners_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        charge(StorageLedger(), 1, {"ana": 0}, Fraction(1))
