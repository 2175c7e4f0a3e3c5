"""Is the gateway doing its work? Each reason against it, alone and together."""

from dataclasses import replace

import pytest

from cryptometer.doubt import AHEAD_STEPS
from cryptometer.steps import NS_PER_MS, ClockSource, ClockState, Instant, step_start_ms
from gateway.health import (
    OVERDUE_PART,
    PUBLISH_MAX_MS,
    ROOM_MIN_BYTES,
    Facts,
    reasons,
)

STEP, STEP_S, GRACE_MS = 1_900_000, 900, 5_000
NEXT_DUE_MS = step_start_ms(STEP + 2, STEP_S) + GRACE_MS


def at(ms: int, state: ClockState = ClockState.SYNCHRONISED) -> Instant:
    return Instant(0, ms * NS_PER_MS, NS_PER_MS, state, ClockSource.SYSTEM)


FINE = Facts(
    now=at(NEXT_DUE_MS - 60_000),
    step=STEP,
    step_s=STEP_S,
    grace_ms=GRACE_MS,
    sealed_ms=step_start_ms(STEP + 1, STEP_S) + GRACE_MS,
    size=100,
    published=100,
    sealed_clock=ClockState.SYNCHRONISED,
    accept_unsynchronised=False,
    free_bytes={"store": ROOM_MIN_BYTES, "ledger": ROOM_MIN_BYTES},
)


def test_a_gateway_that_works_has_nothing_against_it() -> None:
    assert reasons(FINE) == []
    assert FINE.overdue_ms == -60_000


def test_a_block_is_overdue_after_a_tenth_of_a_step() -> None:
    patience_ms = STEP_S * 1000 // OVERDUE_PART
    assert reasons(replace(FINE, now=at(NEXT_DUE_MS + patience_ms))) == []
    [reason] = reasons(replace(FINE, now=at(NEXT_DUE_MS + patience_ms + 1)))
    assert reason.startswith(f"the block of step {STEP + 1} is overdue by 90 s")


@pytest.mark.parametrize("state", [ClockState.UNKNOWN, ClockState.INFORMATIVE, ClockState.RELATIVE])
def test_a_clock_without_a_source_is_told_unless_it_is_accepted(state: ClockState) -> None:
    unsure = replace(FINE, now=at(NEXT_DUE_MS - 60_000, state), sealed_clock=state)
    here, sealed = reasons(unsure)
    assert f"not synchronised (state {state})" in here
    assert f"sealed by a clock in state {state}" in sealed
    assert reasons(replace(unsure, accept_unsynchronised=True)) == []


def test_a_clock_so_far_ahead_that_the_gateway_may_doubt_it_is_told() -> None:
    ahead_ms = FINE.sealed_ms + AHEAD_STEPS * STEP_S * 1000
    [overdue] = reasons(replace(FINE, now=at(ahead_ms)))
    assert "overdue" in overdue
    [overdue, ahead] = reasons(replace(FINE, now=at(ahead_ms + 1)))
    assert "overdue" in overdue
    assert ahead.startswith(f"this machine's clock is {AHEAD_STEPS * STEP_S} s ahead")


def test_files_behind_the_store_are_told_once_they_should_stand() -> None:
    behind = replace(FINE, published=60)
    just = replace(behind, now=at(FINE.sealed_ms + PUBLISH_MAX_MS))
    assert reasons(just) == []
    [reason] = reasons(behind)
    assert "40 leaves behind" in reason


def test_a_full_disk_is_told_by_its_name_before_it_stops_everything() -> None:
    [reason] = reasons(replace(FINE, free_bytes={"store": ROOM_MIN_BYTES, "ledger": 2**20}))
    assert reason == "only 1 MiB are free for ledger: make room"


def test_before_the_first_block_that_is_all_there_is_to_say() -> None:
    [reason] = reasons(replace(FINE, step=None, size=0, published=0, free_bytes={"store": 0}))
    assert reason.startswith("there is no block yet")


def test_all_that_is_wrong_is_told_at_once_most_pressing_first() -> None:
    bad = replace(
        FINE,
        now=at(NEXT_DUE_MS + 3_600_000, ClockState.UNKNOWN),
        published=0,
        free_bytes={"store": 0},
    )
    assert [reason.partition(" ")[0] for reason in reasons(bad)] == ["the", "this", "the", "only"]
