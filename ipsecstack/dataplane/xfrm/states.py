"""What the kernel is to have for one SA of ours: one SA, or two with IPComp."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.algorithms import DEFLATE, algorithms_of
from ipsecstack.dataplane.xfrm.codec import State
from ipsecstack.dataplane.xfrm.numbers import (
    AH,
    COMP,
    ESP,
    NO_LIMIT,
    ExtraFlag,
    StateFlag,
    StateMode,
    Way,
)
from ipsecstack.dataplane.xfrm.selectors import kernel_selectors
from ipsecstack.dataplane.xfrm.structures import (
    ANY4,
    BITMAP_WORDS_MAX,
    Encapsulation,
    Faults,
    Limits,
    Replay,
    Selector,
    StateId,
    StateInfo,
    Use,
)
from ipsecstack.ipsec.sa import (
    Direction,
    Lifetime,
    Mode,
    SaCounters,
    SaDescription,
    SecurityProtocol,
)

PROTOCOLS = {SecurityProtocol.ESP: ESP, SecurityProtocol.AH: AH}
MODES = {Mode.TUNNEL: StateMode.TUNNEL, Mode.TRANSPORT: StateMode.TRANSPORT}
UNCOUNTED = frozenset({"policy_errors", "padding_errors", "other_errors"})
"""What the kernel counts for the whole network namespace alone."""

_PLAIN_WINDOW = 32  # what struct xfrm_replay_state has bits for
_PATH = 0xFFFF  # TFC padding to more than any path takes: the kernel stops at what fits


def limits_of(lifetime: Lifetime) -> Limits:
    """Whole seconds and octets. A soft time limit comes before the hard one, and neither before its time."""
    soft, hard = (math.ceil(seconds) for seconds in (lifetime.seconds.soft, lifetime.seconds.hard))
    if soft and hard and hard <= soft:
        hard = soft + 1

    def amount(value: float) -> int:
        return math.ceil(value) if value > 0 else NO_LIMIT

    return Limits(
        amount(lifetime.octets.soft),
        amount(lifetime.octets.hard),
        amount(lifetime.packets.soft),
        amount(lifetime.packets.hard),
        soft,
        hard,
    )


def kind_of_limit(limits: Limits, use: Use, hard: bool) -> str:
    """Which limit an EXPIRE of the kernel is about: it does not say so itself."""
    octets, packets = (
        (limits.hard_octets, limits.hard_packets) if hard else (limits.soft_octets, limits.soft_packets)
    )
    if use.octets >= octets:
        return "octets"
    return "packets" if use.packets >= packets else "seconds"


def passed_limits(limits: Limits, entry: Installed, now: float) -> list[str]:
    """The soft limits that an SA has passed by what is known of it, whether or not the kernel's word was heard."""
    out = []
    if entry.counters.octets >= limits.soft_octets:
        out.append("octets")
    if entry.counters.packets >= limits.soft_packets:
        out.append("packets")
    if limits.soft_seconds and now - entry.since >= limits.soft_seconds:
        out.append("seconds")
    return out


def replay_of(sa: SaDescription) -> Replay | None:
    """The empty window where it is wider than the fixed part of an SA says, and with ESN always."""
    inbound = sa.direction is Direction.IN
    window = sa.replay_window if inbound else 0
    if not sa.esn and window <= _PLAIN_WINDOW:
        return None
    # The kernel wants a window of every SA with 64-bit numbers, also where nothing is received.
    window = max(window, 1) if not inbound else window or _PLAIN_WINDOW
    words = (window + 31) // 32
    if words > BITMAP_WORDS_MAX:
        raise DataPlaneError(
            f"a replay window of {window} packets is more than the kernel's {32 * BITMAP_WORDS_MAX}"
        )
    return Replay(0, 0, (0,) * words, window)


def selector_of(sa: SaDescription, user: int) -> tuple[Selector, int]:
    """(selector, flags) of the SA itself: the kernel drops what comes out of it and is not selected.

    It has room for one selector; with several the policies alone decide, as they do under IPComp.
    """
    if not sa.ipcomp_cpi and not sa.interface:
        way = Way.OUT if sa.direction is Direction.OUT else Way.IN
        found = kernel_selectors(sa.local_ts, sa.remote_ts, way, user)
        if len(found) == 1:
            return found[0], 0
    if sa.mode is Mode.TRANSPORT:
        return Selector.every(sa.destination.host.version, user), 0
    return Selector.every(0, user), int(StateFlag.AF_UNSPEC)


