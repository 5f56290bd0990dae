"""NAT detection and what follows from it (RFC 7296 §2.23)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex.configuration import ConnectionConfig
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType


def detection_hash(spi_i: bytes, spi_r: bytes, address: Address) -> bytes:
    """SHA-1 over both SPIs, the address and the port; a fingerprint, not a protection."""
    material = spi_i + spi_r + address.host.packed + address.port.to_bytes(2, "big")
    return hashlib.sha1(material, usedforsecurity=False).digest()


def payloads(spi_i: bytes, spi_r: bytes, local: Address, remote: Address, fake: bytes | None) -> list[Notify]:
    """The two notifications of one end; ``fake`` (20 octets) stands for the source to force encapsulation."""
    source = fake if fake is not None else detection_hash(spi_i, spi_r, local)
    return [
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, source),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, detection_hash(spi_i, spi_r, remote)),
    ]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the peer's notifications tell: whether it knows NAT traversal, and which end is behind a NAT."""

    supported: bool
    local: bool = False
    remote: bool = False


def detect(message: Message, spi_i: bytes, spi_r: bytes, local: Address, remote: Address) -> Finding:
    """Compare a received IKE_SA_INIT message with the addresses it came with. A peer may list several sources."""
    notifies = message.all(Notify)
    sources = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_SOURCE_IP]
    destinations = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    if not sources or not destinations:
        return Finding(False)
    return Finding(
        True,
        local=detection_hash(spi_i, spi_r, local) not in destinations,
        remote=detection_hash(spi_i, spi_r, remote) not in sources,
    )


def note(sa: IkeSa, config: ConnectionConfig, finding: Finding) -> None:
    """Log and keep what NAT detection found; ``encap`` forces encapsulation where it found nothing."""
    before = (sa.nat_local, sa.nat_remote, sa.nat_fake)
    sa.features.nat_traversal = finding.supported
    sa.nat_local, sa.nat_remote = finding.local, finding.remote
    sa.nat_fake = config.encap and finding.supported and not (finding.local or finding.remote)
    if before == (sa.nat_local, sa.nat_remote, sa.nat_fake):
        return
    if finding.local:
        sa.log("IKE", 1, "local host is behind NAT, sending keep alives")
    if finding.remote:
        sa.log("IKE", 1, "remote host is behind NAT")
    if sa.nat_fake:
        sa.log("IKE", 1, "faking NAT situation to enforce UDP encapsulation")


def float_ports(sa: IkeSa) -> None:
    """Go on from and to port 4500 (§2.23), unless other ports than 500 are configured."""
    options = sa.host.options
    if sa.local.port == options.port:
        sa.local = Address(sa.local.host, options.port_nat_t)
    if sa.remote.port == 500 or sa.remote.port == options.port:
        sa.remote = Address(sa.remote.host, 4500 if sa.remote.port == 500 else options.port_nat_t)
