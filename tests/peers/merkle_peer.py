"""Checks roots and proofs with pymerkle. Runs in .venv-peers, without the project.

Reads as JSON {"entries": [hex, ...], "roots": [[size, root], ...],
"inclusion": [[index, size, root, path], ...], "consistency": [[old, new, root, root, path], ...]};
writes what does not agree, one sentence each: an empty list when all does.
"""

import json
import sys
from functools import cache
from typing import Any

from pymerkle import (  # type: ignore[import-not-found]
    InclusionProof,
    InmemoryTree,
    InvalidProof,
    verify_consistency,
    verify_inclusion,
)


class Peer:
    """pymerkle's view of the entries."""

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.tree = InmemoryTree(algorithm="sha256")
        self.leaves = [self._append(entry) for entry in entries]
        self.range_root = cache(self._range_root)

    def _append(self, entry: bytes) -> bytes:
        self.tree.append_entry(entry)
        leaf: bytes = self.tree.get_leaf(self.tree.get_size())
        return leaf

    def _range_root(self, begin: int, end: int) -> bytes:
        """MTH(D[begin:end]) of RFC 6962, as the root of a pymerkle tree of just those entries."""
        tree = InmemoryTree(algorithm="sha256")
        for entry in self.entries[begin:end]:
            tree.append_entry(entry)
        root: bytes = tree.get_state()
        return root

    def root(self, size: int) -> bytes:
        root: bytes = self.tree.get_state(size)
        return root

    def inclusion_holds(self, index: int, size: int, root: bytes, path: list[bytes]) -> bool:
        """Whether pymerkle accepts the path. It counts leaves from one, and writes the way of
        combining and the leaf's own hash into its proofs."""
        own = self.tree.prove_inclusion(index + 1, size)
        leaf = self.leaves[index]
        proof = InclusionProof("sha256", True, size, index + 1, own.rule, [leaf, *path])
        try:
            verify_inclusion(leaf, root, proof)
        except InvalidProof:
            return False
        return bool(own.path[1:] == path)

    def subproof(self, old: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
        """SUBPROOF(m, D[begin:end], b) of RFC 6962 §2.1.2, hashes by pymerkle."""
        size = end - begin
        if old == size:
            return [] if whole else [self.range_root(begin, end)]
        split = 1
        while 2 * split < size:
            split *= 2
        if old <= split:
            inner = self.subproof(old, begin, begin + split, whole=whole)
            return [*inner, self.range_root(begin + split, end)]
        inner = self.subproof(old - split, begin + split, end, whole=False)
        return [*inner, self.range_root(begin, begin + split)]

    def consistency_holds(
        self, old: int, new: int, old_root: bytes, new_root: bytes, path: list[bytes]
    ) -> bool:
        """Whether pymerkle proves the two roots consistent, and RFC 6962 gives this path."""
        try:
            verify_consistency(old_root, new_root, self.tree.prove_consistency(old, new))
        except InvalidProof:
            return False
        return self.subproof(old, 0, new, whole=True) == path


def unhex(value: Any) -> Any:
    match value:
        case str():
            return bytes.fromhex(value)
        case list():
            return [unhex(item) for item in value]
        case _:
            return value


def main() -> None:
    asked = {name: unhex(value) for name, value in json.load(sys.stdin).items()}
    peer = Peer(asked["entries"])
    findings = [f"root of {size}" for size, root in asked["roots"] if peer.root(size) != root]
    findings += [
        f"inclusion of {index} in {size}"
        for index, size, root, path in asked["inclusion"]
        if not peer.inclusion_holds(index, size, root, path)
    ]
    findings += [
        f"consistency of {old} with {new}"
        for old, new, old_root, new_root, path in asked["consistency"]
        if not peer.consistency_holds(old, new, old_root, new_root, path)
    ]
    json.dump(findings, sys.stdout)


if __name__ == "__main__":
    main()
