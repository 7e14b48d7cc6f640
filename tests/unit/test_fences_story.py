"""A host that is dead: its addresses wait for its word, and an operator can stand in for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mooring.controller.ground import hear_silent_hosts
from mooring.core.errors import Refused, Retryable
from mooring.core.model import HostName, LeaseState
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


@pytest.fixture(params=range(3))
def play(request: pytest.FixtureRequest, directory: Path) -> Callable[[Callable[[Story], Any]], Story]:
    return lambda act: tell(request.param, directory, act=act)


async def with_h1_lost(story: Story, *, dead: bool = True) -> tuple[Any, set[str]]:
    """Two instances on h1, which falls silent; Marathon replaces them elsewhere. `dead`: its power is off."""
    story.marathon.prefers = "h1"
    await begin(story, SimApp("/web", 2, POOL))
    theirs = set(by_instance(story).values())
    story.marathon.prefers = None
    await story.marathon.lose("h1")
    if dead:
        story.world.agents.switch_off("h1")
    engine = await engine_of(story)
    while any(state(engine, address) is not LeaseState.STRANDED for address in theirs):
        await story.passes(1.0)
    return engine, theirs


def state(engine: Any, address: str) -> LeaseState | None:
    found = engine.records.book.by_address(address)
    return None if found is None else found.state


async def fenced(story: Story, engine: Any) -> None:
    story.world.agents.write_off("h1")
    await engine.fence(H1, "its board is broken")


def test_stranded_addresses_wait_for_ever_and_a_fence_gives_them_back(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, theirs = await with_h1_lost(story)
        await story.passes(900.0)
        assert {state(engine, address) for address in theirs} == {LeaseState.STRANDED}
        began = story.clock.monotonic()
        await fenced(story, engine)
        assert engine.report.vitals().hosts == {"answering": 2, "silent": 0, "fenced": 1, "maintenance": 0}
        while any(state(engine, address) is LeaseState.STRANDED for address in theirs):
            await story.passes(0.5)
        assert story.clock.monotonic() - began < 30.0
        assert {state(engine, address) for address in theirs} <= {LeaseState.IDLE, LeaseState.COOLING}
        await story.settles()
        story.end()

    play(act)


def test_a_fence_outlives_the_daemon_and_keeps_everything_off_the_host(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, theirs = await with_h1_lost(story)
        await fenced(story, engine)
        while any(state(engine, address) is LeaseState.STRANDED for address in theirs):
            await story.passes(0.5)
        story.life.kill()  # type: ignore[union-attr]
        while story.operator.engine is engine or story.operator.engine is None:
            await story.passes(0.5)
        engine = await engine_of(story)
        (fence,) = engine.fences.all().values()
        assert fence.reason == "its board is broken"
        story.marathon.prefers = "h1"
        await story.marathon.back("h1", rebooted=True)
        await story.marathon.scale("/web", 4)
        await story.passes(60.0)
        assert story.world.agents.hosts["h1"].ports == {}, (
            "what was left there is detached, nothing is attached"
        )
        refused = [row.problem for row in engine.report.instances() if row.host == "h1"]
        assert refused
        assert all("fenced" in problem and "mooring hosts unfence h1" in problem for problem in refused)
        await engine.unfence(H1)
        await story.settles()
        assert len(story.world.agents.hosts["h1"].ports) == len(refused)
        story.end()

    play(act)


def test_a_host_that_answers_is_not_fenced_but_by_force(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL))
        engine = await engine_of(story)
        with pytest.raises(Refused, match="it is alive; nothing was changed"):
            await engine.fence(H1, "looks odd")
        with pytest.raises(Refused, match="neither in the inventory nor in any lease"):
            await engine.fence(HostName("h77"), "who?")
        with pytest.raises(Refused, match="needs a reason"):
            await engine.fence(H1, "  ")
        assert engine.fences.all() == {}
        await engine.fence(H1, "drained", force=True)
        with pytest.raises(Refused, match="fenced already"):
            await engine.fence(H1, "again", force=True)
        before = by_instance(story)
        await story.passes(90.0)
        assert by_instance(story) == before, "what is rightfully there stays"
        await engine.unfence(H1)
        with pytest.raises(Refused, match="is not fenced"):
            await engine.unfence(H1)
        await story.settles()
        story.end()

    play(act)


def test_an_observer_listens_on_and_sweeps_no_host(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL))
        engine = await engine_of(story)
        swept: list[float] = []

        async def sweep() -> None:
            swept.append(story.clock.monotonic())

        engine.fences.sweep = sweep
        listening = asyncio.create_task(hear_silent_hosts(engine, engine.condition.ground))
        await asyncio.wait([listening], timeout=90.0)
        assert swept
        engine.condition.ground.fences = False
        swept.clear()
        await asyncio.wait([listening], timeout=90.0)
        assert not listening.done()
        assert swept == []
        listening.cancel()
        story.end()

    play(act)


def test_unfencing_waits_for_the_host_and_takes_from_it_what_is_not_its_own(play: Any) -> None:
    async def act(story: Story) -> None:
        engine, theirs = await with_h1_lost(story, dead=False)
        story.world.agents.write_off("h1")  # wrongly: it was only cut off, its containers live
        await engine.fence(H1, "thought to be dead")
        with pytest.raises(Retryable):
            await engine.unfence(H1)
        assert H1 in engine.fences.all()
        while any(state(engine, address) is LeaseState.STRANDED for address in theirs):
            await story.passes(0.5)
        there = story.world.agents.hosts["h1"]
        assert {port.address for port in there.ports.values()} == theirs
        story.world.agents.silent.discard("h1")
        await engine.unfence(H1)
        assert there.ports == {}
        assert engine.fences.all() == {}
        await story.marathon.back("h1")
        await story.settles()
        story.end()

    play(act)


def test_a_fence_never_stands_against_an_answer(play: Any) -> None:
    """The host answers that the port is still there: then the address is not free."""

    async def act(story: Story) -> None:
        engine, theirs = await with_h1_lost(story, dead=False)
        story.world.agents.silent.discard("h1")
        play = story.world.agents.play

        def cannot(host: str, operations: Any, epoch: int) -> Any:
            if host != "h1":
                return play(host, operations, epoch)
            stuck = {"status": "retry", "reason": "the switch does not confirm", "changed": False}
            return [
                {**stuck, "id": one["id"]} if one["op"] == "detach" else play(host, [one], epoch)[0]
                for one in operations
            ]

        story.world.agents.play = cannot  # type: ignore[method-assign]
        await engine.fence(H1, "thought to be dead", force=True)
        await story.passes(120.0)
        assert {state(engine, address) for address in theirs} == {LeaseState.STRANDED}
        story.world.agents.play = play  # type: ignore[method-assign]
        await story.marathon.back("h1")
        await story.settles()
        story.end()

    play(act)


def test_no_address_leaves_a_hand_without_the_hosts_answer_or_a_fence(play: Any) -> None:
    """Asked of the history: whenever an address was given back, its port was gone or its host fenced."""

    async def act(story: Story) -> None:
        engine, theirs = await with_h1_lost(story)
        await story.marathon.scale("/web", 1)
        await story.marathon.fail(next(iter(story.marathon.instances)))
        await story.passes(60.0)
        records, agents = engine.records, story.world.agents
        seen: list[str] = []
        commit = records.store.commit

        async def watched(writes: Any) -> None:
            for write in writes:
                given_back = getattr(write, "lease", None)
                if given_back is not None and given_back.state in (LeaseState.IDLE, LeaseState.COOLING):
                    before = records.book.by_address(given_back.address)
                    if before is not None and before.state in (LeaseState.BOUND, LeaseState.STRANDED):
                        there = {port.address for port in agents.hosts[before.host].ports.values()}
                        free = given_back.address not in there or before.host in engine.fences.all()
                        assert free, f"{given_back.address} left {before.state} while {before.host} has it"
                        seen.append(given_back.address)
            await commit(writes)

        records.store.commit = watched
        await story.marathon.restart("/web")
        await story.passes(90.0)
        assert not theirs.intersection(seen)
        await fenced(story, engine)
        for _ in range(60):
            await story.passes(1.0)
        assert theirs <= set(seen)
        assert len(seen) > len(theirs), "others were given back as well, with their hosts' answers"
        story.end()

    play(act)
