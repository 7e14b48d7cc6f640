"""The whole controller, simulated: seeds of chaos, what apps are promised, and proof that this can fail.

`make check` plays `SEEDS` stories.  More:     MOORING_SIM_SEEDS=1000 pytest tests/sim/test_simulation.py
One alone, for instance number 1234:           MOORING_SIM_SEED=1234 pytest tests/sim/test_simulation.py -k seed

A story depends on nothing but its seed and the code; a seed that fails prints the end of its trace, and
does the same thing again whenever it is played.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.core.sink import Change, Done, Outcome
from mooring.handlers.hosts import Answer, NetworkSink, Operation
from mooring.handlers.kill import Kills
from mooring.handlers.records import Records
from tests.sim.marathon import SimApp
from tests.sim.story import HOSTS, Cast, Story, tell
from tests.sim.world import Agents, Violation, World

SEEDS = int(os.environ.get("MOORING_SIM_SEEDS", "64"))
ONLY = os.environ.get("MOORING_SIM_SEED")
POOL = {"MOORING_POOL": "blue"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """For the store; in memory where the machine has such a place, because each commit is flushed."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="mooring-sim-", dir=memory if os.access(memory, os.W_OK) else None))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("seed", [int(ONLY)] if ONLY else range(SEEDS))
def test_seed(seed: int, directory: Path) -> None:
    tell(seed, directory)


def test_a_story_depends_on_its_seed_alone(directory: Path) -> None:
    traces = []
    for name in ("first", "again"):
        (directory / name).mkdir()
        traces.append(tell(7, directory / name).world.trace.lines)
    assert traces[0] == traces[1]


# -- what apps are promised about their addresses


async def begin(story: Story, *apps: SimApp) -> None:
    """A daemon, and these apps in service."""
    story.marathon.spawn(story.marathon.supervise())
    story.marathon.spawn(story.keep_a_daemon())
    for app in apps:
        await story.marathon.deploy(app)
    await story.settles()


def end(story: Story) -> None:
    story.ending = True
    assert story.life is not None
    story.life.kill()


def addresses(story: Story, app: str) -> set[str]:
    """The addresses of all ports of an app, as the switches tell."""
    hosts = story.world.agents.hosts.values()
    return {port.address for host in hosts for port in host.ports.values() if port.app == app}


