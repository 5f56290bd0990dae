"""Configuration payloads: virtual addresses for the initiator, and what goes with them (RFC 7296 §2.19, §3.15)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig, DynamicSelector
from ipsecstack.keyex.ikev2 import narrowing
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.offer import ChildOffer, Selectors
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.keyex.pools import Lease
from ipsecstack.wire.ikev2 import CfgAttribute, CfgType, Cp, Message, NotifyType, Payload

MAX_ADDRESSES = 16
"""Addresses that one peer may ask for."""
_ADDRESS = {4: CfgAttribute.INTERNAL_IP4_ADDRESS, 6: CfgAttribute.INTERNAL_IP6_ADDRESS}
_ASKED = {
    4: (CfgAttribute.INTERNAL_IP4_DNS, CfgAttribute.INTERNAL_IP4_SUBNET),
    6: (CfgAttribute.INTERNAL_IP6_DNS, CfgAttribute.INTERNAL_IP6_SUBNET),
}
_SUPPORTED = tuple(
    attribute for attribute in CfgAttribute if attribute is not CfgAttribute.APPLICATION_VERSION
)


# --- initiator --------------------------------------------------------------------------------------------------------


def request(sa: IkeSa, config: ConnectionConfig) -> list[Payload]:
    """CFG_REQUEST for the virtual addresses that are configured; a reauthentication asks for those that it has."""
    if not config.vips:
        return []
    held = list(sa.replaces.local_vips) if sa.replaces is not None else []
    attributes: list[tuple[int, bytes]] = []
    for vip in config.vips:
        before = next((a for a in held if a.version == vip.version), None)
        if before is not None:
            held.remove(before)
        attributes.append((_ADDRESS[vip.version], _wanted(before if before is not None else vip)))
    for version in dict.fromkeys(vip.version for vip in config.vips):
        attributes += [(kind, b"") for kind in _ASKED[version]]
    return [Cp(CfgType.REQUEST, tuple(attributes))]


def _wanted(vip: IPAddress) -> bytes:
    if vip.is_unspecified:
        return b""
    return vip.packed if vip.version == 4 else vip.packed + bytes((128,))


def answered(sa: IkeSa, config: ConnectionConfig, message: Message) -> None:
    """Take the addresses of the responder's CFG_REPLY; they are this host's from now on."""
    payload = message.get(Cp)
    if not config.vips or payload is None or payload.cfg_type != CfgType.REPLY:
        return
    room = {version: sum(vip.version == version for vip in config.vips) for version in (4, 6)}
    found: list[IPAddress] = []
    for kind, value in payload.attributes:
        address = _address(kind, value)
        if address is None or address in found or not room[address.version]:
            continue
        if address.is_unspecified or address.is_multicast or address.is_loopback:
            sa.log("IKE", 1, f"refusing the virtual IP {address}, it is no host's")
            continue
        room[address.version] -= 1
        found.append(address)
        sa.log("IKE", 1, f"installing new virtual IP {address}")
        sa.host.add_virtual_ip(address)
    for kind, value in payload.attributes:
        if kind in (CfgAttribute.INTERNAL_IP4_DNS, CfgAttribute.INTERNAL_IP6_DNS):
            server = _plain(value)
            if server is not None:
                sa.log("IKE", 1, f"the peer's DNS server {server} is not installed, only told")
    sa.local_vips = tuple(found)


def selectors(sa: IkeSa, config: ConnectionConfig, child: ChildConfig) -> Selectors | None:
    """What a child asks for whose local side is an address that we do not know yet: any, to be narrowed."""
    if not config.vips or sa.local_vips or not narrowing.dynamic(child.local_ts):
        return None
    versions = dict.fromkeys(vip.version for vip in config.vips)
    local: list[TrafficSelector] = []
    for ts in child.local_ts or (DynamicSelector.of(),):
        if not isinstance(ts, DynamicSelector):
            local.append(ts)
            continue
        for version in versions:
            low, high = (
                (IPv4Address(0), IPv4Address(2**32 - 1))
                if version == 4
                else (IPv6Address(0), IPv6Address(2**128 - 1))
            )
            local.append(TrafficSelector(low, high, ts.protocol, ts.start_port, ts.end_port))
    return tuple(local), narrowing.resolve(child.remote_ts, narrowing.remote_hosts(sa))


def narrow(sa: IkeSa, offer: ChildOffer) -> None:
    """We have our addresses now: the child is for these alone, however the offer was worded."""
    if sa.local_vips and narrowing.dynamic(offer.config.local_ts):
        offer.local_ts = narrowing.resolve(offer.config.local_ts, sa.local_vips)


def _plain(value: bytes) -> IPAddress | None:
    if len(value) == 4:
        return IPv4Address(value)
    return IPv6Address(value) if len(value) == 16 else None


def _address(kind: int, value: bytes) -> IPAddress | None:
    if kind == CfgAttribute.INTERNAL_IP4_ADDRESS and len(value) == 4:
        return IPv4Address(value)
    if kind == CfgAttribute.INTERNAL_IP6_ADDRESS and len(value) in (16, 17):
        return IPv6Address(value[:16])
    return None


# --- responder --------------------------------------------------------------------------------------------------------


def answer(sa: IkeSa, config: ConnectionConfig, message: Message) -> list[Payload]:
    """CFG_REPLY with leases for the addresses that the peer asks for. Refusal: there are none for it, or it has to ask
    and does not; then there is no Child SA either (§3.15.4)."""
    payload = message.get(Cp)
    asked = _asked_for(payload) if payload is not None and payload.cfg_type == CfgType.REQUEST else []
    if not asked:
        if config.pools:
            raise Refusal(NotifyType.FAILED_CP_REQUIRED, "expected a virtual IP request")
        return [] if payload is None else _reply(sa, payload)
    assert payload is not None
    who = sa.remote_eap_id or sa.remote_id
    assert who is not None
    leases: list[Lease] = []
    for version, wanted in asked[:MAX_ADDRESSES]:
        text = str(wanted) if wanted is not None else ("%any" if version == 4 else "%any6")
        sa.log("IKE", 1, f"peer requested virtual IP {text}")
        taken = {(lease.pool, lease.address) for lease in leases}
        lease = sa.host.pools.acquire(config.pools, version, who.text, wanted)
        if lease is None or (lease.pool, lease.address) in taken:
            if lease is not None:
                sa.host.pools.release([lease])
            sa.log("IKE", 1, f"no virtual IP found for {text} requested by '{who.text}'")
            continue
        leases.append(lease)
        sa.log("IKE", 1, f"assigning virtual IP {lease.address} to peer '{who.text}'")
    if not leases:
        raise Refusal(NotifyType.INTERNAL_ADDRESS_FAILURE, f"no virtual IP for '{who.text}'")
    sa.leases = tuple(leases)
    return _reply(sa, payload)


def _asked_for(payload: Cp) -> list[tuple[int, IPAddress | None]]:
    """(IP version, address wanted) of each address attribute of a request."""
    found: list[tuple[int, IPAddress | None]] = []
    for kind, value in payload.attributes:
        if kind not in _ADDRESS.values():
            continue
        address = _address(kind, value)
        wanted = address if address is not None and not address.is_unspecified else None
        found.append((4 if kind == CfgAttribute.INTERNAL_IP4_ADDRESS else 6, wanted))
    return found


def _reply(sa: IkeSa, request: Cp) -> list[Payload]:
    """What the peer has, and the attributes of the pools that it has it from."""
    attributes: list[tuple[int, bytes]] = []
    for lease in sa.leases:
        tail = b"" if lease.address.version == 4 else bytes((128,))
        attributes.append((_ADDRESS[lease.address.version], lease.address.packed + tail))
    for name in dict.fromkeys(lease.pool for lease in sa.leases):
        pool = sa.host.pools.get(name)
        if pool is not None:
            attributes += [a for a in pool.config.attributes if a not in attributes]
    if request.all(CfgAttribute.SUPPORTED_ATTRIBUTES):
        numbers = b"".join(int(kind).to_bytes(2, "big") for kind in _SUPPORTED)
        attributes.append((CfgAttribute.SUPPORTED_ATTRIBUTES, numbers))
    return [Cp(CfgType.REPLY, tuple(attributes))]


# --- both -------------------------------------------------------------------------------------------------------------


def release(sa: IkeSa) -> None:
    """The IKE SA ends: its addresses are free, unless its successor has them."""
    leases, sa.leases = sa.leases, ()
    if leases:
        sa.host.pools.release(leases)
        for lease in leases:
            sa.log("CFG", 1, f"lease {lease.address} by '{lease.identity}' went offline")
    vips, sa.local_vips = sa.local_vips, ()
    for vip in vips:
        sa.host.remove_virtual_ip(vip)


class Configuration(Extension):
    """Configuration payloads outside IKE_AUTH: on an established IKE SA, and when it is rekeyed."""

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """A request is answered with what the peer has; nothing that it wants to set is taken (§3.15)."""
        payload = message.get(Cp)
        if payload is None:
            return []
        if payload.cfg_type == CfgType.REQUEST:
            return _reply(sa, payload)
        return [Cp(CfgType.ACK)] if payload.cfg_type == CfgType.SET else []

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        new.local_vips, old.local_vips = old.local_vips, ()
        new.leases, old.leases = old.leases, ()
        new.remote_eap_id = old.remote_eap_id
