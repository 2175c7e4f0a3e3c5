"""What a card's note says beside the count that is kept apart from it."""

from dataclasses import replace

import pytest

from cryptometer.errors import ConfigurationError
from firmware.checkup import Verdict, judge_guard
from firmware.end import End, chain_start
from firmware.events import Kept, decode_event, encode_event
from firmware.outbox import Outbox
from firmware.rollback import check_newest, newest_note
from hal.files import SimulatedDirectory
from tests.firmware.kit import CHAIN, REGISTRATION, run, steps


@pytest.mark.parametrize(
    ("noted", "count"),
    [
        (None, None),  # nothing signed yet
        (0, None),  # a death before the first count
        (0, 5),  # and one behind it
        (7, 7),
        (8, 7),  # a death between note and count
        (None, 7),  # a new card: what else it needs is not the note's to say
    ],
)
def test_the_newest_card_is_let_through(noted: int | None, count: int | None) -> None:
    check_newest(noted, count, has_signed=noted is not None or count is None)


@pytest.mark.parametrize(
    ("noted", "count", "said"),
    [
        (None, 7, "are an older copy: they are of a time without the TPM's counter"),
        (6, 7, "are an older copy: they were written at 6, and the TPM's counter stands at 7"),
        (1, 2**40, "are an older copy"),
        (9, 7, "the card belongs to another TPM"),
        (1, None, "has not counted yet, and journal and outbox were written at 1"),
    ],
)
def test_a_card_that_is_not_is_refused_with_what_to_do(
    noted: int | None, count: int | None, said: str
) -> None:
    for check in (check_newest, judge_guard):
        with pytest.raises(ConfigurationError, match="Nothing is signed on them") as refused:
            check(noted, count, has_signed=True)
        assert said in str(refused.value)
        assert "have the chain re-anchored" in str(refused.value)


def test_the_doctor_says_where_a_counter_stands() -> None:
    assert (
        judge_guard(7, 7, has_signed=True).says == "stands at 7: journal and outbox are the newest"
    )
    assert judge_guard(None, None, has_signed=True).verdict is Verdict.OK
    unknown = judge_guard(None, 7, has_signed=False)
    assert unknown.verdict is Verdict.WRONG
    assert "this key has signed before" in unknown.says


def test_the_later_note_of_two_logs_counts() -> None:
    blank = chain_start(REGISTRATION)
    early, late = replace(blank, guarded=3), replace(blank, guarded=4)
    assert newest_note() is None
    assert newest_note(None, blank) is None
    assert newest_note(early, late) == newest_note(late, early) == 4
    assert newest_note(None, early) == newest_note(blank, early) == 3


def outbox_on(directory: SimulatedDirectory) -> Outbox:
    outbox = Outbox(directory, limit_bytes=2**20, window=4)
    outbox.recover(0)
    return outbox


def test_a_note_survives_in_the_outbox_with_what_is_signed_behind_it() -> None:
    directory = SimulatedDirectory()
    outbox = outbox_on(directory)
    outbox.begin(chain_start(REGISTRATION))
    outbox.note_guard(41)
    end = outbox.end
    assert end is not None
    outbox.append(list(CHAIN.sign([run(), *steps(2)], end, None)))
    outbox.note_guard(42)
    outbox.sync()
    directory.cut_power()
    again = outbox_on(directory)
    assert again.end is not None
    assert (again.end.guarded, again.end.sequence, again.waiting) == (42, 5, 5)
    assert again.end == outbox.end


def test_a_note_that_is_there_already_writes_nothing() -> None:
    directory = SimulatedDirectory()
    outbox = outbox_on(directory)
    outbox.begin(chain_start(REGISTRATION))
    outbox.note_guard(1)
    [name] = directory.names()
    size = directory.size(name)
    outbox.note_guard(1)
    assert directory.size(name) == size


def test_an_end_without_a_guard_is_written_as_before_there_was_one() -> None:
    """Older programs read it."""
    event = Kept(chain_start(REGISTRATION))
    assert isinstance(event.end, End)
    plain = encode_event(event)
    guarded = encode_event(Kept(replace(event.end, guarded=1)))
    assert decode_event(guarded) != decode_event(plain) == event
    assert len(guarded) == len(plain) + 2  # a key and a number
