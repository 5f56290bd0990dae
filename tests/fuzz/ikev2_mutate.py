"""Deterministic mutations of datagrams: bits, octets, lengths, cuts, splices, duplications."""

from __future__ import annotations

import random


def mutate(data: bytes, rng: random.Random, *, others: list[bytes] | None = None) -> bytes:
    """One to four changes; header length is put right in half of the cases, so that deeper layers are reached."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[rng.randrange(len(out))] = rng.choice((0, 1, 4, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[rng.randrange(len(out) + 1) :]
        elif kind == 3:
            out += rng.randbytes(rng.randrange(1, 40))
        elif kind == 4 and len(out) > 2:
            at = rng.randrange(len(out) - 1)
            out[at : at + 2] = rng.choice((b"\0\0", b"\0\3", b"\0\4", b"\xff\xff", rng.randbytes(2)))
        elif kind == 5 and len(out) > 8:
            start = rng.randrange(len(out) - 4)
            piece = out[start : start + rng.randrange(1, 32)]
            at = rng.randrange(len(out))
            out[at:at] = piece
        elif kind == 6 and len(out) > 8:
            start = rng.randrange(len(out) - 4)
            del out[start : start + rng.randrange(1, 16)]
        elif kind == 7 and others:
            other = rng.choice(others)
            cut = rng.randrange(len(out) + 1)
            out = out[:cut] + bytearray(other[cut:])
    if len(out) >= 28 and rng.random() < 0.5:
        out[24:28] = len(out).to_bytes(4, "big")
    return bytes(out)
