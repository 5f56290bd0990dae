"""Time of an IKE SA: retransmission, rekeying, expiry, liveness, what operators start (RFC 7296 §2.1-2.4, §2.8)."""

from __future__ import annotations

from ipsecstack.keyex.ikev2 import followup, fragmentation, lifecycle, mobike, reauth, resumption
from ipsecstack.keyex.ikev2.ike_sa_init import IkeInit
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.machine import pump, ready, send
from ipsecstack.keyex.ikev2.rekey_child import RekeyChild
from ipsecstack.keyex.ikev2.rekey_ike import RekeyIke
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State


def deadline(sa: IkeSa) -> float | None:
    """When ``handle_timer`` has something to do next."""
    times = [sa.requests.next_timer(), sa.give_up_at, followup.deadline(sa), _liveness_due(sa)]
    if sa.state is State.ESTABLISHED:  # one that is being deleted is neither rekeyed nor does it expire
        times += [
            sa.rekey_at if not sa.busy_with(Kind.REKEY_IKE) else None,
            sa.expire_at,
            sa.reauth_at,
            sa.ticket_at,
        ]
    for child in sa.children:
        times += [child.rekey_at, child.expire_at, child.remove_at, child.check_outbound_at, child.idle_at]
    if sa.requests.has_room and len(sa.active) < sa.requests.size:
        times += [task.not_before for task in ready(sa)]
    return min((t for t in times if t is not None), default=None)


def _liveness_due(sa: IkeSa) -> float | None:
    config = sa.config
    if config is None or not config.dpd_delay or sa.state is not State.ESTABLISHED or sa.active or sa.queue:
        return None
    return sa.last_inbound + config.dpd_delay


def handle_timer(sa: IkeSa, now: float) -> None:
    """Do what is due: retransmit or give up, rekey, expire, check liveness."""
    due, lost = sa.requests.retransmit(now)
    if lost and not any(resumption.silent(sa, number, resumption.SILENT_AFTER) for number in list(sa.active)):
        _give_up(sa, now)
        return
    for entry in due:
        if resumption.silent(sa, entry.message_id, entry.retransmits):
            continue
        sa.log("IKE", 1, f"retransmit {entry.retransmits} of request with message ID {entry.message_id}")
        sa.counters.retransmits_out += 1
        fragmentation.retry_smaller(sa, entry, sa.active.get(entry.message_id))
        for local, remote in ((sa.local, sa.remote), *mobike.other_paths(sa, entry.retransmits)):
            send(sa, entry.datagrams, local, remote)
    if due:
        sa.host.touch(sa)
    if sa.give_up_at is not None and now >= sa.give_up_at:
        _end_waiting(sa, now)
        if sa.state is State.DEAD:
            return
    followup.expire(sa, now)
    if sa.state is State.ESTABLISHED:
        _life_of_ike(sa, now)
    for child in list(sa.children):
        if child.check_outbound_at is not None and now >= child.check_outbound_at:
            lifecycle.check_outbound(sa, child, now)
        if child.remove_at is not None and now >= child.remove_at:
            lifecycle.remove_child(sa, child, "rekeyed", now)
        elif child.expire_at is not None and now >= child.expire_at:
            child.expire_at = None
            expire_child(sa, child)
        elif child.rekey_at is not None and now >= child.rekey_at:
            child.rekey_at = None
            rekey_child(sa, child)
        elif child.idle_at is not None and now >= child.idle_at and lifecycle.check_idle(sa, child, now):
            sa.enqueue(DeleteChild(child, "inactive"))
    pump(sa, now)


def _life_of_ike(sa: IkeSa, now: float) -> None:
    resumption.renew(sa, now)
    if sa.expire_at is not None and now >= sa.expire_at:
        sa.expire_at = sa.rekey_at = None
        sa.enqueue(DeleteIke("expired"))
        return
    if sa.reauth_at is not None and now >= sa.reauth_at:
        reauth.start(sa, now)
    if sa.rekey_at is not None and now >= sa.rekey_at and not sa.busy_with(Kind.REKEY_IKE):
        sa.rekey_at = None
        rekey_ike(sa)
    due = _liveness_due(sa)
    if due is not None and now >= due:
        seen = [sa.host.last_inbound(c.inbound) for c in sa.children if c.inbound is not None]
        sa.last_inbound = max([sa.last_inbound, *(t for t in seen if t is not None)])
        again = _liveness_due(sa)
        if again is not None and now >= again:
            sa.enqueue(mobike.liveness(sa))
        else:
            sa.host.touch(sa)


def rekey_ike(sa: IkeSa) -> RekeyIke | None:
    """Queue a rekeying of the IKE SA; None when one is under way."""
    if any(isinstance(task, RekeyIke) for task in sa.tasks()):
        return None
    task = RekeyIke()
    sa.enqueue(task)
    return task


def rekey_child(sa: IkeSa, child: object) -> RekeyChild | None:
    """Queue a rekeying of a Child SA; None when one is under way or the SA is not up."""
    found = next((c for c in sa.children if c is child), None)
    if found is None or not found.alive:
        return None
    if any(isinstance(task, RekeyChild) and task.old is found for task in sa.tasks()):
        return None
    task = RekeyChild(found)
    sa.enqueue(task)
    return task


def expire_child(sa: IkeSa, child: object) -> None:
    """A hard limit is reached: close the Child SA, unless that is under way."""
    found = next((c for c in sa.children if c is child), None)
    if found is None or any(isinstance(t, DeleteChild) and t.child is found for t in sa.tasks()):
        return
    sa.log("IKE", 0, f"CHILD_SA {found.tag} expired")
    sa.enqueue(DeleteChild(found, "expired"))


def _give_up(sa: IkeSa, now: float) -> None:
    """The peer does not answer."""
    tries = sa.host.options.retransmit_tries
    sa.log("IKE", 1, f"giving up after {tries} retransmits")
    deleting = next((t for t in sa.active.values() if isinstance(t, DeleteIke)), None)
    if deleting is not None:
        lifecycle.destroy(sa, deleting.reason, now)
        return
    if sa.established is None:
        lifecycle.failed(sa, None, "TIMEOUT", "establishing IKE_SA failed, peer not responding")
        if isinstance(next(iter(sa.active.values()), None), IkeInit) and sa.host.retry(sa, now):
            lifecycle.destroy(sa, "timeout", now)
            return
        sa.log("IKE", 1, "establishing IKE_SA failed, peer not responding")
    else:
        lifecycle.failed(sa, None, "TIMEOUT", "peer not responding, IKE_SA is gone")
    lifecycle.destroy(sa, "timeout", now)


def _end_waiting(sa: IkeSa, now: float) -> None:
    sa.give_up_at = None
    if sa.state in (State.HALF_OPEN, State.AUTHENTICATING):
        sa.log("IKE", 1, "deleting half open IKE_SA after timeout")
        if not sa.muted:
            lifecycle.failed(sa, None, "TIMEOUT", "half open IKE_SA timed out")
        lifecycle.destroy(sa, "timeout", now)
    elif sa.state is State.ESTABLISHED and sa.silent:
        sa.log(
            "IKE",
            1,
            f"redundant IKE_SA {sa.tag} of a rekey collision was not deleted by the peer, forgetting it",
        )
        lifecycle.destroy(sa, "rekeyed", now)
    elif sa.state in (State.REKEYED, State.ESTABLISHED):
        sa.enqueue(DeleteIke("rekeyed" if sa.state is State.REKEYED else "replaced"))
