"""What an agreement gives to whom. Integers and rationals only; knows no record but the agreement.

Of the energy of a step, losses are taken first, then the fee; the rest is shared by the rule, and
what nobody gets is surplus. Energy that comes later is shared as if it had come with the rest, as
far as that takes nothing back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from cryptometer.sharing_records import Agreement, Method

# By the producer claimed (None: every one), then by priority: the weights of members.
_Claimed: TypeAlias = dict[str | None, dict[int, dict[str, int]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where energy goes, µWh: `given`, losses, fee and surplus add up to what was shared.

    Attributes:
        given: of each member, in the order of `agreement.members`.
        from_surplus_uwh: of a correction: what it takes back from the step's surplus, and shares
            in place of new energy.
    """

    given: tuple[int, ...]
    losses_uwh: int
    fee_uwh: int
    surplus_uwh: int
    from_surplus_uwh: int = 0

    @property
    def energy_uwh(self) -> int:
        """All of it."""
        return sum(self.given) + self.losses_uwh + self.fee_uwh + self.surplus_uwh

    def plus(self, more: "Outcome") -> "Outcome":
        """This and a further distribution of the same step, added up."""
        return Outcome(
            tuple(a + b for a, b in zip(self.given, more.given, strict=True)),
            self.losses_uwh + more.losses_uwh,
            self.fee_uwh + more.fee_uwh,
            self.surplus_uwh + more.surplus_uwh - more.from_surplus_uwh,
        )


