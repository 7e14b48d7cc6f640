"""A Marathon as large as any, that only speaks: 5,000 apps of ten tasks, and as many events as asked for.

It serves the five paths that the daemon reads, with replies in the shape of Marathon 1.11, built once, and
a stream on which `send` publishes status updates at a steady rate.  The traffic is that of a large cluster
in trouble: of every twenty events eighteen repeat or refresh a running task, one reports a failed task and
one its next incarnation.  What has happened shows in the listings that are asked for later.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

STAMP = "2026-01-01T00:00:00.000Z"
HOSTS = [f"agent-{number:03}.dc1.example.net" for number in range(200)]
_SLICE_S = 0.005  # events leave in small groups, as a busy leader writes them
_ENDED = {"TASK_FAILED"}


@dataclass(slots=True)
class Task:
    """One instance as Marathon shows it."""

    app: str
    instance: str
    host: str
    ports: list[int]
    incarnation: int = 1
    state: str = "TASK_RUNNING"

    @property
    def id(self) -> str:
        return f"{self.instance}._app.{self.incarnation}"

    def listed(self) -> dict[str, Any]:
        healthy = {
            "alive": True, "consecutiveFailures": 0, "firstSuccess": STAMP, "instanceId": self.instance,
            "lastSuccess": STAMP,
        }  # fmt: skip
        return {
            "appId": self.app, "healthCheckResults": [healthy], "host": self.host, "id": self.id,
            "ipAddresses": [{"ipAddress": "172.17.0.5", "protocol": "IPv4"}], "ports": self.ports,
            "servicePorts": [], "slaveId": "3c7d1f54-8a2e-4d2f-9c55-6b0f7f0d2f11-S4", "state": self.state,
            "stagedAt": STAMP, "startedAt": STAMP, "version": STAMP, "localVolumes": [], "region": "dc1",
            "zone": "rack-a", "role": "*",
        }  # fmt: skip

    def event(self, number: int) -> bytes:
        minutes, ms = divmod(number, 60_000)  # a stamp later than the one before is all that matters
        body = {
            "slaveId": "3c7d1f54-8a2e-4d2f-9c55-6b0f7f0d2f11-S7", "taskId": self.id,
            "taskStatus": self.state, "message": "", "appId": self.app, "host": self.host,
            "ipAddresses": [{"ipAddress": "172.17.0.9", "protocol": "IPv4"}], "ports": self.ports,
            "version": STAMP, "eventType": "status_update_event",
            "timestamp": f"2026-01-02T{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}.{ms % 1000:03}Z",
        }  # fmt: skip
        return b"event: status_update_event\r\ndata: " + json.dumps(body).encode() + b"\r\n\r\n"


@dataclass(slots=True)
class SyntheticMarathon:
    """The whole cluster. `start` listens, `send` publishes."""

    apps: int
    tasks_per_app: int
    tasks: list[Task] = field(default_factory=list)
    url: str = ""
    sent: int = 0
    listings: int = 0
    _bodies: list[bytes] = field(default_factory=list)  # one app each, without its tasks
    _streams: set[web.StreamResponse] = field(default_factory=set)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Build the cluster and listen on a free loopback port."""
        for number in range(self.apps):
            self._add_app(number)
        app = web.Application()
        app.router.add_get("/v2/info", self._info)
        app.router.add_get("/v2/leader", self._leader)
        app.router.add_get("/v2/apps", self._list)
        app.router.add_get("/v2/apps/{id:.+}", self._one)
        app.router.add_get("/v2/pods/::status", self._pods)
        app.router.add_get("/v2/events", self._subscribe)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def send(self, per_second: int, seconds: float, sent: Callable[[int], None]) -> None:
        """Publish events at a steady rate; `sent` is told the total after each group."""
        began, last = time.monotonic(), int(per_second * seconds)
        numbers = iter(range(self.sent, self.sent + last))
        target = 0
        while target < last:
            target = min(last, int((time.monotonic() - began) * per_second))
            group = b"".join(self._next_event(next(numbers)) for _ in range(target - self.sent))
            if group:
                for stream in list(self._streams):
                    await stream.write(group)
                self.sent = target
                sent(target)
            await asyncio.sleep(_SLICE_S)

    def _next_event(self, number: int) -> bytes:
        task = self.tasks[number * 7919 % len(self.tasks)]
        if number % 20 == 18:
            task.state = "TASK_FAILED"
        elif number % 20 == 19:
            task = self.tasks[(number - 1) * 7919 % len(self.tasks)]  # the one that has just failed
            task.incarnation += 1
            task.state = "TASK_RUNNING"
        return task.event(number)

    def _add_app(self, number: int) -> None:
        path = f"/group-{number // 100:02}/service-{number:04}"
        safe = path[1:].replace("/", "_")
        for _ in range(self.tasks_per_app):
            index = len(self.tasks)
            ports = [31000 + index % 1000, 32000 + index % 1000]
            instance = f"{safe}.instance-{uuid.UUID(int=index + (1 << 100))}"
            self.tasks.append(Task(path, instance, HOSTS[index % len(HOSTS)], ports))
        self._bodies.append(json.dumps(_definition(path, self.tasks_per_app)).encode())

    def _app(self, number: int) -> bytes:
        mine = self.tasks[number * self.tasks_per_app : (number + 1) * self.tasks_per_app]
        tasks = json.dumps([task.listed() for task in mine]).encode()
        return self._bodies[number][:-1] + b', "tasks": ' + tasks + b"}"

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self.listings += 1
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"apps": [')
        for start in range(0, self.apps, 20):
            chunk = b", ".join(self._app(number) for number in range(start, min(start + 20, self.apps)))
            await response.write((b", " if start else b"") + chunk)
        await response.write(b"]}")
        return response

    async def _one(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"].rpartition("-")[2])
        return web.Response(body=b'{"app": ' + self._app(number) + b"}", content_type="application/json")

    async def _subscribe(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream;charset=utf-8"})
        await response.prepare(request)
        await response.write(
            b'event: event_stream_attached\r\ndata: {"remoteAddress": "127.0.0.1", '
            b'"eventType": "event_stream_attached", "timestamp": "2026-01-01T00:00:00.000Z"}\r\n\r\n'
        )
        self._streams.add(response)
        try:
            with suppress(ConnectionError):  # that is how a daemon that has been measured ends
                while True:
                    await asyncio.sleep(10)
                    await response.write(b"\r\n")
        finally:
            self._streams.discard(response)

    async def _pods(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response({"frameworkId": "bench-framework", "version": "1.11.24"})

    async def _leader(self, request: web.Request) -> web.Response:
        return web.json_response({"leader": "127.0.0.1:8080"})


def _definition(path: str, instances: int) -> dict[str, Any]:
    """An app as Marathon 1.11 lists it; one in three balanced, none with a pool of ours."""
    mapping = {
        "containerPort": 8080, "hostPort": 0, "labels": {}, "name": "http", "protocol": "tcp",
        "servicePort": 20_000 + int(path.rpartition("-")[2]),
    }  # fmt: skip
    docker = {"forcePullImage": False, "image": "example/web:2.14.0", "parameters": [], "privileged": False}
    check = {
        "gracePeriodSeconds": 60, "ignoreHttp1xx": False, "intervalSeconds": 10, "maxConsecutiveFailures": 3,
        "path": "/healthz", "portIndex": 0, "protocol": "MESOS_HTTP", "ipProtocol": "IPv4",
        "timeoutSeconds": 5, "delaySeconds": 15,
    }  # fmt: skip
    return {
        "id": path, "acceptedResourceRoles": ["*"], "backoffFactor": 1.15, "backoffSeconds": 1,
        "constraints": [["hostname", "UNIQUE"]],
        "container": {"type": "DOCKER", "docker": docker, "volumes": [], "portMappings": [mapping]},
        "cpus": 0.5, "disk": 0, "env": {"LOG_LEVEL": "info", "API_TOKEN": {"secret": "token0"}},
        "executor": "", "fetch": [], "healthChecks": [check], "instances": instances,
        "labels": {"team": "web", "HAPROXY_GROUP": "external"}, "maxLaunchDelaySeconds": 300, "mem": 512,
        "gpus": 0, "networks": [{"mode": "container/bridge"}], "requirePorts": False,
        "taskKillGracePeriodSeconds": 20,
        "upgradeStrategy": {"maximumOverCapacity": 1, "minimumHealthCapacity": 1}, "version": STAMP,
        "versionInfo": {"lastScalingAt": STAMP, "lastConfigChangeAt": STAMP},
        "killSelection": "YOUNGEST_FIRST",
        "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}, "role": "*",
        "tasksStaged": 0, "tasksRunning": instances, "tasksHealthy": instances, "tasksUnhealthy": 0,
        "deployments": [],
    }  # fmt: skip
