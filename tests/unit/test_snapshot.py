"""Asking for listings, and throwing them away when anything about the replies is odd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mooring.cext import DEFAULT_LIMIT
from mooring.controller import snapshot
from mooring.controller.access import Access
from mooring.controller.listing import AppListing
from mooring.controller.snapshot import Marathon, OtherCluster
from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable
from mooring.core.model import AppId, HostName

DATA = Path(__file__).parents[1] / "data" / "marathon-api"
APPS = (DATA / "v2-apps-embed-tasks.json").read_bytes()
API = AppId("/prod/web/api")


@dataclass
class Fake:
    """A Marathon whose every answer can be replaced, one request at a time or for good."""

    answers: dict[str, Callable[[], web.Response]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    framework: str = "f-1"
    leader: str = "m1:8080"
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        self.headers.append(dict(request.headers))
        if request.path in self.answers:
            return self.answers[request.path]()
        match request.path:
            case "/v2/info":
                return web.json_response({"frameworkId": self.framework, "version": "1.8.244"})
            case "/v2/leader":
                return web.json_response({"leader": self.leader})
            case "/v2/apps":
                return web.Response(body=APPS, content_type="application/json")
            case "/v2/pods/::status":
                return web.json_response([{"id": "/pod", "instances": [{"id": "x"}]}])
            case "/v2/apps/prod/web/api":
                app = next(app for app in json.loads(APPS)["apps"] if app["id"] == API)
                return web.json_response({"app": app})
        return web.json_response({"message": f"App '{request.path}' does not exist"}, status=404)


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    fake = Fake()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
async def marathon(fake: Fake) -> AsyncIterator[Marathon]:
    async with Marathon(Access((fake.url,)), SystemClock(), timeout_s=2) as marathon:
        yield marathon


async def test_a_snapshot(fake: Fake, marathon: Marathon) -> None:
    before = SystemClock().monotonic()
    snapshot = await marathon.snapshot()
    assert before <= snapshot.begun <= SystemClock().monotonic()
    assert len(snapshot.apps) == len(json.loads(APPS)["apps"])
    assert snapshot.pods == {"/pod": {"x"}}
    assert (snapshot.framework, snapshot.leader, marathon.framework) == ("f-1", "m1:8080", "f-1")
    assert fake.asked == [
        "/v2/info",
        "/v2/leader",
        "/v2/apps?embed=apps.tasks",
        "/v2/pods/::status",
        "/v2/info",
        "/v2/leader",
    ]


async def test_one_app(fake: Fake, marathon: Marathon) -> None:
    none = AppId("/prod/none")
    listings = await marathon.apps([API, none])
    listing, absent = listings[API], listings[none]
    assert isinstance(listing, AppListing)
    assert isinstance(absent, AppListing)
    assert listing.app is not None
    assert (listing.id, len(listing.instances)) == (API, 3)
    assert listing.instances[0].host == HostName("agent-04.dc1.example.net")
    assert (absent.id, absent.app, absent.instances) == ("/prod/none", None, ())
    assert absent.begun > 0


async def test_a_marathon_without_pods(fake: Fake, marathon: Marathon) -> None:
    fake.answers["/v2/pods/::status"] = lambda: web.json_response({"message": "no"}, status=404)
    assert (await marathon.snapshot()).pods == {}


@pytest.mark.parametrize("path", ["/v2/info", "/v2/leader", "/v2/apps", "/v2/pods/::status"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(lambda: web.Response(text="<html>"), "text/plain instead of JSON", id="wrong-type"),
        pytest.param(
            lambda: web.Response(body=b'{"x":', content_type="application/json"), "truncated", id="torn"
        ),
        pytest.param(lambda: web.json_response({"message": "busy"}, status=503), "503", id="503"),
        pytest.param(lambda: web.json_response({}, status=302, headers={"Location": "/x"}), "302", id="302"),
        pytest.param(lambda: web.json_response(7), "not what Marathon sends", id="other-shape"),
    ],
)
async def test_a_bad_reply_is_never_a_snapshot(
    fake: Fake, marathon: Marathon, path: str, answer: Callable[[], web.Response], reason: str
) -> None:
    fake.answers[path] = answer
    with pytest.raises(Retryable, match=reason) as caught:
        await marathon.snapshot()
    assert path in str(caught.value)


async def test_a_body_that_ends_early_is_never_a_snapshot(fake: Fake, marathon: Marathon) -> None:
    def short() -> web.Response:
        return web.Response(
            body=APPS[:1000], headers={"Content-Type": "application/json", "Content-Length": str(len(APPS))}
        )

    fake.answers["/v2/apps"] = short
    with pytest.raises(Retryable):
        await marathon.snapshot()


async def test_an_app_may_take_more_than_an_event(fake: Fake, marathon: Marathon) -> None:
    large = {"id": "/large", "labels": {"long": "x" * (DEFAULT_LIMIT + 1)}}
    fake.answers["/v2/apps"] = lambda: web.json_response({"apps": [large]})
    assert set((await marathon.snapshot()).apps) == {"/large"}


async def test_an_app_over_the_limit_is_told_with_the_remedy(
    fake: Fake, marathon: Marathon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_LONGEST_MIB", 1)
    large = {"id": "/large", "labels": {"long": "x" * (1024 * 1024)}}
    fake.answers["/v2/apps"] = lambda: web.json_response({"apps": [large]})
    with pytest.raises(Retryable, match=r"/v2/apps.* more than the 1 MiB .* fewer tasks per app") as caught:
        await marathon.snapshot()
    assert "truncated" not in str(caught.value)


async def test_no_leader_and_no_registration(fake: Fake, marathon: Marathon) -> None:
    fake.answers["/v2/leader"] = lambda: web.json_response({"message": "There is no leader"}, status=404)
    with pytest.raises(Retryable, match="There is no leader"):
        await marathon.snapshot()
    fake.answers = {"/v2/info": lambda: web.json_response({"frameworkId": None})}
    with pytest.raises(Retryable, match="not registered"):
        await marathon.snapshot()


@pytest.mark.parametrize("changed", ["framework", "leader"])
async def test_a_change_while_reading_voids_the_snapshot(
    fake: Fake, marathon: Marathon, changed: str
) -> None:
    def pods() -> web.Response:
        setattr(fake, changed, "another")
        return web.json_response([])

    fake.answers["/v2/pods/::status"] = pods
    with pytest.raises(Retryable, match="changed while it was read"):
        await marathon.snapshot()
    assert marathon.framework is None


async def test_another_cluster_is_refused_until_told_otherwise(fake: Fake, marathon: Marathon) -> None:
    await marathon.snapshot()
    fake.framework = "f-2"
    for _ in range(2):
        with pytest.raises(OtherCluster, match=r"serves framework f-2, but this daemon follows f-1"):
            await marathon.snapshot()
    marathon.framework = None
    assert (await marathon.snapshot()).framework == "f-2"


async def test_another_clusters_word_on_single_apps_does_not_count(fake: Fake, marathon: Marathon) -> None:
    await marathon.snapshot()
    fake.framework = "f-2"
    with pytest.raises(OtherCluster):
        await marathon.apps([AppId("/prod/none")])
    fake.framework = "f-1"

    def gone() -> web.Response:
        fake.framework = "f-2"
        return web.json_response({"message": "no such app"}, status=404)

    fake.answers["/v2/apps/prod/web/api"] = gone
    with pytest.raises(Retryable, match="changed while it was read"):
        await marathon.apps([API])


async def test_one_app_that_cannot_be_listed_spoils_no_other(fake: Fake, marathon: Marathon) -> None:
    fake.answers["/v2/apps/torn"] = lambda: web.Response(body=b"{", content_type="application/json")
    listings = await marathon.apps([AppId("/torn"), API])
    assert isinstance(listings[AppId("/torn")], Retryable)
    assert isinstance(listings[API], AppListing)


async def test_an_app_that_cannot_be_read_is_named_and_the_others_count(
    fake: Fake, marathon: Marathon
) -> None:
    apps = json.loads(APPS)["apps"]
    apps[0]["instances"] = "three"
    fake.answers["/v2/apps"] = lambda: web.json_response({"apps": apps})
    snapshot = await marathon.snapshot()
    assert set(snapshot.unreadable) == {API}
    assert "instances" in snapshot.unreadable[API]
    assert len(snapshot.apps) == len(apps) - 1
    del apps[0]["id"]  # not even whose it is
    with pytest.raises(Retryable, match="/v2/apps"):
        await marathon.snapshot()


async def test_the_leader_is_not_asked_for_again_where_info_names_it(fake: Fake, marathon: Marathon) -> None:
    info = {"frameworkId": "f-1", "leader": "m2:8080", "version": "1.11.24"}
    fake.answers["/v2/info"] = lambda: web.json_response(info)
    assert (await marathon.snapshot()).leader == "m2:8080"
    assert "/v2/leader" not in fake.asked


async def test_the_next_endpoint_is_asked_and_remembered(fake: Fake) -> None:
    access = Access(("http://127.0.0.1:1", fake.url), user="u", password="p")
    async with Marathon(access, SystemClock(), timeout_s=2) as marathon:
        await marathon.snapshot()
        assert marathon._endpoints[0] == fake.url
        assert {headers["Authorization"] for headers in fake.headers} == {"Basic dTpw"}


@pytest.fixture
async def stranger() -> AsyncIterator[Fake]:
    """Another cluster's Marathon: it knows none of our apps."""
    fake = Fake(framework="f-2", answers={"/v2/apps/prod/web/api": missing})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


