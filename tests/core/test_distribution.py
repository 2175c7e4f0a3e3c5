"""What a virtual power plant may give to whom: what moves, and each way to cheat that is refused.

The attacks are those of paper A, section IV-C. A record that nobody entitled has signed, or that
does not continue its chain, is no leaf: the block is refused. A distribution that says what it may
not is a leaf with a reason, and moves nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from cryptometer import records
from cryptometer.audit import audit
from cryptometer.authority_records import Use
from cryptometer.block import Checked, check_block
from cryptometer.block_header import Header
from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason
from cryptometer.judging import is_recomputed, judge
from cryptometer.openings import commitment
from cryptometer.parts import split
from cryptometer.proposal import propose
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Claim, Commitment, Distribution, Input, Method, Output, Part
from tests.core.community import PULSE_UWH, Village, due, flip, reseal
from tests.core.refusing import refusing
from tests.core.strategies import refusal_of
from tests.keys import p256_signer, signer

KEYS = (Claim("ana", 8, 0), Claim("bob", 17, 0))
A_UWH, B_UWH = 15 * PULSE_UWH, 10 * PULSE_UWH


def agreed(
    *claims: Claim | str, members: Sequence[str] = ("ana", "bob"), **changes: Any
) -> Village:
    """Two meters that run, members, and an agreement from the step of the next block on."""
    village = Village(meters=2)
    village.add_members(*members, "eve")
    village.block()
    village.agree(*(claims or KEYS), **{"method": Method.KEYS} | changes)
    village.run(())
    return village


def create(village: Village, *pulses: int, step: int | None = None) -> None:
    """Each device counts so many pulses in the step of the next block, and closes it."""
    at = village.next_step if step is None else step
    for device, count in zip(village.devices, pulses, strict=False):
        lots = [8] * (count // 8) + ([count % 8] if count % 8 else [])
        village.send(*device.step(at, *lots))


@pytest.fixture(name="village")
def _village() -> Village:
    """A creates 15 lots' worth and B 10, in the block that is made next."""
    village = agreed()
    create(village, 15, 10)
    return village


def verdicts(checked: Checked) -> list[Verdict]:
    return [one for one in checked.verdicts if isinstance(one.record.body, Distribution)]


def reasons(checked: Checked) -> list[Reason | None]:
    return [one.reason for one in verdicts(checked)]


def shared(village: Village, **changes: Any) -> Checked:
    """The block in which the plant gives all that waits; `changes` as for `draft`."""
    village.share(**changes)
    return village.block()


def held(village: Village) -> None:
    """Promise F: the whole ledger is audited, and gives the state that the village has."""
    report = audit(village.files().get, village.community())
    assert report.state == village.state
    assert sum(village.state.accounts.values()) == village.state.balance.allocated


def told(village: Village, *lies: Distribution) -> list[Reason | None]:
    """The reasons why the plant's distributions move nothing, once they stand in a block; nothing
    has moved, and an honest distribution behind them may move all of it."""
    before = village.state
    village.distribute(*lies)
    found = reasons(village.block())
    after = village.state
    assert (after.accounts, after.balance.allocated) == (before.accounts, before.balance.allocated)
    assert (after.balance.losses, after.balance.fees, after.balance.surplus) == (
        before.balance.losses,
        before.balance.fees,
        before.balance.surplus,
    )
    held(village)
    return found


def honest(village: Village, **changes: Any) -> Distribution:
    """What the plant should give in the next block; `changes` replace what it says."""
    (whole,) = village.drafts()
    return replace(whole, **changes)


# --- What moves. ---------------------------------------------------------------------------------


def test_energy_of_two_generators_goes_through_the_plant_to_two_members(village: Village) -> None:
    """Paper A section IV-B2, in small."""
    checked = shared(village)
    (verdict,) = verdicts(checked)
    assert (verdict.reason, verdict.energy_uwh) == (None, A_UWH + B_UWH)
    assert village.state.accounts == {"ana": 8 * PULSE_UWH, "bob": 17 * PULSE_UWH}
    assert village.state.balance.waiting == 0
    held(village)


