"""IKE SAs without Child SAs (RFC 6023): who may make one, and children that follow in CREATE_CHILD_SA."""

from __future__ import annotations

from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload, Sa

SUPPORTED = NotifyType.CHILDLESS_IKEV2_SUPPORTED


class Childless(Extension):
    """The responder alone says that it takes IKE_AUTH without a Child SA (§3); ``never`` says nothing."""

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        return [Notify(SUPPORTED)] if _policy(sa) != "never" else []

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.childless = message.notify(SUPPORTED) is not None


def _policy(sa: IkeSa) -> str:
    return sa.config.childless if sa.config is not None else "allow"


def objection(sa: IkeSa, children: list[str]) -> str | None:
    """As initiator, after IKE_SA_INIT: why there can be no IKE SA as the configuration asks for it."""
    policy = _policy(sa)
    if sa.features.childless and policy != "never":
        return None
    if policy == "force":
        return "peer does not support childless IKE_SA initiation, and childless = force"
    if not children:
        return (
            "peer does not support childless IKE_SA initiation" if policy != "never" else "childless = never"
        )
    return None


def deferred(sa: IkeSa) -> bool:
    """As initiator: all children come in CREATE_CHILD_SA, with key exchanges of their own."""
    return sa.features.childless and _policy(sa) in ("prefer", "force")


def check(sa: IkeSa, message: Message) -> None:
    """As responder, the first IKE_AUTH request: refused with INVALID_SYNTAX where our policy does not fit."""
    asks = message.get(Sa) is not None
    if asks and _policy(sa) == "force":
        raise Refusal(
            NotifyType.INVALID_SYNTAX, "peer wants a CHILD_SA in IKE_AUTH, but childless = force allows none"
        )
    if not asks and _policy(sa) == "never":
        raise Refusal(NotifyType.INVALID_SYNTAX, "peer wants a childless IKE_SA, but childless = never")
