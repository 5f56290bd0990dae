"""A VICI connection for asyncio.

One request is open at a time; events may come in between. Whatever the peer sends, the outcome is a message, an
event or a ViciError: lengths are bounded, every wait has a limit, and a connection that broke the protocol is closed.
Large messages are decoded and taken in a slice at a time; what comes after them waits on the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Generator, Mapping
from typing import Any

from vici.protocol import Packet

from agent.gateway.steps import in_slices
from agent.sources import vici_message
from agent.sources.vici_message import MalformedMessage, Section

MAX_SEGMENT = 512 * 1024
MAX_STREAM = 200_000  # streamed messages of one command
YIELD_EVERY = 16  # packets handled at a stretch before others get their turn

Streamed = Callable[[bytes, int], Generator[None, None, None]]
"""What takes the messages of a streamed command: the octets, and where in them the message begins. In steps."""

log = logging.getLogger(__name__)


class ViciError(Exception):
    """The daemon refused, is away, is too slow, or sends what is no VICI. The text may be logged."""


class ViciRefused(ViciError):
    """The daemon answered the command with success = no, or does not know it."""


class ViciMalformed(ViciError):
    """What came is no VICI message; the connection cannot go on."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message's octets. Raises ViciError when a key or value does not fit."""
    try:
        return vici_message.encode(message)
    except ValueError as error:
        raise ViciError(f"message cannot be sent: {error}") from None


def decode(octets: bytes) -> Section:
    """A message from its octets. Raises ViciMalformed."""
    try:
        return vici_message.decode(octets)
    except MalformedMessage as error:
        raise ViciMalformed(f"malformed message: {error}") from None


def each_decoded(each: Callable[[Section], None]) -> Streamed:
    """Takes streamed messages as sections."""

    def take(octets: bytes, start: int) -> Generator[None, None, None]:
        each((yield from vici_message.decoding(octets, start)))

    return take


