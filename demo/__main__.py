"""Start the demo, show it, supervise it, clean up. See `python -m demo --help`."""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import vici
from lab import netns
from lab.gateway import text_of
from lab.netns import folder
from lab.ours import BIN, OurAgent
from lab.process import ProcessFailed
from lab.tools import find_tool, why_no_namespaces

from demo.manager import IKE_TUNNEL, IPSEC_TUNNEL, Manager
from demo.view import Screen, State, headed

REPOSITORY = Path(__file__).resolve().parent.parent
STATUS_DESTROY = 2
PROBE = "mount -t tmpfs tmpfs /run && ip netns add p && ip netns exec p ip tuntap add probe0 mode tun"


class DemoFailed(Exception):
    """A part of the demo does not work or has ended; the message says which and why."""


def why_no_user_namespace() -> str | None:
    """None when an ordinary user can have network namespaces of its own here, else the reason why not."""
    for tool in ("unshare", "ip"):
        if find_tool(tool) is None:
            return f"{tool} is not installed"
    done = subprocess.run(
        ["unshare", "-Urnm", "sh", "-c", PROBE], capture_output=True, text=True, check=False, timeout=20
    )
    return None if done.returncode == 0 else done.stderr.strip() or f"unshare -Urnm gave {done.returncode}"


class Ground(enum.Enum):
    """What the gateways stand on; the value says it to the user."""

    ROOT = "in network namespaces, as root"
    USER = "in network namespaces, as an ordinary user in a user namespace"
    MEMORY = "on the memory data plane"


def find_ground() -> Ground:
    """The best ground to be had here; says why when it is not network namespaces."""
    as_root = os.geteuid() == 0
    reason = why_no_namespaces() if as_root else why_no_user_namespace()
    if reason is None:
        return Ground.ROOT if as_root else Ground.USER
    print(f"demo: no network namespaces to be had: {reason}")
    print(
        "demo: so no TUN device: IKE and ESP go over loopback UDP, and the packets inside are made in memory"
    )
    return Ground.MEMORY


