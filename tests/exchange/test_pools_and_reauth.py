"""Virtual addresses over configuration payloads (RFC 7296 §2.19), and reauthentication (§2.8.3, RFC 4478)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from eap_support import eap_pair, pool
from ike_network import Pair, fqdn, mirrored

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, PoolConfig, SharedSecret, UniquePolicy
from ipsecstack.keyex.ikev2.states import Kind
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Cp, Message, Payload

ANY4 = (ip_address("0.0.0.0"),)
VIP = ip_address("10.77.0.1")


def configured(pair: Pair, *, vips: Any = ANY4, pools: tuple[str, ...] = ("p4",), **more: Any) -> Pair:
    """a wants addresses, b has pools; the child's side of a is ``dynamic`` on both ends."""
    a, b = mirrored(local_ts=(), **more.pop("both", {}))
    if pair.a.endpoint.connections():
        known = [end.endpoint.connections()[0] for end in pair.ends]
        a, b = (replace(c, local=k.local, remote=k.remote) for c, k in zip((a, b), known, strict=True))
    pair.b.endpoint.load_pool(pool())
    pair.a.load(replace(a, vips=vips, **more))
    pair.b.load(replace(b, pools=pools, **more))
    return pair


def leases(pair: Pair) -> list[tuple[str, str, int]]:
    return [
        (str(x.address), x.identity, x.online) for p in pair.b.endpoint.address_pools() for x in p.leases()
    ]


def vip_events(pair: Pair) -> list[str]:
    return [
        f"{'+' if isinstance(o, base.AddVirtualIp) else '-'}{o.address}"
        for o in pair.a.said
        if isinstance(o, base.AddVirtualIp | base.RemoveVirtualIp)
    ]


def test_an_address_for_the_initiator() -> None:
    pair = configured(Pair(load=False))
    pair.up()
    assert pair.a.ike()[0].local_vips == pair.b.ike()[0].remote_vips == (VIP,)
    (child,) = pair.a.children()
    assert [ts.to_text() for ts in child.local_ts] == ["10.77.0.1/32"]
    assert [ts.to_text() for ts in pair.b.children()[0].remote_ts] == ["10.77.0.1/32"]
    assert vip_events(pair) == ["+10.77.0.1"]
    assert leases(pair) == [("10.77.0.1", "a.lab", 1)]
    pair.a.do(pair.a.endpoint.terminate, ike="conn")
    pair.run(10)
    assert vip_events(pair) == ["+10.77.0.1", "-10.77.0.1"]
    assert leases(pair) == [("10.77.0.1", "a.lab", 0)]


def test_a_lease_is_the_eap_identitys() -> None:
    pair = configured(eap_pair())
    pair.up()
    assert leases(pair) == [("10.77.0.1", "alice", 1)]


def test_both_ip_versions() -> None:
    pair = Pair(load=False)
    pair.b.endpoint.load_pool(PoolConfig("p6", ip_address("fd77::1"), ip_address("fd77::9"), "fd77::"))
    configured(pair, vips=(*ANY4, ip_address("::")), pools=("p4", "p6"))
    a, b = (end.endpoint.connections()[0] for end in pair.ends)
    from ike_network import ts

    wide = ts("10.2.0.0/24", "fd02::/64")
    pair.a.load(replace(a, children=(replace(a.children[0], remote_ts=wide),)))
    pair.b.load(replace(b, children=(replace(b.children[0], local_ts=wide),)))
    pair.up()
    assert [str(vip) for vip in pair.a.ike()[0].local_vips] == ["10.77.0.1", "fd77::1"]
    assert [ts.to_text() for ts in pair.a.children()[0].local_ts] == ["10.77.0.1/32", "fd77::1/128"]


def test_a_wanted_address() -> None:
    pair = configured(Pair(load=False), vips=(ip_address("10.77.0.5"),))
    pair.up()
    assert [str(vip) for vip in pair.a.ike()[0].local_vips] == ["10.77.0.5"]


