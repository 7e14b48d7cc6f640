"""The control socket's routes for hosts: who answers, and the fences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mooring.controller.adopt import survey
from mooring.controller.replies import body_of, json_reply
from mooring.controller.stage import Ground
from mooring.core.model import HostName, LeaseState

if TYPE_CHECKING:
    from mooring.controller.engine import Engine


class HostRow(msgspec.Struct, frozen=True):
    """One host, asked a moment ago."""

    host: str
    state: str  # "answering", "silent" or "fenced"
    answers: bool  # a fenced host may have come back
    ports: int | None  # under our mark, when it was last heard; None: not heard in this daemon's life
    epoch: int | None  # the highest it has seen, likewise
    bound: int = 0  # leases that are in somebody's hand there
    stranded: int = 0  # leases whose ports it cannot confirm to be gone
    silent_since: float | None = None  # Unix seconds
    why: str = ""  # it is silent
    fenced_at: float | None = None  # Unix seconds
    reason: str = ""  # it is fenced
    known: bool = True  # it stands in the inventory


class FenceWish(msgspec.Struct, forbid_unknown_fields=True):
    """Why a host is fenced; `force` even if it answers."""

    reason: str
    force: bool = False


async def rows_of(engine: Engine, ground: Ground) -> list[HostRow]:
    """Every host of the inventory and every other one that is fenced, all asked now."""
    hosts = ground.hosts
    names = sorted({*ground.inventory, *hosts.fenced})
    await survey(hosts, names)
    leases = engine.records.book.leases()
    counts = Counter((lease.host, lease.state) for lease in leases)
    fences = engine.fences.all()
    rows = []
    for name in names:
        silence, census = hosts.attendance.silences.get(name), hosts.attendance.censuses.get(name)
        fence = fences.get(HostName(name))
        rows.append(
            HostRow(
                host=name,
                state=ground.state_of(name),
                answers=silence is None,
                ports=census.ports if census else None,
                epoch=census.epoch if census else None,
                bound=counts[HostName(name), LeaseState.BOUND],
                stranded=counts[HostName(name), LeaseState.STRANDED],
                silent_since=silence.since if silence else None,
                why=silence.why if silence else "",
                fenced_at=fence.at if fence else None,
                reason=fence.reason if fence else "",
                known=name in ground.inventory,
            )
        )
    return rows


def routes(engine: Engine, ground: Ground) -> list[web.RouteDef]:
    """All three answer with the hosts as they are then."""

    async def listed(request: web.Request) -> web.Response:
        return json_reply(await rows_of(engine, ground))

    async def fence(request: web.Request) -> web.Response:
        wish = await body_of(request, FenceWish)
        await engine.fence(HostName(request.match_info["host"]), wish.reason, force=wish.force)
        return json_reply(await rows_of(engine, ground))

    async def unfence(request: web.Request) -> web.Response:
        await engine.unfence(HostName(request.match_info["host"]))
        return json_reply(await rows_of(engine, ground))

    return [
        web.get("/hosts", listed),
        web.put("/hosts/{host}/fence", fence),
        web.delete("/hosts/{host}/fence", unfence),
    ]
