"""One TCP stream between two namespaces: through our tunnel, through strongSwan's userspace ESP, over the bare veth.

strongSwan runs kernel-libipsec with its openssl plugin first, the fast order; it always encapsulates in UDP, so ours is
measured that way, and natively beside it. Rounds alternate between the paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass, field

from bench.figures import Figure
from lab.gateway import Gateway
from lab.netns import Namespace
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.tools import find_tool
from lab.topology import WAN4, Pair, pair

SECONDS = 2.0
GCM, CBC = "aes128gcm16", "aes128-sha256"
IPERF_PORT = 5201


def iperf(client: Namespace, server: Namespace, source: str, target: str, reverse: bool = False) -> float:
    """Mbit/s received in one run."""
    serving = subprocess.Popen(
        server.argv("iperf3", "--server", "--one-off", "--bind", target, "--json"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: f"{target}:{IPERF_PORT}" in server.run("ss", "-Hltn") or serving.poll() is not None,
            5,
            "iperf3",
        )
        command = ["iperf3", "--client", target, "--bind", source, "--time", f"{SECONDS:g}", "--json"]
        output = client.run(*command, *(["--reverse"] if reverse else []), timeout=SECONDS + 20)
        return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        serving.kill()
        serving.wait()


def small_packets(client: Namespace, server: Namespace, source: str, target: str) -> float:
    """Datagrams of 50 octets that arrive, thousands a second, when far more are offered."""
    serving = subprocess.Popen(
        server.argv("iperf3", "--server", "--one-off", "--bind", target, "--json"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: f"{target}:{IPERF_PORT}" in server.run("ss", "-Hltn") or serving.poll() is not None,
            5,
            "iperf3",
        )
        command = ["iperf3", "--client", target, "--bind", source, "--time", f"{SECONDS:g}", "--json"]
        command += ["--udp", "--length", "50", "--bitrate", "200M"]
        total = json.loads(client.run(*command, timeout=SECONDS + 20))["end"]["sum"]
        return float(total["packets"] - total["lost_packets"]) / float(total["seconds"]) / 1000
    finally:
        serving.kill()
        serving.wait()


@dataclass
class Path:
    """A way from a to b, and what is measured on it; ``base`` is the name of the path it is compared with."""

    name: str
    pair: Pair
    ends: tuple[str, str]
    base: str | None = None
    small: bool = False
    tcp: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    udp: list[float] = field(default_factory=list)

    def measure(self) -> None:
        before = sum(map(processor_time, self.pair.gateways))
        rate = iperf(*self.pair.namespaces, *self.ends)
        spent = sum(map(processor_time, self.pair.gateways)) - before
        self.tcp.append(rate)
        self.cost.append(spent / (rate * SECONDS / 8000))
        if self.small:
            self.udp.append(small_packets(*self.pair.namespaces, *self.ends))


def processor_time(gateway: Gateway) -> float:
    """Seconds that a daemon has computed so far, in user mode and in the kernel."""
    with open(f"/proc/{gateway.process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def up(stack: contextlib.ExitStack, kind: str, esp: str, encap: str) -> Pair:
    child = Child("net", ("10.1.0.0/24", "10.2.0.0/24"), esp)
    made = stack.enter_context(pair((kind, kind), (Tunnel(children=(child,), options={"encap": encap}),)))
    made.a.initiate("net")
    made.b.wait_child("net")
    return made


def paths_in(stack: contextlib.ExitStack) -> list[Path]:
    paths = []
    for esp, words in ((GCM, "AES-GCM"), (CBC, "AES-CBC+HMAC")):
        theirs = f"strongSwan's userspace ESP, {words}"
        for kind, encap, name in (
            ("ours", "yes", f"our tunnel, {words}, in UDP"),
            ("ours", "no", f"our tunnel, {words}, native"),
            ("strongswan", "yes", theirs),
        ):
            made = up(stack, kind, esp, encap)
            base = theirs if kind == "ours" else None
            paths.append(Path(name, made, made.ends(), base, esp == GCM))
    return [*paths, Path("the bare veth", paths[0].pair, WAN4, small=True)]


def measure(rounds: int) -> list[Figure]:
    for tool in ("iperf3", "charon"):
        if find_tool(tool) is None:
            raise SystemExit(f"bench: {tool} is not installed; make bench as root installs it")
    with contextlib.ExitStack() as stack:
        paths = paths_in(stack)
        for _ in range(rounds):
            for path in paths:
                path.measure()
                time.sleep(0.1)
    figures: list[Figure] = []
    for kind, unit, of in (
        ("TCP", "Mbit/s", lambda path: path.tcp),
        ("daemons' processor time, TCP", "s/GB", lambda path: path.cost if path.ends != WAN4 else []),
        ("UDP of 50 octets", "1,000 packets/s", lambda path: path.udp),
    ):
        found = {path.name: Figure(f"{kind}: {path.name}", unit, of(path)) for path in paths if of(path)}
        for path in paths:
            if path.base and path.name in found:
                found[path.name].against = [
                    (words, found[other])
                    for words, other in (("strongSwan's", path.base), ("bare veth", "the bare veth"))
                    if other in found
                ]
        figures += found.values()
    return figures
