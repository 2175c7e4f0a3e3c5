"""What distributions make of a community's state, told without a block: whole states are compared.

`test_distribution` has the same in blocks, and each way to cheat.
"""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest

from cryptometer import records
from cryptometer.block_header import Balance
from cryptometer.distribution import Judged, continued, distribute, distributor, follow
from cryptometer.drafting import draft
from cryptometer.errors import Reason
from cryptometer.judging import Rule
from cryptometer.openings import Opening, commitment
from cryptometer.parts import split
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Agreed, Brought, Plant, Waiting, opened
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method, Output
from cryptometer.state import Party, State
from tests.core.community import Village
from tests.core.refusing import refusing
from tests.keys import signer

KEY, OTHER = signer(901), signer(902)
SALT = b"\6" * 32
HIDDEN = 2  # its agreement shares by what members consumed
STEPS = (HIDDEN, 7, 8)
NEEDS = {"ana": 500, "bob": 600}


def _terms(method: Method, first: int) -> Agreement:
    claims = (Claim("ana", 8, 0), Claim("bob", 17, 0))
    return Agreement(
        1, bytes(32), "plant", first, method, False, 1, claims, "grid",
        are_losses_stated=False, losses=Fraction(1, 10), fee=Fraction(1, 100), fee_to="coop",
    )  # fmt: skip


@cache
def state() -> State:
    """Three steps have brought 1,000 and 1,500 µWh each; one more plant is registered."""
    parties = {
        (Role.VPP, name): Party(Role.VPP, name, key.public, revoked=False)
        for name, key in (("plant", KEY), ("other", OTHER))
    }
    return replace(
        Village().state,
        balance=Balance(90_000, 10, 40_000, 3_000, 400, 50, 6, 7),
        parties=parties,
        keys={party.key.thumbprint: place for place, party in parties.items()},
        agreements=(
            Agreed(b"\2" * 32, _terms(Method.PRO_RATA, 1)),
            Agreed(b"\3" * 32, _terms(Method.KEYS, 5)),
        ),
        settlements={
            step: replace(
                opened(step),
                waiting=(
                    Waiting(bytes([step, 1] * 16), "m1", 1000, 3),
                    Waiting(bytes([step, 2] * 16), "m0", 1500, 2),
                ),
            )
            for step in STEPS
        },
        accounts={"ana": 70, "cleo": 5},
    )


def whole(step: int) -> Distribution:
    known, needs, digests = state(), None, None
    agreed = known.agreed(step)
    assert agreed is not None
    if step == HIDDEN:
        needs = NEEDS
        digests = {
            name: commitment(known.community, step, name, need, SALT)
            for name, need in NEEDS.items()
        }
    made = draft(agreed, known.settlements[step], needs=needs, commitments=digests)
    assert made is not None
    return made


def signed(*bodies: Distribution) -> list[Record]:
    return [records.seal(body, state().community, KEY) for body in bodies]


def in_parts(monkeypatch: pytest.MonkeyPatch, step: int) -> list[Distribution]:
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 60)
    return split(whole(step), state().plant("plant"))


MOVED = Judged(None, 2500, Rule.RECOMPUTED)


def test_what_moves_goes_from_what_waits_into_accounts_losses_and_fees() -> None:
    before = state()
    after, verdicts = distribute(before, signed(whole(7)))
    assert verdicts == [MOVED]
    assert after.settlements[7].brought == (Brought("", 2500),)
    assert after == replace(
        before,
        balance=Balance(90_000, 10, 37_500, 5_225, 650, 75, 6, 7),
        settlements={**before.settlements, 7: after.settlements[7]},
        accounts={"ana": 782, "bob": 1513, "cleo": 5},
    )


def test_surplus_grows_by_what_nobody_gets_and_shrinks_by_what_is_taken_back() -> None:
    first, _ = distribute(state(), signed(whole(HIDDEN)))
    assert first.balance == Balance(90_000, 10, 37_500, 4_100, 650, 75, 1_131, 7)
    correction = replace(
        whole(HIDDEN), inputs=(), supplement=1, losses_uwh=0, fee_uwh=0, surplus_uwh=0,
        outputs=(Output("ana", 25, 0),), from_surplus_uwh=25,
    )  # fmt: skip
    second, [verdict] = distribute(first, signed(correction))
    assert verdict == Judged(None, 0, Rule.SUMS_ONLY)
    assert second.balance == Balance(90_000, 10, 37_500, 4_125, 650, 75, 1_106, 7)


