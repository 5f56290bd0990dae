"""One TCP stream between two namespaces: through our tunnel, through strongSwan's userspace ESP, over the bare veth.

strongSwan runs kernel-libipsec with its openssl plugin first, the fast order; it always encapsulates in UDP, so ours is
measured that way, and natively beside it. Rounds alternate between the paths.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time

from bench.figures import Figure
from lab.netns import Namespace
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.tools import find_tool
from lab.topology import WAN4, Pair, pair

SECONDS = 2.0
ESP = "aes128gcm16"
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


def up(stack: contextlib.ExitStack, kind: str, encapsulated: bool = True) -> Pair:
    options = {"encap": "yes"} if encapsulated else {}
    tunnel = Tunnel(children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24"), ESP),), options=options)
    made = stack.enter_context(pair((kind, kind), (tunnel,)))
    made.a.initiate("net")
    made.b.wait_child("net")
    return made


def measure(rounds: int) -> list[Figure]:
    for tool in ("iperf3", "charon"):
        if find_tool(tool) is None:
            raise SystemExit(f"bench: {tool} is not installed; make bench as root installs it")
    with contextlib.ExitStack() as stack:
        ours = up(stack, "ours")
        native = up(stack, "ours", encapsulated=False)
        theirs = up(stack, "strongswan")
        paths = {
            "through our tunnel": (ours.namespaces, ours.ends()),
            "through our tunnel, native ESP": (native.namespaces, native.ends()),
            "through strongSwan's userspace ESP": (theirs.namespaces, theirs.ends()),
            "over the bare veth": (ours.namespaces, WAN4),
        }
        tcp: dict[str, list[float]] = {path: [] for path in paths}
        udp: dict[str, list[float]] = {path: [] for path in paths}
        for _ in range(rounds):
            for path, (namespaces, ends) in paths.items():
                tcp[path].append(iperf(*namespaces, *ends))
                udp[path].append(small_packets(*namespaces, *ends))
                time.sleep(0.1)
    figures = []
    for name, unit, values in (("TCP", "Mbit/s", tcp), ("UDP of 50 octets", "1,000 packets/s", udp)):
        of = {path: Figure(f"{name} {path}", unit, got) for path, got in values.items()}
        for mine in ("through our tunnel", "through our tunnel, native ESP"):
            of[mine].against = [
                ("strongSwan's", of["through strongSwan's userspace ESP"]),
                ("bare veth", of["over the bare veth"]),
            ]
        figures += of.values()
    return figures
