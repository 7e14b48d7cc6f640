"""Refuses an invalid app the way Marathon does: 422 with every complaint and its JSON path at once.

Only what the lab can honour is accepted.  A feature of the real Marathon that the lab lacks (a bridge
network, readiness checks, resident volumes) is refused by name instead of being ignored, because a
test that believes in an ignored feature proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mooring.lab.marathon.errors import Invalid
from mooring.lab.marathon.model import Json

PROTOCOLS = ("HTTP", "HTTPS", "TCP", "COMMAND", "MESOS_HTTP", "MESOS_HTTPS", "MESOS_TCP")
OPERATORS = ("UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS")
UNSUPPORTED = ("readinessChecks", "residency", "check", "dependencies")

_SEGMENT = r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])"
_APP_ID = re.compile(rf"(?:/{_SEGMENT}(?:\.{_SEGMENT})*)+")


class Complaints:
    """Collects errors by path; `raise_if_any` reports them together."""

    def __init__(self) -> None:
        self._errors: dict[str, list[str]] = {}

    def add(self, path: str, error: str) -> None:
        """Note one complaint about the value at `path`."""
        self._errors.setdefault(path, []).append(error)

    def number(self, source: Json, path: str, key: str, low: float, high: float = float("inf")) -> None:
        """Complain unless `source[key]` is absent or a number in [low, high]."""
        value = source.get(key)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.add(f"{path}/{key}", "error.expected.jsnumber")
        elif not low <= value <= high:
            limit = f"must be between {low:g} and {high:g}" if high != float("inf") else f"must be >= {low:g}"
            self.add(f"{path}/{key}", limit)

    def kind(self, source: Json, path: str, key: str, kind: type, name: str) -> bool:
        """Complain unless `source[key]` is absent or of the kind; whether it is there and fits."""
        value = source.get(key)
        if value is None:
            return False
        if not isinstance(value, kind):
            self.add(f"{path}/{key}", f"error.expected.{name}")
            return False
        return True

    def raise_if_any(self) -> None:
        """Raise `Invalid` when there is anything to complain about."""
        if self._errors:
            raise Invalid([{"path": path, "errors": errors} for path, errors in self._errors.items()])


def check(app: Json) -> None:
    """Raise `Invalid` unless the raw app can be run."""
    complaints = Complaints()
    for rule in _RULES:
        rule(app, complaints)
    complaints.raise_if_any()


def _check_id(app: Json, complaints: Complaints) -> None:
    app_id = app.get("id")
    if not isinstance(app_id, str) or not _APP_ID.fullmatch(app_id):
        complaints.add(
            "/id",
            "must fully match regular expression '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*"
            "([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])|(\\.|\\.\\.)$'",
        )


def _check_command(app: Json, complaints: Complaints) -> None:
    has_cmd, has_args = app.get("cmd") is not None, bool(app.get("args"))
    image = ((app.get("container") or {}).get("docker") or {}).get("image")
    if has_cmd and has_args:
        complaints.add("/", "AppDefinition must either contain one of 'cmd' or 'args', not both")
    elif not (has_cmd or has_args or image):
        complaints.add("/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
    complaints.kind(app, "", "cmd", str, "jsstring")
    args_listed = complaints.kind(app, "", "args", list, "jsarray")
    if args_listed and not all(isinstance(arg, str) for arg in app["args"]):
        complaints.add("/args", "error.expected.jsstring")


def _check_resources(app: Json, complaints: Complaints) -> None:
    if isinstance(app.get("instances"), float):
        complaints.add("/instances", "error.expected.jsinteger")
    for key in ("instances", "cpus", "mem", "disk", "gpus", "backoffSeconds", "taskKillGracePeriodSeconds"):
        complaints.number(app, "", key, 0)
    complaints.number(app, "", "backoffFactor", 1)
    complaints.number(app, "", "maxLaunchDelaySeconds", 0)


def _check_maps(app: Json, complaints: Complaints) -> None:
    if complaints.kind(app, "", "labels", dict, "jsobject"):
        for name, value in app["labels"].items():
            if not isinstance(value, str):
                complaints.add(f"/labels/{name}", "error.expected.jsstring")
    if complaints.kind(app, "", "env", dict, "jsobject"):
        for name, value in app["env"].items():
            if not isinstance(value, str) and not (isinstance(value, dict) and "secret" in value):
                complaints.add(f"/env/{name}", "error.expected.jsstring")


def _check_strategies(app: Json, complaints: Complaints) -> None:
    if complaints.kind(app, "", "upgradeStrategy", dict, "jsobject"):
        for key in ("minimumHealthCapacity", "maximumOverCapacity"):
            complaints.number(app["upgradeStrategy"], "/upgradeStrategy", key, 0, 1)
    strategy = app.get("unreachableStrategy")
    if isinstance(strategy, dict):
        for key in ("inactiveAfterSeconds", "expungeAfterSeconds"):
            complaints.number(strategy, "/unreachableStrategy", key, 0)
    elif strategy not in (None, "disabled"):
        complaints.add("/unreachableStrategy", "must be an object or 'disabled'")
    if app.get("killSelection", "YOUNGEST_FIRST") not in ("YOUNGEST_FIRST", "OLDEST_FIRST"):
        complaints.add("/killSelection", "must be YOUNGEST_FIRST or OLDEST_FIRST")


def _check_constraints(app: Json, complaints: Complaints) -> None:
    if not complaints.kind(app, "", "constraints", list, "jsarray"):
        return
    for index, constraint in enumerate(app["constraints"]):
        path = f"/constraints({index})"
        texts = isinstance(constraint, list) and all(isinstance(part, str) for part in constraint)
        if not texts or not 2 <= len(constraint) <= 3 or constraint[1] not in OPERATORS:
            complaints.add(
                path, f"Constraint must be [field, operator, value] with one of {', '.join(OPERATORS)}"
            )
        elif constraint[0] not in ("hostname", "@hostname"):
            complaints.add(path, "the lab's agents have no attributes; constrain `hostname`")
        elif constraint[1] in ("LIKE", "UNLIKE"):
            _check_regex(constraint, path, complaints)
        elif constraint[1] == "MAX_PER" and not "".join(constraint[2:]).isdecimal():
            complaints.add(path, "Value must be a number of instances")


def _check_regex(constraint: list[str], path: str, complaints: Complaints) -> None:
    if len(constraint) < 3:
        complaints.add(path, "A regular expression value must be provided")
        return
    try:
        re.compile(constraint[2])
    except re.error:
        complaints.add(path, f"'{constraint[2]}' is not a valid regular expression")


def _check_networks(app: Json, complaints: Complaints) -> None:
    if not complaints.kind(app, "", "networks", list, "jsarray"):
        return
    if len(app["networks"]) != 1:
        complaints.add("/networks", "the lab runs apps on exactly one network")
    for index, network in enumerate(app["networks"]):
        path = f"/networks({index})"
        mode = network.get("mode", "container") if isinstance(network, dict) else None
        if mode == "container" and not network.get("name"):
            complaints.add(f"{path}/name", "must be set for networks in container mode")
        elif mode == "container/bridge":
            complaints.add(path, "the lab has no bridge network; use mode host, or container with name none")
        elif mode not in ("container", "host"):
            complaints.add(f"{path}/mode", "must be one of host, container, container/bridge")


def _check_health(app: Json, complaints: Complaints) -> None:
    if not complaints.kind(app, "", "healthChecks", list, "jsarray"):
        return
    for index, health_check in enumerate(app["healthChecks"]):
        path = f"/healthChecks({index})"
        if not isinstance(health_check, dict):
            complaints.add(path, "error.expected.jsobject")
            continue
        protocol = health_check.get("protocol", "HTTP")
        if protocol not in PROTOCOLS:
            complaints.add(f"{path}/protocol", f"must be one of {', '.join(PROTOCOLS)}")
        elif protocol.endswith("HTTPS"):
            complaints.add(f"{path}/protocol", "the lab does not probe over TLS; use the HTTP protocol")
        elif protocol == "COMMAND" and not (health_check.get("command") or {}).get("value"):
            complaints.add(f"{path}/command", "must be set for protocol COMMAND")
        for key in ("gracePeriodSeconds", "intervalSeconds", "maxConsecutiveFailures", "timeoutSeconds"):
            complaints.number(health_check, path, key, 0)
        for key in ("delaySeconds", "portIndex", "port"):
            complaints.number(health_check, path, key, 0)


def _check_container(app: Json, complaints: Complaints) -> None:
    if not complaints.kind(app, "", "container", dict, "jsobject"):
        return
    container = app["container"]
    if container.get("type", "MESOS") not in ("DOCKER", "MESOS"):
        complaints.add("/container/type", "must be DOCKER or MESOS")
    if any(isinstance(v, dict) and "persistent" in v for v in container.get("volumes") or []):
        complaints.add("/container/volumes", "the lab has no persistent volumes")
    _check_ports(
        container, "/container", "portMappings", ("containerPort", "hostPort", "servicePort"), complaints
    )


def _check_port_definitions(app: Json, complaints: Complaints) -> None:
    _check_ports(app, "", "portDefinitions", ("port",), complaints)


def _check_ports(source: Json, path: str, key: str, ports: tuple[str, ...], complaints: Complaints) -> None:
    if not complaints.kind(source, path, key, list, "jsarray"):
        return
    for index, entry in enumerate(source[key]):
        if not isinstance(entry, dict):
            complaints.add(f"{path}/{key}({index})", "error.expected.jsobject")
            continue
        for port in ports:
            complaints.number(entry, f"{path}/{key}({index})", port, 0, 65535)


def _check_unsupported(app: Json, complaints: Complaints) -> None:
    for key in UNSUPPORTED:
        if app.get(key):
            complaints.add(f"/{key}", "not offered by the lab's Marathon; leave it out")


_RULES: tuple[Callable[[Json, Complaints], Any], ...] = (
    _check_id,
    _check_command,
    _check_resources,
    _check_maps,
    _check_strategies,
    _check_constraints,
    _check_networks,
    _check_health,
    _check_container,
    _check_port_definitions,
    _check_unsupported,
)
