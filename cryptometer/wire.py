"""How a frozen dataclass becomes a CBOR map with small integer keys, and back.

A class declares each field with `wire(key, codec)`; the declarations mirror `records.cddl` line by
line. Decoding checks everything the CDDL states, so that inside there are only values.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from fractions import Fraction
from functools import cache
from math import gcd
from operator import call
from typing import Any, Generic, Protocol, TypeVar

from cryptometer import cbor, keys
from cryptometer.errors import Reason, Rejected

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_ONLY_INT = {int}
UINT_MAX = 2**63 - 1  # what an SQLite integer and every usual language hold


class Codec(Protocol[T]):
    """Encodes one kind of value; `decode` raises Rejected for what the CDDL does not allow."""

    def encode(self, value: T) -> cbor.Value: ...
    def decode(self, value: cbor.Value) -> T: ...


def wire(key: int, codec: Codec[T]) -> T:
    """A mandatory field of a record: its map key and its codec."""
    return field(metadata={"key": key, "codec": codec, "optional": False})  # type: ignore[no-any-return]


def wire_optional(key: int, codec: Codec[T]) -> T | None:
    """A field that may be absent; None means absent."""
    return field(default=None, metadata={"key": key, "codec": codec, "optional": True})


@dataclass(frozen=True, slots=True)
class Uint:
    """An unsigned integer from `low` to `high`."""

    low: int = 0
    high: int = UINT_MAX

    def encode(self, value: int) -> cbor.Value:
        return self._within(value)

    def decode(self, value: cbor.Value) -> int:
        if type(value) is not int:
            raise Rejected(Reason.MALFORMED, f"{_kind(value)} where an integer belongs")
        if self.low <= value <= self.high:
            return value
        return self._within(value)

    def _within(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise Rejected(Reason.MALFORMED, f"{value} is not from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte string of `low` to `high` bytes."""

    low: int
    high: int

    def encode(self, value: bytes) -> cbor.Value:
        return self.decode(value)

    def decode(self, value: cbor.Value) -> bytes:
        if type(value) is not bytes or not self.low <= len(value) <= self.high:
            raise Rejected(
                Reason.MALFORMED, f"{_kind(value)} is not {self.low} to {self.high} bytes"
            )
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """A text string of at most `high` characters that matches `pattern` as a whole."""

    high: int
    pattern: str = r"[^\x00-\x1f\x7f]*"

    def encode(self, value: str) -> cbor.Value:
        return self.decode(value)

    def decode(self, value: cbor.Value) -> str:
        if type(value) is not str or len(value) > self.high:
            raise Rejected(
                Reason.MALFORMED, f"{_kind(value)} is not text of up to {self.high} characters"
            )
        if _pattern(self.pattern).fullmatch(value) is None:
            raise Rejected(Reason.MALFORMED, f"{value!r} does not match {self.pattern}")
        return value


