"""Identities, certificates and AUTH payloads of both ends (RFC 7296 §2.15, RFC 7427, RFC 4945)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import replace

from ipsecstack.crypto import auth, dn, x509
from ipsecstack.crypto.errors import AuthError, CertificateError
from ipsecstack.ipsec.pad import ID_DN
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthClass, AuthConfig, ConnectionConfig, Identity
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.revocation import judge
from ipsecstack.wire.ikev2 import Auth, Cert, CertEncoding, CertReq, IdI, IdR, Message, Payload
from ipsecstack.wire.transforms import AuthMethod

_DEFAULT = AuthConfig()
_HASH_AND_URL = (CertEncoding.HASH_URL_X509, CertEncoding.HASH_URL_BUNDLE)


class AuthFailure(Exception):
    """Authentication did not succeed. ``reason`` is for NegotiationFailed; the peer hears less."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def local_round(config: ConnectionConfig) -> AuthConfig:
    return config.local[0] if config.local else _DEFAULT


def remote_round(config: ConnectionConfig) -> AuthConfig:
    return config.remote[0] if config.remote else _DEFAULT


def as_resumed(sa: IkeSa, config: ConnectionConfig) -> ConnectionConfig:
    """The connection with the authentication of an IKE SA that is being resumed: one round each, by what both ends
    know, between the same identities. The connection itself when nothing is resumed (RFC 5723 §5.1)."""
    session = sa.initial.resumed if sa.initial is not None else None
    if session is None:
        return config
    own, peer = (AuthConfig(auth=AuthClass.PSK, id=id_) for id_ in (session.own, session.peer))
    # A PPK is in SK_d already, if one was used.
    return replace(config, local=(own,), remote=(peer,), ppk_id=None, ppk_required=False)


def class_of(method: int) -> AuthClass | None:
    """PSK or PUBKEY for an AUTH method that is implemented."""
    if method == AuthMethod.SHARED_KEY_MIC:
        return AuthClass.PSK
    return AuthClass.PUBKEY if method in auth.SIGNATURE_METHODS else None


def local_rounds(config: ConnectionConfig) -> tuple[AuthConfig, ...]:
    """Our rounds of authentication, one at least (RFC 4739)."""
    return config.local or (_DEFAULT,)


def remote_rounds(config: ConnectionConfig) -> tuple[AuthConfig, ...]:
    """The peer's rounds of authentication, one at least."""
    return config.remote or (_DEFAULT,)


def own_identity(
    sa: IkeSa, config: ConnectionConfig, own: AuthConfig | None = None, asked: Identity | None = None
) -> Identity:
    """The configured identity of a round (the first one unless told); where several would do that which the peer
    ``asked`` for (RFC 7296 §3.5); else a certificate's subject, else the IKE address."""
    own = own or local_round(config)
    if asked is not None and (own.id is None or own.id.is_any or is_pattern(own.id)):
        certs = _vouching(own.certs, asked)
        found = sa.host.credentials.find_signer(asked, certs) if own.auth is AuthClass.PUBKEY else None
        if own.auth is AuthClass.PSK or (
            found is not None and x509.vouches_for(found[0].certificate, asked.type, asked.data)
        ):
            return asked
    if (
        own.id is not None
        and not own.id.is_any
        and (own.id.type != ID_DN or own.auth is not AuthClass.PUBKEY)
    ):
        return own.id
    if own.auth is AuthClass.PUBKEY:
        anchors = sa.initial.wanted_anchors if sa.initial else ()
        found = sa.host.credentials.find_signer(own.id, own.certs, anchors, sa.host.wall_clock())
        if found is not None:
            subject = next((i for i in x509.identities(found[0].certificate) if i.type == ID_DN), None)
            # A configured DN and the certificate's may differ in string types: the certificate's octets are sent.
            if subject is not None and (own.id is None or own.id.is_any or _same_dn(own.id, subject.data)):
                return Identity(subject.type, subject.data, subject.text)
    return own.id if own.id is not None and not own.id.is_any else identity.from_address(sa.local.host)


