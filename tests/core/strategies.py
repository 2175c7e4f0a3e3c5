"""Values for property tests, built from the declarations of the wire codecs themselves; and CBOR as
a stranger would write it. Knows no single record kind."""

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar

import cbor2
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cryptometer import wire
from cryptometer.errors import Reason, Rejected
from cryptometer.records import Body
from cryptometer.wire import (
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
)
from tests.keys import p256_signer, signer

T = TypeVar("T")

KEYS = (*(signer(n).public for n in range(3)), *(p256_signer(n).public for n in range(3)))
ITEMS_MAX = 6  # of a generated array: what matters about long ones has tests of its own


def examples(count: int) -> settings:
    """Settings of a property test: a number of examples, and no deadline on a busy machine."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


def refusal_of(decode: Callable[..., object], *arguments: object) -> Reason | None:
    """Why `decode` refuses, or None if it does not. Whatever else it raises is its fault."""
    try:
        decode(*arguments)
    except Rejected as refused:
        return refused.reason
    return None


def uints(low: int = 0, high: int = wire.UINT_MAX) -> st.SearchStrategy[int]:
    """Unsigned integers, with both ends and every CBOR length well represented."""
    edges = [n for n in (low, high, 23, 24, 255, 256, 2**16, 2**32) if low <= n <= high]
    return st.one_of(
        st.sampled_from(edges), st.integers(low, min(high, low + 300)), _wide(low, high)
    )


def _wide(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


def rationals() -> st.SearchStrategy[Fraction]:
    """Positive rationals that a record can hold."""
    part = uints(1, 2**32 - 1)
    return st.builds(Fraction, part, part)


def values_of(codec: object) -> st.SearchStrategy[Any]:
    """Values that a codec accepts."""
    match codec:
        case Uint(low, high):
            return uints(low, high)
        case Bytes(low, high):
            return st.binary(min_size=low, max_size=min(high, low + 40))
        case Text(high, pattern):
            texts = st.from_regex(pattern, fullmatch=True)
            return texts.filter(lambda text: len(text) <= high and text.isprintable())
        case Choice(members):
            enumeration: type[StrEnum] = members
            return st.sampled_from(list(enumeration))
        case Flag():
            return st.booleans()
        case Rational():
            return rationals()
        case Key():
            return st.sampled_from(KEYS)
        case Flat(group, most):
            return _flat(group, min(most, ITEMS_MAX))
        case Many(item, low, high):
            return st.lists(values_of(item), min_size=low, max_size=min(high, low + 2)).map(tuple)
        case Map(cls) | Row(cls):
            return instances(cls)
        case _:
            raise TypeError(f"no strategy for {codec}")


def _flat(group: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    rows = st.lists(st.tuples(*[uints()] * group), max_size=most)
    return rows.map(lambda rows: tuple(number for row in rows for number in row))


def instances(cls: type[T]) -> st.SearchStrategy[T]:
    """Instances of a dataclass of `wire` fields."""
    parts = {}
    for part in fields(cls):  # type: ignore[arg-type]
        values = values_of(part.metadata["codec"])
        parts[part.name] = st.none() | values if part.metadata["optional"] else values
    return st.builds(cls, **parts)


def bodies() -> st.SearchStrategy[Body]:
    """Statements of every kind."""
    return st.one_of([instances(cls) for cls in Body.__args__])


def plain_values() -> st.SearchStrategy[Any]:
    """What the subset of CBOR can say, up to its depth."""
    leaves = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=30) | st.text(max_size=30)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=5) | st.dictionaries(st.integers(-24, 23), inner, max_size=5)
        ),
        max_leaves=20,
    )


def strange_cbor() -> st.SearchStrategy[bytes]:
    """Well-formed CBOR with everything that the subset leaves out: tags, shared references, floats,
    simple values, indefinite and overlong lengths, any map keys."""
    leaves = st.one_of(
        plain_values().map(cbor2.dumps),
        st.floats().map(cbor2.dumps),
        st.sampled_from([b"\xf4", b"\xf5", b"\xf6", b"\xf7", b"\xe0", b"\xf8\x20", b"\xff"]),
        st.integers(0, 2**64).map(lambda n: b"\xc2" + cbor2.dumps(n.to_bytes(9, "big"))),
        st.integers(0, 30).map(lambda n: b"\xd8\x1d" + cbor2.dumps(n)),
        st.integers(0, 30).map(lambda n: b"\xd8\x19" + cbor2.dumps(n)),
        st.integers(0, 23).map(lambda n: b"\x18" + bytes([n])),
        st.just(b"\x5f\x41\x00\x41\x01\xff"),
    )

    def inside(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        several = st.lists(inner, max_size=5)
        tags = st.sampled_from(
            [*range(6), 21, 24, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004]
        )
        return st.one_of(
            several.map(lambda items: bytes([0x80 + len(items)]) + b"".join(items)),
            several.map(lambda items: b"\x9f" + b"".join(items) + b"\xff"),
            several.map(lambda items: bytes([0xA0 + len(items) // 2]) + b"".join(items)),
            st.builds(
                lambda tag, item: cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + item, tags, inner
            ),
        )

    return st.recursive(leaves, inside, max_leaves=25)
