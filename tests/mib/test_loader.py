"""What the loader says of the compiled modules, and of folders that hold none."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mibs.loader import IndexPart, MibError, MibSet, Syntax, UnknownObject, load


def test_scalar_is_resolved_down_to_its_base_type(mibs: MibSet) -> None:
    contact = mibs["sysContact"]
    assert contact.oid == (1, 3, 6, 1, 2, 1, 1, 4)
    assert (contact.kind, contact.access, contact.is_readable, contact.is_writable) == (
        "scalar",
        "read-write",
        True,
        True,
    )
    assert contact.syntax == Syntax(
        name="DisplayString",
        base="OCTET STRING",
        module="SNMPv2-TC",
        types=("DisplayString",),
        sizes=((0, 255),),
        hint="255a",
    )


def test_the_nearest_clause_is_in_force(mibs: MibSet) -> None:
    """An object's SIZE narrows that of its textual convention."""
    address = mibs["ipsecSaEspInAddress"].syntax
    assert address is not None
    assert address.sizes == ((4, 4), (16, 16), (20, 20))
    assert address.permits_size(16)
    assert not address.permits_size(5)
    assert address.fixed_size is None


def test_enumeration(mibs: MibSet) -> None:
    status = mibs["cikeTunStatus"].syntax
    assert status is not None
    assert status.is_enumeration
    assert status.named == (("active", 1), ("destroy", 2))
    assert status.number("destroy") == 2
    assert status.label(1) == "active"
    assert status.label(3) is None
    assert status.permits(2)
    assert not status.permits(0)
    with pytest.raises(KeyError, match=r"TunnelStatus has no 'gone', only active, destroy"):
        status.number("gone")


def test_types_of_smi_itself_have_no_module(mibs: MibSet) -> None:
    octets = mibs["cipSecTunHcInOctets"].syntax
    assert octets == Syntax(name="Counter64", base="Counter64")


def test_range(mibs: MibSet) -> None:
    port = mibs["cipSecEndPtLocalPort"].syntax
    assert port is not None
    assert port.ranges == ((0, 65535),)
    assert port.permits(0)
    assert not port.permits(65536)


def test_row_knows_its_index_and_columns_and_table(mibs: MibSet) -> None:
    row = mibs["ipsecSaEspInEntry"]
    module = "IPSEC-SA-MON-MIB"
    assert row.index == tuple(
        IndexPart(name, module)
        for name in ("ipsecSaEspInAddressType", "ipsecSaEspInAddress", "ipsecSaEspInSpi")
    )
    assert row.columns[:2] == ("ipsecSaEspInAddressType", "ipsecSaEspInAddress")
    assert len(row.columns) == 23
    assert mibs["ipsecSaEspInTable"].row == row.name
    assert all(mibs[column].row == row.name for column in row.columns)


def test_index_may_be_of_another_table_or_module(mibs: MibSet) -> None:
    assert mibs["cipSecSpiEntry"].index == (
        IndexPart("cipSecTunIndex", "CISCO-IPSEC-FLOW-MONITOR-MIB"),
        IndexPart("cipSecSpiIndex", "CISCO-IPSEC-FLOW-MONITOR-MIB"),
    )
    assert mibs["cikePhase1GWStatsEntry"].index == (IndexPart("cmgwIndex", "CISCO-MEDIA-GATEWAY-MIB"),)


def test_notification_names_its_objects(mibs: MibSet) -> None:
    notification = mibs["cikeTunnelStart"]
    assert notification.kind == "notification"
    assert notification.objects == ("cikePeerLocalAddr", "cikePeerRemoteAddr", "cikeTunLifeTime")


def test_own_module_has_its_root_in_one_line(mibs: MibSet) -> None:
    module = mibs.modules["IPSEC-GATEWAY-MIB"]
    root = mibs[module.identity].oid
    assert root == (1, 3, 6, 1, 4, 1, 32473, 1)
    assert all(definition.oid[: len(root)] == root for definition in module.objects)


