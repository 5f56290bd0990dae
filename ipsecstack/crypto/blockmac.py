"""MACs of a block cipher: CBC-MAC, AES-XCBC-MAC (RFC 3566) and AES-CMAC (RFC 4493), whole 16-octet outputs."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers import Cipher as _BlockCipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

BLOCK = 16


class CbcMac:
    """The last block of a CBC encryption with a zero IV: the core of CCM, XCBC and CMAC, no MAC for use by itself.

    One context goes on running (as in ``ciphers.CbcCipher``): what it chains on is XORed away in the first block.
    """

    __slots__ = ("_encryptor", "_last")

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._encryptor = _BlockCipher(algorithm, modes.CBC(bytes(BLOCK))).encryptor()
        self._last = 0

    def compute(self, data: bytes) -> bytes:
        """``data`` is one whole block at least, in whole blocks."""
        first = int.from_bytes(data[:BLOCK], "big") ^ self._last
        last = self._encryptor.update(first.to_bytes(BLOCK, "big") + data[BLOCK:])[-BLOCK:]
        self._last = int.from_bytes(last, "big")
        return last


class PaddedMac:
    """CBC-MAC whose last block is masked with one of two subkeys: one if it is whole, the other if it was padded."""

    __slots__ = ("_cbc_mac", "_padded", "_whole")

    def __init__(self, cbc_mac: CbcMac, whole: int, padded: int) -> None:
        self._cbc_mac = cbc_mac
        self._whole = whole
        self._padded = padded

    def __repr__(self) -> str:
        return "<PaddedMac>"

    def compute(self, message: bytes) -> bytes:
        """The whole 16 octets over any message, the empty one included."""
        rest = len(message) % BLOCK
        if message and not rest:
            head, last, mask = message[:-BLOCK], message[-BLOCK:], self._whole
        else:
            head = message[: len(message) - rest]
            last = (message[len(head) :] + b"\x80").ljust(BLOCK, b"\0")
            mask = self._padded
        masked = (int.from_bytes(last, "big") ^ mask).to_bytes(BLOCK, "big")
        return self._cbc_mac.compute(head + masked)


def aes_xcbc(key: bytes) -> PaddedMac:
    """AES-XCBC-MAC with a key of 16 octets (RFC 3566 section 4)."""
    encrypt = _BlockCipher(AES(key), modes.ECB()).encryptor()  # noqa: S305 - the block cipher alone, modes are built on it
    k1, k2, k3 = (encrypt.update(bytes((number,)) * BLOCK) for number in (1, 2, 3))
    return PaddedMac(CbcMac(AES(k1)), int.from_bytes(k2, "big"), int.from_bytes(k3, "big"))


def aes_cmac(key: bytes) -> PaddedMac:
    """AES-CMAC (RFC 4493 section 2), with a key of 16, 24 or 32 octets."""
    encrypt = _BlockCipher(AES(key), modes.ECB()).encryptor()  # noqa: S305 - the block cipher alone, modes are built on it
    whole = _double(int.from_bytes(encrypt.update(bytes(BLOCK)), "big"))
    return PaddedMac(CbcMac(AES(key)), whole, _double(whole))


def _double(value: int) -> int:
    """Multiplication by x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1."""
    doubled = value << 1
    return (doubled ^ 0x87) & (1 << 128) - 1 if value >> 127 else doubled
