"""The control socket's routes for the past, and for a copy of the whole store."""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog
from aiohttp import web

from mooring.controller.replies import BadRequest, json_reply
from mooring.controller.store.archive import archive
from mooring.controller.tenure import tenure
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, MooringError
from mooring.core.model import AppId, Epoch
from mooring.core.store import HistoryQuery, Store

log = structlog.get_logger(__name__)

MOST_NOTES = 10_000


def routes(
    store: Store, clock: Clock, epoch: Epoch, leased: Callable[[str], str] = str
) -> list[web.RouteDef]:
    """What can be asked: notes, a tenure, and the archive as a stream of lines.

    `leased` tells the address whose lease covers the one that is asked for (see `Pools.leased`).
    """

    async def history(request: web.Request) -> web.Response:
        app = request.query.get("app")
        address = request.query.get("address")
        query = HistoryQuery(
            None if address is None else leased(address),
            None if app is None else AppId(app),
            _time(request, "until"),
            _limit(request),
        )
        return json_reply(await store.history(query))

    async def who(request: web.Request) -> web.Response:
        at = _time(request, "at")
        asked = clock.now() if at is None else at
        return json_reply(await tenure(store, leased(request.match_info["address"]), asked))

    async def backup(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        reply.content_type = "application/jsonl"
        await reply.prepare(request)
        try:
            async for lines in archive(store, epoch, clock.now()):
                await reply.write(lines)
            await reply.write_eof()
        except MooringError as error:  # too late for a status; the last line is missing, which tells
            log.error("backup broken off", reason=str(error))
            assert request.transport is not None
            request.transport.abort()
            if isinstance(error, Fatal):
                raise
        return reply

    return [
        web.get("/history", history),
        web.get("/leases/{address}/holder", who),
        web.get("/backup", backup),
    ]


def _limit(request: web.Request) -> int:
    limit = request.query.get("limit", "100")
    if not limit.isdecimal() or not 1 <= int(limit) <= MOST_NOTES:
        raise BadRequest(f"limit: {limit!r:.100} is not a number from 1 to {MOST_NOTES}")
    return int(limit)


def _time(request: web.Request, name: str) -> float | None:
    given = request.query.get(name)
    if given is None:
        return None
    try:
        at = float(given)
        if not math.isfinite(at):
            raise ValueError(given)
        return at
    except ValueError as error:
        raise BadRequest(f"{name}: {given!r:.100} is not a time in Unix seconds") from error
