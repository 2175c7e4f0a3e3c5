"""Deterministic CBOR: one encoding of each value, and nothing that records have no use for."""

from collections.abc import Callable
from itertools import permutations, product
from typing import Any
from unittest.mock import patch

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from tests.core.refusing import refusing
from tests.core.strategies import examples, plain_values, refusal_of, strange_cbor


@examples(300)
@given(plain_values())
def test_what_is_encoded_decodes_to_the_same(value: Any) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-(2**64), "3bffffffffffffffff"),
        (b"\x01\x02", "420102"),
        ("é", "62c3a9"),
        ([1, [2]], "82018102"),
        # RFC 8949 §4.2.1: keys by their encoded bytes, so 10 and 23 before -1 and -24.
        ({-1: 0, 23: 1, 10: 2, -24: 3}, "a40a02170120003703"),
        ({}, "a0"),
    ],
)
def test_a_value_has_its_golden_encoding(value: Any, data: str) -> None:
    assert cbor.encode(value).hex() == data
    assert cbor.decode(bytes.fromhex(data)) == value


def test_any_two_keys_stand_in_their_order_however_they_are_given() -> None:
    encoded = {key: cbor.encode(key) for key in range(-24, 24)}
    for first, second in permutations(encoded, 2):
        pair = sorted((encoded[first], encoded[second]))
        expected = b"\xa2" + b"".join(key + b"\x00" for key in pair)
        assert cbor.encode({first: 0, second: 0}) == expected
        assert cbor.encode([{first: 0, second: 0}, {}]) == b"\x82" + expected + b"\xa0"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("1817", "a head longer than it need be"),
        ("190017", "a head longer than it need be"),
        ("1a00000017", "a head longer than it need be"),
        ("1b0000000000000017", "a head longer than it need be"),
        ("580100", "a byte string with too long a head"),
        ("a201000000", "keys out of order"),
        ("a220000a00", "keys out of order"),
        ("a201000100", "a key twice"),
        ("a201000101", "a key twice, with two values"),
        ("9f01ff", "an array of indefinite length"),
        ("bf0100ff", "a map of indefinite length"),
        ("5f4100ff", "bytes of indefinite length"),
        ("7f6161ff", "text of indefinite length"),
        ("0000", "bytes behind the end"),
        ("82191000190001", "a head longer than it need be, among integers"),
        ("82390000190100", "a negative head longer than it need be, among integers"),
        ("9a0000000100", "an array with too long a head"),
        ("b9000100", "a map with too long a head"),
    ],
)
def test_another_encoding_of_a_plain_value_is_refused(data: str, what: str) -> None:
    with refusing(Reason.NOT_CANONICAL):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("", "nothing"),
        ("18", "a head that is cut off"),
        ("4201", "a byte string that is cut off"),
        ("8201", "an array that is cut off"),
        ("62c328", "text that is no UTF-8"),
        ("ff", "a break on its own"),
        ("1c", "a reserved head"),
        ("f4", "false"),
        ("f5", "true"),
        ("f6", "null"),
        ("f7", "undefined"),
        ("e0", "a simple value"),
        ("f97e00", "a half float"),
        ("f93c00", "a float that is whole"),
        ("fb3ff0000000000000", "a double float"),
        ("d28401", "a tag, and cut off"),
        ("d2820102", "a tag"),
        ("c24105", "a small number written as a bignum"),
        ("8201c24105", "a tag among integers"),
        ("8218ff18", "a head that is cut off, among integers"),
        ("9bffffffffffffffff00", "an array of more items than there are bytes"),
        ("bbffffffffffffffff00", "a map of more pairs than there are bytes"),
        ("5bffffffffffffffff00", "a byte string longer than there are bytes"),
        ("82428000", "a byte string that takes the item behind it"),
        ("c11a00000000", "a tagged time"),
        ("d81d00", "a shared reference"),
        ("c249010000000000000000", "a number beyond 64 bits"),
        ("c349010000000000000000", "a number beyond 64 bits below zero"),
        ("a1181800", "a map key above 23"),
        ("a1381800", "a map key below -24"),
        ("a1410000", "a map key of bytes"),
        ("a1616100", "a map key of text"),
        ("a1f400", "a map key that is false and so equals 0"),
    ],
)
def test_what_is_no_part_of_the_subset_is_refused(data: str, what: str) -> None:
    with refusing(Reason.MALFORMED):
        cbor.decode(bytes.fromhex(data))


WRAPPINGS: dict[str, Callable[[Any], Any]] = {
    "an array": lambda value: [value],
    "a long array": lambda value: [*range(20), value],
    "a map": lambda value: {0: value},
}


def nested(depth: int, wrapping: str) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = WRAPPINGS[wrapping](value)
    return value


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_nesting_has_a_limit(wrapping: str) -> None:
    deepest, too_deep = (nested(cbor.DEPTH_MAX + more, wrapping) for more in (0, 1))
    assert cbor.decode(cbor.encode(deepest)) == deepest
    with refusing(Reason.MALFORMED, "deeper"):
        cbor.decode(cbor2.dumps(too_deep))
    with pytest.raises(TypeError, match="deeper"):
        cbor.encode(too_deep)


def test_nesting_as_deep_as_bytes_can_say_is_refused() -> None:
    with refusing(Reason.MALFORMED):
        cbor.decode(b"\x81" * 100_000 + b"\x00")


def test_a_few_bytes_that_stand_for_millions_of_items_are_refused_at_once() -> None:
    """Shared values (tags 28 and 29): each of five arrays holds the one before twenty times."""
    arrays = [b"\xd8\x1c\x94" + b"\x00" * 20]
    arrays += [b"\xd8\x1c\x94" + (b"\xd8\x1d" + bytes([level])) * 20 for level in range(4)]
    data = b"\x85" + b"".join(arrays)
    assert len(data) < 300
    with refusing(Reason.MALFORMED, "tag"):
        cbor.decode(data)


