"""Builds every event the lab's Marathon publishes, field by field in Marathon's wire order.

Builders are pure apart from the time stamp.  `eventType` and `timestamp` stand where Marathon's
own serialiser puts them, which differs between the event families, because a reader that depends
on the order by mistake shall be found out here and not in production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mooring.lab.marathon.model import Instance, Json, Run
from mooring.lab.marathon.times import stamp


def _typed(fields: Mapping[str, Any], event_type: str) -> Json:
    return {**fields, "eventType": event_type, "timestamp": stamp()}


def _stamped(fields: Mapping[str, Any], event_type: str) -> Json:
    return {**fields, "timestamp": stamp(), "eventType": event_type}


def status_update(instance: Instance, run: Run, task_status: str, message: str = "") -> Json:
    """A raw Mesos status of one task."""
    fields = {
        "slaveId": run.slave_id,
        "taskId": run.task_id,
        "taskStatus": task_status,
        "message": message,
        "appId": instance.spec.app_id,
        "host": run.host,
        "ipAddresses": list(run.addresses),
        "ports": list(run.ports),
        "version": instance.spec.version,
    }
    return _typed(fields, "status_update_event")


def instance_changed(instance: Instance, condition: str | None = None) -> Json:
    """The instance's condition (or the one given); agent and host are null before an offer."""
    run = instance.run
    fields = {
        "instanceId": instance.id,
        "condition": condition or instance.condition.value,
        "runSpecId": instance.spec.app_id,
        "agentId": run.slave_id if run else None,
        "host": run.host if run else None,
        "runSpecVersion": instance.spec.version,
    }
    return _stamped(fields, "instance_changed_event")


def instance_health_changed(instance: Instance) -> Json:
    """The instance's health: true, false or null."""
    fields = {
        "instanceId": instance.id,
        "runSpecId": instance.spec.app_id,
        "healthy": instance.healthy,
        "runSpecVersion": instance.spec.version,
    }
    return _stamped(fields, "instance_health_changed_event")


def unknown_instance_terminated(instance_id: str, app_id: str, condition: str) -> Json:
    """A task Marathon had given up ended after all."""
    fields = {"instanceId": instance_id, "runSpecId": app_id, "condition": condition}
    return _stamped(fields, "unknown_instance_terminated_event")


def health_status_changed(instance: Instance, alive: bool) -> Json:
    """One check changed its mind."""
    fields = {
        "appId": instance.spec.app_id,
        "instanceId": instance.id,
        "version": instance.spec.version,
        "alive": alive,
    }
    return _typed(fields, "health_status_changed_event")


def failed_health_check(instance: Instance, check: Json) -> Json:
    """One failed probe; `taskId` holds an instance id, as in Marathon since 1.5."""
    return {
        "appId": instance.spec.app_id,
        "eventType": "failed_health_check_event",
        "healthCheck": check,
        "taskId": instance.id,
        "timestamp": stamp(),
    }


def unhealthy_instance_kill(instance: Instance, run: Run, reason: str) -> Json:
    """Marathon kills a task because its check failed too often."""
    fields = {
        "appId": instance.spec.app_id,
        "taskId": run.task_id,
        "instanceId": instance.id,
        "version": instance.spec.version,
        "reason": reason,
        "host": run.host,
        "slaveId": run.slave_id,
    }
    return _typed(fields, "unhealthy_instance_kill_event")


def add_health_check(app_id: str, check: Json, version: str) -> Json:
    """A check begins to be run for an app's version."""
    return {
        "appId": app_id,
        "eventType": "add_health_check_event",
        "healthCheck": check,
        "timestamp": stamp(),
        "version": version,
    }


def remove_health_check(app_id: str) -> Json:
    """A check is no longer run."""
    return {"appId": app_id, "eventType": "remove_health_check_event", "timestamp": stamp()}


def app_terminated(app_id: str) -> Json:
    """The last task of a deleted app is gone."""
    return {"appId": app_id, "eventType": "app_terminated_event", "timestamp": stamp()}


def api_post(client_ip: str, uri: str, definition: Json) -> Json:
    """Somebody changed one app through the API."""
    fields = {"clientIp": client_ip, "uri": uri, "appDefinition": definition}
    return _typed(fields, "api_post_event")


def group_change_success(group_id: str, version: str) -> Json:
    """A change of the group was stored."""
    return _typed({"groupId": group_id, "version": version}, "group_change_success")


def group_change_failed(group_id: str, version: str, reason: str) -> Json:
    """A change of the group was refused."""
    return _typed({"groupId": group_id, "version": version, "reason": reason}, "group_change_failed")


def deployment_progress(event_type: str, plan: Json, actions: Sequence[Json]) -> Json:
    """deployment_info, deployment_step_success and deployment_step_failure."""
    return _typed({"plan": plan, "currentStep": {"actions": list(actions)}}, event_type)


def deployment_success(plan: Json) -> Json:
    """A plan is done."""
    return _typed({"id": plan["id"], "plan": plan}, "deployment_success")


def deployment_failed(plan: Json, reason: str) -> Json:
    """A plan was cancelled or never started."""
    return {**_typed({"id": plan["id"], "plan": plan}, "deployment_failed"), "reason": reason}


def stream(event_type: str, remote_address: str) -> Json:
    """event_stream_attached and event_stream_detached."""
    return _typed({"remoteAddress": remote_address}, event_type)
