"""What an endpoint does before it trusts anybody: cookies, limits of half-open IKE SAs, rates (RFC 7296 §2.6)."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import Enum

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.base import Random
from ipsecstack.keyex.options import Options
from ipsecstack.keyex.window import ResponseWindow, Verdict


class Decision(Enum):
    """What to do with an IKE_SA_INIT request."""

    ADMIT = "admit"
    DEMAND_COOKIE = "demand a cookie"
    DROP = "drop"


class Cookies:
    """Stateless cookies: a secret's number and HMAC-SHA-256(secret, Ni | address | SPIi)."""

    def __init__(self, random: Random, lifetime: float, now: float) -> None:
        self._random = random
        self._lifetime = lifetime
        self._made = now
        self._number = 0
        self._secrets = {0: random(32)}

    def __repr__(self) -> str:
        return "<Cookies>"

    def make(self, nonce: bytes, host: IPAddress, spi_i: bytes, now: float) -> bytes:
        """The cookie that this initiator has to send back."""
        self._rotate(now)
        return self._compute(self._number, nonce, host, spi_i)

    def check(self, cookie: bytes, nonce: bytes, host: IPAddress, spi_i: bytes, now: float) -> bool:
        """Whether we made this cookie for this request lately; constant time."""
        self._rotate(now)
        if len(cookie) != 33 or cookie[0] not in self._secrets:
            return False
        return hmac.compare_digest(cookie, self._compute(cookie[0], nonce, host, spi_i))

    def _compute(self, number: int, nonce: bytes, host: IPAddress, spi_i: bytes) -> bytes:
        mac = hmac.new(self._secrets[number], nonce + host.packed + spi_i, hashlib.sha256).digest()
        return bytes((number,)) + mac

    def _rotate(self, now: float) -> None:
        if now - self._made < self._lifetime:
            return
        previous = self._secrets[self._number]
        keep = {self._number: previous} if now - self._made < 2 * self._lifetime else {}
        self._number = (self._number + 1) % 256
        self._secrets = {**keep, self._number: self._random(32)}
        self._made = now


class RateLimit:
    """A token bucket that holds one second's worth."""

    def __init__(self, per_second: float, now: float) -> None:
        self._rate = per_second
        self._tokens = per_second
        self._last = now

    def allow(self, now: float) -> bool:
        self._tokens = min(self._rate, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class LogLimit:
    """A rate limit for each kind of log line that strangers can cause; says how many were left out."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._limits: dict[str, RateLimit] = {}
        self._suppressed: Counter[str] = Counter()

    def allow(self, key: str, now: float) -> tuple[bool, int]:
        """Whether to write the line, and how many like it were suppressed before it."""
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = RateLimit(self._rate, now)
        if not limit.allow(now):
            self._suppressed[key] += 1
            return False, 0
        return True, self._suppressed.pop(key, 0)


class HalfOpen:
    """The half-open IKE SAs of responders, by IKE SA and by address."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hosts: dict[int, IPAddress] = {}
        self._per_host: Counter[IPAddress] = Counter()

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, uniqueid: int, host: IPAddress) -> None:
        if uniqueid not in self._hosts:
            self._hosts[uniqueid] = host
            self._per_host[host] += 1

    def discard(self, uniqueid: int) -> None:
        host = self._hosts.pop(uniqueid, None)
        if host is not None:
            self._per_host[host] -= 1
            if not self._per_host[host]:
                del self._per_host[host]

    def surplus(self) -> int | None:
        """The oldest half-open IKE SA when there are more than ``half_open_limit``; else None."""
        limit = self._options.half_open_limit
        return next(iter(self._hosts)) if limit and len(self._hosts) > limit else None

    def decide(self, host: IPAddress, refused: int = 0, refused_here: int = 0) -> Decision:
        """By the limits of the options; a cookie is asked for before anything is computed.

        Attempts that were refused lately, of all and of this address, count for cookies: each had cost a key exchange.
        They do not count for dropping, or one peer with a wrong secret would lock out all others behind its NAT.
        """
        options, total, here = self._options, len(self._hosts), self._per_host[host]
        if options.init_limit_half_open and total >= options.init_limit_half_open:
            return Decision.DROP
        if options.block_threshold_ip and here >= options.block_threshold_ip:
            return Decision.DROP
        if (options.cookie_threshold and total + refused >= options.cookie_threshold) or (
            options.cookie_threshold_ip and here + refused_here >= options.cookie_threshold_ip
        ):
            return Decision.DEMAND_COOKIE
        return Decision.ADMIT


@dataclass(frozen=True, slots=True)
class _Refusal:
    spi_i: bytes
    host: IPAddress
    responses: ResponseWindow
    until: float


class Refusals:
    """Responses to IKE_AUTH requests that were refused, for their retransmissions (RFC 7296 §2.1).

    The IKE SA is gone with its keys; what stays is the response as sent, for ``lifetime`` seconds at most, and of the
    latest ``limit`` refusals only.
    """

    def __init__(self, lifetime: float, limit: int = 1024) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._kept: OrderedDict[bytes, _Refusal] = OrderedDict()
        self._per_host: Counter[IPAddress] = Counter()

    def keep(
        self, spi_i: bytes, spi_r: bytes, host: IPAddress, responses: ResponseWindow, now: float
    ) -> None:
        """Remember the responses of an IKE SA that was refused; ``spi_r`` is our own SPI of it."""
        self._kept[spi_r] = _Refusal(spi_i, host, responses, now + self._lifetime)
        self._per_host[host] += 1
        while len(self._kept) > self._limit:
            self._drop_oldest()

    def response(
        self, spi_i: bytes, spi_r: bytes, message_id: int, datagram: bytes, now: float
    ) -> tuple[bytes, ...] | None:
        """The response's datagrams if this is a retransmission of a refused request, octet for octet; else None."""
        self._expire(now)
        refusal = self._kept.get(spi_r)
        if refusal is None or refusal.spi_i != spi_i:
            return None
        verdict, cached = refusal.responses.judge(message_id, datagram)
        return cached if verdict is Verdict.DUPLICATE else None

    def count(self, host: IPAddress, now: float) -> tuple[int, int]:
        """How many are remembered: of all addresses, of this one."""
        self._expire(now)
        return len(self._kept), self._per_host[host]

    def _expire(self, now: float) -> None:
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, refusal = self._kept.popitem(last=False)
        self._per_host[refusal.host] -= 1
        if not self._per_host[refusal.host]:
            del self._per_host[refusal.host]
