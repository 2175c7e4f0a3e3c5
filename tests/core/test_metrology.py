"""The bound on a lot and the energy of pulses: the table of classes, both sides, exact numbers."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cryptometer.authority_records import Use
from cryptometer.errors import ConfigurationError
from cryptometer.meter import Terms
from cryptometer.metrology import (
    MPE_AT_I_MIN,
    UWH_PER_KWH,
    Ratings,
    Side,
    kwh,
    lot_limit,
    number,
    register_uwh,
    wh,
)
from tests.core.strategies import examples
from tests.keys import signer

QUARTER_S, HALF_HOUR_S = 900, 1800
B_THREE = Ratings("B", 3, 230_000, 250, Fraction(10_000))

# MID MI-003, the project's worked table: class, phases, I_min in mA; P_min in W, P_min·MPE in W,
# bound of 15 minutes in µWh, pulses per lot at 1000 and at 10 000 pulses per kWh, the smallest
# constant, and pulses per lot of half an hour at 1000.
TABLE = [
    ("B", 3, 250, "172.5", "3.45", 862_500, 0, 8, 1160, 1),
    ("B", 1, 250, "57.5", "1.15", 287_500, 0, 2, 3479, 0),
    ("A", 3, 250, "172.5", "6.0375", 1_509_375, 1, 15, 663, 3),
    ("C", 3, 150, "103.5", "1.035", 258_750, 0, 2, 3865, 0),
    ("C", 1, 150, "34.5", "0.345", 86_250, 0, 0, 11_595, 0),
]


def rated(accuracy_class: str, phases: int, i_min_ma: int, constant: int) -> Ratings:
    return Ratings(accuracy_class, phases, 230_000, i_min_ma, Fraction(constant))


@pytest.mark.parametrize(
    ("accuracy", "phases", "i_min", "p_min", "error_w", "bound", "n_1000", "n_10000", "k", "half"),
    TABLE,
    ids=str,
)
def test_a_row_of_the_standards_table_is_computed_exactly(
    accuracy: str,
    phases: int,
    i_min: int,
    p_min: str,
    error_w: str,
    bound: int,
    n_1000: int,
    n_10000: int,
    k: int,
    half: int,
) -> None:
    coarse, fine = (rated(accuracy, phases, i_min, constant) for constant in (1_000, 10_000))
    assert fine.p_min_w == Fraction(p_min)
    assert fine.p_min_w * MPE_AT_I_MIN[accuracy] == Fraction(error_w)
    assert fine.lot_bound_uwh(QUARTER_S) == bound
    assert coarse.pulses_per_lot(QUARTER_S) == n_1000
    assert fine.pulses_per_lot(QUARTER_S) == n_10000
    assert fine.smallest_constant(QUARTER_S) == k
    assert coarse.smallest_constant(QUARTER_S) == k
    assert coarse.pulses_per_lot(HALF_HOUR_S) == half


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_the_smallest_constant_allows_a_lot_and_the_next_smaller_does_not(
    row: tuple[str, int, int, str, str, int, int, int, int, int],
) -> None:
    accuracy, phases, i_min, *_, k, _ = row
    assert rated(accuracy, phases, i_min, k).pulses_per_lot(QUARTER_S) == 1
    assert rated(accuracy, phases, i_min, k - 1).pulses_per_lot(QUARTER_S) == 0


def test_the_permitted_errors_are_those_of_the_directive_at_i_min() -> None:
    """2014/32/EU annex V table 2, first row, +5 to +30 °C: 3.5, 2 and 1 %."""
    stated = {"A": Fraction(7, 200), "B": Fraction(1, 50), "C": Fraction(1, 100)}
    assert stated == MPE_AT_I_MIN


def test_the_bound_is_an_energy_and_grows_with_the_step() -> None:
    """Read as the power it is in paper A, the bound would be 3.45 Wh whatever the step."""
    assert B_THREE.lot_bound_uwh(3600) == 3_450_000
    assert B_THREE.lot_bound_uwh(QUARTER_S) == 862_500
    assert B_THREE.lot_bound_uwh(60) == 57_500


# --- Strictness. ---------------------------------------------------------------------------------


def test_a_lot_whose_energy_equals_the_bound_is_one_pulse_too_many() -> None:
    # 862 500 µWh are 10 pulses of 86 250 µWh exactly: 10⁹ / 86 250 pulses per kWh.
    exact = replace(B_THREE, constant=Fraction(UWH_PER_KWH, 86_250))
    assert exact.pulse_uwh * 10 == exact.lot_bound_uwh(QUARTER_S)
    assert exact.pulses_per_lot(QUARTER_S) == 9


def test_a_pulse_that_equals_the_bound_is_too_coarse() -> None:
    # P_min · MPE · D = 2 · 250 V · 1 A · 2 % · 0.1 h = 1 Wh, and 1000 pulses per kWh give 1 Wh.
    ratings = Ratings("B", 2, 250_000, 1_000, Fraction(1_000))
    assert ratings.lot_bound_uwh(360) == ratings.pulse_uwh == 1_000_000
    assert ratings.pulses_per_lot(360) == 0
    assert ratings.smallest_constant(360) == 1_001
    assert replace(ratings, constant=Fraction(1_001)).pulses_per_lot(360) == 1


positive = st.integers(1, 10**6)
ratings_of_any_meter = st.builds(
    Ratings,
    st.sampled_from("ABC"),
    st.integers(1, 3),
    st.integers(1_000, 500_000),
    st.integers(1, 10_000),
    st.builds(Fraction, positive, st.integers(1, 1_000)),
    st.sampled_from(Side),
    st.sampled_from(Side),
    st.builds(lambda a, b: Fraction(max(a, b), min(a, b)), positive, positive),
    st.builds(lambda a, b: Fraction(min(a, b), max(a, b)), positive, positive),
)


@examples(300)
@given(ratings_of_any_meter, st.sampled_from([60, 300, 900, 1800, 3600]))
def test_a_lot_is_the_largest_that_stays_below_the_bound(ratings: Ratings, step_s: int) -> None:
    most, bound = ratings.pulses_per_lot(step_s), ratings.lot_bound_uwh(step_s)
    assert most * ratings.pulse_uwh < bound <= (most + 1) * ratings.pulse_uwh


@examples(300)
@given(ratings_of_any_meter, st.sampled_from([60, 900, 3600]))
def test_the_smallest_constant_is_the_least_whole_one_that_does(
    ratings: Ratings, step_s: int
) -> None:
    least = ratings.smallest_constant(step_s)
    assert replace(ratings, constant=Fraction(least)).pulses_per_lot(step_s) >= 1
    assume(least > 1)
    assert replace(ratings, constant=Fraction(least - 1)).pulses_per_lot(step_s) == 0


# --- Too coarse. ---------------------------------------------------------------------------------


def test_a_meter_that_is_too_coarse_is_refused_with_all_that_helps() -> None:
    coarse = replace(B_THREE, constant=Fraction(1_000))
    with pytest.raises(ConfigurationError) as refused:
        lot_limit(coarse, QUARTER_S, accept_coarse=False)
    message = str(refused.value)
    for part in ("0.8625 Wh", "1 Wh", "at least 1160 pulses/kWh", "172.5 W"):
        assert part in message, message
    assert message.endswith("or set accept_coarse, which marks every record.")


def test_a_meter_that_is_too_coarse_counts_single_pulses_once_that_is_accepted() -> None:
    coarse = replace(B_THREE, constant=Fraction(1_000))
    assert lot_limit(coarse, QUARTER_S, accept_coarse=True) == 1
    assert lot_limit(B_THREE, QUARTER_S, accept_coarse=True) == 8
    just_fine = replace(B_THREE, constant=Fraction(1_160))
    assert lot_limit(just_fine, QUARTER_S, accept_coarse=False) == 1
    assert lot_limit(B_THREE, QUARTER_S, accept_coarse=False) == 8


def test_a_guard_leaves_part_of_the_error_to_the_meter() -> None:
    """A tenth of the MPE, as the French order tests the constant: 0.08625 Wh."""
    guarded = replace(B_THREE, guard=Fraction(1, 10))
    assert guarded.lot_bound_uwh(QUARTER_S) == 86_250
    assert guarded.pulses_per_lot(QUARTER_S) == 0
    assert guarded.smallest_constant(QUARTER_S) == 11_595


# --- Sides of the transformers: each example worked by hand. -------------------------------------

# 200 A / 5 A current transformers; a meter of 5 A with I_min 50 mA, 3 × 230 V, class B.
RATIO = Fraction(40)
SIDES = [
    # ratings, constant: P_min in W, bound in µWh, energy of a pulse in µWh, pulses per lot
    # 3 · 230 · 0.05 = 34.5 W; · 2 % · 0.25 h = 172 500 µWh; a pulse at 10 000 is 100 000 µWh.
    (Side.PRIMARY, Side.PRIMARY, "34.5", 172_500, 100_000, 1),
    (Side.SECONDARY, Side.PRIMARY, "1380", 6_900_000, 100_000, 68),
    (Side.PRIMARY, Side.SECONDARY, "34.5", 172_500, 4_000_000, 0),
    (Side.SECONDARY, Side.SECONDARY, "1380", 6_900_000, 4_000_000, 1),
]


@pytest.mark.parametrize(("ratings", "constant", "p_min", "bound", "pulse", "most"), SIDES)
def test_the_ratio_is_applied_once_to_what_is_secondary(
    ratings: Side, constant: Side, p_min: str, bound: int, pulse: int, most: int
) -> None:
    meter = Ratings("B", 3, 230_000, 50, Fraction(10_000), ratings, constant, RATIO)
    assert meter.p_min_w == Fraction(p_min)
    assert meter.lot_bound_uwh(QUARTER_S) == bound
    assert meter.pulse_uwh == pulse
    assert meter.pulses_per_lot(QUARTER_S) == most


def test_the_greatest_power_follows_the_side_of_the_ratings() -> None:
    meter = Ratings("B", 3, 230_000, 50, Fraction(10_000), Side.SECONDARY, Side.PRIMARY, RATIO)
    assert meter.power_w(6_000) == 3 * 230 * 6 * 40
    assert replace(meter, ratings_side=Side.PRIMARY).power_w(6_000) == 3 * 230 * 6


# --- Registers. ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pulses", "constant", "ratio", "uwh"),
    [
        (0, Fraction(1_000), Fraction(1), 0),
        (1, Fraction(1_000), Fraction(1), 1_000_000),
        (8, Fraction(12_000), Fraction(1), 666_666),  # of 666 666.67
        (3, Fraction(12_000), Fraction(1), 250_000),
        (2, Fraction(10_000), Fraction(40), 8_000_000),
        (1, Fraction(1, 100), Fraction(1), 100 * UWH_PER_KWH),  # 100 kWh per pulse
        (4, Fraction(2_000, 5), Fraction(1), 10_000_000),  # 2.5 Wh per pulse
        (1, Fraction(3), Fraction(7, 2), 1_166_666_666),
    ],
)
def test_the_energy_of_a_register_is_rounded_down(
    pulses: int, constant: Fraction, ratio: Fraction, uwh: int
) -> None:
    assert register_uwh(pulses, constant, ratio) == uwh


constants = st.builds(Fraction, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))


@examples(200)
@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(0, 2**40), constants, constants)
def test_differences_of_registers_never_drift(
    lots: list[int], start: int, constant: Fraction, ratio: Fraction
) -> None:
    register, total = start, 0
    for pulses in lots:
        total += register_uwh(register + pulses, constant, ratio) - register_uwh(
            register, constant, ratio
        )
        register += pulses
    exact = (register - start) * UWH_PER_KWH * ratio / constant
    assert total == register_uwh(register, constant, ratio) - register_uwh(start, constant, ratio)
    terms = Terms(bytes(32), signer(1).public, 0, constant, ratio, 1, Use.GENERATION)
    assert total == terms.energy_uwh(start, register)
    assert abs(total - exact) < 1


@examples(200)
@given(st.integers(0, 2**61), constants, constants)
def test_the_energy_of_a_register_is_the_floor_of_the_exact_one(
    pulses: int, constant: Fraction, ratio: Fraction
) -> None:
    exact = pulses * UWH_PER_KWH * ratio / constant
    assert (
        register_uwh(pulses, constant, ratio) <= exact < register_uwh(pulses, constant, ratio) + 1
    )


# --- For people. ---------------------------------------------------------------------------------


def test_energies_are_written_for_people() -> None:
    assert wh(862_500) == "0.8625 Wh"
    assert wh(Fraction(250_000, 3)) == "0.0833 Wh"
    assert wh(1_000_000) == "1 Wh"
    assert kwh(0) == "0.000 kWh"
    assert kwh(1_234_567_891) == "1.234567891 kWh"
    assert kwh(12_500_000_000) == "12.500 kWh"
    assert number(Fraction(1, 3)) == "0.3333"
    assert number(Fraction(0)) == "0"
    assert number(Fraction(100)) == "100"
    assert number(Fraction(1, 20_000)) == "0"  # half to even, before any float
