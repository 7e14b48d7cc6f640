"""The life of one instance as Marathon leads it and tells it, and a stream that loses, delays and repeats.

A `Life` is drawn by chance: launches, health verdicts, agents that fall silent, kills, relaunches in place
with a higher incarnation, leaders with a clock of their own, an end.  Each moment has what a listing shows
from then on and the events that Marathon publishes.  `Stream` plays it to a view: every event that is heard
arrives after a delay of its own, so in any order, though never after the attachment it was sent on; every
listing that the view asks for is taken a little later and merged later still, so old.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from mooring.controller.events import Event, HealthReported, InstanceReported, TaskReported
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import Dirty, View
from mooring.core.model import Health, Instance, State
from tests.unit.view_world import ONE, WEB, H, S, app, condition, health, instance, task


@dataclass
class Moment:
    """One step of the life: what is published, and what a listing shows from now on."""

    at: float
    events: list[Event]
    listed: Instance | None
    scheduled: bool = False  # a relaunch that no task report has announced


class Life:
    """A random life, moment by moment."""

    def __init__(self, chance: random.Random, *, wiped: bool = True, leaders: int = 1) -> None:
        """`wiped`: it may end without a task report; `leaders`: how many Marathon may have meanwhile."""
        self._chance = chance
        self.attachments: list[float] = []  # when the stream was attached again
        self.moments: list[Moment] = []
        self.forgotten = False
        self._wiped = wiped
        self._n = 0
        self._at = 0.0
        self._stamp = 0
        self._state = S.STARTING
        self._health = H.UNKNOWN
        self._launch()
        for _ in range(chance.randrange(8)):
            if not self.forgotten:
                chance.choice(self._ways())()
            if len(self.attachments) + 1 < leaders and chance.random() < 0.3:
                self.attachments.append(self._at + 0.05)
                self._stamp = chance.randrange(30)

    # -- what can happen

    def _ways(self) -> list[Callable[[], None]]:
        if self._state is S.STARTING:
            return [self._run, self._die]
        if self._state is S.RUNNING:
            return [
                self._verdict,
                self._verdict,
                self._fall_silent,
                self._die,
                self._kill,
                self._end,
                self._wipe,
            ]
        if self._state is S.DEAD:
            return [self._launch]
        return [self._run, self._run, self._inactive, self._die, self._end]

    def _launch(self) -> None:
        self._moment([self._condition(S.STARTING)], None, scheduled=True)
        self._n += 1
        self._state, self._health = S.STARTING, H.UNKNOWN
        self._moment([self._condition(S.STARTING)], self._listed(), scheduled=True)
        if self._chance.random() < 0.3:
            self._say(S.STARTING)
        if self._chance.random() < 0.9:
            self._run()

    def _run(self) -> None:
        self._say(S.RUNNING)

    def _verdict(self) -> None:
        self._health = self._chance.choice([H.HEALTHY, H.UNHEALTHY])
        events: list[Event] = [health(self._health is H.HEALTHY, self._tick())]
        if self._chance.random() < 0.3:
            events.append(self._task(S.RUNNING))  # Mesos' own checks repeat the task's state
        self._moment(events, self._listed())

    def _fall_silent(self) -> None:
        self._say(S.UNREACHABLE)

    def _inactive(self) -> None:
        self._state = S.INACTIVE
        events: list[Event] = [self._task(S.UNREACHABLE)] if self._chance.random() < 0.5 else []
        self._moment([*events, self._condition(S.INACTIVE)], self._listed())

    def _kill(self) -> None:
        self._moment([self._condition(S.RUNNING)], self._listed())  # its goal changed
        self._say(S.KILLING)

    def _die(self) -> None:
        self._say(S.DEAD)

    def _end(self) -> None:
        self._state, self.forgotten = S.DEAD, True
        self._moment([self._task(S.DEAD), self._condition(S.DEAD)], None)

    def _wipe(self) -> None:
        if self._wiped:
            self._state, self.forgotten = S.DEAD, True
            self._moment([self._condition(S.DEAD)], None)

    # -- how it is told

    def _say(self, state: State) -> None:
        self._state = state
        self._moment([self._task(state), self._condition(state)], self._listed())

    def _moment(self, events: list[Event], listed: Instance | None, *, scheduled: bool = False) -> None:
        self._at += self._chance.choice([0.1, 1.0, 5.0])
        self.moments.append(Moment(self._at, events, listed, scheduled))

    def _tick(self) -> int:
        self._stamp += 1
        return self._stamp

    def _task(self, state: State) -> TaskReported:
        return task(state, self._n, self._tick())

    def _condition(self, state: State) -> InstanceReported:
        # Mostly published with the task's report, sometimes in the same millisecond.
        return condition(state, self._stamp if self._stamp and self._chance.random() < 0.3 else self._tick())

    def _listed(self) -> Instance:
        health = self._health if self._state not in (S.DEAD, S.GONE) else H.UNKNOWN
        return instance(n=self._n, state=self._state, health=health)

    # -- what is true in the end

    @property
    def scheduled(self) -> bool:
        return self.moments[-1].scheduled

    @property
    def events(self) -> list[Event]:
        return [event for moment in self.moments for event in moment.events]

    @property
    def truth(self) -> tuple[State, int, Health]:
        """State, incarnation and health as they are when all is said."""
        health = self._health if self._state is not S.DEAD else H.UNKNOWN
        return S.GONE if self.forgotten else self._state, self._n, health

    def reports(self) -> list[int]:
        """The positions of the last incarnation's task reports."""
        return [
            at
            for at, event in enumerate(self.events)
            if isinstance(event, TaskReported) and event.incarnation == self._n
        ]

    def verdicts(self) -> list[int]:
        """The positions of all verdicts."""
        return [at for at, event in enumerate(self.events) if isinstance(event, HealthReported)]

    def essential(self) -> set[int]:
        """The positions of the last incarnation's last task report, what follows it, and the last verdict."""
        return {*range(self.reports()[-1], len(self.events)), *self.verdicts()[-1:]}

    def listed_at(self, at: float) -> Instance | None:
        """What a listing taken then shows."""
        listed = None
        for moment in self.moments:
            if moment.at <= at:
                listed = moment.listed
        return listed


