"""The demonstration, from founding to audit."""

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptometer.commands.demo.broker import (
    HOST,
    find_mosquitto,
    free_port,
    listens,
    start_broker,
)
from cryptometer.commands.demo.community import (
    SIMULATED_MEMBERS,
    STEP_S,
    Layout,
    SimulatedMeter,
    configure,
    found,
    simulated_meters,
)
from cryptometer.commands.demo.processes import (
    COMMON,
    ENDINGS,
    FIRMWARE,
    GATEWAY,
    Child,
    ProgramError,
    Tail,
    program,
    run,
    signals_behind,
)
from cryptometer.commands.demo.screen import Screen, open_screen, step_time
from cryptometer.commands.demo.watch import Watch, read_emitted
from cryptometer.commands.sources import read_community
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import kwh
from cryptometer.steps import MS_PER_S, NS_PER_MS, step_of
from hal.broker import BrokerSettings
from hal.mqtt import Link

METERS_MAX = 100
SPEED_MAX = 900  # a step in a second of the machine
START_MAX_S = 60.0
GRACE_MACHINE_S = 2  # these processes share a machine with whatever else it does
LATE_BLOCKS_MAX = 3  # for records that missed their own block on a machine that is too busy
EXIT_FAILED = 1
_TRANSFERRED = ("waiting", "allocated", "losses", "fees", "surplus")
RUN_LOG, PULSES_LOG = "run.log", "pulses.log"
_LOOK_EVERY_S = 0.25

_BEFOREHAND = (
    "",
    "The meters pulse. Each board counts, signs lots, keeps and sends them; behind each step the",
    "gateway seals a block. heard 1/2: one of two meters closed the step in time; late: records of",
    "earlier steps; punctuality: how long it took. The first blocks hold registrations alone.",
    "",
)


def demonstrate(arguments: argparse.Namespace) -> int:
    """Runs the demonstration; returns the exit code.

    Raises:
        ConfigurationError: a number is out of range, the folder is not empty, or there is no such
            broker.
    """
    for name, most in (("meters", METERS_MAX), ("blocks", 1000), ("speed", SPEED_MAX)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ConfigurationError(f"--{name} is from 1 to {most}")
    if arguments.broker == "mosquitto" and find_mosquitto() is None:
        raise ConfigurationError("Mosquitto is not installed: install it, or --broker embedded")
    folder = _empty_folder(arguments.keep)
    # However it is told to end, it ends its children first, in order.
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) leaves it
            signal.signal(number, _interrupt)
    try:
        with ExitStack() as stack:
            demonstration = Demonstration(folder, open_screen(), stack, arguments.broker)
            try:
                meters = simulated_meters(arguments.meters)
                return demonstration.run(meters, arguments.blocks, arguments.speed)
            finally:
                _heed_no_more()
    except ProgramError as error:
        print(f"cryptometer demo: {error}\nall of it lies in {folder}", file=sys.stderr)
        return EXIT_FAILED
    except Interrupted as interrupted:
        print(f"interrupted; what there is lies in {folder}", file=sys.stderr)
        return 128 + interrupted.number
    finally:
        # Python's own end takes handlers back, and whoever asks still would end it otherwise.
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)


