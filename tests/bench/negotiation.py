"""IKE_SA_INIT and IKE_AUTH with a first CHILD_SA, as many a second as both ends manage.

In memory: two endpoints in this process, nothing but the protocol (one core). Over sockets: two daemons, UDP over a
veth, TUN devices, VICI; asked for all at once, until the responder has the last one. strongSwan likewise, to compare.
"""

from __future__ import annotations

import time

from bench.figures import Figure
from bench.in_memory import negotiations_per_second
from lab.gateway import Gateway
from lab.process import wait_until
from lab.swanconf import Auth, Child, Tunnel
from lab.tools import why_no_namespaces
from lab.topology import pair

IKE = "aes128gcm16-prfsha256-x25519"
COUNT = 100


def tunnels(count: int, auth: Auth) -> tuple[Tunnel, ...]:
    return tuple(
        Tunnel(
            name=f"c{number}",
            identities=(f"a{number}.lab", f"b{number}.lab"),
            children=(Child(f"n{number}", (f"10.1.{number}.0/24", f"10.2.{number}.0/24"), "aes128gcm16"),),
            ike=IKE,
            auth=auth,
        )
        for number in range(count)
    )


def initiate_without_waiting(gateway: Gateway, children: list[str]) -> None:
    """Ask for all children; a negative timeout makes the daemon answer at once."""
    with gateway.vici() as session:
        for child in children:
            for _ in session.initiate({"child": child, "timeout": "-1"}):
                pass


def established(gateway: Gateway) -> int:
    """How many IKE_SAs are up, from `stats`, which costs the daemon nothing."""
    with gateway.vici() as session:
        ikesas = session.stats()["ikesas"]
    return int(ikesas["total"]) - int(ikesas["half-open"])


def one_round(kind: str, auth: Auth) -> float:
    wanted = tunnels(COUNT, auth)
    # Enough half-open IKE_SAs from one address that neither side demands cookies or drops.
    with pair((kind, kind), wanted, start=False) as made:
        limits = {"cookie_threshold": "0", "cookie_threshold_ip": "0", "block_threshold_ip": "0"}
        if made.a.kind == "strongswan":
            limits = {"cookie_threshold": "0", "block_threshold": "0"}
        for gateway in made.gateways:
            gateway.settings.update(limits)  # type: ignore[attr-defined]
        for end, gateway in enumerate(made.gateways):
            made.write_configuration(end)
            gateway.start()
        started = time.perf_counter()
        initiate_without_waiting(made.a, [tunnel.children[0].name for tunnel in wanted])
        wait_until(lambda: established(made.b) >= COUNT, 60, f"{COUNT} IKE_SAs", interval=0.01)
        return COUNT / (time.perf_counter() - started)


def measure(rounds: int) -> list[Figure]:
    memory = [negotiations_per_second() for _ in range(rounds)]
    signed = [negotiations_per_second("ecdsa") for _ in range(rounds)]
    figures = [
        Figure("IKE_SA_INIT+IKE_AUTH in memory, both ends, PSK", "a second", memory),
        Figure("IKE_SA_INIT+IKE_AUTH in memory, both ends, ECDSA", "a second", signed),
    ]
    if why_no_namespaces() is None:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(one_round("ours", "psk"))
            theirs.append(one_round("strongswan", "psk"))
        peer = Figure("the same between two strongSwan", "a second", theirs)
        figures += [
            Figure("IKE_SA_INIT+IKE_AUTH over sockets, PSK", "a second", ours, [("strongSwan's", peer)]),
            peer,
        ]
    return figures
