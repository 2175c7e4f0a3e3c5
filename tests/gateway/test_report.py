"""What `status` says: per meter its last step, gaps, late and quarantined records, clock, and what
its display should show; punctuality; who was refused."""

import json
from dataclasses import asdict, replace

from cryptometer import records
from cryptometer.record_fields import ClockReading, Role
from cryptometer.steps import NS_PER_MS, ClockSource, ClockState
from gateway.effects import Sealed
from gateway.report import MeterReport, Report, describe, make_report
from tests.core.community import DETAILS, FIRST_STEP
from tests.gateway.kit import GRACE_MS, Site
from tests.keys import signer

SECOND = FIRST_STEP + 1


def report(site: Site) -> Report:
    state = site.store.state()
    assert state is not None
    return make_report(site.store, state)


def meter(site: Site, name: str = "m0") -> MeterReport:
    [found] = [one for one in report(site).meters if one.name == name]
    return found


def line(site: Site, begin: str) -> str:
    [found] = [one for one in describe(report(site)) if one.strip().startswith(begin)]
    return found.strip()


def test_a_community_without_a_block_is_described() -> None:
    site = Site()
    found = report(site)
    assert (found.blocks, found.step, found.size, found.meters) == (0, FIRST_STEP - 1, 0, [])
    assert line(site, "punctuality").endswith("not measured yet")


def test_a_meter_never_heard_is_shown_as_such() -> None:
    site = Site()
    site.found()
    assert meter(site) == MeterReport(
        name="m0",
        serial="MID-0001",
        last_step=None,
        gaps=0,
        late=0,
        quarantined=0,
        quarantined_uwh=0,
        clock_state="-",
        clock_error_ms=0,
        last_heard_ms=None,
        index_wh=1_234_567,
        registered_uwh=0,
        expected_index_wh=1_234_567,
        register=0,
        sequence=0,
        revoked=False,
        refused={},
    )
    assert line(site, "last step") == "last step    none, gaps 0, late 0, quarantined 0 (0.000 kWh)"


def test_the_register_stands_beside_the_index_shown_at_enrolment() -> None:
    site = Site()
    site.found()
    # 10,000 pulses per kWh: 12,345 pulses are 1.2345 kWh.
    site.send(site.device.run_start(SECOND, register=0))
    site.send(*site.device.step(SECOND, *[8] * 1_543, 1))
    site.seal()
    found = meter(site)
    assert found.register == 12_345
    assert found.registered_uwh == 1_234_500_000
    assert found.index_wh == 1_234_567
    assert found.expected_index_wh == 1_234_567 + 1_234
    assert line(site, "register") == ("register     12345 pulses, 1.2345 kWh, next record 3")
    assert line(site, "display") == (
        "display      1234.567 kWh when registered; it should now show about 1235.801 kWh"
    )


def test_an_exchanged_meter_is_compared_with_its_own_display() -> None:
    site = Site()
    site.found()
    site.send(site.device.run_start(SECOND, register=0), *site.device.step(SECOND, *[8] * 1_250))
    site.seal()
    details = replace(DETAILS, serial="EXCHANGED", index_wh=5_000)
    again = site.authority.register(Role.METER, "m0", signer(10).public, details)
    site.node.take_authority([again.raw])
    site.seal()
    found = meter(site)
    assert (found.registered_uwh, found.expected_index_wh) == (1_000_000_000, 5_000)
    site.send(*site.device.step(SECOND + 2, *[8] * 125))
    site.seal()
    found = meter(site)
    assert (found.registered_uwh, found.expected_index_wh) == (1_100_000_000, 5_100)


def test_a_register_that_began_with_pulses_is_no_energy() -> None:
    site = Site()
    site.found()
    site.send(site.device.run_start(SECOND, register=5_000), *site.device.step(SECOND, 8))
    site.seal()
    found = meter(site)
    assert (found.register, found.registered_uwh) == (5_008, 800_000)


def test_steps_not_closed_are_gaps_until_they_are() -> None:
    site = Site()
    site.found()
    site.run([1], [1])
    assert (meter(site).last_step, meter(site).gaps) == (SECOND + 1, 0)
    for _ in range(3):
        site.seal()
    # What no close was missed between says nothing yet.
    assert (meter(site).last_step, meter(site).gaps) == (SECOND + 1, 0)
    site.run([1])
    assert (meter(site).last_step, meter(site).gaps) == (SECOND + 5, 3)
    assert line(site, "last step").startswith(f"last step    {SECOND + 5}, gaps 3")


