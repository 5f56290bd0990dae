"""ipsec-snmpd as a process that is killed in the middle of SETs: what was answered is there afterwards."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_lab import Program
from smi_support import request, unwrap, v2c

from agent.engine.pdu import SET
from agent.smi import ber

TEXT = """
[agent]
state_dir = "state"
listen = ["127.0.0.1:PORT"]
[[community]]
name = "writer"
role = "admin"
insecure_write = true
networks = ["127.0.0.0/8"]
"""
STATUS = (1, 3, 6, 1, 6, 3, 16, 1, 5, 2, 1, 6)
"""vacmViewTreeFamilyStatus; rows are (1, 118) for the view "v", then (3, 1, 3, n) for the subtree 1.3.n."""


@pytest.fixture
def program(tmp_path: Path, repository: Path) -> Iterator[Program]:
    made = Program(tmp_path, repository, TEXT, "writer")
    yield made
    made.end()


def instance(number: int) -> tuple[int, ...]:
    return (*STATUS, 1, 118, 3, 1, 3, number)


def make_rows(port: int, first: int, answered: list[int], stop: threading.Event) -> None:
    """SETs of two rows each, one after the other, until nobody answers any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as manager:
        manager.settimeout(0.5)
        manager.connect(("127.0.0.1", port))
        for number in range(first, first + 10_000, 2):
            rows = [instance(number), instance(number + 1)]
            create = [ber.integer(4)] * 2
            manager.send(v2c(request(SET, rows, values=create, request_id=number + 1), b"writer"))
            try:
                said = unwrap(manager.recv(65535))
            except OSError:
                return
            assert said.status == 0
            answered += [number, number + 1]
            if stop.is_set():
                return


def test_what_was_answered_outlives_a_kill(program: Program) -> None:
    answered: list[int] = []
    for attempt in range(4):
        program.start()
        stop = threading.Event()
        arguments = (program.port, 10_000 * (attempt + 1), answered, stop)
        maker = threading.Thread(target=make_rows, args=arguments)
        before = len(answered)
        maker.start()
        deadline = time.monotonic() + 10
        while len(answered) < before + 6 + 4 * attempt and time.monotonic() < deadline:
            time.sleep(0.002)
        program.kill()
        maker.join()
        assert len(answered) > before
    program.start()
    for number in answered:
        assert program.ask(instance(number)) == b"\x01", number
    # of a SET that was not answered there are both rows or none
    kept = (program.folder / "state" / "lcd.json").read_text()
    numbers = {n for n in range(10_000, 50_000) if f'"1.3.{n}"' in kept}
    assert set(answered) <= numbers
    assert all((n ^ 1) in numbers for n in numbers)
    assert [path.name for path in (program.folder / "state").glob(".*")] == []
