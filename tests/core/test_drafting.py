"""What a plant would distribute: values only, no signature and no block."""

from dataclasses import replace
from fractions import Fraction
from struct import pack

from cryptometer.drafting import draft
from cryptometer.errors import Reason
from cryptometer.judging import judge
from cryptometer.settlement import Brought, Settlement, opened
from cryptometer.sharing_records import Claim, Commitment, Distribution, Input, Method, Output, Part
from tests.core.refusing import refusing
from tests.core.settling import (
    ACCOUNT,
    DEDUCTED,
    EARLY,
    LATE,
    NEEDS,
    STEP,
    agreed,
    digests,
    drafted,
    private,
)


def test_a_draft_gives_all_that_waits_less_losses_and_fee() -> None:
    by = agreed(**DEDUCTED)
    whole = drafted(by)
    assert whole == Distribution(
        "plant", 0, bytes(32), STEP, 0, Part(1, 1), by.identity,
        (Input(b"\2" * 32, 1000, 3), Input(b"\1" * 32, 1500, 2)),
        (Output("ana", 712, 2), Output("bob", 1513, 3)),
        losses_uwh=250, fee_uwh=25, surplus_uwh=0, from_surplus_uwh=0,
        commitments=(), coefficients=(),
    )  # fmt: skip
    assert judge(by, ACCOUNT, whole) == Settlement(
        STEP, (), (Brought("", 2500),), 1, pack(">2Q", 712, 1513), 250, 25, 0
    )


def test_what_is_spent_later_joins_what_was_brought_before() -> None:
    by = agreed(**DEDUCTED)
    first = drafted(by, replace(ACCOUNT, waiting=(LATE,)))
    assert first.outputs == (Output("ana", 285, 1), Output("bob", 605, 2))
    between = judge(by, ACCOUNT, first)
    assert between == Settlement(
        STEP, (EARLY,), (Brought("", 1000),), 1, pack(">2Q", 285, 605), 100, 10, 0
    )
    second = drafted(by, between)
    assert (second.supplement, second.inputs) == (1, (EARLY.as_input,))
    assert (second.losses_uwh, second.fee_uwh) == (150, 15)
    assert second.outputs == (Output("ana", 427, 1), Output("bob", 908, 1))
    assert judge(by, between, second) == Settlement(
        STEP, (), (Brought("", 2500),), 2, pack(">2Q", 712, 1513), 250, 25, 0
    )


def test_energy_is_kept_by_meter_where_claims_name_one() -> None:
    by = agreed(Claim("ana", 1, 0, "m0"), Claim("bob", 1, 0, "m1"))
    again = replace(EARLY, close=b"\7" * 32, energy_uwh=200)
    account = replace(ACCOUNT, waiting=(LATE, EARLY, again))
    whole = drafted(by, account)
    assert [one.energy_uwh for one in whole.outputs] == [1700, 1000]
    after = judge(by, account, whole)
    assert after.brought == (Brought("m0", 1700), Brought("m1", 1000))
    more_of_it = replace(after, waiting=(replace(EARLY, energy_uwh=7),))
    last = judge(by, more_of_it, drafted(by, more_of_it))
    assert last.brought == (Brought("m0", 1707), Brought("m1", 1000))


def test_stated_losses_are_added_to_those_of_the_step() -> None:
    by = agreed(are_losses_stated=True)
    first = drafted(by, replace(ACCOUNT, waiting=(LATE,)), losses_uwh=100)
    between = judge(by, ACCOUNT, first)
    second = drafted(by, between, losses_uwh=30)
    assert (first.losses_uwh, second.losses_uwh) == (100, 30)
    assert judge(by, between, second).losses_uwh == 130
    assert drafted(by, between).losses_uwh == 0


def test_stated_losses_with_a_fee_are_no_more_than_there_is() -> None:
    by = agreed(are_losses_stated=True, fee=Fraction(1, 2), fee_to="coop")
    lie = replace(drafted(by), outputs=(), losses_uwh=2500, fee_uwh=0)
    with refusing(Reason.NOT_AS_AGREED, "losses and fee"):
        judge(by, ACCOUNT, lie)


def test_coefficients_share_and_stand_in_the_record() -> None:
    by = agreed(method=Method.COEFFICIENTS)
    whole = drafted(by, coefficients=[1, 4])
    assert whole.coefficients == (1, 4)
    assert [one.energy_uwh for one in whole.outputs] == [500, 2000]
    judge(by, ACCOUNT, whole)
    for wrong in ((1,), (1, 4, 0), ()):
        with refusing(Reason.NOT_AS_AGREED, "coefficients for 2 claims"):
            judge(by, ACCOUNT, replace(whole, coefficients=wrong))


def test_commitments_stand_in_the_order_of_names() -> None:
    _, whole = private()
    assert whole.commitments == tuple(Commitment(*one) for one in sorted(digests(**NEEDS).items()))
    assert (whole.losses_uwh, whole.fee_uwh, whole.surplus_uwh) == (250, 25, 1125)
    assert whole.outputs == (Output("ana", 500, 2), Output("bob", 600, 3))


def test_a_draft_moves_something_or_there_is_none() -> None:
    assert draft(agreed(), opened(STEP)) is None
    # A close that brought nothing is spent all the same.
    idle = replace(ACCOUNT, waiting=(replace(LATE, energy_uwh=0),))
    assert drafted(agreed(), idle).outputs == ()
    by, whole = private()
    after = judge(by, ACCOUNT, whole, NEEDS)
    assert draft(by, after, needs=NEEDS) is None
    correction = drafted(by, after, needs=NEEDS | {"ana": 700})
    assert (correction.inputs, correction.from_surplus_uwh) == ((), 200)
