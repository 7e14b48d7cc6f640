"""A lab Marathon in this process, spoken to only by HTTP, with containers that exist only in memory.

`marathon` starts one (keyword arguments are settings); it answers `call`, keeps every event one plain
stream has carried in `events`, and waits with a deadline, never with a fixed pause.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mooring.lab.engine import Engine, Exit, Workload
from mooring.lab.marathon.marathon import Marathon
from mooring.lab.marathon.server import application
from mooring.lab.marathon.settings import Agent, Settings

DEADLINE_S = 10.0
AGENTS = tuple(Agent(f"agent-{n}", "127.0.0.1", f"S{n}") for n in (1, 2, 3))


class MemoryEngine:
    """An engine whose containers are entries in a dict; tests end them and choose what commands answer."""

    def __init__(self) -> None:
        self.running: dict[str, Workload] = {}
        self.command_status = 0
        self.refuse: str | None = None  # the message of every launch, when set
        self.hold = asyncio.Event()  # launches wait while cleared
        self.hold.set()
        self.launching = 0
        self.most_launching = 0
        self.executed: list[tuple[str, ...]] = []
        self._exits: asyncio.Queue[Exit] = asyncio.Queue()

    async def launch(self, workload: Workload) -> str:
        self.launching += 1
        self.most_launching = max(self.most_launching, self.launching)
        await asyncio.sleep(0)
        await self.hold.wait()
        self.launching -= 1
        if self.refuse is not None:
            raise RuntimeError(self.refuse)
        name = f"mesos-{uuid.uuid4()}"
        self.running[name] = workload
        return name

    async def kill(self, container: str, grace_s: float) -> None:
        self.end(container, 143)

    async def pid(self, container: str) -> int:
        if container not in self.running:
            raise LookupError(container)
        return os.getpid()

    async def execute(self, container: str, argv: Sequence[str], timeout_s: float) -> int:
        self.executed.append(tuple(argv))
        return self.command_status

    async def exits(self) -> AsyncIterator[Exit]:
        while True:
            yield await self._exits.get()

    def end(self, container: str, exit_code: int) -> None:
        """The container ends by itself."""
        if workload := self.running.pop(container, None):
            self._exits.put_nowait(Exit(container, workload.task_id, exit_code))

    def crash(self, task_id: str, exit_code: int = 1) -> None:
        """The task's container ends by itself."""
        self.end(next(name for name, w in self.running.items() if w.task_id == task_id), exit_code)


class DeafEngine(MemoryEngine):
    """An engine whose stream of exits can break off."""

    def __init__(self) -> None:
        super().__init__()
        self._broken = asyncio.Event()

    def break_off(self) -> None:
        """End the stream of exits with an error."""
        self._broken.set()

    async def exits(self) -> AsyncIterator[Exit]:
        await self._broken.wait()
        self._broken.clear()
        raise ConnectionError("the engine went away")
        yield


