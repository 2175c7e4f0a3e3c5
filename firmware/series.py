"""From a series of powers to the times of pulses. Exact: integers and rationals only.

A meter with constant k gives a pulse whenever its energy passes a multiple of 1/k kWh. So the
pulses of a series are floor(energy · k), whatever its rows; what is left over after a row counts
towards the next one's first pulse. Only positive energy moves the register: a pulse output counts
one direction.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import pairwise

from cryptometer.errors import ConfigurationError
from cryptometer.metrology import SECONDS_PER_HOUR
from cryptometer.steps import NS_PER_S

_WATT_NS_PER_KWH = 1000 * SECONDS_PER_HOUR * NS_PER_S
_SEPARATORS = "\t;,"  # the comma last: beside another separator it is a decimal one
_DIGITS_MAX = 18  # before and behind the point: more is a mistake, not a power
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LINE_MAX = 65_536  # a longer line is no row of a series


@dataclass(frozen=True, slots=True)
class Level:
    """A constant power for a while.

    Attributes:
        start_ns: since the series began.
        duration_ns: how long; None is for ever.
        watts: 0 or more.
    """

    start_ns: int
    duration_ns: int | None
    watts: Fraction


def read_series(lines: Iterable[str], column: str | None = None) -> list[Level]:
    """Reads a CSV series: a time, then one or more columns of watts.

    Cells are separated by commas, semicolons or tabs; where not by commas, a comma is a decimal
    one. Times are ISO 8601, with a zone in each row or in none (then UTC), or Unix seconds; they
    rise. The first line may name the columns; without it they are named by their numbers, the first
    power being "2".

    A row's power holds until the next row, but no longer than the usual distance of two rows: in a
    gap nothing is known, and nothing is interpolated. An empty cell is a gap too. The last row
    holds for the usual distance. A negative power flows the other way and moves nothing.

    Args:
        lines: the file's lines.
        column: which power; may be left out when there is only one.

    Raises:
        ConfigurationError: naming the line and what to do.
    """
    rows = _rows(lines)
    if not rows:
        raise ConfigurationError("the series is empty: it needs rows of a time and a power in W")
    header = rows.pop(0)[1] if _is_header(rows[0][1]) else None
    names = header or [str(1 + place) for place in range(len(rows[0][1]))]
    place = _place(names, column)
    times: list[int] = []
    powers: list[Fraction] = []
    zoned: bool | None = None
    for number, cells in rows:
        if len(cells) != len(names):
            raise ConfigurationError(
                f"line {number} of the series has {len(cells)} cells, not {len(names)}: complete it"
            )
        at_ns, has_zone = _time(number, cells[0])
        if zoned not in (None, has_zone):
            raise ConfigurationError(
                f"line {number} of the series: give every time a zone, or none"
            )
        if times and at_ns <= times[-1]:
            raise ConfigurationError(
                f"line {number} of the series does not come after the one before it: sort the rows,"
                " and give the times with their zone where clocks were put back"
            )
        zoned = has_zone
        times.append(at_ns)
        powers.append(_power(number, cells[place]))
    if len(times) < 2:
        raise ConfigurationError("the series needs two rows at least: their distance is its period")
    usual_ns = _usual(times)
    return [
        Level(at_ns - times[0], min(next_ns - at_ns, usual_ns), max(power, Fraction(0)))
        for (at_ns, next_ns), power in zip(
            pairwise([*times, times[-1] + usual_ns]), powers, strict=True
        )
    ]


def duration_ns(levels: Sequence[Level]) -> int | None:
    """When the last level ends; None if it does not."""
    last = levels[-1]
    return None if last.duration_ns is None else last.start_ns + last.duration_ns


def pulse_times(levels: Iterable[Level], constant: Fraction) -> Iterator[int]:
    """When each pulse comes: ns since the series began, rounded up, in order.

    Args:
        levels: in order of time, none overlapping.
        constant: pulses per kWh, positive.
    """
    counted = 0
    energy = Fraction(0)  # of all levels before, in pulses
    for level in levels:
        if not level.watts:
            continue
        rate = level.watts * constant / _WATT_NS_PER_KWH  # pulses per ns
        # On one denominator each pulse costs whole-number arithmetic only.
        unit = _common(rate, energy)
        slope, offset = int(rate * unit), int(energy * unit)
        last = None
        if level.duration_ns is not None:
            energy += rate * level.duration_ns
            last = int(energy)
        while last is None or counted < last:
            counted += 1
            yield level.start_ns - (offset - counted * unit) // slope


def pulse_count(levels: Iterable[Level], constant: Fraction) -> int:
    """How many pulses levels that end give: floor(energy · constant)."""
    energy = sum((one.watts * (one.duration_ns or 0) for one in levels), Fraction(0))
    return int(energy * constant / _WATT_NS_PER_KWH)


def _common(one: Fraction, other: Fraction) -> int:
    return (Fraction(1, one.denominator) / other.denominator).denominator


def _rows(lines: Iterable[str]) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with its line's number."""
    rows: list[tuple[int, list[str]]] = []
    separator = ""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix("\ufeff") if number == 1 else line
        if not text.strip():
            continue
        if len(text) > _LINE_MAX:
            raise ConfigurationError(f"line {number} of the series is too long: is it a CSV file?")
        separator = separator or next((one for one in _SEPARATORS if one in text), ",")
        try:
            cells = next(csv.reader([text], delimiter=separator, strict=True))
        except csv.Error as error:
            raise ConfigurationError(f"line {number} of the series is no CSV: {error}") from None
        if separator != ",":
            cells = [cell.replace(",", ".") for cell in cells]
        rows.append((number, [cell.strip() for cell in cells]))
    return rows


