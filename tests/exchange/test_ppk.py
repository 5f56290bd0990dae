"""Post-quantum pre-shared keys (RFC 8784): both roles, with and without a way back, and the keys by hand."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from eap_support import eap_pair
from ike_network import Pair, fqdn, mirrored

from ipsecstack.config.proposals import parse_proposal
from ipsecstack.crypto import ikekeys, prf
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, SharedSecret
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Auth, Message, Notify, NotifyType
from ipsecstack.wire.ikev2.numbers import ExchangeType
from ipsecstack.wire.transforms import PrfId

PPK = bytes(range(32))
POST_QUANTUM = (parse_proposal("aes256gcm16-prfsha256-x25519-ke1_mlkem1024", SecurityProtocol.IKE),)


def pair(
    a: dict[str, Any], b: dict[str, Any], *, a_key: bytes | None = PPK, b_key: bytes | None = PPK, **more: Any
) -> Pair:
    one, other = mirrored(**more)
    made = Pair(a=replace(one, **a), b=replace(other, **b))
    for end, key in ((made.a, a_key), (made.b, b_key)):
        if key is not None:
            end.credentials.load_shared(SharedSecret("ppk-one", key, (fqdn("one.ppk"),), "ppk"))
    return made


ID = {"ppk_id": fqdn("one.ppk")}
REQUIRED = {**ID, "ppk_required": True}
OTHER = {"ppk_id": fqdn("other.ppk")}


def sa_of(made: Pair, end: str = "a") -> IkeSa:
    return next(iter((made.a if end == "a" else made.b).endpoint.ike_sas_of()))


def used(made: Pair) -> set[bool]:
    return {sa.ppk for end in made.ends for sa in end.ike()}


@pytest.mark.parametrize("a, b", [(REQUIRED, REQUIRED), (ID, ID), (ID, {}), (REQUIRED, {}), (ID, REQUIRED)])
def test_both_have_it(a: dict[str, Any], b: dict[str, Any]) -> None:
    made = pair(a, b)
    made.up()
    assert used(made) == {True}
    one, other = sa_of(made), sa_of(made, "b")
    assert one.keys == other.keys
    # It goes on when the IKE SA is rekeyed, and is in the keys of what follows.
    made.a.do(made.a.endpoint.rekey, ike="conn")
    made.run(5)
    assert used(made) == {True}
    made.check_agreement()
    made.check_no_leaks()


def test_a_pattern_at_the_responder() -> None:
    made = pair(ID, {"ppk_id": fqdn("*.ppk"), "ppk_required": True})
    made.up()
    assert used(made) == {True}
    made = pair(ID, {"ppk_id": fqdn("*.other"), "ppk_required": True})
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(1)
    assert not made.a.ike()


@pytest.mark.parametrize("b_key", [None, PPK])
def test_back_to_none(b_key: bytes | None) -> None:
    """The responder has no PPK at all, or not this one."""
    made = pair(ID, OTHER if b_key else {}, b_key=b_key)
    if b_key:
        made.b.credentials.unload_shared("ppk-one")
        made.b.credentials.load_shared(SharedSecret("x", PPK, (fqdn("other.ppk"),), "ppk"))
    made.up()
    assert used(made) == {False}
    made.check_agreement()
    made.a.do(made.a.endpoint.rekey, child="net")
    made.run(5)
    made.check_agreement()


@pytest.mark.parametrize(
    "a, b, a_key, b_key, text",
    [
        (REQUIRED, {}, PPK, None, "peer does not support PPK"),
        (REQUIRED, {}, None, PPK, "no PPK found for 'one.ppk'"),
        (REQUIRED, OTHER, PPK, PPK, "AUTHENTICATION_FAILED"),
        ({}, REQUIRED, PPK, PPK, "AUTHENTICATION_FAILED"),
        (ID, REQUIRED, None, PPK, "AUTHENTICATION_FAILED"),
        (REQUIRED, REQUIRED, PPK, bytes(32), "AUTHENTICATION_FAILED"),
        (ID, ID, PPK, bytes(32), "AUTHENTICATION_FAILED"),
    ],
)
def test_refused(
    a: dict[str, Any], b: dict[str, Any], a_key: bytes | None, b_key: bytes | None, text: str
) -> None:
    made = pair(a, b, a_key=a_key, b_key=b_key)
    ticket = made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(60)
    outcome = made.a.outcome(ticket)
    assert outcome is not None
    assert not outcome.success
    assert text in outcome.message
    assert not made.a.ike()
    assert not made.b.ike()
    made.check_no_leaks()


def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """USE_PPK in IKE_SA_INIT, PPK_IDENTITY (PPK_ID_FIXED) and NO_PPK_AUTH in the request, an empty one in return."""
    seen: list[Message] = []
    made = pair(ID, ID)
    original = machine._log_out

    def note(sa: IkeSa, message: Message) -> None:
        seen.append(message)
        original(sa, message)

    monkeypatch.setattr(machine, "_log_out", note)
    made.up()
    init, init_answer = (m for m in seen if m.header.exchange == ExchangeType.IKE_SA_INIT)
    auth, auth_answer = (m for m in seen if m.header.exchange == ExchangeType.IKE_AUTH)
    for message in (init, init_answer):
        assert message.notify(NotifyType.USE_PPK) == Notify(NotifyType.USE_PPK)
    assert auth.notify(NotifyType.PPK_IDENTITY) == Notify(NotifyType.PPK_IDENTITY, b"\x02one.ppk")
    fallback, proof = auth.notify(NotifyType.NO_PPK_AUTH), auth.get(Auth)
    assert fallback is not None
    assert proof is not None
    assert len(fallback.data) == len(proof.data)
    assert fallback.data != proof.data
    assert auth_answer.notify(NotifyType.PPK_IDENTITY) == Notify(NotifyType.PPK_IDENTITY)
    assert auth_answer.notify(NotifyType.NO_PPK_AUTH) is None


def test_the_keys_by_hand() -> None:
    """prf+(PPK, SK_d') and its like, spelled out with HMAC-SHA-256."""
    keys = ikekeys.IkeKeys(*(bytes((n,)) * 32 for n in range(7)))
    mixed = ikekeys.with_ppk(prf.get(PrfId.HMAC_SHA2_256), keys, PPK)
    for name in ("sk_d", "sk_pi", "sk_pr"):
        expected = hmac.new(PPK, getattr(keys, name) + b"\x01", hashlib.sha256).digest()
        assert getattr(mixed, name) == expected
    for name in ("sk_ai", "sk_ar", "sk_ei", "sk_er"):
        assert getattr(mixed, name) == getattr(keys, name)
    assert "01" * 32 not in repr(mixed)


@pytest.mark.parametrize("method", ["mschapv2", "md5", "tls"])
@pytest.mark.parametrize("known", [True, False])
def test_with_eap(method: str, known: bool) -> None:
    """The PPK is in the AUTH that ends EAP, with the method's key or without."""
    options: dict[str, Any] = {"ppk_id": fqdn("one.ppk"), "proposals": POST_QUANTUM}
    made = eap_pair(method, **options)
    made.a.credentials.load_shared(SharedSecret("ppk-one", PPK, (fqdn("one.ppk"),), "ppk"))
    name = "one.ppk" if known else "other.ppk"
    made.b.credentials.load_shared(SharedSecret("ppk-one", PPK, (fqdn(name),), "ppk"))
    made.up()
    assert used(made) == {known}
    assert sa_of(made).keys == sa_of(made, "b").keys
    made.a.do(made.a.endpoint.rekey, ike="conn")
    made.run(5)
    made.check_agreement()


@pytest.mark.parametrize("known", [True, False])
def test_with_two_rounds(known: bool) -> None:
    second = AuthConfig(AuthClass.PUBKEY, fqdn("a.lab"))
    made = eap_pair("mschapv2", local2=second, remote2=second, ppk_id=fqdn("one.ppk"), ppk_required=known)
    made.a.credentials.load_shared(SharedSecret("ppk-one", PPK, (fqdn("one.ppk"),), "ppk"))
    name = "one.ppk" if known else "other.ppk"
    made.b.credentials.load_shared(SharedSecret("ppk-one", PPK, (fqdn(name),), "ppk"))
    made.up()
    assert used(made) == {known}
    made.check_agreement()


def test_required_by_the_responder_of_eap() -> None:
    made = eap_pair("mschapv2")
    (config,) = made.b.endpoint.connections()
    made.b.load(replace(config, **REQUIRED))
    made.b.credentials.load_shared(SharedSecret("ppk-one", PPK, (fqdn("one.ppk"),), "ppk"))
    made.a.do(made.a.endpoint.initiate, ike=None, child="net")
    made.run(30)
    assert "AUTHENTICATION_FAILED" in made.b.failures()
    assert not made.a.ike()
    assert not made.b.ike()
