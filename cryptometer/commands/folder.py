"""The authority's folder. What it holds for true, and what follows from that and can be made anew.

True are `authority.key`, `authority.records`, `broker.toml`, `broker-ca.key`, `mosquitto/ca.pem`
and `credentials/`. From them follow `community.pub`, `bundles/` and the rest of `mosquitto/`.

A change is decided in one instant, when `authority.records` is replaced. Credentials are written
before it, under the identity of the registration they belong to: if it never comes to stand in the
records, they mean nothing. All that follows is written after it, by the one function that `export`
is; so a run that was killed is finished by the next one, whichever command that is.
"""

import fcntl
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptometer import cbor, records
from cryptometer.authority_records import AuthorityRecord, Genesis, Registration, Revocation
from cryptometer.commands import broker, certificates
from cryptometer.commands.broker import Address, Credential
from cryptometer.commands.roll import NAMES_ITS_KEY, Roll, Standing, found_roll, open_roll
from cryptometer.community import encode_community, trust
from cryptometer.enrolment import AUTHORITY_RECORDS_MAX, Broker, Bundle
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.records import Record
from cryptometer.settings import read_settings, setting
from cryptometer.wire import decode_map, encode_map
from hal.files import put_file
from hal.keyfile import FileKey, create_key, load_key

_PUBLIC_MODE = 0o644
_CREDENTIAL_FILE = re.compile(r"[a-z0-9-]+\.[0-9a-f]{64}")


class CredentialKind(StrEnum):
    """How a party proves to the broker who it is."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
class BrokerFile:
    """`broker.toml`. After a change here: `cryptometer authority export`, and hand out bundles."""

    url: str = setting("mqtts://host:port, or mqtt://127.0.0.1:port for a demo on one machine")
    folder: str = setting("where the files of mosquitto/ lie there", broker.INSTALLED)


@dataclass(frozen=True, slots=True)
class Folder:
    """An authority's folder, opened and held against other commands."""

    path: Path
    signer: FileKey
    address: Address
    installed: str
    roll: Roll


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Reads the folder and checks its whole chain; no other command may use it meanwhile.

    Raises:
        ConfigurationError: it is none, another command works in it, or a file does not fit.
        Rejected: the chain does not hold.
    """
    if not _records(path).exists():
        raise ConfigurationError(
            f"there is no authority in {path}; found one with: cryptometer authority init {path}"
        )
    with _held(path):
        signer = load_key(path / "authority.key")
        address, installed = _read_broker(path)
        yield Folder(path, signer, address, installed, _read_roll(path, signer.public))


def found_folder(
    path: Path, broker_file: BrokerFile, genesis: Callable[[PublicKey], Genesis], now: datetime
) -> tuple[Folder, list[str]]:
    """Founds a community, and writes all that follows.

    A key that lies there without records, because a run was cut off or the operator put it there,
    is used.

    Args:
        path: the folder; made with mode 0700 when missing.
        broker_file: where the broker is.
        genesis: the community's parameters, given the authority's key.
        now: UTC, of this machine: certificates know no other clock.

    Returns:
        The folder, and what the operator should know.

    Raises:
        ConfigurationError: an authority is there already, or a value is out of range.
    """
    address = broker.parse_address(broker_file.url)
    broker.check_folder(broker_file.folder)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _held(path):
        if _records(path).exists():
            raise ConfigurationError(
                f"{path} holds an authority, and nothing is overwritten. If a command was cut off,"
                f" finish it with: cryptometer authority export {path}"
            )
        key = path / "authority.key"
        signer = load_key(key) if key.exists() else create_key(key)
        roll = found_roll(genesis(signer.public), signer)
        text = f'url = "{address.url}"\nfolder = "{broker_file.folder}"\n'
        put_file(path / "broker.toml", text.encode())
        folder = Folder(path, signer, address, broker_file.folder, roll)
        _decide(folder)
        return folder, write_derived(folder, now)


def commit(
    folder: Folder, roll: Roll, kinds: Mapping[str, CredentialKind], now: datetime
) -> tuple[Folder, list[str]]:
    """Makes an extended chain the folder's, and writes all that follows.

    Args:
        folder: as it was opened.
        roll: its chain, extended.
        kinds: the credential of each name that gets a new one.
        now: UTC, of this machine.

    Returns:
        The folder as it is now, and what the operator should know.
    """
    after = Folder(folder.path, folder.signer, folder.address, folder.installed, roll)
    if folder.address.tls:
        ca = _broker_ca(after, now)
        standings = roll.standings()
        for name, kind in kinds.items():
            _put_credential(
                after, standings[name], _make_credential(ca, standings[name], kind, now)
            )
    _decide(after)
    return after, write_derived(after, now)


def write_derived(folder: Folder, now: datetime) -> list[str]:
    """Writes, where it differs, all that follows from the records; returns what the operator
    should know. A credential that is missing, or that the broker would soon refuse, is replaced.
    """
    _put(folder.path / "community.pub", _community_pub(folder.roll).encode(), _PUBLIC_MODE)
    standings = list(folder.roll.standings().values())
    credentials: dict[str, Credential] = {}
    said: list[str] = []
    ca: certificates.Authority | None = None
    if folder.address.tls:
        ca = _broker_ca(folder, now)
        for standing in standings:
            if not standing.revoked:
                credentials[standing.name], fresh = _credential(folder, ca, standing, now)
                if fresh:
                    said.append(f"{standing.name} has a new credential: hand out its bundle again")
        _write_mosquitto(folder, ca, standings, credentials, now)
    _write_bundles(folder, standings, credentials, None if ca is None else ca.pem)
    _remove_old_credentials(folder, standings)
    _remove_unfinished(folder.path)
    return said


# --- What is true. -------------------------------------------------------------------------------


def _records(path: Path) -> Path:
    return path / "authority.records"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keeps other commands out: two that extend one chain would fork it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another command works in {path}; try again") from None
        yield
    finally:
        os.close(descriptor)


def _decide(folder: Folder) -> None:
    raws = [record.raw for record in folder.roll.records]
    _put(_records(folder.path), cbor.encode(raws), _PUBLIC_MODE)


def _read_roll(path: Path, key: PublicKey) -> Roll:
    try:
        match cbor.decode(_records(path).read_bytes()):
            case [bytes(), *_] as raws if all(isinstance(raw, bytes) for raw in raws):
                roll = open_roll(raws)  # type: ignore[arg-type]  # checked just above
            case _:
                raise Rejected(Reason.MALFORMED, "not an array of records")
    except Rejected as refused:
        raise Rejected(refused.reason, f"{_records(path)}: {refused.detail}") from None
    if roll.genesis.authority != key:
        raise ConfigurationError(f"{path / 'authority.key'} is not the key of this authority")
    return roll


def _read_broker(path: Path) -> tuple[Address, str]:
    file = path / "broker.toml"
    try:
        settings = read_settings(BrokerFile, tomllib.loads(file.read_text()), str(file))
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None
    broker.check_folder(settings.folder)
    return broker.parse_address(settings.url), settings.folder


def _broker_ca(folder: Folder, now: datetime) -> certificates.Authority:
    """The broker's CA; made when the folder has none yet, or its key is gone."""
    key, certificate = folder.path / "broker-ca.key", folder.path / "mosquitto" / "ca.pem"
    if not key.exists():
        certificate.unlink(missing_ok=True)
        create_key(key, Algorithm.ES256)
    if certificate.exists():
        return certificates.Authority(key.read_bytes(), certificate.read_bytes())
    name = f"Cryptometer broker {folder.roll.state.community.hex()[:16]}"
    ca = certificates.make_authority(key.read_bytes(), name, now)
    _put(certificate, ca.pem, _PUBLIC_MODE)
    return ca


