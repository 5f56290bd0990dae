"""What goes inside: selectors, modes, AH, IPComp, TFC, address pools, childless IKE_SAs."""

from __future__ import annotations

from dataclasses import replace

from interop.matrix.checks import (
    carries,
    childless,
    compressed,
    each_child,
    padded,
    pairs_of_selectors,
    virtual_address,
)
from interop.matrix.plan import LAN4, LAN6, Ends, Row

NO_TRANSPORT = {"userspace": "kernel-libipsec has no transport mode"}
NO_AH = {"userspace": "kernel-libipsec has no AH"}
NO_IPCOMP = {"userspace": "kernel-libipsec has no IPComp"}
NO_TFC = {"userspace": "kernel-libipsec puts no TFC padding on the wire"}
TRANSPORT = {"mode": "transport"}
DYNAMIC = ("dynamic", "dynamic")


def listed(family: int, *numbers: int) -> tuple[str, str]:
    """Several LANs of each end."""
    if family == 4:
        return tuple(",".join(f"10.{end}.{n}.0/24" for n in numbers) for end in (1, 2))  # type: ignore[return-value]
    return tuple(",".join(f"fd0{end}:{n}::/64" for n in numbers) for end in (1, 2))  # type: ignore[return-value]


POOL = {"p4": {"addrs": "10.77.0.0/24"}}
POOL6 = {"p6": {"addrs": "fd77::/120"}}
VIP = Ends(
    ts=("dynamic", LAN4[1]),
    a={"vips": "0.0.0.0"},
    b={"pools": "p4"},
    child_a={"remote_ts": LAN4[1]},
    child_b={"remote_ts": "dynamic"},
    pools=POOL,
)

ROWS = [
    *(
        Row("addresses", f"{name} tunnel", Ends(ts=ts, v6=v6, esp=esp), carries, quick=name == "6 in 6")
        for name, ts, v6, esp in (
            ("4 in 4", LAN4, False, "aes128gcm16"),
            ("6 in 4", LAN6, False, "aes128gcm16"),
            ("4 in 6", LAN4, True, "aes128gcm16"),
            ("6 in 6", LAN6, True, "aes128-sha256"),
        )
    ),
    Row(
        "selectors",
        "narrowed by the responder",
        Ends(ts=LAN4, child_a={"local_ts": "10.1.0.0/16", "remote_ts": "10.2.0.0/16"}),
        carries,
        quick=True,
    ),
    Row("selectors", "three of each side", Ends(ts=listed(4, 0, 1, 2)), pairs_of_selectors),
    Row(
        "selectors",
        "IPv4 and IPv6 in one child",
        Ends(ts=("10.1.0.0/24,fd01::/64", "10.2.0.0/24,fd02::/64")),
        pairs_of_selectors,
    ),
    Row("selectors", "UDP, one port", Ends(ts=("10.1.0.0/24[udp]", "10.2.0.0/24[udp]")), carries),
    Row(
        "selectors",
        "two children of one IKE_SA",
        Ends(more={"two": ("10.1.1.0/24", "10.2.1.0/24"), "three": ("fd01:1::/64", "fd02:1::/64")}),
        each_child,
    ),
    *(
        Row(
            "transport mode",
            name,
            replace(Ends(esp=esp), ts=DYNAMIC, v6=v6, child=TRANSPORT),
            carries,
            lacks=NO_TRANSPORT,
            octets=False,
        )
        for name, esp, v6 in (
            ("AES-GCM, IPv4", "aes128gcm16", False),
            ("AES-CBC, IPv4", "aes256-sha256", False),
            ("AES-GCM, IPv6", "aes128gcm16", True),
            ("ChaCha20, ESN, IPv6", "chacha20poly1305-esn", True),
        )
    ),
    *(
        Row(
            "AH",
            f"{mode}, {word}, IPv{6 if v6 else 4}",
            Ends(ts=LAN4 if mode == "tunnel" else DYNAMIC, v6=v6, child={"mode": mode, "ah_proposals": word}),
            carries,
            lacks=NO_AH,
            octets=False,
        )
        for mode in ("tunnel", "transport")
        for word, v6 in (
            ("sha256", False),
            ("sha512", True),
            ("sha1", False),
            ("aesxcbc", False),
            ("aescmac", True),
            ("sha384-esn", False),
        )
    ),
    Row(
        "AH",
        "tunnel, md5, IPv4",
        Ends(weak="ah", child={"ah_proposals": "md5"}),
        carries,
        lacks=NO_AH,
        octets=False,
    ),
    *(
        Row(
            "IPComp",
            name,
            Ends(ts=ts, v6=v6, child={"ipcomp": "yes", **child}),
            compressed,
            lacks=NO_IPCOMP,
            octets=False,
        )
        for name, ts, v6, child in (
            ("tunnel, IPv4", LAN4, False, {}),
            ("tunnel, IPv6", LAN6, True, {}),
            ("transport, IPv4", DYNAMIC, False, TRANSPORT),
        )
    ),
    Row("TFC", "padded to 1000 octets", Ends(child={"tfc_padding": "1000"}), padded, lacks=NO_TFC),
    Row("address pool", "IPv4", VIP, virtual_address("10.77.0."), octets=False, quick=True),
    Row(
        "address pool",
        "IPv6",
        replace(
            VIP,
            ts=("dynamic", LAN6[1]),
            a={"vips": "::"},
            b={"pools": "p6"},
            child_a={"remote_ts": LAN6[1]},
            pools=POOL6,
        ),
        virtual_address("fd77::"),
        octets=False,
    ),
    Row("childless", "forced, then a child", Ends(options={"childless": "force"}), childless, quick=True),
    Row("childless", "allowed, child at once", Ends(options={"childless": "allow"}), carries),
]
