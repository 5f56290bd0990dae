"""The gateway as the MIBs see it: tunnels with an identity and totals that outlive rekeying, fed by any source."""

from agent.gateway.model import Gateway
from agent.gateway.records import ChildRecord, ConnectionRecord, FailureRecord, IkeRecord
from agent.gateway.selectors import Selector
from agent.gateway.source import Commander, CommandError, Progress, Source, SourceStatus

__all__ = [
    "ChildRecord",
    "CommandError",
    "Commander",
    "ConnectionRecord",
    "FailureRecord",
    "Gateway",
    "IkeRecord",
    "Progress",
    "Selector",
    "Source",
    "SourceStatus",
]
