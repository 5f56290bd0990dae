"""Identities as text -> ``Identity`` (RFC 7296 section 3.5), by the rules of swanctl.conf(5)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from ipsecstack.crypto import dn
from ipsecstack.keyex.configuration import Identity

ANY, IPV4, FQDN, RFC822, IPV6, DER_ASN1_DN, DER_ASN1_GN, KEY_ID = 0, 1, 2, 3, 5, 9, 10, 11

_PREFIXES = {
    "ipv4": IPV4,
    "ipv6": IPV6,
    "rfc822": RFC822,
    "email": RFC822,
    "userfqdn": RFC822,
    "fqdn": FQDN,
    "dns": FQDN,
    "asn1dn": DER_ASN1_DN,
    "asn1gn": DER_ASN1_GN,
    "keyid": KEY_ID,
}
_WILDCARDS = frozenset({"", "%any", "%any6", "*", "0.0.0.0", "::", "0::0"})  # noqa: S104 - an identity, not an address


def parse_identity(text: str) -> Identity:
    """``%any``, an address, ``a.lab``, ``@a.lab``, ``a@lab``, ``@@a@lab``, ``@#hex`` (key ID), ``C=CH, CN=a``, or an
    explicit ``fqdn:``, ``email:``, ``ipv4:``, ``ipv6:``, ``keyid:``, ``asn1dn:`` prefix whose value may be ``#hex``.

    ValueError says what is wrong.
    """
    text = text.strip()
    if text.lower() in _WILDCARDS:
        return Identity(ANY, b"", "%any")
    if any(ord(char) < 32 for char in text):
        raise ValueError("an identity cannot hold control characters")
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() in _PREFIXES:
        return _explicit(_PREFIXES[prefix.lower()], rest, text)
    if prefix.lower() in ("ipv4net", "ipv6net", "ipv4range", "ipv6range", "xmppaddr") and colon:
        raise ValueError(f"identities of the form '{prefix}:' are not supported")
    if text.startswith("@"):
        return _at(text)
    if "=" in text:
        return _distinguished_name(text)
    if "@" in text:
        return Identity(RFC822, text.encode(), text)
    try:
        address = ip_address(text)
    except ValueError:
        if ":" in text:
            return Identity(KEY_ID, text.encode(), text)
        return Identity(FQDN, text.encode(), text)
    return _address(address)


def _address(address: IPv4Address | IPv6Address) -> Identity:
    return Identity(IPV4 if address.version == 4 else IPV6, address.packed, str(address))


def _at(text: str) -> Identity:
    if text.startswith("@#"):
        return Identity(KEY_ID, _hex(text[2:]), text)
    if text.startswith("@@"):
        return Identity(RFC822, text[2:].encode(), text[2:])
    if len(text) == 1:
        raise ValueError("'@' without a name behind it")
    return Identity(FQDN, text[1:].encode(), text[1:])


def _explicit(kind: int, value: str, text: str) -> Identity:
    if value.startswith("#"):
        data = _hex(value[1:])
        if (kind == IPV4 and len(data) != 4) or (kind == IPV6 and len(data) != 16):
            raise ValueError(f"'{text}' has {len(data)} octets, too many or too few for an address")
        if kind == DER_ASN1_DN:
            return Identity(kind, data, dn.dn_text(dn.name_from_der(data)))
        return Identity(kind, data, text)
    if not value:
        raise ValueError(f"'{text}' has no value")
    if kind in (IPV4, IPV6):
        try:
            address = ip_address(value)
        except ValueError:
            raise ValueError(f"'{value}' is not an IP address") from None
        if (address.version == 4) != (kind == IPV4):
            raise ValueError(f"'{value}' is an IPv{address.version} address")
        return _address(address)
    if kind == DER_ASN1_DN:
        return _distinguished_name(value)
    if kind == DER_ASN1_GN:
        raise ValueError("asn1gn: takes DER only; write asn1gn:#hex")
    return Identity(kind, value.encode(), value)


def _distinguished_name(text: str) -> Identity:
    name = dn.parse_dn(text)
    return Identity(DER_ASN1_DN, name.public_bytes(), dn.dn_text(name))


def _hex(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise ValueError(f"'{text}' is not hexadecimal") from None
    if not data:
        raise ValueError("the hexadecimal value is empty")
    return data
