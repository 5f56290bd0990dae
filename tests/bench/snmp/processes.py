"""Agents and managers of the bench as child processes, and the cores that they run on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.snmp import build, table

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 60.0
CORES = sorted(os.sched_getaffinity(0))
SERVER, OTHER = CORES[-1], CORES[0]
"""Agents run on one core. A lone manager shares it, because a wake-up across (virtual) cores costs more than an answer
does; many managers have the other one."""


@dataclass
class Agent:
    """A running agent under test: it answers at `port` and tells its memory."""

    name: str
    process: subprocess.Popen[str]
    port: int
    rows: int
    log: Path
    columns: str = table.LOAD_COLUMNS
    """What load.c is to expect of cipSecTunnelTable."""

    def line(self, word: str) -> list[str]:
        """The next line that it says, which must begin with `word`."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        if not said or said[0] != word:
            raise SystemExit(
                f"bench-snmp: {self.name} said {said} instead of {word}:\n{self.log.read_text()[-2000:]}"
            )
        return said

    def memory(self) -> int:
        """Resident kilobytes."""
        assert self.process.stdin is not None
        self.process.stdin.write("memory\n")
        self.process.stdin.flush()
        return int(self.line("memory")[1])

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def _running(
    name: str, command: Sequence[str], rows: int, folder: Path, port: int = 0, pinned: bool = True
) -> Iterator[Agent]:
    log = folder / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT))),
        # net-snmp: no configuration, no MIB files, state only here
        "SNMP_PERSISTENT_DIR": str(folder),
        "SNMPCONFPATH": str(folder),
        "MIBS": "",
    }
    with open(log, "w") as errors:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=ROOT,
            text=True,
        )
    agent = Agent(name, process, port, rows, log)
    try:
        if pinned:
            os.sched_setaffinity(process.pid, {SERVER})
        said = agent.line("ready")
        if len(said) > 1:
            agent.port = int(said[1])
        if len(said) > 2:
            agent.columns = said[2]
        yield agent
    finally:
        agent.stop()


@contextlib.contextmanager
def ours(rows: int, module: str = "serve", pinned: bool = True) -> Iterator[Agent]:
    """Our agent with the bench's table, or another module of this package that serves something else.

    `pinned`: on the core where agents are measured, else on any.
    """
    with tempfile.TemporaryDirectory(prefix="bench-snmp-") as place:
        command = [sys.executable, "-m", f"bench.snmp.{module}", str(rows), place]
        with _running("our agent", command, rows, Path(place), pinned=pinned) as agent:
            yield agent


@contextlib.contextmanager
def theirs(rows: int, pinned: bool = True) -> Iterator[Agent]:
    """net-snmp's agent with the bench's table."""
    with tempfile.TemporaryDirectory(prefix="bench-snmp-") as place:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        command = [str(build.peer()), str(port), str(rows)]
        with _running("net-snmp's agent", command, rows, Path(place), port, pinned) as agent:
            yield agent


def load_command(agent: Agent, *arguments: str) -> list[str]:
    """load.c's command line for an agent."""
    table_of = ("--rows", str(agent.rows), "--entry", table.ENTRY, "--columns", agent.columns)
    return [str(build.load()), "--port", str(agent.port), *table_of, *arguments]


def load(agent: Agent, *arguments: str, core: int = SERVER) -> dict[str, Any]:
    """One run of load.c against an agent; its figures. A wrong answer ends the bench."""
    command = load_command(agent, *arguments)
    done = subprocess.run(
        ["taskset", "--cpu-list", str(core), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        log = agent.log.read_text()[-2000:]
        raise SystemExit(
            f"bench-snmp: {agent.name} with {agent.rows:,} rows, {' '.join(arguments)}: {done.stderr}{log}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
