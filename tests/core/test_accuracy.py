"""What was counted against a second source: rows from signed readings, and from nothing else."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.accuracy import (
    Comparison,
    Pair,
    Total,
    compare,
    compare_verdicts,
    known_of,
    pair_of,
    percent,
    relative_ppm,
    total,
)
from cryptometer.authority_records import MeterDetails
from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason
from cryptometer.metrology import Side
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import step_start_ms
from tests.core.community import DETAILS, FIRST_STEP, PULSE_UWH, STEP_S, Authority, Device
from tests.core.strategies import examples
from tests.keys import signer

WH = 10**6


class Bench:
    """A meter, its registrations and what its board signs."""

    def __init__(self, details: MeterDetails = DETAILS) -> None:
        self.authority = Authority(signer(1))
        self.registered: list[Record] = []
        self.register(details)
        self.device = Device(self.authority.genesis.identity, "m0", signer(10), self.registered[0])
        self.told: list[Record] = [self.device.run_start(FIRST_STEP)]

    def register(self, details: MeterDetails) -> Record:
        record = self.authority.register(Role.METER, "m0", signer(10).public, details, FIRST_STEP)
        self.registered.append(record)
        return record

    def say(self, step: int, index: int, counted: int, **changes: Any) -> None:
        """A compared reading of a step, behind so many pulses in all."""
        said = {"counting": False, "unit_uwh": WH, "counted": counted, "register": counted}
        self.told.append(self.device.reading(FIRST_STEP + step, index, **said | changes))

    @property
    def rows(self) -> list[Comparison]:
        pairs = [pair for pair in map(pair_of, self.told) if pair is not None]
        return compare(pairs, known_of(self.registered))


def test_the_difference_is_that_of_the_two_ways_of_measuring() -> None:
    bench = Bench()
    bench.say(0, 5_000_000, 100)
    bench.say(1, 5_000_100, 1_090)
    [row] = bench.rows
    assert (row.counted_uwh, row.index_uwh) == (990 * PULSE_UWH, 100 * WH)
    assert (row.difference_uwh, row.difference_ppm) == (-1 * WH, -10_000)
    assert percent(row.difference_ppm) == "-1.0000 %"
    assert row.bound_uwh == WH + PULSE_UWH
    assert row.mpe_ppm == 20_000
    assert row.is_within
    assert row == Comparison(
        meter="m0",
        step=FIRST_STEP + 1,
        since_step=FIRST_STEP,
        since_ms=step_start_ms(FIRST_STEP + 1, STEP_S) - 1_000,
        at_ms=step_start_ms(FIRST_STEP + 2, STEP_S) - 1_000,
        source="test",
        counted_uwh=990 * PULSE_UWH,
        index_uwh=100 * WH,
        bound_uwh=WH + PULSE_UWH,
        mpe_ppm=20_000,
    )


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (0, "+0.0000 %"),
        (1, "+0.0001 %"),
        (-1, "-0.0001 %"),
        (1_234_567, "+123.4567 %"),
        (None, "-"),
    ],
)
def test_a_difference_is_told_with_its_sign_and_four_decimals(ppm: int | None, text: str) -> None:
    assert percent(ppm) == text


@pytest.mark.parametrize(
    ("difference_uwh", "of_uwh", "ppm"),
    [(2, 3, 666_666), (-2, 3, -666_666), (0, 3, 0), (1, WH, 1), (-1, 2 * WH, 0), (5, 0, None)],
)
def test_a_difference_in_millionths_is_cut_towards_nothing(
    difference_uwh: int, of_uwh: int, ppm: int | None
) -> None:
    assert relative_ppm(difference_uwh, of_uwh) == ppm


def test_a_total_has_the_last_digits_of_each_run_once() -> None:
    """Two comparisons that follow on one another; behind a gap one that is outside."""
    bench = Bench()
    for step, index, counted in ((0, 0, 0), (1, 100, 990), (2, 200, 2_000)):
        bench.say(step, index, counted)
    bench.say(3, 300, 3_000, source="other")
    bench.say(4, 400, 4_000)
    bench.say(5, 500, 7_000)
    rows = bench.rows
    assert [row.since_step - FIRST_STEP for row in rows] == [0, 1, 4]
    assert total(rows) == Total(
        comparisons=3,
        outside=1,
        counted_uwh=5_000 * PULSE_UWH,
        index_uwh=300 * WH,
        bound_uwh=2 * (WH + PULSE_UWH),
        allowed_uwh=3 * 2 * WH,
    )
    assert total([]) == Total(0, 0, 0, 0, 0, 0)


def test_what_the_ledger_set_aside_is_not_compared() -> None:
    bench = Bench()
    for step in range(4):
        bench.say(step, 100 * step, 1_000 * step)
    leaves = [*bench.registered, *bench.told]
    odd = bench.told[2]

    def verdicts(aside: Record | None) -> list[Verdict]:
        return [Verdict(one, Reason.TOO_LATE if one is aside else None, 0) for one in leaves]

    assert compare_verdicts(verdicts(None)) == bench.rows
    since = [row.since_step - FIRST_STEP for row in compare_verdicts(verdicts(odd))]
    assert since == [0, 2]
    assert compare_verdicts(verdicts(bench.registered[0])) == []


def test_beyond_class_and_last_digits_it_is_not_within() -> None:
    bench = Bench()
    bench.say(0, 0, 0)
    for step, counted in ((1, 969), (2, 2 * 969)):
        bench.say(step, 100 * step, counted)
    assert [row.is_within for row in bench.rows] == [True, True]  # a watt-hour is the last digit
    bench.say(3, 100_000, 970_000)
    assert not bench.rows[-1].is_within
    assert total(bench.rows).outside == 1


def test_an_index_that_has_not_grown_has_no_percentage() -> None:
    bench = Bench()
    bench.say(0, 7, 3)
    bench.say(1, 7, 5)
    [row] = bench.rows
    assert row.difference_ppm is None
    assert percent(row.difference_ppm) == "-"
    assert row.is_within


def test_the_last_digit_may_change_its_worth() -> None:
    bench = Bench()
    bench.say(0, 5_000, 0, unit_uwh=WH)
    bench.say(1, 5_100_000, 1_000, unit_uwh=WH // 1_000)
    [row] = bench.rows
    assert row.difference_uwh == 0
    assert row.bound_uwh == WH + PULSE_UWH


@pytest.mark.parametrize(
    "later",
    [
        {"source": "other"},
        {"index": 0},
        {"counted": 50, "register": 50},
        {"unit_uwh": None},
        {"counted": None, "register": 1_000},
        {"counted": 1_000, "register": 999},
        {"registration": bytes(32)},
        {"counting": True, "index": 10_000_000},
    ],
    ids=" ".join,
)
def test_what_is_not_one_measurement_is_not_compared(later: dict[str, Any]) -> None:
    bench = Bench()
    bench.say(0, 5_000_000, 100)
    bench.say(1, **{"index": 5_000_100, "counted": 1_100} | later)
    assert bench.rows == []


@pytest.mark.parametrize(
    ("change", "is_compared"),
    [
        ({}, True),
        ({"voltage_mv": 231_000}, True),
        ({"serial": "MID-0002"}, False),
        ({"constant": Fraction(1_000)}, False),
        ({"constant_side": Side.SECONDARY, "ratio": Fraction(2)}, False),
        ({"constant_side": Side.SECONDARY}, True),
    ],
    ids=str,
)
def test_a_new_registration_breaks_it_only_where_the_measure_changes(
    change: dict[str, Any], is_compared: bool
) -> None:
    bench = Bench()
    bench.say(0, 5_000_000, 100)
    newer = bench.register(replace(DETAILS, **change))
    bench.say(1, 5_000_100, 1_100, registration=newer.identity)
    assert bool(bench.rows) == is_compared


@pytest.mark.parametrize(("at", "is_compared"), [(1, True), (2, False), (3, True)])
def test_a_re_anchor_between_the_two_breaks_it(at: int, is_compared: bool) -> None:
    bench = Bench()
    bench.say(0, 5_000_000, 100)
    bench.say(1, 5_000_100, 1_100)
    bench.registered.append(bench.authority.re_anchor("m0", at, 0))
    bench.registered.append(bench.authority.re_anchor("m1", 2, 0))
    assert bool(bench.rows) == is_compared


def test_a_secondary_constant_is_taken_to_the_primary_side() -> None:
    bench = Bench(replace(DETAILS, constant_side=Side.SECONDARY, ratio=Fraction(50)))
    bench.say(0, 0, 0, unit_uwh=50 * WH)
    bench.say(1, 100, 1_000, unit_uwh=50 * WH)
    [row] = bench.rows
    assert row.difference_uwh == 0
    assert row.counted_uwh == 5_000 * WH
    assert row.bound_uwh == 50 * WH + 50 * PULSE_UWH


def test_a_pulse_of_no_whole_worth_is_bounded_by_the_next_whole_one() -> None:
    bench = Bench(replace(DETAILS, constant=Fraction(3_000)))
    bench.say(0, 0, 0)
    bench.say(1, 1, 3)
    [row] = bench.rows
    assert (row.bound_uwh, type(row.bound_uwh)) == (WH + 333_334, int)


def pair(sequence: int, uwh: int, counted: int, registration: bytes) -> Pair:
    step = FIRST_STEP + sequence
    return Pair("m0", sequence, step, step * 900_000, "x", registration, uwh // WH, WH, counted)


@examples(200)
@given(grown=st.lists(st.integers(0, 10**6), min_size=1, max_size=50), start=st.integers(0, WH))
def test_what_counts_every_pulse_is_within_its_last_digits_and_sums_do_not_drift(
    grown: list[int], start: int
) -> None:
    authority = Authority(signer(1))
    record = authority.register(Role.METER, "m0", signer(10).public, DETAILS, FIRST_STEP)
    uwh, pairs = start, []
    for sequence, pulses in enumerate([0, *grown], 1):
        uwh += pulses * PULSE_UWH
        pairs.append(pair(sequence, uwh, uwh // PULSE_UWH, record.identity))
    rows = compare(reversed(pairs), known_of([record]))
    assert len(rows) == len(grown)
    assert all(abs(row.difference_uwh) <= row.bound_uwh and row.is_within for row in rows)
    whole = total(rows)
    assert whole.counted_uwh == sum(grown) * PULSE_UWH
    assert abs(whole.difference_uwh) <= whole.bound_uwh == WH + PULSE_UWH
    assert whole.is_within
