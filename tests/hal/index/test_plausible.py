"""Which readings of a meter are believed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.plausible import Before, Limits, Plausible
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register

LIMITS = Limits("7", Register.EXPORT, power_w=36_000)  # 10 Wh a second


def reading(wh: int, second: float, *, weak: bool = False, identity: str = "7") -> Reading:
    began_ns = int(second * NS_PER_S)
    caveats = frozenset({Caveat.WEAK_CHECK} if weak else ())
    return Reading(identity, None, Index(wh), began_ns, began_ns, caveats=caveats)


def reasons(outcome: list[Reading | Refusal]) -> list[Refused]:
    return [one.reason for one in outcome if isinstance(one, Refusal)]


def test_an_index_that_goes_back_is_refused_until_it_returns() -> None:
    gate = Plausible(LIMITS)
    assert gate.judge(reading(100, 0)) == [reading(100, 0)]
    assert reasons(gate.judge(reading(99, 1))) == [Refused.WENT_BACK]
    assert reasons(gate.judge(reading(0, 2))) == [Refused.WENT_BACK]
    assert gate.judge(reading(100, 3)) == [reading(100, 3)]


def test_an_index_grows_as_fast_as_the_greatest_power_and_no_faster() -> None:
    gate = Plausible(LIMITS)
    gate.judge(reading(100, 0))
    assert reasons(gate.judge(reading(123, 2))) == [Refused.TOO_FAST]
    assert gate.judge(reading(122, 2)) == [reading(122, 2)]


def test_a_meter_that_renews_its_index_rarely_is_believed() -> None:
    gate = Plausible(LIMITS)
    for second in range(900):
        gate.judge(reading(100, second))
    assert gate.judge(reading(9_000, 900)) == [reading(9_000, 900)]


def test_an_index_of_an_earlier_run_is_where_this_one_begins() -> None:
    gate = Plausible(LIMITS, Before(Index(100), 0))
    assert reasons(gate.judge(reading(99, 1))) == [Refused.WENT_BACK]
    assert reasons(gate.judge(reading(10_000, 1))) == [Refused.TOO_FAST]


def test_another_meter_and_one_without_a_name_are_refused() -> None:
    gate = Plausible(LIMITS)
    assert reasons(gate.judge(reading(1, 0, identity="8"))) == [Refused.OTHER_METER]
    assert reasons(gate.judge(reading(1, 0, identity=""))) == [Refused.NO_IDENTITY]
    imported = replace(reading(1, 0), imported=Index(5), exported=None)
    assert reasons(gate.judge(imported)) == [Refused.NO_INDEX]


def test_the_first_reading_that_counts_says_which_meter_it_is() -> None:
    gate = Plausible(replace(LIMITS, identity=""))
    assert gate.judge(reading(1, 0)) == [reading(1, 0)]
    assert reasons(gate.judge(reading(1, 1, identity="8"))) == [Refused.OTHER_METER]


def test_a_weak_reading_counts_once_the_next_one_agrees() -> None:
    gate = Plausible(LIMITS)
    assert gate.judge(reading(100, 0, weak=True)) == []
    assert gate.judge(reading(101, 1, weak=True)) == [reading(100, 0, weak=True)]
    assert gate.judge(reading(102, 2, weak=True)) == [reading(101, 1, weak=True)]


def test_a_weak_reading_that_the_next_one_contradicts_never_counts() -> None:
    gate = Plausible(LIMITS)
    gate.judge(reading(100, 0, weak=True))
    gate.judge(reading(101, 1, weak=True))
    gate.judge(reading(109, 2, weak=True))  # damaged; it believes the 101 before it
    assert reasons(gate.judge(reading(103, 3, weak=True))) == [Refused.UNCONFIRMED]
    assert gate.judge(reading(104, 4, weak=True)) == [reading(103, 3, weak=True)]


def test_a_weak_reading_lies_on_the_way_between_its_neighbours() -> None:
    """176, read as 167: it grew by less than the meter can give, each time."""
    gate = Plausible(LIMITS)
    gate.judge(reading(165, 0, weak=True))
    gate.judge(reading(167, 2, weak=True))
    assert reasons(gate.judge(reading(185, 4, weak=True))) == [Refused.UNCONFIRMED]
    gate.judge(reading(195, 6, weak=True))
    assert gate.judge(reading(205, 8, weak=True)) == [reading(195, 6, weak=True)]


def test_after_a_long_silence_weak_readings_count_again() -> None:
    gate = Plausible(LIMITS)
    for second in (0, 1, 2):
        gate.judge(reading(100, second, weak=True))
    for second in range(4):
        gate.judge(reading(200 + 10 * second, 10_000 + second, weak=True))
    believed = gate.judge(reading(240, 10_004, weak=True))
    assert believed == [reading(230, 10_003, weak=True)]


def test_a_weak_reading_does_not_say_alone_which_meter_it_is() -> None:
    gate = Plausible(replace(LIMITS, identity=""))
    gate.judge(reading(100, 0, weak=True, identity="8"))
    assert reasons(gate.judge(reading(101, 1, weak=True))) == [Refused.UNCONFIRMED]
    assert gate.judge(reading(102, 2, weak=True)) == [reading(101, 1, weak=True)]


def test_units_of_different_size_compare_by_their_energy() -> None:
    gate = Plausible(LIMITS)
    gate.judge(replace(reading(0, 0), exported=Index(1_000, -1)))
    assert reasons(gate.judge(replace(reading(0, 1), exported=Index(99)))) == [Refused.WENT_BACK]
    assert gate.judge(reading(100, 2)) == [reading(100, 2)]


# --- The first index. -----------------------------------------------------------------------------

REGISTERED = Before(Index(5_000), 0)


def test_a_first_index_follows_what_was_registered() -> None:
    gate = Plausible(LIMITS, registered=REGISTERED)
    assert reasons(gate.judge(reading(0, 1))) == [Refused.BELOW_REGISTERED]
    assert reasons(gate.judge(reading(4_999, 2))) == [Refused.BELOW_REGISTERED]
    assert reasons(gate.judge(reading(5_033, 3))) == [Refused.ABOVE_REGISTERED]
    assert gate.judge(reading(5_042, 4)) == [reading(5_042, 4)]
    assert reasons(gate.judge(reading(5_041, 5))) == [Refused.WENT_BACK]


def test_a_weak_first_index_follows_it_too_and_needs_the_next_one() -> None:
    gate = Plausible(LIMITS, registered=REGISTERED)
    assert reasons(gate.judge(reading(0, 1, weak=True))) == [Refused.BELOW_REGISTERED]
    assert reasons(gate.judge(reading(0, 2, weak=True))) == [Refused.BELOW_REGISTERED]
    assert gate.judge(reading(5_010, 3, weak=True)) == []
    assert gate.judge(reading(5_011, 4, weak=True)) == [reading(5_010, 3, weak=True)]


def test_a_message_that_cuts_off_what_the_display_has_is_believed() -> None:
    gate = Plausible(LIMITS, registered=Before(Index(5_900), 0))
    lower, same = (replace(reading(0, 1), exported=Index(kwh, 3)) for kwh in (4, 5))
    assert reasons(gate.judge(lower)) == [Refused.BELOW_REGISTERED]
    assert gate.judge(same) == [same]


def test_an_index_that_goes_on_from_what_was_believed_before_needs_no_registration() -> None:
    former = Plausible(LIMITS)
    former.judge(reading(100, 0))
    gate = Plausible(LIMITS, registered=REGISTERED, former=former)
    assert reasons(gate.judge(reading(99, 1))) == [Refused.BELOW_REGISTERED]
    assert gate.judge(reading(101, 1)) == [reading(101, 1)]


@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(0, 2**41), st.integers(0, 10**6), st.booleans()), max_size=12),
)
def test_no_first_index_is_believed_that_the_meter_cannot_show(
    shown_wh: int, said: list[tuple[int, int, bool]]
) -> None:
    gate = Plausible(LIMITS, registered=Before(Index(shown_wh), 0))
    second = 0
    for wh, passed_s, weak in said:
        second += passed_s
        for one in gate.judge(reading(wh, second, weak=weak)):
            if isinstance(one, Reading):
                grown_wh = (one.exported or Index(0)).value - shown_wh
                assert 0 <= grown_wh <= 10 * second + 2


# --- What is said of a reading that is not believed, and when. -----------------------------------

SOFT = replace(LIMITS, identity="", power_w=1)  # 277.8 µWh a second


@pytest.mark.parametrize(
    ("limits", "before", "judged", "refusal"),
    [
        (
            LIMITS,
            [],
            reading(1, 5, identity=""),
            (Refused.NO_IDENTITY, "the message names no meter"),
        ),
        (
            LIMITS,
            [],
            reading(1, 5, identity="8"),
            (Refused.OTHER_METER, "a message of meter 8, not of 7"),
        ),
        (
            replace(LIMITS, register=Register.IMPORT),
            [],
            reading(1, 5),
            (Refused.NO_INDEX, "the message has no import register"),
        ),
        (
            LIMITS,
            [reading(100, 4)],
            reading(98, 5),
            (Refused.WENT_BACK, "is 2.0 Wh less than what was read before"),
        ),
        (
            SOFT,
            [reading(100, 1_004)],
            reading(103, 1_005),
            (
                Refused.TOO_FAST,
                "is 3.0 Wh more than what was read 1.0 s before: 1 W give 0.000277 Wh",
            ),
        ),
        (
            SOFT,
            [reading(100, 4, weak=True)],
            reading(100, 5, weak=True, identity="8"),
            (Refused.UNCONFIRMED, "the next reading is of meter 8"),
        ),
        (
            LIMITS,
            [reading(100, 4, weak=True)],
            reading(98, 5, weak=True),
            (
                Refused.UNCONFIRMED,
                "the next reading is 2.0 Wh less than what was read before",
            ),
        ),
        (
            LIMITS,
            [reading(100, 1_002, weak=True), reading(110, 1_003, weak=True)],
            reading(110, 1_005, weak=True),
            (Refused.UNCONFIRMED, "6.666667 Wh off the way between its neighbours"),
        ),
    ],
)
def test_a_refusal_tells_what_is_wrong_and_when(
    limits: Limits, before: list[Reading], judged: Reading, refusal: tuple[Refused, str]
) -> None:
    gate = Plausible(limits)
    for one in before:
        gate.judge(one)
    assert gate.judge(judged) == [Refusal(*refusal, judged.ended_ns)]


def test_a_strong_reading_gives_up_the_weak_one_before_it() -> None:
    gate = Plausible(LIMITS)
    gate.judge(reading(100, 0, weak=True))
    given_up = Refusal(Refused.UNCONFIRMED, "a better one came", 0)
    assert gate.judge(reading(101, 1)) == [given_up, reading(101, 1)]
    assert gate.judge(reading(102, 2)) == [reading(102, 2)]


def test_an_index_that_was_read_twice_does_not_go_back() -> None:
    gate = Plausible(LIMITS)
    for second in range(2):
        gate.judge(reading(100, second))
    assert reasons(gate.judge(reading(99, 2))) == [Refused.WENT_BACK]


def test_the_register_of_import_is_judged_where_it_counts() -> None:
    gate = Plausible(replace(LIMITS, register=Register.IMPORT))
    both = replace(reading(5, 0), imported=Index(100))
    assert gate.judge(both) == [both]
    assert reasons(gate.judge(replace(reading(6, 1), imported=Index(99)))) == [Refused.WENT_BACK]
    assert reasons(gate.judge(reading(7, 2))) == [Refused.NO_INDEX]


def test_weak_readings_of_one_look_have_no_way_between_them() -> None:
    gate = Plausible(LIMITS)
    for wh in (100, 100):
        gate.judge(reading(wh, 1, weak=True))
    assert gate.judge(reading(101, 1, weak=True)) == [reading(100, 1, weak=True)]


def test_a_weak_reading_may_be_off_the_way_by_four_digits_and_a_change_of_power() -> None:
    gate = Plausible(LIMITS)
    gate.judge(reading(100, 0, weak=True))
    # 16 Wh in all that time, of which a sixteenth; and four: 5 Wh above the middle.
    gate.judge(reading(110, 0.8, weak=True))
    assert gate.judge(reading(110, 1.6, weak=True)) == [reading(110, 0.8, weak=True)]


def test_what_can_follow_is_told_without_believing_it() -> None:
    gate = Plausible(LIMITS)
    gate.judge(reading(100, 0))
    assert gate.can_follow(reading(105, 1))
    assert not gate.can_follow(reading(99, 1))
    assert not gate.can_follow(reading(105, 1, identity="8"))
    assert gate.judge(reading(101, 1)) == [reading(101, 1)]
