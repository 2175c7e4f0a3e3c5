"""Process replay, the other half: the real `Device` over ports that answer from a tape.

In the version that was recorded every question finds its answer, and the device writes the same
bytes. Another version may ask more or less often within a turn: the answers of each kind keep their
order, clocks repeat themselves, and what a line or a broker brought is never left out. No file is
opened here.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar
from zlib import crc32

from cryptometer import cbor, records
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import SIGNATURE_BYTES, Algorithm, KeyLost, PublicKey, Signer, from_cose
from cryptometer.records import Record
from cryptometer.steps import NS_PER_S, ClockState, Instant
from cryptometer.wire import decode_map
from firmware.comparing import Second, second_of
from firmware.config import Config, read_config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment, enrolment_of
from firmware.listening import Spoken, spoken_of
from firmware.segments import HEAD_BYTES, is_whole, payload_size
from firmware.tape import VERSION, Answer, File, Life, Work, decode_said
from hal.index.choice import is_index_source
from hal.index.reading import Past
from hal.ports import Connected, Directory, Disconnected, LineLost, Message, PulseSource, Taken
from hal.uart import s0_pulses

NOBODY_WAITS = 2**20  # a descriptor's number that no poll is asked about
E = TypeVar("E", bound=Enum)
ROOM_BYTES = 2**40  # where a tape does not say how much
_FAMILIES = {
    Answer.RAW: Answer.TAKEN,
    Answer.SPOKE: Answer.TAKEN,
    Answer.LOST: Answer.TAKEN,
    Answer.COMPARED: Answer.TAKEN,
    Answer.UNOPENED: Answer.OPENED,
}
_CARRIED = (
    Answer.TAKEN,
    Answer.HEARD,
)  # what was brought and not asked for waits for the next turn


class TapeEnds(Exception):  # noqa: N818 - where a program was killed
    """The tape has no more answers."""


class Unsigned:
    """Stands in for a key that is not there: records have their content and identity, which does
    not depend on the signature, and bytes of zero in its place."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public

    def sign(self, data: bytes) -> bytes:  # noqa: ARG002 - a Signer's form
        return bytes(SIGNATURE_BYTES)


@dataclass(slots=True)
class Outcome:
    """What a replay brought.

    Attributes:
        lives: of the program, on the tape.
        turns: that were replayed.
        is_cut: the tape ends before its last life does.
        status: the device's own line, in the end.
        written: appends that were compared with the tape.
        differing: of these, appends that were not the same.
        first_difference: number of the turn, or None.
    """

    lives: int = 0
    turns: int = 0
    is_cut: bool = False
    status: str = ""
    written: int = 0
    differing: int = 0
    first_difference: int | None = None


def replay(
    payloads: Iterable[bytes],
    folders: tuple[Directory, Directory],
    signer: Signer | None,
    on_record: Callable[[Record], None],
    log: Callable[[str], None],
) -> Outcome:
    """Runs all lives on a tape.

    Args:
        payloads: the tape's frames, in order, as far as they are whole.
        folders: for journal and outbox.
        signer: with the device's own key; None: records stay unsigned.
        on_record: takes each record when it is signed, once.
        log: takes what the device says.

    Raises:
        ConfigurationError: the key is another device's, or the tape has a gap.
        Rejected: the tape is none, or of another version.
    """
    outcome = Outcome()
    known: set[bytes] = set()

    def once(record: Record) -> None:
        if record.identity not in known:
            known.add(record.identity)
            on_record(record)

    stream = _Stream(payloads)
    while (life := stream.next_life()) is not None:
        outcome.lives += 1
        outcome.is_cut = not _live(life, stream, folders, signer, outcome, once, log)
    if not outcome.lives:
        raise Rejected(Reason.MALFORMED, "the tape is empty, or no tape")
    return outcome


