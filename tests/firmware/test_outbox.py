"""Signed records until the gateway has them: in order, byte for byte, and never let go of early."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import ReAnchor
from cryptometer.chain_records import ChainRecord, RunStart
from cryptometer.errors import Reason
from cryptometer.records import Record, seal
from cryptometer.steps import NS_PER_S
from cryptometer.wire import encode_map
from firmware import outbox as keeping
from firmware.chain import draft_of
from firmware.drafts import Draft
from firmware.end import Anew, End, chain_start, follow, starts_from
from firmware.outbox import RESEND_FIRST_NS, RESEND_MAX_NS, Outbox
from firmware.segments import Cut, SegmentedLog
from hal.files import SimulatedDirectory
from tests.core.refusing import refusing
from tests.core.strategies import examples
from tests.firmware.kit import CHAIN, COMMUNITY, REGISTRATION, run, steps, word
from tests.keys import signer

FIRST_FILE = "outbox-00000000.log"
FRAME_BYTES = 8  # around each record in a file
S = NS_PER_S


class Desk:
    """An outbox on a disk, the records it was given, and what it published."""

    def __init__(
        self, records: int = 0, *, window: int = 64, limit_bytes: int = 2**30, synced: bool = True
    ) -> None:
        self.directory = SimulatedDirectory()
        self.window = window
        self.limit_bytes = limit_bytes
        self.records: list[Record] = []
        self.outbox = self.open()
        self.outbox.begin(chain_start(REGISTRATION))
        self.write(records)
        if synced:
            self.outbox.sync()

    def open(self) -> Outbox:
        return Outbox(self.directory, limit_bytes=self.limit_bytes, window=self.window)

    @property
    def end(self) -> End:
        assert self.outbox.end is not None
        return self.outbox.end

    def write(self, count: int) -> None:
        """Signs and keeps records: a run start first, then batches and closes of steps."""
        drafts: list[Draft] = [run(), *steps(len(self.records) + count)]
        for draft in drafts[len(self.records) : len(self.records) + count]:
            signed = list(CHAIN.sign([draft], self.end, None))
            self.outbox.append(signed)
            self.records += signed

    def restart(self, now_ns: int = 0) -> Outbox:
        self.outbox = self.open()
        self.outbox.recover(now_ns)
        return self.outbox

    def publish(self, now_ns: int = 0) -> list[int]:
        """Sequence numbers of what is due; each byte for byte what was signed."""
        raws = [record.raw for record in self.records]
        return [raws.index(raw) for raw in self.outbox.take_due(now_ns)]

    def hear(self, sequence: int, *, epoch: int = 1, stop: Stop | None = None, at: int = 0) -> None:
        """The gateway's honest word."""
        before = REGISTRATION if sequence == 0 else self.records[sequence - 1].identity
        self.outbox.acknowledge(Acknowledgement("m0", epoch, sequence, before, 0, stop), at)

    def connect(self, now_ns: int = 0) -> None:
        self.outbox.connected(now_ns)


def connected(records: int = 0, *, window: int = 64, limit_bytes: int = 2**30) -> Desk:
    """Connected to a gateway that has said where it stands."""
    desk = Desk(records, window=window, limit_bytes=limit_bytes)
    desk.connect()
    desk.hear(0)
    return desk


# --- Ends ----------------------------------------------------------------------------------------


def test_a_chain_begins_with_nothing_but_its_registration() -> None:
    assert chain_start(REGISTRATION) == End(
        sequence=0,
        previous=REGISTRATION,
        register=0,
        closed_from=0,
        run_ms=0,
        shift=2**62,
        epoch=0,
        acknowledged=0,
        anchors=0,
    )


def test_an_end_is_behind_another_of_more_records_or_of_a_newer_re_anchor() -> None:
    end = replace(chain_start(REGISTRATION), anchors=1, sequence=5)
    assert not end.is_behind(end)
    for later in (replace(end, sequence=6), replace(end, anchors=2, sequence=0)):
        assert end.is_behind(later)
        assert not later.is_behind(end)


def test_a_run_in_the_step_that_is_closed_has_the_steps_begin_anew() -> None:
    desk = Desk(1)
    [record] = desk.records
    assert isinstance(record.body, RunStart)
    before = replace(chain_start(REGISTRATION), closed_step=record.body.step, run_ms=1)
    assert follow(before, record).closed_step is None
    assert follow(replace(before, closed_step=record.body.step - 1), record).closed_step is not None


def test_a_record_of_another_kind_continues_no_chain() -> None:
    anchor = seal(ReAnchor(1, bytes(32), "m0", 5, 0, "board lost"), COMMUNITY, signer(1))
    with pytest.raises(TypeError, match="re-anchor"):
        follow(chain_start(REGISTRATION), anchor)


def test_the_durable_end_is_that_of_the_newest_sync() -> None:
    desk = Desk(2)
    before = desk.end
    desk.write(1)
    assert desk.outbox.durable == before
    desk.outbox.sync()
    assert desk.outbox.durable == desk.end != before
    assert desk.open().durable is None


# --- Sending -------------------------------------------------------------------------------------


def test_records_leave_in_order_and_byte_for_byte() -> None:
    desk = connected(5)
    assert desk.publish() == [0, 1, 2, 3, 4]
    assert desk.publish() == []


def test_without_a_connection_nothing_leaves() -> None:
    desk = Desk(3)
    assert desk.publish() == []
    desk.connect()
    desk.outbox.disconnected()
    assert desk.publish() == []
    assert desk.outbox.next_due_ns() is None


def test_a_record_leaves_only_once_it_is_durable() -> None:
    desk = Desk(2, synced=False)
    desk.connect()
    assert desk.publish() == []
    desk.outbox.sync()
    desk.write(1)
    assert desk.publish() == [0, 1]


def test_only_so_many_records_are_on_their_way_at_once() -> None:
    desk = connected(10, window=4)
    assert desk.publish() == [0, 1, 2, 3]
    desk.hear(3)
    assert desk.publish() == [4, 5, 6]
    desk.hear(10)
    assert desk.publish() == []


