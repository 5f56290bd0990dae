"""Which policies of ours the kernel has: one for each of its selectors, whoever asks for it first.

The kernel holds a single policy of a selector, our SPD may hold several. The first by priority, and then by age, is
installed; the next one takes its place when it goes.
"""

from __future__ import annotations

from bisect import insort_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import ENOENT

from ipsecstack.dataplane.base import DataPlaneError
from ipsecstack.dataplane.xfrm.codec import (
    Acknowledged,
    Policy,
    Request,
    delete_policy,
    new_policy,
)
from ipsecstack.dataplane.xfrm.netlink import Kernel, KernelError
from ipsecstack.dataplane.xfrm.numbers import Way
from ipsecstack.dataplane.xfrm.selectors import kernel_selectors
from ipsecstack.dataplane.xfrm.structures import PolicyInfo, Selector, Template
from ipsecstack.ipsec.selectors import TrafficSelector
from ipsecstack.ipsec.spd import Action, SpdEntry

OWNER = 0x49500000
"""``Selector.user`` of our policies and SAs, plus the number of the instance: what has it is ours, all else is not."""

_HIGHEST_PRIORITY = 2**32 - 1

NEIGHBOR_DISCOVERY = SpdEntry(
    "neighbor-discovery",
    Action.BYPASS,
    *(2 * ((TrafficSelector.from_text(f"::/0[58/{133 << 8}-{137 << 8 | 255}]"),),)),
    priority=1,
)
"""ICMPv6 133 to 137 find the hosts of a link (RFC 4861): without them nothing else of IPv6 could pass."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the kernel allows one policy for."""

    way: Way
    selector: Selector
    mark: tuple[int, int]
    if_id: int


Claim = tuple[int, int, SpdEntry]
Render = Callable[[SpdEntry, Place], Policy | None]


def first_two(claim: Claim) -> tuple[int, int]:
    return claim[0], claim[1]


