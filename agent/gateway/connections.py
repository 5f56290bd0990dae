"""What the configuration says about tunnels: which rows are to stay while down, and which wait for their first SA."""

from __future__ import annotations

from collections.abc import Iterable

from agent.gateway.records import ConfiguredChild, ConnectionRecord
from agent.gateway.rows import Rows
from agent.gateway.selectors import covered
from agent.gateway.steps import Steps
from agent.gateway.tunnels import Tunnel


class Configuration:
    """The connections of one source, as last told."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.connections: dict[str, ConnectionRecord] = {}

    def applying(self, connections: Iterable[ConnectionRecord]) -> Steps:
        """Take over all connections, in small steps; rows that lost their configuration and never were up leave."""
        rows = self.rows
        known: dict[str, ConnectionRecord] = {}
        children: dict[tuple[str, str], tuple[ConnectionRecord, ConfiguredChild]] = {}
        for connection in connections:
            known[connection.name] = connection
            yield
        for connection in known.values():
            for child in connection.children:
                children[connection.name, child.name] = (connection, child)
            yield
        self.connections = known
        for row in list(rows.tunnels.values()):
            if row.alive:
                self._judge(row, children.get((row.connection, row.child)))
                rows.settle()
                yield
        for connection, child in children.values():
            if names_one_peer(connection, child) and not rows.by_child.get((connection.name, child.name)):
                row = rows.add_configured(connection, child)
                row.configured = row.permanent = True
                rows.settle()
            yield
        for ike in list(rows.ike_tunnels.values()):
            found = known.get(ike.key[1])
            if found is not None and ike.alive:
                rows.configure_ike(ike, found)
            yield

    def _judge(self, row: Tunnel, configured: tuple[ConnectionRecord, ConfiguredChild] | None) -> None:
        row.configured = configured is not None and allows(*configured, row)
        row.permanent = row.configured and configured is not None and names_one_peer(*configured)
        if not row.ever_up and not row.permanent:
            self.rows.drop(row)
        elif not row.up and not row.permanent and row.down_since is None:
            self.rows.is_down(row)


def names_one_peer(connection: ConnectionRecord, child: ConfiguredChild) -> bool:
    """Whether the configuration stands for one tunnel, and not for as many as peers come."""
    peer = connection.remote_id or connection.remote_host
    return peer is not None and bool(child.local_ts) and bool(child.remote_ts)


def allows(connection: ConnectionRecord, child: ConfiguredChild, row: Tunnel) -> bool:
    """Whether the tunnel is one that this configuration makes, narrowed or not."""
    if connection.remote_id is not None and connection.remote_id != row.peer:
        return False
    return all(
        not outer or covered(inner, outer)
        for inner, outer in ((row.local_ts, child.local_ts), (row.remote_ts, child.remote_ts))
    )
