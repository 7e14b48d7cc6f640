"""The pure parts: rolling restarts, deployment steps, placement, and what a task is started with."""

import pytest

from mooring.lab.marathon.definition import normalised
from mooring.lab.marathon.deployments import Change, Deployments, plan
from mooring.lab.marathon.model import App, Condition, Instance, Run, RunSpec
from mooring.lab.marathon.placement import choose
from mooring.lab.marathon.rollout import Counts, rolling_step
from mooring.lab.marathon.settings import Agent, Settings
from mooring.lab.marathon.tasks import workload
from mooring.lab.marathon.world import Host, World


@pytest.mark.parametrize(
    ("limits", "counts", "step"),
    [
        ((3, 3, 6), Counts(3, 0, 0, 0), (0, 3)),
        ((3, 3, 6), Counts(3, 0, 3, 1), (1, 0)),
        ((3, 3, 3), Counts(3, 0, 0, 0), (0, 1)),
        ((3, 3, 3), Counts(3, 0, 1, 1), (1, 0)),
        ((4, 2, 4), Counts(4, 0, 0, 0), (2, 0)),
        ((4, 2, 4), Counts(2, 2, 0, 0), (0, 0)),
        ((4, 2, 4), Counts(2, 0, 0, 0), (0, 2)),
        ((2, 0, 2), Counts(2, 0, 0, 0), (2, 0)),
        ((1, 1, 2), Counts(3, 0, 1, 1), (3, 0)),
        ((2, 2, 4), Counts(0, 0, 3, 0), (0, 0)),
    ],
)
def test_rolling_step(limits, counts, step):
    assert rolling_step(*limits, counts) == step


