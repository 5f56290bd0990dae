"""Which packets the kernel routes into a TUN device: a routing table of our own, and the rules that lead there.

Rules, by priority from ``table`` upwards (both IP versions, only while policies of that version exist):

======== ===================================== ==========================================================
table    fwmark MARK goto main                 IKE and ESP sockets, and what BYPASS sends
table+1  iif DEVICE lookup main, no default    decapsulated packets for attached networks do not return
table+2  from LOCAL_TS lookup TABLE            what policies may protect; other sources keep their routes
table+3  unbound sockets of this host          IPv4: from 0.0.0.0/32; IPv6: all but ::/1 and 8000::/1
======== ===================================== ==========================================================

Routes and rules carry a protocol number of their own, by which they are told from anyone else's: nothing else is ever
changed. Routes vanish with the device; rules of a process that died are removed by the next one.

With a ``Guard`` what policies protect has nowhere else to go: the kernel's policies hold what other routes would take
(``xfrm.guard``). For IPv6 that this host sends they cannot, so that rules of priority table+2 ask the routing table
TABLE+1 next, whose unreachable routes stay when the device is gone or down.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, summarize_address_range
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.guard import Guard
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry

Network = IPv4Network | IPv6Network
T = TypeVar("T")

PROTOCOL = 150  # of our routes and rules (rtnetlink's rtm_protocol); not in iproute2's list
MAIN_TABLE, MAIN_PRIORITY = 254, 32766
_EEXIST, _ENOENT, _ESRCH, _ENETDOWN = 17, 2, 3, 100
_GOTO, _LOOKUP = 2, 1
_UNREACHABLE = 7  # RTN_UNREACHABLE
_ADDRESSES_LAST = 1.0  # seconds


def networks(selectors: Iterable[TrafficSelector]) -> Iterator[Network]:
    """The prefixes that make up the address ranges of selectors."""
    for selector in selectors:
        yield from summarize_address_range(selector.start, selector.end)


def source_hint(
    local_ts: Iterable[TrafficSelector], version: int, addresses: Iterable[IPAddress]
) -> IPAddress | None:
    """The first host address inside a local selector: the source for this host's packets; None: the kernel chooses."""
    selectors = [ts for ts in local_ts if ts.version == version]
    return next(
        (
            address
            for address in addresses
            if address.version == version
            and any(int(ts.start) <= int(address) <= int(ts.end) for ts in selectors)
        ),
        None,
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One routing rule of ours; ``source`` None selects all."""

    version: int
    priority: int
    action: int
    table: int = 0
    goto: int = 0
    source: Network | None = None
    mark: int = 0
    iif: str = ""
    suppress_default: bool = False

    def arguments(self) -> dict[str, Any]:
        """For pyroute2's ``IPRoute.rule``."""
        out: dict[str, Any] = {
            "family": AF_INET if self.version == 4 else AF_INET6,
            "priority": self.priority,
            "action": self.action,
            "protocol": PROTOCOL,
        }
        if self.table:
            out["table"] = self.table
        if self.goto:
            out["goto"] = self.goto
        if self.source is not None:
            out["src"], out["src_len"] = str(self.source.network_address), self.source.prefixlen
        if self.mark:
            out["fwmark"], out["fwmask"] = self.mark, 0xFFFFFFFF
        if self.iif:
            out["iifname"] = self.iif
        if self.suppress_default:
            out["suppress_prefixlen"] = 0
        return out


def rules_for(
    version: int, local: Iterable[Network], unbound: bool, table: int, mark: int, device: str
) -> list[Rule]:
    """The rules while these local prefixes have policies; ``unbound`` when this host has an address inside one."""
    local = sorted(set(local))
    if not local:
        return []
    rules = [
        Rule(version, table, _GOTO, goto=MAIN_PRIORITY, mark=mark),
        Rule(version, table + 1, _LOOKUP, MAIN_TABLE, iif=device, suppress_default=True),
    ]
    rules += [Rule(version, table + 2, _LOOKUP, table, source=network) for network in local]
    if unbound and version == 4:
        rules.append(Rule(4, table + 3, _LOOKUP, table, source=IPv4Network("0.0.0.0/32")))
    elif unbound:
        # An IPv6 rule with 'from' never selects a packet that has no source yet: send the others past the last rule.
        for half in ("::/1", "8000::/1"):
            rules.append(Rule(6, table + 3, _GOTO, goto=MAIN_PRIORITY, source=IPv6Network(half)))
        rules.append(Rule(6, table + 4, _LOOKUP, table))
    return rules


class RouteTable:
    """Keeps device, routes and rules in step with the policies. Every call may raise DataPlaneError.

    pyroute2 brings an event loop of its own, so its calls run in one worker thread; they take about a millisecond.
    """

    def __init__(self, device: str, mtu: int, table: int, mark: int, guard: Guard | None = None) -> None:
        self._guard = guard
        self._fallbacks: set[IPv6Network] = set()
        self._device = device
        self._mtu = mtu
        self._table = table
        self._mark = mark
        self._entries: dict[SpdEntry, None] = {}
        self._guarded: dict[SpdEntry, None] = {}  # all entries, those without a route too
        self._users: dict[Network, dict[SpdEntry, None]] = {}  # who wants a route
        self._hints: dict[Network, IPAddress] = {}  # and with which source, where there is one
        self._local: Counter[Network] = Counter()  # local prefixes, by number of policies
        self._routes: dict[Network, IPAddress | None] = {}  # installed
        self._rules: dict[Rule, None] = {}
        # What the rules follow from: how often the local prefixes changed, and how many hints each version has.
        self._local_changes = 0
        self._hinted: Counter[int] = Counter()
        self._rules_are_for: tuple[object, ...] = ()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._ipr: Any = None
        self._listed: list[IPAddress] = []  # this host's addresses, and when they were listed
        self._listed_at = 0.0
        self._index = 0
        self._closed = False
        try:
            self._call(self._open)
        except BaseException:
            self.close()
            raise

    def _call(self, work: Callable[[], T]) -> T:
        try:
            return self._worker.submit(work).result()
        except NetlinkError as error:
            raise DataPlaneError(f"the kernel refused a route or rule for {self._device}: {error}") from None
        except OSError as error:
            raise DataPlaneError(f"netlink: {error}") from None

    def _open(self) -> None:
        self._ipr = IPRoute()
        self._find_device()
        self._remove_stale()
        self._bring_up()

    def _find_device(self) -> None:
        found = self._ipr.link_lookup(ifname=self._device)
        if not found:
            raise DataPlaneError(f"{self._device} is not there any more")
        self._index = found[0]

    def _bring_up(self) -> None:
        try:
            # No IPv6 link-local address, hence no router solicitations into the tunnel.
            with open(f"/proc/sys/net/ipv6/conf/{self._device}/addr_gen_mode", "w") as knob:
                knob.write("1")
        except OSError:
            pass  # no IPv6 in this kernel, or /proc/sys read-only: those packets are dropped by the SPD then
        self._ipr.link("set", index=self._index, state="up", mtu=self._mtu, txqlen=1000)
        if self._guard is not None:
            self._guard.exempt(self._device)

    def _remove_stale(self) -> None:
        """Rules of a process that died; its routes went with its device."""
        for route in self._ipr.get_routes(family=AF_INET6, table=self._table + 1):
            if route["proto"] == PROTOCOL and route["type"] == _UNREACHABLE:
                self._fallback("del", IPv6Network((route.get_attr("RTA_DST") or "::", route["dst_len"])))
        for route in self._ipr.get_routes(table=self._table):
            device = route.get_attr("RTA_OIF")
            if device not in (None, self._index):
                names = [link.get_attr("IFLA_IFNAME") for link in self._ipr.get_links(device)]
                raise DataPlaneError(
                    f"routing table {self._table} is in use by {names[0] if names else 'another device'}: "
                    "give this instance another table"
                )
        for family in (AF_INET, AF_INET6):
            for rule in self._ipr.get_rules(family=family):
                priority = rule.get_attr("FRA_PRIORITY") or 0
                ours = rule.get_attr("FRA_PROTOCOL") == PROTOCOL
                if ours and self._table <= priority <= self._table + 4:
                    self._ipr.rule("del", **as_found(rule))

    def add(self, entry: SpdEntry) -> None:
        """Route for one more policy, and what the guard has for it; on an error everything is as before."""
        if entry in self._guarded:
            return
        if self._guard is not None:
            self._guard.add(entry)
        self._guarded[entry] = None
        if entry.action is not Action.PROTECT:
            return
        self._count(entry)
        try:
            self._call(lambda: self._apply(networks(entry.remote_ts)))
        except DataPlaneError:
            self.remove(entry)
            raise

    def remove(self, entry: SpdEntry) -> None:
        if entry not in self._guarded:
            return
        del self._guarded[entry]
        if self._guard is not None:
            self._guard.remove(entry)
        if entry in self._entries:
            self._discount(entry)
            self._call(lambda: self._apply(networks(entry.remote_ts)))

    def _count(self, entry: SpdEntry) -> None:
        self._entries[entry] = None
        for network in set(networks(entry.local_ts)):
            self._local_changes += network not in self._local
            self._local[network] += 1
        for network in networks(entry.remote_ts):
            self._users.setdefault(network, {})[entry] = None

    def _discount(self, entry: SpdEntry) -> None:
        del self._entries[entry]
        for network in set(networks(entry.local_ts)):
            self._local[network] -= 1
            if not self._local[network]:
                del self._local[network]
                self._local_changes += 1
        for network in set(networks(entry.remote_ts)):
            del self._users[network][entry]
            if not self._users[network]:
                del self._users[network]

    def refresh(self) -> None:
        """Install everything again: the kernel drops routes when an address goes or the device is set down.

        Sources are chosen anew. While the device is down there is nothing to install: call again when it is up.
        """
        self._call(lambda: self._apply(list(self._users), again=True))

    def reattach(self) -> None:
        """The device was made again: up, MTU, routes and rules."""

        def work() -> None:
            self._find_device()
            self._bring_up()
            self._apply(list(self._users), again=True)

        self._call(work)
        if self._guard is not None:
            self._guard.repair()

    def _apply(self, changed: Iterable[Network], again: bool = False) -> None:
        """Make the kernel's routes to ``changed``, and its rules, what the policies ask for: additions first.

        ``again`` trusts no memory of what is installed.
        """
        addresses = self._addresses(fresh=again)
        gone: list[Network] = []
        for network in dict.fromkeys(changed):
            users = self._users.get(network)
            if users is None:
                self._hint(network, None)
                gone.append(network)
                continue
            found = (source_hint(entry.local_ts, network.version, addresses) for entry in users)
            hint = next((address for address in found if address is not None), None)
            self._hint(network, hint)
            if again or network not in self._routes or self._routes[network] != hint:
                self._routes.pop(network, None)
                if self._route("replace", network, hint):
                    self._routes[network] = hint
            if (
                self._guard is not None
                and isinstance(network, IPv6Network)
                and (again or network not in self._fallbacks)
            ):
                self._fallback("replace", network)
                self._fallbacks.add(network)
        self._apply_rules(again)
        for network in gone:
            if isinstance(network, IPv6Network) and network in self._fallbacks:
                self._fallback("del", network)
                self._fallbacks.discard(network)
            if network in self._routes:
                self._route("del", network, self._routes.pop(network))

    def _hint(self, network: Network, hint: IPAddress | None) -> None:
        if self._hints.pop(network, None) is not None:
            self._hinted[network.version] -= 1
        if hint is not None:
            self._hints[network] = hint
            self._hinted[network.version] += 1

    def _apply_rules(self, again: bool) -> None:
        """Rules follow from all policies together: they are looked at when that has changed."""
        basis = (self._local_changes, self._hinted[4] > 0, self._hinted[6] > 0)
        if basis == self._rules_are_for and not again:
            return
        rules: dict[Rule, None] = {}
        for version in (4, 6):
            local = [network for network in self._local if network.version == version]
            unbound = self._hinted[version] > 0
            wanted = rules_for(version, local, unbound, self._table, self._mark, self._device)
            if version == 6 and self._guard is not None:
                after = [
                    Rule(6, self._table + 2, _LOOKUP, self._table + 1, source=n) for n in sorted(set(local))
                ]
                wanted = wanted + after
            rules.update(dict.fromkeys(wanted))
        for rule in rules:
            if again or rule not in self._rules:
                self._rule("add", rule)
                self._rules[rule] = None
        for rule in [rule for rule in self._rules if rule not in rules]:
            self._rule("del", rule)
            del self._rules[rule]
        self._rules_are_for = basis

    def _addresses(self, fresh: bool = False) -> list[IPAddress]:
        """This host's unicast addresses, those of wide scope first.

        Listing them takes longer than all the rest of a policy, so they are remembered for a moment; whoever watches
        addresses calls ``refresh`` when one comes or goes.
        """
        now = time.monotonic()
        if not fresh and self._listed and now - self._listed_at < _ADDRESSES_LAST:
            return self._listed
        found = []
        for message in self._ipr.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text and message["scope"] < 253:
                found.append((message["scope"], ip_address(text)))
        self._listed = [address for _, address in sorted(found, key=lambda item: item[0])]
        self._listed_at = time.monotonic()
        return self._listed

    def _route(self, command: str, network: Network, hint: IPAddress | None) -> bool:
        """False when the kernel takes no routes because the device is down, or has none to delete."""
        arguments: dict[str, Any] = {
            "family": AF_INET if network.version == 4 else AF_INET6,
            "dst": str(network),
            "oif": self._index,
            "table": self._table,
            "proto": PROTOCOL,
        }
        if hint is not None:
            arguments["prefsrc"] = str(hint)
        return _tolerate(
            lambda: self._ipr.route(command, **arguments), _ESRCH if command == "del" else _ENETDOWN
        )

    def _fallback(self, command: str, network: IPv6Network) -> None:
        """The route that is taken when the device's is not there."""
        arguments: dict[str, Any] = {
            "family": AF_INET6,
            "dst": str(network),
            "type": "unreachable",
            "table": self._table + 1,
            "proto": PROTOCOL,
        }
        _tolerate(lambda: self._ipr.route(command, **arguments), _ESRCH)

    def _rule(self, command: str, rule: Rule) -> None:
        ignore = _ENOENT if command == "del" else _EEXIST
        _tolerate(lambda: self._ipr.rule(command, **rule.arguments()), ignore)

    def close(self) -> None:
        """Remove rules and policies; the device's routes go with it. A second call does nothing."""
        if self._closed:
            return
        self._closed = True

        def work() -> None:
            if self._ipr is None:
                return
            for rule in self._rules:
                try:
                    self._ipr.rule("del", **rule.arguments())
                except NetlinkError:
                    continue  # gone already: someone flushed the rules
            for network in self._fallbacks:
                self._fallback("del", network)
            self._ipr.close()
            self._ipr = None

        try:
            self._call(work)
        finally:
            self._rules.clear()
            self._routes.clear()
            self._entries.clear()
            self._guarded.clear()
            self._fallbacks.clear()
            self._worker.shutdown()
            if self._guard is not None:
                self._guard.close()


def _tolerate(work: Callable[[], object], code: int) -> bool:
    """False when the kernel refused with this error code."""
    try:
        work()
    except NetlinkError as error:
        if error.code != code:
            raise
        return False
    return True


def as_found(rule: Any) -> dict[str, Any]:
    """The arguments that delete a rule as the kernel listed it."""
    out: dict[str, Any] = {"family": rule["family"], "action": rule["action"]}
    for name in ("PRIORITY", "TABLE", "FWMARK", "FWMASK", "GOTO", "IIFNAME", "PROTOCOL"):
        if value := rule.get_attr(f"FRA_{name}"):
            out[name.lower()] = value
    if rule["src_len"]:
        out["src"], out["src_len"] = rule.get_attr("FRA_SRC"), rule["src_len"]
    return out
