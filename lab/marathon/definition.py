"""Turns what a client sends into the definition Marathon stores and shows.

Defaults are filled in, unset options left out, dynamic service ports (0 or absent) replaced by
allocated ones from 10000.  A dynamic port keeps the value it had at the same position before, so
sending the same app twice is no change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count
from typing import Any

from mooring.lab.marathon import validation
from mooring.lab.marathon.model import Json

FIRST_SERVICE_PORT = 10000

# In the order the API shows them; None means: shown only when the client set it.
_DEFAULTS: dict[str, Any] = {
    "acceptedResourceRoles": ["*"],
    "args": None,
    "backoffFactor": 1.15,
    "backoffSeconds": 1,
    "cmd": None,
    "constraints": None,
    "container": None,
    "cpus": 1,
    "disk": 0,
    "env": None,
    "executor": "",
    "fetch": None,
    "healthChecks": None,
    "instances": 1,
    "labels": {},
    "maxLaunchDelaySeconds": 300,
    "mem": 128,
    "gpus": 0,
    "networks": None,
    "portDefinitions": None,
    "requirePorts": False,
    "secrets": None,
    "taskKillGracePeriodSeconds": None,
    "upgradeStrategy": None,
    "killSelection": "YOUNGEST_FIRST",
    "unreachableStrategy": None,
    "role": "*",
}
_UPGRADE = {"maximumOverCapacity": 1, "minimumHealthCapacity": 1}
_UNREACHABLE = {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}
_CHECK = {
    "gracePeriodSeconds": 300,
    "intervalSeconds": 60,
    "maxConsecutiveFailures": 3,
    "timeoutSeconds": 20,
    "delaySeconds": 15,
}


def absolute(app_id: str) -> str:
    """The path with exactly one leading slash and no trailing one."""
    return "/" + app_id.strip("/")


def merged(old: Json, update: Json) -> Json:
    """A partial update: keys of `update` replace those of the stored definition."""
    return {**old, **{key: value for key, value in update.items() if value is not None}}


def normalised(raw: Json, old: Json | None, taken: Collection[int]) -> Json:
    """The stored form of a client's app, without version.

    `old` is the definition it replaces, `taken` the service ports of all other apps.

    Raises:
        Invalid: the app cannot be run; every reason is listed.
    """
    if isinstance(raw.get("id"), str):
        raw = {**raw, "id": absolute(raw["id"])}
    validation.check(raw)
    app: Json = {"id": raw["id"]}
    for key, default in _DEFAULTS.items():
        value = raw.get(key)
        app[key] = default if value is None else value
    app["networks"] = _networks(raw)
    app["upgradeStrategy"] = {**_UPGRADE, **(raw.get("upgradeStrategy") or {})}
    strategy = raw.get("unreachableStrategy")
    app["unreachableStrategy"] = strategy if strategy == "disabled" else {**_UNREACHABLE, **(strategy or {})}
    app["healthChecks"] = [_health_check(check) for check in raw.get("healthChecks") or []]
    _assign_ports(app, old, taken)
    return {key: value for key, value in app.items() if key == "labels" or value not in (None, [], {})}


def service_ports(app: Json) -> list[int]:
    """The service ports of a stored definition, in order."""
    return [int(port.get(key) or 0) for key, port in _ports(app)]


def is_same_config(old: Json, new: Json) -> bool:
    """Whether two definitions differ at most in scale and version."""
    ignored = ("instances", "version", "versionInfo")
    return {k: v for k, v in old.items() if k not in ignored} == {
        k: v for k, v in new.items() if k not in ignored
    }


def _networks(raw: Json) -> list[Json]:
    networks = raw.get("networks") or [{"mode": "host"}]
    return [{**network, "mode": network.get("mode", "container")} for network in networks]


def _health_check(check: Json) -> Json:
    protocol = check.get("protocol", "HTTP")
    full: Json = {**_CHECK, **check, "protocol": protocol}
    if protocol == "COMMAND":
        return full
    full.setdefault("ipProtocol", "IPv4")
    if protocol.endswith("HTTP"):
        full.setdefault("path", "/")
    if protocol == "HTTP":
        full.setdefault("ignoreHttp1xx", False)
    if "port" not in full:
        full.setdefault("portIndex", 0)
    return full


def _assign_ports(app: Json, old: Json | None, taken: Collection[int]) -> None:
    if app["networks"][0]["mode"] == "host":
        defined = app["portDefinitions"]
        defined = [{"port": 0, "name": "default"}] if defined is None else defined
        app["portDefinitions"] = [{"protocol": "tcp", **port} for port in defined]
    else:
        app["portDefinitions"] = None
    if app["container"]:
        app["container"] = _container(app["container"], host=app["networks"][0]["mode"] == "host")
    before = service_ports(old) if old else []
    free = _free_ports({*taken, *before, *service_ports(app)})
    for index, (key, port) in enumerate(_ports(app)):
        if not port.get(key):
            kept = before[index] if index < len(before) else 0
            port[key] = kept if kept and kept not in taken else next(free)


def _container(container: Json, *, host: bool) -> Json:
    full: Json = {"type": "MESOS", "volumes": [], **container}
    if host:
        full.pop("portMappings", None)
    else:
        defaults = {"labels": {}, "protocol": "tcp", "servicePort": 0}
        full["portMappings"] = [{**defaults, **port} for port in container.get("portMappings") or []]
    return full


def _ports(app: Json) -> list[tuple[str, Json]]:
    if app["networks"][0]["mode"] == "host":
        return [("port", port) for port in app.get("portDefinitions") or []]
    return [("servicePort", port) for port in (app.get("container") or {}).get("portMappings") or []]


def _free_ports(taken: Collection[int]) -> Iterator[int]:
    return (port for port in count(FIRST_SERVICE_PORT) if port not in taken)
