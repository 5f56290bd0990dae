"""The bench's table: twelve columns of cipSecTunnelTable. peer.c serves the same names, types and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.smi import Column, ModuleBinding, Table
from mibs.loader import MibSet

MODULE = "CISCO-IPSEC-FLOW-MONITOR-MIB"
NAME = "cipSecTunnelTable"
ENTRY = "1.3.6.1.4.1.9.9.171.1.3.2.1"
INTEGER, OCTETS, COUNTER32, COUNTER64 = 0x02, 0x04, 0x41, 0x46


def address(first: int) -> Callable[[int], bytes]:
    return lambda n: bytes((first, n >> 16 & 255, n >> 8 & 255, n & 255))


COLUMNS: dict[int, tuple[str, int, Callable[[int], Any]]] = {
    # number: (name, ASN.1 tag, value of a row)
    2: ("cipSecTunIkeTunnelIndex", INTEGER, lambda n: n),
    4: ("cipSecTunLocalAddr", OCTETS, address(10)),
    5: ("cipSecTunRemoteAddr", OCTETS, address(172)),
    7: ("cipSecTunEncapMode", INTEGER, lambda n: 1),
    9: ("cipSecTunLifeTime", INTEGER, lambda n: 3600),
    10: ("cipSecTunActiveTime", INTEGER, lambda n: n * 100),
    13: ("cipSecTunTotalRefreshes", COUNTER32, lambda n: n % 7),
    26: ("cipSecTunInOctets", COUNTER32, lambda n: n * 1234567),
    27: ("cipSecTunHcInOctets", COUNTER64, lambda n: n * 1234567),
    32: ("cipSecTunInPkts", COUNTER32, lambda n: n * 1000),
    40: ("cipSecTunHcOutOctets", COUNTER64, lambda n: n * 7654321),
    51: ("cipSecTunStatus", INTEGER, lambda n: 1),
}
LOAD_COLUMNS = ",".join(f"{number}:{tag:x}" for number, (_, tag, _) in COLUMNS.items())
"""The same as load.c takes it."""


@dataclass
class Rows:
    """The model: rows are just numbers, and nothing changes."""

    count: int

    def generation(self, domain: str) -> int:
        return 1


def binding(mibs: MibSet) -> ModuleBinding:
    """The twelve columns; the rest of the module is left out."""
    entry = mibs[NAME].oid
    served = {name for name, _, _ in COLUMNS.values()}
    left = {
        item.name: "not part of this bench"
        for item in mibs.modules[MODULE].objects
        if item.kind in ("scalar", "column") and item.is_readable and item.name not in served
    }
    assert ".".join(map(str, entry)) + ".1" == ENTRY
    return ModuleBinding(
        MODULE,
        tables=[
            Table(
                NAME,
                rows=lambda model: range(1, model.count + 1),
                index=lambda n: (n,),
                columns=[Column(name, value) for name, _, value in COLUMNS.values()],
            )
        ],
        not_served=left,
    )
