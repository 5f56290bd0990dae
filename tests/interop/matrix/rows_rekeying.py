"""Rekeying: by time and by octets under traffic, IKE_SAs, reauthentication, and both ends at once a hundred times."""

from __future__ import annotations

from interop.matrix.plan import LAN4, Ends, Ground, Row
from interop.matrix.rekeying import (
    at_once,
    by_command,
    by_lifetime,
    by_octets,
    reauthenticated,
)

ROUNDS = 100
# strongSwan keeps a child that is deleted until the delay is over: five seconds otherwise.
DELAY = Ground(net="delay", settings=(("delete_rekeyed_delay", "1"),))
DELAY_LONG = Ground(net="delay")
QUICK_CHILD = {"rekey_time": "2s", "rand_time": "0s", "life_time": "60s"}
QUICK_IKE = {"rekey_time": "2s", "rand_time": "0s", "over_time": "60s"}
FEW_OCTETS = {"rekey_bytes": "300000", "rand_bytes": "0", "life_bytes": "30000000"}
PFS = "aes128gcm16-x25519"

ROWS = [
    Row("rekey under traffic", "child, by us", Ends(esp=PFS), by_command("child", "us"), quick=True),
    Row("rekey under traffic", "child, by strongSwan", Ends(esp=PFS), by_command("child", "peer")),
    Row("rekey under traffic", "IKE_SA, by us", Ends(), by_command("ike", "us"), quick=True),
    Row("rekey under traffic", "IKE_SA, by strongSwan", Ends(), by_command("ike", "peer")),
    Row("rekey under traffic", "child by time, ours", Ends(child_us=QUICK_CHILD), by_lifetime("child")),
    Row("rekey under traffic", "child by time, theirs", Ends(child_peer=QUICK_CHILD), by_lifetime("child")),
    Row("rekey under traffic", "child by octets, ours", Ends(child_us=FEW_OCTETS), by_octets),
    Row(
        "rekey under traffic",
        "child by octets, theirs",
        Ends(child_peer=FEW_OCTETS),
        by_octets,
        lacks={"userspace": "kernel-libipsec has no lifetimes in octets"},
    ),
    Row("rekey under traffic", "IKE_SA by time, ours", Ends(us=QUICK_IKE), by_lifetime("ike")),
    Row("rekey under traffic", "IKE_SA by time, theirs", Ends(peer=QUICK_IKE), by_lifetime("ike")),
    Row("reauthentication", "by us, make before break", Ends(), reauthenticated("us"), quick=True),
    Row("reauthentication", "by strongSwan, make before break", Ends(), reauthenticated("peer")),
    Row(
        "rekey at once",
        f"children, {ROUNDS} times",
        Ends(esp=PFS, ts=LAN4),
        at_once("child", "child", ROUNDS),
        DELAY,
    ),
    Row("rekey at once", f"IKE_SAs, {ROUNDS} times", Ends(), at_once("ike", "ike", ROUNDS), DELAY),
    Row(
        "rekey at once",
        f"child by us, IKE_SA by strongSwan, {ROUNDS // 4} times",
        Ends(),
        at_once("child", "ike", ROUNDS // 4),
        DELAY,
    ),
    Row(
        "rekey at once",
        f"IKE_SA by us, child by strongSwan, {ROUNDS // 4} times",
        Ends(),
        at_once("ike", "child", ROUNDS // 4),
        DELAY,
    ),
    Row(
        "rekey at once",
        "children, under traffic, 4 times",
        Ends(esp=PFS),
        at_once("child", "child", 4, traffic=True),
        DELAY_LONG,
    ),
]
