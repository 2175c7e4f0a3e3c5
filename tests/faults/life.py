"""A life of a board and of its gateway over one folder, by a fixed script: the same life makes the
same system calls. What it has given, made durable and published it tells a file elsewhere.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community, trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.record_fields import Role
from cryptometer.steps import NS_PER_MS, NS_PER_S, step_start_ms
from firmware import journal
from firmware import outbox as outboxes
from firmware.config import Config, read_config
from firmware.device import Device, Parts
from firmware.device_key import load_device_key
from firmware.enrolment import read_bundle
from firmware.events import Pulses, decode_event
from firmware.folder import load_config, read_enrolment
from gateway.effects import Effect, Publish, Sealed
from gateway.folder import open_folder, read_own_bundle
from gateway.founding import found_store
from gateway.ledger import Ledger
from gateway.node import Node, Policy
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from hal.clock import SimulatedClock
from hal.files import DiskDirectory, DiskTree
from hal.sim_line import SimSettings, SimulatedLine
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority
from tests.keys import signer
from tests.simulation.post import Box, Post

METER = "m0"
# Small, so that files are begun and dropped within a life of two steps.
JOURNAL_SEGMENT_BYTES, OUTBOX_SEGMENT_BYTES = 500, 2_500
LOG_PAGES = 12  # of SQLite's write-ahead log, after which it is copied into the database
LOOKS_S = (300, 302, 304, 600, 898, 901)  # into the step: with syncs between them, and without
PULSES = (11, 3, 2, 0, 21, 0)  # at each of them
_FRAME_HEAD_BYTES = 8  # of an entry of the journal: firmware.segments
_MAP = 0xA0  # the first byte of a CBOR map is at least this: a snapshot; an event is an array


class Careless(StrEnum):
    """What a life may neglect, to see whether the trials would notice."""

    JOURNAL = "journal"  # its files are not synced
    OUTBOX = "outbox"  # likewise
    STORE = "store"  # its commits are not
    LEDGER = "ledger"  # its files are not
    DEAF = "deaf"  # that a write into the journal failed is not heard


@dataclass(frozen=True, slots=True)
class Life:
    """Which part of the script is lived.

    Attributes:
        begin: steps between the community's first one and the first of this life.
        steps: how many it lives through.
        boot: of the machine; a new one begins with a new monotonic clock.
        careless: what it neglects, "" for nothing.
    """

    begin: int
    steps: int
    boot: int = 1
    careless: str = ""


class Account:
    """What a life tells, line by line; each stands as soon as it is told, whatever comes then."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


class TellingDirectory(DiskDirectory):
    """The journal's folder; tells the register that was given, and that is durable."""

    def __init__(self, path: Path, account: Account, careless: str) -> None:
        super().__init__(path)
        self._account = account
        self._careless = careless
        self._given = 0

    def append(self, name: str, data: bytes) -> None:
        try:
            super().append(name, data)
        except OSError:
            if self._careless != Careless.DEAF:
                raise
        for entry in _entries(data):
            if entry[0] < _MAP and isinstance(event := decode_event(entry), Pulses):
                self._given = max(self._given, event.register)
        self._account.tell("given", self._given)

    def sync(self, names: Sequence[str]) -> None:
        if self._careless != Careless.JOURNAL:
            super().sync(names)
        self._account.tell("durable", self._given)


class CarelessDirectory(DiskDirectory):
    """A folder that syncs nothing."""

    def sync(self, names: Sequence[str]) -> None:
        pass


