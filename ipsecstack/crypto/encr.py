"""Registry of encryption transforms (transform type 1): AES-CBC, AES-GCM, ChaCha20-Poly1305, NULL.

An algorithm is one ``_register`` line at the end. ``get(id, key_bits)`` describes it (lengths for key
derivation and packet layout); ``Encr.new(key)`` makes a keyed ``Cipher``.

Sources: RFC 3602 (AES-CBC), RFC 4106 and RFC 5282 (AES-GCM in ESP and IKE), RFC 7634 (ChaCha20-Poly1305),
RFC 2410 (NULL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as _BlockCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ipsecstack.crypto.errors import IntegrityError, UnknownAlgorithm
from ipsecstack.wire.transforms import EncrId

Buffer = bytes | bytearray | memoryview


class Cipher(Protocol):
    """A keyed cipher. Not for concurrent use by several threads.

    ``iv`` is ``Encr.iv_octets`` long and explicit on the wire; a salt is part of the key. For AEAD the
    sealed form is ciphertext||ICV; other ciphers have no ICV of their own, ``aad`` must then be empty and
    an integrity transform does the rest.
    """

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        """Encrypt; ``plaintext`` is a multiple of ``Encr.block_octets``, else ValueError."""
        ...

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        """Check and decrypt what ``seal`` made; IntegrityError when it does not verify."""
        ...

    def seal_into(self, iv: Buffer, aad: Buffer, plaintext: Buffer, out: bytearray | memoryview) -> int:
        """``seal`` into ``out``, exactly the sealed length (may overlap ``plaintext`` at its start)."""
        ...

    def open_into(self, iv: Buffer, aad: Buffer, data: Buffer, out: bytearray | memoryview) -> int:
        """``open`` into ``out``, exactly the plaintext length (may overlap ``data`` at its start).

        When it raises IntegrityError, ``out`` may hold unauthenticated octets: drop the buffer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Encr:
    """An encryption transform with its key length, and the lengths (in octets) that packets need."""

    id: EncrId
    key_bits: int
    """Length of the key without salt, in bits; 0 for NULL."""
    name: str
    """VICI name, without key length."""
    key_octets: int
    """Key without salt."""
    salt_octets: int
    """Implicit part of the nonce, taken from the keying material after the key."""
    iv_octets: int
    """Explicit IV in every packet."""
    icv_octets: int
    """ICV the cipher itself appends; 0 without AEAD."""
    block_octets: int
    """Plaintext is padded to a multiple of this; 1 for stream modes (ESP aligns to 4 by its own rule)."""
    aead: bool
    weak: bool
    """Refused unless the configuration names it on purpose."""
    iv_counter: bool
    """True: a unique 8-octet counter makes the IV. False: it must be unpredictable (fresh random)."""
    _factory: Callable[[bytes], Cipher] = field(repr=False, compare=False)

    @property
    def keymat_octets(self) -> int:
        """Key and salt together, as taken from KEYMAT or SK_e."""
        return self.key_octets + self.salt_octets

    def new(self, key_with_salt: bytes) -> Cipher:
        """A cipher keyed with ``keymat_octets`` octets, key first, salt after, else ValueError."""
        if len(key_with_salt) != self.keymat_octets:
            raise ValueError(
                f"{self.name} takes {self.keymat_octets} octets of key and salt, got {len(key_with_salt)}"
            )
        return self._factory(bytes(key_with_salt))


class AeadCipher:
    """AES-GCM or ChaCha20-Poly1305 with nonce = salt || iv (RFC 4106 section 4, RFC 7634 section 2).

    ``salt`` and ``aead`` are open to the data plane, whose batch path calls ``aead.encrypt_into`` over
    whole lists of nonces and views.
    """

    __slots__ = ("_icv_octets", "aead", "salt")

    def __init__(self, aead: AESGCM | ChaCha20Poly1305, salt: bytes, icv_octets: int = 16) -> None:
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


class CbcCipher:
    """A block cipher in CBC mode on two running contexts.

    A fresh context per packet costs four times the encryption of a full packet. CBC chains on the previous
    ciphertext block, so a context that keeps running takes any IV: for sealing, the first plaintext block
    is XORed with (IV xor previous ciphertext block); for opening, the IV is fed as a ciphertext block and
    its output is thrown away.
    """

    __slots__ = ("_block", "_decryptor", "_encryptor", "_last")

    def __init__(self, algorithm: algorithms.AES, block_octets: int) -> None:
        zero = bytes(block_octets)
        self._block = block_octets
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

    def seal_into(self, iv: Buffer, aad: Buffer, plaintext: Buffer, out: bytearray | memoryview) -> int:
        sealed = self.seal(iv, aad, plaintext)
        _fill(out, sealed)
        return len(sealed)

    def open_into(self, iv: Buffer, aad: Buffer, data: Buffer, out: bytearray | memoryview) -> int:
        opened = self.open(iv, aad, data)
        _fill(out, opened)
        return len(opened)


