"""What a device believes of its community, and what it refuses."""

from dataclasses import replace
from fractions import Fraction

import pytest

from cryptometer import cbor, records
from cryptometer.authority_records import CountingSource
from cryptometer.enrolment import Broker, Bundle
from cryptometer.errors import ConfigurationError, Reason
from cryptometer.record_fields import Role
from cryptometer.steps import step_start_ms
from firmware.enrolment import Enrolment, check_meter, check_source, read_bundle, read_update
from tests.core.community import DETAILS, FIRST_STEP, LOT_PULSES, STEP_S, Authority, flip
from tests.core.strategies import refusal_of
from tests.firmware.kit import Office
from tests.keys import signer

KEY = signer(10).public


def enrolled(**changes: object) -> Enrolment:
    office = Office()
    details = replace(DETAILS, **changes)  # type: ignore[arg-type]
    return read_bundle(office.bundle(office.register(details=details)), None, KEY)


def update(*sent: records.Record) -> bytes:
    return cbor.encode([record.raw for record in sent])


def test_a_bundle_says_all_a_device_needs() -> None:
    office = Office()
    registration = office.register(from_step=FIRST_STEP + 5)
    enrolment = read_bundle(office.bundle(registration), None, KEY)
    assert enrolment.meter == "m0"
    assert enrolment.registered == ((FIRST_STEP + 5, registration.identity),)
    assert enrolment.community.id == office.id
    assert enrolment.community.keys_of(Role.GATEWAY) == [office.gateway.public]
    assert enrolment.registration.identity == registration.identity
    assert enrolment.details == DETAILS
    assert enrolment.broker == Broker("mqtt://127.0.0.1:1883")
    assert (enrolment.anchors, enrolment.revoked) == ((), False)


def test_the_terms_follow_from_the_registration() -> None:
    office = Office()
    registration = office.register(from_step=FIRST_STEP + 5)
    terms = read_bundle(office.bundle(registration), None, KEY).terms
    assert (terms.step_s, terms.lot_pulses, terms.coarse) == (STEP_S, LOT_PULSES, False)
    assert terms.first_ms == step_start_ms(FIRST_STEP + 5, STEP_S)
    assert terms.pulse_ns == int(Fraction(1, 10) * 3600 * 10**9 / 44_850)


def test_a_newer_registration_acts_from_its_first_step_on() -> None:
    office = Office()
    first = office.register()
    second = office.register(details=replace(DETAILS, lot_pulses=4), from_step=FIRST_STEP + 9)
    third = office.register(details=replace(DETAILS, lot_pulses=6), from_step=FIRST_STEP + 5)
    enrolment = read_bundle(office.bundle(first), update(second, third), KEY)
    assert enrolment.registration.identity == third.identity
    assert enrolment.registered == (
        (FIRST_STEP, first.identity),
        (FIRST_STEP + 9, second.identity),
        (FIRST_STEP + 5, third.identity),
    )
    terms = enrolment.terms
    assert terms.first_ms == step_start_ms(FIRST_STEP, STEP_S)
    acting = [terms.at(FIRST_STEP + later).lot_pulses for later in (-1, 0, 4, 5, 9)]
    assert acting == [LOT_PULSES, LOT_PULSES, LOT_PULSES, 6, 6]


def test_a_correction_that_reaches_back_replaces_what_it_corrects() -> None:
    office = Office()
    first = office.register(from_step=FIRST_STEP + 5)
    second = office.register(details=replace(DETAILS, lot_pulses=4))
    terms = read_bundle(office.bundle(first), update(second), KEY).terms
    assert terms.first_ms == step_start_ms(FIRST_STEP, STEP_S)
    assert [terms.at(FIRST_STEP + later).lot_pulses for later in (0, 4, 5, 9)] == [4, 4, 4, 4]


def test_a_registration_of_another_key_for_the_meter_is_not_ours() -> None:
    office = Office()
    first = office.register()
    other = office.register(key=11)
    enrolment = read_bundle(office.bundle(first), update(other), KEY)
    assert enrolment.registration.identity == first.identity


def test_re_anchors_are_kept_in_order_and_those_of_others_left_out() -> None:
    office = Office()
    first = office.register()
    anchors = [office.authority.re_anchor(name, 5, 50) for name in ("m0", "m1", "m0")]
    enrolment = read_bundle(office.bundle(first), update(*reversed(anchors)), KEY)
    assert [one.identity for one in enrolment.anchors] == [
        anchors[0].identity,
        anchors[2].identity,
    ]


def test_a_revoked_meter_knows_it_until_it_is_registered_again() -> None:
    office = Office()
    first = office.register()
    revocation = office.authority.revoke(Role.METER, "m0")
    assert read_bundle(office.bundle(first), update(revocation), KEY).revoked
    again = office.register()
    assert not read_bundle(office.bundle(first), update(revocation, again), KEY).revoked
    others = office.authority.revoke(Role.METER, "m1")
    assert not read_bundle(office.bundle(first), update(others), KEY).revoked


def test_an_update_may_repeat_what_the_bundle_holds() -> None:
    office = Office()
    first = office.register()
    enrolment = read_bundle(office.bundle(first), update(first, first), KEY)
    assert len(enrolment.community.records) == 2


