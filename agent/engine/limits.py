"""What an unauthenticated sender may make this engine say: token buckets by source network, in fixed memory.

An SNMPv3 manager learns engine ID, boots and time from Reports to messages that nothing authenticates (RFC 3414
section 4), and a Report is larger than the smallest message that asks for one. So Reports cannot be left out, but
with a forged source address they could be aimed at somebody else, and each costs work. Both ends here: a source
network gets so many in a second, and all networks that nobody has authenticated from lately share so many.
"""

from __future__ import annotations

import secrets
import socket
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from agent.config import Network
from agent.engine.communities import Networks

KNOWN_FOR = 3600.0
"""Seconds that a network is known after an authenticated message came from it."""
MAX_KNOWN = 1024


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second, and so many at once after silence."""

    per_second: float
    burst: float


OF_NETWORK = Rate(100.0, 300.0)
"""Reports to one source network: a host that starts a command line tool for every value needs two for each."""
OF_STRANGERS = Rate(1000.0, 2000.0)
"""Reports to all networks together that nobody has authenticated from: some 120 kilobytes in a second."""


def network(host: str) -> bytes | str:
    """The source network of a numeric address: /24 of IPv4, /56 of IPv6 (whatever the zone)."""
    if ":" not in host:
        return host.rpartition(".")[0]
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:7]


class _Bucket:
    """Tokens that all senders of a kind share."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_second)
        self._at = now
        self._tokens = tokens - 1.0 if tokens >= 1.0 else tokens
        return tokens >= 1.0


class ReportLimits:
    """Who may be sent a Report now. Memory is the same whoever asks."""

    def __init__(
        self,
        each: Rate = OF_NETWORK,
        strangers: Rate = OF_STRANGERS,
        slots: int = 4096,
        key: int | None = None,
    ) -> None:
        self._each = each
        self._strangers = _Bucket(strangers)
        self._expected = _Bucket(strangers)
        self._networks = Networks(())
        self._slots = slots
        self._key = secrets.randbits(64) if key is None else key
        # A network's bucket is found by a keyed hash. Two networks may share one, but nobody can choose whose.
        self._tokens = array("d", [each.burst]) * slots
        self._at = array("d", [0.0]) * slots
        self._known: OrderedDict[bytes | str, float] = OrderedDict()

    def expect(self, networks: Iterable[Network]) -> None:
        """Networks that the configuration names, but for those of everybody: they share a bucket of their own, so
        that after a start managers find out who is here in the middle of a flood from elsewhere.
        """
        self._networks = Networks(network for network in dict.fromkeys(networks) if network.prefixlen)

    def take(self, host: str, now: float) -> bool:
        """Whether `host` may be sent one more. `now`: seconds of a clock that never goes back."""
        where = network(host)
        slot = hash((self._key, where)) % self._slots
        each = self._each
        tokens = min(each.burst, self._tokens[slot] + (now - self._at[slot]) * each.per_second)
        self._at[slot] = now
        # the network pays nothing for what it does not get
        taken = tokens >= 1.0 and (self._is_known(where, now) or self._shared(host).take(now))
        self._tokens[slot] = tokens - 1.0 if taken else tokens
        return taken

    def authenticated(self, host: str, now: float) -> None:
        """A message from `host` was authentic and timely: a flood from elsewhere takes nothing from its network."""
        where = network(host)
        self._known[where] = now
        self._known.move_to_end(where)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _is_known(self, where: bytes | str, now: float) -> bool:
        since = self._known.get(where)
        return since is not None and now - since <= KNOWN_FOR

    def _shared(self, host: str) -> _Bucket:
        return self._expected if self._networks and host in self._networks else self._strangers