def _credential(
    folder: Folder, ca: certificates.Authority, standing: Standing, now: datetime
) -> tuple[Credential, bool]:
    """A party's credential, and whether it had to be made anew."""
    file = _credential_file(folder, standing)
    if file.exists():
        credential = decode_map(Credential, cbor.decode(file.read_bytes()))
        if credential.password is not None or ca.fits_client(_key_pair(credential), now):
            return credential, False
    credential = _make_credential(ca, standing, CredentialKind.CERTIFICATE, now)
    _put_credential(folder, standing, credential)
    return credential, True


def _key_pair(credential: Credential) -> certificates.KeyPair:
    return certificates.KeyPair(credential.certificate or b"", credential.key or b"")


def _make_credential(
    ca: certificates.Authority, standing: Standing, kind: CredentialKind, now: datetime
) -> Credential:
    if kind is CredentialKind.PASSWORD:
        password = secrets.token_urlsafe(broker.PASSWORD_BYTES)
        return Credential(standing.name, password, secrets.token_bytes(broker.SALT_BYTES))
    serial = certificates.serial_of(standing.registration.identity)
    pair = ca.issue_client(standing.name, serial, now)
    return Credential(standing.name, certificate=pair.certificate, key=pair.key)


def _put_credential(folder: Folder, standing: Standing, credential: Credential) -> None:
    _put(_credential_file(folder, standing), cbor.encode(encode_map(credential)))


def _credential_file(folder: Folder, standing: Standing) -> Path:
    name = f"{standing.name}.{standing.registration.identity.hex()}"
    return folder.path / "credentials" / name


def _remove_old_credentials(folder: Folder, standings: list[Standing]) -> None:
    current = {_credential_file(folder, one) for one in standings if not one.revoked}
    for file in (folder.path / "credentials").glob("*.*"):
        if file not in current and _CREDENTIAL_FILE.fullmatch(file.name):
            file.unlink()


