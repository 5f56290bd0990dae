"""Extensions of RFC 7296, one module each, and where they take part in the exchanges.

An extension adds payloads to ours and looks at the peer's; what both ends agreed on is kept in ``sa.features``. The
exchanges call the hooks in the order of ``EXTENSIONS`` and know no extension by name.
"""

from __future__ import annotations

from typing import ClassVar

from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Message, Payload


class Extension:
    """The hooks of one extension; each does nothing unless it is overridden."""

    resumes: ClassVar[bool] = False
    """Its hooks of IKE_SA_INIT take part in IKE_SESSION_RESUME, too."""

    def init_request(self, sa: IkeSa) -> list[Payload]:
        """What it adds to our IKE_SA_INIT request, each time that it is made (with a cookie, for another group)."""
        return []

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        """As responder: the peer's IKE_SA_INIT request is accepted; what our response gets. May raise Refusal."""
        return []

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        """As initiator: the responder's IKE_SA_INIT response is accepted."""

    def auth_request(self, sa: IkeSa) -> list[Payload]:
        """What it adds to our first IKE_AUTH request."""
        return []

    def auth_requested(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """As responder: the peer, whose first IKE_AUTH request is ``message``, is authenticated; what our last
        response gets."""
        return []

    def auth_answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """As initiator: the responder is authenticated, by this response."""

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """An INFORMATIONAL request that does not delete the IKE SA; what our response gets."""
        return []

    def rekey_answer(self, new: IkeSa) -> list[Payload]:
        """As responder of the exchange that made ``new`` in place of another IKE SA: what our response gets."""
        return []

    def rekey_answered(self, new: IkeSa, message: Message) -> None:
        """As initiator of the exchange that made ``new``: the responder's answer."""

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        """``new`` replaces ``old``: what belongs to the peer, not to the SA, goes on. ``features`` went already."""

    def ended(self, sa: IkeSa, reason: str) -> None:
        """The IKE SA is about to be destroyed, for this reason (``base.IkeSaDeleted``)."""


EXTENSIONS: list[Extension] = []
"""In the order in which they are asked; ``machine`` lists them (they may import what imports this module)."""


def init_request(sa: IkeSa) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.init_request(sa)]


def init_requested(sa: IkeSa, message: Message) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.init_requested(sa, message)]


def init_answered(sa: IkeSa, message: Message) -> None:
    for extension in EXTENSIONS:
        extension.init_answered(sa, message)


def auth_request(sa: IkeSa) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.auth_request(sa)]


def auth_requested(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.auth_requested(sa, message, now)]


def auth_answered(sa: IkeSa, message: Message, now: float) -> None:
    for extension in EXTENSIONS:
        extension.auth_answered(sa, message, now)


def informed(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.informed(sa, message, now)]


def rekey_answer(new: IkeSa) -> list[Payload]:
    return [payload for extension in EXTENSIONS for payload in extension.rekey_answer(new)]


def rekey_answered(new: IkeSa, message: Message) -> None:
    for extension in EXTENSIONS:
        extension.rekey_answered(new, message)


def rekeyed(old: IkeSa, new: IkeSa) -> None:
    for extension in EXTENSIONS:
        extension.rekeyed(old, new)


def ended(sa: IkeSa, reason: str) -> None:
    for extension in EXTENSIONS:
        extension.ended(sa, reason)
