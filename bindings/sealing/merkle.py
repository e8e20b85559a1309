"""The Merkle tree of RFC 6962: one hash over a list of entries, in memory that does not grow with the list."""

from __future__ import annotations

import hashlib

_ENTRY, _NODE = b"\x00", b"\x01"  # an entry never has the hash of a node


class MerkleTree:
    """A tree that grows by one entry at a time; it keeps one hash for each complete subtree."""

    def __init__(self) -> None:
        self.count = 0
        self._subtrees: list[bytes] = []  # the largest first; their sizes are the bits of `count`

    def add(self, entry: bytes) -> None:
        """Append an entry."""
        node = hashlib.sha256(_ENTRY + entry).digest()
        complete = self.count
        while complete & 1:
            node = hashlib.sha256(_NODE + self._subtrees.pop() + node).digest()
            complete >>= 1
        self._subtrees.append(node)
        self.count += 1

    def root(self) -> str:
        """Return the hash of the tree, in hexadecimal; that of no bytes if it has no entry."""
        if not self._subtrees:
            return hashlib.sha256().hexdigest()
        *larger, node = self._subtrees
        for subtree in reversed(larger):
            node = hashlib.sha256(_NODE + subtree + node).digest()
        return node.hex()
