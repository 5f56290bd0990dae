"""What a guest runs for tests/interop/test_kernel_esp.py: ipsecstackd beside charon with the kernel's ESP.

    python guest_kernel_esp.py OUT ROLE      ROLE: we-initiate | we-respond

One pair of daemons serves all scenarios, each on a connection of its own. OUT becomes one JSON object: scenario ->
`{"result": what was seen}` or `{"error": a traceback and the logs}`, written again after each. Nothing is judged here.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import traffic
from lab.capture import Capture
from lab.gateway import ChildSa, Gateway
from lab.netns import Namespace
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.topology import WAN4, WAN6, Pair, pair

ETHERNET = 14
ESP, UDP = 50, 17
NETLINK_XFRM, XFRM_MSG_NEWAE, XFRMA_REPLAY_ESN_VAL = 6, 0x1E, 23
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE = 1, 4, 0x100
NOWHERE = "02:00:00:00:00:99"
Seen = dict[str, Any]


def tunnel(
    number: int, name: str, esp: str, v6: tuple[bool, bool] = (False, False), **options: dict[str, str]
) -> Tunnel:
    """A connection of its own identities and LANs; `v6`: (outside, inside)."""
    lans = (f"10.1.{number}.0/24", f"10.2.{number}.0/24")
    if v6[1]:
        lans = (f"fd01:{number}::/64", f"fd02:{number}::/64")
    return Tunnel(
        name=name,
        addresses=WAN6 if v6[0] else WAN4,
        identities=(f"a.{name}.lab", f"b.{name}.lab"),
        children=(Child(f"{name}-net", lans, esp, options.get("child", {})),),
        options=options.get("ike", {}),
    )


WIDE = {"replay_window": "64"}
TUNNELS = (
    tunnel(0, "gcm", "aes128gcm16-x25519"),
    tunnel(1, "chacha", "chacha20poly1305-x25519"),
    tunnel(2, "cbc", "aes128-sha256-x25519"),
    tunnel(3, "esn-gcm", "aes256gcm16-x25519-esn", child=WIDE),
    tunnel(4, "esn-cbc", "aes256-sha256-x25519-esn", child=WIDE),
    tunnel(5, "udp-gcm", "aes128gcm16-x25519", ike={"encap": "yes"}),
    tunnel(6, "udp-cbc", "aes128-sha256-x25519", ike={"encap": "yes"}),
    tunnel(7, "6-in-4", "aes128gcm16-x25519", (False, True)),
    tunnel(8, "4-in-6", "aes128gcm16-x25519", (True, False)),
    tunnel(9, "6-in-6", "aes128-sha256-x25519", (True, True)),
)


def kernel_sas(namespace: Namespace) -> dict[str, Seen]:
    """SPI in hexadecimal -> what `ip -s xfrm state` says of the kernel's SA, without its keys."""
    found: dict[str, Seen] = {}
    for block in re.split(
        r"^(?=src )", namespace.run("ip", "-s", "xfrm", "state", "list", "nokeys"), flags=re.M
    ):
        spi = re.search(r"spi 0x([0-9a-f]+)", block)
        if spi is None:
            continue
        current = re.search(r"lifetime current:\s+(\d+)\(bytes\), (\d+)\(packets\)", block)
        stats = re.search(r"stats:\s+replay-window (\d+) replay (\d+) failed (\d+)", block)
        windows = [int(n) for n in re.findall(r"replay[-_]window (\d+)", block.partition("stats:")[0])]
        assert current, block
        assert stats, block
        found[spi[1].lstrip("0")] = {
            "octets": int(current[1]),
            "packets": int(current[2]),
            "replay": int(stats[2]),
            "failed": int(stats[3]),
            "esn": re.search(r"flag[^\n]*\besn\b", block) is not None,
            "window": max(windows),
            "encap": "encap type espinudp" in block,
        }
    return found


