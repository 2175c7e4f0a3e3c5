"""The ledger's static files: paths, bundles, hashes, and partial tiles that are gone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import merkle, tiles
from cryptometer.errors import Reason
from cryptometer.merkle import Frontier, leaf_hash
from cryptometer.tiles import (
    TILE_WIDTH,
    Entries,
    Tile,
    decode_bundle,
    encode_bundle,
    read_entries,
    read_tile,
    tiles_of,
)
from tests.core.community import lay_out
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of


def ledger(size: int) -> tuple[list[bytes], dict[str, bytes]]:
    leaves = [b"entry %d" % number for number in range(size)]
    return leaves, lay_out(leaves, "checkpoint")


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 5, 17), "tile/0/005.p/17"),
        (Tile(None, 0, 1), "tile/entries/000.p/1"),
        (Tile(None, 999), "tile/entries/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        (Tile(2, 1_234_067), "tile/2/x001/x234/067"),  # the example of C2SP tlog-tiles
        (Tile(0, 1_000_000, 255), "tile/0/x001/x000/000.p/255"),
    ],
)
def test_a_tile_has_its_golden_path(tile: Tile, path: str) -> None:
    assert tile.path == path


def test_levels_hold_a_256th_each() -> None:
    assert [len(tiles.levels_of(size)) for size in (0, 1, 255, 256, 65_535, 65_536)] == [
        0, 1, 1, 2, 2, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "old", "new", "expected"),
    [
        (0, 0, 0, []),
        (0, 0, 3, [Tile(0, 0, 3)]),
        (0, 3, 3, []),
        (0, 3, 5, [Tile(0, 0, 5)]),
        (0, 3, 256, [Tile(0, 0)]),
        (0, 256, 257, [Tile(0, 1, 1)]),
        (0, 250, 600, [Tile(0, 0), Tile(0, 1), Tile(0, 2, 88)]),
        (1, 0, 255, []),
        (1, 0, 256, [Tile(1, 0, 1)]),
        (1, 256, 511, []),
        (1, 256, 70_000, [Tile(1, 0), Tile(1, 1, 17)]),
        (2, 0, 70_000, [Tile(2, 0, 1)]),
        (0, 2**48, 2**48 + 1, [Tile(0, 2**40, 1)]),  # what stands there already takes no time
        (None, 255, 257, [Tile(None, 0), Tile(None, 1, 1)]),
    ],
)
def test_growing_adds_exactly_the_new_tiles(
    level: int | None, old: int, new: int, expected: list[Tile]
) -> None:
    assert list(tiles_of(level, old, new)) == expected


@examples(200)
@given(st.lists(st.integers(0, 2000), min_size=2, max_size=4).map(sorted))
def test_tiles_written_in_steps_hold_all_items(sizes: list[int]) -> None:
    written: set[Tile] = set()
    for old, new in zip([0, *sizes], sizes, strict=False):
        written |= set(tiles_of(0, old, new))
    assert set(tiles_of(0, 0, sizes[-1])) <= written


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 700])
def test_every_leaf_is_proven_from_tiles_alone(size: int) -> None:
    leaves, files = ledger(size)
    node = tiles.node_from_tiles(size, files.get)
    root = Frontier().extended(map(leaf_hash, leaves)).root
    for index in {0, 1, size // 2, size - 2, size - 1, 255, 256} & set(range(size)):
        path = merkle.inclusion_proof(index, size, node)
        merkle.verify_inclusion(leaf_hash(leaves[index]), index, size, path, root)
    for old in {1, 2, size // 2, size - 1, 256} & set(range(1, size)):
        before = Frontier().extended(map(leaf_hash, leaves[:old])).root
        merkle.verify_consistency(
            old, before, size, root, merkle.consistency_proof(old, size, node)
        )


def test_a_large_tree_is_proven_through_three_levels() -> None:
    """70 000 leaves: only the tiles that a path needs are read."""
    size, read = 70_000, []
    leaves, files = ledger(size)

    def note_read(path: str) -> bytes | None:
        read.append(path)
        return files.get(path)

    root = Frontier().extended(map(leaf_hash, leaves)).root
    for index in (0, 65_535, 65_536, 69_999):
        path = merkle.inclusion_proof(index, size, tiles.node_from_tiles(size, note_read))
        merkle.verify_inclusion(leaf_hash(leaves[index]), index, size, path, root)
    assert "tile/2/000.p/1" in read
    assert len(set(read)) <= 9


def test_bundles_keep_entries_of_every_length() -> None:
    entries = [b"", b"a", bytes(255), bytes(256), bytes(65_535), b""]
    data = encode_bundle(entries)
    assert data[:5] == b"\x00\x00\x00\x01a"
    assert decode_bundle(data, 6) == entries
    with pytest.raises(OverflowError):
        encode_bundle([bytes(65_536)])


@pytest.mark.parametrize("data", ["00", "0001", "000161 00", "000561616161", "0000ffff"])
def test_a_bundle_that_is_cut_off_is_refused(data: str) -> None:
    with refusing(Reason.MALFORMED, "cut off"):
        tiles.split_bundle(bytes.fromhex(data))


def test_a_bundle_of_another_number_is_refused() -> None:
    data = encode_bundle([b"a", b"b"])
    for width in (0, 1, 3, 256):
        with refusing(Reason.MALFORMED, f"2 of {width} entries"):
            decode_bundle(data, width)


@examples(300)
@given(st.binary(max_size=80))
def test_random_bytes_are_a_bundle_or_refused(data: bytes) -> None:
    if refusal_of(tiles.split_bundle, data) is None:
        assert encode_bundle(tiles.split_bundle(data)) == data


@examples(300)
@given(st.lists(st.binary(max_size=10), max_size=6), st.data())
def test_a_mutated_bundle_gives_other_entries_or_is_refused(
    entries: list[bytes], data: st.DataObject
) -> None:
    raw = encode_bundle(entries)
    at = data.draw(st.integers(0, len(raw)))
    changed = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 3)) :]
    if changed != raw and refusal_of(decode_bundle, changed, len(entries)) is None:
        assert decode_bundle(changed, len(entries)) != entries


def test_the_full_tile_stands_in_for_a_partial_one_that_is_gone() -> None:
    leaves, files = ledger(256)
    assert set(files) == {"checkpoint", "tile/entries/000", "tile/0/000", "tile/1/000.p/1"}
    assert read_entries(Tile(None, 0, 200), files.get) == leaves[:200]
    assert read_tile(Tile(0, 0, 200), files.get) == files["tile/0/000"][: 200 * 32]
    node = tiles.node_from_tiles(200, files.get)
    root = Frontier().extended(map(leaf_hash, leaves[:200])).root
    path = merkle.inclusion_proof(199, 200, node)
    merkle.verify_inclusion(leaf_hash(leaves[199]), 199, 200, path, root)


@pytest.mark.parametrize("read", [read_tile, read_entries], ids=["hashes", "entries"])
def test_a_missing_or_damaged_tile_is_named(read: Any) -> None:
    _, files = ledger(300)
    level = 0 if read is read_tile else None
    for tile in (Tile(level, 0), Tile(level, 1, 44)):
        read(tile, files.get)
        with refusing(Reason.MALFORMED, tile.path, "missing"):
            read(tile, {}.get)
        for damaged in (files[tile.path][:-1], files[tile.path] + b"\x00\x00"):
            with refusing(Reason.MALFORMED, tile.path):
                read(tile, {tile.path: damaged}.get)
    with refusing(Reason.MALFORMED, f"{Tile(level, 1, 44).path}"):
        read(Tile(level, 1, 44), {Tile(level, 1).path: b"\x00"}.get)


def test_a_tile_of_another_width_is_not_taken() -> None:
    _, files = ledger(300)
    path = Tile(0, 1, 44).path
    with refusing(Reason.MALFORMED, path, str(43 * 32)):
        read_tile(Tile(0, 1, 44), {path: files[path][: 43 * 32]}.get)


def test_the_parent_of_a_full_tile_is_the_root_of_its_leaves() -> None:
    leaves, files = ledger(256)
    root = Frontier().extended(map(leaf_hash, leaves)).root
    assert tiles.parent_hash(files["tile/0/000"]) == root == files["tile/1/000.p/1"]


def test_a_tile_with_a_hash_left_over_has_no_parent() -> None:
    _, files = ledger(256)
    with pytest.raises(ValueError, match="shorter"):
        tiles.parent_hash(files["tile/0/000"][: 3 * 32])


def test_entries_are_given_by_their_index_however_many_bundles_there_are() -> None:
    leaves = [bytes([leaf % 251]) * (1 + leaf % 3) for leaf in range(20 * TILE_WIDTH + 5)]
    files = {
        tile.path: encode_bundle(leaves[tile.index * TILE_WIDTH :][: tile.width])
        for tile in tiles_of(None, 0, len(leaves))
    }
    reads: list[str] = []

    def read(path: str) -> bytes | None:
        reads.append(path)
        return files.get(path)

    entries = Entries(len(leaves), read)
    assert [entries.raw(leaf) for leaf in range(len(leaves))] == leaves
    assert len(reads) == 21
    assert entries.raw(len(leaves) - 1) == leaves[-1]
    assert len(reads) == 21
    assert entries.raw(0) == leaves[0]
    assert len(reads) == 22
