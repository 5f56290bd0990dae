"""What is known of revoked certificates, and what has to be fetched to know more (RFC 5280, RFC 6960).

Lists come from files and VICI; OCSP answers and further lists are fetched by the I/O layer, which is told by a
``FetchRevocation`` output and gives back what it got. Nothing here waits: an IKE_AUTH message whose certificates cannot
be judged yet is kept by the endpoint and received again when the fetch is over, one way or the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ipsecstack.crypto import revocation, x509
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.crypto.revocation import Answer, Crl
from ipsecstack.crypto.x509 import Certificate

MAX_ANSWERS = 4096
MAX_LISTS = 64
MAX_PENDING = 64
RETRY_AFTER = 60.0  # seconds until a responder that failed is asked again

_Subject = tuple[bytes, int]  # SHA-1 of the issuer's key, serial number


@dataclass(frozen=True, slots=True)
class FetchRevocation:
    """Fetch this by HTTP: POST ``body`` (an OCSP request), or GET a list if there is none. Then call
    ``KeyExchangeEndpoint.revocation_fetched`` with it and what came back, None for a failure."""

    uri: str
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _About:
    certificate: Certificate
    issuer: Certificate


class Revocations:
    """Lists and answers by certificate. Times are POSIX seconds (the wall clock), as in certificates."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, Crl] = {}
        self._fetched: dict[str, Crl] = {}
        self._answers: dict[_Subject, Answer] = {}
        self._uris: dict[bytes, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._verified: dict[tuple[bytes, bytes], bool] = {}
        self._failed: dict[FetchRevocation, float] = {}
        self._pending: dict[FetchRevocation, _About] = {}

    def __repr__(self) -> str:
        return f"<Revocations {len(self._loaded)} lists loaded, {len(self._answers)} answers cached>"

    # --- what the operator loads ---

    def load_crl(self, data: bytes) -> Crl:
        """Keep a list in PEM or DER; an older one of the same key goes. CertificateError when it is none."""
        crl = revocation.load_crl(data)
        for der, other in list(self._loaded.items()):
            if (other.issuer, other.key_id) == (crl.issuer, crl.key_id):
                if _age(other) > _age(crl):
                    return other
                del self._loaded[der]
        self._loaded[crl.der] = crl
        return crl

    def unload_crl(self, der: bytes) -> bool:
        """Whether there was such a list."""
        return self._loaded.pop(der, None) is not None

    def lists(self) -> list[Crl]:
        """Loaded and fetched lists."""
        return [*self._loaded.values(), *self._fetched.values()]

    def set_authority(self, cacert: bytes, crl_uris: Sequence[str], ocsp_uris: Sequence[str]) -> None:
        """Where an authority's lists and responders are, beside what its certificates say; DER of its certificate."""
        self._uris[cacert] = (tuple(crl_uris), tuple(ocsp_uris))

    def drop_authority(self, cacert: bytes) -> None:
        self._uris.pop(cacert, None)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def flush(self) -> None:
        """Forget what was fetched, not what was loaded (VICI flush-certs)."""
        self._fetched.clear()
        self._answers.clear()
        self._failed.clear()

    def snapshot(self) -> dict[str, object]:
        """Copies of everything, for ``restore``."""
        return {name: dict(value) for name, value in vars(self).items()}

    def restore(self, snapshot: dict[str, object]) -> None:
        vars(self).update(snapshot)

    # --- judging ---

    def answer(self, certificate: Certificate, issuer: Certificate, now: float) -> Answer | None:
        """What is known of a certificate: revoked if anybody says so, else good if anybody does, else None."""
        found: list[Answer] = []
        cached = self._answers.get(_subject(certificate, issuer))
        if cached is not None and cached.until >= now:
            found.append(cached)
        for crl in self.lists():
            if crl.issuer == issuer.subject and self._is_verified(crl, issuer):
                said = revocation.crl_answer(crl, certificate, now)
                if said is not None:
                    found.append(said)
        return next((a for a in found if a.revoked is not None), found[0] if found else None)

    def has_uri(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Whether it is said anywhere who could be asked about a certificate."""
        return any(True for _ in self._sources(certificate, issuer))

    def missing(self, chain: Sequence[Certificate], now: float) -> tuple[list[FetchRevocation], bool]:
        """(what has to be fetched now, whether something is being fetched) to judge a valid chain, end entity first."""
        wanted: list[FetchRevocation] = []
        waiting = False
        for certificate, issuer in pairwise(chain):
            if self.answer(certificate, issuer, now) is not None:
                continue
            for fetch in self._sources(certificate, issuer):
                if fetch in self._pending:
                    waiting = True
                    break
                if self._failed.get(fetch, 0) > now:
                    continue
                if len(self._pending) < MAX_PENDING:
                    self._pending[fetch] = _About(certificate, issuer)
                    wanted.append(fetch)
                    waiting = True
                break
        return wanted, waiting

    def fetched(self, fetch: FetchRevocation, data: bytes | None, now: float) -> str | None:
        """Take what came back; returns why it is of no use, None if it is."""
        about = self._pending.pop(fetch, None)
        if about is None:
            return "nobody asked for it"
        try:
            if data is None:
                raise CertificateError("no answer")
            if fetch.body is None:
                self._take_list(fetch.uri, data, about.issuer, now)
            else:
                self._take_answer(data, about, now)
            if self.answer(about.certificate, about.issuer, now) is None:
                # A list of other certificates, or of another time: asking again at once would give the same.
                raise CertificateError("it says nothing of the certificate")
        except CertificateError as error:
            self._failed = {key: until for key, until in self._failed.items() if until > now}
            self._failed[fetch] = now + RETRY_AFTER
            return str(error)
        return None

    def _take_list(self, uri: str, data: bytes, issuer: Certificate, now: float) -> None:
        crl = revocation.load_crl(data)
        revocation.verify_crl(crl, issuer)
        if crl.until < now:
            raise CertificateError("the revocation list is too old")
        if uri not in self._fetched and len(self._fetched) >= MAX_LISTS:
            del self._fetched[next(iter(self._fetched))]
        self._fetched[uri] = crl

    def _take_answer(self, data: bytes, about: _About, now: float) -> None:
        said = revocation.read_ocsp(data, about.certificate, about.issuer, now)
        if said is None:
            raise CertificateError("the OCSP responder does not know the certificate")
        if len(self._answers) >= MAX_ANSWERS:
            self._answers = {key: a for key, a in self._answers.items() if a.until >= now}
            while len(self._answers) >= MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
        self._answers[_subject(about.certificate, about.issuer)] = said

    def _is_verified(self, crl: Crl, issuer: Certificate) -> bool:
        key = (crl.der, x509.to_der(issuer))
        known = self._verified.get(key)
        if known is None:
            try:
                revocation.verify_crl(crl, issuer)
                known = True
            except CertificateError:
                known = False
            # Lists that were replaced are megabytes that nobody asks for again.
            current = {other.der for other in self.lists()}
            self._verified = {pair: valid for pair, valid in self._verified.items() if pair[0] in current}
            self._verified[key] = known
        return known

    def _sources(self, certificate: Certificate, issuer: Certificate) -> Iterator[FetchRevocation]:
        """Who could be asked, OCSP responders first; the operator's before those that the certificate names."""
        crl, ocsp = self._uris.get(x509.to_der(issuer), ((), ()))
        responders = [u for u in (*ocsp, *revocation.ocsp_uris(certificate)) if revocation.is_http(u)]
        if responders:
            body = revocation.ocsp_request(certificate, issuer)
            yield from _unique(FetchRevocation(uri, body) for uri in responders)
        lists = (u for u in (*crl, *revocation.crl_uris(certificate)) if revocation.is_http(u))
        yield from _unique(FetchRevocation(uri) for uri in lists)


def judge(known: Revocations, chain: Sequence[Certificate], policy: str, now: float) -> str | None:
    """Why a valid chain (end entity first, trust anchor last) is refused for revocation, None if it is not.

    ``strict`` wants to know of every certificate; ``ifuri`` where somebody could be asked; ``relaxed`` lets pass what
    nobody knows to be revoked (swanctl.conf(5), remote.revocation).
    """
    if len(chain) < 2 and policy == "strict":
        name = x509.subject_text(chain[0])
        return f'certificate "{name}" has no CA here, nobody can say whether it is revoked'
    for certificate, issuer in pairwise(chain):
        name = x509.subject_text(certificate)
        said = known.answer(certificate, issuer, now)
        if said is not None and said.revoked is not None:
            return f'certificate "{name}" was revoked ({said.revoked})'
        if said is None and (
            policy == "strict" or (policy == "ifuri" and known.has_uri(certificate, issuer))
        ):
            return f'it is not known whether certificate "{name}" is revoked, and revocation = {policy}'
    return None


def _age(crl: Crl) -> tuple[float, int]:
    return crl.this_update, crl.number


def _subject(certificate: Certificate, issuer: Certificate) -> _Subject:
    return x509.spki_sha1(issuer), certificate.serial_number


def _unique(fetches: Iterable[FetchRevocation]) -> Iterator[FetchRevocation]:
    yield from dict.fromkeys(fetches)
