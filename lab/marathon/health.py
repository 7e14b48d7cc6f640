"""Probes a running instance and says what follows from the results.

A failure before the first success and within the grace period does not count.  A check's verdict
flips with its latest result; the instance is healthy when all its checks are.  Marathon's own checks
announce every failure and kill at `maxConsecutiveFailures`; Mesos's checks show only at a flip, as a
repeated TASK_RUNNING, and the agent does the killing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mooring.lab.marathon import events
from mooring.lab.marathon.model import Health, Instance, Json, Run
from mooring.lab.marathon.probes import probe, run_by_mesos
from mooring.lab.marathon.settings import Agent
from mooring.lab.marathon.times import stamp
from mooring.lab.marathon.world import World

SHORTEST_INTERVAL_S = 0.01


class HealthWatch:
    """All checks of one run."""

    def __init__(
        self, world: World, instance: Instance, run: Run, agent: Agent, kill: Callable[[], None]
    ) -> None:
        """Begin to probe; `kill` is called when a check has failed too often."""
        self._world = world
        self._instance = instance
        self._run = run
        self._agent = agent
        self._kill = kill
        self._tasks = [
            world.spawn(self._watch(index, check), f"health check {index} of {run.task_id}")
            for index, check in enumerate(instance.spec.health_checks)
        ]

    def stop(self) -> None:
        """Probe no more; late results are dropped."""
        for task in self._tasks:
            task.cancel()

    async def _watch(self, index: int, check: Json) -> None:
        loop = asyncio.get_running_loop()
        if run_by_mesos(check):
            await asyncio.sleep(float(check["delaySeconds"]))
        while True:
            began = loop.time()
            cause = await probe(check, self._instance, self._run, self._agent, self._world.engine)
            await self._world.leading.wait()
            await self._world.hosts[self._run.host].reachable.wait()
            self._judge(check, self._instance.health[index], cause)
            rest = began + float(check["intervalSeconds"]) - loop.time()
            await asyncio.sleep(max(rest, SHORTEST_INTERVAL_S))

    def _judge(self, check: Json, health: Health, cause: str | None) -> None:
        if cause is None:
            self._passed(check, health)
        elif health.first_success is not None or not self._in_grace(check):
            self._failed(check, health, cause)

    def _in_grace(self, check: Json) -> bool:
        began = self._run.began or 0.0
        return asyncio.get_running_loop().time() < began + float(check["gracePeriodSeconds"])

    def _passed(self, check: Json, health: Health) -> None:
        flipped = not health.alive
        health.last_success = stamp()
        health.first_success = health.first_success or health.last_success
        health.consecutive_failures = 0
        health.alive = True
        if flipped:
            self._announce(check, health.alive, flipped=True)

    def _failed(self, check: Json, health: Health, cause: str) -> None:
        if not run_by_mesos(check):
            self._world.publish(events.failed_health_check(self._instance, check))
        flipped = health.alive
        health.last_failure, health.last_failure_cause = stamp(), cause
        health.consecutive_failures += 1
        health.alive = False
        self._announce(check, health.alive, flipped=flipped)
        limit = int(check["maxConsecutiveFailures"])
        if limit and health.consecutive_failures >= limit:
            if not run_by_mesos(check):
                self._world.publish(events.unhealthy_instance_kill(self._instance, self._run, cause))
            self._kill()

    def _announce(self, check: Json, alive: bool, *, flipped: bool) -> None:
        before, self._instance.healthy = self._instance.healthy, verdict(self._instance.health)
        changed = self._instance.healthy is not before
        if run_by_mesos(check) and (flipped or changed):
            self._world.publish(events.status_update(self._instance, self._run, "TASK_RUNNING"))
        if flipped:
            self._world.publish(events.health_status_changed(self._instance, alive))
        if changed:
            self._world.publish(events.instance_health_changed(self._instance))
            self._world.changes.notify()


def verdict(results: list[Health]) -> bool | None:
    """Healthy, unhealthy, or unknown while a check has no result and none has failed."""
    known = [health.alive for health in results if health.known]
    if False in known:
        return False
    return True if known and len(known) == len(results) else None
