"""A step's account, from what waits to what was given."""

from dataclasses import replace
from struct import pack

from cryptometer.settlement import Settlement, in_force, opened
from cryptometer.sharing import Outcome
from tests.core.settling import ACCOUNT, STEP, agreed


def test_an_account_says_what_waits_and_what_each_member_has() -> None:
    by = agreed().agreement
    assert opened(STEP) == Settlement(STEP, (), (), 0, b"", 0, 0, 0)
    assert (ACCOUNT.waiting_uwh, ACCOUNT.members) == (2500, 0)
    assert ACCOUNT.given(by) == (0, 0)
    given = replace(ACCOUNT, packed=pack(">2Q", 3, 2**63), losses_uwh=4, fee_uwh=5, surplus_uwh=6)
    assert given.members == 2
    assert given.outcome(by) == Outcome((3, 2**63), 4, 5, 6)
    assert replace(ACCOUNT, packed=bytes(9)).members == -1


def test_the_newest_agreement_whose_step_has_come_is_in_force() -> None:
    first, second = agreed(from_step=4), agreed(from_step=9)
    found = [in_force((first, second), step) for step in (3, 4, 8, 9, 10)]
    assert found == [None, first, first, second, second]
