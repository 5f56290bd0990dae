"""IKE_AUTH: identities, authentication, and the first Child SA (RFC 7296 §1.2, §2.4, §2.15, §2.21.2)."""

from __future__ import annotations

from ipsecstack.crypto.errors import CertificateError
from ipsecstack.keyex import identity
from ipsecstack.keyex.base import AuthClass, ConnectionConfig, UniquePolicy
from ipsecstack.keyex.ikev2 import authenticate, extensions, lifecycle, negotiate
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.create_child import NewChild
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.negotiate import ChildFailure, ChildOffer
from ipsecstack.keyex.ikev2.proposals import DEFAULT_IKE, permits
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Refusal, Task
from ipsecstack.wire.ikev2 import Auth, IdI, IdR, Message, Notify, NotifyType, Payload, Sa


class IkeAuth(Task):
    """Our IKE_AUTH request, with the first child that is to come up; the others follow in CREATE_CHILD_SA."""

    kind = Kind.IKE_AUTH
    label = "IKE_AUTH"
    moves = False

    def __init__(self, children: list[str]) -> None:
        super().__init__()
        self.children = children
        self.offer: ChildOffer | None = None
        self.failure: AuthFailure | None = None

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        config, initial = sa.config, sa.initial
        assert config is not None
        assert initial is not None
        authenticated = authenticate.remote_round(config)
        if (
            authenticated.id is not None
            and not authenticated.id.is_any
            and not _is_pattern(authenticated.id.text)
        ):
            sa.remote_id = authenticated.id
        try:
            sa.local_id = authenticate.own_identity(sa, config)
            id_i = IdI(sa.local_id.type, sa.local_id.data)
            certificates, auth = authenticate.build(sa, config, id_i)
        except (AuthFailure, CertificateError) as failure:
            self.failure = (
                failure if isinstance(failure, AuthFailure) else AuthFailure("CERTIFICATE", str(failure))
            )
            return None
        payloads: list[Payload] = [id_i, *certificates]
        if _is_first(sa):
            payloads.append(Notify(NotifyType.INITIAL_CONTACT))
        payloads += authenticate.certificate_request(sa, [config])
        if sa.remote_id is not None:
            payloads.append(IdR(sa.remote_id.type, sa.remote_id.data))
        payloads.append(auth)
        payloads += extensions.auth_request(sa)
        child = (
            next((c for c in config.children if c.name == self.children[0]), None) if self.children else None
        )
        if child is not None:
            self.offer = negotiate.make_offer(sa, child, with_ke=False)
            sa.log("IKE", 0, f"establishing CHILD_SA {child.name}")
            payloads += negotiate.offer_payloads(self.offer)
        return payloads

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        if self.offer is not None:
            lifecycle.release_spi(sa, self.offer.spi_in)
            self.offer = None
        sa.host.finish(self.tickets, False, f"establishing IKE_SA {sa.name} failed: {reason}")


def _is_pattern(text: str) -> bool:
    return "*" in text


def _is_first(sa: IkeSa) -> bool:
    """No other IKE SA with this peer is known here: INITIAL_CONTACT may be sent (§2.4)."""
    if sa.config is not None and sa.config.unique is UniquePolicy.NEVER:
        return False
    return not any(
        other is not sa and other.established is not None for other in sa.host.ike_sas_at(sa.remote.host)
    )


def give_up(sa: IkeSa, task: IkeAuth, now: float) -> None:
    """We cannot even make our AUTH: end the attempt."""
    failure = task.failure
    assert failure is not None
    _refuse(sa, task, failure, now, tell_peer=False)


def _refuse(
    sa: IkeSa, task: IkeAuth, failure: AuthFailure, now: float, *, tell_peer: bool, received: bool = False
) -> None:
    sa.log("IKE", 1, failure.message)
    lifecycle.failed(sa, None, failure.reason, failure.message, received=received)
    task.abort(sa, failure.message, now)
    if not tell_peer:
        lifecycle.destroy(sa, "auth-failed", now)
        return
    # The responder believes that the IKE SA is up: tell it (§2.21.2).
    sa.queue.clear()
    sa.enqueue(DeleteIke("auth-failed", NotifyType.AUTHENTICATION_FAILED))


