"""Backup and restore. A backup is one file: keys, store and ledger of one moment.

A restored store lacks what came after the backup. It is brought forward from the ledger's files as
far as they go, and begins a new epoch, so that devices send again what it has lost.
"""

import io
import sqlite3
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

from cryptometer import records
from cryptometer.block import check_block
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.records import AuthorityRecord, Header, Record
from cryptometer.tiles import TILE_WIDTH, read_entries, tiles_of
from gateway.filing import file_block
from gateway.folder import Folder, open_folder, read_community
from gateway.ledger import Ledger
from gateway.sqlite_store import SqliteStore, set_epoch
from gateway.store import Changes
from hal.files import DiskTree, put_file, write_file

_STATE_FILES = (
    "gateway.toml",
    "gateway.key",
    "vpp.key",
    "gateway.request",
    "vpp.request",
    "gateway.bundle",
)
_STORE, _LEDGER, _BROKER = "store.sqlite", "ledger", "broker"


def backup(folder: Folder, out: Path) -> str:
    """Writes a backup; the gateway may go on running. The file holds its private keys.

    Raises:
        ConfigurationError: there is nothing to back up, or the file exists.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists, and a backup is never overwritten")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / _STORE
        _copy_store(folder.store, copy)
        # The store first, the files after: the ledger's files may be ahead, never behind.
        members = {_STORE: copy}
        members |= {
            name: folder.state / name for name in _STATE_FILES if (folder.state / name).exists()
        }
        for part, root in ((_LEDGER, folder.ledger), (_BROKER, folder.broker)):
            members |= {
                f"{part}/{path.relative_to(root).as_posix()}": path
                for path in sorted(root.rglob("*"))
                if path.is_file() and not path.name.endswith(".new")
            }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, path in members.items():
                archive.add(path, arcname=name, recursive=False)
    put_file(out, buffer.getvalue())
    return f"{out}: {len(members)} files. It holds the gateway's private keys: keep it closed."


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
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty")
    _unpack(source, target)
    folder = open_folder(target)
    (folder.imports).mkdir(mode=0o700, exist_ok=True)
    if newer_ledger is not None:
        files = {
            path.relative_to(newer_ledger).as_posix(): path.read_bytes()
            for path in newer_ledger.rglob("*")
            if path.is_file()
        }
        DiskTree(folder.ledger).put_all(files)
    store = folder.open_store()
    epoch = max(store.epoch + 1, int(time.time()))
    store.close()
    connection = sqlite3.connect(folder.store, isolation_level=None)
    set_epoch(connection, epoch)
    connection.close()
    store = folder.open_store()
    try:
        community = read_community(store)
        blocks = roll_forward(store, Ledger(DiskTree(folder.ledger)), community)
        state = store.state()
    finally:
        store.close()
    step = state.step if state is not None else 0
    return f"restored in epoch {epoch}, {blocks} blocks brought forward, newest step {step}"


def roll_forward(store: SqliteStore, ledger: Ledger, community: Community) -> int:
    """Applies the ledger's blocks that the store does not have; returns how many.

    Raises:
        Rejected: the first thing in them that does not hold.
    """
    state, signed = store.state(), ledger.checkpoint()
    if state is None or signed is None:
        return 0
    checkpoint = community.open_checkpoint(signed)
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
            new = file_block(state, checked, block, signed.decode() if newest else "")
            size = checked.state.frontier.size
            store.commit(Changes(authority=fresh, block=new, published=size))
            state, block, blocks = checked.state, [], blocks + 1
    if state.checkpoint != checkpoint:
        raise Rejected(Reason.BAD_CHECKPOINT, "the ledger's files do not give its checkpoint")
    return blocks


def _copy_store(store: Path, copy: Path) -> None:
    if not store.exists():
        raise ConfigurationError(f"there is no store at {store}")
    source = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    target = sqlite3.connect(copy)
    source.backup(target)
    target.close()
    source.close()


def _unpack(source: Path, target: Path) -> None:
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                # Only plain files inside the target: a backup may have passed through any hands.
                if not member.isfile() or name.is_absolute() or ".." in name.parts:
                    raise ConfigurationError(f"{source} holds {member.name!r}: not our backup")
                content = archive.extractfile(member)
                path = target / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                public = name.parts[0] == _LEDGER
                write_file(path, content.read() if content else b"", 0o644 if public else 0o600)
    except (OSError, tarfile.TarError) as error:
        raise ConfigurationError(f"cannot read the backup {source}: {error}") from None
