"""The contract of data planes (tests/lab/dataplane_contract.py): memory, TUN, and what this kernel has of XFRM.

The whole of it for the kernel's plane runs in a guest: tests/interop/test_kernel_plane.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lab.dataplane_contract import CONTRACT, NEEDS_NO_SA, UserspaceWorld, World
from lab.netns import namespaces

from ipsecstack.dataplane.memory import MemoryDataPlane
from ipsecstack.dataplane.tun import TunDataPlane
from ipsecstack.dataplane.xfrm.plane import XfrmDataPlane


@pytest.fixture(params=["memory", "tun"])
def world(request: pytest.FixtureRequest) -> Iterator[UserspaceWorld]:
    if request.param == "memory":
        made = UserspaceWorld(MemoryDataPlane)
        yield made
        made.close()
        return
    request.getfixturevalue("require_root")
    with namespaces("a", "b") as found:
        places = iter(found)
        made = UserspaceWorld(lambda: next(places).inside(TunDataPlane))
        yield made
        made.close()


@pytest.mark.parametrize("test", CONTRACT, ids=lambda test: test.__name__)
def test_userspace(world: UserspaceWorld, test: Callable[[World], None]) -> None:
    test(world)


@pytest.mark.parametrize("test", NEEDS_NO_SA, ids=lambda test: test.__name__)
def test_kernel(require_root: None, test: Callable[[World], None]) -> None:
    with namespaces("a", "b") as found:
        places = iter(found)
        made = UserspaceWorld(lambda: next(places).inside(XfrmDataPlane))
        try:
            test(made)
        finally:
            made.close()
