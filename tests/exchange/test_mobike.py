"""MOBIKE on the virtual clock: both ends' addresses change, paths break, NATs appear (RFC 4555)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from exchange.ike_network import End, Nat, Pair, host, mirrored

from ipsecstack.ipsec.sa import Mode
from ipsecstack.keyex import base
from ipsecstack.keyex.ikev2 import addresses, mobike, nat, paths
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Notify, NotifyType, Payload


def mobile(*, nets: bool = True, **options: Any) -> Pair:
    """a (10.0.0.1) leads; both take part in MOBIKE and permit any address in 10.0.0.0/8 and 192.0.2.0/24."""
    a, b = mirrored(mobike=True, **options)
    anywhere = ("10.0.0.0/8", "192.0.2.0/24", "fd00::/8")
    if nets:
        a = replace(a, local_addrs=("%any",))
        b = replace(b, remote_addrs=anywhere, local_addrs=("%any",))
    return Pair(a=a, b=b)


def live(end: End) -> IkeSa:
    found = [sa for sa in end.endpoint.registry.all() if sa.established is not None]
    assert len(found) == 1
    return found[0]


def where(end: End) -> tuple[str, str]:
    sa = live(end)
    return str(sa.local.host), str(sa.remote.host)


def check_planes(pair: Pair) -> None:
    """The IPsec SAs of both ends go where their IKE SA goes, and nothing else has changed."""
    pair.check_agreement()
    pair.check_no_leaks()
    for end in (pair.a, pair.b):
        sa = live(end)
        assert end.plane.sas
        for found in end.plane.inbound():
            assert (found.source, found.destination) == (sa.remote, sa.local)
        for found in end.plane.outbound():
            assert (found.source, found.destination) == (sa.local, sa.remote)
        assert {found.encapsulated for found in end.plane.sas.values()} == {sa.nat}


# --- agreement -----------------------------------------------------------------------------------------------


def test_support_and_addresses_are_told() -> None:
    pair = mobile()
    pair.a.readdress("10.0.0.1", "10.0.5.1", "fd00::1", "127.0.0.1", "fe80::1")
    pair.b.readdress("10.0.0.2")
    pair.up()
    a, b = live(pair.a).features.mobility, live(pair.b).features.mobility
    assert a is not None
    assert b is not None
    assert a.leads
    assert not b.leads
    assert [str(x) for x in b.peer] == ["10.0.5.1", "fd00::1"]
    assert a.peer == ()
    assert live(pair.a).local.port == live(pair.b).remote.port == 4500, "MOBIKE goes on at port 4500"
    assert not any(c.encapsulated for c in pair.a.children()), "no NAT, no UDP"


@pytest.mark.parametrize("here", [False, True])
def test_both_ends_must_want_it(here: bool) -> None:
    pair = mobile()
    pair.a.load(replace(pair.a.endpoint.connections()[0], mobike=here))
    pair.b.load(replace(pair.b.endpoint.connections()[0], mobike=not here))
    pair.up()
    assert live(pair.a).features.mobility is None
    assert live(pair.b).features.mobility is None


# --- the initiator moves ----------------------------------------------------------------------------------------


def test_the_initiator_moves() -> None:
    pair = mobile()
    pair.up()
    spis = live(pair.a).spi_i
    children = {(c.spi_in, c.spi_out) for c in pair.a.children()}
    for address in ("10.0.0.11", "10.0.7.1", "10.0.0.1"):
        pair.a.readdress(address)
        assert where(pair.a) == (address, "10.0.0.2"), "at once, not after the answer"
        pair.run(2)
        assert where(pair.b) == ("10.0.0.2", address)
        check_planes(pair)
    assert live(pair.a).spi_i == spis
    assert {(c.spi_in, c.spi_out) for c in pair.a.children()} == children
    assert any("checking that the peer is reached at 10.0.7.1" in line for line in pair.b.log())
    assert pair.a.heard(base.IkeSaUpdated)
    assert pair.b.heard(base.IkeSaUpdated)


def test_an_address_that_is_still_there_is_kept() -> None:
    pair = mobile()
    pair.up()
    pair.a.readdress("10.0.5.1", "10.0.0.1")
    pair.run(2)
    assert where(pair.a) == ("10.0.0.1", "10.0.0.2")
    found = live(pair.b).features.mobility
    assert found is not None
    assert [str(x) for x in found.peer] == ["10.0.5.1"], "but the list is told"
    sent = len(pair.a.sent)
    pair.a.readdress("10.0.0.1", "10.0.5.1")
    pair.run(2)
    assert len(pair.a.sent) == sent, "the same addresses: nothing to say"


def test_it_waits_for_an_address() -> None:
    pair = mobile()
    pair.up()
    pair.a.readdress("fd00::7")
    pair.run(2)
    assert where(pair.a) == ("10.0.0.1", "10.0.0.2")
    assert any("waiting for another address" in line for line in pair.a.log())
    pair.a.readdress("fd00::7", "10.0.0.9")
    pair.run(2)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.9")
    check_planes(pair)


def test_a_route_that_goes_is_a_reason_to_move() -> None:
    pair = mobile()
    pair.b.readdress("10.0.0.2", "192.0.2.2")
    pair.up()
    pair.a.routes[host("10.0.0.2").host] = None
    pair.a.readdress("10.0.0.1")
    pair.run(2)
    assert where(pair.a) == ("10.0.0.1", "192.0.2.2")
    check_planes(pair)


def test_a_request_under_way_follows() -> None:
    """The answer to a request that was sent from the old address is asked for again from the new one, at once."""
    pair = mobile()
    pair.up()
    pair.cut.add(("10.0.0.1", "10.0.0.2"))
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(1)
    before = pair.now
    pair.a.readdress("10.0.0.11")
    pair.run(1)
    assert pair.now - before <= 1
    assert where(pair.b) == ("10.0.0.2", "10.0.0.11")
    pair.run(20)
    check_planes(pair)
    assert len(pair.a.children("INSTALLED")) == 1


def test_addresses_change_faster_than_answers_come() -> None:
    pair = mobile()
    pair.latency = 0.5
    pair.up()
    for number in range(11, 16):
        pair.a.readdress(f"10.0.0.{number}")
        pair.run(0.3)
    pair.run(60)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.15")
    check_planes(pair)


def test_moving_after_rekeying_by_the_responder() -> None:
    """The role of the original initiator outlives the IKE SA (§1.3)."""
    pair = mobile()
    pair.up()
    pair.b.do(pair.b.endpoint.rekey, ike="conn")
    pair.run(5)
    assert not live(pair.a).initiator
    pair.a.readdress("10.0.0.11")
    pair.run(5)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.11")
    check_planes(pair)


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("what", ["ike", "child"])
def test_moving_while_rekeying(who: str, what: str) -> None:
    for wait in (0.0, 0.005, 0.012, 0.022, 0.035):
        pair = mobile()
        pair.up()
        end = getattr(pair, who)
        end.do(end.endpoint.rekey, **({"ike": "conn"} if what == "ike" else {"child": "net"}))
        pair.run(wait)
        pair.a.readdress("10.0.0.11")
        pair.run(180)  # a Delete whose answer went to the old address is sent until it is given up
        assert where(pair.b) == ("10.0.0.2", "10.0.0.11"), wait
        check_planes(pair)


def test_loss_delays_only() -> None:
    pair = mobile()
    pair.up()
    pair.loss = 0.4
    for number in (11, 12, 13):
        pair.a.readdress(f"10.0.0.{number}")
        pair.run(40)
    pair.loss = 0.0
    pair.run(60)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.13")
    check_planes(pair)


# --- paths ---------------------------------------------------------------------------------------------------


def test_liveness_finds_another_path() -> None:
    """The path in use dies without a word from the kernel: the check goes over all of them, one answers."""
    pair = mobile(dpd_delay=10)
    pair.a.readdress("10.0.0.1", "10.0.5.1")
    pair.b.readdress("10.0.0.2", "192.0.2.2")
    pair.up()
    pair.cut.update({("10.0.0.1", "10.0.0.2"), ("10.0.5.1", "10.0.0.2"), ("10.0.0.1", "192.0.2.2")})
    pair.run(60)
    assert where(pair.a) == ("10.0.5.1", "192.0.2.2")
    assert where(pair.b) == ("192.0.2.2", "10.0.5.1")
    check_planes(pair)
    assert len(pair.a.heard(base.IkeSaDeleted)) == 0


def test_no_path_is_the_end() -> None:
    pair = mobile(dpd_delay=10)
    pair.a.readdress("10.0.0.1", "10.0.5.1")
    pair.up()
    for address in ("10.0.0.1", "10.0.5.1"):
        pair.cut.add((address, "10.0.0.2"))
    pair.run(400)
    assert not pair.a.ike()


def test_the_responders_address_goes() -> None:
    pair = mobile()
    pair.b.readdress("10.0.0.2", "192.0.2.2")
    pair.up()
    pair.b.readdress("192.0.2.2")
    pair.run(5)
    assert where(pair.a) == ("10.0.0.1", "192.0.2.2")
    check_planes(pair)


def test_the_responder_gets_another_address() -> None:
    """One that it never told: it speaks from there, and the initiator follows."""
    pair = mobile()
    pair.up()
    pair.b.readdress("192.0.2.77")
    pair.run(5)
    assert where(pair.a) == ("10.0.0.1", "192.0.2.77")
    check_planes(pair)


def test_the_path_that_the_responder_speaks_over_is_taken() -> None:
    """Not the first one of its list: that may be an address that nobody reaches from here."""
    pair = mobile()
    pair.a.readdress("10.0.0.1", "fd00::1")
    pair.b.readdress("10.0.0.2", "fd00::2", "10.0.6.2")
    pair.up()
    pair.cut.update({("fd00::1", "fd00::2"), ("10.0.0.1", "10.0.6.2")})
    pair.b.readdress("fd00::2", "192.0.2.77", "10.0.6.2")
    pair.b.routes[host("10.0.0.1").host] = host("192.0.2.77").host
    pair.b.readdress("fd00::2", "192.0.2.77", "10.0.6.2")
    pair.run(20)
    assert where(pair.a) == ("10.0.0.1", "192.0.2.77")
    check_planes(pair)


def test_both_move_at_once() -> None:
    pair = mobile()
    pair.a.readdress("10.0.0.1", "10.0.5.1")
    pair.b.readdress("10.0.0.2", "192.0.2.2")
    pair.up()
    pair.a.readdress("10.0.5.1")
    pair.b.readdress("192.0.2.2")
    pair.run(120)
    assert where(pair.a) == ("10.0.5.1", "192.0.2.2")
    check_planes(pair)


def test_ipv6_after_ipv4() -> None:
    pair = mobile()
    pair.a.readdress("10.0.0.1", "fd00::1")
    pair.b.readdress("10.0.0.2", "fd00::2")
    pair.up()
    pair.a.readdress("fd00::1")
    pair.run(5)
    assert where(pair.a) == ("fd00::1", "fd00::2")
    check_planes(pair)


# --- NAT ---------------------------------------------------------------------------------------------------------


def test_behind_a_nat_and_out_again() -> None:
    pair = mobile()
    pair.nats.append(Nat("10.0.9.9", "192.0.2.9"))
    pair.up()
    pair.a.readdress("10.0.9.9")
    pair.run(5)
    assert live(pair.a).nat_local
    assert live(pair.b).nat_remote
    assert str(live(pair.b).remote.host) == "192.0.2.9"
    assert all(c.encapsulated for c in (*pair.a.children(), *pair.b.children()))
    pair.a.readdress("10.0.0.1")
    pair.run(5)
    assert not live(pair.a).nat
    assert not live(pair.b).nat
    check_planes(pair)


def test_a_nat_that_forgets_is_noticed() -> None:
    """Liveness carries NAT detection; an answer that names another mapping makes an update (§3.8)."""
    pair = mobile(dpd_delay=10)
    nat = Nat("10.0.0.1", "192.0.2.9")
    pair.nats.append(nat)
    pair.up()
    pair.run(25)
    first = live(pair.b).remote
    for _ in range(3):
        nat.rebind()
        pair.run(30)
        assert live(pair.b).remote != first
        first = live(pair.b).remote
        assert live(pair.b).remote.port == nat.forward[4500]
        assert {sa.destination for sa in pair.b.plane.outbound()} == {first}
    updates = sum("address change using MOBIKE" in line for line in pair.a.log())
    pair.run(100)
    assert sum("address change using MOBIKE" in line for line in pair.a.log()) == updates, (
        "only when it changes"
    )
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(60)
    nat.rebind()
    pair.run(30)
    assert live(pair.b).remote.port == nat.forward[4500]


def test_ike_messages_do_not_move_it_but_esp_does() -> None:
    pair = mobile()
    nat = Nat("10.0.0.1", "192.0.2.9")
    pair.nats.append(nat)
    pair.up()
    before = live(pair.b).remote
    nat.rebind()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(5)
    assert live(pair.b).remote == before, "an exchange without an update changes nothing (§3.8)"
    inbound = next(iter(pair.b.plane.inbound())).id
    pair.b.do(pair.b.endpoint.peer_address_changed, sa=inbound, remote=host("192.0.2.9", 31000))
    assert live(pair.b).remote == host("192.0.2.9", 31000)


# --- what is not accepted ------------------------------------------------------------------------------------------


def test_an_address_that_the_responder_does_not_permit() -> None:
    pair = mobile()
    pair.b.load(replace(pair.b.endpoint.connections()[0], remote_addrs=("10.0.0.0/24",)))
    pair.up()
    pair.a.readdress("10.0.0.1", "10.9.9.9")
    pair.run(2)
    pair.a.readdress("10.9.9.9")
    pair.run(5)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.1")
    assert any("unacceptable" in line for line in pair.a.log())
    pair.a.readdress("10.9.9.9", "10.0.0.55")
    pair.run(5)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.55")
    check_planes(pair)


class Crafted(mobike.UpdateAddresses):
    """An update with other payloads than ours would have."""

    def __init__(self, payloads: list[Payload]) -> None:
        super().__init__(update=True)
        self.payloads = payloads
        self.answers: list[list[str]] = []

    def request(self, sa: IkeSa, now: float) -> list[Payload]:
        return self.payloads

    def answered(self, sa: IkeSa, message: Any, now: float) -> None:
        self.answers.append([n.name for n in message.all(Notify)])


def craft(pair: Pair, end: End, *payloads: Payload) -> list[str]:
    task = Crafted(list(payloads))
    sa = live(end)
    sa.enqueue(task)
    from ipsecstack.keyex.ikev2 import machine

    machine.pump(sa, pair.now)
    end.endpoint._settle()
    end.flush()
    pair.run(1)
    assert len(task.answers) == 1
    return task.answers[0]


def test_a_nat_where_none_is_allowed() -> None:
    pair = mobile()
    pair.up()
    sa = live(pair.a)
    good = addresses.no_nats_allowed(sa.local, sa.remote)
    update = Notify(NotifyType.UPDATE_SA_ADDRESSES)
    assert len(good) == 12
    assert craft(pair, pair.a, update, Notify(NotifyType.NO_NATS_ALLOWED, good)) == []
    for bad in (good[:-1] + b"\x00", good[:11], b"", bytes(36)):
        assert craft(pair, pair.a, update, Notify(NotifyType.NO_NATS_ALLOWED, bad)) == [
            "UNEXPECTED_NAT_DETECTED"
        ]


def test_cookie2_comes_back_and_a_wrong_one_ends_it() -> None:
    pair = mobile()
    pair.up()
    cookie = Notify(NotifyType.COOKIE2, bytes(range(16)))
    assert craft(pair, pair.a, cookie) == ["COOKIE2"]
    assert craft(pair, pair.b, cookie) == ["COOKIE2"]
    assert craft(pair, pair.a, Notify(NotifyType.COOKIE2, bytes(65))) == []
    original = mobike.Mobike.informed

    def forged(self: mobike.Mobike, sa: IkeSa, message: Any, now: float) -> list[Payload]:
        found = original(self, sa, message, now)
        return [
            Notify(n.type, bytes(16)) if isinstance(n, Notify) and n.type == NotifyType.COOKIE2 else n
            for n in found
        ]

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(mobike.Mobike, "informed", forged)
        pair.a.readdress("10.0.0.11")
        pair.run(10)
    assert not pair.a.ike()
    assert not pair.b.ike()
    assert any("COOKIE2 mismatch" in line for line in pair.a.log())


def test_the_responder_may_not_lead() -> None:
    pair = mobile()
    pair.up()
    before = where(pair.a), live(pair.a).remote
    craft(pair, pair.b, Notify(NotifyType.UPDATE_SA_ADDRESSES))
    assert (where(pair.a), live(pair.a).remote) == before


def test_lists_are_bounded_and_sane() -> None:
    pair = mobile()
    pair.up()
    many = [Notify(NotifyType.ADDITIONAL_IP4_ADDRESS, host(f"10.0.4.{n}").host.packed) for n in range(1, 40)]
    odd = [
        Notify(NotifyType.ADDITIONAL_IP4_ADDRESS, data)
        for data in (b"", bytes(4), b"\x7f\0\0\1", b"\xe0\0\0\1", bytes(16))
    ]
    craft(pair, pair.b, *odd, *many)
    found = live(pair.a).features.mobility
    assert found is not None
    assert len(found.peer) == paths.MAX_ADDRESSES
    assert str(found.peer[0]) == "10.0.4.1"
    assert craft(pair, pair.b, Notify(NotifyType.NO_ADDITIONAL_ADDRESSES)) == []
    assert found.peer == ()


def test_a_response_from_elsewhere_moves_nothing() -> None:
    """Somebody on the path sends the response on from an address that is not the peer's."""
    pair = mobile()
    pair.up()
    taken: list[base.SendDatagram] = []

    def swallow(sender: End, output: base.SendDatagram) -> bool:
        if sender is pair.b:
            taken.append(output)
        return sender is not pair.b

    pair.tap = swallow
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(1)
    pair.tap = None
    pair.a.endpoint.receive_datagram(taken[0].data, live(pair.a).local, host("203.0.113.5", 4500), pair.now)
    pair.a.flush()
    pair.run(1)
    assert where(pair.a) == ("10.0.0.1", "10.0.0.2")


