"""Durable files: a real folder, and a simulated one that can lose what was not synced."""

import errno
import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from pwd import getpwall
from typing import TypeVar

from cryptometer.errors import ConfigurationError
from hal.faults import Point, passing

_ASKING_S = 0.05
# A file that is not where it should be, or not for us: a person must act. Every other error of a
# file is the machine's, and the next start may mend it.
MISPLACED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

_NEW = ".new"  # what a half-finished `put` leaves; never read
# Published files that wait for the disk at the same time: it makes several durable in hardly more
# time than one. A step of 200 meters that send each minute is some 30 files.
WRITES_AT_ONCE = 8

_Item = TypeVar("_Item")


class DiskDirectory:
    """A folder on a real file system; made with mode 0700 when missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self._open: dict[str, int] = {}
        self._fresh: set[str] = set()  # names not yet durable in the folder
        self._named: set[str] = set()  # names that this run has made durable
        self._unsynced: set[str] = set()  # appended to since their last sync

    def names(self) -> list[str]:
        return sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.is_file() and not entry.name.endswith(_NEW)
        )

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        path = self.path / name
        with _named(path), path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def append(self, name: str, data: bytes) -> None:
        passing(Point.FILE_APPEND)
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = self._open_file(name, os.O_CREAT)
        self._unsynced.add(name)
        view = memoryview(data)
        with _named(self.path / name):
            while view:  # a short write is legal; the rest follows or the next call says why not
                view = view[os.write(descriptor, view) :]
        passing(Point.FILE_APPENDED)

    def sync(self, names: Sequence[str]) -> None:
        for name in names:
            descriptor = self._open.get(name)
            # What an earlier run appended is not durable either: its files are synced, not made.
            with _named(self.path / name):
                os.fdatasync(self._open_file(name, 0) if descriptor is None else descriptor)
        if self._fresh:
            sync_folder(self.path)
            self._named |= self._fresh
            self._fresh.clear()
        self._unsynced.difference_update(names)
        # Of what is durable only the newest stays open: a log of many files, as after weeks
        # offline, would take all the descriptors that a process may have.
        for name in sorted(self._open.keys() - self._unsynced - set(names[-1:])):
            self._forget(name)
        passing(Point.FILE_SYNCED)

    def truncate(self, name: str, size: int) -> None:
        descriptor = os.open(self.path / name, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        passing(Point.FILE_TRUNCATED)

    def put(self, name: str, data: bytes) -> None:
        self._forget(name)
        put_file(self.path / name, data)

    def remove(self, name: str) -> None:
        self._forget(name)
        self._named.discard(name)
        (self.path / name).unlink(missing_ok=True)
        sync_folder(self.path)
        passing(Point.FILE_REMOVED)

    def free_bytes(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _open_file(self, name: str, create: int) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | create
        self._open[name] = os.open(self.path / name, flags, 0o600)
        # Also a name that stands there already may not be durable: who made it may have died.
        if name not in self._named:
            self._fresh.add(name)
        return self._open[name]

    def _forget(self, name: str) -> None:
        self._unsynced.discard(name)
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whose file fails is told: reads, writes and syncs of an open one do not say."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds a folder for one program, through a lock on the file `path` in it.

    Raises:
        ConfigurationError: another program holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Whoever only asks (`is_held`) has it for an instant.
        if not _locks(descriptor):
            time.sleep(_ASKING_S)
            if not _locks(descriptor):
                raise ConfigurationError(f"another program runs on {path.parent}")
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a program holds the folder of this lock; never makes the file, never keeps it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locks(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locks(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        ConfigurationError: it is not there, or may not be read.
    """
    try:
        return path.read_bytes()
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def check_owner(folder: Path) -> None:
    """What root writes into a service's folder, the service could not read.

    Raises:
        ConfigurationError: this is root, and the folder is another user's.
    """
    owner = folder.stat().st_uid if folder.exists() else 0
    if os.geteuid() == 0 and owner != 0:
        who = folder.owner() if owner in {one.pw_uid for one in getpwall()} else f"#{owner}"
        raise ConfigurationError(
            f"{folder} is {who}'s, who could not read what root writes there: sudo -u {who}"
        )


def put_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file: durable once it returns, the old or the new content at any instant."""
    put_stream(path, [data], mode)


def put_stream(path: Path, chunks: Iterable[bytes], mode: int = 0o600) -> None:
    """As `put_file`, of a content that need not fit in memory. What gives it may fail: nothing is
    left then."""
    beside = _beside(path)
    try:
        _write_chunks(beside, chunks, mode)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    passing(Point.FILE_PUT_WRITTEN)
    beside.replace(path)
    passing(Point.FILE_PUT_RENAMED)
    sync_folder(path.parent)


def clear_unfinished(folder: Path) -> int:
    """Removes what writes that were cut off have left below a folder, of which nobody ever reads
    anything; for its only writer, before it begins. Returns how many files that were."""
    found = [path for path in folder.rglob(f"*{_NEW}") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def move_file(path: Path, target: Path) -> None:
    """Gives a file another name, durably, in place of the file that has it."""
    path.replace(target)
    passing(Point.KEY_MOVED)
    sync_folder(target.parent)
    if path.parent != target.parent:
        sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Writes a whole file, durably; at any earlier instant it may hold a part."""
    _write_chunks(path, [data], mode)


