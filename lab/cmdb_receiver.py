"""A small CMDB behind a webhook: takes signed items, and shows what it has taken.

    PUT     /items/KEY     the item's whole state as JSON; `Idempotency-Key` names the change
    OPTIONS /items         answers whether the signature is right, and changes nothing
    GET     /items[/KEY]   what is there now (no signature needed)
    DELETE  /items/KEY     a person's hand: the row is gone, and nobody is told
    GET     /history       every change that was taken, oldest first

A request must carry `X-Mooring-Signature: sha256=<hex>`, the HMAC-SHA256 of its body with the shared
secret.  The body names the item too, so it cannot be replayed on another one.  A change whose
`Idempotency-Key` was seen before is answered as it was then and changes nothing; one that is older than
what is there (a lower epoch, or for the same task a lower generation) is acknowledged and ignored, because
its sender has been overtaken and shall not try again.  A sender retires items by their status and cannot
delete them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from aiohttp import web

Item = dict[str, Any]

_KEYS_KEPT = 100_000


def sign(secret: bytes, body: bytes) -> str:
    """The value of the signature header."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


@dataclass
class Receiver:
    """The items, and the changes that made them."""

    secret: bytes
    items: dict[str, Item] = field(default_factory=dict)
    history: list[Item] = field(default_factory=list)
    answered: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def application(self) -> web.Application:
        """The HTTP application."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/history", self._show_history)
        app.router.add_get("/items", self._list)
        app.router.add_options("/items", self._greet)
        app.router.add_get("/items/{key:.+}", self._show)
        app.router.add_put("/items/{key:.+}", self._put)
        app.router.add_delete("/items/{key:.+}", self._lose)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"items": len(self.items)})

    async def _show_history(self, _: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(self.items)

    async def _show(self, request: web.Request) -> web.Response:
        item = self.items.get(request.match_info["key"])
        return web.json_response(item) if item else _error(404, "no such item")

    async def _lose(self, request: web.Request) -> web.Response:
        lost = self.items.pop(request.match_info["key"], None)
        return web.Response(status=204) if lost else _error(404, "no such item")

    async def _greet(self, request: web.Request) -> web.Response:
        if not self._is_signed(request, await request.read()):
            return _error(401, "X-Mooring-Signature is missing or wrong")
        return web.Response(status=204)

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self._is_signed(request, body):
            return _error(401, "X-Mooring-Signature is missing or wrong")
        identity = request.headers.get("Idempotency-Key", "")
        if not identity:
            return _error(400, "Idempotency-Key is missing")
        if identity in self.answered:
            return web.json_response({"result": "repeated"}, status=self.answered[identity])
        try:
            item = _item(body, request.match_info["key"])
        except ValueError as error:
            return _error(400, str(error))
        status, result = self._take(item)
        self._remember(identity, status)
        return web.json_response({"result": result}, status=status)

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        signature = request.headers.get("X-Mooring-Signature", "")
        return hmac.compare_digest(sign(self.secret, body).encode(), signature.encode())

    def _take(self, item: Item) -> tuple[int, str]:
        """Store the item unless something newer is there: status and result."""
        known = self.items.get(item["key"])
        if known is not None and _is_older(item, known):
            return 200, "ignored"
        self.items[item["key"]] = item
        self.history.append(item)
        return (200, "replaced") if known else (201, "created")

    def _remember(self, identity: str, status: int) -> None:
        self.answered[identity] = status
        while len(self.answered) > _KEYS_KEPT:
            self.answered.popitem(last=False)


def _item(body: bytes, key: str) -> Item:
    """The item in a body; `ValueError` unless it is a JSON object of that key."""
    item = json.loads(body)
    if not isinstance(item, dict) or item.get("key") != key:
        raise ValueError(f"the body is not a JSON object with the key {key!r}")
    return {**item, "received_at": datetime.now(UTC).isoformat()}


def _is_older(item: Item, known: Item) -> bool:
    """Whether a change was overtaken. Generations count within one task only: a seat outlives its tasks."""
    if item.get("epoch", 0) != known.get("epoch", 0):
        return bool(item.get("epoch", 0) < known.get("epoch", 0))
    same = item.get("task") == known.get("task")
    return bool(same and item.get("generation", 0) < known.get("generation", 0))


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


@click.command()
@click.option("--port", type=int, required=True, help="Port on 127.0.0.1.")
@click.option("--secret-file", type=click.Path(path_type=Path, exists=True), required=True)
def main(port: int, secret_file: Path) -> None:
    """Serve until ended."""
    receiver = Receiver(secret_file.read_text().strip().encode())
    web.run_app(receiver.application(), host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