class PolicyBook:
    """The policies of one owner. Every change may raise DataPlaneError, and then everything is as before.

    ``render`` says what the kernel is to have in a place for an entry (None: nothing), ``ways`` which ways an entry
    looks.
    """

    def __init__(
        self, kernel: Kernel, user: int, render: Render, ways: Callable[[SpdEntry], Iterable[Way]]
    ) -> None:
        self._kernel = kernel
        self._user = user
        self._render = render
        self._ways = ways
        self._numbers: dict[SpdEntry, int] = {}
        self._uses: Counter[SpdEntry] = Counter()
        self._places: dict[SpdEntry, list[Place]] = {}
        self._claims: dict[Place, list[Claim]] = {}
        self._outbound: dict[Selector, dict[Place, None]] = {}  # places with claims
        self._installed: dict[Place, Policy] = {}
        self._by_reqid: dict[int, dict[SpdEntry, None]] = {}
        self._last_number = 0

    # --- what is asked for --------------------------------------------------------------------------------------------

    def __contains__(self, entry: SpdEntry) -> bool:
        return entry in self._uses

    def entries(self) -> list[SpdEntry]:
        """In the order in which they are asked."""
        return sorted(self._uses, key=lambda entry: (entry.priority, self._numbers[entry]))

    def of_reqid(self, reqid: int) -> list[SpdEntry]:
        return list(self._by_reqid.get(reqid, ()))

    def claimants(self, selector: Selector) -> Iterator[SpdEntry]:
        """Entries that want the outbound policy of this selector, the installed one first."""
        for place in self._outbound.get(selector, ()):
            for claim in self._claims[place]:
                yield claim[2]

    def add(self, entry: SpdEntry) -> None:
        if entry in self._uses:
            self._uses[entry] += 1
            return
        places = self._places_of(entry)
        self._last_number += 1
        self._numbers[entry] = self._last_number
        self._uses[entry] = 1
        self._places[entry] = places
        self._by_reqid.setdefault(entry.reqid, {})[entry] = None
        for place in places:
            if place.way is Way.OUT:
                self._outbound.setdefault(place.selector, {})[place] = None
            insort_right(
                self._claims.setdefault(place, []), (entry.priority, self._last_number, entry), key=first_two
            )
        try:
            self._settle(places)
        except DataPlaneError:
            self.remove(entry)
            raise

    def remove(self, entry: SpdEntry) -> None:
        """One use less; nothing happens to an entry that is not there."""
        if entry not in self._uses:
            return
        self._uses[entry] -= 1
        if self._uses[entry]:
            return
        del self._uses[entry]
        number = self._numbers.pop(entry)
        places = self._places.pop(entry)
        of_reqid = self._by_reqid[entry.reqid]
        del of_reqid[entry]
        if not of_reqid:
            del self._by_reqid[entry.reqid]
        for place in places:
            claims = self._claims[place]
            claims.remove((entry.priority, number, entry))
            if claims:
                continue
            del self._claims[place]
            if place.way is Way.OUT:
                same = self._outbound[place.selector]
                del same[place]
                if not same:
                    del self._outbound[place.selector]
        self._settle(places)

    def _places_of(self, entry: SpdEntry) -> list[Place]:
        return [
            Place(way, selector, entry.mark, entry.if_id)
            for way in self._ways(entry)
            for selector in kernel_selectors(
                entry.local_ts, entry.remote_ts, way, self._user, entry.interface
            )
        ]

    # --- what the kernel has ------------------------------------------------------------------------------------------

    def refresh(self, reqid: int) -> None:
        """What ``render`` says for the entries of this reqid may have changed."""
        for entry in self.of_reqid(reqid):
            self._settle(self._places[entry])

    def repair(self) -> None:
        """Install everything again, whatever the kernel has, and remove what it would not let go."""
        self._settle(list(dict.fromkeys((*self._claims, *self._installed))), anew=True)

    def _settle(self, places: Sequence[Place], anew: bool = False) -> None:
        """Make the kernel's policies in these places what they should be; ``anew``: also those that it should have."""
        wanted: list[tuple[Place, Policy | None]] = []
        for place in places:
            claims = self._claims.get(place)
            policy = self._render(claims[0][2], place) if claims else None
            if policy != self._installed.get(place) or (anew and policy is not None):
                wanted.append((place, policy))
        if not wanted:
            return
        answers = self._kernel.ask([_request(place, policy) for place, policy in wanted])
        refused: KernelError | None = None
        for (place, policy), answer in zip(wanted, answers, strict=True):
            error = answer.error if isinstance(answer, Acknowledged) else 0
            if policy is None:
                self._installed.pop(place, None)
            elif not error:
                self._installed[place] = policy
            if error and not (policy is None and error == ENOENT):
                reason = answer.reason if isinstance(answer, Acknowledged) else ""
                refused = refused or KernelError(_request(place, policy).what, error, reason)
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Remove them all from the kernel."""
        requests = [_request(place, None) for place in self._installed]
        self._uses.clear()
        self._numbers.clear()
        self._places.clear()
        self._claims.clear()
        self._outbound.clear()
        self._by_reqid.clear()
        self._installed.clear()
        if requests:
            self._kernel.ask(requests)


def _request(place: Place, policy: Policy | None) -> Request:
    if policy is None:
        return delete_policy(place.selector, place.way, place.mark, place.if_id)
    return new_policy(policy, replace=True)


def make_policy(
    entry: SpdEntry, place: Place, verdict: int, templates: tuple[Template, ...] = (), earlier: int = 0
) -> Policy:
    """A policy of this place; ``earlier`` puts it before others of its priority."""
    info = PolicyInfo(
        place.selector, place.way, verdict, min(max(entry.priority - earlier, 0), _HIGHEST_PRIORITY)
    )
    return Policy(info, templates, place.mark, place.if_id)
