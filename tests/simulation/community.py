"""A community on simulated machines: boards with their meters, a broker, a gateway, an authority.
The programs are the real ones; this module starts them, wakes them, and lets them end as their
shells would. What must hold of it all is told in `promises`, what happens to it in `chaos`.
"""

import errno
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import groupby
from typing import TypeAlias

from cryptometer import records
from cryptometer.acknowledgement import Stop
from cryptometer.authority_records import ChainPlace, ReAnchor, Revocation
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community, trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Method
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState, step_of, step_start_ms
from firmware.config import Config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment, read_bundle
from gateway.effects import Confirm, Effect, Publish, Sealed
from gateway.filing import meter_of
from gateway.founding import found_store
from gateway.ledger import Ledger
from gateway.node import Node, Policy
from gateway.store import StoreFailed
from gateway.vpp import Vpp
from hal.ports import Connected, Disconnected, LineLost, Message, PulseSource, Taken
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority
from tests.keys import signer
from tests.simulation.dropped import Dropped
from tests.simulation.machines import (
    WIRE_FD,
    Card,
    Died,
    FailingMemory,
    FailingSqlite,
    Fault,
    Line,
    Machine,
    MachineClock,
    Shelf,
)
from tests.simulation.sharing import FOUNDERS, MEMBERS, Books

STEP_NS = STEP_S * NS_PER_S
START_NS = step_start_ms(FIRST_STEP + 1, STEP_S) * NS_PER_MS
JUMP_NS = 200 * NS_PER_MS  # a correction beyond it is no discipline: what is near it is doubtful
LIE_NS = STEP_NS  # a clock may be wrong by so much and say that it is synchronised
SUCCESSORS = 1_000  # keys that follow others are numbered from here
MEMBER_KEYS = 200  # those of members
ROUND = 1_000  # messages the gateway judges at once
AnyStore: TypeAlias = FailingMemory | FailingSqlite


class Broken(AssertionError):  # noqa: N818 - what it says is a sentence about a promise
    """A promise of DESIGN section 2 does not hold."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"promise {promise}: {what}")
        self.promise = promise


def true_step(at_ns: int) -> int:
    return step_of(at_ns // NS_PER_MS, STEP_S)


class Wire:
    """One party's connection to the broker; a `hal.ports.Connection`."""

    def __init__(self, post: "Post", machine: Machine, exact: set[str], level: str) -> None:
        """
        Args:
            exact: topics subscribed to.
            level: the beginning of topics of which one more level is subscribed to, or "meters"
                for the records of all meters.
        """
        self._post = post
        self._machine = machine
        self._exact = exact
        self._level = level
        self.inbox: deque[Message | Connected | Disconnected] = deque()
        self.is_up = False
        post.wires.append(self)

    def fileno(self) -> int:
        return WIRE_FD

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:
        return [self.inbox.popleft() for _ in range(min(most, len(self.inbox)))]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        fault = self._machine.passing()
        if self.is_up:
            self._post.take(topic, payload, retain=retain)
        if fault is Fault.DIES_AFTER:
            raise Died
        return self.is_up

    def confirm(self, token: tuple[int, int]) -> None:
        pass

    def wants(self, topic: str) -> bool:
        if topic in self._exact:
            return True
        if self._level == "meters":
            return topic.endswith("/record")
        return topic.startswith(self._level)

    def close(self) -> None:
        self._post.wires.remove(self)
        self.is_up = False


