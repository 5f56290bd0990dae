"""Row keys: the sub-identifiers of an instance's index, packed as big-endian 32-bit words.

Comparing two keys as bytes compares the OIDs: each sub-identifier is a word, and a shorter key that begins a
longer one comes first. A scalar's only key is the one word 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from agent.smi import ber

SCALAR_KEY = bytes(4)

_WORDS = tuple(Struct(f">{size}I") for size in range(ber.MAX_SUB_IDS + 1))


def pack(numbers: Sequence[int]) -> bytes:
    """The key of sub-identifiers, each 0 to 2^32-1 and at most 128 of them."""
    return _WORDS[len(numbers)].pack(*numbers)


def unpack(key: bytes) -> ber.Oid:
    """The sub-identifiers of a key."""
    return _WORDS[len(key) >> 2].unpack(key)


def suffix(key: bytes) -> bytes:
    """What a key adds to the BER contents octets of its column's OID."""
    return ber.sub_ids(_WORDS[len(key) >> 2].unpack(key))
