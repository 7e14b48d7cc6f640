"""How facts about one instance merge: the case table of `entry`, health, and order independence."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.controller.events import (
    AppsChanged,
    Event,
    SchedulerChanged,
)
from mooring.controller.view import Dirty
from mooring.core.model import AppId, Health, InstanceId, State
from tests.unit.view_world import (
    ONE,
    WEB,
    H,
    S,
    World,
    app,
    condition,
    health,
    instance,
    listing,
    task,
)

# -- one instance: what is known, what is told, what stands afterwards, whether a listing is asked for

CASES = [
    pytest.param([task(S.STARTING)], S.STARTING, False, id="first-report"),
    pytest.param([task(S.STARTING, at=1), task(S.RUNNING, at=2)], S.RUNNING, False, id="forward"),
    pytest.param([task(S.RUNNING, at=2), task(S.STARTING, at=1)], S.RUNNING, True, id="late-is-ignored"),
    pytest.param([task(S.RUNNING, at=1), task(S.RUNNING, at=1)], S.RUNNING, False, id="duplicate"),
    pytest.param([task(S.RUNNING, at=1), task(S.DEAD, at=2)], S.DEAD, True, id="ends"),
    pytest.param([task(S.DEAD, at=2), task(S.RUNNING, at=3)], S.DEAD, True, id="terminal-absorbs"),
    pytest.param([task(S.RUNNING, at=2), task(S.DEAD, at=1)], S.DEAD, True, id="late-terminal-absorbs"),
    pytest.param([task(S.DEAD, 1, 1), task(S.RUNNING, 2, 2)], S.RUNNING, True, id="relaunch"),
    pytest.param([task(S.RUNNING, 2, 2), task(S.DEAD, 1, 3)], S.RUNNING, False, id="older-incarnation"),
    pytest.param([task(S.RUNNING, 1, 1), task(S.DEAD, 2, 2)], S.DEAD, True, id="unseen-relaunch-ended"),
    pytest.param([task(S.RUNNING), condition(S.RUNNING)], S.RUNNING, False, id="usual-pair"),
    pytest.param([task(S.STARTING), condition(S.RUNNING)], S.RUNNING, True, id="report-missed"),
    pytest.param([task(S.UNREACHABLE), condition(S.INACTIVE)], S.INACTIVE, True, id="inactive"),
    pytest.param([task(S.UNREACHABLE), condition(S.UNREACHABLE)], S.UNREACHABLE, False, id="unreachable"),
    pytest.param(
        [task(S.RUNNING, at=1), task(S.UNREACHABLE, at=2), task(S.RUNNING, at=3)],
        S.RUNNING,
        False,
        id="back-in-reach",
    ),
    pytest.param(
        [task(S.UNREACHABLE, at=1), condition(S.INACTIVE, at=1), task(S.RUNNING, at=4)],
        S.RUNNING,
        True,
        id="back-from-inactive",
    ),
    pytest.param([task(S.RUNNING), condition(S.DEAD)], S.RUNNING, True, id="condition-cannot-end"),
    pytest.param([task(S.RUNNING), condition(S.STARTING)], S.RUNNING, True, id="end-missed"),
    pytest.param([task(S.DEAD), condition(S.RUNNING)], S.DEAD, True, id="relaunch-report-missed"),
    pytest.param([task(S.RUNNING), condition(S.KILLING)], S.KILLING, False, id="killing"),
]


@pytest.mark.parametrize(("events", "state", "unclear"), CASES)
def test_events(events: list[Event], state: State, unclear: bool) -> None:
    world = World()
    dirty = world.tell(*events)
    assert world.state is state
    assert (WEB in dirty.apps_to_refresh) == unclear
    assert ONE in dirty.keys


def test_a_duplicate_changes_nothing() -> None:
    world = World(instance())
    world.tell(task(S.RUNNING, at=1))
    assert world.tell(task(S.RUNNING, at=1), health(None)) == Dirty()


def test_conditions_of_unknown_instances() -> None:
    world = World()
    assert world.tell(condition(S.STARTING), condition(S.DEAD)) == Dirty()
    assert world.tell(condition(S.RUNNING)).apps_to_refresh == {WEB}
    assert world.view.instance(ONE) is None


def test_an_unknown_app_is_asked_for() -> None:
    world = World()
    other = AppId("/other")
    assert world.tell(task(S.RUNNING, of=other)).apps_to_refresh == {other}
    assert world.view.app(other) is None
    assert [found.id for found in world.view.instances_of(other)] == [ONE]


def test_app_and_scheduler_events() -> None:
    world = World()
    dirty = world.tell(AppsChanged((WEB,)), SchedulerChanged())
    assert dirty == Dirty(set(), {WEB}, True)


def test_pods_are_left_alone() -> None:
    world = World()
    pod = AppId("/pod")
    world.tell(AppsChanged((), (pod,)))
    assert world.tell(condition(S.RUNNING, of=pod), health(True, of=pod)) == Dirty()
    world.snap(pods={AppId("/pod2"): frozenset({InstanceId("p")})})
    assert world.tell(condition(S.RUNNING, of=AppId("/pod2"))) == Dirty()
    assert world.tell(condition(S.RUNNING, of=pod)).apps_to_refresh == {pod}
    world.tell(AppsChanged((), (pod,)), AppsChanged((pod,), ()))
    assert world.tell(condition(S.RUNNING, of=pod)).apps_to_refresh == {pod}


def test_what_an_ended_task_no_longer_tells_stays() -> None:
    world = World(instance())
    end = replace(task(S.DEAD), host=None, host_ports=(), version="")
    world.tell(end)
    assert world.one() == instance(state=S.DEAD)


def test_a_new_attachment_voids_older_stamps() -> None:
    world = World(instance())
    world.tell(task(S.UNREACHABLE, at=30))
    world.view.attached()
    world.tell(task(S.RUNNING, at=5))
    assert world.state is S.RUNNING


# -- health


def test_health_is_kept_while_it_is_unknown() -> None:
    world = World(instance(health=H.HEALTHY))
    world.tell(health(None))
    world.snap(instance(health=H.UNKNOWN))
    assert world.one().health is H.HEALTHY
    world.snap(instance(health=H.UNHEALTHY))
    assert world.one().health is H.UNHEALTHY


def test_a_new_incarnation_begins_without_health() -> None:
    world = World(instance(health=H.HEALTHY))
    world.tell(health(True, at=1), task(S.DEAD, at=2))
    assert world.one().health is H.UNKNOWN
    world.tell(task(S.RUNNING, 2, at=3), health(False, at=2))
    assert world.one().health is H.UNKNOWN
    world.tell(health(True, at=4))
    assert world.one().health is H.HEALTHY


def test_a_verdict_may_overtake_the_report_of_its_incarnation() -> None:
    world = World(instance())
    world.tell(task(S.DEAD, at=1), health(True, at=4), task(S.RUNNING, 2, at=3))
    assert world.one().health is H.HEALTHY


def test_a_verdict_between_two_reports_of_one_incarnation_counts_in_any_order() -> None:
    world = World(instance())
    world.tell(task(S.RUNNING, 2, at=7), health(False, at=6))
    assert world.one().health is H.UNKNOWN
    world.tell(task(S.RUNNING, 2, at=5))
    assert world.one().health is H.UNHEALTHY


def test_without_stamps_verdicts_count_in_the_order_they_come() -> None:
    world = World(instance())
    world.tell(health(True))
    assert world.one().health is H.HEALTHY
    world.tell(task(S.RUNNING, 2))
    assert world.one().health is H.UNKNOWN
    world.tell(health(False))
    assert world.one().health is H.UNHEALTHY


def test_a_new_instance_of_an_app_without_checks_has_no_health() -> None:
    world = World()
    world.list(of=app(checked=False))
    world.tell(task(S.RUNNING, at=1), health(True, at=2))
    assert world.one().health is H.UNKNOWN


def test_a_late_verdict_loses() -> None:
    world = World(instance())
    world.tell(health(False, at=5), health(True, at=4))
    assert world.one().health is H.UNHEALTHY


def test_an_app_without_checks_has_no_health() -> None:
    world = World(instance(health=H.HEALTHY))
    dirty = world.list(instance(), of=app(checked=False))
    assert (world.one().health, dirty.keys) == (H.UNKNOWN, {ONE})
    world.list(instance(), of=app(checked=True))
    assert world.one().health is H.HEALTHY


# -- any order of the events ends in the same state


@dataclass
class Told:
    """A life of one instance as Marathon tells it, event by event, with the end that is true."""

    events: list[Event]
    state: State
    incarnation: int
    health: Health


def life(chance: random.Random) -> Told:
    """A random life that follows Marathon's habits: in place relaunch, health, silence of the agent."""
    told = Told([], S.RUNNING, 1, H.UNKNOWN)
    clock = iter(range(1, 60))

    def say(state: State, reported: bool = True) -> None:
        at = next(clock)
        if reported:
            told.events.append(task(state, told.incarnation, at))
        told.events.append(condition(state, at))
        told.state = state

    say(S.RUNNING)
    for _ in range(chance.randrange(6)):
        step = chance.choice(["die", "silence", "health"]) if told.state is S.RUNNING else "recover"
        if step == "die":
            say(S.DEAD)
            told.health = H.UNKNOWN
        elif step == "silence":
            say(S.UNREACHABLE)
            if chance.random() < 0.5:
                say(S.INACTIVE, reported=False)
        elif step == "health":
            told.health = chance.choice([H.HEALTHY, H.UNHEALTHY])
            told.events.append(health(told.health is H.HEALTHY, next(clock)))
            if chance.random() < 0.5:
                told.events.append(task(S.RUNNING, told.incarnation, next(clock)))  # as Mesos checks do
        elif told.state is S.DEAD:
            told.incarnation += 1
            told.events.append(condition(S.STARTING, next(clock)))
            say(S.RUNNING)
        else:
            say(S.RUNNING)
    return told


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10_000_000).map(random.Random))
def test_no_order_of_the_events_changes_the_end(chance: random.Random) -> None:
    told = life(chance)
    shuffled = [*told.events, *chance.sample(told.events, k=chance.randrange(len(told.events)))]
    chance.shuffle(shuffled)
    world = World(instance(state=S.STARTING))
    world.tell(*shuffled)
    end = world.one()
    assert (end.state, end.incarnation, end.health) == (told.state, told.incarnation, told.health)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10_000_000).map(random.Random))
def test_lost_events_and_stale_listings_are_repaired_by_the_next_listing(chance: random.Random) -> None:
    told = life(chance)
    world = World()
    for event in told.events:
        if chance.random() < 0.5:
            world.tell(event)
        if chance.random() < 0.2:
            begun = world.now - chance.uniform(0, 5)
            n = chance.randint(1, told.incarnation)
            world.view.apply_app(listing(instance(n=n, state=S.STARTING), begun=begun), world.now)
    listed = instance(n=told.incarnation, state=told.state, health=told.health)
    world.snap(listed)
    end = world.one()
    assert (end.state, end.incarnation) == (told.state, told.incarnation)
    assert told.health is H.UNKNOWN or end.health is told.health
