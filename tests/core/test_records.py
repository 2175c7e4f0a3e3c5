"""Records: every kind survives its bytes; nothing that differs in a bit is the same record."""

import json
from functools import partial
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor, cose
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.chain_records import LOTS_MAX, MARKS_MAX, Batch, Mark
from cryptometer.errors import Reason
from cryptometer.keys import PublicKey
from cryptometer.metrology import Side
from cryptometer.record_fields import Kind
from cryptometer.records import Body, Record, decode, seal
from cryptometer.wire import encode_map
from tests.core.community import DETAILS, Village, flip
from tests.core.refusing import refusing
from tests.core.strategies import bodies, examples, plain_values, refusal_of
from tests.keys import p256_signer, signer
from tests.vectors.example import SIGNERS as EXAMPLE_SIGNERS
from tests.vectors.generate import FOLDER, SIGNERS

COMMUNITY = bytes(range(32))
FREE = (Kind.GENESIS, Kind.ENROLMENT_REQUEST)
GOLDEN = sorted((FOLDER / "records").glob("*.json"))
KEYS = {
    signer(number).public.thumbprint: signer(number).public
    for number in (*SIGNERS.values(), *EXAMPLE_SIGNERS.values())
}


def golden(name: str) -> Record:
    stated = json.loads((FOLDER / "records" / f"{name}.json").read_bytes())
    return decode(bytes.fromhex(stated["record"]))


def accept(raw: bytes, key: PublicKey) -> None:
    """What every reader does before it believes a record."""
    decode(raw).envelope.verify(key)


def community_of(body: Body) -> bytes | None:
    return None if body.KIND in FREE else COMMUNITY


def sealed_payload(kind: str, payload: bytes, community: bytes | None = COMMUNITY) -> bytes:
    return cose.seal(kind, community, payload, signer(1))


@examples(300)
@given(bodies(), st.sampled_from([signer(1), p256_signer(1)]))
def test_a_statement_survives_sealing(body: Body, by: Any) -> None:
    record = seal(body, community_of(body), by)
    again = decode(record.raw)
    assert again.body == body
    assert again.identity == record.identity
    assert again.key_id == by.public.thumbprint
    assert again.community == (COMMUNITY if body.KIND not in FREE else record.identity)
    again.envelope.verify(by.public)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_one_changed_bit_anywhere_in_a_golden_record_is_refused(path: Any) -> None:
    raw = golden(path.stem).raw
    key = KEYS[golden(path.stem).key_id]
    accept(raw, key)
    step = 1 if len(raw) <= 300 else 7  # odd: every bit of a byte gets its turn
    for bit in range(0, 8 * len(raw), step):
        assert refusal_of(accept, flip(raw, bit), key) is not None, bit


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_record_that_is_cut_off_anywhere_is_refused(path: Any) -> None:
    raw = golden(path.stem).raw
    for size in range(len(raw)):
        assert refusal_of(decode, raw[:size]) is not None, size


@pytest.mark.parametrize("kind", ["winner", "vote", "nonsense", "", "Batch"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with refusing(Reason.UNKNOWN_KIND):
        decode(sealed_payload(kind, b"\xa0"))


@pytest.mark.parametrize("kind", list(Kind))
def test_only_a_genesis_or_a_request_stands_outside_a_community(kind: Kind) -> None:
    payload = golden(kind.value).envelope.payload
    wrong = COMMUNITY if kind in FREE else None
    with refusing(Reason.MALFORMED, "outside a community"):
        decode(sealed_payload(kind.value, payload, wrong))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_payload_of_another_kind_is_refused(kind: Kind) -> None:
    for other in Kind:
        if other is not kind:
            payload = golden(other.value).envelope.payload
            assert (
                refusal_of(
                    decode, sealed_payload(kind.value, payload, None if kind in FREE else COMMUNITY)
                )
                is Reason.MALFORMED
            ), other


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\x80", Reason.MALFORMED),
        (b"\xa0", Reason.MALFORMED),
        (b"\xc1\x00", Reason.MALFORMED),
        (b"\xbf\xff", Reason.NOT_CANONICAL),
        (b"\xa1\x00\xf9\x3c\x00", Reason.MALFORMED),
        (b"\xb8\x01\x00\x00", Reason.NOT_CANONICAL),
    ],
)
def test_a_payload_that_is_no_such_map_is_refused(
    kind: Kind, payload: bytes, reason: Reason
) -> None:
    with refusing(reason):
        decode(sealed_payload(kind.value, payload, None if kind in FREE else COMMUNITY))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_payload_with_a_key_twice_or_out_of_order_is_not_canonical(kind: Kind) -> None:
    payload = golden(kind.value).envelope.payload
    body = cbor2.loads(payload)
    community = None if kind in FREE else COMMUNITY
    first = cbor2.dumps(0) + cbor2.dumps(body[0], canonical=True)
    assert payload[1 : 1 + len(first)] == first
    twice = bytes([payload[0] + 1]) + first + payload[1:]
    assert cbor2.loads(twice) == body
    backwards = cbor2.dumps(dict(reversed(body.items())))
    for other in (twice, backwards, payload + b"\x00"):
        with refusing(Reason.NOT_CANONICAL):
            decode(sealed_payload(kind.value, other, community))


