"""The lab itself: clean after crashes, true to the octet, and strongSwan on both sides as the reference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import netns, traffic
from lab.capture import Capture, tshark, tshark_complaints
from lab.netns import namespaces
from lab.policy import require_tool
from lab.process import Process, wait_until
from lab.snmp import Value, parse_output
from lab.swanconf import Child, Tunnel, document, render

TESTS = Path(__file__).parent.parent


def test_strongswan_on_both_sides(make_pair) -> None:
    """The reference: what the other tests demand of us holds between two of strongSwan."""
    require_tool("tshark")
    pair = make_pair(("strongswan", "strongswan"), (Tunnel(auth="ecdsa"),))
    left, right = pair.namespaces
    with Capture(left, pair.folder / "wan.pcap") as capture:
        pair.a.initiate("net")
        sent = traffic.send_udp(left, right, *pair.ends(), [100, 1000])
        assert pair.a.child().octets == (0, sent)
        assert pair.b.child().octets == (sent, 0)
        assert traffic.ping(left, *pair.ends()).lost == 0
    assert {row[0] for row in tshark(capture.path, "isakmp", ["isakmp.exchangetype"])} >= {"34", "35"}
    assert tshark_complaints(capture.path) == []


def test_tshark_runner_sees_malformed_packets(make_pair, tmp_path: Path) -> None:
    """A datagram to port 500 that is cut short is complained of, so silence means something."""
    require_tool("tshark")
    with namespaces("a", "b") as (left, right):
        netns.link(left, right)
        left.add_address("10.99.0.1/24", device="wan")
        right.add_address("10.99.0.2/24", device="wan")
        with Capture(left, tmp_path / "x.pcap") as capture, left.socket(2, 2) as sender:
            header = bytes(8) + bytes(8) + bytes([33, 0x20, 34, 8]) + bytes(4) + (200).to_bytes(4, "big")
            sender.bind(("10.99.0.1", 500))
            sender.sendto(header + bytes(12), ("10.99.0.2", 500))
            time.sleep(0.1)
        assert tshark_complaints(capture.path) != []


def test_crashed_run_is_swept(tmp_path: Path) -> None:
    """A run that is killed leaves its namespaces; its processes die with it, and the next run removes the rest."""
    script = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from lab.netns import Namespace, folder
from lab.process import Process
namespace = Namespace("crash")
kept = folder()
place = kept.__enter__()
process = Process("sleeper", ["sleep", "300"], Path({str(tmp_path / "log")!r}), namespace)
process.start()
print(namespace.name, place, process.pid, flush=True)
time.sleep(300)
"""
    crashing = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert crashing.stdout
    name, place, pid = crashing.stdout.readline().split()
    command = Path(f"/proc/{pid}/comm")
    wait_until(
        lambda: command.read_text().strip() == "sleep", 5, "setpriv, which binds it to its parent, has run"
    )
    assert name in netns.ours()
    netns.sweep()
    assert name in netns.ours(), "a living run was swept"
    crashing.send_signal(signal.SIGKILL)
    crashing.wait()
    wait_until(lambda: netns.start_time(int(pid)) is None, 5, "the sleeper died with its parent")
    assert Path(place).is_dir()
    netns.sweep()
    assert name not in netns.ours()
    assert not Path(place).exists()


def test_namespace_is_gone_with_its_processes(tmp_path: Path) -> None:
    with namespaces("x") as (only,):
        process = Process("sleeper", ["sleep", "300"], tmp_path / "log", only)
        process.start()
        wait_until(lambda: process.pid in only.processes(), 5)
    wait_until(lambda: not process.alive, 5)
    assert only.name not in netns.ours()


def test_echo_flow_counts_losses() -> None:
    """A device that is down for a moment loses packets, and the flow says which."""
    with namespaces("a", "b") as (left, right):
        netns.link(left, right)
        left.add_address("10.99.0.1/24", device="wan")
        right.add_address("10.99.0.2/24", device="wan")
        flow = traffic.EchoFlow(left, right, "10.99.0.1", "10.99.0.2").start()
        time.sleep(0.1)
        right.ip("link set wan down")
        time.sleep(0.1)
        right.ip("link set wan up")
        time.sleep(0.1)
        flow.stop(drain=0.3)
        assert flow.lost
        assert len(flow.lost) < flow.sent


def test_swanctl_conf_quotes_what_needs_it() -> None:
    assert render({"a": {"b": 1, "c": 'x"#y'}}) == 'a {\n  b = 1\n  c = "x\\"#y"\n}\n'
    text = document((Tunnel(children=(Child("n", ("10.1.0.0/24", "10.2.0.0/24")),)),), 1, {"gw": "s3cret"})
    assert "local_ts = 10.2.0.0/24" in text
    assert "secret = s3cret" in text


def test_snmp_output_is_understood() -> None:
    text = (
        ".1.3.6.1.1.0 = INTEGER: -5\n.1.3.6.1.2.0 = 4711\n"
        ".1.3.6.1.3.0 = Hex-STRING: 41 42 43 44 45 46 47 48 41 42 43 44 45 46 47 48 \n41 0A \n"
        '.1.3.6.1.4.0 = ""\n.1.3.6.1.5.0 = OID: .1.3.6\n.1.3.6.1.6.0 = Counter64: 18446744073709551615\n'
        ".1.3.6.1.7.0 = No Such Instance currently exists at this OID\n.1.3.6.1.8.0 = IpAddress: 10.1.2.3\n"
    )
    assert parse_output(text) == {
        "1.3.6.1.1.0": Value("INTEGER", -5),
        "1.3.6.1.2.0": Value("Timeticks", 4711),
        "1.3.6.1.3.0": Value("Hex-STRING", b"ABCDEFGHABCDEFGHA\n"),
        "1.3.6.1.4.0": Value("Hex-STRING", b""),
        "1.3.6.1.5.0": Value("OID", "1.3.6"),
        "1.3.6.1.6.0": Value("Counter64", 18446744073709551615),
        "1.3.6.1.7.0": Value("noSuchInstance", None),
        "1.3.6.1.8.0": Value("IpAddress", "10.1.2.3"),
    }


def test_secrets_stay_private(make_pair) -> None:
    pair = make_pair(("strongswan", "strongswan"), start=False)
    assert pair.folder.stat().st_mode & 0o077 == 0
    assert pair.a.conf.stat().st_mode & 0o077 == 0
    assert pair.psk["gw"] in pair.a.conf.read_text()
    assert pair.psk["gw"] not in repr(pair)
    assert os.getpid() == int(pair.namespaces[0].name.split(".")[1])
