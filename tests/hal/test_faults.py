"""Named points at which a program can be made to die."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hal import faults
from hal.faults import Point, arm, passing

PATIENCE_S = 30
WORKER = """
import os, sys
from hal import faults
faults.arm(os.environ.get(faults.CRASH_VARIABLE))
for number in range(1, 6):
    faults.passing(faults.Point.FILE_SYNCED)
    faults.passing(faults.Point.DEVICE_SIGNED)
    print(number, flush=True)
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    faults._armed.clear()
    yield
    faults._armed.clear()


def run(setting: str | None) -> tuple[int, int]:
    """Runs the worker; returns its exit code and how many rounds it made."""
    environment = dict(os.environ)
    environment.pop(faults.CRASH_VARIABLE, None)
    if setting is not None:
        environment[faults.CRASH_VARIABLE] = setting
    ended = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return ended.returncode, len(ended.stdout.split())


@pytest.mark.parametrize(
    ("setting", "rounds"),
    [("file.synced", 0), ("file.synced:1", 0), ("file.synced:4", 3), ("device.signed:5", 4)],
)
def test_a_program_dies_at_the_chosen_passage_of_the_chosen_point(
    setting: str, rounds: int
) -> None:
    assert run(setting) == (-signal.SIGKILL, rounds)


@pytest.mark.parametrize("setting", [None, "", "file.synced:6", "store.commit"])
def test_a_program_lives_that_is_not_armed_or_does_not_pass_there(setting: str | None) -> None:
    assert run(setting) == (0, 5)


@pytest.mark.parametrize("setting", ["file.sync", "FILE_SYNCED", ":1", "file.synced:x"])
def test_a_point_that_does_not_exist_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid Point|invalid literal"):
        arm(setting)
    assert faults._armed == {}


def test_every_point_kills_and_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append((process, number)))
    for point in Point:
        arm(point)
        passing(point)
        passing(point)
        assert killed == [(os.getpid(), signal.SIGKILL)], point
        killed.clear()
    assert len({point.value for point in Point}) == len(Point)
