"""ESP datagrams captured on the wire and sent once more: just the right cell of ipsecSaEspReplayTable moves.

The same for IKE messages that nobody could have made who has the keys.

OIDs are written out as published, so that nothing here depends on our own MIB modules.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import traffic
from lab.capture import Capture
from lab.netns import Namespace
from lab.ours import OurAgent
from lab.policy import require_tool
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.topology import WAN4, WAN6, Pair, pair

ESP_IN = "1.3.6.1.3.98.1.1.2.1"
REPLAYS = "1.3.6.1.3.98.1.1.8.1"
REPLAYS_AH = "1.3.6.1.3.98.1.1.9.1"
IKE_DECRYPT_FAILS = "1.3.6.1.4.1.9.9.171.1.2.1.24.0"
IKE_HASH_FAILS = "1.3.6.1.4.1.9.9.171.1.2.1.25.0"
REPLAY_ERRORS_OF_ALL = "1.3.6.1.3.98.1.3.3.0"
ESP = 50
WINDOW = 32
POLLS = 1.2  # seconds in which the agent has polled twice
TUNNELS = (
    Tunnel(children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24"), options={"replay_window": str(WINDOW)}),)),
    Tunnel(
        name="six",
        addresses=WAN6,
        identities=("a6.lab", "b6.lab"),
        # No AEAD: these packets are opened one by one.
        children=(
            Child(
                "lan6", ("fd01::/64", "fd02::/64"), "aes256-sha256", options={"replay_window": str(WINDOW)}
            ),
        ),
    ),
)


@dataclass
class Wire:
    """One tunnel from b to the watched gateway a: its packets as they pass, held back, changed and repeated."""

    pair: Pair
    agent: OurAgent
    child: str
    wan: tuple[str, str]
    packets: list[bytes]
    """ESP packets to a, as captured, without IP header."""

    @property
    def sender(self) -> Namespace:
        return self.pair.namespaces[1]

    def send(self, count: int) -> list[bytes]:
        """New datagrams through the tunnel, in order; their ESP packets."""
        left, right = self.pair.ends(self.child)
        capture = Capture(self.sender, self.pair.folder / "replay.pcap")
        try:
            traffic.send_udp(self.sender, self.pair.namespaces[0], right, left, [100] * count)
            time.sleep(0.2)
        finally:
            capture.stop()
        return self.esp(capture)

    def withhold(self, count: int) -> list[bytes]:
        """New datagrams that b sends and a never gets: their frames go to a station that is not there."""
        left, right = self.pair.ends(self.child)
        neighbour = ("neigh", "replace", self.wan[0], "lladdr", "02:00:00:00:00:99", "dev", "wan", "nud")
        self.sender.run("ip", *neighbour, "permanent")
        capture = Capture(self.sender, self.pair.folder / "replay.pcap")
        try:
            with self.sender.socket(traffic.family_of(left), socket.SOCK_DGRAM) as sending:
                sending.bind((right, 0))
                for _ in range(count):
                    sending.sendto(bytes(100), (left, 7008))
            time.sleep(0.3)
        finally:
            capture.stop()
            self.sender.run("ip", "neigh", "del", self.wan[0], "dev", "wan")
        return self.esp(capture)

    def repeat(self, *packets: bytes) -> None:
        """Put ESP packets on the wire as b would."""
        with self.sender.socket(traffic.family_of(self.wan[0]), socket.SOCK_RAW, ESP) as raw:
            raw.bind((self.wan[1], 0))
            for packet in packets:
                raw.sendto(packet, (self.wan[0], 0))

    def esp(self, capture: Capture) -> list[bytes]:
        source, target = (ipaddress.ip_address(address).packed for address in self.wan[::-1])
        found = []
        for _, frame in capture.frames:
            ip = frame[14:]
            if frame[12:14] == b"\x08\x00" and ip[9] == ESP and (ip[12:16], ip[16:20]) == (source, target):
                found.append(ip[20 : int.from_bytes(ip[2:4], "big")])
            elif frame[12:14] == b"\x86\xdd" and ip[6] == ESP and (ip[8:24], ip[24:40]) == (source, target):
                found.append(ip[40 : 40 + int.from_bytes(ip[4:6], "big")])
        return found

    def cells(self) -> dict[str, int]:
        """The SA's row of the replay table and of ipsecSaEspInTable, as the agent shows them now."""
        packed = ipaddress.ip_address(self.wan[0]).packed
        spi = int(self.pair.a.child(self.child).spis[0], 16)
        index = ".".join(map(str, [1 if len(packed) == 4 else 2, len(packed), *packed, spi]))
        names = {
            "beyond": f"{REPLAYS}.1.{index}",
            "out of order": f"{REPLAYS}.2.{index}",
            "before": f"{REPLAYS}.3.{index}",
            "duplicate": f"{REPLAYS}.4.{index}",
            "zero": f"{REPLAYS}.5.{index}",
            "sum": f"{ESP_IN}.20.{index}",
            "auth errors": f"{ESP_IN}.19.{index}",
            "packets": f"{ESP_IN}.17.{index}",
        }
        values = self.agent.snmp.get(*names.values())
        return {name: values[oid].value for name, oid in names.items()}

    def moved(self, then: dict[str, int], **by: int) -> dict[str, int]:
        """Once the agent has polled: the cells that differ now, and by how much, are these and no others."""
        expected = {name.replace("_", " "): value for name, value in by.items()}
        wait_until(lambda: self.difference(then) == expected, 5)
        time.sleep(POLLS)
        assert self.difference(then) == expected
        return self.cells()

    def difference(self, then: dict[str, int]) -> dict[str, int]:
        return {name: value - then[name] for name, value in self.cells().items() if value != then[name]}


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Pair, OurAgent]]:
    for tool in ("snmpwalk", "snmpget"):
        require_tool(tool)
    with pair(("ours", "ours"), TUNNELS) as made:
        agent = OurAgent.of(made.a)
        agent.start()
        try:
            yield made, agent
        finally:
            agent.stop()