def _remove_unfinished(path: Path) -> None:
    """Removes what a killed command left half done: it may hold a key or a password."""
    for folder in (path, *(path / name for name in ("bundles", "credentials", "mosquitto"))):
        for file in [*folder.glob("*.new"), *folder.glob("*.key.*")]:
            if file.suffix == ".new" or file.suffix[1:].isdecimal():
                file.unlink(missing_ok=True)


# --- What follows. -------------------------------------------------------------------------------


def _community_pub(roll: Roll) -> str:
    """Genesis, gateways and VPPs. Replaced keys stay, since older checkpoints and proofs are
    signed with them; revoked ones do not."""
    genesis, *others = roll.records
    known: list[Record] = []
    for record in others:
        match record.body:
            case Registration(role=role) if role in NAMES_ITS_KEY:
                known.append(record)
            case Revocation(name=name):
                known = [one for one in known if _registers(one) != name]
    return encode_community(trust(genesis.raw, [record.raw for record in known]))


def _registers(record: Record) -> str | None:
    return record.body.name if isinstance(record.body, Registration) else None


def _write_bundles(
    folder: Folder,
    standings: list[Standing],
    credentials: Mapping[str, Credential],
    ca: bytes | None,
) -> None:
    genesis = folder.roll.records[0].raw
    shared = [
        one.registration for one in standings if one.role in NAMES_ITS_KEY and not one.revoked
    ]
    for standing in standings:
        file = folder.path / "bundles" / f"{standing.name}.bundle"
        if standing.revoked:
            file.unlink(missing_ok=True)
            continue
        body = Bundle(
            standing.name,
            genesis,
            _bundled(shared, standing),
            _party_broker(folder.address, credentials.get(standing.name), ca),
        )
        bundle = records.seal(body, folder.roll.state.community, folder.signer)
        _put(file, bundle.raw)


def _bundled(shared: list[Record], standing: Standing) -> tuple[bytes, ...]:
    """The shared records, the party's registration and the newest of its others, each once, in
    order of the chain."""
    needed = [record for record in shared if record not in standing.own]
    needed.append(standing.registration)
    others = [record for record in standing.own if record is not standing.registration]
    room = AUTHORITY_RECORDS_MAX - len(needed)  # never used up: see NAMES_ITS_KEY_MAX
    return tuple(record.raw for record in sorted((*needed, *others[-room:]), key=_sequence))


def _sequence(record: Record) -> int:
    body = record.body
    return body.sequence if isinstance(body, AuthorityRecord) else 0


def _party_broker(address: Address, credential: Credential | None, ca: bytes | None) -> Broker:
    if credential is None:
        return Broker(address.url)
    if credential.password is not None:
        return Broker(address.password_url, ca, credential.name, credential.password)
    return Broker(address.url, ca, certificate=credential.certificate, key=credential.key)


def _write_mosquitto(
    folder: Folder,
    ca: certificates.Authority,
    standings: list[Standing],
    credentials: Mapping[str, Credential],
    now: datetime,
) -> None:
    there = folder.path / "mosquitto"
    community = folder.roll.state.community
    text = broker.mosquitto_conf(folder.address, folder.installed, folder.roll.genesis.name)
    _put(there / "mosquitto.conf", text.encode(), _PUBLIC_MODE)
    _write_server_certificate(folder, ca, now)
    valid = {one.registration.identity for one in standings if not one.revoked}
    revoked = {
        certificates.serial_of(record.identity)
        for standing in standings
        for record in standing.own
        if isinstance(record.body, Registration) and record.identity not in valid
    }
    listed = there / "crl.pem"
    if not listed.exists() or not ca.lists_exactly(listed.read_bytes(), revoked):
        _put(listed, ca.revocation_list(revoked, now), _PUBLIC_MODE)
    parties = [(one.role, one.name) for one in standings if not one.revoked]
    _put(there / "acl", broker.acl(community, parties).encode())
    lines = [
        broker.password_line(credential)
        for credential in credentials.values()
        if credential.password is not None
    ]
    _put(there / "passwords", "".join(lines).encode())


def _write_server_certificate(folder: Folder, ca: certificates.Authority, now: datetime) -> None:
    key = folder.path / "mosquitto" / "server.key"
    certificate = folder.path / "mosquitto" / "server.pem"
    if not key.exists():
        create_key(key, Algorithm.ES256)
    if certificate.exists():
        pair = certificates.KeyPair(certificate.read_bytes(), key.read_bytes())
        if ca.fits_server(pair, folder.address.host, now):
            return
    issued = ca.issue_server(folder.address.host, key.read_bytes(), now)
    _put(certificate, issued, _PUBLIC_MODE)


def _put(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file where its content differs; makes its folder when missing."""
    if path.exists() and path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    put_file(path, data, mode)
