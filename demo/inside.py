"""The part of the demo inside network namespaces: two ipsecstackd, a wire between them, and light traffic.

Run as its own process, as root or as root of a user namespace, by demo.__main__. It says on standard output, one JSON
object a line, first where things are and then every half second how the traffic goes; it ends, and cleans up, when its
standard input is closed, when one of its parts ends, or when its parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

from lab.gateway import Gateway
from lab.netns import folder
from lab.ours import OurStack
from lab.swanconf import Child, Tunnel, document
from lab.topology import pair
from lab.traffic import EchoFlow

PR_SET_PDEATHSIG = 1
PACKETS_PER_SECOND = 5.0
LAN = Child("lan", ("10.1.0.0/24", "10.2.0.0/24"), options={"rekey_time": "60s"})
TUNNEL = Tunnel(
    name="demo",
    identities=("a.demo.example", "b.demo.example"),
    children=(LAN,),
    options={"dpd_delay": "10s"},
)
# trap, on side a: whenever the tunnel is gone, the next packet brings it up again.
TRAPPING = replace(TUNNEL, children=(replace(LAN, options={**LAN.options, "start_action": "trap"}),))


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def dead_parts(gateways: Sequence[Gateway]) -> list[str]:
    return [
        f"gateway {gateway.name}: ipsecstackd ended with status {gateway.process.returncode}\n"
        + gateway.process.text()[-2000:]
        for gateway in gateways
        if not gateway.process.alive
    ]


def in_namespaces(stopping: threading.Event) -> int:
    """Build, report, and keep going until told to stop; exit status."""
    with pair(
        ("ours", "ours"), (TRAPPING,), tunnels_b=(TUNNEL,), settings={"retransmit_timeout": "2.0"}
    ) as made:
        source, target = made.ends("lan")
        say(
            folder=str(made.folder),
            sockets=[str(gateway.socket_path) for gateway in made.gateways],
            configurations=[str(gateway.conf) for gateway in made.gateways],
            namespaces=[namespace.name for namespace in made.namespaces],
            pids=[gateway.process.pid for gateway in made.gateways],
            lans=[source, target],
        )
        flow = EchoFlow(*made.namespaces, source, target, rate=PACKETS_PER_SECOND, size=600).start()
        try:
            while not stopping.wait(0.5):
                dead = dead_parts(made.gateways)
                if dead:
                    say(dead="\n".join(dead))
                    return 1
                say(sent=flow.sent, back=len(flow.seen))
        finally:
            flow.stop(drain=0.5)
            say(sent=flow.sent, back=len(flow.seen))
    return 0


def in_memory(stopping: threading.Event) -> int:
    """The same without namespaces: two daemons on loopback ports, whose memory data planes ping each other."""
    ports = [(15500, 15501), (16500, 16501)]
    secret = secrets.token_hex(24)
    with folder() as place, contextlib.ExitStack() as stack:
        gateways = []
        for end, name in enumerate("ab"):
            tunnel = replace(
                (TRAPPING, TUNNEL)[end],
                addresses=("127.0.0.1", "127.0.0.1"),
                options={
                    **TUNNEL.options,
                    "local_port": str(ports[end][1]),
                    "remote_port": str(ports[1 - end][1]),
                },
            )
            port, port_nat_t = map(str, ports[end])
            gateway = OurStack(
                name, None, place / name, {"port": port, "port_nat_t": port_nat_t}, data_plane="memory"
            )
            gateway.configure(gateway.preamble() + document((tunnel,), end, {TUNNEL.name: secret}))
            gateway.start()
            stack.callback(gateway.stop)
            gateways.append(gateway)
        say(
            folder=str(place),
            sockets=[str(gateway.socket_path) for gateway in gateways],
            pids=[gateway.process.pid for gateway in gateways],
        )
        while not stopping.wait(0.5):
            dead = dead_parts(gateways)
            if dead:
                say(dead="\n".join(dead))
                return 1
            # What the data planes' own hosts sent and got back, as the SA in use counts it.
            packets = [child.packets for child in gateways[0].children("lan")]
            say(sent=sum(out for _, out in packets), back=sum(into for into, _ in packets))
    return 0


def main() -> int:
    live = in_memory if "--memory" in sys.argv[1:] else in_namespaces
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    # The parent's death shows as the end of standard input; the signal is for a parent that shares it with others.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def until_closed() -> None:
        while os.read(0, 4096):  # unbuffered: no lock is held when the interpreter ends
            pass
        stopping.set()

    threading.Thread(target=until_closed, daemon=True).start()
    try:
        return live(stopping)
    except BrokenPipeError:  # nobody listens any more
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until exit)
        return 1
    except (AssertionError, RuntimeError, OSError) as error:
        say(dead=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
