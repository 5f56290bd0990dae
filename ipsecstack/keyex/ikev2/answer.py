"""Answering the request for a Child SA, in IKE_AUTH and CREATE_CHILD_SA alike (RFC 7296 §1.2, §1.3.1, §2.9, §2.17)."""

from __future__ import annotations

from dataclasses import replace

from ipsecstack.crypto import ke
from ipsecstack.crypto.errors import KeError, UnknownAlgorithm
from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.keyex.configuration import ChildConfig, ConnectionConfig
from ipsecstack.keyex.ikev2 import agreement, lifecycle, narrowing, unique
from ipsecstack.keyex.ikev2.agreement import Agreement
from ipsecstack.keyex.ikev2.offer import esp_proposals
from ipsecstack.keyex.ikev2.proposals import Suite, proposals_text, select
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.task import Refusal
from ipsecstack.wire.ikev2 import Ke, Message, Nonce, Notify, NotifyType, Payload, Sa, TsI, TsR
from ipsecstack.wire.transforms import KeId

Found = tuple[ConnectionConfig, ChildConfig, tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]


def _asked(sa: IkeSa, message: Message) -> dict[Mode, tuple[list[TrafficSelector], list[TrafficSelector]]]:
    """(local, remote) selectors of the request, as a child of each mode sees them."""
    tsi, tsr = message.get(TsI), message.get(TsR)
    assert tsi is not None
    assert tsr is not None
    plain = narrowing.from_wire(tsr.selectors), narrowing.from_wire(tsi.selectors)
    if message.notify(NotifyType.USE_TRANSPORT_MODE) is None:
        return {Mode.TUNNEL: plain, Mode.TRANSPORT: plain}
    return {Mode.TUNNEL: plain, Mode.TRANSPORT: agreement.without_nat(sa, *plain)}


def find_child(sa: IkeSa, connections: list[ConnectionConfig], message: Message) -> Found | None:
    """The child whose selectors best fit what the peer asks for, and the narrowed selectors (local, remote).

    A child with just these selectors wins, then one that allows all of them, then one that allows the first ones (those
    of the packet that caused the request, §2.9), then the first with something in common. One whose proposals fit goes
    before.
    """
    sa_payload = message.get(Sa)
    if message.get(TsI) is None or message.get(TsR) is None or sa_payload is None:
        return None
    asked = _asked(sa, message)
    whole = {mode: (tuple(local), tuple(remote)) for mode, (local, remote) in asked.items()}
    for config in connections:  # the usual case, which thousands of children must not make slow
        for child in config.children:
            if (child.local_ts, child.remote_ts) == whole[child.mode] and child.policy == "PROTECT":
                local_ts = narrowing.narrow(child.local_ts, child.local_ts)
                remote_ts = narrowing.narrow(child.remote_ts, child.remote_ts)
                if local_ts and remote_ts and _select(sa, child, sa_payload, False, None) is not None:
                    return config, child, local_ts, remote_ts
    best = None
    best_score = (-1, -1)
    for config in connections:
        for child in config.children:
            if child.policy != "PROTECT":
                continue
            asked_local, asked_remote = asked[child.mode]
            own_local = narrowing.resolve(child.local_ts, narrowing.local_hosts(sa))
            own_remote = narrowing.resolve(child.remote_ts, narrowing.remote_hosts(sa))
            local_ts = narrowing.narrow(own_local, asked_local)
            remote_ts = narrowing.narrow(own_remote, asked_remote)
            if not local_ts or not remote_ts:
                continue
            fits = _select(sa, child, sa_payload, False, None) is not None
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


