"""Every compiled module agrees with what its source document publishes (tests/mib/facts)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from mibs.loader import MibSet, Syntax

FACTS = Path(__file__).parent / "facts"
MODULES = ("IPSEC-SA-MON-MIB", "CISCO-IPSEC-FLOW-MONITOR-MIB", "SNMPv2-MIB")


def facts(name: str) -> list[dict[str, str]]:
    with (FACTS / f"{name}.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def named(text: str) -> set[tuple[str, int]]:
    return {(label, int(number)) for label, number in re.findall(r"([\w-]+)\((\d+)\)", text)}


def pairs(text: str) -> set[tuple[int, int]]:
    result = set()
    for part in filter(None, text.split("|")):
        low, _, high = part.partition("..")
        result.add((int(low), int(high or low)))
    return result


def difference(published: str, syntax: Syntax | None) -> str:
    """What is wrong with a compiled SYNTAX, '' if nothing."""
    if not published:
        return "" if syntax is None else "has a SYNTAX"
    if syntax is None:
        return "has no SYNTAX"
    name, _, rest = published.partition(" {") if "{" in published else published.partition(" (")
    if syntax.name != name:
        return f"is {syntax.name}, published {name}"
    if "{" in published and not named(rest) <= set(syntax.named):
        return f"lacks {named(rest) - set(syntax.named)}"
    if "(" in published and "{" not in published:
        have = set(syntax.sizes if syntax.base == "OCTET STRING" else syntax.ranges)
        if have != pairs(rest.rstrip(")")):
            return f"permits {have}, published {rest.rstrip(')')}"
    return ""


@pytest.mark.parametrize("module", MODULES)
def test_module_holds_every_published_object(module: str, mibs: MibSet) -> None:
    differences = []
    rows = facts(module)
    for row in rows:
        name = row["name"]
        if f"{module}::{name}" not in mibs:
            differences.append(f"{name} is missing")
            continue
        have = mibs[f"{module}::{name}"]
        kind = have.kind.replace("notification-group", "group")
        for label, want, is_ in (
            ("OID", row["oid"], ".".join(map(str, have.oid))),
            ("kind", row["kind"], kind),
            ("MAX-ACCESS", row["access"], have.access),
        ):
            if want != is_:
                differences.append(f"{name}: {label} is {is_}, published {want}")
        wrong = difference(row["syntax"], have.syntax)
        if wrong:
            differences.append(f"{name}: SYNTAX {wrong}")
        refers = [part for part in row["refers"].split(", ") if part]
        if row["kind"] == "row" and refers != [part.name for part in have.index]:
            differences.append(f"{name}: INDEX is {have.index}, published {refers}")
        if row["kind"] in ("notification", "group") and refers != list(have.objects):
            differences.append(f"{name}: refers to {have.objects}, published {refers}")
    assert not differences
    assert len(rows) > 25


def test_difference_notices_each_kind_of_change(mibs: MibSet) -> None:
    status, size = mibs["cikeTunStatus"].syntax, mibs["ipsecSaEspInAddress"].syntax
    assert difference("TunnelStatus", status) == ""
    assert "published Integer32" in difference("Integer32", status)
    assert difference("InetAddress (4|16|20)", size) == ""
    assert "published 4|16" in difference("InetAddress (4|16)", size)
    reason = mibs["cikeFailReason"].syntax
    assert "lacks" in difference("INTEGER {other(1), moonPhase(99)}", reason)


def test_textual_conventions_hold_every_published_value(mibs: MibSet) -> None:
    differences = []
    for row in facts("textual-conventions"):
        types = mibs.modules[row["module"]].types
        if row["name"] not in types:
            differences.append(f"{row['name']} is missing")
            continue
        have = types[row["name"]]
        base = {"Enumeration": "Integer32", "OctetString": "OCTET STRING"}.get(row["base"], row["base"])
        if have.base != base or have.is_enumeration != (row["base"] == "Enumeration"):
            differences.append(f"{row['name']}: base is {have.base}")
        if not named(row["named"]) <= set(have.named):
            differences.append(f"{row['name']} lacks {named(row['named']) - set(have.named)}")
        if row["hint"] != have.hint:
            differences.append(f"{row['name']}: DISPLAY-HINT is {have.hint!r}")
        limits = set(have.sizes or have.ranges)
        if row["sizes"] not in ("", "0..4294967295") and limits != pairs(row["sizes"]):
            differences.append(f"{row['name']} permits {limits}, published {row['sizes']}")
    assert not differences


@pytest.mark.parametrize("name", ["TunnelStatus", "EncryptAlgo", "DiffHellmanGrp", "AuthAlgo", "IkeHashAlgo"])
def test_vendor_enumerations_are_not_extended(name: str, mibs: MibSet) -> None:
    """Managers decode 9.9.171 with the vendor's module: a number that it lacks would be shown as an error."""
    module = "CISCO-IPSEC-FLOW-MONITOR-MIB"
    published = next(r for r in facts("textual-conventions") if (r["module"], r["name"]) == (module, name))
    assert set(mibs.modules[module].types[name].named) == named(published["named"])


@pytest.mark.parametrize(
    ("convention", "label", "number"),
    [
        # IANA: IPSEC ESP Transform Identifiers, and IKEv2 transform type 1 from 24
        ("IpsecDoiEspTransform", "espAesCtr", 13),
        ("IpsecDoiEspTransform", "espAesGcm16", 20),
        ("IpsecDoiEspTransform", "espChaCha20Poly1305", 28),
        # IANA: IPSEC Authentication Algorithms
        ("IpsecDoiAuthAlgorithm", "aesXcbcMac", 9),
        # RFC 3947 section 5.1
        ("IpsecDoiEncapsulationMode", "udpEncapsulatedTunnel", 3),
        # IANA: IKEv2 transform type 4
        ("IkeGroupDescription", "modp1536", 5),
        ("IkeGroupDescription", "modp2048", 14),
        ("IkeGroupDescription", "ecp521", 21),
        ("IkeGroupDescription", "curve25519", 31),
        ("IkeGroupDescription", "mlKem768", 36),
        # RFC 7296 section 3.8, RFC 7427
        ("IkeAuthMethod", "digitalSignature", 14),
    ],
)
def test_later_assignments_are_there(convention: str, label: str, number: int, mibs: MibSet) -> None:
    syntax = mibs.modules["IPSEC-ISAKMP-IKE-DOI-TC"].types[convention]
    assert syntax.number(label) == number
    assert syntax.label(number) == label
