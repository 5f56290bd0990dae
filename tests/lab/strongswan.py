"""strongSwan's charon with userspace ESP (kernel-libipsec), as it runs without ESP in the kernel.

kernel-libipsec always encapsulates in UDP, wants an address inside each local selector before it starts, and does no
ESN. A second charon on one machine needs its own /run (its pid file) and a VICI socket outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.gateway import Gateway
from lab.netns import Namespace
from lab.process import Process
from lab.tools import PLACE_OF

# openssl first: by plugin order kernel-libipsec's AES-GCM is 15 times faster.
PLUGINS = (
    "openssl random nonce aes sha1 sha2 md5 hmac kdf xcbc cmac ctr ccm gcm curve25519 chapoly gmp gcrypt fips-prf x509 "
    "revocation constraints pubkey pkcs1 pkcs8 pem mgf1 drbg vici updown socket-default counters eap-identity eap-md5 "
    "eap-mschapv2 eap-gtc eap-tls xauth-generic kernel-libipsec kernel-netlink"
)


class StrongSwan(Gateway):
    """One charon. `settings` are further lines of its charon section."""

    kind = "strongswan"
    plugins = PLUGINS

    def __init__(
        self, name: str, namespace: Namespace, folder: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name, namespace, folder)
        self.charon_log = folder / "charon.log"
        self.settings = {
            "retransmit_tries": "3",
            "retransmit_timeout": "1.0",
            "retransmit_base": "1.4",
            **(settings or {}),
        }
        self.strongswan_conf = folder / "strongswan.conf"
        # The mount namespace that `ip netns exec` gives gets its own /run.
        start = f"mount -t tmpfs tmpfs /run && exec {PLACE_OF['charon']}"
        self.process = Process(
            name,
            ["sh", "-c", start],
            folder / "stdout.log",
            namespace,
            {"STRONGSWAN_CONF": str(self.strongswan_conf)},
        )

    def start(self) -> None:
        """Start charon and load swanctl.conf."""
        lines = "\n".join(f"  {key} = {value}" for key, value in self.settings.items())
        self.strongswan_conf.write_text(
            f"""charon {{
  load = {self.plugins}
  threads = 16
  cert_cache = no
  integrity_test = no
  make_before_break = yes
{lines}
  filelog {{
    log {{
      path = {self.charon_log}
      time_format = %T
      ike_name = yes
      append = yes
      default = 1
      ike = 2
      cfg = 1
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{self.socket_path}
    }}
    eap-gtc {{
      backend = generic
    }}
    kernel-libipsec {{
      load = yes
      allow_peer_ts = no
    }}
  }}
}}
"""
        )
        self.socket_path.unlink(missing_ok=True)
        self.process.start()
        self.process.wait_ready(self.answers, 45, what="answering VICI")
        if self.conf.exists():
            self.load_all()

    def log(self) -> str:
        text = self.charon_log.read_text("utf-8", "replace") if self.charon_log.exists() else ""
        return self.process.text() + text


class KernelStrongSwan(StrongSwan):
    """One charon whose ESP is the kernel's: where the kernel has any, which is in a guest (lab.uml)."""

    kind = "kernel"
    plugins = PLUGINS.replace("kernel-libipsec ", "")
