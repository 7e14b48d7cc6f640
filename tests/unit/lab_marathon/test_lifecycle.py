"""What instances do, and the exact events they do it with: create, heal, scale, restart, kill, delete."""

import time
from collections import Counter

import pytest

START = ["SU STARTING", "IC Starting", "SU RUNNING", "IC Running"]
GOODBYE = ["IC Running", "SU KILLED", "IC Killed"]
COMMAND = {"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 0, "intervalSeconds": 0.05}


async def test_create_shows_every_event_in_marathons_order(lab):
    await lab.fresh()
    await lab.call("POST", "/v2/apps", {"id": "/shop/web", "cmd": "serve"}, expect=201)
    assert await lab.seen("deployment_success") == [
        "deployment_info Start",
        "group_change_success",
        "api_post_event",
        "deployment_step_success Start",
        "deployment_info Scale",
        "IC Scheduled",
        "IC Provisioned",
        *START,
        "deployment_step_success Scale",
        "deployment_success",
    ]
    scheduled, provisioned = [e for e in lab.events if e["eventType"] == "instance_changed_event"][:2]
    assert (scheduled["host"], scheduled["agentId"]) == (None, None)
    assert (provisioned["host"], provisioned["agentId"]) == ("agent-1", "S1")


async def test_a_deployment_waits_for_health(lab):
    await lab.fresh()
    app = {"id": "/shop/web", "cmd": "serve", "healthChecks": [COMMAND]}
    await lab.call("POST", "/v2/apps", app, expect=201)
    seen = await lab.seen("deployment_success")
    assert seen.index("add_health_check_event") < seen.index("IC Scheduled")
    assert seen.index("healthy True") < seen.index("deployment_success")


async def test_ids_have_marathons_form(lab, instance_id):
    [task] = await lab.deploy("/shop/web.de")
    assert instance_id(task).startswith("shop_web.de.instance-")
    assert task["id"] == f"{instance_id(task)}._app.1"


async def test_self_healing_keeps_the_id_and_raises_the_incarnation(lab, instance_id):
    [task] = await lab.deploy()
    lab.engine.crash(task["id"], exit_code=3)
    assert await lab.seen("IC Running") == ["SU FAILED", "IC Failed", "IC Provisioned", *START]
    [healed] = await lab.quiet()
    assert instance_id(healed) == instance_id(task)
    assert healed["id"].endswith("._app.2")
    assert healed["version"] == task["version"]
    assert lab.events[0]["message"] == "Container exited with status 3"


async def test_a_command_that_ends_well_is_started_again_too(lab):
    [task] = await lab.deploy()
    lab.engine.crash(task["id"], exit_code=0)
    assert (await lab.seen("IC Running"))[:3] == ["SU FINISHED", "IC Finished", "IC Provisioned"]


async def test_a_dead_task_stays_listed_without_ports_until_its_relaunch(lab):
    [task] = await lab.deploy(backoffSeconds=0.3)
    lab.engine.crash(task["id"])
    await lab.seen("IC Failed")
    shown = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    [dead] = shown["tasks"]
    assert (dead["state"], dead["ports"], "version" in dead) == ("TASK_FAILED", [], False)
    assert shown["lastTaskFailure"]["taskId"] == task["id"]
    assert (await lab.quiet())[0]["id"].endswith("._app.2")


async def test_backoff_grows_with_each_failure(lab):
    [task] = await lab.deploy(backoffSeconds=0.05, backoffFactor=3)
    waits = []
    for incarnation in (1, 2, 3):
        await lab.fresh()
        lab.engine.crash(task["id"].replace("._app.1", f"._app.{incarnation}"))
        await lab.seen("IC Failed")
        ended = time.monotonic()
        await lab.seen("IC Running")
        waits.append(time.monotonic() - ended)
    least = [0.03, 0.12, 0.4]  # 0.05, 0.15, 0.45 less what the polling test may be late
    assert all(wait >= floor for wait, floor in zip(waits, least, strict=True)), waits


async def test_a_launch_that_fails_is_a_failed_task(lab):
    lab.engine.refuse = "no such image"
    await lab.call("POST", "/v2/apps", {"id": "/shop/web", "cmd": "serve", "backoffSeconds": 0}, expect=201)
    await lab.seen("IC Failed")
    failed = next(e for e in lab.events if e.get("taskStatus") == "TASK_FAILED")
    assert failed["message"] == "Failed to launch container: no such image"
    lab.engine.refuse = None
    await lab.quiet()


async def test_scale_up_starts_instances_of_a_new_version_and_keeps_the_old(lab):
    [old] = await lab.deploy()
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 3})
    seen = await lab.seen("deployment_success")
    assert seen[:3] == ["deployment_info Scale", "group_change_success", "api_post_event"]
    assert Counter(seen)["IC Running"] == 2
    tasks = await lab.quiet()
    assert [task["version"] == old["version"] for task in tasks] == [True, False, False]
    assert old["id"] in [task["id"] for task in tasks]


