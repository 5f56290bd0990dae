"""IKE_AUTH as initiator: identities, authentication of both ends, the first Child SA (RFC 7296 §1.2, §2.15, §2.16).

With EAP and with several rounds (RFC 4739) it takes more than one exchange; a ``Conversation`` holds them together.
"""

from __future__ import annotations

from ipsecstack.crypto.errors import CertificateError
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthClass, Identity
from ipsecstack.keyex.eap.peer import Result
from ipsecstack.keyex.ikev2 import (
    authenticate,
    config_payload,
    extensions,
    lifecycle,
    negotiate,
    ppk,
    reauth,
    redirect,
)
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.create_child import NewChild, Packet, after_auth, ask_for_more
from ipsecstack.keyex.ikev2.eap_exchange import make_peer
from ipsecstack.keyex.ikev2.informational import DeleteChild, DeleteIke
from ipsecstack.keyex.ikev2.negotiate import ChildFailure, ChildOffer
from ipsecstack.keyex.ikev2.rounds import MAX_EXCHANGES, Conversation
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.ikev2.unique import enforce_unique, is_first
from ipsecstack.wire.ikev2 import Auth, Eap, IdI, IdR, Message, Notify, NotifyType, Payload, Sa

_NO_CHILD = frozenset(
    {
        NotifyType.NO_PROPOSAL_CHOSEN,
        NotifyType.SINGLE_PAIR_REQUIRED,
        NotifyType.NO_ADDITIONAL_SAS,
        NotifyType.INTERNAL_ADDRESS_FAILURE,
        NotifyType.FAILED_CP_REQUIRED,
        NotifyType.TS_UNACCEPTABLE,
        NotifyType.INVALID_SELECTORS,
        NotifyType.TEMPORARY_FAILURE,
        NotifyType.INVALID_SYNTAX,
        NotifyType.AUTHORIZATION_FAILED,
    }
)
"""Errors that leave the IKE SA up, without its Child SA (§1.2)."""


class IkeAuth(Task):
    """One IKE_AUTH request. The first one asks for the first child that is to come up; the others follow in
    CREATE_CHILD_SA."""

    kind = Kind.IKE_AUTH
    label = "IKE_AUTH"
    moves = False

    def __init__(self, children: list[str], conversation: Conversation | None = None) -> None:
        super().__init__()
        self.children = children
        self.conversation = conversation or Conversation(children)
        self.packet: Packet | None = None
        self.offer: ChildOffer | None = None
        self.failure: AuthFailure | None = None

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        talk = self.conversation
        talk.exchanges += 1
        try:
            if talk.exchanges > MAX_EXCHANGES:
                raise AuthFailure("AUTHENTICATION_FAILED", f"more than {MAX_EXCHANGES} IKE_AUTH exchanges")
            if not talk.started:
                return self._first(sa)
            return _following(sa, talk)
        except (AuthFailure, CertificateError) as failure:
            self.failure = wrapped(failure)
            return None

    def _first(self, sa: IkeSa) -> list[Payload]:
        config, talk = sa.config, self.conversation
        assert config is not None
        config = authenticate.as_resumed(sa, config)
        talk.local, talk.remote = authenticate.local_rounds(config), authenticate.remote_rounds(config)
        talk.started = True
        sa.remote_id = _name_of(talk.remote[0].id)
        begun = _begin_round(sa, talk)
        payloads, proof = (
            [p for p in begun if not isinstance(p, Auth)],
            [p for p in begun if isinstance(p, Auth)],
        )
        if is_first(sa):
            payloads.append(Notify(NotifyType.INITIAL_CONTACT))
        payloads += authenticate.certificate_request(sa, [config])
        if sa.remote_id is not None:
            payloads.append(IdR(sa.remote_id.type, sa.remote_id.data))
        payloads += proof
        if _may_stand_alone(talk):
            payloads.append(Notify(NotifyType.EAP_ONLY_AUTHENTICATION))
        payloads += config_payload.request(sa, config)
        child = (
            next((c for c in config.children if c.name == self.children[0]), None) if self.children else None
        )
        if child is not None:
            assert sa.initial is not None
            self.packet = packet = sa.initial.packet
            selectors = sa.initial.selectors
            if selectors is None:
                selectors = config_payload.selectors(sa, config, child)
            self.offer = negotiate.make_offer(sa, child, with_ke=False, packet=packet, selectors=selectors)
            sa.log("IKE", 0, f"establishing CHILD_SA {child.name}")
            payloads += negotiate.offer_payloads(self.offer)
        if sa.features.multiple_auth:
            payloads.append(Notify(NotifyType.MULTIPLE_AUTH_SUPPORTED))
        return payloads + extensions.auth_request(sa)

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        if self.offer is not None:
            lifecycle.release_spi(sa, self.offer.spi_in)
            self.offer = None
        sa.host.finish(self.tickets, False, f"establishing IKE_SA {sa.name} failed: {reason}")


