"""The store in SQLite: write-ahead log, synchronous FULL: a commit is durable once it returns."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptometer.accuracy import Pair
from cryptometer.errors import Reason
from cryptometer.snapshot import Rows, decode_state
from cryptometer.state import State
from gateway.sqlite_commit import write
from gateway.sqlite_file import open_database
from gateway.sqlite_format import IN_PLACE
from gateway.store import (
    BlockRow,
    Changes,
    Contact,
    Depths,
    Refusal,
    RefusalCount,
    SearchTooLong,
    StoreFailed,
    Tally,
)
from hal.faults import Point, passing

_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine; less than a millisecond


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
        self._connection, self._format, self.epoch = open_database(path, read_only=read_only)
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
                write(self._connection, changes, self.epoch)
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
            f" FROM filed JOIN pending ON {IN_PLACE}"
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

    def _filed(self) -> list[tuple[str, int, int]]:
        """Runs of chains in blocks whose bytes still wait: meter, first and last."""
        if self._format < 3:
            return []
        return self._connection.execute("SELECT meter, first, last FROM filed").fetchall()

    def _meta(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])


def _block_row(row: tuple[object, ...]) -> BlockRow:
    values = list(row)
    values[8] = bool(values[8])
    return BlockRow(*values)  # type: ignore[arg-type]  # the table's columns are the class's fields
