"""IPSEC-GATEWAY-MIB, the project's own module: the sources that the agent reads and how well they answer."""

from __future__ import annotations

from collections.abc import Callable

from agent.gateway import Source, SourceStatus
from agent.gateway.view import View
from agent.smi import Column, ModuleBinding, Scalar, Table

MAX_INTERVAL = 2**31 - 1

STATES = {
    SourceStatus.UP: "connected",
    SourceStatus.STALE: "reconnecting",
    SourceStatus.DOWN: "lost",
    SourceStatus.CONNECTING: "connecting",
    SourceStatus.DISABLED: "disabled",
}


def count_sources(wanted: Callable[[Source], bool]) -> Callable[[View], int]:
    return lambda gateway: sum(map(wanted, gateway.sources))


def admin_string(value: str | None) -> bytes | None:
    """At most 255 octets, cut between characters (RFC 3411, SnmpAdminString)."""
    if value is None:
        return None
    return value.encode("utf-8", "replace")[:255].decode("utf-8", "ignore").encode()


def poll_age(source: Source) -> int | None:
    if source.last_contact is None:
        return None
    return min(int((source.clock() - source.last_contact) * 100), MAX_INTERVAL)


def poll_milliseconds(source: Source) -> int | None:
    return None if source.poll_seconds is None else round(source.poll_seconds * 1000)


SOURCES = Table(
    "igSourceTable",
    rows=lambda gateway: gateway.sources,
    index=lambda source: (source.index,),
    domain="source",
    # Polls and events count without a change of the model: nothing but the name is kept.
    columns=[
        Column("igSourceName", lambda source: source.name),
        Column("igSourceType", lambda source: source.kind),
        Column("igSourceAddress", lambda source: admin_string(source.address)),
        Column("igSourceState", lambda source: STATES[source.status], volatile=True),
        Column("igSourceDaemon", lambda source: admin_string(source.daemon), volatile=True),
        Column("igSourceVersion", lambda source: admin_string(source.version), volatile=True),
        Column("igSourceDataPlane", lambda source: admin_string(source.data_plane), volatile=True),
        Column("igSourceLastConnected", lambda source: source.connected_wall, volatile=True),
        Column("igSourceLastLost", lambda source: source.lost_wall, volatile=True),
        Column("igSourceReconnects", lambda source: max(0, source.connects - 1), volatile=True),
        Column("igSourceRestarts", lambda source: source.restarts, volatile=True),
        Column("igSourceLastPollAge", poll_age, volatile=True),
        Column("igSourceLastPollDuration", poll_milliseconds, volatile=True),
        Column("igSourcePolls", lambda source: source.polls, volatile=True),
        Column("igSourcePollFailures", lambda source: source.poll_failures, volatile=True),
        Column("igSourceEvents", lambda source: source.events, volatile=True),
        Column("igSourceMalformedMessages", lambda source: source.malformed, volatile=True),
        Column("igSourceLastError", lambda source: admin_string(source.last_error), volatile=True),
        Column("igSourceHalfOpenIkeSas", lambda source: source.half_open, volatile=True),
    ],
)


def binding() -> ModuleBinding:
    """What is served of IPSEC-GATEWAY-MIB."""
    return ModuleBinding(
        "IPSEC-GATEWAY-MIB",
        scalars=[
            Scalar(
                "igSourcesConfigured",
                count_sources(lambda source: source.status is not SourceStatus.DISABLED),
            ),
            Scalar("igSourcesConnected", count_sources(lambda source: source.status is SourceStatus.UP)),
        ],
        tables=[SOURCES],
    )
