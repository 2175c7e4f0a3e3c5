"""Simulated machines that fail as real ones do: cards, a gateway's store and its published files,
clocks, pulse lines. What a trap springs on is the very next operation of the program's hardware.
"""

import errno
import os
import random
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState
from gateway.memory_store import MemoryStore
from gateway.sqlite_format import set_epoch
from gateway.sqlite_store import SqliteStore
from gateway.store import Changes, StoreFailed
from hal.clock import SimulatedClock
from hal.files import SimulatedDirectory, SimulatedTree
from hal.ports import LineLost, Taken

# Nobody polls in a simulation; the program wants descriptors it may register all the same.
LINE_FD, WIRE_FD = os.eventfd(0), os.eventfd(0)


class Fault(Enum):
    """What happens to the operation a trap springs on."""

    DIES_BEFORE = "the program dies before it"
    DIES_AFTER = "the program dies after it"
    FAILS = "it fails with EIO"
    SHORT = "a part of it is done, then it fails with EIO"


class Died(BaseException):
    """The program was killed at this instant. No handler of the program's sees it."""


class Machine:
    """What a program runs on: a trap springs once, at the n-th operation from now."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self._fault: Fault | None = None
        self._passages = 0
        self.sprung: Fault | None = None

    def lay(self, fault: Fault, passages: int) -> None:
        self._fault, self._passages, self.sprung = fault, passages, None

    def take_sprung(self) -> Fault | None:
        """The fault that sprung last, asked for once."""
        sprung, self.sprung = self.sprung, None
        return sprung

    def disarm(self) -> None:
        self._fault = None

    def passing(self) -> Fault | None:
        """Asked before every operation; DIES_BEFORE does not return."""
        if self._fault is None:
            return None
        self._passages -= 1
        if self._passages:
            return None
        self.sprung, self._fault = self._fault, None
        if self.sprung is Fault.DIES_BEFORE:
            raise Died
        return self.sprung


class Card(SimulatedDirectory):
    """A board's card: writes are torn, short or refused, a failed sync loses what it should have
    kept, a power cut leaves any part of what was not synced, holes of zeros included."""

    def __init__(self, machine: Machine, given: Callable[[], None] = lambda: None) -> None:
        """`given` is told of every append that returned."""
        super().__init__()
        self._machine = machine
        self._given = given
        self.has_lost = False
        self.was_full = False

    def append(self, name: str, data: bytes) -> None:
        fault = self._machine.passing()
        if fault is Fault.FAILS:
            raise _broken()
        if fault is Fault.SHORT:
            super().append(name, data[: self._machine.draw.randrange(len(data))])
            raise _broken()
        super().append(name, data)
        if fault is Fault.DIES_AFTER:
            raise Died
        self._given()

    def sync(self, names: Sequence[str]) -> None:
        fault = self._machine.passing()
        if fault in (Fault.FAILS, Fault.SHORT):
            self.lose()
            raise _broken()
        super().sync(names)
        if fault is Fault.DIES_AFTER:
            raise Died

    def truncate(self, name: str, size: int) -> None:
        self._around(lambda: super(Card, self).truncate(name, size))

    def put(self, name: str, data: bytes) -> None:
        self._around(lambda: super(Card, self).put(name, data))

    def remove(self, name: str) -> None:
        self._around(lambda: super(Card, self).remove(name))

    def lose(self) -> None:
        """What was not synced is gone but for a torn part of it."""
        draw = self._machine.draw
        before = {name: len(content) for name, content in self._durable.items()}
        self.cut_power(draw.choice((0, 0, draw.randrange(1, 9), draw.randrange(300))))
        self.has_lost = True
        for name, content in self._live.items():
            tail = len(content) - before.get(name, 0)
            if tail > 0 and draw.random() < 0.3:
                # The file grew, and some of its blocks never came: a hole reads as zeros.
                begin = before.get(name, 0) + draw.choice((0, draw.randrange(tail)))
                hole = draw.randrange(1, len(content) - begin + 1)
                content[begin : begin + hole] = bytes(hole)
                content.extend(bytes(draw.randrange(40)))
                self._durable[name] = bytes(content)

    def fill(self, room_bytes: int) -> None:
        """Others leave only so much room on the card."""
        self.was_full = True
        self._room_bytes = sum(map(len, self._live.values())) + room_bytes

    def free(self) -> None:
        self._room_bytes = 2**30

    def _around(self, operation: Callable[[], None]) -> None:
        fault = self._machine.passing()
        if fault in (Fault.FAILS, Fault.SHORT):
            raise _broken()
        operation()
        if fault is Fault.DIES_AFTER:
            raise Died


class _Failing:
    """A store whose commit fails, or whose program dies right before or right after it; `on_drop`
    is told what a commit that returned has dropped."""

    machine: Machine | None = None
    on_drop: Callable[[Sequence[Record]], None] = staticmethod(lambda _: None)

    def commit(self, changes: Changes) -> None:
        fault = None if self.machine is None else self.machine.passing()
        if fault in (Fault.FAILS, Fault.SHORT):
            raise StoreFailed("simulated")
        super().commit(changes)  # type: ignore[misc]  # of the store it is mixed into
        self.on_drop(changes.dropped)
        if fault is Fault.DIES_AFTER:
            raise Died


class FailingMemory(_Failing, MemoryStore):
    """A store in memory that fails so."""

    def forget_pending(self) -> None:
        """What a restore from a backup and the published files leaves."""
        self._pending.clear()
        self.epoch += 1


class FailingSqlite(_Failing, SqliteStore):
    """The real store, failing so."""

    def forget_pending(self) -> None:
        """What a restore from a backup and the published files leaves."""
        self._connection.execute(
            "DELETE FROM pending WHERE NOT EXISTS (SELECT 1 FROM filed"
            " WHERE filed.meter = pending.meter AND sequence BETWEEN first AND last)"
        )
        self.epoch += 1
        set_epoch(self._connection, self.epoch)


class Shelf(SimulatedTree):
    """The published files; a write of several may stop anywhere."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def put_all(self, files: Mapping[str, bytes]) -> None:
        fault = self._machine.passing()
        if fault is None:
            super().put_all(files)
            return
        names = list(files)
        done = len(names) if fault is Fault.DIES_AFTER else self._machine.draw.randrange(len(names))
        super().put_all({name: files[name] for name in names[:done]})
        if fault is Fault.DIES_AFTER:
            raise Died
        raise _broken()

    def remove_under(self, path: str) -> None:
        if self._machine.passing() is None:
            super().remove_under(path)
        else:
            raise Died


