"""Proofs that travel: one record, one file, and only the community's public keys."""

import base64
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import proof, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.chain_records import Batch
from cryptometer.community import trust
from cryptometer.errors import Reason
from cryptometer.merkle import inclusion_proof
from cryptometer.proof import carried_records, encode_proof, verify_proof
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.tiles import node_from_tiles
from tests.core.community import Village, flip, lay_out, reseal, sign_head
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of
from tests.keys import p256_signer, signer


def make() -> Village:
    village = Village(meters=2)
    village.add_meter("barn", p256_signer(3))
    village.block()
    village.run((8, 3), (4,))
    return village


VILLAGE = make()
COMMUNITY = VILLAGE.community()
LEAVES = VILLAGE.leaves
BATCH = next(
    at
    for at, raw in enumerate(LEAVES)
    if isinstance(body := records.decode(raw).body, Batch) and body.meter == "m0"
)
PROOF = VILLAGE.prove(BATCH)


def with_extra(*raws: bytes, text: str = PROOF) -> str:
    """The proof, carrying other records."""
    lines = text.split("\n")
    lines[1] = f"extra {base64.b64encode(cbor2.dumps(list(raws), canonical=True)).decode()}"
    return "\n".join(lines)


def carried(text: str = PROOF) -> list[bytes]:
    raws: list[bytes] = cbor2.loads(base64.b64decode(text.split("\n")[1].removeprefix("extra ")))
    return raws


def test_every_leaf_of_a_ledger_can_be_proven() -> None:
    kinds = set()
    for index, raw in enumerate(LEAVES):
        shown = verify_proof(VILLAGE.prove(index), COMMUNITY)
        assert (shown.index, shown.record.raw) == (index, raw)
        assert shown.checkpoint.size == len(LEAVES)
        kinds.add(shown.record.body.KIND)
    assert len(kinds) == 6  # genesis, registration, run start, batch, close, header


def test_a_proof_has_its_golden_form() -> None:
    lines = PROOF.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[2] == f"index {BATCH}"
    assert lines[lines.index("") + 1 :] == VILLAGE.checkpoint().split("\n")
    assert [records.decode(raw) for raw in carried()] == carried_records(PROOF)
    assert carried()[0] == LEAVES[BATCH]


def test_a_proof_in_a_ledger_of_one_leaf_has_no_path() -> None:
    village = Village(meters=0)
    genesis = village.leaves[0]
    head = sign_head([genesis], COMMUNITY.origin, VILLAGE.gateway)
    text = encode_proof(records.decode(genesis), None, 0, [], head)
    community = trust(VILLAGE.authority.genesis.raw, [VILLAGE.gateway_registration.raw])
    assert village.id == VILLAGE.id
    assert verify_proof(text, community).record.raw == genesis


# --- Anything changed. ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(LEAVES)))
def test_another_index_does_not_hold(index: int) -> None:
    if index == BATCH:
        verify_proof(PROOF, COMMUNITY)
        return
    with refusing(Reason.BAD_PROOF):
        verify_proof(PROOF.replace(f"index {BATCH}\n", f"index {index}\n"), COMMUNITY)


def path_lines() -> list[int]:
    lines = PROOF.split("\n")
    return list(range(3, lines.index("")))


@pytest.mark.parametrize("at", path_lines())
def test_every_hash_of_the_path_counts(at: int) -> None:
    lines = PROOF.split("\n")
    changed = base64.b64encode(flip(base64.b64decode(lines[at]), 77)).decode()
    for other in (
        [*lines[:at], changed, *lines[at + 1 :]],
        [*lines[:at], *lines[at + 1 :]],
        [*lines[:at], lines[at], *lines[at:]],
    ):
        with refusing(Reason.BAD_PROOF):
            verify_proof("\n".join(other), COMMUNITY)


def test_another_record_with_a_true_signature_does_not_hold() -> None:
    """The gateway shows a batch that its device signed and that is not in the ledger."""
    device = VILLAGE.device
    kept = vars(device).copy()
    stray = device.batch(VILLAGE.next_step, 7)
    vars(device).update(kept)
    with refusing(Reason.BAD_PROOF):
        verify_proof(with_extra(stray.raw, carried()[1]), COMMUNITY)


def test_a_changed_bit_in_the_record_is_refused() -> None:
    record, registration = carried()
    for bit in range(0, 8 * len(record), 3):
        changed = with_extra(flip(record, bit), registration)
        assert refusal_of(verify_proof, changed, COMMUNITY) is not None, bit


