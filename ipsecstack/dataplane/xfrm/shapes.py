"""What the policies of one reqid ask of a packet: which protocols, in which mode, and between which gateways.

Policies come before their SAs, and stay while SAs come and go. A policy therefore asks for what its newest SA is; until
there is one, for what its entry says, between any two gateways: that is what makes the kernel ask us for an SA.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipsecstack.dataplane.xfrm.codec import Policy
from ipsecstack.dataplane.xfrm.numbers import COMP, StateMode, Verdict, Way
from ipsecstack.dataplane.xfrm.policies import Place, make_policy
from ipsecstack.dataplane.xfrm.states import MODES, PROTOCOLS
from ipsecstack.dataplane.xfrm.structures import Template, any_of, family_of
from ipsecstack.ipsec.sa import Direction, Mode, SaDescription
from ipsecstack.ipsec.spd import Action, SpdEntry


def ways_of(entry: SpdEntry) -> Iterable[Way]:
    """Transport mode concerns this host alone, everything else also what it forwards.

    When it asks for a policy of a packet that came in, the kernel does not say where: what is bound to an interface
    holds for what leaves by it.
    """
    if entry.interface:
        return (Way.OUT,)
    if entry.action is Action.PROTECT and entry.mode is Mode.TRANSPORT:
        return (Way.OUT, Way.IN)
    return (Way.OUT, Way.IN, Way.FWD)


class Shapes:
    """The SAs that policies are made after, the newest of each reqid and direction last."""

    def __init__(self) -> None:
        self._sas: dict[tuple[int, Direction], list[SaDescription]] = {}

    def add(self, sa: SaDescription) -> bool:
        """True when policies may look different now."""
        known = self._sas.setdefault((sa.reqid, sa.direction), [])
        known.append(sa)
        return len(known) < 2 or _shape(known[-2]) != _shape(sa)

    def remove(self, sa: SaDescription) -> bool:
        """True when policies may look different now. The last SA's shape goes with it."""
        key = (sa.reqid, sa.direction)
        known = self._sas.get(key, [])
        newest = bool(known) and known[-1] == sa
        if sa in known:
            known.remove(sa)
        if not known:
            self._sas.pop(key, None)
        return newest and (not known or _shape(known[-1]) != _shape(sa))

    def newest(self, reqid: int, direction: Direction) -> SaDescription | None:
        known = self._sas.get((reqid, direction))
        return known[-1] if known else None

    def render(self, entry: SpdEntry, place: Place) -> Policy:
        if entry.action is Action.BYPASS:
            return make_policy(entry, place, Verdict.ALLOW)
        if entry.action is Action.DISCARD:
            return make_policy(entry, place, Verdict.BLOCK)
        return make_policy(entry, place, Verdict.ALLOW, self._templates(entry, place))

    def _templates(self, entry: SpdEntry, place: Place) -> tuple[Template, ...]:
        out = place.way is Way.OUT
        sa = self.newest(entry.reqid, Direction.OUT if out else Direction.IN)
        protocol = PROTOCOLS[sa.protocol if sa else entry.protocol]
        mode = MODES[sa.mode if sa else entry.mode]
        family = family_of(place.selector.source.version)
        source = destination = any_of(family)
        if sa is not None and mode is StateMode.TUNNEL:
            family = family_of(sa.destination.host.version)
            source = destination = any_of(family)
            if out:
                source, destination = sa.source.host, sa.destination.host
        if sa is None or not sa.ipcomp_cpi:
            return (Template(protocol, mode, entry.reqid, source, destination),)
        # The tunnel is IPComp's. A packet that did not become shorter comes without it (RFC 3173 §2.2).
        inner_family = family_of(sa.destination.host.version)
        none = any_of(inner_family)
        return (
            Template(COMP, mode, entry.reqid, source, destination, optional=not out),
            Template(protocol, StateMode.TRANSPORT, entry.reqid, none, none),
        )


def _shape(sa: SaDescription) -> tuple[object, ...]:
    return sa.protocol, sa.mode, sa.source.host, sa.destination.host, bool(sa.ipcomp_cpi)
