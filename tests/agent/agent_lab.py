"""Agents for tests: beside a fake VICI daemon (in this loop, in a thread, or as the program `ipsec-snmpd`).

For an agent over synthetic tables see smi_support (`running`); the fixtures `beside_fake` and `synthetic` of
tests/conftest.py make either for any test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fake_vici import FakeVici, child_section, connection_section, ike_section
from smi_support import request, unwrap, v2c

from agent.config import load_config
from agent.daemon import AgentDaemon
from agent.engine.pdu import GET
from agent.gateway import SourceStatus
from agent.smi import ber

T = TypeVar("T")

FLOW = "1.3.6.1.4.1.9.9.171.1"
IKE_STATUS, TUNNEL_STATUS = f"{FLOW}.2.3.1.35", f"{FLOW}.3.2.1.51"
UP_TIME = (1, 3, 6, 1, 2, 1, 1, 3, 0)
READER = ("-v2c", "-c", "public")
OPERATOR = (
    *("-v3", "-l", "authPriv", "-u", "op", "-a", "SHA-256", "-A", "correct horse"),
    *("-x", "AES", "-X", "battery staple"),
)
CONFIG = """
[agent]
state_dir = "{folder}/state"
listen = ["127.0.0.1:0"]
[[community]]
name = "public"
group = "monitor"
networks = ["127.0.0.0/8"]
[[user]]
name = "op"
group = "operator"
auth = "SHA-256"
auth_password = "correct horse"
priv = "AES-128"
priv_password = "battery staple"
[[access]]
group = "monitor"
model = "any"
level = "noAuthNoPriv"
read = "all"
[[access]]
group = "operator"
read = "all"
write = "all"
[[view]]
name = "all"
include = ["1"]
[gateway]
stale_after = 1
[sources.fake]
type = "vici"
socket = "{folder}/vici.sock"
poll_interval = {poll}
timeout = 5
reconnect_max = 0.3
"""


def write_private(path: Path, text: str) -> None:
    """A configuration with secrets in it; whole at every moment, as an editor leaves it."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    fresh.replace(path)


def free_port(family: int = socket.AF_INET, host: str = "127.0.0.1") -> int:
    """A UDP port that nobody uses just now."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def fill(daemon: FakeVici, tunnels: int) -> None:
    """Connections gw1, gw2 … with one child each that has moved 100 octets times its number, both ways."""
    for number in range(1, tunnels + 1):
        high, low = divmod(number, 250)
        daemon.connections[f"gw{number}"] = connection_section(
            remote_addrs=[f"198.51.{high}.{low}"],
            children={
                "net": {"mode": "TUNNEL", "local-ts": ["10.1.0.0/24"], "remote-ts": [f"10.{high}.{low}.0/24"]}
            },
            **{"remote-1": {"id": f"peer{number}.example", "class": "public key"}},
        )
        daemon.up(
            f"gw{number}",
            ike_section(
                number, **{"remote-host": f"198.51.{high}.{low}", "remote-id": f"peer{number}.example"}
            ),
            child_section(number, octets=100 * number, **{"remote-ts": [f"10.{high}.{low}.0/24"]}),
        )


class Lab:
    """An agent and its fake daemon in one loop, and net-snmp's tools for both."""

    def __init__(self, folder: Path, daemon: FakeVici, agent: AgentDaemon) -> None:
        self.folder, self.daemon, self.agent = folder, daemon, agent

    @property
    def address(self) -> tuple[str, int]:
        return self.agent.agent.addresses[0]

    async def tool(self, name: str, *arguments: str, user: Sequence[str] = READER) -> tuple[str, str]:
        """Standard output and error of a net-snmp tool, with OIDs and enumerations as numbers."""
        host, port = self.address
        process = await asyncio.create_subprocess_exec(
            name,
            *("-On", "-Oe", "-t", "5", "-r", "0"),
            *user,
            f"{host}:{port}",
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = await process.communicate()
        return out.decode(), error.decode()

    async def walk(self, root: str) -> dict[str, str]:
        """OID -> 'TYPE: value' of a subtree."""
        out, error = await self.tool("snmpbulkwalk", root)
        assert not error
        pairs = [line.lstrip(".").split(" = ", 1) for line in out.splitlines() if " = " in line]
        return {oid: value for oid, value in pairs if not value.startswith("No Such")}

    async def get(self, *oids: str) -> list[str]:
        begun = time.monotonic()
        out, error = await self.tool("snmpget", *oids)
        assert not error
        assert time.monotonic() - begun < 1
        return [line.split(" = ")[1] for line in out.splitlines()]

    async def set(self, *varbinds: str) -> str:
        """What snmpset says went wrong, '' when nothing did."""
        out, error = await self.tool("snmpset", *varbinds, user=OPERATOR)
        found = re.search(r"Reason: (\w+)", error)
        assert found or out, error
        return found[1] if found else ""

    async def until(self, condition: Callable[[], object], seconds: float = 8) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)


