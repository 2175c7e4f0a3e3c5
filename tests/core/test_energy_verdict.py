"""The energy verdict on every leaf of a meter, tokens, and conservation."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.authority_records import Use
from cryptometer.block import Checked
from cryptometer.block_header import Balance, Flow
from cryptometer.chain_records import Ending, Mark
from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason
from cryptometer.metrology import Side, register_uwh
from cryptometer.proposal import propose
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Waiting, opened
from cryptometer.steps import FUTURE_STEPS
from tests.core.community import (
    DETAILS,
    FIRST_STEP,
    LOT_PULSES,
    PULSE_UWH,
    STEP_S,
    Device,
    Village,
    due,
    header_of,
)
from tests.core.refusing import refusing
from tests.core.strategies import examples
from tests.keys import p256_signer, signer


@pytest.fixture
def village() -> Village:
    """One meter, which has a run start, a batch of 8 pulses and a close in the newest block."""
    made = Village()
    made.run((8,))
    return made


def reasons(checked: Checked) -> list[Reason | None]:
    return [verdict.reason for verdict in checked.verdicts]


def energies(checked: Checked) -> list[int]:
    return [verdict.energy_uwh for verdict in checked.verdicts]


def sent(village: Village, *records_of_devices: Record, **slot: Any) -> Checked:
    """The block of the next step with these records."""
    village.send(*records_of_devices)
    return village.block(**slot)


# --- What counts. --------------------------------------------------------------------------------


def test_a_step_with_lots_and_a_close_is_counted_and_transferred(village: Village) -> None:
    checked = sent(village, *village.device.step(village.next_step, 8, 8, 3))
    assert reasons(checked) == [None, None]
    assert energies(checked) == [19 * PULSE_UWH, 19 * PULSE_UWH]
    header = header_of(checked)
    assert header.flow == Flow(1_900_000, 1_900_000, 0, 1_900_000, 2)
    assert header.balance == Balance(2_700_000, 0, 2_700_000, 0, 0, 0, 0, 0)
    assert header.late == (0, 0)
    assert header.meters == (1, 1)
    assert (header.leaves, header.caught_up) == (2, False)


def test_a_close_transfers_all_batches_of_its_step_whatever_block_they_are_in(
    village: Village,
) -> None:
    step, device = village.next_step, village.device
    assert energies(sent(village, device.batch(step, 8))) == [800_000]
    assert village.state.balance.untransferred == 800_000
    late = sent(village, device.batch(step, 2), device.close(step))
    assert energies(late) == [200_000, 1_000_000]
    assert header_of(late).late == (2, 1)
    assert village.state.balance.untransferred == 0


def test_a_step_without_energy_is_closed_with_nothing(village: Village) -> None:
    checked = sent(village, village.device.close(village.next_step))
    assert (reasons(checked), energies(checked)) == ([None], [0])
    assert header_of(checked).meters == (1, 1)


def test_a_step_that_nobody_closed_has_a_block_too(village: Village) -> None:
    checked = village.block()
    assert checked.verdicts == ()
    assert header_of(checked).meters == (1, 0)
    assert header_of(checked).flow == Flow(0, 0, 0, 0, 0)


def test_energy_of_a_step_that_is_never_closed_stays_untransferred(village: Village) -> None:
    step, device = village.next_step, village.device
    sent(village, device.batch(step, 8))
    checked = sent(village, device.batch(step + 1, 3), device.close(step + 1))
    assert energies(checked) == [300_000, 300_000]
    assert village.state.balance.untransferred == 800_000
    assert village.state.meters["m0"].untransferred_uwh == 800_000


def test_a_close_does_not_transfer_the_energy_of_an_earlier_step(village: Village) -> None:
    step, device = village.next_step, village.device
    sent(village, device.batch(step, 8))
    assert energies(sent(village, device.close(step + 1))) == [0]
    assert village.state.balance.untransferred == 800_000


def test_a_day_offline_comes_back_under_its_own_steps(village: Village) -> None:
    first, device = village.next_step, village.device
    kept = [record for at in range(96) for record in device.step(first + at, 8, at % 9)]
    for _ in range(96):
        assert village.block().verdicts == ()
    checked = sent(village, *kept)
    assert set(reasons(checked)) == {None}
    assert sum(energies(checked)[::2]) == sum(energies(checked)[1::2])
    assert header_of(checked).late == (192, 96)
    assert header_of(checked).flow.transferred == sum(8 + at % 9 for at in range(96)) * PULSE_UWH


def test_a_run_start_counts_and_registers_nothing(village: Village) -> None:
    start = village.device.run_start(village.next_step, ending=Ending.UNKNOWN)
    checked = sent(village, start)
    assert (reasons(checked), energies(checked)) == ([None], [0])


def test_a_register_that_does_not_begin_at_zero_is_no_energy() -> None:
    village = Village()
    village.send(village.device.run_start(village.next_step, register=10**9))
    checked = sent(village, *village.device.step(village.next_step, 5))
    assert reasons(checked) == [None] * 3
    assert village.state.balance.registered == 500_000


def test_rounding_never_adds_up_over_lots() -> None:
    """12 000 pulses per kWh: 83 333.3 µWh each. 300 lots of one pulse are 25 Wh exactly."""
    village = Village(meters=0)
    device = village.add_meter("m0", constant=Fraction(12_000))
    village.block()
    village.send(device.run_start(village.next_step))
    for _ in range(30):
        village.send(*device.step(village.next_step, *[1] * 10))
        village.block()
    assert village.state.balance.waiting == register_uwh(300, Fraction(12_000), Fraction(1))
    assert village.state.balance.waiting == 25_000_000


# --- What is set aside, and why. -----------------------------------------------------------------


def test_a_lot_above_v_is_set_aside_with_its_batch(village: Village) -> None:
    step, device = village.next_step, village.device
    checked = sent(village, device.batch(step, LOT_PULSES, LOT_PULSES + 1), device.close(step))
    assert reasons(checked) == [Reason.LOT_ABOVE_V, None]
    assert energies(checked) == [1_700_000, 0]
    assert header_of(checked).flow == Flow(1_700_000, 0, 1_700_000, 0, 0)
    assert village.state.meters["m0"].quarantined_uwh == 1_700_000


def test_a_lot_of_v_exactly_counts(village: Village) -> None:
    checked = sent(village, village.device.batch(village.next_step, LOT_PULSES))
    assert reasons(checked) == [None]


def test_a_marked_oversize_lot_counts(village: Village) -> None:
    marks = (int(Mark.NOISE), 1, int(Mark.OVERSIZE), 90)
    checked = sent(village, village.device.batch(village.next_step, 90, marks=marks))
    assert reasons(checked) == [None]


def test_an_amount_of_nine_is_no_mark_of_oversize(village: Village) -> None:
    marks = (int(Mark.NOISE), int(Mark.OVERSIZE))
    checked = sent(village, village.device.batch(village.next_step, 9, marks=marks))
    assert reasons(checked) == [Reason.LOT_ABOVE_V]


@pytest.mark.parametrize(
    ("lots", "reason"),
    [
        ((1, 500, 1, 500), None),
        ((1, 0, 1, STEP_S * 1000), None),
        ((), None),
        ((1, 501, 1, 500), Reason.LOTS_OUT_OF_ORDER),
        ((1, STEP_S * 1000 + 1), Reason.LOTS_OUT_OF_ORDER),
    ],
)
def test_lots_close_in_order_and_within_their_step(
    village: Village, lots: tuple[int, ...], reason: Reason | None
) -> None:
    assert reasons(sent(village, village.device.batch(village.next_step, lots=lots))) == [reason]


def test_a_batch_whose_lots_are_out_of_order_is_set_aside_whole(village: Village) -> None:
    lots = (3, 500, 2, 400)
    checked = sent(village, village.device.batch(village.next_step, lots=lots))
    assert reasons(checked) == [Reason.LOTS_OUT_OF_ORDER]
    assert village.state.balance.quarantined == 500_000


def test_a_registration_of_nobody_sets_the_batch_aside_by_the_newest_terms(
    village: Village,
) -> None:
    checked = sent(village, village.device.batch(village.next_step, 5, registration=bytes(32)))
    assert reasons(checked) == [Reason.UNKNOWN_REGISTRATION]
    assert energies(checked) == [500_000]
    assert village.state.balance.quarantined == 500_000


def test_another_meter_s_registration_is_unknown_here() -> None:
    village = Village(meters=2)
    first, second = village.devices
    village.send(first.run_start(village.next_step))
    record = first.batch(village.next_step, 1, registration=second.registration)
    assert reasons(sent(village, record)) == [None, Reason.UNKNOWN_REGISTRATION]


def test_a_batch_before_the_registered_step_is_not_valid() -> None:
    village = Village(meters=0)
    device = village.add_meter("m0")  # from the step of the next block on
    first = village.next_step
    village.block()
    village.send(device.run_start(first), device.batch(first - 1, 2), device.batch(first, 2))
    assert reasons(village.block()) == [None, Reason.NOT_VALID_AT_STEP, None]


def register_again(
    village: Village, device: Device, from_step: int, key: int | None = None, **changes: Any
) -> Record:
    """Another registration of the device's meter."""
    public = signer(key).public if key is not None else device.signer.public
    details = replace(DETAILS, **changes)
    record = village.authority.register(Role.METER, device.name, public, details, from_step)
    village.govern(record)
    return record


