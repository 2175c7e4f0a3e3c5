"""The private store: members' consumption, the salts that hide it, and who they are. One SQLite
file of its own, which nobody but the gateway's user reads; nothing of it enters the ledger.

No write-ahead log, and what is deleted is overwritten: an erased member is gone from the file once
`erase` returns.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path

from cryptometer.errors import ConfigurationError
from cryptometer.openings import SALT_BYTES, Opening, commitment, salt_of
from gateway.access import Grant, Holder
from gateway.consumption import Correction, Erased, Filed, Known, Person, Value
from gateway.lacking import Facts
from gateway.sqlite_file import connect
from gateway.store import StoreDamaged, StoreFailed
from gateway.vpp import NoFacts
from hal.faults import Point, passing
from hal.files import sync_folder

APPLICATION_ID = 0x43725072  # "CrPr" (PRAGMA application_id)
FORMAT = 4
MODE = 0o600  # `serve` and others in the group have no business here
BUSY_MS = 10_000  # an import and the gateway write in turns
_TOGETHER = 10_000  # values per transaction: others wait for some milliseconds only
_STEPS_AHEAD = 200  # whose salts are made with those of one that is asked for
END = 2**62  # behind all steps
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
        try:
            if not path.exists() and not read_only:
                _create(path)
            self._connection = _open(path, busy_ms, read_only=read_only)
        except (OSError, sqlite3.Error) as error:
            raise _failed(f"the private store {path} cannot be opened", error) from error

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
        return frozenset(one for one in members if erased and _hash_of(one) in erased)

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
            counts = {
                table: self._connection.execute(
                    f"DELETE FROM {table} WHERE member = ?",  # noqa: S608
                    (member,),
                ).rowcount
                for table in ("consumption", "superseded", "salts", "people", "access")
            }
            records = self._erase_metered(member)
            if until_step is not None:
                self._connection.execute(
                    "INSERT INTO erased VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET until_step = max(until_step, excluded.until_step), mark = excluded.mark",
                    (_hash_of(member), until_step, self._next_mark()),
                )
            self._connection.execute(
                "DELETE FROM sources WHERE number NOT IN (SELECT source FROM consumption"
                " UNION SELECT source FROM superseded)"
            )
        with self._reading():
            # Copies of a row may be left where pages were divided: none survives a new file.
            self._connection.execute("VACUUM")
        return Erased(
            counts["consumption"] + counts["superseded"],
            counts["salts"],
            bool(counts["people"]),
            counts["access"],
            records,
        )

    def _erase_metered(self, member: str) -> int:
        """Erases what the member's meters have signed while they were the member's, and whose they
        were; returns how many records that was. The gateway may run meanwhile: what waits for it is
        known to the devices as durable, so that it stays until it is judged, and goes then."""
        rows = self._connection.execute(
            "SELECT meter, from_step, (SELECT min(later.from_step) FROM bindings AS later"
            " WHERE later.meter = bindings.meter AND later.from_step > bindings.from_step)"
            " FROM bindings WHERE member = ?",
            (member,),
        ).fetchall()
        count = 0
        for meter, begin, end in rows:
            held = (meter, begin, END if end is None else end)
            within = "meter = ? AND step >= ? AND step < ?"
            self._connection.execute(f"DELETE FROM metered WHERE {within}", held)  # noqa: S608
            count += self._connection.execute(
                f"DELETE FROM records WHERE {within} AND NOT is_waiting",  # noqa: S608
                held,
            ).rowcount
            self._connection.execute("DELETE FROM evidence WHERE meter = ?", (meter,))
            self._connection.execute(
                "INSERT OR REPLACE INTO forgotten"  # noqa: S608
                f" SELECT meter, max(step) FROM records WHERE {within} GROUP BY meter",
                held,
            )
        # Nobody's from where they were this member's: what comes later belongs to who is named.
        self._connection.execute("UPDATE bindings SET member = '' WHERE member = ?", (member,))
        return count

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
            raise _failed("the private store fails", error) from error

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
            raise _failed("the private store cannot be written", error) from error


def _failed(what: str, error: Exception) -> StoreFailed:
    """What is said of a failure: whether the file itself is at fault."""
    code = getattr(error, "sqlite_errorcode", None)
    is_passing = code is None or code & 0xFF in _PASSING
    return (StoreFailed if is_passing else StoreDamaged)(f"{what}: {error}")


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


def _hash_of(member: str) -> bytes:
    return sha256(f"cryptometer erased {member}".encode()).digest()


def _bounds(first: int | None, last: int | None) -> tuple[int, int]:
    return -(2**62) if first is None else first, END if last is None else last


def open_opening(
    path: Path, community: bytes, member: str, step: int, digest: bytes, *, read_only: bool = False
) -> Opening | None:
    """What opens a commitment to a member's consumption, also where that was corrected since; None
    where it is not known, or erased.

    Raises:
        ConfigurationError, StoreFailed: as `PrivateStore`.
    """
    if not path.exists():
        return None
    with closing(PrivateStore(path, read_only=read_only)) as store:
        for known in store.curve(member, step, step):
            for need in (one.energy_uwh for one in (known.value, *reversed(known.earlier))):
                salt = store.known_salt(member, step, need)
                if salt and commitment(community, step, member, need, salt) == digest:
                    return Opening(need, salt)
    return None


@contextmanager
def open_facts(path: Path) -> Iterator[Facts | None]:
    """What is known of members, to be read; None where this user may not, or it is damaged."""
    if not path.exists():
        yield NoFacts()
        return
    try:
        store = PrivateStore(path)
    except (StoreFailed, ConfigurationError):
        yield None
        return
    with closing(store):
        yield store


def _value(energy_uwh: int, is_spread: int, source: str, received_ms: int) -> Value:
    return Value(energy_uwh, bool(is_spread), source, received_ms)


def _create(path: Path) -> None:
    """Makes an empty store; it is there whole or not at all, and another's is left as it is."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=MODE)
    beside.chmod(MODE)
    with closing(connect(beside)) as connection:
        connection.executescript(
            f"BEGIN; {_SCHEMA}; {_ACCESS}; {'; '.join(_CHAINS)}; {_ERASED};"
            f" PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {FORMAT}; COMMIT;"
        )
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