@asynccontextmanager
async def beside_fake(
    folder: Path, tunnels: int, poll: float = 0.3, text: str = CONFIG
) -> AsyncIterator[Lab]:
    """An agent that has seen all `tunnels` of a fake daemon."""
    path = folder / "ipsec-snmpd.toml"
    write_private(path, text.format(folder=folder, poll=poll))
    daemon = FakeVici(str(folder / "vici.sock"))
    fill(daemon, tunnels)
    await daemon.start()
    agent = AgentDaemon(load_config(path))
    stop = asyncio.Event()
    await agent.start()
    task = asyncio.create_task(agent.run_until(stop))
    try:
        lab = Lab(folder, daemon, agent)
        source = agent.gateway.feeds["fake"].source
        # it is up when it answers, and all is seen when a poll is over
        await lab.until(lambda: source.status is SourceStatus.UP and source.poll_seconds is not None, 20)
        yield lab
    finally:
        stop.set()
        await task
        await agent.stop()
        await daemon.stop()


class Beside:
    """A Lab in a thread of its own, for tests whose managers block."""

    def __init__(self, folder: Path, tunnels: int, poll: float = 0.3, text: str = CONFIG) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context = beside_fake(folder, tunnels, poll, text)
        try:
            self.lab = self.call(self._context.__aenter__())
        except BaseException:
            self._end()
            raise

    @property
    def address(self) -> tuple[str, int]:
        return self.lab.address

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the agent's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def do(self, work: Callable[[], T]) -> T:
        """The result of a function that is called in the agent's loop."""

        async def body() -> T:
            return work()

        return self.call(body())

    def stop(self) -> None:
        try:
            self.call(self._context.__aexit__(None, None, None))  # type: ignore[arg-type]
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@contextmanager
def thread_beside_fake(folder: Path, tunnels: int, poll: float = 0.3, text: str = CONFIG) -> Iterator[Beside]:
    """The same as `beside_fake` for tests that are no coroutines."""
    made = Beside(folder, tunnels, poll, text)
    try:
        yield made
    finally:
        made.stop()


class Program:
    """One `ipsec-snmpd` as a user starts it, and a v2c manager that asks it.

    `text` is the configuration, with PORT where the port goes; `secrets` must appear nowhere in the log.
    """

    def __init__(
        self, folder: Path, repository: Path, text: str, community: str, secrets: Iterable[str] = ()
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "agent.toml"
        self.community = community.encode()
        self.secrets = tuple(secrets)
        self.write(text.replace("PORT", str(self.port)))
        self.log = folder / "log"
        self.environment = {**os.environ, "PYTHONPATH": str(repository)}
        self.manager = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.manager.settimeout(3)
        self.manager.connect(("127.0.0.1", self.port))
        self.number = 0
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        write_private(self.config, text)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agent.cli", "--config", str(self.config), *arguments]

    def start(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*arguments), cwd=self.folder, env=self.environment, stderr=log, stdout=log
            )
        self.manager.settimeout(0.2)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask(UP_TIME)
                break
            except (TimeoutError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)
        self.manager.settimeout(3)

    def once_more(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same command again, to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def hang_up(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def ask(self, oid: ber.Oid) -> bytes:
        """The content octets of one instance's value."""
        self.number += 1
        self.manager.send(v2c(request(GET, [oid], request_id=self.number), self.community))
        while True:
            got = unwrap(self.manager.recv(65535))
            if got.request_id == self.number:
                return got.varbinds[0][2]

    def resident(self) -> int:
        """Kilobytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def kill(self) -> None:
        """As a crash would end it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        """SIGTERM; fails when it does not end in order, or has told a secret."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                try:
                    assert self.process.wait(10) == 0
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        self.process.kill()
        finally:
            self.manager.close()
        text = self.log.read_text() if self.log.exists() else ""
        assert not [secret for secret in self.secrets if secret in text]
        assert "Traceback" not in text, text