@dataclass(frozen=True, slots=True)
class Choice(Generic[E]):
    """One of the texts of an enumeration."""

    members: type[E]

    def encode(self, value: E) -> cbor.Value:
        return value.value

    def decode(self, value: cbor.Value) -> E:
        member = _members(self.members).get(value) if type(value) is str else None
        if member is None:
            allowed = ", ".join(self.members)
            raise Rejected(Reason.MALFORMED, f"{value!r:.80} is none of {allowed}")
        return member


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value as 0 or 1: records hold no simple values."""

    def encode(self, value: bool) -> cbor.Value:
        return int(value)

    def decode(self, value: cbor.Value) -> bool:
        if value not in (0, 1):
            raise Rejected(Reason.MALFORMED, f"{value!r:.80} is neither 0 nor 1")
        return value == 1


@dataclass(frozen=True, slots=True)
class Rational:
    """A positive rational as [numerator, denominator] in lowest terms, both below 2^32."""

    def encode(self, value: Fraction) -> cbor.Value:
        return self._checked(value.numerator, value.denominator)

    def decode(self, value: cbor.Value) -> Fraction:
        match value:
            case [int(numerator), int(denominator)]:
                return Fraction(*self._checked(numerator, denominator))
            case _:
                raise Rejected(Reason.MALFORMED, "a rational is [numerator, denominator]")

    @staticmethod
    def _checked(numerator: int, denominator: int) -> tuple[int, int]:
        if not (0 < numerator < 2**32 and 0 < denominator < 2**32):
            raise Rejected(Reason.MALFORMED, f"{numerator}/{denominator} is out of range")
        if gcd(numerator, denominator) != 1:
            raise Rejected(Reason.MALFORMED, f"{numerator}/{denominator} is not in lowest terms")
        return numerator, denominator


@dataclass(frozen=True, slots=True)
class Key:
    """A public key as COSE_Key."""

    def encode(self, value: keys.PublicKey) -> cbor.Value:
        return value.to_cose()

    def decode(self, value: cbor.Value) -> keys.PublicKey:
        return keys.from_cose(value)


@dataclass(frozen=True, slots=True)
class Flat:
    """A flat array of unsigned integers in groups of `group`, at most `most` groups.

    Flat, because a decoder reads it an order of magnitude faster than an array of arrays.
    """

    group: int
    most: int

    def encode(self, value: Sequence[int]) -> cbor.Value:
        return self.decode(list(value))

    def decode(self, value: cbor.Value) -> tuple[int, ...]:
        if type(value) is not list or len(value) % self.group:
            raise Rejected(Reason.MALFORMED, f"not an array in groups of {self.group}")
        if len(value) > self.most * self.group:
            raise Rejected(Reason.MALFORMED, f"more than {self.most} groups of {self.group}")
        if value and (
            set(map(type, value)) != _ONLY_INT or min(value) < 0 or max(value) > UINT_MAX
        ):
            raise Rejected(Reason.MALFORMED, "an array holds something else than unsigned integers")
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    """An array of `low` to `high` items of one kind."""

    item: Codec[T]
    low: int
    high: int

    def encode(self, value: Sequence[T]) -> cbor.Value:
        return [self.item.encode(item) for item in value]

    def decode(self, value: cbor.Value) -> tuple[T, ...]:
        if type(value) is not list or not self.low <= len(value) <= self.high:
            raise Rejected(Reason.MALFORMED, f"not an array of {self.low} to {self.high} items")
        return tuple([self.item.decode(item) for item in value])


@dataclass(frozen=True, slots=True)
class Map(Generic[T]):
    """A nested map: a dataclass of `wire` fields."""

    cls: type[T]

    def encode(self, value: T) -> cbor.Value:
        return encode_map(value)

    def decode(self, value: cbor.Value) -> T:
        return decode_map(self.cls, value)


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """A nested fixed array: the `wire` fields of a dataclass in order of their keys."""

    cls: type[T]

    def encode(self, value: T) -> cbor.Value:
        return [encode(getattr(value, name)) for _, name, encode, _, _ in _plan(self.cls)]

    def decode(self, value: cbor.Value) -> T:
        decoders = _decoders(self.cls)
        if type(value) is not list or len(value) != len(decoders):
            raise Rejected(Reason.MALFORMED, f"not an array of {len(decoders)} items")
        return self.cls(*map(call, decoders, value))


def encode_map(value: object) -> dict[int, cbor.Value]:
    """The CBOR map of a dataclass of `wire` fields.

    Raises:
        Rejected: MALFORMED, naming the field whose value is out of range.
    """
    encoded: dict[int, cbor.Value] = {}
    for key, name, encode, _, _ in _plan(type(value)):
        part = getattr(value, name)
        if part is not None:
            try:
                encoded[key] = encode(part)
            except Rejected as refused:
                raise Rejected(refused.reason, f"{name}: {refused.detail}") from None
    return encoded


def decode_map(cls: type[T], value: cbor.Value) -> T:
    """Reads a CBOR map into `cls`.

    Raises:
        Rejected: MALFORMED, naming the first field that is missing, unknown or out of range.
    """
    if type(value) is not dict:
        raise Rejected(Reason.MALFORMED, f"{_kind(value)} where a map belongs")
    arguments: list[object] = []
    present = 0
    for key, name, _, decode, optional in _plan(cls):
        item = value.get(key)
        if item is not None:
            try:
                arguments.append(decode(item))
            except Rejected as refused:
                raise Rejected(refused.reason, f"{name}: {refused.detail}") from None
            present += 1
        elif optional:
            arguments.append(None)
        else:
            raise Rejected(Reason.MALFORMED, f"{name} (key {key}) is missing")
    if present != len(value):
        raise Rejected(Reason.MALFORMED, f"{cls.__name__} has a map key that it does not know")
    return cls(*arguments)


_Field = tuple[int, str, Callable[[Any], cbor.Value], Callable[[cbor.Value], Any], bool]


def _make_plan(cls: type) -> tuple[_Field, ...]:
    return tuple(
        (
            part.metadata["key"],
            part.name,
            part.metadata["codec"].encode,
            part.metadata["codec"].decode,
            part.metadata["optional"],
        )
        for part in fields(cls)
    )


_plan: Callable[[type], tuple[_Field, ...]] = cache(_make_plan)


def _make_decoders(cls: type) -> tuple[Callable[[cbor.Value], Any], ...]:
    return tuple(decode for _, _, _, decode, _ in _plan(cls))


# A distribution has a row for each close and each member: they are passed at C speed.
_decoders: Callable[[type], tuple[Callable[[cbor.Value], Any], ...]] = cache(_make_decoders)
_pattern: Callable[[str], re.Pattern[str]] = cache(re.compile)


def _make_members(enumeration: type[E]) -> dict[str, E]:
    return {member.value: member for member in enumeration}


# Ten times as quick as the enumeration's own look-up, and a record has two.
_members: Callable[[type[E]], dict[str, E]] = cache(_make_members)


def _kind(value: object) -> str:
    return type(value).__name__
