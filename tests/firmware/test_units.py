"""A registration changes what a meter's register counts: the board is mute until a re-anchor, and
goes on behind it."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from cryptometer.authority_records import MeterDetails
from cryptometer.chain_records import Reading
from cryptometer.record_fields import Role
from firmware.listening import SpokenLine
from hal import files
from hal.ports import LineLost, PulseSource
from tests.core.community import DETAILS, PULSE_UWH
from tests.firmware.test_speaking import (
    DETAILS_INDEX,
    FIRST_WH,
    SOURCE,
    SPOKEN,
    WH,
    Death,
    Site,
    SpeakingMeter,
)
from tests.simulation.world import CONFIG, Board, World

FINER = replace(DETAILS_INDEX, constant=Fraction(10_000))


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.world.close()


def register(world: World, details: MeterDetails, anchored_after: int | None = None) -> None:
    """The authority says that the meter is another from the present step on; and re-anchors its
    chain, after so many records more."""
    board, [node] = world.boards[0], [world.node]
    assert node is not None
    step = world.audit().state.step + 1
    said = [world.authority.register(Role.METER, "m0", board.key.public, details, step)]
    if anchored_after is not None:
        head = world.audit().state.meters["m0"].head
        at = head.sequence + anchored_after
        said.append(world.authority.re_anchor("m0", at, head.register or 0))
    node.take_authority([one.raw for one in said])


def re_anchor(world: World) -> None:
    assert world.node is not None
    head = world.audit().state.meters["m0"].head
    anchor = world.authority.re_anchor("m0", head.sequence, head.register or 0)
    world.node.take_authority([anchor.raw])


def measure(site: Site, details: MeterDetails) -> None:
    """The board's configuration follows the registration at its next start."""
    site.board.spoken = replace(SPOKEN, unit_uwh=Fraction(10**9) / details.constant)


@pytest.mark.parametrize("constant", [10_000, 200])
@pytest.mark.parametrize("waits_steps", [0, 3])
def test_another_unit_mutes_the_board_until_the_re_anchor_and_no_energy_is_lost(
    site: Site, constant: int, waits_steps: int
) -> None:
    site.steps(2)
    site.run(300, 1, 5.0)
    details = replace(DETAILS_INDEX, constant=Fraction(constant))
    measure(site, details)
    # The next block holds the step's reading and close, then the re-anchor acts.
    register(site.world, details, None if waits_steps else 2)
    site.steps(1)
    if waits_steps:
        assert any("cryptometer authority re-anchor" in line for line in site.board.log)
        assert site.board.device is not None
        assert "muted" in site.board.device.status
        site.steps(waits_steps)
        re_anchor(site.world)
    site.steps(4)
    site.steps(2, wh=0)
    site.run(60, 0, 5.0)
    assert site.board.device is not None
    assert "muted" not in site.board.device.status
    chain = site.chain  # asserts that nothing of it was set aside
    off_wh = site.transferred_wh - (site.meter.wh - chain[0].register)
    # A digit of the coarser index may be lost between the two.
    assert -10 < off_wh <= 0 if constant == 200 else off_wh == 0
    assert site.board.device.status.startswith(f"index {site.meter.wh * constant // 1_000},")


@pytest.mark.parametrize("torn", [None, 0])
def test_a_board_that_was_away_goes_on_in_the_unit_of_each_time(
    site: Site, torn: int | None
) -> None:
    site.steps(2)
    site.world.broker.lose = 1.0
    site.steps(1)
    measure(site, FINER)
    register(site.world, FINER, 0)
    site.steps(3)
    if torn is None:
        site.board.kill()
    else:
        site.board.cut_power(torn)
    site.world.broker.lose = 0.0
    site.steps(1)
    site.board.start()
    site.steps(4)
    site.steps(1, wh=0)
    site.run(60, 0, 5.0)
    report = site.world.audit()
    meter = report.state.meters["m0"]
    assert set(report.quarantined) <= {"wrong-unit", "stale-reading"}
    # What was read in the old unit after the change is set aside, and nothing is counted twice.
    assert meter.untransferred_uwh == 0
    grown_wh = site.meter.wh - FIRST_WH
    assert meter.transferred_uwh + meter.quarantined_uwh == pytest.approx(grown_wh * WH, abs=WH)
    assert meter.quarantined_uwh <= 4 * 180 * WH


