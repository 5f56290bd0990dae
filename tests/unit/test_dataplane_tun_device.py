"""The TUN device with the kernel behind it, which cuts large packets again into what they were made of."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from espkit import ACK, CWR, PSH, numbered, stream, tcp, udp
from lab.netns import Namespace, namespaces

from ipsecstack.dataplane.coalesce import coalesce
from ipsecstack.dataplane.tun_device import TunDevice
from ipsecstack.wire.ip import checksum


@pytest.fixture
def router(require_root: None) -> Iterator[tuple[Namespace, TunDevice, TunDevice]]:
    """A host that forwards from device ``in0`` to ``out0``, both ours, and back."""
    with namespaces("r") as (ns,):
        ns.sysctl(ipv6__conf__default__addr_gen_mode=1)  # no addresses, no router solicitations
        devices = [ns.inside(lambda name=name: TunDevice(name)) for name in ("in0", "out0")]
        for number, device in enumerate(devices, 1):
            ns.ip(
                f"link set {device.name} mtu 1400 up",
                f"route add 10.{number}.0.0/24 dev {device.name}",
                f"route add fd0{number}::/64 dev {device.name}",
            )
        ns.sysctl(
            ipv4__ip_forward=1,
            ipv6__conf__all__forwarding=1,
            ipv4__conf__all__rp_filter=0,
            ipv4__conf__in0__rp_filter=0,
        )
        yield ns, devices[0], devices[1]
        for device in devices:
            device.close()


def forwarded(packet: bytes) -> bytes:
    """A packet one hop further."""
    out = bytearray(packet)
    if out[0] >> 4 == 6:
        out[7] -= 1
        return bytes(out)
    out[8] -= 1
    out[10:12] = bytes(2)
    out[10:12] = checksum(out[:20]).to_bytes(2, "big")
    return bytes(out)


def read_all(device: TunDevice, expected: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < expected and select.select([device.fd], [], [], 2)[0]:
        # A router's own multicast reports may be among them.
        got += [bytes(packet) for packet in device.read(64) if (packet[0] >> 4, packet[24]) != (6, 0xFF)]
    return got


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_cuts_what_was_coalesced(
    router: tuple[Namespace, TunDevice, TunDevice], version: int
) -> None:
    _, inside, outside = router
    ends = ("10.1.0.5", "10.2.0.9") if version == 4 else ("fd01::5", "fd02::9")
    packets = [
        *stream(version, [1280] * 40 + [77], flags=ACK | PSH),
        *stream(version, [1280] * 3, sequence=10**6, flags=ACK | CWR),
        *numbered([udp(*ends, 90) for _ in range(20)] + [udp(*ends, 71)]),
        *[tcp(version, 0, 5, 5)] * 3,
    ]
    assert len(list(coalesce(packets))) < 10
    assert inside.write(packets) == 0
    assert read_all(outside, len(packets)) == [forwarded(packet) for packet in packets]


def test_refused_packets_are_counted_one_by_one(router: tuple[Namespace, TunDevice, TunDevice]) -> None:
    ns, inside, _ = router
    packets = stream(4, [1000] * 10)
    ns.ip("link set in0 down")
    assert inside.write([*packets, b"\x45", *packets]) == 21
    list(iter(lambda: inside.read(8), []))  # ends: a device that is down has nothing more


def test_reading_is_bounded(router: tuple[Namespace, TunDevice, TunDevice]) -> None:
    _, inside, outside = router
    packets = stream(4, [500] * 30)
    assert inside.write(packets) == 0
    assert select.select([outside.fd], [], [], 2)[0]
    sizes = [len(outside.read(8)) for _ in range(3)]
    assert sizes == [8, 8, 8]
    assert 6 <= len(outside.read(100)) < 10
    assert outside.read(8) == []