def test_lots_of_an_older_registration_count_while_they_satisfy_the_newer(
    village: Village,
) -> None:
    device, step = village.device, village.next_step + 1
    again = register_again(village, device, step, lot_pulses=4)
    village.block()
    checked = sent(village, device.batch(step, 4), device.batch(step, 5))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]
    device.registration = again.identity
    checked = sent(village, device.batch(step + 1, 4), device.batch(step + 1, 5))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]


def test_a_newer_registration_does_not_judge_steps_before_it(village: Village) -> None:
    """The newer one is stricter, and covers the step after."""
    device, step = village.device, village.next_step
    again = register_again(village, device, step + 1, lot_pulses=4)
    village.block()
    late = sent(village, device.batch(step, 8), device.batch(step, 1, registration=again.identity))
    assert reasons(late) == [None, Reason.NOT_VALID_AT_STEP]


def test_lots_of_a_newer_and_wider_registration_stay_within_it(village: Village) -> None:
    """The meter was registered with less than its bound first; the wider limit is of the newer."""
    device = village.device
    narrow = register_again(village, device, village.next_step + 1, lot_pulses=3)
    village.block()
    wide = register_again(village, device, village.next_step + 1, lot_pulses=8)
    village.block()
    step = village.next_step
    checked = sent(
        village,
        device.batch(step, 5, registration=wide.identity),
        device.batch(step, 5, registration=narrow.identity),
        device.batch(step, 8),  # made under the very first
    )
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V, None]


