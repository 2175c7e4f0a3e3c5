"""The golden vectors: the code gives the stored bytes, and the stored bytes say what is stated."""

import base64
import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from cryptometer import proof, records
from cryptometer.audit import audit
from cryptometer.authority_records import Registration
from cryptometer.cbor import encode
from cryptometer.chain_records import Batch, StepClose
from cryptometer.community import decode_community
from cryptometer.cose import HEADER_MAX
from cryptometer.errors import Reason, Rejected
from cryptometer.judging import judge
from cryptometer.keys import from_cose
from cryptometer.metrology import lot_limit, register_uwh
from cryptometer.record_fields import Checkpoint, Kind
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Agreement, Distribution, Input, Output
from cryptometer.steps import step_of
from cryptometer.wire import encode_map
from tests.keys import p256_signer
from tests.vectors.example import CONSUMED, CORRECTED, LATE_STEP, SHARED_STEP, Example
from tests.vectors.generate import (
    ES256,
    FOLDER,
    NEWCOMER,
    P256_ORDER,
    Golden,
    describe,
    es256_request,
    golden_files,
    high_s,
)

RECORD_FILES = sorted((FOLDER / "records").glob("*.json"))
LEDGER = FOLDER / "ledger"


@cache
def golden() -> Golden:
    return Golden()


@cache
def example() -> Example:
    return Example()


def load(path: str) -> Any:
    return json.loads((FOLDER / path).read_bytes())


def stored_record(name: str) -> records.Record:
    return records.decode(bytes.fromhex(load(f"records/{name}.json")["record"]))


def read_ledger(path: str) -> bytes | None:
    return read_from(LEDGER, path)


def read_example(path: str) -> bytes | None:
    return read_from(FOLDER / "example", path)


def read_from(folder: Path, path: str) -> bytes | None:
    place = folder / path
    return place.read_bytes() if place.is_file() else None


def test_the_code_gives_the_stored_bytes() -> None:
    made = golden_files(golden(), example())
    for path, data in made.items():
        assert (FOLDER / path).read_bytes() == data, f"{path}: the format has changed"


def test_every_stored_vector_is_one_the_generator_makes() -> None:
    stored = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    # That one is made by tests/kernel, from edges of a real kernel.
    assert stored == set(golden_files(golden(), example())) | {ES256, "kernel-edges.json"}


def test_every_kind_has_a_golden_record() -> None:
    assert {load(f"records/{path.name}")["kind"] for path in RECORD_FILES} == set(Kind)


@pytest.mark.parametrize("path", RECORD_FILES, ids=lambda path: path.stem)
def test_decoding_a_golden_record_gives_what_is_stated(path: Path) -> None:
    stated = load(f"records/{path.name}")
    record = records.decode(bytes.fromhex(stated["record"]))
    assert describe(record) == stated
    # Sealed again from what was decoded, the payload is the same bytes.
    assert encode(encode_map(record.body)).hex() == stated["payload"]


@pytest.mark.parametrize("path", RECORD_FILES, ids=lambda path: path.stem)
def test_a_golden_record_is_what_general_libraries_read(path: Path) -> None:
    """Form, identity and signature once more, with none of the project's code."""
    stated = load(f"records/{path.name}")
    raw = bytes.fromhex(stated["record"])
    protected, unprotected, payload, signature = cbor2.loads(raw)
    header = cbor2.loads(protected)
    assert unprotected == {}
    assert payload.hex() == stated["payload"]
    assert header[16] == f"application/vnd.cryptometer.{stated['kind']}.v1"
    assert header[4].hex() == stated["header"]["key_id"]
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    assert signed.hex() == stated["sig_structure"]
    assert sha256(signed).hexdigest() == stated["identity"]
    assert sha256(b"\x00" + raw).hexdigest() == stated["leaf_hash"]
    keys = {key["key_id"]: key["cose_key"] for key in load("keys.json").values()}
    x = bytes.fromhex(keys[header[4].hex()]["-2"])
    Ed25519PublicKey.from_public_bytes(x).verify(signature, signed)


def test_the_stated_keys_have_the_stated_thumbprints() -> None:
    for key in load("keys.json").values():
        cose_key = {
            int(label): bytes.fromhex(part) if isinstance(part, str) else part
            for label, part in key["cose_key"].items()
        }
        deterministic = b"\xa3\x01\x01\x20\x06\x21\x58\x20" + cose_key[-2]
        assert sha256(deterministic).hexdigest() == key["key_id"]
        assert from_cose(cose_key).thumbprint.hex() == key["key_id"]


