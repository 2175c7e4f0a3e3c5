"""From a modem line's counts to signed lots: a real device over the driver, a simulated kernel."""

import random
from collections.abc import Iterator

import pytest

from cryptometer.chain_records import Ending, Mark
from cryptometer.steps import NS_PER_S
from hal.modem_line import DOUBT_NS, ModemLine
from hal.ports import PulseSource
from tests.core.community import STEP_S
from tests.firmware.test_device import check_whole, settle
from tests.hal.modem_port import ModemPort, plugged
from tests.simulation.world import Board, World

TICK_S = 5


class Meter:
    """A meter at the modem line of a board."""

    def __init__(self, world: World, port: ModemPort) -> None:
        self.world = world
        self.port = port
        self.board: Board = world.boards[0]
        self.board.open_line = self.open_line  # type: ignore[method-assign]
        self.lines: list[ModemLine] = []
        self.draw = random.Random(1)

    def open_line(self) -> PulseSource:
        self.lines.append(ModemLine(self.port.settings()))
        return self.lines[-1]

    def give(self, seconds: int, rate: float = 0.3) -> int:
        """Gives pulses for so long, some of them on when a look comes; returns how many ended."""
        ended = 0
        for _ in range(seconds // TICK_S):
            changes = self.draw.randint(0, int(4 * rate * TICK_S))
            ended += (changes + self.port.is_on) // 2
            self.port.change(changes)
            self.port.pass_time(TICK_S * NS_PER_S)
            self.world.pass_time(TICK_S)
        if self.port.is_on:
            ended += 1
            self.port.change()
        return ended

    def rest(self) -> None:
        """Long enough for what waits to be taken, and doubts to be settled."""
        for _ in range(3):
            self.port.pass_time(DOUBT_NS)
            self.world.pass_time(TICK_S)


@pytest.fixture
def meter() -> Iterator[Meter]:
    with plugged("cts", 2**32 - 50) as port:
        world = World(1, boards=1)
        meter = Meter(world, port)
        meter.board.start()
        yield meter
        if meter.board.device is not None:
            meter.board.device.abandon()
        world.close()


def test_every_pulse_of_a_modem_line_is_in_a_signed_lot(meter: Meter) -> None:
    given = meter.give(3 * STEP_S)
    meter.rest()
    ledger = settle(meter.world)
    check_whole(meter.world, meter.board, ledger)
    assert ledger.pulses == given > 500
    assert {close.watched for close in ledger.closes} == {(0, STEP_S * 1_000)}
    assert not {Mark.NOISE, Mark.LOST} & set(ledger.marks)


def test_an_adapter_that_is_pulled_and_plugged_in_again_is_a_declared_interval(
    meter: Meter,
) -> None:
    given = meter.give(500)
    meter.rest()
    meter.port.unplug()
    meter.give(100)
    meter.port.refused = None
    meter.port.counts = [0] * 20  # of a device that is new to the kernel
    meter.rest()
    given += meter.give(500)
    meter.rest()
    ledger = settle(meter.world)
    check_whole(meter.world, meter.board, ledger)
    assert ledger.pulses == given
    assert [run.ending for run in ledger.runs] == [Ending.FIRST, Ending.LINE_LOST]
    assert len(meter.lines) == 2


def test_counts_that_go_back_give_no_pulses_and_are_a_declared_interval(meter: Meter) -> None:
    given = meter.give(200)
    meter.port.counts = [0] * 20
    meter.rest()
    given += meter.give(500)
    meter.rest()
    ledger = settle(meter.world)
    check_whole(meter.world, meter.board, ledger)
    assert [run.ending for run in ledger.runs] == [Ending.FIRST, Ending.LINE_LOST]
    # The last change of the first stretch fell into the reset.
    assert given - 1 <= ledger.pulses <= given


def test_what_comes_while_nobody_watches_is_not_counted_and_the_time_is_declared(
    meter: Meter,
) -> None:
    given = meter.give(300)
    meter.rest()
    meter.board.stop()
    meter.give(200)
    meter.board.start()
    given += meter.give(300)
    meter.rest()
    ledger = settle(meter.world)
    check_whole(meter.world, meter.board, ledger)
    assert ledger.pulses == given
    assert [run.ending for run in ledger.runs] == [Ending.FIRST, Ending.STOPPED]
    second = ledger.runs[1]
    assert second.unwatched_ms is not None
    assert second.at_ms - second.unwatched_ms >= 200_000


def test_spikes_are_declared_as_noise_and_are_in_no_lot(meter: Meter) -> None:
    given = meter.give(300)
    meter.rest()
    for _ in range(4):
        meter.port.change(2, counted=1)
        meter.rest()
    given += meter.give(300)
    meter.rest()
    ledger = settle(meter.world)
    check_whole(meter.world, meter.board, ledger)
    assert ledger.pulses == given
    assert ledger.marks[Mark.NOISE] == 4
