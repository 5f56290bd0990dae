"""A pool's section -> ``PoolConfig``: one schema for swanctl.conf and for VICI's load-pool."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

from ipsecstack.config.reader import SectionReader, Warn
from ipsecstack.config.tree import ConfigError, Section, suggestion
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.configuration import PoolConfig
from ipsecstack.wire.ikev2 import CfgAttribute

MAX_ATTRIBUTES = 64

_Encode = Callable[[str], tuple[int, bytes]]


def _host(four: int, six: int) -> _Encode:
    def encode(text: str) -> tuple[int, bytes]:
        address = ip_address(text)
        return (four if address.version == 4 else six), address.packed

    return encode


def _netmask(text: str) -> tuple[int, bytes]:
    address = ip_address(text)
    if address.version != 4:
        raise ValueError("a netmask is an IPv4 address")
    return CfgAttribute.INTERNAL_IP4_NETMASK, address.packed


def _subnet(text: str) -> tuple[int, bytes]:
    network = ip_network(text, strict=False)
    if network.version == 4:
        return CfgAttribute.INTERNAL_IP4_SUBNET, network.network_address.packed + network.netmask.packed
    return CfgAttribute.INTERNAL_IP6_SUBNET, network.network_address.packed + bytes((network.prefixlen,))


def _unity(kind: int) -> _Encode:
    def encode(text: str) -> tuple[int, bytes]:
        network = ip_network(text, strict=False)
        if network.version != 4:
            raise ValueError("is for IPv4 only")
        return kind, network.network_address.packed + network.netmask.packed + bytes(6)

    return encode


_KEYS: dict[str, _Encode] = {
    "dns": _host(CfgAttribute.INTERNAL_IP4_DNS, CfgAttribute.INTERNAL_IP6_DNS),
    "nbns": _host(CfgAttribute.INTERNAL_IP4_NBNS, CfgAttribute.INTERNAL_IP6_NBNS),
    "dhcp": _host(CfgAttribute.INTERNAL_IP4_DHCP, CfgAttribute.INTERNAL_IP6_DHCP),
    "server": _host(CfgAttribute.INTERNAL_IP4_SERVER, CfgAttribute.INTERNAL_IP6_SERVER),
    "netmask": _netmask,
    "subnet": _subnet,
    "split_include": _unity(CfgAttribute.UNITY_SPLIT_INCLUDE),
    "split_exclude": _unity(CfgAttribute.UNITY_LOCAL_LAN),
}


def _numbered(number: int) -> _Encode:
    """An attribute by its number: an address, a network, 0x octets, or text."""

    def encode(text: str) -> tuple[int, bytes]:
        if text[:2].lower() == "0x":
            return number, bytes.fromhex(text[2:])
        try:
            return number, (_subnet(text)[1] if "/" in text else ip_address(text).packed)
        except ValueError:
            return number, text.encode()

    return encode


def read_pool(section: Section, warn: Warn) -> PoolConfig:
    """The pool that ``section`` describes. Raises ConfigError naming file, line, key and cure."""
    path = f"pools.{section.name}"
    reader = SectionReader(section, path, warn)
    reader.no_sections()
    words = reader.words("addrs")
    if words is None or len(words) != 1:
        raise ConfigError(
            section.origin, f"{path}.addrs", "write one network, range or address, as 10.77.0.0/24"
        )
    try:
        base, first, last = _range(words[0])
    except ValueError as error:
        raise reader.error("addrs", str(error)) from None
    attributes: list[tuple[int, bytes]] = []
    for key in section.values:
        name = key.lower()
        if name == "addrs":
            continue
        encode = _KEYS.get(name)
        if encode is None and name.isascii() and name.isdecimal() and 0 < int(name) < 0x8000:
            encode = _numbered(int(name))
        if encode is None:
            known = ["addrs", *_KEYS]
            raise reader.error(name, f"unknown key '{key}'{suggestion(name, known)}")
        for word in reader.words(name) or ():
            try:
                attributes.append(encode(word))
            except ValueError as error:
                raise reader.error(name, f"'{word}': {error}") from None
    if len(attributes) > MAX_ATTRIBUTES:
        raise ConfigError(section.origin, path, f"more than {MAX_ATTRIBUTES} attributes")
    return PoolConfig(section.name, first, last, str(base), tuple(attributes))


def _range(text: str) -> tuple[IPAddress, IPAddress, IPAddress]:
    """(base, first, last) of ``10.0.0.0/24``, ``10.0.0.5`` or ``10.0.0.5-10.0.0.9``. The first and the last address of
    a network are not leased."""
    if "/" in text:
        network = ip_network(text.strip(), strict=False)
        low, high = network.network_address, network.broadcast_address
        return (low, low + 1, high - 1) if network.num_addresses > 2 else (low, low, high)
    begin, dash, end = text.partition("-")
    first = ip_address(begin.strip())
    last = ip_address(end.strip()) if dash else first
    if first.version != last.version or int(last) < int(first):
        raise ValueError(f"'{text}' is no range of addresses")
    return first, first, last
