"""The authority's chain: what it lets be registered, revoked and re-anchored, and what never."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.authority_records import ChainPlace, Genesis, MeterDetails
from cryptometer.commands import roll as rolls
from cryptometer.commands.roll import NAMES_ITS_KEY_MAX, Roll
from cryptometer.enrolment import AUTHORITY_RECORDS_MAX
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.record_fields import Role
from tests.core.community import DETAILS, FIRST_STEP
from tests.keys import p256_signer, signer

AUTHORITY = signer(1)
GENESIS = Genesis("Rue", AUTHORITY.public, 0, FIRST_STEP, 900, 5_000, 96, 10**9, 4, 1)


def new() -> Roll:
    return rolls.found_roll(GENESIS, AUTHORITY)


def register(
    roll: Roll, role: Role, name: str, key: int, details: MeterDetails | None = None
) -> Roll:
    public = signer(key).public
    return rolls.registered(roll, AUTHORITY, role, name, public, FIRST_STEP, details)


def meter(roll: Roll, name: str = "pv", key: int = 10, serial: str = "MID-1") -> Roll:
    return register(roll, Role.METER, name, key, replace(DETAILS, serial=serial))


def revoke(roll: Roll, name: str, last: ChainPlace | None = None) -> Roll:
    return rolls.revoked(roll, AUTHORITY, name, "stolen", last)


def test_what_was_signed_is_read_again_whole() -> None:
    roll = revoke(meter(register(new(), Role.GATEWAY, "gw", 2)), "pv")
    again = rolls.open_roll([record.raw for record in roll.records])
    assert again == roll
    assert [standing.name for standing in again.standings().values()] == ["gw", "pv"]


@pytest.mark.parametrize("change", ["swap", "drop", "repeat", "foreign"])
def test_a_chain_that_does_not_hold_is_refused(change: str) -> None:
    genesis, *others = [record.raw for record in meter(register(new(), Role.VPP, "v", 3)).records]
    foreign = rolls.found_roll(
        Genesis("Other", signer(9).public, 0, FIRST_STEP, 900, 0, 96, 1, 4, 1), signer(9)
    )
    raws = {
        "swap": [genesis, *reversed(others)],
        "drop": [genesis, others[1]],
        "repeat": [genesis, others[0], *others],
        "foreign": [foreign.records[0].raw, *others],
    }[change]
    with pytest.raises(Rejected):
        rolls.open_roll(raws)


def test_one_name_stands_for_one_party() -> None:
    roll = register(new(), Role.VPP, "solar", 3)
    with pytest.raises(ConfigurationError, match="solar is the name of a vpp"):
        meter(roll, "solar")
    with pytest.raises(ConfigurationError, match="solar is the name of a vpp"):
        meter(revoke(roll, "solar"), "solar")


def test_one_key_stands_for_one_party() -> None:
    with pytest.raises(Rejected, match="registered already, for the vpp v"):
        register(register(new(), Role.VPP, "v", 3), Role.MEMBER, "m", 3)


def test_one_serial_stands_for_one_meter() -> None:
    roll = meter(new())
    with pytest.raises(ConfigurationError, match=r"serial MID-1 counts already, as pv; .*manufact"):
        meter(roll, "other", 11)
    assert meter(roll, "pv", 11).standings()["pv"].key == signer(11).public
    assert "other" in meter(revoke(roll, "pv"), "other", 11).standings()


def test_a_revoked_key_never_comes_back() -> None:
    roll = meter(meter(new()), key=11)
    with_older_key = meter(roll, key=10)
    assert with_older_key.standings()["pv"].key == signer(10).public
    roll = revoke(roll, "pv")
    for key in (10, 11):
        with pytest.raises(ConfigurationError, match="make a new key and a new request"):
            meter(roll, key=key)
    again = meter(roll, key=12)
    assert not again.standings()["pv"].revoked
    with pytest.raises(ConfigurationError, match="revoked"):
        meter(again, key=11)


def test_who_signs_checkpoints_needs_ed25519() -> None:
    public = p256_signer(5).public
    for role in (Role.GATEWAY, Role.NODE):
        with pytest.raises(ConfigurationError, match="needs an Ed25519 key"):
            rolls.registered(new(), AUTHORITY, role, "x", public, FIRST_STEP, None)
    rolls.registered(new(), AUTHORITY, Role.METER, "x", public, FIRST_STEP, DETAILS)


def test_gateways_and_vpps_leave_room_in_a_bundle() -> None:
    roll = new()
    for number in range(NAMES_ITS_KEY_MAX):
        roll = register(roll, Role.VPP, f"v{number}", 100 + number)
    with pytest.raises(ConfigurationError, match=f"at most {NAMES_ITS_KEY_MAX} gateways and VPPs"):
        register(roll, Role.GATEWAY, "gw", 2)
    register(roll, Role.VPP, "v0", 99)  # a new key for a known one takes no room
    register(revoke(roll, "v0"), Role.GATEWAY, "gw", 2)
    assert NAMES_ITS_KEY_MAX < AUTHORITY_RECORDS_MAX


@pytest.mark.parametrize(
    "name", ["", "PV", "pv_1", "-pv", "pv-", "a/b", "pv.1", "a" * 64, "é", "+"]
)
def test_a_name_that_is_no_topic_or_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="lower-case letters, digits and inner hyphens"):
        meter(new(), name)


def test_a_revocation_that_changes_nothing_is_refused() -> None:
    roll = revoke(meter(register(new(), Role.VPP, "v", 3)), "v")
    with pytest.raises(ConfigurationError, match="v is revoked already"):
        revoke(roll, "v")
    late = revoke(roll, "pv", ChainPlace(7, bytes(32)))
    earlier = revoke(late, "pv", ChainPlace(3, bytes(32)))
    for last in (ChainPlace(3, bytes(32)), ChainPlace(9, bytes(32))):
        with pytest.raises(ConfigurationError, match="pv is revoked already"):
            revoke(earlier, "pv", last)
    with pytest.raises(ConfigurationError, match="only a meter has a last valid record"):
        revoke(roll, "v", ChainPlace(1, bytes(32)))


def test_who_is_not_registered_can_be_neither_revoked_nor_re_anchored() -> None:
    with pytest.raises(ConfigurationError, match="nobody is registered yet"):
        revoke(new(), "pv")
    roll = meter(new())
    with pytest.raises(ConfigurationError, match="nobody is registered as 'pw'; known are pv"):
        rolls.re_anchored(roll, AUTHORITY, "pw", 0, 0, "lost")


def test_only_a_meter_in_force_is_re_anchored_and_its_chain_never_goes_back() -> None:
    roll = meter(register(new(), Role.VPP, "v", 3))
    with pytest.raises(ConfigurationError, match="v is a vpp"):
        rolls.re_anchored(roll, AUTHORITY, "v", 0, 0, "lost")
    with pytest.raises(ConfigurationError, match="register it again first"):
        rolls.re_anchored(revoke(roll, "pv"), AUTHORITY, "pv", 0, 0, "lost")
    roll = rolls.re_anchored(roll, AUTHORITY, "pv", 5, 100, "lost")
    with pytest.raises(Rejected, match="cannot go back"):
        rolls.re_anchored(roll, AUTHORITY, "pv", 4, 100, "lost")
    with pytest.raises(ConfigurationError, match="the re-anchor of pv"):
        rolls.re_anchored(roll, AUTHORITY, "pv", 6, -1, "lost")
    assert len(roll.standings()["pv"].own) == 2


def test_a_parameter_out_of_range_is_named() -> None:
    with pytest.raises(ConfigurationError, match="the community's parameters: step_s"):
        rolls.found_roll(replace(GENESIS, step_s=59), AUTHORITY)
    with pytest.raises(ConfigurationError, match="before all time"):
        rolls.found_roll(replace(GENESIS, first_step=0), AUTHORITY)


_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["register", "revoke"]), st.integers(0, 2), st.integers(0, 5)),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(_ACTIONS)
def test_whatever_is_asked_for_the_rules_of_names_keys_and_serials_hold(
    actions: list[tuple[str, int, int]],
) -> None:
    roll = new()
    gone: set[int] = set()
    keys: dict[str, set[int]] = {}
    for action, number, key in actions:
        name = f"m{number}"
        before = roll
        try:
            if action == "revoke":
                roll = revoke(roll, name)
                gone |= keys.get(name, set())
            else:
                roll = meter(roll, name, 10 + key, serial=f"S{number}")
                assert key not in gone
                keys.setdefault(name, set()).add(key)
        except (ConfigurationError, Rejected):
            roll = before
        standings = roll.standings()
        assert rolls.open_roll([record.raw for record in roll.records]) == roll
        for standing in standings.values():
            assert standing.revoked == (roll.state.meters[standing.name].terms[-1].valid_to == 0)
            assert standing.revoked or standing.key not in standing.revoked_keys
        owners = [key for one in standings.values() for key in one.keys]
        assert len(owners) == len(set(owners)), "no key has two owners"
