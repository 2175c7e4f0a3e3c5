"""A kernel counter beside a line. Its files are those of sysfs, in a folder; the line is real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hal.counter_device import Accompanied
from hal.drivers import open_source
from hal.ports import LineLost, Taken
from hal.sim_line import SimSettings, SimulatedLine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "enable").write_text("1\n")
    (tmp_path / "count").write_text("41\n")
    return tmp_path


@pytest.fixture
def line() -> Iterator[SimulatedLine]:
    line = SimulatedLine(SimSettings(0))
    yield line
    line.close()


def test_a_look_tells_what_the_counter_stands_at(folder: Path, line: SimulatedLine) -> None:
    both = Accompanied(line, folder)
    assert both.fileno() == line.fileno()
    assert (both.latency_ns, both.capacity) == (line.latency_ns, line.capacity)
    line.put(3)
    assert both.take() == Taken(3, beside=41)
    (folder / "count").write_text("18446744073709551615\n")
    assert both.take() == Taken(0, beside=2**32 - 1)


@pytest.mark.parametrize("name", ["count", "enable"])
def test_a_counter_that_is_not_there_is_a_line_that_is_lost_for_now(
    folder: Path, line: SimulatedLine, name: str
) -> None:
    (folder / name).unlink()
    with pytest.raises(LineLost, match="cannot open the counter"):
        Accompanied(SimulatedLine(SimSettings(0)), folder)


def test_a_counter_that_rests_is_begun(folder: Path, line: SimulatedLine) -> None:
    (folder / "enable").write_text("0\n")
    Accompanied(line, folder)
    assert (folder / "enable").read_text() == "1"


@pytest.mark.parametrize("left", [None, "", "what?"])
def test_a_counter_that_goes_later_stops_no_pulse(
    folder: Path, line: SimulatedLine, left: str | None
) -> None:
    both = Accompanied(line, folder)
    if left is None:
        (folder / "count").unlink()
    else:
        (folder / "count").write_text(left)
    line.put(2)
    assert both.take() == Taken(2)


def test_any_source_may_have_one(folder: Path) -> None:
    line = open_source({"driver": "sim", "interval_machine_ms": 0, "counter": str(folder)})
    assert line.take() == Taken(0, beside=41)
    line.close()
    line = open_source({"driver": "sim", "interval_machine_ms": 0})
    assert line.take() == Taken(0)
    line.close()
