"""Outputs of the stack -> VICI events (docs/vici.md, 'list-sas, list-sa and the updown and rekey events')."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipsecstack.keyex.base import (
    ChildSaDeleted,
    ChildSaEstablished,
    ChildSaRekeyed,
    ChildSaView,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyed,
    IkeSaUpdated,
    IkeSaView,
    LogRecorded,
    NegotiationFailed,
)
from ipsecstack.vici.codec import Outgoing, clip
from ipsecstack.vici.views import Section, child_key, child_section, ike_name, ike_section

if TYPE_CHECKING:
    from ipsecstack.vici.server import StackView

Builder = Callable[[Any, "StackView", float], Outgoing]

MAX_EVENT_CHILDREN = 256
"""Children of one IKE SA that fit into one message."""


def log_line(record: LogRecorded, *, thread: bool) -> dict[str, str]:
    """A log or (without thread) control-log event."""
    line = {"group": record.group, "level": str(record.level)}
    if thread:
        line["thread"] = "1"  # the stack has one
    if record.ike_name:
        line["ikesa-name"] = record.ike_name
    if record.ike_uniqueid is not None:
        line["ikesa-uniqueid"] = str(record.ike_uniqueid)
    line["msg"] = clip(record.message)
    return line


def _child(child: ChildSaView, stack: StackView, now: float) -> Section:
    return child_section(child, stack.child_counters(child), now)


def _with_children(ike: IkeSaView, children: dict[str, Section], now: float) -> Section:
    return {**ike_section(ike, now), "child-sas": children}


def _ike_up(event: IkeSaEstablished, stack: StackView, now: float) -> Outgoing:
    return {"up": "yes", ike_name(event.ike): ike_section(event.ike, now)}


def _ike_down(event: IkeSaDeleted, stack: StackView, now: float) -> Outgoing:
    section = ike_section(event.ike, now)
    section["reason"] = event.reason
    children = event.ike.children[:MAX_EVENT_CHILDREN]
    if children:
        section["child-sas"] = {child_key(child): _child(child, stack, now) for child in children}
    return {ike_name(event.ike): section}


def _ike_rekey(event: IkeSaRekeyed, stack: StackView, now: float) -> Outgoing:
    return {ike_name(event.new): {"old": ike_section(event.old, now), "new": ike_section(event.new, now)}}


def _ike_update(event: IkeSaUpdated, stack: StackView, now: float) -> Outgoing:
    section = ike_section(event.ike, now)
    hosts = {key: section[key] for key in ("local-host", "local-port", "remote-host", "remote-port")}
    return {**hosts, ike_name(event.ike): section}


def _child_up(event: ChildSaEstablished, stack: StackView, now: float) -> Outgoing:
    children = {child_key(event.child): _child(event.child, stack, now)}
    return {"up": "yes", ike_name(event.ike): _with_children(event.ike, children, now)}


def _child_down(event: ChildSaDeleted, stack: StackView, now: float) -> Outgoing:
    child = _child(event.child, stack, now)
    child["reason"] = event.reason
    return {ike_name(event.ike): _with_children(event.ike, {child_key(event.child): child}, now)}


def _child_rekey(event: ChildSaRekeyed, stack: StackView, now: float) -> Outgoing:
    pair: Section = {"old": _child(event.old, stack, now), "new": _child(event.new, stack, now)}
    return {ike_name(event.ike): _with_children(event.ike, {event.new.name: pair}, now)}


def _alert(event: NegotiationFailed, stack: StackView, now: float) -> Outgoing:
    alert = {"type": event.reason, "message": clip(event.message)}
    if event.ike_name:
        alert["ike"] = event.ike_name
    if event.ike_uniqueid is not None:
        alert["ike-uniqueid"] = str(event.ike_uniqueid)
    if event.child_name:
        alert["child"] = event.child_name
    if event.remote is not None:
        alert["remote-host"] = str(event.remote.host)
    return alert


def _told_of_every_child(event: ChildSaDeleted) -> tuple[str, ...]:
    """strongSwan sends no child-updown when a rekeyed Child SA goes: for its clients nothing went down. An event of
    ours tells each end, with the final counters."""
    return ("child-ended",) if event.reason == "rekeyed" else ("child-ended", "child-updown")


def names(event: object, name: str) -> tuple[str, ...]:
    """The VICI events that an output of the stack becomes."""
    if isinstance(event, IkeSaDeleted) and not event.established:
        return ()  # what never was up did not go down; its failure is an alert
    return _told_of_every_child(event) if isinstance(event, ChildSaDeleted) else (name,)


BUILDERS: dict[type, tuple[str, Builder]] = {
    IkeSaEstablished: ("ike-updown", _ike_up),
    IkeSaDeleted: ("ike-updown", _ike_down),
    IkeSaRekeyed: ("ike-rekey", _ike_rekey),
    IkeSaUpdated: ("ike-update", _ike_update),
    ChildSaEstablished: ("child-updown", _child_up),
    ChildSaDeleted: ("child-updown", _child_down),
    ChildSaRekeyed: ("child-rekey", _child_rekey),
    NegotiationFailed: ("alert", _alert),
}
