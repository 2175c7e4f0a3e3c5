"""The arithmetic of agreements: what every rule keeps, and the examples people know."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.sharing import (
    Outcome,
    Round,
    apportion,
    entitlements,
    nothing,
    rounds,
    share,
    supplement,
)
from cryptometer.sharing_records import Agreement, Claim, Method
from tests.core.strategies import examples
from tests.peers import sharing_peer

KWH = 10**9
MEMBERS = ("ana", "bob", "cleo", "dan", "eve")
METERS = ("barn", "roof", "wind")
SHARES = (None, Fraction(1, 3), Fraction(1, 50), Fraction(1, 2))


def agreement(method: Method, *claims: Claim, capped: bool = False, times: int = 1) -> Agreement:
    return Agreement(
        1, bytes(32), "plant", 1, method, capped, times, claims, "grid", are_losses_stated=False
    )


def claim(member: str, weight: int = 1, priority: int = 0, producer: str | None = None) -> Claim:
    return Claim(member, weight, priority, producer)


def keys(**weights: int) -> tuple[Claim, ...]:
    return tuple(claim(name, weight) for name, weight in weights.items())


@dataclass(frozen=True)
class Case:
    """A step: an agreement and everything that its rule asks for."""

    agreement: Agreement
    energy: Mapping[str, int]
    needs: Mapping[str, int] | None
    coefficients: tuple[int, ...]
    losses_uwh: int | None

    def outcome(self) -> Outcome:
        return share(self.agreement, self.energy, self.needs, self.coefficients, self.losses_uwh)

    def given(self) -> dict[str, int]:
        return dict(zip(self.agreement.members, self.outcome().given, strict=True))


AMOUNTS = st.one_of(st.integers(0, 12), st.integers(0, 5 * KWH), st.integers(0, 2**50))
WEIGHTS = st.one_of(st.integers(0, 3), st.integers(0, 2**32))
CLAIMS = st.lists(
    st.builds(
        Claim,
        st.sampled_from(MEMBERS),
        WEIGHTS,
        st.integers(0, 2),
        st.one_of(st.none(), st.none(), st.sampled_from(METERS)),
    ),
    min_size=1,
    max_size=9,
)


@st.composite
def cases(draw: st.DrawFn, methods: tuple[Method, ...] = tuple(Method)) -> Case:
    stated = draw(st.booleans())
    terms = replace(
        agreement(
            draw(st.sampled_from(methods)),
            *draw(CLAIMS),
            capped=draw(st.booleans()),
            times=draw(st.integers(1, 4)),
        ),
        are_losses_stated=stated,
        losses=None if stated else draw(st.sampled_from(SHARES)),
        fee=draw(st.sampled_from(SHARES)),
    )
    names = draw(st.lists(st.sampled_from(METERS), unique=True))
    energy = {name: draw(AMOUNTS) for name in names}
    total = sum(energy.values())
    most = total - int(total * (terms.fee or 0))
    return Case(
        terms,
        energy,
        {member: draw(AMOUNTS) for member in terms.members} if terms.needs_consumption else None,
        tuple(draw(WEIGHTS) for _ in terms.claims) if terms.method is Method.COEFFICIENTS else (),
        draw(st.integers(0, most)) if stated else None,
    )


@given(st.integers(0, 2**60), st.lists(WEIGHTS, max_size=8))
@examples(300)
def test_parts_are_exact_to_less_than_one_and_add_up(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == (total if any(weights) else 0)
    for part, weight in zip(parts, weights, strict=True):
        exact = Fraction(total * weight, sum(weights) or 1)
        assert exact - 1 < part < exact + 1


def test_what_rounding_leaves_goes_to_the_greatest_remainders_then_to_the_earlier_place() -> None:
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(5, [7, 2, 2]) == [3, 1, 1]
    assert apportion(1, [1, 5, 5]) == [0, 1, 0]
    assert apportion(9, [0, 0]) == [0, 0]
    assert apportion(9, []) == []


@given(cases())
@examples(400)
def test_every_rule_gives_all_of_the_energy_and_no_one_less_than_nothing(case: Case) -> None:
    outcome = case.outcome()
    assert outcome.energy_uwh == sum(case.energy.values())
    assert min(*outcome.given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh) >= 0


@given(cases())
@examples(400)
def test_where_consumption_is_a_cap_nobody_gets_more(case: Case) -> None:
    if case.needs is not None:
        for member, part in case.given().items():
            assert part <= case.needs[member]


@given(cases(), st.integers())
@examples(400)
def test_the_order_of_claims_and_of_what_is_handed_in_changes_nothing(
    case: Case, seed: int
) -> None:
    order = list(range(len(case.agreement.claims)))
    Random(seed).shuffle(order)
    other = replace(
        case,
        agreement=replace(
            case.agreement, claims=tuple(case.agreement.claims[place] for place in order)
        ),
        energy=dict(reversed(list(case.energy.items()))),
        needs=None if case.needs is None else dict(reversed(list(case.needs.items()))),
        coefficients=tuple(case.coefficients[place] for place in order if case.coefficients),
    )
    assert other.outcome() == case.outcome()


# --- Rules that people know, with their numbers. -------------------------------------------------


def test_paper_a_two_producers_two_members_by_keys() -> None:
    """Section IV-B2: A creates 15 kWh, B 10; X receives 8, Y 17."""
    terms = agreement(Method.KEYS, *keys(x=8, y=17))
    outcome = share(terms, {"a": 15 * KWH, "b": 10 * KWH})
    assert outcome == Outcome((8 * KWH, 17 * KWH), 0, 0, 0)


def test_the_french_default_covers_the_same_part_of_everyone_and_no_more_than_all() -> None:
    """Code de l'énergie D.315-6: in proportion to consumption, capped by it."""
    terms = agreement(Method.PRO_RATA, *keys(ana=0, bob=0, cleo=0))
    needs = {"ana": 3 * KWH, "bob": KWH, "cleo": 0}
    assert share(terms, {"roof": 2 * KWH}, needs).given == (1_500_000_000, 500_000_000, 0)
    assert share(terms, {"roof": 9 * KWH}, needs) == Outcome((3 * KWH, KWH, 0), 0, 0, 5 * KWH)


