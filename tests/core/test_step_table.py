"""Coefficients and losses as somebody writes them: every digit counts, and what is odd is named."""

import pytest

from cryptometer.errors import Reason, Rejected
from cryptometer.record_fields import STEP
from cryptometer.step_table import read_coefficients, read_losses, step_named
from tests.core.refusing import refusing

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


def test_a_step_is_named_by_its_number_or_the_moment_it_begins() -> None:
    assert [step_named(text, STEP_S) for text in ("1983712", "2026-07-29T18:00+02:00")] == [
        1983712,
        1983712,
    ]
    with pytest.raises(Rejected, match="neither a step nor a moment"):
        step_named("yesterday", STEP_S)


def test_what_stands_around_and_between_the_values_does_not_matter() -> None:
    expected = {7: 1_500_000_000, 9: 2_000_000_001}
    for text in (
        "step;kwh\n7;1.5\n9;2.000000001",
        "\n\nstep;kwh\n7;1,5\n9;2,000000001\n",
        "\ufeffstep , kwh \n\n 7 , 1.5\n\n9,  2.000000001 \n",
        'step,kwh\n7,"1,5"\n"9","2,000000001"\n',
    ):
        assert read_losses(text, STEP_S) == expected, text


def test_steps_go_from_the_first_to_the_last_there_can_be() -> None:
    high = STEP.high
    assert read_losses(f"step;kwh\n0;999999999.999999999\n{high};0\n", STEP_S) == {
        0: 10**18 - 1,
        high: 0,
    }
    assert read_losses("step;kwh\n1970-01-01T00:00:00Z;1\n", STEP_S) == {0: 10**9}
    assert read_losses("step;kwh\n1970-01-01T02:15:00+02:00;1\n", STEP_S) == {1: 10**9}
    assert read_losses("step;kwh\n0000000000007;1\n", STEP_S) == {7: 10**9}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (str(STEP.high + 1), f"no step of 900 s begins at {STEP.high + 1}"),
        ("00000000000007", "'00000000000007' is neither"),
        ("-1", "'-1' is neither"),
        ("\u0667", "is neither"),
        ("1970-01-01T00:00:00.5Z", "no step of 900 s begins at 1970-01-01T00:00:00.5Z"),
        ("1970-01-01T00:00:01Z", "no step of 900 s begins"),
        ("1969-12-31T23:45:00Z", "no step of 900 s begins"),
        ("0001-01-01T00:00:00+02:00", "no step of 900 s begins"),
    ],
)
def test_what_is_no_step_is_refused(step: str, words: str) -> None:
    for kind, text in (
        (read_losses, f"step;kwh\n7;1\n{step};1\n"),
        (read_coefficients, f"step;member;weight\n7;ada;1\n{step};ada;1\n"),
    ):
        with refusing(Reason.MALFORMED, "line 3: ", words):
            kind(text, STEP_S)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("7;;Bo;1", "'Bo' is no name"),
        ("7;Roof;bo;1", "'Roof' is no name"),
        ("7;roof;bo;", "'' is no number"),
        ("7;roof;bo;1234567890", "'1234567890' is no number with up to 9 digits"),
        ("7;roof;ada;2", "a second weight of ada in step 7"),
        ("7;roof;ada", "3 values for 4 columns"),
    ],
)
def test_a_row_of_weights_that_is_wrong_is_named(row: str, words: str) -> None:
    text = f"step;producer;member;weight\n7;roof;ada;1\n7;;ada;1\n8;roof;ada;1\n{row}\n"
    with refusing(Reason.MALFORMED, "line 5: ", words):
        read_coefficients(text, STEP_S)


def test_a_value_longer_than_any_table_s_is_refused_as_all_else() -> None:
    for text, line in (("9" * 200_000, 1), ("step;kwh\n7;" + "1" * 200_000, 2)):
        with refusing(Reason.MALFORMED, f"line {line}: a value is too long"):
            read_losses(text, STEP_S)


def test_other_columns_are_refused_with_those_that_are_wanted() -> None:
    with refusing(Reason.MALFORMED, "line 2: ", "step,member,weight or step,producer,member,wei"):
        read_coefficients("\nstep,weight,member\n7,1,ada\n", STEP_S)
    with refusing(Reason.MALFORMED, "line 1: ", "columns: step;kwh"):
        read_losses("kwh;step\n", STEP_S)
    with refusing(Reason.MALFORMED, "line 1: the file is empty"):
        read_losses("\n\n", STEP_S)


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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_is_named_as_an_editor_counts_it(end: str) -> None:
    """A value in quotes goes on over lines, and a sign that is none in a file is no line's end."""
    lines = ["step;member;weight", '7;ada;"1', '"', "", "8;ada;1", "9;Bo;1"]
    with refusing(Reason.MALFORMED, "line 6: ", "'Bo' is no name"):
        read_coefficients(end.join(lines), STEP_S)
    lines[5] = '9;"B\u2028o";1'
    with refusing(Reason.MALFORMED, "line 6: ", "is no name"):
        read_coefficients(end.join(lines), STEP_S)
    lines[1:] = ['7;ada;"1', '0"', ""]
    with refusing(Reason.MALFORMED, "line 2: ", "is no number"):
        read_coefficients(end.join(lines), STEP_S)
    lines[1:] = ['7;"A', 'da";1']
    with refusing(Reason.MALFORMED, "line 2: ", "'A\\nda' is no name"):
        read_coefficients(end.join(lines), STEP_S)
