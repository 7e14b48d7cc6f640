"""The state the lab's Marathon keeps, all in memory, and the few things its parts share.

Nothing is adopted at a start: an old container belongs to no instance.  `leading` is cleared while
no Marathon leads, and everything that would decide or report waits for it, so a change during that
time shows only afterwards, as after a real failover.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from mooring.lab.engine import Engine, Exit
from mooring.lab.marathon.bus import Bus
from mooring.lab.marathon.model import App, Condition, Ending, Instance, Json, Run, RunSpec
from mooring.lab.marathon.settings import Agent, Settings
from mooring.lab.marathon.times import Versions

FIRST_HOST_PORT = 31000
EXITS_RETRY_S = 0.5
LAST_KILL_S = 3.0

log = logging.getLogger(__name__)


class Changes:
    """Wakes every loop that waits for something about instances to change.

    A loop notes `count` before it looks and acts, and waits for a later one: so a change that its own
    acting brought about makes it look again instead of being slept through.
    """

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something changed: wake all who wait."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def after(self, count: int, timeout_s: float | None = None) -> None:
        """Return once there was a change after `count`, or after `timeout_s` seconds."""
        if self.count > count:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()


class Host:
    """An agent: whether it can be reached and which of its ports are taken."""

    def __init__(self, agent: Agent) -> None:
        """Begin reachable, with all ports free."""
        self.agent = agent
        self.reachable = asyncio.Event()
        self.reachable.set()
        self.taken: set[int] = set()

    @property
    def name(self) -> str:
        """The agent's host name."""
        return self.agent.hostname

    def allocate(self, wanted: list[int]) -> list[int]:
        """Take these ports; a 0 takes the lowest free one from 31000."""
        ports: list[int] = []
        for port in wanted:
            free = (p for p in itertools.count(FIRST_HOST_PORT) if p not in self.taken)
            ports.append(port or next(free))
            self.taken.add(ports[-1])
        return ports

    def release(self, ports: list[int]) -> None:
        """Give ports back."""
        self.taken.difference_update(ports)


class Backoffs:
    """How long an app's version has to wait before its next launch."""

    def __init__(self, floor_s: float, reset_s: float) -> None:
        """Never wait less than `floor_s`; forget failures after a run of `reset_s`."""
        self._floor_s = floor_s
        self._reset_s = reset_s
        self._state: dict[tuple[str, str], tuple[float, float]] = {}  # delay, ready at

    def ready_at(self, spec: RunSpec) -> float:
        """Loop time at which the next launch may happen."""
        return self._state.get((spec.app_id, spec.version), (0.0, 0.0))[1]

    def failed(self, spec: RunSpec, ran_s: float) -> None:
        """A task ended by itself after `ran_s` seconds: wait longer than last time."""
        key = (spec.app_id, spec.version)
        delay, _ = self._state.get(key, (0.0, 0.0))
        if not delay or ran_s >= self._reset_s:
            delay = float(spec.definition["backoffSeconds"])
        else:
            delay *= float(spec.definition["backoffFactor"])
        delay = min(delay, float(spec.definition["maxLaunchDelaySeconds"]))
        self._state[key] = delay, asyncio.get_running_loop().time() + max(delay, self._floor_s)


class World:
    """Apps, hosts, runs and what the parts share."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Begin with no apps and every host reachable."""
        self.settings = settings
        self.engine = engine
        self.bus = Bus(settings.max_outstanding)
        self.changes = Changes()
        self.versions = Versions()
        self.hosts = {agent.hostname: Host(agent) for agent in settings.agents}
        self.apps: dict[str, App] = {}
        self.leaving: list[App] = []  # deleted, but tasks are still being killed
        self.runs: dict[str, Run] = {}
        self.overlooked: set[str] = set()  # tasks, the next end of whose container is not noticed
        self.backoffs = Backoffs(settings.backoff_floor_s, settings.backoff_reset_s)
        self.launch_slots = asyncio.Semaphore(settings.launches_at_once)
        self.kill_slots = asyncio.Semaphore(settings.kills_at_once)
        self.leading = asyncio.Event()
        self.leading.set()
        self.births = itertools.count(1)
        self.turns = itertools.count()  # round robin over hosts
        self._tasks: set[asyncio.Task[Any]] = set()

    def publish(self, event: Json) -> None:
        """Send one event to all streams."""
        self.bus.publish(event)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine beside everything else; its failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def every_app(self) -> Iterator[App]:
        """All apps, also those being deleted."""
        yield from self.apps.values()
        yield from self.leaving

    def find(self, instance_id: str) -> tuple[App, Instance] | None:
        """The instance with this id and its app."""
        for app in self.every_app():
            if instance := app.instances.get(instance_id):
                return app, instance
        return None

    async def follow_exits(self) -> None:
        """Note the end of every container, for as long as Marathon lives."""
        while True:
            try:
                async for exit_ in self.engine.exits():
                    self._note(exit_)
            except Exception:
                log.exception("the engine's exits broke off; listening again")
            await asyncio.sleep(EXITS_RETRY_S)
            await asyncio.gather(*(self._recheck(run) for run in list(self.runs.values())))

    async def kill_all(self) -> None:
        """Kill every container that was started, so that a stopped lab leaves none behind."""
        await asyncio.gather(*(self._kill(run) for run in self.runs.values()))

    async def _kill(self, run: Run) -> None:
        try:
            async with asyncio.timeout(LAST_KILL_S):
                await self.engine.kill(await run.container(), 0.0)
        except Exception as error:  # on the way out the rest still has to be killed
            log.warning("%s: not killed: %s", run.task_id, error)

    async def close(self) -> None:
        """Stop everything that was spawned."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _recheck(self, run: Run) -> None:
        """Find out whether a container ended while nobody listened."""
        if run.launch is None or not run.launch.done() or run.ended.done():
            return
        try:
            await self.engine.pid(await run.container())
        except Exception as error:  # every engine says in its own way that a container is gone
            run.end(Ending(Condition.FAILED, f"Container lost: {error}"))

    def _note(self, exit_: Exit) -> None:
        if exit_.task_id in self.overlooked:
            self.overlooked.discard(exit_.task_id)
        elif run := self.runs.get(exit_.task_id):
            run.end(ending_of(exit_, killed=run.kill_requested))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=error)


def ending_of(exit_: Exit, *, killed: bool) -> Ending:
    """How Mesos reports an exit."""
    if killed:
        return Ending(Condition.KILLED, "Container killed")
    if exit_.exit_code == 0:
        return Ending(Condition.FINISHED, "Container exited with status 0")
    return Ending(Condition.FAILED, f"Container exited with status {exit_.exit_code}")
