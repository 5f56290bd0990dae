"""Desired state -> running daemon: loads what changed, unloads what is gone, and leaves the rest alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ipsecstack.config.state import DesiredState, KeyFile, load_file
from ipsecstack.config.tree import ConfigError, Origin
from ipsecstack.keyex.base import KeyExchangeEndpoint
from ipsecstack.keyex.configuration import SharedSecret


class Credentials(Protocol):
    """What configuration and VICI need of ``keyex.credentials.CredentialStore``. Errors are ValueErrors."""

    def batch(self) -> AbstractContextManager[Any]: ...
    def clear(self) -> None: ...
    def load_shared(self, secret: SharedSecret) -> None: ...
    def unload_shared(self, id_: str) -> None: ...
    def shared_ids(self) -> list[str]: ...
    def load_cert(self, data: bytes, ca: bool = False) -> Any: ...
    def unload_cert(self, der: bytes) -> None: ...
    def certificates(self) -> list[Any]: ...
    def load_key(self, data: bytes, passphrase: bytes | None = None) -> str: ...
    def unload_key(self, id_: str) -> None: ...
    def key_ids(self) -> list[str]: ...
    def has_key_for(self, certificate: Any) -> bool: ...
    def load_authority(
        self, name: str, cacert: bytes, crl_uris: Sequence[str] = (), ocsp_uris: Sequence[str] = ()
    ) -> None: ...
    def unload_authority(self, name: str) -> None: ...
    def authorities(self) -> dict[str, Any]: ...
    def load_crl(self, data: bytes) -> bytes: ...
    def unload_crl(self, der: bytes) -> None: ...

    @property
    def revocations(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a reload did: names of connections, and warnings to log."""

    loaded: tuple[str, ...]
    unloaded: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.loaded)} connections loaded, {len(self.unloaded)} unloaded"


class Applier:
    """Applies one configuration file again and again. Only what a file brought in is unloaded when it leaves the file;
    what VICI clients loaded stays."""

    def __init__(self, path: str | Path, endpoint: KeyExchangeEndpoint, credentials: Credentials) -> None:
        self.path = Path(path)
        self._endpoint = endpoint
        self._credentials = credentials
        self._applied = DesiredState()
        self._key_ids: dict[KeyFile, str] = {}

    def reload(self, now: float) -> Report:
        """Read the file and apply the difference. Raises ConfigError, and then nothing has changed."""
        return self.apply(load_file(self.path), now)

    def apply(self, state: DesiredState, now: float) -> Report:
        """Apply a state: credentials first, all or nothing, then connections (whose start actions need them)."""
        key_ids = dict(self._key_ids)
        with self._credentials.batch():
            self._apply_credentials(state, key_ids)
        self._key_ids = key_ids
        self._apply_pools(state)
        running = {c.name: c for c in self._endpoint.connections()}
        wanted = {c.name for c in state.connections}
        unloaded = [c.name for c in self._applied.connections if c.name not in wanted and c.name in running]
        for name in unloaded:
            self._endpoint.unload_connection(name, now)
        loaded = [c for c in state.connections if running.get(c.name) != c]
        for config in loaded:
            self._endpoint.load_connection(config, now)
        for pool in self._applied.pools:
            if pool.name not in {p.name for p in state.pools}:
                with contextlib.suppress(ValueError):  # gone already, or leases are still in use
                    self._endpoint.unload_pool(pool.name)
        self._applied = state
        return Report(tuple(c.name for c in loaded), tuple(unloaded), state.warnings)

    def _apply_pools(self, state: DesiredState) -> None:
        for pool in state.pools:
            _attempt("", f"pools.{pool.name}", lambda p=pool: self._endpoint.load_pool(p))

    def _apply_credentials(self, state: DesiredState, key_ids: dict[KeyFile, str]) -> None:
        store, before = self._credentials, self._applied
        for secret in before.secrets:
            if secret.id not in {s.id for s in state.secrets} and secret.id in store.shared_ids():
                store.unload_shared(secret.id)
        for secret in state.secrets:
            _attempt("", f"secrets.{secret.id}", lambda s=secret: store.load_shared(s))
        present = {entry.der for entry in store.certificates()}
        wanted = {(c.der, c.ca) for c in state.certificates}
        for certificate in before.certificates:
            if (certificate.der, certificate.ca) not in wanted and certificate.der in present:
                store.unload_cert(certificate.der)
        for certificate in state.certificates:
            _attempt(certificate.path, "", lambda c=certificate: store.load_cert(c.der, c.ca))
        for key in [key for key in key_ids if key not in state.keys]:
            id_ = key_ids.pop(key)
            if id_ in store.key_ids() and id_ not in key_ids.values():
                store.unload_key(id_)
        for key in state.keys:
            key_ids[key] = self._load_key(key)
        names = {a.name for a in state.authorities}
        for name in _gone((a.name for a in before.authorities), names, store.authorities()):
            store.unload_authority(name)
        for authority in state.authorities:
            _attempt(
                "",
                f"authorities.{authority.name}",
                lambda a=authority: store.load_authority(a.name, a.cacert, a.crl_uris, a.ocsp_uris),
            )

        listed = {crl.der for crl in store.revocations.lists()}
        for crl in before.crls:
            if crl not in state.crls and crl.der in listed:
                store.unload_crl(crl.der)
        for crl in state.crls:
            _attempt(crl.path, "", lambda c=crl: store.load_crl(c.der))

    def _load_key(self, key: KeyFile) -> str:
        failure = ""
        for phrase in (*key.passphrases, None):
            try:
                return self._credentials.load_key(key.data, phrase)
            except ValueError as error:
                failure = str(error)
        folder, name = Path(key.path).parent.name, Path(key.path).name
        raise ConfigError(
            Origin(key.path), "",
            f"{failure}; an encrypted key needs secrets {{ {folder}-x {{ file = {name}  secret = ... }} }}",
        )  # fmt: skip


def _gone(before: Iterable[str], wanted: set[str], present: dict[str, Any]) -> list[str]:
    return [name for name in before if name not in wanted and name in present]


def _attempt(source: str, key: str, load: Any) -> None:
    try:
        load()
    except ValueError as error:
        raise ConfigError(Origin(source) if source else None, key, str(error)) from None
