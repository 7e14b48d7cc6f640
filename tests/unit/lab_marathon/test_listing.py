"""Wrong replies: empty, half, truncated, of another framework, or no JSON at all, until they are reset."""

import aiohttp
import pytest

APPS = ("/shop/a", "/shop/b", "/shop/c")


@pytest.fixture
async def shop(lab):
    """Three apps with three tasks each."""
    for app in APPS:
        await lab.deploy(app, instances=3)
    return lab


async def spoil(lab, **wrong):
    await lab.call("POST", "/lab/listing", wrong, expect=201)


async def listed(lab):
    """The tasks in the listing, by app."""
    apps = (await lab.call("GET", "/v2/apps?embed=apps.tasks"))["apps"]
    return {app["id"]: [task["id"] for task in app["tasks"]] for app in apps}


async def hits(lab):
    return (await lab.call("GET", "/lab/listing"))["hits"]


async def test_an_empty_listing_has_nothing_by_any_way(shop):
    await spoil(shop, kind="empty")
    assert await listed(shop) == {}
    assert await shop.call("GET", "/v2/pods/::status") == []
    missing = await shop.call("GET", "/v2/apps/shop/a", expect=404)
    assert missing == {"message": "App '/shop/a' does not exist"}
    assert await hits(shop) == 3


async def test_the_truth_is_told_elsewhere_and_orders_are_carried_out(shop):
    await spoil(shop, kind="empty")
    await shop.call("PUT", "/v2/apps/shop/a", {"instances": 1})
    answer = await shop.settled("/v2/apps/shop/a/tasks", lambda told: len(told["tasks"]) == 1)
    assert answer["tasks"][0]["appId"] == "/shop/a"
    assert (await shop.call("GET", "/v2/info"))["frameworkId"] == "fw-1"
    assert await hits(shop) == 0


async def test_half_of_the_apps_lacks_the_same_ones_each_time(shop):
    whole = await listed(shop)
    await spoil(shop, kind="half")
    for _ in range(2):
        assert await listed(shop) == {app: whole[app] for app in ("/shop/a", "/shop/c")}
    await shop.call("GET", "/v2/apps/shop/b", expect=404)
    assert (await shop.call("GET", "/v2/apps/shop/c"))["app"]["id"] == "/shop/c"
    assert await shop.call("GET", "/v2/pods/::status") == []


async def test_half_of_the_tasks_leaves_every_app(shop):
    whole = await listed(shop)
    await spoil(shop, kind="half", of="tasks")
    for _ in range(2):
        assert await listed(shop) == {app: tasks[::2] for app, tasks in whole.items()}
    alone = (await shop.call("GET", "/v2/apps/shop/b"))["app"]
    assert [task["id"] for task in alone["tasks"]] == whole["/shop/b"][::2]
    assert all("tasks" not in app for app in (await shop.call("GET", "/v2/apps"))["apps"])


@pytest.mark.parametrize("close", [True, False])
async def test_a_truncated_reply_is_the_first_half_of_the_right_one(shop, close):
    url = f"http://127.0.0.1:{shop.port}/v2/apps"
    async with aiohttp.ClientSession() as session:
        whole = await (await session.get(url)).read()
        await spoil(shop, kind="truncated", close=close)
        async with session.get(url) as response:
            told, problem = await read(response.content)
    assert (response.status, response.content_type) == (200, "application/json")
    assert told == whole[: len(whole) // 2]
    announced = whole if close else told
    assert int(response.headers["Content-Length"]) == len(announced)
    assert (problem is not None) == close


async def read(stream):
    """All bytes that come, and the error that ends them."""
    told = b""
    try:
        while piece := await stream.readany():
            told += piece
    except aiohttp.ClientPayloadError as error:
        return told, error
    return told, None


async def test_after_a_cut_reply_the_next_request_is_answered(shop):
    await spoil(shop, kind="truncated")
    with pytest.raises(aiohttp.ClientPayloadError):
        await shop.call("GET", "/v2/apps")
    await shop.call("DELETE", "/lab/listing")
    assert set(await listed(shop)) == set(APPS)


async def test_another_framework_may_have_the_same_apps_or_none(shop):
    await spoil(shop, kind="other")
    assert (await shop.call("GET", "/v2/info"))["frameworkId"] == "fw-1-other"
    assert set(await listed(shop)) == set(APPS)
    await spoil(shop, kind="other", empty=True)
    assert (await shop.call("GET", "/v2/info"))["frameworkId"] == "fw-1-other"
    assert await listed(shop) == {}
    assert await hits(shop) == 2


async def test_a_login_page_is_no_json(shop):
    await spoil(shop, kind="html")
    for path in ("/v2/apps", "/v2/apps/shop/a", "/v2/apps/no/such", "/v2/pods/::status"):
        page = await shop.call("GET", path)  # JSON would come decoded
        assert page.startswith("<!DOCTYPE html>")


async def test_a_reset_makes_all_of_it_right(shop):
    whole = await listed(shop)
    for wrong in ({"kind": "empty"}, {"kind": "half"}, {"kind": "other", "empty": True}, {"kind": "html"}):
        await spoil(shop, **wrong)
        assert await shop.call("DELETE", "/lab/listing") is None
        assert await shop.call("GET", "/lab/listing") is None
        assert await listed(shop) == whole
        assert (await shop.call("GET", "/v2/info"))["frameworkId"] == "fw-1"


async def test_a_failover_can_bring_a_leader_that_lists_nothing(shop):
    leader = (await shop.call("GET", "/v2/leader"))["leader"]
    failover = {"seconds": 0.05, "answer": 302, "listing": {"kind": "empty"}}
    await shop.call("POST", "/lab/failover", failover, expect=202)
    await shop.settled("/v2/leader", lambda told: told["leader"] != leader)
    assert await listed(shop) == {}
    await shop.settled("/v2/info", lambda told: told["elected"])
    await shop.call("POST", "/lab/failover", {"seconds": 0.05, "answer": 302}, expect=202)
    assert await listed(shop) == {}  # wrong until it is reset


@pytest.mark.parametrize(
    "body", [{"kind": "late"}, {}, {"kind": "half", "of": "pods"}, {"kind": "html", "typo": 1}, b"empty"]
)
async def test_what_cannot_be_read_is_refused_and_changes_nothing(lab, body):
    await spoil(lab, kind="other")
    answer = await lab.call("POST", "/lab/listing", body, expect=400)
    assert "not a wrong listing" in answer["message"]
    assert (await lab.call("GET", "/lab/listing"))["kind"] == "other"


async def test_a_failover_with_a_listing_that_cannot_be_read_does_not_begin(lab):
    await lab.call("POST", "/lab/failover", {"listing": {"kind": "late"}}, expect=400)
    assert (await lab.call("GET", "/v2/info"))["elected"] is True