def test_fixed_keys_in_one_round_leave_what_a_member_cannot_use() -> None:
    terms = agreement(Method.KEYS, *keys(ana=1, bob=1, cleo=2), capped=True)
    needs = {"ana": 100, "bob": 1_000, "cleo": 1_000}
    assert share(terms, {"roof": 1_200}, needs) == Outcome((100, 300, 600), 0, 0, 200)


def test_fixed_keys_in_two_rounds_share_it_anew_among_those_who_can() -> None:
    terms = agreement(Method.KEYS, *keys(ana=1, bob=1, cleo=2), capped=True, times=2)
    needs = {"ana": 100, "bob": 1_000, "cleo": 1_000}
    assert share(terms, {"roof": 1_200}, needs) == Outcome((100, 367, 733), 0, 0, 0)


def test_a_later_priority_has_what_the_first_cannot_use() -> None:
    terms = agreement(
        Method.EQUAL, claim("school"), claim("ana", 1, 1), claim("bob", 1, 1), capped=True
    )
    needs = {"school": 700, "ana": 1_000, "bob": 100}
    assert share(terms, {"roof": 600}, needs).given == (0, 0, 600)
    assert share(terms, {"roof": 1_000}, needs) == Outcome((150, 100, 700), 0, 0, 50)


def test_a_first_priority_without_a_cap_has_it_all() -> None:
    terms = agreement(Method.EQUAL, claim("school"), claim("ana", 1, 1))
    assert share(terms, {"roof": 600}).given == (0, 600)


