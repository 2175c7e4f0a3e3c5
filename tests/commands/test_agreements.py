"""The TOML of an agreement: exact numbers in, claims out; faults are named, with what to do. The
examples, each with the outcome it is meant for.
"""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.agreed_terms import describe_terms
from cryptometer.authority_records import Genesis
from cryptometer.commands import roll as rolls
from cryptometer.commands.agreements import (
    Draft,
    check_parties,
    earliest,
    first_step,
    read_agreement,
)
from cryptometer.commands.roll import Roll
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import UWH_PER_KWH
from cryptometer.record_fields import Role
from cryptometer.sharing import Outcome, share
from cryptometer.sharing_records import Agreement, Claim, Method
from cryptometer.wire import decode_map, encode_map
from tests.core.community import DETAILS, FIRST_STEP
from tests.keys import signer

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
STEP_MS = 900_000
NOW_MS = (FIRST_STEP + 100) * STEP_MS + 60_000
AUTHORITY = signer(1)
GENESIS = Genesis("Rue", AUTHORITY.public, 0, FIRST_STEP, 900, 5_000, 96, 10**9, 4, 1)
MEMBERS = '[[member]]\nname = "ada"\n[[member]]\nname = "bo"\n'
KEYS = '[[member]]\nname = "ada"\nkey = {}\n[[member]]\nname = "bo"\nkey = {}\n'


def read(text: str) -> Draft:
    return read_agreement(text, "a.toml", NOW_MS)


def agreement(text: str) -> Agreement:
    return read(text).agreement(0, bytes(32), FIRST_STEP + 200)


def example(name: str) -> Agreement:
    return agreement((EXAMPLES / f"agreement-{name}.toml").read_text())


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(text)
    return str(refused.value)


def kwhs(outcome: Outcome, made: Agreement) -> dict[str, float]:
    """In kWh, by member; with what nobody has of them."""
    given = dict(zip(made.members, outcome.given, strict=True))
    rest = {"losses": outcome.losses_uwh, "fee": outcome.fee_uwh, "surplus": outcome.surplus_uwh}
    return {name: value / UWH_PER_KWH for name, value in {**given, **rest}.items() if value}


def needs(**amounts: int) -> dict[str, int]:
    return {name.replace("_", "-"): value * UWH_PER_KWH for name, value in amounts.items()}


# --- The examples. -------------------------------------------------------------------------------


def test_every_example_is_tested() -> None:
    named = {path.stem.removeprefix("agreement-") for path in EXAMPLES.glob("agreement-*.toml")}
    tested = {"pro-rata", "keys", "equal", "cascade", "rounds", "producers", "coefficients"}
    assert named == tested


def test_the_french_default_shares_by_consumption_and_no_more_than_that() -> None:
    made = example("pro-rata")
    assert made.capped
    ten = {"": 10 * UWH_PER_KWH}
    scarce = share(made, ten, needs(school=20, bakery=15, house_7=5))
    assert kwhs(scarce, made) == {"school": 5.0, "bakery": 3.75, "house-7": 1.25}
    plenty = share(made, ten, needs(school=4, bakery=3, house_7=1))
    assert kwhs(plenty, made) == {"school": 4.0, "bakery": 3.0, "house-7": 1.0, "surplus": 2.0}


def test_fixed_keys_share_whatever_is_consumed() -> None:
    made = example("keys")
    assert [claim.weight for claim in made.claims] == [4, 3, 1]  # of 50, 37.5 and 12.5
    outcome = share(made, {"": 8 * UWH_PER_KWH})
    assert kwhs(outcome, made) == {"school": 4.0, "bakery": 3.0, "house-7": 1.0}


def test_equal_parts_come_behind_losses_and_fee() -> None:
    made = example("equal")
    outcome = share(made, {"": 10 * UWH_PER_KWH})
    third = round(9.7 / 3, 9)
    assert kwhs(outcome, made) == pytest.approx(
        {"school": third, "bakery": third, "house-7": third, "losses": 0.2, "fee": 0.1}
    )
    assert outcome.energy_uwh == 10 * UWH_PER_KWH


def test_a_cascade_hands_on_what_the_first_cannot_use() -> None:
    made = example("cascade")
    outcome = share(made, {"": 9 * UWH_PER_KWH}, needs(school=4, bakery=5, house_7=9))
    # The school may have 6 and uses 4; the bakery has 3. Keys of one priority are shared once.
    assert kwhs(outcome, made) == {"school": 4.0, "bakery": 3.0, "house-7": 2.0}


def test_rounds_share_anew_what_one_cannot_use() -> None:
    made = example("rounds")
    outcome = share(made, {"": 9 * UWH_PER_KWH}, needs(school=1, bakery=3, house_7=8))
    assert kwhs(outcome, made) == {"school": 1.0, "bakery": 3.0, "house-7": 5.0}


def test_keys_of_each_producer_share_his_energy_alone() -> None:
    made = example("producers")
    energy = {"pv-school": 10 * UWH_PER_KWH, "pv-bakery": 5 * UWH_PER_KWH}
    assert kwhs(share(made, energy), made) == {"school": 8.0, "bakery": 3.0, "house-7": 4.0}


