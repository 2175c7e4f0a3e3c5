"""The journal: what was given is found again, whatever ended the program."""

import errno
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.wire import encode_map
from firmware import journal as journalling
from firmware.counter import BLANK_SNAPSHOT, Snapshot, Waiting
from firmware.events import Event, Pulses, Watched, encode_event
from firmware.journal import Journal, Recovered
from firmware.segments import SegmentedLog
from hal.files import SimulatedDirectory
from tests.core.strategies import examples, instances

HEAD = replace(BLANK_SNAPSHOT, register=7)
EVENTS: list[Event] = [Pulses(8, 0, 10, 0), Watched(20), Pulses(11, 20, 30, 0)]


def begun(directory: SimulatedDirectory, snapshot: Snapshot = HEAD) -> Journal:
    journal = Journal(directory)
    journal.begin_segment(snapshot)
    return journal


def recover(directory: SimulatedDirectory) -> Recovered:
    return Journal(directory).recover()


def test_a_fresh_journal_holds_nothing() -> None:
    assert recover(SimulatedDirectory()) == Recovered(None, (), 0)


def test_what_was_given_comes_back_behind_its_snapshot() -> None:
    directory = SimulatedDirectory()
    journal = begun(directory)
    journal.append(EVENTS[:2])
    journal.append(EVENTS[2:])
    assert recover(directory) == Recovered(HEAD, tuple(EVENTS), 0)


@examples(40)
@given(instances(Snapshot))
def test_any_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    directory = SimulatedDirectory()
    begun(directory, snapshot)
    assert recover(directory).snapshot == snapshot


def test_a_snapshot_is_durable_once_it_stands_and_the_older_files_are_gone() -> None:
    directory = SimulatedDirectory()
    begun(directory).append(EVENTS)
    journal = Journal(directory)
    journal.recover()
    journal.begin_segment(replace(HEAD, register=11))
    directory.cut_power()
    assert directory.names() == ["journal-00000001.log"]
    assert recover(directory) == Recovered(replace(HEAD, register=11), (), 0)


def test_what_was_not_synced_is_lost_in_a_power_cut_only() -> None:
    directory = SimulatedDirectory()
    journal = begun(directory)
    journal.append(EVENTS[:1])
    journal.sync()
    journal.append(EVENTS[1:])
    assert Journal(directory).peek() == 11
    directory.cut_power()
    assert recover(directory).events == tuple(EVENTS[:1])


@examples(60)
@given(st.integers(0, 200))
def test_a_torn_tail_is_cut_off_and_counted_and_what_stands_before_it_stays(torn: int) -> None:
    directory = SimulatedDirectory()
    journal = begun(directory)
    whole = directory.size("journal-00000000.log")
    journal.append(EVENTS)
    directory.cut_power(torn)
    kept = min(torn, sum(8 + len(encode_event(event)) for event in EVENTS))
    recovered = recover(directory)
    assert recovered.events == tuple(EVENTS[: len(recovered.events)])
    read = sum(8 + len(encode_event(event)) for event in recovered.events)
    assert recovered.cut_bytes == kept - read
    assert directory.size("journal-00000000.log") == whole + read


def test_a_snapshot_that_never_became_whole_leaves_the_one_before() -> None:
    directory = SimulatedDirectory()
    begun(directory).append(EVENTS)
    snapshot = cbor.encode(encode_map(HEAD))
    log = SegmentedLog(directory, "journal")
    log.roll()
    log.append([snapshot])
    directory.truncate("journal-00000001.log", 20)
    recovered = recover(directory)
    assert recovered == Recovered(HEAD, tuple(EVENTS), 20)
    assert "journal-00000001.log" not in directory.names()


def test_of_two_whole_segments_the_newer_counts() -> None:
    directory = SimulatedDirectory()
    begun(directory).append(EVENTS)
    log = SegmentedLog(directory, "journal")
    log.roll()
    log.append([cbor.encode(encode_map(replace(HEAD, register=11)))])
    assert recover(directory) == Recovered(replace(HEAD, register=11), (), 0)
    assert directory.names() == ["journal-00000001.log"]


def test_a_snapshot_that_was_written_and_not_synced_takes_nothing_with_it_in_a_power_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = SimulatedDirectory()
    journal = begun(directory)
    journal.append(EVENTS)
    journal.sync()

    def fail(_names: Sequence[str]) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(directory, "sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        journal.begin_segment(replace(HEAD, register=11))
    with pytest.raises(OSError, match="Input/output"):
        recover(directory)  # the older files are not let go of before the newer is durable
    monkeypatch.undo()
    directory.cut_power()
    assert recover(directory) == Recovered(HEAD, tuple(EVENTS), 0)


def test_of_two_whole_segments_the_newer_is_durable_before_the_older_goes() -> None:
    directory = SimulatedDirectory()
    begun(directory).append(EVENTS)
    log = SegmentedLog(directory, "journal")
    log.roll()
    log.append([cbor.encode(encode_map(replace(HEAD, register=11)))])
    recover(directory)
    directory.cut_power()
    assert recover(directory).snapshot == replace(HEAD, register=11)


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is() -> None:
    directory = SimulatedDirectory()
    newer = {**encode_map(HEAD), 23: 1}
    SegmentedLog(directory, "journal").append([cbor.encode(newer)])
    before = directory.read("journal-00000000.log")
    with pytest.raises(Rejected, match="of another version") as refused:
        recover(directory)
    assert refused.value.reason is Reason.MALFORMED
    assert directory.read("journal-00000000.log") == before


def test_the_register_can_be_read_beside_a_running_program() -> None:
    directory = SimulatedDirectory()
    assert Journal(directory).peek() == 0
    journal = begun(directory)
    assert Journal(directory).peek() == 7
    journal.append(EVENTS)
    directory.append("journal-00000000.log", b"half an ent")
    before = directory.read("journal-00000000.log")
    assert Journal(directory).peek() == 11
    assert directory.read("journal-00000000.log") == before


def test_a_new_segment_is_wanted_once_enough_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journalling, "SEGMENT_BYTES", 100)
    directory = SimulatedDirectory()
    journal = begun(directory)
    wanted = []
    for _ in range(10):
        journal.append(EVENTS[:1])
        wanted.append(journal.wants_snapshot)
    size = 8 + len(encode_event(EVENTS[0]))
    assert wanted == [size * (number + 1) > 100 for number in range(10)]
    assert True in wanted
    journal.begin_segment(HEAD)
    assert not journal.wants_snapshot


def test_a_long_snapshot_does_not_ask_for_the_next_one_at_once() -> None:
    waiting = [Waiting(bytes(16), encode_event(EVENTS[0]), HEAD.ending)] * 15_000
    directory = SimulatedDirectory()
    journal = begun(directory, replace(HEAD, waiting=tuple(waiting)))
    head_bytes = directory.size("journal-00000000.log")
    assert head_bytes > 2 * journalling.SEGMENT_BYTES
    while not journal.wants_snapshot:
        journal.append(EVENTS)
    assert 2 * head_bytes < directory.size("journal-00000000.log") < 2 * head_bytes + 1_000


def test_a_full_disk_gives_nothing_and_what_was_given_stays() -> None:
    directory = SimulatedDirectory(room_bytes=300)
    journal = begun(directory)
    everything: list[Event] = [Pulses(8 + number, 0, 10, 0) for number in range(50)]

    def give_all() -> None:
        for event in everything:
            journal.append([event])

    with pytest.raises(OSError, match="No space"):
        give_all()
    found = recover(directory).events
    assert 0 < len(found) < 50
    assert found == tuple(everything[: len(found)])
