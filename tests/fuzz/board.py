"""What a board reads: its files, the broker's messages, a line's characters."""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from json import dumps
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.chain_records import ChainRecord, Ending
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.records import Record
from cryptometer.steps import ClockSource
from cryptometer.wire import decode_map, encode_map
from firmware import enrolment
from firmware.analysis import analyse
from firmware.capture import life_of
from firmware.config import Config
from firmware.counter import BLANK_SNAPSHOT, Snapshot
from firmware.device import Device, Parts
from firmware.end import chain_start
from firmware.events import (
    Began,
    Dated,
    Ended,
    Noticed,
    Passed,
    Pulses,
    Watched,
    decode_event,
    encode_event,
)
from firmware.journal import Journal
from firmware.outbox import Outbox
from firmware.recording import recording_of
from firmware.replay import frames, replay
from firmware.segments import SegmentedLog
from firmware.series import pulse_count, read_series
from firmware.simulating import Kind
from firmware.speaking import Plan, message_of
from firmware.tape import Tape, TapedDevice
from firmware.timekeeping import Dating
from hal.files import SimulatedDirectory
from hal.index.dlms_meter import Told
from hal.keyfile import create_key, load_key
from hal.keyplace import FilePlace, TpmPlace, read_place
from hal.uart import IS_S0_PULSE
from tests.firmware.test_speaking import Site
from tests.fuzz.scene import FalseAcceptance, World, array_of, check_genuine, honest, rogue
from tests.fuzz.target import BY_MESSAGE, Target, in_either, of_both, same, scratch, text_of
from tests.keys import signer
from tests.simulation import world as simulation


def _read_event(data: bytes) -> None:
    same(data, encode_event(decode_event(data)))


def _events() -> list[bytes]:
    dating = Dating(5_000, 1_700_000_000_000_000_000, 4, ClockSource.SIMULATED, 0)
    return [
        encode_event(event)
        for event in (
            Began(bytes(16), 1, "test 1.0", 0), Dated(dating), Pulses(7, 1, 2, 0), Watched(9),
            Noticed(5, 1), Ended(10, Ending.STOPPED), Passed(11),
        )
    ]  # fmt: skip


def _snapshots() -> list[bytes]:
    later = replace(BLANK_SNAPSHOT, register=70, mono_ns=9, boot=bytes(range(16)))
    return [cbor.encode(encode_map(one)) for one in (BLANK_SNAPSHOT, later)]


def _read_snapshot(data: bytes) -> None:
    same(data, cbor.encode(encode_map(decode_map(Snapshot, cbor.decode(data)))))


def _file(name: str, data: bytes) -> SimulatedDirectory:
    folder = SimulatedDirectory()
    folder.put(name, data)
    return folder


def _frames(*payloads: bytes) -> bytes:
    folder = SimulatedDirectory()
    SegmentedLog(folder, "log").append(list(payloads))
    return folder.read("log-00000000.log")


def _read_segment(data: bytes) -> None:
    folder = _file("log-00000000.log", data)
    log = SegmentedLog(folder, "log")
    cut = log.recover(0)
    payloads = [payload for _, payload in log.entries(0)]
    rest = data[len(data) - (cut.size if cut else 0) :]
    same(data, (_frames(*payloads) if payloads else b"") + rest)
    if log.recover(0) is not None:
        raise FalseAcceptance("a file that was cut is cut again")


def _read_journal(data: bytes) -> None:
    found = Journal(folder := _file("journal-00000000.log", data)).recover()
    again = Journal(folder).recover()
    if (again.snapshot, again.events, again.cut_bytes) != (found.snapshot, found.events, 0):
        raise FalseAcceptance("a journal says something else when it is read again")
    if found.snapshot is not None and Journal(folder).peek() < found.snapshot.register:
        raise FalseAcceptance("a register went back")


