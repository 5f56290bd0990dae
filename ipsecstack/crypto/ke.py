"""Registry of key exchange methods (transform type 4): X25519, ECP-256/384/521, MODP-2048/3072/4096.

Public values and shared secrets are in the octet forms that IKEv2's KE payload and SKEYSEED use:
RFC 8031 (X25519), RFC 5903 (ECP: x || y, and x alone as the secret), RFC 7296 section 2.14 (MODP: padded to
the length of the prime). Peers' values are checked as RFC 6989 and RFC 7748 section 6.1 ask.

The pattern suits a key encapsulation as well: ``generate`` makes the initiator's half, ``respond`` answers
a received one with a public value of possibly another length (``response_octets``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecstack.crypto import modp
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.wire.transforms import KeId

Random = Callable[[int], bytes]


class KeyExchange(Protocol):
    """One side's ephemeral secret, waiting for the other side's public value."""

    @property
    def public(self) -> bytes:
        """What goes into the KE payload."""
        ...

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret g^ir; KeError when the peer's value is not acceptable."""
        ...


@dataclass(frozen=True, slots=True)
class Ke:
    """A key exchange method; lengths in octets."""

    id: KeId
    name: str
    public_octets: int
    """Length of the initiator's public value (of both, in a Diffie-Hellman group)."""
    response_octets: int
    """Length of the responder's public value."""
    shared_octets: int
    weak: bool
    _generate: Callable[[Random], KeyExchange] = field(repr=False, compare=False)
    _respond: Callable[[bytes, Random], tuple[bytes, bytes]] | None = field(
        default=None, repr=False, compare=False
    )

    def generate(self, random: Random) -> KeyExchange:
        """A fresh secret, drawn from ``random(octets)``."""
        return self._generate(random)

    def respond(self, peer_public: bytes, random: Random) -> tuple[bytes, bytes]:
        """(public value to answer with, shared secret); KeError when the peer's value is not acceptable."""
        if self._respond is not None:
            return self._respond(peer_public, random)
        own = self._generate(random)
        return own.public, own.shared(peer_public)


class _X25519:
    """X25519 (RFC 7748). OpenSSL refuses an all-zero secret, which is the check of section 6.1."""

    __slots__ = ("_private", "public")

    def __init__(self, random: Random) -> None:
        self._private = x25519.X25519PrivateKey.from_private_bytes(random(32))
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, 32, "CURVE_25519")
        try:
            return self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise KeError("CURVE_25519 public value gives an all-zero secret") from None


# Orders of the NIST prime curves (FIPS 186-4 appendix D.1.2), bounds of the private scalar.
_CURVE_ORDER = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "secp521r1": ((1 << 265) - 6 << 256) | 0x51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
}


class _Ecp:
    """A NIST prime curve (RFC 5903): public is x || y, the secret is the x coordinate of the common point."""

    __slots__ = ("_curve", "_name", "_octets", "_private", "public")

    def __init__(self, curve: ec.EllipticCurve, name: str, random: Random) -> None:
        self._curve = curve
        self._name = name
        self._octets = (curve.key_size + 7) // 8
        # Eight octets more than the order has make the bias of the reduction negligible (FIPS 186-4 B.4.1).
        order = _CURVE_ORDER[curve.name]
        scalar = int.from_bytes(random(self._octets + 8), "big") % (order - 1) + 1
        self._private = ec.derive_private_key(scalar, curve)
        numbers = self._private.public_key().public_numbers()
        self.public = numbers.x.to_bytes(self._octets, "big") + numbers.y.to_bytes(self._octets, "big")

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, 2 * self._octets, self._name)
        x = int.from_bytes(peer_public[: self._octets], "big")
        y = int.from_bytes(peer_public[self._octets :], "big")
        try:
            peer = ec.EllipticCurvePublicNumbers(x, y, self._curve).public_key()
        except ValueError:
            raise KeError(f"{self._name} public value is not a point on the curve") from None
        return self._private.exchange(ec.ECDH(), peer)


class _Modp:
    """A MODP group (RFC 3526). The exponent is short, twice the strength that the group is given there."""

    __slots__ = ("_bits", "_exponent", "_name", "public")

    def __init__(self, bits: int, exponent_octets: int, name: str, random: Random) -> None:
        self._name = name
        self._bits = bits
        # The top bit set gives the exponent its full length, whatever the random octets are.
        self._exponent = int.from_bytes(random(exponent_octets), "big") | 1 << (8 * exponent_octets - 1)
        self.public = modp.power(modp.GENERATOR, self._exponent, bits)

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, self._bits // 8, self._name)
        value = int.from_bytes(peer_public, "big")
        if not 1 < value < modp.prime(self._bits) - 1:
            raise KeError(f"{self._name} public value is 0, 1, p-1 or beyond the prime")
        return modp.power(value, self._exponent, self._bits)


def _check_length(public: bytes, octets: int, name: str) -> None:
    if len(public) != octets:
        raise KeError(f"{name} public value has {len(public)} octets, not {octets}")


_REGISTRY: dict[KeId, Ke] = {}


def get(ke_id: int) -> Ke:
    """The key exchange method of this number; UnknownAlgorithm with a clear text when there is none."""
    try:
        return _REGISTRY[KeId(ke_id)]
    except ValueError:
        raise UnknownAlgorithm(f"key exchange method number {ke_id} is not implemented") from None
    except KeyError:
        raise UnknownAlgorithm(f"key exchange method {KeId(ke_id).vici_name} is not implemented") from None


def registered() -> Iterator[Ke]:
    """Every implemented key exchange method."""
    yield from _REGISTRY.values()


def _register(
    ke_id: KeId, generate: Callable[[Random], KeyExchange], *, public: int, shared: int, weak: bool = False
) -> None:
    _REGISTRY[ke_id] = Ke(ke_id, ke_id.vici_name, public, public, shared, weak, generate)


def _ecp(curve: ec.EllipticCurve, ke_id: KeId) -> Callable[[Random], KeyExchange]:
    return lambda random: _Ecp(curve, ke_id.vici_name, random)


def _modp(bits: int, exponent_octets: int, ke_id: KeId) -> Callable[[Random], KeyExchange]:
    return lambda random: _Modp(bits, exponent_octets, ke_id.vici_name, random)


_register(KeId.CURVE_25519, _X25519, public=32, shared=32)
_register(KeId.ECP_256, _ecp(ec.SECP256R1(), KeId.ECP_256), public=64, shared=32)
_register(KeId.ECP_384, _ecp(ec.SECP384R1(), KeId.ECP_384), public=96, shared=48)
_register(KeId.ECP_521, _ecp(ec.SECP521R1(), KeId.ECP_521), public=132, shared=66)
_register(KeId.MODP_2048, _modp(2048, 40, KeId.MODP_2048), public=256, shared=256)
_register(KeId.MODP_3072, _modp(3072, 53, KeId.MODP_3072), public=384, shared=384)
_register(KeId.MODP_4096, _modp(4096, 60, KeId.MODP_4096), public=512, shared=512)
