"""PDUs of notifications, and the SNMPv1 traps that RFC 3584 section 3.2 makes of them."""

from __future__ import annotations

import pytest
from pyasn1.codec.ber import decoder
from pysnmp.proto import rfc1157, rfc1905

from agent.engine.notifications_pdu import (
    INFORM,
    SNMP_TRAP_ADDRESS,
    SNMP_TRAP_ENTERPRISE,
    TRAP_V2,
    Notification,
    content,
    discovery,
    trap_v1,
)
from agent.smi import ber

OWN = b"\xc0\x00\x02\x07"
LINK_DOWN = (1, 3, 6, 1, 6, 3, 1, 1, 5, 3)
IF_INDEX = ((1, 3, 6, 1, 2, 1, 2, 2, 1, 1, 7), ber.integer(7))


def oid_value(oid: tuple[int, ...]) -> bytes:
    return ber.tlv(ber.OBJECT_IDENTIFIER, ber.oid_content(oid))


def read(notification: Notification) -> tuple[tuple[int, ...], str, int, int, int, list[tuple[int, ...]]]:
    """(enterprise, agent-addr, generic, specific, time-stamp, names) by another decoder than ours."""
    octets = trap_v1(notification, OWN)
    assert octets is not None
    pdu, rest = decoder.decode(octets, asn1Spec=rfc1157.TrapPDU())
    assert not rest
    names = [tuple(item[0]) for item in pdu[5]]
    address = ".".join(map(str, bytes(pdu[1][0])))
    return tuple(pdu[0]), address, int(pdu[2]), int(pdu[3]), int(pdu[4]), names


@pytest.mark.parametrize(("last", "generic"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)])
def test_the_generic_traps(last: int, generic: int) -> None:
    found = read(Notification((*LINK_DOWN[:-1], last), (IF_INDEX,), 500))
    assert found == (LINK_DOWN[:-1], "192.0.2.7", generic, 0, 500, [IF_INDEX[0]])


@pytest.mark.parametrize(
    ("oid", "enterprise", "specific"),
    [
        ((1, 3, 6, 1, 4, 1, 9, 9, 171, 2, 0, 7), (1, 3, 6, 1, 4, 1, 9, 9, 171, 2), 7),
        ((1, 3, 6, 1, 4, 1, 9, 9, 171, 2, 5, 7), (1, 3, 6, 1, 4, 1, 9, 9, 171, 2, 5), 7),
        ((1, 3, 6, 1, 6, 3, 1, 1, 5, 7), LINK_DOWN[:-1], 7),
        ((1, 3, 6, 1, 6, 3, 1, 1, 5, 3, 1), LINK_DOWN, 1),
        ((1, 3, 0), (1, 3), 0),
    ],
)
def test_all_others_are_enterprise_specific(
    oid: tuple[int, ...], enterprise: tuple[int, ...], specific: int
) -> None:
    assert read(Notification(oid, (), 5)) == (enterprise, "192.0.2.7", 6, specific, 5, [])


def test_the_enterprise_of_a_generic_trap_may_be_told() -> None:
    told = (SNMP_TRAP_ENTERPRISE, oid_value((1, 3, 6, 1, 4, 1, 32473, 1)))
    assert read(Notification(LINK_DOWN, (told,), 5))[0] == (1, 3, 6, 1, 4, 1, 32473, 1)
    assert read(Notification((1, 3, 6, 1, 4, 1, 9, 0, 5), (told,), 5))[0] == (1, 3, 6, 1, 4, 1, 9)


def test_the_address_may_be_told() -> None:
    told = (SNMP_TRAP_ADDRESS, ber.tlv(ber.IP_ADDRESS, b"\x0a\x00\x00\x01"))
    assert read(Notification(LINK_DOWN, (told,), 5))[1] == "10.0.0.1"


def test_a_counter64_has_no_place_in_snmpv1() -> None:
    counter = ((1, 3, 6, 1, 2, 1, 1, 5, 0), ber.integer(5, ber.COUNTER64))
    assert trap_v1(Notification(LINK_DOWN, (IF_INDEX, counter), 5), OWN) is None


def test_a_specific_trap_beyond_an_integer_has_none_either() -> None:
    assert trap_v1(Notification((1, 3, 6, 1, 4, 1, 9, 0, 2**31), (), 5), OWN) is None
    assert read(Notification((1, 3, 6, 1, 4, 1, 9, 0, 2**31 - 1), (), 5))[3] == 2**31 - 1


def test_time_stamps_wrap() -> None:
    assert read(Notification(LINK_DOWN, (), 2**32 + 9))[4] == 9


@pytest.mark.parametrize(
    ("tag", "spec"), [(TRAP_V2, rfc1905.SNMPv2TrapPDU), (INFORM, rfc1905.InformRequestPDU)]
)
def test_the_first_two_varbinds(tag: int, spec: type) -> None:
    octets = ber.tlv(tag, content(Notification(LINK_DOWN, (IF_INDEX,), 77), 4711))
    pdu, rest = decoder.decode(octets, asn1Spec=spec())
    assert not rest
    assert [int(pdu[n]) for n in range(3)] == [4711, 0, 0]
    names = [tuple(item[0]) for item in pdu[3]]
    assert names == [(1, 3, 6, 1, 2, 1, 1, 3, 0), (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0), IF_INDEX[0]]
    assert int(pdu[3][0][1].getComponent().getComponent().getComponent()) == 77


def test_a_discovery_asks_for_nothing() -> None:
    pdu, rest = decoder.decode(discovery(), asn1Spec=rfc1905.GetRequestPDU())
    assert not rest
    assert len(pdu[3]) == 0
