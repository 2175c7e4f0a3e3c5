"""The writer of the ledger's static files, on a real folder: the layout of `cryptometer.tiles`,
whole for a reader at any instant, and written again after a stop between any two files."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import Reason
from cryptometer.merkle import HASH_BYTES, Frontier, leaf_hash
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Read,
    Tile,
    levels_of,
    parent_hash,
    read_entries,
    read_tile,
    tiles_of,
)
from gateway.ledger import Ledger
from hal.files import DiskTree, SimulatedTree
from hal.ports import Tree
from tests.core.community import lay_out
from tests.core.refusing import refusing
from tests.core.strategies import examples


def entries(count: int, size: int = 12) -> list[bytes]:
    draw = random.Random(count)
    return [draw.randbytes(size) for _ in range(count)]


def note(size: int) -> str:
    """Stands for the signed note of a tree of this size."""
    return f"checkpoint of {size}\n"


def published(read: Read) -> int:
    """The size of the tree that a reader is told of."""
    signed = read(CHECKPOINT_PATH)
    return 0 if signed is None else int(signed.split()[-1])


def check_whole(read: Read, leaves: Sequence[bytes]) -> int:
    """All that the checkpoint names is there, and is the beginning of `leaves`."""
    size = published(read)
    found: list[bytes] = []
    for tile in tiles_of(None, 0, size):
        found += read_entries(tile, read)
    assert found == list(leaves[:size])
    for level in levels_of(size):
        for tile in tiles_of(level, 0, size):
            content = read_tile(tile, read)
            assert len(content) == tile.width * HASH_BYTES
            if level == 0:
                first = tile.index * TILE_WIDTH
                expected = [leaf_hash(one) for one in leaves[first : first + tile.width]]
            else:
                first = tile.index * TILE_WIDTH
                below = [
                    read_tile(Tile(level - 1, child), read)
                    for child in range(first, first + tile.width)
                ]
                expected = [parent_hash(one) for one in below]
            assert content == b"".join(expected)
    return size


def test_before_the_first_block_there_is_nothing(tmp_path: Path) -> None:
    ledger = Ledger(DiskTree(tmp_path / "ledger"))
    assert ledger.checkpoint() is None
    assert ledger.read("tile/0/000") is None


def test_leaves_that_are_written_ahead_are_no_ones_until_they_are_published(
    tmp_path: Path,
) -> None:
    disk = DiskTree(tmp_path)
    ledger, leaves = Ledger(disk), entries(300)
    ledger.publish(0, leaves[:20], note(20))
    with ledger.publishing(20, leaves[20:]):
        assert check_whole(disk.read, leaves) == 20
    assert check_whole(disk.read, leaves) == 20
    assert disk.read("tile/0/000") is None
    with ledger.publishing(20, leaves[20:]) as publish:
        assert check_whole(disk.read, leaves) == 20
        publish(note(300))
    assert check_whole(disk.read, leaves) == 300
    assert not list(tmp_path.rglob("*.new"))


def test_a_published_block_can_be_read_by_everyone(tmp_path: Path) -> None:
    ledger = Ledger(DiskTree(tmp_path))
    ledger.publish(0, entries(3), note(3))
    assert ledger.checkpoint() == note(3).encode()
    assert {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    } == {
        "checkpoint": 0o644,
        "tile": 0o755,
        "tile/0": 0o755,
        "tile/0/000.p": 0o755,
        "tile/0/000.p/3": 0o644,
        "tile/entries": 0o755,
        "tile/entries/000.p": 0o755,
        "tile/entries/000.p/3": 0o644,
    }


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
@examples(40)
def test_blocks_of_any_size_make_the_layout_of_the_whole(sizes: list[int]) -> None:
    tree = SimulatedTree()
    ledger = Ledger(tree)
    leaves = entries(sum(sizes))
    size = 0
    for block in sizes:
        added = leaves[size : size + block]
        hashes = [leaf_hash(one) for one in added] if block % 2 else None
        ledger.publish(size, added, note(size + block), hashes)
        size += block
        assert check_whole(tree.read, leaves) == size
    expected = lay_out(leaves, note(size))
    assert {path: tree.files[path] for path in expected} == expected
    # What else is there: partial tiles that an older checkpoint names, of tiles not yet full.
    full = {path for path in expected if ".p/" not in path}
    for path in set(tree.files) - set(expected):
        whole, partial, width = path.partition(".p/")
        assert partial
        assert whole not in full
        assert 0 < int(width) < TILE_WIDTH


def test_a_ledger_of_a_third_level_is_laid_out_like_any_other() -> None:
    tree = SimulatedTree()
    ledger = Ledger(tree)
    leaves = entries(TILE_WIDTH**2 + 300, 4)
    cuts = (0, TILE_WIDTH**2 - 40, TILE_WIDTH**2, TILE_WIDTH**2 + 1, len(leaves))
    for old, new in pairwise(cuts):
        ledger.publish(old, leaves[old:new], note(new))
    expected = lay_out(leaves, note(len(leaves)))
    assert "tile/2/000.p/1" in expected
    assert {path: tree.files[path] for path in expected} == expected


class Stopped(Exception):  # noqa: N818 - the machine stops; nothing is wrong with the code
    pass


class Stopping:
    """A tree that does one thing at a time, and stops before the n-th."""

    def __init__(self, tree: Tree, stop_at: int) -> None:
        self._tree = tree
        self._left = stop_at
        self.done: list[str] = []

    def read(self, path: str) -> bytes | None:
        return self._tree.read(path)

    @contextmanager
    def writing(self, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
        yield partial(self.put_all, files)

    def put_all(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._step(f"put {path}")
            self._tree.put_all({path: data})

    def remove_under(self, path: str) -> None:
        self._step(f"remove {path}")
        self._tree.remove_under(path)

    def _step(self, what: str) -> None:
        if self._left == 0:
            raise Stopped(what)
        self._left -= 1
        self.done.append(what)


# Within a tile, up to its end, over its end, and over two tiles.
CUTS = [(3, 9), (250, 256), (250, 260), (256, 257), (200, 600)]


@pytest.mark.parametrize(("old", "new"), CUTS)
def test_a_stop_between_any_two_files_is_mended_by_publishing_again(
    tmp_path: Path, old: int, new: int
) -> None:
    leaves = entries(new + 20)
    stop_at = 0
    while True:
        folder = tmp_path / str(stop_at)
        disk = DiskTree(folder)
        Ledger(disk).publish(0, leaves[:old], note(old))
        stopping = Stopping(disk, stop_at)
        try:
            Ledger(stopping).publish(old, leaves[old:new], note(new))
        except Stopped:
            # A reader sees the ledger before the block, or after it.
            seen = check_whole(disk.read, leaves)
            assert seen in (old, new)
        else:
            break
        Ledger(disk).publish(old, leaves[old:new], note(new))
        assert check_whole(disk.read, leaves) == new
        # And it goes on from there.
        Ledger(disk).publish(new, leaves[new:], note(len(leaves)))
        assert check_whole(disk.read, leaves) == len(leaves)
        expected = lay_out(leaves, note(len(leaves)))
        assert all(disk.read(path) == data for path, data in expected.items())
        stop_at += 1
    assert stop_at >= 3
    puts = [what for what in stopping.done if what.startswith("put")]
    # Tiles first, then the checkpoint; partial tiles go last.
    assert puts[-1] == f"put {CHECKPOINT_PATH}"
    assert stopping.done[: len(puts)] == puts


@pytest.mark.parametrize(("old", "new"), CUTS)
def test_publishing_a_second_time_changes_nothing(tmp_path: Path, old: int, new: int) -> None:
    leaves = entries(new)
    ledger = Ledger(DiskTree(tmp_path))
    ledger.publish(0, leaves[:old], note(old))
    ledger.publish(old, leaves[old:], note(new))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ledger.publish(old, leaves[old:], note(new))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_half_written_file_of_a_stop_is_never_read(tmp_path: Path) -> None:
    ledger = Ledger(DiskTree(tmp_path))
    leaves = entries(5)
    ledger.publish(0, leaves[:3], note(3))
    (tmp_path / "tile/0/000.p/5.new").write_bytes(b"torn")
    (tmp_path / "checkpoint.new").write_bytes(b"torn")
    assert check_whole(ledger.read, leaves) == 3
    ledger.publish(3, leaves[3:], note(5))
    assert check_whole(ledger.read, leaves) == 5
    assert not list(tmp_path.rglob("*.new"))


def test_partial_tiles_go_once_the_full_one_stands(tmp_path: Path) -> None:
    ledger = Ledger(DiskTree(tmp_path))
    leaves = entries(600)
    for old in range(0, 600, 60):
        ledger.publish(old, leaves[old : old + 60], note(old + 60))
    assert sorted(path.name for path in (tmp_path / "tile/0").iterdir()) == ["000", "001", "002.p"]
    assert sorted(path.name for path in (tmp_path / "tile/entries").iterdir()) == [
        "000",
        "001",
        "002.p",
    ]


@pytest.mark.parametrize("path", ["tile/0/000.p/5", "tile/entries/000.p/5"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_files_are_not_built_upon(tmp_path: Path, path: str, damage: str) -> None:
    ledger = Ledger(DiskTree(tmp_path))
    leaves = entries(9)
    ledger.publish(0, leaves[:5], note(5))
    if damage == "missing":
        (tmp_path / path).unlink()
    else:
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:-1])
    with refusing(Reason.MALFORMED):
        Ledger(DiskTree(tmp_path)).publish(5, leaves[5:], note(9))
    assert ledger.checkpoint() == note(5).encode()


@pytest.mark.parametrize("path", ["tile/0/001.p/4", "tile/entries/001.p/4", "tile/1/000.p/1"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_what_is_damaged_while_the_writer_runs_is_not_asked_and_stops_no_block(
    tmp_path: Path, path: str, damage: str
) -> None:
    ledger = Ledger(DiskTree(tmp_path))
    leaves = entries(280)
    for old, new in pairwise((0, 250, 260)):
        ledger.publish(old, leaves[old:new], note(new))
    harm(tmp_path / path, damage)
    ledger.publish(260, leaves[260:], note(280))
    # What did not grow is written anew by the next start.
    frontier = Frontier().extended(map(leaf_hash, leaves))
    assert Ledger(ledger._tree).recover(frontier, {}) == [path] * path.startswith("tile/1")
    assert check_whole(ledger.read, leaves) == 280


@pytest.mark.parametrize("path", ["tile/0/001.p/4", "tile/entries/001.p/4", "tile/1/000.p/1"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_file_at_the_edge_is_written_anew_from_what_the_store_keeps(
    tmp_path: Path, path: str, damage: str
) -> None:
    leaves = entries(280)
    Ledger(DiskTree(tmp_path)).publish(0, leaves[:260], note(260))
    harm(tmp_path / path, damage)
    ledger = Ledger(DiskTree(tmp_path))
    frontier = Frontier().extended(map(leaf_hash, leaves[:260]))
    kept = dict(enumerate(leaves[256:260], 256))
    assert ledger.recover(frontier, kept) == [path]
    assert ledger.recover(frontier, {}) == []
    assert check_whole(ledger.read, leaves) == 260
    ledger.publish(260, leaves[260:], note(280))
    assert check_whole(ledger.read, leaves) == 280


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_what_nothing_gives_anew_is_named_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    leaves = entries(260)
    Ledger(DiskTree(tmp_path)).publish(0, leaves, note(260))
    frontier = Frontier().extended(map(leaf_hash, leaves))
    for path, named in (
        ("tile/entries/001.p/4", "tile/entries/001.p/4"),
        ("tile/0/000", "tile/1/000.p/1" if damage == "flipped" else "tile/0/000"),
    ):
        before = (tmp_path / path).read_bytes()
        level = (tmp_path / "tile/1/000.p/1").read_bytes()
        harm(tmp_path / path, damage)
        harm(tmp_path / "tile/1/000.p/1", "flipped")
        with refusing(Reason.MALFORMED, named):
            # Leaves of another tree are believed as little as the files are.
            Ledger(DiskTree(tmp_path)).recover(frontier, dict.fromkeys(range(256, 260), b"other"))
        (tmp_path / path).write_bytes(before)
        (tmp_path / "tile/1/000.p/1").write_bytes(level)
    assert Ledger(DiskTree(tmp_path)).recover(frontier, {}) == []


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.booleans())
@examples(20)
def test_an_edge_that_was_proven_goes_on_like_one_that_was_written(
    sizes: list[int], is_kept: bool
) -> None:
    tree = SimulatedTree()
    leaves = entries(sum(sizes))
    size = 0
    for block in sizes:
        ledger = Ledger(tree)
        frontier = Frontier().extended(map(leaf_hash, leaves[:size]))
        assert ledger.recover(frontier, dict(enumerate(leaves[:size])) if is_kept else {}) == []
        ledger.publish(size, leaves[size : size + block], note(size + block))
        size += block
        assert check_whole(tree.read, leaves) == size


def harm(path: Path, damage: str) -> None:
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "short" else bytes([*data[:-1], data[-1] ^ 1]))
