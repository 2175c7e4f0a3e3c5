"""A line rests after a look that brought pulses, never so long that it could overflow."""

from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.pace import FILL_MAX, Pace

GATHER_NS = 200 * NS_PER_MS


def test_a_line_that_brought_nothing_does_not_rest() -> None:
    pace = Pace(GATHER_NS)
    pace.note(0, NS_PER_S)
    assert pace.rest_ns(NS_PER_S, 4_095) == 0


def test_lines_rest_until_the_same_moments() -> None:
    pace = Pace(GATHER_NS)
    pace.note(1, NS_PER_S + 30 * NS_PER_MS)
    assert pace.rest_ns(NS_PER_S + 30 * NS_PER_MS, 4_095) == 170 * NS_PER_MS
    assert pace.rest_ns(NS_PER_S + 199 * NS_PER_MS, 4_095) == NS_PER_MS


def test_a_fast_line_rests_no_longer_than_fills_a_part_of_it() -> None:
    pace = Pace(GATHER_NS)
    pace.note(0, NS_PER_S)
    pace.note(100, NS_PER_S + 10 * NS_PER_MS)  # every tenth of a millisecond
    assert pace.rest_ns(NS_PER_S + 10 * NS_PER_MS, 40 * FILL_MAX) == 4 * NS_PER_MS


def test_what_is_not_to_be_gathered_is_taken_at_once() -> None:
    pace = Pace(0)
    pace.note(1, NS_PER_S)
    assert pace.rest_ns(NS_PER_S, 4_095) == 0


def test_a_line_has_rested_when_all_looks_of_a_while_brought_nothing() -> None:
    pace = Pace(GATHER_NS)
    pace.note(1, NS_PER_S)
    assert not pace.has_rested(NS_PER_S)
    pace.note(0, 2 * NS_PER_S - 1)
    assert not pace.has_rested(NS_PER_S)
    pace.note(0, 2 * NS_PER_S)
    assert pace.has_rested(NS_PER_S)
