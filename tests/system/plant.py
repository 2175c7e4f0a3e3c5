"""A community of real processes: a broker, simulated meters on pseudo-terminals, their firmware, a
gateway. And what must hold of its ledger, checked pulse by pulse against the meters' own logs."""

import bisect
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptometer import audit, records
from cryptometer.chain_records import ChainRecord, RunStart
from cryptometer.commands.demo.broker import HOST, find_mosquitto, free_port, listens, start_broker
from cryptometer.commands.demo.community import STEP_S, Layout, SimulatedMeter, configure, found
from cryptometer.commands.demo.processes import FIRMWARE, GATEWAY, Child, Tail, program
from cryptometer.commands.demo.watch import read_emitted
from cryptometer.commands.sources import ledger_reader, read_community
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, step_of
from cryptometer.tiles import TILE_WIDTH, Tile, read_entries
from hal.faults import CRASH_VARIABLE, Point

START_MAX_S = 60.0
_LOOK_EVERY_S = 0.02


class Plant:
    """Everything runs in `folder`; leaving the `with` block ends every process, by its id."""

    def __init__(
        self,
        folder: Path,
        meters: Sequence[SimulatedMeter],
        *,
        speed: int,
        grace_machine_s: int = 1,
        device_toml: str = "",
    ) -> None:
        self.folder = folder
        self.meters = tuple(meters)
        self.speed = speed
        self._grace_s = grace_machine_s * speed
        self._device_toml = device_toml
        self.port = free_port()
        self.broker: Child | None = None
        self.gateway: Child | None = None
        self.devices: dict[str, Child] = {}
        self.simulators: dict[str, Child] = {}
        self._started: list[Child] = []

    def __enter__(self) -> Self:
        try:
            self.start_broker()
            url = f"mqtt://{HOST}:{self.port}"
            self.layout: Layout = self._found(url)
            self.community = read_community(self.layout.community_pub)
            self.begin()
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_all()

    def _found(self, url: str) -> Layout:
        return found(self.folder, self.meters, url, self._grace_s)

    def begin(self) -> None:
        """Community time begins: writes the configurations."""
        self.clock = configure(self.layout, self.speed)
        # Pulses are logged with the wall clock, records with the community's, which follows the
        # monotonic one.
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        for meter in self.meters:
            toml = self.layout.device(meter) / "meter.toml"
            toml.write_text(toml.read_text() + self._device_toml)

    # --- Processes. ---

    def start_broker(self) -> None:
        """Starts a broker that keeps nothing: each restart begins with its data wiped."""
        self.broker = self._keep(start_broker(self.folder / "broker", self.port))
        self.wait(lambda: listens(self.port), "the broker to listen")

    def start_keeping_broker(self) -> None:
        """Starts a broker that keeps sessions, queues and retained messages over a restart."""
        mosquitto = find_mosquitto()
        assert mosquitto is not None
        folder = self.folder / "keeping-broker"
        folder.mkdir(exist_ok=True)
        conf = folder / "mosquitto.conf"
        conf.write_text(
            f"listener {self.port} {HOST}\nallow_anonymous true\nuser root\n"
            f"max_queued_messages 0\npersistence true\npersistence_location {folder}/\n"
        )
        child = Child("mosquitto", [mosquitto, "-c", str(conf)], folder / "broker.log")
        self.broker = self._keep(child)
        self.wait(lambda: listens(self.port), "the broker to listen")

    def start_simulator(self, meter: SimulatedMeter) -> None:
        device = self.layout.device(meter)
        words = ("--tty", self.layout.line(meter), "--constant", str(meter.constant))
        load = ("--watts", str(meter.watts), "--speed", str(self.speed))
        command = program(FIRMWARE, "simulate", *words, *load, "--log", device / "pulses.log")
        child = self._keep(Child(f"simulator {meter.name}", command, device / "simulate.log"))
        self.simulators[meter.name] = child
        self.wait(self.layout.line(meter).exists, f"the line of {meter.name}")

    def start_device(
        self, meter: SimulatedMeter, crash: Point | None = None, passage: int = 1
    ) -> Child:
        config = self.layout.device(meter) / "meter.toml"
        child = self._run(meter.name, FIRMWARE, config, crash, passage)
        self.devices[meter.name] = child
        return child

    def start_gateway(self, crash: Point | None = None, passage: int = 1) -> Child:
        config = self.layout.gateway / "gateway.toml"
        self.gateway = self._run("gateway", GATEWAY, config, crash, passage)
        return self.gateway

    def start_all(self) -> None:
        for meter in self.meters:
            self.start_simulator(meter)
        self.start_gateway()
        for meter in self.meters:
            self.start_device(meter)

    def stop_simulators(self) -> dict[str, int]:
        """Ends the pulses; returns how many each meter says it emitted. None was refused by a
        full line, none was left unread."""
        emitted = {}
        for meter in self.meters:
            assert self.simulators[meter.name].end() == 0
            log = self.layout.device(meter) / "pulses.log"
            stated = read_emitted(log)
            emitted[meter.name] = stated.emitted
            assert (stated.overflow, stated.unread) == (0, 0)
        return emitted

    def _run(
        self, name: str, module: str, config: Path, crash: Point | None, passage: int
    ) -> Child:
        setting = "" if crash is None else f"{crash}:{passage}"
        command = [sys.executable, "-m", module, "run", "--config", str(config)]
        log = config.parent / "run.log"
        return self._keep(Child(name, command, log, {CRASH_VARIABLE: setting}))

    def _keep(self, child: Child) -> Child:
        self._started.append(child)
        return child

    def _end_all(self) -> None:
        for child in reversed(self._started):
            child.end()

    # --- Time and waiting. ---

    def wait(self, true: Callable[[], bool], what: str, longest_s: float = START_MAX_S) -> None:
        deadline = time.monotonic() + longest_s
        while not true():
            assert time.monotonic() < deadline, f"waited {longest_s} s for {what}"
            time.sleep(_LOOK_EVERY_S)

    def now_ms(self) -> int:
        """Community time, ms since the Unix epoch."""
        return self.clock.now().utc_ns // NS_PER_MS

    def step(self) -> int:
        """The step that runs now."""
        return step_of(self.now_ms(), STEP_S)

    def wait_for_step(self, step: int) -> None:
        """Waits until a step has begun."""
        ahead_s = max(0, step - self.step()) * STEP_S / self.speed
        self.wait(lambda: self.step() >= step, f"step {step}", ahead_s + START_MAX_S)

    def wait_for_block(self, step: int, blocks_late: int = 0) -> None:
        """Waits for the block of a step, and for so many more."""
        target = step + blocks_late
        ahead_s = max(0, target - self.step() + 2) * STEP_S / self.speed
        self.wait(
            lambda: self.newest_block() >= target, f"the block of {target}", START_MAX_S + ahead_s
        )

    def newest_block(self) -> int:
        """The newest step the gateway says it has sealed; -1 before the first."""
        newest = -1
        for line in Tail(self.layout.gateway / "run.log").lines():
            words = line.split()
            if words[:1] == ["block"]:
                newest = max(newest, int(words[1].removeprefix("step=")))
        return newest

    # --- What must hold. ---

    def audit(self) -> audit.Report:
        """Rebuilds the ledger; raises Rejected when it does not hold."""
        return audit.audit(ledger_reader(self.layout.gateway / "ledger"), self.community)

    def leaves(self) -> list[Record]:
        """Every record of the ledger as published now."""
        read = ledger_reader(self.layout.gateway / "ledger")
        size = self.audit().checkpoint.size
        found = []
        for index in range(-(-size // TILE_WIDTH)):
            width = min(TILE_WIDTH, size - index * TILE_WIDTH)
            found += [records.decode(raw) for raw in read_entries(Tile(None, index, width), read)]
        return found

    def chain(self, meter: SimulatedMeter) -> list[ChainRecord]:
        """A meter's records in the ledger, in order of their sequence."""
        bodies = [record.body for record in self.leaves()]
        mine: list[ChainRecord] = [
            body for body in bodies if isinstance(body, ChainRecord) and body.meter == meter.name
        ]
        assert [body.sequence for body in mine] == list(range(len(mine)))
        return mine

    def registers(self) -> dict[str, int]:
        """Pulses of each meter that stand in blocks."""
        state = self.audit().state
        return {meter.name: state.meters[meter.name].head.register or 0 for meter in self.meters}

    def emissions_ms(self, meter: SimulatedMeter) -> list[int]:
        """When each pulse was emitted, ms of community time."""
        lines = (self.layout.device(meter) / "pulses.log").read_text().splitlines()
        walls_ns = [int(line.split()[0]) for line in lines if not line.startswith("#")]
        now = self.clock.now()
        offset_ns = now.utc_ns - now.mono_ns
        return [
            (self.clock.community_ns(wall_ns - self._wall_ns) + offset_ns) // NS_PER_MS
            for wall_ns in walls_ns
        ]


@dataclass(frozen=True, slots=True)
class Interval:
    """Declared as not watched, ms of community time."""

    from_ms: int
    to_ms: int


def unwatched(chain: Sequence[ChainRecord]) -> list[Interval]:
    """The intervals a chain declares as not watched."""
    return [
        Interval(body.unwatched_ms, body.at_ms)
        for body in chain
        if isinstance(body, RunStart) and body.unwatched_ms is not None
    ]


def check_every_pulse(
    chain: Sequence[ChainRecord], emissions_ms: Sequence[int], final: int, slack_ms: int
) -> int:
    """Every pulse emitted is registered once, or was emitted while the chain says it did not watch.

    Between two run starts the register must grow by at least the pulses emitted while the program
    watched, and by at most those emitted from when watching lapsed before it until it came back.
    A run that was killed before its first look leaves to the next one what waits at the line.

    Args:
        chain: a meter's records, whole.
        emissions_ms: when each pulse was emitted, in order.
        final: the register at the end.
        slack_ms: between a pulse's logged time and the time it was taken at.

    Returns:
        Pulses lost: emitted in declared intervals, and in no lot.
    """

    def emitted(from_ms: int, to_ms: int) -> int:
        return bisect.bisect(emissions_ms, to_ms) - bisect.bisect_left(emissions_ms, from_ms)

    runs = [body for body in chain if isinstance(body, RunStart)]
    first, last = emissions_ms[0], emissions_ms[-1]
    waiting_ms = first  # since when pulses may wait at the line
    for index, run in enumerate(runs):
        after = runs[index + 1] if index + 1 < len(runs) else None
        counted = (final if after is None else after.register) - run.register
        waiting_ms = min(waiting_ms, first if run.unwatched_ms is None else run.unwatched_ms)
        until_ms = last if after is None else (after.unwatched_ms or last)
        back_ms = last if after is None else after.at_ms
        least = emitted(run.at_ms + slack_ms, until_ms - slack_ms * (after is not None))
        most = emitted(waiting_ms - slack_ms, back_ms + slack_ms)
        assert least <= counted <= most, (index, least, counted, most, run)
        if counted:
            waiting_ms = last
    lost = len(emissions_ms) - final
    assert lost >= 0, "a pulse was counted twice"
    inside = sum(emitted(one.from_ms - slack_ms, one.to_ms + slack_ms) for one in unwatched(chain))
    assert lost <= inside
    return lost


def kill(child: Child) -> None:
    """Kill -9, and waits until it is dead."""
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
