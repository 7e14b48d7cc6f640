"""Failover: streams end, nothing is replayed, health is unknown, deployments go on under their ids."""

import asyncio

CHECK = {"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 0, "intervalSeconds": 0.05}


async def test_standby_redirects_events_and_answers_the_rest(lab):
    await lab.deploy()
    await lab.call("POST", "/lab/failover", {"seconds": 0.4, "answer": 302}, expect=202)
    reader, writer = await lab.open_stream("?event_type=a&event_type=b")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 302")
    assert b"Location: http://lab/v2/events?event_type=a&event_type=b\r\n" in head
    writer.close()
    assert len((await lab.call("GET", "/v2/apps"))["apps"]) == 1


async def test_without_a_leader_everything_is_an_error(lab):
    await lab.call("POST", "/lab/failover", {"seconds": 0.4, "answer": 503}, expect=202)
    await lab.call("GET", "/v2/events", expect=503)
    await lab.call("GET", "/v2/apps", expect=502)
    await lab.call("GET", "/v2/leader", expect=404)
    await lab.call("POST", "/lab/failover", {"seconds": 1}, expect=409)
    await lab.until(lambda: lab.events is not None)


async def test_the_new_leader_has_another_name_and_the_same_framework(lab):
    before = await lab.call("GET", "/v2/info")
    await fail_over(lab)
    after = await lab.call("GET", "/v2/info")
    assert after["leader"] != before["leader"]
    assert after["frameworkId"] == before["frameworkId"] == "fw-1"
    assert (await lab.call("GET", "/v2/leader"))["leader"] == after["leader"]


async def test_health_is_unknown_until_it_is_probed_again(lab):
    await lab.deploy(healthChecks=[{**CHECK, "intervalSeconds": 0.3}])
    await fail_over(lab, follow=True)
    shown = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    assert shown["tasks"][0]["healthCheckResults"] == []
    assert (shown["tasksHealthy"], shown["tasksUnhealthy"]) == (0, 0)
    seen = await lab.seen("healthy True")
    assert seen == ["event_stream_attached", "SU RUNNING", "alive True", "healthy True"]


async def test_what_happened_meanwhile_shows_afterwards_and_nothing_is_replayed(lab):
    [task] = await lab.deploy()
    await lab.call("POST", "/lab/failover", {"seconds": 0.3, "answer": 503}, expect=202)
    lab.engine.crash(task["id"])
    await asyncio.sleep(0)
    lab.events.clear()
    await attach(lab)
    [healed] = await lab.quiet()
    assert healed["id"].endswith("._app.2")
    assert "deployment_success" not in {event["eventType"] for event in lab.events}


async def test_an_unfinished_deployment_is_announced_again_under_its_id(lab):
    lab.engine.hold.clear()
    app = {"id": "/shop/web", "cmd": "serve"}
    created = await lab.call("POST", "/v2/apps", app, expect=201)
    await lab.seen("IC Provisioned")
    await fail_over(lab)
    [running] = await lab.call("GET", "/v2/deployments")
    assert running["id"] == created["deployments"][0]["id"]
    lab.events.clear()
    await attach(lab)
    lab.engine.hold.set()
    await lab.seen("deployment_success")
    assert lab.events[-1]["id"] == running["id"]


async def fail_over(lab, follow=False):
    await lab.call("POST", "/lab/failover", {"seconds": 0.05, "answer": 503}, expect=202)
    lab.events.clear()
    if follow:
        await attach(lab)
        return
    await ready(lab)


async def ready(lab):
    """Wait until somebody leads."""
    while True:
        try:
            await lab.call("GET", "/ping")
            return
        except AssertionError:
            await asyncio.sleep(0.01)


async def attach(lab):
    """Open a stream as soon as somebody leads."""
    await ready(lab)
    await lab.follow()


async def test_a_failover_that_makes_no_sense_is_refused(lab):
    for body in ({"answer": 404}, {"minutes": 1}, b"soon"):
        await lab.call("POST", "/lab/failover", body, expect=400)
    assert (await lab.call("GET", "/v2/info"))["elected"] is True