def _read_outbox(data: bytes) -> None:
    folder = _file("outbox-00000000.log", data)
    box = Outbox(folder, limit_bytes=2**20, window=64)
    box.recover(0)
    box.connected(0)
    if box.end is not None and box.waiting > box.end.sequence:
        raise FalseAcceptance("more records wait than were signed")
    box.sync()
    due = [_place(raw) for raw in box.take_due(1)]
    if box.end is not None and due != list(
        range(box.end.acknowledged, box.end.acknowledged + len(due))
    ):
        raise FalseAcceptance(f"records {due} go out behind {box.end.acknowledged}")
    again = Outbox(folder, limit_bytes=2**20, window=64)
    if again.recover(0) or (again.end, again.waiting) != (box.end, box.waiting):
        raise FalseAcceptance("an outbox says something else when it is read again")


def _place(raw: bytes) -> int:
    body = records.decode(raw).body
    return body.sequence if isinstance(body, ChainRecord) else -1


def _outboxes() -> list[bytes]:
    return [_outbox_file(world) for world in (honest(), rogue())]


_ACKNOWLEDGED = 3  # records of the outbox that targets begin with


def _outbox_file(world: World) -> bytes:
    """The log of meter m0, part of it acknowledged."""
    folder = SimulatedDirectory()
    box = Outbox(folder, limit_bytes=2**20, window=64)
    box.begin(chain_start(records.decode(world.leaves[3]).identity))
    own = [record for record in map(records.decode, world.leaves) if _is_of(record, "m0")]
    box.append(own)
    box.sync()
    before = own[_ACKNOWLEDGED - 1].identity
    word = Acknowledgement("m0", 7, _ACKNOWLEDGED, before, 0)
    box.acknowledge(word, 5)
    return folder.read("outbox-00000000.log")


def _is_of(record: Record, meter: str) -> bool:
    return isinstance(record.body, ChainRecord) and record.body.meter == meter


def _read_acknowledgement(data: bytes) -> None:
    """A message under the topic of acknowledgements, heard by a board that has records waiting."""

    def read(world: World) -> None:
        word = enrolment.open_acknowledgement(data, _enrolment(world))
        check_genuine(records.decode(data))
        box = Outbox(_file("outbox-00000000.log", _outbox_file(world)), limit_bytes=2**20, window=9)
        box.recover(0)
        box.sync()
        box.connected(0)
        box.take_due(1)
        box.acknowledge(word, 2)
        end = box.end
        if end is None or not end.acknowledged <= end.sequence:
            raise FalseAcceptance(f"{word} acknowledges what is not signed")
        own = [record for record in map(records.decode, world.leaves) if _is_of(record, "m0")]
        if end.acknowledged > _ACKNOWLEDGED and own[end.acknowledged - 1].identity != word.previous:
            raise FalseAcceptance(f"{word} acknowledges another chain")
        box.take_due(3)
        if box.stop is None and box.waiting != end.sequence - end.acknowledged:
            raise FalseAcceptance(f"{word} lets go of what it does not acknowledge")

    in_either(read)


@lru_cache(maxsize=2)
def _enrolment(world: World) -> enrolment.Enrolment:
    return enrolment.read_bundle(world.bundle.raw, None, world.device.public)


def _read_enrolment(data: bytes) -> None:
    """A bundle, or a message under the topic of registrations for one who has a bundle."""

    def read(world: World) -> None:
        if data[:1] == b"\x84":
            found = enrolment.read_bundle(data, None, world.device.public)
        else:
            found = enrolment.read_bundle(world.bundle.raw, data, world.device.public)
        check_genuine(found.community.genesis, *found.community.records)
        try:
            enrolment.check_meter(found)
        except ConfigurationError:
            return
        if found.terms.lot_pulses < 1:
            raise FalseAcceptance("a lot of no pulses")

    in_either(read)


def _read_series(data: bytes) -> None:
    levels = read_series(text_of(data).splitlines())
    end_ns = 0
    for level in levels:
        if level.start_ns < end_ns or level.watts < 0 or not level.duration_ns:
            raise FalseAcceptance(f"{level} after {end_ns} ns")
        end_ns = level.start_ns + level.duration_ns
    if pulse_count(levels, Fraction(10_000)) < 0:
        raise FalseAcceptance("pulses that are taken back")


