"""Short stories with a known course: each brings about one situation in which an address could be lost.

That chaos notices when a promise is broken is shown elsewhere (`mutation`); these say what is promised where.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.sim.apps import SimApp
from tests.sim.story import HOSTS, Story

POOL = {"MOORING_POOL": "blue"}
Scenario = Callable[[Story], Awaitable[None]]


async def begin(story: Story, *apps: SimApp) -> None:
    """A daemon, and these apps in service."""
    story.marathon.spawn(story.marathon.supervise())
    story.marathon.spawn(story.keep_a_daemon())
    for app in apps:
        await story.marathon.deploy(app)
    await story.settles()


def kill_the_daemon(story: Story) -> None:
    """It is started again soon."""
    assert story.life is not None
    story.life.kill()


def end(story: Story) -> None:
    """No more daemons."""
    story.end()


def addresses(story: Story, app: str) -> set[str]:
    """The addresses of all ports of an app, as the switches tell."""
    hosts = story.world.agents.hosts.values()
    return {port.address for host in hosts for port in host.ports.values() if port.app == app}


def by_instance(story: Story) -> dict[str, str]:
    """Which instance has which address, as the switches tell."""
    hosts = story.world.agents.hosts.values()
    return {port.instance: port.address for host in hosts for port in host.ports.values()}


async def a_lost_host_strands_its_addresses(story: Story) -> None:
    """Nobody else gets them before the host is back and has let go."""
    await begin(story, SimApp("/web", 3, POOL))
    lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
    on_lost = {port.address for port in story.world.agents.hosts[lost].ports.values()}
    await story.marathon.lose(lost)
    await story.settles()
    elsewhere = addresses(story, "/web") - on_lost
    assert len(elsewhere) == 3
    await story.marathon.back(lost)
    await story.settles()
    assert addresses(story, "/web") == elsewhere
    end(story)


async def an_instance_returns_to_the_host_it_left_behind(story: Story) -> None:
    """What is left of its old seat there is removed; its new port there stays."""
    story.marathon.prefers = "h1"
    await begin(story, SimApp("/web", 1, POOL, when_lost="gone"))
    await story.marathon.lose("h1")
    await story.passes(45.0)  # by now it has given up waiting for h1 and sits in another seat elsewhere
    await story.marathon.back("h1")
    await story.marathon.fail(next(iter(story.marathon.instances)))
    await story.settles()
    await story.falls_quiet()
    end(story)


async def a_name_outlives_the_port_it_led_to(story: Story) -> None:
    """An address is not given back while a name server that is away still shows it."""
    story.marathon.prefers = "h1"
    await begin(story, SimApp("/web", 1, POOL, when_lost="gone"))
    await story.marathon.lose("h1")
    story.world.away.add("dns")
    await story.passes(45.0)
    await story.marathon.back("h1")
    await story.passes(60.0)
    story.world.away.clear()
    await story.settles()
    end(story)


async def a_play_lands_after_its_senders_death(story: Story) -> None:
    """What the successor has begun to write is not touched by it."""
    await begin(story, SimApp("/web", 3, POOL))
    for number in range(6):
        story.world.faults.slow = 1.0
        await story.marathon.deploy(SimApp(f"/late{number}", 3, POOL))
        await story.passes(1.5)
        story.world.faults.slow = 0.0
        kill_the_daemon(story)
        await story.passes(10.0)
    await story.settles()
    end(story)


async def the_daemon_dies_as_its_play_lands(story: Story) -> None:
    """Its host falls silent and the instance is replaced, while no daemon runs: the address stays taken."""
    await begin(story)
    story.marathon.prefers, story.down_s = "h1", (10.0, 10.0)
    check = story.world.after_effect

    def die_with_the_first_port() -> None:
        check()
        if story.world.agents.hosts["h1"].ports and not story.world.agents.silent:
            kill_the_daemon(story)
            story.marathon.spawn(story.marathon.lose("h1"))
            story.world.agents.silent.add("h1")

    story.world.after_effect = die_with_the_first_port
    await story.marathon.deploy(SimApp("/web", 1, POOL))
    await story.passes(8.0)
    assert story.world.agents.silent == {"h1"}
    await story.settles()
    await story.falls_quiet()
    end(story)


async def an_instance_ends_whose_port_was_never_confirmed(story: Story) -> None:
    """What may have been done is undone before the address is given back."""
    await begin(story)
    story.world.faults.after = 1.0
    await story.marathon.deploy(SimApp("/web", 2, POOL))
    await story.passes(5.0)
    story.world.faults.after = 0.0
    await story.marathon.delete("/web")
    await story.settles()
    await story.falls_quiet()
    end(story)


async def a_lost_store_is_rebuilt_from_the_switches(story: Story) -> None:
    """Live addresses stay where they are, and nothing is touched before an operator has agreed."""
    await begin(story, SimApp("/web", 3, POOL), SimApp("/db", 2, POOL))
    before = by_instance(story)
    story.lose_the_store()
    effects = story.world.effects
    await story.marathon.scale("/web", 4)
    await story.passes(30.0)
    assert story.world.effects == effects
    await story.settles()
    assert before.items() <= by_instance(story).items()
    end(story)


async def with_a_lost_store_every_host_is_waited_for(story: Story) -> None:
    """Nothing is given out before, also if an operator has agreed."""
    await begin(story, SimApp("/web", 3, POOL))
    taken = addresses(story, "/web")
    lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
    await story.marathon.lose(lost)
    story.lose_the_store()
    await story.passes(20.0)
    story.operator.rebuilds()
    await story.passes(60.0)
    assert story.operator.engine is not None
    assert lost in str(story.operator.engine.seats.closed)
    assert addresses(story, "/web") <= taken
    await story.marathon.back(lost)
    await story.settles()
    end(story)


async def a_host_that_is_dead_is_fenced_in_a_rebuild(story: Story) -> None:
    """It is not waited for any more; but nothing is given out until all that it may have had has cooled."""
    await begin(story, SimApp("/web", 3, POOL))
    lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
    await story.marathon.lose(lost)
    story.lose_the_store()
    await story.passes(20.0)
    story.operator.rebuilds()
    await story.passes(10.0)
    story.operator.fences(lost)
    await story.settles()
    await story.marathon.back(lost, rebooted=True)
    await story.settles()
    await story.falls_quiet()
    assert not story.world.agents.ghosts & story.world.agents.hosts[lost].ports.keys()
    end(story)


async def an_old_copy_of_the_store_is_put_back(story: Story) -> None:
    """What it does not know is found on the switches, before anything is given out."""
    await begin(story, SimApp("/web", 2, POOL))
    story.copy_the_store()
    await story.marathon.deploy(SimApp("/db", 3, POOL))
    await story.marathon.scale("/web", 4)
    await story.settles()
    before = by_instance(story)
    story.lose_the_store(copy=True)
    await story.marathon.deploy(SimApp("/new", 3, POOL))
    await story.settles()
    assert before.items() <= by_instance(story).items()
    end(story)


async def more_instances_than_addresses(story: Story) -> None:
    """Five are served, two wait and say why; when one goes for good, another one gets its address."""
    await begin(story, SimApp("/tiny", 7, {"MOORING_POOL": "tiny"}, over_capacity=0.0))
    assert len(addresses(story, "/tiny")) == 5
    await story.marathon.scale("/tiny", 6)
    await story.settles()
    assert len(addresses(story, "/tiny")) == 5
    await story.marathon.scale("/tiny", 4)
    await story.settles()
    assert len(addresses(story, "/tiny")) == 4
    end(story)


ALL: tuple[Scenario, ...] = (
    a_lost_host_strands_its_addresses,
    an_instance_returns_to_the_host_it_left_behind,
    a_name_outlives_the_port_it_led_to,
    a_play_lands_after_its_senders_death,
    the_daemon_dies_as_its_play_lands,
    an_instance_ends_whose_port_was_never_confirmed,
    a_lost_store_is_rebuilt_from_the_switches,
    with_a_lost_store_every_host_is_waited_for,
    a_host_that_is_dead_is_fenced_in_a_rebuild,
    more_instances_than_addresses,
    an_old_copy_of_the_store_is_put_back,
)
