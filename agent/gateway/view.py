"""What tables read: all sources together, or one of them (its own SNMP context)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from agent.gateway.changes import SELECTOR, SUBJECTS, Domains, Stamped
from agent.gateway.counters import Counts
from agent.gateway.source import Progress, Source
from agent.gateway.tunnels import ChildSa, IkeTunnel, SelectorPair, Tunnel

if TYPE_CHECKING:
    from agent.gateway.feed import Feed
    from agent.gateway.model import Gateway


class View:
    """Rows, totals and change stamps over `feeds`. Every number costs the same however many tunnels there are."""

    domains: Domains

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """The feeds that are seen, by the names of their sources."""
        raise NotImplementedError

    @property
    def sources(self) -> Iterator[Source]:
        return (feed.source for feed in self.feeds.values())

    # --- what the controller asks -------------------------------------------------------------------------------------

    def generation(self, domain: str) -> int:
        """Change stamp of a domain (agent.smi.model.Model); an unknown domain never changes."""
        return self.watch(domain).stamp

    def watch(self, domain: str) -> Stamped:
        """What has the change stamp of a domain as `stamp`, now and later: for those who look at it all the time."""
        raise NotImplementedError

    def changes(self, domain: str, since: int) -> Iterator[tuple[Any, bool]] | None:
        """The subjects that changed after the stamp `since`, each once: (subject, whether it is still there).

        The latter is true of the moment at which the pair is taken: they may be taken little by little. What changes
        after this call is told by the next one. None where it is not known: all must be read again.
        """
        if domain not in SUBJECTS:
            return None
        found: dict[Any, None] = {}
        for feed in self.feeds.values():
            part = feed.source.changes.of[domain].since(since)
            if part is None:
                return None
            if found:
                found.update(part)
            else:
                found = part
        alive: Callable[[Any], bool] = self.shows if domain == SELECTOR else attrgetter("alive")
        return ((subject, alive(subject)) for subject in found)

    def subjects(self, domain: str) -> Iterable[Any]:
        """All subjects of a domain, as `changes` would tell them; tables decide which of them have rows."""
        match domain:
            case "ike":
                return self.ike_rows()
            case "tunnel" | "endpoint":
                return self.tunnel_rows()
            case "selector":
                return self.selector_rows()
            case "spi" | "sa":
                return self.child_sas()
            case _:
                raise ValueError(f"domain {domain} has no subjects")

    # --- rows ---------------------------------------------------------------------------------------------------------

    def ike_rows(self) -> Iterable[IkeTunnel]:
        return [row for feed in self.feeds.values() for row in feed.rows.ike_tunnels.values()]

    def tunnel_rows(self) -> Iterable[Tunnel]:
        return [row for feed in self.feeds.values() for row in feed.rows.tunnels.values()]

    def selector_rows(self) -> Iterable[SelectorPair]:
        """The selector pairs of the tunnels that are seen."""
        return dict.fromkeys(pair for feed in self.feeds.values() for pair in feed.rows.pairs)

    def child_sas(self) -> Iterable[ChildSa]:
        """All pairs of IPsec SAs, also those that are not live or of a source that is not believed."""
        return [sa for feed in self.feeds.values() for sa in feed.children.values()]

    def children(self) -> Iterable[ChildSa]:
        """All live pairs of IPsec SAs of all sources that are believed."""
        return (sa for sa in self.child_sas() if sa.shown)

    def shows(self, pair: SelectorPair) -> bool:
        """Whether a tunnel that is seen has this pair of selectors."""
        return any(pair in feed.rows.pairs for feed in self.feeds.values())

    # --- totals -------------------------------------------------------------------------------------------------------

    def _tallies(self) -> Iterable[Source]:
        """Whose counts are summed: the sources, and for the whole gateway what sources counted that were removed."""
        return self.sources

    @property
    def active_ike_tunnels(self) -> int:
        return sum(source.up_ike_tunnels for source in self.sources if source.trusted)

    @property
    def active_tunnels(self) -> int:
        return sum(source.up_tunnels for source in self.sources if source.trusted)

    def current_sas(self, kind: str) -> int:
        """Live SAs of one kind and direction (tunnels.KINDS) of all sources that are believed."""
        return sum(source.current[kind] for source in self.sources if source.trusted)

    @property
    def previous_ike_tunnels(self) -> int:
        return sum(source.previous_ike_tunnels for source in self._tallies())

    @property
    def previous_tunnels(self) -> int:
        return sum(source.previous_tunnels for source in self._tallies())

    @property
    def ike_initiated(self) -> int:
        return sum(source.ike_initiated for source in self._tallies())

    @property
    def ike_responded(self) -> int:
        return sum(source.ike_responded for source in self._tallies())

    @property
    def esp_sas(self) -> int:
        return sum(source.esp_sas for source in self._tallies())

    @property
    def ah_sas(self) -> int:
        return sum(source.ah_sas for source in self._tallies())

    @property
    def ipcomp_sas(self) -> int:
        return sum(source.ipcomp_sas for source in self._tallies())

    def child_total(self, *names: str) -> int | None:
        """Totals over all IPsec SAs there were, summed over names and sources; None where a name is nobody's."""
        return self._total(lambda source: source.child_totals, lambda source: source.child_provides, names)

    def ike_total(self, *names: str) -> int | None:
        """The same over all IKE SAs."""
        return self._total(lambda source: source.ike_totals, lambda source: source.ike_provides, names)

    def ike_daemon_total(self, *names: str) -> int | None:
        """Totals of the daemons' own IKE counters (get-counters)."""
        return self._total(lambda source: source.ike_daemon.totals, None, names)

    def ike_stats_total(self, *names: str) -> int | None:
        """Totals of the daemons' counts of IKE messages that belong to no SA (stats, section ike)."""
        return self._total(lambda source: source.ike_stats.totals, None, names)

    def ipsec_total(self, *names: str) -> int | None:
        """Totals of the data planes' counts of packets that belong to no SA (stats, section ipsec)."""
        return self._total(lambda source: source.ipsec_daemon.totals, None, names)

    def _total(
        self,
        totals: Callable[[Source], Counts],
        provides: Callable[[Source], frozenset[str]] | None,
        names: tuple[str, ...],
    ) -> int | None:
        tallies = list(self._tallies())
        result = 0
        for name in names:
            known = [totals(source)[name] for source in tallies if name in totals(source)]
            if not known and not (provides and any(name in provides(source) for source in tallies)):
                return None
            result += sum(known)
        return result

    # --- commands -----------------------------------------------------------------------------------------------------

    def can_command(self, source: Source) -> bool:
        """Whether a command would reach the live stack now."""
        raise NotImplementedError

    async def destroy(
        self, ike_tunnels: Iterable[IkeTunnel], tunnels: Iterable[Tunnel], progress: Progress | None = None
    ) -> int:
        """Delete all SAs of these tunnels in the live stack (Gateway.destroy)."""
        raise NotImplementedError


class SourceView(View):
    """One source of a gateway: the model of the SNMP context that bears its name."""

    def __init__(self, gateway: Gateway, feed: Feed) -> None:
        self.gateway = gateway
        self.feed = feed
        self.domains = gateway.domains
        self._feeds = {feed.source.name: feed}

    @property
    def feeds(self) -> Mapping[str, Feed]:
        return self._feeds

    def watch(self, domain: str) -> Stamped:
        shared = self.domains.ask(domain)
        return self.feed.source.changes.of.get(domain, shared)

    def can_command(self, source: Source) -> bool:
        return self.gateway.can_command(source)

    async def destroy(
        self, ike_tunnels: Iterable[IkeTunnel], tunnels: Iterable[Tunnel], progress: Progress | None = None
    ) -> int:
        return await self.gateway.destroy(ike_tunnels, tunnels, progress)
