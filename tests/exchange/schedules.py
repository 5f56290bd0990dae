"""Random schedules of rekeys over a bad network, each one made from its seed, and what has to be true at its end.

A schedule is a list of commands at either end with pauses between them, over a network that loses, doubles and delays
datagrams. While it runs, each end sends over an SA that the other has installed (make before break); when the network
is well again, both ends hold one IKE SA and one Child SA for each policy, with matching SPIs, and nothing else.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field, replace

from ike_network import ESP_GCM, IKE_GCM, Pair, mirrored, ts

from ipsecstack.ipsec.sa import SecurityProtocol
from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.keyex.options import Options
from ipsecstack.wire.transforms import EncrId, KeId

PFS = Proposal(SecurityProtocol.ESP, ((EncrId.AES_GCM_16, 128),), ke=(KeId.CURVE_25519, KeId.ECP_256))
HYBRID = replace(PFS, additional_ke=((KeId.ECP_256,),))
HYBRID_IKE = replace(IKE_GCM, additional_ke=((KeId.ECP_256,),))
PFS_SWAPPED = replace(PFS, ke=(KeId.ECP_256,))
CHILDREN = (("net", "10.1.0.0/24", "10.2.0.0/24"), ("dmz", "10.3.0.0/24", "10.4.0.0/24"))
HEALED = 900.0  # longer than all retransmissions, retries and lingering SAs together


@dataclass(frozen=True)
class Schedule:
    """One run: ``steps`` are (end, command, child, seconds until the next step)."""

    seed: int
    loss: float
    duplicate: float
    reorder: float
    children: int
    proposals: (
        str  # plain, pfs, hybrid (additional key exchanges), invalid-ke (the ends prefer different groups)
    )
    window: int
    features: frozenset[str]
    steps: tuple[tuple[str, str, str, float], ...] = field(repr=False)

    @property
    def only_rekeys(self) -> bool:
        """Nothing is closed or opened by command: the children that were there at first have to be there at the end."""
        return all(command.startswith(("rekey", "expire", "wait")) for _, command, _, _ in self.steps)


REKEYS = (
    "rekey child",
    "rekey child",
    "rekey child",
    "rekey ike",
    "rekey ike",
    "expire",
    "wait",
    "wait long",
)
COMMANDS = (*REKEYS, "initiate", "initiate", "terminate child", "terminate ike")
PAUSES = (0.0, 0.0, 0.004, 0.008, 0.012, 0.016, 0.025, 0.05, 0.2, 1.0, 3.0)


def schedule(seed: int) -> Schedule:
    """The schedule of this seed, always the same."""
    rng = random.Random(f"schedule/{seed}")
    commands = COMMANDS if rng.random() < 0.25 else REKEYS
    children = rng.choice((1, 1, 2))
    features = frozenset(name for name in ("fragmentation", "mobike") if rng.random() < 0.25)
    steps = []
    for _ in range(rng.randint(1, 12)):
        steps.append(
            (rng.choice("ab"), rng.choice(commands), CHILDREN[rng.randrange(children)][0], rng.choice(PAUSES))
        )
    plan = Schedule(
        seed=seed,
        loss=rng.choice((0.0, 0.05, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.1, 0.3)),
        reorder=rng.choice((0.0, 0.2, 0.5)),
        children=children,
        proposals=rng.choice(("plain", "plain", "plain", "pfs", "invalid-ke")),
        window=rng.choice((1, 1, 1, 4)),
        features=features,
        steps=tuple(steps),
    )
    if rng.random() < 0.1:
        plan = replace(plan, proposals="hybrid")
    return plan


class Watched(Pair):
    """A pair that looks after each step whether what one end sends can be received by the other."""

    watching = False

    def step(self, limit: float | None = None) -> bool:
        going_on = super().step(limit)
        if self.watching:
            self.check_sending()
        return going_on

    def check_sending(self) -> None:
        for one, other in ((self.a, self.b), (self.b, self.a)):
            received = {sa.spi for sa in other.plane.inbound()}
            for reqid in {sa.reqid for sa in one.plane.sas.values()}:
                sending = one.plane.sending(reqid)
                assert sending is not None, (
                    f"{one.name} has no SA to send over for reqid {reqid} at {self.now}"
                )
                assert sending.spi in received, (
                    f"{one.name} sends to {sending.spi:08x} at {self.now}, which {other.name} does not have"
                )


def build(plan: Schedule) -> Watched:
    """Two ends with the schedule's configuration, all its children up."""
    # So many tries that losing all of them is out of the question: one end giving up alone is no fault of the protocol.
    options = Options(
        retransmit_timeout=1.0,
        retransmit_base=1.25,
        retransmit_tries=16,
        retransmit_jitter=0.1,
        request_window=plan.window,
        fragment_size=300 if "fragmentation" in plan.features else 1280,
    )
    proposals = {"plain": ESP_GCM, "hybrid": HYBRID}.get(plan.proposals, PFS)
    a, b = mirrored(
        fragmentation="yes" if "fragmentation" in plan.features else "no",
        mobike="mobike" in plan.features,
        proposals=(HYBRID_IKE if plan.proposals == "hybrid" else IKE_GCM,),
        child_options={"proposals": (proposals,)},
    )
    if plan.children == 2:
        name, at_a, at_b = CHILDREN[1]
        first = a.children[0]
        a = replace(a, children=(first, replace(first, name=name, local_ts=ts(at_a), remote_ts=ts(at_b))))
        first = b.children[0]
        b = replace(b, children=(first, replace(first, name=name, local_ts=ts(at_b), remote_ts=ts(at_a))))
    if plan.proposals == "invalid-ke":
        b = replace(b, children=tuple(replace(child, proposals=(PFS_SWAPPED,)) for child in b.children))
    pair = Watched(a=a, b=b, seed=plan.seed, options=options)
    for name, _, _ in CHILDREN[: plan.children]:
        pair.up(name)
    return pair


