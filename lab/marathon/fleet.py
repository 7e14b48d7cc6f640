"""What can be asked of instances: start one, kill one, kill with wipe, forget one on a lost host.

Also holds the scale check: outside deployments every app is brought to its number of instances, new
ones for those that were wiped or lost, fewer when a lost host comes back with tasks already replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from mooring.lab.marathon import events
from mooring.lab.marathon.keeper import Keeper, kill_run
from mooring.lab.marathon.model import App, Condition, Goal, Instance, Run
from mooring.lab.marathon.world import World


class Fleet:
    """All keepers."""

    def __init__(self, world: World) -> None:
        """Begin with no instance."""
        self._world = world
        self._keepers: dict[str, Keeper] = {}

    def schedule(self, app: App) -> Instance:
        """Start one more instance of the app's current version."""
        instance = Instance.of(app.spec, next(self._world.births))
        keeper = Keeper(self._world, app, instance)
        self._keepers[instance.id] = keeper
        keeper.task.add_done_callback(lambda _: self._keepers.pop(instance.id, None))
        return instance

    def keeper(self, instance: Instance) -> Keeper:
        """The keeper of a known instance."""
        return self._keepers[instance.id]

    def kill(self, instance: Instance) -> None:
        """Kill the container; the instance is relaunched under its id."""
        self.keeper(instance).kill()

    def decommission(self, instances: Collection[Instance]) -> None:
        """Kill instances for good; one on a lost host is given up, since no kill can reach it."""
        for instance in instances:
            if instance.condition in (Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE):
                self.wipe(instance)
            else:
                self.keeper(instance).decommission()

    def wipe(self, instance: Instance) -> None:
        """Forget an instance at once; its container is killed afterwards."""
        instance.goal = Goal.DECOMMISSIONED
        self._world.publish(events.instance_changed(instance))
        self.expunge(instance)

    def expunge(self, instance: Instance) -> None:
        """Forget an instance as if it were killed, without any status from Mesos."""
        self._world.publish(events.instance_changed(instance, Condition.KILLED.value))
        self.abandon(instance)

    def abandon(self, instance: Instance) -> None:
        """Forget an instance; what still runs is killed as soon as its host can be told to."""
        if run := self.keeper(instance).detach():
            self._world.spawn(self._bury(instance, run), f"bury {run.task_id}")

    async def watch_scale(self, locked: Callable[[str], bool]) -> None:
        """Keep every app without a deployment at its number of instances, for ever."""
        while True:
            count = self._world.changes.count
            await self._world.leading.wait()
            for app in [app for app in self._world.every_app() if not locked(app.id)]:
                gone = app in self._world.leaving
                self.adjust(app, 0 if gone else app.spec.instances)
                if gone and not app.instances:
                    self._world.leaving.remove(app)
            await self._world.changes.after(count, timeout_s=1.0)

    def adjust(self, app: App, wanted: int, doomed: Collection[str] = ()) -> None:
        """Start or kill instances until `wanted` are active; `doomed` ones are killed first."""
        active = app.active()
        for _ in range(wanted - len(active)):
            self.schedule(app)
        self.decommission(kill_order(app, active, doomed)[: max(0, len(active) - wanted)])

    async def _bury(self, instance: Instance, run: Run) -> None:
        host = self._world.hosts[run.host]
        await host.reachable.wait()
        if not run.kill_requested and not run.ended.done():
            run.kill_requested = True
            await kill_run(self._world, run, instance.spec.kill_grace_s)
        ending = await run.wait_ended()
        host.release(run.ports)
        self._world.runs.pop(run.task_id, None)
        app_id = instance.spec.app_id
        self._world.publish(events.unknown_instance_terminated(instance.id, app_id, ending.condition.value))


def kill_order(app: App, candidates: list[Instance], doomed: Collection[str] = ()) -> list[Instance]:
    """Candidates in the order Marathon kills them: named ones, those that are not ready, then by age."""
    youngest_first = app.spec.definition["killSelection"] == "YOUNGEST_FIRST"

    def rank(instance: Instance) -> tuple[bool, bool, int]:
        age = -instance.born if youngest_first else instance.born
        return instance.id not in doomed, instance.ready, age

    return sorted(candidates, key=rank)
