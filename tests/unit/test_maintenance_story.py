"""A host that people are at work on is left alone, and one that comes back is taken up at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mooring.core.errors import Refused
from mooring.core.model import HostName, LeaseState
from mooring.handlers.memory_hosts import MemoryPort
from tests.sim import seeds
from tests.sim.apps import SimApp
from tests.sim.scenarios import POOL, begin, by_instance
from tests.sim.story import Story, tell
from tests.unit.test_rebuild_story import engine_of

H1 = HostName("h1")


@pytest.fixture
def directory() -> Iterator[Path]:
    with seeds.directory() as made:
        yield made


@pytest.fixture(params=range(2))
def play(request: pytest.FixtureRequest, directory: Path) -> Callable[[Callable[[Story], Any]], Story]:
    return lambda act: tell(request.param, directory, act=act)


async def with_two_on_h1(story: Story) -> tuple[Any, dict[str, str]]:
    """The newest daemon's engine, and the addresses of two instances on h1."""
    story.marathon.prefers = "h1"
    await begin(story, SimApp("/web", 2, POOL, minimum_health=0.5, over_capacity=0.0))
    return await engine_of(story), by_instance(story)


def ports(story: Story, host: str = "h1") -> dict[str, MemoryPort]:
    return dict(story.world.agents.hosts[host].ports)


def plays_to(story: Story, host: str) -> list[str]:
    """From now on, every operation that a host is sent."""
    seen: list[str] = []
    play = story.world.agents.play

    def noted(name: str, operations: Any, epoch: int) -> Any:
        if name == host:
            seen.extend(str(one["op"]) for one in operations)
        return play(name, operations, epoch)

    story.world.agents.play = noted  # type: ignore[method-assign]
    return seen


