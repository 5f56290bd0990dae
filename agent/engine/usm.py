"""pysnmp's User-based Security Model with what it lacks: bounded caches, a monotonic snmpEngineTime, and the
engine ID and boots of our own state instead of a file in the temporary directory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from pysnmp.entity import config as pysnmp_config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.proto import error
from pysnmp.proto.rfc1902 import Integer32, OctetString
from pysnmp.proto.rfc3412 import MsgAndPduDispatcher

from agent.config import User
from agent.engine.state import EngineState

AUTH = {
    "": pysnmp_config.USM_AUTH_NONE,
    "SHA-224": pysnmp_config.USM_AUTH_HMAC128_SHA224,
    "SHA-256": pysnmp_config.USM_AUTH_HMAC192_SHA256,
    "SHA-384": pysnmp_config.USM_AUTH_HMAC256_SHA384,
    "SHA-512": pysnmp_config.USM_AUTH_HMAC384_SHA512,
}
# AES-192 and AES-256 extend short keys as Blumenthal's draft says, which is what net-snmp does.
PRIV = {
    "": pysnmp_config.USM_PRIV_NONE,
    "AES-128": pysnmp_config.USM_PRIV_CFB128_AES,
    "AES-192": pysnmp_config.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES-256": pysnmp_config.USM_PRIV_CFB256_AES_BLUMENTHAL,
}
USM = 3
"""snmpSecurityModel of the User-based Security Model."""


class UsmError(Exception):
    """A user cannot be set up."""


class BoundedCache:
    """pysnmp's security state cache, but it forgets the oldest entry instead of growing.

    Messages that end in an error without a report leave their entry behind, so a flood of them would otherwise
    fill the memory.
    """

    def __init__(self, limit: int = 2048) -> None:
        self._entries: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._next = 0
        self._limit = limit

    def push(self, **data: Any) -> int:
        """Store data and return its reference."""
        self._next += 1
        self._entries[self._next] = data
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return self._next

    def pop(self, reference: int) -> dict[str, Any]:
        """Take data out; ProtocolError when it is not there."""
        try:
            return self._entries.pop(reference)
        except KeyError:
            raise error.ProtocolError("security state is gone") from None

    def is_empty(self) -> bool:
        """Whether nothing is stored."""
        return not self._entries


def new_engine(state: EngineState, max_message_size: int, dispatcher: MsgAndPduDispatcher) -> SnmpEngine:
    """A pysnmp engine that runs with our engine ID, boots and clock."""
    engine = SnmpEngine(maxMessageSize=max_message_size, msgAndPduDsp=dispatcher)
    identity, boots, clock = engine.get_mib_builder().import_symbols(
        "__SNMP-FRAMEWORK-MIB", "snmpEngineID", "snmpEngineBoots", "snmpEngineTime"
    )
    identity.syntax = identity.syntax.clone(OctetString(state.engine_id))
    engine.snmpEngineID = identity.syntax
    boots.syntax = boots.syntax.clone(state.boots)
    clock.syntax = EngineTime()
    for model in engine.security_models.values():
        model._cache = BoundedCache()
    return engine


class EngineTime:
    """snmpEngineTime: seconds since this start, by a clock that nobody sets.

    Stands where pysnmp keeps an Integer32 that counts by the wall clock; it is only ever asked to `clone`.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()

    def seconds(self) -> int:
        """The value."""
        return int(time.monotonic() - self._started) & 0x7FFFFFFF

    def clone(self, *arguments: Any, **options: Any) -> Any:
        """A plain Integer32 of the value now."""
        return Integer32(self.seconds())

    def __int__(self) -> int:
        return self.seconds()


def set_users(engine: SnmpEngine, users: Iterable[User], old: Iterable[User] = ()) -> None:
    """Replace the users `old` by `users`. Keys are localized at once. Raises UsmError, which names no secret."""
    for user in old:
        pysnmp_config.delete_v3_user(engine, user.name)
    for user in users:
        try:
            auth_key, priv_key = localized_keys(user, bytes(engine.snmpEngineID))
            pysnmp_config.add_v3_user(
                engine,
                user.name,
                AUTH[user.auth],
                auth_key,
                PRIV[user.priv],
                priv_key,
                authKeyType=pysnmp_config.USM_KEY_TYPE_LOCALIZED,
                privKeyType=pysnmp_config.USM_KEY_TYPE_LOCALIZED,
            )
        except Exception as problem:
            raise UsmError(
                f"user {user.name!r}: {type(problem).__name__}; check auth, priv and keys"
            ) from None


def localized_keys(user: User, engine_id: bytes) -> tuple[bytes | None, bytes | None]:
    """(authKey, privKey) localized to this engine (RFC 3414 section 2.6), so that no passphrase stays in memory."""
    auth = user.auth_key.reveal() if user.auth_key else None
    priv = user.priv_key.reveal() if user.priv_key else None
    if user.localized:
        return auth, priv
    identity = OctetString(engine_id)
    if auth is not None:
        service = pysnmp_config.AUTH_SERVICES[AUTH[user.auth]]
        auth = bytes(service.localize_key(service.hash_passphrase(auth), identity))
    if priv is not None:
        service = pysnmp_config.PRIV_SERVICES[PRIV[user.priv]]
        master = service.hash_passphrase(AUTH[user.auth], priv)
        priv = bytes(service.localize_key(AUTH[user.auth], master, identity))
    return auth, priv
