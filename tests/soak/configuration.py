"""The agent's configuration for the soak, and the changes that reloads make to it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMMUNITY = "soak-reader"
SECRETS = ("soak-authentication", "soak-privacy", COMMUNITY)
ALGORITHMS = {
    "soak-op": ("SHA-256", "AES-128", "operators"),
    "soak224": ("SHA-224", "", "signers"),
    "soak256": ("SHA-256", "AES-128", "readers"),
    "soak384": ("SHA-384", "AES-192", "readers"),
    "soak512": ("SHA-512", "AES-256", "readers"),
}
NAME = "1.3.6.1.2.1.1.5.0"
ENGINE_ID = "80007ed904736f616b"
TARGETS = {
    "trap v1": ('version = "v1"', 'community = "soak-traps"', 'role = "monitor"'),
    "trap v2c": ('version = "v2c"', 'community = "soak-traps"', 'role = "monitor"'),
    "trap v3": ('user = "soak512"',),
    "inform v3": ('user = "soak256"', "inform = true", "timeout = 1", "retries = 3"),
}
"""Where notifications go: all to one receiver, each its own way."""


def user(name: str, auth: str, priv: str, group: str) -> str:
    lines = [
        f'[[user]]\nname = "{name}"\ngroup = "{group}"\nauth = "{auth}"',
        f'auth_password = "{SECRETS[0]}"',
    ]
    if priv:
        lines.append(f'priv = "{priv}"\npriv_password = "{SECRETS[1]}"')
    return "\n".join(lines) + "\n"


def community(name: str) -> str:
    return f'[[community]]\nname = "{name}"\ngroup = "strangers"\nnetworks = ["127.0.0.0/8"]\n'


def target(name: str, port: int) -> str:
    lines = "\n".join(TARGETS[name])
    return f'[[target]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n{lines}\n'


def configuration(folder: Path, receiver: int) -> str:
    """The whole file; PORT stands for the port. Notifications go to `receiver` on loopback."""
    access = ""
    for group, model, level, more in (
        ("strangers", "any", "noAuthNoPriv", ""),
        ("operators", "usm", "authPriv", 'write = "everything"\n'),
        ("readers", "usm", "authPriv", ""),
        ("signers", "usm", "authNoPriv", ""),
    ):
        access += f'[[access]]\ngroup = "{group}"\nmodel = "{model}"\nlevel = "{level}"\nread = "everything"\n{more}'
        access += 'notify = "everything"\n'
    return f"""[agent]
state_dir = "{folder}/state"
listen = ["127.0.0.1:PORT"]
engine_id = "{ENGINE_ID}"
[system]
name = "soak"
writable = ["contact"]
{community(COMMUNITY)}
{"".join(user(name, *rest) for name, rest in ALGORITHMS.items())}
{access}
{"".join(target(name, receiver) for name in TARGETS)}
[[view]]
name = "everything"
include = ["1.3.6.1"]
[gateway]
history_size = 50
failures_size = 50
[sources.moving]
type = "vici"
socket = "{folder}/vici.sock"
poll_interval = 1.0
"""


@dataclass(frozen=True)
class Variant:
    """What a reload adds to the file, or leaves out again."""

    port: int
    community: bool
    user: bool
    listen: bool
    view: bool

    @classmethod
    def drawn(cls, draw: random.Random, port: int) -> Variant:
        return cls(port, *(draw.random() < 0.5 for _ in range(4)))

    def apply(self, text: str) -> str:
        if self.community:
            text += community("soak-guest")
        if self.user:
            text += user("soak-guest", "SHA-256", "", "signers")
        if self.listen:
            text = text.replace('listen = ["', f'listen = ["127.0.0.1:{self.port}", "', 1)
        if self.view:
            text += '[[view]]\nname = "more"\ninclude = ["1.3.6.1.2.1"]\nexclude = ["1.3.6.1.2.1.11"]\n'
        return text

    def check(self, port: int) -> Iterator[tuple[str, bool, bool]]:
        """What is asked, whether an answer is due, and whether one came."""
        guest = ("-v2c", "-c", "soak-guest")
        v3 = ("-v3", "-l", "authNoPriv", "-u", "soak-guest", "-a", "SHA-256", "-A", SECRETS[0])
        yield "the community", self.community, answers(port, guest)
        yield "the user", self.user, answers(port, v3)
        yield "the second address", self.listen, answers(self.port, ("-v2c", "-c", COMMUNITY))


def answers(port: int, who: tuple[str, ...]) -> bool:
    """Whether net-snmp gets sysName."""
    command = ["snmpget", "-m", "", "-Onq", "-t", "0.5", "-r", "3", *who, f"127.0.0.1:{port}", NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout == f'.{NAME} "soak"\n'


BROKEN: tuple[Callable[[str], str], ...] = (
    lambda text: text + "[[view\n",
    lambda text: text.replace("SHA-256", "ROT-13", 1),
    lambda text: text.replace('include = ["1.3.6.1"]', 'include = ["1.3.6.x"]', 1),
    lambda text: text.replace("/state", "/another-state", 1),
    lambda text: text.replace("127.0.0.1:", "192.0.2.1:", 1),
    lambda text: text.replace('type = "vici"', 'type = "telepathy"', 1),
    lambda text: text[: len(text) // 2] + "\0" + text[len(text) // 2 :],
)