def test_energy_of_each_producer_goes_to_those_who_claim_it() -> None:
    """Full dynamic keys: each producer has its own."""
    terms = agreement(
        Method.KEYS,
        claim("ana", 3, producer="barn"),
        claim("bob", 1, producer="barn"),
        claim("ana", 1, producer="roof"),
        claim("bob", 1, producer="roof"),
    )
    outcome = share(terms, {"roof": 100, "barn": 1_000, "wind": 7})
    assert outcome == Outcome((800, 300), 0, 0, 7)


def test_a_cap_is_carried_from_one_producer_to_the_next() -> None:
    terms = agreement(
        Method.EQUAL, claim("ana"), claim("bob", producer="roof"), capped=True, times=2
    )
    needs = {"ana": 150, "bob": 150}
    outcome = share(terms, {"roof": 100, "barn": 100}, needs)
    assert outcome == Outcome((150, 50), 0, 0, 0)


def test_coefficients_belong_to_claims_and_add_up() -> None:
    terms = agreement(Method.COEFFICIENTS, claim("ana", 9), claim("bob", 9), claim("ana", 9))
    assert share(terms, {"roof": 100}, coefficients=(1, 2, 1)).given == (50, 50)


def test_several_claims_do_not_make_a_member_more_equal_or_hungrier() -> None:
    several = (claim("ana"), claim("ana", 5), claim("bob"))
    assert share(agreement(Method.EQUAL, *several), {"roof": 100}).given == (50, 50)
    needs = {"ana": 100, "bob": 100}
    assert share(agreement(Method.PRO_RATA, *several), {"roof": 100}, needs).given == (50, 50)


def test_losses_and_fee_are_parts_of_the_whole_rounded_down() -> None:
    terms = replace(
        agreement(Method.KEYS, *keys(ana=1)), losses=Fraction(1, 10), fee=Fraction(1, 3)
    )
    assert share(terms, {"roof": 99, "barn": 10}) == Outcome((63,), 10, 36, 0)


def test_losses_that_were_measured_are_stated() -> None:
    terms = replace(agreement(Method.KEYS, *keys(ana=1)), are_losses_stated=True)
    assert share(terms, {"roof": 100}, losses_uwh=7) == Outcome((93,), 7, 0, 0)


def test_nobody_with_a_weight_means_surplus() -> None:
    terms = agreement(Method.KEYS, *keys(ana=0, bob=0))
    assert share(terms, {"roof": 100}) == Outcome((0, 0), 0, 0, 100)


def test_a_step_without_energy_gives_nothing() -> None:
    terms = agreement(Method.PRO_RATA, *keys(ana=0, bob=0))
    assert share(terms, {}, {"ana": 5, "bob": 5}) == nothing(terms)


STATED = replace(agreement(Method.KEYS, *keys(ana=1)), are_losses_stated=True, fee=Fraction(1, 2))


@pytest.mark.parametrize(
    ("terms", "arguments"),
    [
        (agreement(Method.PRO_RATA, *keys(ana=1)), {}),
        (agreement(Method.KEYS, *keys(ana=1, bob=1), capped=True), {"needs": {"ana": 1}}),
        (agreement(Method.PRO_RATA, *keys(ana=1)), {"needs": {"ana": -1}}),
        (agreement(Method.COEFFICIENTS, *keys(ana=1, bob=1)), {"coefficients": (1,)}),
        (agreement(Method.COEFFICIENTS, *keys(ana=1)), {"coefficients": (-1,)}),
        (agreement(Method.KEYS, *keys(ana=1)), {"coefficients": (1,)}),
        (agreement(Method.KEYS, *keys(ana=1)), {"losses_uwh": 0}),
        (STATED, {}),
        (STATED, {"losses_uwh": 51}),
        (STATED, {"losses_uwh": -1}),
        (agreement(Method.KEYS, *keys(ana=1)), {"energy": {"roof": 101, "barn": -1}}),
    ],
)
def test_what_the_rule_asks_for_must_be_there_and_possible(
    terms: Agreement, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"consumption|coefficients|losses|energy"):
        share(terms, **{"energy": {"roof": 100}, **arguments})


