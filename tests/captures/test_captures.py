"""Published Ed25519, COSE, Merkle and signed-note vectors against the project's primitives.

Each must get the verdict that its publisher states. Records are stricter than COSE allows (no tag,
one fixed header, low-S), so the COSE examples are judged by the primitive under the envelope:
`PublicKey.verify` over a Sig_structure that is built here.
"""

import base64
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cryptometer import cose, keys, merkle, note
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from tests.captures.place import CAPTURES

COSE_SIGN1_TAG = 18
COSE_EXAMPLES = [
    "eddsa-examples_eddsa-sig-01",
    "ecdsa-examples_ecdsa-sig-01",
    "sign1-tests_sign-pass-01",
    "sign1-tests_sign-pass-02",
    "sign1-tests_sign-fail-01",
]


@pytest.fixture(scope="session")
def signed() -> Path:
    """The folder of signed vectors."""
    folder = CAPTURES / "signed"
    if not folder.is_dir():
        pytest.fail(f"no published vectors in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def refusal(check: Any, *arguments: Any) -> Reason | None:
    """Why `check` refuses its arguments; None when it accepts them."""
    try:
        check(*arguments)
    except Rejected as refused:
        return refused.reason
    return None


# --- Ed25519 (Wycheproof). -----------------------------------------------------------------------


def ed25519_accepts(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        keys.from_cose({1: 1, -1: 6, -2: key}).verify(signature, message)
    except Rejected:
        return False
    return True


def test_every_ed25519_vector_gets_its_stated_verdict(signed: Path) -> None:
    expected = json.loads((signed / "wycheproof_ed25519_test.json.expect.json").read_bytes())
    vectors = json.loads((signed / "wycheproof_ed25519_test.json").read_bytes())
    verdicts = {"valid": 0, "invalid": 0}
    for group in vectors["testGroups"]:
        key = bytes.fromhex(group["publicKey"]["pk"])
        for one in group["tests"]:
            accepted = ed25519_accepts(key, bytes.fromhex(one["sig"]), bytes.fromhex(one["msg"]))
            assert accepted == (one["result"] == "valid"), (one["tcId"], one["comment"])
            verdicts[one["result"]] += 1
    assert verdicts == expected


# --- COSE_Sign1 (the COSE working group's examples). ---------------------------------------------


class Example:
    """One COSE_Sign1 example, read with a general CBOR library."""

    def __init__(self, signed: Path, name: str) -> None:
        stated = json.loads((signed / f"cose_{name}.json").read_bytes())
        self.must_fail: bool = stated.get("fail", False)
        self.raw = bytes.fromhex(stated["output"]["cbor"])
        self.to_be_signed = bytes.fromhex(stated["intermediates"]["ToBeSign_hex"])
        sign0 = stated["input"]["sign0"]
        self.external = bytes.fromhex(sign0.get("external", ""))
        self.key = public_key(sign0["key"])
        tagged = cbor2.loads(self.raw)
        self.tag: int = tagged.tag
        self.protected, _, self.payload, self.signature = tagged.value

    @property
    def sig_structure(self) -> bytes:
        """RFC 9052 §4.4; a protected header without entries counts as no bytes."""
        protected = b"" if self.protected == b"\xa0" else self.protected
        return cbor2.dumps(["Signature1", protected, self.external, self.payload])


def public_key(jwk: dict[str, str]) -> PublicKey:
    if jwk["kty"] == "OKP":
        return keys.from_cose({1: 1, -1: 6, -2: bytes.fromhex(jwk["x_hex"])})
    x, y = (base64.urlsafe_b64decode(jwk[part] + "=") for part in "xy")
    return keys.from_cose({1: 2, -1: 1, -2: x, -3: y})


def low_form(signature: bytes) -> bytes:
    """The low-S one of the two ECDSA signatures (r, s) and (r, order - s): the same verdict under
    ECDSA, and the only one that records may carry."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return keys.low_s(encode_dss_signature(r, s))


def judge(example: Example) -> Reason | None:
    """The verdict of the project's primitive, once the tag says COSE_Sign1."""
    if example.tag != COSE_SIGN1_TAG:
        return Reason.MALFORMED
    signature = example.signature
    if example.key.algorithm is keys.Algorithm.ES256:
        signature = low_form(signature)
    return refusal(example.key.verify, signature, example.sig_structure)


@pytest.mark.parametrize("name", COSE_EXAMPLES)
def test_a_cose_example_gets_its_stated_verdict(name: str, signed: Path) -> None:
    example = Example(signed, name)
    assert example.sig_structure == example.to_be_signed
    assert (judge(example) is not None) == example.must_fail


@pytest.mark.parametrize("name", COSE_EXAMPLES)
def test_a_cose_example_with_other_content_is_refused(name: str, signed: Path) -> None:
    example = Example(signed, name)
    example.payload += b"."
    assert judge(example) is not None


def test_the_external_data_of_a_cose_example_is_signed(signed: Path) -> None:
    example = Example(signed, "sign1-tests_sign-pass-02")
    example.external = b""
    assert judge(example) is Reason.BAD_SIGNATURE


def test_only_its_tag_makes_the_failing_example_fail(signed: Path) -> None:
    example = Example(signed, "sign1-tests_sign-fail-01")
    assert judge(example) is Reason.MALFORMED
    example.tag = COSE_SIGN1_TAG
    assert judge(example) is None


def test_the_high_s_example_verifies_only_in_its_low_s_form(signed: Path) -> None:
    """ECDSA allows both forms; a record with the high one is refused, as keys.py says."""
    example = Example(signed, "ecdsa-examples_ecdsa-sig-01")
    message = example.sig_structure
    assert low_form(example.signature) != example.signature
    assert refusal(example.key.verify, example.signature, message) is Reason.BAD_SIGNATURE
    assert refusal(example.key.verify, low_form(example.signature), message) is None


@pytest.mark.parametrize("name", COSE_EXAMPLES)
def test_no_cose_example_is_a_record(name: str, signed: Path) -> None:
    """Any tag is refused, 18 too, and so is an unprotected header."""
    example = Example(signed, name)
    untagged = cbor2.dumps(cbor2.loads(example.raw).value)
    assert refusal(cose.open_seal, example.raw) is Reason.MALFORMED
    assert refusal(cose.open_seal, untagged) is Reason.MALFORMED


# --- Merkle inclusion (RFC 6962, transparency-dev). ----------------------------------------------


def test_every_inclusion_vector_gets_its_stated_verdict(signed: Path) -> None:
    expected = json.loads((signed / "rfc6962_inclusion.json.expect.json").read_bytes())
    vectors = json.loads((signed / "rfc6962_inclusion.json").read_bytes())
    refused = 0
    for one in vectors:
        leaf, root = base64.b64decode(one["leafHash"]), base64.b64decode(one["root"])
        path = [base64.b64decode(part) for part in one["proof"] or []]
        reason = refusal(merkle.verify_inclusion, leaf, one["leafIdx"], one["treeSize"], path, root)
        assert reason is (Reason.BAD_PROOF if one["wantErr"] else None), (one["file"], one["desc"])
        refused += one["wantErr"]
    assert (len(vectors), refused) == (expected["total"], expected["must_fail"])


# --- Signed note (C2SP). -------------------------------------------------------------------------


def test_the_signed_note_opens_with_its_key(signed: Path) -> None:
    raw = (signed / "c2sp_signed_note.txt").read_bytes()
    vkey = json.loads((signed / "c2sp_signed_note.txt.expect.json").read_bytes())["vkey"]
    verifier = note.parse_vkey(vkey)
    assert verifier.vkey == vkey
    text = note.open_note(raw, verifier)
    assert text.encode() == raw.partition(b"\n\n")[0] + b"\n"


def test_the_signed_note_does_not_open_once_altered_or_with_another_key(signed: Path) -> None:
    raw = (signed / "c2sp_signed_note.txt").read_bytes()
    vkey = json.loads((signed / "c2sp_signed_note.txt.expect.json").read_bytes())["vkey"]
    verifier = note.parse_vkey(vkey)
    renamed = note.Verifier("example.org/other", verifier.key)
    assert refusal(note.open_note, b"+" + raw, verifier) is Reason.BAD_SIGNATURE
    assert refusal(note.open_note, raw, renamed) is Reason.UNKNOWN_KEY
    assert refusal(note.open_note, raw.rstrip(b"\n"), verifier) is Reason.MALFORMED
    name, _, material = vkey.split("+", 2)
    assert refusal(note.parse_vkey, f"{name}+00000000+{material}") is Reason.MALFORMED