def test_every_connection_begins_with_the_first_unacknowledged_record() -> None:
    desk = connected(5)
    desk.publish()
    desk.hear(2)
    desk.outbox.disconnected()
    desk.connect()
    assert desk.publish() == [2, 3, 4]


def test_without_an_answer_everything_is_sent_again_at_growing_intervals() -> None:
    desk = connected(3)
    desk.publish(0)
    assert desk.outbox.next_due_ns() == RESEND_FIRST_NS
    sent: list[int] = []
    now = 0
    while now < 2_000 * S:
        now += S
        if desk.publish(now):
            sent.append(now)
    gaps = [later - earlier for earlier, later in zip([0, *sent], sent, strict=False)]
    assert gaps[:5] == [10 * S, 20 * S, 40 * S, 80 * S, 160 * S]
    assert gaps[5:] == [RESEND_MAX_NS] * len(gaps[5:])
    assert len(gaps) > 8


def test_progress_puts_the_next_repetition_off() -> None:
    desk = connected(3)
    desk.publish(0)
    desk.publish(10 * S)
    desk.hear(1, at=15 * S)
    assert desk.outbox.next_due_ns() == 25 * S
    assert desk.publish(24 * S) == []
    assert desk.publish(25 * S) == [1, 2]


def test_new_records_do_not_put_the_repetition_of_old_ones_off() -> None:
    desk = connected(1)
    assert desk.publish(0) == [0]
    for second in range(2, 10, 2):
        desk.write(1)
        desk.outbox.sync()
        assert len(desk.publish(second * S)) == 1
    desk.write(1)
    desk.outbox.sync()
    assert desk.publish(10 * S) == [0, 1, 2, 3, 4, 5]


def test_after_a_quiet_time_nothing_is_due_until_the_next_record_is_durable() -> None:
    desk = connected(1)
    desk.publish(0)
    desk.hear(1, at=S)
    desk.write(1)
    assert desk.outbox.next_due_ns() is None  # the loop must not turn idly until the sync
    assert desk.publish(3_600 * S) == []
    desk.outbox.sync()
    assert desk.publish(3_600 * S) == [1]
    assert desk.outbox.next_due_ns() == 3_600 * S + RESEND_FIRST_NS


def test_what_is_acknowledged_is_not_sent_again() -> None:
    desk = connected(3)
    desk.publish()
    desk.hear(3)
    assert desk.outbox.waiting == 0
    assert desk.outbox.next_due_ns() is None
    assert desk.publish(1_000 * S) == []


# --- Acknowledgements ----------------------------------------------------------------------------


def test_an_acknowledgement_lets_go_of_all_before_it() -> None:
    desk = connected(5)
    desk.hear(2)
    assert (desk.end.acknowledged, desk.outbox.waiting) == (2, 3)
    desk.hear(5)
    assert (desk.end.acknowledged, desk.outbox.waiting) == (5, 0)


def test_a_word_that_says_less_than_an_earlier_one_of_its_epoch_is_void() -> None:
    desk = connected(5)
    desk.hear(4)
    desk.hear(2, stop=Stop(2, Reason.FORK))
    assert desk.end.acknowledged == 4
    assert desk.outbox.stop is None


def test_a_word_that_claims_nothing_new_stops_nothing_whatever_it_names() -> None:
    desk = connected(3)
    desk.hear(3)
    desk.outbox.acknowledge(word(desk.end, 3, bytes(32)), 0)
    assert desk.outbox.stop is None


def test_a_stop_at_a_record_that_was_not_sent_is_no_answer() -> None:
    desk = connected(6, window=3)
    assert desk.publish() == [0, 1, 2]
    desk.hear(0, stop=Stop(3, Reason.REGISTER_MISMATCH))
    assert desk.outbox.stop is None
    desk.hear(0, stop=Stop(2, Reason.REGISTER_MISMATCH))
    assert desk.outbox.stop == Stop(2, Reason.REGISTER_MISMATCH)


def test_a_chain_that_is_stopped_behind_all_that_is_kept_asks_with_the_first_that_waits() -> None:
    desk = connected(4)
    desk.publish()
    desk.outbox.stop = Stop(9, Reason.GAP)
    assert desk.publish() == []
    assert desk.publish(300 * S) == [0]


def test_what_was_acknowledged_can_be_taken_back() -> None:
    desk = connected(6)
    desk.publish()
    desk.hear(4)
    assert (desk.outbox.waiting, desk.outbox.waiting_before(5)) == (2, 1)
    desk.outbox.take_back(1)
    assert (desk.outbox.waiting, desk.outbox.waiting_before(4)) == (5, 3)
    assert desk.outbox.first_kept(0) == desk.records[1]


def test_a_word_of_an_older_epoch_is_void() -> None:
    desk = connected(5)
    desk.hear(2, epoch=2)
    desk.hear(5, epoch=1, stop=Stop(5, Reason.FORK))
    assert (desk.end.acknowledged, desk.end.epoch) == (2, 2)
    assert desk.outbox.stop is None


def test_a_restored_gateway_gets_again_what_it_lost() -> None:
    desk = connected(8)
    desk.publish()
    desk.hear(6)
    desk.hear(3, epoch=2)
    assert (desk.end.acknowledged, desk.end.epoch, desk.outbox.waiting) == (3, 2, 5)
    assert desk.publish() == [3, 4, 5, 6, 7]
    desk.hear(8, epoch=2)
    assert desk.outbox.waiting == 0


def test_a_gateway_restored_to_nothing_gets_the_whole_chain_again() -> None:
    desk = connected(4)
    desk.publish()
    desk.hear(4)
    desk.hear(0, epoch=2)
    assert desk.publish() == [0, 1, 2, 3]


