"""REDIRECT: a gateway sends its clients to another one (RFC 5685), and clients follow.

Three moments: the gateway answers IKE_SA_INIT with nothing but REDIRECT (``reception``: no state, no key exchange), it
authenticates the client and its last IKE_AUTH response says REDIRECT, or it tells a client whose IKE SA stands.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.ikev2 import lifecycle
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Message, Nonce, Notify, NotifyType, Payload

MAX_REDIRECTS = 5
"""Within ``LOOP_PERIOD`` seconds; then it is a loop (§10: the RFC's own numbers)."""
LOOP_PERIOD = 300.0
_PATIENCE = 60.0
"""Seconds that a client has to leave; then its IKE SA is deleted (§5)."""
_IPV4, _IPV6, _FQDN = 1, 2, 3

Gateway = IPAddress | str
"""An address, or a name."""


# --- the notifications' data (§8) ---


def gateway_of(text: str) -> Gateway:
    """An address or a fully qualified name, as configured. Raises ValueError."""
    try:
        return ip_address(text)
    except ValueError:
        name = text.strip()
        if (
            not name.isascii()
            or not 1 <= len(name) <= 255
            or not name.replace("-", "").replace(".", "").isalnum()
        ):
            raise ValueError(f"'{text}' is neither an address nor a name of a gateway") from None
        return name


def to_data(gateway: Gateway, nonce: bytes = b"") -> bytes:
    """Type, length and identity of the gateway, then the nonce (only in IKE_SA_INIT)."""
    if isinstance(gateway, str):
        kind, identity = _FQDN, gateway.encode("ascii")
    else:
        kind, identity = (_IPV4 if gateway.version == 4 else _IPV6), gateway.packed
    return bytes((kind, len(identity))) + identity + nonce


def from_data(data: bytes) -> tuple[Gateway, bytes]:
    """The gateway, and the nonce behind it. Raises ValueError."""
    if len(data) < 2 or len(data) < 2 + data[1] or not data[1]:
        raise ValueError("it is cut short")
    identity, nonce = data[2 : 2 + data[1]], data[2 + data[1] :]
    if data[0] == _FQDN:
        name = identity.decode("ascii", "replace")
        gateway = gateway_of(name)
        if gateway != name:  # an address, or blanks around a name
            raise ValueError("it names no gateway as it should")
        return gateway, nonce
    if (data[0], len(identity)) not in ((_IPV4, 4), (_IPV6, 16)):
        raise ValueError(f"it names no gateway (type {data[0]}, {len(identity)} octets)")
    address = ip_address(identity)
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{address} is no gateway's address")
    return address, nonce


# --- as gateway ---


def asked_for(message: Message) -> bool:
    """The client of this IKE_SA_INIT request takes redirections."""
    supported = message.notify(NotifyType.REDIRECT_SUPPORTED) or message.notify(NotifyType.REDIRECTED_FROM)
    return supported is not None


class RedirectPeer(Task):
    """Sends the client of an established IKE SA to another gateway (§5)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_REDIRECT"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self.gateway = gateway

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        if sa.state is not State.ESTABLISHED:
            return None
        sa.log("IKE", 1, f"redirecting peer to {self.gateway}")
        return [Notify(NotifyType.REDIRECT, to_data(self.gateway))]

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        sa = sa.successor or sa
        sa.give_up_at = now + _PATIENCE
        sa.host.touch_timer(sa)


def sent_away(sa: IkeSa) -> bool:
    """As gateway, at the end of IKE_AUTH: the client gets REDIRECT instead of a Child SA."""
    return sa.config is not None and bool(sa.config.redirect) and sa.features.redirectable and not _is_us(sa)


def _is_us(sa: IkeSa) -> bool:
    assert sa.config is not None
    return sa.config.redirect == str(sa.local.host)


class Redirect(Extension):
    def init_request(self, sa: IkeSa) -> list[Payload]:
        if not sa.host.options.follow_redirects:
            return []
        origin = sa.features.redirected_from
        if origin is not None:
            return [Notify(NotifyType.REDIRECTED_FROM, to_data(origin))]
        return [Notify(NotifyType.REDIRECT_SUPPORTED)]

    def init_answered(self, sa: IkeSa, message: Message) -> None:
        sa.features.follows = sa.host.options.follow_redirects

    def init_requested(self, sa: IkeSa, message: Message) -> list[Payload]:
        sa.features.redirectable = asked_for(message)
        origin = message.notify(NotifyType.REDIRECTED_FROM)
        if origin is not None:
            try:
                sa.log("IKE", 1, f"client was redirected from {from_data(origin.data)[0]}")
            except ValueError as error:
                sa.log("IKE", 1, f"client says that it was redirected, but {error}")
        return []

    def auth_requested(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        if not sent_away(sa):
            return []
        assert sa.config is not None
        gateway = gateway_of(sa.config.redirect)
        sa.log("IKE", 1, f"redirecting peer to {gateway}")
        sa.give_up_at = now + _PATIENCE
        return [Notify(NotifyType.REDIRECT, to_data(gateway))]

    def auth_answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Arrived at the new gateway: the old one is not needed any more."""
        if sa.features.redirected_from is None or message.notify(NotifyType.REDIRECT) is not None:
            return
        for other in list(sa.host.ike_sas_of(sa.name)):
            if other is not sa and other.features.left and other.state is State.ESTABLISHED:
                other.enqueue(DeleteIke("replaced"), first=True)

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        notify = message.notify(NotifyType.REDIRECT)
        if notify is not None and sa.state is State.ESTABLISHED:
            sa.after_reply.append(lambda at: _leave(sa, notify.data, at))
        return []


# --- as client ---


def genuine(sa: IkeSa, message: Message) -> bool:
    """An IKE_SA_INIT response that redirects us: the nonce shows that it comes from who saw our request (§3)."""
    notify, initial = message.notify(NotifyType.REDIRECT), sa.initial
    if notify is None or initial is None or not initial.nonce or message.get(Nonce) is not None:
        return False
    try:
        _, nonce = from_data(notify.data)
    except ValueError:
        return False
    return sa.host.options.follow_redirects and hmac.compare_digest(nonce, initial.nonce)


def followed_first(sa: IkeSa, task: Task, message: Message, now: float) -> bool:
    """The IKE_SA_INIT response is a redirection: the attempt goes on at the other gateway, or fails."""
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None or not genuine(sa, message):
        return False
    assert sa.initial is not None
    tickets, task.tickets = task.tickets, []
    waiting = [t for t in sa.queue if t.moves]
    problem = _follow(sa, notify.data, sa.initial.children, tickets, waiting, now)
    if problem is not None:
        lifecycle.failed(sa, None, "REDIRECT", problem, received=True)
        sa.host.finish(tickets, False, f"establishing IKE_SA {sa.name} failed: {problem}")
        lifecycle.destroy(sa, "REDIRECT", now)
    else:
        for moved in waiting:
            sa.queue.remove(moved)
        lifecycle.destroy(sa, "replaced", now)
    return True


def followed_last(sa: IkeSa, task: Task, children: list[str], message: Message, now: float) -> bool:
    """The responder authenticated itself, and its response says REDIRECT: on to the other gateway (§6)."""
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None or not sa.host.options.follow_redirects:
        return False
    tickets, task.tickets = task.tickets, []
    problem = _follow(sa, notify.data, children, tickets, [], now)
    if problem is not None:
        lifecycle.failed(sa, None, "REDIRECT", problem, received=True)
        sa.host.finish(tickets, False, f"establishing IKE_SA {sa.name} failed: {problem}")
    task.abort(sa, "redirected", now)  # lets go of what was reserved
    sa.enqueue(DeleteIke("replaced"), first=True)
    return True


def _leave(sa: IkeSa, data: bytes, now: float) -> None:
    """An established IKE SA: make another one there with the same children; this one is deleted when that is up."""
    if not sa.features.follows:
        sa.log("IKE", 1, "peer redirects us, which we did not offer, ignored")
        return
    if sa.state is not State.ESTABLISHED or sa.features.left:
        return
    children = list(dict.fromkeys(child.name for child in sa.children if child.alive))
    sa.features.left = True
    problem = _follow(sa, data, children, [], [], now)
    if problem is not None:
        sa.features.left = False
        lifecycle.failed(sa, None, "REDIRECT", problem, received=True)


def _follow(
    sa: IkeSa, data: bytes, children: list[str], tickets: list[int], waiting: list[Task], now: float
) -> str | None:
    """Begin anew at the gateway in ``data``; the reason if that is not done."""
    try:
        gateway, _ = from_data(data)
    except ValueError as error:
        return f"peer redirects us, but {error}"
    if isinstance(gateway, str):
        return f"peer redirects us to '{gateway}', and names are not resolved; redirect to an address"
    redirects = tuple(at for at in sa.features.redirects if now - at < LOOP_PERIOD)
    if len(redirects) >= MAX_REDIRECTS:
        return f"peer redirects us to {gateway}, but that is the {len(redirects) + 1}th time in {LOOP_PERIOD:.0f} s"
    sa.log("IKE", 0, f"redirected from {sa.remote.host} to {gateway}")
    if not sa.host.begin_at(sa, gateway, (*redirects, now), children, tickets, waiting, now):
        return f"peer redirects us to {gateway}, where this host cannot go"
    return None
