"""Side by side in one run, on the same kind of line and through the same broker: this firmware, a
script that publishes each pulse with paho, and vzlogger where VZLOGGER names its program.

Every pulse is one byte on a pseudo-terminal, written when it is due. What arrives is counted by a
subscriber: numbers or sums in messages for the two, lots in signed records for the firmware. A
gateway answers the firmware, as in use; the others get the broker's own acknowledgement.
"""

import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from cryptometer import records
from cryptometer.chain_records import Batch
from cryptometer.commands.demo.broker import HOST
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import Child
from cryptometer.errors import Rejected
from firmware.config import JournalSettings
from firmware.simulate import Terminal
from hal.broker import BrokerSettings
from hal.mqtt import Link
from hal.ports import Message
from tests.bench.figures import MS_PER_S, US_PER_S, Figure, process_cpu_s
from tests.bench.line import emit
from tests.system.plant import Plant, kill

PUBLISHER = Path(__file__).parents[1] / "peers" / "pulse_publisher.py"
VZLOGGER = os.environ.get("VZLOGGER", "")
RATES = (10, 100, 1_000, 10_000)
SECONDS = 2.0
WORK_S = 1.5  # until what was emitted is worked off
QUIET_S, QUIET_MAX_S = 3.0, 40.0  # no word for so long: all that will arrive has
DOWN_S = 2.0  # of a program or the broker
OUTAGE_HZ, OUTAGE_S = 100, 6.0
START_S = 2.0  # until a program that is started has its line and its connection
METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 0)
# Lots leave once a second instead of once a minute: the same work, and nothing to wait for.
DEVICE_TOML = "\n[batch]\ndelay_community_ms = 1000\n"


class Subscriber:
    """Counts what arrives at the broker, each contestant by its topic."""

    def __init__(self, port: int) -> None:
        self._link = Link(
            BrokerSettings(f"mqtt://{HOST}:{port}"), "counter", ["#"], keep_session=True
        )
        self._lots: dict[int, int] = {}  # of a batch, by the register it starts from
        self._numbers = 0
        self._sums = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._link.start()
        self._thread.start()

    @property
    def arrived(self) -> int:
        """Pulses of the present contestant."""
        return sum(self._lots.values()) + self._numbers + round(self._sums)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._link.stop()

    def settle(self) -> int:
        """Waits until nothing more comes; returns what has."""
        until_s, quiet_s, before = time.monotonic() + QUIET_MAX_S, time.monotonic(), self.arrived
        while time.monotonic() < until_s and time.monotonic() - quiet_s < QUIET_S:
            time.sleep(0.1)
            if self.arrived != before:
                before, quiet_s = self.arrived, time.monotonic()
        return self.arrived

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            for event in self._link.drain(10_000):
                if isinstance(event, Message):
                    self._count(event)
                    self._link.confirm(event.token)

    def _count(self, message: Message) -> None:
        if message.topic == "pulses":
            self._numbers += 1
        elif message.topic.startswith("vz/") and message.topic.endswith("/raw"):
            self._sums += float(message.payload)
        elif message.topic.endswith("/record"):
            try:
                body = records.decode(message.payload).body
            except Rejected:
                return
            if isinstance(body, Batch):  # a record that comes again says the same again
                self._lots[body.register] = sum(body.pulses)


class Contestant(Protocol):
    """A program that counts a line."""

    name: str
    child: Child
    pulse_us_max: float | None

    def start(self) -> None: ...

    def flush(self) -> None:
        """Sees to it that all it has counted is published."""
        ...

    def lost(self, where: str, pulses: int, at_most: int = 0, /) -> Figure:
        """Pulses emitted that did not arrive; below 0, some arrived twice."""
        ...


class Firmware:
    """This firmware."""

    name = "firmware"
    pulse_us_max: float | None = 5_000  # at 10 pulses/s, where each pulse is a look

    def lost(self, where: str, pulses: int, at_most: int = 0, /) -> Figure:
        assert pulses >= 0, "a pulse was counted twice"
        return Figure(f"{self.name}: pulses lost {where}", pulses, "", most=at_most)

    def __init__(self, plant: Plant, _link: Path) -> None:
        self._plant = plant
        self.start()

    def start(self) -> None:
        log = self._plant.layout.device(METER) / "run.log"
        before = log.read_text().count("connected") if log.exists() else 0
        self.child = self._plant.start_device(METER)
        self._plant.wait(lambda: log.read_text().count("connected") > before, "the connection")
        time.sleep(START_S)

    def flush(self) -> None:
        # A run that begins closes the lot of the one before, which is not full yet.
        assert self.child.end() == 0, self.child.last_lines()
        self.start()


