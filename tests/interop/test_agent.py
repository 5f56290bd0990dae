"""The agent's tables, walked by net-snmp, against what swanctl and the data plane say at that moment.

OIDs and enumerations are written out as published, so that nothing here depends on our own MIB modules.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from lab import traffic
from lab.gateway import ChildSa, Gateway
from lab.ours import OurAgent
from lab.policy import require_tool
from lab.process import wait_until
from lab.snmp import Snmp, SnmpError, Value
from lab.swanconf import Child, Tunnel
from lab.topology import WAN6, Pair, pair

SELECTOR = "1.3.6.1.3.98.1.1.1.1"
ESP_IN = "1.3.6.1.3.98.1.1.2.1"
ESP_OUT = "1.3.6.1.3.98.1.1.5.1"
SA_STATISTICS = "1.3.6.1.3.98.1.2"
CISCO = "1.3.6.1.4.1.9.9.171.1"
IKE_GLOBAL = f"{CISCO}.2.1"
IKE_TUNNEL = f"{CISCO}.2.3.1"
IPSEC_GLOBAL = f"{CISCO}.3.1"
IPSEC_TUNNEL = f"{CISCO}.3.2.1"
END_POINT = f"{CISCO}.3.3.1"
SPI = f"{CISCO}.3.4.1"
IKE_TUNNEL_STATUS = f"{IKE_TUNNEL}.35"
IPSEC_TUNNEL_STATUS = f"{IPSEC_TUNNEL}.51"
ACTIVE, DESTROY = "1", "2"

TUNNELS = (
    Tunnel(children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24")),)),
    Tunnel(
        name="six",
        addresses=WAN6,
        identities=("a6.lab", "b6.lab"),
        children=(Child("lan6", ("fd01::/64", "fd02::/64"), "aes256-sha256"),),
    ),
)


@pytest.fixture(scope="module", params=["ours", "strongswan"])
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[Pair, OurAgent]]:
    """Gateway a (ours, or strongSwan) watched by the agent; b is strongSwan. Both tunnels are up."""
    for tool in ("snmpwalk", "snmpbulkwalk", "snmpget", "snmpset"):
        require_tool(tool)
    with pair((request.param, "strongswan"), TUNNELS) as made:
        agent = OurAgent.of(made.a)
        agent.start()
        try:
            yield made, agent
        finally:
            agent.stop()


@pytest.fixture(autouse=True)
def both_up(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    for name in ("net", "lan6"):
        if not made.a.children(name):
            made.a.initiate(name)
    settle(made.a, agent)


def spis_seen(agent: OurAgent) -> set[tuple[int, int]]:
    """(direction, SPI) of every row of the SPI table."""
    return {(row[2].value, row[3].value) for row in agent.snmp.table(SPI).values()}


def spis_of(children: list[ChildSa]) -> set[tuple[int, int]]:
    pairs = {(1, int(child.spis[0], 16)) for child in children}
    return pairs | {(2, int(child.spis[1], 16)) for child in children}


def settle(gateway: Gateway, agent: OurAgent) -> None:
    """Until the agent shows just the SAs that the gateway has, with counters that no longer move."""
    wait_until(
        lambda: spis_seen(agent) == spis_of(gateway.children(state=None)),
        12,
        "the agent shows the gateway's SPIs, no others",
    )
    octets = {child.octets for child in gateway.children()}
    wait_until(
        lambda: (
            {
                (row[27].value, row[40].value)
                for row in agent.snmp.table(IPSEC_TUNNEL).values()
                if row[51].value == 1
            }
            == octets
            or any(any(pair) for pair in octets)
        ),
        3,
    )


def inet_index(address: str) -> str:
    """InetAddressType and InetAddress as index sub-identifiers, the address with its length in front."""
    packed = ipaddress.ip_address(address).packed
    return ".".join(map(str, [1 if len(packed) == 4 else 2, len(packed), *packed]))


def test_system_group(lab: tuple[Pair, OurAgent]) -> None:
    _, agent = lab
    system = agent.snmp.walk("1.3.6.1.2.1.1")
    assert system["1.3.6.1.2.1.1.4.0"].value == b"lab"
    assert system["1.3.6.1.2.1.1.6.0"].value == b"network namespace"
    assert system["1.3.6.1.2.1.1.7.0"].value == 76
    first = agent.snmp.get_one("1.3.6.1.2.1.1.3.0").value
    time.sleep(0.3)
    assert 25 <= agent.snmp.get_one("1.3.6.1.2.1.1.3.0").value - first <= 200
    packets = "1.3.6.1.2.1.11.1.0"
    before = agent.snmp.get_one(packets).value
    agent.snmp.get_one(packets)
    assert agent.snmp.get_one(packets).value == before + 2


def test_walks_agree_with_each_other(lab: tuple[Pair, OurAgent]) -> None:
    """GETNEXT and GETBULK, v2c and v3, find the same objects in increasing order (net-snmp checks that)."""
    _, agent = lab
    for root in ("1.3.6.1.3.98", f"{CISCO}"):
        by_next = list(agent.snmp.walk(root, bulk=False))
        assert len(by_next) > 50
        assert list(agent.snmp.walk(root)) == by_next
        assert list(agent.operator.walk(root)) == by_next


def test_esp_tables_show_the_gateways_sas(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    end_a, end_b = made.ends("net")
    assert traffic.ping(made.namespaces[0], end_a, end_b, count=4).lost == 0
    sas = {sa.name: sa for sa in made.a.ike_sas()}
    expected = {"gw": (20, 128, 0, 0), "six": (12, 256, 5, 256)}
    inbound, outbound = agent.snmp.table(ESP_IN), agent.snmp.table(ESP_OUT)
    assert len(inbound) == len(outbound) == 2
    for name, (encr, encr_bits, auth, auth_bits) in expected.items():
        sa = sas[name]
        (child,) = sa.children
        row = inbound[f"{inet_index(sa.raw['local-host'])}.{int(child.spis[0], 16)}"]
        out = outbound[f"{inet_index(sa.raw['remote-host'])}.{int(child.spis[1], 16)}"]
        for got in (row, out):
            assert got[5].value == 2, "the creator is IKE"
            assert got[6].value == 3, "in UDP, as strongSwan's userspace ESP always is"
            assert (got[7].value, got[8].value) == (encr, encr_bits)
            assert (got[9].value, got[10].value) == (auth, auth_bits)
        if made.a.kind == "ours":
            assert row[11].value == int(child.raw["replay-window"])
            assert row[12].value == out[11].value == int(child.raw["lifetime-seconds"])
            errors = ("integrity", "replay", "policy", "padding")
            assert [row[column].value for column in (19, 20, 21, 22)] == [
                int(child.raw[f"{kind}-errors-in"]) for kind in errors
            ]
        else:
            assert 19 not in row, "strongSwan counts no integrity errors: nothing may be invented"
        assert out[4].value == row[4].value
    statistics = agent.snmp.walk(SA_STATISTICS)
    assert statistics[f"{SA_STATISTICS}.1.0"].value == statistics[f"{SA_STATISTICS}.3.0"].value == 2


def test_selectors(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    rows = agent.snmp.table(SELECTOR)
    child = made.a.child("net")
    (number,) = [
        row[4].value
        for index, row in agent.snmp.table(ESP_IN).items()
        if index.endswith(f".{int(child.spis[0], 16)}")
    ]
    row = rows[str(number)]
    network = [ipaddress.ip_network(child.raw[key][0]) for key in ("local-ts", "remote-ts")]
    assert row[2].value == network[0].network_address.packed + network[0].netmask.packed
    assert row[4].value == network[1].network_address.packed + network[1].netmask.packed
    assert row[3].value == row[5].value == 4, "idIpv4AddrSubnet"
    assert (row[6].value, row[7].value, row[8].value) == (0, 0, 0)


def test_cisco_tables_show_the_gateways_tunnels(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    ikes = agent.snmp.table(IKE_TUNNEL)
    tunnels = agent.snmp.table(IPSEC_TUNNEL)
    assert len(ikes) == len(tunnels) == 2
    sas = {sa.name: sa for sa in made.a.ike_sas()}
    by_address = {row[8].value: (index, row) for index, row in ikes.items()}
    for name, _group in (("gw", "x25519"), ("six", "x25519")):
        sa = sas[name]
        packed = ipaddress.ip_address(sa.raw["remote-host"]).packed
        index, ike = by_address[packed]
        assert ike[4].value == ipaddress.ip_address(sa.raw["local-host"]).packed
        assert ike[35].value == 1
        assert ike[16].value >= 0
        if made.a.kind == "ours":
            counted = sa.raw["counters"]
            assert ike[19].value == int(counted["octets-in"])
            assert ike[28].value == int(counted["packets-out"])
        ((tunnel_index, tunnel),) = [(i, t) for i, t in tunnels.items() if t[5].value == packed]
        assert tunnel[2].value == int(index)
        assert tunnel[3].value == 1
        assert tunnel[6].value == 1, "keyed by IKE"
        assert tunnel[7].value == 1, "tunnel mode"
        assert tunnel[51].value == 1
        (child,) = sa.children
        ((end_index, end),) = [
            (i, e) for i, e in agent.snmp.table(END_POINT).items() if i.split(".")[0] == tunnel_index
        ]
        assert end_index == f"{tunnel_index}.1"
        local = ipaddress.ip_network(child.raw["local-ts"][0])
        remote = ipaddress.ip_network(child.raw["remote-ts"][0])
        assert (end[3].value, end[8 + 1].value) == (3, 3), "subnets"
        assert (end[4].value, end[5].value) == (local.network_address.packed, local.netmask.packed)
        assert (end[10].value, end[11].value) == (remote.network_address.packed, remote.netmask.packed)
        spis = {
            (row[2].value, row[3].value, row[4].value)
            for i, row in agent.snmp.table(SPI).items()
            if i.split(".")[0] == tunnel_index
        }
        assert spis == {(1, int(child.spis[0], 16), 2), (2, int(child.spis[1], 16), 2)}
    ike_global, ipsec_global = agent.snmp.walk(IKE_GLOBAL), agent.snmp.walk(IPSEC_GLOBAL)
    assert ike_global[f"{IKE_GLOBAL}.1.0"].value == 2
    assert ipsec_global[f"{IPSEC_GLOBAL}.1.0"].value == 2


Counts = dict[str, int]


def counts(agent: OurAgent, pair_: Pair, name: str) -> Counts:
    """Octets and packets of one child, as every object that counts them says it."""
    child = pair_.a.child(name)
    sa = next(sa for sa in pair_.a.ike_sas() if any(c.name == name for c in sa.children))
    packed = ipaddress.ip_address(sa.raw["remote-host"]).packed
    (tunnel,) = [row for row in agent.snmp.table(IPSEC_TUNNEL).values() if row[5].value == packed]
    everywhere = agent.snmp.walk(IPSEC_GLOBAL)
    inbound = agent.snmp.table(ESP_IN)[f"{inet_index(sa.raw['local-host'])}.{int(child.spis[0], 16)}"]
    outbound = agent.snmp.table(ESP_OUT)[f"{inet_index(sa.raw['remote-host'])}.{int(child.spis[1], 16)}"]
    return {
        "vici in": child.octets[0],
        "vici out": child.octets[1],
        "vici packets in": child.packets[0],
        "vici packets out": child.packets[1],
        "SA in": inbound[16].value,
        "SA packets in": inbound[17].value,
        "SA out": outbound[15].value,
        "SA packets out": outbound[16].value,
        "tunnel in": tunnel[27].value,
        "tunnel in 32": tunnel[26].value,
        "tunnel packets in": tunnel[32].value,
        "tunnel out": tunnel[40].value,
        "tunnel packets out": tunnel[45].value,
        "global in": everywhere[f"{IPSEC_GLOBAL}.4.0"].value,
        "global packets in": everywhere[f"{IPSEC_GLOBAL}.9.0"].value,
        "global out": everywhere[f"{IPSEC_GLOBAL}.17.0"].value,
        "global packets out": everywhere[f"{IPSEC_GLOBAL}.22.0"].value,
    }


@pytest.mark.parametrize("name", ["net", "lan6"])
def test_counters_move_by_exactly_the_octets_sent(lab: tuple[Pair, OurAgent], name: str) -> None:
    made, agent = lab
    left, right = made.namespaces
    end_a, end_b = made.ends(name)
    time.sleep(1.2)  # two polls: what came before is in
    before = counts(agent, made, name)
    out = traffic.send_udp(left, right, end_a, end_b, [64, 65, 66, 1200, 1339])
    back = traffic.send_udp(right, left, end_b, end_a, [777])
    expected = {}
    for key in before:
        inwards = " in" in key
        expected[key] = (1 if inwards else 5) if "packets" in key else (back if inwards else out)

    def moved() -> dict[str, int]:
        now = counts(agent, made, name)
        return {key: now[key] - before[key] for key in now}

    deadline = time.monotonic() + 5
    while moved() != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert moved() == expected
    time.sleep(1.2)
    assert moved() == expected, "counters went on without traffic"


def test_totals_outlive_a_rekey(lab: tuple[Pair, OurAgent]) -> None:
    """No reset, no vanished row, no false 'down' while a child is rekeyed under traffic; not one octet is missed."""
    made, agent = lab
    left, right = made.namespaces
    end_a, end_b = made.ends("net")
    time.sleep(1.2)
    ((index, _),) = [
        (i, row)
        for i, row in agent.snmp.table(IPSEC_TUNNEL).items()
        if row[5].value == ipaddress.ip_address("10.99.0.2").packed
    ]

    def totals() -> tuple[Value, Value, Value]:
        got = agent.snmp.get(*(f"{IPSEC_TUNNEL}.{column}.{index}" for column in (27, 40, 51)))
        return tuple(got.values())  # type: ignore[return-value]

    start_in, start_out, _ = totals()
    sent = 0
    last = (start_in.value, start_out.value)
    for _ in range(3):
        old = made.a.child("net").spis
        sent += traffic.send_udp(left, right, end_a, end_b, [500] * 40)
        if made.a.kind == "strongswan":
            # strongSwan itself forgets what a rekeyed SA carried: only what a poll has seen can be kept.
            wait_until(
                lambda sent=sent: totals()[1].value - start_out.value == sent, 5, f"{sent} octets polled"
            )
        made.a.swanctl("--rekey", "--child", "net")
        sent += traffic.send_udp(left, right, end_a, end_b, [500] * 40)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            octets_in, octets_out, status = totals()
            assert status.value == 1, "shown as down in a rekey"
            assert octets_in.value >= last[0]
            assert octets_out.value >= last[1]
            last = (octets_in.value, octets_out.value)
        made.a.wait_other_child(old, "net")
    deadline = time.monotonic() + 8
    while totals()[1].value - start_out.value != sent and time.monotonic() < deadline:
        time.sleep(0.1)
    assert totals()[1].value - start_out.value == sent
    time.sleep(1.2)
    assert totals()[1].value - start_out.value == sent
    assert totals()[0].value == start_in.value
    refreshes = agent.snmp.get_one(f"{IPSEC_TUNNEL}.13.{index}").value
    assert refreshes >= 3


# --- SET --------------------------------------------------------------------------------------------------------------


def row_of(agent: OurAgent, entry: str, address_column: int, address: str) -> str:
    packed = ipaddress.ip_address(address).packed
    (index,) = [i for i, row in agent.snmp.table(entry).items() if row[address_column].value == packed]
    return index


def test_set_destroys_an_ipsec_tunnel(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    index = row_of(agent, IPSEC_TUNNEL, 5, "10.99.0.2")
    ike = next(sa.spis for sa in made.a.established() if sa.name == "gw")
    agent.operator.set((f"{IPSEC_TUNNEL_STATUS}.{index}", "i", DESTROY))
    for gateway in made.gateways:
        wait_until(
            lambda gateway=gateway: not gateway.children("net", None), 5, f"{gateway.name}: child is gone"
        )
    assert ike in [sa.spis for sa in made.a.established()], "the IKE SA was to stay"
    assert made.b.children("lan6"), "another tunnel was hit"
    assert traffic.ping(made.namespaces[0], *made.ends("net"), count=2, wait=0.3).received == 0


def test_set_destroys_an_ike_sa(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    index = row_of(agent, IKE_TUNNEL, 8, "10.99.0.2")
    agent.operator.set((f"{IKE_TUNNEL_STATUS}.{index}", "i", DESTROY))
    for gateway in made.gateways:
        wait_until(
            lambda gateway=gateway: "gw" not in [sa.name for sa in gateway.ike_sas()],
            5,
            f"{gateway.name}: gone",
        )
    assert [sa.name for sa in made.b.established()] == ["six"]


def test_set_active_changes_nothing(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    before = spis_of(made.b.children())
    index = row_of(agent, IPSEC_TUNNEL, 5, "10.99.0.2")
    agent.operator.set((f"{IPSEC_TUNNEL_STATUS}.{index}", "i", ACTIVE))
    time.sleep(0.3)
    assert spis_of(made.b.children()) == before


WRONG = {
    "unknown value": ([("{ipsec}", "i", "3")], "wrongValue", 1),
    "zero": ([("{ipsec}", "i", "0")], "wrongValue", 1),
    "negative": ([("{ike}", "i", "-1")], "wrongValue", 1),
    "wrong type": ([("{ipsec}", "s", "destroy")], "wrongType", 1),
    "wrong number type": ([("{ipsec}", "u", "2")], "wrongType", 1),
    "read-only column": ([(f"{IPSEC_TUNNEL}.27.{{index}}", "u", "0")], "notWritable", 1),
    "absent row": ([(f"{IPSEC_TUNNEL_STATUS}.2147480000", "i", "2")], "noCreation", 1),
    "index too long": ([(f"{IPSEC_TUNNEL_STATUS}.{{index}}.7", "i", "2")], "noCreation", 1),
    "no index": ([(IPSEC_TUNNEL_STATUS, "i", "2")], "noCreation", 1),
    "unknown object": ([("1.3.6.1.4.1.9.9.171.1.3.2.1.99.1", "i", "2")], "notWritable", 1),
    "half-bad, value": ([("{ipsec}", "i", "2"), ("{ike}", "i", "9")], "wrongValue", 2),
    "half-bad, read-only": ([("{ipsec}", "i", "2"), ("1.3.6.1.2.1.1.3.0", "t", "0")], "notWritable", 2),
    "half-bad, first": (
        [(f"{IKE_TUNNEL_STATUS}.2147480000", "i", "2"), ("{ipsec}", "i", "2")],
        "noCreation",
        1,
    ),
    "half-bad of three": (
        [("{ike}", "i", "2"), ("{ipsec}", "s", "x"), ("{ipsec}", "i", "2")],
        "wrongType",
        2,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_set_changes_nothing(lab: tuple[Pair, OurAgent], case: str) -> None:
    made, agent = lab
    varbinds, status, failed = WRONG[case]
    ike = row_of(agent, IKE_TUNNEL, 8, "10.99.0.2")
    ipsec = row_of(agent, IPSEC_TUNNEL, 5, "10.99.0.2")
    names = {"ipsec": f"{IPSEC_TUNNEL_STATUS}.{ipsec}", "ike": f"{IKE_TUNNEL_STATUS}.{ike}", "index": ipsec}
    filled = [(oid.format(**names), kind, value) for oid, kind, value in varbinds]
    before = [(sa.spis, spis_of(list(sa.children))) for sa in made.b.established()]
    with pytest.raises(SnmpError) as caught:
        agent.operator.set(*filled)
    assert caught.value.status == status
    assert caught.value.failed == filled[failed - 1][0]
    time.sleep(0.2)
    assert [(sa.spis, spis_of(list(sa.children))) for sa in made.b.established()] == before
    assert traffic.ping(made.namespaces[0], *made.ends("net"), count=1).lost == 0


def test_readers_may_not_write(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    index = row_of(agent, IPSEC_TUNNEL, 5, "10.99.0.2")
    before = spis_of(made.b.children())
    with pytest.raises(SnmpError) as caught:
        agent.snmp.set((f"{IPSEC_TUNNEL_STATUS}.{index}", "i", DESTROY))
    assert caught.value.status == "authorizationError", "RFC 3413 3.2: no write view at all"
    time.sleep(0.2)
    assert spis_of(made.b.children()) == before


def test_strangers_get_no_answer(lab: tuple[Pair, OurAgent]) -> None:
    _, agent = lab
    stranger = Snmp(agent.snmp.target, agent.snmp.namespace, ("-v2c", "-c", "public"), timeout=0.3, retries=0)
    assert not stranger.answers()
    forger = replace(agent.access, auth_password="not the password")
    assert not Snmp(
        agent.snmp.target, agent.snmp.namespace, forger.operator(), timeout=0.3, retries=0
    ).answers()
    # The v3 user below the level that its group asks for
    low = ("-v3", "-l", "noAuthNoPriv", "-u", agent.access.user)
    assert not Snmp(agent.snmp.target, agent.snmp.namespace, low, timeout=0.3, retries=0).answers()
    assert agent.snmp.answers()


def test_no_secret_in_the_logs(lab: tuple[Pair, OurAgent]) -> None:
    made, agent = lab
    texts = agent.process.text() + made.a.log()
    for secret in (
        agent.access.community,
        agent.access.auth_password,
        agent.access.priv_password,
        *made.psk.values(),
    ):
        assert secret not in texts
