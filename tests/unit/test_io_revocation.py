"""The HTTP of revocation: what is fetched, and what is not taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from lab.revocation import Responder

from ipsecstack.io import revocation
from ipsecstack.io.revocation import FetchError, RevocationFetcher, fetch
from ipsecstack.keyex.revocation import FetchRevocation

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_get_and_post() -> None:
    with Responder(lambda path, body: (body or b"") + path.encode()) as responder:
        got = asyncio.run(fetch(f"{responder.uri}/list.crl?x=1", None))
        posted = asyncio.run(fetch(f"{responder.uri}", b"request"))
    assert (got, posted) == (b"/list.crl?x=1", b"request/")
    assert responder.asked == [("/list.crl?x=1", None), ("/", b"request")]


@pytest.mark.parametrize(
    "reply,why",
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "says 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "says 302"),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP response"),
        (b"HTTP/1.1 200 OK\r\n", "no HTTP response"),
        (b"", "no HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40000, "no HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "cut short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "more than"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70000, "more than"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunks"),
    ],
)
def test_answers_that_are_not_taken(reply: bytes, why: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    with pytest.raises(FetchError, match=why):
        asyncio.run(_with_server(serve, lambda uri: fetch(uri, b"body")))


async def _with_server(serve: Serve, work: Callable[[str], Awaitable[bytes]]) -> bytes:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        return await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()


def test_a_server_that_says_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises(FetchError, match=r"no answer within 0\.05 s"):
        asyncio.run(_with_server(serve, lambda uri: fetch(uri, None, 0.05)))


def test_nobody_listens() -> None:
    with pytest.raises(FetchError, match=r"refused|Connect call failed"):
        asyncio.run(fetch("http://127.0.0.1:9/", None))


@pytest.mark.parametrize(
    "uri", ["https://127.0.0.1/", "http:///x", "http://a:b@127.0.0.1/", "http://127.0.0.1:x/", "http://[::1"]
)
def test_addresses_that_are_not_fetched(uri: str) -> None:
    with pytest.raises(FetchError, match="no plain HTTP"):
        asyncio.run(fetch(uri, None))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".lab", "a\x7f"])
def test_names_that_are_no_hosts(host: str) -> None:
    """The resolver refuses some of them with other errors than those of the network."""
    delivered: list[bytes | None] = []

    async def run() -> None:
        fetcher = RevocationFetcher(lambda wanted, data: delivered.append(data), 2)
        fetcher.start(FetchRevocation(f"http://{host}/"))
        async with asyncio.timeout(5):
            while not delivered:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert delivered == [None]


def test_the_fetcher_always_delivers() -> None:
    """What comes and what fails, each to whoever asked; after stop nothing more."""
    delivered: list[tuple[FetchRevocation, bytes | None]] = []

    async def run() -> None:
        with Responder(lambda path, body: b"content" if path == "/good" else None) as responder:
            fetcher = RevocationFetcher(lambda wanted, data: delivered.append((wanted, data)), 2)
            good, bad = (
                FetchRevocation(f"{responder.uri}/good"),
                FetchRevocation(f"{responder.uri}/bad", b"x"),
            )
            fetcher.start(good)
            fetcher.start(bad)
            while len(delivered) < 2:
                await asyncio.sleep(0.01)
            assert dict(delivered) == {good: b"content", bad: None}
            fetcher.start(good)
            fetcher.stop()
            await asyncio.sleep(0.05)
            assert len(delivered) == 2

    asyncio.run(run())
    assert revocation.TIMEOUT < 10, "an IKE_AUTH message waits for it"
