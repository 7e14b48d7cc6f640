"""What Marathon's versions, 1.3 to 1.11, call the same things: ids and state words.

Ids.  `safe` is the app's path with `_` for `/`; it may contain dots, so ids are read from the right.

    task id                                   instance id                incarnation   seen in
    safe.instance-<uuid>._app.<n>             safe.instance-<uuid>       n             1.8+
    safe.instance-<uuid>.<container>[.<n>]    safe.instance-<uuid>       n or 1        pods, 1.4+
    safe.<uuid>                               safe.marathon-<uuid>       1             apps up to 1.7
    safe.<uuid>.<n>                           safe.marathon-<uuid>       n + 1         relaunches of those
    anything else                             the task id itself         1

The third and fourth form are mapped to the instance id that 1.4 and later use in their instance events, so
that both kinds of event meet in one instance.  The first launch of such an instance carries no number and
the second is number 1 (a resident app's, or any app's once the cluster was upgraded to 1.8), hence n + 1:
otherwise the relaunch would look like its predecessor, which has ended.  Between `safe` and `<uuid>` the
oldest ids have `_`.  Some builds name an app's container `$anon`, which no pod may.

The app is never cut out of an id: Marathon always names it beside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import cast

import msgspec

from mooring.core.model import AppId, HostName, InstanceId, State

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_NUMBER = r"[0-9]{1,9}"  # more launches than that are no count
_MODERN = re.compile(
    rf"(?P<instance>.+\.(?:instance|marathon)-{_UUID})(?:\.(?P<container>[^.]+?)(?:\.(?P<n>{_NUMBER}))?)?"
)
_LEGACY = re.compile(rf"(?P<safe>.+)[._](?P<uuid>{_UUID})(?:\.(?P<n>{_NUMBER}))?")
_APP_CONTAINERS = (None, "_app", "$anon")
_APP_MARK, _INSTANCE_MARK = "._app.", ".instance-"
_INSTANCE_AT = -len(_INSTANCE_MARK) - 36  # where the mark stands before a UUID's 36 characters

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


class TaskName(msgspec.Struct, frozen=True, gc=False):
    """What a task id says."""

    instance: InstanceId
    incarnation: int
    of_pod: bool


def read_task_id(task: str) -> TaskName:
    """Cut a task id of any version; never fails, because an unknown form stands for itself."""
    instance, _, number = task.rpartition(_APP_MARK)
    # The form of 1.8 and later, many thousand times a minute: its marks are enough to know it by.
    if instance[_INSTANCE_AT:-36] == _INSTANCE_MARK and number.isdecimal() and len(number) < 10:
        return TaskName(InstanceId(instance), int(number), False)
    if found := _MODERN.fullmatch(task):
        of_pod = found["container"] not in _APP_CONTAINERS
        return TaskName(InstanceId(found["instance"]), int(found["n"] or 1), of_pod)
    if found := _LEGACY.fullmatch(task):
        launches_before = int(found["n"] or 0)
        return TaskName(InstanceId(f"{found['safe']}.marathon-{found['uuid']}"), launches_before + 1, False)
    return TaskName(InstanceId(task), 1, False)


def read_instance_id(name: str) -> InstanceId:
    """The instance that an event means, whether it names the instance or (up to 1.3) the task."""
    if name[_INSTANCE_AT:-36] == _INSTANCE_MARK:
        return InstanceId(name)
    return read_task_id(name).instance


# One string for all that name the same app or host.  Calling the types too would double the cost.
shared_app = cast("Callable[[str], AppId]", sys.intern)
_shared_host = cast("Callable[[str], HostName]", sys.intern)


def read_host(host: str | None) -> HostName | None:
    """An agent's name, shared by all that run there; None where Marathon has none to give."""
    if host is None or host == "" or host == "unknown":
        return None
    return _shared_host(host)
