"""The store in SQLite: write-ahead log, synchronous FULL: a commit is durable once it returns."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cryptometer.accuracy import Pair
from cryptometer.authority_records import Genesis
from cryptometer.chain_records import ChainRecord
from cryptometer.errors import ConfigurationError, Reason
from cryptometer.records import Record
from cryptometer.snapshot import (
    Rows,
    decode_state,
    encode_agreement,
    encode_common,
    encode_meter,
    encode_settlement,
)
from cryptometer.state import State
from gateway.store import (
    EVIDENCE_MAX,
    EVIDENCE_OF_ONE_MAX,
    BlockRow,
    Changes,
    Contact,
    Depths,
    NewBlock,
    Refusal,
    RefusalCount,
    SearchTooLong,
    StoreFailed,
    Tally,
    compared_of,
    distributions_of,
)
from hal.faults import Point, passing
from hal.files import sync_folder

APPLICATION_ID = 0x43727970  # "Cryp": tells our database from any other (PRAGMA application_id)
SCHEMA_VERSION = 6
# Its group may read it: `serve` runs as another user, which no key is readable for.
STORE_MODE = 0o640
_READABLE = (1, 2, 3, 4, 5, SCHEMA_VERSION)
_LEAVES_MAX = 2**63 - 1  # what an integer of a row holds
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine; less than a millisecond
# So long, in pages of 4 KiB, the write-ahead log may grow before a commit has to copy it into the
# database itself: more than what 400 meters send in a step.
_LOG_PAGES = 4_000
_BUSY_MS = 5_000  # `status` and `backup` read beside the one writer

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
_RUN = "meter = ? AND sequence BETWEEN ? AND ?"
_UNFILE = f"DELETE FROM pending WHERE {_RUN}"  # noqa: S608
_IN_PLACE = "filed.meter = pending.meter AND sequence BETWEEN first AND last"

# Primary result codes (sqlite.org/rescode.html): starting again may mend these. A full disk gives
# each of them, by the file it hits: the journal and its index are made anew at an opening.
_MACHINE_FAILS = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
)


class SqliteStore:
    """A `Store` in one database file."""

    def __init__(
        self, path: Path, *, read_only: bool = False, find_max_s: float | None = None
    ) -> None:
        """Opens a database that `create_store` made.

        Args:
            read_only: nothing is ever written, also not where the folder belongs to another user.
            find_max_s: how long `find` may look.

        Raises:
            ConfigurationError: there is none, it is none of ours or of another version, or it
                cannot be opened.
            StoreFailed: the machine does not let us, as on a full disk.
        """
        if not path.exists():
            raise ConfigurationError(f"there is no store at {path}; run cryptometer-gateway init")
        try:
            self._connection, self._format, self.epoch = _open(path, read_only=read_only)
        except sqlite3.Error as error:
            raise _failure(path, error) from None
        self._find_max_s = find_max_s

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read inside is of one moment, whatever the writer commits meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # a read that failed may have ended it
                self._connection.execute("ROLLBACK")

    def commit(self, changes: Changes) -> None:
        try:
            with self._transaction():
                self._write(changes)
            if changes.published is not None and changes.block is None:
                # Copied once after each block: people wait for the next one at its step's end.
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise StoreFailed(f"the store cannot be written: {error}") from error
        self.epoch += changes.takes_back or bool(changes.dropped)

    def is_private_damaged(self) -> bool:
        return bool(self._meta("private_damaged"))

    def state(self) -> State | None:
        genesis = self._meta("genesis")
        if genesis is None:
            return None
        rows = [self._states("meters", "name")]
        if self._format >= 5:
            rows += [self._states("agreements", "number"), self._states("settlements", "step")]
        return decode_state(genesis, Rows(self._meta("state"), *rows))

    def _states(self, table: str, key: str) -> Iterator[bytes]:
        rows = self._connection.execute(f"SELECT state FROM {table} ORDER BY {key}")  # noqa: S608
        return (raw for (raw,) in rows)

    def authority(self) -> list[bytes]:
        rows = self._connection.execute("SELECT raw FROM authority ORDER BY sequence")
        return [raw for (raw,) in rows]

    def pending(self) -> Iterable[bytes]:
        filed: dict[str, list[tuple[int, int]]] = {}
        for meter, first, last in self._filed():
            filed.setdefault(meter, []).append((first, last))
        rows = self._connection.execute(
            "SELECT meter, sequence, raw FROM pending ORDER BY meter, sequence"
        )
        return (
            raw
            for meter, sequence, raw in rows
            if not any(first <= sequence <= last for first, last in filed.get(meter, ()))
        )

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        for table in ("pending", "leaves"):
            row = self._connection.execute(
                f"SELECT identity FROM {table} WHERE meter = ? AND sequence = ?",  # noqa: S608
                (meter, sequence),
            ).fetchone()
            if row is not None:
                return bytes(row[0])
        return None

    def leaf_at(self, meter: str, sequence: int) -> int | None:
        # One look: the writer may let go of a run between two.
        in_place = (
            " UNION ALL SELECT leaf + :sequence - first FROM filed"
            " WHERE meter = :meter AND :sequence BETWEEN first AND last"
        )
        more = in_place if self._format >= 3 else ""
        row = self._connection.execute(
            f"SELECT leaf FROM leaves WHERE meter = :meter AND sequence = :sequence{more}",  # noqa: S608
            {"meter": meter, "sequence": sequence},
        ).fetchone()
        return None if row is None else int(row[0])

    def find(self, identity: bytes) -> tuple[str, int, int | None] | None:
        # No index on identities: people ask for few, and every record would pay for it.
        until = None if self._find_max_s is None else time.monotonic() + self._find_max_s
        self._connection.set_progress_handler(
            lambda: int(until is not None and time.monotonic() > until), _STEPS_BETWEEN_LOOKS
        )
        try:
            row = self._connection.execute(
                "SELECT meter, sequence, leaf FROM leaves WHERE identity = ?"
                " UNION ALL SELECT meter, sequence, NULL FROM pending WHERE identity = ?",
                (identity, identity),
            ).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise SearchTooLong(f"not found within {self._find_max_s:g} s") from None
        finally:
            self._connection.set_progress_handler(None, 0)
        if row is None:
            return None
        meter, sequence, leaf = row
        return meter, sequence, self.leaf_at(meter, sequence) if leaf is None else leaf

    def compared(self, meter: str, newest: int) -> list[Pair]:
        if self._format < 6:
            return []
        rows = self._connection.execute(
            "SELECT * FROM compared WHERE meter = ? ORDER BY sequence DESC LIMIT ?",
            (meter, newest),
        ).fetchall()
        return [Pair(*row) for row in reversed(rows)]

    def distributions(self, step: int) -> list[int]:
        if self._format < 5:
            return []
        rows = self._connection.execute(
            "SELECT leaf FROM distributions WHERE step = ? ORDER BY leaf", (step,)
        )
        return [leaf for (leaf,) in rows]

    def verdict(self, leaf: int) -> Reason | None:
        if leaf < int(self._meta("verdicts_from") or b"0"):
            raise LookupError(f"the verdict on leaf {leaf} was not kept")
        if self._format < 2:
            raise LookupError("this store keeps no verdicts yet")
        row = self._connection.execute(
            "SELECT reason FROM set_aside WHERE leaf = ?", (leaf,)
        ).fetchone()
        return None if row is None else Reason(row[0])

    def set_aside(self) -> dict[str, int]:
        if self._format < 2:
            return {}
        return dict(
            self._connection.execute(
                "SELECT reason, count(*) FROM set_aside GROUP BY reason ORDER BY reason"
            )
        )

    def depths(self) -> Depths:
        filed = (
            "(SELECT coalesce(sum(last - first + 1), 0) FROM filed)" if self._format >= 3 else "0"
        )
        counts = (
            self._connection.execute(f"SELECT count(*) {more} FROM {table}").fetchone()[0]  # noqa: S608
            for table, more in (
                ("pending", f"- {filed}"),
                ("staged", f"+ {filed}"),
                ("evidence", ""),
            )
        )
        return Depths(*counts)

    def staged(self) -> list[tuple[int, bytes]]:
        in_place = (
            " UNION ALL SELECT leaf + sequence - first, raw"  # noqa: S608
            f" FROM filed JOIN pending ON {_IN_PLACE}"
        )
        more = in_place if self._format >= 3 else ""
        query = f"SELECT leaf, raw FROM staged{more} ORDER BY 1"  # noqa: S608
        return list(self._connection.execute(query))

    def blocks(self, newest: int) -> list[BlockRow]:
        rows = self._connection.execute(
            "SELECT * FROM blocks ORDER BY step DESC LIMIT ?", (newest,)
        )
        return [_block_row(row) for row in rows]

    def block(self, step: int) -> BlockRow | None:
        row = self._connection.execute("SELECT * FROM blocks WHERE step = ?", (step,)).fetchone()
        return None if row is None else _block_row(row)

    def block_of(self, leaf: int) -> BlockRow:
        row = self._connection.execute(
            "SELECT * FROM blocks WHERE size > ? ORDER BY step LIMIT 1", (leaf,)
        ).fetchone()
        if row is None:
            raise LookupError(f"no block holds leaf {leaf}")
        return _block_row(row)

    def refusals(self) -> list[RefusalCount]:
        rows = self._connection.execute("SELECT * FROM refusals ORDER BY meter, reason")
        return [RefusalCount(*row) for row in rows]

    def evidence(self) -> list[Refusal]:
        rows = self._connection.execute(
            "SELECT meter, reason, detail, at_ms, raw FROM evidence ORDER BY number"
        )
        return [
            Refusal(meter, Reason(reason), detail, at_ms, raw)
            for meter, reason, detail, at_ms, raw in rows
        ]

    def contacts(self) -> list[Contact]:
        return [Contact(*row) for row in self._rows("contacts")]

    def tallies(self) -> list[Tally]:
        return [Tally(*row) for row in self._rows("tallies")]

    def _rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(f"SELECT * FROM {table} ORDER BY meter")  # noqa: S608

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise
        passing(Point.STORE_COMMIT)
        self._connection.execute("COMMIT")
        passing(Point.STORE_COMMITTED)

    def _write(self, changes: Changes) -> None:
        self._add_authority(changes.authority)
        if changes.is_private_damaged is not None:
            self._set_meta("private_damaged", b"1" if changes.is_private_damaged else b"")
        if changes.takes_back or changes.dropped:
            set_epoch(self._connection, self.epoch + 1)
        self._connection.executemany(
            # What is a leaf by now keeps its bytes until its files are durable.
            f"{_UNFILE} AND NOT EXISTS (SELECT 1 FROM filed WHERE {_IN_PLACE})",  # noqa: S608
            _runs(map(_place, changes.dropped)),
        )
        self._connection.executemany(
            "INSERT INTO pending VALUES (?, ?, ?, ?)",
            [(*_place(record), record.identity, record.raw) for record in changes.accepted],
        )
        for refusal in changes.refusals:
            self._refuse(refusal)
        self._connection.executemany(
            "INSERT OR REPLACE INTO contacts VALUES (?, ?, ?, ?, ?)",
            [
                (one.meter, one.at_ms, one.step, one.clock_state, one.clock_error_ms)
                for one in changes.contacts
            ],
        )
        if changes.block is not None:
            self._add_block(changes.block)
        if changes.published is not None:
            self._let_go(changes.published)
        self._connection.executemany(
            "UPDATE blocks SET punctuality_ms = ? WHERE step = ?",
            [(milliseconds, step) for step, milliseconds in changes.measured],
        )

    def _let_go(self, published: int) -> None:
        """The static files of so many leaves are durable: their bytes may go."""
        self._connection.execute(
            "INSERT INTO leaves"  # noqa: S608
            " SELECT pending.meter, sequence, identity, leaf + sequence - first"
            f" FROM filed JOIN pending ON {_IN_PLACE} WHERE leaf < ?",
            (published,),
        )
        filed = self._filed(published)
        self._connection.executemany(_UNFILE, filed)
        for table in ("filed", "staged"):
            self._connection.execute(f"DELETE FROM {table} WHERE leaf < ?", (published,))  # noqa: S608

    def _filed(self, below: int = _LEAVES_MAX) -> list[tuple[str, int, int]]:
        """Runs of chains in blocks whose bytes still wait, of leaves below one: meter, first and
        last."""
        if self._format < 3:
            return []
        return self._connection.execute(
            "SELECT meter, first, last FROM filed WHERE leaf < ?", (below,)
        ).fetchall()

    def _meta(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def _set_meta(self, key: str, value: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _add_authority(self, added: tuple[Record, ...]) -> None:
        if not added:
            return
        (known,) = self._connection.execute("SELECT count(*) FROM authority").fetchone()
        for offset, record in enumerate(added):
            if isinstance(record.body, Genesis):
                self._set_meta("genesis", record.raw)
            self._connection.execute(
                "INSERT INTO authority VALUES (?, ?)", (known + offset, record.raw)
            )

    def _refuse(self, refusal: Refusal) -> None:
        self._connection.execute(
            "INSERT INTO refusals VALUES (?, ?, 1, ?, ?) ON CONFLICT (meter, reason) DO UPDATE"
            " SET count = count + 1, last_ms = excluded.last_ms, detail = excluded.detail",
            (refusal.meter, refusal.reason.value, refusal.at_ms, refusal.detail),
        )
        if refusal.raw is not None:
            self._connection.execute(
                "INSERT INTO evidence (meter, reason, detail, at_ms, raw)"
                " SELECT :meter, :reason, :detail, :at_ms, :raw"
                " WHERE (SELECT count(*) FROM evidence) < :most"
                " AND (SELECT count(*) FROM evidence WHERE meter = :meter) < :most_of_one"
                " AND NOT EXISTS (SELECT 1 FROM evidence WHERE raw = :raw)",
                {
                    "meter": refusal.meter,
                    "reason": refusal.reason.value,
                    "detail": refusal.detail,
                    "at_ms": refusal.at_ms,
                    "raw": refusal.raw,
                    "most": EVIDENCE_MAX,
                    "most_of_one": EVIDENCE_OF_ONE_MAX,
                },
            )

    def _file_what_waits(self, chain: Sequence[tuple[int, Record]]) -> None:
        """Pending records become leaves where they lie: their bytes are not written again."""
        if not chain:
            return
        runs: list[tuple[int, str, int, int]] = []
        first_leaf = chain[0][0]  # those of the meters stand together
        for name, first, last in _runs(_place(record) for _, record in chain):
            runs.append((first_leaf, name, first, last))
            first_leaf += last - first + 1
        self._connection.executemany("INSERT INTO filed VALUES (?, ?, ?, ?)", runs)
        (waiting,) = self._connection.execute(
            f"SELECT count(*) FROM filed JOIN pending ON {_IN_PLACE} WHERE leaf >= ?",  # noqa: S608
            (chain[0][0],),
        ).fetchone()
        twice = self._connection.execute(
            "SELECT 1 FROM filed JOIN filed AS new USING (meter) WHERE filed.leaf < :new"
            " AND new.leaf >= :new AND new.first <= filed.last AND filed.first <= new.last",
            {"new": chain[0][0]},
        ).fetchone()
        known = self._connection.execute(
            "SELECT 1 FROM filed JOIN leaves ON filed.meter = leaves.meter"
            " AND sequence BETWEEN first AND last WHERE filed.leaf >= ?",
            (chain[0][0],),
        ).fetchone()
        if waiting != len(chain) or twice is not None or known is not None:
            raise StoreFailed("a record of the block does not wait in the store")

    def _add_block(self, block: NewBlock) -> None:
        row = block.row
        chain: list[tuple[int, Record]] = []
        others: list[tuple[int, Record]] = []
        for leaf, record in enumerate(block.leaves, row.first):
            kind = chain if isinstance(record.body, ChainRecord) else others
            kind.append((leaf, record))
        if block.made_here:
            self._file_what_waits(chain)
            staged = others
        else:
            staged = others + chain
            places = [_place(record) for _, record in chain]
            self._connection.executemany(_UNFILE, _runs(places))
            self._connection.executemany(
                "INSERT INTO leaves VALUES (?, ?, ?, ?)",
                [(*_place(record), record.identity, leaf) for leaf, record in chain],
            )
        self._connection.executemany(
            "INSERT INTO staged VALUES (?, ?)", [(leaf, record.raw) for leaf, record in staged]
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO meters VALUES (?, ?)",
            [(name, encode_meter(block.state.meters[name])) for name in block.meters],
        )
        self._connection.executemany(
            "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (meter) DO UPDATE SET"
            " closes = closes + excluded.closes,"
            " first_step = coalesce(first_step, excluded.first_step),"
            " late = late + excluded.late, quarantined = quarantined + excluded.quarantined",
            [
                (one.meter, one.closes, one.first_step, one.late, one.quarantined)
                for one in block.tallies
            ],
        )
        self._connection.executemany(
            "INSERT INTO set_aside VALUES (?, ?)",
            [(leaf, reason.value) for leaf, reason in block.set_aside],
        )
        self._connection.executemany(
            "INSERT INTO compared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [astuple(pair) for pair in compared_of(block)],
        )
        self._add_shared(block)
        self._set_meta("state", encode_common(block.state))
        self._connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.step,
                row.first,
                row.size,
                row.sealed_ms,
                row.records,
                row.late,
                row.expected,
                row.heard,
                row.caught_up,
                row.note,
                row.punctuality_ms,
            ),
        )

    def _add_shared(self, block: NewBlock) -> None:
        agreements = block.state.agreements
        (known,) = self._connection.execute("SELECT count(*) FROM agreements").fetchone()
        self._connection.executemany(
            "INSERT INTO agreements VALUES (?, ?)",
            [(at, encode_agreement(agreements[at])) for at in range(known, len(agreements))],
        )
        self._connection.executemany(
            "INSERT INTO distributions VALUES (?, ?)", distributions_of(block)
        )
        settlements = block.state.settlements
        self._connection.executemany(
            "DELETE FROM settlements WHERE step = ?",
            [(step,) for step in block.settlements - settlements.keys()],
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO settlements VALUES (?, ?)",
            [
                (step, encode_settlement(settlements[step]))
                for step in block.settlements & settlements.keys()
            ],
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
        connection.executescript(
            f"BEGIN; {_SCHEMA} {_SET_ASIDE}; {_FILED}; {'; '.join(_SHARED)}; {_COMPARED};"
            f" PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        set_epoch(connection, epoch)
    beside.replace(path)
    sync_folder(path.absolute().parent)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that exists; each statement is a transaction of its own."""
    # As a URI, whatever letters the path has: a "#" or "?" in it is no part of the URI's grammar.
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


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


