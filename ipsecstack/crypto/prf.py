"""Registry of pseudorandom functions (transform type 2), and prf+ (RFC 7296 section 2.13).

Sources: RFC 4868 (PRF-HMAC-SHA-256/384/512), RFC 2104 (HMAC-SHA-1, HMAC-MD5), RFC 4434 (AES-XCBC-PRF-128),
RFC 4615 (AES-CMAC-PRF-128). What is weak follows RFC 8247.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ipsecstack.crypto.blockmac import PaddedMac, aes_cmac, aes_xcbc
from ipsecstack.crypto.errors import UnknownAlgorithm
from ipsecstack.wire.transforms import PrfId

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Prf:
    """A pseudorandom function; lengths in octets. The key of the PRFs here may have any length."""

    id: PrfId
    name: str
    key_octets: int
    """Preferred key length: the length of SK_d, SK_pi and SK_pr."""
    output_octets: int
    weak: bool
    _compute: Callable[[bytes, bytes], bytes] = field(repr=False, compare=False)
    nonce_octets: int = 0
    """Octets of each nonce that key SKEYSEED; 0 for all of them. RFC 7296 section 2.14 takes 8 for the two AES PRFs,
    as if their keys still had a fixed length."""

    def compute(self, key: Buffer, *parts: Buffer) -> bytes:
        """prf(key, part1 | part2 | ...), ``output_octets`` long."""
        return self._compute(bytes(key), b"".join(parts))


def has_hash(name: str) -> bool:
    """Whether this system's OpenSSL lets a hash be used: builds and policies (FIPS) leave some out."""
    try:
        hashlib.new(name)
    except ValueError:
        return False
    return True


def prf_plus(prf: Prf, key: Buffer, seed: Buffer, length: int) -> bytes:
    """``length`` octets of prf+(key, seed) = T1 | T2 | ... with Tn = prf(K, Tn-1 | S | n).

    ValueError beyond 255 blocks, where RFC 7296 section 2.13 ends it.
    """
    if length < 0 or length > 255 * prf.output_octets:
        raise ValueError(f"prf+ gives at most {255 * prf.output_octets} octets, {length} were asked")
    stream = bytearray()
    block = b""
    counter = 1
    while len(stream) < length:
        block = prf.compute(key, block, seed, bytes((counter,)))
        stream += block
        counter += 1
    return bytes(stream[:length])


_REGISTRY: dict[PrfId, Prf] = {}


def get(prf_id: int) -> Prf:
    """The PRF of this number; UnknownAlgorithm with a clear text when there is none."""
    try:
        return _REGISTRY[PrfId(prf_id)]
    except ValueError:
        raise UnknownAlgorithm(f"PRF number {prf_id} is not implemented") from None
    except KeyError:
        raise UnknownAlgorithm(f"{PrfId(prf_id).vici_name} is not implemented") from None


def registered() -> Iterator[Prf]:
    """Every implemented PRF."""
    yield from _REGISTRY.values()


def _register(
    prf_id: PrfId,
    compute: Callable[[bytes, bytes], bytes],
    *,
    octets: int,
    weak: bool = False,
    nonce: int = 0,
) -> None:
    _REGISTRY[prf_id] = Prf(prf_id, prf_id.vici_name, octets, octets, weak, compute, nonce)


def _hmac(hash_name: str) -> Callable[[bytes, bytes], bytes]:
    hashlib.new(hash_name)  # an unknown hash fails when the registry is built, not in a session

    def compute(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, hash_name)

    return compute


def _aes(
    mac: Callable[[bytes], PaddedMac], shorten: Callable[[bytes], bytes]
) -> Callable[[bytes, bytes], bytes]:
    return lambda key, data: mac(key if len(key) == 16 else shorten(key)).compute(data)


def _xcbc_key(key: bytes) -> bytes:
    """RFC 4434 section 2: a shorter key is filled with zeros, a longer one is hashed with a zero key."""
    return key.ljust(16, b"\0") if len(key) < 16 else aes_xcbc(bytes(16)).compute(key)


def _cmac_key(key: bytes) -> bytes:
    """RFC 4615 section 3: a key of any other length is hashed with a zero key."""
    return aes_cmac(bytes(16)).compute(key)


_register(PrfId.HMAC_SHA2_256, _hmac("sha256"), octets=32)
_register(PrfId.HMAC_SHA2_384, _hmac("sha384"), octets=48)
_register(PrfId.HMAC_SHA2_512, _hmac("sha512"), octets=64)
_register(PrfId.HMAC_SHA1, _hmac("sha1"), octets=20)
_register(PrfId.AES128_XCBC, _aes(aes_xcbc, _xcbc_key), octets=16, nonce=8)
_register(PrfId.AES128_CMAC, _aes(aes_cmac, _cmac_key), octets=16, nonce=8)
if has_hash("md5"):
    _register(PrfId.HMAC_MD5, _hmac("md5"), octets=16, weak=True)
