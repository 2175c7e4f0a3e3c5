"""The demonstration, from founding to audit."""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptometer.commands.demo.broker import HOST, free_port, listens, start_broker
from cryptometer.commands.demo.community import (
    STEP_S,
    Layout,
    SimulatedMeter,
    found,
    simulated_meters,
    write_configurations,
)
from cryptometer.commands.demo.processes import (
    COMMON,
    FIRMWARE,
    GATEWAY,
    Child,
    ProcessFailed,
    Tail,
    program,
    run,
)
from cryptometer.commands.demo.screen import Screen, open_screen, step_time
from cryptometer.commands.demo.watch import Watch, emitted_pulses
from cryptometer.commands.sources import read_community
from cryptometer.errors import ConfigurationError
from hal.broker import BrokerSettings
from hal.mqtt import Link

METERS_MAX = 100
SPEED_MAX = 900  # a step in a second of the machine
START_MAX_S = 60.0
GRACE_MACHINE_S = 2  # these processes share a machine with whatever else it does
LATE_BLOCKS_MAX = 3  # for records that missed their own block on a machine that is too busy
EXIT_FAILED = 1
_LOOK_EVERY_S = 0.25


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="a whole community on this machine, from pulse to audited block",
        description="Starts a broker, simulated meters whose pulses come over pseudo-terminals,"
        " their firmware and a gateway, each a process of its own, on a clock that runs faster."
        " After some blocks it stops the meters, waits for the last block, audits the ledger and"
        " compares. Exit code 0: every pulse emitted stands in a block, once.",
    )
    parser.add_argument("--meters", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--blocks", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--speed", type=int, default=45, metavar="X", help="default: 45, a step in 20 s"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="an empty folder for all of it (default: a new one among the temporary files)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    for name, most in (("meters", METERS_MAX), ("blocks", 1000), ("speed", SPEED_MAX)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ConfigurationError(f"--{name} is from 1 to {most}")
    folder = _empty_folder(arguments.keep)
    # An interrupt ends the children too, in order: each `with` below ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            screen = open_screen()
            demonstration = Demonstration(folder, screen, stack)
            meters = simulated_meters(arguments.meters)
            return demonstration.run(meters, arguments.blocks, arguments.speed)
    except ProcessFailed as error:
        print(f"cryptometer demo: {error}\nall of it lies in {folder}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"interrupted; what there is lies in {folder}", file=sys.stderr)
        return 128 + signal.SIGINT


class Demonstration:
    """One run. What it starts ends with `stack`, the newest first."""

    def __init__(self, folder: Path, screen: Screen, stack: ExitStack) -> None:
        self._folder = folder
        self._screen = screen
        self._stack = stack
        self._children: list[Child] = []

    def run(self, meters: list[SimulatedMeter], blocks: int, speed: int) -> int:
        """Returns the exit code."""
        port = free_port()
        broker = self._start(lambda: start_broker(self._folder / "broker", port))
        self._wait(lambda: listens(port), "the broker to listen")
        self._screen.say(f"broker: {broker.name} on {HOST}:{port}")
        url = f"mqtt://{HOST}:{port}"
        layout = found(self._folder, meters, url, speed, GRACE_MACHINE_S * speed)
        self._screen.say(
            f"community founded, {len(meters)} meters enrolled; a step in {STEP_S / speed:.0f} s"
        )
        simulators = self._start_simulators(layout, speed)
        # Only now does community time begin: setting up took as long as this machine needed.
        write_configurations(layout, speed)
        gateway = self._start_program("gateway", GATEWAY, layout.gateway)
        devices = [self._start_program(one.name, FIRMWARE, layout.device(one)) for one in meters]
        watch = self._watch(layout, url, gateway, simulators)
        return 0
