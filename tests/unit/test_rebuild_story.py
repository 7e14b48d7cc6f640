"""A store is lost, or an old copy put back: nothing happens until an operator agrees, then nothing moves."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.controller.rebuild_plan import RebuildPlan
from mooring.core.errors import Refused, Retryable
from mooring.core.model import HostName, LeaseState
from mooring.lb.memory import MemoryProxy
from tests.sim import seeds
from tests.sim.apps import SimApp
from tests.sim.scenarios import POOL, addresses, begin, by_instance
from tests.sim.story import HOSTS, Story, tell

BALANCED = {**POOL, "HAPROXY_GROUP": "external", "HAPROXY_0_VHOST": "web.example.org"}
MEMBERS = "{% for m in members %}{{ m.address }}\n{% endfor %}"
WATCHING = {**BALANCED, "MOORING_NOTIFY_FROM": "/db", "MOORING_NOTIFY_PATH": "/etc/peers",
            "MOORING_NOTIFY_TEMPLATE": MEMBERS, "MOORING_NOTIFY_COMMAND": "reload"}  # fmt: skip
JOBS = {**BALANCED, "HAPROXY_0_VHOST": "job.example.org"}
UNADDRESSED = {"HAPROXY_GROUP": "external", "HAPROXY_0_PORT": "10080"}


@pytest.fixture
def directory() -> Iterator[Path]:
    with seeds.directory() as made:
        yield made


@pytest.fixture(params=range(3))
def play(request: pytest.FixtureRequest, directory: Path) -> Callable[[Callable[[Story], Any]], Story]:
    """Plays an act under three seeds, which differ in the order of everything that happens at once."""
    return lambda act: tell(request.param, directory, act=act)


class Recorded(MemoryProxy):
    """A balancer that remembers whom it sent traffic to, after each change."""

    __slots__ = ("history",)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "members":
            if not hasattr(self, "history"):
                super().__setattr__("history", [])
            self.history.append({key for key, member in value.items() if member.state == "up"})


async def engine_of(story: Story) -> Any:
    """The engine of the newest daemon, once its parts are up."""
    while story.operator.engine is None:
        await story.passes(0.5)
    return story.operator.engine


async def at_a_loss(story: Story) -> Any:
    """The newest daemon's engine once it waits for an operator and Marathon has been listed."""
    engine = await engine_of(story)
    while not engine.view.complete:
        await story.passes(0.5)
    assert engine.rebuild.needed
    return engine


async def agreed(engine: Any) -> RebuildPlan:
    plan: RebuildPlan = await engine.rebuild.plan()
    applied: RebuildPlan = await engine.rebuild.apply(plan.digest)
    return applied


def ports(story: Story) -> dict[str, Any]:
    return {name: dict(host.ports) for name, host in story.world.agents.hosts.items()}


def does(plan: RebuildPlan) -> dict[str, str]:
    return {row.address: row.action for row in plan.rows if row.action != "reserved"}


def lease(engine: Any, address: str) -> LeaseState | None:
    found = engine.records.book.by_address(address)
    return None if found is None else found.state


def test_nothing_at_all_happens_before_the_plan_is_applied(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, WATCHING), SimApp("/db", 2, POOL))
        story.lose_the_store()
        engine = await at_a_loss(story)
        before, effects, zone = ports(story), story.world.effects, dict(story.world.server.sets)
        epochs = {name: host.epoch for name, host in story.world.agents.hosts.items()}
        await story.marathon.scale("/web", 5)
        await story.marathon.scale("/db", 1)
        await story.passes(90.0)
        assert engine.rebuild.needed
        assert "mooring rebuild" in "; ".join(engine.report.readiness())
        assert engine.report.vitals().rebuild_needed
        assert (ports(story), story.world.server.sets) == (before, zone)
        assert epochs == {name: host.epoch for name, host in story.world.agents.hosts.items()}
        assert engine.records.all() == ()
        assert engine.records.book.leases() == []
        assert story.world.effects - effects <= 90, "hosts and names are asked, and nothing else"
        plan = await engine.rebuild.plan()
        assert ports(story) == before
        assert set(does(plan).values()) == {"keep"}
        assert set(does(plan)) == {port.address for host in before.values() for port in host.values()}
        gone = [row for row in plan.rows if "Marathon does not list it" in row.reason]
        assert [row.app for row in gone] == ["/db"]
        assert [row.address for row in plan.rows if row.action == "reserved"] == ["10.64.0.6"]
        story.end()

    play(act)


