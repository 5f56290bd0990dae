"""Reauthentication, make before break (RFC 7296 §2.8.3), and how long an authentication is good for (RFC 4478).

A new IKE SA is made from IKE_SA_INIT on, with the children of the old one; that is deleted when they are all up.
"""

from __future__ import annotations

from ipsecstack.keyex.ikev2 import lifecycle
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.wire.ikev2 import Message, Notify, NotifyType, Payload

_WAIT = 1.0
_MAX_WAITS = 60


class Retire(Task):
    """Deletes the old IKE SA when the children of this one are up: no exchange of its own."""

    kind = Kind.INFORMATIONAL
    label = "IKE_REAUTH_COMPLETE"
    moves = True

    def __init__(self, old: IkeSa) -> None:
        super().__init__()
        self.old = old
        self.waits = 0

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        others = [t for t in sa.tasks() if t is not self and t.kind in (Kind.NEW_CHILD, Kind.IKE_AUTH)]
        if others and self.waits < _MAX_WAITS:
            self.waits += 1
            self.not_before = now + _WAIT
            sa.enqueue(self)
            return None
        if self.old.state is State.ESTABLISHED:
            self.old.log("IKE", 1, f"reauthenticated by IKE_SA {sa.tag}")
            self.old.enqueue(DeleteIke("replaced"), first=True)
        return None

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        """The new IKE SA is gone before the old one could go."""


class TellLifetime(Task):
    """Ask the initiator for its reauthentication (RFC 4478 §3)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_AUTH_LIFETIME"

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        sa.log("IKE", 1, "asking the initiator to reauthenticate")
        return [_lifetime(1)]


def _lifetime(seconds: float) -> Notify:
    return Notify(NotifyType.AUTH_LIFETIME, max(1, int(seconds)).to_bytes(4, "big"))


def _ours(sa: IkeSa) -> bool:
    """We can begin the reauthentication: only an initiator does EAP or asks for addresses."""
    return sa.initiator or not (sa.leases or sa.remote_auth == "eap")


def ask(sa: IkeSa, now: float) -> None:
    """The operator wants a reauthentication."""
    if _ours(sa):
        start(sa, now)
    elif sa.state is State.ESTABLISHED and not any(isinstance(task, TellLifetime) for task in sa.tasks()):
        sa.enqueue(TellLifetime())


def start(sa: IkeSa, now: float) -> None:
    """It is time: make the IKE SA anew, or end it when the initiator should have done that and has not."""
    sa.reauth_at = None
    if sa.state is not State.ESTABLISHED or any(isinstance(task, DeleteIke) for task in sa.tasks()):
        return
    if not _ours(sa):
        sa.log("IKE", 1, "initiator did not reauthenticate as requested")
        sa.enqueue(DeleteIke("expired"))
        return
    sa.log("IKE", 0, f"reauthenticating IKE_SA {sa.tag}")
    if not sa.host.reauthenticate(sa, now):
        _again(sa, now)


def completed(sa: IkeSa, now: float) -> None:
    """As initiator: the new IKE SA is up."""
    old, sa.replaces = sa.replaces, None
    if old is not None:
        sa.enqueue(Retire(old))


def failed(sa: IkeSa, reason: str, now: float) -> None:
    """The new IKE SA did not come up: the old one lives on, and tries again while it lasts."""
    old, sa.replaces = sa.replaces, None
    if old is not None and old.state is State.ESTABLISHED:
        old.log("IKE", 1, f"reauthentication failed: {reason}")
        _again(old, now)


def _again(sa: IkeSa, now: float) -> None:
    options = sa.host.options
    sa.reauth_at = now + options.retry_interval - options.retry_jitter * lifecycle.fraction(sa.host.random)
    sa.host.touch_timer(sa)


# --- how long ---------------------------------------------------------------------------------------------------------


def _schedule(sa: IkeSa, at: float, over: float) -> None:
    if sa.reauth_at is None or at < sa.reauth_at:
        sa.reauth_at = at
    if over:
        end = sa.reauth_at + over
        sa.expire_at = end if sa.expire_at is None else min(sa.expire_at, end)
    sa.host.touch(sa)


def announce(sa: IkeSa, now: float) -> list[Payload]:
    """As responder: when the peer has to authenticate itself again, and the notification that tells it so."""
    config = sa.config
    assert config is not None
    if not config.reauth_time:
        return []
    rand = min(config.rand_time, config.reauth_time)
    lifetime = config.reauth_time - rand * lifecycle.fraction(sa.host.random)
    # We wait a little longer than we say, or the peer would always be too late.
    _schedule(sa, now + lifetime + (config.over_time or 0), 0)
    return [_lifetime(lifetime)]


def lifetime(sa: IkeSa, message: Message, now: float) -> None:
    """As initiator: reauthenticate when we are configured to, and when the responder asks for it, if that is sooner."""
    config = sa.config
    assert config is not None
    if config.reauth_time:
        rand = min(config.rand_time, config.reauth_time)
        at = now + config.reauth_time - rand * lifecycle.fraction(sa.host.random)
        _schedule(sa, at, config.over_time)
        sa.log("IKE", 1, f"scheduling reauthentication in {int(at - now)}s")
    obey(sa, message, now)


def obey(sa: IkeSa, message: Message, now: float) -> None:
    """Take the responder's AUTH_LIFETIME (RFC 4478 §2)."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    if notify is None or len(notify.data) != 4:
        return
    seconds = int.from_bytes(notify.data, "big")
    # It is to be done before the time is over, but not for every second of a short one.
    early = min(30.0, seconds * 0.1)
    _schedule(sa, now + max(1.0, seconds - early), 0)
    sa.log("IKE", 1, f"received AUTH_LIFETIME of {seconds}s, reauthenticating before that")


class Reauthentication(Extension):
    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        if sa.initiator:
            obey(sa, message, now)
        return []

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        """New keys, the same authentication (RFC 4478 §3)."""
        new.reauth_at, old.reauth_at = old.reauth_at, None
        for task in old.host.ike_sas_of(old.name):
            if task.replaces is old:
                task.replaces = new
