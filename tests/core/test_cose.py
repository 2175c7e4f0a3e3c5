"""The envelope of records: one form, and not one bit of it free."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor, cose
from cryptometer.errors import Reason
from cryptometer.keys import Signer
from tests.core.community import flip
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of, strange_cbor
from tests.keys import p256_signer, signer

COMMUNITY = bytes(range(32))
SIGNERS = [signer(1), p256_signer(1)]
PAYLOAD = cbor.encode({0: "m0", 1: 7})


def sealed(payload: bytes = PAYLOAD, by: Signer = SIGNERS[0], kind: str = "batch") -> bytes:
    return cose.seal(kind, COMMUNITY, payload, by)


def rebuilt(raw: bytes, **changes: object) -> bytes:
    """The record with parts replaced, in canonical CBOR, its signature as it was."""
    protected, unprotected, payload, signature = cbor2.loads(raw)
    parts = {
        "protected": protected, "unprotected": unprotected, "payload": payload,
        "signature": signature,
    }  # fmt: skip
    return cbor2.dumps(list((parts | changes).values()), canonical=True)


def with_header(**changes: object) -> bytes:
    """A record whose header has entries `_1` and so on replaced; None leaves one out."""
    header = cbor2.loads(cbor2.loads(sealed())[0])
    header |= {int(key[1:]): value for key, value in changes.items()}
    kept = {key: value for key, value in header.items() if value is not None}
    return rebuilt(sealed(), protected=cbor2.dumps(kept, canonical=True))


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_000])
def test_what_was_sealed_opens_and_verifies(by: Signer, size: int) -> None:
    payload = bytes(size)
    envelope = cose.open_seal(sealed(payload, by))
    envelope.verify(by.public)
    assert envelope.payload == payload
    assert envelope.header == cose.Header(
        by.public.algorithm, by.public.thumbprint, "batch", COMMUNITY
    )
    assert cbor2.loads(envelope.signed) == [
        "Signature1",
        cbor2.loads(envelope.raw)[0],
        b"",
        payload,
    ]


def test_the_identity_does_not_depend_on_the_signature() -> None:
    by = p256_signer(1)
    first, second = (cose.open_seal(sealed(by=by)) for _ in range(2))
    assert first.signature != second.signature
    assert first.identity == second.identity
    assert first.identity != cose.open_seal(sealed()).identity


@pytest.mark.parametrize("by", SIGNERS, ids=["Ed25519", "ES256"])
def test_every_changed_bit_is_refused(by: Signer) -> None:
    raw = sealed(by=by)

    def accept(changed: bytes) -> None:
        cose.open_seal(changed).verify(by.public)

    accept(raw)
    for bit in range(8 * len(raw)):
        assert refusal_of(accept, flip(raw, bit)) is not None, bit


def test_every_shortened_or_lengthened_record_is_refused() -> None:
    raw = sealed()
    for size in range(len(raw)):
        assert refusal_of(cose.open_seal, raw[:size]) is not None, size
    with refusing(Reason.MALFORMED, "end the record"):
        cose.open_seal(raw + b"\x00")


def test_the_algorithm_must_be_that_of_the_key() -> None:
    with refusing(Reason.WRONG_ALGORITHM):
        cose.open_seal(sealed()).verify(p256_signer(1).public)
    with refusing(Reason.WRONG_ALGORITHM):
        cose.open_seal(sealed(by=p256_signer(1))).verify(signer(1).public)
    with refusing(Reason.WRONG_ALGORITHM, "-35"):
        cose.open_seal(with_header(_1=-35))


def test_another_key_of_the_same_algorithm_does_not_verify() -> None:
    with refusing(Reason.BAD_SIGNATURE):
        cose.open_seal(sealed()).verify(signer(2).public)


def test_a_record_has_at_most_what_a_tile_holds() -> None:
    overhead = len(sealed(bytes(65_000))) - 65_000
    largest = sealed(bytes(cose.RECORD_MAX - overhead))
    assert len(largest) == cose.RECORD_MAX
    cose.open_seal(largest).verify(signer(1).public)
    with pytest.raises(ValueError, match="65536 bytes exceeds 65535"):
        sealed(bytes(cose.RECORD_MAX - overhead + 1))
    with pytest.raises(ValueError, match="exceed a record"):
        sealed(bytes(cose.RECORD_MAX + 1))
    with refusing(Reason.TOO_LARGE, "65536"):
        cose.open_seal(largest + b"\x00")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xd2" + sealed(),
        b"\xd9\xd9\xf7" + sealed(),
        b"\x85" + sealed()[1:] + b"\x00",
        b"\x9f" + sealed()[1:] + b"\xff",
        rebuilt(sealed(), unprotected={4: b"11"}),
        rebuilt(sealed(), unprotected=[]),
        rebuilt(sealed(), payload=None),
        rebuilt(sealed(), payload="text"),
        rebuilt(sealed(), protected={}),
        rebuilt(sealed(), signature=bytes(63)),
        rebuilt(sealed(), signature=bytes(65)),
        rebuilt(sealed(), signature=b""),
        with_header(_4=bytes(31)),
        with_header(_4=None),
        with_header(_1=None),
        with_header(_1="EdDSA"),
        with_header(_10=bytes(31)),
        with_header(_10=7),
        with_header(_16=None),
        with_header(_16=60),
        with_header(_3="application/cbor"),
        with_header(_2=[4]),
        rebuilt(sealed(), protected=bytes(cose.HEADER_MAX + 1)),
        rebuilt(sealed(), protected=b""),
        rebuilt(sealed(), protected=b"\x80"),
        b"",
        b"\x84",
        b"\x84\x58",
        b"\x84\x59\x01",
    ],
)
def test_another_form_is_refused(raw: bytes) -> None:
    assert refusal_of(cose.open_seal, raw) in (Reason.MALFORMED, Reason.NOT_CANONICAL)


def test_a_protected_header_has_a_limit() -> None:
    """Otherwise a header would be where a stranger's bytes reach the decoder at length."""
    longest = cose.HEADER_MAX - len(cbor2.loads(with_header(_16=""))[0]) - 1
    at_limit = with_header(_16="x" * longest)
    assert len(cbor2.loads(at_limit)[0]) == cose.HEADER_MAX
    with refusing(Reason.UNKNOWN_KIND):
        cose.open_seal(at_limit)
    with refusing(Reason.MALFORMED, "above 192 bytes"):
        cose.open_seal(with_header(_16="x" * (longest + 1)))


