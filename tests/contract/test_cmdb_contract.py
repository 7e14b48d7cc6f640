"""One contract for inventories: in memory, in the store, and behind HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from aiohttp import web
from msgspec import structs

from mooring.cmdb.ledger import Ledger
from mooring.cmdb.memory import MemoryInventory
from mooring.cmdb.webhook import Webhook
from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Done, NotPossible, Outcome, RetryAfter, Sink, Unreadable
from mooring.core.specs import ItemSpec, Spec

SECRET = "a shared secret"
OWNER = "site-a"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class ManualClock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Receiver:
    """A small CMDB: verifies signatures and keeps the state of every item."""

    url: str = ""
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    forged: int = 0
    answer: Answer | None = None  # answers in place of the receiver when it returns a response

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.raw_path, dict(request.headers), body))
        mine = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(mine, request.headers.get("X-Mooring-Signature", "")):
            self.forged += 1
            return web.Response(status=401)
        other = await self.answer(request) if self.answer else None
        if other is not None:
            return other
        if request.method == "GET" and "key" not in request.match_info:
            return web.json_response(self.items)
        if request.method != "PUT":
            return web.Response(status=405)
        state = json.loads(body)
        if request.match_info["key"] != state["key"]:
            return web.Response(status=400, text="the key differs from the path")
        self.items[state["key"]] = state
        return web.Response(status=204)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/cmdb/items/{key}", receiver.handle)
    app.router.add_route("*", "/cmdb/items", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/cmdb"
    try:
        yield receiver
    finally:
        await runner.cleanup()


class Inventory(Protocol):
    """A sink, and a way to look at what it did that does not go through the sink."""

    @property
    def sink(self) -> Sink: ...

    async def live(self) -> dict[str, ItemSpec]: ...

    async def retired(self) -> set[str]: ...

    def restarted(self) -> Sink: ...


@dataclass
class InMemory:
    sink: MemoryInventory

    async def live(self) -> dict[str, ItemSpec]:
        return dict(self.sink.live)

    async def retired(self) -> set[str]:
        return set(self.sink.retired)

    def restarted(self) -> Sink:
        again = MemoryInventory()
        again.live, again.retired = self.sink.live, self.sink.retired
        return again


@dataclass
class InStore:
    store: SqliteStore
    clock: ManualClock
    sink: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.sink = Ledger(self.store, self.clock)

    async def live(self) -> dict[str, ItemSpec]:
        return {row.item.key: row.item for row in await self.store.ledger()}

    async def retired(self) -> set[str]:
        rows = await self.store.ledger(live_only=False)
        return {row.item.key for row in rows if row.retired_at is not None}

    def restarted(self) -> Sink:
        return Ledger(self.store, self.clock)


@dataclass
class BehindHttp:
    receiver: Receiver
    session: aiohttp.ClientSession
    clock: ManualClock
    sink: Webhook = field(init=False)

    def __post_init__(self) -> None:
        self.sink = self.restarted()

    async def live(self) -> dict[str, ItemSpec]:
        kept = {key: state for key, state in self.receiver.items.items() if state["status"] != "retired"}
        names = ItemSpec.__struct_fields__
        return {key: ItemSpec(**{name: state[name] for name in names}) for key, state in kept.items()}

    async def retired(self) -> set[str]:
        return {key for key, state in self.receiver.items.items() if state["status"] == "retired"}

    def restarted(self) -> Webhook:
        return Webhook(
            self.session, self.receiver.url, secret=SECRET, owner=OWNER, clock=self.clock, timeout_s=20
        )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.db", inline)
    await store.open()
    await store.begin(Epoch(1))
    yield store
    await store.close()


@pytest.fixture
async def http(clock: ManualClock) -> AsyncIterator[BehindHttp]:
    async with receiving() as receiver, aiohttp.ClientSession() as session:
        yield BehindHttp(receiver, session, clock)
        assert receiver.forged == 0


@pytest.fixture(params=["memory", "ledger", "webhook"])
async def inventory(
    request: pytest.FixtureRequest, clock: ManualClock, store: SqliteStore, http: BehindHttp
) -> Inventory:
    kinds: dict[str, Inventory] = {
        "memory": InMemory(MemoryInventory()),
        "ledger": InStore(store, clock),
        "webhook": http,
    }
    return kinds[request.param]


def item(key: str = "/shop/web#0", instance: str = "i-1", status: str = "live") -> ItemSpec:
    return ItemSpec(
        key, "/shop/web", instance, f"{instance}._app.1", "host-1", status, "10.64.0.7", 0, "blue",
        address6="fd00:64::a40:7",
    )  # fmt: skip


def change(binding: str, wanted: Spec | None, *was: Spec, generation: int = 1, epoch: int = 1) -> Change:
    return Change(BindingId(binding), wanted, was, generation, Epoch(epoch))


async def one(sink: Sink, wanted: Change) -> Outcome:
    (outcome,) = await sink.apply([wanted])
    return outcome


async def test_an_item_comes_and_is_retired(inventory: Inventory) -> None:
    assert isinstance(await one(inventory.sink, change("b", item())), Done)
    assert await inventory.live() == {item().key: item()}
    assert (await inventory.sink.observe()).shown == {item().key: item()}
    assert isinstance(await one(inventory.sink, change("b", None, item())), Done)
    assert await inventory.live() == {}
    assert await inventory.retired() == {item().key}
    assert (await inventory.sink.observe()).shown == {}


async def test_repeating_is_harmless(inventory: Inventory) -> None:
    for _ in range(2):
        assert isinstance(await one(inventory.sink, change("b", item(), item())), Done)
        assert await inventory.live() == {item().key: item()}
    for _ in range(2):
        assert isinstance(await one(inventory.sink, change("b", None, item())), Done)
        assert await inventory.retired() == {item().key}


async def test_nothing_wanted_and_nothing_there(inventory: Inventory) -> None:
    assert await one(inventory.sink, change("b", None)) == Done(changed=False)
    assert await inventory.live() == {}


async def test_a_change_of_state_replaces_the_item(inventory: Inventory) -> None:
    await one(inventory.sink, change("b", item()))
    down = item(status="down")
    await one(inventory.sink, change("b", down, item(), generation=2))
    assert await inventory.live() == {down.key: down}
    assert await inventory.retired() == set()


async def test_an_item_that_moves_to_another_key(inventory: Inventory) -> None:
    await one(inventory.sink, change("b", item("/shop/web#0")))
    await one(inventory.sink, change("b", item("/shop/web#4"), item("/shop/web#0"), generation=2))
    assert set(await inventory.live()) == {"/shop/web#4"}
    assert await inventory.retired() == {"/shop/web#0"}


async def test_residue_of_a_crash_is_retired(inventory: Inventory) -> None:
    applied, tried, wanted = item("/a#0"), item("/a#1"), item("/a#2")
    await one(inventory.sink, change("b", applied))
    await one(inventory.sink, change("b", tried, applied))
    again = inventory.restarted()
    await again.prime({BindingId("b"): [applied, tried, wanted]})
    await one(again, change("b", wanted, applied, tried))
    assert set(await inventory.live()) == {"/a#2"}
    assert await inventory.retired() == {"/a#0", "/a#1"}


async def test_a_late_departure_spares_the_seats_next_instance(inventory: Inventory) -> None:
    old, new = item(instance="i-1"), item(instance="i-2")
    await one(inventory.sink, change("old", old))
    await one(inventory.sink, change("new", new))
    again = inventory.restarted()
    await again.prime({BindingId("old"): [old], BindingId("new"): [new]})
    await one(again, change("old", None, old))
    assert await inventory.live() == {new.key: new}
    await one(again, change("new", None, new))
    assert await inventory.retired() == {new.key}


async def test_a_seat_handed_over_within_one_batch(inventory: Inventory) -> None:
    old, new = item(instance="i-1"), item(instance="i-2")
    await one(inventory.sink, change("old", old))
    await inventory.sink.apply([change("new", new), change("old", None, old)])
    assert await inventory.live() == {new.key: new}


async def test_a_retired_seat_comes_back(inventory: Inventory) -> None:
    await one(inventory.sink, change("b", item()))
    await one(inventory.sink, change("b", None, item()))
    await one(inventory.sink, change("c", item(instance="i-2")))
    assert await inventory.live() == {item().key: item(instance="i-2")}
    assert await inventory.retired() == set()


async def test_awkward_keys_and_a_big_batch(inventory: Inventory) -> None:
    keys = ["/a/b#0", "a b", "../../etc", "ä?x=1&y=2", "100%2F", "a/../b", *(f"/big#{n}" for n in range(200))]
    outcomes = await inventory.sink.apply([change(f"b{n}", item(key)) for n, key in enumerate(keys)])
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert set(await inventory.live()) == set(keys)


async def test_check_is_one_line(inventory: Inventory) -> None:
    line = await inventory.sink.check()
    assert line
    assert "\n" not in line
    assert inventory.sink.lane(change("b", item())) == inventory.sink.lane(change("c", None))


# --- the ledger -------------------------------------------------------------------------------------------


async def test_the_ledger_keeps_start_and_end(store: SqliteStore, clock: ManualClock) -> None:
    sink = Ledger(store, clock)
    await one(sink, change("b", item()))
    clock.at = 1100.0
    await one(sink, change("b", item(status="down"), item(), generation=2))
    clock.at = 1200.0
    await one(sink, change("b", None, item(status="down"), generation=3))
    clock.at = 1300.0
    await one(sink, change("b", None, item(status="down"), generation=3))
    (row,) = await store.ledger(live_only=False)
    assert (row.since, row.retired_at) == (1000.0, 1200.0)


async def test_the_ledger_of_an_overtaken_daemon(tmp_path: Path, clock: ManualClock) -> None:
    class Overtaken(SqliteStore):
        async def commit(self, writes: Any) -> None:
            raise Fenced("a newer daemon writes")

    sink = Ledger(Overtaken(tmp_path / "store.db", inline), clock)
    with pytest.raises(Fenced):
        await sink.apply([change("b", item())])


# --- the webhook ------------------------------------------------------------------------------------------


def answering(*codes: int, headers: dict[str, str] | None = None) -> Answer:
    """Answer with these codes in turn, then let the receiver work."""
    left = list(codes)

    async def answer(_: web.Request) -> web.Response | None:
        return web.Response(status=left.pop(0), text="no\nway", headers=headers) if left else None

    return answer


async def test_what_a_request_carries(http: BehindHttp) -> None:
    await one(http.sink, change("b", item("/shop/web#0"), epoch=7, generation=3))
    path, headers, body = http.receiver.requests[0]
    assert path == "/cmdb/items/%2Fshop%2Fweb%230"
    assert headers["X-Mooring-Epoch"] == "7"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "key": "/shop/web#0",
        "app": "/shop/web",
        "instance": "i-1",
        "task": "i-1._app.1",
        "host": "host-1",
        "status": "live",
        "address": "10.64.0.7",
        "address6": "fd00:64::a40:7",
        "slot": 0,
        "pool": "blue",
        "owner": OWNER,
        "epoch": 7,
        "generation": 3,
    }


async def test_the_idempotency_key_is_that_of_the_change(http: BehindHttp, clock: ManualClock) -> None:
    async def key(wanted: Change) -> str:
        await one(http.sink, wanted)
        return http.receiver.requests[-1][1]["Idempotency-Key"]

    first = await key(change("b", None, item()))
    clock.at += 50
    assert await key(change("b", None, item())) == first
    others = [
        await key(change("b", item())),
        await key(change("b", None, item(), generation=2)),
        await key(change("b", None, item(), epoch=2)),
        await key(change("b", None, item("/other#0"))),
        await key(change("b", None, item(instance="i-9"))),
    ]
    assert len({first, *others}) == 6


async def test_a_retired_item_says_when_it_ended(http: BehindHttp, clock: ManualClock) -> None:
    await one(http.sink, change("b", item()))
    clock.at = 1234.5
    await one(http.sink, change("b", None, item()))
    state = http.receiver.items[item().key]
    assert (state["status"], state["ended_at"], state["instance"]) == ("retired", 1234.5, "i-1")


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(http: BehindHttp, code: int) -> None:
    http.receiver.answer = answering(code, headers={"Retry-After": "17"})
    outcome = await one(http.sink, change("b", item()))
    assert isinstance(outcome, RetryAfter)
    assert outcome.after_s == 17.0
    assert str(code) in outcome.reason
    assert await one(http.sink, change("b", item(), item())) == Done()


@pytest.mark.parametrize(
    ("header", "wait"),
    [("9" * 400, 3600.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("²", None)],
)
async def test_a_strange_retry_after(http: BehindHttp, header: str, wait: float | None) -> None:
    http.receiver.answer = answering(503, headers={"Retry-After": header})
    outcome = await one(http.sink, change("b", item()))
    assert isinstance(outcome, RetryAfter)
    assert outcome.after_s == wait


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 413, 422])
async def test_what_needs_a_person_is_not_tried_again(http: BehindHttp, code: int) -> None:
    http.receiver.answer = answering(code)
    bad, good = await http.sink.apply([change("b", item("/a#0")), change("c", item("/a#1"))])
    assert sorted([type(bad).__name__, type(good).__name__]) == ["Done", "NotPossible"]
    refused = bad if isinstance(bad, NotPossible) else good
    assert isinstance(refused, NotPossible)
    assert str(code) in refused.reason
    assert "\n" not in refused.reason


async def test_a_redirect_is_not_followed(http: BehindHttp) -> None:
    http.receiver.answer = answering(307, headers={"Location": "http://elsewhere.invalid/"})
    outcome = await one(http.sink, change("b", item()))
    assert isinstance(outcome, NotPossible)
    assert "elsewhere.invalid" in outcome.reason
    assert len(http.receiver.requests) == 1


async def test_a_wrong_secret_shows_at_the_check(http: BehindHttp, clock: ManualClock) -> None:
    wrong = Webhook(http.session, http.receiver.url, secret="another", owner=OWNER, clock=clock)
    with pytest.raises(Refused, match="compare the secret"):
        await wrong.check()
    assert isinstance(await one(wrong, change("b", item())), NotPossible)
    http.receiver.forged = 0


async def test_a_receiver_that_fails_shows_at_the_check(http: BehindHttp) -> None:
    http.receiver.answer = answering(502)
    with pytest.raises(Retryable, match="502"):
        await http.sink.check()


async def test_a_receiver_that_is_down(clock: ManualClock) -> None:
    async with receiving() as receiver:
        url = receiver.url
    async with aiohttp.ClientSession() as session:
        sink = Webhook(session, url, secret=SECRET, owner=OWNER, clock=clock)
        outcomes = await sink.apply([change(f"b{n}", item(f"/a#{n}")) for n in range(20)])
        assert all(isinstance(outcome, RetryAfter) and url in outcome.reason for outcome in outcomes)
        with pytest.raises(Retryable):
            await sink.check()


async def test_a_receiver_that_hangs_costs_one_round(http: BehindHttp, clock: ManualClock) -> None:
    async def hang(_: web.Request) -> None:
        await asyncio.Event().wait()

    http.receiver.answer = hang
    sink = Webhook(
        http.session, http.receiver.url, secret=SECRET, owner=OWNER, clock=clock, timeout_s=0.3, parallel=4
    )
    outcomes = await sink.apply([change(f"b{n}", item(f"/a#{n}")) for n in range(40)])
    assert all(isinstance(outcome, RetryAfter) and "0.3 s" in outcome.reason for outcome in outcomes)
    assert len(http.receiver.requests) < 12
    http.receiver.answer = None
    assert isinstance(await one(sink, change("b0", item("/a#0"), item("/a#0"))), Done)


async def test_poisonous_items_do_not_stop_the_batch(http: BehindHttp, clock: ManualClock) -> None:
    poisonous = set(range(0, 50, 5))

    async def poisoned(request: web.Request) -> None:
        if int(request.match_info["key"]) in poisonous and request.transport is not None:
            request.transport.abort()

    http.receiver.answer = poisoned
    sink = Webhook(http.session, http.receiver.url, secret=SECRET, owner=OWNER, clock=clock, parallel=4)
    outcomes = await sink.apply([change(f"b{n}", item(str(n))) for n in range(50)])
    assert {n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Done)} == poisonous
    assert all(isinstance(outcomes[n], RetryAfter) for n in poisonous)


async def test_no_more_than_so_many_requests_at_once(http: BehindHttp, clock: ManualClock) -> None:
    running: set[str] = set()
    most = 0

    async def count(request: web.Request) -> None:
        nonlocal most
        running.add(request.path)
        most = max(most, len(running))
        await asyncio.sleep(0.01)
        running.discard(request.path)

    http.receiver.answer = count
    sink = Webhook(http.session, http.receiver.url, secret=SECRET, owner=OWNER, clock=clock, parallel=3)
    await sink.apply([change(f"b{n}", item(f"/a#{n}")) for n in range(20)])
    assert most == 3


async def test_two_requests_for_one_item_keep_their_order(http: BehindHttp) -> None:
    slow = [0.05, 0.0]

    async def delay(_: web.Request) -> None:
        await asyncio.sleep(slow.pop(0) if slow else 0)

    http.receiver.answer = delay
    await http.sink.apply([change("old", item(status="down")), change("new", item(instance="i-2"))])
    assert await http.live() == {item().key: item(instance="i-2")}


async def test_what_a_person_did_over_there_is_seen(http: BehindHttp) -> None:
    kept, altered, lost = item("/a#0"), item("/a#1"), item("/a#2")
    for number, spec in enumerate((kept, altered, lost)):
        await one(http.sink, change(f"b{number}", spec))
    http.receiver.items["/a#1"]["host"] = "elsewhere"
    del http.receiver.items["/a#2"]
    http.receiver.items["/theirs"] = {"key": "/theirs", "owner": "site-b", "status": "live"}
    http.receiver.items["/hand-made"] = {"note": "who am I"}
    seen = await http.sink.observe()
    assert seen.shown == {"/a#0": kept, "/a#1": structs.replace(altered, host="elsewhere")}
    assert seen.foreign == ("item /hand-made: no owner", "item /theirs: owner 'site-b'")


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_receiver_without_a_listing_is_taken_at_its_word(http: BehindHttp, status: int) -> None:
    http.receiver.answer = answering(status)
    with pytest.raises(Unreadable, match=str(status)):
        await http.sink.observe()


async def test_why_a_listing_cannot_be_read_is_told(http: BehindHttp) -> None:
    http.receiver.answer = answering(503)
    with pytest.raises(Retryable, match="503"):
        await http.sink.observe()
    http.receiver.answer = answering(403)
    with pytest.raises(Refused, match="compare the secret"):
        await http.sink.observe()
    http.receiver.answer = answering(200)
    with pytest.raises(Refused, match="not a JSON object of items"):
        await http.sink.observe()


async def test_a_change_under_a_new_generation_is_another_request(http: BehindHttp) -> None:
    """A repair must not look like a repetition to a receiver that answers each change once."""
    await one(http.sink, change("b", item(), generation=1))
    await one(http.sink, change("b", item(), item(), generation=2))
    first, second = (headers["Idempotency-Key"] for _, headers, _ in http.receiver.requests)
    assert first != second


@pytest.mark.parametrize("url", ["", "ftp://x/", "http://", "cmdb.test/items", "http:///x"])
async def test_an_unusable_address_is_refused_at_once(http: BehindHttp, clock: ManualClock, url: str) -> None:
    with pytest.raises(Refused, match="not an http or https address"):
        Webhook(http.session, url, secret=SECRET, owner=OWNER, clock=clock)


async def test_an_empty_secret_is_refused_at_once(http: BehindHttp, clock: ManualClock) -> None:
    with pytest.raises(Refused, match="secret"):
        Webhook(http.session, "http://cmdb.test", secret="", owner=OWNER, clock=clock)
