"""The driver for boards that have the interface of RPi.GPIO only. What supplies it wants a chip: a
module with the same names stands in its place, and calls back from a thread of its own as it
does."""

import select
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS
from hal.bias import Pull
from hal.drivers import open_source
from hal.ports import LineLost, Taken
from hal.rpi_line import RpiLine, RpiSettings


class Supplied(ModuleType):
    """As `RPi.GPIO`, what is used of it."""

    BCM, IN = 11, 1
    PUD_OFF, PUD_DOWN, PUD_UP = 20, 21, 22
    RISING, FALLING, BOTH = 31, 32, 33

    def __init__(self) -> None:
        super().__init__("RPi.GPIO")
        self.mode = 0
        self.lines: dict[int, dict[str, Any]] = {}
        self.callbacks: dict[int, Callable[[int], None]] = {}
        self.levels: dict[int, int] = {}  # 1 where nothing is said: a contact that is open
        self.refused: Exception | None = None

    def setmode(self, mode: int) -> None:
        self.mode = mode

    def setup(self, line: int, direction: int, *, pull_up_down: int) -> None:
        assert self.mode == self.BCM
        assert direction == self.IN
        if self.refused is not None:
            raise self.refused
        self.lines[line] = {"pull": pull_up_down}

    def add_event_detect(
        self, line: int, edge: int, callback: Callable[[int], None], bouncetime: int | None = None
    ) -> None:
        assert bouncetime is None or bouncetime > 0
        self.lines[line] |= {"edge": edge, "bouncetime": bouncetime}
        self.callbacks[line] = callback

    def input(self, line: int) -> int:
        if self.refused is not None:
            raise self.refused
        return self.levels.get(line, 1)

    def remove_event_detect(self, line: int) -> None:
        del self.callbacks[line]

    def cleanup(self, line: int) -> None:
        del self.lines[line]

    def pulse(self, line: int, count: int) -> None:
        """So many pulses."""
        self.edges(line, 2 * count)

    def edges(self, line: int, count: int) -> None:
        """So many edges, in a thread."""

        def call() -> None:
            for _ in range(count):
                self.levels[line] = 1 - self.levels.get(line, 1)
                self.callbacks[line](line)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()


@pytest.fixture
def supplied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supplied]:
    package, module = ModuleType("RPi"), Supplied()
    monkeypatch.setitem(sys.modules, "RPi", package)
    monkeypatch.setitem(sys.modules, "RPi.GPIO", module)
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield module
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert (module.lines, module.callbacks) == ({}, {})


def test_each_call_is_a_pulse_without_a_time(supplied: Supplied) -> None:
    line = open_source({"driver": "rpi", "offset": 17})
    other = RpiLine(RpiSettings(27))
    assert line.take() == Taken(0)
    assert select.select([line], [], [], 0)[0] == []
    supplied.pulse(17, 3)
    supplied.pulse(27, 1)
    assert select.select([line], [], [], 0)[0] == [line]
    assert line.take() == Taken(3)
    assert select.select([line], [], [], 0)[0] == []
    supplied.pulse(17, 1_000)
    assert [line.take(), line.take(), other.take()] == [Taken(1_000), Taken(0), Taken(1)]
    line.close()
    other.close()


