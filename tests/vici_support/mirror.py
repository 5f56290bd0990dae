"""A poller that keeps what it saw with changed-since (docs/vici.md)."""

from __future__ import annotations

from typing import Any

from vici_support.client import Client

CLOCK = frozenset(["established", "rekey-time", "life-time", "created", "install-time", "use-in", "use-out"])


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(item) for key, item in value.items() if key not in CLOCK}
    return tuple(map(_without_clock, value)) if isinstance(value, tuple) else value


class Mirror:
    """What a poller keeps: IKE SAs, their children and policies, from full lists and deltas (docs/vici.md)."""

    def __init__(self, gateway: Any) -> None:
        self.client = Client(gateway)
        self.ikes: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, list[Any]] = {}
        self.sas_stamp: dict[str, str] = {}
        self.policy_stamp: dict[str, str] = {}
        self.fulls = 0

    def poll(self) -> None:
        listed, reply = self.client.stream("list-sas", "list-sa", self.sas_stamp)
        if reply.get("full") == "yes":
            self.fulls += 1
            self.ikes.clear()
        for message in listed:
            ((_, section),) = message.items()
            children = section.pop("child-sas")
            ids = section.pop("child-ids", None)
            known = self.ikes.setdefault(section["uniqueid"], {"children": {}})
            known["ike"] = section
            known["children"].update(children)
            if ids is not None:
                alive = set(ids)
                known["children"] = {k: c for k, c in known["children"].items() if c["uniqueid"] in alive}
        ended = set(reply.get("gone-child", []))
        for known in self.ikes.values():
            known["children"] = {k: c for k, c in known["children"].items() if c["uniqueid"] not in ended}
        for uniqueid in reply.get("gone-ike", []):
            self.ikes.pop(uniqueid, None)
        self.sas_stamp = {"changed-since": reply["generation"], "epoch": reply["epoch"]}
        self._poll_policies()

    def _poll_policies(self) -> None:
        kinds = dict.fromkeys(("trap", "drop", "pass", "protect"), "yes")
        listed, reply = self.client.stream("list-policies", "list-policy", {**kinds, **self.policy_stamp})
        if reply.get("full") == "yes":
            self.policies.clear()
        fresh: set[str] = set()
        for message in listed:
            ((name, section),) = message.items()
            if name not in fresh:
                fresh.add(name)
                self.policies[name] = []
            self.policies[name].append(section)
        for name in reply.get("gone", []):
            self.policies.pop(name, None)
        self.policy_stamp = {"changed-since": reply["generation"], "epoch": reply["epoch"]}

    def steady(self) -> Any:
        """``shown`` without what only the clock changes."""
        return _without_clock(self.shown())

    def shown(self) -> Any:
        policies = {name: sorted(map(str, entries)) for name, entries in self.policies.items()}
        return {uid: (known["ike"], known["children"]) for uid, known in self.ikes.items()}, policies
