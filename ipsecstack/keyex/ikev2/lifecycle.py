"""Life and death of IKE and Child SAs: what is installed, announced, scheduled, removed. No messages here."""

from __future__ import annotations

from ipsecstack.crypto.ikekeys import ChildKeys
from ipsecstack.ipsec.sa import Direction, Lifetime, Limit, Mode, SaDescription, SaId, SecurityProtocol
from ipsecstack.keyex.base import (
    ChildSaDeleted,
    ChildSaEstablished,
    ChildSaRekeyed,
    IkeSaDeleted,
    IkeSaEstablished,
    InstallSa,
    KeysDerived,
    NegotiationFailed,
    Random,
    ReleaseSpi,
    RemoveSa,
)
from ipsecstack.keyex.configuration import ChildAction
from ipsecstack.keyex.ikev2 import extensions, keymat, narrowing
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.ikev2.states import ChildState, State

# Reasons after which nothing is brought up again by close_action or dpd_action.
_LOCAL_REASONS = frozenset({"deleted", "shutdown", "replaced", "auth-failed", "rekeyed", "inactive"})


def fraction(random: Random) -> float:
    """A random number in [0, 1)."""
    return int.from_bytes(random(4), "big") / 2**32


def margin(random: Random, initiator: bool) -> float:
    """Which part of the configured margin an SA is rekeyed before its time: the end that made it goes first.

    Both halves are random: neither all SAs of an end nor the two ends of one SA rekey at the same time.
    """
    return (fraction(random) + initiator) / 2


def failed(sa: IkeSa, child: str | None, reason: str, message: str, *, received: bool = False) -> None:
    """Announce a negotiation that came to nothing; ``received``: the peer said so, else we found it."""
    sa.host.emit(NegotiationFailed(sa.name, sa.uniqueid, child, sa.remote, reason, message, received))


# --- IKE SAs ----------------------------------------------------------------------------------------------------------


def establish(sa: IkeSa, now: float) -> None:
    """The IKE SA is authenticated: schedule its rekeying and tell."""
    sa.established = now
    sa.give_up_at = None
    sa.last_inbound = now
    schedule(sa, now)
    sa.enter(State.ESTABLISHED)
    local_id = sa.local_id.text if sa.local_id else "?"
    remote_id = sa.remote_id.text if sa.remote_id else "?"
    sa.log(
        "IKE",
        0,
        f"IKE_SA {sa.tag} established between {sa.local.host}[{local_id}]...{sa.remote.host}[{remote_id}]",
    )
    if sa.rekey_at is not None and sa.expire_at is not None:
        sa.log("IKE", 1, f"scheduling rekeying in {int(sa.rekey_at - now)}s")
        sa.log("IKE", 1, f"maximum IKE_SA lifetime {int(sa.expire_at - now)}s")
    sa.host.emit(IkeSaEstablished(sa.view()))


def schedule(sa: IkeSa, now: float) -> None:
    """Rekeying at a random time before the configured one, and the end ``over_time`` after it."""
    config = sa.config
    if config is None or not config.rekey_time:
        return
    rand = min(config.rand_time, config.rekey_time)
    sa.rekey_at = now + config.rekey_time - rand * margin(sa.host.random, sa.initiator)
    sa.expire_at = sa.rekey_at + config.over_time if config.over_time else None


def destroy(sa: IkeSa, reason: str, now: float) -> None:
    """The IKE SA ends here and now, with all its children; actions configured for the reason follow."""
    if sa.state is State.DEAD:
        return
    for task in sa.tasks():
        task.before_end(sa, now)
    extensions.ended(sa, reason)
    was_established = sa.established is not None
    replaced = sa.successor is not None
    if sa.state is not State.DELETING:
        sa.enter(State.DELETING)
    view = sa.view()
    orphans = [child for child in sa.children if child.alive and not child.replaced_by]
    for child in list(sa.children):
        remove_child(sa, child, reason, now, act=False)
    for pending in sa.pending_ke.values():
        pending.drop()
    sa.pending_ke.clear()
    for task in sa.tasks():
        task.abort(sa, reason, now)
    sa.active.clear()
    sa.queue.clear()
    sa.host.release_addresses(sa)
    sa.state = State.DEAD
    sa.wipe()
    sa.host.forget(sa)
    if not replaced and not sa.silent:
        sa.host.emit(IkeSaDeleted(view, reason, was_established))
    for child in orphans:
        _act(sa, child, reason, now)