@given(cases((Method.EQUAL, Method.KEYS, Method.COEFFICIENTS)))
@examples(200)
def test_entitlements_are_the_rule_without_its_caps(case: Case) -> None:
    without = replace(case, agreement=replace(case.agreement, capped=False), needs=None)
    assert without.given() == entitlements(
        case.agreement, case.energy, None, case.coefficients, case.losses_uwh
    )


# --- Round by round. -----------------------------------------------------------------------------


def test_rounds_go_on_while_something_is_left_and_somebody_can_use_it() -> None:
    terms = agreement(Method.KEYS, *keys(ana=1, bob=1, cleo=2), capped=True, times=3)
    needs = {"ana": 100, "bob": 320, "cleo": 1_000}
    first = Round(None, 0, 1, 1_200, ("ana", "bob", "cleo"), (1, 1, 2), (300, 300, 600),
                  (100, 300, 600))  # fmt: skip
    second = Round(None, 0, 2, 200, ("bob", "cleo"), (1, 2), (67, 133), (20, 133))
    third = Round(None, 0, 3, 47, ("cleo",), (2,), (47,), (47,))
    assert list(rounds(terms, {"roof": 1_200}, needs)) == [first, second, third]
    twice = replace(terms, rounds=2)
    assert list(rounds(twice, {"roof": 1_200}, needs)) == [first, second]
    with pytest.raises(ValueError, match="consumption"):
        list(rounds(terms, {"roof": 1_200}))
    [alone] = rounds(terms, {"roof": 1_200}, without_caps=True)
    assert alone == replace(first, given=first.parts)
    assert entitlements(terms, {"roof": 1_200}) == {"ana": 300, "bob": 300, "cleo": 600}


def test_in_proportion_to_consumption_a_round_weighs_what_is_still_lacking() -> None:
    terms = agreement(
        Method.PRO_RATA, claim("ana", producer="barn"), claim("ana", 1, 1), claim("bob", 1, 1),
        times=2,
    )  # fmt: skip
    needs = {"ana": 50, "bob": 20}
    assert list(rounds(terms, {"roof": 14, "barn": 40}, needs)) == [
        Round("barn", 0, 1, 40, ("ana",), (50,), (40,), (40,)),
        Round("roof", 1, 1, 14, ("ana", "bob"), (10, 20), (5, 9), (5, 9)),
    ]
    assert entitlements(terms, {"roof": 14, "barn": 40}, needs) == {"ana": 50, "bob": 4}


def test_losses_and_fee_lessen_what_each_producer_s_claims_share() -> None:
    terms = replace(
        agreement(
            Method.KEYS, claim("bob", 1, 1), claim("ana", 3, 2, "barn"), claim("ana", 1, 1, "barn"),
            claim("ana", 1, 1), claim("cleo", 5, 0, "wind"),
        ),
        fee=Fraction(1, 10), are_losses_stated=True,
    )  # fmt: skip
    assert list(rounds(terms, {"roof": 30, "barn": 70}, losses_uwh=10)) == [
        Round("barn", 1, 1, 56, ("ana", "bob"), (2, 1), (37, 19), (37, 19)),
        Round("roof", 1, 1, 24, ("ana", "bob"), (1, 1), (12, 12), (12, 12)),
    ]
    assert entitlements(terms, {"roof": 30, "barn": 70}, losses_uwh=10) == {
        "ana": 49, "bob": 31, "cleo": 0,
    }  # fmt: skip


def test_of_equals_each_has_the_weight_one() -> None:
    terms = agreement(Method.EQUAL, claim("bob", 7), claim("ana", 9), claim("bob", 3))
    [only] = rounds(terms, {"roof": 9})
    assert only == Round(None, 0, 1, 9, ("ana", "bob"), (1, 1), (5, 4), (5, 4))


