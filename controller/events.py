"""From a frame of the stream to a fact about an instance or an app.

Marathon publishes about thirty types of event in nine dialects.  `decode` turns each into one of the
few facts below, or into nothing if the type is one we ignore by name.  Only fields we use are decoded:
msgspec passes over the rest without building it, which keeps a five-megabyte deployment event of an old
Marathon, with the whole root group in it twice, at the cost of reading its bytes once.  Facts are tracked
by no garbage collector, and what many of them repeat (apps, hosts, versions) is one string for all.

What cannot be read raises `EventUnreadable` with a short reason fit for a metric label; what becomes of it,
`intake` says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import msgspec

from mooring.cext import Frame
from mooring.controller.dialect import (
    CONDITION_STATES,
    STATUS_STATES,
    read_host,
    read_instance_id,
    read_task_id,
    shared_app,
)
from mooring.core.errors import Refused
from mooring.core.model import AppId, HostName, InstanceId, State, TaskId

MOST_OBJECTS = 1000  # in one data block: what is merged in one turn of the event loop, some 20 ms
_SHOWN = 80  # characters of what a sender chose, in a message

ATTACHED = "event_stream_attached"  # the first event of a subscription; the reader answers to it

IGNORED = frozenset(
    {
        ATTACHED,
        "event_stream_detached",
        "subscribe_event",
        "unsubscribe_event",
        "framework_message_event",
        "scheduler_disconnected_event",
        "failed_health_check_event",  # one failed probe; the change of verdict has its own event
        "add_health_check_event",
        "remove_health_check_event",
        "unhealthy_instance_kill_event",  # announces a kill that is reported when it happens
        "unhealthy_task_kill_event",
        "group_change_success",  # names the parent group only; deployment events name the apps
        "group_change_failed",
        "deployment_step_success",
        "deployment_step_failure",
        "pod_created_event",  # pods keep no address of ours; listings tell which there are
        "pod_updated_event",
        "pod_deleted_event",
    }
)


class EventUnreadable(Refused):
    """An event that is torn, not JSON or of another shape than Marathon's. `reason` is one short word."""

    def __init__(self, reason: str, event: str, detail: str) -> None:
        super().__init__(f"event {event[:_SHOWN]}: {detail}")
        self.reason = reason
        self.event = event


class TaskReported(msgspec.Struct, frozen=True, gc=False):
    """A task's state, with its incarnation: the best evidence there is."""

    instance: InstanceId
    incarnation: int
    task: TaskId
    app: AppId
    state: State
    host: HostName | None
    host_ports: tuple[int, ...]
    version: str
    stamp: str  # Marathon's ISO time in milliseconds; comparable as text, "" if absent


class InstanceReported(msgspec.Struct, frozen=True, gc=False):
    """An instance's condition, without saying which incarnation it means."""

    instance: InstanceId
    app: AppId
    state: State
    host: HostName | None
    stamp: str


class HealthReported(msgspec.Struct, frozen=True, gc=False):
    """A verdict of the health checks; `healthy` None means that Marathon has none."""

    instance: InstanceId
    app: AppId
    healthy: bool | None
    stamp: str


class AppTerminated(msgspec.Struct, frozen=True, gc=False):
    """An app or pod was deleted and has ended."""

    app: AppId


class AppsChanged(msgspec.Struct, frozen=True, gc=False):
    """Definitions or deployments changed; the listing says how."""

    apps: tuple[AppId, ...]
    pods: tuple[AppId, ...] = ()
    stopped: tuple[AppId, ...] = ()  # those of the apps whose deletion begins
    kept: tuple[AppId, ...] = ()  # those of the apps whose deletion was refused or called off


class SchedulerChanged(msgspec.Struct, frozen=True, gc=False):
    """Marathon registered with Mesos anew; anything may have happened before."""


Event = TaskReported | InstanceReported | HealthReported | AppTerminated | AppsChanged | SchedulerChanged