@dataclass
class Post:
    """A broker that is trusted with nothing but delivery, and hardly with that.

    Attributes:
        lose, repeat: chances of a message.
        delay_s: the longest way; each message draws its own, so that they overtake each other.
    """

    draw: random.Random
    now_ns: int = START_NS
    lose: float = 0.0
    repeat: float = 0.0
    delay_s: float = 0.0
    wires: list[Wire] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    heard: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=400))
    on_way: list[tuple[int, int, Wire, Message]] = field(default_factory=list)
    count: int = 0

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
        self.on_way.clear()
        for wire in self.wires:
            wire.inbox.clear()
            if wire.is_up:
                self.disconnect(wire)

    def take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.heard.append((topic, payload))
        if retain:
            self.retained[topic] = payload
        for wire in self.wires:
            if not wire.is_up or not wire.wants(topic) or self.draw.random() < self.lose:
                continue
            message = Message(topic, payload, False, (0, 0))
            for _ in range(2 if self.draw.random() < self.repeat else 1):
                late_ns = int(self.draw.random() * self.delay_s * NS_PER_S)
                self.count += 1
                heappush(self.on_way, (self.now_ns + late_ns, self.count, wire, message))

    def deliver(self, now_ns: int) -> None:
        self.now_ns = now_ns
        while self.on_way and self.on_way[0][0] <= now_ns:
            _, _, wire, message = heappop(self.on_way)
            if wire.is_up:
                wire.inbox.append(message)


@dataclass(slots=True)
class Run:
    """A time in which a board watched its line: true times, ns."""

    boot: bytes
    open_ns: int
    look_ns: int
    before: "Run | None"
    is_durable: bool = False


@dataclass
class Truth:
    """What really happened at a meter: seen from its hardware, never from its program.

    Attributes:
        in_hand: taken from the line by a read whose journal write has not returned.
        unsure: what was in hand when a program died.
        given: pulses whose journal write has returned.
        durable: of them, those that a sync interval has passed over.
        takes: register after each take, its true time, its boot.
        dated_ns: when a boot's time came to be known.
        dated: boots of which it is known durably.
        doubtful: steps in which its clock lied while it said it was synchronised, or was set right.
        lost: pulses that died with data nobody had synced.
        noise, swallowed: what its line declared.
        has_lost_marks: of that, something died unsynced, or in a read in progress.
    """

    in_hand: int = 0
    unsure: int = 0
    given: int = 0
    durable: int = 0
    lost: int = 0
    noise: int = 0
    swallowed: int = 0
    has_marks_in_hand: bool = False
    has_lost_marks: bool = False
    takes: list[tuple[int, int, bytes]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dated_ns: dict[bytes, int] = field(default_factory=dict)
    dated: set[bytes] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)


