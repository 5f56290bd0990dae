"""The User-based Security Model of an authoritative engine (RFC 3414 section 3.2, RFC 7860, RFC 3826).

Requests of managers are authenticated here and not by pysnmp, which compares digests in variable time, refuses
a level below the one a user could have, sends Reports that ask for reports, and signs Reports with the key of
whoever an unauthenticated message names. pysnmp's USM serves where this engine is not authoritative (informs).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from agent.engine import messages
from agent.engine import pdu as pdus
from agent.engine import usm_crypto as crypto
from agent.engine.counters import EngineCounters
from agent.engine.messages import ScopedPdu, V3Frame
from agent.engine.state import MAX_BOOTS, EngineState
from agent.engine.usm_crypto import AUTH as AUTH
from agent.engine.usm_crypto import PRIV as PRIV
from agent.engine.usm_crypto import LocalUser as LocalUser
from agent.engine.usm_crypto import UsmError as UsmError
from agent.smi import ber

USM = 3
"""snmpSecurityModel of the User-based Security Model."""
TIME_WINDOW = 150
"""Seconds that a message's engine time may be off (RFC 3414 section 2.2.3)."""

UNSUPPORTED_SEC_LEVELS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 1, 0)
NOT_IN_TIME_WINDOWS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0)
UNKNOWN_USER_NAMES = (1, 3, 6, 1, 6, 3, 15, 1, 1, 3, 0)
UNKNOWN_ENGINE_IDS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0)
WRONG_DIGESTS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 5, 0)
DECRYPTION_ERRORS = (1, 3, 6, 1, 6, 3, 15, 1, 1, 6, 0)


@dataclass(frozen=True, slots=True)
class Secured:
    """A message that passed: who, at which level, and the ScopedPDU inside `octets`."""

    user: LocalUser
    level: int
    scoped: ScopedPdu
    octets: bytes


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
        self._others: dict[tuple[bytes, bytes], LocalUser] = {}
        self._started = _clock()
        self._salt = crypto.new_salt()

    @property
    def engine_time(self) -> int:
        """snmpEngineTime: seconds since this start, by a clock that nobody sets and that suspending does not stop."""
        return int(_clock() - self._started) & 0x7FFFFFFF

    def set_users(self, users: Mapping[tuple[bytes, bytes], LocalUser]) -> None:
        """Replace all users, by engine ID and name: those of this engine, and those whose keys are for others."""
        self.users = {name: user for (engine_id, name), user in users.items() if engine_id == self.engine_id}
        self._others = {key: user for key, user in users.items() if key[0] != self.engine_id}

    def find(self, name: bytes, engine_id: bytes) -> LocalUser | None:
        """The user with keys for an engine, this one or another."""
        return self.users.get(name) if engine_id == self.engine_id else self._others.get((engine_id, name))

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
        if not crypto.verify(user, data, frame.auth_at, frame.auth):
            counters.usm_wrong_digests += 1
            raise Rejected("digest", WRONG_DIGESTS, counters.usm_wrong_digests)
        late = abs(self.engine_time - frame.time) > TIME_WINDOW
        if late or frame.boots != self.boots or self.boots == MAX_BOOTS:
            counters.usm_not_in_time_windows += 1
            raise Rejected("time window", NOT_IN_TIME_WINDOWS, counters.usm_not_in_time_windows, user, 2)

    def _decrypt(self, data: bytes, frame: V3Frame, user: LocalUser) -> Secured:
        try:
            plain = crypto.decrypt(user, frame.boots, frame.time, frame.priv, data[frame.data : frame.end])
            start, end = ber.expect(plain, 0, len(plain), ber.SEQUENCE)
            return Secured(user, 3, messages.parse_scoped(plain, start, end), plain)
        except (crypto.UsmDecryptionError, ber.BerError) as error:
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
        parameters = self._parameters(user, level, MAX_BOOTS, 0x7FFFFFFF, bytes(8) if level == 3 else b"")[0]
        room -= len(parameters)
        if level == 3:
            room = crypto.encrypted_room(user, pdus.inner_room(room))
        return pdus.inner_room(room) - len(
            messages.scoped_head(secured.scoped.context_engine_id, secured.scoped.context)
        )

    def next_salt(self) -> bytes:
        """Eight octets that no message of this start has had as its salt (RFC 3826 section 3.1.2.1)."""
        self._salt = (self._salt + 1) & 0xFFFFFFFFFFFFFFFF
        return self._salt.to_bytes(8, "big")

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
        scoped = ber.tlv(ber.SEQUENCE, messages.scoped_head(context_engine_id, context) + pdu)
        salt = b""
        if level == 3 and user is not None:
            sealed, salt = crypto.encrypt(user, boots, seconds, self.next_salt(), scoped)
            scoped = ber.tlv(ber.OCTET_STRING, sealed)
        parameters, auth_from_end = self._parameters(user, level, boots, seconds, salt)
        head = messages.v3_header(frame.message_id, self.max_size, (0, 0, 1, 3)[level])
        message = ber.tlv(ber.SEQUENCE, head + parameters + scoped)
        if level == 1 or user is None:
            return message
        return crypto.sign(user, message, len(message) - len(scoped) - auth_from_end)

    def _parameters(
        self, user: LocalUser | None, level: int, boots: int, seconds: int, salt: bytes
    ) -> tuple[bytes, int]:
        """msgSecurityParameters with a blank digest, and how far before its end the digest starts."""
        size = crypto.auth_size(user) if user is not None and level >= 2 else 0
        priv = ber.tlv(ber.OCTET_STRING, salt)
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
