"""Codecs of record fields: what each takes, at its limits and beyond, by one rule both ways."""

from dataclasses import dataclass, fields
from enum import StrEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given

from cryptometer import cbor, wire
from cryptometer.authority_records import MeterDetails
from cryptometer.enrolment import Broker
from cryptometer.errors import Reason
from cryptometer.wire import (
    UINT_MAX,
    Bytes,
    Choice,
    Flag,
    Flat,
    Key,
    Many,
    Map,
    Rational,
    Row,
    Text,
    Uint,
    decode_map,
    encode_map,
)
from tests.core.refusing import refusing
from tests.core.strategies import examples, instances, plain_values, refusal_of
from tests.keys import p256_signer, signer


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Pair:
    first: int = wire.wire(0, Uint())
    second: bytes | None = wire.wire_optional(5, Bytes(1, 2))


@dataclass(frozen=True, slots=True)
class Fixed:
    first: int = wire.wire(0, Uint())
    second: int = wire.wire(1, Uint())


ED = signer(1).public
TAKEN: list[tuple[Any, Any, Any]] = [
    # codec, value, as CBOR
    (Uint(), 0, 0),
    (Uint(), UINT_MAX, UINT_MAX),
    (Uint(3, 5), 3, 3),
    (Uint(3, 5), 5, 5),
    (Bytes(0, 2), b"", b""),
    (Bytes(2, 2), b"ab", b"ab"),
    (Text(3), "é–x", "é–x"),
    (Text(3, "[ab]+"), "aba", "aba"),
    (Choice(Colour), Colour.RED, "red"),
    (Flag(), True, 1),
    (Flag(), False, 0),
    (Rational(), Fraction(2, 3), (2, 3)),
    (Rational(), Fraction(2**32 - 1), (2**32 - 1, 1)),
    (Key(), ED, {1: 1, -1: 6, -2: ED.coordinates}),
    (Flat(2, 2), (), ()),
    (Flat(2, 2), (1, 2, 3, UINT_MAX), (1, 2, 3, UINT_MAX)),
    (Many(Uint(), 1, 2), (1,), [1]),
    (Many(Uint(), 1, 2), (1, 2), [1, 2]),
    (Map(Pair), Pair(1), {0: 1}),
    (Map(Pair), Pair(1, b"x"), {0: 1, 5: b"x"}),
    (Row(Fixed), Fixed(1, 2), [1, 2]),
]
REFUSED: list[tuple[Any, Any]] = [
    # codec, CBOR
    (Uint(), -1), (Uint(), UINT_MAX + 1), (Uint(), b"1"), (Uint(), "1"), (Uint(), [1]),
    (Uint(3, 5), 2), (Uint(3, 5), 6),
    (Bytes(1, 2), b""), (Bytes(1, 2), b"abc"), (Bytes(1, 2), "a"), (Bytes(1, 2), 1),
    (Text(3), "abcd"), (Text(3), b"abc"), (Text(3), 1), (Text(3), "a\n"), (Text(3), "\x7f"),
    (Text(3, "[ab]+"), ""), (Text(3, "[ab]+"), "abc"), (Text(3, "[ab]+"), "ab\n"),
    (Choice(Colour), "green"), (Choice(Colour), "RED"), (Choice(Colour), 0),
    (Choice(Colour), b"red"), (Choice(Colour), ["red"]), (Choice(Colour), {}),
    (Flag(), 2), (Flag(), -1), (Flag(), "1"), (Flag(), []),
    (Rational(), [0, 1]), (Rational(), [1, 0]), (Rational(), [2, 4]), (Rational(), [-1, 1]),
    (Rational(), [1, -1]), (Rational(), [2**32, 1]), (Rational(), [1, 2**32]),
    (Rational(), [1]), (Rational(), [1, 1, 1]), (Rational(), 1), (Rational(), ["1", 1]),
    (Key(), {1: 1, -1: 6}), (Key(), 1),
    (Flat(2, 2), [1]), (Flat(2, 2), [1] * 6), (Flat(2, 2), [-1, 0]), (Flat(2, 2), [1, 2**63]),
    (Flat(2, 2), [1, "2"]), (Flat(2, 2), [[1, 2]]), (Flat(2, 2), {}), (Flat(2, 2), 2),
    (Many(Uint(), 1, 2), []), (Many(Uint(), 1, 2), [1, 2, 3]), (Many(Uint(), 1, 2), ["a"]),
    (Many(Uint(), 1, 2), 1),
    (Map(Pair), {}), (Map(Pair), {5: b"x"}), (Map(Pair), {0: 1, 1: 1}), (Map(Pair), {0: "a"}),
    (Map(Pair), {0: 1, 5: b""}), (Map(Pair), [1]), (Map(Pair), 1),
    (Row(Fixed), [1]), (Row(Fixed), [1, 2, 3]), (Row(Fixed), [1, "2"]), (Row(Fixed), {0: 1, 1: 2}),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "value", "item"), TAKEN)
def test_a_codec_takes_both_ends_of_its_range(codec: Any, value: Any, item: Any) -> None:
    encoded = codec.encode(value)
    assert encoded == item
    assert codec.decode(cbor.decode(cbor.encode(encoded))) == value


@pytest.mark.parametrize(("codec", "item"), REFUSED)
def test_a_codec_refuses_what_is_beyond_its_range_or_of_another_type(codec: Any, item: Any) -> None:
    with refusing(Reason.MALFORMED):
        codec.decode(item)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (Uint(), -1),
        (Uint(3, 5), 6),
        (Bytes(1, 2), b""),
        (Text(3), "abcd"),
        (Text(3), "\n"),
        (Rational(), Fraction(0)),
        (Rational(), Fraction(2**32)),
        (Flat(2, 2), (1,)),
        (Flat(2, 2), (-1, 0)),
    ],
)
def test_a_codec_encodes_nothing_that_it_would_not_decode(codec: Any, value: Any) -> None:
    with refusing(Reason.MALFORMED):
        codec.encode(value)


def test_a_refusal_names_the_field_and_what_would_do() -> None:
    with refusing(Reason.MALFORMED, "first: ", "str where an integer belongs"):
        decode_map(Pair, {0: "a"})
    with refusing(Reason.MALFORMED, "'green' is none of red, blue"):
        Choice(Colour).decode("green")
    with refusing(Reason.MALFORMED, "first (key 0) is missing"):
        decode_map(Pair, {5: b"x"})
    with refusing(Reason.MALFORMED, "Pair has a map key that it does not know"):
        decode_map(Pair, {0: 1, 2: 1})


def test_a_key_of_another_curve_point_is_refused_inside_a_field() -> None:
    cose_key = {**p256_signer(1).public.to_cose(), -3: bytes(32)}
    with refusing(Reason.MALFORMED, "not a point"):
        Key().decode(cose_key)


@examples(200)
@given(instances(MeterDetails))
def test_a_map_of_every_codec_survives_encoding(details: MeterDetails) -> None:
    data = cbor.encode(encode_map(details))
    assert decode_map(MeterDetails, cbor.decode(data)) == details


@examples(200)
@given(instances(Broker))
def test_absent_fields_stay_absent(broker: Broker) -> None:
    encoded = encode_map(broker)
    absent = {part.metadata["key"] for part in fields(broker) if getattr(broker, part.name) is None}
    assert absent.isdisjoint(encoded)
    assert decode_map(Broker, encoded) == broker


@examples(300)
@given(plain_values())
def test_any_plain_value_is_decoded_or_refused_by_every_codec(value: Any) -> None:
    for codec, _, _ in TAKEN:
        assert refusal_of(codec.decode, value) in (None, Reason.MALFORMED)
