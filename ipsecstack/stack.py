"""One gateway without I/O: key exchanges joined to a data plane.

``Stack`` carries out the outputs of the key exchange endpoint in order, gives the data plane's events to
the endpoint, and hands everything that others may watch to its listeners. It opens no socket and reads no
clock, so a test can run two of them back to back; ``ipsecstack.daemon`` adds sockets, timers and the VICI server.
"""

from __future__ import annotations

from collections.abc import Callable

from ipsecstack.dataplane.base import (
    Acquired,
    DataPlane,
    DataPlaneError,
    PeerAddressChanged,
    SaExpired,
    UnknownSpiReceived,
)
from ipsecstack.ipsec.sa import Address, SaCounters, SaId
from ipsecstack.keyex.base import (
    AddPolicy,
    AddVirtualIp,
    ChildSaView,
    InstallSa,
    KeyExchangeEndpoint,
    LogRecorded,
    Output,
    ReleaseSpi,
    RemovePolicy,
    RemoveSa,
    RemoveVirtualIp,
    SendDatagram,
    UpdateSa,
)

Listener = Callable[[Output, "Stack"], None]
"""Called for every output that is not carried out by the stack itself (events, log lines, finished commands), and for
AddPolicy and RemovePolicy after they were carried out."""


class Stack:
    """Key exchange endpoint and data plane of one gateway.

    ``now`` of every call is seconds of one monotonic clock. Call ``advance(now)`` after any call into ``endpoint`` or
    ``dataplane`` (a received datagram, a VICI command, a batch of packets); it returns the IKE datagrams to send.
    """

    def __init__(self, endpoint: KeyExchangeEndpoint, dataplane: DataPlane) -> None:
        self.endpoint = endpoint
        self.dataplane = dataplane
        self._listeners: list[Listener] = []
        self._final: dict[SaId, SaCounters] = {}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; returns the call that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def receive_datagram(
        self, data: bytes, local: Address, remote: Address, now: float
    ) -> list[SendDatagram]:
        """An IKE message without the non-ESP marker."""
        self.endpoint.receive_datagram(data, local, remote, now)
        return self.advance(now)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next."""
        times = [t for t in (self.endpoint.next_timer(), self.dataplane.next_timer()) if t is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> list[SendDatagram]:
        self.dataplane.handle_timer(now)
        self.endpoint.handle_timer(now)
        return self.advance(now)

    def advance(self, now: float) -> list[SendDatagram]:
        """Carry out what endpoint and data plane have produced until both are silent; the datagrams to send."""
        datagrams: list[SendDatagram] = []
        while True:
            self._deliver_dataplane_events(now)
            outputs = self.endpoint.outputs()
            if not outputs:
                return datagrams
            for output in outputs:
                if isinstance(output, SendDatagram):
                    datagrams.append(output)
                else:
                    self._carry_out(output, now)

    def child_counters(self, child: ChildSaView) -> tuple[SaCounters | None, SaCounters | None]:
        """Counters of a child's inbound and outbound SA: live ones, or the final ones while its deletion is
        being told."""
        return self._counters(child.inbound), self._counters(child.outbound)

    def touched(self) -> set[SaId]:
        """SAs that passed or dropped traffic since the last call."""
        return self.dataplane.touched()

    def _counters(self, sa: SaId | None) -> SaCounters | None:
        if sa is None:
            return None
        return self.dataplane.query(sa) or self._final.get(sa)

    def _deliver_dataplane_events(self, now: float) -> None:
        for event in self.dataplane.events():
            if isinstance(event, Acquired):
                self.endpoint.acquired(
                    event.entry,
                    event.source,
                    event.destination,
                    event.protocol,
                    event.ports,
                    now,
                    (event.local_ts, event.remote_ts) if event.entry.pfp else None,
                )
            elif isinstance(event, SaExpired):
                self.endpoint.sa_expired(event.sa, event.hard, now)
            elif isinstance(event, UnknownSpiReceived):
                self.endpoint.unknown_spi(event.spi, event.local, event.remote, now)
            elif isinstance(event, PeerAddressChanged):
                self.endpoint.peer_address_changed(event.sa, event.remote, now)

    def _carry_out(self, output: Output, now: float) -> None:
        try:
            if isinstance(output, InstallSa):
                self.dataplane.install(output.sa, now)
            elif isinstance(output, RemoveSa):
                final = self.dataplane.remove(output.sa)
                if final is not None:
                    self._remember(output.sa, final)
            elif isinstance(output, UpdateSa):
                self.dataplane.update(output.sa, output.source, output.destination, output.encapsulated)
            elif isinstance(output, AddPolicy):
                self.dataplane.add_policy(output.entry)
                self._tell(output)
            elif isinstance(output, RemovePolicy):
                self.dataplane.remove_policy(output.entry)
                self._tell(output)
            elif isinstance(output, AddVirtualIp):
                self.dataplane.add_address(output.address)
                self._tell(output)
            elif isinstance(output, RemoveVirtualIp):
                self.dataplane.remove_address(output.address)
                self._tell(output)
            elif isinstance(output, ReleaseSpi):
                self.dataplane.release_spi(output.spi)
            else:
                self._tell(output)
                return
        except DataPlaneError as error:
            self._tell(
                LogRecorded("KNL", 0, None, None, f"data plane refused {type(output).__name__}: {error}")
            )
            if isinstance(output, InstallSa):
                self.endpoint.sa_expired(output.sa.id, True, now)

    _REMEMBERED = 1024

    def _remember(self, sa: SaId, final: SaCounters) -> None:
        self._final[sa] = final
        while len(self._final) > self._REMEMBERED:
            del self._final[next(iter(self._final))]

    def _tell(self, output: Output) -> None:
        for listener in list(self._listeners):
            listener(output, self)
