"""USM's keys, digests and ciphers (RFC 3414 sections 2.6, 5 to 8, RFC 3826, RFC 7860), without any state.

A LocalUser has the keys of one user for one engine, whichever that is: the functions serve requests to this
engine, its notifications, and informs to others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CBC

from agent.config import User
from agent.engine.communities import Networks

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # cryptography before it moved CFB
    from cryptography.hazmat.primitives.ciphers.modes import CFB

AUTH = {
    "MD5": ("md5", 12),
    "SHA-1": ("sha1", 12),
    "SHA-224": ("sha224", 16),
    "SHA-256": ("sha256", 24),
    "SHA-384": ("sha384", 32),
    "SHA-512": ("sha512", 48),
}
"""RFC 3414 sections 6 and 7, RFC 7860: hash, octets of msgAuthenticationParameters."""
PRIV = {"DES": 16, "AES-128": 16, "AES-192": 24, "AES-256": 32, "AES-192-C": 24, "AES-256-C": 32}
"""Key octets. DES has 8 of key and 8 of pre-IV. AES-192 and AES-256 extend short keys as Blumenthal's draft says,
those with -C as Reeder's does; the names are net-snmp's."""


class UsmError(Exception):
    """A user cannot be set up; the text names no secret."""


class UsmDecryptionError(ValueError):
    """What was encrypted, or its msgPrivacyParameters, has a length that cannot be."""


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A user with the keys localized to one engine. Keys never show in a repr."""

    name: bytes
    auth: str = ""
    priv: str = ""
    auth_key: bytes = field(default=b"", repr=False)
    priv_key: bytes = field(default=b"", repr=False)
    networks: Networks | None = None
    """Where the user may be used from, at any level; None: anywhere, but then an answer that nothing
    authenticates is never larger than its request."""

    @property
    def level(self) -> int:
        """Highest securityLevel that the user supports."""
        return 3 if self.priv else 2 if self.auth else 1


# -- keys ---------------------------------------------------------------------------------------------------


def localize(user: User, engine_id: bytes) -> LocalUser:
    """A configured user with keys for an engine. Raises UsmError. Passwords cost milliseconds each."""
    auth_key = priv_key = b""
    if user.auth_key is not None:
        name = AUTH[user.auth][0]
        secret = user.auth_key.reveal()
        auth_key = secret if user.localized else localized_key(secret, engine_id, name)
        if user.localized and len(auth_key) != auth_key_size(user.auth):
            raise UsmError(
                f"user {user.name!r}: a localized {user.auth} key has {auth_key_size(user.auth)} octets, not "
                f"{len(auth_key)}"
            )
    if user.priv_key is not None:
        name, size = AUTH[user.auth][0], PRIV[user.priv]
        secret = user.priv_key.reveal()
        priv_key = secret if user.localized else localized_key(secret, engine_id, name)
        if not user.localized:
            reeder = user.priv.endswith("-C")
            priv_key = (
                stretched(priv_key, size, engine_id, name) if reeder else extended(priv_key, size, name)
            )
        if len(priv_key) < size:
            raise UsmError(f"user {user.name!r}: a localized {user.priv} key needs {size} octets")
        priv_key = priv_key[:size]
    networks = Networks(user.networks) if user.networks else None
    return LocalUser(user.name.encode(), user.auth, user.priv, auth_key, priv_key, networks)


def localized_key(password: bytes, engine_id: bytes, name: str) -> bytes:
    """Password to key and key to localized key (RFC 3414 appendix A.2, section 2.6). `name`: hashlib's."""
    repeats = 1048576 // len(password) + 1
    master = hashlib.new(name, (password * repeats)[:1048576]).digest()
    return hashlib.new(name, master + engine_id + master).digest()


def extended(key: bytes, size: int, name: str) -> bytes:
    """A localized key made long enough (draft-blumenthal-aes-usm-04 section 3.1.2.1)."""
    while len(key) < size:
        key += hashlib.new(name, key).digest()
    return key[:size]


def stretched(key: bytes, size: int, engine_id: bytes, name: str) -> bytes:
    """A localized key made long enough (draft-reeder-snmpv3-usm-3desede-00 section 2.1)."""
    while len(key) < size:
        key += localized_key(key, engine_id, name)
    return key[:size]


def auth_key_size(auth: str) -> int:
    """Octets of a localized authentication key."""
    return hashlib.new(AUTH[auth][0]).digest_size


