"""Receivers of notifications, and an agent that sends them, for tests."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_config
from agent.engine.agent import SnmpAgent

EVENT = (1, 3, 6, 1, 4, 1, 32473, 9, 0, 7)
"""A notification of nobody's."""
SYS_NAME = (1, 3, 6, 1, 2, 1, 1, 5, 0)
NAME = ((SYS_NAME, b"\x04\x03abc"),)
ADMIN = ("-v3", "-l", "authPriv", "-u", "admin", "-a", "SHA-256", "-A", "correct horse")
ADMIN += ("-x", "AES", "-X", "battery staple")
AGENT = """
[agent]
state_dir = "state"
listen = ["{listen}"]
engine_id = "{engine_id}"
[[user]]
name = "admin"
role = "admin"
auth = "SHA-256"
auth_password = "correct horse"
priv = "AES-128"
priv_password = "battery staple"
"""
ENGINE_ID = "80007ed905" + "0a" * 12


class NoModel:
    """An agent's model without anything in it."""

    def generation(self, domain: str) -> int:
        return 0


def need(tool: str) -> str:
    """The path of a tool; a test that cannot have it is skipped, but not where CI runs."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is not installed; run tools/debian-packages")
        pytest.skip(f"{tool} is not installed")
    return found


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def write(folder: Path, text: str, listen: str) -> Path:
    """A configuration file of an administrator and `text`."""
    path = folder / "agent.toml"
    path.write_text(AGENT.format(engine_id=ENGINE_ID, listen=listen) + text)
    path.chmod(0o600)
    return path


@asynccontextmanager
async def sending(folder: Path, text: str = "", listen: str = "127.0.0.1:0") -> AsyncIterator[SnmpAgent]:
    """A running agent."""
    agent = SnmpAgent(load_config(write(folder, text, listen)), [], NoModel())
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        await asyncio.sleep(0.02)


async def tool(agent: SnmpAgent, name: str, *arguments: str, who: tuple[str, ...] = ADMIN) -> tuple[int, str]:
    """Run one of net-snmp's managers against an agent: (exit status, output)."""
    host, port = agent.addresses[0]
    process = await asyncio.create_subprocess_exec(
        need(name),
        *("-On", "-m", "", "-M", "", "-t", "5", "-r", "1"),
        *who,
        f"{host}:{port}",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": os.environ.get("PATH", ""),
            "SNMPCONFPATH": "/nowhere",
            "SNMP_PERSISTENT_DIR": "/nowhere",
        },
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


# -- net-snmp's receiver ------------------------------------------------------------------------------------


@dataclass
class Trapd:
    """snmptrapd, its lines as they come: 'V1|...' for SNMPv1, 'V2|...' for all others."""

    folder: Path
    port: int
    users: tuple[str, ...] = ()
    engine_id: str = "80001f880466697273"
    boots: int = 0
    process: subprocess.Popen[bytes] | None = None
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.folder / "trapd.log"
        (self.folder / "trapd").mkdir(exist_ok=True)

    def start(self) -> None:
        """Start it and wait until it listens."""
        config = self.folder / "trapd.conf"
        self.boots += 1
        lines = [
            f"exactEngineID 0x{self.engine_id}",
            f"oldEngineID 0x{self.engine_id}",
            f"engineBoots {self.boots}",
        ]
        lines += [f"createUser {user}" for user in self.users]
        names = [re.sub(r"^-e \S+ ", "", user).split()[0] for user in self.users]
        lines += [f"authUser log {name} noauth" for name in dict.fromkeys(names)]
        lines += [f"authCommunity log {name}" for name in ("secret1", "secret2")]
        lines += [r"format1 V1|%P|%N|%w|%q|%a|%v\n", r"format2 V2|%P|%v\n"]
        config.write_text("\n".join(lines) + "\n")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(
                        need("snmptrapd"),
                        "-f",
                        "-Lo",
                        "-n",
                        "-On",
                        "-C",
                        "-c",
                        str(config),
                        "-m",
                        "",
                        "-M",
                        "",
                    ),
                    f"127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "SNMP_PERSISTENT_DIR": str(self.folder / "trapd")},
            )
        before = self._log.read_text().count("NET-SNMP version")
        end = time.monotonic() + 30
        while not _listens(self.port) or self._log.read_text().count("NET-SNMP version") < max(before, 1):
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, "snmptrapd does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, as an administrator would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
            self.process = None

    @property
    def lines(self) -> list[str]:
        """All notifications so far."""
        return [
            line
            for line in self._log.read_text("utf-8", "replace").splitlines()
            if line[:3] in ("V1|", "V2|")
        ]

    def of(self, text: str) -> list[str]:
        """Those that contain a text."""
        return [line for line in self.lines if text in line]


def _listens(port: int) -> bool:
    wanted = f"0100007F:{port:04X}"
    return any(wanted in line for line in Path("/proc/net/udp").read_text().splitlines())


@contextmanager
def trapd(folder: Path, *users: str) -> Iterator[Trapd]:
    """A running snmptrapd on a port of its own."""
    receiver = Trapd(folder, free_port(), users)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


# -- a receiver of our own ----------------------------------------------------------------------------------


class Ear(asyncio.DatagramProtocol):
    """Keeps what comes, and says back what `answer` makes of it."""

    def __init__(self, answer: Callable[[bytes], list[bytes]] | None = None) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.answer = answer
        self.transport: Any = None
        self.port = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.heard.append((time.monotonic(), data))
        for octets in self.answer(data) if self.answer is not None else ():
            self.transport.sendto(octets, addr)


@asynccontextmanager
async def ear(answer: Callable[[bytes], list[bytes]] | None = None, port: int = 0) -> AsyncIterator[Ear]:
    """A fake receiver on loopback."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Ear(answer), local_addr=("127.0.0.1", port)
    )
    try:
        yield protocol
    finally:
        transport.close()