def _write_chunks(path: Path, chunks: Iterable[bytes], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)  # the umask has no say over a key or a published file
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Makes a folder and those above it, durably; one that stands there is left as it is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    # A durable file in a folder whose own name is lost is lost with it.
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SimulatedDirectory:
    """A folder in memory that knows what a power cut would leave; the twin of DiskDirectory, with
    the same points to die at."""

    def __init__(self, room_bytes: int = 2**30) -> None:
        self._live: dict[str, bytearray] = {}
        self._durable: dict[str, bytes] = {}
        self._room_bytes = room_bytes

    def names(self) -> list[str]:
        return sorted(self._live)

    def size(self, name: str) -> int:
        return len(self._content(name))

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        end = None if size < 0 else offset + size
        return bytes(self._content(name)[offset:end])

    def append(self, name: str, data: bytes) -> None:
        passing(Point.FILE_APPEND)
        # A real disk takes what it has room for before it says that it is full.
        written = data[: max(0, self.free_bytes())]
        self._live.setdefault(name, bytearray()).extend(written)
        if len(written) < len(data):
            raise _full()
        passing(Point.FILE_APPENDED)

    def sync(self, names: Sequence[str]) -> None:
        self._keep(names)
        passing(Point.FILE_SYNCED)

    def truncate(self, name: str, size: int) -> None:
        del self._content(name)[size:]
        self._keep([name])
        passing(Point.FILE_TRUNCATED)

    def put(self, name: str, data: bytes) -> None:
        if len(data) > self.free_bytes():  # the new content stands beside the old for a moment
            raise _full()
        passing(Point.FILE_PUT_WRITTEN)
        self._live[name] = bytearray(data)
        passing(Point.FILE_PUT_RENAMED)
        self._keep([name])

    def remove(self, name: str) -> None:
        self._live.pop(name, None)
        self._durable.pop(name, None)
        passing(Point.FILE_REMOVED)

    def free_bytes(self) -> int:
        return self._room_bytes - sum(map(len, self._live.values()))

    def cut_power(self, torn_bytes: int = 0) -> None:
        """Loses what was not synced, except the first `torn_bytes` of each file's lost tail."""
        survived = {}
        for name, content in self._live.items():
            kept = len(self._durable.get(name, b"")) + torn_bytes
            if name in self._durable or torn_bytes:
                survived[name] = bytearray(content[:kept])
        self._live = survived
        self._durable = {name: bytes(content) for name, content in survived.items()}

    def _keep(self, names: Sequence[str]) -> None:
        for name in names:
            self._durable[name] = bytes(self._content(name))

    def _content(self, name: str) -> bytearray:
        if name not in self._live:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._live[name]


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class DiskTree:
    """A folder of published files; readable by all, since it holds nothing secret."""

    def __init__(self, path: Path, at_once: int = WRITES_AT_ONCE) -> None:
        """`at_once`: how many files written together may wait for the disk at the same time; one of
        them needs no thread."""
        self.path = path
        self._at_once = at_once
        self._named: set[Path] = set()  # folders whose names this run has made durable
        make_folder(path, 0o755)

    def read(self, path: str) -> bytes | None:
        try:
            return (self.path / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def writing(self, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
        targets = {self.path / name: data for name, data in files.items()}
        folders = sorted({target.parent for target in targets})
        unsure = {one for folder in folders for one in self._make_folders(folder)}
        try:
            with self._each(_write_beside, list(targets.items())) as written:
                yield partial(self._show, list(targets), unsure, written)
        finally:
            for target in targets:  # what was not shown, nobody may read: it does not stay
                with suppress(OSError):
                    _beside(target).unlink()

    def _show(
        self, targets: Sequence[Path], unsure: set[Path], written: Callable[[], object]
    ) -> None:
        written()
        # Here each content is durable: none of the names can lead to half a file.
        for target in targets:
            _beside(target).replace(target)
        folders = {target.parent for target in targets} | {one.parent for one in unsure}
        with self._each(sync_folder, sorted(folders)) as synced:
            synced()
        self._named |= unsure

    def put_all(self, files: Mapping[str, bytes]) -> None:
        with self.writing(files) as show:
            show()

    def remove_under(self, path: str) -> None:
        folder = self.path / path
        if folder.is_dir():
            for entry in folder.iterdir():
                entry.unlink()
            folder.rmdir()
        self._named.discard(folder)

    def _make_folders(self, folder: Path) -> list[Path]:
        """Makes a folder and those above it; returns those whose names may not be durable."""
        unsure: list[Path] = []
        # Also one that stands there already: who made it may have died.
        while folder != self.path and folder not in self._named:
            unsure.append(folder)
            folder = folder.parent
        for one in reversed(unsure):
            one.mkdir(mode=0o755, exist_ok=True)
        return unsure

    @contextmanager
    def _each(
        self, work: Callable[[_Item], None], items: Sequence[_Item]
    ) -> Iterator[Callable[[], object]]:
        """Does some work with each item, several at the same time. The call that is given waits for
        all of it; when one fails, those that have begun go on to their end, others do not begin.
        None is at work any more behind the context."""
        if min(self._at_once, len(items)) < 2:
            yield lambda: deque(map(work, items), 0)
            return
        with ThreadPoolExecutor(self._at_once) as pool:
            done = pool.map(work, items)
            yield lambda: deque(done, 0)


def _write_beside(file: tuple[Path, bytes]) -> None:
    """Makes the new content of a published file durable, under another name."""
    target, data = file
    write_file(_beside(target), data, 0o644)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _NEW)


class SimulatedTree:
    """A tree in memory; the twin of DiskTree."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    @contextmanager
    def writing(self, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
        yield partial(self.put_all, files)

    def put_all(self, files: Mapping[str, bytes]) -> None:
        self.files.update(files)

    def remove_under(self, path: str) -> None:
        for name in [one for one in self.files if one.startswith(f"{path}/")]:
            del self.files[name]
