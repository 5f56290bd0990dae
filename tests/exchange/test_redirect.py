"""Redirection on the virtual clock: as gateway and as client, at the start, after IKE_AUTH, and later (RFC 5685)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from exchange.ike_network import SECRET, End, Network, Pair, connection, fqdn, host, mirrored
from hypothesis import given
from hypothesis.strategies import binary

from ipsecstack.keyex import base
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import SharedSecret
from ipsecstack.keyex.ikev2 import redirect
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import ExchangeType, Notify, NotifyType, build_message, make_header, parse_message

PLAIN = Options(retransmit_jitter=0.0)


def gateways(
    count: int = 2, *, first: Options = PLAIN, client: Options = PLAIN, **options: Any
) -> tuple[Network, End, list[End]]:
    """A client 10.0.0.1 whose connection goes to gateway 10.0.0.2, and gateways 10.0.0.2, 10.0.0.3 ... alike."""
    network = Network()
    a = network.add("a", "10.0.0.1", client)
    ends = [network.add(f"g{n}", f"10.0.0.{n + 2}", first if n == 0 else PLAIN) for n in range(count)]
    for end in network.ends:
        end.credentials.load_shared(SharedSecret("psk", SECRET, (fqdn("a.lab"), fqdn("b.lab"))))
    own, other = mirrored(**options)
    a.load(own)
    for end in ends:
        end.load(replace(other, local_addrs=("%any",)))
    return network, a, ends


def bring_up(network: Network, a: End) -> base.CommandFinished | None:
    ticket = a.do(a.endpoint.initiate, ike=None, child="net")
    network.run(10)
    return a.outcome(ticket)


def remote_of(end: End) -> list[str]:
    return [str(sa.remote.host) for sa in end.ike()]


def told(end: End) -> list[list[str]]:
    """Names of the notifications in the IKE_SA_INIT requests that an end sent."""
    messages = [parse_message(o.data) for o in end.sent if o.data[18] == ExchangeType.IKE_SA_INIT]
    return [[n.name for n in m.all(Notify)] for m in messages if not m.header.is_response]


# --- the first answer ------------------------------------------------------------------------------------------


def test_new_clients_are_sent_away_at_the_door() -> None:
    network, a, (first, second) = gateways(first=replace(PLAIN, redirect_new="10.0.0.3"))
    outcome = bring_up(network, a)
    assert outcome is not None
    assert outcome.success
    assert remote_of(a) == ["10.0.0.3"]
    assert not first.ike()
    assert first.endpoint.registry.changes.generation == 0, "no state was kept there"
    assert len(second.children()) == 1
    one, two = told(a)
    assert "REDIRECT_SUPPORTED" in one
    assert "REDIRECTED_FROM" in two
    assert "REDIRECT_SUPPORTED" not in two


def test_a_client_that_does_not_follow_is_served() -> None:
    network, a, (first, _) = gateways(
        first=replace(PLAIN, redirect_new="10.0.0.3"), client=replace(PLAIN, follow_redirects=False)
    )
    bring_up(network, a)
    assert remote_of(a) == ["10.0.0.2"]
    assert len(first.children()) == 1


def test_a_loop_ends() -> None:
    network, a, (_, second) = gateways(first=replace(PLAIN, redirect_new="10.0.0.3"))
    second.options = replace(PLAIN, redirect_new="10.0.0.2")
    second.restart()
    outcome = bring_up(network, a)
    assert outcome is not None
    assert not outcome.success
    assert "6th time" in outcome.message
    assert a.failures() == ["REDIRECT"]
    assert not a.ike()
    assert not a.plane.reserved


def test_to_a_name_or_to_nowhere() -> None:
    for gateway, words in (("gw.example.org", "names are not resolved"), ("fd00::7", "cannot go")):
        network, a, _ = gateways(first=replace(PLAIN, redirect_new=gateway))
        if gateway == "fd00::7":
            a.load(replace(a.endpoint.connections()[0], local_addrs=("10.0.0.1",)))
        outcome = bring_up(network, a)
        assert outcome is not None
        assert not outcome.success
        assert words in outcome.message
        assert not a.ike()


@pytest.mark.parametrize("what", ["other nonce", "no nonce", "cut short"])
def test_a_forged_redirection_is_dropped(what: str) -> None:
    """Who has not seen the request cannot redirect: the real answer still counts (§3)."""
    network, a, (_first, second) = gateways()
    a.do(a.endpoint.initiate, ike=None, child="net")
    request = parse_message(a.sent[0].data)
    nonce = {"other nonce": bytes(32), "no nonce": b"", "cut short": b""}[what]
    data = redirect.to_data(host("10.0.0.3").host, nonce)
    if what == "cut short":
        data = data[:3]
    header = make_header(
        request.header.initiator_spi,
        bytes(8),
        ExchangeType.IKE_SA_INIT,
        0,
        from_initiator=False,
        response=True,
    )
    forged = build_message(header, [Notify(NotifyType.REDIRECT, data)])
    a.endpoint.receive_datagram(forged, host("10.0.0.1"), host("10.0.0.2"), network.now)
    a.flush()
    network.run(5)
    assert remote_of(a) == ["10.0.0.2"]
    assert not second.ike()


# --- after authentication ---------------------------------------------------------------------------------------


def test_an_authenticated_client_is_sent_away() -> None:
    network, a, (first, second) = gateways()
    first.load(replace(first.endpoint.connections()[0], redirect="10.0.0.3"))
    outcome = bring_up(network, a)
    assert outcome is not None
    assert outcome.success, outcome.message
    assert remote_of(a) == ["10.0.0.3"]
    assert not first.ike(), "the client has deleted what it had there"
    assert not first.plane.sas
    assert len(second.children()) == 1
    assert not a.plane.reserved


def test_a_gateway_does_not_redirect_to_itself() -> None:
    network, a, (first, _) = gateways()
    first.load(replace(first.endpoint.connections()[0], redirect="10.0.0.2"))
    bring_up(network, a)
    assert remote_of(a) == ["10.0.0.2"]


def test_a_client_that_stays_is_thrown_out() -> None:
    network, a, (first, _) = gateways()
    first.load(replace(first.endpoint.connections()[0], redirect="10.0.0.3"))
    network.tap = lambda sender, output: not (sender is a and output.data[18] == ExchangeType.INFORMATIONAL)
    bring_up(network, a)
    assert len(first.ike()) == 1
    network.tap = lambda sender, output: sender is not first
    network.run(400)
    assert not first.ike()


# --- later --------------------------------------------------------------------------------------------------------


def test_an_established_client_is_sent_away() -> None:
    network, a, (first, second) = gateways()
    bring_up(network, a)
    assert first.do(first.endpoint.redirect, gateway="10.0.0.3", ike="conn") == 1
    network.run(0.03)
    assert len(a.children("INSTALLED")) >= 1, "the old Child SA works until the new one does"
    network.run(10)
    assert remote_of(a) == ["10.0.0.3"]
    assert not first.ike()
    assert not first.plane.sas
    assert len(second.children()) == 1
    assert len(a.plane.sas) == 2
    assert not a.plane.reserved


def test_a_client_comes_back_when_the_gateway_sends_it() -> None:
    network, a, (first, second) = gateways()
    bring_up(network, a)
    for _ in range(4):
        for here, there in ((first, "10.0.0.3"), (second, "10.0.0.2")):
            here.do(here.endpoint.redirect, gateway=there, ike="conn")
            network.run(200)
            assert remote_of(a) == [there]


def test_too_often_is_too_much() -> None:
    network, a, (first, second) = gateways()
    bring_up(network, a)
    for number in range(6):
        here, there = ((first, "10.0.0.3"), (second, "10.0.0.2"))[number % 2]
        here.do(here.endpoint.redirect, gateway=there, ike="conn")
        network.run(10)
    assert remote_of(a) == ["10.0.0.3" if len(first.ike()) == 0 else "10.0.0.2"]
    assert "REDIRECT" in a.failures(), "the sixth is not followed"
    assert len(a.children("INSTALLED")) == 1


def test_a_gateway_that_is_not_there() -> None:
    """The old IKE SA stays until its gateway ends it."""
    network, a, (first, _) = gateways()
    bring_up(network, a)
    first.do(first.endpoint.redirect, gateway="10.0.0.99", ike="conn")
    network.run(30)
    assert len(a.children("INSTALLED")) == 1
    assert len(first.ike()) == 1
    network.run(400)
    assert not first.ike()
    assert not a.ike()


def test_who_is_meant() -> None:
    network, a, (first, _) = gateways()
    bring_up(network, a)
    redirect_now = first.endpoint.redirect
    uniqueid = first.ike()[0].uniqueid
    for wrong in (
        {"ike": "other"},
        {"ike_id": uniqueid + 1},
        {"peer_ip": "10.0.9.0/24"},
        {"peer_id": fqdn("x.lab")},
    ):
        with pytest.raises(CommandError, match="no matching"):
            redirect_now("10.0.0.3", now=network.now, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="neither an address nor a name"):
        redirect_now("no such/thing", ike="conn", now=network.now)
    right = {"ike": "conn", "ike_id": uniqueid, "peer_ip": "10.0.0.0/24", "peer_id": fqdn("a.lab")}
    assert first.do(redirect_now, gateway="10.0.0.3", **right) == 1  # type: ignore[arg-type]
    network.run(10)
    assert remote_of(a) == ["10.0.0.3"]


def test_a_peer_that_does_not_take_it_is_not_sent() -> None:
    network, a, (first, _) = gateways(client=replace(PLAIN, follow_redirects=False))
    bring_up(network, a)
    with pytest.raises(CommandError, match="do not support"):
        first.endpoint.redirect("10.0.0.3", ike="conn", now=network.now)


def test_a_client_does_not_redirect_its_gateway() -> None:
    pair = Pair()
    pair.up()
    sa = pair.a.endpoint.registry.all()[0]
    sa.features.redirectable = True  # it is not: its peer never said so
    pair.a.do(pair.a.endpoint.redirect, gateway="10.0.0.9", ike="conn")
    pair.run(5)
    assert remote_of(pair.b) == ["10.0.0.1"]
    assert any("did not offer" in line for line in pair.b.log())


# --- the notification's data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["10.0.0.3", "fd00::3", "gw.example.org"])
def test_data_there_and_back(text: str) -> None:
    gateway = redirect.gateway_of(text)
    data = redirect.to_data(gateway, b"nonce")
    assert redirect.from_data(data) == (gateway, b"nonce")
    for cut in range(2 + data[1]):
        with pytest.raises(ValueError, match=r"cut short|names no gateway"):
            redirect.from_data(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x04\0\0\0\0",
        b"\x01\x04\xe0\0\0\1",
        b"\x04\x01a",
        b"\x03\x02\xff\xfe",
        b"\x01\x05aaaaa",
        b"\x03\x02 a",
        b"\x03\x071.2.3.4",
    ],
)
def test_data_that_names_no_gateway(data: bytes) -> None:
    with pytest.raises(ValueError, match="gateway"):
        redirect.from_data(data)


@given(binary(max_size=300))
def test_data_of_any_kind(data: bytes) -> None:
    try:
        gateway, nonce = redirect.from_data(data)
    except ValueError:
        return
    assert redirect.to_data(gateway, nonce) == data
    assert str(gateway).isprintable()


def test_a_name_for_a_connection() -> None:
    assert connection(redirect="gw.example.org").redirect == "gw.example.org"
