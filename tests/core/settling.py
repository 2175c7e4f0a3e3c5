"""Agreements, an account and distributions of it, as values: no signature and no block."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from cryptometer.drafting import draft
from cryptometer.openings import commitment
from cryptometer.settlement import Agreed, Plant, Settlement, Waiting, opened
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method, Output

STEP = 7
LATE, EARLY = Waiting(b"\2" * 32, "m1", 1000, 3), Waiting(b"\1" * 32, "m0", 1500, 2)
ACCOUNT = replace(opened(STEP), waiting=(LATE, EARLY))
COMMUNITY, SALT = b"\5" * 32, b"\6" * 32
ANA, BOB = Claim("ana", 8, 0), Claim("bob", 17, 0)
DEDUCTED: dict[str, Any] = {"losses": Fraction(1, 10), "fee": Fraction(1, 100), "fee_to": "coop"}
NEEDS = {"bob": 600, "ana": 500}
PLANT = Plant("plant", 5, b"\4" * 32)


def agreed(*claims: Claim, method: Method = Method.KEYS, **changes: Any) -> Agreed:
    terms = Agreement(
        1, bytes(32), "plant", 1, method, False, 1, claims or (ANA, BOB), "grid",
        are_losses_stated=False,
    )  # fmt: skip
    return Agreed(b"\3" * 32, replace(terms, **changes))


def digests(**needs: int) -> dict[str, bytes]:
    return {name: commitment(COMMUNITY, STEP, name, need, SALT) for name, need in needs.items()}


def drafted(by: Agreed, account: Settlement = ACCOUNT, **changes: Any) -> Distribution:
    whole = draft(by, account, **changes)
    assert whole is not None
    return whole


def private(account: Settlement = ACCOUNT, **needs: int) -> tuple[Agreed, Distribution]:
    """By consumption, with losses and a fee."""
    by = agreed(method=Method.PRO_RATA, **DEDUCTED)
    known = NEEDS | needs
    return by, drafted(by, account, needs=known, commitments=digests(**known))


def more(outputs: Sequence[Output], *added: int) -> tuple[Output, ...]:
    return tuple(
        replace(one, energy_uwh=one.energy_uwh + energy)
        for one, energy in zip(outputs, added, strict=True)
    )
