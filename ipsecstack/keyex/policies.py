"""Policies of children and their reqids, shared by all SAs with the same selectors.

A policy stays while an SA or a trap needs it: a rekeying takes the new SA's share before it gives the old one's
back, never takes it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.keyex.base import AddPolicy, Output, Random, RemovePolicy
from ipsecstack.keyex.configuration import ChildConfig

_LOWEST = 100000


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """What makes two policies the same one."""

    connection: str
    child: str
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]


@dataclass(slots=True)
class _Shared:
    entry: SpdEntry
    users: int = 0
    trapped: bool = False


class Policies:
    """The SPD entries that key exchanges asked for."""

    def __init__(self, emit: Callable[[Output], None]) -> None:
        self._emit = emit
        self._shared: dict[PolicyKey, _Shared] = {}
        self._last_reqid = 0
        self._reqids: Counter[int] = Counter()

    def acquire(
        self,
        connection: str,
        child: ChildConfig,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        protocol: SecurityProtocol = SecurityProtocol.ESP,
    ) -> tuple[PolicyKey, int]:
        """One more SA uses the policy, with this protocol; it is added with the first."""
        key = PolicyKey(connection, child.name, local_ts, remote_ts)
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _Shared(replace(self._entry(key, child), protocol=protocol))
            self._emit(AddPolicy(shared.entry))
        elif shared.entry.protocol is not protocol:  # ESP where the trap was for AH, or the other way round
            self._change(shared, replace(shared.entry, protocol=protocol))
        shared.users += 1
        return key, shared.entry.reqid

    def release(self, key: PolicyKey) -> None:
        """One SA less; the policy goes with the last, unless it is a trap."""
        shared = self._shared.get(key)
        if shared is None or not shared.users:
            return
        shared.users -= 1
        self._drop_if_unused(key, shared)

    def trap(
        self,
        connection: str,
        child: ChildConfig,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
    ) -> bool:
        """Keep the policy without an SA, as a trap (or as BYPASS or DISCARD); False when it is there already."""
        key = PolicyKey(connection, child.name, local_ts, remote_ts)
        shared = self._shared.get(key)
        if shared is not None and shared.trapped:
            return False
        if shared is None:
            shared = self._shared[key] = _Shared(self._entry(key, child))
            shared.entry = replace(shared.entry, trap=shared.entry.action is Action.PROTECT)
            self._emit(AddPolicy(shared.entry))
        else:
            self._change(shared, replace(shared.entry, trap=shared.entry.action is Action.PROTECT))
        shared.trapped = True
        return True

    def _change(self, shared: _Shared, entry: SpdEntry) -> None:
        """The new entry before the old one goes: no packet may pass between the two."""
        if entry != shared.entry:
            old, shared.entry = shared.entry, entry
            self._emit(AddPolicy(entry))
            self._emit(RemovePolicy(old))

    def untrap(self, connection: str, child: str) -> bool:
        """Take back traps of a child; False when there was none."""
        found = False
        for key, shared in list(self._shared.items()):
            if (key.connection, key.child) == (connection, child) and shared.trapped:
                found = True
                shared.trapped = False
                self._drop_if_unused(key, shared)
                if key in self._shared:
                    self._change(shared, replace(shared.entry, trap=False))
        return found

    def trapped(self) -> list[SpdEntry]:
        return [shared.entry for shared in self._shared.values() if shared.trapped]

    def __len__(self) -> int:
        return len(self._shared)

    def _drop_if_unused(self, key: PolicyKey, shared: _Shared) -> None:
        if not shared.users and not shared.trapped:
            del self._shared[key]
            self._reqids[shared.entry.reqid] -= 1
            if self._reqids[shared.entry.reqid] <= 0:
                del self._reqids[shared.entry.reqid]
            self._emit(RemovePolicy(shared.entry))

    def _entry(self, key: PolicyKey, child: ChildConfig) -> SpdEntry:
        action = Action[child.policy]
        reqid = 0
        if action is Action.PROTECT:
            reqid = child.reqid or self._next_reqid()
            self._reqids[reqid] += 1
        return SpdEntry(
            name=f"{key.connection}/{key.child}",
            action=action,
            local_ts=key.local_ts,
            remote_ts=key.remote_ts,
            priority=child.priority or _priority(key.local_ts, key.remote_ts),
            reqid=reqid,
            protocol=child.proposals[0].protocol if child.proposals else SecurityProtocol.ESP,
            mode=child.mode,
            interface=child.interface,
            pfp=child.pfp,
            if_id=child.if_id,
            mark=child.mark,
            ipcomp=child.ipcomp,
        )

    def _next_reqid(self) -> int:
        self._last_reqid += 1
        while self._last_reqid in self._reqids:
            self._last_reqid += 1
        return self._last_reqid


class Cpis:
    """Compression Parameter Indexes of our inbound SAs (RFC 3173 §3.3), by the SPI of the SA that they go with."""

    _LOWEST, _HIGHEST = 256, 61439  # below are well-known ones, above those of private use

    def __init__(self) -> None:
        self._by_spi: dict[int, int] = {}
        self._used: set[int] = set()

    def allocate(self, spi: int, random: Random) -> int:
        """A CPI that no other SA here has; 0 when there is none left."""
        span = self._HIGHEST - self._LOWEST + 1
        if len(self._used) >= span // 2:
            return 0
        while (cpi := self._LOWEST + int.from_bytes(random(4), "big") % span) in self._used:
            pass
        self.release(spi)
        self._used.add(cpi)
        self._by_spi[spi] = cpi
        return cpi

    def release(self, spi: int) -> None:
        """Nothing happens for an SA without one."""
        self._used.discard(self._by_spi.pop(spi, 0))


def _priority(local_ts: tuple[TrafficSelector, ...], remote_ts: tuple[TrafficSelector, ...]) -> int:
    """More specific selectors are asked first; the widest of each side counts."""
    return _LOWEST - min(map(_weight, local_ts), default=0) - min(map(_weight, remote_ts), default=0)


def _weight(ts: TrafficSelector) -> int:
    bits = 32 if ts.version == 4 else 128
    span = (int(ts.end) - int(ts.start) + 1).bit_length() - 1
    return (bits - span) * 8 + (4 if ts.protocol else 0) + (2 if not ts.any_port else 0)
