"""The MODP groups of RFC 3526 (2048 bits and up) and RFC 7296 Appendix B, from their defining formula.

Each prime is 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + c) with its own small c, and 2 generates
the subgroup of order (p - 1) / 2. Computing them keeps pages of digits, and their typing errors, out.
"""

from __future__ import annotations

import warnings
from functools import cache

from cryptography.hazmat.primitives.asymmetric import dh
from cryptography.utils import CryptographyDeprecationWarning

GENERATOR = 2

# Bits of the prime -> c of the formula (RFC 3526 sections 2 to 7).
_CONSTANT = {1536: 741804, 2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}


def _arctan_inverse(x: int, unity: int) -> int:
    """unity * arctan(1 / x), truncated term by term."""
    power = unity // x
    total = power
    square = x * x
    n, sign = 3, -1
    while power:
        power //= square
        total += sign * (power // n)
        n, sign = n + 2, -sign
    return total


def _pi_scaled(bits: int) -> int:
    """floor(2^bits * pi) by Machin's formula, with guard bits against the truncated terms."""
    guard = 64
    unity = 1 << (bits + guard)
    return (4 * (4 * _arctan_inverse(5, unity) - _arctan_inverse(239, unity))) >> guard


@cache
def prime(bits: int) -> int:
    """The prime of the MODP group with this many bits; KeyError where RFC 3526 has none."""
    constant = _CONSTANT[bits]
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_pi_scaled(bits - 130) + constant) << 64)


def power(base: int, exponent: int, bits: int) -> bytes:
    """base^exponent mod p of the group with ``bits`` bits, padded to the length of p; 1 < base < p - 1.

    OpenSSL does it, because the exponent is secret: Python's pow is slower and its time tells about the
    exponent. cryptography offers no exponentiation of its own, but "exchange" with the base as the peer's
    value is one, and the public number of the exponent's side is not used for it.
    """
    with warnings.catch_warnings():
        # cryptography calls the groups deprecated; they are here because IKE peers still ask for them.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        group = dh.DHParameterNumbers(prime(bits), GENERATOR)
        private = dh.DHPrivateNumbers(exponent, dh.DHPublicNumbers(GENERATOR, group)).private_key()
        result = private.exchange(dh.DHPublicNumbers(base, group).public_key())
    return result.rjust(bits // 8, b"\0")
