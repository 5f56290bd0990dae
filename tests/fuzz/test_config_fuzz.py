"""Mutated swanctl.conf texts: a tree, a desired state, or a ConfigError that names a place; never anything else."""

from __future__ import annotations

import random
from pathlib import Path

from ipsecstack.config.loader import tree_from_text
from ipsecstack.config.state import read_tree
from ipsecstack.config.tree import ConfigError

SEED = 20261123

TEXT = """
base : other { version = 2
  local { auth = psk
    id = a.lab } }
other { remote { auth = pubkey-sha256
    id = "C=CH, O=lab, CN=b" } }
connections {
  one : base { local_addrs = 10.0.0.1, fe80::1
    remote_addrs = gw.example.org
    proposals = aes128gcm16-prfsha256-x25519, default
    rekey_time = 4h   # comment
    unique = replace
    children {
      c { local_ts = 10.1.0.0/24[tcp/80-90], 10.0.0.5-10.0.0.9
        remote_ts = 2001:db8::/32
        esp_proposals = aes256-sha256-esn
        life_bytes = 20g
        start_action = trap
        mode = tunnel }
    }
  }
}
secrets { ike-1 { secret = 0sc2VjcmV0
    id-a = a.lab } }
ipsecstackd { retransmit_timeout = 0.5 }
"""
WORDS = [
    "{",
    "}",
    "=",
    ":",
    ",",
    ".",
    '"',
    "#",
    "\n",
    "\\",
    "include",
    "%any",
    "-1",
    "0x",
    "9" * 30,
    "default",
    "\0",
    "ä",
    " ",
]


def mutate(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(text) + 1)
        end = min(at + rng.randint(1, 12), len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[end:]
        elif kind == 2:
            other = rng.randrange(len(text))
            text = text[:at] + text[other : other + 40] + text[at:]
        else:
            text = text[:at] + rng.choice(WORDS) + text[end:]
    return text


def test_mutated_configurations(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    read = refused = 0
    for _ in range(2500):
        text = mutate(TEXT, rng).replace("include", "includ")
        try:
            read_tree(tree_from_text(text, "x.conf"), tmp_path, lambda warning: None)
        except ConfigError as error:
            refused += 1
            told = str(error)
        else:
            read += 1
            continue
        assert told.startswith("x.conf:"), told
        assert "c2VjcmV0" not in told, "a secret in a message"
    assert read > 50
    assert refused > 500