class Interrupted(BaseException):
    """The user, or the machine, wants the demonstration to end. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: object) -> None:
    _heed_no_more()
    raise Interrupted(number)


def _heed_no_more() -> None:
    """A second Ctrl-C while the children end would leave some of them running. Not SIG_IGN: Python
    complains of a signal that it has seen and not handled yet."""
    for number in ENDINGS:
        signal.signal(number, lambda _number, _frame: None)


class Demonstration:
    """One run. What it starts ends with `stack`, the newest first."""

    def __init__(self, folder: Path, screen: Screen, stack: ExitStack, broker: str) -> None:
        self._folder = folder
        self._screen = screen
        self._stack = stack
        self._broker = broker
        self._children: list[Child] = []

    def run(self, meters: list[SimulatedMeter], blocks: int, speed: int) -> int:
        """Returns the exit code."""
        port = free_port()
        broker = self._watched(lambda: start_broker(self._folder / "broker", port, self._broker))
        self._wait(lambda: listens(port), START_MAX_S, "the broker to listen")
        self._screen.say(f"broker     {broker.name} on {HOST}:{port}")
        url = f"mqtt://{HOST}:{port}"
        layout = found(self._folder, meters, url, GRACE_MACHINE_S * speed, SIMULATED_MEMBERS)
        self._screen.say(
            f"community  {len(meters)} meters enrolled, {len(layout.members)} members agreed on"
            f" fixed keys; a step of 15 minutes takes {STEP_S / speed:.0f} s"
        )
        for line in _BEFOREHAND:
            self._screen.say(line)
        simulators = {meter.name: self._simulate(layout, meter, speed) for meter in meters}
        for meter in meters:
            self._wait(layout.line(meter).exists, START_MAX_S, f"the line of {meter.name}")
        # Only now does community time begin: setting up took as long as this machine needed.
        clock = configure(layout, speed)
        gateway = self._program("gateway", GATEWAY, layout.gateway / "gateway.toml")
        devices = [
            self._program(meter.name, FIRMWARE, layout.device(meter) / "meter.toml")
            for meter in meters
        ]
        watch = self._watch(layout, url, gateway, speed)
        step_machine_s = STEP_S / speed
        with self._screen:
            self._follow(watch, layout.first_step + blocks - 1, (blocks + 1) * step_machine_s)
            emitted = self._stop_meters(layout, simulators)
            self._screen.say("meters stopped; waiting for their last closes and the block")
            last = step_of(clock.now().utc_ns // NS_PER_MS + MS_PER_S * speed, STEP_S)
            for step in range(last, last + 1 + LATE_BLOCKS_MAX):
                self._follow(watch, step, (step - watch.newest_step + 1) * step_machine_s)
                if not missing(_audit(layout), emitted):
                    break
        for child in (*devices, gateway, broker):
            self._end(child)
        return self._judge(layout, emitted)

    def _judge(self, layout: Layout, emitted: dict[str, int]) -> int:
        """The last word is the audit's, of what lies on the disk once all programs have ended."""
        found = _audit(layout)
        say = self._screen.say
        say("")
        for name, pulses in emitted.items():
            say(f"{name}: pulses emitted {pulses}, pulses in blocks {found.registers[name]}")
        say(
            f"pulses emitted = {sum(emitted.values())}, pulses in blocks ="
            f" {sum(found.registers.values())}, energy {kwh(found.transferred_uwh)}"
        )
        say(f"the ledger holds: {found.blocks} blocks, {found.size} leaves, {found.late} late")
        lacks = missing(found, emitted)
        shared = _shared(layout)
        if shared is None:
            lacks.append("nothing was shared among the members")
        else:
            self._show_shares(layout, shared)
        say(f"\nall of it lies in {layout.folder}; look at it with")
        for what, line in _commands(layout, found.step, shared):
            say(f"  # {what}\n  {line}")
        say("Change a byte of any of these files, and ask again: it says what does not hold.")
        for line in lacks:
            say(f"MISSING: {line}")
        return EXIT_FAILED if lacks else 0

    def _show_shares(self, layout: Layout, shared: "Shared") -> None:
        """What each member has, and the proof of one share, checked with the public keys alone."""
        say = self._screen.say
        say("\nEnergy has become the members', by what they agreed on:")
        for name, energy_uwh in shared.members.items():
            say(f"{name}: {kwh(energy_uwh)}")
        member, file = _proven(layout)
        run(GATEWAY, "share", member, str(shared.step), "--out", file, "--config", layout.gateway)
        verified = run(COMMON, "verify", file, "--community", layout.community_pub)
        say(f"\n{member}'s share of one step, verified from {file.name} ({_size(file)}):")
        for line in filter(None, verified.splitlines()):
            say(f"  {line}")

    # --- Parts. ---

    def _simulate(self, layout: Layout, meter: SimulatedMeter, speed: int) -> Child:
        device = layout.device(meter)
        words = ("--tty", layout.line(meter), "--constant", str(meter.constant))
        load = ("--watts", str(meter.watts), "--speed", str(speed))
        command = program(FIRMWARE, "simulate", *words, *load, "--log", device / PULSES_LOG)
        log = device / "simulate.log"
        return self._watched(lambda: Child(f"meter {meter.name}", command, log))

    def _program(self, name: str, module: str, config: Path) -> Child:
        command = program(module, "run", "--config", config)
        return self._watched(lambda: Child(name, command, config.parent / RUN_LOG))

    def _watched(self, start: Callable[[], Child]) -> Child:
        with signals_behind():  # between the two nobody would know the child
            child = start()
            self._stack.callback(child.end)
        self._children.append(child)
        return child

    def _end(self, child: Child) -> None:
        self._children.remove(child)
        code = child.end()
        if code:
            raise ProgramError(child.describe_end(code))

    def _stop_meters(self, layout: Layout, simulators: dict[str, Child]) -> dict[str, int]:
        """Ends the pulses; returns how many each meter says it emitted."""
        emitted = {}
        for meter in layout.meters:
            self._end(simulators[meter.name])
            stated = read_emitted(layout.device(meter) / PULSES_LOG)
            emitted[meter.name] = stated.emitted
            for number, what in (
                (stated.overflow, "found the line's buffer full"),
                (stated.unread, "were not read before the line was closed"),
            ):
                if number:
                    self._screen.say(f"{meter.name}: {number} pulses {what}")
        return emitted

    def _watch(self, layout: Layout, url: str, gateway: Child, speed: int) -> Watch:
        community = read_community(layout.community_pub)
        topic = f"cryptometer/1/{community.id.hex()}/meter/+/record"
        link = Link(BrokerSettings(url=url), "cryptometer-demo", [topic])
        link.start()
        self._stack.callback(link.stop)
        logs = {meter.name: Tail(layout.device(meter) / PULSES_LOG) for meter in layout.meters}
        return Watch(link, logs, Tail(gateway.log), speed)

    # --- Waiting. ---

    def _follow(self, watch: Watch, step: int, longest_s: float) -> None:
        """Shows what happens until the block of a step is there."""

        def arrived() -> bool:
            self._screen.show(watch, watch.look())
            return watch.newest_step >= step

        self._wait(arrived, longest_s + START_MAX_S, f"the block of {step_time(step)}")

    def _wait(self, true: Callable[[], bool], longest_s: float, what: str) -> None:
        deadline = time.monotonic() + longest_s
        while not true():
            for child in self._children:
                child.check()
            if time.monotonic() > deadline:
                raise ProgramError(f"waited {longest_s:.0f} s for {what}, in vain")
            time.sleep(_LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the gateway says of sharing: the newest step that was shared, and members' accounts."""

    step: int
    members: dict[str, int]


def _shared(layout: Layout) -> Shared | None:
    values = json.loads(run(GATEWAY, "status", "--json", "--config", layout.gateway))
    if values["shared"] is None:
        return None
    members = {one["name"]: one["energy_uwh"] for one in values["members"]}
    return Shared(values["shared"]["step"], members)


def _proven(layout: Layout) -> tuple[str, Path]:
    """The member whose share is proven, and the file."""
    member = layout.members[0].name
    return member, layout.folder / f"{member}.share"


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 1000:.0f} kB"


