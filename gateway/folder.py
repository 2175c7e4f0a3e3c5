"""The gateway's folder: keys, requests, bundle, imports, store, ledger. Files and names only."""

import platform
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptometer import __version__, cbor, records
from cryptometer.community import Community, trust
from cryptometer.enrolment import Bundle, EnrolmentRequest
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.record_fields import Role
from cryptometer.records import Record
from gateway.config import Config, read_config
from gateway.founding import whole_chain
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from hal.broker import install_broker
from hal.files import MISPLACED, clear_unfinished, hold, put_file
from hal.handing import read_given
from hal.keyfile import FileKey, create_key, load_key

SOFTWARE = f"cryptometer-gateway {__version__}"
_AS_SERVICE = "run the command as the gateway's user: sudo -u cryptometer-gateway"

_TOML = """\
# cryptometer-gateway: every setting has a default; see docs/operations.md.
# ledger = "ledger"
# accept_unsynchronised = false
# [clock]
# driver = "system"
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything of one gateway lies."""

    path: Path
    file: Path  # gateway.toml, by whatever name
    config: Config

    @property
    def state(self) -> Path:
        return self.path / self.config.state

    @property
    def ledger(self) -> Path:
        return self.path / self.config.ledger

    @property
    def store(self) -> Path:
        return self.state / "store.sqlite"

    @property
    def key(self) -> Path:
        return self.state / "gateway.key"

    @property
    def next_key(self) -> Path:
        """The key that takes the other's place, once its registration acts."""
        return self.state / "gateway-next.key"

    @property
    def vpp_key(self) -> Path:
        return self.state / "vpp.key"

    @property
    def private(self) -> Path:
        """Members' consumption and personal data, which the ledger never holds."""
        return self.state / "private.db"

    @property
    def readings(self) -> Path:
        """What people read off meters' displays."""
        return self.state / "readings.csv"

    @property
    def bundle(self) -> Path:
        return self.state / "gateway.bundle"

    @property
    def broker(self) -> Path:
        return self.state / "broker"

    @property
    def lock(self) -> Path:
        return self.state / "gateway.lock"

    @property
    def backup_lock(self) -> Path:
        """Held by whoever copies what is private, into `scratch`."""
        return self.state / "backup.lock"

    @property
    def scratch(self) -> Path:
        return self.state / "backup.scratch"

    @property
    def imports(self) -> Path:
        return self.state / "imports"

    def load_key(self) -> FileKey:
        return load_key(self.key)

    def load_vpp_key(self) -> FileKey:
        return load_key(self.vpp_key)

    def load_next_key(self) -> FileKey | None:
        return load_key(self.next_key) if self.next_key.exists() else None

    def open_store(self, *, read_only: bool = False) -> SqliteStore:
        return SqliteStore(self.store, read_only=read_only)


