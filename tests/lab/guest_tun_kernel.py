"""What a guest runs for tests/interop/test_tun_kernel.py: our userspace IPsec against the kernel's, without IKE.

    python guest_tun_kernel.py OUT [NAME...]

OUT becomes one JSON object: scenario -> `{"result": ...}` or `{"error": a traceback}`. Each scenario has its SAs with
keys of its own, in the same two namespaces: the TUN plane in one, the kernel in the other.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from espkit import ALGORITHMS, keys, ts

from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane
from ipsecstack.ipsec.sa import Mode
from ipsecstack.wire.transforms import IntegId
from lab.netns import Namespace, link, namespaces
from lab.tunhost import A6, AH_KEYS, B6, A, B, Host, connect

PORT = 7011
GCM, CBC = ALGORITHMS[0], ALGORITHMS[3]
TRANSPORT = {"mode": Mode.TRANSPORT}
SHA1 = {**AH_KEYS, "integ": IntegId.HMAC_SHA1_96, "key_integ": bytes(range(20))}
MD5 = {**AH_KEYS, "integ": IntegId.HMAC_MD5_96, "key_integ": bytes(range(16))}
# Name -> outer and inner IP version, and what the SAs are.
CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "ah-tunnel": (4, 4, AH_KEYS),
    "ah-tunnel-sha1": (4, 4, SHA1),
    "ah-tunnel-esn": (4, 4, {**AH_KEYS, "esn": True}),
    "ah-tunnel-6": (6, 6, AH_KEYS),
    "ah-tunnel-6-in-4": (4, 6, AH_KEYS),
    "ah-transport": (4, 4, {**AH_KEYS, **TRANSPORT}),
    "ah-transport-md5": (4, 4, {**MD5, **TRANSPORT}),
    "ah-transport-6": (6, 6, {**AH_KEYS, **TRANSPORT}),
    "esp-transport": (4, 4, {**keys(GCM), **TRANSPORT}),
    "esp-transport-cbc-esn": (4, 4, {**keys(CBC), **TRANSPORT, "esn": True}),
    "esp-transport-6": (6, 6, {**keys(GCM), **TRANSPORT}),
    "tfc": (4, 4, {**keys(GCM), "tfc": 1000}),
    "tfc-path": (4, 4, {**keys(GCM), "tfc": -1}),
    "sha256-96": (4, 4, {**keys(CBC), "sha256_96": True}),
    "ipcomp-tunnel": (4, 4, {**keys(GCM), "ipcomp_cpi": 0x4321}),
    "ipcomp-transport": (4, 4, {**keys(GCM), **TRANSPORT, "ipcomp_cpi": 0x4321}),
    "ipcomp-ah": (4, 4, {**AH_KEYS, "ipcomp_cpi": 0x4321}),
}


class World:
    def __init__(self, left: Namespace, right: Namespace) -> None:
        self.left, self.right = left, right

    @contextmanager
    def planes(self) -> Iterator[tuple[Host, XfrmDataPlane]]:
        host = Host(self.left, self.left.inside(TunDataPlane))
        kernel = self.right.inside(XfrmDataPlane)
        try:
            yield host, kernel
        finally:
            host.stop()
            kernel.close()

    def datagrams(self, ends: tuple[str, str], sizes: list[int]) -> list[list[int]]:
        """What came through of datagrams of zeros from left to right and back, by their sizes."""
        family = socket.AF_INET6 if ":" in ends[0] else socket.AF_INET
        found = []
        near, far = (ns.socket(family, socket.SOCK_DGRAM) for ns in (self.left, self.right))
        near.bind((ends[0], PORT))
        far.bind((ends[1], PORT))
        for sender, receiver, there in ((near, far, ends[1]), (far, near, ends[0])):
            got: list[int] = []
            for size in sizes:
                sender.sendto(bytes(size), (there, PORT))
                if select.select([receiver], [], [], 2.0)[0]:
                    got.append(len(receiver.recv(65535)))
            found.append(got)
        for sock in (near, far):
            sock.close()
        return found

    def case(self, name: str, number: int) -> dict[str, Any]:
        outer, inner, fields = CASES[name]
        ends = (A, B) if outer == 4 else (A6, B6)
        transport = "mode" in fields
        texts = tuple(str(end.host) for end in ends)
        if not transport:
            texts = ("10.1.0.1", "10.2.0.1") if inner == 4 else ("fd01::1", "fd02::1")
        left, right = ts(f"{texts[0]}[udp]"), ts(f"{texts[1]}[udp]")
        sizes = [0, 1, 100, 1000, 1300, 3000]
        with self.planes() as (host, kernel):
            connect((host.plane, kernel), ends, left, right, 0x1000 + 2 * number, reqid=number + 1, **fields)
            got = self.datagrams((texts[0], texts[1]), sizes)
            ours = {sa.id.direction.value: sa.counters for sa in host.plane.sad}
            theirs = {sa.id.direction.value: kernel.query(self.other(sa.id)) for sa in host.plane.sad}
            return {
                "sizes": sizes,
                "got": got,
                "failures": [str(error) for error in host.failures],
                "errors": [
                    c.integrity_errors + c.replay_errors + c.policy_errors + c.other_errors + c.padding_errors
                    for c in ours.values()
                ],
                "packets": {way: c.packets for way, c in ours.items()},
                "octets": {way: c.octets for way, c in ours.items()},
                "kernel_packets": {way: c.packets if c else None for way, c in theirs.items()},
                "kernel_octets": {way: c.octets if c else None for way, c in theirs.items()},
                "details": {
                    way: [c.details.padded, c.details.compressed] for way, c in ours.items() if c.details
                },
            }

    @staticmethod
    def other(sa: Any) -> Any:
        """The same SA as the other end has it."""
        from dataclasses import replace

        from ipsecstack.ipsec.sa import Direction

        return replace(sa, direction=Direction.IN if sa.direction is Direction.OUT else Direction.OUT)

    def virtual_network(self) -> dict[str, Any]:
        """RFC 3884: IPIP interfaces at both ends, forwarding first; one transport mode SA, and a route that changes."""
        for ns, mine, other, there in (
            (self.left, A, B, "10.2.0.0/24"),
            (self.right, B, A, "10.1.0.0/24"),
        ):
            ns.ip(
                f"link add net1 type ipip local {mine.host} remote {other.host} ttl 64",
                "link set net1 up",
                f"route replace {there} dev net1",
            )
        try:
            with self.planes() as (host, kernel):
                fields = {**keys(GCM), **TRANSPORT, "reqid": 99}
                left, right = ts(f"{A.host}[4]"), ts(f"{B.host}[4]")
                connect((host.plane, kernel), (A, B), left, right, 0x7000, **fields)
                before = self.datagrams(("10.1.0.1", "10.2.0.1"), [10, 1000, 1300])
                self.right.add_address("10.99.0.1/24")
                self.left.ip("route add 10.99.0.0/24 dev net1")
                after = self.datagrams(("10.1.0.1", "10.99.0.1"), [10])
                # With the SA gone nothing passes: what is not protected is not of this interface.
                for sa in [sa.id for sa in host.plane.sad]:
                    host.plane.remove(sa)
                time.sleep(0.1)
                gone = self.datagrams(("10.1.0.1", "10.2.0.1"), [10])
                return {"before": before, "after": after, "gone": gone}
        finally:
            for ns in (self.left, self.right):
                ns.ip("link del net1")

    def dummies(self) -> dict[str, Any]:
        """The kernel drops ours without a word, and counts none of it as an error."""
        with self.planes() as (host, kernel):
            left, right = ts("10.1.0.1[udp]"), ts("10.2.0.1[udp]")
            connect((host.plane, kernel), (A, B), left, right, 0x7100, reqid=98)
            (out,) = host.plane.sad.outbound(98)
            host.plane.send_dummies(out.id, 5)
            got = self.datagrams(("10.1.0.1", "10.2.0.1"), [10, 20])
            counters = kernel.query(self.other(out.id))
            stat = self.right.run("cat", "/proc/net/xfrm_stat").split()
            return {
                "got": got,
                "sent": out.sequence_number,
                "kernel": [counters.integrity_errors, counters.replay_errors] if counters else None,
                "no_states": stat[stat.index("XfrmInNoStates") + 1],
            }


def main(out: Path, wanted: list[str]) -> None:
    outcome: dict[str, Any] = {}
    with namespaces("a", "b") as (left, right):
        link(left, right)
        for ns, end in ((left, 1), (right, 2)):
            ns.add_address(f"192.0.2.{end}/24", f"2001:db8::{end}/64", device="wan")
            ns.add_address(f"10.{end}.0.1/32", f"fd0{end}::1/128")
        right.ip(
            "route add 10.1.0.0/24 via 192.0.2.1 src 10.2.0.1",
            "route add fd01::/64 via 2001:db8::1 src fd02::1",
        )
        world = World(left, right)
        scenes: dict[str, Any] = {
            name: lambda name=name, number=number: world.case(name, number)
            for number, name in enumerate(CASES)
        }
        scenes["dummies"] = world.dummies
        scenes["virtual-network"] = world.virtual_network
        for name, scene in scenes.items():
            if wanted and name not in wanted:
                continue
            started = time.monotonic()
            try:
                outcome[name] = {"result": scene()}
            except Exception:
                outcome[name] = {"error": traceback.format_exc()}
            print(f"{name}: {time.monotonic() - started:.2f} s", file=sys.stderr)
            out.write_text(json.dumps(outcome, indent=1))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
