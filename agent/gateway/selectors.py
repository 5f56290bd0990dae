"""Traffic selectors as the model keeps them: an address range, a protocol and a port range (RFC 7296 section 3.13)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_network

IPAddress = IPv4Address | IPv6Address
ANY_PORT = (0, 65535)
PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 58: "ipv6-icmp", 132: "sctp"}


@dataclass(frozen=True)
class Selector:
    """One traffic selector. `protocol` 0 is any; ports (0, 65535) are any, (65535, 0) is OPAQUE (RFC 4301, 4.4.1.1)."""

    start: IPAddress
    end: IPAddress
    protocol: int = 0
    port_start: int = 0
    port_end: int = 65535

    @cached_property
    def prefix(self) -> int | None:
        """Prefix length where the range is one network, None where it is not."""
        size = int(self.end) - int(self.start) + 1
        if size <= 0 or size & (size - 1) or int(self.start) % size:
            return None
        return self.start.max_prefixlen - (size.bit_length() - 1)

    @property
    def is_host(self) -> bool:
        return self.start == self.end

    @cached_property
    def text(self) -> str:
        """Canonical text: `10.1.0.0/24`, `10.1.0.3..10.1.0.9[6/80]`. Part of a tunnel's identity."""
        prefix = self.prefix
        where = f"{self.start}..{self.end}" if prefix is None else f"{self.start}/{prefix}"
        ports = (self.port_start, self.port_end)
        if not self.protocol and ports == ANY_PORT:
            return where
        if ports == ANY_PORT:
            what = str(self.protocol)
        elif ports == (65535, 0):
            what = f"{self.protocol}/OPAQUE"
        elif self.port_start == self.port_end:
            what = f"{self.protocol}/{self.port_start}"
        else:
            what = f"{self.protocol}/{self.port_start}-{self.port_end}"
        return f"{where}[{what}]"

    @property
    def port(self) -> int | None:
        """The single port, 0 for any; None for what one number cannot say: a range, or OPAQUE."""
        if (self.port_start, self.port_end) == ANY_PORT:
            return 0
        return self.port_start if self.port_start == self.port_end else None

    @property
    def display(self) -> str:
        """Text for people: as `text`, with the name of a common protocol."""
        head, bracket, what = self.text.partition("[")
        if not bracket:
            return head
        number, slash, ports = what.partition("/")
        name = PROTOCOL_NAMES.get(self.protocol, number.rstrip("]"))
        return f"{head}[{name}{slash}{ports}" if slash else f"{head}[{name}]"

    def covers(self, other: Selector) -> bool:
        """Whether everything that `other` matches is matched by this selector."""
        return (
            self.start.version == other.start.version
            and int(self.start) <= int(other.start)
            and int(other.end) <= int(self.end)
            and self.protocol in (0, other.protocol)
            and self.port_start <= other.port_start
            and other.port_end <= self.port_end
        )

    @classmethod
    def network(cls, text: str) -> Selector:
        """`10.1.0.0/24` or a host address. Raises ValueError."""
        net = ip_network(text)
        return cls(net[0], net[-1])


def covered(inner: tuple[Selector, ...], outer: tuple[Selector, ...]) -> bool:
    """Whether each of `inner` lies within one of `outer` (narrowing, RFC 7296 section 2.9)."""
    return all(any(wide.covers(narrow) for wide in outer) for narrow in inner)