def wrapped(failure: AuthFailure | CertificateError) -> AuthFailure:
    return failure if isinstance(failure, AuthFailure) else AuthFailure("CERTIFICATE", str(failure))


def _name_of(id_: Identity | None) -> Identity | None:
    """A peer that is configured by one identity; None for any and for patterns."""
    return id_ if id_ is not None and not id_.is_any and not authenticate.is_pattern(id_) else None


def _may_stand_alone(talk: Conversation) -> bool:
    """The responder may leave its AUTH to a mutual EAP method: both ends are configured for EAP (RFC 5998)."""
    return talk.local[0].auth is AuthClass.EAP and talk.remote[0].auth is AuthClass.EAP


# --- our rounds -------------------------------------------------------------------------------------------------------


def _begin_round(sa: IkeSa, talk: Conversation) -> list[Payload]:
    """IDi with certificates and AUTH, or alone when EAP is to follow."""
    config = sa.config
    assert config is not None
    round_ = talk.local[talk.own]
    sa.local_id = authenticate.own_identity(sa, config, round_)
    talk.own_id = IdI(sa.local_id.type, sa.local_id.data)
    talk.keyed, talk.key, talk.packet, talk.eap = False, None, None, None
    if round_.auth is AuthClass.EAP:
        remote = talk.remote[min(talk.theirs, len(talk.remote) - 1)]
        talk.eap = make_peer(sa, round_, remote)
        return [talk.own_id]
    own_id = talk.own_id
    certificates, auth = authenticate.build(sa, config, own_id, round_)
    proof = ppk.sign(sa, auth, lambda: authenticate.build(sa, config, own_id, round_)[1])
    return [own_id, *certificates, *_with_auth(sa, talk, proof)]


def _with_auth(sa: IkeSa, talk: Conversation, proof: list[Payload]) -> list[Payload]:
    """Our AUTH with what belongs to it, and the word that another round follows."""
    talk.sent_auth = True
    if talk.own + 1 == len(talk.local):
        return proof
    if not sa.features.multiple_auth:
        raise AuthFailure("AUTHENTICATION_FAILED", "the responder takes only one round of authentication")
    return [*proof, Notify(NotifyType.ANOTHER_AUTH_FOLLOWS)]


def _following(sa: IkeSa, talk: Conversation) -> list[Payload]:
    """What an IKE_AUTH request after the first one has."""
    if talk.packet is not None:
        packet, talk.packet = talk.packet, None
        return [Eap(packet)]
    if talk.keyed:
        assert talk.own_id is not None
        sa.local_auth = "eap"
        own_id, key = talk.own_id, talk.key
        plain = authenticate.build_keyed(sa, key, own_id)
        return _with_auth(sa, talk, ppk.sign(sa, plain, lambda: authenticate.build_keyed(sa, key, own_id)))
    if talk.own < len(talk.local):
        return _begin_round(sa, talk)
    return []  # the responder has another round