class CarelessTree(DiskTree):
    """Files that are not synced."""

    @contextmanager
    def writing(self, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
        yield partial(self._put, files)

    def _put(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(target.name + ".new")
            beside.write_bytes(data)
            beside.replace(target)


class Town:
    """A community of one meter and one gateway: the same keys every time."""

    def __init__(self) -> None:
        authority = Authority(signer(1))
        self.id = authority.genesis.identity
        self.topic = f"cryptometer/1/{self.id.hex()}"
        self.gateway, self.board = signer(2), signer(10)
        gateway = authority.register(Role.GATEWAY, "gw", self.gateway.public)
        meter = authority.register(Role.METER, METER, self.board.public, DETAILS)
        self.founding = [record.raw for record in (authority.genesis, gateway, meter)]
        self.community: Community = trust(self.founding[0], [gateway.raw])
        bundle = Bundle(
            METER, self.founding[0], (gateway.raw, meter.raw), Broker("mqtt://127.0.0.1:1883")
        )
        raw = records.seal(bundle, self.id, authority.signer).raw
        self.enrolment = read_bundle(raw, None, self.board.public)


def config() -> Config:
    """The board's settings: no room for acknowledged records, so that the oldest always go."""
    read = read_config({"source": {"driver": "sim"}})
    return replace(read, journal=replace(read.journal, limit_mb=0))


def found(folder: Path) -> None:
    """Makes what a life needs: a gateway's empty store."""
    create_store(store_path(folder), epoch=1)


def store_path(folder: Path) -> Path:
    return folder / "store.sqlite"


def ledger_path(folder: Path) -> Path:
    return folder / "ledger"


def live(folder: Path, life: Life, account: Account) -> None:
    """Lives a life to its end.

    Raises:
        OSError: the machine failed.
        sqlite3.Error: likewise.
    """
    journal.SEGMENT_BYTES, outboxes.SEGMENT_BYTES = JOURNAL_SEGMENT_BYTES, OUTBOX_SEGMENT_BYTES
    with closing(SqliteStore(store_path(folder))) as store:
        _Living(folder, life, account, store).run()


def start(folder: Path) -> None:
    """Reads what the two programs read at their start.

    Raises:
        OSError: the machine failed.
        ConfigurationError: a person must act.
    """
    load_config(folder / "board" / "meter.toml")
    key = load_device_key(folder / "board")
    assert read_enrolment(folder / "board", key.public) is not None
    premises = open_folder(folder / "gateway")
    premises.load_key()
    read_own_bundle(premises)


class _Living:
    def __init__(self, folder: Path, life: Life, account: Account, store: SqliteStore) -> None:
        self.account, self.life = account, life
        self.town = town = Town()
        begin_ms = step_start_ms(FIRST_STEP + life.begin, STEP_S)
        self.clock = SimulatedClock(begin_ms * NS_PER_MS, bytes([life.boot]) * 16)
        self.clock.mono_ns = 0 if life.boot > 1 else life.begin * STEP_S * NS_PER_S
        self.post = Post()
        self.box = Box(self.post, town.topic, METER)
        self.box.on_record = self._published
        self.line = SimulatedLine(SimSettings(0))
        store._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if not store.authority():
            found_store(store, town.founding)
        if life.careless == Careless.STORE:
            store._connection.execute("PRAGMA synchronous = OFF")
        tree = CarelessTree if life.careless == Careless.LEDGER else DiskTree
        # One at a time: the calls of a life are numbered.
        ledger = Ledger(tree(ledger_path(folder), at_once=1))
        self.node = Node(store, ledger, town.gateway, Policy("gw"))
        outbox = CarelessDirectory if life.careless == Careless.OUTBOX else DiskDirectory
        self.directories = (
            TellingDirectory(folder / "journal", account, life.careless),
            outbox(folder / "outbox"),
        )
        parts = Parts(
            self.clock,
            lambda: self.line,
            *self.directories,
            town.board,
            town.enrolment,
            self.box,
            lambda _: False,
            lambda _: None,
        )
        self.device = Device(parts, config(), "test 1.0")
        account.tell("kept", self.device._counter.register)

    def run(self) -> None:
        self.perform(self.node.connected(self.clock.now()))
        self.reach(0, 10)  # the gateway waits for what the broker may have kept
        self.gateway_works()
        self.device.begin()
        self.post.connect(self.box)
        for step in range(self.life.steps):
            for seconds, pulses in zip(LOOKS_S, PULSES, strict=True):
                self.reach(step, seconds)
                if pulses:
                    self.account.tell("put", pulses)
                    self.line.put(pulses)
                self.device.work()
                self.gateway_works()
        self.device.work()  # what was acknowledged is let go
        self.device.end()
        for directory in self.directories:
            directory.close()

    def reach(self, step: int, seconds: int) -> None:
        """Lets time pass up to so long after the start of one of this life's steps."""
        start_ms = step_start_ms(FIRST_STEP + self.life.begin + step, STEP_S)
        self.clock.advance(start_ms * NS_PER_MS + seconds * NS_PER_S - self.clock.utc_ns)

    def gateway_works(self) -> None:
        sent, self.post.up = self.post.up, []
        if sent:
            self.perform(self.node.receive(sent, self.clock.now()))
        while effects := self.node.tick(self.clock.now()):
            self.perform(effects)
        self.perform(self.node.answer())

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic=topic, payload=payload, retain=retain):
                    self._said(topic, payload)
                    self.post.publish(topic, payload, retain=retain)
                case Sealed():
                    self.node.published(effect, self.clock.now())

    def _published(self, raw: bytes) -> None:
        record = records.decode(raw)
        assert isinstance(record.body, ChainRecord)
        self.account.tell("record", record.body.sequence, record.identity.hex())

    def _said(self, topic: str, payload: bytes) -> None:
        if "/ack/" in topic:
            body = records.decode(payload).body
            assert isinstance(body, Acknowledgement)
            self.account.tell("acknowledged", body.sequence)
        elif topic.endswith("/checkpoint"):
            checkpoint = self.town.community.open_checkpoint(payload)
            self.account.tell("checkpoint", checkpoint.size, checkpoint.root.hex())


def _entries(data: bytes) -> list[bytes]:
    """The entries of one write into the journal."""
    found = []
    while data:
        end = _FRAME_HEAD_BYTES + int.from_bytes(data[:4], "big")
        found.append(data[_FRAME_HEAD_BYTES:end])
        data = data[end:]
    return found
