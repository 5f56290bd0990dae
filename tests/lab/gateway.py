"""What strongSwan's charon and our ipsecstackd have in common: swanctl.conf in, VICI out.

Everything here speaks to the unix socket alone, so that one test runs against either and compares both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vici

from lab.netns import Namespace
from lab.process import Process, wait_until
from lab.tools import find_tool


def text_of(value: Any) -> Any:
    """A VICI reply with text for octets, recursively."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {key: text_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [text_of(item) for item in value]
    return value


@dataclass(frozen=True)
class ChildSa:
    """One CHILD_SA of `list-sas`; `raw` is its section."""

    name: str
    ike: str
    raw: Mapping[str, Any]

    @property
    def state(self) -> str:
        return str(self.raw["state"])

    @property
    def uniqueid(self) -> int:
        return int(self.raw["uniqueid"])

    @property
    def spis(self) -> tuple[str, str]:
        """(in, out), lower-case hexadecimal without leading zeroes."""
        return (str(self.raw["spi-in"]).lstrip("0"), str(self.raw["spi-out"]).lstrip("0"))

    @property
    def octets(self) -> tuple[int, int]:
        """(in, out)."""
        return (int(self.raw["bytes-in"]), int(self.raw["bytes-out"]))

    @property
    def packets(self) -> tuple[int, int]:
        """(in, out)."""
        return (int(self.raw["packets-in"]), int(self.raw["packets-out"]))


@dataclass(frozen=True)
class IkeSa:
    """One IKE_SA of `list-sas`; `raw` is its section."""

    name: str
    raw: Mapping[str, Any]
    children: tuple[ChildSa, ...]

    @property
    def state(self) -> str:
        return str(self.raw["state"])

    @property
    def uniqueid(self) -> int:
        return int(self.raw["uniqueid"])

    @property
    def spis(self) -> tuple[str, str]:
        """(initiator's, responder's)."""
        return (str(self.raw["initiator-spi"]), str(self.raw["responder-spi"]))


class SwanctlError(AssertionError):
    """swanctl ended with an error; the message holds what it printed."""


class Gateway:
    """A running IKE daemon in a namespace. Subclasses start and stop it."""

    kind = ""

    def __init__(self, name: str, namespace: Namespace | None, folder: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.socket_path = folder / "vici"
        self.conf = folder / "swanctl.conf"
        self.process: Process

    # --- life -------------------------------------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """Write swanctl.conf (mode 0600); a running daemon learns of it by `load_all`."""
        with os.fdopen(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)

    def preamble(self) -> str:
        """What the daemon wants at the head of its swanctl.conf."""
        return ""

    def start(self) -> None:
        raise NotImplementedError  # interface

    def stop(self) -> None:
        """An orderly end: the peer is told."""
        self.process.stop()

    def kill(self) -> None:
        """A crash: the peer is not told."""
        self.process.kill()

    def log(self) -> str:
        return self.process.text()

    # --- swanctl ----------------------------------------------------------------------------------------------------

    def swanctl_environment(self) -> Mapping[str, str]:
        """Where swanctl finds its own plugins and settings."""
        settings = self.folder / "swanctl-strongswan.conf"
        if not settings.exists():
            settings.write_text("swanctl { load = random openssl x509 pem pkcs1 pkcs8 pubkey sha1 sha2 }\n")
        return {"STRONGSWAN_CONF": str(settings), "SWANCTL_DIR": str(self.folder)}

    def swanctl_argv(self, *arguments: str) -> list[str]:
        return [find_tool("swanctl") or "swanctl", *arguments, "--uri", f"unix://{self.socket_path}"]

    def swanctl_run(self, *arguments: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        """Stock swanctl on this gateway's socket; its exit status and output as they are."""
        return subprocess.run(
            self.swanctl_argv(*arguments),
            env={**os.environ, **self.swanctl_environment()},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def swanctl(self, *arguments: str, timeout: float = 20) -> str:
        """Standard output of a swanctl call that must succeed."""
        done = self.swanctl_run(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise SwanctlError(
                f"{self.name}: swanctl {' '.join(arguments)} gave {done.returncode}:\n"
                f"{done.stdout[-2000:]}{done.stderr[-1000:]}\n--- log of {self.name}:\n{self.log()[-3000:]}"
            )
        return done.stdout

    def load_all(self) -> str:
        return self.swanctl("--load-all", "--noprompt")

    # --- VICI -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def vici(self, timeout: float = 20) -> Iterator[vici.Session]:
        """A session on the socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.socket_path))
            yield vici.Session(connection)

    def answers(self) -> bool:
        """Whether VICI answers `version`."""
        try:
            with self.vici(5) as session:
                return bool(session.version())
        except (OSError, vici.exception.SessionException):
            return False

    def ike_sas(self, **filters: str) -> list[IkeSa]:
        """All IKE_SAs as `list-sas` gives them."""
        found = []
        with self.vici() as session:
            for message in session.list_sas(filters or None):
                for name, section in text_of(message).items():
                    children = tuple(
                        ChildSa(str(child["name"]), name, child)
                        for child in section.get("child-sas", {}).values()
                    )
                    found.append(IkeSa(name, section, children))
        return found

    def established(self) -> list[IkeSa]:
        return [sa for sa in self.ike_sas() if sa.state == "ESTABLISHED"]

    def children(self, name: str | None = None, state: str | None = "INSTALLED") -> list[ChildSa]:
        """CHILD_SAs, of one name and state if given."""
        return [
            child
            for sa in self.ike_sas()
            for child in sa.children
            if (name is None or child.name == name) and (state is None or child.state == state)
        ]

    def ike_sa(self) -> IkeSa:
        """The one established IKE_SA; AssertionError when there are none or several."""
        (sa,) = self.established()
        return sa

    def child(self, name: str | None = None) -> ChildSa:
        """The one installed CHILD_SA (of that name)."""
        (child,) = self.children(name)
        return child

    def initiate(self, child: str, timeout: float = 10) -> str:
        return self.swanctl(
            "--initiate", "--child", child, "--timeout", str(int(timeout)), timeout=timeout + 5
        )

    def wait_child(self, name: str | None = None, timeout: float = 10) -> ChildSa:
        """Until a CHILD_SA is installed."""
        wait_until(lambda: self.children(name), timeout, f"{self.name}: CHILD_SA {name or ''} installed")
        return self.children(name)[0]

    def wait_other_child(self, spis: tuple[str, str], name: str | None = None, timeout: float = 10) -> None:
        """Until one CHILD_SA (of `name`) is installed and it is not the one of `spis` (in, out): a rekey is through."""

        def replaced() -> bool:
            installed = [child.spis for child in self.children(name)]
            return len(installed) == 1 and installed[0] != spis

        wait_until(replaced, timeout, f"{self.name}: CHILD_SA other than {spis} alone")

    def wait_one_ike_sa(self, not_spis: tuple[str, str] | None = None, timeout: float = 10) -> None:
        """Until one established IKE_SA alone is listed (and it is not the one of `not_spis`)."""

        def alone() -> bool:
            listed = self.ike_sas()
            return len(listed) == 1 and listed[0].state == "ESTABLISHED" and listed[0].spis != not_spis

        wait_until(alone, timeout, f"{self.name}: one IKE_SA, not {not_spis}")

    def wait_no_sa(self, timeout: float = 10) -> None:
        """Until no IKE_SA is listed at all."""
        wait_until(lambda: not self.ike_sas(), timeout, f"{self.name}: no IKE_SA left")