# --- the responder's answers ------------------------------------------------------------------------------------------


def handle_response(sa: IkeSa, task: IkeAuth, message: Message, now: float) -> None:
    """Authenticate the responder, go on with ours, then take the Child SA or the reason why there is none."""
    talk = task.conversation
    try:
        done = _answered(sa, talk, message)
    except (AuthFailure, CertificateError) as error:
        failure = wrapped(error)
        received = message.error() is not None
        # Who has our AUTH may hold the IKE SA for established, or wait for us: it is told (§2.21.2).
        refuse(sa, task, failure, now, tell_peer=not received, received=received)
        return
    if not done:
        again = IkeAuth(task.children, talk)
        again.tickets, task.tickets = task.tickets, []
        again.offer, task.offer = task.offer, None
        sa.enqueue(again, first=True)
        return
    _establish(sa, task, message, now)


def _answered(sa: IkeSa, talk: Conversation, message: Message) -> bool:
    """One response; True when both ends are authenticated. AuthFailure says what is wrong."""
    auth, eap = message.get(Auth), message.get(Eap)
    error = message.error()
    id_r = message.get(IdR)
    if error is not None and (error.type not in _NO_CHILD or (id_r is None and talk.peer_id is None)):
        raise AuthFailure(error.name, f"received {error.name} notify error")
    ppk.settle(sa, message)
    if id_r is not None:
        _peer_round(sa, talk, message, id_r, auth)
    elif talk.keyed and talk.sent_auth:
        if auth is None or talk.peer_id is None:
            raise AuthFailure("INVALID_SYNTAX", "the responder gives no AUTH after EAP")
        authenticate.verify_keyed(sa, talk.key, talk.peer_id, auth)
        if talk.eap_only:
            sa.remote_auth = "eap"
            talk.theirs += 1
            talk.eap_only = False
        sa.log("IKE", 1, "authentication with EAP successful")
    elif auth is not None or talk.peer_id is None:
        raise AuthFailure("INVALID_SYNTAX", "the responder does not say who it is")
    if talk.sent_auth:
        talk.own, talk.sent_auth, talk.keyed, talk.eap = talk.own + 1, False, False, None
    if eap is not None:
        _eap(sa, talk, eap)
    elif talk.eap is not None and not talk.keyed:
        raise AuthFailure("INVALID_SYNTAX", "the responder does not go on with EAP")
    if message.notify(NotifyType.ANOTHER_AUTH_FOLLOWS) is not None:
        if talk.theirs >= len(talk.remote):
            raise AuthFailure(
                "AUTHENTICATION_FAILED", "the responder announces a round that is not configured"
            )
        return False
    if talk.own < len(talk.local):
        return False
    if talk.theirs < len(talk.remote):
        raise AuthFailure(
            "AUTHENTICATION_FAILED",
            f"the responder proved itself {talk.theirs} times, not {len(talk.remote)}",
        )
    return True


def _peer_round(sa: IkeSa, talk: Conversation, message: Message, id_r: IdR, auth: Auth | None) -> None:
    """A round of the responder."""
    config = sa.config
    assert config is not None
    if talk.theirs >= len(talk.remote):
        raise AuthFailure("AUTHENTICATION_FAILED", "the responder proves itself once too often")
    round_ = talk.remote[talk.theirs]
    sa.remote_id = identity.from_wire(id_r.type, id_r.data)
    talk.peer_id = id_r
    if not identity.matches(round_.id, sa.remote_id):
        wanted_text = round_.id.text if round_.id else "%any"
        raise AuthFailure("ID_MISMATCH", f"peer is '{sa.remote_id.text}', but '{wanted_text}' is required")
    if auth is None:
        if not _may_stand_alone(talk) or talk.theirs or message.get(Eap) is None:
            raise AuthFailure("AUTHENTICATION_FAILED", "the responder does not prove who it is")
        talk.eap_only = True
        sa.log("IKE", 1, "allow mutual EAP-only authentication")
        return
    authenticate.verify(sa, config, id_r, message, auth, round_)
    talk.theirs += 1


