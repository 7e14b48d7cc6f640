"""Routes of the control socket: look at the world now, and what would change."""

from __future__ import annotations

from aiohttp import web

from mooring.controller.plan import Planner
from mooring.controller.replies import json_reply
from mooring.controller.verify import Verifier


def routes(verifier: Verifier, planner: Planner) -> list[web.RouteDef]:
    """`POST /verify` answers with a `Look` and starts repairs; `GET /plan` answers with a `Plan` only."""

    async def verify(request: web.Request) -> web.Response:
        return json_reply(await verifier.look())

    async def plan(request: web.Request) -> web.Response:
        return json_reply(await planner.plan())

    return [web.post("/verify", verify), web.get("/plan", plan)]