def test_a_restored_gateway_that_lacks_what_was_dropped_stops_the_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 600)
    desk = connected(12, limit_bytes=1_000)
    desk.hear(12)
    assert FIRST_FILE not in desk.directory.names()
    desk.hear(0, epoch=2)
    assert desk.outbox.stop == Stop(0, Reason.GAP)
    assert (desk.end.acknowledged, desk.end.epoch) == (12, 1)


def test_a_gateway_that_knows_more_than_this_disk_stops_the_chain() -> None:
    desk = connected(3)
    desk.outbox.acknowledge(word(desk.end, 4, bytes(32)), 0)
    assert desk.outbox.stop == Stop(3, Reason.FORK)
    assert desk.outbox.waiting == 3
    desk.outbox.acknowledge(word(desk.end, 5, bytes(32)), 0)
    assert desk.outbox.stop == Stop(3, Reason.FORK)


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_word_on_another_chain_than_ours_stops_it(sequence: int) -> None:
    desk = connected(3)
    desk.outbox.acknowledge(word(desk.end, sequence, bytes(32)), 0)
    assert desk.outbox.stop == Stop(sequence, Reason.FORK)
    assert (desk.end.acknowledged, desk.outbox.waiting) == (0, 3)


def test_a_stop_from_the_gateway_keeps_everything_and_ends_with_its_next_word() -> None:
    desk = connected(5)
    desk.publish()
    desk.hear(2, stop=Stop(2, Reason.REGISTER_MISMATCH))
    desk.outbox.disconnected()
    desk.connect()
    assert desk.publish(1_000 * S) == []
    assert desk.outbox.waiting == 3
    desk.hear(2)
    assert desk.publish(1_001 * S) == [2, 3, 4]


def test_a_stop_that_was_said_before_anything_was_sent_is_no_answer() -> None:
    desk = Desk(6)
    desk.hear(3, stop=Stop(3, Reason.FORK))  # retained, and of a chain that was re-anchored since
    assert desk.outbox.stop is None
    desk.connect()
    assert desk.publish() == [3, 4, 5]
    desk.hear(3, stop=Stop(3, Reason.FORK))
    assert desk.outbox.stop == Stop(3, Reason.FORK)


REFUSED = Stop(2, Reason.REGISTER_MISMATCH)


def stopped(records: int = 5) -> Desk:
    """The gateway has refused record 2, and the connection is another one since."""
    desk = connected(records)
    desk.publish()
    desk.hear(2, stop=REFUSED)
    desk.outbox.disconnected()
    desk.connect()
    return desk


def test_a_stopped_chain_asks_now_and_then_with_one_record() -> None:
    desk = stopped()
    asked = {at: desk.publish(at * S) for at in range(0, 1_000, 10)}
    assert {at: sent for at, sent in asked.items() if sent} == {300: [2], 600: [2], 900: [2]}
    assert desk.outbox.next_due_ns() == 1_200 * S
    desk.outbox.disconnected()
    assert desk.publish(1_300 * S) == []
    assert desk.outbox.next_due_ns() is None
    desk.connect(1_300 * S)
    assert desk.publish(1_300 * S) == []  # what the broker keeps of the gateway's word comes now
    assert desk.outbox.next_due_ns() == 1_600 * S


def test_asking_changes_nothing_while_the_gateway_says_the_same() -> None:
    desk = stopped()
    before = desk.end, desk.directory.read(FIRST_FILE)
    for at in range(0, 3_000, 10):
        if desk.publish(at * S):
            desk.hear(2, stop=REFUSED, at=at * S)
        assert desk.outbox.stop == REFUSED
    assert (desk.end, desk.directory.read(FIRST_FILE)) == before


def test_a_stop_whose_end_was_never_heard_of_ends_with_the_answer() -> None:
    desk = stopped()
    desk.publish()
    assert desk.publish(300 * S) == [2]
    desk.hear(3, at=300 * S)
    assert desk.outbox.stop is None
    assert desk.publish(300 * S) == [3, 4]


def test_a_stop_behind_the_gateways_place_asks_there_and_begins_again_in_order() -> None:
    desk = connected(6)
    desk.publish()
    desk.hear(2, stop=Stop(5, Reason.REVOKED))
    desk.publish()
    assert desk.publish(300 * S) == [5]
    desk.hear(2, at=300 * S)  # a gap, but no stop any more
    assert desk.publish(300 * S) == [2, 3, 4, 5]


def test_a_chain_that_is_stopped_where_nothing_is_kept_asks_with_what_waits() -> None:
    desk = connected(6)
    desk.publish()
    damage(desk, 3)
    desk.outbox.disconnected()
    desk.connect()
    assert desk.publish() == [0, 1, 2]
    assert desk.outbox.stop == Stop(3, Reason.MALFORMED)
    desk.publish()
    assert desk.publish(300 * S) == [4]
    desk.hear(6, at=300 * S)  # it had it: its word was lost on its way
    assert desk.outbox.waiting == 0
    assert not desk.outbox.stop
    gap = Stop(6, Reason.GAP)
    desk.outbox.stop = gap
    assert [desk.publish(at * S) for at in (400, 700, 1_000)] == [[], [], []]
    assert desk.outbox.stop == gap


def test_a_stopped_chain_asks_with_nothing_that_may_not_leave_yet() -> None:
    desk = stopped()
    desk.outbox.take_due(0, below=2)
    assert desk.outbox.take_due(300 * S, below=2) == []
    assert desk.outbox.take_due(600 * S, below=3) == [desk.records[2].raw]


def test_a_word_that_comes_again_changes_nothing() -> None:
    desk = connected(5)
    desk.hear(3)
    before = desk.directory.size(FIRST_FILE)
    desk.hear(3)
    assert desk.directory.size(FIRST_FILE) == before


