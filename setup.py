"""Everything else is in pyproject.toml: this only has the MIB modules compiled before the package is built.

`pip install .`, `pip install -e .` and building a wheel all run `build_py`; none of it uses the network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

# A build backend does not put the project's own folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))


class BuildWithMibs(build_py):
    """Compile the MIB modules first, so that what is collected or linked holds them."""

    def run(self) -> None:
        from mibs.build import BuildError, build

        try:
            report = build()
        except BuildError as error:
            raise SetupError(f"the MIB modules cannot be compiled:\n{error}") from error
        self.announce(f"{len(report.modules)} MIB modules compiled into {report.output}", level=2)
        # package data was listed before the compiled files were there
        self.__dict__.pop("data_files", None)
        super().run()


setup(cmdclass={"build_py": BuildWithMibs})
