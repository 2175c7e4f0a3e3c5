"""From the monotonic clock to UTC: what is believed, and what is said about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.doubt import DRIFT_PPM
from cryptometer.record_fields import ClockReading
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockSource, ClockState, Instant
from firmware.timekeeping import Dating, adopt
from tests.core.strategies import examples

UTC_NS = 1_710_000_000 * NS_PER_S
HOUR_NS = 3600 * NS_PER_S
U, I, S, R = (  # noqa: E741 - the letters of OCMF
    ClockState.UNKNOWN,
    ClockState.INFORMATIVE,
    ClockState.SYNCHRONISED,
    ClockState.RELATIVE,
)


def instant(
    mono_ns: int, utc_ns: int, error_ms: int = 1, state: ClockState = ClockState.SYNCHRONISED
) -> Instant:
    return Instant(mono_ns, utc_ns, error_ms * NS_PER_MS, state, ClockSource.SYSTEM)


def dating(error_ms: int = 1, held: int = 0) -> Dating:
    return Dating(0, UTC_NS, error_ms * NS_PER_MS, ClockSource.SYSTEM, held)


def test_without_a_synchronised_clock_nothing_is_known() -> None:
    assert adopt(None, instant(5, UTC_NS, state=U)) is None


@pytest.mark.parametrize("state", [S, I])
def test_the_first_synchronised_moment_is_adopted(state: ClockState) -> None:
    adopted = adopt(None, instant(5, UTC_NS, 7, state))
    assert adopted == Dating(5, UTC_NS, 7 * NS_PER_MS, ClockSource.SYSTEM, held=0)


def test_monotonic_time_maps_forth_and_back_also_before_the_adoption() -> None:
    known = Dating(HOUR_NS, UTC_NS, 0, ClockSource.SYSTEM, held=0)
    assert known.utc_ms(HOUR_NS + 1_999_999) == UTC_NS // NS_PER_MS + 1
    assert known.utc_ms(0) == (UTC_NS - HOUR_NS) // NS_PER_MS
    assert known.mono_at(UTC_NS // NS_PER_MS - 3_600_000) == 0


@examples(60)
@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_the_moment_of_a_millisecond_is_the_first_that_shows_it(mono_ns: int, at_ns: int) -> None:
    known = Dating(mono_ns, UTC_NS, 0, ClockSource.SYSTEM, held=0)
    shown = known.utc_ms(at_ns)
    first = known.mono_at(shown)
    assert first <= at_ns
    assert known.utc_ms(first) == shown
    assert known.utc_ms(first - 1) == shown - 1


def test_the_bound_grows_with_the_drift_of_a_crystal_in_both_directions() -> None:
    known = Dating(HOUR_NS, UTC_NS, 5 * NS_PER_MS, ClockSource.SYSTEM, held=0)
    drift_ms = 3_600_000 * DRIFT_PPM // 1_000_000
    assert drift_ms == 1_800
    assert known.error_ms(HOUR_NS) == 5
    assert known.error_ms(2 * HOUR_NS) == 5 + drift_ms
    assert known.error_ms(0) == 5 + drift_ms
    assert known.error_ms(HOUR_NS + 1_999) == 5  # no drift of a whole nanosecond yet
    assert known.error_ms(HOUR_NS + 2_000) == 6  # rounded up: a bound is never understated


@pytest.mark.parametrize(
    ("error_ms", "held", "state"),
    [(1_000, 0, S), (1_001, 0, I), (9_000, 0, I), (1_000, 1, S), (1_001, 1, R), (9_000, 1, R)],
)
def test_above_a_second_of_error_no_record_says_synchronised(
    error_ms: int, held: int, state: ClockState
) -> None:
    expected = ClockReading(ClockSource.SYSTEM, state, error_ms)
    assert dating(error_ms, held).reading(0) == expected


def test_a_dating_that_is_carried_on_too_long_is_no_longer_synchronised() -> None:
    known = dating(error_ms=1)
    assert known.reading(HOUR_NS // 2).state is S
    assert known.reading(HOUR_NS).state is I
    held = adopt(known, instant(0, UTC_NS, state=U))
    assert held is not None
    assert held.reading(HOUR_NS).state is R


@pytest.mark.parametrize(
    ("moved_ms", "is_adopted"), [(10, False), (-10, False), (11, True), (-11, True), (-5_000, True)]
)
def test_a_synchronised_clock_is_followed_beyond_small_corrections(
    moved_ms: int, is_adopted: bool
) -> None:
    known = Dating(HOUR_NS, UTC_NS, NS_PER_MS, ClockSource.SYSTEM, held=0)
    fresh = instant(HOUR_NS + NS_PER_S, UTC_NS + NS_PER_S + moved_ms * NS_PER_MS)
    adopted = adopt(known, fresh)
    assert (adopted is not None) == is_adopted
    if adopted is not None:
        assert adopted.utc_ns == fresh.utc_ns


@pytest.mark.parametrize("jump_ns", [-HOUR_NS, HOUR_NS])
def test_a_wall_clock_that_nobody_synchronised_is_not_believed(jump_ns: int) -> None:
    known = dating(error_ms=3)
    held = adopt(known, instant(HOUR_NS, UTC_NS + HOUR_NS + jump_ns, 0, U))
    assert held == Dating(HOUR_NS, UTC_NS + HOUR_NS, 1_803 * NS_PER_MS, ClockSource.SYSTEM, held=1)
    assert adopt(held, instant(2 * HOUR_NS, UTC_NS + 9 * HOUR_NS, 0, U)) is None
    assert held.utc_ms(2 * HOUR_NS) == (UTC_NS + 2 * HOUR_NS) // NS_PER_MS
    assert held.error_ms(2 * HOUR_NS) == 3_603


def test_the_first_synchronised_moment_after_a_time_without_is_adopted_whatever_it_says() -> None:
    adopted = adopt(dating(held=1), instant(NS_PER_S, UTC_NS + NS_PER_S))
    assert adopted is not None
    assert adopted.held == 0


@pytest.mark.parametrize(
    ("before_ms", "after_ms", "is_adopted"),
    [
        (100, 110, False),
        (1_000, 1_001, True),  # no longer S
        (1_001, 1_000, True),
        (5_000, 5_001, True),  # doubtful from here on
        (5_001, 5_000, True),
        (100, 201, False),
        (100, 202, True),  # more than twice as wide
        (201, 100, False),
        (202, 100, True),
    ],
)
def test_a_bound_is_adopted_when_it_crosses_a_limit_or_changes_much(
    before_ms: int, after_ms: int, is_adopted: bool
) -> None:
    adopted = adopt(dating(before_ms), instant(0, UTC_NS, after_ms))
    assert (adopted is not None) == is_adopted


@examples(100)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 100 * NS_PER_S),
            st.integers(-2 * NS_PER_S, 2 * NS_PER_S),
            st.sampled_from([S, I, U]),
        ),
        max_size=30,
    )
)
def test_the_true_time_stays_within_the_bound_whatever_is_adopted(
    moves: list[tuple[int, int, ClockState]],
) -> None:
    """The board's clock is off by what its own bound says; a synchronised one never by more."""
    current: Dating | None = None
    mono = 0
    for passed_ns, off_ns, state in moves:
        mono += passed_ns
        true_ns = UTC_NS + mono
        error_ms = -(-abs(off_ns) // NS_PER_MS)
        shown = instant(mono, true_ns + off_ns, error_ms, state)
        current = adopt(current, shown) or current
        if current is not None:
            shift = current.utc_ms(mono) - true_ns // NS_PER_MS
            # A correction below ADOPT_NS may be left to the next.
            assert abs(shift) <= current.error_ms(mono) + 10 + 1
