"""The nouns of the lab's Marathon.

A `RunSpec` is one version of an app's definition and never changes.  An `Instance` is one seat of
an app: it keeps its id while its goal is Running, and each container started for it is one `Run`
with the next incarnation number.  An `App` is the current definition plus its instances.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Json = dict[str, Any]


class Goal(Enum):
    """What Marathon wants of an instance."""

    RUNNING = "Running"
    DECOMMISSIONED = "Decommissioned"


class Condition(Enum):
    """`condition` of an instance as events show it."""

    SCHEDULED = "Scheduled"
    PROVISIONED = "Provisioned"
    STARTING = "Starting"
    RUNNING = "Running"
    KILLING = "Killing"
    UNREACHABLE = "Unreachable"
    UNREACHABLE_INACTIVE = "UnreachableInactive"
    FAILED = "Failed"
    FINISHED = "Finished"
    KILLED = "Killed"

    @property
    def terminal(self) -> bool:
        """Whether the container is gone."""
        return self in (Condition.FAILED, Condition.FINISHED, Condition.KILLED)

    @property
    def task_state(self) -> str:
        """The `state` a task of this condition shows in the REST API."""
        if self is Condition.PROVISIONED:
            return "TASK_STAGING"
        if self is Condition.UNREACHABLE_INACTIVE:
            return "TASK_UNREACHABLE"
        return f"TASK_{self.value.upper()}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One version of an app: its normalised definition, as the REST API shows it."""

    definition: Json

    @property
    def app_id(self) -> str:
        """Absolute path of the app."""
        return str(self.definition["id"])

    @property
    def version(self) -> str:
        """The version this definition has."""
        return str(self.definition["version"])

    @property
    def instances(self) -> int:
        """How many instances are wanted."""
        return int(self.definition["instances"])

    @property
    def health_checks(self) -> Sequence[Json]:
        """The health checks, in the order of the definition."""
        checks: list[Json] = self.definition.get("healthChecks", [])
        return checks

    @property
    def constraints(self) -> Sequence[Sequence[str]]:
        """Placement constraints, each `[field, operator, value?]`."""
        constraints: list[list[str]] = self.definition.get("constraints", [])
        return constraints

    @property
    def host_network(self) -> bool:
        """Whether tasks run in their agent's network namespace."""
        return bool(self.definition["networks"][0]["mode"] == "host")

    @property
    def kill_grace_s(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float(self.definition.get("taskKillGracePeriodSeconds", 3))

    @property
    def min_healthy(self) -> int:
        """Instances an upgrade keeps healthy at all times."""
        return math.ceil(self.instances * float(self.definition["upgradeStrategy"]["minimumHealthCapacity"]))

    @property
    def capacity(self) -> int:
        """Instances an upgrade may run at once."""
        return math.floor(
            self.instances * (1 + float(self.definition["upgradeStrategy"]["maximumOverCapacity"]))
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container ended."""

    condition: Condition
    message: str


class Run:
    """One container of an instance, from its launch to its end.

    `launch` resolves to the container's name; `ended` to how it ended, whoever noticed first.
    """

    def __init__(self, task_id: str, host: str, slave_id: str, ports: Sequence[int]) -> None:
        """Describe a run on `host`; its launch is attached by the keeper."""
        self.task_id = task_id
        self.host = host
        self.slave_id = slave_id
        self.ports = list(ports)
        self.staged_at: str | None = None
        self.started_at: str | None = None
        self.began: float | None = None  # loop time of RUNNING
        self.kill_requested = False
        self.addresses: list[Mapping[str, str]] = []
        self.launch: asyncio.Task[str] | None = None
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Note the end; the first report wins."""
        if not self.ended.done():
            self.ended.set_result(ending)

    async def wait_ended(self) -> Ending:
        """How it ended, once it has."""
        return await asyncio.shield(self.ended)

    async def container(self) -> str:
        """The container's name, once it is started; raises what the launch raised."""
        assert self.launch is not None, "a run's launch is attached when it is provisioned"
        return await asyncio.shield(self.launch)


@dataclass(slots=True)
class Health:
    """What one check knows of one run; empty until the first result."""

    first_success: str | None = None
    last_success: str | None = None
    last_failure: str | None = None
    last_failure_cause: str | None = None
    consecutive_failures: int = 0
    alive: bool = False

    @property
    def known(self) -> bool:
        """Whether any result has counted yet."""
        return self.last_success is not None or self.last_failure is not None


@dataclass(slots=True, eq=False)
class Instance:
    """One seat of an app."""

    id: str
    spec: RunSpec
    born: int  # order of creation, for kill selection
    goal: Goal = Goal.RUNNING
    condition: Condition = Condition.SCHEDULED
    incarnation: int = 0
    run: Run | None = None
    healthy: bool | None = None
    health: list[Health] = field(default_factory=list)
    pinned_host: str | None = None  # where the next launch has to be, for moves by hand

    @classmethod
    def of(cls, spec: RunSpec, born: int) -> Instance:
        """A new instance of the spec, with a time-based UUID as Marathon uses."""
        safe = spec.app_id.strip("/").replace("/", "_")
        instance = cls(f"{safe}.instance-{uuid.uuid1()}", spec, born)
        instance.forget_health()
        return instance

    def forget_health(self) -> None:
        """Make health unknown, as it is after a start or a change of leader."""
        self.healthy = None
        self.health = [Health() for _ in self.spec.health_checks]

    @property
    def active(self) -> bool:
        """Whether it counts towards the app's number of instances."""
        return self.goal is Goal.RUNNING and self.condition is not Condition.UNREACHABLE_INACTIVE

    @property
    def ready(self) -> bool:
        """Running, and healthy as far as checks exist."""
        running = self.goal is Goal.RUNNING and self.condition is Condition.RUNNING
        return running and (not self.spec.health_checks or self.healthy is True)


@dataclass(slots=True, eq=False)
class App:
    """The current definition and everything that runs for it."""

    spec: RunSpec
    instances: dict[str, Instance] = field(default_factory=dict)
    last_failure: Json | None = None

    @property
    def id(self) -> str:
        """Absolute path."""
        return self.spec.app_id

    def ending(self) -> list[Instance]:
        """Instances that were told to end and still exist."""
        return [i for i in self.instances.values() if i.goal is Goal.DECOMMISSIONED]

    def active(self) -> list[Instance]:
        """Instances that count, oldest first."""
        return sorted((i for i in self.instances.values() if i.active), key=lambda i: i.born)
