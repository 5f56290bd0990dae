"""One client of the VICI server, without I/O: octets in, octets out, one command at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from vici.protocol import Packet

from ipsecstack.config.tree import ConfigError
from ipsecstack.keyex.base import CommandError
from ipsecstack.vici import codec
from ipsecstack.vici.codec import MalformedMessage, Outgoing, PacketTooLarge
from ipsecstack.vici.registry import COMMANDS, EVENTS, Stream, Waiting, failure
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

log = logging.getLogger(__name__)

MAX_INPUT_OCTETS = 4 * codec.MAX_PACKET_OCTETS
"""What a client may send ahead while its command is busy."""
MAX_OUTPUT_OCTETS = 8 * 1024 * 1024
"""Unread events of a client that does not read; beyond that it is dropped."""
HIGH_WATER_OCTETS = 256 * 1024
"""A streamed listing pauses while this much is unread, so that its size does not matter."""


class Session:
    """A client. ``notify`` is called when there is something to send or ``closed`` has become true."""

    def __init__(self, server: ViciServer, number: int) -> None:
        self.number = number
        self.events: set[str] = set()
        self.waiting: Waiting | None = None
        self.closed = False
        self.notify: Callable[[], None] = lambda: None
        self._server = server
        self._input = bytearray()
        self._output: deque[bytes] = deque()
        self._queued = 0
        self._stream: Stream | None = None

    # --- octets ---

    def receive(self, data: bytes, now: float) -> None:
        """Octets from the client. Never raises; what cannot be understood is ignored or ends the session."""
        self._input += data
        if len(self._input) > MAX_INPUT_OCTETS:
            self.close("sent more than it waits for")
            return
        self._work(now)

    def take(self, limit: int = 1 << 20) -> bytes:
        """Octets for the client, at most about ``limit``; empty when there are none."""
        chunks, size = [], 0
        while self._output and size < limit:
            chunk = self._output.popleft()
            chunks.append(chunk)
            size += len(chunk)
        self._queued -= size
        return b"".join(chunks)

    @property
    def queued(self) -> int:
        """Octets that wait to be taken."""
        return self._queued

    @property
    def wants_resume(self) -> bool:
        """A listing has more to send, or a request waits: call ``resume`` once what is queued was taken."""
        return not self.closed and (
            self._stream is not None or (self.waiting is None and len(self._input) >= 4 and self._complete())
        )

    def _complete(self) -> bool:
        length = int.from_bytes(self._input[:4], "big")
        return length > codec.MAX_PACKET_OCTETS or len(self._input) >= 4 + length

    def close(self, reason: str) -> None:
        """End the session; the transport closes the connection."""
        if self.closed:
            return
        self.closed = True
        self._end_stream()
        self.waiting = None
        self.events.clear()
        self._input.clear()
        self._output.clear()
        self._queued = 0
        self._server.session_closed(self, reason)
        self.notify()

    # --- commands ---

    @property
    def busy(self) -> bool:
        return self._stream is not None or self.waiting is not None

    def _work(self, now: float) -> None:
        """Handle complete packets until a command keeps the session busy."""
        while not self.closed and not self.busy and len(self._input) >= 4 and self._complete():
            length = int.from_bytes(self._input[:4], "big")
            if length > codec.MAX_PACKET_OCTETS:
                self._server.counters.oversize += 1
                self.close(f"sent a packet of {length} octets")
                return
            packet = bytes(self._input[4 : 4 + length])
            del self._input[: 4 + length]
            try:
                kind, name, rest = codec.parse_packet(packet)
            except MalformedMessage as error:
                self._server.counters.malformed += 1
                log.debug("vici client %d: %s; ignored", self.number, error)
                continue
            if kind == Packet.CMD_REQUEST:
                self._request(name, rest, now)
            else:
                self._register(name, kind == Packet.EVENT_REGISTER)

    def _register(self, name: str, register: bool) -> None:
        known = name in EVENTS if register else name in self.events
        if known and register:
            self.events.add(name)
        elif known:
            self.events.discard(name)
        self.send(codec.event_confirm() if known else codec.event_unknown())

    def _request(self, name: str, data: bytes, now: float) -> None:
        handler = COMMANDS.get(name)
        if handler is None:
            self._server.counters.unknown_commands += 1
            self.send(codec.unknown_command())
            return
        try:
            result = handler(self._server, Request(name, codec.decode_message(data)), now)
        except MalformedMessage as error:
            self._server.counters.malformed += 1
            self.reply(failure(f"malformed message: {error}"))
        except (RequestError, CommandError, ConfigError, ValueError) as error:
            self.reply(failure(str(error) or type(error).__name__))
        except Exception as error:
            self._internal_error(name, error)
        else:
            if isinstance(result, Waiting):
                self.waiting = result
                self._server.on_timer_changed()
            elif isinstance(result, Generator):
                self._stream = result
                self.resume(now)
            else:
                self.reply(result)
        self._server.settle()

    def resume(self, now: float) -> None:
        """Send more of a listing while there is room, then go on with the next request."""
        while self._stream is not None and self._queued < HIGH_WATER_OCTETS and not self.closed:
            try:
                name, message = next(self._stream)
                if name in self.events:
                    self.send(codec.event(name, message))
            except StopIteration as end:
                self._stream = None
                self.reply(end.value)
            except (RequestError, CommandError, ConfigError, ValueError) as error:
                self._end_stream()
                self.reply(failure(str(error)))
            except Exception as error:
                self._end_stream()
                self._internal_error("stream", error)
        self._work(now)

    def finish(self, message: Outgoing) -> None:
        """The reply of a command that waited. The next request is left to ``resume``: we may be inside the stack."""
        self.waiting = None
        self.reply(message)

    def _internal_error(self, name: str, error: Exception) -> None:
        """A bug of ours: the client gets an answer, the log the place; neither gets the message's contents."""
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
        log.error("vici command %s failed: %s at %s", name, type(error).__name__, place)
        self._server.counters.internal_errors += 1
        self.reply(failure(f"internal error: {type(error).__name__}"))

    def _end_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    # --- sending ---

    def reply(self, message: Outgoing) -> None:
        try:
            self.send(codec.response(message))
        except PacketTooLarge as error:
            self.send(codec.response(failure(f"the reply is too large: {error}")))

    def send(self, packet: bytes) -> None:
        """Queue a framed packet; a client that does not read is dropped."""
        if self.closed:
            return
        self._output.append(packet)
        self._queued += len(packet)
        if self._queued > MAX_OUTPUT_OCTETS:
            self._server.counters.slow_clients += 1
            self.close("does not read its events")
            return
        self.notify()
