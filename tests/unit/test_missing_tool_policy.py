"""A test whose tool is missing: skipped and counted for a user, failed under CI."""

from __future__ import annotations

import pytest
from lab import policy


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("1", True), ("True", True), ("", False), ("false", False), ("0", False), ("no", False)],
)
def test_ci_variable(value: str, expected: bool) -> None:
    assert policy.under_ci({"CI": value}) is expected


def test_ci_variable_absent() -> None:
    assert policy.under_ci({}) is False


def test_present_tool_is_returned() -> None:
    assert policy.require_tool("sh", {"CI": "true"}).endswith("/sh")


def test_missing_tool_fails_under_ci() -> None:
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is not installed"):
        policy.require_tool("no-such-tool", {"CI": "true"})


def test_missing_tool_is_skipped_and_counted_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "not_tested", {})
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="apt-get install no-such-tool"):
            policy.require_tool("no-such-tool", {})
    assert list(policy.not_tested.values()) == [2]


def test_reason_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "find_tool", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install strongswan-charon"):
        policy.require_tool("charon", {"CI": "1"})


def test_no_root_fails_under_ci_and_is_skipped_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "not_tested", {})
    monkeypatch.setattr(policy, "why_no_namespaces", lambda: "network namespaces need root")
    with pytest.raises(pytest.fail.Exception, match="need root"):
        policy.require_root({"CI": "true"})
    assert policy.not_tested == {}
    with pytest.raises(pytest.skip.Exception, match="need root"):
        policy.require_root({})
    assert policy.not_tested == {"network namespaces need root": 1}


def test_missing_module_fails_under_ci_and_is_skipped_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "not_tested", {})
    policy.require_module("json.decoder", "json", {"CI": "true"})
    for name in ("no_such_module", "no_such_package.module"):
        with pytest.raises(pytest.fail.Exception, match="no-such is not installed"):
            policy.require_module(name, "no-such", {"CI": "true"})
        with pytest.raises(pytest.skip.Exception, match="no-such is not installed"):
            policy.require_module(name, "no-such", {})
    assert sum(policy.not_tested.values()) == 2
