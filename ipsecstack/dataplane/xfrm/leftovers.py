"""What a process that died has left in the kernel."""

from __future__ import annotations

import logging

from ipsecstack.dataplane.xfrm.codec import (
    PolicyFound,
    Request,
    StateFound,
    delete_policy,
    delete_state,
    dump_policies,
    dump_states,
    read,
)
from ipsecstack.dataplane.xfrm.netlink import Kernel

log = logging.getLogger(__name__)


def remove_stale(kernel: Kernel, user: int) -> None:
    """Delete policies and SAs that bear this owner's number. Call it before there are any of this process."""
    policies: list[Request] = []
    states: list[Request] = []

    def visit(kind: int, body: memoryview) -> None:
        answer = read(kind, body)
        if isinstance(answer, PolicyFound):
            policy = answer.policy
            if policy.info.selector.user == user:
                policies.append(
                    delete_policy(policy.info.selector, policy.info.way, policy.mark, policy.if_id)
                )
        elif isinstance(answer, StateFound) and answer.state.info.selector.user == user:
            states.append(delete_state(answer.state.info.id, answer.state.mark))

    kernel.dump(dump_policies(), visit)
    kernel.dump(dump_states(), visit)
    kernel.ask(policies + states)
    if policies or states:
        log.warning(
            "removed %d policies and %d SAs that an earlier ipsecstackd left in the kernel",
            len(policies),
            len(states),
        )
