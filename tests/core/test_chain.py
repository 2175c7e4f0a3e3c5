"""The chain verdict: what may become a leaf, and why the rest may not. Never about energy."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cose, records
from cryptometer.authority_records import MeterDetails, Registration
from cryptometer.chain import follow, open_record, register_after
from cryptometer.chain_records import Batch, Ending
from cryptometer.enrolment import EnrolmentRequest
from cryptometer.errors import Reason
from cryptometer.keys import Signer
from cryptometer.record_fields import Role
from cryptometer.records import Record
from tests.core.community import CLOCK, Device, Village, flip, reseal
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of
from tests.keys import p256_signer, signer


@pytest.fixture
def village() -> Village:
    """One meter whose chain has a run start, a batch and a close, all in a block."""
    made = Village()
    made.run((8,))
    return made


def forge(device: Device, kind: str = "batch", **changes: Any) -> Record:
    """A record of the device that does not advance it: what it might have sent instead."""
    kept = vars(device).copy()
    step: int = changes.pop("at_step")
    device.signer = changes.pop("signer", device.signer)
    try:
        if kind == "batch":
            return device.batch(step, 1, **changes)
        return (device.close if kind == "close" else device.run_start)(step, **changes)
    finally:
        vars(device).update(kept)


# --- Accepted. -----------------------------------------------------------------------------------


def test_a_record_that_continues_is_accepted_and_moves_the_head(village: Village) -> None:
    before = village.state.meters["m0"].head
    sent = village.device.batch(village.next_step, 3, 4)
    record, body, meter = open_record(village.state, sent.raw)
    after = follow(meter, meter.head, record, body)
    assert body == sent.body
    assert (after.sequence, after.previous) == (before.sequence + 1, sent.identity)
    assert (before.register, after.register) == (8, 15)
    assert after.allowance_uwh == before.allowance_uwh - 7 * 100_000


def test_the_first_run_start_may_begin_at_any_register() -> None:
    village = Village()
    village.send(village.device.run_start(village.next_step, register=123_456))
    village.send(*village.device.step(village.next_step, 2))
    village.block()
    assert village.state.meters["m0"].head.register == 123_458


def test_a_record_without_energy_sense_still_continues_its_chain(village: Village) -> None:
    """Odd energy is for the energy verdict: the chain of the meter must go on."""
    step, device = village.next_step, village.device
    village.send(
        device.batch(step, 5_000),  # a lot far above V
        device.batch(step + 10**6, 1),  # a step of the far future
        device.batch(0, 1),  # and of the past
        device.batch(step, 1, registration=bytes(32)),
        device.batch(step, 1, lots=(1, 10**9, 1, 5)),
        device.batch(step, 1, lots=()),
        device.close(step, register=7),
    )


def test_a_register_reached_by_each_kind_is_where_the_next_begins(village: Village) -> None:
    step, device = village.next_step, village.device
    start = device.run_start(step, ending=Ending.UNKNOWN)
    batch = device.batch(step, 3)
    close = device.close(step)
    assert [register_after(one.body) for one in (start, batch, close)] == [8, 11, 11]  # type: ignore[arg-type]
    village.send(start, batch, close)


# --- At the door: whose record it is. ------------------------------------------------------------


def test_a_record_of_another_community_is_refused(village: Village) -> None:
    record = forge(village.device, at_step=village.next_step)
    other = records.seal(record.body, bytes(32), village.device.signer)
    with refusing(Reason.OTHER_COMMUNITY):
        open_record(village.state, other.raw)


def test_a_key_that_nobody_registered_is_refused(village: Village) -> None:
    record = reseal(forge(village.device, at_step=village.next_step), signer(99))
    with refusing(Reason.UNKNOWN_KEY, signer(99).public.thumbprint.hex()):
        open_record(village.state, record.raw)


@pytest.mark.parametrize("number", [2, 3], ids=["gateway", "vpp"])
def test_another_role_does_not_speak_for_a_meter(village: Village, number: int) -> None:
    record = reseal(forge(village.device, at_step=village.next_step), signer(number))
    with refusing(Reason.WRONG_ROLE):
        open_record(village.state, record.raw)


def test_one_meter_does_not_speak_for_another() -> None:
    village = Village(meters=2)
    record = reseal(village.devices[0].run_start(village.next_step), village.devices[1].signer)
    with refusing(Reason.WRONG_ROLE, "the key of m1 does not speak for others"):
        open_record(village.state, record.raw)


def test_the_algorithm_must_be_the_registered_one(village: Village) -> None:
    """A true P-256 signature under the key id of an Ed25519 key."""
    record = forge(village.device, at_step=village.next_step)
    key_id = village.device.signer.public.thumbprint

    class Impostor:
        public = replace(p256_signer(9).public)
        sign = staticmethod(p256_signer(9).sign)

    vars(Impostor.public)["thumbprint"] = key_id  # claims the meter's key id
    raw = cose.seal("batch", village.id, record.envelope.payload, Impostor())
    with refusing(Reason.WRONG_ALGORITHM):
        open_record(village.state, raw)


def test_a_false_signature_is_refused_before_the_payload_is_read(village: Village) -> None:
    record = forge(village.device, at_step=village.next_step)
    broken = flip(record.raw, 8 * len(record.raw) - 1)
    with refusing(Reason.BAD_SIGNATURE):
        open_record(village.state, broken)
    protected = cose.Header(
        village.device.signer.public.algorithm,
        village.device.signer.public.thumbprint,
        "batch",
        village.id,
    ).encode()
    bomb = b"\x9f" * 60_000
    raw = b"\x84\x58" + bytes([len(protected)]) + protected + b"\xa0\x59"
    raw += len(bomb).to_bytes(2, "big") + bomb + b"\x58\x40" + bytes(64)
    with refusing(Reason.BAD_SIGNATURE):
        open_record(village.state, raw)


@pytest.mark.parametrize("role", [Role.METER, Role.GATEWAY])
def test_a_meter_sends_no_other_kinds(village: Village, role: Role) -> None:
    registration = village.authority.register(Role.MEMBER, "x", signer(50).public)
    header = village.blocks[-1][-1]
    request = EnrolmentRequest(role, signer(5).public, "host", "software", 1)
    for body, community in (
        (registration.body, village.id), (header.body, village.id), (request, None),
    ):  # fmt: skip
        record = records.seal(body, community, village.device.signer)
        assert refusal_of(open_record, village.state, record.raw) in (
            Reason.UNKNOWN_KIND,
            Reason.OTHER_COMMUNITY,
        )
    with refusing(Reason.UNKNOWN_KIND, "'header'"):
        open_record(village.state, records.seal(header.body, village.id, signer(10)).raw)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.MALFORMED),
        (bytes(70_000), Reason.TOO_LARGE),
        (b"\xd2\x84", Reason.MALFORMED),
    ],
)
def test_bytes_that_are_no_record_are_refused(village: Village, raw: bytes, reason: Reason) -> None:
    with refusing(reason):
        open_record(village.state, raw)


def test_one_changed_bit_anywhere_is_refused_at_the_door(village: Village) -> None:
    raw = village.device.batch(village.next_step, 3).raw
    for bit in range(0, 8 * len(raw), 3):
        assert refusal_of(open_record, village.state, flip(raw, bit)) is not None, bit


# --- The place in the chain. ---------------------------------------------------------------------


def chain_verdict(village: Village, record: Record) -> None:
    found, body, meter = open_record(village.state, record.raw)
    follow(meter, meter.head, found, body)


def test_yesterdays_record_is_a_repeat(village: Village) -> None:
    for leaf in village.blocks[-1][:-1]:
        with refusing(Reason.REPEAT, "is taken"):
            chain_verdict(village, leaf)


def test_another_record_at_a_place_that_is_taken_is_a_repeat_too(village: Village) -> None:
    """Whether it is the same or a fork, the caller tells from its identity."""
    with refusing(Reason.REPEAT):
        chain_verdict(village, forge(village.device, at_step=village.next_step, sequence=1))


def test_a_record_that_comes_too_early_is_a_gap(village: Village) -> None:
    sent = [village.device.batch(village.next_step, 1) for _ in range(3)]
    with refusing(Reason.GAP, "sequence 4, expected 3"):
        chain_verdict(village, sent[1])
    village.send(*sent)


def test_a_record_that_names_another_as_the_one_before_is_a_fork(village: Village) -> None:
    with refusing(Reason.FORK):
        chain_verdict(village, forge(village.device, at_step=village.next_step, previous=bytes(32)))


def test_a_first_record_names_any_registration_of_its_key() -> None:
    """A device signs before it can hear that it is registered anew; what it has signed stands."""
    village = Village()
    step = village.next_step
    other = p256_signer(77)
    newer = [
        village.authority.register(Role.METER, "m0", key.public, details_of(village), step)
        for key in (village.device.signer, other)
    ]
    village.govern(*newer)
    village.block()
    first, again, replaced = [one.registration for one in village.state.meters["m0"].terms]
    for key, named, holds in (
        (village.device.signer, first, True),
        (village.device.signer, again, True),
        (village.device.signer, replaced, False),
        (other, replaced, True),
        (other, first, False),
        (other, village.gateway_registration.identity, False),
    ):
        village.device.signer = key
        start = forge(village.device, "run-start", at_step=village.next_step, previous=named)
        if holds:
            chain_verdict(village, start)
        else:
            with refusing(Reason.FORK):
                chain_verdict(village, start)


def test_of_two_registrations_only_one_begins_the_chain() -> None:
    village = Village()
    again = village.authority.register(
        Role.METER, "m0", village.device.signer.public, details_of(village), village.next_step
    )
    village.govern(again)
    village.block()
    other = forge(village.device, "run-start", at_step=village.next_step, previous=again.identity)
    village.send(village.device.run_start(village.next_step))
    with refusing(Reason.REPEAT):
        village.send(other)
    village.run((3,))
    assert village.state.meters["m0"].head.sequence == 3


def test_a_re_anchored_chain_without_records_begins_from_no_registration() -> None:
    village = Village()
    village.govern(village.authority.re_anchor("m0", 0, 5))
    village.block()
    start = forge(village.device, "run-start", at_step=village.next_step, register=5)
    with refusing(Reason.FORK):
        chain_verdict(village, start)


def details_of(village: Village) -> MeterDetails:
    body = village.blocks[0][-2].body
    assert isinstance(body, Registration)
    assert body.meter is not None
    return body.meter


@pytest.mark.parametrize("register", [0, 7, 9])
@pytest.mark.parametrize("kind", ["batch", "run-start"])
def test_a_record_that_starts_from_another_register_is_refused(
    village: Village, kind: str, register: int
) -> None:
    with refusing(Reason.REGISTER_MISMATCH, "expected 8"):
        chain_verdict(
            village, forge(village.device, kind, at_step=village.next_step, register=register)
        )


@pytest.mark.parametrize("register", [7, 9])
def test_a_close_at_another_register_is_refused(village: Village, register: int) -> None:
    record = forge(village.device, "close", at_step=village.next_step, register_after=register)
    with refusing(Reason.REGISTER_MISMATCH):
        chain_verdict(village, record)


@pytest.mark.parametrize("kind", ["batch", "close"])
def test_a_chain_begins_with_a_run_start(kind: str) -> None:
    village = Village()
    with refusing(Reason.REGISTER_MISMATCH, "begins with a run start"):
        chain_verdict(village, forge(village.device, kind, at_step=village.next_step))


def test_more_energy_than_the_meter_gives_in_its_life_is_implausible(village: Village) -> None:
    """3 · 230 V · 65 A for five years of 8766 h; 0.1 Wh per pulse; 8 pulses are spent."""
    pulses = 3 * 230 * 65 * 5 * 8766 * 10 - 8
    chain_verdict(village, forge(village.device, at_step=village.next_step, lots=(pulses, 5)))
    with refusing(Reason.IMPLAUSIBLE, f"{pulses + 1} pulses more than m0 can give"):
        chain_verdict(
            village, forge(village.device, at_step=village.next_step, lots=(pulses + 1, 5))
        )


def test_a_register_that_no_record_could_go_on_from_is_implausible() -> None:
    village = Village()
    village.send(village.device.run_start(village.next_step, register=2**61 - 3))
    village.send(village.device.batch(village.next_step, 3))
    with refusing(Reason.IMPLAUSIBLE):
        village.send(village.device.batch(village.next_step, 1))


# --- Revoked and re-anchored. --------------------------------------------------------------------


def test_a_revoked_chain_ends_with_the_record_that_the_revocation_names(village: Village) -> None:
    sent = [village.device.batch(village.next_step, 1) for _ in range(3)]
    village.govern(village.authority.revoke(Role.METER, "m0", sent[1]))
    village.block()
    village.send(*sent[:2])
    with refusing(Reason.REVOKED, "m0"):
        village.send(sent[2])


def test_a_chain_that_was_revoked_whole_ends_at_once(village: Village) -> None:
    village.govern(village.authority.revoke(Role.METER, "m0"))
    village.block()
    with refusing(Reason.REVOKED):
        village.send(village.device.batch(village.next_step, 1))


def test_a_new_key_goes_on_where_a_revoked_one_ended(village: Village) -> None:
    device = village.device
    village.govern(village.authority.revoke(Role.METER, "m0", village.blocks[-1][-2]))
    again = village.authority.register(
        Role.METER, "m0", signer(60).public, details_of(village), village.next_step
    )
    village.govern(again)
    village.block()
    with refusing(Reason.REVOKED):
        village.send(forge(device, at_step=village.next_step))
    device.signer, device.registration = signer(60), again.identity
    village.send(*device.step(village.next_step, 5))
    assert village.block().verdicts[0].reason is None


def test_a_key_that_is_registered_again_after_its_revocation_goes_on(village: Village) -> None:
    village.govern(village.authority.revoke(Role.METER, "m0", village.blocks[-1][-2]))
    village.block()
    with refusing(Reason.REVOKED):
        village.send(forge(village.device, at_step=village.next_step))
    key = village.device.signer.public
    again = village.authority.register(
        Role.METER, "m0", key, details_of(village), village.next_step
    )
    village.govern(again)
    village.block()
    village.device.registration = again.identity
    village.send(*village.device.step(village.next_step, 5))
    assert [verdict.reason for verdict in village.block().verdicts] == [None, None]


def succeed(village: Village) -> Signer:
    """Registers another key for m0; returns it."""
    key = p256_signer(60)
    details = details_of(village)
    village.govern(
        village.authority.register(Role.METER, "m0", key.public, details, village.next_step)
    )
    village.block()
    return key


def test_a_new_key_goes_on_with_the_chain_and_the_old_one_has_said_its_last(
    village: Village,
) -> None:
    device = village.device
    key = succeed(village)
    village.send(device.batch(village.next_step, 1))  # waited on the board while the key changed
    old, device.signer = device.signer, key
    village.send(device.batch(village.next_step, 1))
    with refusing(Reason.REVOKED, "another key of m0 has taken over"):
        village.send(forge(device, at_step=village.next_step, signer=old))
    village.send(device.close(village.next_step))
    assert [verdict.reason for verdict in village.block().verdicts] == [None] * 3
    with refusing(Reason.REVOKED):
        village.send(forge(device, at_step=village.next_step, signer=old))
    village.govern(village.authority.re_anchor("m0", device.sequence, device.register))
    village.block()
    with refusing(Reason.REVOKED):
        village.send(forge(device, at_step=village.next_step, signer=old))


def test_a_key_that_is_registered_again_takes_over_again(village: Village) -> None:
    device, old = village.device, village.device.signer
    device.signer = succeed(village)
    village.send(device.batch(village.next_step, 1))
    village.govern(
        village.authority.register(
            Role.METER, "m0", old.public, details_of(village), village.next_step
        )
    )
    village.block()
    device.signer = old
    village.send(device.batch(village.next_step, 1))


def test_a_re_anchored_chain_goes_on_from_its_new_place_only(village: Village) -> None:
    device = village.device
    stale = forge(device, at_step=village.next_step + 1)
    anchor = village.authority.re_anchor("m0", device.sequence + 5, 1_000)
    village.govern(anchor)
    village.block()
    with refusing(Reason.REPEAT):
        village.send(stale)
    device.go_on_from(anchor)
    with refusing(Reason.FORK):
        village.send(forge(device, at_step=village.next_step, previous=stale.identity))
    with refusing(Reason.REGISTER_MISMATCH, "expected 1000"):
        village.send(forge(device, at_step=village.next_step, register=8))
    village.send(*device.step(village.next_step, 3))
    village.block()
    assert village.state.meters["m0"].registered_uwh == 11 * 100_000


# --- Whatever comes. -----------------------------------------------------------------------------

SEED = Village()
SEED.run((8,))


@examples(150)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "sequence": st.integers(0, 6),
            "previous": st.sampled_from([bytes(32), SEED.device.previous]),
            "register": st.integers(0, 12) | st.just(2**61),
            "at_step": st.integers(0, 2**40),
            "lots": st.sampled_from([(), (3, 5), (1, 9, 8, 1), (2**62, 1), (7, 2**62)]),
            "marks": st.just((9, 2**63 - 1)),
        },
    )
)
def test_only_the_one_continuation_is_accepted(changes: dict[str, Any]) -> None:
    record = forge(SEED.device, **{"at_step": SEED.next_step} | changes)
    body = record.body
    assert isinstance(body, Batch)
    head = SEED.state.meters["m0"].head
    fits = (body.sequence, body.previous, body.register) == (
        head.sequence, head.previous, head.register,
    ) and sum(body.pulses) * 100_000 <= head.allowance_uwh  # fmt: skip
    verdict = refusal_of(chain_verdict, SEED, record)
    assert (verdict is None) == fits
    assert verdict in {
        None, Reason.REPEAT, Reason.GAP, Reason.FORK, Reason.REGISTER_MISMATCH, Reason.IMPLAUSIBLE,
    }  # fmt: skip
    assert body.clock == CLOCK
