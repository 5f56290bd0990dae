"""A pair whose initiator authenticates itself by EAP, and whose responder does by a certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ike_network import Pair, fqdn, mirrored, ts
from ike_pki import authority, certificate, make_key, pem

from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, Identity, PoolConfig, SharedSecret
from ipsecstack.keyex.options import Options

PASSWORD = b"correct horse"
ALICE = fqdn("alice")


def user(name: str, password: bytes = PASSWORD, kind: str = "eap") -> SharedSecret:
    return SharedSecret(f"{kind}-{name}", password, (identity.of_user(name.encode()),), kind)


def eap_pair(
    method: str = "mschapv2",
    *,
    server_method: str | None = None,
    ask: bool = True,
    load: bool = True,
    local2: AuthConfig | None = None,
    remote2: AuthConfig | None = None,
    first: AuthClass = AuthClass.EAP,
    server_auth: AuthClass = AuthClass.PUBKEY,
    options: Options | None = None,
    seed: int = 1,
    latency: float = 0.01,
    **both: Any,
) -> Pair:
    """``first`` is how a authenticates itself first; ``local2`` and ``remote2`` are second rounds of it."""
    a, b = mirrored(**both)
    pair = Pair(load=False, options=options, seed=seed, latency=latency)
    for end, name in ((pair.a, "a.lab"), (pair.b, "b.lab")):
        end.credentials.load_cert(certificate("ecdsa", name))
        end.credentials.load_key(pem(make_key("ecdsa", name)))
        end.credentials.load_cert(authority(), ca=True)
        end.credentials.load_shared(user("alice"))
    eap = first is AuthClass.EAP
    client = AuthConfig(first, fqdn("a.lab"), eap=method if eap else "", eap_id=ALICE if eap else None)
    any_id = Identity(0, b"", "%any")
    server = AuthConfig(
        first,
        fqdn("a.lab"),
        eap=(server_method if server_method is not None else method) if eap else "",
        eap_id=any_id if ask and eap else (ALICE if eap else None),
    )
    proof = AuthConfig(server_auth, fqdn("b.lab"), eap=method if server_auth is AuthClass.EAP else "")
    if method == "tls":
        client, server = replace(client, eap_id=None), replace(server, eap_id=None)
    local = (client, local2) if local2 is not None else (client,)
    remote = (server, remote2) if remote2 is not None else (server,)
    if load:
        pair.a.load(replace(a, local=local, remote=(proof,)))
        pair.b.load(replace(b, local=(proof,), remote=remote))
    return pair


def pool(name: str = "p4", first: str = "10.77.0.1", last: str = "10.77.0.6") -> PoolConfig:
    low, high = ts(f"{first}-{last}")[0].start, ts(f"{first}-{last}")[0].end
    return PoolConfig(name, low, high, first, ((3, bytes((10, 77, 0, 53))),))


__all__ = ["ALICE", "PASSWORD", "eap_pair", "pool", "user"]
