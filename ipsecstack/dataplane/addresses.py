"""Virtual addresses of this host (RFC 7296 §2.19): put on a device by netlink, and taken off again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.ipsec.selectors import IPAddress

T = TypeVar("T")
PROTOCOL = 150  # of our addresses (IFA_PROTO), as of our routes
_EEXIST, _EADDRNOTAVAIL, _ENODEV = 17, 99, 19
_NODAD = 0x02  # IFA_F_NODAD: nobody else has the address, so it is good at once


class VirtualAddresses:
    """The virtual addresses on one device. Calls may raise DataPlaneError.

    Ours carry a protocol number by which they are told from others (Linux 5.18): those that a process left which died
    are taken off at the start. An address that the host has already is left alone, also in the end. pyroute2 brings an
    event loop of its own, so its calls run in a worker thread.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._ours: dict[IPAddress, bool] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="addresses")
        # The thread is made here and now, and belongs to the network namespace that we are made in.
        self._worker.submit(bool).result()
        with contextlib.suppress(DataPlaneError):
            self._call(self._remove_stale)

    def _remove_stale(self, ipr: Any) -> None:
        found = ipr.link_lookup(ifname=self._device)
        for message in ipr.get_addr(index=found[0]) if found else ():
            if message.get_attr("IFA_PROTO") == PROTOCOL:
                self._change(ipr, "del", ip_address(message.get_attr("IFA_ADDRESS")), _EADDRNOTAVAIL)

    def __contains__(self, address: IPAddress) -> bool:
        return address in self._ours

    def add(self, address: IPAddress) -> None:
        if address not in self._ours:
            self._ours[address] = self._call(lambda ipr: self._change(ipr, "add", address, _EEXIST))

    def remove(self, address: IPAddress) -> None:
        if self._ours.pop(address, False):
            self._call(lambda ipr: self._change(ipr, "del", address, _EADDRNOTAVAIL))

    def restore(self) -> None:
        """The device was made again: it gets its addresses back."""

        def work(ipr: Any) -> None:
            for address in [address for address, ours in self._ours.items() if ours]:
                self._change(ipr, "add", address, _EEXIST)

        if self._ours:
            self._call(work)

    def close(self) -> None:
        """Take all of them off. A second call does nothing."""
        for address in list(self._ours):
            with contextlib.suppress(DataPlaneError):
                self.remove(address)
        self._worker.shutdown()

    def _change(self, ipr: Any, command: str, address: IPAddress, ignore: int) -> bool:
        found = ipr.link_lookup(ifname=self._device)
        if not found:
            raise DataPlaneError(f"{self._device} is not there")
        arguments: dict[str, Any] = {
            "family": AF_INET if address.version == 4 else AF_INET6,
            "index": found[0],
            "address": str(address),
            "prefixlen": address.max_prefixlen,
        }
        if command == "add":
            arguments["proto"] = PROTOCOL
        if address.version == 6 and command == "add":
            arguments["flags"] = _NODAD
        try:
            ipr.addr(command, **arguments)
        except NetlinkError as error:
            if error.code not in (ignore, _ENODEV):
                raise
            return False
        return True

    def _call(self, work: Callable[[Any], T]) -> T:
        def in_thread() -> T:
            with IPRoute() as ipr:
                return work(ipr)

        try:
            return self._worker.submit(in_thread).result()
        except (NetlinkError, OSError) as error:
            raise DataPlaneError(f"virtual address on {self._device}: {error}") from None
