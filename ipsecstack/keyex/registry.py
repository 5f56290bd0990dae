"""The IKE SAs of an endpoint, found by SPI, address, connection, identity, IPsec SA or time of change.

Every look-up costs what it finds, not what there is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from ipsecstack.ipsec.sa import SaId
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.bookkeeping import Changes
from ipsecstack.keyex.configuration import Identity
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa

K = TypeVar("K", bound=Hashable)


class _Index(Generic[K]):
    """IKE SAs by a key that may change; each group in the order of entry."""

    def __init__(self) -> None:
        self._key: dict[int, K] = {}
        self._groups: dict[K, dict[int, IkeSa]] = {}

    def put(self, sa: IkeSa, key: K | None) -> None:
        old = self._key.get(sa.uniqueid)
        if old == key:
            return
        self.drop(sa)
        if key is not None:
            self._key[sa.uniqueid] = key
            self._groups.setdefault(key, {})[sa.uniqueid] = sa

    def drop(self, sa: IkeSa) -> None:
        key = self._key.pop(sa.uniqueid, None)
        if key is not None:
            group = self._groups[key]
            del group[sa.uniqueid]
            if not group:
                del self._groups[key]

    def get(self, key: K) -> list[IkeSa]:
        return list(self._groups.get(key, {}).values())

    def count(self, key: K) -> int:
        return len(self._groups.get(key, {}))


class Registry:
    """See the module's text. ``refresh`` is called with each change of an IKE SA."""

    def __init__(self, remember: int) -> None:
        self.changes = Changes(remember)
        self._all: dict[int, IkeSa] = {}
        self._by_spi: dict[bytes, IkeSa] = {}
        self._by_host: _Index[IPAddress] = _Index()
        self._by_name: _Index[str] = _Index()
        self._by_peer: _Index[tuple[int, bytes]] = _Index()
        self._children: dict[SaId, ChildSa] = {}
        self._by_change: OrderedDict[int, IkeSa] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, sa: IkeSa) -> bool:
        return sa.uniqueid in self._all

    def all(self) -> list[IkeSa]:
        return list(self._all.values())

    def get(self, uniqueid: int) -> IkeSa | None:
        return self._all.get(uniqueid)

    def by_spi(self, spi: bytes) -> IkeSa | None:
        """By our own IKE SPI."""
        return self._by_spi.get(spi)

    def by_host(self, host: IPAddress) -> list[IkeSa]:
        """By the peer's address."""
        return self._by_host.get(host)

    def by_name(self, name: str) -> list[IkeSa]:
        return self._by_name.get(name)

    def by_peer(self, peer: Identity) -> list[IkeSa]:
        """Authenticated IKE SAs by the peer's identity."""
        return self._by_peer.get((peer.type, peer.data.lower()))

    def count_of_peer(self, peer: Identity) -> int:
        """How many ``by_peer`` would give."""
        return self._by_peer.count((peer.type, peer.data.lower()))

    def child(self, sa: SaId) -> ChildSa | None:
        """The Child SA that an installed IPsec SA belongs to."""
        return self._children.get(sa)

    def add(self, sa: IkeSa) -> None:
        self._all[sa.uniqueid] = sa
        self._by_spi[sa.own_spi] = sa

    def refresh(self, sa: IkeSa, child: ChildSa | None) -> None:
        """Give a changed IKE SA (and Child SA) its generation, and put it where it is looked for now."""
        sa.generation = self.changes.next()
        if child is not None:
            child.generation = sa.generation
        if sa.uniqueid not in self._all:
            return
        self._by_change[sa.uniqueid] = sa
        self._by_change.move_to_end(sa.uniqueid)
        self._by_host.put(sa, sa.remote.host)
        self._by_name.put(sa, sa.name)
        peer = sa.remote_id if sa.established is not None else None
        self._by_peer.put(sa, (peer.type, peer.data.lower()) if peer is not None else None)

    def remove(self, sa: IkeSa) -> None:
        self._all.pop(sa.uniqueid, None)
        if self._by_spi.get(sa.own_spi) is sa:
            del self._by_spi[sa.own_spi]
        self._by_change.pop(sa.uniqueid, None)
        for index in (self._by_host, self._by_name, self._by_peer):
            index.drop(sa)
        self.changes.ended(sa.uniqueid, ike=True)

    def installed(self, sa: SaId, child: ChildSa) -> None:
        self._children[sa] = child

    def removed(self, sa: SaId) -> None:
        self._children.pop(sa, None)

    def changed_since(self, generation: int) -> list[IkeSa]:
        """The latest changed first come off the end, so this stops at the first that is older."""
        found: list[IkeSa] = []
        for sa in reversed(self._by_change.values()):
            if sa.generation <= generation:
                break
            found.append(sa)
        return found[::-1]
