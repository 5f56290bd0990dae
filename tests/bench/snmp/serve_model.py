"""The agent's process with the real model and all of its tables, and no source but made-up listings.

    python -m bench.snmp.serve_model TUNNELS FOLDER

As serve.py; and for "refresh" on its standard input it begins to take one whole listing after another into the model,
in each of which every tunnel has changed, until "rest", when it says "refreshed N SECONDS".
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from bench.snmp.serve import CONFIG, obey
from bench.snmp.table import ENTRY

from agent.config import parse_config
from agent.daemon import bindings
from agent.engine.agent import SnmpAgent
from agent.engine.loop import ServingLoop
from agent.gateway.model import Gateway
from agent.gateway.records import ChildRecord, IkeRecord
from agent.gateway.selectors import Selector
from agent.gateway.steps import in_slices
from agent.smi import ber
from mibs.loader import load

OURS = IPv4Address("10.0.0.1")
NETWORK = Selector(ip_address("10.1.0.0"), ip_address("10.1.0.255"))


def tunnel(number: int) -> IkeRecord:
    """An IKE SA with one child, as a source would tell it at first."""
    far = ip_address((11 << 24) + number)
    child = ChildRecord(
        f"net{number}",
        number,
        "INSTALLED",
        "ESP",
        "TUNNEL",
        0xC0000000 + number,
        0xD0000000 + number,
        encr_alg="AES_GCM_16",
        encr_keysize=128,
        install_time=10,
        rekey_time=3300,
        life_time=3950,
        local_ts=(NETWORK,),
        remote_ts=(Selector(far, far),),
        counts=counts(0, number),
    )
    return IkeRecord(
        f"gw{number}",
        number,
        2,
        "ESTABLISHED",
        True,
        0xA000000000000000 + number,
        0xB000000000000000 + number,
        local_host=OURS,
        local_port=4500,
        local_id="moon.example",
        remote_host=IPv4Address((172 << 24) + number),
        remote_port=4500,
        remote_id=f"peer{number}.example",
        encr_alg="AES_GCM_16",
        encr_keysize=256,
        prf_alg="PRF_HMAC_SHA2_384",
        dh_group="ECP_384",
        local_auth="psk",
        remote_auth="psk",
        established=10,
        rekey_time=12990,
        children=(child,),
    )


def counts(generation: int, number: int) -> dict[str, int]:
    octets = generation * 1000 + number
    return {
        "octets_in": octets,
        "octets_out": octets,
        "packets_in": generation + number,
        "packets_out": generation + number,
    }


def changed(records: list[IkeRecord], generation: int) -> Iterator[IkeRecord]:
    """The same tunnels a while later."""
    for record in records:
        (child,) = record.children or ()
        yield replace(record, children=(replace(child, counts=counts(generation, child.uniqueid)),))


async def refresh(gateway: Gateway, records: list[IkeRecord], done: list[int]) -> None:
    """Listing after listing, a slice at a time, as a source takes them in."""
    feed = gateway.feeds["bench"]
    while True:
        token = feed.begin_listing()
        await in_slices(feed.applying(token, changed(records, done[0] + 1)))
        done[0] += 1
        await asyncio.sleep(0)


def columns_of(agent: SnmpAgent) -> str:
    """The columns of cipSecTunnelTable that these tunnels have, with their types, as load.c takes them."""
    entry = tuple(map(int, ENTRY.split(".")))
    store = agent.controller.context("")
    assert store is not None
    found = []
    for leaf, column in zip(agent.controller.leaves, store.stores, strict=True):
        if leaf.oid[: len(entry)] == entry:
            octets, count, _, _ = column.run(None, 1, 1 << 16)
            if count:
                value = octets.index(ber.oid_content(leaf.oid)) + octets[3]
                found.append(f"{leaf.oid[-1]}:{octets[value]:x}")
    return ",".join(found)


async def serve(tunnels: int, folder: Path) -> None:
    mibs = load()
    gateway = Gateway(time.monotonic, time.time)
    config = parse_config(CONFIG.format(folder=folder), folder / "bench.toml")
    agent = SnmpAgent(config, bindings(), gateway, mibs)
    feed = gateway.add_source("bench", "vici", "none")
    records = [tunnel(number) for number in range(1, tunnels + 1)]
    feed.apply_listing(feed.begin_listing(), records)
    feed.contact()
    await agent.start()
    done, begun = [0], 0.0
    task: asyncio.Task[None] | None = None

    def on_word(word: str) -> str | None:
        nonlocal task, begun
        if word == "refresh":
            done[0], begun = 0, time.perf_counter()
            task = asyncio.create_task(refresh(gateway, records, done))
            return None
        if word == "rest" and task is not None:
            task.cancel()
            return f"refreshed {done[0]} {time.perf_counter() - begun:.3f}"
        return None

    await obey(agent, columns_of(agent), on_word=on_word)
    await agent.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
