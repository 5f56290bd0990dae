"""Several rounds of authentication, one after the other (RFC 4739): both ends say that they know of them."""

from __future__ import annotations

from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload


class MultipleAuthentication(Extension):
    """The responder begins, in its IKE_SA_INIT response; the initiator answers in IKE_AUTH (``ike_auth``)."""

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        sa.features.multiple_auth = True
        return [Notify(NotifyType.MULTIPLE_AUTH_SUPPORTED)]

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.multiple_auth = message.notify(NotifyType.MULTIPLE_AUTH_SUPPORTED) is not None
