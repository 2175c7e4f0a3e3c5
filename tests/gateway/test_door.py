"""The verdicts of one round of messages, as a whole: what is accepted, refused, noted, answered."""

import pytest

from cryptometer.acknowledgement import Stop
from cryptometer.errors import Reason
from cryptometer.records import Record
from gateway.door import Door, Verdicts, verify_each
from gateway.memory_store import MemoryStore
from gateway.store import Contact, Refusal
from gateway.waiting import Waiting
from hal.ports import Message
from tests.core.community import CLOCK, Device, Village
from tests.keys import signer

TOPIC = "cryptometer/1/here"
NOW_MS = 1_700_000_000_123


@pytest.fixture
def village() -> Village:
    return Village(meters=2)


def judged(village: Village, *messages: tuple[str, bytes]) -> tuple[Door, Verdicts]:
    """A new door's verdicts on payloads under these topics of the community."""
    door = Door(TOPIC, MemoryStore(1).identity_at, Waiting(), verify_each)
    round_of = [
        Message(f"{TOPIC}/{topic}", payload, retained=False, token=(0, number))
        for number, (topic, payload) in enumerate(messages)
    ]
    return door, door.judge(village.state, round_of, NOW_MS)


def of_m0(*records: Record) -> list[tuple[str, bytes]]:
    return [("meter/m0/record", record.raw) for record in records]


def test_what_is_accepted_is_answered_and_says_when_its_meter_was_heard(village: Village) -> None:
    run = village.device.run_start(village.next_step)
    _, verdicts = judged(village, *of_m0(run))
    contact = Contact("m0", NOW_MS, village.next_step, CLOCK.state.value, CLOCK.error_ms)
    assert verdicts == Verdicts([run], [], {"m0": contact}, {"m0": None})


def test_what_nobody_registered_has_signed_is_refused_with_its_reason(village: Village) -> None:
    stranger = Device(village.id, "m0", signer(77), village.authority.genesis)
    foreign = stranger.run_start(village.next_step)
    _, verdicts = judged(village, ("meter/m0/record", b"\x00"), ("meter/m9/record", foreign.raw))
    key_id = signer(77).public.thumbprint.hex()
    assert verdicts == Verdicts(
        refusals=[
            Refusal("m0", Reason.MALFORMED, "not an untagged COSE_Sign1", NOW_MS),
            Refusal("", Reason.UNKNOWN_KEY, f"no one is registered with key {key_id}", NOW_MS),
        ]
    )


@pytest.mark.parametrize(("topic", "told"), [("m1", "m1"), ("m9", "no meter")])
def test_a_record_under_the_topic_of_another_is_refused(
    village: Village, topic: str, told: str
) -> None:
    run = village.device.run_start(village.next_step)
    _, verdicts = judged(village, (f"meter/{topic}/record", run.raw))
    known = topic if topic == told else ""
    detail = f"a record of m0 under the topic of {told}"
    assert verdicts == Verdicts(refusals=[Refusal(known, Reason.WRONG_ROLE, detail, NOW_MS)])


@pytest.mark.parametrize("topic", ["meter/m0", "meter/m0/status", "meter/m0/more/record", "record"])
def test_what_stands_under_no_meters_topic_is_passed_over(village: Village, topic: str) -> None:
    run = village.device.run_start(village.next_step)
    assert judged(village, (topic, run.raw))[1] == Verdicts()


def test_a_gap_is_counted_and_answered_without_blame(village: Village) -> None:
    step, device = village.next_step, village.device
    device.run_start(step)
    door, verdicts = judged(village, *of_m0(device.batch(step, 1)))
    gap = Refusal("m0", Reason.GAP, "sequence 1, expected 0", NOW_MS)
    assert verdicts == Verdicts(refusals=[gap], answers={"m0": None})
    assert door.stops == {}


def test_another_record_at_a_place_is_evidence_and_stops_the_chain(village: Village) -> None:
    step, device = village.next_step, village.device
    run = device.run_start(step)
    kept = vars(device).copy()
    first = device.batch(step, 1)
    vars(device).update(kept)
    second = device.batch(step, 2)
    door, verdicts = judged(village, *of_m0(run, first, second, first))
    fork = Refusal("m0", Reason.FORK, "another record at sequence 1", NOW_MS, raw=second.raw)
    stop = Stop(1, Reason.FORK)
    assert (verdicts.accepted, verdicts.refusals) == ([run, first], [fork])
    assert verdicts.answers == door.stops == {"m0": stop}
