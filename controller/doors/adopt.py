"""The control socket's routes for `mooring adopt`: look at the plan, and do it."""

from __future__ import annotations

import msgspec
from aiohttp import web

from mooring.controller.adoption import Adopter
from mooring.controller.replies import body_of, json_reply


class AdoptionWish(msgspec.Struct, forbid_unknown_fields=True):
    """On which hosts; on none in particular: on all."""

    hosts: tuple[str, ...] = ()


def routes(adopter: Adopter) -> list[web.RouteDef]:
    """Both answer with an `Adoption`; `GET /adopt?host=NAME&host=...` changes nothing."""

    async def plan(request: web.Request) -> web.Response:
        return json_reply(await adopter.plan(request.query.getall("host", [])))

    async def apply(request: web.Request) -> web.Response:
        return json_reply(await adopter.apply((await body_of(request, AdoptionWish)).hosts))

    return [web.get("/adopt", plan), web.post("/adopt", apply)]