def test_the_golden_batch_says_what_was_put_into_it() -> None:
    batch = stored_record("batch").body
    assert isinstance(batch, Batch)
    assert batch.meter == "pv-roof"
    assert batch.sequence == 1
    assert batch.previous == stored_record("run-start").identity
    assert batch.registration == stored_record("registration").identity
    assert batch.pulses == (10,) * 11 + (5,)
    assert batch.closed_ms == (*range(20_000, 320_001, 30_000), 350_000)
    assert (batch.register, batch.register_after) == (8, 123)
    assert batch.marks == (6, 2)
    assert batch.step == step_of(1_767_226_500_000, 900)  # 2026-01-01 00:15 UTC


def test_the_golden_close_says_what_was_put_into_it() -> None:
    close = stored_record("step-close").body
    assert isinstance(close, StepClose)
    assert (close.register, close.register_after) == (8, 134)
    assert close.watched == (2_000, 610_000, 611_000, 900_000)
    first = load("ledger.json")["blocks"][0]
    assert close.checkpoint == Checkpoint(first["size"], bytes.fromhex(first["root"]))


def test_the_golden_meters_hold_a_primary_and_a_secondary_example() -> None:
    """Worked by hand, since a ratio applied twice, or not at all, would pass every bound."""
    roof, barn = stored_record("registration").body, stored_record("registration-barn").body
    assert isinstance(roof, Registration)
    assert isinstance(barn, Registration)
    assert roof.meter is not None
    assert barn.meter is not None
    assert roof.meter.lot_pulses == lot_limit(roof.meter.ratings, 900, accept_coarse=False) == 10
    assert barn.meter.lot_pulses == lot_limit(barn.meter.ratings, 900, accept_coarse=False) == 1
    # 8 pulses at 12 000 per kWh are 666 666.6 µWh, 123 are 10 250 000 µWh exactly.
    assert register_uwh(8, roof.meter.constant, roof.meter.ratio) == 666_666
    assert register_uwh(123, roof.meter.constant, roof.meter.ratio) == 10_250_000
    # 2 pulses at 10 000 per kWh behind 200 A / 5 A transformers are 2 · 0.1 Wh · 40.
    assert register_uwh(2, barn.meter.constant, barn.meter.ratio) == 8_000_000


def test_the_golden_ledger_holds_and_gives_the_stated_energies() -> None:
    community = decode_community((FOLDER / "community.pub").read_text())
    stated = load("ledger.json")
    report = audit(read_ledger, community)
    assert community.id.hex() == stated["community"] == load("records/genesis.json")["identity"]
    assert report.blocks == 2
    assert report.checkpoint == Checkpoint(16, bytes.fromhex(stated["root"]))
    assert report.quarantined == {"lot-above-v": 1}
    assert report.findings == []
    # Roof: 115 pulses counted and transferred, 11 in one lot above V; barn: 2, never closed.
    assert report.energy_uwh == {
        "registered": 9_583_334 + 916_666 + 8_000_000,
        "waiting": 9_583_334,
        "quarantined": 916_666,
        "untransferred": 8_000_000,
    }
    header = load("records/header.json")["says"]
    assert header["flow"]["tokens"] == 9_583_334 // 5_000_000
    assert header["meters"] == [2, 1]


def test_the_golden_proof_shows_the_golden_batch() -> None:
    community = decode_community((FOLDER / "community.pub").read_text())
    shown = proof.verify_proof((FOLDER / "batch.tlog-proof").read_text(), community)
    assert shown.record.identity == stored_record("batch").identity
    assert shown.index == load("ledger.json")["leaves"].index("batch")
    assert shown.checkpoint.root.hex() == load("ledger.json")["root"]


def test_the_golden_proof_does_not_hold_for_another_index() -> None:
    community = decode_community((FOLDER / "community.pub").read_text())
    text = (FOLDER / "batch.tlog-proof").read_text().replace("\nindex 12\n", "\nindex 13\n")
    with pytest.raises(Rejected) as refused:
        proof.verify_proof(text, community)
    assert refused.value.reason is Reason.BAD_PROOF


def test_the_golden_shares_show_what_the_example_gave() -> None:
    community = decode_community((FOLDER / "example.pub").read_text())
    x, y = (
        verify_share((FOLDER / f"example-{name}.share").read_bytes(), community) for name in "xy"
    )
    assert (x.energy_uwh, x.is_rule_recomputed, x.used_uwh) == (8 * KWH, True, None)
    assert [one.meter for one in x.given[0].sources] == ["a", "b"]
    members = [distribution(f"distribution-{name}").outputs for name in ("pro-rata", "supplement")]
    given = [one.energy_uwh for outputs in members for one in outputs if one.member == "y"]
    assert (y.energy_uwh, y.used_uwh) == (sum(given), 9 * KWH)
    assert len(y.given) == 3
    assert x.checkpoint.root.hex() == y.checkpoint.root.hex() == load("example.json")["root"]


