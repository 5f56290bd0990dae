"""The loop around a stack: sockets, device and timers, with two gateways on the loopback and no key exchange."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable

import pytest

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.io import driver
from ipsecstack.io.driver import Driver
from ipsecstack.io.errors import NetworkError
from ipsecstack.io.network import Network
from ipsecstack.ipsec.sa import Address, Direction, Lifetime, Mode, SaDescription, SecurityProtocol
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry
from ipsecstack.keyex.base import (
    IkeCounters,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyed,
    IkeSaView,
    InstallSa,
    Output,
    SendDatagram,
)
from ipsecstack.stack import Stack
from ipsecstack.wire.icmp import echo_request
from ipsecstack.wire.transforms import EncrId, IntegId

LOOPBACK = ipaddress.IPv4Address("127.0.0.1")


class FakeEndpoint:
    """A key exchange that does what the test puts into ``queue``, and notes what it is told."""

    def __init__(self) -> None:
        self.queue: list[Output] = []
        self.received: list[tuple[bytes, Address, Address]] = []
        self.order: list[str] = []
        self.on_datagram: Callable[[bytes, Address, Address], list[Output]] = lambda *_: []
        self.timer: float | None = None
        self.timers_handled: list[float] = []
        self.unknown: list[int] = []
        self.views: list[object] = []

    def receive_datagram(self, data: bytes, local: Address, remote: Address, now: float) -> None:
        self.received.append((data, local, remote))
        self.order.append("ike")
        self.queue += self.on_datagram(data, local, remote)

    def next_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        if self.timer is not None and now >= self.timer:
            self.timers_handled.append(now)
            self.timer = None

    def outputs(self) -> list[Output]:
        taken, self.queue = self.queue, []
        return taken

    def unknown_spi(self, spi: int, local: Address, remote: Address, now: float) -> None:
        self.unknown.append(spi)

    def acquired(self, *_: object) -> None: ...

    def ike_sas(self) -> list[object]:
        return self.views


class Gateway:
    def __init__(self, **options) -> None:
        self.endpoint = FakeEndpoint()
        self.plane = MemoryDataPlane(random=os.urandom)
        loop = asyncio.get_running_loop()
        self.driver = Driver(Stack(self.endpoint, self.plane), loop.time, options.pop("keepalive", 0))
        # Port 0: the kernel chooses; the real numbers are read below.
        self.network = Network(self.driver.received, port=0, port_nat_t=0, native_esp=False, **options)

    def open(self, port: int, port_nat_t: int) -> None:
        self.network._ports = (port, port_nat_t)
        self.driver.connect(self.network)
        self.network.open()
        self.driver.start()
        self.ike, self.nat_t = Address(LOOPBACK, port), Address(LOOPBACK, port_nat_t)

    def close(self) -> None:
        self.driver.stop()
        self.network.close()
        self.plane.close()


async def until(condition: Callable[[], object], timeout: float = 3.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not condition():
        assert loop.time() < end, "did not happen in time"
        await asyncio.sleep(0.005)


def free_ports(count: int) -> list[int]:
    import socket

    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for sock in sockets:
        sock.bind(("0.0.0.0", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def with_two(scenario: Callable[[Gateway, Gateway], Awaitable[None]], **options) -> None:
    async def run() -> None:
        ports = free_ports(4)
        one, two = Gateway(**dict(options)), Gateway(**dict(options))
        try:
            one.open(*ports[:2])
            two.open(*ports[2:])
            await scenario(one, two)
        finally:
            one.close()
            two.close()

    asyncio.run(run())


def sa(
    direction: Direction, spi: int, source: Address, destination: Address, local: str, remote: str
) -> SaDescription:
    def selector(text: str) -> TrafficSelector:
        network = ipaddress.ip_network(text)
        return TrafficSelector(network[0], network[-1])

    return SaDescription(
        direction=direction,
        protocol=SecurityProtocol.ESP,
        mode=Mode.TUNNEL,
        spi=spi,
        source=source,
        destination=destination,
        encapsulated=True,
        encr=EncrId.AES_GCM_16,
        encr_key_bits=128,
        integ=IntegId.NONE,
        key_encr=spi.to_bytes(20, "big"),
        key_integ=b"",
        esn=False,
        replay_window=64,
        lifetime=Lifetime(),
        local_ts=(selector(local),),
        remote_ts=(selector(remote),),
        reqid=1,
    )


LEFT, RIGHT = "10.1.0.0/24", "10.2.0.0/24"


def tunnel(one: Gateway, two: Gateway) -> tuple[list[Output], list[Output]]:
    """InstallSa outputs of both ends; policies are put in at once."""
    outputs = []
    for near, far, local, remote, spi_in, spi_out in (
        (one, two, LEFT, RIGHT, 0x1001, 0x1002),
        (two, one, RIGHT, LEFT, 0x1002, 0x1001),
    ):
        outbound = sa(Direction.OUT, spi_out, near.nat_t, far.nat_t, local, remote)
        inbound = sa(Direction.IN, spi_in, far.nat_t, near.nat_t, local, remote)
        entry = SpdEntry("net", Action.PROTECT, outbound.local_ts, outbound.remote_ts, 1, reqid=1, trap=True)
        near.plane.add_policy(entry)
        outputs.append([InstallSa(inbound), InstallSa(outbound)])
    return outputs[0], outputs[1]


def ping(sequence: int) -> bytes:
    left, right = ipaddress.IPv4Address("10.1.0.1"), ipaddress.IPv4Address("10.2.0.1")
    return echo_request(left, right, 1, sequence, b"x" * 100)


def test_ike_on_both_ports() -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        def answer(data: bytes, local: Address, remote: Address) -> list[Output]:
            return [SendDatagram(b"re: " + data, local, remote, local.port == two.nat_t.port)]

        two.endpoint.on_datagram = answer
        one.endpoint.queue = [
            SendDatagram(b"plain", one.ike, two.ike, False),
            SendDatagram(b"marked", one.nat_t, two.nat_t, True),
        ]
        one.driver.advance()
        await until(lambda: len(one.endpoint.received) == 2)
        assert sorted(one.endpoint.received) == sorted(
            [(b"re: plain", one.ike, two.ike), (b"re: marked", one.nat_t, two.nat_t)]
        )

    with_two(scenario)


def test_packets_that_waited_for_an_sa_leave_when_it_is_there() -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        install_one, install_two = tunnel(one, two)
        two.endpoint.queue = install_two
        two.driver.advance()
        one.plane.inject([ping(1), ping(2)])
        await asyncio.sleep(0.05)
        assert not two.plane.delivered
        # The SA comes with the answer to an IKE message; nothing else wakes the device.
        one.endpoint.on_datagram = lambda *_: install_one
        two.network.send_ike([SendDatagram(b"ike", two.ike, one.ike, False)])
        await until(lambda: len(two.plane.delivered) == 2)
        assert list(two.plane.delivered) == [ping(1), ping(2)]

    with_two(scenario)


def test_many_packets_both_ways_and_counters() -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        for gateway, outputs in zip((one, two), tunnel(one, two), strict=True):
            gateway.endpoint.queue = outputs
            gateway.driver.advance()
        packets = [ping(n) for n in range(500)]
        one.plane.inject(packets)
        await until(lambda: len(two.plane.delivered) == 500)
        assert list(two.plane.delivered) == packets
        outbound = one.plane.query(sa(Direction.OUT, 0x1002, one.nat_t, two.nat_t, LEFT, RIGHT).id)
        assert outbound is not None
        assert (outbound.packets, outbound.octets) == (500, sum(map(len, packets)))
        # Rubbish on port 4500 is counted, an unknown SPI is handed on, and the tunnel goes on.
        one.network._send(b"\1\2", one.nat_t, two.nat_t)
        one.network._send(b"\x99" * 40, one.nat_t, two.nat_t)
        one.network._send(b"\xff", one.nat_t, two.nat_t)
        await until(lambda: two.endpoint.unknown == [0x99999999] and two.plane.counters.malformed_in == 1)
        one.plane.inject([ping(501)])
        await until(lambda: len(two.plane.delivered) == 501)

    with_two(scenario)


def test_timers() -> None:
    async def scenario(one: Gateway, _two: Gateway) -> None:
        loop = asyncio.get_running_loop()
        for delay in (0.05, 0.0, -5.0):
            one.endpoint.timers_handled.clear()
            one.endpoint.timer = due = loop.time() + delay
            one.driver.advance()
            await until(lambda: one.endpoint.timers_handled)
            assert one.endpoint.timers_handled[0] >= due
        one.endpoint.timers_handled.clear()
        one.endpoint.timer = loop.time() + 0.05
        one.driver.advance()
        one.endpoint.timer = None  # it was taken back
        one.driver.advance()
        await asyncio.sleep(0.1)
        assert not one.endpoint.timers_handled

    with_two(scenario)


def test_a_timer_that_fails_does_not_stop_the_clock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driver, "_TIMER_RETRY", 0.05)

    async def scenario(one: Gateway, _two: Gateway) -> None:
        works = one.endpoint.handle_timer
        calls: list[float] = []

        def fails(now: float) -> None:
            calls.append(now)
            raise RuntimeError("a defect")

        one.endpoint.handle_timer = fails
        one.endpoint.timer = asyncio.get_running_loop().time()
        one.driver.advance()
        await until(lambda: len(calls) >= 2)
        await asyncio.sleep(0.1)
        assert len(calls) < 8, "no busy loop"
        one.endpoint.handle_timer = works
        await until(lambda: one.endpoint.timers_handled)

    with caplog.at_level(logging.CRITICAL + 1):
        with_two(scenario)


def test_a_socket_that_dies_is_opened_again(monkeypatch, caplog) -> None:
    logging.getLogger("ipsecstack").propagate = True
    monkeypatch.setattr("ipsecstack.io.network._REOPEN_FIRST", 0.05)

    async def scenario(one: Gateway, two: Gateway) -> None:
        victim = two.network._udp[4, two.ike.port]

        def dead() -> list:
            raise OSError(19, "No such device")

        victim.receive = dead  # type: ignore[method-assign]
        one.network.send_ike([SendDatagram(b"lost", one.ike, two.ike, False)])
        await until(lambda: two.network._udp.get((4, two.ike.port), victim) is not victim)
        one.network.send_ike([SendDatagram(b"heard", one.ike, two.ike, False)])
        await until(lambda: [data for data, _, _ in two.endpoint.received] == [b"heard"])
        assert "failed: No such device" in caplog.text
        assert "is open again" in caplog.text

    with_two(scenario)


def test_a_device_that_is_gone_is_made_again(monkeypatch, caplog) -> None:
    """Packets pass again after the plane repaired its device, which takes two attempts here."""
    logging.getLogger("ipsecstack").propagate = True
    monkeypatch.setattr("ipsecstack.io.driver._DEVICE_RETRY", 0.02)

    async def scenario(one: Gateway, two: Gateway) -> None:
        for gateway, outputs in zip((one, two), tunnel(one, two), strict=True):
            gateway.endpoint.queue = outputs
            gateway.driver.advance()
        read, repairs = one.plane.read_device, []

        def gone(now: float, limit: int = 64) -> list:
            raise OSError(77, "File descriptor in bad state")

        def repair() -> None:
            repairs.append(asyncio.get_running_loop().time())
            if len(repairs) < 2:
                raise DataPlaneError("not yet")
            one.plane.read_device = read  # type: ignore[method-assign]

        one.plane.read_device = gone  # type: ignore[method-assign]
        one.plane.repair = repair  # type: ignore[attr-defined]
        one.plane.inject([ping(1)])
        await until(lambda: len(two.plane.delivered) == 1)
        assert len(repairs) == 2
        assert caplog.text.count("device failed") == 1
        assert "not yet; if this goes on, restart ipsecstackd" in caplog.text
        one.plane.inject([ping(2)])
        await until(lambda: len(two.plane.delivered) == 2)

    with_two(scenario)


def test_failed_sending_is_counted_and_told_once(caplog) -> None:
    logging.getLogger("ipsecstack").propagate = True

    async def scenario(one: Gateway, _two: Gateway) -> None:
        foreign = Address(ipaddress.IPv4Address("192.0.2.99"), one.ike.port)
        for _ in range(3):
            one.endpoint.queue.append(SendDatagram(b"x", foreign, Address(LOOPBACK, 9), False))
        one.driver.advance()
        assert one.plane.counters.send_errors == 3
        assert caplog.text.count("cannot send to") == 1
        assert "local_addrs" in caplog.text

    with_two(scenario)


def view(uniqueid: int, local: Address, remote: Address, nat_local: bool = True) -> IkeSaView:
    return IkeSaView(
        name="gw", uniqueid=uniqueid, version=2, state="ESTABLISHED", local=local, remote=remote, local_id=None,
        remote_id=None, local_auth="psk", remote_auth="psk", initiator=True, initiator_spi=b"i" * 8,
        responder_spi=b"r" * 8, nat_local=nat_local, nat_remote=False, nat_fake=False, encr=None, encr_key_bits=0,
        integ=None, prf=None, ke=None, created=0, established=0, rekey_time=None, life_time=None,
        counters=IkeCounters(), tasks_active=(), tasks_queued=(), children=(), generation=1,
    )  # fmt: skip


def test_nat_keepalives() -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        def tell(*events: Output) -> None:
            one.endpoint.queue += events
            one.driver.advance()

        sock = two.network._udp[4, two.nat_t.port]
        first = view(1, one.nat_t, two.nat_t)
        tell(
            IkeSaEstablished(view(9, one.nat_t, Address(LOOPBACK, 9), nat_local=False)),
            IkeSaEstablished(first),
        )
        await until(lambda: sock.keepalives >= 2)
        assert not two.endpoint.received
        # What has just been sent stands for a keepalive.
        before = sock.keepalives
        end = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < end:
            one.network.send_ike([SendDatagram(b"traffic", one.nat_t, two.nat_t, True)])
            await asyncio.sleep(0.01)
        assert sock.keepalives <= before + 2  # six without
        # They go on for the IKE SA that a rekeying made, and end with it.
        second = view(2, one.nat_t, two.nat_t)
        tell(IkeSaRekeyed(first, second))
        before = sock.keepalives
        await until(lambda: sock.keepalives > before)
        tell(IkeSaDeleted(second, "deleted", True))
        await asyncio.sleep(0.05)
        before = sock.keepalives
        await asyncio.sleep(0.3)
        assert sock.keepalives == before

    with_two(scenario, keepalive=0.1)


def test_ports_in_use_leave_nothing_open() -> None:
    async def run() -> None:
        first, second = Gateway(), Gateway()
        ports = free_ports(3)
        try:
            first.open(*ports[:2])
            with pytest.raises(NetworkError, match="another IKE daemon"):
                second.open(ports[2], ports[1])
            assert not second.network._sockets
        finally:
            first.close()
            second.close()

    asyncio.run(run())
