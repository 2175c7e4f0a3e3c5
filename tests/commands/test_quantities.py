"""What people write is read exactly, or refused with an example of how to write it."""

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.commands.quantities import (
    duration_ms,
    energy_uwh,
    moment_ms,
    rational,
    thousandths,
)
from cryptometer.errors import ConfigurationError

WHOLE = st.integers(0, 10**12)
NANO = st.integers(1, 10**6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0ms", 0),
        ("500ms", 500),
        ("5s", 5_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("35d", 3_024_000_000),
        ("1.5h", 5_400_000),
        ("0.001s", 1),
        ("15 m", 900_000),
    ],
)
def test_durations(text: str, value: int) -> None:
    assert duration_ms(text, "x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250mWh", 250_000),
        ("500Wh", 500_000_000),
        ("1kWh", 10**9),
        ("1.5MWh", 1_500_000_000_000),
        ("0.000001Wh", 1),
    ],
)
def test_energies(text: str, value: int) -> None:
    assert energy_uwh(text, "x") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "15",
        "m",
        "-1m",
        "+1m",
        "1e3s",
        "15min",
        "15M",
        " 15m",
        "15m ",
        "1.m",
        ".5h",
        "1,5h",
        "1_000s",
        "٣m",
        "0.0001ms",
        "15m\n",
        "15  m",
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--grace is .*(15m|milliseconds)"):
        duration_ms(text, "--grace")


@pytest.mark.parametrize("text", ["1", "1wh", "1KWh", "0.0001mWh", "kWh"])
def test_what_is_no_energy_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--token is .*(1kWh|µWh)"):
        energy_uwh(text, "--token")


@given(WHOLE, NANO)
def test_a_rational_is_exact(above: int, below: int) -> None:
    text = f"{above}/{below}"
    if above == 0:
        with pytest.raises(ConfigurationError, match="positive"):
            rational(text, "x")
    else:
        assert rational(text, "x") == Fraction(above, below)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1000", Fraction(1000)),
        ("0.25", Fraction(1, 4)),
        ("2500/3", Fraction(2500, 3)),
        ("0.1/0.3", Fraction(1, 3)),
        ("007", Fraction(7)),
    ],
)
def test_rationals(text: str, value: Fraction) -> None:
    assert rational(text, "x") == value


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "1/0", "0/1", "-1", "1e3", "1/2/3", "nan", "inf", "1 / 2", "1" * 19]
)
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^x is a positive number like 1000"):
        rational(text, "x")


@given(WHOLE)
def test_thousandths_are_exact(value: int) -> None:
    assert thousandths(f"{value // 1000}.{value % 1000:03d}", "x", "A") == value


@pytest.mark.parametrize("text", ["0.0001", "1.0005"])
def test_finer_than_a_thousandth_is_refused_and_not_rounded(text: str) -> None:
    with pytest.raises(ConfigurationError, match="at most three decimals of kWh"):
        thousandths(text, "x", "kWh")


@pytest.mark.parametrize("text", ["", "-1", "1/2", "1e3", "a", "1.", "1\n"])
def test_what_is_no_decimal_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="decimal number of kWh"):
        thousandths(text, "x", "kWh")


def test_zeros_behind_the_third_decimal_say_nothing_new() -> None:
    assert thousandths("0.25000", "x", "A") == 250


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)),  # noqa: DTZ001 - the zone is added
    st.integers(-14 * 60, 14 * 60),
)
def test_a_moment_is_the_same_whatever_its_offset(naive: datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert moment_ms(moment.isoformat(), "x", 0) == expected


def test_moments() -> None:
    assert moment_ms("now", "x", 123) == 123
    assert moment_ms("1970-01-01T00:00:00Z", "x", 5) == 0
    assert moment_ms("2026-01-31T13:00:00.5+01:00", "x", 5) == 1_769_860_800_500


@pytest.mark.parametrize(
    "text", ["", "later", "2026-01-31", "2026-01-31T12:00:00", "31.01.2026", "1769860800"]
)
def test_a_moment_without_its_offset_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a time with its offset, like"):
        moment_ms(text, "x", 0)


def test_a_moment_before_1970_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="before 1970"):
        moment_ms("1969-12-31T23:59:59.999Z", "x", 0)
