"""Marathon's REST API under /v2, for apps, tasks, groups, deployments and the server itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from mooring.lab.marathon import events, views
from mooring.lab.marathon.definition import absolute
from mooring.lab.marathon.deployments import Deployment
from mooring.lab.marathon.errors import ApiError, Malformed, Unknown
from mooring.lab.marathon.marathon import Marathon
from mooring.lab.marathon.model import App, Condition, Instance, Json

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response."""
    encoded = msgspec.json.encode(body)
    return web.Response(body=encoded, status=status, content_type="application/json", headers=headers)


async def body_of(request: web.Request) -> Any:
    """The request's JSON, or `Malformed`."""
    try:
        return msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise Malformed(f"Invalid JSON: {error}") from error


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A boolean query parameter."""
    return request.query.get(name, str(default)).lower() == "true"


def accepted(deployment: Deployment, status: int = 200) -> web.Response:
    """The answer to a change that was accepted."""
    body = {"version": deployment.version, "deploymentId": deployment.id}
    return answer(body, status, {"Marathon-Deployment-Id": deployment.id})


class Rest:
    """The handlers, over one Marathon."""

    def __init__(self, marathon: Marathon) -> None:
        """Answer for this Marathon."""
        self._marathon = marathon
        self._world = marathon.world

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register every path; ids contain slashes, so longer endings come before the plain id."""
        app = "/v2/apps/{id:.+}"
        router.add_get("/v2/apps", self.list_apps)
        router.add_post("/v2/apps", self.create_app)
        for method in ("PUT", "PATCH"):
            router.add_route(method, "/v2/apps", self.update_apps)
        router.add_post(f"{app}/restart", self.restart_app)
        router.add_delete(f"{app}/tasks/{{task}}", self.kill_task)
        router.add_get(f"{app}/tasks", self.list_app_tasks)
        router.add_delete(f"{app}/tasks", self.kill_app_tasks)
        router.add_get(app, self.show_app)
        for method in ("PUT", "PATCH"):
            router.add_route(method, app, self.update_app)
        router.add_delete(app, self.delete_app)
        router.add_get("/v2/tasks", self.list_tasks)
        router.add_post("/v2/tasks/delete", self.kill_tasks)
        router.add_get("/v2/pods", self.list_nothing)
        router.add_get("/v2/pods/::status", self.list_nothing)
        router.add_get("/v2/deployments", self.list_deployments)
        router.add_delete("/v2/deployments/{id}", self.cancel_deployment)
        router.add_get("/v2/groups", self.show_group)
        router.add_get("/v2/groups/{id:.*}", self.show_group)
        router.add_delete("/v2/groups/{id:.+}", self.delete_group)

    async def list_apps(self, request: web.Request) -> web.Response:
        """GET /v2/apps, with label, id and cmd filters."""
        # Marathon takes both spellings, and its Python client uses the other one.
        asked = request.query.getall("embed", [])
        embed = {part.removeprefix("apps.").removeprefix("app.") for part in asked}
        shown = [app for app in self._world.apps.values() if _selected(app, request)]
        return answer({"apps": [views.app(app, self._marathon.deployments, embed) for app in shown]})

    async def show_app(self, request: web.Request) -> web.Response:
        """GET /v2/apps/{id}: tasks and last failure are included without asking."""
        app = self._app(request)
        return answer({"app": views.app(app, self._marathon.deployments, {"tasks", "lastTaskFailure"})})

    async def create_app(self, request: web.Request) -> web.Response:
        """POST /v2/apps."""
        raw = await body_of(request)
        deployment = self._marathon.wanted.create(raw, force=flag(request, "force"))
        app = self._world.apps[deployment.app_ids[0]]
        self._posted(request, app)
        shown = views.app(app, self._marathon.deployments, {"tasks"})
        headers = {"Marathon-Deployment-Id": deployment.id, "Location": f"/v2/apps{app.id}"}
        return answer(shown, 201, headers)

    async def update_app(self, request: web.Request) -> web.Response:
        """PUT or PATCH of one app; PUT creates it when it does not exist."""
        raw = await body_of(request)
        if not isinstance(raw, dict):
            raise Malformed("an app is a JSON object")
        app_id = absolute(request.match_info["id"])
        known = app_id in self._world.apps
        if request.method == "PATCH" and not known:
            raise Unknown("App", app_id)
        deployment = self._put(request, [{**raw, "id": app_id}])
        self._posted(request, self._world.apps[app_id])
        return accepted(deployment, 200 if known else 201)

    async def update_apps(self, request: web.Request) -> web.Response:
        """PUT or PATCH of an array of apps, in one deployment."""
        raw = await body_of(request)
        if not isinstance(raw, list) or not raw or not all(isinstance(app, dict) for app in raw):
            raise Malformed("a non-empty JSON array of apps is expected")
        return accepted(self._put(request, raw, group="/"))

    async def delete_app(self, request: web.Request) -> web.Response:
        """DELETE of one app."""
        app = self._app(request)
        return accepted(self._marathon.wanted.delete([app.id], force=flag(request, "force")))

    async def restart_app(self, request: web.Request) -> web.Response:
        """POST /v2/apps/{id}/restart."""
        app = self._app(request)
        return accepted(self._marathon.wanted.restart(app.id, force=flag(request, "force")))

    async def list_app_tasks(self, request: web.Request) -> web.Response:
        """GET /v2/apps/{id}/tasks."""
        return answer({"tasks": views.tasks(self._app(request), with_service_ports=True)})

    async def list_tasks(self, request: web.Request) -> web.Response:
        """GET /v2/tasks, optionally of one status (running, staging)."""
        wanted = request.query.getall("status", []) + request.query.getall("status[]", [])
        states = {f"TASK_{status.upper()}" for status in wanted}
        tasks = [t for a in self._world.every_app() for t in views.tasks(a, with_service_ports=True)]
        return answer({"tasks": [task for task in tasks if not states or task["state"] in states]})

    async def kill_app_tasks(self, request: web.Request) -> web.Response:
        """DELETE /v2/apps/{id}/tasks, optionally only on one host."""
        app, host = self._app(request), request.query.get("host")
        chosen = [i for i in _with_tasks(app) if host is None or (i.run and i.run.host == host)]
        return self._kill(request, chosen, lambda tasks: {"tasks": tasks})

    async def kill_task(self, request: web.Request) -> web.Response:
        """DELETE /v2/apps/{id}/tasks/{taskId}."""
        app, task_id = self._app(request), request.match_info["task"]
        chosen = [i for i in _with_tasks(app) if i.run and i.run.task_id == task_id]
        if not chosen:
            raise Unknown("Task", task_id)
        return self._kill(request, chosen, lambda tasks: {"task": tasks[0]})

    async def kill_tasks(self, request: web.Request) -> web.Response:
        """POST /v2/tasks/delete with {"ids": [...]}; ids that do not exist are passed over."""
        raw = await body_of(request)
        ids = raw.get("ids") if isinstance(raw, dict) else None
        if not isinstance(ids, list):
            raise Malformed('an object {"ids": [...]} is expected')
        every = [instance for app in self._world.apps.values() for instance in _with_tasks(app)]
        chosen = [instance for instance in every if instance.run and instance.run.task_id in ids]
        return self._kill(request, chosen, lambda tasks: {"tasks": tasks})

    async def list_nothing(self, request: web.Request) -> web.Response:
        """Pods: the lab has none."""
        return answer([])

    async def list_deployments(self, request: web.Request) -> web.Response:
        """GET /v2/deployments."""
        return answer([deployment.shown() for deployment in self._marathon.deployments.running()])

    async def cancel_deployment(self, request: web.Request) -> web.Response:
        """DELETE /v2/deployments/{id}?force=true: stop it where it stands, without rollback."""
        name = request.match_info["id"]
        found = [d for d in self._marathon.deployments.running() if d.id == name]
        if not found:
            raise Unknown("DeploymentPlan", name)
        if not flag(request, "force"):
            raise ApiError(501, {"message": "The lab's Marathon does not roll back; use ?force=true"})
        self._marathon.deployments.cancel(found[0])
        return web.Response(status=202)

    async def show_group(self, request: web.Request) -> web.Response:
        """GET /v2/groups[/{id}]."""
        group_id = absolute(request.match_info.get("id", ""))
        apps = list(self._world.apps.values())
        if group_id != "/" and not any(views.contains(group_id, app.id) for app in apps):
            raise Unknown("Group", group_id)
        embed = request.query.getall("embed", ["group.groups", "group.apps"])
        return answer(views.group(group_id, apps, self._marathon.deployments, embed))

    async def delete_group(self, request: web.Request) -> web.Response:
        """DELETE /v2/groups/{id}: all its apps go, in one deployment."""
        group_id = absolute(request.match_info["id"])
        inside = [app_id for app_id in self._world.apps if views.contains(group_id, app_id)]
        if not inside:
            raise Unknown("Group", group_id)
        return accepted(self._marathon.wanted.delete(inside, force=flag(request, "force"), group=group_id))

    def _app(self, request: web.Request) -> App:
        return self._marathon.wanted.app(request.match_info["id"])

    def _put(self, request: web.Request, raw: list[Json], group: str | None = None) -> Deployment:
        partial = request.method == "PATCH" or flag(request, "partialUpdate", default=True)
        return self._marathon.wanted.put(raw, partial=partial, force=flag(request, "force"), group=group)

    def _posted(self, request: web.Request, app: App) -> None:
        self._world.publish(events.api_post(request.remote or "", request.path, app.spec.definition))

    def _kill(self, request: web.Request, chosen: list[Instance], shape: Any) -> web.Response:
        scale, wipe = flag(request, "scale"), flag(request, "wipe")
        if scale and wipe:
            raise Malformed("You cannot use scale and wipe at the same time.")
        if scale and chosen:
            doomed: dict[str, set[str]] = {}
            for instance in chosen:
                doomed.setdefault(instance.spec.app_id, set()).add(instance.id)
            return accepted(self._marathon.wanted.scale_down(doomed, force=flag(request, "force")))
        shown = [views.task(instance) for instance in chosen]
        for instance in chosen:
            act = self._marathon.fleet.wipe if wipe else self._marathon.fleet.kill
            act(instance)
        return answer(shape(shown))


def _with_tasks(app: App) -> list[Instance]:
    alive = (*views.ACTIVE_STATES, Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE)
    return [i for i in app.instances.values() if i.run is not None and i.condition in alive]


def _selected(app: App, request: web.Request) -> bool:
    definition = app.spec.definition
    labels_fit = all(views.matches(definition["labels"], s) for s in request.query.getall("label", []))
    id_fits = request.query.get("id", "").lower() in app.id.lower()
    command_fits = request.query.get("cmd", "").lower() in definition.get("cmd", "").lower()
    return labels_fit and id_fits and command_fits