def _act(sa: IkeSa, child: ChildSa, reason: str, now: float) -> None:
    """dpd_action after a dead peer, close_action after a peer's delete; expired children come back if wanted."""
    if sa.config is None or reason in _LOCAL_REASONS or sa.host.connection(sa.name) is None:
        return
    action = child.config.dpd_action if reason == "timeout" else child.config.close_action
    if reason == "expired" and child.config.start_action in (ChildAction.START, ChildAction.RESTART):
        action = ChildAction.START
    if action in (ChildAction.START, ChildAction.RESTART):
        sa.host.start_child(sa.name, child.name, now)
    elif action is ChildAction.TRAP:
        sa.host.trap_child(sa.name, child.name, now)


# --- Child SAs --------------------------------------------------------------------------------------------------------


def install_child(
    sa: IkeSa, child: ChildSa, keys: ChildKeys, we_initiated: bool, now: float, *, hold_outbound: bool = False
) -> None:
    """Install a negotiated pair, inbound first. ``hold_outbound``: the outbound SA waits for ``release_outbound``.

    ``we_initiated`` tells which half of KEYMAT is ours: that of the exchange's initiator or of its responder (§2.17).
    """
    host, config = sa.host, child.config
    child.encapsulated = sa.nat
    child.install_time = now
    rand = margin(host.random, we_initiated)
    if config.rekey_time:
        child.rekey_at = now + config.rekey_time - min(config.rand_time, config.rekey_time) * rand
    if config.life_time:
        child.expire_at = now + config.life_time
    child.idle_at = now + config.inactivity if config.inactivity else None
    child.lifetime = Lifetime(
        octets=Limit(max(0, config.rekey_bytes - int(config.rand_bytes * rand)), config.life_bytes),
        packets=Limit(max(0, config.rekey_packets - int(config.rand_packets * rand)), config.life_packets),
    )
    assert sa.config is not None
    local_ts, remote_ts = child.local_ts, child.remote_ts
    if config.pfp:  # one entry has the SAs of all packets (RFC 4301 §4.4.1.1): each selects its own
        local_ts = narrowing.resolve(config.local_ts, narrowing.local_hosts(sa))
        remote_ts = narrowing.resolve(config.remote_ts, narrowing.remote_hosts(sa))
    child.policy, child.reqid = host.acquire_policy(
        sa.config.name, config, local_ts, remote_ts, child.protocol
    )
    own = (keys.encr_i, keys.integ_i) if we_initiated else (keys.encr_r, keys.integ_r)
    peer = (keys.encr_r, keys.integ_r) if we_initiated else (keys.encr_i, keys.integ_i)
    inbound = _describe(sa, child, Direction.IN, *peer)
    outbound = _describe(sa, child, Direction.OUT, *own)
    child.inbound = inbound.id
    _install(sa, child, inbound)
    child.pending_out = outbound
    host.installed(outbound.id, child)  # taken from now on, though it may be installed later
    child.owner = sa
    sa.children.append(child)
    if hold_outbound:
        child.check_outbound_at = now + host.options.outbound_check
    else:
        release_outbound(sa, child)
    host.touch(sa, child)


def release_outbound(sa: IkeSa, child: ChildSa) -> None:
    """Send over this Child SA from now on, unless what replaced it in turn does that already."""
    later = child.replaced_by
    while later is not None:
        if later.outbound is not None:
            _drop_pending(sa, child)
            return
        later = later.replaced_by
    if child.pending_out is not None:
        outbound, child.pending_out = child.pending_out, None
        child.check_outbound_at = None
        child.outbound = outbound.id
        _install(sa, child, outbound)
        sa.host.touch(sa, child)


