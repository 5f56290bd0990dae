"""Where datagrams come in: which IKE SA they are for, and what is done for strangers (RFC 7296 §1.5, §2.4-2.6, §2.21).

Nothing here is authenticated: limits, cookies and rates come first, and no established IKE SA changes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ipsecstack.ipsec.sa import Address, Direction, SaId, SecurityProtocol
from ipsecstack.ipsec.selectors import IPAddress
from ipsecstack.keyex.admission import Cookies, Decision, HalfOpen, RateLimit, Refusals
from ipsecstack.keyex.base import LogRecorded, SendDatagram
from ipsecstack.keyex.bookkeeping import STATISTIC_KEYS
from ipsecstack.keyex.ikev2 import machine, qcd, redirect
from ipsecstack.keyex.ikev2.sa import IkeSa
from ipsecstack.keyex.ikev2.states import State
from ipsecstack.keyex.registry import Registry
from ipsecstack.wire.ikev2 import (
    ExchangeType,
    Header,
    Message,
    Nonce,
    Notify,
    NotifyType,
    PayloadType,
    UnsupportedCriticalPayload,
    WireError,
    build_message,
    describe,
    make_header,
    parse_message,
)

if TYPE_CHECKING:
    from ipsecstack.keyex.endpoint import Endpoint

_NO_SPI = bytes(8)
_FIRST = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)


class Reception:
    """The front of an endpoint."""

    def __init__(self, host: Endpoint, registry: Registry, now: float) -> None:
        options = host.options
        self.half_open = HalfOpen(options)
        self.refusals = Refusals(options.half_open_timeout)
        self.statistics = dict.fromkeys(STATISTIC_KEYS, 0)
        self._host = host
        self._registry = registry
        self._first_requests: dict[tuple[bytes, IPAddress, bytes], IkeSa] = {}
        self._cookies = Cookies(host.random, options.cookie_lifetime, now)
        self._answers = RateLimit(options.answer_rate, now)

    def receive(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        """One IKE message without the non-ESP marker."""
        if len(data) > self._host.options.max_packet:
            self._reject(local, remote, f"{len(data)} octets are more than max_packet")
            return
        try:
            header = Header.parse(data)
        except WireError as error:
            self._reject(local, remote, str(error))
            return
        if header.major != 2:
            self._other_version(header, local, remote, now)
        elif header.exchange in _FIRST and not header.is_response:
            self._first_request(header, data, local, remote, now)
        else:
            self._for_known(header, data, local, remote, now)

    def forget(self, sa: IkeSa) -> None:
        """The IKE SA is gone: so is the memory of its first request."""
        self.half_open.discard(sa.uniqueid)
        if sa.first_request is not None:
            self._first_requests.pop(sa.first_request, None)

    def tell_invalid_spi(self, spi: int, local: Address, remote: Address, now: float) -> None:
        """A peer without an IKE SA sends ESP to an SPI that we do not have (§1.5)."""
        if not self._answers.allow(now):
            return
        header = make_header(
            self._host.new_spi(), _NO_SPI, ExchangeType.INFORMATIONAL, 0, from_initiator=True, response=False
        )
        target = Address(remote.host, remote.port or 500)
        source = Address(local.host, local.port or self._host.options.port)
        self._send(header, Notify(NotifyType.INVALID_SPI, spi.to_bytes(4, "big")), source, target)

    def _reject(self, local: Address, remote: Address, why: str, name: str | None = None) -> None:
        self._host.count(name, "invalid")
        if not self._host.quiet("reject"):
            self._host.emit(
                LogRecorded("NET", 1, name, None, f"ignoring packet from {remote} to {local}: {why}")
            )

    def _for_known(self, header: Header, data: bytes, local: Address, remote: Address, now: float) -> None:
        own = header.responder_spi if header.from_initiator else header.initiator_spi
        sa = self._registry.by_spi(own)
        peer = header.initiator_spi if header.from_initiator else header.responder_spi
        if sa is not None and not self._peer_spi_fits(sa, peer):
            sa = None
        if sa is None:
            refusal = None
            if header.from_initiator and not header.is_response:
                refusal = self.refusals.response(peer, own, header.message_id, data, now)
            if refusal is not None:
                for part in refusal:
                    self._host.emit(SendDatagram(part, local, remote, local.port != self._host.options.port))
            else:
                self._unknown_ike_spi(header, data, local, remote, now)
            return
        if header.next_payload == PayloadType.NOTIFY and qcd.crashed(sa, data, now):
            return
        if header.next_payload == PayloadType.NOTIFY and sa.state is State.ESTABLISHED:
            # Not encrypted: nobody vouches for it. It may be a hint that the peer lost its state (§2.4, §2.21.4).
            self._host.count(sa.name, "invalid")
            sa.counters.drops_in += 1
            machine.hint(sa, now)
            return
        sa.muted = self._host.quiet("initial")
        sa.log("NET", 1, f"received packet: from {remote} to {local} ({len(data)} bytes)")
        machine.receive(sa, header, data, local, remote, now)
        if sa.state not in (State.HALF_OPEN, State.AUTHENTICATING):
            sa.muted = False  # forged packets must not silence what an authenticated IKE SA has to say

    @staticmethod
    def _peer_spi_fits(sa: IkeSa, peer: bytes) -> bool:
        if sa.initiator:
            return sa.state is State.INIT_SENT or peer == sa.spi_r
        return peer == sa.spi_i

    def _unknown_ike_spi(
        self, header: Header, data: bytes, local: Address, remote: Address, now: float
    ) -> None:
        self._host.count(None, "invalid-spi")
        self.statistics["unknown-ike-spi"] += 1
        self._reject(
            local,
            remote,
            f"no IKE_SA with SPIs {header.initiator_spi.hex()}_i {header.responder_spi.hex()}_r",
        )
        if header.is_response:
            return
        if header.exchange == ExchangeType.INFORMATIONAL and header.next_payload == PayloadType.NOTIFY:
            self._invalid_spi_hint(data, remote, now)
            return
        self._answer(header, Notify(NotifyType.INVALID_IKE_SPI), local, remote, now, *self._proofs(header))

    def _proofs(self, header: Header) -> list[Notify]:
        """That we lost this IKE SA (RFC 6290 §4.5). Not if one of its SPIs is in use, in whichever role: somebody may
        ask for the token of an IKE SA that stands, with the flags turned round or before its response has arrived."""
        secret, spis = self._host.options.qcd_secret, (header.initiator_spi, header.responder_spi)
        encrypted = header.next_payload in (PayloadType.SK, PayloadType.SKF)
        if not secret or not encrypted or _NO_SPI in spis:
            return []
        if any(self._registry.by_spi(spi) is not None for spi in spis):
            return []
        return [qcd.notification(secret, *spis)]

    def _invalid_spi_hint(self, data: bytes, remote: Address, now: float) -> None:
        """INVALID_SPI outside of an IKE SA (§1.5): is it an SPI that we send to, ask that peer for a sign of life."""
        try:
            notify = parse_message(data).notify(NotifyType.INVALID_SPI)
        except WireError:
            return
        if notify is None or len(notify.data) != 4:
            return
        spi = int.from_bytes(notify.data, "big")
        child = self._registry.child(SaId(Direction.OUT, SecurityProtocol.ESP, spi, remote.host))
        if child is not None and child.owner is not None:
            machine.hint(child.owner, now)

    def _other_version(self, header: Header, local: Address, remote: Address, now: float) -> None:
        self._reject(local, remote, f"IKE version {header.major}.{header.minor} is not supported")
        if header.major > 2 and not header.is_response:
            self._answer(header, Notify(NotifyType.INVALID_MAJOR_VERSION), local, remote, now)

    def _answer(
        self, header: Header, notify: Notify, local: Address, remote: Address, now: float, *more: Notify
    ) -> None:
        """An answer outside of any IKE SA: not protected, rate-limited, never to a response (§1.5, §2.5)."""
        if not self._answers.allow(now):
            return
        answer = make_header(
            header.initiator_spi,
            header.responder_spi,
            header.exchange,
            header.message_id,
            from_initiator=not header.from_initiator,
            response=True,
        )
        self.statistics["qcd-tokens"] += len(more)
        self._send(answer, notify, local, remote, *more)

    def _send(self, header: Header, notify: Notify, local: Address, remote: Address, *more: Notify) -> None:
        if not self._host.quiet("answer"):
            text = describe(Message(header, (notify, *more)))
            self._host.emit(LogRecorded("ENC", 1, None, None, f"generating {text}"))
        data = build_message(header, [notify, *more])
        self._host.emit(SendDatagram(data, local, remote, local.port != self._host.options.port))

    def _first_request(
        self, header: Header, data: bytes, local: Address, remote: Address, now: float
    ) -> None:
        """IKE_SA_INIT: a retransmission, or a new IKE SA if limits and cookies let it in."""
        key = (header.initiator_spi, remote.host, hashlib.sha256(data).digest())
        known = self._first_requests.get(key)
        if known is not None:
            if known.state is State.HALF_OPEN:
                machine.receive(known, header, data, local, remote, now)
            else:
                known.counters.drops_in += 1
            return
        if (
            header.responder_spi != _NO_SPI
            or header.initiator_spi == _NO_SPI
            or header.message_id != 0
            or not header.from_initiator
        ):
            self._reject(local, remote, "header of the first request makes no sense")
            return
        if self._host.closing:
            self._reject(local, remote, "shutting down")
            return
        try:
            message = parse_message(data)
        except WireError as error:
            self._reject(local, remote, str(error))
            if isinstance(error, UnsupportedCriticalPayload):
                kind = bytes((error.payload_type,))
                notify = Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, kind)
                self._answer(header, notify, local, remote, now)
            return
        nonce, cookie = message.get(Nonce), message.notify(NotifyType.COOKIE)
        if nonce is None:
            self._reject(local, remote, "first request without a nonce")
            return
        decision = self.half_open.decide(remote.host, *self.refusals.count(remote.host, now))
        if decision is Decision.DROP:
            self.statistics["half-open-drops"] += 1
            self._reject(local, remote, "too many half-open IKE_SAs")
            return
        if decision is Decision.DEMAND_COOKIE and (
            cookie is None
            or not self._cookies.check(cookie.data, nonce.data, remote.host, header.initiator_spi, now)
        ):
            self._demand_cookie(header, nonce, local, remote, now)
            return
        if not self._host.candidates(local, remote):
            self._reject(local, remote, f"no IKE config found for {local.host}...{remote.host}")
            self._answer(header, Notify(NotifyType.NO_PROPOSAL_CHOSEN), local, remote, now)
            return
        if self._host.options.redirect_new and redirect.asked_for(message):
            self._redirect(header, nonce, local, remote, now)
            return
        sa = IkeSa(
            self._host,
            initiator=False,
            spi_i=header.initiator_spi,
            spi_r=self._host.new_spi(),
            local=local,
            remote=remote,
            config=None,
            now=now,
        )
        sa.muted = self._host.quiet("initial")
        sa.log("NET", 1, f"received packet: from {remote} to {local} ({len(data)} bytes)")
        if machine.receive_first(sa, data, message, now):
            self._host.adopt(sa)
            sa.first_request = key
            self._first_requests[key] = sa
        else:
            sa.wipe()
            self._host.discard(sa)

    def _redirect(self, header: Header, nonce: Nonce, local: Address, remote: Address, now: float) -> None:
        """To another gateway, before anything is computed or kept (RFC 5685 §3)."""
        gateway = redirect.gateway_of(self._host.options.redirect_new)
        self._answer(
            header,
            Notify(NotifyType.REDIRECT, redirect.to_data(gateway, nonce.data)),
            local,
            remote,
            now,
        )

    def _demand_cookie(
        self, header: Header, nonce: Nonce, local: Address, remote: Address, now: float
    ) -> None:
        self.statistics["cookies-sent"] += 1
        cookie = self._cookies.make(nonce.data, remote.host, header.initiator_spi, now)
        answer = make_header(
            header.initiator_spi,
            _NO_SPI,
            header.exchange,
            0,
            from_initiator=False,
            response=True,
        )
        self._send(answer, Notify(NotifyType.COOKIE, cookie), local, remote)