class Board:
    """A meter with its board: line, card, clock, and the program while it runs."""

    def __init__(
        self, site: "Site", name: str, key: int, registration: Record, config: Config
    ) -> None:
        self.site = site
        self.name = name
        self.key = signer(key)
        self.successor: Signer | None = None  # waits for its registration
        self.former: list[PublicKey] = []
        self.config = config
        self.registration = registration
        self.machine = Machine(site.draw)
        self.clock = MachineClock(site.now_ns, site.draw.randint(-100, 100), bytes([key, 0]) * 8)
        self.line = Line()
        self.line.on_take = self._taken
        self.journal = Card(self.machine, self._given)
        self.outbox = Card(self.machine)
        self.truth = Truth()
        self.updates: list[bytes] = []
        self.wire: Wire | None = None
        self.device: Device | None = None
        self.is_misled = False  # its program may go by a clock that lied, or was set right
        self.misled_boot = b""  # the newest boot in which it did
        self.is_revoked = False
        self.dropped = Dropped()
        self.acknowledged = (0, 0)  # epoch and sequence
        bundle = Bundle(
            name,
            site.authority.genesis.raw,
            (site.gateway_registration.raw, registration.raw),
            Broker("mqtt://127.0.0.1:1883"),
        )
        self.bundle = records.seal(bundle, site.id, site.authority.signer).raw
        self._enrolled: tuple[int, Enrolment] | None = None

    # --- The program. ---

    def enrolment(self) -> Enrolment:
        if self._enrolled is None or self._enrolled[0] != len(self.updates):
            update = self.updates[-1] if self.updates else None
            self._enrolled = (len(self.updates), self._read(update))
        return self._enrolled[1]

    def _read(self, update: bytes | None) -> Enrolment:
        return read_bundle(self.bundle, update, self.key.public, self.former)

    def settle_successor(self) -> None:
        """As the program does at its start: the successor's key takes over once the authority's
        newest registration names it."""
        update = self.updates[-1] if self.updates else None
        if self.successor is None or update is None:
            return
        former = [*self.former, self.key.public]
        try:
            read = read_bundle(self.bundle, update, self.successor.public, former)
        except Rejected:
            return
        if read.beginning == read.registration:
            self.site.say(f"{self.name}: the successor's key takes over")
            self.key, self.former, self.successor = self.successor, former, None
            self._enrolled = None

    def start(self) -> None:
        """Starts the program; a fault of the machine may end it at once."""
        self.clock.move_to(self.site.now_ns)
        self.settle_successor()
        topic = self.site.topic
        own = f"{topic}/meter/{self.name}"
        exact = {f"{own}/registration", f"{topic}/checkpoint"}
        self.wire = Wire(self.site.post, self.machine, exact, f"{own}/ack/")
        parts = Parts(
            self.clock,
            self._open_line,
            self.journal,
            self.outbox,
            self.key,
            self.enrolment(),
            self.wire,
            self._hear_registration,
            lambda said: self.site.say(f"{self.name} says: {said}"),
        )
        try:
            device = Device(parts, self.config, "simulated 1.0")
            self._check_recovered(device)
            self.device = device
            device.begin()
        except (OSError, Died) as fault:
            self._fall(fault)
            return
        self._note_look()
        self.site.post.connect(self.wire)
        self._watch_program()

    def work(self) -> None:
        """One turn of the program."""
        self.clock.move_to(self.site.now_ns)
        device = self.device
        if device is None:
            return
        try:
            device.work()
        except (OSError, Died) as fault:
            self._fall(fault)
            return
        self._note_look()
        self._note_durable()
        self._watch_program()
        if device.wants_restart:
            self.stop()
            if self.device is None and self.wire is None:
                self.start()

    def stop(self) -> None:
        """An orderly end."""
        self.clock.move_to(self.site.now_ns)
        if self.device is None:
            return
        try:
            self._note_look()
            self.device.end()
        except (OSError, Died) as fault:
            self._fall(fault)
            return
        self._gone()

    def kill(self) -> None:
        """The program dies; what the kernel holds stays."""
        self._gone()

    def cut_power(self) -> None:
        """The machine stops: what was not synced is lost, and a new boot begins."""
        self.clock.move_to(self.site.now_ns)
        self._gone()
        self.journal.lose()
        self.outbox.lose()
        self.line.waiting = self.line.noise = self.line.lost = 0
        days = self.site.draw.choice((0, 0, 3, 40))
        self.clock.boot(0 if not days and self.site.draw.random() < 0.5 else self._off(days))

    def _off(self, days: int) -> int:
        return self.site.now_ns + days * 96 * STEP_NS

    def _fall(self, fault: BaseException) -> None:
        """A fault of the machine, or a kill, ended the program."""
        self.site.say(f"{self.name} ends: {str(fault) or self.machine.sprung}")
        is_full = isinstance(fault, OSError) and fault.errno == errno.ENOSPC
        if not is_full and self.machine.take_sprung() is None:
            raise Broken("H", f"{self.name} ended, and nothing had failed: {fault}")
        was_misled = self.is_misled
        self._note_look()  # it may have looked, and journalled, before it fell
        self.is_misled = was_misled  # or not journalled that its clock has come right
        self._gone()

    def _gone(self) -> None:
        if self.wire is not None:
            self.wire.close()
        self.wire = self.device = None
        self.truth.unsure += self.truth.in_hand
        self.truth.in_hand = 0
        self.truth.has_lost_marks |= self.truth.has_marks_in_hand
        self.truth.has_marks_in_hand = False

    # --- The truth. ---

    def give(self, pulses: int) -> None:
        """The meter gives pulses."""
        if not self.line.is_unplugged:
            self.line.waiting += pulses

    def set_clock(self, lie_ns: int = 0) -> None:
        """A time source answers, truly or not."""
        self.clock.move_to(self.site.now_ns)
        lied = bool(self.clock.lie_ns or lie_ns)
        self.is_misled |= abs(self.clock.synchronise(lie_ns)) > JUMP_NS or lied
        if self.is_misled:
            self.misled_boot = self.clock.boot_id

    def _doubt(self) -> None:
        """What its program dates about now is as wrong as the clock was. It goes on so until the
        program has looked at a clock that is right."""
        truth, now_ns = self.truth, self.site.now_ns
        since_ns = now_ns
        if self.clock.boot_id not in truth.dated:  # what waits of this boot is dated by it, too
            since_ns = min(
                (run.open_ns for run in truth.runs if run.boot == self.clock.boot_id),
                default=now_ns,
            )
        steps = range(true_step(since_ns - LIE_NS) - 1, true_step(now_ns + LIE_NS) + 2)
        truth.doubtful.update(steps)
        is_right = self.clock.state is ClockState.SYNCHRONISED and not self.clock.lie_ns
        if is_right and self.device is not None and self.device._watching.is_on:
            self.is_misled = False

    def _open_line(self) -> PulseSource:
        if self.line.is_unplugged:
            raise LineLost("unplugged")
        runs, now_ns = self.truth.runs, self.site.now_ns
        runs.append(Run(self.clock.boot_id, now_ns, now_ns, runs[-1] if runs else None))
        return self.line

    def _taken(self, taken: Taken) -> None:
        self.truth.in_hand += taken.pulses
        self.truth.noise += taken.noise
        self.truth.swallowed += taken.lost
        self.truth.has_marks_in_hand |= bool(taken.noise or taken.lost)

    def _given(self) -> None:
        truth = self.truth
        truth.has_marks_in_hand = False
        if truth.in_hand:
            truth.given += truth.in_hand
            truth.in_hand = 0
            truth.takes.append((truth.given, self.site.now_ns, self.clock.boot_id))

    def _note_look(self) -> None:
        device, runs = self.device, self.truth.runs
        if device is not None and device._watching.is_on and not self.line.is_unplugged:
            runs[-1].look_ns = self.site.now_ns
        if self.is_misled:
            self._doubt()

    def _note_durable(self) -> None:
        """A turn of the program makes durable what was given a sync interval before it."""
        truth, now_ns = self.truth, self.site.now_ns
        # In true time: a crystal that is slow makes a longer interval.
        interval_ns = self.config.journal.sync_machine_ms * NS_PER_MS * 1001 // 1000
        for register, taken_ns, _ in reversed(truth.takes):
            if taken_ns <= now_ns - interval_ns:
                truth.durable = max(truth.durable, register)
                break
        # A clock that is far ahead is not believed at once: that is the program's to say.
        known = self.device is not None and self.device._counter.dating is not None
        if known and self.clock.state is ClockState.SYNCHRONISED and not self.line.is_unplugged:
            since_ns = truth.dated_ns.setdefault(self.clock.boot_id, now_ns)
            if since_ns <= now_ns - interval_ns:
                truth.dated.add(self.clock.boot_id)
        if truth.runs and truth.runs[-1].open_ns <= now_ns - interval_ns:
            truth.runs[-1].is_durable = True

    def _check_recovered(self, device: Device) -> None:
        """Promise C, at every start."""
        truth, register = self.truth, device._counter.register
        lost_data = self.journal.has_lost or self.outbox.has_lost
        low = truth.durable if lost_data else truth.given
        high = truth.given + truth.unsure
        if not low <= register <= high:
            raise Broken(
                "C",
                f"{self.name} begins with {register} pulses; {low} to {high} were given"
                f" ({'data was lost' if lost_data else 'killed'})",
            )
        truth.lost += high - register
        truth.has_lost_marks |= lost_data
        # What told it that its clock had come right may be lost, too.
        self.is_misled |= lost_data and self.misled_boot == self.clock.boot_id
        self.journal.has_lost = self.outbox.has_lost = False
        while truth.takes and truth.takes[-1][0] > register:
            _, at_ns, boot = truth.takes.pop()
            before = truth.takes[-1][0] if truth.takes else 0
            if before < register:
                truth.takes.append((register, at_ns, boot))
        if register > (truth.takes[-1][0] if truth.takes else 0):
            truth.takes.append((register, self.site.now_ns, b""))  # the read in progress
        truth.given, truth.unsure = register, 0

    def _watch_program(self) -> None:
        """What must hold of the program after each of its turns."""
        device = self.device
        if device is None:
            return
        given = self.truth.given
        if device._counter.register != given:
            counted = device._counter.register
            raise Broken("A", f"{self.name} counts {counted} pulses, and {given} were given")
        end = device._outbox.end
        if end is None:
            return
        if end.register - end.offset > given:
            raise Broken("A", f"{self.name} has signed pulses that were never given")
        stop = device._outbox.stop
        if stop is not None and not self._is_rightly_stopped(stop):
            raise Broken("D", f"{self.name} was stopped: {stop.reason} at {stop.sequence}")
        word = (end.epoch, end.acknowledged)
        # A word of an earlier epoch may come late, before any of the newer one: it is believed.
        if word > self.acknowledged and end.epoch == self.site.store.epoch and end.acknowledged:
            self.acknowledged = word
            kept = self.site.store.identity_at(self.name, end.acknowledged - 1)
            if kept is None:
                raise Broken(
                    "D", f"{self.name} was told {end.acknowledged} are durable, and none is stored"
                )

    def _is_rightly_stopped(self, stop: Stop) -> bool:
        """By a revocation, or where the gateway has dropped what the card has let go of."""
        if stop.reason is Reason.GAP:
            return any(
                isinstance(one.body, ChainRecord)
                and one.body.sequence == stop.sequence
                and not self.keeps(one)
                for one in self.dropped.records
            )
        return stop.reason is Reason.REVOKED and self.name in self.site.revoked

    @property
    def is_in_gap(self) -> bool:
        """Whether its operator reads that the authority has to re-anchor its chain."""
        stop = None if self.device is None else self.device._outbox.stop
        return stop is not None and (stop.reason is Reason.GAP or self.is_overtaken)

    @property
    def is_overtaken(self) -> bool:
        """Whether what waits is signed by a key that was revoked and followed by another, behind
        every re-anchor that it has heard of."""
        outbox = None if self.device is None else self.device._outbox
        if outbox is None or outbox.stop is None or outbox.end is None or self.is_revoked:
            return False
        first = outbox.first_kept(outbox.stop.sequence)
        return (
            outbox.stop.reason is Reason.REVOKED
            and first is not None
            and first.key_id in {key.thumbprint for key in self.former}
            and outbox.end.anchors == len(self.enrolment().anchors)
        )

    def keeps(self, record: Record) -> bool:
        """Whether a record stands on its card."""
        return any(record.raw in self.outbox.read(name) for name in self.outbox.names())

    def _hear_registration(self, update: bytes) -> bool:
        if self.updates and update == self.updates[-1]:
            return False  # read once already: the enrolment is made of it
        before = {record.identity for record in self.enrolment().community.records}
        fresh = self._read(update)
        if {record.identity for record in fresh.community.records} <= before:
            return False
        self.updates.append(update)
        return True