def test_coefficients_are_the_weights_of_a_round() -> None:
    terms = agreement(Method.COEFFICIENTS, claim("bob", 7), claim("ana", 9), claim("bob", 1, 1))
    [only] = rounds(terms, {"roof": 100}, coefficients=(3, 1, 5))
    assert only == Round(None, 0, 1, 100, ("ana", "bob"), (1, 3), (25, 75), (25, 75))
    assert entitlements(terms, {"roof": 100}, coefficients=(3, 1, 5)) == {"ana": 25, "bob": 75}
    [none] = rounds(terms, {"roof": 100}, coefficients=(0, 0, 5))
    assert (none.priority, none.given) == (1, (100,))


# --- Proportions. --------------------------------------------------------------------------------

# Where all energy is shared in one pool and without rounds, more of it never means less for anyone,
# but for rounding: 1 for largest remainder, and 2 where losses and fee both come up by one.
ROUNDING = 3


@st.composite
def pools(draw: st.DrawFn) -> Case:
    """Cases of rules that are monotone in the energy: no producer named, and no limit of rounds."""
    case = draw(cases())
    claims = tuple(replace(each, producer=None) for each in case.agreement.claims)
    capped = case.agreement.method is Method.PRO_RATA
    terms = replace(
        case.agreement,
        claims=claims,
        capped=False,
        are_losses_stated=False,
        losses=draw(st.sampled_from(SHARES)),
    )
    return replace(case, agreement=terms, needs=case.needs if capped else None, losses_uwh=None)


@given(pools(), st.sampled_from(METERS), AMOUNTS)
@examples(400)
def test_more_energy_means_no_less_for_anyone(case: Case, meter: str, more: int) -> None:
    after = replace(case, energy={**case.energy, meter: case.energy.get(meter, 0) + more})
    for member, part in case.given().items():
        assert after.given()[member] >= part - ROUNDING


@given(cases((Method.PRO_RATA,)), st.data())
@examples(300)
def test_pro_rata_covers_the_same_part_of_each_of_a_pool(case: Case, data: st.DataObject) -> None:
    claims = tuple(claim(each.member) for each in case.agreement.claims)
    case = replace(case, agreement=replace(case.agreement, claims=claims))
    outcome, needs = case.outcome(), case.needs
    assert needs is not None
    rest = outcome.energy_uwh - outcome.losses_uwh - outcome.fee_uwh
    covered = min(Fraction(1), Fraction(rest, sum(needs.values()) or 1))
    for member, part in case.given().items():
        assert abs(part - needs[member] * covered) < 1


# --- Energy that comes later. --------------------------------------------------------------------


def arrive(case: Case, arrivals: list[dict[str, int]]) -> Outcome:
    """What a step has given after all arrivals, each distributed as it came."""
    came: dict[str, int] = {}
    total = nothing(case.agreement)
    for arrival in arrivals:
        for meter, amount in arrival.items():
            came[meter] = came.get(meter, 0) + amount
        whole, new = of_what_came(case, came).outcome(), sum(arrival.values())
        more = supplement(total, whole, new)
        assert more.energy_uwh == new + more.from_surplus_uwh
        assert 0 <= more.from_surplus_uwh <= total.surplus_uwh
        assert min(parts(more)) >= 0
        total = total.plus(more)
        lacking = [rule - had for rule, had in zip(whole.given, total.given, strict=True)]
        assert max(lacking) <= 0 or total.surplus_uwh == 0
    return total


def of_what_came(case: Case, came: dict[str, int]) -> Case:
    """The case with a part of its energy, and of stated losses what they can be of that."""
    fee = int(sum(came.values()) * (case.agreement.fee or 0))
    stated = case.losses_uwh
    losses = None if stated is None else min(stated, sum(came.values()) - fee)
    return replace(case, energy=came, losses_uwh=losses)


