"""The link to the broker, against a real Mosquitto and against the embedded broker."""

import gc
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryptometer.errors import ConfigurationError
from hal import mqtt
from hal.broker import BrokerSettings
from hal.mqtt import Link
from hal.ports import Connected, Disconnected
from tests.brokers import (
    HOST,
    BrokerProcess,
    cut,
    embedded_broker,
    free_ports,
    introduce,
    party,
    plain,
    plain_mosquitto,
    running,
    until,
)

MakeBroker = Callable[[Path], BrokerProcess]

KIB = 1024


@pytest.fixture(params=[plain_mosquitto, embedded_broker], ids=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    make: MakeBroker = request.param
    with running(make(tmp_path)) as one:
        yield one


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[BrokerProcess]:
    with running(plain_mosquitto(tmp_path)) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a thread, a socket or another open file."""
    gc.collect()
    files, threads = _open_files(), set(threading.enumerate())
    gc.disable()  # what only the collector would close is a leak
    try:
        yield
        until(lambda: set(threading.enumerate()) <= threads, "the threads to end", 15)
        assert _open_files() == files
    finally:
        gc.enable()


def _open_files() -> dict[str, str]:
    return {
        entry.name: target
        for entry in Path("/proc/self/fd").iterdir()
        if (target := _target(entry)) and not target.startswith(("/proc/", "/dev/"))
    }


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


# --- Messages. -----------------------------------------------------------------------------------


def test_what_one_says_the_other_hears_in_order(broker: BrokerProcess) -> None:
    with party(plain(broker), "hears", ["a/+"]) as hearer, party(plain(broker), "says") as speaker:
        introduce(speaker, hearer, "a/b")
        said = [b"%d" % number for number in range(500)]
        for payload in said:
            speaker.say("a/b", payload)
        hearer.until(lambda: len(hearer.messages) >= len(said), "all of them")
        assert hearer.payloads("a/b") == said
        assert not any(message.retained for message in hearer.messages)


def test_a_message_of_64_kib_arrives_whole(broker: BrokerProcess) -> None:
    payload = bytes(range(256)) * (64 * KIB // 256)
    with party(plain(broker), "hears", ["big"]) as hearer, party(plain(broker), "says") as speaker:
        introduce(speaker, hearer, "big")
        speaker.say("big", payload)
        assert hearer.until_got("big", payload).payload == payload


def test_a_retained_message_waits_for_who_comes_later(broker: BrokerProcess) -> None:
    with party(plain(broker), "says", ["word/+"]) as speaker:
        speaker.until_up()
        speaker.say("word/a", b"old", retain=True)
        speaker.say("word/a", b"new", retain=True)
        speaker.say("word/b", b"fleeting")
        speaker.until_got("word/b", b"fleeting")
        with party(plain(broker), "comes later", ["word/+"]) as late:
            assert late.until_got("word/a", b"new").retained
            speaker.say("word/b", b"end")
            late.until_got("word/b", b"end")
            # The embedded broker says it twice; what it retains, it says to whom did not ask, too.
            assert set(late.payloads("word/a")) == {b"new"}
            assert late.payloads("word/b") == [b"end"]


def test_nothing_is_published_without_a_connection(tmp_path: Path) -> None:
    broker = plain_mosquitto(tmp_path)
    with party(plain(broker), "alone") as one:
        assert one.link.publish("a", b"lost") is False
        with running(broker):
            one.until_up()
            assert one.link.publish("a", b"sent") is True
        one.until_down()
        assert one.link.publish("a", b"lost") is False


def test_events_wake_who_polls_the_descriptor(mosquitto: BrokerProcess) -> None:
    with party(plain(mosquitto), "polls", ["a"]) as one:
        one.until_up()
        introduce(one, one, "a")
        poll = select.poll()
        poll.register(one.link.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        one.say("a", b"1")
        one.say("a", b"2")
        assert poll.poll(10_000)
        until(lambda: one.link._events.qsize() == 2, "both")
        assert len(one.link.drain(1)) == 1
        assert poll.poll(0), "one more waits"
        assert len(one.link.drain(2)) == 1
        assert poll.poll(0) == []


# --- What is not confirmed, and what fits. -------------------------------------------------------


def test_an_unconfirmed_message_comes_again(mosquitto: BrokerProcess) -> None:
    with party(plain(mosquitto), "says") as speaker:
        with party(plain(mosquitto), "hears", ["a"], keep_session=True, confirms=False) as hearer:
            introduce(speaker, hearer, "a")
        with party(plain(mosquitto), "hears", ["a"], keep_session=True, confirms=False) as hearer:
            hearer.until_got("a", b"that is all")
            for payload in (b"1", b"2", b"3"):
                speaker.say("a", payload)
            hearer.until_got("a", b"3")
            for message in hearer.messages:
                if message.payload in (b"that is all", b"2") or message.payload[:5] == b"hello":
                    hearer.link.confirm(message.token)
            until(lambda: "Received PUBACK from hears" in mosquitto.log, "the confirmations")
        speaker.say("a", b"4")  # while nobody is there
        with party(plain(mosquitto), "hears", ["a"], keep_session=True) as hearer:
            hearer.until_got("a", b"4")
            assert hearer.payloads("a") == [b"1", b"3", b"4"]
        with party(plain(mosquitto), "hears", ["a"], keep_session=True) as hearer:
            introduce(speaker, hearer, "a")
            speaker.say("a", b"5")
            hearer.until_got("a", b"5")
            assert hearer.payloads("a") == [b"5"]


def test_a_message_that_needs_no_confirmation_gets_none(mosquitto: BrokerProcess) -> None:
    """The broker would take a confirmation of message 0 for a fault of the protocol."""
    with party(plain(mosquitto), "hears", ["a"]) as hearer:
        introduce(hearer, hearer, "a")
        command = ("mosquitto_pub", "-p", str(mosquitto.port), "-t", "a", "-m", "1", "-q", "0")
        subprocess.run(command, check=True, timeout=20)
        hearer.until_got("a", b"1")
        hearer.say("a", b"2")
        hearer.until_got("a", b"2")
        assert hearer.reasons == []
    assert "Received PUBACK from hears (Mid: 0" not in mosquitto.log


def test_the_embedded_broker_gives_nothing_again_and_blocks_nobody(tmp_path: Path) -> None:
    with (
        running(embedded_broker(tmp_path)) as broker,
        party(plain(broker), "says") as speaker,
        party(plain(broker), "hears", ["a"], keep_session=True, confirms=False) as hearer,
    ):
        introduce(speaker, hearer, "a")
        for number in range(2_000):
            speaker.say("a", b"%d" % number)
        hearer.until(lambda: len(hearer.messages) >= 2_000, "all of them, none confirmed")
        hearer.say("a", b"from who confirmed nothing")
        hearer.until_got("a", b"from who confirmed nothing")


def test_a_confirmation_means_nothing_in_a_later_connection(
    mosquitto: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "BACKOFF_MAX_S", 0.01)
    with (
        party(plain(mosquitto), "says") as speaker,
        party(plain(mosquitto), "hears", ["a", "b"], keep_session=True, confirms=False) as hearer,
    ):
        introduce(speaker, hearer, "a")
        speaker.say("a", b"1")
        old = hearer.until_got("a", b"1").token
        for connection in range(2, 12):
            hearer.messages.clear()
            cut(hearer.link)
            hearer.until_connected(connection)
            hearer.until_got("a", b"1")
            assert hearer.messages[-1].token not in (old, None)
            # The same message id, of a connection that is gone: an object that stands where an
            # older one stood must not be taken for it.
            hearer.link.confirm(old)
            hearer.say("b", b"%d" % connection)
            hearer.until_got("b", b"%d" % connection)  # a confirmation would be there by now
        hearer.messages.clear()
        cut(hearer.link)
        hearer.until_got("a", b"1")


def test_who_takes_nothing_out_holds_a_bounded_number_of_messages(
    mosquitto: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "INCOMING_MAX", 10)
    with party(plain(mosquitto), "hears", ["a"]) as hearer, party(plain(mosquitto), "says") as one:
        introduce(one, hearer, "a")
        for number in range(100):
            one.say("a", b"%d" % number)
        until(lambda: hearer.link._events.qsize() >= 10, "the messages that fit")
        one.say("b", b"")
        until(lambda: "'b', ... (0 bytes))" in mosquitto.log, "the broker to have them all")
        assert hearer.link._events.qsize() == 10
        hearer.until(lambda: len(hearer.messages) >= 100, "the rest")
        assert hearer.payloads("a") == [b"%d" % number for number in range(100)]
        for number in range(100):
            one.say("a", b"%d" % number)
        until(lambda: hearer.link._events.qsize() >= 10, "the messages that fit")
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 3, "it was stopped while it waited for room"


# --- A broker that goes and comes. ---------------------------------------------------------------


def test_a_link_comes_back_when_the_broker_does(broker: BrokerProcess) -> None:
    with party(plain(broker), "hears", ["a"]) as hearer, party(plain(broker), "says") as speaker:
        introduce(speaker, hearer, "a")
        assert broker.stop() == 0
        for one in (hearer, speaker):
            one.until_down()
        hearer.until(lambda: len(hearer.reasons) >= 2, "another attempt")
        assert hearer.reasons[0] == "the connection broke"
        assert hearer.reasons[1].startswith(f"cannot reach {HOST}:{broker.port}: ")
        broker.start()
        hearer.until_up()
        introduce(speaker, hearer, "a")


def test_a_link_comes_back_to_a_broker_that_forgot_everything(broker: BrokerProcess) -> None:
    with (
        party(plain(broker), "hears", ["a"], keep_session=True) as hearer,
        party(plain(broker), "says", ["kept"]) as speaker,
    ):
        introduce(speaker, hearer, "a")
        speaker.say("kept", b"1", retain=True)
        speaker.until_got("kept", b"1")
        broker.kill()  # neither of the two brokers of these tests writes anything down
        broker.start()
        hearer.until_connected(2)
        speaker.until_connected(2)
        introduce(speaker, hearer, "a")
        assert speaker.payloads("kept") == [b"1"], "the new broker has no retained message"


def test_the_broker_speaks_the_last_will_of_who_vanished(broker: BrokerProcess) -> None:
    will = "meter/status"
    with party(plain(broker), "hears", [will]) as hearer:
        hearer.until_up()
        with party(plain(broker), "vanishes", [], will_topic=will) as one:
            introduce(one, hearer, will)
            one.say(will, b"online", retain=True)
            hearer.until_got(will, b"online")
            cut(one.link)
            hearer.until_got(will, b"offline")
            with party(plain(broker), "late", [will]) as late:
                assert late.until_got(will, b"offline").retained
            one.until_connected(2)
            hearer.messages.clear()
            one.say(will, b"online", retain=True)
            hearer.until_got(will, b"online")
        # It left in order: its will is void.
        with party(plain(broker), "late", [will]) as late:
            assert late.until_got(will, b"online").retained
            introduce(late, hearer, will)
    assert b"offline" not in hearer.payloads(will)


def test_the_back_off_doubles_up_to_a_minute_and_is_jittered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return 0.001

    monkeypatch.setattr(random, "uniform", uniform)
    with party(BrokerSettings(url=f"mqtt://{HOST}:{free_ports()}"), "waits") as one:
        one.until(lambda: len(one.reasons) > 10, "ten attempts")
    assert ranges[:10] == [(high / 2, high) for high in (0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60)]


def test_only_a_connection_that_stood_begins_the_back_off_anew(
    mosquitto: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    highs: list[float] = []

    def uniform(_low: float, high: float) -> float:
        highs.append(high)
        return 0.001

    monkeypatch.setattr(random, "uniform", uniform)
    with party(plain(mosquitto), "stands") as one:
        for connection in (1, 2, 3):
            one.until_connected(connection)
            cut(one.link)
        one.until_connected(4)
        assert highs == [0.5, 1, 2], "each broke at once"
        monkeypatch.setattr(mqtt, "STABLE_S", 0.0)
        cut(one.link)
        one.until_connected(5)
        assert highs == [0.5, 1, 2, 0.5]


# --- Brokers that are none. ----------------------------------------------------------------------

ACCEPTED = bytes.fromhex("20020000")  # CONNACK


@pytest.mark.parametrize("packet", ["3000", "3001ff", "9000", "f00100"])
def test_a_broker_whose_packets_cannot_be_read_is_left_and_asked_again(packet: str) -> None:
    def serve(line: socket.socket) -> None:
        line.recv(1024)
        line.sendall(ACCEPTED + bytes.fromhex(packet))
        while line.recv(1024):
            pass

    with _server(serve) as port, party(_plain(port), "reads") as one:
        one.until_connected(2)
        assert set(one.reasons) == {"the connection broke"}


def test_a_topic_that_is_no_text_is_nobodys_and_is_confirmed() -> None:
    confirmed = threading.Event()

    def serve(line: socket.socket) -> None:
        line.recv(1024)
        line.sendall(ACCEPTED)
        line.sendall(bytes.fromhex("3206 0002 fffe 0007"))  # PUBLISH, QoS 1, message 7
        line.sendall(bytes.fromhex("3005 0001 61") + b"ok")
        said = b""
        while chunk := line.recv(1024):
            said += chunk
            if bytes.fromhex("40020007") in said:  # PUBACK of message 7
                confirmed.set()

    with _server(serve) as port, party(_plain(port), "reads") as one:
        one.until_got("a", b"ok")
        assert [message.topic for message in one.messages] == ["", "a"]
        for message in one.messages:
            one.link.confirm(message.token)
        until(confirmed.is_set, "the confirmation")
        assert one.connections == 1


def test_a_broker_that_confirms_nothing_does_not_fill_our_memory() -> None:
    def serve(line: socket.socket) -> None:
        line.recv(1024)
        line.sendall(ACCEPTED)
        while line.recv(65_536):
            pass

    with _server(serve) as port:
        link = Link(_plain(port), "says", [], outgoing_max=5)
        link.start()
        try:
            until(lambda: any(isinstance(one, Connected) for one in link.drain(10)), "the link")
            assert [link.publish("a", b"x") for _ in range(7)] == [True] * 5 + [False] * 2
        finally:
            link.stop()


# --- Being told why. -----------------------------------------------------------------------------


def test_a_host_without_a_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", no_name)
    with party(BrokerSettings(url="mqtt://broker.example"), "asks") as one:
        assert one.until_refused() == (
            "cannot reach broker.example:1883: [Errno -2] Name or service not known"
        )


def test_a_broker_that_wants_tls_is_recognised() -> None:
    def hang_up(line: socket.socket) -> None:
        line.recv(1024)

    with _server(hang_up) as port, party(_plain(port), "speaks plain") as one:
        assert one.until_refused() == (
            f"{HOST}:{port} broke the connection before it answered; it may want TLS: mqtts://"
        )


def test_a_broker_that_speaks_no_tls_is_recognised(mosquitto: BrokerProcess) -> None:
    settings = BrokerSettings(url=f"mqtts://{HOST}:{mosquitto.port}")
    with party(settings, "speaks TLS") as one:
        reason = one.until_refused()
    assert reason.startswith((f"cannot speak TLS with {HOST}", f"cannot reach {HOST}")), reason


@pytest.mark.parametrize(
    "url",
    ["", "mqtt://", "http://broker:1883", "broker:1883", "mqtt://broker:port", "mqtts://h:99999"],
)
def test_a_url_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigurationError, match="mqtt://host:port or mqtts://host:port"):
        Link(BrokerSettings(url=url), "x", [])


def test_files_that_cannot_be_used_are_refused_before_the_start(tmp_path: Path) -> None:
    missing, empty = str(tmp_path / "missing"), tmp_path / "empty"
    empty.touch()
    url = "mqtts://broker.example"
    for settings, words in (
        (BrokerSettings(url, ca_file=missing), "a TLS file of the broker cannot be used"),
        (BrokerSettings(url, ca_file=str(empty)), "a TLS file of the broker cannot be used"),
        (BrokerSettings(url, certificate_file=missing), "a TLS file of the broker cannot be used"),
        (BrokerSettings(url, username="x", password_file=missing), "cannot read .*missing"),
        (BrokerSettings(url, username="x", password_file=str(tmp_path)), "cannot read"),
        (BrokerSettings(url, password_file=str(empty)), "a password needs a username"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Link(settings, "x", [])


# --- The end. ------------------------------------------------------------------------------------


def test_a_link_that_was_never_started_can_be_stopped_and_twice() -> None:
    link = Link(_plain(free_ports()), "idle", [])
    link.stop()
    link.stop()


def test_stopping_while_waiting_for_the_next_attempt_is_prompt() -> None:
    with party(_plain(free_ports()), "waits") as one:
        one.until(lambda: len(one.reasons) >= 2, "two attempts")
        began_s = time.monotonic()
        one.link.stop()
        assert time.monotonic() - began_s < 0.5


def test_a_link_ends_beside_a_broker_that_is_frozen(mosquitto: BrokerProcess) -> None:
    with party(plain(mosquitto), "says") as one:
        one.until_up()
        mosquitto.signal(signal.SIGSTOP)
        for _ in range(400):  # more than the kernel's buffers take
            one.say("a", bytes(64 * KIB))
        began_s = time.monotonic()
        one.link.stop()
        assert time.monotonic() - began_s < 4


def test_a_link_ends_while_the_broker_has_not_answered_yet() -> None:
    def say_nothing(line: socket.socket) -> None:
        while line.recv(1024):
            pass

    with _server(say_nothing) as port, party(_plain(port), "waits") as one:
        time.sleep(0.2)  # into the wait; nothing tells when it begins
        began_s = time.monotonic()
        one.link.stop()
        assert time.monotonic() - began_s < 4
        assert one.connections == 0


def test_a_link_stopped_while_it_connects_ends_by_itself_and_writes_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    going_on = threading.Event()
    connecting = threading.Event()

    def slow(*_: object, **__: object) -> None:
        connecting.set()
        going_on.wait(20)
        raise OSError("nobody there")

    monkeypatch.setattr(socket, "create_connection", slow)
    monkeypatch.setattr(mqtt, "STOP_TIMEOUT_S", 0.1)
    link = Link(_plain(1883), "slow", [])
    number = link.fileno()
    link.start()
    assert connecting.wait(20)
    link.stop()
    # The number now names another file, as after the restart of a program's inner life.
    with (tmp_path / "journal").open("wb") as journal:
        assert journal.fileno() == number
        link._put(Disconnected("late"))
        going_on.set()
        link._thread.join(20)
        assert not link._thread.is_alive()
    assert (tmp_path / "journal").read_bytes() == b""


def _plain(port: int) -> BrokerSettings:
    return BrokerSettings(url=f"mqtt://{HOST}:{port}")


@contextmanager
def _server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Somebody who listens and is no broker; answers each connection with `serve`."""
    with socket.create_server((HOST, 0)) as server:

        def run() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    serve(line)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
