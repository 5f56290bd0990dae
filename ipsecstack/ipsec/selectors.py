"""Traffic selectors (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range

from ipsecstack.wire.ip import Flow

IPAddress = IPv4Address | IPv6Address

PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
_TEXT = re.compile(r"^\s*(?P<addr>[^\[\]\s]+)\s*(?:\[(?P<spec>[^\]]*)\])?\s*$")


class SelectorError(ValueError):
    """A traffic selector's text or bounds make no sense; the message says which."""


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """One side's selector: an address range, an IP protocol (0 is ANY) and a port range.

    ``start_port`` 0 and ``end_port`` 65535 mean ANY; 65535 and 0 mean OPAQUE (RFC 7296 §3.13.1). For ICMP the
    ports hold type * 256 + code. Raises SelectorError when the two addresses differ in version or are reversed.
    """

    start: IPAddress
    end: IPAddress
    protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    def __post_init__(self) -> None:
        if self.start.version != self.end.version or int(self.start) > int(self.end):
            raise SelectorError(
                f"selector range {self.start}-{self.end} is reversed or mixes address families"
            )
        if not 0 <= self.protocol <= 255:
            raise SelectorError(f"IP protocol {self.protocol} is not 0..255")
        if not (0 <= self.start_port <= 65535 and 0 <= self.end_port <= 65535):
            raise SelectorError(f"ports {self.start_port}-{self.end_port} are not 0..65535")
        if self.start_port > self.end_port and not self.opaque:
            raise SelectorError(f"port range {self.start_port}-{self.end_port} is reversed")

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.start.version

    @property
    def any_port(self) -> bool:
        return self.start_port == 0 and self.end_port == 65535

    @property
    def opaque(self) -> bool:
        return self.start_port == 65535 and self.end_port == 0

    def matches(self, address: IPAddress, protocol: int, port: int | None) -> bool:
        """True when a packet's address, protocol and port are inside; port None (it has none) needs ANY or OPAQUE."""
        if address.version != self.start.version or not int(self.start) <= int(address) <= int(self.end):
            return False
        if self.protocol not in (0, protocol):
            return False
        if self.any_port:
            return True
        if port is None:
            return self.opaque
        return not self.opaque and self.start_port <= port <= self.end_port

    def covers(self, other: TrafficSelector) -> bool:
        """True when every packet that ``other`` selects is selected by this one too."""
        return self.intersect(other) == other

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """The selector of what both select, or None: the narrowing of RFC 7296 §2.9."""
        if self.version != other.version:
            return None
        start = max(self.start, other.start, key=int)
        end = min(self.end, other.end, key=int)
        if int(start) > int(end):
            return None
        if self.protocol and other.protocol and self.protocol != other.protocol:
            return None
        protocol = self.protocol or other.protocol
        if self.opaque or other.opaque:
            if not ((self.opaque or self.any_port) and (other.opaque or other.any_port)):
                return None
            return TrafficSelector(start, end, protocol, 65535, 0)
        low, high = max(self.start_port, other.start_port), min(self.end_port, other.end_port)
        if low > high:
            return None
        return TrafficSelector(start, end, protocol, low, high)

    @classmethod
    def from_text(cls, text: str) -> TrafficSelector:
        """Parse swanctl.conf's form, or what ``to_text`` made.

        ``10.1.0.0/24``, ``10.1.0.5-10.1.0.9``, ``10.1.0.0/24[tcp/80-90]``, ``::/0[17/opaque]``. Raises SelectorError.
        """
        match = _TEXT.match(text)
        if not match:
            raise SelectorError(
                f"{text!r} is not a traffic selector: write ADDRESS[/BITS or -ADDRESS][[PROTOCOL[/PORT]]]"
            )
        addr = match["addr"]
        try:
            separator = ".." if ".." in addr else "-"
            if separator in addr:
                low, high = addr.split(separator, 1)
                start, end = ip_address(low), ip_address(high)
            else:
                net = ip_network(addr, strict=False)
                start, end = net[0], net[-1]
        except ValueError as error:
            raise SelectorError(f"{text!r}: {error}") from None
        protocol, low_port, high_port = 0, 0, 65535
        if match["spec"]:
            proto_text, _, port_text = match["spec"].lower().partition("/")
            protocol = _number(proto_text, _PROTOCOL_NUMBERS, 255, text)
            if port_text == "opaque":
                low_port, high_port = 65535, 0
            elif port_text and port_text != "any":
                first, _, last = port_text.partition("-")
                low_port = _number(first, {}, 65535, text)
                high_port = _number(last, {}, 65535, text) if last else low_port
        return cls(start, end, protocol, low_port, high_port)

    def to_text(self) -> str:
        """The text form that VICI shows; ranges that are one prefix come as the prefix."""
        nets = list(summarize_address_range(self.start, self.end))
        addr = str(nets[0]) if len(nets) == 1 else f"{self.start}..{self.end}"
        if self.protocol == 0 and self.any_port:
            return addr
        proto = PROTOCOL_NAMES.get(self.protocol, str(self.protocol)) if self.protocol else "0"
        if self.any_port:
            return f"{addr}[{proto}]"
        if self.opaque:
            return f"{addr}[{proto}/OPAQUE]"
        ports = (
            str(self.start_port) if self.start_port == self.end_port else f"{self.start_port}-{self.end_port}"
        )
        return f"{addr}[{proto}/{ports}]"

    def __str__(self) -> str:
        return self.to_text()


def selects(
    local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...], flow: Flow, outbound: bool
) -> bool:
    """True when the selectors of both sides match a flow that leaves (``outbound``) or arrives (RFC 4301 §4.4.1.1)."""
    if outbound:
        here, here_port, there, there_port = (
            flow.source,
            flow.source_port,
            flow.destination,
            flow.destination_port,
        )
    else:
        here, here_port, there, there_port = (
            flow.destination,
            flow.destination_port,
            flow.source,
            flow.source_port,
        )
    protocol = flow.protocol
    return any(ts.matches(there, protocol, there_port) for ts in remote) and any(
        ts.matches(here, protocol, here_port) for ts in local
    )


def _number(text: str, names: dict[str, int], limit: int, whole: str) -> int:
    if text in names:
        return names[text]
    if text in ("", "any", "%any"):
        return 0
    if not text.isdecimal() or int(text) > limit:
        raise SelectorError(f"{whole!r}: {text!r} is neither a known name nor a number up to {limit}")
    return int(text)
