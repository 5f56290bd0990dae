"""What the configuration says about tunnels: which rows are to stay while down, and which wait for their first SA."""

from __future__ import annotations

from collections.abc import Iterable

from agent.gateway.records import ConfiguredChild, ConnectionRecord
from agent.gateway.rows import Rows
from agent.gateway.selectors import covered
from agent.gateway.tunnels import Tunnel


class Configuration:
    """The connections of one source, as last told."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.connections: dict[str, ConnectionRecord] = {}

    def apply(self, connections: Iterable[ConnectionRecord]) -> None:
        """Take over all connections; rows that lost their configuration and never were up leave at once."""
        self.connections = {connection.name: connection for connection in connections}
        children = {
            (connection.name, child.name): (connection, child)
            for connection in self.connections.values()
            for child in connection.children
        }
        for row in list(self.rows.tunnels.values()):
            configured = children.get((row.connection, row.child))
            row.configured = configured is not None and allows(*configured, row)
            row.permanent = row.configured and configured is not None and names_one_peer(*configured)
            if not row.ever_up and not row.permanent:
                self.rows.drop(row)
            elif not row.up and not row.permanent and row.down_since is None:
                row.down_since = self.rows.gateway.clock()
        for connection, child in children.values():
            if not names_one_peer(connection, child):
                continue
            if not self.rows.by_child.get((connection.name, child.name)):
                row = self.rows.add_configured(connection, child)
                row.configured = row.permanent = True
        for ike in self.rows.ike_tunnels.values():
            known = self.connections.get(ike.key[1])
            if known is not None and known != ike.connection:
                ike.connection = known
                self.rows.gateway.changed("ike")


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
