"""What every interop test needs: root, the tools, and the logs of the lab when something fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab import topology
from lab.policy import require_root as lab_require_root
from lab.policy import require_tool as lab_require_tool
from lab.topology import Pair

MakePair = Callable[..., Pair]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "interop":
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session", autouse=True)
def _namespaces_and_tools() -> None:
    lab_require_root()
    for tool in ("ip", "ping", "charon", "swanctl"):
        lab_require_tool(tool)


@pytest.fixture
def make_pair() -> Iterator[MakePair]:
    """`make_pair(kinds, tunnels, ...)`: two running gateways as lab.topology.pair makes them, gone after the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(topology.pair(*arguments, **options))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when == "call":
        for pair in topology.live:
            report.sections.append(("lab", pair.logs()))
    return report
