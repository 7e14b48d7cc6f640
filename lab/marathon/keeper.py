"""Keeps one instance: from Scheduled through every run to its end.

One asyncio task per instance is the only one that moves it from condition to condition:

    Scheduled -> [back-off, offer] -> Provisioned -> Starting -> Running -> ended -+
                        ^                                                          |
                        +---- goal still Running: same id, incarnation + 1 --------+
                                                       goal changed: forgotten <---+

Others only ask: `kill` sends the container its signal (the keeper sees it end), `detach` stops the
keeper and hands its run over, for hosts that are lost and for wipes.  Whoever notices a container's
end first, the engine's exits or the kill that waited for it, settles the run's `ended` future.
"""

from __future__ import annotations

import asyncio
import logging

from mooring.lab.marathon import events, placement, tasks
from mooring.lab.marathon.health import HealthWatch
from mooring.lab.marathon.model import App, Condition, Ending, Goal, Instance, Run
from mooring.lab.marathon.times import stamp
from mooring.lab.marathon.world import Host, World

KILL_RETRY_S = 1.0

log = logging.getLogger(__name__)


class Keeper:
    """The life of one instance."""

    def __init__(self, world: World, app: App, instance: Instance) -> None:
        """Begin to keep the instance; it becomes part of the app."""
        self.instance = instance
        self._world = world
        self._app = app
        self._watch: HealthWatch | None = None
        app.instances[instance.id] = instance
        self.task = world.spawn(self._keep(), f"keeper {instance.id}")

    def kill(self) -> None:
        """Kill the current container, if there is one; the goal stays."""
        run = self.instance.run
        if run is None or run.kill_requested or run.ended.done():
            return
        run.kill_requested = True
        if self._world.settings.task_killing and self.instance.condition is Condition.RUNNING:
            self._move(Condition.KILLING, status="TASK_KILLING")
        self._world.spawn(kill_run(self._world, run, self.instance.spec.kill_grace_s), f"kill {run.task_id}")

    def decommission(self) -> None:
        """Want the instance gone; Marathon shows a change of goal as a repeated condition."""
        if self.instance.goal is Goal.DECOMMISSIONED:
            return
        self.instance.goal = Goal.DECOMMISSIONED
        self._world.publish(events.instance_changed(self.instance))
        self.kill()
        self._world.changes.notify()

    def detach(self) -> Run | None:
        """Give the instance up without waiting for its container; returns the run it leaves behind."""
        self.task.cancel()
        self.stop_watching()
        self._app.instances.pop(self.instance.id, None)
        self._world.changes.notify()
        run = self.instance.run
        return None if run is None or self.instance.condition.terminal else run

    def watch(self) -> None:
        """Probe the running container's health."""
        assert self.instance.run is not None, "only a running instance is probed"
        host = self._world.hosts[self.instance.run.host]
        self._watch = HealthWatch(self._world, self.instance, self.instance.run, host.agent, self.kill)

    def stop_watching(self) -> None:
        """Probe no more."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    async def _keep(self) -> None:
        self._world.publish(events.instance_changed(self.instance))
        while host := await self._offer():
            await self._live(host)
        if self.instance.incarnation == 0:
            self.instance.condition = Condition.KILLED
            self._world.publish(events.instance_changed(self.instance))
        self._app.instances.pop(self.instance.id, None)
        self._world.changes.notify()

    async def _offer(self) -> Host | None:
        """Wait for back-off and a matching offer; None once the instance is not wanted any more."""
        loop, world = asyncio.get_running_loop(), self._world
        while self.instance.goal is Goal.RUNNING:
            await world.leading.wait()
            count = world.changes.count
            wait_s = world.backoffs.ready_at(self.instance.spec) - loop.time()
            if wait_s <= 0:
                hosts = list(world.hosts.values())
                if host := placement.choose(hosts, self._app, self.instance, next(world.turns)):
                    return host
            await world.changes.after(count, timeout_s=wait_s if wait_s > 0 else 1.0)
        return None

    async def _live(self, host: Host) -> None:
        run = self._provision(host)
        try:
            await run.container()
        except Exception as error:  # an engine fails in its own ways; each is a failed task
            log.warning("%s: launch failed: %s", run.task_id, error)
            run.end(Ending(Condition.FAILED, f"Failed to launch container: {error}"))
        else:
            await self._reported(host)
            self._started(run, host)
        ending = await run.wait_ended()
        await self._reported(host)
        self._ended(run, host, ending)

    async def _reported(self, host: Host) -> None:
        """News from a host arrives once it is reachable and somebody leads."""
        await host.reachable.wait()
        await self._world.leading.wait()

    def _provision(self, host: Host) -> Run:
        instance = self.instance
        instance.incarnation += 1
        instance.pinned_host = None
        instance.forget_health()
        ports = host.allocate(placement.wanted_ports(instance.spec))
        task_id = f"{instance.id}._app.{instance.incarnation}"
        run = instance.run = Run(task_id, host.name, host.agent.slave_id, ports)
        run.staged_at = stamp()
        self._world.runs[task_id] = run
        run.launch = asyncio.create_task(self._launch(run), name=f"launch {task_id}")
        self._move(Condition.PROVISIONED)
        return run

    async def _launch(self, run: Run) -> str:
        workload = tasks.workload(self.instance, run, self._world.settings.engine.image)
        async with self._world.launch_slots:
            return await self._world.engine.launch(workload)

    def _started(self, run: Run, host: Host) -> None:
        self._move(Condition.STARTING, status="TASK_STARTING")
        run.started_at = stamp()
        run.began = asyncio.get_running_loop().time()
        if self.instance.spec.host_network:
            run.addresses = [{"ipAddress": host.agent.address, "protocol": "IPv4"}]
        self._move(Condition.RUNNING, status="TASK_RUNNING")
        self.watch()

    def _ended(self, run: Run, host: Host, ending: Ending) -> None:
        self.stop_watching()
        host.release(run.ports)
        self._world.runs.pop(run.task_id, None)
        if ending.condition is not Condition.KILLED:
            ran_s = 0.0 if run.began is None else asyncio.get_running_loop().time() - run.began
            self._world.backoffs.failed(self.instance.spec, ran_s)
        if ending.condition is Condition.FAILED:
            self._app.last_failure = _failure(self.instance, run, ending)
        self._move(ending.condition, status=ending.condition.task_state, message=ending.message)
        if self.instance.healthy is not None:
            self.instance.forget_health()
            self._world.publish(events.instance_health_changed(self.instance))

    def _move(self, condition: Condition, status: str | None = None, message: str = "") -> None:
        self.instance.condition = condition
        if status is not None and self.instance.run is not None:
            self._world.publish(events.status_update(self.instance, self.instance.run, status, message))
        self._world.publish(events.instance_changed(self.instance))
        self._world.changes.notify()


async def kill_run(world: World, run: Run, grace_s: float) -> None:
    """Kill a run's container, once its host can be told to."""
    try:
        container = await run.container()
    except Exception as error:  # the launch failed, so nothing runs; the keeper reports it
        log.info("%s: nothing to kill: %s", run.task_id, error)
        run.end(Ending(Condition.KILLED, "Container killed"))
        return
    await world.hosts[run.host].reachable.wait()
    while not run.ended.done():
        try:
            async with world.kill_slots:
                await world.engine.kill(container, grace_s)
            run.end(Ending(Condition.KILLED, "Container killed"))
        except Exception as error:  # Marathon repeats kills too, until the task is gone
            log.warning("%s: kill failed, trying again: %s", run.task_id, error)
            await asyncio.sleep(KILL_RETRY_S)


def _failure(instance: Instance, run: Run, ending: Ending) -> dict[str, object]:
    return {
        "appId": instance.spec.app_id,
        "host": run.host,
        "message": ending.message,
        "state": ending.condition.task_state,
        "taskId": run.task_id,
        "timestamp": stamp(),
        "version": instance.spec.version,
        "slaveId": run.slave_id,
    }
