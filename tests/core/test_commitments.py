"""Commitments to what members consumed, and what opens them."""

from dataclasses import replace
from hashlib import sha256

import cbor2
import pytest

from cryptometer.openings import Opening, commitment, opened_needs
from tests.core.settling import COMMUNITY, NEEDS, SALT, STEP, private


def test_a_commitment_is_the_hash_of_all_that_it_is_of() -> None:
    said = ["cryptometer consumption", COMMUNITY, STEP, "ana", 500, SALT]
    expected = sha256(cbor2.dumps(said)).digest()
    assert commitment(COMMUNITY, STEP, "ana", 500, SALT) == expected
    for wrong in (SALT[1:], SALT + b"\6"):
        with pytest.raises(ValueError, match="32 bytes"):
            commitment(COMMUNITY, STEP, "ana", 500, wrong)


def test_openings_say_what_members_consumed_only_if_every_one_fits() -> None:
    _, whole = private()
    fit = {(STEP, name): [Opening(need, SALT)] for name, need in NEEDS.items()}
    assert opened_needs(fit, COMMUNITY, whole) == NEEDS
    assert opened_needs(fit, bytes(32), whole) is None
    assert opened_needs({}, COMMUNITY, whole) is None
    for name in NEEDS:
        one = STEP, name
        assert opened_needs({at: fit[at] for at in fit if at != one}, COMMUNITY, whole) is None
        right = fit[one][0]
        for wrong in (Opening(right.need_uwh + 1, SALT), Opening(right.need_uwh, bytes(32))):
            assert opened_needs(fit | {one: [wrong]}, COMMUNITY, whole) is None
            assert opened_needs(fit | {one: [wrong, right]}, COMMUNITY, whole) == NEEDS
    assert opened_needs(fit, COMMUNITY, replace(whole, step=STEP + 1)) is None
