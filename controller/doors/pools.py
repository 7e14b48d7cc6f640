"""The control socket's routes for pools, reservations and addresses that an operator gives back."""

from __future__ import annotations

import msgspec
from aiohttp import web

from mooring.controller.pools import PoolKeeper
from mooring.controller.replies import body_of, json_reply
from mooring.core.model import PoolSpec


class Generate(msgspec.Struct, forbid_unknown_fields=True):
    """A pool to be made from a supernet."""

    name: str
    supernet: str
    groups: tuple[str, ...] = ()


class Resize(msgspec.Struct, forbid_unknown_fields=True):
    """A pool's new network, in CIDR form."""

    network: str


class Reserve(msgspec.Struct, forbid_unknown_fields=True):
    """For whom or what an address is kept."""

    reason: str


class Done(msgspec.Struct):
    """The answer where there is nothing to show."""

    done: bool = True


def routes(keeper: PoolKeeper) -> list[web.RouteDef]:
    """What can be asked; answers are the pool as it is then, or `Done`."""

    async def add(request: web.Request) -> web.Response:
        return json_reply(await keeper.add(await body_of(request, PoolSpec)))

    async def specs(request: web.Request) -> web.Response:
        return json_reply(keeper.specs())

    async def generate(request: web.Request) -> web.Response:
        wish = await body_of(request, Generate)
        return json_reply(await keeper.generate(wish.name, wish.supernet, wish.groups))

    async def resize(request: web.Request) -> web.Response:
        wish = await body_of(request, Resize)
        return json_reply(await keeper.resize(request.match_info["name"], wish.network))

    async def remove(request: web.Request) -> web.Response:
        await keeper.remove(request.match_info["name"])
        return json_reply(Done())

    async def reserve(request: web.Request) -> web.Response:
        wish = await body_of(request, Reserve)
        await keeper.reserve(request.match_info["address"], wish.reason)
        return json_reply(Done())

    async def unreserve(request: web.Request) -> web.Response:
        await keeper.unreserve(request.match_info["address"])
        return json_reply(Done())

    async def release(request: web.Request) -> web.Response:
        await keeper.release(request.match_info["address"])
        return json_reply(Done())

    return [
        web.get("/pools/specs", specs),
        web.post("/pools", add),
        web.post("/pools/generated", generate),
        web.put("/pools/{name}/network", resize),
        web.delete("/pools/{name}", remove),
        web.put("/reservations/{address}", reserve),
        web.delete("/reservations/{address}", unreserve),
        web.post("/leases/{address}/release", release),
    ]
