"""What waits for a block: its room, the closes among it, and what a block is offered of it."""

import pytest

from cryptometer.chain import follow
from cryptometer.chain_records import ChainRecord
from cryptometer.errors import Reason
from cryptometer.proposal import Proposal
from cryptometer.records import Record
from cryptometer.steps import FUTURE_STEPS
from gateway import waiting as keeping
from gateway.waiting import Waiting
from tests.core.community import FIRST_STEP, Village
from tests.core.refusing import refusing


def taken(village: Village, *records: Record) -> Waiting:
    """Records that the door has let through, in order."""
    waiting = Waiting()
    for record in records:
        body = record.body
        assert isinstance(body, ChainRecord)
        meter = village.state.meters[body.meter]
        waiting.add(record, body, follow(meter, waiting.head(meter), record, body))
    return waiting


def offered(
    village: Village,
    waiting: Waiting,
    present: int | None = None,
    names: list[str] | None = None,
) -> list[Record]:
    proposal = Proposal(village.state, village.next_step)
    waiting.offer(proposal, present, names)
    return list(proposal.finish().leaves)


def test_records_fill_a_meters_share_to_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    village = Village()
    step, device = village.next_step, village.device
    first, second = device.run_start(step), device.batch(step, 1)
    waiting = taken(village, first)
    meter = village.state.meters["m0"]
    monkeypatch.setattr(keeping, "SHARE_MAX", len(first.raw) + len(second.raw))
    waiting.check_room(meter, second.raw, 1)
    with refusing(Reason.TOO_MANY, "m0"):
        waiting.check_room(meter, second.raw + b"\x00", 1)


def test_a_close_of_a_step_soon_after_says_that_a_step_is_closed() -> None:
    village = Village()
    step, device = village.next_step, village.device
    ahead = step + FUTURE_STEPS
    run, close = device.run_start(step), device.close(ahead)
    waiting = taken(village, run, close)
    told = {one for one in range(step - 3, ahead + 3) if waiting.has_closed("m0", one)}
    assert told == set(range(step, ahead + 1))
    waiting.release(Proposal(village.state, step), {run.identity})
    assert waiting.has_closed("m0", step)
    waiting.release(Proposal(village.state, step), {close.identity})
    assert (waiting.count, waiting.has_closed("m0", step)) == (0, False)


@pytest.mark.parametrize(("leap", "leads"), [(FUTURE_STEPS, True), (FUTURE_STEPS + 1, False)])
def test_a_chain_leads_to_where_it_has_come_without_a_leap(leap: int, leads: bool) -> None:
    village = Village()
    meter, device = village.state.meters["m0"], village.device
    first = village.next_step
    fresh = taken(village, device.run_start(first), device.batch(first + leap, 1))
    assert fresh.leads_to(meter, range(first + leap, first + leap + 1)) is leads
    assert not fresh.leads_to(meter, range(first, first + leap))
    assert not Waiting().leads_to(meter, range(2 * FIRST_STEP))
    # Of a chain that has begun, also from the newest step counted.
    village = Village()
    village.run((8,))
    meter = village.state.meters["m0"]
    step = meter.last_step + leap
    begun = taken(village, village.device.batch(step, 1))
    assert begun.leads_to(meter, range(step, step + 1)) is leads


def test_a_block_is_offered_what_waits_of_the_meters_named() -> None:
    village = Village(meters=2)
    step = village.next_step
    records = [device.run_start(step) for device in village.devices]
    waiting = taken(village, *records)
    assert offered(village, waiting) == records
    assert offered(village, waiting, names=["m1", "m9"]) == records[1:]


def test_what_the_clock_says_is_of_the_near_future_waits() -> None:
    village = Village()
    step, device = village.next_step, village.device
    present = step + 7  # the gateway catches up
    run, near = device.run_start(step), device.batch(present + FUTURE_STEPS, 1)
    assert offered(village, taken(village, run, near), present) == [run]
    village = Village()
    run, far = village.device.run_start(step), village.device.batch(present + FUTURE_STEPS + 1, 1)
    assert offered(village, taken(village, run, far), present) == [run, far]
