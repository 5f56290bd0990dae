"""Fixtures for every test, and the policy for tests whose tools are missing (see lab.policy)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the lab is a package beside the tests
sys.path.insert(0, str(Path(__file__).parent / "agent"))  # fake_vici, smi_support, agent_lab for every test

from lab import policy

if TYPE_CHECKING:
    from agent_lab import Beside
    from smi_support import Running, TestModel

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def restored_loggers() -> Iterator[None]:
    """The daemons take over the logging of their packages; the next test finds it as it was."""
    loggers = [logging.getLogger(name) for name in ("ipsecstack", "agent", "asyncio")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    raising = logging.raiseExceptions
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.raiseExceptions = raising


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """`require_tool("tshark")`: its path, or the test ends (skipped; failed under CI)."""
    return policy.require_tool


@pytest.fixture(scope="session")
def require_root() -> None:
    """The test makes network namespaces and TUN devices."""
    policy.require_root()


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The large vector sets beside the repository; tests that need them are skipped where they are absent.

    They are an extra on the developers' machines, never part of a checkout: their absence is no failure.
    """
    folder = policy.shared_vectors(REPOSITORY)
    if folder is None:
        pytest.skip("no ../shared/vectors beside the repository")
    return folder


@pytest.fixture
def synthetic(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`synthetic(model, text)`: an agent over the tables of smi_support.TEST-MIB, in a thread, gone after the test."""
    import smi_support

    with ExitStack() as stack:

        def make(model: TestModel | None = None, text: str = smi_support.CONFIG) -> Running:
            model = model or smi_support.TestModel(rows=smi_support.rows(40))
            return stack.enter_context(smi_support.running(tmp_path, model, text))

        yield make


@pytest.fixture
def beside_fake(tmp_path: Path) -> Iterator[Callable[..., Beside]]:
    """`beside_fake(tunnels, ...)`: an agent that follows a fake VICI daemon, in a thread, gone after the test."""
    import agent_lab

    with ExitStack() as stack:

        def make(tunnels: int, **options: Any) -> Beside:
            return stack.enter_context(agent_lab.thread_beside_fake(tmp_path, tunnels, **options))

        yield make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not policy.not_tested:
        return
    terminalreporter.section("NOT TESTED on this machine", red=True, bold=True)
    for reason, count in sorted(policy.not_tested.items()):
        terminalreporter.line(f"{count:4d} times: {reason}", red=True)
