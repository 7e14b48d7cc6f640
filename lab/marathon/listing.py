"""Wrong replies: what tests make Marathon say about its apps, until it is told to be right again.

    empty      no app and no pod, like a leader whose store is lost or not read yet
    half       every second app (`of` apps) or, within each app, every second task (`of` tasks) is missing
    truncated  the reply ends in its middle; its length is that of the whole and the connection closes, or
               (`close` false) its length is that of the half
    other      `/v2/info` names another framework; with `empty` there are no apps and pods either
    html       200 with a login page, as from a proxy in front of Marathon

Wrong are the replies to GET of `/v2/apps`, of one app, of `/v2/pods/::status`, and with `other` that of
`/v2/info`.  All else stays true, `/v2/apps/{id}/tasks` included, and orders are carried out: only who reads
the listings is deceived.  A half listing lacks the same apps and tasks each time, unless they change.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Self

import msgspec
from aiohttp import web

from mooring.lab.marathon.definition import absolute
from mooring.lab.marathon.errors import Unknown
from mooring.lab.marathon.model import Json
from mooring.lab.marathon.rest import Handler, answer
from mooring.lab.marathon.world import World

_APPS, _APP, _PODS, _INFO = "/v2/apps", "/v2/apps/{id}", "/v2/pods/::status", "/v2/info"
_LISTINGS = frozenset({_APPS, _APP, _PODS})
_LOGIN = "<!DOCTYPE html><title>Log in</title><form method=post><input name=user></form>"


class Kind(Enum):
    """In which way replies are wrong."""

    EMPTY = "empty"
    HALF = "half"
    TRUNCATED = "truncated"
    OTHER = "other"
    HTML = "html"


class Wrong(msgspec.Struct, forbid_unknown_fields=True):
    """How replies are wrong, as `POST /lab/listing` takes it."""

    kind: Kind
    of: Literal["apps", "tasks"] = "apps"
    close: bool = True
    empty: bool = False
    hits: int = 0  # wrong replies so far

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """What a request body says; raises msgspec's errors, which name the key."""
        return msgspec.json.decode(raw, type=cls)

    def concerns(self, place: str) -> bool:
        """Whether replies from this place are wrong."""
        if self.kind is Kind.OTHER:
            return place == _INFO or (self.empty and place in _LISTINGS)
        return place in _LISTINGS


class Listing:
    """Makes replies wrong on their way out. `wrong` is None while they are right."""

    def __init__(self, world: World) -> None:
        """Begin with right replies."""
        self.wrong: Wrong | None = None
        self._world = world

    @web.middleware
    async def spoil(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer as the handler does, or wrongly."""
        wrong, resource = self.wrong, request.match_info.route.resource
        place = resource.canonical if resource is not None else ""
        if wrong is None or request.method != "GET" or not wrong.concerns(place):
            return await handler(request)
        wrong.hits += 1
        if wrong.kind is Kind.HTML:
            return web.Response(text=_LOGIN, content_type="text/html")
        response = await handler(request)
        assert isinstance(response, web.Response), "listings are answered in one piece"
        assert isinstance(response.body, bytes), "listings are answered as bytes"
        if wrong.kind is Kind.TRUNCATED:
            return await _cut_off(request, response.body, close=wrong.close)
        told = msgspec.json.decode(response.body)
        if place == _INFO:
            return answer({**told, "frameworkId": f"{told['frameworkId']}-other"})
        return answer(self._half(place, told, wrong.of) if wrong.kind is Kind.HALF else _empty(place, told))

    def _half(self, place: str, told: Any, of: str) -> Any:
        if place == _PODS:
            return told[::2]
        apps = told["apps"] if place == _APPS else [told["app"]]
        if of == "apps":
            listed = set(sorted(self._world.apps)[::2])
            apps = [app for app in apps if app["id"] in listed]
        else:
            apps = [_with_half_its_tasks(app) for app in apps]
        if place == _APPS:
            return {"apps": apps}
        return {"app": apps[0]} if apps else _empty(place, told)


def _with_half_its_tasks(app: Json) -> Json:
    return {**app, "tasks": app["tasks"][::2]} if "tasks" in app else app


def _empty(place: str, told: Any) -> Any:
    """No apps or pods; `Unknown` for an app that was asked for by its id."""
    if place == _APP:
        raise Unknown("App", absolute(told["app"]["id"]))
    return {"apps": []} if place == _APPS else []


async def _cut_off(request: web.Request, body: bytes, *, close: bool) -> web.StreamResponse:
    """The first half of a reply; with `close`, after announcing all of it."""
    half = body[: len(body) // 2]
    if not close:
        return web.Response(body=half, content_type="application/json")
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    response.force_close()
    await response.prepare(request)
    await response.write(half)
    return response