def test_energy_waits_at_the_plant_until_it_is_shared(village: Village) -> None:
    village.block()
    village.block()
    assert village.state.balance.waiting == A_UWH + B_UWH
    assert reasons(shared(village)) == [None]
    assert village.state.balance.waiting == 0
    held(village)


def test_who_gets_nothing_is_left_out() -> None:
    village = agreed(Claim("ana", 1, 0), Claim("bob", 0, 0))
    create(village, 3)
    (record,) = village.share()
    assert isinstance(record.body, Distribution)
    assert [one.member for one in record.body.outputs] == ["ana"]
    assert reasons(village.block()) == [None]


def test_losses_and_fee_are_taken_before_members_have_theirs() -> None:
    village = agreed(losses=Fraction(1, 50), fee=Fraction(1, 100), fee_to="coop")
    create(village, 8, 2)
    shared(village)
    balance = village.state.balance
    assert (balance.losses, balance.fees, balance.allocated) == (20_000, 10_000, 970_000)
    held(village)


def test_stated_losses_are_what_the_plant_says_and_no_more_than_there_is() -> None:
    village = agreed(are_losses_stated=True)
    create(village, 8, 2)
    too_much = honest(village)
    losses = 10 * PULSE_UWH + 1
    lie = replace(too_much, losses_uwh=losses, outputs=())
    assert told(village, lie) == [Reason.WRONG_SUMS]
    shared(village, losses_uwh=123)
    assert village.state.balance.losses == 123
    held(village)


def test_what_comes_late_is_shared_in_a_supplement() -> None:
    village = agreed()
    late = village.next_step
    first, second = village.devices
    village.send(*first.step(late, 8, 7))
    shared(village)
    assert village.state.accounts == {"ana": 480_000, "bob": 1_020_000}
    village.send(*second.step(late, 8, 2))
    (record,) = village.share()
    assert isinstance(record.body, Distribution)
    assert (record.body.step, record.body.supplement) == (late, 1)
    assert [one.energy_uwh for one in record.body.outputs] == [320_000, 680_000]
    assert reasons(village.block()) == [None]
    held(village)


def test_tokens_go_with_the_energy_and_lapse_where_nobody_gets_any() -> None:
    village = agreed(Claim("ana", 1, 0, "m0"))
    create(village, 8, 8)
    (record,) = village.share()
    assert isinstance(record.body, Distribution)
    assert record.body.surplus_uwh == 8 * PULSE_UWH
    assert sum(one.tokens for one in record.body.inputs) == 0
    village.block()
    create(village, 8, 8)
    (record,) = village.share()
    assert isinstance(record.body, Distribution)
    assert [one.tokens for one in record.body.inputs] == [1, 1]
    assert [(one.member, one.tokens) for one in record.body.outputs] == [("ana", 2)]
    assert reasons(village.block()) == [None]
    create(village, 0, 15)
    (record,) = village.share()
    assert isinstance(record.body, Distribution)
    assert (record.body.outputs, [one.tokens for one in record.body.inputs]) == ((), [2])
    assert reasons(village.block()) == [None]
    held(village)


def test_where_consumption_is_hidden_sums_are_proven_and_the_rule_is_for_who_is_told() -> None:
    village = agreed(method=Method.PRO_RATA)
    create(village, 8, 2)
    needs = {village.next_step: {"ana": 300_000, "bob": 500_000}}
    (whole,) = village.drafts(needs)
    before = village.state
    shared(village, needs=needs)
    assert village.state.accounts == needs[before.step + 1]
    assert village.state.balance.surplus == 200_000
    agreement = village.state.agreed(whole.step)
    assert agreement is not None
    assert not is_recomputed(agreement.agreement)
    assert is_recomputed(agreement.agreement, needs[whole.step])
    for one in whole.commitments:
        amount = needs[whole.step][one.member]
        said = (village.id, whole.step, one.member, amount)
        assert commitment(*said, village.salt) == one.digest
        assert commitment(*said, bytes(32)) != one.digest
    held(village)