def test_more_items_than_there_is_room_for_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data: Any = [0, {0: [b"x"], 1: b""}, [[], []]]
    held = 3 + 2 + 1 + 2
    assert cbor.decode(cbor.encode(data), held) == data
    with refusing(Reason.TOO_LARGE):
        cbor.decode(cbor.encode(data), held - 1)
    many = cbor.ITEMS_MAX + 1
    for item in (b"\x80", b"\x00", b"\x61a"):
        with (
            monkeypatch.context() as patched,
            refusing(Reason.TOO_LARGE),
        ):
            patched.setattr(cbor, "_end_of_items", None)
            patched.setattr(cbor, "_end_of_integers", None)
            cbor.decode(b"\x9a" + many.to_bytes(4, "big") + item * many)


def test_a_cycle_is_refused() -> None:
    with refusing(Reason.MALFORMED):
        cbor.decode(bytes.fromhex("d81c81d81d00"))


def colliding_keys() -> bytes:
    """A map of bignum keys that all hash alike: a table of them costs their number squared."""
    keys = [(2**61 - 1) * n + 7 for n in range(2**31, 2**31 + 4_000)]
    pairs = b"".join(b"\xc2\x4c" + key.to_bytes(12, "big") + b"\x00" for key in keys)
    return b"\xb9" + (4_000).to_bytes(2, "big") + pairs


@pytest.mark.parametrize(
    "data",
    [
        colliding_keys(),
        b"\xd8\x23\x79\xf0\x00" + b"(a|b)" * 12_288,  # a regular expression, tag 35
        b"\xc4\x82\x1b" + (10**17).to_bytes(8, "big") + b"\xc2\x59\xfa\x00" + b"\x7f" * 64_000,
    ],
    ids=["keys that collide", "a regular expression", "a decimal fraction"],
)
def test_what_is_dear_to_build_is_refused_before_it_is_built(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_: bytes) -> object:
        raise AssertionError("the library was given a stranger's bytes")

    monkeypatch.setattr(cbor2, "loads", build)
    with refusing(Reason.MALFORMED):
        cbor.decode(data)


@examples(100)
@given(st.lists(st.integers(-(2**64), 2**64 - 1) | st.integers(-300, 300), max_size=40), st.data())
def test_a_flat_array_is_read_whatever_stands_among_its_integers(
    items: list[Any], data: st.DataObject
) -> None:
    assert cbor.decode(cbor.encode(items)) == items
    odd = data.draw(st.sampled_from([b"x", "x", [], [1], {0: 1}]))
    items.insert(data.draw(st.integers(0, len(items))), odd)
    assert cbor.decode(cbor.encode(items)) == items


@pytest.mark.parametrize("count", [0, 1, 4_095, 4_096, 4_097, 8_192, 20_000])
def test_a_long_flat_array_is_counted_to_its_last_integer(count: int) -> None:
    items = [n * 97 for n in range(count)]
    data = cbor.encode(items)
    assert cbor.decode(data) == items
    with refusing(Reason.NOT_CANONICAL, "behind the end"):
        cbor.decode(data + b"\x00")
    if count:
        with refusing(Reason.MALFORMED, "cut off"):
            cbor.decode(data[:-1])


def test_a_long_flat_array_is_passed_without_a_look_at_each_integer() -> None:
    data = cbor.encode(list(range(20_000)))
    with patch.object(cbor, "_end_of_items", side_effect=AssertionError):
        cbor.decode(data)


@pytest.mark.parametrize(
    "value",
    [
        1.0, True, None, {1.5: 0}, {24: 0}, {"a": 0}, 2**64, {1}, [1.0], [0, True], (None,),
        [2**64], [-(2**64) - 1], [[1.0]], [{0: 1.0}], {0: [1.0]}, {0: {24: 0}},
    ],
)  # fmt: skip
def test_the_encoder_takes_nothing_that_the_decoder_would_refuse(value: Any) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)


@examples(500)
@given(strange_cbor())
def test_strange_cbor_is_plain_and_canonical_or_refused(data: bytes) -> None:
    if refusal_of(cbor.decode, data) is None:
        assert cbor.encode(cbor.decode(data)) == data


@examples(500)
@given(st.binary(max_size=200))
def test_random_bytes_are_canonical_or_refused(data: bytes) -> None:
    if refusal_of(cbor.decode, data) is None:
        assert cbor.encode(cbor.decode(data)) == data


@examples(300)
@given(plain_values(), st.data())
def test_one_changed_bit_gives_another_value_or_is_refused(value: Any, data: st.DataObject) -> None:
    raw = cbor.encode(value)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    if refusal_of(cbor.decode, bytes(changed)) is None:
        assert cbor.decode(bytes(changed)) != value


@pytest.mark.parametrize("major", [0x00, 0x20, 0x40, 0x60])
@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_heads_that_a_table_passes_are_read_alike_without_it(major: int, spare: int) -> None:
    without = patch.multiple(cbor, _LENGTHS={}, _LONGER_LENGTHS={})
    for head, size in product(range(0x17, 0x1C), range(256)):
        for behind in (size, 1, 3, 7):
            item = bytes((major | head, size)) + bytes(max(0, behind + spare))
            for data in (b"\x81" + item, b"\xa1\x01" + item):
                with without:
                    slowly = _outcome(data)
                assert _outcome(data) == slowly, data.hex()


def _outcome(data: bytes) -> object:
    try:
        return cbor.decode(data)
    except Rejected as refused:
        return refused.reason, refused.detail
