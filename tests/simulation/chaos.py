"""A community's worst days from one seed: boards are killed, stopped, cut from power and from the
broker, clocks lose their source, the broker forgets, the gateway goes away; and after every step
the ledger is audited and compared with what the meters gave.

    python -m tests.simulation.chaos --seeds 0:100
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptometer.block import Checked
from cryptometer.records import Batch, ChainRecord, Mark, StepClose
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockState, step_of
from tests.core.community import FIRST_STEP, LOT_PULSES, STEP_S
from tests.simulation.world import Board, World

BOARDS = 3
STEPS = 16
TICK_S = 10
PULSES_PER_S = 0.4
QUIET_STEPS = 4  # without any fault, at the end: what is on its way arrives
TORN_MAX = 300  # bytes of an unsynced tail that a power cut may leave


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        emitted: pulses each meter gave while its line was plugged in.
        in_blocks: of them, those in blocks.
        lost: pulses a board's disk lost in power cuts, counted at each of them.
        faults: how often each fault was made.
        blocks: number of blocks.
    """

    seed: int
    emitted: dict[str, int] = field(default_factory=dict)
    in_blocks: dict[str, int] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    blocks: int = 0

    def __str__(self) -> str:
        meters = ", ".join(
            f"{name} {self.in_blocks[name]}/{emitted} lost {self.lost[name]}"
            for name, emitted in self.emitted.items()
        )
        return f"seed {self.seed}: {self.blocks} blocks, {self.faults.total()} faults; {meters}"


def run(seed: int, steps: int = STEPS) -> Outcome:
    """Lives through `steps` market steps of faults.

    Raises:
        AssertionError: an invariant did not hold; the message names it.
        Rejected: the audit found a breach.
    """
    chaos = _Chaos(seed)
    try:
        for _ in range(steps):
            chaos.step()
            chaos.check()
        chaos.rest()
        chaos.check_whole()
    finally:
        chaos.world.close()
    return chaos.outcome


