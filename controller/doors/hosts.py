"""The control socket's routes for hosts: who answers, the fences, and maintenance."""

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
    state: str  # "answering", "silent", "fenced" or "maintenance"; nobody asks one in maintenance
    answers: bool  # a fenced host may have come back
    ports: int | None  # under our mark, when it was last heard; None: not heard in this daemon's life
    epoch: int | None  # the highest it has seen, likewise
    bound: int = 0  # leases that are in somebody's hand there
    stranded: int = 0  # leases whose ports it cannot confirm to be gone
    silent_since: float | None = None  # Unix seconds
    why: str = ""  # it is silent
    fenced_at: float | None = None  # Unix seconds
    reason: str = ""  # it is fenced, or in maintenance
    known: bool = True  # it stands in the inventory
    maintained_at: float | None = None  # Unix seconds


class FenceWish(msgspec.Struct, forbid_unknown_fields=True):
    """Why a host is fenced; `force` even if it answers."""

    reason: str
    force: bool = False


class MaintenanceWish(msgspec.Struct, forbid_unknown_fields=True):
    """Why people are at work on a host."""

    reason: str = ""


async def rows_of(engine: Engine, ground: Ground) -> list[HostRow]:
    """Every host of the inventory and every other one that is fenced, asked now unless in maintenance."""
    hosts = ground.hosts
    names = sorted({*ground.inventory, *hosts.fenced})
    await survey(hosts, [name for name in names if name not in hosts.maintained])
    leases = engine.records.book.leases()
    counts = Counter((lease.host, lease.state) for lease in leases)
    fences, maintained = engine.fences.all(), engine.maintenance.all()
    rows = []
    for name in names:
        silence, census = hosts.attendance.silences.get(name), hosts.attendance.censuses.get(name)
        fence, work = fences.get(HostName(name)), maintained.get(HostName(name))
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
                reason=fence.reason if fence else work.reason if work else "",
                known=name in ground.inventory,
                maintained_at=work.at if work else None,
            )
        )
    return rows


def routes(engine: Engine, ground: Ground) -> list[web.RouteDef]:
    """All answer with the hosts as they are then."""

    async def listed(request: web.Request) -> web.Response:
        return json_reply(await rows_of(engine, ground))

    async def fence(request: web.Request) -> web.Response:
        wish = await body_of(request, FenceWish)
        await engine.fence(HostName(request.match_info["host"]), wish.reason, force=wish.force)
        return json_reply(await rows_of(engine, ground))

    async def unfence(request: web.Request) -> web.Response:
        await engine.unfence(HostName(request.match_info["host"]))
        return json_reply(await rows_of(engine, ground))

    async def maintain(request: web.Request) -> web.Response:
        wish = await body_of(request, MaintenanceWish)
        await engine.maintain(HostName(request.match_info["host"]), wish.reason)
        return json_reply(await rows_of(engine, ground))

    async def resume(request: web.Request) -> web.Response:
        await engine.end_maintenance(HostName(request.match_info["host"]))
        return json_reply(await rows_of(engine, ground))

    return [
        web.get("/hosts", listed),
        web.put("/hosts/{host}/maintenance", maintain),
        web.delete("/hosts/{host}/maintenance", resume),
        web.put("/hosts/{host}/fence", fence),
        web.delete("/hosts/{host}/fence", unfence),
    ]