@pytest.mark.parametrize("wanted", [1, 2, 3, 7])
@pytest.mark.parametrize("min_share", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("over", [0, 0.2, 1])
def test_a_rolling_restart_always_finishes_within_its_limits(wanted, min_share, over):
    app = spec(instances=wanted, upgradeStrategy=strategy(min_share, over))
    low, high = app.min_healthy, app.capacity
    old, new = wanted, 0
    for _ in range(50):
        kill, start = rolling_step(wanted, low, high, Counts(old, 0, new, new))
        assert old - kill + new >= min(low, wanted)
        old, new = old - kill, new + start
        assert old + new <= max(high, low + 1)
    assert (old, new) == (0, wanted)


def strategy(min_share, over):
    return {"minimumHealthCapacity": min_share, "maximumOverCapacity": over}


def test_steps_stop_then_start_then_scale():
    gone, fresh, kept = app_of("/gone"), app_of("/fresh"), app_of("/kept")
    before = kept.spec.definition
    changes = [
        Change(kept, before, {**before, "instances": 5}),
        Change(fresh, None, fresh.spec.definition),
        Change(gone, gone.spec.definition, None),
    ]
    shown = [[action.shown() for action in step] for step in plan(changes)]
    assert shown == [
        [{"action": "StopApplication", "app": "/gone"}],
        [{"action": "StartApplication", "app": "/fresh"}],
        [
            {"action": "ScaleApplication", "app": "/kept"},
            {"action": "ScaleApplication", "app": "/fresh"},
        ],
    ]


def test_no_change_needs_no_step():
    app = app_of("/web")
    assert plan([Change(app, app.spec.definition, app.spec.definition)]) == []


async def test_hosts_take_turns_and_lost_ones_are_passed_over():
    hosts = three_hosts()
    app = app_of("/web")
    instance = Instance.of(app.spec, 1)
    assert [choose(hosts, app, instance, turn).name for turn in range(4)] == ["a1", "a2", "a3", "a1"]
    hosts[1].reachable.clear()
    assert choose(hosts, app, instance, 1).name == "a3"


@pytest.mark.parametrize(
    ("constraint", "allowed"),
    [
        (["hostname", "UNIQUE"], {"a2", "a3"}),
        (["hostname", "CLUSTER", "a2"], {"a2"}),
        (["hostname", "CLUSTER"], {"a1"}),
        (["hostname", "LIKE", "a[12]"], {"a1", "a2"}),
        (["hostname", "UNLIKE", "a[12]"], {"a3"}),
        (["hostname", "IS", "a3"], {"a3"}),
        (["hostname", "MAX_PER", "1"], {"a2", "a3"}),
        (["hostname", "GROUP_BY"], {"a1", "a2", "a3"}),
    ],
)
async def test_constraints(constraint, allowed):
    """One instance of the app runs on a1 already."""
    app = app_of("/web", constraints=[constraint])
    settled = Instance.of(app.spec, 1)
    settled.run, settled.condition = Run("t", "a1", "S1", []), Condition.RUNNING
    fresh = Instance.of(app.spec, 2)
    app.instances = {settled.id: settled, fresh.id: fresh}
    assert {choose(three_hosts(), app, fresh, turn).name for turn in range(3)} == allowed


async def test_no_offer_fits_a_taken_port_or_a_lost_pin():
    hosts = three_hosts()
    app = app_of("/web", requirePorts=True, portDefinitions=[{"port": 80}])
    instance = Instance.of(app.spec, 1)
    for host in hosts:
        host.allocate([80])
    assert choose(hosts, app, instance, 0) is None
    instance.pinned_host = "a2"
    assert choose(hosts, app, instance, 0).name == "a2"
    hosts[1].reachable.clear()
    assert choose(hosts, app, instance, 0) is None


async def test_host_ports_are_the_lowest_free_from_31000_and_come_back():
    host = three_hosts()[0]
    assert host.allocate([0, 0]) == [31000, 31001]
    host.release([31000])
    assert host.allocate([0, 8080]) == [31000, 8080]


async def test_a_task_is_told_everything_marathon_tells():
    app = app_of(
        "/shop/web",
        labels={"tier-1": "front"},
        env={"MODE": "fast", "TOKEN": {"secret": "s"}},
        portDefinitions=[{"port": 10080, "name": "http"}, {"port": 0}],
        container={"docker": {"image": "web:1", "parameters": [{"key": "label", "value": "team=a=b"}]}},
        mem=64,
    )
    instance = Instance.of(app.spec, 1)
    started = workload(instance, Run("t1", "a1", "S1", [31000, 31001]), "default")
    assert started.argv == ["/bin/sh", "-c", "serve"]
    assert (started.network, started.image, started.memory_mb) == ("host", "web:1", 64)
    assert started.labels == {"MESOS_TASK_ID": "t1", "team": "a=b"}
    expected = {
        "MESOS_TASK_ID": "t1",
        "MARATHON_APP_ID": "/shop/web",
        "MARATHON_APP_DOCKER_IMAGE": "web:1",
        "MARATHON_APP_LABELS": "TIER_1",
        "MARATHON_APP_LABEL_TIER_1": "front",
        "HOST": "a1",
        "PORT": "31000",
        "PORTS": "31000,31001",
        "PORT0": "31000",
        "PORT1": "31001",
        "PORT_10080": "31000",
        "PORT_HTTP": "31000",
        "MODE": "fast",
    }
    assert expected.items() <= started.env.items()
    assert "TOKEN" not in started.env


async def test_a_task_with_a_network_of_its_own_sees_container_ports():
    app = app_of(
        "/web",
        networks=[{"mode": "container", "name": "none"}],
        container={"portMappings": [{"containerPort": 8080}, {"containerPort": 0, "hostPort": 0}]},
    )
    started = workload(Instance.of(app.spec, 1), Run("t1", "a1", "S1", [31000]), "default")
    assert (started.network, started.env["PORTS"], started.image) == ("none", "8080,31000", "default")


def spec(app_id="/web", **fields):
    version = {"version": "v", "versionInfo": {}}
    return RunSpec({**normalised({"id": app_id, "cmd": "serve", **fields}, None, ()), **version})


def app_of(app_id, **fields):
    return App(spec(app_id, **fields))


def three_hosts():
    return [Host(Agent(f"a{n}", f"10.0.0.{n}", f"S{n}")) for n in (1, 2, 3)]


async def test_a_deployment_that_breaks_lets_its_apps_go():
    class Broken:
        async def scale(self, app, doomed):
            raise RuntimeError("out of order")

    settings = Settings(agents=(Agent("a1", "10.0.0.1", "S1"),), framework_id="f")
    world = World(settings, engine=None)
    deployments = Deployments(world, Broken())
    app = app_of("/web")
    before = app.spec.definition
    stream = world.bus.subscribe(frozenset())
    running = deployments.begin([Change(app, before, {**before, "instances": 2})], "v2")
    await running.task
    assert not deployments.locked("/web")
    assert b'"reason":"out of order"' in await stream.batch(1.0)