def test_two_peers_with_one_spi_do_not_become_one() -> None:
    """An update onto an address where another peer has the same SPI is refused."""
    pair = mobile()
    pair.up()
    child = live(pair.b).children[0]
    assert child.outbound is not None
    stranger = type(child)(999, child.config, child.suite, child.mode, 1, (), (), False)
    clash = replace(child.outbound, destination=host("10.0.0.11").host)
    pair.b.endpoint.installed(clash, stranger)
    pair.a.readdress("10.0.0.11", "10.0.0.12")
    pair.run(5)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.12")
    assert any("another peer has an SPI" in line for line in pair.b.log())


def test_transport_mode_begins_anew() -> None:
    """It protects packets between the outer addresses: the Child SA ends with them, another one is made (§1.2)."""
    pair = mobile(local_ts=(), remote_ts=(), child_options={"mode": Mode.TRANSPORT})
    pair.up()
    old = {c.spi_in for c in pair.a.children()}
    pair.a.readdress("10.0.0.11")
    pair.run(20)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.11")
    (child,) = pair.a.children("INSTALLED")
    assert child.spi_in not in old
    assert child.local_ts[0].start == host("10.0.0.11").host


# --- without MOBIKE --------------------------------------------------------------------------------------------------


def test_without_mobike_the_initiator_begins_anew() -> None:
    pair = mobile()
    pair.b.load(replace(pair.b.endpoint.connections()[0], mobike=False))
    pair.up()
    old = live(pair.a).spi_i
    pair.a.readdress("10.0.0.11")
    pair.run(30)
    assert live(pair.a).spi_i != old
    assert where(pair.a) == ("10.0.0.11", "10.0.0.2")
    assert len(pair.b.ike()) == 1, "INITIAL_CONTACT has ended the old one there"
    check_planes(pair)


