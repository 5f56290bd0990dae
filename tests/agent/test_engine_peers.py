"""Other managers and other people's broken packets: pysnmp's manager, malformed SNMP captures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pysnmp.hlapi.v3arch.asyncio import (
    USM_AUTH_HMAC192_SHA256,
    USM_PRIV_CFB128_AES,
    CommunityData,
    ContextData,
    Null,
    ObjectIdentifier,
    OctetString,
    SnmpEngine,
    UdpTransportTarget,
    UsmUserData,
    bulk_cmd,
    get_cmd,
    set_cmd,
)
from smi_support import Offline, Running, TestModel, request, rows, running, unwrap, v2c

from agent.engine.pdu import GET
from agent.smi import ErrorStatus

NAME = "1.3.6.1.2.1.1.5.0"
CONTACT = "1.3.6.1.2.1.1.4.0"


async def manage(agent: Running, who: Any) -> tuple[str, int, int]:
    """(sysName, varbinds of a GETBULK, error-status of a SET of sysContact) as pysnmp's manager sees them."""
    engine = SnmpEngine()
    host, port = agent.agent.addresses[0]
    target = await UdpTransportTarget.create((host, port), timeout=2, retries=0)
    try:
        failed, status, _, got = await get_cmd(
            engine, who, target, ContextData(), (ObjectIdentifier(NAME), Null("")), lookupMib=False
        )
        assert (failed, int(status)) == (None, 0)
        name = got[0][1].prettyPrint()
        tree = (ObjectIdentifier("1.3.6.1.4.1.32473"), Null(""))
        failed, status, _, bulk = await bulk_cmd(
            engine, who, target, ContextData(), 0, 40, tree, lookupMib=False
        )
        assert (failed, int(status)) == (None, 0)
        contact = (ObjectIdentifier(CONTACT), OctetString("pysnmp"))
        failed, status, _, _ = await set_cmd(engine, who, target, ContextData(), contact, lookupMib=False)
        assert failed is None
        return name, len(bulk), int(status)
    finally:
        engine.close_dispatcher()


@pytest.mark.parametrize("kind", ["v2c", "v3"])
def test_pysnmp_as_manager(tmp_path: Path, kind: str) -> None:
    who: Any = CommunityData("reader", mpModel=1)
    if kind == "v3":
        who = UsmUserData(
            "operator",
            "authpassword",
            "privpassword",
            authProtocol=USM_AUTH_HMAC192_SHA256,
            privProtocol=USM_PRIV_CFB128_AES,
        )
    with running(tmp_path, TestModel(rows=rows(20))) as agent:
        name, count, status = asyncio.run(manage(agent, who))
        assert (name, count) == ("gateway", 40)
        assert status == (0 if kind == "v3" else ErrorStatus.authorizationError)
        assert agent.agent.system_value("contact") == ("pysnmp" if kind == "v3" else "root")


def test_malformed_captures(tmp_path: Path, shared_vectors: Path) -> None:
    from scapy.layers.inet import UDP
    from scapy.utils import PcapReader

    agent = Offline(tmp_path, TestModel(rows=rows(3)))
    total = 0
    for path in sorted((shared_vectors / "pcap").glob("*.pcap")):
        with PcapReader(str(path)) as packets:
            for packet in packets:
                octets = bytes(packet[UDP].payload) if UDP in packet else bytes(packet)[28:]
                agent.ask(octets)
                total += 1
    assert total > 10
    assert agent.agent.counters.in_pkts == total
    assert agent.agent.counters.internal_errors == 0
    assert unwrap(agent.ask(v2c(request(GET, [(1, 3, 6, 1, 2, 1, 1, 5, 0)])))).status == 0
