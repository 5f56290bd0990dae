"""list-certs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ipsecstack.config.identity import parse_identity
from ipsecstack.crypto import dn, x509
from ipsecstack.vici.codec import MAX_VALUE_OCTETS, Outgoing
from ipsecstack.vici.registry import Stream, command
from ipsecstack.vici.request import Request, RequestError

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer

_OTHER_TYPES = frozenset({"X509_AC", "OCSP_RESPONSE", "PUBKEY", "X509OCSP", "X509AA", "X509AC"})


@command("list-certs")
def list_certs(server: ViciServer, request: Request, now: float) -> Stream:
    """Streams list-cert events, with the certificate's validity (POSIX seconds) beside its octets. Types and flags
    that we never load list nothing."""
    kind = (request.text("type") or "ANY").upper()
    flag = (request.text("flag") or "ANY").upper()
    if kind == "X509CA":
        kind, flag = "X509", "CA"
    if kind == "X509CRL":
        kind = "X509_CRL"
    if kind not in ("ANY", "X509", "X509_CRL"):
        if kind in _OTHER_TYPES:
            return {}
        raise RequestError(f"invalid certificate type '{kind}'")
    subject = request.text("subject")
    wanted = parse_identity(subject).data if subject else None
    for entry in server.credentials.certificates() if kind != "X509_CRL" else ():
        has = "CA" if entry.ca else "NONE"
        if flag not in ("ANY", has) or len(entry.der) > MAX_VALUE_OCTETS:
            continue
        if wanted is not None and not _vouches(entry.certificate, wanted):
            continue
        message: dict[str, str | bytes] = {"type": "X509", "flag": has}
        if server.credentials.has_key_for(entry.certificate):
            message["has_privkey"] = "yes"
        message["not-before"] = _seconds(entry.certificate.not_valid_before_utc)
        message["not-after"] = _seconds(entry.certificate.not_valid_after_utc)
        message["data"] = entry.der
        event: Outgoing = message
        yield "list-cert", event
    if kind in ("ANY", "X509_CRL") and flag in ("ANY", "NONE"):
        for crl in server.credentials.revocations.lists():
            name = crl.issuer.public_bytes()
            if len(crl.der) <= MAX_VALUE_OCTETS and (wanted is None or dn.same_name_der(name, wanted)):
                yield "list-cert", {"type": "X509_CRL", "flag": "NONE", "data": crl.der}
    return {}


def _seconds(moment: datetime) -> str:
    return str(int(moment.timestamp()))


def _vouches(certificate: x509.Certificate, wanted: bytes) -> bool:
    return any(
        found.data == wanted or dn.same_name_der(found.data, wanted) for found in x509.identities(certificate)
    )