def test_isolation_is_counted_from_the_first_record_that_waits() -> None:
    desk = connected()
    desk.publish(5_000 * S)
    desk.write(1)
    desk.outbox.sync()
    assert desk.outbox.isolated_ns(5_001 * S) == S
    desk.write(1)
    desk.publish(5_002 * S)
    desk.hear(1, at=5_003 * S)
    assert desk.outbox.isolated_ns(5_005 * S) == 2 * S
    desk.hear(2, at=5_006 * S)
    assert desk.outbox.isolated_ns(9_000 * S) == 0


def test_isolation_of_what_waits_already_is_counted_from_the_start() -> None:
    desk = Desk(1)
    assert desk.outbox.isolated_ns(5 * S) == 5 * S
    desk.restart(7 * S)
    assert desk.outbox.isolated_ns(9 * S) == 2 * S


# --- Recovery ------------------------------------------------------------------------------------


def test_after_a_restart_the_same_bytes_are_sent_from_where_the_gateway_stands() -> None:
    desk = connected(6)
    desk.publish()
    desk.hear(2)
    before = desk.end
    desk.restart()
    assert desk.end == before
    desk.connect()
    assert desk.publish() == []  # what a dead program left may not be durable
    desk.outbox.sync()
    assert desk.publish() == [2, 3, 4, 5]


def test_records_that_were_not_synced_are_gone_after_a_power_cut_and_were_never_sent() -> None:
    desk = connected(3)
    desk.write(2)
    published = desk.publish()
    desk.directory.cut_power()
    desk.restart()
    assert desk.end.sequence == 3
    assert published == [0, 1, 2]


@examples(60)
@given(st.integers(0, 3_000))
def test_a_torn_outbox_keeps_a_prefix_of_the_chain(torn: int) -> None:
    desk = Desk(2)
    desk.write(5)
    desk.directory.cut_power(torn)
    outbox = desk.open()
    cuts = outbox.recover(0)
    assert outbox.end is not None
    kept = outbox.end.sequence
    assert 2 <= kept <= 7
    expected = chain_start(REGISTRATION)
    for record in desk.records[:kept]:
        expected = follow(expected, record)
    assert outbox.end == expected
    assert {type(cut) for cut in cuts} <= {Cut}
    assert bool(cuts) == any(name.endswith(".damaged") for name in desk.directory.names())
    outbox.sync()
    outbox.connected(0)
    assert outbox.take_due(0) == [record.raw for record in desk.records[:kept]]


