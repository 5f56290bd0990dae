"""Negotiating a Child SA, in IKE_AUTH and CREATE_CHILD_SA alike (RFC 7296 §1.2, §1.3.1, §2.9, §2.17)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.crypto.ke import KeyExchange
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.base import ChildConfig, ConnectionConfig, Proposal
from ipsecstack.keyex.ikev2 import keymat, lifecycle, narrowing
from ipsecstack.keyex.ikev2.proposals import (
    DEFAULT_ESP,
    Suite,
    accept,
    methods,
    offer,
    proposals_text,
    select,
)
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.wire.ikev2 import Ke, Message, Nonce, Notify, NotifyType, Payload, Sa, SaProposal, TsI, TsR
from ipsecstack.wire.transforms import KeId

NONCE_OCTETS = 32


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


class ChildFailure(Exception):
    """The response gives no Child SA; ``reason`` is a notify's name. ``at_peer``: the peer may have one."""

    def __init__(self, reason: str, message: str, at_peer: bool = False, received: bool = False) -> None:
        super().__init__(message)
        self.received = received
        self.reason = reason
        self.message = message
        self.at_peer = at_peer


def esp_proposals(config: ChildConfig) -> tuple[Proposal, ...]:
    return config.proposals or DEFAULT_ESP


def make_offer(
    sa: IkeSa,
    config: ChildConfig,
    *,
    with_ke: bool,
    rekeyed: ChildSa | None = None,
    method: KeId | None = None,
    packet: tuple[TrafficSelector, TrafficSelector] | None = None,
) -> ChildOffer:
    """Prepare an offer: reserve an SPI, make the KE value. A rekeying asks for the old SA's selectors.

    ``packet`` are the selectors of the packet that asked for the SA: they come first (§2.9).
    """
    if rekeyed is not None:
        local_ts, remote_ts = rekeyed.local_ts, rekeyed.remote_ts
    else:
        local_ts = narrowing.resolve(config.local_ts, sa.local.host)
        remote_ts = narrowing.resolve(config.remote_ts, sa.remote.host)
        if packet is not None:
            if any(ts.covers(packet[0]) for ts in local_ts):
                local_ts = (packet[0], *local_ts)
            if any(ts.covers(packet[1]) for ts in remote_ts):
                remote_ts = (packet[1], *remote_ts)
    own = esp_proposals(config)
    groups = [m for m in methods(own) if m != KeId.NONE] if with_ke else []
    chosen = method or (rekeyed.suite.ke if rekeyed is not None and rekeyed.suite.ke in groups else None)
    if chosen is None and groups:
        chosen = groups[0]
    exchange = ke.get(chosen).generate(sa.host.random) if groups and chosen else None
    spi = sa.host.allocate_spi()
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
    )


def offer_payloads(made: ChildOffer) -> list[Payload]:
    """SA, Ni, KEi, TSi, TSr and what goes with them; nonce and KE only in CREATE_CHILD_SA."""
    payloads: list[Payload] = []
    if made.config.mode is Mode.TRANSPORT:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))
    payloads.append(Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED))
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
    """Install the Child SA that the response describes; after a ChildFailure the caller releases the SPI."""
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
    if not lifecycle.peer_spi_free(sa, SecurityProtocol.ESP, int.from_bytes(suite.spi, "big")):
        raise ChildFailure("INVALID_SYNTAX", f"peer's SPI {suite.spi.hex()} is in use already", at_peer=True)
    if suite.spi in sa.early_deletes:
        sa.early_deletes.discard(suite.spi)
        raise ChildFailure("CHILD_SA_NOT_FOUND", "peer has deleted the CHILD_SA already")
    local_ts, remote_ts = narrowing.from_wire(tsi.selectors), narrowing.from_wire(tsr.selectors)
    if not narrowing.within(local_ts, made.local_ts) or not narrowing.within(remote_ts, made.remote_ts):
        raise ChildFailure("TS_UNACCEPTABLE", "peer's traffic selectors are wider than ours", at_peer=True)
    transport = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if transport and made.config.mode is not Mode.TRANSPORT:
        raise ChildFailure("INVALID_SYNTAX", "peer chose transport mode without being asked", at_peer=True)
    shared = b""
    if suite.ke is not KeId.NONE:
        answer = message.get(Ke)
        if made.ke is None or answer is None or answer.method != made.method or suite.ke != made.method:
            raise ChildFailure("INVALID_KE_PAYLOAD", "the response's KE payload does not fit", at_peer=True)
        try:
            shared = made.ke.shared(answer.data)
        except KeError as error:
            raise ChildFailure("INVALID_KE_PAYLOAD", str(error), at_peer=True) from None
    sa.log("CFG", 1, f"selected proposal: {suite}")
    child = ChildSa(
        sa.host.next_child_id(),
        made.config,
        suite,
        Mode.TRANSPORT if transport else Mode.TUNNEL,
        made.spi_in,
        tuple(local_ts),
        tuple(remote_ts),
        initiated=True,
    )
    child.nonces = (ni, nr)
    keys = keymat.for_child(sa, suite, ni, nr, shared)
    lifecycle.install_child(sa, child, keys, True, now, hold_outbound=hold_outbound)
    return child


