"""Apps that listings lack: absent, held, being deleted, deleted."""

from __future__ import annotations

import pytest

from mooring.controller.events import AppsChanged, AppTerminated, Event, TaskReported
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import View
from mooring.core.model import AppId, InstanceId, State
from tests.unit.small_house import House
from tests.unit.view_world import (
    WEB,
    S,
    World,
    app,
    condition,
    ended,
    health,
    instance,
    many,
    snapshot,
    states,
    task,
)

ZERO, OTHER = AppId("/zero"), AppId("/other")
BOTH = (app(), app(ZERO))


def world_with_zero(count: int = 3) -> World:
    """One app with instances, and one that is scaled to zero."""
    world = World(*many(count))
    world.snap(*many(count), apps=BOTH)
    return world


# -- without a word about it


def test_an_app_is_missed_like_an_instance() -> None:
    world = world_with_zero()
    for after in (1, 59):
        world.snap(*many(3), after=after)
        assert (world.view.knows(ZERO), world.view.is_deleted(ZERO)) == (True, False)
    world.snap(*many(3), after=1)
    assert (world.view.knows(ZERO), world.view.app(ZERO), world.view.brake) == (False, None, None)


def test_an_app_with_instances_is_deleted_with_them_and_not_before() -> None:
    world = World(*many(3), *many(20, OTHER))
    rest = {"apps": (app(OTHER),)}
    world.snap(*many(20, OTHER), **rest)
    world.tell(*ended(many(1)[0]))
    world.snap(*many(20, OTHER), after=30, **rest)
    assert (states(world.view).count(S.GONE), world.view.is_deleted(WEB)) == (1, False)
    world.snap(*many(20, OTHER), after=30, **rest)
    assert (states(world.view).count(S.GONE), world.view.is_deleted(WEB)) == (3, True)


def test_listings_of_the_app_alone_count() -> None:
    world = world_with_zero()
    world.missing(ZERO)
    world.missing(ZERO, after=59)
    assert world.view.app(ZERO) == app(ZERO)
    world.missing(ZERO)
    assert world.view.app(ZERO) is None


@pytest.mark.parametrize("seen", ["listed", "listed-alone", "deployed", "task", "condition", "verdict"])
def test_an_app_that_was_seen_between_two_listings_is_not_deleted(seen: str) -> None:
    world = world_with_zero()
    world.snap(*many(3))
    new = InstanceId("zero.instance-0")
    world.now += 30
    match seen:
        case "listed":
            world.snap(*many(3), apps=BOTH)
        case "listed-alone":
            world.view.apply_app(AppListing(ZERO, app(ZERO), (), world.now), world.now)
        case "deployed":
            world.tell(AppsChanged((ZERO,)))
        case "task":
            world.tell(task(S.RUNNING, id=new, of=ZERO))
        case "condition":
            world.tell(condition(S.RUNNING, id=new, of=ZERO))
        case "verdict":
            world.tell(health(True, id=new, of=ZERO))
    world.snap(*many(3), after=40)
    world.snap(*many(3), after=59)
    assert world.view.app(ZERO) == app(ZERO)
    world.snap(*many(3), after=1)
    assert world.view.is_deleted(ZERO) or world.view.app(ZERO) is None


def test_a_listing_that_began_before_an_app_was_heard_of_says_nothing() -> None:
    world = world_with_zero()
    begun = world.now + 0.5
    world.tell(AppsChanged((ZERO,)))
    world.view.apply_app(AppListing(ZERO, None, (), begun), world.now)
    world.missing(ZERO, after=60)
    assert world.view.app(ZERO) == app(ZERO)


def test_half_a_listing_neither_deletes_the_seats_app_nor_one_without_instances() -> None:
    world = World(*many(8), *many(12, OTHER))
    world.snap(*many(8), *many(12, OTHER), apps=(*BOTH, app(OTHER)))
    for _ in range(5):
        world.snap(*many(8), after=61)
    world.tell(*ended(many(1, OTHER)[0]))
    world.missing(OTHER, ZERO, after=61)
    assert world.view.brake == (
        "12 of 20 instances and 2 apps are missing from Marathon's listing without having ended"
    )
    assert world.view.held_apps == {ZERO, OTHER}
    assert states(world.view).count(S.GONE) == 1
    assert [world.view.is_deleted(each) for each in (ZERO, OTHER)] == [False, False]
    world.snap(*many(8), *many(12, OTHER)[1:], apps=(*BOTH, app(OTHER)))
    assert (world.view.brake, world.view.held_apps) == (None, frozenset())
    assert len(world.view.apps()) == 3


