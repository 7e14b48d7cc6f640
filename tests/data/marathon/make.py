"""Writes the fixtures beside this file: `python -m tests.data.marathon.make` from the repository's root.

One story, told in each version's words: a pod comes up; an app is deployed with two instances; both become
healthy; one fails its checks and is restarted; the app is scaled down to one, and deleted.  The listings are
of the moment after the restart, at 13:15.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.data.marathon import shapes
from tests.data.marathon.shapes import V1, V2, Json, Launch, condition, status, verdict

HERE = Path(__file__).parent
RELEASES = {
    4: "1.4.13",
    5: "1.5.15",
    6: "1.6.590",
    7: "1.7.236",
    8: "1.8.244",
    9: "1.9.109",
    10: "1.10.26",
    11: "1.11.0",
}
FIRST = Launch("/shop/web", "11111111-9c2e-11ea-bb37-7085c2d4e601", 1, (31001, 31002))
SECOND = Launch("/shop/web", "22222222-9c2e-11ea-bb37-7085c2d4e601", 2, (31003, 31004))
RELAUNCHED = Launch("/shop/web", FIRST.uuid, 3, (31005, 31006), n=2)  # 1.8 and later: in place
REPLACEMENT = Launch("/shop/web", "33333333-9c2e-11ea-bb37-7085c2d4e601", 3, (31005, 31006))  # before
POD = Launch("/shop/edge", "44444444-9c2e-11ea-bb37-7085c2d4e601", 4)
OWN = Launch("/shop/own", "55555555-9c2e-11ea-bb37-7085c2d4e601", 5)
HOST = Launch("/shop/host", "66666666-9c2e-11ea-bb37-7085c2d4e601", 6, (31007,))
LOST = Launch("/shop/host", "77777777-9c2e-11ea-bb37-7085c2d4e601", 7, (31008,))
HEARTBEAT = b"\r\n"
Events = Iterator[tuple[str, Json]]


def healed(minor: int) -> Launch:
    return RELAUNCHED if minor >= 8 else REPLACEMENT


# -- the story


def pod_comes_up(minor: int) -> Events:
    yield "pod_created_event", {"clientIp": "10.20.0.15", "uri": "/v2/pods"}
    yield deployment(minor, "deployment_info", 0, "StartPod", POD.app, pod=True)
    instance, task = shapes.pod_instance(POD), shapes.pod_task(minor, POD)
    yield status(minor, POD, "TASK_RUNNING", task=task)
    yield condition(minor, POD, "Running", instance=instance)
    yield deployment(minor, "deployment_success", 0, "StartPod", POD.app, pod=True)


def is_deployed(minor: int) -> Events:
    yield "api_post_event", {"clientIp": "10.20.0.15", "uri": "/v2/apps", "appDefinition": web(minor, [])}
    yield "group_change_success", {"groupId": "/shop", "version": V1}
    yield deployment(minor, "deployment_info", 1, "StartApplication", FIRST.app)
    check = shapes.check(minor)
    yield "add_health_check_event", {"appId": FIRST.app, "healthCheck": check, "version": V1}
    for launch in (FIRST, SECOND):
        yield from starts(minor, launch, new=True)
    yield deployment(minor, "deployment_step_success", 1, "ScaleApplication", FIRST.app)
    yield deployment(minor, "deployment_success", 1, "ScaleApplication", FIRST.app)


def starts(minor: int, launch: Launch, new: bool) -> Events:
    if minor < 8:
        yield condition(minor, launch, "Created")
        yield status(minor, launch, "TASK_STAGING")
    else:
        if new:
            yield condition(minor, launch, "Scheduled")
        yield condition(minor, launch, "Provisioned")
        yield status(minor, launch, "TASK_STARTING")
        yield condition(minor, launch, "Starting")
    yield status(minor, launch, "TASK_RUNNING")
    yield condition(minor, launch, "Running")


def ends(minor: int, launch: Launch) -> Events:
    if minor >= 8:
        yield condition(minor, launch, "Running")  # its goal changed, its condition not yet
    yield status(minor, launch, "TASK_KILLED", "Command terminated with signal Terminated")
    yield condition(minor, launch, "Killed")


def becomes_healthy(minor: int) -> Events:
    yield from verdict(minor, FIRST, True)
    yield from verdict(minor, SECOND, True)


def is_restarted(minor: int) -> Events:
    for _ in range(3):
        yield shapes.failed_check(minor, FIRST)
    yield from verdict(minor, FIRST, False)
    yield shapes.unhealthy_kill(minor, FIRST)
    yield status(minor, FIRST, "TASK_KILLED", "Command terminated with signal Terminated")
    yield condition(minor, FIRST, "Killed")
    yield from starts(minor, healed(minor), new=False)
    yield from verdict(minor, healed(minor), True)


def is_scaled_down(minor: int) -> Events:
    yield deployment(minor, "deployment_info", 2, "ScaleApplication", FIRST.app)
    yield "group_change_success", {"groupId": "/shop", "version": V2}
    definition = {**web(minor, []), "instances": 1, "version": V2}
    uri = "/v2/apps/shop/web"
    yield "api_post_event", {"clientIp": "10.20.0.15", "uri": uri, "appDefinition": definition}
    yield from ends(minor, SECOND)
    yield deployment(minor, "deployment_step_success", 2, "ScaleApplication", FIRST.app)
    yield deployment(minor, "deployment_success", 2, "ScaleApplication", FIRST.app)


def is_deleted(minor: int) -> Events:
    yield "group_change_success", {"groupId": "/shop", "version": V2}
    yield deployment(minor, "deployment_info", 3, "StopApplication", FIRST.app)
    yield "remove_health_check_event", {"appId": FIRST.app}
    yield from ends(minor, healed(minor))
    yield "app_terminated_event", {"appId": FIRST.app}
    yield deployment(minor, "deployment_step_success", 3, "StopApplication", FIRST.app)
    yield deployment(minor, "deployment_success", 3, "StopApplication", FIRST.app)


CHAPTERS = {
    0: pod_comes_up,
    1: is_deployed,
    3: becomes_healthy,
    10: is_restarted,
    20: is_scaled_down,
    30: is_deleted,
}


def deployment(
    minor: int, kind: str, number: int, word: str, id: str, *, pod: bool = False
) -> tuple[str, Json]:
    """A deployment event about one app or pod; a start has two steps."""
    words = ["StartApplication", "ScaleApplication"] if number == 1 else [word]
    actions = [{"action": word, "pod" if pod else "app": id} for word in words]
    plan = f"0000000{number}-0d2b-4c2c-9d0b-1f5d3c1e6a77"
    group = {"id": "/", "apps": [], "groups": [{"id": "/shop", "apps": [web(minor, [])], "groups": []}]}
    return shapes.deployment(minor, kind, plan, actions, {**group, "dependencies": [], "version": V1})


def stream(minor: int) -> bytes:
    """The story as it is on the wire."""
    attached = ("event_stream_attached", {"remoteAddress": "10.20.0.40"})
    wire = HEARTBEAT + _framed(*attached, 0, 0)
    for minute, chapter in CHAPTERS.items():
        for number, (kind, fields) in enumerate(chapter(minor), 1):
            wire += _framed(kind, fields, minute, number)
        wire += 2 * HEARTBEAT
    return wire


def _framed(kind: str, fields: Json, minute: int, number: int) -> bytes:
    stamp = f"2020-05-22T13:{minute:02}:{number:02}.{number * 7:03}Z"
    data = json.dumps({**fields, "eventType": kind, "timestamp": stamp}, separators=(",", ":"))
    return f"event: {kind}\r\ndata: {data}\r\n\r\n".encode()


# -- the listings


def web(minor: int, tasks: list[Json]) -> Json:
    host = 0  # any port of the agent's
    ports = [
        shapes.mapping(minor, 8080, 10104, "http", host),
        shapes.mapping(minor, 9100, 10105, "metrics", host),
    ]
    return shapes.app(
        minor,
        FIRST.app,
        "container/bridge",
        ports,
        tasks,
        instances=2,
        labels={"team": "shop"},
        healthChecks=[shapes.check(minor)],
        upgradeStrategy={"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.25},
    )


def apps(minor: int) -> list[Json]:
    own = shapes.mapping(minor, 6379, 10120, "redis", None)
    admin = {"port": 10130, "protocol": "tcp", "name": "admin"} | ({"labels": {}} if minor == 4 else {})
    web_tasks = [shapes.task(minor, launch, alive=True) for launch in (healed(minor), SECOND)]
    host_tasks = [shapes.task(minor, HOST), shapes.task(minor, LOST, "TASK_UNREACHABLE")]
    return [
        web(minor, web_tasks),
        shapes.app(minor, OWN.app, "container", [own], [shapes.task(minor, OWN)]),
        shapes.app(minor, HOST.app, "host", [admin], host_tasks),
    ]


def info(minor: int) -> Json:
    return {
        "name": "marathon",
        "version": RELEASES[minor],
        "buildref": "unknown",
        "elected": True,
        "leader": "marathon-1.dc1.example.net:8080",
        "frameworkId": f"{shapes.SLAVE}-0001",
        "marathon_config": {"master": "zk://zk.dc1.example.net:2181/mesos", "ha": True},
        "zookeeper_config": {"zk": "zk://zk.dc1.example.net:2181/marathon"},
        "http_config": {"http_port": 8080, "https_port": 8443},
    }


def files(minor: int) -> dict[str, bytes]:
    """Every fixture of a version, by file name."""
    listed = apps(minor)
    bodies = {
        "apps.json": {"apps": listed},
        "app.json": {"app": listed[0]},
        "pods.json": [shapes.pod(minor, POD)],
        "info.json": info(minor),
        "leader.json": {"leader": "marathon-1.dc1.example.net:8080"},
    }
    texts = {name: json.dumps(body, indent=1).encode() + b"\n" for name, body in bodies.items()}
    return {"events.txt": stream(minor), **texts}


if __name__ == "__main__":
    for minor in RELEASES:
        folder = HERE / f"1.{minor}"
        folder.mkdir(exist_ok=True)
        for name, content in files(minor).items():
            (folder / name).write_bytes(content)