def act(pair: Pair, who: str, command: str, child: str) -> None:
    """One step; what makes no sense at the moment is refused by the endpoint, and that is right."""
    end = getattr(pair, who)
    endpoint = end.endpoint
    with contextlib.suppress(CommandError):
        if command == "initiate":
            end.do(endpoint.initiate, ike=None, child=child)
        elif command == "rekey child":
            end.do(endpoint.rekey, child=child)
        elif command == "rekey ike":
            end.do(endpoint.rekey, ike="conn")
        elif command == "expire":
            # The data plane tells of a soft limit, as likely as not on an SA that is rekeyed already.
            sas = end.plane.order
            which = [one for one in sas if one in end.plane.sas]
            if which:
                end.do(endpoint.sa_expired, sa=end.rng.choice(which), hard=False)
        elif command == "terminate child":
            end.do(endpoint.terminate, child=child)
        elif command == "terminate ike":
            end.do(endpoint.terminate, ike="conn")
        elif command == "wait long":
            pair.run(40)


def heal(pair: Pair) -> None:
    """The network is well again, and everything has time to come to an end."""
    pair.loss = pair.duplicate = pair.reorder = 0.0
    pair.run(HEALED)


def check_converged(pair: Pair) -> None:
    """Both ends hold the same, nothing is left over, and they can still work together."""
    for end in pair.ends:
        for sa in end.ike():
            assert sa.state == "ESTABLISHED", f"{end.name}: an IKE SA stays {sa.state}"
            assert sa.tasks_active == sa.tasks_queued == (), f"{end.name}: tasks are left"
    pair.check_agreement()
    pair.check_no_leaks()
    for end in pair.ends:
        states = [c.state for c in end.children()]
        assert all(state == "INSTALLED" for state in states), f"{end.name}: {states}"
        # The outbound SA of a second child for the same policy may wait until the peer is heard over it.
        pairs = [(c.inbound, c.outbound) for c in end.children()]
        own = {one for pair_ in pairs for one in pair_ if one is not None}
        assert all(inbound is not None for inbound, _ in pairs), (
            f"{end.name}: a Child SA that receives nothing"
        )
        assert set(end.plane.sas) == own, f"{end.name}: SAs without a Child SA"
        for reqid in {c.reqid for c in end.children()}:
            assert end.plane.sending(reqid) is not None, f"{end.name}: nothing to send over"
    spis = {end.name: {(c.spi_in, c.spi_out) for c in end.children()} for end in pair.ends}
    assert spis["a"] == {(out, in_) for in_, out in spis["b"]}, f"SPIs differ: {spis}"
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(30)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None, "initiate does not end"
    assert outcome.success, outcome.message


def check_one_each(pair: Pair, children: int) -> None:
    """One IKE SA, and one Child SA for each policy."""
    names = sorted(name for name, _, _ in CHILDREN[:children])
    for end in pair.ends:
        assert len(end.ike()) == 1, f"{end.name} has {len(end.ike())} IKE SAs"
        found = sorted(c.name for c in end.children())
        assert found == names, f"{end.name} has {found}"
        assert len(end.plane.sas) == 2 * children, f"{end.name} has {len(end.plane.sas)} SAs"
        assert len(end.plane.policies) == children, f"{end.name} has {len(end.plane.policies)} policies"


def play(plan: Schedule) -> Watched:
    """Run a schedule to its end; AssertionError tells what was wrong."""
    pair = build(plan)
    pair.watching = plan.only_rekeys
    pair.loss, pair.duplicate, pair.reorder = plan.loss, plan.duplicate, plan.reorder
    for who, command, child, pause in plan.steps:
        act(pair, who, command, child)
        pair.run(pause)
    heal(pair)
    check_converged(pair)
    if plan.only_rekeys:
        check_one_each(pair, plan.children)
    return pair
