"""Two daemons as processes: one is killed, its peer learns of it by a QCD token, or comes back with a ticket."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _daemons() -> ModuleType:
    """The test of the command line, for its processes."""
    path = Path(__file__).with_name("test_daemon_command_line.py")
    spec = importlib.util.spec_from_file_location("daemon_command_line_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


daemons = _daemons()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def begin(text: str, name: str) -> Any:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        started.append(daemons.Process(folder, text))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def _texts(folder: Path, **more: str) -> tuple[str, str]:
    """The client's and the gateway's configuration."""
    here, there = daemons.free_ports(), daemons.free_ports()
    client = daemons.configuration(there[1], here, **more)
    gateway = daemons.configuration(here[1], there, qcd_secret_file=str(folder / "qcd"), **more)
    gateway = (
        gateway.replace("id = here", "id = x")
        .replace("id = there", "id = here")
        .replace("id = x", "id = there")
    )
    gateway = gateway.replace("local_ts = 10.1.0.0/24", "local_ts = 10.2.0.0/24", 1)
    gateway = gateway.replace("remote_ts = 10.2.0.0/24", "remote_ts = 10.1.0.0/24", 1)
    texts = [text.replace("  gw {\n", "  gw {\n    session_resumption = yes\n") for text in (client, gateway)]
    return texts[0], texts[1]


def _statistic(daemon: Any, key: str) -> int:
    with daemon.vici() as session:
        return int(session.stats()["ike"][key])


def _spi(daemon: Any) -> bytes:
    with daemon.vici() as session:
        for sa in session.list_sas():
            return bytes(sa["gw"]["initiator-spi"])
    return b""


def test_a_killed_gateway_proves_that_it_lost_its_state(start: Callable[..., Any], tmp_path: Path) -> None:
    client_text, gateway_text = _texts(tmp_path, retransmit_tries="8")
    gateway = start(gateway_text, "gateway")
    gateway.ready()
    client = start(client_text, "client")
    client.ready()
    secret = tmp_path / "qcd"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with client.vici() as session:
        list(session.initiate({"child": "net"}))
    old = _spi(client)
    assert _statistic(gateway, "tickets-issued") == 1
    gateway.end(signal.SIGKILL)
    again = start(gateway_text, "gateway")
    again.ready()
    with client.vici() as session, contextlib.suppress(Exception):
        session.rekey({"ike": "gw"})
    client.until(lambda: _statistic(client, "qcd-crashes") == 1)
    client.until(lambda: _spi(client) not in (b"", old))
    client.until(lambda: _statistic(again, "tickets-issued") == 1)
    assert _statistic(again, "qcd-tokens") == 1
    assert _statistic(again, "tickets-refused") == 1, "the keys of its tickets are gone with it"
    said = client.log + again.log
    assert "Traceback" not in said
    assert secret.read_bytes().hex() not in said


def test_a_gateway_that_lets_others_read_its_secret_does_not_start(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    _, gateway_text = _texts(tmp_path)
    (tmp_path / "qcd").write_bytes(bytes(32))
    (tmp_path / "qcd").chmod(0o644)
    gateway = start(gateway_text, "gateway")
    assert gateway.process.wait(15) == 1
    assert "mode 0600" in gateway.log
    assert "Traceback" not in gateway.log


def test_a_client_that_lost_the_gateway_resumes(start: Callable[..., Any], tmp_path: Path) -> None:
    client_text, gateway_text = _texts(tmp_path)
    gateway = start(gateway_text, "gateway")
    gateway.ready()
    client = start(client_text, "client")
    client.ready()
    with client.vici() as session:
        list(session.initiate({"child": "net"}))
    old = _spi(client)
    gateway.process.send_signal(signal.SIGSTOP)  # the path is down: nothing is answered
    try:
        with client.vici() as session, contextlib.suppress(Exception):
            session.rekey({"ike": "gw"})
        client.until(lambda: _spi(client) == b"")
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    with client.vici() as session:
        list(session.initiate({"child": "net"}))
    assert _spi(client) not in (b"", old)
    assert _statistic(client, "sessions-resumed") == 1
    assert _statistic(gateway, "sessions-resumed") == 1
    gateway.until(lambda: _spi(gateway) == _spi(client))
