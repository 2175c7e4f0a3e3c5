"""Market steps and what a clock may claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.steps import (
    DOUBTFUL_ERROR_MS,
    SYNCHRONISED_ERROR_MS,
    ClockState,
    state_of,
    step_of,
    step_start_ms,
)


@pytest.mark.parametrize(
    ("utc_ms", "step"),
    [
        (0, 0),
        (899_999, 0),
        (900_000, 1),
        (1_767_225_600_000, 1_963_584),  # 2026-01-01 00:00:00 UTC
        (1_767_225_600_000 - 1, 1_963_583),
        (1_767_226_499_999, 1_963_584),
        (1_767_226_500_000, 1_963_585),
    ],
)
def test_a_quarter_of_an_hour_holds_its_start_and_not_its_end(utc_ms: int, step: int) -> None:
    assert step_of(utc_ms, 900) == step


@given(st.integers(0, 2**50), st.integers(60, 86_400))
def test_every_moment_lies_in_exactly_the_step_that_is_named(utc_ms: int, step_s: int) -> None:
    step = step_of(utc_ms, step_s)
    assert step_start_ms(step, step_s) <= utc_ms < step_start_ms(step + 1, step_s)
    assert step_start_ms(step + 1, step_s) - step_start_ms(step, step_s) == step_s * 1000


@pytest.mark.parametrize(
    ("error_ms", "state"),
    [
        (0, ClockState.SYNCHRONISED),
        (1_000, ClockState.SYNCHRONISED),
        (1_001, ClockState.INFORMATIVE),
        (60_000, ClockState.INFORMATIVE),
    ],
)
def test_above_one_second_of_error_a_clock_is_not_synchronised(
    error_ms: int, state: ClockState
) -> None:
    assert state_of(error_ms) is state


def test_both_limits_lie_inside_what_the_best_class_permits() -> None:
    """At constant load the error displaces error / D of a step: below 1 %, the MPE of class C."""
    assert SYNCHRONISED_ERROR_MS < DOUBTFUL_ERROR_MS < 900_000 * 1 // 100
