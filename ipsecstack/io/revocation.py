"""Fetches revocation lists and OCSP responses by HTTP (RFC 5280 section 4.2.1.13, RFC 6960 appendix A).

One request for each connection, HTTP/1.0 so that the answer ends with it, no redirections, bounds on time and size.
What comes back is checked by whoever asked: it is signed, the transport need not be trusted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from ipsecstack.crypto.revocation import is_http
from ipsecstack.keyex.base import FetchRevocation

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for the whole exchange: an IKE_AUTH message waits for it
MAX_OCSP_OCTETS = 64 * 1024
MAX_LIST_OCTETS = 8 * 1024 * 1024
MAX_AT_ONCE = 16
_MAX_HEADER = 16 * 1024


class FetchError(Exception):
    """Nothing usable came back; the message says why."""


async def fetch(uri: str, body: bytes | None, timeout: float = TIMEOUT) -> bytes:
    """The content behind a plain HTTP address: POST of an OCSP request, or GET without a body."""
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(uri, body)
    except TimeoutError:
        raise FetchError(f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise FetchError(error.strerror or str(error)) from None
    except ValueError as error:  # a host name that is none, as the resolver says it
        raise FetchError(f"cannot be asked: {error}") from None


async def _exchange(uri: str, body: bytes | None) -> bytes:
    host, port, request = _request(uri, body)
    limit = MAX_LIST_OCTETS if body is None else MAX_OCSP_OCTETS
    reader, writer = await asyncio.open_connection(host, port, limit=_MAX_HEADER)
    try:
        writer.write(request)
        await writer.drain()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise FetchError("the answer is no HTTP response") from None
        length = _length(head, limit)
        content = bytearray()
        while len(content) <= limit and (length is None or len(content) < length):
            block = await reader.read(_MAX_HEADER)
            if not block:
                break
            content += block
    finally:
        writer.close()
    if len(content) > limit:
        raise FetchError(f"the answer has more than {limit} octets")
    if length is not None and len(content) != length:
        raise FetchError("the answer is cut short, or longer than it says")
    return bytes(content)


def _request(uri: str, body: bytes | None) -> tuple[str, int, bytes]:
    """Host, port and the octets to send."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if host is None or not is_http(uri) or parts.username is not None:
        raise FetchError("no plain HTTP address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.0",
        f"Host: {parts.netloc}",
        "User-Agent: ipsecstack",
        "Connection: close",
    ]
    if body is not None:
        lines += [
            "Content-Type: application/ocsp-request",
            "Accept: application/ocsp-response",
            f"Content-Length: {len(body)}",
        ]
    return host, port, "\r\n".join((*lines, "", "")).encode("ascii") + (body or b"")


def _length(head: bytes, limit: int) -> int | None:
    """Content-Length of a response that is one and says 200; FetchError else."""
    status, *fields = head.decode("latin-1").split("\r\n")
    version, _, rest = status.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise FetchError("the answer is no HTTP response")
    if rest[:3] != "200":
        raise FetchError(f"the server says {rest[:3]}")
    length = None
    for field in fields:
        name, _, value = field.partition(":")
        if name.strip().lower() == "transfer-encoding" and value.strip().lower() != "identity":
            raise FetchError("the answer comes in chunks, which HTTP/1.0 does not have")
        if name.strip().lower() == "content-length":
            value = value.strip()
            if not (value.isascii() and value.isdigit() and len(value) < 20):
                raise FetchError("the answer's length is no number")
            length = int(value)
            if length > limit:
                raise FetchError(f"the answer has more than {limit} octets")
    return length


class RevocationFetcher:
    """Carries out ``FetchRevocation`` outputs, each in a task of its own; ``deliver`` gets what came back."""

    def __init__(
        self, deliver: Callable[[FetchRevocation, bytes | None], None], timeout: float = TIMEOUT
    ) -> None:
        self._deliver = deliver
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def start(self, wanted: FetchRevocation) -> None:
        """Fetch this, and deliver it or None."""
        task = asyncio.get_running_loop().create_task(self._run(wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Give up what is under way; nothing more is delivered."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, wanted: FetchRevocation) -> None:
        data: bytes | None = None
        async with self._slots:
            try:
                data = await fetch(wanted.uri, wanted.body, self._timeout)
            except FetchError as error:
                log.warning("revocation status from %s: %s", wanted.uri, error)
            except Exception:  # whoever asked waits for an answer, and would for ever
                log.exception("revocation status from %s", wanted.uri)
        self._deliver(wanted, data)
