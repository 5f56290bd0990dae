"""swanctl.conf texts for two ends of a tunnel, for strongSwan and for us alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Union

Section = Mapping[str, Union[str, int, "Section"]]
Auth = Literal["psk", "ecdsa", "rsa", "ed25519"]


def render(section: Section, depth: int = 0) -> str:
    """A section tree as swanctl.conf text; strings are quoted where the format asks for it."""
    pad = "  " * depth
    lines = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            lines.append(f"{pad}{key} {{\n{render(value, depth + 1)}{pad}}}\n")
        else:
            text = str(value)
            if not text or any(c in text for c in '#{}="\\'):
                text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
            lines.append(f"{pad}{key} = {text}\n")
    return "".join(lines)


@dataclass(frozen=True)
class Child:
    """A CHILD_SA configuration; `ts` are the selectors of end a and end b. `options`: further keys as they stand."""

    name: str
    ts: tuple[str, str]
    esp: str = "aes128gcm16-x25519"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tunnel:
    """One connection as both ends see it: addresses and identities of end a and end b."""

    name: str = "gw"
    addresses: tuple[str, str] = ("10.99.0.1", "10.99.0.2")
    identities: tuple[str, str] = ("a.lab", "b.lab")
    children: tuple[Child, ...] = (Child("net", ("10.1.0.0/24", "10.2.0.0/24")),)
    ike: str = "aes128gcm16-prfsha256-x25519"
    auth: Auth = "psk"
    options: Mapping[str, str] = field(default_factory=dict)

    def connection(self, end: int) -> Section:
        """The `connections.NAME` section of end 0 (a) or 1 (b)."""
        other = 1 - end

        def party(which: int) -> dict[str, str]:
            section = {"auth": "psk" if self.auth == "psk" else "pubkey", "id": self.identities[which]}
            if self.auth != "psk" and which == end:
                section["certs"] = f"{self.identities[which]}.pem"
            return section

        return {
            "version": 2,
            "local_addrs": self.addresses[end],
            "remote_addrs": self.addresses[other],
            "proposals": self.ike,
            **self.options,
            "local": party(end),
            "remote": party(other),
            "children": {
                child.name: {
                    "local_ts": child.ts[end],
                    "remote_ts": child.ts[other],
                    "esp_proposals": child.esp,
                    **child.options,
                }
                for child in self.children
            },
        }


def document(tunnels: tuple[Tunnel, ...], end: int, secrets: Mapping[str, str]) -> str:
    """swanctl.conf of one end; `secrets`: tunnel name -> shared secret, "*" -> one for everybody."""
    return render(
        {
            "connections": {tunnel.name: tunnel.connection(end) for tunnel in tunnels},
            "secrets": {
                f"ike-{tunnel.name}": {
                    "secret": secrets[tunnel.name],
                    "id-local": tunnel.identities[end],
                    "id-remote": tunnel.identities[1 - end],
                }
                for tunnel in tunnels
                if tunnel.auth == "psk" and tunnel.name in secrets
            }
            | ({"ike-any": {"secret": secrets["*"]}} if "*" in secrets else {}),
        }
    )
