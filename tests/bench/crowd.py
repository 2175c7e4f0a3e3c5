"""Many meters that speak to one gateway, on a real store and a real folder; and what the bare
verification of just their signatures takes, as the measure of all else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cryptometer.commands.demo.broker import HOST
from cryptometer.commands.demo.processes import GATEWAY, Child, program
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS
from gateway.service import MESSAGES_MAX
from tests.bench.figures import Stopwatch
from tests.brokers import find_mosquitto, free_ports, listens
from tests.core.community import LOT_PULSES
from tests.gateway.kit import Premises, Site

START_MAX_S = 60.0

T = TypeVar("T")


@contextmanager
def crowd(
    path: Path, meters: int, url: str = f"mqtt://{HOST}:1", **parameters: Any
) -> Iterator[tuple[Premises, Site]]:
    """A gateway with many meters, whose runs have started; its node in this process. `parameters`
    replace those of the genesis."""
    premises = Premises(path, meters=meters, **parameters)
    premises.enrol(url=url)
    with closing(premises.folder.open_store()) as store:
        site = premises.site(store)
        site.at(site.next_step + 1, site.node.state.genesis.grace_ms)
        site.tick()
        deliver(site, [device.run_start(site.next_step) for device in site.devices])
        yield premises, site


def batches(site: Site, each: int, lots: int) -> list[list[Record]]:
    """So many batches of each meter for the next step."""
    pulses = [LOT_PULSES] * lots
    return [[device.batch(site.next_step, *pulses) for _ in range(each)] for device in site.devices]


def whole_step(site: Site, each: int, lots: int) -> list[list[Record]]:
    """The same, and the close of each meter."""
    sent = batches(site, each, lots)
    for device, records in zip(site.devices, sent, strict=True):
        records.append(device.close(site.next_step))
    return sent


def at_once(sent: Sequence[Sequence[Record]]) -> list[Record]:
    """The first record of each meter, then the second of each."""
    return list(chain.from_iterable(zip(*sent, strict=True)))


def in_turn(sent: Sequence[Sequence[Record]]) -> list[Record]:
    """All of a meter, then all of the next: a backlog."""
    return list(chain.from_iterable(sent))


@dataclass(frozen=True, slots=True)
class Took:
    """What some work took, in all."""

    cpu_s: float
    wall_s: float


def timed(action: Callable[[], T]) -> tuple[T, Took]:
    """What an action gives, and what it took."""
    watch = Stopwatch()
    given = action()
    return given, Took(watch.cpu_s, watch.wall_s)


def deliver(site: Site, sent: Sequence[Record], together: int = MESSAGES_MAX) -> Took:
    """Bytes in, until the last is acknowledged; so many messages in one commit."""
    messages = [site.message(record) for record in sent]
    before = site.node.pending_count
    watch = Stopwatch()
    for begin in range(0, len(messages), together):
        site.receive(messages[begin : begin + together])
    took = Took(watch.cpu_s, watch.wall_s)
    assert site.node.pending_count == before + len(sent)
    return took


def bare(site: Site, sent: Sequence[Record]) -> Took:
    """The verification of just these signatures by `cryptography`, keys and messages at hand."""
    keys = {
        device.signer.public.thumbprint: Ed25519PublicKey.from_public_bytes(
            device.signer.public.coordinates
        )
        for device in site.devices
    }
    work = [
        (keys[record.key_id].verify, record.envelope.signature, record.envelope.signed)
        for record in sent
    ]
    watch = Stopwatch()
    for verify, signature, signed in work:
        verify(signature, signed)
    return Took(watch.cpu_s, watch.wall_s)


@contextmanager
def served(premises: Premises, log: Path, origin_ms: int, speed: int = 1) -> Iterator[Child]:
    """The gateway as a process on its folder, once it hears the broker. Community time stands at
    `origin_ms` when it is started."""
    premises.folder.file.write_text(
        f'[clock]\ndriver = "scaled"\nspeed = {speed}\norigin_ms = {origin_ms}\n'
        f"anchor_ms = {time.monotonic_ns() // NS_PER_MS}\n"
    )
    child = Child("gateway", program(GATEWAY, "run", "--config", premises.path), log)
    try:
        deadline = time.monotonic() + START_MAX_S
        while "connected" not in log.read_text():
            child.check()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        yield child
    finally:
        assert child.end() == 0, child.last_lines()


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A real broker that lets as many messages be on their way as the one for production does
    (deploy/mosquitto); gives its port."""
    folder.mkdir(parents=True)
    port = free_ports()
    conf = folder / "mosquitto.conf"
    conf.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n"
        "max_inflight_messages 1000\nmax_queued_messages 0\nmax_queued_bytes 100000000\n"
    )
    child = Child("mosquitto", [find_mosquitto(), "-c", str(conf)], folder / "broker.log")
    try:
        deadline = time.monotonic() + START_MAX_S
        while not listens(port):
            child.check()
            assert time.monotonic() < deadline, "the broker does not listen"
            time.sleep(0.01)
        yield port
    finally:
        child.end()
