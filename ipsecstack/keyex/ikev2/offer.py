"""Asking for a Child SA, in IKE_AUTH and CREATE_CHILD_SA alike, and judging the answer (RFC 7296 §1.2, §1.3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.configuration import ChildConfig, Proposal
from ipsecstack.keyex.ikev2 import agreement, lifecycle, narrowing
from ipsecstack.keyex.ikev2.agreement import NONCE_OCTETS, Agreement
from ipsecstack.keyex.ikev2.proposals import DEFAULT_ESP, Suite, accept, methods, offer, proposals_text
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.wire.ikev2 import Ke, Message, Nonce, Notify, NotifyType, Payload, Sa, SaProposal, TsI, TsR
from ipsecstack.wire.transforms import KeId

Selected = tuple[TrafficSelector, ...]
Selectors = tuple[Selected, Selected]


@dataclass(slots=True)
class ChildOffer:
    """What we asked for, until the response is there."""

    config: ChildConfig
    spi_in: int
    proposals: tuple[SaProposal, ...]
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    with_ke: bool
    method: KeId = KeId.NONE
    ke: KeyExchange | None = field(default=None, repr=False)
    nonce: bytes = b""
    mode: Mode = Mode.TUNNEL
    cpi_in: int = 0
    notifies: tuple[Payload, ...] = ()
    more: tuple[bytes, ...] = field(default=(), repr=False)
    """Secrets of additional key exchanges."""


class ChildFailure(Exception):
    """The response gives no Child SA; ``reason`` is a notify's name. ``at_peer``: the peer may have one."""

    def __init__(
        self,
        reason: str,
        message: str,
        at_peer: bool = False,
        received: bool = False,
        protocol: SecurityProtocol = SecurityProtocol.ESP,
    ) -> None:
        super().__init__(message)
        self.received = received
        self.reason = reason
        self.message = message
        self.at_peer = at_peer
        self.protocol = protocol


def child_proposals(sa: IkeSa, config: ChildConfig) -> tuple[Proposal, ...]:
    """The proposals of a child that can work here: no AH through a NAT, unless nothing else is left to ask for."""
    own = esp_proposals(config)
    return tuple(p for p in own if agreement.usable(sa, config, p.protocol)) or own


def esp_proposals(config: ChildConfig) -> tuple[Proposal, ...]:
    """The configured proposals of ESP and AH, or ESP's default."""
    return config.proposals or DEFAULT_ESP


def make_offer(
    sa: IkeSa,
    config: ChildConfig,
    *,
    with_ke: bool,
    rekeyed: ChildSa | None = None,
    method: KeId | None = None,
    packet: tuple[TrafficSelector, TrafficSelector] | None = None,
    selectors: Selectors | None = None,
) -> ChildOffer:
    """Prepare an offer: reserve an SPI, make the KE value. A rekeying asks for the old SA's selectors.

    ``packet`` are the selectors of the packet that asked for the SA: they come first (§2.9). ``selectors`` are asked
    for instead of the configured ones.
    """
    if rekeyed is not None:
        local_ts, remote_ts = rekeyed.local_ts, rekeyed.remote_ts
    else:
        local_ts = narrowing.resolve(config.local_ts, narrowing.local_hosts(sa))
        remote_ts = narrowing.resolve(config.remote_ts, narrowing.remote_hosts(sa))
        if selectors is not None:
            local_ts, remote_ts = selectors
        if packet is not None:
            if any(ts.covers(packet[0]) for ts in local_ts):
                local_ts = (packet[0], *(ts for ts in local_ts if ts != packet[0]))
            if any(ts.covers(packet[1]) for ts in remote_ts):
                remote_ts = (packet[1], *(ts for ts in remote_ts if ts != packet[1]))
    own = child_proposals(sa, config)
    groups = [m for m in methods(own) if m != KeId.NONE] if with_ke else []
    chosen = method or (rekeyed.suite.ke if rekeyed is not None and rekeyed.suite.ke in groups else None)
    if chosen is None and groups:
        chosen = groups[0]
    exchange = ke.get(chosen).generate(sa.host.random) if groups and chosen else None
    mode = _mode(sa, config, local_ts, remote_ts)
    spi = sa.host.allocate_spi()
    cpi = sa.host.allocate_cpi(spi) if config.ipcomp and "ipcomp" in sa.host.options.abilities else 0
    return ChildOffer(
        config,
        spi,
        offer(own, spi.to_bytes(4, "big"), with_ke=with_ke),
        local_ts,
        remote_ts,
        with_ke,
        chosen if exchange is not None and chosen else KeId.NONE,
        exchange,
        sa.host.random(NONCE_OCTETS) if with_ke else b"",
        mode,
        cpi,
        tuple(agreement.plain_notifies(sa, mode, local_ts)),
    )


