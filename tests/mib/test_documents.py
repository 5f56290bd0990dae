"""The pages about the modules name what exists, and miss no module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mibs.build import FOLDERS
from mibs.loader import MibSet

SERVED = sorted(path.stem for path in FOLDERS[0].glob("*.mib"))


@pytest.mark.parametrize("module", [*SERVED, "SNMPv2-MIB"])
def test_every_module_has_a_page_and_its_arcs_are_listed(module: str, repository: Path, mibs: MibSet) -> None:
    page = repository / "docs" / "mibs" / f"{module}.md"
    assert page.read_text().startswith(f"# {module}\n")
    assert f"[{module}]({module}.md)" in (repository / "docs" / "mibs" / "README.md").read_text()
    row = next(
        line
        for line in (repository / "mibs" / "OIDS.md").read_text().splitlines()
        if line.startswith("| ") and module in line.split("|")[1]
    )
    roots = [tuple(map(int, root.split("."))) for root in re.findall(r"`(\d+(?:\.\d+)+)`", row)]
    for definition in mibs.modules[module].objects:
        inside = any(definition.oid[: len(root)] == root for root in roots)
        assert inside, f"{definition} is under none of the arcs that mibs/OIDS.md lists for {module}"


@pytest.mark.parametrize("module", SERVED)
def test_pages_name_only_objects_that_exist(module: str, repository: Path, mibs: MibSet) -> None:
    text = (repository / "docs" / "mibs" / f"{module}.md").read_text()
    words = set(re.findall(r"\b(?:cike|cipSec|ipsecSa|ipsecUnknown|igS|selector[A-Z])[A-Za-z0-9]+\b", text))
    endings = {definition.name for definition in mibs}
    unknown = {w for w in words if w not in endings and not any(name.startswith(w) for name in endings)}
    assert not unknown


def test_the_root_of_our_own_is_one_line(repository: Path) -> None:
    text = (repository / "mibs" / "src" / "IPSEC-GATEWAY-MIB.mib").read_text()
    assert re.findall(r"\benterprises\b[^,\n]*\}", text) == ["enterprises 32473 1 }"]


@pytest.mark.parametrize("module", [*SERVED, "SNMPv2-MIB", "SNMP-FRAMEWORK-MIB"])
def test_every_object_has_a_description(module: str) -> None:
    path = next(folder / f"{module}.mib" for folder in FOLDERS if (folder / f"{module}.mib").exists())
    blocks = path.read_text().split("\n\n")
    defined = [
        b for b in blocks if re.match(r"[\w-]+ (?:OBJECT-TYPE|NOTIFICATION-TYPE|::= TEXTUAL-CONVENTION)\n", b)
    ]
    assert defined
    for block in defined:
        text = re.search(r'DESCRIPTION\s+"([^"]*)"', block)
        assert text is not None, f"{block.split()[0]} has no DESCRIPTION"
        assert len(text.group(1).split()) > 1, f"the DESCRIPTION of {block.split()[0]} says nothing"
