"""The gateway: everything that tables read, over all sources, and what is kept beside the sources' own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.gateway.changes import DOMAINS, FAILURE, HISTORY, SOURCE, SUBJECTS, Domains, Stamped
from agent.gateway.feed import Feed
from agent.gateway.indexes import IndexRegistry
from agent.gateway.rings import Ended, Failure, Ring
from agent.gateway.selectors import Selector
from agent.gateway.source import CommandError, Progress, Source, SourceStatus
from agent.gateway.steps import Steps
from agent.gateway.tunnels import IkeTunnel, SelectorPair, Tunnel
from agent.gateway.view import SourceView, View


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Knobs of the model, section [gateway]. Times in seconds."""

    history_size: int = 200
    failures_size: int = 200
    retain: float = 3600.0  # how long the row of a tunnel without configuration stays after it went down
    stale_after: float = 60.0  # how long a silent source's SAs are still said to be alive


class Gateway(View):
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
        self.domains = Domains()
        self.tunnels: dict[int, Tunnel] = {}
        self.ike_tunnels: dict[int, IkeTunnel] = {}
        self.selector_pairs: dict[tuple[str, str], SelectorPair] = {}
        self.history: Ring[Ended] = Ring(self.settings.history_size)
        self.failures: Ring[Failure] = Ring(self.settings.failures_size)
        self._feeds: dict[str, Feed] = {}
        # What sources counted that were taken out of the configuration: totals over all never fall.
        self._former = Source("", "", "", 0, clock, self.domains)
        self._former.child_provides = frozenset()
        self._floors: dict[str, int] = {}

    @property
    def feeds(self) -> Mapping[str, Feed]:
        return self._feeds

    # --- what the controller asks -------------------------------------------------------------------------------------

    def watch(self, domain: str) -> Stamped:
        return self.domains.ask(domain)

    def changes(self, domain: str, since: int) -> Iterator[tuple[Any, bool]] | None:
        return None if since < self._floors.get(domain, 0) else super().changes(domain, since)

    def changed(self, *domains: str) -> None:
        """Something changed in domains that do not tell their subjects."""
        self.domains.changed(*domains)

    # --- sources ------------------------------------------------------------------------------------------------------

    def add_source(self, name: str, kind: str, address: str) -> Feed:
        """A new source; what it says is told to the Feed that is returned."""
        if name in self._feeds:
            raise ValueError(f"there is a source {name} already")
        index = self.indexes.source.number((name,))
        source = Source(name, kind, address, index, self.clock, self.domains)
        feed = self._feeds[name] = Feed(self, source)
        self.changed(SOURCE)
        return feed

    def remove_source(self, name: str) -> None:
        """Forget a source and all its rows (it was taken out of the configuration)."""
        for _ in self.removal(name):
            pass

    def removal(self, name: str) -> Steps:
        """The same in small steps, for a source that says nothing any more; it is there until the last of them."""
        feed = self._feeds[name]
        yield from feed.forgetting()
        del self._feeds[name]
        self.indexes.source.end((name,))
        self._former.inherit(feed.source)
        for domain in SUBJECTS:
            # its log is gone: who has not read the end of its rows cannot be told of it
            shared = self.domains.of[domain]
            shared.changed()
            self._floors[domain] = shared.stamp
        self.changed(SOURCE)

    def view_of(self, name: str) -> SourceView:
        """One source alone, until it is removed."""
        return SourceView(self, self._feeds[name])

    def tick(self) -> None:
        """Let time pass: silent sources go down, rows without configuration leave. Call it about once a second."""
        for feed in self._feeds.values():
            feed.tick()

    # --- what tables read ---------------------------------------------------------------------------------------------

    def _tallies(self) -> Iterable[Source]:
        yield from self.sources
        yield self._former

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
        """One user less; without any the row leaves."""
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


__all__ = ["DOMAINS", "FAILURE", "HISTORY", "Gateway", "GatewaySettings"]
