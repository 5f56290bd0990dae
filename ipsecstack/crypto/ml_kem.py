"""ML-KEM (FIPS 203) by its definition, for the parameter set that OpenSSL's interface in cryptography leaves out.

``cryptography`` has ML-KEM-768 and ML-KEM-1024, and ``ke`` uses it for them; ML-KEM-512 is computed here. All three are
defined, so that tests can hold this module against the other. Python's integers take no constant time: whoever can
measure this process finely may learn about a secret of one exchange.

A seed d | z (64 octets) makes a key pair; nothing here draws random octets.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha3_256, sha3_512, shake_128, shake_256
from hmac import compare_digest

Q = 3329
N = 256
SECRET_OCTETS = 32
SEED_OCTETS = 64

Polynomial = list[int]


@dataclass(frozen=True, slots=True)
class Parameters:
    """A parameter set (FIPS 203 section 8): rank, widths of the noise, bits that are kept of the ciphertext."""

    name: str
    k: int
    eta1: int
    du: int
    dv: int

    @property
    def public_octets(self) -> int:
        return 384 * self.k + 32

    @property
    def ciphertext_octets(self) -> int:
        return 32 * (self.du * self.k + self.dv)


ML_KEM_512 = Parameters("ML_KEM_512", 2, 3, 10, 4)
ML_KEM_768 = Parameters("ML_KEM_768", 3, 2, 10, 4)
ML_KEM_1024 = Parameters("ML_KEM_1024", 4, 2, 11, 5)
_ETA2 = 2


def _reversed_bits(value: int) -> int:
    return int(f"{value:07b}"[::-1], 2)


_ZETAS = [pow(17, _reversed_bits(i), Q) for i in range(128)]
_GAMMAS = [pow(17, 2 * _reversed_bits(i) + 1, Q) for i in range(128)]


class PrivateKey:
    """A decapsulation key made of its seed (FIPS 203 algorithms 13 and 16)."""

    __slots__ = ("_hash", "_parameters", "_secret", "_z", "public")

    def __init__(self, seed: bytes, parameters: Parameters) -> None:
        if len(seed) != SEED_OCTETS:
            raise ValueError(f"{parameters.name} takes a seed of {SEED_OCTETS} octets")
        k = parameters.k
        hashed = sha3_512(seed[:32] + bytes((k,))).digest()
        rho, sigma = hashed[:32], hashed[32:]
        matrix = _matrix(rho, k)
        secret = [_ntt(_noise(sigma, i, parameters.eta1)) for i in range(k)]
        error = [_ntt(_noise(sigma, k + i, parameters.eta1)) for i in range(k)]
        rows = [_add(_inner(matrix[i], secret), error[i]) for i in range(k)]
        self._parameters = parameters
        self._secret = secret
        self._z = seed[32:]
        self.public = b"".join(_encode(row, 12) for row in rows) + rho
        self._hash = sha3_256(self.public).digest()

    def __repr__(self) -> str:
        return f"<PrivateKey {self._parameters.name}>"

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret of 32 octets; of a ciphertext that was tampered with, a secret that nobody shares
        (algorithm 18: implicit rejection). ValueError for another length than ``ciphertext_octets``."""
        own = self._parameters
        if len(ciphertext) != own.ciphertext_octets:
            raise ValueError(
                f"{own.name} ciphertext has {len(ciphertext)} octets, not {own.ciphertext_octets}"
            )
        size = 32 * own.du
        u = [
            _decompress(_decode(ciphertext[i * size : (i + 1) * size], own.du), own.du) for i in range(own.k)
        ]
        v = _decompress(_decode(ciphertext[own.k * size :], own.dv), own.dv)
        noisy = _subtract(v, _inverse_ntt(_inner(self._secret, [_ntt(part) for part in u])))
        message = _encode(_compress(noisy, 1), 1)
        hashed = sha3_512(message + self._hash).digest()
        rejected = shake_256(self._z + ciphertext).digest(SECRET_OCTETS)
        again = _encrypt(self.public, message, hashed[32:], own)
        return hashed[:32] if compare_digest(again, ciphertext) else rejected