def _series() -> list[bytes]:
    return [
        b"time,pv\n2026-03-29T01:00:00Z,100\n2026-03-29T01:15:00Z,250.5\n2026-03-29T01:45:00Z,\n",
        b"1700000000;1,5\n1700000900;2,5\n1700001800;-3\n",
        "\ufefftime\tpower\n2026-01-01\t7\n2026-01-02\t1e3\n".encode(),
    ]


def _read_characters(data: bytes) -> None:
    """What a pulse line makes of received bytes."""
    pulses = sum(data.translate(IS_S0_PULSE))
    if pulses != sum(not value & 0b11_1111 for value in data):
        raise FalseAcceptance("a character with a high bit among six counts as a pulse")


def _read_key_file(data: bytes) -> None:
    key = load_key(scratch("device.key", data))
    key.public.verify(key.sign(b"probe"), b"probe")


def _read_key_place(data: bytes) -> None:
    """Where the configuration says that a key is kept."""
    place = read_place(text_of(data), "[key] store")
    if isinstance(place, FilePlace):
        if place.path != PurePosixPath(data.removeprefix(b"file:").decode()):
            raise FalseAcceptance("a file that was not named")
        return
    if isinstance(place, TpmPlace):
        _check_tpm_place(place)
        return
    if not place.module.is_absolute() or not place.token or not place.label:
        raise FalseAcceptance("a place without a module, a token or a key")
    _check_secret(place.pin, is_credential=place.is_credential)


def _check_tpm_place(place: TpmPlace) -> None:
    if place.handle >> 23 != 0x81000000 >> 23:
        raise FalseAcceptance("a handle that is no owner's persistent one")
    if place.counter is not None and place.counter >> 22 != 0x01800000 >> 22:
        raise FalseAcceptance("an index that is no owner's")
    if not place.tcti.partition(":")[0].isalpha():
        raise FalseAcceptance("a transport outside of the library's folder")
    if place.auth is not None:
        _check_secret(place.auth, is_credential=place.is_credential)


def _check_secret(path: PurePosixPath, *, is_credential: bool) -> None:
    if is_credential and (len(path.parts) != 1 or path.name in ("", "..")):
        raise FalseAcceptance("a credential outside of its folder")
    if not is_credential and not path.is_absolute():
        raise FalseAcceptance("a secret's file that depends on who looks for it")


_PLACES = (
    b"file:device.key",
    b"pkcs11:token=meter;object=device?module-path=/usr/lib/m.so&pin-source=file:/etc/pin",
    b"pkcs11:object=a%20b;token=%3B?pin-source=credential:pin&module-path=/usr/lib/m.so",
    b"tpm2:handle=0x81200001;counter=0x01800001?auth-source=file:/etc/auth",
    b"tpm2:handle=0x817fffff?auth-source=credential:auth&tcti=swtpm:host=h,port=1",
)


class _Deck:
    """Records what a simulated board was told."""

    def __init__(self) -> None:
        self.data = bytearray()

    def make_device(self, parts: Parts, config: Config, software: str) -> Device:
        folders = (parts.journal_directory, parts.outbox_directory)
        tape = Tape(self.data.extend)
        key, clock = parts.signer.public, parts.clock
        tape.begin(life_of(config, clock, key, parts.enrolment, folders, software=software))
        return TapedDevice(parts, config, software, tape)


def _tapes() -> list[bytes]:
    """Some minutes of a board's life, of one with pulses and of one whose meter speaks."""
    deck, names = _Deck(), vars(simulation)
    device, names["Device"] = names["Device"], deck.make_device
    try:
        world = simulation.World(1, boards=1)
        [board] = world.boards
        board.start()
        world.run(_TAPED_S, 5)
        board.stop()
        world.close()
        counted, deck.data = bytes(deck.data), bytearray()
        site = Site()
        site.run(_TAPED_S, 1, 5.0)
        site.board.stop()
        site.world.close()
    finally:
        names["Device"] = device
    return [counted, bytes(deck.data)]


_TAPED_S = 240


