"""Valid inputs, changed: bits and bytes, but also CBOR items, records that are signed anew, frames
with a right checksum, base64 inside text, and what meters send, with its sums. Knows the formats,
and no single decoder.

All randomness is an argument, so that a fuzzer and a property test can both repeat what failed.
"""

import base64
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from zlib import crc32

from cryptometer import cose, note
from cryptometer.errors import Rejected
from cryptometer.keys import Algorithm, Signer
from cryptometer.record_fields import Kind
from tests.fuzz.sums import right_again

DEPTH = 4  # of bytes that hold bytes: a community.pub holds an array that holds records
_NESTED_MAX = 40  # CBOR deeper than this is mutated as bytes only
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}(?:\n[A-Za-z0-9+/]+)*={0,2}")
_NUMBER = re.compile(rb"[0-9]+")
_EDGES = (
    0,
    1,
    23,
    24,
    255,
    256,
    65_535,
    65_536,
    2**32 - 1,
    2**32,
    2**61,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_STRANGE = (  # items that have no place in a record
    b"\xf4", b"\xf6", b"\xf7", b"\xf9\x7e\x00", b"\xfb" + bytes(8), b"\xff", b"\x1c",
    b"\xc2\x41\x05", b"\xd8\x1c\x80", b"\xd8\x1d\x00", b"\xc4\x82\x18\x64\x01",
    b"\xd8\x23\x63(a)", b"\x9f\x00\xff", b"\x5f\x41\x00\xff", b"\xbf\x00\x00\xff",
)  # fmt: skip


@dataclass(slots=True)
class Item:
    """A CBOR item that may be written wrongly.

    Attributes:
        major: its major type, 0 to 5.
        number: its value or, of an array or a map, what its head claims too much or too little.
        content: of a string.
        items: of an array; of a map, keys and values in turn.
        width: bytes behind the head's first one, 0 for the fewest, 9 for an indefinite length.
    """

    major: int
    number: int = 0
    content: bytes = b""
    items: "list[Item]" = field(default_factory=list)
    width: int = 0

    def encode(self) -> bytes:
        body = self.content + b"".join(item.encode() for item in self.items)
        if self.major == _RAW:
            return body
        count = self.number
        if self.major in (2, 3):
            count += len(self.content)
        elif self.major >= 4:
            count += len(self.items) // (1 + (self.major == 5))
        if self.width == _INDEFINITE and self.major >= 2:
            return bytes(((self.major << 5) | 31,)) + body + b"\xff"
        return _head(self.major, max(0, min(count, 2**64 - 1)), self.width) + body


_RAW = 8  # not a major type: `content` as it is
_INDEFINITE = 9


def _head(major: int, count: int, width: int) -> bytes:
    for size, code in ((0, 0), (1, 24), (2, 25), (4, 26), (8, 27)):
        least = 24 if size == 0 else 1 << (8 * size)
        if count < least and size >= width % _INDEFINITE:
            if size == 0:
                return bytes(((major << 5) | count,))
            return bytes(((major << 5) | code,)) + count.to_bytes(size, "big")
    raise AssertionError(f"{count} has more than 64 bits")


def parse(data: bytes) -> Item | None:
    """The one item that fills `data`, None if it is no CBOR of definite lengths without tags."""
    try:
        item, end = _parse(data, 0, _NESTED_MAX)
    except (IndexError, ValueError):
        return None
    return item if end == len(data) else None


def _parse(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    major, count = data[at] >> 5, data[at] & 0x1F
    at += 1
    if major > 5 or count > 27 or depth == 0:
        raise ValueError
    if count >= 24:
        size = 1 << (count - 24)
        count = int.from_bytes(data[at : at + size], "big")
        at += size
    if major < 2:
        return Item(major, count), at
    if count > len(data) - at:
        raise ValueError
    if major < 4:
        return Item(major, content=data[at : at + count]), at + count
    items = []
    for _ in range(count * (1 + (major == 5))):
        item, at = _parse(data, at, depth - 1)
        items.append(item)
    return Item(major, items=items), at


class Mutator:
    """Changes inputs. `pieces` are valid inputs of any kind, for splicing."""

    def __init__(self, draw: Random, held: Sequence[Signer], pieces: Sequence[bytes]) -> None:
        self._draw = draw
        self._held = held
        self._pieces = pieces

    def mutate(self, data: bytes, size_max: int = 2**16) -> bytes:
        """`data`, changed once or a few times; mostly in its own format."""
        for _ in range(self._draw.choice((1, 1, 1, 2, 4))):
            data = self._change(data, DEPTH)
        return (right_again(data) if self._draw.random() < 0.5 else data)[:size_max]

    def _change(self, data: bytes, depth: int) -> bytes:
        inside = (
            self._in_digested,
            self._in_frames,
            self._in_bundle,
            self._in_text,
            self._in_record,
            self._in_cbor,
        )
        if depth and self._draw.random() < 0.85:
            # The first format that fits: a record is CBOR too, and so is many a byte.
            for change in inside:
                changed = change(data, depth - 1)
                if changed is not None:
                    return changed
        return self._in_bytes(data)

    # --- Bytes. ---

    def _in_bytes(self, data: bytes) -> bytes:
        draw = self._draw
        at = draw.randint(0, len(data))
        end = min(len(data), at + draw.choice((1, 1, 2, 4, 8, 32, 64)))
        match draw.randrange(9):
            case 0 if data:
                place = bytearray(data)
                place[at % len(data)] ^= 1 << draw.randrange(8)
                return bytes(place)
            case 1 if data:
                return data[:at] + bytes((draw.randrange(256),)) + data[at + 1 :]
            case 2:
                return data[:at] + data[end:]
            case 3:
                return data[:end] + data[at:end] * draw.choice((1, 1, 2, 7)) + data[end:]
            case 4:
                return data[:at]
            case 5:
                return data[:at] + draw.randbytes(draw.choice((1, 2, 8, 33))) + data[at:]
            case 6:
                piece = draw.choice(self._pieces) if self._pieces else b""
                begin = draw.randint(0, len(piece))
                return data[:at] + piece[begin:] + data[end:]
            case 7:
                size = draw.choice((1, 2, 4, 8))
                number = draw.choice(_EDGES) % (1 << (8 * size))
                return data[:at] + number.to_bytes(size, "big") + data[at + size :]
            case _:
                return data + data[at:end]

    # --- CBOR. ---

    def _in_cbor(self, data: bytes, depth: int) -> bytes | None:
        root = parse(data)
        if root is None or not data:
            return None
        every = list(_walk(root))
        target = self._draw.choice(every)
        self._change_item(target, every, depth)
        return root.encode()

    def _change_item(self, item: Item, every: list[Item], depth: int) -> None:
        draw = self._draw
        match draw.randrange(12):
            case 0:
                item.width = draw.choice((1, 2, 4, 8, _INDEFINITE))
            case 1:
                item.number += draw.choice((1, -1, 2, 255, 2**32, 2**63))
            case 2:
                _become(item, draw.choice(every))
            case 3:
                _become(item, Item(_RAW, content=draw.choice(_STRANGE)))
            case 4:
                _become(item, Item(draw.choice((0, 0, 1)), draw.choice(_EDGES)))
            case 5:
                levels = draw.choice((1, 1, 2, 9))
                inner = replace(item)
                for _ in range(levels):
                    inner = Item(4, items=[inner])
                _become(item, inner)
            case _:
                self._change_content(item, every, depth)

    def _change_content(self, item: Item, every: list[Item], depth: int) -> None:
        draw = self._draw
        if item.major < 2:
            near = item.number + draw.choice((1, -1, 7, -7, 1_000))
            item.number = draw.choice((max(0, near), draw.choice(_EDGES), draw.randrange(24)))
        elif item.major < 4:
            item.content = self._change(item.content, depth)
        elif item.major in (4, 5) and item.items:
            step = item.major - 3
            at = draw.randrange(0, len(item.items), step)
            one = item.items[at : at + step]
            match draw.randrange(4):
                case 0:
                    del item.items[at : at + step]
                case 1:
                    item.items[at:at] = one
                case 2:
                    to = draw.randrange(0, len(item.items), step)
                    item.items[at : at + step] = item.items[to : to + step]
                    item.items[to : to + step] = one
                case _:
                    item.items[at:at] = [deepcopy(draw.choice(every)) for _ in range(step)]

    # --- Records. ---

    def _in_record(self, data: bytes, depth: int) -> bytes | None:
        try:
            envelope = cose.open_seal(data)
        except Rejected:
            return None
        draw, header = self._draw, envelope.header
        payload = envelope.payload
        if draw.random() < 0.9:
            payload = self._in_cbor(payload, depth) or self._in_bytes(payload)
        kind, community = header.kind, header.community
        match draw.randrange(12):
            case 0:
                kind = draw.choice(list(Kind)).value
            case 1:
                community = draw.choice((None, bytes(32), draw.randbytes(32)))
        own = [one for one in self._held if one.public.thumbprint == header.key_id]
        if draw.random() < 0.75 and self._held:
            signer = own[0] if own and draw.random() < 0.9 else draw.choice(self._held)
            try:
                return cose.seal(kind, community, payload, signer)
            except ValueError:
                return None  # the changed payload is longer than a record
        parts = [Item(2, content=one) for one in (header.encode(), payload, envelope.signature)]
        root = Item(4, items=[parts[0], Item(5), *parts[1:]])
        if draw.random() < 0.3:
            self._change_item(draw.choice(list(_walk(root))), parts, 0)
        return root.encode()

    # --- What holds records. ---

    def _in_digested(self, data: bytes, depth: int) -> bytes | None:
        """A first line, content, and the SHA-256 of both (`cryptometer.audit_state`)."""
        content = data[:-32]
        line, separator, rest = content.partition(b"\n")
        if not separator or sha256(content).digest() != data[-32:]:
            return None
        content = line + separator + self._change(rest, depth)
        return content + sha256(content).digest()

    def _in_frames(self, data: bytes, depth: int) -> bytes | None:
        """A file of frames: length, CRC-32, payload (`firmware.segments`)."""
        frames: list[bytes] = []
        at = 0
        while at + 8 <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            if at + 8 + size > len(data):
                break
            frames.append(data[at + 8 : at + 8 + size])
            at += 8 + size
        if not frames or _frame(frames[0]) != data[: 8 + len(frames[0])]:
            return None
        return b"".join(map(_frame, self._among(frames, depth))) + data[at:]

    def _in_bundle(self, data: bytes, depth: int) -> bytes | None:
        """A bundle of entries: length of two bytes, entry (`cryptometer.tiles`)."""
        entries: list[bytes] = []
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            entries.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        if not entries or at != len(data) or not any(one[:1] == b"\x84" for one in entries):
            return None
        changed = self._among(entries, depth)
        return b"".join((len(one) % 2**16).to_bytes(2, "big") + one for one in changed)

    def _among(self, parts: list[bytes], depth: int) -> list[bytes]:
        draw, at = self._draw, self._draw.randrange(len(parts))
        match draw.randrange(6):
            case 0:
                return parts[:at] + parts[at + 1 :]
            case 1:
                return parts[: at + 1] + parts[at:]
            case 2:
                return [*parts[:at], draw.choice(parts), *parts[at + 1 :]]
            case _:
                return [*parts[:at], self._change(parts[at], depth), *parts[at + 1 :]]

    # --- Text. ---

    def _in_text(self, data: bytes, depth: int) -> bytes | None:
        if not data or b"\x00" in data or (not data.isascii() and "—".encode() not in data):
            return None
        draw = self._draw
        places: list[tuple[re.Match[bytes], bool]] = []
        places += [(found, True) for found in _BASE64.finditer(data)]
        places += [(found, False) for found in _NUMBER.finditer(data)]
        if draw.random() < 0.2:
            lines = data.split(b"\n")
            return b"\n".join(self._among(lines, 0))
        if draw.random() < 0.2:
            return self._sign_note(data)
        if not places:
            return None
        found, is_base64 = draw.choice(places)
        new = self._in_base64(found[0], depth) if is_base64 else str(draw.choice(_EDGES)).encode()
        data = data[: found.start()] + new + data[found.end() :]
        return self._sign_note(data) if draw.random() < 0.2 else data

    def _in_base64(self, text: bytes, depth: int) -> bytes:
        joined = text.replace(b"\n", b"")
        try:
            inner = base64.b64decode(joined, validate=True)
        except ValueError:
            return self._in_bytes(text)
        encoded = base64.b64encode(self._change(inner, depth))
        if b"\n" not in text:
            return encoded
        return b"\n".join(encoded[at : at + 64] for at in range(0, len(encoded), 64))

    def _sign_note(self, data: bytes) -> bytes | None:
        """A note signed anew, by whoever the attacker can sign as; also behind a proof's head."""
        before, separator, rest = data.rpartition(b"\n\n\xe2\x80\x94 ")
        name = rest.partition(b" ")[0].decode(errors="replace")
        head, gap, text = before.rpartition(b"\n\n")
        keys = [one for one in self._held if one.public.algorithm is Algorithm.EDDSA]
        if not separator or not keys:
            return None
        try:
            signed = note.sign_note(text.decode() + "\n", name, self._draw.choice(keys))
        except (ValueError, UnicodeDecodeError):
            return None
        return head + gap + signed.encode()


def _walk(item: Item) -> "list[Item]":
    found = [item]
    for inner in item.items:
        found += _walk(inner)
    return found


def _become(item: Item, other: Item) -> None:
    # A copy first: an item that takes its own parent in would never end.
    same = deepcopy(other)
    item.major, item.number, item.width = same.major, same.number, same.width
    item.content, item.items = same.content, same.items


def _frame(payload: bytes) -> bytes:
    length = len(payload).to_bytes(4, "big")
    return length + crc32(payload, crc32(length)).to_bytes(4, "big") + payload