def test_pulses_then_an_index_then_pulses_each_count_what_they_are() -> None:
    world = World(1, 1)
    [board] = world.boards
    meter = SpeakingMeter(board)
    board.start()
    world.run(1_500, 5.0)
    register(world, DETAILS_INDEX)
    board.spoken, board.config = SPOKEN, replace(CONFIG, source=SOURCE)
    pulse_line = board.open_line
    board.open_line = lambda: _speaking(board, meter)  # type: ignore[method-assign]
    world.run(1_800, 5.0, 0)
    assert "muted" in _status(board)
    pulses = board.device_register
    re_anchor(world)
    world.run(1_800, 5.0, 0)
    began_wh = meter.wh
    for _ in range(360):
        meter.wh += 2
        world.pass_time(5.0)
    world.run(1_000, 5.0, 0)
    state = world.audit().state.meters["m0"]
    assert state.quarantined_uwh == 0
    assert state.registered_uwh == pulses * PULSE_UWH + (meter.wh - began_wh) * WH
    register(world, DETAILS)
    board.spoken, board.config = None, None
    board.open_line = pulse_line  # type: ignore[method-assign]
    world.run(1_800, 5.0, 0)
    re_anchor(world)
    world.run(1_800, 5.0, 0)
    before_pulses = board.emitted
    world.run(1_800, 5.0)
    world.run(1_000, 5.0, 0)
    more = (board.emitted - before_pulses) * PULSE_UWH
    after = world.audit().state.meters["m0"]
    assert after.registered_uwh - state.registered_uwh == more
    assert after.quarantined_uwh == 0
    world.close()


def test_a_chain_without_a_record_begins_in_the_newest_unit() -> None:
    site = Site(meters_from=2**30)
    site.steps(1)
    measure(site, FINER)
    register(site.world, FINER)
    site.steps(4)
    site.board.stop()
    site.board.start()
    site.steps(1)
    assert "muted" not in _status(site.board)
    assert all(isinstance(one.index, int) for one in site.chain if isinstance(one, Reading))
    assert site.transferred_wh > 3 * 180
    site.world.close()


def _status(board: Board) -> str:
    assert board.device is not None
    return board.device.status


def _speaking(board: Board, meter: SpeakingMeter) -> PulseSource:
    if board.is_unplugged:
        raise LineLost("unplugged")
    return SpokenLine(meter, SPOKEN)


@pytest.mark.parametrize(("torn", "waits_steps"), [(None, 0)])
def test_a_death_at_any_point_of_the_change_loses_no_energy(
    torn: int | None, waits_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each death lies some file operations later than the one before, until none does any more.
    for passage in range(1, 1_000, 40):
        site = Site()
        site.steps(1)
        site.run(600, 1, 5.0)
        measure(site, FINER)
        register(site.world, FINER, None if waits_steps else 2)
        left = [passage]

        def passing(_: object, left: list[int] = left, board: Board = site.board) -> None:
            left[0] -= len(board.enrolment().registrations) > 1
            if left[0] == 0:
                raise Death

        has_died = False
        monkeypatch.setattr(files, "passing", passing)
        try:
            site.steps(1 + waits_steps)
            if waits_steps:
                re_anchor(site.world)
                site.run(600, 1, 5.0)
        except Death:
            has_died = True
        monkeypatch.undo()
        if has_died:
            if torn is None:
                site.board.kill()
            else:
                site.board.cut_power(torn)
            site.board.start()
            if waits_steps:
                site.run(1_200, 1, 5.0)
                re_anchor(site.world)
        site.steps(3)
        site.steps(2, wh=0)
        site.run(60, 0, 5.0)
        chain = site.chain  # asserts that nothing of it was set aside
        assert site.transferred_wh == site.meter.wh - chain[0].register, passage
        site.world.close()
        if not has_died:
            break
    assert passage > 40
