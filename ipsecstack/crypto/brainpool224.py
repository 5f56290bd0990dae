"""The curve brainpoolP224r1 (RFC 5639 section 3.3), which OpenSSL's interface in cryptography leaves out.

Group 27 of IKEv2 (RFC 6932). Python's integers take no constant time: whoever can measure this process finely may learn
about a secret of one exchange. The curve is here for peers that have nothing else.
"""

from __future__ import annotations

OCTETS = 28
P = 0xD7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF
A = 0x68A5E62CA9CE6C1C299803A6C1530B514E182AD8B0042A59CAD29F43
B = 0x2580F63CCFE44138870713B1A92369E33E2135D266DBB372386C400B
ORDER = 0xD7C134AA264366862A18302575D0FB98D116BC4B6DDEBCA3A5A7939F
BASE = (
    0x0D9029AD2C7E5CF4340823B2A87DC68C9E4CE3174C1E6EFDEE12C07D,
    0x58AA56F772C0726F24C6B89E4ECDAC24354B9E99CAA3F6D3761402CD,
)

Point = tuple[int, int]
_Jacobian = tuple[int, int, int]  # x = X / Z^2, y = Y / Z^3; Z = 0 is the point at infinity


def on_curve(point: Point) -> bool:
    """Whether affine coordinates are in range and satisfy y^2 = x^3 + A x + B. The cofactor is 1."""
    x, y = point
    return 0 <= x < P and 0 <= y < P and (y * y - (x * x * x + A * x + B)) % P == 0


def multiply(scalar: int, point: Point) -> Point:
    """scalar * point, for 0 < scalar < ORDER and a point on the curve (so never the point at infinity).

    A Montgomery ladder: the same steps for every bit, whatever it is.
    """
    low: _Jacobian = (0, 1, 0)
    high: _Jacobian = (*point, 1)
    for position in range(ORDER.bit_length() - 1, -1, -1):
        if scalar >> position & 1:
            low, high = _add(low, high), _double(high)
        else:
            low, high = _double(low), _add(low, high)
    x, y, z = low
    inverse = pow(z, -1, P)
    return x * inverse**2 % P, y * inverse**3 % P


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    square = y * y % P
    s = 4 * x * square % P
    m = (3 * x * x + A * pow(z, 4, P)) % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * square * square) % P, 2 * y * z % P


def _add(one: _Jacobian, other: _Jacobian) -> _Jacobian:
    """The sum of two points of a ladder, which differ by its base point: they are never equal unless both infinite."""
    x1, y1, z1 = one
    x2, y2, z2 = other
    if not z1:
        return other
    if not z2:
        return one
    z1z1, z2z2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * z2z2 % P, x2 * z1z1 % P
    s1, s2 = y1 * z2 * z2z2 % P, y2 * z1 * z1z1 % P
    h, r = (u2 - u1) % P, (s2 - s1) % P
    if not h:
        return (0, 1, 0) if r else _double(one)
    hh = h * h % P
    hhh, v = h * hh % P, u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, z1 * z2 * h % P
