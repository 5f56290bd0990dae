"""What happens to a test that needs something this machine does not have.

Under CI (`CI=true` in the environment) it fails: a run that silently tested less must not look green. For a user
without root or without the Debian packages it is skipped, and the end of the run says what was not tested and how
to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

# Debian package that carries each tool a test may ask for.
PACKAGE_OF = {
    "charon": "strongswan-charon",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "linux.uml": "user-mode-linux",
    "openssl": "openssl",
    "ping": "iputils-ping",
    "smilint": "smitools",
    "smidump": "smitools",
    "snmpbulkwalk": "snmp",
    "snmpget": "snmp",
    "snmpset": "snmp",
    "snmptranslate": "snmp",
    "snmptrapd": "snmptrapd",
    "snmpwalk": "snmp",
    "swanctl": "strongswan-swanctl",
    "tshark": "tshark",
}
# Tools that are not on the PATH.
PLACE_OF = {"charon": "/usr/lib/ipsec/charon"}
# PATH of an ordinary user often lacks these.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

not_tested: dict[str, int] = {}
"""Reason -> number of tests that were skipped for it, for the loud end of the run."""


def under_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the `CI` variable is set to anything but nothing, 0, no or false."""
    return environment.get("CI", "").strip().lower() not in ("", "0", "no", "false")


def lacking(reason: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """End the calling test because of `reason`: a failure under CI, a counted skip otherwise."""
    if under_ci(environment):
        pytest.fail(f"{reason}; under CI nothing may be skipped", pytrace=False)
    not_tested[reason] = not_tested.get(reason, 0) + 1
    pytest.skip(reason)


def find_tool(name: str) -> str | None:
    """The path of tool `name`, or None."""
    place = PLACE_OF.get(name)
    if place is not None:
        return place if os.access(place, os.X_OK) else None
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + SYSTEM_PATH)


def require_tool(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The path of tool `name`; a missing one ends the test by the policy above."""
    found = find_tool(name)
    if found is None:
        package = PACKAGE_OF.get(name, name)
        lacking(f"{name} is not installed (apt-get install {package})", environment)
    return found


@cache
def why_no_namespaces() -> str | None:
    """None when network namespaces and TUN devices can be made here, else the reason why not."""
    if os.geteuid() != 0:
        return "network namespaces need root (sudo make test, or unshare -Urnm make test)"
    probe = f"iplab.{os.getpid()}.probe"
    ip = find_tool("ip")
    if ip is None:
        return "ip is not installed (apt-get install iproute2)"
    made = subprocess.run([ip, "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    try:
        tun = subprocess.run(
            [ip, "netns", "exec", probe, ip, "tuntap", "add", "probe0", "mode", "tun"],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run([ip, "netns", "del", probe], capture_output=True, check=False)
    if tun.returncode != 0:
        return f"TUN devices cannot be made here: {tun.stderr.strip()}"
    return None


def require_root(environment: Mapping[str, str] = os.environ) -> None:
    """Network namespaces and TUN devices, or the end of the test by the policy above."""
    reason = why_no_namespaces()
    if reason is not None:
        lacking(reason, environment)


def shared_vectors(root: Path) -> Path | None:
    """The folder of large vector sets beside the repository, where it is present."""
    folder = root.parent / "shared" / "vectors"
    return folder if folder.is_dir() else None