def _live(
    life: Life,
    stream: "_Stream",
    folders: tuple[Directory, Directory],
    signer: Signer | None,
    outcome: Outcome,
    on_record: Callable[[Record], None],
    log: Callable[[str], None],
) -> bool:
    """One life; False if the tape does not hold its end."""
    public = from_cose(cbor.decode(life.key))
    if signer is not None and signer.public != public:
        raise ConfigurationError(
            f"the tape is of a device with the key {public.thumbprint.hex()}, and this is another"
        )
    for number, folder in enumerate(folders):
        files = [file for file in life.files if file.folder == number]
        _restore(folder, files, is_first=outcome.lives == 1)
    config = read_config(_settings(life))
    enrolment = _enrolment(life, public)
    reel = _Reel(life, stream, outcome)
    journal, outbox = folders
    # An ECDSA signature is another one each time.
    is_repeatable = signer is not None and public.algorithm is Algorithm.EDDSA
    parts = Parts(
        clock=_Clock(reel, life),
        open_line=lambda: _open_line(reel, config),
        journal_directory=_Directory(journal, reel, None),
        outbox_directory=_Directory(outbox, reel, on_record, is_compared=is_repeatable),
        signer=_Signer(reel, signer or Unsigned(public)),
        enrolment=enrolment,
        connection=None if enrolment is None else _Connection(reel),
        on_registration=lambda _: _registered(reel),
        log=log,
        guard=_Guard(reel) if life.is_guarded else None,
        spoken=_spoken(config, enrolment),
        second=_second(config, enrolment),
    )
    device: Device | None = None
    is_ended = False
    try:
        reel.advance()
        device = Device(parts, config, life.software)
        while (work := reel.advance()) is not None:
            _do(device, work)
            is_ended = work is Work.ENDED
    except TapeEnds:
        pass
    outcome.status = "" if device is None else device.status
    return is_ended


def _do(device: Device, work: Work) -> None:
    match work:
        case Work.BEGIN:
            device.begin()
        case Work.TURN:
            device.work()
        case Work.END:
            device.end()
        case Work.ENDED:
            pass


def _settings(life: Life) -> Mapping[str, object]:
    try:
        table = json.loads(life.settings)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise Rejected(Reason.MALFORMED, "the tape's settings are none")
    return table


def _enrolment(life: Life, public: PublicKey) -> Enrolment | None:
    if not life.authority:
        return None
    former = [from_cose(cbor.decode(one)) for one in life.former or ()]
    return enrolment_of(life.meter, life.authority[0], life.authority[1:], public, former)


def _spoken(config: Config, enrolment: Enrolment | None) -> Spoken | None:
    if enrolment is None or not is_index_source(config.source):
        return None
    return spoken_of(config.source, enrolment)


def _second(config: Config, enrolment: Enrolment | None) -> Second | None:
    if enrolment is None or not config.compared:
        return None
    return second_of(config.compared, enrolment)


def _restore(folder: Directory, files: Sequence[File], *, is_first: bool) -> None:
    """Makes a folder as a life found it, but for old files that are not on the tape."""
    for name in set(folder.names()) - {file.name for file in files}:
        folder.remove(name)
    there = set(folder.names())
    for file in files:
        if file.is_whole:
            if file.name not in there or folder.read(file.name) != file.content:
                folder.put(file.name, file.content)
        elif file.name in there:
            _check_gap(file, is_same=folder.size(file.name) == file.size)
        else:
            # Older than all that the tape holds; or written by a run that it does not.
            _check_gap(file, is_same=is_first or file.name < min(there, default=""))


def _check_gap(file: File, *, is_same: bool) -> None:
    if not is_same:
        raise ConfigurationError(
            f"the tape has a gap: {file.name} is not what it was; between two of its runs another"
            " one was not captured"
        )


# --- The tape, turn by turn. ---------------------------------------------------------------------


