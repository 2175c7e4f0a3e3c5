"""What is erased of a member in the private store's tables. The transaction is the store's."""

import sqlite3
from hashlib import sha256

from gateway.consumption import Erased

END = 2**62  # behind all steps


def erase_rows(connection: sqlite3.Connection, member: str) -> Erased:
    """Erases all rows that are a member's: consumption, salts, who it is, what it may read, what
    its meters have signed; says what that was."""
    counts = {
        table: connection.execute(
            f"DELETE FROM {table} WHERE member = ?",  # noqa: S608
            (member,),
        ).rowcount
        for table in ("consumption", "superseded", "salts", "people", "access")
    }
    records = _erase_metered(connection, member)
    connection.execute(
        "DELETE FROM sources WHERE number NOT IN (SELECT source FROM consumption"
        " UNION SELECT source FROM superseded)"
    )
    return Erased(
        counts["consumption"] + counts["superseded"],
        counts["salts"],
        bool(counts["people"]),
        counts["access"],
        records,
    )


def hash_of(member: str) -> bytes:
    """What is kept of who was erased: it names the member to who knows the name already."""
    return sha256(f"cryptometer erased {member}".encode()).digest()


def _erase_metered(connection: sqlite3.Connection, member: str) -> int:
    """Erases what the member's meters have signed while they were the member's, and whose they
    were; returns how many records that was. The gateway may run meanwhile: what waits for it is
    known to the devices as durable, so that it stays until it is judged, and goes then."""
    rows = connection.execute(
        "SELECT meter, from_step, (SELECT min(later.from_step) FROM bindings AS later"
        " WHERE later.meter = bindings.meter AND later.from_step > bindings.from_step)"
        " FROM bindings WHERE member = ?",
        (member,),
    ).fetchall()
    count = 0
    for meter, begin, end in rows:
        held = (meter, begin, END if end is None else end)
        within = "meter = ? AND step >= ? AND step < ?"
        connection.execute(f"DELETE FROM metered WHERE {within}", held)  # noqa: S608
        count += connection.execute(
            f"DELETE FROM records WHERE {within} AND NOT is_waiting",  # noqa: S608
            held,
        ).rowcount
        connection.execute("DELETE FROM evidence WHERE meter = ?", (meter,))
        connection.execute(
            "INSERT OR REPLACE INTO forgotten"  # noqa: S608
            f" SELECT meter, max(step) FROM records WHERE {within} GROUP BY meter",
            held,
        )
    # Nobody's from where they were this member's: what comes later belongs to who is named.
    connection.execute("UPDATE bindings SET member = '' WHERE member = ?", (member,))
    return count
