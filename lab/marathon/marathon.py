"""One Marathon, put together: the only place that knows all its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from mooring.lab.engine import Engine
from mooring.lab.marathon.changes import WantedState
from mooring.lab.marathon.deployments import Deployments
from mooring.lab.marathon.fleet import Fleet
from mooring.lab.marathon.hosts import Hosts
from mooring.lab.marathon.leadership import Leadership
from mooring.lab.marathon.rollout import Rollout
from mooring.lab.marathon.settings import Settings
from mooring.lab.marathon.stream import EventStreams
from mooring.lab.marathon.world import World


class Marathon:
    """The parts that the HTTP interface speaks to."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Wire everything; nothing runs before `running`."""
        self.settings = settings
        self.world = World(settings, engine)
        self.fleet = Fleet(self.world)
        self.deployments = Deployments(self.world, Rollout(self.world, self.fleet))
        self.wanted = WantedState(self.world, self.deployments)
        self.hosts = Hosts(self.world, self.fleet)
        self.leadership = Leadership(self.world, self.deployments)
        self.streams = EventStreams(self.world.bus, settings.heartbeat_s, settings.stream_buffer_bytes)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow containers' ends and keep apps at scale; on leaving, kill every container it started."""
        self.world.spawn(self.world.follow_exits(), "exits")
        self.world.spawn(self.fleet.watch_scale(self.deployments.locked), "scale check")
        await asyncio.sleep(0)  # the exits have to be followed before the first launch
        try:
            yield
        finally:
            self.world.bus.cut()
            await self.world.close()
            await self.world.kill_all()