class MachineClock(SimulatedClock):
    """A clock that drifts; disciplined while it is synchronised, and wrong when it is told to be.

    Attributes:
        drift_ppm: of the crystal.
        lie_ns: by how much the wall clock is off though it says it is synchronised.
    """

    def __init__(self, true_ns: int, drift_ppm: int, boot_id: bytes = bytes(16)) -> None:
        super().__init__(true_ns, boot_id)
        self.drift_ppm = drift_ppm
        self.lie_ns = 0
        self.error_ns = 20 * NS_PER_MS
        self._true_ns = true_ns

    def move_to(self, true_ns: int) -> None:
        """Lets time pass."""
        passed = true_ns - self._true_ns
        self._true_ns = true_ns
        self.advance(passed + passed * self.drift_ppm // 1_000_000)
        if self.state is ClockState.SYNCHRONISED:
            self.utc_ns = true_ns + self.lie_ns

    def synchronise(self, lie_ns: int = 0) -> int:
        """A time source answers; returns by how much the wall clock moves, ns."""
        before = self.utc_ns
        self.state = ClockState.SYNCHRONISED
        self.lie_ns = lie_ns
        self.utc_ns = self._true_ns + lie_ns
        return self.utc_ns - before

    def lose_source(self) -> None:
        self.state = ClockState.UNKNOWN

    def boot(self, utc_ns: int) -> None:
        """A new boot, its wall clock at whatever the board comes up with."""
        number = int.from_bytes(self.boot_id[:2], "big") + 1
        self.boot_id = number.to_bytes(2, "big") * 8
        self.mono_ns = 10 * NS_PER_S
        self.utc_ns = utc_ns
        self.state = ClockState.UNKNOWN
        self.lie_ns = 0


class Line:
    """A pulse line with the kernel's buffer behind it, which outlives programs, not power."""

    latency_ns = 0
    capacity = 2**20  # pulses

    def __init__(self) -> None:
        self.waiting = self.noise = self.lost = 0
        self.is_unplugged = False
        self.on_take: Callable[[Taken], None] = lambda _: None

    def fileno(self) -> int:
        return LINE_FD

    def take(self) -> Taken:
        if self.is_unplugged:
            raise LineLost("unplugged")
        taken = Taken(self.waiting, (), self.noise, self.lost)
        self.waiting = self.noise = self.lost = 0
        self.on_take(taken)
        return taken

    def close(self) -> None:
        pass


def _broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
