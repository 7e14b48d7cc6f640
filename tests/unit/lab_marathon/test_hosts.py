"""Losing a host and getting it back, with each unreachable strategy."""

LOSE, RETURN = "/lab/hosts/agent-1/lose", "/lab/hosts/agent-1/return"
PINNED = {"constraints": [["hostname", "CLUSTER", "agent-1"]]}
PATIENT = {"inactiveAfterSeconds": 0.2, "expungeAfterSeconds": 0.4}


async def test_a_lost_instance_is_replaced_elsewhere_under_a_new_id(lab, instance_id):
    tasks = await lab.deploy(instances=3)
    [lost] = [task for task in tasks if task["host"] == "agent-1"]
    assert await lab.call("POST", LOSE) == {"instances": 1}
    seen = await lab.seen("IC Running")
    assert seen[:4] == ["SU UNREACHABLE", "IC UnreachableInactive", "IC Scheduled", "IC Provisioned"]
    assert lab.events[0]["taskId"] == lost["id"]
    after = await lab.quiet()
    assert instance_id(lost) not in {instance_id(task) for task in after}
    assert {task["host"] for task in after} == {"agent-2", "agent-3"}
    assert lost["id"] in {w.task_id for w in lab.engine.running.values()}, "its container runs on"


async def test_the_returned_hosts_old_task_is_killed_with_one_event_only(lab, instance_id):
    [lost] = [task for task in await lab.deploy(instances=3) if task["host"] == "agent-1"]
    await lab.call("POST", LOSE)
    await lab.quiet()
    await lab.fresh()
    await lab.call("POST", RETURN)
    assert await lab.seen("unknown_instance_terminated_event") == ["unknown_instance_terminated_event"]
    assert (lab.events[0]["instanceId"], lab.events[0]["condition"]) == (instance_id(lost), "Killed")
    assert lost["id"] not in {w.task_id for w in lab.engine.running.values()}


async def test_what_ended_unheard_shows_on_return(lab):
    [lost] = [task for task in await lab.deploy(instances=3) if task["host"] == "agent-1"]
    await lab.call("POST", LOSE)
    await lab.quiet()
    await lab.fresh()
    lab.engine.crash(lost["id"])
    await lab.call("POST", RETURN)
    await lab.seen("unknown_instance_terminated_event")
    assert lab.events[0]["condition"] == "Failed"


async def test_a_lost_host_gets_no_new_tasks(lab):
    await lab.call("POST", LOSE)
    tasks = await lab.deploy(instances=4)
    assert {task["host"] for task in tasks} == {"agent-2", "agent-3"}
    assert [host["reachable"] for host in await lab.call("GET", "/lab/hosts")] == [False, True, True]


async def test_a_host_lost_during_a_launch_leaves_nothing_behind(lab):
    lab.engine.hold.clear()
    await lab.call("POST", "/v2/apps", {"id": "/shop/web", "cmd": "serve"}, expect=201)
    await lab.seen("IC Provisioned")
    await lab.call("POST", LOSE)
    lab.engine.hold.set()
    [task] = await lab.quiet()
    assert task["host"] == "agent-2"
    await lab.call("POST", RETURN)
    await lab.seen("unknown_instance_terminated_event")
    assert [w.task_id for w in lab.engine.running.values()] == [task["id"]]


async def test_a_deployment_survives_the_loss_of_a_host(lab):
    await lab.deploy(instances=3, upgradeStrategy={"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0})
    await lab.call("POST", "/v2/apps/shop/web/restart")
    await lab.call("POST", LOSE)
    await lab.seen("deployment_success")
    assert {task["host"] for task in await lab.quiet()} == {"agent-2", "agent-3"}


async def test_a_patient_app_waits_and_shows_inactive_later(lab):
    await lab.deploy(unreachableStrategy=PATIENT, **PINNED)
    await lab.call("POST", LOSE)
    # No replacement can start (the app is pinned), and on expiry there is no status from Mesos.
    assert await lab.seen("IC Killed") == [
        "SU UNREACHABLE",
        "IC Unreachable",
        "SU UNREACHABLE",
        "IC UnreachableInactive",
        "IC Scheduled",
        "IC Killed",
    ]


async def test_a_patient_app_keeps_its_task_when_the_host_returns_in_time(lab, instance_id):
    [task] = await lab.deploy(unreachableStrategy={"inactiveAfterSeconds": 60, "expungeAfterSeconds": 120})
    await lab.call("POST", LOSE)
    [lost] = (await lab.call("GET", "/v2/apps/shop/web"))["app"]["tasks"]
    assert (lost["state"], lost["ports"]) == ("TASK_UNREACHABLE", task["ports"])
    await lab.fresh()
    await lab.call("POST", RETURN)
    assert await lab.seen("IC Running") == ["SU RUNNING", "IC Running"]
    assert [t["id"] for t in await lab.quiet()] == [task["id"]]


async def test_the_younger_replacement_goes_when_the_old_task_returns(lab):
    [task] = await lab.deploy(unreachableStrategy={"inactiveAfterSeconds": 0.1, "expungeAfterSeconds": 120})
    await lab.call("POST", LOSE)
    await lab.seen("IC Running")
    await lab.call("POST", RETURN)
    await lab.seen("IC Killed")
    assert [t["id"] for t in await lab.quiet()] == [task["id"]]


async def test_disabled_waits_for_ever_and_delete_gives_up(lab):
    await lab.deploy(unreachableStrategy="disabled")
    await lab.call("POST", LOSE)
    assert await lab.seen("IC Unreachable") == ["SU UNREACHABLE", "IC Unreachable"]
    await lab.call("DELETE", "/v2/apps/shop/web")
    seen = await lab.seen("deployment_success")
    assert seen[4:7] == ["IC Unreachable", "IC Killed", "app_terminated_event"]


async def test_an_unknown_host_is_named(lab):
    answer = await lab.call("POST", "/lab/hosts/agent-9/lose", expect=404)
    assert answer["message"] == "Host 'agent-9' does not exist"