@pytest.mark.parametrize(
    ("vips", "pools", "reason"),
    [(ANY4, (), "INTERNAL_ADDRESS_FAILURE"), (ANY4, ("none",), "INTERNAL_ADDRESS_FAILURE"),
     ((ip_address("::"),), ("p4",), "INTERNAL_ADDRESS_FAILURE"), ((), ("p4",), "FAILED_CP_REQUIRED")],
)  # fmt: skip
def test_no_address_no_child(vips: Any, pools: tuple[str, ...], reason: str) -> None:
    """The IKE SA stays, as after any failure of the child (§3.15.4)."""
    pair = configured(Pair(load=False), vips=vips, pools=pools)
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(5)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert not outcome.success
    assert reason in pair.a.failures()
    assert len(pair.a.ike()) == len(pair.b.ike()) == 1
    assert not vip_events(pair)
    pair.check_no_leaks()


def test_a_pool_that_is_used_up() -> None:
    pair = configured(Pair(load=False))
    full = PoolConfig("p4", VIP, VIP, "10.77.0.1")
    pair.b.endpoint.unload_pool("p4")
    pair.b.endpoint.load_pool(full)
    assert pair.b.endpoint.pools.acquire(("p4",), 4, "somebody", None) is not None
    pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(5)
    assert "INTERNAL_ADDRESS_FAILURE" in pair.a.failures()


def test_addresses_live_on_over_a_rekeying() -> None:
    pair = configured(Pair(load=False))
    pair.up()
    for end in pair.ends:
        end.do(end.endpoint.rekey, ike="conn")
        pair.run(20)
        assert [sa.local_vips for sa in pair.a.ike()] == [(VIP,)]
        assert [sa.remote_vips for sa in pair.b.ike()] == [(VIP,)]
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    assert vip_events(pair) == ["+10.77.0.1"]
    assert leases(pair) == [("10.77.0.1", "a.lab", 1)]


def test_no_lease_stays_when_a_rekeying_crosses() -> None:
    for seed in range(6):
        pair = configured(Pair(load=False, seed=seed, latency=0.05))
        pair.up()
        for end in pair.ends:
            end.do(end.endpoint.rekey, ike="conn")
        pair.run(60)
        assert leases(pair) == [("10.77.0.1", "a.lab", 1)]
        assert vip_events(pair) == ["+10.77.0.1"]
        pair.b.do(pair.b.endpoint.terminate, ike="conn")
        pair.run(10)
        assert leases(pair) == [("10.77.0.1", "a.lab", 0)]
        assert vip_events(pair) == ["+10.77.0.1", "-10.77.0.1"]


class Ask(Task):
    """A configuration payload in an INFORMATIONAL exchange."""

    kind = Kind.INFORMATIONAL
    label = "TEST_CP"

    def __init__(self, payload: Cp) -> None:
        super().__init__()
        self.payload = payload
        self.answer: Cp | None = None

    def request(self, sa: Any, now: float) -> list[Payload] | None:
        return [self.payload]

    def answered(self, sa: Any, message: Message, now: float) -> None:
        self.answer = message.get(Cp)


@pytest.mark.parametrize(("kind", "answer"), [(1, 2), (3, 4), (2, None), (4, None), (99, None)])
def test_configuration_payloads_later(kind: int, answer: int | None) -> None:
    pair = configured(Pair(load=False))
    pair.up()
    task = Ask(Cp(kind, ((1, b""), (14, b""), (3, b""))))
    (sa,) = pair.a.endpoint.registry.all()
    sa.enqueue(task)
    from ipsecstack.keyex.ikev2 import machine

    machine.pump(sa, pair.now)
    pair.a.flush()
    pair.run(2)
    assert (task.answer.cfg_type if task.answer is not None else None) == answer
    if answer == 2:
        assert task.answer is not None
        assert task.answer.all(1) == [VIP.packed]
        assert task.answer.all(3) == [bytes((10, 77, 0, 53))]
    assert pair.b.endpoint.address_pools()[0].online == 1


