"""Fragments that nobody vouches for, and fragments that make no sense from a peer with keys (RFC 7383)."""

from __future__ import annotations

import random
from typing import Any

from ike_network import Pair, mirrored
from ikev2_mutate import mutate

from ipsecstack.keyex.base import SendDatagram
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Header
from ipsecstack.wire.ikev2.numbers import ExchangeType, PayloadType

COUNT = 4000
MANY = [tuple(f"fd0{end}:{i:x}::/64" for i in range(50)) for end in (1, 2)]


def halfway() -> tuple[Pair, list[SendDatagram], IkeSa]:
    """b has all fragments of IKE_AUTH but the second one."""
    one, other = mirrored(local_ts=MANY[0], remote_ts=MANY[1])
    options = Options(half_open_timeout=1e6, retransmit_timeout=1e6, retransmit_jitter=0.0)
    made = Pair(a=one, b=other, options=options)
    held: list[SendDatagram] = []

    def tap(sender: object, output: SendDatagram) -> bool:
        if Header.parse(output.data).exchange == ExchangeType.IKE_AUTH and sender is made.a:
            held.append(output)
            return False
        return True

    made.tap = tap
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(0.1)
    made.tap = None
    for output in (held[0], *held[2:]):
        made.deliver(output.data, output.local, output.remote)
    made.run(0.1)
    return made, held, next(iter(made.b.endpoint.ike_sas_of()))


def state(sa: IkeSa) -> Any:
    assert sa.reassembly is not None
    return {
        key: (pieces.total, dict(pieces.found), pieces.first_payload)
        for key, pieces in sa.reassembly._incoming.items()
    }


def test_mutated_fragments_change_nothing() -> None:
    made, held, sa = halfway()
    rng = random.Random(7383)
    originals = [output.data for output in held]
    before = state(sa)
    dropped = sa.counters.drops_in
    assert len(before) == 1
    for _ in range(COUNT):
        data = mutate(rng.choice(originals), rng, others=originals)
        if data in originals:
            continue
        made.b.endpoint.receive_datagram(data, held[0].remote, held[0].local, made.now)
        made.b.said.clear()
        made.b.flush()
        made.in_flight.clear()
    assert state(sa) == before
    assert sa.counters.drops_in - dropped > COUNT // 4
    made.deliver(held[1].data, held[1].local, held[1].remote)
    made.run(1)
    assert made.a.children("INSTALLED")
    made.check_agreement()


def test_a_peer_with_keys_that_sends_nonsense() -> None:
    """Fragments that verify, with any numbers, first payloads and pieces: bounded, and nothing escapes."""
    rng = random.Random(9242)
    most = 0
    for seed in range(20):
        one, other = mirrored()
        made = Pair(a=one, b=other, seed=seed, options=Options(retransmit_jitter=0.0))
        made.up()
        a = next(iter(made.a.endpoint.ike_sas_of()))
        b = next(iter(made.b.endpoint.ike_sas_of()))
        for _ in range(150):
            if a.protection is None or b.protection is None:
                break
            total = rng.choice((1, 2, 3, rng.randrange(1, 12), 0xFFFF))
            number = rng.randrange(1, min(total, 12) + 1)
            exchange = rng.choice((34, 35, 36, 37, 43, 44, rng.randrange(256)))
            message_id = b.responses.expected + rng.choice((0, 0, 0, 0, 1, -1))
            flags = rng.choice((0x08, 0x08, 0x08, 0x28))
            header = Header(a.spi_i, a.spi_r, 0, 2, 0, exchange, flags, max(message_id, 0))
            first = rng.choice((0, 33, 40, 41, 42, 46, 53, rng.randrange(256))) if number == 1 else 0
            numbers = number.to_bytes(2, "big") + total.to_bytes(2, "big")
            piece = rng.randbytes(rng.choice((0, 4, 40, 1000)))
            data = a.protection._seal(header, PayloadType.SKF, first, numbers, piece)
            made.b.endpoint.receive_datagram(data, b.local, b.remote, made.now)
            made.b.flush()
            made.in_flight.clear()
            most = max(most, sum(p.octets for p in b.reassembly._incoming.values()) if b.reassembly else 0)
            assert b.reassembly is None or len(b.reassembly) <= 4
        made.run(400)
    assert 1000 < most <= 10_000
