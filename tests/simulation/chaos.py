"""A community's worst days from one seed. Time passes from event to event; after each of them the
promises are checked. The same seed gives the same days, the same bytes.

    python -m tests.simulation.chaos --seed 17         lives through it and says what happens
    python -m tests.simulation.chaos --seeds 0:10000   many, on all cores; names those that fail
"""

import argparse
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.chain_records import Mark
from cryptometer.errors import Rejected
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution, Input, Output, Part
from cryptometer.steps import NS_PER_S, ClockState
from firmware import journal, outbox
from firmware.config import Config, read_config
from firmware.device import Device
from gateway.behind import Behind
from gateway.sqlite_file import create_store
from hal.ports import Message
from tests.core.community import FIRST_STEP
from tests.keys import signer
from tests.simulation.community import (
    LIE_NS,
    START_NS,
    STEP_NS,
    AnyStore,
    Board,
    Broken,
    Site,
    true_step,
)
from tests.simulation.machines import FailingMemory, FailingSqlite, Fault, Machine
from tests.simulation.memory import remembering
from tests.simulation.promises import PASSING, Ledgerwatch
from tests.simulation.sharing import Books

STEPS = 100
QUIET_STEPS = 12  # at most, until everything has arrived
QUIET_TURNS = 100  # of all programs in such a step, at most
SQLITE_EVERY = 20  # such a share of the seeds runs on the real store
SHARES = 3  # of members, proven in the end
LAST = 10_000  # in the order of what happens at one moment
BOARDS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 6)
# Files of the size of a day, so that segments begin and go within a seed.
SEGMENTS = ((journal, 1_500), (outbox, 12_000))


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        given: pulses of each meter whose journal write returned, those lost in power cuts taken
            off; all of them are in blocks.
        lost: pulses that died unsynced.
        faults: how often each fault was made.
        digest: SHA-256 over the published files.
    """

    seed: int
    given: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    blocks: int = 0
    leaves: int = 0
    late: int = 0
    digest: str = ""

    def __str__(self) -> str:
        meters = ", ".join(
            f"{name} {given} (lost {self.lost[name]})" for name, given in self.given.items()
        )
        return (
            f"seed {self.seed}: {self.blocks} blocks, {self.leaves} leaves, {self.late} late,"
            f" {self.faults.total()} faults; {meters}"
        )


def run(
    seed: int,
    steps: int = STEPS,
    say: Callable[[str], None] | None = None,
    *,
    rate: float | None = None,
) -> Outcome:
    """Lives through `steps` market steps of faults, then rests.

    Args:
        rate: faults in a step; drawn where it is not given.

    Raises:
        Broken: a promise did not hold; the message names it.
    """
    with ExitStack() as stack:
        stack.enter_context(remembering())
        for module, size in SEGMENTS:
            stack.enter_context(patch.object(module, "SEGMENT_BYTES", size))
        try:
            days = Days(seed, _open_store(seed, stack), say)
            days.rate = days.rate if rate is None else rate
            for number in range(steps):
                days.step(number)
            days.rest(steps)
        except Broken:
            raise
        except Behind as behind:
            raise Broken(
                "E", f"the gateway believes itself behind its ledger: {behind}"
            ) from behind
        except Exception as error:
            raise Broken("H", f"a program broke: {type(error).__name__}: {error}") from error
        return days.outcome()


def _open_store(seed: int, stack: ExitStack) -> AnyStore:
    if seed % SQLITE_EVERY:
        return FailingMemory(1)
    path = Path(stack.enter_context(TemporaryDirectory(dir=_folder()))) / "store.db"
    create_store(path, 1)
    store = FailingSqlite(path)
    stack.callback(store.close)
    return store


def _folder() -> str | None:
    """Where files cost no disk: no power cut of this machine is part of the simulation."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