def test_an_ecdsa_record_with_another_signature_is_another_leaf() -> None:
    """The same statement, signed again by its own device: the identity is the same, the leaf is
    not."""
    at = next(
        at
        for at, raw in enumerate(LEAVES)
        if getattr(records.decode(raw).body, "meter", None) == "barn"
    )
    text = VILLAGE.prove(at)
    record, registration = carried(text)
    again = reseal(records.decode(record), p256_signer(3))
    assert again.identity == records.decode(record).identity
    with refusing(Reason.BAD_PROOF):
        verify_proof(with_extra(again.raw, registration, text=text), COMMUNITY)


@pytest.mark.parametrize("name", ["batch", "registration", "header"])
def test_a_record_that_was_not_signed_is_refused_even_in_a_tree_that_holds_it(name: str) -> None:
    """The gateway builds a tree around a record with a false signature, and signs its head."""
    at = BATCH if name == "batch" else 1 if name == "registration" else len(LEAVES) - 1
    forged = flip(LEAVES[at], 8 * len(LEAVES[at]) - 1)
    leaves = [*LEAVES[:at], forged, *LEAVES[at + 1 :]]
    head = sign_head(leaves, COMMUNITY.origin, VILLAGE.gateway)
    path = inclusion_proof(at, len(leaves), node_from_tiles(len(leaves), lay_out(leaves, head).get))
    registration = registration_of("m0") if name == "batch" else None
    text = encode_proof(records.decode(forged), registration, at, path, head)
    with refusing(Reason.BAD_SIGNATURE):
        verify_proof(text, COMMUNITY)


# --- Who signed. ---------------------------------------------------------------------------------


def registration_of(name: str) -> Record:
    found = (records.decode(raw) for raw in LEAVES)
    return next(one for one in found if getattr(one.body, "name", None) == name)


def foreign_registration() -> Record:
    """Of the right meter and key, and signed by the authority; but for another community."""
    return records.seal(registration_of("m0").body, bytes(32), signer(1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: [record], Reason.UNKNOWN_KEY),
        (lambda record: [record, registration_of("m1").raw], Reason.UNKNOWN_KEY),
        (lambda record: [record, registration_of("vpp").raw], Reason.UNKNOWN_KEY),
        (lambda record: [record, LEAVES[0]], Reason.UNKNOWN_KEY),
        (lambda record: [record, foreign_registration().raw], Reason.UNKNOWN_KEY),
        (
            lambda record: [record, reseal(registration_of("m0"), signer(2)).raw],
            Reason.BAD_SIGNATURE,
        ),
        (
            lambda record: [
                reseal(records.decode(record), signer(11)).raw, registration_of("m0").raw,
            ],
            Reason.UNKNOWN_KEY,
        ),
        (
            lambda record: [
                reseal(records.decode(record), signer(11)).raw, registration_of("m1").raw,
            ],
            Reason.UNKNOWN_KEY,
        ),
        (
            lambda record: [
                records.seal(records.decode(record).body, bytes(32), signer(10)).raw,
                registration_of("m0").raw,
            ],
            Reason.OTHER_COMMUNITY,
        ),
        (lambda record: [], Reason.MALFORMED),
        (lambda record: [record, record, record], Reason.MALFORMED),
    ],
)  # fmt: skip
def test_the_way_back_to_the_authority_must_be_whole(
    change: Callable[[bytes], list[bytes]], reason: Reason
) -> None:
    with refusing(reason):
        verify_proof(with_extra(*change(carried()[0])), COMMUNITY)


def test_a_registration_beside_a_record_that_needs_none_is_refused() -> None:
    text = VILLAGE.prove(0)
    with refusing(Reason.MALFORMED, "only a meter's record"):
        verify_proof(with_extra(LEAVES[0], registration_of("m0").raw, text=text), COMMUNITY)


def test_an_authority_record_is_signed_by_the_authority() -> None:
    text = VILLAGE.prove(1)
    forged = reseal(records.decode(LEAVES[1]), signer(2))
    with refusing(Reason.UNKNOWN_KEY, "not signed by one entitled to"):
        verify_proof(with_extra(forged.raw, text=text), COMMUNITY)


def test_a_header_is_signed_by_a_gateway_of_the_community() -> None:
    at = len(LEAVES) - 1
    text = VILLAGE.prove(at)
    for number in (3, 10, 1):
        forged = reseal(records.decode(LEAVES[at]), signer(number))
        with refusing(Reason.UNKNOWN_KEY, "header"):
            verify_proof(with_extra(forged.raw, text=text), COMMUNITY)


def test_a_record_that_no_ledger_holds_is_not_proven() -> None:
    word = records.seal(Acknowledgement("m0", 1, 1, bytes(32), 0), VILLAGE.id, VILLAGE.gateway)
    with refusing(Reason.UNKNOWN_KEY, "acknowledgement"):
        verify_proof(with_extra(word.raw), COMMUNITY)


