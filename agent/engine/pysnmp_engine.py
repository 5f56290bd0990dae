"""pysnmp's engine where this agent is not authoritative: notification originator, answers to informs.

What pysnmp lacks is put in: bounded caches, a monotonic snmpEngineTime, and the engine ID and boots of our own
state instead of a file in the temporary directory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from pysnmp.entity import config as pysnmp_config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.proto import error
from pysnmp.proto.rfc1902 import Integer32, OctetString
from pysnmp.proto.rfc3412 import MsgAndPduDispatcher

from agent.engine.usm import Usm
from agent.engine.usm_crypto import LocalUser, UsmError

AUTH = {
    "": pysnmp_config.USM_AUTH_NONE,
    "MD5": pysnmp_config.USM_AUTH_HMAC96_MD5,
    "SHA-1": pysnmp_config.USM_AUTH_HMAC96_SHA,
    "SHA-224": pysnmp_config.USM_AUTH_HMAC128_SHA224,
    "SHA-256": pysnmp_config.USM_AUTH_HMAC192_SHA256,
    "SHA-384": pysnmp_config.USM_AUTH_HMAC256_SHA384,
    "SHA-512": pysnmp_config.USM_AUTH_HMAC384_SHA512,
}
# AES-192 and AES-256 extend short keys as Blumenthal's draft says, which is what net-snmp does.
PRIV = {
    "": pysnmp_config.USM_PRIV_NONE,
    "DES": pysnmp_config.USM_PRIV_CBC56_DES,
    "AES-128": pysnmp_config.USM_PRIV_CFB128_AES,
    "AES-192": pysnmp_config.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES-256": pysnmp_config.USM_PRIV_CFB256_AES_BLUMENTHAL,
}


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


def new_engine(usm: Usm, dispatcher: MsgAndPduDispatcher | None = None) -> SnmpEngine:
    """A pysnmp engine that runs with our engine ID, boots and clock."""
    engine = SnmpEngine(maxMessageSize=usm.max_size, msgAndPduDsp=dispatcher)
    identity, boots, clock = engine.get_mib_builder().import_symbols(
        "__SNMP-FRAMEWORK-MIB", "snmpEngineID", "snmpEngineBoots", "snmpEngineTime"
    )
    identity.syntax = identity.syntax.clone(OctetString(usm.engine_id))
    engine.snmpEngineID = identity.syntax
    boots.syntax = boots.syntax.clone(usm.boots)
    clock.syntax = EngineTime(lambda: usm.engine_time)
    for model in engine.security_models.values():
        model._cache = BoundedCache()
    return engine


class EngineTime:
    """snmpEngineTime by our clock.

    Stands where pysnmp keeps an Integer32 that counts by the wall clock; it is only ever asked to `clone`.
    """

    def __init__(self, seconds: Callable[[], int]) -> None:
        self._seconds = seconds

    def clone(self, *arguments: Any, **options: Any) -> Any:
        """A plain Integer32 of the value now."""
        return Integer32(self._seconds())

    def __int__(self) -> int:
        return self._seconds()


def set_users(engine: SnmpEngine, users: Iterable[LocalUser], old: Iterable[LocalUser] = ()) -> None:
    """Replace the users `old` by `users` in pysnmp's USM. It gets localized keys and never a passphrase."""
    for user in old:
        pysnmp_config.delete_v3_user(engine, user.name.decode())
    for user in users:
        try:
            pysnmp_config.add_v3_user(
                engine,
                user.name.decode(),
                AUTH[user.auth],
                user.auth_key or None,
                PRIV[user.priv],
                user.priv_key or None,
                authKeyType=pysnmp_config.USM_KEY_TYPE_LOCALIZED,
                privKeyType=pysnmp_config.USM_KEY_TYPE_LOCALIZED,
            )
        except Exception as problem:
            raise UsmError(
                f"user {user.name!r}: {type(problem).__name__}; check auth, priv and keys"
            ) from None
