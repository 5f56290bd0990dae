"""NAT traversal on the virtual clock, in every combination (RFC 7296 §2.23)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from exchange.ike_network import SECRET, Nat, Pair, connection, fqdn, host, mirrored

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import SharedSecret
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import ExchangeType

INSIDE, OUTSIDE = ("10.0.0.1", "10.0.0.2"), ("192.0.2.1", "192.0.2.2")
SIDES = {"before the initiator": (0,), "before the responder": (1,), "before both": (0, 1)}


def natted(sides: tuple[int, ...], *, here: dict[str, Any] | None = None, **options: Any) -> Pair:
    """a initiates to b. Who is behind a NAT is reached at its outside address, the responder by forwarded ports."""
    a, b = mirrored(**options)
    if 1 in sides:
        a = replace(a, remote_addrs=(OUTSIDE[1],))
    a, b = replace(a, **(here or {})), replace(b, remote_addrs=("%any",))
    pair = Pair(a=a, b=b)
    for side in sides:
        forward = {500: 500, 4500: 4500} if side == 1 else {}
        pair.nats.append(Nat(INSIDE[side], OUTSIDE[side], forward=forward))
    return pair


def sa_of(pair: Pair, name: str) -> IkeSa:
    (sa,) = getattr(pair, name).endpoint.registry.all()
    assert isinstance(sa, IkeSa)
    return sa


def check_esp(pair: Pair) -> None:
    """What each end sends arrives at the other one's inbound SA, through all NATs."""
    pair.check_agreement()
    for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
        for out in one.plane.outbound():
            assert out.encapsulated
            source, destination = out.source, out.destination
            for nat in pair.nats:
                if str(source.host) == nat.inside:
                    source = nat.out(source)
            for nat in pair.nats:
                if str(destination.host) == nat.outside:
                    found = nat.back(destination)
                    assert found is not None, f"{one.name} sends to {destination}, which is not mapped"
                    destination = found
            (twin,) = [sa for sa in other.plane.inbound() if sa.spi == out.spi]
            assert (twin.destination, twin.source) == (destination, source)


@pytest.mark.parametrize("mobike", [False, True])
@pytest.mark.parametrize("where", SIDES)
def test_behind_nats(where: str, mobike: bool) -> None:
    sides = SIDES[where]
    pair = natted(sides, mobike=mobike)
    pair.up()
    a, b = sa_of(pair, "a"), sa_of(pair, "b")
    assert (a.nat_local, a.nat_remote) == (0 in sides, 1 in sides)
    assert (b.nat_local, b.nat_remote) == (1 in sides, 0 in sides)
    assert a.local.port == a.remote.port == b.local.port == 4500
    if 0 in sides:
        assert str(b.remote.host) == OUTSIDE[0]
        assert b.remote.port not in (500, 4500)
    check_esp(pair)
    for end in (pair.a, pair.b):
        end.do(end.endpoint.rekey, child="net")
        pair.run(10)
        check_esp(pair)
        end.do(end.endpoint.rekey, ike="conn")
        pair.run(10)
        check_esp(pair)
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    pair.check_no_leaks()


@pytest.mark.parametrize("who", ["initiator", "responder", "both"])
@pytest.mark.parametrize("mobike", [False, True])
def test_encapsulation_is_forced(who: str, mobike: bool) -> None:
    pair = natted((), mobike=mobike)
    for end, name in ((pair.a, "initiator"), (pair.b, "responder")):
        if who in (name, "both"):
            end.load(replace(end.endpoint.connections()[0], encap=True))
    pair.up()
    check_esp(pair)
    for name in ("a", "b"):
        assert sa_of(pair, name).local.port == 4500
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    check_esp(pair)


@pytest.mark.parametrize("where", ["before the initiator", "before both"])
@pytest.mark.parametrize("mobike", [False, True])
def test_the_nat_forgets(where: str, mobike: bool) -> None:
    """The initiator's NAT gives it another port, again and again; whoever can follow does.

    Behind a NAT of its own an end does not follow packets (§2.23): then MOBIKE, or nothing.
    """
    pair = natted(SIDES[where], mobike=mobike, here={"dpd_delay": 10.0})
    pair.up()
    pair.run(30)
    nat = pair.nats[0]
    for _ in range(3):
        nat.rebind()
        pair.run(40)
        follows = mobike or where == "before the initiator"
        assert (sa_of(pair, "b").remote.port == nat.forward[4500]) is follows
        if follows:
            check_esp(pair)
            assert pair.b.heard(base.IkeSaUpdated)[-1].ike.remote.port == nat.forward[4500]


