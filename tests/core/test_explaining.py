"""Why a member got what he got: every number of the way is said, and what is not known is not."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cryptometer.explaining import explain
from cryptometer.metrology import kwh
from cryptometer.sharing import Outcome, entitlements, share
from cryptometer.sharing_records import Method
from tests.core.strategies import examples
from tests.core.test_sharing import KWH, Case, agreement, cases, claim, keys

FRENCH = agreement(Method.PRO_RATA, *keys(ana=0, bob=0))
NEEDS = {"ana": 3 * KWH, "bob": KWH}
FIXED = replace(
    agreement(Method.KEYS, *keys(ana=2, bob=3), claim("cleo", 1, 1), capped=True, times=3),
    losses=Fraction(1, 50),
    fee=Fraction(1, 100),
    fee_to="club",
)
FIXED_NEEDS = {"ana": 4 * KWH, "bob": KWH, "cleo": KWH}


def explained(case: Case, member: str) -> list[str]:
    return explain(
        case.agreement,
        member,
        case.outcome(),
        case.energy,
        case.needs,
        case.coefficients,
        case.losses_uwh,
    )


def test_each_number_of_the_french_default_is_said() -> None:
    energy = {"roof": 2 * KWH, "barn": KWH // 3}
    assert explain(FRENCH, "ana", share(FRENCH, energy, NEEDS), energy, NEEDS) == [
        "ana got 1.750 kWh.",
        "Produced in the step: 2.333333333 kWh (barn 0.333333333 kWh, roof 2.000 kWh).",
        "Shared: 2.333333333 kWh. Members got 2.333333333 kWh of it; 0.000 kWh is surplus, to"
        " grid.",
        "The rule: in proportion to what each consumed in the step, and no more than that.",
        "ana claims all energy, priority 0.",
        "ana consumed 3.000 kWh.",
        "Of all energy, priority 0, round 1: 2.333333333 kWh was left for 2 of the members. ana"
        " could still use 3.000 kWh of the 4.000 kWh that all of them could, which makes 1.750 kWh,"
        " rounded up to a whole µWh.",
        "Recomputed: the rule gives ana 1.750 kWh, and so did the plant.",
    ]


def test_losses_fee_keys_rounds_and_caps_are_said() -> None:
    energy = {"": 5 * KWH}
    lines = explain(FIXED, "bob", share(FIXED, energy, FIXED_NEEDS), energy, FIXED_NEEDS)
    assert lines[1:4] == [
        "Produced in the step: 5.000 kWh.",
        "Losses, 2 % of it: 0.100 kWh.",
        "Fee to club, 1 % of what was produced: 0.050 kWh.",
    ]
    assert lines[5:8] == [
        "The rule: by the keys of the agreement; nobody gets more than he consumed, and what one"
        " cannot use is shared anew among the others of his priority, in up to 3 rounds.",
        "bob claims all energy, priority 0, with the key 3.",
        "bob consumed 1.000 kWh.",
    ]
    assert lines[8].endswith(
        "The key of bob is 3 of 5, which makes 2.910 kWh; bob could use 1.000 kWh of it."
    )
    assert "round 2: 1.910 kWh was left for 1 of the members. The key of ana is 2 of 2" in (
        "\n".join(explain(FIXED, "ana", share(FIXED, energy, FIXED_NEEDS), energy, FIXED_NEEDS))
    )


def test_who_comes_too_late_is_told_so() -> None:
    energy = {"roof": 3 * KWH}
    lines = explain(FIXED, "cleo", share(FIXED, energy, FIXED_NEEDS), energy, FIXED_NEEDS)
    assert "No energy was left that cleo claims and could use." in lines


def test_energy_of_each_producer_is_told_apart() -> None:
    terms = agreement(Method.COEFFICIENTS, claim("ana", producer="roof"), claim("bob"))
    energy = {"roof": 9, "barn": 5}
    lines = explain(terms, "bob", share(terms, energy, None, (2, 1)), energy, None, (2, 1))
    assert lines[-3:-1] == [
        "Of the energy of barn, priority 0, round 1: 0.000000005 kWh was left for 1 of the members."
        " The coefficient of bob is 1 of 1, which makes 0.000000005 kWh.",
        "Of the energy of roof, priority 0, round 1: 0.000000009 kWh was left for 2 of the members."
        " The coefficient of bob is 1 of 3, which makes 0.000000003 kWh.",
    ]
    assert "ana claims the energy of roof, priority 0." in explain(
        terms, "ana", share(terms, energy, None, (2, 1)), energy, None, (2, 1)
    )


def test_measured_losses_are_the_word_of_the_plant() -> None:
    terms = replace(agreement(Method.EQUAL, *keys(ana=1)), are_losses_stated=True)
    lines = explain(terms, "ana", Outcome((9,), 1, 0, 0), {"": 10}, losses_uwh=1)
    assert "Losses, as the plant states them: 0.000000001 kWh." in lines


def test_a_member_alone_learns_what_is_proven_and_what_is_not() -> None:
    energy = {"roof": 2 * KWH}
    lines = explain(FRENCH, "ana", share(FRENCH, energy, NEEDS), energy, {"ana": 3 * KWH})
    assert lines[-3:-1] == [
        "Proven: the sums. What members, losses, fee and surplus got is what was produced.",
        "Proven: ana got no more than that; 50 % of it is covered.",
    ]
    assert lines[-1].startswith("Not proven: ")
    assert not any("Recomputed" in line for line in lines)


def test_without_any_consumption_the_sums_are_all_that_is_proven() -> None:
    energy = {"roof": 2 * KWH}
    lines = explain(FRENCH, "ana", share(FRENCH, energy, NEEDS), energy)
    assert [line[:6] for line in lines[-2:]] == ["Proven", "Not pr"]


def test_surplus_beside_a_member_who_lacks_is_told_even_to_him_alone() -> None:
    energy, own = {"roof": 5 * KWH}, {"ana": 3 * KWH}
    surplus = "There was surplus, and the rule leaves none before everyone is covered whole."
    fair = explain(FRENCH, "ana", share(FRENCH, energy, NEEDS), energy, own)
    assert surplus in fair
    assert "was missing" not in "\n".join(fair)
    unfair = explain(FRENCH, "ana", Outcome((2 * KWH, KWH), 0, 0, 2 * KWH), energy, own)
    assert "But ana was not: 1.000 kWh was missing." in "\n".join(unfair)


def test_a_key_is_worth_its_part_whatever_others_consumed() -> None:
    energy, own = {"roof": 5 * KWH}, {"ana": 4 * KWH}
    fair = explain(FIXED, "ana", share(FIXED, energy, FIXED_NEEDS), energy, own)
    least = "Whatever others consumed, the rule gives ana 1.939999999 kWh at least."
    assert least in fair
    unfair = explain(
        FIXED, "ana", Outcome((KWH, 3_850_000_000, 0), 10**8, 5 * 10**7, 0), energy, own
    )
    assert "But the plant gave 0.939999999 kWh less than that." in "\n".join(unfair)


def test_more_than_a_member_consumed_is_told() -> None:
    lines = explain(FRENCH, "ana", Outcome((9, 0), 0, 0, 0), {"": 9}, {"ana": 7})
    assert any("ana got 0.000000002 kWh more than that." in line for line in lines)


def test_what_differs_from_the_rule_is_told_with_the_amount() -> None:
    terms = agreement(Method.EQUAL, *keys(ana=1, bob=1))
    lines = explain(terms, "bob", Outcome((7, 3), 0, 0, 0), {"": 10})
    assert "gives bob 0.000000005 kWh; the plant gave 0.000000002 kWh less." in lines[-1]


@pytest.mark.parametrize(("member", "energy"), [("eve", 10), ("ana", 11)])
def test_a_question_about_another_step_or_a_stranger_is_refused(member: str, energy: int) -> None:
    terms = agreement(Method.EQUAL, *keys(ana=1, bob=1))
    with pytest.raises(ValueError, match=r"claim|energy"):
        explain(terms, member, Outcome((7, 3), 0, 0, 0), {"": energy})


@given(cases(), st.data())
@examples(300)
def test_every_case_is_explained_and_what_follows_the_rule_is_said_to(
    case: Case, data: st.DataObject
) -> None:
    member = data.draw(st.sampled_from(case.agreement.members))
    lines = explained(case, member)
    assert lines[0] == f"{member} got {kwh(case.given()[member])}."
    assert lines[-1].endswith("and so did the plant.")
    if case.needs is not None and len(case.needs) > 1:
        alone = explain(
            case.agreement,
            member,
            case.outcome(),
            case.energy,
            {member: case.needs[member]},
            case.coefficients,
            case.losses_uwh,
        )
        assert alone[-1].startswith("Not proven")
        assert not any(line.startswith("But ") for line in alone)


@given(cases((Method.EQUAL, Method.KEYS, Method.COEFFICIENTS)))
@examples(300)
def test_a_cap_never_costs_who_can_use_his_part(case: Case) -> None:
    assume(case.needs is not None)
    assert case.needs is not None
    entitled = entitlements(case.agreement, case.energy, None, case.coefficients, case.losses_uwh)
    for member, part in case.given().items():
        assert part >= min(case.needs[member], entitled[member] - max(1, len(case.energy)))
