"""Identities between configuration, ID payloads and people (RFC 7296 §3.5)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from ipsecstack.crypto import dn
from ipsecstack.ipsec.pad import (
    ID_ANY,
    ID_DN,
    ID_FQDN,
    ID_IPV4,
    ID_IPV6,
    ID_KEY,
    ID_RFC822,
    Match,
    match_identity,
)
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.configuration import Identity

ANY = Identity(ID_ANY, b"", "%any")


def from_wire(type_: int, data: bytes) -> Identity:
    """The identity of an ID payload, with a text that is safe to log whatever the peer sent."""
    return Identity(type_, data, _text(type_, data))


def of_user(name: bytes) -> Identity:
    """The identity that a name of EAP stands for, which has no type: as a configuration would read it."""
    text = _text(ID_FQDN, name)
    if b"@" in name:
        return Identity(ID_RFC822, name, text)
    try:
        return from_address(ip_address(name.decode("ascii")))
    except ValueError:
        pass
    if b"=" in name:
        try:
            parsed = dn.parse_dn(name.decode("utf-8"))
            return Identity(ID_DN, parsed.public_bytes(), dn.dn_text(parsed))
        except ValueError:
            pass
    return Identity(ID_FQDN, name, text)


def to_user(id_: Identity) -> bytes:
    """What an identity is called in EAP."""
    return id_.data if id_.type in (ID_FQDN, ID_RFC822, ID_KEY) else id_.text.encode()


def from_address(address: IPAddress) -> Identity:
    """The identity that an end uses when none is configured."""
    return Identity(ID_IPV4 if address.version == 4 else ID_IPV6, address.packed, str(address))


def same(one: Identity, other: Identity) -> bool:
    return match_identity(one.type, one.data, other.type, other.data) is Match.EXACT


def matches(pattern: Identity | None, given: Identity) -> Match:
    """How ``given`` fits a configured identity; None is any."""
    if pattern is None:
        return Match.ANY
    return match_identity(pattern.type, pattern.data, given.type, given.data)


def _text(type_: int, data: bytes) -> str:
    if type_ == ID_IPV4 and len(data) == 4:
        return str(IPv4Address(data))
    if type_ == ID_IPV6 and len(data) == 16:
        return str(IPv6Address(data))
    if type_ in (ID_FQDN, ID_RFC822):
        text = data.decode("utf-8", "replace")
        return "".join(c if c.isprintable() and c != "�" else "?" for c in text)
    if type_ == ID_DN:
        try:
            return dn.dn_text(dn.name_from_der(data))
        except ValueError:
            return f"(DN {data[:32].hex()})"
    if type_ == ID_KEY and data and all(32 <= octet < 127 for octet in data):
        return data.decode("ascii")
    return data.hex()