def key_change(auth: str, old: bytes, value: bytes) -> bytes:
    """The new key that a KeyChange value stands for (RFC 3414 section 5).

    `auth`: the user's authentication protocol, whose hash is used for either key. `value`: random component and
    delta, each as long as the key. Raises ValueError when it is not.
    """
    size = len(old)
    if not size or len(value) != 2 * size:
        raise ValueError("a KeyChange value has twice the octets of the key")
    return _mask(AUTH[auth][0], old, value[:size], value[size:])


def key_change_value(auth: str, old: bytes, new: bytes, random: bytes) -> bytes:
    """The KeyChange value that turns `old` into `new`: what a manager computes."""
    if not len(old) == len(new) == len(random):
        raise ValueError("keys and random component are equally long")
    return random + _mask(AUTH[auth][0], old, random, new)


def _mask(name: str, old: bytes, random: bytes, data: bytes) -> bytes:
    """The one-way function of KeyChange, which is its own inverse."""
    out, digest = bytearray(), old
    while len(out) < len(data):
        digest = hashlib.new(name, digest + random).digest()
        part = data[len(out) : len(out) + len(digest)]
        out += bytes(a ^ b for a, b in zip(part, digest, strict=False))
    return bytes(out)


# -- authentication -----------------------------------------------------------------------------------------


def auth_size(user: LocalUser) -> int:
    """Octets of msgAuthenticationParameters of a message that the user authenticates."""
    return AUTH[user.auth][1]


def sign(user: LocalUser, message: bytes, at: int) -> bytes:
    """The message with its digest put in at offset `at`, where there are zeros."""
    name, size = AUTH[user.auth]
    digest = hmac.digest(user.auth_key, message, name)[:size]
    return message[:at] + digest + message[at + size :]


def verify(user: LocalUser, data: bytes, at: int, digest: bytes) -> bool:
    """Whether `digest`, which stands at offset `at` of a message, is right. Compares in constant time."""
    name, size = AUTH[user.auth]
    blank = data[:at] + bytes(len(digest)) + data[at + len(digest) :]
    return hmac.compare_digest(hmac.digest(user.auth_key, blank, name)[:size], digest)


# -- privacy ------------------------------------------------------------------------------------------------


def new_salt() -> int:
    """Where the salts of a process may begin (RFC 3826 section 3.1.2.1)."""
    return secrets.randbits(64)


def encrypt(user: LocalUser, boots: int, time: int, salt: bytes, plain: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, msgPrivacyParameters). `salt`: eight octets, never the same twice.

    `boots` and `time` are those of the authoritative engine. DES uses the last four octets of the salt after the
    boots (RFC 3414 section 8.1.1.1) and pads with zeros.
    """
    if user.priv == "DES":
        salt = struct.pack(">I", boots) + salt[4:]
        sealer = _des(user, salt).encryptor()
        plain += bytes(-len(plain) % 8)
    else:
        sealer = _aes(user, boots, time, salt).encryptor()
    return sealer.update(plain) + sealer.finalize(), salt


def decrypt(user: LocalUser, boots: int, time: int, parameters: bytes, data: bytes) -> bytes:
    """The plaintext; of DES with its padding. Raises UsmDecryptionError."""
    if len(parameters) != 8:
        raise UsmDecryptionError("msgPrivacyParameters has eight octets")
    if user.priv == "DES":
        if not data or len(data) % 8:
            raise UsmDecryptionError("DES-CBC is made of blocks of eight octets")
        opener = _des(user, parameters).decryptor()
    else:
        opener = _aes(user, boots, time, parameters).decryptor()
    return opener.update(data) + opener.finalize()


def encrypted_room(user: LocalUser, room: int) -> int:
    """Octets of plaintext that fit in `room` octets of ciphertext."""
    return room - room % 8 if user.priv == "DES" else room


def _des(user: LocalUser, salt: bytes) -> Cipher[CBC]:
    key, pre_iv = user.priv_key[:8], user.priv_key[8:]
    # with one key thrice, Triple-DES is DES
    return Cipher(TripleDES(key * 3), CBC(bytes(a ^ b for a, b in zip(pre_iv, salt, strict=True))))


def _aes(user: LocalUser, boots: int, time: int, salt: bytes) -> Cipher[CFB]:
    return Cipher(algorithms.AES(user.priv_key), CFB(struct.pack(">II", boots, time) + salt))
