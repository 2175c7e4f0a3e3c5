"""Child processes of a demonstration that is interrupted while one of them is being started."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryptometer.commands.demo.processes import COMMON, Child, program, run


class Told(BaseException):
    """The program is to end."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[Any]"]]:
    """Every process; a SIGHUP comes while it is being started."""
    processes: list[subprocess.Popen[Any]] = []
    real = subprocess.Popen

    def start(*given: Any, **how: Any) -> "subprocess.Popen[Any]":
        processes.append(real(*given, **how))
        os.kill(os.getpid(), signal.SIGHUP)
        return processes[-1]

    def tell(number: int, _frame: object) -> None:
        raise Told(number)

    before = signal.signal(signal.SIGHUP, tell)
    monkeypatch.setattr(subprocess, "Popen", start)
    yield processes
    assert signal.getsignal(signal.SIGHUP) is tell
    signal.signal(signal.SIGHUP, before)


def test_a_command_that_is_interrupted_at_its_start_does_not_stay(
    started: list["subprocess.Popen[Any]"],
) -> None:
    with pytest.raises(Told):
        run(COMMON, "--help")
    assert [process.poll() is not None for process in started] == [True]


def test_a_child_that_is_interrupted_at_its_start_does_not_stay(
    started: list["subprocess.Popen[Any]"], tmp_path: Path
) -> None:
    with pytest.raises(Told):
        Child("sleeper", ["sleep", "60"], tmp_path / "log")
    assert [process.poll() is not None for process in started] == [True]


def test_what_a_command_prints_is_returned() -> None:
    assert "usage: " in run(COMMON, "--help")
    assert program(COMMON, "--help")[1:] == ["-m", COMMON, "--help"]