def test_coefficients_come_from_outside_and_losses_are_stated() -> None:
    made = example("coefficients")
    assert made.are_losses_stated
    ten = {"": 10 * UWH_PER_KWH}
    outcome = share(made, ten, None, (5, 3, 1), losses_uwh=UWH_PER_KWH)
    assert kwhs(outcome, made) == {"school": 5.0, "bakery": 3.0, "house-7": 1.0, "losses": 1.0}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pro-rata", "For example, of 10.000 kWh, if each of them can use all of it: bakery gets"),
        ("keys", "Of all energy: school 4 of 8, bakery 3 of 8, house-7 1 of 8."),
        ("equal", "fee to cooperative 0.100 kWh."),
        ("cascade", "Of all energy, priority 1: house-7 1 of 1."),
        ("rounds", "in up to 8 rounds"),
        ("producers", "Of the energy of pv-school, priority 0: school 80 of 100, house-7 20"),
        ("coefficients", "The weights of each step come from outside"),
    ],
)
def test_each_example_is_said_in_words(name: str, says: str) -> None:
    assert says in "\n".join(describe_terms(example(name)))


# --- The file. -----------------------------------------------------------------------------------


def test_an_agreement_is_read_exactly() -> None:
    text = (
        'vpp = "plant"\nmethod = "keys"\ncapped = true\nrounds = 3\nsurplus_to = "rest"\n'
        'losses = 0.0125\nfee = "0.5%"\nfee_to = "coop"\n[[member]]\nname = "ada"\nkey = 3\n'
        'priority = 2\nproducer = "pv"\n'
    )
    assert agreement(text) == Agreement(
        0,
        bytes(32),
        vpp="plant",
        from_step=FIRST_STEP + 200,
        method=Method.KEYS,
        capped=True,
        rounds=3,
        claims=(Claim("ada", 3, 2, "pv"),),
        surplus_to="rest",
        are_losses_stated=False,
        losses=Fraction(1, 80),
        fee=Fraction(1, 200),
        fee_to="coop",
    )


def test_whole_keys_stay_as_they_are_and_decimals_keep_their_proportions() -> None:
    def weights(first: str, second: str) -> list[int]:
        made = agreement(f'method = "keys"\nsurplus_to = "s"\n{KEYS.format(first, second)}')
        return [claim.weight for claim in made.claims]

    assert weights("20", "40") == [20, 40]
    assert weights("33.3", "66.7") == [333, 667]
    assert weights('"0.5"', "1") == [1, 2]
    assert weights("0", "1") == [0, 1]


BASE = 'method = "equal"\nsurplus_to = "s"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method = ", "a.toml is not TOML"),
        (MEMBERS, "a.toml lacks 'method': by what members share"),
        (BASE, "a.toml names its members in tables [[member]]; there is none"),
        (f"member = 3\n{BASE}", "in tables [[member]]"),
        (f"member = [3]\n{BASE}", "member 1 is not a table"),
        (f'{BASE}surplus = "x"\n{MEMBERS}', "no setting 'surplus'; did you mean 'surplus_to'"),
        (f'{BASE}[[member]]\nnam = "x"\n', "member 1 has no setting 'nam'; did you mean 'name'"),
        (f'method = "fair"\nsurplus_to = "s"\n{MEMBERS}', "method is one of equal, keys, pro-rata"),
        (f'method = "equal"\nsurplus_to = "S"\n{MEMBERS}', "surplus_to: a name has up to 63"),
        (f'{BASE}[[member]]\nname = "Ada"\n', "member 'Ada' name: a name has up to 63"),
        (f"{BASE}rounds = 0\n{MEMBERS}", "rounds is from 1 to 64, not 0"),
        (f"{BASE}rounds = 2\n{MEMBERS}", "need capped = true"),
        (f'{BASE}[[member]]\nname = "a"\npriority = 256\n', "priority is from 0 to 255, not 256"),
        (
            f'{BASE}[[member]]\nname = "a"\n[[member]]\nname = "b"\npriority = 1\n',
            "those of the first priority would get everything",
        ),
        (f'method = "pro-rata"\ncapped = false\nsurplus_to = "s"\n{MEMBERS}', "by pro-rata nobody"),
        (f"{BASE}{MEMBERS}{MEMBERS}", "member 'ada' stands there twice"),
        (f"{BASE}{KEYS.format(1, 2)}", "member 'ada' has a key, which equal does not ask"),
        (f'method = "keys"\nsurplus_to = "s"\n{MEMBERS}', "member 'ada' needs a key"),
        (f'method = "keys"\nsurplus_to = "s"\n{KEYS.format(0, 0)}', "every key is 0"),
        (f'method = "keys"\nsurplus_to = "s"\n{KEYS.format(-1, 2)}', "key is a number like 30"),
        (
            f'method = "keys"\nsurplus_to = "s"\n{KEYS.format("0.123456789", "9999999")}',
            "too many digits",
        ),
        (f'{BASE}losses = "two"\n{MEMBERS}', 'losses is a part of all, like "2 %" or 0.02'),
        (f"{BASE}losses = 2\n{MEMBERS}", "losses is a part of all"),
        (f'{BASE}fee = "1 %"\n{MEMBERS}', "fee and fee_to go together"),
        (f'{BASE}fee_to = "coop"\n{MEMBERS}', "fee and fee_to go together"),
        (
            f'{BASE}losses = "60 %"\nfee = "50 %"\nfee_to = "c"\n{MEMBERS}',
            "losses and fee are more than all there is",
        ),
        (f'{BASE}from = "soon"\n{MEMBERS}', 'from is "now" or a time with its offset'),
        (f'{BASE}from = "now"\nfrom_step = 3\n{MEMBERS}', "says its first step twice"),
    ],
)
def test_what_cannot_be_is_refused_and_named(text: str, says: str) -> None:
    assert says in refusal(text)


