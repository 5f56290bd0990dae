"""net-snmp's snmptrapd as the receiver of the soak's notifications."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent_lab import free_port
from soak.configuration import ALGORITHMS, ENGINE_ID, SECRETS

AUTHENTICATION_FAILURE = "authenticationFailure"
TRAPS = {"1.3.6.1.6.3.1.1.5.1": "coldStart", "1.3.6.1.6.3.1.1.5.5": AUTHENTICATION_FAILURE}
GENERIC = {"0": "coldStart", "4": AUTHENTICATION_FAILURE}
"""SNMPv1's generic-trap."""
KINDS = {
    ("TRAP", "v1"): "trap v1",
    ("TRAP2", "v2c"): "trap v2c",
    ("TRAP2", "v3"): "trap v3",
    ("INFORM", "v3"): "inform v3",
}


@dataclass
class Notifications:
    """What came, by target and name, and what is wrong with it."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Each target was told of the one start, and all of them of the same failures (but for the last ones)."""
        failures = [self.counts.get(f"{kind}: {AUTHENTICATION_FAILURE}", 0) for kind in KINDS.values()]
        starts = [self.counts.get(f"{kind}: coldStart", 0) for kind in KINDS.values()]
        if starts != [1] * len(KINDS):
            self.problems.append(f"coldStart came {dict(zip(KINDS.values(), starts, strict=True))} times")
        if min(failures) == 0 or max(failures) - min(failures) > 2:
            self.problems.append(
                f"{AUTHENTICATION_FAILURE} came {dict(zip(KINDS.values(), failures, strict=True))} times"
            )


class Receiver:
    """snmptrapd on loopback; it acknowledges informs by itself."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "trapd.log"
        configuration = folder / "snmptrapd.conf"
        lines = ["disableAuthorization yes", r"format1 V1|%P|%w|%q\n", r"format2 V2|%P|%v\n"]
        for name, (auth, priv, _) in ALGORITHMS.items():
            if priv:
                secrets = f"{auth} {SECRETS[0]} {priv.removesuffix('-128')} {SECRETS[1]}"
                lines += [f"createUser {name} {secrets}", f"createUser -e 0x{ENGINE_ID} {name} {secrets}"]
        configuration.write_text("\n".join(lines) + "\n")
        configuration.chmod(0o600)
        persistent = folder / "trapd"
        persistent.mkdir(mode=0o700)
        command = ["snmptrapd", "-f", "-Lo", "-n", "-On", "-m", "", "-C", "-c", str(configuration)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"udp:127.0.0.1:{self.port}"],
                env={"SNMP_PERSISTENT_DIR": str(persistent), "PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
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
        for line in self.log.read_text("utf-8", "replace").splitlines():
            match = re.match(r"V[12]\|(\w+), SNMP (v\w+),[^|]*\|(.*)", line)
            if match:
                rest = match[3]
                oid = re.search(r"\.1\.3\.6\.1\.6\.3\.1\.1\.4\.1\.0 = OID: \.([0-9.]+)", rest)
                name = TRAPS.get(oid[1], oid[1]) if oid else GENERIC.get(rest.split("|")[0], rest)
                key = f"{KINDS.get((match[1], match[2]), match[1] + match[2])}: {name}"
                found.counts[key] = found.counts.get(key, 0) + 1
        found.judge()
        return found
