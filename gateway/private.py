"""The private store: members' consumption, the salts that hide it, and who they are. One SQLite
file of its own, which nobody but the gateway's user reads; nothing of it enters the ledger.

No write-ahead log, and what is deleted is overwritten: an erased member is gone from the file once
`erase` returns.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from cryptometer.openings import SALT_BYTES, Opening, salt_of
from gateway.access import Grant, Holder
from gateway.consumption import Correction, Erased, Filed, Known, Person, Value
from gateway.private_erasing import END, erase_rows, hash_of
from gateway.private_file import failed, open_private
from gateway.store import StoreDamaged
from hal.faults import Point, passing

BUSY_MS = 10_000  # an import and the gateway write in turns
_TOGETHER = 10_000  # values per transaction: others wait for some milliseconds only
_STEPS_AHEAD = 200  # whose salts are made with those of one that is asked for
_VALUE = "energy_uwh, is_spread, name, received_ms"
_GRANT = "number, holder, member, digest, granted_ms, until_ms"
# By its index, and in no order: SQLite's own choice is to walk through all that is known.
_CHANGED = """
SELECT step FROM consumption INDEXED BY by_mark WHERE mark > :since
UNION SELECT step FROM coefficients INDEXED BY coefficients_by_mark WHERE mark > :since
UNION SELECT step FROM losses WHERE mark > :since
"""
# From step to step by the index: each has a row for every member, and there may be years of them.
_EVERY = """
WITH RECURSIVE found(step) AS (
    SELECT min(step) FROM consumption
    UNION ALL SELECT (SELECT min(step) FROM consumption WHERE step > found.step)
    FROM found WHERE step IS NOT NULL)