@pytest.mark.parametrize("torn", range(0, 1_000, 50))
def test_a_file_that_outlives_a_power_cut_says_nothing_of_records_that_did_not(
    torn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(1)
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk.write(7)
    assert len(desk.directory.names()) > 1
    desk.directory.cut_power(torn)
    desk.restart()
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == list(range(desk.end.sequence))
    assert desk.outbox.stop is None


def test_an_acknowledgement_lost_in_a_power_cut_is_heard_again() -> None:
    desk = connected(5)
    desk.publish()
    desk.hear(4)
    desk.directory.cut_power()
    desk.restart()
    assert desk.end.acknowledged == 0
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == [0, 1, 2, 3, 4]
    desk.hear(4)
    assert desk.outbox.waiting == 1


def test_the_chain_goes_on_over_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk = connected(20)
    assert len(desk.directory.names()) > 5
    desk.hear(7)
    desk.outbox.sync()
    desk.restart()
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == list(range(7, 20))
    desk.hear(1, epoch=2)
    assert desk.publish() == list(range(1, 20))


def test_a_new_file_whose_head_is_torn_leaves_the_chain_of_the_file_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk = Desk(3)
    desk.write(3)
    names = desk.directory.names()
    assert len(names) > 1
    desk.directory.truncate(names[-1], 10)
    desk.restart()
    assert names[-1] not in desk.directory.names()
    assert 0 < desk.end.sequence < 6
    desk.records = desk.records[: desk.end.sequence]
    desk.write(4)
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == list(range(len(desk.records)))


def test_an_outbox_of_a_newer_version_is_refused_and_left_as_it_is() -> None:
    directory = SimulatedDirectory()
    newer = {**encode_map(chain_start(REGISTRATION)), 23: 1}
    SegmentedLog(directory, "outbox").append([cbor.encode(newer)])
    before = directory.read(FIRST_FILE)
    with refusing(Reason.MALFORMED, "of another version"):
        Outbox(directory, limit_bytes=2**20, window=1).recover(0)
    assert directory.read(FIRST_FILE) == before


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_record_that_does_not_continue_its_chain_is_refused(missing: int) -> None:
    """An entry that is gone without a trace would have its place signed a second time."""
    desk = Desk(3)
    entries = [payload for _, payload in SegmentedLog(desk.directory, "outbox").entries(0)]
    del entries[missing]
    directory = SimulatedDirectory()
    SegmentedLog(directory, "outbox").append(entries)
    with refusing(Reason.MALFORMED, "does not continue its chain"):
        Outbox(directory, limit_bytes=2**20, window=1).recover(0)


@pytest.mark.parametrize("segment_bytes", [500, 2**20])
def test_the_chains_end_can_be_read_beside_a_running_program(
    segment_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", segment_bytes)
    desk = connected(8)
    desk.hear(2)
    before = {name: desk.directory.read(name) for name in desk.directory.names()}
    beside = desk.open()
    assert beside.peek() == desk.end
    assert {name: desk.directory.read(name) for name in desk.directory.names()} == before
    assert Outbox(SimulatedDirectory(), limit_bytes=0, window=1).peek() is None


# --- Damage --------------------------------------------------------------------------------------


def damage(desk: Desk, sequence: int) -> None:
    """Changes a bit of a kept record on the disk."""
    raw = desk.records[sequence].raw
    for name in desk.directory.names():
        data = bytearray(desk.directory.read(name))
        at = data.find(raw)
        if at >= 0:
            data[at + len(raw) // 2] ^= 1
            desk.directory.put(name, bytes(data))
            return
    raise LookupError(sequence)


def test_a_record_that_the_card_lost_stops_the_chain_where_it_is() -> None:
    desk = connected(6)
    damage(desk, 3)
    assert desk.publish() == [0, 1, 2]
    assert desk.outbox.stop == Stop(3, Reason.MALFORMED)
    assert desk.publish(1_000 * S) == []


@pytest.mark.parametrize("restarted", [False, True])
def test_a_record_that_the_card_lost_stops_the_chain_before_any_word_of_the_gateway(
    restarted: bool,
) -> None:
    desk = Desk(6)
    if restarted:
        desk.restart()
        desk.outbox.sync()
    desk.connect()
    damage(desk, 3)
    assert [desk.publish(), desk.publish()] == [[0, 1, 2], []]


def test_if_the_gateway_had_it_already_the_chain_goes_on() -> None:
    desk = connected(6)
    desk.publish()
    damage(desk, 3)
    desk.outbox.disconnected()
    desk.connect()
    desk.publish()
    desk.hear(5)
    assert desk.publish() == [5]
    assert desk.outbox.stop is None


@pytest.mark.parametrize("acknowledged", [0, 2])
def test_a_loss_in_an_older_file_stops_the_chain_there_after_a_restart(
    acknowledged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 900)
    desk = connected(14)
    desk.hear(acknowledged)
    desk.outbox.sync()
    damage(desk, 2)
    desk.restart()
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == list(range(acknowledged, 2))
    assert desk.outbox.stop == Stop(2, Reason.MALFORMED)
    desk.hear(2)  # the gateway waits for it, and still the program must go on
    assert desk.publish() == []
    assert desk.outbox.stop == Stop(2, Reason.MALFORMED)
    desk.hear(14)
    assert desk.outbox.waiting == 0
    assert not desk.outbox.stop


@pytest.mark.parametrize("heard", [3, 4, 5, 6, 9])
def test_what_the_gateway_has_is_believed_even_where_the_card_lost_it(
    heard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 900)
    desk = connected(14)
    desk.outbox.sync()
    damage(desk, 2)
    desk.restart()
    desk.outbox.sync()
    desk.connect()
    desk.hear(heard)
    assert desk.end.acknowledged == heard
    due = desk.publish()
    assert due == list(range(heard, heard + len(due)))
    assert len(due) == 14 - heard or desk.outbox.stop == Stop(heard + len(due), Reason.MALFORMED)


# --- Room ----------------------------------------------------------------------------------------


def test_acknowledged_records_are_kept_while_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk = connected(20)
    before = desk.directory.names()
    desk.hear(20)
    assert desk.directory.names() == before


def test_only_acknowledged_records_go_and_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk = connected(20, limit_bytes=1_500)
    names = desk.directory.names()
    desk.hear(0)
    assert desk.directory.names() == names
    for sequence in range(1, 21):
        desk.hear(sequence)
        assert desk.directory.names() == names[len(names) - len(desk.directory.names()) :]
        desk.outbox.disconnected()
        desk.connect()
        assert desk.publish() == list(range(sequence, 20))
    assert 0 < sum(map(desk.directory.size, desk.directory.names())) <= 1_500


def test_a_power_cut_right_after_records_went_does_not_bring_back_the_wish_to_send_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 500)
    desk = connected(20, limit_bytes=1_500)
    desk.hear(15)
    assert FIRST_FILE not in desk.directory.names()
    desk.directory.cut_power()
    desk.restart()
    assert desk.end.acknowledged == 15
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == [15, 16, 17, 18, 19]


def test_records_that_nobody_acknowledged_fill_the_room() -> None:
    desk = Desk(limit_bytes=4_000)
    full: list[bool] = []
    for _ in range(20):
        desk.write(1)
        full.append(desk.outbox.is_full)
    assert full == sorted(full)
    assert full[0] is False
    assert full[-1] is True
    kept = sum(8 + len(record.raw) for record in desk.records[: full.index(True) + 1])
    assert kept > 0.9 * 4_000
    desk.outbox.sync()
    desk.connect()
    desk.hear(20)
    assert not desk.outbox.is_full


@pytest.mark.parametrize(("segment_bytes", "error"), [(2**20, 0), (500, 500)])
def test_the_room_of_what_waits_is_that_of_its_records(
    segment_bytes: int, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", segment_bytes)
    desk = connected(20)
    desk.hear(10)
    room = sum(len(record.raw) for record in desk.records[10:]) + 10 * FRAME_BYTES
    assert abs(desk.outbox._unacknowledged_bytes() - room) <= error


def test_a_full_disk_keeps_what_was_given_and_says_so() -> None:
    desk = Desk(3)
    desk.directory._room_bytes = desk.directory._room_bytes - desk.directory.free_bytes() + 100
    with pytest.raises(OSError, match="No space"):
        desk.write(1)
    desk.directory._room_bytes += 10_000
    desk.restart()
    assert desk.end.sequence == 3
    desk.write(1)
    assert desk.end.sequence == 4


# --- Re-anchors ----------------------------------------------------------------------------------


def test_behind_a_re_anchor_the_refused_part_is_never_sent_again() -> None:
    desk = connected(8)
    desk.hear(5)
    anchor = bytes([9]) * 32
    end = End(5, anchor, 100, 100, desk.end.run_ms, desk.end.shift, 1, 5, 1, desk.end.closed_step)
    desk.outbox.begin(end)
    anew = list(CHAIN.sign([run(100, later_ms=5)], end, None))
    desk.outbox.append(anew)
    desk.outbox.sync()
    desk.restart()
    assert (desk.end.sequence, desk.end.acknowledged, desk.outbox.waiting) == (6, 5, 1)
    desk.outbox.sync()
    desk.connect()
    assert desk.outbox.take_due(0) == [anew[0].raw]
    # A gateway restored from before the re-anchor: the abandoned records stay abandoned.
    before = desk.records[2].identity
    desk.outbox.acknowledge(Acknowledgement("m0", 2, 3, before, 0), 0)
    assert desk.outbox.take_due(0) == [desk.records[3].raw, desk.records[4].raw, anew[0].raw]


def test_of_a_chain_that_a_re_anchor_has_replaced_only_what_stands_before_it_waits() -> None:
    desk = connected(8)
    desk.hear(3)
    desk.outbox.begin(replace(behind_anchor(desk, 5), acknowledged=3, anew=None))
    desk.outbox.sync()
    desk.restart()
    assert desk.outbox.waiting == 2
    desk.outbox.sync()
    desk.connect()
    assert desk.publish() == [3, 4]


def behind_anchor(desk: Desk, first: int) -> End:
    """The end right behind a re-anchor at `first`, the records from there on to be signed anew."""
    before = desk.end
    anew = Anew(first, before.sequence, before.shift, before.register, 0)
    offset = 100 - starts_from(desk.records[first])
    return replace(
        before,
        sequence=first,
        previous=bytes([9]) * 32,
        register=100,
        closed_from=100,
        shift=before.shift + offset,
        acknowledged=first,
        anchors=1,
        anew=anew,
    )


def sign_portion(desk: Desk) -> list[Record]:
    anew = desk.end.anew
    assert anew is not None
    drafts = [draft_of(one, anew.offset) for one in desk.outbox.take_refused()]
    signed = list(CHAIN.sign(drafts, desk.end, None))
    desk.outbox.append(signed)
    return signed


def shape(records: list[Record]) -> list[tuple[str, int]]:
    """Kind and step of each: what signing anew keeps."""
    bodies = [one.body for one in records]
    return [(body.KIND.value, body.step) for body in bodies if isinstance(body, ChainRecord)]


@pytest.mark.parametrize("die", ["never", "kill", "power"])
def test_what_was_refused_is_signed_anew_in_portions_and_a_death_repeats_none(
    die: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PORTION_BYTES", 700)
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 1_500)
    desk = connected(30)
    desk.hear(5)
    unsigned = desk.end.register
    desk.outbox.begin(behind_anchor(desk, 5))
    desk.outbox.sync()
    signed: list[Record] = []
    portions = 0
    while desk.end.anew is not None:
        portion = sign_portion(desk)
        portions += 1
        assert 0 < len(portion) <= 4
        if die == "power" and portions % 3 == 0:
            desk.directory.cut_power(40 * portions)  # some of it may be there, or none
            desk.restart()
            signed += portion[: desk.end.sequence - 5 - len(signed)]
        else:
            signed += portion
        if die == "kill":
            desk.restart()
        desk.outbox.sync()
    assert portions > 6
    assert shape(signed) == shape(desk.records[5:])
    assert desk.end.register - desk.end.offset == unsigned
    assert (desk.end.anchors, desk.outbox.waiting) == (1, 25)


def test_what_the_card_lost_of_the_refused_is_left_out_and_the_registers_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 1_500)
    desk = connected(30)
    desk.hear(5)
    damage(desk, 11)  # with all that stands behind it in its file
    damage(desk, 29)
    desk.restart()
    unsigned = desk.end.register
    desk.outbox.begin(behind_anchor(desk, 5))
    signed: list[Record] = []
    while desk.end.anew is not None:
        signed += sign_portion(desk)
        desk.restart()
    assert 10 < len(signed) < 24
    assert [one for one in shape(signed) if one not in shape(desk.records[5:])] == []
    register = 100
    for record in signed:
        assert starts_from(record) == register
        register = follow(desk.end, record).register
    # The counter goes on as before, whatever the chain has lost.
    assert desk.end.register - desk.end.offset == unsigned


def test_what_the_card_kept_of_the_refused_comes_in_one_portion() -> None:
    desk = connected(8)
    desk.hear(5)
    desk.outbox.begin(behind_anchor(desk, 5))
    assert desk.restart().take_refused() == desk.records[5:]


def test_a_loss_at_the_beginning_of_the_refused_is_noted_and_the_rest_comes_at_once() -> None:
    desk = connected(8)
    desk.hear(5)
    end = behind_anchor(desk, 5)
    assert end.anew is not None
    desk.outbox.begin(replace(end, anew=replace(end.anew, shift=2**62 + 30)))
    desk.restart()
    damage(desk, 5)
    assert desk.outbox.take_refused() == desk.records[6:]
    # The counter was 30 behind the chain that was replaced.
    assert desk.end.offset == 100 - (starts_from(desk.records[6]) - 30)
    log = SegmentedLog(desk.directory, "outbox")
    *_, (_, newest) = log.entries(log.segments[-1])
    assert cbor.decode(newest) == [6, desk.end.shift, 1]  # from the record 6 on; one is lost


def test_what_is_still_to_be_signed_anew_is_kept_on_a_full_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "SEGMENT_BYTES", 700)
    monkeypatch.setattr(keeping, "PORTION_BYTES", 700)
    desk = Desk(30, limit_bytes=1_000)
    desk.outbox.begin(behind_anchor(desk, 5))
    signed: list[Record] = []
    while desk.end.anew is not None:
        signed += sign_portion(desk)
        desk.outbox.sync()
        desk.restart()  # makes room
    assert shape(signed) == shape(desk.records[5:])


# --- What the journal knows ----------------------------------------------------------------------


def test_an_outbox_goes_on_from_what_the_journal_knows_to_be_signed() -> None:
    desk = connected(8)
    desk.hear(3)
    desk.outbox.sync()
    known = desk.end
    damage(desk, 5)
    desk.restart()
    assert desk.end.sequence == 5
    desk.outbox.go_on_from(known)
    desk.outbox.sync()
    for _ in range(2):
        assert desk.end == known
        assert desk.outbox.waiting == 2  # what is left below the gap
        desk.restart()
        desk.outbox.sync()
    desk.connect()
    assert desk.publish() == [3, 4]
    assert desk.outbox.stop == Stop(5, Reason.MALFORMED)
    desk.hear(8)
    assert not desk.outbox.stop
    assert desk.outbox.waiting == 0
    desk.write(1)
    desk.outbox.sync()
    assert desk.publish() == [8]


@pytest.mark.parametrize(
    ("ours", "torn", "forked"),
    [
        ({"torn": 4, "forked": 5}, 4, 5),
        ({}, 8, 7),
        ({"torn": 1}, 8, 7),  # acknowledged beyond, so that nothing is suspected there
    ],
)
def test_of_what_card_and_journal_know_of_the_gateway_the_earlier_doubt_and_the_newer_word_stay(
    ours: dict[str, Any], torn: int, forked: int
) -> None:
    desk = connected(5)
    desk.hear(2, epoch=3)
    known = replace(desk.end, sequence=9, epoch=1, acknowledged=7, torn=8, forked=7)
    desk.outbox.end = replace(desk.end, **ours)
    desk.outbox.go_on_from(known)
    assert desk.end == replace(known, epoch=3, acknowledged=2, torn=torn, forked=forked)
    assert desk.publish() == []  # nothing of it is known to be durable
    desk.outbox.sync()
    assert desk.publish() == [2, 3, 4]
    assert desk.outbox.stop == Stop(5, Reason.MALFORMED)


def test_what_the_journal_knows_to_be_signed_anew_is_not_signed_a_third_time() -> None:
    desk = connected(8)
    desk.hear(5)
    desk.outbox.begin(behind_anchor(desk, 5))
    desk.outbox.sync()
    known = desk.restart().end
    assert known is not None
    assert known.anew is not None
    desk.outbox.go_on_from(replace(known, sequence=7, anew=known.anew.after(7)))
    assert desk.outbox.take_refused() == desk.records[7:]


def test_an_empty_outbox_goes_on_from_what_the_journal_knows_to_be_signed() -> None:
    desk = connected(8)
    known = replace(desk.end, anchors=2)
    for directory in (SimulatedDirectory(), desk.directory):  # empty; before a re-anchor
        outbox = Outbox(directory, limit_bytes=2**30, window=64)
        outbox.recover(0)
        outbox.go_on_from(known)
        again = Outbox(directory, limit_bytes=2**30, window=64)
        again.recover(0)
        assert (again.end, again.waiting) == (known, 0)


def test_an_empty_outbox_goes_on_from_the_middle_of_signing_anew() -> None:
    desk = connected(8)
    desk.hear(5)
    known = behind_anchor(desk, 5)
    assert known.anew is not None
    outbox = Outbox(SimulatedDirectory(), limit_bytes=2**30, window=64)
    outbox.recover(0)
    outbox.go_on_from(known)
    assert outbox.end == known
    assert outbox.take_refused() == []  # all of it is lost
    assert outbox.end.anew is None
    assert outbox.end.register - outbox.end.offset == known.anew.unsigned


def test_damage_in_the_middle_of_signing_anew_ends_it_and_the_registers_go_on() -> None:
    desk = connected(8)
    desk.hear(5)
    desk.outbox.begin(behind_anchor(desk, 5))
    desk.outbox.sync()
    known, newest = desk.end, desk.directory.names()[-1]
    assert known.anew is not None
    desk.directory.truncate(newest, 5)
    desk.restart().go_on_from(known)
    assert desk.outbox.take_refused() == []
    assert desk.end.anew is None
    assert desk.end.register - desk.end.offset == known.anew.unsigned
    desk.outbox.sync()
    assert desk.end == desk.restart().end


def test_only_what_the_journal_knows_of_leaves() -> None:
    desk = connected(8)
    assert desk.outbox.take_due(0, 3) == [record.raw for record in desk.records[:3]]
    assert desk.outbox.take_due(0, 3) == []
    assert len(desk.outbox.take_due(0, 8)) == 5


# --- Forks ---------------------------------------------------------------------------------------


def test_a_fork_begins_where_the_gateway_refuses_the_first_record() -> None:
    desk = connected(6)
    desk.publish()
    desk.hear(2, stop=Stop(4, Reason.FORK))
    assert desk.end.forked == 4
    desk.hear(2, stop=Stop(3, Reason.FORK))
    desk.hear(2, stop=Stop(5, Reason.FORK))
    desk.outbox.sync()
    assert desk.restart().end == desk.end
    assert desk.end.forked == 3
    desk.hear(3)
    assert desk.end.forked == 3
    desk.hear(3, epoch=2)
    assert desk.end.forked is None


def test_where_nothing_is_kept_a_stop_proves_no_fork() -> None:
    desk = connected(4)
    desk.publish()
    desk.hear(4, stop=Stop(3, Reason.FORK))
    assert (desk.end.forked, desk.outbox.stop) == (None, Stop(3, Reason.FORK))


def test_damage_and_another_record_at_a_place_show_the_fork_before_it() -> None:
    desk = connected(6)
    desk.outbox.tear()
    desk.outbox.acknowledge(word(desk.end, 3, bytes(32)), 0)
    assert (desk.end.forked, desk.outbox.stop) == (2, Stop(3, Reason.FORK))


@pytest.mark.parametrize(("claimed", "stop"), [(6, None), (7, Stop(7, Reason.FORK))])
def test_a_place_that_the_card_lost_is_believed_up_to_where_damage_may_have_forked_the_chain(
    claimed: int, stop: Stop | None
) -> None:
    desk = connected(8)
    desk.outbox.sync()
    known = replace(desk.end, torn=6)
    damage(desk, 5)
    desk.restart().go_on_from(known)
    desk.outbox.acknowledge(word(desk.end, claimed, bytes(32)), 0)
    assert desk.outbox.stop == stop
    assert desk.end.acknowledged == (6 if stop is None else 0)


def test_a_word_on_the_chain_before_a_re_anchor_proves_no_fork_behind_it() -> None:
    desk = connected(8)
    desk.publish()
    desk.hear(5)
    old = Acknowledgement("m0", 1, 5, desk.records[4].identity, 0, Stop(5, Reason.FORK))
    desk.outbox.begin(replace(behind_anchor(desk, 5), anew=None))
    desk.outbox.append(list(CHAIN.sign([run(100, later_ms=5)], desk.end, None)))
    desk.outbox.sync()
    desk.outbox.take_due(0)
    desk.outbox.acknowledge(old, 0)
    repeated = desk.end.forked
    desk.outbox.acknowledge(replace(old, previous=bytes([9]) * 32), 0)
    assert (repeated, desk.end.forked) == (None, 5)


def test_what_a_gateway_held_in_our_place_is_forgotten_with_its_store() -> None:
    desk = connected(6)
    desk.publish()
    desk.hear(2, stop=Stop(4, Reason.FORK))
    desk.hear(1, epoch=2)
    desk.outbox.sync()
    renewed = desk.restart().end
    assert renewed is not None
    desk.outbox.sync()
    desk.connect()
    desk.publish()
    desk.hear(1, epoch=3, stop=Stop(3, Reason.FORK))
    desk.outbox.sync()
    again = desk.restart().end
    assert again is not None
    assert (renewed.forked, again.forked) == (None, 3)


def test_a_fork_begins_at_the_damage_once_the_gateway_has_shown_that_there_is_one() -> None:
    desk = connected(6)
    desk.hear(2)
    desk.outbox.tear()
    desk.write(2)
    desk.outbox.tear()  # a later place does not hide the first
    desk.outbox.sync()
    desk.restart()
    assert (desk.end.suspect, desk.end.forked) == (6, None)
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 9, bytes(32), 0), 0)
    assert desk.end.forked == 6
    assert desk.restart().end is not None
    desk = connected(6)
    desk.hear(2)
    desk.outbox.tear()
    desk.write(2)
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 8, bytes(32), 0), 0)
    assert desk.end.forked == 6


