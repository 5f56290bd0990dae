"""Pools of addresses that peers lease (RFC 7296 §2.19): one address for each identity, the same one again.

A lease stays with its identity when the peer is gone, until every other address is taken. Nothing here costs more than
what is leased: a pool of 2**64 addresses is as cheap as one of ten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.base import Lease as Lease
from ipsecstack.keyex.configuration import PoolConfig


class PoolError(ValueError):
    """A pool cannot be loaded or unloaded; the message goes to the operator."""


class Pool:
    """One pool's leases."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._leases: dict[IPAddress, Lease] = {}
        self._of: dict[str, dict[IPAddress, None]] = {}
        self._offline: OrderedDict[IPAddress, None] = OrderedDict()  # longest unused first
        self._next = 0

    @property
    def size(self) -> int:
        return int(self.config.last) - int(self.config.first) + 1

    @property
    def online(self) -> int:
        return len(self._leases) - len(self._offline)

    @property
    def offline(self) -> int:
        return len(self._offline)

    @property
    def version(self) -> int:
        return self.config.first.version

    def leases(self) -> list[Lease]:
        return list(self._leases.values())

    def holds(self, address: IPAddress) -> bool:
        first, last = self.config.first, self.config.last
        return address.version == first.version and int(first) <= int(address) <= int(last)

    def acquire(self, identity: str, wanted: IPAddress | None) -> Lease | None:
        """A lease for one more IKE SA of an identity: the address that it wants if it has that already or nobody
        does, then one that it had before, then a fresh one, then the one that was unused longest. None: all in use."""
        if wanted is not None and self.holds(wanted):
            lease = self._leases.get(wanted)
            if lease is None:
                return self._use(Lease(self.config.name, wanted, identity))
            if lease.identity == identity:
                return self._use(lease)
        before = next((a for a in self._of.get(identity, {}) if a in self._offline), None)
        if before is not None:
            return self._use(self._leases[before])
        fresh = self._fresh()
        if fresh is not None:
            return self._use(Lease(self.config.name, fresh, identity))
        if self._offline:
            oldest = next(iter(self._offline))
            self._forget(oldest)
            return self._use(Lease(self.config.name, oldest, identity))
        return None

    def _fresh(self) -> IPAddress | None:
        while self._next < self.size:
            address = _offset(self.config.first, self._next)
            if address not in self._leases:
                return address
            self._next += 1
        return None

    def _use(self, lease: Lease) -> Lease:
        used = replace(lease, online=lease.online + 1)
        self._leases[used.address] = used
        self._of.setdefault(used.identity, {})[used.address] = None
        self._offline.pop(used.address, None)
        return used

    def release(self, address: IPAddress) -> None:
        """One IKE SA less uses the address."""
        lease = self._leases.get(address)
        if lease is None or not lease.online:
            return
        self._leases[address] = replace(lease, online=lease.online - 1)
        if lease.online == 1:
            self._offline[address] = None

    def _forget(self, address: IPAddress) -> None:
        lease = self._leases.pop(address)
        self._offline.pop(address, None)
        of = self._of[lease.identity]
        del of[address]
        if not of:
            del self._of[lease.identity]

    def resized(self, config: PoolConfig) -> None:
        """Other attributes, or more addresses behind the same first one."""
        self.config = config


def _offset(first: IPAddress, offset: int) -> IPAddress:
    return type(first)(int(first) + offset)


class Pools:
    """The pools of a gateway, by name."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    def load(self, config: PoolConfig) -> None:
        """Add a pool, or change one whose leases stay valid. PoolError when it has leases outside its new range."""
        known = self._pools.get(config.name)
        if known is None:
            self._pools[config.name] = Pool(config)
            return
        if (known.config.first, known.config.last) != (config.first, config.last):
            if known.online:
                raise PoolError(
                    f"pool '{config.name}' has leases that are in use; its addresses cannot change"
                )
            self._pools[config.name] = Pool(config)
            return
        known.resized(config)

    def unload(self, name: str) -> None:
        pool = self._pools.get(name)
        if pool is None:
            raise PoolError(f"no pool named '{name}'")
        if pool.online:
            raise PoolError(f"pool '{name}' has {pool.online} leases that are in use")
        del self._pools[name]

    def get(self, name: str) -> Pool | None:
        return self._pools.get(name)

    def all(self) -> list[Pool]:
        return list(self._pools.values())

    def acquire(
        self, names: Iterable[str], version: int, identity: str, wanted: IPAddress | None
    ) -> Lease | None:
        """A lease of the first of these pools that has one of an IP version. One that the identity had goes before."""
        pools = [p for p in map(self._pools.get, names) if p is not None and p.version == version]
        if wanted is not None:
            pools.sort(key=lambda pool: not pool.holds(wanted))
        for pool in pools:
            lease = pool.acquire(identity, wanted)
            if lease is not None:
                return lease
        return None

    def release(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            pool = self._pools.get(lease.pool)
            if pool is not None:
                pool.release(lease.address)