def missing() -> web.Response:
    return web.json_response({"message": "no such app"}, status=404)


def busy() -> web.Response:
    return web.json_response({"message": "busy"}, status=503)


async def test_an_endpoint_of_another_cluster_does_not_keep_us_from_ours(fake: Fake, stranger: Fake) -> None:
    access = Access((fake.url, stranger.url))
    async with Marathon(access, SystemClock(), framework="f-1", timeout_s=2) as marathon:
        fake.answers["/v2/info"] = busy
        with pytest.raises(OtherCluster, match=stranger.url):
            await marathon.snapshot()
        del fake.answers["/v2/info"]
        assert (await marathon.snapshot()).framework == "f-1"


async def test_one_listing_is_asked_of_one_endpoint(fake: Fake, stranger: Fake) -> None:
    access = Access((fake.url, stranger.url))
    async with Marathon(access, SystemClock(), framework="f-1", timeout_s=2) as marathon:
        fake.answers["/v2/apps/prod/web/api"] = fake.answers["/v2/apps"] = busy
        assert isinstance((await marathon.apps([API]))[API], Retryable)
        with pytest.raises(Retryable, match="503"):
            await marathon.snapshot()


async def test_an_endpoint_that_names_itself_but_lists_nothing_is_asked_last_the_next_time(
    fake: Fake, stranger: Fake
) -> None:
    stranger.framework = "f-1"
    fake.answers["/v2/apps"] = busy
    async with Marathon(Access((fake.url, stranger.url)), SystemClock(), timeout_s=2) as marathon:
        with pytest.raises(Retryable, match="503"):
            await marathon.snapshot()
        assert (await marathon.snapshot()).framework == "f-1"


async def test_json_that_is_too_deep_is_a_bad_reply(fake: Fake, marathon: Marathon) -> None:
    deep = b'{"frameworkId": "f-1", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    fake.answers["/v2/info"] = lambda: web.Response(body=deep, content_type="application/json")
    with pytest.raises(Retryable, match="/v2/info"):
        await marathon.snapshot()


async def test_when_none_answers_each_is_named() -> None:
    access = Access(("http://127.0.0.1:1", "http://127.0.0.1:2"))
    async with Marathon(access, SystemClock(), timeout_s=2) as marathon:
        with pytest.raises(Retryable, match=r"127\.0\.0\.1:1/v2/info: .*; http://127\.0\.0\.1:2/v2/info: "):
            await marathon.snapshot()


async def test_a_reply_that_never_comes(fake: Fake) -> None:
    async def silence(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", silence)
    async with TestServer(app, host="127.0.0.1") as server:
        access = Access((str(server.make_url("")),))
        async with Marathon(access, SystemClock(), timeout_s=0.2) as marathon:
            with pytest.raises(Retryable, match=r"no complete reply in 0\.2 s"):
                await marathon.apps([API])