def for_pair(
    made: ChildOffer, packet: tuple[TrafficSelector, TrafficSelector]
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """What was asked for, for the two addresses of this packet alone (SINGLE_PAIR_REQUIRED, §2.9)."""
    return _of_host(made.local_ts, packet[0]), _of_host(made.remote_ts, packet[1])


def _of_host(selectors: tuple[TrafficSelector, ...], packet: TrafficSelector) -> tuple[TrafficSelector, ...]:
    wanted = narrowing.of_host(packet.start)
    found = (ts.intersect(wanted) for ts in selectors if ts.covers(packet))
    return tuple(dict.fromkeys(ts for ts in found if ts is not None))


def remainder(made: ChildOffer, local_ts: Selected, remote_ts: Selected) -> list[Selectors]:
    """What was asked for and the answer has nothing of, to be asked for in other SAs (ADDITIONAL_TS_POSSIBLE, §2.9)."""
    local = tuple(ts for ts in made.local_ts if not any(ts.intersect(got) for got in local_ts))
    remote = tuple(ts for ts in made.remote_ts if not any(ts.intersect(got) for got in remote_ts))
    found: list[Selectors] = []
    if local:
        found.append((local, made.remote_ts))
    if remote:
        found.append((tuple(ts for ts in made.local_ts if ts not in local), remote))
    return found


def _mode(
    sa: IkeSa,
    config: ChildConfig,
    local_ts: tuple[TrafficSelector, ...],
    remote_ts: tuple[TrafficSelector, ...],
) -> Mode:
    """Transport mode where it is configured and can be; else a tunnel, which protects the same."""
    if config.mode is not Mode.TRANSPORT:
        return Mode.TUNNEL
    if "transport" not in sa.host.options.abilities or not agreement.host_to_host(sa, local_ts, remote_ts):
        sa.log("IKE", 1, f"not using transport mode for '{config.name}', not host-to-host")
        return Mode.TUNNEL
    return Mode.TRANSPORT


def release(sa: IkeSa, made: ChildOffer) -> None:
    """Give back what the offer reserved."""
    lifecycle.release_spi(sa, made.spi_in)


def offer_payloads(made: ChildOffer) -> list[Payload]:
    """SA, Ni, KEi, TSi, TSr and what goes with them; nonce and KE only in CREATE_CHILD_SA."""
    payloads: list[Payload] = []
    if made.cpi_in:
        payloads.append(agreement.ipcomp_notify(made.cpi_in))
    if made.mode is Mode.TRANSPORT:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))
    payloads += made.notifies
    payloads.append(Sa(made.proposals))
    if made.with_ke:
        payloads.append(Nonce(made.nonce))
        if made.ke is not None:
            payloads.append(Ke(made.method, made.ke.public))
    payloads.append(TsI(narrowing.to_wire(made.local_ts)))
    payloads.append(TsR(narrowing.to_wire(made.remote_ts)))
    return payloads


def conclude_offer(
    sa: IkeSa,
    made: ChildOffer,
    message: Message,
    ni: bytes,
    nr: bytes,
    now: float,
    *,
    hold_outbound: bool = False,
) -> ChildSa:
    """Install the Child SA that the response describes; after a ChildFailure the caller releases the offer."""
    agreed = accept_answer(sa, made, message)
    return agreement.install(sa, agreed, ni, nr, now, hold_outbound=hold_outbound)


