"""The unix socket: permissions, stale sockets, real clients beside each other, timers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
import vici
from vici_support.fake import Gateway, child_view, ike_view
from vici_support.serving import serving

from ipsecstack.keyex.base import CommandFinished, LogRecorded
from ipsecstack.vici import session as session_module
from ipsecstack.vici.transport import SocketError, ViciListener, connect


@pytest.fixture
def gateway() -> Gateway:
    made = Gateway()
    made.fill()
    return made


def client(path: Path) -> vici.Session:
    return vici.Session(connect(str(path)))


def start(gateway: Gateway, path: Path, **options: str) -> None:
    async def run() -> None:
        listener = await ViciListener.start(gateway.server, path, clock=lambda: 0.0, **options)  # type: ignore[arg-type]
        await listener.stop()

    asyncio.run(run())


def test_folder_and_socket_have_their_modes(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.vici"
    with serving(gateway, path, group=str(os.getgid())):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert status.st_gid == os.getgid()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        assert client(path).version()["daemon"] == b"ipsecstackd"
    assert not path.exists()


def test_a_stale_socket_is_replaced(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "x.vici"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with serving(gateway, path):
        assert client(path).version()


def test_a_live_socket_is_left_alone(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "x.vici"
    with serving(gateway, path):
        with pytest.raises(SocketError, match="served by a daemon that runs already"):
            start(Gateway(), path)
        assert client(path).version()


def test_the_socket_of_a_successor_is_not_removed(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "x.vici"
    with serving(gateway, path):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.exists()
    other.close()


def test_paths_that_cannot_be(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path, word in (
        (tmp_path / "file", "is no socket"),
        (tmp_path / "file" / "x", "cannot use"),
        (tmp_path / ("x" * 120), "at most 107"),
    ):
        with pytest.raises(SocketError, match=word):
            start(gateway, path)
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(SocketError, match="groupadd no-such-group-here"):
        start(gateway, tmp_path / "x", group="no-such-group-here")


def test_clients_are_told_when_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="is ipsecstackd running"):
        connect(str(tmp_path / "none"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    with pytest.raises(SocketError, match="nobody serves"):
        connect(str(tmp_path / "dead"))


def test_pypi_client(gateway: Gateway, tmp_path: Path) -> None:
    with serving(gateway, tmp_path / "x.vici") as served:
        session = client(served.path)
        assert [name for sa in session.list_sas() for name in sa] == ["(unnamed)", "psk2"]
        assert list(session.get_algorithms())
        session.load_conn({"n": {"remote_addrs": ["10.0.0.1"], "children": {"c": {}}}})
        assert session.get_conns()["conns"] == [b"n"]
        assert [list(c) for c in session.list_conns()] == [["n"]]
        assert [line["msg"] for line in session.initiate({"child": "c", "ike": "psk2"})] == [
            b"initiating IKE_SA psk2[4] to 10.99.0.2"
        ]
        with pytest.raises(vici.exception.CommandException, match="connection 'x' not found"):
            session.unload_conn({"name": "x"})
        with pytest.raises(vici.exception.SessionException):
            session.request("no-such-command")
        assert session.version()


def test_events_reach_a_listening_client(gateway: Gateway, tmp_path: Path) -> None:
    with serving(gateway, tmp_path / "x.vici") as served:
        got: list[bytes] = []

        def listen() -> None:
            for _, message in client(served.path).listen(["log"]):
                got.append(message["msg"])
                if len(got) == 3:
                    return

        thread = threading.Thread(target=listen)
        thread.start()
        deadline = time.monotonic() + 10
        while thread.is_alive() and time.monotonic() < deadline:
            served.call(gateway.stack.tell, LogRecorded("IKE", 1, None, None, "line"))
            time.sleep(0.01)
        thread.join(1)
        assert got == [b"line"] * 3


def test_a_client_that_does_not_read_blocks_nobody(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_OUTPUT_OCTETS", 300_000)
    with serving(gateway, tmp_path / "x.vici") as served:
        deaf = client(served.path)
        deaf._register_unregister("log", True)
        for _ in range(200):
            served.call(gateway.stack.tell, LogRecorded("IKE", 1, None, None, "x" * 10_000))
        assert gateway.server.counters.slow_clients == 1
        assert client(served.path).version()
        assert gateway.server.sessions <= 1


def test_a_listing_larger_than_all_buffers_while_others_ask(gateway: Gateway, tmp_path: Path) -> None:
    for number in range(4000):
        gateway.endpoint.put(ike_view(100 + number, f"c{number}", [child_view(100 + number)]))
    with serving(gateway, tmp_path / "x.vici") as served:
        slow = iter(client(served.path).list_sas())
        first = next(slow)
        begun = time.monotonic()
        assert client(served.path).version()
        assert time.monotonic() - begun < 5
        names = {name for sa in [first, *slow] for name in sa}
        assert len(names) == 4002


def test_a_client_that_dies_in_the_middle(gateway: Gateway, tmp_path: Path) -> None:
    with serving(gateway, tmp_path / "x.vici") as served:
        for data in (
            b"",
            b"\0\0",
            b"\0\0\0\x09\0\x07vers",
            b"\0\0\0\x09\0\x07version\0\0\0\x0c\0\x08list-sas",
            b"\xff" * 100,
        ):
            raw = connect(str(served.path))
            raw.sendall(data)
            raw.close()
        assert client(served.path).version()
        deadline = time.monotonic() + 5
        while gateway.server.sessions > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gateway.server.sessions <= 1


def test_timeouts_run_on_the_loop(gateway: Gateway, tmp_path: Path) -> None:
    """The listener asks the server when it wants to be called, and calls it."""
    gateway.endpoint.on_command = lambda ticket: []
    origin = time.monotonic()
    gateway.server.clock = lambda: time.monotonic() - origin
    loop = asyncio.new_event_loop()

    async def run() -> dict[str, bytes]:
        clock = gateway.server.clock
        listener = await ViciListener.start(gateway.server, tmp_path / "x.vici", clock=clock)

        def ask() -> Exception | None:
            try:
                list(client(tmp_path / "x.vici").initiate({"ike": "psk2", "timeout": "200"}))
            except vici.exception.CommandException as error:
                return error
            return None

        try:
            return await asyncio.to_thread(ask)
        finally:
            await listener.stop()

    begun = time.monotonic()
    error = loop.run_until_complete(run())
    loop.close()
    assert "not established after 200ms" in str(error)
    assert 0.15 < time.monotonic() - begun < 5


def test_a_reply_may_come_long_after_the_request(gateway: Gateway, tmp_path: Path) -> None:
    tickets: list[int] = []
    gateway.endpoint.on_command = lambda ticket: tickets.append(ticket) or []
    with serving(gateway, tmp_path / "x.vici") as served:
        done: list[object] = []
        thread = threading.Thread(
            target=lambda: done.append(list(client(served.path).initiate({"ike": "psk2"})))
        )
        thread.start()
        while not tickets:
            time.sleep(0.01)
        assert not done
        served.call(gateway.stack.tell, CommandFinished(tickets[0], True, ""))
        thread.join(5)
        assert done == [[]]
