"""MSCHAPv2's functions (RFC 2759 §8) and the keys that follow from them (RFC 3079 §3)."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from ipsecstack.crypto.md4 import md4

_SIGN_SERVER_TO_CLIENT = b"Magic server to client signing constant"
_PAD_TO_MORE = b"Pad to make it do more than one iteration"
_MASTER_KEY = b"This is the MPPE Master Key"
_CLIENT_SENDS = b"On the client side, this is the send key; on the server side, it is the receive key."
_CLIENT_RECEIVES = b"On the client side, this is the receive key; on the server side, it is the send key."
_PAD_ONE = bytes(40)
_PAD_TWO = b"\xf2" * 40


def nt_password_hash(password: str) -> bytes:
    """MD4 of the password in UTF-16LE (§8.3), 16 octets."""
    return md4(password.encode("utf-16-le"))


def challenge_hash(peer_challenge: bytes, authenticator_challenge: bytes, user: bytes) -> bytes:
    """8 octets that both challenges and the user's name give (§8.2); ``user`` is without a domain."""
    return hashlib.sha1(peer_challenge + authenticator_challenge + user, usedforsecurity=False).digest()[:8]


def nt_response(
    authenticator_challenge: bytes, peer_challenge: bytes, user: bytes, password_hash: bytes
) -> bytes:
    """The peer's 24 octets (§8.1): the challenge hash under three DES keys of the password hash."""
    challenge = challenge_hash(peer_challenge, authenticator_challenge, user)
    padded = password_hash + bytes(5)
    return b"".join(_des(padded[i : i + 7], challenge) for i in (0, 7, 14))


def authenticator_response(
    password_hash: bytes,
    response: bytes,
    peer_challenge: bytes,
    authenticator_challenge: bytes,
    user: bytes,
) -> bytes:
    """The authenticator's proof that it knows the password as well (§8.7), 20 octets."""
    inner = hashlib.sha1(md4(password_hash) + response + _SIGN_SERVER_TO_CLIENT, usedforsecurity=False)
    challenge = challenge_hash(peer_challenge, authenticator_challenge, user)
    return hashlib.sha1(inner.digest() + challenge + _PAD_TO_MORE, usedforsecurity=False).digest()


def master_key(password_hash: bytes, response: bytes) -> bytes:
    """The MPPE master key (RFC 3079 §3.4), 16 octets."""
    data = md4(password_hash) + response + _MASTER_KEY
    return hashlib.sha1(data, usedforsecurity=False).digest()[:16]


def asymmetric_start_key(master: bytes, *, server_sends: bool) -> bytes:
    """The 16 octets of one direction (RFC 3079 §3.4)."""
    magic = _CLIENT_RECEIVES if server_sends else _CLIENT_SENDS
    data = master + _PAD_ONE + magic + _PAD_TWO
    return hashlib.sha1(data, usedforsecurity=False).digest()[:16]


def msk(password_hash: bytes, response: bytes) -> bytes:
    """EAP-MSCHAPv2's MSK, 64 octets: what the server receives with, what it sends with, zeros."""
    master = master_key(password_hash, response)
    receives = asymmetric_start_key(master, server_sends=False)
    sends = asymmetric_start_key(master, server_sends=True)
    return receives + sends + bytes(32)


def _des(key: bytes, block: bytes) -> bytes:
    """One DES block; 7 octets of key get their parity bits (§8.6). OpenSSL has DES as Triple DES of one key."""
    bits = int.from_bytes(key, "big")
    spread = bytes((bits >> (49 - 7 * i) & 0x7F) << 1 for i in range(8))
    encryptor = Cipher(TripleDES(spread * 3), modes.ECB()).encryptor()  # noqa: S305 - as RFC 2759 has it
    return encryptor.update(block) + encryptor.finalize()
