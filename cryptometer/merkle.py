"""The append-only Merkle tree of RFC 6962 §2.1 with SHA-256: roots, proofs, and their checks."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import TypeAlias

from cryptometer.errors import Reason, Rejected

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Node: TypeAlias = Callable[[int, int], bytes]
"""Gives the hash of the perfect subtree of 2^height leaves that is `index`-th of its height."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=False)  # a place for what is worked out once
class Frontier:
    """What must be known of a tree to append to it: its size and the roots of its perfect
    subtrees, largest first (one for each bit that is set in the size)."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, leaf_hashes: Iterable[bytes]) -> "Frontier":
        """The frontier after the leaves with these hashes were appended."""
        size, peaks = self.size, list(self.peaks)
        for current in leaf_hashes:
            position, merged = size, current
            while position & 1:
                merged = sha256(b"\x01" + peaks.pop() + merged).digest()  # a node, see above
                position >>= 1
            peaks.append(merged)
            size += 1
        return Frontier(size, tuple(peaks))

    def peaks_between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        """The perfect subtrees of a height from `low` to below `high`, largest first: each with
        its height."""
        heights = [one for one in reversed(range(self.size.bit_length())) if self.size >> one & 1]
        return [
            (height, peak)
            for height, peak in zip(heights, self.peaks, strict=True)
            if low <= height < high
        ]

    @cached_property
    def root(self) -> bytes:
        """The tree's root hash, 32 bytes."""
        if not self.peaks:
            return EMPTY_ROOT
        *rest, merged = self.peaks
        for peak in reversed(rest):
            merged = node_hash(peak, merged)
        return merged


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _left_size(end - begin)
        if index < middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(begin, middle, node))
            begin = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """Proof that the tree of `new` leaves extends that of `old` (RFC 6962 §2.1.2)."""
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof from {old} to {new} leaves")
    path: list[bytes] = []
    begin, end = 0, new
    while old != end:
        middle = begin + _left_size(end - begin)
        if old <= middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(begin, middle, node))
            begin = middle
    if begin:
        path.append(_range_root(begin, end, node))
    path.reverse()
    return path


def subset_proof(indices: Sequence[int], size: int, node: Node) -> list[bytes]:
    """What shows that several leaves, in ascending order, stand in the tree of `size` leaves: the
    root of each greatest part of the tree that holds none of them, from left to right."""
    _check_subset(indices, size)
    proof: list[bytes] = []

    def other(begin: int, end: int) -> bytes:
        proof.append(_range_root(begin, end, node))
        return proof[-1]

    _subset_root(indices, 0, size, lambda _: EMPTY_ROOT, other)
    return proof


def verify_subset(
    leaves: Sequence[tuple[int, bytes]], size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks a `subset_proof`.

    Args:
        leaves: index and leaf hash of each, in ascending order of the indices.

    Raises:
        Rejected: BAD_PROOF.
    """
    _check_hashes([root, *proof, *(leaf for _, leaf in leaves)])
    found, rest = dict(leaves), iter(proof)

    def other(_begin: int, _end: int) -> bytes:
        part = next(rest, None)
        if part is None:
            raise Rejected(Reason.BAD_PROOF, "the proof is too short")
        return part

    try:
        indices = [index for index, _ in leaves]
        _check_subset(indices, size)
    except ValueError as error:
        raise Rejected(Reason.BAD_PROOF, str(error)) from None
    if _subset_root(indices, 0, size, found.__getitem__, other) != root:
        raise Rejected(Reason.BAD_PROOF, "the leaves do not lead to the root")
    if next(rest, None) is not None:
        raise Rejected(Reason.BAD_PROOF, "the proof is too long")


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Checks an audit path (RFC 9162 §2.1.3.2), hash lengths included.

    Raises:
        Rejected: BAD_PROOF.
    """
    _check_hashes([leaf, root, *path])
    if not 0 <= index < size:
        raise Rejected(Reason.BAD_PROOF, f"leaf {index} is not in a tree of {size}")
    position, last, merged = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise Rejected(Reason.BAD_PROOF, "the path is too long")
        if position & 1 or position == last:
            merged = node_hash(sibling, merged)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            merged = node_hash(merged, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise Rejected(Reason.BAD_PROOF, "the path is too short")
    if merged != root:
        raise Rejected(Reason.BAD_PROOF, f"leaf {index} does not lead to the root")


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Checks that the tree of `new` leaves extends that of `old` (RFC 9162 §2.1.4.2).

    From the empty tree every tree follows, with an empty path.

    Raises:
        Rejected: BAD_PROOF.
    """
    _check_hashes([old_root, new_root, *path])
    if not 0 <= old <= new:
        raise Rejected(Reason.BAD_PROOF, f"a tree of {new} does not extend one of {old}")
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if path or old_root != expected or (new == 0 and new_root != EMPTY_ROOT):
            raise Rejected(Reason.BAD_PROOF, "equal sizes, but the roots differ or a path is given")
        return
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    if not hashes:
        raise Rejected(Reason.BAD_PROOF, "the path is too short")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_merged = new_merged = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise Rejected(Reason.BAD_PROOF, "the path is too long")
        if position & 1 or position == last:
            old_merged = node_hash(sibling, old_merged)
            new_merged = node_hash(sibling, new_merged)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new_merged = node_hash(new_merged, sibling)
        position, last = position >> 1, last >> 1
    if last or old_merged != old_root or new_merged != new_root:
        raise Rejected(Reason.BAD_PROOF, f"the tree of {new} does not extend that of {old}")


def _left_size(size: int) -> int:
    """The largest power of two below `size` (RFC 6962 §2.1)."""
    return 1 << (size - 1).bit_length() - 1


def _range_root(begin: int, end: int, node: Node) -> bytes:
    """Root of the leaves from `begin` to `end`, a range that occurs in a tree's recursion."""
    size = end - begin
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return node(height, begin >> height)
    middle = begin + _left_size(size)
    return node_hash(_range_root(begin, middle, node), _range_root(middle, end, node))


def _check_subset(indices: Sequence[int], size: int) -> None:
    if not indices or not 0 <= indices[0] <= indices[-1] < size:
        raise ValueError(f"no leaves of a tree of {size}")
    if any(after <= before for before, after in pairwise(indices)):
        raise ValueError("the leaves do not ascend")


def _subset_root(
    indices: Sequence[int],
    begin: int,
    end: int,
    leaf: Callable[[int], bytes],
    other: Callable[[int, int], bytes],
) -> bytes:
    """Root of the leaves from `begin` to `end`, of which some are asked for one by one, and the
    parts of the tree that hold none of these as a whole."""
    if not indices:
        return other(begin, end)
    if end - begin == 1:
        return leaf(begin)
    middle = begin + _left_size(end - begin)
    at = bisect_left(indices, middle)
    left = _subset_root(indices[:at], begin, middle, leaf, other)
    return node_hash(left, _subset_root(indices[at:], middle, end, leaf, other))


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise Rejected(Reason.BAD_PROOF, f"a hash is not {HASH_BYTES} bytes")