def handle_response(sa: IkeSa, task: IkeAuth, message: Message, now: float) -> None:
    """Authenticate the responder, then take the Child SA or the reason why there is none."""
    config, initial = sa.config, sa.initial
    assert config is not None
    assert initial is not None
    id_r, auth = message.get(IdR), message.get(Auth)
    error = message.error()
    if id_r is None or auth is None:
        name = error.name if error is not None else "INVALID_SYNTAX"
        refusal = AuthFailure(name, f"received {name} notify error")
        _refuse(sa, task, refusal, now, tell_peer=False, received=error is not None)
        return
    try:
        sa.remote_id = identity.from_wire(id_r.type, id_r.data)
        wanted = authenticate.remote_round(config).id
        if not identity.matches(wanted, sa.remote_id):
            wanted_text = wanted.text if wanted else "%any"
            raise AuthFailure(
                "ID_MISMATCH", f"peer is '{sa.remote_id.text}', but '{wanted_text}' is required"
            )
        authenticate.verify(sa, config, id_r, message, auth)
    except (AuthFailure, CertificateError) as failure:
        wrapped = failure if isinstance(failure, AuthFailure) else AuthFailure("CERTIFICATE", str(failure))
        _refuse(sa, task, wrapped, now, tell_peer=True)
        return
    sa.initial = None
    lifecycle.establish(sa, now)
    extensions.auth_answered(sa, message, now)
    enforce_unique(sa, now, initial_contact=False)
    _first_child(sa, task, message, initial.nonce, initial.peer_nonce, now)
    for name in task.children[1:]:
        child = next((c for c in config.children if c.name == name), None)
        if child is not None:
            follow = NewChild(child)
            follow.tickets = task.tickets[1:2]
            del task.tickets[1:2]
            sa.enqueue(follow)
    sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} established")


def _first_child(sa: IkeSa, task: IkeAuth, message: Message, ni: bytes, nr: bytes, now: float) -> None:
    offer, task.offer = task.offer, None
    if offer is None:
        return
    tickets, task.tickets = task.tickets[:1], task.tickets[1:]
    name = offer.config.name
    error = message.error()
    try:
        if error is not None and message.get(Sa) is None:
            raise ChildFailure(error.name, f"received {error.name} notify, no CHILD_SA built", received=True)
        child = negotiate.conclude_offer(sa, offer, message, ni, nr, now)
    except ChildFailure as failure:
        sa.log("IKE", 1, failure.message)
        sa.log("IKE", 1, "failed to establish CHILD_SA, keeping IKE_SA")
        lifecycle.failed(sa, name, failure.reason, failure.message, received=failure.received)
        if failure.received:
            sa.counters.child_rejects_out += 1
        else:
            sa.counters.child_invalids_out += 1
        if failure.at_peer:
            sa.enqueue(DeleteChild.of_spi(offer.spi_in, failure.protocol))
        lifecycle.release_spi(sa, offer.spi_in)
        sa.host.finish(tickets, False, f"establishing CHILD_SA '{name}' failed: {failure.reason}")
        return
    lifecycle.announce_child(sa, child)
    sa.host.finish(tickets, True, f"CHILD_SA {child.tag} established")


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """As responder: find the connection for the peer's identity, authenticate it and ourselves, make the child."""
    initial = sa.initial
    assert initial is not None
    id_i, id_r, auth = message.get(IdI), message.get(IdR), message.get(Auth)
    assert id_i is not None
    authenticate.note_certificate_requests(sa, message)
    sa.remote_id = identity.from_wire(id_i.type, id_i.data)
    try:
        if auth is None:
            raise AuthFailure(
                "AUTHENTICATION_FAILED", "peer wants to authenticate with EAP, which is not configured"
            )
        config = _authenticated_config(sa, message, id_i, id_r, auth)
        sa.config = config
        sa.local_id = authenticate.own_identity(sa, config)
        if config.unique is UniquePolicy.KEEP and any(
            _same_peer(sa, other) for other in sa.host.ike_sas_with(sa.remote_id)
        ):
            raise AuthFailure("UNIQUE", f"an IKE_SA with '{sa.remote_id.text}' is up and is to be kept")
        if sa.host.count_with(sa.remote_id) >= sa.host.options.peer_limit:
            raise AuthFailure(
                "NO_ADDITIONAL_SAS",
                f"'{sa.remote_id.text}' has {sa.host.options.peer_limit} IKE_SAs, peer_limit",
            )
        own_id = IdR(sa.local_id.type, sa.local_id.data)
        certificates, own_auth = authenticate.build(sa, config, own_id)
    except (AuthFailure, CertificateError) as failure:
        wrapped = failure if isinstance(failure, AuthFailure) else AuthFailure("CERTIFICATE", str(failure))
        sa.log("IKE", 1, wrapped.message)
        lifecycle.failed(sa, None, wrapped.reason, wrapped.message)
        sa.after_reply.append(lambda at: refused(sa, at))
        return [Notify(NotifyType.AUTHENTICATION_FAILED)]
    ni, nr = initial.peer_nonce, initial.nonce
    sa.initial = None
    lifecycle.establish(sa, now)
    contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
    enforce_unique(sa, now, initial_contact=contact)
    payloads: list[Payload] = [own_id, *certificates, own_auth]
    payloads += extensions.auth_requested(sa, message, now)
    if message.get(Sa) is None:
        return payloads
    try:
        made, child = negotiate.answer_offer(sa, message, ni, nr, now, with_ke=False)
    except Refusal as refusal:
        sa.log("IKE", 1, refusal.message)
        sa.log("IKE", 1, "failed to establish CHILD_SA, keeping IKE_SA")
        lifecycle.failed(sa, None, refusal.notify.name, refusal.message)
        sa.counters.child_rejects_in += 1
        return [*payloads, Notify(refusal.notify, refusal.data)]
    lifecycle.announce_child(sa, child)
    return payloads + made


