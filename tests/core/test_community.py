"""community.pub: whom to trust, from one file that came from outside."""

import base64
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import note, records
from cryptometer.community import Community, decode_community, encode_community, trust
from cryptometer.errors import Reason
from cryptometer.merkle import EMPTY_ROOT
from cryptometer.record_fields import Checkpoint, Role
from tests.core.community import Authority, Village, flip, reseal, sign_head
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of
from tests.keys import p256_signer, signer

VILLAGE = Village()
PUB = encode_community(VILLAGE.community())


def packed(*raws: Any) -> str:
    """A community.pub with this content, whatever it is."""
    body = base64.b64encode(cbor2.dumps(list(raws), canonical=True)).decode()
    return (
        "-----BEGIN CRYPTOMETER COMMUNITY-----\n" + body + "\n-----END CRYPTOMETER COMMUNITY-----\n"
    )


def test_a_community_survives_its_file() -> None:
    community = decode_community(PUB)
    assert community.id == VILLAGE.id
    assert community == VILLAGE.community()
    assert encode_community(community) == PUB
    assert community.origin == f"cryptometer/1/{VILLAGE.id.hex()}"
    assert community.parameters.name == "Rue des Tilleuls"


def test_the_file_has_its_golden_form() -> None:
    lines = PUB.splitlines()
    assert lines[:3] == [
        "Rue des Tilleuls", VILLAGE.id.hex(), "-----BEGIN CRYPTOMETER COMMUNITY-----",
    ]  # fmt: skip
    assert lines[-1] == "-----END CRYPTOMETER COMMUNITY-----"
    assert {len(line) for line in lines[3:-2]} == {64}


def test_only_what_stands_between_the_markers_is_believed() -> None:
    """The lines for people may say anything, an email may stand around it, lines may be wrapped."""
    body = PUB.partition("-----BEGIN")[2].partition("-----BEGIN")[0]
    around = f"Dear neighbour,\n{bytes(32).hex()}\n> \n-----BEGIN{body}\nyours\n"
    assert decode_community(around).id == VILLAGE.id
    assert decode_community(PUB.replace("\n", "\r\n")).id == VILLAGE.id


def test_where_a_text_holds_two_communities_the_first_counts() -> None:
    other = encode_community(Village(name="elsewhere").community())
    assert decode_community(PUB + other).id == VILLAGE.id


def test_keys_are_found_by_role_the_newest_first() -> None:
    authority = Authority(signer(1))
    gateways = [authority.register(Role.GATEWAY, "gw", signer(n).public) for n in (20, 21)]
    other = authority.register(Role.VPP, "vpp", signer(22).public)
    community = trust(authority.genesis.raw, [one.raw for one in (*gateways, other)])
    assert community.keys_of(Role.GATEWAY) == [signer(21).public, signer(20).public]
    assert community.keys_of(Role.VPP) == [signer(22).public]
    assert community.keys_of(Role.METER) == []


def renewed() -> Community:
    """A community whose gateway `gw` was revoked, and registered again with another key."""
    authority = Authority(signer(1))
    others = [
        authority.register(Role.GATEWAY, "gw", signer(20).public),
        authority.register(Role.GATEWAY, "spare", signer(21).public),
        authority.register(Role.VPP, "vpp", signer(22).public),
        authority.revoke(Role.GATEWAY, "gw"),
        authority.register(Role.GATEWAY, "gw", signer(23).public),
    ]
    return trust(authority.genesis.raw, [one.raw for one in others])


def test_a_key_that_a_revocation_has_ended_is_found_only_where_it_is_asked_for() -> None:
    community = renewed()
    ended, spare, again = (signer(n).public for n in (20, 21, 23))
    assert community.keys_of(Role.GATEWAY) == [again, spare]
    assert community.keys_of(Role.GATEWAY, revoked=True) == [again, spare, ended]
    assert community.keys_of(Role.VPP) == [signer(22).public]


def test_a_maker_is_known_by_each_key_it_ever_had_and_nobody_else_is() -> None:
    community = renewed()
    for key in (signer(n).public for n in (20, 21, 23)):
        assert community.maker_keys()[key.thumbprint] == key
    for other in (signer(1).public.thumbprint, signer(22).public.thumbprint, b""):
        assert other not in community.maker_keys()


def test_a_checkpoint_of_a_revoked_gateway_opens_only_where_it_is_asked_for() -> None:
    community = renewed()
    signed = sign_head([b"leaf"], community.origin, signer(20)).encode()
    with refusing(Reason.UNKNOWN_KEY):
        community.open_checkpoint(signed)
    assert community.open_checkpoint(signed, revoked=True).size == 1


def test_a_checkpoint_of_any_registered_gateway_opens() -> None:
    authority = Authority(signer(1))
    raws = [authority.register(Role.GATEWAY, f"g{n}", signer(n).public).raw for n in (20, 21)]
    community = trust(authority.genesis.raw, raws)
    for number in (20, 21):
        signed = sign_head([b"leaf"], community.origin, signer(number))
        assert community.open_checkpoint(signed.encode()).size == 1
    with refusing(Reason.UNKNOWN_KEY):
        community.open_checkpoint(sign_head([b"leaf"], community.origin, signer(22)).encode())
    with refusing(Reason.UNKNOWN_KEY):
        community.open_checkpoint(sign_head([b"leaf"], "another-log", signer(20)).encode())
    broken = sign_head([b"leaf"], community.origin, signer(20)).replace("\n1\n", "\n2\n")
    with refusing(Reason.BAD_SIGNATURE):
        community.open_checkpoint(broken.encode())