def find_child(
    sa: IkeSa, connections: list[ConnectionConfig], message: Message
) -> tuple[ConnectionConfig, ChildConfig, tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None:
    """The child whose selectors best fit what the peer asks for, and the narrowed selectors (local, remote).

    A child with just these selectors wins, then one that allows all of them, then one that allows the first ones (those
    of the packet that caused the request, §2.9), then the first with something in common. One whose proposals fit goes
    before.
    """
    tsi, tsr, sa_payload = message.get(TsI), message.get(TsR), message.get(Sa)
    if tsi is None or tsr is None or sa_payload is None:
        return None
    asked_remote, asked_local = narrowing.from_wire(tsi.selectors), narrowing.from_wire(tsr.selectors)
    whole_local, whole_remote = tuple(asked_local), tuple(asked_remote)
    for config in connections:  # the usual case, which thousands of children must not make slow
        for child in config.children:
            if (
                child.remote_ts == whole_remote
                and child.local_ts == whole_local
                and child.policy == "PROTECT"
            ):
                local_ts = narrowing.narrow(whole_local, whole_local)
                remote_ts = narrowing.narrow(whole_remote, whole_remote)
                if local_ts and remote_ts and _select(child, sa_payload, False, None) is not None:
                    return config, child, local_ts, remote_ts
    best = None
    best_score = (-1, -1)
    for config in connections:
        for child in config.children:
            if child.policy != "PROTECT":
                continue
            own_local = narrowing.resolve(child.local_ts, sa.local.host)
            own_remote = narrowing.resolve(child.remote_ts, sa.remote.host)
            local_ts = narrowing.narrow(own_local, asked_local)
            remote_ts = narrowing.narrow(own_remote, asked_remote)
            if not local_ts or not remote_ts:
                continue
            fits = _select(child, sa_payload, False, None) is not None
            if set(own_local) == set(asked_local) and set(own_remote) == set(asked_remote):
                quality = 3
            elif set(local_ts) == set(asked_local) and set(remote_ts) == set(asked_remote):
                quality = 2
            elif narrowing.within(asked_local[:1], local_ts) and narrowing.within(
                asked_remote[:1], remote_ts
            ):
                quality = 1
            else:
                quality = 0
            if (int(fits), quality) > best_score:
                best_score, best = (int(fits), quality), (config, child, local_ts, remote_ts)
    return best


def _select(child: ChildConfig, sa_payload: Sa, with_ke: bool, preferred: int | None) -> Suite | None:
    return select(
        esp_proposals(child),
        sa_payload.proposals,
        protocol=SecurityProtocol.ESP,
        with_ke=with_ke,
        preferred_ke=preferred,
        spi_octets=4,
    )


def answer_offer(
    sa: IkeSa,
    message: Message,
    ni: bytes,
    nr: bytes,
    now: float,
    *,
    with_ke: bool,
    rekeyed: ChildSa | None = None,
) -> tuple[list[Payload], ChildSa]:
    """As responder: choose, install, and give the response's payloads. Refusal carries the error notification."""
    sa_payload = message.get(Sa)
    if sa_payload is None or message.get(TsI) is None or message.get(TsR) is None:
        raise Refusal(NotifyType.INVALID_SYNTAX, "SA or traffic selectors are missing")
    assert sa.config is not None
    limit = sa.host.options.children_limit * (1 if rekeyed is None else 2)
    if len(sa.children) >= limit:
        raise Refusal(NotifyType.NO_ADDITIONAL_SAS, f"the IKE_SA has {limit} CHILD_SAs, children_limit")
    if rekeyed is not None:
        config = replace(
            sa.config,
            children=(replace(rekeyed.config, local_ts=rekeyed.local_ts, remote_ts=rekeyed.remote_ts),),
        )
        found = find_child(sa, [config], message)
    else:
        found = find_child(sa, [sa.config], message)
    if found is None:
        raise Refusal(NotifyType.TS_UNACCEPTABLE, _unacceptable(message))
    _, child_config, local_ts, remote_ts = found
    if rekeyed is not None:
        child_config = rekeyed.config
    ke_payload = message.get(Ke)
    suite = _select(child_config, sa_payload, with_ke, ke_payload.method if ke_payload else None)
    if suite is None:
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN,
            f"no acceptable proposal found for CHILD_SA {child_config.name}: "
            f"received {proposals_text(sa_payload.proposals)}",
        )
    entry = sa.host.pad.get(sa.name)
    if entry is not None and not entry.authorises(remote_ts, narrowing.of_host(sa.remote.host)):
        raise Refusal(
            NotifyType.TS_UNACCEPTABLE, f"'{sa.name}' does not authorise {narrowing.text(remote_ts)}"
        )
    payloads: list[Payload] = []
    ke_answer, shared = _answer_ke(sa, suite, ke_payload)
    transport = (
        message.notify(NotifyType.USE_TRANSPORT_MODE) is not None and child_config.mode is Mode.TRANSPORT
    )
    if transport:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))
    payloads.append(Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED))
    if int.from_bytes(suite.spi, "big") < 256:
        raise Refusal(NotifyType.INVALID_SYNTAX, "an SPI below 256 is reserved")
    if not lifecycle.peer_spi_free(sa, SecurityProtocol.ESP, int.from_bytes(suite.spi, "big")):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, f"peer's SPI {suite.spi.hex()} is in use already")
    spi_in = sa.host.allocate_spi()
    sa.log("CFG", 1, f"selected proposal: {suite}")
    child = ChildSa(
        sa.host.next_child_id(),
        child_config,
        suite,
        Mode.TRANSPORT if transport else Mode.TUNNEL,
        spi_in,
        local_ts,
        remote_ts,
        initiated=False,
    )
    child.nonces = (ni, nr)
    keys = keymat.for_child(sa, suite, ni, nr, shared)
    # A rekeying initiator has its new inbound SA only when our response is there: go on sending over the old one
    # until it deletes that.
    lifecycle.install_child(sa, child, keys, False, now, hold_outbound=rekeyed is not None)
    payloads.append(Sa((replace(suite.wire, spi=spi_in.to_bytes(4, "big")),)))
    if with_ke:
        payloads.append(Nonce(nr))
        if ke_answer is not None:
            payloads.append(ke_answer)
    payloads.append(TsI(narrowing.to_wire(remote_ts)))
    payloads.append(TsR(narrowing.to_wire(local_ts)))
    return payloads, child


def _answer_ke(sa: IkeSa, suite: Suite, ke_payload: Ke | None) -> tuple[Ke | None, bytes]:
    if suite.ke is KeId.NONE:
        return None, b""
    if ke_payload is None or ke_payload.method != suite.ke:
        raise Refusal(
            NotifyType.INVALID_KE_PAYLOAD,
            f"key exchange method {suite.ke.vici_name} is required",
            int(suite.ke).to_bytes(2, "big"),
        )
    try:
        public, shared = ke.get(suite.ke).respond(ke_payload.data, sa.host.random)
    except (KeError, UnknownAlgorithm) as error:
        raise Refusal(NotifyType.INVALID_SYNTAX, str(error)) from None
    return Ke(suite.ke, public), shared


def _unacceptable(message: Message) -> str:
    tsi, tsr = message.get(TsI), message.get(TsR)
    remote = narrowing.text(narrowing.from_wire(tsi.selectors if tsi else ()))
    local = narrowing.text(narrowing.from_wire(tsr.selectors if tsr else ()))
    return f"traffic selectors {local} === {remote} unacceptable"
