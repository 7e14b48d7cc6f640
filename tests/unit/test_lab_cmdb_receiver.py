"""The lab's CMDB takes only signed changes, each once, and forgets nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mooring.cmdb.webhook import Webhook
from mooring.core.clock import SystemClock
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Done
from mooring.core.specs import ItemSpec
from mooring.lab.cmdb_receiver import Receiver, sign

Client = TestClient[web.Request, web.Application]

SECRET = b"secret"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with TestClient(TestServer(Receiver(SECRET).application())) as made:
        yield made


async def put(client: Client, key: str, identity: str, **state: object) -> tuple[int, str]:
    body = json.dumps({"key": key, **state}).encode()
    headers = {"Idempotency-Key": identity, "X-Mooring-Signature": sign(SECRET, body)}
    async with client.put(f"/items/{quote(key, safe='')}", data=body, headers=headers) as answer:
        return answer.status, (await answer.json()).get("result", "refused")


async def shown(client: Client, key: str) -> dict[str, Any]:
    async with client.get(f"/items/{quote(key, safe='')}") as answer:
        item: dict[str, Any] = await answer.json()
        return item


async def test_item_lives_and_retires(client: Client) -> None:
    assert await put(client, "/a/b:0", "k1", status="live") == (201, "created")
    assert await put(client, "/a/b:0", "k2", status="retired", ended_at=1.5) == (200, "replaced")
    assert (await shown(client, "/a/b:0"))["ended_at"] == 1.5
    history = await (await client.get("/history")).json()
    assert [entry["status"] for entry in history] == ["live", "retired"]
    assert list(await (await client.get("/items")).json()) == ["/a/b:0"]


async def test_repeated_change_is_answered_as_before_and_changes_nothing(client: Client) -> None:
    assert await put(client, "x", "same", n=1) == (201, "created")
    assert await put(client, "x", "same", n=9) == (201, "repeated")
    assert (await shown(client, "x"))["n"] == 1


async def test_overtaken_senders_are_acknowledged_and_ignored(client: Client) -> None:
    await put(client, "x", "k1", epoch=2, generation=5, task="t1", n=1)
    assert await put(client, "x", "k2", epoch=1, generation=9, task="t9", n=2) == (200, "ignored")
    assert await put(client, "x", "k3", epoch=2, generation=4, task="t1", n=3) == (200, "ignored")
    assert (await shown(client, "x"))["n"] == 1
    assert await put(client, "x", "k4", epoch=2, generation=1, task="t2", n=4) == (200, "replaced")
    assert await put(client, "x", "k5", epoch=3, generation=1, task="t2", n=5) == (200, "replaced")


async def test_unsigned_requests_are_refused(client: Client) -> None:
    body = b'{"key": "x"}'
    wrong = {"Idempotency-Key": "k", "X-Mooring-Signature": sign(b"other", body)}
    assert (await client.put("/items/x", data=body, headers=wrong)).status == 401
    assert (await client.put("/items/x", data=body)).status == 401
    assert (await client.options("/items")).status == 401
    assert (await client.options("/items", headers={"X-Mooring-Signature": sign(SECRET, b"")})).status == 204
    assert (await client.get("/items/x")).status == 404


@pytest.mark.parametrize("body", [b'{"key": "y"}', b"[1]", b"not json", b"\xff"])
async def test_body_must_be_the_named_item(client: Client, body: bytes) -> None:
    headers = {"Idempotency-Key": "k", "X-Mooring-Signature": sign(SECRET, body)}
    assert (await client.put("/items/x", data=body, headers=headers)).status == 400


async def test_change_must_have_an_identity(client: Client) -> None:
    assert await put(client, "x", "") == (400, "refused")


async def test_the_webhook_sink_and_the_receiver_understand_each_other(client: Client) -> None:
    spec = ItemSpec(key="/shop/web#0", app="/shop/web", instance="i", task="t", host="agent-1", status="live")
    change = Change(BindingId("b"), spec, (), 1, Epoch(1))
    async with aiohttp.ClientSession() as session:
        sink = Webhook(
            session, str(client.make_url("/")), secret=SECRET.decode(), owner="lab", clock=SystemClock()
        )
        assert "204" in await sink.check()
        assert await sink.apply([change]) == [Done()]
        assert (await shown(client, "/shop/web#0"))["status"] == "live"
        assert (await sink.observe()).shown == {spec.key: spec}
        assert await sink.apply([Change(BindingId("b"), None, (spec,), 2, Epoch(1))]) == [Done()]
        assert (await sink.observe()).shown == {}
    assert (await shown(client, "/shop/web#0"))["status"] == "retired"


async def test_a_row_that_a_person_deleted_is_taken_again(client: Client) -> None:
    await put(client, "/a/b:0", "k1", generation=1)
    assert (await client.delete("/items/%2Fa%2Fb:0")).status == 204
    assert (await client.delete("/items/%2Fa%2Fb:0")).status == 404
    assert await put(client, "/a/b:0", "k2", generation=2) == (201, "created")
