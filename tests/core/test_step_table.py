"""Coefficients and losses as somebody writes them: every digit counts, and what is odd is named."""

import pytest

from cryptometer.errors import Reason, Rejected
from cryptometer.step_table import read_coefficients, read_losses

STEP_S = 900


def test_coefficients_keep_every_digit() -> None:
    text = "step;member;weight\n1983712;ada;0,333333334\n1983712;bo;0,666666666\n1983713;ada;1\n"
    assert read_coefficients(text, STEP_S) == {
        1983712: {("", "ada"): 333_333_334, ("", "bo"): 666_666_666},
        1983713: {("", "ada"): 10**9},
    }


def test_coefficients_may_be_of_one_producers_energy() -> None:
    text = "\ufeffstep,producer,member,weight\r\n7,pv-roof,ada,2.5\r\n7,,bo,1\r\n\r\n"
    assert read_coefficients(text, STEP_S) == {
        7: {("pv-roof", "ada"): 2_500_000_000, ("", "bo"): 10**9}
    }


def test_a_step_may_be_said_by_the_moment_it_begins() -> None:
    step = 1_983_712
    for moment in ("2026-07-29T16:00:00Z", "2026-07-29T18:00:00+02:00"):
        assert read_losses(f"step;kwh\n{moment};0.5\n", STEP_S) == {step: 500_000_000}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("step;what\n", 1, "name the columns"),
        ("step;kwh\n7;1;2\n", 2, "3 values"),
        ("step;kwh\n7;1\n\n7;1\n", 4, "second value"),
        ("step;kwh\nx;1\n", 2, "neither a step nor a moment"),
        ("step;kwh\n2026-07-29T16:00:00;1\n", 2, "which zone"),
        ("step;kwh\n2026-07-29T16:00:01Z;1\n", 2, "no step of 900 s begins"),
        ("step;kwh\n1960-07-29T16:00:00Z;1\n", 2, "no step of 900 s begins"),
        ("step;kwh\n7;-1\n", 2, "no number"),
        ("step;kwh\n7;1.0000000001\n", 2, "no number"),
        ("step;kwh\n7;\u0661\n", 2, "no number"),
        ("step;kwh\n7;1e3\n", 2, "no number"),
    ],
)
def test_what_is_odd_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(Rejected, match=words) as refused:
        read_losses(text, STEP_S)
    assert refused.value.reason is Reason.MALFORMED
    assert f"line {line}:" in refused.value.detail


def test_a_weight_given_twice_is_refused() -> None:
    with pytest.raises(Rejected, match="second weight of ada"):
        read_coefficients("step;member;weight\n7;ada;1\n7;ada;1\n", STEP_S)
    with pytest.raises(Rejected, match="is no name"):
        read_coefficients("step;member;weight\n7;Ada;1\n", STEP_S)