async def test_scale_down_kills_the_youngest(lab):
    tasks = await lab.deploy(instances=3)
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 2})
    seen = await lab.seen("deployment_success")
    assert seen == [
        "deployment_info Scale",
        "group_change_success",
        "api_post_event",
        *GOODBYE,
        "deployment_step_success Scale",
        "deployment_success",
    ]
    assert [task["id"] for task in await lab.quiet()] == [task["id"] for task in tasks[:2]]


async def test_scale_down_kills_the_oldest_when_told_so(lab):
    tasks = await lab.deploy(instances=2, killSelection="OLDEST_FIRST")
    await lab.call("PUT", "/v2/apps/shop/web", {"instances": 1})
    assert [task["id"] for task in await lab.quiet()] == [tasks[1]["id"]]


async def test_restart_with_over_capacity_starts_all_new_ones_first(lab, instance_id):
    before = await lab.deploy(instances=2)
    await lab.call("POST", "/v2/apps/shop/web/restart")
    seen = await lab.seen("deployment_success")
    assert seen[:2] == ["deployment_info Restart", "group_change_success"]
    assert seen[-2:] == ["deployment_step_success Restart", "deployment_success"]
    assert "api_post_event" not in seen
    assert most_alive(lab.events, alive=2) == 4
    after = await lab.quiet()
    assert {instance_id(task) for task in after}.isdisjoint(instance_id(task) for task in before)


@pytest.mark.parametrize(("min_healthy", "fewest", "most"), [(0.5, 2, 4), (0, 0, 4), (1, 4, 5)])
async def test_restart_without_over_capacity_never_has_more(lab, min_healthy, fewest, most):
    await lab.deploy(
        instances=4, upgradeStrategy={"minimumHealthCapacity": min_healthy, "maximumOverCapacity": 0}
    )
    await lab.call("POST", "/v2/apps/shop/web/restart")
    await lab.seen("deployment_success")
    assert most_alive(lab.events, alive=4) == most
    assert fewest_running(lab.events, running=4) == fewest


async def test_restart_changes_the_version_but_not_the_configuration(lab):
    await lab.deploy()
    before = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    answer = await lab.call("POST", "/v2/apps/shop/web/restart")
    await lab.quiet()
    after = (await lab.call("GET", "/v2/apps/shop/web"))["app"]
    assert after["version"] == answer["version"] > before["version"]
    assert after["versionInfo"]["lastScalingAt"] == after["version"]
    assert after["versionInfo"]["lastConfigChangeAt"] == before["versionInfo"]["lastConfigChangeAt"]


async def test_a_new_configuration_is_rolled_out(lab):
    [before] = await lab.deploy()
    await lab.call("PUT", "/v2/apps/shop/web", {"cmd": "serve --better"})
    seen = await lab.seen("deployment_success")
    assert seen[:3] == ["deployment_info Restart", "group_change_success", "api_post_event"]
    [after] = await lab.quiet()
    assert after["id"] != before["id"]
    assert [w.argv[2] for w in lab.engine.running.values()] == ["serve --better"]


