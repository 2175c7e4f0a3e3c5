"""Writes the ledger's static files: entry bundles, tiles, and last the checkpoint.

Whatever a reader finds is whole: tiles of a new block stand before the checkpoint that names them,
and a partial tile goes only when the full one stands and the checkpoint no longer needs it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cryptometer.merkle import HASH_BYTES, leaf_hash
from cryptometer.tiles import (
    CHECKPOINT_PATH,
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


class Ledger:
    """The published side of one gateway's log."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

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
        files = self._entry_files(old, new, leaves)
        added = [leaf_hash(raw) for raw in leaves] if hashes is None else list(hashes)
        with self._tree.writing({**files, **self._hash_files(old, new, added)}) as show:

            def publish(note: str) -> None:
                show()
                passing(Point.LEDGER_TILES)
                self._tree.put_all({CHECKPOINT_PATH: note.encode()})
                passing(Point.LEDGER_CHECKPOINT)
                self._remove_partials(old, new)

            yield publish

    def _entry_files(self, old: int, new: int, leaves: Sequence[bytes]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for tile in tiles_of(None, old, new):
            begin = tile.index * TILE_WIDTH
            entries: list[bytes] = []
            if begin < old:
                entries = read_entries(Tile(None, tile.index, old - begin), self._tree.read)
            first = max(0, begin - old)
            entries += leaves[first : first + tile.width - len(entries)]
            files[tile.path] = encode_bundle(entries)
        return files

    def _hash_files(self, old: int, new: int, added: list[bytes]) -> dict[str, bytes]:
        """Tiles of every level; `added` are the hashes that the current level gains."""
        files: dict[str, bytes] = {}
        for level in levels_of(new):
            scale = TILE_WIDTH**level
            have = old // scale
            complete: list[bytes] = []
            for tile in tiles_of(level, old, new):
                begin = tile.index * TILE_WIDTH
                content = b""
                if begin < have:
                    content = read_tile(Tile(level, tile.index, have - begin), self._tree.read)
                first = max(0, begin - have)
                missing = tile.width - len(content) // HASH_BYTES
                content += b"".join(added[first : first + missing])
                files[tile.path] = content
                if tile.width == TILE_WIDTH:
                    complete.append(parent_hash(content))
            added = complete
        return files

    def _remove_partials(self, old: int, new: int) -> None:
        levels: list[int | None] = [None, *levels_of(new)]
        for level in levels:
            for tile in tiles_of(level, old, new):
                if tile.width == TILE_WIDTH:
                    self._tree.remove_under(f"{tile.path}.p")
