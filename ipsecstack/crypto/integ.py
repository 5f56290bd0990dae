"""Registry of integrity transforms (transform type 3): HMAC-SHA2, HMAC-SHA1, and NONE for AEAD.

Sources: RFC 4868 (HMAC-SHA-256-128, -384-192, -512-256), RFC 2404 (HMAC-SHA-1-96).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ipsecstack.crypto.errors import UnknownAlgorithm
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
    icv_octets: int
    weak: bool
    _factory: Callable[[bytes, int], Mac] = field(repr=False, compare=False)

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


def registered() -> Iterator[Integ]:
    """Every implemented integrity transform, NONE included."""
    yield from _REGISTRY.values()


def _register(
    integ_id: IntegId,
    factory: Callable[[bytes, int], Mac],
    *,
    key: int,
    icv: int,
    weak: bool = False,
) -> None:
    _REGISTRY[integ_id] = Integ(integ_id, integ_id.vici_name, key, icv, weak, factory)


def _hmac(hash_name: str) -> Callable[[bytes, int], Mac]:
    hashlib.new(hash_name)  # an unknown hash fails when the registry is built, not in a session

    def new(key: bytes, icv_octets: int) -> Mac:
        return HmacMac(hash_name, key, icv_octets)

    return new


def _none(_key: bytes, _icv_octets: int) -> Mac:
    return NoMac()


_register(IntegId.NONE, _none, key=0, icv=0)
_register(IntegId.HMAC_SHA2_256_128, _hmac("sha256"), key=32, icv=16)
_register(IntegId.HMAC_SHA2_384_192, _hmac("sha384"), key=48, icv=24)
_register(IntegId.HMAC_SHA2_512_256, _hmac("sha512"), key=64, icv=32)
_register(IntegId.HMAC_SHA1_96, _hmac("sha1"), key=20, icv=12, weak=True)
