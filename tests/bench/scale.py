"""Many SAs: exchanges a second and memory at 1,000 and 10,000, and a storm of 1,000 rekeys under traffic.

Two whole gateways in one process, joined by a queue instead of a wire; no device, no socket. The responder has one
connection for everybody, as a gateway has, the initiator one for each peer. Each number of SAs is measured in a
process of its own: memory is what the process grew by, the collector having run.

    python -m bench.scale scale COUNT | storm COUNT
"""

from __future__ import annotations

import dataclasses
import gc
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.in_memory import IKE, SECRET, gateway
from lab.swanconf import Child, Tunnel

from ipsecstack.config.identity import parse_identity
from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.base import SendDatagram

SCALES = (1_000, 10_000)
STORM = 1_000
STORM_CHILDREN = 10  # of one IKE_SA
BURST = 20  # packets that go both ways between two datagrams of IKE
ESP = "aes128gcm16-x25519"


def resident() -> int:
    """Octets of this process in memory, after a full collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("bench: no VmRSS")


def networks(number: int) -> tuple[str, str]:
    """Selectors of the initiator's and the responder's side of the `number`th child."""
    high, low = divmod(number, 256)
    return f"10.{high}.{low}.0/24", f"172.{high}.{low}.0/24"


def selector(network: str) -> tuple[TrafficSelector, ...]:
    return (TrafficSelector.from_text(network),)


class Pair:
    """Initiator with a connection `cN` for each of `peers`, each with `children` children, and one responder."""

    def __init__(self, place: Path, peers: int, children: int) -> None:
        wide = Tunnel(
            name="in",
            identities=("%any", "gw.lab"),
            children=(Child("net", ("10.0.0.0/8", "172.0.0.0/8"), ESP),),
            ike=IKE,
            options={"rekey_time": "0"},
        )
        # One end plays all the peers: it must not look for the same peer's other IKE_SAs among them.
        pattern = Tunnel(
            name="out",
            identities=("a.lab", "gw.lab"),
            children=wide.children,
            ike=IKE,
            options={"rekey_time": "0", "unique": "never"},
        )
        self.stacks = (
            gateway(place / "a", 0, (pattern,), {"*": SECRET}),
            gateway(place / "b", 1, (wide,), {"*": SECRET}),
        )
        (config,) = self.stacks[0].endpoint.connections()
        self.stacks[0].endpoint.unload_connection("out", 0.0)
        self.children: list[tuple[str, str, str]] = []  # name, the initiator's and the responder's network
        for peer in range(peers):
            own = []
            for number in range(peer * children, (peer + 1) * children):
                left, right = networks(number)
                own.append(
                    dataclasses.replace(
                        config.children[0],
                        name=f"n{number}",
                        local_ts=selector(left),
                        remote_ts=selector(right),
                    )
                )
                self.children.append((f"n{number}", left, right))
            local = dataclasses.replace(config.local[0], id=parse_identity(f"a{peer}.lab"))
            self.stacks[0].endpoint.load_connection(
                dataclasses.replace(config, name=f"c{peer}", local=(local,), children=tuple(own)), 0.0
            )
        for stack in self.stacks:
            stack.advance(0.0)
        self.each = children
        self.lost: set[int] = set()
        self.sent = 0

    def exchange(self, first: Iterable[SendDatagram], sender: int, now: float, traffic: bool = False) -> None:
        """Carry datagrams to and fro until both are silent, with packets in between if `traffic`."""
        queue = deque((sender, datagram) for datagram in first)
        number = 0
        while queue:
            sender, datagram = queue.popleft()
            receiver = 1 - sender
            answers = self.stacks[receiver].receive_datagram(
                datagram.data, datagram.remote, datagram.local, now
            )
            queue.extend((receiver, answer) for answer in answers)
            if traffic:
                number += 1
                self.burst(number * BURST, now)

    def initiate(self, child: int, now: float) -> None:
        self.stacks[0].endpoint.initiate(ike=f"c{child // self.each}", child=f"n{child}", now=now)
        self.exchange(self.stacks[0].advance(now), 0, now)

    def burst(self, start: int, now: float) -> None:
        """A numbered packet each way through BURST of the children; what does not arrive is lost."""
        for number in range(start, start + BURST):
            _, left, right = self.children[number % len(self.children)]
            for end, (source, destination) in enumerate(((left, right), (right, left))):
                packet = udp_packet(source, destination, self.sent)
                if not self.carry(end, packet, now):
                    self.lost.add(self.sent)
                self.sent += 1

    def carry(self, end: int, packet: bytes, now: float) -> bool:
        """Whether a packet that a host behind `end` sends comes out at the other end, unchanged and once."""
        sending, receiving = self.plane(end), self.plane(1 - end)
        receiving.delivered.clear()
        sending.inject([packet])
        for batch in sending.read_device(now):
            swapped: EspDatagrams = dataclasses.replace(batch, local=batch.remote, remote=batch.local)
            receiving.receive([swapped], now)
        return list(receiving.delivered) == [packet]

    def plane(self, end: int) -> MemoryDataPlane:
        plane = self.stacks[end].dataplane
        assert isinstance(plane, MemoryDataPlane)
        return plane

    def counts(self, end: int) -> tuple[int, int]:
        """IKE_SAs that stand, and their installed children."""
        views = self.stacks[end].endpoint.ike_sas()
        return (
            sum(view.state == "ESTABLISHED" for view in views),
            sum(child.state == "INSTALLED" for view in views for child in view.children),
        )


def udp_packet(source: str, destination: str, number: int) -> bytes:
    """An IPv4 packet with UDP (no checksum, which IPv4 allows) from the first host of one network to another's."""
    payload = number.to_bytes(8, "big") + bytes(56)
    udp = b"\x1b\x5f\x1b\x5f" + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    ends = b"".join(ipaddress.ip_network(network)[1].packed for network in (source, destination))
    head = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11"
    words = head + b"\0\0" + ends
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head + checksum.to_bytes(2, "big") + ends + udp


