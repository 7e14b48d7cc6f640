"""What Marathon's versions, 1.3 to 1.11, call the same things: ids and state words.

Ids.  `safe` is the app's path with `_` for `/`; it may contain dots, so ids are read from the right.

    task id                                   instance id                incarnation   seen in
    safe.instance-<uuid>._app.<n>             safe.instance-<uuid>       n             1.8+
    safe.instance-<uuid>.<container>[.<n>]    safe.instance-<uuid>       n or 1        pods, 1.4+
    safe.<uuid>[.<n>]                         safe.marathon-<uuid>       n or 1        apps up to 1.7
    anything else                             the task id itself         1

The third form is mapped to the instance id that 1.4 to 1.7 use in their instance events, so that both
kinds of event meet in one instance.  The app is never cut out of an id: Marathon always names it beside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mooring.core.model import HostName, InstanceId, State, TaskId

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_MODERN = re.compile(
    rf"(?P<instance>.+\.(?:instance|marathon)-{_UUID})(?:\.(?P<container>[^.]+?)(?:\.(?P<n>\d+))?)?"
)
_LEGACY = re.compile(rf"(?P<safe>.+)\.(?P<uuid>{_UUID})(?:\.(?P<n>\d+))?")
_APP_CONTAINER = "_app"

STATUS_STATES = {
    "TASK_STAGING": State.STARTING,
    "TASK_STARTING": State.STARTING,
    "TASK_RUNNING": State.RUNNING,
    "TASK_KILLING": State.KILLING,
    "TASK_UNREACHABLE": State.UNREACHABLE,
    # Mesos' old word for several fates, not all of them final: a listing will tell.
    "TASK_LOST": State.UNREACHABLE,
    "TASK_FINISHED": State.DEAD,
    "TASK_FAILED": State.DEAD,
    "TASK_KILLED": State.DEAD,
    "TASK_ERROR": State.DEAD,
    "TASK_DROPPED": State.DEAD,
    "TASK_GONE": State.DEAD,
    "TASK_GONE_BY_OPERATOR": State.DEAD,
    "TASK_UNKNOWN": State.DEAD,
}
"""Mesos task states, as status events and task listings carry them."""

CONDITION_STATES = {
    "Scheduled": State.STARTING,
    "Provisioned": State.STARTING,
    "Created": State.STARTING,
    "Reserved": State.STARTING,
    "Staging": State.STARTING,
    "Starting": State.STARTING,
    "Running": State.RUNNING,
    "Killing": State.KILLING,
    "Unreachable": State.UNREACHABLE,
    "UnreachableInactive": State.INACTIVE,
    "Error": State.DEAD,
    "Failed": State.DEAD,
    "Finished": State.DEAD,
    "Killed": State.DEAD,
    "Gone": State.DEAD,
    "Dropped": State.DEAD,
    "Unknown": State.DEAD,
}
"""Marathon's own conditions, as instance events carry them."""


@dataclass(frozen=True, slots=True)
class TaskName:
    """What a task id says."""

    instance: InstanceId
    incarnation: int
    of_pod: bool


def read_task_id(task: str) -> TaskName:
    """Cut a task id of any version; never fails, because an unknown form stands for itself."""
    if found := _MODERN.fullmatch(task):
        container = found["container"]
        return TaskName(
            InstanceId(found["instance"]), int(found["n"] or 1), container not in (None, _APP_CONTAINER)
        )
    if found := _LEGACY.fullmatch(task):
        return TaskName(InstanceId(f"{found['safe']}.marathon-{found['uuid']}"), int(found["n"] or 1), False)
    return TaskName(InstanceId(task), 1, False)


def read_instance_id(name: str) -> InstanceId:
    """The instance that an event means, whether it names the instance or (up to 1.3) the task."""
    return read_task_id(name).instance


def read_task(task: str) -> tuple[TaskId, TaskName]:
    """The task id as a typed id, and what it says."""
    return TaskId(task), read_task_id(task)


def read_host(host: str | None) -> HostName | None:
    """An agent's name; None where Marathon has none to give."""
    return None if host in (None, "", "unknown") else HostName(str(host))