def accept_answer(sa: IkeSa, made: ChildOffer, message: Message) -> Agreement:
    """What the response agrees to. The reservations of the offer go over to the agreement once it is installed."""
    sa_payload, tsi, tsr = message.get(Sa), message.get(TsI), message.get(TsR)
    if sa_payload is None or tsi is None or tsr is None:
        raise ChildFailure("INVALID_SYNTAX", "the response has no SA or traffic selectors", at_peer=False)
    suite = accept(made.proposals, sa_payload.proposals, with_ke=made.with_ke, spi_octets=4)
    if suite is None or int.from_bytes(suite.spi, "big") < 256:
        raise ChildFailure(
            "NO_PROPOSAL_CHOSEN",
            f"peer chose {proposals_text(sa_payload.proposals)}, which was not offered",
            at_peer=True,
        )
    try:
        return _judge(sa, made, message, suite, tsi, tsr)
    except ChildFailure as failure:
        failure.protocol = SecurityProtocol(suite.protocol)
        raise


def _judge(sa: IkeSa, made: ChildOffer, message: Message, suite: Suite, tsi: TsI, tsr: TsR) -> Agreement:
    protocol = SecurityProtocol(suite.protocol)
    if not agreement.usable(sa, made.config, protocol):
        raise ChildFailure("NO_PROPOSAL_CHOSEN", "AH cannot be used: there is a NAT between", at_peer=True)
    if not lifecycle.peer_spi_free(sa, protocol, int.from_bytes(suite.spi, "big")):
        raise ChildFailure("INVALID_SYNTAX", f"peer's SPI {suite.spi.hex()} is in use already", at_peer=True)
    if suite.spi in sa.early_deletes:
        sa.early_deletes.discard(suite.spi)
        raise ChildFailure("CHILD_SA_NOT_FOUND", "peer has deleted the CHILD_SA already")
    transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if transport and made.mode is not Mode.TRANSPORT:
        raise ChildFailure("INVALID_SYNTAX", "peer chose transport mode without being asked", at_peer=True)
    if not transport and made.mode is Mode.TRANSPORT:
        # The configuration says transport mode, and a tunnel between the same two hosts is something else (§1.3.1).
        raise ChildFailure("NO_PROPOSAL_CHOSEN", "peer declined transport mode", at_peer=True)
    local_ts, remote_ts = narrowing.from_wire(tsi.selectors), narrowing.from_wire(tsr.selectors)
    originals = None
    if transport and (sa.nat_local or sa.nat_remote):
        originals = agreement.first_hosts(local_ts, remote_ts)
        local_ts, remote_ts = agreement.without_nat(sa, local_ts, remote_ts)
    if not narrowing.within(local_ts, made.local_ts) or not narrowing.within(remote_ts, made.remote_ts):
        raise ChildFailure("TS_UNACCEPTABLE", "peer's traffic selectors are wider than ours", at_peer=True)
    cpi_out = agreement.peer_cpi(message)
    if not made.cpi_in and message.notify(NotifyType.IPCOMP_SUPPORTED) is not None:
        raise ChildFailure("INVALID_SYNTAX", "peer chose IPComp without being asked", at_peer=True)
    if made.cpi_in and not cpi_out:
        sa.log("IKE", 1, "peer does not support IPComp, compression disabled")
        sa.host.release_cpi(made.spi_in)
        made.cpi_in = 0
    if len(made.more) != len(suite.additional):
        raise ChildFailure("INVALID_SYNTAX", "peer chose additional key exchanges that did not follow")
    shared = _shared(made, message, suite)
    sa.log("CFG", 1, f"selected proposal: {suite}")
    local, remote = tuple(local_ts), tuple(remote_ts)
    return Agreement(
        made.config,
        suite,
        Mode.TRANSPORT if transport else Mode.TUNNEL,
        made.spi_in,
        local,
        remote,
        True,
        made.cpi_in,
        cpi_out,
        agreement.tfc_allowed(message),
        agreement.fragments_allowed(message, local, remote),
        originals,
        shared,
        made.more,
    )


def _shared(made: ChildOffer, message: Message, suite: Suite) -> bytes:
    if suite.ke is KeId.NONE:
        return b""
    answer = message.get(Ke)
    if made.ke is None or answer is None or answer.method != made.method or suite.ke != made.method:
        raise ChildFailure("INVALID_KE_PAYLOAD", "the response's KE payload does not fit", at_peer=True)
    try:
        return made.ke.shared(answer.data)
    except KeError as error:
        raise ChildFailure("INVALID_KE_PAYLOAD", str(error), at_peer=True) from None
