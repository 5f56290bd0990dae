"""The build's output: complete, deterministic, incremental, never half written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mibs.build import FOLDERS, BuildError, build, main
from mibs.loader import load

MINIMAL = """{name} DEFINITIONS ::= BEGIN
IMPORTS MODULE-IDENTITY, OBJECT-TYPE, Integer32, enterprises FROM SNMPv2-SMI;
{root} MODULE-IDENTITY
    LAST-UPDATED "202601010000Z"
    ORGANIZATION "o"
    CONTACT-INFO "c"
    DESCRIPTION "d"
    REVISION "202601010000Z"
    DESCRIPTION "r"
    ::= {{ enterprises {number} }}
{root}Value OBJECT-TYPE
    SYNTAX Integer32 (-5..5 | 10)
    UNITS "things"
    MAX-ACCESS read-write
    STATUS current
    DESCRIPTION "v"
    DEFVAL {{ -3 }}
    ::= {{ {root} 1 }}
END
"""


def minimal(folder: Path, name: str = "ONE-MIB", root: str = "one", number: int = 99991) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.mib"
    path.write_text(MINIMAL.format(name=name, root=root, number=number))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_output_holds_every_module(compiled: Path) -> None:
    names = {path.stem for folder in FOLDERS for path in folder.glob("*.mib")}
    index = json.loads((compiled / "index.json").read_bytes())
    assert set(index["modules"]) == names
    assert {path.name for path in compiled.iterdir()} == {f"{name}.mib.json" for name in names} | {
        "index.json"
    }


def test_pysmi_json_holds_what_a_binding_needs_and_no_texts(compiled: Path) -> None:
    document = json.loads((compiled / "CISCO-IPSEC-FLOW-MONITOR-MIB.mib.json").read_bytes())
    status = document["cipSecTunStatus"]
    assert status["oid"] == "1.3.6.1.4.1.9.9.171.1.3.2.1.51"
    assert (status["nodetype"], status["maxaccess"], status["syntax"]["type"]) == (
        "column",
        "read-write",
        "TunnelStatus",
    )
    assert document["TunnelStatus"]["type"]["constraints"]["enumeration"] == {"active": 1, "destroy": 2}
    assert not any("description" in entry for entry in document.values())


def test_output_is_deterministic(compiled: Path, tmp_path: Path) -> None:
    copies = []
    for folder in FOLDERS:
        copies.append(tmp_path / folder.name)
        shutil.copytree(folder, copies[-1])
    build(copies, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(compiled)


def test_second_build_does_nothing(base: Path, tmp_path: Path) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    folders = (path.parent, base)
    assert build(folders, output).written
    before = {p.name: p.stat().st_mtime_ns for p in output.iterdir()}
    report = build(folders, output)
    assert not report.written
    assert report.modules == ("ONE-MIB", "SNMPv2-CONF", "SNMPv2-SMI", "SNMPv2-TC")
    assert {p.name: p.stat().st_mtime_ns for p in output.iterdir()} == before
    os.utime(path)  # a newer time alone is no change
    assert not build(folders, output).written
    assert build(folders, output, force=True).written


def test_changed_source_is_compiled_and_a_removed_one_leaves(base: Path, tmp_path: Path) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    other = minimal(tmp_path / "src", "TWO-MIB", "two", 99992)
    build((path.parent, base), output)
    path.write_text(path.read_text().replace("read-write", "read-only"))
    assert build((path.parent, base), output).written
    assert load(compiled=output)["oneValue"].access == "read-only"
    other.unlink()
    assert build((path.parent, base), output).written
    assert not (output / "TWO-MIB.mib.json").exists()
    assert "TWO-MIB" not in load(compiled=output).modules


@pytest.mark.parametrize("damage", [b"", b"{", None])
@pytest.mark.parametrize("name", ["index.json", "ONE-MIB.mib.json"])
def test_damaged_output_is_made_anew(name: str, damage: bytes | None, base: Path, tmp_path: Path) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    build((path.parent, base), output)
    good = contents(output)
    if damage is None:
        (output / name).unlink()
    else:
        (output / name).write_bytes(damage)
    assert build((path.parent, base), output).written
    assert contents(output) == good


def test_clauses_reach_the_loader(base: Path, tmp_path: Path) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    build((path.parent, base), output)
    mibs = load(compiled=output)
    value = mibs["oneValue"]
    assert value.syntax is not None
    assert value.syntax.ranges == ((-5, 5), (10, 10))
    assert (value.units, value.default, value.kind) == ("things", -3, "scalar")
    assert mibs.modules["ONE-MIB"].revision == "202601010000Z"
    assert mibs.modules["ONE-MIB"].imports == ("SNMPv2-SMI",)


RICH = """RICH-MIB DEFINITIONS ::= BEGIN
IMPORTS
    MODULE-IDENTITY, OBJECT-TYPE, Unsigned32, enterprises FROM SNMPv2-SMI
    TEXTUAL-CONVENTION, DisplayString, RowStatus FROM SNMPv2-TC;
rich MODULE-IDENTITY
    LAST-UPDATED "202601010000Z" ORGANIZATION "o" CONTACT-INFO "c" DESCRIPTION "d"
    REVISION "202601010000Z" DESCRIPTION "r" ::= { enterprises 99990 }
