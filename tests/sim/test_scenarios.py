"""What apps are promised about their addresses, and that a promise broken on purpose is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mooring.core.model import SinkState
from mooring.core.sink import Change, Done, Outcome
from mooring.core.specs import Spec
from mooring.handlers.hosts import Answer, NetworkSink, Operation
from mooring.handlers.kill import Kills
from tests.sim import scenarios
from tests.sim.apps import SimApp
from tests.sim.scenarios import POOL, Scenario, addresses, begin, by_instance, end
from tests.sim.story import HOSTS, Cast, Story, tell
from tests.sim.world import Agents, Violation, World


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_the_promise_holds_where(scenario: Scenario, seed: int, directory: Path) -> None:
    tell(seed, directory, act=scenario)


@pytest.mark.parametrize("seed", range(5))
def test_an_upgrade_without_over_capacity_keeps_the_set_of_addresses(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        story.world.faults.duplicate = story.world.faults.late = 0.2
        await begin(story, SimApp("/web", 4, POOL, minimum_health=0.5, over_capacity=0.0))
        before = addresses(story, "/web")
        for _ in range(3):
            await story.marathon.restart("/web")
            await story.settles()
            assert addresses(story, "/web") == before
        end(story)

    tell(seed, directory, act=act)


@pytest.mark.parametrize("seed", range(3))
def test_an_upgrade_with_the_default_strategy_alternates_between_two_sets(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        seen = [addresses(story, "/web")]
        for _ in range(4):
            await story.marathon.restart("/web")
            await story.settles()
            seen.append(addresses(story, "/web"))
        first, second, *others = seen
        assert len(first) == len(second) == 3
        assert first.isdisjoint(second)
        assert others == [first, second, first]
        end(story)

    tell(seed, directory, act=act)


@pytest.mark.parametrize("seed", range(5))
def test_self_healing_keeps_the_address_on_whatever_host(seed: int, directory: Path) -> None:
    async def act(story: Story) -> None:
        story.world.faults.drop = story.world.faults.duplicate = story.world.faults.late = 0.2
        await begin(story, SimApp("/web", 3, POOL))
        for _ in range(5):
            before = by_instance(story)
            await story.marathon.fail(story.chance.choice(sorted(story.marathon.instances)))
            await story.settles()
            assert by_instance(story) == before
        end(story)

    tell(seed, directory, act=act)


# -- the simulation can fail


class Unfenced(Agents):
    """Hosts that take whatever a daemon of the past sends."""

    def play(self, host: str, operations: Sequence[Operation], epoch: int) -> list[Answer]:
        here = self.hosts[host]
        epoch_before, before = here.epoch, here.ports
        here.epoch, here.ports = 0, {name: replace(port, epoch=0) for name, port in before.items()}
        answers = super().play(host, operations, epoch)
        here.epoch = max(epoch_before, epoch)
        here.ports = {name: port if port.epoch else before[name] for name, port in here.ports.items()}
        return answers


class WithoutFence(World):
    def _agents(self, names: Sequence[str]) -> Agents:
        return Unfenced(names, self.trace, self.landed)


def found(scenario: Scenario, directory: Path, cast: Cast | None = None, seeds: int = 5) -> str:
    """What is found wrong; fails if nothing is."""
    for seed in range(seeds):
        place = directory / str(seed)
        place.mkdir()
        try:
            tell(seed, place, cast, act=scenario)
        except (Violation, AssertionError) as violation:
            return str(violation)
    return pytest.fail(f"{scenario.__name__} does not notice the defect")


def test_a_missing_fence_is_found(directory: Path) -> None:
    cast = Cast(world=lambda clock, seed: WithoutFence(clock, seed, HOSTS))
    assert "wrote after epoch" in found(scenarios.a_play_lands_after_its_senders_death, directory, cast)


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
    assert "lease is" in found(scenarios.a_lost_host_strands_its_addresses, directory)


def test_a_detach_that_means_any_task_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = NetworkSink._operations

    def careless(self: NetworkSink, change: Change) -> list[Operation]:
        return [{key: value for key, value in one.items() if one["op"] != "detach" or key != "task_id"}
                for one in honest(self, change)]  # fmt: skip

    monkeypatch.setattr(NetworkSink, "_operations", careless)
    assert "has no port" in found(scenarios.an_instance_returns_to_the_host_it_left_behind, directory)


def test_an_address_given_back_under_a_name_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kills, "still_leads_there", lambda self, binding: False)
    assert "leads to" in found(scenarios.a_name_outlives_the_port_it_led_to, directory)


def test_a_forgotten_attempt_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: SinkState, spec: Spec | None) -> SinkState:
        return self if spec == self.wanted else replace(self, wanted=spec, generation=self.generation + 1)

    monkeypatch.setattr(SinkState, "want", forgetful)
    assert "lease is" in found(scenarios.an_instance_ends_whose_port_was_never_confirmed, directory)
