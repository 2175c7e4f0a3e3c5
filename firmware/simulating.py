"""The words of `cryptometer-firmware simulate`. What does it, the twins of all meters, is imported
once it is asked for: a board that counts has no use for them.
"""

import argparse
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptometer.steps import NS_PER_MS
from hal.index.reading import Register
from hal.uart import S0_BOUNCE_NS


class Kind(StrEnum):
    """What the meter speaks."""

    LINKY = "linky"
    LINKY_HISTORIC = "linky-historic"
    P1 = "p1"
    D0 = "d0"  # by itself, mode D
    D0_ASKED = "d0-asked"  # mode C
    SML = "sml"
    DLMS_PUSH = "dlms-push"
    DLMS = "dlms"  # asked
    MODBUS = "modbus"


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the command `simulate`; its parser sets `act`."""
    parser = commands.add_parser(
        "simulate",
        help="emit a meter's pulses, or what it says, on a pseudo-terminal",
        description="Makes a pseudo-terminal, links it to LINK and emits pulses there, or with"
        " --meter what a meter that speaks says, until the series, --pulses or --seconds end or a"
        " signal comes (SIGTERM, SIGINT). Prints how many it emitted. Give LINK as the device of"
        " the source.",
    )
    parser.add_argument("--tty", type=Path, required=True, metavar="LINK", help="the link to make")
    parser.add_argument(
        "--constant", type=_positive, metavar="K", help="pulses per kWh; not with --meter"
    )
    power = parser.add_mutually_exclusive_group(required=True)
    power.add_argument("--watts", type=_not_negative, metavar="W", help="a constant power")
    power.add_argument(
        "--series", type=Path, metavar="FILE", help="a CSV file of times and powers in W"
    )
    parser.add_argument("--column", metavar="NAME", help="which column of the series")
    parser.add_argument(
        "--speed",
        type=_positive,
        default=Fraction(1),
        metavar="X",
        help="the power's time runs so many times faster (default: 1)",
    )
    parser.add_argument(
        "--line",
        choices=("byte", "s0"),
        default="byte",
        help="byte: a byte per pulse; s0: what a UART at 300 baud makes of a bouncing contact,"
        " which closes some 13 times a second at most, and else falls behind",
    )
    parser.add_argument(
        "--bounce-ms",
        type=int,
        default=S0_BOUNCE_NS // NS_PER_MS,
        metavar="N",
        help="s0: how long the contact bounces (default: 5, the most a meter may)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="chooses the bounces of s0, or what --damage does (default: 0)",
    )
    parser.add_argument("--pulses", type=_count, metavar="N", help="end after so many")
    parser.add_argument(
        "--seconds", type=_not_negative, metavar="S", help="end after so long, by the machine"
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="write 'UNIX_NS NUMBER' for each pulse before it is emitted, or 'UNIX_NS IMPORT"
        " EXPORT' (Wh) for each message; starts the file anew",
    )
    parser.add_argument(
        "--rate",
        type=_count,
        metavar="BAUD",
        help="byte: bytes follow each other no faster than on a line of so many baud"
        " (default: as fast as the pulses)",
    )
    _add_speaking(parser)
    parser.set_defaults(act=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    from firmware.simulate import simulate  # noqa: PLC0415 - see above

    return simulate(arguments)


def _add_speaking(parser: argparse.ArgumentParser) -> None:
    """The options of `simulate` that are for meters that speak."""
    speaks = parser.add_argument_group("a meter that speaks, in place of pulses")
    speaks.add_argument("--meter", choices=[*Kind], help="what it speaks")
    speaks.add_argument(
        "--register", choices=[*Register], default=Register.IMPORT, help="which one grows (import)"
    )
    speaks.add_argument(
        "--identity", default="", metavar="TEXT", help="its number (one of its kind)"
    )
    speaks.add_argument(
        "--start-wh", type=int, default=1_000_000, metavar="N", help="both registers (1000000)"
    )
    speaks.add_argument(
        "--period-ms", type=int, default=0, metavar="N", help="between messages (as its kind does)"
    )
    speaks.add_argument(
        "--damage",
        type=Fraction,
        default=Fraction(0),
        metavar="SHARE",
        help="so many of its messages are damaged on their way, 0 to 1; chosen by --seed",
    )
    speaks.add_argument(
        "--map", default="eastron-sdm", metavar="NAME", help="modbus: the meter's map (eastron-sdm)"
    )


def _number(text: str, is_good: Callable[[Fraction], bool], what: str) -> Fraction:
    try:
        whole, _, part = text.partition("/")  # some meters state kWh per pulse: 1/0.0005
        value = Fraction(Decimal(whole)) / Fraction(Decimal(part or 1))
    except (InvalidOperation, ValueError, OverflowError, ZeroDivisionError):
        value = None
    if value is None or not is_good(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
    return value


def _positive(text: str) -> Fraction:
    return _number(text, lambda value: value > 0, "positive number")


def _not_negative(text: str) -> Fraction:
    return _number(text, lambda value: value >= 0, "number of 0 or more")


def _count(text: str) -> int:
    return int(_number(text, lambda value: value > 0 and value.denominator == 1, "whole number"))
