"""An index out of nothing: it follows from the machine's time alone."""

import select
from contextlib import closing

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from hal.index.reading import Index, Reading
from hal.sim_index import SimIndexSettings, SimulatedIndex

HOUR_NS = 3_600 * NS_PER_S


class Machine:
    """Its monotonic clock."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        patch.setattr("time.monotonic_ns", lambda: self.now_ns)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def said(source: SimulatedIndex) -> Reading:
    [reading] = source.take().said
    assert isinstance(reading, Reading)
    return reading


def test_the_index_grows_with_the_power_whole_digit_by_whole_digit(machine: Machine) -> None:
    with closing(SimulatedIndex(SimIndexSettings(watts=1_500, start_wh=100))) as source:
        assert said(source).imported == Index(100)
        machine.now_ns = HOUR_NS - 1
        assert said(source).imported == Index(1_599)
        machine.now_ns = 2 * HOUR_NS
        reading = said(source)
    assert (reading.imported, reading.exported) == (Index(3_100), Index(100))
    assert (reading.began_ns, reading.ended_ns) == (machine.now_ns, machine.now_ns)
    assert reading.identity == "SIM0001"


def test_a_power_below_zero_is_given_to_the_grid(machine: Machine) -> None:
    machine.now_ns = HOUR_NS
    with closing(SimulatedIndex(SimIndexSettings(watts=-250, exponent=-1))) as source:
        reading = said(source)
    assert (reading.imported, reading.exported) == (Index(0, -1), Index(2_500, -1))


def test_a_program_that_starts_anew_finds_the_index_where_it_is(machine: Machine) -> None:
    machine.now_ns = 7 * HOUR_NS
    settings = SimIndexSettings(number="X")
    with closing(SimulatedIndex(settings)) as source:
        before = said(source)
    with closing(SimulatedIndex(settings)) as source:
        assert said(source) == before


def test_it_speaks_once_in_a_period_and_makes_nothing_up_for_what_was_missed(
    machine: Machine,
) -> None:
    machine.now_ns = 5
    with closing(SimulatedIndex(SimIndexSettings(period_machine_ms=1_000))) as source:
        assert source.due_ns == 5
        said(source)
        assert not source.take().said
        assert source.due_ns == 5 + NS_PER_S
        machine.now_ns = 5 + 3 * NS_PER_S + 1
        said(source)
        assert source.due_ns == 5 + 4 * NS_PER_S
        poll = select.poll()
        poll.register(source.fileno(), select.POLLIN)
        assert not poll.poll(0)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (SimIndexSettings(period_machine_ms=0), "at least 1"),
        (SimIndexSettings(start_wh=-1), "not negative"),
        (SimIndexSettings(exponent=-7), "from -6 to 3, not -7"),
    ],
)
def test_a_meter_that_cannot_be_is_refused(settings: SimIndexSettings, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        SimulatedIndex(settings)
