"""What was negotiated with the peer of an IKE SA beside algorithms: a field for each extension that both know."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.ikev2.paths import Mobility


@dataclass(slots=True)
class Features:
    """Filled by the extensions of ``extensions.EXTENSIONS``. A rekeyed IKE SA gets its elder's."""

    childless: bool = False
    """The responder takes IKE_AUTH without a Child SA (RFC 6023)."""
    fragmentation: bool = False
    """Both ends take messages in fragments (RFC 7383)."""
    fragment_size: int = 0
    """Octets of an IP packet that the path takes, if that was found to be less than configured; 0: not known."""
    intermediate: bool = False
    """Both ends know IKE_INTERMEDIATE (RFC 9242)."""
    ppk: bool = False
    """Both ends can use a post-quantum pre-shared key (RFC 8784)."""
    ppk_used: bool = False
    """One is in the keys."""
    nat_traversal: bool = False
    """NAT detection was done: ESP in UDP is possible (RFC 7296 §2.23)."""
    told_addresses: frozenset[IPAddress] = frozenset()
    """Our further addresses, told while MOBIKE is being agreed on."""
    mobility: Mobility | None = None
    """MOBIKE (RFC 4555)."""
    redirectable: bool = False
    """The peer is a client that lets us redirect it (RFC 5685)."""
    follows: bool = False
    """We are the client, and offered to be redirected."""
    redirects: tuple[float, ...] = ()
    """When this client was redirected."""
    redirected_from: IPAddress | None = None
    left: bool = False
    """We are on our way to another gateway."""
    multiple_auth: bool = False
    """Several rounds of authentication (RFC 4739)."""
    ticket_awaited: bool = False
    """The gateway said that a ticket is to come (RFC 5723)."""
