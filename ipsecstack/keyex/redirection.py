"""Redirection (RFC 5685) on an endpoint: the operator's command, and the attempt at another gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex import commands, identity, lookup
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import Identity
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.features import Features
from ipsecstack.keyex.ikev2.redirect import RedirectPeer, gateway_of
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.ikev2.task import Task

if TYPE_CHECKING:
    from ipsecstack.keyex.endpoint import Endpoint


def redirect(
    endpoint: Endpoint,
    gateway: str,
    ike: str | None,
    ike_id: int | None,
    peer_ip: str | None,
    peer_id: Identity | None,
    now: float,
) -> int:
    """Tell the clients of matching established IKE SAs to go to ``gateway``; how many there are."""
    try:
        target = gateway_of(gateway)
    except ValueError as error:
        raise CommandError(str(error)) from None
    found = [
        sa
        for sa in endpoint.ike_sas_of(ike)
        if sa.state is State.ESTABLISHED
        and ike_id in (None, sa.uniqueid)
        and (peer_ip is None or lookup.match_address([peer_ip], sa.remote.host))
        and (peer_id is None or (sa.remote_id is not None and identity.matches(peer_id, sa.remote_id)))
    ]
    if not found:
        raise CommandError("no matching SAs to redirect found")
    able = [sa for sa in found if sa.features.redirectable]
    if not able:
        raise CommandError("the peers that match do not support redirection (RFC 5685)")
    for sa in able:
        if not any(isinstance(task, RedirectPeer) for task in sa.tasks()):
            sa.enqueue(RedirectPeer(target))
            machine.pump(sa, now)
    return len(able)


def begin_at(
    endpoint: Endpoint,
    sa: IkeSa,
    gateway: IPAddress,
    redirects: tuple[float, ...],
    children: list[str],
    tickets: list[int],
    waiting: list[Task],
    now: float,
) -> bool:
    """The client's attempt at the gateway that it was sent to."""
    config = endpoint.connection(sa.name) or sa.config
    if endpoint.closing or config is None:
        return False
    features = Features(redirects=redirects, redirected_from=sa.remote.host)
    try:
        again = commands.begin(
            endpoint,
            config,
            children,
            tickets,
            now,
            tries=max(sa.tries, 1),
            gateway=gateway,
            features=features,
        )
    except CommandError:
        return False
    tickets.clear()
    for task in waiting:
        again.enqueue(task)
    return True