def _select(
    sa: IkeSa, child: ChildConfig, sa_payload: Sa, with_ke: bool, preferred: int | None
) -> Suite | None:
    own = tuple(p for p in esp_proposals(child) if agreement.usable(sa, child, p.protocol))
    return select(
        own, sa_payload.proposals, protocol=None, with_ke=with_ke, preferred_ke=preferred, spi_octets=4
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
    payloads, agreed = choose(sa, message, nr, with_ke=with_ke, rekeyed=rekeyed)
    # An initiator has its new inbound SA only when our response is there: after a rekeying and a reauthentication go on
    # sending over the old one until it deletes that.
    elder = (
        unique.elder(sa, agreed.config.name, agreed.local_ts, agreed.remote_ts) if rekeyed is None else None
    )
    hold = rekeyed is not None or elder is not None
    child = agreement.install(sa, agreed, ni, nr, now, hold_outbound=hold)
    if elder is not None:
        elder.relief = child
    return payloads, child


def choose(
    sa: IkeSa, message: Message, nr: bytes, *, with_ke: bool, rekeyed: ChildSa | None = None
) -> tuple[list[Payload], Agreement]:
    """What we agree to, and the response that says so; nothing is installed yet. Refusal as for ``answer_offer``."""
    sa_payload = message.get(Sa)
    if sa_payload is None or message.get(TsI) is None or message.get(TsR) is None:
        raise Refusal(NotifyType.INVALID_SYNTAX, "SA or traffic selectors are missing")
    assert sa.config is not None
    limit = sa.host.options.children_limit * (1 if rekeyed is None else 2)
    if len(sa.children) >= limit:
        raise Refusal(NotifyType.NO_ADDITIONAL_SAS, f"the IKE_SA has {limit} CHILD_SAs, children_limit")
    child_config, local_ts, remote_ts = _child_for(sa, message, rekeyed)
    ke_payload = message.get(Ke)
    suite = _select(sa, child_config, sa_payload, with_ke, ke_payload.method if ke_payload else None)
    if suite is None:
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN,
            f"no acceptable proposal found for CHILD_SA {child_config.name}: "
            f"received {proposals_text(sa_payload.proposals)}",
        )
    entry = sa.host.pad.get(sa.name)
    if entry is not None and not all(
        any(entry.authorises((ts,), narrowing.of_host(own)) for own in narrowing.remote_hosts(sa))
        for ts in remote_ts
    ):
        raise Refusal(
            NotifyType.TS_UNACCEPTABLE, f"'{sa.name}' does not authorise {narrowing.text(remote_ts)}"
        )
    mode = _mode(sa, child_config, message, local_ts, remote_ts)
    ke_answer, shared = _answer_ke(sa, suite, ke_payload)
    if int.from_bytes(suite.spi, "big") < 256:
        raise Refusal(NotifyType.INVALID_SYNTAX, "an SPI below 256 is reserved")
    protocol = SecurityProtocol(suite.protocol)
    if not lifecycle.peer_spi_free(sa, protocol, int.from_bytes(suite.spi, "big")):
        raise Refusal(NotifyType.TEMPORARY_FAILURE, f"peer's SPI {suite.spi.hex()} is in use already")
    cpi_out = agreement.peer_cpi(message) if child_config.ipcomp else 0
    if "ipcomp" not in sa.host.options.abilities:
        cpi_out = 0
    spi_in = sa.host.allocate_spi()
    cpi_in = sa.host.allocate_cpi(spi_in) if cpi_out else 0
    if not cpi_in:
        cpi_out = 0  # no CPI is free: IPComp is declined, as it may be
    sa.log("CFG", 1, f"selected proposal: {suite}")
    plain = _asked(sa, message)[Mode.TUNNEL]
    natted = mode is Mode.TRANSPORT and (sa.nat_local or sa.nat_remote)
    agreed = Agreement(
        child_config,
        suite,
        mode,
        spi_in,
        local_ts,
        remote_ts,
        False,
        cpi_in,
        cpi_out,
        agreement.tfc_allowed(message),
        agreement.fragments_allowed(message, local_ts, remote_ts),
        agreement.first_hosts(*plain) if natted else None,
        shared,
    )
    payloads = _notifies(sa, message, agreed)
    if rekeyed is None and _more_possible(sa, message, agreed):
        payloads.append(Notify(NotifyType.ADDITIONAL_TS_POSSIBLE))
    payloads.append(Sa((replace(suite.wire, spi=spi_in.to_bytes(4, "big")),)))
    if with_ke:
        payloads.append(Nonce(nr))
        if ke_answer is not None:
            payloads.append(ke_answer)
    payloads.append(TsI(narrowing.to_wire(remote_ts)))
    payloads.append(TsR(narrowing.to_wire(local_ts)))
    return payloads, agreed


