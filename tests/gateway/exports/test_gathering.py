"""What exports find in the blocks of a community that shares: first distributions, late energy,
members who get nothing, steps that wait."""

import pytest

from cryptometer import records
from gateway.exports.allotments import Allotment, Given
from gateway.exports.gathering import Gathered
from tests.core.community import PULSE_UWH
from tests.gateway.exports.shared import shares
from tests.gateway.exports.watched import MISSED, STALE, watched


class Shared:
    """A village whose first shared step got late energy, whose second brought nothing, and whose
    third waits."""

    def __init__(self) -> None:
        self.village, self.first = shares(3)

    def gather(self, steps: range) -> Gathered:
        serials = {
            terms.registration: meter.serial
            for meter in self.village.state.meters.values()
            for terms in meter.terms
        }
        gathered = Gathered(steps, serials)
        for checked in self.village.checked:
            gathered.take(checked)
        return gathered

    def allotments(
        self, consumption: dict[int, dict[str, int]]
    ) -> dict[tuple[str, int], Allotment]:
        gathered = self.gather(range(self.first - 1, self.first + 4))
        found = list(gathered.allotments(self.village.state, consumption))
        return {(one.member, one.step): one for one in found}


@pytest.fixture(scope="module")
def shared() -> Shared:
    return Shared()


def test_late_energy_is_added_by_the_block_that_gave_it(shared: Shared) -> None:
    found = shared.allotments({})
    first = shared.first
    assert found["ann", first].given == (
        Given(first, 2 * PULSE_UWH),
        Given(first + 1, PULSE_UWH),
    )
    assert found["max", first].total_uwh == 9 * PULSE_UWH


def test_a_member_with_a_claim_to_nothing_was_given_nothing_and_that_is_known(
    shared: Shared,
) -> None:
    found = shared.allotments({})
    assert found["zoe", shared.first].given == (Given(shared.first, 0),)


def test_of_a_step_that_brought_nothing_it_is_known_that_nothing_was_given(shared: Shared) -> None:
    found = shared.allotments({})
    assert found["ann", shared.first + 1].given == (Given(shared.first + 1, 0),)


def test_what_waits_is_not_known_yet_and_what_has_no_block_has_no_line(shared: Shared) -> None:
    found = shared.allotments({shared.first + 2: {"ann": 7}})
    waiting = found["ann", shared.first + 2]
    assert (waiting.given, waiting.consumption_uwh) == ((), 7)
    assert {step for _, step in found} == set(range(shared.first, shared.first + 3))


def test_what_was_produced_is_what_distributions_spent(shared: Shared) -> None:
    gathered = shared.gather(range(shared.first, shared.first + 3))
    assert gathered.produced_uwh == {shared.first: 12 * PULSE_UWH}
    assert gathered.energy_uwh["m0"] == {
        shared.first: 8 * PULSE_UWH,
        shared.first + 1: 0,
        shared.first + 2: PULSE_UWH,
    }


def test_closes_begin_where_the_one_before_ended(shared: Shared) -> None:
    closes = shared.gather(range(shared.first, shared.first + 3)).closes["m0"]
    assert [one.before_uwh for one in closes[1:]] == [one.after_uwh for one in closes[:-1]]
    assert [one.begin_ms for one in closes[1:]] == [one.end_ms for one in closes[:-1]]
    assert all(one.after_uwh - one.before_uwh == one.transferred_uwh for one in closes)
    leaves = shared.village.leaves
    identities = [leaves[one.leaf] for one in closes]
    assert [records.decode(raw).identity for raw in identities] == [one.identity for one in closes]


def test_steps_that_were_not_asked_for_are_left_out(shared: Shared) -> None:
    gathered = shared.gather(range(shared.first + 1, shared.first + 2))
    assert set(gathered.energy_uwh["m0"]) == {shared.first + 1}
    assert not gathered.given


def test_a_close_that_brings_what_was_not_closed_before_says_since_when() -> None:
    village, steps = watched()
    gathered = Gathered(steps, Serials())
    for checked in village.checked:
        gathered.take(checked)
    behind = (MISSED[-1] + 1, STALE + 1)
    assert gathered.since == {
        "hall": {
            steps[behind[0]]: steps[MISSED[0] - 1],
            steps[behind[1]]: steps[STALE - 1],
        }
    }


class Serials(dict[bytes, str]):
    """Of meters whose numbers do not matter."""

    def __missing__(self, _: bytes) -> str:
        return "MID"
