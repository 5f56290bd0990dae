"""What happens to a test that needs something this machine does not have.

Under CI (`CI=true` in the environment) it fails: a run that silently tested less must not look green. For a user
without root or without the Debian packages it is skipped, and the end of the run says what was not tested and how
to get it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from lab.tools import PACKAGE_OF, find_tool, why_no_namespaces

not_tested: dict[str, int] = {}
"""Reason -> number of tests that were skipped for it, for the loud end of the run."""


def under_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the `CI` variable is set to anything but nothing, 0, no or false."""
    return environment.get("CI", "").strip().lower() not in ("", "0", "no", "false")


def lacking(reason: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """End the calling test because of `reason`: a failure under CI, a counted skip otherwise."""
    if under_ci(environment):
        pytest.fail(f"{reason}; under CI nothing may be skipped", pytrace=False)
    not_tested[reason] = not_tested.get(reason, 0) + 1
    pytest.skip(reason)


def require_tool(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The path of tool `name`; a missing one ends the test by the policy above."""
    found = find_tool(name)
    if found is None:
        package = PACKAGE_OF.get(name, name)
        lacking(f"{name} is not installed (apt-get install {package})", environment)
    return found


def require_module(name: str, package: str, environment: Mapping[str, str] = os.environ) -> None:
    """Python module `name` of PyPI's `package`, or the end of the test by the policy above."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        lacking(
            f"{package} is not installed (pip install -e .[dev], where there are wheels of it)", environment
        )


def require_root(environment: Mapping[str, str] = os.environ) -> None:
    """Network namespaces and TUN devices, or the end of the test by the policy above."""
    reason = why_no_namespaces()
    if reason is not None:
        lacking(reason, environment)


def shared_vectors(root: Path) -> Path | None:
    """The folder of large vector sets beside the repository, where it is present."""
    folder = root.parent / "shared" / "vectors"
    return folder if folder.is_dir() else None