def _read_tape(data: bytes) -> None:
    """What a tape says is a device's whole life: replayed twice, it is the same one."""
    lives = [_replayed(data) for _ in range(2)]
    if lives[0] != lives[1]:
        raise FalseAcceptance("a tape has two lives")


def _replayed(data: bytes) -> dict[str, bytes]:
    journal, outbox = SimulatedDirectory(), SimulatedDirectory()
    replay(frames(data), (journal, outbox), signer(10), lambda _: None, lambda _: None)
    return {name: folder.read(name) for folder in (journal, outbox) for name in folder.names()}


def _key_files() -> list[bytes]:
    with TemporaryDirectory(prefix="cryptometer-fuzz-") as folder:
        create_key(Path(folder) / "key")
        return [(Path(folder) / "key").read_bytes()]


def _read_recorded_line(data: bytes) -> None:
    """What is said of any bytes has a bound, and no message is counted that no decoder read."""
    found = analyse(recording_of(data))
    if len(found.findings) > 120 or any(len(one.says) > 400 for one in found.findings):
        raise FalseAcceptance("more words than there is to say")
    places = [one.place for one in found.refused.values()]
    if any(not 0 <= place <= found.size for place in places):
        raise FalseAcceptance("a place outside of the line")
    dumps(found.as_json())
    if not found.driver:
        raise Rejected(Reason.MALFORMED, "no meter")


def _recorded_lines() -> list[bytes]:
    told = Told(1_234_000, 5_000, 700, 1_790_000_000)
    plans = [Plan(kind, []) for kind in Kind]
    lines = [message_of(plan, told, 1) + message_of(plan, told, 2) for plan in plans]
    return [one for one in lines if one]


BOARD: tuple[Target, ...] = (
    Target(
        "recorded-line",
        ("firmware.analysis.analyse", "firmware.recording.recording_of"),
        _read_recorded_line,
        _recorded_lines,
    ),
    Target("event", ("firmware.events.decode_event",), _read_event, _events),
    Target("snapshot", ("firmware.journal.Journal.recover",), _read_snapshot, _snapshots),
    Target(
        "segment",
        ("firmware.segments.SegmentedLog.recover", "firmware.segments.SegmentedLog.read"),
        _read_segment,
        lambda: [_frames(b"one", b"two" * 9, b"three"), b""],
    ),
    Target(
        "journal",
        ("firmware.journal.Journal.recover", "firmware.journal.Journal.peek"),
        _read_journal,
        lambda: [_frames(snapshot, *_events()) for snapshot in _snapshots()],
    ),
    Target(
        "outbox",
        ("firmware.outbox.Outbox.recover", "firmware.outbox.Outbox.peek"),
        _read_outbox,
        _outboxes,
    ),
    Target(
        "acknowledgement",
        ("firmware.enrolment.open_acknowledgement", "firmware.outbox.Outbox.acknowledge"),
        _read_acknowledgement,
        of_both(lambda world: [record.raw for record in world.acknowledgements]),
    ),
    Target(
        "enrolment",
        ("firmware.enrolment.read_bundle", "firmware.enrolment.read_update"),
        _read_enrolment,
        of_both(lambda world: [world.bundle.raw, array_of(world.authority_records[1:])]),
    ),
    Target(
        "series",
        ("firmware.series.read_series",),
        _read_series,
        _series,
        BY_MESSAGE,
    ),
    Target("characters", ("hal.uart.IS_S0_PULSE",), _read_characters, lambda: [bytes(range(256))]),
    Target(
        "tape",
        ("firmware.replay.replay", "firmware.replay.frames", "firmware.tape.decode_said"),
        _read_tape,
        _tapes,
        BY_MESSAGE,
    ),
    Target(
        "key-file",
        ("hal.keyfile.load_key",),
        _read_key_file,
        _key_files,
        (ConfigurationError,),
    ),
    Target(
        "key-place",
        ("hal.keyplace.read_place",),
        _read_key_place,
        lambda: list(_PLACES),
        BY_MESSAGE,
    ),
)
