"""The gateway's core: verdicts at the door, acknowledgements, blocks, recovery. Real records, real
encoders; time, broker and disk are simulated."""

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor, note, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import Use
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, ChainRecord
from cryptometer.cose import RECORD_MAX
from cryptometer.errors import Reason
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, ClockState, step_start_ms
from cryptometer.tiles import TILE_WIDTH
from gateway import waiting
from gateway.behind import Behind
from gateway.effects import Publish, Say
from gateway.founding import found_store, gateway_name
from gateway.ledger import Ledger
from gateway.memory_store import MemoryStore
from gateway.node import Node, Policy
from gateway.store import EVIDENCE_OF_ONE_MAX, Changes, StoreFailed
from hal.files import SimulatedTree
from hal.ports import Message
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority, Device, flip, reseal
from tests.core.refusing import refusing
from tests.core.strategies import examples
from tests.gateway.kit import (
    EVERY_BLOCK,
    GRACE_MS,
    Site,
    acknowledgements,
    confirmed,
    content,
    sealed,
)
from tests.keys import p256_signer, signer

SECOND = FIRST_STEP + 1  # the first step that the devices may speak of


def begun(meters: int = 2, **parameters: Any) -> Site:
    """A site whose first block is made, and whose devices have said that they run."""
    site = Site(meters, **parameters)
    site.begin()
    return site


def header(site: Site, step: int) -> Header:
    for checked in site.blocks():
        body = checked.header.body
        assert isinstance(body, Header)
        if body.step == step:
            return body
    raise LookupError(step)


def steps_of_blocks(site: Site) -> list[int]:
    return [row.step for row in reversed(site.store.blocks(EVERY_BLOCK))]


def verdicts(site: Site, name: str = "m0") -> list[tuple[int, Reason | None]]:
    """Step of each of a meter's records in blocks, and why its energy is set aside."""
    return [
        (verdict.record.body.step, verdict.reason)
        for checked in site.blocks()
        for verdict in checked.verdicts
        if isinstance(verdict.record.body, ChainRecord) and verdict.record.body.meter == name
    ]


# --- At the door: what no registered key has signed. ---------------------------------------------


def _stranger(site: Site) -> Record:
    return Device(site.id, "m9", signer(77), site.founding[-1]).run_start(SECOND)


def _of_another_community(site: Site) -> Record:
    other = Authority(signer(1), name="another")
    return Device(other.genesis.identity, "m0", signer(10), site.founding[-1]).batch(SECOND, 1)


def _header_record(site: Site) -> Record:
    checked = site.blocks()[0]
    assert isinstance(checked.header.body, Header)
    return records.seal(checked.header.body, site.id, signer(10))


def _with_p256(site: Site) -> Record:
    return reseal(site.device.batch(SECOND, 1), p256_signer(10))


