"""pysnmp's own engine over the same instances: its message processing, USM, VACM and command responders.

The third judge of an answer beside our two paths. It shares nothing with them but the list of instances.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from pysnmp.carrier.base import AbstractTransportDispatcher
from pysnmp.entity import config as pysnmp_config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.entity.rfc3413 import cmdrsp
from pysnmp.entity.rfc3413.context import SnmpContext
from pysnmp.proto import rfc1902, rfc1905
from pysnmp.smi.error import NoAccessError
from pysnmp.smi.instrum import AbstractMibInstrumController

from agent.engine.usm import Usm
from agent.engine.usm_crypto import LocalUser
from agent.smi import ber

UDP = (1, 3, 6, 1, 6, 1, 1)
PEER = ("127.0.0.1", 40000)
UNSIGNED = {0x41: rfc1902.Counter32, 0x42: rfc1902.Gauge32, 0x43: rfc1902.TimeTicks, 0x46: rfc1902.Counter64}


def value(tag: int, content: bytes) -> Any:
    """pysnmp's object of a value."""
    if tag == 0x02:
        return rfc1902.Integer32(int.from_bytes(content, "big", signed=True))
    if tag in UNSIGNED:
        return UNSIGNED[tag](int.from_bytes(content, "big"))
    if tag == 0x06:
        return rfc1902.ObjectIdentifier(ber.parse_oid(content))
    return {0x04: rfc1902.OctetString, 0x40: rfc1902.IpAddress, 0x44: rfc1902.Opaque}[tag](content)


AUTH = {
    "": pysnmp_config.USM_AUTH_NONE,
    "SHA-224": pysnmp_config.USM_AUTH_HMAC128_SHA224,
    "SHA-256": pysnmp_config.USM_AUTH_HMAC192_SHA256,
    "SHA-384": pysnmp_config.USM_AUTH_HMAC256_SHA384,
    "SHA-512": pysnmp_config.USM_AUTH_HMAC384_SHA512,
}
PRIV = {
    "": pysnmp_config.USM_PRIV_NONE,
    "AES-128": pysnmp_config.USM_PRIV_CFB128_AES,
    "AES-192": pysnmp_config.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES-256": pysnmp_config.USM_PRIV_CFB256_AES_BLUMENTHAL,
}


class EngineTime:
    """snmpEngineTime by the clock of a Usm. pysnmp only asks it to `clone`."""

    def __init__(self, usm: Usm) -> None:
        self.usm = usm

    def clone(self, *arguments: Any, **options: Any) -> Any:
        return rfc1902.Integer32(self.usm.engine_time)

    def __int__(self) -> int:
        return self.usm.engine_time


def new_engine(usm: Usm) -> SnmpEngine:
    """An engine with the identity, boots and clock of ours."""
    engine = SnmpEngine(maxMessageSize=usm.max_size)
    identity, boots, clock = engine.get_mib_builder().import_symbols(
        "__SNMP-FRAMEWORK-MIB", "snmpEngineID", "snmpEngineBoots", "snmpEngineTime"
    )
    identity.syntax = identity.syntax.clone(rfc1902.OctetString(usm.engine_id))
    engine.snmpEngineID = identity.syntax
    boots.syntax = boots.syntax.clone(usm.boots)
    clock.syntax = EngineTime(usm)
    return engine


def set_users(engine: SnmpEngine, users: Iterable[LocalUser]) -> None:
    """The same users, by localized keys."""
    for user in users:
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


class Instances(AbstractMibInstrumController):  # type: ignore[misc]
    """All instances in a sorted list, and the objects that they are of."""

    def __init__(self, objects: Sequence[ber.Oid], instances: Sequence[tuple[ber.Oid, int, bytes]]) -> None:
        self.objects = list(objects)
        self.names = [name for name, _, _ in instances]
        self.values = [value(tag, content) for _, tag, content in instances]
        assert self.names == sorted(self.names)

    def read_variables(self, *varbinds: Any, **context: Any) -> list[Any]:
        access = context.pop("acFun")
        found = []
        for index, (name, _) in enumerate(varbinds):
            oid = tuple(name)
            access("read", (name, None), idx=index, **context)
            at = bisect_left(self.names, oid)
            if at < len(self.names) and self.names[at] == oid:
                found.append((name, self.values[at]))
                continue
            place = bisect_right(self.objects, oid) - 1
            known = place >= 0 and oid[: len(self.objects[place])] == self.objects[place]
            found.append((name, rfc1905.noSuchInstance if known else rfc1905.noSuchObject))
        return found

    def read_next_variables(self, *varbinds: Any, **context: Any) -> list[Any]:
        access = context.pop("acFun")
        found = []
        for index, (name, _) in enumerate(varbinds):
            at = bisect_right(self.names, tuple(name))
            while at < len(self.names):
                oid = rfc1902.ObjectIdentifier(self.names[at])
                try:
                    if not access("read", (oid, self.values[at]), idx=index, **context):
                        found.append((oid, self.values[at]))
                        break
                except NoAccessError:
                    pass  # a Counter64 in SNMPv1
                at += 1
            else:
                found.append((name, rfc1905.endOfMibView))
        return found


class Kept(AbstractTransportDispatcher):  # type: ignore[misc]
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send_message(self, message: Any, domain: Any, address: Any) -> None:
        self.sent.append(bytes(message))


class Judge:
    """An engine with the identity, clock and users of ours. Everybody may read everything."""

    def __init__(self, usm: Usm, communities: Sequence[str], instances: Instances) -> None:
        self.engine = new_engine(usm)
        set_users(self.engine, usm.users.values())
        self.transport = Kept()
        self.engine.register_transport_dispatcher(self.transport)
        for name in communities:
            pysnmp_config.add_v1_system(self.engine, name, name, securityName=name)
            for model in (1, 2):
                pysnmp_config.add_vacm_user(self.engine, model, name, "noAuthNoPriv", (1,))
        for user in usm.users.values():
            for level in ("noAuthNoPriv", "authNoPriv", "authPriv")[: user.level]:
                pysnmp_config.add_vacm_user(self.engine, 3, user.name.decode(), level, (1,))
        context = SnmpContext(self.engine)
        context.unregister_context_name(rfc1902.OctetString(b""))
        context.register_context_name(rfc1902.OctetString(b""), instances)
        for responder in (
            cmdrsp.GetCommandResponder,
            cmdrsp.NextCommandResponder,
            cmdrsp.BulkCommandResponder,
        ):
            responder(self.engine, context)

    def ask(self, data: bytes) -> bytes | None:
        """Its answer."""
        self.transport.sent.clear()
        # its responder to GETBULK raises this where it has no VarBind to give
        with contextlib.suppress(TypeError):
            self.engine.message_dispatcher.receive_message(self.engine, UDP, PEER, data)
        return self.transport.sent[0] if self.transport.sent else None