async def test_an_old_instance_that_dies_during_a_restart_does_not_stop_it(lab):
    tasks = await lab.deploy(instances=2)
    lab.engine.hold.clear()
    await lab.call("POST", "/v2/apps/shop/web/restart")
    await lab.seen("IC Provisioned")
    lab.engine.crash(tasks[0]["id"])
    lab.engine.hold.set()
    await lab.seen("deployment_success")
    after = await lab.quiet()
    assert len(after) == 2
    assert {task["version"] for task in after} != {tasks[0]["version"]}


async def test_delete_ends_with_app_terminated(lab):
    await lab.deploy(healthChecks=[COMMAND])
    await lab.call("DELETE", "/v2/apps/shop/web")
    await lab.call("GET", "/v2/apps/shop/web", expect=404)
    assert await lab.seen("deployment_success") == [
        "deployment_info Stop",
        "group_change_success",
        "remove_health_check_event",
        *GOODBYE,
        "healthy None",
        "app_terminated_event",
        "deployment_step_success Stop",
        "deployment_success",
    ]
    assert lab.engine.running == {}


async def test_deleting_a_group_deletes_its_apps_in_one_deployment(lab):
    for app_id in ("/shop/web", "/shop/back/db", "/ops/log"):
        await lab.deploy(app_id)
    await lab.call("DELETE", "/v2/groups/shop")
    seen = await lab.seen("deployment_success")
    assert seen[0] == "deployment_info Stop+Stop"
    assert Counter(seen)["app_terminated_event"] == 2
    assert [app["id"] for app in (await lab.call("GET", "/v2/apps"))["apps"]] == ["/ops/log"]


async def test_kill_relaunches_under_the_same_id(lab, instance_id):
    tasks = await lab.deploy(instances=2)
    answer = await lab.call("DELETE", f"/v2/apps/shop/web/tasks/{tasks[0]['id']}")
    assert answer["task"]["id"] == tasks[0]["id"]
    assert await lab.seen("IC Running") == ["SU KILLED", "IC Killed", "IC Provisioned", *START]
    assert {instance_id(task) for task in await lab.quiet()} == {instance_id(task) for task in tasks}


async def test_kill_with_scale_takes_exactly_those(lab):
    tasks = await lab.deploy(instances=3)
    answer = await lab.call("POST", "/v2/tasks/delete?scale=true", {"ids": [tasks[0]["id"]]})
    assert set(answer) == {"version", "deploymentId"}
    seen = await lab.seen("deployment_success")
    assert seen == [
        "deployment_info Scale",
        "group_change_success",
        *GOODBYE,
        "deployment_step_success Scale",
        "deployment_success",
    ]
    assert [task["id"] for task in await lab.quiet()] == [task["id"] for task in tasks[1:]]


async def test_kill_with_wipe_forgets_the_instance_without_a_status(lab, instance_id):
    [task] = await lab.deploy()
    await lab.call("DELETE", "/v2/apps/shop/web/tasks?wipe=true")
    [after] = await lab.quiet()
    await lab.seen("unknown_instance_terminated_event")
    own = [e for e in lab.events if e.get("instanceId") == instance_id(task) or e.get("taskId") == task["id"]]
    assert [e.get("condition") for e in own] == ["Running", "Killed", "Killed"]
    assert own[-1]["eventType"] == "unknown_instance_terminated_event"
    assert not any("taskStatus" in e for e in own)
    assert instance_id(after) != instance_id(task)


async def test_kill_on_one_host_only(lab):
    tasks = await lab.deploy(instances=3)
    answer = await lab.call("DELETE", f"/v2/apps/shop/web/tasks?host={tasks[1]['host']}")
    assert [task["id"] for task in answer["tasks"]] == [tasks[1]["id"]]


