"""What a gateway knows of sharing: where a step's energy waits and why, what members were given.
Values for programs, lines for people.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cryptometer.metrology import kwh
from cryptometer.readable import utc
from cryptometer.record_fields import Role
from cryptometer.settlement import Settlement
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from gateway.lacking import Cause, Facts, Lack, asked, describe, lacks, look_up
from gateway.store import StoreDamaged

MEMBERS_SHOWN = 50
WAITING_SHOWN = 10  # runs of steps that wait for one reason


@dataclass(frozen=True, slots=True)
class WaitingReport:
    """A step whose energy, or some of it, waits at the virtual power plant.

    Attributes:
        lacks: what is missing. Without members where these must not be named.
    """

    step: int
    energy_uwh: int
    lacks: tuple[Lack, ...]


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One member.

    Attributes:
        energy_uwh: all that was ever given: the register of the virtual generation meter.
    """

    name: str
    energy_uwh: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """An agreement that holds now, or from a later step on.

    Attributes:
        identity: of the authority's record.
        members: how many have a claim.
    """

    identity: str
    from_step: int
    method: str
    members: int


@dataclass(frozen=True, slots=True)
class SharedReport:
    """The newest step of which energy was shared, all its distributions added up."""

    step: int
    distributions: int
    members_uwh: int
    losses_uwh: int
    fee_uwh: int
    surplus_uwh: int


def waiting_steps(state: State, facts: Facts | None) -> list[WaitingReport]:
    """The steps that wait, in order.

    Args:
        facts: None for who must not know what members consumed.

    Raises:
        OSError: the facts cannot be read now.
    """
    return [
        WaitingReport(step, one.waiting_uwh, _lacks(state, one, facts))
        for step, one in sorted(state.settlements.items())
        if one.waiting_uwh
    ]


def _lacks(state: State, settlement: Settlement, facts: Facts | None) -> tuple[Lack, ...]:
    agreed = state.agreed(settlement.step)
    if agreed is None:
        return (Lack(Cause.NO_AGREEMENT),)
    agreement = agreed.agreement
    if facts is None:
        found = asked(agreement)
    else:
        try:
            found = lacks(agreement, look_up(agreement, settlement.step, facts), settlement)
        except StoreDamaged:  # which the report says on a line of its own
            found = asked(agreement)
    return tuple(found) or (Lack(Cause.NEXT_BLOCK),)


def newest_shared(state: State) -> SharedReport | None:
    """The newest step that something was given out of; None where there is none, or it is older
    than what may still be followed."""
    steps = [step for step, one in state.settlements.items() if one.supplements]
    if not steps:
        return None
    one = state.settlements[max(steps)]
    agreed = state.agreed(one.step)
    given = sum(one.given(agreed.agreement)) if agreed is not None else 0
    return SharedReport(
        one.step, one.supplements, given, one.losses_uwh, one.fee_uwh, one.surplus_uwh
    )


def agreement_reports(state: State) -> list[AgreementReport]:
    """What holds in the step after the newest block, and what follows, by step."""
    steps = {agreed.agreement.from_step for agreed in state.agreements}
    begins = {state.step + 1, *(step for step in steps if step > state.step + 1)}
    found: list[AgreementReport] = []
    for step in sorted(begins):
        agreed = state.agreed(step)
        if agreed is None:
            continue
        one = agreed.agreement
        said = AgreementReport(
            agreed.identity.hex(), one.from_step, one.method.value, len(one.members)
        )
        if said not in found:
            found.append(said)
    return found


def member_reports(state: State) -> list[MemberReport]:
    """Everyone who is or was a member, in the order of names."""
    parties = {name: one for (role, name), one in state.parties.items() if role is Role.MEMBER}
    return [
        MemberReport(name, state.accounts.get(name, 0), one.revoked)
        for name, one in sorted(parties.items())
    ]


def describe_sharing(
    agreements: Sequence[AgreementReport],
    waiting: Sequence[WaitingReport],
    shared: SharedReport | None,
    members: Sequence[MemberReport],
    step_s: int,
) -> Iterator[str]:
    """The report as lines for people."""
    for agreement in agreements:
        begins = utc(step_start_ms(agreement.from_step, step_s))[:16]
        yield (
            f"agreement      from step {agreement.from_step} on ({begins}Z): {agreement.method},"
            f" {agreement.members} members"
        )
    if shared is not None:
        yield f"shared         {_shared(shared, step_s)}"
    runs = [list(run) for _, run in groupby(waiting, lambda one: one.lacks)]
    for run in runs[:WAITING_SHOWN]:
        yield f"waiting        {_run(run)}"
    if more := sum(len(run) for run in runs[WAITING_SHOWN:]):
        yield f"               and {more} steps more"
    for member in members[:MEMBERS_SHOWN]:
        yield (
            f"member {member.name}  {kwh(member.energy_uwh)}"
            + ("  REVOKED" if member.revoked else "")
        )
    if len(members) > MEMBERS_SHOWN:
        yield f"and {len(members) - MEMBERS_SHOWN} members more"


def _shared(shared: SharedReport, step_s: int) -> str:
    more = "" if shared.distributions == 1 else f" in {shared.distributions} distributions"
    parts = [f"to members {kwh(shared.members_uwh)}{more}"]
    for what, energy in (
        ("losses", shared.losses_uwh),
        ("fee", shared.fee_uwh),
        ("surplus", shared.surplus_uwh),
    ):
        if energy:
            parts.append(f"{what} {kwh(energy)}")
    begins = utc(step_start_ms(shared.step, step_s))[:16]
    return f"newest step {shared.step} ({begins}Z): {', '.join(parts)}"


def _run(run: Sequence[WaitingReport]) -> str:
    first, last = run[0].step, run[-1].step
    steps = f"step {first}" if first == last else f"{len(run)} of steps {first} to {last}"
    energy = sum(one.energy_uwh for one in run)
    return f"{steps}, {kwh(energy)}: {'; '.join(map(describe, run[0].lacks))}"
