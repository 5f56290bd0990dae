"""The driver beside a kernel plane: events are read and carried to the key exchange, sockets are prepared for it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

import pytest

from ipsecstack.dataplane.base import DataPlaneError, DataPlaneEvent, Features, SaExpired
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.io.driver import Driver
from ipsecstack.io.errors import NetworkError
from ipsecstack.io.network import Network
from ipsecstack.ipsec.sa import Direction, SaId, SecurityProtocol
from ipsecstack.stack import Stack
from ipsecstack.wire.ip import IPv4Address

GONE = SaId(Direction.IN, SecurityProtocol.ESP, 0x1234, IPv4Address("192.0.2.1"))


class KernelLike(MemoryDataPlane):
    """A plane without packets of its own that has something to tell whenever its descriptor is readable."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features("kernel-like", True, True, True, userspace=False)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.told: list[DataPlaneEvent] = []
        self.fails = False

    def event_fileno(self) -> int | None:
        return self.wake

    def read_events(self, now: float) -> None:
        os.eventfd_read(self.wake)
        if self.fails:
            raise DataPlaneError("netlink is not well")
        self.told.append(SaExpired(GONE, True, "octets"))

    def events(self) -> list[DataPlaneEvent]:
        told, self.told = self.told, []
        return told

    def device_fileno(self) -> int | None:
        raise AssertionError("a kernel plane has no device")


class Endpoint:
    def __init__(self) -> None:
        self.expired: list[tuple[SaId, bool]] = []

    def sa_expired(self, sa: SaId, hard: bool, now: float) -> None:
        self.expired.append((sa, hard))

    def outputs(self) -> list[object]:
        return []

    def next_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None: ...


def test_events_of_the_kernel_reach_the_key_exchange(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        plane, endpoint = KernelLike(), Endpoint()
        loop = asyncio.get_running_loop()
        driver = Driver(Stack(endpoint, plane), loop.time, 0)  # type: ignore[arg-type]
        network = Network(driver.received, port=0, port_nat_t=0, native_esp=False)
        driver.connect(network)
        driver.start()
        os.eventfd_write(plane.wake, 1)
        await asyncio.sleep(0.05)
        assert endpoint.expired == [(GONE, True)]
        plane.fails = True
        with caplog.at_level(logging.ERROR):
            os.eventfd_write(plane.wake, 1)
            await asyncio.sleep(0.05)
        assert "netlink is not well" in caplog.text
        driver.stop()
        os.eventfd_write(plane.wake, 1)
        await asyncio.sleep(0.05)
        assert endpoint.expired == [(GONE, True)]
        network.close()
        plane.close()
        os.close(plane.wake)

    asyncio.run(run())


def test_every_socket_is_prepared_and_a_refusal_is_told() -> None:
    async def run() -> None:
        seen: list[tuple[int, int, bool]] = []

        def prepare(sock: socket.socket, encapsulation: bool) -> None:
            seen.append((sock.family, sock.type, encapsulation))

        network = Network(lambda _: None, port=0, port_nat_t=0, native_esp=False, prepare=prepare)
        probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for probe in probes:
            probe.bind(("0.0.0.0", 0))
        network._ports = tuple(probe.getsockname()[1] for probe in probes)  # type: ignore[assignment]
        for probe in probes:
            probe.close()
        network.open()
        assert [one for one in seen if one[0] == socket.AF_INET] == [
            (socket.AF_INET, socket.SOCK_DGRAM, False),
            (socket.AF_INET, socket.SOCK_DGRAM, True),
        ]
        network.close()

        def refuse(_sock: socket.socket, _encapsulation: bool) -> None:
            raise DataPlaneError("load esp4")

        network = Network(lambda _: None, port=0, port_nat_t=0, native_esp=False, prepare=refuse)
        with pytest.raises(NetworkError, match="load esp4"):
            network.open()

    asyncio.run(run())
