"""A clock far ahead of what is known: when it is believed."""

import pytest

from cryptometer.doubt import BOOT_CONFIRM_NS, CONFIRM_NS, Claim, doubt
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockSource, ClockState, Instant

UTC_NS = 1_710_000_000 * NS_PER_S
HOUR_NS = 3600 * NS_PER_S
U, I, S = (  # noqa: E741 - the letters of OCMF
    ClockState.UNKNOWN,
    ClockState.INFORMATIVE,
    ClockState.SYNCHRONISED,
)


def instant(mono_ns: int, utc_ns: int, state: ClockState = ClockState.SYNCHRONISED) -> Instant:
    return Instant(mono_ns, utc_ns, NS_PER_MS, state, ClockSource.SYSTEM)


KNOWN_MS = UTC_NS // NS_PER_MS


def claim_of(
    *moments: Instant, known_ms: int | None = KNOWN_MS, confirm_ns: int = CONFIRM_NS
) -> Claim | None:
    claim: Claim | None = None
    for moment in moments:
        claim = doubt(known_ms, 3_600_000, confirm_ns, claim, moment)
    return claim


@pytest.mark.parametrize("ahead_ns", [-(10**18), -HOUR_NS, 0, HOUR_NS, HOUR_NS + NS_PER_MS - 1])
def test_a_clock_that_runs_little_ahead_or_back_is_believed_at_once(ahead_ns: int) -> None:
    assert claim_of(instant(0, UTC_NS + ahead_ns)) is None


@pytest.mark.parametrize("ahead_ns", [HOUR_NS + NS_PER_MS, 10**18])
@pytest.mark.parametrize("state", [S, I])
@pytest.mark.parametrize("confirm_ns", [CONFIRM_NS, BOOT_CONFIRM_NS])
def test_a_clock_far_ahead_is_believed_once_it_has_said_so_for_long_enough(
    ahead_ns: int, state: ClockState, confirm_ns: int
) -> None:
    first = instant(7, UTC_NS + ahead_ns, state=state)
    later = instant(7 + confirm_ns - 1, first.utc_ns + confirm_ns - 1, state=state)
    last = instant(7 + confirm_ns, first.utc_ns + confirm_ns, state=state)
    claim = Claim(7, first.utc_ns)
    assert claim_of(first, confirm_ns=confirm_ns) == claim
    assert claim_of(first, later, confirm_ns=confirm_ns) == claim
    assert claim_of(first, later, last, confirm_ns=confirm_ns) is None


def test_a_running_program_doubts_for_an_hour_and_a_boot_for_ten_minutes() -> None:
    assert (CONFIRM_NS, BOOT_CONFIRM_NS) == (HOUR_NS, HOUR_NS // 6)


def test_a_clock_that_says_another_time_far_ahead_begins_anew() -> None:
    first = instant(0, UTC_NS + 10 * HOUR_NS)
    other = instant(HOUR_NS // 2, UTC_NS + 20 * HOUR_NS)
    last = instant(HOUR_NS, UTC_NS + 20 * HOUR_NS + HOUR_NS // 2)
    assert claim_of(first, other, last) == Claim(other.mono_ns, other.utc_ns)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_clock_may_be_slewed_and_drift_while_it_is_doubted_but_not_stepped(sign: int) -> None:
    """Half an hour of a crystal's drift at 500 ppm is 0.9 s; with 1 s for a slew, 1.9 s."""
    first = instant(0, UTC_NS + 10 * HOUR_NS)
    even_ns = first.utc_ns + HOUR_NS // 2
    strayed = instant(HOUR_NS // 2, even_ns + sign * 1_900 * NS_PER_MS)
    stepped = instant(HOUR_NS // 2, strayed.utc_ns + sign)
    assert claim_of(first, strayed) == Claim(first.mono_ns, first.utc_ns)
    assert claim_of(first, stepped) == Claim(stepped.mono_ns, stepped.utc_ns)


def test_a_clock_that_loses_its_source_or_comes_right_claims_nothing_any_more() -> None:
    first = instant(0, UTC_NS + 10 * HOUR_NS)
    again = instant(HOUR_NS, UTC_NS + 11 * HOUR_NS)
    for between in (instant(1, UTC_NS + 10 * HOUR_NS, state=U), instant(1, UTC_NS)):
        assert claim_of(first, between) is None
        assert claim_of(first, between, again) == Claim(again.mono_ns, again.utc_ns)


def test_while_nothing_is_known_a_synchronised_clock_is_believed() -> None:
    assert claim_of(instant(0, 10**18), known_ms=None) is None