def test_community_pub_is_base64_of_the_stated_records() -> None:
    lines = (FOLDER / "community.pub").read_text().splitlines()
    assert lines[1] == load("ledger.json")["community"]
    held = cbor2.loads(base64.b64decode("".join(lines[3:-1])))
    names = ("genesis", "registration-gateway", "registration-vpp")
    assert held == [bytes.fromhex(load(f"records/{name}.json")["record"]) for name in names]


def test_the_stored_es256_signature_verifies() -> None:
    stated = load(ES256)
    record = records.decode(bytes.fromhex(stated["record"]))
    assert describe(record) == {key: stated[key] for key in stated if key != "high_s"}
    record.envelope.verify(p256_signer(NEWCOMER).public)
    assert record.envelope.signed == es256_request().envelope.signed


def test_the_high_s_twin_is_a_true_ecdsa_signature_and_is_refused() -> None:
    stated = load(ES256)
    low = records.decode(bytes.fromhex(stated["record"]))
    twin = records.decode(bytes.fromhex(stated["high_s"]))
    assert twin.raw == high_s(low)
    r, s = (int.from_bytes(twin.envelope.signature[at : at + 32], "big") for at in (0, 32))
    assert s > P256_ORDER // 2
    key = p256_signer(NEWCOMER).public
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key.coordinates)
    point.verify(encode_dss_signature(r, s), twin.envelope.signed, ec.ECDSA(SHA256()))
    with pytest.raises(Rejected) as refused:
        twin.envelope.verify(key)
    assert refused.value.reason is Reason.BAD_SIGNATURE


def test_no_golden_header_comes_near_the_limit() -> None:
    longest = max(
        len(cbor2.loads(bytes.fromhex(load(f"records/{path.name}")["record"]))[0])
        for path in RECORD_FILES
    )
    assert longest == 122 <= HEADER_MAX


# --- Paper A's example. --------------------------------------------------------------------------

KWH = 10**9  # µWh


def stored_leaves(header: str) -> list[str]:
    """Names of the leaves of the example's block that this header ends, without it."""
    leaves: list[str] = load("example.json")["leaves"]
    end = leaves.index(header)
    begin = end
    while begin and not leaves[begin - 1].startswith("example-header"):
        begin -= 1
    return leaves[begin:end]


def distribution(name: str) -> Distribution:
    body = stored_record(name).body
    assert isinstance(body, Distribution)
    return body


def test_the_example_is_paper_a_s_five_transactions_in_one_block() -> None:
    """Section IV-B2: 1) create 15 kWh and credit it to device A; 2) transfer from A to VPP;
    3) create 10 kWh and credit it to device B; 4) transfer from B to VPP; 5) transfer to
    participants: 8 kWh from VPP to X, 17 kWh from VPP to Y, inputs by the hashes of 2 and 4."""
    names = stored_leaves("example-header-3")
    assert names == [
        "example-create-a", "example-transfer-a", "example-create-b", "example-transfer-b",
        "distribution",
    ]  # fmt: skip
    create_a, transfer_a, create_b, transfer_b, shared = map(stored_record, names)
    verdicts = load("example.json")["blocks"][2]["verdicts"]
    assert [one["energy_uwh"] for one in verdicts] == [
        15 * KWH, 15 * KWH, 10 * KWH, 10 * KWH, 25 * KWH,
    ]  # fmt: skip
    assert {one["reason"] for one in verdicts} == {None}
    assert isinstance(create_a.body, Batch)
    assert isinstance(create_b.body, Batch)
    assert (create_a.body.meter, create_a.body.pulses) == ("a", (1, 1, 1))  # of 5 kWh each
    assert (create_b.body.meter, create_b.body.pulses) == ("b", (1, 1))
    keys = load("keys.json")
    signers = [one.key_id.hex() for one in (create_a, transfer_a, create_b, transfer_b, shared)]
    assert signers == [
        keys[f"example-{name}"]["key_id"] for name in ("a", "a", "b", "b", "vpp")
    ]  # fmt: skip
    body = distribution("distribution")
    assert body.inputs == (
        Input(transfer_a.identity, 15 * KWH, 15),
        Input(transfer_b.identity, 10 * KWH, 10),
    )
    assert body.outputs == (Output("x", 8 * KWH, 8), Output("y", 17 * KWH, 17))
    assert (body.losses_uwh, body.fee_uwh, body.surplus_uwh, body.from_surplus_uwh) == (0, 0, 0, 0)
    assert (body.vpp, body.sequence, body.step, body.supplement) == ("vpp", 0, SHARED_STEP, 0)
    assert body.previous.hex() == load("example.json")["community"]
    assert body.agreement == stored_record("agreement").identity


