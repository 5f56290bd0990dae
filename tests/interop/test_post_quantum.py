"""Several key exchanges with ML-KEM between two daemons: IKE_INTERMEDIATE in fragments, IKE_FOLLOWUP_KE.

Debian's strongSwan (5.9) has neither; with LAB_STRONGSWAN=PREFIX of a strongSwan 6 it is the peer in both roles.
"""

from __future__ import annotations

import pytest
from lab import traffic
from lab.gateway import Gateway
from lab.process import wait_until
from lab.swanconf import Child, Tunnel
from lab.tools import STRONGSWAN

KEMS = "ke1_mlkem768-ke2_mlkem1024"
TUNNEL = Tunnel(
    ike=f"aes256gcm16-prfsha384-x25519-{KEMS}",
    children=(Child("net", ("10.1.0.0/24", "10.2.0.0/24"), esp=f"aes256gcm16-x25519-{KEMS}"),),
    options={"fragmentation": "yes"},
)
KINDS = [("ours", "ours")]
if STRONGSWAN:
    KINDS += [("ours", "strongswan"), ("strongswan", "ours")]


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_ml_kem(make_pair, kinds: tuple[str, str]) -> None:
    pair = make_pair(kinds, (TUNNEL,))
    pair.a.initiate("net")
    pair.b.wait_child("net")
    ours = [gateway for gateway, kind in zip(pair.gateways, kinds, strict=True) if kind == "ours"]
    for gateway in ours:
        listed = gateway.ike_sa().raw
        assert (listed["ke1-alg"], listed["ke2-alg"]) == ("ML_KEM_768", "ML_KEM_1024")
        assert int(listed["counters"]["fragments-in"]) > 0
        assert int(listed["counters"]["fragments-out"]) > 0
    assert traffic.ping(pair.a.namespace, *pair.ends()).lost == 0
    for gateway in pair.gateways:
        before = installed(gateway)
        with gateway.vici() as session:
            session.rekey({"child": "net"})
        wait_until(lambda g=gateway, b=before: installed(g) not in ([], b), 10, "the child is rekeyed")
        wait_until(lambda g=gateway: len(installed(g)) == 1, 10, "the old one is gone")
        old = gateway.ike_sa().spis
        with gateway.vici() as session:
            session.rekey({"ike": TUNNEL.name})
        wait_until(
            lambda g=gateway, o=old: len(g.ike_sas()) == 1 and g.ike_sas()[0].spis != o,
            10,
            "the IKE_SA is rekeyed",
        )
        assert traffic.ping(pair.a.namespace, *pair.ends()).lost == 0
    assert sorted(pair.a.ike_sa().spis) == sorted(pair.b.ike_sa().spis)


def installed(gateway: Gateway) -> list[tuple[str, str]]:
    return [child.spis for sa in gateway.ike_sas() for child in sa.children if child.state == "INSTALLED"]
