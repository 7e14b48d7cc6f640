"""What every route of the control socket needs: JSON out, a typed body in, one error for a bad request."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from mooring.core.errors import Refused

T = TypeVar("T")


class BadRequest(Refused):
    """The request itself is wrong; answered with 400."""


def json_reply(value: Any, status: int = 200) -> web.Response:
    """Any value that msgspec can encode, as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body as that type; `BadRequest` names what is wrong with it."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"body: {error}") from error