def test_with_the_brake_on_for_others_a_deletion_that_is_told_passes() -> None:
    world = World(*many(8), *many(12, OTHER))
    world.snap(*many(8), *many(12, OTHER), apps=(*BOTH, app(OTHER)))
    world.snap(*many(8))
    assert world.view.held_apps == {ZERO, OTHER}
    world.tell(AppTerminated(ZERO))
    world.snap(*many(8))
    assert (world.view.held_apps, world.view.knows(ZERO)) == ({OTHER}, False)


def test_release_deletes_the_held_apps_but_not_those_heard_of_meanwhile() -> None:
    world = World(*many(8), *many(12, OTHER))
    third = AppId("/third")
    world.snap(*many(8), *many(12, OTHER), apps=(*BOTH, app(OTHER), app(third)))
    world.snap(*many(8))
    world.tell(AppsChanged((third,)))
    world.view.release(world.now)
    assert (world.view.is_deleted(OTHER), world.view.knows(ZERO)) == (True, False)
    assert (world.view.app(third), world.view.held_apps) == (app(third), frozenset())
    world.snap(*many(8))
    world.snap(*many(8), after=59)
    assert world.view.app(third) == app(third)
    world.snap(*many(8), after=1)
    assert world.view.app(third) is None


def test_what_was_known_before_a_restart_is_missed_too() -> None:
    view = View()
    view.restore(many(2), [ZERO])
    for begun, known in ((10, True), (69, True), (70, False)):
        view.apply_snapshot(snapshot(*many(12, OTHER), begun=begun), begun)
        assert (view.knows(ZERO), view.is_deleted(WEB)) == (known, not known)
    for each in many(2):
        view.forget(each.id)
    assert not view.knows(WEB)
    again = View()
    again.restore([], [ZERO])
    again.apply_snapshot(Snapshot(10, {}), 11)
    assert (again.brake is not None, again.knows(ZERO)) == (True, True)


def test_apps_that_come_and_go_leave_nothing_behind() -> None:
    world = World()
    names = [AppId(f"/a/{k}") for k in range(60)]
    for _ in range(3):
        world.snap(*(each for of in names for each in many(1, of)), apps=tuple(app(of) for of in names))
        world.tell(AppsChanged(tuple(names), (), tuple(names[:20])), AppsChanged((AppId("/never"),)))
        world.tell(AppsChanged(tuple(names[:10]), (), (), kept=tuple(names[:10])))
        world.tell(*(AppTerminated(of) for of in names[20:40]))
        world.tell(*ended(*(each for of in names[:50] for each in many(1, of))))
        world.missing(*names, AppId("/never"))
        world.snap()
        world.view.release(world.now)
        for _ in range(3):
            world.snap(after=61)
        assert world.view.held == frozenset()
        for found in world.view.instances():
            world.view.forget(found.id)
        world.snap()
    kept = {name: len(held) for name, held in vars(world.view._apps).items() if hasattr(held, "__len__")}
    assert {name: count for name, count in kept.items() if count} == {"_apps": 1}


def test_the_reason_names_the_most_apps_that_were_held() -> None:
    world = World(*many(8), *many(12, OTHER))
    world.snap(*many(8), *many(12, OTHER), apps=(*BOTH, app(OTHER)))
    world.snap(*many(8), apps=BOTH)
    since, before = world.view.brake_since, world.view.brake
    assert before == "12 of 20 instances and 1 app are missing from Marathon's listing without having ended"
    world.snap(*many(8))
    worst = world.view.brake
    assert worst == "12 of 20 instances and 2 apps are missing from Marathon's listing without having ended"
    world.snap(*many(8), apps=BOTH)
    assert (world.view.brake, world.view.brake_since) == (worst, since)


def test_an_abandoned_snapshot_deletes_no_app() -> None:
    view = View(step=1)
    view.apply_snapshot(snapshot(*many(4), begun=10, apps=(*BOTH, app(OTHER))), 10)
    view.apply_snapshot(snapshot(*many(4), begun=20), 20)
    steps = view.merge_snapshot(snapshot(*many(4), begun=90), lambda: 90.0)
    while not view._confirmed_apps:
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    view.apply_app(AppListing(WEB, app(), tuple(many(4)), 91), 91)
    assert view.knows(ZERO)
    view.apply_snapshot(snapshot(*many(4), begun=92), 92)
    assert not view.knows(ZERO)


