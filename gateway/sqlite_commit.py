"""What a commit writes into the tables of the store's database. The transaction is the store's."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple

from cryptometer.authority_records import Genesis
from cryptometer.chain_records import ChainRecord
from cryptometer.records import Record
from cryptometer.snapshot import encode_agreement, encode_common, encode_meter, encode_settlement
from gateway.sqlite_format import IN_PLACE, RUN, set_epoch, set_meta
from gateway.store import (
    EVIDENCE_MAX,
    EVIDENCE_OF_ONE_MAX,
    Changes,
    NewBlock,
    Refusal,
    StoreFailed,
    compared_of,
    distributions_of,
)

_UNFILE = f"DELETE FROM pending WHERE {RUN}"  # noqa: S608


def write(connection: sqlite3.Connection, changes: Changes, epoch: int) -> None:
    """Writes a commit's rows, inside a transaction.

    Args:
        connection: to a store of the present format.
        epoch: the store's, as it was before.

    Raises:
        StoreFailed: a record of the block does not wait in the store.
    """
    _add_authority(connection, changes.authority)
    if changes.is_private_damaged is not None:
        set_meta(connection, "private_damaged", b"1" if changes.is_private_damaged else b"")
    if changes.takes_back or changes.dropped:
        set_epoch(connection, epoch + 1)
    connection.executemany(
        # What is a leaf by now keeps its bytes until its files are durable.
        f"{_UNFILE} AND NOT EXISTS (SELECT 1 FROM filed WHERE {IN_PLACE})",  # noqa: S608
        _runs(map(_place, changes.dropped)),
    )
    connection.executemany(
        "INSERT INTO pending VALUES (?, ?, ?, ?)",
        [(*_place(record), record.identity, record.raw) for record in changes.accepted],
    )
    for refusal in changes.refusals:
        _refuse(connection, refusal)
    connection.executemany(
        "INSERT OR REPLACE INTO contacts VALUES (?, ?, ?, ?, ?)",
        [
            (one.meter, one.at_ms, one.step, one.clock_state, one.clock_error_ms)
            for one in changes.contacts
        ],
    )
    if changes.block is not None:
        _add_block(connection, changes.block)
    if changes.published is not None:
        _let_go(connection, changes.published)
    connection.executemany(
        "UPDATE blocks SET punctuality_ms = ? WHERE step = ?",
        [(milliseconds, step) for step, milliseconds in changes.measured],
    )


def _let_go(connection: sqlite3.Connection, published: int) -> None:
    """The static files of so many leaves are durable: their bytes may go."""
    connection.execute(
        "INSERT INTO leaves"  # noqa: S608
        " SELECT pending.meter, sequence, identity, leaf + sequence - first"
        f" FROM filed JOIN pending ON {IN_PLACE} WHERE leaf < ?",
        (published,),
    )
    filed = connection.execute(
        "SELECT meter, first, last FROM filed WHERE leaf < ?", (published,)
    ).fetchall()
    connection.executemany(_UNFILE, filed)
    for table in ("filed", "staged"):
        connection.execute(f"DELETE FROM {table} WHERE leaf < ?", (published,))  # noqa: S608


def _add_authority(connection: sqlite3.Connection, added: tuple[Record, ...]) -> None:
    if not added:
        return
    (known,) = connection.execute("SELECT count(*) FROM authority").fetchone()
    for offset, record in enumerate(added):
        if isinstance(record.body, Genesis):
            set_meta(connection, "genesis", record.raw)
        connection.execute("INSERT INTO authority VALUES (?, ?)", (known + offset, record.raw))


def _refuse(connection: sqlite3.Connection, refusal: Refusal) -> None:
    connection.execute(
        "INSERT INTO refusals VALUES (?, ?, 1, ?, ?) ON CONFLICT (meter, reason) DO UPDATE"
        " SET count = count + 1, last_ms = excluded.last_ms, detail = excluded.detail",
        (refusal.meter, refusal.reason.value, refusal.at_ms, refusal.detail),
    )
    if refusal.raw is not None:
        connection.execute(
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


def _file_what_waits(connection: sqlite3.Connection, chain: Sequence[tuple[int, Record]]) -> None:
    """Pending records become leaves where they lie: their bytes are not written again."""
    if not chain:
        return
    runs: list[tuple[int, str, int, int]] = []
    first_leaf = chain[0][0]  # those of the meters stand together
    for name, first, last in _runs(_place(record) for _, record in chain):
        runs.append((first_leaf, name, first, last))
        first_leaf += last - first + 1
    connection.executemany("INSERT INTO filed VALUES (?, ?, ?, ?)", runs)
    (waiting,) = connection.execute(
        f"SELECT count(*) FROM filed JOIN pending ON {IN_PLACE} WHERE leaf >= ?",  # noqa: S608
        (chain[0][0],),
    ).fetchone()
    twice = connection.execute(
        "SELECT 1 FROM filed JOIN filed AS new USING (meter) WHERE filed.leaf < :new"
        " AND new.leaf >= :new AND new.first <= filed.last AND filed.first <= new.last",
        {"new": chain[0][0]},
    ).fetchone()
    known = connection.execute(
        "SELECT 1 FROM filed JOIN leaves ON filed.meter = leaves.meter"
        " AND sequence BETWEEN first AND last WHERE filed.leaf >= ?",
        (chain[0][0],),
    ).fetchone()
    if waiting != len(chain) or twice is not None or known is not None:
        raise StoreFailed("a record of the block does not wait in the store")


def _add_block(connection: sqlite3.Connection, block: NewBlock) -> None:
    row = block.row
    chain: list[tuple[int, Record]] = []
    others: list[tuple[int, Record]] = []
    for leaf, record in enumerate(block.leaves, row.first):
        kind = chain if isinstance(record.body, ChainRecord) else others
        kind.append((leaf, record))
    if block.made_here:
        _file_what_waits(connection, chain)
        staged = others
    else:
        staged = others + chain
        places = [_place(record) for _, record in chain]
        connection.executemany(_UNFILE, _runs(places))
        connection.executemany(
            "INSERT INTO leaves VALUES (?, ?, ?, ?)",
            [(*_place(record), record.identity, leaf) for leaf, record in chain],
        )
    connection.executemany(
        "INSERT INTO staged VALUES (?, ?)", [(leaf, record.raw) for leaf, record in staged]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO meters VALUES (?, ?)",
        [(name, encode_meter(block.state.meters[name])) for name in block.meters],
    )
    connection.executemany(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (meter) DO UPDATE SET"
        " closes = closes + excluded.closes,"
        " first_step = coalesce(first_step, excluded.first_step),"
        " late = late + excluded.late, quarantined = quarantined + excluded.quarantined",
        [
            (one.meter, one.closes, one.first_step, one.late, one.quarantined)
            for one in block.tallies
        ],
    )
    connection.executemany(
        "INSERT INTO set_aside VALUES (?, ?)",
        [(leaf, reason.value) for leaf, reason in block.set_aside],
    )
    connection.executemany(
        "INSERT INTO compared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [astuple(pair) for pair in compared_of(block)],
    )
    _add_shared(connection, block)
    set_meta(connection, "state", encode_common(block.state))
    connection.execute(
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


def _add_shared(connection: sqlite3.Connection, block: NewBlock) -> None:
    agreements = block.state.agreements
    (known,) = connection.execute("SELECT count(*) FROM agreements").fetchone()
    connection.executemany(
        "INSERT INTO agreements VALUES (?, ?)",
        [(at, encode_agreement(agreements[at])) for at in range(known, len(agreements))],
    )
    connection.executemany("INSERT INTO distributions VALUES (?, ?)", distributions_of(block))
    settlements = block.state.settlements
    connection.executemany(
        "DELETE FROM settlements WHERE step = ?",
        [(step,) for step in block.settlements - settlements.keys()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO settlements VALUES (?, ?)",
        [
            (step, encode_settlement(settlements[step]))
            for step in block.settlements & settlements.keys()
        ],
    )


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