def test_the_checkpoint_is_signed_by_a_gateway_of_the_community() -> None:
    other = Village(name="elsewhere")
    with refusing(Reason.UNKNOWN_KEY):
        verify_proof(PROOF, other.community())
    head, _, signed = PROOF.partition("\n\n")
    changed = signed.replace(f"\n{len(LEAVES)}\n", f"\n{len(LEAVES) + 1}\n")
    with refusing(Reason.BAD_SIGNATURE):
        verify_proof(f"{head}\n\n{changed}", COMMUNITY)


def test_a_proof_against_an_older_checkpoint_of_the_same_ledger_does_not_hold() -> None:
    older = sign_head(LEAVES[:-1], COMMUNITY.origin, VILLAGE.gateway)
    with refusing(Reason.BAD_PROOF):
        verify_proof(f"{PROOF.partition(chr(10) * 2)[0]}\n\n{older}", COMMUNITY)


# --- Form. ---------------------------------------------------------------------------------------

LINES = PROOF.split("\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        PROOF.partition("\n\n")[0],
        "\n".join([LINES[0], "", *LINES[3:]]),
        "\n".join([*LINES[:2], "", *LINES[3:]]),
        PROOF.replace("@v1", "@v2"),
        "\n".join(LINES[:1] + LINES[2:]),
        "\n".join(LINES[:2] + LINES[3:]),
        "\n".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
        PROOF.replace("extra ", "Extra "),
        PROOF.replace("index ", "index  "),
        PROOF.replace("index ", "index 0"),
        PROOF.replace("index ", "index +"),
        PROOF.replace("index ", "index -"),
        PROOF.replace("index ", "index " + "9" * 5000),
        "\n".join([*LINES[:3], "no base64!", *LINES[4:]]),
        "\n".join([*LINES[:3], LINES[3] + "A", *LINES[4:]]),
        "\n".join([*LINES[:3], *[LINES[3]] * (proof.PATH_MAX + 1), *LINES[3:]]),
        "\n".join([LINES[0], "extra ", *LINES[2:]]),
        "\n".join([LINES[0], "extra oA==", *LINES[2:]]),
    ],
)
def test_what_is_no_proof_file_is_malformed(text: str) -> None:
    with refusing(Reason.MALFORMED):
        verify_proof(text, COMMUNITY)


def test_a_path_is_as_long_as_that_of_the_largest_tree_and_no_longer() -> None:
    signed = PROOF.partition("\n\n")[2]
    for hashes, reason in ((63, Reason.BAD_PROOF), (64, Reason.MALFORMED)):
        with refusing(reason):
            verify_proof("\n".join([*LINES[:3], *[LINES[3]] * hashes, "", signed]), COMMUNITY)


def test_base64_with_stray_bits_is_no_second_form_of_a_proof() -> None:
    """32 bytes end with `=` and a letter that carries two bits which no decoder keeps."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    line = LINES[3]
    stray = line[:-2] + alphabet[alphabet.index(line[-2]) ^ 1] + "="
    assert base64.b64decode(stray) == base64.b64decode(line)
    with refusing(Reason.MALFORMED, "canonical"):
        verify_proof("\n".join([*LINES[:3], stray, *LINES[4:]]), COMMUNITY)


def test_carried_records_are_read_without_being_believed() -> None:
    forged = reseal(records.decode(carried()[0]), signer(99))
    assert carried_records(with_extra(forged.raw))[0].raw == forged.raw
    with refusing(Reason.MALFORMED):
        carried_records("not a proof")
    with refusing(Reason.MALFORMED):
        carried_records(with_extra())


@examples(200)
@given(st.data())
def test_a_mutated_proof_is_refused_or_says_the_same(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PROOF)))
    gone = data.draw(st.integers(0, 5))
    changed = PROOF[:at] + data.draw(st.text(max_size=3)) + PROOF[at + gone :]
    if refusal_of(verify_proof, changed, COMMUNITY) is None:
        assert verify_proof(changed, COMMUNITY) == verify_proof(PROOF, COMMUNITY)


@examples(200)
@given(st.text(max_size=100), st.binary(max_size=100))
def test_random_proofs_are_refused(text: str, content: Any) -> None:
    assert refusal_of(verify_proof, text, COMMUNITY) is not None
    assert refusal_of(verify_proof, with_extra(content), COMMUNITY) is not None


def test_a_revoked_meter_s_old_records_are_still_proven() -> None:
    village = Village()
    village.run((8,))
    index = len(village.leaves) - 2
    village.govern(village.authority.revoke(Role.METER, "m0"))
    village.block()
    assert verify_proof(village.prove(index), village.community()).index == index
