"""What a listing changes, what absence from it means, and the brake."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mooring.controller.events import (
    AppsChanged,
    AppTerminated,
    Event,
)
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import Dirty, View
from mooring.core.model import AppId, HostName, InstanceId, Port, State
from tests.unit.view_world import (
    HOST,
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
    snapshot,
    task,
)

# -- listings


def test_a_listing_never_overrides_what_came_after_it_began() -> None:
    world = World(instance(state=S.STARTING))
    begun = world.now + 0.5
    world.tell(task(S.RUNNING))
    world.view.apply_app(listing(instance(state=S.STARTING), begun=begun), world.now)
    assert world.state is S.RUNNING
    world.view.apply_app(listing(begun=begun), world.now)
    assert world.state is S.RUNNING


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([task(S.RUNNING, at=6), task(S.DEAD, at=5)], id="late-end"),
        pytest.param([task(S.DEAD)], id="end"),
        pytest.param([condition(S.INACTIVE)], id="inactive"),
        pytest.param([AppTerminated(WEB)], id="app-terminated"),
    ],
)
def test_absence_from_a_listing_begun_before_the_evidence_says_nothing(events: list[Event]) -> None:
    world = World(instance())
    for event in events:
        begun = world.now + 0.5
        world.tell(event)
    dirty = world.view.apply_app(listing(begun=begun), world.now)
    assert world.state is not S.GONE
    assert dirty.apps_to_refresh == {WEB}


def test_an_old_listing_without_a_living_instance_is_no_reason_to_ask_again() -> None:
    world = World()
    begun = world.now + 0.5
    world.tell(task(S.RUNNING))
    assert world.view.apply_app(listing(begun=begun), world.now).apps_to_refresh == set()


def test_a_listing_begun_before_a_verdict_does_not_override_it() -> None:
    world = World(instance(health=H.HEALTHY))
    begun = world.now + 0.5
    world.tell(health(False))
    world.view.apply_app(listing(instance(health=H.HEALTHY), begun=begun), world.now)
    assert world.one().health is H.UNHEALTHY


def test_a_condition_without_a_host_keeps_the_one_known() -> None:
    world = World(instance())
    world.tell(replace(condition(S.KILLING), host=None))
    assert world.one().host == HOST
    world.tell(replace(task(S.RUNNING, 2), host=None))
    assert world.one().host is None
    world.tell(condition(S.KILLING))
    assert world.one().host == HOST


def test_an_older_listing_loses_to_a_newer_one() -> None:
    world = World()
    world.view.apply_app(listing(instance(n=2), begun=200), 201)
    world.view.apply_app(listing(instance(n=2, state=S.STARTING), begun=199), 202)
    world.view.apply_app(listing(begun=199), 203)
    assert (world.state, world.view.brake) == (S.RUNNING, None)
    world.view.apply_app(listing(instance(n=2, state=S.KILLING), begun=210), 211)
    world.view.apply_app(listing(instance(n=2), begun=205), 212)
    assert world.state is S.KILLING


def test_a_condition_may_overtake_the_report_of_its_incarnation() -> None:
    world = World(instance())
    world.tell(task(S.DEAD, at=1), condition(S.INACTIVE, at=5), task(S.RUNNING, 2, at=3))
    assert (world.state, world.one().incarnation) == (S.INACTIVE, 2)
    world.list()
    assert world.state is S.GONE


def test_a_listing_repairs_what_events_missed() -> None:
    world = World(instance(state=S.STARTING))
    assert world.snap(instance(host=HostName("agent-2"))).keys == {ONE}
    assert (world.state, world.one().host) == (S.RUNNING, "agent-2")


def test_a_listing_brings_a_new_incarnation() -> None:
    world = World(instance(health=H.HEALTHY))
    world.tell(health(True, at=5))
    world.snap(instance(n=2))
    assert (world.one().incarnation, world.one().task, world.one().health) == (2, f"{ONE}._app.2", H.UNKNOWN)
    world.snap(instance(n=1))
    assert world.one().incarnation == 2


def test_a_listing_does_not_raise_the_dead() -> None:
    world = World(instance())
    world.tell(task(S.DEAD))
    world.snap(instance())
    assert world.state is S.DEAD


@pytest.mark.parametrize("listed", [S.DEAD, None])
def test_after_the_end_a_listing_tells_whether_a_relaunch_follows(listed: State | None) -> None:
    world = World(instance())
    assert world.tell(task(S.DEAD)).apps_to_refresh == {WEB}
    world.list(*([instance(state=S.DEAD)] if listed else []))
    assert world.state is (S.DEAD if listed else S.GONE)
    world.list()
    assert world.state is S.GONE


def test_an_unchanged_snapshot_is_not_dirty() -> None:
    world = World(instance())
    assert world.view.complete
    assert world.snap(instance()) == Dirty()


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"MOORING_POOL": "p"}},
        {"ports": (Port(80, 10080),)},
        {"over_capacity": 0.0},
        {"checked": False},
    ],
)
def test_a_changed_app_makes_its_instances_dirty(change: dict[str, object]) -> None:
    world = World(instance())
    changed = app(**change)
    assert world.list(instance(), of=changed).keys == {ONE}
    assert world.view.app(WEB) == changed


def test_scaling_makes_no_instance_dirty() -> None:
    world = World(instance())
    assert world.list(instance(), of=app(instances=7, version="v2")).keys == set()
    assert world.view.app(WEB) == app(instances=7, version="v2")


# -- how an instance goes


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([task(S.DEAD)], id="ended"),
        pytest.param([condition(S.DEAD)], id="terminal-condition"),
        pytest.param([task(S.UNREACHABLE), condition(S.INACTIVE)], id="inactive"),
        pytest.param([AppTerminated(WEB)], id="app-terminated"),
        pytest.param([condition(S.STARTING, at=1), task(S.DEAD, at=2)], id="last-word-is-the-end"),
    ],
)
def test_evidence_lets_absence_count_at_once(events: list[Event]) -> None:
    world = World(instance())
    assert WEB in world.tell(*events).apps_to_refresh
    assert world.list().keys == {ONE}
    assert world.state is S.GONE


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([], id="nothing-known"),
        pytest.param([task(S.UNREACHABLE)], id="unreachable"),
        pytest.param([task(S.DEAD, at=1), condition(S.STARTING, at=2)], id="relaunch-promised"),
        pytest.param([condition(S.STARTING, at=2), task(S.DEAD, at=1)], id="promised-before-late-end"),
        pytest.param([condition(S.DEAD, at=1), condition(S.RUNNING, at=2)], id="evidence-withdrawn"),
    ],
)
def test_without_evidence_absence_needs_two_agreeing_listings(events: list[Event]) -> None:
    world = World(instance())
    world.tell(*events)
    before = world.state
    world.snap()
    world.snap(after=30)
    assert world.state is before
    world.snap(after=31)
    assert world.state is S.GONE


def test_an_instance_listed_again_starts_its_minute_anew() -> None:
    world = World(instance())
    world.snap()
    world.snap(instance(), after=30)
    world.snap(after=31)
    world.snap(after=59)
    assert world.state is S.RUNNING
    world.snap(after=2)
    assert world.state is S.GONE


def test_only_a_listing_of_its_own_app_confirms_an_absence() -> None:
    world = World(instance())
    world.snap()
    other = AppId("/other")
    world.view.apply_app(AppListing(other, app(other), (), world.now + 100), world.now + 101)
    assert world.state is S.RUNNING


def test_an_app_that_is_not_found_ends_what_had_ended() -> None:
    world = World(instance(), instance(InstanceId("web.instance-2")))
    world.tell(task(S.DEAD))
    world.view.apply_app(AppListing(WEB, None, (), world.now + 1), world.now + 2)
    assert world.state is S.GONE
    assert world.one(InstanceId("web.instance-2")).state is S.RUNNING
    assert world.view.app(WEB) is not None


def test_a_deleted_app_is_dropped_with_its_last_instance() -> None:
    world = World(instance())
    world.tell(AppTerminated(WEB))
    world.view.apply_app(AppListing(WEB, None, (), world.now + 1), world.now + 2)
    assert world.view.app(WEB) is not None
    world.view.forget(ONE)
    assert (world.view.app(WEB), world.view.apps(), world.view.instances()) == (None, [], [])


def test_an_app_that_is_created_again_stays() -> None:
    world = World(instance())
    world.tell(AppTerminated(WEB))
    world.view.apply_app(AppListing(WEB, None, (), world.now + 1), world.now + 2)
    world.list()
    world.view.forget(ONE)
    assert world.view.app(WEB) is not None


def test_a_changed_app_does_not_wake_the_forgotten() -> None:
    world = World(instance())
    world.tell(task(S.DEAD))
    world.list()
    world.view.forget(ONE)
    assert world.list(of=app(labels={"new": "label"})).keys == set()


def test_pod_instances_count_as_present() -> None:
    world = World(instance())
    world.view.apply_snapshot(Snapshot(200, {}, {AppId("/pod"): frozenset({ONE})}), 201)
    world.view.apply_snapshot(Snapshot(300, {}, {AppId("/pod"): frozenset({ONE})}), 301)
    assert world.state is S.RUNNING


def test_forget_is_for_the_gone_only_and_late_echoes_stay_unheard() -> None:
    world = World(instance())
    world.view.forget(ONE)
    assert world.state is S.RUNNING
    world.tell(task(S.DEAD, at=5))
    world.list()
    world.view.forget(ONE)
    world.snap(apps=(app(),))
    assert world.view.instance(ONE) is None
    assert world.tell(task(S.RUNNING, at=4), health(True, at=6), condition(S.DEAD, at=5)).keys == set()
    assert world.view.instance(ONE) is None
    world.tell(task(S.RUNNING, 2, at=7))
    assert world.state is S.RUNNING


def test_an_echo_is_remembered_for_a_while_only() -> None:
    world = World(instance())
    world.tell(task(S.DEAD))
    world.list()
    world.view.forget(ONE)
    world.snap(after=700)
    assert world.view._index.remembered() == 0


def test_old_echoes_go_with_the_next_one() -> None:
    two = InstanceId("web.instance-2")
    world = World(instance(), instance(two))
    world.tell(task(S.DEAD), task(S.DEAD, id=two))
    world.list()
    world.view.forget(ONE)
    world.now += 601
    world.tell(health(None))
    world.view.forget(two)
    assert world.view._index.remembered() == 1


def test_an_app_that_is_listed_is_no_pod() -> None:
    world = World(instance())
    world.tell(AppsChanged((), (WEB,)))
    world.tell(task(S.KILLING))
    assert world.state is S.RUNNING
    world.list(instance())
    world.tell(task(S.KILLING))
    assert world.state is S.KILLING


def test_a_listing_may_bring_back_what_was_only_absent() -> None:
    world = World(instance())
    world.snap(apps=(app(),))
    world.snap(after=61, apps=(app(),))
    world.view.forget(ONE)
    assert world.tell(task(S.RUNNING, at=9)).apps_to_refresh == {WEB}
    assert world.view.instance(ONE) is None
    world.list(instance(state=S.DEAD))
    assert world.view.instance(ONE) is None
    world.tell(task(S.RUNNING, 2, at=10))
    assert world.state is S.RUNNING


@pytest.mark.parametrize("live", [S.RUNNING, S.UNREACHABLE])
@pytest.mark.parametrize("forgotten", [True, False])
def test_a_listing_may_take_back_an_absence(live: State, forgotten: bool) -> None:
    world = World(instance())
    world.snap()
    world.snap(after=61)
    assert world.state is S.GONE
    if forgotten:
        world.view.forget(ONE)
    world.list(instance(state=live))
    assert world.state is live


@pytest.mark.parametrize("listed", [S.DEAD, S.INACTIVE])
def test_what_was_listed_as_ended_or_inactive_may_be_absent(listed: State) -> None:
    world = World(instance(), instance(InstanceId("web.instance-2")))
    world.snap(instance(state=listed), instance(InstanceId("web.instance-2"), state=listed))
    world.list(instance())
    assert world.state is (S.DEAD if listed is S.DEAD else S.RUNNING)
    assert world.one(InstanceId("web.instance-2")).state is S.GONE
    world.list()
    assert world.state is (S.GONE if listed is S.DEAD else S.RUNNING)


def test_restored_instances_are_judged_like_any_other() -> None:
    view = View()
    view.restore([instance(), instance(InstanceId("b"))])
    assert not view.complete
    view.apply_snapshot(snapshot(instance(), begun=10), 11)
    view.apply_snapshot(snapshot(instance(), begun=71), 72)
    assert [(found.id, found.state) for found in view.instances()] == [(ONE, S.RUNNING), ("b", S.GONE)]
