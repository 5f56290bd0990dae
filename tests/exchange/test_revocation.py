"""Revoked certificates in IKE_AUTH: known before, asked for meanwhile, and what the policies make of silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from ike_network import WALL, Pair, mirrored
from lab.revocation import RevokingCa, der, pem_key

from ipsecstack.crypto import revocation
from ipsecstack.keyex import base
from ipsecstack.keyex.base import FetchRevocation
from ipsecstack.keyex.configuration import AuthClass

URI = "http://ocsp.lab/"


class Lab:
    """Two ends with certificates of one CA; ``a`` asks whom the certificate of ``b`` names, if anybody."""

    def __init__(self, policy: str = "relaxed", **named: Any) -> None:
        self.ca = RevokingCa("lab CA", WALL + 1000)
        self.pair = Pair(load=False)
        self.certificates: dict[str, x509.Certificate] = {}
        for end, config, name in zip(
            self.pair.ends, mirrored(auth=AuthClass.PUBKEY), ("a.lab", "b.lab"), strict=True
        ):
            certificate, key = self.ca.issue(name, **(named if end is self.pair.b else {}))
            self.certificates[name] = certificate
            end.credentials.load_cert(der(certificate))
            end.credentials.load_key(pem_key(key))
            end.credentials.load_cert(self.ca.der, ca=True)
            remote = replace(config.remote[0], revocation=policy if end is self.pair.a else "relaxed")
            end.load(replace(config, remote=(remote,)))

    @property
    def asked(self) -> list[FetchRevocation]:
        return self.pair.a.heard(FetchRevocation)

    def start(self, who: str = "a", seconds: float = 1.0) -> int:
        end = getattr(self.pair, who)
        ticket = end.do(end.endpoint.initiate, ike="conn", child="net")
        self.pair.run(seconds)
        return ticket

    def deliver(self, data: bytes | None, fetch: FetchRevocation | None = None) -> None:
        end = self.pair.a
        end.endpoint.revocation_fetched(fetch or self.asked[-1], data, self.pair.now)
        end.flush()

    def up(self) -> bool:
        return [sa.state for sa in self.pair.a.ike()] == ["ESTABLISHED"] and bool(
            self.pair.a.children("INSTALLED")
        )


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("policy", ["strict", "ifuri", "relaxed"])
def test_a_list_that_is_there(policy: str, who: str) -> None:
    lab = Lab(policy)
    lab.pair.a.credentials.load_crl(lab.ca.crl())
    lab.start(who, 5)
    assert lab.up()
    lab.pair.check_no_leaks()


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("policy", ["strict", "ifuri", "relaxed"])
def test_a_revoked_certificate(policy: str, who: str) -> None:
    """Refused under every policy, whoever begins, and nothing stays behind."""
    lab = Lab(policy)
    lab.ca.revoke(lab.certificates["b.lab"], x509.ReasonFlags.key_compromise)
    lab.pair.a.credentials.load_crl(lab.ca.crl())
    lab.start(who, 40)
    assert not lab.pair.a.ike()
    assert "CERTIFICATE_REVOKED" in lab.pair.a.failures()
    assert any("was revoked (keyCompromise)" in line for line in lab.pair.a.log())
    assert not lab.pair.a.plane.sas
    assert not lab.pair.a.plane.reserved


@pytest.mark.parametrize(
    "policy,named,passes",
    [
        ("strict", {}, False),
        ("ifuri", {}, True),
        ("relaxed", {}, True),
    ],
)
def test_nobody_to_ask(policy: str, named: dict[str, Any], passes: bool) -> None:
    lab = Lab(policy, **named)
    lab.start(seconds=5)
    assert lab.up() is passes
    assert not lab.asked


@pytest.mark.parametrize("who", ["a", "b"])
def test_ocsp_holds_ike_auth_back(who: str) -> None:
    """The message waits, is received again when the answer is there, and the next SA need not ask."""
    lab = Lab("strict", ocsp_uris=(URI,))
    lab.start(who, 1.5)
    assert len(lab.asked) == 1
    assert lab.asked[0].body == revocation.ocsp_request(lab.certificates["b.lab"], lab.ca.certificate)
    assert not lab.up()
    assert not lab.pair.a.heard(base.IkeSaEstablished)
    lab.deliver(lab.ca.ocsp(lab.certificates["b.lab"]))
    lab.pair.run(0.5)
    assert lab.up(), "at once, not with a retransmission"
    assert not lab.pair.a.heard(base.NegotiationFailed)
    lab.pair.check_no_leaks()
    lab.pair.a.do(lab.pair.a.endpoint.terminate, ike="conn")
    lab.pair.run(5)
    lab.start(who, 2)
    assert lab.up()
    assert len(lab.asked) == 1


@pytest.mark.parametrize("who", ["a", "b"])
def test_retransmissions_meanwhile_change_nothing(who: str) -> None:
    lab = Lab("strict", ocsp_uris=(URI,))
    lab.start(who, 20)
    assert len(lab.asked) == 1
    assert len(lab.pair.a.ike()) == 1
    lab.deliver(lab.ca.ocsp(lab.certificates["b.lab"]))
    lab.pair.run(5)
    assert lab.up()
    assert len(lab.pair.a.heard(base.IkeSaEstablished)) == 1
    lab.pair.check_no_leaks()


@pytest.mark.parametrize("who", ["a", "b"])
def test_ocsp_says_revoked(who: str) -> None:
    lab = Lab("relaxed", ocsp_uris=(URI,))
    lab.ca.revoke(lab.certificates["b.lab"])
    lab.start(who, 1.5)
    lab.deliver(lab.ca.ocsp(lab.certificates["b.lab"]))
    lab.pair.run(40)
    assert "CERTIFICATE_REVOKED" in lab.pair.a.failures()
    assert not lab.pair.a.plane.sas


@pytest.mark.parametrize("policy,passes", [("strict", False), ("ifuri", False), ("relaxed", True)])
@pytest.mark.parametrize("came", [None, b"junk"])
def test_no_answer(policy: str, passes: bool, came: bytes | None) -> None:
    lab = Lab(policy, ocsp_uris=(URI,))
    lab.start(seconds=1.5)
    lab.deliver(came)
    lab.pair.run(1)
    assert lab.up() is passes
    if not passes:
        assert any("it is not known whether" in line for line in lab.pair.a.log())


def test_after_the_responder_the_list() -> None:
    """The second address is asked when the first failed; the message waits all the while."""
    lab = Lab("strict", ocsp_uris=(URI,), crl_uris=("http://crl.lab/",))
    lab.start(seconds=1.5)
    lab.deliver(None)
    assert [(f.uri, f.body is None) for f in lab.asked] == [(URI, False), ("http://crl.lab/", True)]
    assert not lab.up()
    lab.deliver(lab.ca.crl())
    lab.pair.run(1)
    assert lab.up()


def test_the_operator_names_a_responder() -> None:
    lab = Lab("ifuri")
    lab.pair.a.credentials.load_authority("lab", lab.ca.der, (), ("http://operator.lab/",))
    lab.start(seconds=1.5)
    assert [f.uri for f in lab.asked] == ["http://operator.lab/"]
    lab.deliver(lab.ca.ocsp(lab.certificates["b.lab"]))
    lab.pair.run(1)
    assert lab.up()


def test_a_stranger_makes_nobody_ask() -> None:
    """A certificate that no CA of ours has issued may name whom it likes."""
    lab = Lab("strict", ocsp_uris=(URI,))
    stranger = RevokingCa("elsewhere", WALL + 1000)
    certificate, key = stranger.issue("b.lab", ocsp_uris=("http://victim/",))
    b = lab.pair.b
    b.credentials.clear()
    b.credentials.load_cert(der(certificate))
    b.credentials.load_key(pem_key(key))
    b.credentials.load_cert(lab.ca.der, ca=True)
    lab.start(seconds=40)
    assert not lab.asked
    assert "CERTIFICATE_INVALID" in lab.pair.a.failures()


def test_what_waits_is_bounded_and_ends() -> None:
    """Nobody ever answers: the exchange ends by its own timers, with nothing kept."""
    lab = Lab("strict", ocsp_uris=(URI,))
    lab.start("b", 400)
    assert not lab.pair.a.ike()
    assert not lab.pair.b.ike()
    assert not lab.pair.a.plane.sas
    assert not lab.pair.a.plane.reserved
    endpoint = lab.pair.a.endpoint
    for number in range(100):
        endpoint.postpone(bytes((number,)), b"data", None, None, lab.pair.now)  # type: ignore[arg-type]
    assert len(endpoint._postponed) == 64
    endpoint.postpone(b"later", b"data", None, None, lab.pair.now + 31)  # type: ignore[arg-type]
    assert list(endpoint._postponed) == [b"later"]
