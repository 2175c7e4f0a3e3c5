"""Tiles of hashes proven from the root down: what a tree has gained, and nothing else."""

from itertools import pairwise

import pytest

from cryptometer.errors import Reason
from cryptometer.merkle import Frontier, leaf_hash
from cryptometer.proven_tiles import ProvenTiles
from cryptometer.record_fields import Checkpoint
from cryptometer.tiles import TILE_WIDTH, Tile, levels_of, tiles_of
from tests.core.community import flip, lay_out
from tests.core.refusing import refusing

# The second level ends, and a third one begins, at 65,536.
LEAVES = [number.to_bytes(4, "big") for number in range(66_100)]
HASHES = [leaf_hash(raw) for raw in LEAVES]
SIZES = [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_048, 66_100]


def frontier(size: int) -> Frontier:
    return Frontier().extended(HASHES[:size])


def head(size: int) -> Checkpoint:
    return Checkpoint(size, frontier(size).root)


def laid_out(size: int) -> dict[str, bytes]:
    return lay_out(LEAVES[:size], "")


def gained(old: int, size: int, files: dict[str, bytes]) -> list[tuple[Tile, bytes]]:
    return list(ProvenTiles(frontier(old), head(size), files.get).contents(0))


@pytest.mark.parametrize(
    ("old", "size"), [*pairwise(SIZES), (0, 66_100), (300, 65_537), (65_000, 66_100), (512, 512)]
)
def test_what_a_tree_has_gained_is_proven_level_by_level(old: int, size: int) -> None:
    files = laid_out(size)
    proven = ProvenTiles(frontier(old), head(size), files.get)
    for level in levels_of(size):
        expected = [(tile, files[tile.path]) for tile in tiles_of(level, old, size)]
        assert list(proven.contents(level)) == expected


def changed(files: dict[str, bytes], path: str) -> list[dict[str, bytes]]:
    bits = (0, 8 * len(files[path]) - 1)
    return [files | {path: flip(files[path], bit)} for bit in bits]


@pytest.mark.parametrize(("old", "size"), [(0, 600), (300, 600), (65_000, 66_100)])
def test_a_changed_tile_is_named(old: int, size: int) -> None:
    files = laid_out(size)
    for level in levels_of(size):
        for tile in tiles_of(level, old, size):
            for damaged in changed(files, tile.path):
                with refusing(Reason.BAD_PROOF, tile.path):
                    gained(old, size, damaged)
            missing = {path: data for path, data in files.items() if path != tile.path}
            with refusing(Reason.MALFORMED, tile.path):
                gained(old, size, missing)


def test_tiles_that_fit_one_another_are_not_the_checkpoint_s() -> None:
    other = lay_out([*LEAVES[:599], b"other"], "")
    with refusing(Reason.BAD_PROOF, "root does not follow from tile/1/000.p/2, tile/0/002.p/88"):
        gained(0, 600, other)


@pytest.mark.parametrize("at", [0, 255, 256, 299])
def test_a_tree_that_is_no_longer_what_it_was_is_not_extended(at: int) -> None:
    """Whoever has the gateway's key has signed it."""
    leaves = [*LEAVES[:at], b"other", *LEAVES[at + 1 : 600]]
    signed = Frontier().extended(map(leaf_hash, leaves))
    files = lay_out(leaves, "")
    now = Checkpoint(600, signed.root)
    assert list(ProvenTiles(Frontier(), now, files.get).contents(0))
    with refusing(Reason.BAD_PROOF, "does not begin as it did when 300 leaves were audited"):
        list(ProvenTiles(frontier(300), now, files.get).contents(0))


def test_a_tree_is_read_as_far_as_it_is_asked_for() -> None:
    """A gateway may sign a tree of any size: no tiles are gathered before leaves are seen."""
    asked: list[str] = []
    files = laid_out(66_100)

    def read(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    contents = ProvenTiles(Frontier(), head(66_100), read).contents(0)
    edges = ["tile/2/000.p/1", "tile/1/001.p/2", "tile/0/258.p/52"]
    assert asked == edges
    next(contents)
    assert asked == [*edges, "tile/0/000", "tile/1/000"]
    next(contents)
    assert asked == [*edges, "tile/0/000", "tile/1/000", "tile/0/001"]


def test_a_full_tile_stands_in_for_the_partial_one_of_an_older_checkpoint() -> None:
    files = {path: data for path, data in laid_out(600).items() if ".p/" not in path}
    assert gained(0, 200, files) == [(Tile(0, 0, 200), b"".join(HASHES[:200]))]


def test_the_levels_of_the_sizes_are_those_meant() -> None:
    assert [len(levels_of(size)) for size in (65_535, 65_536)] == [2, 3]
    assert TILE_WIDTH**2 == 65_536


def test_a_root_that_was_not_signed_is_none() -> None:
    with refusing(Reason.BAD_PROOF, "root does not follow from tile/0/000.p/3"):
        ProvenTiles(Frontier(), Checkpoint(3, bytes(32)), laid_out(3).get)
