"""SNMPv2-MIB (RFC 3418) system and snmp groups, and the snmpEngine group of SNMP-FRAMEWORK-MIB (RFC 3411).

What these show is the agent itself, not the gateway: the getters ask an `AgentInfo` and leave the model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.smi import Column, ModuleBinding, Scalar, SetError, Table
from agent.smi.model import Change, ScalarWriter
from agent.smi.rowstatus import TestAndIncr


@dataclass(frozen=True, slots=True)
class Resource:
    """A row of sysORTable: a MIB module that the agent serves."""

    index: int
    oid: tuple[int, ...]
    description: str
    up_time: int


ENABLED = 1
DISABLED = 2
"""Values of snmpEnableAuthenTraps."""


class StoredScalar(ScalarWriter, Protocol):
    """A scalar that SET changes and that outlives restarts."""

    @property
    def value(self) -> Any: ...


class AgentInfo(Protocol):
    """What the agent knows of itself. Times are TimeTicks since its start."""

    description: str
    object_id: tuple[int, ...]
    services: int
    resources: Sequence[Resource]
    resources_changed: int
    engine_id: bytes
    engine_boots: int
    max_message_size: int
    set_serial: TestAndIncr

    @property
    def enable_authen_traps(self) -> StoredScalar:
        """snmpEnableAuthenTraps: ENABLED or DISABLED, kept across restarts."""
        ...

    @property
    def up_time(self) -> int: ...

    @property
    def engine_time(self) -> int: ...

    def system_value(self, name: str) -> str:
        """Current contact, name or location."""
        ...

    def change_system_value(self, name: str, value: str) -> Change:
        """The change that makes it so, also across restarts."""
        ...

    def is_writable(self, name: str) -> bool:
        """Whether the configuration lets SET change it."""
        ...

    def count(self, name: str) -> int:
        """A counter of the snmp group by its name without 'snmp', such as 'InPkts'."""
        ...


@dataclass(frozen=True, slots=True)
class SystemWriter:
    """SET of sysContact, sysName or sysLocation, where the configuration lists it as writable."""

    info: AgentInfo
    name: str

    def test(self, model: Any, value: bytes) -> Change:
        if not self.info.is_writable(self.name):
            raise SetError("notWritable", f"{self.name} is not in system.writable")
        return self.info.change_system_value(self.name, value.decode("ascii"))


COUNTERS = (
    "InPkts",
    "InBadVersions",
    "InBadCommunityNames",
    "InBadCommunityUses",
    "InASNParseErrs",
    "SilentDrops",
    "ProxyDrops",
)


def binding(info: AgentInfo) -> ModuleBinding:
    """SNMPv2-MIB over an AgentInfo."""
    set_serial: ScalarWriter = info.set_serial
    return ModuleBinding(
        "SNMPv2-MIB",
        scalars=[
            Scalar("sysDescr", lambda g: info.description),
            Scalar("sysObjectID", lambda g: info.object_id),
            Scalar("sysUpTime", lambda g: info.up_time),
            Scalar("sysContact", lambda g: info.system_value("contact"), SystemWriter(info, "contact")),
            Scalar("sysName", lambda g: info.system_value("name"), SystemWriter(info, "name")),
            Scalar("sysLocation", lambda g: info.system_value("location"), SystemWriter(info, "location")),
            Scalar("sysServices", lambda g: info.services),
            Scalar("sysORLastChange", lambda g: info.resources_changed),
            Scalar(
                "snmpEnableAuthenTraps", lambda g: info.enable_authen_traps.value, info.enable_authen_traps
            ),
            Scalar("snmpSetSerialNo", lambda g: info.set_serial.value, set_serial),
            *(_counter(info, name) for name in COUNTERS),
        ],
        tables=[
            Table(
                "sysORTable",
                rows=lambda g: info.resources,
                index=lambda r: (r.index,),
                columns=[
                    Column("sysORID", lambda r: r.oid),
                    Column("sysORDescr", lambda r: r.description),
                    Column("sysORUpTime", lambda r: r.up_time),
                ],
            )
        ],
    )


def framework_binding(info: AgentInfo) -> ModuleBinding:
    """SNMP-FRAMEWORK-MIB over an AgentInfo."""
    return ModuleBinding(
        "SNMP-FRAMEWORK-MIB",
        scalars=[
            Scalar("snmpEngineID", lambda g: info.engine_id),
            Scalar("snmpEngineBoots", lambda g: info.engine_boots),
            Scalar("snmpEngineTime", lambda g: info.engine_time),
            Scalar("snmpEngineMaxMessageSize", lambda g: info.max_message_size),
        ],
    )


def _counter(info: AgentInfo, name: str) -> Scalar:
    return Scalar(f"snmp{name}", lambda g: info.count(name))
