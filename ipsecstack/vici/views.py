"""Views of live SAs -> VICI sections: strongSwan's keys, and ours of docs/vici.md. No key is ever in a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from ipsecstack.ipsec.sa import Address, SaCounters, SecurityProtocol
from ipsecstack.keyex.base import ChildSaView, IkeCounters, IkeSaView
from ipsecstack.vici.codec import Outgoing
from ipsecstack.wire.transforms import IntegId, KeId

SaPair = tuple[SaCounters | None, SaCounters | None]
Section = dict[str, "str | list[str] | Outgoing"]

# SaCounters field -> key; strongSwan has no such keys. Only drops that can happen in that direction.
_DROPS_IN = {
    "integrity_errors": "integrity-errors-in",
    "replay_errors": "replay-errors-in",
    "policy_errors": "policy-errors-in",
    "padding_errors": "padding-errors-in",
    "other_errors": "other-errors-in",
}
# ReplayCounts field -> key, where the data plane tells the kinds apart.
_DETAILS = ("dummies", "padded", "compressed", "fragments")
_REPLAYS_IN = {
    "beyond_window": "replays-beyond-window-in",
    "before_window": "replays-before-window-in",
    "duplicates": "replays-duplicate-in",
    "zero": "replays-zero-in",
    "out_of_order": "out-of-order-in",
}
_DROPS_OUT = {"policy_errors": "policy-errors-out", "other_errors": "other-errors-out"}


def ike_name(view: IkeSaView) -> str:
    """The name that the section of an IKE SA has, also before its connection is known."""
    return view.name or "(unnamed)"


def ike_section(view: IkeSaView, now: float, generation: int | None = None) -> Section:
    """The keys of an IKE SA without its children. ``now`` is of the same clock as the view's times."""
    s: Section = {
        "uniqueid": str(view.uniqueid),
        "version": str(view.version),
        "state": view.state,
        **_address("local", view.local),
        "local-id": view.local_id.text if view.local_id else "%any",
        **_address("remote", view.remote),
        "remote-id": view.remote_id.text if view.remote_id else "%any",
    }
    if view.initiator:
        s["initiator"] = "yes"
    s["initiator-spi"] = view.initiator_spi.hex()
    s["responder-spi"] = view.responder_spi.hex()
    for key, holds in (
        ("nat-local", view.nat_local),
        ("nat-remote", view.nat_remote),
        ("nat-fake", view.nat_fake),
        ("nat-any", view.nat_local or view.nat_remote or view.nat_fake),
    ):
        if holds:
            s[key] = "yes"
    if view.encr is not None:
        s["encr-alg"] = view.encr.vici_name
        if view.encr_key_bits:
            s["encr-keysize"] = str(view.encr_key_bits)
    if view.integ not in (None, IntegId.NONE):
        s["integ-alg"] = view.integ.vici_name
    if view.prf is not None:
        s["prf-alg"] = view.prf.vici_name
    if view.ke not in (None, KeId.NONE):
        s["dh-group"] = view.ke.vici_name
    for place, method in enumerate(view.additional_ke, 1):
        s[f"ke{place}-alg"] = method.vici_name
    if view.ppk:
        s["ppk"] = "yes"
    if view.established is not None:
        s["established"] = _since(view.established, now)
        if view.rekey_time is not None:
            s["rekey-time"] = _until(view.rekey_time, now)
        if view.life_time is not None:
            s["life-time"] = _until(view.life_time, now)
    s["created"] = _since(view.created, now)
    if view.local_auth:
        s["local-auth"] = view.local_auth
    if view.remote_auth:
        s["remote-auth"] = view.remote_auth
    if view.local_id and not view.local_id.is_any:
        s["local-id-type"] = str(view.local_id.type)
    if view.remote_id and not view.remote_id.is_any:
        s["remote-id-type"] = str(view.remote_id.type)
    if view.remote_cert_expiry is not None:
        s["remote-cert-expiry"] = str(int(view.remote_cert_expiry))
    if view.local_cert_expiry is not None:
        s["local-cert-expiry"] = str(int(view.local_cert_expiry))
    if view.remote_eap_id is not None:
        s["remote-eap-id"] = view.remote_eap_id
    for key, vips in (("local-vips", view.local_vips), ("remote-vips", view.remote_vips)):
        if vips:
            s[key] = [str(vip) for vip in vips]
    if view.reauth_time is not None:
        s["reauth-time"] = _until(view.reauth_time, now)
    if view.tasks_queued:
        s["tasks-queued"] = list(view.tasks_queued)
    if view.tasks_active:
        s["tasks-active"] = list(view.tasks_active)
    if generation is not None:
        s["generation"] = str(generation)
    s["counters"] = ike_counters(view.counters)
    return s


