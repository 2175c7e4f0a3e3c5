"""Who signs two records for one place is found by anyone who is given both."""

from dataclasses import replace

import pytest

from cryptometer import records
from cryptometer.equivocation import equivocation
from cryptometer.errors import Reason
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Agreement
from tests.core.community import Village, reseal
from tests.core.refusing import refusing
from tests.core.test_distribution import agreed, create
from tests.keys import p256_signer, signer


@pytest.fixture(name="village", scope="module")
def _village() -> Village:
    village = agreed()
    create(village, 15, 10)
    village.share()
    village.block()
    return village


def leaf(village: Village, kind: str) -> Record:
    """The newest leaf of a kind."""
    return next(
        record for block in reversed(village.blocks) for record in block if kind == record.body.KIND
    )


def registration(village: Village, name: str) -> Record:
    for raw in village.leaves:
        record = records.decode(raw)
        if getattr(record.body, "name", None) == name and record.body.KIND == "registration":
            return record
    raise LookupError(name)


def test_a_plant_that_gives_two_distributions_for_one_place_is_found(village: Village) -> None:
    first = leaf(village, "distribution")
    second = reseal(first, village.vpp, surplus_uwh=5)
    found = equivocation(first, second, [], village.community())
    assert found.signer == "the virtual power plant vpp"
    assert found.place == "record 0 of its chain"
    assert (found.first, found.second) == (first, second)


def test_a_gateway_that_makes_two_blocks_of_one_step_is_found(village: Village) -> None:
    first = leaf(village, "header")
    second = reseal(first, village.gateway, sealed_ms=first.body.sealed_ms + 1)  # type: ignore[union-attr]
    found = equivocation(first, second, [], village.community())
    assert (found.signer, found.place) == (
        "a gateway", f"the block of step {village.state.step}",
    )  # fmt: skip


def test_an_authority_that_writes_its_chain_twice_is_found(village: Village) -> None:
    first = leaf(village, "agreement")
    assert isinstance(first.body, Agreement)
    second = reseal(first, village.authority.signer, surplus_to="me")
    found = equivocation(first, second, [], village.community())
    assert (found.signer, found.place) == (
        "the authority", f"record {first.body.sequence} of its chain",
    )  # fmt: skip


def test_a_device_that_signs_two_records_for_one_place_is_found(village: Village) -> None:
    first = leaf(village, "batch")
    second = reseal(first, village.device.signer, lots=(1, 1_000))
    own = registration(village, "m0")
    found = equivocation(first, second, [own], village.community())
    assert found.signer == "the meter m0"
    assert found.place == f"record {first.body.sequence} of its chain"  # type: ignore[union-attr]
    with refusing(Reason.UNKNOWN_KEY, "the meter m0", "carries one"):
        equivocation(first, second, [], village.community())
    with refusing(Reason.UNKNOWN_KEY):
        equivocation(first, second, [registration(village, "m1")], village.community())
    with refusing(Reason.BAD_SIGNATURE):
        forged = replace(own, envelope=replace(own.envelope, signature=bytes(64)))
        equivocation(first, second, [forged], village.community())


def test_who_signs_in_a_meter_s_name_is_no_evidence_against_it(village: Village) -> None:
    other = village.devices[1].signer
    first, second = (reseal(leaf(village, "batch"), other, lots=(1, at)) for at in (1_000, 2_000))
    assert getattr(first.body, "meter", "") == "m0"
    given = [registration(village, "m0"), registration(village, "m1")]
    with refusing(Reason.UNKNOWN_KEY, "not known as the meter m0's"):
        equivocation(first, second, given, village.community())


def test_of_registrations_only_those_of_the_meter_are_looked_at(village: Village) -> None:
    first = leaf(village, "batch")
    second = reseal(first, village.device.signer, lots=(1, 1_000))
    own, other = registration(village, "m0"), registration(village, "m1")
    elsewhere = [
        records.seal(one.body, bytes(32), village.authority.signer) for one in (own, other)
    ]
    found = equivocation(first, second, [elsewhere[1], own], village.community())
    assert found.signer == "the meter m0"
    with refusing(Reason.OTHER_COMMUNITY, "a registration"):
        equivocation(first, second, [elsewhere[0], own], village.community())


def test_a_device_may_use_a_number_again_behind_a_re_anchor(village: Village) -> None:
    first = leaf(village, "batch")
    second = reseal(first, village.device.signer, previous=bytes(32))
    with refusing(Reason.BAD_PROOF, "re-anchor"):
        equivocation(first, second, [registration(village, "m0")], village.community())


def test_one_statement_signed_twice_is_no_evidence() -> None:
    """ECDSA gives another signature each time; the record's identity is the same."""
    village = agreed()
    village.govern(village.authority.register(Role.VPP, "vpp", p256_signer(9).public))
    community = village.community()
    create(village, 8)
    village.vpp = p256_signer(9)
    village.block()
    create(village, 8)
    first, *_ = village.share()
    again = reseal(first, village.vpp)
    assert again.raw != first.raw
    newer = replace(
        community,
        records=(*community.records, registration(village, "vpp"), village.blocks[-1][0]),
    )
    with refusing(Reason.BAD_PROOF, "the same"):
        equivocation(first, again, [], newer)
    with refusing(Reason.UNKNOWN_KEY, "community.pub does not have it"):
        equivocation(first, again, [], community)
    found = equivocation(first, reseal(first, village.vpp, fee_uwh=1), [], newer)
    assert found.signer == "the virtual power plant vpp"


def test_records_of_two_places_keys_or_communities_are_no_evidence(village: Village) -> None:
    community = village.community()
    first = leaf(village, "distribution")
    with refusing(Reason.BAD_PROOF, "a place of its own"):
        equivocation(first, reseal(first, village.vpp, sequence=1), [], community)
    with refusing(Reason.UNKNOWN_KEY):
        equivocation(first, reseal(first, signer(900), fee_uwh=1), [], community)
    with refusing(Reason.BAD_PROOF, "same key"):
        equivocation(first, leaf(village, "header"), [], community)
    elsewhere = Village(name="Another street").community()
    with refusing(Reason.OTHER_COMMUNITY):
        equivocation(first, reseal(first, village.vpp, fee_uwh=1), [], elsewhere)
    with refusing(Reason.BAD_PROOF, "genesis"):
        equivocation(village.authority.genesis, first, [], community)


def test_a_forged_record_is_no_evidence_against_anyone(village: Village) -> None:
    first = leaf(village, "distribution")
    second = reseal(first, village.vpp, fee_uwh=1)
    forged = replace(second, envelope=replace(second.envelope, signature=first.envelope.signature))
    with refusing(Reason.BAD_SIGNATURE):
        equivocation(first, forged, [], village.community())


def test_a_revoked_plant_is_found_as_well(village: Village) -> None:
    community = village.community()
    revoked = village.authority.revoke(Role.VPP, "vpp")
    later = replace(community, records=(*community.records, revoked))
    first = leaf(village, "distribution")
    found = equivocation(first, reseal(first, village.vpp, fee_uwh=1), [], later)
    assert found.place == "record 0 of its chain"
