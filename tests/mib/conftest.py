"""The MIB modules, compiled once into a folder of the test run's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mibs.build import FOLDERS, build
from mibs.loader import MibSet, load


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the output of a build of this repository's modules."""
    output = tmp_path_factory.mktemp("mibs") / "compiled"
    build(FOLDERS, output)
    return output


@pytest.fixture(scope="session")
def mibs(compiled: Path) -> MibSet:
    """All modules, loaded from that folder."""
    return load(compiled=compiled)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with copies of the modules that every other one imports from."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("SNMPv2-SMI", "SNMPv2-TC", "SNMPv2-CONF"):
        shutil.copy(FOLDERS[1] / f"{name}.mib", folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str, str], Path]:
    """`source("X-MIB", text)` writes a module into the folder `src` and returns the folder."""
    folder = tmp_path / "src"
    folder.mkdir()

    def write(name: str, text: str) -> Path:
        (folder / f"{name}.mib").write_text(text)
        return folder

    return write


@pytest.fixture(scope="session")
def mib_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration of libsmi that looks into this repository's two folders and nowhere else."""
    path = tmp_path_factory.mktemp("libsmi") / "smi.conf"
    path.write_text("path " + ":".join(map(str, FOLDERS)) + "\n")
    return str(path)
