"""Deterministic CBOR (RFC 8949 §4.2.1), the subset that records use and nothing else.

Integers of 64 bits, byte and text strings, arrays, and maps whose keys are integers from -24 to
23. Those keys take one byte, so the length-first order of older canonical CBOR and the bytewise
order of RFC 8949 agree, whichever library sorts. No float, tag, simple value or indefinite length.

Bytes are read twice. The first reading builds nothing and refuses all that is not canonical; so the
library sees no tag and no key of a stranger, for which it would make regular expressions, dates,
fractions of thousands of digits or tables of colliding keys, and time and memory stay
proportional to the bytes. An item of one byte takes some sixty in memory and a microsecond: so
their number is bounded as well.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import cbor2

from cryptometer.errors import Reason, Rejected

Value: TypeAlias = "int | bytes | str | Sequence[Value] | Mapping[int, Value]"

DEPTH_MAX = 8  # the deepest record (a registration's constant) needs 4
ITEMS_MAX = 2**20  # in arrays and maps; a record has not the bytes for a tenth of it
_INT_MIN, _INT_MAX = -(2**64), 2**64 - 1
_KEY_MIN, _KEY_MAX = -24, 23

_BYTES, _ARRAY, _MAP, _TAG = 2, 4, 5, 6  # major types (RFC 8949 §3.1); text is 3
_INDEFINITE = 31
# The least argument that a head of 2, 4 or 8 bytes behind its first one may state.
_LEAST = {25: 2**8, 26: 2**16, 27: 2**32}
# Heads that say all of an item's length, and that length: integers of one byte, short strings.
_LENGTHS = {
    **dict.fromkeys((*range(0x18), *range(0x20, 0x38)), 1),
    **{major << 5 | size: 1 + size for major in (2, 3) for size in range(24)},
}
# And the heads of which two bytes do: longer integers whose first byte is not zero, longer strings.
_LONGER_LENGTHS = {
    **{bytes((head, size)): 2 for head in (0x18, 0x38) for size in range(24, 256)},
    **{
        bytes((head | power, first)): 1 + (1 << power)
        for head in (0x18, 0x38)
        for power in (1, 2, 3)
        for first in range(1, 256)
    },
    **{bytes((head, size)): 2 + size for head in (0x58, 0x78) for size in range(24, 256)},
}
_KEY_BYTES = frozenset((*range(24), *range(0x20, 0x38)))
# One integer in its shortest form. Lots are long flat arrays: they are passed at C speed.
_INTEGER = (
    rb"(?:[\x00-\x17\x20-\x37]"
    rb"|\x18[\x18-\xff]|\x19[\x01-\xff].|\x1a(?!\x00\x00).{4}|\x1b(?!\x00{4}).{8}"
    rb"|\x38[\x18-\xff]|\x39[\x01-\xff].|\x3a(?!\x00\x00).{4}|\x3b(?!\x00{4}).{8})"
)
_FEW = 8  # items of an array that are looked at sooner than the pattern is tried
_RUNS = tuple(  # so many integers, the most first
    (1 << power, re.compile(b"(?s)%b{%d}+" % (_INTEGER, 1 << power)))
    for power in reversed(range(13))
)


def encode(value: Value) -> bytes:
    """Returns the one canonical encoding of `value`.

    Raises:
        TypeError: `value` holds what the subset does not have; a fault of the caller.
    """
    # To sort what is in order takes half of the time.
    return cbor2.dumps(value, canonical=not _is_ordered(value, DEPTH_MAX))


def decode(data: bytes, items_max: int = ITEMS_MAX) -> Value:
    """Reads one canonical value that fills `data` exactly.

    Args:
        items_max: that arrays and maps may hold, all together; a pair of a map counts once.

    Raises:
        Rejected: MALFORMED, NOT_CANONICAL or TOO_LARGE.
    """
    try:
        end = _end_of(data, 0, DEPTH_MAX, _Room(items_max))
    except IndexError:
        raise Rejected(Reason.MALFORMED, "cut off") from None
    if end > len(data):
        raise Rejected(Reason.MALFORMED, "cut off")
    if end < len(data):
        raise Rejected(Reason.NOT_CANONICAL, f"{len(data) - end} bytes behind the end")
    try:
        return cbor2.loads(data)  # type: ignore[no-any-return]  # its form is known by now
    except Exception as error:  # noqa: BLE001 - the library raises other kinds in other versions
        raise Rejected(Reason.MALFORMED, f"not CBOR: {type(error).__name__}") from None


class _Room:
    """How many items there may still be."""

    __slots__ = ("left",)

    def __init__(self, items: int) -> None:
        self.left = items

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Rejected(Reason.TOO_LARGE, "too many items")


def _end_of(data: bytes, at: int, depth: int, room: _Room) -> int:
    """Where the item that begins at `at` ends; beyond `data` if its last string is cut off.

    Raises:
        IndexError: it is cut off.
    """
    head = data[at]
    major, argument = head >> 5, head & 0x1F
    if major >= _TAG:
        raise Rejected(Reason.MALFORMED, "a tag, float or simple value has no place in a record")
    at += 1
    if argument == 24:
        argument = data[at]
        at += 1
        if argument < 24:
            raise Rejected(Reason.NOT_CANONICAL, "a head longer than it need be")
    elif argument > 24:
        least = _LEAST.get(argument)
        if least is None:
            reason = Reason.NOT_CANONICAL if argument == _INDEFINITE else Reason.MALFORMED
            raise Rejected(reason, "an indefinite length or a reserved head")
        size = 1 << (argument - 24)
        argument = int.from_bytes(data[at : at + size], "big")
        at += size
        if at > len(data):
            raise IndexError
        if argument < least:
            raise Rejected(Reason.NOT_CANONICAL, "a head longer than it need be")
    if major < _BYTES:
        return at
    if major < _ARRAY:
        return at + argument
    if depth == 0:
        raise Rejected(Reason.MALFORMED, f"nested deeper than {DEPTH_MAX}")
    if argument > len(data) - at:
        raise IndexError  # an item has a byte at least
    room.take(argument)
    if major == _MAP:
        return _end_of_pairs(data, at, argument, depth - 1, room)
    if argument < _FEW:
        return _end_of_items(data, at, argument, depth - 1, room)
    found = _end_of_integers(data, at, argument)
    return found or _end_of_items(data, at, argument, depth - 1, room)


def _end_of_integers(data: bytes, at: int, count: int) -> int | None:
    """Where `count` integers end; None if something else stands among them."""
    for size, run in _RUNS[-count.bit_length() :] if count else ():
        while count >= size:
            found = run.match(data, at)
            if found is None:
                return None
            at = found.end()
            count -= size
    return at


def _end_of_items(data: bytes, at: int, count: int, depth: int, room: _Room) -> int:
    for _ in range(count):
        length = _LENGTHS.get(data[at]) or _LONGER_LENGTHS.get(data[at : at + 2])
        at = _end_of(data, at, depth, room) if length is None else at + length
    return at


def _end_of_pairs(data: bytes, at: int, count: int, depth: int, room: _Room) -> int:
    before = -1
    for _ in range(count):
        key = data[at]
        if key not in _KEY_BYTES:
            raise Rejected(Reason.MALFORMED, "a map key is no integer from -24 to 23")
        if key <= before:
            raise Rejected(Reason.NOT_CANONICAL, "map keys out of order, or one of them twice")
        before = key
        at += 1
        length = _LENGTHS.get(data[at]) or _LONGER_LENGTHS.get(data[at : at + 2])
        at = _end_of(data, at, depth, room) if length is None else at + length
    return at


def _is_ordered(value: object, depth: int) -> bool:
    """Whether the keys of all maps stand in their order; refuses what the subset does not have."""
    ordered = True
    kind = type(value)
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            raise TypeError("an integer beyond 64 bits")
    elif kind is bytes or kind is str:
        pass
    elif depth == 0:
        raise TypeError(f"nested deeper than {DEPTH_MAX}")
    elif kind is list or kind is tuple:
        if not _all_small(value):
            for item in value:  # type: ignore[attr-defined]
                ordered &= _is_ordered(item, depth - 1)
    elif kind is dict:
        before = -1
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not int or not _KEY_MIN <= key <= _KEY_MAX:
                raise TypeError("a map key is no integer from -24 to 23")
            place = key if key >= 0 else _KEY_MAX - key  # negative keys come last, -1 first
            ordered = _is_ordered(item, depth - 1) and ordered and before < place
            before = place
    else:
        raise TypeError(f"{kind.__name__} has no place in a record")
    return ordered


def _all_small(items: object) -> bool:
    """Whether `items` holds only 63-bit integers; at C speed, since lots are long flat arrays."""
    return set(map(type, items)) == {int} and min(items) >= -(2**63) and max(items) < 2**63  # type: ignore[call-overload]