def test_another_constant_counts_from_its_own_registration_on(village: Village) -> None:
    device, step = village.device, village.next_step + 1
    again = register_again(village, device, step, constant=Fraction(20_000), lot_pulses=8)
    village.block()
    before = device.batch(step, 2)
    after = device.batch(step, 2, registration=again.identity)
    assert energies(sent(village, before, after)) == [200_000, 100_000]


def test_a_lot_satisfies_a_newer_registration_by_its_energy_and_not_by_its_pulses(
    village: Village,
) -> None:
    """A pulse of the older one is worth two of the newer, or five with its transformers."""
    device, step = village.device, village.next_step + 1
    register_again(village, device, step, constant=Fraction(20_000), lot_pulses=8)
    village.block()
    checked = sent(village, device.batch(step, 4), device.batch(step, 5))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]
    finer: dict[str, Any] = {"ratio": Fraction(2), "constant": Fraction(100_000), "lot_pulses": 7}
    register_again(village, device, step, constant_side=Side.SECONDARY, **finer)
    village.block()
    checked = sent(village, device.batch(step, 1), device.batch(step, 2))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]


def test_a_batch_without_lots_is_above_no_limit(village: Village) -> None:
    """Not even where one pulse of its registration is more than the newest allows."""
    device, step = village.device, village.next_step + 1
    register_again(village, device, step, constant=Fraction(20_000), lot_pulses=1)
    village.block()
    checked = sent(village, device.batch(step), device.batch(step, 1))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]


