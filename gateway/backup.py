"""Backup and restore. A backup is one file: keys, store and ledger of one moment.

A restored store lacks what came after the backup. It is brought forward from the ledger's files as
far as they go, and begins a new epoch, so that devices send again what it has lost.
"""

import io
import os
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from cryptometer import records
from cryptometer.authority_records import AuthorityRecord
from cryptometer.block import check_block
from cryptometer.block_header import Header
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.records import Record
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Read,
    encode_bundle,
    levels_of,
    read_entries,
    read_tile,
    tiles_of,
)
from gateway.filing import file_block
from gateway.folder import Folder, hold_scratch, open_folder, read_community
from gateway.ledger import Ledger
from gateway.sqlite_file import STORE_MODE, connect
from gateway.sqlite_format import set_epoch
from gateway.sqlite_store import SqliteStore
from gateway.store import Changes
from hal.files import DiskTree, make_folder, put_file, put_stream, sync_folder

_TOML, _STORE, _PRIVATE = "gateway.toml", "store.sqlite", "private.db"
_KEPT = (
    "gateway.key",
    "gateway-next.key",
    "vpp.key",
    "gateway.request",
    "gateway-next.request",
    "vpp.request",
    "gateway.bundle",
    "readings.csv",
)
_KEPT_FOLDERS = ("broker", "imports")
_LEDGER = "ledger"
_CHUNK = 2**20
_TOGETHER = 256  # ledger files written together: their folders are synced once, memory is bounded


def backup(folder: Folder, out: Path) -> str:
    """Writes a backup; the gateway may go on running. The file holds its private keys.

    Raises:
        ConfigurationError: there is nothing to back up, or the file exists.
        Rejected: the ledger's files are damaged.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists, and a backup is never overwritten")
    if not folder.store.exists():
        raise ConfigurationError(f"there is no store at {folder.store}")
    beside = out.with_name(out.name + ".new")
    try:
        count = _write_archive(folder, beside)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    beside.replace(out)
    sync_folder(out.absolute().parent)
    return (
        f"{out}: {count} files. It holds the gateway's private keys and what is known of members:"
        " keep it closed."
    )


def _write_archive(folder: Folder, path: Path) -> int:
    """Writes a backup's file, durably; returns how many files are in it."""
    count = 0
    # Written as it is read: a ledger of years does not fit in memory.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in _members(folder):
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = _size(content), 0o600, int(time.time())
                archive.addfile(member, content)
                count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def restore(source: Path, target: Path, newer_ledger: Path | None) -> str:
    """Makes a gateway's folder from a backup, in a new epoch.

    Args:
        source: the backup.
        target: a folder that does not exist yet, or is empty.
        newer_ledger: ledger files from elsewhere (a mirror, the old disk), newer than the backup.

    Raises:
        ConfigurationError: the target is not empty, or the backup is no backup.
        Rejected: the ledger's files do not hold.
    """
    _check_empty(target)
    folder = _unpack(source, target)
    # A new epoch before anything else: what is left of a restore that fails must not run in the
    # old one, as if it still had all that it once acknowledged.
    with closing(folder.open_store(read_only=True)) as old:
        epoch = max(old.epoch + 1, int(time.time()))
    with closing(connect(folder.store)) as connection:
        set_epoch(connection, epoch)
    blocks = 0
    with closing(folder.open_store()) as store:
        if store.authority():
            community = read_community(store)
            ledger = Ledger(DiskTree(folder.ledger))
            if newer_ledger is not None:
                _take_newer(newer_ledger, folder, ledger, community)
            blocks = roll_forward(store, ledger, community)
        state = store.state()
    step = "none" if state is None or state.frontier.size == 0 else str(state.step)
    return f"restored in epoch {epoch}, {blocks} blocks brought forward, newest step {step}"


def roll_forward(store: SqliteStore, ledger: Ledger, community: Community) -> int:
    """Applies the ledger's blocks that the store does not have; returns how many.

    Raises:
        Rejected: the first thing in them that does not hold.
    """
    state, signed = store.state(), ledger.checkpoint()
    if state is None or signed is None:
        return 0
    # Whoever had signed it before his key was revoked: it is our own folder by now.
    checkpoint = community.open_checkpoint(signed, revoked=True)
    if checkpoint.size < state.frontier.size:
        return 0  # committed and not yet published: the next start publishes it
    block: list[Record] = []
    blocks = 0
    for tile in tiles_of(None, state.frontier.size, checkpoint.size):
        begin = tile.index * TILE_WIDTH
        for leaf, raw in enumerate(read_entries(tile, ledger.read), begin):
            if leaf < state.frontier.size + len(block):
                continue
            record = records.decode(raw)
            block.append(record)
            if not isinstance(record.body, Header):
                continue
            checked = check_block(state, block)
            known = len(store.authority())
            fresh = tuple(
                one
                for one in block
                if isinstance(one.body, AuthorityRecord) and one.body.sequence >= known
            )
            # Only the newest block's signed checkpoint is known; the others' were replaced by it.
            newest = checked.state.checkpoint == checkpoint
            known_note = signed.decode() if newest else ""
            new = file_block(state, checked, block, known_note, made_here=False)
            size = checked.state.frontier.size
            store.commit(Changes(authority=fresh, block=new, published=size))
            state, block, blocks = checked.state, [], blocks + 1
    if state.checkpoint != checkpoint:
        raise Rejected(Reason.BAD_CHECKPOINT, "the ledger's files do not give its checkpoint")
    return blocks


