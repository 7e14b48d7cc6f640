"""The REST API: what it shows, what it refuses and how."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp_sse_client.client import EventSource
from marathon import MarathonClient

DATA = Path(__file__).parents[2] / "data"
WEB = {"id": "/shop/web", "cmd": "serve"}


async def test_create_answers_with_the_whole_app(lab):
    app = await lab.call("POST", "/v2/apps", {**WEB, "labels": {"tier": "front"}}, expect=201)
    assert app["id"] == "/shop/web"
    assert app["labels"] == {"tier": "front"}
    assert app["tasks"] == []
    assert len(app["deployments"]) == 1
    assert app["networks"] == [{"mode": "host"}]
    assert app["portDefinitions"] == [{"protocol": "tcp", "port": 10000, "name": "default"}]
    assert app["upgradeStrategy"] == {"maximumOverCapacity": 1, "minimumHealthCapacity": 1}
    assert app["unreachableStrategy"] == {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}
    assert not {"args", "env", "constraints", "healthChecks", "container", "fetch"} & set(app)


async def test_an_app_that_exists_is_a_conflict(lab):
    await lab.deploy()
    answer = await lab.call("POST", "/v2/apps", WEB, expect=409)
    assert answer["message"] == "An app with id [/shop/web] already exists."


async def test_tasks_look_as_marathons_do(lab):
    await lab.deploy(healthChecks=[command_check()])
    await lab.settled("/v2/apps/shop/web", lambda a: a["app"]["tasks"][0]["healthCheckResults"])
    sample = json.loads((DATA / "marathon-api" / "v2-tasks.json").read_text())["tasks"][0]
    [task] = (await lab.call("GET", "/v2/tasks"))["tasks"]
    assert list(task) == [key for key in sample if key not in ("region", "zone")]
    assert set(task["healthCheckResults"][0]) == set(sample["healthCheckResults"][0])
    assert task["servicePorts"] == [10000]
    assert task["ports"] == [31000]
    assert task["ipAddresses"] == [{"ipAddress": "127.0.0.1", "protocol": "IPv4"}]
    [embedded] = (await lab.call("GET", "/v2/apps?embed=apps.tasks"))["apps"][0]["tasks"]
    assert embedded["servicePorts"] == []


async def test_apps_embed_tasks_only_when_asked(lab):
    await lab.deploy()
    [plain] = (await lab.call("GET", "/v2/apps"))["apps"]
    assert "tasks" not in plain
    assert (plain["tasksRunning"], plain["tasksStaged"], plain["deployments"]) == (1, 0, [])
    sample = json.loads((DATA / "marathon-api" / "v2-apps-embed-tasks.json").read_text())["apps"][1]
    [full] = (await lab.call("GET", "/v2/apps?embed=apps.tasks&embed=apps.counts"))["apps"]
    assert set(full) == set(sample)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("tier", ["/a", "/b"]),
        ("tier==front", ["/a"]),
        ("tier!=front", ["/b"]),
        ("tier in (front, back)", ["/a", "/b"]),
        ("tier notin (front)", ["/b"]),
        ("tier,zone==1", ["/b"]),
    ],
)
async def test_label_selectors(lab, selector, chosen):
    await lab.deploy("/a", labels={"tier": "front"})
    await lab.deploy("/b", labels={"tier": "back", "zone": "1"})
    await lab.deploy("/c")
    answer = await lab.call("GET", f"/v2/apps?label={selector}")
    assert [app["id"] for app in answer["apps"]] == chosen


async def test_a_selector_that_cannot_be_read_is_refused(lab):
    await lab.deploy()
    assert "is not valid" in (await lab.call("GET", "/v2/apps?label===", expect=400))["message"]


async def test_put_creates_then_scales_then_does_nothing(lab):
    created = await lab.call("PUT", "/v2/apps//shop/web", {"cmd": "serve"}, expect=201)
    assert set(created) == {"version", "deploymentId"}
    await lab.quiet()
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 2})
    assert len(await lab.quiet()) == 2
    before = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    await lab.fresh()
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 2})
    seen = await lab.seen("api_post_event")
    assert seen == ["deployment_success", "group_change_success", "api_post_event"]
    assert (await lab.call("GET", "/v2/apps/shop/web"))["app"] == before


async def test_the_definition_read_back_can_be_put_again_without_effect(lab):
    await lab.deploy(container={"portMappings": [{"containerPort": 8080}]}, networks=[none_network()])
    app = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    await lab.call("PUT", "/v2/apps/shop/web", app)
    assert (await lab.call("GET", "/v2/apps/shop/web"))["app"]["version"] == app["version"]


async def test_put_without_partial_update_replaces(lab):
    await lab.deploy(labels={"a": "1"})
    await lab.call("PUT", "/v2/apps/shop/web?partialUpdate=false", {"cmd": "serve"})
    assert (await lab.call("GET", "/v2/apps/shop/web"))["app"]["labels"] == {}


async def test_patch_needs_an_app(lab):
    await lab.call("PATCH", "/v2/apps/shop/web", {"instances": 2}, expect=404)
    await lab.deploy()
    await lab.call("PATCH", "/v2/apps/shop/web", {"instances": 2})
    assert len(await lab.quiet()) == 2


async def test_several_apps_change_in_one_deployment(lab):
    await lab.deploy("/a")
    await lab.fresh()
    await lab.call("PUT", "/v2/apps", [{"id": "/a", "instances": 2}, {"id": "/b", "cmd": "serve"}])
    seen = await lab.seen("deployment_success")
    assert [word for word in seen if word.startswith("deployment_info")] == [
        "deployment_info Start",
        "deployment_info Scale+Scale",
    ]
    assert "api_post_event" not in seen
    await lab.call("PUT", "/v2/apps", [], expect=400)


async def test_a_held_app_is_locked_and_the_refusal_is_announced(lab):
    lab.engine.hold.clear()
    created = await lab.call("POST", "/v2/apps", WEB, expect=201)
    await lab.fresh()
    answer = await lab.call("PUT", "/v2/apps/shop/web", {"instances": 2}, expect=409)
    assert answer["message"].startswith("App is locked by one or more deployments.")
    assert answer["deployments"] == created["deployments"]
    assert (await lab.seen("deployment_failed"))[-2:] == ["group_change_failed", "deployment_failed"]
    assert lab.events[-1]["reason"] == lab.events[-2]["reason"] == answer["message"]
    assert (await lab.call("GET", "/v2/apps/shop/web"))["app"]["instances"] == 1


async def test_force_cancels_the_holder(lab):
    lab.engine.hold.clear()
    created = await lab.call("POST", "/v2/apps", WEB, expect=201)
    await lab.seen("IC Provisioned")
    await lab.fresh()
    await lab.call("PUT", "/v2/apps/shop/web?force=true", {"instances": 2})
    lab.engine.hold.set()
    seen = await lab.seen("deployment_success")
    assert seen[:3] == ["deployment_step_failure Scale", "deployment_failed", "deployment_info Scale"]
    failed = next(e for e in lab.events if e["eventType"] == "deployment_failed")
    assert (failed["id"], failed["reason"]) == (
        created["deployments"][0]["id"],
        "The upgrade has been cancelled",
    )
    assert len(await lab.quiet()) == 2


async def test_deployments_are_shown_with_their_step(lab):
    lab.engine.hold.clear()
    created = await lab.call("POST", "/v2/apps", WEB, expect=201)
    await lab.seen("IC Provisioned")
    [shown] = await lab.call("GET", "/v2/deployments")
    assert shown["id"] == created["deployments"][0]["id"]
    assert shown["affectedApps"] == ["/shop/web"]
    assert (shown["currentStep"], shown["totalSteps"]) == (2, 2)
    scale = {"action": "ScaleApplication", "app": "/shop/web", "readinessCheckResults": []}
    assert shown["currentActions"] == [scale]
    await lab.call("DELETE", f"/v2/deployments/{shown['id']}", expect=501)
    await lab.call("DELETE", f"/v2/deployments/{shown['id']}?force=true", expect=202)
    assert await lab.call("GET", "/v2/deployments") == []
    await lab.call("DELETE", f"/v2/deployments/{shown['id']}?force=true", expect=404)


async def test_deleted_apps_are_gone_at_once_but_their_tasks_show(lab):
    await lab.deploy()
    lab.engine.kill = lab.engine.hold.wait
    await lab.call("DELETE", "/v2/apps/shop/web")
    assert (await lab.call("GET", "/v2/apps"))["apps"] == []
    assert len((await lab.call("GET", "/v2/tasks"))["tasks"]) == 1


async def test_groups_nest(lab):
    await lab.deploy("/shop/web")
    await lab.deploy("/shop/back/db")
    root = await lab.call("GET", "/v2/groups")
    assert (root["id"], root["apps"]) == ("/", [])
    [shop] = root["groups"]
    assert ([app["id"] for app in shop["apps"]], shop["groups"][0]["id"]) == (["/shop/web"], "/shop/back")
    flat = await lab.call("GET", "/v2/groups/shop?embed=group.apps")
    assert (len(flat["apps"]), flat["groups"]) == (1, [])
    await lab.call("GET", "/v2/groups/nowhere", expect=404)
    await lab.call("DELETE", "/v2/groups/nowhere", expect=404)


async def test_tasks_can_be_asked_for_by_status(lab):
    await lab.deploy()
    assert len((await lab.call("GET", "/v2/tasks?status=running"))["tasks"]) == 1
    assert (await lab.call("GET", "/v2/tasks?status=staging"))["tasks"] == []


async def test_what_does_not_exist_is_named(lab):
    for method, path in [("GET", "/v2/apps/x"), ("DELETE", "/v2/apps/x"), ("POST", "/v2/apps/x/restart")]:
        assert (await lab.call(method, path, expect=404))["message"] == "App '/x' does not exist"
    await lab.deploy()
    answer = await lab.call("DELETE", "/v2/apps/shop/web/tasks/nope", expect=404)
    assert answer["message"] == "Task 'nope' does not exist"
    assert (await lab.call("GET", "/v2/nope", expect=404))["message"] == "HTTP 404 Not Found"
    await lab.call("POST", "/ping", expect=405)
    assert await lab.call("POST", "/v2/tasks/delete", {"ids": ["nope"]}) == {"tasks": []}


async def test_requests_that_make_no_sense_are_refused(lab):
    assert "Invalid JSON" in (await lab.call("POST", "/v2/apps", b"{", expect=400))["message"]
    await lab.call("POST", "/v2/tasks/delete", {"id": "x"}, expect=400)
    await lab.call("PUT", "/v2/apps/x", [], expect=400)
    answer = await lab.call("POST", "/v2/tasks/delete?scale=true&wipe=true", {"ids": []}, expect=400)
    assert answer["message"] == "You cannot use scale and wipe at the same time."


async def test_server_information(lab):
    assert await lab.call("GET", "/ping") == "pong"
    info = await lab.call("GET", "/v2/info")
    assert (info["name"], info["version"], info["elected"]) == ("marathon", "1.8.244", True)
    assert await lab.call("GET", "/v2/leader") == {"leader": info["leader"]}
    assert await lab.call("GET", "/v2/pods/::status") == []
    assert await lab.call("GET", "/v2/pods") == []


def command_check():
    return {
        "protocol": "COMMAND",
        "command": {"value": "true"},
        "delaySeconds": 0,
        "intervalSeconds": 0.05,
    }


def none_network():
    return {"mode": "container", "name": "none"}


async def test_leader_answers_name_the_leader(lab):
    async with aiohttp.ClientSession() as session:
        for path, status in (("/ping", 200), ("/v2/apps/nope", 404)):
            async with session.get(f"http://127.0.0.1:{lab.port}{path}") as response:
                assert response.status == status
                assert response.headers["X-Marathon-Leader"] == "http://marathon-1.lab:8088"


async def test_the_client_library_understands_the_answers(lab):
    await lab.deploy(instances=2)
    client = MarathonClient(f"http://127.0.0.1:{lab.port}")
    [app] = await asyncio.to_thread(client.list_apps, embed_tasks=True)
    assert (app.id, len(app.tasks), app.tasks_running) == ("/shop/web", 2, 2)
    tasks = await asyncio.to_thread(client.list_tasks)
    await asyncio.to_thread(client.kill_task, "/shop/web", tasks[0].id, scale=True)
    await lab.settled("/v2/tasks", lambda answer: len(answer["tasks"]) == 1)
    await lab.idle()
    await asyncio.to_thread(client.restart_app, "/shop/web")
    [deployment] = await asyncio.to_thread(client.list_deployments) or [None]
    assert deployment is None or deployment.affected_apps == ["/shop/web"]
    await lab.idle()
    await asyncio.to_thread(client.delete_app, "/shop/web")
    await lab.idle()
    assert await asyncio.to_thread(client.list_apps) == []
    assert await asyncio.to_thread(client.ping) == b"pong"


async def test_the_event_source_library_reads_the_stream(lab):
    url = f"http://127.0.0.1:{lab.port}/v2/events"
    async with EventSource(url, headers={"Accept": "text/event-stream"}) as source:
        event = await asyncio.wait_for(anext(source), 5)
        assert json.loads(event.data)["eventType"] == event.type == "event_stream_attached"
