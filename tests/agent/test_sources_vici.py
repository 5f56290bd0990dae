"""The VICI source against a daemon over a real socket: following, missing events, and every way of misbehaving."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_vici import FakeVici, child_section, connection_section, ike_section

from agent.gateway import CommandError, Gateway, Progress, SourceStatus
from agent.gateway.model import GatewaySettings
from agent.gateway.tunnels import Tunnel
from agent.sources.settings import ViciSettings
from agent.sources.vici import ViciSource


class Lab:
    """A fake daemon, a source that follows it, and the model."""

    def __init__(self, folder: Path, epoch: str | None = None, **settings: float) -> None:
        path = str(folder / "vici.sock")
        self.daemon = FakeVici(path, epoch)
        self.gateway = Gateway(time.monotonic, time.time, GatewaySettings(stale_after=1))
        self.feed = self.gateway.add_source("lab", "vici", path)
        options: dict[str, float] = {"poll_interval": 0.05, "timeout": 0.5, "reconnect_max": 0.2, **settings}
        self.source = ViciSource(ViciSettings("lab", path, **options), self.feed)

    @property
    def status(self) -> SourceStatus:
        return self.feed.source.status

    @property
    def tunnel(self) -> Tunnel:
        (tunnel,) = self.gateway.tunnels.values()
        return tunnel

    async def until(self, condition: Callable[[], object], seconds: float = 5) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {self.feed.source.last_error}"
            await asyncio.sleep(0.01)

    async def is_up(self) -> None:
        """Until it answers, and the listing that was under way then is taken in."""
        await self.until(lambda: self.status is SourceStatus.UP)
        await self.polls(1)

    async def polls(self, count: int = 2) -> None:
        """Until that many further listings were applied."""
        before = self.feed.source.polls
        await self.until(lambda: self.feed.source.polls >= before + count)


@asynccontextmanager
async def running(lab: Lab) -> AsyncIterator[Lab]:
    await lab.daemon.start()
    task = asyncio.create_task(lab.source.run())
    try:
        yield lab
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await lab.daemon.stop()


def run(lab: Lab, story: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(lab):
            await asyncio.wait_for(story(lab), 20)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left

    asyncio.run(main())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.daemon.connections["gw"] = connection_section()
    lab.daemon.up("gw", ike_section(1), child_section(1, octets=500))
    return lab


def test_what_is_there_at_the_start_is_shown(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        await lab.until(lambda: lab.tunnel.permanent)
        tunnel = lab.tunnel
        assert tunnel.active
        assert tunnel.count("octets_in") == 500
        assert tunnel.ike.active
        assert tunnel.ike.auth == "psk"
        assert tunnel.count("replay_errors_in") is None  # strongSwan does not give it
        assert tunnel.ike.count("octets_in") is None
        assert lab.feed.source.daemon == "fake"

    run(lab, story)


def test_events_are_followed_and_rekeying_is_seamless(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        index, ike_index = lab.tunnel.index, lab.tunnel.ike.index
        lab.daemon.children[1][1]["bytes-in"] = "900"
        lab.daemon.rekey_child(1, 1, child_section(2, octets=0))
        await lab.until(lambda: lab.tunnel.refreshes == 1)
        assert lab.tunnel.count("octets_in") == 900
        await lab.polls()
        lab.daemon.children[1][1]["bytes-in"] = "0"  # listed as DELETED with zeros for a while
        lab.daemon.children[1][2]["bytes-in"] = "100"
        await lab.polls()
        assert lab.tunnel.count("octets_in") == 1000
        del lab.daemon.children[1][1]
        await lab.polls()
        assert (lab.tunnel.index, lab.tunnel.ike.index) == (index, ike_index)
        assert lab.tunnel.count("octets_in") == 1000
        assert lab.tunnel.expired == 1
        assert len(lab.tunnel.live_sas) == 1
        assert lab.gateway.previous_tunnels == 0
        lab.daemon.down(1)
        await lab.until(lambda: not lab.tunnel.active)
        assert lab.tunnel.index == index  # the row stays, its configuration lives
        assert lab.tunnel.count("octets_in") == 1000
        assert lab.gateway.previous_tunnels == 1
        assert lab.gateway.previous_ike_tunnels == 1
        lab.daemon.up("gw", ike_section(7), child_section(9, octets=300))
        await lab.until(lambda: lab.tunnel.active)
        assert (lab.tunnel.index, lab.tunnel.ike.index) == (index, ike_index)
        assert lab.tunnel.count("octets_in") == 1300

    run(lab, story)


def test_lost_events_are_made_up_for_by_listings(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        index = lab.tunnel.index
        lab.daemon.ikes[5] = ("gw", ike_section(5))  # both rekeyed, nobody said so
        lab.daemon.children[5] = {8: child_section(8, octets=100)}
        del lab.daemon.ikes[1], lab.daemon.children[1]
        await lab.polls()
        assert lab.tunnel.index == index
        assert lab.tunnel.count("octets_in") == 600
        assert lab.tunnel.ike.refreshes == 1
        assert lab.tunnel.refreshes == 1
        assert lab.gateway.previous_tunnels == 0
        assert lab.gateway.previous_ike_tunnels == 0

    run(lab, story)


def test_restart_of_the_daemon(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        await lab.daemon.stop()
        await lab.until(lambda: lab.status is SourceStatus.STALE)
        assert lab.tunnel.active  # last known, marked stale
        assert lab.tunnel.count("octets_in") == 500
        error = lab.feed.source.last_error
        assert "vici.sock" in error or "closed" in error or "lost" in error
        lab.daemon.ikes.clear()
        lab.daemon.children.clear()
        # The new daemon gives the same uniqueids again, with other SPIs and smaller counts.
        lab.daemon.up(
            "gw",
            ike_section(1, **{"initiator-spi": "77"}),
            child_section(1, octets=100, **{"spi-in": "1111", "spi-out": "2222"}),
        )
        lab.daemon.since = "Nov 23 17:00:00 2026"
        lab.daemon.counters = {"ike-init-out-req": "1", "info-in-req": "0", "invalid": "0"}
        Path(lab.daemon.path).unlink(missing_ok=True)
        await lab.daemon.start()
        await lab.is_up()
        assert lab.feed.source.restarts == 1
        assert lab.tunnel.count("octets_in") == 600
        assert lab.gateway.ike_daemon_total("ike_init_out_req") == 2
        assert lab.gateway.ike_daemon_total("info_in_req") == 2

    run(lab, story)


def test_a_hung_daemon_is_noticed_and_recovered_from(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        lab.daemon.hang = True
        slowest = 0.0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # meanwhile the loop is free for SNMP
            before = time.monotonic()
            await asyncio.sleep(0.001)
            slowest = max(slowest, time.monotonic() - before)
        await lab.until(lambda: lab.status is SourceStatus.STALE)
        assert slowest < 0.1
        await asyncio.sleep(1.1)
        lab.gateway.tick()
        assert lab.status is SourceStatus.DOWN
        assert not lab.tunnel.active
        assert lab.tunnel.count("octets_in") == 500
        lab.daemon.hang = False
        await lab.is_up()
        assert lab.tunnel.active

    run(lab, story)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda octets: octets[: len(octets) // 2],
        lambda octets: struct.pack("!I", 2**31) + octets[4:],
        lambda octets: octets[:4] + bytes([99]) + octets[5:],
        lambda octets: octets[:4] + os.urandom(len(octets) - 4),
        lambda octets: octets[:5] + b"\x01\x01a" * 100_000,
        lambda octets: os.urandom(64),
        lambda octets: b"\0\0\0\0",
    ],
    ids=["half", "huge", "type", "random", "nested", "noise", "empty"],
)
def test_rubbish_from_the_daemon(lab: Lab, mangle: Callable[[bytes], bytes]) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        lab.daemon.mangle = mangle
        await lab.until(lambda: lab.status is SourceStatus.STALE)
        assert lab.tunnel.count("octets_in") == 500
        assert lab.gateway.previous_tunnels == 0
        lab.daemon.mangle = None
        await lab.is_up()
        await lab.polls()
        assert lab.tunnel.active

    run(lab, story)


def test_an_unreadable_sa_is_left_out_and_nothing_ends_for_it(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        lab.daemon.ikes[1][1]["uniqueid"] = "not a number"
        await lab.polls()
        assert lab.feed.source.malformed
        assert lab.tunnel.active
        lab.daemon.event("ike-updown", {"gw": {"state": "ESTABLISHED"}})
        lab.daemon.event("child-rekey", {"gw": {"child-sas": {"net": {"old": {}, "new": {}}}}})
        await lab.polls()
        assert lab.status is SourceStatus.UP

    run(lab, story)


def test_commands(lab: Lab) -> None:
    async def story(lab: Lab) -> None:
        await lab.is_up()
        assert await lab.gateway.destroy([], [lab.tunnel]) == 1
        assert lab.daemon.commands == [("terminate", {"child-id": "1", "timeout": "-1"})]
        await lab.until(lambda: not lab.tunnel.active)
        assert lab.tunnel.ike.active
        assert await lab.gateway.destroy([lab.tunnel.ike], [lab.tunnel]) == 1
        await lab.until(lambda: not lab.tunnel.ike.active)
        lab.daemon.up("gw", ike_section(3), child_section(3))
        await lab.until(lambda: lab.tunnel.active)
        lab.daemon.refuse["terminate"] = "not today"
        progress = Progress()
        with pytest.raises(CommandError, match="not today"):
            await lab.gateway.destroy([lab.tunnel.ike], [], progress)
        assert progress == Progress(0, unsure=False)
        lab.daemon.hang = True
        with pytest.raises(CommandError, match="no answer within"):
            await lab.gateway.destroy([lab.tunnel.ike], [], progress)
        assert progress == Progress(0, unsure=True)
        lab.daemon.hang = False

    run(lab, story)


def test_one_listing_at_a_time_and_alerts_where_known(tmp_path: Path) -> None:
    lab = Lab(tmp_path, epoch="e1")
    for number in range(1, 40):
        lab.daemon.up(f"gw{number}", ike_section(number), child_section(number, octets=100))

    async def story(lab: Lab) -> None:
        await lab.is_up()
        assert len(lab.gateway.tunnels) == 39
        assert lab.gateway.child_total("octets_in") == 3900
        assert lab.tunnel_zero().count("replay_errors_in") == 0  # the bundled stack gives it
        lab.daemon.event("alert", {"type": "AUTHENTICATION_FAILED", "message": "no", "ike": "gw1"})
        await lab.until(lambda: len(lab.gateway.failures) == 1)
        await lab.polls(3)
        assert lab.daemon.most_in_flight == 1
        lab.daemon.epoch = "e2"
        await lab.until(lambda: lab.feed.source.restarts == 1)
        assert lab.gateway.previous_tunnels == 39
        assert lab.gateway.active_tunnels == 39

    lab.tunnel_zero = lambda: next(iter(lab.gateway.tunnels.values()))  # type: ignore[attr-defined]
    run(lab, story)


def test_no_daemon_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path)
        task = asyncio.create_task(lab.source.run())
        await lab.until(lambda: lab.feed.source.poll_failures >= 2)
        assert lab.status is SourceStatus.CONNECTING
        assert "No such file" in lab.feed.source.last_error
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
