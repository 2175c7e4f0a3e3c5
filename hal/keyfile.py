"""Private keys in files: PKCS#8 PEM, mode 0600, never overwritten. Key store driver `file`."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, PublicKey, from_library, low_s
from hal.files import MISPLACED, make_folder, put_file, sync_folder


class FileKey:
    """A private key held in memory, read from a file."""

    where = "file"

    def __init__(self, private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self.public: PublicKey = from_library(private.public_key())

    def sign(self, data: bytes) -> bytes:
        if isinstance(self._private, Ed25519PrivateKey):
            return self._private.sign(data)
        return low_s(self._private.sign(data, ec.ECDSA(SHA256())))

    def sign_again(self, data: bytes) -> bytes:
        """The same signature for the same bytes. Ed25519's always is; ECDSA's where the library
        can make it so (RFC 6979, OpenSSL 3.2), elsewhere it is an ordinary one.
        """
        if isinstance(self._private, Ed25519PrivateKey):
            return self._private.sign(data)
        try:
            algorithm = ec.ECDSA(SHA256(), deterministic_signing=True)
        except UnsupportedAlgorithm:
            algorithm = ec.ECDSA(SHA256())
        return low_s(self._private.sign(data, algorithm))

    def trouble(self) -> str:
        return ""  # what was read signs


def create_key(path: Path, algorithm: Algorithm = Algorithm.EDDSA) -> FileKey:
    """Makes a key and keeps it in `path`, durably.

    Raises:
        ConfigurationError: a key stands there already; it is left as it is.
    """
    private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = (
        Ed25519PrivateKey.generate()
        if algorithm is Algorithm.EDDSA
        else ec.generate_private_key(ec.SECP256R1())
    )
    make_folder(path.parent)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    put_file(beside, pem)
    try:
        # A link fails where a file stands, at the same instant that it makes the name.
        os.link(beside, path)
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists, and a key is never overwritten. To start anew, move it away first;"
            " what it signed stays bound to it."
        ) from None
    finally:
        beside.unlink()
    sync_folder(path.parent)
    return FileKey(private)


def load_key(path: Path) -> FileKey:
    """Reads a key.

    Raises:
        ConfigurationError: it is missing, readable by others, or of another kind.
    """
    try:
        mode = path.stat().st_mode
        pem = path.read_bytes()
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read the key {path}: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigurationError(f"{path} is readable by others: run chmod 600 {path}")
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path} is no unencrypted PEM private key") from None
    if not isinstance(private, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} is neither an Ed25519 nor an ECDSA key")
    try:
        return FileKey(private)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
