"""Random lives of a gateway (gateway_lives): totals never fall, identities never change, no event is needed."""

from __future__ import annotations

import pytest
from gateway_lives import Life, LossyLife
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

LIMITS = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("machine", [Life, LossyLife])
def test_random_lives(machine: type[Life]) -> None:
    run_state_machine_as_test(machine, settings=LIMITS)
