"""From watts to pulse times: exact to the last pulse, and what is wrong is said with its line."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from firmware.series import Level, duration_ns, pulse_count, pulse_times, read_series
from tests.core.strategies import examples

MINUTE_NS = 60 * NS_PER_S
KWH_WATT_NS = 1000 * 3600 * NS_PER_S

POWERS = st.fractions(min_value=0, max_value=10_000, max_denominator=10_000)
CONSTANTS = st.fractions(min_value=Fraction(1, 10), max_value=10_000, max_denominator=1_000)


@st.composite
def levels_of_power(draw: st.DrawFn) -> list[Level]:
    """Levels in order, some with a gap behind them."""
    levels, at_ns = [], 0
    for _ in range(draw(st.integers(1, 6))):
        duration = draw(st.integers(1, 5 * NS_PER_S))
        levels.append(Level(at_ns, duration, draw(POWERS)))
        at_ns += duration + draw(st.sampled_from([0, 0, NS_PER_S]))
    return levels


def levels(text: str, column: str | None = None) -> list[Level]:
    return read_series(text.splitlines(keepends=True), column)


def refusal(text: str, column: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as refused:
        levels(text, column)
    return str(refused.value)


# --- Pulses. -------------------------------------------------------------------------------------


@examples(100)
@given(levels_of_power(), CONSTANTS)
def test_the_pulses_of_a_series_are_its_whole_energy_times_the_constant(
    series: list[Level], constant: Fraction
) -> None:
    energy = sum(one.watts * (one.duration_ns or 0) for one in series)
    times = list(pulse_times(series, constant))
    assert len(times) == energy * constant // KWH_WATT_NS == pulse_count(series, constant)


@examples(100)
@given(levels_of_power(), CONSTANTS)
def test_each_pulse_comes_at_the_first_nanosecond_that_completes_its_energy(
    series: list[Level], constant: Fraction
) -> None:
    def energy(at_ns: int) -> Fraction:
        """In pulses, from the beginning to `at_ns`."""
        spans = (
            (one.watts, min(max(at_ns - one.start_ns, 0), one.duration_ns or 0)) for one in series
        )
        return sum((watts * span for watts, span in spans), Fraction(0)) * constant / KWH_WATT_NS

    for number, at_ns in enumerate(pulse_times(series, constant), 1):
        assert energy(at_ns) >= number > energy(at_ns - 1)


@examples(100)
@given(levels_of_power(), CONSTANTS, st.data())
def test_a_level_cut_in_two_gives_the_same_pulses(
    series: list[Level], constant: Fraction, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(series) - 1))
    one = series[place]
    assert one.duration_ns is not None
    first = data.draw(st.integers(0, one.duration_ns))
    halves = [
        Level(one.start_ns, first, one.watts),
        Level(one.start_ns + first, one.duration_ns - first, one.watts),
    ]
    cut = [*series[:place], *halves, *series[place + 1 :]]
    assert list(pulse_times(cut, constant)) == list(pulse_times(series, constant))


def test_a_kilowatt_at_a_thousand_per_kwh_pulses_every_3600_milliseconds() -> None:
    times = pulse_times([Level(0, None, Fraction(1000))], Fraction(1000))
    assert [next(times) for _ in range(3)] == [3_600_000_000, 7_200_000_000, 10_800_000_000]


def test_a_third_of_a_nanosecond_is_rounded_up_and_never_adds_up() -> None:
    times = pulse_times([Level(0, None, Fraction(3_600_000))], Fraction(3 * NS_PER_S))
    assert [next(times) for _ in range(7)] == [1, 1, 1, 2, 2, 2, 3]


def test_the_rest_of_a_row_counts_towards_the_next_rows_first_pulse() -> None:
    # Half a pulse, nothing for a minute, half a pulse.
    half = Level(0, MINUTE_NS, Fraction(30))
    series = [
        half,
        Level(MINUTE_NS, MINUTE_NS, Fraction(0)),
        Level(2 * MINUTE_NS, MINUTE_NS, half.watts),
    ]
    assert list(pulse_times(series, Fraction(1000))) == [3 * MINUTE_NS]
    assert list(pulse_times(series[:2], Fraction(1000))) == []


def test_a_power_of_zero_gives_no_pulse_even_for_ever() -> None:
    assert list(pulse_times([Level(0, None, Fraction(0))], Fraction(1000))) == []


# --- Reading. ------------------------------------------------------------------------------------


def test_a_row_holds_until_the_next_and_the_last_one_for_the_usual_distance() -> None:
    series = levels(
        "utc,power_w\n2017-10-06T22:00:00Z,155.88\n2017-10-06T22:01:00Z,0\n2017-10-06T22:02:00Z,7\n"
    )
    assert series == [
        Level(0, MINUTE_NS, Fraction("155.88")),
        Level(MINUTE_NS, MINUTE_NS, Fraction(0)),
        Level(2 * MINUTE_NS, MINUTE_NS, Fraction(7)),
    ]
    assert duration_ns(series) == 3 * MINUTE_NS


def test_nothing_flows_in_a_gap_of_the_clock() -> None:
    series = levels("0,10\n60,10\n120,10\n600,10\n660,10\n")
    assert [(one.start_ns // NS_PER_S, one.duration_ns) for one in series] == [
        (at_s, MINUTE_NS) for at_s in (0, 60, 120, 600, 660)
    ]


def test_a_row_that_comes_early_ends_the_one_before_it() -> None:
    series = levels("0,10\n60,20\n90,30\n150,40\n")
    assert [one.duration_ns for one in series] == [
        MINUTE_NS,
        MINUTE_NS // 2,
        MINUTE_NS,
        MINUTE_NS,
    ]


def test_an_empty_cell_is_a_gap_and_a_negative_power_moves_nothing() -> None:
    series = levels("t,w\n0,\n60,-2.7098\n120,5\n")
    assert [one.watts for one in series] == [0, 0, 5]


def test_a_column_is_chosen_by_its_name() -> None:
    text = "utc,house,pv_w\n2016-07-03T22:00:00Z,1,2\n2016-07-03T23:00:00Z,3,4\n"
    assert [one.watts for one in levels(text, "pv_w")] == [2, 4]
    assert [one.watts for one in levels(text, "house")] == [1, 3]
    assert "--column (house, pv_w)" in refusal(text)
    assert "no column 'pv'" in refusal(text, "pv")
    assert "house, pv_w" in refusal(text, "utc")


def test_a_column_named_twice_is_not_chosen() -> None:
    assert "more than one column 'w'" in refusal("t,w,w\n0,1,2\n1,1,2\n", "w")


def test_columns_without_names_are_chosen_by_number() -> None:
    assert [one.watts for one in levels("0,1,2\n60,3,4\n", "3")] == [2, 4]
    assert [one.watts for one in levels("0,1\n60,3\n")] == [1, 3]


@pytest.mark.parametrize(
    "text",
    [
        "t;w\n0;1,5\n60;2,5\n",
        "0;1,5\n60;2,5\n",
        "t\tw\n0\t1,5\n60\t2.5\n",
        't,w\n"0","1.5"\n60, 2.5\n',
        "\ufefft,w\r\n0,1.5\r\n\r\n60,+2.5e0\r\n",
    ],
)
def test_separators_decimal_commas_and_marks_of_spreadsheets_are_read(text: str) -> None:
    assert [one.watts for one in levels(text)] == [Fraction(3, 2), Fraction(5, 2)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2022-03-18 04:33:00-07:00", "2022-03-18 04:34:00-07:00"),
        ("2022-03-18T11:33:00Z", "2022-03-18 04:34:00-07:00"),
        ("2022-03-18 04:33:00", "2022-03-18 04:34:00"),
        ("2022-03-18T04:33", "2022-03-18T04:34"),
        ("1647603180", "1647603240.0"),
        ("1.5", "61.5"),
        # The hour that comes twice when clocks are put back.
        ("2022-10-30T02:59:00+02:00", "2022-10-30T02:00:00+01:00"),
    ],
)
def test_a_minute_is_a_minute_in_every_notation(first: str, second: str) -> None:
    assert levels(f"{first},1\n{second},2\n")[1].start_ns == MINUTE_NS


def test_parts_of_a_second_are_kept() -> None:
    assert levels("0.000000001,1\n0.5,1\n")[1].start_ns == NS_PER_S // 2 - 1
    text = "2022-03-18T00:00:00.000001Z,1\n2022-03-18T00:00:00.25Z,1\n"
    assert levels(text)[1].start_ns == 249_999_000


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("t,w\n0,1\n60,x\n", "line 3", "write watts"),
        ("t,w\n0,1\n60,nan\n", "line 3", "'nan' is no power"),
        ("t,w\n0,1\n60,inf\n", "line 3", "'inf' is no power"),
        ("t,w\n0,1\n60,1e999999\n", "line 3", "'1e999999' is no power"),
        ("t,w\n0,1\n60,1e-999999\n", "line 3", "'1e-999999' is no power"),
        ("t,w\n0,1\n\n60,1;5\n", "line 4", "write watts"),
        ("t,w\n0,1\nyesterday,1\n", "line 3", "'yesterday' is no time"),
        ("t,w\n2022-02-30T00:00Z,1\n1,1\n", "line 2", "2026-03-29T01:00:00Z"),
        ("t,w\n60,1\n0,1\n", "line 3", "sort the rows"),
        ("t,w\n60,1\n60,1\n", "line 3", "sort the rows"),
        ("t,w\n2022-01-01T00:00Z,1\n2022-01-01T00:01,1\n", "line 3", "a zone, or none"),
        ("t,w\n2022-01-01T00:00,1\n2022-01-01T00:01Z,1\n", "line 3", "a zone, or none"),
        ("t,w\n0,1\n60,1,5\n", "line 3", "has 3 cells, not 2"),
        ("t,w\n0,1\n60\n", "line 3", "has 1 cells, not 2"),
        ('t,w\n0,1\n60,"1\n', "line 3", "is no CSV"),
        ("t,w\n0,1\n60," + "1" * 70_000 + "\n", "line 3", "too long"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line_and_what_to_do(
    text: str, line: str, advice: str
) -> None:
    message = refusal(text)
    assert f"{line} of the series" in message
    assert advice in message


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_series_is_refused(text: str) -> None:
    assert "is empty" in refusal(text)


@pytest.mark.parametrize("text", ["t,w\n", "t,w\n0,1\n", "0,1\n"])
def test_a_series_without_a_distance_is_refused(text: str) -> None:
    assert "two rows at least" in refusal(text)


def test_a_series_without_a_power_is_refused() -> None:
    assert "one column only" in refusal("utc\n0\n60\n")


@examples(100)
@given(st.lists(st.text(alphabet='0123456789.,;-+TZ:e"\tnaif \n', max_size=30), max_size=6))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        series = read_series(lines)
    except ConfigurationError:
        return
    assert all(one.watts >= 0 and one.duration_ns for one in series)
    starts = [one.start_ns for one in series]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
