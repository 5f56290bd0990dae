"""Session resumption: a client that lost its IKE SA shows a ticket instead of doing it all again (RFC 5723).

The gateway gives the ticket inside of the IKE SA. When contact was lost, IKE_SESSION_RESUME stands in for
IKE_SA_INIT, without a key exchange: keys come from the old SK_d and new nonces. In IKE_AUTH both ends prove with SK_p
that they have them. A ticket is good for one IKE SA, for its lifetime, and as long as the connection authenticates its
peers in the same way; it ends with a Delete of its IKE SA.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from ipsecstack.crypto import ikekeys, prf
from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex import identity
from ipsecstack.keyex.configuration import AuthClass, ConnectionConfig
from ipsecstack.keyex.ikev2 import authenticate, extensions, keymat, lifecycle, nat
from ipsecstack.keyex.ikev2.authenticate import AuthFailure
from ipsecstack.keyex.ikev2.extensions import Extension
from ipsecstack.keyex.ikev2.ike_auth import IkeAuth
from ipsecstack.keyex.ikev2.ike_sa_init import IkeInit, ike_proposals
from ipsecstack.keyex.ikev2.negotiate import NONCE_OCTETS
from ipsecstack.keyex.ikev2.proposals import permits, select
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import Kind, State
from ipsecstack.keyex.ikev2.task import Task
from ipsecstack.keyex.tickets import MAX_OCTETS, NUMBER_OCTETS, Held, Session, TicketError
from ipsecstack.wire.ikev2 import Auth, IdI, Message, Nonce, Notify, NotifyType, Payload

MAX_COOKIES = 3
SILENT_AFTER = 2
"""Retransmissions after which the full exchange is tried instead."""
_MIN_LIFETIME = 10
_KEPT_AFTER = frozenset({"timeout"})
"""How an IKE SA may end for its ticket to stay good: the peer is not reached any more, nobody deleted it."""


def policy(config: ConnectionConfig) -> bytes:
    """A digest of how a connection authenticates and what its peers get: another one makes tickets void."""
    said = (config.local, config.remote, config.pools, config.ppk_id, config.ppk_required)
    return hashlib.sha256(repr(said).encode()).digest()


# --- tickets inside of an IKE SA --------------------------------------------------------------------------------------


class RequestTicket(Task):
    """Asks for a ticket, for the first one of a rekeyed IKE SA or before the old one ends (§4.1)."""

    kind = Kind.INFORMATIONAL
    label = "IKE_TICKET"
    moves = False

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        return [Notify(NotifyType.TICKET_REQUEST)] if sa.state is State.ESTABLISHED and _wanted(sa) else None

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        _take(sa, message, now)


class Resumption(Extension):
    """Asks for tickets, gives them, and forgets them."""

    def auth_request(self, sa: IkeSa) -> list[Payload]:
        return [Notify(NotifyType.TICKET_REQUEST)] if _wanted(sa) else []

    def auth_requested(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        if sa.resumed_from is not None:
            _replace_old(sa, now)
        return _give(sa, message, now)

    def auth_answered(self, sa: IkeSa, message: Message, now: float) -> None:
        if sa.resumed_from is not None:
            _count_resumed(sa, now)
        _take(sa, message, now)

    def informed(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        if sa.features.ticket_awaited and message.notify(NotifyType.TICKET_LT_OPAQUE) is not None:
            _take(sa, message, now)
        return _give(sa, message, now)

    def rekeyed(self, old: IkeSa, new: IkeSa) -> None:
        """The old SK_d goes, and with it what the ticket is about. A gateway takes it back when the old IKE SA is
        deleted: its client may never have heard of the new one."""
        asked = _forget(old) or old.ticket_at is not None
        old.ticket_at = None
        if asked and _wanted(new):
            new.enqueue(RequestTicket())

    def ended(self, sa: IkeSa, reason: str) -> None:
        if reason not in _KEPT_AFTER:
            _withdraw(sa)
            _forget(sa)


def _wanted(sa: IkeSa) -> bool:
    return sa.config is not None and sa.config.session_resumption


def _withdraw(sa: IkeSa) -> None:
    """As gateway: the ticket of this IKE SA is not good any more."""
    for number, issued, expires in sa.ticket_numbers:
        sa.host.sessions.spent.add(number, issued, expires, sa.host.wall_clock())
    sa.ticket_numbers = []


def _forget(sa: IkeSa) -> bool:
    """As client: the ticket of this IKE SA is not good any more; whether there was one."""
    sessions = sa.host.sessions
    held = sessions.held.get(sa.name)
    if held is None or (held.spi_i, held.spi_r) != (sa.spi_i, sa.spi_r):
        return False
    del sessions.held[sa.name]
    return True


def _give(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """As gateway: a ticket, if one is asked for and the connection allows it (§4.2)."""
    if message.notify(NotifyType.TICKET_REQUEST) is None:
        return []
    host, config = sa.host, sa.config
    lifetime = _lifetime(sa, now)
    if config is None or not config.session_resumption or lifetime < _MIN_LIFETIME:
        return [Notify(NotifyType.TICKET_NACK)]
    assert sa.suite is not None
    assert sa.keys is not None
    assert sa.remote_id is not None
    assert sa.local_id is not None
    wall = int(host.wall_clock())
    session = Session(
        number=host.random(NUMBER_OCTETS),
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        issued=wall,
        expires=wall + lifetime,
        until=int(wall + sa.reauth_at - now) if sa.reauth_at is not None else 0,
        ppk=sa.features.ppk_used,
        connection=sa.name,
        policy=policy(config),
        peer=sa.remote_id,
        own=sa.local_id,
        eap=sa.remote_eap_id,
        peer_auth=sa.remote_auth or "",
        own_auth=sa.local_auth or "",
        proposal=replace(sa.suite.wire, spi=b""),
        sk_d=sa.keys.sk_d,
    )
    # A client has use for its newest ticket only.
    _withdraw(sa)
    sa.ticket_numbers = [(session.number, session.issued, session.expires)]
    host.count_statistic("tickets-issued")
    sa.log("IKE", 1, f"giving the peer a ticket for {lifetime}s")
    data = lifetime.to_bytes(4, "big") + host.sessions.keys.seal(session, now)
    return [Notify(NotifyType.TICKET_LT_OPAQUE, data)]


def _lifetime(sa: IkeSa, now: float) -> int:
    """Not longer than the peer's authentication (§6.2), nor than its certificate."""
    limits = [sa.host.options.ticket_lifetime]
    if sa.reauth_at is not None:
        limits.append(sa.reauth_at - now)
    if sa.remote_cert_expiry is not None:
        limits.append(sa.remote_cert_expiry - sa.host.wall_clock())
    return int(min(limits))


