"""From exec of ipsec-snmpd to its first answer, beside a gateway with 10,000 tunnels, and until all are shown."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, Goal
from bench.snmp.processes import OTHER, ROOT, SERVER
from bench.snmp.serve import CONFIG

from agent.engine import messages, pdu
from agent.smi import ber

TUNNELS = 10_000
LIMIT = 1.0
PATIENCE = 60.0
UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)
ACTIVE_TUNNELS = (1, 3, 6, 1, 4, 1, 9, 9, 171, 1, 3, 1, 1, 0)
SOURCE = """
[sources.bench]
type = "vici"
socket = "{socket}"
poll_interval = 0.1
"""


@contextlib.contextmanager
def gateway(tunnels: int, path: Path) -> Iterator[None]:
    """A gateway with so many tunnels that speaks VICI, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.snmp.fake_gateway", str(tunnels), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT)))},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    os.sched_setaffinity(process.pid, {OTHER})
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("bench-snmp: the gateway with many tunnels does not start")
        yield
    finally:
        process.stdin.close()
        process.wait(10)


class Manager:
    """Asks one instance at a time; an answer that comes too late is none."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.number = 0

    def get(self, oid: ber.Oid, patience: float) -> int | None:
        """An integer value, -1 where the instance does not exist; None if no answer comes in time."""
        self.number += 1
        request_id = ber.integer((1 << 24) + self.number)
        name = ber.oid_content(oid)
        varbinds = ber.tlv(0x30, ber.varbind(name, ber.NULL_VALUE))
        request = ber.tlv(pdu.GET, request_id + ber.integer(0) + ber.integer(0) + varbinds)
        deadline = time.perf_counter() + patience
        try:
            self.socket.send(messages.community_message(1, b"bench", request))
            while (left := deadline - time.perf_counter()) > 0:
                self.socket.settimeout(left)
                answer = self.socket.recv(65535)
                if request_id in answer:
                    # the value of a response with one varbind is what it ends with
                    value = answer[answer.rindex(name) + len(name) :]
                    return int.from_bytes(value[2:], "big") if value[0] < 0x80 else -1
        except (TimeoutError, ConnectionRefusedError):
            pass
        return None


def until(manager: Manager, oid: ber.Oid, least: int, pause: float, started: float) -> tuple[float, float]:
    """Ask on and on until the value is at least so much: the seconds since `started`, and the longest wait."""
    worst = 0.0
    while time.perf_counter() - started < PATIENCE:
        asked = time.perf_counter()
        value = manager.get(oid, 0.01 if least == 0 else 5.0)
        now = time.perf_counter()
        if value is not None:
            worst = max(worst, now - asked)
            if value >= least:
                return now - started, worst
        time.sleep(pause)
    raise SystemExit(f"bench-snmp: ipsec-snmpd did not show what was waited for in {PATIENCE:g} s")


def one_round(folder: Path, port: int) -> tuple[float, float, float]:
    """Seconds to the first answer, and to all tunnels; the longest wait for an answer in between."""
    command = [str(Path(sys.executable).parent / "ipsec-snmpd"), "--config", str(folder / "agent.toml")]
    with open(folder / "log", "ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(SERVER), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        manager = Manager(port)
        first, _ = until(manager, UP_TIME, 0, 0.002, started)
        shown, worst = until(manager, ACTIVE_TUNNELS, TUNNELS, 0.005, started)
        return first, shown, worst
    finally:
        process.terminate()
        process.wait(30)


def measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-snmp-") as place:
        folder = Path(place)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        state = folder / "state"
        state.mkdir(mode=0o700)
        text = CONFIG.format(folder=state).replace("127.0.0.1:0", f"127.0.0.1:{port}")
        path = folder / "agent.toml"
        path.touch(0o600)
        path.write_text(text + SOURCE.format(socket=folder / "vici"))
        with gateway(TUNNELS, folder / "vici"):
            # the first start numbers the rows; the others find them numbered, as a restart does
            one_round(folder, port)
            times = [one_round(folder, port) for _ in range(rounds)]
    first = Figure(
        f"start of ipsec-snmpd to its first answer, {TUNNELS:,} tunnels", "s", [t[0] for t in times]
    )
    first.goal = Goal(f"< {LIMIT:g} s", first.median, LIMIT, at_least=False)
    return [
        first,
        Figure(f"start of ipsec-snmpd until all {TUNNELS:,} tunnels are shown", "s", [t[1] for t in times]),
        Figure("worst GET meanwhile", "ms", [t[2] * 1000 for t in times]),
    ]