def nothing(agreement: Agreement) -> Outcome:
    """What a step has given before its first distribution."""
    return Outcome((0,) * len(agreement.members), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Round:
    """One time that energy is shared among the members of one priority.

    Attributes:
        producer: whose energy; None: all of it, whoever produced it.
        number: 1 for the first of this priority and producer.
        energy_uwh: what was left to share.
        members: who takes part, in the order of names.
        weights: of each of them.
        parts: of each: the energy apportioned by the weights, before any cap.
        given: of each: his part, but no more than he could use.
    """

    producer: str | None
    priority: int
    number: int
    energy_uwh: int
    members: tuple[str, ...]
    weights: tuple[int, ...]
    parts: tuple[int, ...]
    given: tuple[int, ...]


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts that are to each other as the weights, by largest remainder.

    Each has his exact part rounded down; what that leaves goes, one each, to the greatest
    remainders, and among equal ones to the earlier place. Weights that are all zero get nothing.
    Neither `total` nor a weight is negative.
    """
    whole = sum(weights)
    if whole == 0:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    missing = total - sum(parts)
    if missing:
        remainders = [total * weight % whole for weight in weights]
        # In reverse, too, equal ones stay in the order of places.
        places = sorted(range(len(weights)), key=remainders.__getitem__, reverse=True)
        for place in places[:missing]:
            parts[place] += 1
    return parts


def share(
    agreement: Agreement,
    energy: Mapping[str, int],
    needs: Mapping[str, int] | None = None,
    coefficients: Sequence[int] = (),
    losses_uwh: int | None = None,
) -> Outcome:
    """What the agreement gives of a step's energy.

    Args:
        energy: µWh of the step by the meter that produced it.
        needs: µWh that each member consumed in the step, where `agreement.needs_consumption`.
        coefficients: one for each claim, in the agreement's order, by `Method.COEFFICIENTS`.
        losses_uwh: of the whole energy, where `agreement.are_losses_stated`.

    Raises:
        ValueError: something of this is missing, too much or negative; or losses and fee are
            more than there is.
    """
    losses, fee = deductions(agreement, energy, losses_uwh)
    given = dict.fromkeys(agreement.members, 0)
    for each in rounds(agreement, energy, needs, coefficients, losses_uwh):
        for member, part in zip(each.members, each.given, strict=True):
            given[member] += part
    surplus = sum(energy.values()) - losses - fee - sum(given.values())
    return Outcome(tuple(given.values()), losses, fee, surplus)


def deductions(
    agreement: Agreement, energy: Mapping[str, int], losses_uwh: int | None
) -> tuple[int, int]:
    """Losses and fee, taken before members share: parts of the whole energy, rounded down.
    Arguments and errors as `share` has them."""
    if any(amount < 0 for amount in energy.values()):
        raise ValueError("energy below zero")
    if agreement.are_losses_stated != (losses_uwh is not None):
        raise ValueError("losses are stated if, and only if, the agreement says so")
    total = sum(energy.values())
    losses = _part(agreement.losses, total) if losses_uwh is None else losses_uwh
    fee = _part(agreement.fee, total)
    if losses < 0 or losses + fee > total:
        raise ValueError("losses and fee are more than the energy, or below zero")
    return losses, fee


def entitlements(
    agreement: Agreement,
    energy: Mapping[str, int],
    needs: Mapping[str, int] | None = None,
    coefficients: Sequence[int] = (),
    losses_uwh: int | None = None,
) -> dict[str, int]:
    """What each member would get if nobody's consumption were a limit. As `share`; `needs` only by
    `Method.PRO_RATA`, where they are weights still."""
    given = dict.fromkeys(agreement.members, 0)
    for each in rounds(agreement, energy, needs, coefficients, losses_uwh, without_caps=True):
        for member, part in zip(each.members, each.given, strict=True):
            given[member] += part
    return given


def supplement(before: Outcome, whole: Outcome, energy_uwh: int) -> Outcome:
    """What a further distribution of a step gives: nothing given before is taken back.

    New energy goes to those who have less than the rule gives them of the whole: losses first, then
    the fee, then members, in proportion to what each lacks; what is left is surplus. Where it is
    not enough, the step's surplus is taken back for them: all that a correction has, which brings
    no new energy.

    Args:
        before: what the step's distributions gave so far, added up.
        whole: what the rule gives of all the step's energy, the new one included.
        energy_uwh: the new energy; 0 for a correction.

    Raises:
        ValueError: `whole` is not of the energy before and the new one.
    """
    if whole.energy_uwh != before.energy_uwh + energy_uwh or energy_uwh < 0:
        raise ValueError("the whole is not what was shared before and the new energy")
    losses = max(0, whole.losses_uwh - before.losses_uwh)
    fee = max(0, whole.fee_uwh - before.fee_uwh)
    lacking = [max(0, rule - had) for rule, had in zip(whole.given, before.given, strict=True)]
    wanted = losses + fee + sum(lacking)
    taken = min(before.surplus_uwh, max(0, wanted - energy_uwh))
    left = energy_uwh + taken
    losses = min(left, losses)
    fee = min(left - losses, fee)
    left -= losses + fee
    given = apportion(min(left, sum(lacking)), lacking)
    return Outcome(tuple(given), losses, fee, left - sum(given), taken)


def rounds(
    agreement: Agreement,
    energy: Mapping[str, int],
    needs: Mapping[str, int] | None = None,
    coefficients: Sequence[int] = (),
    losses_uwh: int | None = None,
    *,
    without_caps: bool = False,
) -> Iterator[Round]:
    """How `share` comes to its outcome, round by round; arguments and errors as there."""
    rest = _rest(agreement, energy, losses_uwh)
    capped = agreement.needs_consumption and not without_caps
    used = _needs(agreement, needs) if capped or agreement.method is Method.PRO_RATA else {}
    claimed = _claimed(agreement, _weights(agreement, used, coefficients))
    room = used if capped else None
    of_all = _priorities(agreement, claimed, None)  # of a thousand producers, few are named
    for producer, part in _by_producer(agreement, energy, rest):
        left = part
        own = _priorities(agreement, claimed, producer) if producer in claimed else of_all
        for priority, members in own:
            for one in _of_priority(agreement, producer, priority, left, members, room):
                yield one
                left -= sum(one.given)


def _of_priority(
    agreement: Agreement,
    producer: str | None,
    priority: int,
    left: int,
    weights: Mapping[str, int],
    room: dict[str, int] | None,
) -> Iterator[Round]:
    """The rounds of one priority, until nothing is left or nobody can use it."""
    for number in range(1, 2 if room is None else agreement.rounds + 1):
        if not left:
            return
        by = weights
        if room is not None and agreement.method is Method.PRO_RATA:
            by = {member: room[member] for member in weights}
        one = _round(producer, priority, number, left, by, room)
        if not any(one.given):
            return
        yield one
        left -= sum(one.given)


def _round(
    producer: str | None,
    priority: int,
    number: int,
    left: int,
    weights: Mapping[str, int],
    room: dict[str, int] | None,
) -> Round:
    """One round among those who can still use energy; `room` shrinks by what they get."""
    if room is None:
        names, by = tuple(weights), tuple(weights.values())
        parts = tuple(apportion(left, by))
        return Round(producer, priority, number, left, names, by, parts, parts)
    names = tuple(name for name in weights if room[name])
    by = tuple(weights[name] for name in names)
    parts = tuple(apportion(left, by))
    given = tuple(min(part, room[name]) for name, part in zip(names, parts, strict=True))
    for name, part in zip(names, given, strict=True):
        room[name] -= part
    return Round(producer, priority, number, left, names, by, parts, given)


def _rest(agreement: Agreement, energy: Mapping[str, int], losses_uwh: int | None) -> int:
    """What members share."""
    losses, fee = deductions(agreement, energy, losses_uwh)
    return sum(energy.values()) - losses - fee


def _part(factor: Fraction | None, total: int) -> int:
    return 0 if factor is None else total * factor.numerator // factor.denominator


def _needs(agreement: Agreement, needs: Mapping[str, int] | None) -> dict[str, int]:
    """What members consumed."""
    if needs is None or any(needs.get(member, -1) < 0 for member in agreement.members):
        raise ValueError("the consumption of a member is missing, or below zero")
    return {member: needs[member] for member in agreement.members}


def _weights(
    agreement: Agreement, used: Mapping[str, int], coefficients: Sequence[int]
) -> Sequence[int]:
    """The weight of each claim."""
    expected = len(agreement.claims) if agreement.method is Method.COEFFICIENTS else 0
    if len(coefficients) != expected or any(weight < 0 for weight in coefficients):
        raise ValueError(f"{expected} coefficients, none below zero, belong to this agreement")
    match agreement.method:
        case Method.COEFFICIENTS:
            return coefficients
        case Method.KEYS:
            return [claim.weight for claim in agreement.claims]
        case Method.PRO_RATA:
            return [used[claim.member] for claim in agreement.claims]
        case Method.EQUAL:
            return [1] * len(agreement.claims)


def _by_producer(
    agreement: Agreement, energy: Mapping[str, int], rest: int
) -> list[tuple[str | None, int]]:
    """What is shared at once: all energy, or each producer's where claims name some."""
    if not agreement.asks_who_produced:
        return [(None, rest)]
    names = sorted(energy)
    return list(zip(names, apportion(rest, [energy[name] for name in names]), strict=True))


def _claimed(agreement: Agreement, weights: Sequence[int]) -> _Claimed:
    """Who claims what: members with their weights, by the producer claimed and the priority."""
    claimed: _Claimed = {}
    for claim, weight in zip(agreement.claims, weights, strict=True):
        members = claimed.setdefault(claim.producer, {}).setdefault(claim.priority, {})
        _claim(agreement, members, claim.member, weight)
    return claimed


def _priorities(
    agreement: Agreement, claimed: _Claimed, producer: str | None
) -> list[tuple[int, dict[str, int]]]:
    """Who shares a producer's energy, by priority: claims of it, and those of every one's."""
    of_all, own = claimed.get(None, {}), claimed.get(producer, {}) if producer else {}
    found = []
    for priority in sorted({*of_all, *own}):
        members = dict(of_all.get(priority, {}))
        for member, weight in own.get(priority, {}).items():
            _claim(agreement, members, member, weight)
        found.append((priority, dict(sorted(members.items()))))
    return found


def _claim(agreement: Agreement, members: dict[str, int], member: str, weight: int) -> None:
    """Several claims of a member in one priority add up, where their weights are the member's own;
    not his consumption, and not that everyone has the same."""
    adds_up = agreement.method in {Method.KEYS, Method.COEFFICIENTS}
    members[member] = weight + (members.get(member, 0) if adds_up else 0)
