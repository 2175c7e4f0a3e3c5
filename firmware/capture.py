"""Tapes in files: recorded beside a run or from a line alone, and replayed into a folder."""

import fcntl
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from json import dumps
from pathlib import Path

from cryptometer import cbor, chain_records
from cryptometer.chain_records import Batch, ChainRecord, Mark, RunStart, StepClose
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import PublicKey
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware import device_key, folder
from firmware.config import Config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment
from firmware.listening import Spoken, SpokenLine
from firmware.recording import LINE_BYTES_MAX, Recording, recording_of, recording_of_tape
from firmware.replay import Outcome, replay
from firmware.segments import HEAD_BYTES, is_whole, payload_size
from firmware.tape import VERSION, Answer, Life, Tape, TapedDevice, Work, files_of, put_taken
from hal.drivers import Buses, index_settings, open_clock, open_index, open_source
from hal.files import DiskDirectory, is_held
from hal.index.choice import is_index_source
from hal.index.reading import Reading
from hal.keyfile import load_key
from hal.ports import Clock, Directory, LineLost, PulseSource, Taken, Timed

TAPE_BYTES_MAX = 2**30  # some weeks of a board; a forgotten capture must not grow for ever
ROOM_BYTES_MIN = 128 * 2**20  # what a capture leaves free: the journal goes first
GATHER_S = 0.05  # between two looks: one that never rests must not take a core
_FRAME_MAX = 2**31


class TapeFile:
    """A tape's file, which a run may go on with; whatever fails here, the run goes on without."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        """
        Raises:
            ConfigurationError: it cannot be written, is no tape, or another program writes it.
        """
        self._path = path
        self._log = log
        self._descriptor: int | None = None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _whole_bytes(path)
            os.ftruncate(descriptor, size)  # what a kill has torn
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigurationError(f"another program writes {path}") from None
        except ConfigurationError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._size = size
        self.is_fresh = size == 0

    def write(self, data: bytes) -> None:
        """Appends; after the first failure nothing more, and says so once."""
        if self._descriptor is None:
            return
        room = os.fstatvfs(self._descriptor)
        if self._size + len(data) > TAPE_BYTES_MAX:
            self._stop("it is full")
        elif room.f_bavail * room.f_frsize < ROOM_BYTES_MIN:
            self._stop("the disk is nearly full")
        else:
            self._append(data)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101 - the caller's condition
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._stop(str(error.strerror))
            return
        self._size += written
        if written < len(data):
            self._stop("a short write")

    def _stop(self, why: str) -> None:
        self._log(f"the capture ends: {self._path}: {why}")
        self.close()


def _whole_bytes(path: Path) -> int:
    """Length of the frames at the beginning of a file.

    Raises:
        ConfigurationError: it is no tape.
    """
    size = 0
    for payload in payloads_in(path):
        if not size:
            _check_first(path, payload)
        size += HEAD_BYTES + len(payload)
    if not size and path.stat().st_size:
        raise ConfigurationError(f"{path} is no capture: name a new file")
    return size


def _check_first(path: Path, payload: bytes) -> None:
    if not _is_life(payload):
        raise ConfigurationError(f"{path} is no capture: name a new file")


def _is_life(payload: bytes) -> bool:
    try:
        return isinstance(cbor.decode(payload), dict)
    except Rejected:
        return False


def payloads_in(path: Path) -> Iterator[bytes]:
    """The payloads of a tape's frames, up to the first that is torn."""
    with path.open("rb") as file:
        left = path.stat().st_size
        while len(head := file.read(HEAD_BYTES)) == HEAD_BYTES:
            left -= HEAD_BYTES
            size = payload_size(head)
            if size > left:
                return
            payload = file.read(size)
            if not is_whole(head, payload):
                return
            left -= size
            yield payload