def test_overlong_heads_and_unsorted_headers_are_not_canonical() -> None:
    protected, _, payload, signature = cbor2.loads(sealed())
    head = b"\x84" + b"\x58" + bytes([len(protected)]) + protected + b"\xa0"
    tail = b"\x58\x40" + signature
    assert head + bytes([0x40 | len(payload)]) + payload + tail == sealed()
    for long_head in (b"\x58", b"\x59\x00"):
        with refusing(Reason.NOT_CANONICAL):
            cose.open_seal(head + long_head + bytes([len(payload)]) + payload + tail)
    header = cbor2.loads(protected)
    unsorted = cbor2.dumps(dict(reversed(header.items())))
    with refusing(Reason.NOT_CANONICAL):
        cose.open_seal(rebuilt(sealed(), protected=unsorted))
    twice = bytes([protected[0] + 1]) + protected[1:3] + b"\x01\x27" + protected[3:]
    with refusing(Reason.NOT_CANONICAL):
        cose.open_seal(rebuilt(sealed(), protected=twice))


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.cryptometer.batch.v2",
        "application/vnd.cryptometer.batch",
        "application/vnd.other.batch.v1",
        "text/plain",
        "",
    ],
)
def test_another_format_version_is_an_unknown_kind(media_type: str) -> None:
    with refusing(Reason.UNKNOWN_KIND):
        cose.open_seal(with_header(_16=media_type))


@examples(300)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert refusal_of(cose.open_seal, data) is not None


@examples(300)
@given(strange_cbor(), strange_cbor(), strange_cbor())
def test_strange_parts_in_an_envelope_are_refused(a: bytes, b: bytes, c: bytes) -> None:
    signature = b"\x58\x40" + bytes(64)
    assert refusal_of(cose.open_seal, b"\x84" + a + b + c + signature) is not None
    in_header = cbor2.dumps(a[: cose.HEADER_MAX]) + b"\xa0" + cbor2.dumps(b)
    assert refusal_of(cose.open_seal, b"\x84" + in_header + signature) is not None


@examples(300)
@given(st.data())
def test_a_mutated_record_opens_only_as_other_bytes_that_do_not_verify(data: st.DataObject) -> None:
    raw = sealed(by=data.draw(st.sampled_from(SIGNERS)))
    at = data.draw(st.integers(0, len(raw)))
    gone = data.draw(st.integers(0, 8))
    changed = raw[:at] + data.draw(st.binary(max_size=8)) + raw[at + gone :]
    if changed == raw:
        return

    def accept(one: bytes) -> None:
        envelope = cose.open_seal(one)
        envelope.verify(next(by.public for by in SIGNERS if by.public.thumbprint in one))

    if any(by.public.thumbprint in changed for by in SIGNERS):
        assert refusal_of(accept, changed) is not None
