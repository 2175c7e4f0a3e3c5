"""The hashes of a ledger's tiles, each proven by the checkpoint before anything is believed of it:
from the root down. So whoever has the files, but not the gateway's key, adds no leaf to a ledger,
and has its reader hold no more than the gateway has signed.
"""

from collections.abc import Iterator

from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES, Frontier
from cryptometer.record_fields import Checkpoint
from cryptometer.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Read,
    Tile,
    levels_of,
    parent_hash,
    read_tile,
    tiles_of,
)


class ProvenTiles:
    """The tiles of hashes that a tree has gained. One of each level is held at a time."""

    def __init__(self, old: Frontier, checkpoint: Checkpoint, read: Read) -> None:
        """Reads the tiles that are not full.

        Args:
            old: the tree before, which is believed: the newer one must extend it.

        Raises:
            Rejected: BAD_PROOF when they do not give the checkpoint's root or do not begin as they
                did; MALFORMED when one is missing. The message names them.
        """
        self._old = old
        self._size = checkpoint.size
        self._read = read
        self._edge: dict[Tile, bytes] = {}
        peaks: list[bytes] = []
        for level in reversed(levels_of(self._size)):
            peaks += self._peaks(level)
        if Frontier(self._size, tuple(peaks)).root != checkpoint.root:
            places = ", ".join(tile.path for tile in self._edge)
            raise Rejected(Reason.BAD_PROOF, f"the checkpoint's root does not follow from {places}")

    def contents(self, level: int) -> Iterator[tuple[Tile, bytes]]:
        """The tiles of a level that the tree has gained, from left to right.

        Raises:
            Rejected: BAD_PROOF or MALFORMED, naming the tile.
        """
        above = self._gained(level + 1)  # a hash for each tile that is full now
        for tile in tiles_of(level, self._old.size, self._size):
            content = self._edge.get(tile)
            if content is None:
                content = self._read_kept(tile)
                if parent_hash(content) != next(above):
                    raise Rejected(
                        Reason.BAD_PROOF, f"{tile.path} is not what the checkpoint covers"
                    )
            yield tile, content

    def _gained(self, level: int) -> Iterator[bytes]:
        """The hashes that a level has gained."""
        for tile, content in self.contents(level):
            yield from _split(content)[self._kept(tile) :]

    def _kept(self, tile: Tile) -> int:
        """How many of a tile's hashes the old tree had."""
        have = self._old.size >> TILE_HEIGHT * (tile.level or 0)
        return max(0, have - tile.index * TILE_WIDTH)

    def _peaks(self, level: int) -> list[bytes]:
        """The roots of the perfect subtrees that the level's last tile holds, largest first."""
        scale = TILE_WIDTH**level
        if self._size // scale == self._old.size // scale:
            height = TILE_HEIGHT * level
            return [peak for _, peak in self._old.peaks_between(height, height + TILE_HEIGHT)]
        index, width = divmod(self._size // scale, TILE_WIDTH)
        if not width:
            return []
        tile = Tile(level, index, width)
        content = self._edge[tile] = self._read_kept(tile)
        return list(Frontier().extended(_split(content)).peaks)

    def _read_kept(self, tile: Tile) -> bytes:
        """A tile that, if the old tree ended in it, begins as it did then: the peaks that lie
        within it cover just its hashes of that time."""
        content = read_tile(tile, self._read)
        if not self._kept(tile):
            return content
        height = TILE_HEIGHT * (tile.level or 0)
        begin = 0
        for above, peak in self._old.peaks_between(height, height + TILE_HEIGHT):
            end = begin + (HASH_BYTES << above - height)
            if parent_hash(content[begin:end]) != peak:
                raise Rejected(
                    Reason.BAD_PROOF,
                    f"{tile.path} does not begin as it did when {self._old.size} leaves were"
                    " audited",
                )
            begin = end
        return content


def _split(content: bytes) -> list[bytes]:
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]