def ike_counters(counters: IkeCounters) -> dict[str, str]:
    return {f.name.replace("_", "-"): str(getattr(counters, f.name)) for f in fields(counters)}


def child_key(child: ChildSaView) -> str:
    """The unique name of a Child SA's section."""
    return f"{child.name}-{child.uniqueid}"


def child_section(child: ChildSaView, counters: SaPair, now: float, generation: int | None = None) -> Section:
    """The keys of a Child SA. Counters that the data plane cannot tell are absent."""
    s: Section = {
        "name": child.name,
        "uniqueid": str(child.uniqueid),
        "reqid": str(child.reqid),
        "state": child.state,
        "mode": child.mode.value,
        "protocol": child.protocol.name,
    }
    if child.encapsulated:
        s["encap"] = "yes"
    s["spi-in"] = f"{child.spi_in:08x}"
    s["spi-out"] = f"{child.spi_out:08x}"
    if child.cpi_in:
        s["cpi-in"], s["cpi-out"] = f"{child.cpi_in:04x}", f"{child.cpi_out:04x}"
    if child.if_id:
        s["if-id-in"] = s["if-id-out"] = f"{child.if_id:08x}"
    if child.mark[0]:
        s["mark-in"] = s["mark-out"] = f"{child.mark[0]:08x}"
        s["mark-mask-in"] = s["mark-mask-out"] = f"{child.mark[1]:08x}"
    if child.protocol is not SecurityProtocol.AH:
        s["encr-alg"] = child.encr.vici_name
    if child.encr_key_bits:
        s["encr-keysize"] = str(child.encr_key_bits)
    if child.integ != IntegId.NONE:
        s["integ-alg"] = child.integ.vici_name
    if child.ke != KeId.NONE:
        s["dh-group"] = child.ke.vici_name
    if child.esn:
        s["esn"] = "1"
    # What was never installed has truly passed nothing; what the data plane does not know any more has no count.
    inbound = counters[0] or (SaCounters() if child.inbound is None else None)
    outbound = counters[1] or (SaCounters() if child.outbound is None else None)
    _traffic(s, "in", inbound, _DROPS_IN, now)
    _traffic(s, "out", outbound, _DROPS_OUT, now)
    if child.rekey_time is not None:
        s["rekey-time"] = _until(child.rekey_time, now)
    if child.life_time is not None:
        s["life-time"] = _until(child.life_time, now)
        s["lifetime-seconds"] = str(round(child.life_time - child.install_time))
    s["install-time"] = _since(child.install_time, now)
    s["replay-window"] = str(child.replay_window)
    for key, limit in (
        ("rekey-bytes", child.rekey_bytes),
        ("life-bytes", child.life_bytes),
        ("rekey-packets", child.rekey_packets),
        ("life-packets", child.life_packets),
    ):
        if limit:
            s[key] = str(limit)
    if generation is not None:
        s["generation"] = str(generation)
    s["local-ts"] = [ts.to_text() for ts in child.local_ts]
    s["remote-ts"] = [ts.to_text() for ts in child.remote_ts]
    return s


def _traffic(s: Section, way: str, counters: SaCounters | None, drops: dict[str, str], now: float) -> None:
    if counters is None:
        return
    s[f"bytes-{way}"] = str(counters.octets)
    s[f"packets-{way}"] = str(counters.packets)
    if counters.last_used is not None:
        s[f"use-{way}"] = _since(counters.last_used, now)
    for field, key in drops.items():
        if field not in counters.uncounted:
            s[key] = str(getattr(counters, field))
    if way == "in" and counters.replays is not None:
        for field, key in _REPLAYS_IN.items():
            s[key] = str(getattr(counters.replays, field))
    if counters.details is not None:
        for field in _DETAILS:
            s[f"{field}-{way}"] = str(getattr(counters.details, field))
        if way == "in":
            s["resynchronised-in"] = str(counters.details.resynchronised)


def _address(side: str, address: Address) -> dict[str, str]:
    return {f"{side}-host": str(address.host), f"{side}-port": str(address.port)}


def _since(then: float, now: float) -> str:
    return str(max(int(now - then), 0))


def _until(then: float, now: float) -> str:
    """Seconds left; negative when overdue, as strongSwan shows it."""
    return str(int(then - now))


def ids(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]
