"""`make demo`, as root, as an ordinary user and in memory: what it prints works, and it cleans up whatever ends it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import netns
from lab.policy import require_tool
from lab.process import wait_until

GROUNDS = ["root", "user", "memory"]


def free_port() -> int:
    """A UDP port that nobody has now: other runs of this suite may be going on beside this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Demo:
    """A running demo and what it has printed."""

    def __init__(self, repository: Path, on: str, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "demo", "--on", on, "--port", str(self.port), *arguments],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": "tests"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout
        for line in self.child.stdout:
            self.text += line

    def wait_for(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        wait_until(
            lambda: re.search(pattern, self.text) or self.child.poll() is not None,
            timeout,
            f"the demo prints {pattern}",
        )
        found = re.search(pattern, self.text)
        assert found, self.text
        return found

    def end(self, timeout: float = 30) -> int:
        status = self.child.wait(timeout)
        self._reader.join(5)
        return status

    def commands(self) -> list[list[str]]:
        """Every command that it says to try."""
        return [
            shlex.split(line)
            for line in self.text.splitlines()
            if re.match(r"  (/\S*/)?(snmp\w+|swanctl|ipsecctl|ip|nsenter) ", line)
        ]


@contextlib.contextmanager
def demo(repository: Path, on: str, *arguments: str, port: int | None = None) -> Iterator[Demo]:
    made = Demo(repository, on, *arguments, port=port)
    try:
        yield made
    finally:
        made.child.kill()
        made.child.wait()


def traces() -> set[str]:
    """Namespaces, folders and processes of labs whose makers are dead: what somebody has left behind."""
    folders = [path.name for path in Path(tempfile.gettempdir()).glob(f"{netns.PREFIX}.*")]
    left = {name for name in (*netns.ours(), *folders) if not netns.owner_lives(name)}
    processes = subprocess.run(
        ["ps", "-ww", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    for line in processes.splitlines():
        pid, state, command = line.split(None, 2)
        found = re.search(rf"--config \S*/({netns.PREFIX}\.[^/]+)/", command)
        if found and state[0] != "Z" and not netns.owner_lives(found[1]):
            left.add(f"{pid} {command}")
    return left


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    for tool in ("snmpwalk", "snmpget", "snmpset", "swanctl"):
        require_tool(tool)
    netns.sweep()
    before = traces()
    yield
    with contextlib.suppress(AssertionError):
        wait_until(lambda: traces() <= before, 10)
    assert traces() - before == set()


@pytest.mark.parametrize("on", GROUNDS)
def test_it_ends_by_itself(repository: Path, on: str) -> None:
    with demo(repository, on, "--seconds", "4") as running:
        assert running.end() == 0, running.text
        assert "tunnel up" in running.text
        assert "all cleaned up" in running.text
        assert "Traceback" not in running.text
        assert "\x1b" not in running.text, "cursor tricks into a pipe"


@pytest.mark.parametrize("on", GROUNDS)
def test_what_it_prints_works(repository: Path, on: str) -> None:
    """Every printed command, as printed; after each SET that destroys, the traffic brings the tunnel back."""
    with demo(repository, on) as running:
        running.wait_for(r"\[ +\d+ s\] tunnel up")
        commands = running.commands()
        assert len(commands) >= 8
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}"
            assert done.stdout.strip() or "--rekey" in command, shlex.join(command)
            assert "No Such" not in done.stdout
            if "snmpset" in command[0]:
                seen = len(running.text)
                wait_until(lambda seen=seen: "tunnel up" in running.text[seen:], 15, "the tunnel comes back")
        running.child.send_signal(signal.SIGINT)
        assert running.end() == 0
        assert "all cleaned up" in running.text


@pytest.mark.parametrize(("on", "number"), [("root", signal.SIGTERM), ("user", signal.SIGHUP)])
def test_signals_end_it(repository: Path, on: str, number: signal.Signals) -> None:
    with demo(repository, on) as running:
        running.wait_for(r"\[ +\d+ s\] tunnel up")
        running.child.send_signal(number)
        assert running.end() == 0
        assert "all cleaned up" in running.text


def descendants(pid: int) -> dict[int, str]:
    """All living processes below `pid`, with their command lines."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()[1:]]
    found: dict[int, str] = {}
    grown = True
    while grown:
        more = {
            int(row[0]): row[3]
            for row in rows
            if int(row[1]) in {pid, *found} and int(row[0]) not in found and row[2][0] != "Z"
        }
        found |= more
        grown = bool(more)
    return found


@pytest.mark.parametrize(
    ("on", "part"),
    [
        ("root", "bin/ipsecstackd"),
        ("root", "bin/ipsec-snmpd"),
        ("root", "demo.inside"),
        ("user", "demo.inside"),
    ],
)
def test_a_crashed_part_ends_it_all(repository: Path, on: str, part: str) -> None:
    with demo(repository, on) as running:
        running.wait_for(r"\[ +\d+ s\] tunnel up")
        victim = next(pid for pid, command in descendants(running.child.pid).items() if part in command)
        os.kill(victim, signal.SIGKILL)
        assert running.end() == 1
        assert "FAILED" in running.text
        assert "Traceback" not in running.text


@pytest.mark.parametrize("on", ["root", "user"])
def test_kill_of_the_demo_itself(repository: Path, on: str) -> None:
    with demo(repository, on) as running:
        running.wait_for(r"\[ +\d+ s\] tunnel up")
        below = descendants(running.child.pid)
        assert len(below) >= 4
        running.child.kill()
        running.child.wait()
        wait_until(
            lambda: all(netns.start_time(pid) is None for pid in below), 15, "all its parts have ended"
        )
    netns.sweep()  # as the next demo does first


def test_taken_port_is_told(repository: Path) -> None:
    with demo(repository, "root") as first:
        first.wait_for(r"\[ +\d+ s\] tunnel up")
        with demo(repository, "root", "--seconds", "2", port=first.port) as second:
            started = time.monotonic()
            assert second.end() == 1
            assert "FAILED" in second.text
            assert str(first.port) in second.text
            assert time.monotonic() - started < 20
        assert first.child.poll() is None
        first.child.send_signal(signal.SIGINT)
        assert first.end() == 0
