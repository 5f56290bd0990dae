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
from agent.smi import keys as keys_of
from agent.smi.bound import Leaf

Place = tuple[int, bytes | None, bytes]
"""Number of a leaf, the key in it, and the name. Without a key no leaf holds the name; the leaf is the next one."""

KEPT = 32768
"""Indexes whose keys are remembered; all are forgotten when they are more."""
KEPT_OCTETS = 40
"""Longer indexes are not remembered: they are rare, and their senders choose them."""
NULL = b"\x05\x00"
HEADS = {bytes((0x30, size + 4, 6, size)): size for size in range(1, 0x80 - 4)}
"""The octets before a name in a VarBind that holds a NULL: how long the name is."""


class Names:
    """Places of names. A pure function of the leaves, which never change: nothing here ever gets old."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.prefixes = [ber.oid_content(leaf.oid) for leaf in leaves]
        self._oids = [leaf.oid for leaf in leaves]
        nested = any(a.oid == b.oid[: len(a.oid)] for a, b in pairwise(leaves))
        self._leaf_of = {} if nested else {prefix: n for n, prefix in enumerate(self.prefixes)}
        frequent = Counter(len(prefix) for prefix in self._leaf_of).most_common()
        self._lengths = tuple(length for length, _ in frequent)
        self._usual = self._lengths[0] if frequent else 0
        # room for an index in a name of at most 128 sub-identifiers
        self._room = min((ber.MAX_SUB_IDS - len(oid) for oid in self._oids), default=0)
        self.keys: dict[bytes, bytes] = {}
        """Row keys of indexes that came lately."""

    def places(self, varbinds: bytes, position: int) -> list[Place]:
        """The places of the names in VarBinds from `position` to the end. Raises NotMine, IndexError.

        Every VarBind must hold a NULL and have at most 127 octets of content, every name its only encoding.
        """
        leaf_of, keys, length = self._leaf_of, self.keys, self._usual
        out = []
        end = len(varbinds)
        while position < end:
            start = position + 4
            size = HEADS.get(varbinds[position:start])
            if size is None:
                raise NotMine
            stop = start + size
            position = stop + 2
            if varbinds[stop:position] != NULL:
                raise NotMine
            cut = start + length
            leaf = leaf_of.get(varbinds[start:cut])
            if leaf is None or cut > stop:
                place = self._find(varbinds[start:stop])
                length = self._usual
                out.append(place)
                continue
            index = varbinds[cut:stop]
            key = keys.get(index)
            if key is None:
                key = self.key(index)
            out.append((leaf, key, varbinds[start:stop]))
        return out

    def _find(self, name: bytes) -> Place:
        """The place of a name whose prefix has another length than the last one had."""
        for length in self._lengths:
            leaf = self._leaf_of.get(name[:length])
            if leaf is not None and length <= len(name):
                self._usual = length
                return leaf, self.key(name[length:]), name
        try:
            oid = ber.parse_oid(name)
        except ber.BerError:
            raise NotMine from None
        position = bisect_right(self._oids, oid) - 1
        if position >= 0 and oid[: len(self._oids[position])] == self._oids[position]:
            return position, keys_of.pack(oid[len(self._oids[position]) :]), name
        return position + 1, None, name

    def key(self, index: bytes) -> bytes:
        """The row key of an index, remembered. Raises NotMine."""
        found = self.keys.get(index)
        if found is not None:
            return found
        key = key_of(index)
        if len(key) >> 2 > self._room:
            raise NotMine
        if len(index) <= KEPT_OCTETS:
            if len(self.keys) >= KEPT:
                self.keys.clear()
            self.keys[index] = key
        return key

    def name(self, leaf: int, key: bytes) -> bytes:
        """Contents octets of the instance with a key: what `places` has taken apart."""
        return self.prefixes[leaf] + keys_of.suffix(key)


def key_of(index: bytes) -> bytes:
    """The row key of an index's octets. Raises NotMine for what are no sub-identifiers in their only encoding."""
    if index.isascii():
        key = bytearray(4 * len(index))
        key[3::4] = index
        return bytes(key)
    if index[-1] >= 0x80:
        raise NotMine
    numbers = []
    number = 0
    for octet in index:
        if octet >= 0x80:
            if octet == 0x80 and not number:
                # padding: nothing else leaves the number at zero here
                raise NotMine
            number = (number | (octet & 0x7F)) << 7
        else:
            numbers.append(number | octet)
            number = 0
    if len(numbers) > ber.MAX_SUB_IDS:
        raise NotMine
    try:
        return keys_of.pack(numbers)
    except struct.error:
        raise NotMine from None
