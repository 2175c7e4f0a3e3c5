"""Shares with a fixed number of decimals that add up to exactly one: largest remainder."""

from collections.abc import Sequence

from cryptometer.errors import ConfigurationError


def coefficients(weights: Sequence[int], decimals: int) -> list[int]:
    """Each weight's part of all, in units of the last decimal; they add up to 10^decimals.

    What rounding down leaves over goes to the largest remainders, of equal ones to the first: the
    order of the weights decides, and the caller fixes it.

    Args:
        weights: not negative, and not all of them 0.

    Raises:
        ConfigurationError: there is nothing to divide by.
    """
    total, unit = sum(weights), 10**decimals
    if total <= 0 or min(weights) < 0:
        raise ConfigurationError("coefficients need weights that are not negative, and not all 0")
    parts = [weight * unit // total for weight in weights]
    left = unit - sum(parts)
    by_remainder = sorted(range(len(weights)), key=lambda at: (-(weights[at] * unit % total), at))
    for at in by_remainder[:left]:
        parts[at] += 1
    return parts


def decimal_text(value: int, decimals: int, mark: str) -> str:
    """A coefficient as text: 250000 with six decimals and a comma is 0,250000."""
    whole, rest = divmod(value, 10**decimals)
    return f"{whole}{mark}{rest:0{decimals}d}"
