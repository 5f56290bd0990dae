"""Everything a swanctl.conf and the folders beside it ask for: the desired state of the daemon."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from ipsecstack.config.certs import FolderSource, require_ca, to_der
from ipsecstack.config.connections import read_connection
from ipsecstack.config.daemon import Option, read_daemon
from ipsecstack.config.identity import parse_identity
from ipsecstack.config.keys import AUTHORITY_UNSUPPORTED
from ipsecstack.config.loader import load_tree, read_file
from ipsecstack.config.pools import read_pool
from ipsecstack.config.reader import SectionReader, Warn
from ipsecstack.config.tree import ConfigError, Origin, Section, suggestion
from ipsecstack.config.values import parse_secret
from ipsecstack.crypto.errors import CertificateError
from ipsecstack.crypto.revocation import is_http, load_crl
from ipsecstack.keyex.configuration import ConnectionConfig, Identity, PoolConfig, SharedSecret

DAEMON_SECTION = "ipsecstackd"
_TOP = ("connections", "secrets", "authorities", "pools", DAEMON_SECTION)
_SHARED = ("eap", "xauth", "ntlm", "ike", "ppk")
SHARED_KINDS = ("ike", "eap", "ntlm", "ppk")
_PRIVATE = ("private", "rsa", "ecdsa", "pkcs8")
_OTHER = ("pkcs12", "token")
_UNREAD_FOLDERS = ("x509ocsp", "x509aa", "x509ac", "pubkey", "pkcs12", "bliss")


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A certificate from a folder: DER, and whether it is a trust anchor (``x509ca``)."""

    path: str
    der: bytes = field(repr=False)
    ca: bool


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key from a folder with the passphrases configured for it."""

    path: str
    data: bytes = field(repr=False)
    passphrases: tuple[bytes, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class CrlFile:
    """A certificate revocation list from the folder ``x509crl`` (DER)."""

    path: str
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """A named certification authority, its CA certificate (DER), and where its lists and OCSP responders are."""

    name: str
    cacert: bytes = field(repr=False)
    crl_uris: tuple[str, ...] = ()
    ocsp_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What the files say. Nothing in it has been applied yet."""

    connections: tuple[ConnectionConfig, ...] = ()
    secrets: tuple[SharedSecret, ...] = ()
    certificates: tuple[CertificateFile, ...] = ()
    keys: tuple[KeyFile, ...] = ()
    authorities: tuple[Authority, ...] = ()
    options: dict[str, Option] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    crls: tuple[CrlFile, ...] = ()
    pools: tuple[PoolConfig, ...] = ()


def load_file(path: str | Path) -> DesiredState:
    """Read a swanctl.conf, what it includes, and the certificate folders beside it.

    Raises ConfigError, whose text names file, line, key and cure; then there is no state at all.
    """
    file = Path(path)
    tree = load_tree(file)
    warnings: list[str] = []
    state = read_tree(tree, file.parent, warnings.append)
    _check_permissions(tree, state, warnings.append)
    return replace(state, warnings=tuple(dict.fromkeys(warnings)))


def read_tree(tree: Section, base: Path, warn: Warn) -> DesiredState:
    """The desired state of a tree; certificate and key files are read below ``base``."""
    for name, section in tree.sections.items():
        if name not in _TOP and not section.referenced:
            raise ConfigError(section.origin, name, f"unknown section{suggestion(name, list(_TOP))}")
    for key, value in tree.values.items():
        raise ConfigError(
            value.origin, key, f"a setting outside of all sections{suggestion(key, list(_TOP))}"
        )
    certs = FolderSource(base)
    connections = tree.sections.get("connections")
    secrets, passphrases = _read_secrets(tree.sections.get("secrets"), warn)
    for key, value in connections.values.items() if connections else ():
        raise ConfigError(value.origin, f"connections.{key}", "a setting outside of any connection")
    return DesiredState(
        connections=tuple(
            read_connection(section, certs, warn)
            for section in (connections.sections.values() if connections else ())
        ),
        secrets=tuple(secrets),
        certificates=_read_certificates(base, warn),
        keys=_read_keys(base, passphrases, warn),
        authorities=_read_authorities(tree.sections.get("authorities"), certs, warn),
        options=read_daemon(tree.sections.get(DAEMON_SECTION), warn),
        crls=_read_crls(base, warn),
        pools=tuple(
            read_pool(section, warn)
            for section in (tree.sections["pools"].sections.values() if "pools" in tree.sections else ())
        ),
    )


# --- secrets ----------------------------------------------------------------------------------------------------------


def shared_secret(id_: str, data: bytes, owners: list[str], kind: str = "ike") -> SharedSecret:
    """A secret of a kind (ike: a pre-shared key); owners of ``%any`` alone mean any peer.
    ValueError says what is wrong, never the secret."""
    parsed: list[Identity] = [parse_identity(text) for text in owners]
    if all(owner.is_any for owner in parsed):
        parsed = []
    return SharedSecret(id_, data, tuple(dict.fromkeys(parsed)), kind)