def test_finer_pulses_of_an_older_registration_stay_within_its_own_limit(village: Village) -> None:
    device, step = village.device, village.next_step + 1
    register_again(village, device, step, constant=Fraction(5_000), lot_pulses=4)
    village.block()
    checked = sent(village, device.batch(step, 8), device.batch(step, 9))
    assert reasons(checked) == [None, Reason.LOT_ABOVE_V]


def test_a_record_of_the_near_future_waits_with_its_whole_chain(village: Village) -> None:
    step, device = village.next_step, village.device
    village.send(device.batch(step, 1), device.batch(step + FUTURE_STEPS, 2))
    village.send(device.batch(step + 1, 3))
    assert len(village.block().verdicts) == 1
    for _ in range(FUTURE_STEPS - 1):
        assert village.block().verdicts == ()
    # Step + 4 has come; the chain goes on, though its last record now is of an earlier step.
    assert reasons(village.block()) == [None, Reason.STEP_WENT_BACK]


def test_one_meter_that_waits_does_not_hold_up_another() -> None:
    village = Village(meters=2)
    step = village.next_step
    for device, ahead in zip(village.devices, (2, 0), strict=True):
        village.send(device.run_start(step), device.batch(step + ahead, 1))
    names = [getattr(one.record.body, "meter", "") for one in village.block().verdicts]
    assert names == ["m0", "m1", "m1"]


@pytest.mark.parametrize("ahead", [1, FUTURE_STEPS])
def test_a_record_of_the_near_future_may_not_stand_in_a_block(village: Village, ahead: int) -> None:
    record = village.device.batch(village.next_step + ahead, 1)
    with refusing(Reason.NOT_YET, "must wait"):
        propose(village.state, [record], village.slot())


def test_a_record_of_the_far_future_is_set_aside_at_once(village: Village) -> None:
    step, device = village.next_step, village.device
    far = step + FUTURE_STEPS + 1
    checked = sent(
        village,
        device.batch(far, 4),
        device.close(far),
        device.run_start(far),
        device.batch(step, 1),
    )
    assert reasons(checked) == [Reason.FAR_FUTURE] * 3 + [None]
    assert village.state.balance.quarantined == 400_000
    # The far step is not taken for closed.
    assert reasons(sent(village, device.batch(step + 1, 1))) == [None]


def test_what_comes_after_the_late_window_is_set_aside() -> None:
    village = Village(late_steps=3)
    device, first = village.device, village.next_step
    village.send(device.run_start(first))
    for _ in range(4):
        village.block()
    kept = [device.batch(first, 1), device.batch(first + 1, 2), device.close(first + 1)]
    checked = sent(village, *kept)
    assert reasons(checked) == [Reason.TOO_LATE, None, None]
    assert header_of(checked).late == (3, 4)


def test_a_close_after_the_late_window_transfers_nothing() -> None:
    village = Village(late_steps=3)
    device, first = village.device, village.next_step
    sent(village, device.run_start(first), device.batch(first, 5))
    for _ in range(3):
        village.block()
    assert reasons(sent(village, device.close(first))) == [Reason.TOO_LATE]
    assert village.state.balance.untransferred == 500_000


def test_a_step_that_is_closed_takes_no_more(village: Village) -> None:
    step, device = village.next_step, village.device
    sent(village, *device.step(step, 3))
    checked = sent(village, device.batch(step, 2), device.close(step), device.close(step - 1))
    assert reasons(checked) == [Reason.STEP_CLOSED] * 3
    assert village.state.balance.quarantined == 200_000


def test_steps_only_advance(village: Village) -> None:
    first, device = village.next_step, village.device
    village.block()
    checked = sent(village, device.batch(first + 1, 1), device.batch(first, 1), device.close(first))
    assert reasons(checked) == [None, Reason.STEP_WENT_BACK, Reason.STEP_WENT_BACK]