def _bring_up(connection: sqlite3.Connection) -> None:
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
        connection.executemany(f"DELETE FROM leaves WHERE {_RUN}", filed)  # noqa: S608
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _open(path: Path, *, read_only: bool) -> tuple[sqlite3.Connection, int, int]:
    """A connection to a store of ours, the store's format and its epoch."""
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
        version = _check_format(connection, path)
        if not read_only:
            _make_durable(connection, path)
            _bring_up(connection)
            version = SCHEMA_VERSION
        row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection, version, int(row[0]) if row else 0


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


def set_epoch(connection: sqlite3.Connection, epoch: int) -> None:
    """Begins a new epoch: what devices were told before is void."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(epoch).encode(),))


def _check_format(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a store that can be read."""
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


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    if mode != "wal":
        raise ConfigurationError(
            f"{path} cannot have a write-ahead log ({mode}); put the folder on a local disk"
        )


def _block_row(row: tuple[object, ...]) -> BlockRow:
    values = list(row)
    values[8] = bool(values[8])
    return BlockRow(*values)  # type: ignore[arg-type]  # the table's columns are the class's fields


def _place(record: Record) -> tuple[str, int]:
    body = record.body
    assert isinstance(body, ChainRecord)  # noqa: S101 - the gateway's own filing
    return body.meter, body.sequence


def _runs(places: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Places in chains, those that follow one another taken together: meter, first and last."""
    runs: list[tuple[str, int, int]] = []
    for name, sequence in places:
        if runs and runs[-1][0] == name and runs[-1][2] + 1 == sequence:
            runs[-1] = (name, runs[-1][1], sequence)
        else:
            runs.append((name, sequence, sequence))
    return runs
