"""One suite for both stores: every guarantee that `gateway.store` states. Then what only the one on
a disk owes: durability, files of other formats, a full disk."""

import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.accuracy import pair_of
from cryptometer.authority_records import AuthorityRecord, Genesis
from cryptometer.chain_records import ChainRecord
from cryptometer.errors import ConfigurationError, Reason
from cryptometer.governing import found
from cryptometer.records import Record
from cryptometer.state import State
from gateway.filing import file_block
from gateway.memory_store import MemoryStore
from gateway.sqlite_file import connect, create_store
from gateway.sqlite_format import APPLICATION_ID, SCHEMA_VERSION, bring_up, set_epoch
from gateway.sqlite_store import SqliteStore
from gateway.store import (
    EVIDENCE_MAX,
    EVIDENCE_OF_ONE_MAX,
    Changes,
    Contact,
    NewBlock,
    Refusal,
    RefusalCount,
    Store,
    StoreFailed,
    Tally,
)
from tests.core.community import FIRST_STEP, Village
from tests.core.strategies import examples
from tests.gateway.kit import Site, content

EPOCH = 1_700_000_000


class Shelf:
    """Where a store stands, and how to come back to it later."""

    def __init__(self, path: Path | None) -> None:
        """`path`: of a database; None for the store in memory."""
        self._path = path
        self._opened: list[SqliteStore] = []
        if path is not None:
            create_store(path, EPOCH)
        self.store: Store = MemoryStore(EPOCH) if path is None else self._open(path)

    def reopen(self) -> Store:
        """The store as a new start of the program finds it."""
        if self._path is not None:
            self.close()
            self.store = self._open(self._path)
        return self.store

    def close(self) -> None:
        for store in self._opened:
            store.close()
        self._opened.clear()

    def _open(self, path: Path) -> SqliteStore:
        store = SqliteStore(path)
        self._opened.append(store)
        return store


@pytest.fixture(params=["memory", "sqlite"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "store.sqlite" if request.param == "sqlite" else None)
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[SqliteStore, Path]]:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    store = SqliteStore(path)
    yield store, path
    store.close()


class History:
    """The real blocks of a small community: two meters, three steps."""

    def __init__(self) -> None:
        self.village = Village(2)
        self.village.run([8, 5], [3], [])

    @property
    def founding(self) -> tuple[Record, ...]:
        first = self.village.blocks[0]
        return tuple(r for r in first if isinstance(r.body, Genesis | AuthorityRecord))

    def state(self, block: int) -> State:
        """The community before a block."""
        village = self.village
        return village.checked[block - 1].state if block else found(village.authority.genesis)

    def block(self, number: int, note: str = "a note") -> NewBlock:
        village = self.village
        checked = village.checked[number]
        return file_block(self.state(number), checked, village.blocks[number], note)

    def sent(self, number: int) -> tuple[Record, ...]:
        """The devices' records that a block holds."""
        return tuple(
            verdict.record
            for verdict in self.village.checked[number].verdicts
            if not isinstance(verdict.record.body, Genesis | AuthorityRecord)
        )


HISTORY = History()
FIRST, SECOND, THIRD, FOURTH = range(4)


def commit_until(store: Store, last: int) -> None:
    """Founds the store and files the blocks up to number `last`."""
    store.commit(Changes(authority=HISTORY.founding))
    for number in range(last + 1):
        store.commit(Changes(accepted=HISTORY.sent(number)))
        store.commit(Changes(block=HISTORY.block(number)))


def refusal(
    meter: str, reason: Reason, detail: str = "", at_ms: int = 0, raw: bytes | None = None
) -> Refusal:
    return Refusal(meter, reason, detail, at_ms, raw)


# --- What both owe. ------------------------------------------------------------------------------


def test_a_new_store_knows_nothing_but_its_epoch(shelf: Shelf) -> None:
    store = shelf.store
    assert store.epoch == EPOCH
    assert store.state() is None
    assert content(store) == {
        "epoch": EPOCH,
        "state": None,
        **{key: [] for key in set(content(store)) - {"epoch", "state"}},
    }
    assert store.block(FIRST_STEP) is None
    assert store.identity_at("m0", 0) is None
    assert store.leaf_at("m0", 0) is None
    assert store.find(bytes(32)) is None


