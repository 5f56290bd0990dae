"""EAP inside IKE_AUTH (RFC 7296 §2.16): what its methods need of the IKE SA - names, secrets, certificates."""

from __future__ import annotations

from collections.abc import Callable

from ipsecstack.crypto import x509
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.crypto.tls import Judge, TlsError, TlsSettings
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthConfig, Identity
from ipsecstack.keyex.eap.authenticator import Authenticator
from ipsecstack.keyex.eap.method import PeerContext, ServerContext
from ipsecstack.keyex.eap.methods import allowed
from ipsecstack.keyex.eap.peer import Peer
from ipsecstack.keyex.ikev2 import authenticate
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.sa import IkeSa


def make_peer(sa: IkeSa, round_: AuthConfig, remote: AuthConfig) -> Peer:
    """We are to be authenticated, in this local round, by who has to be as ``remote`` says."""
    assert sa.local_id is not None
    own = round_.eap_id if round_.eap_id is not None and not round_.eap_id.is_any else sa.local_id
    credentials = sa.host.credentials

    def judged(found: Identity | None) -> Judge:
        return _judge(sa, remote, lambda: found or sa.remote_id)

    context = PeerContext(
        identity=identity.to_user(own),
        random=sa.host.random,
        password=lambda: credentials.find_shared(own, sa.remote_id, "eap"),
        nt_hash=lambda: credentials.find_shared(own, sa.remote_id, "ntlm"),
        tls=lambda: _settings(sa, round_, own, judged(remote.id if _is_name(remote.id) else None)),
        log=lambda text: sa.log("IKE", 1, text),
    )
    return Peer(context, allowed(round_.eap))


def make_authenticator(sa: IkeSa, round_: AuthConfig, own: AuthConfig) -> Authenticator:
    """The peer is to be authenticated, in this remote round."""
    assert sa.local_id is not None
    assert sa.remote_id is not None
    asked = round_.eap_id is not None and not _is_name(round_.eap_id)
    name = round_.eap_id if round_.eap_id is not None and not asked else sa.remote_id
    credentials = sa.host.credentials

    def secret(user: bytes, kind: str) -> bytes | None:
        who = identity.of_user(user)
        if round_.eap_id is not None and not identity.matches(round_.eap_id, who):
            return None
        return credentials.find_user(who, kind)

    def who() -> Identity:
        return identity.of_user(context.identity) if asked else name

    def judge() -> Judge:
        return _judge(sa, round_, who, must=round_.eap_id if asked else None)

    context = ServerContext(
        identity=b"" if asked else identity.to_user(name),
        server_name=identity.to_user(sa.local_id),
        random=sa.host.random,
        password=lambda user: secret(user, "eap"),
        nt_hash=lambda user: secret(user, "ntlm"),
        tls=lambda: _settings(sa, own, sa.local_id, judge(), round_),
        log=lambda text: sa.log("IKE", 1, text),
    )

    def admit(user: bytes) -> None:
        sa.log("IKE", 1, f"received EAP identity '{identity.of_user(user).text}'")

    return Authenticator(context, allowed(round_.eap), ask_identity=asked, admit=admit)


def _is_name(id_: Identity | None) -> bool:
    """One identity, not a pattern of several."""
    return id_ is not None and not id_.is_any and not authenticate.is_pattern(id_)


def _settings(
    sa: IkeSa, round_: AuthConfig, own: Identity | None, judge: Judge, remote: AuthConfig | None = None
) -> TlsSettings:
    """Our certificate for TLS. TlsError when there is none."""
    credentials = sa.host.credentials
    found = credentials.find_signer(own, round_.certs, (), sa.host.wall_clock())
    if found is None:
        raise TlsError(f"no certificate with a private key for '{own.text if own else '%any'}'")
    entry, key = found
    chain = tuple(x509.load_certificate(der) for der in credentials.chain_for(entry))
    authorities: tuple[x509.Certificate, ...] = ()
    if remote is not None:
        named = [x509.load_certificate(der) for der in remote.cacerts]
        authorities = tuple(named or credentials.anchors())
    return TlsSettings(entry.certificate, key, chain, judge, authorities)


def _judge(
    sa: IkeSa, round_: AuthConfig, who: Callable[[], Identity | None], must: Identity | None = None
) -> Judge:
    """Trust the other end's certificates of TLS as those of CERT payloads: chain, identity, revocation."""

    def judge(received: list[x509.Certificate]) -> None:
        id_ = who()
        if id_ is None or (must is not None and not identity.matches(must, id_)):
            raise CertificateError("the identity is not one that may authenticate itself here")
        try:
            leaf = authenticate.trusted(sa, round_, received, id_)
        except AuthFailure as failure:
            raise CertificateError(failure.message) from None
        sa.remote_cert_expiry = leaf.not_valid_after_utc.timestamp()

    return judge
