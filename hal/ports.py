"""What the programs may ask of a machine: one Protocol per capability, each with its guarantee."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from cryptometer.keys import Signer
from cryptometer.steps import Instant
from hal.index.reading import Past, Reading, Refusal, Remembering

BESIDE_MODULUS = 2**32  # of `Taken.beside`


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look at a pulse line brought.

    Attributes:
        pulses: pulses that waited, all of them.
        captured_ns: machine monotonic capture time of each, where the kernel gives it; else empty,
            and every pulse came between the look before and this one.
        noise: received bytes or edges that were no pulse.
        lost: pulses or edges the kernel says it dropped.
        raw: the bytes as received, where the line gives bytes: all else follows from them.
        said: what a meter that speaks has said, in order.
        past: rows of its load profile that were asked for.
        compared: what a second source of the same meter has said, in order.
        beside: what another counter of the same pulses stood at before this look, modulo
            BESIDE_MODULUS; it goes on while nobody watches the line. None where there is none.
    """

    pulses: int
    captured_ns: tuple[int, ...] = ()
    noise: int = 0
    lost: int = 0
    raw: bytes = field(default=b"", compare=False, repr=False)
    beside: int | None = None
    said: tuple[Reading | Refusal, ...] = ()
    past: tuple[Past | Refusal, ...] = ()
    compared: tuple[Reading | Refusal, ...] = ()


class LineLost(Exception):  # noqa: N818 - a state of the line, for the loop to act on
    """The line is gone (unplugged, or its device was removed); it may come back."""


class PulseSource(Protocol):
    """One pulse line. Opening it drops nothing that waits in the kernel's buffer."""

    @property
    def latency_ns(self) -> int:
        """How long after its emission a pulse may still be on its way to `take`."""
        ...

    @property
    def capacity(self) -> int:
        """How many pulses surely wait for `take` without a loss."""
        ...

    def fileno(self) -> int:
        """A descriptor that polls readable when `take` would bring something."""
        ...

    def take(self) -> Taken:
        """Takes all that waits; never blocks.

        Raises:
            LineLost: the line is gone.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Timed(Protocol):
    """A line that wants to be looked at though nothing came."""

    @property
    def due_ns(self) -> int | None:
        """Machine time at which; None: never."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A line whose meter may know indexes of earlier moments."""

    def ask_past(self, from_s: int, to_s: int) -> None:
        """Asks for those from one moment to another, unix seconds; they come with later looks."""
        ...


@runtime_checkable
class Resuming(Protocol):
    """A line that counts a pulse at its end, and may be opened in the middle of one."""

    def go_on_behind(self, counted_ns: int) -> None:
        """Before the first look: an earlier run counted its newest pulse at this machine time, or
        before it. What is under way may be that one still, and is not counted if so."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What one look at a meter that speaks brought.

    Attributes:
        said: readings and refusals, in order.
        raw: the bytes as received, where they all are there: all else follows from them.
    """

    said: tuple[Reading | Refusal, ...]
    raw: bytes = field(default=b"", compare=False, repr=False)


class IndexSource(Protocol):
    """One meter that says its index itself, by its own or when asked."""

    def fileno(self) -> int:
        """A descriptor that polls readable when `take` would bring something."""
        ...

    @property
    def memory(self) -> Remembering | None:
        """What can be asked for indexes of earlier moments; None where the meter keeps none."""
        ...

    @property
    def due_ns(self) -> int | None:
        """Machine time at which `take` has something to do though nothing came; None: never."""
        ...

    def take(self) -> Heard:
        """Takes all that was said; never blocks.

        Raises:
            LineLost: the line is gone.
        """
        ...

    def close(self) -> None: ...


class StoredKey(Signer, Protocol):
    """A private key where it is kept."""

    @property
    def where(self) -> str:
        """The store, for people."""
        ...

    def trouble(self) -> str:
        """What stands in the way of signing, as far as a look shows; empty if nothing does."""
        ...


class Guard(Protocol):
    """A count that is kept apart from all files and only grows: it tells the newest state of a
    folder from an older copy of it."""

    def read(self) -> int | None:
        """The count; None before it was ever advanced.

        Raises:
            KeyLost: it is out of reach; it is kept where the key is.
        """
        ...

    def advance(self) -> None:
        """Adds one, durably once it returns; the first time it becomes any number.

        Raises:
            KeyLost: it is out of reach; whether one was added is open.
        """
        ...


class Clock(Protocol):
    """The clocks of one machine."""

    @property
    def boot_id(self) -> bytes:
        """16 bytes that differ between boots: monotonic times compare only within one."""
        ...

    def now(self) -> Instant:
        """Community time. In a scaled clock monotonic and UTC time both run faster."""
        ...

    def machine_ns(self) -> int:
        """Monotonic time of the machine itself, for time-outs and intervals of its own."""
        ...

    def slept_ns(self) -> int:
        """For how long the machine has been suspended since its boot, and watched no line. The
        community's monotonic time goes on meanwhile, the machine's own does not."""
        ...

    def community_ns(self, machine_ns: int) -> int:
        """The community's monotonic time at a machine time since the newest suspension."""
        ...

    def machine_wait_s(self, community_ns: int) -> float:
        """How long the machine waits for this much community time to pass."""
        ...


class Directory(Protocol):
    """The files of one folder, by flat names. Every failed write or sync raises OSError, after
    which nothing more may be written: the program stops, and recovery decides."""

    def names(self) -> list[str]:
        """The files there, sorted."""
        ...

    def size(self, name: str) -> int:
        """Bytes in a file."""
        ...

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Content from `offset` on; all of it, or at most `size` bytes."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Adds to the end of a file, made when missing. Once it returns, the death of the program
        does not lose the data; a power cut may."""
        ...

    def sync(self, names: Sequence[str]) -> None:
        """Once it returns, what was appended to these files, and their names, survive a power
        cut."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file to its first `size` bytes, durably."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Replaces a file: durable once it returns, all or nothing at any instant."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, durably; nothing if there is none."""
        ...

    def free_bytes(self) -> int:
        """Room left on the file system."""
        ...


class Tree(Protocol):
    """Files under one folder, by paths with slashes: what a ledger is published as."""

    def read(self, path: str) -> bytes | None:
        """A file's content, or None if there is none."""
        ...

    def writing(self, files: Mapping[str, bytes]) -> AbstractContextManager[Callable[[], None]]:
        """Begins to write files, while the caller does something else. The call that is given shows
        them under their names, each all or nothing; durable, names included, once it returns.
        Until then no reader finds them, and without it none ever does.

        Raises:
            OSError: in the call, too; which of them are written is open; writing them again mends
                it.
        """
        ...

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Writes files and shows them.

        Raises:
            OSError: as `writing`.
        """
        ...

    def remove_under(self, path: str) -> None:
        """Removes a folder and the files right in it; nothing if it does not exist."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came. `token` is given back to `Connection.confirm`."""

    topic: str
    payload: bytes
    retained: bool
    token: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has accepted us; subscriptions are on their way."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The broker is out of reach, or refuses us: why, for people."""

    reason: str


class Connection(Protocol):
    """A line to the broker. It keeps no message: what must arrive is kept by the caller."""

    def fileno(self) -> int:
        """A descriptor that polls readable while events wait."""
        ...

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:
        """Takes up to `most` events; never blocks."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message over; False when nothing can be sent now."""
        ...

    def confirm(self, token: tuple[int, int]) -> None:
        """Tells the broker that a message is done with. Without it, it comes again."""
        ...