@pytest.mark.parametrize("state", [State.DEAD, State.KILLING])
async def test_who_does_not_run_gets_no_traffic_although_nothing_is_known_of_its_app(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start, say, while Marathon lists the app in a way that cannot be read."""
    it = await House().open(2)
    assert {member.state for member in it.proxy.members.values()} == {"up"}
    monkeypatch.setattr(it.engine.view, "app", lambda app: None)
    ended = it.binding()
    it.clock.step(1)
    told = TaskReported(ended.instance, 1, ended.task, ended.app, state, ended.host, (31000,), "v1", "t")
    it.engine.view.apply_event(told, it.clock.monotonic())
    for key in (ended.id, it.binding(1).id):
        it.engine.queue.add(key)
    await it.work()
    states = {end.address: one.state for one in it.proxy.members.values() for end in one.endpoints}
    stays = it.binding(1).address
    assert states.pop(str(stays)) == "up"
    assert list(states.values()) == ["drain" if state is State.KILLING else "declared"]
    assert [(item.slot, item.status) for item in it.cmdb.live.values()] == [(0, "down"), (1, "live")]


# -- under an empty listing


def test_an_app_that_was_heard_of_since_an_empty_listing_began_is_not_missing() -> None:
    world = World()
    begun = world.now + 0.5
    world.tell(AppsChanged((WEB,)))
    world.view.apply_snapshot(Snapshot(begun, {}), world.now)
    assert (world.view.brake, world.view.held_apps) == (None, frozenset())


def test_an_empty_listing_holds_apps_without_instances() -> None:
    world = World()
    world.empty()
    assert world.view.brake is not None
    assert world.view.apps() == [app()]
    world.snap()
    assert (world.view.brake, world.view.apps()) == (None, [app()])
    world.empty()
    world.view.release(world.now)
    assert (world.view.brake, world.view.apps()) == (None, [])
    world.empty()
    assert world.view.brake is None


def test_an_app_that_is_asked_for_alone_and_not_found_stays_held() -> None:
    world = World()
    world.empty()
    world.missing(WEB, after=61)
    assert (world.view.brake is not None, world.view.apps()) == (True, [app()])


def test_a_listing_with_pods_alone_is_empty() -> None:
    world = World(*many(3))
    for _ in range(3):
        world.now += 61
        pods = {AppId("/pod"): frozenset({InstanceId("p")})}
        world.view.apply_snapshot(Snapshot(world.now, {}, pods), world.now)
    assert states(world.view) == [S.RUNNING] * 3
    assert world.view.brake == (
        "Marathon's listing is empty, but 3 of 3 instances and 1 app are known that have not ended"
    )


def test_a_listing_with_an_app_that_cannot_be_read_is_not_empty() -> None:
    world = world_with_zero()
    for after in (1, 60):
        world.now += after
        world.view.apply_snapshot(Snapshot(world.now, {}, {}, unreadable={WEB: "torn"}), world.now)
    assert (world.view.brake, world.view.knows(ZERO), set(states(world.view))) == (None, False, {S.RUNNING})


# -- a deletion that is told


GROUP = [AppId(f"/group/{k}") for k in range(4)]


def group() -> World:
    world = World(*many(2))
    every = [each for of in GROUP for each in many(5, of)]
    world.snap(*many(2), *every)
    return world


@pytest.mark.parametrize("everything", [False, True], ids=["others-stay", "nothing-is-left"])
@pytest.mark.parametrize("order", ["ends-first", "terminated-first"])
def test_a_group_deletion_passes_at_once(everything: bool, order: str) -> None:
    world = group()
    gone = [*GROUP, WEB] if everything else GROUP
    ends = ended(*(each for of in gone for each in world.view.instances_of(of)))
    terminated: list[Event] = [AppTerminated(of) for of in gone]
    world.tell(*(ends + terminated if order == "ends-first" else terminated + ends))
    if everything:
        world.empty()
    else:
        world.snap(*many(2))
    assert (world.view.brake, states(world.view).count(S.GONE)) == (None, 22 if everything else 20)


@pytest.mark.parametrize("whole", [True, False], ids=["snapshot", "app-by-app"])
def test_a_group_being_deleted_is_not_held_and_keeps_its_instances_until_they_end(
    whole: bool,
) -> None:
    """Marathon stops listing an app when its deletion begins, and its tasks take their time to end."""

    def look(world: World) -> None:
        if whole:
            world.snap(*many(2))
        else:
            world.missing(*GROUP)

    world = group()
    world.tell(AppsChanged(tuple(GROUP), (), tuple(GROUP)))
    look(world)
    assert (world.view.brake, set(states(world.view))) == (None, {S.RUNNING})
    world.tell(*ended(*(each for of in GROUP for each in world.view.instances_of(of))))
    look(world)
    assert (world.view.brake, states(world.view).count(S.GONE)) == (None, 20)


def deletion_with_missed_ends(*, braked: bool = False, lost: bool) -> World:
    """The group is said to be deleted, and listed no more; then two listings, a minute apart, agree."""
    world = group()
    others = [instance(InstanceId(f"o.{k}"), of=OTHER) for k in range(30)]
    stay = [*many(2), *others[: 10 if braked else 30]]
    known = (app(), app(OTHER))
    world.snap(*many(2), *others, *(each for of in GROUP for each in many(5, of)))
    world.tell(AppsChanged(tuple(GROUP), (), tuple(GROUP)))
    world.snap(*stay, apps=known)
    if lost:
        world.view.lost(world.now)
    world.snap(*stay, after=30, apps=known)
    world.snap(*stay, after=59, apps=known)
    assert {found.state for of in GROUP for found in world.view.instances_of(of)} == {S.RUNNING}
    world.snap(*stay, after=1, apps=known)
    assert (world.view.brake is not None) is braked
    return world


@pytest.mark.parametrize("braked", [False, True], ids=["brake-off", "brake-on"])
def test_where_the_ends_of_a_deleted_group_were_missed_two_later_listings_are_enough(braked: bool) -> None:
    world = deletion_with_missed_ends(braked=braked, lost=True)
    assert {found.state for of in GROUP for found in world.view.instances_of(of)} == {S.GONE}
    assert {found.state for found in world.view.instances_of(OTHER)} == {S.RUNNING}


def test_while_the_ends_of_a_deleted_group_may_still_be_told_they_are_waited_for() -> None:
    """Containers have a grace period to end in, and work until then."""
    world = deletion_with_missed_ends(lost=False)
    rest = [instance(InstanceId(f"o.{k}"), of=OTHER) for k in range(30)]
    world.snap(*many(2), *rest, after=500, apps=(app(), app(OTHER)))
    assert {found.state for of in GROUP for found in world.view.instances_of(of)} == {S.RUNNING}
    world.snap(*many(2), *rest, after=10, apps=(app(), app(OTHER)))
    assert {found.state for of in GROUP for found in world.view.instances_of(of)} == {S.GONE}


def test_a_deletion_that_is_said_again_after_an_interruption_is_waited_for_no_longer() -> None:
    world = group()
    told = AppsChanged(tuple(GROUP), (), tuple(GROUP))
    world.tell(told)
    world.view.attached(world.now)
    world.tell(told)
    world.snap(*many(2))
    world.snap(*many(2), after=60)
    assert {found.state for of in GROUP for found in world.view.instances_of(of)} == {S.GONE}


@pytest.mark.parametrize("before", [False, True], ids=["never-begun", "called-off"])
def test_a_deletion_that_failed_explains_nothing(before: bool) -> None:
    world = group()
    if before:
        world.tell(AppsChanged(tuple(GROUP), (), stopped=tuple(GROUP)))
        world.snap(*many(2))
        assert world.view.is_deleted(GROUP[0])
    world.tell(AppsChanged(tuple(GROUP), (), kept=tuple(GROUP)))
    for after in (1, 61):
        world.snap(*many(2), after=after)
        assert len(world.view.held) == 20
    assert world.view.held_apps == set(GROUP)
    assert [world.view.is_deleted(of) for of in GROUP] == [False] * 4


def test_a_deletion_that_was_called_off_explains_nothing() -> None:
    world = group()
    every = [each for of in GROUP for each in many(5, of)]
    world.tell(AppsChanged(tuple(GROUP), (), tuple(GROUP)))
    world.snap(*many(2))
    world.snap(*many(2), *every)
    world.snap(*many(2))
    assert len(world.view.held) == 20


def test_an_empty_listing_is_believed_of_what_is_being_deleted() -> None:
    world = World(*many(3))
    world.tell(AppsChanged((WEB,), (), (WEB,)))
    world.empty()
    assert (world.view.brake, set(states(world.view))) == (None, {S.RUNNING})
    world.tell(*ended(*many(3)))
    world.empty()
    assert (world.view.brake, set(states(world.view))) == (None, {S.GONE})


def test_a_deletion_while_nobody_listened_is_held() -> None:
    world = group()
    world.view.attached(world.now)
    world.snap(*many(2))
    world.snap(*many(2), after=61)
    assert len(world.view.held) == 20
