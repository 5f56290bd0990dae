"""The agent's process in the bench: serves the bench's table of so many rows.

    python -m bench.snmp.serve ROWS FOLDER

Says "ready PORT" once it listens, "memory KILOBYTES" for each line on its standard input, and ends at its end: what
peer.c does, too.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from bench.snmp.table import Rows, binding

from agent import memory
from agent.config import parse_config
from agent.engine.agent import SnmpAgent
from agent.engine.loop import ServingLoop
from mibs.loader import load

CONFIG = """
[agent]
state_dir = "{folder}"
listen = ["127.0.0.1:0"]
[[community]]
name = "bench"
group = "bench"
networks = ["127.0.0.0/8"]
[[user]]
name = "bench"
group = "bench"
auth = "SHA-256"
auth_password = "authpassword"
priv = "AES-128"
priv_password = "privpassword"
[[access]]
group = "bench"
model = "any"
level = "noAuthNoPriv"
read = "all"
[[view]]
name = "all"
include = ["1"]
"""


def resident_kilobytes() -> int:
    """VmRSS of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


async def obey(
    agent: SnmpAgent, *words: str, on_word: Callable[[str], str | None] = lambda word: None
) -> None:
    """Say that the agent is ready, then obey each line of standard input until it ends."""
    print("ready", agent.addresses[0][1], *words, flush=True)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    collector = memory.Policy()
    collector.start()
    second_hand = asyncio.create_task(tick(collector))
    while line := await lines.readline():
        word = line.decode().strip()
        answer = f"memory {resident_kilobytes()}" if word == "memory" else on_word(word)
        if answer is not None:
            print(answer, flush=True)
    second_hand.cancel()


async def tick(collector: memory.Policy) -> None:
    """What the daemon does once a second."""
    while True:
        await asyncio.sleep(1.0)
        collector.tick()


async def serve(rows: int, folder: Path) -> None:
    mibs = load()
    model = Rows(rows)
    config = parse_config(CONFIG.format(folder=folder), folder / "bench.toml")
    agent = SnmpAgent(config, [binding(mibs)], model, mibs)
    await agent.start()
    await obey(agent)
    await agent.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