def _take(sa: IkeSa, message: Message, now: float) -> None:
    """As client: keep the ticket, or note why there is none."""
    if not _wanted(sa):
        return
    sa.ticket_at = None
    given = message.notify(NotifyType.TICKET_LT_OPAQUE)
    if given is None:
        sa.features.ticket_awaited = message.notify(NotifyType.TICKET_ACK) is not None
        if message.notify(NotifyType.TICKET_NACK) is not None:
            sa.log("IKE", 1, "the peer gives no ticket")
        return
    sa.features.ticket_awaited = False
    lifetime, ticket = int.from_bytes(given.data[:4], "big"), given.data[4:]
    if not lifetime or not 1 <= len(ticket) <= MAX_OCTETS:
        sa.log("IKE", 1, "the peer's ticket makes no sense, ignored")
        return
    assert sa.config is not None
    assert sa.suite is not None
    assert sa.keys is not None
    assert sa.local_id is not None
    assert sa.remote_id is not None
    sa.log("IKE", 1, f"received a ticket for {lifetime}s")
    sa.ticket_at = now + lifetime * 0.75
    sa.host.touch_timer(sa)
    sa.host.sessions.held[sa.name] = Held(
        ticket=ticket,
        expires=now + lifetime,
        renew_at=sa.ticket_at,
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        policy=policy(sa.config),
        suite=sa.suite,
        own=sa.local_id,
        peer=sa.remote_id,
        own_auth=sa.local_auth or "",
        peer_auth=sa.remote_auth or "",
        until=sa.reauth_at,
        ppk=sa.features.ppk_used,
        sk_d=sa.keys.sk_d,
    )