def _is_header(cells: Sequence[str]) -> bool:
    try:
        _time(1, cells[0])
    except ConfigurationError:
        return True
    return False


def _place(names: Sequence[str], column: str | None) -> int:
    powers = names[1:]
    if not powers:
        raise ConfigurationError(
            "the series has one column only: it needs a time and a power in W, separated by a"
            " comma, a semicolon or a tab"
        )
    if column is None:
        if len(powers) > 1:
            raise ConfigurationError(
                f"the series has several columns: choose one with --column ({', '.join(powers)})"
            )
        return 1
    if powers.count(column) != 1:
        found = "no" if column not in powers else "more than one"
        raise ConfigurationError(
            f"the series has {found} column {column!r}: its columns are {', '.join(powers)}"
        )
    return 1 + powers.index(column)


def _time(number: int, text: str) -> tuple[int, bool]:
    """Nanoseconds since the Unix epoch, and whether the zone was given."""
    seconds = _decimal(text)
    if seconds is not None:
        return int(seconds * NS_PER_S), True
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"line {number} of the series: {text!r} is no time; write 2026-03-29T01:00:00Z, or Unix"
            " seconds"
        ) from None
    has_zone = moment.tzinfo is not None
    since = (moment if has_zone else moment.replace(tzinfo=UTC)) - _EPOCH
    return since // timedelta(microseconds=1) * 1000, has_zone


def _power(number: int, text: str) -> Fraction:
    if not text:
        return Fraction(0)
    watts = _decimal(text)
    if watts is None:
        raise ConfigurationError(
            f"line {number} of the series: {text!r} is no power; write watts, such as 230.5, or"
            " nothing where none was measured"
        )
    return watts


def _decimal(text: str) -> Fraction | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    if value.adjusted() >= _DIGITS_MAX or int(value.as_tuple().exponent) < -_DIGITS_MAX:
        return None
    return Fraction(value)


def _usual(times: Sequence[int]) -> int:
    """The commonest distance of two rows; the shortest of those that are equally common."""
    distances = Counter(later - earlier for earlier, later in pairwise(times))
    return min(distances, key=lambda distance: (-distances[distance], distance))
