"""The bench's two C programs, compiled when their source is newer: load (the manager) and peer (net-snmp's agent)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[2] / "build" / "bench-snmp"
CURE = "make bench-snmp as root installs it; on Debian: apt-get install gcc libsnmp-dev"


def compiler() -> str:
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        raise SystemExit(f"bench-snmp: there is no C compiler ({os.environ.get('CC', 'cc')}); {CURE}")
    return found


def net_snmp(option: str) -> list[str]:
    """What net-snmp-config says."""
    tool = shutil.which("net-snmp-config")
    if tool is None:
        raise SystemExit(f"bench-snmp: net-snmp-config is missing (net-snmp's development files); {CURE}")
    return shlex.split(subprocess.run([tool, option], capture_output=True, text=True, check=True).stdout)


def program(name: str, before: list[str], after: list[str]) -> Path:
    """Compile one program unless it is newer than its source. SystemExit, with the compiler's words, if that fails."""
    source, target = SOURCE / f"{name}.c", BUILD / name
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [
        compiler(),
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        *before,
        "-o",
        str(target),
        str(source),
        *after,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        cure = f"\nbench-snmp: a header or library is missing? {CURE}" if ".h" in done.stderr else ""
        raise SystemExit(f"bench-snmp: {name}.c does not compile:\n{done.stderr}{cure}")
    return target


def load() -> Path:
    return program("load", [], ["-lcrypto", "-lpthread"])


def peer() -> Path:
    return program("peer", net_snmp("--base-cflags"), net_snmp("--agent-libs"))
