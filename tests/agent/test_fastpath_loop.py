"""The receive loop: which address answers, who waits for whom, and what a flood delays."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from smi_support import TestModel, all_mibs, binding, config, request, rows, unwrap, v2c
from test_smi_controller import column, scalar

from agent.engine.agent import SnmpAgent
from agent.engine.loop import ServingLoop
from agent.engine.pdu import GET, GETBULK, SET
from agent.engine.transport import DRAIN

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "serving": ServingLoop,
    "asyncio": asyncio.new_event_loop,
}
ASK = v2c(request(GET, [scalar("sReadOnly")]))


class Served:
    """An agent in a loop of its own, in a thread."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, listen: str, model: TestModel) -> None:
        text = config_text(listen)
        self.loop = loop
        self.agent = SnmpAgent(config(folder, text), [binding(model)], model, all_mibs())
        self.thread = threading.Thread(target=loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self.agent.start())

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        self.call(self.agent.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


def config_text(listen: str) -> str:
    from smi_support import CONFIG

    return CONFIG.replace('listen = ["127.0.0.1:0", "[::1]:0"]', f"listen = {listen}")


@contextlib.contextmanager
def served(
    folder: Path, kind: str, listen: str = '["127.0.0.1:0"]', model: TestModel | None = None
) -> Iterator[Served]:
    agent = Served(folder, LOOPS[kind](), listen, model or TestModel(rows=rows(200)))
    try:
        yield agent
    finally:
        agent.stop()


def ask(
    port: int, data: bytes = ASK, host: str = "127.0.0.1", source: str = "", patience: float = 3
) -> tuple[bytes, Any]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience)
        if source:
            sock.bind((source, 0))
        sock.sendto(data, (host, port))
        return sock.recvfrom(65535)


@pytest.mark.parametrize("kind", LOOPS)
def test_requests_of_either_path_and_what_the_loop_itself_does(tmp_path: Path, kind: str) -> None:
    """SETs (tasks), timers and calls from other threads go on while the sockets are served."""
    with served(tmp_path, kind) as agent:
        port = agent.agent.addresses[0][1]
        ticks = []

        async def tick() -> None:
            for _ in range(20):
                await asyncio.sleep(0.01)
                ticks.append(time.monotonic())

        running = asyncio.run_coroutine_threadsafe(tick(), agent.loop)
        number = 0
        while not running.done():
            number += 1
            assert unwrap(ask(port)[0]).varbinds[0][2] == b"\x05"
            written = request(SET, [scalar("sLimited")], values=[b"\x02\x01\x07"], request_id=number)
            assert unwrap(ask(port, v2c(written, b"writer"))[0]).status == 0
        assert number > 5
        assert max(b - a for a, b in pairwise(ticks)) < 0.2
        assert agent.agent.model.scalars["sLimited"] == 7


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(
    ("listen", "host"),
    [('["0.0.0.0:0"]', "127.0.0.7"), ('["[::]:0"]', "::1"), ('["127.0.0.3:0"]', "127.0.0.3")],
)
def test_the_address_that_was_asked_answers(tmp_path: Path, kind: str, listen: str, host: str) -> None:
    with served(tmp_path, kind, listen) as agent:
        port = agent.agent.addresses[0][1]
        for data in (
            ASK,
            v2c(request(GET, [column("tInteger", 3), (1, 3, 9)])),
            v2c(request(GETBULK, [(1, 3)], second=5)),
        ):
            answer, source = ask(port, data, host)
            assert source[:2] == (host, port)
            assert unwrap(answer).status == 0


@pytest.mark.parametrize("kind", LOOPS)
def test_listen_addresses_change_while_requests_come(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind) as agent:
        first = agent.agent.addresses[0][1]
        assert ask(first)
        for listen in ('["127.0.0.1:0", "127.0.0.2:0"]', '["127.0.0.2:0"]'):
            agent.call(agent.agent.reload(config(tmp_path, config_text(listen))))
            for host, port in agent.agent.addresses:
                assert ask(port, host=host)[1][0] == host
        assert [host for host, _ in agent.agent.addresses] == ["127.0.0.2"]
        with pytest.raises(TimeoutError):
            ask(first, patience=0.2)


def test_one_datagram_at_a_time_or_many(tmp_path: Path) -> None:
    """All of a burst are answered, each once, whether it is smaller or larger than what one round takes."""
    with served(tmp_path, "serving") as agent, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect(("127.0.0.1", agent.agent.addresses[0][1]))
        for burst in (1, 2, 3, DRAIN, 5, 2 * DRAIN, 4 * DRAIN, 1, 200):
            for number in range(burst):
                sock.send(v2c(request(GET, [scalar("sReadOnly")], request_id=number)))
            answered = [unwrap(sock.recv(65535)).request_id for _ in range(burst)]
            assert sorted(answered) == list(range(burst))


FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[2], 0))
sock.connect(("127.0.0.1", int(sys.argv[1])))
data = bytes.fromhex(sys.argv[3])
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    for _ in range(100):
        try:
            sock.send(data)
        except OSError:
            pass
    time.sleep(0.001)
"""


@pytest.mark.parametrize(
    "flood",
    [
        ASK,
        v2c(request(GET, [scalar("sReadOnly")]), b"wrong"),
        v2c(request(GETBULK, [column("tInteger")], second=100)),
    ],
    ids=["good requests", "unknown community", "large answers"],
)
def test_a_flood_delays_timers_by_milliseconds_and_another_manager_hardly(
    tmp_path: Path, flood: bytes
) -> None:
    with served(tmp_path, "serving") as agent:
        port = agent.agent.addresses[0][1]
        ask(port, source="127.0.0.9")
        command = [sys.executable, "-c", FLOOD, str(port), "127.0.0.66", flood.hex(), "3"]
        late: list[float] = []

        async def watch() -> None:
            loop = asyncio.get_running_loop()
            while True:
                due = loop.time() + 0.01
                await asyncio.sleep(0.01)
                late.append(loop.time() - due)

        flooder = subprocess.Popen(command)
        task = asyncio.run_coroutine_threadsafe(watch(), agent.loop)
        try:
            time.sleep(0.5)
            late.clear()
            waits = []
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                start = time.monotonic()
                # what the kernel drops is asked again, as every manager does
                with contextlib.suppress(TimeoutError):
                    ask(port, source="127.0.0.9", patience=0.3)
                waits.append(time.monotonic() - start)
        finally:
            task.cancel()
            flooder.kill()
            flooder.wait()
        # other processes of this machine take their turns, too: the medians are the loop's own doing
        assert len(late) > 20
        assert statistics.median(late) < 0.02
        assert statistics.median(waits) < 0.05
        assert len(waits) > 10
