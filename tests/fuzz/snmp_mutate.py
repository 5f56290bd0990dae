"""Mutations of BER: whole trees with the lengths put right, so that they get past the outer layers, and raw octets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MAX_DEPTH = 12
CONSTRUCTED = frozenset((0x30, *range(0xA0, 0xB0)))
INTEGERS = (0, 1, 2, -1, 127, 128, 255, 256, 483, 484, 65507, 2**31 - 1, -(2**31), 2**31, 2**32, 2**63, 2**64)
TAGS = (
    *(0x02, 0x03, 0x04, 0x05, 0x06, 0x1F, 0x30, 0x31, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47),
    *(0x80, 0x81, 0x82, 0x83, 0x9F, *range(0xA0, 0xAA), 0xBF, 0xFF),
)


@dataclass
class Node:
    """A tag with its content: octets, or nodes inside."""

    tag: int
    content: bytes = b""
    nodes: list[Node] = field(default_factory=list)
    long_form: int = 0
    """Octets of a length in the long form, 0 for the shortest."""

    def octets(self) -> bytes:
        content = b"".join(node.octets() for node in self.nodes) if self.nodes else self.content
        size = len(content)
        if self.long_form:
            count = max(self.long_form, (size.bit_length() + 7) // 8)
            return bytes((self.tag, 0x80 | count)) + size.to_bytes(count, "big") + content
        if size < 0x80:
            return bytes((self.tag, size)) + content
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        return bytes((self.tag, 0x80 | len(octets))) + octets + content

    def all(self) -> list[Node]:
        found = [self]
        for node in self.nodes:
            found += node.all()
        return found


def parse(data: bytes, depth: int = 0) -> list[Node] | None:
    """The trees that fill `data`, None when it is no BER. OCTET STRINGs that hold a SEQUENCE are opened."""
    nodes = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            return None
        tag, size = data[at], data[at + 1]
        start, form = at + 2, 0
        if size & 0x80:
            form = size & 0x7F
            if not 1 <= form <= 4 or start + form > len(data):
                return None
            size = int.from_bytes(data[start : start + form], "big")
            start += form
        if start + size > len(data):
            return None
        content = data[start : start + size]
        node = Node(tag, content, long_form=form if form > 1 and size < 0x80 else 0)
        opens = tag in CONSTRUCTED or (tag == 0x04 and content[:1] == b"\x30")
        if content and opens and depth < MAX_DEPTH:
            node.nodes = parse(content, depth + 1) or []
        nodes.append(node)
        at = start + size
    return nodes


def mutate_tree(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to three changes of the tree; raw ones when it is no tree."""
    trees = parse(data)
    if not trees:
        return mutate_raw(data, rng, others)
    for _ in range(rng.randint(1, 3)):
        nodes = [node for tree in trees for node in tree.all()]
        _change(rng.choice(nodes), rng, nodes, others)
    return b"".join(tree.octets() for tree in trees)


def _change(node: Node, rng: random.Random, nodes: list[Node], others: list[bytes]) -> None:
    kind = rng.randrange(12)
    if kind == 0:
        node.tag = rng.choice(TAGS)
    elif kind == 1:
        node.nodes, node.content = [], _integer(rng)
    elif kind == 2 and node.nodes:
        node.nodes.insert(rng.randrange(len(node.nodes) + 1), rng.choice(node.nodes))
    elif kind == 3 and node.nodes:
        node.nodes.pop(rng.randrange(len(node.nodes)))
        node.content = b""
    elif kind == 4 and len(node.nodes) > 1:
        rng.shuffle(node.nodes)
    elif kind == 5:
        node.long_form = rng.randint(1, 4)
    elif kind == 6 and node.nodes:
        # many of the same: no more than a datagram holds
        copies = min(rng.choice((2, 10, 64, 130)), 60_000 // max(1, len(node.octets())))
        node.nodes = (node.nodes * (copies + 1))[: max(1, copies) * len(node.nodes)]
    elif kind == 7 and others:
        donor = parse(rng.choice(others))
        if donor:
            given = rng.choice(donor[0].all())
            node.tag, node.content, node.nodes = given.tag, given.content, given.nodes
    elif kind == 8 and not node.nodes:
        node.content = mutate_raw(node.content, rng, others)
    elif kind == 9:
        given = rng.choice(nodes)
        node.content, node.nodes = given.octets(), []
    elif kind == 10 and not node.nodes:
        # OIDs: another sub-identifier, a longer or shorter one, a padded one
        tail = rng.choice(
            (b"\x00", b"\x7f", b"\x81\x00", b"\x8f\xff\xff\xff\x7f", b"\x90\x80\x80\x80\x00", b"\x80\x01")
        )
        cut = rng.randrange(len(node.content) + 1)
        node.content = node.content[:cut] + tail + node.content[cut + rng.randrange(3) :]
    else:
        inner = Node(node.tag, node.content, node.nodes)
        for _ in range(rng.choice((1, 3, 40))):
            inner = Node(0x30, nodes=[inner])
        node.nodes, node.content = inner.nodes, b""


def _integer(rng: random.Random) -> bytes:
    value = rng.choice(INTEGERS)
    size = (value.bit_length() >> 3) + 1
    return bytes(rng.randrange(2)) + value.to_bytes(size, "big", signed=True)


def mutate_raw(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to four of: flip, set, insert, delete, cut, repeat, swap in a length, splice."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF, rng.randrange(256)))
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 3:
            del out[at : at + rng.randint(1, 9)]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        elif kind == 6:
            out[at : at + 2] = rng.choice((b"\x84\xff\xff\xff\xff", b"\x80", b"\x82\x00\x02", b"\x1f\x81"))
        elif others:
            other = rng.choice(others)
            out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out)


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Either kind."""
    return (mutate_tree if rng.random() < 0.7 else mutate_raw)(data, rng, others)
