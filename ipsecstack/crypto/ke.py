"""Registry of key exchange methods (transform type 4): elliptic curves, MODP groups and ML-KEM.

Public values and shared secrets are in the octet forms that IKEv2's KE payload and SKEYSEED use: RFC 8031 (Curve25519,
Curve448), RFC 5903 and RFC 6932 (ECP: x || y, and x alone as the secret), RFC 7296 section 2.14 (MODP: padded to the
length of the prime), draft-ietf-ipsecme-ikev2-mlkem (ML-KEM: encapsulation key and ciphertext of FIPS 203). Peers'
values are checked as RFC 6989, RFC 7748 section 6 and FIPS 203 section 7 ask. What is weak follows RFC 8247.

One pattern serves Diffie-Hellman and key encapsulation: ``generate`` makes the initiator's half, ``respond`` answers a
received one with a public value of possibly another length (``response_octets``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:
    from cryptography.hazmat.primitives.asymmetric import mlkem
except ImportError:  # pragma: no cover - with an older cryptography ``ml_kem`` does all of it
    mlkem = None  # type: ignore[assignment]

from ipsecstack.crypto import brainpool224, ml_kem, modp
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


class _X448:
    """X448 (RFC 7748)."""

    __slots__ = ("_private", "public")

    def __init__(self, random: Random) -> None:
        self._private = x448.X448PrivateKey.from_private_bytes(random(56))
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, 56, "CURVE_448")
        try:
            return self._private.exchange(x448.X448PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise KeError("CURVE_448 public value gives an all-zero secret") from None


# Orders of the curves (FIPS 186-4 appendix D.1.2, RFC 5639 section 3), bounds of the private scalar.
_CURVE_ORDER = {
    "secp192r1": 0xFFFFFFFFFFFFFFFFFFFFFFFF99DEF836146BC9B1B4D22831,
    "secp224r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    "brainpoolP256r1": 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    "brainpoolP384r1": int(
        "8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B31F166E6CAC0425A7CF3AB6AF6B7FC3103B883202E9046565", 16
    ),
    "brainpoolP512r1": int(
        "AADD9DB8DBE9C48B3FD4E6AE33C9FC07CB308DB3B3C9D20ED6639CCA70330870"
        "553E5C414CA92619418661197FAC10471DB1D381085DDADDB58796829CA90069",
        16,
    ),
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "secp521r1": ((1 << 265) - 6 << 256) | 0x51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
}


class _Ecp:
    """A NIST prime curve (RFC 5903) or a Brainpool curve (RFC 6932): public is x || y, the secret is the x coordinate
    of the common point."""

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


class _Brainpool224:
    """brainpoolP224r1 (RFC 6932), by the project's own arithmetic."""

    __slots__ = ("_scalar", "public")

    def __init__(self, random: Random) -> None:
        scalar = int.from_bytes(random(brainpool224.OCTETS + 8), "big")
        self._scalar = scalar % (brainpool224.ORDER - 1) + 1
        x, y = brainpool224.multiply(self._scalar, brainpool224.BASE)
        self.public = x.to_bytes(brainpool224.OCTETS, "big") + y.to_bytes(brainpool224.OCTETS, "big")

    def shared(self, peer_public: bytes) -> bytes:
        octets = brainpool224.OCTETS
        _check_length(peer_public, 2 * octets, "ECP_224_BP")
        point = (int.from_bytes(peer_public[:octets], "big"), int.from_bytes(peer_public[octets:], "big"))
        if not brainpool224.on_curve(point):
            raise KeError("ECP_224_BP public value is not a point on the curve")
        return brainpool224.multiply(self._scalar, point)[0].to_bytes(octets, "big")


