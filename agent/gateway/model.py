"""The gateway: everything that tables read, over all sources, with one change stamp per domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.gateway.feed import Feed
from agent.gateway.indexes import IndexRegistry
from agent.gateway.rings import Ended, Failure, Ring
from agent.gateway.selectors import Selector
from agent.gateway.source import CommandError, Progress, Source, SourceStatus
from agent.gateway.tunnels import ChildSa, IkeTunnel, SelectorPair, Tunnel

# Domains of change: what `generation` is asked for (Table.domain).
IKE = "ike"  # IKE tunnels and their values
TUNNEL = "tunnel"  # IPsec tunnels and their values
ENDPOINT = "endpoint"  # which tunnels with which selectors
SPI = "spi"  # which SAs in which state
SA = "sa"  # the same and their counts
SOURCE = "source"
HISTORY = "history"
FAILURE = "failure"
DOMAINS = (IKE, TUNNEL, ENDPOINT, SPI, SA, SOURCE, HISTORY, FAILURE)
ROWS = (IKE, TUNNEL, ENDPOINT, SPI, SA)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Knobs of the model, section [gateway]. Times in seconds."""

    history_size: int = 200
    failures_size: int = 200
    retain: float = 3600.0  # how long the row of a tunnel without configuration stays after it went down
    stale_after: float = 60.0  # how long a silent source's SAs are still said to be alive


