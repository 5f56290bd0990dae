"""One who floods and one who is polite, at the same socket: the polite one gets every answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from smi_support import TestModel, request, rows, running, unwrap, v2c
from test_engine_attacks import ASK, NAME, scoped, v3
from test_smi_controller import column

from agent.engine.pdu import GET, GETBULK
from agent.smi import ber

DISCOVERY = v3(b"", b"", 4, scoped(ASK))

RATE = 20_000 if os.geteuid() == 0 else 2_000
"""Datagrams a second. Whoever is not root has a socket buffer that holds a fortieth."""
FLOODER = """
import socket, sys, time
host, port, seconds, data = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), bytes.fromhex(sys.argv[4])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[5], 0))
sock.setblocking(False)
sock.connect((host, port))
print("ready", flush=True)
end, sent = time.monotonic() + seconds, 0
begun = time.monotonic()
while (now := time.monotonic()) < end:
    while sent < (now - begun) * float(sys.argv[6]):
        try:
            sock.send(data)
        except OSError:
            pass
        sent += 1
    time.sleep(0.001)
print(sent)
"""


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("unknown communities", "127.0.0.2"),
        ("discoveries", "127.0.0.2"),
        ("walks under a good community", "127.0.0.2"),
        ("walks from the manager's own host", "127.0.0.1"),
        ("wrong digests", "127.0.0.2"),
    ],
)
def test_a_polite_manager_beside_a_flooder(tmp_path: Path, kind: str, source: str) -> None:
    """One sends more than can be answered; the other asks and waits, and gets every answer."""
    with running(tmp_path, TestModel(rows=rows(200))) as agent:
        host, port = agent.agent.addresses[0]
        assert agent.agent.usm is not None
        forged = v3(agent.agent.engine_id, b"operator", 7, ber.tlv(4, bytes(200)), bytes(24), bytes(8))
        data = {
            "unknown communities": v2c(ASK, b"stranger"),
            "discoveries": DISCOVERY,
            "walks under a good community": v2c(request(GETBULK, [column("tText")], second=100)),
            "walks from the manager's own host": v2c(request(GETBULK, [column("tText")], second=100)),
            "wrong digests": forged,
        }[kind]
        command = [sys.executable, "-c", FLOODER, host, str(port), "3", data.hex(), source, str(RATE)]
        flooder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert flooder.stdout is not None
        try:
            assert flooder.stdout.readline() == "ready\n"
            lost, worst, asked = polite(host, port, flooder)
        finally:
            flooder.kill()
            flooder.wait()
    print(f"{kind}: {asked} asked, {lost} lost, longest wait {worst * 1000:.0f} ms")
    assert lost == 0, f"{lost} of {asked} answers did not come, longest wait {worst:.3f} s"
    assert asked > 3


def polite(host: str, port: int, flooder: subprocess.Popen[str]) -> tuple[int, float, int]:
    """(answers that did not come, the longest wait, requests) of a manager that asks until the flooder has ended."""
    lost = asked = 0
    worst = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect((host, port))
        sock.settimeout(1.0)
        while flooder.poll() is None and asked < 300:
            asked += 1
            begun = time.monotonic()
            sock.send(v2c(request(GET, [NAME], request_id=asked)))
            try:
                while unwrap(sock.recv(65535)).request_id != asked:
                    continue
            except TimeoutError:
                lost += 1
            worst = max(worst, time.monotonic() - begun)
            time.sleep(0.005)
    return lost, worst, asked
