"""What a simulation remembers is what the function says, and of nothing but the same bytes."""

from unittest.mock import patch

import pytest

from cryptometer import records
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from tests.core.community import Authority
from tests.keys import p256_signer, signer
from tests.simulation.memory import Reading, verifying_once

DATA = b"what was signed"


def _is_accepted(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data)
    except Rejected as refused:
        return refused.reason is not Reason.BAD_SIGNATURE  # another refusal would be none of ours
    return True


@pytest.mark.parametrize("holder", [signer(1), p256_signer(1)])
def test_both_verdicts_are_remembered_and_no_other_bit_shares_them(holder: Signer) -> None:
    key, signature = holder.public, holder.sign(DATA)
    asked: list[tuple[bytes, bytes]] = []
    verify = PublicKey.verify

    def count(key: PublicKey, signature: bytes, data: bytes) -> None:
        asked.append((signature, data))
        verify(key, signature, data)

    spoiled = bytes((signature[0] ^ 1,)) + signature[1:]
    with patch.object(PublicKey, "verify", count), verifying_once():
        for _ in range(3):
            assert _is_accepted(key, signature, DATA)
            assert not _is_accepted(key, spoiled, DATA)
            assert not _is_accepted(key, signature, DATA + b".")
            assert not _is_accepted(signer(2).public, signature, DATA)
    assert len(asked) == 4
    assert PublicKey.verify is verify


def test_what_another_run_heard_is_not_believed() -> None:
    key, signature = signer(1).public, signer(1).sign(DATA)
    with patch.object(PublicKey, "verify", lambda *_: None), verifying_once():
        assert _is_accepted(key, bytes(64), DATA)
    with verifying_once():
        assert not _is_accepted(key, bytes(64), DATA)
        assert _is_accepted(key, signature, DATA)


def test_more_verdicts_than_are_kept_are_still_the_right_ones() -> None:
    key, signature = signer(1).public, signer(1).sign(DATA)
    with patch("tests.simulation.memory.VERDICTS_MAX", 2), verifying_once():
        for number in range(8):
            assert not _is_accepted(key, signature, DATA + bytes((number,)))
            assert _is_accepted(key, signature, DATA)


def test_a_checker_reads_as_the_program_decodes() -> None:
    raw, reading = Authority(signer(1)).genesis.raw, Reading()
    assert reading.decode(raw) == records.decode(raw)
    assert reading.decode(raw) is reading.decode(bytes(bytearray(raw)))
    for _ in range(2):
        with pytest.raises(Rejected):
            reading.decode(raw + b"\x00")
