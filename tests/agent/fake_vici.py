"""A VICI daemon for tests: a small stack in memory, spoken to over a real unix socket.

It holds IKE SAs and children in the shape in which strongSwan lists them (and, with `epoch`, the bundled stack), and
misbehaves on demand: hang, cut a message short, send rubbish, restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Callable
from typing import Any

from vici.protocol import FiniteStream, Message, Packet

Section = dict[str, Any]


def ike_section(uniqueid: int, **changes: Any) -> Section:
    """An IKE SA as list-sas shows it."""
    section: Section = {
        "uniqueid": str(uniqueid),
        "version": "2",
        "state": "ESTABLISHED",
        "local-host": "192.0.2.1",
        "local-port": "4500",
        "local-id": "moon.example",
        "remote-host": "192.0.2.2",
        "remote-port": "4500",
        "remote-id": "sun.example",
        "initiator": "yes",
        "initiator-spi": f"{0xA000000000000000 + uniqueid:016x}",
        "responder-spi": f"{0xB000000000000000 + uniqueid:016x}",
        "encr-alg": "AES_GCM_16",
        "encr-keysize": "256",
        "prf-alg": "PRF_HMAC_SHA2_384",
        "dh-group": "ECP_384",
        "established": "10",
        "rekey-time": "12990",
    }
    section.update(changes)
    return section


def child_section(uniqueid: int, name: str = "net", octets: int = 0, **changes: Any) -> Section:
    """A Child SA as list-sas shows it; `octets` both ways, in packets of 100."""
    section: Section = {
        "name": name,
        "uniqueid": str(uniqueid),
        "reqid": "1",
        "state": "INSTALLED",
        "mode": "TUNNEL",
        "protocol": "ESP",
        "spi-in": f"{0xC0000000 + uniqueid:08x}",
        "spi-out": f"{0xD0000000 + uniqueid:08x}",
        "encr-alg": "AES_GCM_16",
        "encr-keysize": "128",
        "bytes-in": str(octets),
        "packets-in": str(octets // 100),
        "bytes-out": str(octets),
        "packets-out": str(octets // 100),
        "rekey-time": "3300",
        "life-time": "3950",
        "install-time": "10",
        "local-ts": ["10.1.0.0/24"],
        "remote-ts": ["10.2.0.0/24"],
    }
    section.update(changes)
    return section


def connection_section(**changes: Any) -> Section:
    section: Section = {
        "local_addrs": ["192.0.2.1"],
        "remote_addrs": ["192.0.2.2"],
        "version": "IKEv2",
        "reauth_time": "0",
        "rekey_time": "14400",
        "local-1": {"id": "moon.example", "class": "pre-shared key"},
        "remote-1": {"id": "sun.example", "class": "pre-shared key"},
        "children": {"net": {"mode": "TUNNEL", "local-ts": ["10.1.0.0/24"], "remote-ts": ["10.2.0.0/24"]}},
    }
    section.update(changes)
    return section


class FakeVici:
    """The daemon. `sas`: (connection, IKE section without children) by uniqueid; `children` by IKE uniqueid."""

    def __init__(self, path: str, epoch: str | None = None) -> None:
        self.path = path
        self.epoch = epoch
        self.since = "Nov 23 16:21:09 2026"
        self.ikes: dict[int, tuple[str, Section]] = {}
        self.children: dict[int, dict[int, Section]] = {}
        self.connections: dict[str, Section] = {}
        self.counters: Section = {"ike-init-out-req": "1", "info-in-req": "2", "invalid": "0"}
        self.stats: Section = {}
        self.commands: list[tuple[str, Section]] = []
        self.refuse: dict[str, str] = {}
        self.hang = False
        self.mangle: Callable[[bytes], bytes] | None = None
        self.listings = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.generation = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.StreamWriter, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._clients):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what it does -------------------------------------------------------------------------------------------------

    def event(self, name: str, message: Section) -> None:
        """Send an event to those who asked for it."""
        name_octets = name.encode()
        packet = struct.pack("!BB", Packet.EVENT, len(name_octets)) + name_octets + Message.serialize(message)
        for writer, events in self._clients.items():
            if name in events:
                self._send(writer, packet)

    def up(self, connection: str, ike: Section, *children: Section) -> None:
        number = int(ike["uniqueid"])
        self.ikes[number] = (connection, ike)
        self.children[number] = {}
        self.event("ike-updown", {"up": "yes", connection: ike})
        for child in children:
            self.children[number][int(child["uniqueid"])] = child
            self.event(
                "child-updown",
                {
                    "up": "yes",
                    connection: {**ike, "child-sas": {f"{child['name']}-{child['uniqueid']}": child}},
                },
            )

    def down(self, number: int) -> None:
        connection, ike = self.ikes.pop(number)
        for child in self.children.pop(number).values():
            self.event(
                "child-updown",
                {connection: {**ike, "child-sas": {f"{child['name']}-{child['uniqueid']}": child}}},
            )
        self.event("ike-updown", {connection: {**ike, "state": "DELETING"}})

    def child_down(self, ike_number: int, number: int) -> None:
        connection, ike = self.ikes[ike_number]
        child = {**self.children[ike_number].pop(number), "state": "DELETED"}
        self.event("child-updown", {connection: {**ike, "child-sas": {f"{child['name']}-{number}": child}}})

    def rekey_child(self, ike_number: int, old: int, new: Section) -> None:
        connection, ike = self.ikes[ike_number]
        before = {**self.children[ike_number][old], "state": "REKEYED"}
        self.children[ike_number][old] = {**before, "state": "DELETED"}
        self.children[ike_number][int(new["uniqueid"])] = new
        self.event(
            "child-rekey", {connection: {**ike, "child-sas": {new["name"]: {"old": before, "new": new}}}}
        )

    # --- the protocol -------------------------------------------------------------------------------------------------

    def _send(self, writer: asyncio.StreamWriter, packet: bytes) -> None:
        octets = struct.pack("!I", len(packet)) + packet
        if self.mangle is not None:
            octets = self.mangle(octets)
        with contextlib.suppress(ConnectionError):
            writer.write(octets)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients[writer] = set()
        try:
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                packet = await reader.readexactly(length)
                while self.hang:
                    await asyncio.sleep(0.02)
                await self._packet(writer, packet)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.pop(writer, None)
            self._tasks.discard(task)
            writer.close()

    async def _packet(self, writer: asyncio.StreamWriter, packet: bytes) -> None:
        kind, size = packet[0], packet[1]
        name, rest = packet[2 : 2 + size].decode(), packet[2 + size :]
        if kind in (Packet.EVENT_REGISTER, Packet.EVENT_UNREGISTER):
            if name in ("alert", "child-ended") and self.epoch is None:
                self._send(writer, bytes([Packet.EVENT_UNKNOWN]))
                return
            (self._clients[writer].add if kind == Packet.EVENT_REGISTER else self._clients[writer].discard)(
                name
            )
            self._send(writer, bytes([Packet.EVENT_CONFIRM]))
            return
        message = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in Message.deserialize(FiniteStream(rest)).items()
        }
        answer = await self._command(writer, name, message)
        if answer is None:
            self._send(writer, bytes([Packet.CMD_UNKNOWN]))
        else:
            self._send(writer, bytes([Packet.CMD_RESPONSE]) + Message.serialize(answer))

    async def _command(self, writer: asyncio.StreamWriter, name: str, message: Section) -> Section | None:
        if name in self.refuse:
            return {"success": "no", "errmsg": self.refuse[name]}
        if name == "version":
            return {"daemon": "fake", "version": "1.0"}
        if name == "stats":
            return {
                "uptime": {"running": "5 seconds", "since": self.since},
                "ikesas": {"half-open": "0"},
                **self.stats,
            }
        if name == "get-counters":
            return {"counters": {"": self.counters}, "success": "yes"}
        if name == "list-conns":
            for connection, section in self.connections.items():
                self._stream(writer, "list-conn", {connection: section})
            return {}
        if name == "list-sas":
            return await self._list_sas(writer, message)
        if name == "terminate":
            self.commands.append((name, message))
            return self._terminate(message)
        return None

    def _stream(self, writer: asyncio.StreamWriter, event: str, message: Section) -> None:
        if event in self._clients[writer]:
            octets = event.encode()
            self._send(
                writer, struct.pack("!BB", Packet.EVENT, len(octets)) + octets + Message.serialize(message)
            )

    async def _list_sas(self, writer: asyncio.StreamWriter, message: Section) -> Section:
        self.listings += 1
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        for number, (connection, ike) in list(self.ikes.items()):
            children = self.children[number]
            listed = {f"{child['name']}-{child['uniqueid']}": child for child in children.values()}
            self._stream(writer, "list-sa", {connection: {**ike, "child-sas": listed}})
            await asyncio.sleep(0)
        self.in_flight -= 1
        if self.epoch is None:
            return {}
        return {"epoch": self.epoch, "generation": str(next(self.generation)), "full": "yes"}

    def _terminate(self, message: Section) -> Section:
        if "ike-id" in message and int(message["ike-id"]) in self.ikes:
            self.down(int(message["ike-id"]))
            return {"success": "yes", "matches": "1", "terminated": "1"}
        for number, children in self.children.items():
            if "child-id" in message and int(message["child-id"]) in children:
                self.child_down(number, int(message["child-id"]))
                return {"success": "yes", "matches": "1", "terminated": "1"}
        return {
            "success": "no",
            "errmsg": "no matching SAs to terminate found",
            "matches": "0",
            "terminated": "0",
        }
