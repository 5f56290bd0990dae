"""From the octets of an OBJECT IDENTIFIER to a place among the leaves.

Sub-identifiers are self-delimiting: an octet prefix that ends a sub-identifier is the prefix of the OID. A
leaf is thus found by one dictionary look-up of the name's first octets, and the row key is what follows.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from agent.engine.fastpath.errors import NotMine
from agent.smi import ber
from agent.smi.bound import Leaf

Place = tuple[int, bytes | None]
"""Number of a leaf, and the key in it. Without a key no leaf holds the name, and the leaf is the next one."""

KEPT = 16384
"""Names whose places are remembered; all are forgotten when they are more."""
KEPT_OCTETS = 64
"""Longer names are not remembered: they are rare, and their senders choose them."""


class Names:
    """Places of names. A pure function of the leaves, which never change: nothing here ever gets old."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.prefixes = [ber.oid_content(leaf.oid) for leaf in leaves]
        self._oids = [leaf.oid for leaf in leaves]
        nested = any(a.oid == b.oid[: len(a.oid)] for a, b in pairwise(leaves))
        self._leaf_of = {} if nested else {prefix: n for n, prefix in enumerate(self.prefixes)}
        frequent = Counter(len(prefix) for prefix in self._leaf_of).most_common()
        self._lengths = tuple(length for length, _ in frequent)
        # a name of at most 128 sub-identifiers
        self._room = [ber.MAX_SUB_IDS - len(oid) for oid in self._oids]
        self._kept: dict[bytes, Place] = {}

    def place(self, name: bytes) -> Place:
        """The place of a name's contents octets. Raises NotMine when they are no OID in its only encoding."""
        found = self._kept.get(name)
        if found is not None:
            return found
        found = self._find(name)
        if len(name) <= KEPT_OCTETS:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[name] = found
        return found

    def _find(self, name: bytes) -> Place:
        for length in self._lengths:
            leaf = self._leaf_of.get(name[:length])
            if leaf is not None:
                return leaf, key_of(name[length:], self._room[leaf])
        try:
            oid = ber.parse_oid(name)
        except ber.BerError:
            raise NotMine from None
        position = bisect_right(self._oids, oid) - 1
        if position >= 0 and oid[: len(self._oids[position])] == self._oids[position]:
            suffix = oid[len(self._oids[position]) :]
            return position, struct.pack(f">{len(suffix)}I", *suffix)
        return position + 1, None

    def name(self, leaf: int, key: bytes) -> bytes:
        """Contents octets of the instance with a key: what `place` has taken apart."""
        return self.prefixes[leaf] + ber.sub_ids(struct.unpack(f">{len(key) >> 2}I", key))


def key_of(suffix: bytes, room: int) -> bytes:
    """The row key of an index's octets. Raises NotMine for what is no index of at most `room` sub-identifiers."""
    if suffix.isascii():
        if len(suffix) > room:
            raise NotMine
        key = bytearray(4 * len(suffix))
        key[3::4] = suffix
        return bytes(key)
    if suffix[-1] >= 0x80:
        raise NotMine
    numbers = []
    number = 0
    for octet in suffix:
        if octet >= 0x80:
            if octet == 0x80 and not number:
                # padding; for a number that is still zero there is no other reason to be here
                raise NotMine
            number = (number | (octet & 0x7F)) << 7
        else:
            numbers.append(number | octet)
            number = 0
    if len(numbers) > room:
        raise NotMine
    try:
        return struct.pack(f">{len(numbers)}I", *numbers)
    except struct.error:
        raise NotMine from None