def _child_for(
    sa: IkeSa, message: Message, rekeyed: ChildSa | None
) -> tuple[ChildConfig, tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    assert sa.config is not None
    config = sa.config
    if rekeyed is not None:
        own = replace(rekeyed.config, local_ts=rekeyed.local_ts, remote_ts=rekeyed.remote_ts)
        config = replace(config, children=(own,))
    found = find_child(sa, [config], message)
    if found is None:
        raise Refusal(NotifyType.TS_UNACCEPTABLE, _unacceptable(message))
    _, child_config, local_ts, remote_ts = found
    if rekeyed is not None:
        return rekeyed.config, local_ts, remote_ts
    if child_config.pfp:
        local_ts, remote_ts = _populated(sa, child_config, message, local_ts, remote_ts)
    return child_config, local_ts, remote_ts


def _populated(
    sa: IkeSa,
    config: ChildConfig,
    message: Message,
    local_ts: tuple[TrafficSelector, ...],
    remote_ts: tuple[TrafficSelector, ...],
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """Populate-from-packet: an SA for the packet that the peer's first selectors describe (§2.9, RFC 4301 §4.4.1.1)."""
    asked_local, asked_remote = _asked(sa, message)[config.mode]
    local = narrowing.of_packet(config.pfp, "local", asked_local[0])
    remote = narrowing.of_packet(config.pfp, "remote", asked_remote[0])
    if local is None or remote is None:
        raise Refusal(
            NotifyType.SINGLE_PAIR_REQUIRED,
            f"CHILD_SA {config.name} is for one value of {', '.join(sorted(config.pfp))}",
        )
    local_ts, remote_ts = narrowing.narrow(local_ts, [local]), narrowing.narrow(remote_ts, [remote])
    if not local_ts or not remote_ts:
        raise Refusal(NotifyType.TS_UNACCEPTABLE, _unacceptable(message))
    return local_ts, remote_ts


def _more_possible(sa: IkeSa, message: Message, agreed: Agreement) -> bool:
    """Would other selectors that the peer asked for be taken, in an SA of their own (§2.9)?"""
    assert sa.config is not None
    asked = _asked(sa, message)
    for child in sa.config.children:
        if child.policy != "PROTECT":
            continue
        asked_local, asked_remote = asked[child.mode]
        if narrowing.within(asked_local, agreed.local_ts) and narrowing.within(
            asked_remote, agreed.remote_ts
        ):
            return False  # it has everything that it asked for
        local_ts = narrowing.narrow(narrowing.resolve(child.local_ts, narrowing.local_hosts(sa)), asked_local)
        remote_ts = narrowing.narrow(
            narrowing.resolve(child.remote_ts, narrowing.remote_hosts(sa)), asked_remote
        )
        if not local_ts or not remote_ts:
            continue
        if not (
            narrowing.within(local_ts, agreed.local_ts) and narrowing.within(remote_ts, agreed.remote_ts)
        ):
            return True
    return False


def _mode(
    sa: IkeSa,
    config: ChildConfig,
    message: Message,
    local_ts: tuple[TrafficSelector, ...],
    remote_ts: tuple[TrafficSelector, ...],
) -> Mode:
    """The mode that both ends want; a peer that asks for a tunnel where transport mode is configured is refused."""
    wanted = message.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if config.mode is not Mode.TRANSPORT:
        return Mode.TUNNEL  # the peer sees that its wish was declined, and decides
    possible = "transport" in sa.host.options.abilities and agreement.host_to_host(sa, local_ts, remote_ts)
    if wanted and possible:
        return Mode.TRANSPORT
    if possible:
        raise Refusal(
            NotifyType.NO_PROPOSAL_CHOSEN, f"CHILD_SA {config.name} is transport mode, peer wants a tunnel"
        )
    sa.log("IKE", 1, f"not using transport mode for '{config.name}', not host-to-host")
    return Mode.TUNNEL


def _notifies(sa: IkeSa, message: Message, agreed: Agreement) -> list[Payload]:
    """What the response says beside SA and selectors."""
    payloads: list[Payload] = []
    if agreed.cpi_in:
        payloads.append(agreement.ipcomp_notify(agreed.cpi_in))
    if agreed.mode is Mode.TRANSPORT:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))
    for notify in agreement.plain_notifies(sa, agreed.mode, agreed.local_ts):
        asked = message.notify(NotifyType.NON_FIRST_FRAGMENTS_ALSO) is not None
        if asked or not (isinstance(notify, Notify) and notify.type == NotifyType.NON_FIRST_FRAGMENTS_ALSO):
            payloads.append(notify)
    return payloads


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