def _vouching(certs: tuple[bytes, ...], id_: Identity | None) -> tuple[bytes, ...]:
    """Of several configured certificates those for an identity; all, when there are none."""
    if len(certs) < 2 or id_ is None:
        return certs
    found = [der for der in certs if x509.vouches_for(x509.load_certificate(der), id_.type, id_.data)]
    return tuple(found) or certs


def is_pattern(id_: Identity) -> bool:
    """An identity that several names fit, and that is nobody's own."""
    return "*" in id_.text


def _same_dn(configured: Identity, subject: bytes) -> bool:
    return configured.type == ID_DN and dn.same_name_der(configured.data, subject)


def auth_octets(sa: IkeSa, id_body: bytes, *, own: bool) -> bytes:
    """What the AUTH payload of one end covers: ours, or the peer's (RFC 7296 §2.15)."""
    initial = sa.initial
    assert initial is not None
    assert sa.prf is not None
    sk_p = _sk_p(sa, own=own)
    if own:
        octets = auth.signed_octets(sa.prf, initial.message, initial.peer_nonce, sk_p, id_body)
    else:
        octets = auth.signed_octets(sa.prf, initial.peer_message, initial.nonce, sk_p, id_body)
    return octets + initial.int_auth


def _sk_p(sa: IkeSa, *, own: bool) -> bytes:
    assert sa.keys is not None
    return sa.keys.sk_pi if own is sa.initiator else sa.keys.sk_pr


def build_keyed(sa: IkeSa, key: bytes | None, own: IdI | IdR) -> Auth:
    """Our AUTH after EAP: with its MSK, or with SK_p where the method makes no key (§2.16)."""
    assert sa.prf is not None
    secret = key if key is not None else _sk_p(sa, own=True)
    return Auth(
        AuthMethod.SHARED_KEY_MIC, auth.psk_auth(sa.prf, secret, auth_octets(sa, own.to_bytes(), own=True))
    )


def verify_keyed(sa: IkeSa, key: bytes | None, peer_id: IdI | IdR, payload: Auth) -> None:
    """Check the peer's AUTH after EAP."""
    assert sa.prf is not None
    secret = key if key is not None else _sk_p(sa, own=False)
    octets = auth_octets(sa, peer_id.to_bytes(), own=False)
    if payload.method != AuthMethod.SHARED_KEY_MIC or not auth.psk_verify(
        sa.prf, secret, octets, payload.data
    ):
        raise AuthFailure("AUTHENTICATION_FAILED", "verification of AUTH payload with EAP key failed")


def build(
    sa: IkeSa, config: ConnectionConfig, own: IdI | IdR, round_: AuthConfig | None = None
) -> tuple[list[Payload], Auth]:
    """The CERT payloads to send, and our AUTH of a round (the first one unless told). AuthFailure when a secret, key or
    certificate is missing."""
    initial = sa.initial
    assert initial is not None
    assert sa.prf is not None
    round_ = round_ or local_round(config)
    octets = auth_octets(sa, own.to_bytes(), own=True)
    id_text = sa.local_id.text if sa.local_id else "?"
    if initial.resumed is not None:
        sa.log("IKE", 1, f"authentication of '{id_text}' (myself) by the resumed IKE_SA")
        return [], Auth(AuthMethod.SHARED_KEY_MIC, sa.prf.compute(_sk_p(sa, own=True), octets))
    if round_.auth is AuthClass.PSK:
        secret = _secret(sa, config)
        sa.local_auth = "psk"
        sa.log("IKE", 1, f"authentication of '{id_text}' (myself) with pre-shared key")
        return [], Auth(AuthMethod.SHARED_KEY_MIC, auth.psk_auth(sa.prf, secret, octets))
    found = sa.host.credentials.find_signer(
        sa.local_id, _vouching(round_.certs, sa.local_id), initial.wanted_anchors, sa.host.wall_clock()
    )
    if found is None:
        raise AuthFailure("NO_PRIVATE_KEY", f"no private key found for '{id_text}'")
    certificate, key = found
    try:
        made = auth.sign(key, octets, initial.peer_hashes, round_.auth_hashes)
    except AuthError as error:
        raise AuthFailure("AUTHENTICATION_FAILED", str(error)) from None
    sa.local_auth = x509.key_type(key).lower()
    sa.local_cert_expiry = certificate.certificate.not_valid_after_utc.timestamp()
    sa.log("IKE", 1, f"authentication of '{id_text}' (myself) with {made.algorithm} successful")
    certificates: list[Payload] = []
    if config.send_cert == "always" or (config.send_cert == "ifasked" and initial.certificates_wanted):
        sa.log("IKE", 1, f'sending end entity cert "{certificate.subject}"')
        certificates.append(Cert(CertEncoding.X509_SIGNATURE, certificate.der))
        for der in sa.host.credentials.chain_for(certificate):
            certificates.append(Cert(CertEncoding.X509_SIGNATURE, der))
    return certificates, Auth(made.method, made.data)