def test_one_that_is_set_aside_keeps_nobody_from_moving_what_is_theirs() -> None:
    lie = replace(whole(7), fee_uwh=26)
    after, verdicts = distribute(state(), signed(lie, whole(8), whole(7), whole(7)))
    assert verdicts == [Judged(Reason.WRONG_SUMS), MOVED, MOVED, Judged(Reason.REPEAT)]
    assert after.balance.waiting == 35_000
    unknown = replace(whole(7), step=9)
    assert distribute(state(), signed(unknown)) == (state(), [Judged(Reason.NO_SUCH_INPUT)])
    early = replace(whole(7), step=0)
    assert distribute(state(), signed(early)) == (state(), [Judged(Reason.WRONG_AGREEMENT)])
    assert distribute(state(), []) == (state(), [])


def test_of_parts_each_says_the_energy_of_its_own_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = in_parts(monkeypatch, 7)
    after, verdicts = distribute(state(), signed(*parts, whole(8)))
    rule = Rule.RECOMPUTED
    amounts = [1000, 1500, 0]
    assert verdicts == [*(Judged(None, amount, rule) for amount in amounts), MOVED]
    assert after.balance.waiting == 35_000


def test_parts_of_two_plants_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = in_parts(monkeypatch, 7)
    others = [replace(one, vpp="other") for one in rest]
    aside = Judged(Reason.INCOMPLETE)
    assert distribute(state(), signed(first, *others)) == (state(), [aside] * 3)
    # A whole one in between is another's, and moves by its own verdict.
    between = replace(whole(8), vpp="other")
    _, verdicts = distribute(state(), signed(first, between, *rest))
    assert verdicts == [aside, Judged(Reason.WRONG_AGREEMENT), aside, aside]


def test_openings_tell_a_rule_that_was_kept_from_one_that_was_broken() -> None:
    fit = {(HIDDEN, name): [Opening(need, SALT)] for name, need in NEEDS.items()}
    honest = whole(HIDDEN)
    ana, bob = honest.outputs
    unfair = replace(
        honest,
        outputs=(replace(ana, energy_uwh=499), replace(bob, energy_uwh=601)),
    )
    for body, openings, rule in (
        (honest, {}, Rule.SUMS_ONLY),
        (honest, fit, Rule.RECOMPUTED),
        (unfair, {}, Rule.SUMS_ONLY),
        (unfair, fit, Rule.BROKEN),
    ):
        _, verdicts = distribute(state(), signed(body), openings)
        assert verdicts == [Judged(None, 2500, rule)]
    assert distribute(state(), signed(honest))[1] == [Judged(None, 2500, Rule.SUMS_ONLY)]


def test_a_plant_s_chain_goes_on_with_the_record_that_names_its_place() -> None:
    place = Plant("plant", 4, b"\4" * 32)
    known = replace(state(), plants={"plant": place, "other": Plant("other", 1, bytes(32))})
    body = replace(whole(7), sequence=4, previous=place.previous)
    [record] = signed(body)
    next_one = Plant("plant", 5, record.identity)
    assert follow(place, record, body) == next_one
    assert continued(known, record) == replace(known, plants={**known.plants, "plant": next_one})
    for wrong, reason in (
        ({"sequence": 5}, Reason.GAP),
        ({"sequence": 3}, Reason.FORK),
        ({"previous": bytes(32)}, Reason.FORK),
    ):
        with refusing(reason, "where 4 is expected"):
            continued(known, *signed(replace(body, **wrong)))
    # The first one follows the genesis.
    [first] = signed(replace(body, sequence=0, previous=known.community))
    assert continued(state(), first).plants == {"plant": Plant("plant", 1, first.identity)}


def test_a_plant_speaks_for_itself_with_the_key_that_is_registered() -> None:
    known, body = state(), whole(7)
    [record] = signed(body)
    assert distributor(known, record, body) == known.parties[Role.VPP, "plant"]
    with refusing(Reason.OTHER_COMMUNITY):
        distributor(replace(known, community=bytes(32)), record, body)
    for key, reason in ((OTHER, Reason.WRONG_ROLE), (signer(903), Reason.UNKNOWN_KEY)):
        forged = records.seal(body, known.community, key)
        with refusing(reason):
            distributor(known, forged, body)
        with refusing(reason):
            continued(known, forged)
    left = replace(known.parties[Role.VPP, "plant"], revoked=True)
    with refusing(Reason.REVOKED):
        distributor(replace(known, parties={(Role.VPP, "plant"): left}), record, body)