def test_authority_records_are_kept_in_order_and_found_the_community(shelf: Shelf) -> None:
    first, *others = HISTORY.founding
    shelf.store.commit(Changes(authority=(first,)))
    shelf.store.commit(Changes(authority=tuple(others[:2])))
    shelf.store.commit(Changes(authority=tuple(others[2:])))
    store = shelf.reopen()
    assert store.authority() == [record.raw for record in HISTORY.founding]
    assert store.state() == found(first)


def test_accepted_records_wait_by_meter_and_sequence_however_they_came(shelf: Shelf) -> None:
    shelf.store.commit(Changes(authority=HISTORY.founding))
    sent = HISTORY.sent(SECOND)
    shelf.store.commit(Changes(accepted=tuple(reversed(sent[2:]))))
    shelf.store.commit(Changes(accepted=sent[:2]))
    # A block's order is that by meter and sequence.
    assert list(shelf.reopen().pending()) == [record.raw for record in sent]


def test_a_record_is_found_while_it_waits_and_in_its_block(shelf: Shelf) -> None:
    commit_until(shelf.store, FIRST)
    run_start, batch, close = HISTORY.sent(SECOND)[3:]  # of m1
    shelf.store.commit(Changes(accepted=HISTORY.sent(SECOND)))
    store = shelf.reopen()
    assert store.identity_at("m1", 1) == batch.identity
    assert store.leaf_at("m1", 1) is None
    assert store.find(batch.identity) == ("m1", 1, None)

    store.commit(Changes(block=HISTORY.block(SECOND)))
    store = shelf.reopen()
    first = HISTORY.block(SECOND).row.first
    for sequence, record in enumerate((run_start, batch, close)):
        assert store.identity_at("m1", sequence) == record.identity
        assert store.leaf_at("m1", sequence) == first + 3 + sequence
        assert store.find(record.identity) == ("m1", sequence, first + 3 + sequence)
    assert store.identity_at("m1", 3) is None
    assert store.identity_at("m2", 1) is None
    assert store.leaf_at("m2", 1) is None


def test_a_block_takes_its_records_and_leaves_the_others_waiting(shelf: Shelf) -> None:
    commit_until(shelf.store, FIRST)
    later = HISTORY.sent(THIRD)
    shelf.store.commit(Changes(accepted=(*HISTORY.sent(SECOND), *later)))
    new = HISTORY.block(SECOND)
    shelf.store.commit(Changes(block=new))
    store = shelf.reopen()
    assert list(store.pending()) == [record.raw for record in later]
    assert store.block(new.row.step) == new.row
    assert store.state() == new.state == HISTORY.state(THIRD)


def test_every_field_of_a_block_is_read_back(shelf: Shelf) -> None:
    shelf.store.commit(Changes(authority=HISTORY.founding))
    new = HISTORY.block(FIRST)
    row = replace(
        new.row, sealed_ms=11, records=12, late=13, expected=14, heard=15, caught_up=True, note="n"
    )
    shelf.store.commit(Changes(block=replace(new, row=row)))
    assert shelf.reopen().block(row.step) == row
    assert row.punctuality_ms is None
    shelf.store.commit(Changes(measured=((row.step, 0),)))
    assert shelf.reopen().block(row.step) == replace(row, punctuality_ms=0)


def test_a_block_may_hold_records_that_never_waited(shelf: Shelf) -> None:
    """A restored store is brought forward from the ledger's files."""
    commit_until(shelf.store, FIRST)
    shelf.store.commit(Changes(accepted=HISTORY.sent(SECOND)[:1]))
    brought = replace(HISTORY.block(SECOND), made_here=False)
    shelf.store.commit(Changes(block=brought))
    store = shelf.reopen()
    assert list(store.pending()) == []
    assert [raw for _, raw in store.staged()][-len(brought.leaves) :] == [
        record.raw for record in brought.leaves
    ]
    for record in HISTORY.sent(SECOND):
        assert store.find(record.identity) is not None


def test_the_newest_blocks_come_first_and_no_more_than_asked_for(shelf: Shelf) -> None:
    commit_until(shelf.store, FOURTH)
    rows = [HISTORY.block(number).row for number in range(4)]
    store = shelf.reopen()
    assert store.blocks(2) == [rows[FOURTH], rows[THIRD]]
    assert store.blocks(10) == rows[::-1]
    assert store.block(rows[SECOND].step) == rows[SECOND]
    assert store.block(rows[FOURTH].step + 1) is None


