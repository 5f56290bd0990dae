"""The User-based Security Model of an authoritative engine (RFC 3414 section 3.2, RFC 7860, RFC 3826).

Requests of managers are authenticated here and not by pysnmp, which compares digests in variable time, refuses
a level below the one a user could have, sends Reports that ask for reports, and signs Reports with the key of
whoever an unauthenticated message names. pysnmp's USM serves where this engine is not authoritative (informs).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from agent.config import User
from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine.communities import Networks
from agent.engine.counters import EngineCounters
from agent.engine.messages import ScopedPdu, V3Frame
from agent.engine.state import MAX_BOOTS, EngineState
from agent.smi import ber

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # cryptography before it moved CFB
    from cryptography.hazmat.primitives.ciphers.modes import CFB

USM = 3
"""snmpSecurityModel of the User-based Security Model."""
TIME_WINDOW = 150
"""Seconds that a message's engine time may be off (RFC 3414 section 2.2.3)."""

AUTH = {
    "SHA-224": ("sha224", 16),
    "SHA-256": ("sha256", 24),
    "SHA-384": ("sha384", 32),
    "SHA-512": ("sha512", 48),
}
"""RFC 7860: hash, octets of msgAuthenticationParameters."""
PRIV = {"AES-128": 16, "AES-192": 24, "AES-256": 32}
"""Key octets. AES-192 and AES-256 extend short keys as Blumenthal's draft says, which is what net-snmp does."""

UNSUPPORTED_SEC_LEVELS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 1, 0)
NOT_IN_TIME_WINDOWS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0)
UNKNOWN_USER_NAMES = (1, 3, 6, 1, 6, 3, 15, 1, 1, 3, 0)
UNKNOWN_ENGINE_IDS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0)
WRONG_DIGESTS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 5, 0)
DECRYPTION_ERRORS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 6, 0)


