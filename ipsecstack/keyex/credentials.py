"""Secrets, certificates, private keys and authorities of a gateway, loaded and unloaded while it runs.

Nothing here shows a secret: reprs are redacted, lists give identifiers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ipsecstack.crypto import x509
from ipsecstack.crypto.auth import PrivateKey
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.ipsec.pad import Match, exact_key
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import Identity, SharedSecret
from ipsecstack.keyex.revocation import Revocations


class CredentialError(ValueError):
    """A credential cannot be loaded, or is not there to unload; the message goes to the operator."""


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """A certificate with what is asked of it again and again."""

    certificate: x509.Certificate
    der: bytes
    ca: bool
    crl_uris: tuple[str, ...] = ()
    ocsp_uris: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        return x509.subject_text(self.certificate)


class _Owners:
    """Shared secrets by the exact identities of their owners; those with patterns or without owners apart."""

    def __init__(self, secrets: Iterable[SharedSecret]) -> None:
        self._exact: dict[tuple[int, bytes], list[tuple[int, SharedSecret]]] = {}
        self._alone: dict[tuple[int, bytes], list[tuple[int, SharedSecret]]] = {}
        self._others: list[tuple[int, SharedSecret]] = []
        for position, secret in enumerate(secrets):
            keys = {exact_key(owner.type, owner.data) for owner in secret.owners}
            if not keys or None in keys:
                self._others.append((position, secret))
            for key in keys:
                if key is not None:
                    self._exact.setdefault(key, []).append((position, secret))
                    if len(secret.owners) == 1:
                        self._alone.setdefault(key, []).append((position, secret))

    def candidates(self, local: Identity | None, remote: Identity | None) -> list[SharedSecret]:
        """Secrets that may fit, each once, in the order of loading.

        A secret that we own but not the peer fits only if it has no other owner: with a known peer, the many
        secrets that a gateway shares with one peer each are not looked at.
        """
        found = dict(self._others)
        if remote is not None and (key := exact_key(remote.type, remote.data)) is not None:
            found.update(self._exact.get(key, []))
        if local is not None and (key := exact_key(local.type, local.data)) is not None:
            found.update((self._exact if remote is None else self._alone).get(key, []))
        return [found[position] for position in sorted(found)]


class CredentialStore:
    """The credentials in use. ``batch`` makes several changes all or nothing."""

    def __init__(self) -> None:
        self._shared: dict[str, SharedSecret] = {}
        self._by_owner: _Owners | None = None
        self._certificates: dict[bytes, LoadedCertificate] = {}
        self._keys: dict[str, PrivateKey] = {}
        self._authorities: dict[str, LoadedCertificate] = {}
        self.revocations = Revocations()

    def __repr__(self) -> str:
        return (
            f"<CredentialStore {len(self._shared)} secrets, {len(self._certificates)} certificates, "
            f"{len(self._keys)} keys, {len(self._authorities)} authorities>"
        )

    @contextmanager
    def batch(self) -> Iterator[CredentialStore]:
        """All changes made inside, or none when an exception leaves the block."""
        before = (
            dict(self._shared),
            dict(self._certificates),
            dict(self._keys),
            dict(self._authorities),
        )
        revocations = self.revocations.snapshot()
        try:
            yield self
        except BaseException:
            self._shared, self._certificates, self._keys, self._authorities = before
            self._by_owner = None
            self.revocations.restore(revocations)
            raise

    def clear(self) -> None:
        """Forget everything (VICI clear-creds)."""
        self._shared.clear()
        self._by_owner = None
        self._certificates.clear()
        self._keys.clear()
        self._authorities.clear()
        self.revocations.clear()

    # --- shared secrets ---

    def load_shared(self, secret: SharedSecret) -> None:
        """Add or replace by ``id``."""
        if not secret.data:
            raise CredentialError(f"shared secret {secret.id!r} is empty")
        self._shared[secret.id] = secret
        self._by_owner = None

    def unload_shared(self, id_: str) -> None:
        if self._shared.pop(id_, None) is None:
            raise CredentialError(f"no shared secret {id_!r}")
        self._by_owner = None

    def shared_ids(self) -> list[str]:
        return list(self._shared)

    def find_shared(self, local: Identity | None, remote: Identity | None, kind: str = "ike") -> bytes | None:
        """The secret of a kind that best fits two identities: owners that name the peer count most, then ourselves.

        A secret with owners of which none fits the peer is used only if it names ourselves and nobody else.
        """
        best: tuple[int, int] = (-1, -1)
        found: bytes | None = None
        if self._by_owner is None:
            self._by_owner = _Owners(self._shared.values())
        for secret in self._by_owner.candidates(local, remote):
            if secret.kind != kind:
                continue
            peer = (
                max((identity.matches(o, remote) for o in secret.owners), default=Match.ANY)
                if remote
                else Match.ANY
            )
            own = (
                max((identity.matches(o, local) for o in secret.owners), default=Match.ANY)
                if local
                else Match.ANY
            )
            if not peer and (not own or len(secret.owners) > 1):
                continue
            if (int(peer), int(own)) > best:
                best, found = (int(peer), int(own)), secret.data
        return found

    def find_user(self, user: Identity, kind: str = "eap") -> bytes | None:
        """The secret of a user who wants to be authenticated: one that names this user, else one without owners."""
        best, found = -1, None
        if self._by_owner is None:
            self._by_owner = _Owners(self._shared.values())
        for secret in self._by_owner.candidates(None, user):
            fit = max((identity.matches(owner, user) for owner in secret.owners), default=Match.ANY)
            if secret.kind == kind and fit and int(fit) > best:
                best, found = int(fit), secret.data
        return found

    def has_shared(self, kind: str) -> bool:
        return any(secret.kind == kind for secret in self._shared.values())

    def find_owned(self, kind: str, owner: bytes) -> bytes | None:
        """The secret of a kind that this owner has, by the octets of its identity alone (a PPK_ID has no type)."""
        for secret in self._shared.values():
            if secret.kind == kind and any(own.data == owner for own in secret.owners):
                return secret.data
        return None

    # --- certificates and authorities ---

    def load_cert(self, data: bytes, ca: bool = False) -> x509.Certificate:
        """Add a certificate in PEM or DER; ``ca`` makes it a trust anchor. CredentialError when it is neither."""
        try:
            certificate = x509.load_certificate(data)
            x509.public_key(certificate)
        except CertificateError as error:
            raise CredentialError(str(error)) from None
        der = x509.to_der(certificate)
        known = self._certificates.get(der)
        self._certificates[der] = LoadedCertificate(certificate, der, ca or (known is not None and known.ca))
        return certificate

    def unload_cert(self, der: bytes) -> None:
        if self._certificates.pop(der, None) is None:
            raise CredentialError("no such certificate is loaded")

    def load_authority(
        self, name: str, cacert: bytes, crl_uris: Sequence[str] = (), ocsp_uris: Sequence[str] = ()
    ) -> None:
        """Add or replace a named authority with its CA certificate, and where its lists and responders are."""
        try:
            certificate = x509.load_certificate(cacert)
        except CertificateError as error:
            raise CredentialError(f"authority {name!r}: {error}") from None
        if name in self._authorities:
            self.unload_authority(name)
        entry = LoadedCertificate(
            certificate, x509.to_der(certificate), True, tuple(crl_uris), tuple(ocsp_uris)
        )
        self._authorities[name] = entry
        self.revocations.set_authority(entry.der, entry.crl_uris, entry.ocsp_uris)

    def unload_authority(self, name: str) -> None:
        entry = self._authorities.pop(name, None)
        if entry is None:
            raise CredentialError(f"no authority {name!r}")
        self.revocations.drop_authority(entry.der)

    def load_crl(self, data: bytes) -> bytes:
        """Add a certificate revocation list in PEM or DER; returns its DER. CredentialError when it is none."""
        try:
            return self.revocations.load_crl(data).der
        except CertificateError as error:
            raise CredentialError(str(error)) from None

    def unload_crl(self, der: bytes) -> None:
        if not self.revocations.unload_crl(der):
            raise CredentialError("no such revocation list is loaded")

    def authorities(self) -> dict[str, LoadedCertificate]:
        return dict(self._authorities)

    def certificates(self) -> list[LoadedCertificate]:
        """All certificates, those of authorities included, each once."""
        merged = {entry.der: entry for entry in self._certificates.values()}
        for entry in self._authorities.values():
            merged[entry.der] = entry
        return list(merged.values())

    def anchors(self) -> list[x509.Certificate]:
        return [entry.certificate for entry in self.certificates() if entry.ca]

    def intermediates(self) -> list[x509.Certificate]:
        return [entry.certificate for entry in self.certificates() if not entry.ca]

    # --- private keys ---

    def load_key(self, data: bytes, passphrase: bytes | None = None) -> str:
        """Add a private key in PEM or DER; returns its identifier in hexadecimal (SHA-1 of the public key bits)."""
        try:
            key = x509.load_private_key(data, passphrase)
        except CertificateError as error:
            raise CredentialError(str(error)) from None
        id_ = x509.key_id(key).hex()
        self._keys[id_] = key
        return id_

    def unload_key(self, id_: str) -> None:
        if self._keys.pop(id_.lower(), None) is None:
            raise CredentialError(f"no private key {id_!r}")

    def key_ids(self) -> list[str]:
        return list(self._keys)

    def key_types(self) -> dict[str, str]:
        """Identifier to ``RSA``, ``ECDSA``, ``ED25519`` or ``ED448``."""
        return {id_: x509.key_type(key) for id_, key in self._keys.items()}

    def has_key_for(self, certificate: x509.Certificate) -> bool:
        return x509.key_id(certificate).hex() in self._keys

    def find_signer(
        self,
        local: Identity | None,
        configured: Sequence[bytes] = (),
        wanted_anchors: Sequence[bytes] = (),
        now: float | None = None,
    ) -> tuple[LoadedCertificate, PrivateKey] | None:
        """A certificate with its private key to authenticate with.

        Configured ones (DER) come first; else those that vouch for ``local``; among these one that is valid ``now``
        (POSIX seconds), and then one below an authority whose key hash the peer asked for (``wanted_anchors``,
        CERTREQ's SHA-1 hashes).
        """
        candidates: list[LoadedCertificate] = []
        for der in configured:
            known = self._certificates.get(der)
            candidates.append(known or LoadedCertificate(x509.load_certificate(der), der, False))
        if not candidates:
            for entry in self._certificates.values():
                if (
                    local is None
                    or local.is_any
                    or x509.vouches_for(entry.certificate, local.type, local.data)
                ):
                    candidates.append(entry)
        usable = [
            (entry, self._keys[key_id])
            for entry in candidates
            if (key_id := x509.key_id(entry.certificate).hex()) in self._keys
        ]
        if len(usable) > 1:
            usable.sort(
                key=lambda found: (
                    now is not None and not x509.valid_at(found[0].certificate, now),
                    not self._is_below(found[0].certificate, wanted_anchors),
                )
            )
        return usable[0] if usable else None

    def _is_below(self, certificate: x509.Certificate, wanted: Sequence[bytes]) -> bool:
        """Whether one of the authorities above the certificate, as far as they are known here, is a wanted one."""
        known = [entry.certificate for entry in self.certificates()] if wanted else []
        current = certificate
        for _ in range(x509.MAX_CHAIN):
            issuers = [c for c in known if c.subject == current.issuer and c != current]
            if any(x509.spki_sha1(issuer) in wanted for issuer in issuers):
                return True
            if not issuers:
                break
            current = issuers[0]
        return False

    def chain_for(self, entry: LoadedCertificate) -> list[bytes]:
        """DER of the intermediates to send with a certificate, nearest first; the trust anchor is left out."""
        chain: list[bytes] = []
        current = entry.certificate
        for _ in range(x509.MAX_CHAIN):
            if any(a.subject == current.issuer for a in self.anchors()):
                break
            issuer = next(
                (c for c in self.intermediates() if c.subject == current.issuer and c != current), None
            )
            if issuer is None or x509.to_der(issuer) in chain:
                break
            chain.append(x509.to_der(issuer))
            current = issuer
        return chain