def ping(
    namespace: Namespace, source: str, destination: str, count: int = 3, size: int = 56
) -> tuple[int, int]:
    """Send `count` echo requests, await each answer: (sent, received). `ping` itself gives up after two round trips."""
    family, protocol, request = socket.AF_INET, socket.IPPROTO_ICMP, 8
    if ":" in destination:
        family, protocol, request = socket.AF_INET6, socket.IPPROTO_ICMPV6, 128
    payload = bytes(i & 0xFF for i in range(size))
    answers = set()
    with namespace.socket(family, socket.SOCK_DGRAM, protocol) as echo:
        echo.bind((source, 0))
        echo.settimeout(5)
        for number in range(count):
            echo.sendto(struct.pack(">BBHHH", request, 0, 0, 0, number) + payload, (destination, 0))
            time.sleep(0.02)
        while len(answers) < count:
            try:
                answer = echo.recv(65535)
            except TimeoutError:
                break
            if answer[8:] == payload:
                answers.add(answer[6:8])
    return count, len(answers)


def drops(child: ChildSa) -> dict[str, int]:
    """Our counts of what was dropped on an SA."""
    return {
        key: int(value) for key, value in child.raw.items() if key.endswith(("-errors-in", "-errors-out"))
    }


class Scenes:
    """The scenarios on one pair; `us` and `peer` index the pair's ends."""

    def __init__(self, made: Pair, us: int) -> None:
        self.pair = made
        self.us, self.peer = us, 1 - us
        self.ours: Gateway = made.gateways[us]
        self.theirs: Gateway = made.gateways[1 - us]

    @contextmanager
    def up(self, name: str) -> Iterator[str]:
        """The connection `name` established by a; its child's name; all of it terminated afterwards."""
        child = f"{name}-net"
        with self.pair.a.vici() as session:  # starting swanctl is slow in here
            for _ in session.initiate({"child": child, "timeout": "10000"}):
                pass
        self.pair.b.wait_child(child)
        try:
            yield child
        finally:
            for gateway in self.pair.gateways:
                if gateway.ike_sas(ike=name):
                    with gateway.vici() as session:
                        for _ in session.terminate({"ike": name, "timeout": "5000"}):
                            pass
            for gateway in self.pair.gateways:
                gateway.wait_no_sa()

    def counts(self, child: str) -> Seen:
        """Octets and packets of both directions as each of the three who count has them."""
        ours, theirs = self.ours.child(child), self.theirs.child(child)
        kernel = kernel_sas(self.pair.namespaces[self.peer])
        into_kernel, out_of_kernel = kernel[ours.spis[1]], kernel[ours.spis[0]]
        return {
            "ours": {"in": [ours.octets[0], ours.packets[0]], "out": [ours.octets[1], ours.packets[1]]},
            "theirs": {
                "in": [theirs.octets[0], theirs.packets[0]],
                "out": [theirs.octets[1], theirs.packets[1]],
            },
            "kernel": {
                "in": [into_kernel["octets"], into_kernel["packets"]],
                "out": [out_of_kernel["octets"], out_of_kernel["packets"]],
            },
            "kernel_sas": [into_kernel, out_of_kernel],
            "drops": drops(ours),
            "child": {
                key: ours.raw.get(key) for key in ("esn", "encap", "replay-window", "encr-alg", "integ-alg")
            },
            "mirrored": ours.spis == theirs.spis[::-1],
        }

    def carries(self, name: str) -> Seen:
        """Ping (also in fragments), UDP and TCP both ways; what went over the wire; who counted what."""
        left, right = self.pair.namespaces
        child_name = f"{name}-net"
        end_a, end_b = self.pair.ends(child_name)
        with self.up(name) as child:
            # On our side: on the kernel's, what it has opened passes the same device once more.
            with Capture(self.pair.namespaces[self.us], self.pair.folder / f"{name}.pcap") as capture:
                pings = [ping(left, end_a, end_b), ping(right, end_b, end_a)]
            sizes = [40, 100, 999, 1300]
            before = self.counts(child)
            octets = [
                traffic.send_udp(left, right, end_a, end_b, sizes),
                traffic.send_udp(right, left, end_b, end_a, sizes[:2]),
            ]
            after = self.counts(child)
            sent = octets if self.us == 0 else octets[::-1]
            traffic.tcp_transfer(left, right, end_a, end_b, 100_000)
            traffic.tcp_transfer(right, left, end_b, end_a, 100_000)
            big = [ping(left, end_a, end_b, 2, 4000), ping(right, end_b, end_a, 2, 4000)]
            self.quiet(child)
            return {
                "big_pings": big,
                "pings": pings,
                "wire": wire(capture),
                "packets_pinged": before["ours"]["in"][1] + before["ours"]["out"][1],
                "udp_octets": {"out": sent[0], "in": sent[1]},
                "udp_counted": {
                    way: [new - old for new, old in zip(after["ours"][way], before["ours"][way], strict=True)]
                    for way in ("in", "out")
                },
                **self.counts(child),
            }

    def quiet(self, child: str) -> None:
        """Until the last acknowledgement is counted: our packet counts stand still."""
        last: list[Any] = []

        def still() -> bool:
            last.append(self.ours.child(child).packets)
            return len(last) > 2 and last[-1] == last[-2] == last[-3]

        wait_until(still, 5, "counters stand still", interval=0.1)

    def rekeys(self, kind: str) -> Seen:
        """Three rekeys from each side under an echo flow in each direction."""
        left, right = self.pair.namespaces
        with self.up("gcm") as child:
            ends = self.pair.ends(child)
            seen = []
            flows = [
                traffic.EchoFlow(left, right, *ends, rate=60),
                traffic.EchoFlow(right, left, *ends[::-1], rate=60, port=7010),
            ]
            with flows[0], flows[1]:
                for by in (self.us, self.peer, self.us, self.peer):
                    time.sleep(0.15)
                    spis = self.pair.a.child(child).spis
                    ike = self.pair.a.ike_sa().spis
                    seen.append([list(spis), list(ike)])
                    if kind == "child":
                        self.pair.gateways[by].swanctl("--rekey", "--child", child)
                        self.pair.a.wait_other_child(spis, child)
                        self.pair.b.wait_other_child(spis[::-1], child)
                    else:
                        self.pair.gateways[by].swanctl("--rekey", "--ike", "gcm")
                        for gateway in self.pair.gateways:
                            gateway.wait_one_ike_sa(not_spis=ike)
                time.sleep(0.15)
            seen.append([list(self.pair.a.child(child).spis), list(self.pair.a.ike_sa().spis)])
            return {
                "seen": seen,
                "flows": [
                    {
                        "sent": flow.sent,
                        "lost": flow.lost,
                        "repeated": flow.repeated,
                        "errors": [str(error) for error in flow.errors],
                    }
                    for flow in flows
                ],
                "mirrored": self.pair.a.child(child).spis == self.pair.b.child(child).spis[::-1],
                "drops": drops(self.ours.child(child)),
            }

    def deletes(self) -> Seen:
        """The child, then the IKE_SA, deleted from each side; what is left of them at both ends and in the kernel."""
        seen: Seen = {}
        for label, by in (("by-us", self.us), ("by-them", self.peer)):
            gateway, other = self.pair.gateways[by], self.pair.gateways[1 - by]
            with self.up("cbc") as child:
                ike = self.pair.a.ike_sa().spis
                gateway.swanctl("--terminate", "--child", child)
                for each in self.pair.gateways:
                    wait_until(partial(no_children, each), 3, "the child is gone")
                kept = [each.ike_sa().spis == ike for each in self.pair.gateways]
                kernel_after_child = len(kernel_sas(self.pair.namespaces[self.peer]))
                self.pair.a.initiate(child)
                again = ping(self.pair.namespaces[0], *self.pair.ends(child), 2)
                gateway.swanctl("--terminate", "--ike", "cbc")
                other.wait_no_sa(3)
                ends = self.pair.ends(child)
                in_clear = traffic.ping(
                    self.pair.namespaces[self.us], ends[self.us], ends[self.peer], count=2, wait=0.3
                ).received
                seen[label] = {
                    "ike_kept": kept,
                    "kernel_after_child": kernel_after_child,
                    "pings_again": again,
                    "kernel_after_ike": len(kernel_sas(self.pair.namespaces[self.peer])),
                    "answered_without_sa": in_clear,
                }
        return seen

    # --- packets of the kernel held back, repeated, damaged -----------------------------------------------------------

    def kernel_frames(self, child: str, count: int) -> list[bytes]:
        """Frames with ESP that the kernel made for us and that never reached us, ready to be sent.

        The kernel believes for a moment that we have another hardware address, so that what it sends is not for us.
        """
        namespace = self.pair.namespaces[self.peer]
        ends = self.pair.ends(child)
        here, there = ends[self.peer], ends[self.us]
        link = self.pair.namespaces[self.us].run("cat", "/sys/class/net/wan/address").strip()
        namespace.ip(f"neigh replace {WAN4[self.us]} lladdr {NOWHERE} dev wan nud permanent")
        try:
            with (
                Capture(namespace, self.pair.folder / "held.pcap") as capture,
                namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
            ):
                sending.bind((here, 0))
                for number in range(count):
                    sending.sendto(struct.pack(">I", number) + bytes(60), (there, 7020))
                wait_until(lambda: len(esp_frames(capture)) >= count, 5, "ESP captured")
        finally:
            namespace.ip(f"neigh replace {WAN4[self.us]} lladdr {link} dev wan nud permanent")
        octets = bytes.fromhex(link.replace(":", ""))
        return [octets + frame[6:] for frame in esp_frames(capture)]

    def inject(self, frames: list[bytes], child: str) -> Seen:
        """Put frames on the wire towards us, wait until as many are counted one way or another; what changed."""
        before = self.ours.child(child)
        namespace = self.pair.namespaces[self.peer]
        with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("wan", 0))
            for frame in frames:
                raw.send(frame)

        def counted(now: ChildSa) -> int:
            return sum(drops(now).values()) - sum(drops(before).values()) + now.packets[0] - before.packets[0]

        wait_until(lambda: counted(self.ours.child(child)) >= len(frames), 5, "injected packets counted")
        time.sleep(0.1)
        now = self.ours.child(child)
        was = drops(before)
        changed = {key: value - was[key] for key, value in drops(now).items() if value != was[key]}
        if now.packets[0] != before.packets[0]:
            changed["packets-in"] = now.packets[0] - before.packets[0]
        return changed

    def replays(self, name: str, window: int) -> Seen:
        """Damaged, fresh, repeated and late packets of the kernel, and what each kind made us count."""
        with self.up(name) as child:
            ends = self.pair.ends(child)
            near, far = self.pair.namespaces[self.us], self.pair.namespaces[self.peer]
            with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
                sink.bind((ends[self.us], 7020))
                seen: Seen = {}
                held = self.kernel_frames(child, 7)
                # Bits flipped in sequence number, IV, ciphertext and ICV of packets that were never seen.
                places = (ETHERNET + 20 + 6, ETHERNET + 20 + 9, -40, -1)
                seen["damaged"] = self.inject(
                    [flip(frame, place) for frame, place in zip(held, places, strict=False)], child
                )
                seen["fresh"] = self.inject(held[:5], child)
                seen["repeated"] = self.inject(held[:5] * 2, child)
                # Two are still out: the one is now at the last place of the window, the other just behind it.
                more = self.kernel_frames(child, window - 1)
                seen["more"] = self.inject(more, child)
                seen["late"] = self.inject([held[6]], child)
                seen["too_late"] = self.inject([held[5]], child)
                seen["unknown_spi"] = self.unknown_spi(held[0])
            seen["pings"] = ping(far, ends[self.peer], ends[self.us])
            seen["window"] = self.ours.child(child).raw["replay-window"]
            return seen

    def wrap(self, name: str) -> Seen:
        """The kernel's outbound numbers go past 2^32, with a packet from before that comes after."""
        with self.up(name) as child:
            ends = self.pair.ends(child)
            near, far = self.pair.namespaces[self.us], self.pair.namespaces[self.peer]
            with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
                sink.bind((ends[self.us], 7020))
                seen: Seen = {}
                # In two leaps: from the first few numbers, the last ones before 2^32 would look like older ones.
                self.set_sent(child, 0x8000_0000)
                seen["far"] = self.inject(self.kernel_frames(child, 1), child)
                self.set_sent(child, 0xFFFF_FFF7)
                held = self.kernel_frames(child, 16)
                seen["numbers"] = [struct.unpack_from(">I", f, ETHERNET + 20 + 4)[0] for f in held]
                seen["before"] = self.inject(held[:7], child)
                seen["after"] = self.inject(held[8:], child)
                seen["late"] = self.inject(held[7:8], child)
                seen["repeated"] = self.inject(held, child)
            seen["pings"] = [
                ping(far, ends[self.peer], ends[self.us]),
                ping(near, ends[self.us], ends[self.peer]),
            ]
            return seen

    def set_sent(self, child: str, number: int) -> None:
        """Make the kernel believe that the last number it sent to us on the ESN SA of `child` was `number`."""
        spi = int(self.ours.child(child).spis[0], 16)
        source, destination = (socket.inet_aton(WAN4[end]).ljust(16, b"\0") for end in (self.peer, self.us))
        # xfrm_usersa_id, saddr, flags, reqid; then xfrm_replay_state_esn as charon makes outbound ones: a window of 1.
        body = struct.pack("=16s4sHBx16sII", destination, spi.to_bytes(4), socket.AF_INET, ESP, source, 0, 0)
        body += struct.pack("=HH7I", 32, XFRMA_REPLAY_ESN_VAL, 1, number, 0, 0, 0, 1, 0)
        header = struct.pack(
            "=IHHII", 16 + len(body), XFRM_MSG_NEWAE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE, 1, 0
        )
        with self.pair.namespaces[self.peer].socket(
            socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM
        ) as netlink:
            netlink.send(header + body)
            (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        assert error == 0, f"XFRM_MSG_NEWAE: {os.strerror(-error)}"

    def unknown_spi(self, frame: bytes) -> int:
        """How far `stats` counts a packet of an SPI that nobody has."""

        def count() -> int:
            with self.ours.vici() as session:
                return int(session.stats()["ipsec"]["unknown-spi"])

        before = count()
        with self.pair.namespaces[self.peer].socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("wan", 0))
            raw.send(flip(frame, ETHERNET + 20 + 2))
        wait_until(lambda: count() > before, 5, "unknown SPI counted")
        return count() - before


