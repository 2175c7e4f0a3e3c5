"""The ledger as static files: layout and content of C2SP tlog-tiles. Paths and bytes, no files.

`checkpoint` holds the newest signed tree head, `tile/<level>/<n>` 256 hashes each, and
`tile/entries/<n>` the records themselves; the rightmost of each level is partial: `<n>.p/<width>`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES, Node, node_hash

CHECKPOINT_PATH = "checkpoint"
TILE_WIDTH = 256
TILE_HEIGHT = 8
_BUNDLES_KEPT = 16

Read: TypeAlias = Callable[[str], bytes | None]
"""Gives the content of a ledger path, or None if there is no such file."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's place: its level (None for a bundle of entries), index, and width of 1 to 256."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where the tile is served, for example tile/0/x001/x234/067.p/17."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level is None else str(self.level)
        name = f"tile/{level}/{'/'.join(reversed(groups))}"
        return name if self.width == TILE_WIDTH else f"{name}.p/{self.width}"

    @property
    def full(self) -> "Tile":
        return Tile(self.level, self.index)


def tiles_of(level: int | None, old: int, new: int) -> Iterator[Tile]:
    """The tiles of one level that a tree has at `new` leaves and not yet at `old`."""
    scale = TILE_WIDTH ** (level or 0)
    have, want = old // scale, new // scale
    for index in range(have // TILE_WIDTH, -(-want // TILE_WIDTH)):
        width = min(TILE_WIDTH, want - index * TILE_WIDTH)
        if index * TILE_WIDTH + width > have:
            yield Tile(level, index, width)


def levels_of(size: int) -> range:
    """The levels at which a tree of `size` leaves has tiles."""
    levels = 0
    while size:
        size //= TILE_WIDTH
        levels += 1
    return range(levels)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries, each behind its length as a big-endian 16-bit number."""
    return b"".join(part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry))


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Reads the `width` entries of a bundle.

    Raises:
        Rejected: MALFORMED when it does not hold exactly those.
    """
    entries = split_bundle(data)
    if len(entries) != width:
        raise Rejected(Reason.MALFORMED, f"an entry bundle has {len(entries)} of {width} entries")
    return entries


def split_bundle(data: bytes) -> list[bytes]:
    """Reads the entries of a bundle, however many it has.

    Raises:
        Rejected: MALFORMED when the last one is cut off.
    """
    entries: list[bytes] = []
    at, end = 0, len(data)
    while at + 2 <= end:
        begin = at + 2
        at = begin + (data[at] << 8 | data[at + 1])
        entries.append(data[begin:at])
    if at != end:
        raise Rejected(Reason.MALFORMED, "an entry bundle is cut off")
    return entries


def read_tile(tile: Tile, read: Read) -> bytes:
    """Content of a tile; of the full one when the partial one was already removed.

    Raises:
        Rejected: MALFORMED, naming the path, when it is missing or of another length.
    """
    data, width = read(tile.path), tile.width
    if data is None and width < TILE_WIDTH:
        data, width = read(tile.full.path), TILE_WIDTH
    if data is None:
        raise Rejected(Reason.MALFORMED, f"{tile.path} is missing")
    if tile.level is None:
        return data
    if len(data) != width * HASH_BYTES:
        raise Rejected(Reason.MALFORMED, f"{tile.path} has {len(data)} bytes")
    return data[: tile.width * HASH_BYTES]


def read_entries(tile: Tile, read: Read) -> list[bytes]:
    """The entries of a bundle; the first ones of the full bundle when the partial one is gone.

    Raises:
        Rejected: MALFORMED, naming the path, when it is missing or holds another number of them.
    """
    data, width = read(tile.path), tile.width
    if data is None:
        data, width = read(tile.full.path), TILE_WIDTH
    if data is None:
        raise Rejected(Reason.MALFORMED, f"{tile.path} is missing")
    try:
        return decode_bundle(data, width)[: tile.width]
    except Rejected as refused:
        raise Rejected(refused.reason, f"{tile.path}: {refused.detail}") from None


class Entries:
    """The entries of the tree of `size` leaves by their index; the bundles read last are kept."""

    def __init__(self, size: int, read: Read) -> None:
        self.size = size
        self._read = read
        self._bundles: dict[int, Sequence[bytes]] = {}  # the newest last

    def raw(self, leaf: int) -> bytes:
        """One entry.

        Raises:
            Rejected: the files are damaged.
        """
        index, within = divmod(leaf, TILE_WIDTH)
        if index not in self._bundles:
            width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
            if len(self._bundles) == _BUNDLES_KEPT:
                del self._bundles[next(iter(self._bundles))]
            self._bundles[index] = read_entries(Tile(None, index, width), self._read)
        return self._bundles[index][within]


def node_from_tiles(size: int, read: Read) -> Node:
    """Hashes of perfect subtrees of the tree of `size` leaves, read from its tiles."""
    cache: dict[Tile, bytes] = {}

    def node(height: int, index: int) -> bytes:
        level, within = divmod(height, TILE_HEIGHT)
        first = index << within  # the hashes of the tile's level that the subtree spans
        have = size // TILE_WIDTH**level
        tile_index = first // TILE_WIDTH
        tile = Tile(level, tile_index, min(TILE_WIDTH, have - tile_index * TILE_WIDTH))
        if tile not in cache:
            cache[tile] = read_tile(tile, read)
        begin = (first % TILE_WIDTH) * HASH_BYTES
        hashes = cache[tile][begin : begin + (HASH_BYTES << within)]
        return _reduce([hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)])

    return node


def parent_hash(tile: bytes) -> bytes:
    """The hash that stands for a full tile in the level above."""
    return _reduce([tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)])


def _reduce(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [
            node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)
        ]
    return hashes[0]