async def test_a_kill_during_the_launch_is_not_lost(lab):
    lab.engine.hold.clear()
    await lab.call("POST", "/v2/apps", {"id": "/shop/web", "cmd": "serve"}, expect=201)
    await lab.seen("IC Provisioned")
    await lab.call("DELETE", "/v2/apps/shop/web?force=true")
    lab.engine.hold.set()
    await lab.seen("app_terminated_event")
    assert lab.engine.running == {}


async def test_killing_is_announced_when_the_feature_is_on(start):
    lab = await start(task_killing=True)
    await lab.deploy()
    await lab.call("DELETE", "/v2/apps/shop/web")
    seen = await lab.seen("deployment_success")
    goodbye = ["IC Running", "SU KILLING", "IC Killing", "SU KILLED", "IC Killed"]
    assert [word for word in seen if word[:2] in ("SU", "IC")] == goodbye


async def test_a_move_relaunches_the_same_instance_on_the_named_host(lab, instance_id):
    [task] = await lab.deploy()
    await lab.call("POST", f"/lab/instances/{instance_id(task)}/move?host=agent-3")
    await lab.seen("IC Running")
    [moved] = await lab.quiet()
    assert (moved["host"], instance_id(moved)) == ("agent-3", instance_id(task))
    await lab.call("POST", "/lab/instances/nobody/move?host=agent-3", expect=404)
    await lab.call("POST", f"/lab/instances/{instance_id(task)}/move?host=agent-9", expect=404)


async def test_a_burst_of_two_hundred_is_launched_eight_at_a_time(lab):
    tasks = await lab.deploy(instances=200)
    assert len({task["id"] for task in tasks}) == 200
    assert Counter(task["host"] for task in tasks) == {"agent-1": 67, "agent-2": 67, "agent-3": 66}
    assert lab.engine.most_launching == 8


def most_alive(events, alive):
    """The most instances of one app at a time, from `alive` that existed before these events."""
    most = alive
    for event in events:
        alive += {"Provisioned": 1, "Killed": -1, "Failed": -1}.get(event.get("condition"), 0)
        most = max(most, alive)
    return most


def fewest_running(events, running):
    """The fewest running instances at a time, from `running` before these events."""
    fewest = running
    for event in events:
        running += {"TASK_RUNNING": 1, "TASK_KILLED": -1}.get(event.get("taskStatus"), 0)
        fewest = min(fewest, running)
    return fewest


async def test_a_kill_that_fails_is_repeated(lab):
    await lab.deploy()
    kill, refusals = lab.engine.kill, iter([RuntimeError("engine busy")])

    async def reluctant(container, grace_s):
        for refusal in refusals:
            raise refusal
        await kill(container, grace_s)

    lab.engine.kill = reluctant
    await lab.call("DELETE", "/v2/apps/shop/web")
    await lab.seen("app_terminated_event")
    assert lab.engine.running == {}


async def test_an_instance_that_never_found_a_host_ends_without_a_status(lab):
    await lab.fresh()
    app = {"id": "/shop/web", "cmd": "serve", "constraints": [["hostname", "LIKE", "nowhere"]]}
    await lab.call("POST", "/v2/apps", app, expect=201)
    await lab.seen("IC Scheduled")
    assert (await lab.call("GET", "/v2/tasks"))["tasks"] == []
    await lab.call("DELETE", "/v2/apps/shop/web?force=true")
    seen = await lab.seen("app_terminated_event")
    assert [word for word in seen if word[:2] in ("SU", "IC")] == [
        "IC Scheduled",
        "IC Scheduled",
        "IC Killed",
    ]


async def test_a_container_that_ended_while_the_engine_was_deaf_is_found(start, deaf_engine):
    lab = await start(deaf_engine)
    [task] = await lab.deploy()
    lab.engine.running.clear()  # it is gone, and nobody was told
    lab.engine.break_off()
    await lab.seen("IC Running")
    [healed] = await lab.quiet()
    assert healed["id"] == task["id"].replace("._app.1", "._app.2")
    assert lab.events[0]["message"].startswith("Container lost: ")
