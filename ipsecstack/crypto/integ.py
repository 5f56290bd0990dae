"""Registry of integrity transforms (transform type 3): HMAC, XCBC and CMAC of AES, GMAC for AH, and NONE for AEAD.

Sources: RFC 4868 (HMAC-SHA-256-128, -384-192, -512-256), RFC 2404 (HMAC-SHA-1-96), RFC 4595 (HMAC-SHA-1-160,
HMAC-MD5-128), RFC 2403 (HMAC-MD5-96), RFC 2857 (HMAC-RIPEMD-160-96), RFC 3566 (AES-XCBC-96), RFC 4494 (AES-CMAC-96),
RFC 4543 (AES-GMAC in AH), RFC 1828 (keyed MD5). What is weak follows RFC 8221.

Not here: DES-MAC, for which no document defines more than the number.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ipsecstack.crypto.blockmac import PaddedMac, aes_cmac, aes_xcbc
from ipsecstack.crypto.combined import Gmac
from ipsecstack.crypto.errors import UnknownAlgorithm
from ipsecstack.crypto.prf import has_hash
from ipsecstack.wire.transforms import IntegId

Buffer = bytes | bytearray | memoryview

_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))


class Mac(Protocol):
    """A keyed integrity algorithm."""

    def sign(self, *parts: Buffer) -> bytes:
        """The ICV (``Integ.icv_octets``) over the concatenated parts."""
        ...

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        """Whether ``icv`` is right, compared in constant time."""
        ...


@dataclass(frozen=True, slots=True)
class Integ:
    """An integrity transform; lengths in octets. NONE has both lengths 0 and goes with AEAD ciphers."""

    id: IntegId
    name: str
    key_octets: int
    """Key with its salt, where there is one (AES-GMAC: 4 octets at the end)."""
    icv_octets: int
    """What a packet carries, an IV included."""
    weak: bool
    """Refused unless the configuration says ``weak`` beside it."""
    _factory: Callable[[bytes, int], Mac] = field(repr=False, compare=False)
    iv_octets: int = 0
    """Of ``icv_octets``, those of an IV in front that must never repeat under one key: use ``GmacMac.sign_iv``."""
    ah_only: bool = False
    """Defined for AH alone."""

    def new(self, key: bytes) -> Mac:
        """A MAC keyed with exactly ``key_octets`` octets; ValueError for another length."""
        if len(key) != self.key_octets:
            raise ValueError(f"{self.name} takes a key of {self.key_octets} octets, got {len(key)}")
        return self._factory(bytes(key), self.icv_octets)


class HmacMac:
    """HMAC truncated to its leftmost octets (RFC 2104 section 4: the two keyed states are kept, and copied for each
    message, which is cheaper than keying and than copying an ``hmac`` object)."""

    __slots__ = ("_icv_octets", "_inner", "_outer")

    def __init__(self, hash_name: str, key: bytes, icv_octets: int) -> None:
        self._inner, self._outer = hashlib.new(hash_name), hashlib.new(hash_name)
        block = self._inner.block_size
        key = (hashlib.new(hash_name, key).digest() if len(key) > block else key).ljust(block, b"\0")
        self._inner.update(key.translate(_INNER_PAD))
        self._outer.update(key.translate(_OUTER_PAD))
        self._icv_octets = icv_octets

    def __repr__(self) -> str:
        return f"<HmacMac {self._inner.name}>"

    def sign(self, *parts: Buffer) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        for part in parts:
            inner.update(part)
        outer.update(inner.digest())
        return outer.digest()[: self._icv_octets]

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        return hmac.compare_digest(self.sign(*parts), icv)


class AesMac:
    """AES-XCBC-96 (RFC 3566) and AES-CMAC-96 (RFC 4494): the leftmost octets of the MAC."""

    __slots__ = ("_icv_octets", "_mac")

    def __init__(self, mac: PaddedMac, icv_octets: int) -> None:
        self._mac = mac
        self._icv_octets = icv_octets

    def __repr__(self) -> str:
        return "<AesMac>"

    def sign(self, *parts: Buffer) -> bytes:
        return self._mac.compute(b"".join(parts))[: self._icv_octets]

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        return hmac.compare_digest(self.sign(*parts), icv)


class KeyedMd5:
    """Keyed MD5 as AH first had it: MD5(key, its MD5 padding, data, key) (RFC 1828 section 2)."""

    __slots__ = ("_icv_octets", "_key", "_start")

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._key = key
        self._icv_octets = icv_octets
        self._start = hashlib.md5(usedforsecurity=False)
        padding = -(len(key) + 9) % 64
        self._start.update(key + b"\x80" + bytes(padding) + (8 * len(key)).to_bytes(8, "little"))

    def __repr__(self) -> str:
        return "<KeyedMd5>"

    def sign(self, *parts: Buffer) -> bytes:
        state = self._start.copy()
        for part in parts:
            state.update(part)
        state.update(self._key)
        return state.digest()[: self._icv_octets]

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        return hmac.compare_digest(self.sign(*parts), icv)


class GmacMac:
    """AES-GMAC in AH (RFC 4543 section 4): the ICV field is an IV of 8 octets and then the tag of 16."""

    __slots__ = ("_gmac", "_salt")

    def __init__(self, key: bytes) -> None:
        self._gmac = Gmac(key[:-4])
        self._salt = key[-4:]

    def __repr__(self) -> str:
        return "<GmacMac>"

    def sign(self, *parts: Buffer) -> bytes:
        raise ValueError("AES-GMAC needs an IV that was never used with the key: sign_iv")

    def sign_iv(self, iv: Buffer, *parts: Buffer) -> bytes:
        """IV and tag over the parts. The IV must never repeat under one key: the sequence number is one."""
        if len(iv) != 8:
            raise ValueError("AES-GMAC needs an IV of 8 octets")
        return bytes(iv) + self._gmac.tag(self._salt + iv, *parts)

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        return len(icv) == 24 and hmac.compare_digest(self.sign_iv(icv[:8], *parts), icv)


class NoMac:
    """Integrity NONE: an empty ICV, which verifies only when it is empty."""

    __slots__ = ()

    def sign(self, *parts: Buffer) -> bytes:
        return b""

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        return len(icv) == 0


_REGISTRY: dict[IntegId, Integ] = {}


def get(integ_id: int) -> Integ:
    """The integrity transform of this number; UnknownAlgorithm with a clear text when there is none."""
    try:
        return _REGISTRY[IntegId(integ_id)]
    except ValueError:
        raise UnknownAlgorithm(f"integrity algorithm number {integ_id} is not implemented") from None
    except KeyError:
        name = IntegId(integ_id).vici_name
        raise UnknownAlgorithm(f"integrity algorithm {name} is not implemented") from None


def for_sa(integ_id: int, *, sha256_96: bool = False) -> Integ:
    """``get``, but with HMAC-SHA-256 cut to 96 bits if ``sha256_96`` (what drafts before RFC 4868 said and old Linux
    kernels do): the negotiated number is the same, 12."""
    if sha256_96 and integ_id == IntegId.HMAC_SHA2_256_128:
        return _SHA2_256_96
    return get(integ_id)


def registered() -> Iterator[Integ]:
    """Every implemented integrity transform, NONE included."""
    yield from _REGISTRY.values()


def _register(
    integ_id: IntegId,
    factory: Callable[[bytes, int], Mac],
    *,
    key: int,
    icv: int,
    iv: int = 0,
    weak: bool = False,
    ah_only: bool = False,
) -> None:
    _REGISTRY[integ_id] = Integ(integ_id, integ_id.vici_name, key, icv, weak, factory, iv, ah_only)


def _hmac(hash_name: str) -> Callable[[bytes, int], Mac]:
    hashlib.new(hash_name)  # an unknown hash fails when the registry is built, not in a session

    def new(key: bytes, icv_octets: int) -> Mac:
        return HmacMac(hash_name, key, icv_octets)

    return new


_register(IntegId.NONE, lambda _key, _icv_octets: NoMac(), key=0, icv=0)
_register(IntegId.HMAC_SHA2_256_128, _hmac("sha256"), key=32, icv=16)
_register(IntegId.HMAC_SHA2_384_192, _hmac("sha384"), key=48, icv=24)
_register(IntegId.HMAC_SHA2_512_256, _hmac("sha512"), key=64, icv=32)
_register(IntegId.HMAC_SHA1_96, _hmac("sha1"), key=20, icv=12)
_register(IntegId.HMAC_SHA1_160, _hmac("sha1"), key=20, icv=20)
_register(IntegId.AES_XCBC_96, lambda key, icv: AesMac(aes_xcbc(key), icv), key=16, icv=12)
_register(IntegId.AES_CMAC_96, lambda key, icv: AesMac(aes_cmac(key), icv), key=16, icv=12)
for _gmac_id, _key_octets in (
    (IntegId.AES_128_GMAC, 16),
    (IntegId.AES_192_GMAC, 24),
    (IntegId.AES_256_GMAC, 32),
):
    _register(_gmac_id, lambda key, _icv: GmacMac(key), key=_key_octets + 4, icv=24, iv=8, ah_only=True)
# A build of OpenSSL, or its policy on this system, may leave these hashes out.
if has_hash("ripemd160"):
    _register(IntegId.HMAC_RIPEMD_160_96, _hmac("ripemd160"), key=20, icv=12)
if has_hash("md5"):
    _register(IntegId.HMAC_MD5_96, _hmac("md5"), key=16, icv=12, weak=True)
    _register(IntegId.HMAC_MD5_128, _hmac("md5"), key=16, icv=16, weak=True)
    _register(IntegId.KPDK_MD5, KeyedMd5, key=16, icv=16, weak=True, ah_only=True)

_SHA2_256_96 = Integ(IntegId.HMAC_SHA2_256_128, "HMAC_SHA2_256_96", 32, 12, False, _hmac("sha256"))
