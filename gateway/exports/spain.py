"""The Spanish file of sharing coefficients: `CUPS;hour;coefficient`, a line for each hour of a
month and each consumer, by Real Decreto 244/2019 annex I as Orden TED/1247/2021 changed it.

What public sources agree on: a plain text file (.txt); coefficients that may differ in each hour of
the year and add up to 1 in each; semicolons between, a decimal comma, six decimals, UTF-8 without
a byte-order mark; 22 characters of CUPS. The text of the annex itself was not seen. Sources differ
on the first hour's number (0 or 1) and say nothing of clock changes: both are the `Layout`'s, and
are to be agreed with the distributor before the first file. The law has coefficients stated before
the hours they are for; this file states what the ledger shows they were.

Hours are counted by how many have passed since the local year began. So a year has 8760 of them, a
leap year 8784, each once: the day of 23 hours has no gap and the day of 25 no hour twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import hours_of_month, steps_of_hour
from gateway.exports.allotments import sum_of_steps
from gateway.exports.apportion import coefficients, decimal_text

_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_CUPS = (20, 22)
_DIGITS = slice(2, 18)


@dataclass(frozen=True, slots=True)
class Layout:
    """What distributors may want otherwise.

    Attributes:
        decimals: of a coefficient.
        first_hour: the number of a year's first hour, 0 or 1.
        hour_digits: hours have at least so many digits, with zeros before.
    """

    decimals: int = 6
    first_hour: int = 1
    hour_digits: int = 1


LAYOUT = Layout()


@dataclass(frozen=True, slots=True)
class CoefficientFile:
    """A month's file, and what its layout has no room for.

    Attributes:
        hours: how many hours it covers.
        idle: numbers of the hours in which nothing was given to anyone, as the file has them.
        missing: numbers of those of which a step has no distribution.
    """

    text: str
    hours: int
    idle: tuple[int, ...]
    missing: tuple[int, ...]


def coefficients_es(
    year: int,
    month: int,
    totals: Mapping[int, Mapping[str, int]],
    points: Mapping[str, str],
    step_s: int,
    zone: tzinfo,
    *,
    idle: Mapping[str, int] | None = None,
    accept_missing: bool = False,
    layout: Layout = LAYOUT,
) -> CoefficientFile:
    """The file of a month.

    Args:
        totals: what each member was given, µWh, by step.
        points: the CUPS of every member; all of them have a line in every hour.
        idle: weights for hours in which nobody was given anything, since coefficients add up to 1
            then as well; by default all members alike.
        accept_missing: treat hours with a step that was not distributed like those.

    Raises:
        ConfigurationError: hours are missing, a member has no CUPS, or a CUPS is none.
    """
    members = sorted(points, key=lambda member: points[member])
    _check_points(points)
    idle_weights = [(idle or dict.fromkeys(members, 1)).get(member, 0) for member in members]
    idle_parts = coefficients(idle_weights, layout.decimals)
    lines: list[str] = []
    silent: list[int] = []
    missing: list[int] = []
    hours = hours_of_month(year, month, zone)
    for hour in hours:
        number = hour + layout.first_hour
        given = sum_of_steps(totals, steps_of_hour(year, hour, step_s, zone))
        _check_members(given or {}, points)
        if given is None:
            missing.append(number)
        elif not any(given.values()):
            silent.append(number)
        if given is None or not any(given.values()):
            parts = idle_parts
        else:
            weights = [given.get(member, 0) for member in members]
            parts = coefficients(weights, layout.decimals)
        lines += [
            f"{points[member]};{number:0{layout.hour_digits}d};"
            f"{decimal_text(part, layout.decimals, ',')}"
            for member, part in zip(members, parts, strict=True)
        ]
    if missing and not accept_missing:
        raise ConfigurationError(
            f"{len(missing)} hours of {year}-{month:02d} are not distributed yet, first hour"
            f" {missing[0]} of the year: wait for them, or accept missing hours"
        )
    text = "".join(f"{line}\n" for line in lines)
    return CoefficientFile(text, len(hours), tuple(silent), tuple(missing))


def check_cups(cups: str) -> None:
    """Checks a supply point's code: ES, 16 digits, two letters that check them, and perhaps two
    characters more.

    Raises:
        ConfigurationError: it is mistyped.
    """
    digits, letters = cups[_DIGITS], cups[18:20]
    well_formed = (
        len(cups) in _CUPS
        and cups.startswith("ES")
        and cups.isascii()
        and digits.isdigit()
        and cups.isalnum()
        and cups == cups.upper()
    )
    if not well_formed:
        raise ConfigurationError(
            f"{cups!r:.40} is no CUPS: ES, 16 digits, 2 letters, and 2 characters or none"
        )
    rest = int(digits) % len(_LETTERS) ** 2
    expected = _LETTERS[rest // len(_LETTERS)] + _LETTERS[rest % len(_LETTERS)]
    if letters != expected:
        raise ConfigurationError(
            f"{cups} is mistyped: its digits want the letters {expected}, not {letters}"
        )


def _check_points(points: Mapping[str, str]) -> None:
    if not points:
        raise ConfigurationError("no member has a CUPS")
    for cups in points.values():
        check_cups(cups)
    if len(set(points.values())) != len(points):
        raise ConfigurationError("two members have the same CUPS")


def _check_members(given: Mapping[str, int], points: Mapping[str, str]) -> None:
    for member, energy in given.items():
        if energy and member not in points:
            raise ConfigurationError(f"the member {member} was given energy and has no CUPS")
