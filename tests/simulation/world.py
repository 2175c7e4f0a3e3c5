"""A whole community in one process, from one seed: real devices, a real node, real encoders and
decoders, journal, outbox and ledger; simulated time, disks, lines and broker.

The broker loses, repeats, delays and forgets as it is told; nothing in the product knows.
"""

import os
import random
from collections import deque
from dataclasses import dataclass, field

from cryptometer import audit, records
from cryptometer.authority_records import MeterDetails
from cryptometer.block import Checked
from cryptometer.chain_records import Batch
from cryptometer.community import trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, NS_PER_S, step_start_ms
from firmware.chain import signed_so_far
from firmware.comparing import Second
from firmware.config import Config, read_config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment, read_bundle
from firmware.journal import Journal
from firmware.listening import Spoken
from firmware.outbox import Outbox
from gateway.effects import Confirm, Effect, Publish, Sealed
from gateway.founding import found_store
from gateway.ledger import Ledger
from gateway.memory_store import MemoryStore
from gateway.node import Node, Policy
from gateway.store import Store
from hal.clock import SimulatedClock
from hal.files import SimulatedDirectory, SimulatedTree
from hal.ports import (
    BESIDE_MODULUS,
    Connected,
    Disconnected,
    Guard,
    LineLost,
    Message,
    PulseSource,
    Taken,
)
from hal.sim_line import SimSettings, SimulatedLine
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority
from tests.keys import signer

CONFIG = read_config(
    {
        "source": {"driver": "sim"},
        "batch": {"delay_community_ms": 60_000},
        "journal": {"sync_machine_ms": 5_000, "watch_machine_ms": 30_000},
    }
)
START_NS = step_start_ms(FIRST_STEP + 1, STEP_S) * NS_PER_MS


class Wire:
    """One party's connection to the simulated broker; a `hal.ports.Connection`."""

    def __init__(self, broker: "SimBroker", filters: list[str]) -> None:
        self._broker = broker
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.filters = filters
        self.inbox: deque[Message | Connected | Disconnected] = deque()
        self.is_up = False
        broker.wires.append(self)

    def fileno(self) -> int:
        return self._wake

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:
        return [self.inbox.popleft() for _ in range(min(most, len(self.inbox)))]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if self.is_up:
            self._broker.take(topic, payload, retain=retain)
        return self.is_up

    def confirm(self, token: tuple[int, int]) -> None:
        pass

    def wants(self, topic: str) -> bool:
        """Whether a subscription covers the topic; `+` stands for one level."""
        levels = topic.split("/")
        return any(
            len(one) == len(levels) and all(a in ("+", b) for a, b in zip(one, levels, strict=True))
            for one in (pattern.split("/") for pattern in self.filters)
        )

    def close(self) -> None:
        """The party is gone."""
        self._broker.wires.remove(self)
        os.close(self._wake)


@dataclass
class SimBroker:
    """Delivers, badly where it is told to.

    Attributes:
        lose, repeat: chances of a message to be lost or to come twice.
    """

    random: random.Random
    lose: float = 0.0
    repeat: float = 0.0
    wires: list[Wire] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)

    def connect(self, wire: Wire) -> None:
        wire.is_up = True
        wire.inbox.append(Connected())
        for topic, payload in self.retained.items():
            if wire.wants(topic):
                wire.inbox.append(Message(topic, payload, True, (0, 0)))

    def disconnect(self, wire: Wire) -> None:
        wire.is_up = False
        wire.inbox.append(Disconnected("simulated"))

    def wipe(self) -> None:
        """Forgets everything, and every connection breaks."""
        self.retained.clear()
        for wire in self.wires:
            wire.inbox.clear()
            if wire.is_up:
                self.disconnect(wire)

    def take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if retain:
            self.retained[topic] = payload
        for wire in self.wires:
            if not wire.is_up or not wire.wants(topic) or self.random.random() < self.lose:
                continue
            copies = 2 if self.random.random() < self.repeat else 1
            wire.inbox.extend([Message(topic, payload, False, (0, 0))] * copies)


