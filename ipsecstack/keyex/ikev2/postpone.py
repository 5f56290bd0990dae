"""IKE_AUTH messages whose certificates nobody can judge yet: not now, again when a revocation status was fetched.

The message has passed its integrity check, but nothing of it was used: receiving it again is receiving it for the first
time, and its sender's retransmissions are received as well.
"""

from __future__ import annotations

from ipsecstack.crypto import x509
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.keyex.configuration import ConnectionConfig
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Auth, Cert, CertEncoding, IdI, IdR, Message
from ipsecstack.wire.ikev2.numbers import ExchangeType


def postponed(sa: IkeSa, message: Message, data: bytes, now: float) -> bool:
    """Whether the message has to wait; then what is missing is being fetched, and the message kept."""
    if message.header.exchange != ExchangeType.IKE_AUTH or message.get(Auth) is None:
        return False
    chain = _chain(sa, message)
    if len(chain) < 2:
        return False
    wanted, waiting = sa.host.credentials.revocations.missing(chain, sa.host.wall_clock())
    for fetch in wanted:
        kind = "an OCSP response" if fetch.body is not None else "a revocation list"
        sa.log("CFG", 1, f'asking {fetch.uri} for {kind} about "{x509.subject_text(chain[0])}"')
        sa.host.emit(fetch)
    if not waiting:
        return False
    header = message.header
    key = b"".join((sa.spi_i, sa.spi_r, header.message_id.to_bytes(4, "big"), bytes((header.is_response,))))
    sa.host.postpone(key, data, *sa.arrival, now)
    return True


def _chain(sa: IkeSa, message: Message) -> tuple[x509.Certificate, ...]:
    """The peer's chain if it is a valid one to any authority that it may be authenticated with, else nothing:
    authentication itself will say what is wrong with it."""
    credentials = sa.host.credentials
    own = [sa.config] if sa.config is not None else sa.host.candidates(sa.local, sa.remote)
    try:
        received = [
            x509.load_certificate(payload.data)
            for payload in message.all(Cert)
            if payload.encoding == CertEncoding.X509_SIGNATURE
        ]
        leaf = received[0] if received else _known(sa, message)
        if leaf is None:
            return ()
        anchors = [*credentials.anchors(), *_configured(own)]
        return x509.validate(
            leaf, [*received[1:], *credentials.intermediates()], anchors, sa.host.wall_clock()
        )
    except CertificateError:
        return ()


def _known(sa: IkeSa, message: Message) -> x509.Certificate | None:
    """The certificate that we have of a peer that sends none."""
    claimed = message.get(IdR) if sa.initiator else message.get(IdI)
    if claimed is None:
        return None
    for entry in sa.host.credentials.certificates():
        if not entry.ca and x509.vouches_for(entry.certificate, claimed.type, claimed.data):
            return entry.certificate
    return None


def _configured(configs: list[ConnectionConfig]) -> list[x509.Certificate]:
    found = dict.fromkeys(der for config in configs for round_ in config.remote for der in round_.cacerts)
    return [x509.load_certificate(der) for der in found]