class Gateway:
    """Sources feed it, tables read it, writers command it. One thread; no method waits but `destroy`."""

    def __init__(
        self,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        settings: GatewaySettings | None = None,
        indexes: IndexRegistry | None = None,
    ) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.settings = settings or GatewaySettings()
        self.indexes = indexes or IndexRegistry()
        self.feeds: dict[str, Feed] = {}
        self.tunnels: dict[int, Tunnel] = {}
        self.ike_tunnels: dict[int, IkeTunnel] = {}
        self.selector_pairs: dict[tuple[str, str], SelectorPair] = {}
        self.history: Ring[Ended] = Ring(self.settings.history_size)
        self.failures: Ring[Failure] = Ring(self.settings.failures_size)
        # Counts of the model itself, over all sources since the agent's start.
        self.previous_ike_tunnels = 0
        self.previous_tunnels = 0
        self.ike_initiated = 0
        self.ike_responded = 0
        self.esp_sas = 0
        self.ah_sas = 0
        self.ipcomp_sas = 0
        self._stamps = dict.fromkeys(DOMAINS, 1)

    # --- what the controller asks -------------------------------------------------------------------------------------

    def generation(self, domain: str) -> int:
        """Change stamp of a domain (agent.smi.model.Model); an unknown domain never changes."""
        return self._stamps.get(domain, 0)

    def changed(self, *domains: str) -> None:
        for domain in domains:
            self._stamps[domain] += 1

    # --- sources ------------------------------------------------------------------------------------------------------

    @property
    def sources(self) -> Iterator[Source]:
        return (feed.source for feed in self.feeds.values())

    def add_source(self, name: str, kind: str, address: str) -> Feed:
        """A new source; what it says is told to the Feed that is returned."""
        if name in self.feeds:
            raise ValueError(f"there is a source {name} already")
        index = self.indexes.source.number((name,))
        source = Source(name, kind, address, index, self.clock)
        feed = self.feeds[name] = Feed(self, source)
        self.changed(SOURCE)
        return feed

    def remove_source(self, name: str) -> None:
        """Forget a source and all its rows (it was taken out of the configuration)."""
        feed = self.feeds.pop(name)
        feed.forget()
        self.indexes.source.end((name,))
        self.changed(SOURCE)

    def tick(self) -> None:
        """Let time pass: silent sources go down, rows without configuration leave. Call it about once a second."""
        for feed in self.feeds.values():
            feed.tick()

    # --- what tables read ---------------------------------------------------------------------------------------------

    def children(self) -> Iterable[ChildSa]:
        """All live pairs of IPsec SAs of all sources that are believed."""
        for feed in self.feeds.values():
            if feed.source.trusted:
                yield from (sa for sa in feed.children.values() if sa.live)

    @property
    def active_ike_tunnels(self) -> int:
        return sum(tunnel.active for tunnel in self.ike_tunnels.values())

    @property
    def active_tunnels(self) -> int:
        return sum(tunnel.active for tunnel in self.tunnels.values())

    def child_total(self, *names: str) -> int | None:
        """Totals over all IPsec SAs there were, summed over names and sources; None where a name is nobody's."""
        return self._total(
            [s.child_totals for s in self.sources], [s.child_provides for s in self.sources], names
        )

    def ike_total(self, *names: str) -> int | None:
        """The same over all IKE SAs."""
        return self._total(
            [s.ike_totals for s in self.sources], [s.ike_provides for s in self.sources], names
        )

    def ike_daemon_total(self, *names: str) -> int | None:
        """Totals of the daemons' own IKE counters (get-counters)."""
        return self._total([s.ike_daemon.totals for s in self.sources], [], names)

    def ike_stats_total(self, *names: str) -> int | None:
        """Totals of the daemons' counts of IKE messages that belong to no SA (stats, section ike)."""
        return self._total([s.ike_stats.totals for s in self.sources], [], names)

    def ipsec_total(self, *names: str) -> int | None:
        """Totals of the data planes' counts of packets that belong to no SA (stats, section ipsec)."""
        return self._total([s.ipsec_daemon.totals for s in self.sources], [], names)

    @staticmethod
    def _total(
        totals: list[dict[str, int]], provides: list[frozenset[str]], names: tuple[str, ...]
    ) -> int | None:
        result = 0
        for name in names:
            known = [counts[name] for counts in totals if name in counts]
            if not known and not any(name in given for given in provides):
                return None
            result += sum(known)
        return result

    # --- selectors ----------------------------------------------------------------------------------------------------

    def selector_pair(self, local: Selector, remote: Selector) -> SelectorPair:
        """The shared row of a pair of selectors; give it back with `release_pair`."""
        key = (local.text, remote.text)
        pair = self.selector_pairs.get(key)
        if pair is None:
            pair = SelectorPair(self.indexes.selector.number(key), local, remote)
            self.selector_pairs[key] = pair
        pair.users += 1
        return pair

    def release_pair(self, pair: SelectorPair) -> None:
        pair.users -= 1
        if pair.users == 0:
            key = (pair.local.text, pair.remote.text)
            del self.selector_pairs[key]
            self.indexes.selector.end(key)

    # --- commands -----------------------------------------------------------------------------------------------------

    def can_command(self, source: Source) -> bool:
        """Whether a command would reach the live stack now."""
        return source.commander is not None and source.status is SourceStatus.UP

    async def destroy(
        self, ike_tunnels: Iterable[IkeTunnel], tunnels: Iterable[Tunnel], progress: Progress | None = None
    ) -> int:
        """Delete all SAs of these tunnels in the live stack, peers told; IKE tunnels take their children along.

        Returns how many commands were carried out. Raises CommandError on the first that is refused; `progress`
        tells at every moment, also when this is cancelled, how far it came. Rows change when the source tells so.
        """
        progress = Progress() if progress is None else progress
        ikes = list(ike_tunnels)
        commands: list[tuple[Source, bool, int]] = []
        doomed: set[tuple[str, int]] = set()
        for ike in ikes:
            if ike.sa is not None:
                commands.append((ike.source, True, ike.sa.record.uniqueid))
                doomed.add((ike.source.name, ike.sa.record.uniqueid))
        for tunnel in tunnels:
            for sa in tunnel.sas.values():
                covered = (tunnel.source.name, sa.ike.record.uniqueid) in doomed
                if sa.live and not sa.expiring and not covered:
                    commands.append((tunnel.source, False, sa.record.uniqueid))
        for source, whole, uniqueid in commands:
            commander = source.commander
            try:
                if commander is None:
                    raise CommandError(f"source {source.name} takes no commands")
                progress.unsure = True
                await (commander.terminate_ike if whole else commander.terminate_child)(uniqueid)
            except CommandError as error:
                progress.unsure = error.unsure
                raise
            progress.unsure = False
            progress.done += 1
        return progress.done


__all__ = ["DOMAINS", "Gateway", "GatewaySettings"]
