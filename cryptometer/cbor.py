"""Deterministic CBOR (RFC 8949 §4.2.1), the subset that records use and nothing else.

Integers of 64 bits, byte and text strings, arrays, and maps whose keys are integers from -24 to
23. Those keys take one byte, so the length-first order of older canonical CBOR and the bytewise
order of RFC 8949 agree, whichever library sorts. No float, tag, simple value or indefinite length.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import cbor2

from cryptometer.errors import Reason, Rejected

Value: TypeAlias = "int | bytes | str | Sequence[Value] | Mapping[int, Value]"

DEPTH_MAX = 8  # the deepest record (a registration's constant) needs 4
_INT_MIN, _INT_MAX = -(2**64), 2**64 - 1
_KEY_MIN, _KEY_MAX = -24, 23
_NO_LIMIT = 2**63


def encode(value: Value) -> bytes:
    """Returns the one canonical encoding of `value`.

    Raises:
        TypeError: `value` holds what the subset does not have; a fault of the caller.
    """
    try:
        _check_plain(value, DEPTH_MAX, _NO_LIMIT)
    except Rejected as refused:
        raise TypeError(refused.detail) from None
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Value:
    """Reads one canonical value that fills `data` exactly.

    Raises:
        Rejected: MALFORMED or NOT_CANONICAL.
    """
    try:
        value = cbor2.loads(data)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds, by version, on bad bytes
        raise Rejected(Reason.MALFORMED, f"not CBOR: {type(error).__name__}") from None
    # The walk comes before the encoder and stops where the value outgrows its bytes: with shared
    # references (tags 25 and 29) a hundred bytes can stand for gigabytes, or for a cycle.
    _check_plain(value, DEPTH_MAX, len(data))
    if cbor2.dumps(value, canonical=True) != data:
        raise Rejected(Reason.NOT_CANONICAL, "not the canonical encoding of its content")
    return value  # type: ignore[no-any-return]  # checked just above


def _check_plain(value: object, depth: int, room: int) -> int:
    """Refuses what the subset does not have, and what cannot be written in `room` bytes; returns
    the bytes that are left at most."""
    kind = type(value)
    room -= 1
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            raise Rejected(Reason.MALFORMED, "an integer beyond 64 bits")
    elif kind is bytes or kind is str:
        room -= len(value)  # type: ignore[arg-type]
    elif depth == 0:
        raise Rejected(Reason.MALFORMED, f"nested deeper than {DEPTH_MAX}")
    elif kind is list or kind is tuple:
        if len(value) <= room and _all_small(value):  # type: ignore[arg-type]
            room -= len(value)  # type: ignore[arg-type]
        else:
            for item in value:  # type: ignore[attr-defined]
                room = _check_plain(item, depth - 1, room)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not int or not _KEY_MIN <= key <= _KEY_MAX:
                raise Rejected(Reason.MALFORMED, "a map key is no integer from -24 to 23")
            room = _check_plain(item, depth - 1, room - 1)
    else:
        raise Rejected(Reason.MALFORMED, f"{kind.__name__} has no place in a record")
    if room < 0:
        raise Rejected(Reason.NOT_CANONICAL, "more content than bytes")
    return room


def _all_small(items: object) -> bool:
    """Whether `items` holds only 63-bit integers; at C speed, since lots are long flat arrays."""
    return set(map(type, items)) == {int} and min(items) >= -(2**63) and max(items) < 2**63  # type: ignore[call-overload]
