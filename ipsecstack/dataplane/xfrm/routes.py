"""Routes for what this host itself sends through the kernel's SAs: the source address that a local selector wants.

The kernel asks its policies after it has chosen a route, and with it the source of packets that name none. Where this
host has an address inside a tunnel's local selectors, the remote networks therefore get routes by way of the peer's own
next hop with that address as their source. They stand in a table of their own, asked after all of main's but its
default, so that networks nearby are reached as before. Hosts behind this one need none of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.routes import (
    MAIN_PRIORITY,
    MAIN_TABLE,
    PROTOCOL,
    Network,
    Rule,
    as_found,
    networks,
    source_hint,
)
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.ipsec.spd import SpdEntry

DEFAULT_TABLE = 4303
MARK = 0x10C5
"""SO_MARK of IKE's sockets: they ask main alone, and so do we for the way to a peer."""

_GOTO, _LOOKUP = 2, 1
_GONE = (
    2,
    3,
    17,
    19,
    100,
    101,
    113,
)  # not there or there already, no device, device down, no way to the peer
_REMEMBERED = 1.0  # seconds
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """One route of ours."""

    network: Network
    source: IPAddress
    device: int
    gateway: str = ""

    def arguments(self, table: int) -> dict[str, Any]:
        out: dict[str, Any] = {
            "family": _family(self.network.version),
            "dst": str(self.network),
            "oif": self.device,
            "prefsrc": str(self.source),
            "table": table,
            "proto": PROTOCOL,
        }
        if self.gateway:
            out["gateway"] = self.gateway
        return out


