"""Coefficients: they add up to one, stay within a last digit of the truth, and depend on nothing
but the weights."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from gateway.exports.apportion import coefficients, decimal_text

weights = st.lists(st.integers(0, 2**62), min_size=1, max_size=40).filter(any)
decimals = st.integers(1, 9)


@given(weights, decimals)
def test_coefficients_add_up_to_one(given_weights: list[int], places: int) -> None:
    assert sum(coefficients(given_weights, places)) == 10**places


@given(weights, decimals)
def test_each_is_within_one_last_digit_of_its_part(given_weights: list[int], places: int) -> None:
    total = sum(given_weights)
    for weight, part in zip(given_weights, coefficients(given_weights, places), strict=True):
        assert abs(part - Fraction(weight * 10**places, total)) < 1
        assert part >= 0
        assert part == 0 or weight > 0


@given(weights, decimals, st.integers(1, 2**20))
def test_only_the_proportion_matters(given_weights: list[int], places: int, times: int) -> None:
    scaled = [weight * times for weight in given_weights]
    assert coefficients(scaled, places) == coefficients(given_weights, places)


def test_of_equal_remainders_the_first_gets_the_rest() -> None:
    assert coefficients([1, 1, 1], 6) == [333_334, 333_333, 333_333]
    assert coefficients([1, 2], 1) == [3, 7]


@pytest.mark.parametrize("wrong", [[0, 0], [], [3, -1]])
def test_without_anything_to_divide_there_are_none(wrong: list[int]) -> None:
    with pytest.raises((ConfigurationError, ValueError)):
        coefficients(wrong, 6)


def test_a_coefficient_has_all_its_decimals() -> None:
    assert decimal_text(250_000, 6, ",") == "0,250000"
    assert decimal_text(1_000_000, 6, ",") == "1,000000"
    assert decimal_text(7, 3, ".") == "0.007"