class Inside:
    """The process in the namespaces (demo.inside) and what it has said last."""

    def __init__(self, ground: Ground) -> None:
        command = [sys.executable, "-m", "demo.inside"]
        if ground is Ground.USER:
            # A user's own namespaces live in a /run of their own.
            command = [
                "unshare",
                "-Urnm",
                "sh",
                "-c",
                'mount -t tmpfs tmpfs /run && exec "$@"',
                "sh",
                *command,
            ]
        elif ground is Ground.MEMORY:
            command.append("--memory")
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,  # Ctrl-C is for us, who then end it in order
        )
        self._said: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            with contextlib.suppress(ValueError):
                self._said.update(json.loads(line))

    def __getitem__(self, key: str) -> Any:
        return self._said.get(key)

    def check(self) -> None:
        """DemoFailed when it, or a part of it, has ended."""
        if self["dead"]:
            raise DemoFailed(self["dead"])
        if self._child.poll() is not None:
            raise DemoFailed(f"the gateways' process ended with status {self._child.returncode}")

    def wait_built(self, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while self["sockets"] is None:
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the gateways are not up after {timeout:g} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Close its standard input, which makes it clean up; harsher if that takes too long."""
        assert self._child.stdin
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._child.send_signal(number)
            try:
                self._child.wait(8)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(2)


def list_child(socket_path: str) -> dict[str, Any] | None:
    """The newest installed CHILD_SA of a gateway, as VICI's list-sas gives it."""
    newest: dict[str, Any] | None = None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(socket_path)
            for message in vici.Session(connection).list_sas():
                for ike in text_of(message).values():
                    for child in ike["child-sas"].values():
                        if child["state"] != "INSTALLED":
                            continue
                        if newest is None or int(child["uniqueid"]) > int(newest["uniqueid"]):
                            newest = dict(child)
    except (OSError, KeyError, vici.exception.SessionException):
        return None
    return newest


def tunnel_index(manager: Manager, column: str) -> str | None:
    """The index of the (only) row of a table."""
    indexes = manager.indexes(column)
    return indexes[0] if indexes else None


def state_of(inside: Inside, manager: Manager) -> State:
    child = list_child(inside["sockets"][0])
    index = tunnel_index(manager, f"{IPSEC_TUNNEL}.51")
    octets: tuple[int | None, int | None] | None
    if index is None:
        octets = (None, None) if manager.answers() else None
    else:
        numbers = manager.numbers(f"{IPSEC_TUNNEL}.27.{index}", f"{IPSEC_TUNNEL}.40.{index}")
        octets = None if numbers is None else (numbers[0], numbers[1])
    algorithm = ""
    if child:
        parts = [child.get("encr-alg"), child.get("encr-keysize"), child.get("integ-alg")]
        algorithm = "ESP " + "-".join(part for part in parts if part)
    return State(
        up=child is not None,
        spis=(child["spi-in"], child["spi-out"]) if child else None,
        algorithm=algorithm,
        octets=(int(child["bytes-in"]), int(child["bytes-out"])) if child else None,
        packets=(int(child["packets-in"]), int(child["packets-out"])) if child else None,
        snmp_octets=octets,
        sent=inside["sent"] or 0,
        back=inside["back"] or 0,
    )


def what_to_try(inside: Inside, agent: OurAgent, ground: Ground, manager: Manager) -> str:
    """The exact commands, with this run's secrets, sockets and indexes."""
    reader = " ".join(agent.access.reader())
    operator = " ".join(agent.access.operator())
    target = agent.snmp.target
    names = f"-M {REPOSITORY / 'mibs/base'}:{REPOSITORY / 'mibs/src'} -m ALL"
    ipsec = tunnel_index(manager, f"{IPSEC_TUNNEL}.51") or "1"
    ike = tunnel_index(manager, f"{IKE_TUNNEL}.35") or "1"
    a, b = inside["sockets"]
    swanctl = find_tool("swanctl") or "swanctl"
    by_hand = ""
    if ground is not Ground.MEMORY:
        near, far = inside["lans"]
        enter = f"ip netns exec {inside['namespaces'][0]}"
        if ground is Ground.USER:
            enter = f"nsenter --preserve-credentials --user --net --target {inside['pids'][0]}"
        by_hand = headed("A packet through the tunnel by hand:", [f"{enter} ping -c 3 -I {near} {far}"])
    missing = [tool for tool in ("snmpwalk", "swanctl") if find_tool(tool) is None]
    note = (
        f"\n(not installed here: {', '.join(missing)}; on Debian: apt-get install snmp strongswan-swanctl)\n"
    )
    return (
        headed(
            "Look (SNMP, read-only):",
            [
                f"snmpwalk {reader} {names} {target} CISCO-IPSEC-FLOW-MONITOR-MIB::cipSecTunnelTable",
                f"snmpwalk {reader} {names} {target} IPSEC-SA-MON-MIB::saTables",
                f"snmpget {reader} {target} {IPSEC_TUNNEL}.27.{ipsec} {IPSEC_TUNNEL}.40.{ipsec}",
            ],
        )
        + headed(
            "Steer (SNMPv3): delete the IPsec tunnel, or the IKE SA with it; the traffic brings them back",
            [
                f"snmpset {operator} {target} {IPSEC_TUNNEL}.51.{ipsec} i {STATUS_DESTROY}",
                f"snmpset {operator} {target} {IKE_TUNNEL}.35.{ike} i {STATUS_DESTROY}",
            ],
        )
        + headed(
            "The gateways themselves (strongSwan's swanctl, or our ipsecctl):",
            [
                f"{swanctl} --list-sas --uri unix://{a}",
                f"{swanctl} --rekey --child lan --uri unix://{b}",
                f"{BIN / 'ipsecctl'} list-sas --socket {a}",
            ],
        )
        + by_hand
        + (note if missing else "")
    )


@contextlib.contextmanager
def signals_end_it() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    yield ended


def watch(
    inside: Inside, agent: OurAgent, manager: Manager, seconds: float | None, ended: threading.Event
) -> tuple[State, State]:
    """Show the tunnel until the time is over or someone ends it; the first and the last state with an answer."""
    screen = Screen()
    started = time.monotonic()
    first = last = state_of(inside, manager)
    while True:
        inside.check()
        if not agent.process.alive:
            raise DemoFailed(
                f"the agent ended with {agent.process.returncode}:\n{agent.process.text()[-2000:]}"
            )
        last = state_of(inside, manager)
        elapsed = time.monotonic() - started
        screen.show(last, elapsed)
        if seconds is not None and elapsed >= seconds:
            return first, last
        if ended.wait(min(1.0, seconds - elapsed) if seconds is not None else 1.0):
            return first, last


def verdict(first: State, last: State) -> str | None:
    """None when the tunnel carried traffic and the agent told of it, else what was missing."""
    if last.back == 0:
        return "no packet came back through the tunnel"
    if last.snmp_octets is None:
        return "the agent did not answer"
    now_in, now_out = last.snmp_octets
    if not now_in or not now_out:
        return "the agent counted no octets in the tunnel"
    before_in, before_out = first.snmp_octets or (0, 0)
    if now_in <= (before_in or 0) or now_out <= (before_out or 0):
        return "the agent's counters did not move"
    return None


def run(seconds: float | None, port: int, ground: Ground) -> int:
    print(f"demo: starting two gateways {ground.value}, and the SNMP agent on 127.0.0.1:{port}", flush=True)
    netns.sweep()
    with contextlib.ExitStack() as stack:
        ended = stack.enter_context(signals_end_it())
        stack.callback(netns.sweep)  # what a crashed part may have left
        inside = Inside(ground)
        stack.callback(inside.stop)
        inside.wait_built()
        place = stack.enter_context(folder())
        agent = OurAgent({"gateway-a": Path(inside["sockets"][0])}, place / "agent", port=port, poll=1.0)
        manager = Manager("127.0.0.1", port, agent.access.community)
        stack.callback(manager.close)
        if manager.answers():
            raise DemoFailed(f"something else answers on 127.0.0.1:{port}; choose another port with --port")
        agent.start()
        stack.callback(agent.stop)
        deadline = time.monotonic() + 15
        while not ended.is_set() and tunnel_index(manager, f"{IPSEC_TUNNEL}.51") is None:
            inside.check()
            if time.monotonic() > deadline:
                raise DemoFailed("the agent shows no tunnel after 15 s\n" + agent.process.text()[-2000:])
            time.sleep(0.1)
        print(what_to_try(inside, agent, ground, manager))
        print(
            "Ctrl-C ends it all.\n" if seconds is None else f"It ends by itself in {seconds:g} s.\n",
            flush=True,
        )
        first, last = watch(inside, agent, manager, seconds, ended)
        trouble = verdict(first, last) if seconds is not None else None
    print("demo: all cleaned up.")
    if trouble:
        print(f"demo: FAILED: {trouble}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, help="end after so many seconds; exit status 0 when all worked"
    )
    parser.add_argument("--port", type=int, default=1161, help="the agent's UDP port on 127.0.0.1 (1161)")
    parser.add_argument(
        "--on", choices=[ground.name.lower() for ground in Ground], help="instead of the best to be had"
    )
    options = parser.parse_args()
    if shutil.which("setpriv") is None:
        print("demo: setpriv is not installed (on Debian: apt-get install util-linux)", file=sys.stderr)
        return 1
    try:
        ground = Ground[options.on.upper()] if options.on else find_ground()
        return run(options.seconds, options.port, ground)
    except (DemoFailed, ProcessFailed) as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
