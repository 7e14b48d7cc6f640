"""A Marathon for the simulation, with the agents below it.

It keeps apps and instances as Marathon 1.8+ does: an instance keeps its id over self-healing and raises its
incarnation; a rolling replacement starts new ids within the upgrade strategy's limits; a lost agent makes its
instances unreachable, replaces them or declares them gone.  What happens is published as frames in Marathon's
own wire form, and listings are made of the JSON that Marathon sends, so the daemon's decoders work on them.

State changes and their events are one step; what lies between two steps takes a seeded time.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from mooring.cext import Frame
from mooring.handlers.memory_hosts import MemoryContainer
from tests.sim.agents import Agents
from tests.sim.apps import LISTED, PORT, WITHOUT_DETAIL, SimApp, SimInstance, app_json
from tests.sim.loop import SimClock

GIVES_UP_S = 60.0  # a replacement that does not become ready in this time is no longer waited for


class SimMarathon:
    """Apps, instances, agents, and what is said about them."""

    framework = "framework-1"

    def __init__(self, clock: SimClock, chance: random.Random, agents: Agents) -> None:
        self.apps: dict[str, SimApp] = {}
        self.instances: dict[str, SimInstance] = {}
        self.listeners: list[Callable[[Frame], None]] = []
        self.deleted: set[str] = set()  # apps that were deleted at some time
        self.hidden: frozenset[str] = frozenset()  # apps and instances that listings wrongly leave out
        self.hides_alone = True  # also where one app is asked for alone
        self.prefers = ""  # the host that new containers go to, if it is there; otherwise chance decides
        self._clock = clock
        self._chance = chance
        self._agents = agents
        self._busy: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something happen on its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what can be asked

    def apps_json(self) -> bytes:
        """`/v2/apps?embed=apps.tasks`."""
        apps = [app for app in self.apps.values() if app.id not in self.hidden]
        return json.dumps({"apps": [app_json(app, self._listed(app.id)) for app in apps]}).encode()

    def app_json(self, id: str) -> bytes:
        """`/v2/apps/<id>`; empty if there is none."""
        if id not in self.apps or (id in self.hidden and self.hides_alone):
            return b""
        instances = self._listed(id) if self.hides_alone else self.of(id)
        return json.dumps({"app": app_json(self.apps[id], instances)}).encode()

    def _listed(self, app: str) -> list[SimInstance]:
        return [instance for instance in self.of(app) if instance.id not in self.hidden]

    def of(self, app: str) -> list[SimInstance]:
        """The app's instances, oldest first."""
        return [instance for instance in self.instances.values() if instance.app.id == app]

    def at_rest(self) -> bool:
        """Every app runs as many ready instances as it shall, and nothing is under way."""
        return not any(lock.locked() for lock in self._busy.values()) and all(
            len(self._reachable(app)) == app.instances == sum(one.ready for one in self._reachable(app))
            for app in self.apps.values()
        ) and all(one.wanted and one.app.id in self.apps for one in self.instances.values())  # fmt: skip

    def _reachable(self, app: SimApp) -> list[SimInstance]:
        return [one for one in self.of(app.id) if not one.condition.startswith("Unreachable")]

    # -- what people do

    async def deploy(self, app: SimApp) -> None:
        """A new app, or a new definition of one: then all its instances are replaced."""
        app.version = self._stamp()
        known = self.apps.get(app.id)
        self.apps[app.id] = app
        self._emit("api_post_event", clientIp="", uri="", appDefinition={"id": app.id})
        self._announce("StartApplication" if known is None else "RestartApplication", app.id)
        async with self._lock(app.id):
            if known is None:
                for _ in range(app.instances):
                    self._start(app)
            else:
                await self._replace(app)
        self._announce("RestartApplication", app.id, "deployment_success")

    async def restart(self, id: str) -> None:
        """Replace every instance under the app's upgrade strategy."""
        self.apps[id].version = self._stamp()
        self._announce("RestartApplication", id)
        async with self._lock(id):
            if id in self.apps:
                await self._replace(self.apps[id])
        self._announce("RestartApplication", id, "deployment_success")

    async def scale(self, id: str, count: int) -> None:
        """More or fewer instances."""
        app = self.apps[id]
        app.instances, app.version = count, self._stamp()
        self._announce("ScaleApplication", id)
        async with self._lock(id):
            await self._balance(app)
        self._announce("ScaleApplication", id, "deployment_success")

    async def delete(self, id: str) -> None:
        """Stop everything and forget the app."""
        self.deleted.add(id)
        self._announce("StopApplication", id)
        async with self._lock(id):
            app = self.apps.pop(id, None)
            if app is None:
                return  # somebody else was faster
            await asyncio.gather(*(self._end(instance) for instance in self.of(id)))
        self._emit("app_terminated_event", appId=id)
        self._announce("StopApplication", id, "deployment_success")

    async def kill(self, id: str) -> None:
        """`/v2/tasks/delete` without scale: the instance comes back."""
        instance = self.instances.get(id)
        if instance is not None and instance.condition == "Running":
            await self._end(instance, forget=False)

    async def fail(self, id: str) -> None:
        """The container dies by itself."""
        instance = self.instances.get(id)
        if instance is None or instance.condition != "Running" or instance.host in self._agents.silent:
            return
        self._stop(instance)
        task = instance.task
        await self._wait(0.0, 0.5)
        if instance.task == task and instance.condition == "Running":
            self._ended(instance, "Failed")
            await self._relaunch(instance)

    # -- what agents do

    async def lose(self, host: str) -> None:
        """An agent falls silent; its containers go on."""
        self._agents.silent.add(host)
        await self._wait(0.3, 3.0)
        if host not in self._agents.silent:
            return
        for instance in [one for one in self.instances.values() if one.host == host]:
            if instance.condition in ("Running", "Killing"):
                self._lost(instance)

    def _lost(self, instance: SimInstance) -> None:
        instance.healthy = None
        how = instance.app.when_lost if instance.wanted else "replace"
        if how == "gone":
            self._ended(instance, "Gone")
            self.spawn(self._relaunch(instance))
        elif how == "keep":
            self._say(instance, "Unreachable", "TASK_UNREACHABLE")
        else:
            self._say(instance, "UnreachableInactive", "TASK_UNREACHABLE")
            self.instances.pop(instance.id, None)

    async def back(self, host: str, *, rebooted: bool = False) -> None:
        """The agent answers again; it ends what Marathon does not want there."""
        if rebooted:
            self._agents.switch_off(host)
        self._agents.silent.discard(host)
        await self._wait(0.0, 1.0)
        for task in list(self._agents.hosts[host].containers):
            await self._reregistered(host, task)

    async def _reregistered(self, host: str, task: str) -> None:
        container = self._agents.hosts[host].containers[task]
        instance = next((one for one in self.instances.values() if one.task == task), None)
        if instance is None or instance.host != host or not instance.wanted:
            if container.alive:
                await self._wait(0.0, 0.5)
                container.alive = False
        elif not container.alive and instance.condition in ("Running", "Unreachable"):
            self._ended(instance, "Failed")
            self.spawn(self._relaunch(instance))
        elif instance.condition == "Unreachable":
            self._say(instance, "Running", "TASK_RUNNING")
            self.spawn(self._check(instance))

    async def supervise(self) -> None:
        """What Marathon checks from time to time: as many instances as the app asks for."""
        while True:
            await self._clock.sleep(3.0)
            for app in list(self.apps.values()):
                if not self._lock(app.id).locked():
                    self.spawn(self._balanced(app))

    async def _balanced(self, app: SimApp) -> None:
        async with self._lock(app.id):
            await self._balance(app)

    async def _balance(self, app: SimApp) -> None:
        if app.id not in self.apps:
            return
        present = [one for one in self._reachable(app) if one.wanted]
        for _ in range(app.instances - len(present)):
            self._start(app)
        surplus = present[app.instances :]  # the younger ones
        lost = [one for one in self.of(app.id) if one.condition == "Unreachable"]
        if len(present) >= app.instances and not surplus and len(lost) > app.instances:
            surplus = lost[app.instances :]
        await asyncio.gather(*(self._end(instance) for instance in surplus))

    # -- one rolling replacement

    async def _replace(self, app: SimApp) -> None:
        least = math.ceil(app.instances * app.minimum_health)
        most = math.floor(app.instances * (1 + app.over_capacity))
        most += least == most  # else nothing could ever begin
        old = [one for one in self.of(app.id) if one.wanted]
        new: list[SimInstance] = []
        excess = len(old) - least
        for instance in old[: max(0, excess)]:
            self.spawn(self._end(instance))
        deadline = self._clock.monotonic() + GIVES_UP_S
        while app.id in self.apps and self._clock.monotonic() < deadline:
            there = sum(one.id in self.instances for one in (*old, *new))
            for _ in range(min(most - there, app.instances - len(new))):
                new.append(self._start(app))
            serving = sum(one.ready for one in new)
            for instance in [one for one in old if one.wanted and one.id in self.instances]:
                if sum(one.wanted for one in old) + serving > app.instances or serving >= app.instances:
                    self.spawn(self._end(instance))
                    instance.wanted = False
            if serving >= app.instances and not any(one.id in self.instances for one in old):
                return
            await self._clock.sleep(0.2)

    # -- one instance

    def _start(self, app: SimApp) -> SimInstance:
        number = f"{self._chance.getrandbits(128):032x}"
        uuid = "-".join((number[:8], number[8:12], number[12:16], number[16:20], number[20:]))
        safe = app.id.strip("/").replace("/", "_")
        instance = SimInstance(f"{safe}.instance-{uuid}", app, app.version)
        self.instances[instance.id] = instance
        self._say(instance, "Scheduled")
        self.spawn(self._launch(instance))
        return instance

    async def _launch(self, instance: SimInstance) -> None:
        await self._wait(0.01, 0.3)
        while self.instances.get(instance.id) is instance and instance.wanted:
            awake = [name for name in self._agents.hosts if name not in self._agents.silent]
            if not awake:
                await self._wait(0.5, 1.0)
                continue
            instance.host = self.prefers if self.prefers in awake else self._chance.choice(awake)
            instance.host_port = self._chance.randint(31000, 31999)
            self._say(instance, "Provisioned")
            await self._wait(0.05, 1.0)
            if instance.condition != "Provisioned":
                return
            if instance.host in self._agents.silent:
                self._ended(instance, "Failed")
                instance.incarnation += 1
                continue
            container = self._agents.place(instance.host, instance.task)
            if instance.app.checked:
                container.listens = frozenset({PORT})
            else:
                self.spawn(self._listens(container))
            self._say(instance, "Running", "TASK_RUNNING")
            await self._check(instance)
            return

    async def _listens(self, container: MemoryContainer) -> None:
        """An app that nobody checks takes a while until it answers."""
        await self._wait(0.2, 4.0)
        container.listens = frozenset({PORT})

    async def _check(self, instance: SimInstance) -> None:
        """The health checks, if there are any, find the instance well."""
        if not instance.app.checked:
            return
        task = instance.task
        await self._wait(0.1, 2.0)
        if (instance.task, instance.condition) == (task, "Running"):
            instance.healthy = True
            self._emit("instance_health_changed_event", instanceId=instance.id, runSpecId=instance.app.id,
                       healthy=True, runSpecVersion=instance.version)  # fmt: skip

    async def _end(self, instance: SimInstance, *, forget: bool = True) -> None:
        """Marathon kills it, and forgets it or starts it anew."""
        if forget:
            instance.wanted = False
        if instance.condition == "Running":
            self._emit_condition(instance)  # its goal changed
            if self._chance.random() < 0.5:
                self._say(instance, "Killing", "TASK_KILLING")
        await self._wait(0.01, 1.0)
        if instance.host is not None and instance.host not in self._agents.silent:
            self._stop(instance)
        if self.instances.get(instance.id) is not instance:
            return
        if forget:
            del self.instances[instance.id]
        if instance.condition in ("Running", "Killing", "Unreachable", "Provisioned"):
            self._ended(instance, "Killed")
        if not forget:
            await self._relaunch(instance)

    async def _relaunch(self, instance: SimInstance) -> None:
        """The same instance once more, after a pause, wherever there is room."""
        await self._wait(0.2, 3.0)
        if self.instances.get(instance.id) is instance and instance.condition in WITHOUT_DETAIL:
            instance.incarnation += 1
            instance.host, instance.healthy, instance.condition = None, None, "Scheduled"
            await self._launch(instance)

    def _stop(self, instance: SimInstance) -> None:
        host = self._agents.hosts[instance.host] if instance.host else None
        if host is not None and instance.task in host.containers:
            host.containers[instance.task].alive = False

    def _ended(self, instance: SimInstance, condition: str) -> None:
        instance.healthy = None
        self._say(instance, condition, LISTED[condition])

    # -- words

    def _say(self, instance: SimInstance, condition: str, status: str | None = None) -> None:
        instance.condition = condition
        if status is not None:
            self._emit("status_update_event", slaveId="", taskId=instance.task, taskStatus=status, message="",
                       appId=instance.app.id, host=instance.host, ports=[instance.host_port],
                       version=instance.version)  # fmt: skip
        self._emit_condition(instance)

    def _emit_condition(self, instance: SimInstance) -> None:
        self._emit(
            "instance_changed_event",
            instanceId=instance.id,
            condition=instance.condition,
            runSpecId=instance.app.id,
            host=instance.host,
            runSpecVersion=instance.version,
        )

    def _announce(self, action: str, app: str, kind: str = "deployment_info") -> None:
        steps = [{"actions": [{"action": action, "app": app}]}]
        self._emit(kind, id="d", plan={"id": "d", "steps": steps, "version": self._stamp()})

    def _emit(self, kind: str, **body: object) -> None:
        frame = Frame(kind, json.dumps({**body, "eventType": kind, "timestamp": self._stamp()}).encode())
        for listener in list(self.listeners):
            listener(frame)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def _lock(self, app: str) -> asyncio.Lock:
        return self._busy.setdefault(app, asyncio.Lock())

    async def _wait(self, least: float, most: float) -> None:
        await self._clock.sleep(self._chance.uniform(least, most))
