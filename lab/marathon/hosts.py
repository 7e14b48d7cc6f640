"""Losing hosts and getting them back.

A lost host's containers go on running; Marathon merely hears nothing of them.  With the default
unreachable strategy {0, 0} an instance there shows UnreachableInactive at once and is forgotten, and
the scale check starts a replacement under a new id.  Otherwise it stays Unreachable, is replaced
after `inactiveAfterSeconds` and forgotten after `expungeAfterSeconds`; `disabled` waits for ever.

On return, tasks of forgotten instances are killed with nothing but unknown_instance_terminated_event;
those still known show RUNNING again under their old ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from mooring.lab.marathon import events
from mooring.lab.marathon.errors import Unknown
from mooring.lab.marathon.fleet import Fleet
from mooring.lab.marathon.model import Condition, Goal, Instance
from mooring.lab.marathon.world import Host, World


class Hosts:
    """Switches hosts off and on."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        """Act on this world's hosts."""
        self._world = world
        self._fleet = fleet
        self._timers: dict[str, asyncio.Task[None]] = {}

    def lose(self, name: str) -> int:
        """Cut a host off; how many instances were there."""
        host = self.find(name)
        if not host.reachable.is_set():
            return 0
        host.reachable.clear()
        lost = list(self._instances_on(host))
        for instance in lost:
            self._lose(instance)
        self._world.changes.notify()
        return len(lost)

    def restore(self, name: str) -> None:
        """Let a lost host come back."""
        host = self.find(name)
        for instance in self._instances_on(host):
            if instance.condition in (Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE):
                self._recover(instance)
        host.reachable.set()
        self._world.changes.notify()

    def find(self, name: str) -> Host:
        """The host with this name, or `Unknown`."""
        if name not in self._world.hosts:
            raise Unknown("Host", name)
        return self._world.hosts[name]

    def _instances_on(self, host: Host) -> Iterator[Instance]:
        for app in list(self._world.every_app()):
            for instance in list(app.instances.values()):
                if instance.run and instance.run.host == host.name and not instance.condition.terminal:
                    yield instance

    def _lose(self, instance: Instance) -> None:
        self._fleet.keeper(instance).stop_watching()
        strategy = instance.spec.definition["unreachableStrategy"]
        patient = strategy == "disabled" or strategy["inactiveAfterSeconds"] > 0
        established = instance.goal is Goal.RUNNING and instance.condition is Condition.RUNNING
        if not patient or not established:
            self._show_lost(instance, Condition.UNREACHABLE_INACTIVE)
            self._fleet.abandon(instance)
            return
        self._show_lost(instance, Condition.UNREACHABLE)
        if strategy != "disabled":
            inactive_s = float(strategy["inactiveAfterSeconds"])
            work = self._expire(instance, inactive_s, float(strategy["expungeAfterSeconds"]) - inactive_s)
            self._timers[instance.id] = self._world.spawn(work, f"unreachable {instance.id}")

    async def _expire(self, instance: Instance, inactive_s: float, expunge_s: float) -> None:
        await asyncio.sleep(inactive_s)
        if instance.condition is Condition.UNREACHABLE:
            self._show_lost(instance, Condition.UNREACHABLE_INACTIVE)
            self._world.changes.notify()
        await asyncio.sleep(max(0.0, expunge_s))
        self._timers.pop(instance.id, None)
        if self._world.find(instance.id):
            self._fleet.expunge(instance)

    def _show_lost(self, instance: Instance, condition: Condition) -> None:
        assert instance.run is not None, "only an instance with a run can be lost"
        instance.condition = condition
        self._world.publish(events.status_update(instance, instance.run, "TASK_UNREACHABLE"))
        self._world.publish(events.instance_changed(instance))

    def _recover(self, instance: Instance) -> None:
        assert instance.run is not None, "only an instance with a run can be lost"
        if timer := self._timers.pop(instance.id, None):
            timer.cancel()
        instance.condition = Condition.RUNNING
        self._world.publish(events.status_update(instance, instance.run, "TASK_RUNNING"))
        self._world.publish(events.instance_changed(instance))
        self._fleet.keeper(instance).watch()