def renew(sa: IkeSa, now: float) -> None:
    """The ticket ends soon: ask for another one."""
    if sa.ticket_at is not None and now >= sa.ticket_at and sa.state is State.ESTABLISHED:
        sa.ticket_at = None
        sa.enqueue(RequestTicket())


# --- IKE_SESSION_RESUME as client -------------------------------------------------------------------------------------


class Resume(Task):
    """Our IKE_SESSION_RESUME request (§4.3); sent again with a cookie when the responder asks."""

    kind = Kind.SESSION_RESUME
    label = "IKE_RESUME"
    moves = False

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        initial, config = sa.initial, sa.config
        assert initial is not None
        assert config is not None
        assert isinstance(initial.resumed, Held)
        if not initial.nonce:
            initial.nonce = sa.host.random(NONCE_OCTETS)
            sa.log("IKE", 0, f"resuming IKE_SA {sa.tag} with {sa.remote.host}")
        payloads: list[Payload] = []
        if initial.cookie is not None:
            payloads.append(Notify(NotifyType.COOKIE, initial.cookie))
        payloads += [Nonce(initial.nonce), Notify(NotifyType.TICKET_OPAQUE, initial.resumed.ticket)]
        fake = sa.host.random(20) if config.encap else None
        payloads += nat.payloads(sa.spi_i, bytes(8), sa.local, sa.remote, fake)
        for extension in _extensions():
            payloads += extension.init_request(sa)
        sa.enter(State.INIT_SENT)
        return payloads

    def abort(self, sa: IkeSa, reason: str, now: float) -> None:
        sa.host.finish(self.tickets, False, f"establishing IKE_SA {sa.name} failed: {reason}")


def _extensions() -> list[Extension]:
    return [extension for extension in extensions.EXTENSIONS if extension.resumes]


def first_task(sa: IkeSa, now: float) -> IkeInit | Resume:
    """How an IKE SA of ours begins: by its ticket, if there is a good one, which then is used up."""
    sessions, config = sa.host.sessions, sa.config
    held = sessions.held.get(sa.name)
    if held is None or config is None or sa.initial is None or sa.replaces is not None:
        return IkeInit()
    if any((other.spi_i, other.spi_r) == (held.spi_i, held.spi_r) for other in sa.host.ike_sas_of(sa.name)):
        return IkeInit()  # another one beside that which stands, not in its place
    del sessions.held[sa.name]
    if (
        not config.session_resumption
        or now >= held.expires
        or (held.until is not None and now >= held.until)
        or not hmac.compare_digest(held.policy, policy(config))
        or not permits(ike_proposals(config), held.suite)
    ):
        sa.log("IKE", 1, "the ticket has ended, or does not fit the connection any more")
        return IkeInit()
    sa.initial.resumed = held
    return Resume()