def test_a_p256_gateway_signs_no_checkpoints() -> None:
    """Notes are Ed25519 only; a note made by hand as if they were not is passed over. Another
    gateway of the community still signs them."""
    authority, by = Authority(signer(1)), p256_signer(20)
    another = authority.register(Role.GATEWAY, "another", signer(21).public)
    registered = authority.register(Role.GATEWAY, "gw", by.public)
    community = trust(authority.genesis.raw, [another.raw, registered.raw])
    theirs = sign_head([b"leaf"], community.origin, signer(21))
    assert community.open_checkpoint(theirs.encode()).size == 1
    text = f"{community.origin}\n1\n{base64.b64encode(bytes(32)).decode()}\n"
    data = note.Verifier(community.origin, by.public).key_id + by.sign(text.encode())
    signed = f"{text}\n\u2014 {community.origin} {base64.b64encode(data).decode()}\n"
    with refusing(Reason.UNKNOWN_KEY):
        community.open_checkpoint(signed.encode())


def test_without_a_gateway_nothing_opens() -> None:
    community = trust(VILLAGE.authority.genesis.raw, [])
    with refusing(Reason.UNKNOWN_KEY, "names no gateway"):
        community.open_checkpoint(VILLAGE.checkpoint().encode())


def test_the_state_of_a_community_is_that_before_its_first_block() -> None:
    state = decode_community(PUB).state
    assert state.checkpoint == Checkpoint(0, EMPTY_ROOT)
    assert (state.meters, state.parties) == ({}, {})


# --- Refused. ------------------------------------------------------------------------------------

GENESIS = VILLAGE.authority.genesis
GATEWAY = VILLAGE.gateway_registration
VPP = VILLAGE.vpp_registration


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([VPP, GATEWAY], Reason.WRONG_ORDER),
        ([GATEWAY, GATEWAY], Reason.WRONG_ORDER),
        ([GENESIS], Reason.WRONG_ORDER),
        ([VILLAGE.blocks[0][-1]], Reason.WRONG_ORDER),
        ([reseal(GATEWAY, signer(2))], Reason.UNKNOWN_KEY),
        ([records.seal(GATEWAY.body, bytes(32), signer(1))], Reason.OTHER_COMMUNITY),
        ([records.decode(flip(GATEWAY.raw, 8 * len(GATEWAY.raw) - 1))], Reason.BAD_SIGNATURE),
    ],
)
def test_records_that_the_authority_did_not_sign_in_this_order_are_refused(
    others: list[records.Record], reason: Reason
) -> None:
    with refusing(reason):
        trust(GENESIS.raw, [one.raw for one in others])


def test_a_genesis_that_is_none_founds_no_trust() -> None:
    with refusing(Reason.UNKNOWN_KIND):
        trust(GATEWAY.raw, [])
    with refusing(Reason.UNKNOWN_KEY):
        trust(reseal(GENESIS, signer(2)).raw, [])


def test_another_genesis_is_another_community() -> None:
    other = Authority(signer(1), name="elsewhere")
    with refusing(Reason.OTHER_COMMUNITY):
        decode_community(packed(other.genesis.raw, GATEWAY.raw))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing here",
        PUB.partition("-----END")[0],
        PUB.partition("-----BEGIN")[0],
        PUB.replace("COMMUNITY", "FAMILY"),
        PUB.replace("-----\n", "-----\n!", 1),
        packed(),
        packed(1, 2),
        packed(GENESIS.raw, "text"),
        packed([GENESIS.raw]),
        "-----BEGIN CRYPTOMETER COMMUNITY-----\n-----END CRYPTOMETER COMMUNITY-----\n",
        "-----BEGIN CRYPTOMETER COMMUNITY-----\nÿ\n-----END CRYPTOMETER COMMUNITY-----\n",
        "-----BEGIN CRYPTOMETER COMMUNITY-----\noA==\n-----END CRYPTOMETER COMMUNITY-----\n",
    ],
)
def test_a_file_that_is_no_community_pub_is_malformed(text: str) -> None:
    with refusing(Reason.MALFORMED):
        decode_community(text)


@examples(200)
@given(st.data())
def test_a_mutated_file_is_refused_or_says_the_same(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PUB)))
    gone = data.draw(st.integers(0, 5))
    changed = PUB[:at] + data.draw(st.text(max_size=3)) + PUB[at + gone :]
    if refusal_of(decode_community, changed) is None:
        known: Community = decode_community(changed)
        assert (known.id, known.records) == (VILLAGE.id, VILLAGE.community().records)


@examples(200)
@given(st.binary(max_size=100))
def test_random_content_is_refused(content: bytes) -> None:
    assert refusal_of(decode_community, packed(content)) is not None
    assert refusal_of(decode_community, packed(GENESIS.raw, content)) is not None


def test_one_changed_bit_in_any_record_of_the_file_is_refused() -> None:
    for bit in range(0, 8 * len(GATEWAY.raw), 5):
        assert refusal_of(trust, GENESIS.raw, [flip(GATEWAY.raw, bit)]) is not None, bit
    for bit in range(0, 8 * len(GENESIS.raw), 5):
        assert refusal_of(trust, flip(GENESIS.raw, bit), [GATEWAY.raw]) is not None, bit