def test_a_close_continues_from_the_close_before(village: Village) -> None:
    step, device = village.next_step, village.device
    checked = sent(village, device.batch(step, 3), device.close(step, register=7))
    assert reasons(checked) == [None, Reason.REGISTER_MISMATCH]
    assert energies(checked) == [300_000, 0]
    assert village.state.balance.untransferred == 300_000
    # Set aside, it is yet what the next one starts from: the device does not know.
    checked = sent(village, device.batch(step + 1, 2), device.close(step + 1))
    assert reasons(checked) == [None, None]
    assert energies(checked) == [200_000, 200_000]
    assert village.state.balance.untransferred == 300_000


def test_a_close_after_a_quarantined_batch_transfers_the_rest(village: Village) -> None:
    step, device = village.next_step, village.device
    checked = sent(village, device.batch(step, 9), device.batch(step, 2), device.close(step))
    assert reasons(checked) == [Reason.LOT_ABOVE_V, None, None]
    assert energies(checked) == [900_000, 200_000, 200_000]


def test_a_re_anchor_is_no_energy_and_no_mismatch(village: Village) -> None:
    device = village.device
    anchor = village.authority.re_anchor("m0", device.sequence + 7, 5_000)
    village.govern(anchor)
    village.block()
    device.go_on_from(anchor)
    checked = sent(village, *device.step(village.next_step, 6))
    assert (reasons(checked), energies(checked)) == ([None, None], [600_000, 600_000])


def test_an_authority_record_that_contradicts_stands_without_effect(village: Village) -> None:
    thief = village.authority.register(Role.MEMBER, "thief", village.device.signer.public)
    nobody = village.authority.revoke(Role.NODE, "nobody")
    back = village.authority.re_anchor("m0", 0, 0)
    other = village.authority.register(Role.MEMBER, "other", signer(40).public)
    village.govern(thief, nobody, back, other)
    checked = village.block()
    assert checked.verdicts == (
        Verdict(thief, Reason.WRONG_ROLE, 0),
        Verdict(nobody, Reason.UNKNOWN_KEY, 0),
        Verdict(back, Reason.FORK, 0),
        Verdict(other, None, 0),
    )
    assert header_of(checked).leaves == 4
    assert (Role.MEMBER, "thief") not in village.state.parties


def test_authority_records_act_from_the_block_after(village: Village) -> None:
    village.govern(village.authority.revoke(Role.METER, "m0"))
    checked = sent(village, *village.device.step(village.next_step, 2))
    assert reasons(checked) == [None, None, None]
    assert header_of(checked).meters == (1, 1)
    late = village.device.close(village.next_step)
    leaves, refused = due(village.state, village.next_step, [late])
    assert leaves == []
    assert [(one, error.reason) for one, error in refused] == [(late, Reason.REVOKED)]
    assert header_of(village.block()).meters == (0, 0)


def test_a_revocation_that_comes_while_records_wait_lets_them_go(village: Village) -> None:
    step, device = village.next_step, village.device
    waiting = [device.batch(step + 2, 1), device.batch(step + 2, 1)]
    village.send(*waiting)
    village.govern(village.authority.revoke(Role.METER, "m0", waiting[0]))
    village.block()
    village.block()
    leaves, refused = due(village.state, village.next_step, village.pending)
    assert [one.identity for one in leaves] == [waiting[0].identity]
    assert [error.reason for _, error in refused] == [Reason.REVOKED]
    assert len(village.block().verdicts) == 1


# --- What waits at the plant. --------------------------------------------------------------------


def test_a_close_waits_on_the_account_of_its_step_with_its_energy_and_its_tokens() -> None:
    village = Village(meters=2, token_uwh=700_000)
    village.add_members("ana")
    village.block()
    village.agree("ana")
    village.run((6,))  # before the agreement is in force, yet it counts for tokens
    assert village.state.settlements == {}
    step, (first, second) = village.next_step, village.devices
    sent_first, sent_second = first.step(step, 8), second.step(step)
    sent(village, *sent_first, *sent_second)
    [account] = village.state.settlements.values()
    # 1.4 Wh have been transferred then, 0.6 before; of the other meter nothing waits.
    brought = Waiting(sent_first[-1].identity, "m0", 800_000, 2)
    assert account == replace(opened(step), waiting=(brought,))
    # On the account of its own step, whenever it comes.
    late = village.next_step
    village.block()
    sent_late = second.step(late, 8)
    sent(village, *sent_late)
    waits = Waiting(sent_late[-1].identity, "m1", 800_000, 2)
    assert village.state.settlements[late] == replace(opened(late), waiting=(waits,))
    assert set(village.state.settlements) == {step, late}


