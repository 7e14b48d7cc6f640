"""Switches that only the lab has, under /lab: they make happen what tests cannot wait for.

Events and streams
    POST   /lab/faults            {"action": "drop|duplicate|delay|reorder", "event_types": [...],
                                   "count": n, "fraction": 0..1, "seconds": s, "window": n, "seed": n}
                                  everything but the action may be left out; see faults.py
    GET    /lab/faults            the rules in force, with hits
    DELETE /lab/faults            no rules any more; held events are released
    POST   /lab/events            {...}: publish this object as an event, through the rules
    POST   /lab/streams/raw       the body goes into every stream as it is; ?last=true ends them there
    POST   /lab/streams/cut       every stream ends at once
    POST   /lab/streams/stall     no byte on any stream, heartbeats included
    POST   /lab/streams/resume    and on again
Leadership
    POST   /lab/failover          {"seconds": 2, "answer": 302|503, "listing": {...}}; answers when it has
                                  begun; with a `listing`, replies are wrong from then on
Listings
    POST   /lab/listing           {"kind": "empty|half|truncated|other|html", "of": "apps|tasks",
                                   "close": true|false, "empty": true|false}
                                  everything but the kind may be left out; see listing.py
    GET    /lab/listing           what is wrong, with hits; null while replies are right
    DELETE /lab/listing           replies are right again
Hosts and instances
    GET    /lab/hosts             name, address, whether reachable
    POST   /lab/hosts/{name}/lose
    POST   /lab/hosts/{name}/return
    POST   /lab/instances/{id}/move?host={name}   kill the container, relaunch the instance there
    POST   /lab/instances/{id}/overlook           the next end of its container is not noticed
    GET    /lab/instances         id, app, condition, goal, task, container, host

With `switches_token` set, all of them need `Authorization: token=<it>`.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from mooring.lab.marathon.errors import ApiError, Malformed, Unknown
from mooring.lab.marathon.faults import Rule
from mooring.lab.marathon.listing import Listing, Wrong
from mooring.lab.marathon.marathon import Marathon
from mooring.lab.marathon.model import Instance, Json, Run
from mooring.lab.marathon.rest import Handler, answer, body_of, flag


class Failover(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /lab/failover."""

    seconds: float = 1.0
    answer: int = 302
    listing: Wrong | None = None


