"""Every registered algorithm negotiated between two ends, and its keys in both data planes' hands."""

from __future__ import annotations

from typing import Any

import pytest
from ike_network import Pair, mirrored

from ipsecstack.crypto import encr, integ, ke, prf
from ipsecstack.ipsec.sa import Direction, SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.wire.transforms import AEAD_ENCR, KEY_LENGTH_REQUIRED, EncrId, EsnId, IntegId, KeId, PrfId

SHA = (IntegId.HMAC_SHA2_256_128,)
PRF = (PrfId.HMAC_SHA2_256,)
KE = (KeId.CURVE_25519,)
CBC = ((EncrId.AES_CBC, 128),)


def up(ike: Proposal | None = None, esp: Proposal | None = None) -> Pair:
    options: dict[str, Any] = {}
    if ike is not None:
        options["proposals"] = (ike,)
    if esp is not None:
        options["child_options"] = {"proposals": (esp,)}
    pair = Pair(load=False)
    for end, config in zip(pair.ends, mirrored(**options), strict=True):
        end.load(config)
    pair.up()
    return pair


def same_keys(pair: Pair) -> None:
    """What one end sends with, the other receives with."""
    for sender, receiver in ((pair.a, pair.b), (pair.b, pair.a)):
        (out,) = sender.plane.outbound()
        there = receiver.plane.sas[
            out.id.__class__(Direction.IN, out.protocol, out.spi, out.destination.host)
        ]
        assert (out.key_encr, out.key_integ) == (there.key_encr, there.key_integ)
        assert len(out.key_encr) == encr.get(out.encr, out.encr_key_bits).keymat_octets
        assert len(out.key_integ) == integ.get(out.integ).key_octets


def bits(algorithm: encr.Encr) -> int:
    return algorithm.key_bits if algorithm.id in KEY_LENGTH_REQUIRED else 0


CIPHERS = [pytest.param(a, id=f"{a.name}-{a.key_bits}") for a in encr.registered()]


@pytest.mark.parametrize("algorithm", CIPHERS)
def test_cipher_of_esp(algorithm: encr.Encr) -> None:
    aead = algorithm.id in AEAD_ENCR
    pair = up(
        esp=Proposal(
            SecurityProtocol.ESP, ((algorithm.id, bits(algorithm)),), () if aead else SHA, esn=(EsnId.NO_ESN,)
        )
    )
    assert {sa.encr for end in pair.ends for sa in end.plane.sas.values()} == {algorithm.id}
    same_keys(pair)


@pytest.mark.parametrize("algorithm", [p for p in CIPHERS if not p.values[0].esp_only])
def test_cipher_of_ike(algorithm: encr.Encr) -> None:
    aead = algorithm.id in AEAD_ENCR
    pair = up(
        Proposal(SecurityProtocol.IKE, ((algorithm.id, bits(algorithm)),), () if aead else SHA, PRF, KE)
    )
    assert {end.ike()[0].encr for end in pair.ends} == {algorithm.id}
    pair.a.do(pair.a.endpoint.rekey, ike="conn")
    pair.run(5)
    assert [sa.state for sa in pair.a.ike()] == ["ESTABLISHED"]
    pair.check_no_leaks()


MACS = [pytest.param(a, id=a.name) for a in integ.registered() if a.icv_octets and not a.ah_only]


@pytest.mark.parametrize("algorithm", MACS)
def test_integrity(algorithm: integ.Integ) -> None:
    pair = up(
        Proposal(SecurityProtocol.IKE, CBC, (algorithm.id,), PRF, KE),
        Proposal(SecurityProtocol.ESP, CBC, (algorithm.id,), esn=(EsnId.ESN,)),
    )
    assert {end.ike()[0].integ for end in pair.ends} == {algorithm.id}
    assert {sa.integ for end in pair.ends for sa in end.plane.sas.values()} == {algorithm.id}
    same_keys(pair)


@pytest.mark.parametrize("function", [pytest.param(f, id=f.name) for f in prf.registered()])
def test_prf(function: prf.Prf) -> None:
    pair = up(Proposal(SecurityProtocol.IKE, CBC, SHA, (function.id,), KE))
    assert {end.ike()[0].prf for end in pair.ends} == {function.id}
    same_keys(pair)


@pytest.mark.parametrize("group", [pytest.param(g, id=g.name) for g in ke.registered()])
def test_key_exchange(group: ke.Ke) -> None:
    """In IKE_SA_INIT, and with a KE payload of its own when the child is rekeyed."""
    pair = up(
        Proposal(SecurityProtocol.IKE, CBC, SHA, PRF, (group.id,)),
        Proposal(SecurityProtocol.ESP, CBC, SHA, ke=(group.id,), esn=(EsnId.NO_ESN,)),
    )
    assert {end.ike()[0].ke for end in pair.ends} == {group.id}
    pair.a.do(pair.a.endpoint.rekey, child="net")
    pair.run(20)
    assert {c.ke for end in pair.ends for c in end.children("INSTALLED")} == {group.id}
    same_keys(pair)
    pair.check_no_leaks()
