"""Carries out the actions of a deployment: start, scale, restart, stop.

Each action is a loop over the same question, "what is still to be done?", asked again whenever an
instance changes.  So an instance that dies, a host that is lost or a leader that changes in the
middle needs no case of its own.  The arithmetic of a rolling restart is `rolling_step`, which is pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mooring.lab.marathon import events
from mooring.lab.marathon.fleet import Fleet, kill_order
from mooring.lab.marathon.model import App
from mooring.lab.marathon.world import World


@dataclass(frozen=True, slots=True)
class Counts:
    """An app in the middle of a rolling restart."""

    old: int  # of an older version, not yet told to end
    ending: int  # told to end, container still there
    new: int  # of the new version
    new_ready: int


def rolling_step(wanted: int, min_healthy: int, capacity: int, counts: Counts) -> tuple[int, int]:
    """How many old instances to kill and how many new ones to start now.

    Old ones beyond `min_healthy` go at once, then each ready new one releases one old.  Never more
    than `capacity` exist; equal limits would stand still, so they allow one extra.

        wanted min cap | old ending new ready -> kill start
          3     3   6  |  3    0     0    0       0     3
          3     3   6  |  3    0     3    1       1     0
          3     3   3  |  3    0     0    0       0     1    (one extra)
          4     2   4  |  4    0     0    0       2     0    (start when they have ended)
          4     2   4  |  2    0     0    0       0     2
    """
    room = capacity + 1 if capacity == min_healthy else capacity
    enough = counts.new_ready >= wanted
    kill = counts.old if enough else min(counts.old, max(0, counts.old + counts.new_ready - min_healthy))
    start = min(wanted - counts.new, room - counts.old - counts.ending - counts.new)
    return kill, max(0, start)


class Rollout:
    """The actions, on a fleet."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        """Act on these instances."""
        self._world = world
        self._fleet = fleet

    async def start(self, app: App) -> None:
        """StartApplication: the app exists, with no instance yet."""
        self._add_checks(app)

    async def scale(self, app: App, doomed: Collection[str] = ()) -> None:
        """ScaleApplication: until the app has its number of instances and the new ones are ready."""
        before = set(app.instances)
        while True:
            await self._world.leading.wait()
            count = self._world.changes.count
            self._fleet.adjust(app, app.spec.instances, doomed)
            active = app.active()
            fresh = [instance for instance in active if instance.id not in before]
            if not app.ending() and all(instance.ready for instance in fresh):
                return
            await self._world.changes.after(count)

    async def restart(self, app: App) -> None:
        """RestartApplication: until every instance has the new version and is ready."""
        self._add_checks(app)
        spec = app.spec
        while True:
            await self._world.leading.wait()
            count = self._world.changes.count
            active = app.active()
            old = [instance for instance in active if instance.spec.version != spec.version]
            new = [instance for instance in active if instance.spec.version == spec.version]
            ready = sum(instance.ready for instance in new)
            counts = Counts(len(old), len(app.ending()), len(new), ready)
            if not old and not counts.ending and counts.new_ready == counts.new == spec.instances:
                return
            self._fleet.decommission(kill_order(app, new)[: max(0, len(new) - spec.instances)])
            kill, start = rolling_step(spec.instances, spec.min_healthy, spec.capacity, counts)
            self._fleet.decommission(kill_order(app, old)[:kill])
            for _ in range(start):
                self._fleet.schedule(app)
            await self._world.changes.after(count)

    async def stop(self, app: App) -> None:
        """StopApplication: until no instance is left."""
        for _ in app.spec.health_checks:
            self._world.publish(events.remove_health_check(app.id))
        while app.instances:
            await self._world.leading.wait()
            count = self._world.changes.count
            self._fleet.decommission(list(app.instances.values()))
            await self._world.changes.after(count)
        if app in self._world.leaving:
            self._world.leaving.remove(app)
        self._world.publish(events.app_terminated(app.id))

    def _add_checks(self, app: App) -> None:
        for check in app.spec.health_checks:
            self._world.publish(events.add_health_check(app.id, check, app.spec.version))
