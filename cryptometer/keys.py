"""Public keys as COSE_Key, their RFC 9679 thumbprints, and the two algorithms records may use.

Ed25519 by default; ECDSA P-256 with SHA-256 for TPMs, HSMs and secure elements. Private keys are
never seen here: a `Signer` signs.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected

SIGNATURE_BYTES = 64  # Ed25519: R || S; ES256: r || s (RFC 9053 §2.1)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# The y of the points of small order, without x's sign, and the second forms y + p of two of them:
# under such a key anyone makes signatures that verify.
_SMALL_ORDER = frozenset(
    bytes.fromhex(y)
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)

# COSE_Key labels and values (RFC 9052 §7.1, RFC 9053 §7).
_KTY, _CRV, _X, _Y = 1, -1, -2, -3
_KTY_OKP, _KTY_EC2 = 1, 2
_CRV_P256, _CRV_ED25519 = 1, 6


class Algorithm(IntEnum):
    """COSE algorithm identifiers (RFC 9053 §2)."""

    EDDSA = -8
    ES256 = -7


class KeyLost(Exception):  # noqa: N818 - a state of the key's store, for the caller to act on
    """The key cannot sign now: its token is gone, or refuses. It may come back; why, for people."""


class Signer(Protocol):
    """Holds one private key, in a file, a token or a chip."""

    @property
    def public(self) -> "PublicKey": ...

    def sign(self, data: bytes) -> bytes:
        """Returns 64 bytes: Ed25519, or ES256 as r || s with s in the lower half of the order.

        Raises:
            KeyLost: the store of the key is out of reach. A file never is.
        """
        ...


@dataclass(frozen=True, slots=False)
class PublicKey:
    """One public key. `coordinates` is x (32 bytes) for Ed25519, x || y (64 bytes) for P-256."""

    algorithm: Algorithm
    coordinates: bytes

    def to_cose(self) -> dict[int, cbor.Value]:
        """The COSE_Key with exactly the members its thumbprint needs (RFC 9679 §4)."""
        if self.algorithm is Algorithm.EDDSA:
            return {_KTY: _KTY_OKP, _CRV: _CRV_ED25519, _X: self.coordinates}
        x, y = self.coordinates[:32], self.coordinates[32:]
        return {_KTY: _KTY_EC2, _CRV: _CRV_P256, _X: x, _Y: y}

    @cached_property
    def thumbprint(self) -> bytes:
        """SHA-256 COSE Key Thumbprint, 32 bytes (RFC 9679 §3): the key id in every record."""
        return sha256(cbor.encode(self.to_cose())).digest()

    def verify(self, signature: bytes, data: bytes) -> None:
        """Checks `signature` over `data`.

        Raises:
            Rejected: BAD_SIGNATURE; for ES256 also when s lies in the upper half of the order,
                since the second form would give the same statement a second set of bytes.
        """
        try:
            if self.algorithm is Algorithm.EDDSA:
                _ed25519(self.coordinates).verify(signature, data)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                if len(signature) != SIGNATURE_BYTES or s > _P256_ORDER // 2:
                    raise Rejected(Reason.BAD_SIGNATURE, "ECDSA signature is not low-S r || s")
                der = encode_dss_signature(r, s)
                _p256(self.coordinates).verify(der, data, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise Rejected(Reason.BAD_SIGNATURE, "the signature does not verify") from None


def from_cose(value: cbor.Value) -> PublicKey:
    """Reads a COSE_Key that holds only the members of its thumbprint.

    Raises:
        Rejected: MALFORMED when it is another key type, has other members, is no point of P-256,
            or an Ed25519 point of small order. The library passes 32 bytes that are no
            point of Ed25519; nothing verifies under them.
    """
    match value:
        case {1: 1, -1: 6, -2: bytes(x), **rest} if len(x) == 32 and not rest:
            key = PublicKey(Algorithm.EDDSA, x)
        case {1: 2, -1: 1, -2: bytes(x), -3: bytes(y), **rest} if (
            len(x) == 32 and len(y) == 32 and not rest
        ):
            key = PublicKey(Algorithm.ES256, x + y)
        case _:
            raise Rejected(Reason.MALFORMED, "not an Ed25519 or P-256 COSE_Key")
    try:
        if key.algorithm is Algorithm.EDDSA:
            _ed25519(key.coordinates)
        else:
            _p256(key.coordinates)
    except ValueError:
        raise Rejected(Reason.MALFORMED, "the key is not a point of its curve") from None
    if key.algorithm is Algorithm.EDDSA and _without_sign(key.coordinates) in _SMALL_ORDER:
        raise Rejected(Reason.MALFORMED, "the key is a point of small order")
    return key


def _without_sign(coordinates: bytes) -> bytes:
    return coordinates[:-1] + bytes((coordinates[-1] & 0x7F,))


def from_library(key: object) -> PublicKey:
    """Takes a public key of the `cryptography` package.

    Raises:
        ValueError: neither Ed25519 nor P-256.
    """
    if isinstance(key, Ed25519PublicKey):
        return PublicKey(Algorithm.EDDSA, key.public_bytes_raw())
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        numbers = key.public_numbers()
        return PublicKey(
            Algorithm.ES256, numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        )
    raise ValueError("only Ed25519 and ECDSA P-256 keys can sign records")


def low_s(der: bytes) -> bytes:
    """Turns a DER ECDSA P-256 signature into r || s with s in the lower half of the order."""
    return _in_lower_half(*decode_dss_signature(der))


def low_s_raw(signature: bytes) -> bytes:
    """The same from r || s, as tokens give it; each half of 32 bytes."""
    return _in_lower_half(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    )


def _in_lower_half(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + min(s, _P256_ORDER - s).to_bytes(32, "big")


@lru_cache(maxsize=4096)
def _ed25519(coordinates: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(coordinates)


@lru_cache(maxsize=4096)
def _p256(coordinates: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + coordinates)
