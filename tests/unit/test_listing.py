"""Listings decoded: both generations of replies, one app at a time, and what is no app."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from mooring.controller.listing import (
    AppListing,
    app_steps,
    listed_app_steps,
    read_app,
    read_listed_app,
    read_listed_pod,
)
from mooring.core.errors import Retryable
from mooring.core.model import App, AppId, Health, InstanceId, Port, State
from tests.unit.listings import elements, read_apps, read_pods

DATA = Path(__file__).parents[1] / "data" / "marathon-api"
APPS = (DATA / "v2-apps-embed-tasks.json").read_bytes()
UUID = "5f0f6aab-9c2e-11ea-bb37-7085c2d4e601"
API = AppId("/prod/web/api")


def test_the_sample_listing() -> None:
    apps = read_apps(APPS, 5.0)
    api = apps[API]
    assert api.begun == 5.0
    assert api.app == App(
        id=API,
        instances=3,
        labels={"team": "web", "tier": "frontend", "NETCTL_ENABLE": "true"},
        ports=(Port(8080, 10104, "tcp", "http"), Port(9100, 10105, "tcp", "metrics")),
        checked=True,
        minimum_health=1.0,
        over_capacity=1.0,
        own_network=True,
        version="2020-05-22T13:04:11.482Z",
    )
    first, _, dead = api.instances
    assert (first.id, first.incarnation) == (f"prod_web_api.instance-{UUID.replace('6aab', '1c8a')}", 1)
    assert (first.host, first.state, first.health) == (
        "agent-04.dc1.example.net",
        State.RUNNING,
        Health.HEALTHY,
    )
    assert first.host_ports == (31208, 31209)
    assert (dead.state, dead.incarnation, dead.health, dead.host_ports) == (State.DEAD, 3, Health.UNKNOWN, ())


def test_every_app_of_the_sample_listing_decodes() -> None:
    raw = json.loads(APPS)["apps"]
    apps = read_apps(APPS, 0)
    assert [app["id"] for app in raw] == list(apps)
    assert sum(len(app["tasks"]) for app in raw) == sum(len(listing.instances) for listing in apps.values())


def one(tasks: list[dict[str, object]] | None = None, **fields: object) -> bytes:
    return json.dumps({"app": {"id": "/a", "tasks": tasks, **fields}}).encode()


def task(**fields: object) -> dict[str, object]:
    return {
        "id": f"a.instance-{UUID}._app.1",
        "state": "TASK_RUNNING",
        "stagedAt": "x",
        "host": "h",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "own", "ports"),
    [
        pytest.param({}, False, (), id="nothing"),
        pytest.param({"networks": [{"mode": "host"}]}, False, (), id="host"),
        pytest.param({"networks": [{"mode": "container", "name": "none"}]}, True, (), id="container"),
        pytest.param({"networks": [{"mode": "container/bridge"}]}, True, (), id="bridge"),
        pytest.param({"container": {"docker": {"network": "BRIDGE"}}}, True, (), id="1.4-bridge"),
        pytest.param({"container": {"docker": {"network": "HOST"}}}, False, (), id="1.4-host"),
        pytest.param({"container": {"docker": {"network": "NONE"}}}, True, (), id="1.4-none"),
        pytest.param({"container": {"docker": {"network": None}}}, False, (), id="1.4-unset"),
        pytest.param(
            {"ipAddress": None, "networks": [], "container": {"docker": None, "portMappings": []}},
            False,
            (),
            id="null-and-empty",
        ),
        pytest.param({"ports": [10005, 0]}, False, (Port(None, 10005), Port(None, None)), id="ports-only"),
        pytest.param(
            {"ports": [10005], "portDefinitions": [{"port": 10005, "name": "p"}]},
            False,
            (Port(None, 10005, "tcp", "p"),),
            id="ports-told-twice",
        ),
        pytest.param({"ipAddress": {"networkName": "n"}}, True, (), id="1.4-ip-per-task"),
        pytest.param(
            {"ipAddress": {"discovery": {"ports": [{"number": 80, "name": "http", "protocol": "tcp"}]}}},
            True,
            (Port(80, None, "tcp", "http"),),
            id="1.4-discovery-ports",
        ),
        pytest.param(
            {
                "container": {
                    "docker": {"network": "USER", "portMappings": [{"containerPort": 53, "protocol": "udp"}]}
                }
            },
            True,
            (Port(53, None, "udp"),),
            id="1.4-port-mappings",
        ),
        pytest.param(
            {"networks": [{"mode": "container"}], "container": {"portMappings": [{"containerPort": 0}, {}]}},
            True,
            (Port(None, None), Port(None, None)),
            id="port-chosen-by-marathon",
        ),
        pytest.param(
            {"portDefinitions": [{"port": 10005, "protocol": "tcp", "name": "p"}, {"port": 0}]},
            False,
            (Port(None, 10005, "tcp", "p"), Port(None, None)),
            id="port-definitions",
        ),
    ],
)
def test_networks_and_ports_of_both_generations(
    fields: dict[str, object], own: bool, ports: tuple[Port, ...]
) -> None:
    app = read_app(one(**fields), 0).app
    assert app is not None
    assert (app.own_network, app.ports) == (own, ports)


def test_nulls_of_old_versions() -> None:
    listing = read_app(
        one(
            [task(ports=None, healthCheckResults=None, version=None, host=None)],
            **dict.fromkeys(
                ("labels", "healthChecks", "upgradeStrategy", "container", "ipAddress", "networks")
            ),
            **dict.fromkeys(("portDefinitions", "ports", "version")),
        ),
        0,
    )
    assert listing.app == App(AppId("/a"), 1, {}, own_network=False)
    [instance] = listing.instances
    assert (instance.host_ports, instance.host, instance.version) == ((), None, "")
    empty = read_app(one([], upgradeStrategy={"minimumHealthCapacity": None}), 0)
    assert (empty.app, empty.instances) == (listing.app, ())
    assert read_app(one(None), 0) == empty


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, State.RUNNING),
        ({"state": "TASK_STAGING"}, State.STARTING),
        ({"state": "TASK_KILLING"}, State.KILLING),
        ({"state": "TASK_UNREACHABLE"}, State.UNREACHABLE),
        ({"state": "TASK_UNREACHABLE", "stagedAt": None}, State.INACTIVE),
        ({"state": "TASK_FAILED", "stagedAt": None}, State.DEAD),
        ({"state": None}, State.RUNNING),
        ({"state": "TASK_OF_THE_FUTURE"}, State.UNREACHABLE),
        ({"state": "TASK_OF_THE_FUTURE", "stagedAt": None}, State.UNREACHABLE),
    ],
)
def test_task_states(fields: dict[str, object], state: State) -> None:
    assert read_app(one([task(**fields)]), 0).instances[0].state is state


@pytest.mark.parametrize(
    ("results", "health"),
    [
        ([], Health.UNKNOWN),
        ([{"alive": True}], Health.UNKNOWN),
        ([{"alive": True}, {"alive": True}], Health.HEALTHY),
        ([{"alive": True}, {"alive": False}], Health.UNHEALTHY),
        ([None, {"alive": False}], Health.UNHEALTHY),
        ([None], Health.UNKNOWN),
        ([{"alive": None}, {}], Health.UNKNOWN),
        ([{"alive": True}, {"alive": None}], Health.UNKNOWN),
    ],
)
def test_health_needs_every_check(results: list[object], health: Health) -> None:
    body = one([task(healthCheckResults=results)], healthChecks=[{}, {}])
    assert read_app(body, 0).instances[0].health is health


def test_the_newest_incarnation_of_an_instance_counts() -> None:
    ids = [f"a.instance-{UUID}._app.{n}" for n in (2, 3, 1)]
    [instance] = read_app(one([task(id=id) for id in ids]), 0).instances
    assert instance.incarnation == 3


def test_pods() -> None:
    body = json.dumps([{"id": "/p", "instances": [{"id": f"p.instance-{UUID}"}]}, {"id": "/q"}]).encode()
    assert read_pods(body) == {"/p": {InstanceId(f"p.instance-{UUID}")}, "/q": frozenset()}


NO_APP = [b"", b"{}", b"[]", b"null", b"<html>", b'{"id":7}', b'{"id":""}', b'{"id":"/a","tasks":7}']


@pytest.mark.parametrize("element", NO_APP)
def test_what_is_no_app(element: bytes) -> None:
    with pytest.raises(Retryable, match=r"/v2/apps: .*truncated or not what Marathon sends: "):
        read_listed_app(element, 0)


@pytest.mark.parametrize("element", [*NO_APP[:-1], b'{"id":"/p","instances":[{}]}'])
def test_what_is_no_pod(element: bytes) -> None:
    with pytest.raises(Retryable, match=r"/v2/pods/::status: .*truncated or not what Marathon sends: "):
        read_listed_pod(element)


def test_what_tasks_repeat_is_one_string_for_all() -> None:
    ids = [f"a.instance-{UUID[:-1]}{n}._app.1" for n in range(2)]
    listed = [read_listed_app(element(*(task(id=id, version="v1") for id in ids)), 0) for _ in range(2)]
    instances = [instance for listing in listed for instance in listing.instances]
    assert len(instances) == 4
    for shared in ("app", "host", "version"):
        assert len({id(getattr(instance, shared)) for instance in instances}) == 1


def element(*tasks: dict[str, object], **fields: object) -> bytes:
    return json.dumps({"id": "/a", "tasks": list(tasks), **fields}).encode()


def steps(element: bytes) -> tuple[int, AppListing]:
    """How often the decoding paused, and its result; the same for the app as a reply of its own."""
    pauses, listing = finished(listed_app_steps(element, 5.0))
    again = b'{"app": ' + element + b"}"
    assert finished(app_steps(again, 5.0)) == (pauses, listing)
    assert read_app(again, 5.0) == listing
    return pauses, listing


def finished(running: Generator[None, None, AppListing]) -> tuple[int, AppListing]:
    pauses = 0
    while True:
        try:
            next(running)
        except StopIteration as end:
            return pauses, end.value
        pauses += 1


def test_a_small_app_is_decoded_at_once() -> None:
    for element in elements(APPS, "apps"):
        assert steps(element) == (0, read_listed_app(element, 5.0))


def many(count: int, **fields: object) -> bytes:
    result = [{"alive": True, "consecutiveFailures": 0, "firstSuccess": "2020-05-22T13:04:31.020Z"}]
    ids = [f"a.instance-{n:08x}{UUID[8:]}._app.1" for n in range(count)]
    tasks = [task(id=id, healthCheckResults=result) for id in [*ids, ids[0].replace("_app.1", "_app.2")]]
    return element(*tasks, healthChecks=[{}], labels={"comma": "a,],b"}, **fields)


def test_a_large_app_is_decoded_in_slices() -> None:
    large = many(3000)
    pauses, listing = steps(large)
    assert pauses >= len(large) // (64 * 1024)
    assert listing == read_listed_app(large, 5.0)
    assert len(listing.instances) == 3000
    assert (listing.instances[0].incarnation, listing.instances[0].health) == (2, Health.HEALTHY)


@pytest.mark.parametrize("tasks", ["null", "[]", None])
def test_a_large_app_without_tasks(tasks: str | None) -> None:
    rest = "" if tasks is None else f', "tasks": {tasks}'
    large = f'{{"id": "/a", "labels": {{"long": "{"x" * 300_000}"}}{rest}}}'.encode()
    assert steps(large)[1] == read_listed_app(large, 5.0)


LARGE = many(2000)


@pytest.mark.parametrize(
    "large",
    [
        pytest.param(LARGE[:-1], id="truncated"),
        pytest.param(LARGE.replace(b'"TASK_RUNNING"', b"7", 1), id="wrong-type"),
        pytest.param(LARGE.replace(b'"state"', b"state", 1), id="not-json"),
        pytest.param(element(labels={"long": "x" * 300_000}, tasks={"a": 1}), id="tasks-are-an-object"),
        pytest.param(element(labels={"long": "x" * 300_000}, tasks=7), id="tasks-are-a-number"),
        pytest.param(many(2000, id=7), id="no-id"),
    ],
)
def test_a_large_element_that_is_no_app(large: bytes) -> None:
    with pytest.raises(Retryable, match="/v2/apps: "):
        finished(listed_app_steps(large, 5.0))
    with pytest.raises(Retryable, match="/v2/apps: "):
        read_listed_app(large, 5.0)
    with pytest.raises(Retryable, match="/v2/apps/<id>: "):
        finished(app_steps(b'{"app": ' + large + b"}", 5.0))