@dataclass(frozen=True, slots=True)
class Audited:
    """What `cryptometer audit` found. `transferred_uwh` is what closes brought to the VPP, and
    `waiting_uwh` what of it has not left it."""

    step: int
    size: int
    blocks: int
    late: int
    registers: dict[str, int]
    transferred_uwh: int
    open_uwh: int
    quarantined_uwh: int
    waiting_uwh: int = 0


def _audit(layout: Layout) -> Audited:
    words = (layout.gateway, "--community", layout.community_pub, "--json")
    values = json.loads(run(COMMON, "audit", *words))
    energy = values["energy_uwh"]
    return Audited(
        values["step"],
        values["size"],
        values["blocks"],
        values["late"],
        values["registers"],
        sum(energy.get(place, 0) for place in _TRANSFERRED),
        energy.get("untransferred", 0),
        energy.get("quarantined", 0),
        energy.get("waiting", 0),
    )


def missing(found: Audited, emitted: dict[str, int]) -> list[str]:
    """What is not as it must be, one line each."""
    lacks = [
        f"{name} emitted {pulses} pulses, and {found.registers.get(name, 0)} are in blocks"
        for name, pulses in emitted.items()
        if found.registers.get(name, 0) != pulses
    ]
    if found.open_uwh:
        lacks.append(f"{kwh(found.open_uwh)} are not transferred")
    if found.waiting_uwh:
        lacks.append(f"{kwh(found.waiting_uwh)} wait at the virtual power plant")
    if found.quarantined_uwh:
        lacks.append(f"{kwh(found.quarantined_uwh)} are quarantined")
    return lacks


def _commands(layout: Layout, step: int, shared: Shared | None) -> list[tuple[str, str]]:
    """What an outsider and the operator would type now, as it can be typed on this machine, each
    behind what it is for."""
    common, gateway = (_script(name) for name in ("cryptometer", "cryptometer-gateway"))
    config, trusted = ("--config", layout.gateway), ("--community", layout.community_pub)
    proof = layout.folder / f"block-{step}.tlog-proof"
    lines: list[tuple[str, tuple[str | Path, ...]]] = [
        (
            "everything anew, from public files and keys alone",
            (common, "audit", layout.gateway, *trusted),
        ),
        (
            "what stands in a block",
            (common, "inspect", layout.gateway, "--step", str(step), "--brief"),
        ),
        ("the gateway's own view", (gateway, "status", *config)),
        ("a file that proves a block", (gateway, "prove", str(step), "--out", proof, *config)),
        ("and convinces whoever has community.pub", (common, "verify", proof, *trusted)),
    ]
    if shared is not None:
        member, file = _proven(layout)
        lines += [
            (f"why {member} got just that", (gateway, "why", member, str(shared.step), *config)),
            ("and its proof, back to the signed lots", (common, "verify", file, *trusted)),
        ]
    return [(what, shlex.join(map(str, words))) for what, words in lines]


def _script(name: str) -> str:
    """A console script by its name, or by its place where no shell would find it: in an
    environment that is not activated."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else str(beside)


def _empty_folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="cryptometer-demo-"))
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(f"{keep} is no folder; name a new one") from None
    if any(keep.iterdir()):
        raise ConfigurationError(f"{keep} is not empty; name a new folder")
    return keep.resolve()
