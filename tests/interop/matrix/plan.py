"""What a row of the matrix is: a configuration for both ends, the ground it stands on, and what is checked.

End 0 ("a") initiates, end 1 ("b") responds; `us` is the end that is ours, which the role decides. A row is tried once
for each role and each kind of peer that can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from interop.matrix.lane import Lane

Role = Literal["initiator", "responder"]
Peer = Literal["userspace", "kernel"]
ROLES: tuple[Role, ...] = ("initiator", "responder")
PEERS: tuple[Peer, ...] = ("userspace", "kernel")
Options = Mapping[str, Any]

CONN, CHILD = "row", "net"
LAN4, LAN6 = ("10.1.0.0/24", "10.2.0.0/24"), ("fd01::/64", "fd02::/64")
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16"
CERTIFICATES = ("ecdsa", "rsa", "ed25519", "ed448", "chain")

LISTS = frozenset(
    {
        *(
            "local_addrs",
            "remote_addrs",
            "proposals",
            "esp_proposals",
            "ah_proposals",
            "local_ts",
            "remote_ts",
        ),
        *("vips", "pools", "groups", "cert_policy", "certs", "cacerts", "pubkeys"),
    }
)


@dataclass(frozen=True)
class Ground:
    """Where a lane's daemons stand. Rows of equal ground share a pair of daemons.

    `net`: "wire", "delay" (each frame comes late), "routed"; `nat`: which ends are behind a masquerading router;
    `settings`: charon's, `ours`: ipsecstackd's.
    """

    net: Literal["wire", "delay", "routed"] = "wire"
    nat: frozenset[int] = frozenset()
    no_fragments: bool = False
    settings: tuple[tuple[str, str], ...] = ()
    ours: tuple[tuple[str, str], ...] = ()


WIRE = Ground()


@dataclass(frozen=True)
class Ends:
    """A connection as both ends have it. `a`, `b` go to one end, `us`, `peer` to whoever that is; later ones win.

    `auth`: how a and how b prove who they are: "psk", a kind of certificate, "eap-mschapv2" … (a only), or "any".
    `weak`: which of "ike", "esp", "ike esp" names a weak algorithm, which our configuration wants spelled out.
    """

    ike: str = IKE
    esp: str = ESP
    auth: tuple[str, str] = ("psk", "psk")
    ts: tuple[str, str] = LAN4
    weak: str = ""
    options: Options = field(default_factory=dict)
    a: Options = field(default_factory=dict)
    b: Options = field(default_factory=dict)
    us: Options = field(default_factory=dict)
    peer: Options = field(default_factory=dict)
    child: Options = field(default_factory=dict)
    child_a: Options = field(default_factory=dict)
    child_b: Options = field(default_factory=dict)
    child_us: Options = field(default_factory=dict)
    child_peer: Options = field(default_factory=dict)
    parties: Mapping[tuple[int | str, str], Options] = field(default_factory=dict)
    """Further keys of `local` and `remote`: (end or "us" or "peer", "local") -> keys."""
    more: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Further children: name -> selectors."""
    sections: Mapping[int, Options] = field(default_factory=dict)
    """Further sections of an end's connection, such as local-2 for a second round of authentication."""
    pools: Mapping[str, Options] = field(default_factory=dict)
    """Address pools of b."""
    v6: bool = False
    """IPv6 outside."""


@dataclass(frozen=True)
class Row:
    """One scenario. `lacks`: peers that cannot do it -> why. `quick`: one of its family that `make test` runs, too.

    `octets`: whether both ends must count exactly the octets sent (not where headers are changed or compressed).
    """

    family: str
    name: str
    ends: Ends = field(default_factory=Ends)
    check: Callable[[Lane, Row], dict[str, Any]] | None = None
    ground: Ground = WIRE
    lacks: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[Role, ...] = ROLES
    quick: bool = False
    octets: bool = True

    @property
    def title(self) -> str:
        return f"{self.family}: {self.name}"


def identity(auth: str, end: int) -> str:
    """The IKE identity that goes with a way to prove it."""
    letter = "ab"[end]
    return f"{letter}.{auth}.lab" if auth in CERTIFICATES else f"{letter}.lab"


def kind_of(auth: str) -> str:
    """The kind of certificate behind an auth word such as rsa-pss or ecdsa-sha384."""
    return auth.partition("/")[0]


def party(auth: str, end: int, own: bool) -> dict[str, Any]:
    """The `local` (own) or `remote` section for `end`'s way to prove who it is; "rsa/rsa/pss-sha256" names a scheme."""
    kind, _, scheme = auth.partition("/")
    if kind in CERTIFICATES:
        words = scheme if scheme and own else "pubkey"
        section = {"auth": words, "id": identity(kind, end)}
        return {**section, "certs": f"{kind}-{'ab'[end]}"} if own else section
    if kind.startswith("eap"):
        section = {"auth": kind, "id": identity(kind, end)}
        return {**section, "eap_id": "alice"} if own else {**section, "eap_id": "%any"}
    return {"auth": kind, "id": identity(kind, end)}


def render(
    ends: Ends, us: int, addresses: tuple[tuple[str, str], tuple[str, str]], weak: str = "-weak"
) -> list[dict[str, Any]]:
    """`load-conn` sections of both ends; values still text. `addresses`: (local, remote) of each end.

    `weak`: what our configuration wants behind a proposal with a weak algorithm.
    """
    made = []
    for end in (0, 1):
        other = 1 - end
        ours = end == us
        marks = {what: weak if ours and what in ends.weak else "" for what in ("ike", "esp")}
        by_end = (ends.a, ends.b)[end], (ends.us if ours else ends.peer)
        child_by_end = (ends.child_a, ends.child_b)[end], (ends.child_us if ours else ends.child_peer)
        child: dict[str, Any] = {"esp_proposals": ends.esp + marks["esp"], **ends.child}
        for options in child_by_end:
            child.update(options)
        if child.get("ah_proposals"):
            child.pop("esp_proposals")
            child["ah_proposals"] += weak if ours and "ah" in ends.weak else ""
        children = {CHILD: {"local_ts": ends.ts[end], "remote_ts": ends.ts[other], **child}}
        for name, ts in ends.more.items():
            children[name] = {**child, "local_ts": ts[end], "remote_ts": ts[other]}
        section: dict[str, Any] = {
            "version": "2",
            "local_addrs": addresses[end][0],
            "remote_addrs": addresses[end][1],
            "proposals": ends.ike + marks["ike"],
            **ends.options,
        }
        for options in by_end:
            section.update(options)
        for name, whose in (("local", end), ("remote", other)):
            section[name] = {
                **party(ends.auth[whose], whose, name == "local"),
                **ends.parties.get((end, name), {}),
                **ends.parties.get(("us" if ours else "peer", name), {}),
            }
        section.update(ends.sections.get(end, {}))
        section["children"] = children
        made.append(section)
    return made


def listed(section: Options, blobs: Mapping[str, bytes]) -> dict[str, Any]:
    """A section as `load-conn` wants it: lists where swanctl makes lists, certificates instead of their names."""
    made: dict[str, Any] = {}
    for key, value in section.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            made[key] = listed(value, blobs)
        elif key in ("certs", "cacerts"):
            made[key] = [blobs[name.strip()] for name in str(value).split(",")]
        elif key in LISTS and not isinstance(value, list):
            made[key] = [word.strip() for word in str(value).split(",")]
        else:
            made[key] = value if isinstance(value, list) else str(value)
    return made
