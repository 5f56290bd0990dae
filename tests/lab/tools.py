"""Which tools this machine has, and whether network namespaces can be made here."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

# Debian package that carries each tool a test may ask for.
PACKAGE_OF = {
    "charon": "strongswan-charon",
    "conntrack": "conntrack",
    "gcc": "gcc",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "iptables-legacy": "iptables",
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "net-snmp-config": "libsnmp-dev",
    "openssl": "openssl",
    "ping": "iputils-ping",
    "prometheus-snmp-exporter": "prometheus-snmp-exporter",
    "smilint": "smitools",
    "smidump": "smitools",
    "snmpbulkget": "snmp",
    "snmpbulkwalk": "snmp",
    "snmpget": "snmp",
    "snmpgetnext": "snmp",
    "snmpinform": "snmp",
    "snmpset": "snmp",
    "snmptable": "snmp",
    "snmptranslate": "snmp",
    "snmptrap": "snmp",
    "snmptrapd": "snmptrapd",
    "snmpusm": "snmp",
    "snmpvacm": "snmp",
    "snmpwalk": "snmp",
    "swanctl": "strongswan-swanctl",
    "tshark": "tshark",
}
# Another strongSwan than Debian's, from below this prefix.
STRONGSWAN = os.environ.get("LAB_STRONGSWAN", "").rstrip("/")
# Tools that are not on the PATH.
PLACE_OF = {"charon": f"{STRONGSWAN}/libexec/ipsec/charon" if STRONGSWAN else "/usr/lib/ipsec/charon"}


def find_tool(name: str) -> str | None:
    """The path of tool `name`, or None."""
    if name == "swanctl" and STRONGSWAN:
        return shutil.which(name, path=f"{STRONGSWAN}/sbin")
    place = PLACE_OF.get(name)
    if place is not None:
        return place if os.access(place, os.X_OK) else None
    return shutil.which(name)


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