@st.composite
def splits(draw: st.DrawFn, energy: Mapping[str, int]) -> list[dict[str, int]]:
    """The energy of a step in up to five arrivals."""
    arrivals: list[dict[str, int]] = [{} for _ in range(draw(st.integers(1, 5)))]
    for meter, amount in energy.items():
        places = sorted(draw(st.integers(0, amount)) for _ in arrivals[1:])
        for arrival, low, high in zip(arrivals, [0, *places], [*places, amount], strict=True):
            arrival[meter] = high - low
    return arrivals


@given(cases(), st.data())
@examples(400)
def test_no_arrival_takes_back_what_was_given_and_each_gives_exactly_what_came(
    case: Case, data: st.DataObject
) -> None:
    after = arrive(case, data.draw(splits(case.energy)))
    assert after.energy_uwh == sum(case.energy.values())
    if case.needs is not None:
        for member, part in zip(case.agreement.members, after.given, strict=True):
            assert part <= case.needs[member]


@given(pools(), st.data())
@examples(400)
def test_arrivals_in_any_split_end_where_one_distribution_would(
    case: Case, data: st.DataObject
) -> None:
    """Nobody ends more than 3 µWh above the rule, hence nobody further below than all others
    together can be above."""
    after = arrive(case, data.draw(splits(case.energy)))
    sinks = len(case.agreement.members) + 3
    for part, rule in zip(parts(after), parts(case.outcome()), strict=True):
        assert part <= rule + ROUNDING
        assert part >= rule - ROUNDING * (sinks - 1)


def parts(outcome: Outcome) -> tuple[int, ...]:
    return (*outcome.given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh)


@given(cases())
@examples(200)
def test_a_first_distribution_is_the_rule_itself(case: Case) -> None:
    whole = case.outcome()
    assert supplement(nothing(case.agreement), whole, whole.energy_uwh) == whole
    assert supplement(whole, whole, 0) == nothing(case.agreement)


@given(cases(), st.data())
@examples(300)
def test_a_correction_moves_surplus_and_nothing_else(case: Case, data: st.DataObject) -> None:
    before = case.outcome()
    needs = case.needs and {member: data.draw(AMOUNTS) for member in case.agreement.members}
    whole = replace(case, needs=needs).outcome()
    more = supplement(before, whole, 0)
    assert more.energy_uwh == more.from_surplus_uwh <= before.surplus_uwh
    assert more.surplus_uwh == 0
    after = before.plus(more)
    assert after.energy_uwh == before.energy_uwh
    for was, part, rule in zip(before.given, after.given, whole.given, strict=True):
        assert was <= part <= max(was, rule)
        assert part >= rule or after.surplus_uwh == 0


def test_consumption_found_later_takes_from_the_surplus_what_the_rule_no_longer_leaves_there() -> (
    None
):
    terms = agreement(Method.PRO_RATA, *keys(ana=1, bob=1))
    before = share(terms, {"roof": 100}, {"ana": 10, "bob": 20})
    assert before == Outcome((10, 20), 0, 0, 70)
    more = supplement(before, share(terms, {"roof": 100}, {"ana": 40, "bob": 20}), 0)
    assert more == Outcome((30, 0), 0, 0, 0, from_surplus_uwh=30)
    assert before.plus(more) == Outcome((40, 20), 0, 0, 40)


def test_consumption_found_too_high_takes_nothing_back() -> None:
    terms = agreement(Method.PRO_RATA, *keys(ana=1, bob=1))
    before = share(terms, {"roof": 100}, {"ana": 100, "bob": 100})
    assert before == Outcome((50, 50), 0, 0, 0)
    whole = share(terms, {"roof": 100}, {"ana": 20, "bob": 100})
    assert supplement(before, whole, 0) == nothing(terms)
    later = share(terms, {"roof": 130}, {"ana": 20, "bob": 100})
    assert supplement(before, later, 30) == Outcome((0, 30), 0, 0, 0)


