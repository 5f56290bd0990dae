"""Registry of encryption transforms (transform type 1): every one of IKEv2's that has a definition of its own.

An algorithm is one ``_register`` line at the end. ``get(id, key_bits)`` describes it (lengths for key
derivation and packet layout); ``Encr.new(key)`` makes a keyed ``Cipher``.

Sources: RFC 3602 (AES-CBC), RFC 3686 (AES-CTR), RFC 4106 and RFC 5282 (AES-GCM in ESP and IKE), RFC 4309 (AES-CCM),
RFC 4543 (AES-GMAC), RFC 7634 (ChaCha20-Poly1305), RFC 5529 (Camellia), RFC 2410 (NULL), RFC 2451 (3DES, CAST, Blowfish,
IDEA), RFC 2405 and RFC 1829 (DES). What is weak follows RFC 8221 and RFC 8247.

Not here: RC5 and 3IDEA (no use was ever defined for ESP beyond the number), implicit IVs (RFC 8750), GOST.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers import algorithms as decrepit
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ipsecstack.crypto.ciphers import BlockCtrCipher, CbcCipher, CtrCipher, DesIv32Cipher, NullCipher
from ipsecstack.crypto.combined import AeadCipher, Ccm, Gmac, ShortTagGcm
from ipsecstack.crypto.errors import UnknownAlgorithm
from ipsecstack.wire.transforms import EncrId

__all__ = ["AeadCipher", "CbcCipher", "Cipher", "Encr", "NullCipher", "get", "registered"]

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
    """Refused unless the configuration says ``weak`` beside it."""
    esp_only: bool
    """IKE messages cannot be protected with it: it does not encrypt, or is older than IKE."""
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
    counter: bool = False,
    weak: bool = False,
    esp_only: bool = False,
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
            esp_only=esp_only,
            iv_counter=counter or icv > 0,
            _factory=factory,
        )


def _cbc(algorithm: Callable[[bytes], BlockCipherAlgorithm]) -> Callable[[bytes], Cipher]:
    return lambda key: CbcCipher(algorithm(key))


def _des(key: bytes) -> BlockCipherAlgorithm:
    # 3DES with three equal keys is DES; OpenSSL has DES alone no longer.
    return decrepit.TripleDES(key * 3)


def _gcm(icv: int) -> Callable[[bytes], Cipher]:
    if icv == 16:
        return lambda key: AeadCipher(AESGCM(key[:-4]), key[-4:])
    return lambda key: AeadCipher(ShortTagGcm(key[:-4], icv), key[-4:], icv)


def _ccm(icv: int) -> Callable[[bytes], Cipher]:
    return lambda key: AeadCipher(AESCCM(key[:-3], icv), key[-3:], icv)


def _camellia_ccm(icv: int) -> Callable[[bytes], Cipher]:
    return lambda key: AeadCipher(Ccm(decrepit.Camellia(key[:-3]), icv), key[-3:], icv)


def _register_old(
    encr_id: EncrId, key_bits: tuple[int, ...], algorithm: Callable[[bytes], BlockCipherAlgorithm]
) -> bool:
    """CBC of a cipher with blocks of 8 octets, if this OpenSSL has it: they may be left out of a build."""
    factory = _cbc(algorithm)
    try:
        factory(bytes(range(key_bits[0] // 8)))
    except UnsupportedAlgorithm:
        return False
    _register(encr_id, key_bits, factory, iv=8, block=8, weak=True)
    return True


_AES = (128, 192, 256)
_register(EncrId.AES_GCM_16, _AES, _gcm(16), salt=4, iv=8, icv=16)
_register(EncrId.AES_GCM_12, _AES, _gcm(12), salt=4, iv=8, icv=12)
_register(EncrId.AES_GCM_8, _AES, _gcm(8), salt=4, iv=8, icv=8)
_register(
    EncrId.CHACHA20_POLY1305,
    (256,),
    lambda key: AeadCipher(ChaCha20Poly1305(key[:-4]), key[-4:]),
    salt=4,
    iv=8,
    icv=16,
)
_register(EncrId.AES_CCM_16, _AES, _ccm(16), salt=3, iv=8, icv=16)
_register(EncrId.AES_CCM_12, _AES, _ccm(12), salt=3, iv=8, icv=12)
_register(EncrId.AES_CCM_8, _AES, _ccm(8), salt=3, iv=8, icv=8)
_register(EncrId.AES_CBC, _AES, _cbc(AES), iv=16, block=16)
_register(EncrId.AES_CTR, _AES, lambda key: CtrCipher(key[:-4], key[-4:]), salt=4, iv=8, counter=True)
_register(
    EncrId.NULL_AUTH_AES_GMAC,
    _AES,
    lambda key: AeadCipher(Gmac(key[:-4]), key[-4:]),
    salt=4,
    iv=8,
    icv=16,
    esp_only=True,
)
_register(EncrId.CAMELLIA_CBC, _AES, _cbc(decrepit.Camellia), iv=16, block=16)
_register(
    EncrId.CAMELLIA_CTR,
    _AES,
    lambda key: BlockCtrCipher(decrepit.Camellia(key[:-4]), key[-4:]),
    salt=4,
    iv=8,
    counter=True,
)
_register(EncrId.CAMELLIA_CCM_16, _AES, _camellia_ccm(16), salt=3, iv=8, icv=16)
_register(EncrId.CAMELLIA_CCM_12, _AES, _camellia_ccm(12), salt=3, iv=8, icv=12)
_register(EncrId.CAMELLIA_CCM_8, _AES, _camellia_ccm(8), salt=3, iv=8, icv=8)
_register(EncrId.NULL, (0,), lambda _key: NullCipher(), iv=0, esp_only=True)
_register_old(EncrId.TRIPLE_DES_CBC, (192,), decrepit.TripleDES)
_register_old(EncrId.CAST_CBC, (128,), decrepit.CAST5)
_register_old(EncrId.BLOWFISH_CBC, (128, 192, 256), decrepit.Blowfish)
_register_old(EncrId.IDEA_CBC, (128,), decrepit.IDEA)
if _register_old(EncrId.DES_CBC, (64,), _des):
    _register(EncrId.DES_IV64, (64,), _cbc(_des), iv=8, block=8, weak=True, esp_only=True)
    _register(
        EncrId.DES_IV32,
        (64,),
        lambda key: DesIv32Cipher(CbcCipher(_des(key))),
        iv=4,
        block=8,
        weak=True,
        esp_only=True,
    )
