"""Durations, energies, numbers and moments as people write them, read exactly: never a float."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction

from cryptometer.errors import ConfigurationError

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_WITH_UNIT = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")
_RATIO = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?")

_DURATIONS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_ENERGIES_UWH = {"mWh": 10**3, "Wh": 10**6, "kWh": 10**9, "MWh": 10**12}


def duration_ms(text: str, where: str) -> int:
    """Milliseconds of "500ms", "5s", "15m", "2h" or "35d".

    Args:
        text: a number directly followed by its unit.
        where: what the value is for, for messages.

    Raises:
        ConfigurationError: it is none, or no whole number of milliseconds.
    """
    return _with_unit(text, _DURATIONS_MS, where, "15m", "milliseconds")


def energy_uwh(text: str, where: str) -> int:
    """Micro-watt-hours of "250mWh", "500Wh", "1kWh" or "1.5MWh".

    Raises:
        ConfigurationError: it is none.
    """
    return _with_unit(text, _ENERGIES_UWH, where, "1kWh", "µWh")


def rational(text: str, where: str) -> Fraction:
    """A positive number: "1000", "0.25" or "2500/3".

    Raises:
        ConfigurationError: it is none.
    """
    match = _RATIO.fullmatch(text)
    if match is not None:
        above, below = Fraction(match[1]), Fraction(match[2] or 1)
        if above and below:
            return above / below
    raise ConfigurationError(
        f"{where} is a positive number like 1000, 0.25 or 2500/3, not {text!r}"
    )


def thousandths(text: str, where: str, unit: str) -> int:
    """A decimal number of `unit` as a whole number of its thousandths: "0.25" A are 250 mA.

    Raises:
        ConfigurationError: it is no decimal number, or finer than a thousandth.
    """
    if re.fullmatch(_NUMBER, text) is None:
        raise ConfigurationError(f"{where} is a decimal number of {unit}, not {text!r}")
    value = Fraction(text) * 1000
    if value.denominator != 1:
        raise ConfigurationError(f"{where} has at most three decimals of {unit}, not {text!r}")
    return value.numerator


def moment_ms(text: str, where: str, now_ms: int) -> int:
    """A moment in ms since the Unix epoch: "now", or ISO 8601 with its offset from UTC.

    Raises:
        ConfigurationError: it is none, says no offset, or lies before 1970.
    """
    if text == "now":
        return now_ms
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f'{where} is "now" or a time with its offset, like 2026-01-31T12:00:00Z, not {text!r}'
        )
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    if since.days < 0:
        raise ConfigurationError(f"{where} lies before 1970: {text}")
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def _with_unit(text: str, units: Mapping[str, int], where: str, example: str, whole: str) -> int:
    match = _WITH_UNIT.fullmatch(text)
    if match is None or match[2] not in units:
        known = ", ".join(units)
        raise ConfigurationError(
            f"{where} is a number with a unit ({known}), for example {example}; not {text!r}"
        )
    value = Fraction(match[1]) * units[match[2]]
    if value.denominator != 1:
        raise ConfigurationError(f"{where} is no whole number of {whole}: {text!r}")
    return value.numerator