class Site:
    """The whole community and its one gateway."""

    def __init__(
        self,
        draw: random.Random,
        store: AnyStore,
        configs: Sequence[Config],
        say: Callable[[str], None],
        books: Books,
    ) -> None:
        """`configs`: of each board there is at first."""
        self.draw = draw
        self.say = say
        self.books = books
        self.now_ns = START_NS
        self.authority = Authority(signer(1))
        self._keys = SUCCESSORS
        self.id = self.authority.genesis.identity
        self.topic = f"cryptometer/1/{self.id.hex()}"
        self.gateway_key = signer(2)
        self.post = Post(draw)
        self.machine = Machine(draw)
        self.clock = MachineClock(START_NS, draw.randint(-100, 100))
        self.store = store
        store.machine = self.machine
        store.on_drop = self._dropped
        self.shelf = Shelf(self.machine)
        self.gateway_registration = self.authority.register(
            Role.GATEWAY, "gw", self.gateway_key.public
        )
        self.registrations: list[Record] = []  # of meters
        self.members: set[str] = set()  # that are registered
        self.orders: list[Record] = []  # of the authority, which the gateway has not imported yet
        self.boards: list[Board] = []
        self.limits: dict[bytes, int] = {}  # pulses of a lot, by registration
        self.revoked: set[str] = set()  # meters that are or were
        self.anchors: dict[str, Record] = {}  # the newest re-anchor of each meter that has one
        self.anchored: set[bytes] = set()  # all of them, by identity
        self.vpp_key = signer(3)
        self.vpp_registration = self.authority.register(Role.VPP, "vpp", self.vpp_key.public)
        founding = [self.authority.genesis, self.gateway_registration, self.vpp_registration]
        founding += [self._register_member(name) for name in MEMBERS[:FOUNDERS]]
        founding += [self.register(config).registration for config in configs]
        founding.append(self.authority.agree(FIRST_STEP + 1, MEMBERS[:FOUNDERS], Method.PRO_RATA))
        self.orders.clear()
        found_store(store, [record.raw for record in founding])
        self.node: Node | None = None
        self.wire: Wire | None = None
        self.start_gateway()

    def board(self, name: str) -> Board:
        return self.boards[int(name[1:])]

    # --- The authority. ---

    def register(self, config: Config) -> Board:
        """The authority registers a meter, whose board stands ready."""
        number = len(self.boards)
        name, key = f"m{number}", 10 + number
        pulses = self.draw.choice((3, 5, DETAILS.lot_pulses))
        details = replace(DETAILS, lot_pulses=pulses)
        record = self.authority.register(Role.METER, name, signer(key).public, details)
        board = Board(self, name, key, record, config)
        self.boards.append(board)
        self._order(record, pulses)
        return board

    def _order(self, registration: Record, lot_pulses: int) -> None:
        self.registrations.append(registration)
        self.limits[registration.identity] = lot_pulses
        self.orders.append(registration)

    def _register_member(self, name: str) -> Record:
        self.members.add(name)
        return self.authority.register(
            Role.MEMBER, name, signer(MEMBER_KEYS + MEMBERS.index(name)).public
        )

    def agree(self, from_step: int) -> None:
        """Another agreement, from a step on; whoever joins by it is registered with it."""
        terms = self.books.terms()
        joining = {one.member for one in terms["claims"]} - self.members
        self.orders += [self._register_member(name) for name in sorted(joining)]
        self.orders.append(self.authority.agree(from_step, **terms))

    def register_again(self, board: Board, from_step: int) -> None:
        """A larger V for a meter, from a step on; a meter that was revoked is in again. A smaller
        one would quarantine what a board counted before it heard of it, and rightly so."""
        details = DETAILS
        key = board.successor or board.key
        record = self.authority.register(Role.METER, board.name, key.public, details, from_step)
        self._order(record, details.lot_pulses)
        board.is_revoked = False

    def registered(self) -> Community:
        """Whom the authority has registered, and with which keys."""
        raws = [record.raw for record in self.registrations]
        return trust(self.authority.genesis.raw, [self.gateway_registration.raw, *raws])

    def change_key(self, board: Board, from_step: int) -> None:
        """A board makes the key that is to follow, and the authority registers it."""
        if board.successor is None:
            self._keys += 1
            board.successor = signer(self._keys)
        self.register_again(board, from_step)

    def revoke(self, board: Board) -> bool:
        """Takes a meter out from where its chain stands in blocks. What the gateway has taken in
        behind that place it drops; the board sends it again, and is heard once it is back."""
        known = None if self.node is None else self.node.state.meters.get(board.name)
        if known is None:
            return False
        head = known.head
        place = ChainPlace(head.sequence - 1, head.previous) if head.sequence else None
        chain = (self.authority.next, self.authority.previous)
        self.orders.append(
            self.authority.sign(Revocation(*chain, Role.METER, board.name, "on leave", place))
        )
        self.revoked.add(board.name)
        return True

    def re_anchor(self, board: Board) -> None:
        """Lets a chain that is in a gap go on from where it stands in blocks, once for each gap."""
        if self.node is None:
            return
        head, newest = self.node.state.meters[board.name].head, self.anchors.get(board.name)
        if newest is not None:
            assert isinstance(newest.body, ReAnchor)
            is_acting = newest.body.sequence < self.node.state.authority.sequence
            has_dropped_since = any(
                isinstance(one.body, ChainRecord) and one.body.previous == newest.identity
                for one in board.dropped.records
            )
            heard = {one.identity for one in board.enrolment().anchors}
            is_settled = head.previous == newest.identity and not has_dropped_since
            if board.is_overtaken:
                is_settled = newest.identity not in heard
            if not is_acting or is_settled:
                return
        anchor = self.authority.re_anchor(board.name, head.sequence, head.register or 0)
        self.anchors[board.name] = anchor
        self.anchored.add(anchor.identity)
        self.orders.append(anchor)

    # --- The gateway. ---

    def _dropped(self, dropped: Sequence[Record]) -> None:
        """Its store is told to forget what it had acknowledged."""
        blocks = self.store.blocks(1) if dropped else []
        newest = blocks[0].step if blocks else 0
        for name, run in groupby(dropped, key=meter_of):
            self.board(name).dropped.drop(list(run), newest)

    def start_gateway(self) -> None:
        self.clock.move_to(self.now_ns)
        try:
            vpp = Vpp(self.vpp_key, self.books)
            ledger = Ledger(self.shelf)
            self.node = Node(self.store, ledger, self.gateway_key, Policy("gw"), vpp=vpp)
        except (OSError, StoreFailed, Died) as fault:
            self._gateway_falls(fault)
            return
        self.wire = Wire(self.post, self.machine, {f"{self.topic}/checkpoint"}, "meters")
        self.post.connect(self.wire)

    def stop_gateway(self) -> None:
        if self.wire is not None:
            self.wire.close()
        self.node = self.wire = None

    def gateway_work(self) -> None:
        """One turn of the gateway's program."""
        self.clock.move_to(self.now_ns)
        if self.node is None or self.wire is None:
            return
        try:
            self._gateway_turn(self.node, self.wire)
        except (OSError, StoreFailed, Died) as fault:
            self._gateway_falls(fault)

    def _gateway_falls(self, fault: BaseException) -> None:
        self.say(f"the gateway ends: {str(fault) or self.machine.sprung}")
        if self.machine.take_sprung() is None:
            raise Broken("H", f"the gateway ended, and nothing had failed: {fault}")
        self.stop_gateway()

    def restore_store(self) -> None:
        """The gateway's machine is lost. A backup, brought forward from the published files, has
        all blocks, and nothing of what waited for the next one; it begins a new epoch."""
        self.stop_gateway()
        self.store.forget_pending()
        self.start_gateway()

    def _gateway_turn(self, node: Node, wire: Wire) -> None:
        now = self.clock.now()
        if self.orders:
            node.take_authority([record.raw for record in self.orders])
            self.orders.clear()
        messages: list[Message] = []
        for event in wire.drain(ROUND):
            if isinstance(event, Message):
                messages.append(event)
            elif isinstance(event, Connected):
                self._perform(node, wire, node.connected(now))
        if messages:
            self._perform(node, wire, node.receive(messages, now))
        while effects := node.tick(now):
            self._perform(node, wire, effects)
        self._perform(node, wire, node.answer())

    def _perform(self, node: Node, wire: Wire, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic=topic, payload=payload, retain=retain):
                    wire.publish(topic, payload, retain=retain)
                case Confirm(token=token):
                    wire.confirm(token)
                case Sealed():
                    node.published(effect, self.clock.now())