def test_damage_that_the_gateway_has_acknowledged_beyond_is_forgotten() -> None:
    desk = connected(6)
    desk.outbox.tear()
    desk.write(3)
    desk.outbox.sync()
    desk.publish()
    desk.hear(8)
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 12, bytes(32), 0), 0)
    assert (desk.end.suspect, desk.end.forked) == (None, None)


def test_an_older_copy_sends_what_it_has_until_the_gateway_says_where_it_differs() -> None:
    desk = connected(6)
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 12, bytes(32), 0), 0)
    assert desk.outbox.stop == Stop(6, Reason.FORK)
    assert desk.publish() == [0, 1, 2, 3, 4, 5]
    asked = desk.end.forked
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 12, bytes(32), 0, Stop(4, Reason.FORK)), 0)
    assert (asked, desk.end.forked) == (None, 4)
    desk.connect()
    assert desk.publish(10_000 * S) == []
    assert desk.publish(10_300 * S) == [4]
    desk.outbox.acknowledge(Acknowledgement("m0", 1, 12, bytes(32), 0, Stop(4, Reason.FORK)), 0)
    assert desk.outbox.stop == Stop(4, Reason.FORK)


# --- Any order of things -------------------------------------------------------------------------

acts = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 4)),
        st.tuples(st.just("sync"), st.just(0)),
        st.tuples(st.just("publish"), st.just(0)),
        st.tuples(st.just("hear"), st.just(0)),
        st.tuples(st.just("old word"), st.integers(0, 10)),
        st.tuples(st.just("reconnect"), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 400)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("power"), st.integers(0, 300)),
        st.tuples(st.just("restore"), st.integers(0, 10)),
    ),
    max_size=40,
)