# --- Tokens. -------------------------------------------------------------------------------------


def test_tokens_are_the_increase_of_the_floor_of_transferred_energy() -> None:
    village = Village(token_uwh=700_000)
    minted: list[int] = []
    for pulses in (5, 2, 6, 1, 0, 8):
        village.run((pulses,) if pulses else ())
        minted.append(header_of(village.checked[-1]).flow.tokens)
    # Transferred: 0.5, 0.7, 1.3, 1.4, 1.4, 2.2 Wh; a token each 0.7 Wh.
    assert minted == [0, 1, 0, 1, 0, 1]


def test_tokens_are_minted_meter_by_meter() -> None:
    village = Village(meters=2, token_uwh=1_000_000)
    village.run((6,))
    assert header_of(village.checked[-1]).flow.tokens == 0
    village.run((6,))
    assert header_of(village.checked[-1]).flow.tokens == 2


# --- Conservation (promise F), over random villages. ---------------------------------------------

Turn = tuple[int, str, list[int]]
ACTS = ("lots", "close", "big", "late", "future", "unregistered", "start", "back")
lots = st.lists(st.integers(0, LOT_PULSES), max_size=4)
turns = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTS), lots), min_size=1, max_size=8)


def play(village: Village, device: Device, act: str, pulses: Sequence[int]) -> None:
    """One thing that a device may do, honestly or not."""
    step = village.next_step
    match act:
        case "lots":
            village.send(device.batch(step, *pulses))
        case "close":
            village.send(device.close(step))
        case "big":
            village.send(device.batch(step, 9, *pulses))
        case "late":
            village.send(device.batch(max(step - 2, FIRST_STEP), *pulses))
        case "future":
            village.send(device.batch(step + FUTURE_STEPS + 1, *pulses))
        case "unregistered":
            village.send(device.batch(step, *pulses, registration=bytes(32)))
        case "start":
            village.send(device.run_start(step, ending=Ending.UNKNOWN))
        case _:
            village.send(device.close(step - 1, register=3))


@examples(60)
@given(st.lists(turns, min_size=1, max_size=5))
def test_energy_is_conserved_whatever_devices_do(blocks: list[list[Turn]]) -> None:
    village = Village(meters=0, token_uwh=333_333)
    # Two of the constants do not divide 10⁹.
    village.add_meter("m0")
    village.add_meter("m1", constant=Fraction(12_345, 7), lot_pulses=1)
    village.add_meter("m2", p256_signer(4), use=Use.STORAGE, constant=Fraction(70_001))
    village.block()
    constants = [Fraction(10_000), Fraction(12_345, 7), Fraction(70_001)]
    for device in village.devices:
        village.send(device.run_start(village.next_step))
    tokens = 0
    for turn in blocks:
        for number, act, pulses in turn:
            play(village, village.devices[number], act, pulses)
        checked = village.block()
        tokens += header_of(checked).flow.tokens
        balance = village.state.balance
        assert balance.registered == balance.untransferred + balance.waiting + balance.quarantined
        assert (balance.allocated, balance.losses, balance.fees, balance.surplus) == (0, 0, 0, 0)
        meters = village.state.meters
        assert balance.registered == sum(meter.registered_uwh for meter in meters.values())
        # From the registers alone, which the devices keep: nothing is lost, nothing counts twice.
        assert balance.registered == sum(
            register_uwh(device.register, constant, Fraction(1))
            for device, constant in zip(village.devices, constants, strict=True)
        )
        assert tokens == sum(meter.transferred_uwh // 333_333 for meter in meters.values())
        for meter in meters.values():
            spent = meter.lifetime_uwh - meter.head.allowance_uwh
            assert spent == meter.registered_uwh
            assert 0 <= meter.open_uwh <= meter.untransferred_uwh
