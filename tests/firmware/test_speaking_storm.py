"""The board of a meter that speaks through all that can happen to it, from one seed: at the end
all that the meter showed is transferred, once."""

import random

import pytest

from cryptometer.steps import NS_PER_S, ClockState
from tests.firmware.test_speaking import WH, Remembered, Site

STORM_S = 4 * 3_600
TICK_S = 5.0
LIES_S = (0, 0, -3_000, -400, -20, 20, 400, 1_500)
STATES = (ClockState.SYNCHRONISED, ClockState.SYNCHRONISED, ClockState.UNKNOWN)


def storm(site: Site, chance: random.Random, *, is_lying: bool) -> None:
    """Kills, power cuts, unplugging, silences, lost messages; and lies of the board's clock."""
    passed_s = 0.0
    while passed_s < STORM_S:
        for _ in range(chance.randrange(1, 60)):
            site.run(TICK_S, chance.choice([0, 1, 2, 7]), TICK_S)
            passed_s += TICK_S
        strike(site, chance, is_lying=is_lying)
    if site.board.device is None:
        site.board.start()
    site.board.is_unplugged = site.meter.is_silent = False
    site.world.broker.lose = 0.0
    set_clock(site, 0, ClockState.SYNCHRONISED)
    site.steps(2)
    site.steps(2, wh=0)
    site.run(60, 0, TICK_S)


def strike(site: Site, chance: random.Random, *, is_lying: bool) -> None:
    """Something happens, or what was off comes back."""
    board, meter = site.board, site.meter
    match chance.randrange(9):
        case 0 if board.device is not None:
            board.kill()
        case 1 if board.device is not None:
            board.cut_power(chance.choice([0, 0, 3, 11]))
        case 2:
            board.is_unplugged = not board.is_unplugged
        case 3:
            meter.is_silent = not meter.is_silent
        case 4 if board.device is not None:
            board.stop()
        case 5 if is_lying:
            set_clock(site, chance.choice(LIES_S), chance.choice(STATES))
        case 6:
            site.world.broker.lose = chance.choice([0.0, 0.0, 0.3])
        case _ if board.device is None:
            board.start()


def set_clock(site: Site, off_s: int, state: ClockState) -> None:
    """The board's clock says this, so far off the gateway's."""
    site.board.clock.utc_ns = site.world.clock.utc_ns + off_s * NS_PER_S
    site.board.clock.state = state


@pytest.mark.parametrize("kind", [Site, Remembered])
@pytest.mark.parametrize("is_lying", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_all_that_the_meter_showed_is_transferred_once(
    seed: int, is_lying: bool, kind: type[Site]
) -> None:
    site = kind()
    storm(site, random.Random(seed), is_lying=is_lying)
    chain = site.chain  # asserts that nothing of it was set aside
    meter = site.world.audit().state.meters["m0"]
    assert meter.quarantined_uwh == 0
    assert meter.head.register == site.meter.wh
    assert meter.untransferred_uwh == 0
    assert meter.transferred_uwh == (site.meter.wh - chain[0].register) * WH
    steps = [close.step for close in site.closes]
    assert steps == sorted(set(steps))
    site.world.close()
