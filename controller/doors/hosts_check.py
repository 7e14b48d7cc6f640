"""The control socket's route for what the hosts can do."""

from __future__ import annotations

from aiohttp import web

from mooring.controller.capabilities import check_hosts
from mooring.controller.replies import json_reply
from mooring.controller.stage import Ground


def routes(ground: Ground) -> list[web.RouteDef]:
    """`GET /hosts/check`, with a `host` for each one that is meant, or without for all."""

    async def checked(request: web.Request) -> web.Response:
        names = request.query.getall("host", [])
        return json_reply(await check_hosts(ground.hosts, ground.inventory, names))

    return [web.get("/hosts/check", checked)]