def no_children(gateway: Gateway) -> bool:
    return not gateway.children(state=None)


def flip(frame: bytes, place: int) -> bytes:
    """The frame with the lowest bit of one octet flipped."""
    data = bytearray(frame)
    data[place] ^= 1
    return bytes(data)


def esp_frames(capture: Capture) -> list[bytes]:
    """Captured IPv4 frames of protocol 50, options and padding of the link left as they are."""
    return [f for _, f in list(capture.frames) if f[12:14] == b"\x08\x00" and f[ETHERNET + 9] == ESP]


def wire(capture: Capture) -> dict[str, int]:
    """How many captured packets were ESP on its own, ESP in UDP, and in the clear (anything not ESP or IKE)."""
    kinds = {"esp": 0, "udp": 0, "clear": 0}
    for _, frame in list(capture.frames):
        if frame[12:14] == b"\x08\x00":
            protocol, start = frame[ETHERNET + 9], ETHERNET + 20
        elif frame[12:14] == b"\x86\xdd":
            protocol, start = frame[ETHERNET + 6], ETHERNET + 40
        else:
            continue  # ARP
        if protocol == ESP:
            kinds["esp"] += 1
        elif protocol == UDP and 4500 in struct.unpack_from(">HH", frame, start):
            if frame[start + 8 : start + 12] != bytes(4) and len(frame) > start + 12:
                kinds["udp"] += 1
        elif protocol != UDP and not (protocol == 58 and frame[start] in range(133, 138)) and protocol != 0:
            kinds["clear"] += 1
    return kinds


