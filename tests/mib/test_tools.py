"""The tools that people use read these modules with nothing but this repository's two folders."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mibs.build import FOLDERS

SERVED = sorted(path.stem for path in FOLDERS[0].glob("*.mib"))
EVERY = sorted(path for folder in FOLDERS for path in folder.glob("*.mib"))

Require = Callable[[str], str]


NOTIFICATIONS = ("SNMP-TARGET-MIB", "SNMP-COMMUNITY-MIB", "SNMPv2-TM", "TRANSPORT-ADDRESS-MIB")
SECURITY = ("SNMP-MPD-MIB", "SNMP-USER-BASED-SM-MIB", "SNMP-USM-AES-MIB", "SNMP-USM-HMAC-SHA2-MIB")


@pytest.mark.parametrize(
    "module", [*SERVED, *SECURITY, *NOTIFICATIONS, "SNMPv2-MIB", "SNMP-FRAMEWORK-MIB", "INET-ADDRESS-MIB"]
)
def test_smilint_has_nothing_to_say(module: str, mib_path: str, require_tool: Require) -> None:
    path = next(path for path in EVERY if path.stem == module)
    command = [require_tool("smilint"), "-c", mib_path, "-l", "3", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout + done.stderr).strip() == ""


@pytest.mark.parametrize(
    ("module", "subtree"),
    [
        ("SNMP-VIEW-BASED-ACM-MIB", "vacmViewTreeFamilySubtree"),
        ("SNMP-NOTIFICATION-MIB", "snmpNotifyFilterSubtree"),
    ],
)
def test_smilint_says_what_is_known(module: str, subtree: str, mib_path: str, require_tool: Require) -> None:
    """The subtrees in the indexes of views and filters are published without a size."""
    path = next(path for path in EVERY if path.stem == module)
    command = [require_tool("smilint"), "-c", mib_path, "-l", "3", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    assert f"`{subtree}' of row" in line
    assert "size restriction" in line


def test_smilint_would_say_something(mib_path: str, tmp_path: Path, require_tool: Require) -> None:
    """The check above is worth nothing if smilint were silent for another reason."""
    path = tmp_path / "IPSEC-GATEWAY-MIB.mib"
    path.write_text(
        (FOLDERS[0] / path.name).read_text().replace("SYNTAX      Counter32", "SYNTAX      Counter31")
    )
    done = subprocess.run(
        [require_tool("smilint"), "-c", mib_path, "-l", "3", str(path)], capture_output=True, text=True
    )
    assert "Counter31" in done.stdout + done.stderr


@pytest.mark.parametrize("module", SERVED)
def test_smidump_resolves_every_oid_and_type(module: str, mib_path: str, require_tool: Require) -> None:
    path = FOLDERS[0] / f"{module}.mib"
    command = [require_tool("smidump"), "-c", mib_path, "-f", "identifiers", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    oids = re.findall(r"\s(\d+(?:\.\d+)+)\s*$", done.stdout, re.MULTILINE)
    assert oids
    assert all(oid.startswith("1.3.6.1.") for oid in oids)


@pytest.mark.parametrize(
    ("name", "oid"),
    [
        ("SNMPv2-MIB::sysUpTime.0", ".1.3.6.1.2.1.1.3.0"),
        ("CISCO-IPSEC-FLOW-MONITOR-MIB::cikeTunStatus.7", ".1.3.6.1.4.1.9.9.171.1.2.3.1.35.7"),
        ("CISCO-IPSEC-FLOW-MONITOR-MIB::cipSecTunHcInOctets.1", ".1.3.6.1.4.1.9.9.171.1.3.2.1.27.1"),
        (
            'CISCO-IPSEC-FLOW-MONITOR-MIB::cikePeerLocalAddr.ipAddrPeer."a".namePeer."b".1',
            ".1.3.6.1.4.1.9.9.171.1.2.2.1.6.1.1.97.2.1.98.1",
        ),
        (
            "IPSEC-SA-MON-MIB::ipsecSaEspInPackets.ipv4.4.192.0.2.1.258",
            ".1.3.6.1.3.98.1.1.2.1.17.1.4.192.0.2.1.258",
        ),
        ("IPSEC-SA-MON-MIB::espInvalidSpiTrap", ".1.3.6.1.3.98.1.4.0.7"),
        ("IPSEC-GATEWAY-MIB::igSourceState.1", ".1.3.6.1.4.1.32473.1.1.1.3.1.5.1"),
    ],
)
def test_net_snmp_translates_names(name: str, oid: str, require_tool: Require) -> None:
    folders = ":".join(map(str, FOLDERS))
    command = [require_tool("snmptranslate"), "-M", folders, "-m", "ALL", "-On", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == oid
    assert done.stderr == ""


def test_net_snmp_shows_values_of_conventions(require_tool: Require) -> None:
    folders = ":".join(map(str, FOLDERS))
    command = [
        require_tool("snmptranslate"),
        "-M",
        folders,
        "-m",
        "ALL",
        "-Td",
        "IPSEC-SA-MON-MIB::ipsecSaEspInEncAlg",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "espAesGcm16(20)" in done.stdout
    assert "TEXTUAL CONVENTION IpsecDoiEspTransform" in done.stdout
