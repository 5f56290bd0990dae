"""Quick crash detection: who lost an IKE SA proves it at once, instead of being waited for (RFC 6290).

Each end may make tokens: a MAC over the IKE SA's SPIs, with a secret that outlives the process. It gives the token to
the peer inside of the IKE SA. After a crash it can make the token again, and sends it in the clear with
INVALID_IKE_SPI. The peer, who kept it, then knows that the IKE SA is gone. Whoever else sees a token can end an IKE SA
with it, so it is never sent for a pair of SPIs of which one is in use here (§10.2, §10.3).
"""

from __future__ import annotations

import hashlib
import hmac

from ipsecstack.keyex import lookup
from ipsecstack.keyex.ikev2 import lifecycle
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload, WireError, parse_message

MIN_OCTETS, MAX_OCTETS = 16, 256
"""Of a token (§4.1)."""
_MAX_TOKENS = 4
"""That are compared of one datagram: a maker may send those of several secrets."""
_IKE = 1
"""The protocol ID of the notification (§4.1)."""
_LIVE = frozenset({State.ESTABLISHED, State.REKEYED, State.DELETING})


def make_token(secret: bytes, spi_i: bytes, spi_r: bytes) -> bytes:
    """The token of an IKE SA (§5.1): it can be made again from the SPIs of any message of the peer."""
    return hmac.new(secret, b"QCD" + spi_i + spi_r, hashlib.sha256).digest()


def notification(secret: bytes, spi_i: bytes, spi_r: bytes) -> Notify:
    return Notify(NotifyType.QUICK_CRASH_DETECTION, make_token(secret, spi_i, spi_r), _IKE)


def _own(sa: IkeSa) -> list[Payload]:
    secret = sa.host.options.qcd_secret
    return [notification(secret, sa.spi_i, sa.spi_r)] if secret else []


class TellToken(Task):
    """Gives the peer the token of a rekeyed IKE SA, if we initiated the rekeying (§4.3)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_QCD_TOKEN"
    moves = False  # the next IKE SA has a token of its own

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        return _own(sa) or None if sa.state is State.ESTABLISHED else None


class QuickCrashDetection(Extension):
    """Tokens of both ends, inside of IKE SAs."""

    def auth_request(self, sa: IkeSa) -> list[Payload]:
        return _own(sa)

    def auth_requested(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        _take(sa, message)
        return _own(sa)

    def auth_answered(self, sa: IkeSa, message: Message, now: float) -> None:
        _take(sa, message)

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        _take(sa, message)
        return []

    def rekey_answer(self, new: IkeSa) -> list[Payload]:
        return _own(new)

    def rekey_answered(self, new: IkeSa, message: Message) -> None:
        _take(new, message)

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        if new.initiator and new.host.options.qcd_secret:
            new.enqueue(TellToken())


def _take(sa: IkeSa, message: Message) -> None:
    notify = message.notify(NotifyType.QUICK_CRASH_DETECTION)
    if notify is not None and MIN_OCTETS <= len(notify.data) <= MAX_OCTETS:
        sa.peer_token = notify.data


def crashed(sa: IkeSa, data: bytes, now: float) -> bool:
    """An unprotected message for an IKE SA that stands: if it has the peer's token, the peer lost the IKE SA. It ends
    here without a word to the peer, and comes up anew where we know the peer's address (§4.5, §5)."""
    token = sa.peer_token
    if not token or sa.state not in _LIVE:
        return False
    try:
        message = parse_message(data)
    except WireError:
        return False
    if message.notify(NotifyType.INVALID_IKE_SPI) is None and message.notify(NotifyType.INVALID_SPI) is None:
        return False
    told = [n.data for n in message.all(Notify) if n.type == NotifyType.QUICK_CRASH_DETECTION]
    # Each is compared, and in constant time: how long it takes says nothing of which is nearest.
    if not sum(hmac.compare_digest(token, one) for one in told[:_MAX_TOKENS]):
        return False
    sa.log("IKE", 1, "received a valid QCD token: the peer lost its state, IKE_SA is gone")
    sa.host.count_statistic("qcd-crashes")
    again = sa.state is State.ESTABLISHED and sa.config is not None
    names = list(dict.fromkeys(child.name for child in sa.children if child.alive)) if again else []
    reachable = sa.config is not None and lookup.first_address(sa.config.remote_addrs) is not None
    lifecycle.destroy(sa, "timeout" if again else "deleted", now)
    for name in names if reachable else ():
        sa.host.start_child(sa.name, name, now)
    return True
