"""Two whole gateways in this process, joined by a queue instead of a wire: the protocol's own cost."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from lab.pki import authority
from lab.swanconf import Auth, Child, Tunnel, document

from ipsecstack.config.apply import Applier
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.credentials import CredentialStore
from ipsecstack.keyex.endpoint import Endpoint
from ipsecstack.keyex.options import Options
from ipsecstack.stack import Stack

COUNT = 100
IKE = "aes128gcm16-prfsha256-x25519"
SECRET = "not secret: a bench in memory"


def gateway(
    folder: Path, end: int, tunnels: tuple[Tunnel, ...], secrets: Mapping[str, str] | None = None
) -> Stack:
    """A gateway with every tunnel configured; it demands no cookies. `secrets`: one for each tunnel unless given."""
    folder.mkdir()
    for tunnel in tunnels:
        if tunnel.auth != "psk":
            authority(tunnel.auth).issue(tunnel.identities[end], folder)
    path = folder / "swanctl.conf"
    path.write_text(document(tunnels, end, secrets or {tunnel.name: SECRET for tunnel in tunnels}))
    path.chmod(0o600)
    credentials = CredentialStore()
    dataplane = MemoryDataPlane(random=os.urandom)
    endpoint = Endpoint(
        random=os.urandom,
        allocate_spi=lambda: dataplane.allocate_spi(os.urandom),
        credentials=credentials,
        options=Options(cookie_threshold=10**6, cookie_threshold_ip=10**6, block_threshold_ip=0),
        now=0.0,
        wall_clock=time.time,
    )
    Applier(path, endpoint, credentials).reload(0.0)
    stack = Stack(endpoint, dataplane)
    stack.advance(0.0)
    return stack


def deliver(stacks: tuple[Stack, Stack], first: list[SendDatagram], sender: int, now: float) -> None:
    """Carry datagrams to and fro until both are silent."""
    queue = deque((sender, datagram) for datagram in first)
    while queue:
        sender, datagram = queue.popleft()
        receiver = 1 - sender
        answers = stacks[receiver].receive_datagram(datagram.data, datagram.remote, datagram.local, now)
        queue.extend((receiver, answer) for answer in answers)


def negotiations_per_second(auth: Auth = "psk", count: int = COUNT) -> float:
    """IKE_SA_INIT and IKE_AUTH, both ends' work in one process, one after the other."""
    tunnels = tuple(
        Tunnel(
            name=f"c{number}",
            identities=(f"a{number}.lab", f"b{number}.lab"),
            children=(Child(f"n{number}", (f"10.1.{number}.0/24", f"10.2.{number}.0/24"), "aes128gcm16"),),
            ike=IKE,
            auth=auth,
        )
        for number in range(count)
    )
    with tempfile.TemporaryDirectory() as place:
        stacks = (gateway(Path(place) / "a", 0, tunnels), gateway(Path(place) / "b", 1, tunnels))
        started = time.perf_counter()
        for number in range(count):
            stacks[0].endpoint.initiate(ike=None, child=f"n{number}", now=1.0)
            deliver(stacks, stacks[0].advance(1.0), 0, 1.0)
        took = time.perf_counter() - started
        up = sum(view.state == "ESTABLISHED" for view in stacks[1].endpoint.ike_sas())
        if up != count:
            raise SystemExit(f"bench: {up} of {count} IKE SAs came up in memory")
    return count / took