def verify(
    sa: IkeSa,
    config: ConnectionConfig,
    peer_id: IdI | IdR,
    message: Message,
    payload: Auth,
    round_: AuthConfig | None = None,
) -> None:
    """Check the peer's AUTH as a remote section (the first one unless told) asks; AuthFailure says what failed.

    Sets ``remote_auth`` and ``remote_cert_expiry``.
    """
    assert sa.prf is not None
    assert sa.remote_id is not None
    round_ = round_ or remote_round(config)
    given = class_of(payload.method)
    if given is not round_.auth:
        raise AuthFailure(
            "AUTHENTICATION_FAILED", f"{round_.auth.value} authentication required, peer used another"
        )
    octets = auth_octets(sa, peer_id.to_bytes(), own=False)
    id_text = sa.remote_id.text
    if sa.initial is not None and sa.initial.resumed is not None:
        # AUTH = prf(SK_px, octets) (RFC 5723 §5.1)
        if not hmac.compare_digest(sa.prf.compute(_sk_p(sa, own=False), octets), payload.data):
            raise AuthFailure(
                "AUTHENTICATION_FAILED", "the peer does not have the IKE_SA that is to be resumed"
            )
        sa.log("IKE", 1, f"authentication of '{id_text}' by the resumed IKE_SA successful")
        return
    if given is AuthClass.PSK:
        if not auth.psk_verify(sa.prf, _secret(sa, config), octets, payload.data):
            raise AuthFailure("AUTHENTICATION_FAILED", "tried 1 shared key, but MAC mismatched")
        sa.remote_auth = "psk"
        sa.log("IKE", 1, f"authentication of '{id_text}' with pre-shared key successful")
        return
    certificate = _trusted_certificate(sa, round_, message)
    try:
        algorithm = auth.verify(
            payload.method, payload.data, x509.public_key(certificate), octets, round_.auth_hashes
        )
    except (AuthError, CertificateError) as error:
        raise AuthFailure("AUTHENTICATION_FAILED", str(error)) from None
    sa.remote_auth = x509.key_type(certificate).lower()
    sa.remote_cert_expiry = certificate.not_valid_after_utc.timestamp()
    sa.log("IKE", 1, f"authentication of '{id_text}' with {algorithm} successful")


def _secret(sa: IkeSa, config: ConnectionConfig) -> bytes:
    # An initiator that knows its peer by a pattern only does not know yet who answers.
    remote = sa.remote_id
    secret = sa.host.credentials.find_shared(sa.local_id, remote)
    if secret is None:
        local_text = sa.local_id.text if sa.local_id else "%any"
        raise AuthFailure(
            "NO_PSK", f"no shared key found for '{local_text}' - '{remote.text if remote else '%any'}'"
        )
    return secret


def _trusted_certificate(sa: IkeSa, round_: AuthConfig, message: Message) -> x509.Certificate:
    """The peer's end entity certificate, valid now, trusted, and vouching for its identity."""
    assert sa.remote_id is not None
    id_ = sa.remote_id
    received: list[x509.Certificate] = []
    for payload in message.all(Cert):
        if payload.encoding != CertEncoding.X509_SIGNATURE:
            continue
        try:
            received.append(x509.load_certificate(payload.data))
        except CertificateError as error:
            raise AuthFailure("AUTHENTICATION_FAILED", f"received certificate: {error}") from None
    hashed = any(payload.encoding in _HASH_AND_URL for payload in message.all(Cert))
    return trusted(sa, round_, received, id_, hashed=hashed)


