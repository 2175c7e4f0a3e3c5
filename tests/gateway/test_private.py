"""The private store: what is known of consumption, what changed, and that erased is gone."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from gateway import private
from gateway.access import Grant, Holder
from gateway.consumption import Consumption, Correction, Erased, Filed, Known, Person, Value
from gateway.private import PrivateStore
from gateway.private_file import make_tables
from gateway.sqlite_file import create_store
from gateway.store import StoreFailed

ROOT = Path(__file__).parents[2]
NOW_MS = 1_790_000_000_000


def counting() -> Callable[[int], bytes]:
    """Salts that tell how many were asked for."""
    asked = 0

    def entropy(size: int) -> bytes:
        nonlocal asked
        asked += 1
        return asked.to_bytes(size, "big")

    return entropy


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PrivateStore]:
    with closing(PrivateStore(tmp_path / "private.db", counting())) as opened:
        yield opened


def test_what_is_put_is_known_by_step(store: PrivateStore) -> None:
    assert store.put("bob", {7: 5, 8: 0}, "file:aa", NOW_MS) == Filed(2, 0, ())
    store.put("alice", {7: 3}, "meter:m0", NOW_MS)
    known: Consumption = store
    assert known.of(7) == {"alice": 3, "bob": 5}
    assert list(known.of(7)) == ["alice", "bob"]
    assert (known.of(8), known.of(9)) == ({"bob": 0}, {})


def test_the_newest_value_counts_and_those_before_stay_beside_it(store: PrivateStore) -> None:
    store.put("alice", {7: 3, 8: 4}, "file:aa", NOW_MS)
    filed = store.put("alice", {7: 5, 8: 4, 9: 1}, "file:bb", NOW_MS + 1, is_spread=True)
    assert filed == Filed(1, 1, (Correction(7, 3, 5),))
    store.put("alice", {7: 3}, "file:aa", NOW_MS + 2)
    first, second = Value(3, False, "file:aa", NOW_MS), Value(5, True, "file:bb", NOW_MS + 1)
    third = Value(3, False, "file:aa", NOW_MS + 2)
    assert list(store.curve("alice", None, None)) == [
        Known(7, third, (first, second)),
        Known(8, Value(4, False, "file:aa", NOW_MS), ()),
        Known(9, Value(1, True, "file:bb", NOW_MS + 1), ()),
    ]
    assert [known.step for known in store.curve("alice", 8, 8)] == [8]


def test_a_salt_is_made_once_and_outlives_the_program(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path, counting())) as store:
        assert store.known_salt("alice", 7, 0) is None
        made = store.salt("alice", 7, 0)
        assert (store.salt("alice", 7, 0), len(made)) == (made, 32)
        assert store.salt("alice", 8, 0) != made != store.salt("bob", 7, 0)
    with closing(PrivateStore(path)) as store:
        assert store.salt("alice", 7, 0) == made
        assert len({store.salt("carol", step, 0) for step in range(20)}) == 20


def test_the_salts_of_a_steps_members_are_made_together(store: PrivateStore) -> None:
    for member in ("alice", "bob"):
        store.put(member, {7: 1}, "file:aa", NOW_MS)
    store.salt("alice", 7, 0)
    assert store.known_salt("bob", 7, 0) is not None
    assert store.known_salt("bob", 8, 0) is None


def test_a_month_that_comes_at_once_does_not_wait_for_the_disk_in_each_step(
    store: PrivateStore,
) -> None:
    steps = range(2_976)
    store.put("alice", dict.fromkeys(steps, 1), "file:aa", NOW_MS)
    done: list[str] = []
    store._connection.set_trace_callback(done.append)
    salts = {store.salt("alice", step, 0) for step in steps}
    assert len(salts) == len(steps)
    assert done.count("COMMIT") <= 20


def test_a_salt_is_told_also_if_its_member_is_erased_right_behind(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as store, closing(PrivateStore(path)) as other:
        store.put("alice", {7: 1}, "file:aa", NOW_MS)

        @contextmanager
        def writing() -> Iterator[None]:
            with PrivateStore._writing(store):
                yield
            other.erase("alice")

        store._writing = writing  # type: ignore[method-assign]
        assert len(store.salt("alice", 7, 0)) == 32
        assert store.known_salt("alice", 7, 0) is None


def test_a_mark_tells_which_steps_changed_since(store: PrivateStore) -> None:
    assert store.steps_changed_since(0) == ([], 0)
    store.put("alice", {9: 1, 7: 1}, "file:aa", NOW_MS)
    steps, mark = store.steps_changed_since(0)
    assert steps == [7, 9]
    assert store.steps_changed_since(mark) == ([], mark)
    store.put("bob", {9: 2}, "file:aa", NOW_MS)
    store.put("alice", {7: 1, 8: 1}, "file:bb", NOW_MS)  # 7 is what it was
    store.salt("alice", 7, 0)
    steps, later = store.steps_changed_since(mark)
    assert steps == [8, 9]
    store.put("alice", {7: 2}, "file:cc", NOW_MS)
    assert store.steps_changed_since(later)[0] == [7]


def test_what_changed_is_told_without_a_look_at_what_did_not(store: PrivateStore) -> None:
    """Asked for each block: years of members' steps are not walked through each time."""
    for member in range(20):
        store.put(f"m{member}", dict.fromkeys(range(1_000), 1), "file:aa", NOW_MS)
    _, mark = store.steps_changed_since(0)
    store.put("m3", {7: 2}, "file:bb", NOW_MS)
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return 0

    store._connection.set_progress_handler(look, 100)
    assert store.steps_changed_since(mark) == ([7], mark + 1)
    assert looks < 10


