"""The tables of the store's database, in each format, and how an older one is brought up."""

import sqlite3
from pathlib import Path

from cryptometer.errors import ConfigurationError

APPLICATION_ID = 0x43727970  # "Cryp": tells our database from any other (PRAGMA application_id)
SCHEMA_VERSION = 6
_READABLE = (1, 2, 3, 4, 5, SCHEMA_VERSION)
# Records of a run in `filed` whose bytes still wait in `pending`.
IN_PLACE = "filed.meter = pending.meter AND sequence BETWEEN first AND last"
RUN = "meter = ? AND sequence BETWEEN ? AND ?"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE authority (sequence INTEGER PRIMARY KEY, raw BLOB NOT NULL);
CREATE TABLE meters (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE pending (
    meter TEXT NOT NULL, sequence INTEGER NOT NULL, identity BLOB NOT NULL, raw BLOB NOT NULL,
    PRIMARY KEY (meter, sequence));
CREATE TABLE leaves (
    meter TEXT NOT NULL, sequence INTEGER NOT NULL, identity BLOB NOT NULL, leaf INTEGER NOT NULL,
    PRIMARY KEY (meter, sequence)) WITHOUT ROWID;
CREATE TABLE staged (leaf INTEGER PRIMARY KEY, raw BLOB NOT NULL);
CREATE TABLE blocks (
    step INTEGER PRIMARY KEY, first INTEGER NOT NULL, size INTEGER NOT NULL,
    sealed_ms INTEGER NOT NULL, records INTEGER NOT NULL, late INTEGER NOT NULL,
    expected INTEGER NOT NULL, heard INTEGER NOT NULL, caught_up INTEGER NOT NULL,
    note TEXT NOT NULL, punctuality_ms INTEGER);
CREATE TABLE refusals (
    meter TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    detail TEXT NOT NULL, PRIMARY KEY (meter, reason)) WITHOUT ROWID;
CREATE TABLE evidence (
    number INTEGER PRIMARY KEY, meter TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    at_ms INTEGER NOT NULL, raw BLOB NOT NULL);
CREATE TABLE tallies (
    meter TEXT PRIMARY KEY, closes INTEGER NOT NULL, first_step INTEGER, late INTEGER NOT NULL,
    quarantined INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE contacts (
    meter TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, step INTEGER NOT NULL,
    clock_state TEXT NOT NULL, clock_error_ms INTEGER NOT NULL) WITHOUT ROWID;
"""
# Since format 2: the energy verdicts, of which only those that set a leaf aside need a row. Where a
# store was brought up from format 1, `verdicts_from` is the first leaf whose verdict is known.
_SET_ASIDE = "CREATE TABLE set_aside (leaf INTEGER PRIMARY KEY, reason TEXT NOT NULL)"
# Since format 3: runs of a chain that a block holds while their bytes stay in `pending`, until the
# static files are durable; `staged` holds only the bytes of leaves that never waited. Since format
# 4 they are not among `leaves` before they leave `pending`: people wait for the block's commit.
_FILED = (
    "CREATE TABLE filed (leaf INTEGER PRIMARY KEY, meter TEXT NOT NULL, first INTEGER NOT NULL,"
    " last INTEGER NOT NULL)"
)
# Since format 5: what virtual power plants share by, and their account of each step.
_SHARED = (
    "CREATE TABLE agreements (number INTEGER PRIMARY KEY, state BLOB NOT NULL)",
    "CREATE TABLE settlements (step INTEGER PRIMARY KEY, state BLOB NOT NULL)",
    "CREATE TABLE distributions (step INTEGER NOT NULL, leaf INTEGER NOT NULL,"
    " PRIMARY KEY (step, leaf)) WITHOUT ROWID",
)
# Since format 6: what second sources say, the columns being the fields of a `Pair`.
_COMPARED = (
    "CREATE TABLE compared (meter TEXT NOT NULL, sequence INTEGER NOT NULL, step INTEGER NOT NULL,"
    " at_ms INTEGER NOT NULL, source TEXT NOT NULL, registration BLOB NOT NULL,"
    " register INTEGER NOT NULL, unit_uwh INTEGER NOT NULL, counted INTEGER NOT NULL,"
    " PRIMARY KEY (meter, sequence)) WITHOUT ROWID"
)


def make_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables of the present format in an empty database: all of them or none."""
    connection.executescript(
        f"BEGIN; {_SCHEMA} {_SET_ASIDE}; {_FILED}; {'; '.join(_SHARED)}; {_COMPARED};"
        f" PRAGMA application_id = {APPLICATION_ID};"
        f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def check_format(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a store that can be read.

    Raises:
        ConfigurationError: it is none of ours, or of a format that this program does not read.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigurationError(
            f"{path} is no store of cryptometer-gateway; move it away, then run"
            " cryptometer-gateway restore or init in a new folder"
        )
    if version not in _READABLE:
        raise ConfigurationError(
            f"{path} is of format {version}, this program writes format {SCHEMA_VERSION}; run the"
            f" {'newer' if version > SCHEMA_VERSION else 'older'} cryptometer-gateway that made it"
        )
    return int(version)


def bring_up(connection: sqlite3.Connection) -> None:
    """Brings a store of an older format to the present one, in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if version < 2:
        (size,) = connection.execute("SELECT coalesce(max(size), 0) FROM blocks").fetchone()
        connection.execute(_SET_ASIDE)
        connection.execute("INSERT INTO meta VALUES ('verdicts_from', ?)", (str(size).encode(),))
    if version < 6:
        connection.execute(_COMPARED)
    if version < 5:
        for statement in _SHARED:
            connection.execute(statement)
    if version < 3:
        connection.execute(_FILED)
    elif version < 4:
        # By the index: a look at each leaf of years takes longer than a start may.
        filed = connection.execute("SELECT meter, first, last FROM filed").fetchall()
        connection.executemany(f"DELETE FROM leaves WHERE {RUN}", filed)  # noqa: S608
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def set_epoch(connection: sqlite3.Connection, epoch: int) -> None:
    """Begins a new epoch: what devices were told before is void."""
    set_meta(connection, "epoch", str(epoch).encode())


def set_meta(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    """Says one of the values of which a store has one, in place of what was said before."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