@dataclass
class Stream:
    """Plays a life to a view."""

    life: Life
    chance: random.Random
    heard: Container[int]  # positions of the events that are not lost
    slow: float = 20.0  # the longest delay of an event
    listings: int = 3  # snapshots beside those that are asked for
    answers: bool = True  # whether listings are taken when they are asked for
    view: View = field(default_factory=View)
    understood: list[Event] = field(default_factory=list)  # task reports, and what came to a known instance
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._count = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._taken = 0.0  # what a listing shows is never older than what one begun before it shows
        self.now = 0.0

    def play(self) -> None:
        """Everything that happens, to the end."""
        position = itertools.count()
        for moment in self.life.moments:
            for event in moment.events:
                if next(position) in self.heard:
                    self._deliver(moment.at, event)
        for attached in self.life.attachments:
            self._at(attached, self._attach)
        for _ in range(self.listings):
            self._at(self.chance.uniform(0, self.life.moments[-1].at + self.slow), self._request)
        self.run()

    def _deliver(self, published: float, event: Event) -> None:
        closed = next((at for at in self.life.attachments if at > published), float("inf"))
        for _ in range(self.chance.choice([1, 1, 1, 2])):
            arrives = published + self.chance.uniform(0, self.slow)
            if arrives < closed:
                self._at(arrives, self._tell(event))

    def _attach(self, now: float) -> None:
        self.view.attached(now)
        self._request(now)

    def run(self) -> None:
        """Let everything happen that is due."""
        while self._due:
            self.now, _, step = heapq.heappop(self._due)
            step(self.now)

    def snapshot(self) -> None:
        """Take and merge a snapshot now, and what it asks for."""
        self._merge(self.now + 1, self._listing(self.now + 1, self.now + 1), whole=True)
        self.run()

    def story(self) -> str:
        """What happened, for a person who has to find out why."""
        life = (f"{m.at:6.2f} {[str(e) for e in m.events]} then {m.listed}" for m in self.life.moments)
        return "\n".join(["the life", *life, "what the view was told", *self.log])

    def seen(self) -> tuple[State, int, Health] | None:
        """What the view shows."""
        found = next(iter(self.view.instances()), None)
        return None if found is None else (found.state, found.incarnation, found.health)

    def _at(self, at: float, step: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at, next(self._count), step))

    def _tell(self, event: Event) -> Callable[[float], None]:
        def tell(now: float) -> None:
            if self.view.instance(ONE) is not None or isinstance(event, TaskReported):
                self.understood.append(event)
            self.log.append(f"{now:6.2f} {event}")
            self._heed(self.view.apply_event(event, now))

        return tell

    def _heed(self, dirty: Dirty) -> None:
        if self.answers and (dirty.apps_to_refresh or dirty.snapshot_due):
            self._at(self.now + self.chance.uniform(0.01, 1), self._request)

    def _request(self, begun: float) -> None:
        taken = self._taken = max(self._taken, begun + self.chance.uniform(0, 2))
        listing, whole = self._listing(begun, taken), self.chance.random() < 0.5
        self._at(taken + self.chance.uniform(0, 2), lambda now: self._merge(now, listing, whole))

    def _listing(self, begun: float, taken: float) -> AppListing:
        listed = self.life.listed_at(taken)
        return AppListing(WEB, app(), (listed,) if listed else (), begun)

    def _merge(self, now: float, listing: AppListing, whole: bool) -> None:
        self.log.append(
            f"{now:6.2f} {'snapshot' if whole else 'listing'} begun {listing.begun:.2f} {listing.instances}"
        )
        self.now = now
        if whole:
            self._heed(self.view.apply_snapshot(Snapshot(listing.begun, {WEB: listing}), now))
        else:
            self._heed(self.view.apply_app(listing, now))
