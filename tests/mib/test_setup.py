"""Building the package compiles the MIB modules, or fails with their file and line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mibs.loader import load


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """What building needs of a fresh checkout: nothing is compiled in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(repository / name, folder)
    (folder / "README.md").touch()
    shutil.copytree(
        repository / "mibs", folder / "mibs", ignore=shutil.ignore_patterns("compiled", "__pycache__")
    )
    return folder


def build_py(checkout: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(output)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def test_build_py_compiles_and_collects_the_modules(checkout: Path, compiled: Path, tmp_path: Path) -> None:
    done = build_py(checkout, tmp_path / "lib")
    assert done.returncode == 0, done.stderr
    built = tmp_path / "lib" / "mibs"
    assert (built / "src" / "IPSEC-GATEWAY-MIB.mib").exists()
    assert (built / "base" / "SNMPv2-SMI.mib").exists()
    assert (built / "py.typed").exists()
    assert {p.name for p in (built / "compiled").iterdir()} == {p.name for p in compiled.iterdir()}
    assert (built / "compiled" / "index.json").read_bytes() == (compiled / "index.json").read_bytes()
    assert len(load(compiled=built / "compiled")) > 700


def test_a_built_copy_finds_its_own_compiled_folder(checkout: Path, tmp_path: Path) -> None:
    assert build_py(checkout, tmp_path / "lib").returncode == 0
    code = "import mibs, mibs.loader; print(mibs.loader.COMPILED); print(mibs.load()['sysUpTime'].oid)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "lib", capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / "lib" / "mibs" / "compiled"),
        "(1, 3, 6, 1, 2, 1, 1, 3)",
    ]


def test_a_broken_module_fails_the_build_with_file_and_line(checkout: Path, tmp_path: Path) -> None:
    path = checkout / "mibs" / "src" / "IPSEC-GATEWAY-MIB.mib"
    text = path.read_text()
    path.write_text(text.replace("SYNTAX      DateAndTime", "SYNTAX      DateAndTyme", 1))
    line = text.count("\n", 0, text.index("SYNTAX      DateAndTime")) + 1
    done = build_py(checkout, tmp_path / "lib")
    assert done.returncode != 0
    assert (
        f"mibs/src/IPSEC-GATEWAY-MIB.mib:{line}: the SYNTAX of igSourceLastConnected is DateAndTyme"
        in done.stderr
    )
    assert not (tmp_path / "lib" / "mibs").exists()
