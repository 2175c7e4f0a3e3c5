"""Writes the ledger's static files: entry bundles, tiles, and last the checkpoint.

Whatever a reader finds is whole: tiles of a new block stand before the checkpoint that names them,
and a partial tile goes only when the full one stands and the checkpoint no longer needs it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES, Frontier, leaf_hash
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    encode_bundle,
    levels_of,
    parent_hash,
    read_entries,
    read_tile,
    tiles_of,
)
from hal.faults import Point, passing
from hal.ports import Tree


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree: what stands in its partial tiles, which are written anew, with
    more, as it grows.

    Attributes:
        size: leaves of the tree.
        entries: those of the bundle that is not full.
        hashes: of each level, those of the tile that is not full.
    """

    size: int
    entries: tuple[bytes, ...]
    hashes: tuple[bytes, ...]


class Ledger:
    """The published side of one gateway's log."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._edge: Edge | None = None  # what this run has proven or written itself

    def read(self, path: str) -> bytes | None:
        """A published file, or None."""
        return self._tree.read(path)

    def checkpoint(self) -> bytes | None:
        """The published checkpoint, None before the first block."""
        return self._tree.read(CHECKPOINT_PATH)

    def publish(
        self, old: int, leaves: Sequence[bytes], note: str, hashes: Sequence[bytes] | None = None
    ) -> None:
        """Adds leaves behind the first `old` ones, and publishes the checkpoint that covers them.

        May be called again with the same arguments after a crash at any instant.

        Args:
            hashes: of these leaves, if the caller has them.

        Raises:
            OSError: stop; the next start publishes again.
            Rejected: the files of the first `old` leaves are damaged.
        """
        with self.publishing(old, leaves, hashes) as publish:
            publish(note)

    @contextmanager
    def publishing(
        self, old: int, leaves: Sequence[bytes], hashes: Sequence[bytes] | None = None
    ) -> Iterator[Callable[[str], None]]:
        """As `publish`, while the caller makes sure that these leaves may be published at all: the
        files are written meanwhile, and the call that is given shows them, and publishes the
        checkpoint's note.

        Raises:
            OSError: in the call, too; as `publish`.
            Rejected: as `publish`, before anything is written.
        """
        new = old + len(leaves)
        added = [leaf_hash(raw) for raw in leaves] if hashes is None else list(hashes)
        edge = self._edge
        if edge is None or edge.size != old:
            edge = self._read_edge(old)
        files, after = _grown(edge, leaves, added)
        with self._tree.writing(files) as show:

            def publish(note: str) -> None:
                show()
                passing(Point.LEDGER_TILES)
                self._tree.put_all({CHECKPOINT_PATH: note.encode()})
                passing(Point.LEDGER_CHECKPOINT)
                self._edge = after
                self._remove_partials(old, new)

            yield publish

    def recover(self, frontier: Frontier, kept: Mapping[int, bytes]) -> list[str]:
        """Proves what stands at the edge of the published tree, so that no later block is built
        upon damage, nor stopped by it; and writes anew what can be.

        Args:
            frontier: of the published tree, from elsewhere than its files.
            kept: leaves that the store still has, by their index.

        Returns:
            The files that were damaged, and are whole by now.

        Raises:
            Rejected: a file is damaged that nothing here gives anew.
            OSError: it cannot be written.
        """
        size = frontier.size
        entries = self._proven_entries(frontier, kept)
        hashes = tuple(
            self._proven_hashes(frontier, level) if level else b"".join(map(leaf_hash, entries))
            for level in levels_of(size)
        )
        self._edge = Edge(size, tuple(entries), hashes)
        mended = {
            path: data
            for path, data in _partial_files(self._edge).items()
            if not self._stands(path, data)
        }
        if mended:
            self._tree.put_all(mended)
        return sorted(mended)

    def _read_edge(self, size: int) -> Edge:
        """The edge as the files have it."""
        entries = [
            raw
            for tile in _partial_tiles(None, size)
            for raw in read_entries(tile, self._tree.read)
        ]
        hashes = [
            b"".join(read_tile(tile, self._tree.read) for tile in _partial_tiles(level, size))
            for level in levels_of(size)
        ]
        return Edge(size, tuple(entries), tuple(hashes))

    def _proven_entries(self, frontier: Frontier, kept: Mapping[int, bytes]) -> list[bytes]:
        tile = next(_partial_tiles(None, frontier.size), None)
        if tile is None:
            return []
        begin = frontier.size - tile.width
        ours = [kept[leaf] for leaf in range(begin, frontier.size) if leaf in kept]
        if _is_edge(frontier, 0, map(leaf_hash, ours)):
            return ours
        entries = read_entries(tile, self._tree.read)
        if not _is_edge(frontier, 0, map(leaf_hash, entries)):
            raise _damaged(tile)
        return entries

    def _proven_hashes(self, frontier: Frontier, level: int) -> bytes:
        """Of the level's partial tile; where that is damaged, from the full ones below."""
        tile = next(_partial_tiles(level, frontier.size), None)
        if tile is None:
            return b""
        try:
            content = read_tile(tile, self._tree.read)
        except Rejected:
            content = b""
        if _is_edge(frontier, level, _split(content)):
            return content
        first = tile.index * TILE_WIDTH
        below = (Tile(level - 1, child) for child in range(first, first + tile.width))
        content = b"".join(parent_hash(read_tile(one, self._tree.read)) for one in below)
        if not _is_edge(frontier, level, _split(content)):
            raise _damaged(tile)
        return content

    def _stands(self, path: str, data: bytes) -> bool:
        """Whether the file, or the full one in its place, begins with these bytes."""
        found = self._tree.read(path)
        if found is not None:
            return found == data
        full = self._tree.read(path.partition(".p/")[0])
        return full is not None and full.startswith(data)

    def _remove_partials(self, old: int, new: int) -> None:
        levels: list[int | None] = [None, *levels_of(new)]
        for level in levels:
            for tile in tiles_of(level, old, new):
                if tile.width == TILE_WIDTH:
                    self._tree.remove_under(f"{tile.path}.p")


