"""The SPD held by the kernel where packets do not enter the TUN device.

The TUN plane decides over what is routed into its device. What goes by is the kernel's: there it gets our BYPASS as
allow and DISCARD as block policies, and a block for each PROTECT, from which the device is exempt. So nothing that
PROTECT selects leaves in the clear by another route, and what arrives in the clear is dropped (RFC 4301 §5.2 step 3b).

Left out is IPv6 that this host itself sends or receives: there the kernel does not let us tell the device's packets
from others, so that a block would close the tunnel, too. For what is sent, unreachable routes behind the device's
(``routes``) hold it instead. Kernels before 5.18 confuse the devices, and get no blocks for PROTECT.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.codec import Policy
from ipsecstack.dataplane.xfrm.leftovers import remove_stale
from ipsecstack.dataplane.xfrm.netlink import Kernel
from ipsecstack.dataplane.xfrm.numbers import Verdict, Way
from ipsecstack.dataplane.xfrm.policies import (
    NEIGHBOR_DISCOVERY,
    OWNER,
    Place,
    PolicyBook,
    make_policy,
)
from ipsecstack.dataplane.xfrm.sockets import InstanceLock
from ipsecstack.ipsec.spd import Action, SpdEntry

log = logging.getLogger(__name__)

_GUARD = 0x80000  # tells a guard's policies from those of a data plane
_KNOBS = {4: ("disable_xfrm", "disable_policy"), 6: ("disable_policy",)}
_SOUND_SINCE = (5, 18)


def _release(text: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _ways(_entry: SpdEntry) -> Iterable[Way]:
    return (Way.OUT, Way.IN, Way.FWD)


class Guard:
    """Policies of the kernel beside one TUN device. ``instance`` is the number of its routing table.

    Raises DataPlaneError when the kernel takes no policies.
    """

    def __init__(self, instance: int) -> None:
        user = OWNER + _GUARD + (instance & 0x7FFFF)
        self._lock = InstanceLock(f"ipsecstack-guard-{instance}")
        try:
            self._kernel = Kernel()
            try:
                remove_stale(self._kernel, user)
            except BaseException:
                self._kernel.close()
                raise
        except BaseException:
            self._lock.close()
            raise
        self._exempt: set[int] = set()  # IP versions whose packets pass by policies in the device
        self._book = PolicyBook(self._kernel, user, self._render, _ways)
        self._closed = False

    def exempt(self, device: str) -> None:
        """Let packets in this device pass by all policies; called again when it was made again.

        Where that cannot be set (no IPv6, /proc/sys read-only) PROTECT is not held by the kernel.
        """
        if _release(os.uname().release) < _SOUND_SINCE:
            log.warning(
                "traffic that PROTECT selects is blocked outside of %s with Linux 5.18 and later", device
            )
            return
        before = set(self._exempt)
        for version, knobs in _KNOBS.items():
            try:
                for knob in knobs:
                    with open(f"/proc/sys/net/ipv{version}/conf/{device}/{knob}", "w") as file:
                        file.write("1")
                self._exempt.add(version)
            except OSError as error:
                self._exempt.discard(version)
                if version == 4 or not isinstance(error, FileNotFoundError):
                    log.warning(
                        "IPv%d traffic that PROTECT selects is not blocked outside of %s: %s",
                        version,
                        device,
                        error.strerror,
                    )
        if self._exempt != before:
            self._book.repair()

    def add(self, entry: SpdEntry) -> None:
        done: list[SpdEntry] = []
        try:
            for one in (entry, *_beside(entry)):
                self._book.add(one)
                done.append(one)
        except DataPlaneError:
            for one in done:
                self._book.remove(one)
            raise

    def remove(self, entry: SpdEntry) -> None:
        for one in (entry, *_beside(entry)):
            self._book.remove(one)

    def repair(self) -> None:
        """Install everything again."""
        self._book.repair()

    def _render(self, entry: SpdEntry, place: Place) -> Policy | None:
        if entry.action is Action.BYPASS:
            return make_policy(entry, place, Verdict.ALLOW)
        if entry.action is Action.PROTECT:
            version = place.selector.source.version
            if version not in self._exempt or (version == 6 and place.way is not Way.FWD):
                return None
        return make_policy(entry, place, Verdict.BLOCK)

    def close(self) -> None:
        """Remove everything. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._book.close()
        finally:
            self._kernel.close()
            self._lock.close()


def make_guard(instance: int) -> Guard | None:
    """A guard, or None (and a word in the log) where the kernel has no IPsec policies at all."""
    try:
        return Guard(instance)
    except DataPlaneError as error:
        log.warning("policies are not held outside of the TUN device: %s", error)
        return None


def _beside(entry: SpdEntry) -> list[SpdEntry]:
    """What is to pass beside a PROTECT or DISCARD: IPv6's neighbours, and traffic within the local selectors.

    Remote selectors may contain the local ones (a tunnel to 0.0.0.0/0): what stays on this side crosses no boundary.
    """
    out: list[SpdEntry] = []
    if entry.action is Action.BYPASS:
        return out
    if any(ts.version == 6 for ts in entry.remote_ts):
        out.append(NEIGHBOR_DISCOVERY)
    if entry.action is Action.PROTECT and any(
        here.intersect(there) for here in entry.local_ts for there in entry.remote_ts
    ):
        inside = replace(
            entry,
            name=f"{entry.name}/local",
            action=Action.BYPASS,
            remote_ts=entry.local_ts,
            priority=max(entry.priority - 1, 0),
            reqid=0,
            trap=False,
        )
        out.append(inside)
    return out
