"""X.509 for the broker alone: its CA, its own certificate, its clients' ones, and who lost theirs.

Records are signed with other keys; whoever holds a key of these can disturb delivery, no more.
ECDSA P-256 throughout, since not every TLS library of a small device knows Ed25519.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cryptometer.errors import ConfigurationError

_DAY = timedelta(days=1)
CA_LIFETIME = 30 * 365 * _DAY  # as long as the community: a new CA means new bundles for all
LIFETIME = 10 * 365 * _DAY  # of the broker's and its clients': longer than a meter's verification
RENEWAL = 365 * _DAY  # whoever runs the command in the last year gets a new one
# Valid since a day ago: a board or a broker whose clock shows local time as UTC is 14 h off.
CLOCK_SKEW = _DAY

_SERIAL_BYTES = 16  # of a record's identity; RFC 5280 §4.1.2.2 allows 20, positive


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The CA of one community's broker."""

    def __init__(self, key_pem: bytes, certificate_pem: bytes) -> None:
        """
        Raises:
            ConfigurationError: the two are no CA of this kind, or do not belong together.
        """
        self._key = _load_key(key_pem)
        self.pem = certificate_pem
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError:
            raise ConfigurationError("the certificate of the broker's CA is not PEM") from None
        if self._certificate.public_key() != self._key.public_key():
            raise ConfigurationError("the certificate of the broker's CA is not that of its key")

    def issue_client(self, name: str, serial: int, now: datetime) -> KeyPair:
        """A client certificate with a fresh key; the broker takes the common name as user."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self._issue(key.public_key(), name, serial, now, usage)
        return KeyPair(certificate, _key_pem(key))

    def issue_server(self, host: str, key_pem: bytes, now: datetime) -> bytes:
        """The broker's certificate, PEM, for the host name or IP address its clients use."""
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        key = _load_key(key_pem).public_key()
        serial = x509.random_serial_number()
        return self._issue(key, "broker", serial, now, usage, _alternative_name(host))

    def fits_client(self, pair: KeyPair, now: datetime) -> bool:
        """Whether a client certificate is ours, that of its key, and far from its end."""
        return self._fits(pair, now)

    def fits_server(self, pair: KeyPair, host: str, now: datetime) -> bool:
        """Whether the broker's certificate is ours, names `host`, and is far from its end."""
        if not self._fits(pair, now):
            return False
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return _alternative_name(host) == names

    def revocation_list(self, serials: Collection[int], now: datetime) -> bytes:
        """The list of revoked certificates, PEM. It is valid as long as the CA: TLS refuses
        everybody once a list has expired, and a broker must not stop because nobody came by."""
        begin = now - CLOCK_SKEW
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(begin)
            .next_update(self._certificate.not_valid_after_utc)
            .add_extension(self._authority_key_id, critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def lists_exactly(self, revocation_list: bytes, serials: Collection[int]) -> bool:
        """Whether a list is ours and revokes these certificates and no other."""
        try:
            known = x509.load_pem_x509_crl(revocation_list)
        except ValueError:
            return False
        if not known.is_signature_valid(self._key.public_key()):
            return False
        return {entry.serial_number for entry in known} == set(serials)

    @property
    def _authority_key_id(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        serial: int,
        now: datetime,
        *more: x509.ExtensionType,
    ) -> bytes:
        end = min(now + LIFETIME, self._certificate.not_valid_after_utc)
        builder = _builder(name, self._certificate.subject, key, serial, now, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(self._authority_key_id, critical=False)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _fits(self, pair: KeyPair, now: datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate)
            certificate.verify_directly_issued_by(self._certificate)
            key = _load_key(pair.key)
        except Exception:  # noqa: BLE001 - the library raises several kinds on what does not fit
            return False
        lasts = certificate.not_valid_after_utc - now > RENEWAL
        return lasts and certificate.public_key() == key.public_key()


def make_authority(key_pem: bytes, name: str, now: datetime) -> Authority:
    """A CA that signs itself.

    Args:
        key_pem: its P-256 private key.
        name: its common name, up to 64 characters.
        now: UTC.
    """
    key = _load_key(key_pem)
    subject = _name(name)
    builder = _builder(
        name, subject, key.public_key(), x509.random_serial_number(), now, now + CA_LIFETIME
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Authority(key_pem, builder.sign(key, SHA256()).public_bytes(Encoding.PEM))


def serial_of(identity: bytes) -> int:
    """The serial number of the certificate that goes with a record: so the chain alone says which
    certificates are revoked."""
    return int.from_bytes(b"\x01" + identity[:_SERIAL_BYTES], "big")


def _builder(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_name(host: str) -> x509.SubjectAlternativeName:
    try:
        return x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    except ValueError:
        return x509.SubjectAlternativeName([x509.DNSName(host)])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise ConfigurationError("a key of the broker is no unencrypted PEM key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("a key of the broker is no ECDSA key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
