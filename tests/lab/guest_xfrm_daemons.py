"""What a guest runs for tests/interop/test_kernel_plane.py: ipsecstackd with the kernel's plane at one end or both.

    python guest_xfrm_daemons.py OUT PLANE-A PLANE-B [SCENARIO...]

One pair of daemons serves all scenarios, each on a connection of its own. OUT becomes one JSON object: scenario ->
`{"result": what was seen}` or `{"error": a traceback and the logs}`, written again after each. Nothing is judged here.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import guest_kernel_esp
from lab.guest_kernel_esp import ping
from lab.netns import Namespace
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.topology import WAN4, WAN6, Pair, pair

Seen = dict[str, Any]


def tunnel(
    number: int, name: str, esp: str, v6: bool = False, hosts: bool = False, **options: dict[str, str]
) -> Tunnel:
    """A connection of its own identities; selectors are LANs, or the outer addresses for one UDP port (`hosts`)."""
    lans = (
        (f"fd01:{number}::/64", f"fd02:{number}::/64")
        if v6
        else (f"10.1.{number}.0/24", f"10.2.{number}.0/24")
    )
    if hosts:
        lans = tuple(f"{address}/32[icmp]" for address in WAN4)  # type: ignore[assignment]
    child = dict(options.get("child", {}))
    if esp.startswith("ah:"):
        child["ah_proposals"], esp = esp[3:], ""
    return Tunnel(
        name=name,
        addresses=WAN6 if v6 else WAN4,
        identities=(f"a.{name}.lab", f"b.{name}.lab"),
        children=(Child(f"{name}-net", lans, esp, child),),
        options=options.get("ike", {}),
    )


TUNNELS = (
    tunnel(0, "gcm", "aes128gcm16-x25519"),
    tunnel(1, "cbc-esn", "aes256-sha256-x25519-esn", child={"replay_window": "128"}),
    tunnel(2, "udp", "chacha20poly1305-x25519", ike={"encap": "yes"}),
    tunnel(3, "six", "aes128gcm16-x25519", v6=True),
    tunnel(
        4,
        "octets",
        "aes128gcm16-x25519",
        child={"rekey_bytes": "3000", "life_bytes": "30000", "rand_bytes": "0"},
    ),
    tunnel(5, "trap", "aes128gcm16-x25519", child={"start_action": "trap"}),
    tunnel(6, "short", "aes128gcm16-x25519", child={"rekey_time": "0", "life_time": "3"}),
    tunnel(7, "transport", "aes128gcm16-x25519", hosts=True, child={"mode": "transport"}),
    tunnel(8, "ah", "ah:sha256-x25519"),
)


def kernel_sas(namespace: Namespace) -> dict[str, Seen]:
    """Without what the kernel keeps for half a minute while it waits for an SA."""
    return {spi: sa for spi, sa in guest_kernel_esp.kernel_sas(namespace).items() if spi}


def policies(namespace: Namespace) -> int:
    """How many there are beside those of sockets."""
    return len(re.findall(r"^\s*dir (?:in|out|fwd) ", namespace.run("ip", "xfrm", "policy"), flags=re.M))


class Scenes:
    def __init__(self, made: Pair) -> None:
        self.pair = made

    def up(self, name: str) -> str:
        child = f"{name}-net"
        with self.pair.a.vici() as session:
            for _ in session.initiate({"child": child, "timeout": "10000"}):
                pass
        self.pair.b.wait_child(child)
        return child

    def down(self, name: str) -> None:
        for gateway in self.pair.gateways:
            if gateway.ike_sas(ike=name):
                with gateway.vici() as session:
                    for _ in session.terminate({"ike": name, "timeout": "5000"}):
                        pass
        for gateway in self.pair.gateways:
            gateway.wait_no_sa()

    def end(self) -> None:
        """After a failure: the next scenario finds nothing up."""
        for gateway in self.pair.gateways:
            with contextlib.suppress(Exception):
                for sa in gateway.ike_sas():
                    with gateway.vici() as session:
                        for _ in session.terminate({"ike": sa.name, "timeout": "3000"}):
                            pass

    def pings(self, child: str, count: int = 3, size: int = 56) -> list[tuple[int, int]]:
        left, right = self.pair.namespaces
        a, b = self.pair.ends(child)
        return [ping(left, a, b, count, size), ping(right, b, a, count, size)]

    def counts(self, child: str) -> Seen:
        a, b = (gateway.child(child) for gateway in self.pair.gateways)
        return {
            "a": {"in": [a.octets[0], a.packets[0]], "out": [a.octets[1], a.packets[1]]},
            "b": {"in": [b.octets[0], b.packets[0]], "out": [b.octets[1], b.packets[1]]},
            "mirrored": a.spis == b.spis[::-1],
            "raw": {
                key: a.raw.get(key) for key in ("mode", "protocol", "encap", "esn", "encr-alg", "integ-alg")
            },
            "kernel": [kernel_sas(namespace) for namespace in self.pair.namespaces],
            "spis": list(a.spis),
        }

    def carries(self, name: str) -> Seen:
        child = self.up(name)
        seen: Seen = {"pings": self.pings(child), "big": self.pings(child, 2, 3000)}
        time.sleep(1.1)
        seen["counts"] = self.counts(child)
        self.down(name)
        seen["left"] = [len(kernel_sas(namespace)) for namespace in self.pair.namespaces]
        return seen

    def rekeys(self) -> Seen:
        """By hand, from both ends, with pings before, between and after."""
        child = self.up("gcm")
        seen: Seen = {"pings": [self.pings(child, 2)], "spis": [list(self.pair.a.child(child).spis)]}
        for gateway in self.pair.gateways:
            spis = gateway.child(child).spis
            with gateway.vici() as session:
                session.rekey({"child": child})
            for each in self.pair.gateways:
                each.wait_other_child(spis if each is gateway else spis[::-1], child)
            seen["spis"].append(list(self.pair.a.child(child).spis))
            seen["pings"].append(self.pings(child, 2))
        self.down("gcm")
        return seen

    def octets(self) -> Seen:
        """A soft limit of octets is reached: the SA is replaced, and nothing is lost."""
        child = self.up("octets")
        before = self.pair.a.child(child).spis
        pings = [self.pings(child, 3, 800)]
        self.pair.a.wait_other_child(before, child)
        pings.append(self.pings(child, 1, 100))
        after = self.pair.a.child(child).spis
        self.down("octets")
        return {"pings": pings, "replaced": before != after}

    def trap(self) -> Seen:
        """The first packet asks for the SA."""
        child = "trap-net"
        listed = self.pair.a.children(child)
        a, b = self.pair.ends(child)
        with (
            self.pair.namespaces[0].socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            contextlib.suppress(OSError),
        ):
            udp.bind((a, 0))
            udp.sendto(b"wake", (b, 9))
        self.pair.a.wait_child(child)
        self.pair.b.wait_child(child)
        seen = {"before": len(listed), "pings": self.pings(child)}
        self.down("trap")
        return seen

    def short(self) -> Seen:
        """A hard limit of time without rekeying: the SA ends at both ends."""
        child = self.up("short")
        began = time.monotonic()
        wait_until(lambda: not self.pair.a.children(child), 10, "the child ends", 0.1)
        lived = time.monotonic() - began
        wait_until(lambda: not self.pair.b.children(child), 5, "the child ends at b")
        left = [len(kernel_sas(namespace)) for namespace in self.pair.namespaces]
        self.down("short")
        return {"lived": lived, "left": left}

    def crash(self) -> Seen:
        """a is killed with an SA up; its policies go when it starts again, another program's stay."""
        child = self.up("gcm")
        namespace = self.pair.namespaces[0]
        namespace.ip("xfrm policy add src 10.77.0.0/24 dst 10.78.0.0/24 dir out action block priority 5")
        self.pair.a.kill()
        left = [policies(namespace), len(kernel_sas(namespace))]
        self.pair.a.start()
        cleared = [policies(namespace), len(kernel_sas(namespace))]
        self.up("gcm")
        pings = self.pings(child, 2)
        self.pair.a.stop()
        stopped = [policies(namespace), len(kernel_sas(namespace))]
        return {"left": left, "cleared": cleared, "pings": pings, "stopped": stopped}