@examples(120)
@given(acts, st.integers(1, 5))
def test_the_gateway_gets_the_chain_in_order_and_whole(
    acts: list[tuple[str, int]], window: int
) -> None:
    desk = connected(window=window)
    taken: list[bytes] = []  # the gateway's chain
    epoch = 1
    now = 0
    for act, amount in [*acts, ("reconnect", 0), ("settle", 0)]:
        match act:
            case "write":
                desk.write(amount)
            case "sync":
                desk.outbox.sync()
            case "publish":
                deliver(desk, taken, now)
            case "hear":
                desk.hear(len(taken), epoch=epoch, at=now)
            case "old word":
                desk.hear(min(amount, len(taken)), epoch=epoch, at=now)
            case "reconnect":
                desk.outbox.disconnected()
                desk.connect(now)
            case "pass":
                now += amount * S
            case "kill":
                desk.restart(now)
                desk.outbox.sync()
                desk.connect(now)
            case "power":
                desk.directory.cut_power(amount)
                desk.restart(now)
                assert desk.end.sequence >= len(taken), "what was sent was durable"
                desk.records = desk.records[: desk.end.sequence]
                desk.outbox.sync()
                desk.connect(now)
            case "restore":
                epoch += 1
                taken = taken[:amount]
                desk.hear(len(taken), epoch=epoch, at=now)
            case "settle":
                desk.outbox.sync()
                for _ in range(200):
                    deliver(desk, taken, now)
                    desk.hear(len(taken), epoch=epoch, at=now)
        assert desk.outbox.stop is None
        assert taken == [record.raw for record in desk.records[: len(taken)]]
        assert desk.outbox.waiting == desk.end.sequence - desk.end.acknowledged
    assert len(taken) == len(desk.records)
    assert desk.outbox.waiting == 0


def deliver(desk: Desk, taken: list[bytes], now: int) -> None:
    """The gateway takes in what continues its chain; everything else it drops."""
    sequence_of: Callable[[bytes], int] = [record.raw for record in desk.records].index
    for raw in desk.outbox.take_due(now):
        if sequence_of(raw) == len(taken):
            taken.append(raw)


def test_the_kit_signs_a_chain() -> None:
    desk = Desk(5)
    bodies = [record.body for record in desk.records]
    assert all(isinstance(body, ChainRecord) for body in bodies)
    assert [body.KIND.value for body in bodies] == [
        "run-start",
        "batch",
        "step-close",
        "batch",
        "step-close",
    ]
