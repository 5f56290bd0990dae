"""Our own daemons under test, started as a user starts them: from their command lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
        namespace: Namespace,
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
        self.process.wait_ready(self.answers, what="answering VICI")


class OurAgent:
    """One ipsec-snmpd in the namespace of the gateway whose socket it reads."""

    def __init__(self, gateway: Gateway, configuration: str, port: int = 1161) -> None:
        self.gateway = gateway
        self.folder = gateway.folder / "agent"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.conf = self.folder / "ipsec-snmpd.toml"
        self.conf.write_text(configuration)
        self.snmp = Snmp(f"127.0.0.1:{port}", gateway.namespace)
        self.process = Process(
            f"{gateway.name}-agent",
            [command("ipsec-snmpd"), "--config", str(self.conf)],
            self.folder / "ipsec-snmpd.log",
            gateway.namespace,
        )

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(Snmp(self.snmp.target, self.snmp.namespace, timeout=0.2, retries=0).answers)

    def stop(self) -> None:
        self.process.stop()
