"""Tries rows for one role and one kind of peer, here or in a guest; a JSON line for each in the file OUT.

python -m interop.matrix.worker OUT ROLE PEER [PLANE] [only=WORDS]
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interop.matrix.catalogue import ROWS
from interop.matrix.lane import Lane, NotThere
from interop.matrix.plan import Ground, Peer, Role, Row

PASSED, FAILED, NOT_THERE, PEER_LACKS = "passed", "FAILED", "not there", "-"
Outcome = dict[str, Any]


def chosen(only: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """Rows whose title holds one of the words; all without words."""
    return [row for row in rows if not only or any(word.lower() in row.title.lower() for word in only)]


class Lanes:
    """The lane of the ground in use; another ground or a spoilt lane means new daemons."""

    def __init__(self, role: Role, peer: Peer, plane: str = "tun") -> None:
        self.role, self.peer, self.plane = role, peer, plane
        self._ground: Ground | None = None
        self._stack = contextlib.ExitStack()
        self.lane: Lane | None = None

    def on(self, ground: Ground) -> Lane:
        if self.lane is None or ground != self._ground:
            self.close()
            self.lane = self._stack.enter_context(
                Lane(ground, self.role, self.peer, Path(), self.plane).running()
            )
            self._ground = ground
        return self.lane

    def close(self) -> None:
        self.lane, self._ground = None, None
        self._stack.close()


def short(text: str) -> str:
    """First and last line: what failed, and what the log of a daemon or a tool says last."""
    first, *more = text.strip().splitlines()
    return f"{first[:400]} … {more[-1][:200]}" if more else first[:600]


def attempt(lanes: Lanes, row: Row) -> Outcome:
    """One row: what came of it."""
    outcome: Outcome = {
        "family": row.family,
        "row": row.name,
        "role": lanes.role,
        "peer": lanes.peer,
        "plane": lanes.plane,
        "lost": None,
        "sent": None,
        "seconds": 0.0,
        "reason": "",
    }
    if lanes.role not in row.roles:
        return {**outcome, "result": PEER_LACKS, "reason": "this role has no such case"}
    if lanes.peer in row.lacks:
        return {**outcome, "result": PEER_LACKS, "reason": row.lacks[lanes.peer]}
    assert row.check is not None
    started = time.monotonic()
    try:
        lane = lanes.on(row.ground)
        seen = row.check(lane, row)
        outcome.update(seen, result=PASSED)
    except NotThere as error:
        outcome.update(result=NOT_THERE, reason=str(error))
    except Exception as error:
        outcome.update(result=FAILED, reason=short(f"{type(error).__name__}: {error}"))
        outcome["trace"] = traceback.format_exc()
        if lanes.lane is not None:
            outcome["logs"] = lanes.lane.logs()
        lanes.close()
    outcome["seconds"] = round(time.monotonic() - started, 2)
    return outcome


def work(rows: Sequence[Row], role: Role, peer: Peer, plane: str = "tun") -> Iterator[Outcome]:
    """All rows, grouped by ground so that daemons are started seldom."""
    lanes = Lanes(role, peer, plane)
    grounds = list(dict.fromkeys(row.ground for row in rows))
    try:
        for ground in grounds:
            for row in rows:
                if row.ground == ground:
                    yield attempt(lanes, row)
    finally:
        lanes.close()


def ended(*_: object) -> None:
    """Daemons and namespaces are put away on the way out."""
    raise SystemExit(1)


def main(arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, ended)
    out, role, peer, *rest = arguments
    only = [word[5:] for word in rest if word.startswith("only=")]
    plane = next((word[6:] for word in rest if word.startswith("plane=")), "tun")
    with open(out, "a", buffering=1) as lines:
        for outcome in work(chosen(only), role, peer, plane):  # type: ignore[arg-type]
            lines.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
