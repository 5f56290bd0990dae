"""Combined-mode (AEAD) ciphers: AES-GCM with every ICV length, AES-GMAC, CCM of AES and Camellia, ChaCha20-Poly1305.

Sources: RFC 4106 (GCM), RFC 4543 (GMAC), RFC 4309 and RFC 3610 (CCM), RFC 5529 (Camellia), RFC 7634
(ChaCha20-Poly1305).
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers import Cipher as _BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ipsecstack.crypto.blockmac import BLOCK, CbcMac
from ipsecstack.crypto.ciphers import Buffer, fill, xor
from ipsecstack.crypto.errors import IntegrityError


class Aead(Protocol):
    """What ``AeadCipher`` works with: the interface of cryptography's AEAD classes. InvalidTag: it does not verify."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: bytearray | memoryview
    ) -> int: ...

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: bytearray | memoryview
    ) -> int: ...


class AeadCipher:
    """A combined-mode cipher with nonce = salt || iv (RFC 4106 section 4, RFC 4309 section 4, RFC 7634 section 2).

    ``salt`` and ``aead`` are open to the data plane, whose batch path calls ``aead.encrypt_into`` over
    whole lists of nonces and views.
    """

    __slots__ = ("_icv_octets", "aead", "salt")

    def __init__(self, aead: Aead, salt: bytes, icv_octets: int = 16) -> None:
        self.aead = aead
        self.salt = salt
        self._icv_octets = icv_octets

    def __repr__(self) -> str:
        return f"<AeadCipher {type(self.aead).__name__}>"

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        return self.aead.encrypt(self.salt + iv, plaintext, aad)

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        if len(data) < self._icv_octets:
            raise IntegrityError("shorter than its ICV")
        try:
            return self.aead.decrypt(self.salt + iv, data, aad)
        except InvalidTag:
            raise IntegrityError("ICV does not verify") from None

    def seal_into(self, iv: Buffer, aad: Buffer, plaintext: Buffer, out: bytearray | memoryview) -> int:
        return self.aead.encrypt_into(self.salt + iv, plaintext, aad, out)

    def open_into(self, iv: Buffer, aad: Buffer, data: Buffer, out: bytearray | memoryview) -> int:
        if len(data) < self._icv_octets:
            raise IntegrityError("shorter than its ICV")
        try:
            return self.aead.decrypt_into(self.salt + iv, data, aad, out)
        except InvalidTag:
            raise IntegrityError("ICV does not verify") from None


class _WholeAead:
    """The ``_into`` forms for AEADs that make their result as octets of its own."""

    __slots__ = ()

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        raise NotImplementedError

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        raise NotImplementedError

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: bytearray | memoryview
    ) -> int:
        sealed = self.encrypt(nonce, data, associated_data)
        fill(buf, sealed)
        return len(sealed)

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: bytearray | memoryview
    ) -> int:
        opened = self.decrypt(nonce, data, associated_data)
        fill(buf, opened)
        return len(opened)


class ShortTagGcm(_WholeAead):
    """AES-GCM with an ICV of 8 or 12 octets (RFC 4106 section 6), the start of the whole one.

    cryptography's AESGCM checks whole ICVs only, and its other interface makes a context for each packet. So a packet
    is opened in two steps: counter mode decrypts it, and what comes out must give the same octets when it is sealed.
    """

    __slots__ = ("_counter", "_gcm", "_tag_octets")

    def __init__(self, key: bytes, tag_octets: int) -> None:
        self._gcm = AESGCM(key)
        self._counter = _BlockCipher(AES(key), modes.CTR(bytes(16))).encryptor()
        self._tag_octets = tag_octets

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        return self._gcm.encrypt(nonce, data, associated_data)[: self._tag_octets - 16]

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        if len(data) < self._tag_octets:
            raise InvalidTag
        # Counter block 1 of a nonce of 12 octets masks the ICV, the text begins with 2 (NIST SP 800-38D section 7.1).
        self._counter.reset_nonce(bytes(nonce) + b"\0\0\0\2")
        opened = self._counter.update(data[: len(data) - self._tag_octets])
        if not compare_digest(self.encrypt(nonce, opened, associated_data), data):
            raise InvalidTag
        return opened


class Gmac(_WholeAead):
    """AES-GMAC as a cipher that does not encrypt: ESP's ENCR_NULL_AUTH_AES_GMAC (RFC 4543 section 3).

    AES-GCM over no text at all; what ESP would encrypt is authenticated behind the IV, after ESP's own aad.
    """

    __slots__ = ("_gcm",)

    def __init__(self, key: bytes) -> None:
        self._gcm = AESGCM(key)

    def tag(self, nonce: Buffer, *parts: Buffer) -> bytes:
        """The 16 octets over the parts."""
        return self._gcm.encrypt(nonce, b"", b"".join(parts))

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        return bytes(data) + self.tag(nonce, associated_data or b"", nonce[4:], data)

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        if len(data) < 16:
            raise InvalidTag
        text = bytes(data[:-16])
        if not compare_digest(self.tag(nonce, associated_data or b"", nonce[4:], text), data[-16:]):
            raise InvalidTag
        return text


class Ccm(_WholeAead):
    """CCM (RFC 3610) of any block cipher of 16 octets, with 4 octets of message length and a nonce of 11.

    For Camellia, which OpenSSL has no CCM of; AES has its own.
    """

    __slots__ = ("_ecb", "_mac", "_tag_octets")

    def __init__(self, algorithm: BlockCipherAlgorithm, tag_octets: int) -> None:
        self._ecb = _BlockCipher(algorithm, modes.ECB()).encryptor()  # noqa: S305 - the block cipher alone, modes are built on it
        self._mac = CbcMac(algorithm)
        self._tag_octets = tag_octets

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        first, stream = self._stream(nonce, len(data))
        return xor(data, stream) + xor(self._authenticate(nonce, bytes(data), associated_data or b""), first)

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        end = len(data) - self._tag_octets
        if end < 0:
            raise InvalidTag
        first, stream = self._stream(nonce, end)
        opened = xor(data[:end], stream)
        tag = xor(self._authenticate(nonce, opened, associated_data or b""), first)
        if not compare_digest(tag, data[end:]):
            raise InvalidTag
        return opened

    def _stream(self, nonce: Buffer, size: int) -> tuple[bytes, bytes]:
        """The block that masks the MAC, and the key stream of ``size`` octets (RFC 3610 section 2.3)."""
        prefix = b"\x03" + nonce
        count = (size + BLOCK - 1) // BLOCK
        blocks = self._ecb.update(b"".join([prefix + i.to_bytes(4, "big") for i in range(count + 1)]))
        return blocks[:BLOCK], blocks[BLOCK:]

    def _authenticate(self, nonce: Buffer, data: bytes, aad: Buffer) -> bytes:
        """The MAC before it is masked (RFC 3610 section 2.2); ESP's and IKE's aad are far below 65,280 octets."""
        flags = (0x40 if aad else 0) | (self._tag_octets - 2) // 2 << 3 | 3
        blocks = [bytes((flags,)), nonce, len(data).to_bytes(4, "big")]
        if aad:
            blocks += [len(aad).to_bytes(2, "big"), aad, bytes(-(len(aad) + 2) % BLOCK)]
        blocks += [data, bytes(-len(data) % BLOCK)]
        return self._mac.compute(b"".join(blocks))[: self._tag_octets]
