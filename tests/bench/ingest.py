"""The gateway's door: bytes in, decoded, verified, chained, durable, acknowledged.

Each round is measured right after the bare verification of the same signatures; of the rounds'
ratios the median counts.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.commands.demo.broker import HOST
from cryptometer.records import Record
from cryptometer.steps import step_start_ms
from gateway.service import MESSAGES_MAX
from gateway.store import Changes, Contact
from hal.broker import BrokerSettings
from hal.memory import collect_seldom
from hal.ports import Message
from tests.bench.crowd import START_MAX_S, at_once, bare, batches, crowd, deliver, mosquitto, served
from tests.bench.figures import US_PER_S, Figure, Stopwatch, process_cpu_s
from tests.brokers import party
from tests.core.community import STEP_S
from tests.gateway.kit import Site

METERS, EACH = 200, 5  # records of a meter in one commit: a step's worth of a third of an hour
ROUNDS = 12
LOTS = 200
LOT_ROUNDS = 6
COMMITS = 200
SINGLE = 200
BROKER_ROUNDS = 8
QUIET_S = 0.3


def figures() -> Iterator[Figure]:
    """The area's figures."""
    collect_seldom()
    with tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as folder:
        path = Path(folder)
        with crowd(path / "gateway", METERS) as (_, site):
            yield from _commits(site)
            yield from _door(site)
            yield from _lots(site)
            yield from _single(site)
        with mosquitto(path / "broker") as port:
            yield from _broker(path / "served", port)


def _commits(site: Site) -> Iterator[Figure]:
    """The least the store can do durably."""
    watch = Stopwatch()
    for number in range(COMMITS):
        site.store.commit(Changes(contacts=(Contact("m0", number, number, "S", 0),)))
    yield Figure("store: commits, each durable", COMMITS / watch.wall_s, "/s", least=10)


def _door(site: Site) -> Iterator[Figure]:
    ratios, bare_s, cpu_s, wall_s = [], [], [], []
    count = METERS * EACH
    for _ in range(ROUNDS):
        sent = at_once(batches(site, EACH, 1))
        alone, took = bare(site, sent), deliver(site, sent)
        ratios.append(alone.cpu_s / took.cpu_s)
        bare_s.append(alone.cpu_s)
        cpu_s.append(took.cpu_s)
        wall_s.append(took.wall_s)
    name = f"ingest: {METERS} meters x {EACH} records of 1 lot a commit"
    yield Figure(
        "bare verification of the same", count / statistics.median(bare_s), "/s", least=500
    )
    yield Figure(f"{name}", count / statistics.median(cpu_s), "/s", least=300)
    yield Figure(f"{name}, on the wall", count / statistics.median(wall_s), "/s", least=100)
    share = 100 * statistics.median(ratios)
    yield Figure(f"{name}, of the bare rate", share, "%", least=60)


def _lots(site: Site) -> Iterator[Figure]:
    cpu_s, wall_s = [], []
    for _ in range(LOT_ROUNDS):
        took = deliver(site, at_once(batches(site, EACH, LOTS)))
        cpu_s.append(took.cpu_s)
        wall_s.append(took.wall_s)
    lots = METERS * EACH * LOTS
    name = f"ingest: lots, in batches of {LOTS}"
    yield Figure(name, lots / statistics.median(cpu_s), "/s", least=600_000)
    yield Figure(f"{name}, on the wall", lots / statistics.median(wall_s), "/s", least=100_000)


def _single(site: Site) -> Iterator[Figure]:
    sent = at_once(batches(site, 1, 1))[:SINGLE]
    alone, took = bare(site, sent), deliver(site, sent, together=1)
    name = "ingest: one record a commit"
    yield Figure(name, len(sent) / took.wall_s, "/s", least=10)
    yield Figure(f"{name}, of the bare rate", 100 * alone.cpu_s / took.cpu_s, "%", least=2.5)


# --- Through a broker. ---


def _broker(path: Path, port: int) -> Iterator[Figure]:
    """The gateway as a process behind a real Mosquitto; broker and meters are other processes."""
    url = f"mqtt://{HOST}:{port}"
    with crowd(path, METERS, url) as (premises, site):
        step_ms = step_start_ms(site.next_step, STEP_S)
        sent = [at_once(batches(site, EACH, 1)) for _ in range(BROKER_ROUNDS)]
        last = {device.name: device.sequence for device in site.devices}
    before_s = sum(bare(site, some).cpu_s for some in sent)
    with served(premises, path.parent / "gateway.log", step_ms) as child:
        time.sleep(QUIET_S)
        began_s = process_cpu_s(child.pid)
        wall_s = _publish(site, sent, last, url)
        cpu_s = process_cpu_s(child.pid) - began_s
    # On both sides of it: what others do on the machine changes meanwhile.
    alone_s = (before_s + sum(bare(site, some).cpu_s for some in sent)) / 2
    count = sum(map(len, sent))
    name = f"through Mosquitto: {METERS} meters, 1 lot a record"
    yield Figure(name, count / cpu_s, "/s", least=200)
    yield Figure(f"{name}, on the wall", count / wall_s, "/s", least=100)
    yield Figure(f"{name}, a record", cpu_s / count * US_PER_S, "us", most=5_000)
    yield Figure(f"{name}, of the bare rate", 100 * alone_s / cpu_s, "%", least=35)


def _publish(site: Site, sent: list[list[Record]], last: dict[str, int], url: str) -> float:
    """All of it as fast as the broker takes it, until each meter's last record is acknowledged;
    wall seconds."""
    waiting = dict(last)
    acks = f"{site.topic}/meter/+/ack/gw"
    messages = [site.message(record) for record in (one for some in sent for one in some)]
    with party(BrokerSettings(url=url), "meters", [acks]) as meters:
        meters.until_up()
        time.sleep(QUIET_S)
        meters.take()
        meters.messages.clear()
        watch = Stopwatch()
        for begin in range(0, len(messages), MESSAGES_MAX):
            for message in messages[begin : begin + MESSAGES_MAX]:
                meters.say(message.topic, message.payload)
            _hear(meters.messages, waiting)
            meters.take()
        meters.until(
            lambda: not _hear(meters.messages, waiting), "the acknowledgements", START_MAX_S
        )
        return watch.wall_s


def _hear(messages: list[Message], waiting: dict[str, int]) -> dict[str, int]:
    """Strikes out whose last record is acknowledged; who is left."""
    for message in messages:
        body = records.decode(message.payload).body
        if isinstance(body, Acknowledgement) and body.sequence >= waiting.get(body.meter, 2**63):
            del waiting[body.meter]
    messages.clear()
    return waiting
