"""MOBIKE: an IKE SA goes on at other addresses (RFC 4555).

The original initiator decides which pair of addresses is used. It moves when its own address goes, when the peer's
list of addresses says so, or when another path answers where the one in use is silent. The responder follows its
updates, and checks afterwards that it is reached at the new address.
"""

from __future__ import annotations

import hmac

from ipsecstack.ipsec.sa import Address, Mode
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex import lookup
from ipsecstack.keyex.ikev2 import addresses, lifecycle, nat, paths
from ipsecstack.keyex.ikev2.create_child import NewChild
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke, Liveness
from ipsecstack.keyex.ikev2.paths import Mobility, Path
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload

_COOKIE_OCTETS = 16
_PROBE_FROM = 2
"""The retransmission from which on a request goes over all paths."""


# --- what is agreed in the initial exchanges ---


class Mobike(Extension):
    """Support is told in IKE_AUTH, with the addresses beside the one in use (§3.3, §3.4)."""

    resumes = True

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        """Port 4500 from now on, NAT or not: one may be on a later path (§3.3)."""
        if _wanted(sa) and sa.features.nat_traversal:
            nat.float_ports(sa)

    def auth_request(self, sa: IkeSa) -> list[Payload]:
        return _offer(sa, sa.local, sa.remote) if _wanted(sa) else []

    def auth_requested(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        if not _wanted(sa) or message.notify(NotifyType.MOBIKE_SUPPORTED) is None:
            return []
        local, remote = sa.arrival
        if addresses.translated(message, remote, local):
            sa.log("IKE", 1, f"peer allows no NAT, but there is one before {remote}")
            sa.enqueue(DeleteIke("auth-failed", NotifyType.UNEXPECTED_NAT_DETECTED), first=True)
            return []
        payloads = _offer(sa, local, remote)
        _agree(sa, message, leads=False)
        return payloads

    def auth_answered(self, sa: IkeSa, message: Message, now: float) -> None:
        if _wanted(sa) and message.notify(NotifyType.MOBIKE_SUPPORTED) is not None:
            _agree(sa, message, leads=True)
            local_changed(sa, now)  # since the request was sent

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        mobility = sa.features.mobility
        if mobility is None:
            return []
        answer: list[Payload] = []
        cookie = message.notify(NotifyType.COOKIE2)
        if cookie is not None and 8 <= len(cookie.data) <= 64:
            answer.append(Notify(NotifyType.COOKIE2, cookie.data))
        told = paths.told_addresses(message)
        update = message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None
        if update or told is not None:
            error = _prohibited(sa, message)
            if error is None and told is not None:
                _take_list(sa, mobility, told)
            if error is None and update and not mobility.leads:
                error = _follow(sa, mobility, message)
            if error is not None:
                return [Notify(error), *answer]
        if message.notify(NotifyType.NAT_DETECTION_DESTINATION_IP) is not None:
            answer += nat.payloads(sa.spi_i, sa.spi_r, *sa.arrival, _fake(sa))
        return answer

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        new.local, new.remote = old.local, old.remote


def _wanted(sa: IkeSa) -> bool:
    return sa.config is not None and sa.config.mobike


def _offer(sa: IkeSa, local: Address, remote: Address) -> list[Payload]:
    others = paths.to_tell(_own(sa), local.host)
    sa.features.told_addresses = frozenset(others)
    return [
        Notify(NotifyType.MOBIKE_SUPPORTED),
        *paths.address_payloads(others),
        *_no_nats(sa, local, remote),
    ]


def _agree(sa: IkeSa, message: Message, *, leads: bool) -> None:
    others = paths.told_addresses(message) or ()
    sa.features.mobility = Mobility(leads, others, sa.features.told_addresses)
    text = f", peer has further addresses: {', '.join(map(str, others))}" if others else ""
    sa.log("IKE", 1, f"peer supports MOBIKE{text}")


def _no_nats(sa: IkeSa, local: Address, remote: Address) -> list[Payload]:
    """Without NAT traversal nothing else vouches for the addresses (§3.9)."""
    if sa.features.nat_traversal:
        return []
    return [Notify(NotifyType.NO_NATS_ALLOWED, addresses.no_nats_allowed(local, remote))]


def _fake(sa: IkeSa) -> bytes | None:
    return sa.host.random(20) if sa.config is not None and sa.config.encap else None


# --- our addresses and paths ---


def _own(sa: IkeSa) -> list[IPAddress]:
    """The host's addresses that the connection may use."""
    known = sa.host.local_addresses or (sa.local.host,)
    configured = sa.config.local_addrs if sa.config is not None else ()
    return [address for address in known if lookup.match_address(configured, address)]


def _source(sa: IkeSa, remote: IPAddress) -> IPAddress | None:
    """The address that the host would send from, the one in use where nobody can tell."""
    ask = sa.host.source_address
    return ask(remote) if ask is not None else sa.local.host


def _paths(sa: IkeSa, mobility: Mobility) -> list[Path]:
    there = (sa.remote.host, *mobility.peer)
    sources = {remote: _source(sa, remote) for remote in there}
    found = paths.pairs(_own(sa), sources, (sa.local, sa.remote), there)
    return [p for p in found if p not in mobility.refused and sources[p[1].host] is not None]


def _lost_address(sa: IkeSa) -> bool:
    """The address in use is not ours any more."""
    known = sa.host.local_addresses
    return bool(known) and not sa.local.host.is_unspecified and sa.local.host not in known


def local_changed(sa: IkeSa, now: float) -> None:
    """Addresses or routes of this host changed: tell the peer, move where the path in use is gone."""
    mobility = sa.features.mobility
    if sa.state is State.DELETING and _lost_address(sa):
        source = _source(sa, sa.remote.host)
        if source is not None:  # so that the peer hears of it
            sa.local = Address(source, sa.local.port)
            sa.requests.hasten(now)
            sa.host.touch(sa)
    if sa.state is not State.ESTABLISHED:
        return
    if mobility is None:
        if _lost_address(sa):
            _start_again(sa, now)
        return
    mobility.refused.clear()
    if _lost_address(sa) or _source(sa, sa.remote.host) is None:
        found = _paths(sa, mobility)
        if not found:
            sa.log("IKE", 1, "no path to the peer is left, waiting for another address or route")
        elif mobility.leads:
            _relocate(sa, mobility, found[0], now)
        else:
            # Only from another address can the initiator be told which ones we have (§3.6).
            addresses.move(sa, found[0][0], sa.remote)
            _tell(sa, UpdateAddresses(update=False))
    elif frozenset(paths.to_tell(_own(sa), sa.local.host)) != mobility.told:
        _tell(sa, UpdateAddresses(update=False))


def _start_again(sa: IkeSa, now: float) -> None:
    """Without MOBIKE an IKE SA cannot leave its address. The initiator makes another one as soon as it can."""
    if not sa.initiator or _source(sa, sa.remote.host) is None or sa.successor is not None:
        return
    sa.log("IKE", 1, f"address {sa.local.host} is gone and the peer does not support MOBIKE, starting again")
    names = [child.name for child in sa.children if child.alive]
    lifecycle.destroy(sa, "replaced", now)
    for name in dict.fromkeys(names):
        sa.host.start_child(sa.name, name, now)


def _relocate(sa: IkeSa, mobility: Mobility, path: Path, now: float) -> None:
    """As original initiator: use this path from now on, and say so (§3.5)."""
    if path == (sa.local, sa.remote):
        return
    before = (sa.local, sa.remote)
    if not addresses.move(sa, *path):
        mobility.refused.add(path)
        return
    mobility.changes += 1
    mobility.previous = mobility.previous or before
    sa.log("IKE", 1, f"requesting address change using MOBIKE: {path[0]} to {path[1]}")
    _renew_transport(sa, before)
    sa.requests.hasten(now)
    _tell(sa, UpdateAddresses(update=True))


def _tell(sa: IkeSa, task: UpdateAddresses) -> None:
    """The latest word replaces one that still waits."""
    for waiting in [t for t in sa.queue if isinstance(t, UpdateAddresses)]:
        task.update = task.update or waiting.update
        sa.queue.remove(waiting)
    sa.enqueue(task, first=True)


def _renew_transport(sa: IkeSa, before: Path) -> None:
    """Transport mode protects packets between the IKE SA's own addresses: such a Child SA cannot move (§1.2)."""
    if (before[0].host, before[1].host) == (sa.local.host, sa.remote.host):
        return
    for child in sa.children:
        if child.mode is Mode.TRANSPORT and child.alive:
            sa.log("IKE", 1, f"CHILD_SA {child.tag} is in transport mode and ends with its addresses")
            sa.enqueue(DeleteChild(child, "addresses"))
            sa.enqueue(NewChild(child.config))


# --- as original initiator: updates, and paths that answer ---


class UpdateAddresses(Task):
    """Tells our addresses; with ``update`` also that this path is the one to use. COOKIE2 shows that the answer comes
    from who got this request (§3.7)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_MOBIKE"

    def __init__(self, *, update: bool, tries: int = 0) -> None:
        super().__init__()
        self.update = update
        self.tries = tries
        self.cookie = b""
        self.changes = -1

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        mobility = sa.features.mobility
        if mobility is None or sa.state is not State.ESTABLISHED:
            return None
        self.changes = mobility.changes
        self.cookie = sa.host.random(_COOKIE_OCTETS)
        payloads: list[Payload] = []
        if self.update and mobility.leads:
            payloads.append(Notify(NotifyType.UPDATE_SA_ADDRESSES))
        others = paths.to_tell(_own(sa), sa.local.host)
        mobility.told = frozenset(others)
        sa.log("IKE", 1, "sending address list update using MOBIKE")
        payloads += paths.address_payloads(others)
        if sa.features.nat_traversal:
            payloads += nat.payloads(sa.spi_i, sa.spi_r, sa.local, sa.remote, _fake(sa))
        payloads += _no_nats(sa, sa.local, sa.remote)
        payloads.append(Notify(NotifyType.COOKIE2, self.cookie))
        return payloads

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        mobility = sa.features.mobility
        if mobility is None:
            return
        cookie = message.notify(NotifyType.COOKIE2)
        if cookie is not None and not hmac.compare_digest(cookie.data, self.cookie):
            _close(sa)
            return
        if sa.successor is not None:
            if self.update:
                sa.successor.enqueue(UpdateAddresses(update=True), first=True)
            return
        if self.changes != mobility.changes:
            return  # the addresses changed meanwhile, and the next update waits already
        if message.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None:
            sa.log("IKE", 1, "peer detected a NAT where none is allowed")
            if self.tries < sa.host.options.retransmit_tries:
                sa.enqueue(UpdateAddresses(update=self.update, tries=self.tries + 1), first=True)
            return
        if message.notify(NotifyType.UNACCEPTABLE_ADDRESSES) is not None:
            if self.update:
                _refused(sa, mobility, now)
            return
        if self.update and mobility.leads:
            mobility.previous = None
            mobility.refused.clear()
            _settle_nat(sa, mobility, message)
            sa.log("IKE", 1, f"peer goes on with {sa.local} to {sa.remote}")


def _settle_nat(sa: IkeSa, mobility: Mobility, message: Message) -> None:
    """What the answer tells of NATs on the new path: ESP goes in UDP, or stops doing so."""
    finding = nat.detect(message, sa.spi_i, sa.spi_r, *sa.arrival)
    if not finding.supported or sa.config is None:
        return
    before = (sa.nat_local, sa.nat_remote, sa.nat_fake)
    nat.note(sa, sa.config, finding)
    mobility.mapping = (sa.own_spi, _seen_at(message))
    if before != (sa.nat_local, sa.nat_remote, sa.nat_fake):
        addresses.move(sa, sa.local, sa.remote)


def _seen_at(message: Message) -> bytes:
    notify = message.notify(NotifyType.NAT_DETECTION_DESTINATION_IP)
    return notify.data if notify is not None else b""


def _refused(sa: IkeSa, mobility: Mobility, now: float) -> None:
    """The peer does not want this path: try the next one, or go back to the one that it still uses."""
    sa.log("IKE", 1, f"peer finds {sa.local} to {sa.remote} unacceptable")
    mobility.refused.add((sa.local, sa.remote))
    found = [path for path in _paths(sa, mobility) if path != mobility.previous]
    if found:
        _relocate(sa, mobility, found[0], now)
        return
    previous, mobility.previous = mobility.previous, None
    if previous is not None:
        mobility.changes += 1
        addresses.move(sa, *previous)


def other_paths(sa: IkeSa, retransmits: int) -> list[Path]:
    """Where else a request goes that stays unanswered (§3.10); the response tells which path works."""
    mobility = sa.features.mobility
    if (
        mobility is None
        or not mobility.leads
        or retransmits < _PROBE_FROM
        or sa.state is not State.ESTABLISHED
    ):
        return []
    return [path for path in _paths(sa, mobility) if path != (sa.local, sa.remote)]


def answered_over(sa: IkeSa, local: Address, remote: Address, now: float) -> None:
    """An authenticated response came over this path. If it was sent over several, this is the one that works."""
    mobility = sa.features.mobility
    if mobility is None or not mobility.leads or (local, remote) == (sa.local, sa.remote):
        return
    if sa.state is State.ESTABLISHED and (local, remote) in _paths(sa, mobility):
        sa.log("IKE", 1, f"path {local} to {remote} works where {sa.local} to {sa.remote} did not")
        _relocate(sa, mobility, (local, remote), now)


class NatWatch(Liveness):
    """A liveness check from behind a NAT, which also finds out whether the NAT's mapping is the same still (§3.8)."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = -1
        self.update = False

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        super().request(sa, now)
        mobility = sa.features.mobility
        assert mobility is not None
        self.changes = mobility.changes
        payloads: list[Payload] = [*nat.payloads(sa.spi_i, sa.spi_r, sa.local, sa.remote, _fake(sa))]
        # The first one of an IKE SA knows of no earlier mapping, so it makes sure that the peer knows this one.
        self.update = mobility.mapping[0] != sa.own_spi
        return [Notify(NotifyType.UPDATE_SA_ADDRESSES), *payloads] if self.update else payloads

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        mobility = sa.features.mobility
        if mobility is None or self.changes != mobility.changes or sa.successor is not None:
            return
        if message.error() is not None:
            return
        if self.update:
            _settle_nat(sa, mobility, message)
        elif _seen_at(message) not in (b"", mobility.mapping[1]):
            sa.log("IKE", 1, "NAT mappings changed, requesting address change using MOBIKE")
            sa.enqueue(UpdateAddresses(update=True), first=True)


def liveness(sa: IkeSa) -> Liveness:
    """The liveness check that fits this IKE SA."""
    mobility = sa.features.mobility
    watches = mobility is not None and mobility.leads and sa.nat_local and sa.features.nat_traversal
    return NatWatch() if watches else Liveness()


# --- as responder ---


def _prohibited(sa: IkeSa, message: Message) -> NotifyType | None:
    """Whether NATs are prohibited and there is one (§3.9)."""
    local, remote = sa.arrival
    missing = not sa.features.nat_traversal and message.notify(NotifyType.NO_NATS_ALLOWED) is None
    if missing or addresses.translated(message, remote, local):
        sa.log("IKE", 1, f"addresses of a request from {remote} are not as they were sent, ignored")
        return NotifyType.UNEXPECTED_NAT_DETECTED
    return None


def _follow(sa: IkeSa, mobility: Mobility, message: Message) -> NotifyType | None:
    """UPDATE_SA_ADDRESSES: the addresses in its IP header are those to use (§3.5)."""
    target = sa.successor if sa.state is State.REKEYED and sa.successor is not None else sa
    local, remote = sa.arrival
    if target.config is None or target.state is not State.ESTABLISHED:
        return None
    number = message.header.message_id
    if mobility.newest[0] == sa.own_spi and number < mobility.newest[1]:
        return None
    mobility.newest = (sa.own_spi, number)
    config = target.config
    acceptable = lookup.match_address(config.local_addrs, local.host) or local.host.is_unspecified
    if not acceptable or not lookup.match_address(config.remote_addrs, remote.host):
        sa.log("IKE", 1, f"peer wants to use {remote} to {local}, which the configuration does not permit")
        return NotifyType.UNACCEPTABLE_ADDRESSES
    if remote.host != target.remote.host and not addresses.spis_free(target, remote):
        sa.log("IKE", 1, f"peer wants to use {remote}, where another peer has an SPI of it")
        return NotifyType.UNACCEPTABLE_ADDRESSES
    before = (target.local, target.remote)
    state = (target.nat_local, target.nat_remote, target.nat_fake)
    finding = nat.detect(message, sa.spi_i, sa.spi_r, local, remote)
    if finding.supported:
        nat.note(target, config, finding)
    if before == (local, remote) and state == (target.nat_local, target.nat_remote, target.nat_fake):
        return None
    addresses.move(target, local, remote)
    if remote.host != before[1].host:
        target.enqueue(ReturnRoutability())
    return None


def _take_list(sa: IkeSa, mobility: Mobility, told: tuple[IPAddress, ...]) -> None:
    """The peer's whole list of addresses, with the one that it comes from (§3.6)."""
    arrival = sa.arrival
    mobility.peer = tuple(a for a in dict.fromkeys((arrival[1].host, *told)) if a != sa.remote.host)
    sa.log("IKE", 1, f"peer has further addresses: {', '.join(map(str, told)) or 'none'}")
    if mobility.leads and sa.remote.host not in (arrival[1].host, *told):
        sa.log("IKE", 1, f"address {sa.remote.host} of the peer is gone")
        sa.after_reply.append(lambda now: _leave_remote(sa, mobility, arrival, now))


def _leave_remote(sa: IkeSa, mobility: Mobility, arrival: Path, now: float) -> None:
    if sa.state is State.ESTABLISHED:
        _relocate(sa, mobility, arrival, now)  # this path has just been shown to work


class ReturnRoutability(Task):
    """Is the peer really at its new address (§3.7)? Who answers with our COOKIE2 has got it there."""

    kind = Kind.INFORMATIONAL
    label = "IKE_MOBIKE"

    def __init__(self) -> None:
        super().__init__()
        self.cookie = b""

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        if sa.state is not State.ESTABLISHED:
            return None
        self.cookie = sa.host.random(_COOKIE_OCTETS)
        sa.log("IKE", 1, f"checking that the peer is reached at {sa.remote}")
        return [Notify(NotifyType.COOKIE2, self.cookie)]

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        cookie = message.notify(NotifyType.COOKIE2)
        if cookie is None or not hmac.compare_digest(cookie.data, self.cookie):
            _close(sa)


def _close(sa: IkeSa) -> None:
    """The answer comes from somebody who did not see the question (§3.7: the IKE SA must be closed)."""
    sa.log("IKE", 1, "COOKIE2 mismatch, closing IKE_SA")
    sa = sa.successor or sa
    lifecycle.failed(sa, None, "INVALID_SYNTAX", "return routability check failed: COOKIE2 differs")
    sa.enqueue(DeleteIke("timeout"), first=True)