def test_outcomes_add_up_part_by_part() -> None:
    before, more = Outcome((1, 20), 300, 4_000, 50_000), Outcome((2, 1), 5, 7, 0, 600)
    assert before.energy_uwh == 54_321
    assert before.plus(more) == Outcome((3, 21), 305, 4_007, 49_400)
    assert before.plus(Outcome((0, 0), 0, 0, 9)) == Outcome((1, 20), 300, 4_000, 50_009)


def test_outcomes_of_other_members_have_nothing_to_do_with_each_other() -> None:
    two, one = Outcome((2, 3), 0, 0, 0), Outcome((5,), 0, 0, 0)
    for before, after in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="zip"):
            before.plus(after)
        with pytest.raises(ValueError, match="zip"):
            supplement(before, after, 0)


def test_where_new_energy_is_not_enough_losses_come_first_then_the_fee_then_members() -> None:
    before = Outcome((40, 50), 0, 0, 10)
    whole = Outcome((50, 60), 8, 7, 0)
    # 35 lack, 25 come: the surplus of 10 serves too.
    assert supplement(before, whole, 25) == Outcome((10, 10), 8, 7, 0, 10)
    poor = replace(before, given=(45, 55), surplus_uwh=0)
    for new, more in (
        (25, Outcome((5, 5), 8, 7, 0)),
        (14, Outcome((0, 0), 8, 6, 0)),
        (5, Outcome((0, 0), 5, 0, 0)),
    ):
        had = replace(poor, given=(45 + 25 - new, 55))
        assert supplement(had, replace(whole, given=(50, 60)), new) == more


def test_what_is_not_lacking_of_new_energy_is_surplus() -> None:
    before = Outcome((50, 50), 10, 10, 5)
    whole = Outcome((20, 53), 9, 12, 61)
    assert supplement(before, whole, 30) == Outcome((0, 3), 0, 2, 25)


def test_a_whole_that_is_not_what_was_and_what_came_is_refused() -> None:
    terms = agreement(Method.KEYS, *keys(ana=1))
    before = share(terms, {"roof": 100})
    for energy in (1, -1):
        with pytest.raises(ValueError, match="whole"):
            supplement(before, before, energy)


# --- A second implementation, from docs/formats.md section 15. -----------------------------------


def peer_outcome(case: Case) -> sharing_peer.Account:
    terms = case.agreement
    coefficients = case.coefficients or (0,) * len(terms.claims)
    claims = [
        sharing_peer.Claim(one.member, one.weight, one.priority, one.producer, coefficient)
        for one, coefficient in zip(terms.claims, coefficients, strict=True)
    ]
    rule = sharing_peer.Rule(
        terms.method.value,
        terms.capped,
        terms.rounds,
        claims,
        terms.losses or Fraction(0),
        terms.fee or Fraction(0),
    )
    needs = dict(case.needs or {})
    return sharing_peer.rule(rule, dict(case.energy), needs, case.losses_uwh)


def account(case: Case, outcome: Outcome) -> sharing_peer.Account:
    given = dict(zip(case.agreement.members, outcome.given, strict=True))
    return sharing_peer.Account(given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh)


@given(cases())
@examples(500)
def test_who_reads_the_page_comes_to_the_same_microwatt_hour(case: Case) -> None:
    assert account(case, case.outcome()) == peer_outcome(case)


@given(cases(), st.data())
@examples(300)
def test_who_reads_the_page_comes_to_the_same_supplements(case: Case, data: st.DataObject) -> None:
    came: dict[str, int] = {}
    total = nothing(case.agreement)
    for arrival in data.draw(splits(case.energy)):
        came = {meter: came.get(meter, 0) + arrival[meter] for meter in arrival}
        now = of_what_came(case, came)
        new = sum(arrival.values())
        more = supplement(total, now.outcome(), new)
        theirs, back = sharing_peer.supplement(account(case, total), peer_outcome(now), new)
        total = total.plus(more)
        assert (account(case, total), more.from_surplus_uwh) == (theirs, back)