class _Stream:
    """The frames of a tape: lives, and the answers within each."""

    def __init__(self, payloads: Iterable[bytes]) -> None:
        self._payloads = iter(payloads)
        self._answers: deque[Sequence[cbor.Value]] = deque()
        self._life: Life | None = None
        self._read()

    def next_life(self) -> Life | None:
        """The next life; what is left of the one before is passed over."""
        while self._life is None and (self._answers or self._read()):
            self._answers.clear()
        life, self._life = self._life, None
        return life

    def peek(self) -> Sequence[cbor.Value] | None:
        """The next answer of this life; None at its end."""
        while not self._answers and self._life is None and self._read():
            pass
        return self._answers[0] if self._answers else None

    def pop(self) -> Sequence[cbor.Value]:
        return self._answers.popleft()

    def _read(self) -> bool:
        payload = next(self._payloads, None)
        if payload is None:
            return False
        match cbor.decode(payload):
            case list() as answers if all(isinstance(one, list) and one for one in answers):
                self._answers.extend(answers)
            case dict() as value:
                self._life = _decode_life(value)
            case _:
                raise Rejected(Reason.MALFORMED, "neither a life nor answers")
        return True


def _decode_life(value: Mapping[int, cbor.Value]) -> Life:
    if value.get(0) != VERSION:
        raise Rejected(Reason.MALFORMED, f"a tape of form {value.get(0)}, and not {VERSION}")
    return decode_map(Life, value)


class _Reel:
    """The answers of one life."""

    def __init__(self, life: Life, stream: _Stream, outcome: Outcome) -> None:
        self._life = life
        self._stream = stream
        self._queues: dict[Answer, deque[Sequence[cbor.Value]]] = {}
        self._is_last = False
        self._began = False
        self.outcome = outcome
        self.now = Instant(0, 0, 0, ClockState.UNKNOWN, life.source)
        self.machine_ns = 0
        self.slept_ns = 0
        self.room_bytes = ROOM_BYTES

    def advance(self) -> Work | None:
        """Goes to the next thing the device was told to do; None at the end. The first time to
        what comes before any: its recovery."""
        work: Work | None = None
        if self._began:
            mark = self._stream.peek()
            if mark is None:
                return None
            work = _member(Work, _integer(self._stream.pop(), 1))
            self.outcome.turns += 1
        self._began = True
        self._pass_over()
        while (answer := self._stream.peek()) is not None and answer[0] != Answer.MARK:
            kind = _member(Answer, _integer(answer, 0))
            self._queues.setdefault(_FAMILIES.get(kind, kind), deque()).append(self._stream.pop())
        self._is_last = answer is None and work is not Work.ENDED
        return work

    def next(self, kind: Answer, *, is_needed: bool = True) -> Sequence[cbor.Value] | None:
        """The next answer to a question, None if there is none within this turn.

        Raises:
            TapeEnds: there is none, since the program was killed in this turn.
        """
        queue = self._queues.get(kind)
        if queue:
            return queue.popleft()
        if self._is_last and is_needed:
            raise TapeEnds
        return None

    def _pass_over(self) -> None:
        """Clocks go on, and the rest of the turn before is left."""
        self._queues[Answer.NOW] = self._queues.get(Answer.NOW, deque())
        while self._queues[Answer.NOW]:
            self.take_now()
        while self._queues.get(Answer.MACHINE):
            self.take_machine()
        self.take_slept()
        self._queues = {kind: self._queues.get(kind, deque()) for kind in _CARRIED}

    def take_now(self) -> Instant:
        answer = self.next(Answer.NOW)
        if answer is not None:
            before = self.now
            mono = before.mono_ns + _integer(answer, 1)
            shift = before.utc_ns - before.mono_ns + _integer(answer, 2)
            error = before.error_ns + _integer(answer, 3)
            state = _member(ClockState, _text(answer, 4))
            self.now = Instant(mono, mono + shift, error, state, self._life.source)
        return self.now

    def take_machine(self) -> int:
        answer = self.next(Answer.MACHINE)
        if answer is not None:
            self.machine_ns += _integer(answer, 1)
        return self.machine_ns

    def take_slept(self) -> int:
        while (answer := self.next(Answer.SLEPT, is_needed=False)) is not None:
            self.slept_ns = _integer(answer, 1)
        return self.slept_ns


# --- Ports that answer from the tape. ------------------------------------------------------------


