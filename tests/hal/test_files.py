"""Durable files: the real folder and its twin keep the same promises, and a power cut or a death
at any named point leaves what they say."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cryptometer.errors import ConfigurationError
from hal import files
from hal.faults import CRASH_VARIABLE, Point
from hal.files import (
    WRITES_AT_ONCE,
    DiskDirectory,
    DiskTree,
    SimulatedDirectory,
    SimulatedTree,
    hold,
    make_folder,
    put_file,
)
from hal.ports import Directory, Tree
from tests.core.strategies import examples

PATIENCE_S = 30


@pytest.fixture(params=["disk", "simulated"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    if request.param == "simulated":
        yield SimulatedDirectory()
        return
    disk = DiskDirectory(tmp_path / "deep" / "folder")
    yield disk
    disk.close()


@pytest.fixture(params=["disk", "simulated"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return SimulatedTree() if request.param == "simulated" else DiskTree(tmp_path / "a" / "tree")


# --- One suite for both directories. -------------------------------------------------------------


def test_a_new_directory_is_empty(directory: Directory) -> None:
    assert directory.names() == []
    assert directory.free_bytes() > 0


def test_what_is_appended_stands_at_the_end(directory: Directory) -> None:
    directory.append("a", b"one")
    directory.append("a", b"")
    directory.append("b", b"x")
    directory.append("a", b"two")
    assert directory.read("a") == b"onetwo"
    assert directory.size("a") == 6
    assert directory.names() == ["a", "b"]


@pytest.mark.parametrize(
    ("offset", "size", "part"),
    [(0, -1, b"012345"), (2, -1, b"2345"), (2, 3, b"234"), (4, 9, b"45"), (9, 3, b""), (0, 0, b"")],
)
def test_a_part_of_a_file_is_read(
    directory: Directory, offset: int, size: int, part: bytes
) -> None:
    directory.append("a", b"012345")
    assert directory.read("a", offset, size) == part


def test_a_file_is_cut_and_goes_on_from_there(directory: Directory) -> None:
    directory.append("a", b"012345")
    directory.truncate("a", 2)
    assert directory.read("a") == b"01"
    directory.append("a", b"x")
    assert directory.read("a") == b"01x"


def test_a_put_file_has_its_new_content_only(directory: Directory) -> None:
    directory.append("a", b"a long old content")
    directory.put("a", b"new")
    assert directory.read("a") == b"new"
    directory.append("a", b"er")
    assert directory.read("a") == b"newer"
    directory.put("b", b"")
    assert directory.names() == ["a", "b"]
    assert directory.size("b") == 0


def test_a_removed_file_is_gone_and_may_come_again(directory: Directory) -> None:
    directory.append("a", b"old")
    directory.remove("a")
    directory.remove("a")
    directory.remove("never there")
    assert directory.names() == []
    directory.append("a", b"new")
    assert directory.read("a") == b"new"


def test_a_file_that_is_not_there_is_no_empty_file(directory: Directory) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: directory.read("a"),
        lambda: directory.size("a"),
        lambda: directory.truncate("a", 0),
        lambda: directory.sync(["a"]),
    ]
    for attempt in attempts:
        with pytest.raises(FileNotFoundError):
            attempt()
    assert directory.names() == []


def test_several_files_are_synced_at_once(directory: Directory) -> None:
    directory.append("a", b"1")
    directory.append("b", b"2")
    directory.sync(["a", "b"])
    directory.sync([])
    assert [directory.read(name) for name in directory.names()] == [b"1", b"2"]


NAMES = st.sampled_from(["a", "b", "c"])


class Twins(RuleBasedStateMachine):
    """Any order of work leaves the same files in both directories."""

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.disk = DiskDirectory(self.folder)
        self.twin = SimulatedDirectory()

    def both(self, work: Callable[[Directory], object]) -> None:
        outcomes: list[object] = []
        for one in (self.disk, self.twin):
            try:
                outcomes.append(work(one))
            except FileNotFoundError:
                outcomes.append("missing")
        assert outcomes[0] == outcomes[1]

    @rule(name=NAMES, data=st.binary(max_size=20))
    def append(self, name: str, data: bytes) -> None:
        self.both(lambda one: one.append(name, data))

    @rule(name=NAMES, data=st.binary(max_size=20))
    def put(self, name: str, data: bytes) -> None:
        self.both(lambda one: one.put(name, data))

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.both(lambda one: one.remove(name))

    @rule(name=NAMES)
    def sync(self, name: str) -> None:
        self.both(lambda one: one.sync([name]))

    @precondition(lambda self: self.twin.names())
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.twin.names()))
        size = data.draw(st.integers(0, self.twin.size(name)))
        self.both(lambda one: one.truncate(name, size))

    @rule()
    def open_again(self) -> None:
        self.disk.close()
        self.disk = DiskDirectory(self.folder)

    @rule(name=NAMES, offset=st.integers(0, 50), size=st.integers(-1, 50))
    def read(self, name: str, offset: int, size: int) -> None:
        self.both(lambda one: one.read(name, offset, size))

    @invariant()
    def hold_the_same(self) -> None:
        self.both(lambda one: {name: one.read(name) for name in one.names()})
        self.both(lambda one: [one.size(name) for name in one.names()])

    def teardown(self) -> None:
        self.disk.close()
        self.place.cleanup()


def test_any_order_of_work_leaves_the_same_in_both() -> None:
    run_state_machine_as_test(Twins, settings=settings(examples(50), stateful_step_count=30))


# --- The real folder. ----------------------------------------------------------------------------


def test_files_and_folders_are_their_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        disk = DiskDirectory(tmp_path / "state")
        disk.append("a", b"")
        disk.put("b", b"")
        disk.close()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (disk.path, *disk.path.iterdir())]
    assert modes == [0o700, 0o600, 0o600]


def test_a_folder_that_stands_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o750)
    DiskDirectory(tmp_path / "state").close()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750


def test_a_half_finished_put_is_no_file(tmp_path: Path) -> None:
    disk = DiskDirectory(tmp_path)
    (tmp_path / "a.new").write_bytes(b"half")
    (tmp_path / "folder").mkdir()
    assert disk.names() == []
    disk.put("a", b"whole")
    assert disk.names() == ["a"]
    assert not (tmp_path / "a.new").exists()
    disk.close()


def test_what_an_earlier_run_appended_can_be_synced(tmp_path: Path) -> None:
    first = DiskDirectory(tmp_path)
    first.append("a", b"1")
    first.close()
    second = DiskDirectory(tmp_path)
    second.sync(["a"])
    second.append("a", b"2")
    second.sync(["a"])
    second.close()
    assert (tmp_path / "a").read_bytes() == b"12"


def test_a_full_disk_is_an_error_and_no_silence() -> None:
    twin = SimulatedDirectory(room_bytes=10)
    twin.append("a", b"12345678")
    with pytest.raises(OSError, match="No space left") as full:
        twin.append("a", b"9012")
    assert full.value.errno == errno.ENOSPC
    assert twin.read("a") == b"1234567890"  # a disk takes what it has room for
    with pytest.raises(OSError, match="No space left"):
        twin.put("b", b"1")
    assert twin.names() == ["a"]
    twin.remove("a")
    assert twin.free_bytes() == 10


class Recorded:
    """The calls that make something durable, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        for name in ("fsync", "fdatasync", "ftruncate", "write"):
            monkeypatch.setattr(os, name, self._spy(name, getattr(os, name)))
        rename = Path.replace

        def replace(path: Path, target: Path) -> Path:
            self.calls.append(("rename", target.name))
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", replace)

    def _spy(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(descriptor: int, *rest: object) -> object:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.calls.append((name, path.name))
            return real(descriptor, *rest)

        return call


def test_a_file_is_durable_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of effects is the argument: whatever a power cut leaves is old or new, never half.
    Without a machine to cut, the calls are the proof."""
    folder = tmp_path / "state"
    disk = DiskDirectory(folder)
    recorded = Recorded(monkeypatch)

    disk.put("a", b"x")
    assert recorded.calls == [
        ("write", "a.new"),
        ("fsync", "a.new"),
        ("rename", "a"),
        ("fsync", "state"),
    ]
    recorded.calls.clear()
    disk.append("b", b"x")
    disk.append("c", b"x")
    assert recorded.calls == [("write", "b"), ("write", "c")]
    recorded.calls.clear()
    disk.sync(["b", "c"])
    assert recorded.calls == [("fdatasync", "b"), ("fdatasync", "c"), ("fsync", "state")]
    recorded.calls.clear()
    disk.append("b", b"x")
    disk.sync(["b"])  # its name is durable already
    assert recorded.calls == [("write", "b"), ("fdatasync", "b")]
    recorded.calls.clear()
    disk.truncate("b", 1)
    assert recorded.calls == [("ftruncate", "b"), ("fsync", "b")]
    recorded.calls.clear()
    disk.remove("b")
    assert recorded.calls == [("fsync", "state")]
    recorded.calls.clear()
    disk.close()
    again = DiskDirectory(folder)
    again.sync(["c"])  # who made the name may have died before it was durable
    assert recorded.calls == [("fdatasync", "c"), ("fsync", "state")]
    again.close()


def test_a_log_of_many_files_keeps_only_its_newest_open(tmp_path: Path) -> None:
    disk = DiskDirectory(tmp_path / "log")
    for number in range(50):
        disk.append(f"{number:02}", b"old")
        disk.append(f"{number + 1:02}", b"new")
        disk.sync([f"{number:02}", f"{number + 1:02}"])
        assert open_below(disk.path) == [f"{number + 1:02}"]
    disk.append("00", b"er")  # not durable yet: whether its sync fails must be heard
    disk.sync(["50"])
    assert open_below(disk.path) == ["00", "50"]
    disk.sync(["00"])
    assert open_below(disk.path) == ["00"]
    disk.close()
    assert open_below(disk.path) == []


def open_below(folder: Path) -> list[str]:
    """Names of the files in a folder that this process has open."""
    open_now = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            open_now.append(link.readlink())
    return sorted(path.name for path in open_now if path.parent == folder)


def test_a_new_folder_is_durable_in_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    make_folder(tmp_path / "a" / "b" / "c")
    assert sorted(recorded.calls) == [("fsync", "a"), ("fsync", "b"), ("fsync", tmp_path.name)]
    recorded.calls.clear()
    make_folder(tmp_path / "a" / "b" / "c")
    assert recorded.calls == []
    DiskTree(tmp_path / "ledger")
    assert recorded.calls == [("fsync", tmp_path.name)]


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    disk = DiskDirectory(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
        disk.append("a", b"0123456789")
        disk.put("b", b"0123456789")
    assert disk.read("a") == disk.read("b") == b"0123456789"
    disk.close()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_put_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_given: object) -> int:
        raise OSError(errno.EIO, "the card is worn out")

    disk = DiskDirectory(tmp_path)
    disk.put("a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OSError, match="worn out"):
            disk.put("a", b"new")
    assert disk.read("a") == b"old"
    assert disk.names() == ["a"]
    disk.close()


def test_a_failed_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> None:
        raise OSError(errno.EIO, "the card is worn out")

    disk = DiskDirectory(tmp_path)
    disk.append("a", b"x")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="worn out"):
            disk.sync(["a"])
    disk.close()


@pytest.mark.parametrize(
    ("call", "work"),
    [
        ("os.write", lambda directory: directory.append("one", b"more")),
        ("os.fdatasync", lambda directory: directory.sync(["one"])),
        ("Path.open", lambda directory: directory.read("one")),
    ],
)
def test_the_file_that_fails_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    work: Callable[[DiskDirectory], object],
) -> None:
    """The log of a board, and its status, say nothing else of a card that dies."""
    directory = DiskDirectory(tmp_path)
    directory.append("one", b"data")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(f"hal.files.{call}", fail)
        with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/one'"):
            work(directory)
    directory.close()


def test_a_file_is_put_with_the_mode_it_is_given(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        put_file(tmp_path / "public", b"", 0o644)
        put_file(tmp_path / "secret", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_folder_is_held_by_one_program_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    with hold(lock):
        with pytest.raises(ConfigurationError, match=f"another program runs on {tmp_path}"):
            hold(lock).__enter__()
        assert subprocess.run([sys.executable, "-c", HOLDER, lock], check=False).returncode == 7
    with hold(lock):
        pass


def test_a_program_that_dies_lets_go_of_its_folder(tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    command = [sys.executable, "-c", HOLDER.replace("pass", "os.kill(os.getpid(), 9)"), str(lock)]
    assert subprocess.run(command, check=False, timeout=PATIENCE_S).returncode == -signal.SIGKILL
    with hold(lock):
        pass


HOLDER = """
import os, sys
from pathlib import Path
from cryptometer.errors import ConfigurationError
from hal.files import hold
try:
    with hold(Path(sys.argv[1])):
        pass
except ConfigurationError:
    sys.exit(7)
"""

# --- Death at every named point of the files. ----------------------------------------------------

WORKER = """
import os, sys
from pathlib import Path
from hal import faults
from hal.files import DiskDirectory
disk = DiskDirectory(Path(sys.argv[1]))
faults.arm(os.environ[faults.CRASH_VARIABLE])
disk.append("log", b"two")
disk.sync(["log"])
disk.put("state", b"new")
disk.truncate("log", 4)
disk.remove("rest")
sys.exit(0)
"""
OLD = {"log": b"one", "state": b"old", "rest": b"."}
APPENDED = {**OLD, "log": b"onetwo"}
PUT = {**APPENDED, "state": b"new"}
TRUNCATED = {**PUT, "log": b"onet"}
REMOVED = {"log": b"onet", "state": b"new"}


@pytest.mark.parametrize(
    ("point", "left"),
    [
        (Point.FILE_APPEND, OLD),
        (Point.FILE_APPENDED, APPENDED),
        (Point.FILE_SYNCED, APPENDED),
        (Point.FILE_PUT_WRITTEN, APPENDED),
        (Point.FILE_PUT_RENAMED, PUT),
        (Point.FILE_TRUNCATED, TRUNCATED),
        (Point.FILE_REMOVED, REMOVED),
    ],
)
def test_a_death_at_a_named_point_leaves_the_work_before_it(
    tmp_path: Path, point: Point, left: dict[str, bytes]
) -> None:
    disk = DiskDirectory(tmp_path)
    for name, content in OLD.items():
        disk.append(name, content)
    disk.close()
    died = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        env={**os.environ, CRASH_VARIABLE: point},
        check=False,
        timeout=PATIENCE_S,
    )
    assert died.returncode == -signal.SIGKILL
    disk = DiskDirectory(tmp_path)
    assert {name: disk.read(name) for name in disk.names()} == left


def test_every_point_of_the_files_is_proven() -> None:
    """A point that is added needs its line above."""
    proven = {
        mark.args[1][place][0]
        for mark in test_a_death_at_a_named_point_leaves_the_work_before_it.pytestmark  # type: ignore[attr-defined]
        for place in range(len(mark.args[1]))
    }
    assert proven == {point for point in Point if point.startswith("file.")}


# --- Power cuts, in the twin. --------------------------------------------------------------------


def test_a_power_cut_loses_what_was_not_synced() -> None:
    twin = SimulatedDirectory()
    twin.append("a", b"kept")
    twin.sync(["a"])
    twin.append("a", b" lost")
    twin.append("b", b"lost with its name")
    twin.cut_power()
    assert {name: twin.read(name) for name in twin.names()} == {"a": b"kept"}


def test_a_power_cut_may_leave_a_torn_tail() -> None:
    twin = SimulatedDirectory()
    twin.append("a", b"kept")
    twin.sync(["a"])
    twin.append("a", b"torn")
    twin.append("b", b"torn")
    twin.cut_power(torn_bytes=2)
    assert {name: twin.read(name) for name in twin.names()} == {"a": b"keptto", "b": b"to"}
    twin.cut_power()  # what survived one cut survives the next
    assert twin.read("a") == b"keptto"


def test_what_is_put_cut_or_removed_survives_a_power_cut() -> None:
    twin = SimulatedDirectory()
    twin.put("a", b"put")
    twin.append("b", b"012345")
    twin.truncate("b", 3)
    twin.put("c", b".")
    twin.remove("c")
    twin.cut_power(torn_bytes=9)
    assert {name: twin.read(name) for name in twin.names()} == {"a": b"put", "b": b"012"}


def test_a_sync_of_one_file_saves_no_other() -> None:
    twin = SimulatedDirectory()
    twin.append("a", b"1")
    twin.append("b", b"2")
    twin.sync(["b"])
    twin.cut_power()
    assert twin.names() == ["b"]


@examples(100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "sync", "put"]), NAMES, st.binary(max_size=9)),
        max_size=20,
    ),
    st.integers(0, 12),
)
def test_a_power_cut_leaves_what_was_durable_and_at_most_a_part_of_the_rest(
    work: list[tuple[str, str, bytes]], torn_bytes: int
) -> None:
    twin = SimulatedDirectory()
    live: dict[str, bytes] = {}
    durable: dict[str, bytes] = {}
    for kind, name, data in work:
        if kind == "append":
            twin.append(name, data)
            live[name] = live.get(name, b"") + data
        elif kind == "put":
            twin.put(name, data)
            live[name] = durable[name] = data
        elif name in live:
            twin.sync([name])
            durable[name] = live[name]
    twin.cut_power(torn_bytes)
    left = {name: twin.read(name) for name in twin.names()}
    assert set(durable) <= set(left) <= set(live)
    for name, content in left.items():
        kept = durable.get(name, b"")
        assert live[name].startswith(content)
        assert content.startswith(kept)
        assert len(content) - len(kept) <= torn_bytes


# --- Trees. --------------------------------------------------------------------------------------


def test_files_of_a_tree_are_read_by_their_paths(tree: Tree) -> None:
    tree.put_all({"checkpoint": b"1", "tile/0/x001/067": b"2", "tile/0/000.p/5": b"3"})
    assert tree.read("checkpoint") == b"1"
    assert tree.read("tile/0/x001/067") == b"2"
    assert tree.read("tile/0/000.p/5") == b"3"
    assert tree.read("tile/1/000") is None
    assert tree.read("checkpoint/000") is None
    tree.put_all({"checkpoint": b"newer"})
    tree.put_all({})
    assert tree.read("checkpoint") == b"newer"


def test_what_is_being_written_is_found_by_no_reader_until_it_is_shown(tree: Tree) -> None:
    tree.put_all({"checkpoint": b"old"})
    files = {"checkpoint": b"new", "tile/0/000": b"1", "tile/0/001": b"2"}
    with tree.writing(files):
        pass
    assert (tree.read("checkpoint"), tree.read("tile/0/000")) == (b"old", None)
    with tree.writing(files) as show:
        assert (tree.read("checkpoint"), tree.read("tile/0/000")) == (b"old", None)
        show()
        assert {name: tree.read(name) for name in files} == files
    assert {name: tree.read(name) for name in files} == files


def test_what_was_never_shown_does_not_stay(tmp_path: Path) -> None:
    tree = DiskTree(tmp_path)
    tree.put_all({"checkpoint": b"old"})
    with tree.writing({**MANY, "checkpoint": b"new"}):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["checkpoint"]
    assert tree.read("checkpoint") == b"old"


def test_files_are_written_while_their_writer_does_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = threading.active_count()
    written = threading.Semaphore(0)
    fsync_of_contents(monkeypatch, written.release)
    with DiskTree(tmp_path).writing(MANY) as show:
        assert all(written.acquire(timeout=PATIENCE_S) for _ in MANY)  # before they are asked for
        assert not [
            path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".new"
        ]
        show()
    assert threading.active_count() == threads


def test_a_folder_of_a_tree_is_removed_with_its_files(tree: Tree) -> None:
    tree.put_all({"tile/0/000.p/5": b"3", "tile/0/000.p/6": b"3", "tile/0/000": b"4"})
    tree.remove_under("tile/0/000.p")
    tree.remove_under("tile/0/000.p")
    tree.remove_under("never/there")
    assert tree.read("tile/0/000.p/5") is None
    assert tree.read("tile/0/000.p/6") is None
    assert tree.read("tile/0/000") == b"4"


def test_published_files_are_readable_by_all(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        DiskTree(tmp_path / "ledger").put_all({"tile/0/000": b""})
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE((tmp_path / "ledger" / path).stat().st_mode)
        for path in (".", "tile", "tile/0", "tile/0/000")
    ]
    assert modes == [0o755, 0o755, 0o755, 0o644]


def test_a_published_file_is_durable_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = DiskTree(tmp_path / "ledger")
    recorded = Recorded(monkeypatch)
    tree.put_all({"tile/0/000": b"x"})
    assert recorded.calls[:3] == [("write", "000.new"), ("fsync", "000.new"), ("rename", "000")]
    assert sorted(recorded.calls[3:]) == [("fsync", "0"), ("fsync", "ledger"), ("fsync", "tile")]
    recorded.calls.clear()
    tree.put_all({"tile/0/001": b"x"})
    assert recorded.calls[3:] == [("fsync", "0")]
    recorded.calls.clear()
    again = DiskTree(tmp_path / "ledger")  # who made the folders may have died before they were
    again.put_all({"tile/0/002": b"x"})
    assert sorted(recorded.calls[3:]) == [("fsync", "0"), ("fsync", "ledger"), ("fsync", "tile")]
    recorded.calls.clear()
    again.remove_under("tile/0")
    again.put_all({"tile/0/000": b"x"})
    assert sorted(recorded.calls[3:]) == [("fsync", "0"), ("fsync", "tile")]


def test_a_published_file_has_its_old_content_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = DiskTree(tmp_path)
    tree.put_all({"checkpoint": b"old"})

    def fail(*_given: object) -> None:
        raise OSError(errno.EIO, "the card is worn out")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", fail)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="worn out"):
            tree.put_all({"checkpoint": b"new"})
    assert tree.read("checkpoint") == b"old"


MANY = {f"tile/{level}/{number:03}": b"new" for level in range(3) for number in range(10)}


def fsync_of_contents(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Lets something happen before each sync of a file's content; folders are synced as ever."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            before()
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)  # type: ignore[attr-defined]


def test_published_files_wait_for_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = threading.active_count()
    together = threading.Barrier(WRITES_AT_ONCE)

    def wait() -> None:
        together.wait(PATIENCE_S)

    fsync_of_contents(monkeypatch, wait)
    tree = DiskTree(tmp_path)
    tree.put_all({f"tile/0/{number:03}": b"x" for number in range(2 * WRITES_AT_ONCE)})
    assert threading.active_count() == threads


@pytest.mark.parametrize("at_once", [1, WRITES_AT_ONCE])
def test_every_published_content_is_durable_before_any_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    tree = DiskTree(tmp_path / "ledger", at_once)
    recorded = Recorded(monkeypatch)
    tree.put_all(MANY)
    kinds = [kind for kind, _ in recorded.calls]
    contents, names = 2 * len(MANY), 3 * len(MANY)
    assert sorted(kinds[:contents]) == ["fsync"] * len(MANY) + ["write"] * len(MANY)
    assert set(kinds[contents:names]) == {"rename"}
    folders = [("fsync", name) for name in ("0", "1", "2", "ledger", "tile")]
    assert sorted(recorded.calls[names:]) == folders
    assert {name: tree.read(name) for name in MANY} == MANY


@pytest.mark.parametrize("at_once", [1, WRITES_AT_ONCE])
@pytest.mark.parametrize("failing", [0, 5, len(MANY) - 1])
def test_when_one_published_file_fails_none_has_its_name_and_no_sync_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, failing: int
) -> None:
    tree = DiskTree(tmp_path, at_once)
    old = dict.fromkeys(MANY, b"old")
    tree.put_all(old)
    synced: list[int] = []

    def fail_once() -> None:
        synced.append(len(synced))
        if synced[-1] == failing:
            raise OSError(errno.EIO, "the card is worn out")

    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        fsync_of_contents(patched, fail_once)
        with pytest.raises(OSError, match="worn out"):
            tree.put_all(MANY)
    assert failing < len(synced) <= len(MANY)
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert {name: tree.read(name) for name in MANY} == old
    tree.put_all(MANY)
    assert {name: tree.read(name) for name in MANY} == MANY


def test_a_folder_of_published_files_that_cannot_be_synced_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        if path.name == "1":
            raise OSError(errno.EIO, "the card is worn out")

    tree = DiskTree(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_folder", fail)
        with pytest.raises(OSError, match="worn out"):
            tree.put_all(MANY)


@pytest.mark.parametrize(
    ("user", "owner", "is_refused"), [(0, 65534, True), (0, 0, False), (1000, 65534, False)]
)
def test_root_leaves_nothing_in_the_folder_of_a_service(
    user: int, owner: int, *, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Folder(type(tmp_path)):  # type: ignore[misc]
        """Of another owner, whom only root could make it."""

        def stat(self, **_: object) -> os.stat_result:
            return os.stat_result((0o40700, 1, 1, 1, owner, owner, 0, 0, 0, 0))

    monkeypatch.setattr(os, "geteuid", lambda: user)
    if not is_refused:
        files.check_owner(Folder(tmp_path))
        return
    with pytest.raises(ConfigurationError, match=r"is nobody's, .*sudo -u nobody"):
        files.check_owner(Folder(tmp_path))
