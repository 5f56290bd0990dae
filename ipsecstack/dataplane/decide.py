"""Which SA a leaving packet goes into (RFC 4301 §5.1): the SPD, fragments, ICMP errors, and what waits for an SA."""

from __future__ import annotations

from ipsecstack.dataplane.base import Acquired
from ipsecstack.dataplane.processing import Packet, Processing
from ipsecstack.ipsec.sa import Mode
from ipsecstack.ipsec.sad import OutboundSa
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.icmp import answered_flow
from ipsecstack.wire.ip import Flow, split_fragment_key

_MAX_DECISIONS = 8192


class Deciding(Processing):
    """What is known of a flow is kept; everything else asks the databases."""

    def _decide(self, key: bytes, packet: Packet, now: float, interface: str) -> OutboundSa | None:
        """The SA for a flow that is not cached, or None when the packet was dropped, bypassed or queued."""
        base, datagram, later = split_fragment_key(key)
        if datagram is not None:
            return self._decide_fragment(base, datagram, later, packet, now, interface)
        entry = self.spd.outbound(key, interface)
        if entry is None and (about := answered_flow(packet)) is not None:
            return self._decide_error(about, interface)
        if entry is None or entry.action is Action.DISCARD:
            self.counters.discarded_out += 1
            return None
        if entry.action is Action.BYPASS:
            self.counters.bypassed_out += 1
            self._to_clear.append(bytes(packet))
            return None
        flow = Flow.from_key(key)
        for sa in self.sad.outbound(entry.reqid):
            if not sa.lifetime.expired and sa.selects(flow):
                self._remember(key, interface, sa)
                return sa
        if entry.trap:
            self._queue(entry, flow, packet, now)
        else:
            self.counters.no_sa_out += 1
        return None

    def _decide_error(self, about: bytes, interface: str) -> OutboundSa | None:
        """An ICMP error that no entry selects goes with the answers to the packet that it is about (RFC 4301 §6.2)."""
        entry = self.spd.outbound(about, interface)
        if entry is not None and entry.action is Action.PROTECT:
            flow = Flow.from_key(about)
            for sa in self.sad.outbound(entry.reqid):
                if not sa.lifetime.expired and sa.selects(flow):
                    return sa
        self.counters.discarded_out += 1
        return None

    def _remember(self, key: bytes, interface: str, sa: OutboundSa) -> None:
        """Packets with this flow key need not be decided again."""
        if sa.special:
            if len(self._special) >= _MAX_DECISIONS:
                self._special.clear()
            self._special[interface, key] = sa
            return
        decisions = self._decisions.setdefault(interface, {})
        if len(decisions) >= _MAX_DECISIONS:
            decisions.clear()
        decisions[key] = sa

    def _known(self, key: bytes, interface: str) -> OutboundSa | None:
        return self._decisions.get(interface, {}).get(key) or self._special.get((interface, key))

    def _decide_fragment(
        self, base: bytes, datagram: bytes, later: bool, packet: Packet, now: float, interface: str
    ) -> OutboundSa | None:
        """As for a whole packet; later fragments, which show no ports, follow the first one of their datagram when
        their SA is for them too (RFC 4301 §7.3), else go by what they show: OPAQUE or ANY ports (§7.1, §7.2)."""
        key = base
        if not later:
            self._sent_fragments.remember(datagram, base, now)
        elif first := self._sent_fragments.find(datagram, now):
            entry = self.spd.outbound(first, interface)
            protect = entry is not None and entry.action is Action.PROTECT
            if not protect or self._carries_fragments(first, base, interface):
                key = first
        sa = self._known(key, interface) or self._decide(key, packet, now, interface)
        if sa is not None and later:
            assert sa.counters.details is not None
            sa.counters.details.fragments += 1
        return sa

    def _carries_fragments(self, first: bytes, base: bytes, interface: str) -> bool:
        """May later fragments use the SA of their first one?"""
        sa = self._known(first, interface)
        if sa is None:
            return True  # the first one waits for an SA: so may these
        d = sa.description
        return d.non_first_fragments or d.mode is Mode.TRANSPORT or sa.selects(Flow.from_key(base))

    def _queue(self, entry: SpdEntry, flow: Flow, packet: Packet, now: float) -> None:
        """Keep a packet of a trap policy and ask for its SA."""
        populated = entry.populated(flow)
        if self._waiting.put(entry, bytes(packet), now, populated if entry.pfp else None):
            self._events.append(
                Acquired(entry, flow.source, flow.destination, flow.protocol, flow.ports, *populated)
            )
        self._count_waiting()

    def _count_waiting(self) -> None:
        self.counters.no_sa_out += self._waiting.dropped
        self._waiting.dropped = 0
