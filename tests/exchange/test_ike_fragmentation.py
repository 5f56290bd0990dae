"""IKE fragmentation (RFC 7383) between two ends on the virtual clock: lost, doubled, forged and re-cut fragments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ike_network import IKE_CBC, IKE_GCM, Pair, mirrored

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import EncryptedFragment, Header, parse_message
from ipsecstack.wire.ikev2.numbers import HEADER_OCTETS, ExchangeType

MANY = tuple(f"fd01:{i:x}::/64" for i in range(50))
"""Selectors that make IKE_AUTH some 4 kB long."""


def pair(a: str = "yes", b: str = "yes", *, options: Options | None = None, **more: Any) -> Pair:
    """Two ends whose IKE_AUTH does not fit into one packet."""
    one, other = mirrored(local_ts=MANY, remote_ts=tuple(f"fd02:{i:x}::/64" for i in range(50)), **more)
    return Pair(a=replace(one, fragmentation=a), b=replace(other, fragmentation=b), options=options)


def fragments(
    pair: Pair, exchange: int = ExchangeType.IKE_AUTH, *, response: bool
) -> list[EncryptedFragment]:
    found = []
    for data, _, _ in pair.transmitted:
        message = parse_message(data)
        if message.header.exchange == exchange and message.header.is_response is response:
            found += message.all(EncryptedFragment)
    return found


def live(pair: Pair, name: str = "b") -> IkeSa:
    end = pair.b if name == "b" else pair.a
    return next(iter(end.endpoint.ike_sas_of()))


@pytest.mark.parametrize("proposal", [IKE_GCM, IKE_CBC], ids=["aead", "cbc"])
def test_both_directions(proposal: Proposal) -> None:
    made = pair(proposals=(proposal,))
    made.up()
    made.check_no_leaks()
    for response in (False, True):
        seen = fragments(made, response=response)
        assert [f.number for f in seen] == list(range(1, len(seen) + 1))
        assert {f.total for f in seen} == {len(seen)}
        assert len(seen) > 2
        assert [bool(f.first_payload) for f in seen] == [True] + [False] * (len(seen) - 1)
    assert max(len(data) for data, _, _ in made.transmitted) <= 1280 - 28
    counters = made.a.ike()[0].counters
    assert counters.fragments_out == len(fragments(made, response=False))
    assert counters.fragments_in == len(fragments(made, response=True))
    assert live(made).reassembly is not None
    assert len(live(made).reassembly or ()) == 0


@pytest.mark.parametrize(
    "a, b, from_a, from_b",
    [
        ("yes", "accept", True, False),
        ("accept", "yes", False, True),
        ("force", "yes", True, True),
        ("no", "yes", False, False),
        ("yes", "no", False, False),
        ("accept", "accept", False, False),
    ],
)
def test_only_what_both_want(a: str, b: str, from_a: bool, from_b: bool) -> None:
    made = pair(a, b)
    made.up()
    assert bool(fragments(made, response=False)) is from_a
    assert bool(fragments(made, response=True)) is from_b


@pytest.mark.parametrize("seed", range(6))
def test_lost_doubled_and_overtaken(seed: int) -> None:
    made = pair(options=Options(retransmit_tries=12, retransmit_base=1.0, retransmit_jitter=0.0))
    made.loss, made.duplicate, made.reorder = 0.2, 0.3, 0.5
    made.rng.seed(seed)
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(60)
    made.loss = 0.0
    made.run(60)
    assert made.a.children("INSTALLED")
    made.check_agreement()
    made.check_no_leaks()


def test_a_repeated_request_gets_the_same_fragments_once() -> None:
    made = pair()
    made.up()
    requests = [
        (data, source, to)
        for data, source, to in made.transmitted
        if (h := Header.parse(data)).exchange == ExchangeType.IKE_AUTH and not h.is_response
    ]
    answers = [o.data for o in made.b.sent if Header.parse(o.data).exchange == ExchangeType.IKE_AUTH]
    said = len(made.b.sent)
    for data, source, to in requests[1:]:
        made.deliver(data, source, to)
    made.run(1)
    assert len(made.b.sent) == said, "only the first fragment asks for the response again (RFC 7383 §2.6.1)"
    made.deliver(*requests[0])
    made.run(1)
    assert [o.data for o in made.b.sent[said:]] == answers


def test_smaller_fragments_when_long_packets_are_lost() -> None:
    made = pair()

    def narrow(sender: object, output: base.SendDatagram) -> bool:
        return len(output.data) <= 576 - 28

    made.tap = narrow
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(120)
    assert made.a.children("INSTALLED")
    made.check_agreement()
    assert any("trying fragments of 576 bytes" in line for line in made.a.log())
    # What was found out holds for what follows.
    made.tap = None
    before = len(made.transmitted)
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(30)
    cut = [data for data, _, _ in made.transmitted[before:]]
    assert fragments(made, ExchangeType.CREATE_CHILD_SA, response=False)
    assert max(map(len, cut)) <= 576 - 28


def test_another_cut_after_the_answer_was_lost() -> None:
    """The request arrives, the answer does not: the request comes again in other fragments, and is answered."""
    made = pair()
    lost = {"on": True}
    made.tap = lambda sender, output: sender is made.a or not lost["on"] or len(output.data) <= 576 - 28
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(20)
    assert made.b.children("INSTALLED"), "the responder has it already"
    lost["on"] = False
    made.run(60)
    assert made.a.children("INSTALLED")
    made.check_agreement()
    made.check_no_leaks()


def forged(data: bytes, **change: int) -> bytes:
    """The datagram of a fragment with other numbers, or with another octet of its end."""
    header = Header.parse(data)
    fragment = parse_message(data).payloads[-1]
    assert isinstance(fragment, EncryptedFragment)
    at = HEADER_OCTETS + 4
    number, total = change.get("number", fragment.number), change.get("total", fragment.total)
    body = bytearray(data)
    body[at : at + 4] = number.to_bytes(2, "big") + total.to_bytes(2, "big")
    if number > 1:
        body[HEADER_OCTETS] = 0
    if change.get("flip"):
        body[-1] ^= 1
    if "message_id" in change:
        header = replace(header, message_id=change["message_id"])
        body[:HEADER_OCTETS] = header.to_bytes()
    return bytes(body)


def test_forged_fragments_change_nothing() -> None:
    made = pair()
    held: list[tuple[bytes, Any, Any]] = []

    def hold(sender: object, output: base.SendDatagram) -> bool:
        if sender is made.a and Header.parse(output.data).exchange == ExchangeType.IKE_AUTH:
            held.append((output.data, output.local, output.remote))
            return False
        return True

    made.tap = hold
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(0.5)
    first, source, to = held[0]
    total = len(held)
    for bad in (
        forged(first, flip=1),
        *(forged(first, number=n) for n in range(2, total + 1)),
        forged(first, total=total + 1),
        forged(first, total=60000),
        forged(first, total=1),
        forged(first, message_id=7),
    ):
        made.deliver(bad, source, to)
    made.run(0.5)
    sa = live(made)
    assert len(sa.reassembly or ()) == 0
    assert sa.counters.fragments_in == 0
    assert sa.counters.drops_in == total + 4
    for number in range(300):
        made.deliver(forged(first, number=1 + number % total, flip=1), source, to)
    made.run(0.1)
    assert len(sa.reassembly or ()) == 0
    # Forged ones between the true ones do no harm, either: not with another number, total or end.
    made.tap = None
    for data, *_ in held:
        for change in ({"flip": 1}, {"total": total + 9}, {"total": total - 1}):
            made.deliver(forged(data, **change), source, to)
        made.deliver(data, source, to)
        made.deliver(forged(data, flip=1), source, to)
    made.run(1)
    assert made.a.children("INSTALLED")
    made.check_agreement()


def test_more_than_max_packet_is_dropped() -> None:
    made = pair(options=Options(max_packet=2000, retransmit_jitter=0.0, retransmit_tries=1))
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(1)
    assert any("max_packet" in line for line in made.b.log())
    made.run(60)
    assert not made.b.ike()


def test_fragments_are_not_taken_when_nobody_agreed_to_them() -> None:
    made = pair(b="no")
    made.up()
    sa = live(made, "a")
    sa.features.fragmentation = True
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(1)
    assert fragments(made, ExchangeType.CREATE_CHILD_SA, response=False)
    assert any("fragmentation was not negotiated" in line for line in made.b.log())
    assert len(made.b.children()) == 1


def test_a_request_of_one_fragment_and_whole_ones() -> None:
    """One fragment of one is a message, too (a peer may do so); what fits is never cut."""
    made = Pair()
    made.up()
    assert not fragments(made, response=False)
    a, b = live(made, "a"), live(made)
    assert a.protection is not None
    header = Header(a.spi_i, a.spi_r, 0, 2, 0, ExchangeType.INFORMATIONAL, 0x08, a.requests.next_id)
    body = a.protection._seal(header, 53, 0, b"\0\1\0\1", b"")  # type: ignore[arg-type]
    made.deliver(body, a.local, a.remote)
    before = b.responses.expected
    made.run(1)
    assert b.responses.expected == before + 1


def test_selectors_survive() -> None:
    made = pair()
    made.up()
    assert made.b.children()[0].remote_ts == tuple(TrafficSelector.from_text(text) for text in MANY)


def test_a_message_in_tiny_fragments_is_not_collected() -> None:
    """Each fragment costs memory however little is in it; 100 of them are taken, thousands are not."""
    made = Pair()
    made.up()
    a, b = live(made, "a"), live(made)
    assert a.protection is not None
    header = Header(a.spi_i, a.spi_r, 0, 2, 0, ExchangeType.INFORMATIONAL, 0x08, a.requests.next_id)
    for total, taken in ((5000, False), (100, True)):
        numbers = b"\0\1" + total.to_bytes(2, "big")
        body = a.protection._seal(header, 53, 41, numbers, b"\0")  # type: ignore[arg-type]
        made.deliver(body, a.local, a.remote)
        made.run(0.1)
        assert len(b.reassembly or ()) == taken
