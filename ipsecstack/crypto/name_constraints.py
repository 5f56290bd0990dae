"""Name constraints of CA certificates (RFC 5280 section 4.2.1.10): which names may stand below a CA.

Implemented are dNSName, rfc822Name, iPAddress and directoryName, permitted and excluded. A certificate below a
constraint of another form is refused if it has a name of that form: nothing says that it is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509
from cryptography.x509.oid import NameOID

from ipsecstack.crypto import dn
from ipsecstack.crypto.errors import CertificateError

# Names times subtrees of one chain: more is somebody's attempt to keep us busy.
MAX_COMPARISONS = 100_000


class Budget:
    """Comparisons that are left for one validation."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_COMPARISONS

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise CertificateError("name constraints and names are too many to compare")


def check(
    constraints: x509.NameConstraints, chain: Sequence[x509.Certificate], ca: str, budget: Budget
) -> None:
    """That every certificate of the chain below the constrained CA, end entity first, has permitted names only.

    Self-issued certificates in between are left out (RFC 5280 section 6.1.4 b). ``ca`` names the CA for the error.
    """
    permitted, excluded = constraints.permitted_subtrees or [], constraints.excluded_subtrees or []
    for position, certificate in enumerate(chain):
        if position and certificate.subject == certificate.issuer:
            continue
        names = _names(certificate)
        budget.take(len(names) * (len(permitted) + len(excluded)))
        for name in names:
            same = [subtree for subtree in permitted if type(subtree) is type(name)]
            if any(type(subtree) is type(name) and _within(name, subtree) for subtree in excluded):
                raise CertificateError(f'name "{_text(name)}" is excluded by the constraints of CA "{ca}"')
            if same and not any(_within(name, subtree) for subtree in same):
                raise CertificateError(
                    f'name "{_text(name)}" is not permitted by the constraints of CA "{ca}"'
                )


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The names that constraints speak of: the subject, its e-mail addresses, and every subjectAltName.

    RFC 5280 section 4.2.1.10 looks at the subject's e-mail addresses only where there is no subjectAltName; a
    certificate is not let through here because it has one.
    """
    found: list[x509.GeneralName] = []
    if certificate.subject.rdns:
        found.append(x509.DirectoryName(certificate.subject))
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        try:
            found.append(x509.RFC822Name(str(attribute.value)))
        except ValueError:
            raise CertificateError("an e-mail address of the subject is malformed") from None
    with suppress(x509.ExtensionNotFound):
        found += certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found


def _within(name: x509.GeneralName, subtree: x509.GeneralName) -> bool:
    if isinstance(name, x509.DNSName) and isinstance(subtree, x509.DNSName):
        return _host_within(name.value, subtree.value)
    if isinstance(name, x509.RFC822Name) and isinstance(subtree, x509.RFC822Name):
        return _mailbox_within(name.value, subtree.value)
    if isinstance(name, x509.IPAddress) and isinstance(subtree, x509.IPAddress):
        return _address_within(name, subtree)
    if isinstance(name, x509.DirectoryName) and isinstance(subtree, x509.DirectoryName):
        return _directory_within(name.value, subtree.value)
    # A form that is not implemented: for an excluded subtree it counts as inside, for a permitted one as outside.
    raise CertificateError(f"name constraints of the form {type(name).__name__} are not implemented")


def _host_within(host: str, subtree: str) -> bool:
    """``host.example.org`` is within ``example.org`` and itself; a subtree ``.example.org`` is what lies below it."""
    host, subtree = host.lower().rstrip("."), subtree.lower().rstrip(".")
    if subtree.startswith("."):
        return host.endswith(subtree)
    return not subtree or host == subtree or host.endswith("." + subtree)


def _mailbox_within(mailbox: str, subtree: str) -> bool:
    """A subtree is one mailbox, all of one host, or (``.example.org``) all of the hosts below a domain."""
    local, _, host = mailbox.rpartition("@")
    if "@" in subtree:
        subtree_local, _, subtree_host = subtree.rpartition("@")
        return local == subtree_local and host.lower() == subtree_host.lower()
    if subtree.startswith("."):
        return host.lower().endswith(subtree.lower())
    return not subtree or host.lower() == subtree.lower()


def _address_within(name: x509.IPAddress, subtree: x509.IPAddress) -> bool:
    network = subtree.value
    if not isinstance(network, IPv4Network | IPv6Network):
        return name.value == network
    address = name.value
    if isinstance(address, IPv4Network | IPv6Network):
        return False  # a subjectAltName holds an address, never a network
    return address in network


def _directory_within(name: x509.Name, subtree: x509.Name) -> bool:
    """The subtree's relative names are the first ones of the name."""
    count = len(subtree.rdns)
    if not count:
        return True
    return len(name.rdns) >= count and dn.same_name(x509.Name(name.rdns[:count]), subtree)


def _text(name: x509.GeneralName) -> str:
    value = name.value
    text = dn.dn_text(value) if isinstance(value, x509.Name) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)
