"""Values at the edges of what records may hold, from the codecs that their modules declare."""

from dataclasses import dataclass, fields
from typing import Any

from cryptometer import wire
from cryptometer.keys import Signer
from tests.keys import p256_signer, signer

SIGNERS: list[Signer] = [signer(50), signer(51), p256_signer(50), p256_signer(51)]


@dataclass(frozen=True, slots=True)
class Edges:
    """CBOR values around the limits of one codec.

    Attributes:
        inside: just allowed.
        beyond: of the right type, just not allowed.
        unmatched: texts that do not match the pattern or are too long.
        mistyped: of another type or shape.
    """

    inside: list[Any]
    beyond: list[Any]
    unmatched: list[Any]
    mistyped: list[Any]


GROUPS = tuple(part.name for part in fields(Edges))


def plan(cls: type) -> list[tuple[int, str, Any, bool]]:
    """Map key, name, codec and whether optional, of each field of a class."""
    return [
        (part.metadata["key"], part.name, part.metadata["codec"], part.metadata["optional"])
        for part in fields(cls)
    ]


def edges(codec: Any) -> Edges:
    """The values around a codec's limits."""
    match codec:
        case wire.Uint(low, high):
            # Bytes that would be within the range, were they a number.
            return Edges([low, high], [low - 1, high + 1], [], [str(low), b"\x01", [low], {}])
        case wire.Bytes(low, high):
            fits, misfits = [bytes(low), bytes(high)], [bytes(low - 1), bytes(high + 1)]
            return Edges(fits, misfits, [], ["a" * low, low, [bytes(low)]])
        case wire.Text():
            return _text(codec)
        case wire.Choice(members):
            values = [member.value for member in members]
            return Edges(values, ["", "nonsense", values[0] + "x"], [], [0, values[0].encode()])
        case wire.Flag():
            return Edges([0, 1], [2, -1], [], ["1", b"\x01", [1]])
        case wire.Rational():
            allowed = [[1, 1], [2**32 - 1, 1], [1, 2**32 - 1]]
            refused = [[0, 1], [1, 0], [2**32, 1], [1, 2**32], [-1, 1], [1], [1, 1, 1]]
            return Edges(allowed, refused, [], [1, {}, ["1", 1]])
        case wire.Key():
            return _key()
        case wire.Flat(group, most):
            return _flat(group, most)
        case wire.Many(item, low, high):
            return _many(edges(item), low, high)
        case wire.Map(cls):
            return _map(cls)
        case wire.Row(cls):
            return _row(cls)
        case _:
            raise NotImplementedError(codec)


def _text(codec: wire.Text) -> Edges:
    inside: list[Any]
    unmatched: list[Any]
    match codec.high:
        case 120:
            inside = ["", "\u00e9" * 120, "\U0010ffff" * 120, " ~\u0080"]
            unmatched = ["\u00e9" * 121, "\n", "a\x00", "\x1f", "a\x7fb"]
        case 63:
            inside = ["a", "7", "a-b", "z" * 63, "a" + "-" * 61 + "0"]
            unmatched = ["", "a" * 64, "A", "-a", "a-", "a_b", "a\n", "\u00e9"]
        case 255:
            inside = ["mqtt://a:1", "mqtts://[::1]:88883", f"mqtt://{'a' * 242}:65535"]
            unmatched = ["", "http://a:1", "mqtt://a", "mqtt://a:123456", "mqtt://a b:1"]
            unmatched += [f"mqtt://{'a' * 243}:65535", "mqtt://a:1/", "xmqtt://a:1"]
        case 1:
            # An enumeration in the CDDL, a pattern in the code.
            return Edges(["A", "B", "C"], ["", "D", "a", "AB"], [], [0, b"A"])
        case _:
            raise NotImplementedError(codec)
    return Edges(inside, [], unmatched, [0, inside[-1].encode(), [inside[0]]])


def _key() -> Edges:
    inside = [one.public.to_cose() for one in SIGNERS]
    beyond: list[Any] = []
    for key in (inside[0], inside[2]):
        beyond += [{**key, 3: -8}, {**key, 1: 3}, {**key, -1: 2}, {**key, -2: bytes(31)}]
        beyond += [{label: key[label] for label in key if label != gone} for gone in key]
    beyond.append({**inside[0], -3: bytes(32)})
    return Edges(list(inside), beyond, [], [bytes(32), 0, list(inside[0].values())])


def _flat(group: int, most: int) -> Edges:
    if most == 1:
        # One group that is always there: the code reads none, too, and check_block refuses that.
        inside = [[0] * group, [wire.UINT_MAX] * group]
    else:
        inside = [[], [0, wire.UINT_MAX] * group, [1] * group * most]
    beyond = [[-1] * group, [2**63] * group, [0] * group * (most + 1)]
    unequal = [[0] * (group + 1)] if group > 1 else []
    return Edges(inside, beyond, [], [*unequal, ["a"] * group, {}, 0])


def _many(item: Edges, low: int, high: int) -> Edges:
    least = item.inside[0]
    return Edges(
        [*([one] for one in item.inside), [least] * low, [least] * high],
        [*([one] for one in item.beyond), [least] * (high + 1)],
        [[one] for one in item.unmatched],
        [*([one] for one in item.mistyped), {}, 0],
    )


def _map(cls: type) -> Edges:
    parts = [(key, edges(codec), may) for key, _, codec, may in plan(cls)]
    base = {key: part.inside[0] for key, part, may in parts if not may}
    made: dict[str, list[Any]] = {
        group: [{**base, key: value} for key, part, _ in parts for value in getattr(part, group)]
        for group in GROUPS
    }
    made["beyond"] += [{**base, 23: 0}]
    made["beyond"] += [{key: base[key] for key in base if key != gone} for gone in base]
    made["mistyped"] += [list(base.values()), 0]
    return Edges(**made)


def _row(cls: type) -> Edges:
    parts = [edges(codec) for _, _, codec, _ in plan(cls)]
    base = [part.inside[0] for part in parts]
    made: dict[str, list[Any]] = {
        group: [
            [*base[:place], value, *base[place + 1 :]]
            for place, part in enumerate(parts)
            for value in getattr(part, group)
        ]
        for group in GROUPS
    }
    made["beyond"] += [[], base[:-1], [*base, 0]]
    made["mistyped"] += [dict(enumerate(base)), 0]
    return Edges(**made)
