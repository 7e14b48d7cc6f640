"""How facts merge: the case table of `entry`, the absence rules of `view`, and order independence."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.controller.events import (
    AppsChanged,
    AppTerminated,
    Event,
    HealthReported,
    InstanceReported,
    SchedulerChanged,
    TaskReported,
)
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import Dirty, View
from mooring.core.model import App, AppId, Health, HostName, Instance, InstanceId, Port, State, TaskId

WEB = AppId("/web")
ONE = InstanceId("web.instance-1")
HOST = HostName("agent-1")
S, H = State, Health


def app(id: AppId = WEB, **changes: object) -> App:
    return replace(App(id, 1, {}, checked=True), **changes)  # type: ignore[arg-type]


def instance(
    id: InstanceId = ONE,
    n: int = 1,
    state: State = S.RUNNING,
    health: Health = H.UNKNOWN,
    of: AppId = WEB,
    host: HostName | None = HOST,
) -> Instance:
    return Instance(id, n, TaskId(f"{id}._app.{n}"), of, host, state, health, (31000,), "v1")


def task(state: State, n: int = 1, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> TaskReported:
    return TaskReported(id, n, TaskId(f"{id}._app.{n}"), of, state, HOST, (31000,), "v1", stamp(at))


def condition(state: State, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> InstanceReported:
    return InstanceReported(id, of, state, HOST, stamp(at))


def health(healthy: bool | None, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> HealthReported:
    return HealthReported(id, of, healthy, stamp(at))


def stamp(at: int) -> str:
    return f"2020-05-22T13:04:{at:02d}.000Z" if at else ""


def listing(*instances: Instance, begun: float, of: App | None = None) -> AppListing:
    return AppListing(WEB, of or app(), instances, begun)


def snapshot(*instances: Instance, begun: float, apps: tuple[App, ...] = (), **more: object) -> Snapshot:
    known = {known.id: known for known in (*apps, *(app(instance.app) for instance in instances))}
    known |= {known.id: known for known in apps}
    listings = {
        id: AppListing(id, known[id], tuple(i for i in instances if i.app == id), begun) for id in known
    }
    return Snapshot(begun, listings, **more)  # type: ignore[arg-type]


class World:
    """A view, and a clock that moves by one second with each event."""

    def __init__(self, *known: Instance) -> None:
        self.view = View()
        self.now = 100.0
        self.view.apply_snapshot(snapshot(*known, begun=self.now, apps=(app(),)), self.now)

    def tell(self, *events: Event) -> Dirty:
        dirty = Dirty()
        for event in events:
            self.now += 1
            dirty.merge(self.view.apply_event(event, self.now))
        return dirty

    def list(self, *instances: Instance, of: App | None = None) -> Dirty:
        self.now += 1
        return self.view.apply_app(listing(*instances, begun=self.now, of=of), self.now + 0.5)

    def snap(self, *instances: Instance, after: float = 1.0, **more: object) -> Dirty:
        self.now += after
        return self.view.apply_snapshot(snapshot(*instances, begun=self.now, **more), self.now + 0.5)  # type: ignore[arg-type]

    def one(self, id: InstanceId = ONE) -> Instance:
        found = self.view.instance(id)
        assert found is not None
        return found

    @property
    def state(self) -> State:
        return self.one().state


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
    world.view.apply_app(listing(begun=begun), world.now)
    assert world.state is not S.GONE


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
    assert not world.view._entries
    assert not world.view._members


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


# -- the brake


def many(count: int) -> list[Instance]:
    return [instance(InstanceId(f"web.instance-{i}")) for i in range(count)]


@pytest.mark.parametrize(
    ("known", "missing", "held"),
    [(10, 4, True), (10, 3, False), (9, 9, False), (100, 31, True), (100, 30, False), (10, 10, True)],
)
def test_too_many_absent_at_once_are_held(known: int, missing: int, held: bool) -> None:
    world = World(*many(known))
    rest = many(known)[missing:]
    for _ in range(3):
        world.snap(*rest, after=61)
    gone = [found for found in world.view.instances() if found.state is S.GONE]
    assert (world.view.brake is not None) == held
    assert len(world.view.held) == (missing if held else 0)
    assert len(gone) == (0 if held else missing)


def test_release_lets_the_held_go() -> None:
    world = World(*many(12))
    world.snap()
    assert world.view.brake == "12 of 12 instances are missing from Marathon's listing without having ended"
    dirty = world.view.release(world.now)
    assert len(dirty.keys) == 12
    assert world.view.brake is None
    assert {found.state for found in world.view.instances()} == {S.GONE}
    assert world.view.release(world.now) == Dirty()


def test_the_brake_goes_off_when_everything_is_back() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    world.snap(*many(11), after=61)
    assert world.view.brake is not None
    world.snap(*many(12))
    assert world.view.brake is None


def test_evidence_is_never_braked() -> None:
    world = World(*many(20))
    world.tell(*(task(S.DEAD, id=each.id) for each in many(20)))
    world.list()
    assert world.view.brake is None
    assert {found.state for found in world.view.instances()} == {S.GONE}


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
