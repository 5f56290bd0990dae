"""Moving an IKE SA and its Child SAs to other addresses or ports (RFC 7296 §2.23, RFC 4555 §3.5)."""

from __future__ import annotations

from dataclasses import replace

from ipsecstack.ipsec.sa import Address, Direction, SaId, SecurityProtocol
from ipsecstack.keyex.base import IkeSaUpdated, UpdateSa
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import ChildState
from ipsecstack.wire.ikev2 import Message, NotifyType


def follow_nat(sa: IkeSa, local: Address, remote: Address) -> None:
    """The peer's NAT shows it at another place, as an authenticated packet tells: go there, unless we are behind a
    NAT ourselves (§2.23)."""
    if remote != sa.remote and sa.nat_remote and not sa.nat_local:
        move(sa, local, remote)


def move(sa: IkeSa, local: Address, remote: Address) -> bool:
    """Both ends' addresses are these from now on, and ESP is in UDP as the IKE SA's NAT state says. False, and
    nothing happens, when the peer cannot be told from another one there."""
    if remote.host != sa.remote.host and not spis_free(sa, remote):
        sa.log(
            "IKE", 1, f"remote endpoint stays {sa.remote}: at {remote.host} an SPI of it is in use already"
        )
        return False
    if remote != sa.remote:
        sa.log("IKE", 1, f"remote endpoint changed from {sa.remote} to {remote}")
    if local != sa.local:
        sa.log("IKE", 1, f"local endpoint changed from {sa.local} to {local}")
    old = sa.remote.host
    sa.local, sa.remote = local, remote
    for elder in list(sa.host.ike_sas_at(old)):
        if elder is not sa and elder.features is sa.features:  # rekeyed, and not deleted yet
            elder.local, elder.remote = local, remote
            sa.host.touch(elder)
    for child in sa.children:
        child.encapsulated = sa.nat and child.protocol is SecurityProtocol.ESP
        if child.inbound is not None:
            sa.host.emit(UpdateSa(child.inbound, remote, local, child.encapsulated))
            child.inbound = _renamed(sa, child, child.inbound, local)
        if child.outbound is not None and child.state is not ChildState.DELETED:
            sa.host.emit(UpdateSa(child.outbound, local, remote, child.encapsulated))
            child.outbound = _renamed(sa, child, child.outbound, remote)
        if child.pending_out is not None:
            waiting = replace(
                child.pending_out, source=local, destination=remote, encapsulated=child.encapsulated
            )
            _renamed(sa, child, child.pending_out.id, remote)
            child.pending_out = waiting
        sa.host.touch(sa, child)
    sa.host.touch(sa)
    sa.host.emit(IkeSaUpdated(sa.view()))
    return True


def spis_free(sa: IkeSa, remote: Address) -> bool:
    """Nobody else at this address has an SPI that we send to: SAs of two peers must not become one."""
    for child in sa.children:
        taken = sa.host.child_of(SaId(Direction.OUT, child.protocol, child.spi_out, remote.host))
        if taken is not None and taken.owner is not sa:
            return False
    return True


def _renamed(sa: IkeSa, child: ChildSa, old: SaId, destination: Address) -> SaId:
    new = replace(old, destination=destination.host)
    sa.host.removed(old)
    sa.host.installed(new, child)
    return new


def no_nats_allowed(source: Address, destination: Address) -> bytes:
    """What NO_NATS_ALLOWED says of a message between these (RFC 4555 §4.2.6): 12 octets, or 36 with IPv6."""
    ports = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    return source.host.packed + destination.host.packed + ports


def translated(message: Message, source: Address, destination: Address) -> bool:
    """The sender prohibits NATs, and something changed addresses or ports on the way (RFC 4555 §3.9)."""
    notify = message.notify(NotifyType.NO_NATS_ALLOWED)
    return notify is not None and notify.data != no_nats_allowed(source, destination)
