"""What lies between: NAT on either side and on both, lost fragments, addresses that change, redirection."""

from __future__ import annotations

from interop.matrix.checks import carries
from interop.matrix.network import (
    dropped,
    fragmented,
    moves,
    moves_behind_nat,
    rebound,
    redirected,
    responder_moves,
    translated,
)
from interop.matrix.plan import Ends, Ground, Row

NO_TRANSPORT = {"userspace": "kernel-libipsec has no transport mode"}
CHAIN = ("chain", "chain")
LOSSY = Ground(net="routed", no_fragments=True)


def nat(*ends: int) -> Ground:
    return Ground(net="routed", nat=frozenset(ends))


PLACES = {"before the initiator": nat(0), "before the responder": nat(1), "before both": nat(0, 1)}
ROUTED = Ground(net="routed")

ROWS = [
    *(
        Row(
            "NAT",
            f"{where}, {name}",
            Ends(esp=esp),
            translated,
            ground,
            quick=len(ground.nat) == 1 and "GCM" in name,
        )
        for where, ground in PLACES.items()
        for name, esp in (("AES-GCM", "aes128gcm16"), ("AES-CBC", "aes128-sha256"))
    ),
    *(
        Row(
            "NAT",
            f"{where}, transport mode",
            Ends(ts=("dynamic", "dynamic"), child={"mode": "transport"}),
            translated,
            ground,
            lacks=NO_TRANSPORT,
            octets=False,
        )
        for where, ground in PLACES.items()
    ),
    Row(
        "NAT",
        "the router forgets, traffic from inside",
        Ends(a={"dpd_delay": "1s"}),
        rebound,
        nat(0),
        quick=True,
    ),
    Row("NAT", "none, encapsulation forced by us", Ends(us={"encap": "yes"}), carries, ROUTED),
    Row("NAT", "none, encapsulation forced by strongSwan", Ends(peer={"encap": "yes"}), carries, ROUTED),
    Row(
        "fragments lost",
        "IKE fragmentation, three certificates",
        Ends(auth=CHAIN, options={"fragmentation": "yes"}),
        fragmented,
        LOSSY,
        quick=True,
    ),
    Row(
        "fragments lost",
        "IKE fragmentation forced",
        Ends(options={"fragmentation": "force"}),
        fragmented,
        LOSSY,
    ),
    Row(
        "fragments lost",
        "IKE fragmentation, IPv6",
        Ends(auth=CHAIN, options={"fragmentation": "yes"}, v6=True),
        fragmented,
        LOSSY,
    ),
    Row(
        "fragments lost",
        "none: three certificates do not get through",
        Ends(auth=CHAIN, options={"fragmentation": "no"}),
        dropped,
        LOSSY,
    ),
    Row(
        "MOBIKE",
        "the initiator moves, under traffic",
        Ends(options={"mobike": "yes"}),
        moves,
        ROUTED,
        quick=True,
    ),
    Row("MOBIKE", "the initiator moves, IPv6", Ends(options={"mobike": "yes"}, v6=True), moves, ROUTED),
    Row(
        "MOBIKE",
        "the initiator moves behind a NAT",
        Ends(options={"mobike": "yes"}),
        moves_behind_nat,
        nat(0),
    ),
    Row(
        "MOBIKE", "the responder loses its address", Ends(options={"mobike": "yes"}), responder_moves, ROUTED
    ),
    Row("redirect", "an established IKE_SA", Ends(), redirected, quick=True),
]
