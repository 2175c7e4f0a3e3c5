"""The line whose pulses the program puts there itself."""

import select
import threading
import time

import pytest

from cryptometer.errors import ConfigurationError
from hal.ports import Taken
from hal.sim_line import SimSettings, SimulatedLine

PATIENCE_S = 10.0


def test_what_is_put_is_taken_once() -> None:
    line = SimulatedLine(SimSettings(0))
    assert line.take() == Taken(0)
    assert select.select([line], [], [], 0)[0] == []
    line.put(3)
    line.put(4)
    assert select.select([line], [], [], 0)[0] == [line]
    assert line.take() == Taken(7)
    assert line.take() == Taken(0)
    assert select.select([line], [], [], 0)[0] == []
    line.close()


def test_pulses_come_at_their_interval_until_the_line_is_closed() -> None:
    before = threading.active_count()
    began_s = time.monotonic()
    line = SimulatedLine(SimSettings(interval_machine_ms=20))
    taken = 0
    while taken < 10:
        assert select.select([line], [], [], PATIENCE_S)[0] == [line]
        taken += line.take().pulses
    assert time.monotonic() - began_s >= 0.2
    line.close()
    assert threading.active_count() == before


def test_a_line_without_interval_starts_no_thread() -> None:
    before = threading.active_count()
    line = SimulatedLine(SimSettings(0))
    assert threading.active_count() == before
    line.close()


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="interval_machine_ms is not negative"):
        SimulatedLine(SimSettings(-1))


def test_a_simulated_pulse_is_never_on_its_way() -> None:
    line = SimulatedLine(SimSettings(0))
    assert line.latency_ns == 0
    line.close()
