"""What `merge` promises of any order, delay, repetition and loss: played to a view, life by life."""

from __future__ import annotations

import random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mooring.controller.listing import AppListing, Snapshot
from mooring.core.model import Health, State
from tests.unit.told_life import Life, Stream
from tests.unit.view_world import WEB, H, S, app, instance

CHANCE = st.integers(0, 100_000_000).map(random.Random)
Seen = tuple[State, int, Health]


@settings(max_examples=500, deadline=None)
@given(CHANCE)
def test_events_alone_end_in_the_true_state(chance: random.Random) -> None:
    life = Life(chance, wiped=False)
    assume(not life.scheduled)
    stream = Stream(life, chance, _some_of(life, chance, {*life.essential(), life.reports()[0]}), listings=0)
    stream.answers = False
    begun = -1.0
    first = AppListing(WEB, app(), (instance(state=S.STARTING),), begun)
    stream.view.apply_snapshot(Snapshot(begun, {WEB: first}), begun)
    stream.play()
    state, incarnation, health = life.truth
    assert stream.seen() == (S.DEAD if life.forgotten else state, incarnation, health), stream.story()


@settings(max_examples=1000, deadline=None)
@given(CHANCE)
def test_the_last_events_and_the_listings_they_ask_for_end_in_the_true_state(chance: random.Random) -> None:
    life = Life(chance)
    assume(not life.scheduled)
    slow = chance.choice([0.5, 5.0, 20.0])
    stream = Stream(life, chance, _some_of(life, chance, life.essential()), slow=slow)
    stream.play()
    assume(all(life.events[at] in stream.understood for at in life.essential()))
    assert _agrees(stream.seen(), life), stream.story()


@settings(max_examples=500, deadline=None)
@given(CHANCE)
def test_snapshots_after_the_last_event_end_in_the_true_state(chance: random.Random) -> None:
    life = Life(chance, leaders=3)
    assume(not life.scheduled)
    stream = Stream(life, chance, _some_of(life, chance, set()), slow=chance.choice([0.5, 5.0, 20.0]))
    stream.play()
    stream.now = max(stream.now, life.moments[-1].at)
    stream.snapshot()
    assert life.forgotten or _agrees(stream.seen(), life), stream.story()
    stream.now += 61
    stream.snapshot()
    assert _agrees(stream.seen(), life), stream.story()


@settings(max_examples=300, deadline=None)
@given(CHANCE)
def test_what_is_heard_once_more_changes_nothing_or_asks(chance: random.Random) -> None:
    """Even after a listing that has the truth."""
    life = Life(chance)
    assume(not life.scheduled)
    stream = Stream(life, chance, range(len(life.events)))
    stream.play()
    stream.snapshot()
    before = stream.seen()
    told = [event for event in stream.understood if chance.random() < 0.5]
    for event in chance.sample(told, len(told)):
        stream.now += 1
        if stream.view.apply_event(event, stream.now).apps_to_refresh:
            stream.snapshot()
        assert _agrees(stream.seen(), life) or stream.seen() == before, (event, stream.story())


def _some_of(life: Life, chance: random.Random, always: set[int]) -> frozenset[int]:
    share = chance.choice([0.0, 0.5, 1.0])
    return frozenset(always | {at for at in range(len(life.events)) if chance.random() < share})


def _agrees(seen: Seen | None, life: Life) -> bool:
    """An instance that was never known is as good as gone; nothing contradicts a verdict but another one."""
    state, incarnation, health = life.truth
    if state is S.GONE or seen is None:
        return state is S.GONE and (seen is None or seen[0] is S.GONE)
    return seen == (state, incarnation, seen[2] if health is H.UNKNOWN else health)
