"""The sample service: a shop of two apps, in Marathon's own words.

`/shop/db` is one instance, `/shop/web` three, and web keeps a file with db's address.  Every container
answers each request with its own Mesos task id, so a page proves which container it came from.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from marathon import MarathonClient

from mooring.lab.plan import IMAGE, ZONE, LabError, LabPlan

DB = "/shop/db"
WEB = "/shop/web"
DEPENDENCY_FILE = "/etc/shop/db.conf"
RELOADED = "/tmp/reloaded"  # noqa: S108 - inside the container
TEMPLATE = "{% for m in members %}db {{ m.address }} {{ m.port }}\n{% endfor %}"


def app(
    name: str, instances: int, port: int, labels: dict[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    """An addressed, health-checked app of the lab's workload in pool `shop`."""
    definition: dict[str, Any] = {
        "id": name,
        "cmd": f"exec /bin/workload {port}",
        "cpus": 0.1,
        "mem": 32,
        "instances": instances,
        "container": {
            "type": "DOCKER",
            "docker": {"image": IMAGE},
            "portMappings": [{"containerPort": port, "protocol": "tcp", "name": "http"}],
        },
        "networks": [{"mode": "container", "name": "none"}],
        "healthChecks": [
            {
                "protocol": "MESOS_HTTP",
                "path": "/health",
                "portIndex": 0,
                "delaySeconds": 0,  # Marathon would wait 15 s before its first look
                "gracePeriodSeconds": 30,
                "intervalSeconds": 1,
                "timeoutSeconds": 2,
                "maxConsecutiveFailures": 3,
            }
        ],
        "labels": {"MOORING_POOL": "shop", **balanced(name), **(labels or {})},
        "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0},
        "backoffSeconds": 0.2,
    }
    return {**definition, **changes}


def vhost(name: str) -> str:
    """The name under which the balancers serve an app."""
    return ".".join(reversed(name.strip("/").split("/"))) + "." + ZONE


def balanced(name: str) -> dict[str, str]:
    """Labels that put an app's first port behind the balancers."""
    return {"HAPROXY_GROUP": "external", "HAPROXY_0_VHOST": vhost(name)}


def sample_apps() -> list[dict[str, Any]]:
    """The shop."""
    notify = {
        "MOORING_NOTIFY_DB_FROM": DB,
        "MOORING_NOTIFY_DB_PATH": DEPENDENCY_FILE,
        "MOORING_NOTIFY_DB_TEMPLATE": TEMPLATE,
        "MOORING_NOTIFY_DB_COMMAND": f"touch {RELOADED}",
    }
    return [app(DB, 1, 5432), app(WEB, 3, 8080, notify)]


class Operator:
    """What a person does to Marathon: the public client library, off the event loop.

    The library cannot serialise an app on Python 3.10 and later, so definitions are sent as they are.
    """

    def __init__(self, plan: LabPlan) -> None:
        self._url = plan.marathon_url
        self._client = MarathonClient(plan.marathon_url, timeout=20)

    async def deploy(self, definition: dict[str, Any]) -> None:
        """Create an app. Raises `LabError` with Marathon's words if it refuses."""
        await self.send("POST", "/v2/apps", definition)

    async def scale(self, name: str, instances: int) -> None:
        await self.send("PUT", f"/v2/apps{name}?force=true", {"instances": instances})

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Any request to Marathon's API, or to the lab's switches below `/lab`; the answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self._url + path, json=body) as answer,
        ):
            told = await answer.text()
            if answer.status >= 300:
                raise LabError(f"{method} {path}: {answer.status}: {told[:300]}")
            return json.loads(told) if told else None

    async def restart(self, name: str) -> None:
        await asyncio.to_thread(self._client.restart_app, name, force=True)

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._client.delete_app, name, force=True)

    async def apps(self) -> set[str]:
        """The ids of all apps."""
        return {found.id for found in await asyncio.to_thread(self._client.list_apps)}

    async def running(self, name: str) -> list[Any]:
        """The app's tasks that run, by task id."""
        tasks = await asyncio.to_thread(self._client.list_tasks, name)
        return sorted((task for task in tasks if task.state == "TASK_RUNNING"), key=lambda task: str(task.id))
