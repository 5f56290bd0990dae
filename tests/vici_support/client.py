"""A VICI client without sockets: packets straight into a session of the server."""

from __future__ import annotations

from typing import Any

from vici.protocol import FiniteStream, Message, Packet

from vici_support.fake import Gateway


def frame(packet: bytes) -> bytes:
    return len(packet).to_bytes(4, "big") + packet


def text(value: Any) -> Any:
    """A received message with its octets as text."""
    if isinstance(value, dict):
        return {key: text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [text(item) for item in value]
    return value.decode("utf-8", "replace")


class Client:
    """One session; ``replies`` and ``events`` collect what came."""

    def __init__(self, gateway: Gateway) -> None:
        session = gateway.server.connect()
        assert session is not None
        self.gateway = gateway
        self.session = session
        self.replies: list[tuple[int, Any]] = []
        self.events: list[tuple[str, Any]] = []
        self.raw = b""

    def send(self, packet: bytes) -> None:
        self.session.receive(frame(packet), self.gateway.now)
        self.read()

    def read(self) -> None:
        """Take all there is, letting streams go on."""
        while True:
            data = self.session.take()
            self._parse(data)
            if self.session.wants_resume:
                self.session.resume(self.gateway.now)
            elif not data:
                return

    def _parse(self, data: bytes) -> None:
        self.raw += data
        while data:
            length = int.from_bytes(data[:4], "big")
            packet, data = data[4 : 4 + length], data[4 + length :]
            parsed = Packet.parse(packet)
            if parsed.response_type == Packet.EVENT:
                self.events.append((parsed.event_type.decode(), text(Message.deserialize(parsed.payload))))
            else:
                message = Message.deserialize(FiniteStream(packet[1:]))
                self.replies.append((parsed.response_type, text(message)))

    def register(self, *names: str) -> None:
        for name in names:
            self.send(Packet.register_event(name))
            assert self.replies.pop()[0] == Packet.EVENT_CONFIRM

    def request(self, command: str, message: dict[str, Any] | None = None) -> Any:
        """Send and return the reply; events are in ``events``."""
        self.send(Packet.request(command, Message.serialize(message or {})))
        kind, reply = self.replies.pop()
        assert kind == Packet.CMD_RESPONSE, kind
        return reply

    def stream(
        self, command: str, event: str, message: dict[str, Any] | None = None
    ) -> tuple[list[Any], Any]:
        """(streamed messages, reply)."""
        self.register(event)
        self.events.clear()
        reply = self.request(command, message)
        return [m for name, m in self.events if name == event], reply
