"""The brake: its table, and what it holds and lets go in a view."""

from __future__ import annotations

import pytest

from mooring.controller.brake import Absence, Brake, Limits, judge
from mooring.controller.events import AppsChanged, Event
from mooring.controller.view import Dirty
from mooring.core.model import AppId, InstanceId
from tests.unit.view_world import (
    WEB,
    H,
    S,
    World,
    app,
    condition,
    ended,
    health,
    instance,
    many,
    states,
    task,
)

ON = Brake("because", since=5.0, most=4)


@pytest.mark.parametrize(
    ("brake", "absence", "on"),
    [
        pytest.param(None, Absence(0, 0, 100), False, id="nothing-absent"),
        pytest.param(None, Absence(0, 1, 1, empty=True), True, id="empty"),
        pytest.param(None, Absence(0, 0, 0, apps=1, empty=True), True, id="empty-without-instances"),
        pytest.param(None, Absence(0, 0, 0, empty=True), False, id="empty-and-nothing-known"),
        pytest.param(None, Absence(0, 4, 10), True, id="more-than-the-share"),
        pytest.param(None, Absence(0, 3, 10), False, id="the-share"),
        pytest.param(None, Absence(0, 9, 9), False, id="few"),
        pytest.param(ON, Absence(0, 3, 10), False, id="none-held"),
        pytest.param(ON, Absence(0, 4, 10), True, id="none-held-and-judged-anew"),
        pytest.param(ON, Absence(1, 0, 100), True, id="one-held"),
        pytest.param(None, Absence(0, 0, 100, apps=50), False, id="apps-without-instances"),
        pytest.param(ON, Absence(0, 0, 100, held_apps=1, apps=1), True, id="an-app-held"),
    ],
)
def test_the_table(brake: Brake | None, absence: Absence, on: bool) -> None:
    assert (judge(brake, absence, Limits(), 9.0) is not None) is on


def test_the_brake_stays_the_same_until_more_are_held() -> None:
    assert judge(ON, Absence(1, 3, 100), Limits(), 9.0) is ON
    assert judge(ON, Absence(1, 3, 100, empty=True), Limits(), 9.0) is ON
    worse = judge(ON, Absence(4, 1, 100), Limits(), 9.0)
    text = "5 of 100 instances are missing from Marathon's listing without having ended"
    assert worse == Brake(text, since=5.0, most=5)


def test_a_brake_that_goes_on_again_is_a_new_one() -> None:
    again = judge(ON, Absence(0, 40, 100), Limits(), 9.0)
    assert again is not None
    assert (again.since, again.most) == (9.0, 40)


# -- in a view


@pytest.mark.parametrize(
    ("known", "missing", "held"),
    [(10, 4, True), (10, 3, False), (9, 9, False), (100, 31, True), (100, 30, False), (10, 10, True)],
)
def test_too_many_absent_at_once_are_held(known: int, missing: int, held: bool) -> None:
    world = World(*many(known))
    for _ in range(3):
        world.snap(*many(known)[missing:], after=61)
    assert (world.view.brake is not None) is held
    assert len(world.view.held) == (missing if held else 0)
    assert states(world.view).count(S.GONE) == (0 if held else missing)


def test_a_wrong_answer_does_not_become_right_by_repetition() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    reason, since = world.view.brake, world.view.brake_since
    assert reason == "6 of 12 instances are missing from Marathon's listing without having ended"
    for _ in range(20):
        assert world.snap(*many(6), after=61) == Dirty()
        assert (world.view.brake, world.view.brake_since) == (reason, since)
    assert world.view.held == {each.id for each in many(12)[6:]}
    assert set(states(world.view)) == {S.RUNNING}


def test_events_in_between_do_not_let_the_held_go() -> None:
    world = World(*many(12))
    for k in range(8):
        world.snap(*many(6), after=61)
        world.tell(
            health(k % 2 == 0, at=10 + k, id=many(12)[7].id),
            task(S.RUNNING, at=20 + k, id=many(12)[8].id),
            condition(S.RUNNING, at=20 + k, id=many(12)[9].id),
            AppsChanged((WEB,)),
        )
        world.list(*many(6))
    assert len(world.view.held) == 6
    assert S.GONE not in states(world.view)


def test_one_listing_of_an_app_may_put_the_brake_on_too() -> None:
    world = World(*many(8), *many(12, AppId("/other")))
    world.list()
    assert len(world.view.held) == 8
    world.list(*many(8))
    assert world.view.brake is None


def test_the_brake_goes_off_when_everything_is_back() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    world.snap(*many(11), after=61)
    assert world.view.brake is not None
    assert world.view.held == {many(12)[11].id}
    world.snap(*many(12))
    assert (world.view.brake, world.view.brake_since, world.view.held) == (None, None, frozenset())


def test_the_brake_goes_off_when_the_held_are_back_or_have_properly_ended() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    world.tell(*ended(*many(12)[6:9]))
    world.list(*many(6), *many(12)[9:])
    assert world.view.brake is None
    assert states(world.view).count(S.GONE) == 3


def test_what_is_missing_when_the_held_are_back_is_judged_anew() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    world.snap(*many(12)[1:])
    assert world.view.brake is None
    world.snap(*many(12)[1:], after=61)
    assert states(world.view).count(S.GONE) == 1