def test_leaves_are_staged_until_their_files_are_published(shelf: Shelf) -> None:
    commit_until(shelf.store, SECOND)
    leaves = [r.raw for number in (FIRST, SECOND) for r in HISTORY.village.blocks[number]]
    assert shelf.reopen().staged() == list(enumerate(leaves))

    size = HISTORY.block(FIRST).row.size
    shelf.store.commit(Changes(published=size))
    assert shelf.reopen().staged() == list(enumerate(leaves))[size:]

    # A block and what is known to be published of those before it come in one commit.
    third = HISTORY.block(THIRD)
    shelf.store.commit(Changes(accepted=HISTORY.sent(THIRD)))
    shelf.store.commit(Changes(block=third, published=len(leaves)))
    assert shelf.reopen().staged() == [
        (third.row.first + at, record.raw) for at, record in enumerate(third.leaves)
    ]


def test_a_punctuality_is_noted_with_its_block_and_another_step_s_is_nothing(shelf: Shelf) -> None:
    commit_until(shelf.store, SECOND)
    step = HISTORY.block(SECOND).row.step
    shelf.store.commit(Changes(measured=((step, 250), (step + 100, 1))))
    store = shelf.reopen()
    assert [row.punctuality_ms for row in store.blocks(9)] == [250, None]


def test_refusals_are_counted_by_meter_and_reason_and_keep_the_newest_detail(shelf: Shelf) -> None:
    shelf.store.commit(
        Changes(refusals=(refusal("m1", Reason.GAP, "old", 5), refusal("", Reason.GAP, "who", 6)))
    )
    shelf.store.commit(
        Changes(refusals=(refusal("m1", Reason.GAP, "new", 7), refusal("m1", Reason.FORK, "f", 8)))
    )
    assert shelf.reopen().refusals() == [
        RefusalCount("", "gap", 1, 6, "who"),
        RefusalCount("m1", "fork", 1, 8, "f"),
        RefusalCount("m1", "gap", 2, 7, "new"),
    ]


def test_only_bytes_given_as_evidence_are_kept_each_once_oldest_first(shelf: Shelf) -> None:
    fork = refusal("m0", Reason.FORK, "another record", 1, b"fork")
    again = replace(fork, at_ms=2)
    other = refusal("m0", Reason.REVOKED, "late", 3, b"other")
    shelf.store.commit(Changes(refusals=(refusal("m0", Reason.MALFORMED), fork)))
    shelf.store.commit(Changes(refusals=(again, other)))
    store = shelf.reopen()
    assert store.evidence() == [fork, other]
    assert [(one.reason, one.count) for one in store.refusals()] == [
        ("fork", 2),
        ("malformed", 1),
        ("revoked", 1),
    ]


