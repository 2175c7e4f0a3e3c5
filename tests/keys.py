"""Signers with fixed keys: the same seed number always gives the same key."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cryptometer.keys import Signer
from hal.keyfile import FileKey


def seed(number: int) -> bytes:
    """The 32 secret bytes behind signer `number`."""
    return sha256(b"cryptometer test key %d" % number).digest()


def signer(number: int) -> Signer:
    """An Ed25519 signer; its signatures are the same on every run."""
    return FileKey(Ed25519PrivateKey.from_private_bytes(seed(number)))


def p256_signer(number: int) -> Signer:
    """An ECDSA P-256 signer; the key is fixed, its signatures are not."""
    # A SHA-256 value is a valid private scalar but for a chance of about 2^-32.
    scalar = int.from_bytes(seed(number), "big")
    return FileKey(ec.derive_private_key(scalar, ec.SECP256R1()))
