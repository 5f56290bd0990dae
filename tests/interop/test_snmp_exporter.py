"""Prometheus' snmp_exporter (Debian's) as a manager: a configuration of ours, scraped over HTTP, values compared.

The exporter listens on loopback for the time of a test only; its system service is not used.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_lab import FLOW, Beside, fill, thread_beside_fake
from lab.process import wait_until

TUNNELS = 60
TABLE = f"{FLOW}.3.2.1"
INDEX = [{"labelname": "tunnel", "type": "gauge"}]
COLUMNS: dict[str, tuple[int, str]] = {
    "tunRemoteAddr": (5, "OctetString"),
    "tunLifeTime": (8, "gauge"),
    "tunHcInOctets": (27, "counter"),
    "tunInPkts": (32, "counter"),
    "tunStatus": (51, "gauge"),
}
SCALARS: dict[str, tuple[str, str]] = {
    "sysUpTime": ("1.3.6.1.2.1.1.3", "gauge"),
    "sysDescr": ("1.3.6.1.2.1.1.1", "DisplayString"),
    "activeTunnels": (f"{FLOW}.3.1.1", "gauge"),
    "allOctets": (f"{FLOW}.3.1.4", "counter"),
}
AUTHS: dict[str, dict[str, Any]] = {
    "v1": {"version": 1, "auth": {"community": "old"}},
    "v2c": {"version": 2, "auth": {"community": "public"}},
    "v3_priv": {
        "version": 3,
        "auth": {
            "username": "op",
            "security_level": "authPriv",
            "password": "correct horse",
            "auth_protocol": "SHA256",
            "priv_protocol": "AES",
            "priv_password": "battery staple",
        },
    },
    "v3_auth": {
        "version": 3,
        "auth": {
            "username": "signer",
            "security_level": "authNoPriv",
            "password": "correct horse",
            "auth_protocol": "SHA512",
        },
    },
    "v3_strong": {
        "version": 3,
        "auth": {
            "username": "strong",
            "security_level": "authPriv",
            "password": "correct horse",
            "auth_protocol": "SHA512",
            "priv_protocol": "AES256",
            "priv_password": "battery staple",
        },
    },
    "wrong_password": {
        "version": 3,
        "auth": {
            "username": "op",
            "security_level": "authPriv",
            "password": "a wrong password",
            "auth_protocol": "SHA256",
            "priv_protocol": "AES",
            "priv_password": "battery staple",
        },
    },
    "wrong_community": {"version": 2, "auth": {"community": "private"}},
}
MORE_CONFIG = """
[[community]]
name = "old"
group = "monitor"
versions = ["v1"]
networks = ["127.0.0.0/8"]
[[user]]
name = "signer"
group = "signers"
auth = "SHA-512"
auth_password = "correct horse"
[[user]]
name = "strong"
group = "operator"
auth = "SHA-512"
auth_password = "correct horse"
priv = "AES-256"
priv_password = "battery staple"
[[access]]
group = "signers"
level = "authNoPriv"
read = "all"
"""


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools() -> None:
    """No namespaces here."""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    from agent_lab import CONFIG

    folder = tmp_path_factory.mktemp("agent")
    with thread_beside_fake(
        folder, TUNNELS, text=CONFIG.replace("[gateway]", MORE_CONFIG + "[gateway]")
    ) as made:
        yield made


def configuration(repetitions: int = 25) -> dict[str, Any]:
    """snmp.yml as JSON, which is YAML: one module for each way to ask."""
    metrics: list[dict[str, Any]] = [
        {"name": name, "oid": oid, "type": kind, "help": name} for name, (oid, kind) in SCALARS.items()
    ]
    metrics += [
        {"name": name, "oid": f"{TABLE}.{column}", "type": kind, "help": name, "indexes": INDEX}
        for name, (column, kind) in COLUMNS.items()
    ]
    common = {
        "walk": [f"{TABLE}.{column}" for column, _ in COLUMNS.values()],
        "get": [f"{oid}.0" for oid, _ in SCALARS.values()],
        "metrics": metrics,
        "max_repetitions": repetitions,
        "retries": 0,
        "timeout": "1s",
    }
    modules = {name: {**common, **auth} for name, auth in AUTHS.items()}
    modules["v1"] = {**modules["v1"], "walk": [oid for oid in common["walk"] if not oid.endswith(".27")]}
    modules["v1"]["get"] = [f"{oid}.0" for name, (oid, _) in SCALARS.items() if name != "allOctets"]
    return modules


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Iterator[str]:
    """The exporter's URL."""
    program = require_tool("prometheus-snmp-exporter")
    folder: Path = tmp_path_factory.mktemp("exporter")
    path = folder / "snmp.yml"
    path.write_text(json.dumps(configuration()))
    path.chmod(0o600)
    port = free_tcp_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={path}", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                with urllib.request.urlopen(url, timeout=1) as page:
                    return bool(page.status == 200)
            except OSError:
                return False

        wait_until(ready, 15, "the exporter listens")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def free_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def scrape(exporter: str, agent: Beside, module: str) -> dict[tuple[str, str], float]:
    """(metric, labels) -> value."""
    question = urllib.parse.urlencode({"module": module, "target": f"127.0.0.1:{agent.address[1]}"})
    with urllib.request.urlopen(f"{exporter}/snmp?{question}", timeout=30) as page:
        text = page.read().decode()
    found = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else LINE.match(line)
        if match:
            found[match[1], match[2] or ""] = float(match[3])
    return found