def test_evidence_is_bounded_for_one_meter_and_for_all(shelf: Shelf) -> None:
    def forks(name: str, count: int) -> tuple[Refusal, ...]:
        raws = [b"%b %d" % (name.encode(), number) for number in range(count)]
        return tuple(refusal(name, Reason.FORK, raw=raw) for raw in raws)

    shelf.store.commit(Changes(refusals=forks("m0", EVIDENCE_OF_ONE_MAX + 5)))
    assert [one.raw for one in shelf.store.evidence()] == [
        b"m0 %d" % number for number in range(EVIDENCE_OF_ONE_MAX)
    ]
    # What one meter has signed against itself does not keep out what another has.
    shelf.store.commit(Changes(refusals=forks("m1", 1)))
    assert shelf.store.evidence()[-1].meter == "m1"

    meters = -(-EVIDENCE_MAX // EVIDENCE_OF_ONE_MAX) + 2
    many = [one for number in range(meters) for one in forks(f"x{number}", EVIDENCE_OF_ONE_MAX)]
    shelf.store.commit(Changes(refusals=tuple(many)))
    store = shelf.reopen()
    assert len(store.evidence()) == EVIDENCE_MAX
    assert sum(one.count for one in store.refusals()) == len(many) + EVIDENCE_OF_ONE_MAX + 6


def test_the_newest_contact_with_each_meter_is_kept(shelf: Shelf) -> None:
    shelf.store.commit(
        Changes(contacts=(Contact("m1", 1, 10, "S", 20), Contact("m0", 2, 9, "U", 3)))
    )
    shelf.store.commit(Changes(contacts=(Contact("m1", 5, 11, "I", 2_000),)))
    assert shelf.reopen().contacts() == [
        Contact("m0", 2, 9, "U", 3),
        Contact("m1", 5, 11, "I", 2_000),
    ]


def test_tallies_add_up_and_keep_the_first_step_closed(shelf: Shelf) -> None:
    commit_until(shelf.store, FOURTH)
    step = HISTORY.block(SECOND).row.step
    assert shelf.reopen().tallies() == [
        Tally("m0", 3, step, 0, 0),
        Tally("m1", 3, step, 0, 0),
    ]


def test_what_second_sources_say_is_kept_in_order_but_not_what_is_set_aside(
    shelf: Shelf,
) -> None:
    device = Village(1).devices[0]
    said = {"counting": False, "unit_uwh": 1_000_000, "counted": 0}
    steps = range(7, 11)
    told = [device.run_start(7)] + [device.reading(step, 5 * step, **said) for step in steps]
    shelf.store.commit(Changes(authority=HISTORY.founding, accepted=tuple(told)))
    first = HISTORY.block(FIRST)
    block = replace(
        first,
        leaves=tuple(told),
        tallies=(),
        set_aside=((first.row.first + 2, Reason.FAR_FUTURE),),
    )
    shelf.store.commit(Changes(block=block))
    store = shelf.reopen()
    assert [one.step for one in store.compared("m0", 9)] == [7, 9, 10]
    assert [one.index for one in store.compared("m0", 2)] == [45, 50]
    assert store.compared("m0", 1) == [pair_of(told[-1])]
    assert store.compared("m1", 9) == []


def test_tallies_of_late_and_quarantined_records_add_up(shelf: Shelf) -> None:
    shelf.store.commit(Changes(authority=HISTORY.founding))
    for number, one in enumerate(
        (Tally("m0", 0, None, 1, 2), Tally("m0", 1, 7, 0, 3), Tally("m0", 2, 8, 4, 0))
    ):
        shelf.store.commit(Changes(accepted=HISTORY.sent(number)))
        shelf.store.commit(Changes(block=replace(HISTORY.block(number), tallies=(one,))))
    assert shelf.reopen().tallies() == [Tally("m0", 3, 7, 5, 5)]


def test_a_dropped_record_leaves_its_place_to_another_of_the_same_commit(shelf: Shelf) -> None:
    shelf.store.commit(Changes(authority=HISTORY.founding))
    village = Village(1)
    old, new = village.device.run_start(FIRST_STEP + 1), Village(1).device.run_start(FIRST_STEP + 2)
    assert old.identity != new.identity
    shelf.store.commit(Changes(accepted=(old,)))
    shelf.store.commit(Changes(dropped=(old,), accepted=(new,)))
    store = shelf.reopen()
    assert list(store.pending()) == [new.raw]
    assert store.find(old.identity) is None
    assert store.epoch == EPOCH + 1  # what was acknowledged is so no more
    store.commit(Changes(dropped=(new,)))
    assert store.identity_at("m0", 0) is None
    assert store.epoch == shelf.reopen().epoch == EPOCH + 2


IMPOSSIBLE: dict[str, Callable[[], Changes]] = {
    "a place that is taken": lambda: Changes(accepted=HISTORY.sent(THIRD)[:1]),
    "a step that has its block": lambda: Changes(block=HISTORY.block(SECOND)),
    "a leaf that never waited": lambda: Changes(block=HISTORY.block(THIRD)),
    "a leaf where a record of the chain is": lambda: Changes(
        block=replace(
            HISTORY.block(THIRD),
            leaves=(*HISTORY.sent(SECOND), HISTORY.village.blocks[THIRD][-1]),
        )
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_commit_that_fails_leaves_nothing_of_itself(shelf: Shelf, name: str) -> None:
    commit_until(shelf.store, SECOND)
    shelf.store.commit(Changes(accepted=HISTORY.sent(THIRD)[:1]))
    before = content(shelf.store)
    whole = Changes(
        authority=(HISTORY.founding[-1],),
        refusals=(refusal("m0", Reason.FORK, raw=b"raw"),),
        contacts=(Contact("m0", 1, 2, "S", 3),),
        published=3,
        measured=((HISTORY.block(SECOND).row.step, 9),),
    )
    wrong = IMPOSSIBLE[name]()
    with pytest.raises(StoreFailed):
        shelf.store.commit(replace(whole, accepted=wrong.accepted, block=wrong.block))
    assert content(shelf.store) == before
    assert content(shelf.reopen()) == before


def test_a_leaf_whose_files_are_not_durable_is_not_dropped(shelf: Shelf) -> None:
    commit_until(shelf.store, SECOND)
    before = shelf.store.staged()
    shelf.store.commit(Changes(dropped=HISTORY.sent(SECOND)))
    assert shelf.reopen().staged() == before


def test_reading_changes_nothing(shelf: Shelf) -> None:
    commit_until(shelf.store, SECOND)
    before = content(shelf.store)
    shelf.store.authority().clear()
    shelf.store.evidence().clear()
    shelf.store.staged().clear()
    assert content(shelf.store) == before


@given(st.data())
@examples(40)
def test_both_stores_say_the_same_after_any_history(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("twin") / "store.sqlite")
    disk, memory = shelf.store, MemoryStore(EPOCH)
    unsent = [record for number in range(4) for record in HISTORY.sent(number)]
    ends = [0, *(HISTORY.block(number).row.size for number in range(4))]
    sealed = waiting = 0

    def both(changes: Changes) -> None:
        failed = []
        for store in (disk, memory):
            try:
                store.commit(changes)
            except StoreFailed:
                failed.append(store)
        assert failed in ([], [disk, memory])

    both(Changes(authority=HISTORY.founding))
    for _ in range(data.draw(st.integers(1, 12), "commits")):
        changes = Changes(
            published=data.draw(st.none() | st.sampled_from(ends), "published"),
            measured=tuple(
                data.draw(
                    st.lists(st.tuples(st.integers(FIRST_STEP, FIRST_STEP + 4), st.integers(0, 9)))
                )
            ),
            refusals=tuple(
                data.draw(
                    st.lists(
                        st.builds(
                            refusal,
                            st.sampled_from(["", "m0", "m1"]),
                            st.sampled_from(list(Reason)),
                            st.text(max_size=3),
                            st.integers(0, 9),
                            st.none() | st.binary(max_size=1),
                        ),
                        max_size=4,
                    )
                )
            ),
            contacts=tuple(
                data.draw(
                    st.lists(
                        st.builds(
                            Contact,
                            st.sampled_from(["m0", "m1"]),
                            *[st.integers(0, 9)] * 2,
                            st.sampled_from("SIU"),
                            st.integers(0, 9),
                        ),
                        max_size=2,
                    )
                )
            ),
        )
        match data.draw(st.sampled_from(["accept", "block", "drop", "again", "nothing"])):
            case "accept" if waiting < len(unsent):
                changes = replace(changes, accepted=tuple(unsent[waiting : waiting + 2]))
                waiting += 2
            case "block" if sealed < 4:
                held = sum(len(HISTORY.sent(number)) for number in range(sealed + 1))
                made_here = waiting >= held and data.draw(st.booleans(), "made here")
                block = replace(HISTORY.block(sealed), made_here=made_here)
                changes = replace(changes, block=block)
                sealed, waiting = sealed + 1, max(waiting, held)
            case "drop" if waiting:
                changes = replace(changes, dropped=tuple(unsent[waiting - 1 : waiting]))
            case "again" if sealed:
                changes = replace(changes, block=HISTORY.block(sealed - 1))
        both(changes)
        assert content(disk) == content(memory)
    assert content(shelf.reopen()) == content(memory)
    shelf.close()


# --- What the one on a disk owes. ----------------------------------------------------------------


def test_a_commit_is_synced_through_a_write_ahead_log(disk: tuple[SqliteStore, Path]) -> None:
    store, _ = disk
    pragma = {
        name: store._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "busy_timeout")
    }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5_000}  # 2 is FULL


def test_the_log_is_copied_into_the_database_after_a_block_and_not_by_its_commit(
    disk: tuple[SqliteStore, Path],
) -> None:
    """People wait for the block; what the log holds is as durable as the database."""
    store, path = disk
    commit_until(store, FIRST)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    long = bytes(5_000_000)  # more than what SQLite by itself would let the log have
    store.commit(Changes(refusals=(refusal("m0", Reason.FORK, raw=long),)))
    store.commit(Changes(accepted=HISTORY.sent(SECOND)))
    second = HISTORY.block(SECOND)
    store.commit(Changes(block=second, published=HISTORY.block(FIRST).row.size))
    assert path.read_bytes() == before
    store.commit(Changes(published=second.row.size))
    assert len(path.read_bytes()) > len(before) + len(long)
    (_, pages, copied) = store._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert pages == copied


def test_a_log_that_cannot_be_copied_stops_the_program(disk: tuple[SqliteStore, Path]) -> None:
    """Files may not outgrow a limit: the database would, the log does not."""
    store, path = disk
    commit_until(store, FIRST)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.commit(Changes(refusals=(refusal("m0", Reason.FORK, raw=bytes(30_000)),)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(StoreFailed, match="cannot be written"):
            store.commit(Changes(published=HISTORY.block(FIRST).row.size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with closing(SqliteStore(path)) as again:
        assert not again.staged()  # the commit itself stands
        assert len(again.evidence()) == 1


def test_a_new_store_is_closed_to_others_and_bears_our_mark(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    assert path.stat().st_mode & 0o777 == 0o640
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_is_never_overwritten(disk: tuple[SqliteStore, Path]) -> None:
    store, path = disk
    commit_until(store, FIRST)
    before = content(store)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        create_store(path, EPOCH + 1)
    assert content(store) == before


def test_a_reader_sees_each_commit_beside_the_writer_and_cannot_write(
    disk: tuple[SqliteStore, Path],
) -> None:
    store, path = disk
    with closing(SqliteStore(path, read_only=True)) as reader:
        commit_until(store, SECOND)
        assert content(reader) == content(store)
        before = content(store)
        with pytest.raises(StoreFailed, match="readonly"):
            reader.commit(Changes(contacts=(Contact("m0", 1, 1, "S", 1),)))
        store.commit(Changes(contacts=(Contact("m0", 2, 2, "S", 2),)))
        assert (
            content(reader)
            == content(store)
            == {
                **before,
                "contacts": [Contact("m0", 2, 2, "S", 2)],
            }
        )


def test_a_reader_opens_a_store_that_no_one_writes(disk: tuple[SqliteStore, Path]) -> None:
    store, path = disk
    commit_until(store, FOURTH)
    before = content(store)
    store.close()
    with closing(SqliteStore(path, read_only=True)) as reader:
        assert content(reader) == before


def test_a_reader_who_cannot_make_a_log_reads_a_whole_store(
    disk: tuple[SqliteStore, Path],
) -> None:
    store, path = disk
    commit_until(store, FOURTH)
    before = content(store)
    store.close()
    # As on a read-only mount: whatever the mode of the folder says, no log can be made in it.
    path.with_name(f"{path.name}-wal").symlink_to("nowhere/at-all")
    with closing(SqliteStore(path, read_only=True)) as reader:
        assert content(reader) == before


def test_a_log_that_cannot_be_read_is_not_left_out(disk: tuple[SqliteStore, Path]) -> None:
    store, path = disk
    commit_until(store, FOURTH)
    store.close()
    path.with_name(f"{path.name}-wal").mkdir()
    with pytest.raises(StoreFailed, match="cannot be opened now"):
        SqliteStore(path, read_only=True)


def test_what_is_read_in_one_moment_is_of_one_moment(disk: tuple[SqliteStore, Path]) -> None:
    store, path = disk
    commit_until(store, FIRST)
    before = content(store)
    with closing(SqliteStore(path, read_only=True)) as reader:
        with reader.one_moment():
            assert reader.state() == before["state"]
            store.commit(Changes(accepted=HISTORY.sent(SECOND), block=HISTORY.block(SECOND)))
            assert content(reader) == before
        assert content(reader) == content(store) != before


def test_a_new_epoch_is_seen_by_the_next_start(disk: tuple[SqliteStore, Path]) -> None:
    store, path = disk
    commit_until(store, FIRST)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        set_epoch(connection, EPOCH + 9)
    with closing(SqliteStore(path)) as later:
        assert content(later) == {**content(store), "epoch": EPOCH + 9}


@pytest.mark.parametrize("name", ["50% #1?.sqlite", "a b", "ü&x=y", "file:x?mode=ro"])
def test_a_path_may_hold_any_letters(tmp_path: Path, name: str) -> None:
    create_store(tmp_path / name, EPOCH)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    with closing(SqliteStore(tmp_path / name)) as store:
        store.commit(Changes(authority=HISTORY.founding))
    with closing(SqliteStore(tmp_path / name, read_only=True)) as store:
        assert len(store.authority()) == len(HISTORY.founding)


def test_a_missing_store_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no store at .*run cryptometer-gateway init"):
        SqliteStore(tmp_path / "store.sqlite")
    assert not list(tmp_path.iterdir())


def _other_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (key TEXT)")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (lambda path: _other_version(path, SCHEMA_VERSION + 1), "run the newer"),
    "older": (lambda path: _other_version(path, 0), "run the older"),
    "of another program": (_other_program, "no store of cryptometer-gateway; move it away"),
    "empty": (lambda path: path.write_bytes(b""), "no store of cryptometer-gateway; move it away"),
    "no database": (lambda path: path.write_bytes(b"text " * 999), "cryptometer-gateway restore"),
    "a folder": (_folder, "cannot open the store"),
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("name", STRANGE)
def test_a_file_of_another_format_is_refused_with_what_to_do_and_left_as_it_is(
    tmp_path: Path, name: str, read_only: bool
) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    change, words = STRANGE[name]
    change(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(ConfigurationError, match=words):
        SqliteStore(path, read_only=read_only)
    assert before is None or path.read_bytes() == before


def test_a_damaged_store_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    with closing(SqliteStore(path)) as store:
        commit_until(store, FOURTH)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(len(whole) - 100))
    with pytest.raises(ConfigurationError, match=r"cannot read the store .*restore"):
        SqliteStore(path)


def test_a_full_disk_fails_the_commit_and_loses_none_before_it(
    disk: tuple[SqliteStore, Path],
) -> None:
    store, _ = disk
    commit_until(store, FIRST)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    before = content(store)
    filling = Changes(refusals=(refusal("m0", Reason.FORK, raw=bytes(200_000)),))
    with pytest.raises(StoreFailed, match="full"):
        store.commit(filling)
    assert content(store) == before
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    store.commit(filling)
    assert len(store.evidence()) == 1


def test_what_a_copied_log_holds_is_part_of_the_store(
    disk: tuple[SqliteStore, Path], tmp_path: Path
) -> None:
    """A machine that stops leaves the commits in the write-ahead log beside the database."""
    store, path = disk
    commit_until(store, SECOND)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", stopped)
    with closing(SqliteStore(stopped / path.name)) as recovered:
        assert content(recovered) == content(store)


def _make_format_5(connection: sqlite3.Connection) -> None:
    """Nothing is compared."""
    connection.execute("DROP TABLE compared")
    connection.execute("PRAGMA user_version = 5")


def _make_format_4(connection: sqlite3.Connection) -> None:
    """Nothing is shared."""
    _make_format_5(connection)
    for table in ("agreements", "settlements", "distributions"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version = 4")


def _make_format_3(connection: sqlite3.Connection) -> None:
    """A block's commit has each of its leaves in the index."""
    _make_format_4(connection)
    connection.execute(
        "INSERT INTO leaves SELECT pending.meter, sequence, identity, leaf + sequence - first"
        " FROM filed JOIN pending"
        " ON pending.meter = filed.meter AND sequence BETWEEN first AND last"
    )
    connection.execute("PRAGMA user_version = 3")


def _make_older(connection: sqlite3.Connection) -> None:
    """Format 2: the bytes of a block's leaves leave the pending ones, and are written anew."""
    _make_format_3(connection)
    connection.execute(
        "INSERT INTO staged SELECT filed.leaf + sequence - first, raw FROM filed JOIN pending"
        " ON pending.meter = filed.meter AND sequence BETWEEN first AND last"
    )
    connection.execute(
        "DELETE FROM pending WHERE EXISTS (SELECT 1 FROM filed"
        " WHERE filed.meter = pending.meter AND sequence BETWEEN first AND last)"
    )
    connection.execute("DROP TABLE filed")
    connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize("older", [_make_format_4, _make_format_5])
def test_a_store_of_format_4_or_5_is_brought_up_as_one_that_has_shared_or_compared_nothing(
    tmp_path: Path, older: Callable[[sqlite3.Connection], None]
) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    with closing(SqliteStore(path)) as store:
        commit_until(store, SECOND)
        before = content(store)
    with closing(sqlite3.connect(path)) as connection, connection:
        older(connection)
    with closing(SqliteStore(path, read_only=True)) as old:
        assert (content(old), old.distributions(SECOND)) == (before, [])
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert (content(store), store.distributions(SECOND)) == (before, [])


def test_a_store_of_format_3_is_brought_up_with_its_index(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    records = [*HISTORY.sent(SECOND), *HISTORY.sent(THIRD)]

    def places(store: SqliteStore) -> list[object]:
        return [store.find(one.identity) for one in records] + [
            store.leaf_at(*_chain_place(one)) for one in records
        ]

    with closing(SqliteStore(path)) as store:
        commit_until(store, SECOND)
        store.commit(Changes(accepted=HISTORY.sent(THIRD)))
        before, known = content(store), places(store)
        assert known.count(None) == len(HISTORY.sent(THIRD))  # they wait, and are no leaves
    with closing(sqlite3.connect(path)) as connection, connection:
        _make_format_3(connection)
    with closing(SqliteStore(path, read_only=True)) as old:
        assert (content(old), places(old)) == (before, known)
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert (content(store), places(store)) == (before, known)
    with closing(SqliteStore(path)) as store:
        store.commit(Changes(block=HISTORY.block(THIRD), published=HISTORY.block(SECOND).row.size))
        store.commit(Changes(published=HISTORY.block(THIRD).row.size))
        assert places(store)[: len(HISTORY.sent(SECOND))] == known[: len(HISTORY.sent(SECOND))]
        assert None not in places(store)
        assert (store.staged(), list(store.pending())) == ([], [])


def test_a_store_of_years_is_brought_up_without_a_look_at_each_leaf(tmp_path: Path) -> None:
    path, leaves, steps = tmp_path / "store.sqlite", 20_000, count()
    create_store(path, EPOCH)
    with closing(connect(path)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
            " INSERT INTO leaves SELECT 'm' || (i % 100), i / 100, randomblob(32), i FROM n",
            (leaves,),
        )
        connection.executemany(
            "INSERT INTO filed VALUES (?, ?, 199, 199)",
            [(leaf, f"m{leaf}") for leaf in range(100)],
        )
        _make_format_4(connection)
        connection.execute("PRAGMA user_version = 3")
        connection.set_progress_handler(lambda: next(steps) < 0, 1)
        bring_up(connection)
        connection.set_progress_handler(None, 0)
        left = connection.execute("SELECT count(*), max(sequence) FROM leaves").fetchone()
    assert left == (leaves - 100, 198)
    assert next(steps) < leaves


def test_a_reader_finds_a_leaf_whatever_the_writer_commits_meanwhile(
    disk: tuple[SqliteStore, Path],
) -> None:
    store, path = disk
    commit_until(store, SECOND)
    size = HISTORY.block(SECOND).row.size
    place = _chain_place(HISTORY.sent(SECOND)[-1])
    leaf, looks = store.leaf_at(*place), count()

    def let_go(_: str) -> None:
        if next(looks) == 1:
            store.commit(Changes(published=size))

    with closing(SqliteStore(path, read_only=True)) as reader:
        reader._connection.set_trace_callback(let_go)
        assert leaf is not None
        assert [reader.leaf_at(*place) for _ in range(3)] == [leaf] * 3
    assert not store.staged()


def _chain_place(record: Record) -> tuple[str, int]:
    assert isinstance(record.body, ChainRecord)
    return record.body.meter, record.body.sequence


def test_a_store_of_format_2_is_brought_up_with_what_was_staged_in_it(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    with closing(SqliteStore(path)) as store:
        commit_until(store, SECOND)
        store.commit(Changes(accepted=HISTORY.sent(THIRD)))
        before = content(store)
    with closing(sqlite3.connect(path)) as connection, connection:
        _make_older(connection)
    with closing(SqliteStore(path, read_only=True)) as old:
        assert content(old) == before
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert content(store) == before
    with closing(SqliteStore(path)) as store:
        store.commit(Changes(block=HISTORY.block(THIRD), published=HISTORY.block(SECOND).row.size))
        assert [raw for _, raw in store.staged()] == [one.raw for one in HISTORY.village.blocks[2]]
        assert store.depths().pending == 0


def test_a_store_of_format_1_is_brought_up_and_owns_to_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.sqlite"
    create_store(path, EPOCH)
    site = Site(store=SqliteStore(path))
    site.found()
    site.run([8], [3])
    before = content(site.store)
    site.store.close()  # type: ignore[attr-defined]
    with closing(sqlite3.connect(path)) as connection, connection:
        _make_older(connection)
        connection.execute("DROP TABLE set_aside")
        connection.execute("PRAGMA user_version = 1")
    # Whoever only reads leaves it as it is, and says what is not known.
    with closing(SqliteStore(path, read_only=True)) as old:
        assert content(old) == before
        assert old.set_aside() == {}
        with pytest.raises(LookupError):
            old.verdict(0)
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert content(store) == before
            size = store.blocks(1)[0].size
            with pytest.raises(LookupError, match=f"leaf {size - 1}"):
                store.verdict(size - 1)
            assert store.verdict(size) is None
    site.store = SqliteStore(path)
    site.start()
    step = site.next_step
    site.send(site.device.batch(step, 9), site.device.close(step))
    site.seal()
    assert site.store.set_aside() == {"lot-above-v": 1}
    leaf = site.store.leaf_at("m0", site.device.sequence - 2)
    assert leaf is not None
    assert site.store.verdict(leaf) is Reason.LOT_ABOVE_V
    site.store.close()
