"""Process replay, the recording half: every answer that a device's ports give, in order.

A tape is a sequence of frames (`firmware.segments`). A life of the program begins with a `Life`:
what it was made of, but never a private key or the broker's credential. Then come portions of
answers, each an array whose first element says to which question; times are differences from the
answer before. Answers are written before anything that follows from them is: so a tape knows at
least as much as the journal it explains, wherever the program is killed. No file is opened here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any
from zlib import crc32

from cryptometer import cbor, cose
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import KeyLost, Signer
from cryptometer.record_fields import LABEL
from cryptometer.steps import ClockSource, Instant
from cryptometer.wire import (
    Bytes,
    Choice,
    Flag,
    Many,
    Row,
    Text,
    Uint,
    encode_map,
    wire,
    wire_optional,
)
from firmware.config import Config
from firmware.device import Device, Parts
from firmware.events import BOOT
from firmware.segments import frame
from hal.index.reading import Caveat, Index, Past, Reading, Refusal, Refused
from hal.ports import (
    Clock,
    Connected,
    Connection,
    Directory,
    Disconnected,
    Guard,
    LineLost,
    Message,
    PulseSource,
    Recalling,
    Resuming,
    Taken,
    Timed,
)

VERSION = 1
PORTION_BYTES = 65_536  # of answers kept in memory while nothing follows from them
WHOLE_BYTES_MAX = 16 * 2**20  # of a log's files at a life's beginning: three times in memory
_CONTENT_MAX = 2**31


class Answer(IntEnum):
    """To which question an answer belongs; the first element of its array."""

    MARK = 0  # the device is told to do something: a `Work`
    NOW = 1  # monotonic, UTC less monotonic, bound, all as differences (ns); state
    MACHINE = 2  # difference (ns)
    TAKEN = 3  # pulses, noise, lost, capture times as differences (ns); what stands beside, if any
    RAW = 4  # bytes as received, lost; what stands beside, if any
    LOST = 5  # why the line is gone
    OPENED = 6  # latency (ns)
    UNOPENED = 7  # why the line cannot be opened
    HEARD = 8  # messages [topic, payload, retained], [] for connected, [reason] for not
    PUBLISHED = 9  # 1 if the connection took it
    ROOM = 10  # free bytes
    WROTE = 11  # CRC-32 of what was appended to a file: not an answer, but what must come again
    SLEPT = 13  # how long the machine has been suspended since its boot (ns), where it has changed
    REGISTERED = (
        12  # 1 if the authority said something new, 0 if not; 2, reason and detail: refused
    )
    SIGNED = 14  # nothing if the key signed, else why it could not
    SPOKE = 16  # bytes as received, then what a meter said: a reading, or a refusal, as an array
    COMPARED = 17  # what a second source has said, as in SPOKE; before what its line brought
    GUARDED = 15  # the guard's count, nothing where it has none or was advanced, else why it cannot


class Work(IntEnum):
    """What a device is told to do."""

    BEGIN = 0
    TURN = 1
    END = 2
    ENDED = 3  # it has: what is behind it is another life


@dataclass(frozen=True, slots=True)
class File:
    """A file of the journal (0) or outbox (1) as a life found it.

    Attributes:
        is_whole: the content is on the tape; else only that there is such a file.
    """

    folder: int = wire(0, Uint(0, 1))
    name: str = wire(1, LABEL)
    size: int = wire(2, Uint())
    is_whole: bool = wire(3, Flag())
    content: bytes = wire(4, Bytes(0, _CONTENT_MAX))


@dataclass(frozen=True, slots=True)
class Life:
    """What a life of the program is made of.

    Attributes:
        version: of the tape's form.
        software: that ran.
        settings: the configuration as JSON, its broker and the place of its key left out.
        boot: the kernel's id of the boot.
        source: of the clock.
        speed: how much faster community time runs than the machine's.
        key: the device's public key, as a COSE_Key.
        meter: its name, empty if it is not enrolled.
        authority: the genesis and the authority's records, as signed; empty if it is not enrolled.
        files: journal and outbox as they stood.
        is_guarded: whether a count kept apart from them was asked.
        former: the public keys that `key` has followed, as COSE_Keys.
    """

    version: int = wire(0, Uint())
    software: str = wire(1, LABEL)
    settings: str = wire(2, Text(65_536))
    boot: bytes = wire(3, BOOT)
    source: ClockSource = wire(4, Choice(ClockSource))
    speed: int = wire(5, Uint(1))
    key: bytes = wire(6, Bytes(1, 1024))
    meter: str = wire(7, Text(63))
    authority: tuple[bytes, ...] = wire(8, Many(Bytes(1, cose.RECORD_MAX), 0, 2**16))
    files: tuple[File, ...] = wire(9, Many(Row(File), 0, 2**20))
    is_guarded: bool | None = wire_optional(10, Flag())
    former: tuple[bytes, ...] | None = wire_optional(11, Many(Bytes(1, 1024), 1, 2**10))


def files_of(folders: Sequence[Directory]) -> tuple[File, ...]:
    """Journal (the first) and outbox as they stand. Of long logs older files are named only: a log
    is written to at its end, and what was acknowledged long ago is not asked for again."""
    found: list[File] = []
    for number, folder in enumerate(folders):
        names = folder.names()
        logs = [name for name in names if name.endswith(".log")]
        room = WHOLE_BYTES_MAX
        for name in reversed(names):
            size = folder.size(name)
            room -= size
            # The two newest may have been written to after the last answer of the life before.
            is_whole = room >= 0 or name not in logs[:-2]
            content = folder.read(name) if is_whole else b""
            found.append(File(number, name, size, is_whole, content))
    return tuple(found)


class Tape:
    """Takes answers down. Nothing is lost by a kill but what nothing has followed from yet."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """
        Args:
            write: appends to the tape's file; may stop taking, and says so itself.
        """
        self._write = write
        self._answers: list[cbor.Value] = []
        self._pending_bytes = 0
        self._mono_ns = self._shift_ns = self._error_ns = self._machine_ns = 0

    def begin(self, life: Life) -> None:
        """A life of the program begins: differences start from 0."""
        self.flush()
        self._mono_ns = self._shift_ns = self._error_ns = self._machine_ns = 0
        self._write(frame(cbor.encode(encode_map(life))))

    def put(self, kind: Answer, *fields: cbor.Value) -> None:
        """Takes an answer down."""
        self._answers.append([int(kind), *map(_encodable, fields)])
        self._pending_bytes += sum(len(one) for one in fields if isinstance(one, bytes | str)) + 16
        if self._pending_bytes > PORTION_BYTES:
            self.flush()

    def mark(self, work: Work) -> None:
        """The device is told to do something."""
        self.put(Answer.MARK, int(work))

    def put_now(self, now: Instant) -> None:
        shift_ns = now.utc_ns - now.mono_ns
        mono, shift = now.mono_ns - self._mono_ns, shift_ns - self._shift_ns
        self.put(Answer.NOW, mono, shift, now.error_ns - self._error_ns, str(now.state))
        self._mono_ns, self._shift_ns, self._error_ns = now.mono_ns, shift_ns, now.error_ns

    def put_machine(self, machine_ns: int) -> None:
        self.put(Answer.MACHINE, machine_ns - self._machine_ns)
        self._machine_ns = machine_ns

    def flush(self) -> None:
        """Writes what was taken down: before anything that follows from it is written."""
        if self._answers:
            self._write(frame(cbor.encode(self._answers)))
            self._answers = []
            self._pending_bytes = 0


def _encodable(value: cbor.Value) -> cbor.Value:
    """A reason may quote a file's name that is no UTF-8."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


