"""The CRC log: what it gives back is always a prefix of what was given, whatever the card does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.segments import DAMAGED_KEPT, Position, SegmentedLog
from hal.files import SimulatedDirectory
from tests.core.strategies import examples

NAME = "log-00000000.log"
ENTRIES = [b"first", b"the second", b"3", b"\x00" * 9, b"last"]
# Two entries as they stand in the file: length, CRC-32 of length and payload, payload.
GOLDEN = bytes.fromhex("00000005e2979c5766697273740000000160e9a74a33")

payloads = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12)


def write(entries: list[bytes], directory: SimulatedDirectory | None = None) -> SimulatedDirectory:
    directory = directory or SimulatedDirectory()
    SegmentedLog(directory, "log").append(entries)
    return directory


def read(log: SegmentedLog, segment: int = 0) -> list[bytes]:
    return [payload for _, payload in log.entries(segment)]


def replaced(directory: SimulatedDirectory, data: bytes) -> SimulatedDirectory:
    """The directory as it would be if the card gave back other bytes."""
    directory.put(NAME, data)
    return directory


def test_entries_stand_in_the_file_as_length_crc_and_payload() -> None:
    directory = write([b"first", b"3"])
    assert directory.read(NAME) == GOLDEN


def test_entries_come_back_in_order_with_their_places() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    positions = log.append(ENTRIES[:2]) + log.append(ENTRIES[2:])
    assert list(SegmentedLog(directory, "log").entries(0)) == list(
        zip(positions, ENTRIES, strict=True)
    )
    assert positions == sorted(positions, key=lambda one: (one.segment, one.offset))
    assert [log.read(position) for position in positions] == ENTRIES
    assert log.total_bytes == log.newest_bytes == directory.size(NAME)


def test_reading_can_begin_at_any_entry() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    positions = log.append(ENTRIES)
    for number, position in enumerate(positions):
        assert [payload for _, payload in log.entries(0, position.offset)] == ENTRIES[number:]


@examples(60)
@given(payloads, st.data())
def test_any_truncation_gives_a_prefix_and_the_log_goes_on_behind_it(
    entries: list[bytes], data: st.DataObject
) -> None:
    whole = write(entries).read(NAME)
    end = data.draw(st.integers(0, len(whole)))
    directory = replaced(write(entries), whole[:end])
    log = SegmentedLog(directory, "log")
    cut = log.recover(0)
    kept = read(log)
    sizes = [8 + len(entry) for entry in entries]
    expected = max(n for n in range(len(entries) + 1) if sum(sizes[:n]) <= end)
    assert kept == entries[:expected]
    torn = end - sum(sizes[:expected])
    assert (cut.size if cut else 0) == torn
    assert (cut is None) == (torn == 0)
    log.append([b"next"])
    assert read(SegmentedLog(directory, "log")) == [*kept, b"next"]


@examples(100)
@given(payloads, st.data())
def test_a_changed_bit_anywhere_costs_its_entry_and_what_follows_and_nothing_before(
    entries: list[bytes], data: st.DataObject
) -> None:
    whole = bytearray(write(entries).read(NAME))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    directory = replaced(write(entries), bytes(whole))
    log = SegmentedLog(directory, "log")
    cut = log.recover(0)
    hit, end = 0, 8 + len(entries[0])
    while end <= bit // 8:
        hit += 1
        end += 8 + len(entries[hit])
    assert read(log) == entries[:hit]
    assert cut is not None
    assert cut.size == sum(8 + len(entry) for entry in entries[hit:])


@examples(60)
@given(payloads, st.binary(min_size=1, max_size=60))
def test_rubbish_behind_the_entries_is_set_aside(entries: list[bytes], rubbish: bytes) -> None:
    directory = write(entries)
    directory.append(NAME, rubbish)
    log = SegmentedLog(directory, "log")
    cut = log.recover(0)
    assert read(log) == entries
    assert cut is not None
    assert (cut.name, cut.size) == (NAME, len(rubbish))
    assert directory.read(f"{NAME}.{len(rubbish)}.damaged") == rubbish


def test_a_hole_of_zeros_is_no_entry() -> None:
    directory = write([b"one"])
    directory.append(NAME, bytes(4096))
    log = SegmentedLog(directory, "log")
    assert log.recover(0) is not None
    assert read(log) == [b"one"]


def test_a_damaged_entry_reads_as_none_and_its_neighbours_as_they_are() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    positions = log.append([b"one", b"two", b"three"])
    data = bytearray(directory.read(NAME))
    data[positions[1].offset + 8] ^= 1
    directory.put(NAME, bytes(data))
    assert [log.read(position) for position in positions] == [b"one", None, b"three"]


def test_what_was_cut_off_is_not_durably_gone_before_its_copy_stands() -> None:
    directory = write([b"one", b"two"])
    directory.sync([NAME])
    data = directory.read(NAME)
    directory.put(NAME, data[:-1])
    log = SegmentedLog(directory, "log")
    log.recover(0)
    directory.cut_power()
    assert directory.read(NAME) == data[:11]
    assert directory.read(f"{NAME}.10.damaged") == data[11:-1]


def test_only_the_newest_damaged_copies_are_kept_and_none_goes_before_its_time() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    for number in range(DAMAGED_KEPT + 3):
        log.roll()
        log.append([b"entry"])
        directory.append(f"log-{number:08d}.log", b"torn")
        assert SegmentedLog(directory, "log").recover(number) is not None
        damaged = [name for name in directory.names() if name.endswith(".damaged")]
        assert len(damaged) == min(number + 1, DAMAGED_KEPT)
        assert damaged[-1].startswith(f"log-{number:08d}")


def test_a_full_disk_does_not_keep_a_torn_log_from_being_recovered() -> None:
    directory = SimulatedDirectory(room_bytes=200)
    log = SegmentedLog(directory, "log")
    log.append([b"x" * 100])
    with pytest.raises(OSError, match="No space"):
        log.append([b"y" * 100])
    after = SegmentedLog(directory, "log")
    cut = after.recover(0)
    assert cut is not None
    assert cut.size == 200 - 108
    assert read(after) == [b"x" * 100]


def test_what_was_not_synced_is_lost_in_a_power_cut_and_what_was_is_not() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    log.append([b"one"])
    dirty = [log.is_dirty]
    log.sync()
    dirty.append(log.is_dirty)
    assert dirty == [True, False]
    log.append([b"two"])
    directory.cut_power()
    assert read(SegmentedLog(directory, "log")) == [b"one"]


@examples(40)
@given(payloads, payloads, st.integers(0, 200))
def test_a_torn_power_cut_leaves_what_was_synced_and_a_prefix_of_the_rest(
    synced: list[bytes], rest: list[bytes], torn: int
) -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "log")
    log.append(synced)
    log.sync()
    log.append(rest)
    directory.cut_power(torn)
    after = SegmentedLog(directory, "log")
    after.recover(0)
    kept = read(after)
    assert kept[: len(synced)] == synced
    assert kept[len(synced) :] == rest[: len(kept) - len(synced)]


def test_what_a_dead_program_wrote_is_made_durable_by_the_next_sync() -> None:
    directory = write([b"one"])
    log = SegmentedLog(directory, "log")
    log.recover(0)
    log.sync()
    directory.cut_power()
    assert read(SegmentedLog(directory, "log")) == [b"one"]


def test_a_new_segment_exists_from_its_first_entry_on() -> None:
    directory = write([b"one"])
    log = SegmentedLog(directory, "log")
    log.roll()
    assert directory.names() == [NAME]
    assert log.segments == [0, 1]
    assert read(log, 1) == []
    [position] = log.append([b"two"])
    assert position == Position(1, 0, 11)
    assert directory.names() == [NAME, "log-00000001.log"]
    assert (log.newest_bytes, log.total_bytes) == (11, 22)


def test_a_dropped_segment_is_gone_and_its_number_is_not_used_again() -> None:
    directory = write([b"one"])
    log = SegmentedLog(directory, "log")
    log.roll()
    log.append([b"two"])
    log.drop(0)
    assert directory.names() == ["log-00000001.log"]
    log.roll()
    log.append([b"three"])
    log.sync()
    assert SegmentedLog(directory, "log").segments == [1, 2]


def test_logs_of_other_names_in_the_folder_are_left_alone() -> None:
    directory = SimulatedDirectory()
    SegmentedLog(directory, "other").append([b"theirs"])
    log = SegmentedLog(directory, "log")
    assert log.segments == []
    log.append([b"ours"])
    assert read(log) == [b"ours"]
    assert read(SegmentedLog(directory, "other")) == [b"theirs"]
