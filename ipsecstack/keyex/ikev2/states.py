"""States of an IKE SA, kinds of exchanges, and the shape of a row of the state table (``table``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ipsecstack.wire.ikev2 import (
    Auth,
    Cp,
    Delete,
    Eap,
    ExchangeType,
    IdI,
    IdR,
    Ke,
    Message,
    Nonce,
    NotifyType,
    Payload,
    PayloadType,
    Sa,
    TsI,
    TsR,
)


class State(Enum):
    """Where an IKE SA is in its life; ``vici`` is strongSwan's word for it."""

    NEW = "NEW"
    INIT_SENT = "INIT_SENT"
    AUTH_SENT = "AUTH_SENT"
    HALF_OPEN = "HALF_OPEN"
    AUTHENTICATING = "AUTHENTICATING"
    ESTABLISHED = "ESTABLISHED"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    DEAD = "DEAD"

    @property
    def vici(self) -> str:
        return _VICI[self]


_VICI = {
    State.NEW: "CREATED",
    State.INIT_SENT: "CONNECTING",
    State.AUTH_SENT: "CONNECTING",
    State.HALF_OPEN: "CONNECTING",
    State.AUTHENTICATING: "CONNECTING",
    State.ESTABLISHED: "ESTABLISHED",
    State.REKEYED: "REKEYED",
    State.DELETING: "DELETING",
    State.DEAD: "DESTROYING",
}


class ChildState(Enum):
    """Where a Child SA is in its life; the values are strongSwan's words."""

    INSTALLED = "INSTALLED"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    DELETED = "DELETED"


class Role(Enum):
    """Our role in an exchange: its INITIATOR handles the response, its RESPONDER the request."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class Kind(Enum):
    """Exchanges as the state table tells them apart: CREATE_CHILD_SA is three (RFC 7296 §1.3.1-1.3.3)."""

    IKE_SA_INIT = "IKE_SA_INIT"
    IKE_INTERMEDIATE = "IKE_INTERMEDIATE"
    SESSION_RESUME = "IKE_SESSION_RESUME"
    IKE_AUTH = "IKE_AUTH"
    NEW_CHILD = "CREATE_CHILD_SA (new child)"
    REKEY_CHILD = "CREATE_CHILD_SA (rekey child)"
    REKEY_IKE = "CREATE_CHILD_SA (rekey IKE)"
    FOLLOWUP_KE = "IKE_FOLLOWUP_KE"
    INFORMATIONAL = "INFORMATIONAL"

    @property
    def exchange(self) -> ExchangeType:
        if self is Kind.IKE_SA_INIT:
            return ExchangeType.IKE_SA_INIT
        if self is Kind.IKE_INTERMEDIATE:
            return ExchangeType.IKE_INTERMEDIATE
        if self is Kind.SESSION_RESUME:
            return ExchangeType.IKE_SESSION_RESUME
        if self is Kind.IKE_AUTH:
            return ExchangeType.IKE_AUTH
        if self is Kind.FOLLOWUP_KE:
            return ExchangeType.IKE_FOLLOWUP_KE
        if self is Kind.INFORMATIONAL:
            return ExchangeType.INFORMATIONAL
        return ExchangeType.CREATE_CHILD_SA


class Need(Enum):
    """Payloads that a row asks for or takes; NOTIFY and unknown payloads may always be there."""

    SA = Sa
    KE = Ke
    NONCE = Nonce
    IDI = IdI
    IDR = IdR
    AUTH = Auth
    TSI = TsI
    TSR = TsR
    DELETE = Delete
    CERT = "CERT"
    CERTREQ = "CERTREQ"
    CP = Cp
    EAP = Eap
    REKEY_SA = NotifyType.REKEY_SA

    def present(self, message: Message) -> bool:
        if self is Need.REKEY_SA:
            return message.notify(NotifyType.REKEY_SA) is not None
        if self is Need.CERT:
            return any(p.payload_type == PayloadType.CERT for p in message.payloads)
        if self is Need.CERTREQ:
            return any(p.payload_type == PayloadType.CERTREQ for p in message.payloads)
        return message.get(self.value) is not None


# Each of these may be in a message once at most.
SINGLE = frozenset(
    {
        PayloadType.SA,
        PayloadType.KE,
        PayloadType.NONCE,
        PayloadType.IDI,
        PayloadType.IDR,
        PayloadType.AUTH,
        PayloadType.TSI,
        PayloadType.TSR,
        PayloadType.CP,
        PayloadType.EAP,
    }
)

RequestHandler = Callable[[Any, Message, float], list[Payload]]
ResponseHandler = Callable[[Any, Any, Message, float], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One declared transition.

    ``handler`` of a RESPONDER row is called with (IKE SA, request, now) and returns the response's payloads; of an
    INITIATOR row with (IKE SA, task, response, now). ``next`` lists the states it may lead to, the usual one first.
    A response with an error notification needs none of the ``required`` payloads.
    """

    state: State
    role: Role
    kind: Kind
    required: frozenset[Need]
    optional: frozenset[Need]
    handler: Callable[..., Any]
    next: tuple[State, ...]
    story: str

    def missing(self, message: Message) -> list[str]:
        """Names of required payloads that are not in the message."""
        return sorted(need.name for need in self.required if not need.present(message))


def kind_of(message: Message) -> Kind | None:
    """The kind of a request, by its exchange type and payloads; None for an exchange that is not known."""
    exchange = message.header.exchange
    if exchange == ExchangeType.IKE_SA_INIT:
        return Kind.IKE_SA_INIT
    if exchange == ExchangeType.IKE_INTERMEDIATE:
        return Kind.IKE_INTERMEDIATE
    if exchange == ExchangeType.IKE_SESSION_RESUME:
        return Kind.SESSION_RESUME
    if exchange == ExchangeType.IKE_AUTH:
        return Kind.IKE_AUTH
    if exchange == ExchangeType.IKE_FOLLOWUP_KE:
        return Kind.FOLLOWUP_KE
    if exchange == ExchangeType.INFORMATIONAL:
        return Kind.INFORMATIONAL
    if exchange != ExchangeType.CREATE_CHILD_SA:
        return None
    if message.notify(NotifyType.REKEY_SA) is not None:
        return Kind.REKEY_CHILD
    if message.get(TsI) is None and message.get(TsR) is None:
        return Kind.REKEY_IKE
    return Kind.NEW_CHILD


def duplicated(message: Message) -> int | None:
    """The type of a payload that must be there once and is there again; None when all is well."""
    seen: set[int] = set()
    for payload in message.payloads:
        kind = payload.payload_type
        if kind in SINGLE:
            if kind in seen:
                return kind
            seen.add(kind)
    return None