def test_afterwards_nobody_moves_and_no_client_notices(play: Any) -> None:
    async def act(story: Story) -> None:
        proxy = story.world.proxies["haproxy"] = Recorded()
        await begin(
            story, SimApp("/web", 3, WATCHING), SimApp("/db", 2, POOL),
            SimApp("/job", 2, JOBS, checked=False), SimApp("/old", 2, UNADDRESSED),
        )  # fmt: skip
        before, up = by_instance(story), proxy.history[-1]
        assert len(up) == 3 + 2 + 2
        told = _told(story)
        story.lose_the_store()
        engine = await at_a_loss(story)
        proxy.history.clear()
        mark = len(story.world.trace.lines)
        await agreed(engine)
        await story.settles()
        assert by_instance(story) == before
        assert all(up <= shown for shown in proxy.history), "a member was taken out and put back"
        removed = [
            line for line in story.world.trace.lines[mark:] if "Remove web." in line or "Remove db." in line
        ]
        assert removed == []
        assert _told(story) == told, "a dependent was told of fewer members for a while"
        assert engine.seats.closed is None
        await story.marathon.scale("/web", 5)
        await story.settles()
        assert before.items() <= by_instance(story).items()
        story.end()

    play(act)


def _told(story: Story) -> dict[str, list[str]]:
    """What stands in the files of dependents, by task."""
    found = {}
    for host in story.world.agents.hosts.values():
        for task, container in host.containers.items():
            if container.alive and container.files:
                found[task] = sorted(container.files["/etc/peers"].split())
    return found


