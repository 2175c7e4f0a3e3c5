"""Energy of pulses, and how large a lot may be. Exact arithmetic: integers and rationals only.

Energy is an integer number of micro-watt-hours (µWh). The bound on a lot is paper A's
`V < P_min · MPE`, a power there; over a market step of D hours the permitted error is
`P_min · MPE · D`, and that is the bound used here.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from cryptometer.errors import ConfigurationError

UWH_PER_KWH = 10**9
SECONDS_PER_HOUR = 3600


class Side(StrEnum):
    """Which side of the measuring transformers a stated value belongs to."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


# MID MI-003 (2014/32/EU, annex V) table 2, first row: +5 to +30 °C at I_min <= I < I_tr, balanced
# load. The smallest error the law permits at I_min, hence the one that bounds a lot.
MPE_AT_I_MIN = {"A": Fraction(35, 1000), "B": Fraction(20, 1000), "C": Fraction(10, 1000)}


@dataclass(frozen=True, slots=True)
class Ratings:
    """What the bound on a lot depends on, as the meter's name plate states it.

    Attributes:
        accuracy_class: "A", "B" or "C" (MID MI-003).
        phases: number of measured phases, 1 to 3.
        voltage_mv: U_n phase to neutral, mV.
        i_min_ma: I_min, mA.
        ratings_side: side of the transformers that U and I are stated for.
        constant: pulses per kWh, positive; some meters state kWh per pulse, hence a rational.
        constant_side: side of the transformers that the constant is stated for.
        ratio: transformer ratio r >= 1, CT times VT; applied to what is `secondary`.
        guard: part of the MPE that lots may use, in ]0, 1]: the meter may use the rest itself.
    """

    accuracy_class: str
    phases: int
    voltage_mv: int
    i_min_ma: int
    constant: Fraction
    ratings_side: Side = Side.PRIMARY
    constant_side: Side = Side.PRIMARY
    ratio: Fraction = Fraction(1)
    guard: Fraction = Fraction(1)

    @property
    def p_min_w(self) -> Fraction:
        """P_min = phases · U_n · I_min at power factor 1, in watts on the primary side."""
        return self.power_w(self.i_min_ma)

    def power_w(self, current_ma: int) -> Fraction:
        """Power in watts on the primary side when every phase carries this current (mA, on the
        side of the ratings) at power factor 1."""
        stated_w = Fraction(self.phases * self.voltage_mv * current_ma, 10**6)
        return stated_w * (self.ratio if self.ratings_side is Side.SECONDARY else 1)

    @property
    def pulse_uwh(self) -> Fraction:
        """Energy of one pulse on the primary side, in µWh, exact."""
        return UWH_PER_KWH * self.constant_ratio / self.constant

    @property
    def constant_ratio(self) -> Fraction:
        """r where the constant is a secondary one, else 1."""
        return self.ratio if self.constant_side is Side.SECONDARY else Fraction(1)

    def lot_bound_uwh(self, step_s: int) -> Fraction:
        """P_min · MPE · D · guard in µWh: every lot stays strictly below it."""
        mpe = MPE_AT_I_MIN[self.accuracy_class]
        hours = Fraction(step_s, SECONDS_PER_HOUR)
        return self.p_min_w * mpe * hours * self.guard * 10**6

    def pulses_per_lot(self, step_s: int) -> int:
        """The largest number of pulses with an energy below the bound; 0: too coarse."""
        ratio = self.lot_bound_uwh(step_s) / self.pulse_uwh
        return -(-ratio.numerator // ratio.denominator) - 1

    def latch_ms(self, step_s: int) -> int:
        """How old an index may be at a step's end, the clock's error included, ms: at constant
        power an error of so long is the MPE of a step's energy (MPE · D · guard)."""
        return int(MPE_AT_I_MIN[self.accuracy_class] * step_s * 1_000 * self.guard)

    def smallest_constant(self, step_s: int) -> int:
        """The smallest whole constant (pulses per kWh) that lets a lot hold one pulse."""
        least = UWH_PER_KWH * self.constant_ratio / self.lot_bound_uwh(step_s)
        return least.numerator // least.denominator + 1


def register_uwh(pulses: int, constant: Fraction, ratio: Fraction) -> int:
    """Energy of a register: floor(pulses · 10⁹ · r / k) µWh.

    `ratio` is r when the constant is a secondary one, else 1. A lot's energy is the difference of
    two registers, so that rounding never adds up.
    """
    worth_uwh, per_pulses = pulse_worth(constant, ratio)
    return pulses * worth_uwh // per_pulses


def pulse_worth(constant: Fraction, ratio: Fraction) -> tuple[int, int]:
    """What pulses are worth: so many µWh for so many pulses, both whole numbers."""
    return (
        UWH_PER_KWH * ratio.numerator * constant.denominator,
        ratio.denominator * constant.numerator,
    )


def lot_limit(ratings: Ratings, step_s: int, *, accept_coarse: bool) -> int:
    """Pulses per lot, or the reason why this meter cannot be used.

    Raises:
        ConfigurationError: a single pulse already reaches the bound, and `accept_coarse` is not
            set. The message names the bound, the energy of a pulse, the smallest constant that
            would do, and the switch.
    """
    pulses = ratings.pulses_per_lot(step_s)
    if pulses >= 1:
        return pulses
    if accept_coarse:
        return 1
    raise ConfigurationError(
        f"the meter is too coarse: one pulse is {wh(ratings.pulse_uwh)}, and a lot must stay below"
        f" {wh(ratings.lot_bound_uwh(step_s))} (P_min {number(ratings.p_min_w)} W, class"
        f" {ratings.accuracy_class}, step {step_s} s). Use a pulse output of at least"
        f" {ratings.smallest_constant(step_s)} pulses/kWh, or set accept_coarse, which marks"
        " every record."
    )


def wh(uwh: Fraction | int) -> str:
    """An energy in µWh for people: watt-hours, as short as exactness to 0.1 mWh allows."""
    return f"{number(Fraction(uwh) / 10**6)} Wh"


def kwh(uwh: int) -> str:
    """An energy in µWh for people: kilowatt-hours, exact, with three decimals at least."""
    whole, rest = divmod(uwh, UWH_PER_KWH)
    return f"{whole}.{f'{rest:09d}'.rstrip('0'):0<3} kWh"


def number(value: Fraction) -> str:
    """A rational for people: rounded to four decimals, trailing zeros dropped."""
    return f"{float(round(value, 4)):.4f}".rstrip("0").rstrip(".")
