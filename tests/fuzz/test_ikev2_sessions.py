"""10,000 mutated datagrams into live IKE SAs: from outside nothing changes but counters, from inside nothing breaks."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

from ike_network import Pair, host, mirrored
from ikev2_mutate import mutate

from ipsecstack.crypto.errors import CryptoError
from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex import base
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.ikev2.protect import Protection
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Header, WireError, parse_chain, parse_message
from ipsecstack.wire.ikev2.numbers import HEADER_OCTETS

COUNT = 10_000


def snapshot(pair: Pair) -> object:
    """Everything of both ends' established SAs, but for counters and generations."""
    found = []
    for end in pair.ends:
        for sa in end.ike():
            if sa.established is not None:
                children = tuple(replace(c, generation=0) for c in sa.children)
                found.append(replace(sa, generation=0, counters=base.IkeCounters(), children=children))
        found.append((dict(end.plane.sas), list(end.plane.policies)))
    return found


def drops(pair: Pair) -> int:
    """What was counted as dropped or invalid, by the SAs and by the endpoints."""
    total = 0
    for end in pair.ends:
        counters = end.endpoint.counters()
        total += counters["invalid"] + counters["invalid-spi"]
    return total


def test_unauthenticated_datagrams_change_nothing() -> None:
    a, b = mirrored(rekey_time=0, child_options={"rekey_time": 0, "life_time": 0})
    options = Options(hint_interval=1e12, half_open_timeout=0.5)
    pair = Pair(a=a, b=replace(b, remote_addrs=("%any",)), options=options)
    pair.up()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    recorded = [data for data, _, _ in pair.transmitted]
    before = snapshot(pair)
    rng = random.Random(4303)
    counted = drops(pair)
    changed = 0
    for _ in range(COUNT):
        original = rng.choice(recorded)
        data = mutate(original, rng, others=recorded)
        if data in recorded:
            continue
        changed += 1
        end = rng.choice(pair.ends)
        peer = pair.b if end is pair.a else pair.a
        port = rng.choice((500, 4500))
        source = (
            Address(peer.address, port)
            if rng.random() < 0.7
            else host(f"10.7.0.{rng.randrange(1, 255)}", port)
        )
        end.endpoint.receive_datagram(data, Address(end.address, port), source, pair.now)
        end.said.clear()
        end.flush()
        pair.in_flight.clear()
        if rng.random() < 0.02:
            pair.run(0.3)
            pair.in_flight.clear()
        if rng.random() < 0.01:
            assert snapshot(pair) == before
    pair.run(5)
    assert snapshot(pair) == before
    assert changed > COUNT * 0.9
    assert drops(pair) - counted > changed * 0.5, "drops are counted"
    pair.tap = None
    for end in pair.ends:  # and all still works
        end.do(end.endpoint.rekey, child="net")
        pair.run(20)
    pair.check_agreement()