@pytest.mark.parametrize("seed", range(6))
def test_an_upgrade_without_over_capacity_keeps_the_set_of_addresses(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        story.world.faults.drop = story.world.faults.late = 0.2
        await begin(story, SimApp("/web", 4, POOL, minimum_health=0.5, over_capacity=0.0))
        before = addresses(story, "/web")
        for _ in range(3):
            await story.marathon.restart("/web")
            await story.settles()
            assert addresses(story, "/web") == before
        end(story)

    tell(seed, directory, act=act)


@pytest.mark.parametrize("seed", range(4))
def test_an_upgrade_with_the_default_strategy_alternates_between_two_sets(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        seen = [addresses(story, "/web")]
        for _ in range(4):
            await story.marathon.restart("/web")
            await story.settles()
            seen.append(addresses(story, "/web"))
        assert all(len(one) == 3 for one in seen)
        assert len(set().union(*seen)) <= 6
        assert seen[0].isdisjoint(seen[1])
        assert (seen[0], seen[1]) == (seen[2], seen[3]) == (seen[4], seen[1])
        end(story)

    tell(seed, directory, act=act)


@pytest.mark.parametrize("seed", range(6))
def test_self_healing_keeps_the_address_on_whatever_host(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        story.world.faults.drop = story.world.faults.duplicate = story.world.faults.late = 0.2
        await begin(story, SimApp("/web", 3, POOL))
        for _ in range(5):
            before = of_instances(story)
            await story.marathon.fail(story.chance.choice(sorted(story.marathon.instances)))
            await story.settles()
            assert of_instances(story) == before
        end(story)

    tell(seed, directory, act=act)


def of_instances(story: Story) -> dict[str, str]:
    hosts = story.world.agents.hosts.values()
    return {port.instance: port.address for host in hosts for port in host.ports.values()}


def test_a_lost_host_strands_its_addresses_until_it_is_back(directory: Path) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
        on_lost = {port.address for port in story.world.agents.hosts[lost].ports.values()}
        await story.marathon.lose(lost)
        await story.settles()
        awake = [host for host in HOSTS if host != lost]
        elsewhere = {p.address for host in awake for p in story.world.agents.hosts[host].ports.values()}
        assert len(elsewhere) == 3
        assert elsewhere.isdisjoint(on_lost)
        await story.marathon.back(lost)
        await story.settles()
        assert addresses(story, "/web") == elsewhere
        end(story)

    tell(1, directory, act=act)


def test_a_lost_store_is_rebuilt_from_the_switches(directory: Path) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL), SimApp("/db", 2, POOL))
        before = of_instances(story)
        for file in directory.iterdir():
            file.unlink()
        assert story.life is not None
        story.life.kill()
        await story.settles()
        assert of_instances(story) == before
        await story.marathon.scale("/web", 4)
        await story.settles()
        assert before.items() <= of_instances(story).items()
        end(story)

    tell(1, directory, act=act)


def test_with_a_lost_store_nothing_is_given_out_before_every_host_has_answered(directory: Path) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        taken = addresses(story, "/web")
        lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
        assert story.life is not None
        await story.marathon.lose(lost)
        for file in directory.iterdir():
            file.unlink()
        story.life.kill()
        await story.passes(60.0)
        assert addresses(story, "/web") == taken
        await story.marathon.back(lost)
        await story.settles()
        end(story)

    tell(2, directory, act=act)


# -- the simulation can fail: each of these defects must be found


class Unfenced(Agents):
    """A host that takes whatever a daemon of the past sends."""

    def play(self, host: str, operations: Sequence[Operation], epoch: int) -> list[Answer]:
        here = self.hosts[host]
        return super().play(host, operations, max([epoch, here.epoch, *(p.epoch for p in here.ports.values())]))


class WithoutFence(World):
    def _agents(self, names: Sequence[str]) -> Agents:
        return Unfenced(names, self.trace, self.landed)


def found(directory: Path, cast: Cast | None = None, seeds: int = 40) -> str:
    """The first violation that any of the seeds leads to; fails if none does."""
    for seed in range(seeds):
        place = directory / str(seed)
        place.mkdir()
        try:
            tell(seed, place, cast)
        except Violation as violation:
            return str(violation)
    return pytest.fail(f"{seeds} seeds did not find the defect")


def test_a_missing_fence_is_found(directory: Path) -> None:
    cast = Cast(world=lambda clock, seed: WithoutFence(clock, seed, HOSTS))
    assert "wrote after epoch" in found(directory, cast)


def test_an_address_freed_without_confirmation_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = NetworkSink.apply

    async def hasty(self: NetworkSink, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes = await honest(self, changes)
        return [
            Done() if change.wanted is None else one for change, one in zip(changes, outcomes, strict=True)
        ]

    monkeypatch.setattr(NetworkSink, "apply", hasty)
    assert "its lease is" in found(directory) or "several ports" in found(directory)


def test_a_detach_that_takes_the_instances_new_port_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = NetworkSink._operations

    def careless(self: NetworkSink, change: Change) -> list[Operation]:
        return [{**operation, "task_id": None} if operation["op"] == "detach" else operation
                for operation in honest(self, change)]  # fmt: skip

    monkeypatch.setattr(NetworkSink, "_operations", careless)
    assert found(directory, seeds=150)


def test_a_binding_forgotten_too_early_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kills, "still_leads_there", lambda self, binding: False)
    assert "leads to" in found(directory, seeds=150)


def test_a_write_that_is_lost_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Records.save

    async def forgetful(self: Records, binding: Any) -> Any:
        if binding.departing:
            self._put(binding)  # in memory only
            return binding
        return await honest(self, binding)

    monkeypatch.setattr(Records, "save", forgetful)
    assert found(directory)