# --- without NAT traversal (§3.9) ------------------------------------------------------------------------------------


@pytest.fixture
def no_nat_traversal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither end does NAT detection: addresses are protected by NO_NATS_ALLOWED instead."""
    monkeypatch.setattr(nat, "payloads", lambda *arguments: [])


@pytest.mark.usefixtures("no_nat_traversal")
def test_addresses_are_protected_where_no_nat_is_expected() -> None:
    pair = mobile()
    pair.up()
    assert live(pair.a).features.mobility is not None
    assert live(pair.a).local.port == 500
    pair.a.readdress("10.0.0.11")
    pair.run(5)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.11")
    check_planes(pair)
    pair.b.readdress("10.0.0.2", "192.0.2.2")
    pair.run(5)
    pair.b.readdress("192.0.2.2")
    pair.run(5)
    assert where(pair.a) == ("10.0.0.11", "192.0.2.2")
    check_planes(pair)
    answers = craft(pair, pair.a, Notify(NotifyType.UPDATE_SA_ADDRESSES))
    assert answers == ["UNEXPECTED_NAT_DETECTED"], "an update that vouches for no addresses"


@pytest.mark.usefixtures("no_nat_traversal")
def test_a_nat_on_a_later_path_is_refused() -> None:
    pair = mobile()
    pair.nats.append(Nat("10.0.9.9", "192.0.2.9"))
    pair.up()
    pair.a.readdress("10.0.9.9")
    pair.run(20)
    assert where(pair.b) == ("10.0.0.2", "10.0.0.1"), "it did not follow"
    tries = sum("detected a NAT where none is allowed" in line for line in pair.a.log())
    assert tries == 1 + pair.a.options.retransmit_tries, "an attacker may have changed one packet: try again"


@pytest.mark.usefixtures("no_nat_traversal")
def test_a_nat_from_the_start_is_refused() -> None:
    pair = mobile()
    pair.nats.append(Nat("10.0.0.1", "192.0.2.9"))
    pair.a.do(pair.a.endpoint.initiate, ike=None, child="net")
    pair.run(20)
    assert not pair.a.ike()
    assert not pair.b.ike()
    assert any("allows no NAT" in line for line in pair.b.log())


# --- anything, at any time ---


@pytest.mark.parametrize("seed", range(25))
def test_random_moves_and_rekeys(seed: int) -> None:
    """Both ends change addresses and rekey while datagrams are lost, doubled and overtaken; then they agree again.

    The ends may lose each other (both gone from the addresses that the other knows). Then there is nothing left over.
    """
    chance = random.Random(seed)
    pair = mobile(dpd_delay=20, child_options={"rekey_time": 90, "rand_time": 30})
    own = {
        "a": ["10.0.0.1", "10.0.5.1", "10.0.6.1", "fd00::1"],
        "b": ["10.0.0.2", "192.0.2.2", "fd00::2"],
    }
    for end in (pair.a, pair.b):
        end.readdress(*own[end.name])
    pair.up()
    pair.loss, pair.duplicate, pair.reorder, pair.latency = 0.15, 0.1, 0.2, 0.05
    for _ in range(25):
        end = chance.choice((pair.a, pair.b))
        event = chance.randrange(6)
        if event <= 2:
            count = chance.randint(1, len(own[end.name]))
            end.readdress(*chance.sample(own[end.name], count))
        elif event == 3 and end.children("INSTALLED"):
            end.do(end.endpoint.rekey, child="net")
        elif event == 4 and end.ike():
            end.do(end.endpoint.rekey, ike="conn")
        else:
            pair.cut = {(chance.choice(own["a"]), chance.choice(own["b"])) for _ in range(2)}
        pair.run(chance.choice((0.01, 0.1, 1.0, 10.0)))
    pair.loss = pair.duplicate = pair.reorder = 0.0
    pair.cut.clear()
    for end in (pair.a, pair.b):
        end.readdress(*own[end.name])
    pair.run(1500)
    while any(sa.tasks_active or len(sa.children) > 1 for end in (pair.a, pair.b) for sa in end.ike()):
        pair.run(0.5)  # a rekeying by time is under way
    pair.check_agreement()
    pair.check_no_leaks()
    if pair.a.ike():
        check_planes(pair)
        assert len(pair.a.children("INSTALLED")) == len(pair.b.children("INSTALLED")) == 1
    else:
        assert not pair.b.ike()
        assert not pair.a.plane.sas
        assert not pair.b.plane.sas
