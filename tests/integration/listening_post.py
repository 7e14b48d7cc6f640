"""A Marathon of the lab, a faulty network, and everything of the controller that listens to Marathon.

    lab's Marathon (real HTTP, real processes) -- FaultProxy -- StreamReader, snapshots -> Watch -> View

The reader has its default durations.  `recovered` says how long after a fault's end the stream was
attached again and a snapshot that began after the attachment had been merged.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from mooring.cext import Frame
from mooring.controller.access import Access
from mooring.controller.queue import WorkQueue
from mooring.controller.snapshot import Marathon
from mooring.controller.stream import StreamReader
from mooring.controller.view import View
from mooring.controller.watch import Watch
from mooring.core.clock import SystemClock
from mooring.core.model import BindingId, State
from mooring.lab.marathon.marathon import Marathon as LabMarathon
from mooring.lab.marathon.server import application
from mooring.lab.marathon.settings import Agent, Settings
from mooring.lab.processes import ProcessEngine
from tests.integration.fault_proxy import FaultProxy

APP = "/shop/web"
DEADLINE_S = 20.0


class Lab:
    """A Marathon with one app, asked without any proxy."""

    def __init__(self, marathon: LabMarathon, port: int, session: aiohttp.ClientSession) -> None:
        self.marathon = marathon
        self.port = port
        self._session = session

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer."""
        async with self._session.request(method, path, data=body and json.dumps(body)) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    async def scale(self, instances: int) -> None:
        """Have so many instances; returns once they run."""
        await self.call("PUT", f"/v2/apps{APP}", {"instances": instances})
        await self.settled(instances)

    async def settled(self, instances: int) -> None:
        """Wait until so many run and no deployment is left."""
        await until(lambda: len(self.running()) == instances and not self.marathon.deployments.running())

    def running(self) -> set[str]:
        """The ids of all instances that run."""
        apps = self.marathon.world.every_app()
        return {i.id for app in apps for i in app.instances.values() if i.condition.value == "Running"}


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    """One Marathon whose containers are plain processes."""
    settings = Settings(agents=(Agent("agent-1", "127.0.0.1", "S1"),), framework_id="fw-1", backoff_floor_s=0)
    marathon = LabMarathon(settings, ProcessEngine("stream-faults", {}))
    runner = web.AppRunner(application(marathon), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            made = Lab(marathon, port, session)
            await made.call("POST", "/v2/apps", {"id": APP, "cmd": "exec sleep 600", "instances": 1})
            await made.settled(1)
            yield made
    finally:
        await runner.cleanup()


@dataclass
class Ear:
    """Hears the stream for the watch, and remembers when and what."""

    watch: Watch
    attached_at: float = 0.0
    heard: list[Frame] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def attached(self) -> None:
        self.attached_at = time.monotonic()
        self.watch.attached()

    def event(self, frame: Frame) -> None:
        self.heard.append(frame)
        self.watch.event(frame)

    def lost(self, reason: str) -> None:
        self.losses.append(reason)
        self.watch.lost(reason)

    def detached(self, reason: str) -> None:
        self.watch.detached(reason)


class Post:
    """The listening post."""

    def __init__(self, lab: Lab, proxy: FaultProxy, access: Access, marathon: Marathon) -> None:
        clock, chance = SystemClock(), random.Random(1)
        queue: WorkQueue[BindingId] = WorkQueue(clock, chance)
        self.lab = lab
        self.proxy = proxy
        self.view = View()
        self.watch = Watch(
            self.view, marathon, queue, clock, chance, 600.0, heard=lambda _: None, stored_keys=lambda: ()
        )
        self.ear = Ear(self.watch)
        self.reader = StreamReader(access, self.ear, clock, chance)

    async def failed(self, reason: str, since: int, times: int = 1) -> None:
        """Wait until the reader has failed so often since it had `since` failures, lastly for that reason."""

        def has() -> bool:
            told = self.reader.last_failure or ""
            return self.reader.failures >= since + times and reason in told

        try:
            await until(has)
        except TimeoutError:
            raise AssertionError(f"not {reason!r} but {self.reader.last_failure!r}") from None

    async def quiet(self) -> None:
        """Wait until nothing but the stream has been asked for in a second."""
        await until(lambda: time.monotonic() - self.proxy.requests[-1][0] > 1.0)

    async def recovered(self, since: float) -> float:
        """Seconds from `since` to the end of the first snapshot begun after an attachment after it."""

        def has() -> bool:
            at = self.ear.attached_at
            begun = [when for when, target in self.proxy.requests if listing(target) and when >= at >= since]
            merged = self.watch.snapshot_at
            return self.reader.is_attached and bool(begun) and merged is not None and merged >= begun[0]

        return await self._took(since, has)

    async def listed_anew(self, since: float) -> float:
        """Seconds from `since` to the end of the first snapshot begun after it, attached all the time."""

        def has() -> bool:
            begun = [when for when, target in self.proxy.requests if listing(target) and when >= since]
            merged = self.watch.snapshot_at
            return bool(begun) and merged is not None and merged >= begun[0]

        return await self._took(since, has)

    async def _took(self, since: float, has: Callable[[], bool]) -> float:
        await until(has)
        took = time.monotonic() - since
        await until(lambda: self.seen() == self.lab.running())
        return took

    def seen(self) -> set[str]:
        """The ids of all instances that run, as far as the view knows."""
        return {str(i.id) for i in self.view.instances() if i.state is State.RUNNING}


@asynccontextmanager
async def post(
    *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, ca_file: Path | None = None
) -> AsyncIterator[Post]:
    """A post that is attached and has its first snapshot."""
    async with lab() as made:
        proxy = FaultProxy(made.port)
        await proxy.listen(tls)
        access = Access((f"{'https' if tls else 'http'}://{host}:{proxy.port}",), ca_file=ca_file)
        async with Marathon(access, SystemClock()) as marathon:
            built = Post(made, proxy, access, marathon)
            began = time.monotonic()
            tasks = [asyncio.create_task(built.reader.run()), asyncio.create_task(built.watch.run())]
            try:
                await built.recovered(began)
                yield built
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task
                await proxy.close()


def listing(target: str) -> bool:
    """Whether a request asks for all apps."""
    return target.startswith("/v2/apps?")


async def until(true: Callable[[], bool]) -> None:
    """Wait for the condition; raises `TimeoutError` when it does not come true."""
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.005)