class Switches:
    """The handlers, over one Marathon."""

    def __init__(self, marathon: Marathon, listing: Listing) -> None:
        """Switch this Marathon, and what is wrong with its replies."""
        self._marathon = marathon
        self._listing = listing
        self._bus = marathon.world.bus

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register every switch."""
        for method, path, handler in (
            ("POST", "faults", self.add_fault),
            ("GET", "faults", self.list_faults),
            ("DELETE", "faults", self.clear_faults),
            ("POST", "events", self.publish),
            ("POST", "streams/raw", self.send_raw),
            ("POST", "streams/cut", self.cut),
            ("POST", "streams/stall", self.stall),
            ("POST", "streams/resume", self.resume),
            ("POST", "failover", self.fail_over),
            ("POST", "listing", self.spoil_listing),
            ("GET", "listing", self.show_listing),
            ("DELETE", "listing", self.correct_listing),
            ("GET", "hosts", self.list_hosts),
            ("POST", "hosts/{name}/lose", self.lose_host),
            ("POST", "hosts/{name}/return", self.return_host),
            ("GET", "instances", self.list_instances),
            ("POST", "instances/{id}/move", self.move),
            ("POST", "instances/{id}/overlook", self.overlook),
        ):
            router.add_route(method, f"/lab/{path}", self._guarded(handler))

    def _guarded(self, handler: Handler) -> Handler:
        token = self._marathon.settings.switches_token

        async def guarded(request: web.Request) -> web.StreamResponse:
            if token is not None and request.headers.get("Authorization") != f"token={token}":
                raise ApiError(401, {"message": "the lab's switches need the switches_token"})
            return await handler(request)

        return guarded

    async def add_fault(self, request: web.Request) -> web.Response:
        """Put a fault rule in force."""
        try:
            rule = Rule.parse(await request.read())
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Malformed(f"not a fault rule: {error}") from error
        self._bus.faults.add(rule)
        return answer(rule, 201)

    async def list_faults(self, request: web.Request) -> web.Response:
        """The rules in force."""
        return answer(self._bus.faults.rules())

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Remove all rules."""
        self._bus.faults.clear()
        return answer([])

    async def publish(self, request: web.Request) -> web.Response:
        """Publish any object as an event."""
        event = await body_of(request)
        if not isinstance(event, dict):
            raise Malformed("an event is a JSON object")
        self._bus.publish(event)
        return answer(event)

    async def send_raw(self, request: web.Request) -> web.Response:
        """Send bytes as they are."""
        streams = self._bus.send_raw(await request.read(), last=flag(request, "last"))
        return answer({"streams": streams})

    async def cut(self, request: web.Request) -> web.Response:
        """End every stream."""
        return answer({"streams": self._bus.cut()})

    async def stall(self, request: web.Request) -> web.Response:
        """Hold every byte back."""
        self._bus.flowing.clear()
        return answer({"flowing": False})

    async def resume(self, request: web.Request) -> web.Response:
        """Let bytes flow again."""
        self._bus.flowing.set()
        return answer({"flowing": True})

    async def fail_over(self, request: web.Request) -> web.Response:
        """Begin a failover."""
        try:
            wish = msgspec.json.decode(await request.read() or b"{}", type=Failover)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Malformed(f"not a failover: {error}") from error
        if wish.answer not in (302, 503):
            raise Malformed("answer is 302 or 503")
        leadership = self._marathon.leadership
        if leadership.answer is not None:
            raise ApiError(409, {"message": "a failover is under way"})
        self._listing.wrong = wish.listing or self._listing.wrong
        leadership.begin(wish.seconds, wish.answer)
        return answer(wish, 202)

    async def spoil_listing(self, request: web.Request) -> web.Response:
        """Make replies wrong."""
        try:
            self._listing.wrong = Wrong.parse(await request.read())
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Malformed(f"not a wrong listing: {error}") from error
        return answer(self._listing.wrong, 201)

    async def show_listing(self, request: web.Request) -> web.Response:
        """What is wrong."""
        return answer(self._listing.wrong)

    async def correct_listing(self, request: web.Request) -> web.Response:
        """Make replies right."""
        self._listing.wrong = None
        return answer(None)

    async def list_hosts(self, request: web.Request) -> web.Response:
        """All hosts."""
        hosts = self._marathon.world.hosts.values()
        return answer(
            [{"name": h.name, "address": h.agent.address, "reachable": h.reachable.is_set()} for h in hosts]
        )

    async def lose_host(self, request: web.Request) -> web.Response:
        """Cut a host off."""
        return answer({"instances": self._marathon.hosts.lose(request.match_info["name"])})

    async def return_host(self, request: web.Request) -> web.Response:
        """Let a host come back."""
        self._marathon.hosts.restore(request.match_info["name"])
        return answer({})

    async def list_instances(self, request: web.Request) -> web.Response:
        """All instances, with the container behind each."""
        apps = self._marathon.world.every_app()
        return answer([_shown(instance) for app in apps for instance in app.instances.values()])

    async def move(self, request: web.Request) -> web.Response:
        """Relaunch an instance on the named host."""
        instance_id, host = request.match_info["id"], request.query.get("host", "")
        found = self._marathon.world.find(instance_id)
        if found is None:
            raise Unknown("Instance", instance_id)
        instance = found[1]
        instance.pinned_host = self._marathon.hosts.find(host).name
        self._marathon.fleet.kill(instance)
        return answer(_shown(instance))

    async def overlook(self, request: web.Request) -> web.Response:
        """Do not notice the next end of the instance's container, as if it were started anew in between."""
        found = self._marathon.world.find(request.match_info["id"])
        if found is None or found[1].run is None:
            raise Unknown("Instance", request.match_info["id"])
        self._marathon.world.overlooked.add(found[1].run.task_id)
        return answer(_shown(found[1]))


def _shown(instance: Instance) -> Json:
    run = instance.run
    return {
        "id": instance.id,
        "app": instance.spec.app_id,
        "condition": instance.condition.value,
        "goal": instance.goal.value,
        "healthy": instance.healthy,
        "task": run.task_id if run else None,
        "host": run.host if run else None,
        "container": _container(run) if run else None,
    }


def _container(run: Run) -> str | None:
    launch = run.launch
    done = launch is not None and launch.done() and not launch.cancelled()
    return launch.result() if done and launch is not None and launch.exception() is None else None