def load_recording(path: Path) -> Recording:
    """A recorded line: a tape, or its bytes as any logger wrote them.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        first = next(payloads_in(path), None)
        if first is not None and _is_life(first):
            return recording_of_tape(payloads_in(path))
        with path.open("rb") as file:
            return recording_of(file.read(4 * LINE_BYTES_MAX))  # a dump in hexadecimal digits
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def life_of(
    config: Config,
    clock: Clock,
    key: PublicKey,
    enrolment: Enrolment | None,
    folders: tuple[Directory, ...],
    software: str = device_key.SOFTWARE,
    *,
    is_guarded: bool = False,
) -> Life:
    """What a life of the program is made of; to be asked before the device recovers.

    Args:
        folders: of journal and outbox; none for a line that nobody counts.
        software: that runs.
        is_guarded: whether it asks a guard.
    """
    settings = {
        name: value for name, value in asdict(config).items() if name not in ("broker", "key")
    }
    authority: tuple[bytes, ...] = ()
    former: tuple[bytes, ...] = ()
    if enrolment is not None:
        community = enrolment.community
        authority = (community.genesis.raw, *(record.raw for record in community.records))
        former = tuple(cbor.encode(one.to_cose()) for one in enrolment.former)
    return Life(
        VERSION,
        software,
        dumps(settings),
        clock.boot_id,
        clock.now().source,
        clock.community_ns(1) - clock.community_ns(0),
        cbor.encode(key.to_cose()),
        "" if enrolment is None else enrolment.meter,
        authority,
        files_of(folders),
        True if is_guarded else None,
        former or None,
    )


class Recorder:
    """Records the lives of one device, from the parts it is made of to its end."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        """
        Raises:
            ConfigurationError: the file cannot be written, is no tape, or another program's.
        """
        self._file = TapeFile(path, log)
        self._tape = Tape(self._file.write)

    def make_device(self, parts: Parts, config: Config) -> Device:
        """A device like any other, whose answers are taken down."""
        folders = (parts.journal_directory, parts.outbox_directory)
        key = parts.signer.public
        is_guarded = parts.guard is not None
        life = life_of(config, parts.clock, key, parts.enrolment, folders, is_guarded=is_guarded)
        self._tape.begin(life)
        return TapedDevice(parts, config, device_key.SOFTWARE, self._tape)

    def close(self) -> None:
        self._file.close()


# --- From a line alone. --------------------------------------------------------------------------


def capture(path: Path, out: Path, seconds: float | None) -> str:
    """Records what a line brings, without counting it, until the time is over or a signal comes.

    Args:
        path: of `meter.toml`.
        out: the tape; a new file, or one to go on with.
        seconds: how long; None: until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: the firmware has the line, or a file cannot be used.
    """
    config = folder.load_config(path)
    state = path.parent / config.state
    if is_held(state / "device.lock"):
        raise ConfigurationError(
            f"the firmware runs on {state} and has the line: stop it, or let it record itself with"
            " run --capture FILE"
        )
    key = device_key.load_device_key(state, config.key).public
    enrolment = folder.read_enrolment(state, key)
    clock = open_clock(config.clock)
    with closing(TapeFile(out, print)) as file:
        tape = Tape(file.write)
        tape.begin(life_of(config, clock, key, enrolment, ()))
        sums = _record(tape, clock, config, seconds)
    return "\n".join(sums.lines(out, speaks=is_index_source(config.source)))


@dataclass(slots=True)
class _Sums:
    """What was recorded."""

    pulses: int = 0
    noise: int = 0
    lost: int = 0
    size: int = 0  # bytes of a meter that speaks
    readings: int = 0
    refusals: int = 0

    def add(self, taken: Taken) -> None:
        self.pulses += taken.pulses
        self.noise += taken.noise
        self.lost += taken.lost
        self.size += len(taken.raw)
        readings = sum(isinstance(one, Reading) for one in taken.said)
        self.readings += readings
        self.refusals += len(taken.said) - readings

    def lines(self, out: Path, *, speaks: bool) -> list[str]:
        """What it was, for people."""
        if speaks:
            said = f"{self.size} bytes, {self.readings} readings, {self.refusals} refused"
            next_do = f"look into it with cryptometer-firmware analyze {out}"
        else:
            said = f"{self.pulses} pulses, {self.noise} of noise, {self.lost} dropped by the kernel"
            next_do = f"replay it with cryptometer-firmware replay {out}"
        return [f"captured {said}: {out}", f"nobody counts them; {next_do}"]


def _open_line(config: Config) -> PulseSource:
    """The line, though no registration says what a meter's index is worth."""
    if not is_index_source(config.source):
        return open_source(config.source)
    settings = index_settings(config.source)
    settle_ns = settings.settle_machine_ms * NS_PER_MS
    spoken = Spoken(settings.register, settings.identity, Fraction(1), 0, settle_ns)
    return SpokenLine(open_index(config.source, Buses()), spoken)


