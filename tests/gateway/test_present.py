"""What a gateway takes for the present when its clock, synchronised, is led far ahead."""

import pytest

from cryptometer.block_header import Header
from cryptometer.doubt import AHEAD_STEPS, CONFIRM_NS
from cryptometer.errors import Reason
from cryptometer.record_fields import Role
from cryptometer.steps import MS_PER_S, NS_PER_MS, NS_PER_S, ClockState, step_of
from gateway.node import Policy
from gateway.present import VOUCH_STEPS, Present
from hal.clock import ScaledClock, SimulatedClock
from tests.core.community import FIRST_STEP, STEP_S, Device
from tests.gateway.kit import EVERY_BLOCK, GRACE_MS, Site, acknowledgements, sealed

SECOND = FIRST_STEP + 1
STEP_NS = STEP_S * NS_PER_S
DAY_NS = 86_400 * NS_PER_S
LOOK_NS = 60 * NS_PER_S
IN_DOUBT = "much later than known"


def running(meters: int = 1) -> Site:
    site = Site(meters)
    site.begin()
    site.run(*[[1]] * 2)
    return site


def why(site: Site) -> str:
    return site.node.why_not(site.clock.now()) or ""


def pass_time(site: Site, ns: int) -> int:
    """A minute after another, in each of which the gateway looks; how many blocks it made."""
    done = 0
    for _ in range(ns // LOOK_NS):
        site.clock.advance(LOOK_NS)
        done += len(sealed(site.tick()))
    return done


def present_step(site: Site) -> int:
    return step_of(site.clock.utc_ns // NS_PER_MS, STEP_S)


def go_on(site: Site, device: Device, until: int) -> None:
    """A board that counts on, up to before a step, from the last that is in a block."""
    away = range(site.next_step, until)
    site.send(*(record for step in away for record in device.step(step, 1)))


def far_future(site: Site) -> list[object]:
    verdicts = [verdict for checked in site.blocks() for verdict in checked.verdicts]
    return [verdict for verdict in verdicts if verdict.reason is Reason.FAR_FUTURE]


def nobody(_steps: range) -> bool:
    return False


# --- While it runs. ------------------------------------------------------------------------------


def test_a_jump_far_ahead_seals_nothing_and_records_are_taken_in_all_the_same() -> None:
    site = running()
    site.clock.utc_ns += 40 * DAY_NS
    assert site.tick() == []
    assert IN_DOUBT in why(site)
    assert "mend its time source" in why(site)
    assert site.node.is_in_doubt
    # A shell that asked when to come back would else come back at once, for ever.
    assert site.node.next_due_ms(site.clock.now()) is None
    sent = site.send(*site.device.step(site.next_step, 1))
    assert acknowledgements(sent, site.key)["m0"].sequence == site.device.sequence
    assert site.tick() == []


def test_what_it_says_stays_the_same_while_the_cause_does() -> None:
    site = running()
    site.clock.utc_ns += 40 * DAY_NS
    said = set()
    for _ in range(5):
        site.clock.advance(LOOK_NS)
        site.tick()
        said.add(why(site))
    assert len(said) == 1


def test_a_clock_that_comes_right_within_the_hour_has_moved_nothing() -> None:
    site = running()
    begun = site.next_step
    site.clock.utc_ns += 40 * DAY_NS
    for _ in range(3):
        assert pass_time(site, STEP_NS) == 0
        site.send(*site.device.step(begun + site.node.pending_count // 2, 2))
    site.clock.utc_ns -= 40 * DAY_NS
    assert site.tick() == []  # the grace begins now
    assert why(site) == ""
    site.clock.advance(GRACE_MS * NS_PER_MS)
    rows = [one.row for one in sealed(site.tick())]
    assert [row.step for row in rows] == list(range(begun, present_step(site)))
    assert all(row.caught_up for row in rows)
    report = site.audit()
    assert report.late == 0
    assert report.energy_uwh["quarantined"] == 0
    assert far_future(site) == []
    # From here on blocks are in time again, and measured by the clock that is right.
    [one] = sealed(site.seal())
    assert not one.row.caught_up
    assert site.node.published(one, site.clock.now()) == GRACE_MS


def test_a_close_heard_by_the_wrong_clock_spoils_no_figure() -> None:
    site = running()
    site.clock.utc_ns += 40 * DAY_NS
    site.tick()
    site.send(*site.device.step(site.next_step, 1))
    site.clock.utc_ns -= 40 * DAY_NS
    site.at(site.next_step, 60_000)
    site.tick()
    [one] = sealed(site.seal())
    assert site.node.published(one, site.clock.now()) == GRACE_MS


def test_a_jump_is_followed_once_the_clock_has_said_so_for_an_hour() -> None:
    site = running()
    site.clock.utc_ns += 10 * STEP_NS
    assert site.tick() == []
    assert pass_time(site, CONFIRM_NS - LOOK_NS) == 0
    begun = site.next_step
    assert pass_time(site, 2 * LOOK_NS) == present_step(site) - begun >= 10
    assert site.audit().blocks == site.next_step - FIRST_STEP


def test_a_clock_that_tells_ever_another_time_is_not_followed() -> None:
    site = running()
    for days in (40, 41, 40, 400):
        site.clock.utc_ns += days * DAY_NS
        assert pass_time(site, CONFIRM_NS - LOOK_NS) == 0
        assert IN_DOUBT in why(site)


@pytest.mark.parametrize(("past_ms", "is_doubted"), [(0, False), (1, True)])
def test_a_gap_of_four_steps_may_be_mended_and_is_followed_at_once(
    past_ms: int, is_doubted: bool
) -> None:
    site = running()
    site.tick()
    site.clock.utc_ns += AHEAD_STEPS * STEP_NS + past_ms * NS_PER_MS
    assert len(sealed(site.tick())) == (0 if is_doubted else AHEAD_STEPS)
    assert site.node.is_in_doubt is is_doubted


def test_a_clock_set_back_is_believed_at_once_when_it_comes_right() -> None:
    site = running()
    site.clock.utc_ns -= 2 * DAY_NS
    assert pass_time(site, 30 * LOOK_NS) == 0
    site.clock.utc_ns += 2 * DAY_NS
    assert len(sealed(site.tick())) == 2
    assert not site.node.is_in_doubt


def test_time_that_passes_unlooked_at_is_no_jump() -> None:
    site = running()
    site.clock.sleep(40 * STEP_NS)
    assert len(sealed(site.tick())) == 40


def test_an_accepted_clock_without_a_source_is_followed_whatever_it_says() -> None:
    site = Site(policy=Policy("gw", accept_unsynchronised=True))
    site.begin()
    site.clock.state = ClockState.UNKNOWN
    site.clock.utc_ns += 10 * STEP_NS
    assert len(sealed(site.tick())) == 10


# --- Who vouches for it. -------------------------------------------------------------------------


def test_half_of_the_meters_vouch_for_a_clock_and_fewer_do_not() -> None:
    site = running(3)
    site.clock.utc_ns += 2 * DAY_NS
    site.tick()
    begun, step = site.next_step, present_step(site) - 1
    go_on(site, site.devices[0], step + 1)
    assert site.tick() == []
    assert IN_DOUBT in why(site)
    go_on(site, site.devices[1], step + 1)
    site.clock.advance(GRACE_MS * NS_PER_MS)
    assert [one.row.step for one in sealed(site.tick())] == list(range(begun, step + 1))
    assert site.audit().late == 0
    assert far_future(site) == []


def test_a_board_that_was_off_itself_has_no_voice_until_it_counts_in_blocks_again() -> None:
    site = running()
    site.clock.advance(2 * DAY_NS)
    site.start()
    site.tick()
    begun, step = site.next_step, present_step(site) - 1
    site.send(site.device.run_start(step), *site.device.step(step, 1))
    assert IN_DOUBT in why(site)
    # Nor later: what it has believed for ten minutes it goes on to say.
    assert pass_time(site, STEP_NS) == 0
    site.send(*site.device.step(step + 1, 1))
    assert IN_DOUBT in why(site)
    assert pass_time(site, CONFIRM_NS - STEP_NS + LOOK_NS) == present_step(site) - begun
    site.clock.advance(2 * DAY_NS)
    site.start()
    site.tick()
    assert IN_DOUBT in why(site)
    go_on(site, site.device, present_step(site))
    assert why(site) == ""


def test_a_board_that_was_off_for_four_steps_vouches_like_one_that_went_on() -> None:
    for gap, is_heard in ((AHEAD_STEPS, True), (AHEAD_STEPS + 1, False)):
        site = running()
        site.clock.advance(2 * DAY_NS)
        site.start()
        site.tick()
        step = present_step(site) - 1
        go_on(site, site.device, step - gap + 1)
        site.send(site.device.run_start(step), *site.device.step(step, 1))
        assert (why(site) == "") is is_heard


def test_a_board_led_astray_first_does_not_vouch_for_a_gateway_that_follows() -> None:
    site = running()
    lie_steps = 40 * DAY_NS // STEP_NS
    device = site.device
    site.send(device.run_start(site.next_step + lie_steps))
    site.send(*device.step(site.next_step + lie_steps, 1))
    site.seal()  # by a clock that is right: what is of the far future is quarantined
    assert len(far_future(site)) == 3
    site.clock.utc_ns += 40 * DAY_NS
    site.tick()
    site.send(*device.step(present_step(site), 1))
    assert IN_DOUBT in why(site)


def test_a_revoked_meter_has_no_voice_and_is_not_waited_for() -> None:
    site = running(3)
    gone = site.devices[2]
    order = site.authority.revoke(Role.METER, gone.name, site.leaves()[-1])
    site.node.take_authority([order.raw])
    site.run([1])
    site.clock.utc_ns += 2 * DAY_NS
    site.tick()
    go_on(site, site.devices[0], present_step(site))
    assert why(site) == ""


@pytest.mark.parametrize("off", [-VOUCH_STEPS - 1, VOUCH_STEPS + 1])
def test_a_meter_of_another_time_vouches_for_nothing(off: int) -> None:
    site = running()
    site.clock.utc_ns += 2 * DAY_NS
    site.tick()
    go_on(site, site.device, present_step(site) + off + 1)
    assert IN_DOUBT in why(site)


def test_meters_of_the_true_present_do_not_vouch_for_a_clock_just_too_far_ahead() -> None:
    site = running()
    site.clock.utc_ns += AHEAD_STEPS * STEP_NS + NS_PER_MS
    site.tick()
    site.send(*site.device.step(site.next_step, 1))
    assert IN_DOUBT in why(site)


# --- At a start. ---------------------------------------------------------------------------------


def test_a_gateway_that_was_away_for_four_steps_believes_its_clock_at_once() -> None:
    site = running()
    site.clock.advance(AHEAD_STEPS * STEP_NS)
    site.start()
    site.clock.advance(GRACE_MS * NS_PER_MS)
    assert len(sealed(site.tick())) == AHEAD_STEPS


def test_after_two_days_off_the_meters_that_went_on_spare_it_the_hour() -> None:
    site = running()
    begun = site.next_step
    site.clock.advance(2 * DAY_NS)
    site.start()
    site.tick()
    assert IN_DOUBT in why(site)
    away = range(begun, present_step(site))
    go_on(site, site.device, present_step(site))
    assert why(site) == ""
    site.clock.advance(GRACE_MS * NS_PER_MS)
    assert [one.row.step for one in sealed(site.tick())] == list(away)
    assert site.audit().late == 0


def test_after_two_days_off_without_a_meter_it_waits_the_hour() -> None:
    site = running()
    begun = site.next_step
    site.clock.advance(2 * DAY_NS)
    site.start()
    assert pass_time(site, CONFIRM_NS - LOOK_NS) == 0
    assert IN_DOUBT in why(site)
    assert pass_time(site, 2 * LOOK_NS) == present_step(site) - begun


def test_a_start_does_not_make_a_wrong_clock_believed() -> None:
    site = running()
    site.clock.utc_ns += 40 * DAY_NS
    for _ in range(3):
        pass_time(site, LOOK_NS)
        site.start()
    assert pass_time(site, CONFIRM_NS - LOOK_NS) == 0
    site.clock.utc_ns -= 40 * DAY_NS
    assert pass_time(site, 2 * LOOK_NS) == present_step(site) - SECOND - 2


def test_before_the_first_block_there_is_nothing_to_doubt_by() -> None:
    site = Site()
    site.clock.utc_ns += 40 * STEP_NS
    site.start()
    site.clock.advance(GRACE_MS * NS_PER_MS)
    assert len(sealed(site.tick())) == 41


def test_the_hour_is_the_communitys_where_time_runs_faster() -> None:
    clock = ScaledClock(speed=10_000_000, origin_ms=0, anchor_ms=0)
    now = first = clock.now()
    known_ms = first.utc_ns // NS_PER_MS - 5 * STEP_S * MS_PER_S
    present = Present(known_ms, STEP_S)
    looks = []
    while present.doubts(now, nobody) is not None:
        present.look(now, nobody)
        looks.append(now.mono_ns - first.mono_ns)
        now = clock.now()
    assert max(looks) < CONFIRM_NS <= now.mono_ns - first.mono_ns


def test_looking_often_loses_no_time() -> None:
    clock = SimulatedClock(0)
    present = Present(1, STEP_S)
    present.look(clock.now(), nobody)
    clock.utc_ns -= NS_PER_S
    for _ in range(1_000):
        clock.advance(NS_PER_MS - 1)
        present.look(clock.now(), nobody)
    # What is known went on by its second: four steps ahead of that is not far.
    clock.utc_ns = AHEAD_STEPS * STEP_NS + 1_000 * (NS_PER_MS - 1)
    assert present.doubts(clock.now(), nobody) is None
    clock.utc_ns += 2 * NS_PER_MS
    assert present.doubts(clock.now(), nobody) is not None


def test_no_header_has_a_time_that_was_doubted() -> None:
    site = running()
    site.clock.utc_ns += 40 * DAY_NS
    pass_time(site, 30 * LOOK_NS)
    site.clock.utc_ns -= 40 * DAY_NS
    pass_time(site, 30 * LOOK_NS)
    bodies = [checked.header.body for checked in site.blocks()]
    assert len(bodies) == len(site.store.blocks(EVERY_BLOCK))
    now_ms = site.clock.utc_ns // NS_PER_MS
    assert all(isinstance(body, Header) and body.sealed_ms <= now_ms for body in bodies)