TEXTS = [path.read_text() for path in sorted(EXAMPLES.glob("agreement-*.toml"))]


@settings(max_examples=200, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.integers(0, 40),
    put_in=st.text(max_size=12) | st.sampled_from(["-1", "2.5", "[]", "true", "1e9", "9" * 30]),
)
def test_whatever_is_done_to_a_file_it_is_read_or_refused(
    text: str, at: float, cut: int, put_in: str
) -> None:
    begin = int(at * len(text))
    try:
        draft = read(text[:begin] + put_in + text[begin + cut :])
    except ConfigurationError:
        return
    # What was read can be signed, and its words can be said.
    made = draft.agreement(3, bytes(32), FIRST_STEP)
    assert decode_map(Agreement, encode_map(made)) == made
    assert list(describe_terms(made))


# --- When it may begin, and with whom. -----------------------------------------------------------


def roll(*roles: Role) -> Roll:
    made = rolls.found_roll(GENESIS, AUTHORITY)
    names = {Role.GATEWAY: "gw", Role.VPP: "vpp", Role.MEMBER: "ada", Role.METER: "pv"}
    for at, role in enumerate(roles):
        details = DETAILS if role is Role.METER else None
        key = signer(50 + at).public
        made = rolls.registered(made, AUTHORITY, role, names[role], key, FIRST_STEP, details)
    return made


def begins(text: str, chain: Roll) -> int:
    return first_step(read(text), chain, NOW_MS, "a.toml")


def test_left_out_it_begins_when_there_was_a_whole_step_to_hand_it_over() -> None:
    assert begins(BASE + MEMBERS, roll(Role.GATEWAY)) == FIRST_STEP + 102


def test_before_there_is_a_gateway_it_begins_behind_the_first_block() -> None:
    assert begins(BASE + MEMBERS, roll()) == FIRST_STEP + 1
    assert begins(f"{BASE}from_step = {FIRST_STEP + 1}\n{MEMBERS}", roll()) == FIRST_STEP + 1
    assert earliest(roll(), NOW_MS) == FIRST_STEP + 1


def test_a_time_means_the_step_that_holds_it() -> None:
    chain = roll(Role.GATEWAY)
    for moment in ('"2099-01-01T00:00:00+01:00"', "2099-01-01T00:00:00+01:00"):
        assert begins(f"{BASE}from = {moment}\n{MEMBERS}", chain) == 4_070_905_200 // 900


def test_nothing_is_retroactive() -> None:
    chain = roll(Role.GATEWAY)
    assert begins(f"{BASE}from_step = {FIRST_STEP + 101}\n{MEMBERS}", chain) == FIRST_STEP + 101
    for said in (f"from_step = {FIRST_STEP + 100}", 'from = "now"', "from_step = 0"):
        with pytest.raises(ConfigurationError, match="nothing is retroactive: from step"):
            begins(f"{BASE}{said}\n{MEMBERS}", chain)


def test_who_is_not_registered_is_named_with_all_others() -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_parties(read(BASE + MEMBERS), roll(Role.VPP), "a.toml")
    assert "no member is registered as ada, bo; registered are none" in str(refused.value)
    with pytest.raises(ConfigurationError, match="no vpp is registered as vpp"):
        check_parties(read(BASE + MEMBERS), roll(Role.MEMBER), "a.toml")
    one = f'{BASE}[[member]]\nname = "ada"\nproducer = "roof"\n'
    with pytest.raises(ConfigurationError, match=r"no meter is registered as roof; .* are pv"):
        check_parties(read(one), roll(Role.VPP, Role.MEMBER, Role.METER), "a.toml")
    check_parties(read(one.replace("roof", "pv")), roll(Role.VPP, Role.MEMBER, Role.METER), "a")


def test_a_member_who_is_revoked_has_no_claim() -> None:
    chain = rolls.revoked(roll(Role.VPP, Role.MEMBER), AUTHORITY, "ada", "left", None)
    with pytest.raises(ConfigurationError, match="no member is registered as ada"):
        check_parties(read(f'{BASE}[[member]]\nname = "ada"\n'), chain, "a.toml")
