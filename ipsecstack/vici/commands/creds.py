"""load-cert, load-key, load-shared and their kin. What is loaded never comes back: only identifiers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.config.certs import require_ca, to_der
from ipsecstack.config.state import SHARED_KINDS, shared_secret
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import command, success
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

_KEY_TYPES = ("rsa", "ecdsa", "ed25519", "ed448", "any")
_UNSUPPORTED_SHARED = ("xauth",)


@command("load-cert")
def load_cert(server: ViciServer, request: Request, now: float) -> Outgoing:
    kind = (request.text("type") or "").upper()
    flag = (request.text("flag") or "NONE").upper()
    if not kind:
        raise RequestError("certificate type missing")
    if kind == "X509CA":  # the spelling of older clients
        kind, flag = "X509", "CA"
    if kind == "X509CRL":
        kind = "X509_CRL"
    if kind not in ("X509", "X509_CRL"):
        raise RequestError(f"certificates of type '{kind}' are not supported yet; only X509 and X509_CRL")
    if flag not in ("NONE", "CA"):
        raise RequestError(f"certificate flag '{flag}' is not supported yet; only NONE and CA")
    data = request.data("data")
    if data is None:
        raise RequestError("certificate data missing")
    if kind == "X509_CRL":
        server.credentials.load_crl(data)
        return success()
    der = require_ca(data) if flag == "CA" else to_der(data)
    server.credentials.load_cert(der, flag == "CA")
    return success()


@command("load-key")
def load_key(server: ViciServer, request: Request, now: float) -> Outgoing:
    kind = (request.text("type") or "").lower()
    if not kind:
        raise RequestError("key type missing")
    if kind not in _KEY_TYPES:
        raise RequestError(f"invalid key type: {kind}")
    data = request.data("data")
    if data is None:
        raise RequestError("key data missing")
    return {"success": "yes", "id": server.credentials.load_key(data, request.data("passphrase"))}


@command("unload-key")
def unload_key(server: ViciServer, request: Request, now: float) -> Outgoing:
    id_ = request.text("id")
    if id_ is None:
        raise RequestError("key id missing")
    server.credentials.unload_key(id_.lower())
    return success()


@command("get-keys")
def get_keys(server: ViciServer, request: Request, now: float) -> Outgoing:
    return {"keys": server.credentials.key_ids()}


@command("load-shared")
def load_shared(server: ViciServer, request: Request, now: float) -> Outgoing:
    kind = (request.text("type") or "").lower()
    if not kind:
        raise RequestError("shared key type missing")
    if kind in _UNSUPPORTED_SHARED:
        raise RequestError(
            f"shared keys of type '{kind}' are not supported yet; only {', '.join(SHARED_KINDS)}"
        )
    if kind not in SHARED_KINDS:
        raise RequestError(f"invalid shared key type: {kind}")
    data = request.data("data")
    if data is None:
        raise RequestError("shared key data missing")
    owners = request.words("owners")
    # Without an id strongSwan keeps a key that cannot be unloaded; ours gets a name made of its owners.
    id_ = request.text("id") or f"{'' if kind == 'ike' else kind + ' '}for {', '.join(owners) or '%any'}"
    server.credentials.load_shared(shared_secret(id_, data, owners, kind))
    return success()


@command("unload-shared")
def unload_shared(server: ViciServer, request: Request, now: float) -> Outgoing:
    id_ = request.text("id")
    if id_ is None:
        raise RequestError("unique identifier missing")
    server.credentials.unload_shared(id_)
    return success()


@command("get-shared")
def get_shared(server: ViciServer, request: Request, now: float) -> Outgoing:
    return {"keys": server.credentials.shared_ids()}


@command("clear-creds")
def clear_creds(server: ViciServer, request: Request, now: float) -> Outgoing:
    """Forget all secrets, keys and certificates; SAs that are up stay. reload-settings brings those of files back."""
    server.credentials.clear()
    return success()


@command("flush-certs")
def flush_certs(server: ViciServer, request: Request, now: float) -> Outgoing:
    """Forget fetched revocation lists and OCSP responses, to have them fetched again when they are needed."""
    server.credentials.revocations.flush()
    return success()