def refused(sa: IkeSa, now: float) -> None:
    """As responder, after the refusal was sent: nothing stays but what answers a retransmission of the request."""
    sa.host.remember_refusal(sa, now)
    lifecycle.destroy(sa, "auth-failed", now)


def _authenticated_config(
    sa: IkeSa, message: Message, id_i: IdI, id_r: IdR | None, auth: Auth
) -> ConnectionConfig:
    """The connection that this peer authenticates for: by addresses, identities, method, and then its AUTH.

    Among connections that would all do, one with a child for the traffic that is asked for is taken.
    """
    host = sa.host
    assert sa.remote_id is not None
    assert sa.suite is not None
    candidates = {config.name: config for config in host.candidates(sa.local, sa.remote)}
    method = authenticate.class_of(auth.method)
    if method is None:
        raise AuthFailure("AUTHENTICATION_FAILED", f"authentication method {auth.method} is not implemented")
    asked = identity.from_wire(id_r.type, id_r.data) if id_r is not None else None
    matching: list[ConnectionConfig] = []
    for entry in host.pad.lookup(sa.remote_id.type, sa.remote_id.data, method.value):
        config = candidates.get(entry.name)
        if config is None:
            continue
        own = authenticate.local_round(config).id
        if asked is not None and own is not None and not identity.matches(own, asked):
            continue
        if not permits(config.proposals or DEFAULT_IKE, sa.suite):
            # IKE_SA_INIT was answered for another connection between these addresses, with a suite of that one.
            sa.log("CFG", 1, f"peer config '{config.name}' does not permit {sa.suite}, skipped")
            continue
        matching.append(config)
    if not matching:
        wanted = asked.text if asked else "%any"
        raise AuthFailure(
            "NO_PEER_CONFIG",
            f"no matching peer config found for {sa.local.host}[{wanted}]...{sa.remote.host}[{sa.remote_id.text}] "
            f"with {method.value} authentication",
        )
    with_child = [
        c for c in matching if message.get(Sa) and negotiate.find_child(sa, [c], message) is not None
    ]
    ordered = with_child + [c for c in matching if c not in with_child]
    failure: AuthFailure | None = None
    for config in ordered[:8] if method is AuthClass.PUBKEY else ordered:
        own = authenticate.local_round(config).id
        sa.local_id = own if own is not None and not own.is_any else asked
        sa.log("CFG", 1, f"selected peer config '{config.name}'")
        try:
            authenticate.verify(sa, config, id_i, message, auth)
        except AuthFailure as error:
            failure = failure or error
            continue
        return config
    assert failure is not None
    raise failure


def _same_peer(sa: IkeSa, other: IkeSa) -> bool:
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
    )


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
        if not _same_peer(sa, other) or other.successor is not None or sa.parent is other:
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
            other.enqueue(DeleteIke("replaced"), first=True)
