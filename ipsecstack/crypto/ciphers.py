"""Keyed ciphers without integrity of their own: CBC, counter mode, DES with a short IV, NULL.

Sources: RFC 2451 and RFC 3602 (CBC), RFC 3686 and RFC 5528 (counter mode), RFC 1829 (DES with a 32-bit IV),
RFC 2410 (NULL).
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers import Cipher as _BlockCipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ipsecstack.crypto.errors import IntegrityError

Buffer = bytes | bytearray | memoryview


class _WholeCipher:
    """``seal_into`` and ``open_into`` for ciphers that make their result as octets of its own."""

    __slots__ = ()

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        raise NotImplementedError

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        raise NotImplementedError

    def seal_into(self, iv: Buffer, aad: Buffer, plaintext: Buffer, out: bytearray | memoryview) -> int:
        sealed = self.seal(iv, aad, plaintext)
        fill(out, sealed)
        return len(sealed)

    def open_into(self, iv: Buffer, aad: Buffer, data: Buffer, out: bytearray | memoryview) -> int:
        opened = self.open(iv, aad, data)
        fill(out, opened)
        return len(opened)


class CbcCipher(_WholeCipher):
    """A block cipher in CBC mode on two running contexts.

    A fresh context per packet costs four times the encryption of a full packet. CBC chains on the previous
    ciphertext block, so a context that keeps running takes any IV: for sealing, the first plaintext block
    is XORed with (IV xor previous ciphertext block); for opening, the IV is fed as a ciphertext block and
    its output is thrown away.
    """

    __slots__ = ("_block", "_decryptor", "_encryptor", "_last")

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._block = algorithm.block_size // 8
        zero = bytes(self._block)
        self._last = 0
        self._encryptor = _BlockCipher(algorithm, modes.CBC(zero)).encryptor()
        self._decryptor = _BlockCipher(algorithm, modes.CBC(zero)).decryptor()

    def __repr__(self) -> str:
        return "<CbcCipher>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        block = self._block
        if aad:
            raise ValueError("CBC authenticates nothing: no aad")
        if len(iv) != block or len(plaintext) % block:
            raise ValueError(f"CBC needs an IV of {block} octets and whole blocks of plaintext")
        if not plaintext:
            return b""
        view = memoryview(plaintext)
        first = int.from_bytes(iv, "big") ^ self._last ^ int.from_bytes(view[:block], "big")
        sealed = self._encryptor.update(first.to_bytes(block, "big") + view[block:])
        self._last = int.from_bytes(sealed[-block:], "big")
        return sealed

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        block = self._block
        if aad:
            raise ValueError("CBC authenticates nothing: no aad")
        if len(iv) != block or len(data) % block:
            raise IntegrityError("not a whole number of cipher blocks")
        return self._decryptor.update(bytes(iv) + data)[block:]

    def seal_chain(self, pieces: Sequence[Buffer]) -> bytes:
        """Encrypt many packets in one go. ``pieces``, all of whole blocks when joined, hold for each packet one random
        block and then its plaintext; in their place come an IV, and what ``seal`` makes of the plaintext with it.

        The IV is the encryption of the random block XOR the ciphertext block before it: as unpredictable as it must
        be (NIST SP 800-38A appendix C).
        """
        sealed = self._encryptor.update(b"".join(pieces))
        self._last = int.from_bytes(sealed[-self._block :], "big")
        return sealed

    def open_joined(self, data: Buffer) -> bytes:
        """``open`` of an IV and its ciphertext that stand one after the other, in whole blocks."""
        return self._decryptor.update(data)[self._block :]


class DesIv32Cipher(_WholeCipher):
    """DES-CBC whose packets carry 32 bits of IV; the other 32 are their complement (RFC 1829 section 2)."""

    __slots__ = ("_cbc",)

    def __init__(self, cbc: CbcCipher) -> None:
        self._cbc = cbc

    def __repr__(self) -> str:
        return "<DesIv32Cipher>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        return self._cbc.seal(self._whole(iv), aad, plaintext)

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        if len(iv) != 4:
            raise IntegrityError("an IV of 4 octets is needed")
        return self._cbc.open(self._whole(iv), aad, data)

    @staticmethod
    def _whole(iv: Buffer) -> bytes:
        if len(iv) != 4:
            raise ValueError("RFC 1829 needs an IV of 4 octets here")
        return bytes(iv) + bytes(octet ^ 0xFF for octet in iv)


class CtrCipher(_WholeCipher):
    """AES in counter mode: the counter block is nonce (4) | IV (8) | 1 (4) (RFC 3686 section 4)."""

    __slots__ = ("_context", "_nonce")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._nonce = nonce
        self._context = _BlockCipher(AES(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "<CtrCipher AES>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        _check_ctr(iv, aad)
        # The context keeps its key schedule: setting it anew costs more than encrypting a short packet.
        self._context.reset_nonce(b"".join((self._nonce, iv, b"\0\0\0\1")))
        return self._context.update(plaintext)

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        return self.seal(iv, aad, data)


class BlockCtrCipher(_WholeCipher):
    """Counter mode of a block cipher that OpenSSL has without it (Camellia, RFC 5528): encrypted counter blocks."""

    __slots__ = ("_encryptor", "_name", "_nonce")

    def __init__(self, algorithm: BlockCipherAlgorithm, nonce: bytes) -> None:
        self._name = algorithm.name
        self._nonce = nonce
        self._encryptor = _BlockCipher(algorithm, modes.ECB()).encryptor()  # noqa: S305 - the block cipher alone, modes are built on it

    def __repr__(self) -> str:
        return f"<BlockCtrCipher {self._name}>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        _check_ctr(iv, aad)
        prefix = self._nonce + bytes(iv)
        count = (len(plaintext) + 15) // 16
        blocks = b"".join([prefix + number.to_bytes(4, "big") for number in range(1, count + 1)])
        return xor(plaintext, self._encryptor.update(blocks))

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        return self.seal(iv, aad, data)


class NullCipher(_WholeCipher):
    """NULL encryption: the identity (RFC 2410)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<NullCipher>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        if aad or iv:
            raise ValueError("NULL takes neither aad nor IV")
        return bytes(plaintext)

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        return self.seal(iv, aad, data)


def _check_ctr(iv: Buffer, aad: Buffer) -> None:
    if aad:
        raise ValueError("counter mode authenticates nothing: no aad")
    if len(iv) != 8:
        raise ValueError("counter mode needs an IV of 8 octets")


def xor(data: Buffer, stream: bytes) -> bytes:
    """``data`` XOR the first octets of ``stream``, which is at least as long."""
    size = len(data)
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream[:size], "big")).to_bytes(size, "big")


def fill(out: bytearray | memoryview, data: bytes) -> None:
    """``data`` into a buffer of exactly its length, else ValueError."""
    if len(out) != len(data):
        raise ValueError(f"out has {len(out)} octets, {len(data)} are needed")
    out[:] = data