def trusted(
    sa: IkeSa, round_: AuthConfig, received: list[x509.Certificate], id_: Identity, *, hashed: bool = False
) -> x509.Certificate:
    """Of certificates that a peer sent, its own first, its own: valid now, trusted by a round, not revoked, and
    vouching for its identity. AuthFailure says why not."""
    credentials = sa.host.credentials
    candidates = received[:1]
    if not candidates:
        known = [x509.load_certificate(der) for der in round_.certs]
        known += [entry.certificate for entry in credentials.certificates() if not entry.ca]
        candidates = [c for c in known if x509.vouches_for(c, id_.type, id_.data)][:1]
    if not candidates:
        if hashed:
            # Nothing is fetched on the word of a peer that has not authenticated itself; we never say that we would.
            raise AuthFailure(
                "AUTHENTICATION_FAILED",
                f"'{id_.text}' sends its certificate as hash and URL, which is not fetched; it must send it whole",
            )
        raise AuthFailure("AUTHENTICATION_FAILED", f"no trusted public key found for '{id_.text}'")
    leaf = candidates[0]
    subject = x509.subject_text(leaf)
    sa.log("IKE", 1, f'using certificate "{subject}"')
    if not x509.vouches_for(leaf, id_.type, id_.data):
        raise AuthFailure(
            "ID_MISMATCH", f"certificate \"{subject}\" does not confirm the identity '{id_.text}'"
        )
    anchors = credentials.anchors()
    if round_.cacerts:
        anchors = [x509.load_certificate(der) for der in round_.cacerts]
    if round_.certs:
        if x509.to_der(leaf) not in round_.certs:
            raise AuthFailure(
                "AUTHENTICATION_FAILED", f'certificate "{subject}" is not one of those configured'
            )
        if not round_.cacerts:
            anchors = [leaf]
    now = sa.host.wall_clock()
    try:
        chain = x509.validate(leaf, [*received[1:], *credentials.intermediates()], anchors, now)
    except CertificateError as error:
        raise AuthFailure("CERTIFICATE_INVALID", str(error)) from None
    revoked = judge(credentials.revocations, chain, round_.revocation, now)
    if revoked is not None:
        raise AuthFailure("CERTIFICATE_REVOKED", revoked)
    return leaf


def certificate_request(sa: IkeSa, configs: Iterable[ConnectionConfig]) -> list[Payload]:
    """CERTREQ for the authorities that the peer may use, if it may have to authenticate with a certificate.

    ``configs`` are all connections that may become the IKE SA's: a responder does not know yet which one it will be.
    """
    rounds = [round_ for config in configs if config.send_certreq for round_ in remote_rounds(config)]
    rounds = [round_ for round_ in rounds if round_.auth is AuthClass.PUBKEY]
    named = dict.fromkeys(der for round_ in rounds for der in round_.cacerts)
    anchors = [x509.load_certificate(der) for der in named]
    if any(not round_.cacerts for round_ in rounds):
        anchors += [anchor for anchor in sa.host.credentials.anchors() if anchor not in anchors]
    if not anchors:
        return []
    for anchor in anchors:
        sa.log("IKE", 1, f'sending cert request for "{x509.subject_text(anchor)}"')
    return [CertReq(CertEncoding.X509_SIGNATURE, b"".join(x509.spki_sha1(a) for a in anchors))]


def note_certificate_requests(sa: IkeSa, message: Message) -> None:
    """Remember what the peer's CERTREQ payloads ask for."""
    assert sa.initial is not None
    # Who asks for hash and URL gets the certificate itself: the hashes in its request are the same (§3.7).
    encodings = (CertEncoding.X509_SIGNATURE, *_HASH_AND_URL)
    requests = [r for r in message.all(CertReq) if r.encoding in encodings]
    if not requests:
        return
    sa.initial.certificates_wanted = True
    hashes = [h for r in requests for h in r.key_hashes]
    sa.initial.wanted_anchors = (*sa.initial.wanted_anchors, *hashes)
    for anchor in sa.host.credentials.anchors():
        if x509.spki_sha1(anchor) in hashes:
            sa.log("IKE", 1, f'received cert request for "{x509.subject_text(anchor)}"')
