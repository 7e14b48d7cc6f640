"""What apps are promised about their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim import scenarios
from tests.sim.apps import SimApp
from tests.sim.scenarios import POOL, Scenario, addresses, begin, by_instance, end
from tests.sim.story import Story, tell


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