def test_a_mark_that_a_copy_has_not_reached_yet_tells_of_every_step(store: PrivateStore) -> None:
    store.put("alice", {7: 1}, "file:aa", NOW_MS)
    assert store.steps_changed_since(1000) == ([7], 1)


def test_many_values_are_taken_in_several_goes(
    store: PrivateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_TOGETHER", 10)
    energies = {step: step * 2 for step in range(95)}
    assert store.put("alice", energies, "file:aa", NOW_MS) == Filed(95, 0, ())
    assert store.put("alice", {**energies, 90: 1}, "file:bb", NOW_MS).corrections == (
        Correction(90, 180, 1),
    )
    steps, _ = store.steps_changed_since(0)
    assert steps == list(range(95))


def test_the_values_of_many_members_share_transactions(
    store: PrivateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_TOGETHER", 10)
    curves = {f"m{at}": dict.fromkeys(range(at), at) for at in range(8)}
    commits: list[str] = []
    store._connection.set_trace_callback(lambda text: commits.extend([text] * (text == "COMMIT")))
    filed = store.put_all(curves, "file:aa", NOW_MS)
    assert {member: one.new for member, one in filed.items()} == {f"m{at}": at for at in range(8)}
    assert len(commits) == 3  # 28 values
    for name, curve in curves.items():
        known = store.curve(name, None, None)
        assert {one.step: one.value.energy_uwh for one in known} == curve


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["alice", "bob"]),
            st.dictionaries(st.integers(-3, 3), st.integers(0, 5)),
        ),
        max_size=6,
    )
)
def test_the_store_says_what_the_newest_file_said(
    files: list[tuple[str, dict[int, int]]],
) -> None:
    expected: dict[tuple[str, int], int] = {}
    store = PrivateStore.__new__(PrivateStore)
    store._connection = sqlite3.connect(":memory:", isolation_level=None)
    make_tables(store._connection)
    with closing(store):
        mark = 0
        for number, (member, energies) in enumerate(files):
            changed = {
                step for step, one in energies.items() if expected.get((member, step)) != one
            }
            filed = store.put(member, energies, f"file:{number}", number)
            assert filed.new + len(filed.corrections) == len(changed)
            expected |= {(member, step): one for step, one in energies.items()}
            steps, mark = store.steps_changed_since(mark)
            assert steps == sorted(changed)
        for step in range(-3, 4):
            known = {member: one for (member, at), one in expected.items() if at == step}
            assert store.of(step) == known


# --- Who a member is; and erasing. ---------------------------------------------------------------


def test_who_a_member_is_is_kept_beside_it(store: PrivateStore) -> None:
    assert store.person("alice") is None
    store.set_person("alice", Person("Alice Martin", "1 rue des Tilleuls"))
    store.set_person("alice", Person("Alice Dupont", contact="alice@example.org"))
    assert store.person("alice") == Person("Alice Dupont", "", "alice@example.org")


def test_what_is_erased_is_in_no_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    salt, name = b"\xc5" * 32, "Alice Martin of the Tilleuls"
    told = [0x0123456789AB, 0x0123456789AD]
    with closing(PrivateStore(path, lambda _: salt)) as store:
        for at, energy_uwh in enumerate(told):
            store.put("alice", dict.fromkeys(range(3000), energy_uwh), f"file:a{at}", NOW_MS)
        store.set_person("alice", Person(name, name, name))
        for step in range(50):
            store.salt("alice", step, 0)
        salts = private._STEPS_AHEAD + 1
        store.put("bob", dict.fromkeys(range(3000), 0x0BADCAFE0BAD), "file:b", NOW_MS)
        needles = [name.encode(), salt, b"alice", *(one.to_bytes(6, "big") for one in told)]

        def found() -> list[bytes]:
            content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
            return [needle for needle in needles if needle in content]

        assert found() == needles
        assert store.erase("alice") == Erased(6000, salts, person=True)
        assert found() == []
        assert store.of(7) == {"bob": 0x0BADCAFE0BAD}
        assert store.person("alice") is None
        assert store.known_salt("alice", 7, 0) is None
        assert list(store.curve("alice", None, None)) == []
        assert (0x0BADCAFE0BAD).to_bytes(6, "big") in path.read_bytes()
        assert b"file:a" not in path.read_bytes()
        assert store.erase("alice") == Erased(0, 0, person=False)


