"""A whole community in one process, through the outages it was made for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from cryptometer import audit, records
from cryptometer.block import Checked
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, ChainRecord, Mark, StepClose
from cryptometer.errors import Reason
from cryptometer.steps import NS_PER_S
from gateway.store import RefusalCount
from hal.ports import Message
from tests.core.community import FIRST_STEP, STEP_S, flip
from tests.keys import signer
from tests.simulation.world import Wire, World

TICK_S = 10
DAY = 96


@pytest.fixture
def world() -> Iterator[World]:
    """Two boards that run; the first block, which registers them, is made."""
    world = World(11)
    for board in world.boards:
        board.start()
    world.run(60, TICK_S)
    yield world
    world.close()


@dataclass
class Block:
    """A block as the audit read it."""

    header: Header
    records: list[ChainRecord] = field(default_factory=list)

    def of(self, name: str) -> list[ChainRecord]:
        return [record for record in self.records if record.meter == name]


def read_blocks(world: World) -> tuple[list[Block], audit.Report]:
    blocks: list[Block] = []

    def watch(checked: Checked) -> None:
        header = checked.header.body
        assert isinstance(header, Header)
        block = Block(header)
        for verdict in checked.verdicts:
            if isinstance(verdict.record.body, ChainRecord):
                block.records.append(verdict.record.body)
        blocks.append(block)

    report = world.audit(watch)
    return blocks, report


def settle(world: World) -> tuple[list[Block], audit.Report]:
    """What is on its way arrives and is in blocks; then all that must hold is checked."""
    world.run(2 * STEP_S + 60, TICK_S, pulses=0)
    blocks, report = read_blocks(world)
    steps = [block.header.step for block in blocks]
    assert steps == list(range(FIRST_STEP, FIRST_STEP + len(steps))), "one block per step"
    assert report.quarantined == {}
    for board in world.boards:
        assert world.in_blocks(board.name) == board.emitted == board.device_register
    return blocks, report


def tap(world: World) -> Wire:
    """A listener that hears what the meters send."""
    wire = Wire(world.broker, [f"{world.topic}/meter/+/record"])
    world.broker.connect(wire)
    return wire


def heard_by(wire: Wire) -> list[Message]:
    return [event for event in wire.drain(100_000) if isinstance(event, Message)]


def receive(world: World, messages: Sequence[Message]) -> None:
    assert world.node is not None
    world.node.receive(messages, world.clock.now())


def refusals(world: World) -> dict[tuple[str, str], int]:
    counts: list[RefusalCount] = world.store.refusals()
    return {(one.meter, one.reason): one.count for one in counts}


# --- Outages -------------------------------------------------------------------------------------


def test_a_broker_that_lost_everything_costs_nothing(world: World) -> None:
    world.run(STEP_S, TICK_S)
    world.broker.wipe()
    world.run(STEP_S + 300, TICK_S)
    assert world.broker.retained == {}
    for wire in world.broker.wires:
        world.broker.connect(wire)
    world.run(STEP_S, TICK_S)
    settle(world)
    names = {topic.rpartition("/")[2] for topic in world.broker.retained}
    assert names == {"gw", "registration", "status", "checkpoint"}  # said anew


@pytest.mark.parametrize(("away", "is_late"), [(3, True), (6, False)])
def test_a_gateway_that_was_away_makes_every_missing_block_in_order(
    world: World, away: int, is_late: bool
) -> None:
    world.run(STEP_S, TICK_S)
    world.stop_gateway()
    world.run(away * STEP_S, TICK_S)
    blocks, report = read_blocks(world)
    before, caught_up = len(blocks), report.caught_up
    world.start_gateway()
    world.run(60, TICK_S)
    after = read_blocks(world)[0]
    assert len(after) - before == away
    assert all(block.header.caught_up for block in after[before:])
    blocks, report = settle(world)
    assert report.caught_up - caught_up == away
    assert not blocks[-1].header.caught_up
    # This broker keeps nothing for it: what the boards sent meanwhile comes late, and counts. Away
    # for longer, it seals nothing before the boards have vouched for its clock, and is in time.
    assert (report.late > 0) is is_late
    for block in blocks:
        assert all(record.step <= block.header.step for record in block.records)


@pytest.mark.parametrize("restarts", [1, 10])
def test_a_gateway_that_restarts_again_and_again_makes_each_block_once(
    world: World, restarts: int
) -> None:
    for _ in range(restarts):
        world.run(310, TICK_S)
        world.stop_gateway()
        world.start_gateway()
    settle(world)


def test_a_meter_that_was_offline_for_a_day_is_counted_under_its_own_steps_and_late(
    world: World,
) -> None:
    cut_off, other = world.boards
    world.run(STEP_S, TICK_S)
    assert cut_off.wire is not None
    world.broker.disconnect(cut_off.wire)
    gone = len(read_blocks(world)[0])
    world.run(DAY * STEP_S, 30)
    blocks = read_blocks(world)[0]
    silent = [block for block in blocks[gone + 1 :] if not block.of(cut_off.name)]
    assert len(silent) == len(blocks) - gone - 1
    assert all(block.header.meters == (2, 1) for block in silent)
    world.broker.connect(cut_off.wire)
    world.run(60, 1)
    blocks, report = settle(world)
    assert report.late > 2 * (DAY - 2)
    [back] = [block for block in blocks if len(block.of(cut_off.name)) > DAY]
    closes = [one.step for one in back.of(cut_off.name) if isinstance(one, StepClose)]
    assert len(closes) >= DAY - 2
    assert closes == list(range(closes[0], closes[0] + len(closes)))
    assert max(back.header.late) >= DAY - 2
    # Its batches stretched to whole steps meanwhile, and the other meter noticed nothing.
    batches = [one for one in back.of(cut_off.name) if isinstance(one, Batch)]
    assert len(batches) < 2 * DAY
    assert all(len(block.of(other.name)) > 1 for block in blocks[1 : gone + DAY])


def test_a_clock_that_jumps_ahead_lets_its_records_wait_and_nobody_else(world: World) -> None:
    jumping, other = world.boards
    world.run(STEP_S, TICK_S)
    jumping.clock.utc_ns += 2 * STEP_S * NS_PER_S
    world.run(300, TICK_S)
    jumping.clock.utc_ns -= 2 * STEP_S * NS_PER_S
    world.run(4 * STEP_S, TICK_S)
    blocks, report = settle(world)
    for block in blocks:
        assert all(record.step <= block.header.step for record in block.records)
    marks = [
        record.declared(Mark.CLOCK_STEPPED)
        for block in blocks
        for record in block.of(jumping.name)
        if record.declared(Mark.CLOCK_STEPPED)
    ]
    assert sum(mark for mark in marks if mark) == 2 * 2 * STEP_S * 1_000
    closed = [
        record.step
        for block in blocks
        for record in block.of(other.name)
        if isinstance(record, StepClose)
    ]
    assert closed == list(range(closed[0], closed[0] + len(closed)))
    assert report.late == 0


def test_a_very_bad_broker_only_takes_time(world: World) -> None:
    world.broker.lose, world.broker.repeat = 0.4, 0.4
    world.run(4 * STEP_S, TICK_S)
    world.broker.lose = 0.0
    settle(world)


# --- What must change nothing --------------------------------------------------------------------


def test_a_bit_flipped_anywhere_in_a_message_is_refused_and_changes_nothing(world: World) -> None:
    world.run(STEP_S, TICK_S)
    listener = tap(world)
    # The gateway hears nothing for a while: what comes is the very next of each chain.
    assert world.wire is not None
    world.broker.disconnect(world.wire)
    world.run(STEP_S, TICK_S)
    world.broker.connect(world.wire)
    world.gateway_work()
    sent = heard_by(listener)
    chains = {message.topic: message for message in reversed(sent)}
    first = [chains[topic] for topic in sorted(chains)]
    assert len(first) == 2
    state, files = world.store.state(), dict(world.tree.files)
    pending = list(world.store.pending())
    before = sum(refusals(world).values())
    reasons = {reason.value for reason in Reason}
    flips = 0
    for message in first:
        for bit in range(8 * len(message.payload)):
            spoiled = Message(message.topic, flip(message.payload, bit), False, (0, 0))
            receive(world, [spoiled])
            flips += 1
            assert list(world.store.pending()) == pending, f"bit {bit} was taken in"
    assert sum(refusals(world).values()) == before + flips
    assert {reason for _, reason in refusals(world)} <= reasons
    assert world.store.state() == state
    assert world.tree.files == files
    # What was sent is taken in as it was sent.
    receive(world, first)
    assert len(list(world.store.pending())) == len(pending) + 2
    listener.close()
    settle(world)


def test_yesterdays_records_replayed_change_nothing(world: World) -> None:
    listener = tap(world)
    world.run(3 * STEP_S, TICK_S)
    settle(world)
    yesterday = heard_by(listener)
    assert len(yesterday) > 50
    listener.close()
    state, files = world.store.state(), dict(world.tree.files)
    pending = list(world.store.pending())
    counted = refusals(world)
    retained = dict(world.broker.retained)
    receive(world, yesterday)
    receive(world, list(reversed(yesterday)))
    assert world.store.state() == state
    assert list(world.store.pending()) == pending
    assert world.tree.files == files
    assert world.broker.retained == retained
    assert refusals(world) == counted  # a repetition of what is stored is no offence
    assert world.store.evidence() == []
    settle(world)


def test_a_record_under_another_meters_topic_is_refused(world: World) -> None:
    listener = tap(world)
    world.run(120, TICK_S)
    message = heard_by(listener)[0]
    listener.close()
    topics = {f"{world.topic}/meter/{board.name}/record" for board in world.boards}
    [other] = topics - {message.topic}
    receive(world, [Message(other, message.payload, False, (0, 0))])
    assert refusals(world)[other.split("/")[-2], Reason.WRONG_ROLE.value] == 1
    settle(world)


@pytest.mark.parametrize(
    ("community", "key", "reason"),
    [
        (bytes(32), None, Reason.OTHER_COMMUNITY),
        (None, 99, Reason.UNKNOWN_KEY),
        (None, 11, Reason.WRONG_ROLE),  # the other meter's
        (None, 2, Reason.WRONG_ROLE),  # the gateway's own
    ],
)
def test_a_statement_signed_for_another_place_or_by_another_key_is_refused(
    world: World, community: bytes | None, key: int | None, reason: Reason
) -> None:
    board = world.boards[0]
    listener = tap(world)
    world.run(120, TICK_S)
    own = f"{world.topic}/meter/{board.name}/record"
    message = next(message for message in heard_by(listener) if message.topic == own)
    listener.close()
    body = records.decode(message.payload).body
    forger = board.key if key is None else signer(key)
    forged = records.seal(body, community or world.id, forger)
    pending = list(world.store.pending())
    receive(world, [Message(own, forged.raw, False, (0, 0))])
    assert refusals(world)[board.name, reason.value] == 1
    assert list(world.store.pending()) == pending
    settle(world)
