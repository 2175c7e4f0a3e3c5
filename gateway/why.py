"""Why a member got what he got in a step: the ledger's own words, recomputed from all that the
gateway knows of consumption."""

from collections.abc import Iterator

from cryptometer.community import Community
from cryptometer.errors import ConfigurationError
from cryptometer.explaining import explain_share
from cryptometer.metrology import kwh
from cryptometer.readable import utc
from cryptometer.settlement import Settlement
from cryptometer.share_file import Share, verify_share
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from cryptometer.tiles import Read
from gateway.lacking import Cause, Facts, Lack, asked, describe, lacks, look_up
from gateway.share import make_share
from gateway.store import Store


def why(
    member: str, step: int, store: Store, read: Read, community: Community, facts: Facts | None
) -> list[str]:
    """The answer, one sentence or two a line.

    Args:
        read: gives the content of a ledger path, or None.
        community: with all of the authority's records.
        facts: what is known of consumption; None where it may not be asked.

    Raises:
        ConfigurationError: nothing was given to the member in that step, and nothing waits.
        Rejected: the ledger's files do not hold.
        OSError: the facts cannot be read now.
    """
    state = store.state()
    settlement = None if state is None else state.settlements.get(step)
    begins = utc(step_start_ms(step, community.parameters.step_s))[:16]
    lines = [f"Step {step}, which began at {begins}Z."]
    if state is not None and settlement is not None and settlement.waiting:
        lines += _waits(state, settlement, member, facts)
        if not settlement.supplements:
            return lines
    share = verify_share(make_share(member, step, store, read, community), community)
    return lines + list(_explained(share, facts))


def _waits(state: State, settlement: Settlement, member: str, facts: Facts | None) -> Iterator[str]:
    agreed = state.agreed(settlement.step)
    if agreed is None:
        found = [Lack(Cause.NO_AGREEMENT)]
    else:
        agreement = agreed.agreement
        if member not in agreement.members:
            raise ConfigurationError(f"{member} has no claim in step {settlement.step}")
        if facts is None:
            found = asked(agreement)
        else:
            found = lacks(agreement, look_up(agreement, settlement.step, facts), settlement)
    reasons = "; ".join(map(describe, found or [Lack(Cause.NEXT_BLOCK)]))
    yield f"{kwh(settlement.waiting_uwh)} of it wait at the virtual power plant: {reasons}."


def _explained(share: Share, facts: Facts | None) -> Iterator[str]:
    agreement = share.agreement
    if len(share.given) > 1:
        yield f"It was shared in {len(share.given)} distributions, one behind another."
    needs = None
    if agreement.needs_consumption and facts is not None:
        used = facts.of(share.step)
        needs = {name: used[name] for name in agreement.members if name in used}
    yield from explain_share(share, needs)
