"""``ipsecctl load FILE``: a swanctl.conf and its folders sent over VICI, as ``swanctl --load-all`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vici import Session
from vici.exception import CommandException

from ipsecstack.config import load_file
from ipsecstack.config.certs import FolderSource
from ipsecstack.config.loader import load_tree
from ipsecstack.config.state import KeyFile
from ipsecstack.config.tree import Section
from ipsecstack.config.values import split_list

LISTS = frozenset(
    {
        "local_addrs",
        "remote_addrs",
        "proposals",
        "esp_proposals",
        "ah_proposals",
        "local_ts",
        "remote_ts",
        "vips",
        "pools",
        "groups",
        "cert_policy",
    }
)
FOLDERS = {"certs": "x509", "cacerts": "x509ca"}

Say = Callable[[str], None]


def load_everything(session: Session, path: Path, say: Say) -> int:
    """Load certificates, keys, secrets, authorities and connections, and unload those that are not in the file.

    Returns how many items the daemon refused. Raises ConfigError, before anything is sent, when the file is broken.
    """
    state, tree = load_file(path), load_tree(path)
    for warning in state.warnings:
        say(f"warning: {warning}")
    work = _Loader(session, FolderSource(path.parent), say)
    keys = set(_texts(session.request("get-keys").get("keys", [])))
    for cert in state.certificates:
        flag = "CA" if cert.ca else "NONE"
        work.send("load-cert", {"type": "X509", "flag": flag, "data": cert.der}, f"certificate {cert.path}")
    keys -= {work.key(key) for key in state.keys}
    work.unload("unload-key", "id", keys)
    shared = set(_texts(session.request("get-shared").get("keys", [])))
    for secret in state.secrets:
        message = {
            "id": secret.id,
            "type": secret.kind,
            "data": secret.data,
            "owners": [o.text for o in secret.owners],
        }
        work.send("load-shared", message, f"secret {secret.id}")
    work.unload("unload-shared", "id", shared - {secret.id for secret in state.secrets})
    authorities = set(_texts(session.request("get-authorities").get("authorities", [])))
    for authority in state.authorities:
        work.send(
            "load-authority",
            {
                authority.name: {
                    "cacert": authority.cacert,
                    "crl_uris": list(authority.crl_uris),
                    "ocsp_uris": list(authority.ocsp_uris),
                }
            },
            f"authority {authority.name}",
        )
    for crl in state.crls:
        work.send("load-cert", {"type": "X509_CRL", "flag": "NONE", "data": crl.der}, f"list {crl.path}")
    work.unload("unload-authority", "name", authorities - {a.name for a in state.authorities})
    pools = set(session.request("get-pools"))
    found = tree.sections.get("pools")
    for name, section in found.sections.items() if found else ():
        message = {key: split_list(value.text) for key, value in section.values.items()}
        message["addrs"] = section.values["addrs"].text
        work.send("load-pool", {name: message}, f"pool {name}")
    conns = set(_texts(session.request("get-conns").get("conns", [])))
    found = tree.sections.get("connections")
    sections = found.sections if found else {}
    for name, section in sections.items():
        work.send("load-conn", {name: work.message(section)}, f"connection {name}")
    work.unload("unload-conn", "name", conns - set(sections))
    work.unload("unload-pool", "name", pools - {pool.name for pool in state.pools})
    return work.failures


def _texts(values: Iterable[bytes]) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values]


class _Loader:
    def __init__(self, session: Session, certs: FolderSource, say: Say) -> None:
        self.failures = 0
        self._session = session
        self._certs = certs
        self._say = say

    def send(self, command: str, message: dict[str, Any], what: str) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = self._session.request(command, message)
        except CommandException as error:
            self.failures += 1
            self._say(f"{what} was refused: {str(error).removeprefix('Command failed: ')}")
            return {}
        self._say(f"loaded {what}")
        return reply

    def key(self, key: KeyFile) -> str:
        """Load one private key, trying its passphrases; its identifier."""
        for phrase in key.passphrases[:-1]:
            try:
                reply = self._session.request(
                    "load-key", {"type": "any", "data": key.data, "passphrase": phrase}
                )
            except CommandException:
                continue
            self._say(f"loaded key {key.path}")
            return str(reply["id"], "ascii")
        message: dict[str, Any] = {"type": "any", "data": key.data}
        if key.passphrases:
            message["passphrase"] = key.passphrases[-1]
        reply = self.send("load-key", message, f"key {key.path}")
        return str(reply.get("id", b""), "ascii")

    def unload(self, command: str, key: str, names: set[str]) -> None:
        for name in sorted(names):
            try:
                self._session.request(command, {key: name})
            except CommandException as error:
                self.failures += 1
                self._say(f"{command} {name} failed: {str(error).removeprefix('Command failed: ')}")
            else:
                self._say(f"unloaded {command.removeprefix('unload-')} {name}")

    def message(self, section: Section) -> dict[str, Any]:
        """A section as load-conn takes it: lists as lists, certificates as octets."""
        message: dict[str, Any] = {}
        for key, value in section.values.items():
            if key.lower() in LISTS:
                message[key] = split_list(value.text)
            elif key.lower() in FOLDERS:
                folder = FOLDERS[key.lower()]
                message[key] = [self._certs.named(word, folder) for word in split_list(value.text)]
            elif key.lower() == "file":
                folder = "x509ca" if section.name.lower().startswith("cacert") else "x509"
                message[key] = str((self._certs.base / folder / value.text).absolute())
            else:
                message[key] = value.text
        for name, sub in section.sections.items():
            message[name] = self.message(sub)
        return message
