"""A data plane without a device: inner packets are put in and taken out by the program (tests, and demos without root).

``MemoryDataPlane`` processes packets exactly as the TUN plane does. A ``PacketSource`` may stand for the hosts behind
it: it makes packets by the clock and answers delivered ones.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ipsecstack.dataplane.base import EspDatagrams, Features
from ipsecstack.dataplane.userspace import Packet, Random, UserspaceCore
from ipsecstack.ipsec.selectors import IPAddress, TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.wire.icmp import echo_reply, echo_request

FEATURES = Features(
    "memory",
    native_esp=True,
    udp_encapsulation=True,
    esn=True,
    userspace=True,
    ah=True,
    transport=True,
    ipcomp=True,
    tfc=True,
)
_DELIVERED = 4096  # newest packets that are kept for the program to look at


class PacketSource(Protocol):
    """The hosts behind a memory data plane."""

    def packets(self, policies: Iterable[SpdEntry], now: float) -> list[bytes]:
        """Packets that the hosts send at this time."""
        ...

    def answer(self, packet: Packet) -> bytes | None:
        """What the hosts send in answer to a packet that was delivered to them."""
        ...

    def next_time(self) -> float | None:
        """When ``packets`` should be asked again."""
        ...


class EchoHosts:
    """Hosts that ping the other side of every PROTECT policy, and answer pings.

    ``interval`` is in seconds; with 0 they only answer. ``start`` is when they begin.
    """

    def __init__(self, interval: float = 1.0, payload_octets: int = 56, start: float = 0.0) -> None:
        self._interval = interval
        self._payload = bytes(range(256)) * (payload_octets // 256) + bytes(range(payload_octets % 256))
        self._next = start
        self._sequence = 0
        self.requests_sent = 0
        self.replies_received = 0

    def packets(self, policies: Iterable[SpdEntry], now: float) -> list[bytes]:
        if not self._interval or now < self._next:
            return []
        self._next = now + self._interval
        self._sequence = self._sequence + 1 & 0xFFFF
        out = []
        for number, entry in enumerate(policies):
            if entry.action is not Action.PROTECT:
                continue
            local, remote = entry.local_ts[0], entry.remote_ts[0]
            if local.version == remote.version:
                source, destination = _host(local), _host(remote)
                out.append(echo_request(source, destination, number & 0xFFFF, self._sequence, self._payload))
        self.requests_sent += len(out)
        return out

    def answer(self, packet: Packet) -> bytes | None:
        reply = echo_reply(packet)
        if reply is None:
            self.replies_received += 1
        return reply

    def next_time(self) -> float | None:
        return self._next if self._interval else None


class MemoryDataPlane(UserspaceCore):
    """RFC 4301 processing between ``inject`` and ``delivered``.

    ``device_fileno`` is readable while injected packets wait, as a device's would be. ``delivered`` keeps the newest
    inner packets that arrived, ``cleared`` those that BYPASS let out.
    """

    def __init__(
        self, random: Random = os.urandom, source: PacketSource | None = None, path_mtu: int = 1500
    ) -> None:
        super().__init__(FEATURES, random, path_mtu)
        self.delivered: deque[bytes] = deque(maxlen=_DELIVERED)
        self.cleared: deque[bytes] = deque(maxlen=_DELIVERED)
        self._source = source
        self._waiting_in_device: deque[bytes] = deque()
        self._event_fd: int | None = None

    def inject(self, packets: Iterable[bytes]) -> None:
        """Inner packets that hosts send; they wait for ``read_device``."""
        self._waiting_in_device.extend(packets)
        self._signal()

    def device_fileno(self) -> int | None:
        if self._event_fd is None:
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._signal()
        return self._event_fd

    def _signal(self) -> None:
        if self._event_fd is not None and self._waiting_in_device:
            os.eventfd_write(self._event_fd, 1)

    def read_device(self, now: float, limit: int = 64) -> list[EspDatagrams]:
        waiting = self._waiting_in_device
        packets = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        if self._event_fd is not None and not waiting:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        out = self.outbound(packets, now)
        self._after()
        return out

    def receive(self, batch: Iterable[EspDatagrams], now: float) -> None:
        self._deliver_to_hosts(self.inbound(batch, now))
        for packets in self.take_interface_packets().values():
            self._deliver_to_hosts(packets)

    def receive_clear(self, packets: Iterable[bytes]) -> None:
        """Packets that arrived without protection; BYPASS decides whether the hosts get them."""
        self._deliver_to_hosts(self.inbound_clear(packets))

    def next_timer(self) -> float | None:
        times = [super().next_timer(), self._source.next_time() if self._source else None]
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if self._source is not None and (packets := self._source.packets(self.policies(), now)):
            self.inject(packets)

    def close(self) -> None:
        super().close()
        self._waiting_in_device.clear()
        if self._event_fd is not None:
            os.close(self._event_fd)
            self._event_fd = None

    def _after(self) -> None:
        to_device, to_clear = self.take_device_packets(), self.take_clear_packets()
        self.cleared.extend(to_clear)
        self._deliver_to_hosts(to_device)

    def _deliver_to_hosts(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self.delivered.append(bytes(packet))
            if self._source is not None and (reply := self._source.answer(packet)) is not None:
                self.inject([reply])


def _host(selector: TrafficSelector) -> IPAddress:
    """A host of this range: not the network address when there is another one."""
    return selector.start + 1 if selector.start < selector.end else selector.start  # type: ignore[operator]