def test_a_correction_moves_surplus_and_says_so() -> None:
    village = agreed(method=Method.PRO_RATA)
    create(village, 8, 2)
    step = village.next_step
    shared(village, needs={step: {"ana": 300_000, "bob": 500_000}})
    (record,) = village.share({step: {"ana": 450_000, "bob": 500_000}})
    assert isinstance(record.body, Distribution)
    assert (record.body.inputs, record.body.from_surplus_uwh) == ((), 150_000)
    assert record.body.outputs == (Output("ana", 150_000, 0),)
    assert reasons(village.block()) == [None]
    assert village.state.accounts == {"ana": 450_000, "bob": 500_000}
    # Less than was believed: nothing is taken back, and so nothing moves.
    assert village.drafts({step: {"ana": 100_000, "bob": 500_000}}) == []
    held(village)


def test_energy_without_an_agreement_waits_in_nobody_s_account() -> None:
    village = Village(meters=1)
    village.add_meter("battery", use=Use.STORAGE)
    village.add_members("ana")
    village.block()
    village.agree("ana")
    village.run((4,))  # no agreement is in force yet
    assert village.state.settlements == {}
    step = village.next_step
    create(village, 1, 3)
    village.block()
    assert village.state.balance.waiting == 2 * 4 * PULSE_UWH + 4 * PULSE_UWH
    assert [one.meter for one in village.state.settlements[step].waiting] == ["battery", "m0"]
    shared(village)
    assert village.state.accounts == {"ana": 4 * PULSE_UWH}
    held(village)


def test_an_account_ends_when_nothing_waits_and_nothing_may_come() -> None:
    village = Village(meters=1, late_steps=2)
    village.add_members("ana")
    village.block()
    village.agree("ana", capped=True)
    village.run(())
    step = village.next_step
    create(village, 5)
    shared(village, needs={step: {"ana": 100_000}})
    create(village, 3)
    village.block()
    kept = village.drafts({step: {"ana": 200_000}})
    assert [one.step for one in kept] == [step]
    village.block()
    assert told(village, *kept) == [Reason.NO_SUCH_INPUT]
    assert set(village.state.settlements) == {step + 1}  # in which energy waits still


def test_a_large_distribution_takes_several_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 60)
    village = agreed(losses=Fraction(1, 10))
    create(village, 15, 10)
    parts = village.share()
    assert len(parts) > 2
    checked = village.block()
    assert reasons(checked) == [None] * len(parts)
    assert sum(one.energy_uwh for one in verdicts(checked)) == A_UWH + B_UWH
    assert village.state.settlements[village.state.step].supplements == 1
    held(village)


# --- No leaf: the block is refused. --------------------------------------------------------------


def forged(village: Village, *leaves: Record) -> list[Record]:
    """A block whose maker puts these distributions into it, after what waits for it."""
    content, _ = due(village.state, village.next_step, village.pending)
    header = propose(village.state, content, village.slot())
    return village.seal([*content, *leaves], replace(header, leaves=len(content) + len(leaves)))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (signer(900), Reason.UNKNOWN_KEY),  # anyone
        (signer(10), Reason.WRONG_ROLE),  # the device of a meter
        (signer(2), Reason.WRONG_ROLE),  # the gateway
        (p256_signer(5), Reason.WRONG_ROLE),  # another plant
    ],
    ids=["nobody", "a meter", "the gateway", "another plant"],
)
def test_an_injected_distribution_is_refused(key: Any, reason: Reason) -> None:
    village = agreed()
    village.govern(village.authority.register(Role.VPP, "other", p256_signer(5).public))
    village.block()
    create(village, 15, 10)
    body = honest(village)
    injected = records.seal(body, village.id, key)
    first = village.state.frontier.size
    with refusing(reason, f"leaf {first + 4}"):
        check_block(village.state, forged(village, injected))
    shared(village)
    held(village)


