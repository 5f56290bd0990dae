"""Ten thousand IKE_SA_INIT requests from everywhere: memory is bounded, peers and newcomers are served (§2.6)."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from exchange.ike_network import SECRET, End, Pair, connection, fqdn, host, mirrored

from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import SharedSecret
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import ExchangeType, Nonce, Notify, NotifyType, build_message, parse_message

REQUESTS = 10_000


def flooded(**options: object) -> tuple[Pair, End]:
    """a and b with an IKE SA up, and a newcomer c (10.0.0.3) that b knows."""
    a, b = mirrored(dpd_delay=5)
    pair = Pair(a=a, b=replace(b, remote_addrs=("%any",)))
    pair.b.options = replace(Options(retransmit_jitter=0.0), **options)  # type: ignore[arg-type]
    pair.b.restart()
    pair.up()
    c = pair.add("c", "10.0.0.3")
    for end in (c, pair.b):
        end.credentials.load_shared(SharedSecret("c", SECRET, (fqdn("c.lab"), fqdn("b.lab"))))
    c.load(connection(local="10.0.0.3", local_id="c.lab", local_ts=("10.3.0.0/24",)))
    pair.b.load(
        connection(
            "c",
            local="10.0.0.2",
            remote="%any",
            local_id="b.lab",
            remote_id="c.lab",
            local_ts=("10.2.0.0/24",),
            remote_ts=("10.3.0.0/24",),
        )
    )
    return pair, c


class Flood:
    """Requests of strangers, each from an address and with an SPI and nonce of its own."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        other = Pair()
        other.a.do(other.a.endpoint.initiate, ike=None, child="net")
        self._request = parse_message(other.a.sent[0].data)
        self._here = host("10.0.0.2")

    def source(self, number: int) -> Address:
        return Address(IPv4Address(0xC6120000 + number), 500)  # 198.18.0.0/15

    def request(self, number: int, cookie: bytes | None = None) -> bytes:
        header = replace(self._request.header, initiator_spi=(number + 1).to_bytes(8, "big"))
        payloads = [
            Nonce(number.to_bytes(32, "big")) if isinstance(p, Nonce) else p for p in self._request.payloads
        ]
        if cookie is not None:
            payloads.insert(0, Notify(NotifyType.COOKIE, cookie))
        return build_message(header, payloads)

    def send(self, number: int, cookie: bytes | None = None) -> base.SendDatagram | None:
        b = self.pair.b
        b.endpoint.receive_datagram(
            self.request(number, cookie), self._here, self.source(number), self.pair.now
        )
        answer: base.SendDatagram | None = None
        for output in b.endpoint.outputs():  # not kept, nor sent on: nobody is there
            b.plane.apply(output)
            if isinstance(output, base.SendDatagram):
                answer = output
        return answer

    def send_with_cookie(self, number: int) -> None:
        answer = self.send(number)
        assert answer is not None
        cookie = parse_message(answer.data).notify(NotifyType.COOKIE)
        if cookie is not None:
            self.send(number, cookie.data)


def check_served(pair: Pair, c: End) -> None:
    """The established peer rekeys, its liveness is answered, and a newcomer gets in."""
    old = {child.spi_in for child in pair.a.children()}
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    ticket = c.do(c.endpoint.initiate, ike=None, child="net")
    pair.run(3)
    outcome = c.outcome(ticket)
    assert outcome is not None
    assert outcome.success, outcome.message
    assert {child.spi_in for child in pair.a.children("INSTALLED")}.isdisjoint(old)
    assert len(pair.a.ike()) == 1
    pair.run(20)
    assert len(pair.a.ike()) == len(c.ike()) == 1


