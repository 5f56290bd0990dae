"""Our modules of targets, notifications and communities say what pysnmp's compiled copies of the RFCs' say."""

from __future__ import annotations

from functools import cache

import pytest
from pysnmp.smi.builder import MibBuilder

from mibs.build import FOLDERS, build
from mibs.loader import MibSet, load

WHOLE = ("SNMP-TARGET-MIB", "SNMP-NOTIFICATION-MIB", "SNMP-COMMUNITY-MIB")
PARTS = ("SNMPv2-TM", "TRANSPORT-ADDRESS-MIB")


@cache
def theirs() -> MibBuilder:
    builder = MibBuilder()
    builder.load_modules(*WHOLE, *PARTS)
    return builder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> MibSet:
    output = tmp_path_factory.mktemp("mibs")
    build(FOLDERS, output)
    return load(compiled=output)


@pytest.mark.parametrize("module", [*WHOLE, *PARTS])
def test_every_name_has_its_oid_and_access(module: str, ours: MibSet) -> None:
    compared = 0
    for name, node in theirs().mibSymbols[module].items():
        if not hasattr(node, "getName") or name == "PYSNMP_MODULE_ID":
            continue
        if f"{module}::{name}" not in ours:
            assert module in PARTS, name
            continue
        mine = ours[f"{module}::{name}"]
        assert mine.oid == tuple(node.getName()), name
        compared += 1
        access = getattr(node, "getMaxAccess", lambda: "")()
        if access:
            assert mine.access == access, name
        syntax = getattr(node, "syntax", None)
        if mine.kind == "column" and syntax is not None and mine.default is not None and syntax.hasValue():
            default = mine.default
            wanted = default.encode() if isinstance(default, str) else default
            assert (bytes(syntax) if isinstance(wanted, bytes) else int(syntax)) == (
                b"" if wanted in (b"", b"0x") else wanted
            ), name
    assert compared >= (20 if module in WHOLE else 2)


@pytest.mark.parametrize(
    ("row", "index", "implied"),
    [
        ("snmpTargetAddrEntry", ["snmpTargetAddrName"], [True]),
        ("snmpTargetAddrExtEntry", ["snmpTargetAddrName"], [True]),
        ("snmpTargetParamsEntry", ["snmpTargetParamsName"], [True]),
        ("snmpNotifyEntry", ["snmpNotifyName"], [True]),
        ("snmpNotifyFilterProfileEntry", ["snmpTargetParamsName"], [True]),
        ("snmpNotifyFilterEntry", ["snmpNotifyFilterProfileName", "snmpNotifyFilterSubtree"], [False, True]),
        ("snmpCommunityEntry", ["snmpCommunityIndex"], [True]),
    ],
)
def test_indexes(row: str, index: list[str], implied: list[bool], ours: MibSet) -> None:
    assert [part.name for part in ours[row].index] == index
    assert [part.implied for part in ours[row].index] == implied
