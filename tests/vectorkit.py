"""What the tests of published vectors share: cases out of `tests/vectors/data`, octets out of a case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "vectors" / "data"


def cases(name: str) -> list[Any]:
    found = json.loads((DATA / f"{name}.json").read_text())["cases"]
    assert found
    return [pytest.param(case, id=str(case.get("name", index))) for index, case in enumerate(found)]


def octets(case: dict[str, str], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def fixed_random(data: bytes):
    """A source of randomness that gives ``data``, padded in front with zeros to what is asked."""
    return lambda count: data.rjust(count, b"\0")[-count:]
