"""What the daemon hears from and tells its host: the service manager, changed addresses."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from ipsecstack.io import systemd
from ipsecstack.io.addresses import AddressMonitor, local_addresses


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    # Nobody listens any more, or nobody asked: silence.
    systemd.notify("STOPPING=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "relative")
    systemd.notify("STOPPING=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("STOPPING=1")


def test_an_abstract_socket_of_the_service_manager(monkeypatch) -> None:
    name = f"ipsec-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.usefixtures("require_root")
def test_changed_addresses_are_noticed_once_for_a_bunch() -> None:
    device = f"ipsm{os.getpid()}"[:14]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    async def scenario() -> None:
        changes = []
        monitor = AddressMonitor(lambda: changes.append(asyncio.get_running_loop().time()))
        monitor.start()
        try:
            ip("link", "add", device, "type", "veth", "peer", "name", device + "p")
            for host in range(5):
                ip("addr", "add", f"192.0.2.{host + 1}/32", "dev", device)
            for _ in range(100):
                if changes:
                    break
                await asyncio.sleep(0.02)
            assert 1 <= len(changes) < 5
        finally:
            monitor.stop()
            ip("link", "del", device)
        before = len(changes)
        await asyncio.sleep(0.3)
        assert len(changes) == before

    asyncio.run(scenario())


@pytest.mark.usefixtures("require_root")
def test_local_addresses_and_routes() -> None:
    """All addresses that can be sent from, at once; routes are told apart from them."""
    device = f"ipsa{os.getpid()}"[:14]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    async def told(changes: list[str], count: int) -> None:
        for _ in range(150):
            if len(changes) >= count:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.25)

    async def scenario() -> None:
        changes: list[str] = []
        monitor = AddressMonitor(lambda: changes.append("addresses"), lambda: changes.append("routes"))
        ip("link", "add", device, "type", "veth", "peer", "name", device + "p")
        ip("link", "set", device + "p", "up")
        ip("link", "set", device, "up")
        ip("addr", "add", "203.0.113.7/32", "peer", "203.0.113.8", "dev", device)
        ip("addr", "add", "fd77::7/64", "dev", device, "nodad")
        await asyncio.sleep(0.2)
        monitor.start()
        try:
            found = local_addresses()
            assert found is not None
            assert {ip_address("203.0.113.7"), ip_address("fd77::7")} <= set(found)
            assert ip_address("203.0.113.8") not in found, "the other end of the link"
            ip("route", "add", "203.0.113.64/26", "dev", device)
            await told(changes, 1)
            assert changes == ["routes"]
            changes.clear()
            ip("addr", "del", "203.0.113.7/32", "peer", "203.0.113.8", "dev", device)
            await told(changes, 1)
            assert changes[0] == "addresses"
            assert ip_address("203.0.113.7") not in (local_addresses() or [])
            ip("link", "set", device + "p", "down")  # the carrier of the other end
            for _ in range(100):
                if ip_address("fd77::7") not in (local_addresses() or []):
                    break
                await asyncio.sleep(0.02)
            assert ip_address("fd77::7") not in (local_addresses() or [])
        finally:
            monitor.stop()
            ip("link", "del", device)

    asyncio.run(scenario())