class Script:
    """A message a pulse, with paho."""

    name = "paho script"
    pulse_us_max: float | None = None

    def lost(self, where: str, pulses: int, _at_most: int = 0, /) -> Figure:
        return Figure(f"{self.name}: pulses lost {where}", pulses, "")

    def __init__(self, plant: Plant, link: Path) -> None:
        self._plant = plant
        words = (str(link), HOST, str(plant.port), "pulses")
        self._command = [sys.executable, str(PUBLISHER), *words]
        self.start()

    def start(self) -> None:
        log = self._plant.folder / "script.log"
        self.child = self._plant._keep(Child("script", self._command, log))
        time.sleep(START_S)

    def flush(self) -> None:
        pass


class Vzlogger:
    """vzlogger's S0 reader, with MQTT in place of its middleware."""

    name = "vzlogger"
    pulse_us_max: float | None = None

    def lost(self, where: str, pulses: int, _at_most: int = 0, /) -> Figure:
        return Figure(f"{self.name}: pulses lost {where}", pulses, "")

    def __init__(self, plant: Plant, link: Path) -> None:
        self._plant = plant
        self._conf = plant.folder / "vzlogger.conf"
        channel = {
            "api": "null",
            "uuid": "00000000-0000-4000-8000-000000000000",
            "identifier": "Impulse",
            "middleware": "none",
        }
        meter = {
            "enabled": True,
            "protocol": "s0",
            "device": str(link),
            "debounce_delay": 0,  # of 30 ms by default; every byte here is a pulse
            "channels": [channel],
        }
        broker = {"enabled": True, "host": HOST, "port": plant.port, "topic": "vz", "qos": 1}
        settings = {
            "retry": 1,
            "local": {"enabled": False},
            "mqtt": {**broker, "keepalive": 30},
            "meters": [meter],
        }
        self._conf.write_text(json.dumps(settings))
        self.start()

    def start(self) -> None:
        log = self._plant.folder / "vzlogger.log"
        command = [VZLOGGER, "-f", "-c", str(self._conf), "-o", str(log) + ".own"]
        self.child = self._plant._keep(Child("vzlogger", command, log))
        time.sleep(START_S)

    def flush(self) -> None:
        pass


def figures() -> Iterator[Figure]:
    """The area's figures; those of others stand for comparison, and have no limit."""
    kinds: list[Callable[[Plant, Path], Contestant]] = [Firmware, Script]
    if VZLOGGER:
        kinds.append(Vzlogger)
    with (
        tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path,
        Plant(Path(path), [METER], speed=1, device_toml=DEVICE_TOML) as plant,
    ):
        assert plant.broker is not None
        plant.broker.end()
        plant.start_keeping_broker()
        plant.start_gateway()
        for make in kinds:
            with Terminal(plant.layout.line(METER), None) as line:
                yield from _contest(plant, line, make)


def _contest(
    plant: Plant, line: Terminal, make: Callable[[Plant, Path], Contestant]
) -> Iterator[Figure]:
    subscriber = Subscriber(plant.port)
    one = make(plant, plant.layout.line(METER))
    try:
        for rate in RATES:
            used_s, before = process_cpu_s(one.child.pid), subscriber.arrived
            emitted = emit(line, rate, SECONDS)
            time.sleep(WORK_S)
            used_s = process_cpu_s(one.child.pid) - used_s
            one.flush()
            lost = emitted - (subscriber.settle() - before)
            yield one.lost(f"at {rate:,} pulses/s, of {emitted:,}", lost)
            yield Figure(
                f"{one.name}: processor time of a pulse at {rate:,}/s",
                used_s / emitted * US_PER_S,
                "us",
                most=one.pulse_us_max,
            )

        def die() -> None:
            kill(one.child)
            time.sleep(DOWN_S)
            one.start()

        def lose_broker() -> None:
            assert plant.broker is not None
            plant.broker.end()
            time.sleep(DOWN_S)
            plant.start_keeping_broker()

        # A kill may come between a read and its entry in the journal.
        a_read = math.ceil(OUTAGE_HZ * JournalSettings().gather_machine_ms / MS_PER_S)
        for what, act, at_most in (
            ("at a kill -9", die, a_read),
            ("at a restart of the broker", lose_broker, 0),
        ):
            before = subscriber.arrived
            emitted = _emit_while(line, act)
            one.flush()
            lost = emitted - (subscriber.settle() - before)
            yield one.lost(f"{what}, {OUTAGE_HZ} pulses/s, of {emitted:,}", lost, at_most)
    finally:
        one.child.end()
        subscriber.close()


def _emit_while(line: Terminal, act: Callable[[], None]) -> int:
    """Pulses before, while and after something happens; returns how many the line took."""
    taken: list[int] = []
    emitting = threading.Thread(target=lambda: taken.append(emit(line, OUTAGE_HZ, OUTAGE_S)))
    emitting.start()
    time.sleep(OUTAGE_S / 4)
    act()
    emitting.join()
    return taken[0]