def test_late_and_quarantined_records_are_counted_with_their_energy() -> None:
    site = Site()
    site.found()
    site.send(site.device.run_start(SECOND))
    late = site.device.step(SECOND, 3)
    site.seal()
    # Nine pulses are a lot above V.
    site.send(*late, site.device.batch(SECOND + 1, 9), site.device.close(SECOND + 1))
    site.seal()
    found = meter(site)
    assert (found.late, found.quarantined, found.quarantined_uwh) == (2, 1, 900_000)
    assert line(site, "last step").endswith("late 2, quarantined 1 (0.0009 kWh)")
    whole = report(site)
    assert (whole.registered_uwh, whole.waiting_uwh, whole.quarantined_uwh) == (
        1_200_000,
        300_000,
        900_000,
    )
    assert line(site, "energy") == (
        "energy         registered 0.0012 kWh: at the VPP 0.0003 kWh, not yet transferred"
        " 0.000 kWh, quarantined 0.0009 kWh"
    )


def test_the_newest_clock_of_a_meter_is_shown() -> None:
    site = Site()
    site.found()
    doubtful = ClockReading(ClockSource.SYSTEM, ClockState.INFORMATIVE, 2_345)
    site.send(site.device.run_start(SECOND), site.device.batch(SECOND, 1, clock=doubtful))
    found = meter(site)
    assert (found.clock_state, found.clock_error_ms) == ("I", 2_345)
    assert found.last_heard_ms == site.clock.utc_ns // NS_PER_MS
    assert line(site, "clock") == "clock        I, error 2345 ms"


def test_punctuality_is_the_median_and_the_worst_of_the_newest_blocks() -> None:
    site = Site()
    site.found()
    for late_ms in (30, 10, 700, 20, 40):
        site.send(
            *site.device.step(site.next_step)
            if site.device.sequence
            else [site.device.run_start(site.next_step), *site.device.step(site.next_step)]
        )
        site.at(site.next_step + 1)
        effects = site.node.tick(site.clock.now())
        site.clock.advance(late_ms * NS_PER_MS)
        for one in effects:
            if isinstance(one, Sealed):
                site.node.published(one, site.clock.now())
    site.send(site.device.batch(site.next_step, 1))  # it is noted with the next commit
    assert report(site).punctuality_ms == [30, 10, 700, 20, 40]
    assert line(site, "punctuality") == (
        "punctuality    median 30 ms, worst 700 ms of 5 blocks (community time)"
    )


def test_blocks_caught_up_on_are_counted_and_not_measured() -> None:
    site = Site()
    site.found()
    site.at(SECOND + 4, 10)
    site.start()
    site.clock.advance(GRACE_MS * NS_PER_MS)
    site.tick()
    found = report(site)
    assert (found.blocks, found.caught_up, found.punctuality_ms) == (5, 5, [])
    assert line(site, "blocks") == "blocks         5; 5 of the last 96 caught up"


def test_refusals_stand_with_their_meter_and_those_of_strangers_apart() -> None:
    site = Site(2)
    site.found()
    site.receive([site.message(b"x", "m1"), site.message(b"y", "m1"), site.message(b"z", "nobody")])
    gap = site.device.batch(SECOND, 1)
    site.send(site.device.batch(SECOND, 1))
    assert gap.identity
    found = report(site)
    assert found.strangers == {"malformed": 1}
    assert [one.refused for one in found.meters] == [{"gap": 1}, {"malformed": 2}]
    lines = describe(found)
    assert "refused        from the unregistered: malformed 1" in lines
    assert "  refused      malformed 2" in lines


def test_a_revoked_meter_is_marked_until_it_is_registered_anew() -> None:
    site = Site()
    site.found()
    site.node.take_authority([site.authority.revoke(Role.METER, "m0").raw])
    site.seal()
    assert meter(site).revoked
    assert line(site, "meter m0") == "meter m0  serial MID-0001  REVOKED"
    again = site.authority.register(
        Role.METER, "m0", signer(30).public, replace(DETAILS, serial="MID-0009")
    )
    site.node.take_authority([again.raw])
    site.seal()
    assert not meter(site).revoked
    assert line(site, "meter m0") == "meter m0  serial MID-0009"


def test_meters_stand_in_order_of_their_names() -> None:
    site = Site(3)
    site.found()
    assert [one.name for one in report(site).meters] == ["m0", "m1", "m2"]


def test_the_report_names_the_ledger_as_its_checkpoint_does() -> None:
    site = Site()
    site.found()
    site.run([4])
    found = report(site)
    checkpoint = site.audit().checkpoint
    size, root = checkpoint.size, checkpoint.root.hex()
    assert (found.size, found.root) == (size, root)
    assert found.community == site.id.hex()
    assert describe(found)[0] == f"Rue des Tilleuls  {site.id.hex()[:16]}…"
    assert line(site, "newest block") == (
        f"newest block   step {SECOND} (2024-03-09T16:15Z), {size} leaves, root {root[:16]}…"
    )


def test_the_report_survives_json() -> None:
    site = Site(2)
    site.found()
    site.run([3], [4])
    found = report(site)
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert records.decode(site.store.authority()[0]).identity.hex() == found.community