class Harness:
    """One running Marathon and a stream that has been open since before anything happened."""

    def __init__(self, engine: Engine, port: int) -> None:
        self.engine = engine
        self.port = port
        self.events: list[dict[str, Any]] = []
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{port}")
        self._following: asyncio.Task[None] | None = None

    async def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """The JSON answer of a request that has to be answered with `expect`."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        async with self._session.request(method, path, data=data, allow_redirects=False) as response:
            text = await response.text()
            assert response.status == expect, f"{method} {path}: {response.status} {text}"
            return json.loads(text) if response.content_type == "application/json" else text

    async def open_stream(self, query: str = "", **limits: int) -> tuple[asyncio.StreamReader, Any]:
        """A raw connection after the request for a stream; nothing is read yet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **limits)
        writer.write(
            f"GET /v2/events{query} HTTP/1.1\r\nHost: lab\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        return reader, writer

    async def follow(self) -> None:
        """Record every event until the stream ends; returns once it is attached."""
        reader, writer = await self.open_stream()
        before = len(self.events)
        self._following = asyncio.create_task(self._record(reader, writer))
        await self.until(lambda: len(self.events) > before)

    async def _record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    self.events.append(json.loads(line[6:]))
        finally:
            writer.close()

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until the condition is true; what it returned."""
        async with asyncio.timeout(DEADLINE_S):
            while not (result := true()):
                await asyncio.sleep(0.005)
            return result

    async def settled(self, path: str, true: Callable[[Any], Any]) -> Any:
        """Wait until the answer to a GET satisfies the condition; that answer."""
        async with asyncio.timeout(DEADLINE_S):
            while not true(answer := await self.call("GET", path)):
                await asyncio.sleep(0.01)
            return answer

    async def deploy(self, app_id: str = "/shop/web", **fields: Any) -> list[dict[str, Any]]:
        """Create an app, wait for its deployment, and return its tasks; the events so far are dropped."""
        app = {"id": app_id, "cmd": "serve", "backoffSeconds": 0, **fields}
        await self.call("POST", "/v2/apps", app, expect=201)
        tasks = await self.quiet(app_id)
        await self.fresh()
        return tasks

    async def fresh(self) -> None:
        """Forget all events up to now, also those that are still on their way."""
        await self.call("POST", "/lab/events", {"eventType": "marker_event"})
        await self.seen("marker_event")
        self.events.clear()

    async def quiet(self, app_id: str = "/shop/web") -> list[dict[str, Any]]:
        """Wait until no deployment is left and as many tasks run as the app wants; those tasks."""

        def at_rest(answer: Any) -> bool:
            app = answer["app"]
            states = [task["state"] for task in app["tasks"]]
            return not app["deployments"] and states == ["TASK_RUNNING"] * app["instances"]

        tasks: list[dict[str, Any]] = (await self.settled(f"/v2/apps{app_id}", at_rest))["app"]["tasks"]
        return tasks

    async def idle(self) -> None:
        """Wait until no deployment is left."""
        await self.settled("/v2/deployments", lambda deployments: not deployments)

    async def seen(self, last: str) -> list[str]:
        """All events so far in short form, once one reads as `last`."""
        await self.until(lambda: last in map(short, self.events))
        return [short(event) for event in self.events]

    async def close(self) -> None:
        if self._following:
            self._following.cancel()
        await self._session.close()


def short(event: dict[str, Any]) -> str:
    """An event in a few words: `SU RUNNING`, `IC Killed`, `deployment_info Scale`, `app_terminated_event`."""
    kind = event["eventType"]
    if kind == "status_update_event":
        return "SU " + event["taskStatus"].removeprefix("TASK_")
    if kind == "instance_changed_event":
        return f"IC {event['condition']}"
    if kind == "instance_health_changed_event":
        return f"healthy {event['healthy']}"
    if kind == "health_status_changed_event":
        return f"alive {event['alive']}"
    if "currentStep" in event:
        actions = [action["action"].removesuffix("Application") for action in event["currentStep"]["actions"]]
        return f"{kind} {'+'.join(actions)}"
    return str(kind)


def instance_of(task: dict[str, Any]) -> str:
    """The instance id inside a task's id."""
    return str(task["id"]).split("._app.")[0]


Start = Callable[..., Awaitable[Harness]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts Marathons; keyword arguments are settings, `engine` replaces the one in memory."""
    runners: list[tuple[web.AppRunner, Harness]] = []

    async def start_one(engine: Engine | None = None, **settings: Any) -> Harness:
        engine = engine or MemoryEngine()
        given = {"agents": AGENTS, "framework_id": "fw-1", "heartbeat_s": 0.2, "backoff_floor_s": 0.0}
        marathon = Marathon(Settings(**{**given, **settings}), engine)
        runner = web.AppRunner(application(marathon), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        harness = Harness(engine, runner.addresses[0][1])
        runners.append((runner, harness))
        await harness.follow()
        return harness

    yield start_one
    for runner, harness in runners:
        if isinstance(harness.engine, MemoryEngine):
            harness.engine.hold.set()
        await harness.close()
        await runner.cleanup()


@pytest.fixture
async def lab(start: Start) -> Harness:
    """A Marathon with three agents and containers in memory."""
    return await start()


@pytest.fixture
def deaf_engine() -> DeafEngine:
    """An engine whose stream of exits can be made to break off."""
    return DeafEngine()


@pytest.fixture
def shorten() -> Callable[[dict[str, Any]], str]:
    """Turns an event into a few words, for comparing sequences."""
    return short


@pytest.fixture
def instance_id() -> Callable[[dict[str, Any]], str]:
    """Cuts the instance id out of a task."""
    return instance_of
