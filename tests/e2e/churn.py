"""Apps that never rest: scaled, killed, restarted, moved, deleted and created, by a seeded hand.

What the hand does is drawn from a seed, so that a run can be told and tried again, though never repeated to
the millisecond.  A transition is one instance that is created, killed or restarted.  `Counted` reads
Marathon's own stream beside the daemon and counts the containers that really started and ended.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import beside

APPS = tuple(f"/churn/app{number}" for number in range(1, 6))
MOST = 6  # instances of an app
LONGEST_PAUSE_S = 0.5
_ENDS = {"TASK_KILLED", "TASK_FAILED", "TASK_FINISHED", "TASK_LOST"}


@dataclass
class Counted:
    """How many containers have started and ended since we listen."""

    started: int = 0
    ended: int = 0


@asynccontextmanager
async def counted(plan: LabPlan) -> AsyncIterator[Counted]:
    """Listen to Marathon's stream meanwhile."""
    seen = Counted()
    headers = {"Accept": "text/event-stream"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{plan.marathon_url}/v2/events", headers=headers) as stream,
        beside(_count(stream, seen)),
    ):
        yield seen


async def _count(stream: aiohttp.ClientResponse, seen: Counted) -> None:
    async for line in stream.content:
        if line.startswith(b"data:"):
            status = json.loads(line.removeprefix(b"data:")).get("taskStatus")
            seen.started += status == "TASK_RUNNING"
            seen.ended += status in _ENDS


@dataclass
class Churn:
    """The hand. `transitions` counts what it has asked for."""

    handle: LabHandle
    operator: Operator
    chance: random.Random
    wanted: dict[str, int] = field(default_factory=dict)
    transitions: int = 0

    async def begin(self) -> None:
        """Create every app."""
        for name in APPS:
            await self._create(name)

    async def go_on(self, transitions: int, share: Callable[[], float]) -> None:
        """Do one thing after the other until there were so many transitions; then have every app there.

        `share` says which part of them may have been by now, so that they accompany something else.
        """
        while self.transitions < transitions:
            if self.transitions < transitions * share():
                await self._act(self.chance.choice(APPS))
            await asyncio.sleep(self.chance.uniform(0.0, LONGEST_PAUSE_S))
        for name in APPS:
            await (self._scale(name) if name in self.wanted else self._create(name))

    async def _act(self, name: str) -> None:
        if name not in self.wanted:
            await self._create(name)
            return
        acts: list[Callable[[str], Awaitable[None]]] = [self._scale, self._kill, self._restart, self._move]
        act = self.chance.choices([*acts, self._delete], weights=[6, 5, 2, 3, 2])[0]
        with suppress(LabError):  # what was to be killed or moved has ended by itself
            await act(name)

    async def _create(self, name: str) -> None:
        instances = self.chance.randint(2, MOST)
        definition = app(name, instances, 8080)
        while True:
            with suppress(LabError):  # the deletion is still under way
                await self.operator.deploy(definition)
                break
            await asyncio.sleep(0.1)
        self.wanted[name] = instances
        self.transitions += instances

    async def _delete(self, name: str) -> None:
        await self.operator.delete(name)
        self.transitions += self.wanted.pop(name)

    async def _scale(self, name: str) -> None:
        instances = self.chance.choice([count for count in range(1, MOST + 1) if count != self.wanted[name]])
        await self.operator.scale(name, instances)
        self.transitions += abs(instances - self.wanted[name])
        self.wanted[name] = instances

    async def _restart(self, name: str) -> None:
        await self.operator.restart(name)
        self.transitions += self.wanted[name]

    async def _kill(self, name: str) -> None:
        """Up to three containers at once, behind Marathon's back."""
        tasks = [str(task.id) for task in await self.operator.running(name)]
        for task in self.chance.sample(tasks, min(len(tasks), 3)):
            await self.handle.docker_kill(task)
            self.transitions += 1

    async def _move(self, name: str) -> None:
        """Relaunch one instance on a host of our choice."""
        shown: list[dict[str, Any]] = await self.operator.send("GET", "/lab/instances")
        there = [one for one in shown if one["app"] == name and one["condition"] == "Running"]
        if there:
            one = self.chance.choice(there)
            host = self.chance.choice([agent.hostname for agent in self.handle.plan.agents])
            await self.operator.send("POST", f"/lab/instances/{one['id']}/move?host={host}")
            self.transitions += 1