# --- Ports that are listened in on. --------------------------------------------------------------


class _TapedClock:
    def __init__(self, inner: Clock, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self.boot_id = inner.boot_id
        self._slept_ns = 0
        # Functions of their arguments and of what was taken down: nothing to add.
        self.community_ns = inner.community_ns
        self.machine_wait_s = inner.machine_wait_s

    def now(self) -> Instant:
        now = self._inner.now()
        self._tape.put_now(now)
        return now

    def machine_ns(self) -> int:
        machine_ns = self._inner.machine_ns()
        self._tape.put_machine(machine_ns)
        return machine_ns

    def slept_ns(self) -> int:
        slept_ns = self._inner.slept_ns()
        if slept_ns != self._slept_ns:
            self._slept_ns = slept_ns
            self._tape.put(Answer.SLEPT, slept_ns)
        return slept_ns


class _TapedLine:
    def __init__(self, inner: PulseSource, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self.latency_ns = inner.latency_ns
        self.capacity = inner.capacity
        self.fileno = inner.fileno
        self.close = inner.close

    @property
    def due_ns(self) -> int | None:
        return self._inner.due_ns if isinstance(self._inner, Timed) else None

    def ask_past(self, from_s: int, to_s: int) -> None:
        if isinstance(self._inner, Recalling):
            self._inner.ask_past(from_s, to_s)

    def go_on_behind(self, counted_ns: int) -> None:
        inner: object = self._inner
        if isinstance(inner, Resuming):
            inner.go_on_behind(counted_ns)

    def take(self) -> Taken:
        try:
            taken = self._inner.take()
        except LineLost as lost:
            self._tape.put(Answer.LOST, str(lost))
            raise
        put_taken(self._tape, taken)
        return taken


def put_taken(tape: Tape, taken: Taken) -> None:
    """Takes down what a look at the line brought: as received, where the driver tells it."""
    if taken.compared:
        tape.put(Answer.COMPARED, *map(encode_said, taken.compared))
    beside = () if taken.beside is None else (taken.beside,)
    spoke = (*taken.said, *taken.past)
    if spoke or (taken.raw and not taken.pulses and not taken.noise):
        tape.put(Answer.SPOKE, taken.raw, *map(encode_said, spoke))
    elif taken.raw:
        tape.put(Answer.RAW, taken.raw, taken.lost, *beside)
    else:
        times = taken.captured_ns
        gaps = [at - before for before, at in zip((0, *times), times, strict=False)]
        tape.put(Answer.TAKEN, taken.pulses, taken.noise, taken.lost, gaps, *beside)


def encode_said(said: Reading | Refusal | Past) -> cbor.Value:
    """What a meter said, or remembered, for a tape."""
    if isinstance(said, Refusal):
        return [str(said.reason), said.detail.encode(errors="replace").decode(), said.at_ns]
    indexes: list[cbor.Value] = [
        [] if one is None else [one.value, one.exponent] for one in (said.imported, said.exported)
    ]
    caveats: list[cbor.Value] = [str(one) for one in sorted(said.caveats)]
    if isinstance(said, Past):
        return [said.identity, *indexes, said.at_s, caveats]
    times: list[cbor.Value] = [said.began_ns, said.ended_ns]
    stamp: list[cbor.Value] = [] if said.meter_time_s is None else [said.meter_time_s]
    fields: list[cbor.Value] = [part for pair in said.fields for part in pair]
    return [said.identity, *indexes, times, stamp, caveats, fields]


def decode_said(value: Any) -> Reading | Refusal | Past:
    """What a meter said, or remembered, as a tape holds it.

    Raises:
        Rejected: it is nothing of that.
    """
    with suppress(ValueError):
        match value:
            case [str(reason), str(detail), int(at_ns)]:
                return Refusal(Refused(reason), detail, at_ns)
            case [str(name), list(one), list(two), int(at_s), list(caveats)]:
                found = frozenset(map(Caveat, caveats))
                return Past(name, _index(one), _index(two), at_s, found)
            case [
                str(name), list(one), list(two), [int(began), int(ended)],
                list(stamp), list(caveats), list(fields),
            ] if all(isinstance(part, str) for part in (*caveats, *fields)):  # fmt: skip
                return Reading(
                    name,
                    _index(one),
                    _index(two),
                    began,
                    ended,
                    stamp[0] if stamp and isinstance(stamp[0], int) else None,
                    frozenset(map(Caveat, caveats)),
                    tuple(zip(fields[::2], fields[1::2], strict=True)),
                )
    raise Rejected(Reason.MALFORMED, "what a meter said is not as a tape holds it")


def _index(value: list[Any]) -> Index | None:
    match value:
        case []:
            return None
        case [int(digits), int(exponent)] if abs(exponent) <= 18:  # Wh, of a meter of any size
            return Index(digits, exponent)
        case _:
            raise ValueError


@contextmanager
def _telling(tape: Tape, answer: Answer) -> Iterator[None]:
    """Takes down why a key, or what guards it, is away."""
    try:
        yield
    except KeyLost as lost:
        tape.put(answer, str(lost))
        raise


class _TapedSigner:
    def __init__(self, inner: Signer, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self.public = inner.public

    def sign(self, data: bytes) -> bytes:
        with _telling(self._tape, Answer.SIGNED):
            signature = self._inner.sign(data)
        self._tape.put(Answer.SIGNED)
        return signature


class _TapedGuard:
    def __init__(self, inner: Guard, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape

    def read(self) -> int | None:
        with _telling(self._tape, Answer.GUARDED):
            count = self._inner.read()
        self._tape.put(Answer.GUARDED, *([] if count is None else [count]))
        return count

    def advance(self) -> None:
        # What is noted of it is durable before: the tape must know of that, too.
        self._tape.flush()
        with _telling(self._tape, Answer.GUARDED):
            self._inner.advance()
        self._tape.put(Answer.GUARDED)


class _TapedDirectory:
    def __init__(self, inner: Directory, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self.names = inner.names
        self.size = inner.size
        self.read = inner.read

    def append(self, name: str, data: bytes) -> None:
        self._tape.flush()
        self._inner.append(name, data)
        self._tape.put(Answer.WROTE, crc32(data))

    def sync(self, names: Sequence[str]) -> None:
        self._tape.flush()
        self._inner.sync(names)

    def truncate(self, name: str, size: int) -> None:
        self._tape.flush()
        self._inner.truncate(name, size)

    def put(self, name: str, data: bytes) -> None:
        self._tape.flush()
        self._inner.put(name, data)

    def remove(self, name: str) -> None:
        self._tape.flush()
        self._inner.remove(name)

    def free_bytes(self) -> int:
        room = self._inner.free_bytes()
        self._tape.put(Answer.ROOM, room)
        return room


class _TapedConnection:
    def __init__(self, inner: Connection, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self.fileno = inner.fileno
        self.confirm = inner.confirm

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:
        events = self._inner.drain(most)
        self._tape.put(Answer.HEARD, *map(_heard, events))
        return events

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self._tape.flush()
        taken = self._inner.publish(topic, payload, retain=retain)
        self._tape.put(Answer.PUBLISHED, int(taken))
        return taken


def _heard(event: Message | Connected | Disconnected) -> cbor.Value:
    match event:
        case Message(topic=topic, payload=payload, retained=retained):
            return [topic, payload, int(retained)]
        case Connected():
            return []
        case Disconnected(reason=reason):
            return [_encodable(reason)]


def taped(parts: Parts, tape: Tape) -> Parts:
    """The same parts, listened in on."""

    def open_line() -> PulseSource:
        try:
            line = parts.open_line()
        except LineLost as lost:
            tape.put(Answer.UNOPENED, str(lost))
            raise
        tape.put(Answer.OPENED, line.latency_ns)
        return _TapedLine(line, tape)

    def on_registration(update: bytes) -> bool:
        tape.flush()
        try:
            is_new = parts.on_registration(update)
        except Rejected as refused:
            tape.put(Answer.REGISTERED, 2, str(refused.reason), refused.detail)
            raise
        tape.put(Answer.REGISTERED, int(is_new))
        return is_new

    connection = parts.connection
    return replace(
        parts,
        clock=_TapedClock(parts.clock, tape),
        open_line=open_line,
        journal_directory=_TapedDirectory(parts.journal_directory, tape),
        outbox_directory=_TapedDirectory(parts.outbox_directory, tape),
        signer=_TapedSigner(parts.signer, tape),
        connection=None if connection is None else _TapedConnection(connection, tape),
        on_registration=on_registration,
        guard=None if parts.guard is None else _TapedGuard(parts.guard, tape),
    )


class TapedDevice(Device):
    """A device whose tape also says what it is told to do."""

    def __init__(self, parts: Parts, config: Config, software: str, tape: Tape) -> None:
        self._tape = tape
        super().__init__(taped(parts, tape), config, software)

    def begin(self) -> None:
        self._tape.mark(Work.BEGIN)
        super().begin()

    def look(self) -> None:
        self._tape.mark(Work.TURN)
        super().look()

    def end(self) -> None:
        self._tape.mark(Work.END)
        super().end()
        self._tape.mark(Work.ENDED)
        self._tape.flush()
