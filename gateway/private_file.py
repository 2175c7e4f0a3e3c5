"""The private store as a file: its tables in each format, and how it is made and opened.

No write-ahead log, and what is deleted is overwritten.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from cryptometer.errors import ConfigurationError
from gateway.sqlite_file import connect
from gateway.store import StoreDamaged, StoreFailed
from hal.files import sync_folder

APPLICATION_ID = 0x43725072  # "CrPr" (PRAGMA application_id)
FORMAT = 4
MODE = 0o600  # `serve` and others in the group have no business here
# Primary result codes (sqlite.org/rescode.html) of what is no fault of the file: whoever starts
# again may find it mended. A read that failed (IOERR) is one of the disk below it, and comes again.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_COMMANDS = "cryptometer-gateway member-data and consumption"

# Since format 2: who may read by the API.
_ACCESS = """
CREATE TABLE access (
    number TEXT PRIMARY KEY, holder TEXT NOT NULL, member TEXT NOT NULL, digest BLOB NOT NULL,
    granted_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID;
"""
# Since format 3: the chains of meters for consumption, and whose these are.
_CHAINS = (
    "CREATE TABLE bindings (meter TEXT NOT NULL, from_step INTEGER NOT NULL, member TEXT NOT NULL,"
    " PRIMARY KEY (meter, from_step)) WITHOUT ROWID",
    "CREATE TABLE accounts (meter TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (meter TEXT NOT NULL, sequence INTEGER NOT NULL, step INTEGER NOT NULL,"
    " is_waiting INTEGER NOT NULL, identity BLOB NOT NULL, raw BLOB NOT NULL,"
    " PRIMARY KEY (meter, sequence))",
    "CREATE INDEX records_by_step ON records (step)",
    "CREATE TABLE metered (meter TEXT NOT NULL, step INTEGER NOT NULL, energy_uwh INTEGER NOT NULL,"
    " PRIMARY KEY (meter, step)) WITHOUT ROWID",
    "CREATE TABLE aside (meter TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (meter, reason)) WITHOUT ROWID",
    "CREATE TABLE evidence (number INTEGER PRIMARY KEY, meter TEXT NOT NULL, reason TEXT NOT NULL,"
    " detail TEXT NOT NULL, at_ms INTEGER NOT NULL, raw BLOB NOT NULL)",
    "CREATE TABLE forgotten (meter TEXT PRIMARY KEY, step INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('governed', 0)",
)
# Since format 4: of whom nothing will be known of steps up to one. By a hash of the name, which the
# ledger has anyhow: who was erased is in no file.
_ERASED = (
    "CREATE TABLE erased (who BLOB PRIMARY KEY, until_step INTEGER NOT NULL,"
    " mark INTEGER NOT NULL) WITHOUT ROWID"
)
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE consumption (
    member TEXT NOT NULL, step INTEGER NOT NULL, energy_uwh INTEGER NOT NULL,
    is_spread INTEGER NOT NULL, source INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    mark INTEGER NOT NULL, PRIMARY KEY (member, step)) WITHOUT ROWID;
CREATE INDEX by_step ON consumption (step);
CREATE INDEX by_mark ON consumption (mark, step);
CREATE TABLE superseded (
    member TEXT NOT NULL, step INTEGER NOT NULL, mark INTEGER NOT NULL,
    energy_uwh INTEGER NOT NULL, is_spread INTEGER NOT NULL, source INTEGER NOT NULL,
    received_ms INTEGER NOT NULL, PRIMARY KEY (member, step, mark)) WITHOUT ROWID;
CREATE TABLE salts (
    member TEXT NOT NULL, step INTEGER NOT NULL, salt BLOB NOT NULL,
    PRIMARY KEY (member, step)) WITHOUT ROWID;
CREATE TABLE coefficients (
    step INTEGER NOT NULL, producer TEXT NOT NULL, member TEXT NOT NULL, weight INTEGER NOT NULL,
    mark INTEGER NOT NULL, PRIMARY KEY (step, producer, member)) WITHOUT ROWID;
CREATE TABLE losses (
    step INTEGER PRIMARY KEY, energy_uwh INTEGER NOT NULL, mark INTEGER NOT NULL);
CREATE INDEX coefficients_by_mark ON coefficients (mark, step);
CREATE TABLE people (
    member TEXT PRIMARY KEY, display_name TEXT NOT NULL, address TEXT NOT NULL,
    contact TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('mark', 0);
"""


def open_private(path: Path, busy_ms: int, *, read_only: bool) -> sqlite3.Connection:
    """A connection to the store, which is made where there is none and it is not only read.

    Raises:
        ConfigurationError: the file is none of ours, or of another format.
        StoreFailed: the machine does not let us.
    """
    try:
        if not path.exists() and not read_only:
            _create(path)
        return _open(path, busy_ms, read_only=read_only)
    except (OSError, sqlite3.Error) as error:
        raise failed(f"the private store {path} cannot be opened", error) from error


def make_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables of the present format in an empty database: all of them or none."""
    connection.executescript(
        f"BEGIN; {_SCHEMA}; {_ACCESS}; {'; '.join(_CHAINS)}; {_ERASED};"
        f" PRAGMA application_id = {APPLICATION_ID};"
        f" PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def failed(what: str, error: Exception) -> StoreFailed:
    """What is said of a failure: whether the file itself is at fault."""
    code = getattr(error, "sqlite_errorcode", None)
    is_passing = code is None or code & 0xFF in _PASSING
    return (StoreFailed if is_passing else StoreDamaged)(f"{what}: {error}")


def _create(path: Path) -> None:
    """Makes an empty store; it is there whole or not at all, and another's is left as it is."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=MODE)
    beside.chmod(MODE)
    with closing(connect(beside)) as connection:
        make_tables(connection)
    with suppress(FileExistsError):  # another process was quicker
        os.link(beside, path)
    beside.unlink()
    sync_folder(path.absolute().parent)


def _open(path: Path, busy_ms: int, *, read_only: bool) -> sqlite3.Connection:
    connection = connect(path, read_only=read_only)
    try:
        connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        version = _check_format(connection, path)
        if read_only:
            if version != FORMAT:
                raise ConfigurationError(f"{path} is of format {version}: {_COMMANDS} bring it up")
            return connection
        if version != FORMAT:
            _bring_up(connection)
        for pragma in (
            "journal_mode = DELETE",
            # A salt that came back to nothing after a power cut would leave a proof that nobody
            # can open: the journal's end is durable, too.
            "synchronous = EXTRA",
            "secure_delete = ON",
            "temp_store = MEMORY",  # no copy of the rows in a folder of temporary files
            "cache_spill = OFF",  # readers wait for a writer's commit only
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: sqlite3.Connection) -> None:
    """Gives a store of an earlier format what it lacks."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another program may have been quicker.
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < 2:
            connection.execute(_ACCESS)
        if version < 3:
            for statement in _CHAINS:
                connection.execute(statement)
        if version < FORMAT:
            connection.execute(_ERASED)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_format(connection: sqlite3.Connection, path: Path) -> int:
    """Which format the file has, one that this program reads."""
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_NOTADB:
            raise
        application = version = 0
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is no private store; move it away: {_COMMANDS} make one")
    if not 1 <= version <= FORMAT:
        raise ConfigurationError(
            f"{path} is of format {version}, this program writes format {FORMAT}; run the"
            " cryptometer-gateway that made it"
        )
    return int(version)
