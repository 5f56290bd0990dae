"""A small SNMP manager on pysnmp, so that the demo can show what the agent says where net-snmp is not installed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pysnmp.hlapi.v3arch.asyncio import (
    CommunityData,
    ContextData,
    SnmpEngine,
    UdpTransportTarget,
    get_cmd,
    next_cmd,
)
from pysnmp.proto.rfc1902 import Null, ObjectName

CISCO = "1.3.6.1.4.1.9.9.171.1"
IKE_TUNNEL = f"{CISCO}.2.3.1"
IPSEC_TUNNEL = f"{CISCO}.3.2.1"
SYS_UP_TIME = "1.3.6.1.2.1.1.3.0"


class Manager:
    """Asks one agent as one read-only community; every answer is None when there is none in time."""

    def __init__(self, host: str, port: int, community: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = SnmpEngine()
        self._address = (host, port)
        self._who = CommunityData(community, mpModel=1)  # noqa: S508  (read-only, loopback, random)

    def close(self) -> None:
        self._engine.close_dispatcher()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _target(self) -> UdpTransportTarget:
        return await UdpTransportTarget.create(self._address, timeout=0.7, retries=0)

    async def _get(self, oids: Sequence[str]) -> list[object] | None:
        names = [(ObjectName(oid), Null("")) for oid in oids]
        trouble, status, _, varbinds = await get_cmd(
            self._engine, self._who, await self._target(), ContextData(), *names, lookupMib=False
        )
        return None if trouble or status else [value for _, value in varbinds]

    async def _indexes(self, column: str) -> list[str]:
        found: list[str] = []
        at = column
        while True:
            trouble, status, _, varbinds = await next_cmd(
                self._engine,
                self._who,
                await self._target(),
                ContextData(),
                (ObjectName(at), Null("")),
                lookupMib=False,
            )
            if trouble or status:
                return found
            at = str(varbinds[0][0])
            if not at.startswith(column + "."):
                return found
            found.append(at[len(column) + 1 :])

    def numbers(self, *oids: str) -> list[int | None] | None:
        """Integer values, None for one that has no instance; None when the agent does not answer."""
        values = self._loop.run_until_complete(self._get(oids))
        if values is None:
            return None
        numbers: list[int | None] = []
        for value in values:
            try:
                numbers.append(int(value))  # type: ignore[call-overload]
            except (TypeError, ValueError):
                numbers.append(None)
        return numbers

    def indexes(self, column: str) -> list[str]:
        """Index suffixes of a column's instances."""
        return self._loop.run_until_complete(self._indexes(column))

    def answers(self) -> bool:
        return self.numbers(SYS_UP_TIME) is not None
