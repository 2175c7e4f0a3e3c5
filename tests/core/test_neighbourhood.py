"""What holds of sharing whatever happens: many communities drawn from seeds, block by block."""

from hypothesis import given
from hypothesis import strategies as st

from cryptometer.audit import audit
from cryptometer.authority_records import AuthorityRecord
from cryptometer.chain_records import ChainRecord
from cryptometer.proposal import Proposal
from cryptometer.sharing_records import Distribution
from cryptometer.snapshot import (
    Rows,
    decode_state,
    encode_agreement,
    encode_common,
    encode_meter,
    encode_settlement,
)
from cryptometer.state import State
from tests.core.community import Village
from tests.core.neighbourhood import Neighbourhood, interleaved
from tests.core.strategies import examples

BLOCKS = 14


def rows_of(state: State) -> Rows:
    return Rows(
        encode_common(state),
        [encode_meter(one) for one in state.meters.values()],
        [encode_agreement(one) for one in state.agreements],
        [encode_settlement(one) for one in state.settlements.values()],
    )


def check_conserved(state: State) -> None:
    """Promise F; and each account by itself: what came in is what went out."""
    balance = state.balance
    assert balance.registered == (
        balance.untransferred + balance.waiting + balance.allocated + balance.losses
        + balance.fees + balance.surplus + balance.quarantined
    )  # fmt: skip
    assert sum(state.accounts.values()) == balance.allocated
    for settlement in state.settlements.values():
        agreed = state.agreed(settlement.step)
        assert agreed is not None
        outcome = settlement.outcome(agreed.agreement)
        assert outcome.energy_uwh == sum(one.energy_uwh for one in settlement.brought)
        assert min((*outcome.given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh)) >= 0
    waiting = sum(one.waiting_uwh for one in state.settlements.values())
    assert waiting <= balance.waiting  # before the first agreement, energy waits for nobody


def check_any_order(village: Village, before: State, seed: int) -> None:
    """However the leaves of the newest block arrived, they come to the same block."""
    leaves = village.blocks[-1][:-1]
    chains = [one for one in leaves if isinstance(one.body, ChainRecord)]
    proposal = Proposal(before, before.step + 1)
    for record in interleaved(chains, seed):
        assert isinstance(record.body, ChainRecord)
        proposal.add(record, record.body)
    applied = proposal.finish(
        [one for one in leaves if isinstance(one.body, AuthorityRecord)],
        [one for one in leaves if isinstance(one.body, Distribution)],
    )
    assert list(applied.leaves) == leaves
    assert applied.verdicts == village.checked[-1].verdicts
    header = village.blocks[-1][-1].body
    assert applied.after.balance == header.balance  # type: ignore[union-attr]  # a header


@examples(12)
@given(st.integers(0, 2**32))
def test_nothing_is_lost_taken_back_or_counted_twice(seed: int) -> None:
    life = Neighbourhood(seed)
    village = life.village
    given, accounts = life.given(), dict(village.state.accounts)
    for number in range(BLOCKS):
        before = village.state
        life.live()
        check_conserved(village.state)
        check_any_order(village, before, seed + number)
        now = life.given()
        assert all(now[place] >= amount for place, amount in given.items() if place in now)
        assert all(village.state.accounts[name] >= had for name, had in accounts.items())
        given, accounts = now, dict(village.state.accounts)
        for verdict in village.checked[-1].verdicts:
            if verdict.record.identity in life.lies:
                assert verdict.reason is not None
    report = audit(village.files().get, village.community())
    assert report.state == village.state
    assert decode_state(village.leaves[0], rows_of(village.state)) == village.state


def test_in_these_communities_everything_happens_that_should() -> None:
    """The seeds are worth their time: supplements, corrections, surplus, lies, every method."""
    methods: set[str] = set()
    supplements = corrections = lies = surplus = joined = 0
    for seed in range(12):
        life = Neighbourhood(seed)
        for _ in range(BLOCKS):
            life.live()
        state = life.village.state
        methods |= {agreed.agreement.method.value for agreed in state.agreements}
        lies += len(life.lies)
        surplus += state.balance.surplus > 0
        joined += len(state.accounts) > 3
        for checked in life.village.checked:
            for verdict in checked.verdicts:
                body = verdict.record.body
                if isinstance(body, Distribution) and verdict.reason is None:
                    supplements += body.supplement > 0 and bool(body.inputs)
                    corrections += not body.inputs
    assert methods == {"equal", "keys", "pro-rata", "coefficients"}
    assert min(supplements, corrections, lies, surplus, joined) > 0
