"""What an endpoint shows of its IKE SAs and counts, to VICI and tests."""

from __future__ import annotations

from collections.abc import Sequence

from ipsecstack.keyex.base import IkeSaView
from ipsecstack.keyex.bookkeeping import Counters
from ipsecstack.keyex.reception import Reception
from ipsecstack.keyex.registry import Registry


class Views:
    """The part of ``base.KeyExchangeEndpoint`` that changes nothing but counters that are reset."""

    registry: Registry
    _counters: Counters
    _reception: Reception

    def ike_sas(self) -> Sequence[IkeSaView]:
        return [sa.view() for sa in self.registry.all()]

    def ike_sas_changed_since(
        self, generation: int
    ) -> tuple[Sequence[IkeSaView], Sequence[int], Sequence[int]]:
        ikes, children = self.registry.changes.gone_since(generation)
        return [sa.view() for sa in self.registry.changed_since(generation)], ikes, children

    def counters(self, connection: str | None = None) -> dict[str, int]:
        return self._counters.get(connection)

    def counters_by_connection(self) -> dict[str, dict[str, int]]:
        return self._counters.by_connection()

    def statistics(self) -> dict[str, int]:
        return dict(self._reception.statistics)

    def reset_counters(self, connection: str | None = None) -> None:
        self._counters.reset(connection)