class SourceRoutes:
    """Keeps the routes in step with the tunnels. DataPlaneError when rtnetlink cannot be had; a route that the kernel
    refuses later is left out, for the tunnel carries the packets of others all the same."""

    def __init__(self, table: int = DEFAULT_TABLE) -> None:
        self._table = table
        self._peers: dict[SpdEntry, IPAddress] = {}
        self._users: dict[Network, dict[SpdEntry, IPAddress]] = {}
        self._routes: dict[Network, Route] = {}
        self._addresses: list[IPAddress] = []
        self._ways: dict[IPAddress, tuple[int, str] | None] = {}
        self._looked_at = float("-inf")
        self._rules: dict[Rule, None] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._ipr: Any = None
        try:
            self._call(self._open)
        except BaseException:
            self.close()
            raise

    def _call(self, work: Callable[[], T]) -> T:
        try:
            return self._worker.submit(work).result()
        except (NetlinkError, OSError) as error:
            raise DataPlaneError(f"routes of tunnels: {error}") from None

    def _open(self) -> None:
        """Connect, and remove what a process that died has left."""
        self._ipr = IPRoute()
        for family in (AF_INET, AF_INET6):
            for route in self._ipr.get_routes(family=family, table=self._table):
                if route["proto"] == PROTOCOL:
                    anywhere = ip_address(bytes(4 if family == AF_INET else 16))
                    dst = f"{route.get_attr('RTA_DST') or anywhere}/{route['dst_len']}"
                    given = {"family": family, "dst": dst, "table": self._table, "proto": PROTOCOL}
                    self._tolerate("route", "del", given)
            for rule in self._ipr.get_rules(family=family):
                priority = rule.get_attr("FRA_PRIORITY") or 0
                if rule.get_attr("FRA_PROTOCOL") == PROTOCOL and self._table <= priority <= self._table + 2:
                    self._ipr.rule("del", **as_found(rule))

    def _tolerate(self, what: str, command: str, arguments: dict[str, Any]) -> bool:
        """False when a route or rule is there already, or gone, or has nowhere to go."""
        try:
            getattr(self._ipr, what)(command, **arguments)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise
            return False
        return True

    # --- tunnels ------------------------------------------------------------------------------------------------------

    def set(self, entries: Iterable[SpdEntry], peer: IPAddress | None) -> None:
        """These policies go to this peer; None: to nobody any more."""
        changed: dict[Network, None] = {}
        for entry in entries:
            before = self._peers.get(entry)
            if before == peer:
                continue
            for network in networks(entry.remote_ts):
                changed[network] = None
                users = self._users.setdefault(network, {})
                if peer is None:
                    users.pop(entry, None)
                else:
                    users[entry] = peer
                if not users:
                    del self._users[network]
            if peer is None:
                del self._peers[entry]
            else:
                self._peers[entry] = peer
        if changed:
            self._call(lambda: self._apply(changed))

    def refresh(self) -> None:
        """Addresses or links changed: the kernel may have dropped routes, and others may be right now."""

        def work() -> None:
            self._looked_at = float("-inf")
            self._apply([*self._users, *self._routes], again=True)

        if self._users or self._routes:
            self._call(work)

    def _apply(self, changed: Iterable[Network], again: bool = False) -> None:
        self._look()
        gone: list[Network] = []
        for network in dict.fromkeys(changed):
            wanted = self._wanted(network)
            if wanted is None:
                gone.append(network)
            elif again or self._routes.get(network) != wanted:
                arguments = wanted.arguments(self._table)
                if self._tolerate("route", "replace", arguments):
                    self._routes[network] = wanted
        for network in gone:
            if network in self._routes:
                self._tolerate("route", "del", self._routes.pop(network).arguments(self._table))
        rules: dict[Rule, None] = {}
        for version in {network.version for network in self._routes}:
            rules[Rule(version, self._table, _GOTO, goto=MAIN_PRIORITY, mark=MARK)] = None
            rules[Rule(version, self._table + 1, _LOOKUP, MAIN_TABLE, suppress_default=True)] = None
            rules[Rule(version, self._table + 2, _LOOKUP, self._table)] = None
        for rule in rules:
            if rule not in self._rules:
                self._tolerate("rule", "add", rule.arguments())
                self._rules[rule] = None
        for rule in [rule for rule in self._rules if rule not in rules]:
            self._tolerate("rule", "del", rule.arguments())
            del self._rules[rule]

    def _wanted(self, network: Network) -> Route | None:
        for entry, peer in self._users.get(network, {}).items():
            source = source_hint(entry.local_ts, network.version, self._addresses)
            if source is None:
                continue
            if peer not in self._ways:
                self._ways[peer] = self._way_to(peer)
            way = self._ways[peer]
            if way is not None:
                device, gateway = way
                # A next hop of the other IP version cannot be given; the device alone will do.
                same = bool(gateway) and ip_address(gateway).version == network.version
                return Route(network, source, device, gateway if same else "")
        return None

    def _look(self) -> None:
        """Addresses and ways to peers, remembered for a moment: to list them takes longer than all the rest."""
        now = time.monotonic()
        if now - self._looked_at < _REMEMBERED:
            return
        self._looked_at = now
        self._ways.clear()
        found = []
        for message in self._ipr.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text and message["scope"] < 253:
                found.append((message["scope"], ip_address(text)))
        # Unicast addresses, those of wide scope first.
        self._addresses = [address for _, address in sorted(found, key=lambda item: item[0])]

    def _way_to(self, peer: IPAddress) -> tuple[int, str] | None:
        """(device, next hop or "") of packets to the peer; None without a way."""
        try:
            found = self._ipr.route("get", family=_family(peer.version), dst=str(peer), mark=MARK)
        except NetlinkError:
            return None
        for route in found:
            device = route.get_attr("RTA_OIF")
            if device:
                return int(device), str(route.get_attr("RTA_GATEWAY") or "")
        return None

    def close(self) -> None:
        """Remove rules and routes. A second call does nothing."""
        if self._ipr is None:
            self._worker.shutdown()
            return

        def work() -> None:
            self._peers.clear()
            self._users.clear()
            self._apply(list(self._routes))
            self._ipr.close()
            self._ipr = None

        try:
            self._call(work)
        finally:
            self._worker.shutdown()


def _family(version: int) -> int:
    return int(AF_INET) if version == 4 else int(AF_INET6)
