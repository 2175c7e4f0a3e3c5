"""The rule of docs/formats.md section 15, written from that page alone: exact rationals first,
whole numbers from them, one unit at a time. Slow, and another way to the same numbers."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor


@dataclass
class Claim:
    member: str
    weight: int
    priority: int
    producer: str | None
    coefficient: int


@dataclass
class Rule:
    method: str
    capped: bool
    rounds: int
    claims: list[Claim]
    losses: Fraction
    fee: Fraction


@dataclass
class Account:
    """Where the energy of a step is."""

    members: dict[str, int]
    losses: int
    fee: int
    surplus: int


def apportion(t: int, weights: list[int]) -> list[int]:
    if sum(weights) == 0:
        return [0] * len(weights)
    exact = [Fraction(t) * w / sum(weights) for w in weights]
    parts = [floor(x) for x in exact]
    waiting = list(range(len(parts)))
    while sum(parts) < t:
        first = max(waiting, key=lambda i: (exact[i] - floor(exact[i]), -i))
        waiting.remove(first)
        parts[first] += 1
    return parts


def rule(
    agreed: Rule, energy: dict[str, int], consumed: dict[str, int], stated: int | None
) -> Account:
    t = sum(energy.values())
    losses = floor(t * agreed.losses) if stated is None else stated
    fee = floor(t * agreed.fee)
    rest = t - losses - fee
    got = {claim.member: 0 for claim in agreed.claims}
    if all(claim.producer is None for claim in agreed.claims):
        energies = [("", rest)]
    else:
        names = sorted(energy)
        energies = list(zip(names, apportion(rest, [energy[n] for n in names]), strict=True))
    surplus = 0
    for producer, part in energies:
        left = part
        here = [c for c in agreed.claims if c.producer is None or c.producer == producer]
        for priority in sorted({c.priority for c in here}):
            turn = [c for c in here if c.priority == priority]
            left -= _turn(agreed, turn, left, got, consumed)
        surplus += left
    return Account(got, losses, fee, surplus)


def _turn(
    agreed: Rule, turn: list[Claim], left: int, got: dict[str, int], consumed: dict[str, int]
) -> int:
    """One priority's turn: changes `got`, and says how much was taken."""
    capped = agreed.capped or agreed.method == "pro-rata"
    names = sorted({c.member for c in turn})
    taken = 0
    for _ in range(agreed.rounds if capped else 1):
        able = [n for n in names if not capped or consumed[n] > got[n]]
        weights = []
        for name in able:
            own = [c for c in turn if c.member == name]
            weights.append(
                {
                    "equal": 1,
                    "keys": sum(c.weight for c in own),
                    "coefficients": sum(c.coefficient for c in own),
                    "pro-rata": consumed.get(name, 0) - got[name],
                }[agreed.method]
            )
        parts = apportion(left - taken, weights)
        if capped:
            parts = [min(p, consumed[n] - got[n]) for n, p in zip(able, parts, strict=True)]
        for name, part in zip(able, parts, strict=True):
            got[name] += part
        taken += sum(parts)
    return taken


def supplement(before: Account, whole: Account, new: int) -> tuple[Account, int]:
    """The account after a further distribution, and what it took from the surplus."""
    names = sorted(whole.members)
    lack = [max(0, whole.members[n] - before.members[n]) for n in names]
    lack_losses = max(0, whole.losses - before.losses)
    lack_fee = max(0, whole.fee - before.fee)
    back = min(before.surplus, max(0, sum(lack) + lack_losses + lack_fee - new))
    left = new + back
    losses = min(lack_losses, left)
    fee = min(lack_fee, left - losses)
    left = left - losses - fee
    parts = apportion(min(left, sum(lack)), lack)
    members = {n: before.members[n] + p for n, p in zip(names, parts, strict=True)}
    surplus = before.surplus - back + left - sum(parts)
    return Account(members, before.losses + losses, before.fee + fee, surplus), back
