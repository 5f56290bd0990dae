"""SPIs of inbound SAs: drawn here, and reserved in the kernel, so that no other program of this host gets one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from errno import EEXIST, ENOENT

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.codec import Acknowledged, allocate_spi, delete_state
from ipsecstack.dataplane.xfrm.netlink import Kernel, KernelError
from ipsecstack.dataplane.xfrm.numbers import ESP
from ipsecstack.dataplane.xfrm.structures import ANY4, Selector, StateId, StateInfo

_TRIES = 64


class SpiPool:
    """Which SPIs are taken. The kernel's reservation lapses after half a minute, ours stays until it is released."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._reserved: set[int] = set()
        self._used: Counter[int] = Counter()

    def allocate(self, random: Callable[[int], bytes]) -> int:
        """An SPI that nobody has. DataPlaneError when none is found."""
        for _ in range(_TRIES):
            spi = int.from_bytes(random(4), "big")
            if spi < 256 or spi in self._reserved or spi in self._used:
                continue
            info = StateInfo(_reservation(spi), ANY4, Selector.every(4))
            (answer,) = self._kernel.ask([allocate_spi(info, spi, spi)])
            if isinstance(answer, Acknowledged) and answer.error:
                if answer.error in (ENOENT, EEXIST):  # somebody else's
                    continue
                raise KernelError("an SPI", answer.error, answer.reason)
            self._reserved.add(spi)
            return spi
        raise DataPlaneError("no SPI is free: remove SAs of other programs (ip xfrm state)")

    def release(self, spi: int) -> None:
        """Nothing happens to one that is not reserved."""
        if spi in self._reserved:
            self._reserved.discard(spi)
            self._kernel.ask([delete_state(_reservation(spi))])

    def used(self, spi: int) -> None:
        """An SA has it."""
        self._used[spi] += 1

    def unused(self, spi: int) -> None:
        """An SA less has it."""
        self._used[spi] -= 1
        if not self._used[spi]:
            del self._used[spi]

    def close(self) -> None:
        """Give back what is reserved."""
        self._kernel.ask(delete_state(_reservation(spi)) for spi in self._reserved)
        self._reserved.clear()


def _reservation(spi: int) -> StateId:
    return StateId(ANY4, spi, ESP)
