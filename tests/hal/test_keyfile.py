"""Private keys in files: for their owner only, never overwritten, and clear when damaged."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, PublicKey
from hal.keyfile import create_key, load_key

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4
ALGORITHMS = [Algorithm.EDDSA, Algorithm.ES256]


def put_pem(path: Path, pem: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(pem)
    path.chmod(mode)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_key(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_was_made_signs_and_is_read_again(tmp_path: Path, algorithm: Algorithm) -> None:
    made = create_key(tmp_path / "state" / "device.key", algorithm)
    read = load_key(tmp_path / "state" / "device.key")
    assert read.public == made.public
    assert read.public.algorithm is algorithm
    for key in (made, read):
        made.public.verify(key.sign(b"data"), b"data")
        with pytest.raises(Rejected):
            made.public.verify(key.sign(b"data"), b"other data")


def test_an_ecdsa_signature_is_low_s(tmp_path: Path) -> None:
    key = create_key(tmp_path / "key", Algorithm.ES256)
    for number in range(50):
        signature = key.sign(bytes([number]))
        assert len(signature) == 64
        assert int.from_bytes(signature[32:], "big") <= P256_ORDER // 2


def test_two_keys_differ(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a").public != create_key(tmp_path / "b").public


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_a_key_file_is_its_owners_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"a key of long ago"])
def test_a_key_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = put_pem(tmp_path / "key", content)
    with pytest.raises(
        ConfigurationError, match=r"never overwritten\. To start anew, move it away"
    ):
        create_key(path)
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        create_key(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601, 0o620, 0o602, 0o644])
def test_a_key_that_others_could_use_is_refused(tmp_path: Path, mode: int) -> None:
    create_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    assert f"run chmod 600 {tmp_path / 'key'}" in refusal(tmp_path / "key")


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "key")
    assert "Not a directory" in refusal(put_pem(tmp_path / "file", b"") / "key")


def test_a_damaged_key_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    create_key(tmp_path / "whole")
    pem = (tmp_path / "whole").read_bytes()
    end = pem.rindex(b"-----")
    for size in range(0, end, 7):
        damaged = put_pem(tmp_path / "key", pem[:size])
        assert "is no unencrypted PEM private key" in refusal(damaged)
    assert "is no unencrypted PEM" in refusal(put_pem(tmp_path / "key", b"\0" * len(pem)))


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    assert "is no unencrypted PEM private key" in refusal(put_pem(tmp_path / "key", pem))


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    kinds: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "neither an Ed25519 nor an ECDSA key": rsa.generate_private_key(65537, 2048),
        "P-256": ec.generate_private_key(ec.SECP384R1()),
    }
    for why, private in kinds.items():
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        assert why in refusal(put_pem(tmp_path / "key", pem))


def test_a_key_of_a_kind_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """PKCS #8 of Ed25519 (RFC 8410 §10.3), its algorithm 1.3.101.112 changed to 1.3.85.112."""
    pem = (
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK1VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
        "-----END PRIVATE KEY-----\n"
    )
    assert "is no unencrypted PEM private key" in refusal(put_pem(tmp_path / "key", pem.encode()))


def test_a_key_made_by_another_tool_is_read(tmp_path: Path) -> None:
    """RFC 8410 §10.3, the example of an Ed25519 private key."""
    pem = (
        b"-----BEGIN PRIVATE KEY-----\n"
        b"MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
        b"-----END PRIVATE KEY-----\n"
    )
    key = load_key(put_pem(tmp_path / "key", pem, 0o400))
    expected = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
    assert key.public == PublicKey(Algorithm.EDDSA, bytes.fromhex(expected))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_signature_that_is_made_again_verifies_and_is_the_same(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    key = create_key(tmp_path / "key", algorithm)
    once, again = key.sign_again(b"what"), key.sign_again(b"what")
    key.public.verify(once, b"what")
    assert once == again