class _Clock:
    def __init__(self, reel: _Reel, life: Life) -> None:
        self._reel = reel
        self._speed = life.speed
        self.boot_id = life.boot
        self.now = reel.take_now
        self.machine_ns = reel.take_machine
        self.slept_ns = reel.take_slept

    def community_ns(self, machine_ns: int) -> int:
        return machine_ns * self._speed + self._reel.slept_ns

    def machine_wait_s(self, community_ns: int) -> float:
        return community_ns / self._speed / NS_PER_S


def _open_line(reel: _Reel, config: Config) -> PulseSource:
    answer = reel.next(Answer.OPENED)
    if answer is None:
        raise LineLost("the tape does not say that the line was opened")
    if answer[0] == Answer.UNOPENED:
        raise LineLost(_text(answer, 1))
    return _Line(reel, _integer(answer, 1), config.source)


class _Line:
    def __init__(self, reel: _Reel, latency_ns: int, source: Mapping[str, object]) -> None:
        self._reel = reel
        self._source = source
        self.latency_ns = latency_ns
        self.capacity = 1

    def fileno(self) -> int:
        return NOBODY_WAITS

    def take(self) -> Taken:
        answer = self._reel.next(Answer.TAKEN)
        match answer:
            case [Answer.COMPARED, *said]:
                compared = [decode_said(one) for one in said]
                heard = tuple(one for one in compared if not isinstance(one, Past))
                return replace(self._take(self._reel.next(Answer.TAKEN)), compared=heard)
            case _:
                return self._take(answer)

    def _take(self, answer: Sequence[cbor.Value] | None) -> Taken:
        match answer:
            case None:
                return Taken(0)
            case [Answer.LOST, str(why)]:
                raise LineLost(why)
            case [Answer.SPOKE, bytes(raw), *said]:
                spoke = [decode_said(one) for one in said]
                past = tuple(one for one in spoke if isinstance(one, Past))
                heard = tuple(one for one in spoke if not isinstance(one, Past))
                return Taken(0, raw=raw, said=heard, past=past)
            case [Answer.RAW, bytes(raw), int(lost), *beside]:
                return replace(interpret(raw, lost, self._source), beside=_beside(beside))
            case [Answer.TAKEN, int(pulses), int(noise), int(lost), list(gaps), *beside]:
                return Taken(pulses, _sums(gaps), noise, lost, beside=_beside(beside))
            case _:
                raise _malformed()

    def close(self) -> None:
        pass


def _beside(given: list[Any]) -> int | None:
    match given:
        case []:
            return None
        case [int(count)]:
            return count
        case _:
            raise _malformed()


def interpret(raw: bytes, lost: int, source: Mapping[str, object]) -> Taken:
    """What a driver makes of the bytes it received.

    Raises:
        Rejected: this version has no driver that receives bytes from such a source.
    """
    if source.get("driver") != "serial":
        raise Rejected(Reason.MALFORMED, f"bytes of a source {source.get('driver')!r}")
    pulses = s0_pulses(raw) if source.get("line") == "s0" else len(raw)
    return Taken(pulses, noise=len(raw) - pulses, lost=lost, raw=raw)


class _Signer:
    """Signs whenever the key did."""

    def __init__(self, reel: _Reel, inner: Signer) -> None:
        self._reel = reel
        self._inner = inner
        self.public = inner.public

    def sign(self, data: bytes) -> bytes:
        answer = self._reel.next(Answer.SIGNED, is_needed=False)
        if answer is not None and len(answer) > 1:
            raise KeyLost(_text(answer, 1))
        return self._inner.sign(data)


class _Guard:
    """Counts as the guard did."""

    def __init__(self, reel: _Reel) -> None:
        self._reel = reel

    def read(self) -> int | None:
        answer = self._answer()
        return _integer(answer, 1) if len(answer) > 1 else None

    def advance(self) -> None:
        self._answer()

    def _answer(self) -> Sequence[cbor.Value]:
        answer = self._reel.next(Answer.GUARDED)
        if answer is None:
            raise KeyLost("the tape says nothing of the guard here")
        if len(answer) > 1 and isinstance(answer[1], str):
            raise KeyLost(answer[1])
        return answer