def at_scale(count: int) -> dict[str, float]:
    """`count` IKE_SAs with one child each, then a second child for each."""
    with tempfile.TemporaryDirectory() as place:
        pair = Pair(Path(place), count, 2)
        begin = resident()
        started = time.perf_counter()
        for peer in range(count):
            pair.initiate(2 * peer, 1.0)
        ike_time = time.perf_counter() - started
        with_ike = resident()
        started = time.perf_counter()
        for peer in range(count):
            pair.initiate(2 * peer + 1, 2.0)
        child_time = time.perf_counter() - started
        with_children = resident()
        for end in (0, 1):
            if pair.counts(end) != (count, 2 * count):
                raise SystemExit(f"bench: {pair.counts(end)} of {(count, 2 * count)} came up")
        pair.burst(0, 3.0)
        if pair.lost:
            raise SystemExit(f"bench: {len(pair.lost)} of {pair.sent} packets lost at rest")
        child = (with_children - with_ike) / (2 * count)
        return {
            "ike_rate": 2 * count / ike_time,
            "child_rate": count / child_time,
            "child_memory": child,
            "ike_memory": (with_ike - begin) / (2 * count) - child,
            "resident": with_children,
        }


def storm(count: int) -> dict[str, float]:
    """All of `count` children are rekeyed at once, half by each end, while packets go through all of them."""
    with tempfile.TemporaryDirectory() as place:
        pair = Pair(Path(place), count // STORM_CHILDREN, STORM_CHILDREN)
        for child in range(count):
            pair.initiate(child, 1.0)
        before = spis(pair)
        started = time.perf_counter()
        for end in (0, 1):
            for ike in pair.stacks[end].endpoint.ike_sas():
                for child in ike.children:
                    if child.uniqueid % 2 == end:
                        pair.stacks[end].endpoint.rekey(child_id=child.uniqueid, now=2.0)
            pair.exchange(pair.stacks[end].advance(2.0), end, 2.0, traffic=True)
        took = time.perf_counter() - started
        now = 2.0
        while any(stack.next_timer() is not None for stack in pair.stacks) and now < 30.0:
            now += 1.0  # the deleted SAs' time to go
            for end in (0, 1):
                pair.exchange(pair.stacks[end].handle_timer(now), end, now)
        after = spis(pair)
        changed = sum(not after[name] & before[name] for name in before)
        for end in (0, 1):
            if pair.counts(end)[1] != count:
                raise SystemExit(f"bench: {pair.counts(end)[1]} of {count} children stand at end {end}")
        return {"seconds": took, "sent": pair.sent, "lost": len(pair.lost), "rekeyed": changed}


def spis(pair: Pair) -> dict[str, set[int]]:
    """Child -> its SPIs at the initiator."""
    found: dict[str, set[int]] = {}
    for ike in pair.stacks[0].endpoint.ike_sas():
        for child in ike.children:
            if child.state == "INSTALLED":
                found.setdefault(child.name, set()).update((child.spi_in, child.spi_out))
    return found


def in_a_process(what: str, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", what, str(count)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"tests:{os.environ.get('PYTHONPATH', '')}"},
        timeout=1800,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"bench: {what} of {count} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(rounds: int) -> list[Figure]:
    """Once for the large numbers, as often as `rounds` for the storm."""
    figures = []
    first: Figure | None = None
    for scale in SCALES:
        seen = in_a_process("scale", scale)
        name = f"{scale:,} IKE_SAs"
        rate = Figure(f"exchanges, {name} from nothing, both ends", "a second", [seen["ike_rate"]])
        if first is not None:
            rate.against.append((f"with {SCALES[0]:,}", first))
        first = first or rate
        figures += [
            rate,
            Figure(f"CREATE_CHILD_SA with {name}, both ends, Curve25519", "a second", [seen["child_rate"]]),
            Figure(f"memory of an IKE_SA at {name}, one end", "octets", [seen["ike_memory"]]),
            Figure(
                f"memory of a CHILD_SA at {2 * scale:,}, one end, policies too",
                "octets",
                [seen["child_memory"]],
            ),
        ]
    storms = [in_a_process("storm", STORM) for _ in range(rounds)]
    figures += [
        Figure(f"rekey storm: {STORM:,} children, both ends", "s", [seen["seconds"] for seen in storms]),
        Figure("rekey storm: children that were rekeyed", "", [seen["rekeyed"] for seen in storms]),
        Figure("rekey storm: packets meanwhile", "", [seen["sent"] for seen in storms]),
        Figure("rekey storm: packets lost", "", [seen["lost"] for seen in storms]),
    ]
    return figures


if __name__ == "__main__":
    print(json.dumps({"scale": at_scale, "storm": storm}[sys.argv[1]](int(sys.argv[2]))))
