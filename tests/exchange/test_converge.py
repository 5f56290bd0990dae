"""Any schedule of commands over a bad network ends with both ends agreeing and nothing leaked."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ike_network import Pair, mirrored

from ipsecstack.keyex.base import CommandError
from ipsecstack.keyex.configuration import ChildAction
from ipsecstack.keyex.options import Options

# So many tries that losing all of them is out of the question: one end giving up alone is no fault of the protocol.
OPTIONS = Options(retransmit_timeout=1.0, retransmit_base=1.25, retransmit_tries=16, retransmit_jitter=0.1)
COMMANDS = st.sampled_from(
    ["initiate", "rekey child", "rekey ike", "terminate child", "terminate ike", "wait", "wait", "long wait"]
)
SCHEDULES = st.lists(
    st.tuples(st.sampled_from("ab"), COMMANDS, st.floats(0, 0.05)),
    min_size=1,
    max_size=12,
)


def act(pair: Pair, who: str, command: str) -> None:
    end = getattr(pair, who)
    endpoint = end.endpoint
    with contextlib.suppress(CommandError):
        if command == "initiate":
            end.do(endpoint.initiate, ike=None, child="net")
        elif command == "rekey child":
            end.do(endpoint.rekey, child="net")
        elif command == "rekey ike":
            end.do(endpoint.rekey, ike="conn")
        elif command == "terminate child":
            end.do(endpoint.terminate, child="net")
        elif command == "terminate ike":
            end.do(endpoint.terminate, ike="conn")
        elif command == "long wait":
            pair.run(40)


def converge(pair: Pair) -> None:
    """The network heals: after the longest wait of all both ends hold the same, and can still work together."""
    pair.loss = pair.duplicate = pair.reorder = 0.0
    pair.run(700)
    for end in pair.ends:
        for sa in end.ike():
            assert sa.state == "ESTABLISHED", (end.name, sa.state)
            assert sa.tasks_active == sa.tasks_queued == ()
    pair.check_agreement()
    pair.check_no_leaks()
    for end in pair.ends:
        assert all(c.state == "INSTALLED" for c in end.children()), [c.state for c in end.children()]
        assert len(end.plane.sas) == 2 * len(end.children())
    spis = {end.name: {(c.spi_in, c.spi_out) for c in end.children()} for end in pair.ends}
    assert spis["a"] == {(out, in_) for in_, out in spis["b"]}
    ticket = pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(30)
    outcome = pair.a.outcome(ticket)
    assert outcome is not None
    assert outcome.success, outcome.message


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    schedule=SCHEDULES,
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    chaos=st.sampled_from([0.0, 0.3]),
)
def test_schedules_converge(
    schedule: list[tuple[str, str, float]], seed: int, loss: float, chaos: float
) -> None:
    a, b = mirrored()
    pair = Pair(a=a, b=b, seed=seed, options=OPTIONS)
    pair.up()
    pair.loss, pair.duplicate, pair.reorder = loss, chaos, chaos
    for who, command, pause in schedule:
        act(pair, who, command)
        pair.run(pause)
    converge(pair)


@pytest.mark.parametrize("seed", range(6))
def test_hours_of_rekeying_over_a_bad_network(seed: int) -> None:
    """Six hours, everything rekeyed every few minutes by both ends, a tenth of the datagrams lost."""
    a, b = mirrored(
        rekey_time=900,
        over_time=300,
        rand_time=300,
        dpd_delay=60,
        child_options={
            "rekey_time": 200,
            "life_time": 400,
            "rand_time": 100,
            "dpd_action": ChildAction.RESTART,
        },
    )
    pair = Pair(a=a, b=b, seed=seed, options=OPTIONS)
    pair.up()
    pair.loss, pair.duplicate, pair.reorder = 0.1, 0.05, 0.1
    pair.run(6 * 3600)
    pair.loss = pair.duplicate = pair.reorder = 0.0
    pair.run(60)
    pair.check_no_leaks()
    for end in pair.ends:
        assert 1 <= len(end.ike()) <= 2
        assert end.children("INSTALLED", "REKEYING", "REKEYED")
        assert len(end.endpoint._timers) < 200