@examples(150)
@given(
    st.sampled_from(list(Kind)), st.dictionaries(st.integers(0, 16), plain_values(), max_size=12)
)
def test_a_signed_payload_of_any_content_is_decoded_or_refused(
    kind: Kind, content: dict[int, Any]
) -> None:
    community = None if kind in FREE else COMMUNITY
    raw = sealed_payload(kind.value, cbor.encode(content), community)
    assert refusal_of(decode, raw) in (None, Reason.MALFORMED)


@examples(150)
@given(st.sampled_from(GOLDEN), st.data())
def test_a_payload_with_one_entry_replaced_is_decoded_or_refused(
    path: Any, data: st.DataObject
) -> None:
    record = golden(path.stem)
    body = cbor2.loads(record.envelope.payload)
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(plain_values())
    raw = sealed_payload(
        record.body.KIND.value, cbor.encode(body), None if record.body.KIND in FREE else COMMUNITY
    )
    if refusal_of(decode, raw) is None:
        assert cbor.encode(encode_map(decode(raw).body)) == cbor.encode(body)


@examples(300)
@given(st.sampled_from(GOLDEN), st.data())
def test_a_mutated_record_is_refused(path: Any, data: st.DataObject) -> None:
    record = golden(path.stem)
    at = data.draw(st.integers(0, len(record.raw)))
    gone = data.draw(st.integers(0, 20))
    changed = record.raw[:at] + data.draw(st.binary(max_size=20)) + record.raw[at + gone :]
    if changed != record.raw:
        assert refusal_of(accept, changed, KEYS[record.key_id]) is not None


@examples(200)
@given(st.binary(max_size=600))
def test_random_bytes_are_no_record(data: bytes) -> None:
    assert refusal_of(decode, data) is not None


def test_sealing_refuses_a_value_out_of_range() -> None:
    with refusing(Reason.MALFORMED):
        seal(acknowledgement(register=2**61 + 1), COMMUNITY, signer(1))
    with refusing(Reason.MALFORMED):
        seal(acknowledgement(meter="Not a name"), COMMUNITY, signer(1))


def acknowledgement(**changes: Any) -> Acknowledgement:
    fields: dict[str, Any] = {
        "meter": "m0", "epoch": 1, "sequence": 2, "previous": bytes(32), "register": 3,
    }  # fmt: skip
    return Acknowledgement(**fields | changes)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_can_be_told_to_a_device(reason: Reason) -> None:
    record = seal(acknowledgement(stop=Stop(5, reason)), COMMUNITY, signer(1))
    body = decode(record.raw).body
    assert isinstance(body, Acknowledgement)
    assert body.stop == Stop(5, reason)


@pytest.mark.parametrize("name", ["a", "7", "a-b", "0-0", "z" * 63, "pv-roof-12"])
def test_a_name_fits_a_topic_a_label_and_a_file(name: str) -> None:
    seal(acknowledgement(meter=name), COMMUNITY, signer(1))


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a b", "a/b", "a#", "+", "a.b", "..", "z" * 64, "é", "a\n"]
)
def test_other_names_are_refused(name: str) -> None:
    with refusing(Reason.MALFORMED):
        seal(acknowledgement(meter=name), COMMUNITY, signer(1))


def test_a_batch_of_the_most_lots_fits_into_a_record() -> None:
    """`LOTS_MAX` with the longest numbers a step can hold: 2^32 pulses, a day in milliseconds."""
    village = Village()
    device = village.device
    device.sequence, device.register = 2**60, 2**60
    lots = (2**32, 86_400_000) * LOTS_MAX
    marks = (2**63 - 1, 2**63 - 1) * MARKS_MAX
    record = device.batch(village.next_step, lots=lots, marks=marks)
    assert len(record.raw) <= cose.RECORD_MAX


def test_a_batch_sums_and_splits_its_lots() -> None:
    village = Village()
    village.device.register = 10
    body = village.device.batch(village.next_step, 3, 4, lots=(3, 700, 4, 900)).body
    assert isinstance(body, Batch)
    assert (body.pulses, body.closed_ms, body.register_after) == ((3, 4), (700, 900), 17)


def test_a_mark_that_occurs_twice_adds_up() -> None:
    village = Village()
    marks = (int(Mark.LOST), 3, 77, 5, int(Mark.LOST), 4)
    body = village.device.batch(village.next_step, 1, marks=marks).body
    assert isinstance(body, Batch)
    assert body.declared(Mark.LOST) == 7
    assert body.declared(Mark.BURST) is None
    assert body.marks[2:4] == (77, 5)  # an unknown mark is kept


def test_a_meters_details_give_its_ratings_side_by_side() -> None:
    ratings = DETAILS.ratings
    assert (ratings.accuracy_class, ratings.phases, ratings.voltage_mv) == ("B", 3, 230_000)
    assert (ratings.i_min_ma, int(ratings.constant), int(ratings.ratio)) == (250, 10_000, 1)
    assert ratings.ratings_side is ratings.constant_side is Side.PRIMARY
    assert ratings.pulses_per_lot(900) == DETAILS.lot_pulses == 8


def test_the_same_statement_by_another_key_is_another_record() -> None:
    body = golden("batch").body
    first, second = (seal(body, COMMUNITY, signer(number)) for number in (1, 2))
    assert first.body == second.body
    assert first.identity != second.identity
    elsewhere = seal(body, bytes(32), signer(1))
    assert elsewhere.identity != first.identity
    check = partial(refusal_of, accept)
    assert check(first.raw, signer(2).public) is Reason.BAD_SIGNATURE
