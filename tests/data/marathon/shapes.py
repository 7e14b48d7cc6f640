"""What one task, app, pod or event looks like on the wire in each version, 1.4 to 1.11.

`minor` is the version: 4 for 1.4, 11 for 1.11.  The differences are listed in the README beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

SLAVE = "3c7d1f54-8a2e-4d2f-9c55-6b0f7f0d2f11"
V1 = "2020-05-22T13:00:00.482Z"
V2 = "2020-05-22T13:20:00.482Z"

CHECK = {
    "gracePeriodSeconds": 60,
    "ignoreHttp1xx": False,
    "intervalSeconds": 10,
    "maxConsecutiveFailures": 3,
    "path": "/healthz",
    "portIndex": 0,
    "protocol": "HTTP",
    "timeoutSeconds": 5,
}


@dataclass(frozen=True)
class Launch:
    """One start of a task: the same `uuid` with a higher `n` is a relaunch in place (1.8 and later)."""

    app: str
    uuid: str
    agent: int
    ports: tuple[int, ...] = ()
    n: int = 1

    @property
    def host(self) -> str:
        return f"agent-{self.agent:02}.dc1.example.net"

    @property
    def slave(self) -> str:
        return f"{SLAVE}-S{self.agent}"

    @property
    def address(self) -> list[Json]:
        return [{"ipAddress": f"172.17.{self.agent}.9", "protocol": "IPv4"}]


def safe(path: str) -> str:
    return path.strip("/").replace("/", "_")


def task_id(minor: int, launch: Launch) -> str:
    if minor >= 8:
        return f"{instance_id(minor, launch)}._app.{launch.n}"
    return f"{safe(launch.app)}.{launch.uuid}"


def instance_id(minor: int, launch: Launch) -> str:
    kind = "instance" if minor >= 8 else "marathon"
    return f"{safe(launch.app)}.{kind}-{launch.uuid}"


# -- events: each returns its type and its fields; the timestamp is added when the story is told


def status(minor: int, launch: Launch, word: str, message: str = "", task: str = "") -> tuple[str, Json]:
    launched = word not in ("TASK_STAGING", "TASK_STARTING")
    return "status_update_event", {
        "slaveId": launch.slave,
        "taskId": task or task_id(minor, launch),
        "taskStatus": word,
        "message": message,
        "appId": launch.app,
        "host": launch.host,
        "ipAddresses": launch.address if launched else [],
        "ports": list(launch.ports),
        "version": V1,
    }


def condition(minor: int, launch: Launch, word: str, instance: str = "") -> tuple[str, Json]:
    placed = word != "Scheduled"
    return "instance_changed_event", {
        "instanceId": instance or instance_id(minor, launch),
        "condition": word,
        "runSpecId": launch.app,
        "agentId": launch.slave if placed else None,
        "host": launch.host if placed else None,
        "runSpecVersion": V1,
    }


def verdict(minor: int, launch: Launch, alive: bool) -> list[tuple[str, Json]]:
    """Marathon's own health checks tell a change of verdict twice."""
    instance = instance_id(minor, launch)
    changed = {"appId": launch.app, "instanceId": instance, "version": V1, "alive": alive}
    health = {"instanceId": instance, "runSpecId": launch.app, "healthy": alive, "runSpecVersion": V1}
    return [("health_status_changed_event", changed), ("instance_health_changed_event", health)]


def failed_check(minor: int, launch: Launch) -> tuple[str, Json]:
    name = "instanceId" if minor == 4 else "taskId"  # the value is an instance id under either name
    fields = {"appId": launch.app, "healthCheck": check(minor), name: instance_id(minor, launch)}
    return "failed_health_check_event", fields


def unhealthy_kill(minor: int, launch: Launch) -> tuple[str, Json]:
    return "unhealthy_instance_kill_event", {
        "appId": launch.app,
        "taskId": task_id(minor, launch),
        "instanceId": instance_id(minor, launch),
        "version": V1,
        "reason": "503 Service Unavailable",
        "host": launch.host,
        "slaveId": launch.slave,
    }


def deployment(minor: int, kind: str, id: str, actions: list[Json], groups: Json) -> tuple[str, Json]:
    """`deployment_info`, `deployment_step_success` or `deployment_success`; 1.4 sends both groups along."""
    plan: Json = {"id": id, "steps": [{"actions": [action]} for action in actions], "version": V1}
    if minor == 4:
        plan = {"id": id, "original": groups, "target": groups, **plan}
    if kind == "deployment_success":
        return kind, {"id": id, "plan": plan}
    return kind, {"plan": plan, "currentStep": {"actions": actions[-1:]}}


# -- listings


def check(minor: int) -> Json:
    return CHECK if minor == 4 else {**CHECK, "ipProtocol": "IPv4", "delaySeconds": 15}


def task(minor: int, launch: Launch, state: str = "TASK_RUNNING", alive: bool | None = None) -> Json:
    lost = state == "TASK_UNREACHABLE"  # and replaced: what an inactive task has no use for is stripped
    results = [] if alive is None else [_check_result(minor, launch, alive)]
    shape = {
        "appId": launch.app,
        "healthCheckResults": results,
        "host": launch.host,
        "id": task_id(minor, launch),
        "ipAddresses": launch.address,
        "ports": [] if lost else list(launch.ports),
        "servicePorts": [],
        "slaveId": launch.slave,
        "state": state,
    }
    if not lost:
        shape |= {"stagedAt": V1, "startedAt": V1, "version": V1}
    if minor == 4:
        return {name: value for name, value in shape.items() if value != []}
    shape["localVolumes"] = []
    if minor >= 6:
        shape |= {"region": "dc1", "zone": "rack-a"}
    if minor >= 9:
        shape["role"] = "*"
    return shape


