"""sd_notify(3) against a real datagram socket, as the service manager reads it."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hal.notify import PATIENCE_S, Notifier

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture(autouse=True)
def no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def manager_at(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.settimeout(10)
    return made


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = f"{tmp_path.name}-{os.getpid()}"
    if request.param == "abstract":
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        made = manager_at(f"\0{name}")
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        made = manager_at(str(tmp_path / "notify"))
    with made:
        yield made


def test_each_message_is_one_datagram_in_the_managers_words(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("counting")
    assert manager.recv(1000) == b"READY=1\nSTATUS=counting"
    notifier.alive("12 pulses, Zähler läuft")
    assert manager.recv(1000) == "WATCHDOG=1\nSTATUS=12 pulses, Zähler läuft".encode()
    notifier.stopping()
    assert manager.recv(1000) == b"STOPPING=1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier()
    notifier.ready("counting")
    notifier.alive("counting")
    notifier.stopping()
    assert notifier.watchdog_s is None


def test_a_manager_that_is_gone_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().ready("counting")
    manager_at(str(tmp_path / "left")).close()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "left"))  # the file stands, nobody listens
    Notifier().ready("counting")


def _sent_at_once(address: str) -> int:
    """How many messages a new socket gets rid of: what ends it first is its own buffer or the
    other's queue, by the kernel's settings."""
    count = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
        other.setblocking(False)
        while other.sendto(b".", address):
            count += 1
    return count


def test_a_manager_that_does_not_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager_at(str(tmp_path / "notify")) as deaf:
        while _sent_at_once(str(tmp_path / "notify")):
            pass
        notifier = Notifier()
        began_s = time.monotonic()
        notifier.alive("counting")
        assert PATIENCE_S / 2 < time.monotonic() - began_s < 20 * PATIENCE_S
        # It reads again: messages come again.
        deaf.setblocking(False)
        with suppress(BlockingIOError):
            while deaf.recv(100):
                pass
        notifier.stopping()
        assert deaf.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("microseconds", "process", "watchdog_s"),
    [
        ("30000000", None, 15.0),  # half the time-out, as sd_watchdog_enabled(3) advises
        ("30000000", "own", 15.0),
        ("30000000", "1", None),  # meant for another program
        ("500000", None, 0.25),
        (None, "own", None),
        ("", None, None),
        ("soon", None, None),
        ("-5", None, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    process: str | None,
    watchdog_s: float | None,
) -> None:
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)
    assert Notifier().watchdog_s == watchdog_s
