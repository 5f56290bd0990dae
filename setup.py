"""Everything else is in pyproject.toml: this only has the MIB modules compiled before the package is built.

`pip install .`, `pip install -e .` and building a wheel all compile them; none of it uses the network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import SetupError

# A build backend does not put the project's own folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))


def compile_mibs() -> None:
    """Bring mibs/compiled up to date. Raises SetupError with file and line of what is wrong."""
    from mibs.build import BuildError, build

    try:
        report = build()
    except BuildError as error:
        raise SetupError(f"the MIB modules cannot be compiled:\n{error}") from error
    print(f"{len(report.modules)} MIB modules compiled into {report.output}")


class BuildWithMibs(build_py):
    """Compile first, so that the compiled files are collected with the rest."""

    def run(self) -> None:
        compile_mibs()
        # package data may have been listed before the compiled files were there
        self.__dict__.pop("data_files", None)
        super().run()


class EditableWithMibs(editable_wheel):
    """The same for `pip install -e`, which would only warn of a failing build_py."""

    def run(self) -> None:
        compile_mibs()
        super().run()


setup(cmdclass={"build_py": BuildWithMibs, "editable_wheel": EditableWithMibs})