def _read_secrets(
    section: Section | None, warn: Warn
) -> tuple[list[SharedSecret], dict[tuple[str, str], list[bytes]]]:
    """Pre-shared keys, and passphrases by (folder, file name)."""
    secrets: list[SharedSecret] = []
    passphrases: dict[tuple[str, str], list[bytes]] = {}
    for name, sub in section.sections.items() if section else ():
        path = f"secrets.{name}"
        kind = next((k for k in (*_SHARED, *_PRIVATE, *_OTHER) if name.startswith(k)), None)
        if kind is None:
            raise ConfigError(
                sub.origin, path,
                f"unknown kind of secret{suggestion(name, [*_SHARED, *_PRIVATE])}; names start with ike or private",
            )  # fmt: skip
        reader = SectionReader(sub, path, warn)
        reader.no_sections()
        if kind in _PRIVATE:
            file = reader.get("file", str, "")
            phrases = [
                reader.get(key.lower(), lambda text: text.encode(), b"")
                for key in sub.values
                if key.lower().startswith("secret")
            ]
            reader.finish({}, also=("secret",))
            if not file:
                raise ConfigError(sub.origin, path, "names no key file; add file = NAME")
            passphrases.setdefault((kind, file.lower()), []).extend(phrases)
            continue
        if kind not in SHARED_KINDS:
            warn(f"{sub.origin}: {path}: {kind} secrets are not supported yet; this one is not used")
            continue
        data = reader.get("secret", parse_secret, b"")
        if not data:
            raise ConfigError(sub.origin, path, "has no secret; add secret = VALUE")
        owners = [reader.get(key.lower(), str, "") for key in sub.values if key.lower().startswith("id")]
        reader.finish({}, also=("id",))
        try:
            secrets.append(shared_secret(name, data, owners, kind))
        except ValueError as error:
            raise ConfigError(sub.origin, f"{path}.id", str(error)) from None
    return secrets, passphrases


# --- folders ----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(Origin(str(folder)), "", f"cannot read the folder: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise ConfigError(Origin(str(path)), "", f"cannot read: {error.strerror or error}") from None


def _read_certificates(base: Path, warn: Warn) -> tuple[CertificateFile, ...]:
    found = []
    for folder, ca in (("x509", False), ("x509ca", True)):
        for path in _files(base / folder):
            data = _read(path)
            if not _looks_like(data, b"CERTIFICATE"):
                warn(f"{path}: is no certificate in PEM or DER; it is not used")
                continue
            try:
                found.append(CertificateFile(str(path), (require_ca if ca else to_der)(data), ca))
            except ValueError as error:
                raise ConfigError(Origin(str(path)), "", f"{error}; replace or remove the file") from None
    for folder in _UNREAD_FOLDERS:
        if _files(base / folder):
            warn(f"{base / folder}: files of this kind are not supported yet; they are not used")
    return tuple(found)


def _read_crls(base: Path, warn: Warn) -> tuple[CrlFile, ...]:
    found = []
    for path in _files(base / "x509crl"):
        data = _read(path)
        if not _looks_like(data, b"X509 CRL"):
            warn(f"{path}: is no certificate revocation list in PEM or DER; it is not used")
            continue
        try:
            found.append(CrlFile(str(path), load_crl(data).der))
        except CertificateError as error:
            raise ConfigError(Origin(str(path)), "", f"{error}; replace or remove the file") from None
    return tuple(found)


def _looks_like(data: bytes, label: bytes) -> bool:
    """PEM with that label, or what may be DER: other files in a folder (a README, a serial) are no error."""
    return (b"-----BEGIN" in data and label in data) or data[:1] == b"\x30"


def _read_keys(
    base: Path, passphrases: dict[tuple[str, str], list[bytes]], warn: Warn
) -> tuple[KeyFile, ...]:
    found = []
    for folder in _PRIVATE:
        for path in _files(base / folder):
            data = _read(path)
            if not _looks_like(data, b"PRIVATE KEY"):
                warn(f"{path}: is no private key in PEM or DER; it is not used")
                continue
            phrases = passphrases.get((folder, path.name.lower()), [])
            found.append(KeyFile(str(path), data, tuple(phrases)))
    return tuple(found)


def _read_authorities(section: Section | None, certs: FolderSource, warn: Warn) -> tuple[Authority, ...]:
    return tuple(read_authority(sub, certs, warn) for sub in (section.sections.values() if section else ()))


def read_authority(section: Section, certs: object, warn: Warn) -> Authority:
    """The authority that a section (of a file, or of VICI's load-authority) describes."""
    path = f"authorities.{section.name}"
    reader = SectionReader(section, path, warn)
    reader.no_sections()
    named = certs.named  # type: ignore[attr-defined]
    try:
        value = reader.value("cacert")
        if value is not None and value.data is not None:
            der: bytes | None = to_der(value.data)
        elif value is not None:
            der = named(reader.text("cacert", value), "x509ca")
        else:
            der = reader.get("file", lambda text: named(text, "x509ca"), None)
        if der is None:
            raise ConfigError(section.origin, path, "names no CA certificate; add cacert = NAME")
        der = require_ca(der)
    except ValueError as error:
        raise reader.error("cacert", str(error)) from None
    crl_uris, ocsp_uris = (_uris(reader, key) for key in ("crl_uris", "ocsp_uris"))
    reader.finish(AUTHORITY_UNSUPPORTED, also=("file", "cacert"))
    return Authority(section.name, der, crl_uris, ocsp_uris)


def _uris(reader: SectionReader, key: str) -> tuple[str, ...]:
    """A list of plain HTTP addresses; others are refused, nothing would ever be fetched from them."""
    words = reader.words(key) or ()
    for word in words:
        if not is_http(word):
            raise reader.error(key, f"'{word}' is no address that is fetched; write http://...")
    return words


# --- permissions ------------------------------------------------------------------------------------------------------


def _check_permissions(tree: Section, state: DesiredState, warn: Warn) -> None:
    """Warn of files that hold secrets and that others than their owner may read."""
    secrets = tree.sections.get("secrets")
    holders = (
        {value.origin.source for key, value in secrets.walk_values() if key.startswith("secret")}
        if secrets
        else set()
    )
    for name in sorted(holders | {key.path for key in state.keys}):
        try:
            mode = stat.S_IMODE(Path(name).stat().st_mode)
        except OSError:
            continue
        if mode & 0o077:
            warn(f"{name}: holds secrets and has mode {mode:04o}; run: chmod 600 {name}")