def encapsulate(public: bytes, message: bytes, parameters: Parameters) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) for a peer's public key, of a random ``message`` of 32 octets (algorithms 17 and 20).

    ValueError when the key has another length, or a coefficient in it is not reduced (section 7.2).
    """
    if len(public) != parameters.public_octets:
        raise ValueError(
            f"{parameters.name} public value has {len(public)} octets, not {parameters.public_octets}"
        )
    if len(message) != 32:
        raise ValueError("ML-KEM encapsulates 32 octets")
    for i in range(parameters.k):
        if max(_decode(public[384 * i : 384 * (i + 1)], 12)) >= Q:
            raise ValueError(f"{parameters.name} public value has a coefficient beyond the modulus")
    hashed = sha3_512(message + sha3_256(public).digest()).digest()
    return _encrypt(public, message, hashed[32:], parameters), hashed[:32]


def _encrypt(public: bytes, message: bytes, randomness: bytes, own: Parameters) -> bytes:
    """K-PKE.Encrypt (algorithm 14)."""
    k = own.k
    rows = [_decode(public[384 * i : 384 * (i + 1)], 12) for i in range(k)]
    matrix = _matrix(public[384 * k :], k)
    y = [_ntt(_noise(randomness, i, own.eta1)) for i in range(k)]
    encoded = []
    for i in range(k):
        column = [matrix[j][i] for j in range(k)]
        u = _add(_inverse_ntt(_inner(column, y)), _noise(randomness, k + i, _ETA2))
        encoded.append(_encode(_compress(u, own.du), own.du))
    v = _add(_inverse_ntt(_inner(rows, y)), _noise(randomness, 2 * k, _ETA2))
    v = _add(v, _decompress(_decode(message, 1), 1))
    return b"".join(encoded) + _encode(_compress(v, own.dv), own.dv)


def _matrix(rho: bytes, k: int) -> list[list[Polynomial]]:
    return [[_uniform(rho + bytes((j, i))) for j in range(k)] for i in range(k)]


def _uniform(seed: bytes) -> Polynomial:
    """SampleNTT (algorithm 7). 280 groups of 3 octets hold 256 accepted values but for a chance below 2^-38."""
    groups = 280
    while True:
        stream = shake_128(seed).digest(3 * groups)
        found: Polynomial = []
        for at in range(0, len(stream), 3):
            a, b, c = stream[at : at + 3]
            first, second = a | (b & 15) << 8, b >> 4 | c << 4
            if first < Q:
                found.append(first)
            if second < Q:
                found.append(second)
        if len(found) >= N:
            return found[:N]
        groups *= 2


def _noise(seed: bytes, nonce: int, eta: int) -> Polynomial:
    """SamplePolyCBD of PRF_eta (algorithm 8)."""
    bits = int.from_bytes(shake_256(seed + bytes((nonce,))).digest(64 * eta), "little")
    mask = (1 << eta) - 1
    found = []
    for i in range(N):
        pair = bits >> 2 * eta * i
        found.append(((pair & mask).bit_count() - (pair >> eta & mask).bit_count()) % Q)
    return found


def _ntt(values: Polynomial) -> Polynomial:
    """Algorithm 9."""
    f, i, length = list(values), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta = _ZETAS[i]
            i += 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length] = (f[j] - t) % Q
                f[j] = (f[j] + t) % Q
        length //= 2
    return f


def _inverse_ntt(values: Polynomial) -> Polynomial:
    """Algorithm 10; 3303 is 128^-1 modulo Q."""
    f, i, length = list(values), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta = _ZETAS[i]
            i -= 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = zeta * (f[j + length] - t) % Q
        length *= 2
    return [value * 3303 % Q for value in f]


def _inner(one: list[Polynomial], other: list[Polynomial]) -> Polynomial:
    """The sum of products of two vectors in the NTT domain (algorithms 11 and 12)."""
    total = [0] * N
    for f, g in zip(one, other, strict=True):
        for i in range(128):
            a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
            total[2 * i] += a0 * b0 + a1 * b1 % Q * _GAMMAS[i]
            total[2 * i + 1] += a0 * b1 + a1 * b0
    return [value % Q for value in total]


def _add(one: Polynomial, other: Polynomial) -> Polynomial:
    return [(a + b) % Q for a, b in zip(one, other, strict=True)]


def _subtract(one: Polynomial, other: Polynomial) -> Polynomial:
    return [(a - b) % Q for a, b in zip(one, other, strict=True)]


def _compress(values: Polynomial, bits: int) -> Polynomial:
    """round(2^bits / Q * x) modulo 2^bits (section 4.2.1)."""
    mask = (1 << bits) - 1
    return [((value << bits + 1) + Q) // (2 * Q) & mask for value in values]


def _decompress(values: Polynomial, bits: int) -> Polynomial:
    """round(Q / 2^bits * x)."""
    half = 1 << bits - 1
    return [value * Q + half >> bits for value in values]


def _encode(values: Polynomial, bits: int) -> bytes:
    """ByteEncode (algorithm 5): the values' bits, least significant first."""
    total = 0
    for i, value in enumerate(values):
        total |= value << bits * i
    return total.to_bytes(32 * bits, "little")


def _decode(data: bytes, bits: int) -> Polynomial:
    """ByteDecode (algorithm 6) without reduction modulo Q."""
    total, mask = int.from_bytes(data, "little"), (1 << bits) - 1
    return [total >> bits * i & mask for i in range(N)]
