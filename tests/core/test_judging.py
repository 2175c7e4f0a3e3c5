"""Whether a distribution may move what it says: values only, no signature and no block."""

from dataclasses import replace
from fractions import Fraction
from struct import pack

from cryptometer.errors import Reason
from cryptometer.judging import is_recomputed, judge
from cryptometer.settlement import Brought, Settlement
from cryptometer.sharing_records import Method, Output
from tests.core.refusing import refusing
from tests.core.settling import ACCOUNT, LATE, NEEDS, STEP, agreed, digests, drafted, more, private


def test_the_rule_is_recomputed_unless_consumption_is_hidden() -> None:
    hidden = agreed(method=Method.PRO_RATA).agreement
    assert is_recomputed(agreed().agreement)
    assert not is_recomputed(hidden)
    assert is_recomputed(hidden, NEEDS)


def test_a_distribution_is_by_the_agreement_of_its_step() -> None:
    by = agreed()
    whole = drafted(by)
    for other in (None, replace(by, identity=bytes(32)), agreed(vpp="other")):
        with refusing(Reason.WRONG_AGREEMENT):
            judge(other, ACCOUNT, whole)
    with refusing(Reason.NO_SUCH_INPUT):
        judge(by, None, whole)
    for supplements, reason in ((1, Reason.REPEAT), (2, Reason.REPEAT)):
        with refusing(reason):
            judge(by, replace(ACCOUNT, supplements=supplements), whole)
    with refusing(Reason.GAP):
        judge(by, ACCOUNT, replace(whole, supplement=1))


def test_where_consumption_is_hidden_the_account_goes_on_as_where_it_is_told() -> None:
    by, whole = private()
    after = judge(by, ACCOUNT, whole)
    assert after == judge(by, ACCOUNT, whole, NEEDS)
    assert after == Settlement(
        STEP, (), (Brought("", 2500),), 1, pack(">2Q", 500, 600), 250, 25, 1125
    )
    by, correction = private(after, ana=700)
    assert correction.supplement == 1
    moved = replace(after, supplements=2, packed=pack(">2Q", 700, 600), surplus_uwh=925)
    assert judge(by, after, correction) == moved


def test_where_consumption_is_hidden_losses_and_fee_are_proven_in_every_supplement() -> None:
    by, first = private(replace(ACCOUNT, waiting=(LATE,)), ana=50, bob=60)
    between = judge(by, ACCOUNT, first)
    assert (between.losses_uwh, between.fee_uwh, between.surplus_uwh) == (100, 10, 780)
    by, second = private(between)
    assert (second.losses_uwh, second.fee_uwh) == (150, 15)
    assert judge(by, between, second).losses_uwh == 250
    for before, whole in ((ACCOUNT, first), (between, second)):
        for lost, fee in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, -1)):
            lie = replace(
                whole,
                losses_uwh=whole.losses_uwh + lost,
                fee_uwh=whole.fee_uwh + fee,
                outputs=more(whole.outputs, -lost - fee, 0),
            )
            with refusing(Reason.NOT_AS_AGREED, "by rule"):
                judge(by, before, lie)


def test_where_consumption_is_hidden_losses_come_before_the_fee() -> None:
    """Half is lost and half is the fee: of one microwatt-hour each is rounded down, of two neither
    is; the surplus of the first has to serve, or the fee waits."""
    by = agreed(method=Method.PRO_RATA, losses=Fraction(1, 2), fee=Fraction(1, 2), fee_to="coop")
    small = replace(LATE, energy_uwh=1, tokens=0)
    account = replace(ACCOUNT, waiting=(small,))
    nobody = {"needs": {"ana": 0, "bob": 0}, "commitments": digests(ana=0, bob=0)}
    first = judge(by, account, drafted(by, account, **nobody))
    assert (first.losses_uwh, first.fee_uwh, first.surplus_uwh) == (0, 0, 1)
    again = replace(first, waiting=(small,))
    whole = drafted(by, again, **nobody)
    assert (whole.losses_uwh, whole.fee_uwh, whole.from_surplus_uwh) == (1, 1, 1)
    judge(by, again, whole)
    late = judge(by, again, replace(whole, fee_uwh=0, from_surplus_uwh=0))
    assert (late.losses_uwh, late.fee_uwh, late.surplus_uwh) == (1, 0, 1)
    with refusing(Reason.NOT_AS_AGREED):
        judge(by, again, replace(whole, losses_uwh=0, from_surplus_uwh=0))


def test_stated_losses_are_the_step_s_where_consumption_is_hidden() -> None:
    by = agreed(method=Method.PRO_RATA, are_losses_stated=True)
    said = {"needs": NEEDS, "commitments": digests(**NEEDS)}
    first = drafted(by, replace(ACCOUNT, waiting=(LATE,)), losses_uwh=100, **said)
    between = judge(by, ACCOUNT, first)
    second = drafted(by, between, losses_uwh=30, **said)
    assert judge(by, between, second).losses_uwh == 130