class Reprotect:
    """An attacker inside: opens a peer's message, changes what is inside, and seals it again."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.inner: list[bytes] = []

    def spoil(self, sender: Protection, receiver: Protection, data: bytes) -> bytes | None:
        header = Header.parse(data)
        try:
            first, chain = receiver.open(data, parse_chain(header.next_payload, data[HEADER_OCTETS:]))
        except (CryptoError, WireError):
            return None
        self.inner.append(chain)
        spoilt = mutate(chain, self.rng, others=self.inner[-50:])
        first = self.rng.randrange(33, 55) if self.rng.random() < 0.1 else first
        return _seal_raw(sender, header, first, spoilt)


def _seal_raw(protection: Protection, header: Header, first: int, chain: bytes) -> bytes:
    from ipsecstack.keyex.ikev2 import protect

    original = protect.chain_to_bytes
    protect.chain_to_bytes = lambda payloads: (first, chain)  # type: ignore[assignment]
    try:
        return protection.seal(header, [])
    finally:
        protect.chain_to_bytes = original


def test_authenticated_nonsense_never_escapes() -> None:
    """Mutations inside valid encryption, during all exchanges: no exception, no leak, and the ends can start afresh."""
    rng = random.Random(7296)
    reprotect = Reprotect(rng)
    spoilt_count = 0
    session = 0
    while spoilt_count < COUNT:
        session += 1
        options = Options(retransmit_timeout=0.1, retransmit_tries=1, retry_interval=1.0, rekeyed_timeout=5.0)
        pair = Pair(seed=session, options=options)
        rate = rng.choice((0.1, 0.5, 1.0))

        def tap(sender: object, output: base.SendDatagram, pair: Pair = pair, rate: float = rate) -> bool:
            nonlocal spoilt_count
            if rng.random() > rate:
                return True
            header = Header.parse(output.data)
            own = next(e for e in pair.ends if e is sender)
            peer = pair.b if own is pair.a else pair.a
            spi = (header.initiator_spi, header.responder_spi)
            pairs = [
                next((s for s in e.endpoint.registry.all() if (s.spi_i, s.spi_r) == spi), None)
                for e in (own, peer)
            ]
            if pairs[0] is None or pairs[1] is None or not pairs[0].protection or not pairs[1].protection:
                return True
            data = reprotect.spoil(pairs[0].protection, pairs[1].protection, output.data)
            if data is None:
                return True
            spoilt_count += 1
            pair.deliver(data, output.local, output.remote, pair.latency)
            return False

        if session % 2:
            pair.up()
            pair.tap = tap
        else:
            pair.tap = tap
            pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        for _ in range(12):
            end = rng.choice(pair.ends)
            try:
                command = rng.randrange(5)
                if command == 0:
                    end.do(end.endpoint.rekey, child="net")
                elif command == 1:
                    end.do(end.endpoint.rekey, ike="conn")
                elif command == 2:
                    end.do(end.endpoint.initiate, ike=None, child="net")
                elif command == 3:
                    end.do(end.endpoint.terminate, child="net")
                else:
                    end.do(end.endpoint.initiate, ike="conn", child=None)
            except CommandError:
                pass
            pair.run(rng.choice((0.005, 0.05, 2.0)))
        pair.tap = None
        for end in pair.ends:
            for name in {sa.name for sa in end.ike()}:
                end.do(end.endpoint.terminate, ike=name, force=True)
            for sa in list(end.endpoint.registry.all()):
                assert sa.state is not State.DEAD
        pair.run(60)
        for end in pair.ends:
            assert not end.plane.sas or end.ike()
            if not end.ike():
                assert not end.plane.policies
                assert not end.plane.reserved
        pair.up()
    assert session > 10


def test_responses_for_half_open_initiators() -> None:
    """Mutated IKE_SA_INIT responses: dropped or a clean failure, and the honest one is still taken when it comes."""
    rng = random.Random(34)
    outcomes = set()
    for seed in range(300):
        pair = Pair(seed=seed)
        ticket = pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
        held: list[base.SendDatagram] = []
        pair.tap = lambda sender, output, held=held: held.append(output)  # type: ignore[misc]
        pair.run(0.05)
        response = held[-1]
        for _ in range(10):
            data = mutate(response.data, rng)
            if data != response.data:
                pair.deliver(data, response.local, response.remote)
                pair.step()
        pair.tap = None
        pair.deliver(response.data, response.local, response.remote)
        pair.run(200)
        outcome = pair.a.outcome(ticket)
        assert outcome is not None
        outcomes.add(outcome.success)
        pair.check_no_leaks()
    assert True in outcomes


def test_noise_from_everywhere() -> None:
    rng = random.Random(1)
    pair = Pair()
    pair.up()
    before = snapshot(pair)
    for _ in range(COUNT):
        data = rng.randbytes(rng.choice((0, 1, 27, 28, 29, 60, 300)))
        if len(data) >= 28 and rng.random() < 0.8:
            header = bytearray(data)
            header[17] = rng.choice((0x20, 0x20, 0x10, 0x30, 0x21))
            header[24:28] = len(data).to_bytes(4, "big")
            data = bytes(header)
        source = Address(ip_address(rng.randbytes(4)), rng.randrange(1, 65536))
        pair.b.endpoint.receive_datagram(data, Address(pair.b.address, 500), source, pair.now)
    answers = [o for o in pair.b.endpoint.outputs() if isinstance(o, base.SendDatagram)]
    assert len(answers) <= pair.b.options.answer_rate
    assert all(len(parse_message(o.data).payloads) == 1 for o in answers)
    assert snapshot(pair) == before
