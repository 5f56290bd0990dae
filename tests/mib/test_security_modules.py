"""The modules of SNMP's own security agree with pysnmp's independent translation of the RFCs' modules."""

from __future__ import annotations

from typing import Any

import pytest

from mibs.loader import MibSet

MODULES = ("SNMP-USER-BASED-SM-MIB", "SNMP-VIEW-BASED-ACM-MIB", "SNMP-MPD-MIB")
KINDS = {"scalar", "column", "table", "row"}


@pytest.fixture(scope="module")
def theirs() -> Any:
    from pysnmp.smi.builder import MibBuilder

    builder = MibBuilder()
    builder.load_modules(*MODULES)
    return builder.mibSymbols


@pytest.mark.parametrize("module", MODULES)
def test_names_oids_and_access(module: str, mibs: MibSet, theirs: Any) -> None:
    ours = {entry.name: entry for entry in mibs.modules[module].objects}
    published = {
        name: symbol
        for name, symbol in theirs[module].items()
        if hasattr(symbol, "getName") and not name.endswith(("Compliance", "PYSNMP_MODULE_ID"))
    }
    # pysnmp's own column, which no RFC has
    published.pop("vacmContextStatus", None)
    for name, symbol in published.items():
        assert ours[name].oid == tuple(symbol.getName()), name
        access = getattr(symbol, "maxAccess", None)
        if ours[name].kind in KINDS and access and ours[name].kind not in ("table", "row"):
            assert ours[name].access.replace("-", "") == access.replace("-", ""), name


@pytest.mark.parametrize("module", MODULES)
def test_syntax(module: str, mibs: MibSet, theirs: Any) -> None:
    for entry in mibs.modules[module].objects:
        if entry.kind not in ("scalar", "column"):
            continue
        assert entry.syntax is not None
        symbol = theirs[module][entry.name]
        classes = {cls.__name__ for cls in type(symbol.syntax).__mro__}
        base = {"OCTET STRING": "OctetString", "OBJECT IDENTIFIER": "ObjectIdentifier"}
        expected = base.get(entry.syntax.base, entry.syntax.base)
        assert expected in classes or (expected == "Integer32" and "Integer" in classes), entry.name
        if entry.syntax.types:
            assert set(entry.syntax.types) & (classes | {"SnmpEngineID"}), entry.name
        named = dict(entry.syntax.named)
        if named and hasattr(symbol.syntax, "namedValues"):
            theirs_named = dict(symbol.syntax.namedValues).items()
            # pysnmp adds a RowStatus of 0
            assert named == {str(label): int(n) for label, n in theirs_named if label != "notExists"}


def test_protocols_have_their_published_arcs(mibs: MibSet) -> None:
    """RFC 3414, 3826 and 7860: what usmUserAuthProtocol and usmUserPrivProtocol can be."""
    auth, priv = (1, 3, 6, 1, 6, 3, 10, 1, 1), (1, 3, 6, 1, 6, 3, 10, 1, 2)
    names = (
        "usmNoAuthProtocol",
        "usmHMACMD5AuthProtocol",
        "usmHMACSHAAuthProtocol",
        "usmHMAC128SHA224AuthProtocol",
    )
    names += ("usmHMAC192SHA256AuthProtocol", "usmHMAC256SHA384AuthProtocol", "usmHMAC384SHA512AuthProtocol")
    assert [mibs[name].oid for name in names] == [(*auth, number) for number in range(1, 8)]
    arcs = {"usmNoPrivProtocol": 1, "usmDESPrivProtocol": 2, "usmAesCfb128Protocol": 4}
    assert {name: mibs[name].oid for name in arcs} == {name: (*priv, number) for name, number in arcs.items()}
    assert mibs["snmpUsmAesMIB"].oid == (1, 3, 6, 1, 6, 3, 20)
    assert mibs["snmpUsmHmacSha2MIB"].oid == (1, 3, 6, 1, 2, 1, 235)