@pytest.fixture(params=["net", "lan6"])
def wire(request: pytest.FixtureRequest, lab: tuple[Pair, OurAgent]) -> Wire:
    made, agent = lab
    if not made.a.children(request.param):
        made.a.initiate(request.param)
        made.b.wait_child(request.param)
    wire = Wire(made, agent, request.param, WAN4 if request.param == "net" else WAN6, [])
    wire.packets = wire.send(WINDOW + 8)
    assert len(wire.packets) >= WINDOW + 8
    time.sleep(POLLS)
    return wire


def test_each_kind_moves_its_cell(wire: Wire) -> None:
    now = wire.cells()
    assert None not in now.values()
    everywhere = wire.agent.snmp.get_one(REPLAY_ERRORS_OF_ALL).value

    wire.repeat(*wire.packets[-3:])
    now = wire.moved(now, duplicate=3, sum=3)
    wire.repeat(*wire.packets[:5])
    now = wire.moved(now, before=5, sum=5)
    wire.repeat(wire.packets[-1][:4] + bytes(4) + wire.packets[-1][8:])
    now = wire.moved(now, zero=1, sum=1)

    late = wire.withhold(2)
    assert len(late) == 2
    wire.send(4)
    now = wire.moved(now, packets=4)
    wire.repeat(*late)
    now = wire.moved(now, out_of_order=2, packets=2)
    wire.repeat(*late)
    now = wire.moved(now, duplicate=2, sum=2)

    # A number far ahead is no replay: it is the ICV that tells that nobody of ours made it.
    wire.repeat(wire.packets[-1][:4] + b"\x7f\xff\xff\xff" + wire.packets[-1][8:])
    now = wire.moved(now, auth_errors=1)
    assert now["beyond"] == 0
    assert now["sum"] == now["before"] + now["duplicate"] + now["zero"] + now["beyond"]
    assert wire.agent.snmp.get_one(REPLAY_ERRORS_OF_ALL).value - everywhere == 11
    assert traffic.ping(*wire.pair.namespaces[:1], *wire.pair.ends(wire.child)).lost == 0


def test_the_tables_by_walk(wire: Wire) -> None:
    """One row for each inbound ESP SA with all five columns, and nothing of AH."""
    rows = wire.agent.snmp.walk(REPLAYS)
    sas = {oid.removeprefix(f"{ESP_IN}.17.") for oid in wire.agent.snmp.walk(f"{ESP_IN}.17")}
    assert sas
    assert set(rows) == {f"{REPLAYS}.{column}.{index}" for column in range(1, 6) for index in sas}
    assert {value.type for value in rows.values()} == {"Counter32"}
    assert not wire.agent.snmp.walk(REPLAYS_AH)


def test_forged_ike_messages_are_integrity_failures(wire: Wire) -> None:
    """An INFORMATIONAL request under the live IKE SA's SPIs with an ICV out of the blue, as if from the peer."""
    (sa,) = (sa for sa in wire.pair.a.established() if sa.raw["remote-host"] == wire.wan[1])
    assert sa.raw["initiator"] == "yes"
    target = int(sa.raw["local-port"])
    before = wire.agent.snmp.get(IKE_HASH_FAILS, IKE_DECRYPT_FAILS)
    body = os.urandom(60)
    ike = b"".join(bytes.fromhex(spi) for spi in sa.spis) + struct.pack(
        "!BBBBII", 46, 0x20, 37, 0, 0, 28 + 4 + len(body)
    )
    ike += struct.pack("!BBH", 0, 0, 4 + len(body)) + body
    payload = (bytes(4) if target == 4500 else b"") + ike
    with wire.sender.socket(traffic.family_of(wire.wan[0]), socket.SOCK_DGRAM) as udp:
        udp.bind((wire.wan[1], 0))  # an IKE SA is found by its SPIs, and the port may be a NAT's
        for _ in range(3):
            udp.sendto(payload, (wire.wan[0], target))
    expected = (before[IKE_HASH_FAILS].value + 3, before[IKE_DECRYPT_FAILS].value)
    wait_until(lambda: wire.agent.snmp.get_one(IKE_HASH_FAILS).value == expected[0], 5)
    after = wire.agent.snmp.get(IKE_HASH_FAILS, IKE_DECRYPT_FAILS)
    assert (after[IKE_HASH_FAILS].value, after[IKE_DECRYPT_FAILS].value) == expected
    assert sa.uniqueid in {other.uniqueid for other in wire.pair.a.established()}
