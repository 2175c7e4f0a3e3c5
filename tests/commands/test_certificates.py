"""The broker's certificates, judged by openssl as well: who is let in, and for how long."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cryptometer.commands import certificates
from cryptometer.commands.certificates import (
    CA_LIFETIME,
    CLOCK_SKEW,
    LIFETIME,
    RENEWAL,
    Authority,
    KeyPair,
    make_authority,
    serial_of,
)
from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm
from hal.keyfile import create_key

NOW = datetime.now(UTC).replace(microsecond=0)
SECOND = timedelta(seconds=1)
SERIAL = serial_of(bytes(range(32)))


def key(folder: Path, name: str, algorithm: Algorithm = Algorithm.ES256) -> bytes:
    path = folder / name
    create_key(path, algorithm)
    return path.read_bytes()


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return make_authority(key(tmp_path, "ca.key"), "Cryptometer broker", NOW)


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def verify(
    folder: Path, ca: Authority, certificate: bytes, crl: bytes, at: datetime, purpose: str
) -> str:
    """What openssl says, as strict as RFC 5280 and as Python 3.13's default is."""
    for name, content in (("ca.pem", ca.pem), ("one.pem", certificate), ("crl.pem", crl)):
        (folder / name).write_bytes(content)
    done = openssl(
        *("verify", "-x509_strict", "-crl_check", "-purpose", purpose),
        *("-attime", str(int(at.timestamp())), "-CAfile", str(folder / "ca.pem")),
        *("-CRLfile", str(folder / "crl.pem"), str(folder / "one.pem")),
    )
    return done.stdout + done.stderr


def test_openssl_finds_nothing_to_strictly_object_to(ca: Authority, tmp_path: Path) -> None:
    crl = ca.revocation_list([], NOW)
    client = ca.issue_client("pv-1", SERIAL, NOW).certificate
    server = ca.issue_server("broker.example", key(tmp_path, "server.key"), NOW)
    for certificate, purpose in ((client, "sslclient"), (server, "sslserver")):
        for at in (NOW - CLOCK_SKEW, NOW, NOW + LIFETIME - SECOND):
            assert verify(tmp_path, ca, certificate, crl, at, purpose).endswith("one.pem: OK\n")
    assert "unsuitable certificate purpose" in verify(tmp_path, ca, client, crl, NOW, "sslserver")
    assert "unsuitable certificate purpose" in verify(tmp_path, ca, server, crl, NOW, "sslclient")
    ended = verify(tmp_path, ca, client, crl, NOW + LIFETIME + SECOND, "sslclient")
    assert "certificate has expired" in ended


def test_openssl_finds_the_revoked_one_revoked_for_as_long_as_the_ca_lasts(
    ca: Authority, tmp_path: Path
) -> None:
    crl = ca.revocation_list([SERIAL, 5], NOW)
    assert ca.lists_exactly(crl, {5, SERIAL})
    revoked = ca.issue_client("pv-1", SERIAL, NOW).certificate
    other = ca.issue_client("pv-2", SERIAL + 1, NOW).certificate
    late = NOW + LIFETIME - SECOND  # the list has not expired then: TLS would refuse everybody
    for at in (NOW, late):
        assert "certificate revoked" in verify(tmp_path, ca, revoked, crl, at, "sslclient")
        assert verify(tmp_path, ca, other, crl, at, "sslclient").endswith("OK\n")


def test_a_list_of_other_serials_or_of_another_ca_is_not_the_list(
    ca: Authority, tmp_path: Path
) -> None:
    crl = ca.revocation_list([1, 2], NOW)
    assert ca.lists_exactly(crl, {1, 2})
    for serials in (set[int](), {1}, {1, 2, 3}):
        assert not ca.lists_exactly(crl, serials)
    other = make_authority(key(tmp_path, "other.key"), "Cryptometer broker", NOW)
    assert not other.lists_exactly(crl, {1, 2})
    assert not ca.lists_exactly(b"no list", {1, 2})
    assert not ca.lists_exactly(crl[: len(crl) // 2], {1, 2})


def test_a_serial_number_is_positive_short_and_tells_registrations_apart() -> None:
    assert serial_of(bytes(32)) != serial_of(bytes([0] * 15 + [1] + [0] * 16))
    for identity in (bytes(32), b"\xff" * 32):
        assert 0 < serial_of(identity) < 2 ** (20 * 8 - 1)  # RFC 5280 §4.1.2.2
    assert serial_of(bytes(range(32))) == int("01" + bytes(range(16)).hex(), 16)


def test_the_common_name_is_the_partys(ca: Authority) -> None:
    pair = ca.issue_client("pv-1", SERIAL, NOW)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (name.value, certificate.serial_number) == ("pv-1", SERIAL)


def test_a_certificate_is_renewed_in_its_last_year(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue_client("pv-1", SERIAL, NOW)
    server_key = key(tmp_path, "server.key")
    server = KeyPair(ca.issue_server("127.0.0.1", server_key, NOW), server_key)
    end = NOW + LIFETIME
    assert ca.fits_client(pair, end - RENEWAL - SECOND)
    assert not ca.fits_client(pair, end - RENEWAL)
    assert ca.fits_server(server, "127.0.0.1", end - RENEWAL - SECOND)
    assert not ca.fits_server(server, "127.0.0.1", end - RENEWAL)


def test_no_certificate_outlives_the_ca(ca: Authority) -> None:
    late = NOW + CA_LIFETIME - timedelta(days=10)
    pair = ca.issue_client("pv-1", SERIAL, late)
    end = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc
    assert end == NOW + CA_LIFETIME


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "broker.example"])
def test_the_brokers_certificate_names_its_host_and_no_other(
    ca: Authority, tmp_path: Path, host: str
) -> None:
    server_key = key(tmp_path, "server.key")
    pair = KeyPair(ca.issue_server(host, server_key, NOW), server_key)
    assert ca.fits_server(pair, host, NOW)
    assert not ca.fits_server(pair, "other.example", NOW)
    assert not ca.fits_server(pair, "127.0.0.2", NOW)


def test_what_is_not_ours_or_not_of_its_key_does_not_fit(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue_client("pv-1", SERIAL, NOW)
    other = make_authority(key(tmp_path, "other.key"), "Cryptometer broker", NOW)
    theirs = other.issue_client("pv-1", SERIAL, NOW)
    assert ca.fits_client(pair, NOW)
    for wrong in (
        theirs,
        KeyPair(pair.certificate, theirs.key),
        KeyPair(pair.certificate, b"no key"),
        KeyPair(b"", pair.key),
        KeyPair(b"", b""),
    ):
        assert not ca.fits_client(wrong, NOW)


def test_keys_and_certificates_that_do_not_belong_together_are_refused(
    ca: Authority, tmp_path: Path
) -> None:
    ca_key = (tmp_path / "ca.key").read_bytes()
    assert Authority(ca_key, ca.pem).pem == ca.pem
    for wrong_key, pem, words in (
        (key(tmp_path, "other.key"), ca.pem, "not that of its key"),
        (ca_key, b"nothing", "is not PEM"),
        (b"nothing", ca.pem, "no unencrypted PEM key"),
        (key(tmp_path, "ed.key", Algorithm.EDDSA), ca.pem, "no ECDSA key"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Authority(wrong_key, pem)


def test_every_clients_key_is_its_own(ca: Authority) -> None:
    keys = {ca.issue_client("pv-1", SERIAL, NOW).key for _ in range(3)}
    assert len(keys) == 3
    assert certificates.RENEWAL < certificates.LIFETIME < certificates.CA_LIFETIME
