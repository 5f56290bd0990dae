"""net-snmp's snmptrapd as the receiver of the soak's notifications."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent_lab import free_port
from soak.configuration import ALGORITHMS, SECRETS

TRAPS = {
    "1.3.6.1.6.3.1.1.5.1": "coldStart",
    "1.3.6.1.6.3.1.1.5.5": "authenticationFailure",
}


@dataclass
class Notifications:
    """What came, by name, and what is wrong with it."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Receiver:
    """snmptrapd on loopback; it acknowledges informs by itself."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "trapd.log"
        configuration = folder / "snmptrapd.conf"
        lines = ["disableAuthorization yes", "format2 N %v\\n", "format1 N %v\\n"]
        for name, (auth, priv, _) in ALGORITHMS.items():
            if priv:
                lines.append(f"createUser {name} {auth} {SECRETS[0]} {priv.replace('-128', '')} {SECRETS[1]}")
        configuration.write_text("\n".join(lines) + "\n")
        configuration.chmod(0o600)
        command = ["snmptrapd", "-f", "-m", "", "-On", "-C", "-c", str(configuration), "-Lf", str(self.log)]
        persistent = folder / "trapd"
        persistent.mkdir(mode=0o700)
        self.process = subprocess.Popen(
            [*command, f"udp:127.0.0.1:{self.port}"],
            env={"SNMP_PERSISTENT_DIR": str(persistent), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        if self.process.poll() is not None:
            raise SystemExit(f"soak: snmptrapd did not start: {self.log.read_text()}")

    def stop(self) -> Notifications:
        found = Notifications()
        if self.process.poll() is not None:
            found.problems.append("snmptrapd ended before the end")
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        for line in text.splitlines():
            match = re.search(r"\.1\.3\.6\.1\.6\.3\.1\.1\.4\.1\.0 = OID: \.([0-9.]+)", line)
            if match:
                name = TRAPS.get(match[1], match[1])
                found.counts[name] = found.counts.get(name, 0) + 1
        return found
