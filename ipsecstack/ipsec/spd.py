"""The Security Policy Database: an ordered list of entries (RFC 4301 §4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ipsecstack.ipsec.sa import Mode, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector


class Action(Enum):
    PROTECT = "PROTECT"
    BYPASS = "BYPASS"
    DISCARD = "DISCARD"


@dataclass(frozen=True, slots=True)
class SpdEntry:
    """One policy, for both directions: local selectors against the inner source outbound, the inner destination inbound.

    ``reqid`` ties a PROTECT entry to its SAs. Entries with a lower ``priority`` are asked first; equal ones in the
    order they were added. ``name`` is connection/child. ``trap`` asks for an acquire when no SA is there.
    """

    name: str
    action: Action
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    priority: int
    reqid: int = 0
    protocol: SecurityProtocol = SecurityProtocol.ESP
    mode: Mode = Mode.TUNNEL
    trap: bool = False
