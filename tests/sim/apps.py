"""Apps and instances of the simulated Marathon, and how they look in its listings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PORT = 8080
LISTED = {
    "Provisioned": "TASK_STAGING",
    "Running": "TASK_RUNNING",
    "Unreachable": "TASK_UNREACHABLE",
    "UnreachableInactive": "TASK_UNREACHABLE",
    "Killing": "TASK_KILLING",
    "Killed": "TASK_KILLED",
    "Failed": "TASK_FAILED",
    "Gone": "TASK_GONE_BY_OPERATOR",
}
WITHOUT_DETAIL = ("UnreachableInactive", "Killed", "Failed", "Gone")


@dataclass
class SimApp:
    """An app's definition."""

    id: str
    instances: int
    labels: dict[str, str] = field(default_factory=dict)
    checked: bool = True
    minimum_health: float = 1.0
    over_capacity: float = 1.0
    when_lost: str = "replace"  # or "keep", "gone": what becomes of instances on a silent agent
    version: str = ""

    @property
    def pooled(self) -> bool:
        return "MOORING_POOL" in self.labels


@dataclass
class SimInstance:
    """One instance; it is listed while it has a host."""

    id: str
    app: SimApp
    version: str
    incarnation: int = 1
    host: str | None = None
    condition: str = "Scheduled"
    healthy: bool | None = None
    wanted: bool = True  # its goal is to run
    host_port: int = 0

    @property
    def task(self) -> str:
        return f"{self.id}._app.{self.incarnation}"

    @property
    def ready(self) -> bool:
        return self.condition == "Running" and (self.healthy is True or not self.app.checked)


def app_json(app: SimApp, instances: Sequence[SimInstance]) -> dict[str, Any]:
    """The app with its tasks, as `/v2/apps?embed=apps.tasks` has it."""
    return {
        "id": app.id, "instances": app.instances, "labels": app.labels, "version": app.version,
        "networks": [{"mode": "container" if app.pooled else "container/bridge"}],
        "container": {"portMappings": [{"containerPort": PORT, "servicePort": 0, "protocol": "tcp"}]},
        "healthChecks": [{}] if app.checked else [],
        "upgradeStrategy": {"minimumHealthCapacity": app.minimum_health,
                            "maximumOverCapacity": app.over_capacity},
        "tasks": [_task_json(one) for one in instances if one.host is not None],
    }  # fmt: skip


def _task_json(instance: SimInstance) -> dict[str, Any]:
    state = LISTED[instance.condition]
    task: dict[str, Any] = {"id": instance.task, "host": instance.host, "state": state}
    if instance.condition not in WITHOUT_DETAIL:
        task |= {"stagedAt": "then", "ports": [instance.host_port], "version": instance.version}
    if instance.app.checked and instance.healthy is not None:
        task["healthCheckResults"] = [{"alive": instance.healthy}]
    return task