def test_a_mark_goes_on_behind_an_erasure(store: PrivateStore) -> None:
    store.put("alice", {7: 1}, "file:aa", NOW_MS)
    _, mark = store.steps_changed_since(0)
    store.erase("alice")
    assert store.steps_changed_since(mark) == ([], mark)
    store.put("bob", {8: 1}, "file:aa", NOW_MS)
    assert store.steps_changed_since(mark)[0] == [8]


# --- The file. -----------------------------------------------------------------------------------


def test_two_programs_write_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as one, closing(PrivateStore(path)) as other:
        for step in range(20):
            one.put("alice", {step: 1}, "file:aa", NOW_MS)
            other.salt("alice", step, 0)
            assert other.of(step) == {"alice": 1}
        other.erase("alice")
        assert one.of(3) == {}


def test_a_reader_does_not_wait_for_a_writer_that_has_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as writer, closing(PrivateStore(path)) as reader:
        writer.put("bob", {1: 1}, "file:aa", NOW_MS)
        reader._connection.execute("PRAGMA busy_timeout = 0")
        with writer._writing():
            writer._connection.executemany(
                "INSERT INTO consumption VALUES ('alice', ?, 1, 0, 1, 0, 1)",
                [(step,) for step in range(private._TOGETHER * 4)],
            )
            assert reader.of(1) == {"bob": 1}
            with pytest.raises(StoreFailed, match="locked"):
                reader.salt("bob", 1, 0)
        assert reader.of(1) == {"alice": 1, "bob": 1}


def test_a_process_imports_and_erases_while_another_reads_and_makes_salts(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gateway.private import PrivateStore\n"
        "store = PrivateStore(Path(sys.argv[1]))\n"
        "for at in range(10):\n"
        "    store.put('alice', dict.fromkeys(range(500), at), f'file:{at}', at)\n"
        "    store.put('carol', {1: at}, 'file:c', at)\n"
        "    store.erase('carol')\n"
    )
    with (
        closing(PrivateStore(path)) as store,
        subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT) as child,
    ):
        store.put("bob", dict.fromkeys(range(1000), 7), "file:b", NOW_MS)
        made: dict[int, bytes] = {}
        mark, seen = 0, set()
        while child.poll() is None:
            step = len(made) % 1000
            made[step] = store.salt("bob", step, 0)
            assert store.of(step)["bob"] == 7
            steps, mark = store.steps_changed_since(mark)
            seen |= set(steps)
        assert child.returncode == 0
        assert {step: store.known_salt("bob", step, 0) for step in made} == made
        assert set(steps) | seen >= set(range(1000))
        assert store.of(499) == {"alice": 9, "bob": 7}
        assert len(next(store.curve("alice", 3, 3)).earlier) == 9


def test_only_its_user_may_read_it_and_no_log_is_left(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as store:
        store.put("alice", {7: 1}, "file:aa", NOW_MS)
        assert path.stat().st_mode & 0o777 == 0o600
        assert [file.name for file in tmp_path.iterdir()] == ["private.db"]


def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "text", tmp_path / "other", tmp_path / "newer"
    text.write_text("no database, but long enough to be taken for one " * 100)
    create_store(other, epoch=1)
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="is no private store"):
            PrivateStore(path)
        assert path.read_bytes() == before
    PrivateStore(newer).close()
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 5")
    with pytest.raises(ConfigurationError, match="is of format 5, this program writes format 4"):
        PrivateStore(newer)


def test_a_folder_that_is_not_there_is_the_machines_failure(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot be opened"):
        PrivateStore(tmp_path / "nowhere" / "private.db")


# --- Who may read. -------------------------------------------------------------------------------


def test_a_store_of_an_earlier_format_is_brought_up_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as store:
        store.put("alice", {7: 1}, "file:aa", NOW_MS)
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in (
            "access", "bindings", "accounts", "records", "metered", "aside", "evidence",
            "forgotten",
            "erased"
        ):  # fmt: skip
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DELETE FROM meta WHERE key = 'governed'")
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(ConfigurationError, match="is of format 1"):
        PrivateStore(path, read_only=True)
    grant = Grant("0a", Holder.MEMBER, "alice", bytes(32), NOW_MS, NOW_MS + 1)
    with closing(PrivateStore(path)) as store:
        assert store.of(7) == {"alice": 1}
        assert store.grants() == []
        store.put_grant(grant)
    with closing(PrivateStore(path, read_only=True)) as store:
        assert store.grant("0a") == grant
        assert store.grant("0b") is None


def test_a_reader_makes_no_store_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot be opened"):
        PrivateStore(tmp_path / "private.db", read_only=True)
    assert not list(tmp_path.iterdir())


def test_with_a_member_go_its_tokens_and_nobody_elses(store: PrivateStore) -> None:
    for number, holder, member in (
        ("01", Holder.MEMBER, "alice"), ("02", Holder.MEMBER, "bob"), ("03", Holder.DSO, ""),
    ):  # fmt: skip
        store.put_grant(Grant(number, holder, member, bytes(32), NOW_MS, NOW_MS + 1))
    assert store.erase("alice") == Erased(0, 0, person=False, tokens=1)
    assert [one.number for one in store.grants()] == ["02", "03"]