def test_a_modified_distribution_is_refused_whatever_bit_is_changed(village: Village) -> None:
    (record,) = village.distribute(honest(village))
    village.pending.remove(record)
    block = forged(village, record)

    def check(raw: bytes) -> Checked:
        return check_block(village.state, [*block[:-2], records.decode(raw), block[-1]])

    for bit in range(0, 8 * len(record.raw), 37):
        assert refusal_of(check, flip(record.raw, bit)) is not None, bit


def test_a_distribution_replayed_as_it_is_finds_its_place_taken(village: Village) -> None:
    (record,) = village.share()
    village.block()
    with refusing(Reason.FORK, "leaf", "record 0"):
        check_block(village.state, forged(village, record))
    held(village)


def test_a_distribution_replayed_in_another_community_is_refused(village: Village) -> None:
    (record,) = village.share()
    elsewhere = Village(meters=2, name="Another street")
    with refusing(Reason.OTHER_COMMUNITY, "leaf"):
        check_block(elsewhere.state, forged(elsewhere, record))


def test_a_plant_s_chain_has_no_gap_and_no_fork(village: Village) -> None:
    body = honest(village)
    for lie, reason in (
        (replace(body, sequence=1), Reason.GAP),
        (replace(body, previous=bytes(32)), Reason.FORK),
    ):
        with refusing(reason, "leaf", "vpp"):
            check_block(village.state, forged(village, records.seal(lie, village.id, village.vpp)))


def test_a_revoked_plant_gives_nothing_any_more(village: Village) -> None:
    village.govern(village.authority.revoke(Role.VPP, "vpp"))
    village.block()
    (record,) = village.distribute(honest(village))
    village.pending.remove(record)
    with refusing(Reason.REVOKED, "leaf"):
        check_block(village.state, forged(village, record))
    assert village.state.balance.waiting == A_UWH + B_UWH


def test_a_plant_with_a_new_key_goes_on_in_its_chain_and_the_old_key_does_not(
    village: Village,
) -> None:
    shared(village)
    village.govern(village.authority.register(Role.VPP, "vpp", signer(77).public))
    village.block()
    create(village, 4)
    body = honest(village)
    with refusing(Reason.REVOKED):
        check_block(village.state, forged(village, records.seal(body, village.id, village.vpp)))
    village.vpp = signer(77)
    assert reasons(shared(village)) == [None]
    held(village)


def test_a_past_that_is_written_anew_is_found_by_who_saw_the_other_one() -> None:
    """A plant and a gateway of one mind: Ana's energy is Bob's in a block made again."""
    first, second = agreed(), agreed(Claim("ana", 17, 0), Claim("bob", 8, 0))
    for village in (first, second):
        create(village, 15, 10)
        shared(village)
    seen = first.state.checkpoint
    with refusing(Reason.BAD_CHECKPOINT, "not those seen before"):
        audit(second.files().get, second.community(), since=seen)
    second.block()
    with refusing(Reason.BAD_CHECKPOINT, f"first {seen.size} leaves"):
        audit(second.files().get, second.community(), since=seen)
    earlier = audit(first.files().get, first.community())
    with refusing(Reason.BAD_PROOF, "does not begin as it did"):
        audit(second.files().get, second.community(), resume=earlier)


def test_a_block_that_hides_what_a_distribution_moved_is_refused(village: Village) -> None:
    village.share()
    village.block()
    block = village.blocks[-1]
    header = block[-1]
    assert isinstance(header.body, Header)
    balance = replace(header.body.balance, allocated=0, surplus=A_UWH + B_UWH)
    before = Village.__new__(Village)
    before.state = village.checked[-2].state
    with refusing(Reason.WRONG_TOTALS, "balance"):
        check_block(before.state, [*block[:-1], reseal(header, village.gateway, balance=balance)])