# What the facts are read from.  A field that some version leaves out or sets to null has a default; one
# without is in every version, and its absence makes the event unreadable.

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class _StatusUpdate(msgspec.Struct, rename="camel", gc=False):
    task_id: Annotated[TaskId, msgspec.Meta(min_length=1)]
    task_status: str
    app_id: _Name
    host: str | None = None
    ports: tuple[_Port, ...] | None = None
    version: str | None = None
    timestamp: str | None = None

    def fact(self) -> TaskReported | None:
        name = read_task_id(self.task_id)
        if name.of_pod:
            return None
        return TaskReported(
            name.instance,
            name.incarnation,
            self.task_id,
            shared_app(self.app_id),
            _state("status_update_event", STATUS_STATES, self.task_status),
            read_host(self.host),
            self.ports or (),
            sys.intern(self.version or ""),
            self.timestamp or "",
        )


class _InstanceNamed(msgspec.Struct, rename="camel", gc=False):
    """An event about an instance: 1.3 named the task instead, and either name of the app may be there."""

    instance_id: str | None = None
    task_id: str | None = None
    run_spec_id: str | None = None
    app_id: str | None = None
    timestamp: str | None = None

    def named(self) -> tuple[InstanceId, AppId, str]:
        """The instance, its app and the event's stamp."""
        name, app = self.instance_id or self.task_id, self.run_spec_id or self.app_id
        if not name or not app:
            raise msgspec.ValidationError("it names no instance or no app")
        return read_instance_id(name), shared_app(app), self.timestamp or ""


class _InstanceChanged(_InstanceNamed, kw_only=True):
    condition: str
    host: str | None = None

    def fact(self) -> InstanceReported:
        instance, app, stamp = self.named()
        state = _state("instance_changed_event", CONDITION_STATES, self.condition)
        return InstanceReported(instance, app, state, read_host(self.host), stamp)


class _InstanceHealth(_InstanceNamed):
    healthy: bool | None = None

    def fact(self) -> HealthReported:
        instance, app, stamp = self.named()
        return HealthReported(instance, app, self.healthy, stamp)


class _HealthStatus(_InstanceNamed, kw_only=True):
    alive: bool

    def fact(self) -> HealthReported:
        instance, app, stamp = self.named()
        return HealthReported(instance, app, self.alive, stamp)


class _UnknownTerminated(_InstanceNamed):
    def fact(self) -> InstanceReported:
        instance, app, stamp = self.named()
        return InstanceReported(instance, app, State.DEAD, None, stamp)


class _AppTerminated(msgspec.Struct, rename="camel"):
    app_id: _Name

    def fact(self) -> AppTerminated:
        return AppTerminated(AppId(self.app_id))


class _Definition(msgspec.Struct):
    id: _Name


class _ApiPost(msgspec.Struct, rename="camel"):
    app_definition: _Definition

    def fact(self) -> AppsChanged:
        return AppsChanged((AppId(self.app_definition.id),))


class _Action(msgspec.Struct):
    action: str | None = None
    app: str | None = None
    pod: str | None = None


class _Step(msgspec.Struct):
    actions: list[_Action] | None = None


class _Plan(msgspec.Struct):
    """Up to 1.7 `original` and `target` may stand beside the steps: they are passed over unbuilt."""

    steps: list[_Step] | None = None


class _Deployment(msgspec.Struct):
    plan: _Plan

    def fact(self) -> AppsChanged:
        return AppsChanged(self._apps(), self._pods())

    def _actions(self) -> Iterator[_Action]:
        return (action for step in self.plan.steps or () for action in step.actions or ())

    def _apps(self, only: str | None = None) -> tuple[AppId, ...]:
        named = (action for action in self._actions() if only in (None, action.action))
        return tuple(dict.fromkeys(AppId(action.app) for action in named if action.app))

    def _pods(self) -> tuple[AppId, ...]:
        return tuple(dict.fromkeys(AppId(action.pod) for action in self._actions() if action.pod))


class _DeploymentBegun(_Deployment):
    def fact(self) -> AppsChanged:
        return AppsChanged(self._apps(), self._pods(), stopped=self._apps("StopApplication"))


class _DeploymentFailed(_Deployment):
    def fact(self) -> AppsChanged:
        return AppsChanged(self._apps(), self._pods(), kept=self._apps("StopApplication"))


