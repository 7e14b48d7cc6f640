"""The control socket's routes for a rebuild: look at the plan, apply the one that was looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mooring.controller.replies import body_of, json_reply

if TYPE_CHECKING:
    from mooring.controller.rebuild import Rebuild


class Agreed(msgspec.Struct, forbid_unknown_fields=True):
    """Which plan an operator has seen."""

    digest: str


def routes(rebuild: Rebuild) -> list[web.RouteDef]:
    """Both answer with a `RebuildPlan`."""

    async def plan(request: web.Request) -> web.Response:
        return json_reply(await rebuild.plan())

    async def apply(request: web.Request) -> web.Response:
        return json_reply(await rebuild.apply((await body_of(request, Agreed)).digest))

    return [web.get("/rebuild", plan), web.post("/rebuild", apply)]