def _install(sa: IkeSa, child: ChildSa, description: SaDescription) -> None:
    sa.host.installed(description.id, child)
    sa.host.emit(InstallSa(description))
    if sa.host.options.export_keys and description.protocol is SecurityProtocol.ESP:
        sa.host.emit(KeysDerived("esp_sa", keymat.esp_line(description)))


def peer_spi_free(sa: IkeSa, protocol: SecurityProtocol, spi: int) -> bool:
    """No SA goes to this SPI at the peer's address yet. Another peer behind the same NAT may have it, or claim it."""
    return sa.host.child_of(SaId(Direction.OUT, protocol, spi, sa.remote.host)) is None


def _drop_pending(sa: IkeSa, child: ChildSa) -> None:
    """The outbound SA that waited will never be installed."""
    if child.pending_out is not None:
        sa.host.removed(child.pending_out.id)
    child.pending_out = child.check_outbound_at = None


def _remove(sa: IkeSa, which: SaId) -> None:
    sa.host.emit(RemoveSa(which))
    sa.host.removed(which)


def _describe(sa: IkeSa, child: ChildSa, direction: Direction, encr: bytes, integ: bytes) -> SaDescription:
    incoming = direction is Direction.IN
    config = child.config
    padded = (
        not incoming and child.tfc and child.protocol is SecurityProtocol.ESP and child.mode is Mode.TUNNEL
    )
    source, destination = child.originals if incoming and child.originals else (None, None)
    return SaDescription(
        direction=direction,
        protocol=child.protocol,
        mode=child.mode,
        spi=child.spi_in if incoming else child.spi_out,
        source=sa.remote if incoming else sa.local,
        destination=sa.local if incoming else sa.remote,
        encapsulated=child.encapsulated,
        encr=child.suite.encr,
        encr_key_bits=child.suite.key_bits,
        integ=child.suite.integ,
        key_encr=encr,
        key_integ=integ,
        esn=bool(child.suite.esn),
        replay_window=child.config.replay_window,
        lifetime=child.lifetime,
        local_ts=child.local_ts,
        remote_ts=child.remote_ts,
        reqid=child.reqid,
        tfc=config.tfc if padded else 0,
        dummy_rate=config.dummy_rate if not incoming and child.protocol is SecurityProtocol.ESP else 0.0,
        ipcomp_cpi=child.cpi_in if incoming else child.cpi_out,
        original_source=source,
        original_destination=destination,
        copy_dscp=config.copy_dscp,
        copy_df=config.copy_df,
        copy_ecn=config.copy_ecn,
        non_first_fragments=child.non_first_fragments,
        sha256_96=config.sha256_96,
        interface=config.interface,
        if_id=config.if_id,
        mark=config.mark if config.mark_in_sa or not incoming else (0, 0),
    )


def check_outbound(sa: IkeSa, child: ChildSa, now: float) -> None:
    """If the peer sends over the new pair, it can receive there, too, even if it never deletes the old one."""
    child.check_outbound_at = None
    if child.pending_out is None or child.inbound is None:
        return
    if sa.host.last_inbound(child.inbound) is not None:
        release_outbound(sa, child)
    else:
        child.check_outbound_at = now + sa.host.options.outbound_check
        sa.host.touch_timer(sa)


def check_idle(sa: IkeSa, child: ChildSa, now: float) -> bool:
    """Whether nothing passed for as long as ``inactivity`` says, in either direction. Else look again later."""
    child.idle_at = None
    if not child.alive:
        return False
    used = [sa.host.last_inbound(one) for one in (child.inbound, child.outbound) if one is not None]
    last = max([child.install_time, *(at for at in used if at is not None)])
    if now - last >= child.config.inactivity:
        sa.log("IKE", 1, f"closing CHILD_SA {child.tag} after {int(now - last)}s of inactivity")
        return True
    child.idle_at = last + child.config.inactivity
    sa.host.touch_timer(sa)
    return False