def _record(tape: Tape, clock: Clock, config: Config, seconds: float | None) -> _Sums:
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stop.append(received))
    sums = _Sums()
    until_s = None if seconds is None else time.monotonic() + seconds
    tape.mark(Work.BEGIN)
    tape.put_machine(clock.machine_ns())
    tape.put_now(clock.now())
    try:
        line = _open_line(config)
    except LineLost as error:
        raise ConfigurationError(str(error)) from None
    with closing(line), suppress(LineLost):
        tape.put(Answer.OPENED, line.latency_ns)
        poll = select.poll()
        poll.register(line.fileno(), select.POLLIN)
        work: Work | None = None
        while True:
            _look(tape, clock, line, sums, work)
            work = Work.TURN
            left_s = 1.0 if until_s is None else until_s - time.monotonic()
            if stop or left_s <= 0:
                break
            due_ns = line.due_ns if isinstance(line, Timed) else None
            wait_s = min(left_s, 1.0)
            if due_ns is not None:
                wait_s = min(wait_s, max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
            poll.poll(1000 * wait_s)
            time.sleep(min(left_s, GATHER_S))
    tape.mark(Work.END)
    tape.put_now(clock.now())
    tape.mark(Work.ENDED)
    tape.flush()
    return sums


def _look(tape: Tape, clock: Clock, line: PulseSource, sums: _Sums, work: Work | None) -> None:
    """One look at the line, in the order in which a device asks."""
    if work is not None:
        tape.mark(work)
    tape.put_machine(clock.machine_ns())
    tape.put_now(clock.now())
    try:
        taken = line.take()
    except LineLost as lost:
        tape.put(Answer.LOST, str(lost))
        print(lost)
        raise
    put_taken(tape, taken)
    tape.put_now(clock.now())
    tape.flush()
    sums.add(taken)


# --- Replay. -------------------------------------------------------------------------------------


def replay_file(
    path: Path, key: Path | None, out: Path | None, say: Callable[[str], None]
) -> Outcome:
    """Replays a tape into a folder of its own.

    Args:
        path: of the tape.
        key: the device's private key; None: records stay unsigned.
        out: a folder that does not exist yet or is empty; None: one that does not stay.
        say: takes a line for each record, and what the device says.

    Raises:
        ConfigurationError: a file cannot be used.
        Rejected: it is no tape, or of another version.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    if out is not None and out.exists() and any(out.iterdir()):
        raise ConfigurationError(f"{out} is not empty: a replay goes into a folder of its own")
    signer = None if key is None else load_key(key)
    with ExitStack() as stack:
        place = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = (DiskDirectory(place / "journal"), DiskDirectory(place / "outbox"))
        for directory in folders:
            stack.callback(directory.close)
        return replay(
            payloads_in(path),
            folders,
            signer,
            lambda record: say(describe(record)),
            lambda text: say(f"# {text}"),
        )


def describe(record: Record) -> str:
    """A record of a chain in one line."""
    body = record.body
    match body:
        case RunStart():
            rest = f"register={body.register} ending={body.ending}"
        case Batch():
            rest = (
                f"register={body.register} lots={len(body.lots) // 2} pulses={sum(body.lots[::2])}"
            )
        case chain_records.Reading(counting=False):
            rest = f"compared index={body.index} unit_uwh={body.unit_uwh} counted={body.counted}"
        case chain_records.Reading():
            rest = f"index={body.index} from={body.register}"
        case StepClose():
            rest = f"register={body.register}..{body.register_after}"
        case _:
            return f"{body.KIND} identity={record.identity.hex()}"
    assert isinstance(body, ChainRecord)  # noqa: S101 - each of them is one
    pairs = zip(body.marks[::2], body.marks[1::2], strict=True)
    marks = "".join(f" {Mark(mark).name.lower()}={amount}" for mark, amount in pairs)
    return (
        f"{body.sequence} {body.KIND} step={body.step} {rest}{marks}"
        f" identity={record.identity.hex()}"
    )


def summary(outcome: Outcome) -> list[str]:
    """What a replay brought, for people."""
    lines = [f"lives {outcome.lives}, turns {outcome.turns}: {outcome.status}"]
    if outcome.is_cut:
        lines.append("the tape ends before the program did: it was killed, or the capture cut off")
    if outcome.differing:
        lines.append(
            f"NOT as recorded: {outcome.differing} of {outcome.written} writes differ, the first in"
            f" turn {outcome.first_difference}"
        )
    elif outcome.written:
        lines.append(f"as recorded: {outcome.written} writes are the same, byte for byte")
    return lines
