"""Where an authentication of several exchanges stands: EAP (RFC 7296 §2.16) and several rounds (RFC 4739)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipsecstack.keyex.configuration import AuthConfig, ConnectionConfig
from ipsecstack.keyex.eap.authenticator import Authenticator
from ipsecstack.keyex.eap.peer import Peer
from ipsecstack.wire.ikev2 import IdI, IdR, Message

MAX_EXCHANGES = 256
"""IKE_AUTH exchanges of one IKE SA: EAP has limits of its own, this one is for all rounds together."""


@dataclass(slots=True)
class Rounds:
    """As responder."""

    first: Message
    """The first IKE_AUTH request: it asks for the Child SA and for addresses."""
    config: ConnectionConfig
    own: int = 0
    """Rounds of ours that were sent."""
    theirs: int = 0
    """Rounds of the peer that are proven."""
    peer_id: IdI | None = None
    own_id: IdR | None = None
    eap: Authenticator | None = None
    keyed: bool = False
    """EAP has succeeded, AUTH with its key is to come."""
    key: bytes | None = field(default=None, repr=False)
    announced: bool = False
    """The peer said that another round of its follows."""
    eap_only: bool = False
    """The peer wants no AUTH of ours but the one of a mutual EAP method (RFC 5998)."""
    exchanges: int = 0


@dataclass(slots=True)
class Conversation:
    """As initiator."""

    children: list[str]
    local: tuple[AuthConfig, ...] = ()
    remote: tuple[AuthConfig, ...] = ()
    started: bool = False
    own: int = 0
    """The round of ours that is going on; as many as there are rounds when all are proven."""
    theirs: int = 0
    own_id: IdI | None = None
    peer_id: IdR | None = None
    eap: Peer | None = None
    packet: bytes | None = field(default=None, repr=False)
    """The EAP response that is to be sent."""
    keyed: bool = False
    key: bytes | None = field(default=None, repr=False)
    sent_auth: bool = False
    """The request under way has our AUTH of the round that is going on."""
    eap_only: bool = False
    """The responder left its AUTH to a mutual EAP method."""
    exchanges: int = 0