def _members(folder: Folder) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of what a backup holds, the configuration first: it says where the rest
    belongs. Each content is read before the next is asked for."""
    yield _TOML, io.BytesIO(folder.file.read_bytes())
    for name in _KEPT:
        if (folder.state / name).exists():
            yield name, io.BytesIO((folder.state / name).read_bytes())
    for part in _KEPT_FOLDERS:
        for path in sorted((folder.state / part).glob("*")):
            # A running gateway takes imports in: one gone from here is in the store.
            with suppress(FileNotFoundError):
                if not path.name.endswith(".new"):
                    yield f"{part}/{path.name}", io.BytesIO(path.read_bytes())
    with hold_scratch(folder) as scratch:
        with _copied(folder.store, scratch / _STORE) as content:
            yield _STORE, content
        if folder.private.exists():
            # Salts that are lost open nothing that the ledger has committed to.
            with _copied(folder.private, scratch / _PRIVATE) as content:
                yield _PRIVATE, content
        with closing(SqliteStore(scratch / _STORE, read_only=True)) as store:
            community = read_community(store) if store.authority() else None
    # The store first, the ledger after: the ledger's files may be ahead, and hardly behind.
    if community is not None:
        for name, data in _ledger_files(DiskTree(folder.ledger).read, community):
            yield f"{_LEDGER}/{name}", io.BytesIO(data)


@contextmanager
def _copied(database: Path, copy: Path) -> Iterator[IO[bytes]]:
    """The bytes of a database of one moment, whoever writes to it meanwhile."""
    try:
        with (
            closing(connect(database, read_only=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, or a disk that is full
            raise
        found = str(error)
    found = " ".join(found.split())
    if found != "ok":
        # It must not take the place of an older one that may be whole.
        raise ConfigurationError(
            f"{database} is damaged ({found}), and no backup is made of that: keep the older ones"
        )
    with copy.open("rb") as file:
        yield file


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(_CHUNK):
        yield chunk


def _size(content: IO[bytes]) -> int:
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    return size


def _ledger_files(read: Read, community: Community) -> Iterator[tuple[str, bytes]]:
    """The files of a ledger as its checkpoint of this moment names them, while it may grow: what
    was partial then may be full by now."""
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        return
    size = community.open_checkpoint(signed, revoked=True).size
    for tile in tiles_of(None, 0, size):
        yield tile.path, encode_bundle(read_entries(tile, read))
    for level in levels_of(size):
        for tile in tiles_of(level, 0, size):
            yield tile.path, read_tile(tile, read)
    yield CHECKPOINT_PATH, signed


class _Publisher:
    """Writes a ledger's files in the order in which they come, some of them together."""

    def __init__(self, tree: DiskTree) -> None:
        self._tree = tree
        self._files: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self._files[name] = data
        if len(self._files) == _TOGETHER:
            self.finish()

    def finish(self) -> None:
        self._tree.put_all(self._files)
        self._files = {}


def _check_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} is not empty; a restore begins in a new folder")


def _unpack(source: Path, target: Path) -> Folder:
    make_folder(target)
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            members = _contents(archive, source)
            name, content = next(members, ("", io.BytesIO()))
            if name != _TOML:
                raise ConfigurationError(f"{source} is no backup: it does not begin with {_TOML}")
            put_file(target / _TOML, content.read(), mode=0o644)
            folder = open_folder(target)
            if folder.store.exists() or folder.ledger.exists():
                raise ConfigurationError(
                    f"{_TOML} of {source} names {folder.state} and {folder.ledger}, where a gateway"
                    " has been; move them away first"
                )
            _write_state(folder, members)
    except (EOFError, tarfile.TarError, zlib.error, OSError) as error:
        raise ConfigurationError(f"cannot restore the backup {source}: {error}") from None
    return folder


def _contents(archive: tarfile.TarFile, source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Each is read before the next is asked for."""
    for member in archive:
        name = PurePosixPath(member.name)
        # Only plain files inside the target: a backup may have passed through any hands.
        if not member.isfile() or name.is_absolute() or ".." in name.parts or not name.parts:
            raise ConfigurationError(f"{source} holds {member.name!r}: not our backup")
        yield member.name, archive.extractfile(member) or io.BytesIO()


def _write_state(folder: Folder, members: Iterable[tuple[str, IO[bytes]]]) -> None:
    make_folder(folder.state)
    folder.imports.mkdir(mode=0o700, exist_ok=True)
    ledger = _Publisher(DiskTree(folder.ledger))
    for name, content in members:
        part, _, rest = name.partition("/")
        if part == _LEDGER and rest:
            ledger.put(rest, content.read())
        elif name in (*_KEPT, _STORE, _PRIVATE) or (part in _KEPT_FOLDERS and "/" not in rest):
            (folder.state / name).parent.mkdir(mode=0o700, exist_ok=True)
            # A database of years does not fit in memory.
            put_stream(folder.state / name, _chunks(content), _mode(name))
        else:
            raise ConfigurationError(f"the backup holds {name!r}: not our backup")
    ledger.finish()


def _mode(name: str) -> int:
    if name == _STORE:
        return STORE_MODE
    return 0o644 if name.endswith(".request") else 0o600


def _take_newer(source: Path, folder: Folder, ledger: Ledger, community: Community) -> None:
    """Puts the files of a newer ledger in the place of the backup's."""

    def read(path: str) -> bytes | None:
        try:
            return (source / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    signed, ours = read(CHECKPOINT_PATH), ledger.checkpoint()
    if signed is None:
        raise ConfigurationError(f"{source} is no ledger: it has no checkpoint")
    size = community.open_checkpoint(signed).size
    have = 0 if ours is None else community.open_checkpoint(ours, revoked=True).size
    if size < have:
        raise ConfigurationError(
            f"{source} has {size} leaves, the backup {have}; restore without --ledger"
        )
    public = _Publisher(DiskTree(folder.ledger))
    for name, data in _ledger_files(read, community):  # the checkpoint comes last
        public.put(name, data)
    public.finish()