def test_nothing_is_sent_to_the_host_and_all_of_it_goes_on_afterwards(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, before = await with_two_on_h1(story)
        await engine.maintain(H1, "new disks")
        await story.passes(2.0)
        seen, standing = plays_to(story, "h1"), ports(story)
        victim = sorted(before)[0]
        await story.marathon.kill(victim)  # it is relaunched on the same host
        await story.passes(120.0)
        assert seen == []
        assert ports(story) == standing
        assert engine.report.vitals().hosts["maintenance"] == 1
        assert engine.report.vitals().unsettled["network"] == 0, "what waits for it is no alarm"
        (problem,) = [row.problem for row in engine.report.instances() if row.instance == victim]
        assert "in maintenance (new disks); waits for `mooring hosts resume h1`" in problem
        await engine.end_maintenance(H1)
        assert seen[0] == "observe", "first it is looked at"
        await story.settles()
        assert by_instance(story) == before
        story.end()

    play(act)


def test_it_outlives_the_daemon_and_is_told_to_whom_it_may_concern(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, _ = await with_two_on_h1(story)
        await engine.maintain(H1, "")
        story.life.kill()  # type: ignore[union-attr]
        while story.operator.engine is engine or story.operator.engine is None:
            await story.passes(0.5)
        engine = await engine_of(story)
        assert engine.condition.overview().maintained == {"h1": "no reason given"}
        with pytest.raises(Refused, match="in maintenance already"):
            await engine.maintain(H1, "again")
        with pytest.raises(Refused, match="not in the inventory"):
            await engine.maintain(HostName("h77"), "who?")
        await engine.end_maintenance(H1)
        with pytest.raises(Refused, match="is not in maintenance"):
            await engine.end_maintenance(H1)
        story.end()

    play(act)


def test_silence_in_maintenance_strands_nothing_and_a_new_instance_does_not_wait_for_it(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, before = await with_two_on_h1(story)
        await engine.maintain(H1, "new disks")
        story.marathon.prefers = "h2"
        began = story.clock.monotonic()
        await story.marathon.lose("h1")  # Marathon replaces both, on h2
        while len(ports(story, "h2")) < 2:
            await story.passes(0.5)
            assert story.clock.monotonic() - began < 60.0
        states = {
            engine.records.book.by_address(address).state for address in before.values()
        }  # fmt: skip
        assert states == {LeaseState.BOUND}, "its own addresses stay in the hands of those who leave"
        assert not set(before.values()) & {port.address for port in ports(story, "h2").values()}
        assert engine.report.vitals().hosts["silent"] == 0
        await story.marathon.back("h1")
        await story.passes(30.0)
        assert len(ports(story)) == 2, "not even then, before people say that they are done"
        await engine.end_maintenance(H1)
        await story.settles()
        assert ports(story) == {}
        story.end()

    play(act)


def test_who_is_relaunched_elsewhere_takes_another_seat_at_once(play: Any) -> None:
    """Its address may still answer on the host that is left alone."""

    async def act(story: Story) -> None:
        story.marathon.prefers = "h1"
        await begin(story, SimApp("/web", 1, POOL, when_lost="gone"))
        engine, (old,) = await engine_of(story), by_instance(story).values()
        await engine.maintain(H1, "new disks")
        story.marathon.prefers = "h2"
        await story.marathon.fail(next(iter(story.marathon.instances)))
        while not ports(story, "h2"):
            await story.passes(0.5)
        (there,) = ports(story, "h2").values()
        assert there.address != old
        assert engine.records.book.by_address(old).state is LeaseState.STRANDED
        await engine.end_maintenance(H1)
        await story.settles()
        assert ports(story) == {}
        assert engine.records.book.by_address(old).state in (LeaseState.IDLE, LeaseState.COOLING)
        story.end()

    play(act)


def test_a_fence_ends_maintenance_and_no_fenced_host_begins_it(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, _ = await with_two_on_h1(story)
        await engine.maintain(H1, "new disks")
        story.world.agents.switch_off("h1")
        story.world.agents.write_off("h1")
        await engine.fence(H1, "it will not come back")
        assert engine.maintenance.all() == {}
        assert engine.condition.overview().maintained == {}
        with pytest.raises(Refused, match="is fenced"):
            await engine.maintain(H1, "new disks")
        story.end()

    play(act)


def test_a_host_that_returns_loses_its_old_ports_at_once(play: Any) -> None:
    """Marathon replaced what ran there, which still runs; whoever hears the host first, its ports go then."""

    async def act(story: Story) -> None:
        engine, before = await with_two_on_h1(story)
        story.marathon.prefers = "h2"
        await story.marathon.lose("h1")
        addresses = set(before.values())
        while any(engine.records.book.by_address(a).state is not LeaseState.STRANDED for a in addresses):
            await story.passes(1.0)
        await story.passes(300.0)  # whoever tries again does so rarely by now
        assert len(ports(story)) == 2
        assert all(story.world.agents.hosts["h1"].alive(port) for port in ports(story).values())
        story.world.agents.silent.discard("h1")  # the line is back, and Marathon has not noticed yet
        began = story.clock.monotonic()
        await engine.condition.ground.hosts.marks("h1")  # as `mooring hosts` asks it
        while ports(story):
            await story.passes(0.1)
        assert story.clock.monotonic() - began < 5.0, "no timer is waited for"
        await story.marathon.back("h1")
        await story.settles()
        story.end()

    play(act)


def test_a_container_that_is_started_anew_by_hand_is_wired_again(play: Any) -> None:
    """Marathon says nothing of it; the next round of its host finds it."""

    async def act(story: Story) -> None:
        engine, before = await with_two_on_h1(story)
        victim = min(ports(story).values(), key=lambda port: port.name)
        story.world.agents.place("h1", victim.task, listens=(8080,))
        assert not story.world.agents.hosts["h1"].alive(victim)
        began = story.clock.monotonic()
        while victim.name in ports(story):
            await story.passes(0.5)
        assert story.clock.monotonic() - began < engine.settings.host_life.observe_every_s + 20.0
        await story.settles()
        assert by_instance(story) == before
        assert victim.name not in ports(story), "under a new name"
        story.end()

    play(act)