# What is sent, under whose topic, why it is refused, and for whom it is counted.
STRANGE: Mapping[str, tuple[Callable[[Site], Record | bytes], str, Reason, str]] = {
    "nothing": (lambda _: b"", "m0", Reason.MALFORMED, "m0"),
    "garbage": (lambda _: b"\x84garbage", "m0", Reason.MALFORMED, "m0"),
    "text": (lambda _: b"GET / HTTP/1.1\r\n\r\n", "m1", Reason.MALFORMED, "m1"),
    "too much": (lambda _: bytes(RECORD_MAX + 1), "m0", Reason.TOO_LARGE, "m0"),
    "a signature cut short": (
        lambda site: site.device.batch(SECOND, 1).raw[:-1],
        "m0",
        Reason.MALFORMED,
        "m0",
    ),
    "another signature": (
        lambda site: flip(site.device.batch(SECOND, 1).raw, -3),
        "m0",
        Reason.BAD_SIGNATURE,
        "m0",
    ),
    "a key nobody registered": (
        lambda site: reseal(site.device.batch(SECOND, 1), signer(77)),
        "m0",
        Reason.UNKNOWN_KEY,
        "m0",
    ),
    "a meter nobody registered": (_stranger, "m9", Reason.UNKNOWN_KEY, ""),
    "an algorithm of no registered key": (_with_p256, "m0", Reason.UNKNOWN_KEY, "m0"),
    "the gateway's own key": (
        lambda site: reseal(site.device.batch(SECOND, 1), signer(2)),
        "m0",
        Reason.WRONG_ROLE,
        "m0",
    ),
    "a meter that speaks for another": (
        lambda site: reseal(site.device.batch(SECOND, 1), signer(11)),
        "m0",
        Reason.WRONG_ROLE,
        "m0",
    ),
    "another community": (_of_another_community, "m0", Reason.OTHER_COMMUNITY, "m0"),
    "a record that no meter writes": (_header_record, "m0", Reason.UNKNOWN_KIND, "m0"),
    "a record under another meter's topic": (
        lambda site: site.device.batch(SECOND, 1),
        "m1",
        Reason.WRONG_ROLE,
        "m1",
    ),
    "a record under no meter's topic": (
        lambda site: site.device.batch(SECOND, 1),
        "m9",
        Reason.WRONG_ROLE,
        "",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_no_one_entitled_has_signed_is_refused_counted_and_changes_nothing(name: str) -> None:
    site = begun()
    make, topic, reason, counted_for = STRANGE[name]
    sent = make(site)
    before = content(site.store)
    effects = site.receive([site.message(sent, topic)])
    # Confirmed, so that it does not come again; not answered, for nobody registered asks.
    assert confirmed(effects) == [(0, 1)]
    assert not acknowledgements(effects, site.key)
    [counted] = site.store.refusals()
    assert (counted.meter, counted.reason, counted.count) == (counted_for, reason.value, 1)
    assert {**content(site.store), "refusals": before["refusals"]} == before
    # The meter itself goes on as if nothing had been.
    honest = begun()
    good = honest.send(honest.device.batch(SECOND, 3))
    assert acknowledgements(good, site.key)["m0"].sequence == 2
    site.device.sequence, site.device.previous, site.device.register = (
        1,
        acknowledgements(site.start(), site.key)["m0"].previous,
        0,
    )
    assert acknowledgements(site.send(site.device.batch(SECOND, 3)), site.key)["m0"].sequence == 2


def test_what_is_refused_is_let_go_of_at_once_and_waits_for_no_collector() -> None:
    site = begun()
    strange = [site.message(make(site), topic) for make, topic, *_ in STRANGE.values()]
    strange += [replace(strange[0], topic=f"{site.topic}/checkpoint", payload=b"no checkpoint")]
    strange += [site.message(site.device.batch(SECOND, 1, previous=bytes(32)))]  # a fork
    site.receive(strange)  # what is made once, is made by now
    gc.collect()
    gc.disable()
    try:
        site.receive(strange)
        assert gc.collect() == 0
    finally:
        gc.enable()


@given(st.integers(0, 2**16))
@examples(200)
def test_a_record_with_any_bit_changed_is_refused_and_changes_nothing(place: int) -> None:
    site = BIT_SITE
    raw = BIT_RECORD.raw
    before = content(site.store)
    site.receive([site.message(flip(raw, place % (8 * len(raw))), "m0")])
    after = content(site.store)
    assert {**after, "refusals": []} == {**before, "refusals": []}
    assert site.store.refusals() != before["refusals"]


BIT_SITE = begun(1)
BIT_RECORD = BIT_SITE.device.batch(SECOND, 1, 2)


def test_what_stands_under_another_topic_is_none_of_ours() -> None:
    site = begun()
    before = content(site.store)
    record = site.device.batch(SECOND, 1)
    places = ("meter/m0/status", "meter/m0/record/x", "meter//record/", "x/meter/m0/record", "")
    effects = site.receive(
        [
            Message(f"{site.topic}/{place}", record.raw, False, (1, at))
            for at, place in enumerate(places)
        ]
    )
    assert content(site.store) == before
    assert confirmed(effects) == [(1, at) for at in range(len(places))]


# --- At the door: what a registered key has signed. ----------------------------------------------


def _fork(site: Site) -> Record:
    good = site.device.batch(SECOND, 1)
    site.send(good)
    return reseal(good, signer(10), lots=(2, 1_000))


def _other_previous(site: Site) -> Record:
    return reseal(site.device.batch(SECOND, 1), signer(10), previous=bytes(32))


def _no_run_start(site: Site) -> Record:
    site.devices.append(Device(site.id, "m1", signer(11), site.founding[-1]))
    return site.devices[-1].batch(SECOND, 1)


def _register_back(site: Site) -> Record:
    site.send(site.device.batch(SECOND, 5))
    return site.device.batch(SECOND, 5, register=3)


def _more_than_it_can_give(site: Site) -> Record:
    return site.device.batch(SECOND, 2**60)


SIGNED: Mapping[str, tuple[Callable[[Site], Record], Reason]] = {
    "another record at a place that is taken": (_fork, Reason.FORK),
    "a chain that goes on from another record": (_other_previous, Reason.FORK),
    "a register that goes back": (_register_back, Reason.REGISTER_MISMATCH),
    "more energy than the meter can give": (_more_than_it_can_give, Reason.IMPLAUSIBLE),
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_a_meter_signs_against_its_own_chain_is_evidence_and_stops_it(name: str) -> None:
    site = begun()
    make, reason = SIGNED[name]
    bad = make(site)
    assert isinstance(bad.body, ChainRecord)
    before = content(site.store)
    stood = acknowledgements(site.start(), site.key)["m0"]
    effects = site.send(bad)
    assert confirmed(effects) == [(0, 1)]
    word = acknowledgements(effects, site.key)["m0"]
    assert word == replace(stood, stop=Stop(bad.body.sequence, reason))
    [counted] = site.store.refusals()
    assert (counted.meter, counted.reason, counted.count) == ("m0", reason.value, 1)
    [kept] = site.store.evidence()
    assert (kept.meter, kept.reason, kept.raw) == ("m0", reason, bad.raw)
    after = content(site.store)
    assert {**after, "refusals": [], "evidence": []} == before
    # The word is said again on the next connection, and taken back when the chain goes on.
    assert acknowledgements(site.node.connected(site.clock.now()), site.key)["m0"] == word
    site.device.sequence, site.device.previous = stood.sequence, stood.previous
    site.device.register = stood.register
    good = acknowledgements(site.send(site.device.batch(SECOND, 1)), site.key)["m0"]
    assert (good.sequence, good.stop) == (stood.sequence + 1, None)
    assert acknowledgements(site.node.connected(site.clock.now()), site.key)["m0"] == good


def test_a_chain_begins_with_a_run_start() -> None:
    site = Site()
    site.found()
    effects = site.send(site.device.batch(SECOND, 1))
    assert acknowledgements(effects, site.key)["m0"] == Acknowledgement(
        "m0", 1, 0, site.founding[-1].identity, 0, Stop(0, Reason.REGISTER_MISMATCH)
    )


def test_evidence_of_a_meter_gone_mad_is_bounded_and_each_record_kept_once() -> None:
    site = begun()
    good = site.device.batch(SECOND, 1)
    site.send(good)
    forks = [reseal(good, signer(10), lots=(2, at)) for at in range(1, EVIDENCE_OF_ONE_MAX + 30)]
    for _ in range(3):
        site.send(*forks)
    assert [one.raw for one in site.store.evidence()] == [
        record.raw for record in forks[:EVIDENCE_OF_ONE_MAX]
    ]
    [counted] = site.store.refusals()
    assert counted.count == 3 * len(forks)


def test_yesterdays_records_replayed_are_acknowledged_again_and_change_nothing() -> None:
    site = Site(2)
    site.found()
    sent: list[Record] = []
    for step in range(SECOND, SECOND + 4):
        for device in site.devices:
            if device.sequence == 0:
                sent.append(device.run_start(step))
            sent += device.step(step, 8, 2)
        site.send(*sent)
        site.seal()
    before = content(site.store)
    effects = site.send(*sent)
    assert content(site.store) == before
    assert len(confirmed(effects)) == len(sent)
    words = acknowledgements(effects, site.key)
    assert {name: (word.sequence, word.stop) for name, word in words.items()} == {
        "m0": (9, None),
        "m1": (9, None),
    }


def test_a_record_out_of_order_is_dropped_without_blame_and_comes_again() -> None:
    site = begun()
    first, second = site.device.batch(SECOND, 1), site.device.batch(SECOND, 2)
    before = content(site.store)
    effects = site.send(second)
    word = acknowledgements(effects, site.key)["m0"]
    assert (word.sequence, word.stop) == (1, None)
    assert confirmed(effects) == [(0, 1)]
    assert [(one.reason, one.count) for one in site.store.refusals()] == [("gap", 1)]
    assert {**content(site.store), "refusals": []} == before
    word = acknowledgements(site.send(first, second), site.key)["m0"]
    assert (word.sequence, word.previous, word.register) == (3, second.identity, 3)


def test_a_revoked_key_is_refused_from_the_block_after_its_revocation() -> None:
    site = begun()
    last = site.device.batch(SECOND, 1)
    site.send(last)
    site.node.take_authority([site.authority.revoke(Role.METER, "m0", last).raw])
    site.seal()
    effects = site.send(site.device.batch(SECOND + 1, 1))
    word = acknowledgements(effects, site.key)["m0"]
    assert (word.sequence, word.stop) == (2, Stop(2, Reason.REVOKED))
    assert [one.reason for one in site.store.refusals()] == ["revoked"]
    assert list(site.store.pending()) == []
    # The others go on.
    assert (
        acknowledgements(site.send(site.devices[1].batch(SECOND + 1, 1)), site.key)["m1"].stop
        is None
    )


def test_records_that_wait_for_a_block_are_limited_for_each_meter_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "PENDING_BYTES", 2 * RECORD_MAX)
    site = begun()
    lots = (1, 1_000) * 4_000  # some 16 kB
    sent = [site.device.batch(SECOND, lots=lots) for _ in range(6)]
    effects = site.send(*sent)
    word = acknowledgements(effects, site.key)["m0"]
    assert word.stop is None
    accepted = word.sequence - 1
    assert 0 < accepted < len(sent)
    assert sum(map(len, site.store.pending())) <= 2 * RECORD_MAX
    counted = {one.reason: one.count for one in site.store.refusals()}
    assert counted == {"too-many": 1, "gap": len(sent) - accepted - 1}
    assert site.store.evidence() == []
    # Another meter has its own room, and after the block there is room again.
    assert (
        acknowledgements(site.send(site.devices[1].batch(SECOND, 1)), site.key)["m1"].sequence == 2
    )
    site.seal()
    word = acknowledgements(site.send(*sent[accepted:]), site.key)["m0"]
    assert word.sequence > accepted + 1


def test_a_large_community_shares_the_same_room_and_one_record_always_has_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "PENDING_BYTES", 4_000)
    site = begun(4)
    site.seal()
    step = site.next_step
    wide = [device.batch(step, lots=(1, 1_000) * 900) for device in site.devices]
    more = [device.batch(step, 1) for device in site.devices]
    assert all(len(record.raw) > 1_000 for record in wide)
    site.send(*wide, *more)
    assert sorted(site.store.pending()) == sorted(record.raw for record in wide)
    assert {(one.reason, one.count) for one in site.store.refusals()} == {("too-many", 1)}
    site.seal()
    site.send(*more)
    assert sorted(site.store.pending()) == sorted(record.raw for record in more)


def test_a_cause_of_refusals_is_said_once() -> None:
    site = begun()
    said = [
        effect.text
        for _ in range(3)
        for effect in site.receive([site.message(b"x", "m0"), site.message(b"y", "m7")])
        if isinstance(effect, Say)
    ]
    assert [text.split(":")[0] for text in said] == [
        "refused from m0",
        "refused from someone unregistered",
    ]
    assert [one.count for one in site.store.refusals()] == [3, 3]


# --- Acknowledgements, and the order of effects. -------------------------------------------------


class Failing(MemoryStore):
    """A store whose commits fail from a moment on."""

    def __init__(self) -> None:
        super().__init__(1)
        self.fails = False
        self.commits = 0

    def commit(self, changes: Changes) -> None:
        if self.fails:
            raise StoreFailed("the disk is full")
        super().commit(changes)
        self.commits += 1


class BrokenTree(SimulatedTree):
    """A folder whose writes fail from a moment on."""

    fails = False

    def put_all(self, files: Mapping[str, bytes]) -> None:
        if self.fails:
            raise OSError("input/output error")
        super().put_all(files)


def test_an_acknowledgement_names_what_is_durable_in_which_epoch() -> None:
    site = Site(store=MemoryStore(77))
    site.found()
    sent = [site.device.run_start(SECOND), *site.device.step(SECOND, 5, 3)]
    word = acknowledgements(site.send(*sent), site.key)["m0"]
    assert word == Acknowledgement("m0", 77, 3, sent[-1].identity, 8)
    assert list(site.store.pending()) == [record.raw for record in sent]


def test_messages_of_one_round_are_one_commit_and_one_answer_each() -> None:
    store = Failing()
    site = Site(2, store=store)
    site.found()
    sent = [
        record
        for device in site.devices
        for record in (device.run_start(SECOND), device.batch(SECOND, 1))
    ]
    before = store.commits
    effects = site.send(*sent)
    assert store.commits == before + 1
    # Answers stand before confirmations: the broker forgets last.
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds == ["Publish"] * 2 + ["Confirm"] * 4


def test_nothing_is_acknowledged_that_could_not_be_stored() -> None:
    store = Failing()
    site = Site(store=store)
    site.found()
    record = site.device.run_start(SECOND)
    store.fails = True
    with pytest.raises(StoreFailed):
        site.send(record)
    store.fails = False
    assert acknowledgements(site.start(), site.key)["m0"].sequence == 0
    assert acknowledgements(site.send(record), site.key)["m0"].sequence == 1


def test_no_checkpoint_leaves_before_its_block_is_stored() -> None:
    store = Failing()
    site = Site(store=store)
    site.begin()
    published = dict(site.tree.files) if isinstance(site.tree, SimulatedTree) else {}
    store.fails = True
    with pytest.raises(StoreFailed):
        site.seal()
    assert isinstance(site.tree, SimulatedTree)
    assert site.tree.files == published
    store.fails = False
    site.start()
    site.at(SECOND + 1, 2 * GRACE_MS)
    assert [one.row.step for one in sealed(site.tick())] == [SECOND]


def test_a_block_whose_files_could_not_be_written_is_published_by_the_next_start() -> None:
    tree = BrokenTree()
    site = Site(tree=tree)
    site.begin()
    before = dict(tree.files)
    tree.fails = True
    with pytest.raises(OSError, match="input/output"):
        site.seal()
    assert site.store.blocks(1)[0].step == SECOND
    assert tree.files == before
    tree.fails = False
    site.start()
    site.clock.advance(GRACE_MS * NS_PER_MS)
    newest = site.store.blocks(1)[0]
    assert site.tick() == [Publish(f"{site.topic}/checkpoint", newest.note.encode())]
    assert site.audit().checkpoint.size == newest.size
    assert site.audit().state == site.node.state


def test_the_broker_is_told_everything_anew_on_each_connection() -> None:
    site = begun()
    effects = site.node.connected(site.clock.now())
    topics = [
        effect.topic.removeprefix(f"{site.topic}/")
        for effect in effects
        if isinstance(effect, Publish)
    ]
    assert topics == [
        "checkpoint",
        "meter/m0/registration",
        "meter/m0/ack/gw",
        "meter/m1/registration",
        "meter/m1/ack/gw",
    ]
    assert all(isinstance(effect, Publish) and effect.retain for effect in effects)
    registration = effects[1]
    assert isinstance(registration, Publish)
    gateway = site.gateway_registration.raw
    assert cbor.decode(registration.payload) == [gateway, site.founding[3].raw]


def test_a_block_comes_out_as_its_checkpoint_and_then_what_was_sealed() -> None:
    site = begun()
    effects = site.seal()
    assert isinstance(effects[0], Publish)
    assert effects[0].topic == f"{site.topic}/checkpoint"
    checkpoint = site.community().open_checkpoint(effects[0].payload)
    assert checkpoint == site.node.state.checkpoint
    [done] = sealed(effects)
    assert (done.row.step, done.row.size) == (SECOND, checkpoint.size)


# --- Blocks. -------------------------------------------------------------------------------------


def test_there_is_exactly_one_block_for_every_step_empty_ones_included() -> None:
    site = Site()
    site.found()
    for step in range(SECOND, SECOND + 20):
        site.at(step + 1, GRACE_MS)
        assert [one.row.step for one in sealed(site.tick())] == [step]
        assert site.tick() == []
    assert steps_of_blocks(site) == list(range(FIRST_STEP, SECOND + 20))
    assert site.audit().blocks == 21
    assert site.store.blocks(1)[0].records == 0


def test_a_step_is_sealed_at_its_end_once_every_meter_has_closed_it() -> None:
    site = begun()
    for device in site.devices:
        site.send(*device.step(SECOND, 4))
    site.at(SECOND + 1, -1)
    assert site.tick() == []
    site.at(SECOND + 1)
    [done] = sealed(site.tick())
    assert (done.row.expected, done.row.heard, done.row.caught_up) == (2, 2, False)


def test_a_step_that_not_all_have_closed_waits_for_the_grace_and_no_longer() -> None:
    site = begun()
    site.send(*site.device.step(SECOND, 4))
    site.at(SECOND + 1, GRACE_MS - 1)
    assert site.tick() == []
    assert site.node.next_due_ms(site.clock.now()) == step_start_ms(SECOND + 1, STEP_S) + GRACE_MS
    # The last close ends the wait.
    site.send(*site.devices[1].step(SECOND, 4))
    assert site.node.next_due_ms(site.clock.now()) == step_start_ms(SECOND + 1, STEP_S)
    assert len(sealed(site.tick())) == 1
    site.at(SECOND + 2, GRACE_MS)
    [done] = sealed(site.tick())
    assert (done.row.expected, done.row.heard) == (2, 0)


def test_only_meters_that_generate_from_this_step_on_are_waited_for() -> None:
    site = Site(1)
    consumer = replace(DETAILS, use=Use.CONSUMPTION)
    site.node.take_authority(
        [
            site.register("m1", 11, meter=consumer).raw,
            site.register("m2", 12, from_step=SECOND + 3).raw,
            site.register("m3", 13).raw,
        ]
    )
    site.found()
    site.node.take_authority([site.authority.revoke(Role.METER, "m3").raw])
    site.seal()
    site.send(site.device.run_start(SECOND + 1), *site.device.step(SECOND + 1))
    site.at(SECOND + 2)
    [done] = sealed(site.tick())
    assert (done.row.step, done.row.expected, done.row.heard) == (SECOND + 1, 1, 1)
    site.send(*site.device.step(SECOND + 2))
    site.at(SECOND + 3)
    assert len(sealed(site.tick())) == 1
    site.send(*site.device.step(SECOND + 3))
    site.at(SECOND + 4, GRACE_MS - 1)
    assert site.tick() == []


def test_a_close_of_the_far_future_is_no_close_of_this_step() -> None:
    site = begun(1)
    site.send(site.device.close(SECOND + 1_000))
    site.at(SECOND + 1)
    assert site.tick() == []
    site.at(SECOND + 1, GRACE_MS)
    [done] = sealed(site.tick())
    assert (done.row.expected, done.row.heard) == (1, 0)


def test_a_record_that_comes_after_its_block_keeps_its_step_and_counts_as_late() -> None:
    site = begun()
    late = site.device.step(SECOND, 6)
    site.seal()
    site.seal()
    site.send(*late, *site.device.step(SECOND + 2, 2))
    site.seal()
    body = header(site, SECOND + 2)
    assert body.late == (2, 2)
    assert verdicts(site)[1:] == [(SECOND, None)] * 2 + [(SECOND + 2, None)] * 2
    assert site.audit().energy_uwh["waiting"] == 8 * 100_000


def test_a_record_beyond_the_late_window_is_set_aside() -> None:
    site = begun(1, late_steps=2)
    for _ in range(3):
        site.seal()
    site.send(*site.device.step(SECOND, 5))
    site.seal()
    assert verdicts(site)[1:] == [(SECOND, Reason.TOO_LATE)] * 2
    assert site.store.tallies()[0].quarantined == 2


def test_records_of_the_near_future_wait_for_their_step() -> None:
    site = begun(1)
    site.send(*site.device.step(SECOND + 4, 7))
    for step in range(SECOND, SECOND + 4):
        site.seal()
        assert header(site, step).leaves == (1 if step == SECOND else 0)
        assert site.node.pending_count == 2
    site.seal()
    assert verdicts(site)[1:] == [(SECOND + 4, None)] * 2
    assert site.node.pending_count == 0


def test_records_of_the_far_future_are_set_aside_and_the_meter_goes_on() -> None:
    site = begun(1)
    site.send(*site.device.step(SECOND + 500, 7))
    site.seal()
    site.send(*site.device.step(SECOND + 1, 3))
    site.seal()
    assert verdicts(site)[1:] == [(SECOND + 500, Reason.FAR_FUTURE)] * 2 + [(SECOND + 1, None)] * 2
    assert site.audit().energy_uwh["quarantined"] == 7 * 100_000


def test_nothing_is_sealed_before_the_broker_is_there_and_its_grace_is_over() -> None:
    site = begun()
    site.send(*site.device.step(SECOND, 1), *site.devices[1].step(SECOND, 1))
    site.at(SECOND + 1, 60_000)
    site.node = Node(site.store, Ledger(site.tree), site.key, site.policy)
    assert site.tick() == []
    assert "waiting for the broker" in (site.node.why_not(site.clock.now()) or "")
    assert site.node.next_due_ms(site.clock.now()) is None
    site.node.connected(site.clock.now())
    assert site.node.why_not(site.clock.now()) is None
    site.clock.advance((GRACE_MS - 1) * NS_PER_MS)
    assert site.tick() == []
    site.clock.advance(NS_PER_MS)
    assert len(sealed(site.tick())) == 1


def test_what_the_broker_kept_for_us_is_awaited_beyond_a_short_grace() -> None:
    site = Site(policy=Policy("gw", settle_ms=20_000))
    site.at(FIRST_STEP + 1, 19_999)
    assert site.tick() == []
    site.at(FIRST_STEP + 1, 20_000)
    assert len(sealed(site.tick())) == 1


def test_a_restarted_gateway_makes_every_missing_block_in_order_and_marks_it() -> None:
    site = begun(1)
    sent = [record for step in range(SECOND, SECOND + 10) for record in site.device.step(step, 2)]
    site.at(SECOND + 10, 100)
    site.start()
    site.send(*sent)
    site.clock.advance(GRACE_MS * NS_PER_MS)
    done = sealed(site.tick())
    assert [one.row.step for one in done] == list(range(SECOND, SECOND + 10))
    assert all(one.row.caught_up for one in done)
    # Every record is in the block of its own step, none of them late.
    assert site.audit().late == 0
    assert site.audit().caught_up == 11
    assert all(header(site, step).meters == (1, 1) for step in range(SECOND, SECOND + 10))
    site.send(*site.device.step(SECOND + 10, 2))
    [done_in_time] = sealed(site.seal())
    assert not done_in_time.row.caught_up
    assert {reason for _, reason in verdicts(site)} == {None}


def test_records_of_today_count_while_a_gateway_catches_up_on_yesterday() -> None:
    """They lie in the far future of the blocks being made, and not of the clock."""
    site = Site(2)
    site.found()
    site.at(SECOND + 100, 100)
    site.start()
    quiet = [site.device.run_start(SECOND + 99), *site.device.step(SECOND + 99, 8, 8)]
    busy = [
        site.devices[1].run_start(SECOND),
        *site.devices[1].step(SECOND, 1),
        *site.devices[1].step(SECOND + 98, 1),
    ]
    ahead = site.devices[1].step(SECOND + 5_000, 1)
    site.send(*quiet, *busy, *ahead)
    site.clock.advance(GRACE_MS * NS_PER_MS)
    assert len(sealed(site.tick())) == 100
    assert verdicts(site, "m0") == [(SECOND + 99, None)] * 3
    assert verdicts(site, "m1") == [
        (SECOND, None),
        (SECOND, None),
        (SECOND, None),
        (SECOND + 98, None),
        (SECOND + 98, None),
        (SECOND + 5_000, Reason.FAR_FUTURE),
        (SECOND + 5_000, Reason.FAR_FUTURE),
    ]
    assert header(site, SECOND + 99).meters == (2, 1)
    assert site.audit().late == 0


def test_without_a_synchronised_clock_nothing_is_sealed_and_it_says_so() -> None:
    site = begun()
    site.clock.state = ClockState.UNKNOWN
    site.at(SECOND + 1, GRACE_MS)
    assert site.tick() == []
    why = site.node.why_not(site.clock.now())
    assert why is not None
    assert "not synchronised" in why
    assert "accept_unsynchronised" in why
    # A shell that asked when to come back would else come back at once, for ever.
    assert site.node.next_due_ms(site.clock.now()) is None
    # Records are taken in all the same.
    assert acknowledgements(site.send(site.device.batch(SECOND, 1)), site.key)["m0"].sequence == 2
    site.clock.state = ClockState.SYNCHRONISED
    assert len(sealed(site.tick())) == 1
    assert site.audit().unsynchronised == 0


@pytest.mark.parametrize("state", [ClockState.UNKNOWN, ClockState.INFORMATIVE, ClockState.RELATIVE])
def test_an_accepted_unsynchronised_clock_stands_in_every_header(state: ClockState) -> None:
    site = Site(policy=Policy("gw", accept_unsynchronised=True))
    site.clock.state = state
    site.clock.error_ns = 1_500_000_001
    site.found()
    site.seal()
    assert site.audit().unsynchronised == 2
    assert header(site, SECOND).clock.state is state
    assert header(site, SECOND).clock.error_ms == 1_501


def test_a_gateway_that_never_knew_the_time_begins_once_it_does() -> None:
    site = Site()
    site.clock.state = ClockState.UNKNOWN
    site.start()
    site.at(FIRST_STEP + 30, 100)
    assert site.tick() == []
    site.clock.state = ClockState.SYNCHRONISED
    assert site.tick() == []  # the grace begins now
    site.clock.advance(GRACE_MS * NS_PER_MS)
    done = sealed(site.tick())
    assert [one.row.step for one in done] == list(range(FIRST_STEP, FIRST_STEP + 30))
    assert all(one.row.caught_up for one in done)


def test_punctuality_runs_from_the_last_close_to_the_published_checkpoint() -> None:
    site = begun()
    site.seal()  # the run starts' block
    site.send(*site.device.step(SECOND + 1, 1))
    site.at(SECOND + 2, 2_000)
    site.send(*site.devices[1].step(SECOND + 1, 1))
    site.clock.advance(30 * NS_PER_MS)
    effects = site.node.tick(site.clock.now())
    [done] = sealed(effects)
    site.clock.advance(12 * NS_PER_MS)
    assert site.node.published(done, site.clock.now()) == 42
    # Not durable at once: the next commit takes it along.
    assert site.store.block(SECOND + 1) == replace(done.row, punctuality_ms=None)
    site.send(site.device.batch(SECOND + 2, 1))
    assert site.store.block(SECOND + 1) == replace(done.row, punctuality_ms=42)


def test_punctuality_runs_from_the_end_of_the_step_where_the_closes_came_before() -> None:
    site = begun(1)
    site.send(*site.device.step(SECOND, 1))
    site.at(SECOND + 1, 70)
    [done] = sealed(site.node.tick(site.clock.now()))
    assert site.node.published(done, site.clock.now()) == 70


def test_a_block_that_was_caught_up_on_has_no_punctuality() -> None:
    site = begun(1)
    site.at(SECOND + 1, 100)
    site.start()
    site.clock.advance(GRACE_MS * NS_PER_MS)
    [done] = sealed(site.node.tick(site.clock.now()))
    assert site.node.published(done, site.clock.now()) is None


# --- The authority's records. --------------------------------------------------------------------


def test_a_registration_stands_in_the_next_block_and_acts_from_the_one_after() -> None:
    site = begun(1)
    record = site.register("m1", 11, from_step=SECOND)
    assert site.node.take_authority([one.raw for one in (*site.founding, record)]) == 1
    early = site.send(site.devices[1].run_start(SECOND))
    assert not acknowledgements(early, site.key)
    effects = site.seal()
    assert acknowledgements(effects, site.key)["m1"] == Acknowledgement(
        "m1", 1, 0, record.identity, 0
    )
    told = {e.topic: e.payload for e in effects if isinstance(e, Publish)}
    gateway = site.gateway_registration.raw
    assert cbor.decode(told[f"{site.topic}/meter/m1/registration"]) == [gateway, record.raw]
    assert f"{site.topic}/meter/m0/registration" not in told
    site.devices[1] = Device(site.id, "m1", signer(11), record)
    word = acknowledgements(site.send(site.devices[1].run_start(SECOND + 1)), site.key)["m1"]
    assert word.sequence == 1


def test_authority_records_taken_twice_or_in_part_are_taken_once() -> None:
    site = begun(1)
    first, second = site.register("m1", 11), site.register("m2", 12)
    assert site.node.take_authority([first.raw]) == 1
    assert site.node.take_authority([first.raw, second.raw]) == 1
    assert site.node.take_authority([one.raw for one in (*site.founding, first, second)]) == 0
    assert site.store.authority() == [one.raw for one in (*site.founding, first, second)]
    site.seal()
    assert site.node.take_authority([second.raw]) == 0
    assert set(site.node.state.meters) == {"m0", "m1", "m2"}


def test_authority_records_of_no_unbroken_chain_are_refused_whole() -> None:
    site = begun(1)
    first, second = site.register("m1", 11), site.register("m2", 12)
    foreign = Authority(signer(5)).register(Role.METER, "m3", signer(13).public, DETAILS)
    forged = reseal(first, signer(5))
    cases: list[tuple[Sequence[bytes], Reason]] = [
        ([second.raw], Reason.GAP),
        ([first.raw, foreign.raw], Reason.OTHER_COMMUNITY),
        ([forged.raw], Reason.UNKNOWN_KEY),
        ([first.raw, reseal(second, signer(1), previous=bytes(32)).raw], Reason.FORK),
        ([first.raw, site.device.batch(SECOND, 1).raw], Reason.UNKNOWN_KEY),
        ([b"text"], Reason.MALFORMED),
    ]
    before = content(site.store)
    for raws, reason in cases:
        with refusing(reason):
            site.node.take_authority(raws)
        assert content(site.store) == before
    assert site.node.take_authority([first.raw, second.raw]) == 2


def test_a_re_anchor_drops_what_waits_behind_the_chain_and_frees_its_place() -> None:
    """Records of the next step wait already when the block of this one is made."""
    site = begun(1)
    site.seal()
    old = site.device.step(SECOND + 2, 5)
    site.send(*old)
    anchor = site.authority.re_anchor("m0", 1, 1_000)
    site.node.take_authority([anchor.raw])
    effects = site.seal()
    # In a new epoch: it says less than the word before.
    assert acknowledgements(effects, site.key)["m0"] == Acknowledgement(
        "m0", 2, 1, anchor.identity, 1_000
    )
    assert list(site.store.pending()) == []
    assert {one.raw for one in site.store.evidence()} == {record.raw for record in old}
    assert [(one.reason, one.count) for one in site.store.refusals()] == [("fork", 1), ("gap", 1)]
    # The device goes on from the anchor, at the very places that were taken.
    site.device.go_on_from(anchor)
    word = acknowledgements(site.send(*site.device.step(SECOND + 2, 2)), site.key)["m0"]
    assert (word.sequence, word.register, word.stop) == (3, 1_002, None)
    site.seal()
    assert verdicts(site)[-2:] == [(SECOND + 2, None)] * 2
    site.audit()


def test_a_meter_registered_anew_before_its_first_block_goes_on_with_what_waits() -> None:
    site = Site(1)
    site.found()
    site.seal()
    old = site.device.run_start(SECOND + 2)
    site.send(old)
    record = site.authority.register(
        Role.METER, "m0", site.device.signer.public, replace(DETAILS, serial="MID-0002")
    )
    site.node.take_authority([record.raw])
    effects = site.seal()
    word = acknowledgements(effects, site.key)["m0"]
    assert (word.sequence, word.previous) == (1, old.identity)
    told = [e for e in effects if isinstance(e, Publish) and e.topic.endswith("/registration")]
    gateway = site.gateway_registration.raw
    assert cbor.decode(told[0].payload) == [gateway, site.founding[-1].raw, record.raw]
    site.start()
    assert list(site.store.pending()) == [old.raw]
    new = site.device.batch(SECOND + 2, 1)
    assert acknowledgements(site.send(new), site.key)["m0"].sequence == 2
    site.seal()
    assert site.leaves() == [old, new]
    site.audit()


def test_what_waits_of_a_revoked_chain_is_dropped_and_kept_as_evidence() -> None:
    site = begun(1)
    last = site.device.batch(SECOND, 1)
    site.send(last)
    site.seal()
    beyond = site.device.step(SECOND + 2, 1)
    site.send(*beyond)
    site.node.take_authority([site.authority.revoke(Role.METER, "m0", last).raw])
    words = acknowledgements(site.seal(), site.key)
    assert (words["m0"].epoch, words["m0"].sequence) == (2, 2)  # what was said before is void
    assert list(site.store.pending()) == []
    assert [one.raw for one in site.store.evidence()] == [record.raw for record in beyond]
    assert site.node.pending_count == 0
    site.seal()
    assert len(site.leaves()) == 2


def test_a_founding_chain_that_is_not_whole_founds_nothing() -> None:
    site = Site()
    store = MemoryStore(1)
    raws = [record.raw for record in site.founding]
    with refusing(Reason.GAP):
        found_store(store, [raws[0], raws[2]])
    with refusing(Reason.UNKNOWN_KIND):
        found_store(store, raws[1:])
    with refusing(Reason.MALFORMED, "no authority records"):
        found_store(store, [])
    assert content(store) == content(MemoryStore(1))
    with pytest.raises(ValueError, match="genesis"):
        Node(store, Ledger(SimulatedTree()), site.key, site.policy)


def test_a_gateway_knows_its_name_by_its_key() -> None:
    site = Site()
    assert gateway_name(site.node._community, signer(2)) == "gw"
    assert gateway_name(site.node._community, signer(3)) is None  # the VPP's
    assert gateway_name(site.node._community, signer(9)) is None


# --- Behind. -------------------------------------------------------------------------------------


def older_and_newer() -> tuple[Site, dict[str, bytes], MemoryStore, bytes]:
    """A site two blocks on; and its files, store and signed checkpoint before that."""
    site = begun(1)
    assert isinstance(site.tree, SimulatedTree)
    assert isinstance(site.store, MemoryStore)
    files, copy = dict(site.tree.files), MemoryStore(1)
    vars(copy).update(
        {k: v.copy() if isinstance(v, dict | list) else v for k, v in vars(site.store).items()}
    )
    old = site.store.blocks(1)[0].note.encode()
    site.run([3], [4])
    return site, files, copy, old


def test_a_store_older_than_the_ledgers_files_does_not_start() -> None:
    site, _, old_store, _ = older_and_newer()
    site.store = old_store
    before = content(old_store)
    with pytest.raises(Behind, match=r"files hold 12 leaves, the store 5\. .*restore"):
        site.start()
    assert content(old_store) == before


def test_files_of_another_ledger_of_the_same_size_do_not_start() -> None:
    site, _, _, _ = older_and_newer()
    other = begun(1)
    other.run([4], [3])
    site.tree = other.tree
    with pytest.raises(Behind, match="not those of the store"):
        site.start()


def test_files_that_are_lost_are_written_anew_while_the_store_has_all_of_their_leaves() -> None:
    site, files, _, _ = older_and_newer()
    assert isinstance(site.tree, SimulatedTree)
    newest = dict(site.tree.files)
    for found in ({}, files, {**newest, "tile/entries/000.p/12": b"torn"}):
        site.tree = SimulatedTree()
        site.tree.put_all(found)
        site.start()
        assert site.tree.read("checkpoint") == newest["checkpoint"]
        site.audit()
    assert site.node.mended == ["tile/entries/000.p/12"]


def test_lost_files_that_the_store_has_let_go_of_are_asked_for() -> None:
    site, files, _, _ = older_and_newer()
    site.send(*(site.device.batch(site.next_step, 1) for _ in range(TILE_WIDTH)))
    site.seal()
    site.seal()  # with its commit those of the full bundle go
    assert isinstance(site.tree, SimulatedTree)
    whole = dict(site.tree.files)
    site.tree = SimulatedTree()
    with pytest.raises(Behind, match=r"files hold 0 leaves, the store has let go .* backup"):
        site.start()
    site.tree.put_all(files)
    with pytest.raises(Behind, match=r"files hold 5 leaves, the store has let go of those up to"):
        site.start()
    for path in ("tile/0/000", "tile/1/000.p/1"):
        del whole[path]
    site.tree.put_all(whole)
    with refusing(Reason.MALFORMED, "tile/0/000 is missing. Put back that file", "restore"):
        site.start()


def test_a_checkpoint_file_that_is_none_is_named() -> None:
    site, _, _, _ = older_and_newer()
    site.tree.put_all({"checkpoint": b"half a no"})
    with refusing(Reason.MALFORMED, "the ledger's checkpoint file"):
        site.start()


def retained(site: Site, payload: bytes) -> Message:
    return Message(f"{site.topic}/checkpoint", payload, True, (3, 4))


def test_a_newer_checkpoint_of_ours_at_the_broker_stops_the_gateway() -> None:
    site, files, old_store, _ = older_and_newer()
    newest = site.store.blocks(1)[0].note.encode()
    site.store, site.tree = old_store, SimulatedTree()
    site.tree.put_all(files)
    site.start()
    before = content(site.store)
    record = site.device.batch(SECOND, 1)
    with pytest.raises(Behind, match=r"broker keeps a checkpoint of 12 leaves, .* 5\. .*restore"):
        site.receive([site.message(record), retained(site, newest)])
    assert content(site.store) == before


def test_a_gateway_puts_no_checkpoint_in_the_place_of_a_newer_one_that_it_has_not_heard_yet() -> (
    None
):
    """Else only its first start would be stopped, and the second would fork the ledger."""
    site, files, old_store, old = older_and_newer()
    newest = site.store.blocks(1)[0].note.encode()
    site.store, site.tree = old_store, SimulatedTree()
    site.tree.put_all(files)
    topic = f"{site.topic}/checkpoint"
    for _ in range(2):
        assert not [one for one in site.start() if isinstance(one, Publish) and one.topic == topic]
        assert site.tick() == []
        with pytest.raises(Behind):
            site.receive([retained(site, newest)])
    # Where nothing newer is kept it is said once, in time, and again on the next connection.
    site.start()
    site.clock.advance((GRACE_MS - 1) * NS_PER_MS)
    assert site.tick() == []
    site.clock.advance(NS_PER_MS)
    assert site.tick()[0] == Publish(topic, old)
    assert Publish(topic, old) not in site.tick()
    kept = site.store.blocks(1)[0].note.encode()
    assert site.node.connected(site.clock.now())[0] == Publish(topic, kept)


def test_another_tree_of_our_size_at_the_broker_stops_the_gateway() -> None:
    site, _, _, _ = older_and_newer()
    size = site.node.state.frontier.size
    forked = note.sign_checkpoint(
        Checkpoint(size, bytes(32)), site.node._community.origin, site.key
    )
    with pytest.raises(Behind):
        site.receive([retained(site, forked.encode())])


def test_what_else_the_broker_keeps_as_a_checkpoint_stops_nothing() -> None:
    site, _, _, old = older_and_newer()
    origin = site.node._community.origin
    far = Checkpoint(10**6, bytes(32))
    before = content(site.store)
    for payload in (
        old,
        site.store.blocks(1)[0].note.encode(),
        b"",
        b"garbage",
        note.sign_checkpoint(far, origin, signer(66)).encode(),
        note.sign_checkpoint(far, "another", site.key).encode(),
    ):
        assert confirmed(site.receive([retained(site, payload)])) == [(3, 4)]
    assert content(site.store) == before


def test_a_gateway_with_a_new_key_goes_on_from_the_ledger_its_old_key_signed() -> None:
    site = begun(1)
    new = site.authority.register(Role.GATEWAY, "gw", signer(20).public)
    site.node.take_authority([new.raw])
    site.seal()
    site.key = signer(20)
    site.at(SECOND + 2)
    site.start()
    assert len(sealed(site.seal())) == 1
    assert site.store.blocks(1)[0].step == SECOND + 1


# --- Recovery. -----------------------------------------------------------------------------------


def test_a_store_whose_waiting_records_were_damaged_does_not_start() -> None:
    site = begun(1)
    assert isinstance(site.store, MemoryStore)
    [(place, record)] = site.store._pending.items()
    site.store._pending[place] = records.decode(flip(record.raw, -3))
    with refusing(Reason.BAD_SIGNATURE):
        site.start()


def test_waiting_records_that_a_restored_ledger_has_outlived_are_dropped_at_the_start() -> None:
    site = begun(1)
    stray = reseal(site.device.batch(SECOND, 1), signer(10), sequence=9)
    site.store.commit(Changes(accepted=(stray,)))
    site.start()
    assert site.node.pending_count == 1
    assert [one.raw for one in site.store.evidence()] == [stray.raw]
    assert len(list(site.store.pending())) == 1
    site.seal()
    site.audit()


class Crowd:
    """Devices that send as the real ones do: from the first unacknowledged record, over a network
    that loses, repeats and reorders; and a gateway that may start anew at any moment."""

    def __init__(self, seed: int, meters: int, steps: int, restarts: bool) -> None:
        self.random = random.Random(seed)
        self.site = Site(meters)
        self.site.found()
        self.kept: dict[str, list[Record]] = {}
        self.heard: dict[str, int] = {}
        self.restarts = restarts
        for device in self.site.devices:
            self.kept[device.name] = [device.run_start(SECOND)]
            self.heard[device.name] = 0
        self.steps = steps

    def go(self) -> None:
        """Counts for so many steps, then sends until all is acknowledged and in blocks."""
        for step in range(SECOND, SECOND + self.steps):
            for device in self.site.devices:
                lots = [self.random.randint(1, 8) for _ in range(self.random.randint(0, 3))]
                self.kept[device.name] += device.step(step, *lots)
            for _ in range(self.random.randint(0, 3)):
                self.exchange(lossy=True)
            self.site.at(step + 1, self.random.choice([0, 10, GRACE_MS]))
            if self.random.random() < 0.8:
                self.site.tick()
        for _ in range(3):
            self.exchange(lossy=False)
        self.site.at(SECOND + self.steps + 1, 2 * GRACE_MS)
        self.site.tick()

    def exchange(self, *, lossy: bool) -> None:
        sent: list[Record] = []
        for name, kept in self.kept.items():
            sent += kept[self.heard[name] :]
        if lossy:
            # Some are lost, some come twice, old ones come again, neighbours change places.
            sent = [record for record in sent if self.random.random() < 0.8]
            everything = [record for kept in self.kept.values() for record in kept]
            sent += self.random.choices(everything, k=self.random.randint(0, 6))
            for _ in range(self.random.randint(0, 4)):
                if len(sent) > 1:
                    at = self.random.randrange(len(sent) - 1)
                    sent[at], sent[at + 1] = sent[at + 1], sent[at]
            if self.random.random() < 0.2:
                self.random.shuffle(sent)
        while sent:
            size = self.random.randint(1, len(sent))
            effects = self.site.send(*sent[:size])
            sent = sent[size:]
            for name, word in acknowledgements(effects, self.site.key).items():
                assert word.stop is None
                assert word.sequence >= self.heard[name]  # never taken back
                if not lossy or self.random.random() < 0.7:
                    self.heard[name] = word.sequence
            if self.restarts and self.random.random() < 0.3:
                words = acknowledgements(self.site.start(), self.site.key)
                assert all(words[name].sequence >= at for name, at in self.heard.items())


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 6), st.booleans())
@examples(40)
def test_any_interleaving_brings_every_record_into_the_blocks_once(
    seed: int, meters: int, steps: int, restarts: bool
) -> None:
    crowd = Crowd(seed, meters, steps, restarts)
    crowd.go()
    site = crowd.site
    for name, kept in crowd.kept.items():
        mine = [
            r for r in site.leaves() if isinstance(r.body, ChainRecord) and r.body.meter == name
        ]
        assert [record.raw for record in mine] == [record.raw for record in kept]
    pulses = sum(
        sum(record.body.pulses)
        for kept in crowd.kept.values()
        for record in kept
        if isinstance(record.body, Batch)
    )
    report = site.audit()
    assert report.energy_uwh["waiting"] == report.energy_uwh["registered"] == pulses * 100_000
    assert not report.quarantined
    assert steps_of_blocks(site) == list(range(FIRST_STEP, site.node.state.step + 1))
    assert {one.reason for one in site.store.refusals()} <= {"gap"}
    assert site.store.evidence() == []
    assert sum(one.closes for one in site.store.tallies()) == meters * steps


@given(st.integers(0, 2**32))
@examples(30)
def test_a_restart_at_any_moment_gives_the_same_ledger(seed: int) -> None:
    """The same messages at the same times; the one gateway starts anew between any two of them,
    after each of which the broker has been quiet for the grace."""
    ledgers = []
    for restarts in (False, True):
        draw = random.Random(seed)
        site = Site(2)
        site.found()
        for step in range(SECOND, SECOND + 4):
            for device in site.devices:
                if device.sequence == 0:
                    site.send(device.run_start(step))
                for record in device.step(
                    step, *[draw.randint(1, 8) for _ in range(draw.randint(0, 2))]
                ):
                    restart = draw.random() < 0.5
                    if restarts and restart:
                        site.start()
                    site.send(record)
            restart = draw.random() < 0.5
            if restarts and restart:
                site.at(step + 1, -1)
                site.start()
            site.at(step + 1, 2 * GRACE_MS)
            site.tick()
        assert isinstance(site.tree, SimulatedTree)
        ledgers.append(
            (site.tree.files, site.node.state, site.store.tallies(), site.store.contacts())
        )
    assert ledgers[0] == ledgers[1]