def handle_response(sa: IkeSa, task: Resume, message: Message, now: float) -> None:
    """The gateway's nonce, its wish for a cookie, or its refusal: then all is done anew."""
    initial, config = sa.initial, sa.config
    assert initial is not None
    assert config is not None
    held, nonce = initial.resumed, message.get(Nonce)
    assert isinstance(held, Held)
    cookie = message.notify(NotifyType.COOKIE)
    if cookie is not None and nonce is None:
        initial.cookie_tries += 1
        if not 1 <= len(cookie.data) <= 64 or initial.cookie_tries > MAX_COOKIES:
            full_exchange(sa, task, "its cookies make no sense")
            return
        initial.cookie = cookie.data
        again = Resume()
        again.tickets, task.tickets = task.tickets, []
        sa.requests.restart()
        sa.enqueue(again, first=True)
        return
    if nonce is None or message.notify(NotifyType.TICKET_NACK) is not None or message.error() is not None:
        full_exchange(sa, task, "it does not accept the ticket")
        return
    sa.spi_r = message.header.responder_spi
    initial.peer_nonce = nonce.data
    _protect(sa, held, initial.nonce, nonce.data)
    sa.resumed_from = (held.spi_i, held.spi_r)
    sa.local_auth, sa.remote_auth = held.own_auth, held.peer_auth
    sa.features.ppk_used = held.ppk
    if held.until is not None:
        sa.authenticated_until = sa.host.wall_clock() + held.until - now
    nat.note(sa, config, nat.detect(message, sa.spi_i, sa.spi_r, sa.local, sa.remote))
    for extension in _extensions():
        extension.init_answered(sa, message)
    if sa.nat:
        nat.float_ports(sa)
    auth_task = IkeAuth(initial.children)
    auth_task.tickets, task.tickets = task.tickets, []
    sa.enter(State.AUTH_SENT)
    sa.enqueue(auth_task, first=True)


def full_exchange(sa: IkeSa, task: Task, why: str) -> None:
    """Begin with IKE_SA_INIT after all. Who forges the refusal gets us to do more work, and nothing else."""
    initial = sa.initial
    assert initial is not None
    sa.log("IKE", 1, f"peer does not resume: {why}; initiating anew")
    initial.resumed = initial.cookie = None
    initial.cookie_tries, initial.nonce = 0, b""
    anew = IkeInit()
    anew.tickets, task.tickets = task.tickets, []
    sa.requests.restart()
    sa.enqueue(anew, first=True)


def silent(sa: IkeSa, message_id: int, retransmits: int) -> bool:
    """Our IKE_SESSION_RESUME request is not answered: maybe the peer does not know it. True: another took its place."""
    task = sa.active.get(message_id)
    if not isinstance(task, Resume) or retransmits < SILENT_AFTER or sa.state is not State.INIT_SENT:
        return False
    del sa.active[message_id]
    sa.requests.answered(message_id)
    full_exchange(sa, task, "no answer")
    return True


# --- IKE_SESSION_RESUME as gateway ------------------------------------------------------------------------------------