def test_all_that_is_said_is_spent_as_it_was_brought() -> None:
    by = agreed()
    whole = drafted(by)
    first, second = whole.inputs
    for inputs, reason, words in (
        ((first, first), Reason.NO_SUCH_INPUT, "no close of step 7"),
        ((first, replace(second, close=bytes(32))), Reason.NO_SUCH_INPUT, "00000000"),
        ((first, replace(second, energy_uwh=1501)), Reason.WRONG_SUMS, "m0 brought 1500"),
        ((first, replace(second, tokens=3)), Reason.WRONG_SUMS, "m0 brought 1500"),
    ):
        with refusing(reason, words):
            judge(by, ACCOUNT, replace(whole, inputs=inputs))


def test_the_surplus_is_taken_to_its_last_microwatt_hour_and_no_further() -> None:
    by, whole = private()
    after = judge(by, ACCOUNT, whole)
    by, all_of_it = private(after, ana=500 + 1125)
    assert judge(by, after, all_of_it).surplus_uwh == 0
    over = replace(all_of_it, outputs=more(all_of_it.outputs, 1), from_surplus_uwh=1126)
    with refusing(Reason.WRONG_SUMS, "the surplus of the step is 1125"):
        judge(by, after, over)
    with refusing(Reason.WRONG_SUMS, "it moves nothing"):
        judge(by, after, replace(all_of_it, outputs=(), from_surplus_uwh=0))


def test_an_output_without_energy_has_no_tokens_and_one_of_neither_is_none() -> None:
    by = agreed()
    whole = drafted(by)
    ana, bob = whole.outputs
    for outputs, words in (
        ((Output("ana", 0, 2), replace(bob, energy_uwh=2500)), "ana is given 0"),
        ((Output("ana", 0, 0), replace(bob, energy_uwh=2500)), "an output of nothing"),
        ((replace(ana, tokens=0), bob), "ana is given 800 µWh and 0 tokens"),
        ((replace(bob, energy_uwh=2500),), "ana is given nothing"),
        ((ana, replace(bob, energy_uwh=850), replace(bob, energy_uwh=850)), "order"),
        ((replace(ana, member="aaa"), bob), "aaa has no claim"),
    ):
        with refusing(Reason.NOT_AS_AGREED, words):
            judge(by, ACCOUNT, replace(whole, outputs=outputs))


def test_the_first_wrong_output_is_named_and_not_those_that_are_right() -> None:
    by = agreed()
    whole = drafted(by)
    ana, bob = whole.outputs
    with refusing(Reason.NOT_AS_AGREED, "bob is given 1700 µWh and 4 tokens, by the agreement"):
        judge(by, ACCOUNT, replace(whole, outputs=(ana, replace(bob, tokens=4))))
    # Who is told the consumption finds what nobody else can.
    by, honest = private()
    unfair = replace(honest, outputs=more(honest.outputs, -1, 1))
    judge(by, ACCOUNT, unfair)
    with refusing(Reason.NOT_AS_AGREED, "ana is given 499"):
        judge(by, ACCOUNT, unfair, NEEDS)


def test_what_goes_in_comes_out() -> None:
    by, whole = private()
    for wrong in (
        replace(whole, outputs=more(whole.outputs, 1, 0)),
        replace(whole, losses_uwh=251),
        replace(whole, fee_uwh=24),
        replace(whole, surplus_uwh=0),
        replace(whole, from_surplus_uwh=1),
        replace(whole, inputs=whole.inputs[1:]),
    ):
        with refusing(Reason.WRONG_SUMS, "µWh go in and "):
            judge(by, ACCOUNT, wrong)


def test_everyone_s_consumption_is_committed_to_where_it_is_hidden_and_nowhere_else() -> None:
    by, whole = private()
    ana, bob = whole.commitments
    for some in ((), (ana,), (bob, ana), (ana, ana), (ana, bob, bob)):
        words = f"commitments to what {len(some)} of the members"
        with refusing(Reason.NOT_AS_AGREED, words):
            judge(by, ACCOUNT, replace(whole, commitments=some))
    with refusing(Reason.NOT_AS_AGREED, "commitments to what 1 of"):
        judge(agreed(), ACCOUNT, replace(drafted(agreed()), commitments=(ana,)))


def test_surplus_does_not_grow_and_shrink_at_once() -> None:
    by, whole = private()
    after = judge(by, ACCOUNT, whole)
    by, correction = private(after, ana=700)
    both = replace(correction, surplus_uwh=1, from_surplus_uwh=201)
    with refusing(Reason.NOT_AS_AGREED, "adds to the surplus, and takes from it"):
        judge(by, after, both)
