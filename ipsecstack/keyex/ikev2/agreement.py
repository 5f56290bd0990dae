"""What both ends of a Child SA negotiation agreed on, and what stands beside SA and TS payloads (RFC 7296 §1.3.1).

Neither end installs anything before all key exchanges are done: offer and answer each end in an ``Agreement``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.keyex.configuration import ChildConfig
from ipsecstack.keyex.ikev2 import keymat, lifecycle
from ipsecstack.keyex.ikev2.proposals import Suite
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload

NONCE_OCTETS = 32
IPCOMP_DEFLATE = 2
"""Transform ID of an IPCOMP_SUPPORTED notification (§3.10.1)."""


@dataclass(slots=True)
class Agreement:
    """A Child SA before it is installed. ``cpi_in`` and ``cpi_out`` are 0 without IPComp.

    ``tfc``: the peer takes TFC padding. ``originals`` are source and destination of the peer's packets as the peer
    makes them, where a NAT changes them (transport mode, §2.23.1). ``shared`` is the secret of the exchange's KE
    payloads.
    """

    config: ChildConfig
    suite: Suite
    mode: Mode
    spi_in: int
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    initiated: bool
    cpi_in: int = 0
    cpi_out: int = 0
    tfc: bool = True
    non_first_fragments: bool = True
    originals: tuple[IPAddress, IPAddress] | None = None
    shared: bytes = field(default=b"", repr=False)
    more: tuple[bytes, ...] = field(default=(), repr=False)
    """Secrets of additional key exchanges (RFC 9370)."""


def install(
    sa: IkeSa, agreed: Agreement, ni: bytes, nr: bytes, now: float, *, hold_outbound: bool = False
) -> ChildSa:
    """Make the keys and install the pair; ``hold_outbound`` as for ``lifecycle.install_child``."""
    child = ChildSa(
        sa.host.next_child_id(),
        agreed.config,
        agreed.suite,
        agreed.mode,
        agreed.spi_in,
        agreed.local_ts,
        agreed.remote_ts,
        initiated=agreed.initiated,
    )
    child.cpi_in, child.cpi_out = agreed.cpi_in, agreed.cpi_out
    child.tfc = agreed.tfc
    child.non_first_fragments = agreed.non_first_fragments
    child.originals = agreed.originals
    child.nonces = (ni, nr)
    keys = keymat.for_child(sa, agreed.suite, ni, nr, agreed.shared, agreed.more)
    lifecycle.install_child(sa, child, keys, agreed.initiated, now, hold_outbound=hold_outbound)
    return child


def check_free(sa: IkeSa, agreed: Agreement) -> None:
    """Nobody took the peer's SPI while key exchanges were done; a Refusal if so."""
    spi = int.from_bytes(agreed.suite.spi, "big")
    if not lifecycle.peer_spi_free(sa, SecurityProtocol(agreed.suite.protocol), spi):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, f"peer's SPI {spi:08x} is in use already")


def drop(sa: IkeSa, agreed: Agreement) -> None:
    """The exchange came to nothing: give back what was reserved."""
    lifecycle.release_spi(sa, agreed.spi_in)
    agreed.spi_in = 0


# --- notifications beside the SA payload ------------------------------------------------------------------------------


def plain_notifies(sa: IkeSa, mode: Mode, local_ts: tuple[TrafficSelector, ...]) -> list[Payload]:
    """ESP_TFC_PADDING_NOT_SUPPORTED where the data plane cannot take it, NON_FIRST_FRAGMENTS_ALSO for tunnels."""
    payloads: list[Payload] = []
    if "tfc" not in sa.host.options.abilities:
        payloads.append(Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED))
    if mode is Mode.TUNNEL and local_ts:
        payloads.append(Notify(NotifyType.NON_FIRST_FRAGMENTS_ALSO))
    return payloads


def ipcomp_notify(cpi: int) -> Notify:
    return Notify(NotifyType.IPCOMP_SUPPORTED, cpi.to_bytes(2, "big") + bytes((IPCOMP_DEFLATE,)))


def peer_cpi(message: Message) -> int:
    """The CPI under which the peer takes DEFLATE, 0 if it does not; other algorithms are not understood (§2.22)."""
    for notify in message.all(Notify):
        if notify.type == NotifyType.IPCOMP_SUPPORTED and len(notify.data) == 3:
            cpi = int.from_bytes(notify.data[:2], "big")
            if notify.data[2] == IPCOMP_DEFLATE and cpi:
                return cpi
    return 0


def tfc_allowed(message: Message) -> bool:
    return message.notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED) is None


def fragments_allowed(
    message: Message, local_ts: tuple[TrafficSelector, ...], remote_ts: tuple[TrafficSelector, ...]
) -> bool:
    """Later fragments show no ports: where selectors name some, both ends must have agreed to it (RFC 4301 §7)."""
    if all(ts.any_port for ts in (*local_ts, *remote_ts)):
        return True
    return message.notify(NotifyType.NON_FIRST_FRAGMENTS_ALSO) is not None


# --- transport mode ---------------------------------------------------------------------------------------------------


def host_to_host(
    sa: IkeSa, local_ts: tuple[TrafficSelector, ...], remote_ts: tuple[TrafficSelector, ...]
) -> bool:
    """Only what the two IKE addresses say to each other can be protected in transport mode."""
    return all(_only(ts) == sa.local.host for ts in local_ts) and all(
        _only(ts) == sa.remote.host for ts in remote_ts
    )


def _only(ts: TrafficSelector) -> IPAddress | None:
    return ts.start if ts.start == ts.end else None


def first_hosts(
    local_ts: tuple[TrafficSelector, ...] | list[TrafficSelector],
    remote_ts: tuple[TrafficSelector, ...] | list[TrafficSelector],
) -> tuple[IPAddress, IPAddress] | None:
    """(remote, local) addresses as the peer wrote them: source and destination of its packets when it makes them."""
    source = _only(remote_ts[0]) if remote_ts else None
    destination = _only(local_ts[0]) if local_ts else None
    return (source, destination) if source is not None and destination is not None else None


def without_nat(
    sa: IkeSa, local_ts: list[TrafficSelector], remote_ts: list[TrafficSelector]
) -> tuple[list[TrafficSelector], list[TrafficSelector]]:
    """Selectors of the peer's message with the addresses that packets have here (§2.23.1).

    Behind a NAT, an end knows only its own side of it: each NAT's addresses are replaced by those of the IKE SA.
    """
    if sa.nat_local:
        local_ts = _with_address(local_ts, sa.local.host)
    if sa.nat_remote:
        remote_ts = _with_address(remote_ts, sa.remote.host)
    return local_ts, remote_ts


def _with_address(selectors: list[TrafficSelector], address: IPAddress) -> list[TrafficSelector]:
    """Selectors of the first one's single address, with this one instead."""
    original = _only(selectors[0]) if selectors else None
    if original is None:
        return selectors
    same = [ts for ts in selectors if _only(ts) == original]
    here = ip_address(address.packed)
    return [TrafficSelector(here, here, ts.protocol, ts.start_port, ts.end_port) for ts in same]


def usable(sa: IkeSa, config: ChildConfig, protocol: int) -> bool:
    """AH cannot pass a NAT, and the data plane must know it."""
    return protocol != SecurityProtocol.AH or ("ah" in sa.host.options.abilities and not sa.nat)