def states_of(sa: SaDescription, user: int) -> list[State]:
    """The kernel's SAs, in the order in which they are to be added. DataPlaneError for what it cannot do."""
    selector, flags = selector_of(sa, user)
    mode = MODES[sa.mode]
    extra = 0
    if sa.copy_dscp in ("in", "yes"):
        flags |= StateFlag.DECAP_DSCP
    if sa.copy_dscp in ("in", "no"):
        extra |= ExtraFlag.DONT_ENCAP_DSCP
    if not sa.copy_ecn:
        flags |= StateFlag.NOECN
    if not sa.copy_df:
        flags |= StateFlag.NOPMTUDISC
    source, destination = sa.source.host, sa.destination.host
    out: list[State] = []
    if sa.ipcomp_cpi:
        info = StateInfo(
            StateId(destination, sa.ipcomp_cpi, COMP), source, selector, mode, sa.reqid, flags=flags
        )
        out.append(State(info, (DEFLATE,), extra_flags=extra, mark=sa.mark, if_id=sa.if_id))
        # What compresses makes the tunnel; what protects it is inside, on the way of the same packet.
        mode, flags, extra = StateMode.TRANSPORT, 0, 0
        selector = Selector.every(destination.version, user)
    if sa.esn:
        flags |= StateFlag.ESN
    if sa.protocol is SecurityProtocol.AH and destination.version == 4:
        flags |= (
            StateFlag.ALIGN4
        )  # RFC 4302 §2.6; otherwise the kernel pads to 8 octets, and takes nothing else
    replay = replay_of(sa)
    info = StateInfo(
        StateId(destination, sa.spi, PROTOCOLS[sa.protocol]),
        source,
        selector,
        mode,
        sa.reqid,
        sa.replay_window if sa.direction is Direction.IN and replay is None else 0,
        int(flags),
        limits=limits_of(sa.lifetime),
    )
    out.append(
        State(
            info,
            algorithms_of(sa),
            encapsulation_of(sa),
            replay,
            tfc_padding=tfc_of(sa),
            extra_flags=int(extra),
            mark=sa.mark,
            if_id=sa.if_id,
        )
    )
    return out


def encapsulation_of(sa: SaDescription) -> Encapsulation | None:
    if not sa.encapsulated:
        return None
    original = sa.original_source if sa.direction is Direction.IN else sa.original_destination
    return Encapsulation(sa.source.port, sa.destination.port, original or ANY4)


def tfc_of(sa: SaDescription) -> int:
    if sa.direction is Direction.IN or sa.mode is not Mode.TUNNEL or sa.protocol is not SecurityProtocol.ESP:
        return 0
    return _PATH if sa.tfc < 0 else min(sa.tfc, _PATH)


@dataclass(slots=True)
class Installed:
    """One SA of ours and what is known of it. ``gone``: the kernel has it no longer, at a hard limit or by another's
    hand; its last counts stay until it is removed here too."""

    description: SaDescription = field(repr=False)
    states: tuple[StateId, ...]
    base: Faults = field(default_factory=Faults)  # counted before it moved to other addresses
    counters: SaCounters = field(default_factory=lambda: SaCounters(uncounted=UNCOUNTED))
    since: float = 0.0
    looked: float = 0.0
    told: set[tuple[bool, str]] = field(default_factory=set)
    told_remote: object = None
    gone: bool = False

    @property
    def main(self) -> StateId:
        """The one that protects, and counts."""
        return self.states[-1]

    def count(self, use: Use, faults: Faults, last_used: int | None, now: float, wall: float) -> bool:
        """Take the kernel's counts; True when there is something new.

        The kernel notes the last packet's time in whole seconds of a clock that may be set: what passed since the last
        look did so between that look and now, whatever that clock says.
        """
        counters = self.counters
        errors = faults.before_window + faults.duplicates + self.base.before_window + self.base.duplicates
        integrity = faults.integrity + self.base.integrity
        new = (use.octets, use.packets, errors, integrity) != (
            counters.octets,
            counters.packets,
            counters.replay_errors,
            counters.integrity_errors,
        )
        if use.packets > counters.packets:
            at = now if last_used is None else now - max(wall - last_used - 1.0, 0.0)
            counters.last_used = min(max(at, self.looked), now)
        counters.octets, counters.packets = use.octets, use.packets
        counters.replay_errors, counters.integrity_errors = errors, integrity
        self.looked = now
        return new


def moved(state: State, found: State | None) -> State:
    """``state`` as it goes on with the counts and sequence numbers of the SA that was found in the kernel."""
    if found is None:
        return state
    return replace(
        state, use=found.info.use, replay=found.replay if found.replay is not None else state.replay
    )


def far_ahead(state: State, numbers: int) -> State:
    """Sequence numbers moved forward by what may have been sent unseen: none is used twice (RFC 4303 §3.3.3)."""
    if state.replay is None:
        return state
    return replace(state, replay=replace(state.replay, sent=state.replay.sent + numbers))
