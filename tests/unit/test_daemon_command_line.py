"""ipsecstackd from its command line: as a process on the memory data plane, and what it says when it cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import vici

from ipsecstack import cli

REPOSITORY = Path(__file__).resolve().parents[2]


def free_ports() -> tuple[int, int]:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("0.0.0.0", 0))
            ports.append(sock.getsockname()[1])
        return ports[0], ports[1]


def configuration(peer_port: int = 0, ports: tuple[int, int] | None = None, **more: str) -> str:
    port, nat_t = ports or free_ports()
    options = {
        "port": str(port),
        "port_nat_t": str(nat_t),
        "retransmit_timeout": "0.3",
        "retransmit_tries": "1",
        **more,
    }
    lines = "".join(f"  {key} = {value}\n" for key, value in options.items())
    connection = f"""
connections {{
  gw {{
    version = 2
    local_addrs = 127.0.0.1
    remote_addrs = 127.0.0.1
    local_port = {nat_t}
    remote_port = {peer_port or 9}
    proposals = aes128gcm16-prfsha256-x25519
    local {{
      auth = psk
      id = here
    }}
    remote {{
      auth = psk
      id = there
    }}
    children {{
      net {{
        local_ts = 10.1.0.0/24
        remote_ts = 10.2.0.0/24
        esp_proposals = aes128gcm16-x25519
      }}
    }}
  }}
}}
secrets {{
  ike-gw {{
    secret = "not for the log"
  }}
}}
"""
    return f"ipsecstackd {{\n{lines}}}\n{connection}"


class Process:
    """An ipsecstackd that runs, with its log."""

    def __init__(
        self,
        folder: Path,
        text: str,
        *arguments: str,
        dataplane: str = "memory",
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.conf = folder / "swanctl.conf"
        self.write(text)
        self.socket = folder / "run" / "vici"
        self.log_file = folder / "log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *wrapper, sys.executable, "-m", "ipsecstack.cli", "--config", str(self.conf),
                    "--socket", str(self.socket), "--dataplane", dataplane, *arguments,
                ],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )  # fmt: skip

    def write(self, text: str) -> None:
        self.conf.write_text(text)
        self.conf.chmod(0o600)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @contextlib.contextmanager
    def vici(self) -> Iterator[Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            yield vici.Session(connection)

    def until(self, condition: Callable[[], object], timeout: float = 15) -> None:
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            assert time.monotonic() < end, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def ready(self) -> None:
        def answers() -> bool:
            with self.vici() as session:
                return bool(session.version())

        self.until(answers)

    def end(self, number: int = signal.SIGTERM, timeout: float = 5) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(text: str, *arguments: str, name: str = "one", **options: Any) -> Process:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        started.append(Process(folder, text, *arguments, **options))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_life_of_a_daemon(start) -> None:
    daemon = start(configuration())
    daemon.ready()
    mode = daemon.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    with daemon.vici() as session:
        assert session.version()["daemon"] == b"ipsecstackd"
        assert [list(item) for item in session.list_conns()] == [["gw"]]
    # Configuration that is broken changes nothing; a good one does.
    daemon.write("connections {\n  gw {\n    version = nonsense\n  }\n}\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "not reloaded" in daemon.log)
    assert "swanctl.conf:3" in daemon.log
    with daemon.vici() as session:
        assert [list(item) for item in session.list_conns()] == [["gw"]]
    daemon.write(configuration().replace("  gw {", "  other {"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "1 connections loaded, 1 unloaded" in daemon.log)
    with daemon.vici() as session:
        assert [list(item) for item in session.list_conns()] == [["other"]]
    assert "restart to apply it" in daemon.log
    assert daemon.end() == 0
    assert not daemon.socket.exists()
    assert list((daemon.folder / "run").iterdir()) == []
    assert "not for the log" not in daemon.log
    assert "Traceback" not in daemon.log


def test_two_daemons_and_one_socket(start) -> None:
    first = start(configuration())
    first.ready()
    second = start(configuration())
    assert second.process.wait(10) == 1
    assert f"another ipsecstackd (process {first.process.pid}) serves" in second.log
    first.ready()
    # After a crash the lock and the dead socket are no obstacle.
    first.process.kill()
    first.process.wait()
    assert first.socket.exists()
    third = start(configuration())
    third.ready()
    assert third.end(signal.SIGINT) == 0


def test_a_port_in_use(start) -> None:
    ports = free_ports()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", ports[1]))
        daemon = start(configuration(ports=ports))
        assert daemon.process.wait(10) == 1
    assert f"ipsecstackd: cannot open UDP port {ports[1]}" in daemon.log
    assert "systemctl stop strongswan" in daemon.log
    assert "Traceback" not in daemon.log


def test_a_peer_that_is_silent_does_not_hold_up_the_end(start) -> None:
    daemon = start(configuration(retransmit_timeout="5", retransmit_tries="5"))
    daemon.ready()
    with daemon.vici() as session, contextlib.suppress(vici.exception.CommandException):
        for _ in session.initiate({"child": "net", "timeout": 300}):
            pass
    before = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - before < 3


def test_two_daemons_and_a_tunnel(start) -> None:
    """Without root: two processes on the loopback, whose memory data planes ping each other."""
    here, there = free_ports(), free_ports()
    text = configuration(there[1], here)
    mirrored = configuration(here[1], there)
    for one, other in (("= here", "= there"), ("10.1.", "10.2.")):
        mirrored = mirrored.replace(one, "@").replace(other, one).replace("@", other)
    left = start(text, name="left")
    right = start(mirrored, "--export-keys", str(left.folder / "keys"), name="right")
    left.ready()
    right.ready()
    with left.vici() as session:
        lines = [line["msg"].decode() for line in session.initiate({"child": "net", "timeout": 5000})]
    assert any("established" in line for line in lines), left.log

    def packets() -> tuple[int, int]:
        with left.vici() as session:
            (sa,) = session.list_sas()
            (child,) = sa["gw"]["child-sas"].values()
            return int(child["packets-in"]), int(child["packets-out"])

    left.until(lambda: min(packets()) >= 2)
    for table in ("ikev2_decryption_table", "esp_sa"):
        path = left.folder / "keys" / table
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip()
    assert "KEYS ARE BEING EXPORTED" in right.log
    # An orderly end tells the peer.
    assert right.end() == 0

    def alone() -> bool:
        with left.vici() as session:
            return not list(session.list_sas())

    left.until(alone)
    assert left.end() == 0
    for daemon in (left, right):
        assert "Traceback" not in daemon.log, daemon.log


@pytest.fixture
def namespace(require_root: None) -> Iterator[str]:
    name = f"ipsd{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def links(namespace: str) -> list[str]:
    listed = subprocess.run(
        ["ip", "-brief", "-n", namespace, "link"], check=True, capture_output=True, text=True
    ).stdout
    return [line.split()[0] for line in listed.splitlines()]


def test_a_tun_in_another_namespace(start, namespace: str) -> None:
    text = configuration(device="testtun", ports=(500, 4500))
    daemon = start(text, "--netns", namespace, dataplane="tun")
    daemon.ready()
    assert "testtun" in links(namespace)
    assert not Path("/sys/class/net/testtun").exists()
    # The ports are taken there, not here; a second daemon there says so.
    second = start(text.replace("testtun", "othertun"), "--netns", namespace, dataplane="tun", name="two")
    assert second.process.wait(10) == 1
    assert "cannot open UDP port 500" in second.log
    assert set(links(namespace)) == {"lo", "testtun"}
    assert daemon.end() == 0
    assert links(namespace) == ["lo"]


@pytest.mark.parametrize(
    "missing,status,text",
    [("net_admin", 1, "CAP_NET_ADMIN"), ("net_raw", 0, "set encap = yes")],
)
def test_missing_capabilities(
    start, namespace: str, require_tool, missing: str, status: int, text: str
) -> None:
    without = (require_tool("setpriv"), f"--bounding-set=-{missing}", f"--inh-caps=-{missing}")
    daemon = start(configuration(), dataplane="tun", wrapper=("ip", "netns", "exec", namespace, *without))
    if status == 0:
        daemon.ready()
        daemon.end()
    assert daemon.process.wait(10) == status
    assert text in daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize(
    "arguments,status,text",
    [
        (["--config", "/nonexistent/swanctl.conf"], 2, "cannot read /nonexistent/swanctl.conf"),
        (["--netns", "no-such-namespace", "--config", "CONF"], 1, "ip netns add no-such-namespace"),
        (
            ["--config", "CONF", "--socket", "/proc/nowhere/vici", "--dataplane", "memory"],
            1,
            "choose a --socket",
        ),
        (
            ["--config", "CONF", "--pid-file", "/proc/x", "--dataplane", "memory", "--socket", "SOCKET"],
            1,
            "pid file",
        ),
        (
            ["--config", "CONF", "--export-keys", "/proc/x", "--dataplane", "memory", "--socket", "SOCKET"],
            1,
            "give --export-keys a folder",
        ),
    ],
)
def test_what_it_says_when_it_cannot_start(
    arguments: list[str], status: int, text: str, tmp_path: Path, capsys
) -> None:
    conf = tmp_path / "swanctl.conf"
    conf.write_text(configuration())
    conf.chmod(0o600)
    names = {"CONF": str(conf), "SOCKET": str(tmp_path / "vici")}
    assert cli.ipsecstackd([names.get(word, word) for word in arguments]) == status
    printed = capsys.readouterr().err
    assert text in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "vici.lock").exists()


def test_check(tmp_path: Path, capsys) -> None:
    conf = tmp_path / "swanctl.conf"
    conf.write_text(configuration())
    conf.chmod(0o644)
    assert cli.ipsecstackd(["--check", "--config", str(conf)]) == 0
    printed = capsys.readouterr().out
    assert "1 connections, no errors" in printed
    assert "chmod 600" in printed
    conf.write_text("connections { gw { local_adrs = 1 } }")
    assert cli.ipsecstackd(["--check", "--config", str(conf)]) == 2
    assert "local_adrs" in capsys.readouterr().err
    conf.write_text(configuration())
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    assert cli.ipsecstackd(["--check", "--config", str(conf)]) == 2
    assert "private/key.pem" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--dataplane", "none"], ["--log-level", "9"], ["--nonsense"]])
def test_wrong_usage(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.ipsecstackd(words)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err
