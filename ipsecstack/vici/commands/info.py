"""version, stats, get-algorithms, reload-settings."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

from ipsecstack.config.tree import ConfigError
from ipsecstack.crypto import auth, encr, integ, ke, prf
from ipsecstack.vici.codec import Outgoing
from ipsecstack.vici.registry import command, failure, success
from ipsecstack.vici.request import Request
from ipsecstack.wire.transforms import IntegId

if TYPE_CHECKING:
    from ipsecstack.vici.server import ViciServer


@command("version")
def version(server: ViciServer, request: Request, now: float) -> Outgoing:
    system = platform.uname()
    return {
        "daemon": server.info.name,
        "version": server.info.version,
        "sysname": system.system,
        "release": system.release,
        "machine": system.machine,
    }


@command("stats")
def stats(server: ViciServer, request: Request, now: float) -> Outgoing:
    sas = server.endpoint.ike_sas()
    half_open = sum(1 for view in sas if view.state in ("CREATED", "CONNECTING"))
    dataplane = server.stack.dataplane
    reply: dict[str, str | list[str] | Outgoing] = {
        "uptime": {
            "running": duration(now - server.info.started),
            "since": time.strftime("%b %d %H:%M:%S %Y", time.localtime(server.info.started_wall)),
        },
        # One thread runs everything, and it is answering right now; there are no job queues.
        "workers": {
            "total": "1",
            "idle": "0",
            "active": {"critical": "0", "high": "0", "medium": "1", "low": "0"},
        },
        "queues": {"critical": "0", "high": "0", "medium": "0", "low": "0"},
        "scheduled": str(int(server.endpoint.next_timer() is not None)),
        "ikesas": {"total": str(len(sas)), "half-open": str(half_open)},
        "plugins": [server.info.name, f"dataplane-{dataplane.features.name}"],
        "ike": {key: str(value) for key, value in server.endpoint.statistics().items()},
        "data-plane": dataplane.features.name,
        "ipsec": {
            key.replace("_", "-"): str(getattr(dataplane.counters, key))
            for key in dataplane.counters.__dataclass_fields__
        },
        "vici": {
            "clients": str(server.sessions),
            **{
                key.replace("_", "-"): str(getattr(server.counters, key))
                for key in server.counters.__dataclass_fields__
            },
        },
    }
    return reply


def duration(seconds: float) -> str:
    """``50 seconds``, ``3 minutes``, ``2 hours``: the largest unit of which there are two, as strongSwan writes it."""
    count = max(int(seconds), 0)
    unit = "second"
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if count > 2 * size:
            count, unit = count // size, name
            break
    return f"{count} {unit}{'' if count == 1 else 's'}"


@command("get-algorithms")
def get_algorithms(server: ViciServer, request: Request, now: float) -> Outgoing:
    provider = "ipsecstack"
    ciphers = list(encr.registered())
    return {
        "encryption": {e.name: provider for e in ciphers if not e.aead},
        "integrity": {i.name: provider for i in integ.registered() if i.id != IntegId.NONE},
        "aead": {e.name: provider for e in ciphers if e.aead},
        "hasher": {h.vici_name: provider for h in auth.SUPPORTED_HASHES},
        "prf": {p.name: provider for p in prf.registered()},
        "dh": {k.name: provider for k in ke.registered()},
    }


@command("reload-settings")
def reload_settings(server: ViciServer, request: Request, now: float) -> Outgoing:
    """Re-read the configuration file and the certificate folders; a broken file changes nothing."""
    if server.reload is None:
        return failure("the daemon was started without a configuration file")
    try:
        server.reload()
    except ConfigError as error:
        return failure(f"nothing was changed: {error}")
    return success()