def announce_child(sa: IkeSa, child: ChildSa) -> None:
    """A new Child SA is up."""
    sa.log(
        "IKE",
        0,
        f"CHILD_SA {child.tag} established with SPIs {child.spi_in:08x}_i {child.spi_out:08x}_o and TS "
        f"{narrowing.text(child.local_ts)} === {narrowing.text(child.remote_ts)}",
    )
    sa.host.emit(ChildSaEstablished(sa.view(), child.view()))


def replace_child(sa: IkeSa, old: ChildSa, new: ChildSa) -> None:
    """``new`` took over from ``old``, which is to be deleted."""
    old.state = ChildState.REKEYED
    old.rekey_at = None
    old.replaced_by, new.replaces = new, old
    sa.host.touch(sa, old)
    sa.log(
        "IKE",
        0,
        f"CHILD_SA {old.tag} rekeyed to {new.tag} with SPIs {new.spi_in:08x}_i {new.spi_out:08x}_o and TS "
        f"{narrowing.text(new.local_ts)} === {narrowing.text(new.remote_ts)}",
    )
    sa.host.count(sa.name, "child-rekey")
    sa.host.emit(ChildSaRekeyed(sa.view(), old.view(), new.view()))


def linger_child(sa: IkeSa, child: ChildSa, now: float) -> None:
    """The outbound SA goes; the inbound one stays a little for packets that are under way."""
    if child.state is ChildState.DELETED:
        return
    _hand_over(sa, child)
    _relieve(child)
    _drop_pending(sa, child)
    if child.outbound is not None:
        _remove(sa, child.outbound)
    child.state = ChildState.DELETED
    child.remove_at = now + sa.host.options.delete_rekeyed_delay
    child.rekey_at = child.expire_at = child.idle_at = None
    sa.host.touch(sa, child)


def _relieve(child: ChildSa) -> None:
    """The Child SA that was made beside this one, in a reauthentication, sends from now on."""
    new, child.relief = child.relief, None
    if new is not None and new.owner is not None and new in new.owner.children:
        release_outbound(new.owner, new)


def _hand_over(sa: IkeSa, child: ChildSa) -> None:
    """What replaced ``child`` sends from now on. When a redundant SA of a collision goes, the old one still sends: the
    peer may not have the winner before it has our response to its request, which its deletion of the old one proves."""
    winner = child.replaced_by
    if winner is not None and (winner.replaces is child or winner.replaces not in sa.children):
        release_outbound(sa, winner)


def remove_child(sa: IkeSa, child: ChildSa, reason: str, now: float, *, act: bool = True) -> None:
    """Take a Child SA down: data plane, policy, tables, events, and the action configured for the reason."""
    if child not in sa.children:
        return
    host = sa.host
    if child.replaced_by is not None:
        _hand_over(sa, child)
        reason = "rekeyed"
    lingering = child.state is ChildState.DELETED
    _relieve(child)
    _drop_pending(sa, child)
    if child.outbound is not None and not lingering:
        _remove(sa, child.outbound)
    if child.inbound is not None:
        _remove(sa, child.inbound)
    was_alive = child.alive
    child.state = ChildState.DELETED
    sa.children.remove(child)
    child.replaces = None  # no chain of all that ever was
    host.release_cpi(child.spi_in)
    if child.policy is not None:
        host.release_policy(child.policy)
    host.child_gone(child)
    host.touch(sa)
    host.emit(ChildSaDeleted(sa.view(), child.view(), reason))
    if act and was_alive:
        _act(sa, child, reason, now)


def release_spi(sa: IkeSa, spi: int) -> None:
    """Give back an inbound SPI that was reserved and never installed, with the CPI that goes with it."""
    if spi:
        sa.host.release_cpi(spi)
        sa.host.emit(ReleaseSpi(spi))