SELECT step FROM found WHERE step IS NOT NULL
UNION SELECT step FROM coefficients UNION SELECT step FROM losses
"""


class PrivateStore:
    """A `Consumption`, and what fills, shows and erases it."""

    def __init__(
        self,
        path: Path,
        entropy: Callable[[int], bytes] = os.urandom,
        busy_ms: int = BUSY_MS,
        *,
        read_only: bool = False,
    ) -> None:
        """Opens the store; makes an empty one where there is none.

        Args:
            path: the database's file.
            entropy: gives so many random bytes.
            busy_ms: how long to wait for another program's turn.
            read_only: nothing is written, nor made where there is none.

        Raises:
            ConfigurationError: the file is none of ours, or of another format.
            StoreFailed: the machine does not let us.
        """
        self._entropy = entropy
        self._connection = open_private(path, busy_ms, read_only=read_only)

    def close(self) -> None:
        self._connection.close()

    # --- For the VPP. ---

    def of(self, step: int) -> Mapping[str, int]:
        with self._reading():
            rows = self._connection.execute(
                "SELECT member, energy_uwh FROM consumption WHERE step = ? ORDER BY member", (step,)
            )
            found = dict(rows.fetchall())
        _check_numbers(found.values())
        return found

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:
        known = self.known_salt(member, step, need_uwh)
        if known is not None:
            return known
        if self._has_forgotten(member, step):
            return self._entropy(SALT_BYTES)  # kept by nobody: there is nothing to open with it
        with self._writing():
            # All that distributions will soon ask for at once: each commit waits for the disk.
            soon = self._connection.execute(
                "SELECT member, step FROM consumption LEFT JOIN salts USING (member, step)"
                " WHERE step BETWEEN :step AND :step + :more AND salt IS NULL"
                " ORDER BY step, member LIMIT :together",
                {"step": step, "more": _STEPS_AHEAD, "together": _TOGETHER},
            ).fetchall()
            places = dict.fromkeys([(member, step), *soon])
            self._connection.executemany(
                "INSERT OR IGNORE INTO salts VALUES (?, ?, ?)",
                [(*place, self._entropy(SALT_BYTES)) for place in places],
            )
            made = self.known_salt(member, step, need_uwh)  # before an erasure has its turn
        assert made is not None  # noqa: S101 - it was made just above
        return made

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:
        with self._reading():
            rows = self._connection.execute(
                "SELECT who FROM erased WHERE until_step >= ?", (step,)
            ).fetchall()
        erased = {who for (who,) in rows}
        return frozenset(one for one in members if erased and hash_of(one) in erased)

    def _has_forgotten(self, member: str, step: int) -> bool:
        if not self.forgotten([member], step):
            return False
        with self._reading():
            told = self._connection.execute(
                "SELECT 1 FROM consumption WHERE member = ? AND step = ?", (member, step)
            ).fetchone()
        return told is None

    def steps_changed_since(self, mark: int) -> tuple[Sequence[int], int]:
        with self._reading():
            self._connection.execute("BEGIN")
            try:
                now = self._mark()
                # A mark of the future is of a newer store than this copy: all is new to its owner.
                since = mark if mark <= now else 0
                rows = self._connection.execute(
                    _CHANGED if since else _EVERY, {"since": since}
                ).fetchall()
                (erased,) = self._connection.execute(
                    "SELECT max(until_step) FROM erased WHERE mark > ?", (since,)
                ).fetchone()
            finally:
                self._connection.execute("ROLLBACK")
        steps = sorted(step for (step,) in rows)
        if erased is not None:
            # Whichever waited for who was erased waits no more: nothing else tells which these are.
            return range(1 + max(erased, steps[-1] if steps else 0)), now
        return steps, now

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:
        with self._reading():
            rows = self._connection.execute(
                "SELECT producer, member, weight FROM coefficients WHERE step = ?", (step,)
            ).fetchall()
        _check_numbers(weight for _, _, weight in rows)
        return {(producer, member): weight for producer, member, weight in rows}

    def losses_uwh(self, step: int) -> int | None:
        with self._reading():
            row = self._connection.execute(
                "SELECT energy_uwh FROM losses WHERE step = ?", (step,)
            ).fetchone()
        _check_numbers(row or ())
        return None if row is None else int(row[0])

    # --- For those who fill it and look at it. ---

    def put_coefficients(self, weights: Mapping[int, Mapping[tuple[str, str], int]]) -> None:
        """Takes the weights of steps by producer ("" for any) and member: each step's as a whole,
        in place of those known before.

        Raises:
            StoreFailed: none was taken.
        """
        with self._writing():
            mark = self._next_mark()
            self._connection.executemany(
                "DELETE FROM coefficients WHERE step = ?", [(step,) for step in weights]
            )
            self._connection.executemany(
                "INSERT INTO coefficients VALUES (?, ?, ?, ?, ?)",
                [
                    (step, producer, member, weight, mark)
                    for step, some in weights.items()
                    for (producer, member), weight in some.items()
                ],
            )

    def put_losses(self, energies_uwh: Mapping[int, int]) -> None:
        """Takes measured losses by step, in place of those known before.

        Raises:
            StoreFailed: none was taken.
        """
        with self._writing():
            mark = self._next_mark()
            self._connection.executemany(
                "INSERT OR REPLACE INTO losses VALUES (?, ?, ?)",
                [(step, energy_uwh, mark) for step, energy_uwh in energies_uwh.items()],
            )

    def known_salt(self, member: str, step: int, need_uwh: int) -> bytes | None:
        """The salt of an amount of a member's step if the step has its secret; never makes one."""
        with self._reading():
            row = self._connection.execute(
                "SELECT salt FROM salts WHERE member = ? AND step = ?", (member, step)
            ).fetchone()
        if row is None:
            return None
        (secret,) = row
        if not isinstance(secret, bytes) or len(secret) != SALT_BYTES:
            raise StoreDamaged(f"the private store is damaged: no salt of {member} in step {step}")
        return salt_of(secret, need_uwh)

    def openings(self, first: int | None, last: int | None) -> dict[tuple[int, str], list[Opening]]:
        """What opens the commitments to consumption, of steps within bounds: by step and member,
        the newest first. Values that were corrected are among them, since a distribution may have
        been made by each."""
        bounds = _bounds(first, last)
        with self._reading():
            rows = self._connection.execute(
                "SELECT step, member, energy_uwh, salt FROM"
                " (SELECT step, member, energy_uwh, mark FROM consumption"
                " UNION ALL SELECT step, member, energy_uwh, mark FROM superseded)"
                " JOIN salts USING (member, step) WHERE step BETWEEN ? AND ?"
                " ORDER BY step, member, mark DESC",
                bounds,
            ).fetchall()
        found: dict[tuple[int, str], dict[int, Opening]] = {}
        for step, member, need, secret in rows:
            several = found.setdefault((step, member), {})
            several.setdefault(need, Opening(need, salt_of(secret, need)))
        return {place: list(several.values()) for place, several in found.items()}

    def put(
        self,
        member: str,
        energies_uwh: Mapping[int, int],
        source: str,
        received_ms: int,
        *,
        is_spread: bool = False,
    ) -> Filed:
        """Takes a member's consumption by step; durable once it returns. A value that differs takes
        the place of the one that was known, which is kept beside it.

        One that is cut off has taken a part; given again, the rest is taken.

        Raises:
            StoreFailed: it was not written.
        """
        return self.put_all({member: energies_uwh}, source, received_ms, is_spread=is_spread)[
            member
        ]

    def put_all(
        self,
        curves: Mapping[str, Mapping[int, int]],
        source: str,
        received_ms: int,
        *,
        is_spread: bool = False,
    ) -> dict[str, Filed]:
        """As `put`, of many members: their values share transactions, each of which waits for the
        disk."""
        filed = dict.fromkeys(curves, Filed(0, 0, ()))
        for some in _together(curves):
            with self._writing():
                for member, energies_uwh in some:
                    more = self._take(member, energies_uwh, (source, received_ms, is_spread))
                    filed[member] = _added(filed[member], more)
        return filed

    def curve(self, member: str, first: int | None, last: int | None) -> Iterator[Known]:
        """What is known of a member, in order of step; within bounds where they are given."""
        bounds = (member, *_bounds(first, last))
        within = "JOIN sources ON source = number WHERE member = ? AND step BETWEEN ? AND ?"
        with self._reading():
            before: dict[int, list[Value]] = {}
            for step, *value in self._connection.execute(
                f"SELECT step, {_VALUE} FROM superseded {within} ORDER BY step, mark",  # noqa: S608
                bounds,
            ):
                before.setdefault(step, []).append(_value(*value))
            for step, *value in self._connection.execute(
                f"SELECT step, {_VALUE} FROM consumption {within} ORDER BY step",  # noqa: S608
                bounds,
            ).fetchall():
                yield Known(step, _value(*value), tuple(before.get(step, ())))

    def person(self, member: str) -> Person | None:
        """Who a member is, if somebody has said."""
        with self._reading():
            row = self._connection.execute(
                "SELECT display_name, address, contact FROM people WHERE member = ?", (member,)
            ).fetchone()
        return None if row is None else Person(*row)

    def set_person(self, member: str, person: Person) -> None:
        """Says who a member is, in place of what was said before.

        Raises:
            StoreFailed: it was not written.
        """
        with self._writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?)", (member, *astuple(person))
            )

    def grant(self, number: str) -> Grant | None:
        """The grant of this number, also where its time is over."""
        return next((one for one in self.grants() if one.number == number), None)

    def grants(self) -> list[Grant]:
        """Who may read by the API, oldest first; those included whose time is over."""
        with self._reading():
            rows = self._connection.execute(
                f"SELECT {_GRANT} FROM access ORDER BY granted_ms, number"  # noqa: S608
            ).fetchall()
        return [Grant(number, Holder(holder), *rest) for number, holder, *rest in rows]

    def put_grant(self, grant: Grant) -> None:
        """Lets somebody read; durable once it returns.

        Raises:
            StoreFailed: it was not written.
        """
        with self._writing():
            self._connection.execute(
                f"INSERT INTO access ({_GRANT}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                astuple(grant),
            )

    def revoke(self, number: str) -> bool:
        """Takes a grant back: from now on its token is as good as none. Whether there was one.

        Raises:
            StoreFailed: it was not written.
        """
        with self._writing():
            gone = self._connection.execute("DELETE FROM access WHERE number = ?", (number,))
        return gone.rowcount > 0

    def erase(self, member: str, until_step: int | None = None) -> Erased:
        """Erases all that is kept of a member: consumption, salts, who it is, what it may read. The
        ledger is not touched: what it holds of this consumption can be opened by nobody any more.

        Args:
            until_step: the last step for whose distributions nobody is to wait for the member.

        Raises:
            StoreFailed: perhaps not all of it is gone; it can be called again.
        """
        with self._writing():
            erased = erase_rows(self._connection, member)
            if until_step is not None:
                self._connection.execute(
                    "INSERT INTO erased VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET until_step = max(until_step, excluded.until_step), mark = excluded.mark",
                    (hash_of(member), until_step, self._next_mark()),
                )
        with self._reading():
            # Copies of a row may be left where pages were divided: none survives a new file.
            self._connection.execute("VACUUM")
        return erased

    def _take(
        self, member: str, energies_uwh: Mapping[int, int], origin: tuple[str, int, bool]
    ) -> Filed:
        """As `put`, inside a transaction."""
        source, received_ms, is_spread = origin
        known = dict(
            self._connection.execute(
                "SELECT step, energy_uwh FROM consumption"
                " WHERE member = ? AND step BETWEEN ? AND ?",
                (member, min(energies_uwh), max(energies_uwh)),
            ).fetchall()
        )
        changed = {
            step: energy_uwh
            for step, energy_uwh in energies_uwh.items()
            if known.get(step) != energy_uwh
        }
        corrections = tuple(
            Correction(step, known[step], energy_uwh)
            for step, energy_uwh in changed.items()
            if step in known
        )
        if changed:
            mark = self._next_mark()
            number = self._source(source)
            self._supersede(member, [one.step for one in corrections])
            self._connection.executemany(
                "INSERT OR REPLACE INTO consumption VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (member, step, energy_uwh, is_spread, number, received_ms, mark)
                    for step, energy_uwh in changed.items()
                ],
            )
        return Filed(len(changed) - len(corrections), len(energies_uwh) - len(changed), corrections)

    def _supersede(self, member: str, steps: Iterable[int]) -> None:
        """Keeps what is known of these steps beside what takes its place."""
        self._connection.executemany(
            "INSERT INTO superseded SELECT member, step, mark, energy_uwh, is_spread,"
            " source, received_ms FROM consumption WHERE member = ? AND step = ?",
            [(member, step) for step in steps],
        )

    def _mark(self) -> int:
        (mark,) = self._connection.execute("SELECT value FROM meta WHERE key = 'mark'").fetchone()
        return int(mark)

    def _next_mark(self) -> int:
        mark = self._mark() + 1
        self._connection.execute("UPDATE meta SET value = ? WHERE key = 'mark'", (mark,))
        return mark

    def _source(self, name: str) -> int:
        self._connection.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (name,))
        (number,) = self._connection.execute(
            "SELECT number FROM sources WHERE name = ?", (name,)
        ).fetchone()
        return int(number)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise failed("the private store fails", error) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction; durable once it is left."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                passing(Point.PRIVATE_COMMIT)
                self._connection.execute("COMMIT")
                passing(Point.PRIVATE_COMMITTED)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise failed("the private store cannot be written", error) from error