def scenarios(scenes: Scenes) -> dict[str, Callable[[], Seen]]:
    return {
        **{
            name: partial(scenes.carries, name)
            for name in ("gcm", "cbc-esn", "udp", "six", "transport", "ah")
        },
        "rekeys": scenes.rekeys,
        "octets": scenes.octets,
        "trap": scenes.trap,
        "short": scenes.short,
        "crash": scenes.crash,
    }


def main(out: Path, planes: tuple[str, str], wanted: list[str]) -> None:
    outcome: dict[str, Seen] = {}
    kinds = ("ours-xfrm" if planes[0] == "xfrm" else "ours", "ours-xfrm" if planes[1] == "xfrm" else "ours")
    with pair(kinds, TUNNELS, settings={"retransmit_timeout": "2.0"}) as made:
        scenes = Scenes(made)
        for end, namespace in enumerate(made.namespaces):
            if planes[end] != "xfrm":
                continue
            for each in TUNNELS:
                # A trap has no peer yet whose way its route could go; all others get theirs from the daemon.
                if each.name == "trap":
                    there = each.children[0].ts[1 - end]
                    via = (WAN6 if ":" in there else WAN4)[1 - end]
                    namespace.ip(f"route add {there} via {via}")
        for name, scene in scenarios(scenes).items():
            if wanted and name not in wanted:
                continue
            started = time.monotonic()
            try:
                outcome[name] = {"result": scene()}
            except Exception:
                outcome[name] = {"error": f"{traceback.format_exc()}\n{made.logs()}"}
                scenes.end()
            outcome[name]["seconds"] = round(time.monotonic() - started, 2)
            out.write_text(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2], sys.argv[3]), sys.argv[4:])
