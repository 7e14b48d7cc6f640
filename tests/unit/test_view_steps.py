"""A snapshot merged in steps, and what may happen to the view between two of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mooring.controller.events import AppsChanged, AppTerminated
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import Dirty, View
from mooring.core.model import App, AppId, Instance, InstanceId
from tests.unit.view_world import H, S, app, condition, health, instance, snapshot, task

A, B, C = AppId("/a"), AppId("/b"), AppId("/c")
APPS = (app(A), app(B), app(C))
Step = Iterator[Dirty]


def some(of: AppId, count: int = 4, **more: object) -> list[Instance]:
    return [instance(InstanceId(f"{of[1:]}.{k}"), of=of, **more) for k in range(count)]  # type: ignore[arg-type]


def everything() -> list[Instance]:
    return [*some(A), *some(B), *some(C)]


def known_view(**more: object) -> View:
    """Three apps with four instances each, seen at 10; every piece of work is a step of its own."""
    view = View(step=1, **more)  # type: ignore[arg-type]
    view.apply_snapshot(snapshot(*everything(), begun=10, apps=APPS), 11)
    return view


def begin(view: View, *listed: Instance, begun: float = 20, apps: tuple[App, ...] = APPS) -> Step:
    return view.merge_snapshot(snapshot(*listed, begun=begun, apps=apps), lambda: begun + 5)


def until(steps: Step, seen: Callable[[], bool]) -> None:
    """Go on until it is seen; it must be seen before the last step."""
    while not seen():
        next(steps)


def finish(steps: Step) -> Dirty:
    dirty = Dirty()
    for step in steps:
        dirty.merge(step)
    return dirty


def state(view: View, id: str) -> object:
    found = view.instance(InstanceId(id))
    return None if found is None else found.state


# -- the steps themselves


def test_a_step_is_bounded_however_the_instances_are_spread() -> None:
    few = [instance(InstanceId(f"few.{k}"), of=AppId(f"/few/{k}")) for k in range(300)]
    view = View(step=200)
    steps = [len(step.keys) for step in begin(view, *few, *some(A, 2000), apps=())]
    assert sum(steps) == 2300
    assert max(steps) <= 200
    assert len(steps) > 300 * 11 / 210 + 2000 / 200


def test_absences_that_two_listings_agree_on_are_ended_in_steps_too() -> None:
    view = View(step=200, brake_least=10_000)
    for begun in (10, 20, 90):
        steps = [len(step.keys) for step in begin(view, *(some(A, 2000) if begun == 10 else ()), begun=begun)]
    assert sum(steps) == 2000
    assert max(steps) <= 200


def test_steps_add_up_to_the_whole() -> None:
    listed = [*some(A, 3, state=S.KILLING), *some(B, 5, n=2)]
    at_once, in_steps = known_view(), known_view()
    whole = at_once.apply_snapshot(snapshot(*listed, begun=20, apps=APPS[:2]), 25)
    assert finish(begin(in_steps, *listed, apps=APPS[:2])) == whole
    assert in_steps.instances() == at_once.instances()
    assert in_steps.apps() == at_once.apps()


def test_the_view_is_complete_with_the_last_step() -> None:
    view = View(step=1)
    steps = list(zip(begin(view, *everything()), itertools.count(), strict=False))
    assert len(steps) > 10
    view = View(step=1)
    completed = [view.complete for _ in begin(view, *everything())]
    assert completed == [False] * (len(completed) - 1) + [True]


def test_one_snapshot_at_a_time() -> None:
    view = known_view()
    first, second = begin(view), begin(view)
    next(first)
    with pytest.raises(AssertionError, match="one snapshot at a time"):
        next(second)
    finish(first)
    finish(begin(view, begun=30))


def test_an_abandoned_snapshot_leaves_a_view_that_can_go_on() -> None:
    view = View(step=1)
    view.restore(everything())
    steps = begin(view, *some(A), begun=20)
    for _ in range(12):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert (view.complete, view.brake) == (False, None)
    view.apply_app(AppListing(C, app(C), tuple(some(C, state=S.KILLING)), 15), 22)
    assert state(view, "c.0") is S.KILLING  # the abandoned one had not come to it
    finish(begin(view, *everything(), begun=30))
    assert (view.complete, view.brake) == (True, None)
    assert {found.state for found in view.instances()} == {S.RUNNING}


def test_an_abandoned_snapshot_judges_nothing() -> None:
    view = known_view(brake_least=100)
    finish(begin(view, *some(A), *some(B), begun=20))
    steps = begin(view, *some(A), *some(B), begun=90)
    assert sum(1 for _ in itertools.islice(steps, 40)) >= 15
    assert state(view, "c.0") is S.GONE
    view = known_view(brake_least=100)
    finish(begin(view, *some(A), *some(B), begun=20))
    steps = begin(view, *some(A), *some(B), begun=90)
    until(steps, lambda: len(view._confirmed) == 4)
    steps.close()  # type: ignore[attr-defined]
    view.apply_app(AppListing(A, app(A), tuple(some(A)), 91), 92)
    assert state(view, "c.0") is S.RUNNING
    finish(begin(view, *some(A), *some(B), begun=93))
    assert state(view, "c.0") is S.GONE


# -- between two steps


@pytest.mark.parametrize("early", [True, False], ids=["before-its-turn", "after-its-turn"])
def test_an_event_is_not_overridden(early: bool) -> None:
    view = known_view()
    steps = begin(view, *some(A, 4, state=S.KILLING), *some(B), *some(C))
    if not early:
        until(steps, lambda: state(view, "a.0") is S.KILLING)
    view.apply_event(task(S.UNREACHABLE, id=InstanceId("a.0"), of=A), 21)
    finish(steps)
    assert (state(view, "a.0"), state(view, "a.1")) == (S.UNREACHABLE, S.KILLING)


@pytest.mark.parametrize("early", [True, False], ids=["before-its-turn", "after-its-turn"])
def test_a_later_listing_of_one_app_stands(early: bool) -> None:
    view = known_view()
    newer = app(A, labels={"new": "label"})
    steps = begin(view, *some(A, 4, state=S.KILLING), *some(B), *some(C))
    if not early:
        until(steps, lambda: state(view, "a.1") is S.KILLING)  # in the middle of this very app
    listed = [*some(A, 3), *some(A, 6)[4:]]
    view.apply_app(AppListing(A, newer, tuple(listed), 21), 22)
    finish(steps)
    assert view.app(A) == newer
    assert [found.id for found in view.instances_of(A)] == ["a.0", "a.1", "a.2", "a.3", "a.4", "a.5"]
    assert {found.state for found in view.instances_of(A)} == {S.RUNNING}


def test_an_app_that_was_listed_alone_later_is_not_deleted() -> None:
    view = known_view()
    steps = begin(view, *some(A), *some(B), apps=APPS[:2])
    new = AppId("/new")
    next(steps)
    view.apply_app(AppListing(new, app(new), tuple(some(new)), 21), 22)
    view.apply_app(AppListing(C, app(C), tuple(some(C)), 21), 22)
    finish(steps)
    for known in (new, C):
        assert not view.is_deleted(known)
        assert view.app(known) is not None
        assert len(view.instances_of(known)) == 4
    assert view.held == frozenset()


def test_an_app_that_was_found_deleted_later_is_not_raised() -> None:
    view = known_view()
    steps = begin(view, *everything(), instance(InstanceId("c.new"), of=C))
    next(steps)
    view.apply_event(AppTerminated(C), 21)
    view.apply_app(AppListing(C, None, (), 22), 23)
    for found in view.instances_of(C):
        view.forget(found.id)
    assert view.app(C) is None
    finish(steps)
    assert (view.app(C), view.instances_of(C)) == (None, [])


def test_an_older_listing_of_one_app_says_nothing_more() -> None:
    view = known_view()
    steps = begin(view, *everything())
    until(steps, lambda: not view._apps.is_newest(A, 19))
    view.apply_app(AppListing(A, None, (), 19), 22)
    finish(steps)
    view.apply_app(AppListing(B, None, (), 19), 27)
    never = AppId("/never-seen")
    view.apply_app(AppListing(never, app(never), tuple(some(never)), 19), 28)
    assert (view.app(never), view.instances_of(never)) == (None, [])
    assert (view.is_deleted(A), view.is_deleted(B)) == (False, False)
    assert len(view.instances_of(A)) == 4


def test_a_pod_that_was_heard_of_meanwhile_stays_one() -> None:
    view = known_view()
    steps = begin(view, *everything())
    pod = AppId("/pod")
    view.apply_event(AppsChanged((), (pod,)), 21)
    finish(steps)
    assert view.apply_event(condition(S.RUNNING, id=InstanceId("pod.1"), of=pod), 26) == Dirty()
    finish(begin(view, *everything(), begun=30))
    assert view.apply_event(condition(S.RUNNING, id=InstanceId("pod.1"), of=pod), 36) != Dirty()


@pytest.mark.parametrize("saved_by", ["event", "listing", "nothing"])
def test_a_confirmed_absence_is_looked_at_once_more(saved_by: str) -> None:
    view = known_view()
    finish(begin(view, *everything()[1:], begun=20))
    steps = begin(view, *everything()[1:], begun=90)
    until(steps, lambda: InstanceId("a.0") in view._confirmed)
    if saved_by == "event":
        view.apply_event(health(True, id=InstanceId("a.0"), of=A), 91)
    elif saved_by == "listing":
        view.apply_app(AppListing(A, app(A), tuple(some(A)), 91), 92)
    dirty = finish(steps)
    assert state(view, "a.0") is (S.GONE if saved_by == "nothing" else S.RUNNING)
    assert (InstanceId("a.0") in dirty.keys) == (saved_by == "nothing")


def test_what_a_listing_of_one_app_confirms_waits_for_the_whole() -> None:
    view = known_view()
    finish(begin(view, *everything()[1:], begun=20))
    steps = begin(view, *everything()[1:], begun=90)
    next(steps)
    view.apply_app(AppListing(A, app(A), tuple(some(A)[1:]), 91), 92)
    assert state(view, "a.0") is S.RUNNING
    finish(steps)
    assert state(view, "a.0") is S.GONE


def test_forgetting_between_two_steps() -> None:
    view = known_view()
    for each in some(A):
        view.apply_event(task(S.DEAD, id=each.id, of=A), 12)
    steps = begin(view, *some(B), *some(C))
    until(steps, lambda: state(view, "a.3") is S.GONE)
    for each in some(A):
        view.forget(each.id)
    finish(steps)
    assert view.instances_of(A) == []
    assert len(view.instances()) == 8


def test_the_brake_is_judged_when_all_is_merged() -> None:
    """Three are back and three others are missing: at no moment that counts are there six."""
    view = known_view()
    finish(begin(view, *everything()[:9], begun=20))
    steps = begin(view, *everything()[3:], begun=30)
    until(steps, lambda: len(view._index.absent) == 6)
    view.apply_app(AppListing(B, app(B), tuple(some(B)), 31), 32)
    assert view.brake is None
    finish(steps)
    assert view.brake is None


def test_release_between_two_steps_is_for_what_was_held() -> None:
    view = known_view()
    finish(begin(view, *some(A), *some(B), begun=20))
    assert view.held == {each.id for each in some(C)}
    steps = begin(view, *some(B), *some(C), begun=30)
    until(steps, lambda: len(view._index.absent) > 0)
    view.release(31)
    assert {state(view, each.id) for each in some(C)} == {S.GONE}
    finish(steps)
    assert {state(view, each.id) for each in some(C)} == {S.RUNNING}
    assert {state(view, each.id) for each in some(A)} == {S.RUNNING}
    assert view.held == {each.id for each in some(A)}


# -- whatever happens between two steps


Act = Callable[[View], object]


def act(chance: random.Random, now: float) -> Act:
    """Something that may happen while a snapshot that began at 100 is being merged."""
    of = chance.choice([A, B, C])
    one = instance(InstanceId(f"{of[1:]}.{chance.randrange(6)}"), of=of)
    n, at = chance.randint(1, 2), chance.randrange(60)
    listed = tuple(some(of, chance.randrange(6), state=chance.choice([S.RUNNING, S.KILLING])))
    definition = chance.choice([app(of), app(of, checked=False), app(of, labels={"l": "2"}), None])
    listing = AppListing(of, definition, listed if definition else (), chance.choice([90.0, now - 0.5]))
    choices: list[Act] = [
        lambda view: view.apply_event(task(chance_state, n, at, one.id, of), now),
        lambda view: view.apply_event(condition(chance_state, at, one.id, of), now),
        lambda view: view.apply_event(health(at % 2 == 0, at, one.id, of), now),
        lambda view: view.apply_event(AppTerminated(of), now),
        lambda view: view.apply_event(AppsChanged((of,), stopped=(of,)), now),
        lambda view: view.apply_event(AppsChanged((of,), kept=(of,)), now),
        lambda view: view.apply_app(listing, now),
        lambda view: view.forget(one.id),
    ]
    chance_state = chance.choice([S.STARTING, S.RUNNING, S.UNREACHABLE, S.DEAD])
    return chance.choice(choices)


def start(chance: random.Random) -> View:
    """A view that has seen something of everything."""
    view = known_view(brake_least=10**9, absence_confirm_s=10**9)
    for now in range(12, 12 + chance.randrange(8)):
        act(chance, now)(view)
    view.apply_snapshot(snapshot(*chance.sample(everything(), 9), begun=30, apps=APPS), 31)
    return view


def picture(view: View) -> dict[object, object]:
    seen: dict[object, object] = {id: view.instance(InstanceId(id)) for id in names()}
    apps = (A, B, C)
    return seen | {of: view.app(of) for of in apps} | {f"{of} deleted": view.is_deleted(of) for of in apps}


def names() -> list[str]:
    return [f"{of[1:]}.{k}" for of in (A, B, C) for k in range(6)]


def told(seed: int) -> tuple[View, Snapshot, list[Act], random.Random]:
    """A view, a snapshot that began at 100, and what happens meanwhile; the same for the same seed."""
    chance = random.Random(seed)
    view = start(chance)
    listed = [replace(each, health=chance.choice(list(H))) for each in chance.sample(everything(), 8)]
    apps = tuple(chance.sample(APPS, chance.randint(1, 3)))
    listed = [each for each in listed if any(each.app == one.id for one in apps)]
    whole = snapshot(*listed, begun=100, apps=apps)
    return view, whole, [act(chance, 101.0 + k) for k in range(chance.randrange(1, 6))], chance


def possible(seed: int) -> dict[object, list[object]]:
    """What may come of each instance and app, with the whole snapshot at one place in the row."""
    found: dict[object, list[object]] = {}
    for place in range(len(told(seed)[2]) + 1):
        view, whole, acts, _ = told(seed)
        for each in acts[:place]:
            each(view)
        view.apply_snapshot(whole, 120)
        for each in acts[place:]:
            each(view)
        for key, seen in picture(view).items():
            found.setdefault(key, []).append(seen)
    return found


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 100_000_000))
def test_each_instance_ends_as_if_the_snapshot_had_come_at_one_moment(seed: int) -> None:
    """For each of them there is a place in the row of what happened where the whole snapshot would fit in."""
    view, whole, acts, chance = told(seed)
    gaps = sorted(chance.randrange(30) for _ in acts)
    for at, _ in enumerate(view.merge_snapshot(whole, lambda: 120.0)):
        while gaps and gaps[0] <= at:
            gaps.pop(0)
            acts.pop(0)(view)
    for each in acts:
        each(view)
    allowed = possible(seed)
    for key, seen in picture(view).items():
        assert seen in allowed[key], key
    check_index(view)


def check_index(view: View) -> None:
    """The indexes say what looking through everything says."""
    index = view._index
    entries = [index.get(found.id) for found in view.instances()]
    assert index.living == sum(entry is not None and not entry.gone for entry in entries)
    unexplained = {entry.instance.id for entry in entries if entry is not None and entry.unexplained}
    assert index.absent | index.held == unexplained
    assert not index.absent & index.held
    by_app = [found.id for of in index.apps() for found in view.instances_of(of)]
    assert sorted(by_app) == sorted(found.id for found in view.instances())
