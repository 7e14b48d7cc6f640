"""The HTTP front: event stream, REST API, server information, test switches, errors as JSON.

Leadership is decided here, before any handler: on a standby `/v2/events` redirects while the rest is
answered as if proxied; without a leader everything but the switches answers an error.  Wrong listings are
made last, of what a right one would be.
"""

from __future__ import annotations

from aiohttp import web

from mooring.lab.marathon.errors import ApiError
from mooring.lab.marathon.listing import Listing
from mooring.lab.marathon.marathon import Marathon
from mooring.lab.marathon.rest import Handler, Rest, answer
from mooring.lab.marathon.switches import Switches


def application(marathon: Marathon) -> web.Application:
    """The web application; its start and stop are the Marathon's."""
    front = _Front(marathon)
    listing = Listing(marathon.world)
    middlewares = [front.leader_header, front.errors, front.leader_only, listing.spoil]
    app = web.Application(middlewares=middlewares, client_max_size=16 * 2**20)
    front.add_routes(app.router)
    Rest(marathon).add_routes(app.router)
    Switches(marathon, listing).add_routes(app.router)
    app.cleanup_ctx.append(lambda _: marathon.running())
    app.on_shutdown.append(front.end_streams)
    return app


class _Front:
    def __init__(self, marathon: Marathon) -> None:
        self._marathon = marathon
        self._leadership = marathon.leadership

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v2/events", self.events)
        router.add_get("/v2/info", self.info)
        router.add_get("/v2/leader", self.leader)
        router.add_get("/ping", self.ping)

    @web.middleware
    async def leader_header(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if self._leadership.answer is None and not response.prepared:
            response.headers["X-Marathon-Leader"] = f"http://{self._leadership.leader}"
        return response

    @web.middleware
    async def errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return answer(error.body, error.status)
        except web.HTTPNotFound:
            return answer({"message": "HTTP 404 Not Found"}, 404)
        except web.HTTPMethodNotAllowed as error:
            return answer({"message": "HTTP 405 Method Not Allowed"}, 405, {"Allow": error.headers["Allow"]})

    @web.middleware
    async def leader_only(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        status = self._leadership.answer
        if status is None or request.path.startswith("/lab/"):
            return await handler(request)
        if request.path == "/v2/events":
            location = {"Location": f"http://{request.host}{request.path_qs}"}
            return web.Response(status=status, headers=location if status == 302 else None)
        if status == 302:
            response = await handler(request)
            response.headers["X-Marathon-Via"] = f"1.1 {request.host}"
            return response
        if request.path == "/v2/leader":
            raise ApiError(404, {"message": "There is no leader"})
        raise ApiError(502, {"message": "Could not determine the current leader"})

    async def events(self, request: web.Request) -> web.StreamResponse:
        return await self._marathon.streams.serve(request, self._leadership.leader)

    async def info(self, request: web.Request) -> web.Response:
        settings = self._marathon.settings
        return answer(
            {
                "name": "marathon",
                "version": settings.version,
                "buildref": "lab",
                "elected": self._leadership.answer is None,
                "leader": self._leadership.leader,
                "frameworkId": settings.framework_id,
                "marathon_config": {"master": "lab", "checkpoint": True, "mesos_user": "root"},
                "zookeeper_config": {"zk": "zk://lab/marathon", "zk_timeout": 10000},
                "http_config": {"http_port": settings.listen_port, "https_port": 8443},
            }
        )

    async def leader(self, request: web.Request) -> web.Response:
        return answer({"leader": self._leadership.leader})

    async def ping(self, request: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def end_streams(self, _: web.Application) -> None:
        self._marathon.world.bus.cut()