def handle_request(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    """After admission and cookies. A ticket that is not good is answered with TICKET_NACK, and nothing is kept."""
    host, initial = sa.host, sa.initial
    assert initial is not None
    nonce, ticket = message.get(Nonce), message.notify(NotifyType.TICKET_OPAQUE)
    assert nonce is not None
    try:
        if ticket is None:
            raise TicketError("there is none")
        session = host.sessions.keys.open(ticket.data, now)
        config = _acceptable(sa, session)
    except TicketError as error:
        sa.log("IKE", 1, f"{sa.remote.host} shows a ticket, but {error}")
        host.count_statistic("tickets-refused")
        return [Notify(NotifyType.TICKET_NACK)]
    sa.config = config
    sa.log("IKE", 0, f"{sa.remote.host} is resuming an IKE_SA of '{session.peer.text}'")
    initial.resumed = session
    initial.nonce, initial.peer_nonce = host.random(NONCE_OCTETS), nonce.data
    _protect(sa, session, nonce.data, initial.nonce)
    finding = nat.detect(message, sa.spi_i, bytes(8), sa.local, sa.remote)
    nat.note(sa, config, finding)
    sa.give_up_at = now + host.options.half_open_timeout
    sa.enter(State.HALF_OPEN)
    payloads: list[Payload] = [Nonce(initial.nonce)]
    if finding.supported:
        fake = host.random(20) if config.encap else None
        payloads += nat.payloads(sa.spi_i, sa.spi_r, sa.local, sa.remote, fake)
    for extension in _extensions():
        payloads += extension.init_requested(sa, message)
    return payloads


def _acceptable(sa: IkeSa, session: Session) -> ConnectionConfig:
    """The ticket's connection, if it would still have this peer with these algorithms. Raises TicketError."""
    host, wall = sa.host, sa.host.wall_clock()
    if wall >= session.expires or (session.until and wall >= session.until):
        raise TicketError("it has ended")
    if host.sessions.spent.has(session.number, session.issued):
        raise TicketError("it was used before, or its IKE_SA was deleted")
    config = next((c for c in host.candidates(sa.local, sa.remote) if c.name == session.connection), None)
    if config is None or not config.session_resumption:
        raise TicketError(
            f"connection '{session.connection}' does not resume sessions between these addresses"
        )
    if not hmac.compare_digest(policy(config), session.policy):
        raise TicketError(f"connection '{config.name}' authenticates in another way now")
    if not any(identity.matches(round_.id, session.peer) for round_ in authenticate.remote_rounds(config)):
        raise TicketError(f"connection '{config.name}' is not for its peer any more")
    keyed = {AuthClass.PSK} & {r.auth for r in (*config.local, *config.remote)}
    if keyed and host.credentials.find_shared(session.own, session.peer) is None:
        raise TicketError("its peer has no shared key here any more")
    suite = select(
        ike_proposals(config),
        (session.proposal,),
        protocol=SecurityProtocol.IKE,
        with_ke=True,
        preferred_ke=None,
        spi_octets=0,
    )
    if suite is None or suite.prf is None:
        raise TicketError(f"connection '{config.name}' does not permit its algorithms any more")
    sa.suite = suite
    return config


def _protect(sa: IkeSa, session: Session | Held, ni: bytes, nr: bytes) -> None:
    """SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr), and what follows from it as ever (§5.1)."""
    suite = session.suite if isinstance(session, Held) else sa.suite
    assert suite is not None
    assert suite.prf is not None
    seed = ikekeys.skeyseed_resumed(prf.get(suite.prf), session.sk_d, ni, nr)
    keymat.protect_seeded(sa, suite, seed, ni, nr)


# --- IKE_AUTH of a resumed IKE SA -------------------------------------------------------------------------------------


def resumed_by(
    sa: IkeSa, session: Session, message: Message, id_i: IdI, proof: Auth | None
) -> ConnectionConfig:
    """As gateway: the client proves that the ticket is its own, which then is used up. The ticket's connection.
    AuthFailure if it does not."""
    assert sa.config is not None
    assert sa.remote_id is not None
    if proof is None or not identity.same(sa.remote_id, session.peer):
        raise AuthFailure("AUTHENTICATION_FAILED", "the ticket is not this peer's")
    authenticate.verify(sa, authenticate.as_resumed(sa, sa.config), id_i, message, proof)
    spent = sa.host.sessions.spent
    if spent.has(session.number, session.issued):
        raise AuthFailure("TICKET", "the ticket was used by another IKE_SA meanwhile")
    spent.add(session.number, session.issued, session.expires, sa.host.wall_clock())
    sa.resumed_from = (session.spi_i, session.spi_r)
    sa.remote_auth, sa.local_auth, sa.remote_eap_id = session.peer_auth, session.own_auth, session.eap
    sa.authenticated_until = session.until or None
    sa.features.ppk_used = session.ppk
    return sa.config


def _count_resumed(sa: IkeSa, now: float) -> None:
    """The IKE SA is up. The authentication is as old as it was: that is not resumed."""
    sa.host.count_statistic("sessions-resumed")
    sa.log("IKE", 1, "IKE_SA is resumed from a ticket")
    if sa.authenticated_until is not None:
        until = now + sa.authenticated_until - sa.host.wall_clock()
        sa.reauth_at = min(until, sa.reauth_at if sa.reauth_at is not None else until)


def _replace_old(sa: IkeSa, now: float) -> None:
    """As gateway: the IKE SA that the ticket is about goes without a word; its client has lost it."""
    _count_resumed(sa, now)
    if sa.remote_id is None:
        return
    for other in list(sa.host.ike_sas_with(sa.remote_id)):
        if other is not sa and (other.spi_i, other.spi_r) == sa.resumed_from:
            successor = other.successor  # whose rekeying the client never saw the end of
            lifecycle.destroy(other, "replaced", now)
            if successor is not None and successor is not sa:
                lifecycle.destroy(successor, "replaced", now)