class NullCipher:
    """NULL encryption: the identity (RFC 2410)."""

    __slots__ = ()

    def seal(self, iv: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
        if aad or iv:
            raise ValueError("NULL takes neither aad nor IV")
        return bytes(plaintext)

    def open(self, iv: Buffer, aad: Buffer, data: Buffer) -> bytes:
        return self.seal(iv, aad, data)

    def seal_into(self, iv: Buffer, aad: Buffer, plaintext: Buffer, out: bytearray | memoryview) -> int:
        sealed = self.seal(iv, aad, plaintext)
        _fill(out, sealed)
        return len(sealed)

    def open_into(self, iv: Buffer, aad: Buffer, data: Buffer, out: bytearray | memoryview) -> int:
        return self.seal_into(iv, aad, data, out)


def _fill(out: bytearray | memoryview, data: bytes) -> None:
    if len(out) != len(data):
        raise ValueError(f"out has {len(out)} octets, {len(data)} are needed")
    out[:] = data


_REGISTRY: dict[EncrId, dict[int, Encr]] = {}


def get(encr_id: int, key_bits: int | None = None) -> Encr:
    """The encryption transform with this key length in bits.

    ``key_bits`` may be None or 0 where the algorithm has a single key length (ChaCha20-Poly1305, NULL).
    Raises UnknownAlgorithm with a text that names what was asked and what there is.
    """
    try:
        sizes = _REGISTRY[EncrId(encr_id)]
    except (ValueError, KeyError):
        raise UnknownAlgorithm(f"encryption algorithm {_label(encr_id)} is not implemented") from None
    if not key_bits:
        if len(sizes) == 1:
            return next(iter(sizes.values()))
        raise UnknownAlgorithm(f"{_label(encr_id)} needs a key length, one of {sorted(sizes)} bits")
    if key_bits not in sizes:
        raise UnknownAlgorithm(
            f"{_label(encr_id)} has no key length of {key_bits} bits, only {sorted(sizes)}"
        )
    return sizes[key_bits]


def registered() -> Iterator[Encr]:
    """Every implemented encryption transform, one for each key length."""
    for sizes in _REGISTRY.values():
        yield from sizes.values()


def _label(encr_id: int) -> str:
    try:
        return EncrId(encr_id).vici_name
    except ValueError:
        return f"number {encr_id}"


def _register(
    encr_id: EncrId,
    key_bits: tuple[int, ...],
    factory: Callable[[bytes], Cipher],
    *,
    salt: int = 0,
    iv: int,
    icv: int = 0,
    block: int = 1,
    weak: bool = False,
) -> None:
    sizes = _REGISTRY.setdefault(encr_id, {})
    for bits in key_bits:
        sizes[bits] = Encr(
            id=encr_id,
            key_bits=bits,
            name=encr_id.vici_name,
            key_octets=bits // 8,
            salt_octets=salt,
            iv_octets=iv,
            icv_octets=icv,
            block_octets=block,
            aead=icv > 0,
            weak=weak,
            iv_counter=icv > 0,
            _factory=factory,
        )


def _aes_cbc(key: bytes) -> Cipher:
    return CbcCipher(algorithms.AES(key), 16)


def _aes_gcm_16(key: bytes) -> Cipher:
    return AeadCipher(AESGCM(key[:-4]), key[-4:])


def _chacha20_poly1305(key: bytes) -> Cipher:
    return AeadCipher(ChaCha20Poly1305(key[:-4]), key[-4:])


def _null(_key: bytes) -> Cipher:
    return NullCipher()


_register(EncrId.AES_GCM_16, (128, 192, 256), _aes_gcm_16, salt=4, iv=8, icv=16)
_register(EncrId.CHACHA20_POLY1305, (256,), _chacha20_poly1305, salt=4, iv=8, icv=16)
_register(EncrId.AES_CBC, (128, 192, 256), _aes_cbc, iv=16, block=16)
_register(EncrId.NULL, (0,), _null, iv=0, weak=True)
