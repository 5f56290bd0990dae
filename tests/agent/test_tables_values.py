"""What the tables show of a model, cell by cell, read through the controller's snapshots."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from agent.gateway import ChildRecord, Gateway, IkeRecord, Selector
from agent.gateway.counters import CHILD_COUNTS, IKE_COUNTS
from agent.gateway.feed import Feed
from agent.gateway.records import ConfiguredChild, ConnectionRecord
from agent.smi import SetError
from agent.smi.bound import BoundScalar, BoundTable, bind
from agent.tables import algorithms, cisco_ipsec_flow_monitor, ipsec_gateway, ipsec_sa_mon
from agent.tables.destroy import Destroy, StatusWriter
from mibs import MibSet, load

MODULES = {
    "CISCO-IPSEC-FLOW-MONITOR-MIB": cisco_ipsec_flow_monitor,
    "IPSEC-SA-MON-MIB": ipsec_sa_mon,
    "IPSEC-GATEWAY-MIB": ipsec_gateway,
}


@pytest.fixture(scope="module")
def mibs() -> MibSet:
    return load()


@pytest.fixture
def now() -> list[float]:
    return [5000.0]


@pytest.fixture
def gateway(now: list[float]) -> Gateway:
    return Gateway(lambda: now[0], lambda: 1_700_000_000.0 + now[0])


def child(uniqueid: int = 1, **changes: Any) -> ChildRecord:
    record = ChildRecord(
        name="net",
        uniqueid=uniqueid,
        state="INSTALLED",
        protocol="ESP",
        mode="TUNNEL",
        spi_in=0xC0000000 + uniqueid,
        spi_out=0xD0000000 + uniqueid,
        encr_alg="AES_CBC",
        encr_keysize=256,
        integ_alg="HMAC_SHA2_256_128",
        dh_group="CURVE_25519",
        replay_window=64,
        install_time=30,
        rekey_time=3000,
        lifetime_seconds=3600,
        life_bytes=10 * 1024 * 1024,
        rekey_bytes=9 * 1024 * 1024,
        local_ts=(Selector.network("10.1.0.0/24"),),
        remote_ts=(Selector(ip_address("10.2.0.3"), ip_address("10.2.0.9"), 6, 443, 443),),
        counts={name: 10**10 + n for n, name in enumerate(CHILD_COUNTS)},
    )
    return replace(record, **changes)


def ike(*children: ChildRecord, **changes: Any) -> IkeRecord:
    record = IkeRecord(
        name="gw",
        uniqueid=1,
        version=2,
        state="ESTABLISHED",
        initiator=True,
        initiator_spi=0xA1,
        responder_spi=0xB1,
        local_host=ip_address("192.0.2.1"),
        local_id="192.0.2.1",
        remote_host=ip_address("2001:db8::2"),
        remote_id="C=CH, O=lab, CN=sun",
        encr_alg="AES_GCM_16",
        encr_keysize=128,
        prf_alg="PRF_HMAC_SHA2_256",
        dh_group="ECP_256",
        remote_auth="ecdsa",
        established=60,
        rekey_time=3540,
        life_time=3940,
        counts={name: 100 + n for n, name in enumerate(IKE_COUNTS)},
        children=children,
    )
    return replace(record, **changes)


def bundled(gateway: Gateway) -> Feed:
    """A source that gives everything."""
    feed = gateway.add_source("ours", "vici", "/ours")
    feed.source.epoch = "e"
    feed.source.daemon, feed.source.version, feed.source.half_open = "ipsecstackd", "0.1", 0
    feed.source.provides(frozenset(CHILD_COUNTS), frozenset(IKE_COUNTS))
    feed.contact()
    return feed


def rows_of(table: BoundTable, gateway: Gateway) -> list[Any]:
    binding = table.binding
    if binding.rows is not None:
        return list(binding.rows(gateway))
    assert binding.subjects is not None
    assert binding.rows_of is not None
    return [row for subject in binding.subjects(gateway) for row in binding.rows_of(subject)]


class Walk:
    """All cells of a module: `walk["cipSecTunStatus"]` is {index: value as encoded for the wire, decoded again}."""

    def __init__(self, module: str, gateway: Gateway, mibs: MibSet) -> None:
        self.cells: dict[str, dict[tuple[Any, ...], Any]] = {}
        bound = bind(MODULES[module].binding(), mibs)
        for leaf in bound.leaves:
            if isinstance(leaf, BoundScalar):
                self._put(leaf.object.name, (), leaf.binding.get(gateway), leaf)
        for table in bound.tables:
            self._table(table, gateway)

    def _table(self, table: BoundTable, gateway: Gateway) -> None:
        for column in table.columns:
            self.cells.setdefault(column.object.name, {})
        for row in rows_of(table, gateway):
            index = table.binding.index(row)
            table.index.encode(index)
            for column in table.columns:
                self._put(column.object.name, index, column.binding.get(row), column)

    def _put(self, name: str, index: tuple[Any, ...], value: Any, leaf: Any) -> None:
        cells = self.cells.setdefault(name, {})
        if value is not None:
            cells[index] = leaf.codec.native(value)  # raises when outside the SYNTAX

    def __getitem__(self, name: str) -> dict[tuple[Any, ...], Any]:
        return self.cells[name]

    def one(self, name: str) -> Any:
        (value,) = self.cells[name].values()
        return value

    def empty(self) -> set[str]:
        return {name for name, cells in self.cells.items() if not cells}


@pytest.mark.parametrize("module", MODULES)
def test_every_object_is_bound_or_excused(module: str, mibs: MibSet) -> None:
    binding = MODULES[module].binding()
    assert bind(binding, mibs).leaves
    for node, reason in binding.not_served.items():
        assert len(reason) > 20, f"{node} deserves a reason"


def test_flow_monitor_of_a_source_that_gives_everything(gateway: Gateway, mibs: MibSet) -> None:
    feed = bundled(gateway)
    feed.source.ike_daemon.update(
        {"auth_failures_in": 1, "auth_failures_out": 2, "ike_failed_init": 3, "ike_failed_resp": 4}
    )
    feed.source.ipsec_daemon.update({"unknown_spi": 5, "no_sa_out": 6, "malformed_in": 7, "malformed_out": 8})
    feed.source.ike_stats.update(
        {"unknown_ike_spi": 9, "half_open_drops": 10, "integrity_failures": 11, "decrypt_failures": 12}
    )
    feed.child_up(ike(child()))
    walk = Walk("CISCO-IPSEC-FLOW-MONITOR-MIB", gateway, mibs)
    assert walk.empty() == {"cipSecGlobalOutAuthFails", "cipSecGlobalSysCapFails", "cipSecTunOutAuthFails"}
    octets = 10**10
    expected: dict[str, Any] = {
        "cipSecMibLevel": 1,
        "cikeGlobalActiveTunnels": 1,
        "cikeGlobalInOctets": 100,
        "cikeGlobalOutPkts": 103,
        "cikeGlobalInitTunnels": 1,
        "cikeGlobalInitTunnelFails": 3,
        "cikeGlobalRespTunnelFails": 4,
        "cikeGlobalAuthFails": 3,
        "cikeGlobalSysCapFails": 10,
        "cikeGlobalHashValidFails": 11,
        "cikeGlobalDecryptFails": 12,
        "cikeGlobalNoSaFails": 9,
        "cikeTunLocalType": 1,
        "cikeTunLocalValue": b"192.0.2.1",
        "cikeTunLocalName": b"gw",
        "cikeTunRemoteType": 2,
        "cikeTunRemoteValue": b"C=CH, O=lab, CN=sun",
        "cikeTunRemoteAddr": ip_address("2001:db8::2").packed,
        "cikeTunNegoMode": 1,
        "cikeTunDiffHellmanGrp": 3,
        "cikeTunEncryptAlgo": 3,
        "cikeTunHashAlgo": 3,
        "cikeTunAuthMethod": 3,
        "cikeTunLifeTime": 4000,
        "cikeTunSaRefreshThreshold": 400,
        "cikeTunActiveTime": 6000,
        "cikeTunStatus": 1,
        "cipSecGlobalHcInOctets": octets,
        "cipSecGlobalInOctets": octets & 0xFFFFFFFF,
        "cipSecGlobalInOctWraps": 2,
        "cipSecGlobalNoSaFails": 11,
        "cipSecGlobalProtocolUseFails": 15,
        "cipSecTunIkeTunnelIndex": 1,
        "cipSecTunIkeTunnelAlive": 1,
        "cipSecTunEncapMode": 1,
        "cipSecTunLifeSize": 10240,
        "cipSecTunSaLifeSizeThreshold": 1024,
        "cipSecTunLifeTime": 3600,
        "cipSecTunSaLifeTimeThreshold": 570,
        "cipSecTunCurrentSaInstances": 1,
        "cipSecTunInSaDiffHellmanGrp": 3,
        "cipSecTunInSaAhAuthAlgo": 1,
        "cipSecTunInSaEspAuthAlgo": 3,
        "cipSecTunOutSaCompAlgo": 1,
        "cipSecTunHcInOctets": octets,
        "cipSecTunHcOutOctets": octets + 1,
        "cipSecTunOutOctWraps": 2,
        "cipSecTunInReplayDropPkts": (octets + 5) & 0xFFFFFFFF,
        "cipSecTunInAuthFails": (octets + 4) & 0xFFFFFFFF,
        "cipSecTunInDropPkts": (4 * octets + 4 + 6 + 7 + 8) & 0xFFFFFFFF,
        "cipSecTunInDecrypts": (3 * octets + 2 + 7 + 6) & 0xFFFFFFFF,
        "cipSecTunOutDropPkts": (2 * octets + 9 + 10) & 0xFFFFFFFF,
        "cipSecTunStatus": 1,
        "cipSecEndPtLocalName": b"10.1.0.0/24",
        "cipSecEndPtLocalType": 3,
        "cipSecEndPtLocalAddr2": ip_address("255.255.255.0").packed,
        "cipSecEndPtRemoteName": b"10.2.0.3..10.2.0.9[tcp/443]",
        "cipSecEndPtRemoteType": 2,
        "cipSecEndPtRemoteAddr2": ip_address("10.2.0.9").packed,
        "cipSecEndPtRemoteProtocol": 6,
        "cipSecEndPtRemotePort": 443,
    }
    assert {name: walk.one(name) for name in expected} == expected
    assert walk["cipSecSpiValue"] == {(1, 1): 0xC0000001, (1, 2): 0xD0000001}
    assert walk["cipSecSpiDirection"] == {(1, 1): 1, (1, 2): 2}


def test_flow_monitor_of_strongswan_invents_nothing(gateway: Gateway, mibs: MibSet) -> None:
    feed = gateway.add_source("charon", "vici", "/c")
    feed.contact()
    feed.source.ike_daemon.update(
        {
            f"{kind}_{way}_{half}": 2
            for kind in ("ike_init", "ike_auth", "create_child", "info")
            for way in ("in", "out")
            for half in ("req", "resp")
        }
        | {"invalid": 3, "invalid_spi": 4}
    )
    counts = {"octets_in": 84, "octets_out": 168, "packets_in": 1, "packets_out": 2}
    plain = child(
        counts=counts,
        replay_window=None,
        lifetime_seconds=None,
        life_time=3930,
        life_bytes=None,
        rekey_bytes=None,
    )
    feed.child_up(ike(plain, counts={}, life_time=None, remote_auth=None))
    walk = Walk("CISCO-IPSEC-FLOW-MONITOR-MIB", gateway, mibs)
    assert walk.one("cikeGlobalInPkts") == 16
    assert walk.one("cikeGlobalInDropPkts") == 7
    assert walk.one("cikeGlobalNoSaFails") == 4
    assert walk.one("cikeGlobalInP2Exchgs") == 2
    assert walk.one("cikeTunLifeTime") == 3600  # until it is rekeyed: all that strongSwan tells
    assert walk.one("cipSecTunLifeTime") == 3960
    assert walk.one("cipSecTunHcInOctets") == walk.one("cipSecTunHcInDecompOctets") == 84
    assert walk.one("cipSecTunOutEncrypts") == 2
    unknown = {
        "cikeTunInOctets",
        "cikeTunAuthMethod",
        "cikeGlobalInOctets",
        "cikeGlobalAuthFails",
        "cikeGlobalHashValidFails",
        "cikeGlobalDecryptFails",
        "cipSecTunInDropPkts",
    }
    unknown |= {
        "cipSecTunInReplayDropPkts",
        "cipSecTunInAuthFails",
        "cipSecTunInDecrypts",
        "cipSecTunOutEncryptFails",
    }
    unknown |= {
        "cipSecGlobalInReplayDrops",
        "cipSecGlobalNoSaFails",
        "cipSecTunLifeSize",
        "cikeTunSaRefreshThreshold",
    }
    assert unknown <= walk.empty()
    sad = Walk("IPSEC-SA-MON-MIB", gateway, mibs)
    unknown = {
        "ipsecSaEspInAuthErrors",
        "ipsecSaEspInRepWinSize",
        "ipsecSaEspInLimitKbytes",
        "ipsecReplayErrors",
    }
    unknown |= {
        "ipsecSaEspOutSendErrors",
        "ipsecUnknownSpiErrors",
        "ipsecSendErrors",
        "ipsecSaEspInDecryptErrors",
    }
    unknown |= {name for name in sad.cells if "Replays" in name}  # their tables have no rows
    assert unknown <= sad.empty()
    assert sad.one("ipsecSaEspInLimitSeconds") == 3960


def test_sa_monitor(gateway: Gateway, mibs: MibSet, now: list[float]) -> None:
    feed = bundled(gateway)
    feed.source.ipsec_daemon.update(
        {"unknown_spi": 5, "no_sa_out": 0, "send_errors": 1, "malformed_in": 2, "malformed_out": 0}
    )
    ah = child(
        2,
        name="ah",
        protocol="AH",
        encr_alg=None,
        encr_keysize=None,
        mode="TRANSPORT",
        life_bytes=None,
        lifetime_seconds=None,
        remote_ts=(Selector.network("fd00::1"),),
        local_ts=(Selector.network("fd00::/64"),),
    )
    zipped = child(
        3,
        name="zip",
        encr_alg="CHACHA20_POLY1305",
        encr_keysize=None,
        integ_alg=None,
        encap=True,
        cpi_in=0xBEEF,
        cpi_out=2,
    )
    feed.child_up(ike(child(), ah, zipped))
    now[0] += 10
    walk = Walk("IPSEC-SA-MON-MIB", gateway, mibs)
    first = (1, ip_address("192.0.2.1").packed, 0xC0000001)
    third = (1, ip_address("192.0.2.1").packed, 0xC0000003)
    out = (2, ip_address("2001:db8::2").packed, 0xD0000001)
    assert set(walk["ipsecSaEspInEncAlg"]) == {first, third}
    row = {name: cells[first] for name, cells in walk.cells.items() if first in cells}
    assert row == {
        "ipsecSaEspInSelector": 1,
        "ipsecSaEspInCreator": 2,
        "ipsecSaEspInEncapsulation": 1,
        "ipsecSaEspInEncAlg": 12,
        "ipsecSaEspInEncKeyLength": 256,
        "ipsecSaEspInAuthAlg": 5,
        "ipsecSaEspInAuthKeyLength": 256,
        "ipsecSaEspInRepWinSize": 64,
        "ipsecSaEspInLimitSeconds": 3600,
        "ipsecSaEspInLimitKbytes": 10240,
        "ipsecSaEspInAccSeconds": 40,
        "ipsecSaEspInAccKbytes": 10**10 // 1024,
        "ipsecSaEspInUserOctets": 10**10,
        "ipsecSaEspInPackets": 10**10 + 2,
        "ipsecSaEspInAuthErrors": (10**10 + 4) & 0xFFFFFFFF,
        "ipsecSaEspInReplayErrors": (10**10 + 5) & 0xFFFFFFFF,
        "ipsecSaEspInPolicyErrors": (10**10 + 6) & 0xFFFFFFFF,
        "ipsecSaEspInPadErrors": (10**10 + 7) & 0xFFFFFFFF,
        "ipsecSaEspInOtherReceiveErrors": (10**10 + 8) & 0xFFFFFFFF,
        "ipsecSaEspReplaysBeyondWindow": (10**10 + 11) & 0xFFFFFFFF,
        "ipsecSaEspReplaysBeforeWindow": (10**10 + 12) & 0xFFFFFFFF,
        "ipsecSaEspReplaysDuplicate": (10**10 + 13) & 0xFFFFFFFF,
        "ipsecSaEspReplaysZero": (10**10 + 14) & 0xFFFFFFFF,
        "ipsecSaEspReplaysOutOfOrder": (10**10 + 15) & 0xFFFFFFFF,
    }
    assert walk["ipsecSaEspInEncAlg"][third] == 28
    assert walk["ipsecSaEspInEncKeyLength"][third] == 256
    assert walk["ipsecSaEspInAuthAlg"][third] == 0
    assert walk["ipsecSaEspInEncapsulation"][third] == 3
    assert walk["ipsecSaEspOutSendErrors"][out] == (2 * 10**10 + 9 + 10) & 0xFFFFFFFF
    assert walk.one("ipsecSaAhInAuthAlg") == 5
    assert walk.one("ipsecSaAhInEncapsulation") == 2
    assert (
        walk.one("ipsecSaAhInLimitSeconds") == walk.one("ipsecSaAhInLimitKbytes") == 0
    )  # known to have none
    assert set(walk["ipsecSaEspReplaysZero"]) == {first, third}
    assert set(walk["ipsecSaAhReplaysZero"]) == set(walk["ipsecSaAhInAuthAlg"])
    assert list(walk["ipsecSaIpcompOutSeconds"]) == [(2, ip_address("2001:db8::2").packed, 2)]
    assert not walk["ipsecSaIpcompInSeconds"]  # no label for its CPI
    scalars = {"ipsecEspCurrentInboundSAs": 2, "ipsecEspTotalOutboundSAs": 2, "ipsecAhCurrentInboundSAs": 1}
    scalars |= {
        "ipsecIpcompCurrentInboundSAs": 1,
        "ipsecUnknownSpiErrors": 5,
        "ipsecAuthenticationErrors": (3 * (10**10 + 4)) & 0xFFFFFFFF,
    }
    assert {name: walk.one(name) for name in scalars} == scalars
    assert walk["selectorLocalIdType"] == {(1,): 4, (2,): 6}
    assert walk["selectorRemoteIdType"] == {(1,): 7, (2,): 5}
    assert walk["selectorLocalId"][2,] == ip_address("fd00::").packed + bytes([255] * 8 + [0] * 8)
    assert 1 not in {index[0] for index in walk["selectorProtocol"]}  # tcp on one side only
    assert walk["espAuthFailureTrapEnable"] == {(): 2}
    feed.ike_down(ike(state="DELETING"))
    walk = Walk("IPSEC-SA-MON-MIB", gateway, mibs)
    assert not walk["ipsecSaEspInCreator"]
    assert walk.one("ipsecEspCurrentInboundSAs") == 0
    assert walk.one("ipsecEspTotalInboundSAs") == 2
    assert walk.one("ipsecAuthenticationErrors") == scalars["ipsecAuthenticationErrors"]


def test_a_tunnel_that_is_down(gateway: Gateway, mibs: MibSet) -> None:
    feed = bundled(gateway)
    lan = (Selector.network("10.1.0.0/24"),)
    feed.apply_connections(
        [
            ConnectionRecord(
                "gw",
                remote_id="sun",
                remote_auth="psk",
                remote_host=ip_address("192.0.2.2"),
                children=(ConfiguredChild("net", "TUNNEL", lan, lan),),
            )
        ]
    )
    walk = Walk("CISCO-IPSEC-FLOW-MONITOR-MIB", gateway, mibs)
    assert walk.one("cipSecTunStatus") == walk.one("cikeTunStatus") == 2
    assert walk.one("cipSecTunIkeTunnelAlive") == 2
    assert walk.one("cipSecTunHcInOctets") == 0
    assert walk.one("cikeTunRemoteValue") == b"sun"
    assert walk.one("cikeTunAuthMethod") == 2
    assert walk.one("cipSecTunEncapMode") == 1
    assert walk.one("cipSecTunActiveTime") == 0
    assert walk.one("cikeGlobalActiveTunnels") == walk.one("cipSecGlobalActiveTunnels") == 0
    assert {"cikeTunLocalAddr", "cikeTunEncryptAlgo", "cipSecTunLifeTime", "cipSecSpiValue"} <= walk.empty()


def test_sources_table(gateway: Gateway, mibs: MibSet, now: list[float]) -> None:
    feed = bundled(gateway)
    now[0] += 2
    feed.lost("connection refused")
    now[0] += 3
    walk = Walk("IPSEC-GATEWAY-MIB", gateway, mibs)
    assert walk.one("igSourceState") == 2
    assert walk.one("igSourceLastError") == b"connection refused"
    assert walk.one("igSourceLastPollAge") == 500
    assert walk.one("igSourceReconnects") == 0
    assert walk.one("igSourcesConnected") == 0
    feed.lost("\u00e9" * 300)
    assert len(Walk("IPSEC-GATEWAY-MIB", gateway, mibs).one("igSourceLastError")) == 254  # whole characters
    feed.contact()
    walk = Walk("IPSEC-GATEWAY-MIB", gateway, mibs)
    assert walk.one("igSourceState") == walk.one("igSourceReconnects") == walk.one("igSourcesConnected") == 1


def test_wrong_sets_are_judged(gateway: Gateway) -> None:
    feed = bundled(gateway)
    feed.child_up(ike(child()))
    (row,) = gateway.tunnels.values()
    writer = StatusWriter()

    def refused(*arguments: Any) -> str:
        with pytest.raises(SetError) as caught:
            writer.test(gateway, *arguments)
        return caught.value.code.name

    assert refused(None, (9,), 2) == "noCreation"
    assert refused(row, (1,), 2) == "resourceUnavailable"  # nobody takes commands
    feed.source.commander = object()  # type: ignore[assignment]
    first = writer.test(gateway, row, (1,), 2)
    second = writer.test(gateway, row.ike, (1,), 2)
    assert isinstance(first, Destroy)
    assert first.merge_key == second.merge_key
    merged = first.merge(second)
    assert isinstance(merged, Destroy)
    assert (merged.ike_tunnels, merged.tunnels) == ([row.ike], [row])
    assert writer.test(gateway, row, (1,), 1).merge_key is None
    feed.ike_down(ike(state="DELETING"))
    assert refused(row, (1,), 1) == "inconsistentValue"
    assert writer.test(gateway, row, (1,), 2).merge_key is None
    with pytest.raises(SetError) as caught:
        ipsec_sa_mon.SwitchWriter().test(gateway, 1)
    assert caught.value.code.name == "inconsistentValue"
    assert ipsec_sa_mon.SwitchWriter().test(gateway, 2).commit() is None


def test_every_published_number_is_one(mibs: MibSet) -> None:
    """The numbers of the algorithm tables are labels of the conventions, and so are the flow monitor's words."""
    sad, flow = "IPSEC-SA-MON-MIB::", "CISCO-IPSEC-FLOW-MONITOR-MIB::"

    def syntax(name: str) -> Any:
        return mibs[name].syntax

    for number, _ in algorithms.ESP_TRANSFORMS.values():
        assert syntax(sad + "ipsecSaEspInEncAlg").permits(number)
    for auth, ah, _ in algorithms.INTEGRITY.values():
        assert syntax(sad + "ipsecSaEspInAuthAlg").permits(auth)
        assert syntax(sad + "ipsecSaAhInAuthAlg").permits(ah)
    for name in (*algorithms.ESP_TRANSFORMS, "SERPENT_CBC"):
        syntax(flow + "cikeTunEncryptAlgo").number(algorithms.flow_cipher(name))
    for name in ("MODP_NONE", "MODP_768", "MODP_1024", "MODP_2048", "ECP_256", "CURVE_25519"):
        syntax(flow + "cikeTunDiffHellmanGrp").number(algorithms.flow_dh_group(name))
    for name in ("psk", "rsa", "ecdsa", "ed25519", "pubkey", "eap", "xauth"):
        syntax(flow + "cikeTunAuthMethod").number(algorithms.flow_auth_method(name))
    assert algorithms.flow_cipher("DES_CBC") == "des"
    assert algorithms.flow_hash("PRF_HMAC_MD5", None) == "md5"
    assert algorithms.flow_auth("AES_GCM_16", None) == "none"
    assert algorithms.integrity("AES_CMAC_96") is None
    assert algorithms.esp_key_bits("3DES_CBC", None) == 192


def test_log_is_rate_limited() -> None:
    from agent.logs import BURST, INTERVAL, RateLimit

    clock = [0.0]
    limit = RateLimit(lambda: clock[0])

    def line(message: str) -> logging.LogRecord:
        return logging.LogRecord("agent.x", logging.WARNING, "", 0, message, (1,), None)

    assert sum(limit.filter(line("from %d")) for _ in range(500)) == BURST
    assert limit.filter(line("other %d"))
    clock[0] += INTERVAL + 1
    last = line("from %d")
    assert limit.filter(last)
    assert "480 such lines left out" in last.getMessage()
