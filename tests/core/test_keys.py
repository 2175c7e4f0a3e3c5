"""Public keys, thumbprints, and the two algorithms: what verifies, and what only seems to."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import keys
from cryptometer.errors import Reason
from cryptometer.keys import Algorithm, PublicKey, from_cose, from_library, low_s
from tests.core.refusing import refusing
from tests.core.strategies import examples, plain_values, refusal_of
from tests.keys import p256_signer, seed, signer
from tests.peers.stranger import of_small_order

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P25519 = 2**255 - 19
SIGNERS = [signer(1), p256_signer(1)]


def test_the_thumbprint_of_the_rfc_is_computed() -> None:
    """RFC 9679 §6: the example key and its SHA-256 thumbprint."""
    x = "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"
    y = "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"
    key = from_cose({1: 2, -1: 1, -2: bytes.fromhex(x), -3: bytes.fromhex(y)})
    stated = "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"
    assert key.thumbprint.hex() == stated


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
def test_a_key_survives_its_cose_form(by: keys.Signer) -> None:
    assert from_cose(by.public.to_cose()) == by.public
    assert len(by.public.thumbprint) == 32


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
def test_a_signature_verifies_only_what_was_signed_by_only_that_key(by: keys.Signer) -> None:
    signature = by.sign(b"statement")
    assert len(signature) == keys.SIGNATURE_BYTES
    by.public.verify(signature, b"statement")
    other = (signer if by.public.algorithm is Algorithm.EDDSA else p256_signer)(2).public
    for key, data in ((by.public, b"Statement"), (by.public, b""), (other, b"statement")):
        with refusing(Reason.BAD_SIGNATURE):
            key.verify(signature, data)


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
def test_every_bit_of_a_signature_counts(by: keys.Signer) -> None:
    signature = by.sign(b"statement")
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert refusal_of(by.public.verify, bytes(changed), b"statement") is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(by: keys.Signer, size: int) -> None:
    signature = (by.sign(b"statement") * 2)[:size]
    with refusing(Reason.BAD_SIGNATURE):
        by.public.verify(signature, b"statement")


def test_the_high_form_of_an_ecdsa_signature_is_refused() -> None:
    key = ec.derive_private_key(int.from_bytes(seed(1), "big"), ec.SECP256R1())
    der = key.sign(b"statement", ec.ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    low, high = min(s, P256_ORDER - s), max(s, P256_ORDER - s)
    for one, refused in ((low, None), (high, Reason.BAD_SIGNATURE)):
        key.public_key().verify(encode_dss_signature(r, one), b"statement", ec.ECDSA(SHA256()))
        signature = r.to_bytes(32, "big") + one.to_bytes(32, "big")
        assert refusal_of(from_library(key.public_key()).verify, signature, b"statement") is refused
    for one in (low, high):
        assert low_s(encode_dss_signature(r, one))[32:] == low.to_bytes(32, "big")


def test_half_the_order_is_the_last_low_s() -> None:
    half = P256_ORDER // 2
    r = 1
    assert low_s(encode_dss_signature(r, half))[32:] == half.to_bytes(32, "big")
    assert low_s(encode_dss_signature(r, half + 1))[32:] == half.to_bytes(32, "big")
    key = p256_signer(1).public
    for s, words in ((half, "does not verify"), (half + 1, "low-S")):
        with refusing(Reason.BAD_SIGNATURE, words):
            key.verify(r.to_bytes(32, "big") + s.to_bytes(32, "big"), b"statement")


@pytest.mark.parametrize("part", [0, 32])
def test_a_zero_in_an_ecdsa_signature_is_refused(part: int) -> None:
    signature = bytearray(p256_signer(1).sign(b"statement"))
    signature[part : part + 32] = bytes(32)
    with refusing(Reason.BAD_SIGNATURE):
        p256_signer(1).public.verify(bytes(signature), b"statement")


def test_an_ed25519_scalar_above_the_order_is_refused() -> None:
    """RFC 8032 §5.1.7: S + L would verify again, were it not refused."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = signer(1).sign(b"statement")
    again = int.from_bytes(signature[32:], "little") + order
    with refusing(Reason.BAD_SIGNATURE):
        signer(1).public.verify(signature[:32] + again.to_bytes(32, "little"), b"statement")


