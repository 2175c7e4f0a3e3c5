"""Which readings of a meter are believed."""

from dataclasses import replace

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
