"""The community after a block: founding, the authority's chain, and what each record changes."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from cryptometer import records
from cryptometer.authority_records import ChainPlace, CountingSource, Revocation, Use
from cryptometer.block_header import Balance
from cryptometer.enrolment import Broker, Bundle
from cryptometer.errors import Reason
from cryptometer.governing import act, found, govern
from cryptometer.meter import LIFETIME_H, REGISTRATIONS_MAX, Head, Meter
from cryptometer.metrology import Side
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Claim
from cryptometer.state import Party, State
from cryptometer.wire import UINT_MAX
from tests.core.community import DETAILS, FIRST_STEP, Authority, Village, flip, reseal
from tests.core.refusing import refusing
from tests.core.strategies import refusal_of
from tests.keys import p256_signer, signer


class Office:
    """An authority whose records act at once: the state without blocks."""

    def __init__(self) -> None:
        self.authority = Authority(signer(1))
        self.state = govern(found(self.authority.genesis), self.authority.genesis)

    def do(self, record: Record) -> State:
        self.state = govern(self.state, record)
        self.state = act(self.state, record)
        return self.state

    def meter(self, name: str = "m0", number: int = 10, **changes: Any) -> Record:
        from_step = changes.pop("from_step", FIRST_STEP)
        key, details = signer(number).public, replace(DETAILS, **changes)
        return self.authority.register(Role.METER, name, key, details, from_step)


@pytest.fixture
def office() -> Office:
    return Office()


# --- Founding. -----------------------------------------------------------------------------------


def test_a_genesis_founds_an_empty_community() -> None:
    genesis = Authority(signer(1)).genesis
    state = found(genesis)
    assert state.community == genesis.identity
    assert state.step == FIRST_STEP - 1
    assert state.checkpoint.size == 0
    assert (state.meters, state.parties, state.keys) == ({}, {}, {})
    assert set(vars_of(state.balance)) == {0}


def vars_of(balance: Balance) -> list[int]:
    return [getattr(balance, name) for name in Balance.__slots__]


def test_a_genesis_is_signed_by_the_authority_it_names() -> None:
    genesis = Authority(signer(1)).genesis
    with refusing(Reason.UNKNOWN_KEY):
        found(reseal(genesis, signer(2)))
    with refusing(Reason.BAD_SIGNATURE):
        found(records.decode(flip(genesis.raw, 8 * len(genesis.raw) - 1)))


def test_another_kind_founds_nothing(office: Office) -> None:
    with refusing(Reason.UNKNOWN_KIND):
        found(office.meter())


def test_a_community_does_not_begin_before_all_time() -> None:
    with refusing(Reason.MALFORMED):
        found(Authority(signer(1), first_step=0).genesis)
    assert found(Authority(signer(1), first_step=1).genesis).step == 0


# --- The authority's chain. ----------------------------------------------------------------------


def test_the_authority_s_records_follow_one_another(office: Office) -> None:
    first, second = office.meter("m0", 10), office.meter("m1", 11)
    with refusing(Reason.GAP, "record 2 where 1"):
        govern(office.state, second)
    office.do(first)
    with refusing(Reason.FORK, "record 1 where 2"):
        govern(office.state, first)
    assert office.state.authority.previous == first.identity
    assert office.do(second).authority.sequence == 3


def test_a_record_that_names_another_as_the_one_before_is_a_fork(office: Office) -> None:
    record = reseal(office.meter(), signer(1), previous=bytes(32))
    with refusing(Reason.FORK):
        govern(office.state, record)


def test_a_second_genesis_is_a_fork(office: Office) -> None:
    with refusing(Reason.FORK):
        govern(office.state, office.authority.genesis)


def test_only_the_authority_governs(office: Office) -> None:
    record = office.meter()
    with refusing(Reason.UNKNOWN_KEY):
        govern(office.state, reseal(record, signer(2)))
    with refusing(Reason.BAD_SIGNATURE):
        govern(office.state, records.decode(flip(record.raw, 8 * len(record.raw) - 1)))
    with refusing(Reason.OTHER_COMMUNITY):
        govern(office.state, records.seal(record.body, bytes(32), signer(1)))
    with refusing(Reason.OTHER_COMMUNITY):
        govern(office.state, Authority(signer(1), name="elsewhere").genesis)


def test_the_authority_writes_no_other_kinds(office: Office) -> None:
    bundle = Bundle("m0", b"x", (), Broker("mqtt://a:1"))
    record = records.seal(bundle, office.state.community, signer(1))
    with refusing(Reason.UNKNOWN_KIND):
        govern(office.state, record)


# --- Registrations of meters. --------------------------------------------------------------------


def test_a_registered_meter_has_its_terms(office: Office) -> None:
    record = office.meter(from_step=FIRST_STEP + 3, lot_pulses=5)
    meter = office.do(record).meters["m0"]
    (terms,) = meter.terms
    assert (terms.registration, terms.from_step, terms.lot_pulses) == (
        record.identity, FIRST_STEP + 3, 5,
    )  # fmt: skip
    assert (terms.constant, terms.ratio) == (Fraction(10_000), Fraction(1))
    lifetime_uwh = 3 * 230 * 65 * LIFETIME_H * 10**6
    nothing = (0, 0, 0, 0, 0, 0)
    assert meter == Meter(
        "m0",
        DETAILS.serial,
        (terms,),
        Head(0, record.identity, lifetime_uwh),
        *nothing,
        lifetime_uwh,
        index_wh=DETAILS.index_wh,
        index_from_uwh=0,
    )
    assert office.state.keys[signer(10).public.thumbprint] == (Role.METER, "m0")


@pytest.mark.parametrize(
    ("side", "ratio", "energy"),
    [(Side.PRIMARY, Fraction(1), 100_000), (Side.SECONDARY, Fraction(40), 4_000_000)],
)
def test_the_ratio_counts_only_for_a_secondary_constant(
    office: Office, side: Side, ratio: Fraction, energy: int
) -> None:
    record = office.meter(
        constant_side=side, ratio=Fraction(40), ratings_side=Side.SECONDARY, lot_pulses=1
    )
    terms = office.do(record).meters["m0"].terms[0]
    assert terms.ratio == ratio
    assert terms.energy_uwh(7, 8) == energy
    # 65 A on the secondary side of 40:1 transformers.
    assert office.state.meters["m0"].lifetime_uwh == 3 * 230 * 65 * 40 * LIFETIME_H * 10**6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"guard": Fraction(11, 10)}, Reason.MALFORMED),
        ({"ratio": Fraction(9, 10)}, Reason.MALFORMED),
        ({"lot_pulses": 9}, Reason.LOT_ABOVE_V),
        ({"lot_pulses": 9, "coarse": True}, Reason.LOT_ABOVE_V),
        ({"guard": Fraction(1, 2), "lot_pulses": 5}, Reason.LOT_ABOVE_V),  # 0.43125 Wh
        ({"constant": Fraction(1_000), "lot_pulses": 1}, Reason.LOT_ABOVE_V),
        ({"constant": Fraction(1_000), "lot_pulses": 2, "coarse": True}, Reason.LOT_ABOVE_V),
        # P_min · MPE · D = 0.8625 Wh is exactly ten pulses of 86 250 µWh: nine stay below it.
        ({"constant": Fraction(10**6 * 4, 345), "lot_pulses": 10}, Reason.LOT_ABOVE_V),
    ],
)
def test_a_registration_that_would_break_the_bound_has_no_effect(
    office: Office, changes: dict[str, Any], reason: Reason
) -> None:
    record = office.meter(**changes)
    governed = govern(office.state, record)
    with refusing(reason, "m0"):
        act(governed, record)


@pytest.mark.parametrize(
    "changes",
    [
        {"lot_pulses": 8},
        {"guard": Fraction(1, 2), "lot_pulses": 4},
        {"constant": Fraction(1_000), "lot_pulses": 1, "coarse": True},
        {"constant": Fraction(10**6 * 4, 345), "lot_pulses": 9},
        {"ratio": Fraction(1), "guard": Fraction(1)},
    ],
)
def test_a_registration_at_the_bound_acts(office: Office, changes: dict[str, Any]) -> None:
    assert "m0" in office.do(office.meter(**changes)).meters


def test_a_registration_as_a_meter_describes_one_and_as_another_does_not(office: Office) -> None:
    key = signer(10).public
    bare = office.authority.register(Role.METER, "m0", key)
    state = govern(office.state, bare)
    with refusing(Reason.MALFORMED, "describes no meter"):
        act(state, bare)
    odd = office.authority.register(Role.VPP, "vpp", key, DETAILS)
    state = govern(state, odd)
    with refusing(Reason.MALFORMED, "is no meter"):
        act(state, odd)


def test_a_key_belongs_to_one_party_for_ever(office: Office) -> None:
    office.do(office.meter("m0", 10))
    for record in (
        office.meter("m1", 10),
        office.authority.register(Role.GATEWAY, "m0", signer(10).public),
    ):
        office.state = govern(office.state, record)
        with refusing(Reason.WRONG_ROLE, "meter m0"):
            act(office.state, record)
    office.do(office.authority.revoke(Role.METER, "m0"))
    again = office.authority.register(Role.MEMBER, "m0", signer(10).public)
    office.state = govern(office.state, again)
    with refusing(Reason.WRONG_ROLE):
        act(office.state, again)
    assert act(office.state, office.meter("m0", 10)).meters["m0"].terms[-1].valid_to is None


def test_a_meter_has_a_limited_number_of_registrations(office: Office) -> None:
    office.do(office.meter())
    terms = office.state.meters["m0"].terms * REGISTRATIONS_MAX
    many = replace(office.state.meters["m0"], terms=terms)
    office.state = replace(office.state, meters={"m0": many})
    record = office.meter()
    with refusing(Reason.TOO_MANY, "m0 has 1000 registrations"):
        act(govern(office.state, record), record)
    fewer = replace(many, terms=terms[1:])
    office.state = replace(office.state, meters={"m0": fewer})
    assert len(office.do(record).meters["m0"].terms) == REGISTRATIONS_MAX


def test_registered_meters_can_never_drive_a_sum_out_of_63_bits(office: Office) -> None:
    """A meter of 3 · 1 MV · 40 A gives about 5.3e18 µWh in its life; 2^63 is 9.2e18."""
    huge = {"voltage_mv": 10**9, "i_max_ma": 4 * 10**4, "lot_pulses": 1}
    office.do(office.meter("m0", 10, **huge))
    record = office.meter("m1", 11, **huge)
    with refusing(Reason.TOO_MANY, "63 bits"):
        act(govern(office.state, record), record)
    # The same meter again is counted once.
    office.do(reseal(office.meter("m0", 10, **huge), signer(1), sequence=2,
                     previous=office.state.authority.previous))  # fmt: skip
    assert len(office.state.meters) == 1


def test_a_larger_registration_raises_the_life_of_a_meter_and_a_smaller_one_leaves_it(
    office: Office,
) -> None:
    smallest = office.do(office.meter(i_max_ma=2_000)).meters["m0"].lifetime_uwh
    before = office.do(office.meter()).meters["m0"].lifetime_uwh
    assert before > smallest
    after = office.do(office.meter(i_max_ma=1_000)).meters["m0"]
    assert after.lifetime_uwh == before
    assert after.head.allowance_uwh == 3 * 230 * 1 * LIFETIME_H * 10**6


def test_a_new_registration_sets_the_allowance_anew_less_what_is_spent() -> None:
    village = Village()
    village.run((8,), (8,))
    spent = village.state.meters["m0"].registered_uwh
    again = village.authority.register(Role.METER, "m0", signer(10).public, DETAILS)
    village.govern(again)
    village.block()
    meter = village.state.meters["m0"]
    assert spent == 1_600_000
    assert meter.head.allowance_uwh == meter.lifetime_uwh - spent
    assert meter.head.register == 16  # the chain goes on where it was
    assert len(meter.terms) == 2


@pytest.mark.parametrize(
    ("changes", "index_from_uwh"),
    [
        ({}, 30),  # a new key or limit; the display goes on
        ({"serial": "MID-0002"}, 1_200),
        ({"index_wh": 7}, 1_200),
    ],
)
def test_a_meter_that_is_registered_again_keeps_its_chain_and_what_it_registered(
    office: Office, changes: dict[str, Any], index_from_uwh: int
) -> None:
    """Another device on the wall, or the same one read anew, begins at what it shows."""
    fresh = office.do(office.meter()).meters["m0"]
    running = replace(
        fresh,
        head=Head(5, bytes(32), 99, register=40),
        last_step=FIRST_STEP + 2,
        closed_step=FIRST_STEP + 1,
        closed_register=20,
        untransferred_uwh=200,
        transferred_uwh=900,
        quarantined_uwh=100,
        index_from_uwh=30,
    )
    office.state = replace(office.state, meters={"m0": running})
    again = office.do(office.meter("m0", 11, **changes)).meters["m0"]
    newest = again.terms[-1]
    assert newest.key == signer(11).public
    assert again == replace(
        running,
        serial=changes.get("serial", DETAILS.serial),
        index_wh=changes.get("index_wh", DETAILS.index_wh),
        index_from_uwh=index_from_uwh,
        terms=(*fresh.terms, newest),
        head=replace(running.head, allowance_uwh=fresh.lifetime_uwh - 1_200),
    )


def test_a_meter_that_has_registered_all_it_may_gets_no_more(office: Office) -> None:
    fresh = office.do(office.meter()).meters["m0"]
    spent = replace(fresh, transferred_uwh=fresh.lifetime_uwh + 5)
    office.state = replace(office.state, meters={"m0": spent})
    assert office.do(office.meter()).meters["m0"].head.allowance_uwh == 0


def test_the_lives_of_all_meters_may_fill_63_bits_to_the_last(office: Office) -> None:
    first = office.do(office.meter("m0", 10)).meters["m0"]
    for room, reason in ((first.lifetime_uwh - 1, Reason.TOO_MANY), (first.lifetime_uwh, None)):
        state = replace(office.state, meters={"m0": replace(first, lifetime_uwh=UINT_MAX - room)})
        assert refusal_of(act, state, office.meter("m1", 11)) is reason


def test_a_lot_made_under_older_terms_is_measured_by_its_energy(office: Office) -> None:
    """A pulse that was worth 4 Wh, and is worth 8 Wh or 2 Wh in the newest terms."""
    old = office.do(office.meter()).meters["m0"].terms[0]
    old = replace(old, constant=Fraction(10_000), ratio=Fraction(40), lot_pulses=8)
    assert old.lot_limit(old) == 8
    dearer = replace(old, constant=Fraction(2_500), ratio=Fraction(20), lot_pulses=3)
    assert old.lot_limit(dearer) == 6
    assert old.lot_limit(replace(dearer, lot_pulses=7)) == 8
    assert old.lot_limit(replace(dearer, constant=Fraction(10_000))) == Fraction(3, 2)


def test_the_terms_of_a_key_are_the_newest_that_name_it(office: Office) -> None:
    for number, pulses in ((10, 8), (10, 7), (11, 6)):
        meter = office.do(office.meter("m0", number, lot_pulses=pulses)).meters["m0"]
    assert meter.signed_by(signer(10).public.thumbprint).lot_pulses == 7
    with refusing(Reason.UNKNOWN_KEY, "not registered for m0"):
        meter.signed_by(signer(12).public.thumbprint)


def test_a_chain_without_records_begins_from_the_newest_registration(office: Office) -> None:
    office.do(office.meter())
    again = office.meter("m0", 12)
    assert office.do(again).meters["m0"].head.previous == again.identity


@pytest.mark.parametrize(
    ("use", "from_step", "step", "expected"),
    [
        (Use.GENERATION, 5, 4, False),
        (Use.GENERATION, 5, 5, True),
        (Use.GENERATION, 5, 6, True),
        (Use.CONSUMPTION, 5, 6, False),
        (Use.STORAGE, 5, 6, False),
    ],
)
def test_a_block_waits_for_generation_that_has_begun(
    office: Office, use: Use, from_step: int, step: int, expected: bool
) -> None:
    office.do(office.meter(use=use, from_step=from_step))
    assert office.state.meters["m0"].expected_at(step) is expected


@pytest.mark.parametrize("use", [Use.GENERATION, Use.STORAGE])
def test_a_meter_for_consumption_is_nothing_else_for_its_whole_life(
    office: Office, use: Use
) -> None:
    office.do(office.meter("m0", 10, use=use))
    office.do(office.meter("m1", 11, use=Use.CONSUMPTION))
    assert [one.is_private for one in office.state.meters.values()] == [False, True]
    office.do(office.meter("m1", 12, use=Use.CONSUMPTION))
    other = Use.STORAGE if use is Use.GENERATION else Use.GENERATION
    state = office.do(office.meter("m0", 13, use=other))
    assert refusal_of(act, state, office.meter("m0", 10, use=Use.CONSUMPTION)) is Reason.PRIVATE
    with refusing(Reason.PRIVATE, "Register the meter under another name"):
        act(state, office.meter("m1", 11, use=use))


def test_a_block_waits_for_no_revoked_meter(office: Office) -> None:
    office.do(office.meter())
    assert office.state.meters["m0"].expected_at(FIRST_STEP)
    office.do(office.authority.revoke(Role.METER, "m0"))
    assert not office.state.meters["m0"].expected_at(FIRST_STEP)


# --- Other parties. ------------------------------------------------------------------------------


def test_a_party_is_found_by_its_key_and_role(office: Office) -> None:
    office.do(office.authority.register(Role.GATEWAY, "gw", p256_signer(5).public))
    key_id = p256_signer(5).public.thumbprint
    known = Party(Role.GATEWAY, "gw", p256_signer(5).public, revoked=False)
    assert office.state.party_of(key_id, Role.GATEWAY) == known
    with refusing(Reason.WRONG_ROLE, "gateway gw"):
        office.state.party_of(key_id, Role.VPP)
    with refusing(Reason.WRONG_ROLE):
        office.state.meter_of(key_id)
    with refusing(Reason.UNKNOWN_KEY):
        office.state.party_of(bytes(32), Role.GATEWAY)
    with refusing(Reason.UNKNOWN_KEY):
        office.state.meter_of(bytes(32))


def test_a_party_s_new_key_replaces_the_old_one(office: Office) -> None:
    for number in (5, 6):
        office.do(office.authority.register(Role.GATEWAY, "gw", signer(number).public))
    office.state.party_of(signer(6).public.thumbprint, Role.GATEWAY)
    with refusing(Reason.REVOKED):
        office.state.party_of(signer(5).public.thumbprint, Role.GATEWAY)


def test_a_revoked_party_is_refused_until_it_is_registered_again(office: Office) -> None:
    office.do(office.authority.register(Role.GATEWAY, "gw", signer(5).public))
    office.do(office.authority.revoke(Role.GATEWAY, "gw"))
    with refusing(Reason.REVOKED, "gateway gw"):
        office.state.party_of(signer(5).public.thumbprint, Role.GATEWAY)
    office.do(office.authority.register(Role.GATEWAY, "gw", signer(5).public))
    assert not office.state.party_of(signer(5).public.thumbprint, Role.GATEWAY).revoked


# --- Revocations and re-anchors of meters. -------------------------------------------------------


@pytest.mark.parametrize("role", [Role.METER, Role.GATEWAY])
def test_nobody_is_not_revoked(office: Office, role: Role) -> None:
    record = office.authority.revoke(role, "nobody")
    with refusing(Reason.UNKNOWN_KEY, "nobody"):
        act(govern(office.state, record), record)


def test_an_earlier_end_stands() -> None:
    village = Village()
    village.run((1,), (1,))
    first, second = village.blocks[1][1], village.blocks[2][0]
    ends: list[int | None] = []
    for last in (second, first, second, None):
        village.govern(village.authority.revoke(Role.METER, "m0", last))
        village.block()
        ends.append(village.state.meters["m0"].terms[0].valid_to)
    assert ends == [4, 2, 2, 0]


def test_a_re_anchor_moves_the_head_and_both_registers(office: Office) -> None:
    office.do(office.meter())
    anchor = office.authority.re_anchor("m0", 17, 4_000)
    meter = office.do(anchor).meters["m0"]
    assert (meter.head.sequence, meter.head.register, meter.closed_register) == (17, 4_000, 4_000)
    assert meter.head.previous == anchor.identity
    assert meter.registered_uwh == 0


def test_a_chain_cannot_be_anchored_where_it_was() -> None:
    village = Village()
    village.run((1,))
    for at, reason in ((2, Reason.FORK), (3, None)):
        village.govern(village.authority.re_anchor("m0", at, 9))
        assert village.block().verdicts[-1].reason is reason
    assert village.state.meters["m0"].head.register == 9


def test_a_chain_is_not_anchored_where_its_numbers_would_end() -> None:
    village = Village()
    village.run((1,))
    for at, reason in (
        (2**63 - 1, Reason.IMPLAUSIBLE),
        (2**61 + 1, Reason.IMPLAUSIBLE),
        (2**61, None),
    ):
        village.govern(village.authority.re_anchor("m0", at, 9))
        assert village.block().verdicts[-1].reason is reason
    assert village.state.meters["m0"].head.sequence == 2**61


def test_an_end_behind_the_last_number_of_all_is_an_end_nobody_reaches() -> None:
    village = Village()
    village.run((1,))
    place = ChainPlace(UINT_MAX, bytes(32))
    at = village.authority
    village.govern(at.sign(Revocation(at.next, at.previous, Role.METER, "m0", "far", place)))
    village.block()
    [terms] = village.state.meters["m0"].terms
    assert terms.valid_to == UINT_MAX
    village.send(village.device.batch(village.next_step, 1))


def test_an_unknown_meter_is_not_anchored(office: Office) -> None:
    record = office.authority.re_anchor("m9", 0, 0)
    with refusing(Reason.UNKNOWN_KEY, "m9"):
        act(govern(office.state, record), record)


# --- Agreements. ---------------------------------------------------------------------------------


@pytest.fixture
def agreeing(office: Office) -> Office:
    """With a plant, two members and a meter."""
    for at, (role, name) in enumerate(
        [(Role.VPP, "vpp"), (Role.MEMBER, "ana"), (Role.MEMBER, "bob")]
    ):
        office.do(office.authority.register(role, name, signer(20 + at).public))
    office.do(office.meter())
    return office


def test_an_agreement_acts_as_it_is_said_behind_those_before_it(agreeing: Office) -> None:
    ahead = agreeing.state.step + 1
    first = agreeing.authority.agree(ahead, ["ana"])
    before = agreeing.do(first)
    shares: dict[str, Any] = {"losses": Fraction(1, 3), "fee": Fraction(2, 3), "fee_to": "coop"}
    claims = (Claim("ana", 1, 0, "m0"), Claim("ana", 1, 1, "m0"), Claim("bob", 1, 0))
    second = agreeing.authority.agree(ahead, claims, **shares)
    after = agreeing.do(second)
    assert [one.identity for one in after.agreements] == [first.identity, second.identity]
    assert [one.agreement for one in after.agreements] == [first.body, second.body]
    assert replace(after, agreements=(), authority=before.authority) == replace(
        before, agreements=()
    )
    stated = agreeing.authority.agree(ahead, ["ana"], are_losses_stated=True)
    assert agreeing.do(stated).agreements[-1].agreement == stated.body


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ahead": 0}, Reason.NOT_VALID_AT_STEP),
        ({"vpp": "nobody"}, Reason.UNKNOWN_KEY),
        ({"vpp": "ana"}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("ana", 1, 0), Claim("none", 1, 0))}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("ana", 1, 0, "none"),)}, Reason.UNKNOWN_KEY),
        ({"claims": (Claim("ana", 1, 0), Claim("ana", 2, 0))}, Reason.MALFORMED),
        ({"losses": Fraction(1, 2), "fee": Fraction(2, 3), "fee_to": "coop"}, Reason.MALFORMED),
        ({"losses": Fraction(3, 2)}, Reason.MALFORMED),
        ({"fee": Fraction(1, 3)}, Reason.MALFORMED),
        ({"fee_to": "coop"}, Reason.MALFORMED),
        ({"losses": Fraction(1, 3), "are_losses_stated": True}, Reason.MALFORMED),
    ],
)
def test_an_agreement_that_contradicts_what_is_known_does_not_act(
    agreeing: Office, changes: dict[str, Any], reason: Reason
) -> None:
    said: dict[str, Any] = {"claims": ("ana",), "ahead": 1} | changes
    claims, ahead = said.pop("claims"), said.pop("ahead")
    with refusing(reason):
        agreeing.do(agreeing.authority.agree(agreeing.state.step + ahead, claims, **said))


def test_an_agreement_is_of_steps_to_come(agreeing: Office) -> None:
    with refusing(Reason.NOT_VALID_AT_STEP, "it may be of steps to come only"):
        agreeing.do(agreeing.authority.agree(agreeing.state.step, ["ana"]))


def test_an_agreement_with_who_has_left_does_not_act(agreeing: Office) -> None:
    agreeing.do(agreeing.authority.revoke(Role.MEMBER, "bob"))
    with refusing(Reason.UNKNOWN_KEY, "no member bob"):
        agreeing.do(agreeing.authority.agree(agreeing.state.step + 1, ["ana", "bob"]))


# --- Meters whose index is read. -----------------------------------------------------------------


def test_of_an_index_one_digit_at_a_time_counts_while_it_is_young_enough(office: Office) -> None:
    reads: dict[str, Any] = {"source": CountingSource.INDEX, "lot_pulses": 1}
    [terms] = office.do(office.meter(**reads)).meters["m0"].terms
    assert terms.latch_ms == 18_000  # class B: 2 % of 15 minutes
    with refusing(Reason.LOT_ABOVE_V):
        office.do(office.meter("m1", 11, **reads | {"lot_pulses": 2}))


def test_a_re_anchor_says_which_registration_was_the_newest(office: Office) -> None:
    office.do(office.meter())
    anchored = []
    for at in (0, 1, 2):
        anchored.append(office.do(office.authority.re_anchor("m0", at, 0)).meters["m0"].anchored)
        office.do(office.meter(index_wh=at))
    assert anchored == [None, 1, 2]


def test_behind_a_re_anchor_nothing_is_known_of_what_the_display_showed(office: Office) -> None:
    meter = office.do(office.meter()).meters["m0"]
    office.state = replace(office.state, meters={"m0": replace(meter, floor=5)})
    assert office.do(office.authority.re_anchor("m0", 0, 0)).meters["m0"].floor is None


def test_a_genesis_acts_by_being_there(office: Office) -> None:
    assert act(office.state, office.authority.genesis) == office.state