def _partial_tiles(level: int | None, size: int) -> Iterator[Tile]:
    """The level's tile that is not full, if there is one."""
    index, width = divmod(size // TILE_WIDTH ** (level or 0), TILE_WIDTH)
    if width:
        yield Tile(level, index, width)


def _partial_files(edge: Edge) -> dict[str, bytes]:
    files = {tile.path: encode_bundle(edge.entries) for tile in _partial_tiles(None, edge.size)}
    for level, content in enumerate(edge.hashes):
        files |= {tile.path: content for tile in _partial_tiles(level, edge.size)}
    return files


def _grown(
    edge: Edge, leaves: Sequence[bytes], added: Sequence[bytes]
) -> tuple[dict[str, bytes], Edge]:
    """The files that a tree gains with leaves, of which these are the hashes; and its edge then."""
    old, new = edge.size, edge.size + len(leaves)
    files: dict[str, bytes] = {}
    entries = (*edge.entries, *leaves)
    begin = old - len(edge.entries)
    for tile in tiles_of(None, old, new):
        first = tile.index * TILE_WIDTH - begin
        files[tile.path] = encode_bundle(entries[first : first + tile.width])
    levels: list[bytes] = []
    for level in levels_of(new):
        known = edge.hashes[level] if level < len(edge.hashes) else b""
        content = known + b"".join(added)
        begin = old // TILE_WIDTH**level - len(known) // HASH_BYTES
        complete: list[bytes] = []
        for tile in tiles_of(level, old, new):
            first = (tile.index * TILE_WIDTH - begin) * HASH_BYTES
            files[tile.path] = content[first : first + tile.width * HASH_BYTES]
            if tile.width == TILE_WIDTH:
                complete.append(parent_hash(files[tile.path]))
        levels.append(_behind_full(content))
        added = complete
    return files, Edge(new, entries[len(entries) // TILE_WIDTH * TILE_WIDTH :], tuple(levels))


def _behind_full(content: bytes) -> bytes:
    """What stands behind the last full tile."""
    tile_bytes = TILE_WIDTH * HASH_BYTES
    return content[len(content) // tile_bytes * tile_bytes :]


def _is_edge(frontier: Frontier, level: int, hashes: Iterable[bytes]) -> bool:
    """Whether these are the hashes of the level's partial tile."""
    peaks = frontier.peaks_between(level * TILE_HEIGHT, (level + 1) * TILE_HEIGHT)
    return Frontier().extended(hashes).peaks == tuple(peak for _, peak in peaks)


def _split(content: bytes) -> list[bytes]:
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]


def _damaged(tile: Tile) -> Rejected:
    return Rejected(Reason.MALFORMED, f"{tile.path} is damaged")
