"""The loop of one gateway: sockets, device and timers drive a ``Stack``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from ipsecstack.dataplane.base import DataPlaneError, EspDatagrams, UserspaceDataPlane
from ipsecstack.io.network import Network
from ipsecstack.io.revocation import RevocationFetcher
from ipsecstack.io.sockets import IkeDatagram, Received
from ipsecstack.ipsec.sa import Address
from ipsecstack.keyex.base import (
    FetchRevocation,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyed,
    IkeSaUpdated,
    Output,
)
from ipsecstack.stack import Stack

log = logging.getLogger(__name__)

NAT_KEEPALIVE_INTERVAL = 20.0  # seconds, RFC 3948 section 4
_DEVICE_PACKETS = 128  # inner packets of one drain
_TIMER_RETRY = 1.0  # seconds
_DEVICE_RETRY, _DEVICE_RETRY_LONGEST = 1.0, 30.0  # seconds


class Driver:
    """Carries datagrams, inner packets and time into a ``Stack``, and what comes out to the network.

    ``connect`` gives it its network before ``start``. Everything runs in one event loop and nothing blocks.
    """

    def __init__(
        self, stack: Stack, clock: Callable[[], float], keepalive_interval: float = NAT_KEEPALIVE_INTERVAL
    ) -> None:
        self.stack = stack
        self.clock = clock
        self._keepalive_interval = keepalive_interval
        self._network: Network | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self._behind_nat: dict[int, tuple[Address, Address]] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._stop_fetching: Callable[[], None] | None = None
        self._device: int | None = None
        self._events: int | None = None
        self._device_pending: asyncio.Handle | None = None
        self._counted_malformed = self._counted_send_errors = 0

    @property
    def network(self) -> Network:
        if self._network is None:
            raise RuntimeError("the driver has no network yet")
        return self._network

    def connect(self, network: Network) -> None:
        """The sockets to send through."""
        self._network = network

    def start(self) -> None:
        """Watch the device and start the timers. The network is open by now."""
        plane = self.stack.dataplane
        if plane.features.userspace:
            self._device = cast(UserspaceDataPlane, plane).device_fileno()
            if self._device is not None:
                asyncio.get_running_loop().add_reader(self._device, self._device_readable)
        self._events = plane.event_fileno()
        if self._events is not None:
            asyncio.get_running_loop().add_reader(self._events, self._events_readable)
        self._stop_fetching = self._start_fetching()
        if self._keepalive_interval > 0:
            self._unsubscribe = self.stack.subscribe(self._follow_nat)
            self._keep_alive()
        self.advance()

    def stop(self) -> None:
        """Let go of device and timers; the network is closed by whoever opened it."""
        if self._device is not None and self._device_pending is None:
            asyncio.get_running_loop().remove_reader(self._device)
        self._device = None
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events = None
        for handle in (self._timer, self._keepalive, self._device_pending):
            if handle is not None:
                handle.cancel()
        self._timer = self._keepalive = self._device_pending = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._stop_fetching is not None:
            self._stop_fetching()
            self._stop_fetching = None

    # --- what wakes it ---------------------------------------------------------------------------------------------

    def received(self, batch: list[Received]) -> None:
        """Datagrams from the network, in the order of arrival."""
        now = self.clock()
        plane = cast(UserspaceDataPlane, self.stack.dataplane)
        esp: list[EspDatagrams] = []
        control = False
        for item in batch:
            if isinstance(item, IkeDatagram):
                # ESP that came before this message is processed before it: the message may remove its SA.
                if esp:
                    self._receive_esp(plane, esp, now)
                    esp = []
                self.stack.endpoint.receive_datagram(item.data, item.local, item.remote, now)
                self._send_out(now)
                control = True
            else:
                esp.append(item)
        if esp:
            self._receive_esp(plane, esp, now)
        self._after(now, control)

    def _receive_esp(self, plane: UserspaceDataPlane, batch: list[EspDatagrams], now: float) -> None:
        if not plane.features.userspace:
            return  # the kernel has its own copy
        try:
            plane.receive(batch, now)
        except OSError as error:
            self._device_failed(error)

    def _device_readable(self) -> None:
        now = self.clock()
        self._read_device(now)
        self._after(now, False)

    def _read_device(self, now: float) -> None:
        plane = cast(UserspaceDataPlane, self.stack.dataplane)
        try:
            self.network.send_esp(plane.read_device(now, _DEVICE_PACKETS))
        except OSError as error:
            self._device_failed(error)

    def _device_failed(self, error: OSError) -> None:
        """The device is gone, or refuses: leave it alone for a while (do not spin), then have it made again."""
        if self._device is None or self._device_pending is not None:
            return
        log.error(
            "the data plane's device failed: %s; no packets pass until it is there again",
            error.strerror or error,
        )
        asyncio.get_running_loop().remove_reader(self._device)
        self._retry_device(_DEVICE_RETRY)

    def _retry_device(self, delay: float) -> None:
        def again() -> None:
            self._device_pending = None
            plane = cast(UserspaceDataPlane, self.stack.dataplane)
            try:
                plane.repair()
                self._device = plane.device_fileno()
                if self._device is not None:
                    # A descriptor that still fails tells so at once, and is tried again.
                    self.network.send_esp(plane.read_device(self.clock(), 1))
                    asyncio.get_running_loop().add_reader(self._device, self._device_readable)
                    log.warning("the data plane's device is watched again")
            except (OSError, DataPlaneError) as error:
                log.error(
                    "the data plane's device cannot be used: %s; if this goes on, restart ipsecstackd", error
                )
                self._retry_device(min(2 * delay, _DEVICE_RETRY_LONGEST))

        self._device_pending = asyncio.get_running_loop().call_later(delay, again)

    def _events_readable(self) -> None:
        """The kernel tells the data plane something: an acquire, a limit, another's deletion."""
        now = self.clock()
        try:
            self.stack.dataplane.read_events(now)
        except (DataPlaneError, OSError) as error:
            log.error("%s; restart ipsecstackd if this goes on", error)
        self._after(now, True)  # virtual interfaces leave what they sent for the next read of the device

    def _timer_due(self) -> None:
        self._timer = self._timer_at = None
        now = self.clock()
        try:
            self.network.send_ike(self.stack.handle_timer(now))
        except Exception:
            # One defect must not stop the clock of every SA, nor turn it into a busy loop.
            log.exception("a timer failed; the next ones come in %g s", _TIMER_RETRY)
            self._timer_at = now + _TIMER_RETRY
            self._timer = asyncio.get_running_loop().call_later(_TIMER_RETRY, self._timer_due)
            return
        self._after(now, True)

    def advance(self) -> None:
        """Carry out what a command has left in the endpoint; call it after every command."""
        self._after(self.clock(), True)

    # --- what follows ----------------------------------------------------------------------------------------------

    def _send_out(self, now: float) -> None:
        self.network.send_ike(self.stack.advance(now))

    def _after(self, now: float, control: bool) -> None:
        """``control``: the key exchange was at work, and may have installed an SA that packets waited for. They
        leave with the next read of the device, which nothing else would cause."""
        self._send_out(now)
        if control and self._device is not None and self._device_pending is None:
            self._read_device(now)
            self._send_out(now)
        self._count()
        self._schedule(now)

    def _count(self) -> None:
        """Sending failures and malformed datagrams belong to the data plane's counters that have no SA."""
        counters = self.stack.dataplane.counters
        network = self.network
        counters.send_errors += network.send_errors - self._counted_send_errors
        counters.malformed_in += network.malformed - self._counted_malformed
        self._counted_send_errors, self._counted_malformed = network.send_errors, network.malformed

    def _schedule(self, now: float) -> None:
        at = self.stack.next_timer()
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # The loop's clock is the stack's clock; a time that has passed is due in the next turn.
        self._timer = (
            None if at is None else asyncio.get_running_loop().call_later(max(at - now, 0), self._timer_due)
        )

    def _start_fetching(self) -> Callable[[], None]:
        """Carry out what the key exchange wants to know of certificates; returns the call that ends it."""

        def deliver(wanted: FetchRevocation, data: bytes | None) -> None:
            now = self.clock()
            self.stack.endpoint.revocation_fetched(wanted, data, now)
            self._after(now, True)

        def listen(output: Output, _stack: Stack) -> None:
            if isinstance(output, FetchRevocation):
                fetcher.start(output)

        fetcher = RevocationFetcher(deliver)
        unsubscribe = self.stack.subscribe(listen)

        def stop() -> None:
            unsubscribe()
            fetcher.stop()

        return stop

    def _follow_nat(self, output: Output, _stack: Stack) -> None:
        """Remember the IKE SAs whose own end is behind a NAT: asking for all of them each time would not scale."""
        if isinstance(output, IkeSaEstablished | IkeSaUpdated | IkeSaRekeyed):
            if isinstance(output, IkeSaRekeyed):
                self._behind_nat.pop(output.old.uniqueid, None)
            ike = output.new if isinstance(output, IkeSaRekeyed) else output.ike
            self._behind_nat.pop(ike.uniqueid, None)
            if ike.nat_local:
                self._behind_nat[ike.uniqueid] = (ike.local, ike.remote)
        elif isinstance(output, IkeSaDeleted):
            self._behind_nat.pop(output.ike.uniqueid, None)

    def _keep_alive(self) -> None:
        interval = self._keepalive_interval
        self.network.keep_alive(list(self._behind_nat.values()), interval)
        self._keepalive = asyncio.get_running_loop().call_later(interval, self._keep_alive)