def test_a_pulse_counts_at_its_beginning_whichever_way_the_line_is_opened(
    supplied: Supplied,
) -> None:
    line = RpiLine(RpiSettings(17))
    supplied.edges(17, 1)
    assert line.take() == Taken(1)
    supplied.edges(17, 1)
    assert line.take() == Taken(0)
    line.close()
    supplied.levels[17] = 0
    line = RpiLine(RpiSettings(17))  # in the middle of a pulse, which counted for whoever was there
    supplied.edges(17, 1)
    assert line.take() == Taken(0)
    supplied.edges(17, 1)
    assert line.take() == Taken(1)
    line.close()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_call_too_many_or_too_few_is_declared_once_the_line_has_rested(
    supplied: Supplied, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    now_ns = 0
    monkeypatch.setattr("hal.rpi_line.time.monotonic_ns", lambda: now_ns)
    line = RpiLine(RpiSettings(17))
    supplied.edges(17, 4 + extra)
    supplied.levels[17] = extra  # one is missing, or one was too much
    assert line.take() == Taken(2 + extra)
    now_ns += 249 * NS_PER_MS
    assert line.take() == Taken(0)
    now_ns += NS_PER_MS
    assert line.take() == Taken(0, noise=1)
    now_ns += 10**9
    assert line.take() == Taken(0)
    supplied.levels[17] = 1
    supplied.edges(17, 2 if extra else 1)
    assert line.take() == Taken(extra)
    supplied.levels[17] = 1
    supplied.pulse(17, 3)
    assert line.take() == Taken(3)
    line.close()


def test_a_call_that_is_on_its_way_is_waited_for(
    supplied: Supplied, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 0
    monkeypatch.setattr("hal.rpi_line.time.monotonic_ns", lambda: now_ns)
    line = RpiLine(RpiSettings(17))
    for _ in range(3):
        supplied.levels[17] = 0
        assert line.take() == Taken(0)
        now_ns += 10**9
        supplied.levels[17] = 1
        supplied.edges(17, 1)
        assert line.take() == Taken(1)
        supplied.edges(17, 1)
        now_ns += 10**9
        assert line.take() == Taken(0)
    line.close()


def test_a_chip_that_is_gone_is_a_line_lost(supplied: Supplied) -> None:
    line = RpiLine(RpiSettings(17))
    supplied.refused = RuntimeError("no such chip")
    with pytest.raises(LineLost, match="GPIO 17 is gone: no such chip"):
        line.take()
    supplied.refused = None
    line.close()


def test_a_call_that_comes_behind_the_end_writes_into_no_file(
    supplied: Supplied, tmp_path: Path
) -> None:
    line = RpiLine(RpiSettings(17))
    call, number = supplied.callbacks[17], line.fileno()
    line.close()
    with (tmp_path / "another").open("wb", buffering=0) as file:
        assert file.fileno() == number
        call(17)
    assert (tmp_path / "another").read_bytes() == b""


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (RpiSettings(4), {"pull": 22, "edge": 33, "bouncetime": 10}),
        (RpiSettings(4, active_low=False), {"pull": 22, "edge": 33, "bouncetime": 10}),
        (RpiSettings(4, pull=Pull.DOWN), {"pull": 21, "edge": 33, "bouncetime": 10}),
        (RpiSettings(4, pull=Pull.NONE), {"pull": 20, "edge": 33, "bouncetime": 10}),
        (RpiSettings(4, debounce_ms=0), {"pull": 22, "edge": 33, "bouncetime": None}),
    ],
)
def test_the_settings_reach_the_library(
    supplied: Supplied, settings: RpiSettings, asked: dict[str, Any]
) -> None:
    line = RpiLine(settings)
    assert supplied.lines == {4: asked}
    line.close()


@pytest.mark.parametrize(
    "refused", [RuntimeError("not running on a RPi"), OSError(16, "busy"), ValueError("no channel")]
)
def test_a_line_that_cannot_be_opened_is_lost_for_now(
    supplied: Supplied, refused: Exception
) -> None:
    supplied.refused = refused
    with pytest.raises(LineLost, match="cannot open GPIO 17: ") as lost:
        RpiLine(RpiSettings(17))
    assert str(refused) in str(lost.value)


def test_a_package_that_knows_no_such_board_is_a_line_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RPi.GPIO itself says it, when it is imported."""
    (tmp_path / "RPi").mkdir()
    (tmp_path / "RPi" / "__init__.py").touch()
    (tmp_path / "RPi" / "GPIO.py").write_text('raise RuntimeError("not a Raspberry Pi")')
    for name in ("RPi", "RPi.GPIO"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LineLost, match="cannot open GPIO 17: not a Raspberry Pi"):
        open_source({"driver": "rpi", "offset": 17})
    sys.modules.pop("RPi", None)


def test_a_missing_package_is_named_with_what_supplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "RPi", None)
    what = r"RPi.*pip install 'cryptometer\[rpi\]'.*python3-rpi-lgpio"
    with pytest.raises(ConfigurationError, match=what):
        open_source({"driver": "rpi", "offset": 17})