def _eap(sa: IkeSa, talk: Conversation, payload: Eap) -> None:
    if talk.eap is None or talk.keyed:
        raise AuthFailure("INVALID_SYNTAX", "the responder wants EAP, which is not configured here")
    step = talk.eap.receive(payload.data)
    if step.result is Result.FAILURE:
        raise AuthFailure("AUTHENTICATION_FAILED", step.reason)
    talk.packet = step.packet
    if step.result is not Result.SUCCESS:
        return
    method = talk.eap.method
    if talk.eap_only and (method is None or not method.mutual or talk.eap.msk is None):
        raise AuthFailure(
            "AUTHENTICATION_FAILED", "the EAP method does not prove the responder, and nothing else did"
        )
    talk.keyed, talk.key = True, talk.eap.msk
    name = method.name.upper() if method is not None else "?"
    keys = "MSK established" if talk.key is not None else "no MSK established"
    sa.log("IKE", 1, f"EAP method EAP_{name} succeeded, {keys}")


# --- how it ends ------------------------------------------------------------------------------------------------------


def give_up(sa: IkeSa, task: IkeAuth, now: float) -> None:
    """We cannot even make our AUTH: end the attempt. A responder that waits for IKE_AUTH takes nothing else: its
    half-open IKE SA runs out by itself."""
    failure = task.failure
    assert failure is not None
    refuse(sa, task, failure, now, tell_peer=False)


def refuse(
    sa: IkeSa, task: IkeAuth, failure: AuthFailure, now: float, *, tell_peer: bool, received: bool = False
) -> None:
    """End the attempt."""
    sa.log("IKE", 1, failure.message)
    lifecycle.failed(sa, None, failure.reason, failure.message, received=received)
    task.abort(sa, failure.message, now)
    if not tell_peer:
        lifecycle.destroy(sa, "auth-failed", now)
        return
    sa.queue.clear()
    sa.enqueue(DeleteIke("auth-failed", NotifyType.AUTHENTICATION_FAILED))


def _establish(sa: IkeSa, task: IkeAuth, message: Message, now: float) -> None:
    config, initial = sa.config, sa.initial
    assert config is not None
    assert initial is not None
    ni, nr = initial.nonce, initial.peer_nonce
    config_payload.answered(sa, config, message)
    sa.initial = None
    lifecycle.establish(sa, now)
    reauth.lifetime(sa, message, now)
    enforce_unique(sa, now, initial_contact=False)
    extensions.auth_answered(sa, message, now)
    if redirect.followed_last(sa, task, task.children, message, now):
        return
    _first_child(sa, task, message, ni, nr, now)
    for name in task.children[1:]:
        child = next((c for c in config.children if c.name == name), None)
        if child is not None:
            follow = NewChild(child)
            follow.tickets = task.tickets[1:2]
            del task.tickets[1:2]
            sa.enqueue(follow)
    sa.host.finish(task.tickets, True, f"IKE_SA {sa.tag} established")
    reauth.completed(sa, now)


def _first_child(sa: IkeSa, task: IkeAuth, message: Message, ni: bytes, nr: bytes, now: float) -> None:
    offer, task.offer = task.offer, None
    if offer is None:
        return
    tickets, task.tickets = task.tickets[:1], task.tickets[1:]
    name = offer.config.name
    error = message.error()
    try:
        config_payload.narrow(sa, offer)
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
        if failure.received and after_auth(sa, offer, failure.reason, tickets, task.packet, now):
            return
        sa.host.finish(tickets, False, f"establishing CHILD_SA '{name}' failed: {failure.reason}")
        return
    lifecycle.announce_child(sa, child)
    sa.host.finish(tickets, True, f"CHILD_SA {child.tag} established")
    ask_for_more(sa, offer, message, child, task.packet)
