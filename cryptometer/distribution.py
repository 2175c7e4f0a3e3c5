"""Distributions in a block: whether they continue their plant's chain, and what they move."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cryptometer.block_header import Balance
from cryptometer.errors import Reason, Rejected
from cryptometer.judging import Rule, is_recomputed, judge
from cryptometer.openings import Openings, opened_needs
from cryptometer.parts import join
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Plant, Settlement
from cryptometer.sharing_records import Distribution
from cryptometer.state import Party, State

_NOTHING: Openings = {}


def distributor(state: State, record: Record, body: Distribution) -> Party:
    """The virtual power plant that signed a distribution, if it may speak for the one it names.

    The signature itself is for the caller to verify.

    Raises:
        Rejected: OTHER_COMMUNITY, UNKNOWN_KEY, WRONG_ROLE or REVOKED.
    """
    if record.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    party = state.party_of(record.key_id, Role.VPP)
    if party.name != body.vpp:
        raise Rejected(Reason.WRONG_ROLE, f"the key of {party.name} does not speak for others")
    return party


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on one record.

    Attributes:
        reason: why its distribution moves nothing; None where it does.
        energy_uwh: of its own inputs, where it does.
        rule: what is known of the agreement's rule; None where it moves nothing.
    """

    reason: Reason | None
    energy_uwh: int = 0
    rule: Rule | None = None


def distribute(
    state: State, distributions: Sequence[Record], openings: Openings = _NOTHING
) -> tuple[State, list[Judged]]:
    """The state once distributions, which continue their plants' chains, have moved what they may,
    and the verdict on each record.

    As a record of a meter, one that is set aside stays in its chain: the plant need not sign
    another one in its place, and whoever signs two for one place is found by it.
    """
    # As accounts that have lost entries, dict() would copy them entry by entry.
    settlements, accounts = state.settlements.copy(), dict(state.accounts)
    balance = state.balance
    verdicts: list[Judged] = []
    for bodies in _wholes(distributions):
        try:
            whole = join(bodies)
            before = settlements.get(whole.step)
            settled = judge(state.agreed(whole.step), before, whole)
        except Rejected as refused:
            verdicts += [Judged(refused.reason) for _ in bodies]
            continue
        rule = _rule(state, before, whole, openings)
        settlements[whole.step] = settled
        for output in whole.outputs:
            accounts[output.member] = accounts.get(output.member, 0) + output.energy_uwh
        balance = _moved(balance, whole)
        for body in bodies:
            verdicts.append(Judged(None, sum(one.energy_uwh for one in body.inputs), rule))
    moved = replace(state, settlements=settlements, accounts=accounts, balance=balance)
    return moved, verdicts


def _rule(state: State, before: Settlement | None, whole: Distribution, openings: Openings) -> Rule:
    """What is known of the rule behind a distribution that moves what it says of this account."""
    agreed = state.agreed(whole.step)
    assert agreed is not None  # noqa: S101 - it was judged by it
    if is_recomputed(agreed.agreement):
        return Rule.RECOMPUTED
    needs = opened_needs(openings, state.community, whole)
    if needs is None:
        return Rule.SUMS_ONLY
    try:
        judge(agreed, before, whole, needs)
    except Rejected:
        return Rule.BROKEN
    return Rule.RECOMPUTED


def follow(plant: Plant, record: Record, body: Distribution) -> Plant:
    """Where a plant's chain stands once `record` has been added to it.

    Raises:
        Rejected: GAP, or FORK where its place is taken or it names another record as the one
            before.
    """
    if body.sequence != plant.sequence or body.previous != plant.previous:
        raise Rejected(
            Reason.GAP if body.sequence > plant.sequence else Reason.FORK,
            f"record {body.sequence} of {body.vpp} where {plant.sequence} is expected",
        )
    return Plant(body.vpp, body.sequence + 1, record.identity)


def continued(state: State, record: Record) -> State:
    """The state with a distribution as the newest record of its plant's chain, not judged yet.

    Raises:
        Rejected: as `distributor` and `follow`.
    """
    body = record.body
    assert isinstance(body, Distribution)  # noqa: S101 - the caller has sorted the leaves
    distributor(state, record, body)
    plant = follow(state.plant(body.vpp), record, body)
    return replace(state, plants={**state.plants, plant.name: plant})


def _wholes(distributions: Sequence[Record]) -> Iterator[list[Distribution]]:
    """Distributions with all their parts: each begins with a part 1."""
    parts: list[Distribution] = []
    for record in distributions:
        body = record.body
        assert isinstance(body, Distribution)  # noqa: S101 - the caller has sorted the leaves
        if parts and (body.part.number == 1 or body.vpp != parts[0].vpp):
            yield parts
            parts = []
        parts.append(body)
    if parts:
        yield parts


def _moved(balance: Balance, whole: Distribution) -> Balance:
    return replace(
        balance,
        waiting=balance.waiting - sum(one.energy_uwh for one in whole.inputs),
        allocated=balance.allocated + sum(one.energy_uwh for one in whole.outputs),
        losses=balance.losses + whole.losses_uwh,
        fees=balance.fees + whole.fee_uwh,
        surplus=balance.surplus + whole.surplus_uwh - whole.from_surplus_uwh,
    )
