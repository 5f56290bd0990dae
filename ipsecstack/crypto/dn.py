"""Distinguished names as text, in the spelling of swanctl.conf and strongSwan: ``C=CH, O=strongSwan, CN=moon``.

Relative names stand in the order of the DER (country first, usually), unlike RFC 4514's reversed order.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

_NAMES: dict[str, ObjectIdentifier] = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "SN": NameOID.SURNAME,
    "G": NameOID.GIVEN_NAME,
    "I": NameOID.INITIALS,
    "T": NameOID.TITLE,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "E": NameOID.EMAIL_ADDRESS,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "unstructuredName": NameOID.UNSTRUCTURED_NAME,
}
_TEXTS = {oid: text for text, oid in _NAMES.items()}
_ALIASES = {"S": "ST", "EMAIL": "E", "EMAILADDRESS": "E", "GN": "G", "GIVENNAME": "G", "TITLE": "T"}
_BY_UPPER = {text.upper(): oid for text, oid in _NAMES.items()} | {
    alias: _NAMES[text] for alias, text in _ALIASES.items()
}


def dn_text(name: x509.Name) -> str:
    """The name for people; a value with a comma or an equals sign is put into double quotes."""
    parts = []
    for rdn in name.rdns:
        for attribute in rdn:
            label = _TEXTS.get(attribute.oid, attribute.oid.dotted_string)
            parts.append(f"{label}={_value_text(attribute.value)}")
    return ", ".join(parts)


def _value_text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return "#" + value.hex()
    # Control characters of a peer's certificate must not reach a terminal or a log.
    text = "".join(c if c.isprintable() else "?" for c in value)
    return f'"{text}"' if any(c in text for c in ',="/') else text


def parse_dn(text: str) -> x509.Name:
    """The name that ``C=CH, O=strongSwan, CN=moon`` (or ``/C=CH/O=strongSwan/CN=moon``) stands for.

    ValueError says which part is not understood. Values may be in double quotes.
    """
    separator = "/" if text.lstrip().startswith("/") else ","
    attributes = []
    for part in _split(text.strip().lstrip("/") if separator == "/" else text, separator):
        label, equals, value = part.partition("=")
        label, value = label.strip(), value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if not equals or not label or not value:
            raise ValueError(f"distinguished name: {part.strip()!r} is not type=value")
        oid = _BY_UPPER.get(label.upper())
        if oid is None:
            oid = _dotted(label)
        attributes.append(x509.NameAttribute(oid, value))
    if not attributes:
        raise ValueError("empty distinguished name")
    return x509.Name(attributes)


def _dotted(label: str) -> ObjectIdentifier:
    try:
        return ObjectIdentifier(label)
    except ValueError:
        raise ValueError(f"distinguished name: unknown attribute type {label!r}") from None


def _split(text: str, separator: str) -> list[str]:
    """``text`` cut at separators that are not inside double quotes, without empty parts."""
    parts, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        if character == separator and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    if quoted:
        raise ValueError("distinguished name: a double quote is not closed")
    parts.append(current)
    return [part for part in parts if part.strip()]


def same_name(one: x509.Name, other: x509.Name) -> bool:
    """Whether two names are equal as RFC 5280 section 7.1 compares them: whatever the string types are,
    ignoring case and repeated spaces."""
    return _canonical(one) == _canonical(other)


def _canonical(name: x509.Name) -> list[frozenset[tuple[ObjectIdentifier, str | bytes]]]:
    return [
        frozenset(
            (a.oid, a.value if isinstance(a.value, bytes) else " ".join(a.value.casefold().split()))
            for a in rdn
        )
        for rdn in name.rdns
    ]


def same_name_der(one: bytes, other: bytes) -> bool:
    """``same_name`` of two DER encoded names; octet equality where one is not a well-formed name."""
    if one == other:
        return True
    try:
        return same_name(name_from_der(one), name_from_der(other))
    except ValueError:
        return False


def name_from_der(der: bytes) -> x509.Name:
    """The name of a DER_ASN1_DN identity; ValueError when it is not one."""
    return _read_name(der)


_SEQUENCE, _SET, _OID = 0x30, 0x31, 0x06
_STRINGS = {
    0x0C: "utf-8",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


def _read_name(der: bytes) -> x509.Name:
    """A small DER reader: cryptography has no loader for a bare Name."""
    body, rest = _tlv(der, _SEQUENCE)
    if rest:
        raise ValueError("octets after the distinguished name")
    rdns = []
    while body:
        rdn, body = _tlv(body, _SET)
        attributes = []
        while rdn:
            attribute, rdn = _tlv(rdn, _SEQUENCE)
            oid, value = _tlv(attribute, _OID)
            if not value:
                raise ValueError("distinguished name: attribute without value")
            content, rest = _tlv(value, value[0])
            encoding = _STRINGS.get(value[0])
            if rest or encoding is None:
                raise ValueError("distinguished name: value is not a string")
            attributes.append(x509.NameAttribute(_oid(oid), content.decode(encoding), _validate=False))
        rdns.append(x509.RelativeDistinguishedName(attributes))
    return x509.Name(rdns)


def _tlv(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """(value, what follows) of the DER object at the start of ``data``."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("malformed distinguished name")
    length, start = data[1], 2
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 2 or len(data) < 2 + octets:
            raise ValueError("malformed distinguished name")
        start += octets
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("malformed distinguished name")
    return data[start : start + length], data[start + length :]


def _oid(value: bytes) -> ObjectIdentifier:
    if not value or value[-1] & 0x80:
        raise ValueError("malformed object identifier")
    numbers, current = [], 0
    for octet in value:
        current = current << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(current)
            current = 0
    first = min(numbers[0] // 40, 2)
    return ObjectIdentifier(".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:]))))
