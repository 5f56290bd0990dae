"""Commands of the operator and the actions of the configuration, on an endpoint."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from ipsecstack.ipsec.sa import Address, Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import SpdEntry
from ipsecstack.keyex import lookup
from ipsecstack.keyex.base import CommandError, LogRecorded
from ipsecstack.keyex.configuration import ChildAction, ChildConfig, ConnectionConfig
from ipsecstack.keyex.ikev2 import lifecycle, machine, narrowing, resumption, timers
from ipsecstack.keyex.ikev2 import reauth as reauthentication
from ipsecstack.keyex.ikev2.create_child import NewChild
from ipsecstack.keyex.ikev2.features import Features
from ipsecstack.keyex.ikev2.ike_sa_init import IkeInit
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import State

if TYPE_CHECKING:
    from ipsecstack.keyex.endpoint import Endpoint

Packet = tuple[TrafficSelector, TrafficSelector]
Selectors = tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]
_UP = (ChildAction.START, ChildAction.RESTART)


def check(config: ConnectionConfig, abilities: frozenset[str]) -> None:
    """Refuse early what cannot work, with a data plane of these abilities too."""
    if config.version not in (0, 2):
        raise CommandError(
            f"connection '{config.name}': IKE version {config.version} is not supported, use 2"
        )
    names = [child.name for child in config.children]
    if len(names) != len(set(names)):
        raise CommandError(f"connection '{config.name}': two children have the same name")
    for child in config.children:
        if max(len(child.local_ts), len(child.remote_ts)) >= narrowing.MAX_ON_WIRE:
            raise CommandError(
                f"connection '{config.name}': child '{child.name}' has more traffic selectors than a message holds"
            )
        lacking = _lacking(child, abilities)
        if lacking:
            raise CommandError(
                f"connection '{config.name}': child '{child.name}' asks for {lacking}, which the data plane "
                "cannot do; choose another with ipsecstackd.dataplane, or remove it"
            )


def _lacking(child: ChildConfig, abilities: frozenset[str]) -> str:
    """What this child needs and the data plane has not: without it, it would protect something else than it says."""
    if (child.if_id or child.mark[0]) and "mark" not in abilities:
        return "if_id or mark"
    if child.proposals and all(p.protocol is SecurityProtocol.AH for p in child.proposals):
        return "" if "ah" in abilities else "AH"
    if child.mode is Mode.TRANSPORT and child.policy == "PROTECT" and "transport" not in abilities:
        return "transport mode"
    return ""


# --- actions ---


def start_actions(endpoint: Endpoint, config: ConnectionConfig, now: float) -> None:
    """Carry out start_action of all children."""
    for child in config.children:
        if child.policy != "PROTECT":
            if child.start_action in (*_UP, ChildAction.TRAP):
                trap_child(endpoint, config.name, child.name)
        elif child.start_action is ChildAction.TRAP:
            trap_child(endpoint, config.name, child.name)
        elif child.start_action in _UP:
            start_child(endpoint, config.name, child.name, now)


def undo_actions(endpoint: Endpoint, config: ConnectionConfig) -> None:
    """Take back traps and shunts of a connection that is replaced or unloaded; its SAs live on."""
    for child in config.children:
        endpoint.policies.untrap(config.name, child.name)


def start_child(
    endpoint: Endpoint,
    connection: str,
    child: str,
    now: float,
    packet: Packet | None = None,
    selectors: Selectors | None = None,
) -> None:
    """Bring a child up without a ticket, unless it is up or on its way."""
    config = endpoint.connection(connection)
    child_config = next((c for c in config.children if c.name == child), None) if config else None
    if endpoint.closing or config is None or child_config is None or child_config.policy != "PROTECT":
        return
    if packet is None and _coming_or_up(endpoint, connection, child):
        return
    try:
        _bring_up(endpoint, config, [child_config], [], now, packet, selectors)
    except CommandError as error:
        endpoint.emit(LogRecorded("CFG", 1, connection, None, f"unable to start '{child}': {error}"))


def start_apart(
    endpoint: Endpoint,
    connection: str,
    child: str,
    tickets: list[int],
    now: float,
    relieved: ChildSa | None = None,
) -> bool:
    """Bring a child up on a new IKE SA, for the peer takes no more on the one that is there.

    ``relieved`` is closed then. False, and the tickets are closed, when it cannot begin.
    """
    config = endpoint.connection(connection)
    try:
        if endpoint.closing or config is None or not any(c.name == child for c in config.children):
            raise CommandError("it is not configured any more")
        begin(endpoint, config, [child], list(tickets), now, tries=1).relieves = relieved
        tickets.clear()
    except CommandError as error:
        endpoint.finish(tickets, False, f"establishing CHILD_SA '{child}' failed: {error}")
        return False
    return True


def trap_child(endpoint: Endpoint, connection: str, child: str) -> bool:
    """Install the policy of a child as a trap, or as BYPASS or DISCARD; False when it cannot be or is there."""
    config = endpoint.connection(connection)
    child_config = next((c for c in config.children if c.name == child), None) if config else None
    if config is None or child_config is None:
        return False
    local_ts, remote_ts = child_config.local_ts, child_config.remote_ts
    if child_config.policy == "PROTECT" and (narrowing.dynamic(local_ts) or narrowing.dynamic(remote_ts)):
        remote = lookup.first_address(config.remote_addrs)
        local = _local_host(endpoint, config, remote) if remote is not None else None
        if remote is None or local is None or (local.is_unspecified and narrowing.dynamic(local_ts)):
            endpoint.emit(
                LogRecorded(
                    "CFG", 1, connection, None, f"unable to trap '{child}': dynamic selectors need addresses"
                )
            )
            return False
        local_ts = narrowing.resolve(local_ts, local)
        remote_ts = narrowing.resolve(remote_ts, remote)
    return endpoint.policies.trap(connection, child_config, local_ts, remote_ts)


def acquired(
    endpoint: Endpoint,
    entry: SpdEntry,
    source: IPAddress,
    destination: IPAddress,
    protocol: int,
    ports: tuple[int, int] | None,
    now: float,
    selectors: Selectors | None = None,
) -> None:
    """A packet met a trap: bring its child up, with the packet's selectors first (RFC 7296 §2.9).

    ``selectors`` come from the packet with populate-from-packet: each value has an SA of its own.
    """
    connection, _, child = entry.name.rpartition("/")
    endpoint.emit(
        LogRecorded("KNL", 1, connection, None, f"creating acquire job for policy {source} === {destination}")
    )
    low, high = (ports[0], ports[0]) if ports else (0, 65535)
    to_low, to_high = (ports[1], ports[1]) if ports else (0, 65535)
    packet = (
        TrafficSelector(source, source, protocol, low, high),
        TrafficSelector(destination, destination, protocol, to_low, to_high),
    )
    alive = [c for _, c in _children(endpoint, connection, child, None) if c.alive]
    there = any(
        any(ts.covers(packet[0]) for ts in c.local_ts) and any(ts.covers(packet[1]) for ts in c.remote_ts)
        for c in alive
    )
    further = selectors is not None or any(c.more_possible for c in alive)
    if there or (alive and not further) or _pending(endpoint, connection, child, selectors):
        return
    start_child(endpoint, connection, child, now, packet, selectors)


# --- initiate ---


def find_child(endpoint: Endpoint, ike: str | None, child: str) -> tuple[ConnectionConfig, ChildConfig]:
    """The child of this name, of this connection or of the first that has it."""
    named = endpoint.connection(ike) if ike is not None else None
    if ike is not None and named is None:
        raise CommandError(f"no connection named '{ike}'")
    for config in endpoint.connections() if named is None else (named,):
        for child_config in config.children:
            if child_config.name == child:
                return config, child_config
    raise CommandError(f"CHILD_SA config '{child}' not found" + (f" in connection '{ike}'" if ike else ""))


def initiate(endpoint: Endpoint, ike: str | None, child: str | None, now: float) -> int:
    """Bring up a child, or a connection with all its children."""
    if endpoint.closing:
        raise CommandError("shutting down")
    if child is not None:
        config, child_config = find_child(endpoint, ike, child)
        if child_config.policy != "PROTECT":
            raise CommandError(f"'{child}' is a {child_config.policy} policy: install it instead")
        children = [child_config]
    else:
        found = endpoint.connection(ike) if ike is not None else None
        if found is None:
            raise CommandError(f"no connection named '{ike}'" if ike else "name a connection or a child")
        config = found
        # With these the IKE SA stands by itself, and each child is asked for by its name.
        alone = config.childless in ("prefer", "force")
        children = [] if alone else [c for c in config.children if c.policy == "PROTECT"]
    missing = [c for c in children if not _up(endpoint, config.name, c.name)]
    if not missing and (children or _established(endpoint, config.name) is not None):
        ticket = endpoint.tickets.open(1)
        endpoint.finish([ticket], True, f"'{child or config.name}' is up already")
        return ticket
    parts = max(1, len(missing))
    _destination(endpoint, config)
    ticket = endpoint.tickets.open(parts)
    _bring_up(endpoint, config, missing, [ticket] * parts, now, None)
    return ticket


def _bring_up(
    endpoint: Endpoint,
    config: ConnectionConfig,
    children: list[ChildConfig],
    tickets: list[int],
    now: float,
    packet: Packet | None,
    selectors: Selectors | None = None,
) -> None:
    """On the IKE SA that is up or on its way, or on a new one."""
    sa = _established(endpoint, config.name) or _connecting(endpoint, config.name)
    if sa is not None:
        for child in children:
            task = NewChild(child, packet, selectors)
            task.tickets = tickets[:1]
            del tickets[:1]
            sa.enqueue(task)
        endpoint.finish(tickets, True, f"IKE_SA {sa.tag} is up already")
        machine.pump(sa, now)
        return
    names = [child.name for child in children]
    begin(endpoint, config, names, tickets, now, tries=1, packet=packet, selectors=selectors)


def begin(
    endpoint: Endpoint,
    config: ConnectionConfig,
    children: list[str],
    tickets: list[int],
    now: float,
    tries: int,
    packet: Packet | None = None,
    selectors: Selectors | None = None,
    *,
    gateway: IPAddress | None = None,
    features: Features | None = None,
    replaces: IkeSa | None = None,
) -> IkeSa:
    """A new IKE SA, from IKE_SA_INIT on. ``packet`` and ``selectors`` are those of the first child. ``gateway``: not at
    the configured address, but there; ``features``: what is known of the peer beforehand.
    ``replaces``: this is the reauthentication of that one."""
    local, remote = _destination(endpoint, config, gateway)
    sa = IkeSa(
        endpoint,
        initiator=True,
        spi_i=endpoint.new_spi(),
        spi_r=bytes(8),
        local=local,
        remote=remote,
        config=config,
        now=now,
    )
    assert sa.initial is not None
    sa.initial.children = children
    sa.initial.packet, sa.initial.selectors = packet, selectors
    sa.tries = tries
    sa.replaces = replaces
    if features is not None:
        sa.features = features
    task = resumption.first_task(sa, now) if gateway is None else IkeInit()
    task.tickets = list(tickets)
    endpoint.adopt(sa)
    sa.enqueue(task)
    machine.pump(sa, now)
    return sa


def reauthenticate(endpoint: Endpoint, sa: IkeSa, now: float) -> bool:
    """Begin an IKE SA with the children of ``sa``, which it is to replace."""
    config = endpoint.connection(sa.name)
    if endpoint.closing or config is None:
        return False
    if any(other.replaces is sa for other in endpoint.ike_sas_of(sa.name)):
        return True
    names = {child.name for child in sa.children if child.alive}
    children = [child.name for child in config.children if child.name in names]
    try:
        begin(endpoint, config, children, [], now, tries=1, gateway=sa.remote.host, replaces=sa)
    except CommandError as error:
        sa.log("IKE", 1, f"unable to reauthenticate: {error}")
        return False
    return True


def retry(endpoint: Endpoint, sa: IkeSa, now: float) -> bool:
    """keyingtries (0: for ever): another attempt takes over children, tickets and waiting tasks."""
    config = endpoint.connection(sa.name)
    if endpoint.closing or config is None or sa.initial is None:
        return False
    if config.keyingtries and sa.tries >= config.keyingtries:
        return False
    limit = str(config.keyingtries or "unlimited")
    sa.log("IKE", 1, f"peer not responding, trying again ({sa.tries + 1}/{limit})")
    tickets = [ticket for task in sa.active.values() for ticket in task.tickets]
    for task in sa.active.values():
        task.tickets = []
    before = sa.initial
    again = begin(
        endpoint,
        config,
        before.children,
        tickets,
        now,
        sa.tries + 1,
        before.packet,
        before.selectors,
        replaces=sa.replaces,
    )
    again.relieves = sa.relieves
    sa.replaces = None
    waiting = [task for task in sa.queue if task.moves]
    for task in waiting:
        sa.queue.remove(task)
        again.enqueue(task)
    return True


def _destination(
    endpoint: Endpoint, config: ConnectionConfig, gateway: IPAddress | None = None
) -> tuple[Address, Address]:
    remote = gateway or lookup.first_address(config.remote_addrs)
    if remote is None:
        raise CommandError(f"connection '{config.name}' has no remote address to initiate to")
    local = _local_host(endpoint, config, remote)
    if local is None:
        raise CommandError(f"connection '{config.name}' has no local address of the remote's IP version")
    options = endpoint.options
    own_port = options.port if config.local_port == 500 else config.local_port
    if config.remote_port != 500 and own_port == options.port:
        own_port = options.port_nat_t  # a port other than 500 takes the non-ESP marker
    return Address(local, own_port), Address(remote, config.remote_port)


def _local_host(endpoint: Endpoint, config: ConnectionConfig, remote: IPAddress) -> IPAddress | None:
    """The configured address, or the one that the host would send from, or the unspecified one."""
    local = lookup.first_address(config.local_addrs, remote.version)
    if local is not None:
        return local
    if not any(lookup.match_address([text], remote) == 1 for text in config.local_addrs):
        return None
    found = endpoint.source_address(remote) if endpoint.source_address is not None else None
    return found or ip_address("0.0.0.0" if remote.version == 4 else "::")  # noqa: S104


def _established(endpoint: Endpoint, connection: str) -> IkeSa | None:
    found = [sa for sa in endpoint.ike_sas_of(connection) if sa.state is State.ESTABLISHED and not sa.silent]
    going = [
        sa for sa in found if not any(isinstance(t, DeleteIke) for t in sa.tasks()) and sa.parent is None
    ]
    return going[-1] if going else None


def _connecting(endpoint: Endpoint, connection: str) -> IkeSa | None:
    states = (State.NEW, State.INIT_SENT, State.AUTH_SENT)
    found = [sa for sa in endpoint.ike_sas_of(connection) if sa.initiator and sa.state in states]
    going = [sa for sa in found if not any(isinstance(t, DeleteIke) for t in sa.tasks())]
    return going[-1] if going else None


def _up(endpoint: Endpoint, connection: str, child: str) -> bool:
    """Whether the child is there, on an IKE SA that is not about to go with all its children."""
    return any(
        c.alive and not any(isinstance(task, DeleteIke) for task in sa.tasks())
        for sa, c in _children(endpoint, connection, child, None)
    )


def _pending(endpoint: Endpoint, connection: str, child: str, selectors: Selectors | None = None) -> bool:
    """Whether the child, or with ``selectors`` just this part of it, is on its way."""
    for sa in endpoint.ike_sas_of(connection):
        if any(isinstance(task, DeleteIke) for task in sa.tasks()):
            continue
        first = sa.initial
        asked = [first.selectors] if first is not None and sa.initiator and child in first.children else []
        asked += [t.selectors for t in sa.tasks() if isinstance(t, NewChild) and t.config.name == child]
        if selectors in asked or (selectors is None and asked):
            return True
    return False


def _coming_or_up(endpoint: Endpoint, connection: str, child: str) -> bool:
    return _up(endpoint, connection, child) or _pending(endpoint, connection, child)


# --- terminate and rekey ---


def _children(
    endpoint: Endpoint, ike: str | None, child: str | None, child_id: int | None
) -> list[tuple[IkeSa, ChildSa]]:
    return [
        (sa, c)
        for sa in endpoint.ike_sas_of(ike)
        for c in list(sa.children)
        if (child is None or c.name == child) and (child_id is None or c.uniqueid == child_id)
    ]


def _match(
    endpoint: Endpoint, ike: str | None, child: str | None, ike_id: int | None, child_id: int | None
) -> tuple[list[IkeSa], list[tuple[IkeSa, ChildSa]]]:
    if child is not None or child_id is not None:
        pairs = _children(endpoint, ike, child, child_id)
        return [], [(sa, c) for sa, c in pairs if ike_id in (None, sa.uniqueid) and c.alive]
    if ike is None and ike_id is None:
        raise CommandError("name a connection, a child or an identifier")
    return [sa for sa in endpoint.ike_sas_of(ike) if ike_id in (None, sa.uniqueid)], []


def terminate(
    endpoint: Endpoint,
    ike: str | None,
    child: str | None,
    ike_id: int | None,
    child_id: int | None,
    force: bool,
    now: float,
) -> tuple[int, int]:
    """Delete what matches, on the wire and here."""
    sas, pairs = _match(endpoint, ike, child, ike_id, child_id)
    matched = len(sas) + len(pairs)
    if not matched:
        what = "CHILD_SA" if child is not None or child_id is not None else "IKE_SA"
        raise CommandError(f"no matching {what}s to terminate found")
    ticket = endpoint.tickets.open(matched)
    for sa in sas:
        _terminate_ike(endpoint, sa, ticket, force, now)
    for sa, found in pairs:
        task = DeleteChild(found, "deleted")
        task.tickets = [ticket]
        sa.enqueue(task)
        machine.pump(sa, now)
        if force:
            lifecycle.remove_child(sa, found, "deleted", now)
            endpoint.finish(task.tickets, True, "CHILD_SA deleted")
    return ticket, matched


def _terminate_ike(endpoint: Endpoint, sa: IkeSa, ticket: int, force: bool, now: float) -> None:
    running = next((task for task in sa.tasks() if isinstance(task, DeleteIke)), None)
    if running is not None:
        running.tickets.append(ticket)
    elif sa.state in (State.ESTABLISHED, State.REKEYED, State.AUTH_SENT):
        # In AUTH_SENT the peer may have the IKE SA already: the Delete follows as soon as it can be sent.
        running = DeleteIke("deleted")
        running.tickets = [ticket]
        sa.enqueue(running, first=True)
        machine.pump(sa, now)
    else:
        lifecycle.destroy(sa, "deleted", now)
        endpoint.finish([ticket], True, f"IKE_SA {sa.tag} deleted")
        return
    if force:
        lifecycle.destroy(sa, "deleted", now)


def rekey(
    endpoint: Endpoint,
    ike: str | None,
    child: str | None,
    ike_id: int | None,
    child_id: int | None,
    now: float,
    reauth: bool = False,
) -> int:
    """Rekey what matches; what is being rekeyed already counts as matched. ``reauth`` authenticates IKE SAs again."""
    sas, pairs = _match(endpoint, ike, child, ike_id, child_id)
    # One that a rekey collision may yet undo (it has a parent) is not the IKE SA in use.
    sas = [sa for sa in sas if sa.state is State.ESTABLISHED and not sa.silent and sa.parent is None]
    for sa in sas:
        if reauth:
            reauthentication.ask(sa, now)
        else:
            timers.rekey_ike(sa)
        machine.pump(sa, now)
    for sa, found in pairs:
        timers.rekey_child(sa, found)
        machine.pump(sa, now)
    return len(sas) + len(pairs)