def test_lookup_by_oid(mibs: MibSet) -> None:
    uptime = (1, 3, 6, 1, 2, 1, 1, 3)
    found = mibs.by_oid(uptime)
    assert found is mibs["sysUpTime"]
    assert mibs.by_oid((*uptime, 0)) is None
    assert mibs.resolve((*uptime, 0)) == (found, (0,))
    assert mibs.text((*uptime, 0)) == "SNMPv2-MIB::sysUpTime.0"
    assert mibs.resolve((2, 999)) is None
    assert mibs.text((2, 999, 1)) == "2.999.1"


def test_under_gives_a_subtree_in_order(mibs: MibSet) -> None:
    names = [o.name for o in mibs.under((1, 3, 6, 1, 4, 1, 9, 9, 171, 1, 3, 4))]
    assert names == [
        "cipSecSpiTable",
        "cipSecSpiEntry",
        "cipSecSpiIndex",
        "cipSecSpiDirection",
        "cipSecSpiValue",
        "cipSecSpiProtocol",
        "cipSecSpiStatus",
    ]
    oids = [o.oid for o in mibs]
    assert oids == sorted(oids)
    assert len(oids) == len(mibs) == len(mibs.under(()))


def test_of_kind(mibs: MibSet) -> None:
    tables = mibs.of_kind("table", module="IPSEC-SA-MON-MIB")
    assert [t.name for t in tables][:2] == ["selectorTable", "ipsecSaEspInTable"]
    assert len(tables) == 9
    assert mibs.modules["IPSEC-SA-MON-MIB"].folder == "src"
    assert mibs.modules["SNMPv2-MIB"].folder == "base"


def test_unknown_and_ambiguous_names(mibs: MibSet) -> None:
    assert "sysUpTime" in mibs
    assert "SNMPv2-MIB::sysUpTime" in mibs
    assert "IF-MIB::sysUpTime" not in mibs
    assert 7 not in mibs
    with pytest.raises(UnknownObject, match="no loaded MIB module defines sysDowntime"):
        mibs["sysDowntime"]
    module = mibs.modules["IF-MIB"]
    twin = dataclasses.replace(
        module,
        name="TWIN-MIB",
        objects=tuple(dataclasses.replace(o, module="TWIN-MIB") for o in module.objects),
    )
    both = MibSet([module, twin])
    with pytest.raises(UnknownObject, match=r"ambiguous: write one of IF-MIB::ifIndex, TWIN-MIB::ifIndex"):
        both["ifIndex"]
    assert both["TWIN-MIB::ifIndex"].module == "TWIN-MIB"
    assert "ifIndex" not in both  # nothing that a lookup would refuse is "in"


def test_definitions_cannot_be_changed(mibs: MibSet) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        mibs["sysUpTime"].name = "other"  # type: ignore[misc]


def test_named_modules_bring_what_they_import(compiled: Path) -> None:
    few = load(["IPSEC-SA-MON-MIB"], compiled)
    assert {"IPSEC-SA-MON-MIB", "IPSEC-ISAKMP-IKE-DOI-TC", "INET-ADDRESS-MIB", "IF-MIB"} <= set(few.modules)
    assert "CISCO-IPSEC-FLOW-MONITOR-MIB" not in few.modules
    with pytest.raises(MibError, match=r"no module NO-SUCH-MIB in it, only CISCO-"):
        load(["NO-SUCH-MIB"], compiled)


def test_missing_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MibError, match=r"not compiled; run 'python -m mibs.build'"):
        load(compiled=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": 0}',
        b'{"format": 1}',
        b'{"format": 1, "syntaxes": 3}',
    ],
)
def test_damaged_index_names_the_command(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(MibError, match=r"run 'python -m mibs.build --force'"):
        load(compiled=tmp_path)


def test_index_with_a_damaged_entry_names_the_command(compiled: Path, tmp_path: Path) -> None:
    index = json.loads((compiled / "index.json").read_bytes())
    for damage in ("oid", "kind"):
        broken = json.loads(json.dumps(index))
        del broken["modules"]["SNMPv2-MIB"]["objects"][3][damage]
        (tmp_path / "index.json").write_text(json.dumps(broken))
        with pytest.raises(MibError, match="damaged"):
            load(compiled=tmp_path)


def test_loading_needs_nothing_but_the_standard_library(compiled: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); from pathlib import Path;"
        "import mibs; mibs.load(compiled=Path(sys.argv[1]));"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(m for m in new if m not in sys.stdlib_module_names and m != 'mibs'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(compiled)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