class Days:
    """The days of one seed: what happens is drawn, what must hold is checked."""

    def __init__(self, seed: int, store: AnyStore, say: Callable[[str], None] | None) -> None:
        self.seed = seed
        self.draw = draw = random.Random(seed)
        self._say = say
        self.faults: Counter[str] = Counter()
        self.rate = draw.choice((0.1, 0.4, 1.0, 2.0))  # faults in a step
        self.power = draw.choice((0.3, 1.0, 1.5))  # how much the meters give
        # Where acknowledged records went from a full card, a gateway that forgot cannot have them.
        self.fills = draw.random() < 0.5
        configs = [self._config() for _ in range(draw.choice(BOARDS))]
        self.books = Books(seed)
        self.site = Site(draw, store, configs, self.say, self.books)
        self.watch = Ledgerwatch(self.site)
        self.hostile: Counter[tuple[str, str]] = Counter()  # refusals that strangers caused
        for board in self.site.boards:
            board.start()
        self.kinds: list[Callable[[], None]] = [
            *[self.trap_board] * 4,
            *[self.trap_gateway] * 3,
            self.kill_board,
            self.stop_board,
            self.cut_power,
            self.cut_power,
            self.unplug,
            self.disturb,
            self.fill_card if self.fills else self.restore_gateway,
            self.lose_time,
            self.lie,
            self.isolate,
            self.wipe_broker,
            self.spoil_broker,
            self.stop_gateway,
            self.kill_gateway,
            self.lose_gateway_time,
            self.lie_to_gateway,
            *[self.send_lies] * 3,
            self.tell_lies,
            self.add_meter,
            self.register_anew,
            self.change_key,
            self.revoke,
        ]

    def _config(self) -> Config:
        draw = self.draw
        sync_ms = draw.choice((5_000, 60_000, 300_000))
        return read_config(
            {
                "source": {"driver": "sim"},
                "batch": {
                    "delay_community_ms": draw.choice((0, 300_000, 900_000)),
                    "lots": draw.choice((2, 1_000)),
                },
                "journal": {"sync_machine_ms": sync_ms, "watch_machine_ms": 120_000},
                "outbox": {"window": draw.choice((2, 64))},
            }
        )

    def say(self, what: str) -> None:
        if self._say is not None:
            since = self.site.now_ns - START_NS if hasattr(self, "site") else 0
            self._say(f"step {since // STEP_NS} +{since % STEP_NS / NS_PER_S:.3f} s: {what}")

    # --- Life. ---

    def step(self, number: int) -> None:
        """One market step, its events in the order of their times."""
        plan = [*self._plan(number), *self._plan_sharing(number)]
        for at_ns, _, happen in sorted(plan, key=lambda event: event[:2]):
            self._move(at_ns)
            happen()
            self.check()

    def _plan(self, number: int) -> Iterator[tuple[int, int, Callable[[], None]]]:
        draw, start_ns = self.draw, START_NS + number * STEP_NS
        order = 0

        def later(seconds: float) -> tuple[int, int]:
            nonlocal order
            order += 1
            return start_ns + int(seconds * NS_PER_S), order

        for board in self.site.boards:
            for _ in range(draw.choice((0, 1, 1, 2))):
                yield *later(draw.uniform(0, 900)), self._pulses(board)
            if draw.random() < 0.95:
                yield *later(draw.uniform(0, 4)), board.work
            if draw.random() < 0.3:
                yield *later(draw.uniform(0, 900)), board.work
        yield *later(draw.uniform(5.5, 9)), self.site.gateway_work
        yield *later(draw.uniform(9, 900)), self.site.gateway_work
        count = int(self.rate) + (draw.random() < self.rate % 1)
        for _ in range(count):
            yield *later(draw.uniform(0, 900)), self.fault
        for _ in range(1 + (draw.random() < self.rate)):
            yield *later(draw.uniform(0, 900)), self.mend

    def _plan_sharing(self, number: int) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """What becomes known of members, and what they agree upon."""
        books, start_ns = self.books, START_NS + number * STEP_NS
        draw, step = books.draw, true_step(start_ns)
        events: list[tuple[float, Callable[[], None]]] = [
            (0.9, lambda: books.consume(step)),
            (0.3, lambda: books.tell_owed(step)),
            (0.2, books.correct),
            (0.05, self.agree),
            (0.04, self.lose_books),
            (0.3, self.find_books),
        ]
        for order, (chance, happen) in enumerate(events, LAST):
            if draw.random() < chance:
                yield start_ns + int(draw.uniform(0, 900) * NS_PER_S), order, happen

    def agree(self) -> None:
        """Members agree anew; at times too late to be heard of before it would hold."""
        self.say("members agree anew")
        self.site.agree(true_step(self.site.now_ns) + self.books.draw.randrange(1, 6))

    def lose_books(self) -> None:
        self.books.is_away = True

    def find_books(self) -> None:
        self.books.is_away = False

    def _pulses(self, board: Board) -> Callable[[], None]:
        pulses = max(1, round(self.draw.choice((1, 3, 9, 20)) * self.power))

        def give() -> None:
            board.give(pulses)
            board.work()

        return give

    def _move(self, at_ns: int) -> None:
        self.site.now_ns = at_ns
        self.site.post.deliver(at_ns)

    # --- Faults. ---

    def fault(self) -> None:
        kind = self.draw.choice(self.kinds)
        self.faults[kind.__name__] += 1
        self.say(f"FAULT {kind.__name__}")
        kind()

    def board(self) -> Board:
        return self.draw.choice(self.site.boards)

    def trap_board(self) -> None:
        self._lay(self.board().machine, 12)

    def trap_gateway(self) -> None:
        self._lay(self.site.machine, 25)

    def _lay(self, machine: Machine, passages: int) -> None:
        machine.lay(self.draw.choice(list(Fault)), self.draw.randint(1, passages))

    def kill_board(self) -> None:
        board = self.board()
        board.kill()
        if self.draw.random() < 0.5:
            board.start()

    def stop_board(self) -> None:
        self.board().stop()

    def cut_power(self) -> None:
        board = self.board()
        board.cut_power()
        if self.draw.random() < 0.6:
            board.set_clock()
        if self.draw.random() < 0.7:
            board.start()

    def unplug(self) -> None:
        board = self.board()
        board.line.is_unplugged = True
        board.line.waiting = 0

    def disturb(self) -> None:
        """The line tells of noise, and of what the kernel dropped."""
        line = self.board().line
        if not line.is_unplugged:
            line.noise += self.draw.randrange(5)
            line.lost += self.draw.randrange(5)

    def fill_card(self) -> None:
        board = self.board()
        self.draw.choice((board.journal, board.outbox)).fill(self.draw.randrange(1_500))

    def lose_time(self) -> None:
        board = self.board()
        board.clock.move_to(self.site.now_ns)
        board.clock.lose_source()
        if self.draw.random() < 0.5:
            # Somebody sets a wall clock that nothing synchronises.
            board.clock.utc_ns += self.draw.randrange(-400, 400) * STEP_NS
            board.clock.utc_ns = max(0, board.clock.utc_ns)

    def lie(self) -> None:
        board = self.board()
        if board.clock.state is ClockState.SYNCHRONISED:
            board.set_clock(self.draw.randrange(-LIE_NS, LIE_NS))

    def isolate(self) -> None:
        wire = self.board().wire
        if wire is not None and wire.is_up:
            self.site.post.disconnect(wire)

    def wipe_broker(self) -> None:
        self.site.post.wipe()

    def spoil_broker(self) -> None:
        post, draw = self.site.post, self.draw
        post.lose, post.repeat = draw.choice(((0.0, 0.0), (0.1, 0.3), (0.5, 0.5)))
        post.delay_s = draw.choice((0.0, 5.0, 600.0))

    def stop_gateway(self) -> None:
        self.site.stop_gateway()

    def kill_gateway(self) -> None:
        """It dies and starts at once, from what its store says."""
        self.site.stop_gateway()
        self.site.start_gateway()

    def restore_gateway(self) -> None:
        self.site.restore_store()

    def lose_gateway_time(self) -> None:
        self.site.clock.move_to(self.site.now_ns)
        self.site.clock.lose_source()
        self.site.clock.utc_ns += self.draw.randrange(-400, 400) * STEP_NS

    def lie_to_gateway(self) -> None:
        self.site.clock.move_to(self.site.now_ns)
        if self.site.clock.state is ClockState.SYNCHRONISED:
            self.site.clock.synchronise(self.draw.randrange(-LIE_NS, LIE_NS))

    # --- The authority. ---

    def add_meter(self) -> None:
        if len(self.site.boards) < 4:
            self.site.register(self._config()).start()

    def register_anew(self) -> None:
        """Another V for a meter, from some step on."""
        from_step = true_step(self.site.now_ns) + self.draw.randrange(4)
        self.site.register_again(self.board(), from_step)

    def change_key(self) -> None:
        """Another key for a board, which has made it already."""
        self.site.change_key(self.board(), true_step(self.site.now_ns))

    def revoke(self) -> None:
        """A meter is out of the community for a while."""
        board = self.board()
        if board.is_revoked:
            self.site.register_again(board, true_step(self.site.now_ns))
        else:
            board.is_revoked = self.site.revoke(board)

    # --- Hostile messages. ---

    def send_lies(self) -> None:
        """Strangers speak to the gateway: refused, counted, and nothing changes."""
        node = self.site.node
        if node is None:
            return
        self.site.machine.disarm()  # what changes is the message's doing
        now = self.site.clock.now()
        for message in self._forged_records():
            before, refused = self._gateway_state(), self._refusals()
            try:
                node.receive([message], now)
            except (Behind, Rejected) as error:
                raise Broken("H", f"a message stopped the gateway: {error}") from error
            if self._gateway_state() != before:
                raise Broken("H", f"a message that was refused changed something: {message}")
            counted = self._refusals() - refused
            if counted.total() != message.topic.endswith("/record"):
                raise Broken("H", f"the gateway does not count what it refuses: {message}")
            self.hostile.update(counted)

    def _gateway_state(self) -> object:
        site = self.site
        assert site.node is not None
        heads = [
            (name, site.node._waiting.head(meter)) for name, meter in site.node.state.meters.items()
        ]
        return (
            site.store.state() if isinstance(site.store, FailingMemory) else site.node.state,
            list(site.store.pending()),
            heads,
            site.node.pending_count,
            len(site.shelf.files),
            site.shelf.files.get("checkpoint"),
            len(site.store.authority()),
        )

    def _refusals(self) -> Counter[tuple[str, str]]:
        return Counter({(one.meter, one.reason): one.count for one in self.site.store.refusals()})

    def _forged_records(self) -> Iterator[Message]:
        draw, site = self.draw, self.site
        heard = [one for one in site.post.heard if one[0].endswith("/record")]
        topic = f"{site.topic}/meter/{self.board().name}/record"
        for _ in range(draw.randint(1, 3)):
            kind = draw.randrange(7)
            if kind == 0 or not heard:
                yield _message(topic, draw.randbytes(draw.randrange(200)))
                continue
            own, raw = draw.choice(heard)
            if kind == 1:
                yield _message(own, _flipped(raw, draw))
            elif kind == 2:
                yield _message(own, raw[: draw.randrange(len(raw))])
            elif kind == 3:
                body = records.decode(raw).body
                yield _message(own, records.seal(body, site.id, signer(99)).raw)
            elif kind == 4:
                body = records.decode(raw).body
                yield _message(own, records.seal(body, bytes(32), self.board().key).raw)
            elif kind == 5:
                yield _message(f"{site.topic}/meter/nobody/record", raw)
            else:
                yield _message(f"{site.topic}/checkpoint", draw.randbytes(60))
        yield _message(topic, self._gift().raw)

    def _gift(self) -> Record:
        """What waits at the plant, given to a thief by a stranger or by a key that leaked."""
        site, draw = self.site, self.books.draw
        plant = self.watch.state.plant("vpp")
        spent, got = Input(draw.randbytes(32), 10**6, 0), Output("zoe", 10**6, 0)
        step = true_step(site.now_ns)
        place = ("vpp", plant.sequence, plant.previous, step, 0, Part(1, 1), draw.randbytes(32))
        body = Distribution(*place, (spent,), (got,), 0, 0, 0, 0, (), ())
        return records.seal(body, site.id, draw.choice((signer(99), site.vpp_key)))

    def tell_lies(self) -> None:
        """Strangers speak to a board: refused, counted, and nothing changes."""
        board = self.board()
        if board.device is None or board.wire is None:
            return
        board.machine.disarm()
        board.work()  # whatever is due now is done, so that what changes next is the message's
        for _ in range(QUIET_TURNS):
            device, before = board.device, board.device and self._board_state(board)
            board.work()
            if board.device is not device or device is None:
                return
            if self._board_state(board) == before:
                break  # what is signed anew behind a re-anchor takes several turns
        device, wire = board.device, board.wire
        if device is None or wire is None or wire.inbox:
            return
        for topic, payload in self._forged_words(board):
            before, refused = self._board_state(board), _refused_by(device)
            wire.inbox.append(_message(topic, payload))
            board.work()
            if board.device is not device:
                return
            if self._board_state(board) != before:
                raise Broken("H", f"a message that was refused changed something at {board.name}")
            if _refused_by(device) != refused + 1:
                raise Broken("H", f"{board.name} does not count what it refuses")
        self._check_old_word(board)

    def _check_old_word(self, board: Board) -> None:
        """A gateway's own word of earlier, said again: void, whoever says it."""
        device, wire = board.device, board.wire
        own = f"{self.site.topic}/meter/{board.name}/ack/gw"
        words = [raw for topic, raw in self.site.post.heard if topic == own]
        if device is None or wire is None or device._outbox.end is None or not words:
            return
        raw, end = self.draw.choice(words), device._outbox.end
        word = records.decode(raw).body
        assert isinstance(word, Acknowledgement)
        if (word.epoch, word.sequence) >= (end.epoch, end.acknowledged):
            return
        before = self._board_state(board)
        wire.inbox.append(_message(own, raw))
        board.work()
        if board.device is device and self._board_state(board) != before:
            raise Broken("H", f"{board.name} believes what its gateway said before")

    def _board_state(self, board: Board) -> object:
        device = board.device
        assert device is not None
        return (
            device._outbox.end,
            device._outbox.stop,
            device._outbox.waiting,
            device._signing.checkpoint,
            device._counter.register,
            len(board.updates),
            {name: board.outbox.size(name) for name in board.outbox.names()},
        )

    def _forged_words(self, board: Board) -> Iterator[tuple[str, bytes]]:
        draw, site = self.draw, self.site
        own = f"{site.topic}/meter/{board.name}"
        words = [raw for topic, raw in site.post.heard if topic == f"{own}/ack/gw"]
        notes = [raw for topic, raw in site.post.heard if topic.endswith("/checkpoint")]
        yield f"{own}/ack/gw", draw.randbytes(draw.randrange(200))
        # No CBOR begins so: a byte by chance can be the empty chain, which is nothing to refuse.
        yield f"{own}/registration", b"\xff" + draw.randbytes(draw.randrange(50))
        if words:
            raw = draw.choice(words)
            yield f"{own}/ack/gw", _flipped(raw, draw)
            word = records.decode(raw).body
            yield f"{own}/ack/gw", records.seal(word, site.id, signer(99)).raw
            yield f"{own}/ack/gw", records.seal(word, site.id, board.key).raw
        if notes:
            yield f"{site.topic}/checkpoint", _flipped(draw.choice(notes), draw)

    # --- Mending. ---

    def mend(self) -> None:
        """Somebody looks after one thing."""
        board = self.board()
        match self.draw.randrange(6):
            case 0 | 1:
                if board.device is None:
                    board.start()
            case 2:
                self._repair(board)
            case 3:
                if self.draw.random() < 0.3:
                    board.set_clock()
                    self.set_gateway_clock()
            case 4:
                self.reconnect()
            case 5:
                if self.site.node is None:
                    self.site.start_gateway()
        self._re_anchor()

    def _re_anchor(self) -> None:
        """The authority looks after the boards whose operators ask it to."""
        for board in self.site.boards:
            if board.is_in_gap:
                self.site.re_anchor(board)

    def _repair(self, board: Board) -> None:
        board.line.is_unplugged = False
        board.journal.free()
        board.outbox.free()

    def set_gateway_clock(self) -> None:
        self.site.clock.move_to(self.site.now_ns)
        self.site.clock.synchronise()

    def reconnect(self) -> None:
        for wire in self.site.post.wires:
            if not wire.is_up:
                self.site.post.connect(wire)

    def rest(self, first: int) -> None:
        """Everything is mended, and there is time for what is owed."""
        site = self.site
        site.post.lose = site.post.repeat = site.post.delay_s = 0.0
        site.machine.disarm()
        self.set_gateway_clock()
        if site.node is None:
            site.start_gateway()
        for board in site.boards:
            board.machine.disarm()
            self._repair(board)
            board.set_clock()
            if board.device is None:
                board.start()
            if board.is_revoked:
                site.register_again(board, true_step(site.now_ns))
        # A board whose chain was stopped asks again only after minutes: a word that the broker lost
        # on a connection that stands is retained, and comes with the next one.
        for wire in site.post.wires:
            if wire.is_up:
                site.post.disconnect(wire)
        self.reconnect()
        for number in range(first, first + QUIET_STEPS):
            self._re_anchor()
            self.books.tell_all(range(FIRST_STEP, FIRST_STEP + number + 2))
            self._move(START_NS + number * STEP_NS + NS_PER_S)
            for _ in range(QUIET_TURNS):
                self._move(site.now_ns + 7 * NS_PER_S)
                for board in site.boards:
                    board.work()
                site.gateway_work()
                self.check()
                if self._is_quiet():
                    break
            if number >= first + 2 and self._has_arrived():
                break
        self.check_whole()

    # --- What must hold. ---

    def check(self) -> None:
        """After every event."""
        self.watch.look()
        if self.draw.random() < 0.002:
            self.watch.prove_one()
            self.watch.prove_share()
        site = self.site
        if site.node is not None and site.node.state.step > self.watch.state.step:
            raise Broken("E", "a block is made and not published")
        for one in site.store.refusals():
            if one.reason in PASSING or (one.reason == "revoked" and one.meter in site.revoked):
                continue
            if one.count > self.hostile[one.meter, one.reason]:
                raise Broken("D", f"an honest {one.meter} is refused: {one.reason}: {one.detail}")

    def _is_quiet(self) -> bool:
        """Whether all is acknowledged, and the newest step that has ended has its block."""
        return self.watch.state.step == true_step(self.site.now_ns) - 1 and all(
            board.device is not None and board.device._outbox.waiting == 0 and not board.is_in_gap
            for board in self.site.boards
        )

    def _has_arrived(self) -> bool:
        return (
            self._is_quiet()
            and not self.watch.accounts.owed()
            and all(
                self.watch.heard(board) == board.truth.given and not self._undeclared(board)
                for board in self.site.boards
            )
        )

    def check_whole(self) -> None:
        """What holds once everything is mended and quiet."""
        site, watch = self.site, self.watch
        step = true_step(site.now_ns)
        if watch.state.step != step - 1:
            raise Broken("E", f"the newest block is of step {watch.state.step}, it is {step}")
        if watch.blocks != step - FIRST_STEP:
            raise Broken("E", f"{watch.blocks} blocks of {step - FIRST_STEP} steps")
        for board in site.boards:
            found, given = watch.heard(board), board.truth.given
            if found != given:
                raise Broken("A", f"{found} pulses of {board.name} were heard, {given} were given")
            if board.device is None or board.device._outbox.waiting or board.is_in_gap:
                raise Broken("D", f"{board.name} has not been heard")
            self._check_declared(board)
        watch.check_given()
        watch.prove_one()
        for _ in range(SHARES):
            watch.prove_share()
        report = watch.audit()
        if report.blocks != watch.blocks or report.quarantined != watch.set_aside:
            raise Broken("E", f"the audit finds {report.blocks} blocks, {report.quarantined}")

    def _check_declared(self, board: Board) -> None:
        """Promise A: what the line told stands in signed data, unless it died unsynced."""
        for mark, told in self._undeclared(board):
            said = self.watch.declared[board.name, int(mark)]
            raise Broken("A", f"{board.name} declares {said} of {told}: {mark.name}")

    def _undeclared(self, board: Board) -> list[tuple[Mark, int]]:
        """What the line told, and no block holds all of."""
        if board.truth.has_lost_marks:
            return []
        told = ((Mark.NOISE, board.truth.noise), (Mark.LOST, board.truth.swallowed))
        return [pair for pair in told if self.watch.declared[board.name, int(pair[0])] < pair[1]]

    def outcome(self) -> Outcome:
        boards, files = self.site.boards, self.site.shelf.files
        digest = sha256()
        for name in sorted(files):
            digest.update(b"%d %s %d " % (len(name), name.encode(), len(files[name])))
            digest.update(files[name])
        return Outcome(
            self.seed,
            {board.name: board.truth.given for board in boards},
            {board.name: board.truth.lost for board in boards},
            self.faults,
            self.watch.blocks,
            self.watch.state.frontier.size,
            self.watch.late,
            digest.hexdigest(),
        )


