"""PDUs of notifications: SNMPv2-Trap and Inform of RFC 3416, and the Trap-PDU that RFC 3584 makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.engine import pdu as pdus
from agent.smi import ber
from agent.smi.ber import Oid

TRAP_V1 = 0xA4
INFORM = 0xA6
TRAP_V2 = 0xA7

SYS_UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)
SNMP_TRAP_OID = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
SNMP_TRAP_ENTERPRISE = (1, 3, 6, 1, 6, 3, 1, 1, 4, 3, 0)
SNMP_TRAP_ADDRESS = (1, 3, 6, 1, 6, 3, 18, 1, 3, 0)
SNMP_TRAPS = (1, 3, 6, 1, 6, 3, 1, 1, 5)
ENTERPRISE_SPECIFIC = 6


@dataclass(frozen=True, slots=True)
class Notification:
    """What is told: the NOTIFICATION-TYPE, the object instances with finished value TLVs, sysUpTime of the event
    and the context that it happened in.
    """

    oid: Oid
    varbinds: tuple[tuple[Oid, bytes], ...]
    up_time: int
    context: str = ""

    @property
    def names(self) -> Sequence[Oid]:
        """The object instances, without the two that every notification begins with."""
        return [name for name, _ in self.varbinds]


def content(notification: Notification, request_id: int) -> bytes:
    """Contents octets of an SNMPv2-Trap- or InformRequest-PDU (RFC 3416 section 4.2.6)."""
    varbinds = [
        ber.varbind(
            ber.oid_content(SYS_UP_TIME), ber.integer(notification.up_time & 0xFFFFFFFF, ber.TIME_TICKS)
        ),
        ber.varbind(
            ber.oid_content(SNMP_TRAP_OID), ber.tlv(ber.OBJECT_IDENTIFIER, ber.oid_content(notification.oid))
        ),
        *(ber.varbind(ber.oid_content(name), value) for name, value in notification.varbinds),
    ]
    return pdus.content(request_id, 0, 0, b"".join(varbinds))


def trap_v1(notification: Notification, agent_address: bytes) -> bytes | None:
    """The Trap-PDU of SNMPv1 (RFC 3584 section 3.2); None when there is none, because of a Counter64.

    `agent_address`: four octets, zeros where the agent has no IPv4 address towards the receiver.
    """
    oid = notification.oid
    enterprise: bytes | None = None
    for name, value in notification.varbinds:
        if value[0] == ber.COUNTER64:
            return None
        if name == SNMP_TRAP_ENTERPRISE and value[0] == ber.OBJECT_IDENTIFIER:
            enterprise = value
        elif name == SNMP_TRAP_ADDRESS and value[0] == ber.IP_ADDRESS and len(value) == 6:
            agent_address = value[2:]
    if oid[:-1] == SNMP_TRAPS and 1 <= oid[-1] <= ENTERPRISE_SPECIFIC:
        generic, specific = oid[-1] - 1, 0
        above: Oid = SNMP_TRAPS
    else:
        generic, specific = ENTERPRISE_SPECIFIC, oid[-1]
        above = oid[:-2] if len(oid) > 2 and oid[-2] == 0 else oid[:-1]
        enterprise = None
    if enterprise is None:
        enterprise = ber.tlv(ber.OBJECT_IDENTIFIER, ber.oid_content(above))
    if specific > 0x7FFFFFFF:
        # an INTEGER of SNMPv1 cannot say it
        return None
    varbinds = b"".join(ber.varbind(ber.oid_content(name), value) for name, value in notification.varbinds)
    return ber.tlv(
        TRAP_V1,
        b"".join(
            (
                enterprise,
                ber.tlv(ber.IP_ADDRESS, agent_address),
                ber.integer(generic),
                ber.integer(specific),
                ber.integer(notification.up_time & 0xFFFFFFFF, ber.TIME_TICKS),
                ber.tlv(ber.SEQUENCE, varbinds),
            )
        ),
    )


def discovery() -> bytes:
    """A GetRequest-PDU without varbinds, to which an engine tells its ID (RFC 3414 section 4)."""
    return ber.tlv(pdus.GET, pdus.content(0, 0, 0, b""))


def check(notification: Notification) -> None:
    """Raises BerError for a name or value that cannot be sent."""
    ber.oid_content(notification.oid)
    if len(notification.oid) < 3:
        raise ber.BerError("a notification's name has more than two sub-identifiers")
    for name, value in notification.varbinds:
        ber.oid_content(name)
        tag, start, end = ber.read(value, 0, len(value))
        if end != len(value):
            raise ber.BerError("octets after a value")
        ber.check_value(tag, value[start:end])