class ViciSession:
    """One connection. `on_event(name, message)` gets registered events while no streamed command wants them;
    `on_close(error)` is called once when the connection ends other than by `close`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout: float,
        on_event: Callable[[str, Section], None] | None = None,
        on_close: Callable[[ViciError], None] | None = None,
    ) -> None:
        self.timeout = timeout
        self.on_event = on_event
        self.on_close = on_close
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._stream: tuple[str, Streamed] | None = None
        self._streamed = 0
        self._last_word = 0.0
        self._closed: ViciError | None = None
        self._task = asyncio.create_task(self._read(), name="vici-session")

    @classmethod
    async def connect(
        cls,
        path: str,
        timeout: float,
        on_event: Callable[[str, Section], None] | None = None,
        on_close: Callable[[ViciError], None] | None = None,
    ) -> ViciSession:
        """Connect to a unix socket. Raises ViciError."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path)
        except TimeoutError:
            raise ViciError(f"{path}: no connection within {timeout:g} s") from None
        except OSError as error:
            raise ViciError(f"{path}: {error.strerror or error}") from None
        return cls(reader, writer, timeout, on_event, on_close)

    @property
    def peer_pid(self) -> int:
        """Process that listens on the socket (SO_PEERCRED); 0 when it cannot be seen from here."""
        connection = self._writer.get_extra_info("socket")
        if connection is None:
            return 0
        try:
            octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return 0
        return int(struct.unpack("iII", octets)[0])

    @property
    def closed(self) -> ViciError | None:
        """Why the connection ended, None while it lives."""
        return self._closed

    async def close(self) -> None:
        """End the connection; open requests fail."""
        if self._closed is None:
            self._closed = ViciError("closed")
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._end()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def register(self, event: str) -> bool:
        """Ask for an event; False when the daemon does not know it. Raises ViciError."""
        async with self._lock:
            kind, _ = await self._exchange(Packet.register_event(event))
        return bool(kind == Packet.EVENT_CONFIRM)

    async def request(self, command: str, message: Mapping[str, Any] | None = None) -> Section:
        """The answer to a command. Raises ViciRefused with the daemon's words, or ViciError."""
        async with self._lock:
            return await self._command(command, message)

    async def streamed(
        self,
        command: str,
        event: str,
        each: Streamed,
        message: Mapping[str, Any] | None = None,
    ) -> Section:
        """A command whose results come as events: `each` takes them, the final answer is returned.

        The time limit is for silence between two messages. Raises as `request`.
        """
        async with self._lock:
            kind, _ = await self._exchange(Packet.register_event(event))
            if kind != Packet.EVENT_CONFIRM:
                raise ViciRefused(f"the daemon has no event {event}")
            self._stream, self._streamed = (event, each), 0
            try:
                return await self._command(command, message)
            finally:
                self._stream = None
                if self._closed is None:
                    await self._exchange(Packet.unregister_event(event))

    async def _command(self, command: str, message: Mapping[str, Any] | None) -> Section:
        octets = encode(message) if message is not None else None
        kind, payload = await self._exchange(Packet.request(command, octets))
        if kind == Packet.CMD_UNKNOWN:
            raise ViciRefused(f"the daemon has no command {command}")
        if kind != Packet.CMD_RESPONSE:
            raise self._broken(ViciMalformed(f"packet of type {kind} instead of an answer to {command}"))
        try:
            answer = decode(payload)
        except ViciMalformed as error:
            raise self._broken(error) from None
        if answer.get("success", "yes") != "yes":
            raise ViciRefused(f"{command}: {answer.get('errmsg', 'refused')}")
        return answer

    async def _exchange(self, packet: bytes) -> tuple[int, bytes]:
        if self._closed is not None:
            raise self._closed
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._answer = answer
        self._last_word = loop.time()
        try:
            self._writer.write(struct.pack("!I", len(packet)) + packet)
            while True:
                left = self._last_word + self.timeout - loop.time()
                if left <= 0:
                    raise self._broken(ViciError(f"no answer within {self.timeout:g} s"))
                done, _ = await asyncio.wait((answer,), timeout=left)
                if done:
                    return answer.result()
        except asyncio.CancelledError:
            # The answer may still come; nothing else can be asked on this connection.
            self._broken(ViciError("a request was given up"))
            raise
        finally:
            self._answer = None
            if answer.done() and not answer.cancelled():
                answer.exception()  # taken note of

    # --- what arrives -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        handled = 0
        try:
            while True:
                (length,) = struct.unpack("!I", await self._reader.readexactly(4))
                if not 1 <= length <= MAX_SEGMENT:
                    raise ViciMalformed(f"packet of {length} octets announced")
                packet = await self._reader.readexactly(length)
                self._last_word = asyncio.get_running_loop().time()
                await self._packet(packet)
                self._last_word = asyncio.get_running_loop().time()
                handled += 1
                if handled % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError as error:
            cut = " in the middle of a message" if error.partial else ""
            self._broken(ViciError(f"connection closed by the daemon{cut}"))
        except ViciError as error:
            self._broken(error)
        except OSError as error:
            self._broken(ViciError(f"connection lost: {error.strerror or error}"))
        except Exception as error:
            log.exception("a VICI message could not be handled")
            self._broken(ViciError(f"a message could not be handled: {type(error).__name__}"))

    async def _packet(self, packet: bytes) -> None:
        kind = packet[0]
        if kind == Packet.EVENT:
            start = 2 + packet[1] if len(packet) > 1 else 0
            if not 2 < start <= len(packet):
                raise ViciMalformed("malformed event: no name")
            try:
                name = packet[2:start].decode("utf-8")
                await self._event(name, packet, start)
            except (UnicodeDecodeError, MalformedMessage) as error:
                raise ViciMalformed(f"malformed event: {error}") from None
            return
        if kind not in (Packet.CMD_RESPONSE, Packet.CMD_UNKNOWN, Packet.EVENT_CONFIRM, Packet.EVENT_UNKNOWN):
            raise ViciMalformed(f"packet of unknown type {kind}")
        if self._answer is None or self._answer.done():
            raise ViciMalformed(f"packet of type {kind} that nothing was asked for")
        self._answer.set_result((kind, packet[1:]))

    async def _event(self, name: str, packet: bytes, start: int) -> None:
        if self._stream is not None and self._stream[0] == name:
            self._streamed += 1
            if self._streamed > MAX_STREAM:
                raise ViciMalformed(f"more than {MAX_STREAM} messages streamed")
            await in_slices(self._stream[1](packet, start))
        elif self.on_event is not None:
            self.on_event(name, await in_slices(vici_message.decoding(packet, start)))

    def _broken(self, error: ViciError) -> ViciError:
        if self._closed is None:
            self._closed = error
            self._end()
            if self._task is not asyncio.current_task():
                self._task.cancel()
            if self.on_close is not None:
                self.on_close(error)
        return self._closed

    def _end(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._closed or ViciError("closed"))
        self._writer.close()
