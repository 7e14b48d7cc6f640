"""From a frame of the stream to a fact about an instance or an app.

Marathon publishes about thirty types of event in nine dialects.  `decode` turns each into one of the
few facts below, or into nothing if the type is one we ignore by name.  Only fields we use are decoded
(msgspec skips the rest unbuilt), which keeps a two-megabyte deployment event of an old Marathon cheap.

What cannot be read raises `EventUnreadable` with a short reason fit for a metric label; `Intake` counts
and logs it, says that a snapshot is due, and goes on.  Events are hints: one lost costs latency only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from mooring.cext import Frame
from mooring.controller.dialect import (
    CONDITION_STATES,
    STATUS_STATES,
    read_host,
    read_instance_id,
    read_task,
)
from mooring.core.errors import Refused
from mooring.core.model import AppId, HostName, InstanceId, State, TaskId

log = structlog.get_logger()

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
        super().__init__(f"event {event}: {detail}")
        self.reason = reason
        self.event = event


@dataclass(frozen=True, slots=True)
class TaskReported:
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


@dataclass(frozen=True, slots=True)
class InstanceReported:
    """An instance's condition, without saying which incarnation it means."""

    instance: InstanceId
    app: AppId
    state: State
    host: HostName | None
    stamp: str


@dataclass(frozen=True, slots=True)
class HealthReported:
    """A verdict of the health checks; `healthy` None means that Marathon has none."""

    instance: InstanceId
    app: AppId
    healthy: bool | None
    stamp: str


@dataclass(frozen=True, slots=True)
class AppTerminated:
    """An app or pod was deleted and has ended."""

    app: AppId


@dataclass(frozen=True, slots=True)
class AppsChanged:
    """Definitions or deployments changed; the listing says how."""

    apps: tuple[AppId, ...]
    pods: tuple[AppId, ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerChanged:
    """Marathon registered with Mesos anew; anything may have happened before."""


Event = TaskReported | InstanceReported | HealthReported | AppTerminated | AppsChanged | SchedulerChanged


class _StatusUpdate(msgspec.Struct, rename="camel"):
    task_id: str
    task_status: str
    app_id: str
    host: str | None = None
    ports: tuple[int, ...] | None = None
    version: str | None = None
    timestamp: str = ""

    def fact(self) -> Event | None:
        task, name = read_task(self.task_id)
        if name.of_pod:
            return None
        return TaskReported(
            instance=name.instance,
            incarnation=name.incarnation,
            task=task,
            app=AppId(self.app_id),
            state=_state("status_update_event", STATUS_STATES, self.task_status),
            host=read_host(self.host),
            host_ports=self.ports or (),
            version=self.version or "",
            stamp=self.timestamp,
        )


class _InstanceChanged(msgspec.Struct, rename="camel"):
    instance_id: str
    run_spec_id: str
    condition: str
    host: str | None = None
    timestamp: str = ""

    def fact(self) -> Event | None:
        state = _state("instance_changed_event", CONDITION_STATES, self.condition)
        instance = read_instance_id(self.instance_id)
        return InstanceReported(
            instance, AppId(self.run_spec_id), state, read_host(self.host), self.timestamp
        )


class _InstanceHealth(msgspec.Struct, rename="camel"):
    instance_id: str
    run_spec_id: str
    healthy: bool | None = None
    timestamp: str = ""

    def fact(self) -> Event | None:
        instance = read_instance_id(self.instance_id)
        return HealthReported(instance, AppId(self.run_spec_id), self.healthy, self.timestamp)


class _HealthStatus(msgspec.Struct, rename="camel"):
    app_id: str
    alive: bool
    instance_id: str | None = None
    task_id: str | None = None  # 1.3 names the task instead
    timestamp: str = ""

    def fact(self) -> Event | None:
        named = self.instance_id or self.task_id
        if named is None:
            raise EventUnreadable("shape", "health_status_changed_event", "names neither instance nor task")
        return HealthReported(read_instance_id(named), AppId(self.app_id), self.alive, self.timestamp)


class _UnknownTerminated(msgspec.Struct, rename="camel"):
    run_spec_id: str
    instance_id: str | None = None
    task_id: str | None = None  # 1.3
    timestamp: str = ""

    def fact(self) -> Event | None:
        named = self.instance_id or self.task_id
        if named is None:
            raise EventUnreadable(
                "shape", "unknown_instance_terminated_event", "names neither instance nor task"
            )
        return InstanceReported(
            read_instance_id(named), AppId(self.run_spec_id), State.DEAD, None, self.timestamp
        )


class _AppTerminated(msgspec.Struct, rename="camel"):
    app_id: str

    def fact(self) -> Event | None:
        return AppTerminated(AppId(self.app_id))


class _Definition(msgspec.Struct):
    id: str


class _ApiPost(msgspec.Struct, rename="camel"):
    app_definition: _Definition

    def fact(self) -> Event | None:
        return AppsChanged((AppId(self.app_definition.id),))


class _Action(msgspec.Struct):
    app: str | None = None
    pod: str | None = None


class _Step(msgspec.Struct):
    actions: list[_Action] = []


class _Plan(msgspec.Struct):
    steps: list[_Step] = []


class _Deployment(msgspec.Struct):
    plan: _Plan

    def fact(self) -> Event | None:
        actions = [action for step in self.plan.steps for action in step.actions]
        apps = dict.fromkeys(AppId(action.app) for action in actions if action.app)
        pods = dict.fromkeys(AppId(action.pod) for action in actions if action.pod)
        return AppsChanged(tuple(apps), tuple(pods))


class _Registered(msgspec.Struct):
    def fact(self) -> Event | None:
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
    "deployment_info": _Deployment,
    "deployment_success": _Deployment,
    "deployment_failed": _Deployment,
    "scheduler_registered_event": _Registered,
    "scheduler_reregistered_event": _Registered,
}
_DECODERS: dict[str, msgspec.json.Decoder[_Wire]] = {
    name: msgspec.json.Decoder(wire) for name, wire in _TYPES.items()
}
_KIND = msgspec.json.Decoder(_Kind)
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)