class _Modp:
    """A MODP group. With a safe prime (RFC 3526) the exponent is short, twice the strength that the group is given
    there; with a small subgroup (RFC 5114) it is one of the subgroup's."""

    __slots__ = ("_exponent", "_group", "_name", "public")

    def __init__(self, group: modp.Group, exponent_octets: int, name: str, random: Random) -> None:
        self._name = name
        self._group = group
        if group.order:
            drawn = int.from_bytes(random((group.order.bit_length() + 7) // 8 + 8), "big")
            self._exponent = drawn % (group.order - 1) + 1
        else:
            # The top bit set gives the exponent its full length, whatever the random octets are.
            self._exponent = int.from_bytes(random(exponent_octets), "big") | 1 << (8 * exponent_octets - 1)
        self.public = modp.power(group.generator, self._exponent, group)

    def shared(self, peer_public: bytes) -> bytes:
        group = self._group
        _check_length(peer_public, group.octets, self._name)
        value = int.from_bytes(peer_public, "big")
        if not 1 < value < group.prime - 1:
            raise KeError(f"{self._name} public value is 0, 1, p-1 or beyond the prime")
        # RFC 6989 section 2.2; of a safe prime's group every other value is as good as any (section 2.1).
        if group.order and pow(value, group.order, group.prime) != 1:
            raise KeError(f"{self._name} public value is not in the subgroup")
        return modp.power(value, self._exponent, group)


class _MlKem:
    """ML-KEM: the initiator's half is a key pair of a drawn seed, what comes back is a ciphertext.

    OpenSSL has it where ``cryptography`` has a class for the parameter set, else ``ml_kem``. Encapsulation with OpenSSL
    draws its own random octets: there is no other way to ask it.
    """

    __slots__ = ("_own", "_private", "public")

    def __init__(self, own: ml_kem.Parameters, random: Random) -> None:
        seed = random(ml_kem.SEED_OCTETS)
        classes = _ml_kem_classes(own)
        self._own = own
        self._private: Any
        if classes is None:
            self._private = ml_kem.PrivateKey(seed, own)
            self.public: bytes = self._private.public
        else:
            self._private = classes[0].from_seed_bytes(seed)
            self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        _check_length(peer_public, self._own.ciphertext_octets, self._own.name)
        secret: bytes = self._private.decapsulate(peer_public)
        return secret


def _ml_kem_classes(own: ml_kem.Parameters) -> tuple[Any, Any] | None:
    """Private and public key class of ``cryptography``, None where it has none."""
    if mlkem is None or own is ml_kem.ML_KEM_512:
        return None
    if own is ml_kem.ML_KEM_768:
        return mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey
    return mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey


def _encapsulate(own: ml_kem.Parameters, peer_public: bytes, random: Random) -> tuple[bytes, bytes]:
    _check_length(peer_public, own.public_octets, own.name)
    classes = _ml_kem_classes(own)
    try:
        if classes is None:
            return ml_kem.encapsulate(peer_public, random(32), own)
        secret, ciphertext = classes[1].from_public_bytes(peer_public).encapsulate()
    except ValueError:
        raise KeError(f"{own.name} public value has a coefficient beyond the modulus") from None
    return ciphertext, secret


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


def _register_ecp(ke_id: KeId, curve: ec.EllipticCurve, *, weak: bool = False) -> None:
    """A curve, if this OpenSSL has it: a build may leave the rarer ones out."""
    try:
        ec.derive_private_key(1, curve)
    except UnsupportedAlgorithm:
        return
    octets = (curve.key_size + 7) // 8
    _register(
        ke_id,
        lambda random: _Ecp(curve, ke_id.vici_name, random),
        public=2 * octets,
        shared=octets,
        weak=weak,
    )


def _register_modp(ke_id: KeId, bits: int, exponent_octets: int, *, weak: bool = False) -> None:
    def generate(random: Random) -> KeyExchange:
        # The prime is computed when it is first needed.
        return _Modp(modp.group(bits), exponent_octets, ke_id.vici_name, random)

    _register(ke_id, generate, public=bits // 8, shared=bits // 8, weak=weak)


def _register_subgroup(ke_id: KeId, group: modp.Group) -> None:
    def generate(random: Random) -> KeyExchange:
        return _Modp(group, 0, ke_id.vici_name, random)

    _register(ke_id, generate, public=group.octets, shared=group.octets, weak=True)


def _register_ml_kem(ke_id: KeId, own: ml_kem.Parameters) -> None:
    _REGISTRY[ke_id] = Ke(
        ke_id,
        ke_id.vici_name,
        own.public_octets,
        own.ciphertext_octets,
        ml_kem.SECRET_OCTETS,
        False,
        lambda random: _MlKem(own, random),
        lambda peer_public, random: _encapsulate(own, peer_public, random),
    )


_register(KeId.CURVE_25519, _X25519, public=32, shared=32)
_register(KeId.CURVE_448, _X448, public=56, shared=56)
_register_ecp(KeId.ECP_256, ec.SECP256R1())
_register_ecp(KeId.ECP_384, ec.SECP384R1())
_register_ecp(KeId.ECP_521, ec.SECP521R1())
_register_ecp(KeId.ECP_224, ec.SECP224R1())
_register_ecp(KeId.ECP_192, ec.SECP192R1(), weak=True)
_register_ecp(KeId.ECP_256_BP, ec.BrainpoolP256R1())
_register_ecp(KeId.ECP_384_BP, ec.BrainpoolP384R1())
_register_ecp(KeId.ECP_512_BP, ec.BrainpoolP512R1())
_register(KeId.ECP_224_BP, _Brainpool224, public=2 * brainpool224.OCTETS, shared=brainpool224.OCTETS)
_register_modp(KeId.MODP_2048, 2048, 40)
_register_modp(KeId.MODP_3072, 3072, 53)
_register_modp(KeId.MODP_4096, 4096, 60)
_register_modp(KeId.MODP_6144, 6144, 68)
_register_modp(KeId.MODP_8192, 8192, 78)
_register_modp(KeId.MODP_1536, 1536, 32, weak=True)
_register_modp(KeId.MODP_1024, 1024, 32, weak=True)
_register_modp(KeId.MODP_768, 768, 32, weak=True)
_register_subgroup(KeId.MODP_1024_160, modp.MODP_1024_160)
_register_subgroup(KeId.MODP_2048_224, modp.MODP_2048_224)
_register_subgroup(KeId.MODP_2048_256, modp.MODP_2048_256)
_register_ml_kem(KeId.ML_KEM_512, ml_kem.ML_KEM_512)
_register_ml_kem(KeId.ML_KEM_768, ml_kem.ML_KEM_768)
_register_ml_kem(KeId.ML_KEM_1024, ml_kem.ML_KEM_1024)
