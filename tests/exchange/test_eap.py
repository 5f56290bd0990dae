"""EAP in IKE_AUTH, several rounds of authentication, and what must not be accepted (RFC 7296 §2.16, RFC 4739)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from eap_support import ALICE, PASSWORD, eap_pair, user
from ike_network import Pair, fqdn
from ike_pki import authority, certificate, make_key, pem

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, Identity
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.options import Options
from ipsecstack.wire.ikev2 import Auth, Eap, IdR, Notify, NotifyType

ANY = Identity(0, b"", "%any")


def attempt(pair: Pair, seconds: float = 20) -> base.CommandFinished:
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(seconds)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    return outcome


def refused(pair: Pair, reason: str = "AUTHENTICATION_FAILED", seconds: float = 250) -> None:
    """Neither end keeps anything, and no timer runs."""
    assert not attempt(pair, seconds).success
    assert reason in pair.a.failures() + pair.b.failures()
    for end in pair.ends:
        assert not end.ike()
        assert not end.plane.sas
        assert not end.plane.policies
        assert not end.plane.reserved
        assert end.endpoint.next_timer() is None


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("method", ["mschapv2", "md5", "gtc"])
def test_passwords(method: str, ask: bool) -> None:
    pair = eap_pair(method, ask=ask)
    pair.up()
    a, b = pair.a.ike()[0], pair.b.ike()[0]
    assert (a.local_auth, a.remote_auth) == ("eap", "ecdsa")
    assert (b.local_auth, b.remote_auth) == ("ecdsa", "eap")
    assert b.remote_eap_id == "alice"
    keyed = method == "mschapv2"
    assert any(("MSK established" in line) and ("no MSK" in line) is not keyed for line in pair.b.log())
    pair.check_no_leaks()


def test_tls_with_the_gateways_certificates() -> None:
    pair = eap_pair("tls")
    pair.up()
    assert pair.b.ike()[0].remote_auth == "eap"
    assert pair.b.ike()[0].remote_cert_expiry is not None
    assert any("EAP-TLS with TLSv1.3" in line for line in pair.b.log())


def test_tls_alone_proves_both(request: pytest.FixtureRequest) -> None:
    """EAP-only authentication (RFC 5998): the responder has no AUTH of its own until EAP is over."""
    pair = eap_pair("tls", server_auth=AuthClass.EAP)
    pair.up()
    assert pair.a.ike()[0].remote_auth == "eap"
    assert pair.b.ike()[0].local_auth == "eap"
    assert any("EAP-only" in line for line in pair.a.log())


@pytest.mark.parametrize("method", ["mschapv2", "md5", "gtc"])
def test_a_method_that_does_not_prove_the_responder_cannot_stand_alone(method: str) -> None:
    pair = eap_pair(method, server_auth=AuthClass.EAP)
    refused(pair)
    assert not pair.a.heard(base.IkeSaEstablished)


@pytest.mark.parametrize("method", ["mschapv2", "md5", "gtc"])
def test_wrong_password_and_unknown_user_are_refused_alike(method: str) -> None:
    """The same number of messages, of the same lengths, whether the user is known or not."""
    seen = []
    for kind in ("wrong", "unknown"):
        pair = eap_pair(method)
        if kind == "wrong":
            pair.b.credentials.load_shared(user("alice", b"another password"))
        else:
            pair.b.credentials.unload_shared("eap-alice")
            pair.b.credentials.load_shared(user("bobby"))
        refused(pair)
        assert not pair.b.heard(base.IkeSaEstablished)
        # The signature in the first answer has 70 to 72 octets.
        seen.append(([len(sent.data) for sent in pair.b.sent[2:]], pair.b.failures()))
    assert seen[0] == seen[1]


def test_no_password_at_the_initiator() -> None:
    pair = eap_pair()
    pair.a.credentials.unload_shared("eap-alice")
    refused(pair)


def test_secrets_never_show() -> None:
    pair = eap_pair("gtc")
    pair.up()
    text = repr(pair.a.said) + repr(pair.b.said) + "".join(pair.a.log() + pair.b.log())
    for end in pair.ends:
        text += repr(end.endpoint.registry.all()) + repr(end.credentials)
    assert PASSWORD.decode() not in text


def test_any_method_by_negotiation() -> None:
    """``auth = eap`` on the responder begins with TLS; a Nak leads to what the initiator knows."""
    pair = eap_pair("gtc", server_method="")
    pair.up()
    assert any("another method than EAP_TLS" in line for line in pair.b.log())


def test_no_common_method() -> None:
    refused(eap_pair("gtc", server_method="md5"))


def test_only_users_that_the_connection_is_for() -> None:
    pair = eap_pair()
    conn = pair.b.endpoint.connections()[0]
    only = replace(conn.remote[0], eap_id=Identity(3, b"*@lab", "*@lab"))
    pair.b.load(replace(conn, remote=(only,)))
    refused(pair)


def test_peer_that_wants_eap_of_a_connection_without() -> None:
    pair = eap_pair()
    conn = pair.b.endpoint.connections()[0]
    pair.b.load(replace(conn, remote=(AuthConfig(AuthClass.PUBKEY, fqdn("a.lab")),)))
    refused(pair, "NO_PEER_CONFIG")


def test_a_gateway_that_is_not_trusted_gets_no_eap() -> None:
    """The initiator does not even tell its name to a responder that proves nothing."""
    pair = eap_pair()
    other = "another CA"
    pair.b.credentials.clear()
    pair.b.credentials.load_cert(certificate("ecdsa", "b.lab", ca=other))
    pair.b.credentials.load_key(pem(make_key("ecdsa", "b.lab")))
    pair.b.credentials.load_cert(authority(other), ca=True)
    refused(pair, "CERTIFICATE_INVALID", 600)
    assert not any("EAP_IDENTITY" in line for line in pair.a.log())


def test_loss_and_duplicates_on_the_way() -> None:
    for seed in range(6):
        pair = eap_pair("tls", seed=seed)
        pair.loss = pair.duplicate = 0.2
        ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
        pair.run(600)
        outcome = pair.a.outcome(ticket)
        assert outcome is not None
        assert outcome.success or not pair.a.children()


def test_half_open_eap_runs_out() -> None:
    """A peer that stops in the middle of EAP costs nothing after half_open_timeout."""
    pair = eap_pair()
    pair.tap = lambda sender, output: sender is pair.b or len(pair.a.sent) < 3
    pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(5)
    (sa,) = pair.b.endpoint.registry.all()
    assert sa.state is State.AUTHENTICATING
    pair.run(40)
    assert not pair.b.ike()
    assert pair.b.endpoint.next_timer() is None


# --- several rounds ---------------------------------------------------------------------------------------------------

SECOND_CERT = AuthConfig(AuthClass.PUBKEY, fqdn("a2.lab"))
SECOND_EAP = AuthConfig(AuthClass.EAP, ALICE, eap="mschapv2", eap_id=ALICE)
SECOND_EAP_SERVER = AuthConfig(AuthClass.EAP, ANY, eap="mschapv2", eap_id=ANY)


def two_rounds(kind: str) -> Pair:
    if kind == "cert+eap":
        return eap_pair(first=AuthClass.PUBKEY, local2=SECOND_EAP, remote2=SECOND_EAP_SERVER)
    if kind == "eap+cert":
        pair = eap_pair(local2=SECOND_CERT, remote2=SECOND_CERT)
    else:
        pair = eap_pair(first=AuthClass.PUBKEY, local2=SECOND_CERT, remote2=SECOND_CERT)
    pair.a.credentials.load_cert(certificate("ecdsa", "a2.lab"))
    pair.a.credentials.load_key(pem(make_key("ecdsa", "a2.lab")))
    for end in pair.ends:
        conn = end.endpoint.connections()[0]
        end.load(replace(conn, send_cert="always"))
    return pair


@pytest.mark.parametrize("kind", ["cert+eap", "eap+cert", "cert+cert"])
def test_two_rounds(kind: str) -> None:
    pair = two_rounds(kind)
    pair.up()
    expected = "alice" if kind == "cert+eap" else "a2.lab"
    assert pair.b.ike()[0].remote_id is not None
    assert pair.b.ike()[0].remote_id.text == expected
    assert pair.a.ike()[0].local_id == pair.b.ike()[0].remote_id


def test_two_rounds_of_the_responder() -> None:
    pair = two_rounds("cert+cert")
    second = AuthConfig(AuthClass.PUBKEY, fqdn("b2.lab"))
    pair.b.credentials.load_cert(certificate("ecdsa", "b2.lab"))
    pair.b.credentials.load_key(pem(make_key("ecdsa", "b2.lab")))
    a, b = pair.a.endpoint.connections()[0], pair.b.endpoint.connections()[0]
    pair.a.load(replace(a, local=a.local[:1], remote=(*a.remote, second)))
    pair.b.load(replace(b, remote=b.remote[:1], local=(*b.local, second)))
    pair.up()
    assert pair.a.ike()[0].remote_id is not None
    assert pair.a.ike()[0].remote_id.text == "b2.lab"


@pytest.mark.parametrize("who", ["initiator stops", "responder wants one", "responder wants two"])
def test_rounds_that_do_not_fit(who: str) -> None:
    pair = two_rounds("cert+cert")
    a, b = pair.a.endpoint.connections()[0], pair.b.endpoint.connections()[0]
    if who == "responder wants one":
        pair.b.load(replace(b, remote=b.remote[:1]))
    else:
        pair.a.load(replace(a, local=a.local[:1]))
    refused(pair)
    assert not pair.b.heard(base.IkeSaEstablished)


def test_the_second_round_is_verified() -> None:
    pair = two_rounds("cert+eap")
    pair.b.credentials.load_shared(user("alice", b"another password"))
    refused(pair)
    assert not pair.b.heard(base.IkeSaEstablished)


# --- peers that lie ---------------------------------------------------------------------------------------------------


def forged(pair: Pair, change: Any, *, of: str, count: int = 1) -> None:
    """Alters the payloads of the n-th IKE_AUTH message of one end before they are sealed."""
    from ipsecstack.keyex.ikev2 import fragmentation

    original, end, seen = fragmentation.seal, getattr(pair, of), [0]

    def seal(sa: Any, header: Any, payloads: Any, *more: Any) -> Any:
        if header.exchange == 35 and sa.host is end.endpoint:
            seen[0] += 1
            if seen[0] == count:
                payloads = change(list(payloads))
        return original(sa, header, payloads, *more)

    pair.seal = seal  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("of", "count", "change"),
    [
        ("b", 1, lambda ps: [p for p in ps if not isinstance(p, Auth)]),
        ("b", 1, lambda ps: [p for p in ps if not isinstance(p, IdR)]),
        ("b", 1, lambda ps: [p for p in ps if not isinstance(p, Eap)]),
        ("b", 2, lambda ps: []),
        ("b", 2, lambda ps: [Eap(b"\x03\x01\0\4")]),
        ("b", 2, lambda ps: [Eap(b"\x04\x01\0\4")]),
        ("b", 4, lambda ps: [Eap(b"\x01\x01\0\5\1")]),
        ("b", 5, lambda ps: [Auth(2, bytes(32)) if isinstance(p, Auth) else p for p in ps]),
        ("b", 5, lambda ps: [p for p in ps if not isinstance(p, Auth)]),
        ("a", 2, lambda ps: [Eap(b"")]),
        ("a", 2, lambda ps: [Eap(b"\x02\x07\xff\xff\1")]),
        ("a", 2, lambda ps: []),
        ("a", 3, lambda ps: [Eap(bytes(60000))]),
        ("a", 3, lambda ps: [Notify(NotifyType.ANOTHER_AUTH_FOLLOWS)]),
        ("a", 5, lambda ps: [Auth(2, bytes(32))]),
        ("a", 5, lambda ps: [*ps, Notify(NotifyType.ANOTHER_AUTH_FOLLOWS)]),
        ("a", 5, lambda ps: [Eap(b"\x02\x01\0\4")]),
        ("a", 1, lambda ps: [p for p in ps if p.payload_type != 35]),
    ],
)
def test_messages_that_do_not_fit(of: str, count: int, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipsecstack.keyex.ikev2 import fragmentation

    pair = eap_pair()
    forged(pair, change, of=of, count=count)
    monkeypatch.setattr(fragmentation, "seal", pair.seal)  # type: ignore[attr-defined]
    assert not attempt(pair, 600).success
    for end in pair.ends:
        assert not [sa for sa in end.ike() if sa.established is not None]
        assert not end.plane.sas
        assert not end.plane.reserved
        assert end.endpoint.next_timer() is None


@pytest.mark.parametrize("seed", range(10))
def test_mutated_eap_payloads(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever octets come as EAP from a peer with the right IKE keys: no traceback, no authentication, no leak."""
    from ipsecstack.keyex.ikev2 import fragmentation

    rng = random.Random(seed)
    original = fragmentation.seal
    pair = eap_pair(rng.choice(["mschapv2", "md5", "gtc", "tls"]), options=Options(retransmit_tries=1))
    changed = []

    def seal(sa: Any, header: Any, payloads: Any, *more: Any) -> Any:
        out = []
        for payload in payloads:
            if isinstance(payload, Eap) and rng.random() < 0.4:
                octets = bytearray(payload.data)
                for _ in range(rng.randrange(1, 4)):
                    octets[rng.randrange(len(octets))] = rng.randrange(256)
                if bytes(octets) != payload.data:
                    changed.append(sa)
                payload = Eap(bytes(octets[: rng.randrange(1, len(octets) + 20)]))
            out.append(payload)
        return original(sa, header, out, *more)

    monkeypatch.setattr(fragmentation, "seal", seal)
    outcome = attempt(pair, 120)
    assert outcome.success or not pair.a.plane.sas
    assert outcome.success or changed