@pytest.mark.parametrize("aside", [None, (), (4, 1), (5, 2), (6, 1), (5, 1, 6, 1)])
def test_a_header_names_just_the_distributions_that_move_nothing(
    village: Village, aside: tuple[int, ...] | None
) -> None:
    whole = honest(village)
    village.distribute(replace(whole, outputs=()), whole, whole)
    leaves, _ = due(village.state, village.next_step, village.pending)
    header = propose(village.state, leaves, village.slot())
    kinds = [one.body.KIND for one in leaves]
    assert kinds == ["batch", "step-close"] * 2 + ["distribution"] * 3
    assert header.aside == (4, 1, 6, 1)
    check_block(village.state, village.seal(leaves, header))
    lie = replace(header, aside=aside)
    with refusing(Reason.WRONG_TOTALS, "aside"):
        check_block(village.state, village.seal(leaves, lie))


# --- A leaf that moves nothing. ------------------------------------------------------------------


def more(outputs: Sequence[Output], member: str, energy_uwh: int, tokens: int = 0) -> Any:
    """The outputs with so much more for one of them."""
    return tuple(
        replace(one, energy_uwh=one.energy_uwh + energy_uwh, tokens=one.tokens + tokens)
        if one.member == member
        else one
        for one in outputs
    )


Lie = Callable[[Distribution], Distribution]
LIES: dict[str, tuple[Lie, Reason]] = {
    "outputs over inputs": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", 1)),
        Reason.WRONG_SUMS,
    ),
    "outputs below inputs": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", -1)),
        Reason.WRONG_SUMS,
    ),
    "an input overstated": (
        lambda one: replace(
            one,
            inputs=(replace(one.inputs[0], energy_uwh=A_UWH + 1), *one.inputs[1:]),
            outputs=more(one.outputs, "ana", 1),
        ),
        Reason.WRONG_SUMS,
    ),
    "tokens of an input overstated": (
        lambda one: replace(one, inputs=(replace(one.inputs[0], tokens=9), *one.inputs[1:])),
        Reason.WRONG_SUMS,
    ),
    "an input that no close is": (
        lambda one: replace(one, inputs=(Input(bytes(32), A_UWH, 1), *one.inputs[1:])),
        Reason.NO_SUCH_INPUT,
    ),
    "an input twice": (
        lambda one: replace(
            one,
            inputs=(*one.inputs, one.inputs[0]),
            outputs=more(one.outputs, "ana", one.inputs[0].energy_uwh),
        ),
        Reason.NO_SUCH_INPUT,
    ),
    "other amounts": (
        lambda one: replace(one, outputs=more(more(one.outputs, "ana", 1), "bob", -1)),
        Reason.NOT_AS_AGREED,
    ),
    "a member left out": (
        lambda one: replace(one, outputs=more(one.outputs[1:], "bob", 8 * PULSE_UWH, 1)),
        Reason.NOT_AS_AGREED,
    ),
    "a member without a claim": (
        lambda one: replace(one, outputs=(replace(one.outputs[0], member="eve"), one.outputs[1])),
        Reason.NOT_AS_AGREED,
    ),
    "a fabricated member": (
        lambda one: replace(one, outputs=(replace(one.outputs[0], member="none"), one.outputs[1])),
        Reason.NOT_AS_AGREED,
    ),
    "the outputs in another order": (
        lambda one: replace(one, outputs=one.outputs[::-1]),
        Reason.NOT_AS_AGREED,
    ),
    "a member twice": (
        lambda one: replace(one, outputs=(*more(one.outputs, "bob", -1), Output("bob", 1, 0))),
        Reason.NOT_AS_AGREED,
    ),
    "an output of nothing": (
        lambda one: replace(
            one, outputs=(replace(one.outputs[0], energy_uwh=0, tokens=0), *one.outputs[1:]),
            surplus_uwh=8 * PULSE_UWH,
        ),
        Reason.NOT_AS_AGREED,
    ),
    "losses that are none": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", -5), losses_uwh=5),
        Reason.NOT_AS_AGREED,
    ),
    "a fee that nobody agreed to": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", -5), fee_uwh=5),
        Reason.NOT_AS_AGREED,
    ),
    "surplus that somebody should have": (
        lambda one: replace(one, outputs=more(one.outputs, "bob", -5), surplus_uwh=5),
        Reason.NOT_AS_AGREED,
    ),
    "tokens for another": (
        lambda one: replace(
            one, outputs=more(more(one.outputs, "ana", 0, 1), "bob", 0, -1)
        ),
        Reason.NOT_AS_AGREED,
    ),
    "tokens from nowhere": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", 0, 1)),
        Reason.NOT_AS_AGREED,
    ),
    "from a surplus that there is not": (
        lambda one: replace(one, outputs=more(one.outputs, "ana", 5), from_surplus_uwh=5),
        Reason.WRONG_SUMS,
    ),
    "a surplus that grows and shrinks at once": (
        lambda one: replace(one, surplus_uwh=5, from_surplus_uwh=5),
        Reason.WRONG_SUMS,
    ),
    "nothing at all": (
        lambda one: replace(one, inputs=(), outputs=()),
        Reason.WRONG_SUMS,
    ),
    "commitments that nobody asked for": (
        lambda one: replace(one, commitments=(Commitment("ana", bytes(32)),)),
        Reason.NOT_AS_AGREED,
    ),
    "coefficients that nobody asked for": (
        lambda one: replace(one, coefficients=(1, 2)),
        Reason.NOT_AS_AGREED,
    ),
    "a supplement before the first": (
        lambda one: replace(one, supplement=1),
        Reason.GAP,
    ),
    "an agreement that is none": (
        lambda one: replace(one, agreement=bytes(32)),
        Reason.WRONG_AGREEMENT,
    ),
    "another step": (
        lambda one: replace(one, step=one.step + 1),
        Reason.NO_SUCH_INPUT,
    ),
    "a part of two": (
        lambda one: replace(one, part=Part(1, 2)),
        Reason.INCOMPLETE,
    ),
    "the second part alone": (
        lambda one: replace(one, part=Part(2, 2)),
        Reason.INCOMPLETE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_of_the_plant_is_set_aside_and_moves_nothing(village: Village, name: str) -> None:
    lie, reason = LIES[name]
    assert told(village, lie(honest(village))) == [reason]
    # The energy still waits, and an honest distribution gives it.
    assert reasons(shared(village)) == [None]
    assert village.state.accounts == {"ana": 8 * PULSE_UWH, "bob": 17 * PULSE_UWH}
    held(village)


def test_the_same_energy_is_not_given_twice_in_one_block(village: Village) -> None:
    first = honest(village)
    village.distribute(first, first, replace(first, supplement=1))
    assert reasons(village.block()) == [None, Reason.REPEAT, Reason.NO_SUCH_INPUT]
    assert village.state.balance.allocated == A_UWH + B_UWH
    held(village)


def test_the_same_energy_is_not_given_twice_in_two_blocks(village: Village) -> None:
    first = honest(village)
    shared(village)
    assert told(village, first) == [Reason.REPEAT]
    assert told(village, replace(first, supplement=1)) == [Reason.NO_SUCH_INPUT]


def test_energy_of_one_step_is_not_given_as_that_of_another(village: Village) -> None:
    first = honest(village)
    village.block()
    create(village, 3, 1)
    (_, second) = village.drafts()
    lie = replace(second, inputs=first.inputs, outputs=first.outputs)
    assert told(village, lie) == [Reason.NO_SUCH_INPUT]
    shared(village)
    assert village.state.balance.waiting == 0


def test_an_agreement_that_has_been_followed_gives_nothing_of_later_steps(
    village: Village,
) -> None:
    first = honest(village)
    village.agree(Claim("ana", 1, 0), Claim("bob", 1, 0), method=Method.KEYS)
    shared(village)
    create(village, 10)
    second = honest(village)
    assert second.agreement != first.agreement
    assert told(village, replace(second, agreement=first.agreement)) == [Reason.WRONG_AGREEMENT]
    # And the one that followed, nothing of a step before: its members wait for theirs.
    shared(village)
    assert village.state.accounts == {"ana": 13 * PULSE_UWH, "bob": 22 * PULSE_UWH}
    held(village)


def test_a_plant_that_the_agreement_does_not_name_gives_nothing(village: Village) -> None:
    village.govern(village.authority.register(Role.VPP, "other", signer(78).public))
    village.block()
    lie = replace(honest(village), vpp="other")
    other = village.state.plant("other")
    record = records.seal(replace(lie, sequence=0, previous=other.previous), village.id, signer(78))
    village.pending.append(record)
    assert reasons(village.block()) == [Reason.WRONG_AGREEMENT]
    assert village.state.balance.waiting == A_UWH + B_UWH
    held(village)


def test_parts_that_are_missing_mixed_or_swapped_are_set_aside(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = honest(village)
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 60)
    parts = split(whole, village.state.plant("vpp"))
    first, second, third = parts
    aside = Reason.INCOMPLETE
    assert told(village, first, second) == [aside] * 2
    assert told(village, second, third) == [aside] * 2
    assert told(village, first, third, second) == [aside] * 3
    assert told(village, first, replace(second, supplement=1), third) == [aside] * 3
    assert told(village, replace(first, losses_uwh=1), second, third) == [aside] * 3
    assert told(village, first, replace(second, part=Part(2, 4)), third) == [aside] * 3
    # What is begun anew is another distribution, and that one counts.
    village.distribute(first, second, *parts)
    assert reasons(village.block()) == [aside, aside, None, None, None]
    held(village)


def test_the_parts_of_one_distribution_do_not_come_in_two_blocks(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = honest(village)
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", 130)
    first, second = split(whole, village.state.plant("vpp"))
    assert told(village, first) == [Reason.INCOMPLETE]
    assert told(village, second) == [Reason.INCOMPLETE]


def private() -> Village:
    """A village that shares by consumption, with 1 % lost; 10 pulses come in the next block."""
    village = agreed(method=Method.PRO_RATA, losses=Fraction(1, 100))
    create(village, 8, 2)
    return village


def test_where_consumption_is_hidden_losses_are_proven_and_members_are_known() -> None:
    village = private()
    needs = {village.next_step: {"ana": 400_000, "bob": 500_000}}
    (whole,) = village.drafts(needs)
    for lie in (
        replace(whole, losses_uwh=0, outputs=more(whole.outputs, "ana", 10_000)),
        replace(whole, commitments=whole.commitments[:1]),
        replace(whole, commitments=whole.commitments[::-1]),
        replace(whole, commitments=()),
        replace(whole, outputs=more(whole.outputs, "ana", 0, 1)),
        replace(whole, outputs=(*whole.outputs, Output("eve", 1, 0)), surplus_uwh=89_999),
    ):
        assert told(village, lie) == [Reason.NOT_AS_AGREED], lie
    assert reasons(shared(village, needs=needs)) == [None]


def test_who_is_told_the_consumption_finds_amounts_that_are_not_as_agreed() -> None:
    village = private()
    step = village.next_step
    needs = {step: {"ana": 400_000, "bob": 500_000}}
    (whole,) = village.drafts(needs)
    unfair = replace(whole, outputs=more(more(whole.outputs, "ana", -9), "bob", 9))
    agreement = village.state.agreed(step)
    village.block()
    settlement = village.state.settlements[step]
    judge(agreement, settlement, unfair)  # the sums hold
    with refusing(Reason.NOT_AS_AGREED, "ana is given 399991"):
        judge(agreement, settlement, unfair, needs[step])
    with refusing(Reason.NOT_AS_AGREED, "consumption of a member is missing"):
        judge(agreement, settlement, whole, {"ana": 400_000})
    judge(agreement, settlement, whole, needs[step])


def test_a_correction_takes_no_more_than_the_surplus_and_brings_nothing_else() -> None:
    village = private()
    step = village.next_step
    shared(village, needs={step: {"ana": 400_000, "bob": 500_000}})
    assert village.state.balance.surplus == 90_000
    corrected = {step: {"ana": 480_000, "bob": 500_000}}
    (whole,) = village.drafts(corrected)
    assert whole.from_surplus_uwh == 80_000
    over = replace(whole, outputs=more(whole.outputs, "ana", 10_001), from_surplus_uwh=90_001)
    assert told(village, over) == [Reason.WRONG_SUMS]
    assert told(village, replace(whole, supplement=0)) == [Reason.REPEAT]
    assert told(village, replace(whole, supplement=2)) == [Reason.GAP]
    assert told(village, replace(whole, from_surplus_uwh=0)) == [Reason.WRONG_SUMS]
    lost = replace(whole, outputs=more(whole.outputs, "ana", -1), losses_uwh=1)
    assert told(village, lost) == [Reason.NOT_AS_AGREED]
    both = replace(whole, outputs=more(whole.outputs, "ana", -1), surplus_uwh=1)
    assert told(village, both) == [Reason.NOT_AS_AGREED]
    assert reasons(shared(village, needs=corrected)) == [None]
    assert village.state.balance.surplus == 10_000
    held(village)


# --- Agreements without effect. ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ahead": 0}, Reason.NOT_VALID_AT_STEP),
        ({"ahead": -5}, Reason.NOT_VALID_AT_STEP),
        ({"vpp": "nobody"}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("none", 1, 0),)}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("ana", 1, 0, "none"),)}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("ana", 1, 0), Claim("ana", 2, 0))}, Reason.MALFORMED),
        ({"losses": Fraction(1, 2), "fee": Fraction(2, 3), "fee_to": "coop"}, Reason.MALFORMED),
        ({"fee": Fraction(1, 3)}, Reason.MALFORMED),
        ({"fee_to": "coop"}, Reason.MALFORMED),
        ({"losses": Fraction(1, 3), "are_losses_stated": True}, Reason.MALFORMED),
    ],
    ids=[
        "of the block's own step", "of the past", "of no plant", "of a fabricated member",
        "of no meter", "a claim twice", "more than all", "a fee for nobody",
        "a beneficiary of nothing", "losses by factor and as stated",
    ],
)  # fmt: skip
def test_an_agreement_that_contradicts_what_is_known_has_no_effect(
    village: Village, changes: dict[str, Any], reason: Reason
) -> None:
    said: dict[str, Any] = {"claims": (Claim("eve", 1, 0),), "ahead": 1} | changes
    claims, ahead = said.pop("claims"), said.pop("ahead")
    record = village.authority.agree(village.next_step + ahead, claims, Method.KEYS, **said)
    village.govern(record)
    checked = shared(village)
    assert [one.reason for one in checked.verdicts if one.record == record] == [reason]
    assert len(village.state.agreements) == 1
    assert village.state.accounts == {"ana": 8 * PULSE_UWH, "bob": 17 * PULSE_UWH}
    create(village, 5)
    shared(village)
    assert "eve" not in village.state.accounts
    held(village)


def test_an_agreement_that_names_who_has_left_has_no_effect(village: Village) -> None:
    village.govern(village.authority.revoke(Role.MEMBER, "ana"))
    village.block()
    record = village.agree(*KEYS, method=Method.KEYS)
    checked = village.block()
    assert [one.reason for one in checked.verdicts if one.record == record] == [Reason.UNKNOWN_KEY]


def test_an_agreement_acts_from_its_step_on_and_not_before(village: Village) -> None:
    step = village.next_step
    record = village.authority.agree(step + 2, ["eve"])
    village.govern(record)
    shared(village)
    for at, name in ((step + 1, "ana"), (step + 2, "eve")):
        agreement = village.state.agreed(at)
        assert agreement is not None
        assert name in agreement.agreement.members
    # What is late is shared by what held in its step.
    create(village, 25)
    late = village.pending
    village.pending = []
    village.block()
    village.block()
    village.pending = late
    (whole,) = village.drafts()
    assert [(one.member, one.energy_uwh) for one in whole.outputs] == [
        ("ana", 8 * PULSE_UWH), ("bob", 17 * PULSE_UWH),
    ]  # fmt: skip
    shared(village)
    held(village)