def _message(topic: str, payload: bytes) -> Message:
    return Message(topic, payload, False, (0, 0))


def _refused_by(device: Device) -> int:
    return 0 if device._conversing is None else device._conversing.refused


def _flipped(raw: bytes, draw: random.Random) -> bytes:
    spoiled = bytearray(raw)
    spoiled[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(spoiled)


# --- Many seeds. ---


def attempt(seed: int, steps: int = STEPS) -> tuple[int, str, float]:
    """One seed: what it came to ("" if it held), and the processor time it took, s."""
    begin = time.process_time()
    try:
        run(seed, steps)
    except Broken as broken:
        return seed, str(broken), time.process_time() - begin
    return seed, "", time.process_time() - begin


def run_many(first: int, end: int, steps: int, jobs: int) -> int:
    """Runs seeds on all cores; prints progress and what fails. Returns the exit code."""
    begin, failed, spent_s = time.monotonic(), 0, 0.0
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(attempt, range(first, end), [steps] * (end - first), chunksize=2)
        for done, (seed, what, took_s) in enumerate(found, 1):
            spent_s += took_s
            if what:
                failed += 1
                print(f"seed {seed}: {what}")
                print(f"    python -m tests.simulation.chaos --seed {seed}", flush=True)
            if done % max(1, (end - first) // 20) == 0:
                passed_s = time.monotonic() - begin
                print(
                    f"{done} of {end - first} seeds, {failed} failed, {passed_s:.0f} s", flush=True
                )
    count = end - first
    print(
        f"{count} seeds of {steps} steps in {time.monotonic() - begin:.0f} s on {jobs} cores,"
        f" {spent_s / count:.3f} s of processor time each: "
        + (f"{failed} failed" if failed else "all promises held")
    )
    return 1 if failed else 0


def main() -> int:
    """Runs many seeds, or one aloud."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.chaos")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--seed", type=int, help="one seed; says what happens")
    chosen.add_argument("--seeds", default="0:200", help="first:end, the end excluded")
    parser.add_argument("--steps", type=int, default=STEPS, help="market steps with faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        try:
            print(run(arguments.seed, arguments.steps, print))
        except Broken as broken:
            traceback.print_exc()
            print(f"seed {arguments.seed}: {broken}")
            return 1
        return 0
    first, _, end = arguments.seeds.partition(":")
    return run_many(int(first), int(end), arguments.steps, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