class _Chaos:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(seed, BOARDS)
        self.outcome = Outcome(seed)
        for board in self.world.boards:
            board.start()
        self.faults: list[Callable[[], None]] = [
            self.kill,
            self.stop,
            self.cut_power,
            self.unplug,
            self.lose_time,
            self.isolate,
            self.wipe_broker,
            self.spoil_broker,
            self.stop_gateway,
            self.kill_gateway,
        ]

    # --- Faults ----------------------------------------------------------------------------------

    def board(self) -> Board:
        return self.random.choice(self.world.boards)

    def kill(self) -> None:
        board = self.board()
        if board.device is not None:
            board.kill()

    def stop(self) -> None:
        board = self.board()
        if board.device is not None:
            board.stop()

    def cut_power(self) -> None:
        board = self.board()
        synced = board.device_register  # a tick is longer than the interval of syncs
        self.world.run(2, 2, PULSES_PER_S)  # between two syncs: there is something to lose
        before = board.device_register
        board.cut_power(self.random.choice([0, self.random.randrange(TORN_MAX)]))
        assert board.kept_register >= synced, f"{board.name}: a power cut took what was synced"
        lost = before - board.kept_register
        assert lost >= 0, "a power cut gives no pulses"
        self.outcome.lost[board.name] += lost
        board.start()
        if self.random.random() < 0.3:
            board.clock.state = ClockState.UNKNOWN

    def unplug(self) -> None:
        board = self.board()
        board.is_unplugged = not board.is_unplugged

    def lose_time(self) -> None:
        board = self.board()
        board.clock.state = ClockState.UNKNOWN
        board.clock.utc_ns += self.random.randrange(-3_600, 3_600) * NS_PER_S

    def isolate(self) -> None:
        wire = self.board().wire
        if wire is not None and wire.is_up:
            self.world.broker.disconnect(wire)

    def wipe_broker(self) -> None:
        self.world.broker.wipe()

    def spoil_broker(self) -> None:
        broker = self.world.broker
        broker.lose, broker.repeat = self.random.choice([(0.0, 0.0), (0.1, 0.3), (0.5, 0.5)])

    def stop_gateway(self) -> None:
        if self.world.wire is not None:
            self.world.stop_gateway()

    def kill_gateway(self) -> None:
        """It dies and starts at once, from what its store says."""
        self.stop_gateway()
        self.world.start_gateway()

    # --- Life ------------------------------------------------------------------------------------

    def step(self) -> None:
        """One market step, with some faults at random moments."""
        for _ in range(0, STEP_S, TICK_S):
            if self.random.random() < 0.04:
                fault = self.random.choice(self.faults)
                self.outcome.faults[fault.__name__] += 1
                fault()
            if self.random.random() < 0.05:
                self.mend()
            self.world.run(TICK_S, TICK_S, PULSES_PER_S)

    def mend(self) -> None:
        """Somebody looks after one thing."""
        board = self.board()
        match self.random.randrange(5):
            case 0:
                if board.device is None:
                    board.start()
            case 1:
                board.is_unplugged = False
            case 2:
                self.tell_time(board)
            case 3:
                self.reconnect()
            case 4:
                if self.world.node is None:
                    self.world.start_gateway()

    def tell_time(self, board: Board) -> None:
        board.clock.utc_ns = self.world.clock.utc_ns
        board.clock.state = ClockState.SYNCHRONISED

    def reconnect(self) -> None:
        for wire in self.world.broker.wires:
            if not wire.is_up:
                self.world.broker.connect(wire)

    def rest(self) -> None:
        """Everything is mended, and there is time for what is owed."""
        self.world.broker.lose = self.world.broker.repeat = 0.0
        if self.world.node is None:
            self.world.start_gateway()
        for board in self.world.boards:
            board.is_unplugged = False
            self.tell_time(board)
            if board.device is None:
                board.start()
        self.reconnect()
        self.world.run(QUIET_STEPS * STEP_S + 60, TICK_S, pulses=0)

    # --- Invariants ------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds at any time: the ledger stands, and no block holds what no meter gave."""
        found = self.read()
        for board in self.world.boards:
            assert found[board.name] <= board.emitted - board.missed, f"{board.name}: invented"
            assert found[board.name] <= board.device_register, f"{board.name}: not journalled"

    def check_whole(self) -> None:
        """What holds once everything has arrived."""
        found = self.read()
        now_ms = self.world.clock.now().utc_ns // NS_PER_MS
        ended = step_of(now_ms, STEP_S) - FIRST_STEP
        assert self.outcome.blocks == ended, f"{self.outcome.blocks} blocks of {ended} steps"
        reasons = {one.reason for one in self.world.store.refusals()}
        assert reasons <= {"unknown-key", "gap"}, f"refused for {sorted(reasons)}"
        for board in self.world.boards:
            assert board.device is not None
            stop = board.device._outbox.stop
            assert stop is None, f"{board.name} was stopped: {stop}"
            assert board.device._outbox.waiting == 0, f"{board.name} has not been heard"
            emitted = board.emitted - board.missed
            self.outcome.emitted[board.name] = emitted
            self.outcome.in_blocks[board.name] = found[board.name]
            lost = self.outcome.lost[board.name]
            assert found[board.name] == board.device_register, f"{board.name}: not in blocks"
            assert found[board.name] == emitted - lost, f"{board.name}: not what was kept"

    def read(self) -> Counter[str]:
        """Audits the ledger; pulses by meter, summed from its leaves."""
        pulses: Counter[str] = Counter()
        closed: dict[str, int] = {}
        steps: list[int] = []

        def watch(checked: Checked) -> None:
            steps.append(checked.state.step)
            for verdict in checked.verdicts:
                body = verdict.record.body
                if not isinstance(body, ChainRecord):
                    continue
                assert verdict.reason is None, f"{body.meter}: quarantined, {verdict.reason}"
                if isinstance(body, StepClose):
                    assert body.step > closed.get(body.meter, 0), f"{body.meter}: closed twice"
                    closed[body.meter] = body.step
                if isinstance(body, Batch):
                    large = max(body.pulses) > LOT_PULSES
                    assert not large or body.declared(Mark.OVERSIZE), f"{body.meter}: above V"
                    pulses[body.meter] += sum(body.pulses)

        if self.world.tree.files:
            self.world.audit(watch)
        assert steps == list(range(FIRST_STEP, FIRST_STEP + len(steps))), "a step without its block"
        self.outcome.blocks = len(steps)
        return pulses


def main() -> int:
    """Runs many seeds; names those that fail."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.chaos")
    parser.add_argument("--seeds", default="0:100", help="first:end, the end excluded")
    parser.add_argument("--steps", type=int, default=STEPS, help="market steps with faults")
    arguments = parser.parse_args()
    first, _, end = arguments.seeds.partition(":")
    failed = []
    for seed in range(int(first), int(end or int(first) + 1)):
        try:
            print(run(seed, arguments.steps), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other seeds are tried too
            print(f"seed {seed}: FAILED: {type(error).__name__}: {error}", flush=True)
            failed.append(seed)
    print(f"failed: {failed}" if failed else "all held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
