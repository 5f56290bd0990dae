"""The Security Policy Database: an ordered list of entries (RFC 4301 §4.4.1)."""

from __future__ import annotations

from bisect import insort_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector, selects
from ipsecstack.wire.ip import Flow, split_fragment_key


class SpdError(Exception):
    """The database cannot hold this entry; the message says why."""


class Action(Enum):
    PROTECT = "PROTECT"
    BYPASS = "BYPASS"
    DISCARD = "DISCARD"


@dataclass(frozen=True, slots=True)
class SpdEntry:
    """One policy, both directions: local selectors against the inner source outbound, the inner destination inbound.

    ``reqid`` ties a PROTECT entry to its SAs. Entries with a lower ``priority`` are asked first; equal ones in the
    order they were added. ``name`` is connection/child. ``trap`` asks for an acquire when no SA is there.

    ``interface`` limits the entry to packets of that (virtual) interface (RFC 3884 §3.1); empty is every one. ``pfp``
    names the selectors that an SA takes from the packet instead of from here (populate-from-packet, RFC 4301
    §4.4.1.1): local, remote, protocol, local_port, remote_port. ``if_id`` and ``mark`` (value, mask) are the kernel's;
    ``ipcomp`` lets the SAs compress.
    """

    name: str
    action: Action
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    priority: int
    reqid: int = 0
    protocol: SecurityProtocol = SecurityProtocol.ESP
    mode: Mode = Mode.TUNNEL
    trap: bool = False
    interface: str = ""
    pfp: frozenset[str] = frozenset()
    if_id: int = 0
    mark: tuple[int, int] = (0, 0)
    ipcomp: bool = False

    def populated(self, flow: Flow) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
        """The selectors of the SA that a leaving packet asks for: this entry's, or the packet's as ``pfp`` says."""
        if not self.pfp:
            return self.local_ts, self.remote_ts
        local = self._mask("local", flow.source, flow.protocol, flow.source_port)
        remote = self._mask("remote", flow.destination, flow.protocol, flow.destination_port)
        return (
            tuple(narrowed for ts in self.local_ts if (narrowed := ts.intersect(local))),
            tuple(narrowed for ts in self.remote_ts if (narrowed := ts.intersect(remote))),
        )

    def _mask(self, side: str, address: IPAddress, protocol: int, port: int | None) -> TrafficSelector:
        """A selector of the packet's values where they are taken from it, and of everything elsewhere."""
        low = high = address
        if side not in self.pfp:
            low, high = type(address)(0), type(address)(2**address.max_prefixlen - 1)
        ports = (0, 65535)
        if f"{side}_port" in self.pfp:
            ports = (65535, 0) if port is None else (port, port)
        return TrafficSelector(low, high, protocol if "protocol" in self.pfp else 0, *ports)


class Spd:
    """The ordered database with a bounded cache of decisions by flow (RFC 4301 §4.4.1: SPD-S, SPD-I and SPD-O in one).

    The cache answers for single flows, so its entries are decorrelated whatever the order of the list; any change
    empties it. No entry means DISCARD.
    """

    def __init__(self, cache_size: int = 8192) -> None:
        self._entries: list[SpdEntry] = []
        self._present: set[SpdEntry] = set()
        # By IP version, in order: lowest and highest remote address and the entry. Built when it is asked for.
        self._ranges: dict[int, list[tuple[int, int, SpdEntry]]] = {}
        self._cache: dict[tuple[bool, str, bytes], SpdEntry | None] = {}
        self._cache_size = cache_size

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[SpdEntry]:
        return iter(self._entries)

    def add(self, entry: SpdEntry) -> None:
        """Insert by priority, after its equals. Raises SpdError when the same entry is there already."""
        if entry in self._present:
            raise SpdError(f"policy {entry.name} is installed already")
        insort_right(self._entries, entry, key=lambda other: other.priority)
        self._present.add(entry)
        self._changed()

    def remove(self, entry: SpdEntry) -> bool:
        """Take an entry out; False when it is not there."""
        if entry not in self._present:
            return False
        self._entries.remove(entry)
        self._present.remove(entry)
        self._changed()
        return True

    def _changed(self) -> None:
        self._cache.clear()
        self._ranges.clear()

    def outbound(self, key: bytes, interface: str = "") -> SpdEntry | None:
        """The first entry that selects a leaving packet with this flow key (``wire.ip.flow_key``), or None: DISCARD.

        ``interface`` is where the packet leaves: entries that name another one are passed over.
        """
        return self._lookup(True, key, interface)

    def inbound(self, key: bytes, interface: str = "") -> SpdEntry | None:
        """The first entry that selects an arriving packet with this flow key, or None: DISCARD."""
        return self._lookup(False, key, interface)

    def clear_inbound(self, key: bytes, interface: str = "") -> Action:
        """What to do with a packet that arrived without protection (RFC 4301 §5.2 step 3b): BYPASS or DISCARD.

        DISCARD also when the policy is PROTECT: in the clear it is a forgery or a mistake of the peer.
        """
        entry = self._lookup(False, key, interface)
        return Action.BYPASS if entry is not None and entry.action is Action.BYPASS else Action.DISCARD

    def _lookup(self, outbound: bool, key: bytes, interface: str) -> SpdEntry | None:
        try:
            return self._cache[outbound, interface, key]
        except KeyError:
            pass
        base = split_fragment_key(key)[0]
        if base != key:
            return self._lookup(
                outbound, base, interface
            )  # not a cache entry for every datagram in fragments
        flow = Flow.from_key(key)
        there = flow.destination if outbound else flow.source
        if there.version not in self._ranges:
            self._ranges[there.version] = self._remote_ranges(there.version)
        address, found = int(there), None
        for low, high, entry in self._ranges[there.version]:
            if entry.interface and entry.interface != interface:
                continue
            if low <= address <= high and selects(entry.local_ts, entry.remote_ts, flow, outbound):
                found = entry
                break
        if len(self._cache) >= self._cache_size:
            self._cache.clear()
        self._cache[outbound, interface, key] = found
        return found

    def _remote_ranges(self, version: int) -> list[tuple[int, int, SpdEntry]]:
        """For a quick first look: most entries of a long list differ in the remote address."""
        ranges = []
        for entry in self._entries:
            remote = [ts for ts in entry.remote_ts if ts.version == version]
            if remote:
                ranges.append((min(int(ts.start) for ts in remote), max(int(ts.end) for ts in remote), entry))
        return ranges
