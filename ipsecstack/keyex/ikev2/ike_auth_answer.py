"""IKE_AUTH as responder: who the peer is, which connection that is for, and the first Child SA (RFC 7296 §1.2, §2.15,
§2.16, §2.21.2; several rounds: RFC 4739)."""

from __future__ import annotations

from ipsecstack.crypto.errors import CertificateError
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthClass, ConnectionConfig, Identity, UniquePolicy
from ipsecstack.keyex.eap.peer import Result, Step
from ipsecstack.keyex.ikev2 import (
    authenticate,
    childless,
    config_payload,
    extensions,
    lifecycle,
    negotiate,
    ppk,
    reauth,
    redirect,
    resumption,
)
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.eap_exchange import make_authenticator
from ipsecstack.keyex.ikev2.ike_auth import wrapped
from ipsecstack.keyex.ikev2.proposals import DEFAULT_IKE, permits
from ipsecstack.keyex.ikev2.rounds import MAX_EXCHANGES, Rounds
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.keyex.ikev2.unique import enforce_unique, same_peer
from ipsecstack.keyex.tickets import Session
from ipsecstack.wire.ikev2 import Auth, Delete, Eap, IdI, IdR, Message, Notify, NotifyType, Payload, Sa


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The first request: find the connection for the peer's identity, authenticate it and ourselves, make the child.
    With EAP, and with several rounds, more requests follow."""
    id_i = message.get(IdI)
    assert id_i is not None
    authenticate.note_certificate_requests(sa, message)
    sa.remote_id = identity.from_wire(id_i.type, id_i.data)
    try:
        childless.check(sa, message)
        config = _chosen(sa, message, id_i)
        sa.config = config
        childless.check(sa, message)
        assert sa.initial is not None
        rounds = sa.initial.rounds = Rounds(message, authenticate.as_resumed(sa, config))
        rounds.eap_only = message.notify(NotifyType.EAP_ONLY_AUTHENTICATION) is not None
        return _proceed(sa, rounds, message, now)
    except (AuthFailure, CertificateError) as failure:
        return _refusal(sa, wrapped(failure))
    except Refusal as refusal:
        return _refusal(sa, AuthFailure(refusal.notify.name, refusal.message), notify=refusal.notify)


def handle_next_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """A further request of an authentication that takes several."""
    rounds = sa.initial.rounds if sa.initial is not None else None
    assert rounds is not None
    rounds.exchanges += 1
    try:
        if rounds.exchanges > MAX_EXCHANGES:
            raise AuthFailure("AUTHENTICATION_FAILED", f"more than {MAX_EXCHANGES} IKE_AUTH exchanges")
        return _proceed(sa, rounds, message, now)
    except (AuthFailure, CertificateError) as failure:
        return _refusal(sa, wrapped(failure))


def handle_informational(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """The initiator gives up: it does not accept our AUTH (§2.21.2). Nothing else is taken before the IKE SA is up."""
    deleted = any(delete.protocol == SecurityProtocol.IKE for delete in message.all(Delete))
    if deleted or message.notify(NotifyType.AUTHENTICATION_FAILED) is not None:
        sa.log("IKE", 1, "the peer did not accept our authentication")
        lifecycle.failed(
            sa, None, "AUTHENTICATION_FAILED", "the peer did not accept our authentication", received=True
        )
        sa.enter(State.DELETING)
        sa.after_reply.append(lambda at: lifecycle.destroy(sa, "auth-failed", at))
    return []


def _refusal(
    sa: IkeSa,
    failure: AuthFailure,
    eap: bytes | None = None,
    notify: NotifyType = NotifyType.AUTHENTICATION_FAILED,
) -> list[Payload]:
    sa.log("IKE", 1, failure.message)
    lifecycle.failed(sa, None, failure.reason, failure.message)
    sa.after_reply.append(lambda at: refused(sa, at))
    told: list[Payload] = [Eap(eap)] if eap is not None else []
    return [*told, Notify(notify)]


def refused(sa: IkeSa, now: float) -> None:
    """After the refusal was sent: nothing stays but what answers a retransmission of the request."""
    sa.host.remember_refusal(sa, now)
    lifecycle.destroy(sa, "auth-failed", now)


# --- the rounds -------------------------------------------------------------------------------------------------------


def _proceed(sa: IkeSa, rounds: Rounds, message: Message, now: float) -> list[Payload]:
    """One request and what it leads to."""
    config = rounds.config
    first = rounds.theirs == 0 and rounds.own == 0
    own: list[Payload] = ppk.answer(sa) if first else []
    eap, id_i, auth = message.get(Eap), message.get(IdI), message.get(Auth)
    if rounds.eap is not None and rounds.keyed:
        if auth is None or rounds.peer_id is None or rounds.own_id is None:
            raise AuthFailure("AUTHENTICATION_FAILED", "the peer gives no AUTH after EAP")
        if rounds.theirs == 0:
            auth = ppk.choose(sa, config, message, auth)
            own += ppk.answer(sa)
        authenticate.verify_keyed(sa, rounds.key, rounds.peer_id, auth)
        _eap_done(sa, rounds)
        own.append(authenticate.build_keyed(sa, rounds.key, rounds.own_id))
        rounds.eap, rounds.key, rounds.keyed = None, None, False
        _peer_proven(rounds, message)
    elif rounds.eap is not None:
        if eap is None:
            raise AuthFailure("AUTHENTICATION_FAILED", "the peer does not go on with EAP")
        return _eap(sa, rounds, rounds.eap.receive(eap.data))
    elif id_i is not None and rounds.theirs < len(authenticate.remote_rounds(config)):
        own += _next_of_peer(sa, rounds, message, id_i, auth)
    elif id_i is not None or auth is not None or eap is not None:
        raise AuthFailure("AUTHENTICATION_FAILED", "the peer proves itself once too often")
    else:
        own += _own_round(sa, rounds)
    complete = (
        rounds.eap is None
        and rounds.theirs == len(authenticate.remote_rounds(config))
        and rounds.own >= len(authenticate.local_rounds(config))
    )
    if complete:
        _admit(sa, config)
        return _establish(sa, rounds, own, now)
    if sa.state is State.HALF_OPEN:
        sa.enter(State.AUTHENTICATING)
    return own


def _next_of_peer(sa: IkeSa, rounds: Rounds, message: Message, id_i: IdI, auth: Auth | None) -> list[Payload]:
    """A round of the peer begins: it is verified at once, or EAP starts. With the first one goes our first one."""
    config = rounds.config
    round_ = authenticate.remote_rounds(config)[rounds.theirs]
    rounds.peer_id = id_i
    sa.remote_id = identity.from_wire(id_i.type, id_i.data)
    if not identity.matches(round_.id, sa.remote_id):
        raise AuthFailure(
            "ID_MISMATCH", f"peer is '{sa.remote_id.text}', which is not configured for this round"
        )
    if (auth is None) is not (round_.auth is AuthClass.EAP):
        wanted = "EAP" if round_.auth is AuthClass.EAP else round_.auth.value
        raise AuthFailure("AUTHENTICATION_FAILED", f"{wanted} authentication required, peer used another")
    if auth is not None:
        if rounds.theirs:  # the first one is verified already, to choose the connection
            authenticate.note_certificate_requests(sa, message)
            authenticate.verify(sa, config, id_i, message, auth, round_)
        _peer_proven(rounds, message)
        if rounds.own == 0 and rounds.theirs == len(authenticate.remote_rounds(config)):
            _admit(sa, config)
    own = _own_round(sa, rounds)
    if auth is None:
        rounds.eap = make_authenticator(sa, round_, authenticate.local_rounds(config)[0])
        own += _eap(sa, rounds, rounds.eap.begin())
    return own


def _peer_proven(rounds: Rounds, message: Message) -> None:
    rounds.theirs += 1
    rounds.announced = message.notify(NotifyType.ANOTHER_AUTH_FOLLOWS) is not None
    left = len(authenticate.remote_rounds(rounds.config)) - rounds.theirs
    if left and not rounds.announced:
        raise AuthFailure("AUTHENTICATION_FAILED", f"another {left} rounds of authentication are required")
    if rounds.announced and not left:
        raise AuthFailure("AUTHENTICATION_FAILED", "the peer announces a round that is not configured")


def _own_round(sa: IkeSa, rounds: Rounds) -> list[Payload]:
    """Our next round, if one is left; the peer is told when another follows."""
    config = rounds.config
    own = authenticate.local_rounds(config)
    if rounds.own >= len(own):
        return []
    round_ = own[rounds.own]
    asked = _asked(rounds.first)
    sa.local_id = authenticate.own_identity(sa, config, round_, asked if rounds.own == 0 else None)
    rounds.own_id = IdR(sa.local_id.type, sa.local_id.data)
    rounds.own += 1
    if round_.auth is AuthClass.EAP:
        # We prove ourselves by a mutual EAP method alone, if the peer wants that (RFC 5998).
        if not rounds.eap_only or rounds.own > 1 or len(own) > 1:
            raise AuthFailure(
                "AUTHENTICATION_FAILED", "the peer does not take EAP alone as proof of who we are"
            )
        sa.local_auth = "eap"
        return [rounds.own_id]
    certificates, auth = authenticate.build(sa, config, rounds.own_id, round_)
    payloads: list[Payload] = [rounds.own_id, *certificates, auth]
    if rounds.own < len(own):
        if rounds.first.notify(NotifyType.MULTIPLE_AUTH_SUPPORTED) is None:
            raise AuthFailure("AUTHENTICATION_FAILED", "the peer takes only one round of authentication")
        payloads.append(Notify(NotifyType.ANOTHER_AUTH_FOLLOWS))
    return payloads


def _eap(sa: IkeSa, rounds: Rounds, step: Step) -> list[Payload]:
    assert rounds.eap is not None
    if step.result is Result.FAILURE:
        name = identity.of_user(rounds.eap.identity).text
        failure = AuthFailure(
            "AUTHENTICATION_FAILED", f"EAP authentication of '{name}' failed: {step.reason}"
        )
        return _refusal(sa, failure, step.packet)
    assert step.packet is not None
    if step.result is Result.SUCCESS:
        method = rounds.eap.method
        mutual = method is not None and method.mutual and rounds.eap.msk is not None
        if sa.local_auth == "eap" and not mutual:
            raise AuthFailure("AUTHENTICATION_FAILED", "the EAP method does not prove who we are")
        rounds.keyed, rounds.key = True, rounds.eap.msk
        keys = "MSK established" if rounds.key is not None else "no MSK established"
        sa.log("IKE", 1, f"EAP method EAP_{method.name.upper() if method else '?'} succeeded, {keys}")
    return [Eap(step.packet)]


def _eap_done(sa: IkeSa, rounds: Rounds) -> None:
    assert rounds.eap is not None
    assert sa.remote_id is not None
    name = rounds.eap.identity
    sa.remote_eap_id = identity.of_user(name) if name != identity.to_user(sa.remote_id) else sa.remote_id
    sa.remote_auth = "eap"
    sa.log("IKE", 1, f"authentication of '{sa.remote_id.text}' with EAP successful")


def _admit(sa: IkeSa, config: ConnectionConfig) -> None:
    """The peer is who it says: may it have another IKE SA?"""
    assert sa.remote_id is not None
    if config.unique is UniquePolicy.KEEP and any(
        same_peer(sa, other) for other in sa.host.ike_sas_with(sa.remote_id)
    ):
        raise AuthFailure("UNIQUE", f"an IKE_SA with '{sa.remote_id.text}' is up and is to be kept")
    if sa.host.count_with(sa.remote_id) >= sa.host.options.peer_limit:
        raise AuthFailure(
            "NO_ADDITIONAL_SAS",
            f"'{sa.remote_id.text}' has {sa.host.options.peer_limit} IKE_SAs, peer_limit",
        )


def _establish(sa: IkeSa, rounds: Rounds, own: list[Payload], now: float) -> list[Payload]:
    """Both ends are authenticated: the IKE SA is up, the peer gets its addresses and its Child SA."""
    initial, config, first = sa.initial, rounds.config, rounds.first
    assert initial is not None
    ni, nr = initial.peer_nonce, initial.nonce
    sa.initial = None
    lifecycle.establish(sa, now)
    payloads = own + reauth.announce(sa, now)
    contact = first.notify(NotifyType.INITIAL_CONTACT) is not None
    enforce_unique(sa, now, initial_contact=contact)
    payloads += extensions.auth_requested(sa, first, now)
    if redirect.sent_away(sa):
        return payloads
    try:
        payloads += config_payload.answer(sa, config, first)
        if first.get(Sa) is None:
            return payloads
        made, child = negotiate.answer_offer(sa, first, ni, nr, now, with_ke=False)
    except Refusal as refusal:
        sa.log("IKE", 1, refusal.message)
        sa.log("IKE", 1, "failed to establish CHILD_SA, keeping IKE_SA")
        lifecycle.failed(sa, None, refusal.notify.name, refusal.message)
        sa.counters.child_rejects_in += 1
        return [*payloads, Notify(refusal.notify, refusal.data)]
    lifecycle.announce_child(sa, child)
    return payloads + made


# --- the connection ---------------------------------------------------------------------------------------------------


def _asked(message: Message) -> Identity | None:
    """Whom the initiator wants to talk to."""
    id_r = message.get(IdR)
    return identity.from_wire(id_r.type, id_r.data) if id_r is not None else None


def _chosen(sa: IkeSa, message: Message, id_i: IdI) -> ConnectionConfig:
    """The connection that this peer authenticates for: by addresses, identities, method, and then its AUTH, if it has
    one yet.

    Among connections that would all do, one with as many rounds of authentication as the peer announces is taken, and
    one with a child for the traffic that is asked for.
    """
    assert sa.remote_id is not None
    auth = message.get(Auth)
    if sa.initial is not None and isinstance(sa.initial.resumed, Session):
        return resumption.resumed_by(sa, sa.initial.resumed, message, id_i, auth)
    if auth is not None:
        method = authenticate.class_of(auth.method)
        if method is None:
            raise AuthFailure(
                "AUTHENTICATION_FAILED", f"authentication method {auth.method} is not implemented"
            )
    else:
        method = AuthClass.EAP
    asked = _asked(message)
    matching = _matching(sa, method, asked)
    if not matching:
        wanted = asked.text if asked else "%any"
        raise AuthFailure(
            "NO_PEER_CONFIG",
            f"no matching peer config found for {sa.local.host}[{wanted}]...{sa.remote.host}[{sa.remote_id.text}] "
            f"with {method.value} authentication",
        )
    more = message.notify(NotifyType.ANOTHER_AUTH_FOLLOWS) is not None

    def rank(config: ConnectionConfig) -> tuple[bool, bool]:
        rounds_fit = auth is None or (len(authenticate.remote_rounds(config)) > 1) is more
        has_child = message.get(Sa) is not None and negotiate.find_child(sa, [config], message) is not None
        return not rounds_fit, not has_child

    ordered = sorted(matching, key=rank)
    if auth is None:
        sa.log("CFG", 1, f"selected peer config '{ordered[0].name}'")
        return ordered[0]
    failure: AuthFailure | None = None
    for config in ordered[:8] if method is AuthClass.PUBKEY else ordered:
        own = authenticate.local_round(config).id
        sa.local_id = own if own is not None and not own.is_any else asked
        sa.log("CFG", 1, f"selected peer config '{config.name}'")
        try:
            authenticate.verify(sa, config, id_i, message, ppk.choose(sa, config, message, auth))
        except AuthFailure as error:
            failure = failure or error
            continue
        return config
    assert failure is not None
    raise failure


def _matching(sa: IkeSa, method: AuthClass, asked: Identity | None) -> list[ConnectionConfig]:
    host = sa.host
    assert sa.remote_id is not None
    assert sa.suite is not None
    candidates = {config.name: config for config in host.candidates(sa.local, sa.remote)}
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
    return matching
