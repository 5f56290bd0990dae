"""prf and prf+ of RFC 7296 §2.13 with HMAC-SHA-256, by hand: what derived keys are held against."""

from __future__ import annotations

import hmac


def prf(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


def prf_plus(key: bytes, seed: bytes, octets: int) -> bytes:
    out, block, n = b"", b"", 1
    while len(out) < octets:
        block = prf(key, block, seed, bytes((n,)))
        out, n = out + block, n + 1
    return out[:octets]
