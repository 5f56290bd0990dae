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
from dataclasses import dataclass

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
        self._all = strangers
        self._slots = slots
        self._key = secrets.randbits(64) if key is None else key
        # A network's bucket is found by a keyed hash. Two networks may share one, but nobody can choose whose.
        self._tokens = array("d", [each.burst]) * slots
        self._at = array("d", [0.0]) * slots
        self._tokens_of_all = strangers.burst
        self._at_of_all = 0.0
        self._known: OrderedDict[bytes | str, float] = OrderedDict()

    def take(self, host: str, now: float) -> bool:
        """Whether `host` may be sent one more. `now`: seconds of a clock that never goes back."""
        where = network(host)
        slot = hash((self._key, where)) % self._slots
        each = self._each
        tokens = min(each.burst, self._tokens[slot] + (now - self._at[slot]) * each.per_second)
        self._at[slot] = now
        if tokens < 1.0:
            self._tokens[slot] = tokens
            return False
        if not self._is_known(where, now) and not self._take_of_all(now):
            # the network pays nothing for what it does not get
            self._tokens[slot] = tokens
            return False
        self._tokens[slot] = tokens - 1.0
        return True

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

    def _take_of_all(self, now: float) -> bool:
        rate = self._all
        tokens = min(rate.burst, self._tokens_of_all + (now - self._at_of_all) * rate.per_second)
        self._at_of_all = now
        self._tokens_of_all = tokens - 1.0 if tokens >= 1.0 else tokens
        return tokens >= 1.0