class Board:
    """A meter with its board: line, disk, clock, and the program while it runs.

    Attributes:
        emitted: pulses the meter gave.
        missed: of them, those it gave while its line was unplugged.
        noise, lost: what the line tells at the next look.
        beside: another counter of the same pulses, which nothing unplugs; None where there is none.
    """

    def __init__(self, world: "World", name: str, key: int, registration: Record) -> None:
        self.world = world
        self.name = name
        self.key = signer(key)
        self.emitted = self.missed = self.noise = self.lost = 0
        self.is_unplugged = False
        self.beside: int | None = None
        self.clock = SimulatedClock(START_NS, bytes([key]) * 16)
        self.journal = SimulatedDirectory()
        self.outbox = SimulatedDirectory()
        self.line = SimulatedLine(SimSettings(0))
        self.updates: list[bytes] = []
        self.log: list[str] = []
        self.wire: Wire | None = None
        self.guard: Guard | None = None
        self.spoken: Spoken | None = None
        self.second: Second | None = None
        self.config: Config | None = None  # another one than all boards have
        self.device: Device | None = None
        bundle = Bundle(
            name,
            world.authority.genesis.raw,
            (world.gateway_registration.raw, registration.raw),
            Broker("mqtt://127.0.0.1:1883"),
        )
        self.bundle = records.seal(bundle, world.id, world.authority.signer).raw

    @property
    def device_register(self) -> int:
        """Pulses as the program counts them; when it is down, as its disk does."""
        return self.kept_register if self.device is None else self.device._counter.register

    @property
    def kept_register(self) -> int:
        """Pulses that the disk holds, in the journal or signed."""
        end = Outbox(self.outbox, limit_bytes=0, window=1).peek()
        signed = 0 if end is None else signed_so_far(end).register
        return max(Journal(self.journal).peek(), signed)

    def enrolment(self) -> Enrolment:
        update = self.updates[-1] if self.updates else None
        return read_bundle(self.bundle, update, self.key.public)

    def start(self) -> None:
        """Starts the program."""
        topic = self.world.topic
        own = f"{topic}/meter/{self.name}"
        filters = [f"{own}/ack/+", f"{own}/registration", f"{topic}/checkpoint"]
        self.wire = Wire(self.world.broker, filters)
        parts = Parts(
            self.clock,
            self.open_line,
            self.journal,
            self.outbox,
            self.key,
            self.enrolment(),
            self.wire,
            self.hear_registration,
            self.log.append,
            self.guard,
            self.spoken,
            self.second,
        )
        self.device = Device(parts, self.config or CONFIG, "simulated 1.0")
        self.device.begin()
        self.world.broker.connect(self.wire)

    def open_line(self) -> PulseSource:
        if self.is_unplugged:
            raise LineLost("unplugged")
        return _Lent(self)

    def hear_registration(self, update: bytes) -> bool:
        before = {record.identity for record in self.enrolment().community.records}
        fresh = read_bundle(self.bundle, update, self.key.public)
        if {record.identity for record in fresh.community.records} <= before:
            return False
        self.updates.append(update)
        return True

    def give(self, pulses: int) -> None:
        """The meter gives pulses."""
        self.emitted += pulses
        if self.beside is not None:
            self.beside = (self.beside + pulses) % BESIDE_MODULUS
        if self.is_unplugged:
            self.missed += pulses
        elif pulses:
            self.line.put(pulses)

    def work(self) -> None:
        if self.device is not None:
            self.device.work()
            if self.device.wants_restart:
                self.stop()
                self.start()

    def stop(self) -> None:
        """An orderly end."""
        assert self.device is not None
        self.device.end()
        self.kill()

    def kill(self) -> None:
        """The program dies; what the kernel holds stays."""
        if self.wire is not None:
            self.wire.close()
        self.wire = self.device = None

    def cut_power(self, torn_bytes: int = 0) -> None:
        """The machine stops: what was not synced is lost, and a new boot begins."""
        self.kill()
        self.journal.cut_power(torn_bytes)
        self.outbox.cut_power(torn_bytes)
        self.clock.boot_id = bytes([self.clock.boot_id[0] + 1]) * 16
        self.clock.mono_ns = 0


