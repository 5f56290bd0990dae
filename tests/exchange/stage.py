"""Two ends whose datagrams arrive when the test says so: every order of arrival can be played."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ike_network import End, Pair, mirrored

from ipsecstack.keyex import base
from ipsecstack.keyex.configuration import ConnectionConfig
from ipsecstack.keyex.ikev2 import machine
from ipsecstack.keyex.ikev2.agreement import NONCE_OCTETS
from ipsecstack.keyex.ikev2.informational import DeleteChild
from ipsecstack.keyex.ikev2.sa import ChildSa, IkeSa
from ipsecstack.keyex.options import Options

SLOW = Options(retransmit_timeout=2000.0, retransmit_jitter=0.0, retransmit_tries=1)
EXCHANGES = {34: "init", 35: "auth", 36: "create", 37: "info", 43: "intermediate", 44: "followup"}


class Stage(Pair):
    """A pair with its child up. From then on each datagram waits in ``held`` until ``arrive`` lets it through."""

    def __init__(
        self, *, a: ConnectionConfig | None = None, b: ConnectionConfig | None = None, **options: Any
    ) -> None:
        settings = replace(SLOW, **options) if options else SLOW
        super().__init__(a=a, b=b, options=settings)
        self.up()
        self.held: dict[str, list[base.SendDatagram]] = {"a": [], "b": []}
        self.offered: dict[str, int] = {}
        self.first_octet: dict[str, int] = {}
        for end in self.ends:
            self._steer(end)
        self.tap = self._hold

    def _hold(self, sender: End, output: base.SendDatagram) -> bool:
        self.held[sender.name].append(output)
        return False

    def _steer(self, end: End) -> None:
        """Nonces begin with the octet in ``first_octet``: which one is the lowest is for the test to say."""
        draw = end.endpoint.random

        def random(octets: int) -> bytes:
            data = draw(octets)
            first = self.first_octet.get(end.name)
            return bytes((first,)) + data[1:] if first is not None and octets == NONCE_OCTETS else data

        end.endpoint.random = random

    def end(self, who: str) -> End:
        return {"a": self.a, "b": self.b}[who]

    def ike_sa(self, who: str) -> IkeSa:
        return self.end(who).endpoint.registry.all()[0]

    # --- what an end does ---

    def rekey_child(self, who: str, nonce: int = 0x80) -> None:
        self.first_octet[who] = nonce
        sa = self.ike_sa(who)
        self.end(who).do(self.end(who).endpoint.rekey, child="net")
        self.offered[who] = next(t.offer.spi_in for t in sa.active.values() if t.label == "CHILD_REKEY")  # type: ignore[attr-defined]

    def rekey_ike(self, who: str, nonce: int = 0x80) -> None:
        self.first_octet[who] = nonce
        self.end(who).do(self.end(who).endpoint.rekey, ike="conn")

    def close_child(self, who: str, **which: Any) -> None:
        self.end(who).do(self.end(who).endpoint.terminate, **(which or {"child": "net"}))

    def delete_child(self, who: str, child: ChildSa) -> None:
        """A Delete for any Child SA, also for one that no command finds any more."""
        sa = self.ike_sa(who)
        sa.enqueue(DeleteChild(child, "deleted"), first=True)
        machine.pump(sa, self.now)
        self.end(who).flush()

    def close_ike(self, who: str) -> None:
        self.end(who).do(self.end(who).endpoint.terminate, ike="conn")

    # --- what the network does ---

    def waiting(self, who: str) -> list[str]:
        """Exchanges of the datagrams that ``who`` has sent and that did not arrive, oldest first; "!" is a response."""
        return [EXCHANGES[o.data[18]] + ("!" if o.data[19] & 0x20 else "?") for o in self.held[who]]

    def arrive(self, who: str, what: str = "", nonce: int | None = None) -> None:
        """The oldest datagram of ``who`` arrives (the oldest of an exchange, like "info?", if named). ``nonce``: what
        the receiver's answer begins with."""
        waiting = self.waiting(who)
        assert waiting, f"{who} has sent nothing"
        index = waiting.index(what) if what else 0
        output = self.held[who].pop(index)
        if nonce is not None:
            self.first_octet["b" if who == "a" else "a"] = nonce
        self.deliver(output.data, output.local, output.remote)
        self.run(0)

    def lose(self, who: str, what: str = "") -> base.SendDatagram:
        waiting = self.waiting(who)
        return self.held[who].pop(waiting.index(what) if what else 0)

    def play_on(self, seconds: float = 400) -> None:
        """All that waits arrives, and from now on everything at once."""
        self.tap = None
        for who in ("a", "b"):
            for output in self.held[who]:
                self.deliver(output.data, output.local, output.remote)
            self.held[who] = []
        self.run(seconds)

    # --- what is there in the end ---

    def settled(self, ikes: int = 1, children: int = 1) -> None:
        """So many SAs at both ends, nothing else, and nothing under way."""
        self.check_agreement()
        self.check_no_leaks()
        for end in self.ends:
            assert len(end.ike()) == ikes, f"{end.name} has {len(end.ike())} IKE SAs"
            assert [c.state for c in end.children()] == ["INSTALLED"] * children, end.name
            assert len(end.plane.sas) == 2 * children
            for sa in end.ike():
                assert sa.tasks_active == sa.tasks_queued == ()

    def survivor(self) -> str:
        """The end whose request made the Child SA that is left."""
        return next(who for who in "ab" if self.end(who).children()[0].spi_in == self.offered.get(who))

    def ike_survivor(self) -> str:
        return "a" if self.a.ike()[0].initiator else "b"

    def said_error(self, who: str, name: str) -> bool:
        return any(name in line for line in self.end(who).log() if "generating" in line)


def groups(
    at_a: tuple[Any, ...], at_b: tuple[Any, ...], proposal: Any, *, ike: bool = False
) -> dict[str, Any]:
    """Configurations of both ends that differ in the groups of their Child SAs, or of their IKE SAs."""
    a, b = mirrored()
    if ike:
        return {
            "a": replace(a, proposals=(replace(proposal, ke=at_a),)),
            "b": replace(b, proposals=(replace(proposal, ke=at_b),)),
        }
    return {
        "a": replace(a, children=(replace(a.children[0], proposals=(replace(proposal, ke=at_a),)),)),
        "b": replace(b, children=(replace(b.children[0], proposals=(replace(proposal, ke=at_b),)),)),
    }
