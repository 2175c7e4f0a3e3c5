"""The tree of RFC 6962: published roots, a naive recomputation, and proofs that cannot be bent."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import Reason
from cryptometer.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    subset_proof,
    verify_consistency,
    verify_inclusion,
    verify_subset,
)
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of

# The entries and roots that implementations of Certificate Transparency test with.
CT_ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, as it is written there."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    both = naive_root(entries[:split]) + naive_root(entries[split:])
    return sha256(b"\x01" + both).digest()


def naive_path(index: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of RFC 6962 §2.1.1."""
    if len(entries) == 1:
        return []
    split = 1
    while split * 2 < len(entries):
        split *= 2
    if index < split:
        return [*naive_path(index, entries[:split]), naive_root(entries[split:])]
    return [*naive_path(index - split, entries[split:]), naive_root(entries[:split])]


def naive_consistency(old: int, entries: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b) of RFC 6962 §2.1.2."""
    if old == len(entries):
        return [] if whole else [naive_root(entries)]
    split = 1
    while split * 2 < len(entries):
        split *= 2
    if old <= split:
        inner = naive_consistency(old, entries[:split], whole=whole)
        return [*inner, naive_root(entries[split:])]
    inner = naive_consistency(old - split, entries[split:], whole=False)
    return [*inner, naive_root(entries[:split])]


class Tree:
    """Entries with everything the proofs need, by the naive recomputation."""

    def __init__(self, size: int) -> None:
        self.entries = [b"%d" % number for number in range(size)]
        self.size = size
        self.root = naive_root(self.entries)

    def node(self, height: int, index: int) -> bytes:
        return naive_root(self.entries[index << height : (index + 1) << height])

    def head(self, size: int) -> bytes:
        return naive_root(self.entries[:size])


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots_are_computed(size: int) -> None:
    hashes = [leaf_hash(entry) for entry in CT_ENTRIES[:size]]
    assert Frontier().extended(hashes).root.hex() == CT_ROOTS[size]
    assert naive_root(CT_ENTRIES[:size]).hex() == CT_ROOTS[size]


def test_leaves_and_nodes_are_hashed_apart() -> None:
    assert leaf_hash(b"ab") == sha256(b"\x00ab").digest()
    assert node_hash(b"a", b"b") == sha256(b"\x01ab").digest()
    assert sha256(b"").digest() == EMPTY_ROOT == Frontier().root


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129, 255, 256, 257])
def test_a_frontier_has_the_root_of_a_naive_recomputation(size: int) -> None:
    tree = Tree(size)
    frontier = Frontier().extended(leaf_hash(entry) for entry in tree.entries)
    assert (frontier.size, frontier.root) == (size, tree.root)
    assert len(frontier.peaks) == size.bit_count()


def test_a_frontier_knows_its_perfect_subtrees_by_their_height() -> None:
    """Eleven leaves: eight, two and one."""
    tree = Tree(11)
    frontier = Frontier().extended(leaf_hash(entry) for entry in tree.entries)
    eight, two, one = (3, tree.node(3, 0)), (1, tree.node(1, 4)), (0, tree.node(0, 10))
    assert frontier.peaks_between(0, 4) == [eight, two, one]
    assert frontier.peaks_between(1, 4) == [eight, two]
    assert frontier.peaks_between(0, 3) == [two, one]
    assert frontier.peaks_between(2, 3) == []
    assert Frontier().peaks_between(0, 64) == []
    with pytest.raises(ValueError, match="shorter"):
        Frontier(11, frontier.peaks[:2]).peaks_between(0, 64)


@examples(100)
@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_frontier_extended_in_parts_is_the_same(parts: list[int]) -> None:
    hashes = [leaf_hash(b"%d" % number) for number in range(sum(parts))]
    frontier, at = Frontier(), 0
    for part in parts:
        frontier = frontier.extended(hashes[at : at + part])
        at += part
    assert frontier == Frontier().extended(hashes)


@pytest.mark.parametrize("size", [*range(1, 34), 64, 65, 100])
def test_every_leaf_is_proven_by_the_path_of_the_rfc(size: int) -> None:
    tree = Tree(size)
    for index, entry in enumerate(tree.entries):
        path = inclusion_proof(index, size, tree.node)
        assert path == naive_path(index, tree.entries)
        verify_inclusion(leaf_hash(entry), index, size, path, tree.root)


@pytest.mark.parametrize("new", [*range(1, 34), 64, 65])
def test_every_earlier_tree_is_proven_consistent_by_the_path_of_the_rfc(new: int) -> None:
    tree = Tree(new)
    for old in range(1, new + 1):
        path = consistency_proof(old, new, tree.node)
        assert path == naive_consistency(old, tree.entries)
        verify_consistency(old, tree.head(old), new, tree.root, path)
    verify_consistency(0, EMPTY_ROOT, new, tree.root, [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 21])
def test_an_inclusion_proof_with_anything_changed_is_refused(size: int) -> None:
    tree = Tree(size)
    for index in range(size):
        leaf, path = leaf_hash(tree.entries[index]), inclusion_proof(index, size, tree.node)

        def refused(
            leaf: bytes = leaf, index: int = index, size: int = size,
            path: Sequence[bytes] = tuple(path), root: bytes = tree.root,
        ) -> bool:  # fmt: skip
            return refusal_of(verify_inclusion, leaf, index, size, path, root) is Reason.BAD_PROOF

        assert not refused()
        assert refused(leaf=flip(leaf))
        assert refused(root=flip(tree.root))
        assert refused(path=[*path, tree.root])
        assert refused(leaf=leaf[:31])
        assert refused(root=tree.root + b"\x00")
        assert refused(index=-1)
        assert refused(index=size)
        for at, one in enumerate(path):
            assert refused(path=[*path[:at], flip(one), *path[at + 1 :]])
            assert refused(path=[*path[:at], one[:31], *path[at + 1 :]])
            assert refused(path=path[:at] + path[at + 1 :])
            assert at == 0 or refused(path=[*path[: at - 1], one, path[at - 1], *path[at + 1 :]])
        for other in range(size):
            assert other == index or refused(index=other)
        # Another size often gives the same walk to the root, as RFC 9162 allows, but never where
        # the path would have another length.
        for other in (size * 2 + 1, size * 4):
            assert refused(size=other)


def test_a_byte_that_moves_from_one_hash_to_the_next_is_refused() -> None:
    """Both sides of a node are hashed as one text: only their lengths keep them apart."""
    tree = Tree(4)
    leaf, path = leaf_hash(tree.entries[0]), inclusion_proof(0, 4, tree.node)
    moved = [path[0][1:], path[1]]
    assert node_hash(leaf + path[0][:1], moved[0]) == node_hash(leaf, path[0])
    with refusing(Reason.BAD_PROOF, "not 32 bytes"):
        verify_inclusion(leaf + path[0][:1], 0, 4, moved, tree.root)
    proof = consistency_proof(3, 4, tree.node)
    joined = [proof[0], proof[1] + proof[2][:1], proof[2][1:]]
    with refusing(Reason.BAD_PROOF, "not 32 bytes"):
        verify_consistency(3, tree.head(3), 4, tree.root, joined)


@pytest.mark.parametrize("new", [2, 3, 5, 8, 13, 21])
def test_a_consistency_proof_with_anything_changed_is_refused(new: int) -> None:
    tree = Tree(new)
    for old in range(1, new):
        path = consistency_proof(old, new, tree.node)

        def refused(
            old: int = old, old_root: bytes = tree.head(old), new: int = new,
            new_root: bytes = tree.root, path: Sequence[bytes] = tuple(path),
        ) -> bool:  # fmt: skip
            check = (old, old_root, new, new_root, path)
            return refusal_of(verify_consistency, *check) is Reason.BAD_PROOF

        assert not refused()
        assert refused(old_root=flip(tree.head(old)))
        assert refused(new_root=flip(tree.root))
        assert refused(path=[])
        assert refused(path=[*path, tree.root])
        assert refused(old=new + 1)
        assert refused(old=-1)
        assert refused(old=new)
        assert refused(old=0)
        for at, one in enumerate(path):
            assert refused(path=[*path[:at], flip(one), *path[at + 1 :]])
            assert refused(path=[*path[:at], one[:31], *path[at + 1 :]])
            assert refused(path=path[:at] + path[at + 1 :])
        for other in range(1, new):
            assert other == old or refused(old=other)
        for other in (new * 2 + 1, new * 4):
            assert refused(new=other)


def test_equal_trees_are_consistent_without_a_path_and_only_so() -> None:
    tree = Tree(5)
    verify_consistency(5, tree.root, 5, tree.root, [])
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    for wrong in (
        (5, tree.root, 5, flip(tree.root), []),
        (5, tree.root, 5, tree.root, [tree.root]),
        (0, tree.root, 5, tree.root, []),
        (0, EMPTY_ROOT, 5, tree.root, [tree.root]),
        (0, EMPTY_ROOT, 0, tree.root, []),
        (6, tree.root, 5, tree.root, []),
    ):
        with refusing(Reason.BAD_PROOF):
            verify_consistency(*wrong)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (7, 3)])
def test_a_leaf_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="is not in a tree"):
        inclusion_proof(index, size, Tree(8).node)


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4), (-1, 4)])
def test_a_tree_that_is_not_earlier_has_no_consistency_proof(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no consistency proof"):
        consistency_proof(old, new, Tree(8).node)


hashes = st.binary(min_size=32, max_size=32)


@examples(300)
@given(
    hashes, st.integers(-2, 2**64), st.integers(-2, 2**64), st.lists(hashes, max_size=70), hashes
)
def test_random_inclusion_proofs_are_refused(
    leaf: bytes, index: int, size: int, path: list[bytes], root: bytes
) -> None:
    if leaf != root or size != 1 or path:
        assert refusal_of(verify_inclusion, leaf, index, size, path, root) is Reason.BAD_PROOF


@examples(300)
@given(st.integers(1, 2**64), hashes, st.integers(1, 2**64), hashes, st.lists(hashes, max_size=70))
def test_random_consistency_proofs_are_refused(
    old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]
) -> None:
    if old != new or old_root != new_root:
        check = (old, old_root, new, new_root, path)
        assert refusal_of(verify_consistency, *check) is Reason.BAD_PROOF


def flip(one: bytes) -> bytes:
    return bytes([one[0] ^ 1]) + one[1:]


# --- Several leaves at once. ---------------------------------------------------------------------


@st.composite
def subsets(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """The entries of a tree, and the places of some of them."""
    size = draw(st.integers(1, 70))
    indices = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=12))
    return [bytes([number]) for number in range(size)], sorted(indices)


def _node(entries: Sequence[bytes]) -> Node:
    return lambda height, index: naive_root(entries[index << height : index + 1 << height])


def _subset(
    entries: list[bytes], indices: list[int]
) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    proof = subset_proof(indices, len(entries), _node(entries))
    return [(index, leaf_hash(entries[index])) for index in indices], proof


@examples(200)
@given(subsets())
def test_several_leaves_are_proven_at_once(subset: tuple[list[bytes], list[int]]) -> None:
    entries, indices = subset
    leaves, proof = _subset(entries, indices)
    verify_subset(leaves, len(entries), proof, naive_root(entries))
    if len(indices) == 1:
        path = inclusion_proof(indices[0], len(entries), _node(entries))
        assert sorted(proof) == sorted(path)


@examples(200)
@given(subsets(), st.data())
def test_a_proof_of_several_leaves_shows_nothing_else(
    subset: tuple[list[bytes], list[int]], data: st.DataObject
) -> None:
    tree, indices = subset
    leaves, proof = _subset(tree, indices)
    root = naive_root(tree)
    at = data.draw(st.integers(0, len(leaves) - 1))
    index, leaf = leaves[at]
    forged = bytes([leaf[0] ^ 1]) + leaf[1:]
    for wrong in (
        [*leaves[:at], (index, forged), *leaves[at + 1 :]],
        [*leaves[:at], (index + 1, leaf), *leaves[at + 1 :]],
        leaves[:at] + leaves[at + 1 :],
        [*leaves, leaves[-1]],
        [*leaves, (len(tree), leaf)],
    ):
        with refusing(Reason.BAD_PROOF):
            verify_subset(wrong, len(tree), proof, root)
    for other in (proof[:-1], [*proof, root], [root, *proof[1:]]):
        if other != proof:
            with refusing(Reason.BAD_PROOF):
                verify_subset(leaves, len(tree), other, root)
    with refusing(Reason.BAD_PROOF):
        verify_subset(leaves, len(tree), [*proof, b"short"], root)
