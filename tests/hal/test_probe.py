"""Looks at the machine: who holds a lock, who is connected where, and what a folder takes."""

import os
import socket
from pathlib import Path

import pytest

from hal.broker import BrokerSettings
from hal.files import hold
from hal.probe import Step, is_connected, lock_holder, service_status, way_to, write_and_sync
from tests.brokers import HOST, free_ports


def test_the_holder_of_a_lock_is_found(tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    with hold(lock):
        assert lock_holder(lock) == os.getpid()
    assert lock_holder(lock) is None


def test_a_connection_is_found_by_process_and_port() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert is_connected(os.getpid(), port) is False
        with socket.create_connection((HOST, port)):
            assert is_connected(os.getpid(), port) is True
            assert is_connected(os.getppid(), port) is not True
    assert is_connected(2**22 + 1, port) is None  # beyond the kernel's greatest process number


def test_a_service_s_own_line_is_asked_for_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script answers in systemd's place, in the form of systemctl(1)."""
    script = tmp_path / "systemctl"
    script.write_text("#!/bin/sh\necho MainPID=42\necho StatusText=a: 5 pulses, k=v\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert service_status("x.service", 42) == "a: 5 pulses, k=v"
    assert service_status("x.service", 43) == ""
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert service_status("x.service", 42) == ""


def test_the_way_ends_where_nobody_listens() -> None:
    port = free_ports()
    found, refused = way_to(BrokerSettings(url=f"mqtt://{HOST}:{port}"))
    assert found == Step("name")
    assert refused.name == "connection"
    assert "Connection refused" in refused.failure


def test_a_folder_that_takes_a_file_keeps_nothing_of_it(tmp_path: Path) -> None:
    written = write_and_sync(tmp_path)
    assert written.error is None
    assert written.sync_ns > 0
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_takes_none_says_why(tmp_path: Path) -> None:
    written = write_and_sync(tmp_path / "none")
    assert isinstance(written.error, FileNotFoundError)
    assert not written.read_only