class _Registered(msgspec.Struct):
    def fact(self) -> SchedulerChanged:
        return SchedulerChanged()


class _Kind(msgspec.Struct, rename="camel"):
    event_type: str


_Wire = (
    _StatusUpdate
    | _InstanceChanged
    | _InstanceHealth
    | _HealthStatus
    | _UnknownTerminated
    | _AppTerminated
    | _ApiPost
    | _Deployment
    | _DeploymentBegun
    | _DeploymentFailed
    | _Registered
)

_TYPES: dict[str, type[_Wire]] = {
    "status_update_event": _StatusUpdate,
    "instance_changed_event": _InstanceChanged,
    "instance_health_changed_event": _InstanceHealth,
    "health_status_changed_event": _HealthStatus,
    "unknown_instance_terminated_event": _UnknownTerminated,
    "unknown_task_terminated_event": _UnknownTerminated,
    "app_terminated_event": _AppTerminated,
    "api_post_event": _ApiPost,
    "deployment_info": _DeploymentBegun,
    "deployment_success": _Deployment,
    "deployment_failed": _DeploymentFailed,
    "scheduler_registered_event": _Registered,
    "scheduler_reregistered_event": _Registered,
}
_READERS: dict[str, Callable[[bytes], _Wire]] = {
    name: msgspec.json.Decoder(wire).decode for name, wire in _TYPES.items()
}
_KIND = msgspec.json.Decoder(_Kind)
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LINE = re.compile(rb"\S[^\n]*")  # from its first byte that is not white space; lines of that alone are none

WANTED = tuple(_TYPES)
"""The event types to ask Marathon for, besides `ATTACHED`."""

KNOWN = frozenset(_TYPES) | IGNORED
"""The event types that we have a name for."""


def objects(frame: Frame) -> Iterator[Frame]:
    """The JSON objects of a frame, each as a frame with its own type. Raises `EventUnreadable`.

    A data block holds one object as a rule, but some senders put several, one to a line, and some
    spread one over many lines.  Some leave the type out of the envelope.  Lines are cut off as they are
    asked for, and not more than `MOST_OBJECTS`: a block may consist of millions.
    """
    if b"\n" not in frame.data.strip() or _is_json(frame.data):
        yield _named(frame)
        return
    for count, line in enumerate(_LINE.finditer(frame.data)):
        if count == MOST_OBJECTS:
            raise EventUnreadable("too_many", frame.event, f"more than {MOST_OBJECTS} objects in one block")
        data = line[0].rstrip()
        yield Frame(_kind_of(data, frame.event), data)


def decode(frame: Frame) -> Event | None:
    """The fact in a frame with one object; None for types we ignore. Raises `EventUnreadable`."""
    kind, data = frame
    read = _READERS.get(kind)
    if read is None and kind not in IGNORED:
        kind = _kind_of(data, kind)
        read = _READERS.get(kind)
    try:
        if read is not None:
            return read(data).fact()
        if kind not in IGNORED:
            _SYNTAX.decode(data)  # a type we do not know may be ignored, rubbish may not
        return None
    except msgspec.ValidationError as error:
        raise EventUnreadable("shape", kind, str(error)) from error
    except _NOT_JSON as error:
        raise EventUnreadable("json", kind, f"{error}: {data[:_SHOWN]!r}") from error


def _named(frame: Frame) -> Frame:
    """The frame under a type we know, if the envelope or else the event itself gives one."""
    return frame if frame.event in KNOWN else Frame(_kind_of(frame.data, frame.event), frame.data)


def _is_json(data: bytes) -> bool:
    try:
        _SYNTAX.decode(data)
    except _NOT_JSON:
        return False
    return True


def _kind_of(data: bytes, otherwise: str) -> str:
    try:
        return _KIND.decode(data).event_type
    except _NOT_JSON:
        return otherwise


def _state(event: str, states: Mapping[str, State], word: str) -> State:
    try:
        return states[word]
    except KeyError:
        raise EventUnreadable("state", event, f"unknown state {word[:40]!r}") from None
