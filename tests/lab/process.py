"""Child processes of a lab: started, watched, ended, with their output in a file.

Each dies with this process (`setpriv --pdeathsig`), so that a crashed or killed test run leaves no daemon behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.netns import Namespace

TAIL = 3000


class ProcessFailed(AssertionError):
    """A process ended, or did not do in time what was waited for; the message ends with its output."""


def wait_until(
    condition: Callable[[], object], timeout: float = 10.0, what: str = "", interval: float = 0.02
) -> None:
    """Poll `condition` until it is true; AssertionError with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(interval)


class Process:
    """A running command; `log` collects its standard output and error across restarts."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        namespace: Namespace | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.namespace = namespace
        self.environment = dict(environment or {})
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.alive, f"{self.name} already runs"
        inner = self.namespace.argv(*self.command) if self.namespace else self.command
        with open(self.log, "ab") as output:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *inner],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative the number of the signal; None while it runs."""
        return None if self._child is None else self._child.poll()

    def text(self) -> str:
        """All it has printed so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def wait_ready(self, ready: Callable[[], object], timeout: float = 15.0, what: str = "ready") -> None:
        """Until `ready()` is true; ProcessFailed with the log's end when it ends before, or never gets there."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive:
                raise ProcessFailed(
                    f"{self.name} ended with {self.returncode} before {what}:\n{self.text()[-TAIL:]}"
                )
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} not {what} in {timeout:g} s:\n{self.text()[-TAIL:]}")
            time.sleep(0.01)

    def wait(self, timeout: float = 10.0) -> int:
        """Until it ends; its exit status."""
        assert self._child is not None
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(
                f"{self.name} still runs after {timeout:g} s:\n{self.text()[-TAIL:]}"
            ) from None

    def signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def stop(self, timeout: float = 5.0) -> int | None:
        """SIGTERM, and SIGKILL when that does not help in `timeout` seconds; exit status."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._child.returncode

    def resident_kilobytes(self) -> int:
        """Resident memory now (VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise ProcessFailed(f"{self.name} has no VmRSS")
