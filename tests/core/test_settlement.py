"""A step's account, from what waits to what was given: values only, no signature and no block."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from struct import pack
from typing import Any

import cbor2
import pytest

from cryptometer.errors import Reason
from cryptometer.records import (
    PARTS_MAX,
    Agreement,
    Claim,
    Commitment,
    Distribution,
    Input,
    Method,
    Output,
    Part,
)
from cryptometer.settlement import (
    Agreed,
    Brought,
    Opening,
    Plant,
    Settlement,
    Waiting,
    commitment,
    draft,
    in_force,
    is_recomputed,
    join,
    judge,
    opened,
    opened_needs,
    split,
)
from cryptometer.sharing import Outcome
from tests.core.refusing import refusing

STEP = 7
LATE, EARLY = Waiting(b"\2" * 32, "m1", 1000, 3), Waiting(b"\1" * 32, "m0", 1500, 2)
ACCOUNT = replace(opened(STEP), waiting=(LATE, EARLY))
COMMUNITY, SALT = b"\5" * 32, b"\6" * 32
ANA, BOB = Claim("ana", 8, 0), Claim("bob", 17, 0)
DEDUCTED: dict[str, Any] = {"losses": Fraction(1, 10), "fee": Fraction(1, 100), "fee_to": "coop"}
NEEDS = {"bob": 600, "ana": 500}
PLANT = Plant("plant", 5, b"\4" * 32)


def agreed(*claims: Claim, method: Method = Method.KEYS, **changes: Any) -> Agreed:
    terms = Agreement(
        1, bytes(32), "plant", 1, method, False, 1, claims or (ANA, BOB), "grid",
        are_losses_stated=False,
    )  # fmt: skip
    return Agreed(b"\3" * 32, replace(terms, **changes))


def digests(**needs: int) -> dict[str, bytes]:
    return {name: commitment(COMMUNITY, STEP, name, need, SALT) for name, need in needs.items()}


def drafted(by: Agreed, account: Settlement = ACCOUNT, **changes: Any) -> Distribution:
    whole = draft(by, account, **changes)
    assert whole is not None
    return whole


def private(account: Settlement = ACCOUNT, **needs: int) -> tuple[Agreed, Distribution]:
    """By consumption, with losses and a fee."""
    by = agreed(method=Method.PRO_RATA, **DEDUCTED)
    known = NEEDS | needs
    return by, drafted(by, account, needs=known, commitments=digests(**known))


def more(outputs: Sequence[Output], *added: int) -> tuple[Output, ...]:
    return tuple(
        replace(one, energy_uwh=one.energy_uwh + energy)
        for one, energy in zip(outputs, added, strict=True)
    )


# --- The account. --------------------------------------------------------------------------------


def test_an_account_says_what_waits_and_what_each_member_has() -> None:
    by = agreed().agreement
    assert opened(STEP) == Settlement(STEP, (), (), 0, b"", 0, 0, 0)
    assert (ACCOUNT.waiting_uwh, ACCOUNT.members) == (2500, 0)
    assert ACCOUNT.given(by) == (0, 0)
    given = replace(ACCOUNT, packed=pack(">2Q", 3, 2**63), losses_uwh=4, fee_uwh=5, surplus_uwh=6)
    assert given.members == 2
    assert given.outcome(by) == Outcome((3, 2**63), 4, 5, 6)
    assert replace(ACCOUNT, packed=bytes(9)).members == -1


def test_the_newest_agreement_whose_step_has_come_is_in_force() -> None:
    first, second = agreed(from_step=4), agreed(from_step=9)
    found = [in_force((first, second), step) for step in (3, 4, 8, 9, 10)]
    assert found == [None, first, first, second, second]


def test_a_commitment_is_the_hash_of_all_that_it_is_of() -> None:
    said = ["cryptometer consumption", COMMUNITY, STEP, "ana", 500, SALT]
    expected = sha256(cbor2.dumps(said)).digest()
    assert commitment(COMMUNITY, STEP, "ana", 500, SALT) == expected
    for wrong in (SALT[1:], SALT + b"\6"):
        with pytest.raises(ValueError, match="32 bytes"):
            commitment(COMMUNITY, STEP, "ana", 500, wrong)


def test_openings_say_what_members_consumed_only_if_every_one_fits() -> None:
    _, whole = private()
    fit = {(STEP, name): Opening(need, SALT) for name, need in NEEDS.items()}
    assert opened_needs(fit, COMMUNITY, whole) == NEEDS
    assert opened_needs(fit, bytes(32), whole) is None
    assert opened_needs({}, COMMUNITY, whole) is None
    for name in NEEDS:
        one = STEP, name
        assert opened_needs({at: fit[at] for at in fit if at != one}, COMMUNITY, whole) is None
        for wrong in (Opening(fit[one].need_uwh + 1, SALT), Opening(fit[one].need_uwh, bytes(32))):
            assert opened_needs(fit | {one: wrong}, COMMUNITY, whole) is None
    assert opened_needs(fit, COMMUNITY, replace(whole, step=STEP + 1)) is None


# --- Drafting. -----------------------------------------------------------------------------------


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


# --- Parts. --------------------------------------------------------------------------------------


def large(monkeypatch: pytest.MonkeyPatch, most: int) -> Distribution:
    """Two inputs of 56 bytes, two outputs of 27, two commitments of 43, two coefficients of 9."""
    monkeypatch.setattr("cryptometer.settlement._PART_BYTES", most)
    _, whole = private()
    return replace(whole, coefficients=(1, 2), from_surplus_uwh=9)


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (270, [(2, 2, 2, 2)]),
        (269, [(2, 2, 2, 1), (0, 0, 0, 1)]),
        (252, [(2, 2, 2, 0), (0, 0, 0, 2)]),
        (251, [(2, 2, 1, 0), (0, 0, 1, 2)]),
        (166, [(2, 2, 0, 0), (0, 0, 2, 2)]),
        (165, [(2, 1, 0, 0), (0, 1, 2, 2)]),
        (112, [(2, 0, 0, 0), (0, 2, 1, 0), (0, 0, 1, 2)]),
        (111, [(1, 0, 0, 0), (1, 2, 0, 0), (0, 0, 2, 2)]),
    ],
)
def test_a_part_lists_what_fits_and_the_last_one_says_the_rest(
    monkeypatch: pytest.MonkeyPatch, most: int, counts: list[tuple[int, int, int, int]]
) -> None:
    whole = large(monkeypatch, most)
    parts = split(whole, PLANT)
    lists = [(one.inputs, one.outputs, one.commitments, one.coefficients) for one in parts]
    assert [tuple(len(one) for one in each) for each in lists] == counts
    assert [one.part for one in parts] == [Part(n, len(parts)) for n in range(1, len(parts) + 1)]
    assert [one.sequence for one in parts] == list(range(5, 5 + len(parts)))
    assert {one.previous for one in parts} == {PLANT.previous}
    amounts = [(p.losses_uwh, p.fee_uwh, p.surplus_uwh, p.from_surplus_uwh) for p in parts]
    assert amounts == [(0, 0, 0, 0)] * (len(parts) - 1) + [(250, 25, 1125, 9)]
    assert join(parts) == replace(whole, sequence=5, previous=PLANT.previous)


def test_a_distribution_has_no_more_parts_than_a_record_can_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = large(monkeypatch, 1)
    inputs = (LATE.as_input,) * PARTS_MAX
    bare = replace(whole, inputs=inputs, outputs=(), commitments=(), coefficients=())
    # The first of it lists nothing: not even one input fits.
    assert len(split(replace(bare, inputs=inputs[1:]), PLANT)) == PARTS_MAX
    with pytest.raises(ValueError, match="parts"):
        split(bare, PLANT)


@pytest.mark.parametrize(
    "change",
    [
        {"vpp": "other"}, {"step": 8}, {"supplement": 1}, {"agreement": bytes(32)},
        {"part": Part(2, 4)}, {"part": Part(3, 3)}, {"part": Part(1, 3)}, {"losses_uwh": 1},
        {"fee_uwh": 1}, {"surplus_uwh": 1}, {"from_surplus_uwh": 1},
    ],
    ids="".join,
)  # fmt: skip
def test_parts_of_different_distributions_are_no_whole(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    first, second, third = split(large(monkeypatch, 111), PLANT)
    with refusing(Reason.INCOMPLETE):
        join([first, replace(second, **change), third])
    for some in ([first, second], [second, third], [first, third, second]):
        with refusing(Reason.INCOMPLETE):
            join(some)
    assert join([first, second, third]).part == Part(1, 1)


# --- Judging. ------------------------------------------------------------------------------------


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


def test_a_whole_names_what_the_first_of_its_parts_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part names the one before it."""
    parts = split(large(monkeypatch, 111), PLANT)
    chained = [replace(one, previous=bytes([at] * 32)) for at, one in enumerate(parts)]
    assert join(chained).previous == bytes(32)
    assert join(chained).sequence == PLANT.sequence