def in_octets(row: int) -> str:
    return f'tunnel="{row}"'


@pytest.mark.parametrize("module", ["v2c", "v3_auth", "v3_priv", "v3_strong"])
def test_values(exporter: str, agent: Beside, module: str) -> None:
    """Each metric is what the fake daemon listed, whatever the version and level."""
    wait_until(lambda: len(octets(scrape(exporter, agent, module))) == TUNNELS, 5, "the table is there")
    found = scrape(exporter, agent, module)
    assert sorted(octets(found)) == [100.0 * number for number in range(1, TUNNELS + 1)]
    packets = {labels: value for (name, labels), value in found.items() if name == "tunInPkts"}
    assert {labels: value * 100 for labels, value in packets.items()} == {
        labels: value for (name, labels), value in found.items() if name == "tunHcInOctets"
    }
    assert {value for (name, _), value in found.items() if name == "tunStatus"} == {1.0}
    assert found["activeTunnels", ""] == TUNNELS
    assert found["allOctets", ""] == 100 * TUNNELS * (TUNNELS + 1) // 2
    assert found["sysUpTime", ""] > 0
    descriptions = [labels for name, labels in found if name == "sysDescr"]
    assert len(descriptions) == 1
    assert "ipsec-snmp agent" in descriptions[0]
    peers = [labels for name, labels in found if name == "tunRemoteAddr"]
    assert len(peers) == TUNNELS
    assert sum('="0xC6336401"' in labels for labels in peers) == (0 if TUNNELS < 251 else 1)
    assert sum("0xC6330001" in labels for labels in peers) == 1


def octets(found: dict[tuple[str, str], float]) -> list[float]:
    return [value for (name, _), value in found.items() if name == "tunHcInOctets"]


def test_version_1(exporter: str, agent: Beside) -> None:
    """It walks by GETNEXT; no Counter64 there."""
    found = scrape(exporter, agent, "v1")
    assert len([1 for name, _ in found if name == "tunInPkts"]) == TUNNELS
    assert not octets(found)
    assert found["activeTunnels", ""] == TUNNELS


def test_what_moves_is_seen_by_the_next_scrape(exporter: str, agent: Beside) -> None:
    """Counters, and tunnels that end."""
    daemon = agent.lab.daemon
    before = scrape(exporter, agent, "v3_priv")

    def move() -> None:
        for children in daemon.children.values():
            for child in children.values():
                for way in ("in", "out"):
                    child[f"bytes-{way}"] = str(int(child[f"bytes-{way}"]) + 5000)
                    child[f"packets-{way}"] = str(int(child[f"packets-{way}"]) + 50)

    agent.do(move)
    total = before["allOctets", ""] + 5000 * TUNNELS
    wait_until(lambda: scrape(exporter, agent, "v3_priv")["allOctets", ""] == total, 5, interval=0.2)
    after = scrape(exporter, agent, "v2c")
    moved = {
        labels: after["tunHcInOctets", labels] - before["tunHcInOctets", labels] for labels in rows(before)
    }
    assert set(moved.values()) == {5000.0}
    agent.do(lambda: daemon.down(7))
    wait_until(lambda: scrape(exporter, agent, "v2c")["activeTunnels", ""] == TUNNELS - 1, 5, interval=0.2)
    status = [value for (name, _), value in scrape(exporter, agent, "v3_auth").items() if name == "tunStatus"]
    assert sorted(status) == [1.0] * (TUNNELS - 1) + [2.0]
    agent.do(lambda: (daemon.ikes.clear(), daemon.children.clear(), fill(daemon, TUNNELS)))


def rows(found: dict[tuple[str, str], float]) -> list[str]:
    return [labels for name, labels in found if name == "tunHcInOctets"]


@pytest.mark.parametrize("module", ["wrong_password", "wrong_community"])
def test_who_may_not_ask_gets_nothing(exporter: str, agent: Beside, module: str) -> None:
    begun = time.monotonic()
    with pytest.raises(urllib.error.HTTPError, match="500"):
        scrape(exporter, agent, module)
    assert time.monotonic() - begun < 20