def scenarios(scenes: Scenes) -> dict[str, Callable[[], Seen]]:
    return {
        **{t.name: partial(scenes.carries, t.name) for t in TUNNELS},
        "rekey-child": partial(scenes.rekeys, "child"),
        "rekey-ike": partial(scenes.rekeys, "ike"),
        "delete": scenes.deletes,
        "wrap-gcm": partial(scenes.wrap, "esn-gcm"),
        "wrap-cbc": partial(scenes.wrap, "esn-cbc"),
        "replay": partial(scenes.replays, "gcm", 32),
        "replay-esn": partial(scenes.replays, "esn-cbc", 64),
    }


def main(out: Path, role: str, wanted: list[str]) -> None:
    us = 0 if role == "we-initiate" else 1
    kinds = ("ours", "kernel") if us == 0 else ("kernel", "ours")
    outcome: dict[str, Seen] = {}
    with pair(kinds, TUNNELS, settings={"retransmit_timeout": "2.0"}) as made:
        for name, scene in scenarios(Scenes(made, us)).items():
            if wanted and name not in wanted:
                continue
            started = time.monotonic()
            try:
                outcome[name] = {"result": scene()}
            except Exception:
                outcome[name] = {"error": f"{traceback.format_exc()}\n{made.logs()}"}
            outcome[name]["seconds"] = round(time.monotonic() - started, 2)
            out.write_text(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