# --- Points of small order. ----------------------------------------------------------------------


def small_order_encodings() -> list[bytes]:
    """Every 32 bytes that stand for a point of small order: computed, not listed. The candidates
    are y = 0, ±1 and the roots of order 8, each with both signs and in its second form y + p."""
    ys = {0, 1, P25519 - 1}
    # Doubling a point of order 8 gives (±sqrt(-1), 0); its y satisfies d·y⁴ + 2y² - 1 = 0.
    d = -121665 * pow(121666, -1, P25519) % P25519
    root = square_root((1 + d) % P25519)
    for sign in (1, -1):
        squared = (-1 + sign * root) * pow(d, -1, P25519) % P25519
        if pow(squared, (P25519 - 1) // 2, P25519) == 1:
            y = square_root(squared)
            ys |= {y, P25519 - y}
    forms = {y + more for y in ys for more in (0, P25519) if y + more < 2**255}
    return [(y | sign << 255).to_bytes(32, "little") for y in forms for sign in (0, 1)]


def square_root(value: int) -> int:
    root = pow(value, (P25519 + 3) // 8, P25519)
    if (root * root - value) % P25519:
        root = root * pow(2, (P25519 - 1) // 4, P25519) % P25519
    assert (root * root - value) % P25519 == 0
    return root


def test_every_encoding_of_a_point_of_small_order_is_refused() -> None:
    encodings = small_order_encodings()
    # y: 0, 1, -1 and two of order 8; of them 0 and 1 have a second form; each with two signs.
    assert len(encodings) == 14
    for one in encodings:
        assert of_small_order(one), one.hex()
        with refusing(Reason.MALFORMED, "small order"):
            from_cose({1: 1, -1: 6, -2: one})


def test_ordinary_keys_are_not_of_small_order() -> None:
    for number in range(50):
        assert not of_small_order(signer(number).public.coordinates)
        from_cose(signer(number).public.to_cose())


# --- COSE_Key. -----------------------------------------------------------------------------------

ED, P = signer(1).public.to_cose(), p256_signer(1).public.to_cose()


@pytest.mark.parametrize(
    "value",
    [
        {}, [], 0, b"", "key", {1: 1}, {1: 1, -1: 6}, {1: 1, -1: 6, -2: bytes(31)},
        {**ED, 2: b"kid"}, {**ED, 3: -8}, {**ED, -4: bytes(32)}, {**ED, -1: 7}, {**ED, -2: 5},
        {**P, -1: 2}, {**P, 1: 3}, {**P, -3: 1}, {**P, -3: bytes(31)}, {**P, -4: bytes(32)},
        {**P, -3: b"\x00" * 32}, {**P, -2: b"\xff" * 32}, {1: 2, -1: 1, -2: P[-2]},
        {1: 4, -1: bytes(32)},
    ],
)  # fmt: skip
def test_what_is_no_key_of_the_two_types_is_refused(value: Any) -> None:
    with refusing(Reason.MALFORMED):
        from_cose(value)


@examples(300)
@given(plain_values() | st.dictionaries(st.sampled_from([1, -1, -2, -3]), plain_values()))
def test_any_value_is_a_key_or_refused(value: Any) -> None:
    assert refusal_of(from_cose, value) in (None, Reason.MALFORMED)


def test_keys_of_other_types_are_not_taken_from_the_library() -> None:
    for other in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(ValueError, match="only Ed25519 and ECDSA P-256"):
            from_library(other.public_key())
    private = Ed25519PrivateKey.from_private_bytes(seed(1))
    assert from_library(private.public_key()) == signer(1).public


def test_thirty_two_bytes_that_are_no_point_verify_nothing() -> None:
    nothing = PublicKey(Algorithm.EDDSA, b"\x02" + bytes(31))
    with refusing(Reason.BAD_SIGNATURE):
        nothing.verify(signer(1).sign(b"statement"), b"statement")
