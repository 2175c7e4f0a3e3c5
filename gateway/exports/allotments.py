"""What members were given, as exports take it: plain values, whatever they were read from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Given:
    """Energy that one block gave a member.

    Attributes:
        block: the step of the block that holds the distribution.
        energy_uwh: what it adds, µWh.
    """

    block: int
    energy_uwh: int


@dataclass(frozen=True, slots=True)
class Allotment:
    """One member's share of one step.

    Attributes:
        given: in the order of the blocks: the first value, then what came later. Empty where no
            distribution of this step names the member.
        consumption_uwh: what the member consumed in the step, µWh; None where that is not known.
    """

    member: str
    step: int
    given: tuple[Given, ...]
    consumption_uwh: int | None = None

    @property
    def first(self) -> Given | None:
        return self.given[0] if self.given else None

    @property
    def later(self) -> tuple[Given, ...]:
        return self.given[1:]

    @property
    def total_uwh(self) -> int | None:
        """The virtual generation meter, µWh; None where nothing was distributed yet."""
        return sum(one.energy_uwh for one in self.given) if self.given else None

    @property
    def market_uwh(self) -> int | None:
        """The computed market-face meter = consumption - virtual generation, µWh. It is negative
        where a rule without a cap gave more than was consumed. None where either is not known."""
        total = self.total_uwh
        if self.consumption_uwh is None or total is None:
            return None
        return self.consumption_uwh - total


def totals_by_step(allotments: Iterable[Allotment]) -> dict[int, dict[str, int]]:
    """What each member was given in each step, µWh; only steps and members that got a
    distribution, were it of nothing."""
    found: dict[int, dict[str, int]] = {}
    for one in allotments:
        total = one.total_uwh
        if total is not None:
            members = found.setdefault(one.step, {})
            members[one.member] = members.get(one.member, 0) + total
    return found


def sum_of_steps(
    totals: Mapping[int, Mapping[str, int]], steps: Iterable[int]
) -> dict[str, int] | None:
    """What each member was given in several steps together, µWh; None while one of them has no
    distribution."""
    summed: dict[str, int] = {}
    for step in steps:
        members = totals.get(step)
        if members is None:
            return None
        for member, energy in members.items():
            summed[member] = summed.get(member, 0) + energy
    return summed