def test_the_nat_moves_to_another_address() -> None:
    pair = natted((0,), here={"dpd_delay": 10.0})
    pair.up()
    pair.nats[0].outside = "192.0.2.99"
    pair.nats[0].rebind()
    pair.run(40)
    assert str(sa_of(pair, "b").remote.host) == "192.0.2.99"
    check_esp(pair)


def test_only_new_authenticated_packets_move_it() -> None:
    """Copies of old packets, forged ones and unprotected ones, from another place, move nothing."""
    pair = natted((0,))
    pair.up()
    before = sa_of(pair, "b").remote
    elsewhere = host("203.0.113.7", 4500)
    local = sa_of(pair, "b").local

    def sent() -> list[bytes]:
        return [o.data for o in pair.a.sent if o.data[18] != ExchangeType.IKE_SA_INIT]

    requests = sent()
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(5)
    newest = [data for data in sent() if data not in requests]
    forged = newest[-1][:-1] + bytes((newest[-1][-1] ^ 1,))
    higher = newest[-1][:20] + (9).to_bytes(4, "big") + newest[-1][24:]
    for data in (*requests, *newest, forged, higher):
        pair.b.endpoint.receive_datagram(data, local, elsewhere, pair.now)
        pair.b.flush()
        assert sa_of(pair, "b").remote == before
        assert {sa.destination for sa in pair.b.plane.outbound()} == {before}


def test_esp_tells_of_a_new_port() -> None:
    pair = natted((0,))
    pair.up()
    inbound = pair.b.plane.inbound()[0].id
    pair.b.do(pair.b.endpoint.peer_address_changed, sa=inbound, remote=host(OUTSIDE[0], 45000))
    assert sa_of(pair, "b").remote == host(OUTSIDE[0], 45000)
    assert {sa.destination.port for sa in pair.b.plane.outbound()} == {45000}
    inbound = pair.a.plane.inbound()[0].id
    pair.a.do(pair.a.endpoint.peer_address_changed, sa=inbound, remote=host("203.0.113.7", 1))
    assert sa_of(pair, "a").remote == host(INSIDE[1], 4500), "whoever is behind a NAT does not follow"


def test_many_clients_behind_one_nat() -> None:
    """Each has ports of its own at the one outside address."""
    pair = Pair(load=False)
    for number in range(8):
        name = f"c{number}.lab"
        inside = f"10.0.1.{number + 1}"
        end = pair.add(f"c{number}", inside)
        pair.nats.append(Nat(inside, OUTSIDE[0], next_port=30000 + 100 * number))
        for one in (end, pair.b):
            one.credentials.load_shared(SharedSecret(name, SECRET, (fqdn(name), fqdn("b.lab"))))
        nets = {"local_ts": (f"10.50.{number}.0/24",), "remote_ts": ("10.2.0.0/24",)}
        end.load(connection(local=inside, remote=INSIDE[1], local_id=name, remote_id="b.lab", **nets))  # type: ignore[arg-type]
        pair.b.load(
            connection(
                f"c{number}",
                local=INSIDE[1],
                remote="%any",
                local_id="b.lab",
                remote_id=name,
                local_ts=("10.2.0.0/24",),
                remote_ts=(f"10.50.{number}.0/24",),
            )
        )
        end.do(end.endpoint.initiate, ike=None, child="net")
        pair.run(2)
    peers = {(str(sa.remote.host), sa.remote.port) for sa in pair.b.ike()}
    assert len(peers) == 8
    assert {address for address, _ in peers} == {OUTSIDE[0]}
    assert len(pair.b.plane.outbound()) == 8
    assert {sa.destination.port for sa in pair.b.plane.outbound()} == {port for _, port in peers}


def test_other_ports_than_500_and_4500() -> None:
    a, b = mirrored(remote_port=4500)
    pair = Pair(a=a, b=replace(b, remote_addrs=("%any",)), options=Options(retransmit_jitter=0.0))
    pair.nats.append(Nat(INSIDE[0], OUTSIDE[0]))
    pair.up()
    assert sa_of(pair, "a").local.port == 4500, "the marker from the first message on"
    check_esp(pair)
