"""What a simulation remembers is what the function says, and of nothing but the same bytes."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from cryptometer import cose, records
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from tests.core.community import Authority
from tests.core.refusing import refusing
from tests.keys import p256_signer, signer
from tests.simulation.memory import remembering

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
    with patch.object(PublicKey, "verify", count), remembering():
        for _ in range(3):
            assert _is_accepted(key, signature, DATA)
            assert not _is_accepted(key, spoiled, DATA)
            assert not _is_accepted(key, signature, DATA + b".")
            assert not _is_accepted(signer(2).public, signature, DATA)
    assert len(asked) == 4
    assert PublicKey.verify is verify


def test_what_was_signed_here_is_known_to_verify_and_nothing_else_is() -> None:
    asked: list[bytes] = []
    verify = PublicKey.verify

    def count(key: PublicKey, signature: bytes, data: bytes) -> None:
        asked.append(data)
        verify(key, signature, data)

    with patch.object(PublicKey, "verify", count), remembering():
        key, signature = signer(1).public, signer(1).sign(DATA)
        assert _is_accepted(key, signature, DATA)
        assert asked == []
        assert not _is_accepted(key, signature, DATA + b".")
        assert not _is_accepted(signer(2).public, signature, DATA)
    assert asked == [DATA + b".", DATA]
    with remembering():
        assert _is_accepted(key, signature, DATA)


def test_what_another_run_heard_is_not_believed() -> None:
    key, signature = signer(1).public, signer(1).sign(DATA)
    with patch.object(PublicKey, "verify", lambda *_: None), remembering():
        assert _is_accepted(key, bytes(64), DATA)
    with remembering():
        assert not _is_accepted(key, bytes(64), DATA)
        assert _is_accepted(key, signature, DATA)


def test_more_verdicts_than_are_kept_are_still_the_right_ones() -> None:
    key, signature = signer(1).public, signer(1).sign(DATA)
    with patch("tests.simulation.memory.ANSWERS_MAX", 2), remembering():
        for number in range(8):
            assert not _is_accepted(key, signature, DATA + bytes((number,)))
            assert _is_accepted(key, signature, DATA)


def test_a_record_is_read_once_and_another_bit_makes_another_record() -> None:
    raw = Authority(signer(1)).genesis.raw
    whole = records.decode(raw)
    asked: list[bytes] = []
    open_seal = cose.open_seal

    def count(raw: bytes) -> cose.Envelope:
        asked.append(raw)
        return open_seal(raw)

    with patch.object(cose, "open_seal", count), remembering():
        again = records.decode(raw)
        assert again == whole
        assert records.decode(bytes(bytearray(raw))) is again
        assert records.decode_body(cose.open_seal(raw)) == whole
        for _ in range(2):
            with refusing(Reason.MALFORMED):
                records.decode(raw + b"\x00")
        spoiled = raw[:-1] + bytes((raw[-1] ^ 1,))
        assert records.decode(spoiled) != whole
    assert asked == [raw, raw + b"\x00", spoiled]
    assert records.decode(raw) == whole
    assert cose.open_seal is open_seal


def test_a_defect_in_how_records_are_read_shows_in_the_next_run() -> None:
    raw = Authority(signer(1)).genesis.raw
    with remembering():
        whole = records.decode(raw)
    other = replace(whole.envelope, payload=b"")
    with patch.object(cose, "open_seal", lambda _: other), remembering():
        assert cose.open_seal(raw) is other
        with refusing(Reason.MALFORMED):
            records.decode(raw)
