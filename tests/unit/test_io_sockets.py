"""UDP and raw sockets of the loopback: sorting, batches, addresses, errors with a cure."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import time

import pytest
from espkit import udp
from lab.netns import namespaces

from ipsecstack.dataplane.base import EspDatagrams
from ipsecstack.dataplane.path import parse_too_big
from ipsecstack.io.errors import NetworkError, advice
from ipsecstack.io.raw import AH, ESP, ICMP, ICMPV6, HeaderSocket, RawSocket
from ipsecstack.io.sockets import IkeDatagram, address_of, sockaddr_of, source_address
from ipsecstack.io.udp import UdpSocket
from ipsecstack.ipsec.sa import Address
from ipsecstack.ipsec.transport import put_together
from ipsecstack.wire.icmp import echo_request, too_big
from ipsecstack.wire.ip import IPv4Header, IPv6Header, checksum

LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
OTHER = ipaddress.IPv4Address("127.0.0.9")


def collect(sock, packets: int, timeout: float = 3.0) -> list:
    """What arrives until ``packets`` packets and messages are there; views are copied."""
    found: list = []
    count = 0
    end = time.monotonic() + timeout
    while count < packets and time.monotonic() < end:
        select.select([sock], [], [], 0.1)
        for item in sock.receive():
            if isinstance(item, EspDatagrams):
                item.packets = [bytes(packet) for packet in item.packets]
                count += len(item.packets)
            else:
                count += 1
            found.append(item)
    return found


@pytest.fixture
def sockets():
    with contextlib.ExitStack() as stack:

        def make(**options) -> UdpSocket:
            sock = UdpSocket(options.pop("family", socket.AF_INET), options.pop("port", 0), **options)
            stack.callback(sock.close)
            return sock

        yield make


def test_port_500_is_all_ike(sockets) -> None:
    receiver, sender = sockets(nat_t=False), sockets(nat_t=False)
    sender.send(bytes(4) + b"message", Address(OTHER, 0), Address(LOOPBACK, receiver.port))
    (item,) = collect(receiver, 1)
    # The sender's address is the one that was asked for, the receiver's the one that was written to.
    assert item == IkeDatagram(
        bytes(4) + b"message", Address(LOOPBACK, receiver.port), Address(OTHER, sender.port)
    )
    # And the answer leaves from there: the way back ends where the message came from.
    receiver.send(b"answer", item.local, item.remote)
    (answer,) = collect(sender, 1)
    assert answer == IkeDatagram(b"answer", item.remote, item.local)


def test_port_4500_tells_ike_esp_and_keepalives_apart(sockets) -> None:
    receiver, sender = sockets(nat_t=True), sockets(nat_t=True)
    here, there = Address(LOOPBACK, sender.port), Address(LOOPBACK, receiver.port)
    esp = [bytes((1, 2, 3, 4)) + bytes((n,)) * 20 for n in range(3)]
    for data in (
        b"\xff",
        bytes(4) + b"ike",
        esp[0],
        esp[1],
        b"\x01\x02",
        bytes(4) + b"more",
        b"",
        b"\xff\xff",
        esp[2],
    ):
        sender.send(data, here, there)
    items = collect(receiver, 5)
    assert [type(item).__name__ for item in items] == [
        "IkeDatagram", "EspDatagrams", "IkeDatagram", "EspDatagrams",
    ]  # fmt: skip
    assert (items[0].data, items[2].data) == (b"ike", b"more")
    assert items[1].packets == esp[:2]
    assert items[3].packets == esp[2:]
    assert (items[1].local, items[1].remote, items[1].encapsulated) == (there, here, True)
    assert receiver.keepalives == 1
    assert receiver.malformed == 3


@pytest.mark.parametrize("family,host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_esp_batches(sockets, family: int, host: str) -> None:
    """Equal runs (which the kernel may segment and coalesce), shorter ends, mixed sizes: all arrive in order."""
    with contextlib.suppress(NetworkError):
        probe = UdpSocket(family, 0, nat_t=True)
        probe.close()
        receiver, sender = sockets(family=family, nat_t=True), sockets(family=family, nat_t=True)
        address = ipaddress.ip_address(host)
        sizes = [1200] * 70 + [300] + [64] * 5 + [900, 1000, 1000, 20]
        packets: list[bytes | memoryview] = [
            bytes((9, 9, 9, 9)) + i.to_bytes(4, "big") + os.urandom(n - 8) for i, n in enumerate(sizes)
        ]
        batch = EspDatagrams(
            Address(address, sender.port), Address(address, receiver.port), True, packets, 0xB9
        )
        assert sender.send_esp(batch) == len(packets)
        items = collect(receiver, len(packets))
        assert [packet for item in items for packet in item.packets] == packets
        assert {item.ecn for item in items} == {0xB9}
        assert {item.remote for item in items} == {Address(address, sender.port)}
        return
    pytest.skip("no IPv6 on this host")


@pytest.mark.parametrize("last", [100, 60, 8, 4, 3, 1])
@pytest.mark.parametrize("odd_one", [None, b"ike", b"keepalive", b"other SPI"])
def test_what_the_kernel_coalesced_is_told_apart(sockets, odd_one: bytes | None, last: int) -> None:
    """Equal datagrams arrive as one, whatever they are."""
    receiver, sender = sockets(nat_t=True), sockets(nat_t=True)
    here, there = Address(LOOPBACK, sender.port), Address(LOOPBACK, receiver.port)
    spi = bytes((1, 2, 3, 4))
    datagrams: list[bytes | memoryview] = [spi + bytes((n,)) * 96 for n in range(10)]
    start = {None: spi, b"ike": bytes(4), b"keepalive": b"\xff\xff\xff\xff", b"other SPI": b"abcd"}[odd_one]
    datagrams[4] = start + bytes(96)
    datagrams.append(((spi if last != 1 else b"\xff") + bytes(100))[:last])
    assert sender.send_esp(EspDatagrams(here, there, True, datagrams)) == 11
    short = last in (4, 3)
    items = collect(receiver, 11 - (last < 8))
    esp = [p for item in items if isinstance(item, EspDatagrams) for p in item.packets]
    ike = [item.data for item in items if isinstance(item, IkeDatagram)]
    expected = datagrams[: 11 - (last < 8)]
    if odd_one == b"ike":
        assert ike == [bytes(96)]
        del expected[4]
    assert esp == expected
    assert (receiver.malformed, receiver.keepalives) == (int(short), int(last == 1))


def test_runs_of_equal_packets(sockets) -> None:
    sock = sockets(nat_t=True)
    assert sock._run([b"a" * 100] * 3 + [b"b" * 50, b"c" * 100], 0) == 4
    assert sock._run([b"a" * 100, b"b" * 101], 0) == 1
    assert sock._run([b"a" * 1400] * 100, 0) == 46  # 65507 octets at most
    assert sock._run([b"a" * 100] * 100, 10) == 64
    sock._can_segment = False
    assert sock._run([b"a" * 100] * 3, 0) == 1


def test_without_segmentation_everything_arrives_too(sockets) -> None:
    receiver, sender = sockets(nat_t=True), sockets(nat_t=True)
    sender._can_segment = False
    packets: list[bytes | memoryview] = [bytes((1, 1, 1, 1)) + bytes(96)] * 20
    here, there = Address(LOOPBACK, sender.port), Address(LOOPBACK, receiver.port)
    assert sender.send_esp(EspDatagrams(here, there, True, packets)) == 20
    assert sum(len(item.packets) for item in collect(receiver, 20)) == 20


def test_a_port_in_use(sockets) -> None:
    first = sockets(nat_t=False)
    with pytest.raises(
        NetworkError, match=r"cannot open UDP port \d+: .* another IKE daemon has it: stop it"
    ):
        UdpSocket(socket.AF_INET, first.port, nat_t=False)


def test_a_local_address_that_is_not_ours(sockets) -> None:
    sender = sockets(nat_t=False)
    foreign = Address(ipaddress.IPv4Address("192.0.2.77"), sender.port)
    with pytest.raises(OSError, match=r".") as caught:
        sender.send(b"x", foreign, Address(LOOPBACK, 9))
    assert "local" in advice(caught.value)


def test_native_esp() -> None:
    try:
        sender, receiver = RawSocket(socket.AF_INET), RawSocket(socket.AF_INET)
    except NetworkError as error:
        pytest.skip(str(error))
    packets: list[bytes | memoryview] = [
        b"\x77\x77\x77\x77" + n.to_bytes(4, "big") + bytes(24) for n in range(5)
    ]
    batch = EspDatagrams(Address(OTHER), Address(LOOPBACK), False, packets, 0x20)
    try:
        assert sender.send_esp(batch) == 5
        items = [item for item in collect(receiver, 5) if item.packets[0][:4] == b"\x77" * 4]
        assert [packet for item in items for packet in item.packets] == packets
        assert items[0].local == Address(LOOPBACK)
        assert items[0].remote == Address(OTHER)
        assert (items[0].ecn, items[0].encapsulated) == (0x20, False)
    finally:
        sender.close()
        receiver.close()


def test_outer_df_follows_the_batch() -> None:
    try:
        sender = RawSocket(socket.AF_INET)
    except NetworkError as error:
        pytest.skip(str(error))
    watcher = socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP)
    watcher.settimeout(3)
    try:
        for dont_fragment in (True, False, False, True):
            packet = b"\x78\x78\x78" + os.urandom(29)
            batch = EspDatagrams(
                Address(OTHER), Address(LOOPBACK), False, [packet], dont_fragment=dont_fragment
            )
            assert sender.send_esp(batch) == 1
            seen = b""
            while not seen.endswith(packet):
                seen = watcher.recv(2000)
            assert bool(seen[6] & 0x40) is dont_fragment
    finally:
        sender.close()
        watcher.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_whole_packets_go_and_come_with_their_headers(family: socket.AddressFamily) -> None:
    try:
        sender, receiver = HeaderSocket(family), RawSocket(family, AH)
    except NetworkError as error:
        pytest.skip(str(error))
    body = b"\x3b\x04\0\0\x79\x79\x79\x79" + bytes(20)
    if family == socket.AF_INET:
        here, there = OTHER, LOOPBACK
        packet = IPv4Header(here, there, AH, 48, 0x28, 99, True, ttl=7).to_bytes() + body
    else:
        here = there = ipaddress.IPv6Address("::1")
        packet = IPv6Header(here, there, AH, 28, 0x28, 5, 7).to_bytes() + body
    try:
        batch = EspDatagrams(Address(here), Address(there), False, [packet], protocol=AH, whole=True)
        assert sender.send_esp(batch) == 1
        assert sender.receive() == []
        (item,) = [item for item in collect(receiver, 1) if body in item.packets[0]]
    except OSError as error:
        pytest.skip(f"no such loopback here: {error}")
    finally:
        sender.close()
        receiver.close()
    assert (item.protocol, item.whole, item.local, item.remote) == (AH, True, Address(there), Address(here))
    if family == socket.AF_INET:
        assert item.packets == [packet]
    else:  # what AH does not cover is not known any more
        header = IPv6Header.parse(item.packets[0])
        assert (header.source, header.destination, header.next_header) == (here, there, AH)
        assert item.packets[0][40:] == body


def test_a_whole_packet_that_is_too_long_does_not_take_others_with_it(require_root: None) -> None:
    """The kernel cuts no packet up that brings its header along."""
    with namespaces("io") as (place,):
        place.ip("link set lo mtu 1000 up")
        sender = place.inside(lambda: HeaderSocket(socket.AF_INET))

        def batch(*sizes: int) -> EspDatagrams:
            packets: list[bytes | memoryview] = [
                IPv4Header(OTHER, LOOPBACK, AH, size, dont_fragment=True).to_bytes() + bytes(size - 20)
                for size in sizes
            ]
            return EspDatagrams(Address(OTHER), Address(LOOPBACK), False, packets, protocol=AH, whole=True)

        try:
            assert sender.send_esp(batch(100, 1400, 1000, 1001, 200)) == 3
            with pytest.raises(OSError, match="too long"):
                sender.send_esp(batch(1400))
        finally:
            sender.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_of_icmp_only_errors_about_paths_are_read(family: socket.AddressFamily) -> None:
    protocol = ICMP if family == socket.AF_INET else ICMPV6
    try:
        sender, receiver = HeaderSocket(family), RawSocket(family, protocol)
    except NetworkError as error:
        pytest.skip(str(error))
    host = LOOPBACK if family == socket.AF_INET else ipaddress.IPv6Address("::1")
    quoted = udp("127.0.0.1", "127.0.0.9", 100) if host.version == 4 else udp("::1", "::2", 100)
    error = too_big(quoted, 1300)
    assert error is not None
    try:
        error = (
            put_together(error[:12] + LOOPBACK.packed * 2, 9, 1, error[20:]) if host.version == 4 else error
        )
        if host.version == 6:
            body = error[40:]
            pseudo = host.packed * 2 + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
            body = body[:2] + checksum(pseudo, body[:2] + bytes(2) + body[4:]).to_bytes(2, "big") + body[4:]
            error = IPv6Header(host, host, 58, len(body)).to_bytes() + body
        ping = echo_request(host, host, 77, 1)
        packets: list[bytes | memoryview] = [ping, error]
        batch = EspDatagrams(Address(host), Address(host), False, packets, whole=True)
        assert sender.send_esp(batch) == 2
        items = collect(receiver, 1)
        time.sleep(0.1)
        items += collect(receiver, 1, 0.1)
    except OSError as refused:
        pytest.skip(f"no such loopback here: {refused}")
    finally:
        sender.close()
        receiver.close()
    found = [parse_too_big(p) for item in items for p in item.packets]
    assert [seen.mtu for seen in found if seen is not None] == [1300]
    assert len(found) == 1
    assert items[0].protocol == protocol


def test_link_local_addresses_keep_their_interface() -> None:
    address = address_of(("fe80::1%lo", 500, 0, 1))
    assert address.host == ipaddress.IPv6Address("fe80::1%1")
    assert sockaddr_of(address) == ("fe80::1", 500, 0, 1)
    assert sockaddr_of(Address(ipaddress.IPv6Address("2001:db8::1"), 4500)) == ("2001:db8::1", 4500, 0, 0)


def test_the_address_towards_a_peer() -> None:
    assert source_address(LOOPBACK) == LOOPBACK
    assert source_address(ipaddress.IPv4Address("127.3.2.1")) is not None
    assert source_address(ipaddress.IPv4Address("255.255.255.255")) is None