class UsmError(Exception):
    """A user cannot be set up; the text names no secret."""


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A user with the keys localized to this engine. Keys never show in a repr."""

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


@dataclass(frozen=True, slots=True)
class Secured:
    """A message that passed: who, at which level, and the ScopedPDU inside `octets`."""

    user: LocalUser
    level: int
    scoped: ScopedPdu
    octets: bytes


class Rejected(Exception):
    """A message that did not pass: the counter that its Report would show, and for which user at which level.

    `Usm.report_of` makes the Report. That costs more than to refuse the message, so it is only made when it is
    going to be sent.
    """

    def __init__(
        self, reason: str, oid: ber.Oid, value: int, user: LocalUser | None = None, level: int = 1
    ) -> None:
        self.oid = oid
        self.value = value
        self.user = user
        self.level = level
        super().__init__(reason)


class Usm:
    """Users, engine ID, boots and clock of the authoritative engine."""

    def __init__(self, state: EngineState, max_size: int, counters: EngineCounters) -> None:
        self.engine_id = state.engine_id
        self.boots = state.boots
        self.max_size = max_size
        self.counters = counters
        self.users: dict[bytes, LocalUser] = {}
        self._started = time.monotonic()
        self._salt = secrets.randbits(64)

    @property
    def engine_time(self) -> int:
        """snmpEngineTime: seconds since this start, by a clock that nobody sets."""
        return int(time.monotonic() - self._started) & 0x7FFFFFFF

    def set_users(self, users: Iterable[User]) -> None:
        """Replace all users. Raises UsmError, and then nothing has changed."""
        self.users = {user.name.encode(): localize(user, self.engine_id) for user in users}

    # -- incoming -------------------------------------------------------------------------------------------

    def open(self, data: bytes, frame: V3Frame, host: str = "") -> Secured:
        """Authenticate and decrypt a message to this engine. Raises Rejected, BerError for a bad ScopedPDU.

        `host`: the address that it came from. A user who may not be used from there is unknown there.
        """
        counters = self.counters
        if frame.engine_id != self.engine_id:
            counters.usm_unknown_engine_ids += 1
            raise Rejected("engine ID", UNKNOWN_ENGINE_IDS, counters.usm_unknown_engine_ids)
        user = self.users.get(frame.user)
        if user is None or (user.networks is not None and host not in user.networks):
            counters.usm_unknown_user_names += 1
            raise Rejected("user name", UNKNOWN_USER_NAMES, counters.usm_unknown_user_names)
        if frame.level > user.level:
            counters.usm_unsupported_sec_levels += 1
            raise Rejected("security level", UNSUPPORTED_SEC_LEVELS, counters.usm_unsupported_sec_levels)
        if frame.level >= 2:
            self._authenticate(data, frame, user)
        if frame.level < 3:
            return Secured(user, frame.level, messages.parse_scoped(data, frame.data, frame.end), data)
        return self._decrypt(data, frame, user)

    def _authenticate(self, data: bytes, frame: V3Frame, user: LocalUser) -> None:
        counters = self.counters
        name, size = AUTH[user.auth]
        end = frame.auth_at + len(frame.auth)
        blank = data[: frame.auth_at] + bytes(len(frame.auth)) + data[end:]
        digest = hmac.digest(user.auth_key, blank, name)[:size]
        if not hmac.compare_digest(digest, frame.auth):
            counters.usm_wrong_digests += 1
            raise Rejected("digest", WRONG_DIGESTS, counters.usm_wrong_digests)
        late = abs(self.engine_time - frame.time) > TIME_WINDOW
        if late or frame.boots != self.boots or self.boots == MAX_BOOTS:
            counters.usm_not_in_time_windows += 1
            raise Rejected("time window", NOT_IN_TIME_WINDOWS, counters.usm_not_in_time_windows, user, 2)

    def _decrypt(self, data: bytes, frame: V3Frame, user: LocalUser) -> Secured:
        try:
            if len(frame.priv) != 8:
                raise ber.BerError("msgPrivacyParameters has eight octets")
            iv = struct.pack(">II", frame.boots, frame.time) + frame.priv
            opener = Cipher(algorithms.AES(user.priv_key), CFB(iv)).decryptor()
            plain = opener.update(data[frame.data : frame.end]) + opener.finalize()
            start, end = ber.expect(plain, 0, len(plain), ber.SEQUENCE)
            return Secured(user, 3, messages.parse_scoped(plain, start, end), plain)
        except ber.BerError as error:
            # The digest was right, so this is a user with a wrong privacy key rather than a forger.
            self.counters.usm_decryption_errors += 1
            raise Rejected(
                f"decryption: {error}", DECRYPTION_ERRORS, self.counters.usm_decryption_errors
            ) from None

    # -- outgoing -------------------------------------------------------------------------------------------

    def report_of(self, frame: V3Frame, rejected: Rejected) -> bytes:
        """The Report for a message that did not pass (RFC 3414 section 3.2, RFC 3412 section 7.1.3)."""
        pdu = messages.report_pdu(frame.request_id, rejected.oid, rejected.value)
        return self.seal(frame, rejected.user, rejected.level, self.engine_id, b"", pdu)

    def report(self, frame: V3Frame, secured: Secured, request_id: int, oid: ber.Oid, value: int) -> bytes:
        """A Report at the level of the message that it is about (RFC 3412 section 7.1.3)."""
        pdu = messages.report_pdu(request_id, oid, value)
        # a context is echoed only if it can be one (RFC 3411 SnmpAdminString): a Report is never large
        context = secured.scoped.context if len(secured.scoped.context) <= 32 else b""
        return self.seal(frame, secured.user, secured.level, self.engine_id, context, pdu)

    def budget(self, frame: V3Frame, secured: Secured) -> int:
        """Octets that a Response-PDU may have so that its message fits the originator and this engine."""
        level, user = secured.level, secured.user
        room = pdus.inner_room(min(frame.max_size, self.max_size))
        room -= len(messages.v3_header(frame.message_id, self.max_size, 0))
        # boots and time as large as they may get, so that the size never depends on the moment
        parameters = self._parameters(user, level, MAX_BOOTS, 0x7FFFFFFF, bytes(8))[0]
        room -= len(parameters)
        if level == 3:
            room = pdus.inner_room(room)
        return pdus.inner_room(room) - len(
            messages.scoped_head(secured.scoped.context_engine_id, secured.scoped.context)
        )

    def seal(
        self,
        frame: V3Frame,
        user: LocalUser | None,
        level: int,
        context_engine_id: bytes,
        context: bytes,
        pdu: bytes,
    ) -> bytes:
        """A whole message that answers `frame`, at `level`."""
        boots, seconds = self.boots, self.engine_time
        self._salt = (self._salt + 1) & 0xFFFFFFFFFFFFFFFF
        salt = self._salt.to_bytes(8, "big")
        scoped = ber.tlv(ber.SEQUENCE, messages.scoped_head(context_engine_id, context) + pdu)
        if level == 3 and user is not None:
            sealer = Cipher(
                algorithms.AES(user.priv_key), CFB(struct.pack(">II", boots, seconds) + salt)
            ).encryptor()
            scoped = ber.tlv(ber.OCTET_STRING, sealer.update(scoped) + sealer.finalize())
        parameters, auth_from_end = self._parameters(user, level, boots, seconds, salt)
        head = messages.v3_header(frame.message_id, self.max_size, (0, 0, 1, 3)[level])
        message = ber.tlv(ber.SEQUENCE, head + parameters + scoped)
        if level == 1 or user is None:
            return message
        name, size = AUTH[user.auth]
        at = len(message) - len(scoped) - auth_from_end
        digest = hmac.digest(user.auth_key, message, name)[:size]
        return message[:at] + digest + message[at + size :]

    def _parameters(
        self, user: LocalUser | None, level: int, boots: int, seconds: int, salt: bytes
    ) -> tuple[bytes, int]:
        """msgSecurityParameters with a blank digest, and how far before its end the digest starts."""
        size = AUTH[user.auth][1] if user is not None and level >= 2 else 0
        priv = ber.tlv(ber.OCTET_STRING, salt if level == 3 else b"")
        content = b"".join(
            (
                ber.tlv(ber.OCTET_STRING, self.engine_id),
                ber.integer(boots),
                ber.integer(seconds),
                ber.tlv(ber.OCTET_STRING, user.name if user is not None else b""),
                ber.tlv(ber.OCTET_STRING, bytes(size)),
                priv,
            )
        )
        return ber.tlv(ber.OCTET_STRING, ber.tlv(ber.SEQUENCE, content)), len(priv) + size


# -- keys ---------------------------------------------------------------------------------------------------


def localize(user: User, engine_id: bytes) -> LocalUser:
    """A configured user with keys for this engine. Raises UsmError."""
    auth_key = priv_key = b""
    if user.auth_key is not None:
        name = AUTH[user.auth][0]
        secret = user.auth_key.reveal()
        auth_key = secret if user.localized else localized_key(secret, engine_id, name)
        if user.localized and len(auth_key) != hashlib.new(name).digest_size:
            raise UsmError(
                f"user {user.name!r}: a localized {user.auth} key has other than {len(auth_key)} octets"
            )
    if user.priv_key is not None:
        name, size = AUTH[user.auth][0], PRIV[user.priv]
        secret = user.priv_key.reveal()
        priv_key = secret if user.localized else extended(localized_key(secret, engine_id, name), size, name)
        if len(priv_key) < size:
            raise UsmError(f"user {user.name!r}: a localized {user.priv} key needs {size} octets")
        priv_key = priv_key[:size]
    networks = Networks(user.networks) if user.networks else None
    return LocalUser(user.name.encode(), user.auth, user.priv, auth_key, priv_key, networks)


def localized_key(password: bytes, engine_id: bytes, name: str) -> bytes:
    """Password to key and key to localized key (RFC 3414 appendix A.2, section 2.6)."""
    repeats = 1048576 // len(password) + 1
    master = hashlib.new(name, (password * repeats)[:1048576]).digest()
    return hashlib.new(name, master + engine_id + master).digest()


def extended(key: bytes, size: int, name: str) -> bytes:
    """A localized key made long enough (draft-blumenthal-aes-usm-04 section 3.1.2.1)."""
    while len(key) < size:
        key += hashlib.new(name, key).digest()
    return key[:size]
