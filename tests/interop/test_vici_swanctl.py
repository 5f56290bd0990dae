"""Stock swanctl against our server: every option prints what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from vici_support.certs import certificate
from vici_support.fake import Gateway, child_view, ike_view
from vici_support.serving import Served, serving

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.keyex.base import ChildSaEstablished, CommandFinished, IkeSaEstablished, LogRecorded

pytestmark = pytest.mark.interop

CONF = """
defaults { version = 2
  local { auth = psk
    id = a.lab }
  remote { auth = psk
    id = b.lab } }
connections {
  psk2 : defaults { local_addrs = 10.99.0.1
    remote_addrs = 10.99.0.2
    proposals = aes128gcm16-prfsha256-x25519, default
    dpd_delay = 30s
    children {
      gcm { local_ts = 10.1.0.0/24
        remote_ts = 10.2.0.0/24[tcp/80]
        esp_proposals = aes128gcm16-esn
        start_action = trap }
      dns { mode = pass
        local_ts = 0.0.0.0/0[udp/53] } } }
  cert { remote_addrs = %any
    local { certs = a.pem }
    remote { cacerts = ca.pem } }
}
secrets { ike-1 { secret = 0sc2VjcmV0
    id-a = a.lab } }
authorities { lab { cacert = ca.pem } }
ipsecstackd { retransmit_tries = 3 }
"""

Swanctl = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x509", "x509ca", "private"):
        (tmp_path / name).mkdir()
    pem, key = certificate("a.lab", ca=False)
    (tmp_path / "x509" / "a.pem").write_bytes(pem)
    (tmp_path / "x509ca" / "ca.pem").write_bytes(certificate("lab CA", ca=True)[0])
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private" / "a.key").write_bytes(data)
    (tmp_path / "swanctl.conf").write_text(CONF)
    return tmp_path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Gateway()
    gateway.fill()
    with serving(gateway, tmp_path / "v" / "x.vici") as made:
        yield made


@pytest.fixture
def swanctl(served: Served, folder: Path, require_tool: Callable[[str], str]) -> Swanctl:
    """Run swanctl; its output, after a check of its exit status."""
    program = require_tool("swanctl")

    def run(*args: str, status: int = 0) -> str:
        done = subprocess.run(
            [program, *args, "--uri", served.uri],
            env={**os.environ, "SWANCTL_DIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + (done.stderr if status else "")

    return run


def test_list_sas(swanctl: Swanctl) -> None:
    lines = swanctl("--list-sas").splitlines()
    assert "psk2: #4, ESTABLISHED, IKEv2, d340fd4102c0b3ef_i* 2257d039863253db_r" in lines
    assert "  local  'a.lab' @ 10.99.0.1[4500]" in lines
    assert "  AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256" in lines
    assert any(line.startswith("  established 10s ago, rekeying in 13000s") for line in lines)
    assert "  gcm: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/CURVE_25519/ESN" in lines
    assert "    installed 10s ago, rekeying in 3000s, expires in 3590s" in lines
    assert "    in  c0000004,    420 bytes,     1 packets,     2s ago" in lines
    assert "    out 0c000004,    840 bytes,     1 packets" in lines
    assert "    remote 10.2.0.0/24[tcp/80]" in lines
    assert "(unnamed): #5, CONNECTING, IKEv2, d340fd4102c0b3ef_i* 2257d039863253db_r" in lines
    assert "(null)" not in "\n".join(lines)
    assert swanctl("--list-sas", "--ike", "nobody") == ""
    assert "psk2" in swanctl("--list-sas", "--child", "gcm", "--raw")


def test_load_all_and_what_it_loaded(swanctl: Swanctl, served: Served) -> None:
    out = swanctl("--load-all", "--noprompt")
    for line in (
        "loaded private key from",
        "loaded ike secret 'ike-1'",
        "loaded authority 'lab'",
        "loaded connection 'psk2'",
        "loaded connection 'cert'",
        "successfully loaded 2 connections, 0 unloaded",
    ):
        assert line in out
    assert out.count("loaded certificate from") == 2
    conns = swanctl("--list-conns").splitlines()
    for line in (
        "psk2: IKEv2, no reauthentication, rekeying every 14400s, dpd delay 30s",
        "  local:  10.99.0.1",
        "  remote: 10.99.0.2",
        "  local pre-shared key authentication:",
        "    id: a.lab",
        "  gcm: TUNNEL, rekeying every 3600s, dpd action is none",
        "    remote: 10.2.0.0/24[tcp/80]",
        "  dns: PASS, no rekeying, dpd action is none",
        "cert: IKEv2, no reauthentication, rekeying every 14400s",
        "  local public key authentication:",
        "    certs: CN=a.lab",
        "    cacerts: CN=lab CA",
    ):
        assert line in conns, line
    certs = swanctl("--list-certs")
    assert 'subject:  "CN=a.lab"' in certs
    assert "pubkey:    ECDSA 256 bits, has private key" in certs
    assert "List of X.509 CA Certificates" in certs
    assert "lab:" in swanctl("--list-authorities")
    assert swanctl("--list-pools") == ""
    assert served.gateway.credentials.shared_ids() == ["ike-1"]


def test_loading_again_changes_nothing_and_removal_unloads(
    swanctl: Swanctl, served: Served, folder: Path
) -> None:
    swanctl("--load-all", "--noprompt")
    served.gateway.endpoint.calls.clear()
    swanctl("--load-all", "--noprompt")
    assert served.gateway.endpoint.calls == []
    start, end = CONF.index("  cert {"), CONF.index("secrets {")
    (folder / "swanctl.conf").write_text(CONF[:start] + "}\n" + CONF[end:].replace("ike-1", "ike-2"))
    (folder / "private" / "a.key").unlink()
    assert "1 unloaded" in swanctl("--load-all", "--noprompt")
    assert served.gateway.endpoint.calls == [("unload_connection", "cert")]
    assert served.gateway.credentials.shared_ids() == ["ike-2"]
    assert served.gateway.credentials.key_ids() == []
    swanctl("--load-creds", "--clear", "--noprompt")
    assert served.gateway.credentials.shared_ids() == ["ike-2"]


def test_what_is_refused_says_why(swanctl: Swanctl, folder: Path) -> None:
    (folder / "swanctl.conf").write_text(CONF.replace("dpd_delay = 30s", "aggressive = yes"))
    out = swanctl("--load-conns", status=22)
    assert (
        "loading connection 'psk2' failed: load-conn: connections.psk2.aggressive: is not supported yet"
        in out
    )


def test_initiate_rekey_terminate(swanctl: Swanctl, served: Served) -> None:
    out = swanctl("--initiate", "--child", "gcm", "--ike", "psk2")
    assert "[IKE] initiating IKE_SA psk2[4] to 10.99.0.2" in out
    assert "initiate completed successfully" in out
    assert "rekey completed successfully" in swanctl("--rekey", "--child", "gcm")
    assert "rekey completed successfully" in swanctl("--rekey", "--ike-id", "4")
    assert "terminate completed successfully" in swanctl("--terminate", "--ike", "psk2", "--force")
    assert [call[0] for call in served.gateway.endpoint.calls] == ["initiate", "rekey", "rekey", "terminate"]
    served.gateway.endpoint.on_command = lambda ticket: [
        CommandFinished(ticket, False, "peer not responding")
    ]
    out = swanctl("--initiate", "--child", "gcm", status=1)
    assert "initiate failed: establishing CHILD_SA 'gcm' failed: peer not responding" in out
    served.gateway.endpoint.refuse = "no matching SAs to terminate found"
    assert "terminate failed: no matching SAs" in swanctl("--terminate", "--child", "x", status=1)
    served.gateway.endpoint.refuse = None
    served.gateway.endpoint.on_command = lambda ticket: []
    assert "initiate completed" in swanctl("--initiate", "--child", "gcm", "--timeout", "-1")


def test_policies(swanctl: Swanctl, served: Served) -> None:
    local, remote = TrafficSelector.from_text("10.1.1.0/24"), TrafficSelector.from_text("10.2.1.0/24")
    for name, action, trap in (
        ("psk2/cbc", Action.PROTECT, True),
        ("x/dns", Action.BYPASS, False),
        ("x/no", Action.DISCARD, False),
    ):
        served.call(
            served.gateway.stack.add_policy, SpdEntry(name, action, (local,), (remote,), 10, 5, trap=trap)
        )
    out = swanctl("--list-pols")
    for line in (
        "psk2/cbc, TUNNEL",
        "x/dns, PASS",
        "x/no, DROP",
        "  local:  10.1.1.0/24",
        "  remote: 10.2.1.0/24",
    ):
        assert line in out.splitlines()
    assert "x/dns" not in swanctl("--list-pols", "--trap")
    assert swanctl("--list-pols", "--child", "cbc").startswith("psk2/cbc")
    assert "completed successfully" in swanctl("--install", "--child", "gcm")
    assert "completed successfully" in swanctl("--uninstall", "--child", "gcm")


def test_stats_counters_algorithms_version(swanctl: Swanctl) -> None:
    stats = swanctl("--stats").splitlines()
    assert stats[0].startswith("uptime: 100 seconds, since ")
    assert "IKE_SAs: 2 total, 1 half-open" in stats
    assert "loaded plugins: ipsecstackd dataplane-memory" in stats
    counters = swanctl("--counters")
    assert counters.startswith("global:\n")
    assert "  ike-init-in-req       : 0" in counters
    assert "psk2:" in swanctl("--counters", "--all")
    assert "completed successfully" in swanctl("--counters", "--reset")
    algorithms = swanctl("--list-algs")
    assert "  AES_GCM_16[ipsecstack]" in algorithms
    assert "  CURVE_25519[ipsecstack]" in algorithms
    assert "0.1 ipsecstackd (" in swanctl("--version", "--daemon")
    assert "without a configuration file" in swanctl("--reload-settings", status=1)
    swanctl("--flush-certs")


def follow(served: Served, option: str, require_tool: Callable[[str], str], *told: object) -> str:
    """Run a following swanctl until it has had time to see ``told``, which is repeated; its output."""
    command = ["stdbuf", "-oL", require_tool("swanctl"), option, "--uri", served.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not any(
            s.events for s in served.gateway.server._sessions.values()
        ):
            time.sleep(0.02)
        time.sleep(0.1)
        for output in told:
            served.call(served.gateway.stack.tell, output)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    return out


def test_log(served: Served, require_tool: Callable[[str], str]) -> None:
    out = follow(served, "--log", require_tool, LogRecorded("IKE", 1, "psk2", 4, "a line of ours"))
    assert "a line of ours" in out
    assert "[IKE]" in out


def test_monitor_sa(served: Served, require_tool: Callable[[str], str]) -> None:
    child = child_view(4)
    ike = ike_view(4, children=[child])
    out = follow(served, "--monitor-sa", require_tool, IkeSaEstablished(ike), ChildSaEstablished(ike, child))
    assert "psk2" in out
    assert "gcm" in out