def test_the_example_s_agreement_gives_eight_parts_to_x_and_seventeen_to_y() -> None:
    agreement = stored_record("agreement").body
    assert isinstance(agreement, Agreement)
    assert [(one.member, one.weight) for one in agreement.claims] == [("x", 8), ("y", 17)]
    assert agreement.from_step == SHARED_STEP
    assert (agreement.losses, agreement.fee) == (None, None)


def test_a_late_close_of_the_example_has_a_supplement_and_then_a_correction() -> None:
    """By consumption, X 3 and Y 9 kWh, 1 % lost and 0.5 % fee, all worked by hand."""
    first, late = distribution("distribution-pro-rata"), distribution("distribution-supplement")
    # 10 kWh: 0.1 lost, 0.05 fee, and of 9.85 a quarter to X.
    assert first.outputs == (Output("x", 2_462_500_000, 3), Output("y", 7_387_500_000, 7))
    assert (first.losses_uwh, first.fee_uwh, first.surplus_uwh) == (100_000_000, 50_000_000, 0)
    # With 5 kWh more the step has 15, of which 12 are used: what each still lacks, and no more.
    assert late.outputs == (Output("x", 537_500_000, 1), Output("y", 1_612_500_000, 4))
    assert (late.losses_uwh, late.fee_uwh, late.surplus_uwh) == (
        50_000_000, 25_000_000, 2_775_000_000,
    )  # fmt: skip
    # X consumed 4 kWh, as is known in the end: one more, from the surplus.
    corrected = distribution("distribution-correction")
    assert corrected.inputs == ()
    assert corrected.outputs == (Output("x", KWH, 0),)
    assert (corrected.from_surplus_uwh, corrected.surplus_uwh) == (KWH, 0)
    three = (first, late, corrected)
    assert [one.supplement for one in three] == [0, 1, 2]
    assert {one.step for one in three} == {LATE_STEP}
    assert {one.agreement for one in three} == {stored_record("agreement-pro-rata").identity}


def test_the_example_s_ledger_holds_and_gives_the_stated_energies() -> None:
    community = decode_community((FOLDER / "example.pub").read_text())
    stated = load("example.json")
    report = audit(read_example, community)
    assert community.id.hex() == stated["community"]
    assert report.checkpoint == Checkpoint(stated["size"], bytes.fromhex(stated["root"]))
    assert report.blocks == 6
    assert report.rules["sums-only"] == 3
    assert report.quarantined == {"repeat": 1}
    assert report.findings == []
    assert report.energy_uwh["registered"] == 40 * KWH
    assert report.state.accounts == stated["accounts"] == {"x": 12 * KWH, "y": 26 * KWH}
    assert (report.state.balance.surplus, report.state.balance.waiting) == (1_775_000_000, 0)


def test_the_stated_consumption_fits_the_commitments_and_no_other_does() -> None:
    community = bytes.fromhex(load("example.json")["community"])
    for one in load("example.json")["consumption"]:
        shown = {each.member: each.digest for each in distribution(one["distribution"]).commitments}
        said: list[object] = [
            "cryptometer consumption", community, one["step"], one["member"], one["need_uwh"],
            bytes.fromhex(one["salt"]),
        ]  # fmt: skip
        assert sha256(cbor2.dumps(said)).digest() == shown[one["member"]]
        assert sha256(cbor2.dumps([*said[:4], 1, said[5]])).digest() != shown[one["member"]]


def test_whoever_is_given_the_consumption_recomputes_the_rule() -> None:
    agreed = example().blocks[-1].state.agreed(LATE_STEP)
    assert agreed is not None
    for name, needs in (
        ("distribution-pro-rata", CONSUMED),
        ("distribution-supplement", CONSUMED),
        ("distribution-correction", CORRECTED),
    ):
        before = example().before[name]
        assert judge(agreed, before, distribution(name), needs) == judge(
            agreed, before, distribution(name)
        )
        with pytest.raises(Rejected) as refused:
            judge(agreed, before, distribution(name), {"x": 2 * KWH, "y": 9 * KWH})
        assert refused.value.reason is Reason.NOT_AS_AGREED
