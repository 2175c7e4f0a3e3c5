"""The store's database as a file: made whole or not at all, opened to write or only to read."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptometer.errors import ConfigurationError
from gateway.sqlite_format import SCHEMA_VERSION, bring_up, check_format, make_tables, set_epoch
from gateway.store import StoreFailed
from hal.files import sync_folder

# Its group may read it: `serve` runs as another user, which no key is readable for.
STORE_MODE = 0o640
# So long, in pages of 4 KiB, the write-ahead log may grow before a commit has to copy it into the
# database itself: more than what 400 meters send in a step.
_LOG_PAGES = 4_000
_BUSY_MS = 5_000  # `status` and `backup` read beside the one writer

# Primary result codes (sqlite.org/rescode.html): starting again may mend these. A full disk gives
# each of them, by the file it hits: the journal and its index are made anew at an opening.
_MACHINE_FAILS = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
)


def create_store(path: Path, epoch: int) -> None:
    """Makes an empty database; it is there whole, or not at all.

    Raises:
        ConfigurationError: there is one already.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists, and a store is never overwritten")
    beside = path.with_name(f"{path.name}.new")
    for left in beside.parent.glob(f"{beside.name}*"):  # by a call that was cut off
        left.unlink()
    beside.touch(mode=STORE_MODE)
    with closing(connect(beside)) as connection:
        _make_durable(connection, beside)
        make_tables(connection)
        set_epoch(connection, epoch)
    beside.replace(path)
    sync_folder(path.absolute().parent)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that exists; each statement is a transaction of its own."""
    # As a URI, whatever letters the path has: a "#" or "?" in it is no part of the URI's grammar.
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def open_database(path: Path, *, read_only: bool) -> tuple[sqlite3.Connection, int, int]:
    """A connection to a store of ours, the store's format and its epoch.

    Raises:
        ConfigurationError: there is none, it is none of ours or of another version, or it cannot
            be opened.
        StoreFailed: the machine does not let us, as on a full disk.
    """
    if not path.exists():
        raise ConfigurationError(f"there is no store at {path}; run cryptometer-gateway init")
    try:
        return _open(path, read_only=read_only)
    except sqlite3.Error as error:
        raise _failure(path, error) from None


def _open(path: Path, *, read_only: bool) -> tuple[sqlite3.Connection, int, int]:
    try:
        return _open_once(path, read_only=read_only)
    except sqlite3.DatabaseError as error:
        if _code(error) != sqlite3.SQLITE_CORRUPT:
            raise
        # SQLite says the same of damage and of a read that failed (EIO); reads are tried again.
        return _open_once(path, read_only=read_only)


def _open_once(path: Path, *, read_only: bool) -> tuple[sqlite3.Connection, int, int]:
    connection = _connect_reader(path) if read_only else connect(path)
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        version = check_format(connection, path)
        if not read_only:
            _make_durable(connection, path)
            bring_up(connection)
            version = SCHEMA_VERSION
        row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection, version, int(row[0]) if row else 0


def _connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also for who may not write in the folder.

    Where the gateway has ended in order there is no write-ahead log, and such a reader cannot make
    one: the file is whole then, and is read as it is.
    """
    connection = connect(path, read_only=True)
    try:
        connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error as error:
        # Another user's folder gives the one, a read-only mount, as under our unit, the other.
        code = getattr(error, "sqlite_errorcode", 0)
        needs_log = code in (sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_CANTOPEN)
        if not needs_log or path.with_name(f"{path.name}-wal").exists():
            return connection  # whoever reads on is told what it is
        connection.close()
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    return connection


def _failure(path: Path, error: sqlite3.Error) -> Exception:
    """What is said when a store cannot be opened: whether a person must act."""
    if not _may_open(path):
        return ConfigurationError(f"cannot open the store {path}: {error}")
    if _code(error) in _MACHINE_FAILS:
        return StoreFailed(f"the store {path} cannot be opened now: {error}")
    return ConfigurationError(
        f"cannot read the store {path}: {error}. If it is damaged: cryptometer-gateway restore,"
        " from a backup"
    )


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _may_open(path: Path) -> bool:
    """Whether it is a file that this program may open, as far as its owner and mode say."""
    return path.is_file() and os.access(path, os.R_OK)


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    if mode != "wal":
        raise ConfigurationError(
            f"{path} cannot have a write-ahead log ({mode}); put the folder on a local disk"
        )
