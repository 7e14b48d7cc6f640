"""How apps, tasks and groups look in the REST API, fields in Marathon's order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from mooring.lab.marathon.changes import parent
from mooring.lab.marathon.definition import service_ports
from mooring.lab.marathon.deployments import Deployments
from mooring.lab.marathon.errors import Malformed
from mooring.lab.marathon.model import App, Condition, Health, Instance, Json

ACTIVE_STATES = (Condition.PROVISIONED, Condition.STARTING, Condition.RUNNING, Condition.KILLING)
_STAGED = (Condition.PROVISIONED, Condition.STARTING)


def task(instance: Instance, ports: Collection[int] = ()) -> Json:
    """One task; what an inactive one lacks in Marathon is absent here too."""
    run = instance.run
    assert run is not None, "an instance without a run has no task"
    active = instance.condition in (*ACTIVE_STATES, Condition.UNREACHABLE)
    shown: Json = {
        "appId": instance.spec.app_id,
        "healthCheckResults": [_health(h, instance.id) for h in instance.health if h.known],
        "host": run.host,
        "id": run.task_id,
        "ipAddresses": list(run.addresses),
        "ports": list(run.ports) if active else [],
        "servicePorts": list(ports),
        "slaveId": run.slave_id,
        "state": instance.condition.task_state,
    }
    if active:
        shown["stagedAt"] = run.staged_at
        if run.started_at is not None:
            shown["startedAt"] = run.started_at
        shown["version"] = instance.spec.version
    return {**shown, "localVolumes": [], "role": "*"}


def tasks(app: App, *, with_service_ports: bool = False) -> list[Json]:
    """All tasks of an app; a Scheduled instance that never ran has none."""
    ports = service_ports(app.spec.definition) if with_service_ports else []
    shown = sorted((i for i in app.instances.values() if i.run is not None), key=lambda i: i.born)
    return [task(instance, ports) for instance in shown]


def app(app: App, deployments: Deployments, embed: Collection[str]) -> Json:
    """One app with its counts and deployments, and what `embed` asks for (`tasks`, `lastTaskFailure`)."""
    alive = [i for i in app.instances.values() if i.run is not None]
    running = [i for i in alive if i.condition is Condition.RUNNING]
    shown = {
        **app.spec.definition,
        "tasksStaged": sum(i.condition in _STAGED for i in alive),
        "tasksRunning": len(running),
        "tasksHealthy": sum(i.healthy is True for i in running),
        "tasksUnhealthy": sum(i.healthy is False for i in running),
        "deployments": [{"id": deployment.id} for deployment in deployments.holding(app.id)],
    }
    if "tasks" in embed:
        shown["tasks"] = tasks(app)
    if "lastTaskFailure" in embed and app.last_failure:
        shown["lastTaskFailure"] = app.last_failure
    if "readiness" in embed:
        shown["readinessCheckResults"] = []
    return shown


def group(group_id: str, apps: Iterable[App], deployments: Deployments, embed: Collection[str]) -> Json:
    """A group and, as far as `embed` asks (`group.apps`, `group.groups`), what is in it."""
    inside = [a for a in apps if contains(group_id, a.id)]
    prefix = group_id.rstrip("/") + "/"
    children = sorted(
        {prefix + a.id[len(prefix) :].split("/")[0] for a in inside if parent(a.id) != group_id}
    )
    nested = {part.removeprefix("group.") for part in embed if part.startswith("group.apps.")}
    wanted = {part.removeprefix("apps.") for part in nested}
    shown: Json = {"id": group_id, "dependencies": [], "pods": []}
    shown["apps"] = [
        app(a, deployments, wanted) for a in inside if parent(a.id) == group_id and "group.apps" in embed
    ]
    listed = children if "group.groups" in embed else []
    shown["groups"] = [group(child, inside, deployments, embed) for child in listed]
    shown["version"] = max((a.spec.version for a in inside), default="1970-01-01T00:00:00.000Z")
    return shown


def contains(group_id: str, app_id: str) -> bool:
    """Whether the app is in the group or below it."""
    return app_id.startswith(group_id.rstrip("/") + "/")


def matches(labels: dict[str, str], selector: str) -> bool:
    """Whether labels satisfy Marathon's selector: `a, b==x, c!=y, d in (p, q), e notin (r)`.

    Raises:
        Malformed: a part of the selector cannot be read.
    """
    return all(_matches_one(labels, part.strip()) for part in re.split(r",(?![^(]*\))", selector))


_SELECTOR = re.compile(
    r"(?P<name>[^\s=!(),]+)\s*(?:(?P<equal>==|!=)\s*(?P<value>[^\s]+)|(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?"
)


def _matches_one(labels: dict[str, str], part: str) -> bool:
    found = _SELECTOR.fullmatch(part)
    if found is None:
        raise Malformed(f"Parsing error: label selector '{part}' is not valid")
    name, value = found["name"], labels.get(found["name"])
    if found["equal"]:
        return name in labels and (value == found["value"]) == (found["equal"] == "==")
    if found["set"]:
        listed = [item.strip() for item in found["values"].split(",")]
        return name in labels and (value in listed) == (found["set"] == "in")
    return name in labels


def _health(health: Health, instance_id: str) -> Json:
    shown: Json = {
        "alive": health.alive,
        "consecutiveFailures": health.consecutive_failures,
        "firstSuccess": health.first_success,
        "lastFailure": health.last_failure,
        "lastSuccess": health.last_success,
        "lastFailureCause": health.last_failure_cause,
        "instanceId": instance_id,
    }
    return {key: value for key, value in shown.items() if value is not None}
