"""A display that somebody read, against what the chain had registered by then."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.record_fields import Role
from gateway.exports.accuracy_words import is_good, sentences
from gateway.exports.displays import (
    READ_MS,
    SEEN_MAX,
    WH_MAX,
    Dial,
    Registered,
    Seen,
    Shown,
    decode_seen,
    encode_seen,
)
from gateway.exports.measured import Measured, MeterReport
from tests.core.community import DETAILS, PULSE_UWH, Village
from tests.core.strategies import examples
from tests.gateway.exports.watched import STEPS, measure, seen_at, watched
from tests.keys import signer

WH = 10**6
BEGAN_WH = DETAILS.index_wh


@pytest.fixture(scope="module")
def village() -> tuple[Village, range]:
    return watched()


def registered_uwh(village: Village, meter: str, before: int) -> int:
    """What its chain had registered before a step, from the leaves."""
    return sum(
        one.energy_uwh
        for checked in village.checked
        for one in checked.verdicts
        if getattr(one.record.body, "meter", None) == meter
        and getattr(one.record.body, "step", before) < before
        and one.record.body.KIND.value == "batch"
    )


def of(measured: Measured, name: str) -> MeterReport:
    [found] = [meter for meter in measured.meters if meter.name == name]
    return found


def test_a_display_is_compared_with_the_registration_and_with_the_reading_before(
    village: tuple[Village, range],
) -> None:
    whole, steps = village
    # Lots are closed in the first seconds of a step here, so in its middle all of it is told.
    early, late = (registered_uwh(whole, "shed", steps.start + at + 1) // WH for at in (10, 40))
    first = seen_at(steps.start, 10, "shed", BEGAN_WH + early)
    second = seen_at(steps.start, 40, "shed", BEGAN_WH + late)
    measured = measure(whole, steps, second, first)
    one, two, between = of(measured, "shed").shown
    assert [row.since_ms for row in (one, two, between)] == [None, None, first.at_ms]
    assert [row.at_ms for row in (one, two, between)] == [
        first.at_ms,
        second.at_ms,
        second.at_ms,
    ]
    assert two.shown_uwh == late * WH
    assert between.shown_uwh == (late - early) * WH
    assert all(0 <= row.difference_uwh < WH for row in (one, two))
    assert all(row.is_within for row in (one, two, between))
    assert is_good(measured) is False  # by the roof's second source
    said = [line for line in sentences(measured) if line.startswith("shed")]
    assert said[0].startswith("shed was compared with its display, 3 times, and is within the MPE")


def test_what_the_board_did_not_count_is_found(village: tuple[Village, range]) -> None:
    whole, steps = village
    read = seen_at(steps.start, 40, "shed", BEGAN_WH + 400)
    measured = measure(whole, steps, read)
    [row] = of(measured, "shed").shown
    assert row.difference_uwh < 0
    assert not row.is_within
    assert any("NOT within the MPE in 1 of them" in line for line in sentences(measured))


def test_what_is_lost_in_a_step_without_a_word_is_in_the_bound(
    village: tuple[Village, range],
) -> None:
    """Nobody knows how much of what came by step 32 had come in the two steps of silence."""
    whole, steps = village
    read = seen_at(steps.start, 30, "roof", BEGAN_WH)
    [row] = of(measure(whole, steps, read), "roof").shown
    first_lot = 8 * PULSE_UWH
    assert row.bound_uwh == WH + first_lot


def test_a_reading_behind_the_newest_record_waits_for_an_answer(
    village: tuple[Village, range],
) -> None:
    whole, steps = village
    early, late = (seen_at(steps.start, at, "shed", BEGAN_WH) for at in (-2, STEPS - 1))
    period = range(steps.start - 5, steps.stop + 1)
    shed = of(measure(whole, period, early, late), "shed")
    assert (shed.unanswered, len(shed.shown)) == ((early,), 1)
    later = replace(late, at_ms=late.at_ms + 450_000)
    assert of(measure(whole, period, later), "shed").unanswered == (later,)
    assert not of(measure(whole, steps, early), "shed").unanswered


def test_an_exchanged_device_is_compared_with_its_own_beginning() -> None:
    village = Village(meters=1)
    village.run([8, 8], [8])
    device = village.device
    details = replace(DETAILS, serial="MID-0009", index_wh=77)
    key, from_step = signer(10).public, village.next_step + 1
    again = village.authority.register(Role.METER, "m0", key, details, from_step)
    village.govern(again)
    village.run([1])
    device.registration = again.identity
    first = village.next_step
    village.run([8, 8], [8])
    before = seen_at(first, -2, "m0", BEGAN_WH + 2)
    after = seen_at(first, 0, "m0", 78)
    measured = measure(village, range(first - 4, first + 2), before, after)
    rows = of(measured, "m0").shown
    assert [(row.serial, row.since_ms) for row in rows] == [("MID-0001", None), ("MID-0009", None)]
    assert [(row.registered_uwh, row.shown_uwh) for row in rows] == [
        (24 * PULSE_UWH, 2 * WH),
        (16 * PULSE_UWH, 1 * WH),
    ]


def test_the_bound_holds_the_minute_and_the_last_digit() -> None:
    dial = Dial(Seen("m0", 10 * READ_MS, 5, 1))
    assert dial.registered is None
    dial.note(9 * READ_MS - 20, 20, 100)
    dial.note(9 * READ_MS, 20, 200)  # perhaps too late, by its clock's error
    dial.note(10 * READ_MS, 20, 300)
    dial.note(11 * READ_MS + 20, 20, 350, is_whole=False)
    assert dial.registered is None
    dial.note(11 * READ_MS + 20, 20, 400)
    dial.note(12 * READ_MS, 20, 900)
    assert dial.registered == Registered(100, 300, 400)


def test_a_difference_is_within_up_to_its_bound_and_no_farther() -> None:
    row = Shown("m0", "1", None, 0, 1_000 * WH, 1_021 * WH, WH, 20_000)
    assert (row.difference_ppm, row.allowed_uwh, row.is_within) == (21_000, 20 * WH, True)
    assert not replace(row, registered_uwh=row.registered_uwh + 1).is_within
    assert not replace(row, registered_uwh=979 * WH - 1).is_within
    assert replace(row, registered_uwh=979 * WH).is_within


# --- The file. ---

SEEN = st.builds(
    Seen,
    st.from_regex("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    st.integers(0, 2**50),
    st.integers(0, WH_MAX),
    st.integers(1, 10**9),
)


@given(st.lists(SEEN, max_size=20))
def test_what_is_written_is_read_again(readings: list[Seen]) -> None:
    assert decode_seen(encode_seen(readings)) == sorted(set(readings))


@given(st.one_of(st.text(), st.text().map(lambda text: "meter;at_ms;wh;digit_wh\n" + text)))
@examples(300)
def test_anything_else_is_refused_or_is_what_would_be_written(text: str) -> None:
    try:
        readings = decode_seen(text)
    except ConfigurationError:
        return
    assert decode_seen(encode_seen(readings)) == sorted(set(readings))


@pytest.mark.parametrize(
    "line",
    ["m0;1;2", "m0;1;2;3;4", "M0;1;2;3", "m0;-1;2;3", "m0;1;2;0", "m0;1;²;3",
     f"m0;1;{WH_MAX + 1};1", f"m0;{'0' * 5_000};1;1", ";1;2;3", "m0; 1;2;3"],
)  # fmt: skip
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ConfigurationError, match="line 3 is no reading"):
        decode_seen(f"meter;at_ms;wh;digit_wh\nm0;1;2;3\n{line}\n")


def test_a_file_is_whole_and_bounded() -> None:
    with pytest.raises(ConfigurationError, match="whole lines"):
        decode_seen("meter;at_ms;wh;digit_wh\nm0;1;2;3")
    full = [Seen("m0", at, 1, 1) for at in range(SEEN_MAX)]
    assert len(decode_seen(encode_seen(full))) == SEEN_MAX
    with pytest.raises(ConfigurationError, match="at most"):
        decode_seen(encode_seen([*full, Seen("m1", 1, 1, 1)]))