class _Lent:
    """A line that outlives the programs that open it, and may be unplugged."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.latency_ns = board.line.latency_ns
        self.capacity = board.line.capacity

    def fileno(self) -> int:
        return self._board.line.fileno()

    def take(self) -> Taken:
        board = self._board
        if board.is_unplugged:
            raise LineLost("unplugged")
        pulses = board.line.take().pulses
        taken = Taken(pulses, (), board.noise, board.lost, beside=board.beside)
        board.noise = board.lost = 0
        return taken

    def close(self) -> None:
        pass


class World:
    """The community, its gateway and its boards."""

    def __init__(
        self,
        seed: int,
        boards: int = 2,
        meters_from: int = FIRST_STEP,
        details: MeterDetails = DETAILS,
    ) -> None:
        self.random = random.Random(seed)
        self.authority = Authority(signer(1))
        self.id = self.authority.genesis.identity
        self.topic = f"cryptometer/1/{self.id.hex()}"
        self.gateway_key = signer(2)
        self.broker = SimBroker(random.Random(seed + 1))
        self.clock = SimulatedClock(START_NS)
        self.store: Store = MemoryStore(1)
        self.tree = SimulatedTree()
        self.gateway_registration = self.authority.register(
            Role.GATEWAY, "gw", self.gateway_key.public
        )
        registered = [self.authority.genesis, self.gateway_registration]
        self.boards: list[Board] = []
        for number in range(boards):
            name, key = f"m{number}", 10 + number
            record = self.authority.register(
                Role.METER, name, signer(key).public, details, meters_from
            )
            registered.append(record)
            self.boards.append(Board(self, name, key, record))
        found_store(self.store, [record.raw for record in registered])
        self.node: Node | None = None
        self.wire: Wire | None = None
        self.start_gateway()

    def start_gateway(self) -> None:
        self.node = Node(self.store, Ledger(self.tree), self.gateway_key, Policy("gw"))
        filters = [f"{self.topic}/meter/+/record", f"{self.topic}/checkpoint"]
        self.wire = Wire(self.broker, filters)
        self.broker.connect(self.wire)

    def stop_gateway(self) -> None:
        assert self.wire is not None
        self.wire.close()
        self.node = self.wire = None

    def close(self) -> None:
        """Ends everything; nothing is left open."""
        for board in self.boards:
            board.kill()
            board.line.close()
        if self.wire is not None:
            self.stop_gateway()

    def run(self, seconds: float, tick_s: float = 1.0, pulses: float = 0.3) -> None:
        """Lets community time pass; each board's meter gives `pulses` a second on average."""
        for _ in range(int(seconds / tick_s)):
            for board in self.boards:
                board.give(self._draw(pulses * tick_s))
            self.pass_time(tick_s)

    def pass_time(self, tick_s: float) -> None:
        for clock in [self.clock, *(board.clock for board in self.boards)]:
            clock.advance(int(tick_s * NS_PER_S))
        for board in self.boards:
            board.work()
        self.gateway_work()

    def gateway_work(self) -> None:
        if self.node is None or self.wire is None:
            return
        now = self.clock.now()
        messages = []
        for event in self.wire.drain(10_000):
            if isinstance(event, Message):
                messages.append(event)
            elif isinstance(event, Connected):
                self._perform(self.node.connected(now))
        if messages:
            self._perform(self.node.receive(messages, now))
        while effects := self.node.tick(now):
            self._perform(effects)
        self._perform(self.node.answer())

    def audit(self, watch: audit.Watch = lambda _: None) -> audit.Report:
        """Audits the ledger's files as an outsider would."""
        community = trust(self.authority.genesis.raw, [self.gateway_registration.raw])
        return audit.audit(self.tree.read, community, watch=watch)

    def in_blocks(self, name: str) -> int:
        """Pulses of a meter in blocks, summed from the ledger's leaves."""
        total = 0

        def watch(checked: Checked) -> None:
            nonlocal total
            for verdict in checked.verdicts:
                body = verdict.record.body
                if isinstance(body, Batch) and body.meter == name:
                    total += sum(body.pulses)

        self.audit(watch)
        return total

    def _draw(self, mean: float) -> int:
        whole = int(mean)
        return whole + (self.random.random() < mean - whole)

    def _perform(self, effects: list[Effect]) -> None:
        assert self.wire is not None
        assert self.node is not None
        for effect in effects:
            match effect:
                case Publish(topic=topic, payload=payload, retain=retain):
                    self.wire.publish(topic, payload, retain=retain)
                case Confirm(token=token):
                    self.wire.confirm(token)
                case Sealed():
                    self.node.published(effect, self.clock.now())