@pytest.mark.parametrize(
    "given",
    [
        (1, bytes(4)),
        (1, b"\x7f\0\0\1"),
        (1, b"\xe0\0\0\1"),
        (1, b"\x0a"),
        (8, bytes(16)),
        (8, ip_address("fd77::1").packed + b"\x40"),
        (4711, b"whatever"),
    ],
)
def test_addresses_that_make_no_sense(given: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a responder may send: no host address, one that was not asked for, cut short."""
    from ipsecstack.keyex.ikev2 import config_payload

    pair = configured(Pair(load=False))
    monkeypatch.setattr(config_payload, "_reply", lambda sa, request: [Cp(2, (given,))])
    pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(5)
    assert not vip_events(pair)
    assert pair.a.ike()[0].local_vips == ()


# --- suggested identity -----------------------------------------------------------------------------------------------


def test_the_responder_is_who_the_initiator_asks_for() -> None:
    """Of several certificates without a configured identity, the one that IDr names proves it (§3.5, IDr)."""
    from ike_pki import certificate, make_key, pem

    for wanted in ("b.lab", "other.lab"):
        pair = eap_pair(first=AuthClass.PUBKEY)
        pair.b.credentials.load_cert(certificate("ecdsa", "other.lab"))
        pair.b.credentials.load_key(pem(make_key("ecdsa", "other.lab")))
        certs = (certificate("ecdsa", "b.lab"), certificate("ecdsa", "other.lab"))
        a, b = (end.endpoint.connections()[0] for end in pair.ends)
        pair.a.load(replace(a, remote=(AuthConfig(AuthClass.PUBKEY, fqdn(wanted)),)))
        pair.b.load(replace(b, local=(AuthConfig(AuthClass.PUBKEY, None, certs=certs),), send_cert="always"))
        pair.up()
        assert pair.b.ike()[0].local_id == fqdn(wanted)


def test_an_identity_that_nobody_here_has() -> None:
    pair = eap_pair(first=AuthClass.PUBKEY)
    a = pair.a.endpoint.connections()[0]
    pair.a.load(replace(a, remote=(AuthConfig(AuthClass.PUBKEY, fqdn("nobody.lab")),)))
    pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(30)
    assert not pair.a.ike()
    assert "NO_PEER_CONFIG" in pair.b.failures()


# --- reauthentication -------------------------------------------------------------------------------------------------


def spis(pair: Pair) -> list[bytes]:
    return [sa.initiator_spi for sa in pair.a.ike()]


def sending(pair: Pair) -> bool:
    """Both ends have a pair of SAs at all times."""
    return all(end.plane.inbound() and end.plane.outbound() for end in pair.ends)


def test_by_command_make_before_break() -> None:
    pair = configured(Pair(load=False))
    pair.up()
    before = spis(pair)
    pair.a.do(pair.a.endpoint.rekey, ike="conn", reauth=True)
    limit = pair.now + 20
    while pair.step(limit):
        assert sending(pair)
    pair.check_agreement()
    pair.check_no_leaks()
    assert len(spis(pair)) == 1
    assert spis(pair) != before
    assert len(pair.a.children()) == len(pair.b.children()) == 1
    assert vip_events(pair) == ["+10.77.0.1"]
    assert leases(pair) == [("10.77.0.1", "a.lab", 1)]
    assert not pair.a.endpoint.registry.all()[0].replaces


def test_the_responder_asks_for_it_when_it_cannot_itself() -> None:
    """With leases, only the initiator can begin again: AUTH_LIFETIME tells it so (RFC 4478)."""
    pair = configured(Pair(load=False))
    pair.up()
    before = spis(pair)
    pair.b.do(pair.b.endpoint.rekey, ike="conn", reauth=True)
    pair.run(20)
    assert len(spis(pair)) == 1
    assert spis(pair) != before
    assert any("AUTH_LIFETIME" in line for line in pair.a.log())
    assert leases(pair) == [("10.77.0.1", "a.lab", 1)]


def test_the_responder_does_it_itself() -> None:
    pair = Pair()
    pair.up()
    pair.b.do(pair.b.endpoint.rekey, ike="conn", reauth=True)
    pair.run(20)
    assert [sa.initiator for sa in pair.b.ike()] == [True]
    pair.check_agreement()
    pair.check_no_leaks()


def test_the_responder_sends_over_the_new_child_only_when_the_initiator_has_it() -> None:
    """The IKE_AUTH response is lost: meanwhile the old child carries what the responder sends."""
    pair = Pair()
    pair.up()
    (old,) = pair.b.plane.outbound()
    count = len(pair.b.sent)
    pair.tap = lambda sender, output: sender is pair.a or len(pair.b.sent) < count + 2
    pair.a.do(pair.a.endpoint.rekey, ike="conn", reauth=True)
    pair.run(1)
    assert len(pair.b.plane.inbound()) == 2
    assert pair.b.plane.outbound() == [old]
    pair.tap = None
    pair.run(30)
    assert len(pair.b.plane.outbound()) == 1
    assert pair.b.plane.outbound() != [old]
    pair.check_agreement()
    pair.check_no_leaks()


@pytest.mark.parametrize("unique", list(UniquePolicy))
def test_by_time(unique: UniquePolicy) -> None:
    a, b = mirrored(reauth_time=100, rand_time=10, over_time=20, rekey_time=0, unique=unique)
    pair = Pair(a=a, b=replace(b, reauth_time=0))
    pair.up()
    if unique is UniquePolicy.KEEP:
        return  # a responder that keeps the old one takes no new one
    seen = set()
    limit = pair.now + 1000
    while pair.step(limit):
        assert sending(pair)
        seen.update(spis(pair))
    assert 9 <= len(seen) <= 13
    pair.check_agreement()
    pair.check_no_leaks()


def test_the_responders_lifetime_is_obeyed() -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=replace(b, reauth_time=600, rand_time=60))
    pair.up()
    seen = set()
    limit = pair.now + 3000
    while pair.step(limit):
        assert sending(pair)
        seen.update(spis(pair))
    assert len(seen) >= 5
    assert "expired" not in [o.reason for o in pair.b.heard(base.IkeSaDeleted)]


def test_who_does_not_reauthenticate_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipsecstack.keyex.ikev2 import reauth

    pair = configured(Pair(load=False))
    monkeypatch.setattr(reauth, "obey", lambda *_: None)
    b = pair.b.endpoint.connections()[0]
    pair.b.load(replace(b, reauth_time=100, rand_time=0, over_time=10))
    pair.up()
    pair.run(200)
    assert not pair.a.ike()
    assert not pair.b.ike()
    assert leases(pair) == [("10.77.0.1", "a.lab", 0)]


def test_it_is_tried_again_when_it_fails() -> None:
    """The peer does not know the secret any more for a while: the old IKE SA lives on, then it works."""
    from ike_network import SECRET

    a, b = mirrored(reauth_time=100, rand_time=0, over_time=60, rekey_time=0)
    pair = Pair(a=a, b=replace(b, reauth_time=0))
    pair.up()
    before = spis(pair)
    owners = (fqdn("a.lab"), fqdn("b.lab"))
    pair.b.credentials.load_shared(SharedSecret("psk", b"wrong", owners))
    pair.run(110)
    assert before[0] in spis(pair)
    pair.b.credentials.load_shared(SharedSecret("psk", SECRET, owners))
    pair.run(40)
    assert spis(pair) != before
    assert len(spis(pair)) == 1
    pair.check_no_leaks()


def test_several_children_come_along() -> None:
    a, b = mirrored()
    from ike_network import ts

    second = replace(a.children[0], name="two", local_ts=ts("10.1.9.0/24"), remote_ts=ts("10.2.9.0/24"))
    other = replace(second, local_ts=second.remote_ts, remote_ts=second.local_ts)
    pair = Pair(a=replace(a, children=(*a.children, second)), b=replace(b, children=(*b.children, other)))
    for child in ("net", "two"):
        pair.a.do(pair.a.endpoint.initiate, ike=None, child=child)
        pair.run(5)
    pair.a.do(pair.a.endpoint.rekey, ike="conn", reauth=True)
    limit = pair.now + 30
    while pair.step(limit):
        for end in pair.ends:
            assert {c.name for c in end.children("INSTALLED")} == {"net", "two"}
    assert len(pair.a.ike()) == 1
    assert len(pair.a.children()) == 2
    pair.check_agreement()
