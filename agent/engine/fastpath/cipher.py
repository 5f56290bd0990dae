"""The MAC and AES-CFB of USM on contexts that are made once per key.

A new HMAC or cipher object per message costs several times what the message's own octets cost. Here the MAC
copies two hash states, and CFB comes out of modes that can run on:

- deciphering: the keystream is E(IV), E(C1), E(C2)…, so one ECB update over IV, C1, C2… gives it;
- enciphering: the keystream is the same, but C1, C2… follow from it one by one. A CBC encryptor gives
  E(X1 xor Y0), E(X2 xor Y1)…, Y being its own output. Fed with IV xor Y0, P1, P2… its output is E(IV),
  E(P1 xor E(IV)) = E(C1), E(C2)…: again the keystream.

Keys and states never show in a repr.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # cryptography before it moved CFB
    from cryptography.hazmat.primitives.ciphers.modes import CFB

LONG = 1400
"""Octets from which a CFB object of the library's own is faster: exclusive-or of large integers takes over."""

BLOCK = 16


class Mac:
    """HMAC of RFC 2104 with a kept key, cut to the length that RFC 7860 gives its user."""

    __slots__ = ("_inner", "_outer", "blank", "size")

    def __init__(self, key: bytes, name: str, size: int) -> None:
        """`name`: of the hash in hashlib. `size`: octets of msgAuthenticationParameters."""
        block = hashlib.new(name).block_size
        if len(key) > block:
            key = hashlib.new(name, key).digest()
        key = key.ljust(block, b"\0")
        self._inner = hashlib.new(name, bytes(octet ^ 0x36 for octet in key))
        self._outer = hashlib.new(name, bytes(octet ^ 0x5C for octet in key))
        self.size = size
        self.blank = bytes(size)

    def sign(self, message: bytes) -> bytes:
        """The digest of a message whose own digest is still blank."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: self.size]

    def verify(self, data: bytes, at: int) -> bool:
        """Whether the digest at this offset of a message is right. Takes the same time wherever it differs."""
        end = at + self.size
        digest = self.sign(data[:at] + self.blank + data[end:])
        return hmac.compare_digest(digest, data[at:end])


class AesCfb:
    """AES in 128-bit CFB mode with a kept key of 16, 24 or 32 octets (RFC 3826 section 3.1.3)."""

    __slots__ = ("_aes", "_cbc", "_ecb", "_last")

    def __init__(self, key: bytes) -> None:
        self._aes = algorithms.AES(key)
        self._ecb = Cipher(self._aes, ECB()).encryptor()  # noqa: S305 - makes CFB's keystream
        self._cbc = Cipher(self._aes, CBC(bytes(BLOCK))).encryptor()
        self._last = 0

    def encrypt(self, iv: bytes, plain: bytes) -> bytes:
        """The ciphertext of any number of octets, with an IV of 16."""
        size = len(plain)
        if size > LONG or not size:
            return Cipher(self._aes, CFB(iv)).encryptor().update(plain)
        whole = (size - 1) & ~(BLOCK - 1)
        start = (int.from_bytes(iv, "big") ^ self._last).to_bytes(BLOCK, "big")
        stream = self._cbc.update(start + plain[:whole])
        self._last = int.from_bytes(stream[-BLOCK:], "big")
        return (int.from_bytes(plain, "big") ^ int.from_bytes(stream[:size], "big")).to_bytes(size, "big")

    def decrypt(self, iv: bytes, sealed: bytes) -> bytes:
        """The plaintext of any number of octets, with an IV of 16."""
        size = len(sealed)
        if size > LONG or not size:
            return Cipher(self._aes, CFB(iv)).decryptor().update(sealed)
        stream = self._ecb.update(iv + sealed[: (size - 1) & ~(BLOCK - 1)])
        return (int.from_bytes(sealed, "big") ^ int.from_bytes(stream[:size], "big")).to_bytes(size, "big")