def test_a_silent_host_keeps_allocation_closed_and_then_opens_it(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
        theirs = {port.address for port in story.world.agents.hosts[lost].ports.values()}
        story.world.agents.silent.add(lost)
        story.lose_the_store()
        engine = await at_a_loss(story)
        plan = await agreed(engine)
        assert list(plan.blocked_by) == [lost]
        assert not engine.rebuild.needed
        await story.marathon.scale("/web", 6)
        await story.passes(60.0)
        assert addresses(story, "/web").isdisjoint(theirs) or all(
            port.address not in theirs
            for name, host in story.world.agents.hosts.items()
            if name != lost
            for port in host.ports.values()
        )
        closed = engine.seats.closed
        assert lost in closed
        assert f"mooring hosts fence {lost}" in closed
        assert len([one for one in engine.report.instances() if one.address is None]) >= 3
        story.world.agents.silent.discard(lost)
        await story.passes(30.0)
        assert engine.seats.closed is None
        assert {address for address in theirs if lease(engine, address) is LeaseState.BOUND} == theirs
        await story.settles()
        story.end()

    play(act)


def test_after_a_fence_unheard_no_address_is_given_out_before_all_have_rested(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        lost = next(host for host in HOSTS if story.world.agents.hosts[host].ports)
        await story.marathon.lose(lost)
        story.lose_the_store()
        engine = await at_a_loss(story)
        story.world.agents.switch_off(lost)
        story.world.agents.write_off(lost)
        await engine.fence(HostName(lost), "its board is broken")
        before = by_instance(story)
        plan = await agreed(engine)
        assert (plan.blocked_by, plan.unheard) == ({}, (lost,))
        began = story.clock.monotonic()
        assert "no address is proven free" in engine.seats.closed
        await story.marathon.scale("/web", 7)
        while engine.seats.closed:
            assert set(by_instance(story).values()) <= set(before.values())
            await story.passes(0.5)
        assert story.clock.monotonic() - began == pytest.approx(20.0, abs=3.0)
        await story.passes(60.0)
        assert len(set(by_instance(story)) - set(before)) >= 4
        story.end()

    play(act)


def test_cut_off_anywhere_it_begins_again_or_goes_on(directory: Path) -> None:
    """Killed at each step of an apply: at the end everybody sits where they sat."""
    for step in range(1, 60, 4):

        async def act(story: Story, step: int = step) -> None:
            await begin(story, SimApp("/web", 3, BALANCED), SimApp("/db", 2, POOL))
            before = by_instance(story)
            story.lose_the_store()
            engine = await at_a_loss(story)
            life = story.life
            assert life is not None
            life.die_at = life._steps + step
            story.operator.does("rebuild", agreed(engine))
            await story.passes(3.0)
            await story.settles()
            assert by_instance(story) == before
            story.end()

        place = directory / str(step)
        place.mkdir()
        tell(step, place, act=act)


def test_of_two_ports_with_one_address_the_newer_stays_and_the_other_goes(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL), SimApp("/db", 1, POOL))
        places = {port.instance: (host, port) for host in story.world.agents.hosts.values()
                  for port in host.ports.values()}  # fmt: skip
        (db,) = (one for one in places if one.startswith("db."))
        web = next(one for one in places if one.startswith("web.") and places[one][0] is not places[db][0])
        host, port = places[db]
        story.life.kill()  # type: ignore[union-attr]
        newer = replace(places[web][1], address=port.address, epoch=0)
        place = places[web][0]
        place.ports[newer.name] = (
            newer  # as an old daemon might have left it: the same address, a lower epoch
        )
        story.world.after_effect = lambda: None  # two hands, on purpose
        story.lose_the_store()
        engine = await at_a_loss(story)
        plan = await engine.rebuild.plan()
        told = {(row.address, row.instance): row.action for row in plan.rows if row.address == port.address}
        assert told == {(port.address, db): "keep", (port.address, web): "detach"}
        await engine.rebuild.apply(plan.digest)
        assert newer.name not in place.ports
        assert port.name in host.ports
        await story.passes(30.0)
        assert by_instance(story)[db] == port.address
        assert by_instance(story)[web] != port.address
        story.end()

    play(act)


def test_a_plan_that_is_no_longer_true_is_refused(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        story.lose_the_store()
        engine = await at_a_loss(story)
        plan = await engine.rebuild.plan()
        story.world.agents.silent.add("h1")
        with pytest.raises(Refused, match="nothing was changed"):
            await engine.rebuild.apply(plan.digest)
        assert engine.records.all() == ()
        story.world.agents.silent.clear()
        await engine.rebuild.apply(plan.digest)
        with pytest.raises(Refused, match="no rebuild is needed"):
            await engine.rebuild.plan()
        story.end()

    play(act)


def test_an_old_copy_loses_what_is_newer_and_keeps_what_it_knows(play: Any) -> None:
    """Since the copy was made an instance moved, one ended and its address went to another, one came."""

    async def act(story: Story) -> None:
        await begin(
            story, SimApp("/web", 3, BALANCED), SimApp("/db", 2, {**POOL, "MOORING_IP_POLICY": "task"})
        )
        assert story.knows_all
        story.copy_the_store()
        for _ in range(2):  # all of them anew, with addresses that cooled meanwhile
            await story.marathon.restart("/db")
            await story.settles()
            await story.passes(25.0)
        await story.marathon.scale("/web", 4)
        await story.marathon.fail(
            sorted(one for one in story.marathon.instances if one.startswith("web."))[0]
        )
        story.life.kill()  # type: ignore[union-attr]
        await story.settles()
        before = by_instance(story)
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        plan = await engine.rebuild.plan()
        assert plan.known > 0, "what the copy knows is not shown"
        kept = {
            row.instance: row.address
            for row in plan.rows
            if row.action == "keep" and "missing" not in row.reason
        }
        assert kept.items() <= before.items()
        assert {one for one in before if one.startswith("db.")} <= kept.keys()
        await engine.rebuild.apply(plan.digest)
        await story.settles()
        assert by_instance(story) == before
        await story.falls_quiet()
        story.end()

    play(act)


def test_a_name_that_an_old_copy_does_not_know_goes_before_its_address_is_given_back(play: Any) -> None:
    """When the copy was made the instances had not been given their app's name."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, BALANCED))
        story.copy_the_store()
        assert story._copy is not None
        with contextlib.closing(sqlite3.connect(story._copy)) as db, db:
            done = db.execute("UPDATE sink_states SET wanted = NULL, applied = NULL WHERE sink = 'app_names'")
            assert done.rowcount == 2
        story.life.kill()  # type: ignore[union-attr]
        await story.settles()
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        await story.marathon.scale("/web", 0)
        await agreed(engine)
        await story.settles()  # and at every step no name leads to an address that was given back
        await story.falls_quiet()
        story.end()

    play(act)


def test_an_address_is_not_given_back_while_its_port_may_stand_on_a_silent_host(play: Any) -> None:
    """The copy has the instance where it was before it moved, and the host to which it moved is silent."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 1, POOL))
        [(home, port)] = [(host.name, port) for host, port in story.world.agents.answering()]
        copy_with_another_host(story, home, next(host for host in HOSTS if host != home))
        story.world.agents.silent.add(home)
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        await story.marathon.scale("/web", 0)
        await agreed(engine)
        await story.passes(60.0)
        assert lease(engine, port.address) in (LeaseState.BOUND, LeaseState.STRANDED)
        assert list(story.world.agents.answering(port.address)) != []
        await story.marathon.back(home, rebooted=False)
        await story.settles()
        assert list(story.world.agents.answering(port.address)) == []
        story.end()

    play(act)


def test_an_address_goes_nowhere_else_while_its_port_may_stand_on_a_silent_host(play: Any) -> None:
    """As before, and Marathon has started the instance anew on a third host meanwhile."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 1, POOL, when_lost="gone"))
        [(home, port)] = [(host.name, port) for host, port in story.world.agents.answering()]
        before, third = (host for host in HOSTS if host != home)
        copy_with_another_host(story, home, before)
        story.life.kill()  # type: ignore[union-attr]
        story.marathon.prefers = third
        await story.marathon.lose(home)
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        await agreed(engine)
        await story.passes(60.0)
        assert lease(engine, port.address) is LeaseState.BOUND
        assert [host.name for host, _ in story.world.agents.answering(port.address)] == [home]
        [row] = engine.report.instances()
        assert f"not attached on {third}" in row.problem
        await story.marathon.back(home, rebooted=False)
        await story.settles()
        assert [host.name for host, _ in story.world.agents.answering(port.address)] == [third]
        story.end()

    play(act)


def copy_with_another_host(story: Story, home: str, before: str) -> None:
    """A copy of the store in which everything on that host is where it was before."""
    story.copy_the_store()
    assert story._copy is not None
    with contextlib.closing(sqlite3.connect(story._copy)) as db, db:
        db.execute("UPDATE bindings SET host = ?", (before,))
        db.execute("UPDATE leases SET host = ?", (before,))
        for column in ("wanted", "applied"):
            db.execute(f"UPDATE sink_states SET {column} = replace({column}, ?, ?)", (home, before))


def test_a_fence_of_an_old_copy_is_not_taken_over(play: Any) -> None:
    """It may have been lifted since; what lives there by now is waited for."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 3, POOL))
        lost = HostName(next(host for host in HOSTS if story.world.agents.hosts[host].ports))
        engine = await engine_of(story)
        await engine.fence(lost, "looks odd", force=True)
        story.copy_the_store()
        await engine.unfence(lost)
        theirs = {port.address for port in story.world.agents.hosts[lost].ports.values()}
        await story.settles()
        story.world.agents.silent.add(lost)
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        assert engine.fences.all() == {}
        plan = await agreed(engine)
        assert (list(plan.blocked_by), plan.unheard) == ([lost], ())
        await story.passes(60.0)
        assert {lease(engine, address) for address in theirs} == {LeaseState.BOUND}
        await story.marathon.back(lost)
        await story.settles()
        story.end()

    play(act)


def test_a_host_that_is_unfenced_before_the_end_of_a_rebuild_keeps_its_ports(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 6, POOL))
        before = by_instance(story)
        first, second = HOSTS[0], HOSTS[1]
        assert story.world.agents.hosts[first].ports
        story.world.agents.silent |= {first, second}
        story.lose_the_store()
        engine = await at_a_loss(story)
        await agreed(engine)
        story.world.agents.write_off(first)  # wrongly: it lives
        await engine.fence(HostName(first), "no light at its front")
        story.world.agents.silent.discard(first)
        await engine.unfence(HostName(first))
        assert by_instance(story) == before
        story.world.agents.silent.discard(second)
        await story.settles()
        assert by_instance(story) == before
        story.end()

    play(act)


def test_files_are_written_again_after_an_old_copy(play: Any) -> None:
    """The copy has the files as they were before; what stands in them cannot be read."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/db", 2, POOL), SimApp("/web", 1, WATCHING))
        story.copy_the_store()
        for host in story.world.agents.hosts.values():
            for container in host.containers.values():
                container.files = dict.fromkeys(container.files, "of a later time")
        story.lose_the_store(copy=True)
        await agreed(await at_a_loss(story))
        await story.settles()
        assert all("of a later time" not in words for words in _told(story).values())
        story.end()

    play(act)


def test_a_first_installation_needs_nobody(play: Any) -> None:
    async def act(story: Story) -> None:
        story.world.agents.silent.add("h2")
        await begin_silently(story)
        engine = await engine_of(story)
        await story.passes(20.0)
        assert engine.rebuild.needed
        assert "h2" in engine.seats.closed
        story.world.agents.silent.clear()
        await story.passes(20.0)
        assert not engine.rebuild.needed
        assert engine.seats.closed is None
        with pytest.raises(Refused, match="no rebuild is needed"):
            await engine.rebuild.plan()
        await story.settles()
        story.end()

    play(act)


async def begin_silently(story: Story) -> None:
    story.marathon.spawn(story.marathon.supervise())
    story.marathon.spawn(story.keep_a_daemon())
    await story.marathon.deploy(SimApp("/web", 2, POOL))


def test_names_alone_put_their_address_into_quarantine(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL))
        victim = sorted(by_instance(story))[0]
        address = by_instance(story)[victim]
        story.life.kill()  # type: ignore[union-attr]
        for host in story.world.agents.hosts.values():
            host.ports = {name: port for name, port in host.ports.items() if port.instance != victim}
        await story.marathon.scale("/web", 1)
        story.lose_the_store()
        engine = await at_a_loss(story)
        plan = await agreed(engine)
        assert does(plan).get(address) == "quarantine"
        assert lease(engine, address) is LeaseState.COOLING
        await story.settles()
        story.end()

    play(act)


def test_names_of_addresses_that_an_old_copy_keeps_for_seats_go_as_well(play: Any) -> None:
    """The copy was made between two lives of the app; of the second only its names are left."""

    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL))
        await story.marathon.scale("/web", 0)
        await story.settles()
        kept = {one.address for one in (await engine_of(story)).records.book.leases()}
        assert {lease(story.operator.engine, address) for address in kept} == {LeaseState.IDLE}
        story.copy_the_store()
        await story.marathon.scale("/web", 2)
        await story.settles()
        story.life.kill()  # type: ignore[union-attr]
        for host in story.world.agents.hosts.values():
            host.ports = {}
        await story.marathon.scale("/web", 0)
        assert all(_names_of(story, address) for address in kept)
        story.lose_the_store(copy=True)
        engine = await at_a_loss(story)
        plan = await agreed(engine)
        assert does(plan) == dict.fromkeys(kept, "quarantine")
        assert {lease(engine, address) for address in kept} == {LeaseState.COOLING}
        await story.passes(5.0)
        assert not any(_names_of(story, address) for address in kept)
        await story.settles()
        story.end()

    play(act)


def _names_of(story: Story, address: str) -> list[str]:
    return [name for (name, _), found in story.world.server.sets.items() if address in found.values]


def test_it_waits_until_marathon_has_been_listed(play: Any) -> None:
    async def act(story: Story) -> None:
        await begin(story, SimApp("/web", 2, POOL))
        story.world.faults.listing = 1.0
        story.lose_the_store()
        engine = await engine_of(story)
        await story.passes(5.0)
        with pytest.raises(Retryable, match="Marathon has not been listed"):
            await engine.rebuild.plan()
        story.world.faults.listing = 0.0
        await story.settles()
        story.end()

    play(act)
