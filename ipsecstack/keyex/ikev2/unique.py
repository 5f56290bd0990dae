"""Which IKE SAs with one peer may be up at once: INITIAL_CONTACT, and swanctl's ``unique`` (RFC 7296 §2.4)."""

from __future__ import annotations

from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import UniquePolicy
from ipsecstack.keyex.ikev2 import lifecycle
from ipsecstack.keyex.ikev2.informational import DeleteIke
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import State

_REAUTHENTICATION = 10.0
"""Seconds that a peer which seems to reauthenticate itself has to delete its old IKE SA, before we do."""


def is_first(sa: IkeSa) -> bool:
    """No other IKE SA with this peer is known here: INITIAL_CONTACT may be sent (§2.4)."""
    if sa.config is not None and sa.config.unique is UniquePolicy.NEVER:
        return False
    if sa.features.redirects:
        return False  # the peer may know us from the gateway that sent us there (RFC 5685)
    return not any(
        other is not sa and other.established is not None for other in sa.host.ike_sas_at(sa.remote.host)
    )


def same_peer(sa: IkeSa, other: IkeSa) -> bool:
    """Another authenticated IKE SA between the same two identities."""
    return (
        other is not sa
        and other.established is not None
        and other.state is State.ESTABLISHED
        and other.local_id is not None
        and other.remote_id is not None
        and sa.local_id is not None
        and sa.remote_id is not None
        and identity.same(other.remote_id, sa.remote_id)
        and identity.same(other.local_id, sa.local_id)
        and _eap_name(other) == _eap_name(sa)
    )


def elder(
    sa: IkeSa, name: str, local_ts: tuple[TrafficSelector, ...], remote_ts: tuple[TrafficSelector, ...]
) -> ChildSa | None:
    """As responder: the Child SA of the same traffic on an IKE SA that this one seems to be the reauthentication of."""
    if sa.remote_id is None or sa.established is None:
        return None
    for other in sa.host.ike_sas_with(sa.remote_id):
        if not same_peer(sa, other) or other.remote != sa.remote:
            continue
        for child in other.children:
            same = child.name == name and (child.local_ts, child.remote_ts) == (local_ts, remote_ts)
            if same and child.alive and child.outbound is not None and child.relief is None:
                return child
    return None


def _eap_name(sa: IkeSa) -> bytes | None:
    """Who authenticated itself by EAP: the IKE identity may then be anybody's."""
    return sa.remote_eap_id.data.lower() if sa.remote_eap_id is not None else None


def _crossed(sa: IkeSa, other: IkeSa) -> bool:
    """Each end made one of them, and both were on their way at once as far as this end can tell.

    Each end would delete the other one, as the elder. So both must choose the same, by what both know: the SPIs.
    """
    apart = abs(sa.created - other.created)
    return sa.initiator is not other.initiator and apart <= sa.host.options.give_up_after


def enforce_unique(sa: IkeSa, now: float, *, initial_contact: bool) -> None:
    """INITIAL_CONTACT drops elder IKE SAs of the same identities silently (§2.4); unique = replace deletes them."""
    if sa.config is None or sa.config.unique is UniquePolicy.NEVER or sa.remote_id is None:
        return
    for other in list(sa.host.ike_sas_with(sa.remote_id)):
        if not same_peer(sa, other) or other.successor is not None or other in (sa.parent, sa.replaces):
            continue
        if initial_contact and (other.established or 0) >= sa.created:
            # Both ends initiated at once: the peer said it before it had the other IKE SA, so it tells nothing of it.
            initial_contact = False
        if not initial_contact and sa.config.unique is UniquePolicy.REPLACE and _crossed(sa, other):
            loser = max(sa, other, key=lambda one: (one.spi_i, one.spi_r))
            sa.log("IKE", 1, f"deleting IKE_SA {loser.tag}, both ends initiated at once")
            loser.enqueue(DeleteIke("replaced"), first=True)
            if loser is sa:
                return
        elif initial_contact:
            sa.log("IKE", 1, f"destroying duplicate IKE_SA {other.tag} for peer, received INITIAL_CONTACT")
            lifecycle.destroy(other, "replaced", now)
        elif sa.config.unique is UniquePolicy.REPLACE:
            sa.log("IKE", 1, f"deleting duplicate IKE_SA {other.tag} for peer due to uniqueness policy")
            task = DeleteIke("replaced")
            if not sa.initiator and other.remote == sa.remote and not other.initiator:
                task.not_before = now + _REAUTHENTICATION  # its children are to be up before the old ones go
            other.enqueue(task, first=True)
