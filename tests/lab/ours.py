"""Our own daemons under test, started as a user starts them: from their command lines."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.gateway import Gateway
from lab.netns import Namespace
from lab.process import Process
from lab.snmp import Snmp

BIN = Path(sys.executable).parent


def command(name: str) -> str:
    """A console script of this environment."""
    path = BIN / name
    assert path.exists(), f"{path} is not installed: pip install -e ."
    return str(path)


class OurStack(Gateway):
    """One ipsecstackd. `export_keys` writes tshark's tables into the folder `keys`."""

    kind = "ours"

    def __init__(
        self,
        name: str,
        namespace: Namespace | None,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        data_plane: str = "tun",
        export_keys: bool = False,
    ) -> None:
        super().__init__(name, namespace, folder)
        self.settings = {
            "retransmit_tries": "3",
            "retransmit_timeout": "1.0",
            "retransmit_base": "1.4",
            **(settings or {}),
        }
        self.keys = folder / "keys"
        arguments = ["--config", str(self.conf), "--socket", str(self.socket_path), "--dataplane", data_plane]
        if export_keys:
            self.keys.mkdir(mode=0o700, exist_ok=True)
            arguments += ["--export-keys", str(self.keys)]
        self.process = Process(
            name, [command("ipsecstackd"), *arguments], folder / "ipsecstackd.log", namespace
        )

    def preamble(self) -> str:
        lines = "".join(f"  {key} = {value}\n" for key, value in self.settings.items())
        return f"ipsecstackd {{\n{lines}}}\n"

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(self.answers, 45, what="answering VICI")


@dataclass(frozen=True)
class Access:
    """Random secrets of one agent: a read-only community and a v3 operator (SHA-256, AES-128) who may write."""

    community: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)
    user: str = "operator"
    auth_password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)
    priv_password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)

    def reader(self) -> tuple[str, ...]:
        """net-snmp's options for SNMPv2c, read-only."""
        return ("-v2c", "-c", self.community)

    def operator(self) -> tuple[str, ...]:
        """net-snmp's options for SNMPv3 authPriv, read and write."""
        return (
            *("-v3", "-l", "authPriv", "-u", self.user),
            *("-a", "SHA-256", "-A", self.auth_password, "-x", "AES", "-X", self.priv_password),
        )


def agent_configuration(
    access: Access,
    sources: Mapping[str, Path],
    state: Path,
    listen: str = "127.0.0.1:1161",
    poll: float = 0.5,
) -> str:
    """ipsec-snmpd.toml for VICI `sources` (name -> socket), readable on loopback, writable for the operator."""
    parts = [
        f"""[agent]
listen = ["{listen}"]
state_dir = "{state}"

[system]
contact = "lab"
location = "network namespace"

[[community]]
name = "{access.community}"
group = "readers"
networks = ["127.0.0.0/8"]

[[user]]
name = "{access.user}"
group = "operators"
auth = "SHA-256"
auth_password = "{access.auth_password}"
priv = "AES-128"
priv_password = "{access.priv_password}"

[[view]]
name = "all"
include = ["1.3.6.1"]

[[access]]
group = "readers"
model = "v2c"
level = "noAuthNoPriv"
read = "all"

[[access]]
group = "operators"
model = "usm"
level = "authPriv"
read = "all"
write = "all"
"""
    ]
    for name, path in sources.items():
        parts.append(f'[sources.{name}]\ntype = "vici"\nsocket = "{path}"\npoll_interval = {poll}\n')
    return "\n".join(parts)


class OurAgent:
    """One ipsec-snmpd, by default in the namespace of the gateway whose socket it reads.

    `snmp` asks as the read-only community, `operator` as the v3 user who may write.
    """

    def __init__(
        self,
        sources: Mapping[str, Path],
        folder: Path,
        namespace: Namespace | None = None,
        port: int = 1161,
        poll: float = 0.5,
    ) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.access = Access()
        self.conf = folder / "ipsec-snmpd.toml"
        state = folder / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        listen = f"127.0.0.1:{port}"
        with os.fdopen(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(agent_configuration(self.access, sources, state, listen, poll))
        self.snmp = Snmp(listen, namespace, self.access.reader())
        self.operator = Snmp(listen, namespace, self.access.operator())
        self.process = Process(
            "ipsec-snmpd",
            [command("ipsec-snmpd"), "--config", str(self.conf)],
            folder / "ipsec-snmpd.log",
            namespace,
        )

    @classmethod
    def of(cls, gateway: Gateway) -> OurAgent:
        """The agent that watches one gateway."""
        return cls({gateway.name: gateway.socket_path}, gateway.folder / "agent", gateway.namespace)

    def start(self) -> None:
        self.process.start()
        impatient = Snmp(self.snmp.target, self.snmp.namespace, self.snmp.credentials, timeout=0.2, retries=0)
        self.process.wait_ready(impatient.answers, what="answering sysUpTime")

    def stop(self) -> None:
        self.process.stop()