def _check_numbers(numbers: Iterable[object]) -> None:
    """Refuses what no command has written: it must stop no block from being sealed.

    Raises:
        StoreDamaged: one is no number, or below zero.
    """
    for number in numbers:
        if not isinstance(number, int) or number < 0:
            raise StoreDamaged(f"the private store is damaged: {number!r:.40} where an amount was")


def _together(
    curves: Mapping[str, Mapping[int, int]],
) -> Iterator[list[tuple[str, Mapping[int, int]]]]:
    """The values of members in order of their steps, as many together as a transaction takes."""
    some: list[tuple[str, Mapping[int, int]]] = []
    room = _TOGETHER
    for member, energies_uwh in curves.items():
        items = sorted(energies_uwh.items())
        while items:
            taken, items = items[:room], items[room:]
            some.append((member, dict(taken)))
            room -= len(taken)
            if room == 0:
                yield some
                some, room = [], _TOGETHER
    if some:
        yield some


def _added(filed: Filed, more: Filed) -> Filed:
    return Filed(
        filed.new + more.new, filed.same + more.same, (*filed.corrections, *more.corrections)
    )


def _bounds(first: int | None, last: int | None) -> tuple[int, int]:
    return -(2**62) if first is None else first, END if last is None else last


def _value(energy_uwh: int, is_spread: int, source: str, received_ms: int) -> Value:
    return Value(energy_uwh, bool(is_spread), source, received_ms)