Name ::= TEXTUAL-CONVENTION DISPLAY-HINT "31t" STATUS current DESCRIPTION "d" SYNTAX OCTET STRING (SIZE (1..31))
Flags ::= TEXTUAL-CONVENTION STATUS current DESCRIPTION "d" SYNTAX BITS { sour(1), sweet(0), salt(8) }
richTable OBJECT-TYPE SYNTAX SEQUENCE OF RichEntry MAX-ACCESS not-accessible STATUS current DESCRIPTION "d"
    ::= { rich 1 }
richEntry OBJECT-TYPE SYNTAX RichEntry MAX-ACCESS not-accessible STATUS current DESCRIPTION "d"
    INDEX { richNumber, IMPLIED richName } ::= { richTable 1 }
RichEntry ::= SEQUENCE { richNumber Unsigned32, richName Name, richFlags Flags, richStatus RowStatus }
richNumber OBJECT-TYPE SYNTAX Unsigned32 MAX-ACCESS not-accessible STATUS current DESCRIPTION "d"
    ::= { richEntry 1 }
richName OBJECT-TYPE SYNTAX Name (SIZE (1..8)) MAX-ACCESS not-accessible STATUS current DESCRIPTION "d"
    ::= { richEntry 2 }
richFlags OBJECT-TYPE SYNTAX Flags MAX-ACCESS read-create STATUS current DESCRIPTION "d"
    DEFVAL { { sweet } } ::= { richEntry 3 }
richStatus OBJECT-TYPE SYNTAX RowStatus MAX-ACCESS read-create STATUS current DESCRIPTION "d"
    DEFVAL { active } ::= { richEntry 4 }
moreTable OBJECT-TYPE SYNTAX SEQUENCE OF MoreEntry MAX-ACCESS not-accessible STATUS deprecated DESCRIPTION "d"
    ::= { rich 2 }
moreEntry OBJECT-TYPE SYNTAX MoreEntry MAX-ACCESS not-accessible STATUS current DESCRIPTION "d"
    AUGMENTS { richEntry } ::= { moreTable 1 }
MoreEntry ::= SEQUENCE { moreText DisplayString }
moreText OBJECT-TYPE SYNTAX DisplayString MAX-ACCESS read-only STATUS current DESCRIPTION "d"
    ::= { moreEntry 1 }
END
"""


def test_implied_augments_bits_and_default(base: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "RICH-MIB.mib").write_text(RICH)
    build((tmp_path / "src", base), tmp_path / "out")
    mibs = load(compiled=tmp_path / "out")
    index = mibs["richEntry"].index
    assert [(part.name, part.implied) for part in index] == [("richNumber", False), ("richName", True)]
    more = mibs["moreEntry"]
    assert (more.augments, more.index, more.columns) == ("richEntry", index, ("moreText",))
    assert mibs["moreTable"].status == "deprecated"
    flags = mibs["richFlags"]
    assert flags.syntax is not None
    assert flags.syntax.base == "BITS"
    assert flags.syntax.named == (("sweet", 0), ("sour", 1), ("salt", 8))
    assert not flags.syntax.is_enumeration
    assert flags.default == "sweet"
    assert mibs["richStatus"].default == 1
    name = mibs["richName"].syntax
    assert name is not None
    assert (name.name, name.sizes, name.hint) == ("Name", ((1, 8),), "31t")


def test_failed_build_leaves_the_output_as_it_was(base: Path, tmp_path: Path) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    build((path.parent, base), output)
    good = contents(output)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(BuildError):
        build((path.parent, base), output)
    assert contents(output) == good


def test_full_disk_leaves_the_output_as_it_was(base: Path, tmp_path: Path) -> None:
    """Files may not grow beyond a few hundred octets, so that writing fails half way as on a full disk."""
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    build((path.parent, base), output)
    good = contents(output)
    path.write_text(path.read_text().replace("read-write", "read-only"))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    command = [sys.executable, "-m", "mibs.build", "--output", str(output), str(path.parent), str(base)]
    done = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written: File too large; make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(output) == good


def test_output_that_cannot_be_a_folder(base: Path, tmp_path: Path) -> None:
    path = minimal(tmp_path / "src")
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="file: cannot be written: File exists; make room or correct"):
        build((path.parent, base), tmp_path / "file")


def test_leftovers_of_a_killed_build_are_swept_but_not_those_of_a_running_one(
    base: Path, tmp_path: Path
) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    output.mkdir()
    old, young = output / ".build-old", output / ".build-young"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    build((path.parent, base), output)
    assert not old.exists()
    assert young.exists()


def test_unreadable_sources(base: Path, tmp_path: Path) -> None:
    folder = minimal(tmp_path / "src").parent
    (folder / "DIR-MIB.mib").mkdir()
    (folder / "GONE-MIB.mib").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BuildError) as caught:
        build((folder, base, tmp_path / "none"), tmp_path / "out")
    texts = [str(problem) for problem in caught.value.problems]
    assert any("DIR-MIB.mib: cannot be read: Is a directory" in text for text in texts)
    assert any("GONE-MIB.mib: cannot be read: No such file" in text for text in texts)
    assert any("none: cannot be read: No such file" in text for text in texts)
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"holds no \*\.mib file"):
        build((tmp_path,), tmp_path / "out")


def test_command_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = minimal(tmp_path / "src"), tmp_path / "out"
    arguments = ["--output", str(output), str(path.parent), str(base)]
    assert main(arguments) == 0
    assert "4 modules compiled" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "are up to date" in capsys.readouterr().out
    assert main(["--force", *arguments]) == 0
    assert "4 modules compiled" in capsys.readouterr().out
    path.write_text("nothing")
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert f"{path}:1: syntax error at 'nothing'" in err
    assert "mibs: 1 problem, nothing was written" in err
