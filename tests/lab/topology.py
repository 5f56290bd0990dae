"""Two gateways on one wire, each with its LANs: the ground that nearly every interop test stands on.

    a: 10.99.0.1, fd99::1 <- veth "wan", MTU 1500 -> b: 10.99.0.2, fd99::2

LAN addresses (the first host of each child's selectors) sit on each side's lo, which is where kernel-libipsec needs
them, and what pings and transfers are bound to.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.gateway import Gateway
from lab.netns import Namespace, folder, link, namespaces
from lab.ours import OurStack
from lab.pki import authority
from lab.strongswan import KernelStrongSwan, StrongSwan
from lab.swanconf import Child, Tunnel, document

WAN4 = ("10.99.0.1", "10.99.0.2")
WAN6 = ("fd99::1", "fd99::2")


def first_host(selector: str) -> str:
    """The address that stands for a traffic selector: the first host of a network, or the host itself."""
    network = ipaddress.ip_network(selector.split("[")[0])
    return str(network[0] if network.num_addresses == 1 else network[1])


live: list[Pair] = []
"""Pairs that are up now: a failed test shows their logs."""


@dataclass
class Pair:
    """Two gateways, running unless stopped; index 0 is a, 1 is b."""

    gateways: tuple[Gateway, Gateway]
    namespaces: tuple[Namespace, Namespace]
    folder: Path
    tunnels: tuple[Tunnel, ...]
    psk: Mapping[str, str] = field(repr=False)

    @property
    def a(self) -> Gateway:
        return self.gateways[0]

    @property
    def b(self) -> Gateway:
        return self.gateways[1]

    def child_config(self, name: str | None = None) -> Child:
        for tunnel in self.tunnels:
            for child in tunnel.children:
                if name is None or child.name == name:
                    return child
        raise KeyError(name)

    def ends(self, child: str | None = None) -> tuple[str, str]:
        """LAN addresses of a and b that the child's selectors cover."""
        config = self.child_config(child)
        return first_host(config.ts[0]), first_host(config.ts[1])

    def write_configuration(self, end: int, tunnels: tuple[Tunnel, ...] | None = None) -> None:
        """(Re)write swanctl.conf and certificates of one end."""
        tunnels = self.tunnels if tunnels is None else tunnels
        gateway = self.gateways[end]
        for tunnel in tunnels:
            if tunnel.auth != "psk":
                authority(tunnel.auth).issue(tunnel.identities[end], gateway.folder)
        gateway.configure(gateway.preamble() + document(tunnels, end, self.psk))

    def logs(self) -> str:
        return "\n".join(f"=== {g.name} ({g.kind})\n{g.log()[-4000:]}" for g in self.gateways)


def make_gateway(
    kind: str,
    name: str,
    namespace: Namespace,
    place: Path,
    settings: Mapping[str, str] | None = None,
    export_keys: bool = False,
    data_plane: str = "tun",
) -> Gateway:
    """A gateway of a kind, not yet started.

    LAB_SELF_CHECK=strongswan (in a guest: kernel) in the environment puts strongSwan in our place, to prove the tests
    by a peer that is known good.
    """
    if kind == "kernel":
        return KernelStrongSwan(name, namespace, place, settings)
    if kind == "strongswan" or os.environ.get("LAB_SELF_CHECK") == "strongswan":
        return StrongSwan(name, namespace, place, settings)
    if os.environ.get("LAB_SELF_CHECK"):
        return KernelStrongSwan(name, namespace, place, settings)
    if kind == "ours-xfrm":
        data_plane = "xfrm"
    return OurStack(name, namespace, place, settings, data_plane, export_keys)


@contextlib.contextmanager
def pair(
    kinds: tuple[str, str],
    tunnels: tuple[Tunnel, ...] = (Tunnel(),),
    tunnels_b: tuple[Tunnel, ...] | None = None,
    start: bool = True,
    settings: Mapping[str, str] | None = None,
    export_keys: bool = False,
) -> Iterator[Pair]:
    """Two gateways of `kinds` ("strongswan" or "ours"; in a guest "kernel" and "ours-xfrm") with `tunnels` configured.

    Secrets are random.

    `tunnels_b`: what b is configured with when it differs. `settings` (retransmission times) go to both.
    `export_keys`: our daemons write tshark's key tables.
    """
    with namespaces("a", "b") as (left, right), folder() as place:
        link(left, right)
        for end, namespace in enumerate((left, right)):
            namespace.add_address(f"{WAN4[end]}/24", f"{WAN6[end]}/64", device="wan")
            of_this_end = (tunnels_b or tunnels) if end else tunnels
            lans = {first_host(child.ts[end]) for tunnel in of_this_end for child in tunnel.children}
            lans -= {WAN4[end], WAN6[end]}
            if lans:
                namespace.add_address(*(f"{a}/{128 if ':' in a else 32}" for a in sorted(lans)))
            namespace.sysctl(ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__ping_group_range="0 0")
        gateways = tuple(
            make_gateway(kind, label, namespace, place / label, settings, export_keys)
            for kind, label, namespace in zip(kinds, "ab", (left, right), strict=True)
        )
        made = Pair(
            (gateways[0], gateways[1]),
            (left, right),
            place,
            tunnels,
            {tunnel.name: secrets.token_hex(24) for tunnel in (*tunnels, *(tunnels_b or ()))},
        )
        live.append(made)
        try:
            for end, gateway in enumerate(made.gateways):
                made.write_configuration(end, tunnels_b if end else tunnels)
                if start:
                    gateway.start()
            yield made
        finally:
            live.remove(made)
            for gateway in made.gateways:
                gateway.stop()