def test_ten_thousand_requests_without_a_cookie() -> None:
    """From the thirtieth on each gets a cookie and leaves nothing behind."""
    pair, c = flooded()
    flood = Flood(pair)
    traced = REQUESTS - 1_000
    for number in range(traced):
        flood.send(number)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        for number in range(traced, REQUESTS):
            answer = flood.send(number)
            assert answer is not None
            assert len(answer.data) < 100, "less than was asked: no amplification"
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000, f"{grown} octets for requests that are forgotten"
    statistics = pair.b.endpoint.statistics()
    assert statistics["cookies-sent"] == REQUESTS - 30
    assert len(pair.b.endpoint.registry) == 1 + 30
    requests = len(c.sent)
    check_served(pair, c)
    first = [o.data for o in c.sent[requests:] if o.data[18] == ExchangeType.IKE_SA_INIT]
    assert len(first) == 2, "the newcomer was asked for a cookie, and brought it"
    pair.run(40)
    assert len(pair.b.endpoint.registry) == 2, "half-open ones time out"


def test_thousands_that_bring_their_cookie() -> None:
    """Strangers with addresses of their own make half-open IKE SAs: so many, each so big, and no more."""
    limit, rounds, warm = 200, 600, 20
    pair, c = flooded(half_open_limit=limit)
    flood = Flood(pair)
    for number in range(warm):
        flood.send_with_cookie(number)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(warm, limit):
            flood.send_with_cookie(number)
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / (limit - warm)
        full = tracemalloc.get_traced_memory()[0]
        for number in range(limit, rounds):
            flood.send_with_cookie(number)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - full
    finally:
        tracemalloc.stop()
    assert each < 20_000, f"{each:.0f} octets for each half-open IKE SA"
    # Those from before the tracing began were replaced by traced ones, and ended IKE SAs leave a line in the log.
    assert grown < 3 * warm * each, f"{grown} octets more for {rounds - limit} that came too many"
    assert len(pair.b.endpoint.registry) == 1 + limit
    assert pair.b.endpoint.statistics()["half-open-drops"] == rounds - limit
    check_served(pair, c)
    pair.run(40)
    assert len(pair.b.endpoint.registry) == 2
    assert not pair.b.plane.reserved


def test_one_address_cannot_take_all() -> None:
    pair, c = flooded()
    flood = Flood(pair)
    flood.source = lambda number: host("198.18.0.1")  # type: ignore[method-assign]
    for number in range(100):
        answer = flood.send(number)
        cookie = parse_message(answer.data).notify(NotifyType.COOKIE) if answer is not None else None
        if cookie is not None:
            flood.send(number, cookie.data)
    assert len(pair.b.endpoint.registry) == 1 + 5
    check_served(pair, c)


@pytest.mark.parametrize("change", ["nonce", "address", "SPI", "octet", "old"])
def test_a_cookie_is_good_for_its_request_only(change: str) -> None:
    pair, _ = flooded(cookie_threshold=1)
    flood = Flood(pair)
    flood.send(0)
    answer = flood.send(1)
    assert answer is not None
    notify = parse_message(answer.data).notify(NotifyType.COOKIE)
    assert notify is not None
    cookie = notify.data
    source, data = flood.source(1), flood.request(1, cookie)
    message = parse_message(data)
    if change == "nonce":
        data = build_message(
            message.header, [Nonce(bytes(32)) if isinstance(p, Nonce) else p for p in message.payloads]
        )
    elif change == "address":
        source = flood.source(2)
    elif change == "SPI":
        data = build_message(replace(message.header, initiator_spi=bytes(7) + b"\x63"), message.payloads)
    elif change == "octet":
        data = flood.request(1, cookie[:-1] + bytes((cookie[-1] ^ 1,)))
    else:
        pair.now += 21.0
    before = pair.b.endpoint.statistics()["cookies-sent"]
    pair.b.endpoint.receive_datagram(data, host("10.0.0.2"), source, pair.now)
    assert pair.b.endpoint.statistics()["cookies-sent"] == before + 1
    assert len(pair.b.endpoint.registry) == 2
    pair.b.endpoint.receive_datagram(flood.request(3), host("10.0.0.2"), flood.source(3), pair.now)
    assert len(pair.b.endpoint.registry) == 2
