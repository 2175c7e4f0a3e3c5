"""Real brokers on loopback, each a process of its own, ended by its process id; and real links to
them. Every wait has an end.
"""

import getpass
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hal import mqtt
from hal.broker import BrokerSettings
from hal.mqtt import Link
from hal.ports import Connected, Disconnected, Message

HOST = "127.0.0.1"
WAIT_S = 20.0  # for what takes milliseconds on an idle machine
ENOUGH = 10_000

# Outside of the range that outgoing connections take, so that nobody takes the port of a broker
# that is being restarted.
_PORTS = range(20_000, 32_000)
_ALSO_IN = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian puts Mosquitto


def find_mosquitto() -> str:
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:{_ALSO_IN}")
    assert found is not None, "Mosquitto is not installed: apt install mosquitto"
    return found


def until(true: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Waits until something is true.

    Raises:
        AssertionError: it is not, after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def free_ports(count: int = 1) -> int:
    """The first of so many neighbouring TCP ports that nobody listens on now."""
    while True:
        first = random.choice(_PORTS)
        if all(_is_free(first + more) for more in range(count)):
            return first


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class BrokerProcess:
    """One broker: started, stopped and started again as a test says."""

    def __init__(self, command: Sequence[str], ports: Sequence[int], log: Path) -> None:
        """
        Args:
            command: what runs it in the foreground.
            ports: where it listens, once it does.
            log: where its output goes.
        """
        self._command = list(command)
        self._ports = list(ports)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def log(self) -> str:
        """All it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Returns once it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self._is_ready, f"{self._command} to listen")

    def stop(self) -> int:
        """Ends it as a service manager does; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> None:
        """Makes it read its files again; returns once it has."""
        before = self.log.count("Reloading config.")
        self.signal(signal.SIGHUP)
        until(lambda: self.log.count("Reloading config.") > before, "the broker to reload")

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        try:
            return self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(WAIT_S)
            raise
        finally:
            self._process = None

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the broker ended:\n{self.log}"
        return all(listens(port) for port in self._ports)


@contextmanager
def running(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def plain_mosquitto(folder: Path) -> BrokerProcess:
    """A broker that anyone on this machine may use; it remembers nothing."""
    port = free_ports()
    conf = folder / "plain.conf"
    conf.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n"
        "max_queued_messages 0\nmax_queued_bytes 100000000\n"
    )
    return BrokerProcess(
        [find_mosquitto(), "-v", "-c", str(conf)], [port], folder / "mosquitto.log"
    )


def embedded_broker(folder: Path) -> BrokerProcess:
    """The broker of the demonstration where no Mosquitto is installed; warnings end it."""
    port = free_ports()
    module = "cryptometer.commands.embedded_broker"
    command = [sys.executable, "-W", "error", "-m", module, "--port", str(port)]
    return BrokerProcess(command, [port], folder / "embedded.log")


def production_mosquitto(conf: Path, folder: Path, port: int) -> BrokerProcess:
    """Mosquitto with a configuration that `cryptometer authority` wrote.

    Args:
        conf: the written `mosquitto.conf`.
        folder: for the broker's own files.
        port: of the listener for certificates; the next one is for passwords.
    """
    included = folder / "conf.d"
    included.mkdir(parents=True, exist_ok=True)
    link = included / "cryptometer.conf"
    link.unlink(missing_ok=True)
    link.symlink_to(conf)
    main = folder / "main.conf"
    # As Debian's own; the user is ours, since only root may become another one.
    main.write_text(
        f"user {getpass.getuser()}\npersistence true\npersistence_location {folder}/\n"
        f"log_dest stderr\nlog_type all\ninclude_dir {included}\n"
    )
    command = [find_mosquitto(), "-c", str(main)]
    return BrokerProcess(command, [port, port + 1], folder / "mosquitto.log")


class Party:
    """A link, and all that came over it. It confirms messages as they come, unless told not to."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        subscriptions: Sequence[str] = (),
        *,
        confirms: bool = True,
        **more: Any,
    ) -> None:
        self.link = Link(settings, client_id, subscriptions, **more)
        self.messages: list[Message] = []
        self.connections = 0
        self.reasons: list[str] = []
        self.is_up = False
        self._confirms = confirms

    def take(self, wait_s: float = 0.0) -> None:
        """Takes what has come."""
        poll = select.poll()
        poll.register(self.link.fileno(), select.POLLIN)
        poll.poll(1000 * wait_s)
        for event in self.link.drain(ENOUGH):
            match event:
                case Message():
                    self.messages.append(event)
                    if self._confirms:
                        self.link.confirm(event.token)
                case Connected():
                    self.connections += 1
                    self.is_up = True
                case Disconnected(reason=reason):
                    self.reasons.append(reason)
                    self.is_up = False

    def until(self, true: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
        """Takes what comes until something is true."""

        def check() -> bool:
            self.take(wait_s=0.02)
            return bool(true())

        until(check, f"{what}; broker: {self.reasons[-1:]}", seconds)

    def until_up(self) -> None:
        self.until(lambda: self.is_up, "a connection")

    def until_down(self) -> None:
        self.until(lambda: not self.is_up, "the end of the connection")

    def until_connected(self, times: int) -> None:
        self.until(lambda: self.connections >= times, f"connection {times}")

    def until_refused(self) -> str:
        """Waits for the reason of the first failure; there must be no connection before it."""
        self.until(lambda: self.reasons, "a refusal")
        assert self.connections == 0
        return self.reasons[0]

    def until_got(self, topic: str, payload: bytes) -> Message:
        """Waits for a message, and returns it."""

        def got() -> list[Message]:
            return [one for one in self.messages if (one.topic, one.payload) == (topic, payload)]

        self.until(got, f"{payload[:40]!r} on {topic}")
        return got()[0]

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic == topic]

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.link.publish(topic, payload, retain=retain)


@contextmanager
def party(
    settings: BrokerSettings, client_id: str, subscriptions: Sequence[str] = (), **more: Any
) -> Iterator[Party]:
    """A party with a running link, which is stopped in the end."""
    one = Party(settings, client_id, subscriptions, **more)
    one.link.start()
    try:
        yield one
    finally:
        one.link.stop()


def cut(link: Link) -> None:
    """Breaks a connection as a network does: without a farewell."""
    client = link._client
    assert client is not None
    mqtt._break(client)


def introduce(speaker: Party, hearer: Party, topic: str) -> None:
    """Returns once what `speaker` says on a topic reaches `hearer`: its subscription stands."""
    speaker.until_up()
    count = 0

    def heard() -> bool:
        nonlocal count
        count += 1
        speaker.say(topic, b"hello %d" % count)
        hearer.take(wait_s=0.05)
        return any(one.startswith(b"hello ") for one in hearer.payloads(topic))

    hearer.until(heard, f"{topic} to be heard")
    speaker.say(topic, b"that is all")
    hearer.until_got(topic, b"that is all")
    hearer.messages.clear()


def keep_saying(speaker: Party, hearer: Party, topic: str, payload: bytes) -> None:
    """Returns once `hearer` has heard it from `speaker`, whom the broker may have cut off for what
    he said before: Mosquitto 2.0.11 does that to who says what he may not."""

    def heard() -> bool:
        speaker.take()
        if speaker.is_up:
            speaker.link.publish(topic, payload)
        hearer.take(wait_s=0.05)
        return payload in hearer.payloads(topic)

    hearer.until(heard, f"{payload!r} to be heard on {topic}")


def plain(broker: BrokerProcess) -> BrokerSettings:
    """How to reach a broker without TLS."""
    return BrokerSettings(url=f"mqtt://{HOST}:{broker.port}")