def open_folder(config: Path) -> Folder:
    """The folder of a `gateway.toml`; a folder may be given in place of its file.

    Raises:
        ConfigurationError: it cannot be read, or a setting is wrong.
    """
    # What is not there yet is taken for a folder: so the message names the one to be made.
    path = config if config.suffix == ".toml" or config.is_file() else config / "gateway.toml"
    try:
        return Folder(path.parent, path, read_config(tomllib.loads(path.read_text())))
    except PermissionError:
        raise ConfigurationError(f"{path} is closed to this user: {_AS_SERVICE}") from None
    except MISPLACED as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}; run cryptometer-gateway init {path.parent}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def initialise(path: Path) -> str:
    """Makes a gateway's folder: configuration, keys, requests, an empty store. Goes on where an
    earlier call was cut off.

    Raises:
        ConfigurationError: there is one already; it is left as it is.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    toml = path / "gateway.toml"
    if not toml.exists():
        put_file(toml, _TOML.encode(), mode=0o644)
    folder = open_folder(toml)
    # The store comes last: before it is there, nobody can have the keys.
    is_cut_off = not any(one.exists() for one in (folder.store, folder.bundle, folder.ledger))
    lines = []
    for role, at in ((Role.GATEWAY, folder.key), (Role.VPP, folder.vpp_key)):
        key = load_key(at) if is_cut_off and at.exists() else create_key(at)
        lines.append(_write_request(role, at, key))
    # The epoch is a time, so that a restored store's is greater whatever it was copied from.
    create_store(folder.store, epoch=int(time.time()))
    folder.imports.mkdir(mode=0o700, exist_ok=True)
    lines.append("Give both requests to the authority; then: cryptometer-gateway import BUNDLE")
    return "\n".join(lines)


def _write_request(role: Role, key_path: Path, key: FileKey) -> str:
    """Writes the request that goes with a key; returns a line on them."""
    now_ms = time.time_ns() // 1_000_000
    request = EnrolmentRequest(role, key.public, platform.node()[:120], SOFTWARE, now_ms)
    target = key_path.with_suffix(".request")
    put_file(target, records.seal(request, None, key).raw, mode=0o644)
    return f"{role:8} {key.public.thumbprint.hex()}  {target}"


def prepare_successor(folder: Folder) -> str:
    """Makes the key that is to take the place of this gateway's.

    Raises:
        ConfigurationError: there is one already; it is left as it is.
    """
    line = _write_request(Role.GATEWAY, folder.next_key, create_key(folder.next_key))
    return (
        f"{line}\n"
        "The service goes on signing with the key it has. Have the authority register the request\n"
        "under this gateway's name, and import its records."
    )


def settle_successor(folder: Folder, store: SqliteStore) -> bool:
    """Puts the successor's key in the place of the old one if its registration acts: from then on
    the old one signs nothing. Whether it did."""
    key, state = folder.load_next_key(), store.state()
    if key is None or state is None:
        return False
    acts = any(
        role is Role.GATEWAY and party.key == key.public
        for (role, _), party in state.parties.items()
    )
    if acts:
        # The request first: were the key alone moved, the next start would find nothing to move.
        request = folder.next_key.with_suffix(".request")
        if request.exists():
            request.replace(folder.key.with_suffix(".request"))
        folder.next_key.replace(folder.key)
    return acts


@contextmanager
def hold_scratch(folder: Folder) -> Iterator[Path]:
    """A folder for copies of what is private, empty before and gone behind; also that which a
    killed program has left.

    Raises:
        ConfigurationError: another program has it.
    """
    with hold(folder.backup_lock):
        if folder.scratch.exists():
            shutil.rmtree(folder.scratch)
        folder.scratch.mkdir(mode=0o700)
        try:
            yield folder.scratch
        finally:
            shutil.rmtree(folder.scratch)


def clear_left(folder: Folder) -> None:
    """Removes what killed programs have left in a gateway's folder, unfinished files and copies of
    what is private; for the gateway, before it begins to write."""
    clear_unfinished(folder.ledger)
    with suppress(ConfigurationError):  # whoever holds it is at work, and clears it itself
        clear_scratch(folder)


def clear_scratch(folder: Folder) -> None:
    """Removes copies of what is private that a killed program has left.

    Raises:
        ConfigurationError: a program is at work on them.
    """
    if folder.scratch.exists():
        with hold_scratch(folder):
            pass


def import_file(folder: Folder, source: Path) -> str:
    """Takes a bundle, or the authority's records, for the gateway to work with.

    A running gateway finds the records within a second; they stand in its next block.

    Raises:
        ConfigurationError: the file cannot be read.
        Rejected: it is not signed by this community's authority.
    """
    data = read_given(source)
    bundle = _bundle(data)
    raws = [bundle.genesis, *bundle.records] if bundle is not None else _raws(data)
    if not raws:
        raise Rejected(Reason.MALFORMED, f"{source} holds no authority records")
    community = trust(raws[0], raws[1:])
    with closing(folder.open_store(read_only=True)) as store:
        known = store.authority()
    if known and records.decode(known[0]).identity != community.id:
        raise Rejected(Reason.OTHER_COMMUNITY, f"{source} is of another community")
    if bundle is not None:
        own = {folder.load_key().public}
        if (successor := folder.load_next_key()) is not None:
            own.add(successor.public)
        if own.isdisjoint(community.keys_of(Role.GATEWAY)):
            raise Rejected(Reason.UNKNOWN_KEY, f"{source} does not register this gateway's key")
        install_broker(folder.broker, bundle.broker)
        put_file(folder.bundle, data)
        return f"enrolled as gateway of {community.parameters.name} ({community.id.hex()})"
    # A part of the chain can neither found the store nor follow what it holds.
    whole_chain(raws)
    folder.imports.mkdir(mode=0o700, exist_ok=True)
    newest = records.decode(raws[-1]).identity.hex()[:16]
    put_file(folder.imports / f"{len(raws):08d}-{newest}.records", data)
    return f"{len(raws)} authority records of {community.parameters.name} for the gateway"


def waiting_imports(folder: Folder) -> list[Path]:
    """Imported files the gateway has not taken in yet, oldest first."""
    return sorted(folder.imports.glob("*.records"))


def read_import(path: Path) -> list[bytes]:
    """The authority records of an imported file.

    Raises:
        Rejected: it holds something else.
    """
    return _raws(path.read_bytes())


def read_own_bundle(folder: Folder) -> Bundle:
    """The bundle that enrolled this gateway.

    Raises:
        ConfigurationError: there is none yet.
    """
    if not folder.bundle.exists():
        raise ConfigurationError(
            "this gateway is not enrolled: cryptometer-gateway import gateway.bundle"
        )
    bundle = _bundle(folder.bundle.read_bytes())
    if bundle is None:
        raise ConfigurationError(f"{folder.bundle} is no bundle; import it again")
    return bundle


def read_community(store: SqliteStore) -> Community:
    """The community as the store's authority records found it.

    Raises:
        ConfigurationError: nothing was imported yet.
    """
    known = store.authority()
    if not known:
        raise ConfigurationError(
            "there are no authority records yet: cryptometer-gateway import authority.records"
        )
    return trust(known[0], known[1:])


def _bundle(data: bytes) -> Bundle | None:
    """The bundle in a file, None if it is something else."""
    try:
        record: Record = records.decode(data)
    except Rejected:
        return None
    body = record.body
    if not isinstance(body, Bundle):
        return None
    authority = trust(body.genesis, []).parameters.authority
    if record.key_id != authority.thumbprint:
        raise Rejected(Reason.UNKNOWN_KEY, "the bundle is not signed by its authority")
    record.envelope.verify(authority)
    return body


def _raws(data: bytes) -> list[bytes]:
    value = cbor.decode(data)
    if not isinstance(value, list) or not all(isinstance(one, bytes) for one in value):
        raise Rejected(Reason.MALFORMED, "neither a bundle nor an array of authority records")
    return [one for one in value if isinstance(one, bytes)]