WANTED = tuple(_TYPES)
"""The event types to ask Marathon for, besides `ATTACHED`."""


def objects(frame: Frame) -> list[Frame]:
    """The JSON objects of a frame, each as a frame with its own type.

    A data block holds one object as a rule, but some senders put several, one to a line, and some
    spread one over many lines.
    """
    if b"\n" not in frame.data:
        return [frame]
    try:
        _SYNTAX.decode(frame.data)
    except msgspec.DecodeError:
        lines = (line.strip() for line in frame.data.split(b"\n"))
        return [Frame(_kind_of(line, frame.event), line) for line in lines if line]
    return [frame]


def decode(frame: Frame) -> Event | None:
    """The fact in a frame with one object; None for types we ignore. Raises `EventUnreadable`."""
    kind = frame.event
    if kind not in _DECODERS and kind not in IGNORED:
        kind = _kind_of(frame.data, kind)  # a sender that left the type out of the envelope
    decoder = _DECODERS.get(kind)
    try:
        if decoder is not None:
            return decoder.decode(frame.data).fact()
        if kind not in IGNORED:
            _SYNTAX.decode(frame.data)  # a type we do not know may be ignored, rubbish may not
        return None
    except msgspec.ValidationError as error:
        raise EventUnreadable("shape", kind, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventUnreadable("json", kind, f"{error}: {frame.data[:80]!r}") from error


def _kind_of(data: bytes, otherwise: str) -> str:
    try:
        return _KIND.decode(data).event_type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return otherwise


def _state(event: str, states: Mapping[str, State], word: str) -> State:
    try:
        return states[word]
    except KeyError:
        raise EventUnreadable("state", event, f"unknown state {word[:40]!r}") from None


class Intake:
    """Hands facts on; counts and logs what cannot be read, and never raises for it."""

    def __init__(self, apply: Callable[[Event], None], lost: Callable[[str], None]) -> None:
        """`apply` takes each fact; `lost` is told the reason whenever an event's content was lost."""
        self._apply = apply
        self._lost = lost
        self.decoded: Counter[str] = Counter()  # by event type
        self.ignored: Counter[str] = Counter()  # by event type, "unknown" for those we have no name for
        self.unreadable: Counter[str] = Counter()  # by reason

    def take(self, frame: Frame) -> None:
        """Apply every fact in the frame."""
        for part in objects(frame):
            try:
                event = decode(part)
            except EventUnreadable as error:
                self.unreadable[error.reason] += 1
                log.warning("event unreadable", reason=error.reason, event_type=error.event, error=str(error))
                self._lost(error.reason)
                continue
            if event is not None:
                self.decoded[part.event] += 1
                self._apply(event)
            else:
                known = part.event in IGNORED or part.event in _DECODERS
                self.ignored[part.event if known else "unknown"] += 1