def _check_result(minor: int, launch: Launch, alive: bool) -> Json:
    result: Json = {"alive": alive, "consecutiveFailures": 0, "firstSuccess": V1, "lastSuccess": V1}
    if minor == 4:
        result |= {"lastFailure": None, "lastFailureCause": None}
    return {**result, "instanceId": instance_id(minor, launch)}


def mapping(minor: int, container: int, service: int, name: str, host: int | None) -> Json:
    shape = {
        "containerPort": container,
        "servicePort": service,
        "protocol": "tcp",
        "name": name,
        "labels": {},
    }
    return shape if host is None and minor > 4 else {**shape, "hostPort": host}


def app(minor: int, id: str, network: str, ports: list[Json], tasks: list[Json], **fields: Any) -> Json:
    """An app on `network` (`host`, `container/bridge` or `container`), with its tasks."""
    shape = {
        "id": id,
        "instances": len(tasks),
        "cpus": 0.5,
        "mem": 256,
        "disk": 0,
        "gpus": 0,
        "executor": "",
        "backoffSeconds": 1,
        "backoffFactor": 1.15,
        "labels": {},
        "requirePorts": False,
        "upgradeStrategy": {"minimumHealthCapacity": 1, "maximumOverCapacity": 1},
        "version": V1,
        "versionInfo": {"lastScalingAt": V1, "lastConfigChangeAt": V1},
        "killSelection": "YOUNGEST_FIRST",
        "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0},
    }
    shape |= _networking_of_1_4(network, ports) if minor == 4 else _networking(network, ports)
    if minor >= 9:
        shape["role"] = "*"
    counts = {"tasksStaged": 0, "tasksRunning": len(tasks), "tasksHealthy": 0, "tasksUnhealthy": 0}
    return {**shape, **fields, **counts, "deployments": [], "tasks": tasks}


def _networking(network: str, ports: list[Json]) -> Json:
    name = {"name": "shop-net"} if network == "container" else {}
    if network == "host":
        return {"cmd": "serve --port $PORT0", "networks": [{"mode": "host"}], "portDefinitions": ports}
    docker = {"image": "example/shop:1", "forcePullImage": False, "privileged": False, "parameters": []}
    container = {"type": "DOCKER", "docker": docker, "volumes": [], "portMappings": ports}
    return {"networks": [{"mode": network, **name}], "container": container}


def _networking_of_1_4(network: str, ports: list[Json]) -> Json:
    services = [port.get("servicePort", port.get("port")) for port in ports]
    definitions = [{"port": port, "protocol": "tcp", "name": None, "labels": {}} for port in services]
    unset = dict.fromkeys(("cmd", "args", "user", "container", "ipAddress", "residency"))
    unset["taskKillGracePeriodSeconds"] = None
    lists = ("constraints", "uris", "fetch", "storeUrls", "dependencies", "healthChecks", "readinessChecks")
    empty: Json = {"env": {}, "secrets": {}, **{name: [] for name in lists}}
    shape: Json = {**unset, **empty, "ports": services, "portDefinitions": definitions}
    if network == "host":
        return {**shape, "cmd": "serve --port $PORT0", "portDefinitions": ports}
    docker = {"image": "example/shop:1", "network": "BRIDGE", "privileged": False, "parameters": []}
    if network == "container":
        docker["network"] = "USER"
        discovery: Json = {"ports": []}
        shape["ipAddress"] = {"networkName": "shop-net", "groups": [], "labels": {}, "discovery": discovery}
    docker |= {"portMappings": ports, "forcePullImage": False}
    return {**shape, "container": {"type": "DOCKER", "volumes": [], "docker": docker}}


def pod(minor: int, launch: Launch) -> Json:
    """A pod's status; its instances are named alike in every version."""
    containers = [{"name": "proxy", "status": "TASK_RUNNING", "statusSince": V1, "endpoints": []}]
    instance: Json = {
        "id": pod_instance(launch),
        "status": "STABLE",
        "statusSince": V1,
        "agentHostname": launch.host,
        "specReference": f"/v2/pods{launch.app}::versions/{V1}",
        "containers": containers,
        "lastUpdated": V1,
        "lastChanged": V1,
    }
    if minor >= 6:
        instance |= {"agentId": launch.slave, "agentRegion": "dc1", "agentZone": "rack-a"}
    if minor >= 9:
        instance["role"] = "*"
    spec = {"id": launch.app, "version": V1, "containers": [{"name": "proxy", "resources": {"cpus": 0.1}}]}
    return {"id": launch.app, "spec": spec, "status": "STABLE", "statusSince": V1, "instances": [instance]}


def pod_instance(launch: Launch) -> str:
    return f"{safe(launch.app)}.instance-{launch.uuid}"


def pod_task(minor: int, launch: Launch) -> str:
    number = ".1" if minor >= 8 else ""
    return f"{pod_instance(launch)}.proxy{number}"
