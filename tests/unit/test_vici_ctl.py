"""ipsecctl against a served gateway: output, exit statuses, errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from vici_support.certs import certificate
from vici_support.fake import Gateway
from vici_support.serving import Served, serving

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.keyex.base import CommandFinished, LogRecorded
from ipsecstack.vici.ctl import EXIT_FAILED, EXIT_NO_DAEMON, EXIT_OK, ipsecctl

CONF = """
connections {
  net { remote_addrs = 10.0.0.2
    local { auth = psk
      id = a.lab }
    remote { auth = psk }
    children { c { remote_ts = 10.2.0.0/24 } } }
  cert { local { certs = a.pem }
     remote { cacerts = ca.pem } }
}
secrets {
  ike-1 { secret = hunter2
    id = a.lab }
  private-a { file = a.key
    secret-1 = wrong
    secret-2 = opensesame }
}
authorities { lab { cacert = ca.pem } }
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    gateway = Gateway(reload=lambda: "fine")
    gateway.fill()
    with serving(gateway, tmp_path / "x.vici") as made:
        yield made


@pytest.fixture
def ctl(served: Served, capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, stdout, stderr) of a command line."""

    def run(*args: str) -> tuple[int, str, str]:
        status = ipsecctl([*args, "--socket", str(served.path)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_list_sas(ctl: Run) -> None:
    status, out, _ = ctl("list-sas")
    assert status == EXIT_OK
    lines = out.splitlines()
    for line in (
        "psk2: #4, ESTABLISHED, IKEv2, d340fd4102c0b3ef_i* 2257d039863253db_r",
        "  local  'a.lab' @ 10.99.0.1[4500]",
        "  AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256",
        "  established 10s ago, rekeying in 13000s, expires in 14400s",
        "  gcm: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/CURVE_25519/ESN",
        "    in  c0000004,    420 bytes,     1 packets,     2s ago",
        "    out 0c000004,    840 bytes,     1 packets",
        "    dropped: 3 replay-errors-in",
        "    remote 10.2.0.0/24[tcp/80]",
        "(unnamed): #5, CONNECTING, IKEv2, d340fd4102c0b3ef_i* 2257d039863253db_r",
    ):
        assert line in lines, line
    assert ctl("list-sas", "--ike", "nobody")[1] == ""
    assert "(unnamed)" not in ctl("list-sas", "--child-id", "4")[1]


def test_json_and_raw(ctl: Run) -> None:
    sas = json.loads(ctl("list-sas", "--json")[1])
    assert [name for sa in sas for name in sa] == ["(unnamed)", "psk2"]
    assert sas[1]["psk2"]["child-sas"]["gcm-4"]["bytes-in"] == "420"
    assert json.loads(ctl("version", "--json")[1])["daemon"] == "ipsecstackd"
    assert json.loads(ctl("list-conns", "--json")[1]) == []
    raw = ctl("list-sas", "--raw")[1].splitlines()
    assert len(raw) == 2
    assert raw[1].startswith("list-sa event {psk2 {uniqueid=4 ") or raw[1].startswith(
        "list-sa {psk2 {uniqueid=4 "
    )


def test_other_lists(ctl: Run, served: Served) -> None:
    ts = (TrafficSelector.from_text("10.1.0.0/24"),)
    served.call(served.gateway.stack.add_policy, SpdEntry("a/trap", Action.PROTECT, ts, ts, 10, trap=True))
    served.call(served.gateway.stack.add_policy, SpdEntry("a/up", Action.PROTECT, ts, ts, 10))
    out = ctl("list-policies")[1]
    assert "a/trap, TUNNEL, trap\n  local:  10.1.0.0/24" in out
    assert "a/up, TUNNEL, protect" in out
    assert "a/up" not in ctl("list-policies", "--trap")[1]
    assert "uptime: 100 seconds" in ctl("stats")[1]
    assert "unknown-spi" in ctl("stats")[1]
    assert "ike-init-in-req" in ctl("counters")[1]
    assert "psk2:" in ctl("counters", "--all")[1]
    assert "reset" in ctl("counters", "--reset")[1]
    assert ctl("version")[1].startswith("ipsecstackd 0.1 (Linux")
    status, _, err = ctl("counters", "--name", "x")
    assert (status, err) == (
        EXIT_FAILED,
        "ipsecctl: counters failed: no counters found for this connection\n",
    )


def test_control(ctl: Run, served: Served) -> None:
    status, out, _ = ctl("initiate", "--child", "gcm", "--ike", "psk2")
    assert (status, out) == (
        EXIT_OK, "[IKE] <psk2|4> initiating IKE_SA psk2[4] to 10.99.0.2\ninitiate completed successfully\n",
    )  # fmt: skip
    assert ctl("terminate", "--ike", "psk2", "--force")[0] == EXIT_OK
    assert ctl("rekey", "--child", "gcm")[1] == "rekeying 1 SAs\n"
    assert ctl("redirect", "--peer-ip", "10.1.0.0/16", "--gateway", "10.0.0.9")[1] == "redirecting 1 peers\n"
    assert [call[0] for call in served.gateway.endpoint.calls] == [
        "initiate",
        "terminate",
        "rekey",
        "redirect",
    ]
    assert ctl("redirect", "--gateway", "10.0.0.9")[0] == EXIT_FAILED
    assert ctl("initiate")[0] == EXIT_FAILED
    assert ctl("rekey")[2].startswith("ipsecctl: rekey needs to know what")
    served.gateway.endpoint.on_command = lambda ticket: [CommandFinished(ticket, False, "no answer")]
    status, _, err = ctl("initiate", "--child", "gcm")
    assert (status, err) == (
        EXIT_FAILED,
        "ipsecctl: initiate failed: establishing CHILD_SA 'gcm' failed: no answer\n",
    )


def configuration(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    for name in ("x509", "x509ca", "private"):
        (folder / name).mkdir(parents=True)
    pem, key = certificate("a.lab", ca=False)
    (folder / "x509" / "a.pem").write_bytes(pem)
    (folder / "x509ca" / "ca.pem").write_bytes(certificate("lab CA", ca=True)[0])
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opensesame"))
    (folder / "private" / "a.key").write_bytes(locked)
    (folder / "swanctl.conf").write_text(CONF)
    return folder


def test_load_a_file(ctl: Run, served: Served, tmp_path: Path) -> None:
    folder = configuration(tmp_path)
    status, out, err = ctl("load", str(folder / "swanctl.conf"))
    assert (status, err) == (EXIT_OK, ""), out
    gateway = served.gateway
    assert [c.name for c in gateway.endpoint.connections()] == ["net", "cert"]
    assert gateway.credentials.shared_ids() == ["ike-1"]
    assert len(gateway.credentials.key_ids()) == 1
    assert list(gateway.credentials.authorities()) == ["lab"]
    assert "chmod 600" in out
    assert "hunter2" not in out
    certs = ctl("list-certs")[1]
    assert "subject: CN=a.lab" in certs
    assert "end entity, private key is loaded" in certs
    conns = ctl("list-conns")[1]
    assert "net: IKEv2, no reauthentication, rekeying every 14400s" in conns
    assert "  c: TUNNEL, rekeying every 3600s\n    local:  dynamic\n    remote: 10.2.0.0/24" in conns
    gateway.endpoint.calls.clear()
    assert ctl("load", str(folder / "swanctl.conf"))[0] == EXIT_OK
    assert gateway.endpoint.calls == []
    (folder / "swanctl.conf").write_text("connections { other { } }")
    (folder / "private" / "a.key").unlink()
    assert "unloaded conn net" in ctl("load", str(folder / "swanctl.conf"))[1]
    assert [c.name for c in gateway.endpoint.connections()] == ["other"]
    assert (gateway.credentials.shared_ids(), gateway.credentials.key_ids()) == ([], [])


def test_a_broken_file_is_not_sent(ctl: Run, served: Served, tmp_path: Path) -> None:
    folder = configuration(tmp_path)
    (folder / "swanctl.conf").write_text(CONF.replace("remote_ts", "remot_ts"))
    status, _, err = ctl("load", str(folder / "swanctl.conf"))
    assert status == EXIT_FAILED
    assert "swanctl.conf:7: connections.net.children.c.remot_ts: unknown key" in err
    assert served.gateway.endpoint.connections() == []
    assert served.gateway.credentials.certificates() == []


def test_reload(ctl: Run) -> None:
    assert ctl("load") == (EXIT_OK, "the daemon has read its configuration again\n", "")


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ipsecctl(["version", "--socket", str(tmp_path / "none")]) == EXIT_NO_DAEMON
    assert capsys.readouterr().err == (
        f"ipsecctl: there is no socket {tmp_path / 'none'}; is ipsecstackd running? (--socket names another)\n"
    )


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["no-such"], ["list-sas", "--ike-id", "x"], ["list-sas", "--raw", "--json"]):
        with pytest.raises(SystemExit) as caught:
            ipsecctl(args)
        assert caught.value.code == 2
    capsys.readouterr()


def test_the_program_itself(served: Served, repository: Path) -> None:
    """As installed: exit status, the environment's socket, a reader that goes away, and it starts fast."""
    code = "import sys; from ipsecstack.cli import ipsecctl; sys.exit(ipsecctl())"
    env = {**os.environ, "IPSECSTACK_VICI": str(served.path), "PYTHONPATH": str(repository)}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "version"], env=env, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    assert done.stdout.startswith("ipsecstackd")
    assert time.monotonic() - begun < 20
    broken = subprocess.run(
        [sys.executable, "-c", f"{code} | 0", "list-sas"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=30,
    )
    assert b"Traceback" not in broken.stderr


def test_log_follows(served: Served, repository: Path) -> None:
    code = "import sys; from ipsecstack.vici.ctl import ipsecctl; sys.exit(ipsecctl())"
    env = {**os.environ, "PYTHONPATH": str(repository)}
    with subprocess.Popen(
        [sys.executable, "-c", code, "log", "--socket", str(served.path)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 20
        while (
            not any(s.events for s in served.gateway.server._sessions.values())
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        served.call(served.gateway.stack.tell, LogRecorded("IKE", 1, "psk2", 4, "a line"))
        assert process.stdout is not None
        assert process.stdout.readline() == "[IKE] <psk2|4> a line\n"
        served.call(served.gateway.server.close)
        assert process.wait(10) == EXIT_NO_DAEMON