class _Directory:
    """A real folder, whose appends are held against the tape."""

    def __init__(
        self,
        inner: Directory,
        reel: _Reel,
        on_record: Callable[[Record], None] | None,
        *,
        is_compared: bool = True,
    ) -> None:
        self._reel = reel
        self._inner = inner
        self._on_record = on_record
        self._is_compared = is_compared
        self.names = inner.names
        self.size = inner.size
        self.read = inner.read
        self.sync = inner.sync
        self.truncate = inner.truncate
        self.put = inner.put
        self.remove = inner.remove

    def append(self, name: str, data: bytes) -> None:
        self._inner.append(name, data)
        wrote = self._reel.next(Answer.WROTE, is_needed=False)
        if wrote is not None and self._is_compared:
            self._compare(_integer(wrote, 1) == crc32(data))
        if self._on_record is not None:
            for payload in frames(data):
                if payload[:1] == b"\x84":  # an array of four: a record
                    self._on_record(records.decode(payload))

    def free_bytes(self) -> int:
        answer = self._reel.next(Answer.ROOM)
        if answer is not None:
            self._reel.room_bytes = _integer(answer, 1)
        return self._reel.room_bytes

    def _compare(self, is_same: bool) -> None:
        outcome = self._reel.outcome
        outcome.written += 1
        if not is_same:
            outcome.differing += 1
            if outcome.first_difference is None:
                outcome.first_difference = outcome.turns


class _Connection:
    def __init__(self, reel: _Reel) -> None:
        self._reel = reel

    def fileno(self) -> int:
        return NOBODY_WAITS + 1

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:  # noqa: ARG002
        answer = self._reel.next(Answer.HEARD)
        return [] if answer is None else [_event(one) for one in answer[1:]]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        answer = self._reel.next(Answer.PUBLISHED)
        return answer is None or bool(_integer(answer, 1))

    def confirm(self, token: tuple[int, int]) -> None:
        pass


def _event(event: cbor.Value) -> Message | Connected | Disconnected:
    match event:
        case []:
            return Connected()
        case [str(reason)]:
            return Disconnected(reason)
        case [str(topic), bytes(payload), int(retained)]:
            return Message(topic, payload, bool(retained), (0, 0))
        case _:
            raise _malformed()


def _registered(reel: _Reel) -> bool:
    match reel.next(Answer.REGISTERED):
        case None:
            return False
        case [_, 2, str(reason), str(detail)]:
            raise Rejected(_member(Reason, reason), detail)
        case answer:
            return bool(_integer(answer, 1))


def frames(data: bytes) -> Iterator[bytes]:
    """The payloads of the frames that `data` consists of, up to the first damaged one."""
    offset = 0
    while offset + HEAD_BYTES <= len(data):
        head = data[offset : offset + HEAD_BYTES]
        offset += HEAD_BYTES + payload_size(head)
        payload = data[offset - payload_size(head) : offset]
        if not is_whole(head, payload):
            return
        yield payload


def _sums(gaps: Sequence[cbor.Value]) -> tuple[int, ...]:
    times: list[int] = []
    for at in range(len(gaps)):
        times.append(_integer(gaps, at) + (times[-1] if times else 0))
    return tuple(times)


def _member(kind: type[E], value: object) -> E:
    try:
        return kind(value)
    except ValueError:
        raise _malformed() from None


def _integer(answer: Sequence[cbor.Value], at: int) -> int:
    value = answer[at] if at < len(answer) else None
    if not isinstance(value, int):
        raise _malformed()
    return value


def _text(answer: Sequence[cbor.Value], at: int) -> str:
    value = answer[at] if at < len(answer) else None
    if not isinstance(value, str):
        raise _malformed()
    return value


def _malformed() -> Rejected:
    return Rejected(Reason.MALFORMED, "an answer that no version of the tape knows")
