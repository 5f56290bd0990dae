"""SET of cikeTunStatus and cipSecTunStatus: destroy(2) deletes in the live stack, peer told; active(1) is a no-op."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent.gateway import Progress
from agent.gateway.tunnels import IkeTunnel, Tunnel
from agent.gateway.view import View
from agent.smi import Change, IndexValues, SetError
from agent.smi.rowstatus import Nothing

ACTIVE, DESTROY = 1, 2


@dataclass(slots=True)
class Destroy:
    """Deletion of tunnels. All of one PDU become one change; what was deleted does not come back by `undo`."""

    gateway: View
    ike_tunnels: list[IkeTunnel] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)

    @property
    def merge_key(self) -> object:
        return Destroy

    def merge(self, other: Any) -> Change:
        self.ike_tunnels += [row for row in other.ike_tunnels if row not in self.ike_tunnels]
        self.tunnels += [row for row in other.tunnels if row not in self.tunnels]
        return self

    async def commit(self) -> None:
        """Raises CommandError when the live stack refuses; what it carried out before stays done."""
        await self.gateway.destroy(self.ike_tunnels, self.tunnels, self.progress)

    def undo(self) -> None:
        """Raises where something was deleted, or may have been because no answer came: undoFailed."""
        progress = self.progress
        if progress.done or progress.unsure:
            maybe = ", and perhaps one more," if progress.unsure else ""
            raise RuntimeError(f"{progress.done} deletions{maybe} were carried out and cannot be taken back")


class StatusWriter:
    """Judges a SET of the status column of either tunnel table (TunnelStatus)."""

    def test(self, model: View, row: IkeTunnel | Tunnel | None, index: IndexValues, value: int) -> Change:
        """noCreation without the row, inconsistentValue for active on a tunnel that is down, resourceUnavailable
        while the source cannot be reached."""
        if row is None:
            raise SetError("noCreation", "tunnels are negotiated, not made by SET")
        alive = row.sa is not None if isinstance(row, IkeTunnel) else row.up
        if value == ACTIVE:
            if not row.active:
                raise SetError("inconsistentValue", "a tunnel that is down is not brought up by active(1)")
            return Nothing()
        if not alive:
            return Nothing()
        if not model.can_command(row.source):
            raise SetError("resourceUnavailable", f"source {row.source.name} cannot be reached")
        if isinstance(row, IkeTunnel):
            return Destroy(model, ike_tunnels=[row])
        return Destroy(model, tunnels=[row])
