"""Punctuality: from the later of a step's end and the last close received to the published
checkpoint; the gateway as a process behind a real Mosquitto, and two hundred meters that send what
the default settings have them send.

The wall says what a user gets where the machine has cores to spare. Where others keep it busy, it
says how long they let the gateway wait; so the processor time of the same process, over the same
blocks, stands beside it.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptometer.commands.demo.broker import HOST
from cryptometer.commands.demo.processes import Child
from cryptometer.steps import NS_PER_MS, NS_PER_S, step_of, step_start_ms
from gateway.folder import open_folder
from hal.broker import BrokerSettings
from hal.drivers import open_clock
from hal.memory import collect_seldom
from hal.ports import Clock
from tests.bench.crowd import at_once, crowd, deliver, mosquitto, served, timed, whole_step
from tests.bench.figures import MS_PER_S, Figure, bare_verify_s, process_cpu_s
from tests.brokers import Party, party
from tests.core.community import LOT_PULSES, STEP_S
from tests.gateway.kit import Site

METERS, BATCHES = 200, 15  # a batch a minute and the close: the default settings
SPEED = 225  # a step in four seconds of the machine: 800 records a second
BLOCKS = 50
GRACE_MACHINE_MS = 1_000
BLOCK_MAX_S = 60.0
PARTS = BATCHES + 1
WORK_BLOCKS = 9
LAST = 50  # closes that come together, when all meters close at one moment


def figures() -> Iterator[Figure]:
    """The area's figures."""
    yield from _work()
    yield from _served()


def _work() -> Iterator[Figure]:
    """What the processor has to do between the last closes and the checkpoint, in this process: a
    machine that others use does not change it."""
    collect_seldom()
    judged_s, sealed_s = [], []
    with (
        tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder,
        crowd(Path(folder) / "gateway", METERS) as (_, site),
    ):
        for _ in range(WORK_BLOCKS):
            sent = at_once(whole_step(site, BATCHES, 1))
            deliver(site, sent[:-LAST])
            site.at(site.next_step + 1)
            judged_s.append(deliver(site, sent[-LAST:]).cpu_s)
            _, took = timed(site.tick)
            sealed_s.append(took.cpu_s)
            assert site.node.pending_count == 0
    name = f"the last {LAST} closes judged, processor"
    yield Figure(name, statistics.median(judged_s) * MS_PER_S, "ms", most=50)
    name = f"block of {METERS} x {PARTS} records sealed, processor"
    yield Figure(name, statistics.median(sealed_s) * MS_PER_S, "ms", most=150)
    ratio = statistics.median(sealed_s) / (METERS * PARTS) / bare_verify_s()
    yield Figure("the same, a record, in bare verifications", ratio, "", most=0.5)


def _served() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        path = Path(folder)
        with mosquitto(path / "broker") as port:
            url = f"mqtt://{HOST}:{port}"
            grace_ms = GRACE_MACHINE_MS * SPEED
            with crowd(path / "gateway", METERS, url, grace_ms=grace_ms) as (premises, site):
                origin_ms = step_start_ms(site.next_step, STEP_S)
            log = path / "gateway.log"
            with served(premises, log, origin_ms, SPEED) as gateway:
                clock = open_clock(open_folder(premises.path).config.clock)
                with party(BrokerSettings(url=url), "meters") as meters:
                    meters.until_up()
                    first = step_of(clock.now().utc_ns // NS_PER_MS, STEP_S) + 2
                    steps = range(first, first + BLOCKS)
                    spent_s = [_step(site, meters, clock, one, gateway, log) for one in steps]
                    _until(clock, first + BLOCKS + 2)
            blocks = _blocks(log, range(first, first + BLOCKS))
    assert len(blocks) == BLOCKS
    heard = sum(_words(line)["heard"] == f"{METERS}/{METERS}" for line in blocks)
    late = sum(int(_words(line)["late"]) for line in blocks)
    took_ms = sorted(int(_words(line)["punctuality_ms"]) / SPEED for line in blocks)
    name = f"punctuality: {METERS} meters x {PARTS} records a block"
    yield Figure(f"{name}, median of {BLOCKS}", statistics.median(took_ms), "ms", most=100)
    yield Figure(f"{name}, p99", took_ms[math.ceil(0.99 * BLOCKS) - 1], "ms", most=100)
    yield Figure(f"{name}, worst", took_ms[-1], "ms", most=2_000)
    name = f"{METERS} closes judged, block published, gateway's processor"
    yield Figure(f"{name}, median", statistics.median(spent_s) * MS_PER_S, "ms", most=300)
    yield Figure(f"{name}, worst", max(spent_s) * MS_PER_S, "ms", most=600)
    yield Figure("punctuality: blocks that heard every meter", 100 * heard / BLOCKS, "%", least=75)
    yield Figure("punctuality: records late", late, "", most=METERS * PARTS)


def _step(site: Site, meters: Party, clock: Clock, step: int, gateway: Child, log: Path) -> float:
    """The meters speak of one step: a batch each, now and then, and the close at its end. Gives
    what the gateway's process, all its threads, had to do from then to the published block."""
    for part in range(1, PARTS):
        said = [site.message(device.batch(step, LOT_PULSES)) for device in site.devices]
        _until(clock, step, part / PARTS)
        for message in said:
            meters.say(message.topic, message.payload)
        meters.take()
    closes = [site.message(device.close(step)) for device in site.devices]
    _until(clock, step + 1)
    begin_s = process_cpu_s(gateway.pid)
    for message in closes:
        meters.say(message.topic, message.payload)
    deadline = time.monotonic() + BLOCK_MAX_S
    while f"block step={step} " not in _end_of(log):
        assert time.monotonic() < deadline, gateway.last_lines()
        time.sleep(0.002)
    return process_cpu_s(gateway.pid) - begin_s


def _end_of(log: Path) -> str:
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - 1_000))
        return lines.read().decode(errors="replace")


def _until(clock: Clock, step: int, part: float = 0.0) -> None:
    """Waits until so much of a step is over."""
    due_ns = step_start_ms(step, STEP_S) * NS_PER_MS + int(part * STEP_S * NS_PER_S)
    ahead_ns = due_ns - clock.now().utc_ns
    if ahead_ns > 0:
        time.sleep(clock.machine_wait_s(ahead_ns))


def _blocks(log: Path, steps: range) -> list[str]:
    """The gateway's own lines of the blocks of these steps that were made in time."""
    lines = [one for one in log.read_text().splitlines() if one.startswith("block ")]
    timed = [one for one in lines if "punctuality_ms" in _words(one)]
    return [one for one in timed if int(_words(one)["step"]) in steps]


def _words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
