"""A gateway with very many tunnels that speaks VICI: for start-up and refreshes of the whole agent.

    python -m bench.snmp.fake_gateway TUNNELS SOCKET

Says "ready" once it listens; ends at the end of its standard input. Its listings are encoded ahead, so that it is not
the limit; in each one all counts have grown.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "agent"))

from fake_vici import FakeVici, Section, child_section, connection_section, ike_section
from vici.protocol import Message, Packet

COUNT = "@@@@@@@@@@@@"
"""Stands for a count of twelve digits in the listings encoded ahead."""
CHUNK = 1 << 18


def event(name: str, message: Section) -> bytes:
    packet = struct.pack("!BB", Packet.EVENT, len(name)) + name.encode() + Message.serialize(message)
    return struct.pack("!I", len(packet)) + packet


def sections(number: int) -> tuple[Section, Section]:
    """Connection and IKE SA, the latter with its child, of a tunnel."""
    high, middle, low = number >> 16, number >> 8 & 255, number & 255
    host, peer = f"172.{high}.{middle}.{low}", f"peer{number}.example"
    networks: dict[str, Any] = {"local-ts": ["10.0.0.0/24"], "remote-ts": [f"11.{high}.{middle}.{low}/32"]}
    connection = connection_section(
        remote_addrs=[host],
        children={"net": {"mode": "TUNNEL", **networks}},
        **{"remote-1": {"id": peer, "class": "public key"}},
    )
    child = child_section(number, **networks)
    child |= {f"{what}-{way}": COUNT for what in ("bytes", "packets") for way in ("in", "out")}
    ike = ike_section(
        number, **{"remote-host": host, "remote-id": peer, "child-sas": {f"net-{number}": child}}
    )
    return connection, ike


class BigGateway(FakeVici):
    """A FakeVici whose tunnels never come and go; `strongSwan`-like: each listing is whole."""

    def __init__(self, path: str, tunnels: int) -> None:
        super().__init__(path)
        sas, connections = [], []
        for number in range(1, tunnels + 1):
            connection, ike = sections(number)
            sas.append(event("list-sa", {f"gw{number}": ike}))
            connections.append(event("list-conn", {f"gw{number}": connection}))
        self.all_sas, self.all_connections = b"".join(sas), b"".join(connections)

    async def _command(self, writer: asyncio.StreamWriter, name: str, message: Section) -> Section | None:
        if name == "list-conns":
            await self._write(writer, self.all_connections)
            return {}
        return await super()._command(writer, name, message)

    async def _list_sas(self, writer: asyncio.StreamWriter, message: Section) -> Section:
        self.listings += 1
        grown = f"{self.listings * 1000:012d}"
        await self._write(writer, self.all_sas.replace(COUNT.encode(), grown.encode()))
        return {}

    @staticmethod
    async def _write(writer: asyncio.StreamWriter, octets: bytes) -> None:
        for start in range(0, len(octets), CHUNK):
            writer.write(octets[start : start + CHUNK])
            await writer.drain()


async def main() -> None:
    gateway = BigGateway(sys.argv[2], int(sys.argv[1]))
    await gateway.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await gateway.stop()


if __name__ == "__main__":
    asyncio.run(main())
