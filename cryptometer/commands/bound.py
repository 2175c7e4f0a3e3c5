"""`cryptometer bound`: how large a lot of a meter may be, before anything is registered."""

import argparse
from fractions import Fraction

from cryptometer.commands.quantities import duration_ms, rational, thousandths
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import MPE_AT_I_MIN, Ratings, Side, lot_limit, number, wh
from cryptometer.steps import MS_PER_S

STEP_S_MIN, STEP_S_MAX = 60, 86_400  # records.STEP_S, without the libraries behind it


def add_commands(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Registers `bound`."""
    parser = subparsers.add_parser(
        "bound",
        help="the largest lot a meter may count",
        description="Prints P_min, the bound P_min * MPE * D on a lot, the energy of a pulse, and"
        " the pulses a lot may hold. Exit code 2: a single pulse already reaches the bound.",
    )
    sides = [side.value for side in Side]
    parser.add_argument(
        "--class",
        dest="accuracy_class",
        required=True,
        choices=list(MPE_AT_I_MIN),
        help="MID class",
    )
    parser.add_argument("--phases", type=int, required=True, choices=(1, 2, 3), help="measured")
    parser.add_argument("--voltage", required=True, metavar="V", help="U_n phase to neutral, volts")
    parser.add_argument("--i-min", required=True, metavar="A", help="I_min, amperes")
    parser.add_argument(
        "--constant", required=True, metavar="K", help="pulses per kWh: 10000, 0.5 or 2500/3"
    )
    parser.add_argument("--step", default="15m", metavar="D", help="market step (default 15m)")
    parser.add_argument("--ratio", default="1", metavar="R", help="transformers, CT times VT")
    parser.add_argument(
        "--ratings-side", default="primary", choices=sides, help="side U and I are stated for"
    )
    parser.add_argument(
        "--constant-side", default="primary", choices=sides, help="side the constant is stated for"
    )
    parser.add_argument("--guard", default="1", metavar="G", help="part of the MPE lots may use")
    parser.add_argument(
        "--accept-coarse", action="store_true", help="allow lots of one pulse above the bound"
    )
    parser.set_defaults(run=_run)


def describe(ratings: Ratings, step_s: int, lot_pulses: int) -> str:
    """What the bound follows from, line by line, for people."""
    mpe = MPE_AT_I_MIN[ratings.accuracy_class]
    coarse = "" if ratings.pulses_per_lot(step_s) else " (coarse: every record is marked)"
    return "\n".join(
        (
            f"P_min           {number(ratings.p_min_w)} W",
            f"MPE at I_min    {number(mpe * 100)} %, of which lots use {number(ratings.guard)}",
            f"bound           {wh(ratings.lot_bound_uwh(step_s))} in a step of {step_s} s",
            f"pulse           {wh(ratings.pulse_uwh)}",
            f"pulses per lot  {lot_pulses}{coarse}",
        )
    )


def check_ratings(ratings: Ratings) -> None:
    """Refuses what no name plate says.

    Raises:
        ConfigurationError: naming the value.
    """
    if ratings.voltage_mv == 0 or ratings.i_min_ma == 0:
        raise ConfigurationError("the voltage and I_min are above zero")
    if ratings.ratio < 1:
        raise ConfigurationError(f"a transformer ratio is at least 1, not {number(ratings.ratio)}")
    if not 0 < ratings.guard <= 1:
        raise ConfigurationError(f"the guard is above 0 and at most 1, not {number(ratings.guard)}")
    if ratings.ratio != 1 and Side.SECONDARY not in (ratings.ratings_side, ratings.constant_side):
        raise ConfigurationError(
            "the ratio has no effect: say whether the ratings, the constant or both are secondary"
        )


def step_seconds(text: str) -> int:
    """A market step given as text, in seconds.

    Raises:
        ConfigurationError: it is no duration of whole seconds, from a minute to a day.
    """
    step_s, rest = divmod(duration_ms(text, "the step"), MS_PER_S)
    if rest or not STEP_S_MIN <= step_s <= STEP_S_MAX:
        raise ConfigurationError(f"a step has whole seconds, from 1m to 1d, not {text!r}")
    return step_s


def _run(arguments: argparse.Namespace) -> int:
    ratings = Ratings(
        accuracy_class=arguments.accuracy_class,
        phases=arguments.phases,
        voltage_mv=thousandths(arguments.voltage, "--voltage", "volts"),
        i_min_ma=thousandths(arguments.i_min, "--i-min", "amperes"),
        constant=rational(arguments.constant, "--constant"),
        ratings_side=Side(arguments.ratings_side),
        constant_side=Side(arguments.constant_side),
        ratio=rational(arguments.ratio, "--ratio"),
        guard=rational(arguments.guard, "--guard"),
    )
    check_ratings(ratings)
    step_s = step_seconds(arguments.step)
    pulses: Fraction | int = lot_limit(ratings, step_s, accept_coarse=arguments.accept_coarse)
    print(describe(ratings, step_s, int(pulses)))
    return 0