# --- Refused -------------------------------------------------------------------------------------


def test_a_bundle_for_another_device_is_refused() -> None:
    office = Office()
    bundle = office.bundle(office.register())
    assert refusal_of(read_bundle, bundle, None, signer(11).public) is Reason.UNKNOWN_KEY


def test_a_bundle_that_names_another_meter_is_refused() -> None:
    office = Office()
    bundle = office.bundle(office.register(), name="m1")
    assert refusal_of(read_bundle, bundle, None, KEY) is Reason.UNKNOWN_KEY


def test_a_bundle_that_the_authority_did_not_sign_is_refused() -> None:
    office = Office()
    bundle = office.bundle(office.register(), key=7)
    assert refusal_of(read_bundle, bundle, None, KEY) is Reason.UNKNOWN_KEY


def test_a_bundle_of_another_community_is_refused() -> None:
    office = Office()
    other = Authority(signer(1), name="elsewhere")
    registration = office.register()
    body = Bundle("m0", office.authority.genesis.raw, (registration.raw,), Broker("mqtt://a:1"))
    bundle = records.seal(body, other.genesis.identity, signer(1)).raw
    assert refusal_of(read_bundle, bundle, None, KEY) is Reason.OTHER_COMMUNITY


def test_a_registration_from_another_community_does_not_enrol() -> None:
    office = Office()
    other = Office(name="elsewhere")
    foreign = other.register()
    assert refusal_of(read_bundle, office.bundle(foreign), None, KEY) is Reason.OTHER_COMMUNITY


def test_a_record_that_is_no_bundle_is_refused() -> None:
    office = Office()
    registration = office.register()
    assert refusal_of(read_bundle, registration.raw, None, KEY) is Reason.UNKNOWN_KIND


def test_an_update_that_the_authority_did_not_sign_is_refused() -> None:
    office = Office()
    first = office.register()
    forged = records.seal(first.body, office.id, signer(7))
    forged = records.seal(
        replace(first.body, sequence=9),  # type: ignore[arg-type]
        office.id,
        signer(7),
    )
    bundle = office.bundle(first)
    assert refusal_of(read_bundle, bundle, update(forged), KEY) is Reason.UNKNOWN_KEY


@pytest.mark.parametrize("data", ["80", "81", "8101", "816161", "a0", "f6", "", "818140"])
def test_what_is_no_array_of_records_is_no_update(data: str) -> None:
    raw = bytes.fromhex(data)
    if data == "80":
        assert read_update(raw) == ()
        return
    assert refusal_of(read_update, raw) in (Reason.MALFORMED, Reason.NOT_CANONICAL)


def test_two_authority_records_with_one_number_are_refused() -> None:
    office = Office()
    first = office.register()
    fork = records.seal(
        replace(first.body, name="m1"),  # type: ignore[arg-type]
        office.id,
        signer(1),
    )
    bundle = office.bundle(first)
    assert refusal_of(read_bundle, bundle, update(fork), KEY) is Reason.WRONG_ORDER


def test_a_bit_changed_anywhere_in_a_bundle_is_refused() -> None:
    office = Office()
    bundle = office.bundle(office.register())
    accepted = [
        bit
        for bit in range(0, 8 * len(bundle), 5)
        if refusal_of(read_bundle, flip(bundle, bit), None, KEY) is None
    ]
    assert accepted == []


# --- What this program can count -----------------------------------------------------------------


def test_a_meter_of_fine_pulses_is_accepted() -> None:
    check_meter(enrolled())


def test_a_meter_of_coarse_pulses_stops_the_start_and_names_what_would_do() -> None:
    coarse = enrolled(constant=Fraction(1_000), lot_pulses=1)
    with pytest.raises(ConfigurationError, match=r"at least 1160 pulses/kWh.*accept_coarse"):
        check_meter(coarse)


def test_a_coarse_meter_that_the_authority_accepted_is_counted() -> None:
    accepted = enrolled(constant=Fraction(1_000), lot_pulses=1, coarse=True)
    check_meter(accepted)
    assert accepted.terms.coarse
    with pytest.raises(ConfigurationError, match="at most 1"):
        check_meter(enrolled(constant=Fraction(1_000), lot_pulses=2, coarse=True))


def test_a_registration_with_lots_above_v_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"allows 9 pulses per lot.*at most 8"):
        check_meter(enrolled(lot_pulses=LOT_PULSES + 1))


def test_a_line_of_another_kind_than_registered_stops_the_program() -> None:
    index = enrolled(source=CountingSource.INDEX, lot_pulses=1)
    check_meter(index)
    check_source(index, is_index=True)
    with pytest.raises(ConfigurationError, match=r"its index, and .* its pulses"):
        check_source(index, is_index=False)
    with pytest.raises(ConfigurationError, match=r"its pulses, and .* its index"):
        check_source(enrolled(), is_index=True)


def test_of_an_index_the_registration_says_unit_power_and_how_old_it_may_be() -> None:
    index = enrolled(source=CountingSource.INDEX, lot_pulses=1, constant=Fraction(1_000))
    assert index.unit_uwh == 10**6
    assert index.power_w == 53_820  # 65 A on three phases of 230 V, and a fifth
    assert (index.terms.latch_ms, enrolled().terms.latch_ms) == (18_000, None)