def test_the_reason_names_the_most_that_were_held() -> None:
    world = World(*many(12))
    world.snap(*many(8))
    since = world.view.brake_since
    world.snap(*many(2))
    assert world.view.brake == "10 of 12 instances are missing from Marathon's listing without having ended"
    world.snap(*many(8))
    assert world.view.brake == "10 of 12 instances are missing from Marathon's listing without having ended"
    assert world.view.brake_since == since


# -- an empty listing


@pytest.mark.parametrize("count", [1, 3, 50])
def test_an_empty_listing_removes_nothing_however_often_it_comes(count: int) -> None:
    world = World(*many(count))
    for _ in range(5):
        assert world.empty() == Dirty()
    assert world.view.brake == (
        f"Marathon's listing is empty, but {count} of {count} instances "
        "and 1 app are known that have not ended"
    )
    assert len(world.view.held) == count
    assert (world.view.app(WEB), world.view.is_deleted(WEB)) == (app(), False)
    world.snap(*many(count))
    assert (world.view.brake, set(states(world.view))) == (None, {S.RUNNING})


# -- what passes


def test_fewer_go_when_two_listings_agree() -> None:
    world = World(*many(12))
    world.snap(*many(9))
    world.snap(*many(9), after=59)
    assert S.GONE not in states(world.view)
    assert world.snap(*many(9), after=1).keys == {each.id for each in many(12)[9:]}
    assert world.view.brake is None


@pytest.mark.parametrize("braked", [False, True], ids=["brake-off", "brake-on"])
def test_a_scale_to_zero_passes_at_once(braked: bool) -> None:
    world = World(*many(20), *many(30, AppId("/other")))
    rest = many(30, AppId("/other"))[20 if braked else 0 :]
    if braked:
        world.snap(*many(20), *rest)
        world.snap(*many(15), *rest)
    world.tell(*ended(*many(20)))
    assert world.list().keys == {each.id for each in many(20)}
    assert {found.state for found in world.view.instances_of(WEB)} == {S.GONE}
    assert (world.view.brake is not None) is braked
    assert S.GONE not in [found.state for found in world.view.instances_of(AppId("/other"))]


@pytest.mark.parametrize("seen_dead", [False, True])
def test_a_mass_kill_passes_at_once(seen_dead: bool) -> None:
    world = World(*many(20))
    world.tell(*ended(*many(20)))
    world.snap(*(instance(each.id, state=S.DEAD) for each in many(20) if seen_dead))
    assert world.view.brake is None
    world.tell(*(task(S.RUNNING, 2, id=each.id) for each in many(20)))
    world.snap(*(instance(each.id, 2) for each in many(20)))
    assert (world.view.brake, set(states(world.view))) == (None, {S.RUNNING})


# -- while it is on, and afterwards


def test_while_the_brake_is_on_life_goes_on() -> None:
    world = World(*many(12))
    world.snap(*many(6))
    new = InstanceId("web.instance-new")
    world.tell(task(S.RUNNING, id=new), *ended(many(1)[0]))
    world.snap(*many(6)[1:], instance(new, health=H.HEALTHY))
    assert world.view.brake is not None
    assert world.one(new).health is H.HEALTHY
    assert world.one(many(1)[0].id).state is S.GONE
    assert len(world.view.held) == 6


def test_release_lets_the_held_go() -> None:
    world = World(*many(12))
    world.snap()
    dirty = world.view.release(world.now)
    assert dirty.keys == {each.id for each in many(12)}
    assert (world.view.brake, set(states(world.view))) == (None, {S.GONE})
    assert world.view.release(world.now) == Dirty()


def test_release_is_for_what_is_held_at_that_moment() -> None:
    world = World(*many(24))
    world.snap(*many(12))
    world.view.release(world.now)
    assert states(world.view).count(S.GONE) == 12
    world.snap(*many(6), after=61)
    assert world.view.held == {each.id for each in many(12)[6:]}
    assert states(world.view).count(S.GONE) == 12


def test_release_spares_what_marathon_spoke_of_since_it_was_missed() -> None:
    world = World(*many(12))
    world.snap()
    back, judged, dead = many(3)
    world.tell(task(S.RUNNING, id=back.id), health(False, id=judged.id), *ended(dead))
    assert len(world.view.held) == 12
    world.view.release(world.now)
    assert {each.id for each in world.view.instances() if each.state is not S.GONE} == {back.id, judged.id}
    assert (world.view.brake, world.view.held) == (None, frozenset())
    world.snap()
    world.snap(after=59)
    assert world.one(back.id).state is S.RUNNING
    world.snap(after=1)
    assert set(states(world.view)) == {S.GONE}


@pytest.mark.parametrize(
    "event",
    [task(S.RUNNING, at=9), task(S.KILLING, at=9), condition(S.RUNNING, at=9), health(True, at=9)],
    ids=["running", "killing", "condition", "verdict"],
)
def test_an_event_between_two_listings_makes_the_second_the_first(event: Event) -> None:
    world = World(instance())
    world.snap()
    world.now += 60
    world.tell(event)
    before = world.state
    world.snap()
    world.snap(after=59)
    assert world.state is before
    world.snap(after=1)
    assert world.state is S.GONE
